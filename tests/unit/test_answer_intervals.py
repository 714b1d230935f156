"""Intervals of noised numbers hold the truth as often as they say.

Each test repeats an answer RUNS times with fresh noise. Where an interval holds the truth with
probability 0.95, fewer than LEAST of 200 hold it with probability 1e-6 (binomial), and all 200 do
with probability 4e-5: the false-alarm rate of each case is below 5e-5 where noise is fresh, and 0
here, for the generators' seeds are fixed.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from crypto.joins.rows import plain_output
from crypto.noise import Distribution
from exchange import estimation
from exchange.query.plan import Argument, Gate, Plan, Statistic
from exchange.query.program import program_of
from exchange.query.released import Calculated, Calculation, Output, Released
from exchange.results import Answer, Figure, Missing, Note, Remark, read_parts
from registry.rule import Function, Join
from tests.query_plans import (
    AGE,
    BMI,
    COUNT,
    PRODUCTS,
    S5,
    a_query_plan,
    answered,
    both_sides,
    digest_of,
    noise_of,
    parts_of,
    some_rows,
    statistic,
    with_noise,
)

RUNS, LEAST = 200, 173
A_BMI, B_S5, A_AGE = Argument(0, BMI), Argument(1, S5), Argument(0, AGE)
CUTS = tuple(range(0, 125, 5))
ROWS = tuple(some_rows(np.random.default_rng(seed), 400) for seed in (1, 2))
Int64Array = npt.NDArray[np.int64]


def figures(plan: Plan, seed: int, runs: int = RUNS) -> list[Answer]:
    """The same rows, noised afresh each time."""
    used = PRODUCTS[: len(plan.sides)]
    program = program_of(plan, used)
    left, right = both_sides(plan, program, ROWS, used)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        output = plain_output(program.layout, left, right, noise=noise_of(plan, program, rng))
        found.append(read_parts(plan, digest_of(plan), parts_of(plan, output), used))
    return found


def truth(plan: Plan) -> list[Fraction | None]:
    bare = replace(plan, work=replace(plan.query, noise=None))
    return [figure.value for figure in answered(bare, ROWS).rows[0].figures]


def holds(figure: Figure, true: Fraction) -> bool:
    above = figure.low is None or figure.low <= true
    return above and (figure.high is None or true <= figure.high)


LAPLACE, GAUSSIAN = Distribution.LAPLACE, Distribution.GAUSSIAN
CASES: dict[str, tuple[Distribution, int, tuple[Statistic, ...], int]] = {
    "count": (LAPLACE, 1, (COUNT,), 0),
    "count, Gaussian": (GAUSSIAN, 1, (COUNT,), 0),
    "sum": (LAPLACE, 40, (COUNT, statistic(Function.SUM, A_BMI)), 1),
    "sum, Gaussian": (GAUSSIAN, 40, (COUNT, statistic(Function.SUM, A_BMI)), 1),
    "mean": (LAPLACE, 40, (statistic(Function.MEAN, A_BMI),), 0),
    "mean of a product across sides": (LAPLACE, 40, (statistic(Function.MEAN, A_BMI, B_S5),), 0),
    "variance": (LAPLACE, 40, (statistic(Function.VARIANCE, A_AGE),), 0),
    "standard deviation": (LAPLACE, 40, (statistic(Function.STDDEV, A_AGE),), 0),
    "covariance": (LAPLACE, 40, (statistic(Function.COVARIANCE, A_BMI, B_S5),), 0),
    "covariance, Gaussian": (GAUSSIAN, 40, (statistic(Function.COVARIANCE, A_BMI, B_S5),), 0),
    "slope": (LAPLACE, 40, (statistic(Function.REGRESSION, B_S5, A_BMI),), 3),
    "intercept": (LAPLACE, 40, (statistic(Function.REGRESSION, B_S5, A_BMI),), 2),
}


@pytest.mark.parametrize("what", CASES)
def test_an_interval_holds_the_number_without_noise(what: str) -> None:
    distribution, epsilon, asked, column = CASES[what]
    plan = with_noise(a_query_plan(*asked), epsilon=Fraction(epsilon), distribution=distribution)
    true = truth(plan)[column]
    assert true is not None
    found = [answer.rows[0].figures[column] for answer in figures(plan, seed=11)]
    assert all(f.low is not None and f.high is not None for f in found)
    held = sum(holds(figure, true) for figure in found)
    assert LEAST <= held < RUNS


def test_with_one_author_the_interval_is_narrower_and_still_holds() -> None:
    alone = with_noise(a_query_plan(COUNT, join=Join.ALONE), epsilon=Fraction(1))
    two = with_noise(a_query_plan(COUNT), epsilon=Fraction(1))
    found = [answer.rows[0].figures[0] for answer in figures(alone, seed=12)]
    true = truth(alone)[0]
    assert true is not None
    assert LEAST <= sum(holds(figure, true) for figure in found) < RUNS
    assert width(found[0]) < width(figures(two, seed=12, runs=1)[0].rows[0].figures[0])


def width(figure: Figure) -> Fraction:
    assert figure.low is not None
    assert figure.high is not None
    return figure.high - figure.low


def test_a_calculated_output_has_the_interval_of_what_it_is_made_of() -> None:
    per_head = Calculated(Calculation.DIVIDE, Released(1, 0), Released(0, 0))
    plan = with_noise(
        a_query_plan(
            COUNT, statistic(Function.SUM, A_AGE), outputs=(Output("per_head", per_head),)
        ),
        epsilon=Fraction(40),
    )
    true = truth(plan)[0]
    assert true is not None
    found = [answer.rows[0].figures[0] for answer in figures(plan, seed=13)]
    assert LEAST <= sum(holds(figure, true) for figure in found) < RUNS


def test_a_quantiles_interval_ends_at_edges_of_bins_and_holds_the_true_one() -> None:
    asked = statistic(Function.QUANTILE, A_AGE, quantile=Fraction(1, 2), cuts=CUTS)
    plan = with_noise(a_query_plan(asked), epsilon=Fraction(60))
    true = truth(plan)[0]  # within its bin, as the interval is made of whole ones
    assert true is not None
    found = [answer.rows[0].figures[0] for answer in figures(plan, seed=14)]
    assert all(f.low is not None and f.low % 5 == 0 for f in found)
    assert all(f.high is not None and f.high % 5 == 0 for f in found)
    assert sum(holds(figure, true) for figure in found) >= LEAST
    assert np.median([float(width(figure)) for figure in found]) < 60


@pytest.mark.parametrize("epsilon", [None, Fraction(40)])
def test_a_correlations_interval_holds_the_populations(epsilon: Fraction | None) -> None:
    """Fresh people each time, drawn from a population of known correlation; with noise, twice
    as much may be unsure, and the interval says so."""
    plan = a_query_plan(statistic(Function.CORRELATION, A_BMI, B_S5))
    if epsilon is not None:
        plan = with_noise(plan, epsilon=epsilon)
    program = program_of(plan, PRODUCTS)
    reading, rng, rho = program.readings[0], np.random.default_rng(15), 0.6
    held = 0
    for _ in range(RUNS):
        one, two = rng.normal(size=(2, 300))
        two = rho * one + np.sqrt(1 - rho**2) * two
        values = [np.rint(350 + 40 * one), np.rint(2000 + 1500 * two)]  # far from the clamps
        moved = [v - c for v, c in zip(values, reading.centres, strict=True)]
        terms = np.zeros((len(program.terms), 1), dtype=np.int64)
        terms[list(program.layout.gates)] = 300
        terms[reading.rows] = 300
        for place, v in zip(reading.sums, moved, strict=True):
            terms[place] = v.sum()
        for place, (i, j) in zip(reading.products, ((0, 0), (0, 1), (1, 1)), strict=True):
            terms[place] = (moved[i] * moved[j]).sum()
        noise = noise_of(plan, program, rng)
        terms += 0 if noise is None else noise
        answer = read_parts(plan, digest_of(plan), parts_of(plan, shown(terms, program)), PRODUCTS)
        held += holds(answer.rows[0].figures[0], Fraction(rho))
        assert Note(Remark.SAMPLED, 95) in answer.notes
    assert LEAST <= held < RUNS


def shown(terms: Int64Array, program: object) -> Int64Array:
    gates = len(program.layout.gates)  # type: ignore[attr-defined]
    return np.concatenate([np.ones(gates, dtype=np.int64), terms.ravel()])


def test_with_hardly_any_noise_centres_are_moved_back() -> None:
    """The centre of each range is subtracted before squaring and where there is noise; the answer
    must not show it."""
    asked = (
        statistic(Function.MEAN, A_BMI),
        statistic(Function.VARIANCE, B_S5),
        statistic(Function.REGRESSION, B_S5, A_BMI),
    )
    plan = with_noise(a_query_plan(*asked))
    noise = plan.query.noise
    assert noise is not None
    hardly = replace(noise, scales=(Fraction(1, 50),) * len(noise.scales))
    plan = replace(plan, work=replace(plan.query, noise=hardly))
    assert any(program_of(plan, PRODUCTS).readings[0].centres)
    (answer,) = figures(plan, seed=16, runs=1)
    assert [f.value for f in answer.rows[0].figures] == truth(plan)  # one draw is 0 but for e**-50


def test_the_same_answer_has_the_same_intervals_for_every_reader() -> None:
    plan = with_noise(a_query_plan(statistic(Function.COVARIANCE, A_BMI, B_S5)))
    assert figures(plan, seed=17, runs=1) == figures(plan, seed=17, runs=1)
    other = replace(plan, salt=b"\x01" * 32)
    one, two = (figures(p, seed=17, runs=1)[0].rows[0].figures[0] for p in (plan, other))
    assert one.value == two.value
    assert one.low != two.low


def test_noise_that_leaves_sums_of_no_rows_gives_a_reason_and_no_number() -> None:
    """At epsilon 1/10 a variance is often negative: never a crash, never a nonsensical number."""
    asked = (
        statistic(Function.VARIANCE, A_AGE),
        statistic(Function.STDDEV, A_AGE),
        statistic(Function.CORRELATION, A_AGE, B_S5),
        statistic(Function.REGRESSION, B_S5, A_AGE),
        statistic(Function.QUANTILE, A_AGE, quantile=Fraction(1, 2), cuts=CUTS),
    )
    plan = with_noise(a_query_plan(*asked, gate=Gate(2)), epsilon=Fraction(1, 10))
    program = program_of(plan, PRODUCTS)
    rng, seen = np.random.default_rng(18), set()
    for _ in range(60):
        noise = noise_of(plan, program, rng)
        assert noise is not None
        terms = 1000 + noise
        terms[list(program.layout.gates)] = program.layout.min_group + program.layout.slack + 50
        answer = read_parts(plan, digest_of(plan), parts_of(plan, shown(terms, program)), PRODUCTS)
        found = answer.rows[0].figures
        seen |= {f.missing for f in found}
        for figure, (low, high) in zip(
            found, ((0, None), (0, None), (-1, 1), (None, None), (0, 1)), strict=False
        ):
            if figure.value is not None:
                assert low is None or low <= figure.value
                assert high is None or figure.value <= high
                assert figure.low is None or figure.low <= figure.value
                assert figure.high is None or figure.value <= figure.high
    assert seen == {None, Missing.INCONSISTENT}


def test_the_reach_of_two_draws_is_the_least_that_holds_95_percent() -> None:
    """Against the distribution itself, summed over both draws."""
    for scale in (Fraction(1, 2), Fraction(3), Fraction(40)):
        q = np.exp(-1 / float(scale))
        k = np.arange(-2000, 2001)
        one = (1 - q) / (1 + q) * q ** np.abs(k)
        for authors, mass in ((1, one), (2, np.convolve(one, one, mode="same"))):
            reach = estimation._reach(Distribution.LAPLACE, scale, authors)
            assert mass[np.abs(k) > reach].sum() <= 0.05 + 1e-12
            assert reach == 0 or mass[np.abs(k) > reach - 1].sum() > 0.05
