"""What a command prints, and the code it exits with.

stdout  the answer: for a person, or with --json one JSON document and nothing else
stderr  progress, warnings, and why the command failed

A command that fails prints no document; its exit code says what kind of failure it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPED_COLUMNS: Final = 200

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4


# By name, so that saying how an error ends a command imports nothing that the command did not.
# The most derived class that is listed decides; an error of no listed family is a defect of
# ours and ends in a traceback.
FAMILIES: Final[Mapping[str, Exit]] = {
    "api.backup.BackupRefused": Exit.FAILED,
    "api.cli.desk.RefusedByHub": Exit.REFUSED,
    "api.client.errors.ApiError": Exit.FAILED,
    "api.client.errors.Refused": Exit.REFUSED,
    "api.client.errors.TryLater": Exit.UNREACHABLE,
    "api.client.errors.Unreachable": Exit.UNREACHABLE,
    "api.database.DatabaseTooNew": Exit.FAILED,
    "api.files.reading.FileRefused": Exit.USAGE,
    "api.folder.FolderBusy": Exit.FAILED,
    "api.http.errors.HttpError": Exit.FAILED,
    "api.settings.SettingsRefused": Exit.USAGE,
    "crypto.errors.CryptoError": Exit.FAILED,
    "exchange.errors.ExchangeError": Exit.FAILED,
    "exchange.errors.HubUnreachable": Exit.UNREACHABLE,
    "exchange.errors.NotYours": Exit.REFUSED,
    "exchange.errors.PlanRefused": Exit.REFUSED,
    "exchange.errors.TermsRefused": Exit.REFUSED,
    "exchange.links.errors.LinkError": Exit.FAILED,
    "exchange.links.errors.Unreachable": Exit.UNREACHABLE,
    "ledger.errors.ChainUnreachable": Exit.UNREACHABLE,
    "ledger.errors.FolderRefused": Exit.USAGE,
    "ledger.errors.LedgerError": Exit.FAILED,
    "ledger.errors.NotCovered": Exit.UNREACHABLE,
    "ledger.errors.QuorumMissing": Exit.UNREACHABLE,
    "ledger.errors.SourceUnreachable": Exit.UNREACHABLE,
    "ledger.errors.TileMissing": Exit.UNREACHABLE,
    "ledger.errors.WitnessUnreachable": Exit.UNREACHABLE,
    "pricing.errors.InsufficientFunds": Exit.REFUSED,
    "pricing.errors.PricingError": Exit.FAILED,
    "registry.errors.NotTrusted": Exit.REFUSED,
    "registry.errors.RegistryError": Exit.FAILED,
    "registry.errors.SourceUnreachable": Exit.UNREACHABLE,
    "builtins.OSError": Exit.FAILED,
    "builtins.TimeoutError": Exit.UNREACHABLE,
    "builtins.ConnectionError": Exit.UNREACHABLE,
}


def exit_code(error: BaseException) -> Exit | None:
    """The code that an error ends a command with; None for one of no family of ours."""
    for kind in type(error).__mro__:
        found = FAMILIES.get(f"{kind.__module__}.{kind.__qualname__}")
        if found is not None:
            return found
    return None


def answer(document: Mapping[str, Any], text: RenderableType, *, as_json: bool) -> None:
    """Print a command's answer on stdout: the document, or what a person reads instead."""
    if as_json:
        print_json(document)
    else:
        show(text, on=person())


def show(text: RenderableType, *, on: Console) -> None:
    """Sentences are left in one piece, to be copied; tables and trees are fitted to the screen."""
    from rich.text import Text

    on.print(text, markup=False, soft_wrap=isinstance(text, str | Text))


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on one line of stdout, flushed: a waiting program reads it at once."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def person() -> Console:
    """Where a person reads the answer. Call it when there is something to print."""
    from rich.console import Console

    # Where nobody looks, wide enough that an identifier stays in one piece.
    width = None if sys.stdout.isatty() else PIPED_COLUMNS
    return Console(highlight=False, soft_wrap=True, width=width)


def progress() -> Console:
    """Where progress, warnings and failures go: stderr, so that stdout stays the answer's."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say_failure(error: BaseException) -> None:
    progress().print(f"exchange: {error}", style="red", markup=False)
