"""`exchange witness`: run a witness; make its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from api.cli.output import JsonOption, answer, print_json

DEFAULT_LISTEN: Final = "127.0.0.1:8402"

app = typer.Typer(
    help="Run a witness of the ledger.\n\n"
    "Without a command, runs the witness until SIGTERM. When it answers requests it prints one "
    "line of JSON on stdout: ready, url, vkeys. Logs go to stderr.",
    invoke_without_command=True,
)


@app.callback()
def run(
    context: typer.Context,
    settings: Annotated[
        Path | None,
        typer.Option("--settings", help="Settings file; else the one that UNSEEN_SETTINGS names."),
    ] = None,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from api.settings import WitnessSettings
    from api.wiring.witness import run_witness

    run_witness(WitnessSettings.load(settings), announce=print_json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where its keys and database will be.")],
    name: Annotated[str, typer.Option(help="What it signs under: witness.example")],
    log: Annotated[
        list[str], typer.Option(help="Verifier key of a log that it serves; may be repeated.")
    ],
    listen: Annotated[str, typer.Option(help="host:port for the logs.")] = DEFAULT_LISTEN,
    as_json: JsonOption = False,
) -> None:
    """Make a witness's folder: its keys, its database and a settings file."""
    from api.operator import create_witness

    made = create_witness(folder, name, log, listen=listen)
    answer(
        {"vkeys": [str(key) for key in made.keys], "settings": str(made.settings)},
        f"Ed25519 key    {made.keys[0]}\n"
        f"ML-DSA-44 key  {made.keys[1]}\n\n"
        "Give the logs' operators both keys and your address. In a policy they are two witness\n"
        "lines, tied together in a group so that you count once. Start the witness with\n"
        f"  exchange witness --settings {made.settings}",
        as_json=as_json,
    )
