"""Replays: messages of an earlier attempt, or of this one, brought in again.

Attacker:        whoever sits between two engines on a holder's own machine, or runs the relay and
                 has broken its TLS
Knowledge:       every frame of earlier attempts, as sent
Goal:            that a receiver takes an old upload, or a message in another place, for a new one
Success measure: the receiver gives the message out
False alarms:    none; a forged tag passes with 2**-128

The twin is the same channel with its attempt's name used twice. What else may not be used twice is
shown where it is kept: plans and job ids in tests/acceptance/test_lying_hub.py, signed requests in
tests/unit/test_http_signing.py, sealed parts below.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from crypto import sealing
from crypto.adapters.tcp_channels import TcpChannels
from crypto.digest import digest
from crypto.engine import Seat
from crypto.errors import CryptoError, EngineFailed, EngineFault
from crypto.identifiers import PartyId
from crypto.joins.layout import Layout, Term
from crypto.keys import ExchangeKey
from exchange.openings import result_context
from tests.fakes.seats import nowhere
from tests.fakes.three_parties import failed, run_three, tasks_of
from tests.fakes.two_sides import two_sides

UPLOAD = [("tags", b"16 bytes of tags"), ("column", b"words"), ("column", b"other words")]


def frames(seat: Seat, to: int, messages: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """What the attacker records of `seat` sending these messages."""
    inner, wire = socket.socketpair()
    wire.shutdown(socket.SHUT_WR)  # it has nothing to say: nobody need wait for its end
    with TcpChannels(seat, {to: inner}) as channels:
        for label, payload in messages:
            channels.send(to, label, payload)
    found, data = [], bytearray()
    while part := wire.recv(1 << 16):
        data += part
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        found.append(bytes(data[:size]))
        del data[:size]
    assert len(found) == len(messages)
    return found


@contextmanager
def receiving(seat: Seat, of: int, recorded: Sequence[bytes]) -> Iterator[TcpChannels]:
    """A party that is given these frames and nothing else."""
    inner, wire = socket.socketpair()
    with ExitStack() as stack:
        channels = stack.enter_context(TcpChannels(seat, {of: inner}))
        wire.sendall(b"".join(recorded))
        wire.shutdown(socket.SHUT_WR)
        yield channels


def attempt(name: str) -> tuple[Seat, ...]:
    return tuple(replace(seat, attempt=name) for seat in nowhere(3))


def refused(seat: Seat, of: int, recorded: Sequence[bytes], labels: Sequence[str]) -> EngineFailed:
    with receiving(seat, of, recorded) as channels, pytest.raises(EngineFailed) as error:
        for label in labels:
            channels.receive(of, label)
    return error.value


def test_where_an_attempts_name_is_used_twice_a_whole_old_upload_is_taken_for_a_new_one() -> None:
    old = frames(attempt("att_1")[0], 2, UPLOAD)
    with receiving(attempt("att_1")[2], 0, old) as helper:
        assert [bytes(helper.receive(0, label)) for label, _ in UPLOAD] == [p for _, p in UPLOAD]


def test_in_a_new_attempt_not_one_message_of_an_old_one_is_read() -> None:
    old = frames(attempt("att_1")[0], 2, UPLOAD)
    error = refused(attempt("att_2")[2], 0, old, ["tags"])
    assert error.fault is EngineFault.MISMATCH
    assert error.problem == "a message is not of this plan and attempt, or was altered"


def test_nor_one_of_another_plan_under_the_same_attempt() -> None:
    old = frames(attempt("att_1")[0], 2, UPLOAD)
    other = replace(attempt("att_1")[2], plan=digest(b"another plan"))
    assert refused(other, 0, old, ["tags"]).fault is EngineFault.MISMATCH


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "the first again": lambda f: [f[0], f[0]],
    "the second again": lambda f: [f[0], f[1], f[1]],
    "two in the other order": lambda f: [f[0], f[2], f[1]],
    "one left out": lambda f: [f[0], f[2]],
    "a bit changed": lambda f: [f[0][:-1] + bytes([f[0][-1] ^ 1])],
    "a byte cut off": lambda f: [(len(f[0]) - 5).to_bytes(4, "big") + f[0][4:-1]],
    "another label": lambda f: [f[0].replace(b"tags", b"pool")],
    "no payload at all": lambda f: [(5).to_bytes(4, "big") + f[0][4:9]],
    "an endless one": lambda f: [(2**31).to_bytes(4, "big") + f[0][4:]],
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_message_in_another_place_or_of_another_form_is_refused(how: str) -> None:
    changed = CHANGES[how](frames(attempt("att_1")[0], 2, UPLOAD))
    labels = [label for label, _ in UPLOAD]
    assert refused(attempt("att_1")[2], 0, changed, labels).fault is EngineFault.MISMATCH


def test_a_message_sent_back_to_its_sender_or_on_to_a_third_is_refused() -> None:
    old, seats = frames(attempt("att_1")[0], 2, UPLOAD), attempt("att_1")
    for seat, of in ((seats[0], 2), (seats[1], 0), (seats[1], 2)):
        assert refused(seat, of, old, ["tags"]).fault is EngineFault.MISMATCH


def test_a_connection_cut_short_is_told_from_a_forgery() -> None:
    """The one thing an attacker between them can do: end the run."""
    old = frames(attempt("att_1")[0], 2, UPLOAD)
    assert refused(attempt("att_1")[2], 0, [old[0][:-3]], ["tags"]).fault is EngineFault.PEER


def test_a_holder_that_brings_its_old_seed_to_a_new_attempt_opens_nothing() -> None:
    """Replayed inside the channel, by the holder itself: shares of the old attempt do not fit."""
    layout = Layout(1, 1, 1, 1, (Term(0, 0, 0, False),), (), (), 1, 0, None, 1)
    given = two_sides(30, overlap=30, layout=layout)
    first = run_three(tasks_of(layout, caps=(40, 40)), given.a, given.b)
    (old,) = first.between(1, 0, "seed")

    def replayed(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        return old if (of, to, label) == (1, 0, "seed") else payload

    again = run_three(tasks_of(layout, caps=(40, 40)), given.a, given.b, tamper=replayed)
    assert not again.results
    assert not again.room.gated
    assert {failed(again, rank).fault for rank in range(3)} == {EngineFault.MISMATCH}


def test_a_sealed_part_of_an_earlier_job_does_not_open_as_this_ones() -> None:
    receiver, holder = ExchangeKey.generate(), PartyId("pty_" + "b" * 32)
    old = sealing.seal(
        b"a share", receiver.public, context=result_context(digest(b"plan 1"), holder)
    )
    opened = sealing.open_sealed(old, receiver, context=result_context(digest(b"plan 1"), holder))
    assert opened == b"a share"
    for context in (
        result_context(digest(b"plan 2"), holder),
        result_context(digest(b"plan 1"), PartyId("pty_" + "c" * 32)),
    ):
        with pytest.raises(CryptoError):
            sealing.open_sealed(old, receiver, context=context)
