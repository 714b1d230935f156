"""Party documents: which keys a participant uses, signed by the participant's identity key.

The identity key stays for life and names the party: `pty_` and the first 32 hexadecimal digits of
SHA-256 over its text form. A new document (`seq` + 1, naming the digest of the one before) changes
the other keys, or says anew who controls the party. A node takes a document as genuine only when
its identity key's fingerprint was confirmed out of band, or when a registrar whose key was pinned
signed the same envelope as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import PartyId
from crypto.keys import PublicKey, Signer
from registry.credit_code import require_credit_code
from registry.errors import DocumentRefused, NotTrusted

PAYLOAD_TYPE: Final = "application/vnd.unseen.party.v1+json"


class Role(StrEnum):
    HOLDER = "holder"
    CONSUMER = "consumer"
    BROKER = "broker"
    REGULATOR = "regulator"
    OPERATOR = "operator"
    HELPER = "helper"


@dataclass(frozen=True)
class PartyDocument:
    """identity, signing: Ed25519. sealing, agreement: X25519. tls_certificate: DER, self-signed.

    controller: the unified social credit code of the organisation that ultimately controls the
                party (实际控制人; below a natural person, the highest organisation), or the party's
                own where no other does. None: not declared. It is what the party says of itself; a
                registrar that signs the document has checked it.
    """

    v: int
    party: PartyId
    name: str
    roles: tuple[Role, ...]
    seq: int
    previous: Digest | None
    identity: PublicKey
    signing: PublicKey
    sealing: PublicKey
    agreement: PublicKey
    tls_certificate: bytes
    valid_from: datetime
    controller: str | None = None

    def __post_init__(self) -> None:
        if self.v != 1:
            raise DocumentRefused("v", f"is {self.v}; this version reads 1")
        if self.party != party_id(self.identity):
            raise DocumentRefused("party", "is not the identifier of the identity key")
        if not 1 <= len(self.name) <= 80 or not self.name.isprintable():
            raise DocumentRefused("name", "must be 1 to 80 printable characters")
        if not self.roles or list(self.roles) != sorted(set(self.roles)):
            raise DocumentRefused("roles", "must be listed once each, in alphabetical order")
        if self.seq < 0 or (self.seq == 0) != (self.previous is None):
            raise DocumentRefused("previous", "must be absent on the first document only")
        for name, suite in (
            ("identity", "ed25519"),
            ("signing", "ed25519"),
            ("sealing", "x25519"),
            ("agreement", "x25519"),
        ):
            if getattr(self, name).suite != suite:
                raise DocumentRefused(name, f"must be an {suite} key")
        if self.controller is not None:
            try:
                require_credit_code(self.controller, where="controller")
            except Malformed as error:
                raise DocumentRefused(error.where, error.problem) from None


@dataclass(frozen=True)
class SignedParty:
    """A party document with the envelope it came in."""

    document: PartyDocument
    envelope: Envelope

    @property
    def digest(self) -> Digest:
        """What agreements and plans carry: the digest of the document's canonical bytes."""
        return self.envelope.payload_digest


def party_id(identity: PublicKey) -> PartyId:
    return PartyId("pty_" + hashlib.sha256(str(identity).encode()).hexdigest()[:32])


def sign_party(document: PartyDocument, identity: Signer) -> SignedParty:
    return SignedParty(document, dsse.sign(PAYLOAD_TYPE, record.to_bytes(document), identity))


def endorse(party: SignedParty, registrar: Signer) -> SignedParty:
    """Add a registrar's signature: this identity key belongs to the organisation it names, and that
    organisation is controlled by whom it says."""
    return SignedParty(party.document, party.envelope.with_signature(registrar))


def read_party(data: bytes) -> SignedParty:
    """Parse a signed party document and check its own signature; says nothing of trust yet."""
    envelope = Envelope.from_bytes(data)
    document = record.from_bytes(PartyDocument, envelope.payload)
    dsse.verify(envelope, PAYLOAD_TYPE, document.identity)
    return SignedParty(document, envelope)


def require_trusted(
    party: SignedParty,
    *,
    fingerprints: Collection[str],
    registrars: Collection[PublicKey],
    believed: Collection[SignedParty] = (),
) -> None:
    """Raises NotTrusted unless the identity was confirmed, or a pinned registrar signed.

    believed: documents that were found trusted before. A registrar vouches that an identity key
    belongs to a name in certain roles and under a certain controller; that holds for every later
    document of the same key that says the same of its owner, so a rotation of the other keys needs
    no new signature.
    """
    document = party.document
    if document.identity.fingerprint in fingerprints:
        return
    for other in (one.document for one in believed):
        if _owner(other) == _owner(document):
            return
    signed_by = {key_id for key_id, _ in party.envelope.signatures}
    for registrar in registrars:
        if registrar.key_id in signed_by:
            dsse.verify(party.envelope, PAYLOAD_TYPE, registrar)
            return
    raise NotTrusted(
        f"{party.document.name} ({party.document.party}) is not confirmed: compare its fingerprint "
        f"{party.document.identity.fingerprint} out of band and run `exchange node trust`"
    )


def _owner(document: PartyDocument) -> tuple[object, ...]:
    """What a registrar vouches for."""
    return (document.identity, document.name, document.roles, document.controller)


def require_successor(new: SignedParty, old: SignedParty) -> None:
    """Raises DocumentRefused unless `new` is the same party's next document."""
    if new.document.identity != old.document.identity:
        raise DocumentRefused("identity", "differs from the party's registered identity key")
    if new.document.seq != old.document.seq + 1 or new.document.previous != old.digest:
        raise DocumentRefused("seq", f"does not follow document {old.document.seq}")
