"""One strict codec between frozen dataclasses and canonical JSON.

Every document that leaves a process (statement, agreement, plan, party document) is a frozen
dataclass; its fields are its format. Unknown, missing and ill-typed members are refused by name.

| annotation | JSON |
|---|---|
| str, bool, int | the same |
| Amount | decimal string: integer minor units of money, any size |
| Fraction | `"1/4"`, in lowest terms, denominator always written |
| Rational | the same, and may be negative and longer: a statistic, not a parameter |
| bytes | base64url without padding |
| Digest, PublicKey, identifiers, enums | their text form |
| datetime | RFC 3339 in UTC with milliseconds, 1970 to 9998: `2026-11-23T05:48:21.123Z` |
| tuple[X, ...] | array |
| Mapping[str, X] | object |
| X or None | the member is absent when None |
| A or B, dataclasses | the object with its `kind`, which each class states as a ClassVar |
"""

from __future__ import annotations

import base64
import binascii
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from fractions import Fraction
from functools import cache, partial
from json.encoder import encode_basestring as quote
from typing import Any, Final, TypeVar, cast

from crypto import canonical
from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import Identifier
from crypto.keys import PublicKey

T = TypeVar("T")

_JSON_NAMES: Final[Mapping[type, str]] = {
    str: "text",
    int: "an integer",
    bool: "true or false",
    list: "an array",
    dict: "an object",
}
# ASCII: otherwise the full-width digit ２ would be a second spelling of 2, with another digest.
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
# A day or a year more or less than any time of a record is still one that Python can hold: else
# whoever dates a statement to the year 1, or a plan to the end of 9999, stops those who reckon.
FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 9998
_INTEGER: Final = re.compile(r"0|-?[1-9]\d{0,37}", re.ASCII)
_FRACTION: Final = re.compile(r"(0|[1-9]\d{0,37})/([1-9]\d{0,37})", re.ASCII)
RATIONAL_DIGITS: Final = 400
_RATIONAL: Final = re.compile(
    rf"(0|-?[1-9]\d{{0,{RATIONAL_DIGITS - 1}}})/([1-9]\d{{0,{RATIONAL_DIGITS - 1}}})", re.ASCII
)


class Amount(int):
    """Integer minor units of money. Travels as a string: JSON numbers end at 2**53."""

    __slots__ = ()


class Rational(Fraction):
    """An exact number of an answer: of either sign, at most RATIONAL_DIGITS digits above and below
    the line. Arithmetic on it gives a Fraction."""

    __slots__ = ()


def to_bytes(record: object) -> bytes:
    """The canonical bytes of a record. Raises Malformed for what has no canonical form."""
    return _RECORDS.text(record).encode("utf-8")


def from_bytes(kind: type[T], data: bytes) -> T:
    """Read back what `to_bytes` wrote. Raises Malformed, naming the field."""
    return from_value(kind, canonical.decode(data))


def to_value(record: object) -> canonical.Value:
    """A record as decoded JSON: for people and HTTP, where a document stands inside another."""
    return canonical.decode(to_bytes(record))


def from_value(kind: type[T], value: canonical.Value) -> T:
    """Read a record of `kind` from decoded JSON. Raises Malformed, naming the field."""
    found: T = _reader(cast(Any, kind))(value)
    return found


def encode_time(moment: datetime) -> str:
    """Any time, for people too; a record's own ends with LAST_YEAR."""
    if moment.tzinfo is not UTC:
        if moment.tzinfo is None:
            raise Malformed("", "has no time zone")
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def decode_time(text: str, *, where: str = "time") -> datetime:
    if not _TIME.fullmatch(text):
        raise Malformed(where, "is not a UTC time such as 2026-11-23T05:48:21.123Z")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Malformed(where, "is not a date of the calendar") from None
    _require_year(found.year, where)
    return found


def _require_year(year: int, where: str) -> None:
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise Malformed(where, f"is not in the years {FIRST_YEAR} to {LAST_YEAR}")


def encode_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: str, *, where: str = "bytes") -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise Malformed(where, "is not base64url") from None
    if encode_base64(data) != text:
        raise Malformed(where, "is not base64url in its one canonical spelling")
    return data


class _Records(canonical.Writers):
    """Canonical JSON's own types, and what the table above adds to them."""

    def find(self, kind: type) -> canonical.Writer:
        if issubclass(kind, Enum):
            return lambda member, depth: self[type(member.value)](member.value, depth)
        if issubclass(kind, Amount):
            return _spelled(int.__repr__)
        if issubclass(kind, bytes):
            return _spelled(encode_base64)
        if issubclass(kind, datetime):
            return _spelled(_written_time)
        if issubclass(kind, Digest | PublicKey):
            return _spelled(str)
        if issubclass(kind, Fraction):
            return _spelled(lambda exact: f"{exact.numerator}/{exact.denominator}")
        if issubclass(kind, Mapping):
            return lambda members, depth: self.write_object(
                {str(name): value for name, value in members.items()}, depth
            )
        if is_dataclass(kind):
            return self._dataclass_writer(kind)
        try:
            return super().find(kind)
        except Malformed:
            raise Malformed("", f"{kind.__name__} has no canonical form") from None

    def _dataclass_writer(self, kind: type) -> canonical.Writer:
        names = {field.name for field in fields(kind)}
        if isinstance(getattr(kind, "kind", None), str):
            names.add("kind")
        canonical.require_ascii(names)
        members = tuple((name, f'"{name}":') for name in sorted(names))

        def write(record: object, depth: int) -> str:
            canonical.require_depth(depth)
            found: list[str] = []
            for name, start in members:
                value = getattr(record, name)
                if value is None:
                    continue
                if type(value) is str and value.isascii():
                    found.append(start + quote(value))
                    continue
                try:
                    found.append(start + self[type(value)](value, depth + 1))
                except Malformed as error:
                    raise error.inside(name) from None
            return f"{{{','.join(found)}}}"

        return write


def _written_time(moment: datetime) -> str:
    text = encode_time(moment)
    _require_year(int(text[:4]), "")
    return text


def _spelled(spell: Callable[[Any], str]) -> canonical.Writer:
    """spell: gives ASCII text in which JSON escapes nothing."""
    return lambda value, depth: f'"{spell(value)}"'


Reader = Callable[[Any], Any]
"""From a decoded JSON value to what a field holds. Raises Malformed, with the path inside it."""


@cache
def _reader(kind: Any) -> Reader:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _union_reader(kind)
    if origin is tuple:
        return _array_reader(_reader(typing.get_args(kind)[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _object_reader(_reader(typing.get_args(kind)[1]))
    if is_dataclass(kind) and kind not in (Digest, PublicKey):  # those travel as text
        return _dataclass_reader(cast(type, kind))
    if kind is str:
        return _read_text
    if kind in (bool, int):
        return lambda value: _a(kind, value)
    return _text_reader(_parser(kind))


def _read_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise Malformed("", "is not text")


def _text_reader(parse: Callable[..., object]) -> Reader:
    def read(value: Any) -> object:
        if isinstance(value, str):
            return parse(value, where="")
        raise Malformed("", "is not text")

    return read


def _parser(kind: Any) -> Callable[..., object]:
    if kind is Amount:
        return _parse_amount
    if kind is Fraction:
        return partial(_parse_fraction, _FRACTION)
    if kind is Rational:
        return lambda text, where: Rational(_parse_fraction(_RATIONAL, text, where))
    if kind is bytes:
        return decode_base64
    if kind is datetime:
        return decode_time
    if kind is Digest or kind is PublicKey or issubclass(kind, Identifier):
        return cast(Callable[..., object], kind.parse)
    if issubclass(kind, Enum):
        return partial(_parse_enum, kind)
    raise TypeError(f"{kind!r} has no canonical form")


def _array_reader(item: Reader) -> Reader:
    def read(value: Any) -> object:
        found: list[object] = []
        for one in _a(list, value):
            try:
                found.append(item(one))
            except Malformed as error:
                raise error.inside(f"[{len(found)}]") from None
        return tuple(found)

    return read


def _object_reader(member: Reader) -> Reader:
    def read(value: Any) -> object:
        found: dict[str, object] = {}
        for name, one in _a(dict, value).items():
            try:
                found[name] = member(one)
            except Malformed as error:
                raise error.inside(name) from None
        return found

    return read


def _dataclass_reader(kind: type) -> Reader:
    tag = getattr(kind, "kind", None)
    tagged = isinstance(tag, str)

    @cache  # found out when first used: a record may hold its own kind
    def plan() -> tuple[tuple[str, Reader, bool], ...]:
        hints = typing.get_type_hints(kind)
        return tuple(
            (name, _reader(hints[name]), type(None) in typing.get_args(hints[name]))
            for name in (field.name for field in fields(kind))
        )

    def read(value: Any) -> object:
        members = _a(dict, value)
        if tagged and members.get("kind") != tag:
            raise Malformed("kind", f"is not {tag}")
        found: list[object] = []
        absent = 0
        for name, member, optional in plan():
            if name in members:
                try:
                    found.append(member(members[name]))
                except Malformed as error:
                    raise error.inside(name) from None
            elif optional:
                found.append(None)
                absent += 1
            else:
                raise Malformed(name, "is missing")
        if len(members) != tagged + len(found) - absent:
            known = {name for name, _, _ in plan()} | ({"kind"} if tagged else set())
            raise Malformed(min(members.keys() - known), "is not a field of this document")
        return kind(*found)

    return read


def _union_reader(kind: Any) -> Reader:
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if len(options) == 1:
        return _reader(options[0])
    tags = {option.kind: option for option in options}

    def read(value: Any) -> object:
        tag = _a(dict, value).get("kind")
        if not isinstance(tag, str) or tag not in tags:
            raise Malformed("kind", f"is not one of {', '.join(sorted(tags))}")
        return _reader(tags[tag])(value)

    return read


def _parse_amount(text: str, where: str) -> Amount:
    if not _INTEGER.fullmatch(text):
        raise Malformed(where, "is not a string of integer minor units")
    return Amount(text)


def _parse_enum(kind: type[Enum], text: str, where: str) -> Enum:
    try:
        return kind(text)
    except ValueError:
        allowed = ", ".join(str(member.value) for member in kind)
        raise Malformed(where, f"is not one of {allowed}") from None


def _parse_fraction(form: re.Pattern[str], text: str, where: str) -> Fraction:
    match = form.fullmatch(text)
    if not match:
        raise Malformed(where, 'is not an exact fraction such as "1/4"')
    fraction = Fraction(int(match[1]), int(match[2]))
    if f"{fraction.numerator}/{fraction.denominator}" != text:
        raise Malformed(where, "is not in lowest terms")
    return fraction


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Malformed("", f"is not {_JSON_NAMES[kind]}")
    return value


_RECORDS: Final = _Records()
