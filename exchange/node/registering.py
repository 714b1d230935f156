"""A party announcing itself and its data products."""

from __future__ import annotations

from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest, digest
from crypto.envelope import Envelope
from crypto.identifiers import ProductId
from exchange.errors import UnknownSubject
from exchange.node import outbox
from exchange.node.model import Identity
from exchange.node.ports import NodeStore, NodeTransaction
from registry import evidence
from registry.errors import DocumentRefused
from registry.evidence import REGISTERED, UPDATED
from registry.party import SignedParty
from registry.product import PAYLOAD_TYPE, DataProduct

__all__ = [
    "REGISTERED",
    "UPDATED",
    "announce",
    "is_announced",
    "list_product",
    "own_product",
    "product_digest",
    "register",
    "require_announced",
]

_ANNOUNCED: Final = "announced"


def register(
    party: SignedParty, *, store: NodeStore, identity: Identity, previous: SignedParty | None = None
) -> None:
    """Announce a first party document, or, with `previous`, the next one after a rotation."""
    act = (
        evidence.party_registered(party)
        if previous is None
        else evidence.party_updated(party, previous)
    )
    with store.transaction() as tx:
        tx.add_party(party)
        outbox.say(act, [party.envelope.to_bytes()], tx=tx, identity=identity)
        tx.set_remark(_ANNOUNCED, str(party.digest))


def is_announced(party: SignedParty, store: NodeStore) -> bool:
    """Whether this very document is the last one that was announced."""
    with store.reading() as tx:
        return tx.remark(_ANNOUNCED) == str(party.digest)


def require_announced(tx: NodeTransaction) -> None:
    """Raises UnknownSubject while no document of this party was announced: nobody takes in what
    it says before that, nor what follows."""
    if tx.remark(_ANNOUNCED) is None:
        raise UnknownSubject("this party's registration, which its node makes when it starts,")


def announce(party: SignedParty, *, store: NodeStore, identity: Identity) -> None:
    """Register a document, or say that it follows the one announced before, unless that was said
    already. Raises DocumentRefused if it does neither."""
    with store.reading() as tx:
        text = tx.remark(_ANNOUNCED)
        before = None if text is None else tx.party(Digest.parse(text))
    if before is None or before.digest != party.digest:
        register(party, store=store, identity=identity, previous=before)


def list_product(product: DataProduct, *, store: NodeStore, identity: Identity) -> Digest:
    """Sign and announce a product version. Returns its digest, which terms will name."""
    if product.holder != identity.party or product.holder_document != identity.document:
        raise DocumentRefused("holder", "must be this party under its current document")
    envelope = dsse.sign(PAYLOAD_TYPE, record.to_bytes(product), identity.signing)
    with store.transaction() as tx:
        act = evidence.product_listed(product)
        outbox.say(act, [envelope.to_bytes()], tx=tx, identity=identity)
        tx.set_remark(f"product {product.id}", str(envelope.payload_digest))
    return envelope.payload_digest


def own_product(number: ProductId, tx: NodeTransaction) -> DataProduct:
    """The newest version of a product that this party listed. Raises UnknownSubject."""
    text = tx.remark(f"product {number}")
    if text is None:
        raise UnknownSubject(f"{number} as a product of this party")
    envelope = Envelope.from_bytes(tx.document(Digest.parse(text)))
    return record.from_bytes(DataProduct, envelope.payload)


def product_digest(product: DataProduct) -> Digest:
    return digest(record.to_bytes(product))
