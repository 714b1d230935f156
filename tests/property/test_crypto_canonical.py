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


SPELLINGS = st.recursive(
    st.sampled_from(["0", "-0", "1", "1.0", "1e0", "9007199254740991", "9007199254740992"])
    | st.sampled_from(["null", "true", "NaN", '""', '"a"', '"\\u0061"', '"\\/"', '"\\n"', '"é"'])
    | st.sampled_from(['"\\u00e9"', '"\\ud800"', '"\\ud83d\\ude00"', '"😀"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(
            st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"é"', '"b" ']), inner),
            max_size=3,
        ).map(lambda members: "{" + ",".join(f"{n}:{v}" for n, v in members) + "}")
        | inner.map(lambda text: text + " ")
    ),
    max_leaves=6,
)


@given(SPELLINGS)
def test_only_what_the_oracle_writes_is_read(text: str) -> None:
    """Members twice, second spellings, white space, floats: what a lenient reader would forgive."""
    try:
        value = json.loads(text, object_pairs_hook=_each_once)
        canonically_spelled = _in_profile(value) and rfc8785.dumps(value) == text.encode()
    except (ValueError, rfc8785.CanonicalizationError):
        canonically_spelled = False
    if canonically_spelled:
        assert canonical.decode(text.encode()) == value
    else:
        with pytest.raises(Malformed):
            canonical.decode(text.encode())


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a member twice")
    return dict(pairs)


def _in_profile(value: object) -> bool:
    if isinstance(value, dict):
        return all(n.isascii() and _in_profile(v) for n, v in value.items())
    if isinstance(value, list):
        return all(map(_in_profile, value))
    return isinstance(value, str | int) and (isinstance(value, str) or abs(value) < 2**53)
