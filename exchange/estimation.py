"""From the released sums of one cell to the numbers of an answer, and how far noise may have moved
them.

Numbers are exact fractions of the released integers; square roots are rounded to 12 decimals.
Variances, covariances and standard deviations are those of a sample (divided by n - 1).

Intervals. Every term carries a draw of each author, of a distribution and scale that the plan
states; rounding moves a count of people by at most half a multiple. The noise of a count or sum has
a known distribution, so its interval is exact. For everything else the released sums are moved by
fresh draws of the same noise, 2,000 times, and the interval holds 95 % of what comes out: noise is
symmetric, so the truth lies as far from what was released as another release from it. The draws
follow from the plan's digest (AES in counter mode), so every reader of an answer finds the same
interval. All of this is arithmetic on what was released: it costs no epsilon (post-processing,
Dwork and Roth 2014, proposition 2.1).

A correlation is moved by Fisher's transformation as well, whose standard error is 1/sqrt(n - 3):
its interval is for the population that the people are a sample of, noise or no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from math import atanh, ceil, exp, isqrt, log, sqrt, tanh
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from crypto.digest import Digest, digest
from crypto.joins.released import Cell
from crypto.noise import Distribution, slack
from exchange.query.plan import Plan, Statistic
from exchange.query.program import Program, Reading
from exchange.query.released import Calculated, Calculation, Released, Value
from exchange.results import Missing, Note, Remark
from registry.expression import Number
from registry.rule import Function, Join

CONFIDENCE_PERCENT: Final = 95
TAIL: Final = Fraction(1, 40)
NORMAL_QUANTILE: Final = 1.959963984540054  # of 1 - TAIL
SIMULATIONS: Final = 2000
ROOT_DECIMALS: Final = 12
_OUTWARD_DIGITS: Final = 12
_SEED_LABEL: Final = b"unseen/answer-intervals/v1\x00"

FloatArray = npt.NDArray[np.float64]
X = TypeVar("X", Fraction, FloatArray)


@dataclass(frozen=True, eq=False)
class Estimate:
    """One number. draws: what it would be under each simulated noise; NaN where there is none."""

    value: Fraction | None
    missing: Missing | None = None
    low: Fraction | None = None
    high: Fraction | None = None
    draws: FloatArray | None = None


SUPPRESSED: Final = Estimate(None, Missing.SUPPRESSED)
INCONSISTENT: Final = Estimate(None, Missing.INCONSISTENT)
NO_SPREAD: Final = Estimate(None, Missing.NO_SPREAD)


def noise_authors(join: Join) -> int:
    """How many full draws a released term carries: with one holder alone there is no second."""
    return 1 if join is Join.ALONE else 2


class Estimator:
    """Reads the cells of one answer."""

    def __init__(self, plan: Plan, plan_digest: Digest, program: Program) -> None:
        self.statistics = plan.query.statistics
        self.program = program
        self.noise = Noised(plan, plan_digest, program)

    def numbers(self, cell: Cell) -> Numbers:
        return Numbers(self, cell)

    def notes(self) -> tuple[Note, ...]:
        found = []
        if self.noise.is_exact:
            found.append(Note(Remark.EXACT, 0))
        else:
            found.append(Note(Remark.NOISED, CONFIDENCE_PERCENT))
        if any(s.function is Function.CORRELATION for s in self.statistics):
            found.append(Note(Remark.SAMPLED, CONFIDENCE_PERCENT))
        return tuple(found)


class Numbers:
    """The numbers of one cell, each worked out once."""

    def __init__(self, estimator: Estimator, cell: Cell) -> None:
        self._by, self._cell = estimator, cell
        self._found: dict[Released, Estimate] = {}

    def of(self, value: Value) -> Estimate:
        if isinstance(value, Number):
            return Estimate(Fraction(value.value, 10**value.decimals))
        if isinstance(value, Calculated):
            return _calculated(value, self.of(value.left), self.of(value.right))
        if value not in self._found:
            self._found[value] = self._released(value)
        return self._found[value]

    def _released(self, released: Released) -> Estimate:
        statistic = self._by.statistics[released.statistic]
        reading = self._by.program.readings[released.statistic]
        if self._cell.terms[reading.people] is None:
            return SUPPRESSED
        if reading.extreme is not None:
            shown = self._cell.extremes[reading.extreme]
            if shown is None:
                return SUPPRESSED
            return Estimate(Fraction(shown, 10 ** reading.decimals[0]))
        if statistic.function is Function.QUANTILE:
            return self._quantile(statistic, reading)
        if statistic.function is Function.COUNT:
            return self._linear(reading.rows)
        if statistic.function is Function.SUM:
            return self._linear(reading.sums[0])
        exact = self._sums(reading)
        drawn = None if self._by.noise.is_still else self._drawn_sums(reading)
        if statistic.function is Function.MEAN:
            return _mean(exact, drawn)
        if statistic.function in (Function.VARIANCE, Function.STDDEV):
            return _variance(exact, drawn, root=statistic.function is Function.STDDEV)
        if statistic.function is Function.COVARIANCE:
            return _covariance(exact, drawn)
        if statistic.function is Function.CORRELATION:
            return _correlation(exact, drawn, self._by.noise.normal())
        if released.part == -2:
            return self._linear(reading.rows)
        return _regression(exact, drawn, released.part)

    def _linear(self, term: int) -> Estimate:
        """A count or a sum: what was released, and the exact interval of its noise."""
        value, noise = self._value(term), self._by.noise
        if noise.is_still:
            return Estimate(value)
        below, above = noise.reach(term)
        unit = 10 ** self._by.program.terms[term].decimals
        low, high = value - Fraction(below, unit), value + Fraction(above, unit)
        if term in self._by.program.layout.gates:
            low = max(low, Fraction(0))
        return Estimate(value, None, low, high, self._drawn(term))

    def _value(self, term: int) -> Fraction:
        """A term in the units of its numbers; 0 cannot stand for a suppressed one here, for all
        terms of a statistic have one gate."""
        shown = self._cell.terms[term] or 0
        return Fraction(shown, 10 ** self._by.program.terms[term].decimals)

    def _drawn(self, term: int) -> FloatArray:
        scale = 10 ** self._by.program.terms[term].decimals
        return np.asarray(float(self._value(term)) + self._by.noise.draws(term) / scale)

    def _sums(self, reading: Reading) -> _Sums[Fraction]:
        return _Sums(
            self._value(reading.rows),
            tuple(self._value(term) for term in reading.sums),
            tuple(self._value(term) for term in reading.products),
            _centres(reading),
        )

    def _drawn_sums(self, reading: Reading) -> _Sums[FloatArray]:
        return _Sums(
            self._drawn(reading.rows),
            tuple(self._drawn(term) for term in reading.sums),
            tuple(self._drawn(term) for term in reading.products),
            _centres(reading),
        )

    def _quantile(self, statistic: Statistic, reading: Reading) -> Estimate:
        """From the histogram, made monotone. What lies within a bin is not known: the interval
        ends at the edges of bins, and the bounds of the outermost bins are the plan's cuts."""
        share = statistic.quantile or Fraction(1, 2)
        unit = 10 ** reading.decimals[0]
        cuts = [Fraction(cut, unit) for cut in statistic.cuts or ()]
        place = _crossing(_cumulated([self._value(term) for term in reading.bins]), share)
        if place is None:
            return INCONSISTENT
        index, part = place
        value = cuts[index] + part * (cuts[index + 1] - cuts[index])
        if self._by.noise.is_still:
            return Estimate(value, None, cuts[index], cuts[index + 1])
        bins = np.stack([self._drawn(term) for term in reading.bins])
        indices = _crossings(bins, float(share))
        held = np.sort(indices[indices >= 0])
        if len(indices) - len(held) > float(TAIL) * SIMULATIONS:
            return Estimate(value)
        spare = int(TAIL * SIMULATIONS) - (len(indices) - len(held))
        low, high = int(held[spare]), int(held[-1 - spare])
        edges = np.array([float(cut) for cut in cuts])
        within = self._by.noise.uniform()
        draws = np.where(
            indices < 0,
            np.nan,
            edges[indices] + within * (edges[indices + 1] - edges[indices]),
        )
        return Estimate(value, None, cuts[min(low, index)], cuts[max(high, index) + 1], draws)


# Noise, as the plan states it


class Noised:
    """What was added to the terms of one answer, and simulated draws of the same.

    A draw is of all authors together, with rounding, in the term's own units; it is the same for
    every cell, for no number is made of two cells.
    """

    def __init__(self, plan: Plan, plan_digest: Digest, program: Program) -> None:
        self._noise = plan.query.noise
        self._authors = noise_authors(plan.join)
        self._gates = frozenset(program.layout.gates)
        self._multiple = program.layout.round_counts
        self._seed = digest(_SEED_LABEL + plan_digest.raw).raw
        self._kept: dict[int, FloatArray] = {}

    @property
    def is_exact(self) -> bool:
        """Whether nothing was drawn."""
        return self._noise is None

    @property
    def is_still(self) -> bool:
        """Whether what was released are the sums themselves."""
        return self._noise is None and self._multiple == 1

    def reach(self, term: int) -> tuple[int, int]:
        """How far below and above what was released the sum itself may be, at 95 %, in units of
        the ring."""
        noise, unit = 0, self._multiple if term in self._gates else 1
        if self._noise is not None:
            noise = _reach(self._noise.distribution, self._noise.scales[term], self._authors)
        # A count is rounded half up.
        return noise + unit // 2, noise + unit - unit // 2 - 1

    def draws(self, term: int) -> FloatArray:
        """Shape (SIMULATIONS,), whole units of the ring."""
        if term not in self._kept:
            found = np.zeros(SIMULATIONS)
            if self._noise is not None:
                scale = float(self._noise.scales[term])
                for author in range(self._authors):
                    stream = self._stream(1 + 3 * term + author)
                    found += _drawn(self._noise.distribution, scale, stream)
            if term in self._gates and self._multiple > 1:
                found += (self._stream(3 + 3 * term)[0] - 0.5) * self._multiple
            self._kept[term] = found
        return self._kept[term]

    def normal(self) -> FloatArray:
        """Standard normal draws, shape (SIMULATIONS,)."""
        one, two = self._stream(0)
        return _normal(one, two)

    def uniform(self) -> FloatArray:
        return np.asarray(self._stream(0)[0], dtype=np.float64)

    def _stream(self, number: int) -> FloatArray:
        """Uniform in (0, 1), shape (2, SIMULATIONS): AES-256 in counter mode, one block counter
        range a stream."""
        counter = (number << 64).to_bytes(16, "big")
        encryptor = Cipher(AES(self._seed), CTR(counter)).encryptor()
        words = np.frombuffer(encryptor.update(bytes(16 * SIMULATIONS)), dtype="<u8")
        found: FloatArray = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        return found.reshape(2, SIMULATIONS)


def _reach(distribution: Distribution, scale: Fraction, authors: int) -> int:
    """The least w with Pr[|all draws together| > w] <= 5 %; Gaussian: at most that."""
    if distribution is Distribution.GAUSSIAN:
        return ceil(NORMAL_QUANTILE * sqrt(authors) * float(scale))
    if authors == 2:
        return slack(distribution, scale, TAIL) - 1
    # Pr[one draw > w] = q**(w + 1) / (1 + q), q = exp(-1 / scale), at most TAIL
    q = exp(-1 / float(scale))
    return max(0, ceil(-log(float(TAIL) * (1 + q)) * float(scale)) - 1)


def _drawn(distribution: Distribution, scale: float, uniform: FloatArray) -> FloatArray:
    one, two = uniform
    if distribution is Distribution.GAUSSIAN:
        return np.asarray(np.rint(scale * _normal(one, two)), dtype=np.float64)
    # The difference of two geometric variables is discrete Laplace.
    return np.asarray(np.floor(-scale * np.log(one)) - np.floor(-scale * np.log(two)))


def _normal(one: FloatArray, two: FloatArray) -> FloatArray:
    """Box and Muller 1958."""
    return np.asarray(np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * two), dtype=np.float64)


# Statistics of sums, exact and simulated by the same formulas


@dataclass(frozen=True, eq=False)
class _Sums(Generic[X]):
    """Of the variables, moved by `centres`: number of rows, sums, and sums of products i <= j; of
    a covariance the one product alone."""

    rows: X
    sums: tuple[X, ...]
    products: tuple[X, ...]
    centres: tuple[Fraction, ...]

    def spread(self, i: int, j: int) -> X:
        """Sum of (v_i - mean_i) * (v_j - mean_j); moving the variables changes nothing."""
        i, j = min(i, j), max(i, j)
        return self._moved(self.products[i * len(self.sums) - i * (i - 1) // 2 + j - i], i, j)

    def together(self) -> X:
        """The same of a covariance's two variables."""
        (product,) = self.products
        return self._moved(product, 0, 1)

    def _moved(self, product: X, i: int, j: int) -> X:
        return product - self.sums[i] * self.sums[j] / self.rows


def _centres(reading: Reading) -> tuple[Fraction, ...]:
    """In the variables' own units."""
    return tuple(
        Fraction(centre, 10**decimals)
        for centre, decimals in zip(reading.centres, reading.decimals, strict=False)
    )


def _mean(exact: _Sums[Fraction], drawn: _Sums[FloatArray] | None) -> Estimate:
    if exact.rows < 1:
        return INCONSISTENT
    value = exact.sums[0] / exact.rows + exact.centres[0]
    if drawn is None:
        return Estimate(value)
    rows = np.where(drawn.rows >= 1, drawn.rows, np.nan)
    return _between(value, drawn.sums[0] / rows + float(exact.centres[0]))


def _variance(exact: _Sums[Fraction], drawn: _Sums[FloatArray] | None, *, root: bool) -> Estimate:
    if exact.rows < 2:
        return INCONSISTENT
    value = exact.spread(0, 0) / (exact.rows - 1)
    if value < 0:
        return INCONSISTENT
    draws = None
    if drawn is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.where(drawn.rows >= 2, drawn.spread(0, 0) / (drawn.rows - 1), np.nan)
    if root:
        value = square_root(value)
        draws = None if draws is None else np.sqrt(np.maximum(draws, 0))  # NaN stays
    return Estimate(value) if draws is None else _between(value, draws, least=0.0)


def _covariance(exact: _Sums[Fraction], drawn: _Sums[FloatArray] | None) -> Estimate:
    if exact.rows < 2:
        return INCONSISTENT
    value = exact.together() / (exact.rows - 1)
    if drawn is None:
        return Estimate(value)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.where(drawn.rows >= 2, drawn.together() / (drawn.rows - 1), np.nan)
    return _between(value, draws)


def _correlation(
    exact: _Sums[Fraction], drawn: _Sums[FloatArray] | None, normal: FloatArray
) -> Estimate:
    if exact.rows < 2:
        return INCONSISTENT
    a, b, both = exact.spread(0, 0), exact.spread(1, 1), exact.spread(0, 1)
    if a < 0 or b < 0 or both * both > a * b:
        return INCONSISTENT
    if a == 0 or b == 0:
        return NO_SPREAD
    value = square_root(both * both / (a * b)) * (1 if both >= 0 else -1)
    if drawn is None:
        low, high = fisher_interval(value, exact.rows)
        return Estimate(value, None, low, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        a_drawn, b_drawn = drawn.spread(0, 0), drawn.spread(1, 1)
        found = drawn.spread(0, 1) / np.sqrt(a_drawn * b_drawn)
        sensible = (drawn.rows > 3) & (a_drawn > 0) & (b_drawn > 0)
        edge = 1 - 2.0**-50
        moved = np.arctanh(np.clip(found, -edge, edge)) + normal / np.sqrt(drawn.rows - 3)
        draws = np.where(sensible, np.tanh(moved), np.nan)
    return _between(value, draws, least=-1.0, most=1.0)


def fisher_interval(
    correlation: Fraction, rows: Fraction
) -> tuple[Fraction | None, Fraction | None]:
    """95 % of the population's correlation, by Fisher's transformation (Fisher 1915); open for
    three people or fewer."""
    if rows <= 3:
        return None, None
    if abs(correlation) == 1:
        return correlation, correlation
    reach = NORMAL_QUANTILE / sqrt(float(rows) - 3)
    middle = atanh(float(correlation))
    return (
        _outward(tanh(middle - reach), up=False),
        _outward(tanh(middle + reach), up=True),
    )


def _regression(exact: _Sums[Fraction], drawn: _Sums[FloatArray] | None, part: int) -> Estimate:
    """Least squares of variable 0 on the others, with an intercept, by the normal equations."""
    if exact.rows < 2:
        return INCONSISTENT
    width = len(exact.sums) - 1
    matrix = [[exact.spread(i, j) for j in range(1, width + 1)] for i in range(1, width + 1)]
    target = [exact.spread(0, i) for i in range(1, width + 1)]
    solved = _solved(matrix, target)
    if isinstance(solved, Missing):
        return Estimate(None, solved)
    total = exact.spread(0, 0)
    explained = sum((c * t for c, t in zip(solved, target, strict=True)), Fraction(0))
    if part == -1:
        if total == 0:
            return NO_SPREAD
        value = explained / total
        if not 0 <= value <= 1:
            return INCONSISTENT
    elif part == 0:
        means = [s / exact.rows + c for s, c in zip(exact.sums, exact.centres, strict=True)]
        value = means[0] - sum((c * m for c, m in zip(solved, means[1:], strict=True)), Fraction(0))
    else:
        value = solved[part - 1]
    if drawn is None:
        return Estimate(value)
    draws = _drawn_regression(drawn, part)
    if part == -1:
        return _between(value, draws, least=0.0, most=1.0)
    return _between(value, draws)


def _solved(matrix: list[list[Fraction]], target: list[Fraction]) -> list[Fraction] | Missing:
    """Elimination without exchanging rows: for a matrix of spreads every pivot is above zero
    unless a variable follows from the others (zero) or noise has made it none (below)."""
    rows = [[*row, t] for row, t in zip(matrix, target, strict=True)]
    size = len(rows)
    for k in range(size):
        if rows[k][k] <= 0:
            return Missing.NO_SPREAD if rows[k][k] == 0 else Missing.INCONSISTENT
        for i in range(size):
            if i != k and rows[i][k]:
                factor = rows[i][k] / rows[k][k]
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [rows[k][size] / rows[k][k] for k in range(size)]


def _drawn_regression(drawn: _Sums[FloatArray], part: int) -> FloatArray:
    width = len(drawn.sums) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = np.array(
            [[drawn.spread(i, j) for j in range(1, width + 1)] for i in range(1, width + 1)]
        ).transpose(2, 0, 1)
        target = np.array([drawn.spread(0, i) for i in range(1, width + 1)]).T
        sensible = (drawn.rows >= 2) & np.isfinite(matrix).all(axis=(1, 2))
        matrix[~sensible] = np.eye(width)
        sensible &= np.linalg.eigvalsh(matrix)[:, 0] > 0
        matrix[~sensible] = np.eye(width)
        solved = np.linalg.solve(matrix, target[:, :, None])[:, :, 0]
        if part == -1:
            total = drawn.spread(0, 0)
            found = (solved * target).sum(axis=1) / np.where(total > 0, total, np.nan)
        elif part == 0:
            means = np.array(
                [s / drawn.rows + float(c) for s, c in zip(drawn.sums, drawn.centres, strict=True)]
            )
            found = means[0] - (solved * means[1:].T).sum(axis=1)
        else:
            found = solved[:, part - 1]
    return np.asarray(np.where(sensible, found, np.nan), dtype=np.float64)


# Quantiles of a histogram


def _cumulated(bins: Sequence[Fraction]) -> list[Fraction]:
    """Cumulative counts made monotone: the middle between the least monotone sequence above what
    the noise left and the greatest below it, which is the sequence itself where it ascends."""
    total, sums = Fraction(0), []
    for count in bins:
        total += count
        sums.append(total)
    above, below = list(sums), list(sums)
    for i in range(1, len(sums)):
        above[i] = max(above[i], above[i - 1])
    for i in reversed(range(len(sums) - 1)):
        below[i] = min(below[i], below[i + 1])
    return [(a + b) / 2 for a, b in zip(above, below, strict=True)]


def _crossing(cumulated: Sequence[Fraction], share: Fraction) -> tuple[int, Fraction] | None:
    """The bin in which `share` of all is reached, and which part of the bin lies below it."""
    target = share * cumulated[-1]
    if target <= 0:
        return None
    before = Fraction(0)
    for index, reached in enumerate(cumulated):
        if reached >= target:
            return index, (target - before) / (reached - before)
        before = max(before, reached)
    return None


def _crossings(bins: FloatArray, share: float) -> npt.NDArray[np.intp]:
    """The bin of `_crossing` for each simulation, -1 where there is none. bins: (bins, draws)."""
    sums = np.cumsum(bins, axis=0)
    above = np.maximum.accumulate(sums, axis=0)
    below = np.minimum.accumulate(sums[::-1], axis=0)[::-1]
    monotone = (above + below) / 2
    target = share * monotone[-1]
    index = np.argmax(monotone >= target, axis=0)
    return np.where(target > 0, index, -1)


# Calculations and ends of intervals


def _calculated(value: Calculated, left: Estimate, right: Estimate) -> Estimate:
    if left.value is None or right.value is None:
        reasons = {left.missing, right.missing} - {None}
        worst = Missing.SUPPRESSED if Missing.SUPPRESSED in reasons else min(reasons, key=str)
        return Estimate(None, worst)
    if value.calculation is Calculation.DIVIDE and right.value == 0:
        return Estimate(None, Missing.ZERO_DIVISOR)
    result = _apply(value.calculation, left.value, right.value)
    if left.draws is None and right.draws is None:
        return Estimate(result)
    one = np.float64(float(left.value)) if left.draws is None else left.draws
    two = np.float64(float(right.value)) if right.draws is None else right.draws
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        draws = np.asarray(_apply_drawn(value.calculation, one, two), dtype=np.float64)
    return _between(result, np.where(np.isfinite(draws), draws, np.nan))


def _apply(calculation: Calculation, left: Fraction, right: Fraction) -> Fraction:
    if calculation is Calculation.ADD:
        return left + right
    if calculation is Calculation.SUBTRACT:
        return left - right
    if calculation is Calculation.MULTIPLY:
        return left * right
    return left / right


def _apply_drawn(
    calculation: Calculation, left: FloatArray | np.float64, right: FloatArray | np.float64
) -> FloatArray | np.float64:
    if calculation is Calculation.ADD:
        return left + right
    if calculation is Calculation.SUBTRACT:
        return left - right
    if calculation is Calculation.MULTIPLY:
        return left * right
    return left / right


def _between(
    value: Fraction, draws: FloatArray, *, least: float | None = None, most: float | None = None
) -> Estimate:
    """The number with the middle 95 % of its draws. A draw that gives no number could be anything,
    so it counts at both ends; an end that is then open stays absent, or at the statistic's own
    bound."""
    lows = np.sort(np.where(np.isnan(draws), -np.inf, draws))
    highs = np.sort(np.where(np.isnan(draws), np.inf, draws))
    spare = int(TAIL * len(draws))
    low, high = float(lows[spare]), float(highs[-1 - spare])
    if least is not None:
        low = max(low, least)
    if most is not None:
        high = min(high, most)
    return Estimate(
        value,
        None,
        None if low == -np.inf else min(_outward(low, up=False), value),
        None if high == np.inf else max(_outward(high, up=True), value),
        draws,
    )


def square_root(value: Fraction) -> Fraction:
    """The non-negative root, rounded to 12 decimals. value: not negative."""
    one_more = isqrt(value.numerator * 10 ** (2 * ROOT_DECIMALS + 2) // value.denominator)
    return Fraction((one_more + 5) // 10, 10**ROOT_DECIMALS)


def _outward(number: float, *, up: bool) -> Fraction:
    """A short fraction that is not inside of `number`."""
    rounding = ROUND_CEILING if up else ROUND_FLOOR
    return Fraction(
        Context(prec=_OUTWARD_DIGITS, rounding=rounding).create_decimal(Decimal(number))
    )
