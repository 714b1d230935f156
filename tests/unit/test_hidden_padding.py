"""The numbers of docs/hidden_join.md, *Padding*, and draws that follow them."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from crypto.engine import PaddingBounds
from crypto.joins.hidden.padding import delta_of, deviation, least_shift, padding
from crypto.noise import Distribution, slack

BILLIONTH = Fraction(1, 10**9)
EPSILONS = [Fraction(1, 10), Fraction(1, 5), Fraction(3, 10), Fraction(1, 2), Fraction(1)]


def bounds(epsilon: Fraction, contribution: int = 1) -> PaddingBounds:
    return PaddingBounds(epsilon, BILLIONTH, contribution)


def chances(given: PaddingBounds) -> list[Fraction]:
    """Exactly what the table draws: Pr[0], Pr[1], …"""
    table = padding(given).table
    return [Fraction(high - low, 2**128) for low, high in zip((0, *table[:-1]), table, strict=True)]


@pytest.mark.parametrize(
    ("contribution", "shifts"), [(1, [178, 93, 63, 39, 20]), (5, [889, 463, 316, 196, 103])]
)
def test_the_shift_is_the_one_in_the_specification(contribution: int, shifts: list[int]) -> None:
    assert [least_shift(bounds(e, contribution)) for e in EPSILONS] == shifts


def test_the_standard_deviation_is_the_one_in_the_specification() -> None:
    found = [deviation(bounds(epsilon)) for epsilon in EPSILONS]
    assert [round(one) for one in found[:2]] == [14, 7]
    assert [round(one, 1) for one in found[2:]] == [4.7, 2.8, 1.4]


def test_the_gates_slack_is_the_one_in_the_specification() -> None:
    found = [slack(Distribution.LAPLACE, 1 / epsilon, BILLIONTH) for epsilon in EPSILONS]
    assert found == [226, 114, 76, 46, 23]


@pytest.mark.parametrize(
    "scale", [Fraction(1, 10**38 - 1), Fraction(3, 10**7), Fraction(1, 2_400_000), Fraction(1, 100)]
)
@pytest.mark.parametrize("beta", [Fraction(1, 10**38 - 1), BILLIONTH, Fraction(1, 2)])
@pytest.mark.parametrize("distribution", Distribution)
def test_noise_too_narrow_to_be_seen_needs_the_least_slack(
    distribution: Distribution, scale: Fraction, beta: Fraction
) -> None:
    assert slack(distribution, scale, beta) == 1


@pytest.mark.parametrize("contribution", [1, 3, 5])
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_shift_meets_delta_and_a_smaller_one_does_not(
    epsilon: Fraction, contribution: int
) -> None:
    given = bounds(epsilon, contribution)
    shift = least_shift(given)
    assert delta_of(given, shift) <= BILLIONTH < delta_of(given, shift - 1)


@pytest.mark.parametrize("contribution", [1, 2, 5])
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_neighbouring_counts_are_within_epsilon_except_for_delta(
    epsilon: Fraction, contribution: int
) -> None:
    """Both directions, on the table itself: what one neighbour alone can produce has at most mass
    delta, everything else a ratio of at most exp(epsilon). 1e-20 of either is the table's
    rounding: its entries are multiples of 2**-128."""
    given = bounds(epsilon, contribution)
    found = chances(given)
    assert sum(found[:contribution]) <= BILLIONTH * (1 + Fraction(1, 10**20))
    assert sum(found[-contribution:]) <= BILLIONTH * (1 + Fraction(1, 10**20))
    with localcontext() as context:
        context.prec = 60
        ratio = Fraction((Decimal(epsilon.numerator) / Decimal(epsilon.denominator)).exp())
    for one, other in zip(found, found[contribution:], strict=False):
        assert max(one, other) <= min(one, other) * ratio * (1 + Fraction(1, 10**20))


def test_a_geometric_draw_from_zero_would_not_be_private() -> None:
    """The twin that the specification warns of: its count 0 alone gives a person away."""
    q = Decimal(-1).exp()
    assert float(1 - q) > 0.6


def test_every_draw_lies_between_nothing_and_twice_the_shift() -> None:
    given = padding(bounds(Fraction(1)))
    assert given.draw(bytes(16)) == 0
    assert given.draw(b"\xff" * 16) == 2 * given.shift
    assert given.table[-1] == 2**128
    assert all(low < high for low, high in zip(given.table, given.table[1:], strict=False))


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 40,000 draws with fixed random bits; by chance 1 seed in 10**4 would fail."""
    given = bounds(Fraction(1, 2))
    drawn, many = padding(given), 40_000
    random = np.random.default_rng(7)
    seen = np.bincount(
        [drawn.draw(random.bytes(16)) for _ in range(many)], minlength=2 * drawn.shift + 1
    )
    expected = np.array([float(chance) * many for chance in chances(given)])
    common = expected >= 5
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    # Wilson and Hilferty: the 0.9999 quantile of chi-square.
    freedom = int(common.sum()) - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_a_draw_takes_exactly_its_random_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        padding(bounds(Fraction(1))).draw(bytes(8))
