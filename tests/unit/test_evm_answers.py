"""What the chain's node may answer, and what is no answer; keys of accounts."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from eth_hash.auto import keccak

from ledger.adapters.evm import (
    MAX_UNDER_WAY,
    ChainKey,
    EvmAnchor,
    JsonRpc,
    create_key,
    is_simulated,
    log_id,
    read_key,
    send,
)
from ledger.contracts import load
from ledger.errors import ChainRefused, ChainUnreachable, WrongChain
from ledger.ports import Block, ChainReceipt, Fee, Place
from ledger.verify.merkle import MAX_SIZE
from tests.drip import dripping

PLACE = Place(31337, "0x" + "c0" * 20)
ORIGIN = "log.example/deals"
HASH = "0x" + "ab" * 32
WORD = "00" * 31
# 2 is head of size 5 in block 9; 1 is the successor.
HEAD = f"0x{WORD}05{'07' * 32}{WORD}09"
HONEST: dict[str, Any] = {
    "eth_chainId": "0x7a69",
    "eth_getCode": load("anchor").runtime,
    "eth_getBlockByNumber": {"number": "0xa", "baseFeePerGas": "0x3b9aca00", "hash": HASH},
    "eth_call": HEAD,
    "eth_getTransactionCount": "0x3",
    "eth_maxPriorityFeePerGas": "0x1",
    "eth_blockNumber": "0xa",
    "web3_clientVersion": "Geth/v1",
    "eth_getTransactionReceipt": {
        "transactionHash": HASH,
        "status": "0x1",
        "gasUsed": "0x5208",
        "blockNumber": "0x9",
        "blockHash": "0x" + "cd" * 32,
    },
    "eth_getLogs": [],
    "eth_sendRawTransaction": HASH,
    "eth_estimateGas": "0x5208",
}


def node(**answers: Any) -> JsonRpc:
    """A node that answers honestly, but for what is named; a function decides by the call."""

    def reply(request: httpx2.Request) -> httpx2.Response:
        call = json.loads(request.read())
        found = {**HONEST, **answers}.get(call["method"])
        if callable(found):
            found = found(call["params"])
        if isinstance(found, httpx2.Response):
            return found
        if call["method"] == "eth_call" and call["params"][0]["data"].startswith("0xc3eef03c"):
            found = answers.get("successor", "0x" + "00" * 32)
        return httpx2.Response(200, json={"jsonrpc": "2.0", "id": call["id"], "result": found})

    return JsonRpc("http://node", httpx2.Client(transport=httpx2.MockTransport(reply)))


def backend(rpc: JsonRpc, finality: Any = 1) -> EvmAnchor:
    return EvmAnchor(rpc, PLACE, ORIGIN, ChainKey(b"\1" * 32), finality)


def test_an_honest_node_is_understood() -> None:
    chain = backend(node())
    head = chain.head()
    assert (head.size, head.root, head.block, head.nonce) == (5, b"\7" * 32, 9, 3)
    assert head.successor is None and not head.simulated
    assert head.fee == Fee(2 * 10**9 + 1, 1)
    receipt = chain.receipt(bytes.fromhex(HASH[2:]))
    assert receipt == ChainReceipt(Block(9, b"\xcd" * 32), False, 21_000)
    assert chain.finality() == 10
    assert chain.events(0, 10) == []


LIES: list[Any] = [None, 5, -1, "5", "0x", "0x05", "0xg", [], {}, True, 1.5, "0x" + "f" * 16, ""]


@pytest.mark.parametrize("lie", LIES, ids=repr)
@pytest.mark.parametrize("method", ["eth_chainId", "eth_getTransactionCount"])
def test_a_number_of_another_type_is_no_answer(method: str, lie: Any) -> None:
    with pytest.raises(ChainUnreachable, match=f"{method} outside the protocol"):
        backend(node(**{method: lie})).head()


@pytest.mark.parametrize(
    "lie",
    [None, 5, "0x", "0x" + "00" * 95, "0x" + "00" * 97, "zz", [], {}, "0x" + "ff" * 96],
    ids=repr,
)
def test_a_head_of_another_form_is_no_answer(lie: Any) -> None:
    with pytest.raises(ChainUnreachable):
        backend(node(eth_call=lie)).head()


def test_no_tree_is_as_large_as_a_contract_may_say() -> None:
    largest = f"0x{MAX_SIZE:064x}{'07' * 32}{WORD}09"
    assert backend(node(eth_call=largest)).head().size == MAX_SIZE
    with pytest.raises(ChainUnreachable):
        backend(node(eth_call=f"0x{MAX_SIZE + 1:064x}{'07' * 32}{WORD}09")).head()


@pytest.mark.parametrize("lie", [None, 5, [], "0xa", {}, {"number": 10}, {"number": None}])
def test_a_block_of_another_form_is_no_answer(lie: Any) -> None:
    with pytest.raises(ChainUnreachable):
        backend(node(eth_getBlockByNumber=lie)).head()


def test_a_receipt_of_another_form_or_transaction_is_no_answer() -> None:
    name = bytes.fromhex(HASH[2:])
    honest = HONEST["eth_getTransactionReceipt"]
    for field in honest:
        for lie in (None, 5, "x", "0x", [], "0x" + "ee" * 32, "0x" + "ee" * 31):
            if (field, lie) == ("blockHash", "0x" + "ee" * 32):
                continue
            with pytest.raises(ChainUnreachable):
                backend(node(eth_getTransactionReceipt={**honest, field: lie})).receipt(name)
    with pytest.raises(ChainUnreachable):
        backend(node(eth_getTransactionReceipt=[honest])).receipt(name)


def test_a_transaction_may_be_reverted_waiting_or_unknown() -> None:
    name = bytes.fromhex(HASH[2:])
    reverted = {**HONEST["eth_getTransactionReceipt"], "status": "0x0"}
    found = backend(node(eth_getTransactionReceipt=reverted)).receipt(name)
    assert found is not None and found.reverted
    waiting = node(eth_getTransactionReceipt=None, eth_getTransactionByHash={"hash": HASH})
    assert backend(waiting).receipt(name) == ChainReceipt(None)
    assert backend(node(eth_getTransactionReceipt=None)).receipt(name) is None


def an_event(**changed: Any) -> dict[str, Any]:
    topic = backend(node())._web3().events.Anchored().topic
    found = {
        "address": PLACE.contract,
        "topics": [topic, "0x" + log_id(ORIGIN).hex(), f"0x{WORD}05"],
        "data": f"0x{'07' * 32}{WORD}02",
        "transactionHash": HASH,
        "blockNumber": "0x9",
        "blockHash": "0x" + "cd" * 32,
    }
    return {**found, **changed}


def test_events_are_read_by_hand_and_only_those_that_were_asked_for() -> None:
    (event,) = backend(node(eth_getLogs=[an_event()])).events(9, 9)
    assert (event.size, event.root, event.previous_size) == (5, b"\7" * 32, 2)
    assert (event.transaction.hex(), event.block.number) == (HASH[2:], 9)
    good = an_event()
    for changed in (
        {"address": "0x" + "dd" * 20},
        {"topics": good["topics"][:2]},
        {"topics": [good["topics"][0], HASH, good["topics"][2]]},
        {"topics": [HASH, *good["topics"][1:]]},
        {"topics": None},
        {"data": "0x"},
        {"data": good["data"] + "00"},
        {"transactionHash": None},
        {"blockNumber": None},
    ):
        with pytest.raises(ChainUnreachable):
            backend(node(eth_getLogs=[an_event(**changed)])).events(9, 9)
    with pytest.raises(ChainUnreachable):
        backend(node(eth_getLogs={})).events(9, 9)


def test_another_chain_or_contract_than_the_settings_name_is_said_to_be_one() -> None:
    with pytest.raises(WrongChain, match="of chain 1, and the settings name 31337"):
        backend(node(eth_chainId="0x1")).head()
    with pytest.raises(WrongChain, match="no contract at"):
        backend(node(eth_getCode="0x")).head()
    with pytest.raises(WrongChain, match="not the anchor contract"):
        backend(node(eth_getCode=load("anchor").runtime[:-2] + "00")).head()


def test_a_successor_is_named() -> None:
    word = "0x" + "00" * 12 + "55" * 20
    assert backend(node(successor=word)).head().successor == "0x" + "55" * 20


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(200, content=b"not JSON"),
        httpx2.Response(200, content=b"[" * 200_000),
        httpx2.Response(200, content=b"[]"),
        httpx2.Response(200, content=b'{"jsonrpc":"2.0","id":999,"result":"0x1"}'),
        httpx2.Response(200, content=b'{"jsonrpc":"2.0","id":1}'),
        httpx2.Response(200, content=b'{"jsonrpc":"2.0","id":1,"error":"no"}'),
        httpx2.Response(200, content=b'{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}'),
        httpx2.Response(502, content=b"<html>"),
        httpx2.Response(200, content=b'"' + b"a" * (1 << 24) + b'"'),
        httpx2.Response(200, content=b"\xff\xfe"),
    ],
    ids=lambda one: repr(one.content[:40]),
)
def test_what_is_not_an_answer_of_the_protocol_is_none(response: httpx2.Response) -> None:
    with pytest.raises(ChainUnreachable):
        node(eth_chainId=response).ask("eth_chainId")


def test_the_chains_libraries_do_not_let_nested_json_end_the_process() -> None:
    """They raise Python's limit, for all of the hub, to where the stack overflows first."""
    program = """if True:
        import sys
        from crypto.canonical import decode
        from crypto.errors import Malformed
        from ledger.adapters.evm import ChainKey, checksummed, contract_of
        from ledger.adapters.simulated_chain import SimulatedChain
        from ledger.contracts import load
        limit = sys.getrecursionlimit()
        contract_of(load("anchor").abi), checksummed(ChainKey(b"1" * 32).address)
        assert b"is not JSON" in SimulatedChain().answer(b"[" * 200_000)
        assert sys.getrecursionlimit() == limit
        try:
            decode(b"[" * 200_000)
        except Malformed:
            print("refused")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.stdout == b"refused\n", done.stderr


def test_a_node_that_is_not_there_is_unreachable() -> None:
    with httpx2.Client(trust_env=False) as client, pytest.raises(ChainUnreachable):
        JsonRpc("http://127.0.0.1:9", client).ask("eth_chainId")


@pytest.mark.parametrize("at", ["in its headers", "in its answer"])
def test_a_node_that_answers_drop_by_drop_is_given_up(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.adapters.evm.TIMEOUT_S", 0.3)
    with httpx2.Client(trust_env=False) as client, dripping(at == "in its headers") as url:
        rpc = JsonRpc(url, client)
        with pytest.raises(ChainUnreachable):
            rpc.ask("eth_chainId")


def test_calls_that_were_given_up_cannot_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.adapters.evm.TIMEOUT_S", 0.01)
    threads = threading.active_count()
    held = threading.Event()

    def never(_request: httpx2.Request) -> httpx2.Response:
        held.wait(20)
        return httpx2.Response(500)

    rpc = JsonRpc("http://node", httpx2.Client(transport=httpx2.MockTransport(never)))
    try:
        for _ in range(3 * MAX_UNDER_WAY):
            with pytest.raises(ChainUnreachable):
                rpc.ask("eth_chainId")
        assert threading.active_count() <= threads + MAX_UNDER_WAY
    finally:
        held.set()


def refusing(message: str) -> Callable[[Any], httpx2.Response]:
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": message}}
    return lambda _params: httpx2.Response(200, json=error)


def test_a_transaction_that_the_node_has_already_was_sent() -> None:
    send(node(eth_sendRawTransaction=refusing("already known")), b"\1")
    with pytest.raises(ChainRefused, match="nonce too low"):
        send(node(eth_sendRawTransaction=refusing("nonce too low")), b"\1")


def test_what_the_chain_would_revert_is_neither_kept_nor_sent() -> None:
    kept: list[bytes] = []
    chain = backend(node(eth_estimateGas=refusing("execution reverted: size must grow")))
    with pytest.raises(ChainRefused, match="size must grow"):
        chain.anchor(5, b"\7" * 32, [], nonce=0, fee=Fee(1, None), keep=kept.append)
    assert kept == []


def test_a_node_that_asks_for_more_gas_than_an_anchor_needs_gets_no_signature() -> None:
    kept: list[bytes] = []
    for gas, signs in ((400_000, True), (400_001, False)):
        chain = backend(node(eth_estimateGas=hex(gas)))
        with contextlib.nullcontext() if signs else pytest.raises(ChainRefused, match="never"):
            chain.anchor(5, b"\7" * 32, [], nonce=0, fee=Fee(1, None), keep=kept.append)
        assert len(kept) == 1


def test_a_transaction_is_kept_under_its_own_hash_before_it_is_sent() -> None:
    kept: list[bytes] = []
    sent: list[tuple[int, bytes]] = []

    def take(params: Any) -> str:
        sent.append((len(kept), bytes.fromhex(params[0][2:])))
        return HASH

    chain = backend(node(eth_sendRawTransaction=take))
    for fee in (Fee(2 * 10**9, 10**9), Fee(10**9, None)):
        chain.anchor(5, b"\7" * 32, [], nonce=4, fee=fee, keep=kept.append)
    assert [before for before, _ in sent] == [1, 2]
    assert kept == [keccak(raw) for _, raw in sent]
    assert sent[0][1][0] == 2 and sent[1][1][0] >= 0xC0  # EIP-1559, and a legacy list


@pytest.mark.parametrize(
    "finality, block, expected",
    [(1, "0xa", 10), (6, "0xa", 5), ("finalized", "0x0", 0), ("finalized", "0x8", 8)],
)
def test_finality_is_the_rule_of_the_settings(finality: Any, block: str, expected: int) -> None:
    asked: list[Any] = []

    def at(params: Any) -> Any:
        asked.append(params[0])
        return {"number": block}

    assert backend(node(eth_getBlockByNumber=at), finality).finality() == expected
    assert asked == (["finalized"] if finality == "finalized" else [])


def test_a_chain_of_the_old_kind_has_one_price() -> None:
    rpc = node(eth_getBlockByNumber={"number": "0xa"}, eth_gasPrice="0x5")
    assert backend(rpc).head().fee == Fee(5, None)


@pytest.mark.parametrize(
    "name, simulated",
    [
        ("unseen-simulated-chain (not durable)", True),
        ("anvil/v1.7.1", True),
        ("EthereumTester/0.14", True),
        ("Geth/v1.16", False),
        ("besu/v25", False),
    ],
)
def test_a_development_chain_says_so_by_its_name(name: str, simulated: bool) -> None:
    assert is_simulated(node(web3_clientVersion=name)) is simulated


# Keys


def test_a_key_is_made_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "anchor.key"
    key = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path).address == key.address
    assert path.read_text().strip()[2:] not in repr(key) + repr(key.__dict__.get("account"))
    with pytest.raises(ChainRefused, match="exists"):
        create_key(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x" + "11" * 32,
        "11" * 32 + "\n",
        "0x" + "11" * 31 + "\n",
        "0x" + "1G" * 32 + "\n",
        "0x" + "00" * 32 + "\n",
        "0x" + "ff" * 32 + "\n",
        "0x" + "11" * 32 + "\n\n",
        "é" * 40,
    ],
)
def test_what_is_not_a_key_is_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ChainRefused) as refused:
        read_key(path)
    assert "1111" not in str(refused.value)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_key(path)
    path.chmod(0o640)
    with pytest.raises(ChainRefused, match="chmod 600"):
        read_key(path)
    if os.geteuid() != 0:
        path.chmod(0o000)
    with pytest.raises(ChainRefused):
        read_key(tmp_path / "absent")
