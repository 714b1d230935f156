"""Anchoring, on a chain that does as told, on the simulated one and on anvil."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from ledger.adapters.anchor_sql import SqlAnchorDatabase
from ledger.adapters.evm import create_key
from ledger.anchor import GWEI, LIFECYCLE, MAX_RESENT, AnchorEvent, Hurry, advance
from ledger.errors import (
    AnchorMoved,
    ChainBehind,
    ChainDisagrees,
    ChainRefused,
    ChainUnreachable,
    WrongChain,
)
from ledger.log import append, integrate
from ledger.ports import (
    Anchor,
    AnchorBackend,
    AnchorState,
    Block,
    ChainHead,
    ChainReceipt,
    Fee,
    Place,
    Transaction,
)
from tests.anchoring import LOG, START, Hub, NewHub, hubs
from tests.chains import (
    ORIGIN,
    EvmChain,
    FakeBackend,
    FakeChain,
    anvil,
    deployed,
    funded,
    simulated,
)

READY, SENT, MINED, FINAL = (
    AnchorState.READY,
    AnchorState.SENT,
    AnchorState.MINED,
    AnchorState.FINAL,
)


@pytest.fixture
def new_hub(tmp_path: Path) -> Iterator[NewHub]:
    with hubs(tmp_path) as new:
        yield new


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain()


# One suite for every chain


@pytest.fixture(scope="module")
def simulated_chain(tmp_path_factory: pytest.TempPathFactory) -> EvmChain:
    return simulated(tmp_path_factory.mktemp("simulated"))


@pytest.fixture(scope="module")
def anvil_chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EvmChain]:
    with anvil() as rpc:
        yield deployed(rpc, funded(rpc, tmp_path_factory.mktemp("anvil") / "key"))


@pytest.fixture(params=["fake", "simulated", "anvil"])
def backend(request: pytest.FixtureRequest) -> AnchorBackend:
    """On a contract that has no head yet: a log of this test's own, but for the fake's chain."""
    if request.param == "fake":
        return FakeChain().backend()
    chain: EvmChain = request.getfixturevalue(f"{request.param}_chain")
    return deployed(chain.rpc, chain.key).backend()


def test_a_chain_takes_a_first_head_and_then_only_what_extends_it(
    backend: AnchorBackend, new_hub: NewHub
) -> None:
    hub = new_hub(backend)
    for start, end in ((0, 5), (5, 9), (9, 70)):
        hub.grow(start, end)
    kept: list[bytes] = []

    def send(size: int, root: bytes, proof: tuple[bytes, ...]) -> None:
        now = backend.head()
        backend.anchor(size, root, proof, nonce=now.nonce, fee=now.fee, keep=kept.append)

    before = backend.head()
    assert (before.size, before.root, before.successor) == (0, bytes(32), None)
    with pytest.raises(ChainRefused):
        send(5, hub.root(5), (bytes(32),))
    assert kept == []  # nothing is kept or sent that the contract would not take
    send(5, hub.root(5), ())
    send(9, hub.root(9), hub.proof(5, 9))
    proof = hub.proof(9, 70)
    for size, root, path in (
        (70, hub.root(70), ()),
        (70, hub.root(70), proof[:-1]),
        (70, hub.root(70), (*proof, bytes(32))),
        (70, hub.root(70), (bytes(32), *proof[1:])),
        (70, bytes(31) + b"\1", proof),
        (9, hub.root(9), ()),
        (5, hub.root(5), ()),
    ):
        with pytest.raises(ChainRefused):
            send(size, root, path)
    send(70, hub.root(70), proof)
    after = backend.head()
    assert (after.size, after.root) == (70, hub.root(70))
    assert after.nonce == before.nonce + 3
    receipts = [backend.receipt(one) for one in kept]
    found = backend.events(0 if before.block == 0 else before.block, after.block)
    assert [(one.size, one.previous_size) for one in found] == [(5, 0), (9, 5), (70, 9)]
    assert [one.root for one in found] == [hub.root(size) for size in (5, 9, 70)]
    assert [one.transaction for one in found] == kept
    assert [one and one.block for one in receipts] == [one.block for one in found]
    assert all(one is not None and not one.reverted and one.gas_used > 0 for one in receipts)
    assert backend.finality() >= after.block
    assert backend.receipt(bytes(31) + b"\1") is None


def test_a_head_goes_from_ready_to_final(backend: AnchorBackend, new_hub: NewHub) -> None:
    hub = new_hub(backend)
    assert hub.round().moved == ()  # nothing has a quorum
    hub.grow(0, 5)
    assert [one.state for one in hub.round().moved] == [READY, SENT]
    assert [one.state for one in hub.round().moved] == [MINED, FINAL]
    (anchor,) = hub.anchors
    assert anchor.root == hub.root(5)
    assert anchor.transaction == anchor.transactions[0].hash
    (event,) = backend.events(anchor.block.number, anchor.block.number)  # type: ignore[union-attr]  # final
    assert (event.size, event.block) == (5, anchor.block)
    assert hub.round().moved == ()


# When to anchor


def test_only_a_tree_that_grew_is_anchored_and_not_before_its_time(
    chain: FakeChain, new_hub: NewHub
) -> None:
    hub = new_hub(chain.backend(), every_s=600, every_entries=100)
    hub.grow(0, 5)
    for _ in range(5):
        hub.round()
    hub.grow(5, 50)
    hub.round(500)
    assert hub.states == [(5, "final")]  # too early, and too few
    hub.round(100)
    hub.round()
    assert hub.states == [(5, "final"), (50, "final")]
    hub.grow(50, 149)
    hub.round()
    assert len(hub.anchors) == 2
    hub.grow(149, 150)
    hub.round()
    assert hub.states[2:] == [(150, "sent")]  # a hundred more: at once
    hub.round(100_000)
    hub.round()
    assert len(hub.anchors) == 3  # the tree has not grown


def test_what_must_be_anchored_at_once_does_not_wait(chain: FakeChain, new_hub: NewHub) -> None:
    hub = new_hub(chain.backend(), every_s=600, at_once_s=60)
    hub.grow(0, 5)
    settled(hub)
    hub.grow(5, 6)
    hub.round(60)
    assert hub.states == [(5, "final")]  # nothing of it hurries
    hub.grow(6, 7, word="urgent")
    hub.grow(7, 8)
    settled(hub)
    assert hub.states == [(5, "final"), (8, "final")]
    hub.round(60)
    hub.grow(8, 9)
    hub.round(60)
    assert len(hub.anchors) == 2  # what hurried is anchored, and what came after does not hurry


def test_a_flood_of_what_hurries_costs_a_transaction_in_so_many_seconds(
    chain: FakeChain, new_hub: NewHub
) -> None:
    hub = new_hub(chain.backend(), every_s=600, at_once_s=60)
    for second in range(130):
        hub.grow(second, second + 1, word="urgent")
        hub.round(1)
    assert [size for size, _ in hub.states] == [1, 61, 121]


def test_a_hub_that_was_restarted_still_hurries(chain: FakeChain, new_hub: NewHub) -> None:
    hub = new_hub(chain.backend(), every_s=600, at_once_s=60)
    hub.grow(0, 1, word="urgent")
    settled(hub)
    hub.grow(1, 2, word="urgent")
    hub.grow(2, 2_500)
    hub.hurry = Hurry(lambda entry: entry == b"urgent 1")  # a new process: it has seen nothing
    hub.round(60)
    assert hub.states == [(1, "final"), (2_500, "sent")]


def test_each_entry_is_looked_at_once(chain: FakeChain, new_hub: NewHub) -> None:
    looked: list[bytes] = []
    hub = new_hub(chain.backend(), every_s=600, at_once_s=1)

    def look(entry: bytes) -> bool:
        looked.append(entry)
        return False

    hub.hurry = Hurry(look)
    hub.grow(0, 5)
    settled(hub)
    for size in (6, 7):
        hub.grow(size - 1, size)
        for _ in range(3):
            hub.round()
    assert looked == [b"entry 5", b"entry 6"]


def test_what_a_day_left_is_anchored_when_it_has_ended(chain: FakeChain, new_hub: NewHub) -> None:
    hub = new_hub(chain.backend(), every_s=86_400)
    hub.clock.time = START.replace(hour=23, minute=59)
    hub.grow(0, 5)
    settled(hub)
    hub.grow(5, 6)
    hub.round(30)
    assert hub.states == [(5, "final")]
    hub.round(30)  # midnight, UTC
    hub.round()
    assert hub.states == [(5, "final"), (6, "final")]
    hub.grow(6, 7)
    hub.round(3600)
    assert len(hub.anchors) == 2  # and not again before the next day has ended


def settled(hub: Hub) -> None:
    for _ in range(2):
        hub.round()


def test_a_head_without_its_quorum_is_not_anchored(chain: FakeChain, new_hub: NewHub) -> None:
    hub = new_hub(chain.backend())
    with hub.log.transaction() as store:
        append(store, b"entry")
    with hub.log.transaction() as store:
        integrate(store, origin=ORIGIN, signer=LOG, now=START)
    hub.round()
    assert hub.anchors == [] and chain.run() == ([], set())


# The table


def test_no_head_is_final_without_having_been_sent_and_mined() -> None:
    for path in itertools.product(AnchorEvent, repeat=4):
        state, passed = READY, []
        for event in path:
            if (state, event) not in LIFECYCLE:
                break
            state = LIFECYCLE[state, event]
            passed.append(state)
        if FINAL in passed:
            before = passed[: passed.index(FINAL)]
            assert SENT in before and before[-1] is MINED


@pytest.mark.parametrize("state", [FINAL, AnchorState.SUPERSEDED])
def test_nothing_leads_out_of_an_end_state(state: AnchorState) -> None:
    anchor = Anchor(Place(1, "0x"), 5, bytes(32), state, START, START, False)
    for event in AnchorEvent:
        with pytest.raises(AnchorMoved):
            advance(anchor, event, at=START)


# The store


def test_of_two_processes_that_move_an_anchor_one_does(
    engine: Engine, create_tables: Callable[..., None]
) -> None:
    create_tables(engine, "ledger_")
    database = SqlAnchorDatabase(engine)
    place = Place(2**62, "0x" + "ab" * 20)
    first = Anchor(place, 2**40, b"\7" * 32, READY, START, START, True)
    sent = Transaction(b"\1" * 32, START, 2**40, Fee(2**50, 2**40))
    other = replace(sent, hash=b"\2" * 32, fee=Fee(7, None))
    with database.transaction() as store:
        assert store.add(first)
        assert not store.add(replace(first, root=b"\x08" * 32))
        assert store.latest(place) == first
        assert store.latest_final(place) is None
    after = advance(first, AnchorEvent.SEND, at=START + timedelta(seconds=1), add=sent)
    late = advance(first, AnchorEvent.SEND, at=START, add=other)
    with database.transaction() as store:
        assert store.replace(first, after)
    with database.transaction() as store:
        assert not store.replace(first, late)
        assert store.open(place) == [after]
        assert store.open(replace(place, chain_id=1)) == []
        assert store.newest(5) == [after]
        assert store.newest(5, below=2**40) == []
    again = advance(after, AnchorEvent.SEND, at=START, add=other)
    with database.transaction() as store:
        assert store.replace(after, again)
    with database.transaction() as store:
        assert store.newest(1) == [again]
        assert [one.hash for one in again.transactions] == [sent.hash, other.hash]


# What goes wrong


def test_a_silent_node_changes_nothing_and_anchoring_goes_on_afterwards(
    chain: FakeChain, new_hub: NewHub
) -> None:
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    chain.silent = True
    before = hub.anchors
    with pytest.raises(ChainUnreachable):
        hub.round()
    assert hub.anchors == before
    chain.silent = False
    hub.round()
    assert hub.states == [(5, "final")]


class Power(Exception):
    """The machine lost power here."""


@pytest.mark.parametrize("left", [False, True], ids=["not sent", "sent"])
def test_a_crash_between_record_and_sending_leaves_a_transaction_that_is_looked_for(
    chain: FakeChain, new_hub: NewHub, left: bool
) -> None:
    backend = chain.backend()
    hub = new_hub(backend)
    hub.grow(0, 5)
    send = backend.anchor

    def crash(*args: Any, keep: Callable[[bytes], None], **more: Any) -> None:
        def keep_and_die(transaction: bytes) -> None:
            keep(transaction)
            if not left:
                raise Power

        send(*args, keep=keep_and_die, **more)
        raise Power

    backend.anchor = crash  # type: ignore[method-assign]  # this once
    with pytest.raises(Power):
        hub.round()
    assert hub.states == [(5, "sent")]  # its hash was stored before it could leave
    backend.anchor = send  # type: ignore[method-assign]  # as it was
    hub.round()
    hub.round()
    assert hub.states == [(5, "final")]
    assert len(hub.anchors[0].transactions) == 1  # the very same, again or not
    assert chain.nonce("a") == 1


def test_a_crash_before_the_record_sends_nothing(chain: FakeChain, new_hub: NewHub) -> None:
    backend = chain.backend()
    hub = new_hub(backend)
    hub.grow(0, 5)
    with hub.database.transaction() as store:
        sent_by_another = store.latest(chain.place)
    assert sent_by_another is None

    original = hub.database.transaction
    rounds = iter([False, False, False, True])

    def failing() -> Any:
        if next(rounds, False):
            raise Power
        return original()

    hub.database.transaction = failing  # type: ignore[method-assign]  # loses power in `keep`
    with pytest.raises(Power):
        hub.round()
    hub.database.transaction = original  # type: ignore[method-assign]  # restarted
    assert hub.states == [(5, "ready")]
    assert chain.pool == [] and chain.nonce("a") == 0
    hub.round()
    hub.round()
    assert hub.states == [(5, "final")]


def test_what_the_node_has_forgotten_is_sent_again(chain: FakeChain, new_hub: NewHub) -> None:
    chain.mining = False
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    chain.pool.clear()
    hub.round()
    assert len(chain.pool) == 1
    chain.mine()
    hub.round()
    assert hub.states == [(5, "final")]
    assert len(hub.anchors[0].transactions) == 1


def test_a_stuck_transaction_is_replaced_by_one_of_the_same_number_that_offers_more(
    chain: FakeChain, new_hub: NewHub
) -> None:
    chain.mining = False
    chain.cheapest = 3 * GWEI
    hub = new_hub(chain.backend(), patience_s=60)
    hub.grow(0, 5)
    hub.round()
    for _ in range(3):
        hub.round(10)
        chain.mine()
    assert len(hub.anchors[0].transactions) == 1  # patient
    for _ in range(6):
        hub.round(70)
        chain.mine()
    hub.round()
    (anchor,) = hub.anchors
    assert anchor.state is FINAL
    sent = anchor.transactions
    assert {one.nonce for one in sent} == {0}
    fees = [one.fee.max_wei for one in sent if one.fee]
    assert all(after >= before * 1.1 for before, after in itertools.pairwise(fees))
    assert anchor.transaction == sent[-1].hash
    assert chain.nonce("a") == 1 and len(chain.run()[0]) == 1


def test_the_first_transaction_counts_even_if_it_is_mined_after_it_was_replaced(
    chain: FakeChain, new_hub: NewHub
) -> None:
    chain.mining = False
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    first = chain.pool[0]
    hub.round(100)
    assert len(hub.anchors[0].transactions) == 2
    chain.pool = [first]
    chain.mine()
    hub.round()
    assert hub.states == [(5, "final")]
    assert hub.anchors[0].transaction == first.hash


def test_no_more_is_offered_than_the_settings_allow(chain: FakeChain, new_hub: NewHub) -> None:
    chain.mining = False
    chain.cheapest = 100 * GWEI
    hub = new_hub(chain.backend(), max_fee_wei=3 * GWEI)
    hub.grow(0, 5)
    for _ in range(10):
        last = hub.round(100)
    assert isinstance(last.waiting, ChainRefused) and "settings allow" in str(last.waiting)
    assert all(one.fee and one.fee.max_wei <= 3 * GWEI for one in hub.anchors[0].transactions)


def test_a_reorganisation_returns_the_head_to_sent_and_it_is_anchored_again(
    chain: FakeChain, new_hub: NewHub
) -> None:
    chain.final = 0
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    hub.round()
    assert hub.states == [(5, "mined")]
    old = hub.anchors[0].block
    chain.reorganise(1)
    moved = hub.round().moved
    assert [one.state for one in moved][:1] == [SENT]
    assert moved[0].block is None and moved[0].transaction is None
    hub.round()
    assert hub.states == [(5, "mined")]
    assert hub.anchors[0].block != old
    chain.final = 10
    hub.round()
    assert hub.states == [(5, "final")]
    assert len(chain.run()[0]) == 1


def test_a_head_that_moves_to_another_block_is_not_final_by_its_old_one(
    chain: FakeChain, new_hub: NewHub
) -> None:
    chain.final = 0
    chain.mining = False
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    chain.mine()
    hub.round()
    (sent,) = chain.blocks[-1][1]
    old = hub.anchors[0].block
    chain.reorganise(1)
    chain.pool.append(sent)
    chain.mine()
    (moved,) = hub.round().moved
    assert moved.state is MINED and moved.block != old
    chain.final = 1  # the old block's number, which holds another block now
    hub.round()
    assert hub.states == [(5, "mined")]
    chain.final = 2
    hub.round()
    assert hub.states == [(5, "final")]


def test_two_heads_that_a_reorganisation_took_back_are_anchored_in_order(
    chain: FakeChain, new_hub: NewHub
) -> None:
    chain.final = 0
    hub = new_hub(chain.backend(), every_entries=1)
    for start, end in ((0, 5), (5, 9)):
        hub.grow(start, end)
        hub.round()
        hub.round()
    assert hub.states == [(5, "mined"), (9, "mined")]
    chain.reorganise(2)
    for _ in range(6):
        hub.round()
    assert hub.states == [(5, "mined"), (9, "mined")]
    assert [one.size for one in chain.run()[0]] == [5, 9]


def test_a_foreign_transaction_that_used_our_number_is_noticed_and_another_is_sent(
    chain: FakeChain, new_hub: NewHub
) -> None:
    chain.mining = False
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    chain.pool.clear()
    chain.spend("a")
    chain.mining = True
    assert [one.state for one in hub.round().moved] == [READY]
    assert [one.state for one in hub.round(70).moved] == [SENT]
    hub.round()
    assert hub.states == [(5, "final")]
    assert [one.nonce for one in hub.anchors[0].transactions] == [0, 1]


class LyingBackend(FakeBackend):
    """Says that one more of the account's transactions is mined each time it is asked, that it
    has never seen ours, and that each needs other gas."""

    def __init__(self, chain: FakeChain) -> None:
        super().__init__(chain, "a")
        self.asked = 0
        self.counting = True
        self.signed: list[int] = []

    def head(self) -> ChainHead:
        self.asked += self.counting
        return replace(super().head(), nonce=self.asked)

    def anchor(
        self,
        size: int,
        root: bytes,
        proof: Sequence[bytes],
        *,
        nonce: int,
        fee: Fee,
        keep: Callable[[bytes], None],
    ) -> None:
        self.signed.append(nonce)
        keep(b"%032d" % len(self.signed))


def test_a_node_that_lies_about_the_numbers_gets_few_signatures(
    chain: FakeChain, new_hub: NewHub
) -> None:
    backend = LyingBackend(chain)
    hub = new_hub(backend, patience_s=60)
    hub.grow(0, 5)
    for _ in range(6 * 60):
        last = hub.round(10)
    # In an hour: after 0, 1, 3, 7, 15 and 31 minutes.
    assert len(backend.signed) == len(set(backend.signed)) == 6
    assert isinstance(last.waiting, ChainRefused) and "ask another one" in str(last.waiting)


def test_a_node_that_forgets_what_it_was_sent_does_not_fill_the_outbox(
    chain: FakeChain, new_hub: NewHub
) -> None:
    backend = LyingBackend(chain)
    backend.counting = False
    hub = new_hub(backend, patience_s=60, max_fee_wei=3 * GWEI)
    hub.grow(0, 5)
    for _ in range(400):
        hub.round(10)
    assert len(backend.signed) == len(hub.anchors[0].transactions)
    # 2 gwei, 13 % more three times, and each a few times again.
    assert len(backend.signed) <= 4 * (1 + MAX_RESENT)
    assert set(backend.signed) == {0}


def test_a_gap_in_the_numbers_is_closed(chain: FakeChain, new_hub: NewHub) -> None:
    """The chain took back a foreign transaction before ours: ours waits for a number that nobody
    will use."""
    chain.spend("a")
    chain.mining = False
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    assert chain.pool[0].nonce == 1
    chain.reorganise(1)
    chain.mine()
    hub.round(70)
    assert [one.nonce for one in hub.anchors[0].transactions] == [1, 0]
    chain.mine()
    hub.round()
    assert hub.states == [(5, "final")]
    taken, reverted = chain.run()
    late, early = hub.anchors[0].transactions
    assert [one.transaction for one in taken] == [early.hash]
    assert reverted == {late.hash}  # its turn came after all, to no effect


def test_a_reverted_transaction_anchors_nothing(chain: FakeChain, new_hub: NewHub) -> None:
    chain.mining = False
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    chain.anchorers.clear()
    chain.mine()
    states = [one.state for one in hub.round().moved]
    assert states == [READY]
    last = hub.round(70)
    assert isinstance(last.waiting, ChainRefused) and "not an anchorer" in str(last.waiting)
    chain.anchorers.add("a")
    chain.mining = True
    chain.blocks[-1] = (chain.blocks[-1][0], ())  # as if never tried
    hub.round()
    hub.round()
    assert hub.states == [(5, "final")]


# Two operators, or one twice


@pytest.fixture
def operators(chain: FakeChain, new_hub: NewHub) -> tuple[Hub, Hub]:
    """Ours and another one, with accounts of their own."""
    return new_hub(chain.backend("a")), new_hub(chain.backend("b"))


def test_the_same_head_anchored_by_another_operator_is_adopted(
    chain: FakeChain, operators: tuple[Hub, Hub]
) -> None:
    ours, theirs = operators
    for hub in (ours, theirs):
        hub.grow(0, 5)
    chain.mining = False
    ours.round()
    theirs.round()
    chain.pool.reverse()
    chain.mining = True
    chain.pool = [one for one in chain.pool if one.account == "b"]
    chain.mine()
    for _ in range(3):
        ours.round()
        theirs.round()
    for hub in (ours, theirs):
        assert hub.states == [(5, "final")]
        assert hub.anchors[0].transaction == chain.run()[0][0].transaction
    assert len(chain.run()[0]) == 1


def test_both_operators_transactions_may_be_mined_and_the_later_has_no_effect(
    chain: FakeChain, operators: tuple[Hub, Hub]
) -> None:
    ours, theirs = operators
    for hub in (ours, theirs):
        hub.grow(0, 5)
    chain.mining = False
    theirs.round()
    chain.mine()
    chain.mine_empty(1)
    backend = chain.backend("a")
    head = replace(backend.head(), size=0)
    backend.head = lambda: head  # type: ignore[method-assign]  # a node that lags
    ours.backend = backend
    chain.check, check = (lambda *_: None), chain.check  # type: ignore[method-assign]  # and says yes
    ours.round()
    chain.check = check  # type: ignore[method-assign]  # as it was
    chain.mine()
    assert len(chain.run()[1]) == 1
    ours.backend = chain.backend("a")
    for _ in range(3):
        ours.round()
    assert ours.states == [(5, "final")]
    assert ours.anchors[0].transactions[-1].nonce is None  # theirs


def test_nodes_that_lag_behind_each_other_cost_time_and_nothing_else(
    chain: FakeChain, new_hub: NewHub
) -> None:
    """Behind one address: the head is the newest node's, receipts and events are another's."""
    backend = chain.backend()
    hub = new_hub(backend)
    hub.grow(0, 5)
    hub.round()
    receipt, events = backend.receipt, backend.events
    backend.receipt = lambda _: None  # type: ignore[method-assign]  # of a node that lags
    backend.events = lambda *_: []  # type: ignore[method-assign]  # likewise
    for _ in range(3):
        hub.round()
    assert hub.states == [(5, "ready")]
    backend.events = events  # type: ignore[method-assign]  # it catches up, half
    hub.round()
    backend.receipt = receipt  # type: ignore[method-assign]  # and wholly
    hub.round()
    hub.round()
    assert hub.states == [(5, "final")]
    assert len(hub.anchors[0].transactions) == chain.nonce("a") == 1


def test_a_head_below_what_another_operator_anchored_is_superseded(
    chain: FakeChain, operators: tuple[Hub, Hub]
) -> None:
    ours, theirs = operators
    chain.anchorers = {"b"}
    ours.grow(0, 5)
    ours.round()
    for hub in (ours, theirs):
        hub.grow(0 if hub is theirs else 5, 9)
    theirs.round()
    chain.anchorers = {"a", "b"}
    ours.round()
    assert ours.states == [(5, "superseded")]
    ours.grow(9, 12)
    ours.round(1000)
    ours.round()
    assert ours.states == [(5, "superseded"), (12, "final")]


def test_another_operators_fork_is_an_alarm_and_changes_nothing(
    chain: FakeChain, operators: tuple[Hub, Hub]
) -> None:
    ours, theirs = operators
    ours.grow(0, 5)
    theirs.grow(0, 5, word="another history")
    theirs.round()
    with pytest.raises(ChainDisagrees, match="forked"):
        ours.round()
    assert ours.anchors == []
    ours.grow(5, 9)
    with pytest.raises(ChainDisagrees, match="forked"):
        ours.round()


def test_a_restored_backup_is_told_by_the_chain_that_it_is_one(
    chain: FakeChain, new_hub: NewHub
) -> None:
    hub, restored = new_hub(chain.backend()), new_hub(chain.backend())
    hub.grow(0, 9)
    hub.round()
    hub.round()
    restored.grow(0, 5)
    with pytest.raises(ChainDisagrees, match="size 9 of this log, which has 5"):
        restored.round()
    assert restored.anchors == []


def test_a_chain_that_lost_what_was_final_is_not_written_to(
    chain: FakeChain, new_hub: NewHub
) -> None:
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    hub.round()
    new = FakeChain()
    hub.backend = new.backend()
    hub.grow(5, 9)
    with pytest.raises(ChainBehind, match="size 5 was final"):
        hub.round(10_000)
    assert new.run() == ([], set()) and hub.states == [(5, "final")]


def test_after_a_hand_over_nothing_is_sent_and_the_successor_is_named(
    chain: FakeChain, new_hub: NewHub
) -> None:
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    chain.hand_over("0x" + "55" * 20)
    hub.grow(5, 9)
    with pytest.raises(WrongChain, match="0x5555"):
        hub.round(10_000)
    assert hub.states == [(5, "final")]  # what was mined before is still followed to its end


def test_every_place_has_an_outbox_of_its_own(chain: FakeChain, new_hub: NewHub) -> None:
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    hub.round()
    successor = FakeChain()
    successor.place = Place(chain.place.chain_id, "0x" + "55" * 20)
    hub.backend = successor.backend()
    hub.round()
    hub.round()
    assert hub.states == [(5, "final"), (5, "final")]
    assert len({one.place for one in hub.anchors}) == 2


def test_an_account_without_money_is_told_and_nothing_is_kept(
    simulated_chain: EvmChain, new_hub: NewHub, tmp_path: Path
) -> None:
    poor = create_key(tmp_path / "poor.key")
    hub = new_hub(deployed(simulated_chain.rpc, simulated_chain.key).backend(key=poor))
    hub.grow(0, 5)
    last = hub.round()
    assert isinstance(last.waiting, ChainRefused)
    assert hub.states == [(5, "ready")]


class Flatterer:
    """A node that says of every transaction that it was mined long ago."""

    def __init__(self, honest: FakeBackend) -> None:
        self._honest = honest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def receipt(self, transaction: bytes) -> ChainReceipt:
        return ChainReceipt(Block(0, bytes(32)))


def test_a_receipt_for_a_head_that_the_contract_does_not_hold_moves_nothing(
    new_hub: NewHub,
) -> None:
    chain = FakeChain(mining=False)
    honest = chain.backend()
    hub = new_hub(Flatterer(honest))
    hub.grow(0, 5)
    for _ in range(3):
        hub.round(1)
        assert hub.states == [(5, SENT)]
    hub.backend, chain.mining = honest, True  # another node, of the same chain
    for _ in range(4):
        hub.round(700)
    assert hub.states == [(5, FINAL)]
