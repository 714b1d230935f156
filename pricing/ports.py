"""What this package needs from outside: a place for accounts and transfers.

A store works inside a transaction that the caller owns, and never ends it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

from pricing.account import Account, AccountId
from pricing.transfer import Transfer, TransferId


class BookStore(Protocol):
    def open(self, account: AccountId) -> None:
        """Idempotent; a new account is empty."""
        ...

    def account(self, account: AccountId) -> Account:
        """Raises AccountNotFound."""
        ...

    def lock(self, accounts: Collection[AccountId]) -> Mapping[AccountId, Account]:
        """Read these accounts and keep them from others until the transaction ends.

        Always in one order, whatever the caller's, so that two transfers cannot wait for each
        other. Raises AccountNotFound.
        """
        ...

    def chain(self, chain: TransferId) -> tuple[Transfer, ...]:
        """The transfers stored under this id, by step; empty if there are none."""
        ...

    def resolutions(self, hold: TransferId) -> tuple[Transfer, ...]:
        """The transfer that ended this hold; empty while it is pending."""
        ...

    def save(self, accounts: Collection[Account], transfers: Sequence[Transfer]) -> None:
        """Store locked accounts as they are now, with the transfers that made them so.

        Raises TransferConflict if the id was taken meanwhile, HoldResolved if the hold was.
        """
        ...

    def accounts(self) -> Iterator[Account]:
        """Every account."""
        ...

    def journal(self, *, after: int, limit: int) -> Sequence[tuple[int, Transfer]]:
        """Transfers in the order they were stored, each with its place; places start above 0."""
        ...

    def statement(
        self, account: AccountId, *, after: int, limit: int
    ) -> Sequence[tuple[int, Transfer]]:
        """The part of the journal that names this account."""
        ...
