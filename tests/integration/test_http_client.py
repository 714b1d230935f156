"""The client's transport against real servers: signing, retries, typed errors, streams."""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from api.client.errors import (
    ApiError,
    Conflict,
    HubFailed,
    NotFoundError,
    Refused,
    TryLater,
    Unauthorised,
    Unreachable,
    UpgradeNeeded,
)
from api.client.transport import ATTEMPTS, Transport
from api.http import protocol
from api.http.app import new_app
from api.http.caller import SignedBy
from api.http.events import (
    After,
    Batch,
    Event,
    EventSourceResponse,
    ServerSentEvent,
    StoppingNow,
    follow,
)
from api.http.server import TlsFiles, bind, serve_on, serving, url_of
from api.http.signing import MemoryNonces, Verifier
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemClock, SystemRandomness

CLINIC = PartyId("pty_" + "c" * 32)
KEY = SigningKey.generate()
NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


class Hub:
    """Answers as it is told: each prepared answer once, then with success."""

    def __init__(self) -> None:
        self.prepared: list[Response] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, body, idempotency key
        self.events: list[Event] = []
        self.over = True
        self.cut_after: int | None = None  # how many events a stream gives before it breaks off
        self.deaf_until = 0  # how many times Last-Event-ID is ignored
        self.resumed_from: list[int | None] = []

    def app(self, *authorities: str) -> FastAPI:
        clock = SystemClock()
        app = new_app(
            title="Hub",
            version="1",
            description="For tests.",
            verifier=Verifier(
                lambda party, key_id: KEY.public,
                MemoryNonces(clock),
                clock,
                authorities=authorities,
            ),
            randomness=SystemRandomness(),
            checks={},
        )

        @app.api_route("/act", methods=["GET", "POST", "PUT"], operation_id="act")
        async def act(request: Request, caller: SignedBy) -> Response:
            body = (await request.body()).decode()
            key = request.headers.get("idempotency-key")
            self.requests.append((request.method, body, key))
            if self.prepared:
                return self.prepared.pop(0)
            return Response(json.dumps({"party": caller.party}), media_type="application/json")

        @app.get("/events", operation_id="events", response_class=EventSourceResponse)
        async def events(
            caller: SignedBy, after: After, stopping: StoppingNow
        ) -> AsyncIterator[ServerSentEvent]:
            self.resumed_from.append(after)
            if len(self.resumed_from) > 20:
                raise RuntimeError("a client that comes back for ever")
            if len(self.resumed_from) <= self.deaf_until:
                after = None
            given = 0
            async for event in follow(self._read, after=after, stopping=stopping, poll_s=0.01):
                if given == self.cut_after:
                    return
                given += 1
                yield event

        @app.get("/noise", operation_id="noise", response_class=EventSourceResponse)
        async def noise() -> AsyncIterator[ServerSentEvent]:
            yield ServerSentEvent(raw_data="not JSON")

        return app

    def _read(self, after: int | None) -> Batch:
        events = [event for event in self.events if after is None or event.id > after]
        return Batch(events, self.over)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def url(hub: Hub) -> Iterator[str]:
    with serving(hub.app()) as running:
        yield running.url


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def transport(url: str, pauses: list[float]) -> Iterator[Transport]:
    with a_transport(url, pauses) as transport:
        yield transport


def a_transport(
    url: str, pauses: list[float], *, ca_file: Path | None = None, proxy_url: str | None = None
) -> Transport:
    return Transport(
        url,
        CLINIC,
        KEY,
        clock=SystemClock(),
        randomness=SystemRandomness(),
        ca_file=ca_file,
        proxy_url=proxy_url,
        pause=pauses.append,
    )


def a_problem(status: int, code: str = "some_code", **headers: str) -> Response:
    document = {
        "type": f"urn:unseen:problem:{code}",
        "title": "Title",
        "detail": "what to do",
        "status": status,
        "code": code,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "errors": [{"pointer": "/a", "detail": "is wrong"}],
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(json.dumps(document), status, named, "application/problem+json")


def test_requests_are_signed_and_answers_read(transport: Transport) -> None:
    assert transport.get("/act").json() == {"party": CLINIC}
    assert transport.post("/act?dry=1", {"持有": "数据"}).json() == {"party": CLINIC}
    assert transport.get("/act", query={"text": "a b&c/d", "limit": 5}).status == 200


def test_without_a_key_public_things_can_be_read(url: str) -> None:
    clock, randomness = SystemClock(), SystemRandomness()
    with Transport(url, None, None, clock=clock, randomness=randomness) as transport:
        assert transport.get("/livez").json() == {"status": "alive"}
        with pytest.raises(Unauthorised) as caught:
            transport.get("/act")
    assert caught.value.code == "signature_missing"


@pytest.mark.parametrize(
    ("status", "code", "leaf"),
    [
        (400, "digest_mismatch", Refused),
        (401, "key_unknown", Unauthorised),
        (403, "not_trusted", Refused),
        (404, "not_found", NotFoundError),
        (409, "state_changed", Conflict),
        (412, "stale", Conflict),
        (413, "body_too_large", Refused),
        (422, "malformed", Refused),
        (426, "protocol_too_old", UpgradeNeeded),
        (500, "internal", HubFailed),
        (501, "not_implemented", HubFailed),
    ],
)
def test_each_problem_becomes_the_error_that_its_reader_must_act_upon(
    transport: Transport, hub: Hub, status: int, code: str, leaf: type[ApiError]
) -> None:
    hub.prepared = [a_problem(status, code)]
    with pytest.raises(leaf, match="what to do") as caught:
        transport.get("/act")
    assert type(caught.value) is leaf
    assert caught.value.status == status
    assert caught.value.code == code
    assert caught.value.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert caught.value.errors == ({"pointer": "/a", "detail": "is wrong"},)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"code": 7, "errors": "x"}'])
def test_an_answer_that_is_no_problem_document_is_still_an_error(
    transport: Transport, hub: Hub, body: bytes
) -> None:
    hub.prepared = [Response(body, 422, media_type="application/problem+json")]
    with pytest.raises(Refused) as caught:
        transport.get("/act")
    assert caught.value.code == "http_422"
    assert caught.value.errors == ()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_hub_is_asked_again_as_late_as_it_says(
    transport: Transport, hub: Hub, pauses: list[float], status: int
) -> None:
    hub.prepared = [a_problem(status, retry_after="7"), a_problem(status)]
    assert transport.get("/act").status == 200
    assert pauses[0] == 7
    assert 0 < pauses[1] < 1


def test_a_date_to_come_back_at_is_understood(
    transport: Transport, hub: Hub, pauses: list[float]
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    hub.prepared = [a_problem(503, retry_after=later)]
    assert transport.get("/act").status == 200
    assert 15 < pauses[0] <= 20


def test_a_hub_that_asks_for_much_patience_is_reported_instead(
    transport: Transport, hub: Hub, pauses: list[float]
) -> None:
    hub.prepared = [a_problem(503, retry_after="3600")]
    with pytest.raises(TryLater) as caught:
        transport.get("/act")
    assert caught.value.retry_after_s == 3600
    assert pauses == []


def test_pauses_grow_and_end(transport: Transport, hub: Hub, pauses: list[float]) -> None:
    hub.prepared = [a_problem(503) for _ in range(ATTEMPTS)]
    with pytest.raises(TryLater):
        transport.get("/act")
    assert len(hub.requests) == ATTEMPTS
    assert len(pauses) == ATTEMPTS - 1
    assert all(0.1 * 2**n <= pause <= 0.2 * 2**n for n, pause in enumerate(pauses))


def test_a_post_is_repeated_only_with_an_idempotency_key(transport: Transport, hub: Hub) -> None:
    hub.prepared = [a_problem(503)]
    with pytest.raises(TryLater):
        transport.post("/act", {"pay": 1})
    hub.prepared = [a_problem(503)]
    transport.post("/act", {"pay": 2}, idempotency_key="key-00001")
    assert hub.requests == [
        ("POST", '{"pay":1}', None),
        ("POST", '{"pay":2}', "key-00001"),
        ("POST", '{"pay":2}', "key-00001"),
    ]


def test_a_request_in_flight_is_waited_for(transport: Transport, hub: Hub) -> None:
    hub.prepared = [a_problem(409, "request_in_flight", retry_after="1")]
    assert transport.post("/act", {}, idempotency_key="key-00001").status == 200


def test_a_hub_that_is_not_there_is_tried_several_times(pauses: list[float]) -> None:
    with (
        bind("127.0.0.1", 0) as unused,
        a_transport(url_of(unused, tls=False), pauses) as lost,
        pytest.raises(Unreachable, match="cannot be reached"),
    ):
        lost.post("/act", {})
    assert len(pauses) == ATTEMPTS - 1


@pytest.mark.parametrize(("key", "attempts"), [(None, 1), ("key-00001", ATTEMPTS)])
def test_an_answer_that_was_lost_is_asked_for_again_only_if_that_is_safe(
    pauses: list[float], key: str | None, attempts: int
) -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with (
        a_wire(half) as (url, seen),
        a_transport(url, pauses) as transport,
        pytest.raises(Unreachable),
    ):
        transport.post("/act", {}, idempotency_key=key)
    assert len(seen) == attempts


def test_something_else_at_the_address_is_said_to_be_no_hub(pauses: list[float]) -> None:
    greeting = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    with a_wire(greeting) as (url, seen), a_transport(url, pauses) as transport:
        with pytest.raises(Unreachable, match="not an exchange hub") as caught:
            transport.get("/act")
        with pytest.raises(Unreachable, match="not an exchange hub"):
            list(transport.events("/events"))
    assert caught.value.code == "not_a_hub"
    assert len(seen) == 2
    assert pauses == []


def test_a_proxy_that_says_busy_is_tried_again_though_it_is_no_hub(pauses: list[float]) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    with (
        a_wire(busy) as (url, seen),
        a_transport(url, pauses) as transport,
        pytest.raises(TryLater),
    ):
        transport.get("/act")
    assert len(seen) == ATTEMPTS


def test_a_hub_that_is_too_old_is_named_so(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "OLDEST_SERVER", 2)
    with pytest.raises(UpgradeNeeded, match="upgrade the hub"):
        transport.get("/act")


def test_a_client_that_is_too_old_is_told_the_version_it_needs(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "OLDEST_CLIENT", 2)
    with pytest.raises(UpgradeNeeded, match="needs 2 or later"):
        transport.get("/act")


# Certificates and proxies


def test_a_hub_with_a_certificate_of_the_given_authority_is_trusted(
    hub: Hub, pauses: list[float], tmp_path: Path
) -> None:
    files = a_certificate(tmp_path, "hub")
    with serving(hub.app(), tls=files) as running:
        assert running.url.startswith("https://")
        with a_transport(running.url, pauses, ca_file=files.certificate) as transport:
            assert transport.post("/act", {}).json() == {"party": CLINIC}


def test_a_hub_with_another_certificate_is_refused_at_once(
    hub: Hub, pauses: list[float], tmp_path: Path
) -> None:
    files = a_certificate(tmp_path, "hub")
    other = a_certificate(tmp_path, "other")
    with serving(hub.app(), tls=files) as running:
        for ca_file in (other.certificate, None):
            with (
                a_transport(running.url, pauses, ca_file=ca_file) as transport,
                pytest.raises(Unreachable, match="certificate"),
            ):
                transport.get("/act")
    assert pauses == []


def test_a_request_through_a_proxy_that_rewrites_the_host_still_verifies(
    hub: Hub, pauses: list[float]
) -> None:
    with (
        serving(hub.app("hub.example")) as running,
        a_proxy(running.url) as proxy_url,
        a_transport("http://hub.example", pauses, proxy_url=proxy_url) as transport,
    ):
        assert transport.post("/act?a=b", {"c": 1}).json() == {"party": CLINIC}


def test_proxies_of_the_environment_are_ignored(
    url: str, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with a_transport(url, pauses) as transport:
        assert transport.get("/act").status == 200


# Streams


def some_events(count: int) -> list[Event]:
    return [Event(n, "stage", json.dumps({"n": n})) for n in range(count)]


def test_a_stream_that_breaks_off_is_resumed_without_loss_or_repetition(
    transport: Transport, hub: Hub
) -> None:
    hub.events = some_events(5)
    hub.cut_after = 1
    found = [(event.id, event.kind, event.data) for event in transport.events("/events")]
    assert found == [(n, "stage", {"n": n}) for n in range(5)]
    assert hub.resumed_from == [None, 0, 1, 2, 3, 4]


def test_an_event_given_again_is_not_passed_on_again(transport: Transport, hub: Hub) -> None:
    hub.events = some_events(3)
    hub.cut_after = 2
    hub.deaf_until = 3
    assert [event.id for event in transport.events("/events")] == [0, 1, 2]


def test_a_hub_that_only_repeats_itself_is_given_up(transport: Transport, hub: Hub) -> None:
    hub.events = some_events(3)
    hub.cut_after = 2
    hub.deaf_until = 100
    with pytest.raises(Unreachable, match="keeps closing"):
        list(transport.events("/events"))


def test_a_stream_can_be_taken_up_where_an_earlier_process_left_it(
    transport: Transport, hub: Hub
) -> None:
    hub.events = some_events(4)
    assert [event.id for event in transport.events("/events", after=0)] == [1, 2, 3]


def test_a_stream_that_never_gives_anything_is_given_up(
    transport: Transport, hub: Hub, pauses: list[float]
) -> None:
    hub.events = some_events(3)
    hub.cut_after = 0
    with pytest.raises(Unreachable, match="keeps closing"):
        list(transport.events("/events"))
    assert len(hub.resumed_from) == ATTEMPTS
    assert len(pauses) == ATTEMPTS - 1


def test_a_stream_survives_a_restart_of_the_hub(hub: Hub) -> None:
    hub.events = some_events(2)
    hub.over = False
    bound = bind("127.0.0.1", 0)
    address = bound.getsockname()
    url = url_of(bound, tls=False)
    server = _Restartable(hub.app(), bound)
    waited = threading.Event()

    def come_back(seconds: float) -> None:
        if not waited.is_set():
            waited.set()
            hub.events = some_events(4)
            hub.over = True
            server.start_again(hub.app(), bind(*address))

    transport = Transport(
        url, CLINIC, KEY, clock=SystemClock(), randomness=SystemRandomness(), pause=come_back
    )
    with transport:
        ids = []
        for event in transport.events("/events"):
            ids.append(event.id)
            if event.id == 1:
                server.stop()
        assert ids == [0, 1, 2, 3]
    server.stop()


def test_a_refused_stream_is_an_error(transport: Transport) -> None:
    with pytest.raises(NotFoundError):
        list(transport.events("/nowhere"))


def test_events_that_are_not_ours_are_an_error(transport: Transport) -> None:
    with pytest.raises(HubFailed, match="no id or no JSON"):
        list(transport.events("/noise"))


class _Restartable:
    def __init__(self, app: FastAPI, bound: object) -> None:
        self.start_again(app, bound)

    def start_again(self, app: FastAPI, bound: object) -> None:
        ready = threading.Event()

        def note(running: object) -> None:
            self._running = running
            ready.set()

        self._thread = threading.Thread(
            target=serve_on, args=(bound, app), kwargs={"on_ready": note}, daemon=True
        )
        self._thread.start()
        ready.wait(10)

    def stop(self) -> None:
        self._running.stop()  # type: ignore[attr-defined]
        self._thread.join(10)


@contextmanager
def a_wire(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that says exactly `answer`, closes, and keeps what it was sent."""
    seen: list[bytes] = []
    with bind("127.0.0.1", 0) as listening:
        listening.listen()

        def run() -> None:
            while True:
                try:
                    wire, _ = listening.accept()
                except OSError:
                    return
                with wire:
                    seen.append(wire.recv(65536))
                    wire.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        yield url_of(listening, tls=False), seen
        listening.shutdown(2)


@contextmanager
def a_proxy(target: str) -> Iterator[str]:
    """A forward proxy that sends everything to `target` under that host's own name."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            path = httpx2.URL(self.path).raw_path.decode()
            kept = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            answer = httpx2.post(target + path, content=body, headers=kept, trust_env=False)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def a_certificate(folder: Path, name: str) -> TlsFiles:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(folder / f"{name}.pem", folder / f"{name}.key")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files
