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

from crypto.joinkeys import MAX_KEY_BYTES
from registry.errors import SourceRefused, SourceUnreachable
from registry.ports import Extract, SourceFilter
from registry.product import Column, ColumnType, DataProduct
from registry.snapshot import snapshot_digest
from registry.source import ColumnReport, SourceReport

NUMBER_TYPES: Final = frozenset({ColumnType.INTEGER, ColumnType.DECIMAL})
OPERATORS: Final = ("=", "!=", "<", "<=", ">", ">=")

_NUMBER: Final = r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"
# What crypto.joinkeys refuses in a key: two people could not tell such keys apart.
_ODD_KEY: Final = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]|^\p{Zs}|\p{Zs}$"
_MAX_DIGITS: Final = 18  # 10**18 - 1 fits int64 and leaves room for rounding up
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
    """The product's columns, encoded, with the state of every value."""

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
        self._encode()

    def extract(self, columns: Sequence[str], filters: Sequence[SourceFilter]) -> Extract:
        problems = self._problems(self._column_reports())
        if problems:
            raise problems[0]
        asked = [self._asked(name) for name in dict.fromkeys(columns)]
        conditions, values = self._conditions(filters)
        found = self._columns(asked, conditions, values)
        keys = tuple(found["key"].tolist())
        numbers: dict[str, npt.NDArray[np.int64]] = {}
        texts: dict[str, tuple[str, ...]] = {}
        for index, column in asked:
            if column.type is ColumnType.TEXT:
                texts[column.name] = tuple(found[f"v{index}"].tolist())
            else:
                numbers[column.name] = np.asarray(found[f"v{index}"], dtype=np.int64)
        valid = {
            column.name: np.asarray(found[f"valid{index}"], dtype=np.bool_)
            for index, column in asked
        }
        return Extract(keys, numbers, texts, valid, snapshot_digest(keys, numbers, texts, valid))

    def report(self) -> SourceReport:
        columns = self._column_reports()
        rows, keyed, repeated = self._row_counts()
        return SourceReport(
            rows=rows,
            without_key=rows - keyed,
            duplicate_keys=repeated,
            columns=tuple(columns),
            problems=tuple(str(problem) for problem in self._problems(columns)),
        )

    def _encode(self) -> None:
        """Make `encoded` from `raw`: row, key, and w<i> (unclamped), s<i> (state) per column."""
        texts: list[object] = []
        layers: list[list[str]] = [[], [], [], [], [self._key_expression()]]
        for index, column in enumerate(self._product.columns):
            if column.type in NUMBER_TYPES:
                is_key = column.name == self._product.key
                steps = _number_layers(index, column, is_key=is_key)
                for layer, expressions in zip(layers, steps, strict=True):
                    layer += expressions
            else:
                layers[-1] += self._text_layer(index, column, texts)
        query = "SELECT rowid + 1 AS row, * FROM raw"
        for layer in layers[:-1]:
            query = f"SELECT {', '.join(['*', *layer])} FROM ({query})"  # noqa: S608 names made here
        self._connection.execute(
            f"CREATE TEMP TABLE encoded AS SELECT row, {', '.join(layers[-1])} FROM ({query})",  # noqa: S608
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

    def _conditions(self, filters: Sequence[SourceFilter]) -> tuple[list[str], list[object]]:
        conditions: list[str] = []
        values: list[object] = []
        for condition in filters:
            index, column = self._asked(condition.column)
            if condition.op not in OPERATORS:
                raise SourceRefused(column.name, f"is compared by none of {' '.join(OPERATORS)}")
            wanted = str if column.type is ColumnType.TEXT else int
            if not isinstance(condition.value, wanted) or isinstance(condition.value, bool):
                raise SourceRefused(
                    column.name, f"is {column.type.value} and compared with something else"
                )
            bound = "nfc_normalize(?)" if wanted is str else "?"
            conditions.append(f"{_value(index, column)} {condition.op} {bound}")
            values.append(condition.value)
        return conditions, values

    def _columns(
        self, asked: Sequence[tuple[int, Column]], conditions: Sequence[str], values: list[object]
    ) -> dict[str, Any]:
        chosen = ["key"]
        for index, column in asked:
            empty = "''" if column.type is ColumnType.TEXT else "0"
            value = _value(index, column)
            chosen.append(f"coalesce({value}, {empty}) AS v{index}")
            chosen.append(f"{value} IS NOT NULL AS valid{index}")
        where = " AND ".join(["key IS NOT NULL", *conditions])
        query = f"SELECT {', '.join(chosen)} FROM encoded WHERE {where} ORDER BY key"  # noqa: S608
        found: dict[str, Any] = self._connection.execute(query, values).fetchnumpy()
        return found

    def _row_counts(self) -> tuple[int, int, int]:
        """Rows, rows with a key, keys that more than one row has."""
        rows, keyed = self._one("SELECT count(*), count(key) FROM encoded")
        (repeated,) = self._one(
            "SELECT count(*) FROM (SELECT key FROM encoded WHERE key IS NOT NULL "
            "GROUP BY key HAVING count(*) > 1)"
        )
        return rows, keyed, repeated

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

    def _problems(self, columns: Sequence[ColumnReport]) -> list[SourceRefused]:
        """Why these rows can't answer for the product, whatever is asked of them."""
        product = self._product
        found = [SourceRefused(c.name, c.problem) for c in columns if c.problem is not None]
        rows, keyed, repeated = self._row_counts()
        if not rows:
            return [*found, SourceRefused(product.key, "there are no rows at all")]
        found += [
            SourceRefused(report.name, _uncastable_words(report, product.column(report.name)))
            for report in columns
            if report.uncastable
        ]
        if product.key in self._unread:
            return found
        if self._key[1].type is ColumnType.DECIMAL:
            return [*found, SourceRefused(product.key, "is a decimal; a key is text or integer")]
        if not keyed:
            found.append(SourceRefused(product.key, "no row has a key"))
        if repeated:
            found.append(
                SourceRefused(
                    product.key,
                    f"{repeated} keys stand in more than one row; bring them to one row a key",
                )
            )
        if keyed > product.cap:
            found.append(
                SourceRefused(
                    product.key,
                    f"{keyed} rows are more than the product's cap of {product.cap}; "
                    "list a version with a higher cap",
                )
            )
        return found

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
        f"THEN {10**_MAX_DIGITS} ELSE TRY_CAST(kept{i} AS BIGINT) END "
        f"+ CASE WHEN length(kept{i}) <= {_MAX_DIGITS} "
        f"AND (cut{i} > '5' OR (cut{i} = '5' AND {odd})) THEN 1 ELSE 0 END)"
    )
    rounded = [
        f"CASE WHEN NOT fine{i} THEN NULL WHEN n{i} THEN -{magnitude} ELSE {magnitude} END AS w{i}"
    ]
    unfit = [f"NOT fine{i}"]
    if column.type is ColumnType.INTEGER:
        unfit.append(f"cut{i} <> ''")
    ranged = column.low is not None and not is_key
    if is_key:
        unfit.append(f"length(kept{i}) > {_MAX_KEY_DIGITS}")
    elif not ranged:
        unfit.append(f"abs(w{i}) >= {10**_MAX_DIGITS}")
    states = f"CASE WHEN t{i} IS NULL THEN {_MISSING} WHEN {' OR '.join(unfit)} THEN {_UNCASTABLE} "
    if ranged:
        states += f"WHEN w{i} < {column.low} THEN {_BELOW} WHEN w{i} > {column.high} THEN {_ABOVE} "
    return parse, digits, cut, rounded, [f"w{i}", f"({states} ELSE {_FITS} END)::UTINYINT AS s{i}"]


def _value(index: int, column: Column) -> str:
    """SQL for the encoded value, NULL where it counts as missing."""
    if column.type is ColumnType.TEXT:
        return f"CASE WHEN s{index} = {_FITS} THEN w{index} END"
    if column.low is None:
        return f"w{index}"
    clamped = f"greatest({column.low}, least({column.high}, w{index}))"
    return f"CASE WHEN w{index} IS NOT NULL THEN {clamped} END"  # greatest() skips NULL


def _uncastable_words(report: ColumnReport, column: Column) -> str:
    wanted = {
        ColumnType.INTEGER: "a whole number",
        ColumnType.DECIMAL: "a number",
        ColumnType.TEXT: "a key free of blanks at its ends and of control or invisible characters, "
        f"of at most {MAX_KEY_BYTES} bytes",
    }[column.type]
    if column.type in NUMBER_TYPES and column.low is None:
        wanted += f" of at most {_MAX_DIGITS} digits"
    at = "" if report.first_uncastable is None else f", first in row {report.first_uncastable}"
    values = "1 value is" if report.uncastable == 1 else f"{report.uncastable} values are"
    return f"{values} not {wanted}{at}"


def _unreadable(name: str, problem: str) -> ColumnReport:
    return ColumnReport(name, problem, 0, 0, None, 0, 0, 0, None, None)
