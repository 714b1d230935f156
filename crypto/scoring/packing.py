"""Rows to slots: one ciphertext for each feature and each block of rows.

Row r of a block sits in slot r of every feature's ciphertext, so weights are plain numbers and no
slot has to move: no Galois keys (tens of megabytes) are made or sent. The last block is as long as
the others; the owner knows from the plan which slots are rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from crypto.scoring.shape import ModelShape

Float64Array = npt.NDArray[np.float64]


def blocks(rows: int, slots: int) -> list[int]:
    """How many rows each block has."""
    return [min(slots, rows - start) for start in range(0, rows, slots)]


def columns(
    shape: ModelShape, features: Float64Array, *, rows: int, slots: int
) -> Iterator[list[Float64Array]]:
    """For each block, each feature's slots, scaled to -1..1 by its bounds.

    features: shape (n, d), clamped, n at most `rows`. Rows are filled up with the middle of
              the bounds, so that the number sent is the plan's and not the table's.
    """
    centre = np.array([feature.centre for feature in shape.features])
    half = np.array([feature.half_width for feature in shape.features])
    # A feature whose bounds are one value has half-width 0 and tells nothing.
    scaled = (features - centre) / np.where(half > 0, half, 1.0)
    for start in range(0, rows, slots):
        block = np.zeros((slots, len(shape.features)))
        found = scaled[start : start + slots]
        block[: len(found)] = found
        yield [np.ascontiguousarray(block[:, i]) for i in range(len(shape.features))]
