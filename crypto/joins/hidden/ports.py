"""What the hidden join needs from outside: noise, and computing on shares beyond sums of products.

Replicated shares. A value is the sum of three components modulo 2**64, numbered 0, 1, 2; rank i
(A, B, C are 0, 1, 2) holds components i and i + 1 (modulo 3), in this order, so `second` of one
rank equals `first` of the next. Signed values are two's complement. Arrays are contiguous uint64.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from crypto.joins.layout import Layout
from crypto.noise import Distribution
from crypto.sharing import UInt64Array


@dataclass(frozen=True, eq=False, repr=False)
class Replicated:
    """One party's two components of the same shape. Never printed."""

    first: UInt64Array
    second: UInt64Array


@dataclass(frozen=True, eq=False, repr=False)
class RowResults:
    """What was computed on each pair and then summed up by cell, as replicated shares.

    terms:     shape (terms * cells,), as `plain_terms` gives them; what stands at a term with
               `outer` is ignored (it does not depend on the pairs)
    extremes:  shape (extremes * cells,), not gated: anything where a cell has no such row
    dominance: shape (gates * cells,): 0 where a term of `crypto.joins.rows.limited_terms` that is
               gated there and is not `outer` breaks the limit over the pairs that hold, else 1.
               None where the layout has no limit. (A's own totals are limited by A.)
    """

    terms: Replicated
    extremes: Replicated
    dominance: Replicated | None


class NoiseSource(Protocol):
    def draw(
        self, distribution: Distribution, scale: Fraction, count: int
    ) -> npt.NDArray[np.int64]:
        """`count` independent draws of the discrete distribution around 0, shape (count,).

        scale: b of discrete Laplace, sigma of discrete Gaussian, in ring units.
        """
        ...


class ThreePartyEngine(Protocol):
    """Computes on replicated shares. All three parties make the same calls in the same order;
    each gives its own components and gets its own components of the answer. Nothing is opened.

    Raises EngineFailed if the engine fails or a peer goes away.
    """

    def gate(self, layout: Layout, exact: Replicated, noisy: Replicated) -> Replicated:
        """The output vector of `layout` without its extremes: shape ((gates + terms) * cells,).

        exact: shape (terms * cells,), terms outermost: the sums without noise
        noisy: the same shape: what may be shown. It is `exact` itself, the same object, where the
               plan adds no noise.

        For each gate g and cell, with k = min_group and s = slack:
            ok = (exact[g] >= k) and (noisy[g] >= k + s)       0 or 1
        and for each term t with people == g:
            value = ok * noisy[t]                              counts rounded by `round_counts`
        Dominance is applied by the caller.
        """
        ...

    def rows(self, layout: Layout, columns_a: Replicated, columns_b: Replicated) -> RowResults:
        """What must be computed on each pair: comparisons, extremes, the dominance limit.

        columns_a, columns_b: shape (columns, pairs), pair i of one beside pair i of the other; the
            order is that of `crypto.joins.hidden.columns.row_columns(layout, rank)`: first the
            groups, one-hot; then factors, of which the first is COUNTED, the row's validity.

        Only some pairs are real: a pair counts where *both* validities are 1. All columns of a row
        that is not real are 0, so a comparison may well be true there: multiply by validity.
        """
        ...
