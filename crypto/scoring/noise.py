"""Gaussian noise from the randomness port, for slots of a ciphertext and for decrypted scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto.ports import Randomness
from crypto.scoring.parameters import Parameters

PIECE_BITS: Final = 40  # each piece of flooding noise is so many bits finer than the one before


def gaussian(randomness: Randomness, count: int) -> npt.NDArray[np.float64]:
    """`count` independent standard Gaussian numbers, as float64; none is beyond 8.6.

    For noise that hides by its width. Not for differential privacy, where the gaps between
    floating-point numbers tell (Mironov 2012); crypto.noise draws that.
    Source: Box and Muller 1958.
    """
    half = (count + 1) // 2
    words = np.frombuffer(randomness.draw(16 * half), dtype="<u8").reshape(2, half)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53  # in (0, 1]
    radius, angle = np.sqrt(-2.0 * np.log(uniform[0])), 2.0 * np.pi * uniform[1]
    drawn: npt.NDArray[np.float64] = np.concatenate(
        [radius * np.cos(angle), radius * np.sin(angle)]
    )[:count]
    return drawn


def flood(
    parameters: Parameters, *, rows: int, sigma: float, scale: float, randomness: Randomness
) -> Iterator[npt.NDArray[np.complex128]]:
    """A reply's noise in slots, in pieces of shape (slots,) that are encoded and added one by one.

    rows:  slots that hold scores: their real parts get standard deviation `sigma`, which is in
           units of the message; everything else gets the parameter set's wide noise as well.
    scale: the reply's, by which the encoder multiplies before it rounds to integers

    The encoder reckons with 53-bit numbers, so one piece alone would be a multiple of 2**k for
    some large k and leave the low bits of the coefficients bare, which is where the weights
    are. Each further piece fills the gaps of the one before, down to single integers. Complex
    noise of one variance in every slot is Gaussian of one variance in every coefficient.
    """
    shape = (2, parameters.slots)
    wide = gaussian(randomness, 2 * parameters.slots).reshape(shape) * 2.0**parameters.wide
    wide[0, :rows] = 0.0
    yield wide[0] + 1j * wide[1]
    while True:
        drawn = gaussian(randomness, 2 * parameters.slots).reshape(shape) * sigma
        yield drawn[0] + 1j * drawn[1]
        if sigma * scale / math.sqrt(parameters.slots) < 2.0**PIECE_BITS:
            return
        sigma *= 2.0**-PIECE_BITS
