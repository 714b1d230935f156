"""Accounts of the book: whose money it is, in one currency, and how far it may go down.

A balance is credits minus debits. What the exchange owes (to parties, in escrow) is positive; what
it holds outside (custody at a bank, or the source of play money) is negative; together they are
zero. A transfer that is pending has left the payer's available balance and reached nobody.
Source: TigerBeetle, two-phase transfers and account flags (debits_must_not_exceed_credits).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from crypto.identifiers import PartyId
from crypto.record import Amount
from pricing.errors import InsufficientFunds, MoneyRefused
from pricing.money import require_currency

_NOTHING: Final = Amount(0)
_OWNER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class AccountKind(StrEnum):
    CUSTODY = "custody"  # money outside; goes below zero by what was paid in
    ESCROW = "escrow"  # between payer and payees; never below zero
    PARTY = "party"  # what a participant is owed; never below zero


@dataclass(frozen=True)
class AccountId:
    """Says everything fixed about an account. Text form: `party:pty_…:CNY`."""

    kind: AccountKind
    owner: str
    currency: str

    def __post_init__(self) -> None:
        if not _OWNER.fullmatch(self.owner):
            raise MoneyRefused(f"{self.owner!r} cannot own an account: 1 to 64 of A-Z a-z 0-9 _ -")
        require_currency(self.currency)

    def __str__(self) -> str:
        return f"{self.kind}:{self.owner}:{self.currency}"

    @classmethod
    def parse(cls, text: str) -> AccountId:
        parts = text.split(":")
        if len(parts) != 3 or parts[0] not in list(AccountKind):
            raise MoneyRefused(f"{text!r} is not an account such as party:pty_…:CNY")
        return cls(AccountKind(parts[0]), parts[1], parts[2])


def party_account(party: PartyId, currency: str) -> AccountId:
    return AccountId(AccountKind.PARTY, party, currency)


def escrow_account(owner: str, currency: str) -> AccountId:
    """owner: the job or order whose money waits here."""
    return AccountId(AccountKind.ESCROW, owner, currency)


def custody_account(channel: str, currency: str) -> AccountId:
    """channel: where the money really is: a bank account, or `play` for TEST money."""
    return AccountId(AccountKind.CUSTODY, channel, currency)


@dataclass(frozen=True)
class Account:
    """posted: credits minus debits. outgoing, incoming: pending debits and credits."""

    id: AccountId
    posted: Amount = _NOTHING
    outgoing: Amount = _NOTHING
    incoming: Amount = _NOTHING

    @property
    def available(self) -> Amount:
        """What can be spent now: nothing pending towards the account counts."""
        return Amount(self.posted - self.outgoing)

    @property
    def has_floor(self) -> bool:
        return self.id.kind is not AccountKind.CUSTODY


def debit(account: Account, amount: Amount) -> Account:
    """Take `amount` out for good. Raises InsufficientFunds."""
    _require_available(account, amount)
    return replace(account, posted=Amount(account.posted - amount))


def credit(account: Account, amount: Amount) -> Account:
    return replace(account, posted=Amount(account.posted + amount))


def set_aside(account: Account, amount: Amount) -> Account:
    """Take `amount` out of what is available, not yet of what is posted. InsufficientFunds."""
    _require_available(account, amount)
    return replace(account, outgoing=Amount(account.outgoing + amount))


def give_back(account: Account, amount: Amount) -> Account:
    """Undo `set_aside`."""
    return replace(account, outgoing=Amount(account.outgoing - amount))


def expect(account: Account, amount: Amount) -> Account:
    """Count `amount` as on its way; it cannot be spent."""
    return replace(account, incoming=Amount(account.incoming + amount))


def expect_no_more(account: Account, amount: Amount) -> Account:
    """Undo `expect`."""
    return replace(account, incoming=Amount(account.incoming - amount))


def _require_available(account: Account, amount: Amount) -> None:
    if account.has_floor and amount > account.available:
        raise InsufficientFunds(account.id, asked=amount, available=account.available)
