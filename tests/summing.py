"""Two parties of a `sum` join in one process, over channels that can be listened to and altered."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import shake_256

import numpy as np
import numpy.typing as npt

from crypto.adapters.curve import CurveMask
from crypto.digest import digest
from crypto.engine import Seat, SumTask
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins import summed
from crypto.joins.layout import Layout, Term
from crypto.joins.ports import BoolArray, Int64Array, ValueEncryption
from crypto.joins.rows import SideRows
from crypto.joins.summable import ValueScheme
from crypto.ports import Randomness

Alter = Callable[[str, bytes], bytes]


@dataclass
class Fixed:
    """Repeatable bytes, for tests that compare two runs."""

    seed: bytes
    drawn: int = 0

    def draw(self, size: int) -> bytes:
        self.drawn += 1
        return shake_256(self.seed + self.drawn.to_bytes(8, "big")).digest(size)


class ClearValues:
    """A `ValueEncryption` that encrypts nothing: for what the protocol does around it."""

    rows_per_message = 7

    def owner(self, columns: int, randomness: Randomness) -> ClearOwner:
        return ClearOwner()

    def adder(
        self, public_key: bytes | bytearray, columns: int, randomness: Randomness
    ) -> ClearAdder:
        return ClearAdder(columns)


class ClearOwner:
    public_key = b"key"

    def encrypt(self, columns: Int64Array) -> bytes:
        return columns.tobytes()

    def open(self, reply: bytes | bytearray) -> list[int]:
        return [int.from_bytes(reply[i : i + 16], "big") for i in range(0, len(reply), 16)]


class ClearAdder:
    def __init__(self, columns: int) -> None:
        self.sums = [0] * columns

    def add(self, message: bytes | bytearray, picked: BoolArray) -> None:
        rows = np.frombuffer(message, dtype=np.int64).reshape(len(picked), -1)
        for row in rows[picked].tolist():
            self.sums = [held + value for held, value in zip(self.sums, row, strict=True)]

    def close(self, masks: Sequence[int]) -> bytes:
        return b"".join((s + m).to_bytes(16, "big") for s, m in zip(self.sums, masks, strict=True))


def _as_it_is(label: str, payload: bytes) -> bytes:
    return payload


@dataclass
class Party:
    """One end. received: every message it got, by label, in order."""

    rank: int
    task: SumTask
    rows: SideRows
    randomness: Randomness
    encryption: ValueEncryption
    inbox: queue.Queue[tuple[str, bytes] | None] = field(default_factory=queue.Queue)
    received: list[tuple[str, bytes]] = field(default_factory=list)
    peer: Party | None = None
    alter: Alter = _as_it_is
    sent_bytes: int = 0
    share: bytes = b""
    learned: dict[str, int] = field(default_factory=dict)
    problem: EngineFailed | Malformed | None = None
    stages: list[str] = field(default_factory=list)

    def send(self, to: int, label: str, payload: bytes | bytearray | memoryview) -> None:
        assert to == 1 - self.rank and self.peer is not None
        self.sent_bytes += len(payload)
        self.peer.inbox.put((label, self.alter(label, bytes(payload))))

    def receive(self, of: int, label: str) -> bytearray:
        assert of == 1 - self.rank
        message = self.inbox.get(timeout=60)
        if message is None:
            raise EngineFailed(EngineFault.PEER, "a peer's engine went away")
        if message[0] != label:
            raise EngineFailed(EngineFault.MISMATCH, "a peer sent another message")
        self.received.append(message)
        return bytearray(message[1])

    def take_part(self) -> None:
        try:
            self.share, learned = summed.run(
                self.task,
                self.rows,
                channels=self,
                randomness=self.randomness,
                mask=CurveMask.draw(self.randomness),
                encryption=self.encryption,
                on_stage=lambda stage: self.stages.append(stage.value),
            )
            self.learned = dict(learned)
        except (EngineFailed, Malformed) as error:
            self.problem = error
        finally:
            assert self.peer is not None
            self.peer.inbox.put(None)

    def messages(self, label: str) -> bytes:
        return b"".join(payload for name, payload in self.received if name == label)

    def sizes(self) -> list[tuple[str, int]]:
        return [(label, len(payload)) for label, payload in self.received]


def layout(
    *, of_a: int = 0, of_b: int = 0, min_group: int = 1, round_counts: int = 1, **more: object
) -> Layout:
    """COUNT, and a sum of each factor of A and of B."""
    terms = [Term(0, 0, 0, False)]
    terms += [Term(factor, 0, 0, False) for factor in range(1, of_a + 1)]
    terms += [Term(0, factor, 0, False) for factor in range(1, of_b + 1)]
    said = {
        "groups_a": 1,
        "groups_b": 1,
        "factors_a": of_a + 1,
        "factors_b": of_b + 1,
        "terms": tuple(terms),
        "comparisons": (),
        "extremes": (),
        "min_group": min_group,
        "slack": 0,
        "dominance": None,
        "round_counts": round_counts,
    }
    return Layout(**{**said, **more})  # type: ignore[arg-type]  # tests change single fields


def seat(rank: int, attempt: str = "attempt_1") -> Seat:
    other = "127.0.0.1:7002"
    return Seat(
        attempt=attempt,
        plan=digest(b"plan"),
        rank=rank,
        listen="127.0.0.1:7001",
        peers=("", other) if rank == 0 else (other, ""),
        keys=(b"", b"k" * 32) if rank == 0 else (b"k" * 32, b""),
        connect_timeout_ms=1000,
        receive_timeout_ms=6000,
    )


def task(
    rank: int, shape: Layout, caps: tuple[int, int], scheme: ValueScheme = ValueScheme.BFV
) -> SumTask:
    return SumTask(seat(rank), shape, caps, scheme, b"z" * 32)


def side(people: Sequence[int], factors: npt.ArrayLike | None = None) -> SideRows:
    """Rows of these people; a person's token is the same on both sides."""
    tokens = b"".join(shake_256(b"%d" % person).digest(16) for person in people)
    held = np.zeros((len(people), 0)) if factors is None else np.asarray(factors)
    return SideRows(
        tokens=np.frombuffer(tokens, dtype=np.uint8).reshape(-1, 16),
        group=np.zeros(len(people), dtype=np.int64),
        factors=held.reshape(len(people), -1).astype(np.int64),
    )


def parties(
    shape: Layout,
    a: SideRows,
    b: SideRows,
    *,
    caps: tuple[int, int] | None = None,
    encryption: ValueEncryption | None = None,
    seeds: tuple[bytes, bytes] = (b"a", b"b"),
) -> tuple[Party, Party]:
    caps = caps or (len(a) + 3, len(b) + 5)
    found = [
        Party(rank, task(rank, shape, caps), rows, Fixed(seeds[rank]), encryption or ClearValues())
        for rank, rows in enumerate((a, b))
    ]
    found[0].peer, found[1].peer = found[1], found[0]
    return found[0], found[1]


def run_both(pair: tuple[Party, Party]) -> tuple[Party, Party]:
    threads = [threading.Thread(target=one.take_part, daemon=True) for one in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return pair


def joined(pair: tuple[Party, Party]) -> tuple[Party, Party]:
    """Both, after a run that neither refused."""
    run_both(pair)
    for one in pair:
        if one.problem:
            raise one.problem
    return pair
