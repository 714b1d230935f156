"""The `revealed` join: both holders learn who matched; only the receiver learns the result.

Each side turns its rows into integer columns that are zero wherever they should not count: a
one-hot column per group, and per measure one for "has a value" and one for the value, inside the
row's own group. Over the matched rows, in the same order on both sides, every count and every sum
by a pair of groups is then an inner product of a column of A and a column of B, exact modulo
2**64. The engine computes these products, compares the counts with the least group size and
zeroes what is too small, all on shares. Here is what surrounds it: the rows a side hands over,
the columns, and what the receiver reads from two shares.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto.errors import Malformed
from crypto.joinkeys import TOKEN_BYTES
from crypto.joins.layout import RevealedLayout
from crypto.sharing import recombine

NO_GROUP: Final = -1  # a row outside the group's domain; it counts nowhere
# Sums of one side's own rows stay below this, so no sum over matched rows can wrap.
MAX_ABSOLUTE_SUM: Final = 2**62

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class SideRows:
    """One side's rows, one for each person, in any order. Never printed.

    tokens: shape (n, 16), uint8, distinct: see crypto.joinkeys
    group:  shape (n,), int64: the row's group, or NO_GROUP
    values: shape (n, measures), int64, fixed point as the plan says; ignored where not valid
    valid:  shape (n, measures), bool: False where the value is missing
    """

    tokens: npt.NDArray[np.uint8]
    group: Int64Array
    values: Int64Array
    valid: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.tokens)
        _require("tokens", self.tokens, np.uint8, (n, TOKEN_BYTES))
        _require("group", self.group, np.int64, (n,))
        _require("values", self.values, np.int64, (n, *self.values.shape[1:2]))
        _require("valid", self.valid, np.bool_, self.values.shape)

    def __len__(self) -> int:
        return len(self.tokens)

    def require(self, layout: RevealedLayout, rank: int) -> None:
        """Raises Malformed, naming the field, where these rows are not what `layout` says."""
        groups, measures = layout.groups(rank), layout.own_measures(rank)
        if self.values.shape[1] != measures:
            raise Malformed("values", f"have {self.values.shape[1]} measures, the plan {measures}")
        if len(self) and (self.group.min() < NO_GROUP or self.group.max() >= groups):
            raise Malformed("group", f"is outside 0..{groups - 1}")
        for measure in range(measures):
            held = self.values[self.valid[:, measure], measure]
            # In floating point, with room to spare: an int64 sum could wrap and look small.
            if float(np.abs(held.astype(np.float64)).sum()) >= MAX_ABSOLUTE_SUM:
                raise Malformed(f"values[{measure}]", "could add up to 2**62 or more")
        if len(np.unique(self.tokens, axis=0)) != len(self):
            raise Malformed("tokens", "are not distinct; a join key occurs twice")

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(
                file, tokens=self.tokens, group=self.group, values=self.values, valid=self.valid
            )

    @classmethod
    def load(cls, path: Path) -> SideRows:
        with np.load(path, allow_pickle=False) as held:
            return cls(held["tokens"], held["group"], held["values"], held["valid"])


@dataclass(frozen=True, eq=False, repr=False)
class SideColumns:
    """Integer columns of some rows of one side, in the engine's order.

    groups:   shape (rows, groups), one-hot, zero outside the domain
    measures: shape (rows, measures * 2 * groups): for each measure the columns of "has a value",
              then those of the value
    """

    groups: Int64Array
    measures: Int64Array


def side_columns(rows: SideRows, groups: int, *, at: Int64Array) -> SideColumns:
    """The columns of the rows at positions `at`, in that order."""
    one_hot = (rows.group[at, None] == np.arange(groups)).astype(np.int64)
    valid = rows.valid[at].astype(np.int64)
    pair = np.stack([valid, np.where(rows.valid[at], rows.values[at], 0)], axis=2)
    measures = pair[:, :, :, None] * one_hot[:, None, None, :]
    return SideColumns(one_hot, measures.reshape(len(at), pair.shape[1] * 2 * groups))


@dataclass(frozen=True)
class ShownMeasure:
    """valid: people of the cell with a value; total: the sum of their values."""

    valid: int
    total: int


@dataclass(frozen=True)
class Cell:
    """One pair of groups. None is *suppressed*: too few people, which is not the same as zero.

    measures: those of side A, then those of side B
    """

    group_a: int
    group_b: int
    count: int | None
    measures: tuple[ShownMeasure | None, ...] = field(default=())


def open_cells(layout: RevealedLayout, share_a: bytes, share_b: bytes) -> tuple[Cell, ...]:
    """What the receiver reads from both parties' output shares, cell by cell.

    Raises Malformed if the shares do not belong to each other or to this layout: two shares of
    different runs add up to noise, which this notices.
    """
    flat = recombine(share_a, share_b)
    if len(flat) != layout.outputs:
        raise Malformed("shares", f"hold {len(flat)} values; the plan has {layout.outputs}")
    gates, cells = 1 + layout.measures, layout.cells
    ok, people, totals = np.split(flat, [gates * cells, 2 * gates * cells])
    ok, people = ok.reshape(gates, cells), people.reshape(gates, cells)
    totals = totals.reshape(layout.measures, cells)
    right = ((ok == 0) | (ok == 1)).all() and (np.where(ok == 1, people, 0) == people).all()
    right = right and (people[ok == 1] >= layout.min_group).all()
    right = right and (np.where(ok[1:] == 1, totals, 0) == totals).all()
    if not right:
        raise Malformed("shares", "do not belong to one run of this plan")
    return tuple(
        Cell(
            group_a=cell // layout.groups_b,
            group_b=cell % layout.groups_b,
            count=int(people[0, cell]) if ok[0, cell] else None,
            measures=tuple(
                ShownMeasure(int(people[1 + m, cell]), int(totals[m, cell]))
                if ok[1 + m, cell]
                else None
                for m in range(layout.measures)
            ),
        )
        for cell in range(cells)
    )


def gated_output(layout: RevealedLayout, a: SideColumns, b: SideColumns) -> Int64Array:
    """The output vector in the clear, from the matched rows of both sides in the same order.

    This is the specification that engines are held to; no process that runs a deal holds both
    arguments.
    """
    count = a.groups.T @ b.groups
    of_a = (a.measures.T @ b.groups).reshape(layout.measures_a, 2, layout.cells)
    of_b = (
        (a.groups.T @ b.measures)
        .reshape(layout.groups_a, layout.measures_b, 2, layout.groups_b)
        .transpose(1, 2, 0, 3)
        .reshape(layout.measures_b, 2, layout.cells)
    )
    pairs = np.concatenate([of_a, of_b])
    people = np.concatenate([count.reshape(1, -1), pairs[:, 0]])
    ok = people >= layout.min_group
    return np.concatenate(
        [
            ok.astype(np.int64).ravel(),
            np.where(ok, people, 0).ravel(),
            np.where(ok[1:], pairs[:, 1], 0).ravel(),
        ]
    )


def _require(name: str, array: npt.NDArray[np.generic], kind: type, shape: tuple[int, ...]) -> None:
    if array.dtype != kind or array.shape != shape:
        raise Malformed(name, f"is {array.dtype} {array.shape}, not {np.dtype(kind)} {shape}")
