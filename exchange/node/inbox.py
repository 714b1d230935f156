"""Hearing things: other parties' statements, fetched from the hub, checked, and acted on once.

The place in the inbox moves on in the same transaction as whatever the message changed, so each
message takes effect exactly once, whenever this node is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from crypto.errors import CryptoError
from exchange.errors import ExchangeError, HubUnreachable
from exchange.node import asking, jobs, negotiating, trust
from exchange.node.model import Alarm, Identity, Incoming
from exchange.node.ports import Documents, Hub, NodeStore, NodeTransaction
from exchange.submission import Submission, read_submission
from registry.errors import RegistryError

Handler = Callable[[Submission, NodeTransaction, Documents, Identity], None]

HANDLERS: Final[Mapping[str, Handler]] = {
    **{f"negotiation.{event.value}": negotiating.hear for event in negotiating.Event},
    "job.submitted": jobs.hear_submitted,
    "funds.held": jobs.hear_held,
    "job.rejected": jobs.hear_ended,
    "job.admitted": jobs.hear_admitted,
    "job.refused": jobs.hear_ended,
    "job.started": jobs.hear_started,
    "job.sealed": jobs.hear_sealed,
    "job.failed": jobs.hear_ended,
    "job.cancelled": jobs.hear_ended,
    "job.expired": jobs.hear_ended,
    "job.released": jobs.hear_released,
}


def fetch(store: NodeStore, hub: Hub, identity: Identity, *, wait_s: float) -> int:
    """Take in what has arrived. Returns how many messages. Raises HubUnreachable."""
    with store.reading() as tx:
        after = int(tx.remark("inbox") or 0)
    messages = hub.inbox(after=after, wait_s=wait_s)
    for message in messages:
        if message.number <= after:
            continue
        if message.number != after + 1:
            _miss(after + 1, message.number, store, identity)
        hear(message, store, hub, identity)
        after = message.number
    return len(messages)


def hear(message: Incoming, store: NodeStore, hub: Hub, identity: Identity) -> None:
    """Check one message and act on it. One that does not hold raises an alarm and is passed by:
    a lying hub must not be able to stop this node by sending rubbish."""

    def step(tx: NodeTransaction, documents: Documents) -> None:
        try:
            with tx.savepoint():
                submission = read_submission(message.entry, message.documents)
                handler = HANDLERS.get(submission.signed.statement.type)
                if handler is not None:
                    trust.require_said_by_actor(
                        submission.signed, tx=tx, hub=documents, identity=identity
                    )
                    # Each handler keeps the documents it has checked: a sender could bring
                    # somebody else's product again with other signatures around it.
                    handler(submission, tx, documents, identity)
        except HubUnreachable:
            raise  # nothing was decided: the message is heard again
        except (CryptoError, RegistryError, ExchangeError) as error:
            words = f"message {message.number}: {error}"
            tx.add_alarm(Alarm(type(error).__name__, words, identity.clock.now()))
        tx.set_remark("inbox", str(message.number))

    asking.transact(step, store=store, hub=hub)


def _miss(first: int, found: int, store: NodeStore, identity: Identity) -> None:
    """The hub numbers each party's messages without gaps: what is jumped over was left out."""
    words = f"the hub jumped from message {first - 1} to {found}: it left out what is between"
    with store.transaction() as tx:
        tx.add_alarm(Alarm("MessagesMissing", words, identity.clock.now()))
