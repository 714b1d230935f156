"""The shape of a grouped aggregate over the rows two sides have in common.

Every person belongs to at most one group of side A and one of side B; a *cell* is one pair of
them, numbered `group_a * groups_b + group_b`. A side without a group column has one group.
The output is one vector of integers modulo 2**64, in this order, each block `cells` long:

    ok of the count, ok of each measure of A, ok of each measure of B     0 or 1
    count, valid count of each measure of A, of each measure of B         0 where ok is 0
    sum of each measure of A, of each measure of B                        0 where ok is 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from crypto.errors import Malformed

MAX_OUTPUTS: Final = 2**17  # one megabyte of shares; a larger table is not an aggregate


@dataclass(frozen=True)
class RevealedLayout:
    """Groups and measures of both sides, and the least number of people a cell may show.

    min_group: a cell is shown only if it counts this many matched people; a measure of it only
               if this many of them have a value.
    """

    groups_a: int
    groups_b: int
    measures_a: int
    measures_b: int
    min_group: int

    def __post_init__(self) -> None:
        for name in ("groups_a", "groups_b", "min_group"):
            if getattr(self, name) < 1:
                raise Malformed(name, "is less than 1")
        for name in ("measures_a", "measures_b"):
            if getattr(self, name) < 0:
                raise Malformed(name, "is negative")
        if self.outputs > MAX_OUTPUTS:
            raise Malformed("groups_a", f"and the rest make more than {MAX_OUTPUTS} outputs")

    @property
    def cells(self) -> int:
        return self.groups_a * self.groups_b

    @property
    def measures(self) -> int:
        return self.measures_a + self.measures_b

    @property
    def outputs(self) -> int:
        """Length of the output vector."""
        return self.cells * (2 + 3 * self.measures)

    def groups(self, rank: int) -> int:
        return (self.groups_a, self.groups_b)[rank]

    def own_measures(self, rank: int) -> int:
        return (self.measures_a, self.measures_b)[rank]
