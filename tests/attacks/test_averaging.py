"""Averaging: the same question again and again, each time with fresh noise.

Attacker:        a consumer, or several that pool their answers
Knowledge:       the plan, hence the distribution of the noise
Goal:            the exact count behind a noisy one
Success measure: how often the mean of all answers, rounded, is the exact count
False alarms:    a right account exceeds the stated rate by five deviations once in 10**6 runs

The gate can only withhold answers, so the attacker is spared it here.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import sqrt, tanh

import numpy as np
import numpy.typing as npt
import pytest

from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.noise import Distribution
from exchange.errors import BudgetExhausted
from exchange.privacy import NOTHING, account_of, cost_of, reserve
from exchange.query.plan import Noise, Plan
from registry.product import DataProduct
from registry.rule import Join, PrivacyRule
from tests.query_plans import CLINIC, a_query_plan, a_query_product, with_noise

Int64Array = npt.NDArray[np.int64]
EXACT = 137
TOTAL = Fraction(1)


def the_product() -> DataProduct:
    product = a_query_product(CLINIC)
    spent = PrivacyRule(TOTAL, TOTAL, Fraction(1, 100), noise=True)
    return replace(product, rule=replace(product.rule, privacy=spent))


def asking(epsilon: Fraction, distribution: Distribution = Distribution.LAPLACE) -> Plan:
    """The number of people, for this epsilon."""
    plan = a_query_plan(join=Join.ALONE, products=(the_product(),) * 2)
    return with_noise(plan, epsilon=epsilon, distribution=distribution)


def noise_of(plan: Plan) -> Noise:
    noise = plan.query.noise
    assert noise is not None
    return noise


def means(noise: Noise, answers: int, trials: int) -> npt.NDArray[np.float64]:
    """What each of `trials` attackers has after averaging `answers` answers."""
    (scale,) = noise.scales
    drawn: Int64Array = OpenDpNoise().draw(noise.distribution, scale, answers * trials)
    found: npt.NDArray[np.float64] = EXACT + drawn.reshape(trials, answers).mean(axis=1)
    return found


def share_recovered(noise: Noise, answers: int, trials: int) -> float:
    return float((np.rint(means(noise, answers, trials)) == EXACT).mean())


def answers_granted(plan: Plan) -> int:
    """How often the product's account pays for this plan."""
    account, granted = account_of(the_product(), NOTHING), 0
    while True:
        try:
            account = reserve(account, cost_of(plan))
        except BudgetExhausted as refused:
            assert refused.name == "epsilon"
            return granted
        granted += 1


def test_without_an_account_cheap_answers_add_up_to_the_exact_one() -> None:
    """1,500 answers: the mean has a deviation of 0.15, and hardly ever rounds to another count."""
    assert share_recovered(noise_of(asking(Fraction(1, 4))), answers=1500, trials=40) > 0.9


@pytest.mark.parametrize("epsilon", [Fraction(1), Fraction(1, 4), Fraction(1, 20)], ids=str)
def test_the_account_pays_for_no_more_answers_than_its_total(epsilon: Fraction) -> None:
    assert answers_granted(asking(epsilon)) == TOTAL / epsilon


@pytest.mark.parametrize("trials", [1000, pytest.param(40_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("epsilon", [Fraction(1), Fraction(1, 4), Fraction(1, 20)], ids=str)
def test_with_the_account_no_split_of_epsilon_recovers_more_than_one_answer_would(
    epsilon: Fraction, trials: int
) -> None:
    """No answer of epsilon in all is right more often than tanh(epsilon / 2): that is the discrete
    Laplace distribution's largest chance, and no distribution's is larger."""
    plan = asking(epsilon)
    most = tanh(float(TOTAL) / 2)
    spare = 5 * sqrt(most * (1 - most) / trials)
    assert share_recovered(noise_of(plan), answers_granted(plan), trials) <= most + spare


def test_the_error_that_is_left_is_that_of_the_whole_budget_spent_at_once() -> None:
    """Or larger: many cheap answers are worth less than one dear one. The mean of 4,000 magnitudes
    is off by less than five deviations."""
    errors = {}
    for epsilon in (Fraction(1), Fraction(1, 4), Fraction(1, 20)):
        plan = asking(epsilon)
        found = means(noise_of(plan), answers_granted(plan), 4000) - EXACT
        errors[epsilon] = float(np.abs(found).mean())
    q = float(np.exp(-float(TOTAL)))
    at_once = 2 * q / (1 - q * q)  # E|k| of the discrete Laplace distribution
    for error in errors.values():
        assert error > 0.85 * at_once
    assert errors[Fraction(1, 20)] > errors[Fraction(1, 4)] > errors[Fraction(1)]
