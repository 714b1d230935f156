"""Rows to be scored and keys to be looked up, as a consumer has them. They stay at its node."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from api.files.reading import FileRefused
from crypto.scoring.shape import MAX_SCORES

if TYPE_CHECKING:
    from crypto.scoring.model import Float64Array

MAX_KEYS: Final = 100_000


@dataclass(frozen=True)
class WrittenRows:
    """names: what each row is called in the answer; values: shape (n, d)."""

    names: tuple[str, ...]
    values: Float64Array


def read_rows(path: Path, features: Sequence[str], *, name: str | None) -> WrittenRows:
    """A CSV file (RFC 4180, UTF-8) with the features' names, and perhaps others, in its first line.

    name: the column that names a row; None: the rows are numbered from 1
    Raises FileRefused, naming line and column, for a value that is missing or no finite number.
    """
    import numpy as np

    names: list[str] = []
    values: list[list[float]] = []
    with _opened(path) as lines:
        reader = csv.DictReader(lines, strict=True)
        header = reader.fieldnames or []
        for column in (*features, *([name] if name else [])):
            if header.count(column) != 1:
                raise FileRefused(path, column, "is not a column of the file, or stands twice")
        for number, row in enumerate(_rows(reader, path), start=1):
            if number > MAX_SCORES:
                raise FileRefused(path, "", f"has more than {MAX_SCORES:,} rows")
            names.append(row[name] if name else str(number))
            values.append([_number(row[f], path, number, f) for f in features])
    if not values:
        raise FileRefused(path, "", "holds no rows")
    return WrittenRows(tuple(names), np.array(values, dtype=np.float64))


def read_keys(path: Path) -> tuple[str, ...]:
    """One key a line, UTF-8. Raises FileRefused."""
    with _opened(path) as lines:
        try:
            keys = tuple(line.rstrip("\r\n") for line in lines)
        except UnicodeDecodeError:
            raise FileRefused(path, "", "is not UTF-8 text") from None
    if not 1 <= len(keys) <= MAX_KEYS:
        raise FileRefused(path, "", f"must hold 1 to {MAX_KEYS:,} keys, one on each line")
    return keys


def _opened(path: Path) -> TextIO:
    try:
        return path.open(newline="", encoding="utf-8")
    except OSError as error:
        raise FileRefused(path, "", f"cannot be read: {error.strerror}") from None


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, str]]:
    try:
        for row in reader:
            if None in row or None in row.values():
                raise FileRefused(path, f"line {reader.line_num}", "has another number of values")
            yield row
    except UnicodeDecodeError:
        raise FileRefused(path, "", "is not UTF-8 text") from None
    except csv.Error as error:
        raise FileRefused(path, f"line {reader.line_num}", str(error)) from None


def _number(text: str, path: Path, row: int, column: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise FileRefused(path, f"row {row}, {column}", "is not a number; fill in what is missing")
    return found
