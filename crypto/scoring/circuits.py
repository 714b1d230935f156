"""What the owner computes on one block of ciphertexts.

Weights are scaled by public bounds before they are used: features to -1..1, each output (each
hidden unit) by the most it can reach. So no slot of an honest consumer ever leaves the range that
the parameter sets have room for, and errors are bounded without knowing a weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

import numpy as np

from crypto.scoring.model import AffineModel, Float64Array, ScoringModel, centred, reach_of
from crypto.scoring.ports import Arithmetic, C
from crypto.scoring.shape import ModelFamily
from crypto.scoring.sigmoid import SIGMOIDS


class Circuit(Generic[C]):
    """One model on one key. Takes a block's features one at a time, so that a block's ciphertexts
    are never all held at once."""

    def __init__(self, model: ScoringModel, arithmetic: Arithmetic[C]) -> None:
        self._model = model
        self._on = arithmetic
        if isinstance(model, AffineModel):
            self._first, self._bias = _affine(model)
        else:
            self._first, self._bias, self._outer, self._outer_bias = _network(model)

    def run(self, features: Iterable[C]) -> list[C]:
        """One ciphertext for each output, of scores divided by the shape's `scale`."""
        units = self._units(features)
        if self._model.shape.family is ModelFamily.LINEAR:
            return units
        units = [self._on.rescale(unit) for unit in units]
        if self._model.shape.family is ModelFamily.LOGISTIC:
            return [self._logistic(unit) for unit in units]
        return self._squares(units)

    def _units(self, features: Iterable[C]) -> list[C]:
        """Affine functions of the features, one for each row of the first layer."""
        sums: list[C] = []
        for column, cipher in enumerate(features):
            terms = [self._on.weighted(cipher, float(w)) for w in self._first[:, column]]
            # zip would stop at the empty list
            sums = (
                terms
                if not sums
                else [self._on.add(s, t) for s, t in zip(sums, terms, strict=True)]
            )
        return [self._on.plus(s, float(b)) for s, b in zip(sums, self._bias, strict=True)]

    def _logistic(self, t: C) -> C:
        """1/2 + k*t + (t**3 + fifth*t) * (t**4 + third): see crypto.scoring.sigmoid."""
        on, monic = self._on, SIGMOIDS[self._model.shape.reach].monic
        square = self._product(t, t)
        fourth = self._product(square, square)
        odd = self._product(t, on.plus(square, monic.fifth))
        top = on.relinearise(on.multiply(odd, on.plus(fourth, monic.third)))
        return on.plus(on.fill_up(top, monic.remainder, t), 0.5)

    def _squares(self, units: list[C]) -> list[C]:
        on = self._on
        squares = [on.multiply(unit, unit) for unit in units]
        scores = []
        for weights, bias in zip(self._outer, self._outer_bias, strict=True):
            terms = [on.weighted(s, float(w)) for s, w in zip(squares, weights, strict=True)]
            total = terms[0]
            for term in terms[1:]:
                total = on.add(total, term)
            # Once for each output, not for each unit. Not to be left out: the third component of
            # an unrelinearised sum is not covered by the fresh encryption of zero and tells the
            # weights.
            scores.append(on.plus(on.relinearise(total), float(bias)))
        return scores

    def _product(self, left: C, right: C) -> C:
        return self._on.rescale(self._on.relinearise(self._on.multiply(left, right)))


def _affine(model: AffineModel) -> tuple[Float64Array, Float64Array]:
    shape = model.shape
    weights, bias = centred(shape, model.weights, model.bias)
    turn = 1.0
    if shape.family is ModelFamily.LOGISTIC:
        turn = SIGMOIDS[shape.reach].monic.turn
    return weights * (turn / shape.reach), bias * (turn / shape.reach)


def _network(
    model: ScoringModel,
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    if isinstance(model, AffineModel):
        raise TypeError("not a network")
    shape = model.shape
    inner, bias = centred(shape, model.inner, model.inner_bias)
    reach = reach_of(shape, model.inner, model.inner_bias)
    reach = np.where(reach > 0, reach, 1.0)
    outer = model.outer * (reach**2 / shape.reach)
    return inner / reach[:, None], bias / reach, outer, model.outer_bias / shape.reach
