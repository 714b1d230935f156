"""What the operator says it credited this party with, opened by the party's own key.

The log shows of a deposit that there was one. Its amount is committed to, and the opening is at the
hub, sealed to whoever was credited: a party that disputes its balance shows both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from crypto import sealing
from crypto.digest import Digest
from crypto.errors import CannotOpen, Malformed
from crypto.statement import SignedStatement, Statement, read_statement
from exchange import openings
from exchange.node import asking, trust
from exchange.node.model import Identity, Incoming
from exchange.node.ports import Documents, Hub, NodeStore, NodeTransaction
from pricing.evidence import COMMITMENT, DEPOSITED, Movement, open_movement


class Openings(Hub, Protocol):
    """A hub that also gives its callers the openings that are sealed to them."""

    def opening(self, statement: Digest) -> bytes:
        """Raises UnknownSubject if there is none for the caller."""
        ...


@dataclass(frozen=True)
class Deposit:
    """statement: its entry's digest. movement: as the statement committed to it."""

    statement: Digest
    time: datetime
    movement: Movement


def deposits(hub: Openings, store: NodeStore, identity: Identity) -> Iterator[Deposit]:
    """Every deposit that the operator said it booked for this party, in the order of the log.

    Raises trust errors for a statement that is not the operator's, BadSignature for an opening that
    is not what it committed to, CannotOpen for one that is sealed to none of this party's keys.
    """
    after = 0
    while messages := hub.inbox(after=after, wait_s=0):
        after = messages[-1].number
        for signed in _deposits_in(messages, identity):
            _require_said_by_actor(signed, hub, store, identity)
            statement = signed.statement
            plain = _opened(hub.opening(signed.digest), signed.digest, identity)
            yield Deposit(
                signed.digest,
                statement.time,
                open_movement(plain, _commitment(statement)),
            )


def _require_said_by_actor(
    signed: SignedStatement, hub: Openings, store: NodeStore, identity: Identity
) -> None:
    def step(tx: NodeTransaction, documents: Documents) -> None:
        trust.require_said_by_actor(signed, tx=tx, hub=documents, identity=identity)

    asking.transact(step, store=store, hub=hub)


def _deposits_in(messages: Sequence[Incoming], identity: Identity) -> Iterator[SignedStatement]:
    for message in messages:
        signed = read_statement(message.entry)
        said = signed.statement
        about = (said.type, said.actor, said.subject)
        if about == (DEPOSITED, identity.operator, identity.party):
            yield signed


def _commitment(statement: Statement) -> Digest:
    try:
        return statement.commitments[COMMITMENT]
    except KeyError:
        raise Malformed("commitments", "holds no movement") from None


def _opened(sealed: bytes, statement: Digest, identity: Identity) -> bytes:
    """With the key that was in force then: retired ones are kept."""
    for key in identity.sealing.values():
        with suppress(CannotOpen):
            return sealing.open_sealed(sealed, key, context=openings.context(statement))
    raise CannotOpen(f"the opening of {statement} is sealed to none of this party's keys")
