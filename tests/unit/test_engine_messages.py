from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crypto import record
from crypto.engine import (
    ChildLine,
    Ended,
    EngineOutcome,
    EngineStage,
    EngineTask,
    Entered,
    Failed,
)
from crypto.errors import EngineFault, Malformed
from crypto.joins.intersection import Intersection
from crypto.joins.layout import RevealedLayout

TASK = EngineTask(
    job="job_1",
    rank=0,
    listen="127.0.0.1:7001",
    peer="127.0.0.1:7002",
    intersection=Intersection.RR22,
    layout=RevealedLayout(1, 1, 0, 0, 10),
    zero_key=b"z" * 32,
    connect_timeout_ms=1000,
    receive_timeout_ms=1000,
)
OUTCOME = EngineOutcome(
    job="job_1",
    rank=0,
    matched=3,
    layout=TASK.layout,
    share=bytes(range(16)),
    timings_ms={"total": 12},
    versions={"spu": "0.9.5"},
    peak_rss_bytes=2**28,
)


@pytest.mark.parametrize(
    "event",
    [Entered(EngineStage.PSI), Ended(OUTCOME), Failed(EngineFault.PEER, "went away")],
    ids=lambda event: event.kind,
)
def test_a_child_is_understood(event: Entered | Ended | Failed) -> None:
    line = ChildLine(event).to_line()
    assert line.count(b"\n") == 1
    assert ChildLine.from_line(line).event == event


def test_a_task_is_read_back_as_it_was_written() -> None:
    assert record.from_bytes(EngineTask, record.to_bytes(TASK)) == TASK


def test_the_mode_that_loses_matches_cannot_be_written_down() -> None:
    assert [way.value for way in Intersection] == ["rr22", "ecdh25519"]
    text = record.to_bytes(TASK).replace(b'"rr22"', b'"rr22_low_comm"')
    with pytest.raises(Malformed, match="intersection"):
        record.from_bytes(EngineTask, text)
    text = record.to_bytes(TASK).replace(b'"rank"', b'"low_comm_mode":true,"rank"')
    with pytest.raises(Malformed):
        record.from_bytes(EngineTask, text)


def test_neither_the_key_nor_the_share_is_printed() -> None:
    assert "zzz" not in repr(TASK)
    assert "share" not in repr(OUTCOME)


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 2},
        {"listen": "0.0.0.0:7001"},
        {"peer": "10.0.0.1:7001"},
        {"peer": "127.0.0.1:0"},
        {"peer": "127.0.0.1:70000"},
        {"zero_key": b"z" * 16},
        {"receive_timeout_ms": 0},
        {"job": ""},
    ],
    ids=str,
)
def test_a_task_that_could_not_be_run_safely_cannot_be_made(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match=next(iter(change))):
        replace(TASK, **change)


def test_both_parties_tasks_agree_on_what_is_common_and_on_nothing_else() -> None:
    other = replace(TASK, rank=1, listen=TASK.peer, peer=TASK.listen, zero_key=b"y" * 32)
    assert other.common == TASK.common
    gate = replace(TASK.layout, min_group=9)
    assert replace(TASK, layout=gate).common != TASK.common
    assert replace(TASK, intersection=Intersection.ECDH).common != TASK.common
    assert replace(TASK, job="job_2").common != TASK.common


def test_an_outcome_whose_share_has_another_length_is_refused() -> None:
    with pytest.raises(Malformed, match="share"):
        replace(OUTCOME, share=bytes(8))
