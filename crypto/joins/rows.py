"""The rows that one side hands to an engine, and the sums of a layout computed in the clear.

`plain_terms` and `plain_output` are the specification that engines are held to; no process that
runs a deal holds both of their arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto.errors import Malformed
from crypto.joinkeys import TOKEN_BYTES
from crypto.joins.layout import COUNTED, THIRD_RANK, Layout, Third

ROWS_FILE: Final = "rows.npz"  # in the folder of an engine run
KEPT_LINK: Final = "kept"  # there, to where the node keeps what outlives the run
NO_GROUP: Final = -1  # a row outside the group's domain; it counts nowhere
# Sums of one side's own rows stay below this, so no sum over matched rows can wrap.
MAX_ABSOLUTE_SUM: Final = 2**62

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class SideRows:
    """One side's rows, one for each person, in any order. Never printed.

    tokens:  shape (n, 16), uint8, distinct: see crypto.joinkeys
    group:   shape (n,), int64: the row's group, or NO_GROUP
    factors: shape (n, factors - 1), int64: factors 1, 2, …; factor 0 is 1 in every row
    """

    tokens: npt.NDArray[np.uint8]
    group: Int64Array
    factors: Int64Array

    def __post_init__(self) -> None:
        n = len(self.tokens)
        _require("tokens", self.tokens, np.uint8, (n, TOKEN_BYTES))
        _require("group", self.group, np.int64, (n,))
        _require("factors", self.factors, np.int64, (n, *self.factors.shape[1:2]))

    def __len__(self) -> int:
        return len(self.tokens)

    def require(self, layout: Layout, rank: int) -> None:
        """Raises Malformed, naming the field, where these rows are not what `layout` says of the
        holder at `rank`."""
        groups, factors = layout.held(rank)
        if self.factors.shape[1] != factors - 1:
            raise Malformed("factors", f"are {self.factors.shape[1] + 1}, the plan has {factors}")
        if len(self) and (self.group.min() < NO_GROUP or self.group.max() >= groups):
            raise Malformed("group", f"is outside 0..{groups - 1}")
        # The dominance limit compares largest * denominator with sum * numerator.
        limit = MAX_ABSOLUTE_SUM // (layout.dominance.denominator if layout.dominance else 1)
        for index in range(factors - 1):
            # In floating point, with room to spare: an int64 sum could wrap and look small.
            if float(np.abs(self.factors[:, index].astype(np.float64)).sum()) >= limit:
                raise Malformed(f"factors[{index}]", f"could add up to {limit} or more")
        for index in sorted(_marks(layout, rank)):
            if not np.isin(self.factor(index), (0, 1)).all():
                raise Malformed(f"factors[{index - 1}]", "marks people and is not 0 or 1")
        if not _distinct(self.tokens):
            raise Malformed("tokens", "are not distinct; a join key occurs twice")

    def factor(self, index: int) -> Int64Array:
        """shape (n,)."""
        if index == COUNTED:
            return np.ones(len(self), dtype=np.int64)
        held: Int64Array = self.factors[:, index - 1]
        return held

    def place(self, folder: Path) -> None:
        """Into the folder of an engine run."""
        with (folder / ROWS_FILE).open("wb") as file:
            np.savez(file, tokens=self.tokens, group=self.group, factors=self.factors)

    @classmethod
    def load(cls, folder: Path) -> SideRows:
        with np.load(folder / ROWS_FILE, allow_pickle=False) as held:
            return cls(held["tokens"], held["group"], held["factors"])


@dataclass(frozen=True, eq=False, repr=False)
class KeptRows:
    """One side's rows, and the folder of the node's own in which the engine finds, and leaves, what
    serves more jobs than this one: see crypto.joins.unbalanced."""

    rows: SideRows
    kept: Path

    def place(self, folder: Path) -> None:
        """Into the folder of an engine run."""
        self.rows.place(folder)
        (folder / KEPT_LINK).symlink_to(self.kept)


def _marks(layout: Layout, rank: int) -> set[int]:
    """The factors of one holder that say of each row whether it counts."""
    side = min(rank, 1)
    gates = [layout.terms[gate] for gate in layout.gates]
    used = {gate.right if side else gate.left for gate in gates}
    used |= {c.right_mark if side else c.left_mark for c in layout.comparisons}
    used |= {extreme.mark for extreme in layout.extremes if extreme.side == side}
    if side and layout.third is not None:
        # A product of marks is one.
        return {layout.third.factors[mark][rank == THIRD_RANK] for mark in used}
    return used


def one_hot(group: Int64Array, groups: int) -> Int64Array:
    """shape (n, groups): 1 in the row's group, zero everywhere outside the domain."""
    marks: Int64Array = (group[:, None] == np.arange(groups)).astype(np.int64)
    return marks


def grouped(rows: SideRows, factor: int, groups: int, *, at: Int64Array) -> Int64Array:
    """Columns of one factor, one per group, of the rows at positions `at`: shape (len(at), g)."""
    found: Int64Array = one_hot(rows.group[at], groups) * rows.factor(factor)[at, None]
    return found


def second_side(third: Third, b: SideRows, d: SideRows) -> SideRows:
    """What B and D have together of the people in both tables, as one side of a layout.

    With it `plain_output(layout, a, second_side(third, b, d))` says what three holders compute.
    """
    own, other = (np.ascontiguousarray(side.tokens).view("V16").ravel() for side in (b, d))
    _, at_b, at_d = np.intersect1d(own, other, assume_unique=True, return_indices=True)
    group_b, group_d = b.group[at_b], d.group[at_d]
    inside = (group_b != NO_GROUP) & (group_d != NO_GROUP)
    factors = [b.factor(f)[at_b] * d.factor(g)[at_d] for f, g in third.factors[1:]]
    return SideRows(
        b.tokens[at_b],
        np.where(inside, group_b * third.groups + group_d, NO_GROUP),
        np.stack(factors, axis=1) if factors else np.zeros((len(at_b), 0), dtype=np.int64),
    )


def plain_pairs(layout: Layout, a: SideRows, b: SideRows) -> tuple[Int64Array, Int64Array]:
    """Positions of the rows in common that fulfil every comparison, on each side, in one order."""
    left, right = (np.ascontiguousarray(side.tokens).view("V16").ravel() for side in (a, b))
    _, at_a, at_b = np.intersect1d(left, right, assume_unique=True, return_indices=True)
    keep = pairs_that_hold(layout, a, b, at_a, at_b)
    return at_a[keep], at_b[keep]


def plain_terms(layout: Layout, a: SideRows, b: SideRows) -> Int64Array:
    """Every term of every cell in the clear, shape (terms, cells), before gate and noise."""
    at_a, at_b = plain_pairs(layout, a, b)
    every = np.arange(len(a), dtype=np.int64)
    found = []
    for term in layout.terms:
        if term.outer:
            found.append(grouped(a, term.left, layout.groups_a, at=every).sum(axis=0))
            continue
        left = grouped(a, term.left, layout.groups_a, at=at_a)
        right = grouped(b, term.right, layout.groups_b, at=at_b)
        found.append((left.T @ right).ravel())
    return np.stack(found)


def plain_extremes(layout: Layout, a: SideRows, b: SideRows) -> Int64Array:
    """Every extreme of every cell, shape (extremes, cells); 0 where no row has its mark."""
    at_a, at_b = plain_pairs(layout, a, b)
    cell = plain_cells(layout, a, b, at_a, at_b)
    found = np.zeros((len(layout.extremes), layout.cells), dtype=np.int64)
    for row, extreme in enumerate(layout.extremes):
        side, at = ((a, at_a), (b, at_b))[extreme.side]
        marked, values = side.factor(extreme.mark)[at] == 1, side.factor(extreme.factor)[at]
        for one in range(layout.cells):
            held = values[marked & (cell == one)]
            if len(held):
                found[row, one] = held.max() if extreme.largest else held.min()
    return found


def plain_dominated(layout: Layout, a: SideRows, b: SideRows) -> npt.NDArray[np.bool_]:
    """Where one person has more than the limit of a term's magnitudes. shape (terms, cells)."""
    found = np.zeros((len(layout.terms), layout.cells), dtype=np.bool_)
    if layout.dominance is None:
        return found
    share = layout.dominance
    at_a, at_b = plain_pairs(layout, a, b)
    cell = plain_cells(layout, a, b, at_a, at_b)
    for index in limited_terms(layout):
        term = layout.terms[index]
        size, inside = np.abs(a.factor(term.left)[at_a] * b.factor(term.right)[at_b]), cell
        if term.outer:
            size, inside = np.abs(a.factor(term.left)), a.group
        for one in range(layout.cells):
            held = size[inside == one]
            if len(held):
                largest, total = int(held.max()), int(held.sum())
                found[index, one] = largest * share.denominator > total * share.numerator
    return found


def limited_terms(layout: Layout) -> tuple[int, ...]:
    """The terms under the dominance limit: those that sum one side's factor and are no gate."""
    if layout.dominance is None:
        return ()
    return tuple(
        index
        for index, term in enumerate(layout.terms)
        if term.people != index and COUNTED in (term.left, term.right)
    )


def plain_cells(
    layout: Layout, a: SideRows, b: SideRows, at_a: Int64Array, at_b: Int64Array
) -> Int64Array:
    """The cell of each pair, or NO_GROUP. shape (pairs,)."""
    group_a, group_b = a.group[at_a], b.group[at_b]
    inside = (group_a != NO_GROUP) & (group_b != NO_GROUP)
    cell: Int64Array = np.where(inside, group_a * layout.groups_b + group_b, NO_GROUP)
    return cell


def plain_output(
    layout: Layout, a: SideRows, b: SideRows, *, noise: Int64Array | None = None
) -> Int64Array:
    """The output vector of `crypto.joins.layout` in the clear.

    noise: shape (terms, cells): both authors' draws together, in ring units; absent for none.
    """
    exact = plain_terms(layout, a, b)
    noisy = exact if noise is None else exact + noise
    gates = list(layout.gates)
    enough = (exact[gates] >= layout.min_group) & (noisy[gates] >= layout.min_group + layout.slack)
    # A sum that one person dominates is withheld with everything behind the same gate: the output
    # has no other way to say "not shown", and 0 would be read as the sum.
    for term, dominated in enumerate(plain_dominated(layout, a, b)):
        enough[gates.index(layout.terms[term].people)] &= ~dominated
    of_term = [gates.index(term.people) for term in layout.terms]
    of_extreme = [gates.index(extreme.people) for extreme in layout.extremes]
    values = np.where(enough[of_term], noisy, 0)
    values[gates] = rounded(values[gates], layout.round_counts)
    extremes = np.where(enough[of_extreme], plain_extremes(layout, a, b), 0)
    flat: Int64Array = np.concatenate(
        [enough.astype(np.int64).ravel(), values.ravel(), extremes.ravel()]
    )
    return flat


def rounded(counts: Int64Array, multiple: int) -> Int64Array:
    """The nearest multiple, half upwards. counts: 0 or above."""
    near: Int64Array = (counts + multiple // 2) // multiple * multiple
    return near


def pairs_that_hold(
    layout: Layout, a: SideRows, b: SideRows, at_a: Int64Array, at_b: Int64Array
) -> npt.NDArray[np.bool_]:
    """Which matched pairs fulfil every comparison. shape (pairs,)."""
    keep = np.ones(len(at_a), dtype=np.bool_)
    compare: dict[str, np.ufunc] = {
        "=": np.equal,
        "!=": np.not_equal,
        "<": np.less,
        "<=": np.less_equal,
        ">": np.greater,
        ">=": np.greater_equal,
    }
    for comparison in layout.comparisons:
        both = (a.factor(comparison.left_mark)[at_a] == 1) & (
            b.factor(comparison.right_mark)[at_b] == 1
        )
        left, right = a.factor(comparison.left)[at_a], b.factor(comparison.right)[at_b]
        keep &= both & compare[comparison.order.value](left, right)
    return keep


def _distinct(tokens: npt.NDArray[np.uint8]) -> bool:
    """Sorting by half a token tells all of them apart but for one table of 10**7 rows in 10**5;
    sorting by whole ones takes a hundred times as long."""
    half = np.sort(tokens.view(np.uint64)[:, 0])
    return not (half[1:] == half[:-1]).any() or len(np.unique(tokens.view("V16"))) == len(tokens)


def _require(name: str, array: npt.NDArray[np.generic], kind: type, shape: tuple[int, ...]) -> None:
    if array.dtype != kind or array.shape != shape:
        raise Malformed(name, f"is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}")
