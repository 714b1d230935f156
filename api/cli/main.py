"""`exchange`: the names of all commands, and nothing that they need.

Every command is imported when it is called, so that `exchange --help` answers at once and one
command's library never slows or breaks another.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click
import typer

from api.cli.output import exit_code, say_failure
from api.cli.speech import TopLevel, say

# By name: `module:name` of a Typer application, or of one function that is the command. What each
# does is said under `help.<name>` in api.cli.words.
COMMANDS: Final[Mapping[str, str]] = {
    "init": "api.cli.init:app",
    "demo": "api.cli.demo:demo",
    "hub": "api.cli.hub:app",
    "node": "api.cli.node:app",
    "witness": "api.cli.witness:app",
    "chain": "api.cli.chain:app",
    "party": "api.cli.party:app",
    "product": "api.cli.product:app",
    "negotiation": "api.cli.negotiation:app",
    "job": "api.cli.job:app",
    "audit": "api.cli.audit:app",
    "bench": "api.cli.bench:app",
    "selfcheck": "api.cli.selfcheck:selfcheck",
}


class _Commands(TopLevel):
    """Lists from the table; imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return click.Command(cmd_name, help=say(f"help.{cmd_name}"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, _command, rest = super().resolve_command(ctx, args)
        return name, None if name is None else _load(name), rest


def _load(name: str) -> click.Command:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command()(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(cls=_Commands, help="exchange", no_args_is_help=True, add_completion=False)


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
