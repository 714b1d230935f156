"""Questions that the gate does not count: whether a run fails, whether a chosen limit is passed.

Attacker:        a consumer who signs plans that no compiler made
Knowledge:       whom its filter selects
Goal:            one person's value, exactly
Success measure: the value bisected
False alarms:    none: nothing is random

Every engine refuses rows whose sums could wrap. Whether it does must follow from the plan and the
products alone: a run that fails for rows says something about people whom no gate has counted. And
of one sum under limits of the attacker's choice, whether it is shown finds the largest value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from crypto.errors import Malformed
from crypto.joins.layout import Layout
from crypto.joins.rows import MAX_ABSOLUTE_SUM, SideRows, limited_terms, plain_output
from exchange.errors import PlanRefused
from exchange.query.plan import Gate, Plan, Statistic
from exchange.query.program import Program, program_of
from exchange.query.rules import Ground, violations
from registry.expression import (
    Both,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Either,
    Number,
    Present,
)
from registry.rule import Function, Join
from tests.queries import (
    CLINIC,
    LAB,
    a_hidden_plan,
    a_plan,
    a_product,
    a_query,
    a_statistic,
    an_open_rule,
    compiled,
    grounds,
    open_grounds,
    three_grounds,
    with_query,
    with_side,
)

LARGEST = 617  # of the target's group
COUNT = Statistic(Function.COUNT, (), distinct=False)
SUM_OF_BMI = a_statistic(Function.SUM, "bmi")


def of_bmi(both: tuple[Ground, ...], **changes: object) -> Plan:
    plan = a_hidden_plan(both[:2], statistics=(a_statistic(Function.SUM, "bmi"),), **changes)
    return with_side(with_side(plan, 0, group_by=()), 1, group_by=())


def program_for(plan: Plan, both: tuple[Ground, ...]) -> Program:
    return program_of(plan, [ground.product for ground in both])


def people(program: Program, side: int, values: list[int]) -> SideRows:
    """Rows of which each has its value wherever a factor does not only mark people."""
    n, factors = len(values), program.factors[side]
    held = [
        np.array([1 if "Present" in factor else value for value in values])
        for factor in map(str, factors)
    ]
    tokens = np.arange(n, dtype=np.uint64).repeat(2).view(np.uint8)
    columns = np.array(held, dtype=np.int64).reshape(len(factors), n).T
    return SideRows(tokens.reshape(n, 16), np.zeros(n, dtype=np.int64), columns)


def bisected(holds: Callable[[int], bool], below: int) -> int:
    """The least number for which it holds."""
    low, high = -1, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


# A run that fails


def test_a_limit_as_fine_as_the_ring_would_read_one_persons_value_from_whether_the_run_fails() -> (
    None
):
    both = open_grounds()
    layout = program_for(of_bmi(both), both).layout
    one = people(program_for(of_bmi(both), both), 0, [LARGEST])

    def runs(value: int) -> bool:
        """Whether an engine takes the one selected person under a limit made for this value."""
        fine = Fraction(1, MAX_ABSOLUTE_SUM // (value + 1))
        try:
            one.require(replace(layout, dominance=fine), 0)
        except Malformed:
            return False
        return True

    assert bisected(runs, 1001) == LARGEST
    for value in (1, LARGEST - 1, LARGEST, LARGEST + 1, 1000):
        fine = Gate(6, dominance=Fraction(1, MAX_ABSOLUTE_SUM // (value + 1)))
        with pytest.raises(PlanRefused, match="62 bits"):
            program_for(of_bmi(both, gate=fine), both)


@pytest.mark.parametrize("bits", [1, 20, 40, 41, 42, 43, 44, 60])
def test_whatever_limit_a_plan_may_have_no_rows_within_the_products_make_it_fail(
    bits: int,
) -> None:
    """The widest rows of all: as many as the cap, each at the end of its public range."""
    limit = Fraction(1, 2**bits)
    both = open_grounds(dominance=limit)
    plan = of_bmi(both, gate=Gate(6, dominance=limit))
    try:
        program = program_for(plan, both)
    except PlanRefused:
        assert bits > 40  # 1,000 people of at most 1000 take 20 bits, and 2**61 has room for 41
        return
    for value in (1000, -1000):
        people(program, 0, [value] * both[0].product.cap).require(program.layout, 0)


def test_of_three_holders_a_product_of_two_has_room_under_the_limit_too() -> None:
    """A sum of what the second and the third have is one side's, so the limit is on it as well."""
    sql = """SELECT SUM(b.bmi * c.bmi) FROM a JOIN b ON a.person = b.person
             JOIN c ON a.person = c.person"""
    for bits, fits in ((30, True), (32, False)):  # 1,000 people of at most 10**6 take 30 bits
        trio = three_grounds(dominance=Fraction(1, 2**bits))
        plan = with_query(
            compiled(sql, three_grounds()), gate=Gate(6, dominance=Fraction(1, 2**bits))
        )
        if fits:
            assert limited_terms(program_for(plan, trio).layout)
            continue
        with pytest.raises(PlanRefused, match="62 bits"):
            program_for(plan, trio)


PRESENT = Present(ColumnValue("bmi"))
AGE_THERE = Present(ColumnValue("age"))
AGED_93 = Compare(Comparator.EQUAL, ColumnValue("age"), Number(93, 0))


@pytest.mark.parametrize(
    ("statistics", "where", "allowed"),
    [
        ((SUM_OF_BMI,), None, True),
        ((SUM_OF_BMI,), AGED_93, True),
        ((COUNT, SUM_OF_BMI), None, False),
        ((COUNT, SUM_OF_BMI), AGED_93, False),
        ((COUNT, SUM_OF_BMI), Both(AGED_93, PRESENT), True),
        ((COUNT, SUM_OF_BMI), Either(AGED_93, PRESENT), False),
        ((SUM_OF_BMI, a_statistic(Function.SUM, "age")), PRESENT, False),
        ((SUM_OF_BMI, a_statistic(Function.SUM, "age")), Both(AGE_THERE, PRESENT), True),
        ((SUM_OF_BMI, a_statistic(Function.SUM, "bmi", 1)), PRESENT, False),
    ],
)
def test_the_sum_join_counts_one_number_of_people_whatever_values_are_missing(
    statistics: tuple[Statistic, ...], where: Condition | None, allowed: bool
) -> None:
    """A row without a value is left out by its holder, and the run goes on: failing would say of
    the one person whom a filter selects whether a value is there. So nothing else may be asked that
    counts such a row (tests/unit/test_summed.py has the rest)."""
    both = open_grounds()
    work = a_query(intersection=None, statistics=statistics)
    plan = a_plan(both, join=Join.SUM, helper=None, work=work)
    plan = with_side(with_side(plan, 0, group_by=(), where=where), 1, group_by=())
    found = {(violation.clause, violation.where) for violation in violations(plan, both)}
    assert found == (set() if allowed else {("plan", "join")})


# A limit of one's own


def shown(layout: Layout, rows: SideRows) -> bool:
    nothing = np.zeros((len(rows), layout.factors_b - 1), dtype=np.int64)
    other = replace(rows, factors=nothing)
    return bool(plain_output(layout, rows, other)[-1])


def test_limits_of_the_consumers_choice_would_find_the_largest_value_and_are_refused() -> None:
    values = [200 + 7 * i for i in range(22)] + [LARGEST]
    total = sum(values)
    agreed = Fraction(1, 2)
    both = open_grounds(dominance=agreed)
    program = program_for(of_bmi(both, gate=Gate(6, dominance=agreed)), both)
    rows = people(program, 0, values)

    def holds(value: int) -> bool:
        chosen = Fraction(max(value, 1), total)
        return shown(replace(program.layout, dominance=chosen), rows)

    assert bisected(holds, 1001) == LARGEST

    def clauses(limit: Fraction | None) -> set[str]:
        return {v.clause for v in violations(of_bmi(both, gate=Gate(6, dominance=limit)), both)}

    assert clauses(agreed) == set()
    for value in range(1, 1000, 37):
        assert clauses(Fraction(value, total)) == {"rule.dominance"}
    assert clauses(None) == {"rule.dominance"}


def test_least_groups_of_the_consumers_choice_would_find_a_rounded_count_and_are_refused() -> None:
    values = [200 + 7 * i for i in range(23)]
    both = open_grounds(round_counts=10)

    def plan(least: int) -> Plan:
        return of_bmi(both, gate=Gate(least, round_counts=10))

    program = program_for(plan(6), both)
    rows = people(program, 0, values)
    nothing = replace(rows, factors=np.zeros((23, program.layout.factors_b - 1), dtype=np.int64))

    def suppressed(least: int) -> bool:
        layout = replace(program.layout, min_group=least)
        return not plain_output(layout, rows, nothing)[0]

    assert bisected(suppressed, 1000) - 1 == 23
    # What is left is one threshold of the agreement's, and those that rounding has anyway.
    allowed = [least for least in range(6, 60) if not violations(plan(least), both)]
    assert allowed == [6, 15, 25, 35, 45, 55]
    # Rounded to 20 as well, every count would be known to 5.
    assert violations(of_bmi(both, gate=Gate(6, round_counts=20)), both)


def test_where_sides_agreed_on_different_groups_the_planner_takes_one_that_all_of_them_allow() -> (
    None
):
    first = a_product(CLINIC, name="Clinic", rule=an_open_rule(round_counts=10))
    second = a_product(LAB, name="Lab", rule=an_open_rule(round_counts=4, min_group=30))
    both = grounds(first, second)
    plan = compiled("SELECT COUNT(*) FROM a JOIN b ON a.person = b.person", both)
    assert (plan.query.gate.min_group, plan.query.gate.round_counts) == (50, 20)
    assert violations(plan, both) == ()


def test_a_limit_that_no_rule_asks_for_is_refused() -> None:
    both = open_grounds()
    found = violations(of_bmi(both, gate=Gate(6, dominance=Fraction(1, 2))), both)
    assert {violation.clause for violation in found} == {"rule.dominance"}
