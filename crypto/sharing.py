"""Additive sharing modulo 2**64, and the zero shares that make two shares fresh.

An engine's output shares may depend on what went into it. Before they leave, each party adds a
share of zero that only the two parties can compute: the sum stays, everything else is uniform.
Shares travel as little-endian 64-bit words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from crypto.errors import Malformed

ZERO_KEY_BYTES: Final = 32

UInt64Array = npt.NDArray[np.uint64]


def zero_shares(key: bytes, count: int, *, sign: Literal[1, -1]) -> UInt64Array:
    """One party's shares of `count` zeros, shape (count,); the other party takes the other sign.

    key: 32 bytes that both parties derived for this attempt of this job and for nothing else.
         A key used twice lets a receiver subtract the masks away.
    Source: AES-256 in counter mode from block 0 (NIST SP 800-38A, section 6.5).
    """
    if len(key) != ZERO_KEY_BYTES:
        raise Malformed("zero_key", f"is not {ZERO_KEY_BYTES} bytes")
    encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
    words = np.frombuffer(encryptor.update(bytes(8 * count)), dtype="<u8").astype(np.uint64)
    return words if sign == 1 else np.negative(words)


def to_bytes(share: UInt64Array) -> bytes:
    return share.astype("<u8").tobytes()


def from_bytes(data: bytes) -> UInt64Array:
    """Raises Malformed if `data` is not a whole number of 64-bit words."""
    if len(data) % 8:
        raise Malformed("share", "is not a whole number of 64-bit words")
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)


def recombine(shares: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """The shared values, as signed integers. Raises Malformed if the lengths differ."""
    first, *others = (from_bytes(share) for share in shares)
    total = first
    for other in others:
        if other.shape != first.shape:
            raise Malformed("share", f"has {len(first)} values, its counterpart {len(other)}")
        total = total + other
    return total.view(np.int64)
