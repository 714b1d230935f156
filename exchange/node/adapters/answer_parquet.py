"""A table as a Parquet file, written by DuckDB. Missing numbers are NULL, never zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import duckdb


def write_parquet(
    columns: Sequence[str], lines: Iterable[Sequence[str | Fraction | bool | None]], path: Path
) -> None:
    """columns: each named once. A column of numbers is stored as doubles, of truths as booleans,
    of anything else as text. Raises FileExistsError rather than overwrite."""
    if path.exists():
        raise FileExistsError(f"{path} exists; name another file")
    table = [list(line) for line in lines]
    kinds = [_kind([line[place] for line in table]) for place in range(len(columns))]
    named = [f"{_quoted(name)} {kind}" for name, kind in zip(columns, kinds, strict=True)]
    rows = [[float(c) if isinstance(c, Fraction) else c for c in line] for line in table]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE answer ({', '.join(named)})")
        places = ", ".join("?" for _ in columns)
        if rows:
            connection.executemany(f"INSERT INTO answer VALUES ({places})", rows)  # noqa: S608
        target = str(path).replace("'", "''")  # COPY takes no parameters
        connection.execute(f"COPY answer TO '{target}' (FORMAT parquet)")


def _kind(cells: Sequence[object]) -> str:
    held = [cell for cell in cells if cell is not None]
    if held and all(isinstance(cell, bool) for cell in held):
        return "BOOLEAN"
    if any(isinstance(cell, str) for cell in held):
        return "VARCHAR"
    return "DOUBLE"  # numbers, or nothing but missing ones


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
