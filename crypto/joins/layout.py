"""The shape of a grouped aggregate over the rows that two sides have in common.

Each side brings one row a person: the person's group and a vector of integer *factors*. Factor 0
is 1 for everybody who counts; the others are values, their products, or 0/1 marks such as "has a
value", and are 0 where there is nothing. A *cell* is one pair of groups, numbered
`group_a * groups_b + group_b`; a side without a group column has one group. A *term* is, per cell,
the sum over matched pairs of `a[left] * b[right]`: counts, sums, sums of squares and of products
are all terms. Every term is gated by a term that counts people. The output is one vector of
integers modulo 2**64, in this order:

    ok      gates x cells     0 or 1; gates in the order of `gates`
    value   terms x cells     0 where its gate's ok is 0
    extreme extremes x cells  0 where its gate's ok is 0

Where three holders join on one key, the second side is what two of them, B and D, have together on
their common rows: see `Third`. Everything else is as for two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from crypto.errors import Malformed

MAX_OUTPUTS: Final = 2**17  # one megabyte of shares; a larger table is not an aggregate
COUNTED: Final = 0  # the factor that is 1 for everybody
THIRD_RANK: Final = 3  # of a third holder in an engine run; A, B and the helper are 0, 1, 2


class Order(StrEnum):
    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="


@dataclass(frozen=True)
class Term:
    """left, right: factors of A and of B. people: index of the term that counts the people behind
    this one; a term that counts people names itself.

    outer: of a LEFT JOIN: the sum over *all* of A's rows, matched or not; `right` is COUNTED.
    """

    left: int
    right: int
    people: int
    outer: bool


@dataclass(frozen=True)
class Comparison:
    """A condition on each matched pair: a[left] order b[right], on rows where both marks are 1."""

    left: int
    left_mark: int
    order: Order
    right: int
    right_mark: int


@dataclass(frozen=True)
class Extreme:
    """The least or largest a[factor] or b[factor] of a cell, over rows whose mark is 1.

    side: 0 for A, 1 for B; low, high: the factor's public bounds; people: the term that gates it.
    """

    side: int
    factor: int
    mark: int
    largest: bool
    low: int
    high: int
    people: int


@dataclass(frozen=True)
class Third:
    """How the second side is made of what B and a third holder D have of the same person.

    own_groups, groups: B's and D's; the side's group is `group_of_b * groups + group_of_d`
    own_factors, third_factors: how many factors B and D bring, each with its own COUNTED
    factors: per factor of the second side, the factor of B and the factor of D whose product it
             is; (f, COUNTED) is B's alone, (COUNTED, g) is D's alone
    """

    own_groups: int
    groups: int
    own_factors: int
    third_factors: int
    factors: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for name in ("own_groups", "groups", "own_factors", "third_factors"):
            if getattr(self, name) < 1:
                raise Malformed(f"third.{name}", "is less than 1")
        if self.factors[:1] != ((COUNTED, COUNTED),):
            raise Malformed("third.factors", "do not begin with the factor that is always 1")
        if len(set(self.factors)) != len(self.factors):
            raise Malformed("third.factors", "name one product twice")
        for index, pair in enumerate(self.factors):
            if len(pair) != 2:
                raise Malformed(f"third.factors[{index}]", "is not one factor of each holder")
            if not (0 <= pair[0] < self.own_factors and 0 <= pair[1] < self.third_factors):
                raise Malformed(f"third.factors[{index}]", "names a factor that does not exist")


@dataclass(frozen=True)
class Layout:
    """min_group: least people a cell may show. slack: added to it for noisy counts (see
    hidden_join: `s`); 0 where there is no noise.

    dominance: a sum of one side's factor is shown only if no single person has more than this
    share of the sum of magnitudes; None for no limit.
    round_counts: shown counts of people are rounded to the nearest multiple; 1 for none.
    third: where three holders join; groups_b and factors_b are then those of B and D together.
    """

    groups_a: int
    groups_b: int
    factors_a: int
    factors_b: int
    terms: tuple[Term, ...]
    comparisons: tuple[Comparison, ...]
    extremes: tuple[Extreme, ...]
    min_group: int
    slack: int
    dominance: Fraction | None
    round_counts: int
    third: Third | None = None

    def __post_init__(self) -> None:
        for name in ("groups_a", "groups_b", "factors_a", "factors_b", "min_group", "round_counts"):
            if getattr(self, name) < 1:
                raise Malformed(name, "is less than 1")
        if self.slack < 0:
            raise Malformed("slack", "is negative")
        if self.dominance is not None and not 0 < self.dominance <= 1:
            raise Malformed("dominance", "is not above 0 and at most 1")
        if self.third is not None:
            if self.groups_b != self.third.own_groups * self.third.groups:
                raise Malformed("groups_b", "is not the product of both holders' groups")
            if self.factors_b != len(self.third.factors):
                raise Malformed("factors_b", "is not the number of the third holder's products")
        if not self.terms or self.terms[0].people != 0:
            raise Malformed("terms", "must begin with the count of people")
        for index, term in enumerate(self.terms):
            self._require(term.left, term.right, f"terms[{index}]")
            if not 0 <= term.people < len(self.terms) or self._counts(term.people) != term.people:
                raise Malformed(f"terms[{index}].people", "is not a term that counts people")
            if term.outer and (term.right != COUNTED or self.groups_b != 1):
                raise Malformed(f"terms[{index}].outer", "may depend on side A only")
        for index, comparison in enumerate(self.comparisons):
            self._require(comparison.left, comparison.right, f"comparisons[{index}]")
            self._require(comparison.left_mark, comparison.right_mark, f"comparisons[{index}]")
        for index, extreme in enumerate(self.extremes):
            held = (self.factors_a, self.factors_b)[extreme.side % 2]
            if extreme.side not in (0, 1) or not (
                0 <= extreme.factor < held and 0 <= extreme.mark < held
            ):
                raise Malformed(f"extremes[{index}]", "names a factor that does not exist")
            if extreme.low > extreme.high:
                raise Malformed(f"extremes[{index}].low", "is above high")
            if extreme.people not in self.gates:
                raise Malformed(f"extremes[{index}].people", "is not a term that counts people")
        if self.outputs > MAX_OUTPUTS:
            raise Malformed("groups_a", f"and the rest make more than {MAX_OUTPUTS} outputs")

    @property
    def cells(self) -> int:
        return self.groups_a * self.groups_b

    @property
    def gates(self) -> tuple[int, ...]:
        """The terms that count people, ascending."""
        return tuple(i for i, term in enumerate(self.terms) if term.people == i)

    @property
    def outputs(self) -> int:
        """Length of the output vector."""
        return self.cells * (len(self.gates) + len(self.terms) + len(self.extremes))

    @property
    def by_row(self) -> bool:
        """Whether something must be computed on each matched pair, not only on sums."""
        return bool(self.comparisons or self.extremes) or self.dominance is not None

    def groups(self, side: int) -> int:
        return (self.groups_a, self.groups_b)[side]

    def factors(self, side: int) -> int:
        return (self.factors_a, self.factors_b)[side]

    def held(self, rank: int) -> tuple[int, int]:
        """Groups and factors of the rows that the holder at `rank` brings."""
        third = self.third
        if third is None or rank == 0:
            return self.groups(rank), self.factors(rank)
        if rank == THIRD_RANK:
            return third.groups, third.third_factors
        return third.own_groups, third.own_factors

    def _counts(self, index: int) -> int:
        return self.terms[index].people

    def _require(self, left: int, right: int, where: str) -> None:
        if not (0 <= left < self.factors_a and 0 <= right < self.factors_b):
            raise Malformed(where, "names a factor that does not exist")
