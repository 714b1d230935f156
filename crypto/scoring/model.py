"""A model's weights, and the exact plain answers that scoring under encryption is held to.

File format: an npz archive without pickled objects, with `shape` (the canonical JSON of the
ModelShape, as bytes) and the arrays of the model's class by their names below, float64. The rows to
score are an npz archive with one array, `values`. Square-activation networks trained elsewhere
come in through this format.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from crypto import record
from crypto.digest import Digest, digest
from crypto.errors import Malformed
from crypto.scoring.shape import Feature, ModelFamily, ModelShape
from crypto.scoring.sigmoid import SIGMOIDS

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

# In a run's own folder: the owner's and the consumer's.
MODEL_FILE: Final = "model.npz"
FEATURES_FILE: Final = "features.npz"

MAX_HIDDEN: Final = 256
_COMMITMENT: Final = b"unseen/model/v1\x00"
_SALT_BYTES: Final = 32


@dataclass(frozen=True, eq=False)
class AffineModel:
    """Linear: score = weights @ x + bias. Logistic: the polynomial of that, see sigmoid.

    weights: shape (outputs, d). bias: shape (outputs,). Never printed.
    """

    shape: ModelShape
    weights: Float64Array = field(repr=False)
    bias: Float64Array = field(repr=False)

    def __post_init__(self) -> None:
        if self.shape.family is ModelFamily.SQUARE_NETWORK:
            raise Malformed("shape", "is of a network")
        outputs, d = len(self.shape.outputs), len(self.shape.features)
        _require("weights", self.weights, (outputs, d))
        _require("bias", self.bias, (outputs,))
        _require_reach(self.shape, reach_of(self.shape, self.weights, self.bias))

    def place(self, folder: Path) -> None:
        save_model(self, folder / MODEL_FILE)


@dataclass(frozen=True, eq=False)
class SquareNetwork:
    """score = outer @ (inner @ x + inner_bias)**2 + outer_bias. Never printed.

    inner: shape (h, d); inner_bias: shape (h,); outer: shape (outputs, h); outer_bias: (outputs,).
    """

    shape: ModelShape
    inner: Float64Array = field(repr=False)
    inner_bias: Float64Array = field(repr=False)
    outer: Float64Array = field(repr=False)
    outer_bias: Float64Array = field(repr=False)

    def __post_init__(self) -> None:
        if self.shape.family is not ModelFamily.SQUARE_NETWORK:
            raise Malformed("shape", "is not of a network")
        outputs, d, hidden = len(self.shape.outputs), len(self.shape.features), len(self.inner)
        if not 1 <= hidden <= MAX_HIDDEN:
            raise Malformed("inner", f"does not have 1 to {MAX_HIDDEN} hidden units")
        _require("inner", self.inner, (hidden, d))
        _require("inner_bias", self.inner_bias, (hidden,))
        _require("outer", self.outer, (outputs, hidden))
        _require("outer_bias", self.outer_bias, (outputs,))
        units = reach_of(self.shape, self.inner, self.inner_bias)
        scores = np.abs(self.outer) @ units**2 + np.abs(self.outer_bias)
        _require_reach(self.shape, scores)

    def place(self, folder: Path) -> None:
        save_model(self, folder / MODEL_FILE)


ScoringModel = AffineModel | SquareNetwork


def centred(
    shape: ModelShape, weights: Float64Array, bias: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """The same affine map for features scaled to -1..1 by their bounds."""
    centre = np.array([feature.centre for feature in shape.features])
    half = np.array([feature.half_width for feature in shape.features])
    return weights * half, bias + weights @ centre


def reach_of(shape: ModelShape, weights: Float64Array, bias: Float64Array) -> Float64Array:
    """The largest magnitude of each output over all features within their bounds."""
    scaled, offset = centred(shape, weights, bias)
    found: Float64Array = np.abs(scaled).sum(axis=1) + np.abs(offset)
    return found


def power_of_two(reach: float) -> int:
    """The least power of two, from 1, that is not below `reach`. Raises Malformed past 2**40."""
    if not math.isfinite(reach) or reach > 2**40:
        raise Malformed("reach", "is beyond 2**40: bound the features more tightly")
    return 1 << max(0, math.ceil(math.log2(reach))) if reach > 1 else 1


def affine_model(
    family: ModelFamily,
    features: tuple[Feature, ...],
    outputs: tuple[str, ...],
    decimals: int,
    *,
    weights: Float64Array,
    bias: Float64Array,
) -> AffineModel:
    """A linear or logistic model with the least reach that its bounds allow.

    Raises Malformed if a logistic model's logits reach further than any polynomial: the bounds are
    too wide for its weights.
    """
    least = min(SIGMOIDS) if family is ModelFamily.LOGISTIC else 1
    probe = ModelShape(family, features, outputs, decimals, least)
    reach = power_of_two(float(reach_of(probe, weights, bias).max()))
    shape = ModelShape(family, features, outputs, decimals, max(least, reach))
    return AffineModel(shape, weights, bias)


def clamp(shape: ModelShape, features: Float64Array) -> Float64Array:
    """Features within their public bounds. Raises Malformed: shape (n, d), finite numbers."""
    if features.ndim != 2 or features.shape[1] != len(shape.features):
        raise Malformed("features", f"are not rows of {len(shape.features)} values")
    if features.dtype != np.float64 or not np.isfinite(features).all():
        raise Malformed("features", "are not all finite numbers; fill in what is missing first")
    centre = np.array([feature.centre for feature in shape.features])
    half = np.array([feature.half_width for feature in shape.features])
    return np.clip(features, centre - half, centre + half)


def plain_scores(model: ScoringModel, features: Float64Array) -> Float64Array:
    """What scoring computes, before rounding, in the clear: shape (n, outputs).

    Of a logistic model, the clamped polynomial. No process that runs a deal holds both arguments.
    """
    rows = clamp(model.shape, features)
    if isinstance(model, SquareNetwork):
        units = rows @ model.inner.T + model.inner_bias
        scores: Float64Array = units**2 @ model.outer.T + model.outer_bias
        return scores
    logits: Float64Array = rows @ model.weights.T + model.bias
    if model.shape.family is ModelFamily.LINEAR:
        return logits
    sigmoid = SIGMOIDS[model.shape.reach]
    at = logits / sigmoid.reach
    polynomial = sum(c * at ** (2 * i + 1) for i, c in enumerate(sigmoid.coefficients))
    return np.clip(0.5 + polynomial, 0.0, 1.0)


def save_model(model: ScoringModel, path: Path) -> None:
    shape = np.frombuffer(record.to_bytes(model.shape), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez(file, shape=shape, **_arrays(model))


def load_model(path: Path) -> ScoringModel:
    """Raises Malformed if the file is not what `save_model` writes."""
    held = _read(path)
    shape = record.from_bytes(ModelShape, held.pop("shape", np.zeros(0, np.uint8)).tobytes())
    names = _NAMES[shape.family is ModelFamily.SQUARE_NETWORK]
    if set(held) != set(names):
        raise Malformed("model", f"must hold shape, {', '.join(names)} and nothing else")
    arrays = [held[name] for name in names]
    if shape.family is ModelFamily.SQUARE_NETWORK:
        return SquareNetwork(shape, *arrays)
    return AffineModel(shape, *arrays)


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """What a consumer brings to the engine. values: shape (n, d), float64. Never printed."""

    values: Float64Array = field(repr=False)

    def place(self, folder: Path) -> None:
        with (folder / FEATURES_FILE).open("wb") as file:
            np.savez(file, values=self.values)

    @classmethod
    def load(cls, folder: Path) -> FeatureRows:
        """Raises Malformed if the folder does not hold what `place` writes."""
        held = _read(folder / FEATURES_FILE)
        values = held.get("values")
        if values is None or set(held) != {"values"} or values.dtype != np.float64:
            raise Malformed("features", "must hold one float64 table, values, and nothing else")
        return cls(values)


def model_digest(model: ScoringModel, *, salt: bytes) -> Digest:
    """A commitment to shape and weights, so that every job provably uses the listed model.

    salt: 32 bytes that the owner keeps; without it, weights of few digits could be guessed.
    """
    if len(salt) != _SALT_BYTES:
        raise Malformed("salt", f"is not {_SALT_BYTES} bytes")
    parts = [_COMMITMENT, salt, digest(record.to_bytes(model.shape)).raw]
    for array in _arrays(model).values():
        shape = ",".join(str(n) for n in array.shape).encode()
        parts.append(hashlib.sha256(shape + b"\x00" + array.astype("<f8").tobytes()).digest())
    return digest(b"".join(parts))


_NAMES: Final = (("weights", "bias"), ("inner", "inner_bias", "outer", "outer_bias"))


def _arrays(model: ScoringModel) -> dict[str, Float64Array]:
    return {name: getattr(model, name) for name in _NAMES[isinstance(model, SquareNetwork)]}


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as held:
            return dict(held)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Malformed("file", "is not an npz archive of plain arrays") from error


def _require(name: str, array: Float64Array, shape: tuple[int, ...]) -> None:
    if array.dtype != np.float64 or array.shape != shape:
        raise Malformed(name, f"is {array.dtype} {array.shape}, not float64 {shape}")
    if not np.isfinite(array).all():
        raise Malformed(name, "is not finite everywhere")


def _require_reach(shape: ModelShape, found: Float64Array) -> None:
    if found.max() > shape.reach:
        raise Malformed("reach", "is less than what features within their bounds can bring about")
