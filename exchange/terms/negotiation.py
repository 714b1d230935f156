"""Contract negotiation as one table.

States and events are those of the Dataspace Protocol 2025-1, section "Contract Negotiation"; its
*provider* is our holder. Termination is accepted from both sides in every state that is not final.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from crypto.digest import Digest
from crypto.identifiers import DealId, NegotiationId, PartyId, ProductId
from exchange.errors import IllegalTransition, NotYours


class Side(StrEnum):
    CONSUMER = "consumer"
    HOLDER = "holder"


class State(StrEnum):
    REQUESTED = "REQUESTED"
    OFFERED = "OFFERED"
    ACCEPTED = "ACCEPTED"
    AGREED = "AGREED"
    VERIFIED = "VERIFIED"
    FINALIZED = "FINALIZED"
    TERMINATED = "TERMINATED"


class Event(StrEnum):
    """What is said; as a statement its type is `negotiation.<event>`."""

    REQUESTED = "requested"
    OFFERED = "offered"
    ACCEPTED = "accepted"
    AGREED = "agreed"
    VERIFIED = "verified"
    FINALIZED = "finalized"
    TERMINATED = "terminated"


FINAL: Final = frozenset({State.FINALIZED, State.TERMINATED})

TABLE: Final[Mapping[tuple[State | None, Event, Side], State]] = {
    (None, Event.REQUESTED, Side.CONSUMER): State.REQUESTED,
    (None, Event.OFFERED, Side.HOLDER): State.OFFERED,
    (State.REQUESTED, Event.OFFERED, Side.HOLDER): State.OFFERED,  # a counter-offer
    (State.REQUESTED, Event.AGREED, Side.HOLDER): State.AGREED,
    (State.OFFERED, Event.REQUESTED, Side.CONSUMER): State.REQUESTED,  # a counter-request
    (State.OFFERED, Event.ACCEPTED, Side.CONSUMER): State.ACCEPTED,
    (State.ACCEPTED, Event.AGREED, Side.HOLDER): State.AGREED,  # signed by the holder
    (State.AGREED, Event.VERIFIED, Side.CONSUMER): State.VERIFIED,  # signed by both
    (State.VERIFIED, Event.FINALIZED, Side.HOLDER): State.FINALIZED,
} | {
    (state, Event.TERMINATED, side): State.TERMINATED
    for state in State
    if state not in FINAL
    for side in Side
}


@dataclass(frozen=True)
class Negotiation:
    """proposal: digest of the terms on the table; agreement: of the agreement once signed."""

    id: NegotiationId
    deal: DealId
    consumer: PartyId
    holder: PartyId
    product: ProductId
    state: State
    proposal: Digest
    agreement: Digest | None = None

    def side_of(self, party: PartyId) -> Side:
        if party == self.consumer:
            return Side.CONSUMER
        if party == self.holder:
            return Side.HOLDER
        raise NotYours(f"{party} has no part in {self.id}")


def next_state(subject: str, state: State | None, event: Event, side: Side) -> State:
    """Raises IllegalTransition, naming state and event."""
    try:
        return TABLE[state, event, side]
    except KeyError:
        raise IllegalTransition(subject, state or "not begun", f"{event} by the {side}") from None


def advance(
    negotiation: Negotiation,
    event: Event,
    by: PartyId,
    *,
    proposal: Digest | None = None,
    agreement: Digest | None = None,
) -> Negotiation:
    """The negotiation after `event`. Raises IllegalTransition or NotYours; nothing changed then."""
    state = next_state(negotiation.id, negotiation.state, event, negotiation.side_of(by))
    return replace(
        negotiation,
        state=state,
        proposal=proposal or negotiation.proposal,
        agreement=agreement or negotiation.agreement,
    )
