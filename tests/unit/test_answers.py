"""Answers: every statistic equals plain Python on the rows in common, exactly where it is rational.

No engine takes part: the output vector is computed in the clear, cut into one share a sealer and
read as a receiver reads it.
"""

from __future__ import annotations

import statistics as plain
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from crypto import record
from crypto.errors import Malformed
from crypto.scoring.shape import Feature, ModelFamily, ModelShape
from exchange.query.plan import Argument, Gate, Lookup, Plan, Score
from exchange.query.released import Calculated, Calculation, Having, Output, Released
from exchange.results import (
    Answer,
    Figure,
    Found,
    FoundRecord,
    Missing,
    Note,
    Remark,
    Row,
    SealedPart,
    answer_from_bytes,
    lookup_answer,
    read_parts,
    score_answer,
)
from registry.expression import Arithmetic, Comparator, Number, Operation
from registry.product import ModelCard
from registry.rule import AnalysisRule, Function, Join, Use
from tests import local_reference
from tests.query_plans import (
    AGE,
    BMI,
    BY_AGE,
    BY_SEX,
    CLINIC,
    COUNT,
    LAB,
    PRODUCTS,
    S5,
    a_plan_of,
    a_query_plan,
    a_query_product,
    answered,
    digest_of,
    parts_of,
    some_rows,
    statistic,
    with_noise,
)

A_BMI, B_S5, A_AGE, B_AGE = Argument(0, BMI), Argument(1, S5), Argument(0, AGE), Argument(1, AGE)
SCALES = {"bmi": 10, "s5": 1000, "age": 1}
Held = local_reference.Held
Values = Sequence[tuple[Fraction | None, ...]]


def rows_of(seed: int, people: int = 60, rows: int = 1) -> tuple[list[local_reference.Row], ...]:
    rng = np.random.default_rng(seed)
    return some_rows(rng, people, rows=rows), some_rows(rng, people, rows=rows)


def joined(
    rows: Sequence[list[local_reference.Row]], products: object = PRODUCTS
) -> list[tuple[Held, Held]]:
    """Every pair of rows of one person."""
    a, b = (local_reference.people(p, r) for p, r in zip(products, rows, strict=True))  # type: ignore[call-overload]
    return [(x, y) for key in a if key in b for x in a[key] for y in b[key]]


def value(row: Held, name: str) -> Fraction | None:
    held = row[name]
    return Fraction(held, SCALES[name]) if isinstance(held, int) else None


def complete(pairs: Sequence[tuple[Held, Held]], *columns: tuple[int, str]) -> list[list[Fraction]]:
    """The columns' values where none is missing."""
    found = [[value(pair[side], name) for side, name in columns] for pair in pairs]
    return [[v for v in row if v is not None] for row in found if None not in row]


def figure(answer: Answer, column: int = 0, row: int = 0) -> Figure:
    return answer.rows[row].figures[column]


def one(*statistics: object, rows: Sequence[list[local_reference.Row]], **plan: object) -> Answer:
    return answered(a_query_plan(*statistics, **plan), rows)  # type: ignore[arg-type]


# Each statistic


EXACT: dict[
    str, tuple[object, tuple[tuple[int, str], ...], Callable[[list[list[Fraction]]], object]]
] = {
    "count of a column": (
        statistic(Function.COUNT, A_BMI),
        ((0, "bmi"),),
        len,
    ),
    "sum": (
        statistic(Function.SUM, B_S5),
        ((1, "s5"),),
        lambda v: sum(x for (x,) in v),
    ),
    "sum of a product across sides": (
        statistic(Function.SUM, A_BMI, B_S5),
        ((0, "bmi"), (1, "s5")),
        lambda v: sum(x * y for x, y in v),
    ),
    "mean": (
        statistic(Function.MEAN, A_BMI),
        ((0, "bmi"),),
        lambda v: plain.mean(x for (x,) in v),
    ),
    "mean of a product across sides": (
        statistic(Function.MEAN, A_BMI, B_S5),
        ((0, "bmi"), (1, "s5")),
        lambda v: plain.mean(x * y for x, y in v),
    ),
    "variance": (
        statistic(Function.VARIANCE, B_S5),
        ((1, "s5"),),
        lambda v: plain.variance(x for (x,) in v),
    ),
    "variance of a product across sides": (
        statistic(Function.VARIANCE, A_AGE, B_AGE),
        ((0, "age"), (1, "age")),
        lambda v: plain.variance(x * y for x, y in v),
    ),
    "covariance across sides": (
        statistic(Function.COVARIANCE, A_BMI, B_S5),
        ((0, "bmi"), (1, "s5")),
        lambda v: _covariance(v),
    ),
    "covariance of one side": (
        statistic(Function.COVARIANCE, A_BMI, A_AGE),
        ((0, "bmi"), (0, "age")),
        lambda v: _covariance(v),
    ),
    "least": (
        statistic(Function.MIN, A_BMI),
        ((0, "bmi"),),
        lambda v: min(x for (x,) in v),
    ),
    "largest": (
        statistic(Function.MAX, B_S5),
        ((1, "s5"),),
        lambda v: max(x for (x,) in v),
    ),
}


def _covariance(values: list[list[Fraction]]) -> Fraction:
    xs, ys = zip(*values, strict=True)
    mean_x, mean_y = plain.mean(xs), plain.mean(ys)
    found: Fraction = sum((x - mean_x) * (y - mean_y) for x, y in values) / (len(values) - 1)
    return found


@pytest.mark.parametrize("what", EXACT)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_rational_statistic_equals_plain_python_exactly(what: str, seed: int) -> None:
    asked, columns, truth = EXACT[what]
    rows = rows_of(seed)
    wanted = truth(complete(joined(rows), *columns))
    found = figure(one(asked, rows=rows))
    assert found == Figure(record.Rational(wanted))  # type: ignore[arg-type]


def test_people_and_rows_are_counted_apart_where_keys_repeat() -> None:
    products = tuple(a_query_product(h, rows_per_person=3) for h in (CLINIC, LAB))
    rows = rows_of(3, rows=3)
    pairs = joined(rows, products)
    plan = a_query_plan(
        COUNT,
        statistic(Function.COUNT),
        statistic(Function.MEAN, A_BMI),
        statistic(Function.VARIANCE, A_BMI, B_S5),
        products=products,
    )
    found = answered(plan, rows, products).rows[0].figures
    bmi = [x for (x,) in complete(pairs, (0, "bmi"))]
    both = [x * y for x, y in complete(pairs, (0, "bmi"), (1, "s5"))]
    people = {pair[0]["person"] for pair in pairs}
    assert [f.value for f in found] == [
        len(people),
        len(pairs),
        plain.mean(bmi),
        plain.variance(both),
    ]


def test_a_root_is_right_to_twelve_decimals() -> None:
    rows = rows_of(4)
    values = [x for (x,) in complete(joined(rows), (0, "bmi"))]
    found = figure(one(statistic(Function.STDDEV, A_BMI), rows=rows)).value
    assert found is not None
    assert abs(found**2 - plain.variance(values)) < Fraction(1, 10**10)
    assert (found * 10**12).denominator == 1


@pytest.mark.parametrize("pair", [(A_BMI, B_S5), (A_BMI, A_AGE), (B_S5, A_AGE)])
def test_a_correlation_equals_numpys_on_pairs_where_both_are_present(
    pair: tuple[Argument, Argument],
) -> None:
    rows = rows_of(5)
    columns = [(a.side, a.expression.column) for a in pair]  # type: ignore[union-attr]
    values = np.array(complete(joined(rows), *columns), dtype=float)
    found = figure(one(statistic(Function.CORRELATION, *pair), rows=rows))
    assert float(found.value or 0) == pytest.approx(np.corrcoef(values.T)[0, 1], abs=1e-9)


def test_without_noise_a_correlation_has_the_plain_fisher_interval() -> None:
    from math import atanh, sqrt, tanh

    rows = rows_of(6)
    n = len(complete(joined(rows), (0, "bmi"), (1, "s5")))
    found = figure(one(statistic(Function.CORRELATION, A_BMI, B_S5), rows=rows))
    middle, reach = atanh(float(found.value or 0)), 1.959963984540054 / sqrt(n - 3)
    assert float(found.low or 0) == pytest.approx(tanh(middle - reach), rel=1e-9)
    assert float(found.high or 0) == pytest.approx(tanh(middle + reach), rel=1e-9)


def test_a_regression_equals_least_squares_on_complete_rows() -> None:
    rows = rows_of(7)
    asked = statistic(Function.REGRESSION, B_S5, A_BMI, A_AGE, B_AGE)
    answer = one(asked, rows=rows)
    columns = ((1, "s5"), (0, "bmi"), (0, "age"), (1, "age"))
    values = np.array(complete(joined(rows), *columns), dtype=float)
    design = np.column_stack([np.ones(len(values)), values[:, 1:]])
    wanted, *_ = np.linalg.lstsq(design, values[:, 0], rcond=None)
    residual = values[:, 0] - design @ wanted
    r_squared = 1 - (residual**2).sum() / ((values[:, 0] - values[:, 0].mean()) ** 2).sum()
    n, r2, *coefficients = [float(f.value or 0) for f in answer.rows[0].figures]
    assert n == len(values)
    assert r2 == pytest.approx(r_squared, rel=1e-9)
    assert coefficients == pytest.approx(wanted, rel=1e-8)


def test_a_regression_along_what_another_column_says_already_has_no_slope() -> None:
    doubled = Argument(0, Arithmetic(Operation.ADD, BMI, BMI))
    answer = one(statistic(Function.REGRESSION, B_S5, A_BMI, doubled), rows=rows_of(8))
    n, *rest = answer.rows[0].figures
    assert n.value is not None
    assert {f.missing for f in rest} == {Missing.NO_SPREAD}


def test_what_does_not_vary_has_no_correlation() -> None:
    flat = Argument(0, Arithmetic(Operation.MULTIPLY, BMI, Number(0, 0)))
    found = figure(one(statistic(Function.CORRELATION, flat, B_S5), rows=rows_of(9)))
    assert found == Figure(None, missing=Missing.NO_SPREAD)


def test_a_quantile_lies_in_the_bin_of_the_true_one() -> None:
    rows, cuts = rows_of(10, people=200), tuple(range(0, 125, 5))
    values = sorted(x for (x,) in complete(joined(rows), (0, "age")))
    for share in (Fraction(1, 10), Fraction(1, 2), Fraction(9, 10)):
        asked = statistic(Function.QUANTILE, A_AGE, quantile=share, cuts=cuts)
        found = figure(one(asked, rows=rows))
        true = values[int(share * len(values) - Fraction(1, 2))]
        assert found.low is not None
        assert found.high == found.low + 5
        assert found.low <= true <= found.high
        assert found.low <= (found.value or 0) <= found.high


# Joins and groups


def test_a_left_join_counts_all_rows_of_the_left_side() -> None:
    rows = rows_of(11)
    left = local_reference.people(PRODUCTS[0], rows[0])
    answer = one(
        COUNT,
        statistic(Function.SUM, A_BMI),
        statistic(Function.COUNT, B_S5),
        rows=rows,
        keep_left=True,
    )
    everybody = [(row, row) for (row,) in left.values()]
    wanted = [
        len(left),
        sum(x for (x,) in complete(everybody, (0, "bmi"))),
        len(complete(joined(rows), (1, "s5"))),
    ]
    assert [f.value for f in answer.rows[0].figures] == wanted


@pytest.mark.parametrize("join", [Join.UNION, Join.ALONE])
def test_one_table_and_a_union_of_two_are_read_in_the_same_way(join: Join) -> None:
    rows = rows_of(12)
    plan = a_query_plan(
        COUNT, statistic(Function.MEAN, A_AGE), join=join, groups=((BY_SEX,), (BY_SEX,))
    )
    held = [
        row
        for product, own in zip(PRODUCTS[: len(plan.sides)], rows, strict=False)
        for group in local_reference.people(product, own).values()
        for row in group
    ]
    answer = answered(plan, rows)
    assert answer.groups == ("sex",)
    for sex, row in zip("fm", answer.rows, strict=True):
        ages = [v for r in held if r["sex"] == sex and (v := value(r, "age")) is not None]
        assert row.groups == (sex,)
        assert row.figures[0].value == sum(r["sex"] == sex for r in held)
        assert row.figures[1].value == plain.mean(ages)


def test_groups_of_both_sides_stand_in_the_engines_order() -> None:
    rows = rows_of(13, people=200)
    answer = one(COUNT, rows=rows, groups=((BY_SEX,), (BY_AGE, BY_SEX)))
    labels = [(a, b, c) for a in "fm" for b in ("< 40", "40 to < 65", ">= 65") for c in "fm"]
    assert [row.groups for row in answer.rows] == labels
    assert answer.groups == ("sex", "age", "sex")

    def band(age: int | str | None) -> str | None:
        if not isinstance(age, int):
            return None
        return "< 40" if age < 40 else "40 to < 65" if age < 65 else ">= 65"

    for row in answer.rows:
        count = sum((a["sex"], band(b["age"]), b["sex"]) == row.groups for a, b in joined(rows))
        assert row.figures[0].value == (count if count >= 2 else None)


# The gate, HAVING and calculations


def test_suppressed_is_not_zero_and_is_counted() -> None:
    rows = rows_of(14, people=30)
    counts = one(COUNT, statistic(Function.SUM, A_BMI), rows=rows, groups=((BY_SEX,), (BY_AGE,)))
    sizes = sorted(row.figures[0].value or 0 for row in counts.rows)
    gate = Gate(int(sizes[3]) + 1)
    answer = one(
        COUNT, statistic(Function.SUM, A_BMI), rows=rows, groups=((BY_SEX,), (BY_AGE,)), gate=gate
    )
    small = [row for row in answer.rows if row.suppressed]
    assert 0 < len(small) < len(answer.rows)
    assert small[0].figures[0] == Figure(None, missing=Missing.SUPPRESSED)
    assert Note(Remark.SUPPRESSED, len(small)) in answer.notes
    assert Note(Remark.EXACT, 0) in answer.notes


HUNDRED = Number(100, 0)


def test_outputs_are_calculated_from_released_numbers() -> None:
    rows = rows_of(15)
    of_two = Calculated(Calculation.DIVIDE, Released(1, 0), Released(0, 0))
    nothing = Calculated(Calculation.SUBTRACT, Released(0, 0), Released(0, 0))
    outputs = (
        Output("per_head", Calculated(Calculation.MULTIPLY, of_two, HUNDRED)),
        Output("impossible", Calculated(Calculation.DIVIDE, Released(0, 0), nothing)),
    )
    answer = one(COUNT, statistic(Function.SUM, A_BMI), rows=rows, outputs=outputs)
    pairs = joined(rows)
    total = sum(x for (x,) in complete(pairs, (0, "bmi")))
    assert answer.outputs == ("per_head", "impossible")
    assert figure(answer).value == 100 * total / len(pairs)
    assert figure(answer, 1) == Figure(None, missing=Missing.ZERO_DIVISOR)


def test_having_leaves_groups_out_and_says_how_many() -> None:
    rows = rows_of(16, people=100)
    both = ((BY_SEX,), (BY_AGE,))
    sizes = [row.figures[0].value or 0 for row in one(COUNT, rows=rows, groups=both).rows]
    middle = int(sorted(sizes)[3])
    having = (Having(Released(0, 0), Comparator.AT_LEAST, Number(middle, 0)),)
    answer = one(COUNT, rows=rows, groups=both, having=having)
    assert [r.figures[0].value for r in answer.rows] == [s for s in sizes if s >= middle]
    assert Note(Remark.HAVING, sum(s < middle for s in sizes)) in answer.notes


def test_a_group_whose_having_cannot_be_decided_is_left_out_and_counted_apart() -> None:
    rows = rows_of(17, people=30)
    both = ((BY_SEX,), (BY_AGE,))
    sizes = [row.figures[0].value or 0 for row in one(COUNT, rows=rows, groups=both).rows]
    least = int(sorted(sizes)[3]) + 1
    having = (Having(Released(0, 0), Comparator.LESS, Number(10**6, 0)),)
    answer = one(COUNT, rows=rows, groups=both, having=having, gate=Gate(least))
    assert len(answer.rows) == sum(s >= least for s in sizes)
    assert Note(Remark.HAVING_UNDECIDED, sum(s < least for s in sizes)) in answer.notes


def test_rounded_counts_carry_the_interval_of_their_rounding() -> None:
    rows = rows_of(18)
    gate = Gate(2, round_counts=10)
    found = figure(one(COUNT, rows=rows, gate=gate))
    true = len(joined(rows))
    assert found.value is not None
    assert found.value % 10 == 0
    assert (found.low, found.high) == (found.value - 5, found.value + 4)
    assert (found.low or 0) <= true <= (found.high or 0)


# Forgeries


def test_a_part_of_another_job_plan_or_party_is_refused() -> None:
    plan = a_query_plan(COUNT)
    parts = _parts(plan)
    other = replace(plan, purpose="planning")
    with pytest.raises(Malformed, match="another job, plan or party"):
        read_parts(plan, digest_of(plan), {**parts, CLINIC: parts[LAB]}, PRODUCTS)
    with pytest.raises(Malformed, match="another job, plan or party"):
        read_parts(other, digest_of(other), parts, PRODUCTS)
    with pytest.raises(Malformed, match="missing"):
        read_parts(plan, digest_of(plan), {CLINIC: parts[CLINIC], LAB: parts[LAB]}, PRODUCTS)


def test_a_share_of_another_run_is_noticed() -> None:
    plan = a_query_plan(COUNT)
    parts = _parts(plan)
    part = record.from_bytes(SealedPart, parts[LAB])
    altered = record.to_bytes(replace(part, share=bytes(len(part.share))))
    with pytest.raises(Malformed, match="one run"):
        read_parts(plan, digest_of(plan), {**parts, LAB: altered}, PRODUCTS)


def _parts(plan: Plan) -> dict:  # type: ignore[type-arg]
    return parts_of(plan, np.array([1, 40], dtype=np.int64))


# Documents


def test_an_answer_comes_back_from_its_bytes() -> None:
    rows = rows_of(19)
    plan = with_noise(
        a_query_plan(COUNT, statistic(Function.COVARIANCE, A_BMI, B_S5), groups=((BY_SEX,), ()))
    )
    answer = answered(plan, rows, rng=np.random.default_rng(1))
    read = answer_from_bytes(record.to_bytes(answer))
    assert read == answer
    assert (answer.epsilon, answer.delta) == (plan.epsilon, plan.delta)


def test_an_answer_of_another_kind_is_none() -> None:
    with pytest.raises(Malformed):
        answer_from_bytes(b'{"kind":"rumour"}')
    with pytest.raises(Malformed):
        answer_from_bytes(b'{"kind":"groups"}')


def test_a_figure_is_a_number_or_a_reason() -> None:
    with pytest.raises(Malformed):
        Figure(None)
    with pytest.raises(Malformed):
        Figure(record.Rational(1), missing=Missing.SUPPRESSED)


def test_table_columns_are_each_named_once() -> None:
    row = Row(("f",), (Figure(record.Rational(1)), Figure(record.Rational(2))))
    answer = replace(
        answered(a_query_plan(COUNT), rows_of(20)),
        groups=("sex", "x"),
        outputs=("x", "suppressed"),
        rows=(row,),
    )
    assert answer.table_columns == ("sex", "x", "x_2", "suppressed", "suppressed_2")
    noised = replace(row, figures=(replace(row.figures[0], low=record.Rational(0)),) * 2)
    assert replace(answer, rows=(noised,)).table_columns[2:5] == ("x_2", "x_low", "x_high")


def test_records_that_were_looked_up_are_kept_with_those_not_found() -> None:
    plan = a_plan_of(Lookup(4, ("town", "sex"), 0), Join.LOOKUP)
    answer = lookup_answer(plan, ["a", "b", "c"], [{"town": "x"}, Found.NOTHING, Found.DAMAGED])
    assert answer_from_bytes(record.to_bytes(answer)) == answer
    assert [row.values for row in answer.rows] == [{"town": "x"}, None, None]
    assert answer.rows[2].found is Found.DAMAGED
    with pytest.raises(Malformed, match="does not name"):
        lookup_answer(plan, ["a"], [{"age": "1"}])
    with pytest.raises(Malformed, match="one for each key"):
        lookup_answer(plan, list("abcde"), [Found.NOTHING] * 5)
    with pytest.raises(Malformed):
        FoundRecord("a", Found.NOTHING, {"town": "x"})


def test_scores_are_kept_by_the_consumers_own_names_of_its_rows() -> None:
    plan = a_plan_of(Score(2, "any"), Join.SCORE)
    shape = ModelShape(ModelFamily.LINEAR, (Feature("age", 0, 120, 0),), ("risk",), 2, 64)
    card = ModelCard(shape, "any", digest_of(plan))
    model = a_query_product(
        CLINIC, model=card, key="", columns=(PRODUCTS[0].column("age"),), rule=_scoring()
    )
    answer = score_answer(plan, model, ["a", "b"], [[Fraction(-1, 4)], [Fraction(1, 2)]])
    assert answer_from_bytes(record.to_bytes(answer)) == answer
    assert answer.outputs == ("risk",)
    assert [row.scores for row in answer.rows] == [(Fraction(-1, 4),), (Fraction(1, 2),)]
    with pytest.raises(Malformed, match="each row"):
        score_answer(plan, model, list("abc"), [[Fraction(1)]] * 3)
    with pytest.raises(Malformed, match="are not 1"):
        score_answer(plan, model, ["a"], [[Fraction(1), Fraction(2)]])
    with pytest.raises(Malformed, match="of a model"):
        score_answer(plan, PRODUCTS[0], ["a"], [[Fraction(1, 2)]])


def _scoring() -> AnalysisRule:
    return AnalysisRule(
        uses={"age": (Use.FEATURE,)},
        functions=(),
        joins=(Join.SCORE,),
        min_group=2,
        purposes=("research",),
        evaluations_per_day=10,
    )
