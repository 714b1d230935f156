"""`exchange`: the names of all commands, and nothing that they need.

Every command is imported when it is called, so that `exchange --help` answers at once and one
command's library never slows or breaks another.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final

import click
import typer
from typer.core import TyperGroup

from api.cli.output import MEANINGS, exit_code, say_failure


@dataclass(frozen=True)
class Entry:
    """target: `module:name` of a Typer application, or of one function that is the command."""

    target: str
    summary: str


COMMANDS: Final[Mapping[str, Entry]] = {
    "init": Entry("api.cli.init:app", "Make a participant: its keys, folder and settings."),
    "demo": Entry("api.cli.demo:demo", "Run one whole deal between processes on this machine."),
    "hub": Entry("api.cli.hub:app", "Run the hub, or act as its operator."),
    "node": Entry("api.cli.node:app", "Run a participant's node; its holder's desk."),
    "witness": Entry("api.cli.witness:app", "Run a witness of the ledger."),
    "party": Entry("api.cli.party:app", "Who takes part, and under which keys."),
    "product": Entry("api.cli.product:app", "List data products, and find them."),
    "negotiation": Entry("api.cli.negotiation:app", "Offer, counter, accept and sign terms."),
    "job": Entry("api.cli.job:app", "Ask a question of data; watch, cancel, read the result."),
    "audit": Entry("api.cli.audit:app", "Verify a deal offline, from public keys alone."),
    "bench": Entry("api.cli.bench:bench", "Measure."),
}


class _Commands(TyperGroup):
    """Lists from the table; imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        return None if entry is None else click.Command(cmd_name, help=entry.summary)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, _command, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(name), rest


def _load(name: str) -> click.Command:
    module, _, attribute = COMMANDS[name].target.partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command()(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


_CODES: Final = "\n".join(f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    cls=_Commands,
    help=(
        "An exchange where data is used and never seen (可用不可见).\n\n"
        "Answers go to stdout, with --json as one JSON document; progress and failures go to "
        f"stderr.\n\n\b\nExit codes:\n{_CODES}"
    ),
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def _exchange() -> None: ...


def main() -> None:
    """Run one command and exit with the code of what happened; see `api.cli.output`."""
    try:
        typer.main.get_command(app)(prog_name="exchange")
    except Exception as error:  # not silenced: it decides the exit code, or is raised again
        code = exit_code(error)
        if code is None:
            raise
        say_failure(error)
        sys.exit(code)
