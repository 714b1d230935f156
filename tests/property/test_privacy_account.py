"""Laws of privacy accounts, and their claim against the true privacy loss of what they admit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identifiers import ProductId
from crypto.noise import gaussian_epsilon, gaussian_rho
from exchange.errors import BudgetExhausted
from exchange.privacy import CONVERSION, NOTHING, PrivacyAccount, PrivacyCost, give_back, reserve

PRODUCT = ProductId("prd_019ad000-0000-7000-8000-000000000001")
Float64Array = npt.NDArray[np.float64]

fractions = st.fractions(0, 1, max_denominator=40)
small = st.fractions(0, Fraction(1, 1000), max_denominator=10**6)
costs = st.one_of(
    st.builds(lambda e, d: PrivacyCost(e, Fraction(0), Fraction(0), d), fractions, small),
    st.builds(
        lambda e, g, d: PrivacyCost(e, g, gaussian_rho(g, d), d),
        fractions,
        st.fractions(Fraction(1, 100), 1, max_denominator=100),
        st.fractions(Fraction(1, 10**6), Fraction(1, 1000), max_denominator=10**6),
    ),
)
accounts = st.builds(
    lambda e, d: PrivacyAccount(PRODUCT, e, d, NOTHING),
    st.fractions(Fraction(1, 10), 10, max_denominator=20),
    st.fractions(0, Fraction(1, 100), max_denominator=10**6),
)


@given(accounts, st.lists(st.tuples(costs, st.booleans()), max_size=30))
def test_no_order_of_reserving_and_giving_back_exceeds_the_totals(
    account: PrivacyAccount, steps: Sequence[tuple[PrivacyCost, bool]]
) -> None:
    held: list[PrivacyCost] = []
    for cost, returns in steps:
        before = account
        try:
            account = reserve(account, cost)
            held.append(cost)
        except BudgetExhausted as refused:
            assert account == before
            left = account.epsilon_left if refused.name == "epsilon" else account.delta_left
            assert refused.left == left < refused.asked
        if returns and held:
            account = give_back(account, held.pop(0))
        assert account.epsilon_left >= 0
        assert account.delta_left >= 0
        total = NOTHING
        for one in held:
            total = total + one
        assert account.spent == total


@given(accounts, costs, costs)
def test_giving_back_undoes_reserving_whatever_came_between(
    account: PrivacyAccount, first: PrivacyCost, second: PrivacyCost
) -> None:
    try:
        both = reserve(reserve(account, first), second)
    except BudgetExhausted:
        return
    assert give_back(both, first) == reserve(account, second)
    assert give_back(give_back(both, second), first) == account


@given(accounts, st.lists(costs, min_size=1, max_size=20))
def test_never_more_is_charged_than_by_basic_composition(
    account: PrivacyAccount, jobs: Sequence[PrivacyCost]
) -> None:
    total = NOTHING
    for cost in jobs:
        total = total + cost
    spent = replace(account, spent=total)
    assert total.epsilon <= spent.epsilon_spent <= total.epsilon + total.gaussian


@given(accounts, st.fractions(1, 2, max_denominator=10), costs, costs)
def test_a_higher_total_never_leaves_less(
    account: PrivacyAccount, factor: Fraction, first: PrivacyCost, second: PrivacyCost
) -> None:
    spent = replace(account, spent=first + second)
    higher = replace(spent, epsilon_total=spent.epsilon_total * factor)
    assert higher.epsilon_left >= spent.epsilon_left - Fraction(1, 10**9)


@given(
    st.fractions(Fraction(1, 10), 20, max_denominator=20),
    st.integers(2, 12),
    st.fractions(0, 4, max_denominator=1000),
)
def test_one_order_never_claims_less_than_the_best_order_would(
    epsilon: Fraction, digits: int, rho: Fraction
) -> None:
    delta = Fraction(1, 10**digits)
    account = PrivacyAccount(
        PRODUCT, epsilon, delta, PrivacyCost(Fraction(0), Fraction(10**6), rho, Fraction(0))
    )
    if rho:
        assert account.epsilon_spent >= gaussian_epsilon(rho, CONVERSION * delta) * (
            1 - Fraction(1, 10**11)
        )


# Against the true privacy loss. A loss is rounded down to the grid, so a claim that is too small
# by more than the grid fails; nothing here is drawn.

GRID = 1 / 256
REACH = 16


def loss_of(masses: Float64Array, neighbour: Float64Array) -> Float64Array:
    """The distribution of floor(ln(p/q) / GRID) under p, from -REACH to REACH; what only p can
    produce counts at REACH."""
    found = np.zeros(2 * round(REACH / GRID) + 1)
    possible = masses > 0
    ratio = np.full(masses.shape, float(REACH))
    both = possible & (neighbour > 0)
    ratio[both] = np.clip(np.log(masses[both] / neighbour[both]), -REACH, REACH)
    places = np.floor(ratio[possible] / GRID).astype(int) + round(REACH / GRID)
    np.add.at(found, places, masses[possible])
    return found


def discrete(weights: Float64Array, shift: int = 1) -> Float64Array:
    """Loss of noise with these masses between a database and one where a person adds `shift`."""
    masses = weights / weights.sum()
    padded = np.concatenate([masses, np.zeros(shift)])
    return loss_of(padded, np.concatenate([np.zeros(shift), masses]))


def laplace(epsilon: float) -> Float64Array:
    k = np.arange(-4000, 4001)
    return discrete(np.exp(-np.abs(k) * epsilon))


def gaussian(rho: float) -> Float64Array:
    sigma = math.sqrt(1 / (2 * rho))
    k = np.arange(-int(30 * sigma) - 30, int(30 * sigma) + 31)
    return discrete(np.exp(-(k**2) / (2 * sigma**2)))


def together(losses: Sequence[Float64Array]) -> Float64Array:
    middle = round(REACH / GRID)
    found = losses[0]
    for loss in losses[1:]:
        whole = np.convolve(found, loss)
        found = whole[middle : middle + 2 * middle + 1].copy()
        found[0] += whole[:middle].sum()
        found[-1] += whole[3 * middle + 1 :].sum()
    return found


def true_delta(loss: Float64Array, epsilon: float) -> float:
    """The least delta at epsilon: the sum over losses l of p(l) * max(0, 1 - e**(epsilon - l))."""
    values = (np.arange(loss.size) - round(REACH / GRID)) * GRID
    return float((loss * np.maximum(0.0, 1 - np.exp(epsilon - values))).sum())


@pytest.mark.parametrize(
    ("total", "padding", "laplaces", "gaussians", "each"),
    [
        (4, 0, 3, 1, Fraction(1, 2)),
        (4, 0, 0, 12, Fraction(1, 2)),
        (4, 2, 1, 8, Fraction(1, 2)),
        (2, 0, 0, 40, Fraction(1, 10)),
        (6, 0, 0, 5, Fraction(2)),
    ],
)
def test_the_true_privacy_loss_of_all_jobs_stays_below_the_account(
    total: int, padding: int, laplaces: int, gaussians: int, each: Fraction
) -> None:
    delta = Fraction(1, 10**4)
    rho = gaussian_rho(each, delta)
    account = PrivacyAccount(PRODUCT, Fraction(total), Fraction(1, 20), NOTHING)
    tenth, none = Fraction(1, 10), Fraction(0)
    for _ in range(padding + laplaces):
        account = replace(account, spent=account.spent + PrivacyCost(tenth, none, none, none))
    for _ in range(gaussians):
        account = replace(account, spent=account.spent + PrivacyCost(none, each, rho, delta))
    losses = [laplace(float(tenth))] * (padding + laplaces) + [gaussian(float(rho))] * gaussians
    loss = together(losses)
    assert true_delta(loss, float(account.epsilon_spent)) <= float(account.delta_spent)
    # The test can fail: a twentieth of the claim is no bound.
    assert true_delta(loss, float(account.epsilon_spent) / 20) > float(account.delta_spent)


def test_waiting_for_a_lucky_moment_beats_the_best_order_and_not_the_fixed_one() -> None:
    """The loss of Gaussian noise is a random walk: N(rho, 2*rho) after jobs worth rho together. A
    consumer asks for a little more each time and stops when the loss exceeds the bound.

    delta' is 1/10. 20,000 walks: six standard errors are 0.013, so each half of the test fails by
    chance in under one of 10**8 runs.
    """
    account = PrivacyAccount(PRODUCT, Fraction(4), Fraction(8, 10), NOTHING)
    conversion = CONVERSION * account.delta_total
    assert conversion == Fraction(1, 10)
    most = gaussian_rho(account.epsilon_total, conversion)
    points = [most / 2**k for k in range(40, -1, -1)]
    rng = np.random.default_rng(20261123)
    walks, before = np.zeros(20_000), Fraction(0)
    lucky_best = np.zeros(20_000, dtype=bool)
    lucky_fixed = np.zeros(20_000, dtype=bool)
    for rho in points:
        step = float(rho - before)
        walks += step + math.sqrt(2 * step) * rng.standard_normal(walks.size)
        before = rho
        spent = PrivacyCost(Fraction(0), Fraction(10**6), rho, Fraction(0))
        lucky_best |= walks > float(gaussian_epsilon(rho, conversion))
        lucky_fixed |= walks > float(replace(account, spent=spent).epsilon_spent)
    assert lucky_best.mean() > 0.1 + 0.013
    assert lucky_fixed.mean() < 0.1
