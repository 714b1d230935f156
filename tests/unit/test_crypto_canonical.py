"""Canonical bytes: one value has one encoding, and no other bytes are read."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from crypto import canonical
from crypto.errors import Malformed


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b'{"a":1,"a":1}', "has a member twice"),
        (b'{"a":{"b":1,"b":2}}', "has a member twice"),
        (b'{"b":1,"a":2}', "not in canonical form"),
        (b'{"a": 1}', "not in canonical form"),
        (b'{"a":1}\n', "not in canonical form"),
        (b' {"a":1}', "not in canonical form"),
        (b'\xef\xbb\xbf{"a":1}', "is not JSON"),
        (b'{"a":1}{}', "is not JSON"),
        (b'{"a":1,}', "is not JSON"),
        (b"{'a':1}", "is not JSON"),
        (b"", "is not JSON"),
        (b"1.0", "only integers"),
        (b"1e2", "only integers"),
        (b"NaN", "only integers"),
        (b"-Infinity", "only integers"),
        (b"-0", "not in canonical form"),
        (b"01", "is not JSON"),
        (b"+1", "is not JSON"),
        (b"null", "does not carry"),
        (b'{"a":null}', "a: is of a type"),
        (b"9007199254740992", "integer of 2**53 or more"),
        (b"-9007199254740992", "integer of 2**53 or more"),
        (b"1" * 5000, "integer of 2**53 or more"),
        (b'"\\ud800"', "lone surrogate"),
        (b'["\\udc00\\ud800"]', "lone surrogate"),
        (b'"\\u0041"', "not in canonical form"),
        (b'"\\/"', "not in canonical form"),
        (b'"\\u000A"', "not in canonical form"),
        (b'"\\u000a"', "not in canonical form"),
        (b'"\\u001F"', "not in canonical form"),
        (b'"\\u00e9"', "not in canonical form"),
        (b'"a\nb"', "is not JSON"),
        (b'"\xff"', "is not UTF-8 (byte 1)"),
        (b'"\xed\xa0\x80"', "is not UTF-8"),
        (b'"\xc0\x80"', "is not UTF-8"),
        ('{"é":1}'.encode(), "name that is not ASCII"),
        (b"[" * 40 + b"]" * 40, "nested more than 32 deep"),
        (b"[" * 100_000, "nested more than 32 deep"),
    ],
)
def test_any_other_spelling_is_refused_with_its_reason(data: bytes, problem: str) -> None:
    with pytest.raises(Malformed) as refused:
        canonical.decode(data)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, {"b": 1.5}]}, "a[1].b"),
        ({"a": [None]}, "a[0]"),
        ({"a": {"b": 2**53}}, "a.b"),
        ([-(2**53)], "[0]"),
        ({"a": b"bytes"}, "a"),
        ({"a": "\ud800"}, "a"),
        ({"a": {1, 2}}, "a"),
        ({"a": {1: "x"}}, "a"),
        ({"a": {"\u00e9": "x"}}, "a"),
        ({"a": MappingProxyType({})}, "a"),
    ],
)
def test_what_the_profile_cannot_carry_is_refused_by_path(value: object, where: str) -> None:
    with pytest.raises(Malformed) as refused:
        canonical.encode(value)  # type: ignore[arg-type]
    assert refused.value.where == where


def test_a_value_that_contains_itself_is_refused_and_not_followed_for_ever() -> None:
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(Malformed, match="nested more than 32 deep"):
        canonical.encode(circle)  # type: ignore[arg-type]


@pytest.mark.parametrize("integer", [0, 1, -1, 2**53 - 1, -(2**53) + 1])
def test_every_integer_that_javascript_counts_exactly_is_carried(integer: int) -> None:
    assert canonical.decode(canonical.encode(integer)) == integer


def test_thirty_two_levels_are_carried() -> None:
    data = b"[" * 33 + b"]" * 33
    assert canonical.encode(canonical.decode(data)) == data
