"""An engine without SPU, for tests that break everything else.

Two nodes of one process share an `EngineRoom`. A run waits until both parties of its job are
there, computes the exact answer, and gives each party a real additive share of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from crypto.engine import EngineOutcome, EngineStage, EngineTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.revealed import Int64Array, SideRows, gated_output, side_columns
from crypto.sharing import to_bytes, zero_shares
from exchange.node.engine import EngineLimits, ignore_stages, require_rows


@dataclass
class _Table:
    """Where the two parties of one job meet."""

    tasks: dict[int, EngineTask] = field(default_factory=dict)
    rows: dict[int, SideRows] = field(default_factory=dict)
    lost: bool = False


class EngineRoom:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._tables: dict[str, _Table] = {}

    def table(self, job: str) -> _Table:
        return self._tables.setdefault(job, _Table())


class InProcessEngine:
    """An EngineRunner. `fail_next` makes the next run of this node end with that fault."""

    def __init__(self, room: EngineRoom) -> None:
        self._room = room
        self._running: list[InProcessRun] = []
        self.fail_next: EngineFault | None = None

    def start(self, task: EngineTask, rows: SideRows, limits: EngineLimits) -> InProcessRun:
        require_rows(task, rows)
        fault, self.fail_next = self.fail_next, None
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
        rows: SideRows,
        limits: EngineLimits,
        fault: EngineFault | None,
    ) -> None:
        self._room = room
        self._task = task
        self._deadline = time.monotonic() + limits.deadline_s
        self._end: EngineOutcome | EngineFailed | None = None
        with room.changed:
            self._table = room.table(task.job)
            if fault is not None:
                self._fail(EngineFailed(fault, "as the test asked"))
            else:
                self._table.tasks[task.rank], self._table.rows[task.rank] = task, rows
            room.changed.notify_all()

    def wait(self, on_stage: Callable[[EngineStage], None] = ignore_stages) -> EngineOutcome:
        if self._end is None:
            on_stage(EngineStage.READY)
            on_stage(EngineStage.CONNECT)
            with self._room.changed:
                self._meet()
        if self._end is None:
            for stage in (
                EngineStage.PSI,
                EngineStage.SHARE,
                EngineStage.COMPUTE,
                EngineStage.GATE,
            ):
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
        table = self._table
        while self._end is None and len(table.tasks) < 2 and not table.lost:
            if not self._room.changed.wait(self._deadline - time.monotonic()):
                self._fail(EngineFailed(EngineFault.DEADLINE, "the peer never came"))
        if self._end is None and table.lost:
            self._fail(EngineFailed(EngineFault.PEER, "the peer's engine went away"))
        if self._end is None and table.tasks[0].common != table.tasks[1].common:
            problem = "the two parties were given different tasks"
            self._fail(EngineFailed(EngineFault.MISMATCH, problem))

    def _fail(self, failure: EngineFailed) -> None:
        self._end = failure
        self._table.lost = True

    def _outcome(self) -> EngineOutcome:
        layout, rank = self._task.layout, self._task.rank
        at_a, at_b = matches(self._table.rows[0], self._table.rows[1])
        output = gated_output(
            layout,
            side_columns(self._table.rows[0], layout.groups_a, at=at_a),
            side_columns(self._table.rows[1], layout.groups_b, at=at_b),
        ).astype(np.uint64)
        mask = zero_shares(self._task.zero_key, layout.outputs, sign=1 if rank == 0 else -1)
        return EngineOutcome(
            job=self._task.job,
            rank=rank,
            matched=len(at_a),
            layout=layout,
            share=to_bytes(output + mask if rank == 0 else mask),
            timings_ms={"total": 0},
            versions={"fake": "1"},
            peak_rss_bytes=0,
        )


def matches(a: SideRows, b: SideRows) -> tuple[Int64Array, Int64Array]:
    """Positions of the common rows on each side, in one order."""
    found = {token.tobytes(): row for row, token in enumerate(b.tokens)}
    pairs = [
        (row, found[token.tobytes()])
        for row, token in enumerate(a.tokens)
        if token.tobytes() in found
    ]
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
