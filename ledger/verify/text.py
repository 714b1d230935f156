"""The small texts that every C2SP format is made of: strict base64, decimals and hashes."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from ledger.errors import FormatRefused
from ledger.verify.merkle import HASH_BYTES, MAX_SIZE

_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")


def encode_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: str, *, where: str) -> bytes:
    """Standard base64 (RFC 4648 section 4), padded, in its one spelling."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise FormatRefused(where, "is not base64") from None
    if encode_base64(data) != text:
        raise FormatRefused(where, "is not base64 in its one canonical spelling")
    return data


def decode_hash(text: str, *, where: str) -> bytes:
    data = decode_base64(text, where=where)
    if len(data) != HASH_BYTES:
        raise FormatRefused(where, f"has {len(data)} bytes, not {HASH_BYTES}")
    return data


def decode_decimal(text: str, *, where: str) -> int:
    """A size or an index: ASCII decimal, no sign, no leading zero, below 2**63."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise FormatRefused(where, "is not a decimal number without leading zero below 2**63")
    return int(text)


def decode_utf8(data: bytes, *, where: str) -> str:
    """Text without control characters other than newline."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatRefused(where, f"is not UTF-8 (byte {error.start})") from None
    if any(ord(character) < 0x20 and character != "\n" for character in text):
        raise FormatRefused(where, "holds a control character other than newline")
    return text
