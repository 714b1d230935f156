"""A log whose heads all have their quorum, with an outbox to a chain beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import SQLModel

from api.database import open_engine
from crypto.keys import SigningKey
from ledger.adapters.anchor_sql import SqlAnchorDatabase
from ledger.adapters.sql import SqlLogDatabase
from ledger.anchor import AnchorRules, Hurry, Round, keep_anchored
from ledger.log import append, consistency, integrate, publish
from ledger.ports import Anchor, AnchorBackend
from ledger.verify.note import LOG_SIGNATURE, VerifierKey
from ledger.verify.policy import Policy
from tests.chains import ORIGIN

LOG = SigningKey.generate()
NOBODY = Policy.parse(
    f"log {VerifierKey(ORIGIN, LOG_SIGNATURE, LOG.public)}\nquorum none\n".encode()
)
START = datetime(2026, 3, 4, tzinfo=UTC)
RULES = AnchorRules(every_s=600, every_entries=10_000, patience_s=60)


class Clock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def pass_(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class Hub:
    """A log whose every head has its quorum, and the outbox beside it."""

    def __init__(self, engine: Engine, backend: AnchorBackend, rules: AnchorRules = RULES) -> None:
        self.log = SqlLogDatabase(engine)
        self.database = SqlAnchorDatabase(engine)
        self.backend = backend
        self.rules = rules
        self.clock = Clock()
        self.hurry = Hurry(lambda entry: entry.startswith(b"urgent"))

    def grow(self, start: int, end: int, word: str = "entry") -> None:
        with self.log.transaction() as store:
            for number in range(start, end):
                append(store, f"{word} {number}".encode())
        with self.log.transaction() as store:
            integrate(store, origin=ORIGIN, signer=LOG, now=START)
        publish(self.log, [], NOBODY, clock=self.clock)

    def round(self, seconds: float = 1) -> Round:
        self.clock.pass_(seconds)
        return keep_anchored(
            self.database, self.backend, self.rules, clock=self.clock, hurry=self.hurry
        )

    @property
    def anchors(self) -> list[Anchor]:
        with self.database.transaction() as store:
            return list(reversed(store.newest(100)))

    @property
    def states(self) -> list[tuple[int, str]]:
        return [(one.size, one.state.value) for one in self.anchors]

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        with self.log.transaction() as store:
            return consistency(store, old, new)

    def root(self, size: int) -> bytes:
        with self.log.transaction() as store:
            return store.at(size).checkpoint.root


NewHub = Callable[..., Hub]


@contextlib.contextmanager
def hubs(folder: Path) -> Iterator[NewHub]:
    """`new_hub(backend, every_s=…)`: a hub with a database of its own."""
    engines: list[Engine] = []

    def new(backend: AnchorBackend, **rules: Any) -> Hub:
        engine = open_engine(f"sqlite:///{folder}/hub-{len(engines)}.db")
        engines.append(engine)
        tables = SQLModel.metadata.tables.items()
        SQLModel.metadata.create_all(engine, [t for n, t in tables if n.startswith("ledger_")])
        return Hub(engine, backend, replace(RULES, **rules))

    yield new
    for engine in engines:
        engine.dispose()
