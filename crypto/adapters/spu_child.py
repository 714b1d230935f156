"""The engine child: `python -m crypto.adapters.spu_child --parent PID`.

Loads the engine, says it is ready, takes one task from standard input, ends. It must be started
in its own folder, with TMPDIR=. (the engine pastes its temporary path into a shell command).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Final

from crypto import record
from crypto.engine import (
    ROWS_FILE,
    ChildLine,
    Ended,
    EngineStage,
    EngineTask,
    Entered,
    Failed,
)
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins.revealed import SideRows

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m crypto.adapters.spu_child")
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
        from crypto.adapters import spu_revealed

        spu_revealed.check_layout()
        _say(channel, ChildLine(Entered(EngineStage.READY)))
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)  # never used
        task = record.from_bytes(EngineTask, line.rstrip(b"\n"))
        rows = SideRows.load(Path(ROWS_FILE))
        rows.require(task.layout, task.rank)
        outcome = spu_revealed.run(
            task, rows, on_stage=lambda stage: _say(channel, ChildLine(Entered(stage)))
        )
    except EngineFailed as error:
        traceback.print_exc()
        return ChildLine(Failed(error.fault, error.problem))
    except Malformed as error:
        return ChildLine(Failed(EngineFault.INPUT, str(error)))
    except Exception as error:  # the last line of a process; the node must hear how it ended
        traceback.print_exc()
        return ChildLine(Failed(EngineFault.CRASHED, f"{type(error).__name__} in the engine"))
    return ChildLine(Ended(outcome))


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
