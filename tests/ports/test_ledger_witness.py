"""A witness, on each database and over HTTP: every answer of its protocol, and its memory."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx2
import pytest
from sqlalchemy import Engine
from sqlmodel import Session
from starlette.testclient import TestClient

from api.database import open_engine
from api.witness import witness_app
from crypto.keys import MlDsaKey, SigningKey
from ledger.adapters.http_witness import HttpWitness
from ledger.adapters.witness_sql import SqlWitnessStore, create_witness_tables
from ledger.errors import WitnessAt, WitnessDisagrees, WitnessUnreachable
from ledger.ports import WitnessHead
from ledger.tree import consistency_path, cover, range_hash
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import EMPTY_ROOT, leaf_hash
from ledger.verify.note import (
    COSIGNATURE,
    LOG_SIGNATURE,
    Note,
    VerifierKey,
    cosigner_key,
    parse_lines,
    sign,
)
from ledger.witness import AddCheckpoint, Response, add_checkpoint
from tests.drip import dripping
from tests.trees import nodes_of

ORIGIN = "log.example/deals"
LOG, WITNESS = SigningKey.generate(), SigningKey.generate()
LOG_KEY = VerifierKey(ORIGIN, LOG_SIGNATURE, LOG.public)
NAME = "witness.example/w"
WITNESS_KEY = VerifierKey(NAME, COSIGNATURE, WITNESS.public)
ML_DSA = MlDsaKey.generate()
WITNESS_KEYS = (WITNESS_KEY, cosigner_key(NAME, ML_DSA))
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class Clock:
    def now(self) -> datetime:
        return NOW


class Tree:
    """A log's tree; `salt` makes another history."""

    def __init__(self, size: int, salt: str = "") -> None:
        self.nodes = nodes_of([leaf_hash(f"{salt}{n}".encode()) for n in range(size)])

    def head(self, size: int) -> Checkpoint:
        return Checkpoint(ORIGIN, size, range_hash((0, size), self.nodes))

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        return tuple(range_hash(part, self.nodes) for part in consistency_path(old, new))

    def request(self, old: int, new: int) -> bytes:
        note = sign_checkpoint(self.head(new), LOG)
        return AddCheckpoint(old, self.proof(old, new), note.to_bytes()).to_bytes()


TREE = Tree(20)
FORK = Tree(20, salt="fork")


@pytest.fixture
def database(engine: Engine) -> Engine:
    create_witness_tables(engine)
    return engine


def ask(engine: Engine, body: bytes, keys: Sequence[VerifierKey] = (LOG_KEY,)) -> Response:
    with Session(engine) as session, session.begin():
        return add_checkpoint(
            body,
            store=SqlWitnessStore(session),
            name=NAME,
            signers=[WITNESS, ML_DSA],
            trusted_logs=keys,
            now=NOW,
        )


def size_of(engine: Engine) -> int:
    with Session(engine) as session, session.begin():
        head = SqlWitnessStore(session).head(ORIGIN)
    return 0 if head is None else head.checkpoint.size


def test_each_head_that_extends_the_last_is_cosigned(database: Engine) -> None:
    for old, new in [(0, 1), (1, 5), (5, 5), (5, 16), (16, 20)]:
        answer = ask(database, TREE.request(old, new))
        assert answer.status == 200
        note = Note(TREE.head(new).text, parse_lines(answer.body.decode()))
        assert verify_cosignatures(note, WITNESS_KEYS) == dict.fromkeys(WITNESS_KEYS, NOW)
        assert size_of(database) == new


def test_no_repetition_makes_a_log_look_forked(database: Engine) -> None:
    """409 with the size that the log stated itself means another root."""
    ask(database, TREE.request(0, 1))
    newest, over = [1], threading.Event()

    def stranger() -> None:
        while not over.is_set():
            ask(database, TREE.request(newest[0], newest[0]))

    with ThreadPoolExecutor(2) as pool:
        strangers = [pool.submit(stranger) for _ in range(2)]
        try:
            for new in range(2, 21):
                assert ask(database, TREE.request(newest[0], new)).status == 200
                newest[0] = new
        finally:
            over.set()
        for one in strangers:
            one.result()


def test_an_old_size_above_the_new_is_a_bad_request(database: Engine) -> None:
    body = AddCheckpoint(6, (), sign_checkpoint(TREE.head(5), LOG).to_bytes()).to_bytes()
    assert ask(database, body).status == 400


def test_a_checkpoint_that_the_log_did_not_sign_is_forbidden(database: Engine) -> None:
    head = TREE.head(5)
    forged = Note(head.text, sign_checkpoint(TREE.head(4), LOG).signatures)
    for note in (sign(head.text, "stranger.example", SigningKey.generate()), forged):
        assert ask(database, AddCheckpoint(0, (), note.to_bytes()).to_bytes()).status == 403
    assert size_of(database) == 0


def test_a_log_that_is_not_configured_is_not_found(database: Engine) -> None:
    other = SigningKey.generate()
    note = sign_checkpoint(Checkpoint("other.example", 1, TREE.head(1).root), other)
    assert ask(database, AddCheckpoint(0, (), note.to_bytes()).to_bytes()).status == 404


@pytest.mark.parametrize("claimed", [0, 3, 6])
def test_another_old_size_than_the_stored_one_is_told_the_stored_one(
    database: Engine, claimed: int
) -> None:
    ask(database, TREE.request(0, 5))
    answer = ask(database, TREE.request(claimed, 8))
    assert (answer.status, answer.content_type, answer.body) == (409, "text/x.tlog.size", b"5\n")
    assert size_of(database) == 5


def test_a_witness_that_knows_nothing_says_zero(database: Engine) -> None:
    assert ask(database, TREE.request(3, 5)).body == b"0\n"


def test_a_smaller_checkpoint_than_the_last_is_never_cosigned(database: Engine) -> None:
    ask(database, TREE.request(0, 8))
    for old, new in [(0, 5), (5, 5), (8, 5)]:
        note = sign_checkpoint(TREE.head(new), LOG).to_bytes()
        assert ask(database, AddCheckpoint(old, (), note).to_bytes()).status in (400, 409)
    assert size_of(database) == 8


def test_another_root_of_the_same_size_is_another_history(database: Engine) -> None:
    ask(database, TREE.request(0, 5))
    answer = ask(database, FORK.request(5, 5))
    assert answer.status == 422
    assert b"\xe2\x80\x94" not in answer.body


def test_another_history_is_refused_whatever_its_proof(database: Engine) -> None:
    ask(database, TREE.request(0, 5))
    honest = AddCheckpoint.parse(TREE.request(5, 8))
    fork = sign_checkpoint(FORK.head(8), LOG).to_bytes()
    bodies = [
        FORK.request(5, 8),
        AddCheckpoint(5, TREE.proof(5, 8), fork).to_bytes(),
        AddCheckpoint(5, (), fork).to_bytes(),
        AddCheckpoint(5, honest.proof[:-1], honest.note).to_bytes(),
        AddCheckpoint(5, (*honest.proof, EMPTY_ROOT), honest.note).to_bytes(),
        AddCheckpoint(5, honest.proof[::-1], honest.note).to_bytes(),
    ]
    for body in bodies:
        assert ask(database, body).status == 422
    assert size_of(database) == 5
    assert ask(database, honest.to_bytes()).status == 200


def test_from_nothing_a_proof_is_refused(database: Engine) -> None:
    note = sign_checkpoint(TREE.head(5), LOG).to_bytes()
    assert ask(database, AddCheckpoint(0, (EMPTY_ROOT,), note).to_bytes()).status == 422


def test_an_empty_tree_has_one_root(database: Engine) -> None:
    def request(root: bytes) -> bytes:
        note = sign_checkpoint(Checkpoint(ORIGIN, 0, root), LOG).to_bytes()
        return AddCheckpoint(0, (), note).to_bytes()

    assert ask(database, request(TREE.head(1).root)).status == 422
    assert ask(database, request(EMPTY_ROOT)).status == 200
    assert ask(database, request(EMPTY_ROOT)).status == 200
    assert ask(database, TREE.request(0, 5)).status == 200
    assert size_of(database) == 5


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b"old 5", b"old 05"),
        lambda body: body.replace(b"old 5", b"old  5"),
        lambda body: body.replace(b"old 5", b"new 5"),
        lambda body: body.replace(b"old 5\n", b""),
        lambda body: body.replace(b"\n\n", b"\n"),
        lambda body: body.replace(b"\n\n", b"\nAAAA\n\n", 1),
        lambda body: body.replace(b"old 5\n", b"old 5\r\n"),
        lambda body: body.rstrip(b"\n"),
        lambda body: body.replace(b"old 5\n", b"old 5\n" + 64 * (b"A" * 43 + b"=\n")),
        lambda body: b"",
        lambda body: body + b"\x00" * (1 << 18),
    ],
)
def test_a_request_that_is_not_in_its_one_spelling_is_a_bad_request(
    database: Engine, change: Callable[[bytes], bytes]
) -> None:
    ask(database, TREE.request(0, 5))
    body = TREE.request(5, 8)
    assert ask(database, change(body)).status == 400
    assert ask(database, body).status == 200


def test_a_log_may_change_its_key_while_both_are_trusted(database: Engine) -> None:
    new = SigningKey.generate()
    new_key = VerifierKey(ORIGIN, LOG_SIGNATURE, new.public)
    ask(database, TREE.request(0, 5))
    note = sign_checkpoint(TREE.head(8), new).to_bytes()
    body = AddCheckpoint(5, TREE.proof(5, 8), note).to_bytes()
    assert ask(database, body).status == 403
    assert ask(database, body, [LOG_KEY, new_key]).status == 200


def test_the_memory_survives_a_restart(database: Engine, database_url: str) -> None:
    ask(database, TREE.request(0, 5))
    database.dispose()
    reopened = open_engine(database_url)
    try:
        assert ask(reopened, TREE.request(0, 5)).body == b"5\n"
        assert ask(reopened, FORK.request(5, 8)).status == 422
        assert ask(reopened, TREE.request(5, 8)).status == 200
    finally:
        reopened.dispose()


def test_a_head_is_replaced_only_if_it_is_the_one_that_was_compared(database: Engine) -> None:
    def head(tree: Tree, size: int) -> WitnessHead:
        checkpoint = tree.head(size)
        return WitnessHead(checkpoint, sign_checkpoint(checkpoint, LOG).to_bytes(), NOW)

    with Session(database) as session, session.begin():
        store = SqlWitnessStore(session)
        assert store.advance(None, head(TREE, 5))
        assert not store.advance(None, head(TREE, 8))
        assert not store.advance(head(TREE, 3), head(TREE, 8))
        assert not store.advance(head(FORK, 5), head(FORK, 8))
        assert store.head(ORIGIN) == head(TREE, 5)
        assert store.advance(head(TREE, 5), head(TREE, 8))
        assert store.heads() == [head(TREE, 8)]


def test_of_two_requests_at_once_one_is_cosigned_and_nothing_rolls_back(database: Engine) -> None:
    ask(database, TREE.request(0, 1))
    size = 1
    for _ in range(3):
        start = threading.Barrier(4)

        def run(step: int, size: int = size, start: threading.Barrier = start) -> tuple[int, int]:
            start.wait()
            return size + step, ask(database, TREE.request(size, size + step)).status

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(run, range(1, 5)))
        (won,) = [new for new, code in answers if code == 200]
        assert {code for new, code in answers if new != won} == {409}
        assert size_of(database) == won
        size = won


# Over HTTP


@pytest.fixture
def client(database: Engine) -> TestClient:
    app = witness_app(
        engine=database, signers=[WITNESS, ML_DSA], name=NAME, trusted_logs=[LOG_KEY], clock=Clock()
    )
    return TestClient(app, base_url="http://witness.example")


def test_the_log_asks_a_witness_over_http(client: TestClient) -> None:
    witness = HttpWitness("http://witness.example/", WITNESS_KEYS, client)
    note = sign_checkpoint(TREE.head(5), LOG)
    for line in witness.add_checkpoint(0, (), note):
        assert verify_cosignatures(Note(note.text, (line,)), WITNESS_KEYS)
    with pytest.raises(WitnessAt) as stated:
        witness.add_checkpoint(0, (), sign_checkpoint(TREE.head(8), LOG))
    assert stated.value.size == 5
    with pytest.raises(WitnessDisagrees, match="422"):
        witness.add_checkpoint(5, FORK.proof(5, 8), sign_checkpoint(FORK.head(8), LOG))
    with pytest.raises(WitnessUnreachable, match="403"):
        witness.add_checkpoint(5, (), sign(TREE.head(8).text, "stranger", SigningKey.generate()))
    with pytest.raises(WitnessUnreachable, match="404"):
        HttpWitness("http://witness.example/x", WITNESS_KEYS, client).add_checkpoint(0, (), note)


def test_an_answer_outside_the_protocol_is_no_answer() -> None:
    note = sign_checkpoint(TREE.head(5), LOG)
    size = {"content-type": "text/x.tlog.size"}
    for answer in (
        httpx2.Response(200, text="thank you"),
        httpx2.Response(200, content=b"\xff\n"),
        httpx2.Response(200, content=b"x" * (1 << 17)),
        httpx2.Response(409, text="05\n", headers=size),
        httpx2.Response(500, text="5\n"),
        httpx2.Response(302, headers={"location": "http://elsewhere.example/"}),
    ):
        transport = httpx2.MockTransport(lambda _, answer=answer: answer)
        with httpx2.Client(transport=transport) as client, pytest.raises(WitnessUnreachable):
            HttpWitness("http://w.example", WITNESS_KEYS, client).add_checkpoint(0, (), note)


def test_a_witness_that_does_not_answer_is_unreachable() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    with (
        httpx2.Client(transport=httpx2.MockTransport(fail)) as client,
        pytest.raises(WitnessUnreachable, match="did not answer"),
    ):
        HttpWitness("http://w.example", WITNESS_KEYS, client).add_checkpoint(
            0, (), sign_checkpoint(TREE.head(5), LOG)
        )


@pytest.mark.parametrize("at", ["in its headers", "in its answer"])
def test_a_witness_that_answers_drop_by_drop_is_given_up(
    at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.adapters.http_witness.TIMEOUT_S", 0.3)
    note = sign_checkpoint(TREE.head(5), LOG)
    with (
        httpx2.Client(trust_env=False) as client,
        dripping(at == "in its headers") as url,
        pytest.raises(WitnessUnreachable, match=r"not answered in full|without end"),
    ):
        HttpWitness(url, WITNESS_KEYS, client).add_checkpoint(0, (), note)


def test_requests_to_a_witness_that_were_given_up_cannot_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ledger.adapters.http_witness.TIMEOUT_S", 0.01)
    held, asked = threading.Event(), []

    def never(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        held.wait(20)
        return httpx2.Response(500)

    note = sign_checkpoint(TREE.head(5), LOG)
    client = httpx2.Client(transport=httpx2.MockTransport(never))
    witness = HttpWitness("http://w.example", WITNESS_KEYS, client)
    try:
        for _ in range(5):
            with pytest.raises(WitnessUnreachable):
                witness.add_checkpoint(0, (), note)
        assert len(asked) <= 1
    finally:
        held.set()


def test_the_witness_says_that_it_lives_is_ready_and_what_it_cosigned(
    client: TestClient,
) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert "Nothing has been cosigned" in client.get("/").text
    client.post("/add-checkpoint", content=TREE.request(0, 5))
    page = client.get("/").text
    assert ORIGIN in page
    assert "Entries: 5<br>Cosigned: 2026-03-04 05:06:07 UTC" in page
    assert all(str(key) in page for key in WITNESS_KEYS)
    assert page == client.get("/?lang=en", headers={"accept-language": "zh-CN"}).text
    for chinese in (
        client.get("/?lang=zh-CN").text,
        client.get("/", headers={"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}).text,
    ):
        assert '<html lang="zh-CN">' in chinese
        assert "条目数: 5<br>联署时间: 2026-03-04 05:06:07 UTC" in chinese


def test_whoever_watches_a_log_gets_what_this_witness_cosigned_last(client: TestClient) -> None:
    path = f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint"
    assert client.get(path).status_code == 404
    for old, new in ((0, 5), (5, 8)):
        request = AddCheckpoint.parse(TREE.request(old, new))
        stranger = sign(TREE.head(new).text, "stranger.example", SigningKey.generate())
        sent = Note.parse(request.note).with_signatures(stranger.signatures)
        body = AddCheckpoint(old, request.proof, sent.to_bytes()).to_bytes()
        answer = client.post("/add-checkpoint", content=body)
        note = Note.parse(client.get(path).content)
        assert note == sign_checkpoint(TREE.head(new), LOG).with_signatures(
            parse_lines(answer.text)  # the stranger's line was verified by nobody
        )
    assert client.get("/" + 64 * "0" + "/checkpoint").status_code == 404


def test_a_witness_serves_several_logs_and_remembers_each(database: Engine) -> None:
    other = SigningKey.generate()
    origin = "other.example/log"
    keys = [LOG_KEY, VerifierKey(origin, LOG_SIGNATURE, other.public)]
    ask(database, TREE.request(0, 5), keys)
    note = sign_checkpoint(Checkpoint(origin, 3, TREE.head(3).root), other)
    assert ask(database, AddCheckpoint(0, (), note.to_bytes()).to_bytes(), keys).status == 200
    # One log's key under the other's origin is a key, and not this log's.
    borrowed = sign_checkpoint(Checkpoint(origin, 8, TREE.head(8).root), LOG)
    body = AddCheckpoint(3, TREE.proof(3, 8), borrowed.to_bytes()).to_bytes()
    assert ask(database, body, keys).status == 403
    with Session(database) as session, session.begin():
        heads = SqlWitnessStore(session).heads()
    assert {h.checkpoint.origin: h.checkpoint.size for h in heads} == {ORIGIN: 5, origin: 3}


def test_a_witness_without_its_database_is_not_ready_and_cosigns_nothing(engine: Engine) -> None:
    app = witness_app(
        engine=engine, signers=[WITNESS, ML_DSA], name=NAME, trusted_logs=[LOG_KEY], clock=Clock()
    )
    client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/readyz").status_code == 503
    assert client.post("/add-checkpoint", content=TREE.request(0, 5)).status_code == 500


def test_a_body_without_end_is_not_read_to_its_end(client: TestClient) -> None:
    assert client.post("/add-checkpoint", content=b"x" * (1 << 19)).status_code == 413


def test_what_a_log_calls_itself_cannot_write_the_page(database: Engine) -> None:
    origin = "<script>alert(1)</script>"
    key = VerifierKey(origin, LOG_SIGNATURE, LOG.public)
    app = witness_app(
        engine=database, signers=[WITNESS, ML_DSA], name=NAME, trusted_logs=[key], clock=Clock()
    )
    note = sign_checkpoint(Checkpoint(origin, 5, TREE.head(5).root), LOG).to_bytes()
    with TestClient(app) as client:
        body = AddCheckpoint(0, (), note).to_bytes()
        assert client.post("/add-checkpoint", content=body).status_code == 200
        assert "<script>" not in client.get("/").text


def test_the_tree_of_these_tests_is_a_tree() -> None:
    assert set(cover((0, 20))) <= set(TREE.nodes)
