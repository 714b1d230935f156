"""A party announcing itself and its data products."""

from __future__ import annotations

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest, digest
from exchange.node import outbox
from exchange.node.model import Identity
from exchange.node.ports import NodeStore
from registry import evidence
from registry.errors import DocumentRefused
from registry.party import SignedParty
from registry.product import PAYLOAD_TYPE, DataProduct


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


def list_product(product: DataProduct, *, store: NodeStore, identity: Identity) -> Digest:
    """Sign and announce a product version. Returns its digest, which terms will name."""
    if product.holder != identity.party or product.holder_document != identity.document:
        raise DocumentRefused("holder", "must be this party under its current document")
    envelope = dsse.sign(PAYLOAD_TYPE, record.to_bytes(product), identity.signing)
    with store.transaction() as tx:
        act = evidence.product_listed(product)
        outbox.say(act, [envelope.to_bytes()], tx=tx, identity=identity)
    return envelope.payload_digest


def product_digest(product: DataProduct) -> Digest:
    return digest(record.to_bytes(product))
