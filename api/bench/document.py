"""Writes docs/benchmarks.md from the documents in docs/benchmarks, so that no figure is retyped.

    python -m api.bench.document

A figure for which there is an aim stands beside it, met or missed. Of `join` and `he` there are
several documents, for other protocols, models and sizes; the other workloads have one each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
            return [self.words, _number(value), f"at most {self.at_most:,.4g}", _met(value, self)]
        return [self.words, _number(value), f"at least {self.at_least:,g}", _met(value, self)]


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
    "sql": (),
    "he": (),
    "lookup": (),
    "budget": (),
    "anchor": (),
    "ledger": (
        Aim("unsigned_per_second", "unsigned entries/s, each with its receipt", at_least=20_000),
        Aim("signed_per_second", "signed entries/s, verified in one process", at_least=5_000),
        Aim("receipt_p99_ms", "statement to receipt, p99, ms", at_most=250),
    ),
}
# Of a join or lookup of one size: by workload and by what was asked.
SIZED_AIMS: Final[Mapping[tuple[object, ...], Sequence[Aim]]] = {
    ("join", "hidden", 10**6, 16): (
        Aim("ratio", "hidden, 10^6 rows, 16 groups: revealed's seconds over its own", at_least=3.0),
    ),
    ("join", "hidden", 10**7, 1): (
        Aim("median_s", "hidden, 10^7 rows, COUNT and SUM, s", at_most=30.0),
        Aim("peak_party_mb", "hidden, 10^7 rows: most memory of a party, MB", at_most=2**31 / 1e6),
    ),
    ("ledger", 10**6): (Aim("audit_s", "the whole log audited, s", at_most=60),),
    ("anchor", 10_000): (
        Aim("gas_per_event", "gas for each of 10,000 events of an anchor", at_most=10),
    ),
    ("lookup", 10**6, 1000): (
        Aim("median_s", "1,000 keys of 10^6 records, online, s", at_most=1.0),
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
    "join": """\
COUNT and SUM by group of one holder, over rows of which both have half in common. Each party is a
process with an engine in a child process; they talk over TLS links on loopback. Seconds run from
the making of the first token to the last share of the answer; engines have loaded before (`start`).
Hidden runs in turn with revealed (RR22, then CHEETAH), pair by pair, and *ratio* is revealed's
seconds over its own. Memory is a party's process and its engine together. Every answer equals the
pooled rows' exactly.""",
    "sql": """\
Queries of growing difficulty by the whole of the planner, three processes and their engines over
TLS links on loopback, beside DuckDB on both holders' rows in one place. Seconds run from the text
to the opened answer; engines have loaded before (`start`). *Foretold* is what `explain` says
before, for all rows in common. Every answer equals DuckDB's: integers
exactly, what DuckDB computes in floating point to nine digits. The count and median with noise are
within what the noise can move them, but for one run in 10^12.""",
    "he": """\
Rows scored by a model whose owner sees none of them, owner and consumer a process each. Seconds
run from both engines ready to the consumer's scores; what the steps take of one processor without
a network stands beside. Every score was compared with the plain one; the worst error is in units
of the last decimal that is released.""",
    "lookup": """\
Keys looked up in a table of encrypted records, holder and consumer a process each; half of the keys
are in it. The table is made and downloaded once; seconds are those of every lookup after. Every
record was compared with the one that was sealed.""",
    "budget": """\
64 submitters in four processes reserve epsilon on one hub database until none is left. A
reservation locks two products' accounts in order, charges both and commits durably. Exactly as
many are granted as fit, and the accounts show exactly that.""",
    "ledger": """\
Statements into the log and receipts out of it, in one process with two threads, as a hub has them:
one takes statements in, 1,000 unsigned or 500 signed per transaction; the other gives them
indices, compares the grown tree with the last head, signs, and writes every entry's receipt. Both
commits wait for the disk (SQLite WAL with `synchronous=FULL`, PostgreSQL with `fsync`). Python does
not look for garbage among what the benchmark itself holds, nor, in a hub, among what start-up made.
*Unsigned*
statements are put into canonical form; *signed* ones are parsed, compared with their canonical
form and verified, all on one core. A batch's latency runs from its first statement to its last
receipt, at the rate beside it. *Processor* is this process's own time, which other programs on the
machine do not stretch as they stretch seconds. No HTTP, and none of what a hub does about an act
beside logging it: `api` measures that. The root equals one that is computed from the entries
alone, and receipts of every batch were verified. The audit reads the signed log's published files:
every tile, entry, signature and chain, by as many processes as there are cores.

On SQLite Python is the limit: a million divided by the *processor* microseconds of an entry,
receipts included, is about the rate, whatever the disk does. On PostgreSQL the server takes its
share of the same cores.""",
    "anchor": """\
Heads of a growing log sent by the hub's own outbox to anvil, in a process of its own, which mines
each transaction at once; one block is final. Seconds run from the head that has its quorum to the
anchor that is final: what a public chain adds is its block time and its own rule. The contract
checks every consistency proof, so gas grows with the number of its hashes, which grows with the
logarithm of the log's size.""",
}
TITLES: Final = {
    "start": "Start",
    "deal": "A job beside its engine",
    "api": "The API beside a bare application",
    "join": "Joins of two holders",
    "sql": "SQL beside DuckDB on pooled rows",
    "he": "Scoring of encrypted rows",
    "lookup": "Private lookup",
    "budget": "Privacy budgets under load",
    "ledger": "The ledger's write path",
    "anchor": "Anchoring",
}
MANY_WITH_FEW: Final = """\
Many rows with few, by the revealed join: the first job masks the many once, every later one finds
them masked; *seconds* are a later job's, and its rival is RR22."""
SQL_HEAD: Final = (
    "",
    "what is new",
    "join",
    "seconds",
    "foretold",
    "times DuckDB",
    "bytes sent by all",
)
PARTIES: Final = ("holder A", "holder B", "helper")


def page(documents: Mapping[str, Document]) -> str:
    """documents: by file, as `exchange bench` saved them."""
    parts = [
        "# Benchmarks",
        "Written by `python -m api.bench.document` from the documents in `docs/benchmarks`. Each "
        "says which command made it, on how many cores, and how busy those were. Figures are "
        "medians over the runs.",
    ]
    for workload, title in TITLES.items():
        found = [one for one in documents.values() if one["workload"] == workload]
        if found:
            parts += [f"## {title}", ABOUT[workload], *_chapter(workload, sorted(found, key=_size))]
    return "\n\n".join(parts) + "\n"


def load(folder: Path) -> dict[str, Document]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def _chapter(workload: str, documents: Sequence[Document]) -> Iterator[str]:
    yield "\n\n".join(map(_made, documents))
    if any(_busy(document) for document in documents):
        yield (
            "Other programs kept more than every core busy meanwhile: on an idle machine, seconds "
            "are shorter and rates higher."
        )
    rows = [row for document in documents for row in _aim_rows(workload, document)]
    if rows:
        yield _table(["figure", "measured", "aim", ""], rows)
    if workload == "join":
        alike = [document for document in documents if "against" not in document["parameters"]]
        few = [document for document in documents if "against" in document["parameters"]]
        if alike:
            yield _join_table(alike)
        if few:
            yield MANY_WITH_FEW
            yield _few_table(few)
        return
    if workload == "he":
        yield _he_table(documents)
        return
    if workload == "ledger":
        yield _ledger_table(documents)
        yield _proof_table(documents)
        return
    (document,) = documents
    yield from _FIGURES[workload](document)
    yield f"Runs: {', '.join(_number(seconds) for seconds in document['runs'])} s."
    yield _resources(document)


def _made(document: Document) -> str:
    machine = document["machine"]
    return (
        f"`{document['command']}` on {machine['cores']} cores, "
        f"load {machine['load_before']:.1f} before and {machine['load_after']:.1f} after."
    )


def _busy(document: Document) -> bool:
    machine = document["machine"]
    found: bool = machine["load_before"] > machine["cores"]
    return found


def _size(document: Document) -> tuple[str, int, int]:
    """What documents of one workload are ordered by."""
    asked = document["parameters"]
    kind = asked.get("protocol") or asked.get("model") or asked.get("database") or ""
    size = asked.get("rows") or asked.get("entries") or 0
    return str(kind), int(size), int(asked.get("groups", 0))


def _aim_rows(workload: str, document: Document) -> Iterator[list[str]]:
    asked = document["parameters"]
    names = {
        "join": ("protocol", "rows", "against", "groups"),
        "lookup": ("rows", "keys"),
        "ledger": ("entries",),
        "anchor": ("entries",),
    }
    size = (workload, *(asked[name] for name in names.get(workload, ()) if name in asked))
    known = {**document, "peak_party_mb": max(document["peak_rss_mb"].values(), default=0.0)}
    for aim in (*AIMS.get(workload, ()), *SIZED_AIMS.get(size, ())):
        row = aim.row(known)
        if row is not None and workload == "ledger":
            where = DATABASES[asked["database"]]
            yield [f"{where}, {asked['entries']:,} entries: {row[0]}", *row[1:]]
        elif row is not None:
            yield row


def _start_figures(document: Document) -> Iterator[str]:
    yield f"The first start took {_number(document['first_start_s'])} s."


def _deal_figures(document: Document) -> Iterator[str]:
    stages = document["parameters"]["stages_s"]
    rows = [[name, _number(seconds)] for name, seconds in stages.items()]
    rows += [
        ["job", _number(document["median_s"])],
        ["its engine", _number(document["engine_s"])],
    ]
    yield _table(["stage", "seconds"], rows)


def _api_figures(document: Document) -> Iterator[str]:
    yield _api_table(document)
    if document["parameters"]["postgresql"] != "measured":
        yield f"PostgreSQL: {document['parameters']['postgresql']}."


def _sql_figures(document: Document) -> Iterator[str]:
    asked = document["parameters"]
    rows = [
        [
            str(number),
            query["new"],
            query["join"],
            _number(document[f"q{number}_s"]),
            _number(document[f"q{number}_expected"]),
            f"{_number(document[f'q{number}_slowdown'])}",
            f"{document[f'q{number}_bytes']:,.0f}",
        ]
        for number, query in enumerate(asked["queries"], 1)
    ]
    yield (
        f"{asked['rows']:,} rows of each holder, half of them in common. All queries together: "
        f"{_number(document['median_s'])} s; start of the engines before each: "
        f"{_number(document['start_s'])} s."
    )
    yield _table(SQL_HEAD, rows)
    yield "\n".join(f"{n}. `{query['sql']}`" for n, query in enumerate(asked["queries"], 1))


def _lookup_figures(document: Document) -> Iterator[str]:
    asked = document["parameters"]
    yield (
        f"{asked['keys']:,} keys of {asked['rows']:,} records of {asked['record_bytes']} bytes; "
        f"the table has {asked['table_bytes']:,} bytes."
    )
    steps = {
        "a lookup, online": "median_s",
        "holder: evaluate": "evaluate_s",
        "consumer: verify the proof": "verify_s",
        "consumer: open records": "open_s",
        "once: make the table": "table_s",
        "once: download it": "download_s",
    }
    yield _table(["step", "seconds"], [[k, _number(document[v])] for k, v in steps.items()])


def _budget_figures(document: Document) -> Iterator[str]:
    rows = [
        [
            title,
            *(_number(document[f"{name}_{one}"]) for name in ("per_second", "p50_ms", "p99_ms")),
        ]
        for one, title in DATABASES.items()
        if f"per_second_{one}" in document
    ]
    yield f"{document['parameters']['reservations']:,} reservations fit."
    yield _table(["database", "reservations/s", "p50 ms", "p99 ms"], rows)
    if document["parameters"]["postgresql"] != "measured":
        yield f"PostgreSQL: {document['parameters']['postgresql']}."


def _anchor_figures(document: Document) -> Iterator[str]:
    asked = document["parameters"]
    yield (
        f"{asked['entries']:,} events between one anchor and the next, "
        f"{asked['largest']:,} in all; {asked['client']}."
    )
    rows = [
        ["an anchor, gas", _number(document["gas_per_anchor"])],
        ["of each event, gas", _number(document["gas_per_event"])],
        ["the first anchor, gas", _number(asked["first_gas"])],
        ["the contract's deployment, gas", _number(asked["deployment_gas"])],
        ["quorum to final, s", _number(document["median_s"])],
    ]
    yield _table(["figure", "measured"], rows)


_FIGURES: Final[Mapping[str, Callable[[Document], Iterator[str]]]] = {
    "start": _start_figures,
    "deal": _deal_figures,
    "api": _api_figures,
    "sql": _sql_figures,
    "lookup": _lookup_figures,
    "budget": _budget_figures,
    "anchor": _anchor_figures,
}


def _join_table(documents: Sequence[Document]) -> str:
    head = ["join", "rows of each", "groups", "seconds", "revealed, s", "ratio", "start, s"]
    head += [f"{name}: MB sent, peak MB" for name in PARTIES]
    rows = []
    for document in documents:
        asked, beside = document["parameters"], "ratio" in document
        size = f"{asked['rows']:,}"
        if "against" in asked:
            size = (
                f"{size} and {asked['against']:,}, masked before in {document['offline_s']:.3g} s"
            )
        row = [asked["protocol"], size, str(asked["groups"])]
        row.append(_number(document["median_s"]))
        row.append(_number(document["rival_median_s"]) if beside else "")
        row.append(_number(document["ratio"]) if beside else "")
        row.append(_number(document["start_s"]))
        for name in PARTIES:
            sent, peak = document["bytes_sent"].get(name), document["peak_rss_mb"].get(name)
            row.append("" if sent is None else f"{_number(sent / 1e6)}, {_number(peak)}")
        rows.append(row)
    return _table(head, rows)


def _few_table(documents: Sequence[Document]) -> str:
    head = [
        "rows of A",
        "of B",
        "groups",
        "seconds",
        "RR22, s",
        "ratio",
        "first job, s",
        "masking, s",
    ]
    head += [f"{name}: MB sent, once before, peak MB" for name in PARTIES[:2]]
    rows = []
    for document in documents:
        asked, sent = document["parameters"], document["bytes_sent"]
        row = [f"{asked['rows']:,}", f"{asked['against']:,}", str(asked["groups"])]
        figures = ("median_s", "rival_median_s", "ratio", "first_s", "offline_s")
        row += [_number(document[name]) for name in figures]
        for name in PARTIES[:2]:
            moved = (sent[name], max(0, sent[f"{name}, offline"]))
            peak = _number(document["peak_rss_mb"][name])
            row.append(", ".join([*(_number(size / 1e6) for size in moved), peak]))
        rows.append(row)
    return _table(head, rows)


def _he_table(documents: Sequence[Document]) -> str:
    head = ["model", "parameters", "rows", "features", "seconds", "rows/s", "worst error"]
    head += ["keys, s", "encrypt, s", "compute, s", "decrypt, s"]
    head += [f"{name}: MB sent, peak MB" for name in ("holder", "consumer")]
    rows = []
    for document in documents:
        asked = document["parameters"]
        row = [
            asked["model"],
            f"{asked['parameters']}, {asked['security_bits']} bits",
            f"{asked['rows']:,}",
            str(asked["features"]),
            _number(document["median_s"]),
            f"{asked['rows_per_second']:,}",
            _number(asked["worst_error_units"]),
        ]
        row += [
            _number(document[f"{step}_s"]) for step in ("keys", "encrypt", "compute", "decrypt")
        ]
        for name in ("holder", "consumer"):
            peak = document["peak_rss_mb"][f"{name}, engine"]
            row.append(f"{_number(document['bytes_sent'][name] / 1e6)}, {_number(peak)}")
        rows.append(row)
    return _table(head, rows)


def _ledger_table(documents: Sequence[Document]) -> str:
    head = ["database", "entries", "load", "entries/s", "p50 ms", "p99 ms", "processor, us"]
    head += ["bytes of an entry", "stored", "peak MB"]
    rows = []
    for document in documents:
        asked = document["parameters"]
        for kind in ("unsigned", "signed"):
            row = [DATABASES[asked["database"]], f"{asked['entries']:,}", kind]
            figures = ("per_second", "batch_p50_ms", "batch_p99_ms", "processor_us")
            row += [_number(document[f"{kind}_{name}"]) for name in figures]
            row += [f"{asked[f'{kind}_entry_bytes']:,}"]
            row += [_number(document[f"{kind}_stored_bytes"])]
            row += [_number(document["peak_rss_mb"]["log"])]
            rows.append(row)
    return _table(head, rows)


def _proof_table(documents: Sequence[Document]) -> str:
    head = ["database", "entries", "inclusion proof read and built, us", "verified, us", "audit, s"]
    rows = [
        [
            DATABASES[document["parameters"]["database"]],
            f"{document['parameters']['entries']:,}",
            _number(document["proof_build_us"]),
            _number(document["proof_verify_us"]),
            _number(document["audit_s"]),
        ]
        for document in documents
    ]
    return _table(head, rows)


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


if __name__ == "__main__":
    PAGE.write_text(page(load(FOLDER)), "utf-8")
