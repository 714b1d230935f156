"""`exchange bench`: measure, print figures, judge nothing."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.output import JsonOption, answer

if TYPE_CHECKING:
    from api.bench.harness import Measured

app = typer.Typer(no_args_is_help=True, add_completion=False)

RunsOption = Annotated[int, typer.Option(min=1, max=40, help="How often; the median counts.")]
SaveOption = Annotated[Path | None, typer.Option(help="Also write the document into this folder.")]


class Protocol(StrEnum):
    HIDDEN = "hidden"
    REVEALED = "revealed"
    SUM = "sum"


class Family(StrEnum):
    LINEAR = "linear"
    LOGISTIC = "logistic"
    SQUARE_NETWORK = "square_network"


class Database(StrEnum):
    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


@app.command()
def deal(runs: RunsOption = 5, save: SaveOption = None, as_json: JsonOption = False) -> None:
    """A job of a deal beside its engine, between real processes."""
    from api.bench.deal import deal

    _report("deal", lambda: deal(runs), save, as_json)


@app.command()
def api(runs: RunsOption = 5, save: SaveOption = None, as_json: JsonOption = False) -> None:
    """Requests to the hub beside a bare application."""
    from api.bench.api import api

    _report("api", lambda: api(runs), save, as_json)


@app.command()
def start(runs: RunsOption = 5, save: SaveOption = None, as_json: JsonOption = False) -> None:
    """How long until a hub is ready, and help is shown."""
    from api.bench.start import start

    _report("start", lambda: start(runs), save, as_json)


@app.command()
def join(
    rows: Annotated[int, typer.Option(min=100, help="Of each holder; half in common.")] = 100_000,
    groups: Annotated[int, typer.Option(min=1, max=4096, help="Groups of holder A.")] = 16,
    protocol: Annotated[Protocol, typer.Option(help="How rows meet.")] = Protocol.HIDDEN,
    against: Annotated[
        int | None, typer.Option(min=2, help="Rows of holder B, in a revealed join with few.")
    ] = None,
    rival: Annotated[bool, typer.Option(help="Run revealed beside hidden.")] = True,
    runs: RunsOption = 3,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """COUNT and SUM by group over rows in common; hidden runs beside revealed, in turn."""
    from api.bench.join import join, unbalanced

    if against is not None:
        if protocol is not Protocol.REVEALED or against > rows:
            raise typer.BadParameter("goes with --protocol revealed and fewer than --rows")
        few = against
        _report("join", lambda: unbalanced(runs, rows, few, groups), save, as_json)
        return
    _report("join", lambda: join(runs, protocol.value, rows, groups, rival=rival), save, as_json)


@app.command()
def he(
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows scored.")] = 16_384,
    features: Annotated[int, typer.Option(min=1, max=200, help="Of the model.")] = 30,
    model: Annotated[Family, typer.Option(help="What is computed on ciphertexts.")] = (
        Family.LOGISTIC
    ),
    runs: RunsOption = 3,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encrypted rows scored by an owner's model, between two processes."""
    from api.bench.he import he

    _report("he", lambda: he(runs, rows, features, model.value), save, as_json)


@app.command()
def lookup(
    rows: Annotated[int, typer.Option(min=1, max=2**26, help="Records.")] = 1_000_000,
    keys: Annotated[int, typer.Option(min=1, max=65_535, help="Looked up at once.")] = 1000,
    runs: RunsOption = 5,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keys looked up privately in an encrypted table, between two processes."""
    from api.bench.lookup import lookup

    _report("lookup", lambda: lookup(runs, rows, keys), save, as_json)


@app.command()
def sql(
    rows: Annotated[int, typer.Option(min=1000, help="Of each holder; half in common.")] = 100_000,
    runs: RunsOption = 3,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queries of growing difficulty, beside DuckDB on the pooled rows and checked by it."""
    from api.bench.sql import sql

    _report("sql", lambda: sql(runs, rows), save, as_json)


@app.command()
def budget(
    reservations: Annotated[int, typer.Option(min=64, help="That fit into the budget.")] = 2000,
    runs: RunsOption = 3,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Epsilon reserved by 64 submitters at once, until none is left."""
    from api.bench.budget import budget

    _report("budget", lambda: budget(runs, reservations), save, as_json)


@app.command()
def ledger(
    entries: Annotated[int, typer.Option(min=1000, help="Of each load.")] = 100_000,
    database: Annotated[Database, typer.Option(help="Where the log is kept.")] = Database.SQLITE,
    runs: RunsOption = 3,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Statements into signed heads and receipts, unsigned and signed."""
    from api.bench.ledger import ledger

    _report("ledger", lambda: ledger(runs, entries, database.value), save, as_json)


@app.command()
def anchor(
    entries: Annotated[int, typer.Option(min=1, help="Between one anchor and the next.")] = 10_000,
    runs: RunsOption = 10,
    save: SaveOption = None,
    as_json: JsonOption = False,
) -> None:
    """Heads of a growing log anchored on anvil: gas, and seconds until one is final."""
    from api.bench.anchor import anchor

    _report("anchor", lambda: anchor(runs, entries), save, as_json)


def _report(name: str, measure: Callable[[], Measured], save: Path | None, as_json: bool) -> None:
    from api.bench import harness

    # Ended in good order, a workload stops the processes that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    found = harness.document(name, measure)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        (save / f"{_file_name(found)}.json").write_text(json.dumps(found, indent=2) + "\n")
    answer(found, json.dumps(found, indent=2), as_json=as_json)


def _file_name(document: dict[str, object]) -> str:
    """The workload; where there is more than one to keep, also what was asked of it."""
    workload, asked = str(document["workload"]), document["parameters"]
    parts = {
        "join": ("protocol", "rows", "against", "groups"),
        "he": ("model",),
        "ledger": ("database", "entries"),
    }
    if not isinstance(asked, dict):
        raise TypeError("a document has parameters")
    named = [str(asked[part]) for part in parts.get(workload, ()) if part in asked]
    return "-".join([workload, *named])
