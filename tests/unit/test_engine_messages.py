from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from crypto import record
from crypto.digest import digest
from crypto.engine import (
    ChildLine,
    Combination,
    Ended,
    EngineOutcome,
    EngineStage,
    EngineTask,
    Entered,
    Failed,
    HiddenTask,
    NoiseScales,
    PaddingBounds,
    RevealedTask,
    TaskLine,
)
from crypto.errors import EngineFault, Malformed
from crypto.joins.intersection import Intersection
from crypto.noise import Distribution
from tests.fakes.seats import nowhere
from tests.fakes.two_sides import a_layout

NOISE = NoiseScales(Distribution.LAPLACE, (Fraction(2),), (1, 2))
REVEALED = RevealedTask(
    seat=nowhere(2)[0],
    layout=a_layout(1, 1, 0, 0, 10),
    intersection=Intersection.RR22,
    zero_key=b"z" * 32,
)
HIDDEN = HiddenTask(
    seat=nowhere(3)[0],
    layout=a_layout(1, 1, 0, 0, 10),
    combination=Combination.JOIN,
    caps=(100, 200),
    padding=PaddingBounds(Fraction(1, 2), Fraction(1, 10**9), 1),
    hide_size=False,
    token_key=b"t" * 32,
    noise=NOISE,
)
OUTCOME = EngineOutcome(
    share=bytes(range(16)),
    learned={"matched": 3},
    timings_ms={"total": 12},
    versions={"spu": "0.9.5"},
    peak_rss_bytes=2**28,
)


@pytest.mark.parametrize(
    "event",
    [Entered(EngineStage.MATCH), Ended(OUTCOME), Failed(EngineFault.PEER, "went away")],
    ids=lambda event: event.kind,
)
def test_a_child_is_understood(event: Entered | Ended | Failed) -> None:
    line = ChildLine(event).to_line()
    assert line.count(b"\n") == 1
    assert ChildLine.from_line(line).event == event


@pytest.mark.parametrize("task", [REVEALED, HIDDEN], ids=lambda task: task.kind)
def test_a_task_is_read_back_as_it_was_written(task: EngineTask) -> None:
    line = record.to_bytes(TaskLine(task))
    assert b"\n" not in line
    assert record.from_bytes(TaskLine, line).task == task


def test_the_mode_that_loses_matches_cannot_be_written_down() -> None:
    assert not [way.value for way in Intersection if "low" in way.value]
    text = record.to_bytes(REVEALED).replace(b'"rr22"', b'"rr22_low_comm"')
    with pytest.raises(Malformed, match="intersection"):
        record.from_bytes(RevealedTask, text)
    text = record.to_bytes(REVEALED).replace(b'"seat"', b'"low_comm_mode":true,"seat"')
    with pytest.raises(Malformed):
        record.from_bytes(RevealedTask, text)


def test_neither_a_key_nor_the_share_is_printed() -> None:
    assert "zzz" not in repr(REVEALED)
    assert "ttt" not in repr(HIDDEN)
    assert repr(REVEALED.seat.keys[1])[2:6] not in repr(REVEALED.seat)
    assert "share" not in repr(OUTCOME)


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 2},
        {"listen": "0.0.0.0:7001"},
        {"peers": ("", "10.0.0.1:7001")},
        {"peers": ("", "127.0.0.1:0")},
        {"peers": ("", "127.0.0.1:70000")},
        {"peers": ("127.0.0.1:7001", "127.0.0.1:7002")},
        {"keys": (b"", b"k" * 16)},
        {"receive_timeout_ms": 0},
        {"attempt": ""},
    ],
    ids=str,
)
def test_a_seat_that_could_not_be_taken_safely_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=next(iter(change))):
        replace(REVEALED.seat, **change)


@pytest.mark.parametrize(
    ("task", "change"),
    [
        (REVEALED, {"zero_key": b"z" * 16}),
        (REVEALED, {"seat": HIDDEN.seat}),
        (HIDDEN, {"seat": REVEALED.seat}),
        (HIDDEN, {"caps": (100,)}),
        (HIDDEN, {"padding": None}),
        (HIDDEN, {"combination": Combination.UNION}),
        (HIDDEN, {"token_key": b""}),
        (HIDDEN, {"noise": replace(NOISE, scales=(Fraction(2),) * 2)}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value.kind,
)
def test_a_task_that_could_not_be_run_safely_cannot_be_made(
    task: EngineTask, change: dict[str, Any]
) -> None:
    with pytest.raises(Malformed):
        replace(task, **change)


def test_noise_has_two_different_authors_and_a_scale() -> None:
    with pytest.raises(Malformed, match="authors"):
        NoiseScales(Distribution.LAPLACE, (Fraction(2),), (1, 1))
    with pytest.raises(Malformed, match="scales"):
        NoiseScales(Distribution.LAPLACE, (Fraction(0),), (1, 2))


def test_the_parties_of_a_revealed_join_agree_on_what_is_common_and_on_nothing_else() -> None:
    other = replace(REVEALED, seat=nowhere(2)[1], zero_key=b"y" * 32)
    assert other.common == REVEALED.common
    gate = replace(REVEALED.layout, min_group=9)
    assert replace(REVEALED, layout=gate).common != REVEALED.common
    assert replace(REVEALED, intersection=Intersection.ECDH).common != REVEALED.common
    for change in ({"attempt": "att_2"}, {"plan": digest(b"another plan")}):
        seat = replace(REVEALED.seat, **change)
        assert replace(REVEALED, seat=seat).common != REVEALED.common


def test_the_parties_of_a_hidden_join_agree_on_what_is_common_and_on_nothing_else() -> None:
    helper = replace(HIDDEN, seat=nowhere(3)[2], token_key=b"")
    assert helper.common == HIDDEN.common
    changes: list[dict[str, Any]] = [
        {"layout": replace(HIDDEN.layout, min_group=9)},
        {"caps": (100, 201)},
        {"hide_size": True},
        {"noise": None},
        {"padding": PaddingBounds(Fraction(1, 3), Fraction(1, 10**9), 1)},
        {"seat": replace(HIDDEN.seat, attempt="att_2")},
    ]
    for change in changes:
        assert replace(HIDDEN, **change).common != HIDDEN.common
