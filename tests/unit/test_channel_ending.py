"""How channels end: nobody's last message is lost, and nobody is held up for ever by a peer."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from crypto.adapters import tcp_channels
from crypto.adapters.tcp_channels import TcpChannels
from tests.fakes.seats import nowhere


def three() -> list[TcpChannels]:
    seats = nowhere(3)
    ends: list[dict[int, socket.socket]] = [{}, {}, {}]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        ends[a][b], ends[b][a] = socket.socketpair()
    return [TcpChannels(seat, sockets) for seat, sockets in zip(seats, ends, strict=True)]


def two() -> tuple[TcpChannels, TcpChannels]:
    first, second = socket.socketpair()
    seats = nowhere(2)
    return TcpChannels(seats[0], {1: first}), TcpChannels(seats[1], {0: second})


def test_whoever_sends_last_leaves_only_when_a_slow_peer_has_it() -> None:
    """A node cuts its links as soon as its engine is gone."""
    sender, receiver = two()
    block, order = bytes(1 << 20), list[str]()

    def receive() -> None:
        with receiver:
            time.sleep(0.2)
            for _ in range(8):
                assert receiver.receive(0, "block") == block
            order.append("received")

    thread = threading.Thread(target=receive)
    thread.start()
    with sender:
        for _ in range(8):
            sender.send(1, "block", block)
    order.append("left")
    thread.join()
    assert order == ["received", "left"]


def test_a_peer_that_never_ends_costs_a_wait_and_fails_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or a consumer that has its answer could make the holder's run fail, and not pay."""
    monkeypatch.setattr(tcp_channels, "LINGER_S", 0.2)
    sender, receiver = two()
    with sender:
        sender.send(1, "answer", b"found")
    assert receiver.receive(0, "answer") == b"found"


def test_three_parties_that_leave_together_do_not_wait_in_a_circle() -> None:
    parties = three()
    began = time.monotonic()

    def leave(rank: int) -> None:
        with parties[rank] as channels:
            for other in {0, 1, 2} - {rank}:
                channels.send(other, "last", b"word")
            for other in {0, 1, 2} - {rank}:
                assert channels.receive(other, "last") == b"word"

    threads = [threading.Thread(target=leave, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < tcp_channels.LINGER_S / 2
