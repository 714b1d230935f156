"""A plan is shown as the SQL that it is, whoever wrote it, and its texts cannot pose as more."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from crypto.joins.layout import Order
from exchange.errors import PlanRefused
from exchange.query.adapters.sqlglot_reader import SqlglotReader
from exchange.query.plan import CrossCondition, GroupBy, Plan, Statistic
from exchange.query.question import grounds_of
from exchange.query.released import Output, Released
from exchange.query.rendering import render
from exchange.query.sql import Select
from registry.expression import ColumnValue, Comparator, Compare, Either, Not, Number, Present, Text
from registry.rule import Function
from tests.queries import (
    CLINIC,
    LAB,
    a_plan,
    a_product,
    a_statistic,
    an_open_rule,
    compiled,
    footings,
    grounds,
    open_grounds,
    with_query,
    with_side,
)

BOTH = open_grounds()
PRODUCTS = [ground.product for ground in BOTH]
JOIN = "FROM a JOIN b ON a.person = b.person"


def shown(plan: Plan) -> str:
    return render(plan, PRODUCTS[: len(plan.sides)])


def reread(text: str) -> Select:
    return SqlglotReader().read(text)


def test_a_plan_reads_like_a_question() -> None:
    plan = compiled(
        f"select a.sex, bands(b.age, 18, 65), avg(b.bmi) {JOIN} "
        "where b.bmi > 20.5 and (a.town = 'o''hare' or a.age is null) and a.age <> b.age "
        "group by 1, 2 having count(*) >= 20",
        BOTH,
    )
    assert shown(plan) == (
        "SELECT\n"
        "  a.sex,\n"
        "  BANDS(b.age, 18, 65),\n"
        "  AVG(b.bmi) AS avg_bmi\n"
        "FROM clinic AS a\n"
        "JOIN lab_blood AS b ON a.person = b.person\n"
        "WHERE (a.town = 'o''hare' OR a.age IS NULL)\n"
        "  AND b.bmi > 20.5\n"
        "  AND a.age <> b.age\n"
        "GROUP BY 1, 2\n"
        "HAVING COUNT(*) >= 20\n"
    )


def test_a_plan_by_hand_is_shown_as_what_it_does() -> None:
    plan = with_side(a_plan(BOTH), 0, group_by=(GroupBy("sex", categories=("m",)),))
    plan = with_side(plan, 1, where=Not(Present(ColumnValue("town"))))
    plan = with_query(
        plan,
        comparisons=(CrossCondition(ColumnValue("age"), Order.UNEQUAL, ColumnValue("age")),),
        statistics=(
            a_statistic(Function.SUM, "bmi", 1),
            Statistic(
                Function.QUANTILE,
                a_statistic(Function.SUM, "bmi", 1).arguments,
                distinct=False,
                quantile=Fraction(1, 3),
                cuts=(0, 7, 1000),
            ),
        ),
        outputs=(Output("s", Released(0, 0)), Output("q", Released(1, 0))),
    )
    assert shown(plan) == (
        "SELECT\n"
        "  CASE WHEN a.sex = 'm' THEN 'm' END AS sex,\n"
        "  BANDS(b.age, 18, 65),\n"
        "  SUM(b.bmi) AS s,\n"
        "  QUANTILE_CUTS(b.bmi, 1 / 3, 0.0, 0.7, 100.0) AS q\n"
        "FROM clinic AS a\n"
        "JOIN lab_blood AS b ON a.person = b.person\n"
        "WHERE b.town IS NULL\n"
        "  AND a.age <> b.age\n"
        "GROUP BY 1, 2\n"
    )


def test_conditions_of_the_right_table_of_a_left_join_stand_in_on() -> None:
    plan = compiled(
        "SELECT COUNT(b.person) AS n FROM a LEFT JOIN b ON a.person = b.person AND b.age > 3", BOTH
    )
    assert "LEFT JOIN lab_blood AS b ON a.person = b.person\n  AND b.age > 3\n" in shown(plan)
    assert "COUNT(b.person) AS n" in shown(plan)


HOSTILE = [
    "'; DROP TABLE x; --",
    "x' OR 'a' = 'a",
    "x\nWHERE 1 = 1",
    "x\r  ",
    "\x1b[2Jgone",
    "a\u202eb",
    "\\",
    "back\\slash\n",
    '"',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_plan_can_look_like_anything_but_text(text: str) -> None:
    """A line of its own, a closed quote, an escape of the terminal, an order turned round."""
    where = Compare(Comparator.EQUAL, ColumnValue("town"), Text(text))
    group = GroupBy(f"x{text}", cases=(where,), labels=(text,))
    plan = with_side(with_side(a_plan(BOTH), 0, where=where), 1, group_by=(group,))
    lines = shown(plan).splitlines()
    assert len(lines) == len(shown(a_plan(BOTH)).splitlines()) + 1
    assert all(line.isprintable() for line in lines)
    if text.isprintable():
        # What is read back is the very text, once in WHERE and twice in the group.
        assert shown(plan).count("'" + text.replace("'", "''") + "'") == 3
        reread(shown(plan))


def test_letters_that_only_look_escaped_are_kept_apart_from_those_that_are() -> None:
    one = with_side(
        a_plan(BOTH), 0, where=Compare(Comparator.EQUAL, ColumnValue("town"), Text("\n"))
    )
    two = with_side(
        a_plan(BOTH), 0, where=Compare(Comparator.EQUAL, ColumnValue("town"), Text("\\+00000A"))
    )
    assert "U&'\\+00000A'" in shown(one)
    assert "= '\\+00000A'" in shown(two)


@pytest.mark.parametrize(
    "name", ["select", "group", "from", "Upper", "two words", "count", "case", "人数", 'a"b', "9"]
)
def test_a_name_of_an_output_is_read_back_as_it_was(name: str) -> None:
    plan = with_query(a_plan(BOTH), outputs=(Output(name, Released(0, 0)),))
    assert reread(shown(plan)).items[-1].alias == name


def test_products_of_one_name_are_shown_by_their_ids() -> None:
    both = grounds(
        a_product(CLINIC, name="Rows", rule=an_open_rule()),
        a_product(LAB, name="rows", rule=an_open_rule()),
    )
    text = render(a_plan(both), [ground.product for ground in both])
    assert f"FROM {both[0].product.id} AS a" in text
    assert f"JOIN {both[1].product.id} AS b" in text


def test_a_product_called_like_a_word_of_sql_is_quoted() -> None:
    both = grounds(
        a_product(CLINIC, name="Select", rule=an_open_rule()),
        a_product(LAB, name="2026 rows", rule=an_open_rule()),
    )
    text = render(a_plan(both), [ground.product for ground in both])
    assert 'FROM "select" AS a' in text
    assert 'JOIN "2026_rows" AS b' in text
    plan = compiled(f"SELECT COUNT(*) {JOIN}", both)
    again = compiled(render(plan, [ground.product for ground in both]), both, tables={})
    assert [side.holder for side in again.sides] == [CLINIC, LAB]


NEARLY: list[tuple[str, str]] = [
    (
        f"SELECT COUNT(*) AS n {JOIN} WHERE a.age < 3",
        f"SELECT COUNT(*) AS n {JOIN} WHERE a.age <= 3",
    ),
    (
        f"SELECT COUNT(*) AS n {JOIN} WHERE a.age < 3",
        f"SELECT COUNT(*) AS n {JOIN} WHERE b.age < 3",
    ),
    (f"SELECT SUM(a.age) AS n {JOIN}", f"SELECT AVG(a.age) AS n {JOIN}"),
    (f"SELECT SUM(a.age * 2) AS n {JOIN}", f"SELECT SUM(a.age * 2.0) AS n {JOIN}"),
    (f"SELECT COUNT(*) AS n {JOIN}", f"SELECT COUNT(DISTINCT a.person) AS n {JOIN}"),
    (
        f"SELECT COUNT(*) AS n {JOIN} WHERE a.age < 3 OR a.age > 5 AND a.bmi > 2",
        f"SELECT COUNT(*) AS n {JOIN} WHERE (a.age < 3 OR a.age > 5) AND a.bmi > 2",
    ),
    (
        f"SELECT COUNT(*) AS n {JOIN} WHERE NOT (a.age < 3 AND a.bmi > 2)",
        f"SELECT COUNT(*) AS n {JOIN} WHERE NOT a.age < 3 AND a.bmi > 2",
    ),
    (f"SELECT SUM(a.age - (a.bmi - 1)) AS n {JOIN}", f"SELECT SUM(a.age - a.bmi - 1) AS n {JOIN}"),
    (f"SELECT COUNT(*) AS n {JOIN} GROUP BY a.sex", f"SELECT COUNT(*) AS n {JOIN} GROUP BY b.sex"),
    (f"SELECT COUNT(*) AS n {JOIN}", "SELECT COUNT(*) AS n FROM a LEFT JOIN b USING (person)"),
    (f"SELECT COUNT(*) AS n {JOIN}", "SELECT COUNT(*) AS n FROM b JOIN a USING (person)"),
]


@pytest.mark.parametrize(("one", "other"), NEARLY)
def test_plans_that_differ_are_shown_differently(one: str, other: str) -> None:
    def text(sql: str) -> str:
        plan = compiled(sql, BOTH, epsilon=Fraction(1))
        return render(plan, [ground.product for ground in grounds_of(plan, footings(*BOTH))])

    assert text(one) != text(other)


def test_a_plan_that_the_products_do_not_fit_is_refused_rather_than_shown() -> None:
    wrong = with_side(a_plan(BOTH), 0, group_by=(GroupBy("colour", categories=("red",)),))
    with pytest.raises(PlanRefused):
        shown(wrong)


def test_numbers_keep_the_decimals_they_are_computed_with() -> None:
    where = Either(
        Compare(Comparator.LESS, ColumnValue("bmi"), Number(-205, 1)),
        Compare(Comparator.EQUAL, ColumnValue("bmi"), Number(5, 3)),
    )
    text = shown(with_side(a_plan(BOTH), 0, where=where))
    assert "a.bmi < (-20.5) OR a.bmi = 0.005" in text
    again = compiled(text.replace("AVG", "SUM"), BOTH)
    assert again.sides[0].where == where
    assert replace(again.sides[0], where=None).groups == 2
