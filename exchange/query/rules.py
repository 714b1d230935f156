"""The rule checker: may this plan run under these agreements?

A pure function from (plan, what each side agreed) to the violations, each naming the clause that
forbids it. The hub calls it for an early answer; every node calls it for the real decision.
Rules of several holders combine by the strictest: a plan is permitted only if *every* side's
product rule and *every* side's terms permit it, so nothing one party allows can relax another's.

Why it is sound: `violations` walks everything a plan can release. A released number is a count, or
a sum or mean of one measure; each measure needs AGGREGATE on its column and its function allowed.
A released label is a group key; each needs GROUP_KEY. What merely selects rows needs FILTER. The
key needs JOIN_KEY and can be nothing else, for no clause lets a key be released. A column that the
rule does not name has no use at all. Nothing else of a plan reaches the receiver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from exchange.query.plan import GroupBy, Plan, SidePlan
from exchange.terms.agreement import Agreement, Partner
from registry.product import ColumnType, DataProduct
from registry.rule import Function, Use

RING_BITS: Final = 64


@dataclass(frozen=True)
class Violation:
    """clause: the rule's or agreement's clause; where: the place in the plan."""

    clause: str
    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem} ({self.clause})"


@dataclass(frozen=True)
class Ground:
    """What a side's part of the plan is judged by."""

    agreement: Agreement
    product: DataProduct


def violations(plan: Plan, grounds: Sequence[Ground]) -> tuple[Violation, ...]:
    """All of them, in the order of the plan. grounds: one per side, in the plan's order."""
    products = [ground.product for ground in grounds]
    return tuple(
        violation
        for index, ground in enumerate(grounds)
        for violation in side_violations(plan, index, ground, products)
    )


def side_violations(
    plan: Plan, index: int, ground: Ground, products: Sequence[DataProduct]
) -> tuple[Violation, ...]:
    """Those of one side: all that this side's holder can and must judge.

    products: of all sides, in the plan's order; the other holders' agreements stay theirs.
    """
    side, where = plan.sides[index], f"sides[{index}]"
    # By place, not by id: another holder could list a product under this one's id.
    others = {
        Partner(product.id, plan.sides[place].holder)
        for place, product in enumerate(products)
        if place != index
    }
    return tuple(
        _parties(plan, side, ground, where)
        + _terms(plan, side, ground, where, others=others)
        + _columns(side, ground.product, where)
        + _sizes(side, ground.product, where)
    )


def _parties(plan: Plan, side: SidePlan, ground: Ground, where: str) -> list[Violation]:
    agreement = ground.agreement
    found = []
    if agreement.consumer != plan.consumer:
        found.append(
            Violation("agreement.consumer", "consumer", "the agreement is with another consumer")
        )
    if agreement.holder != side.holder or ground.product.holder != side.holder:
        found.append(Violation("agreement.holder", f"{where}.holder", "is not the product's"))
    if agreement.deal != plan.deal:
        found.append(Violation("agreement.deal", "deal", "the agreement belongs to another deal"))
    if agreement.terms.product != side.product or agreement.terms.product_id != ground.product.id:
        found.append(Violation("terms.product", f"{where}.product", "is not the one agreed"))
    for index, receiver in enumerate(plan.receivers):
        if receiver.party != plan.consumer or receiver.document != plan.consumer_document:
            found.append(
                Violation("agreement.consumer", f"receivers[{index}]", "is not the consumer")
            )
    return found


def _terms(
    plan: Plan, side: SidePlan, ground: Ground, where: str, *, others: set[Partner]
) -> list[Violation]:
    terms, rule = ground.agreement.terms, ground.product.rule
    found = []
    if plan.purpose not in terms.purposes:
        found.append(
            Violation("terms.purposes", "purpose", f"{plan.purpose} is not an agreed purpose")
        )
    if plan.purpose not in rule.purposes:
        found.append(
            Violation("rule.purposes", "purpose", f"{plan.purpose} is not a purpose of the product")
        )
    if plan.join not in terms.joins:
        found.append(Violation("terms.joins", "join", f"{plan.join} was not agreed"))
    if plan.join not in rule.joins:
        found.append(Violation("rule.joins", "join", f"the product does not allow {plan.join}"))
    for other in sorted(others - set(terms.combine_with)):
        found.append(Violation("terms.combine_with", where, f"may not be combined with {other}"))
    least = max(terms.min_group, rule.min_group)
    if plan.gate.min_group < least:
        found.append(
            Violation(
                "terms.min_group",
                "gate.min_group",
                f"is {plan.gate.min_group}; groups must hold at least {least} people",
            )
        )
    if plan.currency != terms.currency:
        found.append(Violation("terms.currency", "currency", f"is not {terms.currency}"))
    if side.price_minor != terms.price_minor:
        found.append(
            Violation("terms.price_minor", f"{where}.price_minor", "is not the agreed price")
        )
    return found


def _columns(side: SidePlan, product: DataProduct, where: str) -> list[Violation]:
    found: list[Violation] = []
    known = {column.name: column for column in product.columns}

    def require(name: str, use: Use, place: str) -> bool:
        if name not in known:
            found.append(Violation("product.columns", place, f"{name} is not a column"))
            return False
        if name == product.key:
            found.append(
                Violation(f"rule.uses.{name}", place, f"{name} is the join key and nothing else")
            )
            return False
        if not product.rule.permits(name, use):
            found.append(
                Violation(f"rule.uses.{name}", place, f"{name} may not be used as {use.value}")
            )
            return False
        return True

    if not product.rule.permits(product.key, Use.JOIN_KEY):
        found.append(Violation(f"rule.uses.{product.key}", where, "is not allowed as join key"))
    for index, group in enumerate(side.group_by):
        place = f"{where}.group_by[{index}]"
        if require(group.column, Use.GROUP_KEY, place):
            found += _domain(group, product, place)
    for index, measure in enumerate(side.measures):
        place = f"{where}.measures[{index}]"
        if require(measure.column, Use.AGGREGATE, place):
            if measure.function not in product.rule.functions:
                found.append(
                    Violation("rule.functions", place, f"{measure.function} is not allowed")
                )
            if known[measure.column].type is ColumnType.TEXT:
                found.append(Violation("product.columns", place, f"{measure.column} is text"))
    for index, condition in enumerate(side.filters):
        place = f"{where}.filters[{index}]"
        if require(condition.column, Use.FILTER, place):
            is_text = known[condition.column].type is ColumnType.TEXT
            if is_text != (condition.text is not None):
                found.append(
                    Violation("product.columns", place, f"{condition.column} is of another type")
                )
    if Function.COUNT not in product.rule.functions:
        found.append(Violation("rule.functions", where, "count is not allowed"))
    return found


def _domain(group: GroupBy, product: DataProduct, place: str) -> list[Violation]:
    """A group's domain must be public: the product's own categories, or cuts in its range."""
    column = product.column(group.column)
    if group.categories is not None:
        if column.categories is None:
            return [Violation("product.columns", place, f"{column.name} has no public categories")]
        unknown = [c for c in group.categories if c not in column.categories]
        if unknown:
            return [
                Violation("product.columns", place, f"{unknown[0]} is not one of its categories")
            ]
    elif column.type is ColumnType.TEXT:
        return [Violation("product.columns", place, f"{column.name} is text and has no bands")]
    return []


def _sizes(side: SidePlan, own: DataProduct, where: str) -> list[Violation]:
    """No sum may leave the ring of integers modulo 2**64: bits of the value plus of the count.

    Of all own rows, not only of those that can match: the engine refuses rows whose sum could
    wrap, and whether it does must tell nothing about the rows that filters select.
    """
    columns = {column.name: column for column in own.columns}
    found = []
    for index, measure in enumerate(side.measures):
        column = columns.get(measure.column)
        if column is None or column.low is None or column.high is None:
            continue
        widest = max(abs(column.low), abs(column.high), 1)
        if widest.bit_length() + own.cap.bit_length() + 1 > RING_BITS - 2:
            found.append(
                Violation(
                    "product.columns",
                    f"{where}.measures[{index}]",
                    f"the range of {column.name} is too wide for an exact sum",
                )
            )
    return found
