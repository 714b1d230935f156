"""Transfers: the only way money moves. Immutable; a correction is a new transfer.

One transfer is one debit and one credit of one currency. Source: TigerBeetle, transfers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from crypto.record import Amount
from pricing.account import (
    Account,
    AccountId,
    credit,
    debit,
    expect,
    expect_no_more,
    give_back,
    set_aside,
)
from pricing.errors import MoneyRefused
from pricing.money import MAX_MINOR

_ID: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,120}")
_MAX_REFERENCE: Final = 200


class Phase(StrEnum):
    """SINGLE moves money at once. PENDING sets it aside. POST moves what a PENDING one set aside,
    or less, and gives the rest back. VOID gives all of it back."""

    SINGLE = "single"
    PENDING = "pending"
    POST = "post"
    VOID = "void"


class TransferId(str):
    """Chosen by the caller, and so the idempotency key: the same id moves money once."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> TransferId:
        if not _ID.fullmatch(text):
            raise MoneyRefused(f"{text!r} cannot be a transfer id: 1 to 120 of A-Z a-z 0-9 _.:/-")
        return cls(text)


@dataclass(frozen=True)
class Transfer:
    """chain:     the id of the operation it belongs to; a chain is stored whole or not at all
    step:      its place in the chain, from 0; (chain, step) names it
    amount:    minor units of the accounts' currency, 0 or more
    resolves:  for POST and VOID, the chain of the PENDING transfer they end
    reserved:  for POST and VOID, what that transfer had set aside
    reference: what it is for, in the caller's words; never read here
    """

    chain: TransferId
    step: int
    phase: Phase
    debit: AccountId
    credit: AccountId
    amount: Amount
    resolves: TransferId | None
    reserved: Amount
    reference: str
    at: datetime

    def __post_init__(self) -> None:
        TransferId.parse(self.chain)
        if not isinstance(self.amount, Amount) or not 0 <= self.amount <= MAX_MINOR:
            raise MoneyRefused(f"a transfer moves 0 to {MAX_MINOR} minor units, not {self.amount}")
        if self.debit.currency != self.credit.currency:
            raise MoneyRefused(f"{self.debit} and {self.credit} differ in currency")
        if self.debit == self.credit:
            raise MoneyRefused(f"{self.debit} cannot pay itself")
        if (self.phase in (Phase.POST, Phase.VOID)) != (self.resolves is not None):
            raise MoneyRefused("POST and VOID, and only they, resolve a hold")
        if self.phase is Phase.POST and self.amount > self.reserved:
            raise MoneyRefused(f"{self.amount} is more than the {self.reserved} held")
        if len(self.reference) > _MAX_REFERENCE:
            raise MoneyRefused(f"a reference has at most {_MAX_REFERENCE} characters")

    def same_content(self, other: Transfer) -> bool:
        """Whether `other` is a repetition: everything but the time of asking is equal."""
        return _content(self) == _content(other)


def apply(transfer: Transfer, accounts: Mapping[AccountId, Account]) -> dict[AccountId, Account]:
    """The two accounts after `transfer`; changes nothing else. Raises InsufficientFunds."""
    payer, payee = accounts[transfer.debit], accounts[transfer.credit]
    if transfer.phase is Phase.PENDING:
        payer, payee = set_aside(payer, transfer.amount), expect(payee, transfer.amount)
    if transfer.phase in (Phase.POST, Phase.VOID):
        payer = give_back(payer, transfer.reserved)
        payee = expect_no_more(payee, transfer.reserved)
    if transfer.phase in (Phase.POST, Phase.SINGLE):
        payer, payee = debit(payer, transfer.amount), credit(payee, transfer.amount)
    return {payer.id: payer, payee.id: payee}


def _content(transfer: Transfer) -> tuple[object, ...]:
    return (
        transfer.chain,
        transfer.step,
        transfer.phase,
        transfer.debit,
        transfer.credit,
        transfer.amount,
        transfer.resolves,
        transfer.reserved,
        transfer.reference,
    )
