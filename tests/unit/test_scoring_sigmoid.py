"""The polynomials that stand in for the logistic function keep to their stated errors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from crypto.scoring.sigmoid import SIGMOIDS, Sigmoid

Float64Array = npt.NDArray[np.float64]
POINTS = 400_001


def polynomial(sigmoid: Sigmoid, z: Float64Array) -> Float64Array:
    at = z / sigmoid.reach
    total: Float64Array = 0.5 + sum(
        c * at ** (2 * i + 1) for i, c in enumerate(sigmoid.coefficients)
    )
    return total


def worst(sigmoid: Sigmoid, reach: float) -> float:
    """A bound on the clamped polynomial's error over all |z| <= reach, not only on a grid.

    The grid contains every turning point of the polynomial, so between neighbours both functions
    are monotone and lie between their values at the two ends.
    """
    slope = np.zeros(7)
    slope[[0, 2, 4, 6]] = [
        c * (2 * i + 1) for i, c in reversed(list(enumerate(sigmoid.coefficients)))
    ]
    turning = np.roots(slope)
    turning = sigmoid.reach * turning[np.abs(turning.imag) < 1e-9].real
    turning = turning[np.abs(turning) < reach]
    z = np.sort(np.concatenate([np.linspace(-reach, reach, POINTS), turning]))
    clamped = np.clip(polynomial(sigmoid, z), 0, 1)
    logistic = 1 / (1 + np.exp(-z))
    high = np.maximum(clamped[1:], clamped[:-1]) - logistic[:-1]
    low = logistic[1:] - np.minimum(clamped[1:], clamped[:-1])
    return float(max(high.max(), low.max()))


@pytest.mark.parametrize("reach", SIGMOIDS)
def test_a_polynomial_keeps_its_stated_error_for_every_logit_within_reach(reach: int) -> None:
    sigmoid = SIGMOIDS[reach]
    assert worst(sigmoid, reach) <= float(sigmoid.stated_error)
    assert worst(sigmoid, reach) > 0.9 * float(sigmoid.stated_error)  # and does not overstate it


@pytest.mark.parametrize("reach", SIGMOIDS)
def test_beyond_its_reach_a_polynomial_is_simply_wrong(reach: int) -> None:
    """Which is why a model's reach covers all features within their bounds."""
    assert worst(SIGMOIDS[reach], 1.6 * reach) > 0.9


@pytest.mark.parametrize("reach", SIGMOIDS)
def test_the_monic_form_is_the_same_polynomial(reach: int) -> None:
    sigmoid = SIGMOIDS[reach]
    monic = sigmoid.monic
    z = np.linspace(-reach, reach, 1001)
    t = monic.turn * z / reach
    found = 0.5 + monic.remainder * t + (t**3 + monic.fifth * t) * (t**4 + monic.third)
    assert np.allclose(found, polynomial(sigmoid, z), rtol=1e-10, atol=1e-9)


def test_half_is_exactly_half() -> None:
    for sigmoid in SIGMOIDS.values():
        assert polynomial(sigmoid, np.zeros(1))[0] == 0.5
