"""The audit of a whole log, of keys: whose key was in force where, of participants and of the log.

Each log here is written by an operator who signs whatever helps it, with every key that it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.digest import Digest, digest
from crypto.identifiers import PartyId
from crypto.keys import ExchangeKey, SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, sign_statement
from exchange.audit import whole
from exchange.audit.alerts import Kind
from exchange.audit.follow import MAX_UNHEARD, Follower
from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.audit.whole import FolderDocuments, audit_whole_log
from exchange.query.explanation import Language
from ledger.errors import KeysRefused
from ledger.evidence import log_keys_declared, policy_adopted
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign
from ledger.verify.history import LogKeys, SignedLogKeys, sign_log_keys
from ledger.verify.log import audit_log
from ledger.verify.note import Note, log_key
from ledger.verify.report import Report
from ledger.verify.tiles import FolderSource
from registry.evidence import REGISTERED, UPDATED
from registry.party import PartyDocument, Role, SignedParty, party_id, sign_party
from tests.written_logs import ORIGIN, WITNESS, WrittenLog

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
        self.own = self.operator.document(self.key)
        self.announce(self.operator, self.own, self.key)
        self.first = self.victim.document(self.keys[0])
        self.second = self.victim.document(self.keys[1], self.first)
        self.third = self.victim.document(self.keys[2], self.second)
        self.announce(self.victim, self.first, self.keys[0])

    @property
    def parties(self) -> tuple[Party, Party]:
        return self.operator, self.victim

    @property
    def roots(self) -> Roots:
        return Roots(frozenset(p.identity.public.fingerprint for p in self.parties), ())

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
        documents = FolderDocuments(self.documents)
        return audit_whole_log(str(self.log.folder), self.log.policy, self.roots, documents)


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


DEED = Act("deed.done", "something")


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
    assert failing(exchange.audit()) == {("entry.signed", "entry 3 deed.done")}


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
    assert ("entry.signed", "entry 5 deed.done") in unopened(report)
    assert passed(report, "party.document").endswith("3 times")


def test_a_document_that_comes_again_is_a_failure_without_any_gap(exchange: Exchange) -> None:
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.announce(exchange.victim, exchange.first, exchange.keys[0])
    exchange.say(exchange.victim, DEED, exchange.keys[0])
    assert failing(exchange.audit()) == {
        ("party.document", f"entry 3 {REGISTERED}"),
        ("entry.signed", "entry 4 deed.done"),
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
        ("entry.signed", "entry 3 deed.done"),
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
    assert ("entry.signed", "entry 5 deed.done") not in unopened(report)


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
    assert ("entry.signed", "entry 4 deed.done") in unopened(report)


def test_a_document_under_the_wrong_word_has_no_effect_and_accuses_nobody(
    exchange: Exchange,
) -> None:
    """Any participant can say it, and the hub logs it without effect."""
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1], kind=REGISTERED)
    exchange.say(exchange.victim, DEED, exchange.keys[0])
    report = exchange.audit()
    assert report.failed == ()
    assert unopened(report) == {("party.document", f"entry 2 {REGISTERED}")}


def test_an_operator_that_hides_a_document_of_its_own_fails(exchange: Exchange) -> None:
    """Else it could do whatever it likes from there on, and nothing of it would be judged."""
    hidden = Act(UPDATED, exchange.operator.id, outputs=(digest(b"served to nobody"),))
    exchange.say(exchange.operator, hidden, exchange.key)
    paid = Act("funds.released", "job_" + "0" * 32, inputs=(digest(b"plan"),))
    exchange.say(exchange.operator, paid, exchange.key)
    assert failing(exchange.audit()) == {("party.document", f"entry 2 {UPDATED}")}
    assert alerted(exchange, following(exchange)) == [(Kind.MISSING, exchange.operator.id)]
    exchange.withhold(exchange.own)
    assert ("party.document", f"entry 0 {REGISTERED}") in failing(exchange.audit())


@pytest.mark.parametrize("first", ["deed.done", UPDATED])
def test_a_log_begins_with_its_operators_registration(exchange: Exchange, first: str) -> None:
    """Or nobody would be its operator, and no payment would be judged."""
    exchange.entries.clear()
    exchange.operator.head = exchange.victim.head = ChainHead()
    if first == UPDATED:
        exchange.announce(exchange.operator, exchange.own, exchange.key, kind=UPDATED)
    else:
        exchange.say(exchange.operator, DEED, exchange.key)
    exchange.announce(exchange.operator, exchange.own, exchange.key)
    paid = Act("funds.released", "job_" + "0" * 32, inputs=(digest(b"plan"),))
    exchange.say(exchange.operator, paid, exchange.key)
    report = exchange.audit()
    assert failing(report) == {("party.document", f"entry 0 {first}")}
    assert alerted(exchange, following(exchange))[0] == (Kind.FORGED, f"entry 0 {first}")


@pytest.mark.parametrize("spoil", ["other bytes", "its signature", "another's document"])
def test_other_bytes_in_a_documents_place_are_nobodys_word(exchange: Exchange, spoil: str) -> None:
    """A captive portal, or a server that spoils a signature: of the party they show nothing."""
    exchange.say(exchange.victim, DEED, SigningKey.generate())
    follower = following(exchange)
    genuine = exchange.first.envelope
    unsigned = replace(genuine, signatures=tuple((key, bytes(64)) for key, _ in genuine.signatures))
    served = {
        "other bytes": b"<html>busy</html>",
        "its signature": unsigned.to_bytes(),
        "another's document": exchange.own.envelope.to_bytes(),
    }[spoil]
    (exchange.documents / exchange.first.digest.raw.hex()).write_bytes(served)
    report = exchange.audit()
    assert report.failed == ()
    assert ("entry.signed", f"entry 1 {REGISTERED}") in unopened(report)
    assert alerted(exchange, follower) == [(Kind.MISSING, exchange.victim.id)]
    exchange.serve(exchange.first)
    assert alerted(exchange, follower) == [(Kind.FORGED, "entry 2 deed.done")]
    follower.close()
    own = exchange.documents / exchange.own.digest.raw.hex()
    own.write_bytes(b"<html>busy</html>")  # which the operator serves itself
    assert ("party.document", f"entry 0 {REGISTERED}") in failing(exchange.audit())


def test_a_genuine_document_of_another_party_is_its_announcers_fault(exchange: Exchange) -> None:
    act = Act(UPDATED, exchange.victim.id, outputs=(exchange.own.digest,))
    exchange.say(exchange.victim, act, exchange.keys[0])
    assert ("party.document", f"entry 2 {UPDATED}") in failing(exchange.audit())


def following(exchange: Exchange) -> Follower:
    return Follower(
        FolderSource(exchange.log.folder),
        exchange.log.policy,
        exchange.roots,
        FolderDocuments(exchange.documents),
    )


def alerted(exchange: Exchange, follower: Follower) -> list[tuple[Kind, str]]:
    exchange.audit()
    return [(alert.kind, alert.subject) for alert in follower.look(START)]


def test_whoever_follows_is_told_once_of_each_party_that_cannot_be_judged(
    exchange: Exchange,
) -> None:
    exchange.hide(digest(b"nothing"))
    for _ in range(3):
        exchange.say(exchange.victim, DEED, SigningKey.generate())
    follower = following(exchange)
    assert alerted(exchange, follower) == [(Kind.MISSING, exchange.victim.id)]
    exchange.say(exchange.victim, DEED, SigningKey.generate())
    assert alerted(exchange, follower) == []
    made_up = [Party(f"nobody {n}") for n in range(MAX_UNHEARD + 5)]
    for nobody in made_up:
        exchange.say(nobody, DEED, SigningKey.generate())
    found = alerted(exchange, follower)
    assert len(found) == MAX_UNHEARD
    assert found[-1] == (Kind.MISSING, "log")
    # With as many as it likes the operator does not hide that its own keys are unknown.
    hidden = Act(UPDATED, exchange.operator.id, outputs=(digest(b"served to nobody"),))
    exchange.say(exchange.operator, hidden, exchange.key)
    assert alerted(exchange, follower) == [(Kind.MISSING, exchange.operator.id)]
    follower.close()


def test_a_document_that_is_served_after_all_is_read_while_the_log_is_followed(
    exchange: Exchange,
) -> None:
    """And what was said under it is judged then, from the first entry on."""
    exchange.announce(exchange.victim, exchange.second, exchange.keys[1])
    exchange.say(exchange.victim, DEED, exchange.keys[1])
    exchange.say(exchange.victim, DEED, SigningKey.generate())
    exchange.withhold(exchange.second)
    follower = following(exchange)
    silent = [(Kind.MISSING, exchange.victim.id)]
    assert alerted(exchange, follower) == silent
    assert alerted(exchange, follower) == []
    exchange.serve(exchange.second)
    assert alerted(exchange, follower) == [(Kind.FORGED, "entry 4 deed.done")]
    assert alerted(exchange, follower) == []
    exchange.announce(exchange.victim, exchange.third, exchange.keys[2])
    exchange.withhold(exchange.third)
    assert alerted(exchange, follower) == silent  # it had ended, and returns
    follower.close()


def test_a_step_that_anybody_may_have_signed_is_nobodys_step(exchange: Exchange) -> None:
    """A job that the operator says it holds the price for: nobody is known to have asked."""
    job = "job_" + "0" * 32
    hidden = digest(b"nothing")
    exchange.hide(hidden)
    plan, agreement = digest(b"plan"), digest(b"agreement")
    asked = Act("job.submitted", job, inputs=(agreement, hidden), outputs=(plan,))
    after = exchange.say(exchange.victim, asked, SigningKey.generate())
    held = Act("funds.held", job, after=(after,), inputs=(plan, agreement))
    exchange.say(exchange.operator, held, exchange.key)
    report = exchange.audit()
    assert report.failed == ()
    assert ("job.public", "entry 4 funds.held") in unopened(report)
    assert "job.public" not in {check.id for check in report.passed}
    del exchange.entries[2:4]  # with nothing of the kind in the log, it is the operator's failure
    assert ("job.public", "entry 2 funds.held") in failing(exchange.audit())


# Keys of the log

OLD, NEW, RECOVERY, THIEF = (SigningKey.generate() for _ in range(4))


@dataclass
class RotatedLog(WrittenLog):
    """signers: who signs the heads from which size on. The policy lists the old key as well."""

    signers: dict[int, tuple[SigningKey, ...]] = field(default_factory=lambda: {0: (OLD,)})

    @property
    def policy_text(self) -> str:
        logs = "".join(f"log {log_key(ORIGIN, key)}\n" for key in (OLD, NEW))
        return logs + "".join(super().policy_text.splitlines(keepends=True)[1:])

    def sign(self, head: Checkpoint, at: datetime | None) -> Note:
        by = self.signers[max(size for size in self.signers if size <= head.size)]
        note = sign_checkpoint(head, *by)
        assert at is not None
        return note.with_signatures([cosign(note.text, WITNESS, self.witness, now=at)])


def keys_of(*keys: SigningKey, after: SignedLogKeys | None = None) -> LogKeys:
    return LogKeys(
        1,
        ORIGIN,
        0 if after is None else after.document.seq + 1,
        None if after is None else after.digest,
        tuple(str(log_key(ORIGIN, key)) for key in keys),
        RECOVERY.public,
        (),
    )


FIRST = sign_log_keys(keys_of(OLD), OLD, RECOVERY)
BOTH = sign_log_keys(keys_of(OLD, NEW, after=FIRST), OLD, NEW)
ALONE = sign_log_keys(keys_of(NEW, after=BOTH), NEW)
RESCUED = sign_log_keys(keys_of(NEW, after=FIRST), NEW, RECOVERY)
STOLEN = sign_log_keys(keys_of(THIEF, after=FIRST), THIEF)


@dataclass
class Rotating:
    """An exchange whose log declares its keys, one document after the other, a few entries each."""

    exchange: Exchange
    log: RotatedLog

    def declare(
        self, document: SignedLogKeys, before: SignedLogKeys | None, *, entries: int
    ) -> int:
        """The size of the first head that holds the declaration."""
        try:
            act = log_keys_declared(document, before)
        except KeysRefused:  # so says nobody but a thief
            act = replace(log_keys_declared(BOTH, FIRST), outputs=(document.digest,))
            act = replace(act, body={"document": document.envelope.to_bytes().decode()})
        self.exchange.say(self.exchange.operator, act, self.exchange.key)
        size = len(self.exchange.entries)
        for _ in range(entries):
            self.exchange.say(self.exchange.operator, DEED, self.exchange.key)
        return size


@pytest.fixture
def rotating(tmp_path: Path) -> Rotating:
    log = RotatedLog(tmp_path / "log")
    made = Rotating(Exchange(log, tmp_path / "documents"), log)
    made.declare(FIRST, None, entries=2)
    return made


def test_each_head_is_signed_by_the_keys_of_its_time(rotating: Rotating) -> None:
    both = rotating.declare(BOTH, FIRST, entries=2)
    alone = rotating.declare(ALONE, BOTH, entries=2)
    rotating.log.signers = {0: (OLD,), both: (OLD, NEW), alone: (NEW,)}
    report = rotating.exchange.audit()
    assert report.failed == ()
    heads = len(rotating.exchange.entries) - 2  # without the two before any key was declared
    assert passed(report, "log.keys").endswith(f"{heads + 3} times")


@pytest.mark.parametrize("only", [OLD, NEW])
def test_while_two_keys_are_in_force_a_head_carries_both_lines(
    rotating: Rotating, only: SigningKey
) -> None:
    both = rotating.declare(BOTH, FIRST, entries=2)
    rotating.log.signers = {0: (OLD,), both: (OLD, NEW), both + 1: (only,), both + 2: (OLD, NEW)}
    assert failing(rotating.exchange.audit()) == {("log.keys", f"head {both + 1}")}


def test_a_key_that_was_replaced_signs_no_later_head(rotating: Rotating) -> None:
    """The policy lists it still, so that heads of its time are accepted."""
    both = rotating.declare(BOTH, FIRST, entries=2)
    alone = rotating.declare(ALONE, BOTH, entries=2)
    rotating.log.signers = {0: (OLD,), both: (OLD, NEW), alone: (NEW,), alone + 2: (OLD,)}
    # The newest head, the checkpoint itself.
    assert failing(rotating.exchange.audit()) == {("log.keys", f"head {alone + 2}")}


def test_a_stolen_key_signs_no_head_after_its_recovery(rotating: Rotating) -> None:
    rescued = rotating.declare(RESCUED, FIRST, entries=2)
    rotating.log.signers = {0: (OLD,), rescued: (NEW,)}
    assert rotating.exchange.audit().failed == ()
    rotating.log.signers = {0: (OLD,)}
    assert failing(rotating.exchange.audit()) == {
        ("log.keys", f"head {size}") for size in range(rescued, rescued + 3)
    }


def test_keys_that_nobody_had_authority_to_declare_are_named_and_change_nothing(
    rotating: Rotating,
) -> None:
    stolen = rotating.declare(STOLEN, FIRST, entries=2)
    rotating.log.signers = {0: (OLD,), stolen + 1: (OLD, THIEF), stolen + 2: (OLD,)}
    report = rotating.exchange.audit()
    assert failing(report) == {("log.keys", f"entry {stolen - 1} log_keys.rotated")}


def test_a_policy_that_the_entry_does_not_hold_is_named(rotating: Rotating) -> None:
    policy = rotating.log.policy_text.encode()
    act = policy_adopted(ORIGIN, policy, None)
    rotating.exchange.say(rotating.exchange.operator, act, rotating.exchange.key)
    assert rotating.exchange.audit().failed == ()
    act = replace(act, body={"policy": "quorum none\n"})
    rotating.exchange.say(rotating.exchange.operator, act, rotating.exchange.key)
    (named,) = failing(rotating.exchange.audit())
    assert named == ("log.keys", f"entry {len(rotating.exchange.entries) - 1} log_policy.adopted")


def test_what_others_say_of_the_logs_keys_changes_nothing(rotating: Rotating) -> None:
    act = log_keys_declared(BOTH, FIRST)
    rotating.exchange.say(rotating.exchange.victim, act, rotating.exchange.keys[0])
    assert rotating.exchange.audit().failed == ()


def test_a_log_that_declares_no_keys_is_said_to(exchange: Exchange) -> None:
    report = exchange.audit()
    assert "log.keys" in {check.id for check in report.not_opened}


def test_without_any_party_document_keys_and_heads_are_judged_all_the_same(
    rotating: Rotating,
) -> None:
    rotating.declare(RESCUED, FIRST, entries=2)
    rotating.exchange.audit()  # writes the log
    _, tally = audit_log(str(rotating.log.folder), rotating.log.policy)
    assert {check.id for check in tally.checks() if check.passed is False} == {"log.keys"}


def test_whoever_follows_the_log_is_alerted_when_a_replaced_key_signs_the_next_head(
    rotating: Rotating,
) -> None:
    exchange, log = rotating.exchange, rotating.log
    rescued = rotating.declare(RESCUED, FIRST, entries=1)
    log.signers = {0: (OLD,), rescued: (NEW,)}
    exchange.audit()
    follower = following(exchange)
    assert follower.look(START) == []
    exchange.say(exchange.operator, DEED, exchange.key)
    log.signers = {0: (OLD,), rescued: (NEW,), rescued + 2: (OLD,)}
    assert alerted(exchange, follower) == [(Kind.FORGED, f"head {rescued + 2}")]
    follower.close()


# Late statements


@pytest.mark.parametrize("by_operator", [True, False])
def test_only_the_operator_is_at_fault_for_relying_on_a_late_statement(
    exchange: Exchange, by_operator: bool
) -> None:
    stranger, key = Party("Stranger"), SigningKey.generate()
    exchange.announce(stranger, stranger.document(key), key)
    for _ in range(20):
        exchange.say(exchange.operator, DEED, exchange.key)
    late = exchange.say(exchange.victim, DEED, exchange.keys[0], dated=-timedelta(minutes=20))
    relying = (exchange.operator, exchange.key) if by_operator else (stranger, key)
    exchange.say(relying[0], Act("deed.done", "x", after=(late,)), relying[1])
    expected = {("entry.time", "entry 23 deed.done")} if by_operator else set()
    assert failing(exchange.audit()) == expected


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
    exchange.say(exchange.operator, Act("deed.done", "x", after=(late,)), exchange.key)
    report = exchange.audit()
    assert (("entry.time", "entry 22 deed.done") in failing(report)) is judged
    notes = [check.words(VOICES[Language.ENGLISH]) for check in report.not_opened]
    assert any("more than 2 statements came late" in words for words in notes) is not judged
