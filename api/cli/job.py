"""`exchange job`: ask a question of data that stays where it is, and read the answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.answer_files import columns, table_lines, write_csv
from api.cli import desk
from api.cli.answer_view import answer_document, answer_text
from api.cli.desk import (
    PATIENCE_S,
    RefusedByHub,
    TimeoutOption,
    answered,
    opened,
    until,
)
from api.cli.explain_view import job_document, job_text, plan_document, plan_tree
from api.cli.node import JobArgument, listed_job, when
from api.cli.output import Exit, answer, person, print_json, progress
from api.cli.output import show as show_text
from api.cli.speech import Commands, common, name_of, say
from api.cli.tables import lines, table, together
from api.cli.views import Shown, party_names, show_job, show_plan
from api.files.asked import read_keys, read_rows
from api.files.question import question_of
from api.files.reading import naming
from crypto.identifiers import DealId, JobId, ProductId
from crypto.record import encode_time
from exchange.errors import HubUnreachable, PlanRefused, QuestionRefused, UnknownSubject
from exchange.jobs import FINAL, JobState
from exchange.node.model import NodeJob
from exchange.query.plan import Plan
from exchange.query.requests import Request

if TYPE_CHECKING:
    from api.wiring.node import Opened

app = Commands("job", no_args_is_help=True)

DealArgument = Annotated[str, typer.Argument(metavar="DEAL")]
DealOrJobArgument = Annotated[str, typer.Argument(metavar="DEAL_OR_JOB")]
QuestionArgument = Annotated[Path | None, typer.Argument(metavar="QUESTION")]
SqlOption = Annotated[str | None, typer.Option("--sql", metavar="QUERY", help="sql")]
TableOption = Annotated[
    list[str] | None, typer.Option("--table", metavar="NAME=PRODUCT", help="table")
]
PurposeOption = Annotated[str | None, typer.Option("--purpose", help="question.purpose")]
JoinOption = Annotated[str | None, typer.Option("--join", help="join")]
MinGroupOption = Annotated[int | None, typer.Option("--min-group", help="question.min_group")]
EpsilonOption = Annotated[str | None, typer.Option("--epsilon", help="question.epsilon")]
DeltaOption = Annotated[str | None, typer.Option("--delta", help="question.delta")]
NoiseOption = Annotated[str | None, typer.Option("--noise", help="noise")]
HideSizeOption = Annotated[bool, typer.Option("--hide-size", help="hide_size")]
ProductOption = Annotated[str, typer.Option("--product", metavar="PRODUCT", help="product")]
RequestPurposeOption = Annotated[str, typer.Option("--purpose", help="request.purpose")]
BatchOption = Annotated[int | None, typer.Option("--batch", min=1, metavar="N", help="batch")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="yes")]


@app.act("explain", "job.explain")
def explain(
    subject: DealOrJobArgument,
    question: QuestionArgument = None,
    sql: SqlOption = None,
    table: TableOption = None,
    purpose: PurposeOption = None,
    join: JoinOption = None,
    min_group: MinGroupOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    noise: NoiseOption = None,
    hide_size: HideSizeOption = False,
) -> None:
    with opened() as node:
        if subject.startswith(JobId.prefix):
            shown = show_job(JobId.parse(subject, where="JOB"), node)
        else:
            asked = question_of(
                question,
                sql=sql,
                tables=table,
                purpose=purpose,
                join=join,
                min_group=min_group,
                epsilon=epsilon,
                delta=delta,
                noise=noise,
                hide_size=hide_size,
            )
            plan = node.desk.compile(DealId.parse(subject, where="DEAL"), asked)
            shown = show_plan(plan, node)
    answer(plan_document(shown), plan_tree(shown), as_json=common().as_json)


@app.act("submit", "job.submit")
def submit(
    deal: DealArgument,
    question: QuestionArgument = None,
    sql: SqlOption = None,
    table: TableOption = None,
    purpose: PurposeOption = None,
    join: JoinOption = None,
    min_group: MinGroupOption = None,
    epsilon: EpsilonOption = None,
    delta: DeltaOption = None,
    noise: NoiseOption = None,
    hide_size: HideSizeOption = False,
    yes: YesOption = False,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    asked = question_of(
        question,
        sql=sql,
        tables=table,
        purpose=purpose,
        join=join,
        min_group=min_group,
        epsilon=epsilon,
        delta=delta,
        noise=noise,
        hide_size=hide_size,
    )
    with opened() as node:
        plan = node.desk.compile(DealId.parse(deal, where="DEAL"), asked)
        _submit(plan, node, yes=yes, timeout_s=timeout_s)


@app.act("score", "job.score")
def score(
    deal: DealArgument,
    product: ProductOption,
    purpose: RequestPurposeOption,
    rows: Annotated[Path, typer.Option("--rows", metavar="CSV", help="rows")],
    name: Annotated[str | None, typer.Option("--name", metavar="COLUMN", help="row_name")] = None,
    batch: BatchOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    number = ProductId.parse(product, where="--product")
    with opened() as node:
        from exchange.node import requests

        listed = node.desk.product(DealId.parse(deal, where="DEAL"), number)
        if listed.model is None:
            raise QuestionRefused("product", f"{listed.name} is not a model")
        asked = read_rows(rows, [f.name for f in listed.model.shape.features], name=name)
        request = Request(number, purpose, len(asked.names), batch)
        plan = node.desk.compile_request(DealId.parse(deal, where="DEAL"), request)
        _confirm(plan, node, yes=yes)
        requests.ask_rows(plan, listed, asked.names, asked.values, node.shelf)
        _submit(plan, node, yes=True, timeout_s=timeout_s)


@app.act("lookup", "job.lookup")
def lookup(
    deal: DealArgument,
    product: ProductOption,
    purpose: RequestPurposeOption,
    keys: Annotated[Path, typer.Option("--keys", metavar="FILE", help="keys")],
    batch: BatchOption = None,
    yes: YesOption = False,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    number = ProductId.parse(product, where="--product")
    asked = read_keys(keys)
    with opened() as node:
        from exchange.node import requests

        listed = node.desk.product(DealId.parse(deal, where="DEAL"), number)
        request = Request(number, purpose, len(asked), batch)
        plan = node.desk.compile_request(DealId.parse(deal, where="DEAL"), request)
        with naming(keys):
            requests.canonical_keys(asked, listed)
        _confirm(plan, node, yes=yes)
        requests.ask_keys(plan, listed, asked, node.shelf)
        _submit(plan, node, yes=True, timeout_s=timeout_s)


@app.act("rerun", "job.rerun")
def rerun(job: JobArgument, yes: YesOption = False, timeout_s: TimeoutOption = PATIENCE_S) -> None:
    with opened() as node:
        plan = node.desk.recompile(JobId.parse(job, where="JOB"))
        _submit(plan, node, yes=yes, timeout_s=timeout_s)


def _confirm(plan: Plan, node: Opened, *, yes: bool) -> Shown:
    shown = show_plan(plan, node)
    if not yes:
        show_text(plan_tree(shown), on=progress())
        typer.confirm(say("job.confirm"), abort=True, err=True)
    return shown


def _submit(plan: Plan, node: Opened, *, yes: bool, timeout_s: float) -> None:
    """Show what will be paid and learned, ask, sign, and wait until the price is in escrow."""
    shown = _confirm(plan, node, yes=yes)
    number = node.desk.submit(plan)
    answered(node, "job.submitted", number, timeout_s=timeout_s)
    after = until(lambda: _reserved(number, node), say("wait.escrow"), timeout_s=timeout_s)
    if after.held is None and after.state in FINAL:
        raise RefusedByHub("job.submitted", after.reason)
    answer(
        {
            "job": number,
            "deal": plan.deal,
            "state": after.state.value,
            "plan": plan_document(shown),
        },
        lines(say("job.submitted", job=number)),
        as_json=common().as_json,
    )


def _reserved(number: JobId, node: Opened) -> NodeJob | None:
    job = _job(number, node)
    return job if job.held is not None or job.state in FINAL else None


@app.act("list", "job.list")
def list_() -> None:
    with opened() as node, node.store.reading() as tx:
        found = [job for job in tx.jobs() if job.consumer == node.identity.party]
        names = party_names({job.consumer for job in found}, tx)
    answer(
        {"jobs": [listed_job(job, names) for job in found]},
        table(
            ["job", "deal", "state", "run_by", "reason"],
            [
                (job.id, job.deal, name_of("state", job.state.value), when(job.run_by), job.reason)
                for job in found
            ],
        ),
        as_json=common().as_json,
    )


@app.act("show", "job.show")
def show(job: JobArgument) -> None:
    with opened() as node:
        shown = show_job(JobId.parse(job, where="JOB"), node)
        own = node.identity.party
    answer(job_document(shown), job_text(shown, own), as_json=common().as_json)


@app.act("cancel", "job.cancel")
def cancel(job: JobArgument, timeout_s: TimeoutOption = PATIENCE_S) -> None:
    number = JobId.parse(job, where="JOB")
    with opened() as node:
        node.desk.cancel(number)
        answered(node, "job.cancelled", number, timeout_s=timeout_s)
    answer(
        {"job": number, "state": JobState.CANCELLED.value},
        lines(say("job.cancelled", job=number)),
        as_json=common().as_json,
    )


# Watching


@app.act("watch", "job.watch")
def watch(
    job: JobArgument,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="watch.timeout")
    ] = 3600.0,
) -> None:
    number = JobId.parse(job, where="JOB")
    with opened() as node:
        _job(number, node)
        with node.store.reading() as tx:
            names = party_names(list(_parties(number, node)), tx)
        seen = []
        with progress().status(say("job.watching", job=number)):
            for step in _steps(number, node):
                seen.append(step)
                if common().as_json:
                    continue
                who = names.get(step["party"], step["party"])
                told = [step["at"], name_of("stage", step["stage"]), who, step["detail"]]
                person().print(lines("  ".join(part for part in told if part)))
        after = until(
            lambda: _ended(number, node), say("job.watching", job=number), timeout_s=timeout_s
        )
    document = {
        "job": number,
        "state": after.state.value,
        "reason": after.reason,
        "steps": seen,
    }
    if common().as_json:
        print_json(document)
    else:
        ending = say("job.ended", job=number, state=name_of("state", after.state.value))
        person().print(lines(ending, *([after.reason] if after.reason else [])))
    if after.state is not JobState.RELEASED:
        raise typer.Exit(Exit.REFUSED if after.state is JobState.REFUSED else Exit.FAILED)


def _steps(number: JobId, node: Opened) -> Iterator[dict[str, str]]:
    """What the hub tells of the job as it happens; without the hub, what this node records."""
    try:
        for event in node.hub.job_events(number):
            note = event.note
            yield {
                "at": encode_time(note.at),
                "stage": note.stage,
                "party": str(note.party),
                "detail": note.detail,
            }
    except (HubUnreachable, UnknownSubject) as error:
        progress().print(lines(say("job.no_stream", reason=error)))
        yield from _recorded(number, node)


def _recorded(number: JobId, node: Opened) -> Iterator[dict[str, str]]:
    before = None
    while before is None or before.state not in FINAL:
        job = _job(number, node)
        if before is None or job.state is not before.state:
            yield {
                "at": encode_time(job.updated_at),
                "stage": job.state.value.lower(),
                "party": node.identity.party,
                "detail": job.reason,
            }
            before = job
        else:
            desk.pause()


def _ended(number: JobId, node: Opened) -> NodeJob | None:
    """Once nothing more is expected of it here: for a released job, once it was opened."""
    job = _job(number, node)
    if job.state not in FINAL:
        return None
    if job.state is JobState.RELEASED and job.consumer == node.identity.party:
        from exchange.node import receiving  # numbers, which --help does without

        return job if receiving.is_dealt_with(number, node.store) else None
    return job


def _job(number: JobId, node: Opened) -> NodeJob:
    with node.store.reading() as tx:
        job = tx.job(number)
    if job is None:
        raise UnknownSubject(number)
    return job


def _parties(number: JobId, node: Opened) -> Iterator[Any]:
    plan = node.desk.plan(number)
    yield from (plan.consumer, plan.operator, *plan.engine_parties)


# The answer


@app.act("result", "job.result")
def result(
    job: JobArgument,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="result.csv")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="FILE", help="result.parquet")] = None,
) -> None:
    number = JobId.parse(job, where="JOB")
    from exchange.node import receiving

    with opened() as node:
        state = _job(number, node)
        if state.state in FINAL and state.state is not JobState.RELEASED:
            raise PlanRefused("result", say("result.none", job=number, reason=state.reason))
        found = receiving.answer(number, node.store)
    files = []
    if csv is not None:
        write_csv(found, csv)
        files.append(csv)
    if parquet is not None:
        from exchange.node.adapters.answer_parquet import write_parquet

        write_parquet(columns(found), table_lines(found), parquet)
        files.append(parquet)
    answer(
        answer_document(found, [str(file) for file in files]),
        together(answer_text(found), lines(*(say("result.written", file=file) for file in files))),
        as_json=common().as_json,
    )
