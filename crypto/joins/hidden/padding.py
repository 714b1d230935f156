"""Padding: how many rows are added so that a count of pairs says little about any person.

Specification: docs/hidden_join.md, *Padding*. A draw has

    Pr[k] = q**|k - t| / Z,  k = 0 .. 2t,   q = exp(-epsilon / D)
    Z     = (1 + q - 2*q**(t+1)) / (1 - q)
    delta = q**(t-D+1) * (1 - q**D) / ((1 - q) * Z)

and t is the least integer, from D on, that meets the plan's delta. Everything is computed with 60
decimal digits; a draw compares 128 random bits with a table of integers, so no floating point is
near it (Mironov 2012) and its distance from the formula is below (2t+1) * 2**-128.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from typing import Final

from crypto.engine import PaddingBounds
from crypto.errors import EngineFailed, EngineFault

DRAW_BYTES: Final = 16
MAX_UPLOAD_ROWS: Final = 2**31  # positions travel as 32 bits
MAX_SHIFT: Final = 2**18  # the table of draws has twice as many entries, made in seconds
_DIGITS: Final = 60


@dataclass(frozen=True)
class Padding:
    """shift: t, the mean; a draw is at most 2*t. table[k]: floor(2**128 * Pr[draw <= k])."""

    shift: int
    table: tuple[int, ...] = field(repr=False)

    def draw(self, random: bytes) -> int:
        """random: 16 uniform bytes, used for this draw only."""
        if len(random) != DRAW_BYTES:
            raise ValueError("a draw takes 16 bytes")
        return bisect_right(self.table, int.from_bytes(random, "big"))


@dataclass(frozen=True)
class Sizes:
    """Per holder: rows of the upload, and how many of them are pool rows. Public, from the plan."""

    rows: tuple[int, ...]
    pool: tuple[int, ...]


@lru_cache(maxsize=16)
def padding(bounds: PaddingBounds) -> Padding:
    """The distribution that every draw of a plan with these bounds follows."""
    shift = least_shift(bounds)
    with localcontext() as context:
        context.prec = _DIGITS
        q, _ = _parts(bounds)
        weights = [q ** abs(k - shift) for k in range(2 * shift + 1)]
        whole = _whole(q, shift)
        table, below = [], Decimal(0)
        for weight in weights:
            below += weight
            table.append(int(below / whole * 2**128))
    table[-1] = 2**128  # every draw is at most 2t
    return Padding(shift, tuple(table))


def upload_sizes(caps: tuple[int, ...], bounds: PaddingBounds, *, hide_size: bool) -> Sizes:
    """N = cap + 2*t_a + 2*t_h, of which 2*t_h are pool rows. caps: of two or three holders, each of
    whom is in one or in three overlaps with agreed rows of its own.

    Where the size is hidden, the helper draws nothing (t_h = 0) and B's pool has as many rows as
    A's whole upload. Raises EngineFailed (input) if positions or the table of draws don't fit.
    """
    overlaps = 2 * len(caps) - 3
    shifts = [least_shift(one) for one in (overlap_bounds(bounds, len(caps)), bounds)]
    # Before any table is made: for an epsilon near 0 it fills the memory, whatever the rows.
    if max(shifts) > MAX_SHIFT:
        raise EngineFailed(
            EngineFault.INPUT, "padding.epsilon or padding.delta is too small; give more of it"
        )
    agreed, pool = overlaps * 2 * shifts[0], 2 * shifts[1]
    if hide_size:
        of_a = caps[0] + agreed
        found = Sizes((of_a, caps[1] + agreed + of_a), (0, of_a))
    else:
        found = Sizes(tuple(cap + agreed + pool for cap in caps), (pool,) * len(caps))
    if max(found.rows) >= MAX_UPLOAD_ROWS:
        raise EngineFailed(
            EngineFault.INPUT, f"an upload of {max(found.rows)} rows is too large; split the join"
        )
    return found


def overlap_bounds(bounds: PaddingBounds, holders: int) -> PaddingBounds:
    """What the agreed rows of each overlap are drawn for, so that all that the helper counts is
    within `bounds`.

    Two holders have one overlap. Three have four that the helper counts apart: A and B alone, A and
    D alone, B and D alone, all three. A key stands in one place of that diagram. Whatever tables
    gain or lose it, it leaves one place and enters another, so at most two of the four counts
    move, each by 1:

        A gains a key that is in     nobody's   B's     D's     B's and D's
        counts that move             none       AB+1    AD+1    BD-1, ABD+1

    and the same with names exchanged for B and D; gained by all three at once, ABD alone moves. Of
    a person with D keys (`contribution`) the moves of all counts add up to at most 2*D. A count
    that moves by m costs m/D of the epsilon it was drawn for, so all together cost at most twice
    that; and what a move by m costs of delta, a sum of m growing terms, is convex in m, so all
    together cost at most as much as two counts that move by D. Hence half of both.
    """
    if holders == 2:
        return bounds
    return replace(bounds, epsilon=bounds.epsilon / 2, delta=bounds.delta / 2)


def least_shift(bounds: PaddingBounds) -> int:
    """t: the least integer, from D on, whose delta is at most the plan's."""
    with localcontext() as context:
        context.prec = _DIGITS
        q, limit = _parts(bounds)

        def enough(shift: int) -> bool:
            return _delta(q, shift, bounds.contribution) <= limit

        high = bounds.contribution
        while not enough(high):
            high *= 2
        low = bounds.contribution
        while low < high:
            middle = (low + high) // 2
            if enough(middle):
                high = middle
            else:
                low = middle + 1
        return low


def deviation(bounds: PaddingBounds) -> float:
    """Standard deviation of a draw, for those who are told what an answer's count may hide."""
    shift = least_shift(bounds)
    with localcontext() as context:
        context.prec = _DIGITS
        q, _ = _parts(bounds)
        square = sum((k - shift) ** 2 * q ** abs(k - shift) for k in range(2 * shift + 1))
        return float((square / _whole(q, shift)).sqrt())


def delta_of(bounds: PaddingBounds, shift: int) -> Fraction:
    """The mass of counts that only one of two neighbours can produce; shift >= D."""
    with localcontext() as context:
        context.prec = _DIGITS
        return Fraction(_delta(_parts(bounds)[0], shift, bounds.contribution))


def _parts(bounds: PaddingBounds) -> tuple[Decimal, Decimal]:
    epsilon = Decimal(bounds.epsilon.numerator) / Decimal(bounds.epsilon.denominator)
    delta = Decimal(bounds.delta.numerator) / Decimal(bounds.delta.denominator)
    return (-epsilon / bounds.contribution).exp(), delta


def _whole(q: Decimal, shift: int) -> Decimal:
    return (1 + q - 2 * q ** (shift + 1)) / (1 - q)


def _delta(q: Decimal, shift: int, moved: int) -> Decimal:
    return q ** (shift - moved + 1) * (1 - q**moved) / ((1 - q) * _whole(q, shift))
