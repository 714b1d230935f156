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
from crypto.joins.layout import COUNTED, Layout

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
        """Raises Malformed, naming the field, where these rows are not what `layout` says."""
        groups, factors = layout.groups(rank), layout.factors(rank)
        if self.factors.shape[1] != factors - 1:
            raise Malformed("factors", f"are {self.factors.shape[1] + 1}, the plan has {factors}")
        if len(self) and (self.group.min() < NO_GROUP or self.group.max() >= groups):
            raise Malformed("group", f"is outside 0..{groups - 1}")
        for index in range(factors - 1):
            # In floating point, with room to spare: an int64 sum could wrap and look small.
            if float(np.abs(self.factors[:, index].astype(np.float64)).sum()) >= MAX_ABSOLUTE_SUM:
                raise Malformed(f"factors[{index}]", "could add up to 2**62 or more")
        if len(np.unique(self.tokens.view("V16"))) != len(self):
            raise Malformed("tokens", "are not distinct; a join key occurs twice")

    def factor(self, index: int) -> Int64Array:
        """shape (n,)."""
        if index == COUNTED:
            return np.ones(len(self), dtype=np.int64)
        held: Int64Array = self.factors[:, index - 1]
        return held

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, tokens=self.tokens, group=self.group, factors=self.factors)

    @classmethod
    def load(cls, path: Path) -> SideRows:
        with np.load(path, allow_pickle=False) as held:
            return cls(held["tokens"], held["group"], held["factors"])


def one_hot(group: Int64Array, groups: int) -> Int64Array:
    """shape (n, groups): 1 in the row's group, zero everywhere outside the domain."""
    marks: Int64Array = (group[:, None] == np.arange(groups)).astype(np.int64)
    return marks


def grouped(rows: SideRows, factor: int, groups: int, *, at: Int64Array) -> Int64Array:
    """Columns of one factor, one per group, of the rows at positions `at`: shape (len(at), g)."""
    found: Int64Array = one_hot(rows.group[at], groups) * rows.factor(factor)[at, None]
    return found


def _require(name: str, array: npt.NDArray[np.generic], kind: type, shape: tuple[int, ...]) -> None:
    if array.dtype != kind or array.shape != shape:
        raise Malformed(name, f"is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}")


def plain_terms(layout: Layout, a: SideRows, b: SideRows) -> Int64Array:
    """Every term of every cell in the clear, shape (terms, cells), before gate and noise."""
    place = {token.tobytes(): i for i, token in enumerate(b.tokens)}
    pairs = [
        (i, place[token.tobytes()]) for i, token in enumerate(a.tokens) if token.tobytes() in place
    ]
    at_a = np.array([i for i, _ in pairs], dtype=np.int64)
    at_b = np.array([j for _, j in pairs], dtype=np.int64)
    keep = pairs_that_hold(layout, a, b, at_a, at_b)
    at_a, at_b = at_a[keep], at_b[keep]
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
