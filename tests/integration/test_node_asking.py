"""What a node needs of its hub in the middle of a transaction."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from api.database import bring_up_to_date, open_engine, read_only
from crypto.digest import Digest, digest
from exchange.errors import HubUnreachable, UnknownSubject
from exchange.node import asking
from exchange.node.adapters.sql import SqlNodeStore
from exchange.node.ports import Documents, NodeTransaction
from tests.world import DirectHub, a_deal, a_world

NAMES = [digest(bytes([n])) for n in range(3)]


class Shelf:
    """A hub that hands out documents, and writes to its caller's database while it is asked."""

    def __init__(self, store: SqlNodeStore) -> None:
        self.asked: Counter[Digest] = Counter()
        self._store = store

    def document(self, name: Digest) -> bytes:
        self.asked[name] += 1
        with self._store.transaction() as tx:
            tx.set_remark(f"asked for {name}", "yes")
        if name == NAMES[2]:
            raise UnknownSubject(str(name))
        return name.raw


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlNodeStore]:
    engine = open_engine(f"sqlite:///{tmp_path}/node.db")
    bring_up_to_date(engine, "node")
    yield SqlNodeStore(engine, read_only(engine))
    engine.dispose()


def test_the_hub_is_asked_with_no_transaction_open_and_once_about_each_thing(
    store: SqlNodeStore,
) -> None:
    shelf, begun = Shelf(store), []

    def step(tx: NodeTransaction, hub: Documents) -> list[bytes]:
        begun.append(tx.remark("begun"))
        tx.set_remark("begun", str(len(begun)))
        found = [hub.document(name) for name in (*NAMES[:2], *NAMES[:2])]
        with tx.savepoint():  # an answer may be an error, and what a step makes of it counts
            try:
                hub.document(NAMES[2])
            except UnknownSubject:
                found.append(b"")
        return found

    hub: Any = shelf
    found = asking.transact(step, store=store, hub=hub)
    assert found == [*(name.raw for name in NAMES[:2] * 2), b""]
    assert shelf.asked == dict.fromkeys(NAMES, 1)
    assert begun == [None] * 4  # of three attempts nothing was left to the next
    with store.reading() as tx:
        assert tx.remark("begun") == "4"


def test_a_hub_that_is_away_is_what_the_step_says_it_is(store: SqlNodeStore) -> None:
    class Away:
        def document(self, name: Digest) -> bytes:
            raise HubUnreachable("away")

    def step(tx: NodeTransaction, hub: Documents) -> None:
        tx.set_remark("begun", "yes")
        hub.document(NAMES[0])

    hub: Any = Away()
    with pytest.raises(HubUnreachable):
        asking.transact(step, store=store, hub=hub)
    with store.reading() as tx:
        assert tx.remark("begun") is None


def test_nobody_has_to_wait_for_a_nodes_records_until_the_hub_has_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first request for terms to the answer: else a slow hub makes a run fail that
    cannot record how it ended, and every command at the desk."""
    world = a_world(tmp_path)
    plain, asked = DirectHub._reach, Counter[str]()

    def reach(hub: DirectHub) -> None:
        plain(hub)
        for name, member in world.members.items():
            if member.hub is hub:
                path = tmp_path / name / "node.db"
                # Long enough for a run that is just recording something on a thread of its own.
                with closing(sqlite3.connect(path, timeout=2)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    other.rollback()
                asked[name] += 1

    monkeypatch.setattr(DirectHub, "_reach", reach)
    deal = a_deal(world)
    by_desk = deal.submit()
    world.settle()
    for name in ("clinic", "lab"):
        world.members[name].desk.approve(by_desk)
    world.settle()
    deal.approve_standing()
    desk = world.members["research"].desk
    again = desk.submit(desk.recompile(by_desk))
    world.settle()
    with world.members["research"].node.store.reading() as tx:
        assert {str(tx.remark(f"answer {job}"))[:1] for job in (by_desk, again)} == {"{"}
    assert min(asked[name] for name in ("clinic", "lab", "research")) > 20
