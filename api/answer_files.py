"""Answers as tables: CSV (RFC 4180, UTF-8) here, Parquet in `exchange.node.adapters`.

A number that is missing is an empty cell, and the column `suppressed` of a query's answer says
whether it was withheld. It is never zero: a group that is too small to be shown is not a group of
nobody.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final

from exchange.results import Answer, AnyAnswer, LookupAnswer, Row, ScoreAnswer, unique_names

_DIGITS: Final = Context(prec=15)

Cell = str | Fraction | bool | None


def columns(answer: AnyAnswer) -> tuple[str, ...]:
    """Names of the columns that `table_lines` has, each once."""
    if isinstance(answer, Answer):
        return answer.table_columns
    if isinstance(answer, ScoreAnswer):
        return unique_names(("row", *answer.outputs))
    return unique_names(("key", "found", *answer.columns))


def table_lines(answer: AnyAnswer) -> Iterator[tuple[Cell, ...]]:
    """One tuple per group, scored row or key that was asked for."""
    if isinstance(answer, Answer):
        for row in answer.rows:
            yield (*row.groups, *figures(row, intervals=answer.intervals), row.suppressed)
    elif isinstance(answer, ScoreAnswer):
        for scored in answer.rows:
            yield (scored.name, *scored.scores)
    else:
        yield from _records(answer)


def figures(row: Row, *, intervals: bool) -> Sequence[Fraction | None]:
    """The numbers of a row, each with both ends of its interval if there are any in the answer."""
    if not intervals:
        return [figure.value for figure in row.figures]
    return [end for figure in row.figures for end in (figure.value, figure.low, figure.high)]


def _records(answer: LookupAnswer) -> Iterator[tuple[Cell, ...]]:
    for row in answer.rows:
        values = row.values or {}
        yield (row.key, row.found.value, *(values.get(column) for column in answer.columns))


def number(value: Fraction | None) -> str | None:
    """Decimal text: exact where 15 digits are enough, else rounded to 15."""
    if value is None:
        return None
    rounded = _DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def write_csv(answer: AnyAnswer, path: Path) -> None:
    """Raises FileExistsError rather than overwrite."""
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns(answer))
        for line in table_lines(answer):
            writer.writerow([_written(cell) for cell in line])


def _written(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return cell if isinstance(cell, str) else number(cell) or ""
