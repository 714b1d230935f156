"""Noise is tested by its distribution; each test fails by chance in under one of 10**5 runs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chi2  # type: ignore[import-untyped]  # ships without types

from crypto.adapters.opendp_noise import OpenDpNoise, epsilon_of, rho_of
from crypto.errors import Malformed
from crypto.noise import MAX_SCALE, Distribution, gaussian_epsilon

FALSE_ALARM = 1e-7  # of chi-square; rare cells make the true one larger, below 1e-5
DRAWS = 20_000


def masses(distribution: Distribution, scale: float, reach: int) -> npt.NDArray[np.float64]:
    """Pr[k] for k = -reach .. reach, from the definition of the distribution."""
    k = np.arange(-reach, reach + 1)
    if distribution is Distribution.LAPLACE:
        q = math.exp(-1 / scale)
        laplace: npt.NDArray[np.float64] = (1 - q) / (1 + q) * q ** np.abs(k)
        return laplace
    every = np.arange(-100 * reach, 100 * reach + 1)
    total = float(np.exp(-(every**2) / (2 * scale**2)).sum())
    gaussian: npt.NDArray[np.float64] = np.exp(-(k**2) / (2 * scale**2)) / total
    return gaussian


@pytest.mark.parametrize("distribution", Distribution, ids=lambda d: d.value)
@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(7, 3), Fraction(6)], ids=str)
def test_draws_follow_the_discrete_distribution(
    distribution: Distribution, scale: Fraction
) -> None:
    """Pearson's chi-square over -2s..2s and everything beyond."""
    drawn = OpenDpNoise().draw(distribution, scale, DRAWS)
    assert drawn.dtype == np.int64
    assert drawn.shape == (DRAWS,)
    reach = math.ceil(2 * scale)
    mass = masses(distribution, float(scale), reach)
    inside = np.array([(drawn == k).sum() for k in range(-reach, reach + 1)])
    expected = DRAWS * np.append(mass, 1 - mass.sum())
    found = np.append(inside, DRAWS - inside.sum())
    statistic = float(((found - expected) ** 2 / expected).sum())
    assert statistic < chi2.isf(FALSE_ALARM, len(found) - 1)


def test_a_continuous_draw_that_was_rounded_would_be_noticed() -> None:
    """The nearest forgery: the chi-square test above tells it from the discrete distribution."""
    scale = 0.5
    drawn = np.rint(np.random.default_rng(0).laplace(0, scale, DRAWS)).astype(np.int64)
    mass = masses(Distribution.LAPLACE, scale, 1)
    found = np.array([(drawn == k).sum() for k in (-1, 0, 1)])
    statistic = float(((found - DRAWS * mass) ** 2 / (DRAWS * mass)).sum())
    assert statistic > chi2.isf(FALSE_ALARM, 3)


def test_a_large_scale_is_met() -> None:
    """Mean magnitude of Laplace noise is its scale; |z| > 5 has odds below 1e-6."""
    scale = Fraction(2**40)
    drawn = OpenDpNoise().draw(Distribution.LAPLACE, scale, DRAWS)
    mean = float(np.abs(drawn).astype(np.float64).mean()) / 2**40
    assert abs(mean - 1) < 5 / DRAWS**0.5
    assert len(np.unique(drawn % 64)) == 64  # low bits are noise as well


def test_no_two_draws_are_made_of_the_same_randomness() -> None:
    source = OpenDpNoise()
    first = source.draw(Distribution.GAUSSIAN, Fraction(2**30), 100)
    second = source.draw(Distribution.GAUSSIAN, Fraction(2**30), 100)
    assert not (first == second).any()
    assert len(np.unique(first)) == 100


def test_no_draw_is_asked_for_no_component() -> None:
    assert OpenDpNoise().draw(Distribution.LAPLACE, Fraction(2), 0).shape == (0,)


@pytest.mark.parametrize("scale", [Fraction(0), Fraction(-1), Fraction(MAX_SCALE + 1)], ids=str)
def test_a_scale_without_a_distribution_is_refused(scale: Fraction) -> None:
    with pytest.raises(Malformed, match="scale"):
        OpenDpNoise().draw(Distribution.LAPLACE, scale, 1)


@pytest.mark.parametrize("scale", [Fraction(10), Fraction(7, 3), Fraction(10**12 + 1, 3)], ids=str)
def test_a_laplace_draw_costs_its_sensitivity_over_its_scale_and_never_less(
    scale: Fraction,
) -> None:
    for sensitivity in (Fraction(1), Fraction(5)):
        cost = epsilon_of(Distribution.LAPLACE, scale, sensitivity, Fraction(0))
        assert sensitivity / scale <= cost <= sensitivity / scale * Fraction(10**10 + 1, 10**10)


def test_a_gaussian_draw_costs_half_the_square_under_zcdp_and_never_less() -> None:
    exact = Fraction(3) ** 2 / (2 * Fraction(7, 3) ** 2)
    assert exact <= rho_of(Fraction(7, 3), Fraction(3)) <= exact * Fraction(10**10 + 1, 10**10)


def test_a_gaussian_draw_costs_no_more_than_the_textbook_conversion_says() -> None:
    delta = Fraction(1, 10**9)
    cost = epsilon_of(Distribution.GAUSSIAN, Fraction(20), Fraction(1), delta)
    rho = Fraction(1, 800)
    assert rho < cost <= gaussian_epsilon(rho, delta)
