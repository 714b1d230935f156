"""What the `sum` join can compute, and under which encryption.

It has one cell and one gate: the number of people both sides have in common, which both learn
anyway. A sum is of one side's factor: nobody knows which of its own rows matched, so nobody can
multiply its own value into a peer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from crypto.errors import Malformed
from crypto.joins.layout import COUNTED, Layout

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


def summed_factors(layout: Layout, rank: int) -> tuple[int, ...]:
    """The factors of one side that some term sums, ascending."""
    own = {term.right if rank else term.left for term in layout.terms}
    return tuple(sorted(own - {COUNTED}))


def require_summable(layout: Layout) -> None:
    """Raises Malformed, naming the field, for what this join cannot compute."""
    if layout.cells != 1:
        raise Malformed("groups_a", "and groups_b must be 1: sizes of groups would be revealed")
    if layout.by_row or layout.slack:
        raise Malformed("layout", "conditions across sides, extremes, dominance and noise need MPC")
    if layout.gates != (0,):
        raise Malformed("terms", "must all be gated by the number of people in common")
    for index, term in enumerate(layout.terms):
        where = f"terms[{index}]"
        if term.outer:
            raise Malformed(where, "is of a LEFT JOIN")
        if COUNTED not in (term.left, term.right):
            raise Malformed(where, "multiplies values of both sides")
        if (index == 0) != (term.left == term.right == COUNTED):
            raise Malformed(where, "must be the number of people in common, or a sum; the first is")
    for rank, factors in enumerate((summed_factors(layout, 0), summed_factors(layout, 1))):
        if len(factors) > MAX_SUMS:
            raise Malformed(f"factors_{'ab'[rank]}", f"has more than {MAX_SUMS} to sum")
