"""Data products: what a holder lists. Describes rows, and never holds one.

A product states for each column its type, its public range or categories and its decimal places,
so that every holder encodes a value to the same integer: round(value * 10**decimals).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
from crypto.record import Amount
from crypto.scoring.shape import ModelShape
from registry.errors import DocumentRefused
from registry.rule import AnalysisRule, Join, Use

PAYLOAD_TYPE: Final = "application/vnd.unseen.product.v1+json"
MAX_COLUMNS: Final = 200


class ColumnType(StrEnum):
    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"


@dataclass(frozen=True)
class Column:
    """decimals: places kept (0 unless DECIMAL). low, high: public clamp, in units of
    10**-decimals, for numbers only. categories: the public domain, for group keys that are not
    banded."""

    name: str
    type: ColumnType
    meaning: str
    unit: str | None = None
    decimals: int = 0
    low: int | None = None
    high: int | None = None
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.name.isascii() or len(self.name) > 60:
            raise DocumentRefused("name", f"{self.name!r} is not an ASCII identifier")
        if not 0 <= self.decimals <= 9 or (self.decimals and self.type is not ColumnType.DECIMAL):
            raise DocumentRefused(self.name, "decimals must be 0 to 9, and 0 unless decimal")
        if (self.low is None) != (self.high is None):
            raise DocumentRefused(self.name, "states low without high or high without low")
        if self.low is not None and self.high is not None:
            if self.type is ColumnType.TEXT:
                raise DocumentRefused(self.name, "is text and has no range")
            if self.low > self.high:
                raise DocumentRefused(self.name, "has low above high")
        if self.categories is not None and len(set(self.categories)) != len(self.categories):
            raise DocumentRefused(self.name, "names a category twice")


@dataclass(frozen=True)
class ModelCard:
    """The public side of a scoring model: what its owner computes, not with which weights.

    parameters: name of the CKKS parameter set; see crypto.scoring.parameters
    digest:     of the weights, salted by the owner, so that all jobs use the listed model
    """

    shape: ModelShape
    parameters: str
    digest: Digest


@dataclass(frozen=True)
class LookupCard:
    """The encrypted table of this version, which every consumer may hold and none can read.

    table:   digest of the whole table; rows, label_bytes: its public size
    epoch:   of the key it was made with
    columns: what is released of a key's record, in this order
    """

    table: Digest
    epoch: int
    rows: int
    label_bytes: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class DataProduct:
    """price_minor: fixed price of one job, in minor units of `currency`. cap: most people a version
    may hold; public, so that sizes tell nothing.

    key:             the column that names a person; empty for a model, which has no rows
    rows_per_person: most rows of one key; absent: one. What a person's rows add up to is computed
                     at home, key by key, so such a product can be grouped by no column of its own.
    model:           for a product that is a scoring model: its columns are the features
    lookup:          for a product that can be looked up in
    """

    v: int
    id: ProductId
    version: int
    holder: PartyId
    holder_document: Digest
    name: str
    description: str
    columns: tuple[Column, ...]
    key: str
    cap: int
    rule: AnalysisRule
    currency: str
    price_minor: Amount
    rows_per_person: int | None = None
    model: ModelCard | None = None
    lookup: LookupCard | None = None

    def __post_init__(self) -> None:
        if self.v != 1:
            raise DocumentRefused("v", f"is {self.v}; this version reads 1")
        if not 1 <= len(self.name) <= 120 or not self.name.isprintable():
            raise DocumentRefused("name", "must be 1 to 120 printable characters")
        if not 1 <= len(self.columns) <= MAX_COLUMNS:
            raise DocumentRefused("columns", f"must be 1 to {MAX_COLUMNS}")
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise DocumentRefused("columns", "name a column twice")
        self._require_key(names)
        for ruled in self.rule.uses:
            if ruled not in names:
                raise DocumentRefused(f"rule.uses.{ruled}", "is not a column")
        for column in self.columns:
            if self.rule.permits(column.name, Use.AGGREGATE) and column.low is None:
                raise DocumentRefused(column.name, "may be aggregated and so needs low and high")
        if self.rows_per_person is not None and not 2 <= self.rows_per_person <= 10_000:
            raise DocumentRefused("rows_per_person", "must be 2 to 10,000, or absent for one")
        if not 1 <= self.cap <= 100_000_000:
            raise DocumentRefused("cap", "must be 1 to 100 million rows")
        if self.price_minor < 0:
            raise DocumentRefused("price_minor", "is negative")
        if len(self.currency) not in (3, 4) or not self.currency.isupper():
            raise DocumentRefused("currency", "must be a code such as CNY or TEST")

    def _require_key(self, names: list[str]) -> None:
        if self.model is not None:
            if self.key or set(self.rule.joins) != {Join.SCORE} or self.lookup is not None:
                raise DocumentRefused("model", "has no key and only scores")
            features = tuple(
                (column.name, column.low, column.high, column.decimals) for column in self.columns
            )
            if features != tuple(
                (f.name, f.low, f.high, f.decimals) for f in self.model.shape.features
            ):
                raise DocumentRefused("columns", "are not the model's features and their bounds")
            return
        for name in () if self.lookup is None else self.lookup.columns:
            if not self.rule.permits(name, Use.LOOKUP):
                raise DocumentRefused("lookup.columns", f"{name} may not be looked up")
        if self.key not in names:
            raise DocumentRefused("key", f"{self.key} is not a column")
        if Join.SCORE in self.rule.joins:
            raise DocumentRefused("rule.joins", "score is for models")
        if not self.rule.permits(self.key, Use.JOIN_KEY):
            raise DocumentRefused("rule.uses", f"does not let {self.key} be the join key")

    @property
    def contribution(self) -> int:
        """Most rows that one person may have."""
        return self.rows_per_person or 1

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise DocumentRefused(name, f"is not a column of {self.name}")
