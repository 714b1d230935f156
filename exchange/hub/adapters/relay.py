"""The relay: joins two connections that nodes dialled, and passes on what it cannot read.

For nodes that accept no connections. One of them parks connections here, the other dials one of
them; both say who they are by one signed line (`exchange.links.dial`). From then on the relay
copies bytes of the nodes' own TLS, within limits of time and size. It keeps nothing of them.
Parked connections and used nonces live in memory: one process of a hub runs the relay.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from crypto.digest import Digest
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from crypto.ports import Clock
from exchange.links.adapters.connection import READ_BYTES, cut, keep_alive
from exchange.links.dial import (
    MAX_LINE_BYTES,
    TOLERANCE,
    DialRole,
    RelayDial,
    SignedDial,
    dial_answer,
    read_dial,
)
from exchange.links.endpoint import Endpoint
from exchange.links.errors import CannotListen, DialRefusal, DialRefused
from registry.errors import RegistryError

_log = logging.getLogger(__name__)
_K = TypeVar("_K")

SigningKeyOf = Callable[[PartyId], PublicKey]
"""The party's current signing key. Raises a RegistryError for a party that is not registered."""

SessionAllowed = Callable[[Digest, PartyId, PartyId], bool]
"""Whether the named session runs now between these two parties."""


@dataclass(frozen=True)
class RelayLimits:
    """parked_s: how long a connection may wait; its node then parks another.

    idle_s: how long a joined pair may pass nothing. stream_bytes: per pair, both directions.
    """

    strangers: int = 256
    hello_s: float = 10.0
    parked_per_session: int = 32  # of one party
    parked_per_party: int = 256
    joined_per_party: int = 512  # as the side that dials
    dials_per_party: int = 4096  # within twice the tolerance, for as long are nonces kept
    parked_s: float = 60.0
    idle_s: float = 1800.0
    stream_bytes: int = 1 << 38


@dataclass(frozen=True)
class _End:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(frozen=True, eq=False)
class _Parked:
    """A waiting connection. taken: the end to join it with; done: set when the pair has ended."""

    dial: RelayDial
    taken: asyncio.Future[_End]
    done: asyncio.Event = field(default_factory=asyncio.Event)


class _TooMuch(Exception):
    """A pair passed as many bytes as it may."""


class Relay:
    """start, stop and everything between run on one event loop."""

    def __init__(
        self,
        listen: Endpoint,
        *,
        signing_key: SigningKeyOf,
        allowed: SessionAllowed,
        clock: Clock,
        limits: RelayLimits | None = None,
    ) -> None:
        """signing_key and allowed are called on worker threads; they may read a database."""
        self._listen = listen
        self._signing_key = signing_key
        self._allowed = allowed
        self._clock = clock
        self._limits = limits or RelayLimits()
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._strangers = 0
        self._parked: dict[tuple[Digest, PartyId, PartyId], deque[_Parked]] = {}
        self._parked_by: Counter[PartyId] = Counter()
        self._parked_in: Counter[tuple[Digest, PartyId]] = Counter()
        self._joined_by: Counter[PartyId] = Counter()
        self._nonces: dict[PartyId, dict[bytes, datetime]] = {}
        self._refusals: Counter[str] = Counter()

    async def start(self) -> None:
        """Raises CannotListen."""
        try:
            self._server = await asyncio.start_server(
                self._greet, self._listen.host, self._listen.port
            )
        except OSError as error:
            raise CannotListen(f"cannot listen on {self._listen}: {error.strerror}") from error

    async def stop(self) -> None:
        """Cut every connection and stop listening."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def endpoint(self) -> Endpoint:
        """Where the relay listens, with the port that the system chose."""
        if self._server is None or not self._server.sockets:
            raise CannotListen("the relay is not started")
        return Endpoint(self._listen.host, self._server.sockets[0].getsockname()[1])

    def refusals(self) -> Mapping[str, int]:
        """How often a dial was refused, by reason. Counts since the start."""
        return dict(self._refusals)

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._strangers >= self._limits.strangers:
            cut(writer)
            return
        self._strangers += 1
        task = asyncio.get_running_loop().create_task(self._receive(_End(reader, writer)))
        self._tasks[task] = writer
        task.add_done_callback(self._dismiss)

    def _dismiss(self, task: asyncio.Task[None]) -> None:
        cut(self._tasks.pop(task))
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a relayed connection failed", exc_info=error)

    async def _receive(self, end: _End) -> None:
        keep_alive(end.writer)
        try:
            try:
                async with asyncio.timeout(self._limits.hello_s):
                    dial = await self._hear(end.reader)
            finally:
                self._strangers -= 1
            if dial.role is DialRole.PARK:
                await self._park(dial, end)
            else:
                await self._connect(dial, end)
        except DialRefused as error:
            self._count(str(error.reason))
            await _tell(end.writer, error.reason)
        except TimeoutError:
            self._count("silent")
        except (OSError, EOFError):
            pass  # the node went away

    async def _hear(self, reader: asyncio.StreamReader) -> RelayDial:
        """Read and verify a dial, the cheap checks first. Raises DialRefused."""
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise DialRefused(DialRefusal.MALFORMED) from None
        if len(line) > MAX_LINE_BYTES:
            raise DialRefused(DialRefusal.MALFORMED)
        signed = read_dial(line)
        now = self._clock.now()
        signed.require_fresh(now)
        await self._require_genuine(signed)
        self._use_nonce(signed.dial, now)
        dial = signed.dial
        if not await asyncio.to_thread(self._allowed, dial.session, dial.party, dial.peer):
            raise DialRefused(DialRefusal.UNKNOWN_SESSION)
        return dial

    async def _require_genuine(self, signed: SignedDial) -> None:
        try:
            key = await asyncio.to_thread(self._signing_key, signed.dial.party)
        except RegistryError:
            raise DialRefused(DialRefusal.UNKNOWN_PARTY) from None
        signed.require_signature(key)

    def _use_nonce(self, dial: RelayDial, now: datetime) -> None:
        """After the signature: nobody fills another party's memory of nonces."""
        used = self._nonces.setdefault(dial.party, {})
        # A nonce is remembered until its dial's time is too old to pass by itself.
        for nonce in [nonce for nonce, until in used.items() if until < now]:
            del used[nonce]
        if dial.nonce in used:
            raise DialRefused(DialRefusal.REPLAYED)
        if len(used) >= self._limits.dials_per_party:
            raise DialRefused(DialRefusal.TOO_MANY)
        used[dial.nonce] = dial.time + TOLERANCE

    async def _park(self, dial: RelayDial, end: _End) -> None:
        """Wait to be dialled; then pass bytes until the pair ends."""
        place = (dial.session, dial.party)
        if (
            self._parked_in[place] >= self._limits.parked_per_session
            or self._parked_by[dial.party] >= self._limits.parked_per_party
        ):
            raise DialRefused(DialRefusal.TOO_MANY)
        key = (dial.session, dial.party, dial.peer)
        parked = _Parked(dial, asyncio.get_running_loop().create_future())
        self._parked_in[place] += 1
        self._parked_by[dial.party] += 1
        self._parked.setdefault(key, deque()).append(parked)
        try:
            try:
                end.writer.write(dial_answer(None))
                other = await self._wait(parked, end.reader)
            finally:
                self._forget(key, parked)
                _less(self._parked_in, place)
                _less(self._parked_by, dial.party)
            if other is not None:
                other.writer.write(dial_answer(None))
                await self._join(end, other)
        finally:
            parked.done.set()

    async def _wait(self, parked: _Parked, reader: asyncio.StreamReader) -> _End | None:
        """The end to join with, or None: the node left, spoke out of turn or waited too long."""
        silence = asyncio.ensure_future(reader.read(1))
        taken = parked.taken
        ends: set[asyncio.Future[Any]] = {silence, taken}
        try:
            await asyncio.wait(
                ends, timeout=self._limits.parked_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            spoke = not silence.cancel()  # an unfinished read takes nothing out of the buffer
            await asyncio.gather(silence, return_exceptions=True)
        return taken.result() if taken.done() and not spoke else None

    def _forget(self, key: tuple[Digest, PartyId, PartyId], parked: _Parked) -> None:
        waiting = self._parked.get(key)
        if waiting is not None:
            if parked in waiting:
                waiting.remove(parked)
            if not waiting:
                del self._parked[key]

    async def _connect(self, dial: RelayDial, end: _End) -> None:
        """Be joined to the peer's oldest waiting connection. Raises DialRefused when none waits."""
        if self._joined_by[dial.party] >= self._limits.joined_per_party:
            raise DialRefused(DialRefusal.TOO_MANY)
        waiting = self._parked.get((dial.session, dial.peer, dial.party))
        if not waiting:
            raise DialRefused(DialRefusal.ABSENT)
        parked = waiting.popleft()
        parked.taken.set_result(end)
        self._joined_by[dial.party] += 1
        try:
            await parked.done.wait()  # the parked connection's task does the rest
        finally:
            _less(self._joined_by, dial.party)

    async def _join(self, one: _End, other: _End) -> None:
        """Pass bytes both ways until both directions ended, one broke, or a limit is met."""
        loop = asyncio.get_running_loop()
        left = self._limits.stream_bytes

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal left
            while data := await reader.read(READ_BYTES):
                idle.reschedule(loop.time() + self._limits.idle_s)
                left -= len(data)
                if left < 0:
                    raise _TooMuch
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        try:
            async with asyncio.timeout(self._limits.idle_s) as idle, asyncio.TaskGroup() as both:
                both.create_task(pump(one.reader, other.writer))
                both.create_task(pump(other.reader, one.writer))
            for writer in (one.writer, other.writer):
                writer.close()
                await writer.wait_closed()
        except* _TooMuch:
            self._count("too-many-bytes")
        except* TimeoutError:
            self._count("idle")
        except* OSError:
            pass  # one side broke off; cutting the other tells it

    def _count(self, reason: str) -> None:
        self._refusals[reason] += 1
        _log.warning("relay refused: reason=%s", reason)


def _less(counter: Counter[_K], key: _K) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


async def _tell(writer: asyncio.StreamWriter, reason: DialRefusal) -> None:
    try:
        writer.write(dial_answer(reason))
        async with asyncio.timeout(1.0):
            writer.close()
            await writer.wait_closed()
    except OSError:
        pass  # the node went away; it is refused all the same
