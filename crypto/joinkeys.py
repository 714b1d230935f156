"""Join keys: one spelling for each key, then a token that says nothing without the pair's key.

Engines compare keys as bytes, so "7", "007" and " 7" would be three people, and an empty key would
match every other empty key. Here a key either has one canonical spelling or is refused, by row
number, never by value: the refusal is read by the holder alone, but it is also logged.

Intersections run on tokens, not on keys: 16 bytes of keyed BLAKE2b under a key that the two
holders derive afresh for every attempt. So no odd character reaches a native parser, no temporary
file of an engine holds a key in the clear, and nobody can choose keys ahead of time to aim at an
engine's fixed hash seeds. Tokens hide nothing from the two holders themselves.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto.errors import KeyRefused, Malformed

TOKEN_BYTES: Final = 16
TOKEN_KEY_BYTES: Final = 32
MAX_KEY_BYTES: Final = 1024

_PERSON: Final = b"unseen-token-v1"


class KeyKind(Enum):
    """What the plan says the key column is, on both sides: text 7 is not integer 7."""

    TEXT = "text"
    INTEGER = "integer"


@dataclass(frozen=True, eq=False)
class JoinKeys:
    """Canonical keys of the rows that take part.

    rows:      positions, in the column given, of the rows kept; ascending
    canonical: the canonical bytes of each, all different
    """

    rows: npt.NDArray[np.int64] = field(repr=False)
    canonical: tuple[bytes, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.canonical)


def canonical_keys(column: Iterable[object], kind: KeyKind) -> JoinKeys:
    """Canonicalise a key column.

    NULL (None) never joins, as in SQL: its row is dropped. Text is brought to Unicode NFC, so that
    two spellings of one character are one. Raises KeyRefused, with the row counted from 1, for an
    empty key, a blank at either end, a control or format character, a value of another type, and
    a key that occurs twice (a join with repeats on both sides would pair wrong rows).
    """
    rows: list[int] = []
    seen: dict[bytes, int] = {}
    spell = _text if kind is KeyKind.TEXT else _integer
    for row, value in enumerate(column):
        if value is None:
            continue
        key = spell(value, row)
        first = seen.setdefault(key, row)
        if first != row:
            raise KeyRefused(f"rows {first + 1} and {row + 1} have the same join key")
        rows.append(row)
    return JoinKeys(np.array(rows, dtype=np.int64), tuple(seen))


def tokens(keys: JoinKeys, token_key: bytes) -> npt.NDArray[np.uint8]:
    """A token for each key, shape (n, 16).

    token_key: 32 bytes derived by the two holders for this attempt of this job.
    Source: RFC 7693, keyed; the personalisation keeps these apart from any other use of the key.
    """
    if len(token_key) != TOKEN_KEY_BYTES:
        raise Malformed("token_key", f"is not {TOKEN_KEY_BYTES} bytes")
    keyed = blake2b(digest_size=TOKEN_BYTES, key=token_key, person=_PERSON)
    found = bytearray()
    for key in keys.canonical:
        one = keyed.copy()
        one.update(key)
        found += one.digest()
    return np.frombuffer(bytes(found), dtype=np.uint8).reshape(-1, TOKEN_BYTES)


def _text(value: object, row: int) -> bytes:
    if not isinstance(value, str):
        raise KeyRefused(f"row {row + 1}: the join key is not text, as the plan says it is")
    if not value:
        raise KeyRefused(f"row {row + 1}: the join key is empty; make it NULL or drop the row")
    text = value
    if not value.isascii():
        text = unicodedata.normalize("NFC", value)
    if text != text.strip():
        raise KeyRefused(f"row {row + 1}: the join key begins or ends with a blank")
    if not text.isprintable() and any(
        unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text
    ):
        raise KeyRefused(f"row {row + 1}: the join key holds a control or invisible character")
    key = text.encode("utf-8")
    if len(key) > MAX_KEY_BYTES:
        raise KeyRefused(f"row {row + 1}: the join key is longer than {MAX_KEY_BYTES} bytes")
    return key


def _integer(value: object, row: int) -> bytes:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise KeyRefused(f"row {row + 1}: the join key is not an integer, as the plan says it is")
    return b"%d" % int(value)
