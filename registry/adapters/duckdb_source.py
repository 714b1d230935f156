"""A holder's CSV or Parquet file, read by DuckDB and never written.

CSV is read with every column as text and no guessing: comma, double quotes, UTF-8, names in the
first line. What DuckDB says about a bad file quotes the line, so its messages stop here.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import numpy.typing as npt

from crypto.digest import Digest
from registry.adapters.staging import NUMBER_TYPES, StagedRows, staged
from registry.errors import SourceRefused, SourceUnreachable
from registry.expression import LocalQuery
from registry.ports import LocalRows, Records
from registry.product import Column, ColumnType, DataProduct
from registry.source import FileFormat, FileSource, SourceReport

MAX_LINE_BYTES: Final = 64_000_000  # DuckDB's 2 MB would let one person's long text end a job
READ_CSV: Final = (
    "read_csv(?, auto_detect=false, header={header}, delim=',', quote='\"', escape='\"', "
    "encoding='utf-8', hive_partitioning=false, columns={columns}, "
    f"max_line_size={MAX_LINE_BYTES})"
)
_BLOCK_BYTES: Final = 1 << 20
_WHOLE_TYPES: Final = frozenset(
    f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")
) | {"INTEGER", "UINTEGER"}
_FLOAT_TYPES: Final = frozenset({"FLOAT", "DOUBLE"})
_TEXT_TYPES: Final = frozenset({"VARCHAR", "BOOLEAN", "DATE", "UUID"})


class DuckDBFileSource:
    """The DataSource of one file."""

    def __init__(self, settings: FileSource) -> None:
        self._path = Path(settings.path)
        self._format = settings.format

    def compute(self, product: DataProduct, query: LocalQuery) -> LocalRows:
        with self._staged(product) as rows:
            return rows.compute(query)

    def records(self, product: DataProduct, columns: Sequence[str]) -> Records:
        with self._staged(product) as rows:
            return rows.records(columns)

    def memberships(
        self, product: DataProduct, queries: Sequence[LocalQuery]
    ) -> npt.NDArray[np.int64]:
        with self._staged(product) as rows:
            return rows.memberships(queries)

    def digest(self, product: DataProduct) -> Digest:
        with self._staged(product) as rows:
            return rows.digest()

    def describe(self, product: DataProduct) -> SourceReport:
        with self._staged(product) as rows:
            return rows.report()

    def _staged(self, product: DataProduct) -> AbstractContextManager[StagedRows]:
        self._require_file()

        def load(connection: duckdb.DuckDBPyConnection) -> Mapping[str, str]:
            if self._format is FileFormat.CSV:
                return _load_csv(connection, self._path, product)
            return _load_parquet(connection, self._path, product)

        return staged(product, self._path, load, numbered=True)

    def _require_file(self) -> None:
        if self._path.is_dir():
            raise SourceRefused(str(self._path), "is a folder; name one file in it")
        try:
            with self._path.open("rb"):
                pass
        except FileNotFoundError:
            raise SourceUnreachable(
                f"{self._path} does not exist; put the file there or name another with "
                "`exchange node source add`"
            ) from None
        except PermissionError:
            raise SourceUnreachable(
                f"{self._path} may not be read by the user that runs this node"
            ) from None
        except OSError as error:
            raise SourceUnreachable(f"{self._path} can't be read: {error.strerror}") from None


def csv_columns(count: int) -> str:
    """DuckDB's column list for a CSV of `count` columns, all text, named by position."""
    return "{" + ", ".join(f"'f{position}': 'VARCHAR'" for position in range(count)) + "}"


def _load_csv(
    connection: duckdb.DuckDBPyConnection, path: Path, product: DataProduct
) -> dict[str, str]:
    _require_utf8(path)
    header = _csv_header(path)
    unread: dict[str, str] = {}
    chosen = []
    for index, column in enumerate(product.columns):
        if header.count(column.name) == 1:
            chosen.append(f"f{header.index(column.name)} AS c{index}")
        else:
            chosen.append(f"NULL::VARCHAR AS c{index}")
            twice = column.name in header
            unread[column.name] = (
                "names two columns of the file" if twice else "is not a column of the file"
            )
    table = READ_CSV.format(header="true", columns=csv_columns(len(header)))
    try:
        connection.execute(
            f"CREATE TEMP TABLE raw AS SELECT {', '.join(chosen)} FROM {table}",  # noqa: S608 names made here
            [str(path)],
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise _csv_refusal(path, str(error)) from None
    return unread


def _require_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK_BYTES)
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise SourceRefused(
                    str(path), f"is not UTF-8 text (line {line}); save it as UTF-8"
                ) from None
            if not block:
                return
            line += block.count(b"\n")


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            return next(csv.reader(file, strict=True))
        except StopIteration:
            raise SourceRefused(str(path), "is empty; its first line must name columns") from None
        except csv.Error:
            raise SourceRefused(
                str(path), "has a first line that is not comma-separated column names"
            ) from None


def _csv_refusal(path: Path, message: str) -> SourceRefused:
    """Numbers are taken from DuckDB's message; the rest of it quotes the holder's data."""
    found = re.search(r"CSV Error on Line: (\d+)", message)
    at = f" (line {found[1]})" if found else ""
    widths = re.search(r"^Expected Number of Columns: (\d+) Found: (\d+)", message, re.MULTILINE)
    if widths:
        return SourceRefused(
            str(path), f"has {widths[2]} fields where the first line has {widths[1]}{at}"
        )
    if "Maximum line size" in message:
        return SourceRefused(str(path), f"has a line of more than {MAX_LINE_BYTES} bytes{at}")
    if "unterminated quote" in message:
        return SourceRefused(str(path), f"has a quote that is never closed{at}")
    return SourceRefused(
        str(path), f"is not RFC 4180 CSV with one kind of line ending{at}; export it again"
    )


def _load_parquet(
    connection: duckdb.DuckDBPyConnection, path: Path, product: DataProduct
) -> dict[str, str]:
    table = "read_parquet(?, hive_partitioning=false)"
    unread: dict[str, str] = {}
    chosen = []
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {table}", [str(path)]).fetchall()  # noqa: S608
        types = {str(row[0]): str(row[1]) for row in described}
        for index, column in enumerate(product.columns):
            problem = _unfit(column, types.get(column.name), is_key=column.name == product.key)
            if problem is not None:
                unread[column.name] = problem
                chosen.append(f"NULL::VARCHAR AS c{index}")
                continue
            name = f'"{column.name}"'  # an ASCII identifier, by the product's own rules
            if types[column.name] in _FLOAT_TYPES:
                chosen.append(f"CASE WHEN NOT isnan({name}) THEN {name}::VARCHAR END AS c{index}")
            else:
                chosen.append(f"{name}::VARCHAR AS c{index}")
        connection.execute(
            f"CREATE TEMP TABLE raw AS SELECT {', '.join(chosen)} FROM {table}",  # noqa: S608
            [str(path)],
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:
        raise SourceRefused(
            str(path), "is not a whole Parquet file with UTF-8 text; export it again"
        ) from None
    return unread


def _unfit(column: Column, found: str | None, *, is_key: bool) -> str | None:
    """Why a Parquet column can't serve as `column`, or None."""
    if found is None:
        return "is not a column of the file"
    base = found.partition("(")[0]
    allowed = base in _WHOLE_TYPES or base == "VARCHAR"
    if column.type in NUMBER_TYPES:
        allowed |= base == "DECIMAL" or (base in _FLOAT_TYPES and not is_key)
    if column.type is ColumnType.TEXT:
        allowed |= base in _TEXT_TYPES
    return None if allowed else f"is {found} in the file; the product says {column.type.value}"
