"""COUNT and SUM by group over rows that two holders have in common, each party a process.

`hidden` runs in turn with its rival, the revealed join (RR22, then CHEETAH), pair by pair. Seconds
run from the making of the first token to the last share; the engines' own start, libraries and all,
comes before it for both and is `start_s`. Every answer is checked: a wrong one ends the benchmark.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from api.bench.harness import Measured, Run, cached_bytecode
from api.bench.join_party import Question
from crypto import record
from crypto.identifiers import JobId
from crypto.joins.released import open_cells
from crypto.ports import SystemClock, SystemRandomness

NAMES: Final = ("holder A", "holder B", "helper")
PARTIES: Final = {"hidden": 3, "revealed": 2, "sum": 2, "score": 2, "lookup": 2}
PROGRAM: Final = "api.bench.join_party"


class WrongAnswer(Exception):
    """The engine's numbers are not those of the pooled rows."""


class Parties:
    """The processes of one protocol, introduced to each other."""

    def __init__(self, count: int, program: str = PROGRAM) -> None:
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", program, str(rank)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        known = {rank: self._hear(rank) for rank in range(count)}
        self._tell(known, range(count))

    def run(self, question: Question) -> list[dict[str, Any]]:
        """One attempt by everybody. Returns what each measured."""
        return self.ask(question.__dict__, JobId.new(SystemClock().now(), SystemRandomness()))

    def ask(
        self, asked: Mapping[str, Any], job: JobId, *, parties: int | None = None
    ) -> list[dict[str, Any]]:
        """What the first so many parties, or all, are told alike. Returns what each measured."""
        ranks = range(len(self.processes) if parties is None else parties)
        self._tell({"job": job, **asked}, ranks)
        for rank in ranks:
            self._hear(rank)
        self._tell({}, ranks)
        return [self._hear(rank) for rank in ranks]

    def close(self) -> None:
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self.processes:
            process.wait(30)

    def _tell(self, line: dict[Any, Any], ranks: range) -> None:
        for rank in ranks:
            stdin = self.processes[rank].stdin
            if stdin is not None:
                stdin.write(json.dumps(line) + "\n")
                stdin.flush()

    def _hear(self, rank: int) -> dict[str, Any]:
        out = self.processes[rank].stdout
        line = "" if out is None else out.readline()
        if not line:
            raise RuntimeError(f"{NAMES[rank]} ended without an answer")
        found: dict[str, Any] = json.loads(line)
        return found


def join(runs: int, protocol: str, rows: int, groups: int, *, rival: bool) -> Measured:
    """protocol: hidden, revealed or sum, which knows one group only. rival: beside hidden."""
    question = Question(protocol, rows, groups)
    beside = Question("revealed", rows, groups) if rival and protocol == "hidden" else None
    found: list[Run] = []
    peaks: dict[str, float] = {}
    sent: dict[str, int] = {}
    with parties(protocol) as own, _beside(beside) as other:
        for _ in range(runs):
            said = own.run(question)
            seconds, stages = _checked(question, said)
            for rank, one in enumerate(said):
                name = NAMES[rank]
                peak = round(one["engine_rss_mb"] + one["node_rss_mb"], 1)
                peaks[name] = max(peaks.get(name, 0.0), peak)
                peaks[f"{name}, engine"] = max(
                    peaks.get(f"{name}, engine", 0.0), round(one["engine_rss_mb"], 1)
                )
                sent[name] = one["sent_bytes"]
            rival_s = None
            if beside is not None and other is not None:
                rival_s, _ = _checked(beside, other.run(beside))
            found.append(Run(seconds, stages, rival_s))
    parameters = {"runs": runs, "protocol": protocol, "rows": rows, "groups": groups}
    return Measured(parameters, tuple(found), peaks, sent)


def unbalanced(runs: int, rows: int, against: int, groups: int) -> Measured:
    """The revealed join of many rows with few: a job that masks the many first (`first_s`, of which
    `offline_s`), then one that finds them masked, whose seconds count. Its rival is RR22.

    Bytes are a later job's; a party's `offline` bytes are what the first job sent beyond them.
    """
    rival = Question("revealed", rows, groups, against)
    found: list[Run] = []
    peaks: dict[str, float] = {}
    sent: dict[str, int] = {}
    with parties("revealed") as own, _beside(rival) as other:
        for run in range(runs):
            question = replace(rival, standing=f"run {run}")
            first = own.run(question)
            first_s, stages = _checked(question, first)
            later = own.run(question)
            seconds, online = _checked(question, later)
            if "offline_s" in online:
                raise WrongAnswer("the second job masked the keys again")
            for name, before, after in zip(NAMES, first, later, strict=False):
                peak = max(one["engine_rss_mb"] + one["node_rss_mb"] for one in (before, after))
                peaks[name] = max(peaks.get(name, 0.0), round(peak, 1))
                sent[name] = after["sent_bytes"]
                sent[f"{name}, offline"] = before["sent_bytes"] - after["sent_bytes"]
            figures = {**online, "first_s": first_s, "offline_s": stages["offline_s"]}
            rival_s = None
            if other is not None:
                rival_s, _ = _checked(rival, other.run(rival))
            found.append(Run(seconds, figures, rival_s))
    parameters = {
        "runs": runs,
        "protocol": "revealed",
        "rows": rows,
        "against": against,
        "groups": groups,
    }
    return Measured(parameters, tuple(found), peaks, sent)


def _checked(question: Question, said: list[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """Seconds of one attempt and of its stages. Raises WrongAnswer."""
    cells = open_cells(question.layout, [record.decode_base64(one["share"]) for one in said])
    answer = np.array([cell.terms for cell in cells], dtype=np.int64).T
    if not np.array_equal(answer, question.expected()):
        raise WrongAnswer(f"{question.protocol} of {question.rows} rows")
    figures = {name: max(one[name] for one in said) for name in ("start_s", "local_s")}
    for stage in dict.fromkeys(name for one in said for name in one["stages_ms"]):
        took = [one["stages_ms"][stage] / 1000 for one in said if stage in one["stages_ms"]]
        figures[f"{stage}_s"] = statistics.fmean(took)
    return lasted(said), figures


def lasted(said: list[dict[str, Any]]) -> float:
    """Seconds from the first party's beginning to the last one's share; all read one clock."""
    seconds: float = max(one["ended"] for one in said) - min(one["began"] for one in said)
    return seconds


@contextmanager
def parties(protocol: str, program: str = PROGRAM) -> Iterator[Parties]:
    """The processes of one protocol, for as long as they are needed."""
    with tempfile.TemporaryDirectory(prefix="unseen-bench-") as folder:
        with cached_bytecode(Path(folder)):
            found = Parties(PARTIES[protocol], program)
        try:
            yield found
        finally:
            found.close()


@contextmanager
def _beside(rival: Question | None) -> Iterator[Parties | None]:
    if rival is None:
        yield None
        return
    with parties(rival.protocol) as found:
        yield found
