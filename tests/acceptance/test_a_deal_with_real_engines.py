"""The deal with real engines as child processes and real pinned links between the nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.ports import SystemClock, SystemRandomness
from exchange.jobs import JobState
from exchange.links.endpoint import Endpoint
from exchange.node import receiving
from exchange.node.adapters.process_engine import ProcessEngine, free_port
from exchange.node.adapters.tls_links import LinkService
from tests.world import Member, a_deal, a_world

pytestmark = pytest.mark.engine


@contextmanager
def real_workshop(member: Member, *, listen: bool, relay: Endpoint | None = None) -> Iterator[None]:
    """Give a member a real engine and real links; with `listen`, peers may dial in."""
    folder, identity = member.folder, member.node.identity
    links = LinkService(
        identity.party,
        folder.tls,
        listen=Endpoint("127.0.0.1", 0) if listen else None,
        relay=relay,
        proxy=None,
        signer=identity.signing,
        clock=SystemClock(),
        randomness=SystemRandomness(),
    )
    links.start()
    engine = ProcessEngine(folder.path / "engine", folder.path / "logs")
    workshop = member.node.workshop
    assert workshop is not None
    member.node.workshop = replace(
        workshop, engine=engine, links=links, free_port=free_port, memory_bytes=4 << 30
    )
    address = str(links.endpoint) if listen else ""
    member.node.identity = replace(identity, link_address=address)
    try:
        yield
    finally:
        links.stop()
        engine.close()


def test_real_engines_and_links_give_the_answer_and_what_left_is_counted(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    clinic, lab, research = (world.members[name] for name in ("clinic", "lab", "research"))
    with real_workshop(clinic, listen=True), real_workshop(lab, listen=False):
        job = deal.submit()
        for _ in range(600):
            world.round()
            threading.Event().wait(0.02)
            with research.node.store.reading() as tx:
                found = tx.job(job)
            if found is not None and found.state in (JobState.RELEASED, JobState.FAILED):
                break
        world.settle()
        with research.node.store.reading() as tx:
            found = tx.job(job)
            assert found is not None and found.state is JobState.RELEASED, found
    answer = receiving.answer(job, research.node.store)
    assert sum(row.figures[0].value or 0 for row in answer.rows) == 40
    for holder, peer in ((clinic, lab), (lab, clinic)):
        with holder.node.store.reading() as tx:
            records = tx.egress(job)
        to_peer = sum(r.size_bytes for r in records if r.receiver == peer.id)
        assert to_peer > 1000
        assert any(r.receiver == research.id for r in records)
