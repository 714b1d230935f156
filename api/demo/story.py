"""The demonstration's story: each stage does what its roles would do by command, and tells it.

It acts through the same functions as the commands, each on its own participant's folder; the
processes themselves are the real ones, started by their own commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, TypeVar

from api.demo import data, deal
from api.demo.setting import Exchange, Participant
from api.demo.teller import Teller
from api.hub.bodies import AnchorBody
from crypto.identifiers import DealId, JobId, NegotiationId, PartyId
from crypto.noise import slack
from crypto.record import Rational
from exchange.approval import StandingApproval
from exchange.audit.deal import audit_deal
from exchange.audit.voices import VOICES
from exchange.audit.whole import audit_whole_log, open_documents
from exchange.jobs import FINAL, JobState
from exchange.node import approving, receiving, registering
from exchange.node.model import NodeJob
from exchange.query.explanation import Language, learns
from exchange.query.plan import Plan
from exchange.results import Answer, Figure
from exchange.terms.negotiation import State
from ledger.ports import AnchorState
from ledger.verify.anchor import Asked, HttpRpc, audit_anchor
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.log import open_source
from ledger.verify.note import Note
from ledger.verify.report import Report
from ledger.verify.tile_names import CHECKPOINT
from registry.product import DataProduct
from registry.source import FileFormat, FileSource

PATIENCE_S: Final = 45.0
STAGES: Final = (
    "keys",
    "processes",
    "register",
    "list",
    "negotiate",
    "job",
    "answer",
    "second_job",
    "second_answer",
    "money",
    "anchor",
    "audit",
    "learned",
)
FUNDS: Final = 10_000_00  # for more questions of whoever keeps it running
T = TypeVar("T")


class DemoFailed(Exception):
    """Something that the demonstration waited for did not happen."""


@dataclass
class Story:
    """One run of the demonstration. `document` is what --json prints."""

    exchange: Exchange
    teller: Teller
    elapsed_s: dict[str, float] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.teller.stage(f"stage.{name}", len(self.elapsed_s) + 1)
        begun = time.perf_counter()
        yield
        self.elapsed_s[name] = round(time.perf_counter() - begun, 3)

    def tell(self) -> bool:
        """All of it. Returns whether the answers are equal and the audit has no failure."""
        number, clinic, laboratory = self.prepare()
        with self.stage("job"):
            plan = self._run(number, clinic, laboratory)
        with self.stage("answer"):
            matched = self._answer(plan)
        with self.stage("second_job"):
            second = self._ask_for_correlation(number, clinic, laboratory)
        with self.stage("second_answer"):
            near = self._answer_correlation(second)
        with self.stage("money"):
            self._money(plan)
        with self.stage("anchor"):
            self._anchor()
        with self.stage("audit"):
            report = self._audit(number)
            ledger_good = self._audit_ledger()
        with self.stage("learned"):
            self._learned(plan, second)
        total = sum(self.elapsed_s[name] for name in STAGES)
        self.document["elapsed_s"] = {**self.elapsed_s, "total": round(total, 3)}
        return matched and near and not report.failed and ledger_good

    def prepare(self) -> tuple[DealId, DataProduct, DataProduct]:
        """Everything before the first job: the deal with both holders stands."""
        exchange, teller = self.exchange, self.teller
        with self.stage("keys"):
            exchange.make_folders()
        with self.stage("processes"):
            exchange.start()
            for name, process in exchange.processes.items():
                teller.say("process", name=name, pid=process.pid)
            if exchange.anchored is not None:
                ready = exchange.anchored.process.ready
                teller.say("chain", chain=ready["chain_id"], client=ready["client"])
        with self.stage("register"):
            for participant in exchange.participants.values():
                participant.register()
            for participant in exchange.participants.values():
                self._until(participant.all_sent, f"{participant.name} is registered")
        with self.stage("list"):
            clinic, laboratory = self._list()
        with self.stage("negotiate"):
            number = self._negotiate(clinic, laboratory)
        self.document["products"] = {"clinic": clinic.id, "laboratory": laboratory.id}
        return number, clinic, laboratory

    def approve_by_standing(self, name: str, product: DataProduct) -> None:
        """A holder admits this consumer's jobs without being asked each time."""
        holder = self.exchange.participants[name].opened
        now = holder.identity.clock.now()
        approval = StandingApproval(
            product.id,
            (self.exchange.participants["company"].id,),
            (deal.PURPOSE,),
            data.MIN_GROUP,
            100,
            deal.month_after(now),
        )
        with holder.store.transaction() as tx:
            approving.approve(approval, tx=tx, identity=holder.identity)

    def job(self, number: DealId, clinic: DataProduct, laboratory: DataProduct) -> Plan:
        """One job, from submission to the opened answer, admitted by standing approvals."""
        company = self.exchange.participants["company"]
        plan = company.opened.desk.compile(number, deal.question(clinic.id, laboratory.id))
        company.opened.desk.submit(plan)
        self._finish(company, plan.job)
        return plan

    def _finish(self, company: Participant, job: JobId) -> None:
        found = self._until(lambda: self._ended(company, job), "the job has ended")
        if found.state is not JobState.RELEASED:
            raise DemoFailed(f"the job ended as {found.state}: {found.reason}")
        self._until(lambda: company.has_answer(job), "the result is opened")

    # Listing

    def _list(self) -> tuple[DataProduct, DataProduct]:
        exchange = self.exchange
        clinic_file = exchange.folder / "clinic" / "patients.csv"
        laboratory_file = exchange.folder / "laboratory" / "sera.parquet"
        held = data.write_files(clinic_file, laboratory_file)
        self.teller.say("data", clinic=held[0], laboratory=held[1])
        found = []
        for name, make, path, kind in (
            ("clinic", deal.clinic_product, clinic_file, FileFormat.CSV),
            ("laboratory", deal.laboratory_product, laboratory_file, FileFormat.PARQUET),
        ):
            holder = exchange.participants[name]
            identity = holder.opened.identity
            party = holder.opened.folder.party
            product = make(party, identity.clock.now(), identity.randomness)
            registering.list_product(product, store=holder.opened.store, identity=identity)
            with holder.opened.store.transaction() as tx:
                tx.save_source(product.id, path.name, FileSource(str(path), kind))
            self._until(holder.all_sent, f"{name} has listed its product")
            self.teller.say(
                "listed",
                name=holder.title,
                product=product.name,
                price=_money(product.price_minor),
                currency=product.currency,
            )
            found.append(product)
        return found[0], found[1]

    # Negotiation

    def _negotiate(self, clinic: DataProduct, laboratory: DataProduct) -> DealId:
        exchange = self.exchange
        company = exchange.participants["company"]
        identity = company.opened.identity
        regulator = exchange.participants["regulator"].opened.folder.party
        number = DealId.new(identity.clock.now(), identity.randomness)
        begun = {}
        for product, other in ((clinic, laboratory), (laboratory, clinic)):
            terms = deal.terms(
                product,
                registering.product_digest(product),
                other=other,
                regulator=regulator,
                helper=exchange.participants["helper"].id,
                now=identity.clock.now(),
            )
            begun[product.id] = company.opened.negotiations.request(number, product.holder, terms)
        asked = begun[laboratory.id].id
        self.teller.say("asked", price=_money(deal.LABORATORY_LISTED))
        holder = exchange.participants["laboratory"]
        self._reached(holder, asked, State.REQUESTED)
        offer = deal.dearer(holder.terms_of(asked))
        holder.opened.negotiations.counter(asked, offer)
        self.teller.say("countered", price=_money(offer.price_minor))
        self._reached(company, asked, State.OFFERED)
        company.opened.negotiations.accept(asked)
        self._reached(holder, asked, State.ACCEPTED)
        holder.opened.negotiations.agree(asked)
        wanted = begun[clinic.id].id
        self._reached(exchange.participants["clinic"], wanted, State.REQUESTED)
        exchange.participants["clinic"].opened.negotiations.agree(wanted)
        for done, words in ((asked, "accepted"), (wanted, "agreed")):
            self._reached(company, done, State.FINALIZED)
            self.teller.say(words, agreement=company.agreement_of(done))
        exchange.fund("company", FUNDS)
        self.teller.say("funded", amount=_money(FUNDS))
        return number

    # The job

    def _run(self, number: DealId, clinic: DataProduct, laboratory: DataProduct) -> Plan:
        exchange, teller = self.exchange, self.teller
        company = exchange.participants["company"]
        approver = exchange.participants["laboratory"]
        self.approve_by_standing("clinic", clinic)
        exchange.participants["helper"].opened.desk.help_unasked(True)
        teller.say("standing")
        teller.say("question", min_group=data.MIN_GROUP)
        desk = company.opened.desk
        plan = desk.compile(number, deal.question(clinic.id, laboratory.id))
        job = desk.submit(plan)
        self.document |= {"deal": number, "job": job}
        self._until(lambda: approver.waits_for_approval(job), "the laboratory has heard of it")
        teller.say("learns")
        teller.table(
            ("column.party", "column.learned"),
            [
                (exchange.title(PartyId(party)), words)
                for party, words in learns(plan, Language(teller.language)).items()
            ],
        )
        approver.opened.desk.approve(job)
        teller.say("approved")
        begun = time.perf_counter()
        company.follow(
            job,
            lambda stage, party: teller.progress(stage, exchange.title(party)),
            lambda: self._ended(company, job),
            PATIENCE_S,
        )
        self._finish(company, job)
        self.elapsed_s["job_after_approval"] = round(time.perf_counter() - begun, 3)
        return plan

    def _ask_for_correlation(
        self, number: DealId, clinic: DataProduct, laboratory: DataProduct
    ) -> Plan:
        """The second question: three parties compute, and nobody learns who matched."""
        exchange, teller = self.exchange, self.teller
        company = exchange.participants["company"]
        self.approve_by_standing("laboratory", laboratory)
        desk = company.opened.desk
        plan = desk.compile(number, deal.correlation(clinic.id, laboratory.id))
        teller.say("second", epsilon=plan.epsilon)
        job = desk.submit(plan)
        self.document["second_job"] = job
        self._until(company.all_sent, "the hub has heard of the second job")
        begun = time.perf_counter()
        company.follow(
            job,
            lambda stage, party: teller.progress(stage, exchange.title(party)),
            lambda: self._ended(company, job),
            PATIENCE_S,
        )
        self._finish(company, job)
        self.elapsed_s["second_job_alone"] = round(time.perf_counter() - begun, 3)
        return plan

    def _answer_correlation(self, plan: Plan) -> bool:
        """Beside the truth, which only this demonstration can see. The noisy count must be within
        the gate's slack of it: that fails once in a thousand million runs."""
        exchange, teller = self.exchange, self.teller
        answer = receiving.answer(plan.job, exchange.participants["company"].opened.store)
        if not isinstance(answer, Answer):
            raise DemoFailed("the second answer is of another kind")
        truth = data.plaintext_correlation(
            exchange.folder / "clinic" / "patients.csv",
            exchange.folder / "laboratory" / "sera.parquet",
        )
        allowed = slack_of(plan)
        rows, shown, near = [], [], True
        for row in answer.rows:
            people, correlation = row.figures
            count, exact = truth[row.groups[0]]
            near &= people.value is not None and abs(people.value - count) <= allowed
            rows.append(
                (
                    teller.words("sex", sex=row.groups[0]),
                    teller.words("noised", value=_short(people.value), exact=count),
                    _interval(correlation),
                    f"{exact:.3f}",
                )
            )
            shown.append(
                {
                    "sex": row.groups[0],
                    "people": _short(people.value),
                    "plain_people": count,
                    "correlation": _short(correlation.value),
                    "interval": [_short(correlation.low), _short(correlation.high)],
                    "plain_correlation": round(exact, 6),
                }
            )
        columns = ("column.group", "column.count", "column.correlation", "column.plain_correlation")
        teller.table(columns, rows)
        teller.say("second_cost", epsilon=answer.epsilon, delta=f"{float(answer.delta):.1e}")
        self.document["second"] = {
            "answer": shown,
            "epsilon": f"{answer.epsilon.numerator}/{answer.epsilon.denominator}",
            "delta": f"{answer.delta.numerator}/{answer.delta.denominator}",
            "within_slack": near,
        }
        return near

    def _ended(self, participant: Participant, job: JobId) -> NodeJob | None:
        with participant.opened.store.reading() as tx:
            found = tx.job(job)
        return found if found is not None and found.state in FINAL else None

    # The answer

    def _answer(self, plan: Plan) -> bool:
        exchange = self.exchange
        answer = receiving.answer(plan.job, exchange.participants["company"].opened.store)
        plain = data.plaintext_answer(
            exchange.folder / "clinic" / "patients.csv",
            exchange.folder / "laboratory" / "sera.parquet",
        )
        ours = _rows(answer)
        theirs = {(row.sex, row.band): (row.count, row.mean_progression) for row in plain}
        matched = ours == theirs
        self.teller.table(
            (
                "column.group",
                "column.count",
                "column.plain_count",
                "column.mean",
                "column.plain_mean",
            ),
            [self._compared(group, ours.get(group), theirs[group]) for group in theirs],
        )
        self.teller.say("match" if matched else "mismatch")
        self.document["answer"] = [_document(group, found) for group, found in ours.items()]
        self.document["plaintext_answer"] = [_document(g, found) for g, found in theirs.items()]
        self.document["match"] = matched
        return matched

    def _compared(
        self, group: tuple[str, str], ours: Shown | None, theirs: Shown
    ) -> tuple[str, ...]:
        found = ours or (None, None)
        return (
            self.teller.words("row", sex=group[0], band=group[1]),
            self._number(found[0]),
            self._number(theirs[0]),
            self._number(found[1]),
            self._number(theirs[1]),
        )

    def _number(self, value: int | Fraction | None) -> str:
        if value is None:
            return self.teller.words("suppressed")
        return str(value) if isinstance(value, int) else f"{float(value):.3f}"

    # Money

    def _money(self, plan: Plan) -> None:
        exchange = self.exchange
        holders = [exchange.participants[name] for name in ("clinic", "laboratory")]
        company = exchange.participants["company"].opened.hub
        self._until(
            lambda: company.balance(plan.currency).held_minor == 0,
            "the witnesses have let the money of both jobs go",
        )
        balances = {}
        for name in ("company", "clinic", "laboratory"):
            participant = exchange.participants[name]
            found = participant.opened.hub.balance(plan.currency)
            balances[name] = {
                "available_minor": str(found.available_minor),
                "held_minor": str(found.held_minor),
                "currency": plan.currency,
            }
            self.teller.say(
                "balance",
                name=participant.title,
                available=_money(found.available_minor),
                currency=plan.currency,
                held=_money(found.held_minor),
            )
        self.document["price_minor"] = str(plan.price_minor)
        self.document["balances"] = balances
        self.document["egress"] = {}
        for holder in holders:
            with holder.opened.store.reading() as tx:
                streams = tx.egress(plan.job)
            total = sum(stream.size_bytes for stream in streams)
            receivers = sorted({exchange.title(stream.receiver) for stream in streams})
            self.document["egress"][holder.name] = total
            self.teller.say(
                "egress", name=holder.title, size=f"{total:,}", receivers=", ".join(receivers)
            )

    # The anchor

    def _anchor(self) -> None:
        """Wait until the chain holds a head that covers everything said so far."""
        exchange = self.exchange
        hub = exchange.participants["regulator"].opened.hub
        if exchange.anchored is None:
            raise DemoFailed("this exchange was started without a chain")
        wanted = Checkpoint.parse(Note.parse(hub.checkpoint().encode()).text).size

        def covered() -> AnchorBody | None:
            found = hub.anchors(limit=1).anchors
            final = [one for one in found if one.state is AnchorState.FINAL]
            return final[0] if final and final[0].size >= wanted else None

        anchor = self._until(covered, f"the chain holds a head of {wanted} entries")
        if not anchor.simulated:
            raise DemoFailed("the hub takes a development chain for a real one")
        self.teller.say(
            "anchored",
            size=anchor.size,
            contract=anchor.contract,
            chain=anchor.chain_id,
            block=anchor.block_number,
            transaction=anchor.transaction,
        )
        count = len(hub.anchors().anchors)
        self.teller.say("anchors", count=count)
        self.document["anchor"] = {**anchor.model_dump(mode="json"), "count": count}

    # The audit

    def _audit_ledger(self) -> bool:
        """Log and witness from the hub's public addresses, then the chain, by its own node."""
        exchange = self.exchange
        if exchange.anchored is None:
            raise DemoFailed("this exchange was started without a chain")
        settings = exchange.anchored.settings
        policy = exchange.policy()
        hub = f"http://127.0.0.1:{exchange.port('hub')}"
        place = f"{hub}/v1/log/witnessed"
        log = audit_whole_log(
            place, policy, exchange.roots(), open_documents(f"{hub}/v1/documents"), workers=0
        )
        self.teller.ledger_report(log, whole=False)
        source = open_source(place)
        chain = audit_anchor(
            source.read(CHECKPOINT),
            policy,
            Asked(settings["chain_id"], settings["contract"], "latest"),
            HttpRpc(settings["rpc_url"]),
            source,
        )
        self.teller.ledger_report(chain, whole=True)
        voice = VOICES[Language(self.teller.language)]
        self.document["audit_log"] = log.to_value(voice)
        self.document["audit_anchor"] = chain.to_value(voice)
        return not log.failed and not chain.failed

    def _audit(self, number: DealId) -> Report:
        exchange = self.exchange
        regulator = exchange.participants["regulator"]
        bundle = exchange.folder / "deal.zip"
        bundle.write_bytes(regulator.opened.hub.bundle(number))
        report = audit_deal(
            bundle.read_bytes(),
            exchange.policy(),
            exchange.roots(),
            opener=exchange.opener("regulator"),
        )
        self.teller.report(report)
        self.document["audit"] = report.to_value(VOICES[Language.ENGLISH])
        return report

    # Who learned what

    def _learned(self, plan: Plan, second: Plan) -> None:
        exchange, teller = self.exchange, self.teller
        self.document["learned"] = {}
        for name, one in (("first", plan), ("second", second)):
            told: Mapping[str, str] = learns(one, Language(teller.language))
            rows = [(exchange.title(PartyId(party)), words) for party, words in told.items()]
            teller.say(f"learned.{name}")
            teller.table(("column.party", "column.learned"), rows)
            self.document["learned"][name] = dict(rows)
        others = [(exchange.name_of(n), teller.words(n)) for n in ("regulator", "witness")]
        teller.table(("column.party", "column.learned"), others)
        self.document["learned"]["both"] = dict(others)

    def tell_what_next(self) -> None:
        """With --keep: what each role can do now, as commands that run as printed."""
        exchange, teller = self.exchange, self.teller
        folder = exchange.folder

        def settings(name: str) -> str:
            return f"--settings {folder / name / 'settings.toml'}"

        job = self.document["job"]
        number = self.document["deal"]
        tables = " ".join(
            f"--table {name}={product}" for name, product in self.document["products"].items()
        )
        sql = (
            "SELECT clinic.sex, COUNT(*) AS people, AVG(laboratory.s5) AS s5 FROM clinic "
            "JOIN laboratory ON clinic.patient = laboratory.patient GROUP BY clinic.sex"
        )
        teller.say("keep")
        for name, line in (
            (
                "company",
                f"exchange job {settings('company')} explain {number} --sql '{sql}' {tables} "
                f"--purpose {deal.PURPOSE}",
            ),
            ("clinic", f"exchange node {settings('clinic')} show {job}"),
            ("laboratory", f"exchange node {settings('laboratory')} egress {job}"),
            ("company", f"exchange job {settings('company')} rerun {job}"),
            ("regulator", f"exchange audit {settings('regulator')} bundle {number} -o deal.zip"),
            (
                "regulator",
                f"exchange audit deal deal.zip --policy {folder / 'policy'} "
                f"--roots {folder / 'roots'}",
            ),
            *self._ledger_commands(),
            ("operator", f"curl http://127.0.0.1:{exchange.port('hub')}/readyz"),
        ):
            teller.line(f"   {exchange.name_of(name)}: {line}")
        teller.say("stop")

    def _ledger_commands(self) -> Iterator[tuple[str, str]]:
        exchange = self.exchange
        hub = f"http://127.0.0.1:{exchange.port('hub')}"
        log, policy = f"{hub}/v1/log/witnessed", exchange.folder / "policy"
        yield (
            "regulator",
            f"exchange audit log {log} --policy {policy} --roots {exchange.folder / 'roots'} "
            f"--documents {hub}/v1/documents",
        )
        if exchange.anchored is not None:
            settings = exchange.anchored.settings
            yield (
                "regulator",
                f"exchange audit anchor {log} --policy {policy} --rpc {settings['rpc_url']} "
                f"--contract {settings['contract']} --chain-id {settings['chain_id']} "
                "--finality latest",
            )

    # Waiting

    def _reached(self, participant: Participant, number: NegotiationId, state: State) -> None:
        self._until(
            lambda: participant.negotiation_is(number, state),
            f"{participant.name} sees the negotiation {state}",
        )

    def _until(self, true: Callable[[], T | None], what: str) -> T:
        """Wait until `true()` is so, watching that no process has died. Raises DemoFailed."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := true()):
            for process in self.exchange.processes.values():
                process.require_alive()
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {PATIENCE_S:.0f} s in vain until {what}")
            time.sleep(0.02)
        return found


Shown = tuple[int | None, Fraction | None]


def slack_of(plan: Plan) -> int:
    """How far two draws of a count's noise together stay from the truth, but once in 10**9."""
    noise = plan.query.noise
    return 0 if noise is None else slack(noise.distribution, noise.scales[0], noise.beta)


def _rows(answer: object) -> dict[tuple[str, str], Shown]:
    if not isinstance(answer, Answer):
        raise DemoFailed("the answer is of another kind")
    found: dict[tuple[str, str], Shown] = {}
    for row in answer.rows:
        count, mean = (None if f.value is None else Fraction(f.value) for f in row.figures)
        people = None if count is None else int(count)
        found[row.groups[0], row.groups[1]] = (people, mean)
    return found


def _short(value: Rational | None) -> str:
    return "" if value is None else f"{float(value):.3f}"


def _interval(figure: Figure) -> str:
    return f"{_short(figure.value)}  [{_short(figure.low)}, {_short(figure.high)}]"


def _document(group: tuple[str, str], found: Shown) -> dict[str, Any]:
    count, mean = found
    return {
        "sex": group[0],
        "s5": group[1],
        "suppressed": count is None,
        "count": count,
        "mean_progression": None if mean is None else f"{mean.numerator}/{mean.denominator}",
    }


def _money(minor: int) -> str:
    return f"{minor // 100:,}.{minor % 100:02d}"
