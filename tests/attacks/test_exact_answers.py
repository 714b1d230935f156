"""Exact answers: one question, or a few, each about forty people, that together are about one.

Attacker:        a consumer who signs plans of its own, and in one case holds one of the tables
Knowledge:       the target's age, or that only she lacks a value
Goal:            her income
Success measure: it is among the numbers shown, or among their differences
False alarms:    none: nothing is random

Each attack works on a twin that gates groups and checks nothing else; the product refuses it by its
rules, or at the node of the holder whose rows tell. What is refused can be asked with noise.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from crypto.joins.layout import Order
from exchange.errors import ExactRefused
from exchange.node.exactly import (
    Asked,
    agreed_least,
    require_answerable,
    require_one_company,
    require_same_rows,
)
from exchange.node.history import MAX_REFUSALS
from exchange.query.exact import OWN_ROWS, companies
from exchange.query.explanation import learns
from exchange.query.plan import CrossCondition, Receiver
from exchange.query.program import program_of
from exchange.query.rules import violations
from registry.expression import (
    Arithmetic,
    Case,
    ColumnValue,
    Expression,
    Number,
    Operation,
    Present,
    When,
)
from registry.product import Column, ColumnType
from registry.rule import Function, Join, Use
from tests.attacks.cohort import (
    INCOME,
    LEAST,
    ON,
    Cohort,
    a_cohort,
    crowd,
    differences,
    numbers,
    of,
    person,
    target,
)
from tests.queries import (
    CLINIC,
    DOCUMENTS,
    LAB,
    a_product,
    an_open_rule,
    compiled,
    grounds,
    open_grounds,
    three_grounds,
    with_query,
)

ALL = "SELECT SUM(a.income) FROM a"
JOINED = f"SELECT SUM(a.income) {ON}"
INCOMES, AGE, FLAG, Y = (ColumnValue(name) for name in ("income", "age", "flag", "y"))
BIG = 10**7


def times(left: Expression, right: Expression) -> Expression:
    return Arithmetic(Operation.MULTIPLY, left, right)


def less(left: Expression, right: Expression) -> Expression:
    return Arithmetic(Operation.SUBTRACT, left, right)


def together(missing: str | None = None) -> Cohort:
    """Both tables hold everybody; the target lacks one value."""
    rows = [*crowd(), target(**({} if missing is None else {missing: None}))]
    return a_cohort(rows)


# One aggregate

OFF_93 = less(AGE, Number(93, 0))
INSIDE: dict[str, tuple[Function, Expression, str | None]] = {
    "a CASE on who has a value": (
        Function.SUM,
        Case((When(Present(Y), Number(0, 0)),), INCOMES),
        "y",
    ),
    "a product with a mark": (Function.SUM, times(FLAG, INCOMES), None),
    "a covariance with a mark": (Function.SUM, times(INCOMES, FLAG), None),
    "the largest of what is 0 for her alone": (
        Function.MAX,
        less(INCOMES, times(Number(BIG, 0), times(OFF_93, OFF_93))),
        None,
    ),
}


@pytest.mark.parametrize("how", INSIDE)
def test_what_is_calculated_inside_an_aggregate_reads_one_income_and_is_refused(how: str) -> None:
    function, value, missing = INSIDE[how]
    cohort = together(missing)
    plan = cohort.by_hand(JOINED, of(function, value))
    assert INCOME in numbers(cohort.twin(plan))
    assert "ask with noise" in (cohort.refusal(plan) or "")


def test_the_largest_of_two_packed_columns_is_one_persons_record_and_is_refused() -> None:
    cohort = together()
    packed = Arithmetic(Operation.ADD, times(AGE, Number(BIG, 0)), INCOMES)
    plan = cohort.by_hand(JOINED, of(Function.MAX, packed))
    assert 93 * BIG + INCOME in numbers(cohort.twin(plan))
    assert "ask with noise" in (cohort.refusal(plan) or "")


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT SUM(a.income * b.flag) {ON}",
        f"SELECT COVAR_SAMP(a.income, b.flag) {ON}",
        f"SELECT COVAR_SAMP(a.income, a.flag) {ON}",
    ],
)
def test_a_column_that_marks_one_person_is_refused_by_the_holder_who_sees_it(sql: str) -> None:
    """The sum of products is her income, whatever the function is called."""
    cohort = together()
    plan = cohort.plan(sql)
    if "SUM" in sql:
        assert INCOME in numbers(cohort.twin(plan))
    assert "fewer than 6 people" in (cohort.refusal(plan) or "")


def test_how_many_a_mark_marks_is_not_shown_when_it_is_one() -> None:
    cohort = together()
    plan = cohort.plan("SELECT SUM(a.flag) FROM a")
    assert 1 in numbers(cohort.twin(plan))
    assert "fewer than 6 people" in (cohort.refusal(plan) or "")
    six = a_cohort([*crowd(), *(person(f"t{n}", flag=1) for n in range(LEAST))])
    assert six.refusal(six.plan("SELECT SUM(a.flag) FROM a")) is None


def test_two_columns_that_one_person_has_both_of_are_not_multiplied() -> None:
    """Ten have an income, ten others the flag: the sum of the products is hers, and the moved one
    that is released gives it, for the receiver knows by how much each was moved."""
    rows = [person(f"p{n:02d}", income=0, flag=1 if 10 <= n < 20 else 0) for n in range(40)]
    for n in range(10):
        rows[n]["income"] = ("1", 5000 + n)
    cohort = a_cohort([*rows, target()])
    plan = cohort.plan(f"SELECT COVAR_POP(a.income, a.flag) {ON}")
    ((_, people, incomes, flags, both),) = (cell.terms for cell in cohort.twin(plan))
    assert None not in (people, incomes, flags, both)
    middle_income, middle_flag = 500_000, 50
    known = both + middle_flag * incomes + middle_income * flags  # type: ignore[operator]
    assert known + middle_income * middle_flag * people == INCOME  # type: ignore[operator]
    assert "fewer than 6 people" in (cohort.refusal(plan) or "")
    apart = cohort.plan(f"SELECT AVG(a.income), AVG(a.flag) {ON}")
    assert cohort.refusal(apart) is None


def test_a_square_of_two_values_and_one_more_is_not_summed() -> None:
    """All but the target have 0 or 5000, so SUM(x * x) - 5000 * SUM(x) is of her alone."""
    rows = [person(f"p{n:02d}", income=5000 * (n % 2), y=n) for n in range(40)]
    cohort = a_cohort([*rows, target()])
    plan = cohort.plan(f"SELECT COUNT(*), VAR_POP(a.income) {ON} WHERE a.income IS NOT NULL")
    middle, found = 500_000, numbers(cohort.twin(plan))
    people, moved, squares = min(n for n in found if n > 0), min(found), max(found)
    total = moved + people * middle
    squares += 2 * middle * moved + people * middle**2
    assert squares - 5000 * total == INCOME * (INCOME - 5000)
    for spread in ("VAR_POP(a.income)", "CORR(a.income, b.y)", "REGR_SLOPE(a.y, a.income)"):
        asked = cohort.plan(f"SELECT {spread} {ON}")
        assert "fewer than 6 people" in (cohort.refusal(asked) or "")


def test_half_of_a_small_group_are_not_hidden_by_the_other_half() -> None:
    rows = [person(f"p{n}", income=1000 + n, flag=1 if n < 3 else 0) for n in range(LEAST)]
    cohort = a_cohort(rows)
    plan = cohort.plan(f"SELECT SUM(a.income * b.flag) {ON}")
    assert 1000 + 1001 + 1002 in numbers(cohort.twin(plan))
    assert "fewer than 6 people" in (cohort.refusal(plan) or "")


def test_the_largest_of_those_who_have_nothing_and_one_more_is_refused() -> None:
    rows = [person(f"p{n:02d}", age=n % 18, income=0) for n in range(20)]
    cohort = a_cohort([*rows, target()])
    plan = cohort.plan(f"SELECT MAX(a.income) {ON} WHERE a.age < 18 OR a.age = 93")
    assert INCOME in numbers(cohort.twin(plan))
    assert "fewer than 6 people" in (cohort.refusal(plan) or "")


# Rows chosen by what is aggregated


@pytest.mark.parametrize(
    ("sql", "known"),
    [
        ("SELECT SUM(a.income) FROM a WHERE a.income = 0 OR a.income = 900000 OR a.age = 93", 0),
        (f"SELECT SUM(a.income) {ON} WHERE a.income IN (0, 900000) OR a.age = 93", 0),
        (f"SELECT MAX(a.income) {ON} WHERE a.income <= 10 OR a.age = 93", 0),
        (
            "SELECT SUM(a.income) FROM a "
            "GROUP BY CASE WHEN a.age = 93 OR a.income <= 0 THEN 'x' ELSE 'y' END",
            0,
        ),
        ("SELECT SUM(a.income) FROM a GROUP BY BANDS(a.income, 100, 500000)", None),
        (f"SELECT SUM(a.income) {ON} WHERE a.income > b.y", None),
        (f"SELECT CORR(a.income, a.age) {ON} WHERE a.age = 93 OR a.age = 40", None),
        (f"SELECT SUM(b.y) {ON} WHERE b.y = 1 OR b.age = 93", None),
    ],
)
def test_whoever_chooses_the_others_by_what_is_summed_knows_them(
    sql: str, known: int | None
) -> None:
    """Half have nothing, half 900,000: whatever is left beside a multiple of that is hers."""
    rows = [person(f"p{n:02d}", age=20 + n, income=(0, 900_000)[n % 2], y=n % 3) for n in range(40)]
    cohort = a_cohort([*rows, target()])
    plan = cohort.plan(sql)
    if known is not None:
        assert INCOME in {shown % 900_000 for shown in numbers(cohort.twin(plan))}
    assert "also chooses rows by its value" in (cohort.refusal(plan) or "")


def test_a_range_of_what_is_summed_is_a_range_of_hers() -> None:
    cohort = together()
    plan = cohort.plan(
        "SELECT COUNT(*), SUM(a.income) FROM a WHERE a.income BETWEEN 1000 AND 1039 OR a.age = 93"
    )
    people, *_, total = numbers(cohort.twin(plan))
    assert total - (people - 1) * 1039 <= INCOME <= total - (people - 1) * 1000
    assert "income is aggregated and also chooses rows" in (cohort.refusal(plan) or "")
    there = cohort.plan("SELECT SUM(a.income) FROM a WHERE a.income IS NOT NULL AND a.age < 94")
    assert cohort.refusal(there) is None


# One answer of several aggregates


@pytest.mark.parametrize("beside", ["COVAR_SAMP(a.income, b.y)", "AVG(a.income * b.y)"])
def test_a_sum_beside_one_of_those_whom_the_other_holder_knows_more_of_is_refused(
    beside: str,
) -> None:
    """At the second holder only the target has no y; the first holder cannot know."""
    cohort = a_cohort([*crowd(), target()], [*crowd(), target(y=None)])
    plan = cohort.plan(f"SELECT SUM(a.income), {beside} {ON}")
    assert "income is summed for different people" in (cohort.refusal(plan) or "")
    alike = cohort.plan(f"SELECT SUM(a.income), {beside} {ON} WHERE b.y IS NOT NULL")
    assert cohort.refusal(alike) is None


def test_such_a_sum_of_ones_gives_the_income_of_whoever_has_no_value() -> None:
    cohort = a_cohort([*crowd(), target()], [*crowd(), target(y=None)])
    there = Case((When(Present(Y), Number(1, 0)),), None)
    plan = cohort.by_hand(JOINED, of(Function.SUM, INCOMES), of(Function.SUM, INCOMES, there))
    assert INCOME in differences(cohort.twin(plan))
    assert cohort.refusal(plan) is not None


def test_a_left_join_shows_no_sum_of_all_beside_one_of_the_matched() -> None:
    cohort = a_cohort([*crowd(), target()], crowd())
    left = "SELECT SUM(a.income) FROM a LEFT JOIN b ON a.person = b.person"
    plan = cohort.by_hand(left, of(Function.SUM, INCOMES), of(Function.SUM, INCOMES, Number(1, 0)))
    assert INCOME in differences(cohort.twin(plan))
    assert cohort.refusal(plan) is not None
    pair = cohort.plan(left.replace("SUM(a.income)", "SUM(a.income), SUM(a.income * b.y)"))
    assert "income is summed for different people" in (cohort.refusal(pair) or "")
    apart = cohort.plan(left.replace("SUM(a.income)", "SUM(a.income), AVG(b.y)"))
    assert cohort.refusal(apart) is None


def test_four_sums_of_those_with_and_without_values_are_about_one_and_are_refused() -> None:
    """All, those with y, those with z, those with both: no two differ by few."""
    rows = crowd(60)
    for row in rows[:20]:
        row["y"] = ("", None)
    for row in rows[20:40]:
        row["z"] = ("", None)
    cohort = a_cohort([*rows, target(y=None, z=None)])

    def with_values(*columns: str) -> Expression:
        found: Expression = INCOMES
        for column in columns:
            nothing = times(ColumnValue(column), Number(0, 0))
            found = Arithmetic(Operation.ADD, found, nothing)
        return found

    sums = [of(Function.SUM, with_values(*names)) for names in ((), ("y",), ("z",), ("y", "z"))]
    plan = cohort.by_hand(ALL, *sums)
    every, y, z, both = (n for n in numbers(cohort.twin(plan)) if n > 10_000)
    assert every - y - z + both == INCOME
    assert cohort.refusal(plan) is not None
    named = cohort.plan("SELECT AVG(a.income), CORR(a.income, a.y), CORR(a.income, a.z) FROM a")
    assert "income is summed for different people" in (cohort.refusal(named) or "")


MARKS = "a.income IS NOT NULL AND b.y IS NOT NULL AND b.z IS NOT NULL"


def two_marks() -> Cohort:
    """Everybody has one of two marks, but the target neither."""
    rows = [person(f"p{n:02d}", income=1000 + 37 * n, y=n % 2, z=1 - n % 2) for n in range(40)]
    return a_cohort([*rows, target(y=0, z=0)])


@pytest.mark.parametrize(
    ("sql", "column"),
    [
        ("SUM(a.income), SUM(a.income * b.y), SUM(a.income * b.z)", "income"),
        ("COVAR_SAMP(a.income, b.y), COVAR_SAMP(a.income, b.z)", "income"),
        ("LINEAR_REGRESSION(a.income, b.y, b.z)", "income"),
    ],
)
def test_what_two_marks_leave_of_a_column_is_one_persons_and_is_refused(
    sql: str, column: str
) -> None:
    cohort = two_marks()
    plan = cohort.plan(f"SELECT {sql} {ON} WHERE {MARKS}")
    if sql.startswith("SUM"):
        every, one, other = (n for n in numbers(cohort.twin(plan)) if n > 1000)
        assert every - one - other == INCOME
    assert f"{column} is multiplied with more than one" in (cohort.refusal(plan) or "")


# Several answers


def then(cohort: Cohort, *asked: str) -> tuple[set[int], str | None]:
    """What the twin's answers differ by, and why the product refuses the last."""
    plans = [cohort.plan(sql) for sql in asked]
    shown = differences(*(cohort.twin(plan) for plan in plans))
    for plan in plans[:-1]:
        assert cohort.refusal(plan) is None
    return shown, cohort.refusal(plans[-1])


def test_a_comparison_across_tables_is_not_asked_beside_an_answer_without_it() -> None:
    """No holder can count whom it leaves out; and it may be with a constant."""
    rows = [*crowd(), target(y=99)]
    cohort = a_cohort(rows, [*crowd(), target(z=98)])
    _, refusal = then(cohort, JOINED, f"{JOINED} WHERE a.y <= b.z")
    assert refusal is not None and "compares" in refusal
    other = a_cohort(rows, rows)
    _, refusal = then(other, f"{JOINED} WHERE a.y <= b.z", JOINED)
    assert refusal is not None and "compares" in refusal
    constant = with_query(
        other.plan(JOINED), comparisons=(CrossCondition(AGE, Order.UNEQUAL, Number(93, 0)),)
    )
    constant = replace(constant, learns=learns(constant))
    everybody = other.twin(other.plan(JOINED))
    assert INCOME in differences(everybody, other.twin(constant))
    assert "plain columns are compared" in (other.refusal(constant) or "")


def test_a_table_alone_and_joined_are_not_both_summed() -> None:
    cohort = a_cohort([*crowd(), target()], crowd())
    shown, refusal = then(cohort, ALL, JOINED)
    assert INCOME in shown
    assert refusal is not None and "income for others" in refusal


def test_two_marks_are_not_multiplied_one_after_the_other() -> None:
    cohort = two_marks()
    asked = [
        f"SELECT SUM({what}) {ON} WHERE {MARKS}"
        for what in ("a.income", "a.income * b.y", "a.income * b.z")
    ]
    shown = [cohort.twin(cohort.plan(sql)) for sql in asked]
    every, one, other = (max(numbers(cells)) for cells in shown)
    assert every - one - other == INCOME
    _, refusal = then(cohort, *asked)
    assert refusal is not None and "multiplies income with another column" in refusal
    turned = cohort.plan(f"SELECT COVAR_SAMP(b.y, a.income) {ON} WHERE {MARKS}")
    assert cohort.refusal(turned) is None  # the same two


def test_two_partners_are_not_both_joined_for_one_column() -> None:
    """The target is with one of them and not with the other."""
    clinic, lab, pharmacy = three_grounds()
    one = compiled("SELECT SUM(a.bmi) FROM a JOIN b ON a.person = b.person", [clinic, lab])
    two = compiled("SELECT SUM(a.bmi) FROM a JOIN b ON a.person = b.person", [clinic, pharmacy])
    first = Asked(one, [clinic.product, lab.product], 0)
    second = Asked(two, [clinic.product, pharmacy.product], 0)
    require_one_company(first, [first])
    with pytest.raises(ExactRefused, match="bmi for others"):
        require_one_company(second, [first])


def test_a_union_is_refused_where_one_holder_has_few_and_beside_a_table_alone() -> None:
    united = "(SELECT sex, income FROM a UNION ALL SELECT sex, income FROM b) u"
    few = a_cohort(crowd(), [person("x", income=INCOME)])
    shown, refusal = then(few, ALL, f"SELECT SUM(income) FROM {united}")
    assert INCOME in shown
    assert refusal is not None
    fresh = a_cohort(crowd(), [person("x", income=INCOME)])
    plan = fresh.plan(f"SELECT SUM(income) FROM {united}")
    assert "fewer than 6 people" in (fresh.refusal(plan) or "")
    enough = a_cohort(crowd(), [person(f"x{n}", income=n) for n in range(LEAST)])
    assert enough.refusal(enough.plan(f"SELECT SUM(income) FROM {united}")) is None


def test_groups_of_one_job_and_values_of_another_are_not_combined() -> None:
    """By sex and age; then, of those with a y, by sex. Only the target, old and f, has none of
    her group; twelve of the other sex have none either."""
    rows = [
        person(f"p{n:02d}", age=(30, 50)[n % 2], sex="fm"[n // 2 % 2], income=1000 + n, y=n % 9)
        for n in range(60)
    ]
    for row in [row for row in rows if row["sex"][1] == "m"][:12]:
        row["y"] = ("", None)
    cohort = a_cohort([*rows, target(age=50, y=None)])
    by_both = "SELECT a.sex, SUM(a.income) FROM a GROUP BY a.sex, BANDS(a.age, 40)"
    women = "SELECT SUM(a.income), SUM(a.y) FROM a WHERE a.y IS NOT NULL GROUP BY a.sex"
    _, refusal = then(cohort, by_both, women)
    assert refusal is not None and "fewer than 6 people" in refusal
    other = a_cohort([*rows, target(age=50, y=None)])
    _, refusal = then(other, by_both, "SELECT a.sex, CORR(a.income, a.y) FROM a GROUP BY a.sex")
    assert refusal is not None and "income for others" in refusal


def test_those_without_a_value_do_not_hide_whom_a_filter_leaves_out() -> None:
    """Six are left out, and five of them have no income."""
    old = [person(f"o{n}", age=93, income=None) for n in range(LEAST - 1)]
    shown, refusal = then(a_cohort([*crowd(), *old, target()]), ALL, f"{ALL} WHERE a.age <> 93")
    assert INCOME in shown
    assert refusal is not None and "fewer than 6 people" in refusal


def test_those_without_a_value_do_not_hide_whose_value_is_no_longer_the_largest() -> None:
    old = [person(f"o{n}", age=93, income=None) for n in range(LEAST - 1)]
    cohort = a_cohort([*crowd(), *old, target()])
    largest = f"SELECT MAX(a.income) {ON}"
    plans = cohort.plan(largest), cohort.plan(f"{largest} WHERE a.age <> 93")
    every, younger = (numbers(cohort.twin(plan)) for plan in plans)
    assert INCOME in every
    assert INCOME not in younger
    assert cohort.refusal(plans[0]) is None
    assert "fewer than 6 people" in (cohort.refusal(plans[1]) or "")


ROWS = (
    Column("person", ColumnType.TEXT, "person"),
    Column("amount", ColumnType.INTEGER, "amount", low=0, high=10**6),
    Column("day", ColumnType.INTEGER, "day", low=0, high=400),
)


def test_of_several_rows_of_a_person_one_cannot_be_left_out_afterwards() -> None:
    """Everybody keeps another row, so that all jobs count the same people."""
    uses = {"person": (Use.JOIN_KEY,), "amount": (Use.AGGREGATE,), "day": (Use.FILTER,)}
    rule = an_open_rule(uses=uses)
    both = grounds(
        a_product(CLINIC, columns=ROWS, rule=rule, rows_per_person=5),
        a_product(LAB, columns=ROWS, rule=rule, rows_per_person=5),
    )
    rows = [
        {"person": (f"p{n}", f"p{n}"), "amount": ("1", 100 + n), "day": ("1", day)}
        for n in range(30)
        for day in (1, 2)
    ]
    rows.append({"person": ("p7", "p7"), "amount": ("1", INCOME), "day": ("93", 93)})
    cohort = Cohort(both, (rows, rows))
    shown, refusal = then(
        cohort, "SELECT SUM(a.amount) FROM a", "SELECT SUM(a.amount) FROM a WHERE a.day <> 93"
    )
    assert INCOME in shown
    assert refusal is not None and "filters rows otherwise" in refusal


def test_the_same_question_before_and_after_a_row_came_is_answered_once() -> None:
    before, after = a_cohort(crowd()), a_cohort([*crowd(), target()])
    plans = before.plan(ALL), after.plan(ALL)
    assert INCOME in differences(before.twin(plans[0]), after.twin(plans[1]))
    asked = Asked(plans[0], [before.judged[0].product], 0)
    require_same_rows(asked, [asked], before="rows", now="rows")
    require_same_rows(asked, [], before="rows", now="others")  # nobody has an answer yet
    with pytest.raises(ExactRefused, match="other rows"):
        require_same_rows(asked, [asked], before="rows", now="others")
    newer = Asked(
        replace(plans[0], sides=(replace(plans[0].sides[0], product=DOCUMENTS[LAB]),)),
        asked.known,
        0,
    )
    require_same_rows(newer, [asked], before=None, now="others")  # a version that says so


def test_squares_of_several_rows_need_noise() -> None:
    """A person's sums do not say which of the rows have neither of two values, nor, where one row
    has the income and another the y, that none has both."""
    several = [replace(ground.product, rows_per_person=5) for ground in together().judged]
    apart = [person("target", income=None, y=9), person("target", income=INCOME, y=None)]
    cohort = Cohort(grounds(*several), ([*crowd(), *apart], crowd()))
    for sql in ("VARIANCE(a.income)", "COVAR_SAMP(a.income, a.y)", "CORR(a.income, b.y)"):
        refusal = cohort.refusal(cohort.plan(f"SELECT {sql} {ON}"))
        assert refusal is not None and "several rows for a person" in refusal
    assert cohort.refusal(cohort.plan(f"SELECT AVG(a.income) {ON}")) is None


# Refusals are answers


def test_a_refusal_says_one_bit_and_the_fourth_is_given_without_looking() -> None:
    """Whether the target's flag is 1, asked by whom a filter leaves out."""
    said = []
    for flag in (0, 1):
        cohort = a_cohort([*crowd(), target(flag=flag)])
        asked = "SELECT COUNT(*) FROM a WHERE NOT (a.age = 93 AND a.flag = 1)"
        said.append(then(cohort, "SELECT COUNT(*) FROM a", asked)[1])
    assert said[0] is None and said[1] is not None  # published: a refusal tells this much
    for times_refused in range(MAX_REFUSALS):
        require_answerable(times_refused)
    with pytest.raises(ExactRefused):
        require_answerable(MAX_REFUSALS)


def test_how_large_a_difference_is_cannot_be_found_by_asking_for_larger_groups() -> None:
    (clinic, _) = open_grounds()
    terms = replace(clinic.agreement.terms, min_group=9)
    assert agreed_least(terms, clinic.product) == 9  # whatever the plan's own gate says
    assert agreed_least(replace(terms, min_group=2), clinic.product) == 5


# The consumer holds a table


def test_a_consumer_that_is_also_a_holder_marks_the_target_in_its_own_table() -> None:
    """And lists enough marked people whom the other table does not have."""
    decoys = [person(f"d{n}", flag=1) for n in range(LEAST)]
    cohort = a_cohort([*crowd(), target()], [*crowd(), target(), *decoys])
    plan = cohort.plan(f"SELECT SUM(a.income * b.flag) {ON}")
    assert INCOME in numbers(cohort.twin(plan))
    mine = replace(
        plan,
        consumer=LAB,
        consumer_document=DOCUMENTS[LAB],
        receivers=(Receiver(LAB, DOCUMENTS[LAB]),),
    )
    judged = [
        replace(ground, agreement=replace(ground.agreement, consumer=LAB))
        for ground in cohort.judged
    ]
    for forged in (mine, with_query(mine, statistics=(of(Function.SUM, INCOMES),))):
        asked = replace(forged, learns=learns(forged))
        assert any(OWN_ROWS in str(one) for one in violations(asked, judged))


# Clauses that arithmetic went around


def test_a_rule_that_forbids_variances_lets_none_out_with_a_covariance() -> None:
    cohort = a_cohort([*crowd(), target()], functions=(Function.COUNT, Function.COVARIANCE))
    plan = cohort.plan(f"SELECT COVAR_SAMP(a.y, a.z) {ON}")
    moved = [int(row["y"][1] or 0) - 50 for row in cohort.rows[0]]
    assert sum(moved) in numbers(cohort.twin(plan))
    assert sum(y * y for y in moved) not in numbers(cohort.twin(plan))
    assert cohort.refusal(plan) is None


def test_a_rounded_count_is_not_had_exactly_from_sums() -> None:
    """The sum of x beside that of x - 50 of the people, as a variance has it, or of a constant."""
    cohort = a_cohort(crowd(43), round_counts=10)
    for value in (Number(1, 0), Arithmetic(Operation.ADD, Y, Number(1, 0))):
        plan = cohort.by_hand(ALL, of(Function.SUM, Y), of(Function.SUM, value))
        assert 43 in numbers(cohort.twin(plan)) or 43 in differences(cohort.twin(plan))
        assert cohort.refusal(plan) is not None
    both = cohort.plan("SELECT SUM(a.y), VARIANCE(a.y) FROM a WHERE a.y IS NOT NULL")
    program = program_of(both, [cohort.judged[0].product])
    assert all(centre == 0 for reading in program.readings for centre in reading.centres)
    assert 43 not in differences(cohort.twin(both))
    assert cohort.refusal(both) is None


def test_whoever_dominates_a_sum_is_not_hidden_by_what_is_added_to_it() -> None:
    rows = [*(person(f"p{n}", income=10 + n, y=n % 7) for n in range(20)), target(income=900_000)]
    cohort = a_cohort(rows, dominance=Fraction(1, 2))
    plain = cohort.plan(JOINED)
    assert 900_390 not in numbers(cohort.twin(plain))
    assert cohort.refusal(plain) is None  # withheld by the gate, under sharing
    raised = Arithmetic(Operation.ADD, INCOMES, Number(BIG, 0))
    for forged in (of(Function.SUM, raised), of(Function.SUM, INCOMES, Number(1, 0))):
        plan = cohort.by_hand(JOINED, forged)
        assert {900_390, 900_390 + 21 * BIG} & set(numbers(cohort.twin(plan)))
        assert "ask with noise" in (cohort.refusal(plan) or "")
    spread = cohort.plan(f"SELECT VARIANCE(a.income) {ON}")
    assert 900_390 not in numbers(cohort.twin(spread))
    assert 900_390 - 21 * 500_000 not in numbers(cohort.twin(spread))  # around its middle
    across = cohort.plan(f"SELECT CORR(a.income, b.y) {ON}")
    assert "dominance" in (cohort.refusal(across) or "")


# What stays


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT a.sex, BANDS(b.age, 30, 40) AS band, COUNT(*), AVG(a.income) {ON} GROUP BY 1, 2",
        f"SELECT COUNT(*), AVG(a.income), VARIANCE(a.income), AVG(b.y) {ON}",
        f"SELECT COUNT(*), CORR(a.income, b.y), REGR_SLOPE(a.income, b.y) {ON}",
        f"SELECT AVG(a.income), CORR(a.income, b.y), AVG(b.y) {ON} "
        "WHERE a.income IS NOT NULL AND b.y IS NOT NULL",
        f"SELECT MIN(a.income), MAX(b.y), SUM(a.income * b.y) {ON}",
    ],
)
def test_sums_means_and_correlations_of_plain_columns_by_groups_are_answered(sql: str) -> None:
    cohort = a_cohort(crowd(60))
    assert cohort.refusal(cohort.plan(sql)) is None
    assert cohort.refusal(cohort.plan(sql)) is None  # and again


def test_joins_of_the_same_people_are_one_company() -> None:
    """Hidden or revealed: who is counted is the same."""
    both = open_grounds()
    sql = "SELECT AVG(a.bmi) FROM a JOIN b ON a.person = b.person"
    found = {
        companies(compiled(sql, both, join=join), [g.product for g in both], 0)
        for join in (Join.HIDDEN, Join.REVEALED, Join.SUM)
    }
    assert len(found) == 1
