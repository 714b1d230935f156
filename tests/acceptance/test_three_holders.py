"""Three holders on one key, all the way from SQL to the audited answer, with the engine faked."""

from __future__ import annotations

from fractions import Fraction

import pytest
from rich.console import Console

from api.cli.explain_view import plan_document, plan_tree
from api.cli.views import Shown, party_names
from crypto.errors import EngineFault
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.hub import bundle
from exchange.jobs import JobState
from exchange.node import receiving
from exchange.query.rendering import render
from registry.rule import Join
from tests.integration.test_audit_deal import roots_of
from tests.three_holders import HOLDERS, PRICES, DealOfThree, a_deal_of_three, expected
from tests.world import a_world


@pytest.fixture(scope="module")
def deal(tmp_path_factory: pytest.TempPathFactory) -> DealOfThree:
    return a_deal_of_three(a_world(tmp_path_factory.mktemp("three")))


def test_the_answer_is_that_of_the_pooled_tables_and_three_holders_are_paid(
    deal: DealOfThree,
) -> None:
    world = deal.world
    before = [world.available(name) for name in HOLDERS]
    job = deal.submit()
    world.settle()
    research = world.members["research"]
    with research.node.store.reading() as tx:
        found = tx.job(job)
        assert found is not None
        assert found.state is JobState.RELEASED, (found.reason, tx.alarms())
    answer = receiving.answer(job, research.node.store)
    assert answer.join is Join.HIDDEN
    assert answer.groups == ("sex", "drug")
    got = {row.groups: tuple(f.value for f in row.figures[:3]) for row in answer.rows}
    assert got == expected()
    paid = [world.available(name) - then for name, then in zip(HOLDERS, before, strict=True)]
    assert paid == list(PRICES)
    # The padding's epsilon is charged to all three products, at the hub and at each holder's node.
    with world.store.transaction() as tx:
        for product in deal.products:
            assert tx.lock_privacy(product.id).epsilon == Fraction(1, 10)
    for name, product in zip(HOLDERS, deal.products, strict=True):
        with world.members[name].node.store.reading() as tx:
            assert tx.privacy(product.id).epsilon == Fraction(1, 10)

    with world.store.reading() as tx:
        exported = bundle.export(deal.deal, tx).data
    regulator = world.members["regulator"]
    opener = Opener(regulator.id, regulator.folder.sealing)
    report = audit_deal(exported, world.policy, roots_of(world), opener)
    assert report.failed == ()
    receipts = [check for check in report.passed if check.id == "job.receipt"]
    assert len(receipts) == 4  # of three holders and the helper


def test_everybody_is_shown_the_same_question_and_what_each_would_learn(deal: DealOfThree) -> None:
    research = deal.world.members["research"]
    plan = research.desk.compile(deal.deal, deal.question())
    helper = deal.world.members["helper"].id
    clinic, lab, pharmacy = (product.holder for product in deal.products)
    assert plan.engine_parties == (clinic, lab, helper, pharmacy)
    shown = render(plan, deal.products)
    assert "JOIN lab_data AS b ON a.person = b.person" in shown
    assert "JOIN pharmacy_data AS c ON a.person = c.person" in shown
    assert "SUM(b.s5 * c.dose)" in shown
    found = {side.product: product for side, product in zip(plan.sides, deal.products, strict=True)}
    parties = {plan.consumer, plan.operator, *plan.engine_parties}
    with research.node.store.reading() as tx:
        seen = Shown(plan, party_names(parties, tx), found, {}, None)
    screen = Console(width=200)
    with screen.capture() as taken:
        screen.print(plan_tree(seen))
    for name in ("Clinic", "Lab", "Pharmacy", "Helper", "Research"):
        assert name in taken.get()
    assert "four padded counts" in taken.get()
    document = plan_document(seen)
    assert len(document["sides"]) == 3


def test_a_third_engine_that_fails_fails_the_job_for_all_and_nobody_is_paid(
    deal: DealOfThree,
) -> None:
    world = deal.world
    before = [world.available(name) for name in (*HOLDERS, "research")]
    workshop = world.members["pharmacy"].node.workshop
    assert workshop is not None
    workshop.engine.fail_next = EngineFault.MEMORY  # type: ignore[attr-defined]  # the fake's own
    job = deal.submit()
    world.settle()
    for name in (*HOLDERS, "research"):
        with world.members[name].node.store.reading() as tx:
            found = tx.job(job)
        assert found is not None and found.state is JobState.FAILED, (name, found)
    assert [world.available(name) for name in (*HOLDERS, "research")] == before
