from __future__ import annotations

from pathlib import Path

import pytest

from crypto.statement import read_statement
from exchange import evidence
from exchange.jobs import JobState
from tests.fakes.engine import InProcessEngine
from tests.world import a_deal, a_world


def test_a_consumer_that_withdraws_first_gets_no_engine_started(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    job = deal.submit()
    clinic, lab, research = (world.members[name] for name in ("clinic", "lab", "research"))
    research.node.work()
    for holder in (clinic, lab):
        holder.node.hear(wait_s=0)
        holder.node.work()  # both admit
    research.desk.cancel(job)
    research.node.work()  # the hub has cancelled, and nobody has heard of it
    clinic.hub.deceive = lambda message: [] if _says(message.entry, "job.cancelled") else [message]
    clinic.node.hear(wait_s=0)
    with clinic.node.store.reading() as tx:
        before = tx.job(job)
        assert before is not None and before.state is JobState.ADMITTED
    clinic.node.work()
    assert clinic.node.workshop is not None
    engine = clinic.node.workshop.engine
    assert isinstance(engine, InProcessEngine)
    assert engine._running == []
    with clinic.node.store.reading() as tx:
        found = tx.job(job)
        assert found is not None and found.state is JobState.FAILED
        assert "did not take its start in" in found.reason
    clinic.hub.deceive = lambda message: [message]
    world.settle()
    assert world.available("research") == 10_000


def test_a_start_that_does_not_name_every_partys_admission_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = evidence.started
    monkeypatch.setattr(
        evidence,
        "started",
        lambda job, *, plan, admissions: honest(job, plan=plan, admissions=admissions[:1]),
    )
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    job = deal.submit()
    world.settle()
    research, clinic = world.members["research"], world.members["clinic"]
    assert research.hub.service.job(research.id, job).job.state is not JobState.RELEASED
    with clinic.node.store.reading() as tx:
        found = tx.job(job)
        assert found is not None and "did not take its start in" in found.reason


def _says(entry: bytes, kind: str) -> bool:
    return read_statement(entry).statement.type == kind
