"""`exchange node`: run a participant's node, and its holder's desk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from api.backup import restore as restore_backup
from api.backup import save as save_backup
from api.cli import lookups, sources, standing
from api.cli.desk import PATIENCE_S, TimeoutOption, answered, opened, settings_hint
from api.cli.explain_view import job_document, job_text, plan_tree
from api.cli.output import Exit, answer, progress
from api.cli.output import show as show_text
from api.cli.speech import Commands, common, name_of, say
from api.cli.tables import facts, lines, table, together
from api.cli.views import named, party_names, show_job
from api.folder import FolderBusy, PartyFolder
from api.settings import NodeSettings
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from crypto.record import encode_time
from exchange.errors import ExchangeError, HubUnreachable, UnknownSubject
from exchange.jobs import FINAL
from exchange.node import asking
from exchange.node import trust as trusting
from exchange.node.model import Alarm, Decision, NodeJob
from exchange.node.ports import Documents, NodeTransaction
from registry.errors import RegistryError

LISTED: Final = 20

app = Commands("node", no_args_is_help=False, invoke_without_command=True)
app.add_typer(sources.app, name="source")
app.add_typer(standing.app, name="standing")
app.add_typer(lookups.app, name="lookup")

JobArgument = Annotated[str, typer.Argument(metavar="JOB")]


@app.callback()
def run(ctx: typer.Context) -> None:
    if ctx.invoked_subcommand is not None:
        return
    from api.wiring.logs import configure_logs
    from api.wiring.node import run_node

    configure_logs()
    raise typer.Exit(run_node(NodeSettings.load(common().settings)))


# What waits, and what is asked


def _on_or_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise typer.BadParameter("on | off")
    return text == "on"


@app.act("jobs", "node.jobs")
def jobs(
    everything: Annotated[bool, typer.Option("--all", help="all_jobs")] = False,
) -> None:
    with opened() as node, node.store.reading() as tx:
        found = [
            job
            for job in tx.jobs()
            if job.consumer != node.identity.party and (everything or job.state not in FINAL)
        ]
        names = party_names({job.consumer for job in found}, tx)
    answer(
        {"jobs": [listed_job(job, names) for job in found]},
        jobs_table(found, names),
        as_json=common().as_json,
    )


@app.act("show", "node.show")
def show(job: JobArgument) -> None:
    with opened() as node:
        shown = show_job(JobId.parse(job, where="JOB"), node)
        own = node.identity.party
    answer(job_document(shown), job_text(shown, own), as_json=common().as_json)


@app.act("approve", "node.approve")
def approve(job: JobArgument, timeout_s: TimeoutOption = PATIENCE_S) -> None:
    number = JobId.parse(job, where="JOB")
    with opened() as node:
        if not common().as_json:  # nobody should have to say yes to what was not put before them
            show_text(plan_tree(show_job(number, node)), on=progress())
        node.desk.approve(number)
        answered(node, "job.admitted", number, timeout_s=timeout_s)
    answer(
        {"job": number, "decision": Decision.ADMITTED.value},
        lines(say("node.approved", job=number)),
        as_json=common().as_json,
    )


@app.act("refuse", "node.refuse")
def refuse(
    job: JobArgument,
    reason: Annotated[str, typer.Option(help="reason")],
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    number = JobId.parse(job, where="JOB")
    with opened() as node:
        node.desk.refuse(number, reason)
        answered(node, "job.refused", number, timeout_s=timeout_s)
    answer(
        {"job": number, "decision": Decision.REFUSED.value, "reason": reason},
        lines(say("node.refused", job=number)),
        as_json=common().as_json,
    )


@app.act("egress", "node.egress")
def egress(job: JobArgument) -> None:
    number = JobId.parse(job, where="JOB")
    with opened() as node, node.store.reading() as tx:
        if tx.job(number) is None:
            raise UnknownSubject(number)
        streams = tx.egress(number)
        names = party_names({stream.receiver for stream in streams}, tx)
    answer(
        {
            "job": number,
            "total_bytes": sum(stream.size_bytes for stream in streams),
            "streams": [
                {
                    "receiver": stream.receiver,
                    "receiver_name": names.get(stream.receiver),
                    "size_bytes": stream.size_bytes,
                    "digest": str(stream.digest),
                    "why": stream.purpose,
                }
                for stream in streams
            ],
        },
        table(
            ["receiver", "size_bytes", "why", "digest"],
            [(named(s.receiver, names), f"{s.size_bytes:,}", s.purpose, s.digest) for s in streams],
        ),
        as_json=common().as_json,
    )


@app.act("snapshot", "node.snapshot")
def snapshot(job: JobArgument) -> None:
    # Here, because runs load numpy, and whoever asks for help should not wait for that.
    from exchange.node.runs import kept_snapshot

    number = JobId.parse(job, where="JOB")
    with opened() as node, node.store.reading() as tx:
        kept = kept_snapshot(number, tx)
    shown = {
        "job": number,
        "snapshot": str(kept.snapshot),
        "secret": kept.secret.hex(),
        "committed": kept.value.hex(),
    }
    answer(shown, facts(list(shown.items())), as_json=common().as_json)


@app.act("pause", "node.pause")
def pause() -> None:
    _pause(True)


@app.act("resume", "node.resume")
def resume() -> None:
    _pause(False)


def _pause(paused: bool) -> None:
    with opened() as node:
        node.desk.pause(paused)
    words = say("node.paused") if paused else say("node.resumed")
    answer({"paused": paused}, lines(words), as_json=common().as_json)


@app.act("help-with", "node.help-with")
def help_with(
    willing: Annotated[bool, typer.Argument(metavar="on|off", parser=_on_or_off)],
) -> None:
    """As helper: take part in every job whose plan names this party, or ask a person first."""
    with opened() as node:
        node.desk.help_unasked(willing)
    words = say("node.helps") if willing else say("node.helps_asked")
    answer({"helps_unasked": willing}, lines(words), as_json=common().as_json)


# Whom to believe, and what went wrong


@app.act("trust", "node.trust")
def trust(
    party: Annotated[str, typer.Argument(metavar="PARTY")],
    fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT")],
) -> None:
    number = PartyId.parse(party, where="PARTY")
    confirmed = checked_fingerprint(number, fingerprint)
    with opened() as node:
        with node.store.transaction() as tx:
            tx.trust(number, confirmed, node.identity.clock.now())
        name = _name(number, node)
    answer(
        {"party": number, "name": name, "fingerprint": confirmed},
        lines(say("node.trusted", party=number if name is None else f"{name} ({number})")),
        as_json=common().as_json,
    )


def checked_fingerprint(party: PartyId, text: str) -> str:
    """64 hexadecimal digits, however they are grouped. Raises Malformed.

    A party is named after the first half of its fingerprint, so one of somebody else's shows.
    """
    digits = "".join(text.split()).replace("-", "").lower()
    if len(digits) != 64 or any(digit not in "0123456789abcdef" for digit in digits):
        raise Malformed("FINGERPRINT", say("node.not_a_fingerprint"))
    if digits[:32] != party.removeprefix("pty_"):
        raise Malformed("FINGERPRINT", say("node.other_fingerprint", party=party))
    return "-".join(digits[i : i + 4] for i in range(0, 64, 4))


def _name(party: PartyId, node: Any) -> str | None:
    """As the party's own document says, if it can be had now."""

    def step(tx: NodeTransaction, hub: Documents) -> str:
        return str(trusting.newest(party, tx=tx, hub=hub, identity=node.identity).document.name)

    with suppress(ExchangeError, RegistryError):
        return asking.transact(step, store=node.store, hub=node.hub)
    return None


@app.act("alarms", "node.alarms")
def alarms() -> None:
    with opened() as node, node.store.reading() as tx:
        found = tx.alarms()
    answer(
        {"alarms": [_alarm(alarm) for alarm in found]},
        table(["time", "kind", "words"], [(encode_time(a.at), a.kind, a.words) for a in found]),
        as_json=common().as_json,
    )


def _alarm(alarm: Alarm) -> dict[str, str]:
    return {"at": encode_time(alarm.at), "kind": alarm.kind, "words": alarm.words}


@app.act("status", "node.status")
def status() -> None:
    with opened() as node:
        hub = _hub_problem(node)
        runs = not _is_free(node.folder)
        with node.store.reading() as tx:
            backlog, ineffective = tx.backlog(), tx.not_applied(LISTED)
            alarms, paused = tx.alarms(), bool(tx.remark("paused"))
            open_jobs = [job for job in tx.jobs() if job.state not in FINAL]
        party = node.identity.party
    answer(
        {
            "party": party,
            "node_running": runs,
            "hub_reachable": hub is None,
            "hub_problem": hub,
            "unsent": backlog.unsent,
            "unproven": backlog.unproven,
            "paused": paused,
            "alarms": [_alarm(alarm) for alarm in alarms],
            "jobs": {job.id: job.state.value for job in open_jobs},
            "without_effect": [
                {"kind": sent.kind, "subject": sent.subject, "reason": sent.reason}
                for sent in ineffective
            ],
        },
        together(
            facts(
                [
                    ("party", party),
                    ("node", say("node.runs") if runs else say("node.stopped")),
                    ("hub", say("hub.reachable") if hub is None else hub),
                    ("unsent", backlog.unsent),
                    ("unproven", backlog.unproven),
                    ("paused", say("yes") if paused else say("no")),
                    ("alarms", len(alarms)),
                ]
            ),
            table(
                ["job", "state"],
                [(job.id, name_of("state", job.state.value)) for job in open_jobs],
            ),
            *(
                lines(say("node.without_effect", kind=s.kind, subject=s.subject, reason=s.reason))
                for s in ineffective
            ),
        ),
        as_json=common().as_json,
    )


def _hub_problem(node: Any) -> str | None:
    try:
        node.hub.checkpoint()
    except HubUnreachable as error:
        return str(error)
    return None


def _is_free(folder: PartyFolder) -> bool:
    try:
        with folder.alone():
            return True
    except FolderBusy:
        return False


# The folder as a whole


@app.act("rotate", "node.rotate")
def rotate() -> None:
    from api.rotation import rotate as rotate_keys

    console = progress()
    after = rotate_keys(
        NodeSettings.load(common().settings),
        telling=lambda step: console.print(say(f"rotate.{step}")),
    )
    answer(
        {
            "party": after.document.party,
            "seq": after.document.seq,
            "document": str(after.digest),
            "signing": str(after.document.signing),
            "sealing": str(after.document.sealing),
        },
        lines(say("rotate.done", seq=after.document.seq, settings=settings_hint())),
        as_json=common().as_json,
    )


@app.act("backup", "node.backup")
def backup(target: Annotated[Path, typer.Argument(metavar="NEW_FILE")]) -> None:
    settings = NodeSettings.load(common().settings)
    saved = save_backup(settings.folder, target)
    elsewhere = settings.database_url is not None and not saved.with_database
    if elsewhere:
        progress().print(say("backup.elsewhere"), style="yellow")
    answer(
        {"file": str(target), "files": list(saved.files), "with_database": saved.with_database},
        lines(say("backup.done", count=len(saved.files), file=target)),
        as_json=common().as_json,
    )


@app.act("restore", "node.restore", plain=True)
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER")],
) -> None:
    saved = restore_backup(source, folder)
    answer(
        {
            "folder": str(folder),
            "files": list(saved.files),
            "with_database": saved.with_database,
        },
        lines(
            say("restore.done", count=len(saved.files), folder=folder),
            *([] if saved.with_database else [say("restore.elsewhere")]),
        ),
        as_json=common().as_json,
    )


def listed_job(job: NodeJob, names: dict[str, str]) -> dict[str, Any]:
    return {
        "id": job.id,
        "deal": job.deal,
        "consumer": job.consumer,
        "consumer_name": names.get(job.consumer),
        "state": job.state.value,
        "decision": job.decision.value,
        "escrow": job.held is not None,
        "reason": job.reason,
        "run_by": encode_time(job.run_by),
        "updated_at": encode_time(job.updated_at),
    }


def jobs_table(found: Sequence[NodeJob], names: dict[str, str]) -> Any:
    return table(
        ["job", "consumer", "state", "decision", "run_by", "reason"],
        [
            (
                job.id,
                named(job.consumer, names),
                name_of("state", job.state.value),
                name_of("decision", job.decision.value),
                when(job.run_by),
                job.reason,
            )
            for job in found
        ],
    )


def when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


__all__ = ["Exit", "app"]
