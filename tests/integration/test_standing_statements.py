"""A standing approval leaves evidence: for all that there is one, for regulators what it says."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from crypto import record, sealing
from crypto.digest import Digest, digest, opens
from crypto.errors import CannotOpen
from crypto.ports import SystemRandomness
from crypto.statement import Act, Statement, read_statement, sign_statement
from exchange import openings
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.errors import UnknownSubject
from exchange.evidence import STANDING, STANDING_APPROVED, STANDING_WITHDRAWN
from exchange.hub import bundle as hub_bundle
from exchange.node import approving
from exchange.node.model import StandingApproval
from exchange.openings import Opening, SealedOpenings
from exchange.submission import read_submission
from tests.world import PURPOSE, START, Deal, World, a_deal, a_world


@pytest.fixture
def deal(tmp_path: Path) -> Deal:
    return a_deal(a_world(tmp_path))


def an_approval(deal: Deal) -> StandingApproval:
    consumer = deal.world.members["research"].id
    return StandingApproval(
        deal.clinic_product.id, (consumer,), (PURPOSE,), 5, 100, START + timedelta(days=30)
    )


def approved(deal: Deal, approval: StandingApproval) -> Digest:
    clinic = deal.world.members["clinic"].node
    with clinic.store.transaction() as tx:
        said = approving.approve(approval, tx=tx, identity=clinic.identity)
    deal.world.settle()
    return said


def logged(world: World, name: Digest) -> Statement:
    with world.store.reading() as tx:
        index = tx.log.index_of(name)
        assert index is not None
        (found,) = tx.log.entries(index, index + 1)
        outcome = tx.outcome(name)
        assert outcome is not None and outcome.applied
    return read_statement(found.entry).statement


def test_everybody_sees_that_there_is_one_and_the_agreements_regulator_what_it_says(
    deal: Deal,
) -> None:
    world, approval = deal.world, an_approval(deal)
    said = approved(deal, approval)
    statement = logged(world, said)
    assert (statement.type, statement.subject) == (STANDING_APPROVED, approval.product)
    assert (statement.body, set(statement.commitments)) == ({}, {STANDING})
    regulator = world.members["regulator"]
    context = openings.standing_context(statement.commitments[STANDING])
    sealed = world.service.opening(regulator.id, said)
    plain = sealing.open_sealed(sealed, regulator.folder.sealing, context=context)
    opening = record.from_bytes(Opening, plain)
    assert record.from_bytes(StandingApproval, opening.value) == approval
    assert opens(statement.commitments[STANDING], opening.salt, opening.value)
    other = record.to_bytes(replace(approval, runs_per_day=1000))
    assert not opens(statement.commitments[STANDING], opening.salt, other)
    for name in ("research", "lab"):
        with pytest.raises(UnknownSubject):
            world.service.opening(world.members[name].id, said)
    lab = world.members["lab"]
    with pytest.raises(CannotOpen):
        sealing.open_sealed(sealed, lab.folder.sealing, context=context)


def test_one_that_is_taken_back_says_which(deal: Deal) -> None:
    world, approval = deal.world, an_approval(deal)
    said = approved(deal, approval)
    clinic = world.members["clinic"].node
    with clinic.store.transaction() as tx:
        ended = approving.withdraw(approval, tx=tx, identity=clinic.identity)
        assert tx.standing() == []
    world.settle()
    statement = logged(world, ended)
    assert (statement.type, statement.after) == (STANDING_WITHDRAWN, (said,))
    with clinic.store.transaction() as tx, pytest.raises(UnknownSubject):
        approving.withdraw(approval, tx=tx, identity=clinic.identity)


def test_a_crash_leaves_neither_the_approval_nor_its_statement(deal: Deal) -> None:
    clinic = deal.world.members["clinic"].node
    with clinic.store.reading() as tx:
        before = tx.head()
    with pytest.raises(RuntimeError), clinic.store.transaction() as tx:
        approving.approve(an_approval(deal), tx=tx, identity=clinic.identity)
        raise RuntimeError
    with clinic.store.reading() as tx:
        assert (tx.head(), tx.standing()) == (before, [])


def test_nobody_approves_anything_of_anothers_product(deal: Deal) -> None:
    world = deal.world
    lab = world.members["lab"]
    with lab.node.store.transaction() as tx, pytest.raises(UnknownSubject):
        approving.approve(an_approval(deal), tx=tx, identity=lab.node.identity)
    # Past its own node, which would not say it.
    document = record.to_bytes(SealedOpenings(1, {world.members["regulator"].id: b"anything"}))
    act = Act(STANDING_APPROVED, deal.clinic_product.id, outputs=(digest(document),))
    signed = sign_statement(
        act,
        actor=lab.id,
        head=world.service.chain(lab.id),
        signer=lab.folder.signing,
        now=world.clock.now(),
        randomness=SystemRandomness(),
    )
    outcome = world.service.submit(lab.id, read_submission(signed.entry, [document]))
    assert not outcome.applied and "is a product of" in outcome.reason
    with pytest.raises(UnknownSubject):
        world.service.opening(world.members["regulator"].id, signed.digest)


# What an audit makes of it


def standing(deal: Deal, opener: Opener | None = None) -> list[tuple[str, bool | None]]:
    world = deal.world
    with world.store.reading() as tx:
        data = hub_bundle.export(deal.deal, tx).data
    folders = [world.operator_folder, *(m.folder for m in world.members.values())]
    prints = frozenset(f.party.document.identity.fingerprint for f in folders)
    report = audit_deal(data, world.policy, Roots(prints, ()), opener)
    assert not [c for c in report.failed if not c.id.startswith("standing.")]
    return [(c.id, c.passed) for c in report.checks if c.id.startswith("standing.")]


def test_an_admission_names_what_let_it_be_admitted_unasked_and_the_regulator_reads_it(
    deal: Deal,
) -> None:
    world, regulator = deal.world, deal.world.members["regulator"]
    said = approved(deal, an_approval(deal))
    deal.approve_standing()  # and the laboratory's, which was kept before it was said
    deal.submit()
    world.settle()
    clinic, lab = (world.members[name].node for name in ("clinic", "lab"))
    with clinic.store.reading() as tx, lab.store.reading() as other:
        ((job,), (same,)) = tx.jobs(), other.jobs()
        by_clinic = job.admissions[clinic.identity.party]
        by_lab = same.admissions[lab.identity.party]
    assert logged(world, by_clinic).after[2:] == (said,)
    assert logged(world, by_lab).after[2:] == ()
    assert standing(deal) == [("standing.opened", None), ("standing.in_force", True)]
    opener = Opener(regulator.id, regulator.folder.sealing)
    assert standing(deal, opener) == [("standing.opened", True), ("standing.in_force", True)]


def test_an_admission_under_an_approval_that_was_taken_back_fails_the_audit(deal: Deal) -> None:
    world, approval, clinic = deal.world, an_approval(deal), deal.world.members["clinic"].node
    approved(deal, approval)
    deal.approve_standing()
    with clinic.store.transaction() as tx:
        before = approving.said_by(approval, tx)
        approving.withdraw(approval, tx=tx, identity=clinic.identity)
        tx.add_standing(approval)  # a node that goes on as if it had not
        assert approving.said_by(approval, tx) == before
    world.settle()
    deal.submit()
    world.settle()
    assert ("standing.in_force", False) in standing(deal)
