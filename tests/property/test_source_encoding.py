"""Laws of encoding: the same exact integer as decimal arithmetic, whatever the spelling."""

from __future__ import annotations

import tempfile
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import KeyRefused
from crypto.joinkeys import KeyKind, canonical_keys
from registry.product import DataProduct
from registry.source import FileFormat, FileSource
from tests.source_rows import Extract, ReadableFile, a_product, number

DIGITS = st.text("0123456789", min_size=1, max_size=25)
EXPONENT = st.one_of(
    st.just(""), st.integers(-40, 40).map(lambda e: f"e{e}" if e < 0 else f"E+{e}")
)
SPELLED = st.builds(
    lambda sign, whole, fraction, exponent: f"{sign}{whole}{fraction}{exponent}",
    st.sampled_from(["", "-", "+"]),
    DIGITS,
    st.one_of(st.just(""), st.just("."), DIGITS.map(lambda d: f".{d}")),
    EXPONENT,
)
# Ties are where rounding goes wrong, and random digits never make one.
TIES = st.builds(
    lambda sign, kept, tail: f"{sign}{kept}5{tail}",
    st.sampled_from(["", "-"]),
    st.decimals(0, 999, places=2).map(str),
    st.sampled_from(["", "0", "000", "0000000000000000000001"]),
)
LOW, HIGH = -(10**6), 10**6


def csv_of(lines: list[str], product: DataProduct) -> Extract:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        path.write_text("\n".join(["id,x", *lines]) + "\n", encoding="utf-8", newline="")
        source = ReadableFile(FileSource(str(path), FileFormat.CSV))
        return source.extract(product, [c.name for c in product.columns[1:]], [])


@settings(max_examples=20, deadline=None)
@given(st.lists(SPELLED | TIES, min_size=1, max_size=60), st.integers(1, 9))
def test_a_number_is_rounded_half_to_even_exactly_and_then_clamped(
    spelled: list[str], decimals: int
) -> None:
    product = a_product(number("x", decimals=decimals, low=LOW, high=HIGH))
    found = csv_of([f"k{i:03},{value}" for i, value in enumerate(spelled)], product)
    with localcontext(prec=200):
        exact = [Decimal(value).scaleb(decimals) for value in spelled]
        rounded = [int(value.to_integral_value(ROUND_HALF_EVEN)) for value in exact]
    assert found.numbers["x"].tolist() == [max(LOW, min(HIGH, value)) for value in rounded]
    assert found.valid["x"].all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60))
def test_a_double_in_parquet_is_read_as_python_prints_it(doubles: list[float]) -> None:
    product = a_product(number("x", decimals=3, low=LOW, high=HIGH))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        connection = duckdb.connect()
        connection.execute("CREATE TABLE t (id VARCHAR, x DOUBLE)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?)", [[f"k{i:03}", x] for i, x in enumerate(doubles)]
        )
        connection.execute(f"COPY t TO '{path}' (FORMAT parquet)")
        source = ReadableFile(FileSource(str(path), FileFormat.PARQUET))
        found = source.extract(product, ["x"], []).numbers["x"].tolist()
    exact = [Decimal(repr(x)).scaleb(3) for x in doubles]
    with localcontext(prec=400):
        rounded = [int(value.to_integral_value(ROUND_HALF_EVEN)) for value in exact]
    assert found == [max(LOW, min(HIGH, value)) for value in rounded]


KEYS = st.text(
    st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\x00"), max_size=8
)


@settings(max_examples=20, deadline=None)
@given(st.lists(KEYS, max_size=20))
def test_a_key_that_a_source_yields_is_canonical_and_any_other_takes_no_part(
    keys: list[str],
) -> None:
    """One rule in two places: what reading lets through, joining must not trip over."""
    quoted = [key.replace('"', '""') for key in keys]
    lines = [*(f'"{key}",1' for key in quoted), "always,2"]
    joined = {b"always"}
    for key in keys:
        try:
            joined |= set(canonical_keys([key or None], KeyKind.TEXT).canonical)
        except KeyRefused:
            continue
    found = csv_of(lines, a_product(number("x", low=0, high=9))).keys
    assert [key.encode() for key in found] == sorted(joined)
