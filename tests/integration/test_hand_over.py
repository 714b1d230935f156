"""A log moves to another anchor contract: on the chain by command, and in the log by the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.operator import create_hub
from api.settings import AnchorSettings, HubSettings
from api.wiring.hub import open_hub
from crypto.ports import SystemClock
from exchange.hub import background, log_history
from ledger.adapters.evm import JsonRpc, create_key, deploy_anchor
from ledger.adapters.evm_hand_over import HandedOver, hand_over
from ledger.errors import ChainRefused, ChainUnreachable, WrongChain
from ledger.verify.history import ANCHOR_CHANGES, read_anchor
from tests.chains import ORIGIN, EvmChain, simulated

ROOT = b"\x01" * 32
STEPS = ("deploy", "hand_over", "take_over", "grant")


class CutShort(JsonRpc):
    """The line to the node breaks right after the nth transaction has left."""

    def __init__(self, whole: JsonRpc, after: int) -> None:
        self._whole = whole
        self._left = after

    def ask(self, method: str, *params: object) -> Any:
        found = self._whole.ask(method, *params)
        if method == "eth_sendRawTransaction":
            self._left -= 1
            if self._left == 0:
                raise ChainUnreachable("the line broke")
        return found


class NamesItsOwn(JsonRpc):
    """A node that says of each new contract that it is one of the node's own."""

    def __init__(self, whole: JsonRpc, own: str | None) -> None:
        self._whole = whole
        self._own = own

    def ask(self, method: str, *params: object) -> Any:
        found = self._whole.ask(method, *params)
        made = isinstance(found, dict) and found.get("contractAddress")
        return {**found, "contractAddress": self._own} if made else found


@pytest.fixture
def chain(tmp_path: Path) -> EvmChain:
    """A contract that holds a head of 7 entries."""
    chain = simulated(tmp_path)
    now = chain.backend().head()
    chain.backend().anchor(7, ROOT, (), nonce=now.nonce, fee=now.fee, keep=lambda _: None)
    return chain


def handed(chain: EvmChain, rpc: JsonRpc | None = None, to: str | None = None) -> HandedOver:
    return hand_over(
        rpc or chain.rpc,
        chain.key,
        ORIGIN,
        chain.place.contract,
        chain.key.address,
        successor=to,
        patience_s=5,
    )


def sent(chain: EvmChain) -> int:
    return chain.rpc.quantity("eth_getTransactionCount", chain.key.address, "latest")


def test_the_successor_goes_on_from_the_last_head_and_anchors(chain: EvmChain) -> None:
    done = handed(chain)
    assert (done.size, done.sent) == (7, STEPS)
    after = EvmChain(chain.rpc, done.successor, chain.key).backend().head()
    assert (after.size, after.root, after.successor) == (7, ROOT, None)
    assert chain.backend().head().successor == done.successor.contract


@pytest.mark.parametrize("after", range(1, 5))
def test_a_hand_over_that_was_cut_short_is_ended_by_repeating_it(
    chain: EvmChain, after: int
) -> None:
    before = sent(chain)
    with pytest.raises(ChainUnreachable):
        handed(chain, CutShort(chain.rpc, after))
    assert handed(chain).sent == STEPS[after:]
    assert sent(chain) == before + len(STEPS)  # nothing was sent twice, and one contract made


def test_a_hand_over_that_was_made_is_repeated_without_effect(chain: EvmChain) -> None:
    done = handed(chain)
    before = sent(chain)
    assert handed(chain) == HandedOver(done.successor, 7, ())
    assert sent(chain) == before


def test_a_successor_that_was_deployed_before_is_taken(chain: EvmChain) -> None:
    made = deploy_anchor(chain.rpc, chain.key, ORIGIN, None, patience_s=5)
    done = handed(chain, to=made.address)
    assert (done.successor.contract, done.sent) == (made.address, STEPS[1:])


@pytest.mark.parametrize("own", ["0x" + "11" * 20, "", None])
def test_a_node_that_names_a_contract_of_its_own_as_the_new_one_gets_no_log(
    chain: EvmChain, own: str | None
) -> None:
    with pytest.raises(ChainUnreachable, match="eth_getTransactionReceipt"):
        handed(chain, NamesItsOwn(chain.rpc, own))
    assert chain.backend().head().successor is None
    assert handed(chain).sent == STEPS[1:]  # the real one is there, and is gone on with


def test_a_log_that_went_to_one_contract_goes_to_no_other(chain: EvmChain) -> None:
    handed(chain)
    elsewhere = deploy_anchor(chain.rpc, chain.key, ORIGIN, None, patience_s=5)
    with pytest.raises(ChainRefused, match="has handed this log over to"):
        handed(chain, to=elsewhere.address)


def test_a_successor_that_began_the_log_anew_is_refused_and_nothing_ends(chain: EvmChain) -> None:
    anew = deploy_anchor(chain.rpc, chain.key, ORIGIN, chain.key.address, patience_s=5)
    with pytest.raises(ChainRefused, match="has begun it"):
        handed(chain, to=anew.address)
    assert chain.backend().head().successor is None


def test_what_is_no_anchor_contract_takes_nothing_over(chain: EvmChain) -> None:
    with pytest.raises(WrongChain):
        handed(chain, to="0x" + "11" * 20)
    with pytest.raises(ChainRefused, match="is not an address"):
        handed(chain, to="0x11")
    assert chain.backend().head().successor is None


def test_only_the_administrator_of_both_hands_over(chain: EvmChain, tmp_path: Path) -> None:
    thief = create_key(tmp_path / "thief.key")
    with pytest.raises(ChainRefused, match="the administrator of"):
        hand_over(
            chain.rpc,
            thief,
            ORIGIN,
            chain.place.contract,
            thief.address,
            successor=None,
            patience_s=5,
        )


def test_a_log_without_a_head_has_nothing_to_hand_over(tmp_path: Path) -> None:
    chain = simulated(tmp_path)
    before = sent(chain)
    with pytest.raises(ChainRefused, match="nothing to hand over"):
        handed(chain)
    assert sent(chain) == before


# What the hub says of it in the log


@pytest.fixture
def settings(tmp_path: Path) -> HubSettings:
    made = create_hub(
        tmp_path / "hub",
        "Operator",
        ORIGIN,
        listen="127.0.0.1:0",
        public_url=None,
        relay_listen=None,
        now=SystemClock().now(),
    )
    create_key(tmp_path / "hub" / "anchor.key")
    return HubSettings.load(made.settings)


def said(settings: HubSettings, contract: str | None) -> list[tuple[int | None, str | None]]:
    """One start with that contract: every place that the log names since its beginning."""
    anchor = None
    if contract is not None:
        anchor = AnchorSettings(
            rpc_url="http://127.0.0.1:1", chain_id=5, contract=contract, finality=1
        )
    hub = open_hub(settings.model_copy(update={"anchor": anchor}))
    try:
        while background.order(hub.store, hub.operator, hub.keeping):
            pass
        with hub.store.reading() as tx:
            found = [s for s in log_history.statements(ORIGIN, tx) if s.type in ANCHOR_CHANGES]
            read = [read_anchor(0, one) for one in found]
            return [(one.chain_id, one.contract) for one in read]
    finally:
        hub.close()


def test_the_log_says_where_it_is_anchored_whenever_that_changes(settings: HubSettings) -> None:
    first, second = "0x" + "aA" * 20, "0x" + "bb" * 20
    assert said(settings, None) == []  # never anchored: nothing to say
    one = (5, first.lower())
    assert said(settings, first) == [one]
    assert said(settings, first.lower()) == [one]
    two = (5, second)
    assert said(settings, second) == [one, two]
    assert said(settings, None) == [one, two, (None, None)]
    assert said(settings, None) == [one, two, (None, None)]
    assert said(settings, second) == [one, two, (None, None), two]
