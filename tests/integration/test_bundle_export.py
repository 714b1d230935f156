"""What the hub puts into a deal's bundle, what it keeps out, and when it says: not yet."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from crypto import record, sealing
from crypto.digest import SALT_BYTES, digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import DealId, JobId, NegotiationId
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import Act, Statement, read_statement, sign_statement
from exchange import evidence, openings
from exchange.audit import bundle as bundles
from exchange.audit.bundle import Bundle
from exchange.audit.deal import audit_deal
from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.errors import BundleNotReady, NotYours, UnknownSubject
from exchange.evidence import BUNDLE_EXPORTED, REGULATORS_NAMED, Overdue
from exchange.hub import background, chains, coordination, log_history
from exchange.hub import bundle as hub_bundle
from exchange.hub.adapters.sql import SqlHubTransaction
from exchange.hub.model import Outcome
from exchange.node import registering
from exchange.query import plan as plans
from exchange.query.explanation import Language
from exchange.submission import MAX_OPENING_BYTES, read_submission
from exchange.terms import agreement as agreements
from exchange.terms.agreement import Proposal
from exchange.terms.negotiation import Event
from ledger import log
from ledger.adapters.sql import SqlLogStore
from ledger.ports import StoredCheckpoint
from ledger.verify.report import Report
from pricing.evidence import COMMITMENT, DEPOSITED, open_movement
from pricing.money import Money
from registry.party import Role
from tests.world import (
    LAB_ROWS,
    Deal,
    Member,
    World,
    a_deal,
    a_world,
    down,
    lab_columns,
    list_rows,
    terms_for,
)


@dataclass(frozen=True)
class Scene:
    world: World
    deal: Deal

    def export(self) -> bytes:
        with self.world.store.reading() as tx:
            return hub_bundle.export(self.deal.deal, tx).data

    def bundle(self) -> Bundle:
        return bundles.read(self.export())

    def say(
        self, member: Member, act: Act, *documents: bytes, ago: timedelta = timedelta()
    ) -> Outcome:
        """Past the member's own node, which would not say it."""
        signed = sign_statement(
            act,
            actor=member.id,
            head=self.world.service.chain(member.id),
            signer=member.folder.signing,
            now=self.world.clock.now() - ago,
            randomness=SystemRandomness(),
        )
        return self.world.service.submit(member.id, read_submission(signed.entry, documents))


def a_scene(path: Path, **settings: str) -> Scene:
    world = a_world(path, **settings)
    deal = a_deal(world)
    deal.approve_standing()
    return Scene(world, deal)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return a_scene(tmp_path)


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A deal with one job done, for tests that only look."""
    scene = a_scene(tmp_path_factory.mktemp("settled"))
    scene.deal.submit()
    scene.world.settle()
    return scene


def kinds(bundle: Bundle) -> list[str]:
    return [read_statement(entry).statement.type for _, entry in sorted(bundle.entries.items())]


def test_a_bundle_is_the_same_bytes_until_something_happens(scene: Scene) -> None:
    before = scene.export()
    assert scene.export() == before
    scene.deal.submit()
    scene.world.settle()
    assert scene.export() != before


def test_it_holds_every_act_of_the_deal_and_who_its_actors_are(settled: Scene) -> None:
    found = kinds(settled.bundle())
    assert found.count("party.registered") == 5
    assert found.count("product.listed") == 2
    for kind in ("requested", "agreed", "verified", "finalized"):
        assert found.count(f"negotiation.{kind}") == 2
    assert found.count("job.sealed") == 2
    assert found[-3:] == ["job.released", "job.opened", "funds.released"]
    assert "funds.deposited" not in found  # what the consumer pays in is no part of one deal


def test_no_sealed_result_is_in_it(settled: Scene) -> None:
    with settled.world.store.reading() as tx:
        (job,) = tx.jobs_of_deal(settled.deal.deal)
        parts = [tx.document(name) for name in job.results.values()]
    assert len(parts) == 2
    assert set(job.results.values()).isdisjoint(settled.bundle().documents)
    data = settled.export()
    assert all(part not in data for part in parts)


def test_what_no_witnessed_head_covers_yet_is_for_the_next_bundle(scene: Scene) -> None:
    """Or a party that goes on speaking would never let its deal be read."""
    world, research = scene.world, scene.world.members["research"]
    world.settle()
    before = scene.export()
    scene.deal.submit()
    research.node.work()  # the hub has it, and no head covers it yet
    assert scene.export() == before
    background.order(world.store, world.operator, world.keeping)
    assert scene.export() == before
    background.publish(world.operator, world.keeping)
    assert kinds(scene.bundle())[-2:] == ["job.submitted", "funds.held"]
    assert audited(scene).failed == ()


def test_while_nothing_of_a_deal_is_under_a_witnessed_head_there_is_no_bundle(scene: Scene) -> None:
    world, research = scene.world, scene.world.members["research"]
    world.settle()
    deal = DealId.new(world.clock.now(), SystemRandomness())
    terms = terms_for(world, scene.deal.clinic_product, scene.deal.lab_product)
    research.negotiations.request(deal, world.members["clinic"].id, terms)
    research.node.work()
    background.order(world.store, world.operator, world.keeping)
    with pytest.raises(BundleNotReady, match="again in a moment"), world.store.reading() as tx:
        hub_bundle.export(deal, tx)
    background.publish(world.operator, world.keeping)
    with world.store.reading() as tx:
        shown = bundles.read(hub_bundle.export(deal, tx).data)
    assert "negotiation.requested" in kinds(shown)


def test_as_of_whatever_head_it_is_the_bundle_holds_the_deal_as_it_was_then(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody fails for what had not happened yet: not the operator either, where a head lies
    between an act and what the hub said of it in the same transaction."""
    world, research, lab = scene.world, scene.world.members["research"], scene.world.members["lab"]
    world.settle()
    monkeypatch.setattr(log, "MAX_BATCH", 1)  # so that there is a head after each entry
    first = scene.bundle().checkpoint
    scene.deal.submit()
    world.settle(rounds=200)
    plan = research.desk.compile(scene.deal.deal, scene.deal.question())
    scene.say(lab, Act("job.failed", plan.job))  # of a job that is submitted later
    with down(world.members["clinic"]), down(lab):
        research.desk.submit(plan)
        world.settle(rounds=200)
        research.desk.cancel(plan.job)
        world.settle(rounds=200)
    whole = of_the_deal(scene.bundle())
    with world.store.reading() as tx:
        heads = tx.log.witnessed()
    begin, skipped = heads.index(head_of(first, heads)), 0
    sizes = [head.size for head in heads[begin:]]
    assert sizes == list(range(sizes[0], heads[-1].size + 1))
    for upto in range(begin, len(heads)):
        monkeypatch.setattr(SqlLogStore, "latest_witnessed", lambda _, last=upto: heads[last])
        shown = scene.bundle()
        size = head_of(shown.checkpoint, heads).size
        begun = {said.subject for _, said in of_the_deal(shown)}
        under = [(i, said) for i, said in whole if i < size and said.subject in begun]
        assert of_the_deal(shown) == under
        report = audited(scene)
        assert report.failed == ()
        (as_of,) = [check for check in report.checks if check.subject == "checkpoint"]
        assert f"of the first {size:,} entries" in as_of.words(VOICES[Language.ENGLISH])
        skipped += size < heads[upto].size
    assert skipped == 3  # between two submissions and their holds, and the end and its refund


def of_the_deal(bundle: Bundle) -> list[tuple[int, Statement]]:
    said = [(index, read_statement(entry).statement) for index, entry in bundle.entries.items()]
    return [
        (index, one)
        for index, one in sorted(said, key=lambda each: each[0])
        if one.type.startswith(("negotiation.", "job.", "funds."))
    ]


def head_of(note: bytes, heads: Sequence[StoredCheckpoint]) -> StoredCheckpoint:
    (found,) = [head for head in heads if head.note.to_bytes() == note]
    return found


def test_a_deal_that_nobody_began_is_unknown(settled: Scene) -> None:
    with pytest.raises(UnknownSubject), settled.world.store.reading() as tx:
        hub_bundle.export(DealId.new(settled.world.clock.now(), SystemRandomness()), tx)


def test_each_entry_comes_with_the_witnessed_heads_on_both_sides(settled: Scene) -> None:
    bundle = settled.bundle()
    sizes = sorted(bundle.heads)
    with settled.world.store.reading() as tx:
        witnessed = [head.size for head in tx.log.witnessed()]
    for index in bundle.entries:
        below = [size for size in witnessed if size <= index]
        above = [size for size in witnessed if size > index]
        assert not below or below[-1] in sizes
        assert above[0] in [*sizes, witnessed[-1]]


def test_the_age_of_a_log_costs_no_export_anything(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has as many heads as seconds in which anybody said anything."""
    world = scene.world
    read: list[object] = []
    plain = SqlLogStore._stored
    monkeypatch.setattr(SqlLogStore, "_stored", lambda *a: read.append(a) or plain(*a))

    def cost() -> int:
        read.clear()
        scene.export()
        return len(read)

    def grow(heads: Sequence[int]) -> None:
        for number in heads:
            with world.store.transaction() as tx:
                log.append(tx.log, b"entry %d" % number)
            world.hub_step()

    world.settle()
    grow(range(2))
    before = cost()
    grow(range(2, 30))
    assert cost() == before


def test_nobody_gets_another_deals_documents_by_naming_them(scene: Scene) -> None:
    """Statements of a party without effect are in the bundle; what they point at is not."""
    world = scene.world
    research = world.members["research"]
    secret = digest(b"plan of somebody else")
    with world.store.transaction() as tx:
        tx.add_document(secret, b"plan of somebody else")
    job = scene.deal.submit()
    world.settle()
    act = evidence.submitted(job, scene.deal.deal, plan=secret, relies_on=[])
    assert not scene.say(research, act).applied
    world.settle()
    bundle = scene.bundle()
    assert kinds(bundle).count("job.submitted") == 2
    assert secret not in bundle.documents


def test_what_strangers_say_of_a_deal_is_counted_and_left_out(scene: Scene) -> None:
    """Else anybody could make it one that nobody can audit, for what a statement costs."""
    world = scene.world
    mallory = world.join("mallory", Role.CONSUMER)
    job = scene.deal.submit()
    world.settle()
    before = scene.bundle()
    assert before.manifest.left_out == 0
    for said in (
        evidence.failed(job, plan=digest(b"made up"), after=[], reason=b"x"),
        evidence.alarmed(job, kind="Nonsense", words="look"),
        Act("job.opened", job),
        Act("negotiation.terminated", _negotiation(scene)),
    ):
        scene.say(mallory, said)
    assert scene.bundle().entries == before.entries  # and nobody waits for a head over them
    world.settle()
    after = scene.bundle()
    assert (after.entries, after.documents) == (before.entries, before.documents)
    assert after.manifest.left_out == 4
    report = audited(scene)
    assert report.failed == ()
    (check,) = [check for check in report.not_opened if check.id == "bundle.left_out"]
    assert ": 4 statements are not" in check.words(VOICES[Language.ENGLISH])


@pytest.mark.parametrize("limit", ["MAX_IDLE", "MAX_IDLE_BYTES"])
def test_what_a_party_says_without_effect_is_in_it_up_to_a_limit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """About each job by itself, and about all else together; what had an effect is in it always."""
    world, research = scene.world, scene.world.members["research"]
    monkeypatch.setattr(hub_bundle, limit, {"MAX_IDLE": 2, "MAX_IDLE_BYTES": 1_900}[limit])
    job, other = scene.deal.submit(), scene.deal.submit()
    world.settle()
    complete = set(scene.bundle().entries)
    for _ in range(4):
        scene.say(research, Act("job.opened", job))  # each is well said, and changes nothing
        scene.say(research, Act("negotiation.accepted", _negotiation(scene)))
    for _ in range(3):
        scene.say(research, Act("job.failed", other))
    world.settle()
    bundle = scene.bundle()
    assert complete < set(bundle.entries)
    assert kinds(bundle).count("job.opened") == 2 + 2
    assert kinds(bundle).count("negotiation.accepted") == 2
    assert kinds(bundle).count("job.failed") == 2
    assert bundle.manifest.left_out == 2 + 2 + 1
    assert audited(scene).failed == ()


@pytest.mark.parametrize("who", ["research", "regulator"])
def test_what_is_said_without_effect_beyond_the_limit_costs_no_export_anything(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """By a party or a stranger: else anybody could make a deal that nobody has the time to read."""
    world, member = scene.world, scene.world.members[who]
    monkeypatch.setattr(hub_bundle, "MAX_IDLE", 3)
    job = scene.deal.submit()
    world.settle()
    read: list[object] = []

    def look(name: str) -> None:
        plain = getattr(SqlHubTransaction, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            found = plain(*args, **kwargs)
            read.extend(found)
            return found

        monkeypatch.setattr(SqlHubTransaction, name, counted)

    for name in ("effective", "idle", "first_idle", "taken_in"):
        look(name)
    asked: list[str] = []
    engine = world.store._snapshots
    event.listen(engine, "before_cursor_execute", lambda *a: asked.append(a[2]))

    def cost() -> tuple[int, int]:
        world.settle()
        asked.clear()
        read.clear()
        scene.export()
        about = [one for one in asked if "hub_statement" in one or "ledger_entry" in one]
        return len(about), len(read)

    nothing = (
        Act("job.failed", job),
        Act("product.listed", scene.deal.clinic_product.id),
        Act("standing.approved", scene.deal.clinic_product.id),
        Act("helping.begun", world.members["clinic"].id),
    )
    for _ in range(4):
        for act in nothing:
            assert not scene.say(member, act).applied
    before = cost()
    for _ in range(25):
        for act in nothing:
            scene.say(member, act)
    assert cost() == before


def test_an_opening_larger_than_a_bundle_may_hold_is_not_taken_in(scene: Scene) -> None:
    """Else one statement of a holder makes each deal on its product one that nobody can read."""
    world, clinic = scene.world, scene.world.members["clinic"]
    large = bytes(MAX_OPENING_BYTES + 1)

    def approves(sealed: bytes) -> Outcome:
        coded = urlsafe_b64encode(sealed).rstrip(b"=")
        regulator = world.members["regulator"].id
        document = b'{"readers":{"%b":"%b"},"v":1}' % (regulator.encode(), coded)
        act = evidence.standing_approved(
            scene.deal.clinic_product.id, commitment=digest(b"any"), openings=digest(document)
        )
        return scene.say(clinic, act, document)

    world.settle()
    assert "openings: have" in approves(large).reason
    assert approves(large[1:]).applied
    world.settle()
    assert max(len(sealed) for sealed in scene.bundle().openings.values()) == len(large) - 1


def test_a_receipt_whose_openings_are_too_large_for_a_bundle_has_no_effect(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.world.settle()
    monkeypatch.setattr(openings, "MAX_OPENING_BYTES", 10)
    job = scene.deal.submit()
    scene.world.settle()
    with scene.world.store.reading() as tx:
        found = tx.job(job)
    assert len(found.started) == 2
    assert found.sealed == {}


def test_of_a_partys_late_receipts_of_a_job_the_first_alone_has_openings(scene: Scene) -> None:
    """Each may have a megabyte, and none of them has an effect."""
    world, lab, research = scene.world, scene.world.members["lab"], scene.world.members["research"]
    world.settle()
    plan = research.desk.compile(scene.deal.deal, scene.deal.question())

    def seals(job: JobId, opening: bytes) -> None:
        with world.store.reading() as tx:
            name = tx.job(job).plan
        act = Act("job.sealed", job, inputs=(name,), outputs=(digest(b"part"), digest(opening)))
        late = scene.say(lab, act, opening, ago=timedelta(minutes=11))
        assert "too late" in late.reason

    with down(lab):
        held, rejected = (
            scene.deal.submit(),
            research.desk.submit(replace(plan, operator=lab.id)),
        )
        world.settle()
        with world.store.reading() as tx:
            assert [tx.job(job).held is None for job in (held, rejected)] == [False, True]
        for opening in (b"first", b"second", b"third"):
            seals(rejected, opening)
            seals(held, opening)
        world.settle()
    found = scene.bundle().openings.values()
    assert [data for data in found if data in (b"first", b"second", b"third")] == [b"first"]


def test_of_an_approval_a_bundle_holds_what_the_deals_own_regulator_may_open(scene: Scene) -> None:
    """Whom it is sealed to besides tells which regulators look at the holder's other deals."""
    world, clinic = scene.world, scene.world.members["clinic"]
    regulator, other = world.members["regulator"].id, world.members["lab"].id
    world.settle()
    document = record.to_bytes(
        openings.SealedOpenings(1, {regulator: b"for this", other: b"for another"})
    )
    act = evidence.standing_approved(
        scene.deal.clinic_product.id, commitment=digest(b"any"), openings=digest(document)
    )
    assert scene.say(clinic, act, document).applied
    world.settle()
    found = scene.bundle().openings
    assert b"for this" in found.values()
    assert {reader for _, reader in found} == {regulator}


def test_a_job_in_anothers_deal_is_none(scene: Scene) -> None:
    """Or strangers' jobs would be read whenever somebody asks for the deal's bundle."""
    world, research = scene.world, scene.world.members["research"]
    stranger = world.join("stranger", Role.CONSUMER)
    world.settle()
    plan = replace(
        research.desk.compile(scene.deal.deal, scene.deal.question()),
        consumer=stranger.id,
        consumer_document=stranger.folder.party.digest,
    )
    envelope = plans.sign_plan(plan, stranger.folder.signing)
    act = evidence.submitted(
        plan.job, plan.deal, plan=envelope.payload_digest, relies_on=plan.relies_on
    )
    outcome = scene.say(stranger, act, envelope.to_bytes())
    assert not outcome.applied and "deal: is not the consumer's" in outcome.reason
    with world.store.reading() as tx:
        assert tx.jobs_of_deal(scene.deal.deal) == []


def test_a_submission_that_states_another_deal_has_no_effect(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever follows the public log would miss the job in that deal's bundle."""
    other = DealId.new(scene.world.clock.now(), SystemRandomness())
    submitted = evidence.submitted

    def elsewhere(job: JobId, deal: DealId, **settings: Any) -> Act:
        return submitted(job, other, **settings)

    monkeypatch.setattr(evidence, "submitted", elsewhere)
    scene.deal.submit()
    scene.world.settle()
    with scene.world.store.reading() as tx:
        assert tx.jobs_of_deal(scene.deal.deal) == []


def test_a_deal_is_one_consumers_folder(scene: Scene) -> None:
    """Otherwise a stranger could put itself among those who may read its bundle."""
    world = scene.world
    mallory = world.join("mallory", Role.CONSUMER)
    world.introduce()
    terms = terms_for(world, scene.deal.clinic_product, scene.deal.lab_product)
    clinic = world.members["clinic"].id
    mallory.negotiations.request(scene.deal.deal, clinic, terms)
    world.settle()
    with world.store.reading() as tx:
        assert tx.negotiations_of(mallory.id) == []
    own = DealId.new(world.clock.now(), SystemRandomness())
    mallory.negotiations.request(own, clinic, terms)
    world.settle()
    with world.store.reading() as tx:
        assert len(tx.negotiations_of(mallory.id)) == 1


def test_nobody_but_its_consumer_adds_to_a_deal(scene: Scene) -> None:
    """A stranger's offer in it would make the stranger one of those whose every word is evidence,
    and whose identity an audit must know."""
    world, deal = scene.world, scene.deal
    stranger = world.join("stranger", Role.HOLDER)
    world.introduce()
    product = list_rows(world, "stranger", LAB_ROWS, ("person", "s5"), 1, lab_columns())
    world.settle()
    before = scene.bundle()

    def offers(where: DealId) -> Outcome:
        proposal = Proposal(
            1,
            where,
            NegotiationId.new(world.clock.now(), SystemRandomness()),
            world.members["research"].id,
            stranger.id,
            terms_for(world, product, deal.lab_product),
            bytes(SALT_BYTES),
        )
        name = agreements.proposal_digest(proposal)
        act = evidence.negotiated(
            Event.OFFERED, proposal.negotiation, where, proposal=name, document=name
        )
        return scene.say(stranger, act, record.to_bytes(proposal))

    refused = offers(deal.deal)
    assert not refused.applied and "its consumer alone" in refused.reason
    world.settle()
    assert scene.bundle().entries == before.entries
    assert audited(scene).failed == ()
    assert offers(DealId.new(world.clock.now(), SystemRandomness())).applied


@pytest.mark.parametrize("named", ["without outputs", "as its own"])
def test_a_stranger_that_lists_anothers_product_is_in_no_bundle(scene: Scene, named: str) -> None:
    """The hub did not take it in; an audit would ask for the stranger's keys."""
    world, product = scene.world, scene.deal.clinic_product
    stranger = world.join("stranger", Role.HOLDER)
    world.settle()
    before = scene.bundle()
    outputs = () if named == "without outputs" else (registering.product_digest(product),)
    assert not scene.say(stranger, Act("product.listed", product.id, outputs=outputs)).applied
    world.settle()
    assert scene.bundle().entries == before.entries
    assert audited(scene).failed == ()


@pytest.mark.parametrize("named", ["product", "operator"])
def test_whom_and_what_a_rejected_plan_names_has_no_part_in_the_deal(
    scene: Scene, named: str
) -> None:
    """Or its consumer could have the audit ask who somebody is that nobody in the deal knows."""
    world, research = scene.world, scene.world.members["research"]
    stranger = world.join("stranger", Role.HOLDER)
    world.introduce()
    product = list_rows(world, "stranger", LAB_ROWS, ("person", "s5"), 1, lab_columns())
    world.settle()
    strange = {product.holder, product.id}
    plan = research.desk.compile(scene.deal.deal, scene.deal.question())
    if named == "product":
        side = replace(plan.sides[0], product=registering.product_digest(product))
        plan = replace(plan, sides=(side, *plan.sides[1:]))
    else:
        plan = replace(plan, operator=stranger.id)
    envelope = plans.sign_plan(plan, research.folder.signing)
    act = evidence.submitted(
        plan.job, plan.deal, plan=envelope.payload_digest, relies_on=plan.relies_on
    )
    assert scene.say(research, act, envelope.to_bytes()).applied
    world.settle()
    bundle = scene.bundle()
    assert kinds(bundle)[-2:] == ["job.submitted", "job.rejected"]
    subjects = {read_statement(entry).statement.subject for entry in bundle.entries.values()}
    assert not strange & subjects
    assert audited(scene).failed == ()


def test_only_the_versions_that_terms_name_are_in_it(scene: Scene) -> None:
    clinic = scene.world.members["clinic"]
    newer = replace(scene.deal.clinic_product, version=2, name="clinic data, again")
    registering.list_product(newer, store=clinic.node.store, identity=clinic.node.identity)
    scene.world.settle()
    bundle = scene.bundle()
    assert kinds(bundle).count("product.listed") == 2
    assert registering.product_digest(newer) not in bundle.documents


def test_keys_that_changed_during_the_deal_pass_the_audit(scene: Scene) -> None:
    """Old statements count by the old key and new ones by the new; both documents are there."""
    world = scene.world
    clinic = world.members["clinic"]
    scene.deal.submit()
    world.settle()
    before = clinic.folder.party
    after = clinic.folder.rotate(now=world.clock.now())
    act = registering.evidence.party_updated(after, before)
    signed = sign_statement(
        act,
        actor=clinic.id,
        head=world.service.chain(clinic.id),
        signer=clinic.folder.signing,
        now=world.clock.now(),
        randomness=SystemRandomness(),
    )
    sent = read_submission(signed.entry, [after.envelope.to_bytes()])
    assert world.service.submit(clinic.id, sent).applied
    act = evidence.alarmed(str(scene.deal.deal), kind="Test", words="with the new key")
    scene.say(clinic, act)
    act = evidence.negotiated(
        Event.TERMINATED, _negotiation(scene), scene.deal.deal, proposal=digest(b"none")
    )
    scene.say(clinic, act)
    world.hub_step()
    bundle = scene.bundle()
    assert {before.digest, after.digest} <= set(bundle.documents)
    report = audited(scene)
    assert report.failed == ()
    assert "changed its keys" in report.to_text(VOICES[Language.ENGLISH])


def test_the_agreement_in_it_has_both_signatures(settled: Scene) -> None:
    envelopes = [
        Envelope.from_bytes(data)
        for data in settled.bundle().documents.values()
        if data.startswith(b'{"payload":')
    ]
    signed = [e for e in envelopes if e.payload_type == agreements.PAYLOAD_TYPE]
    assert [len(envelope.signatures) for envelope in signed] == [2, 2]


def test_the_bundle_of_a_hub_on_postgresql_passes_as_well(
    tmp_path: Path, new_database: Callable[[str], str]
) -> None:
    scene = a_scene(tmp_path, hub_url=new_database("postgresql"))
    scene.deal.submit()
    scene.world.settle()
    assert audited(scene).failed == ()


def test_the_order_of_the_log_is_the_order_of_effect(
    tmp_path: Path, new_database: Callable[[str], str]
) -> None:
    """An audit replays the log: of two acts about one job, the one that waited comes second."""
    scene = a_scene(tmp_path, hub_url=new_database("postgresql"))
    world, research = scene.world, scene.world.members["research"]
    with down(world.members["clinic"]), down(world.members["lab"]):
        job = scene.deal.submit()
        world.settle()
    with world.store.reading() as tx:
        found = tx.job(job)
    act = evidence.cancelled(job, plan=found.plan, after=[found.submitted])
    with ThreadPoolExecutor(1) as other, world.store.transaction() as tx:
        coordination.expire(tx.lock_job(job), Overdue.NOT_BEGUN, tx, world.operator)
        waiting = other.submit(scene.say, research, act)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)  # it waits for the job, without a place in the log yet
        log.append(tx.log, b"last of the first")
    assert not waiting.result(timeout=10).applied
    with world.store.reading() as tx:
        pending = [item.entry for item in tx.log.pending(10)]
    assert pending.index(b"last of the first") < len(pending) - 1
    assert read_statement(pending[-1]).statement.type == "job.cancelled"


def audited(scene: Scene) -> Report:
    world = scene.world
    folders = [world.operator_folder, *(m.folder for m in world.members.values())]
    fingerprints = {f.party.document.identity.fingerprint for f in folders}
    return audit_deal(scene.export(), world.policy, Roots(frozenset(fingerprints), ()), None)


def _negotiation(scene: Scene) -> NegotiationId:
    with scene.world.store.reading() as tx:
        return tx.negotiations_of_deal(scene.deal.deal)[0].id


def test_a_deposit_can_be_opened_by_whoever_was_credited_and_says_nothing_in_public(
    tmp_path: Path,
) -> None:
    world = a_world(tmp_path)
    member = world.join("payer", Role.CONSUMER)
    said = world.service.fund(
        world.operator.party, member.id, Money("TEST", Amount(7_654)), key="invoice-7654"
    )
    assert said is not None
    world.settle()
    with world.store.reading() as tx:
        index = tx.log.index_of(said)
        assert index is not None
        (logged,) = tx.log.entries(index, index + 1)
        ((reader, sealed),) = tx.openings(said)
    statement = read_statement(logged.entry).statement
    assert (statement.type, statement.body, reader) == (DEPOSITED, {}, member.id)
    plain = sealing.open_sealed(sealed, member.folder.sealing, context=openings.context(said))
    movement = open_movement(plain, statement.commitments[COMMITMENT])
    assert [leg.amount_minor for leg in movement.legs] == [7_654]


# Who was given it


def given(scene: Scene) -> list[tuple[str, bool | None]]:
    """To whom the hub says that it gave the bundle, and whether the audit finds that right."""
    scene.world.settle()
    found = [check for check in audited(scene).checks if check.id == "bundle.given"]
    return [
        (check.note.text(VOICES[Language.ENGLISH]), check.passed) for check in found if check.note
    ]


def test_the_ledger_says_once_to_whom_which_bundle_was_given(scene: Scene) -> None:
    world, deal = scene.world, scene.deal.deal
    consumer, regulator = world.members["research"].id, world.members["regulator"].id
    first = world.service.bundle(consumer, deal)
    world.settle()
    for _ in range(2):  # what it holds besides is only that it was given before
        world.service.bundle(consumer, deal)
        world.settle()
    assert kinds(bundles.read(first)).count(BUNDLE_EXPORTED) == 0
    assert [passed for _, passed in given(scene)] == [True]
    world.service.bundle(regulator, deal)
    world.service.bundle(regulator, deal)
    assert [passed for _, passed in given(scene)] == [True, True]
    scene.deal.submit()
    world.settle()
    world.service.bundle(consumer, deal)  # more has happened: that was another bundle
    assert len(given(scene)) == 3


def test_whoever_is_refused_the_bundle_leaves_no_word(scene: Scene) -> None:
    for name in ("clinic", "lab"):
        with pytest.raises(NotYours):
            scene.world.service.bundle(scene.world.members[name].id, scene.deal.deal)
    assert given(scene) == []


def test_a_bundle_that_was_given_to_a_stranger_fails_the_audit(scene: Scene) -> None:
    world, stranger = scene.world, scene.world.join("stranger", Role.REGULATOR)
    with pytest.raises(NotYours):
        world.service.bundle(stranger.id, scene.deal.deal)
    act = evidence.bundle_exported(scene.deal.deal, stranger.id, [])
    with world.store.transaction() as tx:
        chains.act(act, tx=tx, operator=world.operator)
    assert [passed for _, passed in given(scene)] == [False]


def test_the_operators_regulators_may_read_from_when_the_ledger_names_them(scene: Scene) -> None:
    world, chosen = scene.world, scene.world.join("bureau", Role.REGULATOR)
    act = evidence.bundle_exported(scene.deal.deal, chosen.id, [])

    def name(*regulators: Member) -> None:
        with world.store.transaction() as tx:
            parties = frozenset(one.id for one in regulators)
            log_history.supervised(parties, tx, world.operator)
            log_history.supervised(parties, tx, world.operator)  # a second start says nothing

    def give() -> None:
        with world.store.transaction() as tx:
            chains.act(act, tx=tx, operator=world.operator)

    name()  # nobody, as ever: nothing to say
    name(chosen)
    give()
    name()
    give()
    assert [passed for _, passed in given(scene)] == [True, False]
    with world.store.reading() as tx:
        said = chains.said(world.operator.party, [REGULATORS_NAMED], tx)
    assert [evidence.read_regulators(one) for one in said] == [{chosen.id}, frozenset()]


@pytest.mark.parametrize("kind", [BUNDLE_EXPORTED, REGULATORS_NAMED])
def test_no_participant_says_what_only_the_operator_does(scene: Scene, kind: str) -> None:
    lab = scene.world.members["lab"]
    with pytest.raises(Malformed, match="is not an act that a participant reports"):
        scene.say(lab, Act(kind, scene.deal.deal, body={"to": lab.id}))
