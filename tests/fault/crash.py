"""Killing one process of an exchange at one of its writes, and going on with the others.

A process that is killed with -9 stops between two instructions. What is then on its disk is decided
by its database alone: a transaction is there or it is not. So a `Doom` counts the writes of one
process and stops it at the n-th, in every thread; the process is then opened again on its files.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, event

from crypto.errors import UnknownKey
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from exchange.errors import HubUnreachable
from exchange.hub.service import HubService
from ledger.verify.chain import check_chains
from tests.world import Deal, World

ROUNDS = 120
OURS = Path(__file__).parents[2]
WRITES = re.compile(r"\s*(INSERT INTO|UPDATE|DELETE FROM) (\w+)")
WORD = re.compile(r"[a-z][a-z._-]+")

# What a transaction does, wherever and however often: who of our own functions called whom, the
# tables that it wrote, and the words among what it wrote there (types of statements, states).
Kind = tuple[tuple[str, ...], frozenset[str], frozenset[str]]


class SimulatedCrash(BaseException):
    """Not an Exception: nothing that outlives an error outlives this."""


class Moment(StrEnum):
    WRITE = "before a row is written"
    COMMIT = "before a transaction is committed"
    COMMITTED = "after a transaction was committed"


@dataclass
class Doom:
    """Strikes at the n-th such moment; n = 0 never does, and counts.

    kind: only such transactions count. kinds: how often there was each that wrote anything.
    """

    moment: Moment
    n: int
    kind: Kind | None = None
    count: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    dead: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.local = field(default_factory=threading.local)

    def hang_over(self, engine: Engine) -> None:
        event.listen(engine, "begin", self._begin)
        event.listen(engine, "before_cursor_execute", self._execute)
        event.listen(engine, "commit", self._commit)
        dialect: Any = engine.dialect
        really: Callable[[Any], None] = dialect.do_commit

        def do_commit(connection: Any) -> None:
            really(connection)
            if getattr(self._thread, "writing", False):
                self._reach(Moment.COMMITTED)

        dialect.do_commit = do_commit

    def spare(self) -> None:
        """Whoever has not died by now lives on, also while its records are looked at."""
        self.n = 0

    def _begin(self, connection: Connection) -> None:
        if self.dead:
            raise SimulatedCrash("a dead process begins nothing")
        options = connection.get_execution_options()
        self._thread.writing = not options.get("unseen_read_only", False)
        self._thread.tables, self._thread.words = set(), set()

    def _execute(
        self, connection: Any, cursor: Any, text: str, values: Any, context: Any, many: Any
    ) -> None:
        if found := WRITES.match(text):
            self._thread.tables.add(" ".join(found.groups()))
            self._thread.words |= set(filter(WORD.fullmatch, _texts(values)))
            self._reach(Moment.WRITE)

    def _commit(self, connection: Connection) -> None:
        if self.dead:
            raise SimulatedCrash("a dead process commits nothing")
        if self._thread.writing:
            self._reach(Moment.COMMIT)

    def _reach(self, moment: Moment) -> None:
        with self._lock:
            if moment is not self.moment or self.dead:
                return
            kind = self._kind()
            if self.kind not in (None, kind):
                return
            self.count += 1
            if kind[1]:
                self.kinds[kind] += 1
            if self.count != self.n:
                return
            self.dead = True
        raise SimulatedCrash(f"killed {moment}, number {self.n}")

    def _kind(self) -> Kind:
        thread = self._thread
        return tuple(_callers()), frozenset(thread.tables), frozenset(thread.words)


def _callers() -> Iterator[str]:
    """Functions of ours that have not returned, the last called first."""
    frame = sys._getframe()
    while (calling := frame.f_back) is not None:
        frame = calling
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(OURS) and path.relative_to(OURS).parts[0] not in ("tests", ".venv"):
            yield f"{path.stem}.{frame.f_code.co_name}"


def _texts(values: Any) -> Iterator[str]:
    """Of one row's values or of many rows', by name or by place."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, (list, tuple, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)


class MortalService:
    """The hub's service as others reach it: a hub that dies in a call leaves it unanswered."""

    def __init__(self, service: HubService, doom: Doom) -> None:
        self._service = service
        self._doom = doom

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._service, name)

        def call(*values: Any, **named: Any) -> Any:
            if self._doom.dead:
                raise HubUnreachable("the hub is dead")
            try:
                return method(*values, **named)
            except SimulatedCrash:
                raise HubUnreachable("the hub died in the call") from None

        return call


@dataclass
class Trial:
    """An exchange of which one process, a member or `hub`, is doomed.

    dead_for: how long the process stays dead.
    """

    world: World
    victim: str
    doom: Doom
    dead_for: timedelta = timedelta()
    buried: bool = False

    def __post_init__(self) -> None:
        self.doom.hang_over(self.world.engines[self.victim])
        if self.victim == "hub":
            mortal = cast(HubService, MortalService(self.world.service, self.doom))
            for member in self.world.members.values():
                member.hub.service = mortal

    def attempt(self, act: Callable[[], object]) -> None:
        """Something that a person does at the victim's desk, or at another's."""
        try:
            act()
        except (SimulatedCrash, HubUnreachable):
            return

    def settle(self) -> None:
        """Go on until nothing happens any more, opening the victim again after its death."""
        for _ in range(ROUNDS):
            happened = self._round()
            if self.doom.dead and not self.buried:
                self._bury()
                happened = True
            if not happened:
                return
        raise AssertionError("the exchange did not come to rest")

    def _round(self) -> bool:
        world, happened = self.world, False
        for name, member in world.members.items():
            if self._is_dead(name):
                continue
            try:
                happened |= bool(member.node.hear(wait_s=0))
                happened |= member.node.work()
            except (SimulatedCrash, HubUnreachable):
                happened = True
        if not self._is_dead("hub"):
            try:
                happened |= world.hub_step()
            except SimulatedCrash:
                happened = True
        for member in world.members.values():
            for run in list(member.node.runs.values()):
                run.join(0.01)
                happened = True
        return happened

    def _is_dead(self, name: str) -> bool:
        return name == self.victim and self.doom.dead and not self.buried

    def _bury(self) -> None:
        """End what is left of the dead process, and start it again on its files."""
        world = self.world
        if self.victim == "hub":
            world.engines["hub"].dispose()
        else:
            dead = world.members[self.victim]
            for run in dead.node.runs.values():
                run.kill()
            for run in dead.node.runs.values():
                run.join(10)
            world.engines[self.victim].dispose()
        if self.dead_for:
            for _ in range(8):  # the others go on without it, before and after the deadlines
                self._round()
            world.clock.pass_(self.dead_for)
            for _ in range(8):
                self._round()
        self.buried = True
        if self.victim == "hub":
            world.open_hub()
        else:
            world.restart(self.victim)


def without_death(deal: Deal, victim: str, moment: Moment, act: Callable[[World], object]) -> Doom:
    """What the process's doom counts in the story that `act` begins, if it never strikes."""
    trial = Trial(deal.world, victim, Doom(moment, 0))
    trial.attempt(lambda: act(deal.world))
    trial.settle()
    return trial.doom


def require_log(world: World) -> None:
    """Every statement of every actor is in the log, signed, once, in order."""
    keys = {
        folder.party.document.party: folder.party.document.signing
        for folder in (world.operator_folder, *(m.folder for m in world.members.values()))
    }

    def resolve(actor: PartyId, at: datetime, key_id: str) -> PublicKey:
        if keys[actor].key_id != key_id:
            raise UnknownKey(key_id)
        return keys[actor]

    with world.store.reading() as tx:
        head = tx.log.latest()
        assert head is not None
        entries = [(e.index, e.entry) for e in tx.log.entries(0, head.size)]
        assert tx.log.placed() == head.size
        assert list(tx.log.pending(10)) == []
    findings = check_chains(
        entries, resolve=resolve, heads=[], tolerance=timedelta(minutes=10), before={}
    )
    assert findings == ()
    logged = {entry for _, entry in entries}
    for member in world.members.values():
        with member.node.store.reading() as node:
            own = [node.entry(number) for number in range(node.head().next_seq)]
        assert set(own) <= logged
