"""One holder's own rows: sums, noise and gate, with nobody else taking part.

There is no secret from anybody here but the receiver, so nothing is shared; the output has the
shape that joins have, and one share of it is all of it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from crypto.joins.layout import Layout
from crypto.joins.rows import grouped_sums, plain_output
from crypto.noise import Distribution
from crypto.sharing import to_bytes
from exchange.query.plan import Noise
from registry.ports import LocalRows

Int64Array = npt.NDArray[np.int64]


class NoiseSource(Protocol):
    def draw(self, distribution: Distribution, scale: Fraction, count: int) -> Int64Array:
        """`count` independent discrete draws of this scale. shape (count,)."""
        ...


def alone(layout: Layout, rows: LocalRows, noise: Noise | None, source: NoiseSource) -> bytes:
    """The gated output vector of a layout with one side, as little-endian words."""
    exact = grouped_sums(layout, rows.group, rows.factors)
    noisy = exact
    if noise is not None:
        noisy = exact + np.stack(
            [source.draw(noise.distribution, scale, layout.cells) for scale in noise.scales]
        )
    return to_bytes(plain_output(layout, exact, noisy).view(np.uint64))
