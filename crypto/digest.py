"""SHA-256 digests as a type of their own, and salted commitments to what the log must not show."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from crypto.errors import Malformed

_COMMITMENT_LABEL: Final = b"unseen/commitment/v1\x00"
SALT_BYTES: Final = 32


@dataclass(frozen=True, order=True)
class Digest:
    """A SHA-256 digest. Its text form is `sha256:` and 64 lower-case hexadecimal digits."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise Malformed("digest", f"has {len(self.raw)} bytes, not 32")

    def __str__(self) -> str:
        return f"sha256:{self.raw.hex()}"

    def __repr__(self) -> str:
        return f"Digest({self})"

    @classmethod
    def parse(cls, text: str, *, where: str = "digest") -> Digest:
        try:
            read = cls(bytes.fromhex(text[7:]))
        except (ValueError, Malformed):
            read = None
        if read is None or str(read) != text:  # white space and capitals, which are read as well
            raise Malformed(where, "a digest is written sha256: and 64 lower-case hex digits")
        return read


def digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


def commit(salt: bytes, data: bytes) -> Digest:
    """Commit to `data` so that the digest tells nothing without `salt`.

    salt: 32 random bytes, kept by the party; destroying it makes the commitment meaningless.
    """
    if len(salt) != SALT_BYTES:
        raise Malformed("salt", f"has {len(salt)} bytes, not {SALT_BYTES}")
    return digest(_COMMITMENT_LABEL + salt + data)


def opens(commitment: Digest, salt: bytes, data: bytes) -> bool:
    """Whether (salt, data) is what `commitment` was made from; compared in constant time."""
    return hmac.compare_digest(commitment.raw, commit(salt, data).raw)
