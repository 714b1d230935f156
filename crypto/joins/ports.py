"""What the `sum` join needs from outside: a group to mask keys in, and additive encryption; and
what an unbalanced intersection does: a keyed function that one side evaluates for the other, and a
place for what is kept between jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from crypto.digest import Digest
from crypto.ports import Randomness

POINT_BYTES: Final = 32
MASK_BITS: Final = 118  # of what hides a sum from the owner of its key
MASK_SECRET_BYTES: Final = 32
SUM_BITS: Final = 63  # of a sum made positive: see MAX_ABSOLUTE_SUM

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


class KeyMask(Protocol):
    """One party's secret of one attempt; two parties' masks commute."""

    def first(self, tokens: UInt8Array) -> UInt8Array:
        """Masks of tokens, shape (n, 16) to (n, 32); pseudo-random to whoever lacks the secret."""
        ...

    def again(self, points: UInt8Array) -> UInt8Array:
        """A peer's masks, masked once more. Raises EngineFailed (mismatch) for what is no mask."""
        ...


class ValueOwner(Protocol):
    """The end that encrypts its rows and opens the masked sums."""

    @property
    def public_key(self) -> bytes: ...

    def encrypt(self, columns: Int64Array) -> bytes:
        """One message. columns: shape (at most rows_per_message, values)."""
        ...

    def open(self, reply: bytes | bytearray) -> list[int]:
        """Sum plus mask, per column: integers from 0 up to 2**MASK_BITS + 2**SUM_BITS.

        Raises EngineFailed (mismatch) if the reply cannot be one.
        """
        ...


class ValueAdder(Protocol):
    """The end that adds what it cannot read."""

    def add(self, message: bytes | bytearray, picked: BoolArray) -> None:
        """Add up the rows of one message that are picked. Raises EngineFailed (mismatch)."""
        ...

    def close(self, masks: Sequence[int]) -> bytes:
        """Sums plus masks, per column, so that nothing but their values can be read from the
        ciphertexts. Afterwards this end is used up."""
        ...


class ValueEncryption(Protocol):
    """Additively homomorphic encryption of integers; keys serve one attempt."""

    @property
    def rows_per_message(self) -> int: ...

    def owner(self, columns: int, randomness: Randomness) -> ValueOwner: ...

    def adder(
        self, public_key: bytes | bytearray, columns: int, randomness: Randomness
    ) -> ValueAdder:
        """Raises EngineFailed (mismatch) if these are no key's bytes."""
        ...


@dataclass(frozen=True)
class KeptSecret:
    """What the server of an unbalanced intersection keeps. rows: whose tokens were masked; items:
    digest of the masked keys, in the order in which the client keeps them."""

    secret: bytes = field(repr=False)
    rows: Digest
    items: Digest


class Kept(Protocol):
    """What one side keeps for later jobs, under one name. Only its owner can read it.

    Nothing, where it is not there or is not whole. It may be gone at any time.
    """

    def secret(self) -> KeptSecret | None:
        """The server's."""
        ...

    def items(self) -> UInt8Array | None:
        """The client's masked keys, shape (n, 12)."""
        ...

    def keep_secret(self, secret: KeptSecret) -> None:
        """Instead of what was there."""
        ...

    def keep_items(self, items: UInt8Array) -> None:
        """Instead of what was there."""
        ...

    def drop(self) -> None:
        """Safe to repeat."""
        ...


class Masking(Protocol):
    """The oblivious pseudo-random function of an unbalanced intersection."""

    def mask(self, tokens: UInt8Array, secret: bytes) -> UInt8Array:
        """At the server alone: shape (n, 16) to (n, 12), in any order."""
        ...

    def answer(self, secret: bytes) -> None:
        """The server's part of one evaluation of the client's tokens, whatever they are."""
        ...

    def ask(self, tokens: UInt8Array, items: UInt8Array) -> Int64Array:
        """The client's part: positions of the tokens whose masked form is among `items`."""
        ...


class PeerLink(Protocol):
    """Ordered messages to and from the one peer."""

    def send(self, payload: bytes) -> None: ...

    def receive(self) -> bytes: ...
