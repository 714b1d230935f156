"""A revealed join with a helper through the whole house: with the engine faked, and real ones."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import pytest

from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.hub import bundle as hub_bundle
from exchange.jobs import JobState
from exchange.node import receiving
from exchange.query import standing
from registry.rule import Join
from tests.acceptance.test_a_deal_with_real_engines import real_workshop
from tests.world import a_deal, a_world


def test_with_and_without_a_helper_the_answer_is_one_and_the_audit_finds_nothing(
    tmp_path: Path,
) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world, joins=(Join.HIDDEN, Join.REVEALED), epsilon=Fraction(1))
    deal.approve_standing()
    store = world.members["research"].node.store
    answers = []
    for helped in (True, False):
        job = deal.submit(join=Join.REVEALED, helped=helped)
        world.settle()
        with store.reading() as tx:
            found = tx.job(job)
            assert found is not None and found.state is JobState.RELEASED, found and found.reason
        answers.append(receiving.answer(job, store))
    assert answers[0].rows == answers[1].rows
    folders = (world.operator_folder, *(m.folder for m in world.members.values()))
    roots = Roots(frozenset(f.party.document.identity.fingerprint for f in folders), ())
    regulator = world.members["regulator"]
    with world.store.reading() as tx:
        bundle = hub_bundle.export(deal.deal, tx).data
    opener = Opener(regulator.id, regulator.folder.sealing)
    report = audit_deal(bundle, world.policy, roots, opener)
    assert not [check for check in report.checks if check.passed is False]
    assert any(check.id == "plan.owners" for check in report.checks)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("unbalanced", [False, True])
def test_real_engines_and_links_of_three_give_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbalanced: bool
) -> None:
    if unbalanced:
        monkeypatch.setattr(standing, "LEAST_RATIO", 1)
    world = a_world(tmp_path)
    deal = a_deal(world, joins=(Join.HIDDEN, Join.REVEALED), epsilon=Fraction(1))
    deal.approve_standing()
    store = world.members["research"].node.store
    plain = deal.submit(join=Join.REVEALED, helped=False)
    world.settle()
    with ExitStack() as stack:
        for name, listen in (("clinic", True), ("lab", True), ("helper", True)):
            stack.enter_context(real_workshop(world.members[name], listen=listen))
        helped = deal.submit(join=Join.REVEALED, helped=True)
        for _ in range(1500):
            world.round()
            threading.Event().wait(0.02)
            with store.reading() as tx:
                found = tx.job(helped)
            if found is not None and found.state in (JobState.RELEASED, JobState.FAILED):
                break
        world.settle()
    with store.reading() as tx:
        found = tx.job(helped)
        assert found is not None and found.state is JobState.RELEASED, found and found.reason
    assert receiving.answer(helped, store).rows == receiving.answer(plain, store).rows
