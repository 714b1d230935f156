"""What commands say exists in both languages, and every command explains itself in both."""

from __future__ import annotations

import ast
import re
import string
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
import typer

import api.cli
from api.cli.main import main
from api.cli.speech import Command, Group, PlainCommand
from api.cli.words import CHINESE, ENGLISH
from api.files.product import EXPLAINED
from api.settings import NodeSettings
from exchange.jobs import JobState
from exchange.node.model import Decision
from exchange.query.forecast import Spent, Step
from exchange.query.plan import WITH_CONSUMER
from exchange.results import Found, Missing, Remark
from exchange.terms.negotiation import State
from registry.rule import Join

CLI = Path(api.cli.__file__).parent
OURS = ("init", "node", "party", "product", "negotiation", "job", "audit")
HAN = re.compile("[\u4e00-\u9fff]")


def placeholders(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def test_both_languages_have_every_sentence() -> None:
    assert set(ENGLISH) == set(CHINESE)


@pytest.mark.parametrize("key", sorted(ENGLISH))
def test_a_sentence_has_the_same_placeholders_in_both_languages(key: str) -> None:
    assert placeholders(ENGLISH[key]) == placeholders(CHINESE[key])
    assert not HAN.search(ENGLISH[key].replace("可用不可见", ""))  # the exchange's own name


def test_every_sentence_that_a_command_says_is_there() -> None:
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "say"
                and isinstance(node.args[0], ast.Constant)
            ):
                key = node.args[0].value
                assert key in ENGLISH, f"{path.name} says {key}"
                given = {keyword.arg for keyword in node.keywords}
                assert given == placeholders(ENGLISH[key]), f"{path.name}: {key}"


def test_no_sentence_is_left_over() -> None:
    """A key is written out where it is said, unless its last part is a word of the system's."""
    sources = "".join(path.read_text() for path in CLI.glob("*.py") if path.name != "words.py")
    worded = ("state", "decision", "negotiation", "stage", "setting", "template", "rotate", "exit")
    worded += ("join", "step", "spent", "missing", "found", "remark", "intersection", "succession")
    for key in ENGLISH:
        kind, _, rest = key.partition(".")
        name = rest if kind in ("help", "option", "fact") else key
        assert kind in worded or f'"{name}"' in sources or f'"{key}"' in sources, key


def test_states_settings_and_the_product_file_are_explained() -> None:
    for kind, words in (
        ("state", [state.value for state in JobState]),
        ("decision", [decision.value for decision in Decision]),
        ("negotiation", [state.value for state in State]),
        ("setting", list(NodeSettings.model_fields)),
        ("template", list(EXPLAINED)),
        ("join", [join.value for join in Join if join not in WITH_CONSUMER]),
        ("step", [step.value for step in Step]),
        ("spent", [spent.value for spent in Spent]),
        ("missing", [missing.value for missing in Missing]),
        ("found", [found.value for found in Found]),
        ("remark", [remark.value for remark in Remark]),
    ):
        for word in words:
            assert f"{kind}.{word}" in ENGLISH


def every_command() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in OURS:
        command = typer.main.get_command(import_module(f"api.cli.{name}").app)
        yield from _below((name,), command)


def _below(
    path: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, found in command.commands.items():
            yield from _below((*path, name), found)


COMMANDS = dict(every_command())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_explains_itself_and_every_option_in_both_languages(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[path]
    assert isinstance(command, Command | PlainCommand | Group)
    assert f"help.{command.help}" in ENGLISH
    for param in command.params:
        key = param.metavar if isinstance(param, click.Argument) else getattr(param, "help", None)
        assert f"option.{key}" in ENGLISH, f"{' '.join(path)}: {param.name}"
    for language in ("en", "zh-CN"):
        monkeypatch.setattr(sys, "argv", ["exchange", *path, "--help", "--lang", language])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert bool(HAN.search(capsys.readouterr().out)) is (language == "zh-CN")


@pytest.mark.parametrize(
    ("variables", "chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "UNSEEN_LANG": "zh-CN"}, True),
    ],
)
def test_the_language_is_that_of_the_environment_unless_it_is_given(
    variables: dict[str, str],
    chinese: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("UNSEEN_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["exchange", "job", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert bool(HAN.search(capsys.readouterr().out)) is chinese
