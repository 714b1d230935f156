"""Singling out inside an aggregate: one exact answer about forty people that is about one, or all.

Attacker:        a consumer with one question
Knowledge:       the target's age; for power sums, nothing
Goal:            the target's value; for power sums, every value of a group
Success measure: values read exactly
False alarms:    none: nothing is random

The gate counts people, and the history gate compares who was chosen by WHERE and GROUP BY. What an
aggregate multiplies by zero is still counted, and exact sums of a value's powers say more than a
sum and a variance. So without noise the rule checker refuses both, at the hub and at each node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from exchange.errors import QuestionRefused
from exchange.query.explanation import learns
from exchange.query.plan import Argument, Plan, Statistic
from exchange.query.rules import violations
from registry.expression import (
    Arithmetic,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Expression,
    Number,
    Operation,
    When,
)
from registry.rule import Function
from tests.attacks.clinic import LEAST, TARGET, Holder, Person, a_holder, only
from tests.queries import with_query

AGE, BMI = ColumnValue("age"), ColumnValue("bmi")
IS_93 = Compare(Comparator.EQUAL, AGE, Number(93, 0))
SQUARED = Arithmetic(Operation.MULTIPLY, AGE, AGE)


def asking(holder: Holder, *statistics: Statistic) -> Plan:
    """A plan that no compiler made: whoever signs it may have written one of his own."""
    asked = holder.plan(f"SELECT {', '.join(['COUNT(*)'] * len(statistics))} FROM a")
    changed = with_query(asked, statistics=statistics)
    return replace(changed, learns=learns(changed))


def of(function: Function, *values: Expression) -> Statistic:
    return Statistic(function, tuple(Argument(0, value) for value in values), distinct=False)


def sum_of(value: Expression) -> Statistic:
    return of(Function.SUM, value)


def refused(holder: Holder, plan: Plan) -> bool:
    found = violations(plan, [holder.ground])
    return any("only a plain column is aggregated" in one.problem for one in found)


PICKING: dict[str, tuple[Expression, int]] = {
    "CASE": (Case((When(IS_93, BMI),), Number(0, 0)), round(10 * TARGET[3])),
    "GREATEST": (
        Arithmetic(
            Operation.GREATEST, Arithmetic(Operation.SUBTRACT, AGE, Number(92, 0)), Number(0, 0)
        ),
        TARGET[2] - 92,
    ),
}


@pytest.mark.parametrize("how", PICKING)
def test_a_sum_that_is_zero_for_everybody_else_reads_one_value_and_is_refused(
    tmp_path: Path, how: str
) -> None:
    holder = a_holder(tmp_path)
    expression, hers = PICKING[how]
    plan = asking(holder, sum_of(expression))
    terms = only(holder.unprotected(plan)).terms
    assert hers in terms
    assert max(term or 0 for term in terms[:2]) > LEAST  # counted were all
    assert refused(holder, plan)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT SUM(CASE WHEN a.age = 93 THEN a.bmi ELSE 0 END) FROM a",
        "SELECT SUM(GREATEST(a.age - 92, 0)) FROM a",
        "SELECT SUM(a.age * a.age * a.age) FROM a",
    ],
)
def test_sql_that_says_so_is_refused_while_it_is_written(tmp_path: Path, sql: str) -> None:
    with pytest.raises(QuestionRefused, match="only a plain column is aggregated"):
        a_holder(tmp_path).plan(sql)


SIX: tuple[Person, ...] = tuple(
    (f"p{i}", "f", age, 20.5) for i, age in enumerate((23, 37, 38, 61, 74, 90))
)


def values_with(sums: Sequence[int], people: int) -> list[tuple[int, ...]]:
    """All multisets of ages 0 to 120 with these power sums: two halves that meet in the middle."""
    half = people // 2

    def powers(ages: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sum(age**k for age in ages) for k in range(1, len(sums) + 1))

    known = defaultdict(list)
    ages = [tuple(sorted(ages)) for ages in combinations_with_replacement(range(121), half)]
    for one in ages:
        known[powers(one)].append(one)
    found = set()
    for one in ages:
        rest = tuple(whole - part for whole, part in zip(sums, powers(one), strict=True))
        found |= {tuple(sorted(one + other)) for other in known.get(rest, [])}
    return sorted(found)


def test_four_power_sums_of_six_people_name_all_six_values_and_are_refused(tmp_path: Path) -> None:
    """SUM(x), and what COVAR(x, x*x) and VARIANCE(x*x) are made of. The twin computes them."""
    holder = a_holder(tmp_path, SIX)
    cubes = of(Function.COVARIANCE, AGE, SQUARED)
    fourth_powers = of(Function.VARIANCE, SQUARED)
    plan = asking(holder, sum_of(AGE), sum_of(SQUARED), cubes, fourth_powers)
    assert only(holder.unprotected(plan)).terms[0] == len(SIX)
    # An exact variance and covariance give exact sums: n and the lower sums are known.
    ages = [person[2] for person in SIX]
    sums = [sum(age**k for age in ages) for k in (1, 2, 3, 4)]
    assert values_with(sums, len(ages)) == [tuple(sorted(ages))]
    assert refused(holder, plan)
    for one in (cubes, fourth_powers):
        assert refused(holder, asking(holder, one))


def test_a_sum_and_a_variance_leave_many_groups_possible_and_are_answered(tmp_path: Path) -> None:
    holder = a_holder(tmp_path, SIX)
    plan = asking(holder, sum_of(AGE), of(Function.VARIANCE, AGE))
    holder.answer(plan)
    ages = [person[2] for person in SIX]
    assert len(values_with([sum(age**k for age in ages) for k in (1, 2)], len(ages))) > 1000
