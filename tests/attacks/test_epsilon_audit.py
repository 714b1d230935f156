"""Auditing: a lower bound of epsilon from repeated runs on neighbouring databases.

Attacker:        whoever reads the output; in the hidden join, the receiver together with one of
                 the two authors of noise, who takes that author's draws off
Knowledge:       both databases, which differ in one person of the largest permitted values
Goal:            an event that one of them makes more often than the claimed epsilon permits
Success measure: ln((p - delta) / p') from Clopper-Pearson bounds of both chances: what epsilon is
                 at least (Jagielski, Ullman and Oprea 2020); for Gaussian noise, rho the same way
False alarms:    each bound is wrong with at most 10**-6. Twins whose epsilon is twice the claimed
                 one pass unnoticed with a chance below 10**-4

Groups are disjoint, so every group of a run is one trial: a person is missing or present in each.
The event is "shown, and every number at least what it would be with the person": under Laplace
noise its two chances are exactly exp(epsilon) apart, so no other event finds more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf, sqrt

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm  # type: ignore[import-untyped]  # ships without types

from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.engine import NoiseScales, PaddingBounds
from crypto.joins.hidden.padding import Padding, padding
from crypto.joins.layout import Layout
from crypto.joins.rows import SideRows
from crypto.noise import Distribution
from crypto.sharing import recombine
from exchange.node.alone import alone
from exchange.node.parts import noise_authors
from exchange.query.plan import Argument, Noise, Plan
from exchange.query.program import program_of
from registry.rule import Function, Join
from tests.attacks.measured import Seen, epsilon_at_least
from tests.attacks.sizes import OBSERVERS, OTHERS, Observer, times_above
from tests.fakes.three_parties import run_three, tasks_of
from tests.query_plans import BMI, COUNT, PRODUCTS, a_query_plan, statistic, with_noise

Int64Array = npt.NDArray[np.int64]
MISS = 1e-6
EPSILON = Fraction(1)
LARGEST = (1, 600)  # has a value, and the largest that the column's range permits


def a_plan(join: Join, distribution: Distribution = Distribution.LAPLACE) -> Plan:
    """COUNT and SUM of one column of the first side: people, people with a value, the sum."""
    asked = a_query_plan(COUNT, statistic(Function.SUM, Argument(0, BMI)), join=join)
    return with_noise(asked, epsilon=EPSILON, distribution=distribution)


def layout_of(plan: Plan, groups: int) -> Layout:
    layout = program_of(plan, PRODUCTS[: len(plan.sides)]).layout
    return replace(layout, groups_a=groups)


def people(groups: int, each: int, *, target: bool) -> SideRows:
    """`each` persons in every group, and in every group the target."""
    rows = each + target
    held = np.tile(np.array([*[[1, 100]] * each, *[LARGEST] * target]), (groups, 1))
    return SideRows(
        tokens=np.arange(2 * groups * rows, dtype=np.uint64).view(np.uint8).reshape(-1, 16),
        group=np.repeat(np.arange(groups), rows),
        factors=np.ascontiguousarray(held, dtype=np.int64),
    )


def with_target(each: int) -> Int64Array:
    """Every term of a group in which the target is."""
    found: Int64Array = np.array([each + 1, each + 1, 100 * each + LARGEST[1]])
    return found


def shown_and_reached(
    layout: Layout, output: Int64Array, each: int, off: Int64Array | None = None
) -> Seen:
    """The event, group by group. off: what the attacker can subtract, shape (terms, cells)."""
    ok, values = np.split(output, [layout.cells * len(layout.gates)])
    shown = ok.reshape(len(layout.gates), -1).all(axis=0)
    left = values.reshape(len(layout.terms), -1) - (0 if off is None else off)
    reached = shown & (left >= with_target(each)[:, None]).all(axis=0)
    return Seen(int(reached.sum()), len(reached))


def together(found: list[Seen]) -> Seen:
    return Seen(sum(one.times for one in found), sum(one.of for one in found))


def lower_bound(trials: Callable[[bool], Seen], delta: Fraction) -> float:
    return epsilon_at_least(trials(True), trials(False), delta=float(delta), miss=MISS)


def halved(noise: Noise) -> Noise:
    return replace(noise, scales=tuple(scale / 2 for scale in noise.scales))


# --- one holder's own rows -----------------------------------------------------------------------


def of_one_holder(
    noise: Noise, *, each: int, runs: int, change: Callable[[Layout], Layout] = lambda same: same
) -> float:
    layout = change(layout_of(a_plan(Join.ALONE), groups=50))

    def trials(target: bool) -> Seen:
        rows = people(50, each, target=target)
        outputs = (recombine([alone(layout, rows, noise, OpenDpNoise())]) for _ in range(runs))
        return together([shown_and_reached(layout, output, each) for output in outputs])

    return lower_bound(trials, noise.delta)


def the_noise() -> Noise:
    noise = a_plan(Join.ALONE).query.noise
    assert noise is not None
    return noise


@pytest.mark.parametrize(
    ("runs", "telling"), [(40, 0.05), pytest.param(600, 0.2, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("each", [71, 100], ids=["at the gate", "above the gate"])
def test_a_holders_noisy_answer_is_worth_no_more_epsilon_than_the_plan_says(
    each: int, runs: int, telling: float
) -> None:
    found = of_one_holder(the_noise(), each=each, runs=runs)
    assert telling < found <= EPSILON


def test_half_the_noise_is_caught() -> None:
    assert of_one_holder(halved(the_noise()), each=100, runs=150) > EPSILON


def test_a_gate_that_tests_the_exact_count_without_slack_is_caught() -> None:
    """A group of one person too few is never shown, whatever the noise."""

    def exact(layout: Layout) -> Layout:
        return replace(layout, min_group=72, slack=0)

    assert of_one_holder(the_noise(), each=71, runs=20, change=exact) > EPSILON


def test_noise_on_the_count_alone_is_caught() -> None:
    """A twin that takes the sum for public: its scale is that of a count."""
    noise = the_noise()
    careless = replace(noise, scales=(*noise.scales[:2], noise.scales[0]))
    assert of_one_holder(careless, each=100, runs=20) > EPSILON


def test_gaussian_noise_is_worth_no_more_rho_than_the_plan_says() -> None:
    """Along the line between both databases the terms together are one Gaussian number, moved by
    mu = sqrt(2 rho) deviations. mu from below by the bounds of one threshold (Nasr et al. 2023)."""
    plan = a_plan(Join.ALONE, Distribution.GAUSSIAN)
    noise, layout = plan.query.noise, layout_of(plan, groups=50)
    assert noise is not None
    each = layout.min_group + layout.slack + 30  # ten deviations: everything is shown
    moved = with_target(each) - np.array([each, each, 100 * each])
    # Sensitivities are what the target moves; the plan's scales are its own claim.
    sigma = np.array([float(one) for one in noise.scales])
    stated = sqrt(float((moved**2 / sigma**2).sum()))

    def mu_at_least(noise: Noise) -> float:
        weights = moved / sigma**2

        def trials(target: bool) -> Seen:
            rows, above = people(50, each, target=target), 0
            for _ in range(40):
                output = recombine([alone(layout, rows, noise, OpenDpNoise())])
                values = output[50 * len(layout.gates) :].reshape(len(layout.terms), -1)
                beyond = weights @ (values - (with_target(each) - moved / 2)[:, None])
                above += int((beyond > 0).sum())
            return Seen(above, 40 * 50)

        p, less = trials(True).at_least(MISS / 2), trials(False).at_most(MISS / 2)
        return float(norm.ppf(p) - norm.ppf(less))

    assert 0.2 * stated < mu_at_least(noise) <= stated
    assert mu_at_least(halved(noise)) > stated


# --- the hidden join -----------------------------------------------------------------------------


class KnownAuthors:
    """Real draws, kept by author: each party runs on a thread of its own."""

    def __init__(self, *, second_draws: bool = True) -> None:
        self._inner, self._second = OpenDpNoise(), second_draws
        self._lock = threading.Lock()
        self.drawn: dict[int, list[Int64Array]] = {}

    def draw(self, distribution: Distribution, scale: Fraction, count: int) -> Int64Array:
        with self._lock:
            of_author = self.drawn.setdefault(threading.get_ident(), [])
            found: Int64Array = self._inner.draw(distribution, scale, count)
            if len(self.drawn) == 2 and not self._second:
                found = np.zeros_like(found)
            of_author.append(found)
        return found

    def of_first_author(self) -> Int64Array:
        found: Int64Array = np.stack(next(iter(self.drawn.values())))
        return found


@dataclass(frozen=True)
class Hidden:
    """The hidden join of `groups` groups of five, each perhaps with the target."""

    groups: int = 300
    each: int = 5
    runs: int = 5

    def trials(self, noise: Noise, *, target: bool, second_draws: bool = True) -> Seen:
        plan = a_plan(Join.HIDDEN)
        # The gate is another test's: so few people would never pass its slack.
        layout = replace(layout_of(plan, self.groups), min_group=1, slack=0)
        rows = people(self.groups, self.each, target=target)
        b = SideRows(rows.tokens, np.zeros(len(rows), np.int64), np.zeros((len(rows), 0), np.int64))
        scales = NoiseScales(noise.distribution, noise.scales, noise_authors(plan))
        found = []
        for _ in range(self.runs):
            source = KnownAuthors(second_draws=second_draws)
            tasks = tasks_of(layout, caps=(2000, 2000), noise=scales)
            outcome = run_three(tasks, rows, b, noise=source)  # type: ignore[arg-type]
            output = outcome.output  # a run that failed says so here
            off = source.of_first_author()
            found.append(shown_and_reached(layout, output, self.each, off))
        return together(found)

    def bound(self, noise: Noise, *, second_draws: bool = True) -> float:
        return lower_bound(
            lambda target: self.trials(noise, target=target, second_draws=second_draws), noise.delta
        )


@pytest.mark.parametrize("runs", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_hidden_joins_answer_without_one_authors_noise_is_still_worth_the_stated_epsilon(
    runs: int,
) -> None:
    found = Hidden(runs=runs).bound(the_noise())
    assert found <= EPSILON


@pytest.mark.slow
def test_half_the_noise_in_a_hidden_join_is_caught() -> None:
    assert Hidden(runs=30).bound(halved(the_noise())) > EPSILON


def test_a_hidden_join_with_one_author_is_caught_where_that_one_is_the_attacker() -> None:
    assert Hidden(runs=1).bound(the_noise(), second_draws=False) > 2 * EPSILON


# --- the padded count ----------------------------------------------------------------------------


def of_a_size(
    observer: Observer, drawn: Padding, bounds: PaddingBounds, *, above: int, runs: int
) -> float:
    return lower_bound(
        lambda target: times_above(observer, drawn, runs, target_in=target, above=above),
        bounds.delta,
    )


SIZES = PaddingBounds(Fraction(1), Fraction(1, 1000), 1)


@pytest.mark.parametrize("runs", [3_000, pytest.param(40_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("observer", OBSERVERS.values(), ids=OBSERVERS)
def test_the_padded_count_is_worth_no_more_epsilon_than_stated(
    observer: Observer, runs: int
) -> None:
    drawn = padding(SIZES)
    found = of_a_size(observer, drawn, SIZES, above=OTHERS + drawn.shift, runs=runs)
    assert 0.5 < found <= SIZES.epsilon


def test_a_padding_for_twice_the_epsilon_is_caught() -> None:
    drawn = padding(replace(SIZES, epsilon=2 * SIZES.epsilon))
    above = OTHERS + drawn.shift
    assert of_a_size(OBSERVERS["holder"], drawn, SIZES, above=above, runs=4_000) > SIZES.epsilon


def test_a_geometric_padding_that_starts_at_zero_is_caught() -> None:
    """One in two runs adds nobody: its least count is one that the neighbour never shows."""
    table = tuple(2**128 - 2 ** (127 - k) for k in range(30))
    drawn = Padding(15, (*table, 2**128))
    found = lower_bound(
        lambda target: missing(
            times_above(OBSERVERS["helper"], drawn, 300, target_in=not target, above=OTHERS)
        ),
        SIZES.delta,
    )
    assert SIZES.epsilon < found < inf


def missing(seen: Seen) -> Seen:
    return Seen(seen.of - seen.times, seen.of)


@pytest.mark.parametrize("observer", OBSERVERS.values(), ids=OBSERVERS)
def test_counts_that_only_one_database_can_make_come_no_more_often_than_delta(
    observer: Observer,
) -> None:
    """The largest draw and the target: one more than the neighbour can show. delta is large here
    so that it can be seen at all."""
    bounds = PaddingBounds(Fraction(1), Fraction(1, 20), 1)
    drawn = padding(bounds)
    beyond = OTHERS + 2 * drawn.shift
    seen = times_above(observer, drawn, 2_000, target_in=True, above=beyond)
    assert seen.times > 0
    assert seen.at_least(MISS) <= bounds.delta
    assert times_above(observer, drawn, 500, target_in=False, above=beyond).times == 0
