"""The engine child: `python -m crypto.adapters.engine_child --parent PID`.

Loads the engines, says it is ready, takes one task from standard input, ends. It must be started
in its own folder, with TMPDIR=. (SPU pastes its temporary path into a shell command).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from crypto import record
from crypto.engine import (
    ChildLine,
    Ended,
    EngineOutcome,
    EngineStage,
    EngineTask,
    Entered,
    Failed,
    HiddenTask,
    LookupTask,
    RevealedTask,
    ScoreTask,
    SumTask,
    TaskLine,
)
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins.hidden.upload import HELPER
from crypto.joins.rows import SideRows

OnStage = Callable[[EngineStage], None]
Work = Callable[[Any, OnStage], EngineOutcome]

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m crypto.adapters.engine_child")
    parser.add_argument("--parent", type=int, required=True)
    _die_with(parser.parse_args().parent)
    os.umask(0o077)
    # The engine prints on standard output; that channel is ours alone, so it gets the error one.
    channel = os.dup(1)
    os.dup2(2, 1)
    _say(channel, _outcome(channel))
    # Without the engine's own teardown, which waits for peers that may be gone.
    os._exit(0)


def _outcome(channel: int) -> ChildLine:
    try:
        work = _load()
        _say(channel, ChildLine(Entered(EngineStage.READY)))
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)  # never used
        task = record.from_bytes(TaskLine, line.rstrip(b"\n")).task
        outcome = work[type(task)](task, lambda stage: _say(channel, ChildLine(Entered(stage))))
    except EngineFailed as error:
        traceback.print_exc()
        return ChildLine(Failed(error.fault, error.problem))
    except Malformed as error:
        return ChildLine(Failed(EngineFault.INPUT, str(error)))
    except Exception as error:  # the last line of a process; the node must hear how it ended
        traceback.print_exc()
        return ChildLine(Failed(EngineFault.CRASHED, f"{type(error).__name__} in the engine"))
    return ChildLine(Ended(outcome))


def _load() -> Mapping[type[EngineTask], Work]:
    """What is done for each kind of task. Imports the engines, which takes seconds, and compares
    known answers; so it happens before the child says it is ready."""
    from crypto.adapters import (
        lookup_engine,
        score_engine,
        spu_helped,
        spu_hidden,
        spu_revealed,
        sum_engine,
    )

    spu_revealed.check_layout()
    spu_hidden.check_layout()
    lookup_engine.check_group()
    score_engine.check_scheme()

    def revealed(task: RevealedTask, on_stage: OnStage) -> EngineOutcome:
        if task.helped:
            rows = None if task.seat.rank == HELPER else _rows(task)
            return spu_helped.run(task, rows, on_stage=on_stage)
        return spu_revealed.run(task, _rows(task), on_stage=on_stage)

    def hidden(task: HiddenTask, on_stage: OnStage) -> EngineOutcome:
        # A helper has no rows. What they must be, the protocol itself says.
        rows = None if task.seat.rank == HELPER else SideRows.load(Path())
        return spu_hidden.run(task, rows, on_stage=on_stage)

    def lookup(task: LookupTask, on_stage: OnStage) -> EngineOutcome:
        return lookup_engine.run(task, folder=Path(), on_stage=on_stage)

    def summed(task: SumTask, on_stage: OnStage) -> EngineOutcome:
        return sum_engine.run(task, _rows(task), on_stage=on_stage)

    def score(task: ScoreTask, on_stage: OnStage) -> EngineOutcome:
        return score_engine.run(task, folder=Path(), on_stage=on_stage)

    return {
        RevealedTask: revealed,
        HiddenTask: hidden,
        LookupTask: lookup,
        SumTask: summed,
        ScoreTask: score,
    }


def _rows(task: RevealedTask | SumTask) -> SideRows:
    rows = SideRows.load(Path())
    rows.require(task.layout, task.seat.rank)
    return rows


def _say(channel: int, line: ChildLine) -> None:
    data = line.to_line()
    while data:
        data = data[os.write(channel, data) :]


def _die_with(parent: int) -> None:
    """A node that is killed takes its engines with it; nothing goes on computing unwatched."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before the line above
    # If the machine runs out of memory, the kernel takes the engine and not the node.
    Path("/proc/self/oom_score_adj").write_text("800")


if __name__ == "__main__":
    main()
