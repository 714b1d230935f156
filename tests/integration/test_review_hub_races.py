"""Acts that meet at a hub on PostgreSQL, where several processes write at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from api.database import bring_up_to_date, open_engine, read_only
from exchange.jobs import JobState
from exchange.node import jobs, outbox
from exchange.node.adapters.sql import SqlNodeStore
from pricing import book
from tests.world import Member, a_deal, a_world

JOBS = 12


def test_jobs_that_are_refused_while_others_are_submitted_never_wait_in_a_circle(
    tmp_path: Path, new_database: Callable[[str], str]
) -> None:
    world = a_world(tmp_path, hub_url=new_database("postgresql"))
    deal = a_deal(world, runs=100, funded=1_000_000)
    clinic, research = world.members["clinic"], world.members["research"]
    first = [deal.submit() for _ in range(JOBS)]
    world.settle()
    for number in first:
        clinic.desk.refuse(number, "no")
    second = [deal.submit() for _ in range(JOBS)]
    failed: list[Exception] = []

    def send(member: Member) -> None:
        node = member.node
        try:
            while outbox.send(node.store, node.hub, node.identity, jobs.heed_answer):
                pass
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=(member,)) for member in (clinic, research)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with world.store.reading() as tx:
        assert {tx.job(number).state for number in first} == {JobState.REFUSED}
        assert {tx.job(number).held is None for number in second} == {False}
        book.prove(tx.book)
        assert {held.runs_used for held in tx.agreements_of(deal.deal)} == {JOBS}


def test_two_threads_of_a_node_on_postgresql_never_decide_on_the_same_old_record(
    new_database: Callable[[str], str],
) -> None:
    """Else a job could end, and its run return, while another thread begins it."""
    engine = open_engine(new_database("postgresql"))
    bring_up_to_date(engine, "node")
    store = SqlNodeStore(engine, read_only(engine))

    def count() -> None:
        for _ in range(20):
            with store.transaction() as tx:
                tx.set_remark("count", str(int(tx.remark("count") or 0) + 1))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.reading() as tx:
        assert tx.remark("count") == "60"
    engine.dispose()
