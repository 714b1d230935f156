"""The gate of a join's output as an SPU program, the same for two parties and for three.

Rows are laid out so that the program is a handful of vector operations, for compiling it is what
takes time: every row of the output, `ok` or term, has its gate's counts beside it. Rows that are
rounded come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import jax.numpy as jnp
import numpy as np

from crypto.adapters.spu_machine import program
from crypto.joins.layout import Layout
from crypto.sharing import UInt64Array

COUNT_BITS: Final = 30  # counts are rounded exactly below 2**30


@dataclass(frozen=True)
class GateRows:
    """The output's rows of `layout` but its extremes: counts of people, `ok`s, other terms."""

    layout: Layout

    @property
    def length(self) -> int:
        return self.layout.cells * (len(self.layout.gates) + len(self.layout.terms))

    def counts(self, by_term: UInt64Array) -> UInt64Array:
        """The gate's row beside each row. by_term, one share or component: shape (terms, cells)."""
        gates = self.layout.gates
        beside: UInt64Array = by_term[[*gates, *gates, *self._behind()]].ravel()
        return beside

    def values(self, by_term: UInt64Array, one: int) -> UInt64Array:
        """What each row shows if it may. one: this share or component of the number 1."""
        gates = list(self.layout.gates)
        ones = np.full((len(gates), self.layout.cells), one, dtype=np.uint64)
        rows: UInt64Array = np.concatenate([by_term[gates], ones, by_term[self._others()]])
        return rows.ravel()

    def output(self, shown: UInt64Array) -> UInt64Array:
        """The rows in the layout's order."""
        gates, rows = len(self.layout.gates), shown.reshape(-1, self.layout.cells)
        terms = np.empty((len(self.layout.terms), self.layout.cells), dtype=np.uint64)
        terms[list(self.layout.gates)] = rows[:gates]
        terms[self._others()] = rows[2 * gates :]
        ordered: UInt64Array = np.concatenate([rows[gates : 2 * gates], terms])
        return ordered.ravel()

    def _others(self) -> list[int]:
        return [i for i in range(len(self.layout.terms)) if i not in self.layout.gates]

    def _behind(self) -> list[int]:
        return [self.layout.terms[term].people for term in self._others()]


@cache
def gate_program(layout: Layout, *, noised: bool, most: int | None) -> Any:
    """`counted`, `values` (and `noisy`, the counts that are shown, if `noised`) to `shown`.

    most: counts of people in both tables are at most so many, or they are not shown; None where
          that needs no proof
    """
    rows = GateRows(layout)
    rounded_rows = layout.cells * len(layout.gates)
    inner = rows.counts(
        np.array([[not term.outer] * layout.cells for term in layout.terms], dtype=np.uint64)
    )

    def gate(counted: Any, values: Any, *noisy: Any) -> Any:
        shown_counts = noisy[0] if noised else counted
        ok = shown_counts >= layout.min_group + layout.slack
        if noised:
            ok = jnp.logical_and(ok, counted >= layout.min_group)
        if most is not None:
            ok = jnp.logical_and(ok, counted <= np.where(inner == 1, most, 2**62))
        # A comparison is shared as bits; choosing between shared numbers makes it arithmetic.
        shown = jnp.where(ok, values, 0)
        if layout.round_counts == 1:
            return shown
        near = rounded(shown[:rounded_rows], layout.round_counts)
        return jnp.concatenate([near, shown[rounded_rows:]])

    names = ["counted", "values", *(["noisy"] if noised else [])]
    return program(gate, dict.fromkeys(names, (rows.length,)), ["shown"])


def rounded(counts: Any, multiple: int) -> Any:
    """The nearest multiple of counts below 2**30, half upwards: exact on shares.

    Source: division by an invariant multiplication, Granlund and Montgomery 1994, theorem 4.2:
    floor(x / m) = floor(x * ceil(2**s / m) / 2**s) for x < 2**b and s = b + ceil(log2(m)).
    """
    bits = COUNT_BITS + 1  # with half a multiple added
    shift = bits + (multiple - 1).bit_length()
    factor = -(-(1 << shift) // multiple)
    return jnp.right_shift((counts + multiple // 2) * factor, shift) * multiple
