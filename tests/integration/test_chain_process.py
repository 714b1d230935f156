"""A development chain, a key and a contract by command, and a hub that anchors there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.demo.processes import Process, start_all
from api.operator import create_hub
from api.settings import HubSettings, SettingsRefused
from api.wiring.hub import Anchorer, OpenedHub, loops_of, open_hub
from crypto.ports import SystemClock
from exchange.hub import background
from ledger.adapters.anchor_sql import SqlAnchorDatabase
from ledger.adapters.evm import JsonRpc, contract_of, create_key, log_id
from ledger.anchor import AnchorRules
from ledger.contracts import load
from ledger.errors import ChainRefused
from ledger.log import append
from ledger.ports import AnchoredEvent, Block
from tests.chains import FakeBackend, FakeChain, need_anvil

PROGRAM = str(Path(sys.executable).parent / "exchange")
ORIGIN = "unseen.test/log"


def command(*arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [PROGRAM, *map(str, arguments), "--json"], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def started(name: str, folder: Path, *arguments: object) -> Process:
    return start_all({name: ([str(a) for a in arguments], folder / f"{name}.log")})[name]


def ask(url: str, method: str, *params: object) -> Any:
    with httpx2.Client(trust_env=False) as client:
        return JsonRpc(url, client).ask(method, *params)


def until(true: Callable[[], Any], patience_s: float = 40) -> Any:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def a_hub(folder: Path, more: str = "") -> HubSettings:
    made = create_hub(
        folder,
        "Operator",
        ORIGIN,
        listen="127.0.0.1:0",
        public_url=None,
        relay_listen=None,
        now=SystemClock().now(),
    )
    with made.settings.open("a") as file:
        file.write(more)
    return HubSettings.load(made.settings)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Path]]:
    """The simulated chain as a process, and the key of an account with money there."""
    folder = tmp_path_factory.mktemp("chain")
    made = command("chain", "init", folder / "anchor.key")
    process = started("chain", folder, "chain", "dev", "--fund", made["address"])
    yield process, folder / "anchor.key"
    process.stop()
    assert process.child.returncode == 0


def test_the_simulated_chain_says_everywhere_what_it_is(chain: tuple[Process, Path]) -> None:
    process, _ = chain
    assert process.ready["simulated"] is True and process.ready["durable"] is False
    assert "SIMULATED CHAIN, NOT DURABLE" in process.log.read_text()
    name = ask(process.ready["url"], "web3_clientVersion")
    assert "simulated" in name and "not durable" in name
    assert process.ready["client"] == name
    assert process.ready["url"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("method", ["eth_sendTransaction", "eth_accounts", "evm_mine", "eth_sign"])
def test_the_simulated_chain_signs_for_nobody(chain: tuple[Process, Path], method: str) -> None:
    with pytest.raises(Exception, match="not offered by a simulated chain"):
        ask(chain[0].ready["url"], method)


@pytest.mark.parametrize("body", [b"", b"{", b"5", b"[]", b'{"method": 5}', b'{"method": "x"}'])
def test_what_is_not_a_request_is_answered_with_an_error(
    chain: tuple[Process, Path], body: bytes
) -> None:
    answer = httpx2.post(chain[0].ready["url"], content=body, trust_env=False)
    found = answer.json()
    assert found == [] or found["error"]["code"] < 0


@pytest.mark.slow
def test_a_contract_that_is_to_take_a_log_over_is_deployed_with_nothing_begun_or_granted(
    chain: tuple[Process, Path],
) -> None:
    process, key = chain
    url = process.ready["url"]
    deploy = ("chain", "deploy", "--rpc", url, "--key", key, "--log", ORIGIN)
    contract = contract_of(load("anchor").abi)
    begun = str(contract.encode_abi("begun", args=[log_id(ORIGIN)]))
    for options, expected in (((), 1), (("--continues",), 0)):
        made = command(*deploy, *options)
        assert (made["anchorer"] is None) is (expected == 0)
        answer = ask(url, "eth_call", {"to": made["contract"], "data": begun}, "latest")
        assert int(answer, 16) == expected
    done = subprocess.run(
        [PROGRAM, *map(str, deploy), "--continues", "--anchorer", "0x" + "11" * 20],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "--anchorer" in done.stderr


@pytest.mark.slow
def test_a_hub_anchors_where_deploy_says_and_shows_how_far_each_head_is(
    chain: tuple[Process, Path], tmp_path: Path
) -> None:
    process, key = chain
    made = command(
        *("chain", "deploy", "--rpc", process.ready["url"], "--key", key, "--log", ORIGIN)
    )
    assert made["simulated"] is True and made["administrator"] == made["anchorer"]
    table = {name: made[name] for name in ("rpc_url", "chain_id", "contract", "finality")}
    lines = [f"{name} = {json.dumps(value)}" for name, value in table.items()]
    more = "\n".join(["[anchor]", *lines, f'key_file = "{key}"', "poll_s = 0.1", ""])
    a_hub(tmp_path / "hub", more)
    hub = started("hub", tmp_path, "hub", "--settings", tmp_path / "hub" / "settings.toml")
    try:

        def anchors() -> dict[str, Any]:
            answer = httpx2.get(hub.ready["url"] + "/v1/log/anchors", trust_env=False)
            found: dict[str, Any] = answer.json()
            return found

        found = until(lambda: (now := anchors())["anchors"] and now)
        until(lambda: anchors()["anchors"][0]["state"] == "final")
        found = anchors()
        assert found["anchoring"] == {
            "chain_id": made["chain_id"],
            "contract": made["contract"],
            "problem": None,
        }
        (one,) = found["anchors"]
        assert one["simulated"] is True and one["size"] >= 1
        receipt = ask(process.ready["url"], "eth_getTransactionReceipt", one["transaction"])
        assert receipt["status"] == "0x1" and int(receipt["blockNumber"], 16) == one["block_number"]
        checkpoint = httpx2.get(hub.ready["url"] + "/v1/log/checkpoint", trust_env=False).text
        assert int(checkpoint.splitlines()[1]) >= one["size"]
    finally:
        hub.stop()
    assert '"simulated": true' in hub.log.read_text()
    leave = ("chain", "hand-over", "--rpc", process.ready["url"], "--key", key, "--log", ORIGIN)
    moved = command(*leave, "--from", made["contract"])
    assert moved["sent"] == ["deploy", "hand_over", "take_over", "grant"]
    assert moved["size"] >= one["size"] and moved["predecessor"] == made["contract"]
    assert command(*leave, "--from", made["contract"]) == {**moved, "sent": []}


# A hub whose chain does as told


def grow(hub: OpenedHub, count: int = 1) -> None:
    with hub.store.transaction() as tx:
        for number in range(count):
            append(tx.log, os.urandom(8) + bytes([number]))


def opened(folder: Path, chain: FakeChain) -> OpenedHub:
    hub = open_hub(a_hub(folder))
    rules = AnchorRules(every_entries=1)
    anchorer = Anchorer(FakeBackend(chain, "a"), SqlAnchorDatabase(hub.engine), rules, 0.05)
    return replace(hub, anchorer=anchorer)


def test_a_fork_on_the_chain_stops_the_signing(tmp_path: Path) -> None:
    chain = FakeChain()
    hub = opened(tmp_path / "hub", chain)
    assert hub.anchorer is not None
    settings = HubSettings.load(tmp_path / "hub" / "settings.toml")
    with loops_of(hub, settings) as loops:
        loops.start()
        until(lambda: chain.run()[0])
        taken = chain.run()[0][0]
        fork = AnchoredEvent(taken.size, bytes(32), 0, taken.transaction, Block(1, bytes(32)))
        chain.run = lambda: ([fork], set())  # type: ignore[method-assign]  # another history
        until(lambda: hub.fault.words)
        assert "another root" in str(hub.fault.words)
        before = hub.service.checkpoint()
        grow(hub)
        time.sleep(0.5)
        assert hub.service.checkpoint() == before
        assert hub.anchorer.state.problem is not None
    hub.close()


def test_a_chain_that_does_not_answer_stops_nothing_but_the_anchoring(tmp_path: Path) -> None:
    chain = FakeChain(silent=True)
    hub = opened(tmp_path / "hub", chain)
    anchorer = hub.anchorer
    assert anchorer is not None
    settings = HubSettings.load(tmp_path / "hub" / "settings.toml")
    with loops_of(hub, settings) as loops:
        loops.start()
        until(lambda: anchorer.state.problem)
        before = hub.service.checkpoint()
        grow(hub)
        until(lambda: hub.service.checkpoint() != before)
        assert hub.fault.words is None
        chain.silent = False
        until(lambda: chain.run()[0])
        until(lambda: anchorer.state.problem is None)
    hub.close()


def test_a_hub_compares_with_the_chain_before_it_signs_anything_after_a_start(
    tmp_path: Path,
) -> None:
    chain = FakeChain()
    hub = opened(tmp_path / "hub", chain)
    ahead = AnchoredEvent(1000, bytes(32), 0, bytes(32), Block(0, bytes(32)))
    chain.run = lambda: ([ahead], set())  # type: ignore[method-assign]  # what was lost here
    from ledger.anchor import ChainHolder

    holder = ChainHolder(ORIGIN, FakeBackend(chain, "a"))
    hub = replace(hub, keeping=replace(hub.keeping, holders=[holder]))
    with pytest.raises(Exception, match="1000"):
        background.require_newest(hub.keeping)
    hub.close()


@pytest.mark.slow
def test_without_an_anchor_in_its_settings_the_hub_says_that_it_anchors_nowhere(
    tmp_path: Path,
) -> None:
    a_hub(tmp_path / "hub")
    hub = started("hub", tmp_path, "hub", "--settings", tmp_path / "hub" / "settings.toml")
    try:
        found = httpx2.get(hub.ready["url"] + "/v1/log/anchors", trust_env=False).json()
        assert found == {"anchoring": None, "anchors": []}
        assert "anchor.none" in hub.log.read_text()
    finally:
        hub.stop()


GOOD = {
    "rpc_url": '"http://127.0.0.1:1"',
    "chain_id": "1",
    "contract": f'"0x{"ab" * 20}"',
    "finality": '"finalized"',
}


@pytest.mark.parametrize(
    "name, value",
    [
        ("rpc_url", '"ftp://chain"'),
        ("chain_id", "0"),
        ("contract", '"0x12"'),
        ("contract", f'"{"ab" * 20}"'),
        ("finality", '"latest"'),
        ("finality", "0"),
        ("finality", None),
        ("every_s", "0"),
        ("every_hours", "1"),
    ],
)
def test_settings_of_anchoring_that_cannot_be_are_refused(
    tmp_path: Path, name: str, value: str | None
) -> None:
    table = {**GOOD, name: value}
    lines = [f"{key} = {text}" for key, text in table.items() if text is not None]
    with pytest.raises(SettingsRefused, match=name):
        a_hub(tmp_path / "hub", "\n".join(["[anchor]", *lines, ""]))


def test_settings_of_anchoring_can_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"rpc_url": "http://c", "chain_id": 5, "contract": "0x" + "AB" * 20, "finality": 3}
    monkeypatch.setenv("UNSEEN_HUB_ANCHOR", json.dumps(table))
    settings = a_hub(tmp_path / "hub")
    assert settings.anchor is not None and settings.anchor.finality == 3
    with pytest.raises(ChainRefused, match="cannot be read"):
        open_hub(settings)  # there is no key yet
    create_key(settings.folder / "anchor.key")
    hub = open_hub(settings)
    assert hub.anchorer is not None
    assert hub.anchorer.backend.place.contract == "0x" + "ab" * 20
    hub.close()


# anvil


@pytest.mark.slow
def test_without_anvil_the_command_says_where_it_comes_from(tmp_path: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "chain", "dev", "--anvil"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 2 and "npm install @foundry-rs/anvil" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_the_simulated_chain_keeps_no_state_and_says_so() -> None:
    done = subprocess.run(
        [PROGRAM, "chain", "dev", "--state", "file"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "--anvil" in done.stderr


@pytest.mark.slow
def test_anvil_keeps_its_chain_from_one_start_to_the_next(tmp_path: Path) -> None:
    need_anvil()
    key = create_key(tmp_path / "key")
    dev = ("chain", "dev", "--anvil", "--state", tmp_path / "state.json", "--fund", key.address)
    first = started("first", tmp_path, *dev)
    url = first.ready["url"]
    made = command("chain", "deploy", "--rpc", url, "--key", tmp_path / "key", "--log", ORIGIN)
    assert first.ready["durable"] is True and first.ready["simulated"] is True
    first.stop()
    assert first.child.returncode == 0
    second = started("second", tmp_path, *dev)
    code = ask(second.ready["url"], "eth_getCode", made["contract"], "latest")
    assert len(code) > 1000
    second.stop()


@pytest.mark.slow
def test_anvil_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    need_anvil()
    process = started("chain", tmp_path, "chain", "dev", "--anvil")
    assert ask(process.ready["url"], "eth_chainId") == "0x7a69"
    process.child.send_signal(signal.SIGKILL)
    process.child.wait()

    def gone() -> bool:
        try:
            ask(process.ready["url"], "eth_chainId")
        except Exception:
            return True
        return False

    until(gone)
