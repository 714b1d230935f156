"""Models that are scored under encryption: their shape, their files, their exact answers."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto import record
from crypto.errors import Malformed
from crypto.scoring.model import (
    FEATURES_FILE,
    MODEL_FILE,
    AffineModel,
    FeatureRows,
    ScoringModel,
    SquareNetwork,
    affine_model,
    load_model,
    model_digest,
    plain_scores,
    power_of_two,
)
from crypto.scoring.quadratic import network_of_quadratic
from crypto.scoring.results import pack, unpack
from crypto.scoring.shape import Feature, ModelFamily, ModelShape
from tests.fakes.scoring import a_shape, some_features

RNG = np.random.default_rng(7)


def a_linear_model(**changes: Any) -> AffineModel:
    shape = a_shape(outputs=("one", "two"))
    return AffineModel(replace(shape, **changes), RNG.normal(size=(2, 3)), RNG.normal(size=2))


def a_network() -> SquareNetwork:
    shape = a_shape(ModelFamily.SQUARE_NETWORK, reach=2**14)
    parts = [RNG.normal(size=size) for size in ((4, 3), (4,), (1, 4), (1,))]
    return SquareNetwork(shape, *parts)


@pytest.mark.parametrize("model", [a_linear_model(), a_network()], ids=["linear", "network"])
def test_a_model_written_to_a_run_s_folder_comes_back_with_the_same_digest(
    model: ScoringModel, tmp_path: Path
) -> None:
    model.place(tmp_path)
    back = load_model(tmp_path / MODEL_FILE)
    assert back.shape == model.shape
    assert model_digest(back, salt=b"s" * 32) == model_digest(model, salt=b"s" * 32)


def test_a_digest_changes_with_any_weight_the_shape_and_the_salt() -> None:
    model = a_network()
    found = {model_digest(model, salt=b"s" * 32), model_digest(model, salt=b"t" * 32)}
    for name in ("inner", "inner_bias", "outer", "outer_bias"):
        changed = getattr(model, name).copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], 0)
        found.add(model_digest(replace(model, **{name: changed}), salt=b"s" * 32))
    coarser = replace(model, shape=replace(model.shape, decimals=2))
    found.add(model_digest(coarser, salt=b"s" * 32))
    assert len(found) == 7


def test_pickled_objects_in_a_model_file_are_refused_and_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("ran").touch, ())

    with (tmp_path / MODEL_FILE).open("wb") as file:
        np.savez(file, shape=np.array([Trap()], dtype=object))
    with pytest.raises(Malformed, match="npz archive of plain arrays"):
        load_model(tmp_path / MODEL_FILE)
    (tmp_path / MODEL_FILE).write_bytes(pickle.dumps(1))
    with pytest.raises(Malformed, match="npz archive of plain arrays"):
        load_model(tmp_path / MODEL_FILE)
    assert not (tmp_path / "ran").exists()


def test_a_model_file_with_an_array_too_many_is_refused(tmp_path: Path) -> None:
    model = a_linear_model()
    shape = np.frombuffer(record.to_bytes(model.shape), np.uint8)
    with (tmp_path / MODEL_FILE).open("wb") as file:
        np.savez(file, shape=shape, weights=model.weights, bias=model.bias, extra=model.bias)
    with pytest.raises(Malformed, match="nothing else"):
        load_model(tmp_path / MODEL_FILE)


def test_feature_rows_come_back_and_other_types_are_refused(tmp_path: Path) -> None:
    rows = RNG.normal(size=(5, 3))
    FeatureRows(rows).place(tmp_path)
    assert np.array_equal(FeatureRows.load(tmp_path).values, rows)
    with (tmp_path / FEATURES_FILE).open("wb") as file:
        np.savez(file, values=rows.astype(np.float32))
    with pytest.raises(Malformed, match="float64"):
        FeatureRows.load(tmp_path)


def test_neither_weights_nor_features_are_ever_printed() -> None:
    model, rows = a_linear_model(), FeatureRows(np.full((1, 3), 0.123456))
    assert "weights" not in repr(model) and str(model.weights[0, 0])[:6] not in repr(model)
    assert "0.123456" not in repr(rows)


def test_a_reach_that_some_allowed_features_leave_is_refused() -> None:
    features = (Feature("x", -100, 300, 2),)
    shape = ModelShape(ModelFamily.LINEAR, features, ("y",), 2, 8)
    AffineModel(shape, np.array([[2.0]]), np.array([2.0]))  # 2 * 3 + 2: exactly 8
    with pytest.raises(Malformed, match="reach"):
        AffineModel(shape, np.array([[2.0]]), np.array([2.01]))
    with pytest.raises(Malformed, match="reach"):
        AffineModel(shape, np.array([[-7.0]]), np.array([-1.0 - 2]))  # at x = 3: -24


def test_a_network_s_reach_covers_every_sign_of_its_units() -> None:
    features = (Feature("x", -1, 1, 0),)
    shape = ModelShape(ModelFamily.SQUARE_NETWORK, features, ("y",), 2, 1)
    one, none = np.array([[1.0]]), np.zeros(1)
    SquareNetwork(shape, one, none, one, none)
    with pytest.raises(Malformed, match="reach"):
        SquareNetwork(shape, one, none, -1.01 * one, none)


def test_a_logistic_model_beyond_every_polynomial_is_refused_with_the_reason() -> None:
    with pytest.raises(Malformed, match="must be one of 8, 16, 32, 64, 128"):
        affine_model(
            ModelFamily.LOGISTIC,
            some_features(1),
            ("p",),
            3,
            weights=np.array([[100.0]]),
            bias=np.zeros(1),
        )


def test_infinite_weights_and_features_are_refused() -> None:
    with pytest.raises(Malformed, match="finite"):
        AffineModel(a_shape(), np.full((1, 3), np.inf), np.zeros(1))
    with pytest.raises(Malformed, match="finite"):
        plain_scores(a_linear_model(), np.full((1, 3), np.nan))


def test_features_outside_their_bounds_count_as_the_bound() -> None:
    model = a_linear_model()
    inside = np.array([[f.low / 100 for f in model.shape.features]])
    assert np.allclose(plain_scores(model, inside - 50), plain_scores(model, inside))


@pytest.mark.parametrize(("value", "power"), [(0.0, 1), (1.0, 1), (1.01, 2), (8.0, 8), (8.5, 16)])
def test_the_reach_is_the_next_power_of_two(value: float, power: int) -> None:
    assert power_of_two(value) == power


@pytest.mark.parametrize("value", [np.inf, np.nan, 2.0**41])
def test_a_reach_without_bound_is_refused(value: float) -> None:
    with pytest.raises(Malformed, match="bound the features"):
        power_of_two(value)


def test_a_shape_comes_back_from_its_canonical_bytes() -> None:
    shape = a_shape(ModelFamily.LOGISTIC)
    assert record.from_bytes(ModelShape, record.to_bytes(shape)) == shape


@pytest.mark.parametrize(
    "changes",
    [{"reach": 48}, {"reach": 0}, {"decimals": 7}, {"outputs": ()}, {"outputs": ("a", "a")}],
)
def test_shapes_that_mean_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        replace(a_shape(), **changes)


def test_any_quadratic_function_is_a_network_of_squares() -> None:
    features = some_features(4)
    squares, linear = RNG.normal(size=(2, 4, 4)), RNG.normal(size=(2, 4))
    constant = RNG.normal(size=2)
    squares[1] = np.outer(squares[1, 0], squares[1, 0])  # of rank one: fewer units
    model = network_of_quadratic(
        features, ("a", "b"), 2, squares=squares, linear=linear, constant=constant
    )
    assert len(model.inner) == 4 + 2 + 1 + 2
    x = RNG.uniform(-2, 3, size=(50, 4))
    wanted = np.einsum("ni,kij,nj->nk", x, squares, x) + x @ linear.T + constant
    assert np.allclose(plain_scores(model, x), wanted, atol=1e-9)


def test_a_constant_is_a_network_too() -> None:
    zero = np.zeros((1, 2))
    model = network_of_quadratic(
        some_features(2), ("a",), 2, squares=np.zeros((1, 2, 2)), linear=zero, constant=np.ones(1)
    )
    assert np.allclose(plain_scores(model, np.ones((3, 2))), 1)


def test_packed_scores_have_one_size_whatever_was_meant() -> None:
    few, many = np.array([[1, -2]]), np.arange(6).reshape(3, 2)
    assert len(pack(few, rows=3)) == len(pack(many, rows=3)) == 48
    assert np.array_equal(unpack(pack(few, rows=3), rows=3, outputs=2)[:1], few)
    with pytest.raises(Malformed):
        unpack(pack(few, rows=3), rows=2, outputs=2)
