"""Acts that meet at a hub on PostgreSQL, where several processes write at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from exchange.jobs import JobState
from exchange.node import jobs, outbox
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
