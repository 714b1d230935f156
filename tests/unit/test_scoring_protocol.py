"""Messages and circuits of scoring, on a scheme that encrypts nothing but keeps its scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crypto import record
from crypto.engine import EngineStage, ScoreTask, TaskLine
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.ports import SystemRandomness
from crypto.scoring.hiding import ERROR_UNITS
from crypto.scoring.model import (
    AffineModel,
    ScoringModel,
    SquareNetwork,
    affine_model,
    plain_scores,
    power_of_two,
    reach_of,
)
from crypto.scoring.packing import blocks
from crypto.scoring.protocol import ask, serve
from crypto.scoring.shape import Feature, ModelFamily
from tests.fakes.scoring import PlainScheme, Scoring, a_shape, a_task, some_features

RNG = np.random.default_rng(11)


def an_affine_model(family: ModelFamily, d: int = 5, outputs: int = 2) -> AffineModel:
    weights = RNG.normal(size=(outputs, d)) * np.arange(d)  # one weight is zero
    names = tuple(f"y{i}" for i in range(outputs))
    bias = RNG.normal(size=outputs)
    return affine_model(family, some_features(d), names, 3, weights=weights, bias=bias)


def a_network(d: int = 5, hidden: int = 3, outputs: int = 2) -> SquareNetwork:
    inner, inner_bias = RNG.normal(size=(hidden, d)), RNG.normal(size=hidden)
    outer, outer_bias = RNG.normal(size=(outputs, hidden)), RNG.normal(size=outputs)
    names = tuple(f"y{i}" for i in range(outputs))
    probe = a_shape(ModelFamily.SQUARE_NETWORK, features=d, outputs=names)
    units = reach_of(probe, inner, inner_bias)
    reach = power_of_two(float((np.abs(outer) @ units**2 + np.abs(outer_bias)).max()))
    shape = replace(probe, reach=reach)
    return SquareNetwork(shape, inner, inner_bias, outer, outer_bias)


MODELS: dict[str, ScoringModel] = {
    "linear": an_affine_model(ModelFamily.LINEAR),
    "logistic": an_affine_model(ModelFamily.LOGISTIC),
    "network": a_network(),
}


def rows(count: int, d: int = 5) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return RNG.uniform(-4, 6, size=(count, d))  # some outside their bounds


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_scores_are_the_plain_ones_of_clamped_features_to_the_last_unit(
    model: ScoringModel,
) -> None:
    features = rows(300)
    scoring = Scoring(model, features, rows=300, scheme=PlainScheme())
    assert scoring.errors == {}
    wanted = plain_scores(model, features) * 10**model.shape.decimals
    assert scoring.scores.shape == (300, 2)
    assert np.abs(scoring.scores - wanted).max() < ERROR_UNITS


def test_ten_thousand_rows_go_in_blocks_and_come_back_in_order() -> None:
    model = MODELS["linear"]
    features = rows(10_000)
    scoring = Scoring(model, features, rows=10_000, scheme=PlainScheme())
    wanted = plain_scores(model, features) * 1000
    assert np.abs(scoring.scores - wanted).max() < ERROR_UNITS
    assert [label for label, _ in scoring.owner.sent].count("score") == 3 * 2


def test_blocks_are_full_but_for_the_last() -> None:
    assert blocks(10_000, 4096) == [4096, 4096, 1808]
    assert blocks(4096, 4096) == [4096]


def test_what_the_owner_receives_does_not_depend_on_how_many_rows_are_meant() -> None:
    model = MODELS["linear"]
    sizes = []
    for meant in (0, 1, 5000):
        scoring = Scoring(model, rows(meant), rows=5000, scheme=PlainScheme())
        assert scoring.scores.shape == (meant, 2)
        sizes.append([(label, len(payload)) for label, payload in scoring.consumer.sent])
    assert sizes[0] == sizes[1] == sizes[2]


def test_no_galois_keys_and_no_useless_relinearisation_keys_are_sent() -> None:
    for name, empty in (("linear", True), ("logistic", False), ("network", False)):
        sent = Scoring(MODELS[name], rows(1), rows=1, scheme=PlainScheme()).consumer.sent
        assert [label for label, _ in sent] == ["task", "key", "relinearisation", *["feature"] * 5]
        assert (sent[2][1] == b"") == empty


def test_a_feature_with_one_allowed_value_is_a_constant() -> None:
    features = (Feature("x", 0, 100, 2), Feature("fixed", 250, 250, 2))
    model = affine_model(
        ModelFamily.LINEAR, features, ("y",), 2, weights=np.array([[1.0, 2.0]]), bias=np.zeros(1)
    )
    scoring = Scoring(model, np.array([[0.5, 77.0]]), rows=1, scheme=PlainScheme())
    assert scoring.scores.tolist() == [[550]]


@pytest.mark.parametrize(
    "change", [{"rows": 9}, {"shape": replace(MODELS["linear"].shape, decimals=2)}]
)
def test_parties_told_different_tasks_stop_before_any_feature_is_sent(
    change: dict[str, object],
) -> None:
    model = MODELS["linear"]
    other = replace(a_task(1, model.shape, 8), **change)  # type: ignore[arg-type]
    scoring = Scoring(model, rows(2), rows=8, scheme=PlainScheme(), consumer_task=other)
    for error in scoring.errors.values():
        assert isinstance(error, EngineFailed) and error.fault is EngineFault.MISMATCH
    assert set(scoring.errors) == {"owner", "consumer"}
    assert [label for label, _ in scoring.consumer.sent] == ["task"]


@pytest.mark.parametrize(
    "features", [np.full((1, 5), np.nan), rows(1, 4), rows(9), rows(1).astype(np.float32)]
)
def test_features_that_cannot_be_scored_are_refused_before_anything_is_sent(
    features: np.ndarray[tuple[int, int], np.dtype[np.float64]],
) -> None:
    scoring = Scoring(MODELS["linear"], features, rows=8, scheme=PlainScheme())
    assert isinstance(scoring.errors["consumer"], Malformed)
    assert scoring.consumer.sent == []


def test_an_owner_does_not_serve_a_model_of_another_shape() -> None:
    model = MODELS["linear"]
    coarser = replace(model.shape, decimals=1)
    with pytest.raises(Malformed, match="shape"):
        serve(
            a_task(0, coarser, 1),
            model,
            channels=Scoring(model, rows(1), rows=1, scheme=PlainScheme()).owner,
            scheme=PlainScheme(),
            randomness=SystemRandomness(),
            on_stage=lambda stage: None,
        )


def test_neither_party_takes_the_other_s_seat() -> None:
    model = MODELS["linear"]
    channels = Scoring(model, rows(1), rows=1, scheme=PlainScheme()).owner
    given = {
        "channels": channels,
        "scheme": PlainScheme(),
        "randomness": SystemRandomness(),
        "on_stage": lambda stage: None,
    }
    with pytest.raises(Malformed, match="rank"):
        serve(a_task(1, model.shape, 1), model, **given)  # type: ignore[arg-type]
    with pytest.raises(Malformed, match="rank"):
        ask(a_task(0, model.shape, 1), rows(1), **given)  # type: ignore[arg-type]


def test_stages_come_in_their_order() -> None:
    scoring = Scoring(MODELS["linear"], rows(1), rows=1, scheme=PlainScheme())
    assert scoring.stages == [
        EngineStage.CHECK,
        EngineStage.UPLOAD,
        EngineStage.COMPUTE,
        EngineStage.GATE,
    ]


def test_a_task_comes_back_from_its_line() -> None:
    task = a_task(0, MODELS["logistic"].shape, 10_000)
    assert record.from_bytes(TaskLine, record.to_bytes(TaskLine(task))).task == task


def test_the_common_digest_is_the_same_for_both_and_changes_with_every_term() -> None:
    shape = MODELS["linear"].shape
    owner, consumer = a_task(0, shape, 10), a_task(1, shape, 10)
    assert owner.common == consumer.common
    features = (replace(shape.features[0], high=401), *shape.features[1:])
    others = {
        replace(owner, rows=11).common,
        replace(owner, shape=replace(shape, features=features)).common,
        replace(owner, shape=replace(shape, reach=2 * shape.reach)).common,
        replace(owner, seat=replace(owner.seat, attempt="another")).common,
    }
    assert len(others - {owner.common}) == 4


@pytest.mark.parametrize("count", [0, 500_001])
def test_a_task_of_no_rows_or_of_more_scores_than_a_line_holds_is_refused(count: int) -> None:
    with pytest.raises(Malformed, match="rows"):
        a_task(0, MODELS["linear"].shape, count)


def test_a_task_whose_decimals_would_show_the_weights_cannot_be_written() -> None:
    shape = replace(MODELS["logistic"].shape, decimals=6)
    with pytest.raises(Malformed, match="decimals"):
        ScoreTask(a_task(0, MODELS["linear"].shape, 1).seat, shape, 1, "ckks-logistic-16384")
