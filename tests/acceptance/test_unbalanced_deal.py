"""Two jobs between a holder of many rows and one of few, from question to answer."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from crypto.adapters.kept_folder import CLIENT_FILE, SERVER_FILE
from crypto.engine import EngineStage, EngineTask
from crypto.identifiers import JobId
from crypto.joinkeys import TOKEN_BYTES
from crypto.joins.intersection import Intersection
from crypto.joins.ports import UInt8Array
from crypto.joins.rows import KeptRows
from exchange.jobs import JobState
from exchange.node import receiving, runs
from exchange.node.engine import EngineInput, EngineLimits
from exchange.node.jobs import plan_of
from exchange.query import standing
from exchange.results import AnyAnswer
from registry.rule import Join
from registry.source import FileFormat, FileSource
from tests.acceptance.test_a_deal_with_real_engines import real_workshop
from tests.fakes import engine as fake_engine
from tests.fakes.two_masked import one_job, tokens
from tests.world import CLINIC_ROWS, Deal, World, a_deal, a_world

WOMEN = """
SELECT COUNT(*) AS people FROM clinic JOIN lab ON clinic.person = lab.person
WHERE clinic.sex = 'f'
"""
CLINIC_HEADER = ("person", "sex", "progression")
OFFLINE, MATCH = EngineStage.OFFLINE, EngineStage.MATCH
AFTER = (EngineStage.SHARE, EngineStage.COMPUTE, EngineStage.GATE)


@pytest.fixture
def deal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deal:
    """Products of one size will do, where the ratio asks for no more."""
    monkeypatch.setattr(standing, "LEAST_RATIO", 1)
    world = a_world(tmp_path)
    made = a_deal(world)
    made.approve_standing()
    return made


def asked(
    world: World, deal: Deal, intersection: Intersection | None = None, **changes: object
) -> JobId:
    job = deal.submit(join=Join.REVEALED, intersection=intersection, **changes)
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


def masked_in_two_jobs(
    deal: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[UInt8Array]:
    """The tokens of the larger side in two jobs with one filter, which nobody fits."""
    clinic = deal.world.members["clinic"]
    path = tmp_path / "men.csv"
    men = [row for row in CLINIC_ROWS if row[1] == "m"]
    path.write_text("\n".join(",".join(row) for row in [CLINIC_HEADER, *men]) + "\n")
    with clinic.node.store.transaction() as tx:
        tx.save_source(deal.clinic_product.id, "men", FileSource(str(path), FileFormat.CSV))
    given = []
    start = fake_engine.InProcessEngine.start

    def watched(
        self: fake_engine.InProcessEngine,
        task: EngineTask,
        rows: EngineInput | None,
        limits: EngineLimits,
    ) -> fake_engine.InProcessRun:
        if task.seat.rank == 0:
            assert isinstance(rows, KeptRows)
            given.append(rows.rows.tokens)
        return start(self, task, rows, limits)

    with monkeypatch.context() as patched:
        patched.setattr(fake_engine.InProcessEngine, "start", watched)
        for _ in range(2):
            asked(deal.world, deal, sql=WOMEN)
    return given


def test_that_nobody_fits_the_larger_sides_filter_shows_in_no_later_job(
    deal: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks made anew for unchanged rows would say it: so one person's values could be bisected."""
    few = tokens(range(5))
    with monkeypatch.context() as patched:
        patched.setattr(runs, "standing_filler", lambda *_: os.urandom(TOKEN_BYTES))  # the twin
        first, second = masked_in_two_jobs(deal, tmp_path, monkeypatch)
    one_job(tmp_path / "twin", first, few)
    assert one_job(tmp_path / "twin", second, few).offline
    first, second = masked_in_two_jobs(deal, tmp_path, monkeypatch)
    assert len(first) == len(second) == 1
    one_job(tmp_path / "kept", first, few)
    assert not one_job(tmp_path / "kept", second, few).offline


@pytest.mark.parametrize(
    "stages",
    [(OFFLINE, MATCH, *AFTER), (MATCH, OFFLINE, MATCH, *AFTER)],
    ids=["made anew", "did not fit"],
)
def test_nobody_is_told_whether_the_masked_keys_were_those_of_an_earlier_job(
    deal: Deal, stages: tuple[EngineStage, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for made in (stages, (MATCH, *AFTER)):
        monkeypatch.setattr(fake_engine, "TWO_PARTY_STAGES", made)
        before = {name: len(deal.world.members[name].hub.stages) for name in ("clinic", "lab")}
        asked(deal.world, deal)
        told.append([deal.world.members[name].hub.stages[then:] for name, then in before.items()])
    assert told[0] == told[1]
    assert told[0][0].count("match") == 1


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
