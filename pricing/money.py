"""Money: integer minor units of one currency. No floats, no conversion between currencies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from crypto.record import Amount
from pricing.errors import MoneyRefused

# Any sum the book can reach stays inside a signed 64-bit column with room to spare.
MAX_MINOR: Final = 10**15
_CURRENCY: Final = re.compile(r"[A-Z]{3,4}")


@dataclass(frozen=True)
class Money:
    """amount_minor: integer minor units (fen for CNY); TEST is play money with two places."""

    currency: str
    amount_minor: Amount

    def __post_init__(self) -> None:
        require_currency(self.currency)
        if not isinstance(self.amount_minor, Amount):
            raise MoneyRefused(f"an amount is an Amount, not {type(self.amount_minor).__name__}")
        if abs(self.amount_minor) > MAX_MINOR:
            raise MoneyRefused(f"{self.amount_minor} is beyond {MAX_MINOR} minor units")

    def __add__(self, other: Money) -> Money:
        self._require_same_currency(other)
        return Money(self.currency, Amount(self.amount_minor + other.amount_minor))

    def __sub__(self, other: Money) -> Money:
        self._require_same_currency(other)
        return Money(self.currency, Amount(self.amount_minor - other.amount_minor))

    def __str__(self) -> str:
        return f"{self.amount_minor} {self.currency} (minor units)"

    def _require_same_currency(self, other: Money) -> None:
        if other.currency != self.currency:
            raise MoneyRefused(f"{self.currency} and {other.currency} do not add up")


def require_currency(currency: str) -> None:
    if not _CURRENCY.fullmatch(currency):
        raise MoneyRefused(f"{currency!r} is not a currency code such as CNY or TEST")


def split(total: Amount, weights: Sequence[int | Fraction]) -> tuple[Amount, ...]:
    """Divide `total` by `weights` so that the parts sum to it exactly.

    Largest remainder: each part is rounded down, then one minor unit each goes to the largest
    remainders, ties to the earlier weight. weights: 0 or more, not all 0; shape (n,).
    Raises MoneyRefused for a negative total or weights that cannot divide it.
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise MoneyRefused("a total and its weights must be 0 or more")
    whole = sum((Fraction(weight) for weight in weights), Fraction(0))
    if whole == 0:
        raise MoneyRefused("at least one weight must be above 0")
    exact = [total * Fraction(weight) / whole for weight in weights]
    parts = [int(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return tuple(Amount(part) for part in parts)
