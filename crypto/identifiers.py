"""Identifiers, each kind its own type.

A party's identifier is derived from its identity key, so that nobody can answer to another's
name: `pty_` and the first 32 hexadecimal digits of SHA-256 over the key. Everything else carries
a UUID version 7 (RFC 9562): `job_`, `neg_`, … and 32 hexadecimal digits, ordered by time.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import ClassVar, Self

from crypto.errors import Malformed
from crypto.ports import Randomness

_HEX: re.Pattern[str] = re.compile(r"[0-9a-f]{32}")


class Identifier(str):
    """A typed identifier; `prefix` tells its kind."""

    prefix: ClassVar[str] = ""
    __slots__ = ()

    @classmethod
    def parse(cls, text: str, *, where: str = "id") -> Self:
        if not cls.is_spelled(text):
            raise Malformed(where, f"is not an identifier of the form {cls.prefix}_<32 hex digits>")
        return cls(text)

    @classmethod
    def is_spelled(cls, text: str) -> bool:
        """Whether a text is an identifier of this kind: anybody may write any as a subject."""
        head, _, tail = text.partition("_")
        return head == cls.prefix and _HEX.fullmatch(tail) is not None

    @classmethod
    def new(cls, now: datetime, randomness: Randomness) -> Self:
        """A fresh UUIDv7 identifier: 48 bits of Unix milliseconds, then 74 random bits."""
        milliseconds = int(now.timestamp() * 1000)
        random = int.from_bytes(randomness.draw(10), "big")
        value = (milliseconds & (2**48 - 1)) << 80
        value |= 0x7 << 76 | (random >> 68 & 0xFFF) << 64
        value |= 0b10 << 62 | random & (2**62 - 1)
        return cls(f"{cls.prefix}_{value:032x}")


class PartyId(Identifier):
    prefix = "pty"
    __slots__ = ()


class ProductId(Identifier):
    prefix = "prd"
    __slots__ = ()


class NegotiationId(Identifier):
    prefix = "neg"
    __slots__ = ()


class AgreementId(Identifier):
    prefix = "agr"
    __slots__ = ()


class DealId(Identifier):
    prefix = "dea"
    __slots__ = ()


class JobId(Identifier):
    prefix = "job"
    __slots__ = ()


class StatementId(Identifier):
    prefix = "stm"
    __slots__ = ()
