"""Money: that every job was paid for once or not at all, and, for a reader with a key, how much.

The operator alone moves money, and signs each movement. Amounts, payers and payees are committed
to; without the key of the regulator that the agreements name they stay unopened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crypto.errors import CryptoError
from crypto.record import Amount, encode_time
from exchange import openings
from exchange.audit.chains import witnessed_heads
from exchange.audit.evidence import Evidence
from exchange.audit.jobs import MONEY, Job
from exchange.audit.log import Said
from exchange.audit.openings import NotOpened, Opener, open_for
from exchange.errors import ExchangeError
from exchange.jobs import FINAL, SETTLED_WITHIN, JobState
from exchange.terms.agreement import Terms
from ledger.verify.log import TOLERANCE
from ledger.verify.report import Check, Phrase, phrase
from pricing.account import escrow_account, party_account
from pricing.errors import PricingError
from pricing.evidence import COMMITMENT, HELD, REFUNDED, RELEASED, Leg, Movement, open_movement
from pricing.transfer import Phase


@dataclass(frozen=True)
class _Moves:
    """The operator's statements about one job's money."""

    held: Sequence[Said]
    released: Sequence[Said]
    refunded: Sequence[Said]


def check_stray_money(subject: str) -> Check:
    """Money that moved for a job whose plan the bundle does not hold."""
    return Check("money.held", False, subject, phrase("money.unknown_job"))


def check_money(job: Job, evidence: Evidence, opener: Opener | None) -> list[Check]:
    """Of one job: exactly one hold, then at most one of release and refund, each where it belongs;
    and what each of them moved."""
    moves = _moves(job, evidence)
    checks = [_held(job, moves, evidence), _settled(job, moves, evidence)]
    hold = moves.held[0].statement.body.get("operation") if moves.held else None
    for said in [*moves.held, *moves.released, *moves.refunded]:
        ends = None if said.statement.type == HELD else hold
        checks.append(_amounts(said, job, evidence, opener, ends=ends))
    return checks


def payments(
    job: Job, evidence: Evidence, opener: Opener | None
) -> list[tuple[Said, Movement | None]]:
    """What the operator said it moved for a job, in the order of the log; None where the amounts
    stay closed to this reader, or are not what was committed to, which `check_money` tells."""
    found: list[tuple[Said, Movement | None]] = []
    for said in evidence.about(job.id):
        if said.statement.type not in MONEY or said.statement.actor != job.plan.operator:
            continue
        try:
            movement = _opened(said, _terms(job, evidence), evidence, opener)
        except (NotOpened, ExchangeError, CryptoError, PricingError):
            movement = None
        found.append((said, movement))
    return found


def _moves(job: Job, evidence: Evidence) -> _Moves:
    about = [s for s in evidence.about(job.id) if s.statement.type in MONEY]
    return _Moves(*([s for s in about if s.statement.type == kind] for kind in MONEY))


def _held(job: Job, moves: _Moves, evidence: Evidence) -> Check:
    """Signed by the operator that the plan names: the price is in escrow before a holder says
    anything, so nobody computes for a consumer who cannot pay."""

    def no(note: Phrase) -> Check:
        return Check("money.held", False, job.id, note)

    rejected = job.ended is not None and job.ended.statement.type == "job.rejected"
    expected = 0 if rejected else 1
    if len(moves.held) != expected:
        return no(phrase("money.count", count=len(moves.held), kind=HELD, expected=expected))
    if rejected:
        return Check("money.held", True, job.id, phrase("money.nothing_held"))
    (hold,) = moves.held
    if (problem := _operators(hold, job)) is not None:
        return no(problem)
    if hold.statement.after != (job.submitted.signed.digest,):
        return no(phrase("money.after", kind=HELD, what="the submission"))
    if hold != job.held:
        return no(phrase("money.after", kind=HELD, what="the operator's own word"))
    answers = [*job.admitted.values(), *job.started.values(), *job.sealed.values()]
    if any(answer.index < hold.index for answer in answers):
        return no(phrase("money.after", kind="an admission", what=HELD))
    return Check("money.held", True, job.id)


def _settled(job: Job, moves: _Moves, evidence: Evidence) -> Check:
    """Signed by the operator: holders are paid after all of them delivered, under heads that the
    witnesses cosigned, so that no payment rests on evidence that could still be taken back; and a
    job without a result is refunded."""

    def no(note: Phrase) -> Check:
        return Check("money.settled", False, job.id, note)

    for kind, found, most in (
        (RELEASED, moves.released, 1 if job.state is JobState.RELEASED else 0),
        (REFUNDED, moves.refunded, 1 if _owes_refund(job, moves) else 0),
    ):
        if len(found) > most:
            return no(phrase("money.count", count=len(found), kind=kind, expected=most))
        for said in found:
            if (problem := _operators(said, job)) is not None:
                return no(problem)
    if _owes_refund(job, moves):
        if not moves.refunded:
            return no(phrase("money.count", count=0, kind=REFUNDED, expected=1))
        (refund,) = moves.refunded
        if job.ended is None or refund.statement.after != (job.ended.signed.digest,):
            return no(phrase("money.after", kind=REFUNDED, what="the end of the job"))
        return Check("money.settled", True, job.id, phrase("money.refunded"))
    if moves.released:
        problem = _release_problem(moves.released[0], job, evidence)
        if problem is not None:
            return no(problem)
        return Check("money.settled", True, job.id, phrase("money.released"))
    if moves.held:
        return _still_held(job, moves.held[0], evidence)
    return Check("money.settled", True, job.id, phrase("money.nothing_held"))


def _still_held(job: Job, hold: Said, evidence: Evidence) -> Check:
    """For a while that is nobody's fault, and may be an outage of the hub's. It is the operator's
    once its hub was at work and did not act. That a witness saw a head late does not show it:
    anybody can have the newest one cosigned again, years later. A head that a larger one follows
    was seen while the hub went on, which moves what is due before it signs.

    A payment waits for a witnessed head that holds the release. The price of any other job goes
    back at its plan's end, unless all receipts are in: then for a head that holds them. Whoever
    leaves heads out of a bundle puts that off, and the answer is not opened.
    """
    witnessed = witnessed_heads(evidence.heads)
    seen = max((head.times.first for head in witnessed), default=None)
    followed = [head.times.first for head in witnessed if head.size < witnessed[-1].size]
    ends = job.plan.finish_by if job.released is None else job.released.statement.time
    relied_to = max(said.index for said in (job.released, hold, *job.sealed.values()) if said)
    holding = [head.times.last for head in witnessed if head.size > relied_to]
    if seen is None or not holding:
        return Check("money.settled", None, job.id, phrase("money.undated"))
    if seen <= ends + TOLERANCE:
        return Check("money.settled", True, job.id, phrase("money.still_held"))
    since = max(holding[0], ends)
    passed = False if any(time > since + SETTLED_WITHIN for time in followed) else None
    key = "money.unended" if job.released is None else "money.unpaid"
    note = phrase(key, since=encode_time(since), seen=encode_time(seen))
    return Check("money.settled", passed, job.id, note)


def _owes_refund(job: Job, moves: _Moves) -> bool:
    """Every end but the release gives the money back in the same transaction."""
    return bool(moves.held) and job.state in FINAL and job.state is not JobState.RELEASED


def _release_problem(said: Said, job: Job, evidence: Evidence) -> Phrase | None:
    """The release relies on every receipt and on the operator's own release of the result, and
    between the last of these and the payment lies a head with the policy's quorum."""
    relied = [*job.sealed.values()]
    if job.released is not None:
        relied.append(job.released)
    for because in relied:
        if because.signed.digest not in said.statement.after or because.index >= said.index:
            return phrase("money.after", kind=RELEASED, what=because.statement.type)
    last = max(because.index for because in relied)
    if not any(
        head.accepted and last < head.checkpoint.size <= said.index for head in evidence.heads
    ):
        return phrase("money.early")
    return None


def _operators(said: Said, job: Job) -> Phrase | None:
    statement = said.statement
    if statement.actor != job.plan.operator:
        return phrase("money.after", kind=statement.type, what="the operator's own word")
    if statement.inputs != (job.plan_digest, *(side.agreement for side in job.plan.sides)):
        return phrase("money.inputs", kind=statement.type)
    return None


def _amounts(
    said: Said, job: Job, evidence: Evidence, opener: Opener | None, *, ends: str | None
) -> Check:
    """Committed to by the operator, sealed by it to the regulator: payer, payees and amounts, held
    against the prices that the holders signed in their agreements and the consumer in its plan."""
    subject = f"{job.id} {said.statement.type}"
    try:
        terms = _terms(job, evidence)
        movement = _opened(said, terms, evidence, opener)
        expected = _expected(said.statement.type, job, [term.price_minor for term in terms])
    except NotOpened as error:
        return Check("money.amounts", False if error.failed else None, subject, error.why)
    except (ExchangeError, CryptoError, PricingError) as error:
        return Check("money.amounts", False, subject, phrase("reason", reason=error))
    right = _same(movement, expected, said, job) and movement.hold == ends
    what = legs_in_words(movement.legs, job.plan.currency)
    if right:
        return Check("money.amounts", True, subject, phrase("money.moved", what=what))
    wanted = legs_in_words(expected, job.plan.currency)
    return Check("money.amounts", False, subject, phrase("money.wrong", what=what, expected=wanted))


def _terms(job: Job, evidence: Evidence) -> list[Terms]:
    return [evidence.agreement(side.agreement).terms for side in job.plan.sides]


def _opened(
    said: Said, terms: Sequence[Terms], evidence: Evidence, opener: Opener | None
) -> Movement:
    """Raises NotOpened, and what `open_movement` raises."""
    plain = open_for(
        said, terms, context=openings.context(said.signed.digest), evidence=evidence, opener=opener
    )
    committed = said.statement.commitments.get(COMMITMENT)
    if committed is None:
        raise NotOpened(phrase("receipt.lacks", field=COMMITMENT), failed=True)
    return open_movement(plain, committed)


def _expected(kind: str, job: Job, prices: Sequence[int]) -> tuple[Leg, ...]:
    """What must have moved. prices: those of the agreements, in the plan's order; they sum to the
    hold, and the release divides the hold into exactly these. Raises MoneyRefused where the plan's
    currency is none."""
    plan = job.plan
    consumer = str(party_account(plan.consumer, plan.currency))
    escrow = str(escrow_account(job.id, plan.currency))
    total = Amount(sum(prices))
    if kind == HELD:
        return (Leg(Phase.PENDING, consumer, escrow, total),)
    if kind == REFUNDED:
        return (Leg(Phase.VOID, consumer, escrow, total),)
    paid = [
        Leg(Phase.SINGLE, escrow, str(party_account(side.holder, plan.currency)), Amount(price))
        for side, price in zip(plan.sides, prices, strict=True)
    ]
    return (Leg(Phase.POST, consumer, escrow, total), *paid)


def _same(movement: Movement, expected: tuple[Leg, ...], said: Said, job: Job) -> bool:
    return (
        movement.legs == expected
        and movement.act == said.statement.type
        and movement.operation == said.statement.body.get("operation")
        and movement.reference == job.id
    )


def legs_in_words(legs: Sequence[Leg], currency: str) -> str:
    return "; ".join(
        f"{leg.phase} {leg.amount_minor} {currency} (minor units) {leg.debit} → {leg.credit}"
        for leg in legs
    )
