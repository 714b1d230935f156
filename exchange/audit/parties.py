"""Who is who, and which key each had in force at each place of the log.

A party document is vouched for by the party's identity key, and that key by the auditor's roots.
The log says from where on a document counts; the hub that keeps the log can add none of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from crypto.statement import verify_statement
from exchange.audit.log import Said
from exchange.audit.roots import Roots
from exchange.errors import UnknownSubject
from ledger.verify.report import Check, Phrase, phrase
from registry.errors import DocumentRefused, RegistryError
from registry.evidence import REGISTERED, UPDATED
from registry.party import (
    PAYLOAD_TYPE,
    SignedParty,
    read_party,
    require_successor,
    require_trusted,
)


@dataclass(frozen=True)
class Since:
    """A document in force from the statement at this index on."""

    index: int
    party: SignedParty


@dataclass(frozen=True)
class Parties:
    """documents: all genuine ones, by digest. history: of each party, what came into force when."""

    documents: Mapping[Digest, SignedParty]
    history: Mapping[PartyId, Sequence[Since]]

    def by_digest(self, name: Digest) -> SignedParty:
        """Raises UnknownSubject unless the bundle holds this document and it is genuine."""
        try:
            return self.documents[name]
        except KeyError:
            raise UnknownSubject(f"party document {name}") from None

    def in_force(self, party: PartyId, index: int) -> SignedParty:
        """What the party's keys were at a place of the log. Raises UnknownSubject."""
        known = [since.party for since in self.history.get(party, ()) if since.index <= index]
        if not known:
            raise UnknownSubject(f"a party document of {party}")
        return known[-1]

    def name(self, party: str) -> str:
        """For people: the name in the newest document, with the id that nobody can take."""
        history = self.history.get(PartyId(party))
        return f"{history[-1].party.document.name} ({party})" if history else party


@dataclass(frozen=True)
class Heard:
    """parties: who is who. genuine: the statements their actors signed. no_effect: party
    documents that were announced and do not follow the ones before, with the reason."""

    parties: Parties
    genuine: Sequence[Said]
    no_effect: Mapping[Digest, str]


def read_documents(
    documents: Mapping[Digest, bytes],
) -> tuple[dict[Digest, SignedParty], dict[Digest, str]]:
    """The genuine party documents among these, and why the others are not."""
    genuine: dict[Digest, SignedParty] = {}
    refused: dict[Digest, str] = {}
    for name, data in documents.items():
        try:
            if Envelope.from_bytes(data).payload_type != PAYLOAD_TYPE:
                continue
        except CryptoError:
            continue  # not an envelope: a proposal
        try:
            genuine[name] = read_party(data)
        except (CryptoError, RegistryError) as error:
            refused[name] = str(error)
    return genuine, refused


def check_signatures(
    said: Sequence[Said], documents: Mapping[Digest, SignedParty]
) -> tuple[list[Check], Heard]:
    """That every statement is signed by its actor, with the key in force at its place.

    A party document is announced under the signing key that it brings, so that a lost key can be
    replaced without using it: what counts is the identity key's signature on the document.
    """
    checks: list[Check] = []
    genuine: list[Said] = []
    history: dict[PartyId, list[Since]] = {}
    no_effect: dict[Digest, str] = {}
    for heard in said:
        statement = heard.statement
        known = history.setdefault(statement.actor, [])
        announced = _announced(heard, documents)
        speaks = announced or (known[-1].party if known else None)
        problem = _signature_problem(heard, speaks)
        checks.append(Check("entry.signed", problem is None, heard.subject, problem))
        if problem is not None:
            continue  # a forgery must not take the place of a genuine statement
        genuine.append(heard)
        if announced is not None:
            try:
                _require_follows(statement.type, announced, known)
                known.append(Since(heard.index, announced))
            except DocumentRefused as error:
                no_effect[heard.signed.digest] = str(error)
    return checks, Heard(Parties(documents, history), genuine, no_effect)


def check_party_documents(
    documents: Mapping[Digest, SignedParty],
    refused: Mapping[Digest, str],
    heard: Heard,
    taking_part: Collection[PartyId],
) -> list[Check]:
    """That every party document is the party's own: its identity key, from which the party's id
    is derived, signed it; it names the digest of the one before; the party itself logged it."""
    checks = []
    for name, reason in refused.items():
        note = phrase("reason", reason=reason)
        checks.append(Check("party.document", False, f"document {name}", note))
    logged = {s.party.digest for history in heard.parties.history.values() for s in history}
    for name, party in documents.items():
        if name in logged:
            checks.append(Check("party.document", True, _subject(party)))
        else:
            passed = False if party.document.party in taking_part else None
            note = phrase("party.not_logged")
            checks.append(Check("party.document", passed, _subject(party), note))
    for said in heard.genuine:
        if said.statement.type in (REGISTERED, UPDATED):
            for output in said.statement.outputs:
                if output not in documents and output not in refused:
                    note = phrase("party.absent")
                    checks.append(Check("party.document", False, f"document {output}", note))
    return checks


def check_trust(
    documents: Mapping[Digest, SignedParty], roots: Roots, taking_part: Collection[PartyId]
) -> list[Check]:
    """That the auditor has reason to believe each document is of the organisation it names: its
    identity key's fingerprint was confirmed, or a registrar of the roots signed it, or an earlier
    one of the same key that says the same of its owner.

    Whoever has no part in the deal and only spoke of it need not be known to the auditor.
    """
    checks = []
    believed = [party for party in documents.values() if _is_vouched_for(party, roots)]
    for party in documents.values():
        try:
            require_trusted(
                party,
                fingerprints=roots.fingerprints,
                registrars=roots.registrars,
                believed=believed,
            )
            checks.append(Check("party.trusted", True, _subject(party)))
        except (RegistryError, CryptoError) as error:
            if party.document.party in taking_part:
                note = phrase("reason", reason=error)
                checks.append(Check("party.trusted", False, _subject(party), note))
            else:
                note = phrase("party.bystander")
                checks.append(Check("party.trusted", None, _subject(party), note))
    return checks


def _is_vouched_for(party: SignedParty, roots: Roots) -> bool:
    try:
        require_trusted(party, fingerprints=roots.fingerprints, registrars=roots.registrars)
    except (RegistryError, CryptoError):
        return False
    return True


def _subject(party: SignedParty) -> str:
    document = party.document
    return f"{document.name} ({document.party}) document {document.seq}"


def _announced(heard: Said, documents: Mapping[Digest, SignedParty]) -> SignedParty | None:
    statement = heard.statement
    if statement.type not in (REGISTERED, UPDATED) or len(statement.outputs) != 1:
        return None
    party = documents.get(statement.outputs[0])
    if party is None or party.document.party != statement.actor:
        return None
    return party


def _signature_problem(heard: Said, speaks: SignedParty | None) -> Phrase | None:
    actor = heard.statement.actor
    if speaks is None:
        return phrase("signature.no_key", actor=actor)
    key = speaks.document.signing
    ((found, _),) = Envelope.from_bytes(heard.signed.entry).signatures
    if found != key.key_id:
        return phrase("signature.other_key", actor=actor, found=found, expected=key.key_id)
    try:
        verify_statement(heard.signed, key)
    except CryptoError as error:
        return phrase("reason", reason=error)
    return None


def _require_follows(kind: str, new: SignedParty, known: Sequence[Since]) -> None:
    if kind == REGISTERED:
        if known:
            raise DocumentRefused("party", "is registered already")
        if new.document.seq != 0:
            raise DocumentRefused("seq", "of a first document must be 0")
    elif known:
        require_successor(new, known[-1].party)
    else:
        raise DocumentRefused("party", "is not registered")
