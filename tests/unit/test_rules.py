"""The rule checker, one clause at a time: what it names, and the nearest plan that it allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest

from crypto.digest import digest
from crypto.identifiers import DealId
from crypto.joins.layout import Order
from crypto.noise import Distribution
from crypto.record import Amount
from exchange.query.plan import (
    Argument,
    CrossCondition,
    Gate,
    GroupBy,
    HelperSeat,
    Noise,
    Plan,
    Receiver,
    Statistic,
)
from exchange.query.rules import Ground, side_violations, violations
from exchange.terms.agreement import Partner
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Expression,
    Not,
    Number,
    Operation,
    Present,
    Text,
    When,
)
from registry.product import Column, ColumnType
from registry.rule import ColumnLimit, Function, Join, Use
from tests.queries import (
    CLINIC,
    COLUMNS,
    CONSUMER,
    DOCUMENTS,
    HELPER,
    LAB,
    NOW,
    OPEN_USES,
    PRIVACY,
    RANDOM,
    STRANGER,
    USES,
    a_hidden_plan,
    a_plan,
    a_product,
    a_rule,
    a_statistic,
    an_agreement,
    an_open_rule,
    grounds,
    mean_of,
    open_grounds,
    the_terms,
    with_query,
    with_side,
)

Grounds = tuple[Ground, Ground]
BMI, AGE, SEX = ColumnValue("bmi"), ColumnValue("age"), ColumnValue("sex")


def at_least(column: str, number: int) -> Condition:
    return Compare(Comparator.AT_LEAST, ColumnValue(column), Number(number, 0))


def is_text(column: str, text: str) -> Condition:
    return Compare(Comparator.EQUAL, ColumnValue(column), Text(text))


@pytest.fixture
def both() -> Grounds:
    return grounds(a_product(CLINIC), a_product(LAB))


def clauses(plan: Plan, both: Grounds) -> list[tuple[str, str]]:
    return [(found.clause, found.where) for found in violations(plan, both)]


def with_statistic(plan: Plan, statistic: Statistic) -> Plan:
    return with_query(plan, statistics=(statistic,))


def test_a_plan_within_both_agreements_is_allowed(both: Grounds) -> None:
    assert violations(a_plan(both), both) == ()
    assert violations(a_hidden_plan(open_grounds()), open_grounds()) != ()  # other agreements
    hidden = open_grounds()
    assert violations(a_hidden_plan(hidden), hidden) == ()


PLANS: dict[str, tuple[str, str, Callable[[Plan], Plan]]] = {
    "a purpose that was not agreed": (
        "terms.purposes",
        "purpose",
        lambda p: replace(p, purpose="planning"),
    ),
    "a group smaller than agreed": (
        "terms.min_group",
        "work.gate.min_group",
        lambda p: with_query(p, gate=Gate(5)),
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
    "another deal": ("agreement.deal", "deal", lambda p: replace(p, deal=DealId.new(NOW, RANDOM))),
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
    "an unknown aggregate": (
        "product.columns",
        "work.statistics[0]",
        lambda p: with_statistic(p, mean_of("colour")),
    ),
    "an unknown filter": (
        "product.columns",
        "sides[0].where",
        lambda p: with_side(p, 0, where=is_text("colour", "red")),
    ),
    "grouping by an aggregate": (
        "rule.uses.bmi",
        "sides[0].group_by[0]",
        lambda p: with_side(p, 0, group_by=(GroupBy("bmi", cuts=(250,)),)),
    ),
    "grouping by a filter": (
        "rule.uses.town",
        "sides[0].group_by[0]",
        lambda p: with_side(
            p, 0, group_by=(GroupBy("x", cases=(is_text("town", "here"),), labels=("here",)),)
        ),
    ),
    "summing a group key": (
        "rule.uses.age",
        "work.statistics[0]",
        lambda p: with_statistic(p, mean_of("age")),
    ),
    "summing a group key of the other side": (
        "rule.uses.age",
        "work.statistics[0]",
        lambda p: with_statistic(p, mean_of("age", 1)),
    ),
    "a group key inside a calculation": (
        "rule.uses.age",
        "work.statistics[0]",
        lambda p: with_statistic(
            p,
            Statistic(
                Function.SUM,
                (Argument(0, Arithmetic(Operation.ADD, BMI, AGE)),),
                distinct=False,
            ),
        ),
    ),
    "selecting by an aggregate": (
        "rule.uses.bmi",
        "sides[0].where",
        lambda p: with_side(p, 0, where=at_least("bmi", 25)),
    ),
    "selecting by a group key, deep inside": (
        "rule.uses.sex",
        "sides[0].where",
        lambda p: with_side(p, 0, where=Both(at_least("age", 3), Not(is_text("sex", "f")))),
    ),
    "a column that the rule does not name": (
        "rule.uses.income",
        "work.statistics[0]",
        lambda p: with_statistic(p, mean_of("income")),
    ),
    "the join key as group": (
        "rule.uses.person",
        "sides[0].group_by[0]",
        lambda p: with_side(
            p, 0, group_by=(GroupBy("x", cases=(is_text("person", "p1"),), labels=("p1",)),)
        ),
    ),
    "the join key as filter": (
        "rule.uses.person",
        "sides[0].where",
        lambda p: with_side(p, 0, where=Not(is_text("person", "p1"))),
    ),
    "whether a column is there": (
        "rule.uses.income",
        "sides[1].where",
        lambda p: with_side(p, 1, where=Present(ColumnValue("income"))),
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
        "sides[0].where",
        lambda p: with_side(p, 0, where=at_least("town", 1)),
    ),
    "a text for a number": (
        "product.columns",
        "sides[0].where",
        lambda p: with_side(p, 0, where=is_text("age", "18")),
    ),
    "a rounding that nobody stated": (
        "",
        "",
        lambda p: with_query(p, gate=Gate(6, round_counts=10)),
    ),
}


@pytest.mark.parametrize("what", PLANS)
def test_a_plan_that_breaks_one_clause_is_told_which_and_where(both: Grounds, what: str) -> None:
    clause, where, change = PLANS[what]
    found = clauses(change(a_plan(both)), both)
    if not clause:
        assert found == []  # stricter than it must be
        return
    # What concerns the plan as a whole breaks both sides' clause, and a place that makes no sense
    # can't be computed either; no other clause is named.
    # Without noise what is calculated inside an aggregate, or aggregated and chooses rows, is
    # refused besides.
    assert (clause, where) in found
    besides = any(word in what for word in ("calculation", "by an aggregate", "summing a group"))
    allowed = {clause, "product.columns"} | ({"plan"} if besides else set())
    assert {name for name, _ in found} <= allowed


NEAREST: dict[str, Callable[[Plan], Plan]] = {
    "a larger group": lambda p: with_query(p, gate=Gate(7)),
    "one category of two": lambda p: with_side(p, 0, group_by=(GroupBy("sex", categories=("m",)),)),
    "a sum for a mean": lambda p: with_statistic(p, a_statistic(Function.SUM, "bmi")),
    "sums of both sides": lambda p: with_query(
        p, statistics=tuple(Statistic(Function.SUM, (Argument(s, BMI),), False) for s in (0, 1))
    ),
    "a filter on filter columns": lambda p: with_side(
        p, 0, where=Both(is_text("town", "here"), at_least("age", 18))
    ),
    "groups by labels": lambda p: with_side(
        p, 0, group_by=(GroupBy("g", cases=(at_least("age", 18),), labels=("old", "young")),)
    ),
    "counts only": lambda p: with_statistic(p, Statistic(Function.COUNT, (), distinct=False)),
    "no groups": lambda p: with_side(with_side(p, 0, group_by=()), 1, group_by=()),
    "all of the left": lambda p: with_side(with_query(p, keep_left=True), 1, group_by=()),
}


@pytest.mark.parametrize("what", NEAREST)
def test_the_nearest_plans_within_the_rule_are_allowed(both: Grounds, what: str) -> None:
    assert violations(NEAREST[what](a_plan(both)), both) == ()


def test_another_holder_is_neither_the_agreements_nor_the_agreed_partner(both: Grounds) -> None:
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


def test_a_helper_is_the_one_agreed_and_is_nobody_else_in_the_job() -> None:
    both = open_grounds()
    plan = a_hidden_plan(both)
    for party in (STRANGER, CLINIC, LAB, CONSUMER):
        other = replace(plan, helper=HelperSeat(party, digest(b"document")))
        assert ("terms.helper", "helper") in clauses(other, both)
    for party in (CLINIC, LAB, CONSUMER):  # even one that an agreement names
        first, second = (ground.product for ground in both)
        named = grounds(first, second, helper=party)
        other = replace(plan, helper=HelperSeat(party, digest(b"document")))
        assert "neither a holder nor the consumer" in str(violations(other, named))
    assert plan.helper == HelperSeat(HELPER, DOCUMENTS[HELPER])


# Functions, and what narrows a column


def test_a_rule_without_counts_allows_no_plan_for_every_group_is_counted() -> None:
    first = a_product(CLINIC, rule=a_rule(functions=(Function.MEAN,)))
    both = grounds(first, a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.functions", "sides[0]")]


def test_a_function_that_the_rule_does_not_allow_is_named() -> None:
    first = a_product(CLINIC, rule=a_rule(functions=(Function.COUNT, Function.SUM)))
    both = grounds(first, a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.functions", "work.statistics[0]")]


def test_a_function_over_both_sides_is_one_of_both_rules() -> None:
    """A sum of products tells of either column, whoever asked first."""
    functions = (Function.COUNT, Function.SUM, Function.COVARIANCE)
    second = a_product(LAB, rule=a_rule(functions=functions[::2]))
    both = grounds(a_product(CLINIC, rule=a_rule(functions=functions)), second)
    product = Statistic(Function.SUM, (Argument(0, BMI), Argument(1, BMI)), distinct=False)
    found = violations(with_statistic(a_plan(both), product), both)
    assert [(v.clause, v.where) for v in found] == [("rule.functions", "work.statistics[0]")]
    assert (
        side_violations(
            with_statistic(a_plan(both), product), 0, both[0], [g.product for g in both]
        )
        == ()
    )


def test_a_product_is_summed_where_a_covariance_may_be_and_a_square_where_a_variance_may() -> None:
    """Whatever the function is called: SUM(x * x) and SUM(x) make a variance."""
    plain = (Function.COUNT, Function.SUM, Function.MEAN)
    square, across = product(BMI, BMI), product(BMI, AGE)
    uses = {**USES, "age": (Use.AGGREGATE,)}
    for value, implied in ((square, Function.VARIANCE), (across, Function.COVARIANCE)):
        for functions, allowed in ((plain, False), ((*plain, implied), True)):
            rule = a_rule(functions=functions, uses=uses, joins=(Join.HIDDEN,), privacy=PRIVACY)
            both = grounds(a_product(CLINIC, rule=rule), a_product(LAB, rule=rule))
            asked = Statistic(Function.SUM, (Argument(0, value),), distinct=False)
            plan = a_hidden_plan(both, statistics=(asked,), noise=some_noise())
            found = {one.problem for one in violations(plan, both)}
            assert any(f"{implied} of bmi" in one for one in found) is not allowed


def test_a_sum_of_a_constant_is_a_sum_that_the_rule_must_allow() -> None:
    rule = a_rule(functions=(Function.COUNT,), joins=(Join.HIDDEN,), privacy=PRIVACY)
    both = grounds(a_product(CLINIC, rule=rule), a_product(LAB, rule=rule))
    asked = Statistic(Function.SUM, (Argument(0, Number(1, 0)),), distinct=False)
    plan = a_hidden_plan(both, statistics=(asked,), noise=some_noise())
    assert ("rule.functions", "work.statistics[0]") in clauses(plan, both)


def limited(**limit: object) -> Grounds:
    rule = a_rule(limits={"bmi": ColumnLimit(**limit)})  # type: ignore[arg-type]
    return grounds(a_product(CLINIC, rule=rule), a_product(LAB))


def test_a_columns_own_limits_narrow_the_rule() -> None:
    for both, clause in (
        (limited(functions=(Function.SUM,)), "rule.limits.bmi.functions"),
        (limited(purposes=("planning",)), "rule.limits.bmi.purposes"),
        (limited(consumers=(STRANGER,)), "rule.limits.bmi.consumers"),
    ):
        assert clauses(a_plan(both), both) == [(clause, "work.statistics[0]")]
    allowed = limited(
        functions=(Function.MEAN,), purposes=("research",), consumers=(STRANGER, CONSUMER)
    )
    assert violations(a_plan(allowed), allowed) == ()


def test_a_columns_own_limits_cannot_widen_the_rule() -> None:
    rule = a_rule(
        functions=(Function.COUNT,), limits={"bmi": ColumnLimit(functions=(Function.MEAN,))}
    )
    both = grounds(a_product(CLINIC, rule=rule), a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.limits.bmi.functions", "work.statistics[0]")]


def test_a_product_for_other_consumers_is_not_for_this_one() -> None:
    both = grounds(a_product(CLINIC, rule=a_rule(consumers=(STRANGER,))), a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.consumers", "consumer")]


def test_a_purpose_agreed_beyond_the_products_own_rule_does_not_count() -> None:
    first = a_product(CLINIC, rule=a_rule(purposes=("planning",)))
    both = grounds(first, a_product(LAB))
    assert clauses(a_plan(both), both) == [("rule.purposes", "purpose")]


def test_a_join_must_be_both_allowed_and_agreed() -> None:
    rule = an_open_rule(joins=(Join.HIDDEN,))
    both = grounds(a_product(CLINIC, rule=rule), a_product(LAB, rule=an_open_rule()))
    assert clauses(a_plan(both), both) == [("terms.joins", "join"), ("rule.joins", "join")]
    first, second = a_product(CLINIC, rule=an_open_rule()), a_product(LAB, rule=an_open_rule())
    narrow = grounds(first, second, joins=(Join.HIDDEN,))
    assert clauses(a_plan(narrow), narrow) == [("terms.joins", "join")]


def test_comparing_row_by_row_needs_its_own_permission() -> None:
    no_compare = {
        c: tuple(u for u in uses if u is not Use.COMPARE) for c, uses in OPEN_USES.items()
    }
    across = (CrossCondition(AGE, Order.LESS, AGE),)
    for first, second, places in (
        (OPEN_USES, OPEN_USES, []),
        (no_compare, OPEN_USES, ["rule.uses.age"]),
        (OPEN_USES, no_compare, ["rule.uses.age"]),
    ):
        both = grounds(
            a_product(CLINIC, rule=an_open_rule(uses=first)),
            a_product(LAB, rule=an_open_rule(uses=second)),
        )
        found = violations(a_hidden_plan(both, comparisons=across), both)
        assert [v.clause for v in found] == places


# The gate


@pytest.mark.parametrize(("rule", "terms", "least"), [(5, 8, 8), (8, 5, 8), (8, 8, 8)])
def test_the_larger_group_of_rule_and_terms_counts(rule: int, terms: int, least: int) -> None:
    first = a_product(CLINIC, rule=a_rule(min_group=rule))
    both = grounds(first, a_product(LAB), min_group=terms)
    assert violations(with_query(a_plan(both), gate=Gate(least)), both) == ()
    assert clauses(with_query(a_plan(both), gate=Gate(least - 1)), both) == [
        ("terms.min_group", "work.gate.min_group")
    ]


def test_the_strictest_side_decides_for_both() -> None:
    first, second = a_product(CLINIC), a_product(LAB, rule=a_rule(min_group=20))
    both = grounds(first, second)
    plan = with_query(a_plan(both), gate=Gate(19))
    assert side_violations(plan, 0, both[0], (first, second)) == ()
    assert [v.clause for v in side_violations(plan, 1, both[1], (first, second))] == [
        "terms.min_group"
    ]


@pytest.mark.parametrize(("asked", "allowed"), [(None, False), (4, False), (6, True), (12, False)])
def test_counts_are_rounded_to_what_the_rule_says(asked: int | None, allowed: bool) -> None:
    both = grounds(a_product(CLINIC, rule=a_rule(round_counts=6)), a_product(LAB))
    found = clauses(with_query(a_plan(both), gate=Gate(6, round_counts=asked)), both)
    assert found == ([] if allowed else [("rule.round_counts", "work.gate.round_counts")])


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [(None, False), (Fraction(2, 3), False), (Fraction(1, 2), True), (Fraction(1, 3), False)],
)
def test_a_dominance_limit_holds_where_nothing_is_drawn(
    asked: Fraction | None, allowed: bool
) -> None:
    both = open_grounds(dominance=Fraction(1, 2))
    found = clauses(a_hidden_plan(both, gate=Gate(6, dominance=asked)), both)
    assert found == ([] if allowed else [("rule.dominance", "work.gate.dominance")] * 2)


# Noise and epsilon


def some_noise(**changes: object) -> Noise:
    """Worth epsilon 3/2 for a mean of bmi without groups: a count, a count of those that have it,
    and their sum around the middle, which a person can change by 500."""
    noise = Noise(
        Distribution.LAPLACE,
        Fraction(3, 2),
        Fraction(1, 10**6),
        None,
        (Fraction(2), Fraction(2), Fraction(1000)),
        Fraction(1, 10**9),
    )
    return replace(noise, **changes)  # type: ignore[arg-type]


def test_a_product_that_wants_noise_gets_it_on_every_number() -> None:
    both = open_grounds(privacy=replace(PRIVACY, noise=True))
    assert ("rule.privacy.noise", "work.noise") in clauses(a_hidden_plan(both), both)
    assert violations(a_hidden_plan(both, noise=some_noise()), both) == ()


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"epsilon": Fraction(1499, 1000)}, False),
        ({"scales": (Fraction(1), Fraction(2), Fraction(1000))}, False),
        ({"scales": (Fraction(2), Fraction(2))}, False),
        ({"scales": (Fraction(2),) * 4}, False),
        ({"delta": Fraction(1, 10**9)}, False),
        ({"beta": Fraction(1, 10**6)}, False),
        ({"distribution": Distribution.GAUSSIAN, "rho": Fraction(1, 10)}, False),
        (
            {
                "distribution": Distribution.GAUSSIAN,
                "rho": Fraction(1, 100),
                "scales": (Fraction(100), Fraction(100), Fraction(50_000)),
            },
            True,
        ),
    ],
)
def test_noise_must_be_worth_what_it_is_stated_to_cost(
    changes: dict[str, object], allowed: bool
) -> None:
    both = open_grounds()
    found = clauses(a_hidden_plan(both, noise=some_noise(**changes)), both)
    assert found == ([] if allowed else [("plan", "work.noise")] * 2)


def test_a_job_costs_at_most_what_the_product_gives_for_one() -> None:
    for per_job, allowed in ((Fraction(16, 10), True), (Fraction(159, 100), False)):
        both = open_grounds(privacy=replace(PRIVACY, epsilon_per_job=per_job))
        found = {clause for clause, _ in clauses(a_hidden_plan(both, noise=some_noise()), both)}
        assert found == (set() if allowed else {"rule.privacy.epsilon_per_job"})


def test_no_epsilon_is_spent_on_a_product_that_has_none() -> None:
    first = a_product(CLINIC, rule=an_open_rule())
    second = a_product(LAB, rule=an_open_rule(joins=(Join.REVEALED,), privacy=None))
    both = grounds(first, second)
    assert ("rule.privacy", "work") in clauses(a_hidden_plan(both), both)


def test_an_exact_test_beside_noise_is_refused_for_it_would_void_the_epsilon() -> None:
    both = open_grounds()
    gate = Gate(6, dominance=Fraction(1, 2))
    found = clauses(a_hidden_plan(both, noise=some_noise(), gate=gate), both)
    assert found == [("plan", "work.gate.dominance")] * 2


def test_one_persons_value_is_never_said_to_be_private() -> None:
    both = open_grounds()
    least = a_hidden_plan(both, statistics=(a_statistic(Function.MIN, "bmi"),))
    assert violations(least, both) == ()
    noisy = with_query(least, noise=some_noise(scales=(Fraction(2),) * 2, epsilon=Fraction(1)))
    assert ("plan", "work.noise") in clauses(noisy, both)


def test_joins_of_two_parties_add_no_noise_and_compute_nothing_row_by_row() -> None:
    both = open_grounds()
    noisy = with_query(a_plan(both), noise=some_noise())
    least = with_statistic(a_plan(both), a_statistic(Function.MIN, "bmi"))
    across = with_query(a_plan(both), comparisons=(CrossCondition(AGE, Order.LESS, AGE),))
    for plan in (noisy, least, across):
        assert ("plan", "join") in clauses(plan, both)


def test_the_sum_join_computes_sums_of_one_side_without_groups_and_nothing_else() -> None:
    both = open_grounds()
    plan = replace(a_plan(both), join=Join.SUM, work=replace(a_plan(both).query, intersection=None))
    assert clauses(plan, both) == [("plan", "join")] * 2
    whole = with_side(with_side(plan, 0, group_by=()), 1, group_by=())
    assert violations(whole, both) == ()
    product = Statistic(Function.SUM, (Argument(0, BMI), Argument(1, BMI)), distinct=False)
    assert clauses(with_statistic(whole, product), both) == [("plan", "join")] * 2


# Choosing rows inside an aggregate

OLD = Compare(Comparator.EQUAL, AGE, Number(93, 0))
ZERO = Number(0, 0)


def calculated(operation: Operation, left: Expression, right: Expression) -> Expression:
    return Arithmetic(operation, left, right)


def product(*parts: Expression) -> Expression:
    first, *rest = parts
    for part in rest:
        first = calculated(Operation.MULTIPLY, first, part)
    return first


PICKING: dict[str, Expression] = {
    "one age": Case((When(OLD, BMI),), ZERO),
    "one age without ELSE": Case((When(OLD, BMI),), None),
    "everybody but one": Case((When(Not(OLD), BMI),), None),
    "an ELSE that shows": Case((When(Present(BMI), BMI),), Case((When(OLD, ZERO),), Number(1, 0))),
    "whoever has none": Case((When(Not(Present(BMI)), AGE),), None),
    "presence of a choice": Case((When(Present(Case((When(OLD, BMI),), None)), BMI),), None),
    "a clamp": calculated(Operation.LEAST, AGE, Number(92, 0)),
    "a clamp inside": calculated(
        Operation.ADD, BMI, calculated(Operation.GREATEST, AGE, Number(92, 0))
    ),
    "a polynomial": product(AGE, calculated(Operation.SUBTRACT, AGE, Number(1, 0)), BMI),
}
CALCULATED: dict[str, Expression] = {
    "a product of two": product(BMI, AGE),
    "a constant": Number(1, 0),
    "a column and a constant": calculated(Operation.ADD, BMI, Number(1000, 0)),
    "another unit": product(BMI, Number(2, 0)),
    "whoever has one": Case((When(Present(BMI), Number(1, 0)),), None),
    "a value for those without": Case((When(Present(BMI), BMI),), ZERO),
}


@pytest.mark.parametrize("what", [*PICKING, *CALCULATED])
def test_without_noise_only_plain_columns_are_summed(what: str) -> None:
    both = open_grounds()
    value = {**PICKING, **CALCULATED}[what]
    for function in (Function.SUM, Function.MAX, Function.VARIANCE):
        chosen = Statistic(function, (Argument(0, value),), distinct=False)
        plan = a_hidden_plan(both, statistics=(chosen,))
        assert clauses(plan, both) == [("plan", "work.statistics[0]")] * 2
        assert "ask with noise" in str(violations(plan, both)[0])


def test_without_noise_no_column_is_aggregated_that_also_chooses_rows() -> None:
    both = open_grounds()
    chooses = [
        at_least("bmi", 250),
        Not(at_least("bmi", 250)),
        Both(Present(BMI), at_least("bmi", 250)),
    ]
    summed = a_hidden_plan(both)
    for where in chooses:
        plan = with_side(summed, 0, where=where)
        assert clauses(plan, both) == [("plan", "work.statistics")]
        assert "bmi is aggregated and also chooses rows" in str(violations(plan, both)[0])
        counted = Statistic(Function.COUNT, (Argument(0, BMI),), distinct=False)
        assert clauses(with_side(with_statistic(summed, counted), 0, where=where), both) == []
    for where in (Present(BMI), at_least("age", 3), Both(at_least("age", 3), Present(BMI))):
        assert clauses(with_side(summed, 0, where=where), both) == []
    grouped = with_side(summed, 0, group_by=(GroupBy("bmi", cuts=(250,)),))
    assert clauses(grouped, both) == [("plan", "work.statistics")]
    by_case = GroupBy("band", cases=(at_least("bmi", 250),), labels=("high",))
    assert clauses(with_side(summed, 0, group_by=(by_case,)), both) == [("plan", "work.statistics")]
    across = CrossCondition(BMI, Order.LESS, BMI)
    assert ("plan", "work.statistics") in clauses(with_query(summed, comparisons=(across,)), both)


def test_without_noise_a_column_is_multiplied_with_one_other() -> None:
    both = open_grounds()
    pairs = tuple(
        Statistic(Function.COVARIANCE, (Argument(0, BMI), other), distinct=False)
        for other in (Argument(1, BMI), Argument(0, AGE))
    )
    one, two = (a_hidden_plan(both, statistics=found) for found in (pairs[:1], pairs))
    assert "more than one other column" not in str(violations(one, both))
    assert "bmi is multiplied with more than one other column" in str(violations(two, both))


def test_without_noise_one_column_of_each_of_two_tables_is_multiplied_and_summed() -> None:
    both = open_grounds()
    for function in (Function.SUM, Function.MEAN, Function.COVARIANCE, Function.CORRELATION):
        pair = Statistic(function, (Argument(0, BMI), Argument(1, BMI)), distinct=False)
        assert violations(a_hidden_plan(both, statistics=(pair,)), both) == ()
    spread = Statistic(Function.VARIANCE, (Argument(0, BMI), Argument(1, BMI)), distinct=False)
    plan = a_hidden_plan(both, statistics=(spread,))
    assert clauses(plan, both) == [("plan", "work.statistics[0]")] * 2


def test_without_noise_a_count_may_ask_who_has_a_value_and_nothing_else() -> None:
    both = open_grounds()
    for value in (BMI, CALCULATED["whoever has one"]):
        counted = Statistic(Function.COUNT, (Argument(0, value),), distinct=False)
        assert violations(a_hidden_plan(both, statistics=(counted,)), both) == ()
    chosen = Case((When(OLD, Number(1, 0)),), None)
    for forged in (chosen, Case((When(Present(chosen), Number(1, 0)),), None), Number(1, 0)):
        counted = Statistic(Function.COUNT, (Argument(0, forged),), distinct=False)
        plan = a_hidden_plan(both, statistics=(counted,))
        assert clauses(plan, both) == [("plan", "work.statistics[0]")] * 2


def test_with_noise_whatever_one_person_can_add_is_covered() -> None:
    both = open_grounds()
    chosen = Statistic(Function.SUM, (Argument(0, PICKING["one age"]),), distinct=False)
    scales = (Fraction(4), Fraction(4), Fraction(2000))  # the sum moves by 1000, a bmi of 100.0
    plan = a_hidden_plan(both, statistics=(chosen,), noise=some_noise(scales=scales))
    assert violations(plan, both) == ()


def test_what_a_case_decides_on_is_used_as_a_filter() -> None:
    uses = {**OPEN_USES, "age": (Use.AGGREGATE,)}
    both = grounds(
        a_product(CLINIC, rule=an_open_rule(uses=uses)), a_product(LAB, rule=an_open_rule())
    )
    chosen = Statistic(Function.SUM, (Argument(0, PICKING["one age"]),), distinct=False)
    plan = a_hidden_plan(both, statistics=(chosen,), noise=some_noise(epsilon=Fraction(2)))
    assert ("rule.uses.age", "work.statistics[0]") in clauses(with_side(plan, 1, group_by=()), both)


def test_what_least_and_greatest_compare_is_used_as_a_filter() -> None:
    """LEAST(1, GREATEST(0, age - 92)) is 1 for whoever is older than 92."""
    uses = {**OPEN_USES, "age": (Use.AGGREGATE,)}
    both = grounds(
        a_product(CLINIC, rule=an_open_rule(uses=uses)), a_product(LAB, rule=an_open_rule())
    )
    older = calculated(Operation.GREATEST, ZERO, calculated(Operation.SUBTRACT, AGE, Number(92, 0)))
    mark = calculated(Operation.LEAST, Number(1, 0), older)
    chosen = Statistic(Function.SUM, (Argument(0, mark),), distinct=False)
    plan = a_hidden_plan(both, statistics=(chosen,), noise=some_noise(epsilon=Fraction(2)))
    assert ("rule.uses.age", "work.statistics[0]") in clauses(with_side(plan, 1, group_by=()), both)
    open_both = open_grounds()
    plan = a_hidden_plan(open_both, statistics=(chosen,), noise=some_noise(epsilon=Fraction(2)))
    assert "rule.uses.age" not in {clause for clause, _ in clauses(plan, open_both)}


# Ranges and rows


def test_a_text_is_not_summed_even_where_a_rule_says_so() -> None:
    columns = (*COLUMNS[:2], Column("note", ColumnType.TEXT, "note"))
    rule = a_rule(uses={"person": USES["person"], "sex": USES["sex"]})
    first = a_product(CLINIC, columns=columns, rule=rule)
    # A listed product cannot say so; a rule that was made otherwise still does not get through.
    object.__setattr__(rule, "uses", {**rule.uses, "note": (Use.AGGREGATE,)})
    both = grounds(first, a_product(LAB))
    plan = with_statistic(a_plan(both), mean_of("note"))
    assert ("plan", "statistics") in clauses(plan, both)


@pytest.mark.parametrize(("high", "allowed"), [(2**50 - 1, True), (2**52, False)])
def test_a_range_too_wide_for_an_exact_sum_is_refused(high: int, allowed: bool) -> None:
    """1,000 rows take 10 bits, and a sign one: 62 bits leave 51 for the value."""
    wide = Column("bmi", ColumnType.INTEGER, "wide", low=0, high=high)
    columns = tuple(wide if column.name == "bmi" else column for column in COLUMNS)
    both = grounds(a_product(CLINIC, columns=columns), a_product(LAB))
    found = set(clauses(a_plan(both), both))
    assert found == (set() if allowed else {("plan", "statistics")})


def test_a_product_of_several_rows_a_person_is_grouped_by_nothing_of_its_own() -> None:
    both = grounds(a_product(CLINIC, rows_per_person=3), a_product(LAB))
    assert ("product.rows_per_person", "sides[0].group_by[0]") in clauses(a_plan(both), both)
    assert violations(with_side(a_plan(both), 0, group_by=()), both) == ()


def test_all_of_the_left_needs_one_row_of_each_person_on_the_right() -> None:
    both = grounds(a_product(CLINIC), a_product(LAB, rows_per_person=3))
    plan = with_side(with_query(a_plan(both), keep_left=True), 1, group_by=())
    assert ("plan", "keep_left") in clauses(plan, both)


def test_every_violation_is_named_at_once_so_that_nobody_mends_them_one_by_one(
    both: Grounds,
) -> None:
    plan = replace(with_query(a_plan(both), gate=Gate(2)), purpose="marketing", currency="CNY")
    found = {clause for clause, _ in clauses(plan, both)}
    assert found == {"terms.purposes", "rule.purposes", "terms.currency", "terms.min_group"}


def test_a_violation_reads_as_place_problem_and_clause(both: Grounds) -> None:
    (first, *_) = violations(with_query(a_plan(both), gate=Gate(2)), both)
    assert str(first) == (
        "work.gate.min_group: is 2; groups must hold at least 6 people (terms.min_group)"
    )
