"""Membership by sizes: does the number of pairs say that one person is in both tables?

Attacker:        a party that computes: a holder, or the helper
Knowledge:       everybody else of both tables, the plan, its own messages, keys and draws: a holder
                 knows the agreed draw `a`, the helper its own draw `h`
Goal:            to say whether the target, who is in one table, is in the other too
Success measure: advantage: how much more often it says "in" when the target is in than when not
False alarms:    bounds are Clopper-Pearson; a right padding fails a test once in 10**6 runs at most
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from crypto.engine import PaddingBounds
from crypto.joins.hidden.keys import pair_pads
from crypto.joins.hidden.padding import DRAW_BYTES, padding
from tests.attacks.measured import Seen, most_advantage
from tests.attacks.sizes import OBSERVERS, OTHERS, UNPADDED, Observer, one_run, times_above
from tests.fakes.three_parties import run_three, tasks_of
from tests.fakes.two_sides import a_layout, two_sides

MISS = 1e-6
BOUNDS = [
    PaddingBounds(Fraction(1, 2), Fraction(1, 10**4), 1),
    PaddingBounds(Fraction(1), Fraction(1, 10**3), 1),
]
by_observer = pytest.mark.parametrize("observer", OBSERVERS.values(), ids=OBSERVERS)
by_bounds = pytest.mark.parametrize("bounds", BOUNDS, ids=lambda b: f"epsilon {b.epsilon}")


def says_in(observer: Observer, bounds: PaddingBounds, runs: int, *, target_in: bool) -> Seen:
    """The best attacker there is: more than OTHERS and the mean draw is "in"."""
    drawn = padding(bounds)
    return times_above(observer, drawn, runs, target_in=target_in, above=OTHERS + drawn.shift)


@by_observer
def test_without_padding_one_run_tells_who_is_in_both_tables(observer: Observer) -> None:
    for target_in in (True, False):
        found = times_above(observer, UNPADDED, 50, target_in=target_in, above=OTHERS)
        assert found == Seen(50 if target_in else 0, 50)


@pytest.mark.parametrize("runs", [4_000, pytest.param(40_000, marks=pytest.mark.slow)])
@by_bounds
@by_observer
def test_with_padding_the_advantage_is_the_one_that_epsilon_permits(
    observer: Observer, bounds: PaddingBounds, runs: int
) -> None:
    inside = says_in(observer, bounds, runs, target_in=True)
    outside = says_in(observer, bounds, runs, target_in=False)
    permitted = most_advantage(float(bounds.epsilon), float(bounds.delta))
    assert inside.at_least(MISS / 2) - outside.at_most(MISS / 2) <= permitted
    # And not because the attacker is a bad one: it comes close.
    assert inside.at_most(MISS / 2) - outside.at_least(MISS / 2) >= 0.9 * permitted


@by_bounds
def test_padding_for_twice_the_epsilon_is_caught(bounds: PaddingBounds) -> None:
    """The measure bites: so narrow a twin is beyond what the stated epsilon permits."""
    twin = PaddingBounds(2 * bounds.epsilon, bounds.delta, bounds.contribution)
    inside = says_in(OBSERVERS["holder"], twin, 6_000, target_in=True)
    outside = says_in(OBSERVERS["holder"], twin, 6_000, target_in=False)
    permitted = most_advantage(float(bounds.epsilon), float(bounds.delta))
    assert inside.at_least(MISS / 2) - outside.at_most(MISS / 2) > permitted


def test_who_knows_both_draws_knows_the_count() -> None:
    """The published limit: a helper and a holder together read what each alone does not."""
    for target_in in (True, False):
        run = one_run(padding(BOUNDS[0]), target_in=target_in)
        assert run.pairs - run.agreed - run.own == OTHERS + target_in


def test_asking_again_averages_fresh_draws_out_and_only_the_account_ends_that() -> None:
    """400 jobs at epsilon 1/2 give the count away, and cost epsilon 200. The mean of the draws has
    a deviation of 0.14; by chance 1 run in 10**6 would be off by more than 0.7."""
    jobs, drawn = 400, padding(BOUNDS[0])
    left = [one_run(drawn, target_in=True).at_holder for _ in range(jobs)]
    assert abs(sum(left) / jobs - drawn.shift - (OTHERS + 1)) < 0.7
    assert jobs * BOUNDS[0].epsilon == 200


def test_the_parties_of_a_run_see_no_other_count_than_the_one_measured_here() -> None:
    """All three for real: both lists are M + a + h long, and everybody reports that number."""
    bounds, layout = BOUNDS[1], a_layout(1, 1, 0, 0, min_group=1)
    given = two_sides(40, overlap=20, layout=layout)
    tasks = tasks_of(layout, caps=(50, 50), padding=bounds)
    outcome = run_three(tasks, given.a, given.b)
    outcome.require()
    counted = [rows.tokens[rows.group >= 0].view("V16") for rows in (given.a, given.b)]
    matched = int(np.isin(counted[0], counted[1]).sum())
    bytes_of_a = pair_pads(tasks[0].seat, 1).agreed.stream(0).words(DRAW_BYTES // 8).tobytes()
    agreed = padding(bounds).draw(bytes_of_a)
    lengths = {len(m.payload) // 4 for m in outcome.messages if m.label == "positions"}
    assert lengths == {result.learned["pairs"] for result in outcome.results.values()}
    assert 0 <= lengths.pop() - matched - agreed <= 2 * padding(bounds).shift
