"""A statement that came late, for its maker's node was offline, is nobody's fault."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from crypto.statement import Act
from exchange import evidence
from exchange.audit.openings import Opener
from exchange.audit.whole import audit_whole_log
from exchange.hub import coordination
from exchange.node import outbox
from registry.party import Role
from tests.integration.test_audit_deal import audit
from tests.integration.test_audit_log import Exchange
from tests.integration.test_bundle_export import Scene
from tests.world import a_deal, a_world, down


@pytest.mark.parametrize("who", ["nobody", "research"])
def test_naming_a_late_statement_makes_it_nobodys_fault(tmp_path: Path, who: str) -> None:
    world = a_world(tmp_path / "world")
    world.join("nobody", Role.CONSUMER)
    deal = a_deal(world)
    deal.approve_standing()
    job = deal.submit()
    world.settle()
    clinic, regulator = world.members["clinic"], world.members["regulator"]
    scene = Scene(world, deal)
    with clinic.node.store.transaction() as tx:
        failed = Act("job.failed", job)
        late = outbox.say(failed, [], tx=tx, identity=clinic.node.identity)
    with down(clinic):
        world.clock.pass_(timedelta(minutes=30))
        scene.say(world.members["nobody"], Act("alarm.raised", "before"))
        world.settle()
        world.clock.pass_(timedelta(minutes=1))
    world.settle()
    scene.say(world.members[who], Act("job.failed", job, after=(late,)))
    world.settle()
    scene.say(world.members["nobody"], Act("alarm.raised", "after"))
    world.settle()
    found = Exchange(world, tmp_path / "log")
    found.publish()
    whole = audit_whole_log(str(found.folder), world.policy, found.roots, found.documents)
    opener = Opener(regulator.id, regulator.folder.sealing)
    for report in (whole, audit(world, deal, opener)):
        assert [(c.id, c.subject) for c in report.failed] == []


@pytest.mark.parametrize(("early", "failed"), [(1, {"job.replayed"}), (0, set())])
def test_an_operator_that_ends_a_job_before_its_deadline_is_found(
    tmp_path: Path, early: int, failed: set[str]
) -> None:
    """The refund goes with it; all the same it chose which jobs come to anything."""
    world = a_world(tmp_path)
    deal = a_deal(world)
    number = deal.submit()
    world.settle()
    with world.store.transaction() as tx:
        job = tx.lock_job(number)
        world.clock.pass_(job.run_by - world.clock.now() - timedelta(seconds=early))
        coordination.expire(job, evidence.Overdue.NOT_BEGUN, tx, world.operator)
    world.settle()
    regulator = world.members["regulator"]
    report = audit(world, deal, Opener(regulator.id, regulator.folder.sealing))
    assert {check.id for check in report.failed} - {"money.settled"} == failed
