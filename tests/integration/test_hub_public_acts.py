"""What an audit of the public log reads from a participant's statement, the hub looks at too: else
a participant could have an act of its own count at the hub and not there, and the operator's next
act would look wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from api.settings import NodeSettings
from api.wiring.node import open_node
from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest, digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, ProductId
from crypto.keys import PublicKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, sign_statement
from exchange import evidence
from exchange.audit.whole import audit_whole_log
from exchange.errors import QuestionRefused
from exchange.hub.model import Outcome
from exchange.jobs import JobState
from exchange.node import outbox
from exchange.node.jobs import plan_of
from exchange.node.model import NodeJob
from exchange.submission import read_submission
from registry.party import Role
from registry.product import PAYLOAD_TYPE
from tests.integration.test_audit_log import Exchange
from tests.world import Deal, World, a_deal, a_world

EPHEMERAL: Final = PublicKey("x25519", bytes(range(32)))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    return a_deal(a_world(tmp_path_factory.mktemp("prepared")))


@pytest.fixture
def deal(prepared: Deal, tmp_path: Path) -> Deal:
    return prepared.copied_to(tmp_path)


def says(world: World, name: str, act: Act, *documents: bytes) -> Outcome:
    """Past its own node, which would not."""
    member = world.members[name]
    signed = sign_statement(
        act,
        actor=member.id,
        head=world.service.chain(member.id),
        signer=member.folder.signing,
        now=world.clock.now(),
        randomness=SystemRandomness(),
    )
    return world.service.submit(member.id, read_submission(signed.entry, documents))


def job_at(world: World, name: str, number: JobId) -> NodeJob:
    with world.members[name].node.store.reading() as tx:
        job = tx.job(number)
    assert job is not None
    return job


def failed(world: World, folder: Path) -> list[tuple[str, str]]:
    """By the audit of everything that the hub has logged."""
    exchange = Exchange(world, folder)
    exchange.publish()
    report = audit_whole_log(
        str(folder), world.policy, exchange.roots, exchange.documents, workers=1
    )
    return [(check.id, check.subject) for check in report.failed]


def test_a_cancellation_that_does_not_name_the_plan_has_no_effect(
    deal: Deal, tmp_path: Path
) -> None:
    world = deal.world
    number = deal.submit()
    world.settle()
    plan = job_at(world, "research", number).plan
    cancelled = evidence.cancelled(number, plan=plan, after=[])
    assert not says(world, "research", replace(cancelled, inputs=())).applied
    world.settle()
    assert job_at(world, "clinic", number).state is JobState.REQUESTED
    assert failed(world, tmp_path / "before") == []
    assert says(world, "research", cancelled).applied
    world.settle()
    assert job_at(world, "clinic", number).state is JobState.CANCELLED
    assert failed(world, tmp_path / "after") == []


def test_an_admission_counts_under_the_agreement_that_the_plan_names_and_no_other(
    deal: Deal, tmp_path: Path
) -> None:
    """Else it would count here, and a start that rests on it would not in the public log."""
    world = deal.world
    number = deal.submit()
    world.settle()
    job = job_at(world, "clinic", number)
    with world.members["clinic"].node.store.reading() as tx:
        clinic, lab = plan_of(job, tx).relies_on[:2]

    def admits(name: str, agreement: Digest | None) -> bool:
        act = evidence.admitted(
            number, plan=job.plan, agreement=agreement, after=[], ephemeral=EPHEMERAL, link=""
        )
        return says(world, name, act).applied

    assert not admits("clinic", None)
    assert not admits("clinic", lab)
    assert admits("clinic", clinic)
    assert not admits("clinic", clinic)
    assert admits("lab", lab)
    world.settle()
    assert failed(world, tmp_path / "log") == []


def test_an_admission_without_a_key_for_the_run_is_not_logged_at_all(deal: Deal) -> None:
    """Whoever reads the public log takes each party's first admission for the one that counts."""
    world = deal.world
    number = deal.submit()
    world.settle()
    job = job_at(world, "clinic", number)
    act = evidence.admitted(
        number, plan=job.plan, agreement=None, after=[], ephemeral=EPHEMERAL, link=""
    )
    for body in ({}, {"ephemeral": "x"}, {"ephemeral": str(EPHEMERAL), "link": "nowhere"}):
        with pytest.raises(Malformed):
            says(world, "clinic", replace(act, body=body))


def test_a_node_does_not_start_with_an_address_that_is_none(tmp_path: Path) -> None:
    """The hub would take neither its admission nor whatever it says after that."""
    settings = NodeSettings(
        folder=tmp_path,
        hub_url="https://hub.example",
        operator="pty_" + "0" * 32,
        policy_file=tmp_path / "policy",
        link_address="node.example",
    )
    with pytest.raises(Malformed, match="link_address"):
        open_node(settings)


def test_a_product_is_listed_under_its_own_name_and_no_other(deal: Deal, tmp_path: Path) -> None:
    """Else a stranger's versions would be in each deal's evidence on the product whose name they
    take, and a holder's own would be missing in those that pay for it."""
    world = deal.world
    stranger = world.join("stranger", Role.HOLDER)
    world.settle()
    product = replace(
        deal.clinic_product,
        id=ProductId.new(world.clock.now(), SystemRandomness()),
        holder=stranger.id,
        holder_document=stranger.folder.party.digest,
    )
    envelope = dsse.sign(PAYLOAD_TYPE, record.to_bytes(product), stranger.folder.signing)
    listed = Act("product.listed", deal.clinic_product.id, outputs=(envelope.payload_digest,))
    refused = says(world, "stranger", listed, envelope.to_bytes())
    assert not refused.applied and "subject" in refused.reason
    assert says(world, "stranger", replace(listed, subject=product.id), envelope.to_bytes()).applied
    world.settle()
    assert failed(world, tmp_path / "log") == []


@pytest.mark.parametrize("changed", ["agreement", "holder", "one more", "one less"])
def test_a_submission_names_the_agreements_and_parties_of_its_plan_and_nothing_else(
    deal: Deal, tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By it the public log shows who the parties are."""
    world = deal.world
    real = outbox.say

    def lie(act: Act, documents: Sequence[bytes], **kept: Any) -> Digest:
        if act.type == "job.submitted":
            inputs = list(act.inputs)
            if changed == "one less":
                inputs.pop()
            elif changed == "one more":
                inputs.append(inputs[-1])
            else:
                place = 0 if changed == "agreement" else 2
                inputs[place : place + 2] = reversed(inputs[place : place + 2])
            act = replace(act, inputs=tuple(inputs))
        return real(act, documents, **kept)

    monkeypatch.setattr(outbox, "say", lie)
    number = deal.submit()
    world.settle()
    assert job_at(world, "research", number).state is JobState.REFUSED
    assert failed(world, tmp_path / "log") == []


def test_an_agreement_that_is_said_to_be_on_other_terms_than_those_on_the_table_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the consumer pays under an agreement whose audit never passes."""
    real = outbox.say

    def lie(act: Act, documents: Sequence[bytes], **kept: Any) -> Digest:
        if act.type == "negotiation.agreed":
            act = replace(act, policy_digest=digest(b"other terms"))
        return real(act, documents, **kept)

    monkeypatch.setattr(outbox, "say", lie)
    deal = a_deal(a_world(tmp_path))
    with pytest.raises(QuestionRefused, match="no agreement of this deal"):
        deal.submit()
