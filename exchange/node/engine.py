"""How a node has an engine run made, whatever engine and whatever process it runs in.

Native engines abort, hang and eat memory; a node does none of these. So a run is started, watched
and ended through this port, and whatever happens to it arrives as an outcome or as EngineFailed
with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from crypto.engine import EngineOutcome, EngineStage, EngineTask, HiddenTask, RevealedTask
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins.rows import SideRows

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


class EngineRunner(Protocol):
    def start(self, task: EngineTask, rows: SideRows | None, limits: EngineLimits) -> EngineRun:
        """Begin a run and return at once. rows: None at a helper, which has none.

        Raises EngineFailed (input) for rows that no engine may be given: see `require_rows`.
        Nothing has been sent by then.
        """
        ...

    def close(self) -> None:
        """Kill what is running, wipe what it wrote. The runner starts nothing afterwards."""
        ...


def require_rows(task: EngineTask, rows: SideRows | None) -> None:
    """What every runner asks of its input, in one place. Raises EngineFailed (input)."""
    if isinstance(task, HiddenTask) and task.seat.rank == HELPER:
        if rows is not None:
            raise EngineFailed(EngineFault.INPUT, "a helper brings no rows")
        return
    if rows is None:
        raise EngineFailed(EngineFault.INPUT, "a holder brings rows, be they none")
    if isinstance(task, RevealedTask) and not len(rows):
        # An engine given an empty file makes the other, healthy party abort.
        raise EngineFailed(EngineFault.INPUT, "no row of this side takes part")
    if isinstance(task, HiddenTask) and len(rows) > task.caps[task.seat.rank]:
        raise EngineFailed(
            EngineFault.INPUT,
            f"more rows than the {task.caps[task.seat.rank]} that the product states",
        )
    try:
        rows.require(task.layout, task.seat.rank)
    except Malformed as error:
        raise EngineFailed(EngineFault.INPUT, str(error)) from error
