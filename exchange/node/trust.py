"""Whose keys these are. The hub hands out party documents; this decides which to believe.

A document counts when its identity key signed it, that key is the one the party is named after,
and either a person confirmed the key's fingerprint or a pinned registrar signed the document, or
an earlier one of the same key that says the same of its owner. A hub that swaps any key therefore
needs the identity key or a registrar's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from crypto.digest import Digest
from crypto.errors import UnknownKey
from crypto.identifiers import PartyId
from crypto.statement import SignedStatement, verify_statement
from exchange.errors import ExchangeError, HubUnreachable
from exchange.node.model import Identity
from exchange.node.ports import Documents, NodeTransaction
from registry.errors import NotTrusted, RegistryError
from registry.party import SignedParty, read_party, require_trusted

MAX_ROTATIONS: Final = 64


def current(
    party: PartyId, *, tx: NodeTransaction, hub: Documents, identity: Identity
) -> SignedParty:
    """The newest document known of a party, fetched if there is none yet. Raises NotTrusted."""
    known = tx.current_party(party)
    return known if known is not None else refresh(party, tx=tx, hub=hub, identity=identity)


def refresh(
    party: PartyId, *, tx: NodeTransaction, hub: Documents, identity: Identity
) -> SignedParty:
    """Ask the hub for a party's newest document and keep it if it is to be believed."""
    found = read_party(hub.party(party))
    if found.document.party != party:
        raise NotTrusted(f"the hub answered with the document of {found.document.party}")
    _keep(found, tx=tx, hub=hub, identity=identity)
    known = tx.current_party(party)
    return known if known is not None else found


def newest(
    party: PartyId, *, tx: NodeTransaction, hub: Documents, identity: Identity
) -> SignedParty:
    """The newest document of a party that rotates its keys now and then; without the hub, the
    newest one known. Naming an old one leaks nothing: whoever rotated its keys refuses it."""
    try:
        return refresh(party, tx=tx, hub=hub, identity=identity)
    except HubUnreachable:
        return current(party, tx=tx, hub=hub, identity=identity)


def by_digest(
    digest: Digest, party: PartyId, *, tx: NodeTransaction, hub: Documents, identity: Identity
) -> SignedParty:
    """Exactly the document that an agreement or plan names. Raises NotTrusted."""
    known = tx.party(digest)
    if known is None:
        known = read_party(hub.document(digest))
        if known.digest != digest:
            raise NotTrusted(f"the hub answered with another document than {digest}")
        _keep(known, tx=tx, hub=hub, identity=identity)
    if known.document.party != party:
        raise NotTrusted(f"{digest} is the document of {known.document.party}, not of {party}")
    return known


def require_said_by_actor(
    signed: SignedStatement, *, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """Raises unless the statement's actor signed it, asking once for a newer document."""
    actor = signed.statement.actor
    try:
        key = current(actor, tx=tx, hub=hub, identity=identity).document.signing
        verify_statement(signed, key)
    except UnknownKey:  # it may have rotated its keys since
        key = refresh(actor, tx=tx, hub=hub, identity=identity).document.signing
        verify_statement(signed, key)


def _keep(party: SignedParty, *, tx: NodeTransaction, hub: Documents, identity: Identity) -> None:
    """Keep a document that is to be believed: by itself, or as a later one of a party that is."""
    fingerprints, registrars = tx.trusted_fingerprints(), identity.registrars
    known = tx.current_party(party.document.party)
    try:
        require_trusted(
            party,
            fingerprints=fingerprints,
            registrars=registrars,
            believed=() if known is None else (known,),
        )
    except NotTrusted:
        for earlier in _before(party, hub):
            if _is_trusted(earlier, tx, identity):
                break
        else:
            raise
        require_trusted(
            party, fingerprints=fingerprints, registrars=registrars, believed=(earlier,)
        )
    tx.add_party(party)


def _before(party: SignedParty, hub: Documents) -> Iterator[SignedParty]:
    """The documents that this one follows, newest first, as far as the hub has them."""
    for _ in range(MAX_ROTATIONS):
        previous = party.document.previous
        if previous is None:
            return
        try:
            earlier = read_party(hub.document(previous))
        except (ExchangeError, RegistryError) as error:
            if isinstance(error, HubUnreachable):
                raise
            return
        if earlier.digest != previous:
            raise NotTrusted(f"the hub answered with another document than {previous}")
        yield earlier
        party = earlier


def _is_trusted(party: SignedParty, tx: NodeTransaction, identity: Identity) -> bool:
    try:
        require_trusted(
            party, fingerprints=tx.trusted_fingerprints(), registrars=identity.registrars
        )
    except NotTrusted:
        return False
    return True
