"""Scoring as a job: an owner's model, a consumer's rows, and neither sees the other's."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crypto.adapters.sklearn_model import import_model
from crypto.identifiers import JobId
from crypto.scoring.hiding import ERROR_UNITS
from crypto.scoring.model import (
    AffineModel,
    Float64Array,
    ScoringModel,
    affine_model,
    load_model,
    plain_scores,
    save_model,
)
from crypto.scoring.shape import Feature, ModelFamily
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.errors import QuestionRefused
from exchange.hub import bundle as hub_bundle
from exchange.jobs import JobState
from exchange.node import receiving
from exchange.query.explanation import learns
from exchange.query.plan import Score
from exchange.results import ScoreAnswer
from tests.acceptance.test_a_deal_with_real_engines import real_workshop
from tests.fakes.scoring import some_features
from tests.integration.test_audit_deal import roots_of
from tests.requests import (
    OneHolder,
    a_lookup_product,
    a_model_product,
    a_request_deal,
    some_rows,
    with_request_engines,
    workshop,
)
from tests.world import World, a_world

WEIGHTS = np.array([[0.731, -2.25, 0.125]])


def a_model(family: ModelFamily = ModelFamily.LINEAR) -> AffineModel:
    return affine_model(
        family, some_features(3), ("risk",), 3, weights=WEIGHTS, bias=np.array([0.5])
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = a_world(tmp_path)
    with_request_engines(world)
    return world


def a_score_deal(world: World, model: ScoringModel | None = None, **product: int) -> OneHolder:
    return a_request_deal(world, a_model_product(world, model or a_model(), **product))


def found(deal: OneHolder, job: JobId) -> ScoreAnswer:
    answer = receiving.answer(job, deal.consumer.node.store)
    assert isinstance(answer, ScoreAnswer)
    return answer


def assert_scores(answer: ScoreAnswer, model: ScoringModel, rows: Float64Array) -> None:
    wanted = plain_scores(model, rows) * 10**model.shape.decimals
    got = [[float(s * 10**model.shape.decimals) for s in row.scores] for row in answer.rows]
    assert len(got) == len(rows)
    assert np.abs(np.array(got) - wanted).max() < ERROR_UNITS


@pytest.mark.parametrize("family", [ModelFamily.LINEAR, ModelFamily.LOGISTIC])
def test_the_consumer_gets_the_models_scores_of_its_rows_and_the_owner_is_paid(
    world: World, family: ModelFamily
) -> None:
    model = a_model(family)
    deal, rows = a_score_deal(world, model), some_rows(30, 3)
    job = deal.score(rows)
    deal.approve(job)
    deal.released(job)
    answer = found(deal, job)
    assert answer.outputs == ("risk",)
    assert [row.name for row in answer.rows[:2]] == ["row 0", "row 1"]
    assert_scores(answer, model, rows)
    assert (world.available("research"), world.available("clinic")) == (9000, 1000)
    assert deal.alarms(deal.consumer) == deal.alarms(deal.holder) == []


def test_a_plan_says_whole_ciphertexts_and_not_how_many_rows_are_meant(world: World) -> None:
    deal = a_score_deal(world)
    sent = [deal.plan(meant).work for meant in (1, 4096, 4097)]
    assert [work.rows for work in sent if isinstance(work, Score)] == [4096, 4096, 8192]
    assert "4,096 encrypted rows" in learns(deal.plan(7))[deal.holder.id]


def test_weights_stay_in_the_owners_folder(world: World) -> None:
    deal = a_score_deal(world)
    job = deal.score(some_rows(3, 3))
    deal.approve(job)
    deal.released(job)
    secret = WEIGHTS.tobytes()
    files = [path for path in world.path.rglob("*") if path.is_file()]
    holding = {path for path in files if secret in path.read_bytes()}
    assert holding == set((world.path / "clinic" / "models").glob("*.npz")) != set()
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in holding)


def test_another_model_in_the_listed_ones_place_scores_nobody(world: World) -> None:
    deal = a_score_deal(world)
    (path,) = (world.path / "clinic" / "models").glob("*.npz")
    model = load_model(path)
    assert isinstance(model, AffineModel)
    save_model(replace(model, weights=model.weights * 0.5), path)
    job = deal.score(some_rows(3, 3))
    deal.approve(job)
    assert deal.job(job).state is JobState.FAILED
    assert "local part" in deal.job(job).reason
    assert world.available("research") == 10_000


def test_rows_that_no_model_could_take_are_refused_before_anything_is_sent(world: World) -> None:
    deal = a_score_deal(world)
    rows = some_rows(3, 3)
    rows[1, 1] = np.nan
    for bad in (rows, some_rows(3, 2)):
        with pytest.raises(QuestionRefused, match="rows"):
            deal.score(bad)


def test_the_rows_of_a_day_are_limited_or_a_model_could_be_copied(world: World) -> None:
    deal = a_score_deal(world, per_day=5000)
    job = deal.score(some_rows(2, 3), sent=4500)
    deal.approve(job)
    deal.released(job)
    second = deal.score(some_rows(2, 3), sent=501)
    world.settle()
    assert deal.job(second).state is JobState.REFUSED
    assert "500 are left of 5,000 in 24 hours" in deal.job(second).reason


def test_a_score_cannot_be_asked_again_without_its_rows(world: World) -> None:
    deal = a_score_deal(world)
    job = deal.score(some_rows(2, 3))
    with pytest.raises(QuestionRefused, match="anew"):
        deal.consumer.desk.recompile(job)


def test_a_deal_with_a_score_and_a_lookup_passes_its_audit(world: World) -> None:
    score = a_score_deal(world)
    lookup = a_request_deal(world, a_lookup_product(world), deal=score.deal)
    for deal, job in ((score, score.score(some_rows(2, 3))), (lookup, lookup.look_up(["p003"]))):
        deal.approve(job)
        deal.released(job)
    for _ in range(2):
        world.settle()
    regulator = world.members["regulator"]
    with world.store.reading() as tx:
        bundle = hub_bundle.export(score.deal, tx).data
    opener = Opener(regulator.id, regulator.folder.sealing)
    report = audit_deal(bundle, world.policy, roots_of(world), opener)
    assert report.failed == ()
    assert [check.id for check in report.not_opened] == ["entry.time"]
    receipts = [check for check in report.passed if check.id == "job.receipt"]
    assert len(receipts) == 2


# Real engines, real data


@pytest.mark.engine
def test_a_model_of_breast_cancer_scores_patients_over_links_with_engine_children(
    tmp_path: Path,
) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = datasets.load_breast_cancer()
    values = data.data[:, :10].astype(np.float64)
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=0.05)).fit(
        values[:400], data.target[:400]
    )
    features = tuple(
        Feature(
            name.replace(" ", "_"),
            int(np.floor(column.min() * 1000)),
            int(np.ceil(column.max() * 1000)),
            3,
        )
        for name, column in zip(data.feature_names[:10], values.T, strict=True)
    )
    model = import_model(estimator, features=features, outputs=("benign",), decimals=3)
    world = a_world(tmp_path)
    deal = a_score_deal(world, model)
    clinic, research = deal.holder, deal.consumer
    rows = values[400:]
    with real_workshop(clinic, listen=True), real_workshop(research, listen=False):
        job = deal.score(rows)
        world.settle()
        clinic.desk.approve(job)
        for _ in range(3000):
            world.round()
            threading.Event().wait(0.02)
            if deal.job(job).state in (JobState.RELEASED, JobState.FAILED):
                break
        world.settle()
    deal.released(job)
    assert_scores(found(deal, job), model, rows)
    close = np.array([[float(s) for s in row.scores] for row in found(deal, job).rows])[:, 0]
    exact = estimator.predict_proba(rows)[:, 1]
    assert np.abs(close - exact).max() <= float(model.shape.stated_error) + 0.001
    assert deal.alarms(research) == deal.alarms(clinic) == []
    assert workshop(clinic).engine is not workshop(research).engine
