"""Data products as a node reads them: by the digest that terms and plans name, so that a hub
cannot show one description at negotiation and another at the run."""

from __future__ import annotations

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from exchange.errors import UnknownSubject
from exchange.node.ports import Documents, NodeTransaction
from registry.errors import DocumentRefused
from registry.party import SignedParty
from registry.product import PAYLOAD_TYPE, DataProduct


def by_digest(digest: Digest, *, tx: NodeTransaction, hub: Documents) -> DataProduct:
    """The product version of this digest. Raises DocumentRefused if the hub sends another."""
    try:
        data = tx.document(digest)
    except UnknownSubject:
        data = hub.document(digest)
    envelope = Envelope.from_bytes(data)
    if envelope.payload_digest != digest:
        raise DocumentRefused("product", "the hub answered with another document")
    tx.add_document(digest, data)
    return record.from_bytes(DataProduct, envelope.payload)


def require_listed_by(digest: Digest, holder: SignedParty, *, tx: NodeTransaction) -> None:
    """Raises unless the holder itself signed the product version."""
    envelope = Envelope.from_bytes(tx.document(digest))
    dsse.verify(envelope, PAYLOAD_TYPE, holder.document.signing)
