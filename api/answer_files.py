"""An answer as CSV: one line per group, RFC 4180, UTF-8.

A suppressed number is an empty cell, and the last column, `suppressed`, says so. It is never zero:
a group that is too small to be shown is not a group of nobody.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final

from exchange.results import Answer, Row

_DIGITS: Final = Context(prec=15)


def cells(row: Row) -> Sequence[str | None]:
    """The count and each measure as text, None where it is suppressed."""
    count = None if row.count is None else str(row.count)
    return (count, *(number(figure.value) for figure in row.measures))


def number(value: Fraction | None) -> str | None:
    """Decimal text: exact where 15 digits are enough, else rounded to 15."""
    if value is None:
        return None
    rounded = _DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def write_csv(answer: Answer, path: Path) -> None:
    """Raises FileExistsError rather than overwrite."""
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(answer.table_columns)
        for row in answer.rows:
            shown = ["" if cell is None else cell for cell in cells(row)]
            writer.writerow([*row.groups, *shown, "true" if row.suppressed else "false"])
