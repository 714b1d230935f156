"""How a node has an engine run made, whatever engine and whatever process it runs in.

Native engines abort, hang and eat memory; a node does none of these. So a run is started, watched
and ended through this port, and whatever happens to it arrives as an outcome or as EngineFailed
with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from crypto.engine import (
    Combination,
    EngineOutcome,
    EngineStage,
    EngineTask,
    HiddenTask,
    RevealedTask,
    SumTask,
)
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins.rows import KeptRows, SideRows

HELPER: Final = 2  # the rank that computes without rows


@dataclass(frozen=True)
class EngineLimits:
    """deadline_s: from start to outcome, all included; memory_bytes: resident, of one party."""

    deadline_s: float
    memory_bytes: int


def ignore_stages(stage: EngineStage) -> None:
    """For callers who wait for the outcome only."""


class EngineRun(Protocol):
    def wait(self, on_stage: Callable[[EngineStage], None] = ignore_stages) -> EngineOutcome:
        """Block until the run has ended and nothing of it is left on disk.

        `on_stage` is called in the waiting thread, once for each stage the run enters.
        Raises EngineFailed. Called again, gives the same answer again.
        """
        ...

    def kill(self, why: str) -> None:
        """End the run now, from any thread; `wait` then raises EngineFailed (killed: why).

        Does nothing to a run that has ended.
        """
        ...


class EngineInput(Protocol):
    """What one party brings beside its task: its rows, a table, the keys it asks for."""

    def place(self, folder: Path) -> None:
        """Put it where the engine reads it, in the run's own folder. Raises OSError."""
        ...


class EngineRunner(Protocol):
    def start(self, task: EngineTask, given: EngineInput | None, limits: EngineLimits) -> EngineRun:
        """Begin a run and return at once. given: None at a helper, which brings nothing.

        Raises EngineFailed (input) for what no engine may be given: see `require_input`.
        Nothing has been sent by then.
        """
        ...

    def close(self) -> None:
        """Kill what is running, wipe what it wrote. The runner starts nothing afterwards."""
        ...


def require_input(task: EngineTask, given: EngineInput | None) -> None:
    """What every runner asks of its input, in one place. Raises EngineFailed (input)."""
    if not isinstance(task, RevealedTask | HiddenTask | SumTask):
        if given is None or isinstance(given, SideRows | KeptRows):
            raise EngineFailed(EngineFault.INPUT, f"a {task.kind} brings something, and no rows")
        return
    if isinstance(task, HiddenTask | RevealedTask) and task.seat.rank == HELPER:
        if given is not None:
            raise EngineFailed(EngineFault.INPUT, "a helper brings no rows")
        return
    rows = given.rows if isinstance(given, KeptRows) else given
    if not isinstance(rows, SideRows):
        raise EngineFailed(EngineFault.INPUT, "a holder brings rows, be they none")
    if isinstance(given, KeptRows) != (
        isinstance(task, RevealedTask) and task.standing is not None
    ):
        raise EngineFailed(
            EngineFault.INPUT, "a folder goes with what stands, and with nothing else"
        )
    _require_rows(task, rows)


def _require_rows(task: RevealedTask | HiddenTask | SumTask, rows: SideRows) -> None:
    rank = task.seat.rank
    if isinstance(task, RevealedTask) and not len(rows):
        # An engine given an empty file makes the other, healthy party abort.
        raise EngineFailed(EngineFault.INPUT, "no row of this side takes part")
    most = _most_rows(task)
    if most is not None and len(rows) > most:
        raise EngineFailed(EngineFault.INPUT, f"more rows than the {most} that the product states")
    union = isinstance(task, HiddenTask) and task.combination is Combination.UNION
    try:
        rows.require(task.layout, 0 if union else rank)  # the rows of a union are all alike
    except Malformed as error:
        raise EngineFailed(EngineFault.INPUT, str(error)) from error


def _most_rows(task: RevealedTask | HiddenTask | SumTask) -> int | None:
    if isinstance(task, RevealedTask):
        if task.standing is None:
            return None
        serves = task.seat.rank == task.standing.server
        return task.standing.rows if serves else task.standing.asked
    # A third holder's rank is 3, its cap's 2.
    return task.caps[min(task.seat.rank, len(task.caps) - 1)]
