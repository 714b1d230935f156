"""CKKS by Microsoft SEAL, through the bindings that TenSEAL carries (`tenseal.sealapi`).

TenSEAL's own tensors choose scales and levels by themselves, can't re-randomise, and send whole
contexts. Here a context is made from the parameter set's name on both sides and never read from
the network; what is read is one key or one ciphertext, whose every size is checked.

SEAL's bindings read and write files only: an anonymous memory file stands in, so that neither keys
nor ciphertexts touch a disk. SEAL draws its own randomness from the operating system.
Source: SEAL 4.1 `ckks.h`, `evaluator.h`, `serialization.h`; tenseal 0.3.18 `sealapi`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal  # type: ignore[import-untyped]  # ships no annotations

from crypto.errors import EngineFailed, EngineFault
from crypto.ports import Randomness
from crypto.scoring.noise import flood
from crypto.scoring.parameters import Parameters

Float64Array = npt.NDArray[np.float64]

_HEADER_BYTES: Final = 4096  # more than SEAL writes beside the coefficients of one object
# SEAL's exceptions as its bindings translate them: invalid_argument, logic_error and runtime_error,
# out_of_range, bad_alloc.
_NATIVE: Final = (ValueError, RuntimeError, IndexError, MemoryError, OverflowError)


class SealScheme:
    """A `crypto.scoring.ports.Scheme`."""

    def make_key(self, parameters: Parameters) -> SealOwnKey:
        return SealOwnKey(parameters)

    def under_key(
        self, parameters: Parameters, public: bytes, relinearisation: bytes
    ) -> SealArithmetic:
        return SealArithmetic(parameters, public, relinearisation)


class SealOwnKey:
    """A `crypto.scoring.ports.OwnKey`."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._context = _context(parameters)
        self._memory = _Memory()
        self._encoder = seal.CKKSEncoder(self._context)
        generator = seal.KeyGenerator(self._context)
        public = seal.PublicKey()
        generator.create_public_key(public)
        self.public: bytes = self._memory.written(public)
        self.relinearisation: bytes = b""
        if parameters.relinearises:
            keys = seal.RelinKeys()
            generator.create_relin_keys(keys)
            self.relinearisation = self._memory.written(keys)
        self._encryptor = seal.Encryptor(self._context, public)
        self._decryptor = seal.Decryptor(self._context, generator.secret_key())

    def encrypt(self, values: Float64Array) -> bytes:
        plain, cipher = seal.Plaintext(), seal.Ciphertext()
        self._encoder.encode(values, 2.0**self._parameters.features, plain)
        self._encryptor.encrypt(plain, cipher)
        return self._memory.written(cipher)

    def decrypt(self, reply: bytes) -> Float64Array:
        cipher = _read_cipher(self._memory, self._context, self._parameters, reply)
        level = cipher.coeff_modulus_size()
        expected = 2.0**self._parameters.result_bits
        # The scale is what the owner's program reckoned from the true primes, which differ from
        # powers of two by less than a thousandth.
        if level != self._parameters.result_primes or not 0.99 < cipher.scale / expected < 1.01:
            raise _mismatch("a reply is not at the level and scale that scores have")
        with _native("decrypt a reply"):
            plain = seal.Plaintext()
            self._decryptor.decrypt(cipher, plain)
            return np.array(self._encoder.decode_double(plain), dtype=np.float64)


class SealArithmetic:
    """A `crypto.scoring.ports.Arithmetic`."""

    def __init__(self, parameters: Parameters, public: bytes, relinearisation: bytes) -> None:
        self._parameters = parameters
        self._context = context = _context(parameters)
        self._memory = _Memory()
        self._encoder = seal.CKKSEncoder(context)
        self._evaluator = seal.Evaluator(context)
        self._levels = _levels(context)
        key = self._memory.read(
            seal.PublicKey(), context, public, 2 * (len(parameters.primes) + 1), parameters
        )
        if key.data().is_transparent():
            raise _mismatch("a public key that would hide nothing")
        self._encryptor = seal.Encryptor(context, key)
        self._relinearisation = None
        if not parameters.relinearises:
            if relinearisation:
                raise _mismatch("relinearisation keys that nothing needs")
            return
        primes = len(parameters.primes)
        keys = self._memory.read(
            seal.RelinKeys(), context, relinearisation, 2 * primes * (primes + 1), parameters
        )
        if not keys.has_key(2):
            raise _mismatch("relinearisation keys without the one for squares")
        self._relinearisation = keys

    def read(self, data: bytes) -> Any:
        cipher = _read_cipher(self._memory, self._context, self._parameters, data)
        fresh = 2.0**self._parameters.features
        if cipher.coeff_modulus_size() != len(self._parameters.primes) or cipher.scale != fresh:
            raise _mismatch("a feature is not at the level and scale of a fresh ciphertext")
        return cipher

    def add(self, left: Any, right: Any) -> Any:
        with _native("add"):
            found = seal.Ciphertext()
            self._evaluator.add(left, right, found)
            return found

    def plus(self, left: Any, constant: float) -> Any:
        with _native("add a constant"):
            found = seal.Ciphertext()
            self._evaluator.add_plain(left, self._constant(left, constant, left.scale), found)
            return found

    def weighted(self, cipher: Any, weight: float) -> Any:
        return self._times(cipher, weight, 2.0**self._parameters.weights)

    def fill_up(self, cipher: Any, factor: float, other: Any) -> Any:
        with _native("add a multiple"):
            lowered = seal.Ciphertext()
            self._evaluator.mod_switch_to(other, cipher.parms_id(), lowered)
            added = self._times(lowered, factor, cipher.scale / other.scale)
            added.scale = cipher.scale  # equal up to the last bit of a float
            return self.add(cipher, added)

    def multiply(self, left: Any, right: Any) -> Any:
        with _native("multiply"):
            primes = min(left.coeff_modulus_size(), right.coeff_modulus_size())
            both = []
            for cipher in (left, right):
                at = seal.Ciphertext()
                self._evaluator.mod_switch_to(cipher, self._levels[primes], at)
                both.append(at)
            found = seal.Ciphertext()
            self._evaluator.multiply(both[0], both[1], found)
            return found

    def relinearise(self, cipher: Any) -> Any:
        with _native("relinearise"):
            found = seal.Ciphertext()
            self._evaluator.relinearize(cipher, self._relinearisation, found)
            return found

    def rescale(self, cipher: Any) -> Any:
        with _native("rescale"):
            left = len(self._parameters.primes)
            for drop in self._parameters.drops:
                left -= drop
                if left < cipher.coeff_modulus_size():
                    break
            found = seal.Ciphertext()
            self._evaluator.rescale_to(cipher, self._levels[left], found)
            return found

    def reply(self, cipher: Any, *, rows: int, sigma: float, randomness: Randomness) -> bytes:
        with _native("flood"):
            zero = seal.Ciphertext()
            self._encryptor.encrypt_zero(cipher.parms_id(), zero)
            zero.scale = cipher.scale
            found = self.add(cipher, zero)
            for piece in flood(
                self._parameters,
                rows=rows,
                sigma=sigma,
                scale=cipher.scale,
                randomness=randomness,
            ):
                plain = seal.Plaintext()
                self._encoder.encode(piece, cipher.parms_id(), cipher.scale, plain)
                self._evaluator.add_plain_inplace(found, plain)
            return self._memory.written(found)

    def _times(self, cipher: Any, factor: float, scale: float) -> Any:
        with _native("multiply by a constant"):
            if abs(factor) * scale < 1.0:
                # SEAL refuses a product with zero, and leaving it out would show in the time.
                factor = math.copysign(1.0 / scale, factor)
            found = seal.Ciphertext()
            self._evaluator.multiply_plain(cipher, self._constant(cipher, factor, scale), found)
            return found

    def _constant(self, cipher: Any, value: float, scale: float) -> Any:
        plain = seal.Plaintext()
        self._encoder.encode(float(value), cipher.parms_id(), scale, plain)
        return plain


class _Memory:
    """An anonymous file in memory, for bindings that know paths only."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("ciphertext", os.MFD_CLOEXEC)
        self._path = f"/proc/self/fd/{self._fd}"

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self._fd)

    def written(self, held: Any) -> bytes:
        with _native("write"):
            held.save(self._path)  # opens anew and truncates
        return Path(self._path).read_bytes()

    def read(self, into: Any, context: Any, data: bytes, polynomials: int, of: Parameters) -> Any:
        """`into`, filled from `data`, which holds at most so many polynomials of one prime each."""
        if len(data) > polynomials * of.ring * 8 + _HEADER_BYTES * polynomials:
            raise _mismatch("something is larger than its parameters allow")
        if int.from_bytes(data[8:16], "little") != len(data):  # the size in SEAL's header
            raise _mismatch("something with bytes missing or left over")
        Path(self._path).write_bytes(data)
        try:
            # Checks the header, that it is for exactly these parameters, and each coefficient.
            into.load(context, self._path)
        except _NATIVE as error:
            raise _mismatch("something that is not of these parameters") from error
        return into


def _read_cipher(memory: _Memory, context: Any, parameters: Parameters, data: bytes) -> Any:
    """A ciphertext of two components, in the form sums and products take."""
    cipher = memory.read(seal.Ciphertext(), context, data, 2 * len(parameters.primes), parameters)
    if cipher.size() != 2 or cipher.poly_modulus_degree() != parameters.ring:
        raise _mismatch("a ciphertext does not have two components of the ring")
    if not cipher.is_ntt_form() or cipher.is_transparent():
        raise _mismatch("a ciphertext hides nothing")
    if not math.isfinite(cipher.scale):
        raise _mismatch("a ciphertext has no scale")
    return cipher


def _context(parameters: Parameters) -> Any:
    with _native("set up its parameters"):
        wanted = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        wanted.set_poly_modulus_degree(parameters.ring)
        bits = [*parameters.primes, parameters.special]
        wanted.set_coeff_modulus(seal.CoeffModulus.Create(parameters.ring, bits))
        # SEAL refuses parameters of less than 128 bits of security here.
        context = seal.SEALContext(wanted, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise EngineFailed(
            EngineFault.CRASHED,
            f"SEAL refuses {parameters.name}: {context.parameters_error_name()}",
        )
    return context


def _levels(context: Any) -> dict[int, Any]:
    """By number of primes left, SEAL's name of the level."""
    found, at = {}, context.first_context_data()
    while at is not None:
        found[len(at.parms().coeff_modulus())] = at.parms_id()
        at = at.next_context_data()
    return found


@contextlib.contextmanager
def _native(step: str) -> Iterator[None]:
    try:
        yield
    except _NATIVE as error:
        raise EngineFailed(EngineFault.CRASHED, f"SEAL could not {step}") from error


def _mismatch(what: str) -> EngineFailed:
    return EngineFailed(EngineFault.MISMATCH, f"the peer sent {what}")
