"""A participant's own acts with the registry, as statements for the log.

Party documents and product envelopes are public in the catalogue, so their digests need no salt.
"""

from __future__ import annotations

from crypto import record
from crypto.digest import digest
from crypto.statement import Act
from registry.errors import DocumentRefused
from registry.party import SignedParty, require_successor
from registry.product import DataProduct

REGISTERED = "party.registered"
UPDATED = "party.updated"
LISTED = "product.listed"


def party_registered(party: SignedParty) -> Act:
    """outputs: the document. Raises DocumentRefused unless it is the party's first."""
    if party.document.seq != 0:
        raise DocumentRefused("seq", "of a first document must be 0")
    return Act(type=REGISTERED, subject=party.document.party, outputs=(party.digest,))


def party_updated(party: SignedParty, previous: SignedParty) -> Act:
    """Keys or roles changed. inputs: the document before; outputs: this one.

    Raises DocumentRefused unless `party` follows `previous`.
    """
    require_successor(party, previous)
    return Act(
        type=UPDATED,
        subject=party.document.party,
        inputs=(previous.digest,),
        outputs=(party.digest,),
    )


def product_listed(product: DataProduct) -> Act:
    """One version of a product. inputs: its holder's party document; outputs: the product.

    The output is the digest of the product's canonical bytes, which the envelope carries.
    """
    return Act(
        type=LISTED,
        subject=product.id,
        inputs=(product.holder_document,),
        outputs=(digest(record.to_bytes(product)),),
    )
