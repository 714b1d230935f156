"""Epsilon reserved by 64 submitters at once, four processes on one hub database.

Every reservation charges two products in one durable transaction, as the hub does for a job of two
holders. Their budgets hold exactly so many; submitters go on until they are refused. One granted
too many, one too few, or an account that does not show what was granted ends the benchmark.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

from api.bench.api import ABSENT, new_database, postgresql
from api.bench.budget_party import COST
from api.bench.harness import Measured, Run, cached_bytecode, percentile
from api.bench.join import WrongAnswer
from api.database import bring_up_to_date, open_engine, read_only
from crypto.identifiers import ProductId
from crypto.ports import SystemClock, SystemRandomness
from exchange.hub.adapters.sql import SqlHubStore
from exchange.privacy import NOTHING

PROCESSES: Final = 4
THREADS: Final = 16  # of each process
STOP_S: Final = 15.0


def budget(runs: int, reservations: int) -> Measured:
    """runs: each on accounts of their own. seconds: until the last one of SQLite was granted.
    Raises WrongAnswer."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unseen-bench-")))
        stack.enter_context(cached_bytecode(folder / "bytecode"))
        urls = {"sqlite": f"sqlite:///{folder / 'hub.db'}"}
        server = stack.enter_context(postgresql())
        if server is not None:
            urls["postgresql"] = new_database(server, "hub")
        for url in urls.values():
            engine = open_engine(url)
            bring_up_to_date(engine, "hub")
            engine.dispose()
        done: list[Run] = []
        peaks: dict[str, float] = {}
        for _ in range(runs):
            figures: dict[str, float] = {}
            for database, url in urls.items():
                said = _once(url, reservations)
                seconds = max(one["ended"] for one in said) - min(one["began"] for one in said)
                waits = [1000 * latency for one in said for latency in one["latencies_s"]]
                figures[f"seconds_{database}"] = seconds
                figures[f"per_second_{database}"] = reservations / seconds
                figures[f"p50_ms_{database}"] = percentile(waits, 50)
                figures[f"p99_ms_{database}"] = percentile(waits, 99)
                name = f"submitters_{database}"
                peaks[name] = max(peaks.get(name, 0.0), *(round(one["rss_mb"], 1) for one in said))
            done.append(Run(figures["seconds_sqlite"], figures))
    parameters = {
        "runs": runs,
        "reservations": reservations,
        "submitters": PROCESSES * THREADS,
        "processes": PROCESSES,
        "postgresql": ABSENT if server is None else "measured",
    }
    return Measured(parameters, tuple(done), peaks)


def _once(url: str, reservations: int) -> list[dict[str, Any]]:
    """What each process found, on two products of which nothing was spent before."""
    now, randomness = SystemClock().now(), SystemRandomness()
    products = [ProductId.new(now, randomness) for _ in range(2)]
    order = {
        "url": url,
        "products": products,
        "reservations": reservations,
        "threads": THREADS,
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "api.bench.budget_party"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    try:
        for child in children:
            _tell(child, order)
        for child in children:
            _hear(child)  # that it is ready
        for child in children:
            _tell(child, {})
        said = [_hear(child) for child in children]
    finally:
        for child in children:
            if child.poll() is None and child.stdin is not None:
                child.stdin.close()
            child.wait(STOP_S)
    _require_exact(url, products, said, reservations)
    return said


def _require_exact(
    url: str, products: list[ProductId], said: list[dict[str, Any]], reservations: int
) -> None:
    failures = [words for one in said for words in one["failures"]]
    if failures:
        raise WrongAnswer(f"{len(failures)} submitters failed: {failures[0]}")
    granted = sum(len(one["latencies_s"]) for one in said)
    if granted != reservations:
        raise WrongAnswer(f"{granted} reservations were granted; {reservations} fit")
    wanted = NOTHING
    for _ in range(reservations):
        wanted = wanted + COST
    engine = open_engine(url)
    try:
        with SqlHubStore(engine, read_only(engine)).transaction() as tx:
            for product in products:
                if tx.lock_privacy(product) != wanted:
                    raise WrongAnswer(f"{product} was charged {tx.lock_privacy(product)}")
    finally:
        engine.dispose()


def _tell(child: subprocess.Popen[str], line: dict[str, Any]) -> None:
    stdin = _pipe(child.stdin)
    stdin.write(json.dumps(line) + "\n")
    stdin.flush()


def _hear(child: subprocess.Popen[str]) -> dict[str, Any]:
    line = _pipe(child.stdout).readline()
    if not line:
        raise RuntimeError("a submitter ended without an answer")
    found: dict[str, Any] = json.loads(line)
    return found


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise TypeError("the child was made without pipes")
    return stream
