"""What one party can say alone, at a real hub, makes nobody else fail in the audit of its deal.

A plan is its consumer's word until the operator holds its price: the hub rejects it, and it may
name anybody and hold anything that can be spelled. A start that came too late, or that claims what
was not admitted, is its holder's word, and comes to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from crypto.digest import Digest
from crypto.identifiers import JobId
from crypto.keys import ExchangeKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, sign_statement
from exchange import evidence
from exchange.audit import picture, prov
from exchange.audit.answers import DealReport
from exchange.audit.deal import audit_deal
from exchange.audit.follow import Follower
from exchange.audit.openings import Opener
from exchange.audit.voices import VOICES
from exchange.hub import settlement
from exchange.hub.model import Outcome
from exchange.query import plan as plans
from exchange.query.explanation import Language
from exchange.query.plan import Plan
from exchange.submission import read_submission
from registry.party import Role
from registry.rule import Join
from tests.acceptance.test_privacy_budget import QUESTION, TENTH, list_again
from tests.forgery import Forger, failing
from tests.integration.test_audit_deal import export, roots_of
from tests.integration.test_audit_follow import HubBundles, HubDocuments, HubSource
from tests.world import (
    LAB_ROWS,
    Deal,
    World,
    a_deal,
    a_world,
    lab_columns,
    list_rows,
    negotiate,
    terms_for,
)

ENGLISH = VOICES[Language.ENGLISH]
TOO_LATE = timedelta(minutes=10, seconds=1)  # for the hub; for an auditor perhaps in time


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    return a_deal(a_world(tmp_path_factory.mktemp("agreed")), runs=1)


@pytest.fixture
def deal(agreed: Deal, tmp_path: Path) -> Iterator[Deal]:
    copied = agreed.copied_to(tmp_path / "world")
    copied.world.clock.pass_(timedelta(minutes=30))
    copied.world.settle()
    yield copied
    copied.world.close()


def say(
    world: World,
    name: str,
    act: Act,
    documents: Sequence[bytes] = (),
    *,
    late: timedelta = timedelta(0),
) -> Outcome:
    """As a node that says what it likes, to the hub's own service."""
    member = world.members[name]
    signed = sign_statement(
        act,
        actor=member.id,
        head=world.service.chain(member.id),
        signer=member.folder.signing,
        now=world.clock.now() - late,
        randomness=SystemRandomness(),
    )
    return world.service.submit(member.id, read_submission(signed.entry, documents))


def published(world: World) -> None:
    while world.hub_step():
        pass


def judged(deal: Deal, *unknown: str) -> DealReport:
    """Every way in which a deal is judged and told of. unknown: whom no roots name."""
    world = deal.world
    published(world)
    regulator = world.members["regulator"]
    opener = Opener(regulator.id, regulator.folder.sealing)
    report = audit_deal(export(world, deal), world.policy, roots_of(world, *unknown), opener)
    graph = prov.graph_of(report)
    assert prov.to_json(graph) and prov.to_provn(graph)
    for language in Language:
        assert report.to_text(VOICES[language]) and report.to_value(VOICES[language])
        assert picture.draw(graph, language)
    return report


def alerts(deal: Deal) -> set[str]:
    world = deal.world
    source, documents, bundles = HubSource(world), HubDocuments(world), HubBundles(world)
    follower = Follower(source, world.policy, roots_of(world), documents, deals=bundles)
    return {alert.kind.value for alert in follower.look(world.clock.now())} - {"not_opened"}


def words(report: DealReport) -> list[tuple[str, str]]:
    return [(check.id, check.words(ENGLISH)) for check in report.failed]


# A plan that the hub rejects


def rejected(deal: Deal, change: Callable[[Plan], Plan]) -> tuple[JobId, Digest]:
    """Its consumer's plan as it likes it, and that it began."""
    world, research = deal.world, deal.world.members["research"]
    plan = change(research.desk.compile(deal.deal, deal.question()))
    envelope = plans.sign_plan(plan, research.folder.signing)
    name = envelope.payload_digest
    said = evidence.submitted(plan.job, plan.deal, plan=name, relies_on=plan.relies_on)
    say(world, "research", said, [envelope.to_bytes()])
    say(world, "research", Act("job.started", plan.job, inputs=(name,)))
    with world.store.reading() as tx:
        assert tx.job(plan.job).held is None
    return plan.job, name


def test_a_rejected_plan_that_names_its_consumer_as_operator_binds_nobody(deal: Deal) -> None:
    research = deal.world.members["research"].id
    rejected(deal, lambda plan: replace(plan, operator=research))
    report = judged(deal)
    assert words(report) == []
    assert report.answers.ran == []  # nothing ran: that it was asked and rejected is in the story
    assert "rejected" in report.to_text(ENGLISH)
    assert alerts(deal) == set()


def test_an_honest_holder_that_a_rejected_plan_names_as_operator_may_be_late(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    job = deal.submit()
    world.settle()
    with world.store.reading() as tx:
        plan = tx.job(job).plan
    world.clock.pass_(timedelta(minutes=40))
    published(world)
    say(world, "clinic", Act("job.refused", job, inputs=(plan,)), late=timedelta(minutes=40))
    rejected(deal, lambda plan: replace(plan, operator=clinic.id))
    report = judged(deal)
    assert words(report) == []
    late = [c for c in report.not_opened if c.id == "entry.time" and "job.refused" in c.subject]
    assert len(late) == 1


def test_an_operator_that_holds_the_price_of_such_a_plan_is_found(deal: Deal) -> None:
    """The nearest that is wrong: from there on the plan counts."""
    world, research = deal.world, deal.world.members["research"]
    job, _ = submitted(deal)
    for name in ("clinic", "lab"):
        world.members[name].desk.approve(job)
    world.settle()
    forger = Forger.of(world, export(world, deal))
    assert failing(forger.audit(roots_of(world))) == set()
    forger.change_plan(lambda plan: replace(plan, learns={}))
    assert "plan.learns" in failing(forger.audit(roots_of(world)))
    forger = Forger.of(world, export(world, deal))
    forger.change_plan(lambda plan: replace(plan, operator=research.id))
    assert {"plan.signed", "money.held"} <= failing(forger.audit(roots_of(world)))


def test_whoever_keeps_the_log_cannot_be_hidden_behind_another_first_entry(deal: Deal) -> None:
    """Else it would be nobody whose holds made plans count."""
    world = deal.world
    deal.submit()
    world.settle()
    forger = Forger.of(world, export(world, deal))
    (first, *_), place = forger.drafts, forger.place("party.registered", nth=1)
    forger.drafts[0], forger.drafts[place] = forger.drafts[place], first
    assert "money.held" in failing(forger.audit(roots_of(world)))


# A negotiation in vain


def test_a_holder_that_was_asked_in_vain_need_not_be_known_to_the_auditor(deal: Deal) -> None:
    """Its consumer may ask whom it likes."""
    world = deal.world
    world.join("stranger", Role.HOLDER)
    world.introduce()
    product = list_rows(world, "stranger", LAB_ROWS, ("person", "s5"), 1, lab_columns())
    world.settle()
    terms, research = terms_for(world, product), world.members["research"]
    talk = research.negotiations.request(deal.deal, world.members["stranger"].id, terms)
    world.settle()
    world.members["stranger"].negotiations.terminate(talk.id, "no")
    world.settle()
    assert words(judged(deal, "stranger")) == []
    negotiate(world, "stranger", deal.deal, terms)
    assert "party.trusted" in failing(judged(deal, "stranger"))


# What a holder claims


def test_a_start_of_a_job_that_another_refused_shows_nothing_of_that_one(deal: Deal) -> None:
    job, plan = submitted(deal)
    deal.world.members["clinic"].desk.refuse(job, "not today")
    deal.world.settle()
    say(deal.world, "lab", evidence.started(job, plan=plan, admissions=[]))
    assert words(judged(deal)) == []


def test_a_start_that_nothing_before_it_allows_accuses_its_holder_alone(deal: Deal) -> None:
    """Also not of another's statement that came late."""
    job, plan = submitted(deal)
    world = deal.world
    say(world, "clinic", Act("job.refused", job, inputs=(plan,)), late=timedelta(minutes=20))
    published(world)
    say(world, "lab", evidence.started(job, plan=plan, admissions=[]))
    report = judged(deal)
    ((check, said),) = words(report)
    assert check == "job.replayed"
    assert "Laboratory" in said or world.members["lab"].id in said
    assert world.members["clinic"].id not in said


def began_and_failed(deal: Deal, name: str, *, late: str, **changes: object) -> None:
    """A holder says that a job began, and then that it failed; late: which of its words reached the
    hub too late. Neither the hub nor the other counts the run."""
    world = deal.world
    job, plan = submitted(deal, **changes)
    world.members["clinic"].desk.approve(job)
    world.settle()
    with world.store.reading() as tx:
        known = tx.job(job)
        side = settlement.plan_of(known, tx).side_of(world.members[name].id)
    assert side is not None and known.held is not None
    admission = evidence.admitted(
        job,
        plan=plan,
        agreement=side.agreement,
        after=[known.submitted, known.held],
        ephemeral=ExchangeKey.generate().public,
        link="",
    )
    world.members[name].hub.down = True
    lateness = {late: TOO_LATE}
    own = say(world, name, admission, late=lateness.get("job.admitted", timedelta(0)))
    admissions = [*known.admitted.values(), own.statement]
    start = evidence.started(job, plan=plan, admissions=admissions)
    begun = say(world, name, start, late=lateness.get("job.started", timedelta(0)))
    assert not begun.applied
    assert say(world, name, Act("job.failed", job, inputs=(plan,))).applied
    published(world)
    world.members[name].hub.down = False
    world.settle()


@pytest.mark.parametrize("late", ["job.started", "job.admitted"])
def test_a_run_that_one_holder_may_have_begun_too_late_is_not_counted_against_another(
    deal: Deal, late: str
) -> None:
    began_and_failed(deal, "lab", late=late)
    job, _ = submitted(deal)
    deal.world.members["clinic"].desk.approve(job)
    deal.world.settle()
    report = judged(deal)
    assert words(report) == []
    (check,) = [c for c in report.not_opened if c.id == "agreement.runs"]
    assert "2 of 1 runs" in check.words(ENGLISH)
    assert "too late" in check.words(ENGLISH)
    assert alerts(deal) == set()


@pytest.mark.slow
def test_nor_is_it_charged_to_the_other_products_privacy_account(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world, joins=(Join.HIDDEN,), epsilon=Fraction(1))
    list_again(deal, TENTH)
    world.clock.pass_(timedelta(minutes=30))
    world.settle()
    began_and_failed(deal, "lab", late="job.started", sql=QUESTION)
    job, _ = submitted(deal, sql=QUESTION)
    world.members["clinic"].desk.approve(job)
    world.settle()
    report = judged(deal)
    assert words(report) == []
    (check,) = [c for c in report.not_opened if c.id == "product.privacy"]
    assert deal.clinic_product.id in check.subject
    assert "too late" in check.words(ENGLISH)


def submitted(deal: Deal, **changes: object) -> tuple[JobId, Digest]:
    job = deal.submit(**changes)
    deal.world.settle()
    with deal.world.store.reading() as tx:
        return job, tx.job(job).plan
