"""Keys and the signing port.

Statements and documents are signed with Ed25519 (RFC 8032). The ledger's heads may also carry
ML-DSA-44 (FIPS 204), for records that must outlast what a quantum computer breaks, and SM2 with
SM3 (GB/T 32918), where national rules ask for it. A public key is written `<suite>:<base64url>`;
its key id is the first 16 hexadecimal digits of SHA-256 over that text. Secret keys are never
strings: they live in objects that print nothing and in files with mode 0600.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from crypto.errors import BadSignature, KeyFileRefused, Malformed, SuiteUnavailable
from crypto.files import sync

SUITES: Final[Mapping[str, int]] = {  # bytes of a public key
    "ed25519": 32,
    "x25519": 32,
    "ml-dsa-44": 1312,  # FIPS 204 table 2
    "sm2": 65,  # an uncompressed point
}

# Ed25519 points of order 1, 2, 4 and 8 in every encoding, sign bit cleared. RFC 8032 does not
# refuse them as keys. Source: Chalkias, Garillot, Nikolaenko 2020, "Taming the many EdDSAs".
_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(encoding)
    for encoding in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


@dataclass(frozen=True)
class PublicKey:
    """A public key of one suite. raw: as many bytes as SUITES says."""

    suite: str
    raw: bytes

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise Malformed("suite", f"is not one of {', '.join(SUITES)}")
        if len(self.raw) != SUITES[self.suite]:
            raise Malformed("key", f"has {len(self.raw)} bytes, not {SUITES[self.suite]}")

    def __str__(self) -> str:
        return f"{self.suite}:{base64.urlsafe_b64encode(self.raw).rstrip(b'=').decode()}"

    @cached_property  # asked for whenever a signature is looked up
    def key_id(self) -> str:
        return hashlib.sha256(str(self).encode()).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """What people compare out of band: 64 hexadecimal digits in groups of four."""
        text = hashlib.sha256(str(self).encode()).hexdigest()
        return "-".join(text[i : i + 4] for i in range(0, 64, 4))

    @classmethod
    def parse(cls, text: str, *, where: str = "key") -> PublicKey:
        suite, _, encoded = text.partition(":")
        try:
            key = cls(suite, base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
        except (ValueError, Malformed):
            raise Malformed(where, "is not a public key such as ed25519:<base64url>") from None
        if str(key) != text:
            raise Malformed(where, "is not a public key in its canonical spelling")
        return key

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises BadSignature unless `signature` is this key's over `message`, and
        SuiteUnavailable where this machine has nothing that could tell."""
        if self.suite == "sm2":
            # Read here, for hardly anybody needs it: most machines never load libcrypto for it.
            from crypto.adapters import sm2

            sm2.verify(self, signature, message)
        elif self.suite == "ml-dsa-44":
            self._verify_ml_dsa(signature, message)
        elif self.suite == "ed25519":
            self._verify_ed25519(signature, message)
        else:
            raise BadSignature(f"key {self.key_id} is not a signing key")

    def _verify_ml_dsa(self, signature: bytes, message: bytes) -> None:
        try:
            MLDSA44PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except UnsupportedAlgorithm:
            raise SuiteUnavailable("ml-dsa-44", "install a newer `cryptography`") from None
        except (InvalidSignature, ValueError):
            raise BadSignature(f"the signature does not verify under key {self.key_id}") from None

    def _verify_ed25519(self, signature: bytes, message: bytes) -> None:
        key = _ed25519(self.raw)
        if key is None:
            # One signature verifies over every message: its owner could deny each of them.
            raise BadSignature(f"key {self.key_id} is of small order and signs nothing")
        try:
            key.verify(signature, message)
        except InvalidSignature:
            raise BadSignature(f"the signature does not verify under key {self.key_id}") from None


@lru_cache(maxsize=4096)
def _ed25519(raw: bytes) -> Ed25519PublicKey | None:
    """None for a key of small order. Kept, for whoever reads a log meets the same few keys over
    and over."""
    if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER:
        return None
    return Ed25519PublicKey.from_public_bytes(raw)


class Signer(Protocol):
    """Whoever can sign: a key file today, a hardware module tomorrow."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes: ...


Private = TypeVar("Private", bound=Ed25519PrivateKey | MLDSA44PrivateKey | X25519PrivateKey)


class _SecretKey(Generic[Private]):
    """Held in memory. Prints nothing."""

    suite: ClassVar[str]

    def __init__(self, key: Private) -> None:
        self._key = key
        self._public = PublicKey(self.suite, key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._public.key_id})"

    @property
    def public(self) -> PublicKey:
        return self._public

    @property
    def private(self) -> Private:
        return self._key


class SigningKey(_SecretKey[Ed25519PrivateKey]):
    """An Ed25519 secret key."""

    suite = "ed25519"

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


class MlDsaKey(_SecretKey[MLDSA44PrivateKey]):
    """An ML-DSA-44 secret key."""

    suite = "ml-dsa-44"

    @classmethod
    def generate(cls) -> MlDsaKey:
        """Raises SuiteUnavailable."""
        try:
            return cls(MLDSA44PrivateKey.generate())
        except UnsupportedAlgorithm:
            raise SuiteUnavailable("ml-dsa-44", "install a newer `cryptography`") from None

    def sign(self, message: bytes) -> bytes:
        """2420 bytes, hedged: two signatures over one message differ."""
        return self._key.sign(message)


class ExchangeKey(_SecretKey[X25519PrivateKey]):
    """An X25519 secret key: opens sealed results, or agrees on session keys."""

    suite = "x25519"

    @classmethod
    def generate(cls) -> ExchangeKey:
        return cls(X25519PrivateKey.generate())

    def agree(self, peer: PublicKey) -> bytes:
        """The shared X25519 secret (RFC 7748); feed it to a key derivation before use."""
        if peer.suite != "x25519":
            raise Malformed("peer", "is not a key-agreement key")
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer.raw))
        except ValueError:
            raise Malformed("peer", "is a key of low order") from None


def write_key(path: Path, key: SigningKey | MlDsaKey | ExchangeKey) -> None:
    """Write a secret key as PKCS #8 PEM with mode 0600. Refuses to overwrite."""
    write_secret(
        path,
        key.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def write_secret(path: Path, pem: bytes) -> None:
    """With mode 0600, and on disk when this returns, its name too. Refuses to overwrite."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileRefused(f"{path} exists; move it away before making a new key") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)


def read_signing_key(path: Path) -> SigningKey:
    key = _read_pem(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileRefused(f"{path} does not hold an Ed25519 key")
    return SigningKey(key)


def read_ml_dsa_key(path: Path) -> MlDsaKey:
    key = _read_pem(path)
    if not isinstance(key, MLDSA44PrivateKey):
        raise KeyFileRefused(f"{path} does not hold an ML-DSA-44 key")
    return MlDsaKey(key)


def read_exchange_key(path: Path) -> ExchangeKey:
    key = _read_pem(path)
    if not isinstance(key, X25519PrivateKey):
        raise KeyFileRefused(f"{path} does not hold an X25519 key")
    return ExchangeKey(key)


def read_secret(path: Path) -> bytes:
    """Raises KeyFileRefused when the file is missing or readable by others."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except FileNotFoundError:
        raise KeyFileRefused(
            f"{path} does not exist; `exchange init` makes a party's keys"
        ) from None
    except OSError as error:
        raise KeyFileRefused(f"{path} can't be read: {error.strerror}") from None
    if mode & 0o077:
        raise KeyFileRefused(f"{path} has mode {mode:04o}; run chmod 600 on it")
    return data


def _read_pem(path: Path) -> object:
    """Raises KeyFileRefused when the file is missing, readable by others, or not a key."""
    try:
        return serialization.load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileRefused(f"{path} is not an unencrypted PKCS #8 PEM key") from None
