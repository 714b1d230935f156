"""How a node has an engine run made, whatever engine and whatever process it runs in.

Native engines abort, hang and eat memory; a node does none of these. So a run is started, watched
and ended through this port, and whatever happens to it arrives as an outcome or as EngineFailed
with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from crypto.engine import EngineOutcome, EngineStage, EngineTask
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins.revealed import SideRows


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


class EngineRunner(Protocol):
    def start(self, task: EngineTask, rows: SideRows, limits: EngineLimits) -> EngineRun:
        """Begin a run and return at once.

        Raises EngineFailed (input) for rows that no engine may be given: none at all, or not what
        the task's layout says. Nothing has been sent by then.
        """
        ...

    def close(self) -> None:
        """Kill what is running, wipe what it wrote. The runner starts nothing afterwards."""
        ...


def require_rows(task: EngineTask, rows: SideRows) -> None:
    """What every runner asks of its input, in one place. Raises EngineFailed (input)."""
    if not len(rows):
        # An engine given an empty file makes the other, healthy party abort.
        raise EngineFailed(EngineFault.INPUT, "no row of this side takes part")
    try:
        rows.require(task.layout, task.rank)
    except Malformed as error:
        raise EngineFailed(EngineFault.INPUT, str(error)) from error
