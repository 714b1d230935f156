"""Reconstruction: a secret column from many counts, by linear programming.

Attacker:        a consumer that asks for counts of people with a secret mark, over random subsets
Knowledge:       everybody's other attributes, hence who is in each subset
Goal:            the secret mark of each person
Success measure: the share of people whose mark it gets right; guessing gets one half
False alarms:    marks and subsets are drawn from a fixed seed; noise is the system's. A right
                 account exceeds the stated share by five deviations once in 10**6 runs
Source:          Dinur and Nissim 2003; as a linear program, Dwork, McSherry and Talwar 2007.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from math import sqrt

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import linprog  # type: ignore[import-untyped]  # ships without types

from crypto.adapters.opendp_noise import OpenDpNoise
from exchange.errors import BudgetExhausted
from exchange.node.history import Counted, require_no_isolation
from exchange.privacy import NOTHING, account_of, cost_of, reserve
from exchange.query.plan import Plan
from registry.product import DataProduct
from registry.rule import Join, PrivacyRule
from tests.attacks.measured import most_guessed
from tests.query_plans import CLINIC, a_query_plan, a_query_product, with_noise

Int64Array = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
PEOPLE, QUESTIONS, LEAST = 60, 240, 5
TOTAL = Fraction(1)


def the_secret(seed: int = 0) -> tuple[Int64Array, Int64Array]:
    """Each person's mark, and who is in each question: shapes (people,), (questions, people)."""
    random = np.random.default_rng(seed)
    return random.integers(0, 2, PEOPLE), random.integers(0, 2, (QUESTIONS, PEOPLE))


def reconstructed(subsets: Int64Array, counts: Floats) -> Int64Array:
    """The marks whose counts differ least from the answers, as a sum of magnitudes.

    Minimise the sum of e over 0 <= x <= 1, e >= 0 with -e <= subsets @ x - counts <= e; round x.
    """
    questions, people = subsets.shape
    both = np.block([[subsets, -np.eye(questions)], [-subsets, -np.eye(questions)]])
    found = linprog(
        np.concatenate([np.zeros(people), np.ones(questions)]),
        A_ub=both,
        b_ub=np.concatenate([counts, -counts]),
        bounds=[(0, 1)] * people + [(0, None)] * questions,
        method="highs",
    )
    assert found.status == 0
    marks: Int64Array = (found.x[:people] > 0.5).astype(np.int64)
    return marks


def share_right(marks: Int64Array, found: Int64Array) -> float:
    return float((marks == found).mean())


def the_product() -> DataProduct:
    product = a_query_product(CLINIC)
    spent = PrivacyRule(TOTAL, TOTAL, Fraction(1, 100), noise=True)
    return replace(product, rule=replace(product.rule, privacy=spent))


def asking(epsilon: Fraction) -> Plan:
    plan = a_query_plan(join=Join.ALONE, products=(the_product(),) * 2)
    return with_noise(plan, epsilon=epsilon)


def noise(epsilon: Fraction, count: int) -> Int64Array:
    """Of so many answers to plans that cost so much each."""
    stated = asking(epsilon).query.noise
    assert stated is not None
    found: Int64Array = OpenDpNoise().draw(stated.distribution, stated.scales[0], count)
    return found


def test_exact_counts_give_nearly_everybody_away() -> None:
    marks, subsets = the_secret()
    assert share_right(marks, reconstructed(subsets, (subsets @ marks).astype(float))) > 0.9


def test_noise_of_a_person_or_two_does_not_help_if_questions_are_free() -> None:
    """Epsilon 1 each, 240 in all: errors of two people and more in the mean."""
    marks, subsets = the_secret()
    counts = subsets @ marks + noise(Fraction(1), QUESTIONS)
    assert share_right(marks, reconstructed(subsets, counts.astype(float))) > 0.9


def test_random_subsets_pass_the_history_gate_so_exact_answers_have_no_end_but_the_runs() -> None:
    """The published limit: it compares pairs of answers, and no two random subsets differ in few
    people. What ends this is the agreement's number of runs, or noise and an account."""
    _, subsets = the_secret()
    asked = [Counted(np.where(subset == 1, 0, -2), floor=LEAST) for subset in subsets[:60]]
    for new, earlier in combinations(asked, 2):
        require_no_isolation(new, earlier, LEAST)


def test_the_account_ends_it_after_its_total() -> None:
    plan, account = asking(TOTAL / QUESTIONS), account_of(the_product(), NOTHING)
    for _ in range(QUESTIONS):
        account = reserve(account, cost_of(plan))
    with pytest.raises(BudgetExhausted):
        reserve(account, cost_of(plan))


@pytest.mark.parametrize("questions", [1, 20, QUESTIONS])
def test_with_the_whole_account_spent_marks_are_hardly_better_than_guessed(questions: int) -> None:
    """However it is split. No attacker gets one person's mark right more often than
    exp(1) / (1 + exp(1)) = 73 %; 10 attackers at 60 marks stay below that by far."""
    right = []
    for seed in range(10):
        marks, subsets = the_secret(seed)
        counts = subsets[:questions] @ marks + noise(TOTAL / questions, questions)
        right.append(share_right(marks, reconstructed(subsets[:questions], counts.astype(float))))
    trials = 10 * PEOPLE
    share = sum(right) / len(right)
    # This attacker gets 60 % or less; five deviations of 600 guesses are 10 %.
    assert share < min(most_guessed(float(TOTAL)), 0.6 + 5 * sqrt(0.25 / trials))
