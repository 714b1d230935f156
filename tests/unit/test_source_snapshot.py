"""The digest of an extract, rebuilt by hand from its documented serialisation."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from registry.snapshot import snapshot_digest


def test_the_digest_is_over_the_documented_bytes() -> None:
    header = b'{"columns":[{"name":"age","type":"number"},{"name":"sex","type":"text"}],"rows":2}'
    expected = b"".join(
        [
            b"unseen/extract/v1\x00",
            struct.pack("<I", len(header)),
            header,
            struct.pack("<II", 1, 2),
            "aé".encode(),
            b"\x01\x00",
            struct.pack("<qq", -5, 0),
            b"\x00\x01",
            struct.pack("<II", 0, 1),
            b"f",
        ]
    )
    found = snapshot_digest(
        ("a", "é"),
        {"age": np.array([-5, 0], dtype=np.int64)},
        {"sex": ("", "f")},
        {"age": np.array([True, False]), "sex": np.array([False, True])},
    )
    assert found.raw == hashlib.sha256(expected).digest()


def test_text_cannot_move_from_one_row_to_the_next() -> None:
    def digest(*keys: str) -> bytes:
        return snapshot_digest(keys, {}, {}, {}).raw

    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest()}) == 4
