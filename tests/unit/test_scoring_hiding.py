"""Noise and rounding: weights hidden from the consumer, its key from whoever sees scores."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from crypto.errors import Malformed
from crypto.ports import SystemRandomness
from crypto.scoring.hiding import (
    ERROR_UNITS,
    FLOOD_UNITS,
    HIDING_BITS,
    MAX_UNITS,
    hiding_bits,
    require_hiding,
    unit,
)
from crypto.scoring.noise import flood, gaussian
from crypto.scoring.parameters import PARAMETERS, STANDARD_BITS, Parameters
from crypto.scoring.protocol import released
from crypto.scoring.shape import ModelFamily
from crypto.scoring.sigmoid import SIGMOIDS
from tests.fakes.scoring import NAMES, a_shape

RANDOM = SystemRandomness()
EVERY = list(PARAMETERS.values())
NAMED = [one.name for one in EVERY]
DRAWS = 200_000


@pytest.mark.parametrize("one", EVERY, ids=NAMED)
def test_a_parameter_set_is_within_the_standard_for_its_security(one: Parameters) -> None:
    assert one.security_bits == 128
    assert one.modulus_bits <= STANDARD_BITS[one.ring]


@pytest.mark.parametrize("one", EVERY, ids=NAMED)
def test_a_reply_has_room_for_its_scores_and_the_wide_noise(one: Parameters) -> None:
    left = sum(one.primes[: one.result_primes])
    assert left - one.result_bits - 1 >= one.wide + 1


def test_every_polynomial_has_a_number_of_decimals_that_hides_the_weights() -> None:
    for reach in SIGMOIDS:
        shape = a_shape(ModelFamily.LOGISTIC, decimals=3, reach=reach)
        parameters = require_hiding(shape, NAMES[shape.family])
        assert hiding_bits(shape, parameters) >= HIDING_BITS


def test_the_largest_scores_are_hidden_with_the_bits_that_are_stated() -> None:
    for family in (ModelFamily.LINEAR, ModelFamily.SQUARE_NETWORK):
        shape = a_shape(family, decimals=0, reach=MAX_UNITS)
        assert hiding_bits(shape, require_hiding(shape, NAMES[family])) >= HIDING_BITS


def test_decimals_that_would_show_the_weights_are_refused() -> None:
    shape = a_shape(ModelFamily.LOGISTIC, decimals=5, reach=64)
    with pytest.raises(Malformed, match=r"would hide the weights with 2\d bits"):
        require_hiding(shape, NAMES[shape.family])
    with pytest.raises(Malformed, match="units"):
        require_hiding(a_shape(decimals=3, reach=2**19), NAMES[ModelFamily.LINEAR])


def test_a_parameter_set_of_another_family_is_refused_and_the_right_one_named() -> None:
    with pytest.raises(Malformed, match="ckks-linear-8192"):
        require_hiding(a_shape(), NAMES[ModelFamily.LOGISTIC])
    with pytest.raises(Malformed, match="ckks-linear-8192"):
        require_hiding(a_shape(), "ckks-linear-4096")


def test_draws_are_gaussian() -> None:
    """Mean, variance and fourth moment within 6 standard errors: false alarm below 1e-8."""
    drawn = gaussian(RANDOM, DRAWS)
    assert abs(drawn.mean()) < 6 / math.sqrt(DRAWS)
    assert abs(drawn.var() - 1) < 6 * math.sqrt(2 / DRAWS)
    assert abs((drawn**4).mean() - 3) < 6 * math.sqrt(96 / DRAWS)
    # Kolmogorov-Smirnov: exceeded with probability 2 exp(-2 c**2) = 4e-9 at c = 3.16.
    cdf = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in np.sort(drawn)])
    assert np.abs(cdf - np.arange(1, DRAWS + 1) / DRAWS).max() < 3.16 / math.sqrt(DRAWS)


def test_an_odd_number_of_draws_is_given_exactly() -> None:
    assert gaussian(RANDOM, 7).shape == (7,)


@pytest.mark.parametrize("one", EVERY, ids=NAMED)
def test_no_gap_of_the_flooding_noise_is_left_open(one: Parameters) -> None:
    """Each piece is a multiple of some power of two; the next one is far wider than that, and the
    last is exact to single integers. Otherwise the weights would stand in the low bits."""
    sigma, scale = FLOOD_UNITS / MAX_UNITS, 2.0**one.result_bits
    pieces = list(flood(one, rows=one.slots, sigma=sigma, scale=scale, randomness=RANDOM))
    spreads = [float(np.std(one.imag)) * scale / math.sqrt(len(one)) for one in pieces]
    for coarse, fine in itertools.pairwise(spreads):
        assert fine > 8 * gap_of(coarse)
    assert gap_of(spreads[-1]) < 1


def gap_of(spread: float) -> float:
    """Distance of neighbouring floating-point numbers, at 8 standard deviations."""
    return float(np.spacing(8 * spread))


@pytest.mark.parametrize("one", EVERY, ids=NAMED)
def test_real_parts_of_rows_carry_the_stated_noise_and_everything_else_the_wide_one(
    one: Parameters,
) -> None:
    rows, sigma = one.slots // 2, 2.0**-16
    pieces = flood(one, rows=rows, sigma=sigma, scale=2.0**one.result_bits, randomness=RANDOM)
    total = np.sum(list(pieces), axis=0)
    near = 6 / math.sqrt(2 * rows)  # six standard errors of a standard deviation
    assert abs(total.real[:rows].std() / sigma - 1) < near
    assert abs(total.real[rows:].std() / 2.0**one.wide - 1) < near
    assert abs(total.imag.std() / 2.0**one.wide - 1) < near


def test_released_scores_are_integers_whose_noise_nobody_else_knows() -> None:
    """Raw decryptions on a rounding boundary fall to both sides: what an observer learns about the
    error of a decryption is blurred by more than that error. False alarm 1e-9: six sigma."""
    shape = a_shape(decimals=3, reach=64)
    boundary = np.full((DRAWS, 1), 12.5 * unit(shape))
    found = released(shape, boundary, randomness=RANDOM)
    assert found.dtype == np.int64 and set(np.unique(found)) == {12, 13}
    assert abs((found == 12).mean() - 0.5) < 6 * 0.5 / math.sqrt(DRAWS)
    shifted = released(shape, boundary + FLOOD_UNITS * unit(shape), randomness=RANDOM)
    assert abs((shifted == 12).mean() - 0.1587) < 6 * 0.366 / math.sqrt(DRAWS)


def test_away_from_a_boundary_released_scores_are_the_rounded_ones() -> None:
    shape = a_shape(decimals=3, reach=64)
    units = np.arange(-1000.0, 1000.0)[:, None]
    assert np.array_equal(released(shape, units * unit(shape), randomness=RANDOM), units)


def test_what_an_owner_made_up_is_clamped_without_a_word() -> None:
    shape = a_shape(ModelFamily.LOGISTIC, decimals=2)
    raw = np.array([[7.0], [-3.0], [np.nan], [np.inf], [-np.inf], [0.25]])
    found = released(shape, raw, randomness=RANDOM)
    assert found.ravel().tolist() == [100, 0, 0, 100, 0, 25]


def test_the_error_of_a_score_is_below_one_unit() -> None:
    assert ERROR_UNITS < 1


def test_more_decimals_hide_fewer_bits() -> None:
    shape = a_shape(decimals=0)
    parameters = PARAMETERS[NAMES[shape.family]]
    bits = [hiding_bits(replace(shape, decimals=d), parameters) for d in range(5)]
    assert bits == sorted(bits, reverse=True) and bits[0] - bits[4] in (13, 14)
