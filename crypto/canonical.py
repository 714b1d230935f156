"""Canonical JSON: the bytes that are signed and hashed.

The JSON Canonicalization Scheme (RFC 8785), restricted so that one value has one encoding in
every language: ASCII member names, integers below 2**53 in magnitude, no floating point, no null.
Within that profile names sort by their characters, and strings are spelled as the standard library
spells them, so an auditor needs nothing installed to read these bytes. `decode` accepts them and
no others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring as quote
from typing import Any, Final, NoReturn

from crypto.errors import Malformed

MAX_INTEGER: Final = 2**53 - 1
MAX_DEPTH: Final = 32

Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]
Writer = Callable[[Any, int], str]
"""From a value, and how deep it is nested, to its canonical text. Raises Malformed, with the path
inside the value."""


def encode(value: Value) -> bytes:
    """The canonical bytes of `value`. Raises Malformed, naming the path, outside the profile."""
    return _JSON.text(value).encode("utf-8")


def decode(data: bytes) -> Value:
    """The value whose canonical bytes are `data`.

    Raises Malformed for anything else: another key order, white space, a duplicate member,
    a second spelling of a string or number, a lone surrogate, text after the value.

    The reader is a lenient one, for it is several times faster; but what it read is written again
    and must come out as it came in. Nothing that the reader forgives survives that: of a member
    twice it keeps one, an escape becomes its character, and what follows the value is not read.
    Only once bytes are refused is it found out why.
    """
    try:
        text = data.decode("utf-8")
        value: Value = _LENIENT.raw_decode(text)[0]
        if _JSON.text(value) == text:
            return value
    except (ValueError, RecursionError, Malformed):
        pass  # UTF-8 and JSON refuse with a ValueError
    raise _refusal(data)


def _refusal(data: bytes) -> Malformed:
    """What is wrong with `data`, which is known not to be canonical."""
    try:
        _JSON.text(_STRICT.decode(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        return Malformed("", f"is not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        return Malformed("", f"is not JSON: {error.msg} at character {error.pos}")
    except RecursionError:
        return Malformed("", f"is nested more than {MAX_DEPTH} deep")
    except Malformed as error:
        return error
    return Malformed("", "is not in canonical form (RFC 8785)")


class Writers(dict[type, Writer]):
    """What writes each type of value as canonical text, found out once for each.

    Text is written and checked in one go, for every ledger statement is. `crypto.record` adds the
    types of its own.
    """

    def text(self, value: object) -> str:
        return self[type(value)](value, 0)

    def __missing__(self, kind: type) -> Writer:
        write = self[kind] = self.find(kind)
        return write

    def find(self, kind: type) -> Writer:
        """Raises Malformed for a type that has no canonical text."""
        if issubclass(kind, str):
            return write_string
        if issubclass(kind, bool):
            return _write_truth
        if issubclass(kind, int):
            return _write_integer
        if issubclass(kind, dict):
            return self.write_object
        if issubclass(kind, list | tuple):
            return self.write_array
        raise Malformed("", "is of a type that canonical JSON does not carry")

    def write_object(self, members: Mapping[Any, object], depth: int) -> str:
        require_depth(depth)
        require_ascii(members)
        found: list[str] = []
        for name in sorted(members):
            value = members[name]
            if type(value) is str and value.isascii():  # as most are: nothing to refuse
                found.append(f"{quote(name)}:{quote(value)}")
                continue
            try:
                found.append(f"{quote(name)}:{self[type(value)](value, depth + 1)}")
            except Malformed as error:
                raise error.inside(name) from None
        return f"{{{','.join(found)}}}"

    def write_array(self, items: Iterable[object], depth: int) -> str:
        require_depth(depth)
        found: list[str] = []
        for item in items:
            if type(item) is str and item.isascii():
                found.append(quote(item))
                continue
            try:
                found.append(self[type(item)](item, depth + 1))
            except Malformed as error:
                raise error.inside(f"[{len(found)}]") from None
        return f"[{','.join(found)}]"


def require_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise Malformed("", f"is nested more than {MAX_DEPTH} deep")


def require_ascii(names: Iterable[Any]) -> None:
    """Of member names: only ASCII sorts alike in every language."""
    try:
        ascii_only = "".join(names).isascii()
    except TypeError:  # not even text
        ascii_only = False
    if not ascii_only:
        raise Malformed("", "has a member name that is not ASCII text")


def write_string(text: str, depth: int) -> str:
    if not text.isascii():
        require_depth(depth)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Malformed("", "holds a lone surrogate") from None
    return quote(text)


def _write_truth(truth: bool, depth: int) -> str:
    require_depth(depth)
    return "true" if truth else "false"


def _write_integer(number: int, depth: int) -> str:
    require_depth(depth)
    if not -MAX_INTEGER <= number <= MAX_INTEGER:
        raise Malformed("", "is an integer of 2**53 or more; write it as a string")
    return int.__repr__(number)


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
_LENIENT: Final = json.JSONDecoder(
    parse_float=_no_float, parse_constant=_no_float, parse_int=_integer
)
_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_no_duplicates,
    parse_float=_no_float,
    parse_constant=_no_float,
    parse_int=_integer,
)
_JSON: Final = Writers()
