"""The audit of a whole log, of keys: whose key was in force where, of participants and of the log.

Each log here is written by an operator who signs whatever helps it, with every key that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.digest import Digest, digest
from crypto.identifiers import PartyId
from crypto.keys import ExchangeKey, SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, sign_statement
from exchange.audit import whole
from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.audit.whole import FolderDocuments, audit_whole_log
from exchange.query.explanation import Language
from ledger.verify.report import Report
from registry.evidence import REGISTERED, UPDATED
from registry.party import PartyDocument, Role, SignedParty, party_id, sign_party
from tests.written_logs import WrittenLog

START = datetime(2026, 3, 4, tzinfo=UTC)


@dataclass
class Party:
    """Somebody with an identity, and whatever signing keys the test gives it."""

    name: str
    identity: SigningKey = field(default_factory=SigningKey.generate)
    head: ChainHead = field(default_factory=ChainHead)

    @property
    def id(self) -> PartyId:
        return party_id(self.identity.public)

    def document(self, signing: SigningKey, after: SignedParty | None = None) -> SignedParty:
        document = PartyDocument(
            v=1,
            party=self.id,
            name=self.name,
            roles=(Role.HOLDER,),
            seq=0 if after is None else after.document.seq + 1,
            previous=None if after is None else after.digest,
            identity=self.identity.public,
            signing=signing.public,
            sealing=ExchangeKey.generate().public,
            agreement=ExchangeKey.generate().public,
            tls_certificate=b"certificate",
            valid_from=START,
        )
        return sign_party(document, self.identity)


@dataclass
class Exchange:
    """A log in which an operator and a victim are registered; a minute passes per entry."""

    log: WrittenLog
    documents: Path
    operator: Party = field(default_factory=lambda: Party("Operator"))
    victim: Party = field(default_factory=lambda: Party("Clinic"))
    key: SigningKey = field(default_factory=SigningKey.generate)  # the operator's
    keys: tuple[SigningKey, ...] = field(
        default_factory=lambda: tuple(SigningKey.generate() for _ in range(3))
    )
    entries: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.announce(self.operator, self.operator.document(self.key), self.key)
        self.first = self.victim.document(self.keys[0])
        self.second = self.victim.document(self.keys[1], self.first)
        self.third = self.victim.document(self.keys[2], self.second)
        self.announce(self.victim, self.first, self.keys[0])

    def announce(
        self, party: Party, document: SignedParty, key: SigningKey, *, kind: str = ""
    ) -> None:
        kind = kind or (UPDATED if document.document.seq else REGISTERED)
        self.serve(document)
        self.say(party, Act(kind, party.id, outputs=(document.digest,)), key)

    def serve(self, document: SignedParty) -> None:
        self.documents.mkdir(exist_ok=True)
        file = self.documents / document.digest.raw.hex()
        file.write_bytes(document.envelope.to_bytes())

    def withhold(self, document: SignedParty) -> None:
        (self.documents / document.digest.raw.hex()).unlink()

    def hide(self, name: Digest) -> None:
        """An announcement of a document that nobody serves, signed by whoever logs it."""
        act = Act(UPDATED, self.victim.id, outputs=(name,))
        self.say(self.victim, act, SigningKey.generate())

    def say(
        self,
        party: Party,
        act: Act,
        key: SigningKey,
        *,
        dated: timedelta = timedelta(),
    ) -> Digest:
        signed = sign_statement(
            act,
            actor=party.id,
            head=party.head,
            signer=key,
            now=START + timedelta(minutes=len(self.entries)) + dated,
            randomness=SystemRandomness(),
        )
        party.head = signed.head
        self.entries.append(signed.entry)
        return signed.digest

    def audit(self) -> Report:
        heads = {
            size: START + timedelta(minutes=size, seconds=-30)
            for size in range(1, len(self.entries))
        }
        end = START + timedelta(minutes=len(self.entries))
        self.log.write(self.entries, heads, end)
        roots = frozenset(p.identity.public.fingerprint for p in (self.operator, self.victim))
        documents = FolderDocuments(self.documents)
        return audit_whole_log(str(self.log.folder), self.log.policy, Roots(roots, ()), documents)


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange(WrittenLog(tmp_path / "log"), tmp_path / "documents")


def failing(report: Report) -> set[tuple[str, str]]:
    return {(check.id, check.subject) for check in report.failed}


def unopened(report: Report) -> set[tuple[str, str]]:
    return {
        (check.id, check.subject)
        for check in report.not_opened
        if check.id in ("entry.signed", "party.document", "actor.chain", "job.public")
    }


def passed(report: Report, check: str) -> str:
    (found,) = [c for c in report.passed if c.id == check]
    return found.words(VOICES[Language.ENGLISH])


DEED = Act("alarm.raised", "something")


# Keys of participants


def test_every_key_is_good_from_its_document_to_the_next(exchange: Exchange) -> None:
    exchange.say(exchange.victim, DEED, exchange.keys[0])
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.say(exchange.victim, DEED, exchange.keys[1])
    report = exchange.audit()
    assert report.failed == ()
    assert unopened(report) == set()


def test_a_revoked_key_is_refused(exchange: Exchange) -> None:
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.say(exchange.victim, DEED, exchange.keys[0])
    assert failing(exchange.audit()) == {("entry.signed", "entry 3 alarm.raised")}


@pytest.mark.parametrize("kind", [REGISTERED, UPDATED])
def test_a_revoked_key_does_not_come_back_behind_a_document_that_nobody_serves(
    exchange: Exchange, kind: str
) -> None:
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.hide(digest(b"nothing"))
    exchange.announce(exchange.victim, exchange.first, exchange.keys[0], kind=kind)
    exchange.say(exchange.victim, DEED, exchange.keys[0])
    report = exchange.audit()
    assert failing(report) == {("party.document", f"entry 4 {kind}")}
    assert ("entry.signed", "entry 5 alarm.raised") in unopened(report)
    assert passed(report, "party.document").endswith("3 times")


def test_a_document_that_comes_again_is_a_failure_without_any_gap(exchange: Exchange) -> None:
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.announce(exchange.victim, exchange.first, exchange.keys[0])
    exchange.say(exchange.victim, DEED, exchange.keys[0])
    assert failing(exchange.audit()) == {
        ("party.document", f"entry 3 {REGISTERED}"),
        ("entry.signed", "entry 4 alarm.raised"),
    }


def test_what_anybody_may_have_signed_takes_no_place_in_the_victims_chain(
    exchange: Exchange,
) -> None:
    """A thief speaks in the gap; when the victim speaks again, its chain is its own."""
    before = exchange.victim.head
    exchange.hide(digest(b"nothing"))
    exchange.say(exchange.victim, DEED, SigningKey.generate())
    exchange.victim.head = before
    exchange.serve(exchange.second)
    exchange.announce(exchange.victim, exchange.third, exchange.keys[2])
    exchange.say(exchange.victim, DEED, exchange.keys[2])
    report = exchange.audit()
    assert report.failed == ()
    assert unopened(report) == {
        ("entry.signed", f"entry 2 {UPDATED}"),
        ("entry.signed", "entry 3 alarm.raised"),
    }


def test_after_a_gap_the_chain_goes_on_where_nobody_can_see_it(exchange: Exchange) -> None:
    """A document is merely not at hand: nothing is wrong, and what it would show is not shown."""
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.say(exchange.victim, DEED, exchange.keys[1])
    exchange.announce(exchange.victim, exchange.third, exchange.keys[2])
    exchange.say(exchange.victim, DEED, exchange.keys[2])
    exchange.withhold(exchange.second)
    report = exchange.audit()
    assert report.failed == ()
    assert ("actor.chain", f"entry 4 {UPDATED}") in unopened(report)
    assert ("entry.signed", "entry 5 alarm.raised") not in unopened(report)


def test_more_numbers_than_unread_statements_are_missing_all_the_same(exchange: Exchange) -> None:
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    for _ in range(2):
        exchange.say(exchange.victim, DEED, exchange.keys[1])
    del exchange.entries[-1]
    exchange.announce(exchange.victim, exchange.third, exchange.keys[2])
    exchange.withhold(exchange.second)
    assert failing(exchange.audit()) == {("actor.chain", f"entry 4 {UPDATED}")}


def test_the_next_document_after_a_gap_may_be_the_one_that_is_missing(exchange: Exchange) -> None:
    exchange.hide(digest(b"nothing"))
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.say(exchange.victim, DEED, exchange.keys[1])
    report = exchange.audit()
    assert report.failed == ()
    assert ("party.document", f"entry 3 {UPDATED}") in unopened(report)
    assert ("entry.signed", "entry 4 alarm.raised") in unopened(report)


def test_a_document_under_the_wrong_word_has_no_effect_and_accuses_nobody(
    exchange: Exchange,
) -> None:
    """Any participant can say it, and the hub logs it without effect."""
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1], kind=REGISTERED)
    exchange.say(exchange.victim, DEED, exchange.keys[0])
    report = exchange.audit()
    assert report.failed == ()
    assert unopened(report) == {("party.document", f"entry 2 {REGISTERED}")}


def test_a_step_that_anybody_may_have_signed_is_nobodys_step(exchange: Exchange) -> None:
    """A job that the operator says it holds the price for: nobody is known to have asked."""
    job = "job_" + "0" * 32
    exchange.hide(digest(b"nothing"))
    plan, agreement = digest(b"plan"), digest(b"agreement")
    asked = Act("job.submitted", job, inputs=(agreement,), outputs=(plan,))
    after = exchange.say(exchange.victim, asked, SigningKey.generate())
    held = Act("funds.held", job, after=(after,), inputs=(plan, agreement))
    exchange.say(exchange.operator, held, exchange.key)
    report = exchange.audit()
    assert report.failed == ()
    assert ("job.public", "entry 4 funds.held") in unopened(report)
    assert "job.public" not in {check.id for check in report.passed}
    del exchange.entries[2:4]  # with nothing of the kind in the log, it is the operator's failure
    assert ("job.public", "entry 2 funds.held") in failing(exchange.audit())


# Late statements


@pytest.fixture
def two_are_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(whole, "MAX_LATE", 2)
    yield


@pytest.mark.usefixtures("two_are_remembered")
@pytest.mark.parametrize(("more", "judged"), [(1, True), (2, False)])
def test_late_statements_that_were_forgotten_are_said_to_be_not_judged(
    exchange: Exchange, more: int, judged: bool
) -> None:
    for _ in range(20):
        exchange.say(exchange.operator, DEED, exchange.key)
    old = timedelta(minutes=-20)
    late = exchange.say(exchange.victim, DEED, exchange.keys[0], dated=old)
    for _ in range(more):
        exchange.say(exchange.victim, DEED, exchange.keys[0], dated=old)
    exchange.say(exchange.operator, Act("alarm.raised", "x", after=(late,)), exchange.key)
    report = exchange.audit()
    assert (("entry.time", "entry 22 alarm.raised") in failing(report)) is judged
    notes = [check.words(VOICES[Language.ENGLISH]) for check in report.not_opened]
    assert any("more than 2 statements came late" in words for words in notes) is not judged
