"""Records as lookup tables seal them: read back exactly, padded to what the product permits."""

from __future__ import annotations

import random

import pytest

from crypto.errors import Malformed
from exchange.labels import label_bytes, pack_record, unpack_record
from registry.product import Column, ColumnType
from tests.queries import a_product, a_rule

COLUMNS = (
    Column("person", ColumnType.TEXT, "person"),
    Column("town", ColumnType.TEXT, "town"),
    Column("sex", ColumnType.TEXT, "sex", categories=("f", "weiblich", "男")),
    Column("age", ColumnType.INTEGER, "age", low=-5, high=120),
    Column("cash", ColumnType.DECIMAL, "cash", decimals=3, low=-12, high=7),
    Column("count", ColumnType.INTEGER, "without a range"),
)
NAMES = tuple(column.name for column in COLUMNS[1:])
PRODUCT = a_product(columns=COLUMNS, rule=a_rule(uses={"person": a_rule().uses["person"]}))


def packed(*values: str, text_bytes: int = 8) -> bytes:
    return pack_record(values, PRODUCT, NAMES, text_bytes=text_bytes)


def test_every_record_is_read_back_without_what_is_missing() -> None:
    draw = random.Random(1)
    choices = (
        ("", "Bern", "Zürich", '"a"\n,'),
        ("", "f", "weiblich", "男"),
        ("", "-5", "120"),
        ("", "-0.012", "0.007"),
        ("", "-" + "9" * 18),
    )
    for _ in range(200):
        values = [draw.choice(one) for one in choices]
        found = unpack_record(packed(*values), NAMES)
        assert found == {name: v for name, v in zip(NAMES, values, strict=True) if v}


def test_the_padding_follows_from_the_description_and_not_from_the_rows() -> None:
    longest = packed("12345678", "weiblich", "120", "-0.012", "9" * 24)
    # Each column's length in 2 bytes; sign, nought, point and three places of cash.
    assert label_bytes(PRODUCT, NAMES, text_bytes=8) == 5 * 2 + 8 + 8 + 4 + 6 + 24
    assert len(longest) == 5 * 2 + 8 + 8 + 3 + 6 + 24


def test_a_number_within_its_range_always_has_room() -> None:
    for column in (COLUMNS[3], COLUMNS[4]):
        assert column.low is not None and column.high is not None
        for value in (column.low, column.high, 0, -1, 1):
            digits = f"{abs(value):0{column.decimals + 1}d}"
            text = ("-" if value < 0 else "") + (
                f"{digits[:-3]}.{digits[-3:]}" if column.decimals else digits
            )
            row = pack_record((text,), PRODUCT, (column.name,), text_bytes=8)
            assert len(row) <= label_bytes(PRODUCT, (column.name,), text_bytes=8)


def test_a_text_without_room_is_refused_by_its_column_and_never_shown() -> None:
    with pytest.raises(Malformed, match="town") as caught:
        packed("secretly long", "f", "1", "0.001", "1")
    assert "secretly" not in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"\x00",
        lambda data: b"\xff\xff" + data[2:],
        lambda data: data.replace(b"Bern", b"\xff\xfern"),
        lambda data: b"",
    ],
    ids=["short", "long", "length", "text", "empty"],
)
def test_bytes_that_are_no_record_are_refused(spoil: object) -> None:
    whole = packed("Bern", "f", "1", "0.001", "1")
    with pytest.raises(Malformed, match="record"):
        unpack_record(spoil(whole), NAMES)  # type: ignore[operator]
