"""Participants and data products, as their own signed acts bring them."""

from __future__ import annotations

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import PartyId, ProductId
from crypto.statement import Statement
from exchange.errors import NotYours, UnknownSubject
from exchange.evidence import (
    HELPING_BEGUN,
    HELPING_ENDED,
    STANDING,
    STANDING_APPROVED,
    STANDING_WITHDRAWN,
)
from exchange.hub import chains
from exchange.hub.model import Operator
from exchange.hub.ports import HubTransaction
from exchange.openings import SealedOpenings
from exchange.submission import Submission
from registry import evidence
from registry.errors import DocumentRefused, NotFound, RegistryError
from registry.party import SignedParty, read_party, require_successor
from registry.product import PAYLOAD_TYPE, DataProduct


def party(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """A first party document, or the next one of a party already known."""
    statement = submission.signed.statement
    new = read_party(submission.document(statement.outputs[0]))
    require_next(statement, new, _current(tx, new))
    tx.parties.add(new)


def require_next(statement: Statement, new: SignedParty, known: SignedParty | None) -> None:
    """Raises DocumentRefused unless `new` is a party's first document, or follows `known`, and
    the statement announces it as what it is: by its type, and by the party that it is about."""
    if (statement.type == evidence.REGISTERED) != (new.document.seq == 0):
        raise DocumentRefused("seq", "of a first document, and of no other, is 0")
    if statement.subject != new.document.party:
        raise DocumentRefused("subject", "of the statement must be the party itself")
    if known is not None:
        require_successor(new, known)
    elif new.document.seq != 0:
        raise DocumentRefused("seq", "of a first document must be 0")


def product(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """A data product version, signed by its holder."""
    statement = submission.signed.statement
    if len(statement.outputs) != 1:
        raise Malformed("outputs", "must name exactly the product")
    data = submission.document(statement.outputs[0])
    envelope = Envelope.from_bytes(data)
    listed = record.from_bytes(DataProduct, envelope.payload)
    holder = tx.parties.current(statement.actor)
    dsse.verify(envelope, PAYLOAD_TYPE, holder.document.signing)
    if listed.id != statement.subject:
        # Or it would be in the evidence of every deal on another's product, and fail there.
        raise DocumentRefused("subject", "of the statement must be the product itself")
    if listed.holder != statement.actor:
        raise NotYours(f"the product names {listed.holder} as its holder")
    if listed.holder_document != holder.digest:
        raise DocumentRefused("holder_document", "is not the holder's current party document")
    try:
        before = tx.products.current(listed.id)
    except NotFound:
        before = None
    if listed.version != (1 if before is None else before.version + 1):
        raise DocumentRefused("version", "must be 1, then one more each time")
    if before is not None and before.holder != listed.holder:
        raise NotYours(f"{listed.id} belongs to another holder")
    tx.products.add(listed, data, envelope.payload_digest)


def alarm(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """An alarm changes nothing here; that it is in the ledger is the point."""


def stored(name: Digest, tx: HubTransaction) -> bytes | None:
    """A party document that came to nothing. An announcement that does not fit is refused today;
    who reads a log in which an older hub took one in needs the document, to see that it does not
    count: without it every later key of that party would be in doubt."""
    try:
        data = tx.document(name)
        read_party(data)
    except (UnknownSubject, CryptoError, RegistryError):
        return None  # anything else that is stored is not for everybody
    return data


def standing(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """What a holder's node admits unasked from here on, or no more. The hub acts on nothing of it;
    it keeps the openings for the regulators that the holder sealed them to."""
    statement = submission.signed.statement
    product = tx.products.current(ProductId.parse(statement.subject, where="subject"))
    if product.holder != statement.actor:
        raise NotYours(f"{product.id} is a product of {product.holder}")
    if statement.type == STANDING_WITHDRAWN:
        _require_bare(statement)
        _require_ends(STANDING_APPROVED, statement, tx)
        return
    if set(statement.commitments) != {STANDING}:
        raise Malformed("commitments", "must be to the approval, and to nothing else")
    if len(statement.outputs) > 1:
        raise Malformed("outputs", "must name the sealed openings alone")
    for name in statement.outputs:
        sealed = record.from_bytes(SealedOpenings, submission.document(name))
        for reader, data in sealed.readers.items():
            party = PartyId.parse(reader, where="readers")
            tx.add_opening(submission.signed.digest, party, data)


def helping(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """That a party helps unasked from here on, or no more. The hub acts on nothing of it."""
    statement = submission.signed.statement
    if statement.subject != statement.actor:
        raise NotYours(f"{statement.actor} can say of itself alone that it helps")
    _require_bare(statement)
    if statement.type == HELPING_ENDED:
        _require_ends(HELPING_BEGUN, statement, tx)


def _require_bare(statement: Statement) -> None:
    if statement.outputs or statement.commitments or statement.body:
        raise Malformed("outputs", f"commitments and words have no place in a {statement.type}")


def _require_ends(begun: str, statement: Statement, tx: HubTransaction) -> None:
    """Raises Malformed unless it names what it ends. Whoever may speak of the subject is one
    party, so what was taken in about it is the actor's own."""
    if len(statement.after) != 1:
        raise Malformed("after", f"must name exactly the {begun} that it ends")
    if not tx.was_taken_in(statement.after[0], kind=begun, subject=statement.subject):
        raise Malformed("after", f"names what is no {begun} about {statement.subject}")


def register_operator(document: SignedParty, tx: HubTransaction, operator: Operator) -> None:
    """At start: the operator's own document, logged like everybody's. Safe to repeat."""
    known = _current(tx, document)
    if known is not None and known.digest == document.digest:
        return
    if known is None:
        act = evidence.party_registered(document)
    else:
        act = evidence.party_updated(document, known)
    tx.parties.add(document)
    documents = {document.digest: document.envelope.to_bytes()}
    chains.act(act, tx=tx, operator=operator, documents=documents)


def _current(tx: HubTransaction, new: SignedParty) -> SignedParty | None:
    try:
        return tx.parties.current(new.document.party)
    except NotFound:
        return None
