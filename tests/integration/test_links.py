"""Links between nodes on real sockets: plain programs stand in for the engines."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from crypto.digest import Digest, digest
from crypto.identifiers import JobId, PartyId
from crypto.keys import PublicKey, SigningKey
from crypto.ports import SystemClock, SystemRandomness
from crypto.tls import TlsIdentity, client_context, make_identity, server_context
from exchange.hub.adapters.relay import Relay
from exchange.links.dial import DialRole, RelayDial, dial_answer, sign_dial
from exchange.links.endpoint import Endpoint, Proxy
from exchange.links.errors import CannotListen, NotRunning, Refusal, SessionRefused
from exchange.links.header import ACCEPTED, StreamHeader, StreamRole, answer_of, encode_header
from exchange.links.session import session_name
from exchange.node.adapters.tls_links import LinkDeadlines, LinkService
from exchange.node.links import Egress, LinkSession, PeerAddress, StreamState
from registry.errors import NotFound

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
PLAN, OTHER_PLAN = digest(b"plan"), digest(b"another plan")
JOB, OTHER_JOB = JobId("job_" + 32 * "1"), JobId("job_" + 32 * "2")
BULK = 20 << 20
PATIENCE_S = 20.0
HERE = Endpoint("127.0.0.1", 0)
IMPATIENT = LinkDeadlines(handshake_s=0.3, header_s=0.3, engine_s=0.5, setup_s=2.0)

Handler = Callable[[socket.socket], None]


# ----- programs around the links


def dial(endpoint: Endpoint) -> socket.socket:
    # Without a timeout while connecting: the poll for it may find an early reset instead.
    connection = socket.create_connection((endpoint.host, endpoint.port))
    connection.settimeout(PATIENCE_S)
    return connection


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "this never came true"
        time.sleep(0.01)


class Program:
    """A TCP server on loopback; each connection has its own thread and `handler`."""

    def __init__(self, handler: Handler, *, port: int = 0) -> None:
        self._handler = handler
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE_S)
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._handler(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def forget(self) -> None:
        """Close every connection."""
        for connection in self._open:
            connection.close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.forget()


def read_all(connection: socket.socket) -> bytes:
    """Everything until a clean end. Raises ConnectionResetError when the connection is cut."""
    found = bytearray()
    while data := connection.recv(1 << 18):
        found += data
    return bytes(found)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Send `data` and, at the same time, read what comes, both until a clean end."""

    def send() -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    found = read_all(connection)
    sending.join(PATIENCE_S)
    return found


def is_cut(connection: socket.socket, *, after: bytes = b"") -> bool:
    """Whether the connection ends by a reset, as against by a clean end. after: what is sent
    first; the reset may come before all of it is gone."""
    try:
        connection.sendall(after)
        read_all(connection)
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def hangs_up(connection: socket.socket) -> bool:
    """Whether the other side ends the connection, in any way, without a word."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def copy(source: socket.socket, sink: socket.socket, captured: bytearray) -> None:
    try:
        while data := source.recv(1 << 16):
            captured += data
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        sink.close()


def join(one: socket.socket, other: socket.socket, captured: bytearray) -> None:
    back = threading.Thread(target=copy, args=(other, one, captured), daemon=True)
    back.start()
    copy(one, other, captured)
    back.join(PATIENCE_S)


class Tap(Program):
    """A wire that remembers what passed through it."""

    def __init__(self, target: Endpoint) -> None:
        self.captured = bytearray()
        self._target = target
        super().__init__(self._pass)

    def _pass(self, connection: socket.socket) -> None:
        with dial(self._target) as other:
            join(connection, other, self.captured)


class HttpProxy(Program):
    """A proxy that answers CONNECT, with `status` if it is not 200."""

    def __init__(self, status: str = "200 Connection established") -> None:
        self.heads: list[str] = []
        self.status = status
        super().__init__(self._connect)

    def _connect(self, connection: socket.socket) -> None:
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        self.heads.append(head.decode())
        connection.sendall(f"HTTP/1.1 {self.status}\r\nVia: test\r\n\r\n".encode())
        if self.status.startswith("200"):
            with dial(Endpoint.parse(head.split()[1].decode())) as other:
                join(connection, other, bytearray())


class RelayThread:
    """The hub's relay on a loop of its own."""

    def __init__(self) -> None:
        self.keys: dict[PartyId, PublicKey] = {}
        self.sessions: set[Digest] = {session_name(PLAN, JOB)}
        self._loop = asyncio.new_event_loop()
        self.relay = Relay(HERE, signing_key=self._key, allowed=self._allowed, clock=SystemClock())
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.relay.start(), self._loop).result()

    def _key(self, party: PartyId) -> PublicKey:
        try:
            return self.keys[party]
        except KeyError:
            raise NotFound(party) from None

    def _allowed(self, session: Digest, party: PartyId, peer: PartyId) -> bool:
        return session in self.sessions and {party, peer} <= self.keys.keys()

    @property
    def endpoint(self) -> Endpoint:
        return self.relay.endpoint

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.relay.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Node:
    """A party with its keys and its running links."""

    party: PartyId
    identity: TlsIdentity
    signer: SigningKey
    service: LinkService
    listens: bool

    @property
    def address(self) -> PeerAddress:
        return PeerAddress(self.identity.certificate, self.service.endpoint)

    def open(self, *peers: Node, engine: int, plan: Digest = PLAN, job: JobId = JOB) -> LinkSession:
        return self.service.open_session(
            plan_digest=plan,
            job_id=job,
            own=self.address,
            peers={peer.party: peer.address for peer in peers},
            engine_port=engine,
        )


class World:
    """What one test started, closed in reverse order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stack = ExitStack()

    def issuing_identity(self, party: PartyId) -> tuple[bytes, TlsIdentity]:
        """A certificate that calls itself an authority, and one it issued to another key."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, party)])
        keys = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        made = [
            x509.CertificateBuilder()
            .subject_name(name if authority else x509.Name([]))
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=1))
            .not_valid_after(NOW + timedelta(days=9999))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .sign(keys[0], algorithm=None)
            for key, authority in zip(keys, (True, False), strict=True)
        ]
        path = self._folder / secrets.token_hex(8)
        path.write_bytes(
            keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + made[1].public_bytes(Encoding.PEM)
        )
        authority, issued = (c.public_bytes(Encoding.DER) for c in made)
        return authority, TlsIdentity(issued, path)

    def program(self, handler: Handler, *, port: int = 0) -> Program:
        return self.stack.enter_context(closing(Program(handler, port=port)))

    def relay(self) -> RelayThread:
        return self.stack.enter_context(closing(RelayThread()))

    def identity(self, party: PartyId) -> TlsIdentity:
        return make_identity(self._folder / secrets.token_hex(8), party, now=NOW)

    def node(
        self,
        name: str,
        *,
        listens: bool = True,
        relay: RelayThread | None = None,
        through: Endpoint | None = None,
        proxy: Proxy | None = None,
        deadlines: LinkDeadlines | None = None,
    ) -> Node:
        """through: dial the relay at another address than its own, such as a tap's."""
        party = PartyId("pty_" + 32 * name)
        identity, signer = self.identity(party), SigningKey.generate()
        service = LinkService(
            party,
            identity,
            listen=HERE if listens else None,
            relay=through or (relay.endpoint if relay else None),
            proxy=proxy,
            signer=signer,
            clock=SystemClock(),
            randomness=SystemRandomness(),
            deadlines=deadlines,
        )
        service.start()
        self.stack.callback(service.stop)
        if relay:
            relay.keys[party] = signer.public
        return Node(party, identity, signer, service, listens)

    def two_nodes(self, way: str) -> tuple[Node, Node]:
        """Node a's streams to node b go `way`."""
        relay = self.relay() if way == "relay" else None
        a = self.node("a", listens=way in ("direct", "reverse"), relay=relay)
        b = self.node("b", listens=way == "direct", relay=relay)
        return a, b


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.stack:
        yield made


WAYS = pytest.mark.parametrize("way", ["direct", "reverse", "relay"])


def only(egress: tuple[Egress, ...]) -> Egress:
    (stream,) = egress
    return stream


# ----- bytes arrive, and are counted


@WAYS
def test_twenty_megabytes_pass_both_ways_at_once_intact_and_counted(world: World, way: str) -> None:
    there, back = os.urandom(BULK), os.urandom(BULK)
    arrived: list[bytes] = []
    engine = world.program(lambda connection: arrived.append(exchange(connection, back)))
    a, b = world.two_nodes(way)
    one, other = a.open(b, engine=1), b.open(a, engine=engine.port)

    with dial(one.tunnel_address(b.party)) as connection:
        assert exchange(connection, there) == back
    wait_until(lambda: all(s.state is StreamState.FINISHED for s in one.egress() + other.egress()))

    wait_until(lambda: arrived == [there])
    sent, received = only(one.egress()), only(other.egress())
    assert (sent.receiver, received.receiver) == (b.party, a.party)
    assert sent.opened_by == received.opened_by == a.party
    assert sent.number == received.number
    assert sent.sent_bytes == received.received_bytes == len(there)
    assert sent.received_bytes == received.sent_bytes == len(back)
    assert sent.sent == received.received == digest(there)
    assert sent.received == received.sent == digest(back)
    assert a.party in sent.why


@WAYS
def test_both_engines_open_streams_more_at_once_than_are_kept_waiting(
    world: World, way: str
) -> None:
    engine = world.program(echo)
    a, b = world.two_nodes(way)
    sessions = {a.party: a.open(b, engine=engine.port), b.party: b.open(a, engine=engine.port)}

    def ask(caller: Node, callee: Node, question: bytes) -> None:
        with dial(sessions[caller.party].tunnel_address(callee.party)) as connection:
            answers.append((question, exchange(connection, question)))

    answers: list[tuple[bytes, bytes]] = []
    threads = [
        threading.Thread(target=ask, args=(*pair, secrets.token_bytes(5000)))
        for pair in ((a, b), (b, a))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert all(question == answer for question, answer in answers)
    assert len(sessions[a.party].egress()) == len(sessions[b.party].egress()) == 20


def test_with_three_parties_each_tunnel_leads_to_its_own_peer(world: World) -> None:
    relay = world.relay()
    nodes = [world.node(name, listens=name == "a", relay=relay) for name in "abc"]
    sessions: dict[PartyId, LinkSession] = {}
    for node in nodes:
        name = node.party.encode()

        def answer(connection: socket.socket, name: bytes = name) -> None:
            exchange(connection, name)

        others = [other for other in nodes if other is not node]
        sessions[node.party] = node.open(*others, engine=world.program(answer).port)
    for caller in nodes:
        for callee in nodes:
            if caller is not callee:
                with dial(sessions[caller.party].tunnel_address(callee.party)) as connection:
                    assert exchange(connection, b"who?") == callee.party.encode()


@WAYS
def test_a_peer_that_opens_its_session_later_and_an_engine_that_listens_later_are_waited_for(
    world: World, way: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    a, b = world.two_nodes(way)
    session = a.open(b, engine=1)
    with dial(session.tunnel_address(b.party)) as connection:
        connection.sendall(b"early")
        b.open(a, engine=port)
        time.sleep(0.1)
        assert session.egress() == ()  # nothing leaves before there is an engine to take it
        world.program(echo, port=port)
        assert connection.recv(5) == b"early"


def test_a_clean_end_in_one_direction_leaves_the_other_open(world: World) -> None:
    def wait_for_the_end(connection: socket.socket) -> None:
        question = read_all(connection)
        connection.sendall(b"after the end: " + question)

    engine = world.program(wait_for_the_end)
    a, b = world.two_nodes("direct")
    session = a.open(b, engine=1)
    b.open(a, engine=engine.port)
    with dial(session.tunnel_address(b.party)) as connection:
        assert exchange(connection, b"question") == b"after the end: question"


# ----- what is cut is counted and looks cut


@WAYS
def test_closing_a_session_cuts_its_streams_and_keeps_their_counts(world: World, way: str) -> None:
    ended: list[bool] = []
    taken = bytearray()
    go_on = threading.Event()

    def take_some(connection: socket.socket) -> None:
        taken.extend(connection.recv(1 << 16))
        go_on.wait(PATIENCE_S)
        ended.append(is_cut(connection))

    engine = world.program(take_some)
    a, b = world.two_nodes(way)
    one, other = a.open(b, engine=1), b.open(a, engine=engine.port)
    data = os.urandom(1 << 20)
    offered = 0
    with dial(one.tunnel_address(b.party)) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):  # nobody reads, so the writer is held up
            while True:
                offered += connection.send(data[offered % len(data) :])
        connection.settimeout(PATIENCE_S)
        assert offered < 64 << 20
        one.close()
        assert is_cut(connection)
    go_on.set()
    wait_until(lambda: ended == [True])
    wait_until(lambda: only(other.egress()).state is StreamState.CUT)

    sent, received = only(one.egress()), only(other.egress())
    assert sent.state is StreamState.CUT
    assert 0 < received.received_bytes <= sent.sent_bytes <= offered
    whole = data * (offered // len(data) + 1)
    assert sent.sent == digest(whole[: sent.sent_bytes])
    assert received.received == digest(whole[: received.received_bytes])
    assert bytes(taken) == whole[: len(taken)]


@WAYS
def test_a_node_that_stops_cuts_its_peers_streams_too(world: World, way: str) -> None:
    engine = world.program(echo)
    a, b = world.two_nodes(way)
    one, other = a.open(b, engine=1), b.open(a, engine=engine.port)
    with dial(one.tunnel_address(b.party)) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        b.service.stop()
        assert is_cut(connection)
    wait_until(lambda: only(one.egress()).state is StreamState.CUT)
    assert only(one.egress()).sent_bytes == only(other.egress()).received_bytes == 1


def test_an_engine_that_dies_is_seen_to_die_by_the_other_engine(world: World) -> None:
    ended: list[bool] = []
    engine = world.program(lambda connection: ended.append(is_cut(connection)))
    a, b = world.two_nodes("direct")
    one = a.open(b, engine=1)
    b.open(a, engine=engine.port)
    connection = dial(one.tunnel_address(b.party))
    connection.sendall(b"half a mess")
    wait_until(lambda: [s.sent_bytes for s in one.egress()] == [11])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    wait_until(lambda: ended == [True])


@WAYS
def test_closing_and_stopping_release_every_socket_and_thread(world: World, way: str) -> None:
    engine = world.program(echo)
    a, b = world.two_nodes(way)
    threads = {t.name for t in threading.enumerate() if t.name.startswith("links")}
    gc.collect()

    before = sockets()
    sessions = [a.open(b, engine=engine.port), b.open(a, engine=engine.port)]
    with dial(sessions[0].tunnel_address(b.party)) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
    for session in sessions:
        session.close()
        session.close()
    engine.forget()
    wait_until(lambda: sockets() <= before)
    a.service.stop()
    b.service.stop()
    a.service.stop()
    assert threads
    assert not {t.name for t in threading.enumerate() if t.name.startswith("links")}
    with pytest.raises(NotRunning):
        a.open(b, engine=1)


def sockets() -> int:
    """How many this process holds open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists the folder is gone by now
            found += str(descriptor.readlink()).startswith("socket:")
    return found


# ----- only the right ones come in


def a_header(a: Node, b: Node) -> StreamHeader:
    """What node b says when its engine opens a stream to node a."""
    return StreamHeader(1, StreamRole.OPEN, PLAN, JOB, b.party, a.party, 0)


@contextmanager
def knock(listener: Node, identity: TlsIdentity) -> Iterator[ssl.SSLSocket]:
    """A TLS connection to a node's listener, before any header."""
    endpoint = listener.service.endpoint
    assert endpoint is not None
    context = client_context(identity, listener.identity.certificate)
    with dial(endpoint) as plain, context.wrap_socket(plain) as tls:
        yield tls


@dataclass
class Guarded:
    """Node a takes streams of node b, and of node c in the same session; `seen` by its engine."""

    a: Node
    b: Node
    c: Node
    session: LinkSession
    seen: list[object]


@pytest.fixture
def guarded(world: World) -> Guarded:
    seen: list[object] = []

    def record(connection: socket.socket) -> None:
        seen.append(connection)
        echo(connection)

    engine = world.program(record)
    a = world.node("a", deadlines=IMPATIENT)
    b, c = world.node("b"), world.node("c")
    return Guarded(a, b, c, a.open(b, c, engine=engine.port), seen)


def test_a_stream_with_the_right_header_is_taken(guarded: Guarded) -> None:
    with knock(guarded.a, guarded.b.identity) as tls:
        tls.sendall(encode_header(a_header(guarded.a, guarded.b)))
        assert tls.recv(1) == ACCEPTED
    wait_until(lambda: len(guarded.seen) == 1)
    assert guarded.a.service.refusals() == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"plan": OTHER_PLAN}, Refusal.OTHER_PLAN),
        ({"job": OTHER_JOB}, Refusal.UNKNOWN_SESSION),
        ({"sender": PartyId("pty_" + 32 * "d")}, Refusal.NOT_A_PARTY),
        ({"sender": PartyId("pty_" + 32 * "a")}, Refusal.NOT_A_PARTY),
        ({"sender": PartyId("pty_" + 32 * "c")}, Refusal.WRONG_CERTIFICATE),
        ({"receiver": PartyId("pty_" + 32 * "c")}, Refusal.WRONG_RECEIVER),
        ({"role": StreamRole.PARK}, Refusal.WRONG_ROLE),
    ],
)
def test_a_stream_that_differs_from_the_session_in_one_thing_is_refused(
    guarded: Guarded, change: dict[str, object], reason: Refusal
) -> None:
    header = replace(a_header(guarded.a, guarded.b), **change)  # type: ignore[arg-type]
    with knock(guarded.a, guarded.b.identity) as tls:
        tls.sendall(encode_header(header))
        assert tls.recv(2) == answer_of(reason)
    assert guarded.a.service.refusals() == {reason.name.lower().replace("_", "-"): 1}
    assert guarded.seen == [] and guarded.session.egress() == ()


def test_a_stream_number_is_good_once(guarded: Guarded) -> None:
    header = encode_header(a_header(guarded.a, guarded.b))
    answers = []
    for _ in range(2):
        with knock(guarded.a, guarded.b.identity) as tls:
            tls.sendall(header)
            answers.append(tls.recv(1))
    assert answers == [ACCEPTED, answer_of(Refusal.NUMBER_USED)]


@pytest.mark.parametrize("said", [b"\xff\xff", b"\x00\x00", b"\x00\x02{}", b"\x00\x04\xff\xfe\0\0"])
def test_an_oversized_or_malformed_header_is_refused(guarded: Guarded, said: bytes) -> None:
    with knock(guarded.a, guarded.b.identity) as tls:
        tls.sendall(said)
        assert tls.recv(2) == answer_of(Refusal.MALFORMED)
    assert guarded.a.service.refusals() == {"malformed": 1}


def test_a_party_of_another_session_cannot_enter_this_one(world: World, guarded: Guarded) -> None:
    d = world.node("d")
    guarded.a.open(d, engine=1, job=OTHER_JOB)
    with knock(guarded.a, d.identity) as tls:
        tls.sendall(encode_header(replace(a_header(guarded.a, d), job=JOB)))
        assert tls.recv(2) == answer_of(Refusal.NOT_A_PARTY)
    with knock(guarded.a, d.identity) as tls:
        tls.sendall(encode_header(a_header(guarded.a, guarded.b)))
        assert tls.recv(2) == answer_of(Refusal.WRONG_CERTIFICATE)


def test_a_certificate_that_no_session_pins_ends_in_the_handshake(
    world: World, guarded: Guarded
) -> None:
    forged = world.identity(guarded.b.party)  # b's name, another key
    with knock(guarded.a, forged) as tls:
        with suppress(OSError):  # the answer may be faster than the question
            tls.sendall(encode_header(a_header(guarded.a, guarded.b)))
        assert hangs_up(tls)
    wait_until(lambda: guarded.a.service.refusals() == {"not-pinned": 1})
    assert guarded.seen == [] and guarded.session.egress() == ()


def test_a_peer_that_says_nothing_is_dropped_at_the_deadline(guarded: Guarded) -> None:
    assert guarded.a.service.endpoint is not None
    with dial(guarded.a.service.endpoint) as silent:
        assert is_cut(silent)
    with knock(guarded.a, guarded.b.identity) as tls:
        assert hangs_up(tls)
    wait_until(lambda: guarded.a.service.refusals() == {"silent": 2})


def test_without_an_open_session_nobody_gets_as_far_as_a_handshake(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.session.close()
    assert guarded.a.service.endpoint is not None
    try:
        with dial(guarded.a.service.endpoint) as early:
            assert is_cut(early)
    except ConnectionResetError:
        pass  # even before the connection was seen to stand
    guarded.a.service.stop()
    assert guarded.a.service.refusals() == {}
    assert caplog.records == []


def test_a_certificate_that_a_pinned_one_issued_is_not_the_pinned_one(world: World) -> None:
    """A party may call its certificate an authority; the nodes still compare byte for byte."""
    a = world.node("a")
    authority, issued = world.issuing_identity(PartyId("pty_" + 32 * "b"))
    session = a.service.open_session(
        plan_digest=PLAN,
        job_id=JOB,
        own=a.address,
        peers={PartyId("pty_" + 32 * "b"): PeerAddress(authority, None)},
        engine_port=1,
    )
    header = StreamHeader(1, StreamRole.OPEN, PLAN, JOB, PartyId("pty_" + 32 * "b"), a.party, 0)
    with knock(a, issued) as tls:
        tls.sendall(encode_header(header))
        assert tls.recv(1) == answer_of(Refusal.WRONG_CERTIFICATE)
    assert session.egress() == ()

    with tls_server(issued, [a.identity.certificate]) as (server, endpoint):
        session.close()
        session = a.service.open_session(
            plan_digest=PLAN,
            job_id=JOB,
            own=a.address,
            peers={PartyId("pty_" + 32 * "b"): PeerAddress(authority, endpoint)},
            engine_port=1,
        )
        with dial(session.tunnel_address(PartyId("pty_" + 32 * "b"))) as connection:
            with suppress(OSError), server.accept()[0] as tls:
                assert hangs_up(tls)
            assert is_cut(connection)
    assert a.service.refusals()["not-pinned"] == 1
    assert session.egress() == ()


@contextmanager
def tls_server(
    identity: TlsIdentity, peers: list[bytes]
) -> Iterator[tuple[ssl.SSLSocket, Endpoint]]:
    """A listener of whoever holds `identity`, saying what it likes after the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(PATIENCE_S)
        endpoint = Endpoint("127.0.0.1", plain.getsockname()[1])
        with server_context(identity, peers).wrap_socket(plain, server_side=True) as server:
            yield server, endpoint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"plan": OTHER_PLAN}, Refusal.OTHER_PLAN),
        ({"job": OTHER_JOB}, Refusal.UNKNOWN_SESSION),
        ({"sender": PartyId("pty_" + 32 * "c")}, Refusal.WRONG_CERTIFICATE),
        ({"receiver": PartyId("pty_" + 32 * "c")}, Refusal.WRONG_RECEIVER),
        ({"role": StreamRole.PARK}, Refusal.WRONG_ROLE),
    ],
)
def test_a_parked_connection_takes_only_streams_of_its_session(
    world: World, change: dict[str, object], reason: Refusal
) -> None:
    seen: list[object] = []
    b, c = world.node("b", listens=False), world.node("c")
    a, a_party = world.identity(PartyId("pty_" + 32 * "a")), PartyId("pty_" + 32 * "a")
    with tls_server(a, [b.identity.certificate]) as (server, endpoint):
        session = b.service.open_session(
            plan_digest=PLAN,
            job_id=JOB,
            own=b.address,
            peers={a_party: PeerAddress(a.certificate, endpoint), c.party: c.address},
            engine_port=world.program(seen.append).port,
        )
        with server.accept()[0] as tls:
            tls.settimeout(PATIENCE_S)
            assert b'"role":"park"' in tls.recv(2048)
            tls.sendall(ACCEPTED)
            header = StreamHeader(1, StreamRole.OPEN, PLAN, JOB, a_party, b.party, 0)
            tls.sendall(encode_header(replace(header, **change)))  # type: ignore[arg-type]
            assert tls.recv(1) == answer_of(reason)
    assert session.egress() == () and seen == []


def test_closing_a_session_ends_the_connections_that_peers_parked(world: World) -> None:
    a, b = world.two_nodes("reverse")
    session = a.open(b, engine=1)
    with knock(a, b.identity) as tls:
        tls.sendall(encode_header(replace(a_header(a, b), role=StreamRole.PARK)))
        assert tls.recv(1) == ACCEPTED
        session.close()
        assert hangs_up(tls)


def test_nothing_leaves_for_a_peer_with_another_certificate(world: World) -> None:
    a, b, impostor = world.node("a"), world.node("b"), world.node("b")
    seen: list[object] = []
    impostor.open(a, engine=world.program(seen.append).port)
    session = a.service.open_session(
        plan_digest=PLAN,
        job_id=JOB,
        own=a.address,
        peers={b.party: PeerAddress(b.identity.certificate, impostor.service.endpoint)},
        engine_port=1,
    )
    with dial(session.tunnel_address(b.party)) as connection:
        assert is_cut(connection, after=b"meant for b")
    assert a.service.refusals() == {"not-pinned": 1}
    assert session.egress() == () and seen == []


def test_nothing_leaves_for_an_impostor_that_the_relay_lets_in(world: World) -> None:
    """A lying hub gives the relay another signing key for b, and joins whoever holds it."""
    relay = world.relay()
    a = world.node("a", listens=False, relay=relay)
    b = world.node("b", listens=False, relay=relay)
    impostor = world.node("b", listens=False, relay=relay)
    impostor.open(a, engine=1)
    session = a.open(b, engine=1)
    with dial(session.tunnel_address(b.party)) as connection:
        assert is_cut(connection, after=b"meant for b")
    assert a.service.refusals() == {"not-pinned": 1}
    assert session.egress() == ()


def test_peers_that_run_different_plans_exchange_nothing(world: World) -> None:
    a, b = world.two_nodes("direct")
    seen: list[object] = []
    session = a.open(b, engine=1)
    b.open(a, engine=world.program(seen.append).port, plan=OTHER_PLAN)
    with dial(session.tunnel_address(b.party)) as connection:
        connection.sendall(b"rows")
        assert is_cut(connection)
    assert a.service.refusals() == b.service.refusals() == {"other-plan": 1}
    assert session.egress() == () and seen == []


def test_an_engine_that_never_listens_ends_the_stream_at_the_deadline(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    a, b = world.node("a"), world.node("b", deadlines=IMPATIENT)
    session = a.open(b, engine=1)
    b.open(a, engine=port)
    with dial(session.tunnel_address(b.party)) as connection:
        connection.sendall(b"rows")
        assert is_cut(connection)
    assert a.service.refusals() == b.service.refusals() == {"engine-absent": 1}
    assert session.egress() == ()


def test_an_engine_that_gives_up_ends_the_wait_for_its_peer(world: World) -> None:
    a, b = world.two_nodes("direct")
    session = a.open(b, engine=1)
    dial(session.tunnel_address(b.party)).close()
    wait_until(lambda: a.service.refusals() == {"silent": 1})


def test_a_relay_that_does_not_know_the_party_is_not_asked_again(world: World) -> None:
    relay = world.relay()
    a = world.node("a", listens=False, relay=relay)
    b = world.node("b", listens=False, relay=relay)
    del relay.keys[a.party]
    session = a.open(b, engine=1)
    with dial(session.tunnel_address(b.party)) as connection:
        assert is_cut(connection)
    assert a.service.refusals()["relay-unknown-party"] >= 1


@WAYS
def test_a_peer_that_never_opens_its_session_is_given_up(world: World, way: str) -> None:
    relay = world.relay() if way == "relay" else None
    a = world.node("a", listens=way != "relay", relay=relay, deadlines=IMPATIENT)
    b = world.node("b", listens=way == "direct", relay=relay)
    session = a.open(b, engine=1)
    with dial(session.tunnel_address(b.party)) as connection:
        assert is_cut(connection)
    assert a.service.refusals() == {"relay-absent" if way == "relay" else "silent": 1}


# ----- what others see


def test_the_relay_sees_nothing_of_what_it_passes_on(world: World) -> None:
    marker = b"patient 4711 has progression 233; " * 50
    relay = world.relay()
    tap = world.stack.enter_context(closing(Tap(relay.endpoint)))
    a = world.node("a", listens=False, relay=relay, through=tap.endpoint)
    b = world.node("b", listens=False, relay=relay, through=tap.endpoint)
    session = a.open(b, engine=1)
    b.open(a, engine=world.program(echo).port)
    with dial(session.tunnel_address(b.party)) as connection:
        assert exchange(connection, marker) == marker
    wait_until(lambda: len(tap.captured) > 4 * len(marker))
    assert marker[:16] not in tap.captured
    assert a.identity.certificate not in tap.captured

    # The same words through the same relay and tap, but without the nodes' TLS, do show.
    with dial(tap.endpoint) as parked, dial(tap.endpoint) as dialled:
        for end, node, peer, role in (
            (parked, b, PartyId("pty_" + 32 * "c"), DialRole.PARK),
            (dialled, world.node("c", relay=relay), b.party, DialRole.DIAL),
        ):
            said = RelayDial(
                1,
                session_name(PLAN, JOB),
                node.party,
                peer,
                role,
                SystemClock().now(),
                secrets.token_bytes(16),
            )
            relay.keys.setdefault(PartyId("pty_" + 32 * "c"), node.signer.public)
            end.sendall(sign_dial(said, node.signer))
            assert end.recv(64) == dial_answer(None)
        dialled.sendall(marker)
        assert parked.recv(16) == marker[:16]
    assert marker[:16] in tap.captured


# ----- through a company's proxy


@pytest.mark.parametrize("way", ["direct", "relay"])
def test_dials_go_through_the_proxy_when_one_is_set(world: World, way: str) -> None:
    via = world.stack.enter_context(closing(HttpProxy()))
    proxy = Proxy.parse(f"http://anna:secret@127.0.0.1:{via.port}")
    relay = world.relay() if way == "relay" else None
    a = world.node("a", listens=False, relay=relay, proxy=proxy)
    b = world.node("b", listens=way == "direct", relay=relay)
    session = a.open(b, engine=1)
    b.open(a, engine=world.program(echo).port)
    data = os.urandom(1 << 20)
    with dial(session.tunnel_address(b.party)) as connection:
        assert exchange(connection, data) == data
    target = relay.endpoint if relay else b.service.endpoint
    assert f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n" in via.heads[0]
    assert "Proxy-Authorization: Basic YW5uYTpzZWNyZXQ=\r\n" in via.heads[0]


def test_a_proxy_that_refuses_ends_the_stream_with_its_reason(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    via = world.stack.enter_context(closing(HttpProxy("407 Proxy Authentication Required")))
    a = world.node("a", listens=False, proxy=Proxy.parse(f"http://127.0.0.1:{via.port}"))
    b = world.node("b")
    session = a.open(b, engine=1)
    with dial(session.tunnel_address(b.party)) as connection:
        assert is_cut(connection)
    assert a.service.refusals()["proxy"] >= 1
    assert "407 Proxy Authentication Required" in caplog.text


def test_a_proxy_that_does_not_reach_the_peer_yet_is_asked_again(world: World) -> None:
    via = world.stack.enter_context(closing(HttpProxy("502 Bad Gateway")))
    a = world.node("a", listens=False, proxy=Proxy.parse(f"http://127.0.0.1:{via.port}"))
    b = world.node("b")
    session = a.open(b, engine=1)
    b.open(a, engine=world.program(echo).port)
    with dial(session.tunnel_address(b.party)) as connection:
        wait_until(lambda: len(via.heads) > 0)
        via.status = "200 OK"
        assert exchange(connection, b"x") == b"x"


# ----- what a session is opened with


def test_a_session_that_cannot_work_is_refused_with_the_part_that_is_wrong(world: World) -> None:
    a, b, c = world.node("a"), world.node("b"), world.node("c", listens=False)
    rotated = world.identity(a.party).certificate

    def refused(
        node: Node, peers: dict[PartyId, PeerAddress], own: PeerAddress | None = None, port: int = 1
    ) -> str:
        with pytest.raises(SessionRefused) as error:
            node.service.open_session(
                plan_digest=PLAN,
                job_id=JOB,
                own=own or node.address,
                peers=peers,
                engine_port=port,
            )
        return str(error.value)

    good = {b.party: b.address}
    assert refused(a, good, PeerAddress(rotated, a.address.address)).startswith("own: is described")
    assert "only dials out" in refused(c, good, PeerAddress(c.identity.certificate, HERE))
    assert refused(a, good, port=0).startswith("engine_port")
    assert refused(a, {}).startswith("peers")
    assert refused(a, {a.party: b.address}).startswith("peers")
    assert f"peers.{b.party}" in refused(a, {b.party: a.address})
    assert f"peers.{b.party}" in refused(a, {b.party: PeerAddress(b"not a certificate", None)})
    assert "relay" in refused(c, {b.party: PeerAddress(b.identity.certificate, None)})
    a.open(b, engine=1)
    assert "has an open session already" in refused(a, good)
    a.open(b, engine=1, job=OTHER_JOB)


def test_a_job_can_be_opened_again_once_its_session_was_closed(world: World) -> None:
    a, b = world.two_nodes("direct")
    a.open(b, engine=1).close()
    session = a.open(b, engine=1)
    with pytest.raises(SessionRefused, match="no party"):
        session.tunnel_address(a.party)


def test_an_address_in_use_is_reported_at_start(world: World) -> None:
    taken = world.node("a").service.endpoint
    party = PartyId("pty_" + 32 * "b")
    service = LinkService(
        party,
        world.identity(party),
        listen=taken,
        relay=None,
        proxy=None,
        signer=SigningKey.generate(),
        clock=SystemClock(),
        randomness=SystemRandomness(),
    )
    with pytest.raises(CannotListen, match=str(taken)):
        service.start()
    service.stop()
