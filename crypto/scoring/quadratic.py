"""Square-activation networks are quadratic functions, and the other way round.

A network with one hidden layer and the square as its activation computes one polynomial of degree 2
for each output; and every such polynomial is such a network. So whatever fits polynomials of degree
2 trains these networks exactly, with one optimum and no gradient descent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crypto.errors import Malformed
from crypto.scoring.model import SquareNetwork, power_of_two, reach_of
from crypto.scoring.shape import Feature, ModelFamily, ModelShape

Float64Array = npt.NDArray[np.float64]

_NOTHING = 1e-12  # relative size under which an eigenvalue is rounding


def network_of_quadratic(
    features: tuple[Feature, ...],
    outputs: tuple[str, ...],
    decimals: int,
    *,
    squares: Float64Array,
    linear: Float64Array,
    constant: Float64Array,
) -> SquareNetwork:
    """The network that computes x @ squares[k] @ x + linear[k] @ x + constant[k].

    squares: shape (outputs, d, d); linear: (outputs, d); constant: (outputs,). Hidden units: for
    each output one for each eigenvalue of its squares, and two for its linear part by
    ((u + 1)**2 - (u - 1)**2) / 4 = u. Raises Malformed if those are more than a model may have.
    """
    d = len(features)
    if squares.shape[1:] != (d, d) or linear.shape != (len(outputs), d):
        raise Malformed("squares", f"are not one {d} by {d} table for each output")
    inner: list[Float64Array] = []
    offsets: list[float] = []
    outer: list[tuple[int, float]] = []
    for output in range(len(outputs)):
        values, vectors = np.linalg.eigh((squares[output] + squares[output].T) / 2)
        largest = np.abs(values).max(initial=0.0)
        for value, vector in zip(values, vectors.T, strict=True):
            if abs(value) > _NOTHING * largest:
                inner.append(vector)
                offsets.append(0.0)
                outer.append((output, float(value)))
        if np.any(linear[output]):
            size = float(np.abs(linear[output]).max())
            for sign in (1.0, -1.0):
                inner.append(linear[output] / size)
                offsets.append(sign)
                outer.append((output, sign * size / 4))
    if not inner:  # a constant
        inner, offsets, outer = [np.zeros(d)], [0.0], [(0, 0.0)]
    weights = np.zeros((len(outputs), len(inner)))
    for unit, (output, weight) in enumerate(outer):
        weights[output, unit] = weight
    first, bias = np.array(inner), np.array(offsets)
    probe = ModelShape(ModelFamily.SQUARE_NETWORK, features, outputs, decimals, 1)
    reach = np.abs(weights) @ reach_of(probe, first, bias) ** 2 + np.abs(constant)
    shape = ModelShape(
        ModelFamily.SQUARE_NETWORK, features, outputs, decimals, power_of_two(float(reach.max()))
    )
    return SquareNetwork(shape, first, bias, weights, constant)
