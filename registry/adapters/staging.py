"""From a holder's raw text to a product's exact integers, in a DuckDB that can reach nothing else.

A source loads its rows into the table `raw`: one VARCHAR column `c<i>` per column of the product,
in the product's order. Text is the one form in which CSV, Parquet and PostgreSQL agree on every
number, so one path encodes all three, without a floating-point step:

| value | text |
|---|---|
| missing | NULL or empty; NaN of a floating-point or numeric column |
| integer, decimal | its digits, with sign, point and exponent if any |
| floating point | the shortest decimal that reads back as the same number, as in CSV files |

round(value * 10**decimals) is taken half to even on the digits themselves. An integer column
takes 5.0 (what a float column with gaps prints) and refuses 5.5.

Only names made here and integers enter the SQL; every text is bound as a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import numpy.typing as npt

from crypto.digest import Digest, digest
from crypto.joinkeys import MAX_KEY_BYTES
from registry.adapters.local_sql import LocalSql
from registry.errors import SourceRefused, SourceUnreachable
from registry.expression import LocalQuery
from registry.ports import LocalRows, Records
from registry.product import Column, ColumnType, DataProduct
from registry.snapshot import records_digest, rows_digest
from registry.source import ColumnReport, SourceReport

NUMBER_TYPES: Final = frozenset({ColumnType.INTEGER, ColumnType.DECIMAL})
NOT_SELECTED: Final = -2  # of a membership: the query does not count this person

_NUMBER: Final = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
# What crypto.joinkeys refuses in a key: two people could not tell such keys apart.
_ODD_KEY: Final = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]|^\p{Zs}|\p{Zs}$"
_MAX_DIGITS: Final = 18  # 10**18 - 1 fits int64 and leaves room for rounding up
_TOO_WIDE: Final = 10**_MAX_DIGITS  # what any number with more digits is read as
_MAX_KEY_DIGITS: Final = 38

# States of one value.
_FITS, _MISSING, _UNCASTABLE, _BELOW, _ABOVE, _OUTSIDE = range(6)


def locked_engine(readable: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory engine that can open `readable` and nothing else, and stays so.

    No spilling: rows never reach a disk. No extensions, no Python variables, no other file, no
    writing, before the first byte of the holder's file is parsed.
    """
    connection = duckdb.connect(
        config={
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
    )
    quoted = str(readable).replace("'", "''")
    connection.execute(f"SET allowed_paths = ['{quoted}']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


@contextmanager
def staged(
    product: DataProduct,
    readable: Path,
    load: Callable[[duckdb.DuckDBPyConnection], Mapping[str, str]],
    *,
    numbered: bool,
) -> Iterator[StagedRows]:
    """Rows that `load` has put into `raw`, encoded; gone when the block ends.

    load:     makes `raw` and says, per column of the product it could not read, why.
    numbered: rows have numbers that mean something to the owner.
    """
    connection = locked_engine(readable)
    try:
        unread = load(connection)
        yield StagedRows(connection, product, unread, numbered=numbered)
    except duckdb.OutOfMemoryException:
        raise SourceUnreachable(
            "the rows need more memory than this machine has; free some or list a smaller product"
        ) from None
    except duckdb.Error as error:
        # Its message may quote a value; the kind of error is all that may be told.
        raise SourceRefused(product.key, f"the engine stopped ({type(error).__name__})") from None
    finally:
        connection.close()


class StagedRows:
    """The rows of `raw`, which are encoded once it is known what is asked of them."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        product: DataProduct,
        unread: Mapping[str, str],
        *,
        numbered: bool,
    ) -> None:
        self._connection = connection
        self._product = product
        self._unread = unread
        self._numbered = numbered

    def compute(self, query: LocalQuery) -> LocalRows:
        sql = LocalSql(self._product)
        where, group = sql.where(query.where), sql.group(query.group)
        factors = [sql.factor(factor) for factor in query.factors]
        self._settle(sql.columns)
        if self._product.contribution == 1:
            sums, by_person = factors, ""
        else:
            sums = [
                f"{'max' if factor.indicator else 'sum'}({value})"
                for factor, value in zip(query.factors, factors, strict=True)
            ]
            group, by_person = f"any_value({group})", "GROUP BY key"
        chosen = [f"{value}::BIGINT AS f{i}" for i, value in enumerate(sums)]
        found = self._fetched(
            f"SELECT key, {', '.join([f'{group} AS place', *chosen])} "  # noqa: S608
            f"FROM ({self._values(sql.columns)}) WHERE {where} {by_person} ORDER BY key",
            sql.parameters,
        )
        keys = tuple(found["key"].tolist())
        place = np.asarray(found["place"], dtype=np.int64)
        numbers = np.empty((len(keys), len(factors)), dtype=np.int64)
        for index in range(len(factors)):
            numbers[:, index] = found[f"f{index}"]
        return LocalRows(keys, place, numbers, rows_digest(keys, place, numbers))

    def records(self, columns: Sequence[str]) -> Records:
        product = self._product
        if product.contribution > 1:
            raise SourceRefused(product.key, "has several rows a person; a record is one row")
        chosen = [self._asked(name) for name in columns]
        self._settle(set(columns))
        texts = [_text_of(index, column) for index, column in chosen]
        values = self._values(set(columns))
        rows = self._connection.execute(
            f"SELECT {', '.join(['key', *texts])} FROM ({values}) ORDER BY key"  # noqa: S608
        ).fetchall()
        keys = tuple(row[0] for row in rows)
        records = tuple(row[1:] for row in rows)
        return Records(keys, records, records_digest(keys, columns, records))

    def memberships(self, queries: Sequence[LocalQuery]) -> npt.NDArray[np.int64]:
        sql = LocalSql(self._product)
        places = [
            f"CASE WHEN {sql.where(query.where)} THEN {sql.group(query.group)} "
            f"ELSE {NOT_SELECTED} END"
            for query in queries
        ]
        people = self._settle(sql.columns)
        found = np.empty((len(queries), people), dtype=np.int64)
        if queries:
            # Of a person's several rows one that is selected decides, and all are in group 0.
            chosen = [f"max({place})::BIGINT AS m{i}" for i, place in enumerate(places)]
            columns = self._fetched(
                f"SELECT {', '.join(chosen)} FROM ({self._values(sql.columns)}) "  # noqa: S608
                "GROUP BY key ORDER BY key",
                sql.parameters,
            )
            for index in range(len(queries)):
                found[index] = columns[f"m{index}"]
        return found

    def digest(self) -> Digest:
        """Of the rows as they were loaded: how many there are, and the sum of each one's MD5, so
        that their order does not matter. It tells a change; the owner, who could forge it, need
        not."""
        self._refuse(self._misfits())
        texts = [
            f"coalesce(strlen(c{index})::VARCHAR || ':' || c{index}, '-')"
            for index in range(len(self._product.columns))
        ]
        row = f"concat_ws('|', {', '.join(texts)})"
        found = self._one(f"SELECT count(*), sum(md5_number_lower({row})::HUGEINT) FROM raw")  # noqa: S608
        return digest(" ".join(map(str, found)).encode())

    def report(self) -> SourceReport:
        product = self._product
        self._encode(range(len(product.columns)))
        columns = self._column_reports()
        rows, people = self._row_counts()
        index, key = self._key
        (odd,) = self._one(f"SELECT count(*) FILTER (s{index} = {_UNCASTABLE}) FROM encoded")  # noqa: S608
        (keyed,) = self._one("SELECT count(key) FROM encoded")
        repeated = self._keys_repeated()
        refusals = [*self._misfits(), *self._excess(rows, people)]
        problems = [str(refusal) for refusal in refusals]
        problems += [
            f"{report.name}: {_uncastable_words(report, self._product.column(report.name), key)}"
            for report in columns
            if report.uncastable
        ]
        if rows and not keyed and key.name not in self._unread:
            problems.append(f"{key.name}: no row has a key, so nobody takes part")
        if repeated:
            problems.append(f"{key.name}: {_repeated_words(repeated, self._product.contribution)}")
        return SourceReport(
            rows=rows,
            without_key=rows - keyed - odd,
            duplicate_keys=repeated,
            columns=tuple(columns),
            problems=tuple(problems),
        )

    # One row is settled at a time: what becomes of it depends on the rows of its own key alone.

    def _settle(self, columns: set[str]) -> int:
        """Encode the key and `columns`, leave out what takes no part; how many people there are.

        Raises SourceRefused: the table, not a value in it, does not fit the product.
        """
        product = self._product
        self._refuse(self._misfits())
        wanted = columns | {product.key}
        self._encode([i for i, c in enumerate(product.columns) if c.name in wanted])
        rows, people = self._row_counts()
        self._refuse(self._excess(rows, people))
        self._drop_spare_rows()
        return people

    def _misfits(self) -> list[SourceRefused]:
        """Why a table of these columns can't answer for the product."""
        key = self._key[1]
        found = [SourceRefused(name, problem) for name, problem in self._unread.items()]
        if key.type is ColumnType.DECIMAL:
            found.append(SourceRefused(key.name, "is a decimal; a key is text or integer"))
        return found

    def _excess(self, rows: int, people: int) -> list[SourceRefused]:
        """Why this many rows and people can't."""
        product = self._product
        if not rows:
            return [SourceRefused(product.key, "there are no rows at all")]
        if people <= product.cap:
            return []
        return [
            SourceRefused(
                product.key,
                f"{people} people are more than the product's cap of {product.cap}; "
                "list a version with a higher cap",
            )
        ]

    def _refuse(self, refusals: Sequence[SourceRefused]) -> None:
        if refusals:
            raise refusals[0]

    def _encode(self, columns: Sequence[int]) -> None:
        """Make `encoded` from `raw`: row, key, and w<i> (unclamped), s<i> (state) per column."""
        query, texts = self._encoding(columns, "raw")
        self._connection.execute(f"CREATE TEMP TABLE encoded AS {query}", texts)

    def _encoding(self, columns: Sequence[int], rows: str) -> tuple[str, list[object]]:
        texts: list[object] = []
        layers: list[list[str]] = [[], [], [], [], [self._key_expression()]]
        for index in columns:
            column = self._product.columns[index]
            if column.type in NUMBER_TYPES:
                is_key = column.name == self._product.key
                steps = _number_layers(index, column, is_key=is_key)
                for layer, expressions in zip(layers, steps, strict=True):
                    layer += expressions
            else:
                layers[-1] += self._text_layer(index, column, texts)
        query = f"SELECT rowid + 1 AS row, * FROM {rows}"  # noqa: S608 names made here
        for layer in layers[:-1]:
            query = f"SELECT {', '.join(['*', *layer])} FROM ({query})"  # noqa: S608
        # The key's own state decides whether there is a key, so it comes one layer later.
        query = f"SELECT row, {', '.join(layers[-1])} FROM ({query})"  # noqa: S608
        index, _ = self._key
        fits = f"CASE WHEN s{index} = {_FITS} THEN key END AS key"
        return f"SELECT * REPLACE ({fits}) FROM ({query})", texts  # noqa: S608

    def _drop_spare_rows(self) -> None:
        """Keep at most `contribution` rows of each key: the first in the order of their encoded
        values, column by column, so that rows of other people and the order of the file or table
        decide nothing. Then `raw` is gone."""
        if self._keys_repeated():
            every = range(len(self._product.columns))
            rows = (
                "raw WHERE rowid + 1 IN "  # noqa: S608
                f"(SELECT row FROM encoded WHERE key IN ({self._repeated()}))"
            )
            query, texts = self._encoding(every, rows)
            order = ", ".join(_value(i, column) for i, column in enumerate(self._product.columns))
            self._connection.execute(
                "DELETE FROM encoded WHERE row IN (SELECT row FROM (SELECT row, row_number() OVER "  # noqa: S608
                f"(PARTITION BY key ORDER BY {order}) AS place FROM ({query})) "
                f"WHERE place > {self._product.contribution})",
                texts,
            )
        self._connection.execute("DROP TABLE raw")

    def _text_layer(self, index: int, column: Column, texts: list[object]) -> list[str]:
        value = f"nfc_normalize(NULLIF(c{index}, ''))"
        states = f"WHEN {value} IS NULL THEN {_MISSING} "
        if column.name == self._product.key:
            states += (
                f"WHEN regexp_matches({value}, '{_ODD_KEY}') "
                f"OR strlen({value}) > {MAX_KEY_BYTES} THEN {_UNCASTABLE} "
            )
        elif column.categories is not None:
            texts.append(list(column.categories))
            states += (
                f"WHEN NOT list_contains(list_transform(?::VARCHAR[], lambda x: nfc_normalize(x)), "
                f"{value}) THEN {_OUTSIDE} "
            )
        return [f"{value} AS w{index}", f"(CASE {states} ELSE {_FITS} END)::UTINYINT AS s{index}"]

    def _key_expression(self) -> str:
        index, column = self._key
        if column.type is ColumnType.TEXT:
            return f"nfc_normalize(NULLIF(c{index}, '')) AS key"
        return (
            f"CASE WHEN NOT fine{index} THEN NULL WHEN g{index} = '' THEN '0' "
            f"ELSE (CASE WHEN n{index} THEN '-' ELSE '' END) || kept{index} END AS key"
        )

    @property
    def _key(self) -> tuple[int, Column]:
        return next(
            (index, column)
            for index, column in enumerate(self._product.columns)
            if column.name == self._product.key
        )

    def _asked(self, name: str) -> tuple[int, Column]:
        if name == self._product.key:
            raise SourceRefused(name, "is the join key and nothing else")
        for index, column in enumerate(self._product.columns):
            if column.name == name:
                return index, column
        raise SourceRefused(name, f"is not a column of {self._product.name}")

    def _values(self, columns: set[str]) -> str:
        """SQL of the rows that take part: key, and v<i>, NULL where missing, for each of
        `columns`."""
        chosen = [
            f"{_value(index, column)} AS v{index}"
            for index, column in enumerate(self._product.columns)
            if column.name in columns
        ]
        return f"SELECT {', '.join(['key', *chosen])} FROM encoded WHERE key IS NOT NULL"  # noqa: S608

    def _fetched(self, query: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        found: dict[str, Any] = self._connection.execute(query, dict(parameters)).fetchnumpy()
        return found

    def _row_counts(self) -> tuple[int, int]:
        """Rows, and people: different keys."""
        rows, people = self._one("SELECT count(*), count(DISTINCT key) FROM encoded")
        return rows, people

    def _repeated(self) -> str:
        """SQL of the keys with more rows than a person may have."""
        return (
            "SELECT key FROM encoded WHERE key IS NOT NULL "  # noqa: S608
            f"GROUP BY key HAVING count(*) > {self._product.contribution}"
        )

    def _keys_repeated(self) -> int:
        (found,) = self._one(f"SELECT count(*) FROM ({self._repeated()})")  # noqa: S608
        return int(found)

    def _column_reports(self) -> list[ColumnReport]:
        reports = []
        for index, column in enumerate(self._product.columns):
            if column.name in self._unread:
                reports.append(_unreadable(column.name, self._unread[column.name]))
                continue
            counts = ", ".join(
                f"count(*) FILTER (s{index} = {state})"
                for state in (_MISSING, _UNCASTABLE, _BELOW, _ABOVE, _OUTSIDE)
            )
            extremes = (
                f"min(w{index}) FILTER (s{index} <> {_UNCASTABLE}), "
                f"max(w{index}) FILTER (s{index} <> {_UNCASTABLE})"
                if column.type in NUMBER_TYPES
                else "NULL, NULL"
            )
            missing, uncastable, below, above, outside, first, low, high = self._one(
                f"SELECT {counts}, min(row) FILTER (s{index} = {_UNCASTABLE}), {extremes} "  # noqa: S608
                "FROM encoded"
            )
            reports.append(
                ColumnReport(
                    name=column.name,
                    problem=None,
                    missing=missing,
                    uncastable=uncastable,
                    first_uncastable=first if self._numbered else None,
                    below=below,
                    above=above,
                    outside_categories=outside,
                    low=low,
                    high=high,
                )
            )
        return reports

    def _one(self, query: str) -> tuple[Any, ...]:
        row = self._connection.execute(query).fetchone()
        if row is None:
            raise RuntimeError("an aggregate returned no row")
        return tuple(row)


def _number_layers(index: int, column: Column, *, is_key: bool) -> tuple[list[str], ...]:
    """SQL that turns the text c<i> into w<i> and s<i>, step by step, on digits alone.

    A key is an identifier, not a quantity: it has no range and may have more digits."""
    i, places = index, column.decimals
    # t text, fine: well formed, n negative, m mantissa, e exponent
    parse = [
        f"NULLIF(c{i}, '') AS t{i}",
        f"coalesce(regexp_full_match(c{i}, '{_NUMBER}'), false) AS fine{i}",
        f"starts_with(c{i}, '-') AS n{i}",
        f"split_part(lower(ltrim(c{i}, '+-')), 'e', 1) AS m{i}",
        f"coalesce(TRY_CAST(ltrim(split_part(lower(c{i}), 'e', 2), '+') AS INTEGER), 0) AS e{i}",
    ]
    # g significant digits, k how many of them lie right of the last place kept
    digits = [
        f"ltrim(replace(m{i}, '.', ''), '0') AS g{i}",
        f"length(split_part(m{i}, '.', 2)) - e{i} - {places} AS k{i}",
    ]
    # kept: digits of the truncated result; cut: the digits behind them, trailing zeros off
    cut = [
        f"CASE WHEN NOT fine{i} OR g{i} = '' OR k{i} >= length(g{i}) THEN '' "
        f"WHEN k{i} <= 0 THEN g{i} || repeat('0', -k{i}) "
        f"ELSE left(g{i}, length(g{i}) - k{i}) END AS kept{i}",
        f"CASE WHEN NOT fine{i} OR g{i} = '' OR k{i} <= 0 THEN '' "
        f"WHEN k{i} > length(g{i}) THEN '0' || rtrim(g{i}, '0') "
        f"ELSE rtrim(right(g{i}, k{i}), '0') END AS cut{i}",
    ]
    # up: half to even. '5' alone is exactly a half; anything after it is more.
    odd = f"kept{i}[-1:] IN ('1', '3', '5', '7', '9')"
    magnitude = (
        f"(CASE WHEN kept{i} = '' THEN 0 WHEN length(kept{i}) > {_MAX_DIGITS} "
        f"THEN {_TOO_WIDE} ELSE TRY_CAST(kept{i} AS BIGINT) END "
        f"+ CASE WHEN length(kept{i}) <= {_MAX_DIGITS} "
        f"AND (cut{i} > '5' OR (cut{i} = '5' AND {odd})) THEN 1 ELSE 0 END)"
    )
    rounded = [
        f"CASE WHEN NOT fine{i} THEN NULL WHEN n{i} THEN -{magnitude} ELSE {magnitude} END AS w{i}"
    ]
    unfit = [f"NOT fine{i}"]
    if column.type is ColumnType.INTEGER:
        unfit.append(f"cut{i} <> ''")
    if is_key:
        unfit.append(f"length(kept{i}) > {_MAX_KEY_DIGITS}")
    elif not _clamps(column):
        unfit.append(f"abs(w{i}) >= {_TOO_WIDE}")
    states = f"CASE WHEN t{i} IS NULL THEN {_MISSING} WHEN {' OR '.join(unfit)} THEN {_UNCASTABLE} "
    if column.low is not None and column.high is not None and not is_key:
        states += (
            f"WHEN w{i} < {_held(column.low)} THEN {_BELOW} "
            f"WHEN w{i} > {_held(column.high)} THEN {_ABOVE} "
        )
    return parse, digits, cut, rounded, [f"w{i}", f"({states} ELSE {_FITS} END)::UTINYINT AS s{i}"]


def _value(index: int, column: Column) -> str:
    """SQL for the encoded value, NULL where it counts as missing."""
    if column.type is ColumnType.TEXT or column.low is None or column.high is None:
        return f"CASE WHEN s{index} = {_FITS} THEN w{index} END"
    return (
        f"CASE s{index} WHEN {_FITS} THEN w{index} WHEN {_BELOW} THEN {_held(column.low)} "
        f"WHEN {_ABOVE} THEN {_held(column.high)} END"
    )


def _clamps(column: Column) -> bool:
    """Whether its public range is so narrow that a number too wide to be read is outside of it."""
    return (
        column.low is not None
        and column.high is not None
        and -_TOO_WIDE < column.low <= column.high < _TOO_WIDE
    )


def _held(bound: int) -> int:
    """The end of a public range as far as encoded values reach."""
    return max(-_TOO_WIDE, min(_TOO_WIDE, bound))


def _text_of(index: int, column: Column) -> str:
    """SQL for the value as people write it, empty where missing."""
    if column.type is ColumnType.TEXT:
        return f"coalesce(v{index}, '')"
    if not column.decimals:
        return f"coalesce(v{index}::VARCHAR, '')"
    unit = 10**column.decimals
    return (
        f"coalesce(CASE WHEN v{index} < 0 THEN '-' ELSE '' END || (abs(v{index}) // {unit}) "
        f"|| '.' || lpad((abs(v{index}) % {unit})::VARCHAR, {column.decimals}, '0'), '')"
    )


def _uncastable_words(report: ColumnReport, column: Column, key: Column) -> str:
    wanted = {
        ColumnType.INTEGER: "a whole number",
        ColumnType.DECIMAL: "a number",
        ColumnType.TEXT: "a key free of blanks at its ends and of control or invisible characters, "
        f"of at most {MAX_KEY_BYTES} bytes",
    }[column.type]
    if column.name == key.name:
        outcome = "rows without a key take no part"
    else:
        outcome = "counted as missing"
        if column.type in NUMBER_TYPES and not _clamps(column):
            wanted += f" of at most {_MAX_DIGITS} digits"
    at = "" if report.first_uncastable is None else f", first in row {report.first_uncastable}"
    values = "1 value is" if report.uncastable == 1 else f"{report.uncastable} values are"
    return f"{values} not {wanted}{at}; {outcome}"


def _repeated_words(keys: int, contribution: int) -> str:
    has = "1 key stands" if keys == 1 else f"{keys} keys stand"
    if contribution == 1:
        return f"{has} in more than one row; one row of each takes part, the others do not"
    return f"{has} in more than {contribution} rows; {contribution} of each take part"


def _unreadable(name: str, problem: str) -> ColumnReport:
    return ColumnReport(name, problem, 0, 0, None, 0, 0, 0, None, None)
