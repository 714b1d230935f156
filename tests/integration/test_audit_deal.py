"""A deal's audit: honest deals pass however they end, and every forgery fails a check that names
it. The nearest forgery is always made by people who may sign everything again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest, commit, digest
from crypto.envelope import Envelope
from crypto.identifiers import PartyId
from crypto.keys import ExchangeKey, SigningKey, write_key
from crypto.noise import Distribution
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import Statement, read_statement, sign_statement
from exchange import evidence
from exchange.audit import bundle as bundles
from exchange.audit.__main__ import main
from exchange.audit.bundle import Bundle
from exchange.audit.deal import audit_deal
from exchange.audit.errors import BundleRefused
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.audit.words import NOT_PROVED
from exchange.hub import bundle as hub_bundle
from exchange.hub import intake
from exchange.jobs import JobState
from exchange.openings import BudgetUse, ReceiptOpenings
from exchange.query import plan as plans
from exchange.query.explanation import Language
from exchange.query.plan import Gate, Noise, Plan
from exchange.submission import read_submission
from exchange.terms import agreement as agreements
from exchange.terms.agreement import Agreement
from ledger.verify.note import COSIGNATURE, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.report import Report
from pricing.evidence import Movement
from registry.expression import ColumnValue, Comparator, Compare, Text
from registry.party import PAYLOAD_TYPE as PARTY
from registry.party import PartyDocument, Role, endorse
from registry.product import DataProduct
from tests.forgery import Draft, Forger, failing
from tests.world import START, Deal, World, a_deal, a_world, down

ENGLISH = VOICES[Language.ENGLISH]


@dataclass(frozen=True)
class Audited:
    """A world with a deal in it and two jobs done, and what an auditor needs."""

    world: World
    deal: Deal
    bundle: bytes

    @property
    def roots(self) -> Roots:
        return roots_of(self.world)

    @property
    def opener(self) -> Opener:
        regulator = self.world.members["regulator"]
        return Opener(regulator.id, regulator.folder.sealing)

    def id(self, name: str) -> PartyId:
        if name == "operator":
            return self.world.operator.party
        return self.world.members[name].id


def roots_of(world: World, *without: str) -> Roots:
    folders = {"operator": world.operator_folder}
    folders |= {name: member.folder for name, member in world.members.items()}
    return Roots(
        frozenset(
            folder.party.document.identity.fingerprint
            for name, folder in folders.items()
            if name not in without
        ),
        (),
    )


def export(world: World, deal: Deal) -> bytes:
    with world.store.reading() as tx:
        return hub_bundle.export(deal.deal, tx).data


def audit(world: World, deal: Deal, opener: Opener | None = None) -> Report:
    return audit_deal(export(world, deal), world.policy, roots_of(world), opener)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    world = a_world(tmp_path_factory.mktemp("audited"))
    deal = a_deal(world)
    deal.approve_standing()
    for _ in range(2):
        deal.submit()
        world.settle()
        world.clock.pass_(timedelta(hours=2))
    return Audited(world, deal, export(world, deal))


@pytest.fixture
def forger(done: Audited) -> Forger:
    return Forger.of(done.world, done.bundle)


# Honest deals


def test_an_honest_deal_fails_no_check_and_says_what_it_cannot_prove(done: Audited) -> None:
    report = audit_deal(done.bundle, done.world.policy, done.roots, done.opener)
    assert report.failed == ()
    assert [(c.id, c.subject) for c in report.not_opened] == [
        ("entry.time", "entry 1 party.registered")  # logged before any head was witnessed
    ]
    value = report.to_value(ENGLISH)
    assert value["passed"] == len(report.passed) > 200
    assert value["not_proved"] == [ENGLISH.phrases[key] for key in NOT_PROVED]
    assert len(report.story) == 39


def test_without_the_regulators_key_amounts_and_budgets_stay_unopened(done: Audited) -> None:
    report = audit_deal(done.bundle, done.world.policy, done.roots, None)
    assert report.failed == ()
    unopened = [check.id for check in report.not_opened]
    assert unopened.count("money.amounts") == 4
    assert unopened.count("receipt.opened") == 4


def test_products_and_agreements_are_read_once_however_many_jobs_rest_on_them(
    done: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product may have a megabyte, and a deal thousands of jobs."""
    read: list[bytes] = []
    from_bytes = record.from_bytes

    def counted(kind: type, data: bytes) -> object:
        if kind in (DataProduct, Agreement):
            read.append(data)
        return from_bytes(kind, data)

    monkeypatch.setattr(record, "from_bytes", counted)
    audit_deal(done.bundle, done.world.policy, done.roots, done.opener)
    assert len(read) == len(set(read)) == 4


def test_another_partys_key_opens_nothing_and_accuses_nobody(done: Audited) -> None:
    for opener in (
        Opener(done.id("regulator"), ExchangeKey.generate()),
        Opener(done.id("research"), done.world.members["research"].folder.sealing),
    ):
        report = audit_deal(done.bundle, done.world.policy, done.roots, opener)
        assert report.failed == ()
        assert {c.id for c in report.not_opened} >= {"money.amounts", "receipt.opened"}


def test_the_report_names_amounts_budget_and_bytes(done: Audited) -> None:
    text = audit_deal(done.bundle, done.world.policy, done.roots, done.opener).to_text(ENGLISH)
    assert "pending 2000 TEST" in text
    assert "run 2 of 5" in text
    assert "bytes that left" in text
    assert "Clinic" in text and "admitted job_" in text


def test_what_the_forger_says_again_unchanged_passes(forger: Forger, done: Audited) -> None:
    assert forger.audit(done.roots).failed == ()


def test_a_registrars_signature_stands_for_a_fingerprint(done: Audited, forger: Forger) -> None:
    registrar = SigningKey.generate()
    for name, data in list(forger.documents.items()):
        envelope = _envelope(data)
        if envelope is not None and envelope.payload_type == PARTY:
            party = done.world.members["clinic"].folder.party
            if name == party.digest:
                forger.documents[name] = endorse(party, registrar).envelope.to_bytes()
    known = roots_of(done.world, "clinic")
    assert failing(forger.audit(known)) == {"party.trusted"}
    assert failing(forger.audit(Roots(known.fingerprints, (registrar.public,)))) == set()
    stranger = SigningKey.generate().public
    assert failing(forger.audit(Roots(known.fingerprints, (stranger,)))) == {"party.trusted"}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[World, Deal]]:
    world = a_world(tmp_path)
    yield world, a_deal(world)


def test_a_job_that_a_holder_refuses_is_refunded_and_passes(fresh: tuple[World, Deal]) -> None:
    world, deal = fresh
    job = deal.submit()
    world.settle()
    world.members["clinic"].desk.refuse(job, "not today")
    world.settle()
    report = audit(world, deal, _opener(world))
    assert report.failed == ()
    assert "ended REFUSED" in report.to_text(ENGLISH)
    assert "refunded to the consumer" in report.to_text(ENGLISH)


def test_a_job_that_the_hub_cannot_reserve_is_rejected_and_passes(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world, funded=100)
    deal.submit()
    world.settle()
    report = audit(world, deal)
    assert report.failed == ()
    assert "nothing was held" in report.to_text(ENGLISH)


def test_an_admission_after_the_cancellation_has_no_effect_and_is_named(
    fresh: tuple[World, Deal],
) -> None:
    world, deal = fresh
    job = deal.submit()
    world.settle()
    clinic, research = world.members["clinic"], world.members["research"]
    clinic.hub.down = True
    research.desk.cancel(job)
    world.settle()
    clinic.desk.approve(job)  # it has not heard
    clinic.hub.down = False
    world.settle()
    report = audit(world, deal, _opener(world))
    assert report.failed == ()
    (replayed,) = [c for c in report.passed if c.id == "job.replayed"]
    assert "ended CANCELLED; without effect: job.admitted" in replayed.words(ENGLISH)
    assert "(No effect: " in report.to_text(ENGLISH)


def test_a_job_that_nobody_answers_expires_is_refunded_and_passes(
    fresh: tuple[World, Deal],
) -> None:
    world, deal = fresh
    deal.submit()
    world.settle()
    with down(world.members["clinic"]), down(world.members["lab"]):
        world.clock.pass_(timedelta(days=2))
        world.settle()
    report = audit(world, deal, _opener(world))
    assert report.failed == ()
    assert "ended EXPIRED" in report.to_text(ENGLISH)


def test_a_cancellation_that_reached_the_hub_too_late_leaves_the_audit_without_failure(
    fresh: tuple[World, Deal],
) -> None:
    """The hub logs it and lets the job expire; only the hub can know when it arrived."""
    world, deal = fresh
    research = world.members["research"]
    job = deal.submit()
    world.settle()
    with down(research):
        research.desk.cancel(job)
        world.clock.pass_(intake.CLOCK_TOLERANCE + timedelta(minutes=1))
    world.settle()
    with down(world.members["clinic"]), down(world.members["lab"]):
        world.clock.pass_(timedelta(hours=1))
        world.settle()
    with world.store.reading() as tx:
        assert tx.job(job).state is JobState.EXPIRED
    report = audit(world, deal, _opener(world))
    assert report.failed == ()
    (check,) = [c for c in report.not_opened if c.id == "job.replayed"]
    assert "job.cancelled" in check.words(ENGLISH)


def test_a_terminated_negotiation_passes(fresh: tuple[World, Deal]) -> None:
    world, deal = fresh
    consumer = world.members["research"]
    with consumer.node.store.reading() as tx:
        terms = tx.agreements()[0].agreement.terms
    holder = next(
        p.holder for p in (deal.clinic_product, deal.lab_product) if p.id == terms.product_id
    )
    begun = consumer.negotiations.request(deal.deal, holder, terms)
    world.settle()
    consumer.negotiations.terminate(begun.id, "changed our mind")
    world.settle()
    assert audit(world, deal).failed == ()


def test_what_a_stranger_says_about_a_job_is_left_out_and_fails_nothing(
    done: Audited, tmp_path: Path
) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    job = deal.submit()
    world.settle()
    mallory = world.join("mallory", Role.HOLDER)
    known = roots_of(world, "mallory")
    made_up = digest(b"made up")
    for act in (
        evidence.failed(job, plan=made_up, after=[made_up], reason=b"\x1b[2J"),
        evidence.submitted(job, deal.deal, plan=made_up, relies_on=[made_up]),
        evidence.alarmed(job, kind="Nonsense", words="\x1b[31mlook"),
    ):
        signed = sign_statement(
            act,
            actor=mallory.id,
            head=world.service.chain(mallory.id),
            signer=mallory.folder.signing,
            now=world.clock.now(),
            randomness=SystemRandomness(),
        )
        world.service.submit(mallory.id, read_submission(signed.entry, []))
    world.settle()
    bundle = export(world, deal)
    report = audit_deal(bundle, world.policy, known, _opener(world))
    assert report.failed == ()
    assert "job.failed" not in {e.statement.type for e in _said(bundle)}
    assert {c.id for c in report.not_opened} == {"bundle.left_out", "entry.time"}
    assert "\x1b" not in report.to_text(ENGLISH)


# Bytes of the bundle altered


def altered(done: Audited, change: Callable[[Bundle], Bundle]) -> Report:
    bundle = change(bundles.read(done.bundle))
    listed = bundles.list_content(
        bundle.manifest.deal,
        entries=bundle.entries,
        documents=bundle.documents,
        openings=bundle.openings,
        heads=bundle.heads,
    )
    data = bundles.write(replace(bundle, manifest=listed))
    return audit_deal(data, done.world.policy, done.roots, done.opener)


def test_a_flipped_byte_in_an_entry_is_found_by_its_proof(done: Audited) -> None:
    entries = bundles.read(done.bundle).entries
    for index in (min(entries), max(entries)):
        entry = entries[index]
        place = entry.index(b'"sig":"') + 10
        flipped = entry[:place] + (b"A" if entry[place] != 65 else b"B") + entry[place + 1 :]
        report = altered(
            done, lambda b, i=index, e=flipped: replace(b, entries={**b.entries, i: e})
        )
        assert "entry.logged" in failing(report)


@pytest.mark.slow
def test_no_byte_of_a_bundle_can_be_changed_unnoticed(done: Audited) -> None:
    files = bundles.unpack(done.bundle)
    names = sorted(name for name in files if name != "manifest.json")
    chance = random.Random(11)
    for _ in range(150):
        name = chance.choice(names)
        data = bytearray(files[name])
        place = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + chance.randrange(1, 9)]
            case _:
                data[place:place] = chance.randbytes(3)
        try:
            report = audit_deal(
                bundles.pack({**files, name: bytes(data)}),
                done.world.policy,
                done.roots,
                done.opener,
            )
        except BundleRefused:
            continue
        assert report.failed, (name, place)
        for language in Language:
            assert report.to_text(VOICES[language])


def test_an_entry_that_the_manifest_lists_otherwise_is_named(done: Audited) -> None:
    bundle = bundles.read(done.bundle)
    first, *rest = bundle.manifest.entries
    lying = replace(first, digest=digest(b"another"))
    manifest = replace(bundle.manifest, entries=(lying, *rest))
    data = bundles.write(replace(bundle, manifest=manifest))
    report = audit_deal(data, done.world.policy, done.roots, None)
    assert failing(report) == {"bundle.entries"}


# Nothing else in a bundle relies on these; `NOT_PROVED` says so.
RELIED_ON_BY_NOTHING = {"job.opened", "funds.released"}


@pytest.mark.slow
def test_every_statement_that_another_relies_on_is_missed_when_it_is_left_out(
    done: Audited,
) -> None:
    bundle = bundles.read(done.bundle)
    for index, entry in bundle.entries.items():
        kind = read_statement(entry).statement.type
        report = altered(done, lambda b, i=index: _without(b, i))
        assert bool(report.failed) is (kind not in RELIED_ON_BY_NOTHING), (index, kind)


@pytest.mark.parametrize(
    ("kind", "fails"),
    [
        ("party.registered", "entry.signed"),
        ("product.listed", "product.signed"),
        ("negotiation.requested", "negotiation.replayed"),
        ("negotiation.agreed", "agreement.finalised"),
        ("negotiation.finalized", "agreement.finalised"),
        ("job.submitted", "job.replayed"),
        ("funds.held", "money.held"),
        ("job.admitted", "job.admitted"),
        ("job.started", "job.replayed"),
        ("job.sealed", "job.replayed"),
        ("job.released", "money.settled"),
    ],
)
def test_a_statement_left_out_fails_the_check_that_needs_it(
    done: Audited, kind: str, fails: str
) -> None:
    index = next(e.index for e in _said(done.bundle) if e.statement.type == kind)
    assert fails in failing(altered(done, lambda b: _without(b, index)))


def test_a_proof_from_another_log_or_for_another_entry_is_refused(done: Audited) -> None:
    forged = bundles.read(Forger.of(done.world, done.bundle).bundle())
    proof = forged.proofs[0]
    report = altered(done, lambda b: replace(b, proofs={**b.proofs, 0: proof}))
    assert [c.subject for c in report.failed if c.id == "entry.logged"] == [
        "entry 0 party.registered"
    ]
    report = altered(done, lambda b: replace(b, proofs={**b.proofs, 0: b.proofs[1]}))
    assert "entry.logged" in failing(report)


def test_a_whole_bundle_of_another_log_is_not_accepted(done: Audited, forger: Forger) -> None:
    report = audit_deal(forger.bundle(), done.world.policy, done.roots, None)
    assert "log.head" in failing(report)
    assert "entry.logged" not in {c.id for c in report.passed}


def test_a_checkpoint_without_the_policys_quorum_is_not_accepted(done: Audited) -> None:
    log = done.world.policy.logs[0].key
    second = VerifierKey("second.test", COSIGNATURE, SigningKey.generate().public)
    strict = Policy.parse(
        f"log {log}\nwitness w {done.world.witness.key}\nwitness second {second}\n"
        "group both all w second\nquorum both\n".encode()
    )
    report = audit_deal(done.bundle, strict, done.roots, None)
    # The payment, too, needs a head that this quorum has cosigned.
    assert failing(report) == {"log.head", "money.settled"}
    assert "entry.logged" in {c.id for c in report.not_opened}


def test_without_any_witness_no_time_is_believed(done: Audited) -> None:
    log = done.world.policy.logs[0].key
    alone = Policy.parse(f"log {log}\nquorum none\n".encode())
    report = audit_deal(done.bundle, alone, done.roots, None)
    assert report.failed == ()
    assert "entry.time" not in {c.id for c in report.passed}


def test_a_head_that_is_missing_or_does_not_extend_the_last_is_named(done: Audited) -> None:
    bundle = bundles.read(done.bundle)
    pair = sorted(bundle.consistency)[3]
    gone = {p: h for p, h in bundle.consistency.items() if p != pair}
    assert failing(altered(done, lambda b: replace(b, consistency=gone))) == {"log.consistent"}
    swapped = {**bundle.consistency, pair: tuple(reversed(bundle.consistency[pair]))}
    swapped[pair] = (bytes(32), *swapped[pair][1:])
    assert failing(altered(done, lambda b: replace(b, consistency=swapped))) == {"log.consistent"}
    stray = {**bundle.consistency, (1, 2): (bytes(32),)}
    assert failing(altered(done, lambda b: replace(b, consistency=stray))) == {"log.consistent"}
    size = sorted(bundle.heads)[2]
    other = {**bundle.heads, size: bundle.heads[sorted(bundle.heads)[1]]}
    assert "log.head" in failing(altered(done, lambda b: replace(b, heads=other)))


def test_heads_left_out_make_a_payment_and_a_time_unprovable_not_proved(done: Audited) -> None:
    report = altered(done, lambda b: replace(b, heads={}, consistency={}))
    assert failing(report) == {"money.settled"}
    assert [c.subject for c in report.passed if c.id == "entry.time"] == [
        "entry 0 party.registered"
    ]


def test_an_identity_that_the_roots_do_not_name_is_not_trusted(done: Audited) -> None:
    for name in ("clinic", "lab", "research", "regulator", "operator"):
        known = roots_of(done.world, name)
        report = audit_deal(done.bundle, done.world.policy, known, done.opener)
        assert failing(report) == {"party.trusted"}


def test_a_document_under_anothers_name_is_found(done: Audited) -> None:
    names = sorted(bundles.read(done.bundle).documents)
    report = altered(
        done,
        lambda b: replace(b, documents={**b.documents, names[0]: b.documents[names[1]]}),
    )
    assert "bundle.documents" in failing(report)


# Party documents


@pytest.mark.parametrize("key", ["identity", "signing", "sealing", "agreement", "tls_certificate"])
@pytest.mark.parametrize("name", ["clinic", "research", "operator"])
def test_a_swapped_key_of_a_party_is_found(
    done: Audited, forger: Forger, key: str, name: str
) -> None:
    """The hub puts in a key of its own and signs everything that follows from it."""
    folder = done.world.operator_folder if name == "operator" else done.world.members[name].folder
    document, own = folder.party.document, SigningKey.generate()
    if key in ("identity", "signing"):
        changed = own.public
        forger.keys[document.party] = own
    elif key == "tls_certificate":
        changed = b"another certificate"  # type: ignore[assignment]
    else:
        changed = ExchangeKey.generate().public
    payload = record.to_bytes(document).replace(_member(document, key), _member_of(changed), 1)
    forged = dsse.sign(PARTY, payload, own)
    forger.swap_document(folder.party.digest, forged.to_bytes())
    assert "party.document" in failing(forger.audit(done.roots))


def test_a_second_first_document_changes_no_keys(done: Audited, forger: Forger) -> None:
    """Another genuine document that does not follow the one before has no effect."""
    clinic = done.world.members["clinic"].folder
    place = forger.place("party.registered", clinic.party.document.party)
    again = forger.drafts[place]
    forger.drafts.append(replace(again, was=digest(b"again"), seen=forger.drafts[-1].seen))
    forger.change(len(forger.drafts) - 1, time=forger.drafts[-2].statement.time)
    report = forger.audit(done.roots)
    assert report.failed == ()
    assert "is registered already" in report.to_text(ENGLISH)


# Order and time


def test_statements_of_one_actor_that_changed_places_are_found(
    done: Audited, forger: Forger
) -> None:
    honest = bundles.read(forger.bundle())
    first = forger.place("negotiation.finalized", done.id("clinic"))
    second = forger.place("job.admitted", done.id("clinic"))
    entries = [honest.entries[i] for i in sorted(honest.entries)]
    entries[first], entries[second] = entries[second], entries[first]
    data = forger.logged(
        entries, sealed=honest.openings, seen=[draft.seen for draft in forger.drafts]
    )
    report = audit_deal(data, forger.policy, done.roots, done.opener)
    assert {"actor.chain", "entry.after"} <= failing(report)


def test_a_statement_that_is_logged_twice_is_found(done: Audited, forger: Forger) -> None:
    honest = bundles.read(forger.bundle())
    entries = [honest.entries[i] for i in sorted(honest.entries)]
    entries.append(entries[forger.place("job.admitted")])
    seen = [draft.seen for draft in forger.drafts]
    data = forger.logged(entries, sealed=honest.openings, seen=[*seen, seen[-1]])
    assert "actor.chain" in failing(audit_deal(data, forger.policy, done.roots, done.opener))


@pytest.mark.parametrize(
    ("shift", "fails"),
    [
        (timedelta(minutes=-60), True),
        (timedelta(minutes=-10), False),
        (timedelta(minutes=10), False),
        (timedelta(minutes=60), True),
    ],
)
def test_a_time_that_the_witnesses_contradict_is_named(
    done: Audited, forger: Forger, shift: timedelta, fails: bool
) -> None:
    place = forger.place("job.started", nth=2)
    forger.change(place, time=forger.drafts[place].statement.time + shift)
    report = forger.audit(done.roots)
    assert ("entry.time" in failing(report)) is fails
    assert bool(report.failed) is fails
    if fails:
        (check,) = [c for c in report.failed if c.id == "entry.time"]
        word = "back-dated" if shift < timedelta(0) else "post-dated"
        assert word in check.words(ENGLISH)


def test_what_came_too_late_had_no_effect_and_accuses_nobody(done: Audited, forger: Forger) -> None:
    """A second admission by the lab, an hour old when it arrives, on which nobody relies."""
    place = forger.place("job.admitted", done.id("lab"))
    draft = forger.drafts[place]
    last = forger.drafts[-1]
    late = replace(draft, was=digest(b"late"), seen=last.seen)
    forger.drafts.append(late)
    report = forger.audit(done.roots)
    assert report.failed == ()
    unproved = {c.subject for c in report.not_opened if c.id == "entry.time"}
    assert f"entry {len(forger.drafts) - 1} job.admitted" in unproved
    assert "too late" in report.to_text(ENGLISH)


def test_an_operators_act_that_is_back_dated_is_never_excused(
    done: Audited, forger: Forger
) -> None:
    place = forger.place("funds.released", nth=1)
    forger.change(place, time=forger.drafts[place].statement.time - timedelta(hours=1))
    assert failing(forger.audit(done.roots)) == {"entry.time"}


def test_an_operators_act_that_is_back_dated_is_not_excused_in_a_deal_without_jobs(
    done: Audited, forger: Forger
) -> None:
    forger.drafts = [
        draft
        for draft in forger.drafts
        if not draft.statement.type.startswith(("job.", "funds.", "holding."))
    ]
    first, last = forger.drafts[0], forger.drafts[-1]
    named = replace(
        first.statement,
        type="regulators.named",
        outputs=(),
        time=last.statement.time - timedelta(hours=1),
    )
    forger.drafts.append(Draft(named, digest(b"named"), None, last.seen))
    assert failing(forger.audit(done.roots)) == {"entry.time"}


# Negotiation and agreement


def test_an_agreement_that_is_not_the_proposal_is_found(done: Audited, forger: Forger) -> None:
    forger.terms(lambda t: replace(t, runs=t.runs + 1), proposals=False)
    assert failing(forger.audit(done.roots)) >= {"agreement.accepted", "agreement.finalised"}


def test_an_agreement_that_one_party_did_not_sign_is_found(done: Audited, forger: Forger) -> None:
    name, agreement = _agreement(forger)
    signed = agreements.sign_agreement(agreement, forger.keys[agreement.holder])
    forger.documents[name] = signed.to_bytes()
    assert failing(forger.audit(done.roots)) >= {"agreement.signed", "agreement.finalised"}


def test_an_agreement_signed_with_a_key_of_the_hubs_is_found(done: Audited, forger: Forger) -> None:
    name, agreement = _agreement(forger)
    signed = agreements.sign_agreement(agreement, forger.keys[agreement.holder])
    forged = signed.with_signature(SigningKey.generate())
    forger.documents[name] = forged.to_bytes()
    assert "agreement.signed" in failing(forger.audit(done.roots))


def test_terms_outside_the_products_rule_are_found(done: Audited, forger: Forger) -> None:
    forger.terms(lambda t: replace(t, purposes=("research", "marketing")))
    assert "agreement.product" in failing(forger.audit(done.roots))


def test_an_agreement_that_became_final_after_its_plan_is_found(
    done: Audited, forger: Forger
) -> None:
    """What relies on it is that the operator held the price, which may have waited for it."""
    final = forger.drafts.pop(forger.place("negotiation.finalized", done.id("lab")))
    held = forger.place("funds.held")
    forger.drafts.insert(held, final)
    assert failing(forger.audit(done.roots)) == set()
    forger.drafts.insert(held + 1, forger.drafts.pop(held))
    assert "agreement.finalised" in failing(forger.audit(done.roots))


# Plan and admission


def test_a_plan_that_its_consumer_did_not_sign_is_found(done: Audited, forger: Forger) -> None:
    name, plan = forger.plan()
    altered = replace(plan, work=replace(plan.query, gate=Gate(6)))
    forged = plans.sign_plan(altered, SigningKey.generate())
    forger.swap_document(name, forged.to_bytes())
    report = forger.audit(done.roots)
    assert {"job.replayed", "money.held"} <= failing(report)
    assert "no submission of it counts" in report.to_text(ENGLISH)


def test_a_plan_altered_after_its_admission_is_found(done: Audited, forger: Forger) -> None:
    """The consumer and the operator agree on another plan than the holders admitted."""
    _, plan = forger.plan()
    other = plans.sign_plan(
        replace(plan, work=replace(plan.query, gate=Gate(7))), forger.keys[plan.consumer]
    )
    forger.documents[other.payload_digest] = other.to_bytes()
    place = forger.place("job.submitted")
    forger.change(place, outputs=(other.payload_digest,))
    report = forger.audit(done.roots)
    assert "job.admitted" in failing(report)


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        (lambda p: replace(p, work=replace(p.query, gate=Gate(2))), "plan.rules"),
        (lambda p: replace(p, purpose="marketing"), "plan.rules"),
        (lambda p: _filtered(p), "plan.rules"),
        (lambda p: _priced(p), "plan.rules"),
        (lambda p: replace(p, learns={**p.learns, p.consumer: "Nothing."}), "plan.learns"),
        (lambda p: replace(p, operator=p.sides[0].holder), "plan.signed"),
        (lambda p: _other_document(p), "plan.signed"),
        (lambda p: replace(p, run_by=START + timedelta(days=40)), "job.admitted"),
        (lambda p: _running_out(p, timedelta(minutes=16)), "job.admitted"),
        (lambda p: replace(p, currency="\x1b[2J"), "money.amounts"),
    ],
)
def test_a_plan_that_everybody_went_along_with_is_judged_all_the_same(
    done: Audited, forger: Forger, change: Callable[[Plan], Plan], fails: str
) -> None:
    forger.change_plan(change)
    assert fails in failing(forger.audit(done.roots))


def test_an_admission_by_a_clock_that_differs_as_clocks_may_is_none_that_came_too_late(
    done: Audited, forger: Forger
) -> None:
    """The hub goes by its own: else a holder whose clock is ahead, or who says so, would make the
    deal fail for whoever pays it."""
    forger.change_plan(lambda plan: _running_out(plan, timedelta(minutes=9)))
    assert failing(forger.audit(done.roots)) == set()


def test_a_plan_under_other_agreements_than_submitted_is_found(
    done: Audited, forger: Forger
) -> None:
    place = forger.place("job.submitted")
    first, *_ = forger.drafts[place].statement.inputs
    forger.change(place, inputs=(first,))
    assert "job.replayed" in failing(forger.audit(done.roots))


def test_an_admission_of_another_plan_is_found(done: Audited, forger: Forger) -> None:
    place = forger.place("job.admitted", done.id("lab"))
    other, _ = forger.plan(nth=1)
    forger.change(place, inputs=(other,))
    report = forger.audit(done.roots)
    assert "job.admitted" in failing(report)
    (check,) = [c for c in report.failed if c.id == "job.admitted"]
    assert "about another plan" in check.words(ENGLISH)


def test_an_admission_under_another_agreement_is_found(done: Audited, forger: Forger) -> None:
    place = forger.place("job.admitted", done.id("lab"))
    clinic = forger.drafts[forger.place("job.admitted", done.id("clinic"))].statement
    forger.change(place, policy_digest=clinic.policy_digest)
    assert "job.admitted" in failing(forger.audit(done.roots))


# Running and releasing


def test_a_release_of_the_result_before_the_last_receipt_is_found(
    done: Audited, forger: Forger
) -> None:
    released = forger.drafts.pop(forger.place("job.released"))
    forger.drafts.insert(forger.place("job.sealed", nth=1), released)
    assert {"job.replayed", "entry.after"} <= failing(forger.audit(done.roots))


def test_a_result_released_without_naming_a_receipt_is_found(done: Audited, forger: Forger) -> None:
    place = forger.place("job.released")
    forger.change(place, after=forger.drafts[place].statement.after[:1])
    assert "job.replayed" in failing(forger.audit(done.roots))


@pytest.mark.parametrize("field", ["gate", "software", "lock", "peer", "bytes_out"])
def test_a_receipt_that_does_not_say_what_it_must_is_found(
    done: Audited, forger: Forger, field: str
) -> None:
    place = forger.place("job.sealed", done.id("lab"))
    body = {k: v for k, v in forger.drafts[place].statement.body.items() if not k.startswith(field)}
    forger.change(place, body=body)
    assert failing(forger.audit(done.roots)) == {"job.receipt"}


def test_a_receipt_of_a_link_to_another_peer_is_found(done: Audited, forger: Forger) -> None:
    place = forger.place("job.sealed", done.id("lab"))
    body = forger.drafts[place].statement.body
    peer = f"peer.{done.id('clinic')}"
    forger.change(place, body={**body, peer: SigningKey.generate().public.fingerprint})
    assert failing(forger.audit(done.roots)) == {"job.receipt"}


@pytest.mark.parametrize(("before", "after"), [(0, 1), (2, 3), (1, 3), (-1, 0)])
def test_a_budget_that_was_set_back_or_skips_is_found(
    done: Audited, forger: Forger, before: int, after: int
) -> None:
    """The lab's second run, of two: its count can only have gone from 1 to 2."""
    place = forger.place("job.sealed", done.id("lab"), nth=1)
    _recommit(forger, place, lambda use: replace(use, runs_before=before, runs_after=after))
    assert failing(forger.audit(done.roots)) == {"receipt.opened"}


@pytest.mark.parametrize("epsilon", ["1/4", "1e999999999", "1/0", "-1/4", "٣"])
def test_epsilon_that_does_not_add_up_is_found(done: Audited, forger: Forger, epsilon: str) -> None:
    place = forger.place("job.sealed", done.id("lab"))
    _recommit(forger, place, lambda use: replace(use, epsilon_after=epsilon))
    assert failing(forger.audit(done.roots)) == {"receipt.opened"}


def test_a_receipts_opening_that_is_not_what_it_committed_to_is_found(
    done: Audited, forger: Forger
) -> None:
    place = forger.place("job.sealed", done.id("lab"))
    opening = forger.drafts[place].opening
    assert opening is not None
    plain = record.from_bytes(ReceiptOpenings, opening)
    snapshot = replace(plain.commitments["snapshot"], value=bytes(32))
    for commitments in ({**plain.commitments, "snapshot": snapshot}, {"snapshot": snapshot}):
        forger.reopen(place, record.to_bytes(replace(plain, commitments=commitments)))
        assert failing(forger.audit(done.roots)) == {"receipt.opened"}


@pytest.mark.parametrize("kind", ["job.sealed", "funds.held"])
def test_an_opening_that_is_owed_and_missing_or_sealed_to_nobody_is_found(
    done: Audited, kind: str
) -> None:
    fails = "receipt.opened" if kind == "job.sealed" else "money.amounts"
    statement = next(e.digest for e in _said(done.bundle) if e.statement.type == kind)
    key = (statement, done.id("regulator"))
    openings = bundles.read(done.bundle).openings
    gone = {k: v for k, v in openings.items() if k != key}
    assert failing(altered(done, lambda b: replace(b, openings=gone))) == {fails}
    broken = {**openings, key: openings[key][:-1] + b"\x00\x01"}
    assert failing(altered(done, lambda b: replace(b, openings=broken))) == {fails}


def test_more_jobs_than_the_agreement_allows_are_found(done: Audited, forger: Forger) -> None:
    forger.terms(lambda t: replace(t, runs=1))
    report = forger.audit(done.roots)
    assert failing(report) == {"agreement.runs", "receipt.opened"}
    assert "2 of 1 runs" in report.to_text(ENGLISH)


def test_more_epsilon_than_the_agreement_allows_is_found(done: Audited, forger: Forger) -> None:
    forger.terms(lambda t: replace(t, epsilon=Fraction(1, 2)))
    forger.change_plan(lambda p: _with_noise(p, Fraction(1, 4)))
    forger.change_plan(lambda p: _with_noise(p, Fraction(1, 3)), nth=1)
    assert "agreement.runs" in failing(forger.audit(done.roots))


# Money


def test_a_payment_before_the_receipts_is_found(done: Audited, forger: Forger) -> None:
    paid = forger.drafts.pop(forger.place("funds.released"))
    forger.drafts.insert(forger.place("job.sealed"), paid)
    assert "money.settled" in failing(forger.audit(done.roots))


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_a_payment_that_does_not_rely_on_every_receipt_and_the_release_is_found(
    done: Audited, forger: Forger, left_out: int
) -> None:
    place = forger.place("funds.released")
    after = forger.drafts[place].statement.after
    assert len(after) == 3
    forger.change(place, after=after[:left_out] + after[left_out + 1 :])
    assert failing(forger.audit(done.roots)) == {"money.settled"}


def test_a_payment_before_its_evidence_was_witnessed_is_found(
    done: Audited, forger: Forger
) -> None:
    forger.witnessed_every = len(forger.drafts)
    report = forger.audit(done.roots)
    assert failing(report) == {"money.settled"}
    assert "no witnessed head" in report.to_text(ENGLISH)


@pytest.mark.parametrize("kind", ["funds.held", "funds.released"])
def test_money_that_moves_twice_for_one_job_is_found(
    done: Audited, forger: Forger, kind: str
) -> None:
    place = forger.place(kind)
    forger.drafts.insert(place + 1, replace(forger.drafts[place], was=digest(b"twice")))
    fails = "money.held" if kind == "funds.held" else "money.settled"
    assert fails in failing(forger.audit(done.roots))


def test_a_refund_of_a_job_that_was_paid_is_found(done: Audited, forger: Forger) -> None:
    place = forger.place("funds.released")
    refund = replace(forger.drafts[place].statement, type="funds.refunded")
    forger.drafts.insert(
        place + 1, replace(forger.drafts[place], statement=refund, was=digest(b"refund"))
    )
    assert "money.settled" in failing(forger.audit(done.roots))


def test_money_that_somebody_else_says_it_moved_is_found(done: Audited, forger: Forger) -> None:
    forger.change(forger.place("funds.held"), actor=done.id("research"))
    assert "money.held" in failing(forger.audit(done.roots))


@pytest.mark.parametrize("kind", ["funds.held", "funds.released"])
@pytest.mark.parametrize("leg", [0, -1])
def test_an_amount_that_is_not_the_agreed_price_is_found(
    done: Audited, forger: Forger, kind: str, leg: int
) -> None:
    """The operator commits to it, so it opens; and it is not what the agreements say."""

    def more(movement: Movement) -> Movement:
        legs = list(movement.legs)
        legs[leg] = replace(legs[leg], amount_minor=Amount(legs[leg].amount_minor + 1))
        return replace(movement, legs=tuple(legs))

    _recommit_money(forger, forger.place(kind), more)
    report = forger.audit(done.roots)
    assert failing(report) == {"money.amounts"}
    assert "must be" in report.failed[0].words(ENGLISH)


def test_a_payment_to_another_party_is_found(done: Audited, forger: Forger) -> None:
    lab, clinic = str(done.id("lab")), str(done.id("clinic"))

    def divert(movement: Movement) -> Movement:
        legs = tuple(replace(g, credit=g.credit.replace(lab, clinic)) for g in movement.legs)
        return replace(movement, legs=legs)

    _recommit_money(forger, forger.place("funds.released"), divert)
    assert failing(forger.audit(done.roots)) == {"money.amounts"}


def test_an_opening_with_another_amount_than_committed_is_found(
    done: Audited, forger: Forger
) -> None:
    place = forger.place("funds.held")
    opening = forger.drafts[place].opening
    assert opening is not None
    forger.reopen(place, opening.replace(b'"amount_minor":"2000"', b'"amount_minor":"2001"'))
    assert failing(forger.audit(done.roots)) == {"money.amounts"}


def test_a_release_of_another_hold_is_found(done: Audited, forger: Forger) -> None:
    _recommit_money(
        forger, forger.place("funds.released"), lambda m: replace(m, hold="hold/another")
    )
    assert failing(forger.audit(done.roots)) == {"money.amounts"}


def test_a_job_without_a_result_that_is_not_refunded_is_found(
    fresh: tuple[World, Deal],
) -> None:
    world, deal = fresh
    job = deal.submit()
    world.settle()
    world.members["clinic"].desk.refuse(job, "not today")
    world.settle()
    forger = Forger.of(world, export(world, deal))
    assert forger.audit(roots_of(world)).failed == ()
    del forger.drafts[forger.place("funds.refunded")]
    assert failing(forger.audit(roots_of(world))) == {"money.settled"}


# The command


@pytest.fixture
def files(done: Audited, tmp_path: Path) -> Path:
    (tmp_path / "deal.zip").write_bytes(done.bundle)
    lines = [f"fingerprint {text}" for text in sorted(done.roots.fingerprints)]
    (tmp_path / "roots").write_text("# everybody\n" + "\n".join(lines) + "\n")
    log, witness = done.world.policy.logs[0].key, done.world.witness.key
    (tmp_path / "policy").write_text(f"log {log}\nwitness w {witness}\nquorum w\n")
    write_key(tmp_path / "sealing.key", done.world.members["regulator"].folder.sealing)
    return tmp_path


def arguments(files: Path, *more: str) -> list[str]:
    base = ["deal", str(files / "deal.zip"), "--policy", str(files / "policy")]
    return [*base, "--roots", str(files / "roots"), *more]


def test_the_command_opens_with_a_key_prints_json_and_exits_with_zero(
    done: Audited, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = ["--open-with", str(files / "sealing.key"), "--party", done.id("regulator")]
    assert main(arguments(files, "--json", *key)) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["failed"] == 0
    assert value["not_opened"] == 1
    assert {"id", "passed", "subject", "words"} == set(value["checks"][0])
    assert value["story"] and value["not_proved"]


def test_the_command_speaks_chinese(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(files, "--language", "zh-CN")) == 0
    out = capsys.readouterr().out
    assert "没有未通过的检查" in out
    assert "What was shown" not in out


def test_the_command_exits_with_one_when_a_check_fails(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (files / "roots").read_text().splitlines(keepends=True)
    (files / "roots").write_text("".join(lines[:-1]))
    assert main(arguments(files)) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "party.trusted" in out


def test_the_command_exits_with_two_when_it_can_use_nothing(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(files, "--open-with", str(files / "sealing.key"))) == 2
    assert main(["deal", "/nowhere", *arguments(files)[2:]]) == 2
    (files / "deal.zip").write_bytes(b"PK nothing")
    assert main(arguments(files)) == 2
    assert "not a readable zip" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["deal"])
    assert stopped.value.code == 2


# Helpers


@dataclass(frozen=True)
class _Entry:
    index: int
    digest: Digest
    statement: Statement


def _said(bundle: bytes) -> list[_Entry]:
    found = sorted(bundles.read(bundle).entries.items())
    read = [(index, read_statement(entry)) for index, entry in found]
    return [_Entry(index, signed.digest, signed.statement) for index, signed in read]


def _opener(world: World) -> Opener:
    regulator = world.members["regulator"]
    return Opener(regulator.id, regulator.folder.sealing)


def _without(bundle: Bundle, index: int) -> Bundle:
    return replace(
        bundle,
        entries={i: e for i, e in bundle.entries.items() if i != index},
        proofs={i: p for i, p in bundle.proofs.items() if i != index},
    )


def _envelope(data: bytes) -> Envelope | None:
    return Envelope.from_bytes(data) if data.startswith(b'{"payload":') else None


def _agreement(forger: Forger) -> tuple[Digest, Agreement]:
    for name, data in forger.documents.items():
        envelope = _envelope(data)
        if envelope is not None and envelope.payload_type == agreements.PAYLOAD_TYPE:
            return name, agreements.read_agreement(envelope)
    raise LookupError("agreement")


def _member(document: PartyDocument, name: str) -> bytes:
    return _member_of(getattr(document, name))


def _member_of(value: object) -> bytes:
    return record.to_bytes((value,))[1:-1]


def _with_noise(plan: Plan, epsilon: Fraction) -> Plan:
    spare = Fraction(1, 10**9)
    noise = Noise(Distribution.LAPLACE, epsilon, spare, None, (), spare)
    return replace(plan, work=replace(plan.query, noise=noise))


IS_P001 = Compare(Comparator.EQUAL, ColumnValue("person"), Text("p001"))


def _running_out(plan: Plan, ago: timedelta) -> Plan:
    """To be admitted at the latest so long before it was."""
    began = plan.created_at - timedelta(hours=1)
    return replace(plan, created_at=began, run_by=plan.created_at - ago)


def _filtered(plan: Plan) -> Plan:
    first, second = plan.sides
    return replace(plan, sides=(replace(first, where=IS_P001), second))


def _priced(plan: Plan) -> Plan:
    first, second = plan.sides
    return replace(plan, sides=(replace(first, price_minor=Amount(1)), second))


def _other_document(plan: Plan) -> Plan:
    return replace(plan, consumer_document=plan.sides[0].holder_document)


def _recommit(forger: Forger, place: int, change: Callable[[BudgetUse], BudgetUse]) -> None:
    """The holder commits to another budget, and seals that opening."""
    opening = forger.drafts[place].opening
    assert opening is not None
    plain = record.from_bytes(ReceiptOpenings, opening)
    budget = plain.commitments["budget"]
    use = change(record.from_bytes(BudgetUse, budget.value))
    budget = replace(budget, value=record.to_bytes(use))
    opened = {**plain.commitments, "budget": budget}
    forger.reopen(place, record.to_bytes(replace(plain, commitments=opened)))
    committed = {name: commit(o.salt, o.value) for name, o in opened.items()}
    forger.change(place, commitments=committed)


def _recommit_money(forger: Forger, place: int, change: Callable[[Movement], Movement]) -> None:
    """The operator commits to another movement, and seals that opening."""
    opening = forger.drafts[place].opening
    assert opening is not None
    movement = change(record.from_bytes(Movement, opening))
    forger.reopen(place, record.to_bytes(movement))
    forger.change(place, commitments={"movement": movement.commitment()})
