"""Values under BFV (Brakerski 2012, Fan and Vercauteren 2012), by TenSEAL's binding of SEAL: 8192
rows in one ciphertext.

A row's value is one *coefficient* of a polynomial, last row first. The other side multiplies by
the polynomial that has 1 at the rows it picked: the top coefficient of the product is the sum of
the values picked. No slots, rotations or evaluation keys; the factor's coefficients are 0 and 1,
so noise grows by at most the number of rows picked. The sum has to be exact to 119 bits and a
plaintext modulus has 60: everything is done modulo two primes, under two keys. What is multiplied
is 1 + that polynomial, whatever was picked, so that no message takes longer than another; the ones
are taken off again at the end, noise and all, for both are linear.

**Circuit privacy.** The owner of the key knows what it encrypted. In a reply returned as it is,
the second polynomial is a public linear function of *which rows were picked*, and so is the
noise. Therefore the reply is made of:

- a fresh public-key encryption of the mask in the top coefficient and of uniform numbers in all
  others, which hides the second polynomial (ring-LWE, with a secret the owner does not have);
- noise uniform in [-2**92, 2**92) on every coefficient. What the additions leave there is below
  2**29 for 2**24 rows picked, so the noise read by the owner is within 8192 * 2**29 / 2**93 =
  2**-51 of the same for every choice of rows (smudging, Asharov et al. 2012);
- a change to a smaller modulus, which anybody could do, and which makes the reply shorter.

The limit: this is computational, for an honestly made key, and rests on the bounds in this text.
TenSEAL has no noise flooding; the noise is added as a ciphertext (noise, 0) written in SEAL's own
format, which `_check_format` tries on a known answer before any use.

Parameters: ring 8192, modulus 156 + 30 bits in use (SEAL takes 218 for 128 bits of security,
HomomorphicEncryption.org standard 2018; fewer bits are more secure).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal  # type: ignore[import-untyped]  # it ships no types

from crypto.errors import EngineFailed, EngineFault
from crypto.joins.ports import MASK_BITS, SUM_BITS, BoolArray, Int64Array
from crypto.ports import Randomness

RING: Final = 8192
# The two largest primes of 60 bits: their product is above 2**118 + 2**63.
PLAIN_MODULI: Final = (2**60 - 93, 2**60 - 107)
FLOOD_BITS: Final = 93
_MODULUS_BITS: Final = (52, 52, 52, 30)  # the last for keys alone
_TOP: Final = RING - 1
# SEAL's native format: magic, header size, version, no compression, reserved; then the whole size.
_HEADER: Final = struct.Struct("<HBBBBHQ")
_MAGIC: Final = 0xA15E
_VERSION: Final = (4, 3)
_LENGTH: Final = struct.Struct("<I")
# Compression never makes a ciphertext longer than this.
_MAX_CIPHERTEXT: Final = 2 * 3 * RING * 8 + 1024
_MAX_KEY: Final = 2 * 4 * RING * 8 + 1024

UInt64Array = npt.NDArray[np.uint64]


class PackedBfv:
    """A `crypto.joins.ports.ValueEncryption`."""

    rows_per_message: Final = RING

    def owner(self, columns: int, randomness: Randomness) -> BfvOwner:
        return BfvOwner(columns)

    def adder(
        self, public_key: bytes | bytearray, columns: int, randomness: Randomness
    ) -> BfvAdder:
        return BfvAdder(public_key, columns, randomness)


class BfvOwner:
    """A `ValueOwner`. The keys are made here and die with this object."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._ends = [_KeyEnd.make(space) for space in _spaces()]

    @property
    def public_key(self) -> bytes:
        return _joined([end.public for end in self._ends])

    def encrypt(self, columns: Int64Array) -> bytes:
        made: list[bytes] = []
        for column in range(self._columns):
            for end in self._ends:
                coefficients = np.zeros(RING, dtype=np.uint64)
                values = np.mod(columns[:, column], end.space.plain_modulus)
                coefficients[RING - len(values) :] = values[::-1]
                one = seal.Ciphertext()
                end.encryptor.encrypt_symmetric(end.space.plaintext(coefficients), one)
                made.append(_saved(one))
        return _joined(made)

    def open(self, reply: bytes | bytearray) -> list[int]:
        parts = _split(reply, 2 * self._columns, _MAX_CIPHERTEXT)
        found: list[int] = []
        for at in range(0, len(parts), 2):
            first, second = (
                end.top(part) for end, part in zip(self._ends, parts[at : at + 2], strict=True)
            )
            one = _remaindered(first, second)
            if one >= 2**MASK_BITS + 2**SUM_BITS:
                raise EngineFailed(EngineFault.MISMATCH, "a reply holds no masked sum")
            found.append(one)
        return found


class BfvAdder:
    """A `ValueAdder`."""

    def __init__(self, public_key: bytes | bytearray, columns: int, randomness: Randomness) -> None:
        self._columns, self._randomness = columns, randomness
        self._spaces = _spaces()
        self._encryptors = [
            seal.Encryptor(space.context, space.public_key(part))
            for space, part in zip(
                self._spaces, _split(public_key, len(self._spaces), _MAX_KEY), strict=True
            )
        ]
        # Of each message times (1 + picked), and of each message as it came.
        self._sums: list[Any] = [None] * (2 * columns)
        self._came: list[Any] = [None] * (2 * columns)

    def add(self, message: bytes | bytearray, picked: BoolArray) -> None:
        parts = _split(message, len(self._sums), _MAX_CIPHERTEXT)
        # SEAL refuses to multiply by zero and has a short way for one coefficient: by the time the
        # owner waits it would see which blocks have no match, and which have one. So all of a block
        # is picked once, and what matched once more; `close` takes the former off again.
        coefficients = np.ones(RING, dtype=np.uint64)
        coefficients[: len(picked)] += picked
        for index, part in enumerate(parts):
            space = self._spaces[index % 2]
            one = space.ciphertext(part, space.context.first_parms_id())
            product = seal.Ciphertext()
            space.evaluator.multiply_plain(one, space.plaintext(coefficients), product)
            if self._sums[index] is None:
                self._sums[index], self._came[index] = product, one
            else:
                space.evaluator.add_inplace(self._sums[index], product)
                space.evaluator.add_inplace(self._came[index], one)

    def close(self, masks: Sequence[int]) -> bytes:
        made: list[bytes] = []
        for index, held in enumerate(self._sums):
            space, encryptor = self._spaces[index % 2], self._encryptors[index % 2]
            hiding = _uniform(space.plain_modulus, self._randomness)
            hiding[_TOP] = masks[index // 2] % space.plain_modulus
            fresh = seal.Ciphertext()
            encryptor.encrypt(space.plaintext(hiding), fresh)
            if held is not None:
                once = seal.Ciphertext()
                every = space.plaintext(np.ones(RING, dtype=np.uint64))
                space.evaluator.multiply_plain(self._came[index], every, once)
                space.evaluator.add_inplace(fresh, held)
                space.evaluator.sub_inplace(fresh, once)
            space.evaluator.add_inplace(fresh, space.noise(_flood(self._randomness)))
            shorter = seal.Ciphertext()
            space.evaluator.mod_switch_to_next(fresh, shorter)
            made.append(_saved(shorter))
        return _joined(made)


@dataclass(frozen=True)
class _Space:
    """BFV modulo one plaintext prime, with the same parameters on both sides."""

    plain_modulus: int
    context: Any
    evaluator: Any
    moduli: tuple[int, ...]

    @classmethod
    def of(cls, plain_modulus: int) -> _Space:
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(RING)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(RING, list(_MODULUS_BITS)))
        parameters.set_plain_modulus(plain_modulus)
        context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not context.parameters_set():
            raise EngineFailed(EngineFault.LAYOUT, "this build of SEAL refuses the parameters")
        first = context.first_context_data().parms().coeff_modulus()
        return cls(
            plain_modulus, context, seal.Evaluator(context), tuple(one.value() for one in first)
        )

    def plaintext(self, coefficients: UInt64Array) -> Any:
        """shape (8192,), each below the plaintext modulus."""
        body = bytes(32) + struct.pack("<Qd", RING, 1.0) + _array(coefficients)
        return _loaded(seal.Plaintext(), self.context, _headed(body))

    def noise(self, coefficients: Sequence[int]) -> Any:
        """The ciphertext (noise, 0): it decrypts to nothing and adds the noise to another."""
        rows = np.zeros((2, len(self.moduli), RING), dtype=np.uint64)
        for row, modulus in enumerate(self.moduli):
            rows[0, row] = [one % modulus for one in coefficients]
        identity = self.context.first_parms_id()
        body = struct.pack("<4QBQQQdQ", *identity, 0, 2, RING, len(self.moduli), 1.0, 1)
        return _loaded(seal.Ciphertext(), self.context, _headed(body + _array(rows.ravel())))

    def ciphertext(self, data: bytes, level: Sequence[int]) -> Any:
        """Raises EngineFailed (mismatch) for anything but two polynomials at this level."""
        one = _loaded(seal.Ciphertext(), self.context, data)
        if one.size() != 2 or one.is_ntt_form() or list(one.parms_id()) != list(level):
            raise EngineFailed(EngineFault.MISMATCH, "a message of the peer is no ciphertext")
        return one

    def public_key(self, data: bytes) -> Any:
        return _loaded(seal.PublicKey(), self.context, data)


@dataclass(frozen=True, eq=False, repr=False)
class _KeyEnd:
    """The owner's end of one space."""

    space: _Space
    encryptor: Any
    decryptor: Any
    secret: Any
    public: bytes

    @classmethod
    def make(cls, space: _Space) -> _KeyEnd:
        maker, public = seal.KeyGenerator(space.context), seal.PublicKey()
        maker.create_public_key(public)
        secret = maker.secret_key()
        return cls(
            space,
            seal.Encryptor(space.context, public, secret),
            seal.Decryptor(space.context, secret),
            secret,
            _saved(public),
        )

    def top(self, data: bytes) -> int:
        """The top coefficient of a reply."""
        data_of = self.space.context.first_context_data().next_context_data()
        one = self.space.ciphertext(data, data_of.parms_id())
        if self.decryptor.invariant_noise_budget(one) < 1:
            raise EngineFailed(EngineFault.MISMATCH, "a reply was not made with this key")
        plain = seal.Plaintext()
        self.decryptor.decrypt(one, plain)
        return int(plain[_TOP]) if plain.coeff_count() > _TOP else 0


@cache
def _spaces() -> tuple[_Space, _Space]:
    spaces = _Space.of(PLAIN_MODULI[0]), _Space.of(PLAIN_MODULI[1])
    _check_format(spaces[0])
    return spaces


def _check_format(space: _Space) -> None:
    """That this build reads plaintexts and noise as they are written here. Raises EngineFailed."""
    values = np.arange(1, RING + 1, dtype=np.uint64)
    plain, noise = space.plaintext(values), space.noise([-7] * RING)
    end, one, back = _KeyEnd.make(space), seal.Ciphertext(), seal.Plaintext()
    end.encryptor.encrypt(plain, one)
    space.evaluator.add_inplace(one, noise)
    end.decryptor.decrypt(one, back)
    right = noise[0] == space.moduli[0] - 7 and noise[len(space.moduli) * RING] == 0
    if not right or any(int(back[i]) != i + 1 for i in (0, 1, _TOP)):
        raise EngineFailed(EngineFault.LAYOUT, "this build of SEAL has another format")


def _uniform(bound: int, randomness: Randomness) -> UInt64Array:
    """shape (8192,), uniform below a bound just under 2**60."""
    found = np.full(RING, bound, dtype=np.uint64)
    while (over := found >= bound).any():
        drawn = np.frombuffer(randomness.draw(8 * int(over.sum())), dtype=np.uint64)
        found[over] = drawn & np.uint64(2**60 - 1)
    return found


def _flood(randomness: Randomness) -> list[int]:
    """8192 integers uniform in [-2**92, 2**92)."""
    drawn, size = randomness.draw(12 * RING), 12
    return [
        int.from_bytes(drawn[at : at + size], "little") % 2**FLOOD_BITS - 2 ** (FLOOD_BITS - 1)
        for at in range(0, len(drawn), size)
    ]


def _remaindered(first: int, second: int) -> int:
    """The number below the product of the plaintext moduli with these remainders."""
    p, q = PLAIN_MODULI
    return first + p * ((second - first) * pow(p, -1, q) % q)


def _array(words: UInt64Array) -> bytes:
    return _headed(struct.pack("<Q", len(words)) + words.astype("<u8").tobytes())


def _headed(body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    return _HEADER.pack(_MAGIC, _HEADER.size, *_VERSION, 0, 0, size) + body


def _joined(parts: Sequence[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def _split(message: bytes | bytearray, count: int, most: int) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    for _ in range(count):
        start = at + _LENGTH.size
        size = int.from_bytes(message[at:start], "little")
        at = start + size
        if size > most or at > len(message):
            raise EngineFailed(EngineFault.MISMATCH, "a message of the peer has another length")
        found.append(bytes(message[start:at]))
    if at != len(message):
        raise EngineFailed(EngineFault.MISMATCH, "a message of the peer has another length")
    return found


def _saved(thing: Any) -> bytes:
    """The binding writes and reads files only: here one that exists in memory alone."""
    file = os.memfd_create("seal")
    try:
        thing.save(f"/proc/self/fd/{file}")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def _loaded(thing: Any, context: Any, data: bytes) -> Any:
    """Raises EngineFailed (mismatch) if SEAL does not find it valid for these parameters."""
    file = os.memfd_create("seal")
    try:
        os.write(file, data)
        thing.load(context, f"/proc/self/fd/{file}")
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        raise EngineFailed(EngineFault.MISMATCH, "SEAL refused what the peer sent") from error
    finally:
        os.close(file)
    return thing
