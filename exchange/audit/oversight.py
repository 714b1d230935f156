"""What was admitted without asking a person, and who was given a deal's evidence.

A party's node that admits by an approval names the statement that said so. One that names none was
admitted by a person, as far as the party says. A hub that gives evidence to whom it may not says
nothing of it; what it does say must be true of itself: it gave it to whom the deal, its agreements
or the operator named.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from crypto import record, sealing
from crypto.digest import Digest, opens
from crypto.errors import BadSignature, CannotOpen, CryptoError
from crypto.identifiers import JobId, PartyId, ProductId
from crypto.statement import Statement
from exchange.approval import DAY, StandingApproval, exceeded
from exchange.audit.evidence import Evidence
from exchange.audit.jobs import Job, Jobs
from exchange.audit.log import Said
from exchange.audit.openings import Opener
from exchange.audit.plans import product_id
from exchange.evidence import (
    BUNDLE_EXPORTED,
    HELPING_BEGUN,
    HELPING_ENDED,
    REGULATORS_NAMED,
    STANDING,
    STANDING_APPROVED,
    STANDING_WITHDRAWN,
    read_regulators,
)
from exchange.openings import Opening, standing_context
from ledger.verify.report import Check, Phrase, phrase


@dataclass(frozen=True)
class _Given:
    """An approval in force. limits: a standing one's, or why they were not opened; None of a
    helper's general one, which has none."""

    statement: Statement
    limits: StandingApproval | Phrase | None


def check_standing(evidence: Evidence, work: Jobs, opener: Opener | None) -> list[Check]:
    """Approvals of holders and helpers, in the order of the log, and each admission that rests on
    one: whether it was its party's and in force, and a holder's within its limits."""
    checks: list[Check] = []
    given: dict[Digest, _Given] = {}
    admitted = _Admitted()
    for said in evidence.said:
        statement = said.statement
        if statement.type == STANDING_APPROVED:
            check, limits = _opened(said, evidence, opener)
            checks.append(check)
            given[said.signed.digest] = _Given(statement, limits)
        elif statement.type == HELPING_BEGUN:
            given[said.signed.digest] = _Given(statement, None)
        elif statement.type in (STANDING_WITHDRAWN, HELPING_ENDED):
            for name in statement.after:
                if name in given and given[name].statement.actor == statement.actor:
                    del given[name]
        elif statement.type == "job.admitted":
            job = work.known.get(statement.subject)
            # What others say of a job is no evidence.
            if job is None or job.held is None or statement.actor not in job.plan.sealers:
                continue
            earlier = admitted.before(statement, job)
            # The submission and the hold come first; what else it names let it be admitted.
            for name in statement.after[2:]:
                checks += _rests_on(name, given.get(name), said, job, earlier, evidence)
    return checks


class _Admitted:
    """When each party admitted which consumer's jobs, by the times that it stated itself."""

    def __init__(self) -> None:
        self._times: dict[tuple[PartyId, PartyId], list[datetime]] = {}
        self._of_jobs: dict[tuple[PartyId, JobId], datetime] = {}

    def before(self, statement: Statement, job: Job) -> int:
        """How many others of this consumer it admitted in the DAY up to this one, which is then
        noted."""
        times = self._times.setdefault((statement.actor, job.plan.consumer), [])
        since = statement.time - DAY
        found = len(times) - bisect_right(times, since)
        own = self._of_jobs.setdefault((statement.actor, job.id), statement.time)
        if own is statement.time:
            insort(times, own)
            return found
        return found - (own > since)  # said again, which has no effect


def _rests_on(
    name: Digest, given: _Given | None, said: Said, job: Job, earlier: int, evidence: Evidence
) -> list[Check]:
    actor, side = said.statement.actor, job.plan.side_of(said.statement.actor)
    product = None if side is None else product_id(side, evidence)
    if side is not None and product is None:
        return [Check("standing.in_force", None, said.subject, phrase("standing.no_product"))]
    fits = (HELPING_BEGUN, actor) if product is None else (STANDING_APPROVED, product)
    found = None if given is None else given.statement
    if found is None or found.actor != actor or (found.type, found.subject) != fits:
        note = phrase("standing.none", digest=name)
        return [Check("standing.in_force", False, said.subject, note)]
    checks = [Check("standing.in_force", True, said.subject)]
    if given is not None and product is not None:
        checks.append(_within(given.limits, said, job, product, earlier))
    return checks


def _within(
    limits: StandingApproval | Phrase | None, said: Said, job: Job, product: ProductId, earlier: int
) -> Check:
    """The comparison that the holder's own node makes, as far as the deal shows what it counts."""
    if not isinstance(limits, StandingApproval):
        return Check("standing.within", None, said.subject, limits)
    excess = exceeded(limits, job.plan, product=product, at=said.statement.time, earlier=earlier)
    if excess is None:
        note = phrase("standing.seen", count=earlier + 1, allowed=limits.runs_per_day)
        return Check("standing.within", True, said.subject, note)
    note = phrase(
        "standing.beyond",
        limit=excess.limit,
        found=_value(excess.found),
        allowed=_value(excess.allowed),
    )
    return Check("standing.within", False, said.subject, note)


def _value(value: object) -> str:
    if isinstance(value, datetime):
        return record.encode_time(value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _opened(
    said: Said, evidence: Evidence, opener: Opener | None
) -> tuple[Check, StandingApproval | Phrase]:
    def no(passed: bool | None, note: Phrase) -> tuple[Check, Phrase]:
        return Check("standing.opened", passed, said.subject, note), note

    if opener is None:
        return no(None, phrase("opening.no_key"))
    sealed = evidence.openings.get((said.signed.digest, opener.party))
    if sealed is None:
        return no(None, phrase("opening.other_reader"))
    try:
        commitment = said.statement.commitments[STANDING]
        plain = sealing.open_sealed(sealed, opener.key, context=standing_context(commitment))
        opening = record.from_bytes(Opening, plain)
        if not opens(commitment, opening.salt, opening.value):
            raise BadSignature("the opening is not what the statement committed to")
        limits = record.from_bytes(StandingApproval, opening.value)
        if limits.product != said.statement.subject:
            raise BadSignature(f"the statement is not about {limits.product}")
    except CannotOpen as error:
        # It may be sealed to a key that its reader had when an earlier agreement named it.
        had = [known.document for known in evidence.parties.documents.values()]
        if any(d.party == opener.party and d.sealing != opener.key.public for d in had):
            return no(None, phrase("opening.other_reader"))
        return no(False, phrase("reason", reason=error))
    except (CryptoError, KeyError) as error:
        return no(False, phrase("reason", reason=error))
    says = phrase("standing.says", text=opening.value.decode("utf-8"))
    return Check("standing.opened", True, said.subject, says), limits


def check_exports(evidence: Evidence, entitled: Collection[PartyId]) -> list[Check]:
    """entitled: the consumers of the deal, and the regulators that its agreements name."""
    checks = []
    named: dict[PartyId, Collection[PartyId]] = {}  # by the operator that named them last
    for said in evidence.said:
        statement = said.statement
        try:
            if statement.type == REGULATORS_NAMED:
                named[statement.actor] = read_regulators(statement)
            if statement.type != BUNDLE_EXPORTED:
                continue
            to = PartyId.parse(statement.body.get("to", ""), where="to")
        except CryptoError as error:
            why = phrase("reason", reason=error)
            checks.append(Check("bundle.given", False, said.subject, why))
            continue
        allowed = {statement.actor, *entitled, *named.get(statement.actor, ())}
        note = phrase("bundle.given_to", to=evidence.parties.name(to))
        checks.append(Check("bundle.given", to in allowed, said.subject, note))
    return checks
