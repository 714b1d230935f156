"""The demonstration's deal, job after job: what a job costs beside its engine.

overhead_s = the job's wall time, from the consumer's submission to its opened answer, less the
longer of both holders' engine times; an engine's clock starts when its child is ready.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from api.bench.harness import Measured, PeakMemory, Run, cached_bytecode
from api.demo.deal import CURRENCY
from api.demo.setting import Exchange, command
from api.demo.story import Story
from api.demo.teller import Teller
from crypto.identifiers import JobId
from exchange.node.adapters.process_engine import SPARE_PAUSE_S
from exchange.node.runs import engine_remark

HOLDERS: Final = ("clinic", "laboratory")
FUNDS_MINOR: Final = 100_000_00


def deal(runs: int) -> Measured:
    with (
        tempfile.TemporaryDirectory(prefix="unseen-bench-") as folder,
        cached_bytecode(Path(folder) / "bytecode"),
    ):
        exchange = Exchange(Path(folder))
        story = Story(exchange, Teller("en", quiet_stdout=True))
        found: list[Run] = []
        sent: dict[str, int] = dict.fromkeys(HOLDERS, 0)
        try:
            number, clinic, laboratory = story.prepare()
            _fund(exchange)
            story.approve_by_standing("clinic", clinic)
            story.approve_by_standing("laboratory", laboratory)
            story.job(number, clinic, laboratory)  # the first one waits for caches and children
            time.sleep(2 * SPARE_PAUSE_S)
            pids = {name: process.pid for name, process in exchange.processes.items()}
            with PeakMemory(pids) as memory:
                for _ in range(runs):
                    begun = time.perf_counter()
                    plan = story.job(number, clinic, laboratory)
                    wall = time.perf_counter() - begun
                    engine = max(_engine_s(exchange, name, plan.job) for name in HOLDERS)
                    found.append(Run(wall, {"engine_s": engine, "overhead_s": wall - engine}))
                    for name in HOLDERS:
                        sent[name] = _sent(exchange, name, plan.job)
                    time.sleep(2 * SPARE_PAUSE_S)  # both nodes load their next engine child
        finally:
            exchange.stop()
    parameters = {"runs": runs, "stages_s": story.elapsed_s}
    return Measured(parameters, tuple(found), memory.peaks_mb, sent)


def _fund(exchange: Exchange) -> None:
    """The demonstration's own money pays for four jobs only."""
    settings = str(exchange.folder / "hub" / "settings.toml")
    company = exchange.participants["company"].id
    key = ("--key", "bench-company", "--settings", settings)
    command("hub", "fund", company, str(FUNDS_MINOR), CURRENCY, *key)


def _engine_s(exchange: Exchange, name: str, job: JobId) -> float:
    with exchange.participants[name].opened.store.reading() as tx:
        return int(tx.remark(engine_remark(job)) or 0) / 1000


def _sent(exchange: Exchange, name: str, job: JobId) -> int:
    with exchange.participants[name].opened.store.reading() as tx:
        return sum(stream.size_bytes for stream in tx.egress(job))
