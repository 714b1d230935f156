"""Questions: what a consumer asks, in the words of the products, before anything is compiled.

A question is JSON that a person writes; `compile_question` turns it, under agreements, into a
plan. Numbers are written as people write them ("4.55") and become exact integers here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from crypto.digest import SALT_BYTES, Digest
from crypto.identifiers import JobId, PartyId, ProductId
from crypto.joins.intersection import Intersection
from crypto.ports import Randomness
from exchange.errors import QuestionRefused
from exchange.query.explanation import learns
from exchange.query.plan import (
    Filter,
    Gate,
    GroupBy,
    Measure,
    Plan,
    Receiver,
    SidePlan,
)
from exchange.query.rules import Ground
from registry.product import Column, ColumnType
from registry.rule import Function, Join


@dataclass(frozen=True)
class AskedGroup:
    """cuts: decimal numbers as text; absent means the column's public categories."""

    product: ProductId
    column: str
    cuts: tuple[str, ...] | None = None


@dataclass(frozen=True)
class AskedMeasure:
    product: ProductId
    column: str
    function: Function


@dataclass(frozen=True)
class AskedFilter:
    product: ProductId
    column: str
    op: str
    value: str


@dataclass(frozen=True)
class Question:
    """products: the two to join, each under one agreement of the deal."""

    products: tuple[ProductId, ...]
    purpose: str
    join: Join
    intersection: Intersection
    group_by: tuple[AskedGroup, ...]
    measures: tuple[AskedMeasure, ...]
    where: tuple[AskedFilter, ...]
    min_group: int
    run_seconds: int


@dataclass(frozen=True)
class Footing:
    """One product's ground with the digests that a plan names."""

    ground: Ground
    agreement: Digest
    product: Digest


def compile_question(
    question: Question,
    footings: Mapping[ProductId, Footing],
    *,
    operator: PartyId,
    now: datetime,
    wait: timedelta,
    randomness: Randomness,
) -> Plan:
    """The plan that answers `question`. Raises QuestionRefused, naming the field.

    footings: the agreement and product of each product the question names.
    wait:     how long the holders have to admit it, while the agreements last.
    Does not check rules: `rules.violations` does, here, at the hub and at each node.
    """
    if len(question.products) != 2 or len(set(question.products)) != 2:
        raise QuestionRefused("products", "the revealed join takes exactly two data products")
    for index, product in enumerate(question.products):
        if product not in footings:
            raise QuestionRefused(f"products[{index}]", f"no agreement covers {product}")
    for name in ("group_by", "measures", "where"):
        for index, part in enumerate(getattr(question, name)):
            if part.product not in question.products:
                raise QuestionRefused(f"{name}[{index}].product", "is not among the products")
    first = footings[question.products[0]].ground.agreement
    ends = min(footings[p].ground.agreement.terms.valid_until for p in question.products)
    plan = Plan(
        v=1,
        job=JobId.new(now, randomness),
        deal=first.deal,
        consumer=first.consumer,
        consumer_document=first.consumer_document,
        operator=operator,
        purpose=question.purpose,
        join=question.join,
        intersection=question.intersection,
        sides=tuple(_side(question, p, footings[p]) for p in question.products),
        gate=Gate(question.min_group),
        epsilon=Fraction(0),
        currency=first.terms.currency,
        receivers=(Receiver(first.consumer, first.consumer_document),),
        created_at=now,
        run_by=min(now + wait, ends) if ends > now else now + wait,  # the rules say it is over
        run_seconds=question.run_seconds,
        learns={},
        salt=randomness.draw(SALT_BYTES),
    )
    return replace(plan, learns=learns(plan))


def _side(question: Question, product_id: ProductId, footing: Footing) -> SidePlan:
    product, agreement = footing.ground.product, footing.ground.agreement
    columns = {column.name: column for column in product.columns}

    def column(name: str, where: str) -> Column:
        if name not in columns:
            raise QuestionRefused(where, f"{name} is not a column of {product.name}")
        return columns[name]

    groups, measures, filters = [], [], []
    for index, asked in enumerate(question.group_by):
        if asked.product == product_id:
            where = f"group_by[{index}].column"
            groups.append(_group(asked, column(asked.column, where), where))
    for index, measure in enumerate(question.measures):
        if measure.product == product_id:
            column(measure.column, f"measures[{index}].column")
            measures.append(Measure(measure.column, measure.function))
    for index, condition in enumerate(question.where):
        if condition.product == product_id:
            where = f"where[{index}]"
            found = column(condition.column, f"{where}.column")
            filters.append(_filter(condition, found, where))
    return SidePlan(
        agreement=footing.agreement,
        product=footing.product,
        holder=agreement.holder,
        holder_document=agreement.holder_document,
        group_by=tuple(groups),
        measures=tuple(measures),
        filters=tuple(filters),
        price_minor=agreement.terms.price_minor,
    )


def _group(asked: AskedGroup, column: Column, where: str) -> GroupBy:
    if asked.cuts is not None:
        return GroupBy(column.name, cuts=_numbers(asked.cuts, column, where))
    if column.categories is None:
        raise QuestionRefused(where, f"{column.name} has no public categories; give cuts")
    return GroupBy(column.name, categories=column.categories)


def _filter(asked: AskedFilter, column: Column, where: str) -> Filter:
    if column.type is ColumnType.TEXT:
        return Filter(column.name, asked.op, text=asked.value)
    return Filter(column.name, asked.op, number=_numbers([asked.value], column, where)[0])


def _numbers(texts: Sequence[str], column: Column, where: str) -> tuple[int, ...]:
    """Exact integers of 10**-decimals; refuses more places than the column keeps."""
    found = []
    for text in texts:
        try:
            scaled = Decimal(text).scaleb(column.decimals)
        except InvalidOperation:
            raise QuestionRefused(where, f"{text[:20]!r} is not a number") from None
        if not scaled.is_finite() or scaled != scaled.to_integral_value():
            raise QuestionRefused(where, f"{text[:20]} has more than {column.decimals} decimals")
        found.append(int(scaled))
    return tuple(found)
