"""Three holders on one key with real engines and links, joined by the hub's relay: the answer, the
audit, and what the relay and the hub saw of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from api.wiring.hub import RelayThread
from crypto.joinkeys import KeyKind, canonical_keys
from crypto.joins.hidden.keys import row_names
from crypto.ports import SystemClock
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.hub import bundle
from exchange.hub.adapters.relay import Relay
from exchange.jobs import JobState
from exchange.links.endpoint import Endpoint
from exchange.node import receiving
from tests.acceptance.test_a_deal_with_real_engines import real_workshop
from tests.integration.test_audit_deal import roots_of
from tests.three_holders import CLINIC, HOLDERS, LAB, PHARMACY, a_deal_of_three, expected
from tests.world import World, a_world

pytestmark = [pytest.mark.slow, pytest.mark.engine]


@dataclass
class Tap:
    """A reader that keeps what passes."""

    reader: Any
    passed: list[bytes]

    async def read(self, size: int) -> bytes:
        data: bytes = await self.reader.read(size)
        self.passed.append(data)
        return data


@pytest.fixture
def tapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Everything that any relay passes on."""
    passed: list[bytes] = []
    join = Relay._join

    async def tapping(self: Relay, one: Any, other: Any) -> None:
        await join(
            self,
            replace(one, reader=Tap(one.reader, passed)),
            replace(other, reader=Tap(other.reader, passed)),
        )

    monkeypatch.setattr(Relay, "_join", tapping)
    yield passed


def a_relay(world: World) -> RelayThread:
    hub = SimpleNamespace(
        store=world.store, service=world.service, operator=SimpleNamespace(clock=SystemClock())
    )
    return RelayThread(Endpoint("127.0.0.1", 0), hub)  # type: ignore[arg-type]  # all it reads


def test_the_answer_is_that_of_the_pooled_tables_and_neither_relay_nor_hub_saw_any_of_it(
    tmp_path: Path, tapped: list[bytes]
) -> None:
    world = a_world(tmp_path)
    deal = a_deal_of_three(world)
    research = world.members["research"]
    with ExitStack() as stack:
        relay = stack.enter_context(a_relay(world))
        # Only the helper can be reached, so the holders meet at the relay.
        for name in (*HOLDERS, "helper"):
            stack.enter_context(
                real_workshop(world.members[name], listen=name == "helper", relay=relay.endpoint)
            )
        job = deal.submit(run_seconds=300)  # a machine that does other things too takes its time
        for _ in range(15_000):
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

    # The answer, and the audit of how it came about.
    answer = receiving.answer(job, research.node.store)
    got = {row.groups: tuple(f.value for f in row.figures[:3]) for row in answer.rows}
    assert got == expected()
    with world.store.reading() as tx:
        exported = bundle.export(deal.deal, tx).data
    regulator = world.members["regulator"]
    opener = Opener(regulator.id, regulator.folder.sealing)
    assert audit_deal(exported, world.policy, roots_of(world), opener).failed == ()

    # What left each node, and to whom: the third holder hears from nobody but the first.
    left = {}
    for name in (*HOLDERS, "helper"):
        with world.members[name].node.store.reading() as tx:
            for record in tx.egress(job):
                to = next((n for n, m in world.members.items() if m.id == record.receiver), "")
                left[name, to] = left.get((name, to), 0) + record.size_bytes
    assert left["pharmacy", "helper"] > 10_000  # its upload
    headers = 4096
    assert left["clinic", "pharmacy"] < headers  # headers, the tags' key, and that all went well
    assert left.get(("lab", "pharmacy"), 0) < headers
    assert left["helper", "pharmacy"] < headers

    # What the relay passed on, and what the hub keeps: nothing of a row, in any form that holds it.
    seen = b"".join(tapped)
    assert len(seen) > 10_000
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("hub.db*"))
    people = sorted({row[0] for row in (*CLINIC, *LAB, *PHARMACY)})
    names = row_names(canonical_keys(np.array(people, dtype=object), KeyKind.TEXT))
    for held in (seen, stored):
        assert not any(name.tobytes() in held for name in names)
    rare = [person.encode() for person in people if len(person) > 2]
    assert not any(b'"' + person + b'"' in stored for person in rare)
    sums = [int(total * 100).to_bytes(8, "little") for _, _, total in expected().values()]
    assert not any(total in held for total in sums for held in (seen, stored))
