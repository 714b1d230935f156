"""Released scores as bytes of one length for all jobs of one plan, so that a sealed result does not
tell how many of the rows were meant."""

from __future__ import annotations

import numpy as np

from crypto.errors import Malformed
from crypto.scoring.model import Int64Array


def pack(scores: Int64Array, *, rows: int) -> bytes:
    """Little-endian 64-bit, row by row; then zeros. scores: shape (n, outputs), n up to `rows`."""
    width = 8 * scores.shape[1]
    return scores.astype("<i8").tobytes().ljust(rows * width, b"\x00")


def unpack(data: bytes, *, rows: int, outputs: int) -> Int64Array:
    """shape (rows, outputs); the consumer knows how many of the first rows it meant.

    Raises Malformed if `data` has another length.
    """
    if len(data) != 8 * rows * outputs:
        raise Malformed("scores", "have another size than the plan says")
    return np.frombuffer(data, dtype="<i8").astype(np.int64).reshape(rows, outputs)
