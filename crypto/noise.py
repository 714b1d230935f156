"""Noise that a plan states: its distribution, and how far a threshold must keep from it.

Drawing is an adapter's business (`crypto.adapters.opendp_noise`); here is what everybody who reads
a plan must be able to recompute with the standard library alone.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, localcontext
from enum import Enum
from fractions import Fraction
from typing import Final

# Beyond this a draw could reach 2**63, where OpenDP cuts it off: below, with odds under exp(-127).
MAX_SCALE: Final = 2**56
_DIGITS: Final = 60


class Distribution(Enum):
    """Both discrete, over the integers (Canonne, Kamath and Steinke 2020)."""

    LAPLACE = "laplace"  # Pr[k] proportional to exp(-|k| / scale)
    GAUSSIAN = "gaussian"  # Pr[k] proportional to exp(-k**2 / (2 * scale**2))


def slack(distribution: Distribution, scale: Fraction, beta: Fraction) -> int:
    """The least s found with Pr[two independent draws together >= s] <= beta.

    Laplace: exact, from the distribution of the sum of two discrete Laplace draws:
    Pr[S = k] = ((1-q)/(1+q))**2 * q**k * (k + (1+q**2)/(1-q**2)) for k >= 0, q = exp(-1/scale).
    Gaussian: the sum is sub-Gaussian with variance proxy 2 * scale**2, so
    s**2 = 4 * scale**2 * ln(1/beta).
    """
    with localcontext() as context:
        context.prec = _DIGITS
        limit = _decimal(beta)
        if distribution is Distribution.GAUSSIAN:
            wide = 2 * _decimal(scale) * (-limit.ln()).sqrt()
            return int(wide.to_integral_value(ROUND_CEILING))
        q = (-1 / _decimal(scale)).exp()
        lead = ((1 - q) / (1 + q)) ** 2
        extra = (1 + q * q) / (1 - q * q)

        def tail(s: int) -> Decimal:
            # sum over k >= s of q**k * (k + extra). At scales below about 4e-7, q is 0 here, and
            # 0**0 is undefined in decimal arithmetic: then both draws are 0 for all that counts.
            power = q**s if s else Decimal(1)
            return lead * power * ((s + extra) / (1 - q) + q / (1 - q) ** 2)

        high = 1
        while tail(high) > limit:
            high *= 2
        low = 0
        while low < high:
            middle = (low + high) // 2
            if tail(middle) <= limit:
                high = middle
            else:
                low = middle + 1
        return low


def gate_delta(epsilon: Fraction, beta: Fraction, contribution: int) -> Fraction:
    """What the exact condition of the gate adds to delta: D * (1 + exp(epsilon)) * beta, rounded
    up."""
    with localcontext() as context:
        context.prec = _DIGITS
        exact = contribution * (1 + _decimal(epsilon).exp()) * _decimal(beta)
        return rounded_up(exact)


def gaussian_epsilon(rho: Fraction, delta: Fraction) -> Fraction:
    """epsilon of rho-zCDP at delta, rounded up: rho + 2 * sqrt(rho * ln(1/delta)).

    Source: Bun and Steinke 2016, proposition 1.3.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        r = _decimal(rho)
        return rounded_up(r + 2 * (r * -_decimal(delta).ln()).sqrt())


def gaussian_rho(epsilon: Fraction, delta: Fraction) -> Fraction:
    """The most rho whose `gaussian_epsilon` is at most epsilon, rounded down."""
    with localcontext() as context:
        context.prec = _DIGITS
        tail = -_decimal(delta).ln()
        root = (tail + _decimal(epsilon)).sqrt() - tail.sqrt()
        scale = 10**12
        return Fraction(int(root * root * scale * (1 - Decimal(10) ** -15)), scale)


def rounded_up(value: Decimal) -> Fraction:
    """A short fraction not below `value`: 12 significant digits, rounded up."""
    if value <= 0:
        return Fraction(0)
    step = Decimal(1).scaleb(value.adjusted() - 11)
    with localcontext() as context:
        context.prec = _DIGITS
        return Fraction((value / step).to_integral_value(ROUND_CEILING) * step)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)
