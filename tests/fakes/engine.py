"""An engine without SPU, for tests that break everything else.

The nodes of one process share an `EngineRoom`. A run waits until all parties of its attempt are
there, computes the exact answer, and gives each party a real additive share of it. It adds no
noise and no padding: the `pairs` of a hidden run are the rows in common.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from crypto.engine import EngineOutcome, EngineStage, EngineTask, HiddenTask, RevealedTask, SumTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.layout import THIRD_RANK
from crypto.joins.rows import KeptRows, SideRows, plain_output, second_side
from crypto.sharing import UInt64Array, to_bytes, zero_shares
from exchange.node.engine import EngineInput, EngineLimits, ignore_stages, require_input

TWO_PARTY_STAGES = (
    EngineStage.MATCH,
    EngineStage.SHARE,
    EngineStage.COMPUTE,
    EngineStage.GATE,
)
HIDDEN_STAGES = (
    EngineStage.UPLOAD,
    EngineStage.MATCH,
    EngineStage.CHECK,
    EngineStage.SHARE,
    EngineStage.COMPUTE,
    EngineStage.GATE,
)


@dataclass
class _Table:
    """Where the parties of one attempt meet."""

    tasks: dict[int, EngineTask] = field(default_factory=dict)
    rows: dict[int, SideRows] = field(default_factory=dict)
    lost: bool = False


class EngineRoom:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._tables: dict[str, _Table] = {}

    def table(self, attempt: str) -> _Table:
        return self._tables.setdefault(attempt, _Table())


class InProcessEngine:
    """An EngineRunner. `fail_next` makes the next run of this node end with that fault."""

    def __init__(self, room: EngineRoom) -> None:
        self._room = room
        self._running: list[InProcessRun] = []
        self.fail_next: EngineFault | None = None

    def start(
        self, task: EngineTask, given: EngineInput | None, limits: EngineLimits
    ) -> InProcessRun:
        require_input(task, given)
        fault, self.fail_next = self.fail_next, None
        rows = given.rows if isinstance(given, KeptRows) else given
        rows = rows if isinstance(rows, SideRows) else None
        run = InProcessRun(self._room, task, rows, limits, fault)
        self._running.append(run)
        return run

    def close(self) -> None:
        for run in self._running:
            run.kill("the node is stopping")


class InProcessRun:
    def __init__(
        self,
        room: EngineRoom,
        task: EngineTask,
        rows: SideRows | None,
        limits: EngineLimits,
        fault: EngineFault | None,
    ) -> None:
        self._room = room
        self._task = task
        self._deadline = time.monotonic() + limits.deadline_s
        self._end: EngineOutcome | EngineFailed | None = None
        with room.changed:
            self._table = room.table(task.seat.attempt)
            if fault is not None:
                self._fail(EngineFailed(fault, "as the test asked"))
            else:
                self._table.tasks[task.seat.rank] = task
                if rows is not None:
                    self._table.rows[task.seat.rank] = rows
            room.changed.notify_all()

    def wait(self, on_stage: Callable[[EngineStage], None] = ignore_stages) -> EngineOutcome:
        if self._end is None:
            on_stage(EngineStage.READY)
            on_stage(EngineStage.CONNECT)
            with self._room.changed:
                self._meet()
        if self._end is None:
            hidden = isinstance(self._task, HiddenTask)
            for stage in HIDDEN_STAGES if hidden else TWO_PARTY_STAGES:
                on_stage(stage)
            self._end = self._outcome()
        if isinstance(self._end, EngineFailed):
            raise self._end
        return self._end

    def kill(self, why: str) -> None:
        with self._room.changed:
            if self._end is None:
                self._fail(EngineFailed(EngineFault.KILLED, why))
                self._room.changed.notify_all()

    def _meet(self) -> None:
        table, parties = self._table, len(self._task.seat.peers)
        while self._end is None and len(table.tasks) < parties and not table.lost:
            if not self._room.changed.wait(self._deadline - time.monotonic()):
                self._fail(EngineFailed(EngineFault.DEADLINE, "the peer never came"))
        if self._end is None and table.lost:
            self._fail(EngineFailed(EngineFault.PEER, "the peer's engine went away"))
        if self._end is None and len({task.common for task in table.tasks.values()}) > 1:
            problem = "the parties were given different tasks"
            self._fail(EngineFailed(EngineFault.MISMATCH, problem))

    def _fail(self, failure: EngineFailed) -> None:
        self._end = failure
        self._table.lost = True

    def _outcome(self) -> EngineOutcome:
        task = self._task
        if not isinstance(task, RevealedTask | HiddenTask | SumTask):
            raise TypeError("this engine makes joins only")
        layout = task.layout
        a, b = self._table.rows[0], self._table.rows[1]
        if layout.third is not None:
            b = second_side(layout.third, b, self._table.rows[THIRD_RANK])
        common = int(np.isin(_whole(a), _whole(b)).sum())
        return EngineOutcome(
            share=to_bytes(_share(task, plain_output(layout, a, b).view(np.uint64))),
            learned={"pairs" if isinstance(task, HiddenTask) else "matched": common},
            timings_ms={"total": 0},
            versions={"fake": "1"},
            peak_rss_bytes=0,
        )


def _share(task: RevealedTask | HiddenTask | SumTask, output: UInt64Array) -> UInt64Array:
    """Rank 0 has the output and all masks, every other rank takes its own mask away."""
    if not isinstance(task, HiddenTask) and task.zero_key:
        masks = [zero_shares(task.zero_key, len(output), sign=1)]
    else:
        # The parties have no key in common, so the mask is made of what they all know.
        names = [f"{task.common}{rank}".encode()[-32:] for rank in (1, 2)]
        masks = [zero_shares(name, len(output), sign=1) for name in names]
    rank = task.seat.rank
    if rank == THIRD_RANK:
        return np.zeros(len(output), dtype=np.uint64)
    if rank == 0:
        whole: UInt64Array = sum(masks, start=output)
        return whole
    return np.negative(masks[rank - 1])


def _whole(rows: SideRows) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    return np.ascontiguousarray(rows.tokens).view("V16").ravel()
