"""Models trained with scikit-learn, as models that can be scored under encryption.

| estimator | becomes |
|---|---|
| LinearRegression, Ridge, Lasso, ElasticNet, MLPRegressor(activation="identity") | linear |
| LogisticRegression and MLPClassifier(activation="identity"), two classes | logistic |
| a pipeline ending PolynomialFeatures(degree=2), then one of the linear ones | square network |

Before them a pipeline may have StandardScaler, MinMaxScaler (without clip) or MaxAbsScaler: scaling
is folded into the weights, and the features' bounds stay in their own units. Everything else is
refused by name: a network of relu or tanh units has no polynomial that stays near it, and more than
two classes need a division. What comes out computes the estimator's `predict`, or of a
classifier the probability of its second class, up to the shape's stated error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from crypto.errors import Malformed
from crypto.scoring.model import Float64Array, ScoringModel, affine_model
from crypto.scoring.quadratic import network_of_quadratic
from crypto.scoring.shape import Feature, ModelFamily

_LINEAR: Final = frozenset({"LinearRegression", "Ridge", "Lasso", "ElasticNet"})
_SCALERS: Final = frozenset({"StandardScaler", "MinMaxScaler", "MaxAbsScaler"})


def import_model(
    estimator: object, *, features: Sequence[Feature], outputs: Sequence[str], decimals: int
) -> ScoringModel:
    """The fitted `estimator` as a scoring model of those features, in the order it was fitted with.

    features: names and public bounds; where the estimator knows its columns' names, the same ones
    Raises Malformed, naming the step, for what can't be computed under encryption.
    """
    steps = _steps(estimator)
    _require_names(steps[0], features)
    scale, shift = np.ones(len(features)), np.zeros(len(features))
    while _is(steps[0], *_SCALERS) and len(steps) > 1:
        by, offset = _scaling(steps.pop(0))
        scale, shift = scale * by, shift * by + offset
    if _is(steps[0], "PolynomialFeatures") and len(steps) == 2:
        expansion, last = steps
        return _quadratic(expansion, last, tuple(features), tuple(outputs), decimals, scale, shift)
    if len(steps) != 1:
        raise Malformed("estimator", f"has a step {_name(steps[0])}, which can't be encrypted")
    family, weights, bias = _affine(steps[0])
    if weights.shape[1] != len(features):
        raise Malformed("features", f"are {len(features)}; the model has {weights.shape[1]}")
    return affine_model(
        family,
        tuple(features),
        tuple(outputs),
        decimals,
        weights=weights * scale,
        bias=bias + weights @ shift,
    )


def _affine(estimator: Any) -> tuple[ModelFamily, Float64Array, Float64Array]:
    """Family, weights of shape (outputs, d), bias of shape (outputs,)."""
    if _is(estimator, *_LINEAR):
        return ModelFamily.LINEAR, *_coefficients(estimator)
    if _is(estimator, "LogisticRegression"):
        if len(estimator.classes_) != 2:
            raise Malformed("estimator", "has more than two classes, which need a division")
        return ModelFamily.LOGISTIC, *_coefficients(estimator)
    if _is(estimator, "MLPRegressor", "MLPClassifier"):
        if estimator.activation != "identity":
            raise Malformed(
                "estimator",
                f"has {estimator.activation} units, which no polynomial stays near; fit a pipeline "
                "of PolynomialFeatures(degree=2) and Ridge: that is a square-activation network",
            )
        if estimator.out_activation_ not in ("identity", "logistic"):
            raise Malformed(
                "estimator",
                f"has {estimator.out_activation_} outputs, which no polynomial stays near",
            )
        weights, bias = np.eye(len(estimator.coefs_[0])), np.zeros(len(estimator.coefs_[0]))
        for matrix, offset in zip(estimator.coefs_, estimator.intercepts_, strict=True):
            weights, bias = matrix.T @ weights, bias @ matrix + offset
        logistic = estimator.out_activation_ == "logistic"
        family = ModelFamily.LOGISTIC if logistic else ModelFamily.LINEAR
        return family, weights.astype(np.float64), bias.astype(np.float64)
    raise Malformed("estimator", f"{_name(estimator)} is not a model that can be encrypted")


def _quadratic(
    expansion: Any,
    estimator: Any,
    features: tuple[Feature, ...],
    outputs: tuple[str, ...],
    decimals: int,
    scale: Float64Array,
    shift: Float64Array,
) -> ScoringModel:
    if expansion.degree not in (2, (0, 2), (1, 2)) or not _is(estimator, *_LINEAR):
        raise Malformed("estimator", "only a linear model of degree-2 polynomials is a network")
    weights, constant = _coefficients(estimator)
    d, count = len(features), len(weights)
    squares, linear = np.zeros((count, d, d)), np.zeros((count, d))
    constant = constant.copy()
    for column, powers in enumerate(expansion.powers_):
        at = [i for i, power in enumerate(powers) for _ in range(power)]
        if len(at) == 2:
            squares[:, at[0], at[1]] += weights[:, column]
        elif len(at) == 1:
            linear[:, at[0]] += weights[:, column]
        else:
            constant += weights[:, column]
    squares = (squares + squares.transpose(0, 2, 1)) / 2
    # In the features' own units: z = scale * x + shift.
    return network_of_quadratic(
        features,
        outputs,
        decimals,
        squares=squares * np.outer(scale, scale),
        linear=(linear + 2 * squares @ shift) * scale,
        constant=constant + linear @ shift + np.einsum("i,kij,j->k", shift, squares, shift),
    )


def _coefficients(estimator: Any) -> tuple[Float64Array, Float64Array]:
    weights = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
    bias = np.asarray(estimator.intercept_, dtype=np.float64)
    return weights, np.broadcast_to(bias, len(weights)).copy()


def _scaling(scaler: Any) -> tuple[Float64Array, Float64Array]:
    """(scale, shift): the scaler turns x to scale * x + shift."""
    if _is(scaler, "StandardScaler"):
        d = scaler.n_features_in_
        scale = 1.0 / scaler.scale_ if scaler.with_std else np.ones(d)
        return scale, (-scaler.mean_ * scale if scaler.with_mean else np.zeros(d))
    if _is(scaler, "MinMaxScaler"):
        if scaler.clip:
            raise Malformed("estimator", "clips while scaling, which can't be encrypted")
        return scaler.scale_, scaler.min_
    return 1.0 / scaler.scale_, np.zeros(scaler.n_features_in_)


def _require_names(step: Any, features: Sequence[Feature]) -> None:
    known = getattr(step, "feature_names_in_", None)
    if known is not None and list(known) != [feature.name for feature in features]:
        raise Malformed("features", "are not named and ordered as the model was fitted")
    fitted = getattr(step, "n_features_in_", None)
    if fitted is None:
        raise Malformed("estimator", f"{_name(step)} is not fitted")
    if fitted != len(features):
        raise Malformed("features", f"are {len(features)}; the model was fitted with {fitted}")


def _steps(estimator: Any) -> list[Any]:
    if _is(estimator, "Pipeline"):
        return [step for _, step in estimator.steps]
    return [estimator]


def _is(estimator: Any, *names: str) -> bool:
    """By the class's own name, so that scikit-learn need not be loaded to look at its models. A
    subclass may predict otherwise and is not taken."""
    kind = type(estimator)
    return kind.__module__.split(".")[0] == "sklearn" and kind.__name__ in names


def _name(estimator: object) -> str:
    return type(estimator).__name__
