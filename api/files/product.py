"""Data products as a holder writes them, in TOML.

Ranges are written as people write numbers (`low = 4.50`) and become exact integers of
10**-decimals; each column says beside itself what may be done with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

from pydantic import Field

from api.files.reading import Exact, Minor, Written, fraction, member, naming, read_toml
from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
from crypto.record import Amount
from registry.errors import DocumentRefused
from registry.product import Column, ColumnType, DataProduct, ModelCard
from registry.rule import AnalysisRule, ColumnLimit, Function, Join, PrivacyRule, Use

TEMPLATE: Final = """\
# {heading}

# {id}
# id = "prd_..."

name = "Progression"
description = "One row per patient: sex and disease progression after one year."

# {key}
key = "patient"
# {cap}
cap = 1000
# {price}
price_minor = 1250
currency = "TEST"

[rule]
# {min_group}
min_group = 10
functions = ["count", "sum", "mean"]
joins = ["hidden", "revealed"]
# {purposes}
purposes = ["research"]

# {privacy}
[rule.privacy]
epsilon_per_job = "2"
epsilon_total = "20"
delta_total = "1/1000000"
noise = false

# {columns}
[[columns]]
name = "patient"
type = "text"
meaning = "invented patient id"
uses = ["join_key"]

# {categories}
[[columns]]
name = "sex"
type = "text"
meaning = "sex, as registered"
categories = ["f", "m"]
uses = ["group_key", "filter"]

# {range}
[[columns]]
name = "progression"
type = "decimal"
meaning = "disease progression after one year"
unit = "score"
decimals = 1
low = 0
high = 400.0
uses = ["aggregate"]
"""
EXPLAINED: Final = (
    "heading",
    "id",
    "key",
    "cap",
    "price",
    "min_group",
    "purposes",
    "privacy",
    "columns",
    "categories",
    "range",
)


class WrittenColumn(Written):
    name: str
    type: str
    meaning: str
    unit: str | None = None
    decimals: int = 0
    low: Exact | None = None
    high: Exact | None = None
    categories: list[str] | None = None
    uses: list[str] = Field(default_factory=list)
    functions: list[str] | None = None
    purposes: list[str] | None = None
    consumers: list[str] | None = None


class WrittenPrivacy(Written):
    epsilon_per_job: str
    epsilon_total: str
    delta_total: str
    noise: bool


class WrittenRule(Written):
    min_group: int
    functions: list[str]
    joins: list[str]
    purposes: list[str]
    dominance: str | None = None
    round_counts: int | None = None
    evaluations_per_day: int | None = None
    consumers: list[str] | None = None
    privacy: WrittenPrivacy | None = None


class WrittenProduct(Written):
    """id: of a product that is listed already, of which this is the next version. key: of every
    product but a model."""

    id: str | None = None
    name: str
    description: str
    key: str = ""
    cap: int
    price_minor: Minor
    currency: str
    rows_per_person: int | None = None
    rule: WrittenRule
    columns: list[WrittenColumn]


def template(explain: Callable[[str], str]) -> str:
    """A file to start from. explain: the comment under each of the names EXPLAINED."""
    return TEMPLATE.format(**{name: explain(name) for name in EXPLAINED})


def read_product(
    path: Path,
    *,
    fresh_id: Callable[[], ProductId],
    next_version: Callable[[ProductId], int],
    holder: PartyId,
    holder_document: Digest,
    model: ModelCard | None = None,
) -> DataProduct:
    """The product that a file describes, as this holder's. Raises FileRefused, naming the field.

    model: of a product that is one; the file's columns are then its features

    fresh_id, next_version: asked for a file without an id, and for one with.
    """
    written = read_toml(WrittenProduct, path)
    with naming(path):
        columns = tuple(_column(one, f"columns[{i}]") for i, one in enumerate(written.columns))
        rule = AnalysisRule(
            uses={
                column.name: tuple(
                    member(Use, use, f"columns[{i}].uses[{j}]") for j, use in enumerate(column.uses)
                )
                for i, column in enumerate(written.columns)
                if column.uses
            },
            functions=tuple(
                member(Function, name, f"rule.functions[{i}]")
                for i, name in enumerate(written.rule.functions)
            ),
            joins=tuple(
                member(Join, name, f"rule.joins[{i}]") for i, name in enumerate(written.rule.joins)
            ),
            min_group=written.rule.min_group,
            purposes=tuple(written.rule.purposes),
            limits=_limits(written.columns),
            dominance=None
            if written.rule.dominance is None
            else fraction(written.rule.dominance, "rule.dominance"),
            round_counts=written.rule.round_counts,
            evaluations_per_day=written.rule.evaluations_per_day,
            consumers=_parties(written.rule.consumers, "rule.consumers"),
            privacy=_privacy(written.rule.privacy),
        )
        given = None if written.id is None else ProductId.parse(written.id)
        return DataProduct(
            v=1,
            id=fresh_id() if given is None else given,
            version=1 if given is None else next_version(given),
            holder=holder,
            holder_document=holder_document,
            name=written.name,
            description=written.description,
            columns=columns,
            key=written.key,
            cap=written.cap,
            rule=rule,
            currency=written.currency,
            price_minor=Amount(written.price_minor),
            rows_per_person=written.rows_per_person,
            model=model,
        )


def _limits(columns: Sequence[WrittenColumn]) -> dict[str, ColumnLimit] | None:
    """What narrows single columns; written beside each column's uses."""
    found: dict[str, ColumnLimit] = {}
    for index, column in enumerate(columns):
        where = f"columns[{index}]"
        limit = ColumnLimit(
            functions=None
            if column.functions is None
            else tuple(member(Function, f, f"{where}.functions") for f in column.functions),
            purposes=None if column.purposes is None else tuple(column.purposes),
            consumers=_parties(column.consumers, f"{where}.consumers"),
        )
        if limit != ColumnLimit():
            found[column.name] = limit
    return found or None


def _privacy(written: WrittenPrivacy | None) -> PrivacyRule | None:
    if written is None:
        return None
    return PrivacyRule(
        epsilon_per_job=fraction(written.epsilon_per_job, "rule.privacy.epsilon_per_job"),
        epsilon_total=fraction(written.epsilon_total, "rule.privacy.epsilon_total"),
        delta_total=fraction(written.delta_total, "rule.privacy.delta_total"),
        noise=written.noise,
    )


def _parties(written: list[str] | None, where: str) -> tuple[PartyId, ...] | None:
    if written is None:
        return None
    return tuple(PartyId.parse(text, where=f"{where}[{i}]") for i, text in enumerate(written))


def _column(written: WrittenColumn, where: str) -> Column:
    kind = member(ColumnType, written.type, f"{where}.type")
    if not 0 <= written.decimals <= 9:
        raise DocumentRefused(f"{where}.decimals", "must be 0 to 9")
    try:
        return Column(
            name=written.name,
            type=kind,
            meaning=written.meaning,
            unit=written.unit,
            decimals=written.decimals,
            low=_scaled(written.low, written.decimals, f"{where}.low"),
            high=_scaled(written.high, written.decimals, f"{where}.high"),
            categories=None if written.categories is None else tuple(written.categories),
        )
    except DocumentRefused as error:
        at = error.where if error.where.startswith(where) else f"{where} ({written.name})"
        raise DocumentRefused(at, error.problem) from None


def _scaled(value: Decimal | None, decimals: int, where: str) -> int | None:
    """Units of 10**-decimals, exactly."""
    if value is None:
        return None
    if abs(value) >= Decimal(10) ** 19:
        raise DocumentRefused(where, "is too large")
    scaled = value.scaleb(decimals)
    if scaled != scaled.to_integral_value():
        raise DocumentRefused(where, f"has more than the column's {decimals} decimals")
    return int(scaled)
