"""What this node admits without asking a person: said when it begins, and when it ends.

A holder's standing approval has limits, which are its terms: the log shows that it approved
something of a product, and commits to what. Each regulator that an agreement in force names gets
the opening; the holder keeps it too. A helper's general approval has none: the log says it all.
"""

from __future__ import annotations

from typing import Final

from crypto import record, sealing
from crypto.digest import SALT_BYTES, Digest, commit, digest
from exchange import evidence, openings
from exchange.approval import StandingApproval
from exchange.errors import UnknownSubject
from exchange.node import outbox, registering
from exchange.node.model import Identity, NodeApproval
from exchange.node.ports import NodeTransaction
from exchange.openings import Opening, SealedOpenings
from exchange.submission import document_digest

_HELPS: Final = "helps"  # a remark: the statement under which this party helps unasked


def approve(approval: StandingApproval, *, tx: NodeTransaction, identity: Identity) -> Digest:
    """From here on jobs that it covers are admitted. The same one again takes the place of the
    first, for the regulators of newer agreements to open. Raises UnknownSubject unless the product
    is this party's own. Returns the statement's digest."""
    registering.own_product(approval.product, tx)
    if any(held.approval == approval for held in tx.standing()):
        withdraw(approval, tx=tx, identity=identity)
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
    tx.add_standing(NodeApproval(said, approval))
    return said


def withdraw(approval: StandingApproval, *, tx: NodeTransaction, identity: Identity) -> Digest:
    """From here on a person is asked. Raises UnknownSubject. Returns the statement's digest."""
    for held in tx.standing():
        if held.approval == approval:
            tx.remove_standing(held.said)
            act = evidence.standing_withdrawn(approval.product, approved=held.said)
            return outbox.say(act, [], tx=tx, identity=identity)
    raise UnknownSubject("this standing approval")


def help_unasked(*, tx: NodeTransaction, identity: Identity) -> None:
    """From here on take part, as helper, in every job whose plan names this party. Changes nothing
    if it does already. Raises UnknownSubject before this party is announced."""
    if helps_under(tx) is None:
        registering.require_announced(tx)
        said = outbox.say(evidence.helping_begun(identity.party), [], tx=tx, identity=identity)
        tx.set_remark(_HELPS, str(said))


def help_if_asked(*, tx: NodeTransaction, identity: Identity) -> None:
    """From here on a person is asked. Changes nothing if one is already."""
    begun = helps_under(tx)
    if begun is not None:
        outbox.say(
            evidence.helping_ended(identity.party, begun=begun), [], tx=tx, identity=identity
        )
        tx.set_remark(_HELPS, "")


def helps_under(tx: NodeTransaction) -> Digest | None:
    """The statement that says that this party helps unasked; None while it does not."""
    text = tx.remark(_HELPS)
    return Digest.parse(text) if text else None
