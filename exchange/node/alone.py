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
from crypto.joins.rows import SideRows, plain_output
from crypto.noise import Distribution
from crypto.sharing import to_bytes
from exchange.query.plan import Noise

Int64Array = npt.NDArray[np.int64]


class NoiseSource(Protocol):
    def draw(self, distribution: Distribution, scale: Fraction, count: int) -> Int64Array:
        """`count` independent discrete draws of this scale. shape (count,)."""
        ...


def alone(layout: Layout, rows: SideRows, noise: Noise | None, source: NoiseSource) -> bytes:
    """The gated output vector of a layout whose terms are all `outer`, as little-endian words.

    One full draw for each number: its author is the holder, who has the rows anyway.
    """
    nobody = SideRows(
        np.zeros((0, 16), dtype=np.uint8),
        np.zeros(0, dtype=np.int64),
        np.zeros((0, layout.factors_b - 1), dtype=np.int64),
    )
    drawn = None
    if noise is not None:
        drawn = np.stack(
            [source.draw(noise.distribution, scale, layout.cells) for scale in noise.scales]
        )
    return to_bytes(plain_output(layout, rows, nobody, noise=drawn).view(np.uint64))
