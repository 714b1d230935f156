"""What a consumer's node hands to its engine for a lookup, and what it gets back.

The answer has the same size whatever was found and however many of the batch were meant, so that
neither can be read off a sealed result.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from crypto import record
from crypto.errors import Malformed
from crypto.lookup.table import Absence

# In the run's own folder. The consumer's table may be missing there; it is there afterwards.
TABLE_FILE: Final = "table.lookup"
KEYS_FILE: Final = "keys.json"

_ENTRY: Final = struct.Struct(">BH")
_RECORD: Final = 1
_ABSENT: Final = {Absence.NO_RECORD: 0, Absence.DAMAGED: 2}


@dataclass(frozen=True)
class AskedKeys:
    """Canonical and distinct (crypto.joinkeys); the consumer's alone."""

    keys: tuple[bytes, ...] = field(repr=False)

    def to_bytes(self) -> bytes:
        return record.to_bytes(self)

    @classmethod
    def parse(cls, data: bytes) -> AskedKeys:
        """Raises Malformed."""
        return record.from_bytes(cls, data)


def pack(answers: Sequence[bytes | Absence], *, evaluations: int, label_bytes: int) -> bytes:
    """For each evaluation: 1 byte (0 no record, 1 record, 2 damaged), length u16, record, zeros.

    What follows the last answer says "no record", as the random keys that filled the batch found.
    """
    packed = bytearray()
    for answer in answers:
        if isinstance(answer, Absence):
            packed += _ENTRY.pack(_ABSENT[answer], 0) + bytes(label_bytes)
        else:
            packed += _ENTRY.pack(_RECORD, len(answer)) + answer.ljust(label_bytes, b"\x00")
    return bytes(packed).ljust(evaluations * (_ENTRY.size + label_bytes), b"\x00")


def unpack(data: bytes, *, evaluations: int, label_bytes: int) -> list[bytes | Absence]:
    """As many answers as evaluations; the consumer knows how many of them it asked for.

    Raises Malformed.
    """
    width = _ENTRY.size + label_bytes
    if len(data) != evaluations * width:
        raise Malformed("answers", "have another size than the plan says")
    absent = {number: absence for absence, number in _ABSENT.items()}
    answers: list[bytes | Absence] = []
    for start in range(0, len(data), width):
        number, size = _ENTRY.unpack_from(data, start)
        room = data[start + _ENTRY.size : start + width]
        if size > (label_bytes if number == _RECORD else 0) or any(room[size:]):
            raise Malformed("answers", "are not padded with zeros to one length")
        if number != _RECORD and number not in absent:
            raise Malformed("answers", "say neither that there is a record nor that there is none")
        answers.append(room[:size] if number == _RECORD else absent[number])
    return answers
