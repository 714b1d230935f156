"""Laws of canonical JSON, with an independent implementation of RFC 8785 as oracle."""

from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from crypto import canonical
from crypto.errors import Malformed

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.text(st.characters(max_codepoint=127))
VALUES = st.recursive(
    TEXT | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_our_bytes_are_those_of_rfc_8785_and_read_back(value: canonical.Value) -> None:
    data = canonical.encode(value)
    assert data == rfc8785.dumps(value)  # type: ignore[arg-type]
    assert canonical.decode(data) == value


@given(VALUES)
def test_another_spelling_of_the_same_value_is_refused(value: canonical.Value) -> None:
    data = canonical.encode(value)
    for other in (
        json.dumps(value, indent=1).encode(),
        json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode(),
        data + b" ",
    ):
        if other != data:
            with pytest.raises(Malformed):
                canonical.decode(other)


@given(st.binary(max_size=64))
def test_no_bytes_do_more_than_be_read_or_be_refused(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except Malformed:
        return
    assert canonical.encode(value) == data


@given(VALUES, st.data())
def test_a_changed_byte_never_reads_as_the_same_value(
    value: canonical.Value, data: st.DataObject
) -> None:
    encoded = bytearray(canonical.encode(value))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        assert canonical.decode(bytes(encoded)) != value
    except Malformed:
        return
