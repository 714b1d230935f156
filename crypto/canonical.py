"""Canonical JSON: the bytes that are signed and hashed.

The JSON Canonicalization Scheme (RFC 8785), restricted so that one value has one encoding in
every language: ASCII member names, integers below 2**53 in magnitude, no floating point, no null.
Within that profile the standard library's encoder gives exactly RFC 8785's bytes, so an auditor
needs nothing installed to read them. `decode` accepts those bytes and no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from crypto.errors import Malformed

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 32

Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`. Raises Malformed, naming the path, outside the profile."""
    _check(value, "", 0)
    return _ENCODER.encode(value).encode("utf-8")


def decode(data: bytes) -> Value:
    """The value whose canonical bytes are `data`.

    Raises Malformed for anything else: another key order, white space, a duplicate member,
    a second spelling of a string or number, a lone surrogate, text after the value.
    """
    try:
        text = data.decode("utf-8")
        value: Value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        raise Malformed("", f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise Malformed("", f"is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise Malformed("", f"is nested more than {MAX_DEPTH} deep") from None
    if encode(value) != data:
        raise Malformed("", "is not in canonical form (RFC 8785)")
    return value


def _check(value: object, where: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Malformed(where, f"is nested more than {MAX_DEPTH} deep")
    if isinstance(value, bool):
        return
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Malformed(where, "holds a lone surrogate") from None
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise Malformed(where, "is an integer of 2**53 or more; write it as a string")
    elif isinstance(value, dict):
        for name, member in value.items():
            if not isinstance(name, str) or not name.isascii():
                raise Malformed(where, "has a member name that is not ASCII text")
            if type(member) is str and member.isascii():
                continue  # as most are: nothing to refuse
            _check(member, f"{where}.{name}" if where else name, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if type(item) is str and item.isascii():
                continue
            _check(item, f"{where}[{index}]", depth + 1)
    else:
        raise Malformed(where, "is of a type that canonical JSON does not carry")


def _no_duplicates(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("", "has a member twice")
    return members


def _no_float(text: str) -> NoReturn:
    raise Malformed("", f"holds the number {text[:20]}; only integers are allowed")


def _integer(text: str) -> int:
    if len(text) > 17:
        raise Malformed("", "holds an integer of 2**53 or more; write it as a string")
    return int(text)


# Made once: the functions of `json` make theirs anew for every document.
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_float=_no_float,
    parse_constant=_no_float,
    parse_int=_integer,
)
