"""A hub whose disk is full signs nothing that it has not stored, and goes on when there is room.

The disk is full for SQLite itself: the database may not grow by another page.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from crypto.record import Amount
from exchange.jobs import JobState
from pricing.money import Money
from tests.fault.crash import require_log
from tests.world import World, a_deal, a_world


@contextmanager
def full(engine: Engine) -> Iterator[None]:
    """Meanwhile no page can be added to the database."""

    def limit(connection: Connection) -> None:
        (pages,) = connection.exec_driver_sql("PRAGMA page_count").one()
        (free,) = connection.exec_driver_sql("PRAGMA freelist_count").one()
        assert free == 0
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    def lift(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000000")

    event.listen(engine, "begin", limit)
    try:
        yield
    finally:
        event.remove(engine, "begin", limit)
        event.listen(engine, "begin", lift)


def the_head(world: World) -> tuple[int, int]:
    """Size of the newest signed head, and how many entries have places."""
    with world.store.reading() as tx:
        latest = tx.log.latest()
        assert latest is not None
        return latest.size, tx.log.placed()


def test_a_checkpoint_that_cannot_be_stored_is_not_signed_and_comes_later(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    world.settle()
    number = deal.submit()
    # Enough waits for its place that hashes and checkpoint need pages of their own.
    clinic, one = world.members["clinic"].id, Money("TEST", Amount(1))
    for n in range(160):
        world.service.fund(world.operator.party, clinic, one, key=f"small-{n}")
    before, checkpoint = the_head(world), world.service.checkpoint()
    with full(world.engines["hub"]):
        for _ in range(3):
            with pytest.raises(OperationalError, match="full"):
                world.hub_step()
            assert the_head(world) == before
            assert world.service.checkpoint() == checkpoint
    world.settle()
    with world.store.reading() as tx:
        assert tx.job(number).state is JobState.RELEASED
    require_log(world)
    for member in world.members.values():
        member.node.look()
        with member.node.store.reading() as node:
            assert [alarm.words for alarm in node.alarms()] == []


def test_an_act_that_cannot_be_stored_is_sent_again_and_has_one_effect(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    world.settle()
    numbers = [deal.submit() for _ in range(4)]
    research = world.members["research"]
    with full(world.engines["hub"]), pytest.raises(OperationalError, match="full"):
        for _ in range(4):
            research.node.work()
    world.settle()
    with world.store.reading() as tx:
        assert {tx.job(number).state for number in numbers} == {JobState.RELEASED}
    assert world.available("research") == 10_000 - 4 * 2000
    require_log(world)
