"""A holder's PostgreSQL table, read in one transaction that can't write.

REPEATABLE READ READ ONLY, under a role that was named for it, with a statement timeout; COPY is
streamed through a pipe into DuckDB, so that the rows reach no disk here and one path encodes
every source. The SQL never depends on what was asked: filters run on this side, so the
database's own log tells its administrators nothing about the question.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, LiteralString

import duckdb
import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from crypto.digest import Digest
from registry.adapters.duckdb_source import MAX_LINE_BYTES, READ_CSV, csv_columns
from registry.adapters.staging import NUMBER_TYPES, StagedRows, staged
from registry.errors import SourceRefused, SourceUnreachable
from registry.expression import LocalQuery
from registry.ports import LocalRows, Records
from registry.product import Column, ColumnType, DataProduct
from registry.source import PostgresSource, SourceReport

CONNECT_TIMEOUT_S: Final = 10
_WHOLE_TYPES: Final = frozenset({"int2", "int4", "int8"})
_FRACTION_TYPES: Final = frozenset({"numeric", "float4", "float8"})
_STRING_TYPES: Final = frozenset({"text", "varchar", "bpchar"})
_TEXT_TYPES: Final = frozenset({"bool", "date", "uuid", "enum"})

# A domain counts as what it is made of, an enumeration as text.
_COLUMN_TYPES: Final = """
SELECT a.attname, CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN b.typname ELSE t.typname END
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type b ON b.oid = t.typbasetype
WHERE n.nspname = {schema} AND c.relname = {table} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
AND a.attnum > 0 AND NOT a.attisdropped
"""
_MAY_WRITE: Final = """
SELECT current_user,
has_table_privilege({relation}::regclass, 'INSERT, UPDATE, DELETE, TRUNCATE')
OR has_any_column_privilege({relation}::regclass, 'INSERT, UPDATE')
"""


class PostgresTableSource:
    """The DataSource of one table or view.

    on_sql: told every statement before it runs, for the node's log.
    """

    def __init__(self, settings: PostgresSource, on_sql: Callable[[str], None]) -> None:
        self._settings = settings
        self._on_sql = on_sql

    def compute(self, product: DataProduct, query: LocalQuery) -> LocalRows:
        with self._reading() as reading, reading.staged(product) as rows:
            return rows.compute(query)

    def records(self, product: DataProduct, columns: Sequence[str]) -> Records:
        with self._reading() as reading, reading.staged(product) as rows:
            return rows.records(columns)

    def memberships(
        self, product: DataProduct, queries: Sequence[LocalQuery]
    ) -> npt.NDArray[np.int64]:
        with self._reading() as reading, reading.staged(product) as rows:
            return rows.memberships(queries)

    def digest(self, product: DataProduct) -> Digest:
        with self._reading() as reading, reading.staged(product) as rows:
            return rows.digest()

    def describe(self, product: DataProduct) -> SourceReport:
        with self._reading() as reading:
            reading.require_no_write()
            with reading.staged(product) as rows:
                return rows.report()

    @contextmanager
    def _reading(self) -> Iterator[_Reading]:
        settings = self._settings
        try:
            with psycopg.connect(**_connection_parameters(settings)) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                reading = _Reading(connection, settings, self._on_sql)
                reading.begin()
                yield reading
                connection.rollback()
        except psycopg.Error as error:
            raise _translated(error, settings) from None


class _Reading:
    """One read-only transaction on the table."""

    def __init__(
        self,
        connection: psycopg.Connection,
        settings: PostgresSource,
        on_sql: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._on_sql = on_sql
        self._table = sql.Identifier(settings.schema, settings.table)

    def begin(self) -> None:
        role = self._settings.role
        milliseconds = sql.Literal(self._settings.statement_timeout_s * 1000)
        self._run("SET LOCAL statement_timeout = {ms}", ms=milliseconds)
        # Nothing named here may resolve to what somebody put into another schema.
        self._run("SET LOCAL search_path = pg_catalog")
        if role is not None:
            try:
                self._run("SET LOCAL ROLE {role}", role=sql.Identifier(role))
            except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege):
                raise SourceRefused(
                    "role", f"{role} does not exist or the login may not take it on; GRANT it"
                ) from None

    def require_no_write(self) -> None:
        """Raises SourceRefused if this role could change the table."""
        relation = sql.Literal(self._table.as_string(self._connection))
        ((role, writes),) = self._run(_MAY_WRITE, relation=relation)
        if writes:
            raise SourceRefused(
                "role",
                f"{role} may write to {self._settings.schema}.{self._settings.table}; "
                "name a role that has SELECT on it and nothing else",
            )

    @contextmanager
    def staged(self, product: DataProduct) -> Iterator[StagedRows]:
        """The table's rows, encoded. Raises SourceRefused when there is no such table."""
        types = self._column_types()
        unread = {
            column.name: problem
            for column in product.columns
            if (
                problem := _unfit(column, types.get(column.name), is_key=column.name == product.key)
            )
        }
        copy = self._copy_statement(product, types, unread)
        read_end, write_end = os.pipe()

        def load(connection: duckdb.DuckDBPyConnection) -> Mapping[str, str]:
            self._stream(copy, connection, read_end, write_end, len(product.columns))
            return unread

        with staged(product, Path(f"/dev/fd/{read_end}"), load, numbered=False) as rows:
            yield rows

    def _column_types(self) -> dict[str, str]:
        found = self._run(
            _COLUMN_TYPES,
            schema=sql.Literal(self._settings.schema),
            table=sql.Literal(self._settings.table),
        )
        if not found:
            raise SourceRefused("table", f"{self._name} does not exist")
        return {str(name): str(kind) for name, kind in found}

    def _copy_statement(
        self, product: DataProduct, types: Mapping[str, str], unread: Mapping[str, str]
    ) -> sql.Composed:
        chosen: list[sql.Composable] = []
        for column in product.columns:
            name = sql.Identifier(column.name)
            if column.name in unread:
                chosen.append(sql.SQL("''"))
            elif types[column.name] in _FRACTION_TYPES:
                chosen.append(sql.SQL("coalesce(nullif({}, 'NaN')::text, '')").format(name))
            else:
                chosen.append(sql.SQL("coalesce({}::text, '')").format(name))
        # Every field is quoted, so that a row of missing values is not an empty line.
        return sql.SQL(
            "COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv, ENCODING 'UTF8', FORCE_QUOTE *)"
        ).format(sql.SQL(", ").join(chosen), self._table)

    def _stream(
        self,
        statement: sql.Composed,
        engine: duckdb.DuckDBPyConnection,
        read_end: int,
        write_end: int,
        width: int,
    ) -> None:
        """Run COPY on a thread of its own while DuckDB reads the other end of the pipe."""
        self._on_sql(statement.as_string(self._connection))

        def copy_out() -> int:
            with os.fdopen(write_end, "wb") as sink, self._connection.cursor() as cursor:
                with cursor.copy(statement) as copy:
                    for block in copy:
                        sink.write(block)
                return cursor.rowcount

        fields = ", ".join(f"f{position} AS c{position}" for position in range(width))
        table = READ_CSV.format(header="false", columns=csv_columns(width))
        refusal: duckdb.Error | None = None
        with ThreadPoolExecutor(1) as pool:
            copied = pool.submit(copy_out)
            try:
                engine.execute(
                    f"CREATE TEMP TABLE raw AS SELECT {fields} FROM {table}",  # noqa: S608 names made here
                    [f"/dev/fd/{read_end}"],
                )
            except duckdb.Error as error:
                refusal = error
            finally:
                os.close(read_end)  # a COPY that nobody reads any more ends here
        try:
            rows = copied.result()  # first: a COPY cut short also looks like a bad or short file
        except BrokenPipeError:
            rows = None
        if isinstance(refusal, duckdb.OutOfMemoryException):
            raise refusal
        if refusal is not None or engine.execute("SELECT count(*) FROM raw").fetchall() != [
            (rows,)
        ]:
            raise SourceRefused(
                "table",
                f"{self._name} has text that is not UTF-8 or a row of more than "
                f"{MAX_LINE_BYTES} bytes",
            )

    @property
    def _name(self) -> str:
        return f"{self._settings.schema}.{self._settings.table}"

    def _run(self, query: LiteralString, **parts: sql.Composable) -> list[tuple[Any, ...]]:
        statement = sql.SQL(query).format(**parts)
        self._on_sql(statement.as_string(self._connection))
        cursor = self._connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _connection_parameters(settings: PostgresSource) -> dict[str, Any]:
    """Raises SourceRefused without quoting the file: a malformed one may show its password."""
    defaults = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "unseen node"}
    if not settings.connection.startswith("/"):
        return {**defaults, "service": settings.connection, "client_encoding": "utf8"}
    path = Path(settings.connection)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise SourceRefused("connection", f"{path} does not exist or can't be read") from None
    if mode & 0o077:
        raise SourceRefused("connection", f"{path} has mode {mode:04o}; run chmod 600 on it")
    try:
        found = conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        raise SourceRefused(
            "connection", f"{path} does not hold a libpq connection string or URL"
        ) from None
    return {**defaults, **found, "client_encoding": "utf8"}


def _unfit(column: Column, found: str | None, *, is_key: bool) -> str | None:
    """Why a table's column can't serve as `column`, or None."""
    if found is None:
        return "is not a column of the table"
    allowed = _WHOLE_TYPES | _STRING_TYPES
    if column.type in NUMBER_TYPES:
        allowed |= {"numeric"} if is_key else _FRACTION_TYPES
    if column.type is ColumnType.TEXT:
        allowed |= _TEXT_TYPES
    if found in allowed:
        return None
    return f"is {found} in the table; the product says {column.type.value}"


def _translated(
    error: psycopg.Error, settings: PostgresSource
) -> SourceRefused | SourceUnreachable:
    """Ours for psycopg's. A server's message may quote a value; it is passed on only when it is
    about the connection."""
    name = f"{settings.schema}.{settings.table}"
    if isinstance(error, psycopg.errors.QueryCanceled):
        return SourceUnreachable(
            f"{name} took longer than statement_timeout_s ({settings.statement_timeout_s} s) "
            "or was cancelled; try later or allow more"
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return SourceRefused(
            "role",
            f"{settings.role or 'the login'} may not read {name}; GRANT USAGE on the schema and "
            "SELECT on the table or on the product's columns",
        )
    if isinstance(
        error, psycopg.errors.CharacterNotInRepertoire | psycopg.errors.UntranslatableCharacter
    ):
        return SourceRefused("table", f"{name} has text that is not UTF-8")
    if isinstance(error, psycopg.OperationalError):
        return SourceUnreachable(f"PostgreSQL can't be reached now: {error}")
    return SourceRefused("table", f"{name} can't be read (PostgreSQL error {error.sqlstate})")
