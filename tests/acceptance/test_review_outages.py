"""What one failure must not take with it: the watch, other jobs, a party's chain."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from api.wiring import node as wiring
from crypto.digest import Digest
from crypto.identifiers import DealId
from crypto.ports import SystemRandomness
from exchange.errors import HubUnreachable
from exchange.hub import background, settlement
from exchange.hub.model import HubJob, Operator
from exchange.hub.ports import HubTransaction
from exchange.jobs import JobState
from exchange.node import registering
from exchange.node.watch import PATIENCE_WITHOUT_HUB
from tests.world import START, Deal, a_deal, a_world, negotiate, terms_for


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    deal = a_deal(a_world(tmp_path_factory.mktemp("prepared")))
    deal.approve_standing()
    return deal


@pytest.fixture
def deal(prepared: Deal, tmp_path: Path) -> Deal:
    return prepared.copied_to(tmp_path)


def test_a_database_that_is_busy_for_too_long_ends_no_loop(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that answers slowly keeps another thread of the node waiting for the database."""
    monkeypatch.setattr(wiring, "LONGEST_PAUSE_S", 0.01)
    stop, rounds = threading.Event(), []

    def step() -> bool:
        rounds.append(1)
        if len(rounds) < 3:
            raise OperationalError("BEGIN IMMEDIATE", {}, Exception("database is locked"))
        stop.set()
        return True

    wiring._loop(stop, step, deal.world.members["clinic"].node)
    assert len(rounds) == 3


def test_a_hub_that_answers_everything_but_questions_after_proofs_raises_an_alarm(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]

    def withhold(statement: Digest) -> str:
        raise HubUnreachable("503")

    monkeypatch.setattr(clinic.hub, "receipt", withhold)
    with pytest.raises(HubUnreachable):
        clinic.node.look()
    with clinic.node.store.reading() as tx:
        assert not tx.alarms()
    world.clock.pass_(PATIENCE_WITHOUT_HUB)
    for _ in range(2):
        with pytest.raises(HubUnreachable):
            clinic.node.look()
    with clinic.node.store.reading() as tx:
        assert [alarm.kind for alarm in tx.alarms()] == ["ProofWithheld"]


def test_a_job_that_cannot_be_settled_holds_up_no_other(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, research = deal.world, deal.world.members["research"]
    first, second = deal.submit(), deal.submit()
    honest = settlement.pay_out

    def pay_out(
        job: HubJob, because: Sequence[Digest], tx: HubTransaction, operator: Operator
    ) -> None:
        if job.id == first:
            raise RuntimeError("a row that nobody expected")
        honest(job, because, tx, operator)

    monkeypatch.setattr(settlement, "pay_out", pay_out)
    for _ in range(40):
        for member in world.members.values():
            member.node.hear(wait_s=0)
            member.node.work()
            for run in list(member.node.runs.values()):
                run.join(0.02)
        background.order(world.store, world.operator, world.keeping)
        background.publish(world.operator, world.keeping)
        try:
            background.move_jobs(world.store, world.operator)
        except ExceptionGroup as failed:
            assert failed.exceptions[0].__notes__ == [f"while moving {first}"]
        if world.service.job(research.id, second).job.settled:
            break
    assert world.service.job(research.id, second).job.settled
    assert not world.service.job(research.id, first).job.settled


def test_agreements_that_name_a_regulators_old_and_new_keys_serve_one_job(deal: Deal) -> None:
    """Else the opening of one payment would be stored twice, and the consumer's chain stop."""
    world, regulator = deal.world, deal.world.members["regulator"]
    before = regulator.folder.party
    after = regulator.folder.rotate(now=START + timedelta(hours=1))
    regulator = world.members["regulator"] = world.open_member("regulator", regulator.folder)
    registering.register(
        after, store=regulator.node.store, identity=regulator.node.identity, previous=before
    )
    world.settle()
    number = DealId.new(world.clock.now(), SystemRandomness())
    for name, product, other, document in (
        ("clinic", deal.clinic_product, deal.lab_product, before),
        ("lab", deal.lab_product, deal.clinic_product, after),
    ):
        terms = terms_for(world, product, other, regulator_document=document.digest)
        negotiate(world, name, number, terms)
    job = replace(deal, deal=number).submit()
    world.settle()
    with world.members["research"].node.store.reading() as tx:
        found = tx.job(job)
    assert found is not None and found.state is JobState.RELEASED, found
    assert world.available("lab") == 1000
