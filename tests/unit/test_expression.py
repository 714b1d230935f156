"""Expressions of a row: their public bounds hold for every row, and what is refused names why."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings

from crypto import record
from crypto.errors import Malformed
from registry.errors import DocumentRefused
from registry.expression import (
    MAX_DEPTH,
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Either,
    Expression,
    LocalFactor,
    LocalQuery,
    Not,
    Number,
    OneOf,
    Operation,
    Present,
    Shape,
    Text,
    When,
    columns,
    parts,
    require_condition,
    scaled,
    typed,
)
from tests.local_reference import CONDITIONS, EXPRESSIONS, PRODUCT, QUERIES, ROWS, Row, value

AGE, BMI, S5 = map(ColumnValue, ("age", "bmi", "s5"))  # 0..120; -60.0..60.0; 0.000..9.999
VISITS, SEX, TOWN = map(ColumnValue, ("visits", "sex", "town"))  # no range; text; text
ZERO, ONE = Number(0, 0), Number(1, 0)
ADULT = Compare(Comparator.AT_LEAST, AGE, Number(18, 0))


def of(operation: Operation, left: Expression, right: Expression) -> Expression:
    return Arithmetic(operation, left, right)


@pytest.mark.parametrize(
    ("expression", "shape"),
    [
        (AGE, Shape(False, 0, 0, 120)),
        (SEX, Shape(True)),
        (Text("f"), Shape(True)),
        (Number(-25, 1), Shape(False, 1, -25, -25)),
        (of(Operation.ADD, AGE, BMI), Shape(False, 1, -600, 1800)),
        (of(Operation.SUBTRACT, AGE, BMI), Shape(False, 1, -600, 1800)),
        (of(Operation.SUBTRACT, AGE, AGE), Shape(False, 0, -120, 120)),
        (of(Operation.MULTIPLY, BMI, S5), Shape(False, 4, -600 * 9999, 600 * 9999)),
        (of(Operation.MULTIPLY, BMI, BMI), Shape(False, 2, -360_000, 360_000)),
        (of(Operation.LEAST, AGE, Number(65, 0)), Shape(False, 0, 0, 65)),
        (of(Operation.GREATEST, AGE, Number(18, 0)), Shape(False, 0, 18, 120)),
        (of(Operation.GREATEST, BMI, S5), Shape(False, 3, 0, 60_000)),
        (Case((When(ADULT, ONE),), None), Shape(False, 0, 1, 1)),
        (Case((When(ADULT, AGE), When(Present(BMI), BMI)), S5), Shape(False, 3, -60_000, 120_000)),
        (Case((When(ADULT, TOWN),), Text("young")), Shape(True)),
    ],
)
def test_an_expression_has_the_bounds_and_the_unit_of_its_columns(
    expression: Expression, shape: Shape
) -> None:
    assert typed(expression, PRODUCT) == shape


HUGE = Number(2**60, 0)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        (ColumnValue("height"), "is not a column"),
        (VISITS, "visits has no public range"),
        (of(Operation.ADD, AGE, SEX), "text has no +"),
        (of(Operation.LEAST, Text("a"), Text("b")), "text has no least"),
        (Number(2**60 + 1, 0), "too wide for exact arithmetic"),
        (of(Operation.ADD, HUGE, ONE), "too wide"),
        (of(Operation.ADD, HUGE, BMI), "too wide"),
        (of(Operation.MULTIPLY, HUGE, AGE), "too wide"),
        (of(Operation.MULTIPLY, Number(1, 10), S5), "more than 12 decimals"),
        (Case((When(ADULT, HUGE),), S5), "too wide"),
        (Case((When(ADULT, SEX),), AGE), "text in one branch and a number in another"),
        (Case((), None), "at least one WHEN"),
        (Case((), ONE), "at least one WHEN"),
        (Case((When(Compare(Comparator.EQUAL, AGE, SEX), ONE),), None), "compares text with"),
        (Case((When(Present(ColumnValue("height")), ONE),), None), "is not a column"),
    ],
)
def test_what_has_no_exact_public_bounds_is_refused(expression: Expression, problem: str) -> None:
    with pytest.raises(DocumentRefused, match=problem.replace("+", r"\+")):
        typed(expression, PRODUCT)


@pytest.mark.parametrize("decimals", [-5, -1, 13, 3 * 10**9])
def test_no_document_holds_a_number_that_nobody_can_write_out(decimals: int) -> None:
    """Whoever reads a plan says in words what it asks for: an auditor, too."""
    written = record.to_bytes(Number(1, 12)).replace(b"12", str(decimals).encode())
    with pytest.raises(Malformed, match="decimals: must be 0 to 12"):
        record.from_bytes(Number, written)


@pytest.mark.parametrize(
    "condition",
    [
        ADULT,
        Compare(Comparator.LESS, VISITS, Number(3, 0)),
        Compare(Comparator.EQUAL, SEX, Text("f")),
        OneOf(TOWN, (Text("a"), SEX)),
        OneOf(VISITS, (ONE, VISITS)),
        Present(VISITS),
        Not(Either(ADULT, Both(ADULT, Present(SEX)))),
    ],
)
def test_like_is_compared_with_like_with_or_without_a_public_range(condition: Condition) -> None:
    require_condition(condition, PRODUCT)


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        (Compare(Comparator.EQUAL, AGE, Text("1")), "compares text with a number"),
        (OneOf(SEX, (Text("f"), ONE)), "compares text with a number"),
        (OneOf(SEX, ()), "IN needs at least one value"),
        (Compare(Comparator.LESS, of(Operation.ADD, VISITS, ONE), ONE), "no public range"),
        (Not(Present(ColumnValue("height"))), "is not a column"),
        (Both(ADULT, Compare(Comparator.EQUAL, SEX, ONE)), "compares text with a number"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(condition: Condition, problem: str) -> None:
    with pytest.raises(DocumentRefused, match=problem):
        require_condition(condition, PRODUCT)


def test_a_refusal_names_where_it_stands() -> None:
    with pytest.raises(DocumentRefused) as refused:
        typed(VISITS, PRODUCT, where="statistics[2]")
    assert refused.value.where == "statistics[2]"


def test_nesting_has_a_limit_however_it_is_made() -> None:
    sums: Expression = ONE
    negations: Condition = ADULT
    for _ in range(MAX_DEPTH - 1):
        sums, negations = of(Operation.LEAST, sums, ONE), Not(negations)
    typed(sums, PRODUCT)
    with pytest.raises(DocumentRefused, match="nested more than 12 deep"):
        typed(of(Operation.LEAST, of(Operation.LEAST, sums, ONE), ONE), PRODUCT)
    with pytest.raises(DocumentRefused, match="nested more than 12 deep"):
        require_condition(Not(Not(negations)), PRODUCT)


def test_a_thousand_levels_are_refused_and_not_recursed_into() -> None:
    condition: Condition = ADULT
    for _ in range(5000):
        condition = Not(condition)
    with pytest.raises(DocumentRefused, match="nested more than 12 deep"):
        require_condition(condition, PRODUCT)


def test_columns_are_named_once_in_the_order_of_appearance() -> None:
    query = Case((When(Both(Present(SEX), ADULT), of(Operation.ADD, BMI, AGE)),), S5)
    assert columns(query) == ("sex", "age", "bmi", "s5")
    assert columns(OneOf(TOWN, (Text("x"), SEX))) == ("town", "sex")
    assert [part for part in parts(query) if isinstance(part, Number)] == [Number(18, 0)]


def test_finer_units_change_the_integers_and_not_the_values() -> None:
    assert scaled(Shape(False, 1, -5, 20), 3, where="x") == Shape(False, 3, -500, 2000)
    assert Shape(False, 0, -7, 3).widest == 7
    with pytest.raises(DocumentRefused, match="too wide"):
        scaled(Shape(False, 0, 0, 2**50), 12, where="x")


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, ROWS)
def test_the_public_bounds_hold_for_every_row(expression: Expression, row: Row) -> None:
    """Sensitivities and the ring's size are computed from them: a row outside would break both."""
    shape = typed(expression, PRODUCT)
    found = value(expression, {name: cell[1] for name, cell in row.items()}, PRODUCT)
    if isinstance(found, Fraction):
        units = found * 10**shape.decimals
        assert not shape.text
        assert units.denominator == 1
        assert shape.low <= units <= shape.high
    else:
        assert found is None or shape.text


@settings(max_examples=50, deadline=None)
@given(EXPRESSIONS, CONDITIONS, QUERIES)
def test_expressions_come_back_from_their_canonical_bytes(
    expression: Expression, condition: Condition, query: LocalQuery
) -> None:
    for kind, held in (
        (Expression, expression),
        (Condition, condition),
        (LocalQuery, query),
        (LocalFactor, LocalFactor(expression, indicator=True)),
    ):
        assert record.from_value(kind, record.to_value(held)) == held  # type: ignore[arg-type]
