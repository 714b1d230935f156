"""The operator's acts with money, as statements for the log.

The log may be public, so an act shows that money moved for a purpose and what the operator relied
on, and no amount, payer or payee: those are in the opening, a canonical record that the act
commits to with a salt. There is no bare digest of an opening: amounts are few enough to try.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crypto import record
from crypto.digest import SALT_BYTES, Digest, commit, opens
from crypto.errors import BadSignature
from crypto.ports import Randomness
from crypto.record import Amount
from crypto.statement import Act
from pricing.errors import MoneyRefused
from pricing.transfer import Phase, Transfer

DEPOSITED = "funds.deposited"
HELD = "funds.held"
RELEASED = "funds.released"
REFUNDED = "funds.refunded"
COMMITMENT = "movement"


@dataclass(frozen=True)
class Leg:
    """One transfer: amount_minor leaves `debit` for `credit`; accounts in their text form."""

    phase: Phase
    debit: str
    credit: str
    amount_minor: Amount


@dataclass(frozen=True)
class Movement:
    """What a money act commits to. salt: 32 bytes, so that nobody can try amounts.

    operation: the transfers' id in the book. hold: the hold that this releases or refunds.
    """

    v: int
    act: str
    operation: str
    hold: str | None
    reference: str
    legs: tuple[Leg, ...]
    salt: bytes

    def commitment(self) -> Digest:
        return commit(self.salt, record.to_bytes(self))


@dataclass(frozen=True)
class MoneyAct:
    """act: for the log. opening: canonical bytes of the Movement, for the parties and, sealed,
    for the regulator that the agreement names; never for the log."""

    act: Act
    opening: bytes


def funds_act(
    chain: Sequence[Transfer],
    *,
    subject: str,
    after: tuple[Digest, ...] = (),
    inputs: tuple[Digest, ...] = (),
    policy_digest: Digest | None = None,
    randomness: Randomness,
) -> MoneyAct:
    """The act that a chain of the book is: deposited, held, released or refunded.

    chain:   what `deposit`, `hold`, `release` or `refund` returned
    subject: what the money is for: a job, or the party that paid in
    after:   digests of the statements relied on: the plan before a hold, receipts before a release
    inputs:  digests of the documents relied on
    """
    first = chain[0]
    kind = _ACTS[first.phase]
    movement = Movement(
        v=1,
        act=kind,
        operation=first.chain,
        hold=first.resolves,
        reference=first.reference,
        legs=tuple(
            Leg(
                phase=transfer.phase,
                debit=str(transfer.debit),
                credit=str(transfer.credit),
                amount_minor=_moved(transfer),
            )
            for transfer in chain
        ),
        salt=randomness.draw(SALT_BYTES),
    )
    act = Act(
        type=kind,
        subject=subject,
        after=after,
        policy_digest=policy_digest,
        inputs=inputs,
        commitments={COMMITMENT: movement.commitment()},
        # A deposit's id is whatever its caller chose, a bank's reference perhaps: not for the log.
        body={} if kind == DEPOSITED else {"operation": first.chain},
    )
    return MoneyAct(act, record.to_bytes(movement))


def open_movement(opening: bytes, commitment: Digest) -> Movement:
    """The movement behind a logged commitment. Raises BadSignature if it is another, Malformed
    if the opening is not one, MoneyRefused if its version is unknown."""
    movement = record.from_bytes(Movement, opening)
    if movement.v != 1:
        raise MoneyRefused(f"movement version {movement.v}; this version reads 1")
    if not opens(commitment, movement.salt, opening):
        raise BadSignature("the opening is not what the statement committed to")
    return movement


def _moved(transfer: Transfer) -> Amount:
    return transfer.reserved if transfer.phase is Phase.VOID else transfer.amount


_ACTS = {
    Phase.SINGLE: DEPOSITED,
    Phase.PENDING: HELD,
    Phase.POST: RELEASED,
    Phase.VOID: REFUNDED,
}
