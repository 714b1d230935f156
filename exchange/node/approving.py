"""What this node admits without asking a person: said when it begins, and when it ends.

The log shows that a holder approved something of a product, and commits to what: consumers,
purposes and limits are the holder's terms. Each regulator that an agreement in force names gets the
opening; the holder keeps it too.
"""

from __future__ import annotations

from crypto import record, sealing
from crypto.digest import SALT_BYTES, Digest, commit, digest
from exchange import evidence, openings
from exchange.errors import UnknownSubject
from exchange.node import outbox, registering
from exchange.node.model import Identity, StandingApproval
from exchange.node.ports import NodeTransaction
from exchange.openings import Opening, SealedOpenings
from exchange.submission import document_digest


def approve(approval: StandingApproval, *, tx: NodeTransaction, identity: Identity) -> Digest:
    """From here on jobs that it covers are admitted. Raises UnknownSubject unless the product is
    this party's own. Returns the statement's digest."""
    registering.own_product(approval.product, tx)
    opening = Opening(identity.randomness.draw(SALT_BYTES), record.to_bytes(approval))
    plain = record.to_bytes(opening)
    tx.add_document(digest(plain), plain)
    commitment = commit(opening.salt, opening.value)
    context = openings.standing_context(commitment)
    sealed: dict[str, bytes] = {}
    for held in tx.agreements():
        terms = held.agreement.terms
        covered = held.agreement.consumer in approval.consumers
        if not covered or terms.product_id != approval.product or terms.regulator_document is None:
            continue
        reader = tx.party(terms.regulator_document)
        if reader is None:
            raise UnknownSubject(f"party document {terms.regulator_document}")
        sealed[reader.document.party] = sealing.seal(
            plain, reader.document.sealing, context=context
        )
    documents = [record.to_bytes(SealedOpenings(1, sealed))] if sealed else []
    act = evidence.standing_approved(
        approval.product,
        commitment=commitment,
        openings=document_digest(documents[0]) if documents else None,
    )
    said = outbox.say(act, documents, tx=tx, identity=identity)
    tx.add_standing(approval)
    tx.set_remark(_name(approval), str(said))
    return said


def withdraw(approval: StandingApproval, *, tx: NodeTransaction, identity: Identity) -> Digest:
    """From here on a person is asked. Raises UnknownSubject. Returns the statement's digest."""
    if not tx.remove_standing(approval):
        raise UnknownSubject("this standing approval")
    act = evidence.standing_withdrawn(approval.product, after=said_by(approval, tx))
    return outbox.say(act, [], tx=tx, identity=identity)


def said_by(approval: StandingApproval, tx: NodeTransaction) -> tuple[Digest, ...]:
    """The statement that approved it; none of what this node kept before it said so."""
    text = tx.remark(_name(approval))
    return () if text is None else (Digest.parse(text),)


def _name(approval: StandingApproval) -> str:
    return f"standing {digest(record.to_bytes(approval))}"
