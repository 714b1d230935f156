"""Actors' chains at the hub, and the operator's own acts on its own chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crypto.digest import Digest, digest
from crypto.identifiers import PartyId
from crypto.statement import Act, SignedStatement, Statement, read_statement, sign_statement
from exchange.errors import BookkeepingBehind
from exchange.hub.model import Operator, Outcome
from exchange.hub.ports import HubTransaction
from ledger import log

_PENDING_LIMIT = 1 << 16  # entries looked through for one that has no place yet


def require_complete(tx: HubTransaction) -> None:
    """At start, before the operator says anything: its next statement must not take a number that
    one in the ledger has. Raises BookkeepingBehind."""
    unknown = tx.unchained()
    if unknown > 0:
        raise BookkeepingBehind(unknown)


def append(signed: SignedStatement, tx: HubTransaction) -> None:
    """Queue a checked statement for the ledger and move its actor's chain on."""
    log.append(tx.log, signed.entry)
    tx.save_chain(signed.statement.actor, signed.head)


def said(subject: str, kinds: Sequence[str], tx: HubTransaction) -> list[Statement]:
    """The statements of these kinds about something, in order. Kinds that only the operator may
    say, so that they are its own."""
    found = []
    pending: dict[Digest, bytes] = {}
    for name in tx.taken_in([subject], kinds=kinds):
        index = tx.log.index_of(name)
        if index is not None:
            (logged,) = tx.log.entries(index, index + 1)
            entry = logged.entry
        else:
            pending = pending or {digest(p.entry): p.entry for p in tx.log.pending(_PENDING_LIMIT)}
            entry = pending[name]
        found.append(read_statement(entry).statement)
    return found


def act(
    what: Act,
    *,
    tx: HubTransaction,
    operator: Operator,
    to: Sequence[PartyId] = (),
    documents: Mapping[Digest, bytes] | None = None,
) -> Digest:
    """An act of the operator: signed, logged and delivered in the caller's transaction."""
    signed = sign_statement(
        what,
        actor=operator.party,
        head=tx.lock_chain(operator.party),
        signer=operator.signer,
        now=operator.clock.now(),
        randomness=operator.randomness,
    )
    append(signed, tx)
    for name, data in (documents or {}).items():
        tx.add_document(name, data)
    tx.lock_inboxes(to)
    for party in dict.fromkeys(to):
        tx.deliver(party, signed.entry, tuple((documents or {}).values()))
    tx.save_outcome(Outcome(signed.digest, True, ""), of=signed.statement)
    return signed.digest
