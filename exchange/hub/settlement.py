"""Money of a job: held before the run, released on the holders' receipts, refunded otherwise.

Each function works in the caller's transaction, so that the book, the job and the statement that
says so change together. The amounts are committed in the log; their openings are sealed to the
regulators that the agreements name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crypto import sealing
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.identifiers import PartyId
from crypto.record import Amount
from exchange import openings
from exchange.errors import IllegalTransition
from exchange.hub import budgets, chains
from exchange.hub.model import HubJob, Operator
from exchange.hub.ports import HubTransaction
from exchange.query import plan as plans
from exchange.query.plan import Plan
from pricing import book
from pricing.account import custody_account, escrow_account, party_account
from pricing.evidence import MoneyAct, funds_act
from pricing.money import Money
from pricing.transfer import Transfer, TransferId
from registry.party import PartyDocument


def lock(plan: Plan, tx: HubTransaction, operator: Operator) -> None:
    """First in every transaction that moves money of a job: the operator's chain, then the
    agreements in order, then the privacy accounts of their products in order. Everybody else takes
    agreements before inboxes, and accounts not at all, so two transactions never wait for each
    other in a circle. Raises UnknownSubject."""
    tx.lock_chain(operator.party)
    for digest in sorted({side.agreement for side in plan.sides}):
        tx.lock_agreement(digest)
    budgets.lock(plan, tx)


def plan_of(job: HubJob, tx: HubTransaction) -> Plan:
    return plans.read_plan(Envelope.from_bytes(tx.document(job.plan)))


def fund(
    party: PartyId, money: Money, *, key: str, tx: HubTransaction, operator: Operator
) -> Digest | None:
    """The operator credits a party with money that arrived outside. key: idempotency key; None
    is returned when it was used for the same deposit before."""
    account = party_account(party, money.currency)
    custody = custody_account("play" if money.currency == "TEST" else "bank", money.currency)
    number = TransferId.parse(f"deposit/{key}")
    tx.lock_chain(operator.party)  # two deposits with one key meet here: one books, one sees it
    book.open_account(tx.book, account)
    book.open_account(tx.book, custody)
    before = tx.book.chain(number)
    transfers = book.deposit(
        tx.book,
        number,
        custody=custody,
        account=account,
        money=money,
        reference=party,
        at=operator.clock.now(),
    )
    if before:
        return None
    money_act = funds_act(transfers, subject=party, randomness=operator.randomness)
    said = _say(money_act, [], [party], tx, operator)
    # No agreement names a reader of it: who was credited can show later what was booked.
    key_now = tx.parties.current(party).document.sealing
    tx.add_opening(
        said, party, sealing.seal(money_act.opening, key_now, context=openings.context(said))
    )
    return said


def hold(plan: Plan, job: HubJob, tx: HubTransaction, operator: Operator) -> Digest:
    """Put the price into escrow. Raises InsufficientFunds. Returns the statement's digest."""
    payer = party_account(plan.consumer, plan.currency)
    escrow = escrow_account(job.id, plan.currency)
    book.open_account(tx.book, payer)
    book.open_account(tx.book, escrow)
    transfers = book.hold(
        tx.book,
        _hold_id(job),
        payer=payer,
        escrow=escrow,
        money=Money(plan.currency, Amount(plan.price_minor)),
        reference=job.id,
        at=operator.clock.now(),
    )
    return _say_of_job(transfers, job, plan, [job.submitted], tx, operator)


def pay_out(job: HubJob, because: Sequence[Digest], tx: HubTransaction, operator: Operator) -> None:
    """Release the escrow to the holders, each its own price. because: the receipts relied on."""
    plan = plan_of(job, tx)
    lock(plan, tx, operator)
    splits = []
    for side in plan.sides:
        account = party_account(side.holder, plan.currency)
        book.open_account(tx.book, account)
        splits.append((account, side.price_minor))
    transfers = book.release(
        tx.book, TransferId(f"release/{job.id}"), _hold_id(job), splits, at=operator.clock.now()
    )
    _say_of_job(transfers, job, plan, because, tx, operator)
    tx.save_job(replace(job, settled=True), was=job.state)


def give_back(
    job: HubJob, because: Digest, tx: HubTransaction, operator: Operator, *, runs: bool
) -> None:
    """Refund a job that ended without a result. runs: whether runs and epsilon return as well,
    which they do only when no message can have left a holder."""
    if job.held is None:
        raise IllegalTransition(job.id, job.state, "refund")
    plan = plan_of(job, tx)
    lock(plan, tx, operator)
    transfers = book.refund(
        tx.book, TransferId(f"refund/{job.id}"), _hold_id(job), at=operator.clock.now()
    )
    _say_of_job(transfers, job, plan, [because], tx, operator)
    if runs:
        for digest in sorted({side.agreement for side in plan.sides}):
            held = tx.lock_agreement(digest)
            tx.save_agreement(
                replace(
                    held,
                    runs_used=held.runs_used - 1,
                    epsilon_used=held.epsilon_used - plan.epsilon,
                )
            )
        budgets.give_back(plan, tx)
    tx.save_job(replace(job, settled=True), was=job.state)


def _say_of_job(
    transfers: Sequence[Transfer],
    job: HubJob,
    plan: Plan,
    after: Sequence[Digest],
    tx: HubTransaction,
    operator: Operator,
) -> Digest:
    agreements = tuple(side.agreement for side in plan.sides)
    act = funds_act(
        transfers,
        subject=job.id,
        after=tuple(after),
        inputs=(job.plan, *agreements),
        randomness=operator.randomness,
    )
    return _say(act, agreements, [*job.parties, job.consumer], tx, operator)


def _say(
    money: MoneyAct,
    agreements: Sequence[Digest],
    to: Sequence[PartyId],
    tx: HubTransaction,
    operator: Operator,
) -> Digest:
    said = chains.act(money.act, tx=tx, operator=operator, to=to)
    regulators: dict[PartyId, PartyDocument] = {}
    for digest in agreements:
        terms = tx.lock_agreement(digest).agreement.terms
        if terms.regulator is not None and terms.regulator_document is not None:
            document = tx.parties.by_digest(terms.regulator_document).document
            # Agreements may name one regulator before and after it changed its keys.
            known = regulators.setdefault(terms.regulator, document)
            if document.seq > known.seq:
                regulators[terms.regulator] = document
    for regulator in sorted(regulators):
        sealed = sealing.seal(
            money.opening, regulators[regulator].sealing, context=openings.context(said)
        )
        tx.add_opening(said, regulator, sealed)
    return said


def _hold_id(job: HubJob) -> TransferId:
    return TransferId(f"hold/{job.id}")
