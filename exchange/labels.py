"""A record as the bytes that a lookup table seals under its key, and back.

For each column, in the product's order of what may be looked up, the value's text in UTF-8 after
its length in two bytes; a missing value has length 0. What every record is padded to follows from
the product's description alone, so the table's size tells nothing of the longest value in it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from crypto.errors import Malformed
from registry.product import Column, ColumnType, DataProduct

TEXT_BYTES: Final = 64  # room for a text whose possible values the product does not list
_ANY_NUMBER: Final = 24  # a 64-bit integer with sign and decimal point
_LENGTH: Final = struct.Struct(">H")


def label_bytes(product: DataProduct, columns: Sequence[str], *, text_bytes: int) -> int:
    """Bytes of the longest record that the product permits.

    text_bytes: room for a value of each text column without public categories
    """
    longest = [_longest(product.column(name), text_bytes) for name in columns]
    return sum(_LENGTH.size + size for size in longest)


def pack_record(
    values: Sequence[str], product: DataProduct, columns: Sequence[str], *, text_bytes: int
) -> bytes:
    """values: in the order of `columns`. Raises Malformed, naming the column, for one that has no
    room."""
    packed = bytearray()
    for name, value in zip(columns, values, strict=True):
        data, most = value.encode(), _longest(product.column(name), text_bytes)
        if len(data) > most:
            raise Malformed(name, f"holds a value longer than {most} bytes; give texts more room")
        packed += _LENGTH.pack(len(data)) + data
    return bytes(packed)


def unpack_record(data: bytes, columns: Sequence[str]) -> Mapping[str, str]:
    """By column, without those that are missing. Raises Malformed for bytes that are no record."""
    found: dict[str, str] = {}
    place = 0
    for name in columns:
        start = place + _LENGTH.size
        if start > len(data):
            raise Malformed("record", "ends before its last column")
        (size,) = _LENGTH.unpack_from(data, place)
        place = start + size
        if place > len(data):
            raise Malformed("record", "is shorter than it says")
        try:
            text = data[start:place].decode()
        except UnicodeDecodeError:
            raise Malformed("record", "is not UTF-8") from None
        if text:
            found[name] = text
    if place != len(data):
        raise Malformed("record", "goes on after its last column")
    return found


def _longest(column: Column, text_bytes: int) -> int:
    if column.type is ColumnType.TEXT:
        if column.categories is None:
            return text_bytes
        return max((len(category.encode()) for category in column.categories), default=0)
    if column.low is None or column.high is None:
        return _ANY_NUMBER
    # Sign, point, and a nought before the point: 12 with two places is 0.12.
    digits = max(len(str(abs(edge))) for edge in (column.low, column.high))
    point = column.decimals > 0
    return max(digits, column.decimals + 1) + point + (column.low < 0)
