"""In which language a command speaks, and the options that every command has.

A person's language is `--lang`, else that of UNSEEN_LANG, LC_ALL, LC_MESSAGES or LANG. Help texts
and printed sentences are keys of `api.cli.words`; what a program reads (--json) has no language,
except where a field holds a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from api.cli.output import Exit
from api.cli.words import CHINESE, ENGLISH

SENTENCES: Final[Mapping[str, Mapping[str, str]]] = {"en": ENGLISH, "zh-CN": CHINESE}
LANGUAGE_VARIABLES: Final = ("UNSEEN_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
_COMMON: Final = "unseen.common"


@dataclass(frozen=True)
class Common:
    """What the options that every command has were set to, here or before the command's name."""

    settings: Path | None = None
    as_json: bool = False
    language: str | None = None


def common() -> Common:
    context = click.get_current_context(silent=True)
    return Common() if context is None else Common(**context.meta.get(_COMMON, {}))


def language() -> str:
    """`en` or `zh-CN`."""
    chosen = common().language
    if chosen is not None:
        return chosen
    for name in LANGUAGE_VARIABLES:
        if text := os.environ.get(name):
            return "zh-CN" if text.lower().startswith("zh") else "en"
    return "en"


def say(key: str, /, **facts: object) -> str:
    """The sentence of this key in the reader's language."""
    return SENTENCES[language()][key].format(**facts)


def name_of(kind: str, value: str) -> str:
    """A state, stage or other word of the system as people read it; itself if it has no name."""
    return SENTENCES[language()].get(f"{kind}.{value}", value)


class Command(TyperCommand):
    """A command whose help is a key, and that takes --settings, --json and --lang."""

    own_settings = True

    def __init__(self, *args: Any, params: Sequence[click.Parameter] = (), **rest: Any) -> None:
        added = _options(own_settings=self.own_settings)
        super().__init__(*args, params=[*params, *added], **rest)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _remember_language(ctx, args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        TyperCommand.format_help(_spoken(self), ctx, formatter)


class PlainCommand(Command):
    """A command that opens no participant's folder: --json and --lang only."""

    own_settings = False


class Group(TyperGroup):
    """Commands about one noun. --settings, --json and --lang may come before the command too."""

    def __init__(self, *args: Any, params: Sequence[click.Parameter] = (), **rest: Any) -> None:
        super().__init__(*args, params=[*params, *_options(own_settings=True)], **rest)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _remember_language(ctx, args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        spoken = _spoken(self)
        spoken.commands = {name: _spoken(command) for name, command in self.commands.items()}
        TyperGroup.format_help(spoken, ctx, formatter)


class TopLevel(TyperGroup):
    """The group of all commands: --lang only."""

    def __init__(self, *args: Any, params: Sequence[click.Parameter] = (), **rest: Any) -> None:
        super().__init__(*args, params=[*params, _language_option()], **rest)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _remember_language(ctx, args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        TyperGroup.format_help(_spoken(self), ctx, formatter)


class Commands(typer.Typer):
    """A Typer application whose commands are of the classes above. summary: a key."""

    def __init__(self, summary: str, **rest: Any) -> None:
        super().__init__(cls=Group, help=summary, add_completion=False, **rest)

    def act(
        self, name: str, summary: str, *, plain: bool = False
    ) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Register a command. summary: the key of its help. plain: it opens no folder."""
        return self.command(name, cls=PlainCommand if plain else Command, help=summary)


def _spoken(command: Any) -> Any:
    """The command with its keys replaced by sentences, for one printing."""
    spoken = copy(command)
    spoken.help = name_of("help", command.help or "").replace("{codes}", _exit_codes())
    spoken.params = [_spoken_param(param) for param in command.params]
    return spoken


def _exit_codes() -> str:
    return "\n".join(f"  {code.value}  {say(f'exit.{code.value}')}" for code in Exit)


def _spoken_param(param: Any) -> Any:
    spoken = copy(param)
    # An argument is explained under its metavar: click drops the help that Typer gives it.
    key = param.metavar if isinstance(param, click.Argument) else param.help
    spoken.help = name_of("option", key or "")
    return spoken


def _options(*, own_settings: bool) -> list[click.Parameter]:
    settings = TyperOption(
        param_decls=["--settings"],
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="settings",
        expose_value=False,
        callback=_remember("settings"),
    )
    as_json = TyperOption(
        param_decls=["--json", "as_json"],
        is_flag=True,
        default=False,
        help="json",
        expose_value=False,
        callback=_remember("as_json"),
    )
    tongue = _language_option()
    return [settings, as_json, tongue] if own_settings else [as_json, tongue]


def _language_option() -> click.Parameter:
    return TyperOption(
        param_decls=["--lang"],
        type=click.Choice(list(SENTENCES)),
        help="lang",
        expose_value=False,
        callback=_remember("language"),
    )


def _remember_language(ctx: click.Context, args: Sequence[str]) -> None:
    """Before anything is parsed: `--help` and what is wrong with the arguments are said in it,
    wherever among them it stands."""
    for place, word in enumerate(args):
        value = word.partition("=")[2] if word.startswith("--lang=") else None
        if word == "--lang" and place + 1 < len(args):
            value = args[place + 1]
        if value in SENTENCES:
            ctx.meta.setdefault(_COMMON, {})["language"] = value


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Keeps an option's value for `common`; what is not given does not hide what a group was."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if value:
            ctx.meta.setdefault(_COMMON, {})[name] = value
        return value

    return keep
