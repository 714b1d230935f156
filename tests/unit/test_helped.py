"""The revealed join with a helper, from the intersection on: right sums, and who receives what."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from crypto import record
from crypto.adapters.tcp_channels import TcpChannels
from crypto.engine import EngineStage, RevealedTask, TaskLine
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins import helped
from crypto.joins.intersection import Intersection
from crypto.joins.layout import Layout
from crypto.joins.rows import Int64Array, SideRows, plain_output, plain_pairs
from crypto.ports import SystemRandomness
from crypto.sharing import UInt64Array, recombine
from tests.fakes.seats import nowhere
from tests.fakes.three_parties import (
    Message,
    PlaintextEngine,
    RecordedChannels,
    Room,
    StatedNoise,
    Tamper,
    untouched,
)
from tests.fakes.two_sides import Sides, a_layout, two_sides
from tests.fakes.wires import socket_pairs

SMALL = 2**20


@dataclass
class Ended:
    shares: dict[int, bytes] = field(default_factory=dict)
    pairs: dict[int, int] = field(default_factory=dict)
    failures: dict[int, EngineFailed] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    stages: list[EngineStage] = field(default_factory=list)

    @property
    def output(self) -> Int64Array:
        for failure in self.failures.values():
            raise failure
        return recombine(list(self.shares.values()))

    def received(self, rank: int, label: str) -> list[bytes]:
        return [m.payload for m in self.messages if (m.to, m.label) == (rank, label)]


def tasks_of(layout: Layout) -> list[RevealedTask]:
    return [RevealedTask(seat, layout, Intersection.RR22, b"") for seat in nowhere(3)]


def run_three(
    sides: Sides,
    *,
    tasks: list[RevealedTask] | None = None,
    tamper: Tamper = untouched,
    matched: dict[int, Int64Array] | None = None,
) -> Ended:
    ended, room = Ended(), Room()
    tasks = tasks or tasks_of(sides.layout)
    rows = {0: sides.a, 1: sides.b}
    at = dict(enumerate(plain_pairs(sides.layout, sides.a, sides.b))) | (matched or {})
    sockets = socket_pairs(3)

    def party(rank: int) -> None:
        try:
            with TcpChannels(tasks[rank].seat, sockets[rank]) as inner:
                channels = RecordedChannels(inner, rank, ended.messages, tamper)
                helped.agree(tasks[rank], channels)
                ended.shares[rank], ended.pairs[rank] = helped.run(
                    tasks[rank],
                    rows.get(rank),
                    at.get(rank),
                    channels=channels,
                    randomness=SystemRandomness(),
                    noise=StatedNoise(0),
                    secure=PlaintextEngine(room, rank),
                    on_stage=ended.stages.append if rank == 2 else lambda _: None,
                )
        except EngineFailed as failure:
            ended.failures[rank] = failure
            room.abort()

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return ended


def sides_of(layout: Layout, rows: int = 120, overlap: int = 70, seed: int = 0) -> Sides:
    return two_sides(rows, overlap=overlap, layout=layout, values_up_to=SMALL, seed=seed)


@pytest.mark.parametrize(
    "layout",
    [
        a_layout(1, 1, 1, 1, 2),
        a_layout(3, 4, 2, 1, 3),
        a_layout(2, 2, 1, 1, 3, products=True),
        a_layout(3, 1, 1, 0, 3, outer=True, round_counts=5),
    ],
    ids=["whole", "groups", "products", "left join"],
)
@pytest.mark.parametrize("overlap", [0, 1, 70])
def test_three_shares_add_up_to_the_plain_answer(layout: Layout, overlap: int) -> None:
    sides = sides_of(layout, overlap=overlap)
    ended = run_three(sides)
    assert np.array_equal(ended.output, plain_output(layout, sides.a, sides.b))
    assert ended.pairs == {0: overlap, 1: overlap, 2: overlap}


def test_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helped, "ROWS_PER_BLOCK", 16)
    sides = sides_of(a_layout(2, 3, 1, 1, 3))
    assert np.array_equal(run_three(sides).output, plain_output(sides.layout, sides.a, sides.b))


def test_a_row_outside_the_groups_counts_nowhere() -> None:
    sides = sides_of(a_layout(2, 1, 1, 1, 2, outer=True))
    group = sides.b.group.copy()
    group[::3] = -1
    of_a = sides.a.group.copy()
    of_a[::4] = -1
    a, b = replace(sides.a, group=of_a), replace(sides.b, group=group)
    ended = run_three(replace(sides, a=a, b=b))
    assert np.array_equal(ended.output, plain_output(sides.layout, a, b))


def test_the_helper_receives_how_many_matched_and_what_is_fresh_in_every_run() -> None:
    sides = sides_of(a_layout(2, 2, 1, 1, 3))
    first, second = run_three(sides), run_three(sides, tasks=another_attempt(sides.layout))
    assert first.received(2, "pairs") == [(70).to_bytes(8, "big")] * 2
    labels = {m.label for m in first.messages if m.to == 2}
    assert labels == {"task", "pairs", "columns", "coefficients", "marks", "replicate"}
    seen = [words(ended.received(2, "columns")) for ended in (first, second)]
    assert len(seen[0]) == 70 * 2 * 3  # one word for a row, a group and a factor of A, none of B's
    assert not np.isin(seen[0], seen[1]).any()
    plain = np.concatenate([sides.a.factors.ravel(), sides.b.factors.ravel()]).view(np.uint64)
    assert not np.isin(seen[0], plain[plain > 1]).any()


def test_a_holder_receives_nothing_of_the_other_but_what_is_fresh_in_every_run() -> None:
    sides = sides_of(a_layout(2, 2, 1, 1, 3))
    first, second = run_three(sides), run_three(sides, tasks=another_attempt(sides.layout))
    assert not first.received(1, "columns")  # A's columns go to the helper alone
    seen = [words(ended.received(0, "columns")) for ended in (first, second)]
    assert len(seen[0]) == 70 * 2 * 3
    assert not np.isin(seen[0], seen[1]).any()


def test_any_two_shares_look_random() -> None:
    sides = sides_of(a_layout(2, 2, 1, 1, 3))
    first, second = run_three(sides), run_three(sides, tasks=another_attempt(sides.layout))
    for rank in range(3):
        one, other = (
            recombine([share for r, share in ended.shares.items() if r != rank])
            for ended in (first, second)
        )
        assert not np.isin(one, other).any()


def another_attempt(layout: Layout) -> list[RevealedTask]:
    return [replace(task, seat=replace(task.seat, attempt="att_2")) for task in tasks_of(layout)]


def words(payloads: list[bytes]) -> UInt64Array:
    return np.frombuffer(b"".join(payloads), dtype=np.uint64)


# What must not pass


@pytest.mark.parametrize("cheat", [0, 1], ids=["A", "B"])
@pytest.mark.parametrize("weight", [2, 9, 2**62])
def test_nobody_can_enter_a_weight_in_place_of_a_person(
    monkeypatch: pytest.MonkeyPatch, cheat: int, weight: int
) -> None:
    right = helped._Side.matrix

    def forged(side: helped._Side, rows: SideRows, at: Int64Array) -> UInt64Array:
        columns = right(side, rows, at)
        if side.owner == cheat:
            columns[0, 3] = weight
        return columns

    monkeypatch.setattr(helped._Side, "matrix", forged)
    ended = run_three(sides_of(a_layout(2, 2, 1, 1, 3)))
    assert {failure.fault for failure in ended.failures.values()} == {EngineFault.MISMATCH}
    assert len(ended.failures) == 3
    assert EngineStage.GATE not in ended.stages


def test_one_person_cannot_be_in_two_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    right = helped._Side.matrix

    def forged(side: helped._Side, rows: SideRows, at: Int64Array) -> UInt64Array:
        columns = right(side, rows, at)
        if side.owner == 0:
            columns[0:2, 5] = 1
        return columns

    monkeypatch.setattr(helped._Side, "matrix", forged)
    assert len(run_three(sides_of(a_layout(2, 2, 1, 1, 3))).failures) == 3


def test_holders_that_count_different_matches_are_found_by_the_helper() -> None:
    sides = sides_of(a_layout(1, 1, 1, 1, 2))
    at_a, _ = plain_pairs(sides.layout, sides.a, sides.b)
    ended = run_three(sides, matched={0: at_a[:-1]})
    assert ended.failures[2].fault is EngineFault.MISMATCH


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_party_with_another_task_is_found_before_anything_is_sent(who: int) -> None:
    sides = sides_of(a_layout(1, 1, 1, 1, 2))
    tasks = tasks_of(sides.layout)
    tasks[who] = replace(tasks[who], intersection=Intersection.ECDH)
    ended = run_three(sides, tasks=tasks)
    assert len(ended.failures) == 3
    assert {message.label for message in ended.messages} == {"task", "refused"}


@pytest.mark.parametrize(
    ("label", "change"),
    [
        ("columns", lambda payload: payload[:-8]),
        ("coefficients", lambda payload: payload[:-1]),
    ],
)
def test_a_message_of_another_length_is_refused(
    label: str, change: Callable[[bytes], bytes]
) -> None:
    def cut(of: int, to: int, what: str, count: int, payload: bytes) -> bytes:
        return change(payload) if what == label else payload

    ended = run_three(sides_of(a_layout(1, 1, 1, 1, 2)), tamper=cut)
    assert EngineFault.MISMATCH in {failure.fault for failure in ended.failures.values()}
    assert not ended.shares


def test_a_helped_task_is_of_three_and_its_zero_key_is_empty() -> None:
    task = tasks_of(a_layout())[2]
    assert record.from_bytes(TaskLine, record.to_bytes(TaskLine(task))).task == task
    with pytest.raises(Malformed, match="zero_key"):
        replace(task, zero_key=b"z" * 32)
    with pytest.raises(Malformed, match="zero_key"):
        replace(task, seat=nowhere(2)[0])
