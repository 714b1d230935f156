"""The audit of an anchor, over a chain's own JSON-RPC: what it holds is compared with the log."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from eth_hash.auto import keccak

from crypto.statement import Act
from ledger.adapters.evm import ChainKey, EvmAnchor, JsonRpc, create_key, deploy_anchor
from ledger.adapters.simulated_chain import SimulatedChain
from ledger.contracts import load
from ledger.errors import ChainUnreachable, FormatRefused
from ledger.evidence import anchor_adopted, anchoring_ended
from ledger.ports import Place
from ledger.verify.__main__ import main
from ledger.verify.anchor import (
    SELECTORS,
    Asked,
    HttpRpc,
    audit_anchor,
    log_id,
    read_data,
    read_quantity,
)
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.report import Report
from ledger.verify.tiles import FolderSource
from ledger.verify.words import ENGLISH
from tests.chains import anvil, funded
from tests.contracts import signature
from tests.drip import dripping
from tests.written_logs import ORIGIN, Actor, WrittenLog

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CONTRACT = "0x" + "c0" * 20
PREDECESSOR = "0x" + "1d" * 20
HERE, BEFORE = Place(31337, CONTRACT), Place(31337, PREDECESSOR)
ELSEWHERE = Place(31337, "0x" + "ab" * 20)


Places = Mapping[int, Place | None]


def entries(count: int, places: Places) -> list[bytes]:
    """places: which contract the log names in which entry."""
    actor = Actor("a")
    acts = [Act("t.d", f"{i}") for i in range(count)]
    for index, place in places.items():
        acts[index] = anchoring_ended(ORIGIN) if place is None else anchor_adopted(ORIGIN, place)
    return [actor.says(act, START + timedelta(minutes=i)) for i, act in enumerate(acts)]


def word(value: int | bytes) -> str:
    return (value if isinstance(value, bytes) else value.to_bytes(32, "big")).hex()


@dataclass
class ChainOfAnswers:
    """A JSON-RPC that says what it was told to say. heads: by size, the last one is the head.

    before: heads of the contract that the log was taken over from. handed_to: whom that names.
    """

    heads: dict[int, bytes]
    chain_id: str = "0x7a69"
    before: dict[int, bytes] = field(default_factory=dict)
    handed_to: str = "00" * 12 + CONTRACT[2:]
    client: str = "Geth/v1.16"
    successor: str = "00" * 32
    code: str = field(default_factory=lambda: load("anchor").runtime)
    instead: dict[str, object] = field(default_factory=dict)
    asked: list[tuple[str, tuple[object, ...]]] = field(default_factory=list)

    def call(self, method: str, *parameters: object) -> object:
        self.asked.append((method, parameters))
        if method in self.instead:
            return self.instead[method]
        match method:
            case "eth_chainId":
                return self.chain_id
            case "web3_clientVersion":
                return self.client
            case "eth_getCode":
                return self.code
            case "eth_getBlockByNumber":
                return {
                    "number": {"latest": "0x64", "safe": "0x60"}.get(str(parameters[0]), "0x5a")
                }
            case _:
                assert isinstance(parameters[0], dict)
                own = parameters[0]["to"] == CONTRACT
                return "0x" + self._contract(str(parameters[0]["data"])[2:], own)

    def _contract(self, data: str, own: bool) -> str:
        assert data[8:72] == log_id(ORIGIN).hex()
        match next(name for name, four in SELECTORS.items() if data.startswith(four)):
            case "head(bytes32)":
                heads = self.heads if own else self.before
                size = max(heads, default=0)
                return word(size) + word(heads.get(size, bytes(32))) + word(80 if size else 0)
            case "root_at(bytes32,uint64)":
                return word((self.heads if own else self.before).get(int(data[72:], 16), bytes(32)))
            case "predecessor(bytes32)":
                return "00" * 12 + (PREDECESSOR[2:] if self.before else "00" * 20)
            case _:
                return self.successor if own else self.handed_to


@pytest.fixture
def log(tmp_path: Path) -> WrittenLog:
    return written(tmp_path, {0: HERE})


def written(folder: Path, places: Places) -> WrittenLog:
    log = WrittenLog(folder / "log")
    log.write(entries(9, places), {4: START + timedelta(minutes=4)}, START + timedelta(minutes=9))
    return log


def head(count: int, *, forged: bool = False) -> bytes:
    return root([leaf_hash(b"%d %d" % (i, forged)) for i in range(count)])


def own_root(log: WrittenLog, size: int) -> bytes:
    source = FolderSource(log.folder)
    leaves = source.read("tile/0/000.p/9")
    return root([leaves[i : i + 32] for i in range(0, size * 32, 32)])


def audit(log: WrittenLog, chain: ChainOfAnswers, finality: str = "finalized") -> Report:
    source = FolderSource(log.folder)
    asked = Asked(31337, CONTRACT, finality)
    return audit_anchor(source.read("checkpoint"), log.policy, asked, chain, source)


def outcome(report: Report) -> dict[str, bool | None]:
    return {check.id: check.passed for check in report.checks}


def test_what_is_called_is_what_the_contract_offers() -> None:
    offered = {signature(f) for f in load("anchor").abi if f["type"] == "function"}
    for name, four in SELECTORS.items():
        assert name in offered
        assert keccak(name.encode())[:4].hex() == four
    returned = {
        signature(f): [out["type"] for out in f["outputs"]]
        for f in load("anchor").abi
        if f["type"] == "function"
    }
    assert returned["head(bytes32)"] == ["uint64", "bytes32", "uint256"]
    assert returned["root_at(bytes32,uint64)"] == ["bytes32"]
    assert returned["successor(bytes32)"] == ["address"]
    assert returned["predecessor(bytes32)"] == ["address"]


def test_an_anchored_head_is_the_logs_own_and_its_place_is_stated(log: WrittenLog) -> None:
    chain = ChainOfAnswers({4: own_root(log, 4), 7: own_root(log, 7)})
    report = audit(log, chain)
    assert set(outcome(report).values()) == {True}
    assert report.about["chain_id"] == 31337
    assert report.about["block"] == 0x5A
    assert report.about["latest_block"] == 0x64
    assert report.about["finality"] == "finalized"
    text = report.to_text(ENGLISH)
    assert f"at {CONTRACT} on chain 31337" in text
    assert "size 7, stored in block 80; read at block 90, the chain's newest being 100" in text
    blocks = {parameters[1] for method, parameters in chain.asked if method == "eth_call"}
    assert blocks == {"0x5a"}


@pytest.mark.parametrize(
    ("finality", "block"), [("latest", 100), ("safe", 96), ("12", 88), ("500", 0)]
)
def test_the_contract_is_read_at_a_block_that_is_final_enough(
    log: WrittenLog, finality: str, block: int
) -> None:
    chain = ChainOfAnswers({7: own_root(log, 7)})
    report = audit(log, chain, finality)
    assert report.about["block"] == block
    assert {p[1] for m, p in chain.asked if m == "eth_call"} == {hex(block)}


def test_an_anchored_root_of_another_history_is_a_fork(log: WrittenLog) -> None:
    for size in (7, 8, 9):
        report = audit(log, ChainOfAnswers({size: head(size, forged=True)}))
        assert outcome(report)["anchor.same_history"] is False, size
        assert "has forked" in report.to_text(ENGLISH)


def test_a_head_under_the_logs_newest_size_is_compared_as_well(log: WrittenLog) -> None:
    chain = ChainOfAnswers({9: head(9, forged=True), 7: own_root(log, 7)})
    report = audit(log, chain)
    assert [c.subject for c in report.failed] == ["anchored head 9"]


def test_a_chain_that_is_ahead_of_the_log_shows_lost_entries_or_an_old_head(
    log: WrittenLog,
) -> None:
    report = audit(log, ChainOfAnswers({12: head(12)}))
    assert outcome(report)["anchor.same_history"] is None
    assert "it has lost entries" in report.to_text(ENGLISH)


def test_nothing_anchored_another_chain_or_another_contract_is_no_anchor(log: WrittenLog) -> None:
    assert outcome(audit(log, ChainOfAnswers({})))["anchor.held"] is False
    report = audit(log, ChainOfAnswers({7: own_root(log, 7)}, chain_id="0x1"))
    assert outcome(report)["chain.id"] is False
    assert "anchor.held" not in outcome(report)
    report = audit(log, ChainOfAnswers({7: own_root(log, 7)}, code="0x6000"))
    assert outcome(report)["anchor.code"] is None
    report = audit(log, ChainOfAnswers({}, instead={"eth_call": "0x"}))
    assert outcome(report)["anchor.held"] is False
    assert "no anchor contract" in report.to_text(ENGLISH)


def test_a_log_that_was_handed_over_says_to_whom(log: WrittenLog) -> None:
    successor = "00" * 12 + "ab" * 20
    report = audit(log, ChainOfAnswers({7: own_root(log, 7)}, successor=successor))
    assert outcome(report)["anchor.current"] is None
    assert report.about["successor"] == "0x" + "ab" * 20
    assert [c.subject for c in report.not_opened if c.id == "anchor.declared"] == [
        "successor 0x" + "ab" * 20  # the hub has not said so in the log yet
    ]


def declared(log: WrittenLog, **chain: Any) -> tuple[bool | None, str]:
    """What the audit says of the contract that it was asked about."""
    report = audit(log, ChainOfAnswers({7: own_root(log, 7)}, **chain))
    (found,) = (
        c for c in report.checks if c.id == "anchor.declared" and c.subject.startswith("contract")
    )
    return found.passed, found.words(ENGLISH)


def test_the_contract_that_the_log_names_last_is_where_it_is_anchored(tmp_path: Path) -> None:
    passed, words = declared(written(tmp_path, {0: BEFORE, 5: HERE}))
    assert passed and f"since entry 5 the log names {CONTRACT} on chain 31337" in words


def test_whoever_asks_the_old_contract_is_told_of_the_one_that_the_log_names_now(
    tmp_path: Path,
) -> None:
    passed, words = declared(written(tmp_path, {0: HERE, 5: ELSEWHERE}))
    assert passed is None
    assert f"since entry 5 the log names {ELSEWHERE.contract}" in words
    passed, words = declared(written(tmp_path, {0: HERE, 5: None}))
    assert passed is None and "since entry 5 the log says that it is anchored nowhere" in words


@pytest.mark.parametrize(
    "named",
    [
        ELSEWHERE,
        Place(1, CONTRACT),  # of one address there may be a contract on every chain
    ],
)
def test_a_contract_that_the_log_never_named_is_not_the_logs(tmp_path: Path, named: Place) -> None:
    passed, words = declared(written(tmp_path, {0: named}))
    assert passed is False and named.contract in words


def test_a_contract_that_says_it_is_ahead_is_no_more_the_logs_for_that(tmp_path: Path) -> None:
    log = written(tmp_path, {0: ELSEWHERE})
    report = audit(log, ChainOfAnswers({10**6: head(12)}))
    assert outcome(report)["anchor.declared"] is False


def test_code_that_only_claims_to_have_taken_the_log_over_is_not_the_logs(tmp_path: Path) -> None:
    log = written(tmp_path, {0: BEFORE})
    assert declared(log, before={7: own_root(log, 7)}, code="0x6000")[0] is False
    assert declared(log, before={6: own_root(log, 6)})[0] is False  # it does not begin there


def test_a_contract_that_took_the_log_over_may_be_named_by_the_next_start_of_the_hub(
    tmp_path: Path,
) -> None:
    log = written(tmp_path, {0: BEFORE})
    passed, words = declared(log, before={7: own_root(log, 7)})
    assert passed is None and "Ask again with a later head" in words


def test_a_log_that_names_no_contract_is_said_to_name_none(tmp_path: Path) -> None:
    passed, words = declared(written(tmp_path, {}))
    assert passed is None and "names no contract in its first 9 entries" in words


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"chain_id": "31337"},
        {"chain_id": "031337", "contract": CONTRACT},
        {"chain_id": "31337", "contract": CONTRACT.upper()},
        {"chain_id": "31337", "contract": CONTRACT, "note": "x"},
    ],
)
def test_a_place_has_one_spelling_in_the_log(tmp_path: Path, body: dict[str, str]) -> None:
    log = WrittenLog(tmp_path / "log")
    told = [Actor("a").says(replace(anchor_adopted(ORIGIN, HERE), body=body), START)]
    log.write([*told, *entries(8, {})], {}, START + timedelta(minutes=9))
    assert declared(log)[0] is False


def test_only_whoever_runs_the_log_says_where_it_is_anchored(tmp_path: Path) -> None:
    log = WrittenLog(tmp_path / "log")
    stranger = Actor("b").says(anchor_adopted(ORIGIN, ELSEWHERE), START + timedelta(minutes=8))
    log.write([*entries(8, {0: HERE}), stranger], {}, START + timedelta(minutes=9))
    assert declared(log)[0]


def test_a_log_that_was_taken_over_is_followed_to_where_the_contract_before_ended(
    log: WrittenLog,
) -> None:
    heads = {4: own_root(log, 4), 7: own_root(log, 7)}
    report = audit(log, ChainOfAnswers(heads, before={4: own_root(log, 4)}))
    assert set(outcome(report).values()) == {True}
    assert report.about["predecessor"] == PREDECESSOR
    assert "head 4 taken over" in [check.subject for check in report.checks]


@pytest.mark.parametrize(
    "before",
    [
        {4: head(4, forged=True)},  # it ended with another history
        {6: head(6)},  # with a head that this contract never held
        {0: bytes(32)},
    ],
)
def test_a_contract_that_does_not_go_on_where_the_one_before_ended_is_told(
    log: WrittenLog, before: dict[int, bytes]
) -> None:
    heads = {4: own_root(log, 4), 7: own_root(log, 7)}
    report = audit(log, ChainOfAnswers(heads, before=before))
    assert outcome(report)["anchor.continued"] is False


def test_a_predecessor_that_names_another_successor_is_told(log: WrittenLog) -> None:
    heads = {4: own_root(log, 4), 7: own_root(log, 7)}
    before = {4: own_root(log, 4)}
    elsewhere = "00" * 12 + "ee" * 20
    report = audit(log, ChainOfAnswers(heads, before=before, handed_to=elsewhere))
    assert outcome(report)["anchor.continued"] is False


def test_a_fork_that_was_handed_over_and_goes_on_is_found(log: WrittenLog) -> None:
    fork = head(4, forged=True)
    report = audit(log, ChainOfAnswers({4: fork, 7: own_root(log, 7)}, before={4: fork}))
    assert [check.subject for check in report.failed] == ["head 4 taken over"]


@pytest.mark.parametrize(
    "client", ["anvil/v1.7.1", "EthereumTester/0.14", "unseen-simulated-chain"]
)
def test_a_simulated_chain_is_named_as_such(log: WrittenLog, client: str) -> None:
    report = audit(log, ChainOfAnswers({7: own_root(log, 7)}, client=client))
    assert report.about["simulated"] is True
    assert outcome(report)["chain.durable"] is None
    assert "SIMULATED and not durable" in report.to_text(ENGLISH).split("\n")[0]


@dataclass
class ChainWithoutAName(ChainOfAnswers):
    def call(self, method: str, *parameters: object) -> object:
        if method == "web3_clientVersion":
            raise ChainUnreachable("web3_clientVersion was refused: method not found")
        return super().call(method, *parameters)


def test_of_a_chain_that_does_not_say_what_it_is_nothing_is_known(log: WrittenLog) -> None:
    heads = {7: own_root(log, 7)}
    for chain in (ChainWithoutAName(heads), ChainOfAnswers(heads, client="")):
        report = audit(log, chain)
        assert outcome(report)["chain.durable"] is None
        assert report.about["simulated"] is None
        assert "is not known" in report.to_text(ENGLISH)


def test_a_name_of_a_chain_cannot_steer_a_terminal_or_break_a_report(log: WrittenLog) -> None:
    name = "anvil\x1b[2J\ud800" + "a" * 1000
    report = audit(log, ChainOfAnswers({7: own_root(log, 7)}, client=name))
    assert report.about["simulated"] is True
    assert len(str(report.about["client"])) == 200
    for text in (report.to_text(ENGLISH), str(report.about["client"])):
        text.encode()
        assert "\x1b" not in text


@pytest.mark.parametrize("answer", ["0x", "0x01", "0xAB", "1", 1, None, "0x0" + "0" * 63, "0x-1"])
def test_numbers_and_bytes_have_one_spelling(answer: object) -> None:
    with pytest.raises(FormatRefused):
        read_quantity(answer, where="x")
    if answer not in ("0x", "0x01", "0x0" + "0" * 63):
        with pytest.raises(FormatRefused):
            read_data(answer, where="x")


@pytest.mark.parametrize(
    ("contract", "finality"), [("c0" * 20, "latest"), (CONTRACT, "soon"), (CONTRACT, "0")]
)
def test_what_cannot_be_asked_is_refused(log: WrittenLog, contract: str, finality: str) -> None:
    chain = ChainOfAnswers({})
    with pytest.raises(FormatRefused):
        audit_anchor(b"", log.policy, Asked(1, contract, finality), chain, None)
    assert chain.asked == []


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[bytes], bytes]], str]]:
    """Answers POST on a free loopback port with a function of the body."""
    servers: list[ThreadingHTTPServer] = []

    def serve(answer: Callable[[bytes], bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = answer(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(302 if data == b"elsewhere" else 200)
                self.send_header("location", "http://127.0.0.1:1/")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "answer",
    [
        b"elsewhere",
        b"{",
        b"[]",
        b"[" * 200_000,
        b'{"id": 2, "result": "0x1"}',
        b" " * (1 << 20) + b"{}",
    ],
    ids=lambda answer: repr(answer[:12]),
)
def test_an_answer_outside_the_protocol_is_no_answer(
    served: Callable[[Callable[[bytes], bytes]], str], answer: bytes
) -> None:
    with pytest.raises(ChainUnreachable):
        HttpRpc(served(lambda _: answer)).call("eth_chainId")


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
        b"",
    ],
    ids=["no status", "half a chunk", "headers without end", "nothing"],
)
def test_what_is_not_http_is_no_answer(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        thread = threading.Thread(target=reply, daemon=True)
        thread.start()
        rpc = HttpRpc(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ChainUnreachable):
            rpc.call("eth_chainId")
        thread.join(5)


@pytest.mark.parametrize("at", ["in its headers", "in its answer"])
def test_a_chain_that_answers_drop_by_drop_is_given_up(at: str) -> None:
    with dripping(at == "in its headers") as url, pytest.raises(ChainUnreachable, match="in full"):
        HttpRpc(url, timeout_s=0.3).call("eth_chainId")


def test_a_refusal_of_the_chain_is_repeated_in_its_words(
    served: Callable[[Callable[[bytes], bytes]], str],
) -> None:
    url = served(lambda _: json.dumps({"id": 1, "error": {"message": "too busy"}}).encode())
    with pytest.raises(ChainUnreachable, match="too busy"):
        HttpRpc(url).call("eth_chainId")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://[::1", "http://", "http://a:b", "http://a/\n"]
)
def test_an_address_that_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(FormatRefused):
        HttpRpc(url)


@pytest.fixture(params=["simulated", "anvil"])
def node(
    request: pytest.FixtureRequest,
    served: Callable[[Callable[[bytes], bytes]], str],
    tmp_path: Path,
) -> Iterator[tuple[JsonRpc, str, ChainKey]]:
    """A chain that executes the contract, its address, and an account with money."""
    if request.param == "anvil":
        with anvil() as rpc:
            yield rpc, rpc._url, funded(rpc, tmp_path / "key")
        return
    chain = SimulatedChain()
    key = create_key(tmp_path / "key")
    chain.fund(key.address)
    url = served(chain.answer)
    with httpx2.Client(trust_env=False) as client:
        yield JsonRpc(url, client), url, key


def test_a_head_that_the_contract_took_is_found_by_the_program(
    node: tuple[JsonRpc, str, ChainKey],
    log: WrittenLog,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rpc, url, key = node
    policy = tmp_path / "policy"
    policy.write_text(log.policy_text)
    made = deploy_anchor(rpc, key, ORIGIN, key.address, patience_s=20)
    place = Place(made.chain_id, made.address)
    log.write(entries(9, {0: place}), {}, START + timedelta(minutes=9))
    contract = EvmAnchor(rpc, place, ORIGIN, key, 1)

    def program() -> tuple[int, dict[str, object]]:
        code = main(
            [
                "anchor",
                str(log.folder),
                f"--rpc={url}",
                f"--contract={made.address}",
                f"--chain-id={made.chain_id}",
                "--finality=latest",
                f"--policy={policy}",
                "--json",
            ]
        )
        return code, json.loads(capsys.readouterr().out)

    assert program()[0] == 1  # the contract is there and holds nothing yet
    now = contract.head()
    contract.anchor(7, own_root(log, 7), (), nonce=now.nonce, fee=now.fee, keep=lambda _: None)
    code, value = program()
    assert code == 0
    assert value["simulated"] is True
    checks = value["checks"]
    assert isinstance(checks, list)
    assert {c["id"]: c["passed"] for c in checks} == {
        "log.head": True,
        "chain.id": True,
        "chain.durable": None,
        "anchor.held": True,
        "anchor.code": True,
        "anchor.declared": True,
        "anchor.same_history": True,
    }
