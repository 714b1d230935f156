"""The rule checker, one clause at a time: what it names, and the nearest plan that it allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from crypto.digest import digest
from crypto.identifiers import DealId
from crypto.record import Amount
from exchange.query.plan import Filter, Gate, GroupBy, Measure, Plan, Receiver
from exchange.query.rules import Ground, side_violations, violations
from exchange.terms.agreement import Partner
from registry.product import Column, ColumnType
from registry.rule import Function, Use
from tests.queries import (
    CLINIC,
    COLUMNS,
    CONSUMER,
    DOCUMENTS,
    LAB,
    NOW,
    RANDOM,
    STRANGER,
    USES,
    a_plan,
    a_product,
    a_rule,
    an_agreement,
    grounds,
    the_terms,
    with_side,
)

Both = tuple[Ground, Ground]


@pytest.fixture
def both() -> Both:
    return grounds(a_product(CLINIC), a_product(LAB))


def clauses(plan: Plan, both: Both) -> list[tuple[str, str]]:
    return [(found.clause, found.where) for found in violations(plan, both)]


def test_a_plan_within_both_agreements_is_allowed(both: Both) -> None:
    assert violations(a_plan(both), both) == ()


PLANS: dict[str, tuple[str, str, Callable[[Plan], Plan]]] = {
    "a purpose that was not agreed": (
        "terms.purposes",
        "purpose",
        lambda p: replace(p, purpose="planning"),
    ),
    "a group smaller than agreed": (
        "terms.min_group",
        "gate.min_group",
        lambda p: replace(p, gate=Gate(5)),
    ),
    "another currency": ("terms.currency", "currency", lambda p: replace(p, currency="CNY")),
    "a lower price": (
        "terms.price_minor",
        "sides[0].price_minor",
        lambda p: with_side(p, 0, price_minor=Amount(99)),
    ),
    "a higher price": (
        "terms.price_minor",
        "sides[0].price_minor",
        lambda p: with_side(p, 0, price_minor=Amount(101)),
    ),
    "another deal": (
        "agreement.deal",
        "deal",
        lambda p: replace(p, deal=DealId.new(NOW, RANDOM)),
    ),
    "another product": (
        "terms.product",
        "sides[0].product",
        lambda p: with_side(p, 0, product=digest(b"another")),
    ),
    "another receiver": (
        "agreement.consumer",
        "receivers[0]",
        lambda p: replace(p, receivers=(Receiver(STRANGER, DOCUMENTS[CONSUMER]),)),
    ),
    "the receiver under other keys": (
        "agreement.consumer",
        "receivers[0]",
        lambda p: replace(p, receivers=(Receiver(CONSUMER, digest(b"other keys")),)),
    ),
    "an unknown group column": (
        "product.columns",
        "sides[0].group_by[0]",
        lambda p: with_side(p, 0, group_by=(GroupBy("colour", categories=("red",)),)),
    ),
    "an unknown measure": (
        "product.columns",
        "sides[0].measures[0]",
        lambda p: with_side(p, 0, measures=(Measure("colour", Function.SUM),)),
    ),
    "an unknown filter": (
        "product.columns",
        "sides[0].filters[0]",
        lambda p: with_side(p, 0, filters=(Filter("colour", "=", text="red"),)),
    ),
    "grouping by an aggregate": (
        "rule.uses.bmi",
        "sides[0].group_by[0]",
        lambda p: with_side(p, 0, group_by=(GroupBy("bmi", cuts=(250,)),)),
    ),
    "grouping by a filter": (
        "rule.uses.town",
        "sides[0].group_by[0]",
        lambda p: with_side(p, 0, group_by=(GroupBy("town", categories=("here",)),)),
    ),
    "summing a group key": (
        "rule.uses.age",
        "sides[0].measures[0]",
        lambda p: with_side(p, 0, measures=(Measure("age", Function.SUM),)),
    ),
    "selecting by an aggregate": (
        "rule.uses.bmi",
        "sides[0].filters[0]",
        lambda p: with_side(p, 0, filters=(Filter("bmi", "<", number=250),)),
    ),
    "selecting by a group key": (
        "rule.uses.sex",
        "sides[0].filters[0]",
        lambda p: with_side(p, 0, filters=(Filter("sex", "=", text="f"),)),
    ),
    "a column that the rule does not name": (
        "rule.uses.income",
        "sides[0].measures[0]",
        lambda p: with_side(p, 0, measures=(Measure("income", Function.MEAN),)),
    ),
    "the join key as group": (
        "rule.uses.person",
        "sides[0].group_by[0]",
        lambda p: with_side(p, 0, group_by=(GroupBy("person", categories=("p1",)),)),
    ),
    "the join key as filter": (
        "rule.uses.person",
        "sides[0].filters[0]",
        lambda p: with_side(p, 0, filters=(Filter("person", "!=", text="p1"),)),
    ),
    "a category that is not public": (
        "product.columns",
        "sides[0].group_by[0]",
        lambda p: with_side(p, 0, group_by=(GroupBy("sex", categories=("f", "x")),)),
    ),
    "bands of a text": (
        "product.columns",
        "sides[0].group_by[0]",
        lambda p: with_side(p, 0, group_by=(GroupBy("sex", cuts=(1,)),)),
    ),
    "categories of a number": (
        "product.columns",
        "sides[1].group_by[0]",
        lambda p: with_side(p, 1, group_by=(GroupBy("age", categories=("18",)),)),
    ),
    "a number for a text": (
        "product.columns",
        "sides[0].filters[0]",
        lambda p: with_side(p, 0, filters=(Filter("town", "=", number=1),)),
    ),
    "a text for a number": (
        "product.columns",
        "sides[0].filters[0]",
        lambda p: with_side(p, 0, filters=(Filter("age", "=", text="18"),)),
    ),
}


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_that_breaks_one_clause_is_told_which_and_where(both: Both, what: str) -> None:
    clause, where, change = PLANS[what]
    found = clauses(change(a_plan(both)), both)
    assert (clause, where) in found
    # What concerns the plan as a whole breaks both sides' clause; nothing else is named.
    assert {name for name, _ in found} == {clause}


NEAREST: dict[str, Callable[[Plan], Plan]] = {
    "a larger group": lambda p: replace(p, gate=Gate(7)),
    "one category of two": lambda p: with_side(p, 0, group_by=(GroupBy("sex", categories=("m",)),)),
    "a sum for a mean": lambda p: with_side(p, 0, measures=(Measure("bmi", Function.SUM),)),
    "a filter on a filter column": lambda p: with_side(
        p, 0, filters=(Filter("town", "=", text="here"), Filter("age", ">=", number=18))
    ),
    "counts only": lambda p: with_side(p, 0, measures=()),
    "no groups": lambda p: with_side(with_side(p, 0, group_by=()), 1, group_by=()),
}


@pytest.mark.parametrize("what", NEAREST)
def test_the_nearest_plans_within_the_rule_are_allowed(both: Both, what: str) -> None:
    assert violations(NEAREST[what](a_plan(both)), both) == ()


def test_another_holder_is_neither_the_agreements_nor_the_agreed_partner(both: Both) -> None:
    plan = with_side(a_plan(both), 0, holder=STRANGER)
    assert clauses(plan, both) == [
        ("agreement.holder", "sides[0].holder"),
        ("terms.combine_with", "sides[1]"),
    ]


def test_an_agreement_with_another_consumer_allows_nothing() -> None:
    first, second = a_product(CLINIC), a_product(LAB)
    other = an_agreement(first, the_terms(first, second), consumer=STRANGER)
    both = (Ground(other, first), grounds(second, first)[0])
    assert ("agreement.consumer", "consumer") in clauses(a_plan(both), both)


@pytest.mark.parametrize(
    "partner",
    ["nobody", "the product under another holder", "another product of the holder"],
)
def test_a_product_is_combined_only_with_the_partner_that_was_agreed(partner: str) -> None:
    first, second = a_product(CLINIC), a_product(LAB)
    named = {
        "nobody": (),
        "the product under another holder": (Partner(second.id, STRANGER),),
        "another product of the holder": (Partner(a_product(LAB).id, LAB),),
    }
    both = grounds(first, second, combine_with=named[partner])
    assert clauses(a_plan(both), both) == [("terms.combine_with", "sides[0]")]


def test_a_rule_without_counts_allows_no_plan_for_every_group_is_counted() -> None:
    first = a_product(CLINIC, rule=a_rule(functions=(Function.MEAN,)))
    both = grounds(first, a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.functions", "sides[0]")]


def test_a_function_that_the_rule_does_not_allow_is_named() -> None:
    first = a_product(CLINIC, rule=a_rule(functions=(Function.COUNT, Function.SUM)))
    both = grounds(first, a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.functions", "sides[0].measures[0]")]


def test_a_purpose_agreed_beyond_the_products_own_rule_does_not_count() -> None:
    first = a_product(CLINIC, rule=a_rule(purposes=("planning",)))
    both = grounds(first, a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.purposes", "purpose")]


@pytest.mark.parametrize(("rule", "terms", "least"), [(5, 8, 8), (8, 5, 8), (8, 8, 8)])
def test_the_larger_group_of_rule_and_terms_counts(rule: int, terms: int, least: int) -> None:
    first = a_product(CLINIC, rule=a_rule(min_group=rule))
    both = grounds(first, a_product(LAB), min_group=terms)
    assert violations(a_plan(both, gate=Gate(least)), both) == ()
    assert clauses(a_plan(both, gate=Gate(least - 1)), both) == [
        ("terms.min_group", "gate.min_group")
    ]


def test_the_strictest_side_decides_for_both() -> None:
    first, second = a_product(CLINIC), a_product(LAB, rule=a_rule(min_group=20))
    both = grounds(first, second)
    plan = a_plan(both, gate=Gate(19))
    assert side_violations(plan, 0, both[0], (first, second)) == ()
    assert [v.clause for v in side_violations(plan, 1, both[1], (first, second))] == [
        "terms.min_group"
    ]


def test_a_text_is_not_summed_even_where_a_rule_says_so() -> None:
    columns = (*COLUMNS[:2], Column("note", ColumnType.TEXT, "note"))
    rule = a_rule(uses={"person": USES["person"], "sex": USES["sex"]})
    product = a_product(CLINIC, columns=columns, rule=rule)
    # A listed product cannot say so; a rule that was made otherwise still does not get through.
    object.__setattr__(rule, "uses", {**rule.uses, "note": (Use.AGGREGATE,)})
    both = grounds(product, a_product(LAB))
    plan = with_side(a_plan(both), 0, measures=(Measure("note", Function.SUM),))
    assert clauses(plan, both) == [("product.columns", "sides[0].measures[0]")]


@pytest.mark.parametrize(("high", "allowed"), [(2**50 - 1, True), (2**52, False)])
def test_a_range_too_wide_for_an_exact_sum_is_refused(high: int, allowed: bool) -> None:
    """1,000 rows take 10 bits, and a sign one: 62 bits leave 51 for the value."""
    wide = Column("bmi", ColumnType.INTEGER, "wide", low=0, high=high)
    columns = tuple(wide if column.name == "bmi" else column for column in COLUMNS)
    both = grounds(a_product(CLINIC, columns=columns), a_product(LAB))
    found = clauses(a_plan(both), both)
    assert found == ([] if allowed else [("product.columns", "sides[0].measures[0]")])


def test_every_violation_is_named_at_once_so_that_nobody_mends_them_one_by_one(
    both: Both,
) -> None:
    plan = replace(a_plan(both), purpose="marketing", currency="CNY", gate=Gate(2))
    found = {clause for clause, _ in clauses(plan, both)}
    assert found == {"terms.purposes", "rule.purposes", "terms.currency", "terms.min_group"}


def test_a_violation_reads_as_place_problem_and_clause(both: Both) -> None:
    (first, *_) = violations(replace(a_plan(both), gate=Gate(2)), both)
    assert str(first) == (
        "gate.min_group: is 2; groups must hold at least 6 people (terms.min_group)"
    )
