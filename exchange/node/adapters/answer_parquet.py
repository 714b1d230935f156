"""An answer as a Parquet file, written by DuckDB. Suppressed numbers are NULL, never zero."""

from __future__ import annotations

from pathlib import Path

import duckdb

from exchange.results import Answer


def write_parquet(answer: Answer, path: Path) -> None:
    """One row per group: its labels as text, `count` as a 64-bit integer, measures as doubles,
    and whether anything of the row is suppressed. Raises FileExistsError rather than overwrite."""
    if path.exists():
        raise FileExistsError(f"{path} exists; name another file")
    kinds = [
        *("VARCHAR" for _ in answer.groups),
        "BIGINT",
        *("DOUBLE" for _ in answer.measures),
        "BOOLEAN",
    ]
    columns = [
        f"{_quoted(name)} {kind}" for name, kind in zip(answer.table_columns, kinds, strict=True)
    ]
    rows = [
        [
            *row.groups,
            row.count,
            *(None if figure.value is None else float(figure.value) for figure in row.measures),
            row.suppressed,
        ]
        for row in answer.rows
    ]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE answer ({', '.join(columns)})")
        places = ", ".join("?" for _ in columns)
        connection.executemany(f"INSERT INTO answer VALUES ({places})", rows)  # noqa: S608
        target = str(path).replace("'", "''")  # COPY takes no parameters
        connection.execute(f"COPY answer TO '{target}' (FORMAT parquet)")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
