"""Jobs replayed over the shared lifecycle, from the statements of each actor.

The replay follows the hub's own rules. A participant's statement that comes too late is in the
log without effect, there and here; an act of the operator is made in the same transaction as what
it says, so one that does not fit is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import JobId, PartyId
from crypto.keys import PublicKey
from crypto.statement import Statement
from exchange import jobs as lifecycle
from exchange.audit.doubts import ASSUMED, Reading, Rules, either, read
from exchange.audit.evidence import Evidence
from exchange.audit.log import Said
from exchange.audit.negotiations import about_none, idle_steps
from exchange.errors import (
    ExchangeError,
    IllegalTransition,
    NotYours,
    PlanRefused,
    UnknownSubject,
)
from exchange.jobs import FINAL, JobEvent, JobState
from exchange.links.endpoint import Endpoint
from exchange.query import plan as plans
from exchange.query.plan import Plan
from exchange.terms.agreement import Terms, require_in_force, require_outlasts
from ledger.verify.log import TOLERANCE
from ledger.verify.report import Check, Phrase, phrase
from pricing.evidence import HELD, REFUNDED, RELEASED
from registry.errors import RegistryError

SUBMITTED: Final = "job.submitted"
MONEY: Final = (HELD, RELEASED, REFUNDED)
# What the operator says in one transaction with what it answers: to a submission one of ANSWERS, to
# what ends a job whose price is held REFUNDED.
ANSWERS: Final = (HELD, "job.rejected")
ENDING: Final = ("job.refused", "job.failed", "job.cancelled", "job.expired")
COMMITTED: Final = ("budget", "egress", "snapshot")  # by every holder's receipt
COMMITTED_BY_HELPER: Final = ("egress",)


@dataclass(frozen=True)
class Job:
    """A job as its statements make it. plan_digest: what every later statement names.

    held: the operator's word that it took the plan for admissible. Without it the plan is nobody's
    but its consumer's, which may write into it whomever and whatever it likes.
    admitted, started, sealed: by holder, and helper where there is one. released: the operator's.
    ended: what ended it otherwise.
    """

    id: JobId
    plan: Plan
    plan_digest: Digest
    submitted: Said
    held: Said | None
    state: JobState
    admitted: Mapping[PartyId, Said]
    started: Mapping[PartyId, Said]
    sealed: Mapping[PartyId, Said]
    released: Said | None
    ended: Said | None


@dataclass(frozen=True)
class Jobs:
    """known: by id. no_effect: statements that changed nothing, with the reason. misfits: those
    among them that an honest operator or node does not make where they stand. supposed: those
    that must have had no effect for the rest to fit, although nothing here shows it. either: by
    job, whose statements cannot all be right. operators: whoever
    keeps the log; where that is not shown, whom plans name."""

    known: Mapping[str, Job]
    no_effect: Mapping[Digest, str]
    misfits: Mapping[Digest, str]
    supposed: frozenset[Digest]
    either: Mapping[str, Mapping[PartyId, Said]]
    operators: frozenset[PartyId]

    @property
    def held(self) -> list[Job]:
        """The jobs whose plans count for the deal."""
        return [job for job in self.known.values() if job.held is not None]


def replay(evidence: Evidence) -> Jobs:
    """Every job in the bundle, from its submission, in the order of the log."""
    known: dict[str, Job] = {}
    no_effect = about_none([s for s in evidence.said if s.statement.type in _STEPS], JobId)
    misfits: dict[Digest, str] = {}
    supposed: set[Digest] = set()
    perhaps: dict[str, Mapping[PartyId, Said]] = {}
    for subject in subjects(evidence):
        found = _replay_one(subject, evidence)
        if found.state is not None:
            known[subject] = found.state
        no_effect |= found.no_effect
        misfits |= found.misfits
        supposed |= found.supposed
        perhaps[subject] = found.either
    operators = frozenset(operator_of(job.plan, evidence) for job in known.values())
    if evidence.operator is not None:
        operators |= {evidence.operator}
    return Jobs(known, no_effect, misfits, frozenset(supposed), perhaps, operators)


def subjects(evidence: Evidence) -> list[str]:
    """Every job that any statement of the bundle is about. What only an operator says is about a
    job whatever its subject is."""
    operators = {*_OPERATORS, *MONEY}
    said = (s.statement for s in evidence.said)
    found = (
        s.subject
        for s in said
        if s.type in operators or (s.type in _STEPS and JobId.is_spelled(s.subject))
    )
    return list(dict.fromkeys(found))


def check_replay(subject: str, evidence: Evidence, found: Jobs) -> Check:
    """That the job went by the table, by the signed word of whoever the step belongs to: the
    consumer submits, cancels and opens; every holder admits, starts and seals; the operator
    rejects, expires and releases."""
    job = found.known.get(subject)
    if job is None:
        idle = [s for s in evidence.about(subject) if s.statement.type == SUBMITTED]
        why = f": {idle_steps(idle, found.no_effect)}" if idle else ""
        return Check("job.replayed", False, subject, phrase("job.not_submitted", reason=why))
    if job.plan.deal != evidence.deal:
        note = phrase("job.other_deal", deal=job.plan.deal)
        return Check("job.replayed", False, subject, note)
    about = evidence.about(subject)
    for said in about:
        if (reason := found.misfits.get(said.signed.digest)) is not None:
            note = phrase(
                "job.out_of_place",
                kind=said.statement.type,
                index=said.index,
                actor=evidence.parties.name(said.statement.actor),
                reason=reason,
            )
            return Check("job.replayed", False, subject, note)
    if perhaps := found.either[subject]:
        return Check("job.replayed", False, subject, either(perhaps, evidence.parties))
    idle = [s for s in about if s.signed.digest in found.no_effect]
    if supposed := [s for s in idle if s.signed.digest in found.supposed]:
        what = idle_steps(supposed, found.no_effect)
        return Check(
            "job.replayed", None, subject, phrase("job.supposed", state=job.state, what=what)
        )
    if idle:
        what = idle_steps(idle, found.no_effect)
        return Check(
            "job.replayed", True, subject, phrase("job.ended_but", state=job.state, what=what)
        )
    key = "job.ended" if job.state in FINAL else "job.stands"
    return Check("job.replayed", True, subject, phrase(key, state=job.state))


def check_admissions(job: Job, evidence: Evidence, found: Jobs) -> Check:
    """That every holder said, in a statement of its own, that it admits this plan and no other,
    under the agreement that the plan names for it, before the plan's own limit."""
    problem = _admission_problem(job, evidence, found)
    return Check("job.admitted", problem is None, job.id, problem)


def ran(job: Job, evidence: Evidence) -> bool:
    """Whether the job got as far as a run, or the operator claims so: then admissions must be
    there. What a holder claims that came to nothing shows nothing of the others."""
    operator = operator_of(job.plan, evidence)
    return bool(job.started) or any(
        s.statement.type in ("job.released", RELEASED) and s.statement.actor == operator
        for s in evidence.about(job.id)
    )


def operator_of(plan: Plan, evidence: Evidence) -> PartyId:
    """Whoever keeps the log, whomever the plan names; what it names, where that is not shown."""
    return evidence.operator or plan.operator


def _replay_one(subject: str, evidence: Evidence) -> Reading[Job | None]:
    about = evidence.about(subject)
    steps = [said for said in about if said.statement.type in _STEPS]
    counted, overlooked = _counted(about, evidence)
    operator = evidence.operator if counted is None else operator_of(counted.plan, evidence)
    sealers = frozenset(() if counted is None else counted.plan.sealers)
    admissions = _Named(about, "job.admitted", sealers, by="job.started", of=sealers)
    receipts = _Named(about, "job.sealed", sealers, by="job.released", of={operator})
    refunded = {
        name
        for said in about
        if (said.statement.type, said.statement.actor) == (REFUNDED, operator)
        for name in said.statement.after
    }

    def same(job: Job | None, last: Said) -> Hashable:
        """Which admissions and receipts count matters only while a statement may come that names
        just these; else it matters who said them, and of a job that has ended nothing does."""
        if job is None or job.state in FINAL:
            return job and (job.state, job.ended and job.ended.statement.actor)
        return (
            job.state,
            admissions.told_apart(job.admitted, last),
            frozenset(job.started),
            receipts.told_apart(job.sealed, last),
        )

    def wrong(job: Job | None, said: Said, took: bool) -> PartyId | None:
        """For what ends a job the operator gives its price back in the same transaction, and for
        nothing else."""
        if said.statement.type in ENDING and took != (said.signed.digest in refunded):
            return operator
        return said.statement.actor if not took and _is_misfit(job, said) else None

    # The operator's own acts come when it says them.
    others = {s.signed.digest for s in steps if s.statement.actor != operator}
    return read(
        steps,
        None,
        Rules(
            lambda job, said: _STEPS[said.statement.type](job, said, evidence),
            same,
            wrong,
            operator,
        ),
        without={n: why for n, why in evidence.arrivals.late.items() if n in others} | overlooked,
        doubtful=others
        & {
            said.signed.digest
            for said in steps
            if said.signed.digest in evidence.arrivals.perhaps
            # Whether a sealed part came with its receipt, no bundle shows: results are not in it.
            or said.statement.type == "job.sealed"
        },
    )


class _Named:
    """What later statements name of earlier ones, where they name one of each party.

    Only in readings in which just these count can such a later statement have an effect. All other
    readings go on alike: else two parties that say many would make more than are followed.
    """

    def __init__(
        self,
        about: Sequence[Said],
        kind: str,
        parties: Set[PartyId],
        *,
        by: str,
        of: Set[PartyId | None],
    ) -> None:
        said = {s.signed.digest: s for s in about if s.statement.type == kind}
        self._places = {name: s.index for name, s in said.items()}
        self._until: dict[frozenset[Digest], int] = {}  # the place of the last that names them
        for s in about:
            if s.statement.type == by and s.statement.actor in of:
                names = frozenset(name for name in s.statement.after if name in said)
                if sorted(said[name].statement.actor for name in names) == sorted(parties):
                    self._until[names] = s.index
        self._open: dict[int, frozenset[frozenset[Digest]]] = {}

    def told_apart(self, counted: Mapping[PartyId, Said], last: Said) -> Hashable:
        """counted: by party. last: the statement just read."""
        if last.index not in self._open:
            self._open[last.index] = frozenset(
                frozenset(name for name in names if self._places[name] <= last.index)
                for names, until in self._until.items()
                if last.index < until
            )
        names = frozenset(said.signed.digest for said in counted.values())
        return names if names in self._open[last.index] else frozenset(counted)


def _counted(about: Sequence[Said], evidence: Evidence) -> tuple[Job | None, dict[Digest, str]]:
    """The submission that counts, and those before it that brought the plan as little as they had
    an effect.

    A plan is in the bundle because a submission brought it. Of several that name it, the hub took
    the one that the operator, in the same transaction, held the price for or rejected.
    """
    found: list[Job] = []
    for said in about:
        if said.statement.type == SUBMITTED and said.signed.digest not in evidence.arrivals.late:
            with suppress(ExchangeError, RegistryError, CryptoError):
                found.append(_submitted(None, said, evidence))
    if not found:
        return None, {}
    same = [job for job in found if job.plan_digest == found[0].plan_digest]
    operator = operator_of(found[0].plan, evidence)
    for said in about:
        if said.statement.type in ANSWERS and said.statement.actor == operator:
            named = [job.submitted.signed.digest in said.statement.after for job in same]
            counted = named.index(True) if any(named) else 0
            overlooked = (job.submitted.signed.digest for job in same[:counted])
            return same[counted], dict.fromkeys(overlooked, ASSUMED)
    return same[0], {}


def _admission_problem(job: Job, evidence: Evidence, found: Jobs) -> Phrase | None:
    for party in job.plan.sealers:
        name, side = evidence.parties.name(party), job.plan.side_of(party)
        said = job.admitted.get(party)
        if said is None:
            for other in evidence.about(job.id):
                statement = other.statement
                if (statement.type, statement.actor) == ("job.admitted", party):
                    reason = found.no_effect.get(other.signed.digest, "")
                    return phrase("admission.refused", holder=name, reason=reason)
            return phrase("admission.missing", holder=name)
        if said.statement.policy_digest != (None if side is None else side.agreement):
            return phrase("admission.agreement", holder=name)
        time = said.statement.time  # by its own clock, and the hub went by another
        if time >= job.plan.run_by + TOLERANCE:
            return phrase("admission.late", holder=name, run_by=job.plan.run_by)
        if side is None:
            continue  # the helper, who admits under no agreement
        try:
            agreement = evidence.agreement(side.agreement)
            require_in_force(agreement, _nearest(time, agreement.terms))
            require_outlasts(agreement, job.plan.run_by)
        except (ExchangeError, CryptoError) as error:
            return phrase("admission.refused", holder=name, reason=error)
    return None


def _nearest(time: datetime, terms: Terms) -> datetime:
    """Of the moments that a clock within TOLERANCE may have shown, the nearest to the validity."""
    last = terms.valid_until - timedelta(milliseconds=1)
    near = min(max(time, terms.valid_from), last)
    return near if abs(near - time) < TOLERANCE else time


def _is_misfit(job: Job | None, said: Said) -> bool:
    """Whether only a fault, here or there, explains that this statement has no effect.

    The operator writes its acts where they have their effect. A holder starts and seals only what
    it knows to be admitted, so while nothing has ended the job these follow; and it says none once
    it has ended the job itself.
    """
    statement = said.statement
    if statement.type in _OPERATORS:
        return True
    if job is None or statement.actor not in job.plan.sealers:
        return False
    by_itself = job.ended is not None and job.ended.statement.actor == statement.actor
    return statement.type in _STARTED and (job.state not in FINAL or by_itself)


def _submitted(job: Job | None, said: Said, evidence: Evidence) -> Job:
    statement = said.statement
    if job is not None:
        raise IllegalTransition(job.id, "known already", "submit")
    if len(statement.outputs) != 1:
        raise Malformed("outputs", "must name exactly the plan")
    (digest,) = statement.outputs
    envelope = evidence.envelope(digest)
    plan = plans.read_plan(envelope)
    if plan.consumer != statement.actor or plan.job != statement.subject:
        raise PlanRefused("consumer", "the plan is not this party's, or for another job")
    consumer = evidence.parties.in_force(statement.actor, said.index)
    dsse.verify(envelope, plans.PAYLOAD_TYPE, consumer.document.signing)
    if statement.inputs != plan.relies_on:
        raise PlanRefused("inputs", "the statement names others than the plan relies on")
    if statement.body.get("deal") != plan.deal:
        raise PlanRefused("deal", "the statement names another than the plan")
    if plan.join in plans.WITH_CONSUMER:
        _require_reachable(statement)
    return Job(
        id=plan.job,
        plan=plan,
        plan_digest=digest,
        submitted=said,
        held=_hold(said, operator_of(plan, evidence), evidence),
        state=JobState.REQUESTED,
        admitted={},
        started={},
        sealed={},
        released=None,
        ended=None,
    )


def _hold(submission: Said, operator: PartyId, evidence: Evidence) -> Said | None:
    name = submission.signed.digest
    holds = (
        said
        for said in evidence.about(submission.statement.subject)
        if (said.statement.type, said.statement.actor) == (HELD, operator)
        and name in said.statement.after
    )
    return next(holds, None)


def _rejected(job: Job | None, said: Said, evidence: Evidence) -> Job:
    job = _of_operator(job, said, evidence)
    if job.submitted.signed.digest not in said.statement.after:
        raise PlanRefused("after", "does not name the submission")
    return _end(job, JobEvent.REFUSE, said)


def _admitted(job: Job | None, said: Said, evidence: Evidence) -> Job:
    job = _of_holder(job, said)
    _require_reachable(said.statement)
    actor = said.statement.actor
    side = job.plan.side_of(actor)
    if said.statement.policy_digest != (None if side is None else side.agreement):
        raise PlanRefused("agreement", "is not the one that the plan names for this party")
    if job.state is not JobState.REQUESTED or actor in job.admitted:
        lifecycle.advance(job.id, job.state, JobEvent.ADMIT)
        raise NotYours(f"{actor} has answered {job.id} already")
    after = replace(job, admitted={**job.admitted, actor: said})
    if set(after.admitted) == set(job.plan.sealers):
        return _step(after, JobEvent.ADMIT)
    return after


def _refused(job: Job | None, said: Said, evidence: Evidence) -> Job:
    return _end(_of_holder(job, said), JobEvent.REFUSE, said)


def _started(job: Job | None, said: Said, evidence: Evidence) -> Job:
    job = _of_holder(job, said)
    actor = said.statement.actor
    if actor in job.started:
        raise NotYours(f"{actor} has started {job.id} already")
    if set(said.statement.after) != {admitted.signed.digest for admitted in job.admitted.values()}:
        raise PlanRefused("after", "does not name exactly the admissions of the job's parties")
    after = replace(job, started={**job.started, actor: said})
    return after if job.state is JobState.RUNNING else _step(after, JobEvent.START)


def _sealed(job: Job | None, said: Said, evidence: Evidence) -> Job:
    job = _of_holder(job, said)
    actor = said.statement.actor
    if job.state is not JobState.RUNNING or actor not in job.started:
        lifecycle.advance(job.id, job.state, JobEvent.SEAL)
        raise PlanRefused("order", f"{actor} has not started {job.id}")
    if actor in job.sealed:
        raise NotYours(f"{actor} has sealed its part of {job.id} already")
    _require_receipt(job, said.statement, evidence)
    after = replace(job, sealed={**job.sealed, actor: said})
    if set(after.sealed) == set(job.plan.sealers):
        return _step(after, JobEvent.SEAL)
    return after


def _failed(job: Job | None, said: Said, evidence: Evidence) -> Job:
    return _end(_of_holder(job, said), JobEvent.FAIL, said)


def _cancelled(job: Job | None, said: Said, evidence: Evidence) -> Job:
    return _end(_of_consumer(job, said), JobEvent.CANCEL, said)


def _expired(job: Job | None, said: Said, evidence: Evidence) -> Job:
    """Not before its time: else an operator could end whatever job it does not like."""
    job = _of_operator(job, said, evidence)
    after = _end(job, JobEvent.EXPIRE, said)
    due = job.plan.finish_by if job.state is JobState.RUNNING else job.plan.run_by
    if said.statement.time < due:
        raise PlanRefused("deadline", f"was {record.encode_time(due)}")
    return after


def _released(job: Job | None, said: Said, evidence: Evidence) -> Job:
    job = _of_operator(job, said, evidence)
    after = _step(job, JobEvent.RELEASE)
    receipts = {receipt.signed.digest for receipt in job.sealed.values()}
    if not receipts <= set(said.statement.after):
        raise PlanRefused("after", "does not name every holder's receipt")
    return replace(after, released=said)


def _opened(job: Job | None, said: Said, evidence: Evidence) -> Job:
    job = _of_consumer(job, said)
    if job.state is not JobState.RELEASED:
        raise NotYours(f"{job.id} has nothing for this party to open")
    return job


Step = Callable[[Job | None, Said, Evidence], Job]

_OPERATORS: Final = frozenset({"job.rejected", "job.expired", "job.released"})
_STARTED: Final = frozenset({"job.started", "job.sealed"})
_STEPS: Final[Mapping[str, Step]] = {
    SUBMITTED: _submitted,
    "job.rejected": _rejected,
    "job.admitted": _admitted,
    "job.refused": _refused,
    "job.started": _started,
    "job.sealed": _sealed,
    "job.failed": _failed,
    "job.cancelled": _cancelled,
    "job.expired": _expired,
    "job.released": _released,
    "job.opened": _opened,
}


def _of_holder(job: Job | None, said: Said) -> Job:
    job = _known(job, said.statement)
    if said.statement.actor not in job.plan.sealers:
        raise NotYours(f"{said.statement.actor} has no part in {job.id}")
    _require_plan(job, said.statement)
    return job


def _of_consumer(job: Job | None, said: Said) -> Job:
    job = _known(job, said.statement)
    if said.statement.actor != job.plan.consumer:
        raise NotYours(f"{said.statement.actor} is not the consumer of {job.id}")
    _require_plan(job, said.statement)
    return job


def _of_operator(job: Job | None, said: Said, evidence: Evidence) -> Job:
    """A plan that names another operator is rejected for it, and not by that one."""
    job = _known(job, said.statement)
    if said.statement.actor != operator_of(job.plan, evidence):
        raise NotYours(f"{said.statement.actor} is not the operator of this log")
    _require_plan(job, said.statement)
    return job


def _known(job: Job | None, statement: Statement) -> Job:
    if job is None:
        raise UnknownSubject(statement.subject)
    return job


def _require_reachable(statement: Statement) -> None:
    """Key and address for the run, of whoever takes part in it."""
    ephemeral = statement.body.get("ephemeral", "")
    if PublicKey.parse(ephemeral, where="body.ephemeral").suite != "x25519":
        raise Malformed("body.ephemeral", "is not an x25519 key")
    if link := statement.body.get("link", ""):
        Endpoint.parse(link, where="body.link")


def _require_receipt(job: Job, statement: Statement, evidence: Evidence) -> None:
    """The sealed part, what it commits to, and openings exactly where a regulator reads them."""
    side = job.plan.side_of(statement.actor)
    for name in COMMITTED_BY_HELPER if side is None else COMMITTED:
        if name not in statement.commitments:
            raise Malformed(f"commitments.{name}", "is missing: the receipt must commit to it")
    if side is None:
        if len(statement.outputs) != 1:
            raise Malformed("outputs", "of a helper must name the sealed part alone")
        return
    regulator = evidence.agreement(side.agreement).terms.regulator
    if len(statement.outputs) != (1 if regulator is None else 2):
        raise Malformed("outputs", "must name the sealed part, and openings where one reads them")


def _require_plan(job: Job, statement: Statement) -> None:
    if job.plan_digest not in statement.inputs:
        raise PlanRefused("plan", "the statement is about another plan")


def _step(job: Job, event: JobEvent) -> Job:
    return replace(job, state=lifecycle.advance(job.id, job.state, event))


def _end(job: Job, event: JobEvent, said: Said) -> Job:
    return replace(_step(job, event), ended=said)
