"""Reading a file that a person wrote, and naming the field that is wrong with it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from crypto.errors import CryptoError, Malformed
from registry.errors import DocumentRefused

MAX_FILE_BYTES: Final = 4 << 20
_FRACTION: Final = re.compile(r"\d{1,30}(/0*[1-9]\d{0,29}|\.\d{1,30})?", re.ASCII)

M = TypeVar("M", bound="Written")
E = TypeVar("E", bound=Enum)


class FileRefused(Exception):
    """A file, or options given instead of one, that a person has to correct. `where` names the
    field as it is written there. path: None for options."""

    def __init__(self, path: Path | None, where: str, problem: str) -> None:
        super().__init__(": ".join(str(part) for part in (path, where, problem) if part))
        self.path = path
        self.where = where
        self.problem = problem


class Written(BaseModel):
    """Base of what such a file may say. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _exact(value: object) -> object:
    """Numbers stay as they are written: `4.55` is not a binary fraction near it."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("must be a number such as 4.55")
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{str(value)[:20]!r} is not a number") from None
    if not found.is_finite():
        raise ValueError("must be finite")
    return found


def _minor(value: object) -> object:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError('must be a whole number of minor units, such as 1250 or "1250"')
    return value


def _plain(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("must be a text or a number")
    return str(value)


Exact = Annotated[Decimal, BeforeValidator(_exact)]
Plain = Annotated[str, BeforeValidator(_plain)]
Minor = Annotated[int, BeforeValidator(_minor)]


def read_toml(kind: type[M], path: Path) -> M:
    """Raises FileRefused."""
    return _checked(kind, path, _decoded(path, _toml))


def read_json(kind: type[M], path: Path) -> M:
    """Raises FileRefused, for a member that is named twice as well."""
    return _checked(kind, path, _decoded(path, _json))


@contextmanager
def naming(path: Path | None) -> Iterator[None]:
    """What the core finds wrong with the contents is wrong with the file."""
    try:
        yield
    except (DocumentRefused, Malformed) as error:
        raise FileRefused(path, error.where, error.problem) from error
    except CryptoError as error:
        raise FileRefused(path, "", str(error)) from error


def member(kind: type[E], text: str, where: str) -> E:
    """The member of an enumeration that a text names. Raises DocumentRefused, naming all."""
    try:
        return kind(text)
    except ValueError:
        allowed = ", ".join(str(one.value) for one in kind)
        raise DocumentRefused(where, f"{text[:40]!r} is not one of {allowed}") from None


def fraction(text: str, where: str) -> Fraction:
    """An exact number: "1/4", "0.25" or "2". Raises DocumentRefused."""
    if not _FRACTION.fullmatch(text):  # Python would also read 1e999999999, for a very long time
        raise DocumentRefused(where, 'is not an exact number such as "1/4"')
    return Fraction(text)


def _decoded(path: Path, decode: Callable[[str], Any]) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise FileRefused(path, "", f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise FileRefused(path, "", f"is larger than {MAX_FILE_BYTES} bytes")
    try:
        return decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise FileRefused(path, "", "is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise FileRefused(path, "", f"cannot be read: {error}") from None


def _toml(text: str) -> Any:
    return tomllib.loads(text, parse_float=Decimal)


def _json(text: str) -> Any:
    def once(members: list[tuple[str, Any]]) -> Mapping[str, Any]:
        found = dict(members)
        if len(found) != len(members):
            raise ValueError("a member is named twice")
        return found

    return json.loads(text, parse_float=Decimal, object_pairs_hook=once)


def _checked(kind: type[M], path: Path, value: Any) -> M:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
        problem = {
            "missing": "is missing",
            "extra_forbidden": "is not a field of this file",
        }.get(first["type"], str(first["msg"]).removeprefix("Value error, "))
        raise FileRefused(path, where.removeprefix("."), problem) from None
