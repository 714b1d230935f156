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
| datetime | RFC 3339 in UTC with milliseconds: `2026-11-23T05:48:21.123Z` |
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
from functools import cache
from typing import Any, Final, TypeVar, cast

from crypto import canonical
from crypto.digest import Digest
from crypto.errors import CryptoError, Malformed
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
    """The canonical bytes of a record."""
    return canonical.encode(to_value(record))


def from_bytes(kind: type[T], data: bytes) -> T:
    """Read back what `to_bytes` wrote. Raises Malformed, naming the field."""
    return from_value(kind, canonical.decode(data))


def to_value(record: object) -> canonical.Value:
    write = _WRITERS.get(type(record))
    if write is not None:
        return write(record)
    if isinstance(record, Enum):
        return cast(str, record.value)
    if isinstance(record, Identifier):
        return str(record)
    for kind, write in _WRITERS.items():
        if isinstance(record, kind):
            return write(record)
    if isinstance(record, Fraction):
        return f"{record.numerator}/{record.denominator}"
    if isinstance(record, Mapping):
        return {str(name): to_value(member) for name, member in record.items()}
    if isinstance(record, tuple | list):
        return [to_value(item) for item in record]
    if is_dataclass(record) and not isinstance(record, type):
        members = {
            name: to_value(value)
            for name in _names(type(record))
            if (value := getattr(record, name)) is not None
        }
        tag = getattr(record, "kind", None)
        return {"kind": tag, **members} if isinstance(tag, str) else members
    raise Malformed("", f"{type(record).__name__} has no canonical form")


def from_value(kind: type[T], value: canonical.Value, *, where: str = "") -> T:
    """Read a record of `kind` from decoded JSON. Raises Malformed, naming the field."""
    return cast(T, _reader(cast(Any, kind))(value, where))


def encode_time(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise Malformed("time", "has no time zone")
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def decode_time(text: str, *, where: str = "time") -> datetime:
    if not _TIME.fullmatch(text):
        raise Malformed(where, "is not a UTC time such as 2026-11-23T05:48:21.123Z")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise Malformed(where, "is not a date of the calendar") from None


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


Reader = Callable[[Any, str], object]
"""From a decoded JSON value, and where it stands, to what a field holds. Raises Malformed."""


@cache
def _reader(kind: Any) -> Reader:
    """What reads an annotation: found out once, for a log's audit reads millions of records."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return _union_reader(kind)
    if origin is tuple:
        item = _reader(typing.get_args(kind)[0])
        return lambda value, where: tuple(
            [item(v, f"{where}[{i}]") for i, v in enumerate(_a(list, value, where))]
        )
    if origin is not None and issubclass(origin, Mapping):
        member = _reader(typing.get_args(kind)[1])
        return lambda value, where: {
            name: member(v, f"{where}.{name}") for name, v in _a(dict, value, where).items()
        }
    if is_dataclass(kind) and kind not in (Digest, PublicKey):  # those travel as text
        return _dataclass_reader(cast(type, kind))
    if kind in (bool, int, str):
        return lambda value, where: _a(kind, value, where)
    read = _text_reader(kind)
    return lambda value, where: read(_a(str, value, where), where)


def _text_reader(kind: Any) -> Callable[[str, str], object]:
    if kind is Amount:
        return _read_amount
    if kind is Fraction:
        return lambda text, where: _read_fraction(text, _FRACTION, where)
    if kind is Rational:
        return lambda text, where: Rational(_read_fraction(text, _RATIONAL, where))
    if kind is bytes:
        return lambda text, where: decode_base64(text, where=where)
    if kind is datetime:
        return lambda text, where: decode_time(text, where=where)
    if kind is Digest or kind is PublicKey or issubclass(kind, Identifier):
        return lambda text, where: kind.parse(text, where=where)
    if issubclass(kind, Enum):
        return lambda text, where: _read_enum(kind, text, where)
    raise TypeError(f"{kind!r} has no canonical form")


def _dataclass_reader(kind: type) -> Reader:
    tag = getattr(kind, "kind", None)

    @cache  # found out when first used: a record may hold its own kind
    def plan() -> tuple[tuple[str, Reader, bool], ...]:
        return tuple(
            (name, _reader(annotation), type(None) in typing.get_args(annotation))
            for name, annotation in _annotations(kind).items()
        )

    def read(value: Any, where: str) -> object:
        members = dict(_a(dict, value, where))
        if isinstance(tag, str) and members.pop("kind", None) != tag:
            raise Malformed(_at(where, "kind"), f"is not {tag}")
        found: dict[str, object] = {}
        for name, member, optional in plan():
            if name in members:
                found[name] = member(members.pop(name), f"{where}.{name}" if where else name)
            elif optional:
                found[name] = None
            else:
                raise Malformed(_at(where, name), "is missing")
        if members:
            raise Malformed(_at(where, min(members)), "is not a field of this document")
        try:
            return kind(**found)
        except CryptoError as error:
            if isinstance(error, Malformed):
                raise Malformed(_at(where, error.where), error.problem) from None
            raise

    return read


def _union_reader(kind: Any) -> Reader:
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if len(options) == 1:
        return _reader(options[0])
    tags = {option.kind: option for option in options}

    def read(value: Any, where: str) -> object:
        tag = _a(dict, value, where).get("kind")
        if tag not in tags:
            raise Malformed(_at(where, "kind"), f"is not one of {', '.join(sorted(tags))}")
        return _reader(tags[tag])(value, where)

    return read


def _read_amount(text: str, where: str) -> Amount:
    if not _INTEGER.fullmatch(text):
        raise Malformed(where, "is not a string of integer minor units")
    return Amount(text)


def _read_enum(kind: type[Enum], text: str, where: str) -> Enum:
    try:
        return kind(text)
    except ValueError:
        allowed = ", ".join(str(member.value) for member in kind)
        raise Malformed(where, f"is not one of {allowed}") from None


def _read_fraction(text: str, form: re.Pattern[str], where: str) -> Fraction:
    match = form.fullmatch(text)
    if not match:
        raise Malformed(where, 'is not an exact fraction such as "1/4"')
    fraction = Fraction(int(match[1]), int(match[2]))
    if f"{fraction.numerator}/{fraction.denominator}" != text:
        raise Malformed(where, "is not in lowest terms")
    return fraction


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _annotations(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _a(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Malformed(where, f"is not {_JSON_NAMES[kind]}")
    return value


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


# What most members are: found by identity, and by family if not.
_WRITERS: Final[Mapping[type, Callable[[Any], canonical.Value]]] = {
    str: lambda text: text,
    bool: lambda truth: truth,
    Amount: lambda amount: str(int(amount)),
    int: lambda number: number,
    bytes: encode_base64,
    Digest: str,
    PublicKey: str,
    datetime: encode_time,
}
