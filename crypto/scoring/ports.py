"""What scoring needs of an approximate homomorphic encryption, in the words of the circuits."""

from __future__ import annotations

from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from crypto.ports import Randomness
from crypto.scoring.parameters import Parameters

Float64Array = npt.NDArray[np.float64]
C = TypeVar("C")


class OwnKey(Protocol):
    """The consumer's side: it alone decrypts. Drop the object and the key is gone."""

    @property
    def public(self) -> bytes: ...

    @property
    def relinearisation(self) -> bytes:
        """Empty where the parameter set multiplies no ciphertexts."""
        ...

    def encrypt(self, values: Float64Array) -> bytes:
        """values: shape (slots,), each within -1..1."""
        ...

    def decrypt(self, reply: bytes) -> Float64Array:
        """Real parts, shape (slots,), not yet safe to show: see hiding.

        Raises EngineFailed (mismatch) if this is not a reply of the parameter set.
        """
        ...


class Arithmetic(Protocol[C]):
    """The owner's side: sums and products of ciphertexts that it can't read.

    Every method makes a new ciphertext; what is added must have one scale.
    """

    def read(self, data: bytes) -> C:
        """A feature's ciphertext. Raises EngineFailed (mismatch) unless number of components,
        level, scale, ring and modulus are those of a fresh one."""
        ...

    def add(self, left: C, right: C) -> C: ...

    def plus(self, left: C, constant: float) -> C: ...

    def weighted(self, cipher: C, weight: float) -> C:
        """Times a plain weight; the scale grows by the weights' scale. A weight that rounds to
        nothing counts as the least one, 2**-weights, so that no timing shows it."""
        ...

    def fill_up(self, cipher: C, factor: float, other: C) -> C:
        """cipher + factor * other, where the scale of `cipher` is the larger one."""
        ...

    def multiply(self, left: C, right: C) -> C:
        """Of any two levels. The product has three components until `relinearise`."""
        ...

    def relinearise(self, cipher: C) -> C: ...

    def rescale(self, cipher: C) -> C:
        """Drop the next primes of the parameter set's `drops`."""
        ...

    def reply(self, cipher: C, *, rows: int, sigma: float, randomness: Randomness) -> bytes:
        """Re-randomised and flooded: real parts of the first `rows` slots with noise `sigma`,
        everything else with the parameter set's wide noise."""
        ...


class Scheme(Protocol):
    def make_key(self, parameters: Parameters) -> OwnKey:
        """A fresh key."""
        ...

    def under_key(
        self, parameters: Parameters, public: bytes, relinearisation: bytes
    ) -> Arithmetic[object]:
        """Raises EngineFailed (mismatch) if the keys are not ones of the parameter set."""
        ...
