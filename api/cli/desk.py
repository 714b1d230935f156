"""Opening a participant's folder for one command, and waiting for what others must do.

An act is committed to the node's outbox; a running node process sends it. A command that must see
the hub's answer waits here for that process to bring it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from api.cli.output import progress
from api.cli.speech import common, say
from api.settings import SETTINGS_VARIABLE, NodeSettings

if TYPE_CHECKING:
    from api.wiring.node import Opened
    from exchange.node.model import Sent

PATIENCE_S: Final = 30.0
LOOK_S: Final = 0.1

T = TypeVar("T")

TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0, metavar="SECONDS", help="timeout")
]


class RefusedByHub(Exception):
    """The hub took the statement in and did not act on it. `reason` is the hub's."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(say("wait.refused", kind=kind, reason=reason))
        self.reason = reason


class NotAnswered(TimeoutError):
    """Nobody brought the answer in time. What was said is kept and will be sent."""


@contextmanager
def opened() -> Iterator[Opened]:
    """The folder that --settings or UNSEEN_SETTINGS names. Raises SettingsRefused."""
    from api.wiring.node import open_node  # storage and engines, which --help does without

    found = open_node(NodeSettings.load(common().settings))
    try:
        yield found
    finally:
        found.close()


def settings_hint() -> str:
    """How this command's settings are named, to be repeated in a command for the reader."""
    return str(common().settings or os.environ.get(SETTINGS_VARIABLE, "FILE"))


def answered(node: Opened, kind: str, subject: str, *, timeout_s: float) -> Sent:
    """The hub's answer to this party's newest statement of a kind about a subject.

    Raises RefusedByHub when it had no effect, NotAnswered when none came in time.
    """

    def look() -> Sent | None:
        with node.store.reading() as tx:
            digest = tx.last_said(kind, subject)
            return None if digest is None else tx.sent(digest)

    sent = until(look, say("wait.hub"), timeout_s=timeout_s)
    if not sent.applied:
        raise RefusedByHub(kind, sent.reason)
    return sent


def until(look: Callable[[], T | None], what: str, *, timeout_s: float) -> T:
    """What `look` finds, as soon as it finds something. what: shown beside a spinner on stderr.

    Raises NotAnswered.
    """
    deadline = time.monotonic() + timeout_s
    with progress().status(what):
        while True:
            found = look()
            if found is not None:
                return found
            if time.monotonic() >= deadline:
                raise NotAnswered(
                    say("wait.nobody", seconds=f"{timeout_s:g}", settings=settings_hint())
                )
            pause()


def pause() -> None:
    time.sleep(LOOK_S)
