"""Where a holder's rows are, and what the owner is told about them.

Settings stay at the node and hold no secret: a PostgreSQL source names a libpq service or a file
that holds the connection string. The columns of the file or table carry the product's names.
A `SourceReport` is for the owner's eyes: it tells minima, maxima and row numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import ClassVar, Final

from registry.errors import DocumentRefused

MAX_IDENTIFIER_BYTES: Final = 63  # PostgreSQL cuts longer names silently
MAX_STATEMENT_TIMEOUT_S: Final = 86_400
_GLOB: Final = "*?["  # DuckDB would read every file that matches


class FileFormat(StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True)
class FileSource:
    """One file. CSV: RFC 4180, comma, double quotes, UTF-8, names in the first line.

    path: absolute, so that it means the same whatever folder the node was started in.
    """

    kind: ClassVar[str] = "file"
    path: str
    format: FileFormat

    def __post_init__(self) -> None:
        _require_path("path", self.path)


@dataclass(frozen=True)
class PostgresSource:
    """One table or view.

    connection: a libpq service name, or the absolute path of a file, mode 0600, that holds a
                libpq connection string.
    role:       what SET ROLE takes on before anything is read; absent: the login itself.
                It may read the table and must not be able to write it.
    """

    kind: ClassVar[str] = "postgresql"
    connection: str
    schema: str
    table: str
    role: str | None
    statement_timeout_s: int

    def __post_init__(self) -> None:
        if self.connection.startswith("/"):
            _require_path("connection", self.connection)
        elif not self.connection or set(self.connection) & set("=:/ @"):
            raise DocumentRefused(
                "connection",
                "must be a libpq service name or the absolute path of a file; a connection string "
                "may hold a password and belongs in that file",
            )
        _require_identifier("schema", self.schema)
        _require_identifier("table", self.table)
        if self.role is not None:
            _require_identifier("role", self.role)
        if not 1 <= self.statement_timeout_s <= MAX_STATEMENT_TIMEOUT_S:
            raise DocumentRefused(
                "statement_timeout_s", f"must be 1 to {MAX_STATEMENT_TIMEOUT_S} seconds"
            )


SourceSettings = FileSource | PostgresSource


@dataclass(frozen=True)
class ColumnReport:
    """How one column of the product looks in the source. Numbers are in units of 10**-decimals.

    problem:            why the column can't be read at all; the counts below are then 0
    missing:            rows without a value
    uncastable:         values that are not of the product's type; they are read as missing, and a
                        row with such a key takes no part
    first_uncastable:   row number of the first, counted from 1; absent for a table
    below, above:       numbers outside the public range; they are read as its nearer end
    outside_categories: texts outside the public categories; they are read as missing
    low, high:          least and greatest number found, before clamping
    """

    name: str
    problem: str | None
    missing: int
    uncastable: int
    first_uncastable: int | None
    below: int
    above: int
    outside_categories: int
    low: int | None
    high: int | None


@dataclass(frozen=True)
class SourceReport:
    """What `exchange node source test` tells the owner, and nobody else.

    without_key:    rows that have no key and are left out
    duplicate_keys: keys of more rows than a person may have; the further ones are left out
    problems:       where the rows do not fit the product and what becomes of it, in words; empty
                    when they fit. Odd values make no job fail, or whether it does would tell
                    something of one person; what is wrong with the table as a whole does.
    """

    rows: int
    without_key: int
    duplicate_keys: int
    columns: tuple[ColumnReport, ...]
    problems: tuple[str, ...]


def _require_path(where: str, path: str) -> None:
    if not PurePosixPath(path).is_absolute() or not path.isprintable():
        raise DocumentRefused(where, "must be an absolute path")
    if set(path) & set(_GLOB):
        raise DocumentRefused(where, f"holds one of {_GLOB}, which would mean several files")


def _require_identifier(where: str, name: str) -> None:
    if not name or "\x00" in name or len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise DocumentRefused(where, f"must be a name of 1 to {MAX_IDENTIFIER_BYTES} bytes")
