"""Masks that commute, on Curve25519: H(token)^a, and (H(token)^a)^b = (H(token)^b)^a.

X25519 (RFC 7748) works on x-coordinates alone, and its scalars, clamped or not, commute there. What
must be taken care of, and is:

- Half of all 32-byte strings are x-coordinates of the *twist*. A mask leaves a point on its curve,
  and anybody can tell the two apart: one bit of every key would survive the mask. So a hash that
  falls on the twist is drawn again, and a peer's point on the twist is refused.
- The group has a subgroup of order 8. Clamped scalars are multiples of 8, so every masked point
  lies in the subgroup of prime order and nothing of the key's place modulo 8 survives either.
  It also means that P and P + (point of small order) have one mask: callers look for repeats
  after masking.
- A point has one spelling: below the prime, top bit clear. Others are refused, and so are points
  of small order, whose mask would be 0.

Masks hide under the decisional Diffie-Hellman assumption in the prime-order subgroup, with
exponents from a set of 2**251 as in X25519 itself, and BLAKE2b taken for a random oracle. The
number of tries of a hash depends on the token; only its own holder could time it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import gmpy2  # type: ignore[import-untyped]  # it ships no types
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from crypto.errors import EngineFailed, EngineFault
from crypto.joins.ports import POINT_BYTES, UInt8Array
from crypto.ports import Randomness

_PRIME: Final = gmpy2.mpz(2**255 - 19)
_A: Final = 486662  # v**2 = u**3 + A*u**2 + u (RFC 7748, section 4.1)
_PERSON: Final = b"unseen-sum-curve"


@dataclass(frozen=True)
class CurveMask:
    """A `crypto.joins.ports.KeyMask`. 30 microseconds a point."""

    _secret: X25519PrivateKey = field(repr=False)

    @classmethod
    def draw(cls, randomness: Randomness) -> CurveMask:
        return cls(X25519PrivateKey.from_private_bytes(randomness.draw(32)))

    def first(self, tokens: UInt8Array) -> UInt8Array:
        return self._times([_hashed(token.tobytes()) for token in tokens])

    def again(self, points: UInt8Array) -> UInt8Array:
        spelled = [point.tobytes() for point in points]
        if not all(_on_curve(int.from_bytes(one, "little")) for one in spelled):
            raise EngineFailed(EngineFault.MISMATCH, "a masked key is not a point of the curve")
        return self._times(spelled)

    def _times(self, points: list[bytes]) -> UInt8Array:
        exchange, read = self._secret.exchange, X25519PublicKey.from_public_bytes
        try:
            found = b"".join([exchange(read(point)) for point in points])
        except ValueError:
            raise EngineFailed(EngineFault.MISMATCH, "a masked key has small order") from None
        return np.frombuffer(found, dtype=np.uint8).reshape(-1, POINT_BYTES)


def _hashed(token: bytes) -> bytes:
    """The first of a row of hashes that is a point of the curve; two tries on average."""
    for attempt in range(256):
        drawn = blake2b(token, digest_size=POINT_BYTES, salt=bytes([attempt]), person=_PERSON)
        u = int.from_bytes(drawn.digest(), "little") & (2**255 - 1)
        if _on_curve(u):
            return u.to_bytes(POINT_BYTES, "little")
    raise ValueError("256 hashes in a row miss the curve")  # once in 2**256


def _on_curve(u: int) -> bool:
    """Whether `u` is below the prime and v exists; false for u = 0, which has small order."""
    x: Any = gmpy2.mpz(u)
    return bool(x < _PRIME) and gmpy2.jacobi(((x + _A) * x + 1) * x, _PRIME) == 1
