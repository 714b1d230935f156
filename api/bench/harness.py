"""The one harness of all benchmarks: what a document holds, and how its figures are taken.

A workload is a function that yields one `Run` at a time. Seconds are wall time, memory is the
largest resident set of a process as the kernel counted it, bytes are what the process sent.
"""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

POLL_S: Final = 0.05
OPTIONS: Final = (
    "protocol",
    "model",
    "rows",
    "features",
    "groups",
    "keys",
    "reservations",
    "runs",
)


@dataclass(frozen=True)
class Run:
    """seconds: of the thing measured. figures: more of the same run, by name with its unit.
    rival_s: seconds of the rival's run beside it, where there is one."""

    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    rival_s: float | None = None


@dataclass(frozen=True)
class Measured:
    """What a workload gives back. by process: peak_rss_mb and bytes_sent."""

    parameters: Mapping[str, Any]
    runs: tuple[Run, ...]
    peak_rss_mb: Mapping[str, float] = field(default_factory=dict)
    bytes_sent: Mapping[str, int] = field(default_factory=dict)


def document(workload: str, measure: Callable[[], Measured]) -> dict[str, Any]:
    """Run a workload and describe what was found, with the machine's load before and after."""
    before = os.getloadavg()[0]
    measured = measure()
    after = os.getloadavg()[0]
    seconds = [run.seconds for run in measured.runs]
    found: dict[str, Any] = {
        "workload": workload,
        "command": _command(workload, measured.parameters),
        "parameters": dict(measured.parameters),
        "machine": {"cores": os.cpu_count(), "load_before": before, "load_after": after},
        "runs": [round(value, 4) for value in seconds],
        "median_s": round(statistics.median(seconds), 4),
        "peak_rss_mb": dict(measured.peak_rss_mb),
        "bytes_sent": dict(measured.bytes_sent),
    }
    names = dict.fromkeys(name for run in measured.runs for name in run.figures)
    for name in names:
        values = [run.figures[name] for run in measured.runs if name in run.figures]
        found[name] = round(statistics.median(values), 4)
    rivals = [run.rival_s for run in measured.runs if run.rival_s is not None]
    if rivals:
        found["rival_median_s"] = round(statistics.median(rivals), 4)
        found["ratio"] = round(statistics.median(rivals) / statistics.median(seconds), 3)
    return found


def _command(workload: str, parameters: Mapping[str, Any]) -> str:
    """What to type to measure the same again: `parameters` holds the options among the rest."""
    options = [
        f"--{name} {parameters[name]}"
        for name in (
            "protocol",
            "model",
            "rows",
            "against",
            "features",
            "groups",
            "keys",
            "reservations",
            "entries",
            "database",
            "runs",
        )
        if name in parameters
    ]
    return " ".join(["exchange bench", workload, *options, "--json"])


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


class PeakMemory:
    """Watches the resident memory of processes and their children while it is open."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self._peaks: dict[str, float] = dict.fromkeys(processes, 0.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peaks_mb(self) -> dict[str, float]:
        return {name: round(peak, 1) for name, peak in self._peaks.items()}

    def _watch(self) -> None:
        while not self._stop.is_set():
            for name, pid in self._processes.items():
                total = sum(resident_mb(p) for p in [pid, *_children(pid)])
                self._peaks[name] = max(self._peaks[name], total)
            self._stop.wait(POLL_S)


@contextmanager
def cached_bytecode(folder: Path) -> Iterator[None]:
    """Processes begun meanwhile keep Python's compiled modules in `folder`.

    Where they cannot be kept beside the sources, or the environment forbids it, each start would
    compile every library again, and only that would be measured.
    """
    before = dict(os.environ)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def timed(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    found = [int(word) for word in text.split()]
    return found + [grandchild for child in found for grandchild in _children(child)]


def resident_mb(pid: int) -> float:
    """What the process holds in memory now, in MB; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
