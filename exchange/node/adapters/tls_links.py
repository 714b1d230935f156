"""Links over pinned TLS, on a thread of their own behind a synchronous interface.

Per peer a loopback listener takes the own engine's connections; each is carried in a TLS
connection of its own to the peer's node, which connects it to its engine. `Route` says who dials
whom. Nothing is multiplexed, so one slow stream holds up no other, and the buffers of each are
bounded by what its two sockets take.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, TypeVar

from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from crypto.keys import Signer
from crypto.ports import Clock, Randomness
from crypto.tls import TlsIdentity, client_context, require_certificate, server_context
from exchange.links import dial
from exchange.links.adapters.connection import Connection, cut, keep_alive
from exchange.links.dial import DialRole, RelayDial, require_dialled, sign_dial
from exchange.links.endpoint import Endpoint, Proxy
from exchange.links.errors import (
    CannotListen,
    DialRefusal,
    DialRefused,
    LinkError,
    NotRunning,
    PeerNotPinned,
    ProxyRefused,
    Refusal,
    SessionRefused,
    StreamRefused,
    Unreachable,
)
from exchange.links.header import (
    ACCEPTED,
    MAX_FRAME_BYTES,
    VERSION,
    StreamHeader,
    StreamRole,
    answer_of,
    require_accepted,
)
from exchange.links.session import Route, SessionTerms, route
from exchange.node.adapters.outbound import EVERYWHERE, Network, connect, connect_to_peer
from exchange.node.adapters.tls_stream import TlsStream
from exchange.node.links import Egress, LinkSession, PeerAddress, StreamState

LOOPBACK: Final = "127.0.0.1"
PARKED_PER_PEER: Final = 2  # kept waiting by the party that cannot be dialled
MAX_PARKED_PER_PEER: Final = 8  # at a listening node; the oldest gives way
MAX_TASKS: Final = 4096  # streams of a session at once, being set up or carried
MAX_COUNTED: Final = 65_536  # streams of a session in all; each leaves a count behind
MAX_STRANGERS: Final = 64  # inbound connections that have not yet named a session
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0

_log = logging.getLogger(__name__)
_R = TypeVar("_R")


@dataclass(frozen=True)
class LinkDeadlines:
    """Seconds. setup_s: from the engine's connection to the peer's engine taking it, with retries.

    engine_s: how long the accepting side waits for its own engine to listen.
    """

    handshake_s: float = 10.0
    header_s: float = 10.0
    engine_s: float = 60.0
    setup_s: float = 90.0


class LinkService:
    """The links of one node. Every method may be called from any thread but its own."""

    def __init__(
        self,
        own: PartyId,
        identity: TlsIdentity,
        *,
        listen: Endpoint | None,
        relay: Endpoint | None,
        proxy: Proxy | None,
        signer: Signer,
        clock: Clock,
        randomness: Randomness,
        networks: Sequence[Network] | None = None,
        deadlines: LinkDeadlines | None = None,
    ) -> None:
        """listen: where peers may dial in; None for a node that only dials out.

        networks: where peers may be dialled besides the public internet; None: anywhere.

        relay: the hub's relay, for peers of which neither side listens. proxy: for every dial to
        a peer or to the relay. signer: the party's signing key, known to the hub.
        """
        self._own = own
        self._identity = identity
        self._listen = listen
        self._relay = relay
        self._proxy = proxy
        self._networks = EVERYWHERE if networks is None else tuple(networks)
        self._signer = signer
        self._clock = clock
        self._randomness = randomness
        self._deadlines = deadlines or LinkDeadlines()
        self._gate = threading.Lock()  # over _loop and _thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._endpoint: Endpoint | None = None
        self._counting = threading.Lock()
        self._refusals: Counter[str] = Counter()
        # Below: touched on the loop's thread only.
        self._stopping = asyncio.Event()
        self._sessions: dict[JobId, _Session] = {}
        self._strangers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def start(self) -> None:
        """Listen and serve. Raises CannotListen."""
        with self._gate:
            if self._thread is not None:
                raise NotRunning("the link service was started before; make a new one")
            started: Future[None] = Future()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._serve(started)), name="links", daemon=True
            )
            self._thread.start()
            started.result()

    def stop(self) -> None:
        """Close every session, release every socket, end the thread. Safe to repeat."""
        with self._gate:
            loop, self._loop = self._loop, None
            if loop is not None:
                # In order with calls made before: whoever waits for one gets its answer.
                loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join()

    @property
    def endpoint(self) -> Endpoint | None:
        """Where this node takes connections, with the port that the system chose."""
        return self._endpoint

    def refusals(self) -> Mapping[str, int]:
        """How often a connection or stream was refused, by reason. Counts since the start."""
        with self._counting:
            return dict(self._refusals)

    def open_session(
        self,
        *,
        plan_digest: Digest,
        job_id: JobId,
        own: PeerAddress,
        peers: Mapping[PartyId, PeerAddress],
        engine_port: int,
    ) -> LinkSession:
        """See `exchange.node.links.Links`."""
        self._require_session(own, peers, engine_port)
        certificates = {peer: address.certificate for peer, address in peers.items()}
        terms = SessionTerms(plan_digest, job_id, self._own, certificates)
        session = _Session(self, terms, own, peers, engine_port)
        self.run_on_loop(session.open)
        return session

    def _require_session(
        self, own: PeerAddress, peers: Mapping[PartyId, PeerAddress], engine_port: int
    ) -> None:
        if own.certificate != self._identity.certificate:
            raise SessionRefused("own", "is described with another certificate than this node's")
        if own.address is not None and self._listen is None:
            raise SessionRefused(
                "own", "is described with an address, but this node only dials out"
            )
        if not 1 <= engine_port <= 65_535:
            raise SessionRefused("engine_port", "is not between 1 and 65535")
        if not peers or self._own in peers:
            raise SessionRefused("peers", "must be the other parties of the plan, at least one")
        seen = {own.certificate}
        for peer, address in peers.items():
            if address.certificate in seen:
                raise SessionRefused(f"peers.{peer}", "has the certificate of another party")
            seen.add(address.certificate)
            try:
                require_certificate(address.certificate)
                client_context(self._identity, address.certificate)
            except (Malformed, ssl.SSLError):
                raise SessionRefused(
                    f"peers.{peer}", "has a certificate that is not X.509 in DER"
                ) from None
            if own.address is None and address.address is None and self._relay is None:
                raise SessionRefused(
                    f"peers.{peer}",
                    "accepts no connections, nor does this node: set the hub's relay",
                )

    async def _serve(self, started: Future[None]) -> None:
        server: asyncio.Server | None = None
        if self._listen is not None:
            try:
                server = await asyncio.start_server(
                    self._greet, self._listen.host, self._listen.port
                )
            except OSError as error:
                refused = CannotListen(f"cannot listen on {self._listen}: {error.strerror}")
                refused.__cause__ = error
                started.set_exception(refused)
                return
            self._endpoint = Endpoint(self._listen.host, server.sockets[0].getsockname()[1])
        self._loop = asyncio.get_running_loop()
        started.set_result(None)
        await self._stopping.wait()
        if server is not None:
            server.close()
        for task in list(self._strangers):
            task.cancel()
        for session in list(self._sessions.values()):
            await session.shut()

    def run_on_loop(self, step: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        """Run `step` on the links' thread and wait for it. Raises NotRunning."""
        with self._gate:
            if self._loop is None:
                raise NotRunning("the link service is not running")
            future = asyncio.run_coroutine_threadsafe(step(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise NotRunning("the link service was stopped meanwhile") from None

    # ----- what sessions ask of the service, on its thread

    @property
    def deadlines(self) -> LinkDeadlines:
        return self._deadlines

    def add(self, session: _Session) -> None:
        if session.terms.job in self._sessions:
            raise SessionRefused("job_id", f"{session.terms.job} has an open session already")
        self._sessions[session.terms.job] = session

    def remove(self, session: _Session) -> None:
        if self._sessions.get(session.terms.job) is session:
            del self._sessions[session.terms.job]

    def refused(self, error: LinkError, *, job: JobId | None, peer: PartyId | None) -> None:
        """Count and log a refusal by its reason; never what was sent."""
        if isinstance(error, StreamRefused):
            reason = error.reason.name.lower().replace("_", "-")
        elif isinstance(error, DialRefused):
            reason = f"relay-{error.reason}"
        else:
            reason = {PeerNotPinned: "not-pinned", ProxyRefused: "proxy"}.get(type(error), "silent")
        with self._counting:
            self._refusals[reason] += 1
        _log.warning("link refused: reason=%s job=%s peer=%s: %s", reason, job, peer, error)

    async def dial_peer(self, endpoint: Endpoint, pinned: bytes) -> TlsStream:
        """Dial a listening node: this side is the TLS client."""
        connection = await connect_to_peer(endpoint, self._proxy, self._networks)
        return await self.secure(connection, pinned, server_side=False)

    async def dial_relay(self, session: Digest, peer: PartyId, role: DialRole) -> Connection:
        """Dial the relay and have it take the dial. Raises DialRefused with its reason."""
        if self._relay is None:
            raise Unreachable("no relay is set")
        said = RelayDial(
            v=dial.VERSION,
            session=session,
            party=self._own,
            peer=peer,
            role=role,
            time=self._clock.now(),
            nonce=self._randomness.draw(dial.NONCE_BYTES),
        )
        reader, writer = await connect(self._relay, self._proxy)
        try:
            async with asyncio.timeout(self._deadlines.header_s):
                writer.write(sign_dial(said, self._signer))
                answer = await reader.readuntil(b"\n")
            require_dialled(answer if len(answer) <= dial.MAX_ANSWER_BYTES else b"")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError) as error:
            cut(writer)
            raise Unreachable(f"the relay {self._relay} gave no answer") from error
        except BaseException:  # also when cancelled: nobody else knows of this socket yet
            cut(writer)
            raise
        return reader, writer

    async def secure(
        self, connection: Connection, pinned: bytes, *, server_side: bool, arrived: bytes = b""
    ) -> TlsStream:
        """Shake hands with the holder of `pinned`, cutting the connection on any failure.

        arrived: what was read of the other side's TLS before this call.
        """
        if server_side:
            context = server_context(self._identity, [pinned])
        else:
            context = client_context(self._identity, pinned)
        tls = TlsStream(*connection, context, server_side=server_side, arrived=arrived)
        try:
            async with asyncio.timeout(self._deadlines.handshake_s):
                await tls.handshake(pinned)
        except BaseException:  # also when cancelled: nobody else knows of this socket yet
            tls.cut()
            raise
        return tls

    # ----- inbound

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._strangers) >= MAX_STRANGERS or not self._sessions:
            cut(writer)  # before any handshake: without a session nobody is expected
            return
        task = asyncio.get_running_loop().create_task(self._receive(reader, writer))
        self._strangers[task] = writer
        task.add_done_callback(self._dismiss)

    def _dismiss(self, task: asyncio.Task[None]) -> None:
        writer = self._strangers.pop(task)
        if task.cancelled():
            cut(writer)
        elif (error := task.exception()) is not None:
            cut(writer)
            _log.error("an inbound link failed", exc_info=error)

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Learn who dialled in and for which session, then hand the connection to it."""
        keep_alive(writer)
        pins = {c for s in self._sessions.values() for c in s.terms.certificates.values()}
        tls = TlsStream(reader, writer, server_context(self._identity, pins), server_side=True)
        header: StreamHeader | None = None
        try:
            async with asyncio.timeout(self._deadlines.handshake_s):
                certificate = await tls.handshake(None)
            async with asyncio.timeout(self._deadlines.header_s):
                header = await tls.read_header()
            session = self._sessions.get(header.job)
            if session is None:
                raise StreamRefused(Refusal.UNKNOWN_SESSION)
            session.terms.admit(header, certificate)
            await session.take(tls, header)
        except StreamRefused as error:
            said = (header.job, header.sender) if header else (None, None)
            self.refused(error, job=said[0], peer=said[1])
            await self.tell_refusal(tls, error)
        except (LinkError, OSError) as error:
            reason = error if isinstance(error, LinkError) else Unreachable("said nothing in time")
            self.refused(reason, job=None, peer=None)
            tls.cut()

    async def tell_refusal(self, tls: TlsStream, error: StreamRefused) -> None:
        """Answer the header with the reason, and end the connection."""
        try:
            async with asyncio.timeout(self._deadlines.header_s):
                await tls.write(answer_of(error.reason))
                await tls.close()
        except (LinkError, OSError):
            pass  # the other side is gone; it was refused all the same
        finally:
            tls.cut()


class _Meter:
    """One direction of a stream: how many bytes, and their running SHA-256."""

    def __init__(self) -> None:
        self.size = 0
        self.hash = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.hash.update(data)
        self.size += len(data)


class _Count:
    """What one stream carried. Written on the loop's thread, read from any, under one lock."""

    def __init__(self, peer: PartyId, opened_by: PartyId, number: int) -> None:
        self._lock = threading.Lock()
        self._peer = peer
        self._opened_by = opened_by
        self._number = number
        self._sent = _Meter()
        self._received = _Meter()
        self._state = StreamState.CARRYING

    def sent(self, data: bytes) -> None:
        with self._lock:
            self._sent.add(data)

    def received(self, data: bytes) -> None:
        with self._lock:
            self._received.add(data)

    def end(self, state: StreamState) -> None:
        with self._lock:
            self._state = state

    def report(self) -> Egress:
        with self._lock:
            return Egress(
                receiver=self._peer,
                opened_by=self._opened_by,
                number=self._number,
                sent_bytes=self._sent.size,
                sent=Digest(self._sent.hash.digest()),
                received_bytes=self._received.size,
                received=Digest(self._received.hash.digest()),
                state=self._state,
            )


class _Session:
    """A LinkSession. The port's methods run on the caller's thread, all others on the loop."""

    def __init__(
        self,
        service: LinkService,
        terms: SessionTerms,
        own: PeerAddress,
        peers: Mapping[PartyId, PeerAddress],
        engine_port: int,
    ) -> None:
        self.terms = terms
        self._service = service
        self._listens = own.address is not None
        self._peers = dict(peers)
        self._engine_port = engine_port
        self._tunnels: dict[PartyId, asyncio.Server] = {}
        self._addresses: dict[PartyId, Endpoint] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._counts: list[_Count] = []  # appended on the loop; a list's append is atomic
        self._numbers = count()
        self._used: set[tuple[PartyId, int]] = set()
        self._parked: dict[PartyId, deque[TlsStream]] = {peer: deque() for peer in peers}
        self._arrived = asyncio.Condition()

    def tunnel_address(self, peer: PartyId) -> Endpoint:
        try:
            return self._addresses[peer]
        except KeyError:
            raise SessionRefused("peer", f"{peer} is no party of this session") from None

    def egress(self) -> tuple[Egress, ...]:
        return tuple(count.report() for count in list(self._counts))

    def close(self) -> None:
        # A service that was stopped has shut its sessions already.
        with contextlib.suppress(NotRunning):
            self._service.run_on_loop(self.shut)

    # ----- opening and closing

    async def open(self) -> None:
        self._service.add(self)
        try:
            for peer in self._peers:
                server = await asyncio.start_server(self._entrance(peer), LOOPBACK, 0)
                self._tunnels[peer] = server
                self._addresses[peer] = Endpoint(LOOPBACK, server.sockets[0].getsockname()[1])
        except BaseException as error:  # also when cancelled: the caller gets no session to close
            await self.shut()
            if isinstance(error, OSError):
                raise CannotListen(f"no loopback port for a tunnel: {error.strerror}") from error
            raise
        for peer, address in self._peers.items():
            way = route(caller_listens=address.address is not None, callee_listens=self._listens)
            if way is not Route.DIRECT:
                for _ in range(PARKED_PER_PEER):
                    self._spawn(self._keep_parked(peer, way))

    async def shut(self) -> None:
        self._closed = True
        self._service.remove(self)
        for server in self._tunnels.values():
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for parked in self._parked.values():
            while parked:
                parked.popleft().cut()

    def _spawn(
        self, work: Coroutine[Any, Any, None], release: Callable[[], None] | None = None
    ) -> None:
        """Run `work` until it ends or the session is shut; then `release` its connection.

        A task cancelled before its first step runs no `finally`, hence the callback.
        """

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if release is not None:
                release()
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("a stream of %s failed", self.terms.job, exc_info=error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)

    # ----- streams that the own engine opens

    def _entrance(
        self, peer: PartyId
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._closed or len(self._tasks) >= MAX_TASKS or len(self._counts) >= MAX_COUNTED:
                cut(writer)
                return
            self._spawn(self._send(peer, reader, writer), lambda: cut(writer))

        return enter

    async def _send(
        self, peer: PartyId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Find a way to the peer, then carry one connection of the own engine."""
        try:
            tls, number = await self._find_way(peer, reader)
        except LinkError as error:
            self._service.refused(error, job=self.terms.job, peer=peer)
            return
        try:
            await self._carry(tls, (reader, writer), peer, self.terms.own, number)
        finally:
            tls.cut()

    async def _find_way(self, peer: PartyId, engine: asyncio.StreamReader) -> tuple[TlsStream, int]:
        """Try until the peer takes the stream: it may open its session after this node.

        Raises what went wrong last when the time is up, and at once what time does not heal.
        """
        last: LinkError = Unreachable("nobody answered in time")
        try:
            async with asyncio.timeout(self._service.deadlines.setup_s):
                pause = _FIRST_PAUSE_S
                while True:
                    try:
                        return await self._offer(peer)
                    except LinkError as error:
                        if not _may_pass(error):
                            raise
                        last = error
                    except OSError as error:
                        last = Unreachable(f"the connection to {peer} broke: {error}")
                        last.__cause__ = error
                    _log.debug("no way yet: job=%s peer=%s: %s", self.terms.job, peer, last)
                    if engine.at_eof():
                        raise Unreachable("the engine gave up")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
        except TimeoutError:
            raise last from None

    async def _offer(self, peer: PartyId) -> tuple[TlsStream, int]:
        """One attempt: reach the peer, say the header, wait until its engine takes the stream."""
        number = next(self._numbers)
        deadlines = self._service.deadlines
        tls = await self._reach(peer)
        try:
            await tls.write_header(self._header(StreamRole.OPEN, peer, number))
            async with asyncio.timeout(deadlines.engine_s + deadlines.header_s):
                require_accepted(await tls.read_exactly(1))
        except BaseException:  # also when cancelled: nobody else knows of this socket
            tls.cut()
            raise
        return tls, number

    async def _reach(self, peer: PartyId) -> TlsStream:
        address = self._peers[peer]
        way = route(caller_listens=self._listens, callee_listens=address.address is not None)
        if way is Route.REVERSE:
            return await self._take_parked(peer)
        async with asyncio.timeout(self._service.deadlines.handshake_s):
            if way is Route.RELAY or address.address is None:
                connection = await self._service.dial_relay(self.terms.name, peer, DialRole.DIAL)
                return await self._service.secure(
                    connection, address.certificate, server_side=False
                )
            return await self._service.dial_peer(address.address, address.certificate)

    async def _take_parked(self, peer: PartyId) -> TlsStream:
        parked = self._parked[peer]
        while True:
            async with self._arrived:
                await self._arrived.wait_for(lambda: len(parked) > 0)
                tls = parked.popleft()
            if not tls.is_dead():
                return tls
            tls.cut()

    def _header(self, role: StreamRole, peer: PartyId, number: int) -> StreamHeader:
        return StreamHeader(
            v=VERSION,
            role=role,
            plan=self.terms.plan,
            job=self.terms.job,
            sender=self.terms.own,
            receiver=peer,
            number=number,
        )

    # ----- streams that peers open

    async def take(self, tls: TlsStream, header: StreamHeader) -> None:
        """Take over an admitted inbound connection. Raises StreamRefused."""
        if header.role is StreamRole.OPEN:
            self._use(header)
            self._spawn(self._deliver(tls, header), tls.cut)
            return
        if not self._listens or self._peers[header.sender].address is not None:
            # Parked connections are for peers that cannot be dialled, and only those.
            raise StreamRefused(Refusal.WRONG_ROLE)
        async with asyncio.timeout(self._service.deadlines.header_s):
            await tls.write(ACCEPTED)
        if self._closed:
            raise Unreachable("the session was closed meanwhile")
        parked = self._parked[header.sender]
        if len(parked) >= MAX_PARKED_PER_PEER:
            parked.popleft().cut()  # the oldest is the likeliest to be dead
        parked.append(tls)
        async with self._arrived:
            self._arrived.notify_all()

    def _use(self, header: StreamHeader) -> None:
        if (header.sender, header.number) in self._used:
            raise StreamRefused(Refusal.NUMBER_USED)
        if self._closed or len(self._tasks) >= MAX_TASKS or len(self._used) >= MAX_COUNTED:
            raise StreamRefused(Refusal.TOO_MANY)
        self._used.add((header.sender, header.number))

    async def _deliver(self, tls: TlsStream, header: StreamHeader) -> None:
        """Connect an admitted stream to the own engine, then carry it."""
        try:
            engine = await self._reach_engine()
        except StreamRefused as error:
            self._service.refused(error, job=self.terms.job, peer=header.sender)
            await self._service.tell_refusal(tls, error)
            return
        try:
            # Only now, so that nothing leaves the sender before there is an engine to take it.
            await tls.write(ACCEPTED)
            await self._carry(tls, engine, header.sender, header.sender, header.number)
        except (LinkError, OSError) as error:
            _log.info("stream lost: job=%s peer=%s: %s", self.terms.job, header.sender, error)
        finally:
            cut(engine[1])

    async def _reach_engine(self) -> Connection:
        pause = _FIRST_PAUSE_S
        try:
            async with asyncio.timeout(self._service.deadlines.engine_s):
                while True:
                    try:
                        return await asyncio.open_connection(LOOPBACK, self._engine_port)
                    except OSError:
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, _LONGEST_PAUSE_S)
        except TimeoutError:
            raise StreamRefused(Refusal.ENGINE_ABSENT) from None

    async def _keep_parked(self, peer: PartyId, way: Route) -> None:
        """Keep one connection waiting where the peer finds it, replacing it when it is used."""
        pause = _FIRST_PAUSE_S
        while True:
            try:
                tls, header = await self._wait_parked(peer, way)
                pause = _FIRST_PAUSE_S
                self._spawn(self._deliver(tls, header), tls.cut)
                continue
            except LinkError as error:
                if not _may_pass(error):
                    self._service.refused(error, job=self.terms.job, peer=peer)
            except OSError as error:
                _log.debug("not parked: job=%s peer=%s: %s", self.terms.job, peer, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _wait_parked(self, peer: PartyId, way: Route) -> tuple[TlsStream, StreamHeader]:
        """Park one connection and wait, as long as it lives, for the peer to use it."""
        address = self._peers[peer]
        deadlines = self._service.deadlines
        if way is Route.REVERSE and address.address is not None:
            async with asyncio.timeout(deadlines.handshake_s):
                tls = await self._service.dial_peer(address.address, address.certificate)
        else:
            tls = await self._wait_at_relay(peer, address.certificate)
        try:
            if way is Route.REVERSE:
                number = next(self._numbers)
                await tls.write_header(self._header(StreamRole.PARK, peer, number))
                async with asyncio.timeout(deadlines.header_s):
                    require_accepted(await tls.read_exactly(1))
                header = await tls.read_header()
            else:
                async with asyncio.timeout(deadlines.header_s):
                    header = await tls.read_header()
            try:
                self._admit_parked(header, peer)
            except StreamRefused as error:
                await self._service.tell_refusal(tls, error)
                raise
        except BaseException:  # also when cancelled: nobody else knows of this socket
            tls.cut()
            raise
        return tls, header

    def _admit_parked(self, header: StreamHeader, peer: PartyId) -> None:
        self.terms.admit(header, self._peers[peer].certificate)
        if header.role is not StreamRole.OPEN:
            raise StreamRefused(Refusal.WRONG_ROLE)
        self._use(header)

    async def _wait_at_relay(self, peer: PartyId, certificate: bytes) -> TlsStream:
        async with asyncio.timeout(self._service.deadlines.handshake_s):
            reader, writer = await self._service.dial_relay(self.terms.name, peer, DialRole.PARK)
        try:
            first = await reader.readexactly(1)  # the peer's ClientHello, whenever it comes
        except asyncio.IncompleteReadError as error:
            cut(writer)
            raise Unreachable("the relay ended the wait") from error
        except BaseException:  # also when cancelled: nobody else knows of this socket
            cut(writer)
            raise
        return await self._service.secure(
            (reader, writer), certificate, server_side=True, arrived=first
        )

    # ----- carrying

    async def _carry(
        self, tls: TlsStream, engine: Connection, peer: PartyId, opened_by: PartyId, number: int
    ) -> None:
        """Pass bytes both ways until both directions ended or one broke, counting them."""
        reader, writer = engine
        counted = _Count(peer, opened_by, number)
        self._counts.append(counted)
        state = StreamState.CUT
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump_out(reader, tls, counted))
                both.create_task(_pump_in(tls, writer, counted))
            async with asyncio.timeout(self._service.deadlines.header_s):
                await tls.close()
                writer.close()
                await writer.wait_closed()
            state = StreamState.FINISHED
        except* (LinkError, OSError) as group:
            _log.info("stream cut: job=%s peer=%s: %s", self.terms.job, peer, group.exceptions[0])
        finally:
            counted.end(state)


def _may_pass(error: LinkError) -> bool:
    """Whether trying again may help: the other side, or the hub, may just be later than we."""
    if isinstance(error, StreamRefused):
        return error.reason is Refusal.UNKNOWN_SESSION
    if isinstance(error, DialRefused):
        return error.reason in (
            DialRefusal.ABSENT,
            DialRefusal.UNKNOWN_SESSION,
            DialRefusal.TOO_MANY,
        )
    return isinstance(error, Unreachable)


async def _pump_out(reader: asyncio.StreamReader, tls: TlsStream, counted: _Count) -> None:
    while data := await reader.read(MAX_FRAME_BYTES):
        # Before it is written: from here on it may leave, whatever happens to this task.
        counted.sent(data)
        await tls.write_frame(data)
    await tls.write_frame(b"")


async def _pump_in(tls: TlsStream, writer: asyncio.StreamWriter, counted: _Count) -> None:
    while data := await tls.read_frame():
        counted.received(data)
        writer.write(data)
        await writer.drain()
    writer.write_eof()
