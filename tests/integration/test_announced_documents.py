"""A party document that does not count must not cost its party its later words: it is not logged,
and where an older hub logged one, whoever reads the log is shown it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from api.folder import PartyFolder
from crypto import envelope as dsse
from crypto import record
from crypto.digest import digest
from crypto.identifiers import JobId, PartyId
from crypto.ports import SystemRandomness
from crypto.statement import Act, SignedStatement, sign_statement
from exchange import evidence as deeds
from exchange.audit.whole import audit_whole_log
from exchange.errors import UnknownSubject
from exchange.hub import chains
from exchange.hub.model import Outcome
from exchange.submission import read_submission
from ledger.verify.report import Report
from registry.errors import DocumentRefused, NotFound
from registry.evidence import REGISTERED, UPDATED, party_registered
from registry.party import PAYLOAD_TYPE, Role, SignedParty, read_party
from tests.integration.test_audit_follow import HubDocuments
from tests.integration.test_audit_log import Exchange
from tests.world import START, World, a_world


@dataclass
class Participant:
    """Somebody who sends what no node of ours would."""

    world: World
    folder: PartyFolder

    @property
    def id(self) -> PartyId:
        return self.folder.party.document.party

    def sign(self, act: Act) -> SignedStatement:
        return sign_statement(
            act,
            actor=self.id,
            head=self.world.service.chain(self.id),
            signer=self.folder.signing,
            now=self.world.clock.now(),
            randomness=SystemRandomness(),
        )

    def say(self, act: Act, *documents: bytes) -> Outcome:
        submission = read_submission(self.sign(act).entry, documents)
        return self.world.service.submit(self.id, submission)

    def document(self, **changes: object) -> SignedParty:
        """Its party document, but for these changes, signed by its identity key."""
        changed = replace(self.folder.party.document, **changes)  # type: ignore[arg-type]
        envelope = dsse.sign(PAYLOAD_TYPE, record.to_bytes(changed), self.folder.identity)
        return read_party(envelope.to_bytes())

    def announces(self, kind: str, document: SignedParty) -> SignedStatement:
        return self.sign(Act(kind, self.id, outputs=(document.digest,)))

    def speaks_of_nothing(self) -> None:
        self.say(deeds.alarmed(JobId("job_" + "1" * 32), kind="Nonsense", words="look"))


@pytest.fixture
def mallory(tmp_path: Path) -> Participant:
    world = a_world(tmp_path / "world")
    folder = PartyFolder.create(tmp_path / "mallory", "Mallory", [Role.HOLDER], now=START)
    return Participant(world, folder)


def audited(world: World, folder: Path) -> Report:
    """Of the whole log, by whoever reads party documents from the hub."""
    world.settle()
    found = Exchange(world, folder)
    found.publish()
    return audit_whole_log(str(folder), world.policy, found.roots, HubDocuments(world))


def inaudible(report: Report) -> list[str]:
    return [check.subject for check in report.not_opened if check.id == "entry.signed"]


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("kind", [REGISTERED, UPDATED])
def test_a_document_under_the_other_type_of_announcement_is_not_logged(
    mallory: Participant, kind: str, registered: bool
) -> None:
    if registered:
        mallory.say(party_registered(mallory.folder.party), _bytes(mallory.folder.party))
    before = mallory.world.service.chain(mallory.id)
    number = 1 if kind == REGISTERED else 0
    previous = mallory.folder.party.digest if number else None
    other = mallory.document(name="Other", seq=number, previous=previous)
    with pytest.raises(DocumentRefused):
        mallory.say(Act(kind, mallory.id, outputs=(other.digest,)), _bytes(other))
    assert mallory.world.service.chain(mallory.id) == before


def test_an_announcement_about_another_party_is_not_logged(mallory: Participant) -> None:
    party = mallory.folder.party
    act = replace(party_registered(party), subject=mallory.world.operator.party)
    with pytest.raises(DocumentRefused, match="subject"):
        mallory.say(act, _bytes(party))


def test_whoever_announces_a_document_that_does_not_fit_stays_audible(
    mallory: Participant, tmp_path: Path
) -> None:
    other = mallory.document(name="Other")
    with pytest.raises(DocumentRefused):
        mallory.say(Act(UPDATED, mallory.id, outputs=(other.digest,)), _bytes(other))
    mallory.say(party_registered(mallory.folder.party), _bytes(mallory.folder.party))
    mallory.speaks_of_nothing()
    report = audited(mallory.world, tmp_path / "log")
    assert (report.failed, inaudible(report)) == ((), [])


def test_a_document_that_an_older_hub_logged_in_vain_is_served_and_costs_no_later_word(
    mallory: Participant, tmp_path: Path
) -> None:
    other = mallory.document(name="Other")
    with mallory.world.store.transaction() as tx:  # as hubs did that judged it afterwards
        signed = mallory.announces(UPDATED, other)
        chains.append(signed, tx)
        tx.add_document(other.digest, _bytes(other))
        tx.save_outcome(Outcome(signed.digest, False, "seq"), of=signed.statement)
    mallory.say(party_registered(mallory.folder.party), _bytes(mallory.folder.party))
    mallory.speaks_of_nothing()
    report = audited(mallory.world, tmp_path / "log")
    assert (report.failed, inaudible(report)) == ((), [])
    assert [c.id for c in report.not_opened].count("party.document") == 1


def test_no_other_stored_document_is_served(mallory: Participant) -> None:
    secret = b"a proposal"
    with mallory.world.store.transaction() as tx:
        tx.add_document(digest(secret), secret)
    with pytest.raises((NotFound, UnknownSubject)):
        mallory.world.service.document(digest(secret))


def _bytes(party: SignedParty) -> bytes:
    return party.envelope.to_bytes()
