"""Values under Paillier (1999), by `phe`: several values of a row in one ciphertext, few rows.

A ciphertext holds integers modulo n, of 3072 bits (128 bits of security, NIST SP 800-57): 25 slots
of 119 bits. Adding is multiplying modulo n**2. The reply is multiplied by a fresh encryption of
the masks, which makes it a *uniform* ciphertext of what it holds: nothing of the rows added can
be read from it, whatever the reader computes. That holds for an honestly made key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gmpy2  # type: ignore[import-untyped]  # it ships no types
from phe import paillier  # type: ignore[import-untyped]  # it ships no types

from crypto.errors import EngineFailed, EngineFault
from crypto.joins.ports import MASK_BITS, SUM_BITS, BoolArray, Int64Array
from crypto.ports import Randomness

KEY_BITS: Final = 3072
_SLOT_BITS: Final = MASK_BITS + 1
_SLOTS: Final = (KEY_BITS - 1) // _SLOT_BITS
_KEY_BYTES: Final = KEY_BITS // 8
_CIPHERTEXT_BYTES: Final = 2 * _KEY_BYTES


class Paillier:
    """A `crypto.joins.ports.ValueEncryption`."""

    rows_per_message: Final = 256

    def owner(self, columns: int, randomness: Randomness) -> PaillierOwner:
        return PaillierOwner(columns, randomness)

    def adder(
        self, public_key: bytes | bytearray, columns: int, randomness: Randomness
    ) -> PaillierAdder:
        n = int.from_bytes(public_key, "big")
        if len(public_key) != _KEY_BYTES or n.bit_length() != KEY_BITS or gmpy2.is_prime(n):
            raise EngineFailed(EngineFault.MISMATCH, "the peer's key is not a Paillier modulus")
        if any(n % small == 0 for small in (2, 3, 5, 7, 11, 13)):
            raise EngineFailed(EngineFault.MISMATCH, "the peer's key is not a Paillier modulus")
        return PaillierAdder(paillier.PaillierPublicKey(n), columns, randomness)


class PaillierOwner:
    """A `ValueOwner`. The key is made here and dies with this object."""

    def __init__(self, columns: int, randomness: Randomness) -> None:
        self._public, self._secret = paillier.generate_paillier_keypair(n_length=KEY_BITS)
        self._columns, self._randomness = columns, randomness

    @property
    def public_key(self) -> bytes:
        return int(self._public.n).to_bytes(_KEY_BYTES, "big")

    def encrypt(self, columns: Int64Array) -> bytes:
        return b"".join(
            _encrypted(self._public, _packed(row[part]), self._randomness)
            for row in columns.tolist()
            for part in _parts(self._columns)
        )

    def open(self, reply: bytes | bytearray) -> list[int]:
        ciphertexts = _ciphertexts(self._public, reply, len(_parts(self._columns)))
        found: list[int] = []
        for part, one in zip(_parts(self._columns), ciphertexts, strict=True):
            packed = self._secret.raw_decrypt(one)
            for _ in range(part.stop - part.start):
                packed, slot = divmod(packed, 2**_SLOT_BITS)
                found.append(slot)
            if packed:
                raise EngineFailed(EngineFault.MISMATCH, "a reply holds more than was asked for")
        if any(slot >= 2**MASK_BITS + 2**SUM_BITS for slot in found):
            raise EngineFailed(EngineFault.MISMATCH, "a reply holds no masked sum")
        return found


class PaillierAdder:
    """A `ValueAdder`."""

    def __init__(self, public: Any, columns: int, randomness: Randomness) -> None:
        self._public, self._columns, self._randomness = public, columns, randomness
        self._square = gmpy2.mpz(public.nsquare)
        self._sums = [gmpy2.mpz(1) for _ in _parts(columns)]

    def add(self, message: bytes | bytearray, picked: BoolArray) -> None:
        parts = len(self._sums)
        ciphertexts = _ciphertexts(self._public, message, parts * len(picked))
        for row in picked.nonzero()[0].tolist():
            for part in range(parts):
                one = ciphertexts[parts * row + part]
                self._sums[part] = self._sums[part] * one % self._square

    def close(self, masks: Sequence[int]) -> bytes:
        reply = bytearray()
        for part, held in zip(_parts(self._columns), self._sums, strict=True):
            fresh = _encrypted(self._public, _packed(masks[part]), self._randomness)
            made = held * int.from_bytes(fresh, "big") % self._square
            reply += int(made).to_bytes(_CIPHERTEXT_BYTES, "big")
        return bytes(reply)


def _parts(columns: int) -> list[slice]:
    """Which columns share a ciphertext."""
    return [slice(i, min(i + _SLOTS, columns)) for i in range(0, columns, _SLOTS)]


def _packed(values: Sequence[int]) -> int:
    """Negative values borrow from the slot above; with the masks added every slot is positive."""
    return sum(value << (_SLOT_BITS * slot) for slot, value in enumerate(values))


def _encrypted(public: Any, plain: int, randomness: Randomness) -> bytes:
    # 128 bits more than n: as good as uniform below it.
    drawn = int.from_bytes(randomness.draw(_KEY_BYTES + 16), "big") % int(public.n)
    made = public.raw_encrypt(plain % int(public.n), r_value=drawn)
    return int(made).to_bytes(_CIPHERTEXT_BYTES, "big")


def _ciphertexts(public: Any, message: bytes | bytearray, count: int) -> list[int]:
    if len(message) != count * _CIPHERTEXT_BYTES:
        raise EngineFailed(EngineFault.MISMATCH, "a message of the peer has another length")
    found = [
        int.from_bytes(message[at : at + _CIPHERTEXT_BYTES], "big")
        for at in range(0, len(message), _CIPHERTEXT_BYTES)
    ]
    if any(one >= public.nsquare or gmpy2.gcd(one, public.n) != 1 for one in found):
        raise EngineFailed(EngineFault.MISMATCH, "a message of the peer is no ciphertext")
    return found
