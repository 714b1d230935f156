"""Writes docs/benchmarks.md from the documents in docs/benchmarks, so that no figure is retyped.

    python -m api.bench.document

A figure for which the plan states an aim stands beside it, met or missed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "docs" / "benchmarks"
PAGE: Final = FOLDER.parent / "benchmarks.md"
Document = Mapping[str, Any]


@dataclass(frozen=True)
class Aim:
    """figure: its name in the document. at_most, at_least: one of them, in the figure's unit."""

    figure: str
    words: str
    at_most: float | None = None
    at_least: float | None = None

    def row(self, document: Document) -> list[str] | None:
        """None where the document lacks the figure, such as those of an absent database."""
        value = document.get(self.figure)
        if value is None:
            return None
        if self.at_most is not None:
            return [self.words, _number(value), f"at most {self.at_most:g}", _met(value, self)]
        return [self.words, _number(value), f"at least {self.at_least:g}", _met(value, self)]


DATABASES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
ASKED: Final = {
    "search": "unsigned catalogue search",
    "read": "signed read",
    "submit": "signed job submission",
}
RATIO_AIMS: Final = {"search": 0.8, "read": 0.5, "submit": 0.5}
AIMS: Final[Mapping[str, Sequence[Aim]]] = {
    "start": (
        Aim("median_s", "`exchange hub` to ready, s", at_most=2.0),
        Aim("help_s", "`exchange --help`, s", at_most=0.5),
    ),
    "deal": (Aim("overhead_s", "job wall time beside the engine, s", at_most=1.5),),
    "api": tuple(
        Aim(f"ratio_{asked}_{database}", f"{words}, {title}: share of the bare rate", at_least=aim)
        for asked, words in ASKED.items()
        for database, title in DATABASES.items()
        for aim in (RATIO_AIMS[asked],)
    ),
}
ABOUT: Final[Mapping[str, str]] = {
    "start": """\
From starting the process to the line that says it is ready, with its database made and Python's
compiled modules cached, as they are from the second start on. `first_start_s` is the start that
makes both.""",
    "deal": """\
One job of the demonstration's deal after another, between real processes: wall time from the
consumer's submission to its opened answer, and the longer of both holders' engine times; the
engine's clock starts when its child is ready. Hub, five nodes, a witness and two engines share the
machine's cores.""",
    "api": """\
A hub process with 10,000 listed products, and a bare FastAPI + SQLModel application with the same
catalogue in a process of its own, asked in turn by one client process over loopback. Both run
uvicorn in one process; on SQLite both write with WAL and `synchronous=FULL`. Search returns the
same products from both. A signed read is `GET /v1/chain`, and the rival reads one row; beside
reading, the hub verifies the signature and remembers the nonce, durably, for all its processes. A
submission is `POST /v1/statements` with `job.submitted`, and the rival writes the same body into
one row; the hub verifies the request's, the statement's and the plan's signatures, applies the
rules, reserves runs and money, moves the price into escrow, queues two ledger entries, seals an
opening to the regulator and delivers to three inboxes, in 47 SQL statements and one commit.

Where an aim is missed, profiles say: a signed read has two transactions more than the rival's, for
the caller's key and for the nonce, whose commit waits for the disk; a submission spends most of
its time in SQLAlchemy, and on SQLite one writer waits for the other.""",
}
TITLES: Final = {
    "start": "Start",
    "deal": "A job beside its engine",
    "api": "The API beside a bare application",
}


def page(documents: Mapping[str, Document]) -> str:
    """documents: by workload, as `exchange bench` saved them."""
    parts = [
        "# Benchmarks",
        "Written by `python -m api.bench.document` from the documents in `docs/benchmarks`. Each "
        "says which command made it, on how many cores, and how busy those were. Figures are "
        "medians over the runs.",
    ]
    for workload, document in sorted(documents.items(), key=lambda found: _place(found[0])):
        parts += _chapter(workload, document)
    return "\n\n".join(parts) + "\n"


def load(folder: Path) -> dict[str, Document]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def _chapter(workload: str, document: Document) -> Iterator[str]:
    machine = document["machine"]
    yield f"## {TITLES[workload]}"
    yield ABOUT[workload]
    yield (
        f"`{document['command']}` on {machine['cores']} cores, "
        f"load {machine['load_before']:.1f} before and {machine['load_after']:.1f} after."
    )
    if machine["load_before"] > machine["cores"]:
        yield (
            "Other programs kept more than every core busy meanwhile: on an idle machine, seconds "
            "are shorter and rates higher."
        )
    rows = [row for aim in AIMS[workload] if (row := aim.row(document)) is not None]
    yield _table(["figure", "measured", "aim", ""], rows)
    if workload == "api":
        yield _api_table(document)
        if document["parameters"]["postgresql"] != "measured":
            yield f"PostgreSQL: {document['parameters']['postgresql']}."
    if workload == "deal":
        stages = document["parameters"]["stages_s"]
        rows = [[name, _number(seconds)] for name, seconds in stages.items()]
        rows += [
            ["job", _number(document["median_s"])],
            ["its engine", _number(document["engine_s"])],
        ]
        yield _table(["stage", "seconds"], rows)
    if workload == "start":
        yield f"The first start took {_number(document['first_start_s'])} s."
    yield f"Runs: {', '.join(_number(seconds) for seconds in document['runs'])} s."
    yield _resources(document)


def _api_table(document: Document) -> str:
    rows = []
    for asked, words in ASKED.items():
        for database, title in DATABASES.items():
            if f"rps_{asked}_{database}" not in document:
                continue
            for who, prefix in (("hub", ""), ("bare", "rival_")):
                figures = [
                    _number(document[f"{prefix}{name}_{asked}_{database}"])
                    for name in ("rps", "p50_ms", "p99_ms")
                ]
                rows.append([words, title, who, *figures])
    return _table(["asked", "database", "who", "requests/s", "p50 ms", "p99 ms"], rows)


def _resources(document: Document) -> str:
    sent = document["bytes_sent"]
    rows = [
        [name, _number(peak), f"{sent[name]:,}" if name in sent else ""]
        for name, peak in document["peak_rss_mb"].items()
    ]
    return _table(["process", "peak memory, MB", "bytes sent"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _met(value: float, aim: Aim) -> str:
    if aim.at_most is not None:
        return "met" if value <= aim.at_most else "missed"
    return "met" if aim.at_least is not None and value >= aim.at_least else "missed"


def _number(value: float) -> str:
    """Three digits that count, and no more places than that."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _place(workload: str) -> int:
    return list(TITLES).index(workload)


if __name__ == "__main__":
    PAGE.write_text(page(load(FOLDER)), "utf-8")
