"""Builders for the tests of sources: a product around a few columns, a query of a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.digest import Digest, digest
from crypto.identifiers import PartyId, ProductId
from crypto.record import Amount
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.adapters.postgres_source import PostgresTableSource
from registry.expression import (
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Expression,
    LocalFactor,
    LocalQuery,
    Number,
    Present,
    Text,
    When,
)
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Join, Use


def number(name: str, decimals: int = 0, low: int | None = None, high: int | None = None) -> Column:
    kind = ColumnType.DECIMAL if decimals else ColumnType.INTEGER
    return Column(name, kind, "a number", decimals=decimals, low=low, high=high)


def text(name: str, categories: tuple[str, ...] | None = None) -> Column:
    return Column(name, ColumnType.TEXT, "a text", categories=categories)


def a_product(*columns: Column, key: Column | None = None, cap: int = 1000) -> DataProduct:
    key = key or text("id")
    return DataProduct(
        v=1,
        id=ProductId("prd_" + "1" * 32),
        version=1,
        holder=PartyId("pty_" + "2" * 32),
        holder_document=digest(b"holder"),
        name="patients",
        description="",
        columns=(key, *columns),
        key=key.name,
        cap=cap,
        rule=AnalysisRule(
            {key.name: (Use.JOIN_KEY,)}, (), (Join.REVEALED,), min_group=2, purposes=("research",)
        ),
        currency="TEST",
        price_minor=Amount(1),
    )


@dataclass(frozen=True)
class SourceFilter:
    """column op value: an integer of 10**-decimals, or text."""

    column: str
    op: str
    value: int | str

    def condition(self, product: DataProduct) -> Condition:
        places = product.column(self.column).decimals
        value = Text(self.value) if isinstance(self.value, str) else Number(self.value, places)
        return Compare(Comparator(self.op), ColumnValue(self.column), value)


@dataclass(frozen=True)
class Extract:
    """What a local query and the records say of single columns. valid: where numbers are there."""

    keys: tuple[str, ...]
    numbers: dict[str, npt.NDArray[np.int64]]
    texts: dict[str, tuple[str, ...]]
    valid: dict[str, npt.NDArray[np.bool_]]
    snapshot: Digest


class Readable:
    """A source whose single columns a test can look at, by way of its real interface."""

    def extract(
        self: Any, product: DataProduct, columns: Sequence[str], filters: Sequence[SourceFilter]
    ) -> Extract:
        kinds = {column.name: column.type for column in product.columns}
        numeric = [c for c in columns if kinds.get(c) is not ColumnType.TEXT]
        written = [c for c in columns if kinds.get(c) is ColumnType.TEXT]
        where: Condition | None = None
        for one in filters:
            condition = one.condition(product)
            where = condition if where is None else Both(where, condition)
        factors = []
        for name in numeric:
            value = ColumnValue(name)
            mark = Case((When(Present(value), Number(1, 0)),), Number(0, 0))
            factors += [LocalFactor(value, False), LocalFactor(mark, False)]
        found = self.compute(product, LocalQuery(where, None, tuple(factors)))
        texts: dict[str, tuple[str, ...]] = {}
        if written:
            known = self.records(product, written)
            by_key = dict(zip(known.keys, known.records, strict=True))
            rows = [by_key[key] for key in found.keys]
            texts = {name: tuple(row[i] for row in rows) for i, name in enumerate(written)}
        return Extract(
            found.keys,
            {name: found.factors[:, 2 * i] for i, name in enumerate(numeric)},
            texts,
            {name: found.factors[:, 2 * i + 1] == 1 for i, name in enumerate(numeric)},
            found.snapshot,
        )


class ReadableFile(Readable, DuckDBFileSource):
    """A file."""


class ReadableTable(Readable, PostgresTableSource):
    """A table."""


def a_query(
    *factors: str | Expression,
    where: tuple[str, str, int | str] | None = None,
    group: Expression | None = None,
) -> LocalQuery:
    """factors: expressions, or names of columns as they are. where: column, comparator, literal."""
    condition = None
    if where is not None:
        column, comparator, literal = where
        value = Text(literal) if isinstance(literal, str) else Number(literal, 0)
        condition = Compare(Comparator(comparator), ColumnValue(column), value)
    return LocalQuery(
        condition,
        group,
        tuple(
            LocalFactor(ColumnValue(f) if isinstance(f, str) else f, indicator=False)
            for f in factors
        ),
    )
