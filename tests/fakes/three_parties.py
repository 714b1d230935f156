"""Three or four threads that run the hidden join over real channels, and all that each received.

`PlaintextEngine` stands in for SPU: the three parties meet in one room, which puts their components
together, computes with the plain functions that engines are held to, and shares the answer anew.
It also sees what no party of a deal sees, so a test can ask it what was shared.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from crypto.adapters.tcp_channels import TcpChannels
from crypto.engine import (
    Combination,
    EngineStage,
    HiddenTask,
    NoiseScales,
    PaddingBounds,
)
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.hidden.columns import Column, row_columns
from crypto.joins.hidden.ports import Replicated, RowResults
from crypto.joins.hidden.protocol import HiddenResult, run
from crypto.joins.layout import COUNTED, Layout
from crypto.joins.released import Cell, open_cells
from crypto.joins.rows import (
    Int64Array,
    SideRows,
    limited_terms,
    plain_dominated,
    plain_extremes,
    plain_terms,
    rounded,
)
from crypto.noise import Distribution
from crypto.ports import Randomness, SystemRandomness
from crypto.sharing import UInt64Array, recombine
from tests.fakes.seats import nowhere

SMALL = PaddingBounds(epsilon=Fraction(2), delta=Fraction(1, 100), contribution=1)
WAIT_S = 20.0
PAIRS = ((0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (2, 3))

# (sender, receiver, label, how often that label went that way before, payload) -> payload
Tamper = Callable[[int, int, str, int, bytes], bytes]


class FixedRandomness:
    """Reproducible, for vectors and comparisons. Never for a deal."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def draw(self, size: int) -> bytes:
        return self._random.bytes(size)


class StatedNoise:
    """Draws that a test can subtract again: term i of the calls gets `step * (i + 1)`."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.asked: list[tuple[Distribution, Fraction, int]] = []

    def draw(
        self, distribution: Distribution, scale: Fraction, count: int
    ) -> npt.NDArray[np.int64]:
        self.asked.append((distribution, scale, count))
        return np.full(count, self.step * len(self.asked), dtype=np.int64)


@dataclass
class Message:
    of: int
    to: int
    label: str
    payload: bytes


class RecordedChannels:
    """Channels that write down what goes out, and let a test change it on the way."""

    def __init__(self, inner: TcpChannels, rank: int, sent: list[Message], tamper: Tamper) -> None:
        self._inner, self._rank, self._sent, self._tamper = inner, rank, sent, tamper
        self._counts: Counter[tuple[int, str]] = Counter()

    def send(self, to: int, label: str, payload: bytes | bytearray | memoryview) -> None:
        count = self._counts[to, label]
        self._counts[to, label] += 1
        changed = self._tamper(self._rank, to, label, count, bytes(payload))
        self._sent.append(Message(self._rank, to, label, changed))
        self._inner.send(to, label, changed)

    def receive(self, of: int, label: str) -> bytearray:
        return self._inner.receive(of, label)

    @property
    def sent_bytes(self) -> int:
        return self._inner.sent_bytes


class Room:
    """Where the three engines meet. Answers are computed once, by whoever comes last."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(3)
        self._given: dict[int, tuple[object, ...]] = {}
        self._answer: list[object] = []
        self.gated: list[tuple[Int64Array, Int64Array]] = []
        self.row_columns: list[tuple[Int64Array, Int64Array]] = []

    def abort(self) -> None:
        self._barrier.abort()

    def meet(
        self, rank: int, given: tuple[object, ...], compute: Callable[..., list[Int64Array]]
    ) -> list[Replicated]:
        try:
            self._given[rank] = given
            self._barrier.wait(WAIT_S)
            if rank == 0:
                columns = zip(*(self._given[r] for r in range(3)), strict=True)
                self._answer = [share(one) for one in compute(*map(opened, columns))]
            self._barrier.wait(WAIT_S)
            found = [one[rank] for one in self._answer]  # type: ignore[index]
            self._barrier.wait(WAIT_S)
        except threading.BrokenBarrierError:
            raise EngineFailed(EngineFault.PEER, "a peer's engine went away") from None
        return found


def opened(parts: Sequence[Replicated]) -> Int64Array:
    """What three parties' components say; they must fit each other."""
    for rank in range(3):
        if not np.array_equal(parts[rank].second, parts[(rank + 1) % 3].first):
            raise EngineFailed(EngineFault.CRASHED, "components do not fit")
    total: UInt64Array = parts[0].first + parts[1].first + parts[2].first
    return total.view(np.int64)


def share(values: Int64Array) -> list[Replicated]:
    words = values.astype(np.int64).view(np.uint64)
    one, two = (np.frombuffer(os.urandom(8 * words.size), np.uint64) for _ in range(2))
    one, two = one.reshape(words.shape), two.reshape(words.shape)
    parts = [one, two, words - one - two]
    return [Replicated(parts[rank], parts[(rank + 1) % 3]) for rank in range(3)]


class PlaintextEngine:
    """A ThreePartyEngine."""

    def __init__(self, room: Room, rank: int) -> None:
        self._room, self._rank = room, rank

    def gate(self, layout: Layout, exact: Replicated, noisy: Replicated) -> Replicated:
        def compute(exact: Int64Array, noisy: Int64Array) -> list[Int64Array]:
            self._room.gated.append((exact, noisy))
            of_cell = exact.reshape(len(layout.terms), layout.cells)
            seen = noisy.reshape(len(layout.terms), layout.cells)
            gates = list(layout.gates)
            ok = (of_cell[gates] >= layout.min_group) & (
                seen[gates] >= layout.min_group + layout.slack
            )
            of_term = [gates.index(term.people) for term in layout.terms]
            values = np.where(ok[of_term], seen, 0)
            values[gates] = rounded(values[gates], layout.round_counts)
            return [np.concatenate([ok.astype(np.int64).ravel(), values.ravel()])]

        return self._room.meet(self._rank, (exact, noisy), compute)[0]

    def rows(self, layout: Layout, columns_a: Replicated, columns_b: Replicated) -> RowResults:
        limited = layout.dominance is not None

        def compute(a: Int64Array, b: Int64Array) -> list[Int64Array]:
            self._room.row_columns.append((a, b))
            side_a, side_b = paired_rows(layout, a, b)
            found = [
                plain_terms(layout, side_a, side_b).ravel(),
                plain_extremes(layout, side_a, side_b).ravel(),
            ]
            if limited:
                fine = np.ones((len(layout.gates), layout.cells), dtype=np.int64)
                dominated = plain_dominated(layout, side_a, side_b)
                for term in limited_terms(layout):
                    if not layout.terms[term].outer:
                        gate = layout.gates.index(layout.terms[term].people)
                        fine[gate][dominated[term]] = 0
                found.append(fine.ravel())
            return found

        found = self._room.meet(self._rank, (columns_a, columns_b), compute)
        return RowResults(found[0], found[1], found[2] if limited else None)


def paired_rows(layout: Layout, a: Int64Array, b: Int64Array) -> tuple[SideRows, SideRows]:
    """The real pairs of the columns that `rows` is given, as rows with equal tokens."""
    sides = []
    wanted = [row_columns(layout, rank) for rank in (0, 1)]
    valid = []
    for rank, columns in enumerate((a, b)):
        valid.append(columns[wanted[rank].index(Column(COUNTED, None))] == 1)
    real = np.flatnonzero(valid[0] & valid[1])
    tokens = np.zeros((len(real), 16), dtype=np.uint8)
    tokens[:, :8] = np.arange(len(real), dtype=np.int64).reshape(-1, 1).view(np.uint8)
    for rank, columns in enumerate((a, b)):
        groups = layout.groups(rank)
        group = columns[:groups, real].argmax(axis=0).astype(np.int64)
        factors = np.zeros((len(real), layout.factors(rank) - 1), dtype=np.int64)
        for column, values in zip(wanted[rank], columns, strict=True):
            if column.group is None and column.factor:
                factors[:, column.factor - 1] = values[real]
        sides.append(SideRows(tokens, group, factors))
    return sides[0], sides[1]


@dataclass
class Outcome:
    """results and failures per rank; every message in the order in which its sender sent it."""

    layout: Layout
    results: dict[int, HiddenResult] = field(default_factory=dict)
    failures: dict[int, BaseException] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    stages: dict[int, list[EngineStage]] = field(default_factory=dict)
    room: Room = field(default_factory=Room)

    @property
    def cells(self) -> tuple[Cell, ...]:
        self.require()
        return open_cells(self.layout, [one.share for one in self.results.values()])

    @property
    def output(self) -> Int64Array:
        self.require()
        return recombine([one.share for one in self.results.values()])

    def require(self) -> None:
        for failure in self.failures.values():
            raise failure

    def received(self, rank: int, label: str | None = None) -> list[Message]:
        return [m for m in self.messages if m.to == rank and label in (None, m.label)]

    def between(self, of: int, to: int, label: str) -> list[bytes]:
        return [m.payload for m in self.messages if (m.of, m.to, m.label) == (of, to, label)]


def tasks_of(
    layout: Layout,
    *,
    caps: tuple[int, ...],
    padding: PaddingBounds | None = SMALL,
    hide_size: bool = False,
    noise: NoiseScales | None = None,
    key: int | None = None,
) -> list[HiddenTask]:
    """One task for each rank, with fresh keys, or with those that `key` always gives. caps: of two
    holders, or of three."""
    random: Randomness = SystemRandomness() if key is None else FixedRandomness(key)
    parties = len(caps) + 1
    drawn = {pair: random.draw(32) for pair in PAIRS if max(pair) < parties}
    token_key = random.draw(32)
    return [
        HiddenTask(
            seat=replace(
                seat,
                keys=tuple(
                    b"" if peer == rank else drawn[min(rank, peer), max(rank, peer)]
                    for peer in range(parties)
                ),
            ),
            layout=layout,
            combination=Combination.UNION if padding is None else Combination.JOIN,
            caps=caps,
            padding=padding,
            hide_size=hide_size,
            token_key=token_key if rank < 2 else b"",
            noise=noise,
        )
        for rank, seat in enumerate(nowhere(parties))
    ]


def untouched(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
    return payload


def run_three(
    tasks: Sequence[HiddenTask],
    a: SideRows | None,
    b: SideRows | None,
    d: SideRows | None = None,
    *,
    tamper: Tamper = untouched,
    randomness: Mapping[int, Randomness] | None = None,
    noise: StatedNoise | None = None,
) -> Outcome:
    outcome = Outcome(tasks[0].layout)
    sockets: dict[int, dict[int, socket.socket]] = {rank: {} for rank in range(len(tasks))}
    for low, high in PAIRS:
        if high < len(tasks) and high in tasks[low].peers:
            sockets[low][high], sockets[high][low] = socket.socketpair()

    def party(rank: int) -> None:
        stages = outcome.stages.setdefault(rank, [])
        try:
            with TcpChannels(tasks[rank].seat, sockets[rank]) as inner:
                outcome.results[rank] = run(
                    tasks[rank],
                    (a, b, None, d)[rank],
                    channels=RecordedChannels(inner, rank, outcome.messages, tamper),
                    randomness=(randomness or {}).get(rank, SystemRandomness()),
                    noise=noise or StatedNoise(0),
                    secure=PlaintextEngine(outcome.room, rank),
                    on_stage=stages.append,
                )
        except BaseException as error:
            outcome.failures[rank] = error
            outcome.room.abort()

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * WAIT_S)
    return outcome


def failed(outcome: Outcome, rank: int) -> EngineFailed:
    """The failure of that party; anything else than EngineFailed is a defect."""
    error = outcome.failures[rank]
    if not isinstance(error, EngineFailed):
        raise error
    return error


def fresh_key() -> int:
    return secrets.randbits(60)
