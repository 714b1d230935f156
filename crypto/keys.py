"""Keys and the signing port.

Signatures are Ed25519 (RFC 8032). A public key is written `ed25519:<base64url>` or
`x25519:<base64url>`; its key id is the first 16 hexadecimal digits of SHA-256 over that text.
Secret keys are never strings: they live in objects that print nothing and in files with mode 0600.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from crypto.errors import BadSignature, KeyFileRefused, Malformed

SUITES: Final = ("ed25519", "x25519")

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
    """A public key of one suite. raw: 32 bytes for both suites."""

    suite: str
    raw: bytes

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise Malformed("suite", f"is not one of {', '.join(SUITES)}")
        if len(self.raw) != 32:
            raise Malformed("key", f"has {len(self.raw)} bytes, not 32")

    def __str__(self) -> str:
        return f"{self.suite}:{base64.urlsafe_b64encode(self.raw).rstrip(b'=').decode()}"

    @property
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
        """Raises BadSignature unless `signature` is this key's over `message`."""
        if self.suite != "ed25519":
            raise BadSignature(f"key {self.key_id} is not a signing key")
        if self.raw[:31] + bytes([self.raw[31] & 0x7F]) in _SMALL_ORDER:
            # One signature verifies over every message: its owner could deny each of them.
            raise BadSignature(f"key {self.key_id} is of small order and signs nothing")
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            raise BadSignature(f"the signature does not verify under key {self.key_id}") from None


class Signer(Protocol):
    """Whoever can sign: a key file today, a hardware module tomorrow."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes: ...


class SigningKey:
    """An Ed25519 secret key held in memory. Prints nothing."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = PublicKey("ed25519", key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self._public.key_id})"

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    @property
    def public(self) -> PublicKey:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    @property
    def private(self) -> Ed25519PrivateKey:
        return self._key


class ExchangeKey:
    """An X25519 secret key: opens sealed results, or agrees on session keys. Prints nothing."""

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self._public = PublicKey("x25519", key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"ExchangeKey({self._public.key_id})"

    @classmethod
    def generate(cls) -> ExchangeKey:
        return cls(X25519PrivateKey.generate())

    @property
    def public(self) -> PublicKey:
        return self._public

    @property
    def private(self) -> X25519PrivateKey:
        return self._key

    def agree(self, peer: PublicKey) -> bytes:
        """The shared X25519 secret (RFC 7748); feed it to a key derivation before use."""
        if peer.suite != "x25519":
            raise Malformed("peer", "is not a key-agreement key")
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer.raw))
        except ValueError:
            raise Malformed("peer", "is a key of low order") from None


def write_key(path: Path, key: SigningKey | ExchangeKey) -> None:
    """Write a secret key as PKCS #8 PEM with mode 0600. Refuses to overwrite."""
    pem = key.private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileRefused(f"{path} exists; move it away before making a new key") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())


def read_signing_key(path: Path) -> SigningKey:
    key = _read_pem(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileRefused(f"{path} does not hold an Ed25519 key")
    return SigningKey(key)


def read_exchange_key(path: Path) -> ExchangeKey:
    key = _read_pem(path)
    if not isinstance(key, X25519PrivateKey):
        raise KeyFileRefused(f"{path} does not hold an X25519 key")
    return ExchangeKey(key)


def _read_pem(path: Path) -> object:
    """Raises KeyFileRefused when the file is missing, readable by others, or not a key."""
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
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileRefused(f"{path} is not an unencrypted PKCS #8 PEM key") from None
