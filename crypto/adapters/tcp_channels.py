"""Channels over TCP: the messages of one attempt between two to four engine children.

Sockets reach the own node's tunnels on loopback only. TLS between the nodes protects the way
between the machines; what is added here binds every message to its plan, attempt, direction,
order and label, so that a program on the own machine, a relay or a peer's mistake can neither read
a share nor bring in an old or foreign message.

    frame   uint32 length of what follows, label length, label, AES-256-GCM of the payload
    nonce   96-bit counter of the direction; each direction of each pair has a key of its own
    AAD     the label

The keys are HKDF-SHA256 (RFC 5869) of the pair's key with the plan's digest as salt and attempt,
sender and receiver as context, so nothing of another attempt ever verifies.
Source: NIST SP 800-38D.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Collection, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.engine import Seat
from crypto.errors import EngineFailed, EngineFault

MAX_MESSAGE_BYTES: Final = 64 << 20
MAX_WAITING: Final = 8  # messages queued for one peer
LINGER_S: Final = 30.0  # how long a peer may take to receive the last of them
_LABEL: Final = b"unseen/channel/v1\x00"
_TAG_BYTES: Final = 16
_RETRY_S: Final = 0.05


class TcpChannels:
    """A `crypto.ports.Channels`. Use as a context manager; leaving it sends what waits."""

    def __init__(self, seat: Seat, sockets: Mapping[int, socket.socket]) -> None:
        self._peers = {rank: _Peer(seat, rank, one) for rank, one in sockets.items()}

    def send(self, to: int, label: str, payload: bytes | bytearray | memoryview) -> None:
        if len(payload) > MAX_MESSAGE_BYTES:
            raise ValueError("a message is too long; send it in blocks")
        self._peers[to].send(label.encode(), payload)

    def receive(self, of: int, label: str) -> bytearray:
        return self._peers[of].receive(label.encode())

    @property
    def sent_bytes(self) -> int:
        return sum(peer.sent_bytes for peer in self._peers.values())

    def __enter__(self) -> TcpChannels:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Ends every direction first and waits for every peer afterwards, so that nobody waits in
        a circle. A node cuts its links when its engine has ended: what is still on its way to a
        slow peer would be lost. A peer that never ends costs the wait and fails nothing, or
        whoever has its answer could make the others' run fail."""
        for peer in self._peers.values():
            peer.end(flush=kind is None)
        deadline = time.monotonic() + LINGER_S
        for peer in self._peers.values():
            peer.close(deadline if kind is None else None)


class _Peer:
    def __init__(self, seat: Seat, rank: int, one: socket.socket) -> None:
        one.settimeout(seat.receive_timeout_ms / 1000)
        self.sent_bytes = 0
        self._socket = one
        self._out = AESGCM(_key(seat, rank, sender=seat.rank, receiver=rank))
        self._in = AESGCM(_key(seat, rank, sender=rank, receiver=seat.rank))
        self._sent = self._received = 0
        self._waiting: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._broken = threading.Event()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def send(self, label: bytes, payload: bytes | bytearray | memoryview) -> None:
        sealed = self._out.encrypt(self._sent.to_bytes(12, "big"), payload, label)
        self._sent += 1
        head = bytes([len(label)]) + label
        frame = b"".join([(len(head) + len(sealed)).to_bytes(4, "big"), head, sealed])
        self.sent_bytes += len(frame)
        while not self._broken.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put(frame, timeout=1)
                return
        raise EngineFailed(EngineFault.PEER, "a peer's engine stopped taking messages")

    def receive(self, label: bytes) -> bytearray:
        size = int.from_bytes(self._exactly(4), "big")
        if not 1 + _TAG_BYTES <= size <= MAX_MESSAGE_BYTES + 256 + _TAG_BYTES:
            raise EngineFailed(EngineFault.MISMATCH, "a peer's message has an impossible size")
        frame = memoryview(self._exactly(size))
        found = bytes(frame[1 : 1 + frame[0]])
        if found != label:
            raise EngineFailed(
                EngineFault.MISMATCH, f"a peer sent another message than {label.decode()!r}"
            )
        try:
            plain = self._in.decrypt(
                self._received.to_bytes(12, "big"), frame[1 + len(label) :], label
            )
        except InvalidTag:
            raise EngineFailed(
                EngineFault.MISMATCH, "a message is not of this plan and attempt, or was altered"
            ) from None
        self._received += 1
        return bytearray(plain)

    def end(self, *, flush: bool) -> None:
        """Send what waits, and the end of this direction."""
        if not flush:
            self._broken.set()
            return
        while not self._broken.is_set():  # a writer that has ended makes no room for more
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=1)
                break
        self._writer.join()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self, deadline: float | None) -> None:
        """Close, once the peer has ended too or `deadline` has passed; None: at once."""
        with contextlib.suppress(OSError):
            while deadline is not None and (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(65536):
                    break
        self._socket.close()

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, have = memoryview(data), 0
        while have < size:
            try:
                got = self._socket.recv_into(view[have:])
            except OSError as error:
                raise EngineFailed(EngineFault.PEER, "a peer's engine went silent") from error
            if not got:
                raise EngineFailed(EngineFault.PEER, "a peer's engine went away")
            have += got
        return data

    def _write(self) -> None:
        while (frame := self._waiting.get()) is not None:
            try:
                self._socket.sendall(frame)
            except OSError:
                self._broken.set()
                return


def connect(seat: Seat, peers: Collection[int] | None = None) -> TcpChannels:
    """Channels to these peers, or to all: this party dials those of higher rank and waits for the
    others.

    Raises EngineFailed (peer) if one does not appear in time.
    """
    deadline = time.monotonic() + seat.connect_timeout_ms / 1000
    host, port = seat.listen.rsplit(":", 1)
    everybody = {rank for rank in range(len(seat.peers)) if rank != seat.rank}
    wanted = everybody if peers is None else everybody & set(peers)
    found: dict[int, socket.socket] = {}
    with socket.create_server((host, int(port))) as listener:
        for rank in sorted(rank for rank in wanted if rank > seat.rank):
            found[rank] = _dial(seat, rank, deadline)
        while len(found) < len(wanted):
            one, rank = _accept(listener, deadline)
            if rank >= seat.rank or rank not in wanted or rank in found:
                one.close()
                continue
            one.sendall(b"\x01")
            found[rank] = one
    return TcpChannels(seat, found)


def _dial(seat: Seat, rank: int, deadline: float) -> socket.socket:
    host, port = seat.peers[rank].rsplit(":", 1)
    while time.monotonic() < deadline:
        one = socket.socket()
        try:
            one.settimeout(max(_RETRY_S, deadline - time.monotonic()))
            one.connect((host, int(port)))
            one.sendall(bytes([seat.rank]))
            # The tunnel takes the connection before the peer's engine listens: only its answer
            # says that it is there.
            if one.recv(1) == b"\x01":
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return one
        except OSError:
            pass
        one.close()
        time.sleep(_RETRY_S)
    raise EngineFailed(EngineFault.PEER, "a peer's engine could not be reached")


def _accept(listener: socket.socket, deadline: float) -> tuple[socket.socket, int]:
    while True:
        listener.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            one, _ = listener.accept()
            one.settimeout(5)
            said = one.recv(1)
        except TimeoutError as error:
            if time.monotonic() >= deadline:
                raise EngineFailed(EngineFault.PEER, "a peer's engine did not connect") from error
            continue
        except OSError:
            continue
        if said:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return one, said[0]
        one.close()


def _key(seat: Seat, peer: int, *, sender: int, receiver: int) -> bytes:
    info = _LABEL + seat.attempt.encode() + bytes([0, sender, receiver])
    return HKDF(SHA256(), 32, salt=seat.plan.raw, info=info).derive(seat.keys[peer])
