"""A small application with the house's plumbing, behind a real server on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import httpx2
import pytest
from fastapi import FastAPI, Query
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlmodel import Session
from starlette.responses import Response, StreamingResponse
from structlog.testing import capture_logs

from api.client.transport import MessageSignature
from api.http import protocol
from api.http.adapters.sql import SqlIdempotencyStore
from api.http.app import new_app
from api.http.bodies import Body, Wire
from api.http.caller import SignedBy
from api.http.errors import KeyUnknown, ServerNotStarted
from api.http.events import (
    After,
    Batch,
    Event,
    EventSourceResponse,
    ServerSentEvent,
    StoppingNow,
    follow,
)
from api.http.idempotency import Keyed, once, respond
from api.http.ports import Answer
from api.http.problems import KINDS
from api.http.server import bind, serve, serving
from api.http.signing import MemoryNonces, Verifier
from crypto.errors import KeyFileRefused, Malformed
from crypto.identifiers import PartyId
from crypto.keys import PublicKey, SigningKey
from crypto.ports import SystemClock, SystemRandomness
from registry.errors import DocumentRefused, NotFound, SourceUnreachable

CLINIC = PartyId("pty_" + "c" * 32)
KEY = SigningKey.generate()
SECRET = "patient 4711 has diabetes"
LIMIT_BYTES = 1000


class Payment(Body):
    amount_minor: int
    epsilon: Wire[Fraction]
    payee: Wire[PartyId]
    at: Wire[datetime] | None = None


class Desk:
    """What the application's routes act upon; tests look at it."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine
        self.payments: list[int] = []
        self.events: list[Event] = []
        self.over = False
        self.failure: Exception | None = None
        self.missing: str | None = None

    def read(self, after: int | None) -> Batch:
        events = [event for event in self.events if after is None or event.id > after]
        return Batch(events, self.over)


def registered_key(party: PartyId, key_id: str) -> PublicKey:
    if party != CLINIC or key_id != KEY.public.key_id:
        raise KeyUnknown(f"{party}/{key_id}")
    return KEY.public


def an_app(desk: Desk) -> FastAPI:
    clock = SystemClock()
    app = new_app(
        title="Desk",
        version="1",
        description="For tests.",
        verifier=Verifier(registered_key, MemoryNonces(clock), clock),
        randomness=SystemRandomness(),
        checks={"database": lambda: desk.missing},
        max_body_bytes=LIMIT_BYTES,
    )

    @app.get("/fail", operation_id="fail")
    def fail() -> None:
        if desk.failure is not None:
            raise desk.failure

    @app.get("/half", operation_id="half")
    def half() -> Response:
        def lines() -> Iterator[bytes]:
            yield b"one\n"
            raise RuntimeError(SECRET)

        return StreamingResponse(lines())

    @app.get("/page", operation_id="page")
    def page(limit: Annotated[int, Query(ge=1, le=100)] = 10) -> int:
        return limit

    @app.post("/echo", operation_id="echo")
    def echo(payment: Payment) -> Payment:
        return payment

    @app.post("/signed", operation_id="signed")
    def signed(caller: SignedBy, payment: Payment) -> str:
        return f"{caller.party} pays {payment.amount_minor}"

    @app.post("/pay", operation_id="pay", status_code=201)
    def pay(caller: SignedBy, key: Keyed, payment: Payment) -> Response:
        def act() -> Answer:
            desk.payments.append(payment.amount_minor)
            body = json.dumps({"number": len(desk.payments)}).encode()
            return Answer(201, body, f"/payments/{len(desk.payments)}")

        with Session(desk.engine) as session, session.begin():
            answer = once(SqlIdempotencyStore(session), key, act, now=clock.now())
        return respond(answer)

    @app.get("/events", operation_id="events", response_class=EventSourceResponse)
    async def events(after: After, stopping: StoppingNow) -> AsyncIterator[ServerSentEvent]:
        async for event in follow(desk.read, after=after, stopping=stopping, poll_s=0.01):
            yield event

    return app


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def base(desk: Desk) -> Iterator[str]:
    with serving(an_app(desk)) as running:
        yield running.url


@pytest.fixture
def client(base: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=base, trust_env=False) as client:
        yield client


def signature(key: SigningKey = KEY) -> MessageSignature:
    return MessageSignature(CLINIC, key, SystemClock(), SystemRandomness())


def a_payment(**members: object) -> dict[str, object]:
    return {"amount_minor": 1250, "epsilon": "1/4", "payee": str(CLINIC), **members}


def assert_problem(response: httpx2.Response, status: int, code: str) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, object] = response.json()
    assert found["code"] == code
    assert found["type"] == f"urn:unseen:problem:{code}"
    assert found["status"] == status
    assert found["title"] and found["detail"]
    assert found["instance"] == response.request.url.path
    assert found["trace_id"] in response.headers["traceparent"]
    return found


# Problems


def test_what_is_not_there_is_a_problem_document(client: httpx2.Client) -> None:
    assert_problem(client.get("/nowhere"), 404, "no_such_page")


def test_a_trailing_slash_is_not_redirected_to_an_address_that_was_not_signed(
    client: httpx2.Client,
) -> None:
    assert_problem(client.get("/page/"), 404, "no_such_page")


def test_a_wrong_method_is_a_problem_document_that_names_the_right_one(
    client: httpx2.Client,
) -> None:
    response = client.delete("/page")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Malformed("terms.columns[2].name", "is empty"), 422, "malformed"),
        (DocumentRefused("rule", "allows nothing"), 422, "document_refused"),
        (NotFound("prd_1"), 404, "not_found"),
        (SourceUnreachable("away"), 503, "source_unreachable"),
    ],
)
def test_our_errors_become_problem_documents_in_their_own_words(
    client: httpx2.Client, desk: Desk, failure: Exception, status: int, code: str
) -> None:
    desk.failure = failure
    found = assert_problem(client.get("/fail"), status, code)
    assert found["detail"] == str(failure)


def test_a_malformed_document_is_pointed_into(client: httpx2.Client, desk: Desk) -> None:
    desk.failure = Malformed("terms.columns[2].a/b", "is empty")
    found = assert_problem(client.get("/fail"), 422, "malformed")
    assert found["errors"] == [{"pointer": "/terms/columns/2/a~1b", "detail": "is empty"}]


def test_a_subclass_takes_its_ancestors_place_in_the_table(
    client: httpx2.Client, desk: Desk
) -> None:
    class ProductNotFound(NotFound):
        pass

    desk.failure = ProductNotFound("prd_1")
    assert_problem(client.get("/fail"), 404, "not_found")


@pytest.mark.parametrize(
    "failure", [RuntimeError(SECRET), KeyFileRefused(SECRET), KeyError(SECRET)]
)
def test_an_unforeseen_error_tells_a_trace_id_and_nothing_else(
    client: httpx2.Client, desk: Desk, failure: Exception
) -> None:
    desk.failure = failure
    with capture_logs() as logs:
        response = client.get("/fail")
    found = assert_problem(response, 500, "internal")
    assert SECRET not in response.text
    assert type(failure).__name__ not in response.text
    (line,) = [entry for entry in logs if entry["event"] == "request failed"]
    assert line["trace_id"] == found["trace_id"]
    assert type(failure).__name__ in str(line["errors"])
    assert "fail:" in str(line["places"])
    assert SECRET not in str(logs)


def test_a_databases_words_are_not_passed_on(client: httpx2.Client, desk: Desk) -> None:
    desk.failure = OperationalError("SELECT ?", (SECRET,), Exception("database is locked"))
    response = client.get("/fail")
    assert_problem(response, 503, "storage_busy")
    assert response.headers["retry-after"] == "1"
    assert "SELECT" not in response.text
    assert SECRET not in response.text


def test_an_answer_that_breaks_off_breaks_the_connection(client: httpx2.Client) -> None:
    """Else its reader would take half for the whole."""
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get("/half")
    assert client.get("/page").status_code == 200


def test_every_kind_of_problem_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS.values()]
    assert len(set(codes)) == len(codes)


def test_a_trace_id_is_taken_over_from_the_caller(client: httpx2.Client) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01", "X-Request-Id": "job-7"}
    response = client.get("/nowhere", headers=headers)
    assert assert_problem(response, 404, "no_such_page")["trace_id"] == trace_id
    assert response.headers["traceparent"].split("-")[2] != "00f067aa0ba902b7"
    assert response.headers["x-request-id"] == "job-7"


@pytest.mark.parametrize(
    "given", ["junk", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{'A' * 32}-00f067aa0ba902b7-01"]
)
def test_a_malformed_trace_id_is_replaced(client: httpx2.Client, given: str) -> None:
    response = client.get("/page", headers={"traceparent": given, "X-Request-Id": 'a"b<c>'})
    trace_id = response.headers["traceparent"].split("-")[1]
    assert trace_id not in given
    assert response.headers["x-request-id"] == trace_id


def test_answers_are_neither_sniffed_nor_cached(client: httpx2.Client) -> None:
    for path in ("/page", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


# Bodies


def test_a_body_is_read_and_written_as_signed_documents_are(client: httpx2.Client) -> None:
    payment = a_payment(at="2026-11-23T05:48:21.123Z")
    assert client.post("/echo", json=payment).json() == payment


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"tip": 1}, "/tip"),
        ({"amount_minor": False}, "/amount_minor"),
        ({"amount_minor": "1250"}, "/amount_minor"),
        ({"amount_minor": 1250.0}, "/amount_minor"),
        ({"epsilon": "2/8"}, "/epsilon"),
        ({"epsilon": 0.25}, "/epsilon"),
        ({"payee": "clinic"}, "/payee"),
        ({"at": "2026-11-23"}, "/at"),
    ],
)
def test_a_body_that_breaks_its_schema_is_pointed_into_and_not_quoted(
    client: httpx2.Client, change: dict[str, object], pointer: str
) -> None:
    response = client.post("/echo", json=a_payment(**change))
    found = assert_problem(response, 422, "invalid_request")
    assert [error["pointer"] for error in found["errors"]] == [pointer]  # type: ignore[attr-defined]


def test_what_a_body_holds_is_not_in_its_refusal(client: httpx2.Client) -> None:
    response = client.post("/echo", json=a_payment(amount_minor=SECRET, payee=SECRET))
    assert_problem(response, 422, "invalid_request")
    assert SECRET not in response.text


@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b"nonsense " + SECRET.encode()])
def test_a_body_that_is_no_document_is_refused(client: httpx2.Client, body: bytes) -> None:
    response = client.post("/echo", content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 422, "invalid_request")
    assert SECRET not in response.text


def test_a_body_that_is_not_utf_8_is_refused(client: httpx2.Client) -> None:
    response = client.post(
        "/echo", content=b'{"a":"\xff"}', headers={"Content-Type": "application/json"}
    )
    assert_problem(response, 400, "bad_request")


def test_a_query_parameter_out_of_range_is_named(client: httpx2.Client) -> None:
    found = assert_problem(client.get("/page?limit=101"), 422, "invalid_request")
    (error,) = found["errors"]  # type: ignore[misc]
    assert error["parameter"] == "limit"
    assert error["in"] == "query"


# Limits


def test_a_body_of_the_largest_size_is_read(client: httpx2.Client) -> None:
    assert_problem(client.post("/echo", content=b" " * LIMIT_BYTES), 422, "invalid_request")


def test_a_body_above_the_limit_is_refused(client: httpx2.Client) -> None:
    response = client.post("/echo", content=b" " * (LIMIT_BYTES + 1))
    assert_problem(response, 413, "body_too_large")


def test_a_declared_length_above_the_limit_is_refused_before_any_of_it_is_sent(base: str) -> None:
    with _connection(base) as wire:
        wire.sendall(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n"
        )
        answer = _read_all(wire)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in answer


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_long(base: str) -> None:
    with _connection(base) as wire:
        wire.sendall(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100\r\n" + b" " * 256 + b"\r\n"
        wire.sendall(chunk * 4)  # 1024 bytes, and the body never ends
        answer = _read_all(wire)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in answer
    assert b"connection: close" in answer.lower()


# Signatures


def test_a_signed_request_reaches_its_route_as_its_party(client: httpx2.Client) -> None:
    response = client.post("/signed?a=%20b&c=%2F", json=a_payment(), auth=signature())
    assert response.json() == f"{CLINIC} pays 1250"


def test_a_chunked_signed_request_is_accepted(client: httpx2.Client) -> None:
    content = iter([json.dumps(a_payment()).encode()])
    response = client.post(
        "/signed", content=content, auth=signature(), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 200


def test_an_unsigned_request_is_told_to_sign(client: httpx2.Client) -> None:
    response = client.post("/signed", json=a_payment())
    assert_problem(response, 401, "signature_missing")
    assert "www-authenticate" in response.headers


def test_a_request_signed_with_a_key_nobody_registered_is_refused(client: httpx2.Client) -> None:
    response = client.post("/signed", json=a_payment(), auth=signature(SigningKey.generate()))
    assert_problem(response, 401, "key_unknown")


def test_a_request_recorded_on_the_way_cannot_be_presented_again(client: httpx2.Client) -> None:
    request = client.build_request("POST", "/signed", json=a_payment())
    sent = client.send(request, auth=signature())
    assert sent.status_code == 200
    again = client.send(sent.request, auth=None)
    assert_problem(again, 401, "signature_replayed")


def test_a_body_altered_on_the_way_is_refused(client: httpx2.Client) -> None:
    request = client.build_request("POST", "/signed", json=a_payment())
    next(signature().sync_auth_flow(request))
    altered = request.content.replace(b"1250", b"9250")
    forged = client.build_request("POST", "/signed", content=altered, headers=request.headers)
    assert_problem(client.send(forged), 400, "digest_mismatch")


def test_a_request_altered_on_the_way_is_refused(client: httpx2.Client) -> None:
    request = client.build_request("POST", "/echo", json=a_payment())
    next(signature().sync_auth_flow(request))
    forged = client.build_request(
        "POST", "/signed", content=request.content, headers=request.headers
    )
    assert_problem(client.send(forged), 401, "signature_invalid")


def test_a_stale_request_is_told_the_servers_time(client: httpx2.Client) -> None:
    class SlowClock:
        def now(self) -> datetime:
            return datetime.now(UTC) - timedelta(minutes=5)

    auth = MessageSignature(CLINIC, KEY, SlowClock(), SystemRandomness())
    found = assert_problem(
        client.post("/signed", json=a_payment(), auth=auth), 401, "signature_stale"
    )
    assert "set the clock" in str(found["detail"])


# Protocol versions


def test_a_client_that_is_too_old_is_told_which_version_it_needs(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "OLDEST_CLIENT", 3)
    response = client.get("/page", headers={"Unseen-Protocol": "2"})
    found = assert_problem(response, 426, "protocol_too_old")
    assert found["needed"] == 3
    assert client.get("/page", headers={"Unseen-Protocol": "3"}).status_code == 200


@pytest.mark.parametrize("version", ["0", "01", "1.0", "one", "-1"])
def test_a_malformed_version_is_refused(client: httpx2.Client, version: str) -> None:
    response = client.get("/page", headers={"Unseen-Protocol": version})
    assert_problem(response, 400, "malformed_header")


def test_the_server_says_which_version_it_speaks(client: httpx2.Client) -> None:
    assert client.get("/page").headers["unseen-protocol"] == "1"


# Idempotency


@pytest.fixture
def paying(engine: Engine, create_tables: Callable[..., None]) -> Iterator[httpx2.Client]:
    create_tables(engine, "hub_idempotency")
    desk = Desk(engine)
    with (
        serving(an_app(desk)) as running,
        httpx2.Client(base_url=running.url, trust_env=False) as client,
    ):
        client.desk = desk  # type: ignore[attr-defined]
        yield client


def pay(client: httpx2.Client, key: str | None, **members: object) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return client.post("/pay", json=a_payment(**members), headers=headers, auth=signature())


def test_a_repeated_payment_is_answered_and_not_made_again(paying: httpx2.Client) -> None:
    first = pay(paying, "key-00001")
    again = pay(paying, "key-00001")
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert again.headers["location"] == "/payments/1"
    assert paying.desk.payments == [1250]  # type: ignore[attr-defined]
    assert_problem(pay(paying, "key-00001", amount_minor=9), 422, "idempotency_key_reused")
    assert_problem(pay(paying, None), 400, "idempotency_key_missing")
    assert_problem(pay(paying, "short"), 400, "malformed_header")
    assert pay(paying, "key-00002").json() == {"number": 2}


# Health and description


def test_a_server_whose_check_fails_is_alive_and_not_ready(
    client: httpx2.Client, desk: Desk
) -> None:
    assert client.get("/readyz").json()["status"] == "ready"
    desk.missing = "migrations are behind; run exchange migrate"
    found = assert_problem(client.get("/readyz"), 503, "not_ready")
    assert found["errors"] == [{"pointer": "/database", "detail": desk.missing}]
    assert client.get("/livez").json() == {"status": "alive"}


def test_the_description_names_problems_signatures_and_operations(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    assert "Problem" in document["components"]["schemas"]
    assert "message_signature" in document["components"]["securitySchemes"]
    assert document["paths"]["/pay"]["post"]["security"] == [{"message_signature": []}]
    assert "security" not in document["paths"]["/page"]["get"]
    for path in document["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            assert "application/problem+json" in answers["4XX"]["content"]
            assert "422" not in answers


def test_there_are_no_pages_that_load_scripts_from_elsewhere(client: httpx2.Client) -> None:
    for path in ("/docs", "/redoc"):
        assert_problem(client.get(path), 404, "no_such_page")


def test_a_route_without_an_operation_id_is_refused() -> None:
    app = an_app(Desk())
    with pytest.raises(TypeError, match="operation_id"):
        app.get("/unnamed")(lambda: None)


# Events


def an_event(number: int) -> Event:
    return Event(number, "stage", json.dumps({"stage": number}))


def event_ids(response: httpx2.Response) -> list[str]:
    return [event.id for event in httpx2.EventSource(response) if event.event != "end"]


def test_a_stream_gives_what_there_is_and_says_when_it_is_over(
    client: httpx2.Client, desk: Desk
) -> None:
    desk.events = [an_event(0), an_event(1), an_event(2)]
    desk.over = True
    with client.stream("GET", "/events") as response:
        events = list(httpx2.EventSource(response))
    assert [(e.event, e.data) for e in events] == [
        ("stage", '{"stage": 0}'),
        ("stage", '{"stage": 1}'),
        ("stage", '{"stage": 2}'),
        ("end", "{}"),
    ]


@pytest.mark.parametrize(
    ("last", "rest"), [("0", ["1", "2"]), ("1", ["2"]), ("2", []), (None, list("012"))]
)
def test_a_stream_resumes_after_the_event_that_was_seen_last(
    client: httpx2.Client, desk: Desk, last: str | None, rest: list[str]
) -> None:
    desk.events = [an_event(0), an_event(1), an_event(2)]
    desk.over = True
    headers = {"Last-Event-ID": last} if last is not None else {}
    with client.stream("GET", "/events", headers=headers) as response:
        assert event_ids(response) == rest


@pytest.mark.parametrize("junk", ["-1", "x", "1.5", str(2**63)])
def test_a_malformed_last_event_id_is_refused(client: httpx2.Client, junk: str) -> None:
    response = client.get("/events", headers={"Last-Event-ID": junk})
    assert_problem(response, 422, "invalid_request")


def test_a_stream_goes_on_while_events_come(client: httpx2.Client, desk: Desk) -> None:
    desk.events = [an_event(0)]
    with client.stream("GET", "/events") as response:
        events = iter(httpx2.EventSource(response))
        assert next(events).id == "0"
        desk.events.append(an_event(1))
        assert next(events).id == "1"
        desk.over = True
        assert next(events).event == "end"


def test_a_silent_stream_is_kept_open(
    client: httpx2.Client, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.02)
    with client.stream("GET", "/events") as response:
        lines = response.iter_lines()
        assert next(lines) == ": ping"
        desk.over = True
        assert "event: end" in list(lines)


def test_a_stream_that_fails_is_not_called_over_and_is_logged_under_its_cause(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(after: int | None) -> Batch:
        raise KeyError(SECRET)

    monkeypatch.setattr(desk, "read", read)
    with (
        capture_logs() as logs,  # around the server: it logs after the stream has ended
        serving(an_app(desk)) as running,
        httpx2.Client(trust_env=False) as client,
    ):
        assert "end" not in client.get(running.url + "/events").text
    assert [entry["errors"][0] for entry in logs] == ["builtins.KeyError"]
    assert SECRET not in str(logs)


def test_a_reader_that_leaves_is_not_read_for_any_longer(
    client: httpx2.Client, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    def read(after: int | None) -> Batch:
        nonlocal reads
        reads += 1
        return Batch([an_event(0)] if after is None else [], over=False)

    monkeypatch.setattr(desk, "read", read)
    with client.stream("GET", "/events") as response:
        assert next(iter(httpx2.EventSource(response))).id == "0"
    for _ in range(50):
        before = reads
        time.sleep(0.1)  # ten polls, if anybody still polled
        if reads == before:
            break
    assert reads == before


# The runner


def test_a_server_that_stops_ends_its_streams_without_calling_them_over(desk: Desk) -> None:
    desk.events = [an_event(0)]
    with (
        serving(an_app(desk)) as running,
        httpx2.Client(base_url=running.url, trust_env=False) as client,
        client.stream("GET", "/events") as response,
    ):
        events = iter(httpx2.EventSource(response))
        assert next(events).event == "stage"
        running.stop()
        assert list(events) == []


def test_a_taken_address_is_an_error_at_once() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            serve(an_app(Desk()), "127.0.0.1", taken.getsockname()[1])


def test_a_start_that_fails_is_raised_with_its_cause() -> None:
    class NoDatabase(Exception):
        pass

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise NoDatabase
        yield

    clock = SystemClock()
    app = new_app(
        title="Desk",
        version="1",
        description="For tests.",
        verifier=Verifier(registered_key, MemoryNonces(clock), clock),
        randomness=SystemRandomness(),
        checks={},
        lifespan=lifespan,
    )
    with pytest.raises(ServerNotStarted) as caught, serving(app):
        pass
    assert isinstance(caught.value.__cause__, NoDatabase)


PROGRAM = """
import sys
from api.http.app import new_app
from api.http.server import serve
from api.http.signing import MemoryNonces, Verifier
from crypto.ports import SystemClock, SystemRandomness
clock = SystemClock()
app = new_app(title="t", version="1", description="d", randomness=SystemRandomness(), checks={},
              verifier=Verifier(lambda p, k: None, MemoryNonces(clock), clock))
serve(app, "127.0.0.1", 0, on_ready=lambda running: print(running.url, flush=True))
print("closed", flush=True)
sys.exit(3)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_process_gracefully_and_it_chooses_its_exit_code(
    number: signal.Signals,
) -> None:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().strip()
        assert httpx2.get(url + "/livez", trust_env=False).status_code == 200
        process.send_signal(number)
        assert process.stdout.read() == "closed\n"
        assert process.stderr.read() == ""
        assert process.wait(10) == 3


def _connection(base: str) -> socket.socket:
    url = httpx2.URL(base)
    wire = socket.create_connection((url.host, url.port or 80), timeout=10)
    return wire


def _read_all(wire: socket.socket) -> bytes:
    parts = []
    try:
        while part := wire.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
