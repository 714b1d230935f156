"""What SPU computes on each pair of the hidden join: comparisons, extremes, the dominance limit.

Columns come as `crypto.joins.hidden.columns.row_columns` orders them: the groups, one-hot, then
factors. All are 0 on rows that are nobody's, so whatever is multiplied by a pair's groups of both
sides is 0 unless both rows are real; a comparison alone would hold there.

Largest and least are one thing: the largest of `value - low`, or of `high - value`, over numbers
that are 0 where a row does not take part, and that are never below 0.

Nobody has more than p/q of a cell's total where q * size <= p * total for every row of it. That is
one comparison a row against its own cell's total, where a maximum would need one a row and cell;
but the totals must be known first, so it is a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jax.numpy as jnp

from crypto.joins.hidden.columns import Column, row_columns
from crypto.joins.layout import COUNTED, Extreme, Layout, Order
from crypto.joins.rows import limited_terms

# Memory follows the block: a program holds a few times so many shared numbers, of 16 bytes each.
NUMBERS_PER_BLOCK: Final = 2**21

_COMPARE: Final[Mapping[Order, Callable[[Any, Any], Any]]] = {
    Order.EQUAL: jnp.equal,
    Order.UNEQUAL: jnp.not_equal,
    Order.LESS: jnp.less,
    Order.AT_MOST: jnp.less_equal,
    Order.GREATER: jnp.greater,
    Order.AT_LEAST: jnp.greater_equal,
}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class RowWork:
    """limited: the terms under the dominance limit that depend on pairs
    sizes:   the factors they sum, (side, factor), each once
    """

    layout: Layout
    limited: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layout: Layout) -> RowWork:
        limited = tuple(i for i in limited_terms(layout) if not layout.terms[i].outer)
        sizes = sorted({_size_of(layout, term) for term in limited})
        return cls(layout, limited, tuple(sizes))

    @property
    def sums(self) -> Shapes:
        """What grows from block to block; zeros at first."""
        cells = self.layout.cells
        shapes: Shapes = {"terms": (len(self.layout.terms) * cells,)}
        if self.layout.extremes:
            shapes["best"] = (len(self.layout.extremes) * cells,)
        if self.sizes:
            shapes["totals"] = (len(self.sizes) * cells,)
        return shapes

    def columns(self, rows: int) -> Shapes:
        """Both sides' columns of one block."""
        return {"ab"[side]: (len(row_columns(self.layout, side)), rows) for side in (0, 1)}

    def kept(self, rows: int) -> Shapes:
        """What the second pass needs of the first, of one block."""
        shapes: Shapes = {}
        if self.sizes:
            shapes["sizes"] = (len(self.sizes), rows)
            if self.layout.comparisons:
                shapes["held"] = (rows,)
        return shapes

    @property
    def most_rows(self) -> int:
        """Rows of a block."""
        layout = self.layout
        widest = sum(len(row_columns(layout, side)) * layout.groups(side) for side in (0, 1))
        return max(1, NUMBERS_PER_BLOCK // (widest + layout.cells * len(layout.extremes)))

    def add_block(self, *given: Any) -> tuple[Any, ...]:
        """(sums, columns) of one block to (sums, kept)."""
        layout = self.layout
        names = [*self.sums, *self.columns(0)]
        held_by = dict(zip(names, given, strict=True))
        a, b = (_Side(layout, side, held_by["ab"[side]]) for side in (0, 1))
        kept: dict[str, Any] = {}
        if layout.comparisons:
            kept["held"] = _held(layout, a, b)
            a = a.where(kept["held"])
        sums = {"terms": held_by["terms"] + _terms(layout, a, b)}
        if layout.extremes:
            found = [_largest(extreme, a, b) for extreme in layout.extremes]
            sums["best"] = jnp.maximum(held_by["best"], jnp.concatenate(found))
        if self.sizes:
            magnitudes = [_magnitude((a, b)[side].factor(factor)) for side, factor in self.sizes]
            totals = [
                jnp.matmul(a.groups * m, b.groups.T).reshape(-1)
                if side == 0
                else jnp.matmul(a.groups, (b.groups * m).T).reshape(-1)
                for (side, _), m in zip(self.sizes, magnitudes, strict=True)
            ]
            sums["totals"] = held_by["totals"] + jnp.concatenate(totals)
            takes_part = a.groups.sum(axis=0) * b.groups.sum(axis=0)
            kept["sizes"] = jnp.stack(magnitudes) * takes_part
        return tuple([sums[name] for name in self.sums] + [kept[name] for name in self.kept(0)])

    def limit_block(self, *given: Any) -> Any:
        """(beyond, totals, columns, kept) of one block to `beyond`, how many rows of each cell
        have more than the limit, for each of `sizes`."""
        layout = self.layout
        share = layout.dominance
        if share is None:
            raise ValueError("the layout has no dominance limit")
        names = ["beyond", "totals", *self.columns(0), *self.kept(0)]
        held_by = dict(zip(names, given, strict=True))
        a, b = (_Side(layout, side, held_by["ab"[side]]) for side in (0, 1))
        if layout.comparisons:
            a = a.where(held_by["held"])
        totals = held_by["totals"].reshape(-1, layout.groups_a, layout.groups_b)
        found = []
        for index in range(len(self.sizes)):
            own_total = (jnp.matmul(totals[index].T, a.groups) * b.groups).sum(axis=0)
            size = held_by["sizes"][index]
            beyond = size * share.denominator > own_total * share.numerator
            found.append(jnp.matmul(jnp.where(beyond, a.groups, 0), b.groups.T).reshape(-1))
        return held_by["beyond"] + jnp.concatenate(found)

    def passes(self, beyond: Any, one: Any) -> Any:
        """1 for every gate and cell behind which nobody is beyond the limit, else 0."""
        by_size = beyond.reshape(len(self.sizes), self.layout.cells)
        rows = []
        for gate in self.layout.gates:
            behind = {
                self.sizes.index(_size_of(self.layout, term))
                for term in self.limited
                if self.layout.terms[term].people == gate
            }
            nobody = jnp.zeros(self.layout.cells, dtype=jnp.int64)
            rows.append(sum((by_size[index] for index in sorted(behind)), start=nobody))
        return jnp.where(jnp.concatenate(rows) < 1, one, 0)


@dataclass(frozen=True)
class _Side:
    layout: Layout
    rank: int
    columns: Any

    @property
    def groups(self) -> Any:
        """shape (groups, rows), one-hot."""
        return self.columns[: self.layout.groups(self.rank)]

    def factor(self, factor: int) -> Any:
        """shape (rows,)."""
        return self.columns[row_columns(self.layout, self.rank).index(Column(factor, None))]

    def grouped(self, factor: int) -> Any:
        """The factor in the row's own group: shape (groups, rows)."""
        return self.groups if factor == COUNTED else self.groups * self.factor(factor)

    def where(self, held: Any) -> _Side:
        """The same with the groups of rows that do not hold at zero."""
        groups = self.layout.groups(self.rank)
        columns = jnp.concatenate([self.groups * held, self.columns[groups:]])
        return _Side(self.layout, self.rank, columns)


def _held(layout: Layout, a: _Side, b: _Side) -> Any:
    """1 where every comparison is of two values that are there, and true."""
    held = None
    for c in layout.comparisons:
        true = _COMPARE[c.order](a.factor(c.left), b.factor(c.right))
        marks = a.factor(c.left_mark) * b.factor(c.right_mark)
        marks = marks if held is None else marks * held
        held = jnp.where(true, marks, 0)
    return held


def _terms(layout: Layout, a: _Side, b: _Side) -> Any:
    nothing = jnp.zeros(layout.cells, dtype=jnp.int64)
    wanted = {(term.left, term.right) for term in layout.terms if not term.outer}
    of_a = {left: a.grouped(left) for left in sorted({left for left, _ in wanted})}
    of_b = {right: b.grouped(right) for right in sorted({right for _, right in wanted})}
    sums = {
        (left, right): jnp.matmul(of_a[left], of_b[right].T).reshape(-1)
        for left, right in sorted(wanted)
    }
    return jnp.concatenate(
        [nothing if term.outer else sums[term.left, term.right] for term in layout.terms]
    )


def _largest(extreme: Extreme, a: _Side, b: _Side) -> Any:
    """Of every cell, the largest distance from the bound that the extreme is farthest from."""
    own = (a, b)[extreme.side]
    value = own.factor(extreme.factor)
    distance = value - extreme.low if extreme.largest else extreme.high - value
    marked = own.grouped(extreme.mark) * distance
    left, right = (marked, b.groups) if extreme.side == 0 else (a.groups, marked)
    by_cell = (left[:, None, :] * right[None, :, :]).reshape(-1, value.shape[0])
    return jnp.max(by_cell, axis=1)


def _magnitude(values: Any) -> Any:
    return jnp.where(values < 0, -values, values)


def _size_of(layout: Layout, term: int) -> tuple[int, int]:
    """(side, factor) of a term that sums one side's factor."""
    found = layout.terms[term]
    return (1, found.right) if found.left == COUNTED else (0, found.left)
