"""Polynomials of degree 7 that stand in for the logistic function 1 / (1 + exp(-z)).

A polynomial that is near the logistic function on an interval leaves it steeply outside, so an
honest error must cover every logit that a model can produce. These do: clamped to 0..1, which the
consumer does after decryption, each differs from the logistic function by at most its stated error
for every |z| <= reach. Where the function is within the error of 1, the polynomial may be any
number not below it: that freedom is what lets one polynomial cover a reach of 128.

Found by linear programming (10,000 points; least maximum of the polynomial under the stated error),
then written with nine digits; tests/unit/test_scoring_sigmoid.py measures the errors of what is
written here. Odd part only: the logistic function less 1/2 is odd.

Somebody who needs the exact probability imports the same weights as a linear model and applies
the logistic function to the released logit: it discloses the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Sigmoid:
    """1/2 + sum of coefficients[i] * (z / reach)**(2 * i + 1)."""

    reach: int
    coefficients: tuple[float, float, float, float]
    stated_error: Fraction

    @property
    def monic(self) -> Monic:
        """The same polynomial in t = turn * z / reach, with leading coefficient 1."""
        first, third, fifth, seventh = self.coefficients
        turn = -(abs(seventh) ** (1 / 7)) if seventh < 0 else seventh ** (1 / 7)
        return Monic(turn, first / turn, third / turn**3, fifth / turn**5)


@dataclass(frozen=True)
class Monic:
    """1/2 + k*t + (t**3 + fifth*t) * (t**4 + third), with k = first - third*fifth: four
    multiplications of ciphertexts in three levels, and none by a plain coefficient but k."""

    turn: float
    first: float
    third: float
    fifth: float

    @property
    def remainder(self) -> float:
        return self.first - self.third * self.fifth

    def error_growth(self, error: float) -> float:
        """Bound on the error of the result, if z / reach and each product carry up to `error`."""
        t, s = abs(self.turn), self.turn**2  # |t|, |t**2| at most
        of_t = (1 + t) * error
        of_s = 2 * t * of_t + error
        of_u = 2 * s * of_s + error  # u = t**4
        of_v = t * of_s + (s + abs(self.fifth)) * of_t + error  # v = t * (t**2 + fifth)
        v, u = t * (s + abs(self.fifth)), s**2 + abs(self.third)
        return v * of_u + u * of_v + abs(self.remainder) * of_t


SIGMOIDS: Final[Mapping[int, Sigmoid]] = MappingProxyType(
    {
        one.reach: one
        for one in (
            Sigmoid(8, (1.88142425, -6.15781252, 11.363371, -6.59521809), Fraction(8, 1000)),
            Sigmoid(16, (3.72948263, -45.87446, 278.634659, -235.998882), Fraction(93, 10_000)),
            Sigmoid(32, (7.00438168, -260.202043, 4097.93473, -3844.25706), Fraction(201, 10_000)),
            Sigmoid(64, (12.1237062, -732.469342, 14913.598, -14192.7983), Fraction(461, 10_000)),
            Sigmoid(128, (22.8339797, -655.688283, 5406.38995, -4773.09065), Fraction(552, 10_000)),
        )
    }
)
