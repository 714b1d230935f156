"""Discrete noise and what it costs, by OpenDP.

Every draw is of the discrete distribution itself, on 64-bit integers in ring units: no
floating-point number is ever noised (Mironov 2012). OpenDP takes its scale as a double, so a scale
that is none is rounded up: more noise, never less.
Sources: Canonne, Kamath and Steinke 2020 (sampling); Bun and Steinke 2016 (zCDP); the proofs that
come with OpenDP 0.16.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.errors import Malformed
from crypto.noise import MAX_SCALE, Distribution, rounded_up


class OpenDpNoise:
    """A `crypto.joins.hidden.ports.NoiseSource`, with the system's randomness."""

    def draw(
        self, distribution: Distribution, scale: Fraction, count: int
    ) -> npt.NDArray[np.int64]:
        """`count` independent draws around 0, shape (count,). Raises Malformed for the scale."""
        return np.array(_measurement(distribution, scale)([0] * count), dtype=np.int64)


def epsilon_of(
    distribution: Distribution, scale: Fraction, sensitivity: Fraction, delta: Fraction
) -> Fraction:
    """What one draw per component costs, rounded up.

    sensitivity: in the units of `scale`: the most one person moves all components together, as a
                 sum of magnitudes (Laplace) or their Euclidean norm (Gaussian)
    delta:       for Gaussian alone; Laplace needs none
    """
    if distribution is Distribution.LAPLACE:
        return _upwards(_measurement(distribution, scale).map(_double_up(sensitivity)))
    from opendp.combinators import make_zCDP_to_approxDP

    approximate: Any = make_zCDP_to_approxDP(_measurement(distribution, scale))
    return _upwards(approximate.map(_double_up(sensitivity)).epsilon(_double_down(delta)))


def rho_of(scale: Fraction, sensitivity: Fraction) -> Fraction:
    """What one Gaussian draw per component costs under zCDP, rounded up."""
    return _upwards(_measurement(Distribution.GAUSSIAN, scale).map(_double_up(sensitivity)))


@cache
def _measurement(distribution: Distribution, scale: Fraction) -> Any:
    if not 0 < scale <= MAX_SCALE:
        raise Malformed("scale", "of noise is not above 0 and at most 2**56")
    # Not `opendp.prelude`, which takes seconds.
    from opendp.domains import atom_domain, vector_domain
    from opendp.measurements import make_gaussian, make_laplace
    from opendp.metrics import l1_distance, l2_distance
    from opendp.mod import enable_features

    enable_features("contrib")
    integers = vector_domain(atom_domain(T="i64"))
    if distribution is Distribution.LAPLACE:
        return make_laplace(integers, l1_distance(T="f64"), scale=_double_up(scale))
    return make_gaussian(integers, l2_distance(T="f64"), scale=_double_up(scale))


def _double_up(value: Fraction) -> float:
    """The least double that is not below."""
    near = float(value)
    return near if Fraction(near) >= value else math.nextafter(near, math.inf)


def _double_down(value: Fraction) -> float:
    return -_double_up(-value)


def _upwards(cost: float) -> Fraction:
    return rounded_up(Decimal(cost))
