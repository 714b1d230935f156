"""Two jobs between a holder of many rows and one of few, from question to answer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from crypto.adapters.kept_folder import CLIENT_FILE, SERVER_FILE
from crypto.identifiers import JobId
from crypto.joins.intersection import Intersection
from exchange.jobs import JobState
from exchange.node import receiving
from exchange.node.jobs import plan_of
from exchange.query import standing
from exchange.results import AnyAnswer
from registry.rule import Join
from tests.acceptance.test_a_deal_with_real_engines import real_workshop
from tests.world import Deal, World, a_deal, a_world


@pytest.fixture
def deal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deal:
    """Products of one size will do, where the ratio asks for no more."""
    monkeypatch.setattr(standing, "LEAST_RATIO", 1)
    world = a_world(tmp_path)
    made = a_deal(world)
    made.approve_standing()
    return made


def asked(world: World, deal: Deal, intersection: Intersection | None = None) -> JobId:
    job = deal.submit(join=Join.REVEALED, intersection=intersection)
    for _ in range(1200):
        world.round()
        threading.Event().wait(0.02)
        with world.members["research"].node.store.reading() as tx:
            found = tx.job(job)
        if found is not None and found.state in (JobState.RELEASED, JobState.FAILED):
            break
    world.settle()
    return job


def answer_of(world: World, job: JobId) -> AnyAnswer:
    store = world.members["research"].node.store
    with store.reading() as tx:
        found = tx.job(job)
        assert found is not None and found.state is JobState.RELEASED, found and found.reason
    return receiving.answer(job, store)


def intersection_of(world: World, job: JobId) -> Intersection | None:
    with world.members["clinic"].node.store.reading() as tx:
        found = tx.job(job)
        assert found is not None
        return plan_of(found, tx).query.intersection


def test_the_answer_is_that_of_any_other_intersection(deal: Deal, tmp_path: Path) -> None:
    world = deal.world
    unbalanced, balanced = asked(world, deal), asked(world, deal, Intersection.RR22)
    assert intersection_of(world, unbalanced) is Intersection.UNBALANCED
    assert answer_of(world, unbalanced).rows == answer_of(world, balanced).rows
    folders = [list((tmp_path / name / "standing").glob("*/*/*")) for name in ("clinic", "lab")]
    assert [len(found) for found in folders] == [1, 1]
    names = {found[0].relative_to(tmp_path).parts[1:] for found in folders}
    assert len(names) == 1


@pytest.mark.engine
@pytest.mark.slow
def test_the_second_job_asks_for_what_the_first_has_left(deal: Deal, tmp_path: Path) -> None:
    world = deal.world
    clinic, lab = world.members["clinic"], world.members["lab"]

    def kept() -> dict[str, int]:
        files = [path for path in tmp_path.glob("*/standing/*/*/*/*") if path.is_file()]
        return {f"{p.relative_to(tmp_path).parts[0]}/{p.name}": p.stat().st_mtime_ns for p in files}

    with real_workshop(clinic, listen=True), real_workshop(lab, listen=False):
        first = asked(world, deal)
        made = kept()
        second = asked(world, deal)
    assert set(made) == {f"clinic/{SERVER_FILE}", f"lab/{CLIENT_FILE}"}
    assert kept() == made
    assert answer_of(world, first).rows == answer_of(world, second).rows
