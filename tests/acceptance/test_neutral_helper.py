"""A helper of one owner with a holder or the receiver, from its declaration to its refusal.

One world, in which the helper declares one owner after the other; everything on the way to the
rows refuses by itself, so each is also shown with those before it looking away.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from rich.console import Console

from api.cli.explain_view import plan_document, plan_tree
from api.cli.views import show_plan
from crypto.digest import Digest
from crypto.identifiers import JobId, PartyId
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.errors import PlanRefused
from exchange.hub import bundle as hub_bundle
from exchange.hub import coordination
from exchange.jobs import JobState
from exchange.node import admission, jobs, registering
from exchange.node.model import NodeJob
from ledger.verify.report import Check
from registry.party import SignedParty
from registry.rule import Join
from tests.world import Deal, DirectHub, World, a_controller, a_deal, a_world

QUESTION = "SELECT COUNT(*) AS people FROM clinic JOIN lab ON clinic.person = lab.person"
OTHERS = ("clinic", "lab", "research")
AS_A_HOLDER = ("clinic", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS[1:]))


@pytest.fixture(scope="module")
def deal(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    world = a_world(tmp_path_factory.mktemp("world") / "world")
    found = a_deal(world, joins=(Join.HIDDEN,), epsilon=Fraction(1), runs=20, funded=100_000)
    found.approve_standing()
    return found


def declare(world: World, name: str, controller: str) -> Digest:
    """What `exchange party declare` and `exchange party register` do, between two starts."""
    member = world.members[name]
    after = member.folder.declare(controller, now=world.clock.now())
    member = world.restart(name)
    registering.announce(after, store=member.node.store, identity=member.node.identity)
    world.settle()
    return after.digest


def at(deal: Deal, name: str, number: JobId) -> NodeJob:
    with deal.world.members[name].node.store.reading() as tx:
        job = tx.job(number)
    assert job is not None
    return job


def looking_away(*_: object) -> tuple[()]:
    return ()


@pytest.mark.parametrize("other", OTHERS)
def test_a_helper_of_one_owner_with_a_party_is_refused_before_anything_is_sent(
    deal: Deal, other: str
) -> None:
    declare(deal.world, "helper", a_controller(other))
    with pytest.raises(PlanRefused, match="is controlled by") as refused:
        deal.submit(sql=QUESTION)
    assert refused.value.constraint == "party.controller"


@pytest.mark.parametrize("other", AS_A_HOLDER)
def test_the_hub_refuses_it_where_the_consumer_does_not_look(
    deal: Deal, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(deal.world, "helper", a_controller(other))
    monkeypatch.setattr(jobs, "owner_violations", looking_away)
    number = deal.submit(sql=QUESTION)
    deal.world.settle()
    assert at(deal, "research", number).state is JobState.REFUSED
    assert "is controlled by" in at(deal, "research", number).reason


@pytest.mark.parametrize("other", AS_A_HOLDER)
def test_every_node_refuses_it_where_the_hub_looks_away(
    deal: Deal, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = deal.world
    declare(world, "helper", a_controller(other))
    monkeypatch.setattr(jobs, "owner_violations", looking_away)
    monkeypatch.setattr(coordination, "owner_violations", looking_away)
    opened = list(world.opened)
    for name in ("clinic", "lab", "helper"):
        number = deal.submit(sql=QUESTION)
        world.members["research"].node.work()
        world.hub_step()
        node = world.members[name].node
        node.hear(wait_s=0)
        node.work()
        found = at(deal, name, number)
        assert found.state is JobState.REFUSED, name
        assert "is controlled by" in found.reason
        world.settle()
    assert world.opened == opened


@pytest.mark.parametrize("looks", ["nobody", "hub", pytest.param("nodes", marks=pytest.mark.slow)])
def test_a_consumer_cannot_name_its_document_of_before_it_declared_its_owner(
    deal: Deal, looks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It now says that it is of one owner with a holder, which may get nothing exact of a join."""
    world = deal.world
    declare(world, "helper", a_controller("helper"))
    before = world.members["research"].folder.party
    after = declare(world, "research", a_controller("clinic"))
    monkeypatch.setattr(jobs, "owner_violations", looking_away)
    if looks != "hub":
        monkeypatch.setattr(coordination, "_require_current", looking_away)
    if looks == "nobody":  # as it was: whatever the plan names is believed
        for name in ("clinic", "lab", "helper"):
            withhold(world.members[name].hub, before, monkeypatch)
    desk = world.members["research"].desk
    plan = desk.compile(deal.deal, deal.question(sql=QUESTION))
    assert plan.consumer_document == after
    (receiver,) = plan.receivers
    older = replace(
        plan,
        consumer_document=before.digest,
        receivers=(replace(receiver, document=before.digest),),
    )
    number = desk.submit(older)
    world.settle()
    job = at(deal, "research", number)
    if looks == "nobody":
        assert job.state is JobState.RELEASED, job.reason
        (signed,) = (c for c in audited(deal) if (c.id, c.subject) == ("plan.signed", number))
        assert signed.passed is False
    else:
        assert (job.state, job.reason) == (
            JobState.REFUSED,
            "consumer_document: is not the consumer's current one; compile again",
        )
    declare(world, "research", a_controller("research"))


def withhold(hub: DirectHub, before: SignedParty, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that does not show a party's newer documents."""
    real = hub.party

    def party(asked: PartyId) -> bytes:
        is_it = asked == before.document.party
        return hub.document(before.digest) if is_it else real(asked)

    monkeypatch.setattr(hub, "party", party)


def test_whoever_is_shown_the_plan_reads_who_controls_each_party(deal: Deal) -> None:
    world = deal.world
    declare(world, "helper", a_controller("helper"))
    research = world.members["research"]
    plan = research.desk.compile(deal.deal, deal.question(sql=QUESTION))
    shown = show_plan(plan, research.node)  # type: ignore[arg-type]  # of Opened it needs as much
    parties = ("clinic", "lab", "helper", "research")
    assert shown.controllers == {world.members[name].id: a_controller(name) for name in parties}
    assert plan_document(shown)["controllers"] == shown.controllers
    screen = Console(width=200)
    with screen.capture() as taken:
        screen.print(plan_tree(shown))
    for name in parties:
        assert a_controller(name) in taken.get()


@pytest.mark.slow
def test_an_auditor_finds_the_job_that_ran_with_such_a_helper(
    deal: Deal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who should have looked looked away; the documents that they signed say it still."""
    world = deal.world
    declare(world, "helper", a_controller("helper"))
    fine = deal.submit(sql=QUESTION)
    world.settle()
    assert at(deal, "research", fine).state is JobState.RELEASED
    declare(world, "helper", a_controller("lab"))
    with monkeypatch.context() as patched:
        for module in (jobs, coordination, admission):
            patched.setattr(module, "owner_violations", looking_away)
        bad = deal.submit(sql=QUESTION)
        world.settle()
        assert at(deal, "research", bad).state is JobState.RELEASED
    checks = {c.subject: c for c in audited(deal) if c.id == "plan.owners"}
    assert checks[fine].passed is True
    note = checks[fine].note
    assert note is not None
    assert note.facts["controller"] == a_controller("helper")
    assert checks[bad].passed is False


def audited(deal: Deal) -> tuple[Check, ...]:
    world = deal.world
    folders = (world.operator_folder, *(m.folder for m in world.members.values()))
    roots = Roots(frozenset(f.party.document.identity.fingerprint for f in folders), ())
    regulator = world.members["regulator"]
    with world.store.reading() as tx:
        bundle = hub_bundle.export(deal.deal, tx).data
    opener = Opener(regulator.id, regulator.folder.sealing)
    return tuple(audit_deal(bundle, world.policy, roots, opener).checks)
