"""The relay on real sockets: whom it takes, whom it refuses, what it passes on and for how long."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import wraps

import pytest

from crypto.digest import digest
from crypto.identifiers import JobId, PartyId
from crypto.keys import PublicKey, SigningKey
from exchange.hub.adapters.relay import Relay, RelayLimits
from exchange.links.dial import MAX_LINE_BYTES, DialRole, RelayDial, dial_answer, sign_dial
from exchange.links.endpoint import Endpoint
from exchange.links.errors import CannotListen, DialRefusal
from exchange.links.session import session_name
from registry.errors import NotFound

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
A, B, C = (PartyId("pty_" + 32 * digit) for digit in "abc")
KEYS = {party: SigningKey.generate() for party in (A, B, C)}
SESSION = session_name(digest(b"plan"), JobId("job_" + 32 * "1"))
OTHER_SESSION = session_name(digest(b"plan"), JobId("job_" + 32 * "2"))
OK = dial_answer(None)

Test = Callable[..., Coroutine[None, None, None]]
End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def within_a_loop(test: Test) -> Callable[..., None]:
    @wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


class SetClock:
    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> datetime:
        return self.time


class Bench:
    """A running relay and the connections that a test makes to it."""

    def __init__(self, limits: RelayLimits | None) -> None:
        self.clock = SetClock()
        self.relay = Relay(
            Endpoint("127.0.0.1", 0),
            signing_key=self._key,
            allowed=lambda session, party, peer: session == SESSION and {party, peer} == {A, B},
            clock=self.clock,
            limits=limits,
        )
        self._writers: list[asyncio.StreamWriter] = []

    @staticmethod
    def _key(party: PartyId) -> PublicKey:
        if party not in KEYS or party == C:
            raise NotFound(party)
        return KEYS[party].public

    async def connect(self) -> End:
        endpoint = self.relay.endpoint
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        self._writers.append(writer)
        return reader, writer

    async def say(self, line: bytes) -> tuple[End, bytes]:
        """Send `line` on a new connection; the connection and the answer."""
        reader, writer = await self.connect()
        writer.write(line)
        return (reader, writer), await reader.readline()

    async def park(self, party: PartyId, peer: PartyId) -> End:
        end, answer = await self.say(signed(party=party, peer=peer, role=DialRole.PARK))
        assert answer == OK
        return end

    async def joined(self) -> tuple[End, End]:
        parked = await self.park(B, A)
        dialled, answer = await self.say(signed())
        assert answer == OK
        return parked, dialled

    def forget(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def a_relay(limits: RelayLimits | None = None) -> AsyncIterator[Bench]:
    bench = Bench(limits)
    await bench.relay.start()
    try:
        yield bench
    finally:
        bench.forget()
        await bench.relay.stop()


def signed(key: SigningKey | None = None, **changes: object) -> bytes:
    """Party a dials party b, unless said otherwise; signed by the party itself unless by `key`."""
    dial = RelayDial(1, SESSION, A, B, DialRole.DIAL, NOW, secrets.token_bytes(16))
    dial = replace(dial, **changes)  # type: ignore[arg-type]
    return sign_dial(dial, key or KEYS[dial.party])


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the relay ends the connection without passing anything more."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@within_a_loop
async def test_two_parties_of_a_session_are_joined_and_bytes_pass_both_ways() -> None:
    async with a_relay() as bench:
        parked, dialled = await bench.joined()
        there, back = os.urandom(3 << 20), os.urandom(3 << 20)

        async def send(end: End, data: bytes) -> None:
            end[1].write(data)
            await end[1].drain()
            end[1].write_eof()

        _, _, got_back, got_there = await asyncio.gather(
            send(dialled, there), send(parked, back), dialled[0].read(), parked[0].read()
        )
        assert (got_there, got_back) == (there, back)
        assert bench.relay.refusals() == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (lambda: signed(key=KEYS[B]), DialRefusal.BAD_SIGNATURE),
        (lambda: signed(key=SigningKey.generate()), DialRefusal.BAD_SIGNATURE),
        (lambda: signed(time=NOW - timedelta(seconds=61)), DialRefusal.STALE),
        (lambda: signed(time=NOW + timedelta(seconds=61)), DialRefusal.STALE),
        (lambda: signed(session=OTHER_SESSION), DialRefusal.UNKNOWN_SESSION),
        (lambda: signed(peer=C), DialRefusal.UNKNOWN_SESSION),
        (lambda: signed(party=C), DialRefusal.UNKNOWN_PARTY),
        (lambda: signed(role=DialRole.PARK, session=OTHER_SESSION), DialRefusal.UNKNOWN_SESSION),
        (lambda: b"GET / HTTP/1.1\r\n", DialRefusal.MALFORMED),
        (lambda: b"x" * MAX_LINE_BYTES + b"\n", DialRefusal.MALFORMED),
    ],
)
@within_a_loop
async def test_a_dial_that_is_wrong_in_one_thing_is_refused(
    line: Callable[[], bytes], reason: DialRefusal
) -> None:
    async with a_relay() as bench:
        waiting = await bench.park(B, A)
        end, answer = await bench.say(line())
        assert answer == dial_answer(reason)
        assert await ended(end[0])
        assert bench.relay.refusals() == {str(reason): 1}
        # The peer's waiting connection is still there for the right one.
        right, answer = await bench.say(signed())
        assert answer == OK
        right[1].write(b"right")
        assert await waiting[0].readexactly(5) == b"right"


@within_a_loop
async def test_a_line_without_an_end_is_not_read_to_its_end() -> None:
    async with a_relay() as bench:
        _, writer = await bench.connect()
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        assert bench.relay.refusals() == {"malformed": 1}


@within_a_loop
async def test_a_dial_that_was_heard_cannot_be_said_again() -> None:
    async with a_relay() as bench:
        line = signed()
        await bench.park(B, A)
        await bench.park(B, A)
        assert (await bench.say(line))[1] == OK
        assert (await bench.say(line))[1] == dial_answer(DialRefusal.REPLAYED)


@within_a_loop
async def test_a_dial_cannot_be_said_again_at_any_time_while_it_is_not_stale() -> None:
    """The relay forgets a nonce only when its dial's time no longer passes by itself."""
    async with a_relay() as bench:
        line = signed(time=NOW + timedelta(seconds=60))
        await bench.say(line)
        for seconds in (0, 60, 119, 120):
            bench.clock.time = NOW + timedelta(seconds=seconds)
            assert (await bench.say(line))[1] == dial_answer(DialRefusal.REPLAYED)
        bench.clock.time = NOW + timedelta(seconds=121)
        assert (await bench.say(line))[1] == dial_answer(DialRefusal.STALE)


@within_a_loop
async def test_a_dial_is_refused_while_the_peer_waits_for_someone_else_or_not_at_all() -> None:
    async with a_relay() as bench:
        assert (await bench.say(signed()))[1] == dial_answer(DialRefusal.ABSENT)
        await bench.park(A, B)
        assert (await bench.say(signed()))[1] == dial_answer(DialRefusal.ABSENT)


@within_a_loop
async def test_a_waiting_connection_that_left_is_not_joined() -> None:
    async with a_relay() as bench:
        gone = await bench.park(B, A)
        gone[1].close()
        stays = await bench.park(B, A)
        await asyncio.sleep(0.05)
        dialled, answer = await bench.say(signed())
        assert answer == OK
        dialled[1].write(b"hello")
        assert await stays[0].readexactly(5) == b"hello"


@within_a_loop
async def test_a_waiting_connection_that_speaks_out_of_turn_is_dropped() -> None:
    async with a_relay() as bench:
        reader, writer = await bench.park(B, A)
        writer.write(b"?")
        assert await ended(reader)
        assert (await bench.say(signed()))[1] == dial_answer(DialRefusal.ABSENT)


@within_a_loop
async def test_a_connection_that_says_nothing_is_dropped_at_the_deadline() -> None:
    async with a_relay(RelayLimits(hello_s=0.1)) as bench:
        reader, _ = await bench.connect()
        assert await ended(reader)
        assert bench.relay.refusals() == {"silent": 1}


@within_a_loop
async def test_only_so_many_connections_may_be_silent_at_once() -> None:
    async with a_relay(RelayLimits(strangers=2)) as bench:
        for _ in range(2):
            await bench.connect()
        reader, _ = await bench.connect()
        assert await ended(reader)
    async with a_relay(RelayLimits(strangers=1)) as bench:
        for _ in range(3):  # who has said who it is, is no stranger
            await bench.park(B, A)


@within_a_loop
async def test_a_party_may_park_only_so_many_connections() -> None:
    for limits in (RelayLimits(parked_per_session=2), RelayLimits(parked_per_party=2)):
        async with a_relay(limits) as bench:
            first = await bench.park(B, A)
            await bench.park(B, A)
            assert (await bench.say(signed(party=B, peer=A, role=DialRole.PARK)))[1] == dial_answer(
                DialRefusal.TOO_MANY
            )
            await bench.park(A, B)  # another party is not held up
            first[1].close()
            while (await bench.say(signed(party=B, peer=A, role=DialRole.PARK)))[1] != OK:
                await asyncio.sleep(0.01)


@within_a_loop
async def test_a_party_may_hold_only_so_many_pairs_and_dial_only_so_often() -> None:
    async with a_relay(RelayLimits(joined_per_party=1)) as bench:
        await bench.joined()
        await bench.park(B, A)
        assert (await bench.say(signed()))[1] == dial_answer(DialRefusal.TOO_MANY)
    async with a_relay(RelayLimits(dials_per_party=1)) as bench:
        await bench.say(signed())
        assert (await bench.say(signed()))[1] == dial_answer(DialRefusal.TOO_MANY)
        bench.clock.time = NOW + timedelta(seconds=61)
        again = signed(time=bench.clock.time)
        assert (await bench.say(again))[1] == dial_answer(DialRefusal.ABSENT)


@within_a_loop
async def test_a_connection_waits_only_so_long() -> None:
    async with a_relay(RelayLimits(parked_s=0.1)) as bench:
        reader, _ = await bench.park(B, A)
        assert await ended(reader)
        assert (await bench.say(signed()))[1] == dial_answer(DialRefusal.ABSENT)


@within_a_loop
async def test_a_pair_that_passes_nothing_is_cut() -> None:
    async with a_relay(RelayLimits(idle_s=0.1)) as bench:
        parked, dialled = await bench.joined()
        assert await ended(parked[0]) and await ended(dialled[0])
        assert bench.relay.refusals() == {"idle": 1}


@within_a_loop
async def test_a_pair_lives_on_while_one_direction_passes_something() -> None:
    async with a_relay(RelayLimits(idle_s=1.0)) as bench:
        parked, dialled = await bench.joined()
        for _ in range(6):
            dialled[1].write(b"x")
            assert await parked[0].readexactly(1) == b"x"
            await asyncio.sleep(0.25)
        assert bench.relay.refusals() == {}


@within_a_loop
async def test_a_pair_is_cut_at_its_limit_of_bytes() -> None:
    async with a_relay(RelayLimits(stream_bytes=1000)) as bench:
        parked, dialled = await bench.joined()
        dialled[1].write(bytes(1000))
        assert await parked[0].readexactly(1000) == bytes(1000)
        parked[1].write(b"x")
        assert await ended(dialled[0])
        assert bench.relay.refusals() == {"too-many-bytes": 1}


@within_a_loop
async def test_when_one_side_breaks_off_the_other_is_cut() -> None:
    async with a_relay() as bench:
        parked, dialled = await bench.joined()
        dialled[1].transport.get_extra_info("socket").setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
        dialled[1].transport.abort()
        with pytest.raises(ConnectionResetError):
            await parked[0].read()


@within_a_loop
async def test_stopping_cuts_every_connection_and_frees_the_address() -> None:
    async with a_relay() as bench:
        pair = await bench.joined()
        waiting = await bench.park(B, A)
        silent = await bench.connect()
        endpoint = bench.relay.endpoint
        await bench.relay.stop()
        for reader, _ in (*pair, waiting, silent):
            assert await ended(reader)
        with pytest.raises(OSError, match="onnect"):
            await asyncio.open_connection(endpoint.host, endpoint.port)


@within_a_loop
async def test_an_address_in_use_is_reported_at_start() -> None:
    async with a_relay() as bench:
        other = Relay(
            bench.relay.endpoint,
            signing_key=lambda party: KEYS[party].public,
            allowed=lambda session, party, peer: True,
            clock=bench.clock,
        )
        with pytest.raises(CannotListen):
            await other.start()
