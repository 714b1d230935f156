"""Builders for the tests of sources: a product around a few columns."""

from __future__ import annotations

from crypto.digest import digest
from crypto.identifiers import PartyId, ProductId
from crypto.record import Amount
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
