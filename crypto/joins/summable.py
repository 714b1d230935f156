"""What the `sum` join can compute, and under which encryption.

It has one cell, and one number of people: those both sides have in common, which both learn
anyway and gate on. A row takes part only where every *mark* that gates a term ("has a value") is
1: how many matched rows lack a value could be gated only by showing it. A sum is of
one side's factor: nobody knows which of its own rows matched, so nobody can multiply its own value
into a peer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from crypto.errors import Malformed
from crypto.joins.layout import COUNTED, Layout, Term

MAX_SIDE_ROWS: Final = 2**24  # of one side; the noise of a packed sum is bounded for so many
MAX_SUMS: Final = 64  # of one side's factors
PAILLIER_ROWS: Final = 256  # 27 ms each to encrypt: seven seconds


class ValueScheme(Enum):
    """How values are encrypted; both at 128 bits of security or above."""

    PAILLIER = "paillier"  # few rows: 768 bytes for 25 values of a row; perfect re-randomisation
    BFV = "bfv"  # many rows: 8192 in a pair of ciphertexts of one value each, 90 bytes a value


def scheme_for(caps: Sequence[int]) -> ValueScheme:
    """The encryption for sides of at most so many rows."""
    return ValueScheme.PAILLIER if max(caps) <= PAILLIER_ROWS else ValueScheme.BFV


def marks(layout: Layout, rank: int) -> frozenset[int]:
    """The factors of one side that gate a term; 1 on every row of this join."""
    return frozenset(_factor(layout.terms[gate], rank) for gate in layout.gates)


def summed_factor(layout: Layout, index: int, rank: int) -> int:
    """The factor of one side that a term sums, or COUNTED: where marks are 1, they count."""
    found = _factor(layout.terms[index], rank)
    return COUNTED if found in marks(layout, rank) else found


def summed_factors(layout: Layout, rank: int) -> tuple[int, ...]:
    """The factors of one side that some term sums, ascending."""
    found = {summed_factor(layout, index, rank) for index in range(len(layout.terms))}
    return tuple(sorted(found - {COUNTED}))


def require_summable(layout: Layout) -> None:
    """Raises Malformed, naming the field, for what this join cannot compute."""
    if layout.cells != 1:
        raise Malformed("groups_a", "and groups_b must be 1: sizes of groups would be revealed")
    if layout.by_row or layout.slack:
        raise Malformed("layout", "has conditions on pairs, extremes, dominance or noise")
    for index, term in enumerate(layout.terms):
        where = f"terms[{index}]"
        if term.outer:
            raise Malformed(where, "is of a LEFT JOIN")
        summed = [summed_factor(layout, index, rank) for rank in (0, 1)]
        if COUNTED not in summed:
            raise Malformed(where, "multiplies values of both sides")
        if summed == [COUNTED, COUNTED] and index not in layout.gates and layout.round_counts > 1:
            raise Malformed(where, "counts people and would not be rounded")
    for name, rank in (("factors_a", 0), ("factors_b", 1)):
        if len(summed_factors(layout, rank)) > MAX_SUMS:
            raise Malformed(name, f"has more than {MAX_SUMS} to sum")


def _factor(term: Term, rank: int) -> int:
    return term.right if rank else term.left
