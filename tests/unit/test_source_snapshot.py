"""The digests of what a job read, rebuilt by hand from their documented serialisation."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from registry.snapshot import records_digest, rows_digest


def integers(*rows: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(rows, dtype=np.int64)


def test_the_digest_of_rows_is_over_the_documented_bytes() -> None:
    header = b'{"factors":2,"rows":2}'
    expected = b"".join(
        [
            b"unseen/local-rows/v1\x00",
            struct.pack("<I", len(header)),
            header,
            struct.pack("<II", 1, 2),
            "aé".encode(),
            struct.pack("<qq", 3, -1),
            struct.pack("<qq", -5, 0),
            struct.pack("<qq", 2**62, 7),
        ]
    )
    group = np.array([3, -1], dtype=np.int64)
    found = rows_digest(("a", "é"), group, integers([-5, 2**62], [0, 7]))
    assert found.raw == hashlib.sha256(expected).digest()


def test_the_digest_of_records_is_over_the_documented_bytes() -> None:
    header = b'{"columns":["sex","age"],"rows":2}'
    expected = b"".join(
        [
            b"unseen/records/v1\x00",
            struct.pack("<I", len(header)),
            header,
            struct.pack("<II", 1, 2),
            "aé".encode(),
            struct.pack("<II", 1, 0),
            b"f",
            struct.pack("<II", 4, 2),
            b"22.240",
        ]
    )
    found = records_digest(("a", "é"), ["sex", "age"], [("f", "22.2"), ("", "40")])
    assert found.raw == hashlib.sha256(expected).digest()


def test_text_cannot_move_from_one_row_to_the_next() -> None:
    def rows(*keys: str) -> bytes:
        return rows_digest(
            keys, np.zeros(len(keys), np.int64), np.zeros((len(keys), 0), np.int64)
        ).raw

    def records(*texts: str) -> bytes:
        return records_digest(("k", "l"), ["x"], [(text,) for text in texts]).raw

    assert len({rows("ab", "c"), rows("a", "bc"), rows("abc"), rows()}) == 4
    assert records("ab", "c") != records("a", "bc")


def test_a_number_cannot_move_from_the_group_to_a_factor_or_from_one_factor_to_the_next() -> None:
    zero, one = np.array([0], dtype=np.int64), np.array([1], dtype=np.int64)
    digests = {
        rows_digest(("a",), one, integers([0, 0])).raw,
        rows_digest(("a",), zero, integers([1, 0])).raw,
        rows_digest(("a",), zero, integers([0, 1])).raw,
        rows_digest(("a",), zero, integers([0])).raw,
    }
    assert len(digests) == 4


def test_factors_are_digested_by_value_and_not_by_how_memory_holds_them() -> None:
    group, factors = np.array([0, 0], dtype=np.int64), integers([1, 2], [3, 4])
    fortran = np.asfortranarray(factors)
    assert rows_digest(("a", "b"), group, fortran) == rows_digest(("a", "b"), group, factors)
