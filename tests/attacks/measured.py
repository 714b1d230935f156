"""How an attack's success is measured: exact confidence bounds, and epsilon from below.

Sources: Clopper and Pearson 1934 (bounds of a binomial chance); Jagielski, Ullman and Oprea 2020
(auditing: neighbouring inputs, one event, and what epsilon must at least be).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, tanh

from scipy.stats import beta  # type: ignore[import-untyped]  # ships without types


@dataclass(frozen=True)
class Seen:
    """How often something happened."""

    times: int
    of: int

    def at_least(self, miss: float) -> float:
        """A lower bound of its chance, wrong with at most probability `miss`."""
        if self.times == 0:
            return 0.0
        return float(beta.ppf(miss, self.times, self.of - self.times + 1))

    def at_most(self, miss: float) -> float:
        """An upper bound of its chance, wrong with at most probability `miss`."""
        if self.times == self.of:
            return 1.0
        return float(beta.ppf(1 - miss, self.times + 1, self.of - self.times))


def epsilon_at_least(with_person: Seen, without: Seen, *, delta: float, miss: float) -> float:
    """What epsilon is at least, if one event was seen so often with a person in the data and so
    often without: ln((p - delta) / p'), by the bounds of both. Wrong with at most `miss`."""
    more = with_person.at_least(miss / 2) - delta
    if more <= 0:
        return 0.0
    less = without.at_most(miss / 2)
    return max(0.0, log(more / less)) if less else inf


def most_advantage(epsilon: float, delta: float) -> float:
    """The most by which an attacker says "in" more often where a person is in the data than where
    it is not: (exp(epsilon) - 1 + 2 * delta) / (exp(epsilon) + 1).

    Source: Kairouz, Oh and Viswanath 2015, theorem 2.1, read at the corner of the region.
    """
    return tanh(epsilon / 2) + 2 * delta / (exp(epsilon) + 1)


def most_guessed(epsilon: float) -> float:
    """The most often that one of two equally likely databases is guessed under epsilon."""
    return exp(epsilon) / (1 + exp(epsilon))
