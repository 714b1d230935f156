"""What the hub keeps of the documents that statements bring: what an act needs, and nothing else.

The log keeps every statement for good, and anybody may say what comes to nothing; its documents
are megabytes that nobody is ever given.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import Session, col, select

from crypto.digest import digest
from crypto.identifiers import JobId
from crypto.ports import SystemRandomness
from crypto.statement import Act, sign_statement
from exchange import evidence
from exchange.audit import bundle as bundles
from exchange.hub import bundle as hub_bundle
from exchange.hub.adapters.sql import DocumentRow
from exchange.hub.intake import CLOCK_TOLERANCE
from exchange.hub.model import Outcome
from exchange.submission import Submission, read_submission
from registry.party import Role
from tests.world import Deal, a_deal, a_world, down

LARGE = bytes(1 << 20)
OTHER = b"what a refused act brought"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    deal = a_deal(a_world(tmp_path_factory.mktemp("documents")))
    deal.world.join("mallory", Role.CONSUMER)
    return deal


@pytest.fixture
def deal(prepared: Deal, tmp_path: Path) -> Deal:
    return prepared.copied_to(tmp_path)


def kept(deal: Deal) -> set[bytes]:
    with Session(deal.world.engines["hub"]) as session:
        return set(session.exec(select(col(DocumentRow.data))).all())


def signed(deal: Deal, name: str, act: Act, *documents: bytes) -> Submission:
    """Past its own node, which would not say it."""
    member = deal.world.members[name]
    said = sign_statement(
        act,
        actor=member.id,
        head=deal.world.service.chain(member.id),
        signer=member.folder.signing,
        now=deal.world.clock.now(),
        randomness=SystemRandomness(),
    )
    return read_submission(said.entry, documents)


def says(deal: Deal, name: str, act: Act, *documents: bytes) -> Outcome:
    world = deal.world
    return world.service.submit(world.members[name].id, signed(deal, name, act, *documents))


def a_waiting_job(deal: Deal) -> JobId:
    """No holder has answered it, and none does."""
    world = deal.world
    with down(world.members["clinic"]), down(world.members["lab"]):
        job = deal.submit()
        world.settle()
    return job


def test_what_a_stranger_says_in_vain_leaves_no_document(deal: Deal) -> None:
    job = a_waiting_job(deal)
    reason = evidence.reason_document(job, "none", "made up", SystemRandomness())
    before = kept(deal)
    for act, documents in (
        (Act("job.failed", job, outputs=(digest(LARGE),)), [LARGE]),
        (evidence.failed(job, plan=digest(LARGE), after=[], reason=reason), [reason]),
        (Act("negotiation.requested", "neg_1", outputs=(digest(LARGE),)), [LARGE]),
        (Act("product.listed", deal.lab_product.id, outputs=(digest(LARGE),)), [LARGE]),
    ):
        assert not says(deal, "mallory", act, *documents).applied
    assert kept(deal) == before


@pytest.mark.parametrize("kind", ["alarm.raised", "job.opened"])
def test_what_counts_without_a_document_leaves_none(deal: Deal, kind: str) -> None:
    """Anybody may raise alarms, and a consumer opens what it received as often as it likes."""
    deal.approve_standing()
    job = deal.submit()
    deal.world.settle()
    with deal.world.store.reading() as tx:
        found = tx.job(job)
    before = kept(deal)
    act = Act(kind, job, inputs=(found.plan,), outputs=(digest(LARGE),))
    name = {"alarm.raised": "mallory", "job.opened": "research"}[kind]
    assert says(deal, name, act, LARGE).applied
    assert kept(deal) == before


def test_an_act_that_came_too_late_leaves_no_document(deal: Deal) -> None:
    job = a_waiting_job(deal)
    with deal.world.store.reading() as tx:
        plan = tx.job(job).plan
    reason = evidence.reason_document(job, "purpose", "not this", SystemRandomness())
    act = evidence.refused(job, plan=plan, after=[], reason=reason)
    late = signed(deal, "clinic", act, reason)
    deal.world.clock.pass_(CLOCK_TOLERANCE + timedelta(seconds=1))
    before = kept(deal)
    outcome = deal.world.service.submit(deal.world.members["clinic"].id, late)
    assert "too late" in outcome.reason
    assert kept(deal) == before


def test_why_a_holder_refused_is_kept_for_the_deals_evidence(deal: Deal) -> None:
    """And what else came with it is not; said again, it is what it was."""
    job = a_waiting_job(deal)
    world = deal.world
    with world.store.reading() as tx:
        plan = tx.job(job).plan
    reason = evidence.reason_document(job, "purpose", "not this", SystemRandomness())
    act = evidence.refused(job, plan=plan, after=[], reason=reason)
    act = replace(act, outputs=(digest(OTHER), *act.outputs))
    said, clinic = signed(deal, "clinic", act, OTHER, reason), world.members["clinic"].id
    before = kept(deal)
    assert world.service.submit(clinic, said).applied
    assert kept(deal) - before == {reason}
    assert world.service.submit(clinic, said).applied
    assert kept(deal) - before == {reason}
    world.hub_step()
    with world.store.reading() as tx:
        shown = bundles.read(hub_bundle.export(deal.deal, tx).data)
    assert shown.documents[digest(reason)] == reason
    assert digest(OTHER) not in shown.documents
