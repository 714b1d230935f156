"""What the negotiation table promises, whatever stands in it."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from crypto.digest import digest
from crypto.identifiers import DealId, NegotiationId, PartyId, ProductId
from exchange.errors import IllegalTransition, NotYours
from exchange.terms.negotiation import (
    FINAL,
    TABLE,
    Event,
    Negotiation,
    Side,
    State,
    advance,
    next_state,
)


class Counting:
    """Distinct bytes each time."""

    def __init__(self) -> None:
        self._n = 0

    def draw(self, size: int) -> bytes:
        self._n += 1
        return self._n.to_bytes(size, "big")


NOW = datetime(2026, 11, 23, tzinfo=UTC)
RANDOM = Counting()
CONSUMER, HOLDER, STRANGER = (PartyId(f"pty_{c * 32}") for c in "abc")
WHO = {Side.CONSUMER: CONSUMER, Side.HOLDER: HOLDER}

# A side signs the agreement with this event and no other.
SIGNS = {(Event.AGREED, Side.HOLDER), (Event.VERIFIED, Side.CONSUMER)}


def a_negotiation(state: State) -> Negotiation:
    return Negotiation(
        NegotiationId.new(NOW, RANDOM),
        DealId.new(NOW, RANDOM),
        CONSUMER,
        HOLDER,
        ProductId.new(NOW, RANDOM),
        state,
        digest(b"proposal"),
    )


def test_states_are_spelled_as_the_dataspace_protocol_spells_them() -> None:
    """Dataspace Protocol 2025-1, "Contract Negotiation", states."""
    assert {state.value for state in State} == {
        "REQUESTED",
        "OFFERED",
        "ACCEPTED",
        "AGREED",
        "VERIFIED",
        "FINALIZED",
        "TERMINATED",
    }


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_has_no_way_out(state: State) -> None:
    for event, side in product(Event, Side):
        with pytest.raises(IllegalTransition):
            advance(a_negotiation(state), event, WHO[side])


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
@pytest.mark.parametrize("side", Side)
def test_either_side_can_end_it_anywhere_else(state: State, side: Side) -> None:
    ended = advance(a_negotiation(state), Event.TERMINATED, WHO[side])
    assert ended.state is State.TERMINATED


def paths(to: State) -> list[list[tuple[Event, Side]]]:
    """Every way from nothing to a state that visits no state twice."""
    found: list[list[tuple[Event, Side]]] = []

    def walk(at: State | None, seen: frozenset[State], path: list[tuple[Event, Side]]) -> None:
        if at is to:
            found.append(path)
            return
        for (before, event, side), after in TABLE.items():
            if before is at and after not in seen:
                walk(after, seen | {after}, [*path, (event, side)])

    walk(None, frozenset(), [])
    return found


def test_nothing_is_finalised_without_both_signatures_the_holders_first() -> None:
    ways = paths(State.FINALIZED)
    assert ways
    for way in ways:
        signed = [step for step in way if step in SIGNS]
        assert signed == [(Event.AGREED, Side.HOLDER), (Event.VERIFIED, Side.CONSUMER)]


def test_a_holder_never_agrees_to_what_no_consumer_has_asked_for_or_accepted() -> None:
    for way in paths(State.AGREED):
        asked = {(Event.REQUESTED, Side.CONSUMER), (Event.ACCEPTED, Side.CONSUMER)}
        before = way[way.index((Event.AGREED, Side.HOLDER)) - 1]
        assert before in asked


def test_every_state_can_be_reached() -> None:
    for state in State:
        assert paths(state), state


@pytest.mark.parametrize("state", State)
def test_an_event_that_the_table_does_not_know_changes_nothing(state: State) -> None:
    for event, side in product(Event, Side):
        before = a_negotiation(state)
        kept = Negotiation(**vars(before))
        if (state, event, side) in TABLE:
            continue
        with pytest.raises(IllegalTransition) as refused:
            advance(before, event, WHO[side], proposal=digest(b"x"), agreement=digest(b"y"))
        assert before == kept
        assert (refused.value.subject, refused.value.state) == (before.id, state)


def test_a_stranger_takes_no_step() -> None:
    for state, event in product(State, Event):
        with pytest.raises(NotYours):
            advance(a_negotiation(state), event, STRANGER)


@pytest.mark.parametrize(("event", "side"), list(product(Event, Side)))
def test_only_a_consumers_request_or_a_holders_offer_begins(event: Event, side: Side) -> None:
    begins = {
        (Event.REQUESTED, Side.CONSUMER): State.REQUESTED,
        (Event.OFFERED, Side.HOLDER): State.OFFERED,
    }
    if (event, side) in begins:
        assert next_state("n", None, event, side) is begins[event, side]
    else:
        with pytest.raises(IllegalTransition):
            next_state("n", None, event, side)


def test_terms_and_agreement_stay_unless_a_step_brings_others() -> None:
    offered = advance(
        a_negotiation(State.REQUESTED), Event.OFFERED, HOLDER, proposal=digest(b"counter")
    )
    assert offered.proposal == digest(b"counter")
    accepted = advance(offered, Event.ACCEPTED, CONSUMER)
    assert (accepted.proposal, accepted.agreement) == (digest(b"counter"), None)
    agreed = advance(accepted, Event.AGREED, HOLDER, agreement=digest(b"agreement"))
    verified = advance(agreed, Event.VERIFIED, CONSUMER)
    assert (verified.proposal, verified.agreement) == (digest(b"counter"), digest(b"agreement"))
