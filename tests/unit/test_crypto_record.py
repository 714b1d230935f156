"""The strict codec: fields are the format, and each refusal names its field."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from fractions import Fraction
from typing import ClassVar

import pytest

from crypto import canonical, record
from crypto.digest import Digest, digest
from crypto.errors import Malformed
from crypto.identifiers import JobId
from crypto.keys import PublicKey
from crypto.record import FIRST_YEAR, LAST_YEAR, RATIONAL_DIGITS, Amount, Rational


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Circle:
    kind: ClassVar[str] = "circle"
    radius: int


@dataclass(frozen=True)
class Square:
    kind: ClassVar[str] = "square"
    side: int

    def __post_init__(self) -> None:
        if self.side < 0:
            raise Malformed("side", "is negative")


@dataclass(frozen=True)
class Everything:
    text: str
    number: int
    flag: bool
    amount: Amount
    share: Fraction
    raw: bytes
    mark: Digest
    key: PublicKey
    job: JobId
    colour: Colour
    moment: datetime
    many: tuple[str, ...]
    named: Mapping[str, Digest]
    shape: Circle | Square
    shapes: tuple[Circle | Square, ...]
    maybe: int | None = None


def everything() -> Everything:
    return Everything(
        text="患者",
        number=-5,
        flag=True,
        amount=Amount(2**80),
        share=Fraction(1, 4),
        raw=b"\xff\x00\xfe",
        mark=digest(b"x"),
        key=PublicKey("ed25519", bytes(range(32))),
        job=JobId("job_" + "0" * 32),
        colour=Colour.BLUE,
        moment=datetime(2026, 11, 23, 5, 48, 21, 123000, tzinfo=UTC),
        many=("a", ""),
        named={"b": digest(b"b"), "a": digest(b"a")},
        shape=Square(2),
        shapes=(Circle(1), Square(0)),
    )


def test_a_record_is_written_as_its_fields_say() -> None:
    assert record.to_value(everything()) == {
        "text": "患者",
        "number": -5,
        "flag": True,
        "amount": "1208925819614629174706176",
        "share": "1/4",
        "raw": "_wD-",
        "mark": f"sha256:{digest(b'x').raw.hex()}",
        "key": "ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "job": "job_" + "0" * 32,
        "colour": "blue",
        "moment": "2026-11-23T05:48:21.123Z",
        "many": ["a", ""],
        "named": {"b": str(digest(b"b")), "a": str(digest(b"a"))},
        "shape": {"kind": "square", "side": 2},
        "shapes": [{"kind": "circle", "radius": 1}, {"kind": "square", "side": 0}],
    }


def test_a_record_comes_back_from_its_bytes_with_its_types() -> None:
    written = record.to_bytes(everything())
    read = record.from_bytes(Everything, written)
    assert read == everything()
    assert isinstance(read.amount, Amount)
    assert isinstance(read.job, JobId)
    assert record.to_bytes(read) == written


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("text", 1, "text: is not text"),
        ("number", "1", "number: is not an integer"),
        ("number", True, "number: is not an integer"),
        ("flag", 1, "flag: is not true or false"),
        ("flag", "true", "flag: is not true or false"),
        ("amount", 5, "amount: is not text"),
        ("amount", "05", "amount: is not a string of integer"),
        ("amount", "+5", "amount: is not a string of integer"),
        ("amount", "-0", "amount: is not a string of integer"),
        ("amount", "5.0", "amount: is not a string of integer"),
        ("amount", " 5", "amount: is not a string of integer"),
        ("amount", "5\n", "amount: is not a string of integer"),
        ("amount", "1_0", "amount: is not a string of integer"),
        ("amount", "１２", "amount: is not a string of integer"),
        ("amount", "1２", "amount: is not a string of integer"),
        ("amount", "9" * 39, "amount: is not a string of integer"),
        ("share", "2/8", "share: is not in lowest terms"),
        ("share", "1", "share: is not an exact fraction"),
        ("share", "1/0", "share: is not an exact fraction"),
        ("share", "0.25", "share: is not an exact fraction"),
        ("share", "-1/4", "share: is not an exact fraction"),
        ("share", "1/４", "share: is not an exact fraction"),
        ("raw", "_wD-==", "raw: is not base64url"),
        ("raw", "/wD+", "raw: is not base64url"),
        ("raw", "_w\n", "raw: is not base64url"),
        ("raw", "_x", "raw: is not base64url in its one canonical spelling"),
        ("raw", "é", "raw: is not base64url"),
        ("mark", "sha256:" + "A" * 64, "mark: a digest is written"),
        ("mark", "0" * 64, "mark: a digest is written"),
        ("mark", "sha256:" + "0" * 64 + "\n", "mark: a digest is written"),
        ("key", "rsa:AAAA", "key: is not a public key"),
        ("key", "ed25519:AAAA", "key: is not a public key"),
        ("job", "neg_" + "0" * 32, "job: is not an identifier of the form job_"),
        ("job", "job_" + "0" * 31, "job: is not an identifier"),
        ("job", "job_" + "A" * 32, "job: is not an identifier"),
        ("colour", "green", "colour: is not one of red, blue"),
        ("moment", "2026-11-23T05:48:21Z", "moment: is not a UTC time"),
        ("moment", "2026-11-23T05:48:21.1234Z", "moment: is not a UTC time"),
        ("moment", "2026-11-23T05:48:21.123+00:00", "moment: is not a UTC time"),
        ("moment", "2026-11-23T05:48:21.123+08:00", "moment: is not a UTC time"),
        ("moment", "2026-02-30T00:00:00.000Z", "moment: is not a date of the calendar"),
        ("moment", "2026-11-23T24:00:00.000Z", "moment: is not a date of the calendar"),
        ("moment", "1969-12-31T23:59:59.999Z", "moment: is not in the years 1970 to 9998"),
        ("moment", "9999-01-01T00:00:00.000Z", "moment: is not in the years 1970 to 9998"),
        ("moment", "２０２６-11-23T05:48:21.123Z", "moment: is not a UTC time"),
        ("many", "a", "many: is not an array"),
        ("many", ["a", 1], "many[1]: is not text"),
        ("named", [], "named: is not an object"),
        ("named", {"a": "x"}, "named.a: a digest is written"),
        ("shape", {"side": 2}, "shape.kind: is not one of circle, square"),
        ("shape", {"kind": "line", "side": 2}, "shape.kind: is not one of circle, square"),
        ("shape", {"kind": ["circle"], "side": 2}, "shape.kind: is not one of circle, square"),
        ("shape", {"kind": "circle", "side": 2}, "shape.radius: is missing"),
        ("shape", {"kind": "circle", "radius": 2, "side": 2}, "shape.side: is not a field"),
        ("shape", {"kind": "square", "side": -1}, "shape.side: is negative"),
        ("shape", 7, "shape: is not an object"),
        ("shapes", [{"kind": "circle", "radius": "1"}], "shapes[0].radius: is not an integer"),
        ("maybe", None, "maybe: is not an integer"),
        ("maybe", "1", "maybe: is not an integer"),
        ("extra", 1, "extra: is not a field of this document"),
        ("kind", "everything", "kind: is not a field of this document"),
    ],
)
def test_an_ill_formed_member_is_refused_by_name(field: str, value: object, where: str) -> None:
    members = {**record.to_value(everything()), field: value}  # type: ignore[dict-item]
    with pytest.raises(Malformed) as refused:
        record.from_value(Everything, members)  # type: ignore[arg-type]
    assert str(refused.value).startswith(where)


@pytest.mark.parametrize("field", [f for f in Everything.__annotations__ if f != "maybe"])
def test_a_missing_member_is_refused_by_name(field: str) -> None:
    members = dict(record.to_value(everything()))  # type: ignore[arg-type]
    del members[field]
    with pytest.raises(Malformed, match=f"^{field}: is missing"):
        record.from_value(Everything, members)


@pytest.mark.parametrize(
    "number", [Fraction(0), Fraction(-1, 4), Fraction(7), Fraction(10**399 - 1, 10**399)]
)
def test_a_rational_of_either_sign_comes_back(number: Fraction) -> None:
    written = f"{number.numerator}/{number.denominator}"
    assert record.to_value(Rational(number)) == written
    read = record.from_value(Rational, written)
    assert read == number
    assert isinstance(read, Rational)


@pytest.mark.parametrize(
    "text", ["-0/1", "1/-4", "+1/4", "2/8", "-2/8", "1", "1/0", "1/" + "9" * (RATIONAL_DIGITS + 1)]
)
def test_a_rational_has_one_spelling(text: str) -> None:
    with pytest.raises(Malformed):
        record.from_value(Rational, text)


def test_bytes_that_are_not_canonical_are_refused_before_anything_is_read() -> None:
    data = record.to_bytes(Circle(1))
    assert record.from_bytes(Circle, data) == Circle(1)
    with pytest.raises(Malformed, match="canonical"):
        record.from_bytes(Circle, data.replace(b",", b", "))


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(Malformed, match="kind: is not square"):
        record.from_bytes(Square, record.to_bytes(Circle(1)))


def test_an_absent_member_is_not_written() -> None:
    assert "maybe" not in record.to_value(everything())  # type: ignore[operator]


@pytest.mark.parametrize("value", [1.5, None, object(), {1}, Circle])
def test_a_value_without_a_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match="has no canonical form"):
        record.to_value(value)


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("number", 2**53, "number: is an integer of 2**53 or more"),
        ("text", "\ud800", "text: holds a lone surrogate"),
        ("many", ("a", "\udfff"), "many[1]: holds a lone surrogate"),
        ("many", ("a", 1.5), "many[1]: float has no canonical form"),
        ("named", {"é": digest(b"")}, "named: has a member name that is not ASCII text"),
        ("named", {"a": None}, "named.a: NoneType has no canonical form"),
        ("shape", Circle(-(2**53)), "shape.radius: is an integer of 2**53 or more"),
        ("shapes", (Circle(1), Square(2**60)), "shapes[1].side: is an integer of 2**53 or more"),
    ],
)
def test_what_a_record_cannot_carry_is_refused_by_name_when_written(
    field: str, value: object, where: str
) -> None:
    with pytest.raises(Malformed) as refused:
        record.to_bytes(replace(everything(), **{field: value}))  # type: ignore[arg-type]
    assert str(refused.value).startswith(where)


@dataclass(frozen=True)
class Nest:
    name: str
    count: int | None = None
    inner: Nest | None = None


@pytest.mark.parametrize("innermost", [Nest("a"), Nest("é"), Nest("a", 1)])
def test_records_are_written_just_as_deep_as_they_are_read(innermost: Nest) -> None:
    for levels in range(30, 36):
        nest, value = innermost, json.loads(record.to_bytes(innermost))
        for _ in range(levels):
            nest, value = Nest("a", inner=nest), {"name": "a", "inner": value}
        data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if levels < 32 or (levels == 32 and innermost == Nest("a")):
            assert record.to_bytes(nest) == data
            assert record.from_bytes(Nest, data) == nest
            continue
        with pytest.raises(Malformed, match="nested more than 32 deep"):
            record.to_bytes(nest)
        with pytest.raises(Malformed, match="nested more than 32 deep"):
            record.from_bytes(Nest, data)


def test_a_record_that_is_derived_from_another_is_written_with_its_own_fields() -> None:
    @dataclass(frozen=True)
    class Ring(Circle):
        kind: ClassVar[str] = "ring"
        hole: int

    assert record.to_bytes(Circle(2)) == b'{"kind":"circle","radius":2}'
    assert record.to_bytes(Ring(2, 1)) == b'{"hole":1,"kind":"ring","radius":2}'


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(Malformed, match="has no time zone"):
        record.to_value(datetime(2026, 11, 23))  # noqa: DTZ001 this is what is refused


def test_one_moment_has_one_spelling_in_every_zone() -> None:
    moment = datetime(2026, 11, 23, 5, 48, 21, 999999, tzinfo=UTC)
    china = moment.astimezone(timezone(timedelta(hours=8)))
    assert record.to_value(moment) == record.to_value(china) == "2026-11-23T05:48:21.999Z"


def test_a_time_is_written_only_where_it_would_be_read() -> None:
    first, last = (datetime(year, 6, 1, tzinfo=UTC) for year in (FIRST_YEAR, LAST_YEAR))
    for moment in (first, last):
        assert record.decode_time(str(record.to_value(moment))) == moment
    for moment in (first.replace(year=FIRST_YEAR - 1), last.replace(year=LAST_YEAR + 1)):
        with pytest.raises(Malformed, match="is not in the years"):
            record.to_value(moment)
        assert record.encode_time(moment).startswith(str(moment.year))  # for people


def test_a_member_name_that_is_not_ascii_is_refused_when_written() -> None:
    with pytest.raises(Malformed):
        canonical.encode(record.to_value({"é": "x"}))


def test_threads_that_meet_a_record_for_the_first_time_at_once_all_read_it() -> None:
    """A plan of reading that one thread saw half made by another gave "is missing"."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(40):
            kind = make_dataclass(f"Met{number}", [(f"m{i}", int) for i in range(12)], frozen=True)
            data = canonical.encode({f"m{i}": i for i in range(12)})
            found: list[object] = []
            together = threading.Barrier(4)

            def read(
                kind: type = kind,
                data: bytes = data,
                found: list[object] = found,
                together: threading.Barrier = together,
            ) -> None:
                together.wait()
                found.append(record.from_bytes(kind, data))

            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == [kind(*range(12))] * 4
    finally:
        sys.setswitchinterval(before)
