"""Saying things: a statement and what it is about commit together, and are sent until answered.

`say` is called inside the transaction that makes the act true. A crash before its commit leaves
neither act nor statement; a crash after it leaves both, and `send` finds the statement and sends
it. The hub recognises a repetition by its digest, so sending twice has one effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from crypto.digest import Digest
from crypto.statement import Act, SignedStatement, read_statement, sign_statement
from exchange.node.model import Identity
from exchange.node.ports import Answer, Hub, NodeStore, NodeTransaction
from exchange.submission import document_digest

BATCH: Final = 16

Heed = Callable[[SignedStatement, Answer, NodeTransaction, Identity], None]


def say(
    act: Act,
    documents: Sequence[bytes],
    *,
    tx: NodeTransaction,
    identity: Identity,
    at: datetime | None = None,
) -> Digest:
    """Sign `act` as this party's next statement and queue it with its documents. at: the moment
    that the act was checked for, where an audit repeats the check for what the statement says."""
    signed = sign_statement(
        act,
        actor=identity.party,
        head=tx.head(),
        signer=identity.signing,
        now=at or identity.clock.now(),
        randomness=identity.randomness,
    )
    for data in documents:
        tx.confirm_document(document_digest(data), data)
    tx.queue(signed, documents)
    return signed.digest


def send(store: NodeStore, hub: Hub, identity: Identity, heed: Heed) -> int:
    """Send what waits, in order, and note each answer. Returns how many were sent.

    heed: what an answer changes beside the note, in the same transaction.
    Raises HubUnreachable when the hub cannot be reached, leaving the rest for later, and what
    `Hub.submit` raises when the hub does not take a statement: the chain stops there until a
    person has looked, because every later statement names this one.
    """
    for sent in range(BATCH):
        with store.reading() as tx:
            # One by one: documents are large, and behind one that is not taken none is of use.
            waiting = tx.unsent(1)
        if not waiting:
            return sent
        (item,) = waiting
        answer = hub.submit(item.entry, item.documents)
        with store.transaction() as tx:
            tx.mark_sent(
                item.number,
                applied=answer.applied,
                reason=answer.reason,
                at=identity.clock.now(),
            )
            heed(read_statement(item.entry), answer, tx, identity)
    return BATCH
