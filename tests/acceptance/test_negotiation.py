"""Negotiation between a consumer and a holder, in the Dataspace Protocol's states and by its table.

Each party keeps its own copy of where a negotiation stands, and the hub keeps the third; whatever
is said and in whichever order it crosses, the three end the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from crypto import record
from crypto.digest import SALT_BYTES, digest
from crypto.envelope import Envelope
from crypto.identifiers import AgreementId, DealId, NegotiationId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import Act, ChainHead, read_statement, sign_statement
from exchange import evidence
from exchange.errors import IllegalTransition, NotYours, TermsRefused, UnknownSubject
from exchange.node import inbox, outbox
from exchange.node.model import Alarm, Incoming
from exchange.submission import read_submission
from exchange.terms import agreement as agreements
from exchange.terms.agreement import Agreement, Proposal, Terms
from exchange.terms.negotiation import Event, Negotiation, State
from registry.product import DataProduct
from registry.rule import Join
from tests.world import (
    LAB_ROWS,
    START,
    Member,
    World,
    a_world,
    lab_columns,
    list_rows,
    terms_for,
)


@dataclass
class Table:
    """A consumer and a holder with one product, and what they may agree on."""

    world: World
    product: DataProduct
    deal: DealId

    @property
    def consumer(self) -> Member:
        return self.world.members["research"]

    @property
    def holder(self) -> Member:
        return self.world.members["lab"]

    def terms(self, **changes: object) -> Terms:
        return terms_for(self.world, self.product, self.product, **changes)  # type: ignore[arg-type]

    def request(self, **changes: object) -> NegotiationId:
        begun = self.consumer.negotiations.request(self.deal, self.holder.id, self.terms(**changes))
        return begun.id

    def state(self, number: NegotiationId) -> State:
        """Where it stands for everybody, the hub included."""
        found = {member.id: known(member, number) for member in (self.consumer, self.holder)}
        with self.world.store.reading() as tx:
            for negotiation in tx.negotiations_of(self.consumer.id):
                if negotiation.id == number:
                    found[self.world.operator.party] = negotiation
        states = {negotiation.state for negotiation in found.values() if negotiation is not None}
        assert len(found) == 3
        (state,) = states
        return state

    def on_the_table(self, number: NegotiationId) -> Terms:
        negotiation = known(self.holder, number)
        assert negotiation is not None
        with self.holder.node.store.reading() as tx:
            return record.from_bytes(Proposal, tx.document(negotiation.proposal)).terms


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Table:
    world = a_world(tmp_path_factory.mktemp("prepared"))
    product = list_rows(world, "lab", LAB_ROWS, ("person", "s5"), 1000, lab_columns())
    world.settle()
    return Table(world, product, DealId.new(START, SystemRandomness()))


@pytest.fixture
def table(prepared: Table, tmp_path: Path) -> Table:
    return replace(prepared, world=prepared.world.copied_to(tmp_path))


def known(member: Member, number: NegotiationId) -> Negotiation | None:
    with member.node.store.reading() as tx:
        return tx.negotiation(number)


def alarms(member: Member) -> Sequence[Alarm]:
    with member.node.store.reading() as tx:
        return tx.alarms()


def agreements_of(member: Member) -> int:
    with member.node.store.reading() as tx:
        return len(tx.agreements())


def require_quiet(table: Table) -> None:
    for member in table.world.members.values():
        assert [alarm.words for alarm in alarms(member)] == []


def types(table: Table, number: NegotiationId) -> list[str]:
    """What the log says about the negotiation, in order."""
    with table.world.store.reading() as tx:
        logged = [read_statement(one.entry).statement for one in tx.log.entries(0, 1 << 20)]
    return [statement.type for statement in logged if statement.subject == number]


# The way there


def test_a_request_that_is_agreed_is_verified_and_finalised_by_the_nodes(table: Table) -> None:
    number = table.request()
    table.world.settle()
    assert table.state(number) is State.REQUESTED
    table.holder.negotiations.agree(number)
    table.world.settle()
    assert table.state(number) is State.FINALIZED
    assert types(table, number) == [
        "negotiation.requested",
        "negotiation.agreed",
        "negotiation.verified",
        "negotiation.finalized",
    ]
    agreed = known(table.consumer, number)
    assert agreed is not None
    assert agreed.agreement is not None
    for member in (table.consumer, table.holder):
        with member.node.store.reading() as tx:
            (held,) = tx.agreements()
            envelope = Envelope.from_bytes(tx.document(held.digest))
        assert held.digest == agreed.agreement
        agreements.require_signed(
            envelope,
            held.agreement,
            consumer=table.consumer.folder.party,
            holder=table.holder.folder.party,
        )
    require_quiet(table)


def test_counter_offers_go_both_ways_until_one_is_accepted(table: Table) -> None:
    number = table.request(price_minor=Amount(500))
    table.world.settle()
    table.holder.negotiations.counter(number, table.terms(price_minor=Amount(900)))
    table.world.settle()
    assert table.state(number) is State.OFFERED
    table.consumer.negotiations.counter(number, table.terms(price_minor=Amount(700)))
    table.world.settle()
    assert table.state(number) is State.REQUESTED
    table.holder.negotiations.counter(number, table.terms(price_minor=Amount(800)))
    table.world.settle()
    table.consumer.negotiations.accept(number)
    table.world.settle()
    assert table.state(number) is State.ACCEPTED
    assert table.on_the_table(number).price_minor == 800
    table.holder.negotiations.agree(number)
    table.world.settle()
    assert table.state(number) is State.FINALIZED
    with table.consumer.node.store.reading() as tx:
        (held,) = tx.agreements()
    assert held.agreement.terms.price_minor == 800
    assert (held.runs_used, held.epsilon_used) == (0, Fraction(0))
    require_quiet(table)


def test_a_holder_can_begin_with_an_offer(table: Table) -> None:
    world, holder = table.world, table.holder
    number = NegotiationId.new(START, SystemRandomness())
    proposal = a_proposal(table, number, table.terms())
    offered = proposed(Event.OFFERED, proposal)
    with holder.node.store.transaction() as tx:
        outbox.say(offered, [record.to_bytes(proposal)], tx=tx, identity=holder.node.identity)
        tx.save_negotiation(
            Negotiation(
                number,
                table.deal,
                table.consumer.id,
                holder.id,
                table.product.id,
                State.OFFERED,
                agreements.proposal_digest(proposal),
            )
        )
    world.settle()
    assert table.state(number) is State.OFFERED
    table.consumer.negotiations.accept(number)
    world.settle()
    holder.negotiations.agree(number)
    world.settle()
    assert table.state(number) is State.FINALIZED


# The ways out


def _to_requested(table: Table) -> NegotiationId:
    number = table.request()
    table.world.settle()
    return number


def _to_offered(table: Table) -> NegotiationId:
    number = _to_requested(table)
    table.holder.negotiations.counter(number, table.terms(price_minor=Amount(2)))
    table.world.settle()
    return number


def _to_accepted(table: Table) -> NegotiationId:
    number = _to_offered(table)
    table.consumer.negotiations.accept(number)
    table.world.settle()
    return number


def _to_agreed(table: Table) -> NegotiationId:
    """The holder has agreed and the hub knows; the consumer has not heard it."""
    number = _to_accepted(table)
    table.holder.negotiations.agree(number)
    table.holder.node.work()
    return number


def _to_verified(table: Table) -> NegotiationId:
    """The consumer has verified and the hub knows; the holder has not heard it."""
    number = _to_agreed(table)
    table.consumer.node.hear(wait_s=0)
    table.consumer.node.work()
    return number


REACH: dict[State, Callable[[Table], NegotiationId]] = {
    State.REQUESTED: _to_requested,
    State.OFFERED: _to_offered,
    State.ACCEPTED: _to_accepted,
    State.AGREED: _to_agreed,
    State.VERIFIED: _to_verified,
}


@pytest.mark.parametrize("side", ["research", "lab"])
@pytest.mark.parametrize("state", REACH)
def test_either_side_can_end_it_from_every_state_that_is_not_final(
    table: Table, state: State, side: str
) -> None:
    number = REACH[state](table)
    with table.world.store.reading() as tx:
        (at_hub,) = tx.negotiations_of(table.consumer.id)
    assert at_hub.state is state
    ender = table.world.members[side]
    ended = ender.negotiations.terminate(number, "no longer needed")
    assert ended.state is State.TERMINATED
    ender.node.work()
    table.world.settle()
    assert table.state(number) is State.TERMINATED
    assert "negotiation.terminated" in types(table, number)
    assert agreements_of(table.consumer) == agreements_of(table.holder) == 0
    require_quiet(table)


def test_a_termination_that_comes_after_finalisation_changes_nothing(table: Table) -> None:
    number = _to_verified(table)
    table.holder.node.hear(wait_s=0)
    table.holder.node.work()  # finalised at the hub; the consumer has not heard it
    table.consumer.negotiations.terminate(number, "too late")
    table.world.settle()
    assert table.state(number) is State.FINALIZED
    assert agreements_of(table.consumer) == agreements_of(table.holder) == 1
    require_quiet(table)


def test_a_finalisation_that_comes_after_termination_gives_no_agreement(table: Table) -> None:
    number = _to_verified(table)
    table.holder.node.hear(wait_s=0)  # its finalisation waits in the outbox
    table.consumer.negotiations.terminate(number, "in time")
    table.consumer.node.work()
    table.world.settle()
    assert table.state(number) is State.TERMINATED
    assert agreements_of(table.consumer) == agreements_of(table.holder) == 0
    with table.world.store.reading() as tx:
        assert tx.agreements_of(table.deal) == []
    require_quiet(table)


@pytest.mark.parametrize("final", [State.FINALIZED, State.TERMINATED])
@pytest.mark.parametrize("side", ["research", "lab"])
def test_what_is_final_stays_so(table: Table, final: State, side: str) -> None:
    number = _to_requested(table)
    if final is State.FINALIZED:
        table.holder.negotiations.agree(number)
    else:
        table.holder.negotiations.terminate(number, "no")
    table.world.settle()
    desk = table.world.members[side].negotiations
    acts: list[Callable[[], object]] = [
        lambda: desk.terminate(number, "again"),
        lambda: desk.counter(number, table.terms()),
        lambda: desk.accept(number),
        lambda: desk.agree(number),
    ]
    for act in acts:
        with pytest.raises(IllegalTransition):
            act()
    table.world.settle()
    assert table.state(number) is final


# What is not allowed where


def test_nobody_acts_out_of_turn(table: Table) -> None:
    number = _to_requested(table)
    consumer, holder = table.consumer.negotiations, table.holder.negotiations
    first: list[Callable[[], object]] = [
        lambda: consumer.accept(number),  # its own request
        lambda: consumer.agree(number),
        lambda: consumer.counter(number, table.terms()),
        lambda: holder.accept(number),
    ]
    for act in first:
        with pytest.raises(IllegalTransition):
            act()
    holder.counter(number, table.terms(price_minor=Amount(3)))
    table.world.settle()
    second: list[Callable[[], object]] = [
        lambda: holder.counter(number, table.terms()),
        lambda: holder.agree(number),  # nobody has accepted its offer
        lambda: holder.accept(number),
        lambda: consumer.agree(number),
    ]
    for act in second:
        with pytest.raises(IllegalTransition):
            act()
    assert table.state(number) is State.OFFERED


def test_a_party_that_has_no_part_knows_nothing_of_it(table: Table) -> None:
    number = _to_requested(table)
    with pytest.raises(UnknownSubject):
        table.world.members["clinic"].negotiations.terminate(number, "meddling")


BEYOND: dict[str, dict[str, object]] = {
    "purposes": {"purposes": ("research", "marketing")},
    "min_group": {"min_group": 4},
    "currency": {"currency": "CNY"},
}


@pytest.mark.parametrize("clause", BEYOND)
def test_terms_beyond_the_products_rule_cannot_be_put_on_the_table(
    table: Table, clause: str
) -> None:
    with pytest.raises(TermsRefused) as refused:
        table.request(**BEYOND[clause])
    assert refused.value.clause == clause
    number = _to_requested(table)
    with pytest.raises(TermsRefused) as refused:
        table.holder.negotiations.counter(number, table.terms(**BEYOND[clause]))
    assert refused.value.clause == clause


def test_terms_with_a_join_that_the_product_does_not_allow_are_refused() -> None:
    """There is one join so far, so the product is made to allow none but another."""
    terms_joins, product_joins = (Join.REVEALED,), ("hidden",)

    class Rule:
        purposes, joins, min_group = ("research",), product_joins, 5

    class Product:
        rule, currency = Rule(), "TEST"

    class Asked:
        purposes, joins, min_group, currency = ("research",), terms_joins, 5, "TEST"

    with pytest.raises(TermsRefused) as refused:
        agreements.require_within_product(Asked(), Product())  # type: ignore[arg-type]
    assert refused.value.clause == "joins"


# Statements that a party's own node would not make


def a_proposal(table: Table, number: NegotiationId, terms: Terms, **changes: object) -> Proposal:
    return replace(
        Proposal(
            1,
            table.deal,
            number,
            table.consumer.id,
            table.holder.id,
            terms,
            SystemRandomness().draw(SALT_BYTES),
        ),
        **changes,  # type: ignore[arg-type]
    )


def proposed(event: Event, proposal: Proposal) -> Act:
    name = agreements.proposal_digest(proposal)
    return evidence.negotiated(
        event, proposal.negotiation, proposal.deal, proposal=name, document=name
    )


def tell(
    member: Member, sender: Member, act: Act, documents: Sequence[bytes] = ()
) -> Sequence[Alarm]:
    """Put what `sender` signed before a node, past the hub. The alarms that it raises."""
    before = len(alarms(member))
    signed = sign_statement(
        act,
        actor=sender.id,
        head=ChainHead(1000, digest(b"before")),
        signer=sender.folder.signing,
        now=sender.node.identity.clock.now(),
        randomness=SystemRandomness(),
    )
    with member.node.store.reading() as tx:
        place = int(tx.remark("inbox") or 0) + 1
    node = member.node
    message = Incoming(place, signed.entry, tuple(documents))
    inbox.hear(message, node.store, node.hub, node.identity)
    return alarms(member)[before:]


def an_agreement(table: Table, number: NegotiationId, **changes: object) -> Agreement:
    negotiation = known(table.holder, number)
    assert negotiation is not None
    with table.holder.node.store.reading() as tx:
        proposal = record.from_bytes(Proposal, tx.document(negotiation.proposal))
    return replace(
        Agreement(
            v=1,
            id=AgreementId.new(START, SystemRandomness()),
            deal=table.deal,
            negotiation=number,
            consumer=table.consumer.id,
            consumer_document=table.consumer.folder.party.digest,
            holder=table.holder.id,
            holder_document=table.holder.folder.party.digest,
            terms=proposal.terms,
            agreed_at=START,
            salt=SystemRandomness().draw(SALT_BYTES),
        ),
        **changes,  # type: ignore[arg-type]
    )


def agreed(table: Table, envelope: Envelope, number: NegotiationId) -> Act:
    negotiation = known(table.consumer, number)
    assert negotiation is not None
    return evidence.negotiated(
        Event.AGREED,
        number,
        table.deal,
        proposal=negotiation.proposal,
        document=envelope.payload_digest,
    )


DIFFERENT: dict[str, tuple[str, Callable[[Table, Agreement], Agreement]]] = {
    "a higher price": (
        "terms",
        lambda t, a: replace(a, terms=replace(a.terms, price_minor=Amount(1001))),
    ),
    "fewer runs": ("terms", lambda t, a: replace(a, terms=replace(a.terms, runs=1))),
    "a shorter time": (
        "terms",
        lambda t, a: replace(
            a, terms=replace(a.terms, valid_until=a.terms.valid_until - timedelta(days=1))
        ),
    ),
    "another consumer": ("consumer", lambda t, a: replace(a, consumer=t.holder.id)),
    "another deal": (
        "deal",
        lambda t, a: replace(a, deal=DealId.new(START, SystemRandomness())),
    ),
    "another negotiation": (
        "negotiation",
        lambda t, a: replace(a, negotiation=NegotiationId.new(START, SystemRandomness())),
    ),
    "old keys of the consumer": (
        "consumer_document",
        lambda t, a: replace(a, consumer_document=digest(b"another")),
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_an_agreement_that_differs_from_what_was_asked_is_not_signed_by_the_consumer(
    table: Table, what: str
) -> None:
    clause, change = DIFFERENT[what]
    number = _to_requested(table)
    forged = change(table, an_agreement(table, number))
    envelope = agreements.sign_agreement(forged, table.holder.folder.signing)
    (alarm,) = tell(
        table.consumer, table.holder, agreed(table, envelope, number), [envelope.to_bytes()]
    )
    assert alarm.kind == "TermsRefused"
    assert f"{clause}: " in alarm.words
    after = known(table.consumer, number)
    assert after is not None
    assert (after.state, after.agreement) == (State.REQUESTED, None)
    with table.consumer.node.store.reading() as tx:
        assert tx.unsent(5) == []  # it said nothing, and so signed nothing


@pytest.mark.parametrize("signer", ["a stranger's key", "the consumer's own"])
def test_an_agreement_that_the_holder_did_not_sign_is_not_signed_by_the_consumer(
    table: Table, signer: str
) -> None:
    number = _to_requested(table)
    key = SigningKey.generate() if signer == "a stranger's key" else table.consumer.folder.signing
    envelope = agreements.sign_agreement(an_agreement(table, number), key)
    (alarm,) = tell(
        table.consumer, table.holder, agreed(table, envelope, number), [envelope.to_bytes()]
    )
    assert alarm.kind == "UnknownKey"
    after = known(table.consumer, number)
    assert after is not None
    assert after.state is State.REQUESTED


@pytest.mark.parametrize("how", ["unsigned by the consumer", "another agreement"])
def test_a_holder_finalises_nothing_but_its_own_agreement_signed_by_both(
    table: Table, how: str
) -> None:
    number = _to_agreed(table)
    negotiation = known(table.holder, number)
    assert negotiation is not None
    assert negotiation.agreement is not None
    with table.holder.node.store.reading() as tx:
        own = Envelope.from_bytes(tx.document(negotiation.agreement))
    other = agreements.sign_agreement(
        an_agreement(table, number), table.holder.folder.signing
    ).with_signature(table.consumer.folder.signing)
    shown = own if how == "unsigned by the consumer" else other
    act = evidence.negotiated(
        Event.VERIFIED,
        number,
        table.deal,
        proposal=negotiation.proposal,
        document=shown.payload_digest,
    )
    (alarm,) = tell(table.holder, table.consumer, act, [shown.to_bytes()])
    assert alarm.kind == ("UnknownKey" if how == "unsigned by the consumer" else "TermsRefused")
    after = known(table.holder, number)
    assert after is not None
    assert after.state is State.AGREED
    assert agreements_of(table.holder) == 0


@pytest.mark.parametrize(
    ("event", "by"),
    [
        (Event.ACCEPTED, "research"),
        (Event.FINALIZED, "lab"),
        (Event.FINALIZED, "research"),
        (Event.OFFERED, "research"),
        (Event.REQUESTED, "lab"),
    ],
)
def test_a_step_out_of_order_raises_an_alarm_and_changes_nothing(
    table: Table, event: Event, by: str
) -> None:
    number = _to_requested(table)
    sender = table.world.members[by]
    hearer = table.holder if by == "research" else table.consumer
    proposal = a_proposal(table, number, table.terms())
    before = known(hearer, number)
    if event in (Event.OFFERED, Event.REQUESTED):
        act, documents = proposed(event, proposal), [record.to_bytes(proposal)]
    else:
        name = agreements.proposal_digest(proposal)
        act, documents = evidence.negotiated(event, number, table.deal, proposal=name), []
    (alarm,) = tell(hearer, sender, act, documents)
    assert alarm.kind == "IllegalTransition"
    assert known(hearer, number) == before


def test_a_stranger_cannot_take_a_step_in_others_negotiation(table: Table) -> None:
    number = _to_requested(table)
    stranger = table.world.members["clinic"]
    reason = evidence.reason_document(number, "terms", "meddling", SystemRandomness())
    act = evidence.negotiated(
        Event.TERMINATED, number, table.deal, proposal=digest(b"x"), document=digest(reason)
    )
    (alarm,) = tell(table.holder, stranger, act, [reason])
    assert alarm.kind == NotYours.__name__
    assert table.state(number) is State.REQUESTED


@pytest.mark.parametrize("field", ["deal", "consumer", "holder"])
def test_a_counter_offer_cannot_change_who_negotiates_what(table: Table, field: str) -> None:
    number = _to_requested(table)
    values = {
        "deal": DealId.new(START, SystemRandomness()),
        "consumer": table.world.members["regulator"].id,
        "holder": table.world.members["clinic"].id,
    }
    proposal = a_proposal(table, number, table.terms(), **{field: values[field]})
    (alarm,) = tell(
        table.consumer,
        table.holder,
        proposed(Event.OFFERED, proposal),
        [record.to_bytes(proposal)],
    )
    assert alarm.kind == "TermsRefused"
    after = known(table.consumer, number)
    assert after is not None
    assert after.state is State.REQUESTED


def test_a_holder_does_not_agree_to_terms_beyond_its_own_rule_even_if_the_hub_let_them_pass(
    table: Table,
) -> None:
    number = NegotiationId.new(START, SystemRandomness())
    proposal = a_proposal(table, number, table.terms(min_group=4))
    assert not tell(
        table.holder,
        table.consumer,
        proposed(Event.REQUESTED, proposal),
        [record.to_bytes(proposal)],
    )
    with pytest.raises(TermsRefused) as refused:
        table.holder.negotiations.agree(number)
    assert refused.value.clause == "min_group"
    assert known(table.holder, number) is not None


def test_a_replayed_step_raises_an_alarm_and_changes_nothing(table: Table) -> None:
    number = _to_requested(table)
    table.holder.negotiations.agree(number)
    table.world.settle()
    with table.world.store.reading() as tx:
        (again,) = (
            message
            for message in tx.deliveries(table.holder.id, after=0, limit=100)
            if read_statement(message.entry).statement.type == "negotiation.verified"
        )
    with table.holder.node.store.transaction() as node:
        (held,) = node.agreements()
        node.save_agreement(replace(held, runs_used=3))
    node_ = table.holder.node
    with node_.store.reading() as node:
        place = int(node.remark("inbox") or 0) + 1
    message = Incoming(place, again.entry, again.documents)
    inbox.hear(message, node_.store, node_.hub, node_.identity)
    (alarm,) = alarms(table.holder)
    assert alarm.kind == "IllegalTransition"
    with node_.store.reading() as node:
        (after,) = node.agreements()
    assert after.runs_used == 3  # a replay does not refill what was agreed


# At the hub


def _at_the_hub(table: Table, sender: Member, act: Act, documents: Sequence[bytes] = ()) -> str:
    """What the hub answers to a statement that the sender's node would not make."""
    with sender.node.store.reading() as tx:
        head = tx.head()
    signed = sign_statement(
        act,
        actor=sender.id,
        head=head,
        signer=sender.folder.signing,
        now=table.world.clock.now(),
        randomness=SystemRandomness(),
    )
    answer = table.world.service.submit(sender.id, read_submission(signed.entry, documents))
    assert not answer.applied
    return answer.reason


def test_the_hub_refuses_terms_beyond_the_products_rule(table: Table) -> None:
    number = NegotiationId.new(START, SystemRandomness())
    proposal = a_proposal(table, number, table.terms(min_group=4))
    reason = _at_the_hub(
        table, table.consumer, proposed(Event.REQUESTED, proposal), [record.to_bytes(proposal)]
    )
    assert reason.startswith("min_group: ")


def test_the_hub_refuses_an_agreement_that_differs_from_the_proposal(table: Table) -> None:
    number = _to_requested(table)
    forged = an_agreement(table, number)
    forged = replace(forged, terms=replace(forged.terms, runs=1))
    envelope = agreements.sign_agreement(forged, table.holder.folder.signing)
    reason = _at_the_hub(
        table, table.holder, agreed(table, envelope, number), [envelope.to_bytes()]
    )
    assert reason.startswith("terms: ")
    assert table.state(number) is State.REQUESTED


def test_the_hub_refuses_to_finalise_without_both_signatures(table: Table) -> None:
    number = _to_agreed(table)
    negotiation = known(table.holder, number)
    assert negotiation is not None
    act = evidence.negotiated(Event.FINALIZED, number, table.deal, proposal=negotiation.proposal)
    assert "finalized by the holder is not possible" in _at_the_hub(table, table.holder, act)


def test_the_hub_refuses_a_step_of_a_stranger(table: Table) -> None:
    number = _to_requested(table)
    act = evidence.negotiated(Event.TERMINATED, number, table.deal, proposal=digest(b"x"))
    reason = _at_the_hub(table, table.world.members["clinic"], act)
    assert "has no part" in reason
    assert table.state(number) is State.REQUESTED
