"""Starting and ending the demonstration's processes: by their own commands, ended by their ids."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

READY_S: Final = 60.0
STOP_S: Final = 15.0


class ProcessFailed(Exception):
    """A process did not get ready, or ended before it was told to. Its log says why."""

    def __init__(self, name: str, log: Path, problem: str) -> None:
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-12:])
        super().__init__(f"{name} {problem}; the end of {log}:\n{tail}")


@dataclass
class Process:
    """One running `exchange` command. ready: the JSON line that it printed when it was ready."""

    name: str
    child: subprocess.Popen[str]
    log: Path
    ready: Mapping[str, Any]

    @property
    def pid(self) -> int:
        return self.child.pid

    def stop(self) -> None:
        """Ask it to end, and insist if it does not. Safe to repeat."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()

    def require_alive(self) -> None:
        code = self.child.poll()
        if code is not None:
            raise ProcessFailed(self.name, self.log, f"ended with code {code}")


def start_all(commands: Mapping[str, tuple[Sequence[str], Path]]) -> dict[str, Process]:
    """Start several commands at once and wait until each says that it is ready.

    commands: per name the arguments after `exchange` and the file for its log.
    Raises ProcessFailed after ending what did start.
    """
    begun = {name: _begin(arguments, log) for name, (arguments, log) in commands.items()}
    found: dict[str, Process] = {}
    deadline = time.monotonic() + READY_S
    try:
        for name, (child, lines) in begun.items():
            log = commands[name][1]
            found[name] = Process(name, child, log, _wait(name, child, lines, log, deadline))
    except BaseException:
        for child, _ in begun.values():
            child.kill()
            child.wait()
        raise
    return found


def _begin(
    arguments: Sequence[str], log: Path
) -> tuple[subprocess.Popen[str], queue.Queue[str | None]]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        child = subprocess.Popen(
            [str(Path(sys.executable).parent / "exchange"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(child, lines), daemon=True).start()
    return child, lines


def _read(child: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    if child.stdout is not None:
        for line in child.stdout:
            lines.put(line)
    lines.put(None)


def _wait(
    name: str,
    child: subprocess.Popen[str],
    lines: queue.Queue[str | None],
    log: Path,
    deadline: float,
) -> Mapping[str, Any]:
    try:
        line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise ProcessFailed(name, log, f"was not ready after {READY_S:.0f} s") from None
    if line is None:
        raise ProcessFailed(name, log, f"ended with code {child.wait()}")
    ready = json.loads(line)
    if not isinstance(ready, dict) or ready.get("ready") is not True:
        raise ProcessFailed(name, log, "did not say that it is ready")
    return ready
