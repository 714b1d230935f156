"""What goes wrong on the way to a chain, on a real node: anvil."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.adapters.evm import (
    JsonRpc,
    checksummed,
    contract_of,
    deploy_anchor,
    log_id,
    transact,
)
from ledger.contracts import load
from ledger.errors import ChainBehind, ChainDisagrees, WrongChain
from ledger.ports import Place
from tests.anchoring import NewHub, hubs
from tests.chains import ORIGIN, EvmChain, anvil, deployed, funded

GWEI = 10**9


@pytest.fixture
def new_hub(tmp_path: Path) -> Iterator[NewHub]:
    with hubs(tmp_path) as new:
        yield new


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[EvmChain]:
    with anvil() as rpc:
        yield deployed(rpc, funded(rpc, tmp_path / "key"))


def hold(rpc: JsonRpc) -> None:
    """From now on it mines when told."""
    rpc.ask("evm_setAutomine", False)


def mine(rpc: JsonRpc, count: int = 1) -> None:
    rpc.ask("anvil_mine", hex(count))


def spend(chain: EvmChain, nonce: int, wei: int) -> None:
    """Another program uses the account's key for a transfer of its own."""
    fields = {
        "chainId": chain.place.chain_id,
        "nonce": nonce,
        "gas": 21_000,
        "value": 1,
        "to": checksummed("0x" + "11" * 20),
        "gasPrice": wei,
    }
    raw = chain.key.account.sign_transaction(fields).raw_transaction
    chain.rpc.ask("eth_sendRawTransaction", "0x" + bytes(raw).hex())


def administer(chain: EvmChain, act: str, address: str) -> None:
    """As the contract's administrator, who is the same account here."""
    contract = contract_of(load("anchor").abi)
    data = contract.encode_abi(act, args=[log_id(ORIGIN), checksummed(address)])
    call = {"to": chain.place.contract, "data": str(data)}
    transact(chain.rpc, chain.key, chain.place.chain_id, call, 20)


def test_a_reorganisation_takes_an_anchor_back_and_it_is_anchored_again(
    chain: EvmChain, new_hub: NewHub
) -> None:
    hub = new_hub(chain.backend(finality=5), every_entries=1)
    for start, end in ((0, 5), (5, 9)):
        hub.grow(start, end)
        hub.round()
        hub.round()
    assert hub.states == [(5, "mined"), (9, "mined")]
    old = [one.block for one in hub.anchors]
    chain.rpc.ask("anvil_reorg", 2, [])
    assert chain.backend().head().size == 0
    for _ in range(6):
        hub.round()
    assert hub.states == [(5, "mined"), (9, "mined")]
    assert all(one.block not in old for one in hub.anchors)
    mine(chain.rpc, 5)
    hub.round()
    assert hub.states == [(5, "final"), (9, "final")]
    assert [one.size for one in hub.backend.events(0, hub.backend.finality())] == [5, 9]


def test_the_finalized_tag_is_block_0_on_a_short_chain_and_the_head_is_final_later(
    chain: EvmChain, new_hub: NewHub
) -> None:
    hub = new_hub(chain.backend(finality="finalized"))
    hub.grow(0, 5)
    for _ in range(3):
        hub.round()
    assert hub.backend.finality() == 0
    assert hub.states == [(5, "mined")]
    mine(chain.rpc, 70)
    assert hub.backend.finality() > 0
    hub.round()
    assert hub.states == [(5, "final")]


@pytest.mark.slow
def test_a_transaction_that_offers_too_little_is_replaced_under_the_same_number(
    chain: EvmChain, new_hub: NewHub
) -> None:
    hold(chain.rpc)
    hub = new_hub(chain.backend(), patience_s=60)
    hub.grow(0, 5)
    hub.round()
    (first,) = hub.anchors[0].transactions
    chain.rpc.ask("anvil_setNextBlockBaseFeePerGas", hex(first.fee.max_wei + 1))  # type: ignore[union-attr]  # ours
    mine(chain.rpc)
    hub.round()
    assert hub.states == [(5, "sent")]
    hub.round(seconds=70)
    _, second = hub.anchors[0].transactions
    assert second.nonce == first.nonce
    mine(chain.rpc)
    hub.round()
    assert hub.states == [(5, "final")]
    assert hub.anchors[0].transaction == second.hash
    assert hub.backend.receipt(first.hash) is None


@pytest.mark.slow
def test_a_foreign_transaction_under_our_number_is_noticed(
    chain: EvmChain, new_hub: NewHub
) -> None:
    hold(chain.rpc)
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    (first,) = hub.anchors[0].transactions
    assert first.nonce is not None
    spend(chain, first.nonce, 5 * GWEI)
    mine(chain.rpc)
    chain.rpc.ask("evm_setAutomine", True)
    for _ in range(3):
        hub.round(70)
    assert hub.states == [(5, "final")]
    assert [one.nonce for one in hub.anchors[0].transactions] == [first.nonce, first.nonce + 1]


@pytest.mark.slow
def test_a_gap_in_the_numbers_is_closed(chain: EvmChain, new_hub: NewHub) -> None:
    hub = new_hub(chain.backend())
    nonce = hub.backend.head().nonce
    spend(chain, nonce, 5 * GWEI)
    hold(chain.rpc)
    hub.grow(0, 5)
    hub.round()
    chain.rpc.ask("anvil_reorg", 1, [])  # takes the foreign transaction back, for good
    chain.rpc.ask("evm_setAutomine", True)
    for _ in range(4):
        hub.round(70)
    assert hub.states == [(5, "final")]
    assert [one.nonce for one in hub.anchors[0].transactions] == [nonce + 1, nonce]


@pytest.mark.slow
def test_what_the_node_dropped_is_sent_again(chain: EvmChain, new_hub: NewHub) -> None:
    hold(chain.rpc)
    hub = new_hub(chain.backend())
    hub.grow(0, 5)
    hub.round()
    (first,) = hub.anchors[0].transactions
    chain.rpc.ask("anvil_dropTransaction", "0x" + first.hash.hex())
    assert hub.backend.receipt(first.hash) is None
    hub.round()
    mine(chain.rpc)
    hub.round()
    assert hub.states == [(5, "final")]
    assert len(hub.anchors[0].transactions) == 1  # the very same


@pytest.mark.slow
def test_two_operators_anchor_one_log_and_the_slower_adopts(
    chain: EvmChain, new_hub: NewHub, tmp_path: Path
) -> None:
    second = funded(chain.rpc, tmp_path / "second")
    other = EvmChain(chain.rpc, chain.place, second)
    administer(chain, "grant", second.address)
    ours, theirs = new_hub(chain.backend()), new_hub(other.backend())
    for hub in (ours, theirs):
        hub.grow(0, 5)
    hold(chain.rpc)
    ours.round()
    theirs.round()
    mine(chain.rpc)  # both, and one of them reverts
    for _ in range(4):
        ours.round()
        theirs.round()
    assert ours.states == theirs.states == [(5, "final")]
    assert ours.anchors[0].transaction == theirs.anchors[0].transaction
    (event,) = ours.backend.events(0, ours.backend.finality())
    assert event.transaction == ours.anchors[0].transaction
    assert sum(hub.anchors[0].transactions[-1].nonce is None for hub in (ours, theirs)) == 1


@pytest.mark.slow
def test_another_operators_fork_is_found_on_the_chain(
    chain: EvmChain, new_hub: NewHub, tmp_path: Path
) -> None:
    ours, theirs = new_hub(chain.backend()), new_hub(chain.backend())
    theirs.grow(0, 5, word="another history")
    theirs.round()
    ours.grow(0, 9)
    with pytest.raises(ChainDisagrees, match="forked"):
        ours.round()
    assert ours.anchors == []


@pytest.mark.slow
def test_the_chain_outlives_its_node_and_anchoring_goes_on(tmp_path: Path, new_hub: NewHub) -> None:
    state = tmp_path / "chain.json"
    with anvil("--state", str(state)) as rpc:
        chain = deployed(rpc, funded(rpc, tmp_path / "key"))
        hub = new_hub(chain.backend(), every_entries=1)
        hub.grow(0, 5)
        hub.round()
        hub.round()
        hold(rpc)
        hub.grow(5, 9)
        hub.round()
        assert hub.states == [(5, "final"), (9, "sent")]
    with anvil("--state", str(state)) as rpc:  # the waiting transaction is forgotten
        hub.backend = EvmChain(rpc, chain.place, chain.key).backend()
        for _ in range(3):
            hub.round()
        assert hub.states == [(5, "final"), (9, "final")]
    with anvil() as rpc:  # another chain of the same number
        hub.backend = EvmChain(rpc, chain.place, chain.key).backend()
        hub.grow(9, 12)
        with pytest.raises(WrongChain, match="no contract"):
            hub.round(10_000)
        rpc.ask("anvil_setBalance", chain.key.address, hex(10**21))
        again = deploy_anchor(rpc, chain.key, ORIGIN, chain.key.address, patience_s=20)
        assert again.address == chain.place.contract  # by its key and number, on a new chain
        with pytest.raises(ChainBehind, match="size 9 was final"):
            hub.round(10_000)


@pytest.mark.slow
def test_after_a_hand_over_the_hub_names_the_successor(chain: EvmChain, new_hub: NewHub) -> None:
    hub = new_hub(chain.backend(), every_entries=1)
    hub.grow(0, 5)
    hub.round()
    hub.round()
    made = deploy_anchor(chain.rpc, chain.key, ORIGIN, None, patience_s=20)
    successor = EvmChain(chain.rpc, Place(made.chain_id, made.address), chain.key)
    administer(chain, "hand_over", successor.place.contract)
    hub.grow(5, 9)
    with pytest.raises(WrongChain, match=successor.place.contract):
        hub.round()
    administer(successor, "take_over", chain.place.contract)
    administer(successor, "grant", chain.key.address)
    hub.backend = successor.backend()
    hub.round()
    hub.round()
    assert [(one.place, one.size, one.state.value) for one in hub.anchors] == [
        (chain.place, 5, "final"),
        (successor.place, 9, "final"),
    ]
