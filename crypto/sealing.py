"""Sealing to a receiver: HPKE (RFC 9180), base mode, DHKEM(X25519), HKDF-SHA256, ChaCha20-Poly1305.

`context` binds a ciphertext to its place: the same bytes cannot be passed off as the result of
another job or the opening of another statement.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from crypto.errors import CannotOpen, Malformed
from crypto.keys import ExchangeKey, PublicKey


def _suite() -> Suite:
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


def seal(plaintext: bytes, receiver: PublicKey, *, context: bytes) -> bytes:
    """Ciphertext (32-byte encapsulated key, then the sealed bytes) that only `receiver` opens."""
    if receiver.suite != "x25519":
        raise Malformed("receiver", "is not a sealing key")
    try:
        return _suite().encrypt(plaintext, X25519PublicKey.from_public_bytes(receiver.raw), context)
    except ValueError:
        # Anybody could open what is sealed to such a key: its shared secret is always zero.
        raise Malformed("receiver", "is a key of low order") from None


def open_sealed(ciphertext: bytes, key: ExchangeKey, *, context: bytes) -> bytes:
    """Raises CannotOpen unless `ciphertext` was sealed to this key under this context."""
    try:
        return _suite().decrypt(ciphertext, key.private, context)
    except (InvalidTag, ValueError):
        raise CannotOpen(f"not sealed to key {key.public.key_id} in this context") from None
