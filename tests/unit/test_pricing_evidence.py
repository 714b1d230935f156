"""A money act shows that money moved, and to those with the opening how much and to whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from crypto import record
from crypto.digest import digest
from crypto.errors import BadSignature, Malformed
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.record import Amount
from crypto.statement import Act, ChainHead, sign_statement
from pricing.account import AccountId, AccountKind, custody_account, escrow_account
from pricing.evidence import COMMITMENT, Leg, MoneyAct, Movement, funds_act, open_movement
from pricing.transfer import Phase, Transfer, TransferId

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
BUYER = AccountId(AccountKind.PARTY, "pty_buyer", "CNY")
CLINIC = AccountId(AccountKind.PARTY, "pty_clinic", "CNY")
ESCROW = escrow_account("job_1", "CNY")
PLAN = digest(b"plan")


@dataclass
class Counting:
    """Randomness that never repeats."""

    drawn: int = 0

    def draw(self, size: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(size, "big")


def a_transfer(
    phase: Phase, debit: AccountId, credit: AccountId, amount: int, *, chain: str = "job_1/hold"
) -> Transfer:
    resolves = phase in (Phase.POST, Phase.VOID)
    return Transfer(
        chain=TransferId(chain),
        step=0,
        phase=phase,
        debit=debit,
        credit=credit,
        amount=Amount(amount),
        resolves=TransferId("job_1/hold") if resolves else None,
        reserved=Amount(987_654 if resolves else 0),
        reference="job_1",
        at=NOW,
    )


DEPOSIT = [a_transfer(Phase.SINGLE, custody_account("bank", "CNY"), BUYER, 987_654)]
HOLD = [a_transfer(Phase.PENDING, BUYER, ESCROW, 987_654)]
RELEASE = [
    a_transfer(Phase.POST, BUYER, ESCROW, 987_654, chain="job_1/pay"),
    replace(a_transfer(Phase.SINGLE, ESCROW, CLINIC, 987_654, chain="job_1/pay"), step=1),
]
REFUND = [a_transfer(Phase.VOID, BUYER, ESCROW, 0, chain="job_1/refund")]


def an_act(chain: list[Transfer]) -> MoneyAct:
    return funds_act(chain, subject="job_1", inputs=(PLAN,), randomness=Counting())


def commitment(act: Act) -> dict[str, object]:
    return dict(act.commitments or {})


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        (DEPOSIT, "funds.deposited"),
        (HOLD, "funds.held"),
        (RELEASE, "funds.released"),
        (REFUND, "funds.refunded"),
    ],
)
def test_each_operation_is_an_act_of_its_own_kind(chain: list[Transfer], kind: str) -> None:
    said = an_act(chain)
    assert said.act.type == kind
    assert said.act.inputs == (PLAN,)
    opened = open_movement(said.opening, (said.act.commitments or {})[COMMITMENT])
    assert opened.act == kind
    assert opened.legs[0].amount_minor == 987_654


def test_the_logged_entry_shows_no_amount_and_no_party() -> None:
    said = an_act(RELEASE)
    entry = sign_statement(
        said.act,
        actor=PartyId("pty_" + "0" * 32),
        head=ChainHead(),
        signer=SigningKey.generate(),
        now=NOW,
        randomness=Counting(),
    )
    logged = record.to_bytes(entry.statement)
    for secret in (b"987654", b"pty_buyer", b"pty_clinic", b"CNY"):
        assert secret not in logged
        assert secret in said.opening
    assert digest(said.opening) not in (*said.act.inputs, *said.act.outputs)


def test_the_same_amount_committed_twice_looks_different() -> None:
    randomness = Counting()
    one, two = (funds_act(HOLD, subject="job_1", randomness=randomness) for _ in range(2))
    assert one.act.commitments != two.act.commitments


def test_an_opening_with_another_amount_or_payee_does_not_open() -> None:
    said = an_act(RELEASE)
    logged = (said.act.commitments or {})[COMMITMENT]
    true = open_movement(said.opening, logged)
    post, pay = true.legs
    for legs in (
        (post, replace(pay, amount_minor=Amount(987_653))),
        (post, replace(pay, credit=str(BUYER))),
        (post,),
        (post, pay, Leg(Phase.SINGLE, str(ESCROW), str(CLINIC), Amount(0))),
    ):
        with pytest.raises(BadSignature):
            open_movement(record.to_bytes(replace(true, legs=legs)), logged)
    with pytest.raises(BadSignature):
        open_movement(record.to_bytes(replace(true, salt=bytes(32))), logged)


def test_an_opening_that_is_no_movement_is_malformed() -> None:
    said = an_act(HOLD)
    logged = (said.act.commitments or {})[COMMITMENT]
    with pytest.raises(Malformed):
        open_movement(said.opening[:-1], logged)
    with pytest.raises(Malformed):
        open_movement(
            said.opening.replace(b'"amount_minor":"987654"', b'"amount_minor":987654'), logged
        )


def test_a_movement_is_read_back_byte_for_byte() -> None:
    said = an_act(RELEASE)
    assert record.to_bytes(record.from_bytes(Movement, said.opening)) == said.opening
