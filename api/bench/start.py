"""How long a newcomer and an operator wait: `exchange hub` to ready, and `exchange --help`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from api.bench.harness import Measured, Run, resident_mb, timed
from api.demo.processes import start_all
from api.demo.setting import Exchange


def start(runs: int) -> Measured:
    """seconds: from starting `exchange hub` to its ready line, its database already made."""
    program = str(Path(sys.executable).parent / "exchange")
    found: list[Run] = []
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="unseen-bench-") as folder:
        exchange = Exchange(Path(folder))
        exchange.make_folders()
        hub = exchange.program("hub")
        start_all({"hub": hub})["hub"].stop()  # makes the database
        for _ in range(runs):
            begun = time.perf_counter()
            running = start_all({"hub": hub})["hub"]
            seconds = time.perf_counter() - begun
            peaks["hub"] = max(peaks.get("hub", 0.0), resident_mb(running.pid))
            running.stop()
            help_s = timed(
                lambda: subprocess.run([program, "--help"], check=True, capture_output=True)
            )
            found.append(Run(seconds, {"help_s": help_s}))
    return Measured({"runs": runs}, tuple(found), peaks)
