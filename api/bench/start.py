"""How long a newcomer and an operator wait: `exchange hub` to ready, and `exchange --help`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from api.bench.harness import Measured, Run, cached_bytecode, resident_mb, timed
from api.demo.processes import Process, start_all
from api.demo.setting import Exchange


def start(runs: int) -> Measured:
    """seconds: from starting `exchange hub` to its ready line, not for the first time.
    first_start_s: with its database to be made and every module to be compiled."""
    program = str(Path(sys.executable).parent / "exchange")
    found: list[Run] = []
    peaks: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="unseen-bench-") as folder,
        cached_bytecode(Path(folder) / "bytecode"),
    ):
        exchange = Exchange(Path(folder))
        exchange.make_folders()
        hub = exchange.program("hub")
        first_s, running = _until_ready(hub)
        running.stop()

        def show_help() -> None:
            subprocess.run([program, "--help"], check=True, capture_output=True)

        show_help()
        for _ in range(runs):
            seconds, running = _until_ready(hub)
            peaks["hub"] = max(peaks.get("hub", 0.0), round(resident_mb(running.pid), 1))
            running.stop()
            figures = {"help_s": timed(show_help), "first_start_s": first_s}
            found.append(Run(seconds, figures))
    return Measured({"runs": runs}, tuple(found), peaks)


def _until_ready(hub: tuple[Sequence[str], Path]) -> tuple[float, Process]:
    begun = time.perf_counter()
    running = start_all({"hub": hub})["hub"]
    return time.perf_counter() - begun, running
