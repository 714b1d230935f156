"""Every error of this package is a PricingError.

PricingError
├── MoneyRefused       fix the input: a negative amount, another currency, a part above the whole
├── AccountNotFound    open the account first
├── TransferNotFound   no hold has this id
├── InsufficientFunds  fund the account, or ask for less
├── TransferConflict   the id was used for something else: choose a new id
├── HoldResolved       the hold was already released or refunded: nothing is left to move
└── BookBroken         stop, and tell the regulator: the stored book does not add up
"""

from __future__ import annotations


class PricingError(Exception):
    """Base of all errors raised by `pricing`."""


class MoneyRefused(PricingError):
    """An amount, currency or division of money that cannot be."""


class AccountNotFound(PricingError):
    def __init__(self, account: object) -> None:
        super().__init__(f"account {account} is not open; open it first")
        self.account = account


class TransferNotFound(PricingError):
    def __init__(self, transfer: str) -> None:
        super().__init__(f"no hold has the id {transfer}")
        self.transfer = transfer


class InsufficientFunds(PricingError):
    """asked, available: integer minor units of the account's currency."""

    def __init__(self, account: object, *, asked: int, available: int) -> None:
        super().__init__(
            f"account {account} has {available} minor units left; the transfer asks for {asked}"
        )
        self.account = account
        self.asked = asked
        self.available = available


class TransferConflict(PricingError):
    def __init__(self, transfer: str) -> None:
        super().__init__(f"transfer {transfer} exists with other content; choose a new id")
        self.transfer = transfer


class HoldResolved(PricingError):
    """resolution: the id of the transfer that released or refunded the hold."""

    def __init__(self, hold: str, resolution: str) -> None:
        super().__init__(f"hold {hold} was already resolved by {resolution}")
        self.hold = hold
        self.resolution = resolution


class BookBroken(PricingError):
    """The stored accounts and the journal contradict each other."""
