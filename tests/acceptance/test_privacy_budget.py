"""Epsilon from end to end: two accounts of one product, each enough to stop a job by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from crypto import record
from crypto.digest import commit
from crypto.identifiers import DealId, JobId
from crypto.ports import SystemRandomness
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.errors import BudgetExhausted, RestoredBackup
from exchange.hub import bundle as hub_bundle
from exchange.jobs import JobState
from exchange.node import registering
from exchange.node.model import NodeJob
from exchange.openings import BudgetUse, PrivacyUse, ReceiptOpenings
from exchange.privacy import NOTHING, PrivacyCost
from ledger.verify.report import Report
from registry.product import DataProduct
from registry.rule import Join, PrivacyRule
from registry.source import FileFormat, FileSource
from tests.forgery import Forger
from tests.world import Deal, World, a_deal, a_world, negotiate, terms_for

TENTH = Fraction(1, 10)  # what the padding of a hidden join costs
QUESTION = "SELECT COUNT(*) AS people FROM clinic JOIN lab ON clinic.person = lab.person"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    world = a_world(tmp_path_factory.mktemp("prepared") / "world")
    return a_deal(world, joins=(Join.HIDDEN,), epsilon=Fraction(1), runs=20, funded=100_000)


@pytest.fixture
def deal(prepared: Deal, tmp_path: Path) -> Deal:
    return prepared.copied_to(tmp_path / "world")


def asked(deal: Deal, times: int = 1) -> list[JobId]:
    return [deal.submit(sql=QUESTION) for _ in range(times)]


def settled(deal: Deal) -> JobId:
    deal.approve_standing()
    (job,) = asked(deal)
    deal.world.settle()
    return job


def job_at(world: World, name: str, number: JobId) -> NodeJob:
    with world.members[name].node.store.reading() as tx:
        job = tx.job(number)
    assert job is not None
    return job


def at_node(world: World, name: str, product: DataProduct) -> PrivacyCost:
    with world.members[name].node.store.reading() as tx:
        return tx.privacy(product.id)


def at_hub(world: World, product: DataProduct) -> PrivacyCost:
    with world.store.transaction() as tx:
        return tx.lock_privacy(product.id)


def list_again(deal: Deal, total: Fraction, version: int = 2) -> None:
    """A new version of the clinic's product: the same rows, another total."""
    product, clinic = deal.clinic_product, deal.world.members["clinic"]
    rule = PrivacyRule(min(total, TENTH), total, Fraction(1, 1000), noise=False)
    newer = replace(product, version=version, rule=replace(product.rule, privacy=rule))
    registering.list_product(newer, store=clinic.node.store, identity=clinic.node.identity)
    deal.world.settle()


def test_a_job_is_charged_to_every_product_at_the_hub_and_at_its_holder(deal: Deal) -> None:
    job = settled(deal)
    world = deal.world
    assert job_at(world, "research", job).state is JobState.RELEASED
    for name, product in (("clinic", deal.clinic_product), ("lab", deal.lab_product)):
        spent = at_node(world, name, product)
        assert spent.epsilon == TENTH
        assert spent.delta == Fraction(1, 10**9)
        assert at_hub(world, product) == spent
    with world.members["helper"].node.store.reading() as tx:
        assert tx.privacy(deal.clinic_product.id) == NOTHING


def test_what_a_holder_refuses_is_given_back_everywhere(deal: Deal) -> None:
    (job,) = asked(deal)
    world = deal.world
    world.settle()
    world.members["clinic"].desk.approve(job)
    world.settle()
    assert at_node(world, "clinic", deal.clinic_product).epsilon == TENTH
    world.members["lab"].desk.refuse(job, "not today")
    world.settle()
    assert job_at(world, "research", job).state is JobState.REFUSED
    for name, product in (("clinic", deal.clinic_product), ("lab", deal.lab_product)):
        assert at_node(world, name, product) == NOTHING
        assert at_hub(world, product) == NOTHING
    # Why is for the parties and the auditor; the public log does not say it.
    assert job_at(world, "clinic", job).reason == job_at(world, "research", job).reason
    assert "not today" in job_at(world, "research", job).reason
    report = audited(deal)
    assert report.failed == ()
    assert any("not today" in str(deed.said.facts.get("problem")) for deed in report.story)
    with world.store.reading() as tx:
        entries = tx.log.entries(0, tx.log.placed())
    assert not any(b"not today" in logged.entry for logged in entries)


@pytest.mark.slow
def test_what_has_started_stays_spent_however_the_job_ends(deal: Deal, tmp_path: Path) -> None:
    world = deal.world
    nowhere = FileSource(str(tmp_path / "nowhere.csv"), FileFormat.CSV)
    with world.members["lab"].node.store.transaction() as tx:
        tx.save_source(deal.lab_product.id, "lost", nowhere)  # its local part fails once begun
    job = settled(deal)
    assert job_at(world, "research", job).state is JobState.FAILED
    assert at_hub(world, deal.clinic_product).epsilon == TENTH
    assert at_hub(world, deal.lab_product).epsilon == TENTH
    assert at_node(world, "lab", deal.lab_product).epsilon == TENTH


@pytest.mark.slow
def test_a_hub_that_forgets_what_was_spent_is_stopped_by_the_node(deal: Deal) -> None:
    settled(deal)
    world = deal.world
    list_again(deal, TENTH)
    with world.store.transaction() as tx:
        tx.save_privacy(deal.clinic_product.id, NOTHING)
    (job,) = asked(deal)
    world.settle()
    found = job_at(world, "clinic", job)
    assert found.state is JobState.REFUSED
    assert "has epsilon 0 left; the job asks for 1/10" in found.reason
    assert at_node(world, "clinic", deal.clinic_product).epsilon == TENTH


@pytest.mark.slow
def test_the_hub_rejects_at_once_what_an_account_does_not_cover(deal: Deal) -> None:
    settled(deal)
    list_again(deal, TENTH)
    (job,) = asked(deal)
    deal.world.settle()
    found = job_at(deal.world, "research", job)
    assert found.state is JobState.REFUSED
    assert "has epsilon 0 left; the job asks for 1/10" in found.reason
    # The lab's account was charged first or not at all: nothing of it is left.
    assert at_hub(deal.world, deal.lab_product).epsilon == TENTH


@pytest.mark.slow
def test_another_deal_draws_from_the_same_account(deal: Deal) -> None:
    """Each agreement allows a whole epsilon of its own; the product has a tenth in all."""
    world = deal.world
    list_again(deal, TENTH)
    other = DealId.new(world.clock.now(), SystemRandomness())
    helper = world.members["helper"].id
    both = (deal.clinic_product, deal.lab_product)
    for name, product, partner in zip(("clinic", "lab"), both, reversed(both), strict=True):
        terms = terms_for(
            world, product, partner, joins=(Join.HIDDEN,), helper=helper, epsilon=Fraction(1)
        )
        negotiate(world, name, other, terms)
    first = settled(deal)
    assert job_at(world, "research", first).state is JobState.RELEASED
    (second,) = asked(replace(deal, deal=other))
    world.settle()
    assert job_at(world, "research", second).state is JobState.REFUSED


@pytest.mark.slow
def test_a_new_version_of_the_same_rows_refills_nothing_and_a_higher_total_is_in_the_log(
    deal: Deal,
) -> None:
    settled(deal)
    list_again(deal, TENTH)
    (refused,) = asked(deal)
    deal.world.settle()
    assert job_at(deal.world, "research", refused).state is JobState.REFUSED
    list_again(deal, 2 * TENTH, version=3)
    (job,) = asked(deal)
    deal.world.settle()
    assert job_at(deal.world, "research", job).state is JobState.RELEASED
    assert at_node(deal.world, "clinic", deal.clinic_product).epsilon == 2 * TENTH
    report = audited(deal)
    assert report.failed == ()
    said = {c.subject.split()[0]: c.note for c in report.passed if c.id == "product.privacy"}
    note = said[deal.clinic_product.id]
    assert note is not None
    assert (note.facts["epsilon"], note.facts["epsilon_total"]) == ("1/5", "1/5")


@pytest.mark.slow
def test_a_restored_backup_is_no_refilled_account(deal: Deal, tmp_path: Path) -> None:
    deal.world.settle()
    backup = deal.copied_to(tmp_path / "backup").world
    job = settled(deal)
    assert job_at(deal.world, "research", job).state is JobState.RELEASED
    clinic = backup.members["clinic"]
    clinic.hub.service = deal.world.service  # the hub of today, the account of yesterday
    assert at_node(backup, "clinic", deal.clinic_product) == NOTHING
    with pytest.raises(RestoredBackup, match="epsilon"):
        clinic.node.begin()


@pytest.mark.slow
def test_two_desks_of_a_holder_that_approve_at_once_admit_what_one_account_covers(
    deal: Deal,
) -> None:
    world = deal.world
    list_again(deal, 2 * TENTH)
    with world.store.transaction() as tx:  # a hub that counts nothing
        tx.save_privacy(deal.clinic_product.id, NOTHING)
    jobs = []
    for _ in range(4):
        jobs += asked(deal)
        with world.store.transaction() as tx:
            tx.save_privacy(deal.clinic_product.id, NOTHING)
        world.settle()
    ready = threading.Barrier(len(jobs))
    clinic = world.members["clinic"].desk

    def approve(number: JobId) -> str:
        ready.wait()
        try:
            clinic.approve(number)
        except BudgetExhausted as refused:
            return refused.name
        return "admitted"

    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = sorted(pool.map(approve, jobs))
    assert answers == ["admitted", "admitted", "epsilon", "epsilon"]
    assert at_node(world, "clinic", deal.clinic_product).epsilon == 2 * TENTH


# What an auditor sees


def audited(deal: Deal) -> Report:
    world = deal.world
    with world.store.reading() as tx:
        bundle = hub_bundle.export(deal.deal, tx).data
    return audit_deal(bundle, world.policy, roots_of(world), opener_of(world))


def roots_of(world: World) -> Roots:
    folders = (world.operator_folder, *(m.folder for m in world.members.values()))
    return Roots(frozenset(f.party.document.identity.fingerprint for f in folders), ())


def opener_of(world: World) -> Opener:
    regulator = world.members["regulator"]
    return Opener(regulator.id, regulator.folder.sealing)


def forged_receipt(deal: Deal, change: Callable[[BudgetUse], BudgetUse]) -> set[str]:
    """Which checks fail once the clinic has committed to another budget, and sealed that."""
    world = deal.world
    with world.store.reading() as tx:
        forger = Forger.of(world, hub_bundle.export(deal.deal, tx).data)
    place = forger.place("job.sealed", world.members["clinic"].id, nth=1)
    opening = forger.drafts[place].opening
    assert opening is not None
    plain = record.from_bytes(ReceiptOpenings, opening)
    budget = plain.commitments["budget"]
    use = change(record.from_bytes(BudgetUse, budget.value))
    opened = {**plain.commitments, "budget": replace(budget, value=record.to_bytes(use))}
    forger.reopen(place, record.to_bytes(replace(plain, commitments=opened)))
    committed = {name: commit(o.salt, o.value) for name, o in opened.items()}
    forger.change(place, commitments=committed)
    return {check.id for check in forger.audit(roots_of(world)).failed}


@pytest.fixture(scope="module")
def done(prepared: Deal, tmp_path_factory: pytest.TempPathFactory) -> Deal:
    """Two jobs, released."""
    deal = prepared.copied_to(tmp_path_factory.mktemp("done") / "world")
    settled(deal)
    asked(deal)
    deal.world.settle()
    return deal


def moved(by: Fraction) -> Callable[[BudgetUse], BudgetUse]:
    def change(use: BudgetUse) -> BudgetUse:
        assert use.product is not None
        before, after = use.product.before, use.product.after
        return replace(
            use,
            product=PrivacyUse(
                replace(before, epsilon=before.epsilon + by),
                replace(after, epsilon=after.epsilon + by),
            ),
        )

    return change


@pytest.mark.slow
def test_honest_receipts_open_to_what_the_account_holds(done: Deal) -> None:
    assert forged_receipt(done, lambda use: use) == set()
    assert forged_receipt(done, moved(TENTH)) == set()  # another deal may have drawn a tenth


@pytest.mark.slow
def test_a_receipt_that_forgets_an_earlier_job_is_found(done: Deal) -> None:
    assert forged_receipt(done, moved(-TENTH)) == {"receipt.opened"}


@pytest.mark.slow
def test_a_receipt_beyond_the_total_is_found(done: Deal) -> None:
    assert forged_receipt(done, moved(Fraction(40))) == {"receipt.opened"}


@pytest.mark.slow
def test_a_receipt_that_does_not_move_the_account_is_found(done: Deal) -> None:
    def still(use: BudgetUse) -> BudgetUse:
        assert use.product is not None
        return replace(use, product=replace(use.product, before=use.product.after))

    assert forged_receipt(done, still) == {"receipt.opened"}


@pytest.mark.slow
def test_a_receipt_without_the_account_is_found(done: Deal) -> None:
    assert forged_receipt(done, lambda use: replace(use, product=None)) == {"receipt.opened"}
