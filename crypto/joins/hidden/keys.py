"""Keys: the function F, what it is keyed with, shuffles, tags.

Specification: docs/hidden_join.md, *Keys*. The ring is the integers modulo 2**64.

    F(k, label, i)   AES-128 in counter mode under k, initial block = label (8 bytes) | 0 (8 bytes),
                     words of 8 bytes, little-endian (NIST SP 800-38A, section 6.5). A `Pad` is F
                     under one key; it hands each label out once, as a stream that never rewinds.
    PRF              keyed BLAKE2b, 16 bytes (RFC 7693)
    key derivation   HKDF-SHA256 (RFC 5869), one label per purpose
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.engine import Seat
from crypto.errors import Malformed
from crypto.joinkeys import TOKEN_BYTES, TOKEN_KEY_BYTES, JoinKeys
from crypto.sharing import UInt64Array

SEED_BYTES: Final = 16
TAG_BYTES: Final = TOKEN_BYTES
BLOCK: Final = 2**18  # words or rows worked on at a time: 2 MiB of a column

_LABEL: Final = b"unseen/hidden/v1\x00"
_NAMES: Final = b"unseen-names-v1"
_ZEROS: Final = bytes(8 * BLOCK)


class Stream:
    """F(k, label, ·) from i = 0 on; every word is given out once."""

    def __init__(self, key: bytes, label: int) -> None:
        start = label.to_bytes(8, "big") + bytes(8)
        self._encryptor = Cipher(AES(key), CTR(start)).encryptor()

    def fill(self, out: UInt64Array) -> None:
        """Overwrite `out`, which is contiguous, with the next words."""
        view, zeros = out.data.cast("B"), memoryview(_ZEROS)
        for start in range(0, len(view), len(zeros)):
            part = view[start : start + len(zeros)]
            self._encryptor.update_into(zeros[: len(part)], part)

    def words(self, count: int) -> UInt64Array:
        out = np.empty(count, dtype=np.uint64)
        if count:
            self.fill(out)
        return out


class Pad:
    """F under one 16-byte key. A label asked for twice is refused: the difference of two things
    hidden under the same words can be read."""

    def __init__(self, key: bytes) -> None:
        if len(key) != SEED_BYTES:
            raise ValueError("F takes a key of 16 bytes")
        self._key = key
        self._used: set[int] = set()

    def stream(self, label: int) -> Stream:
        if label in self._used:
            raise ValueError(f"label {label} of this key has been used")
        self._used.add(label)
        return Stream(self._key, label)

    def shuffle(self, label: int, count: int) -> npt.NDArray[np.int64]:
        """A secret uniform order of 0 .. count-1: sorts words of F, never a statistical generator.

        Two equal words leave their order to the sort; for 10**7 rows that happens once in 3*10**5
        shuffles and says nothing about what is shuffled.
        """
        return np.argsort(self.stream(label).words(count))


class ZeroUse(IntEnum):
    """What a sharing of zero is for; each is drawn once in an attempt. Labels from PRODUCTS on are
    for columns that are multiplied (`Resharing.product`), one each."""

    CHECK = 0
    EXACT = 1
    NOISY = 2
    LOCAL_LIMIT = 3
    LOCAL_LIMITED = 4
    LIMITED = 5
    OPENING = 6
    CANARY = 7


PRODUCTS: Final = 2**32


@dataclass(frozen=True, repr=False, eq=False)
class PairPads:
    """What is derived from the key of two parties for one attempt (k_AB, k_BC or k_CA).

    zero: labels are ZeroUse; masks: labels are `mask_label`; agreed, coefficients: label 0.
    """

    zero: Pad
    masks: Pad
    agreed: Pad
    coefficients: Pad


@dataclass(frozen=True)
class TagKeys:
    """Known to the holders, never to the helper.

    tag: k_tag, 32 bytes; check: k_chk, 16 bytes
    names, agreed: of three holders, 16 bytes each: k_tag of their rows, and what the number of rows
                   that all three agree on is drawn from
    """

    tag: bytes = field(repr=False)
    check: bytes = field(repr=False)
    names: bytes = field(repr=False)
    agreed: bytes = field(repr=False)


def pair_pads(seat: Seat, peer: int) -> PairPads:
    """The same at both parties, for this plan and attempt only."""
    low, high = sorted((seat.rank, peer))

    def pad(purpose: bytes) -> Pad:
        info = b"\x00".join([_LABEL + seat.attempt.encode(), bytes([low, high]), purpose])
        return Pad(HKDF(SHA256(), SEED_BYTES, salt=seat.plan.raw, info=info).derive(key))

    key = seat.keys[peer]
    return PairPads(pad(b"zero"), pad(b"masks"), pad(b"agreed"), pad(b"coefficients"))


def mask_label(holder: int, column: int) -> int:
    """Label of the words that hide one column of the holder of that rank while it is re-shared."""
    return holder << 32 | column


def tag_keys(token_key: bytes) -> TagKeys:
    """token_key: 32 bytes that the holders derived for this attempt of this job."""
    if len(token_key) != TOKEN_KEY_BYTES:
        raise Malformed("token_key", f"is not {TOKEN_KEY_BYTES} bytes")
    derived = HKDF(SHA256(), 80, salt=None, info=_LABEL + b"tags").derive(token_key)
    return TagKeys(derived[:32], derived[32:48], derived[48:64], derived[64:])


def row_tags(keys: JoinKeys, token_key: bytes) -> npt.NDArray[np.uint8]:
    """PRF(k_tag, "row" | key) of each row, shape (n, 16).

    The node calls this, so that the engine's process and its folder never hold a join key; the tags
    are the `tokens` of the rows it hands over.
    """
    keyed = _prf(tag_keys(token_key).tag)
    keyed.update(b"row")
    found = bytearray()
    for key in keys.canonical:
        one = keyed.copy()
        one.update(key)
        found += one.digest()
    return _as_tags(bytes(found))


def row_names(keys: JoinKeys) -> npt.NDArray[np.uint8]:
    """16 bytes of BLAKE2b of each key, shape (n, 16): the `tokens` of the rows of three holders.

    Three nodes have no key in common before their engines meet, so here the engine makes the tags
    (`tags_of_names`), under a key that A sends D. A name keeps odd bytes from the engine and the
    key's spelling from its folder; whoever can read that folder can test guesses of keys, as it
    could in the holder's own table. Names never leave the holder's machine.
    """
    found = bytearray()
    for key in keys.canonical:
        found += blake2b(key, digest_size=TAG_BYTES, person=_NAMES).digest()
    return _as_tags(bytes(found))


def tags_of_names(keys: TagKeys, names: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """PRF(k_tag, name) of each row, shape (n, 16): AES-128 of the name, a permutation, so distinct
    names have distinct tags. Agreed rows' tags are made otherwise (`agreed_tags`), and meet a row's
    by chance only, once in 2**128 pairs."""
    # Every block is a PRF's input of its own: no mode is wanted.
    encryptor = Cipher(AES(keys.names), ECB()).encryptor()  # noqa: S305
    return _as_tags(encryptor.update(np.ascontiguousarray(names).tobytes()))


def agreed_tags(keys: TagKeys, count: int, overlap: bytes = b"") -> npt.NDArray[np.uint8]:
    """PRF(k_tag, "agreed" | i) for i = 0 .. count-1, shape (count, 16). No row's tag is among
    them: "row" and "agreed" begin differently.

    overlap: of three holders, one byte that says whose rows these are, written before i
    """
    found = bytearray()
    for index in range(count):
        one = _prf(keys.tag)
        one.update(b"agreed" + overlap + index.to_bytes(8, "big"))
        found += one.digest()
    return _as_tags(bytes(found))


def check_words(keys: TagKeys, tags: npt.NDArray[np.uint8]) -> UInt64Array:
    """64 bits of AES-128(k_chk, tag) of each row, shape (n,).

    A PRF of the tag, where the specification has a PRF of the tag's input: tags are distinct for
    distinct inputs (but for 2**-128 a pair), so it distinguishes the same rows, and one call does
    a whole block.
    """
    return _checked(keys, tags)[:, 0].copy()


def canary_words(keys: TagKeys, tags: npt.NDArray[np.uint8]) -> UInt64Array:
    """The other 64 bits, shape (n,): what agreed rows have in the canary column. Words that the
    helper can't guess, where the specification has 1: of ones it could guess how many it lost, and
    add as many to its share of their sum."""
    return _checked(keys, tags)[:, 1].copy()


class ZeroShares:
    """This party's words of a fresh sharing of zeros over A, B and C, one after another.

    A: F(k_AB) - F(k_CA), B: F(k_BC) - F(k_AB), C: F(k_CA) - F(k_BC). Any two of the three are
    uniform to whoever lacks one of their keys.
    """

    def __init__(self, rank: int, pads: Mapping[int, PairPads], label: int) -> None:
        self._plus, self._minus = (pads[(rank + i) % 3].zero.stream(label) for i in (1, 2))

    def words(self, count: int) -> UInt64Array:
        share = self._plus.words(count)
        share -= self._minus.words(count)
        return share


def zero_share(rank: int, pads: Mapping[int, PairPads], use: ZeroUse, count: int) -> UInt64Array:
    """The whole of one sharing of `count` zeros, shape (count,)."""
    return ZeroShares(rank, pads, use).words(count)


def _checked(keys: TagKeys, tags: npt.NDArray[np.uint8]) -> UInt64Array:
    # Every block is a different tag, and each is a PRF's input of its own: no mode is wanted.
    encryptor = Cipher(AES(keys.check), ECB()).encryptor()  # noqa: S305
    words = np.frombuffer(encryptor.update(np.ascontiguousarray(tags).tobytes()), dtype=np.uint64)
    return words.reshape(-1, 2)


def _prf(key: bytes) -> blake2b:
    return blake2b(digest_size=TAG_BYTES, key=key)


def _as_tags(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, TAG_BYTES)
