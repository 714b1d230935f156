"""Every process is killed around each of its commits while an agreement is made.

People see at their desks what became of what they said, and say it again if nothing did. The
agreement is then in force everywhere, once, signed by both, and nobody has raised an alarm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crypto.envelope import Envelope
from crypto.identifiers import DealId
from crypto.ports import SystemRandomness
from exchange.terms import agreement as agreements
from exchange.terms.agreement import Terms
from exchange.terms.negotiation import Negotiation, State
from tests.fault.crash import Doom, Moment, Trial, require_log
from tests.world import LAB_ROWS, START, World, a_world, lab_columns, list_rows, terms_for

VICTIMS = ("hub", "lab", "research")


@dataclass
class Prepared:
    world: World
    terms: Terms


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    world = a_world(tmp_path_factory.mktemp("prepared"))
    product = list_rows(world, "lab", LAB_ROWS, ("person", "s5"), 1000, lab_columns())
    world.settle()
    return Prepared(world, terms_for(world, product, product))


def until(trial: Trial, done: Callable[[], bool], act: Callable[[], object]) -> None:
    """A person acts, and acts again if nothing came of it: once is all that a death can cost."""
    for _ in range(2):
        if not done():
            trial.attempt(act)
            trial.settle()
    assert done()


def negotiate(prepared: Prepared, path: Path, victim: str, doom: Doom) -> World:
    world = prepared.world.copied_to(path)
    trial = Trial(world, victim, doom)
    deal = DealId.new(START, SystemRandomness())

    def known(name: str) -> list[Negotiation]:
        with world.members[name].node.store.reading() as tx:
            return list(tx.negotiations())

    until(
        trial,
        lambda: bool(known("lab")),
        lambda: world.members["research"].negotiations.request(
            deal, world.members["lab"].id, prepared.terms
        ),
    )
    until(
        trial,
        lambda: known("lab")[0].state is not State.REQUESTED,
        lambda: world.members["lab"].negotiations.agree(known("lab")[0].id),
    )
    trial.settle()
    doom.spare()
    return world


def require_agreed(world: World) -> None:
    found = []
    for name in ("research", "lab"):
        member = world.members[name]
        with member.node.store.reading() as tx:
            (negotiation,) = tx.negotiations()
            (held,) = tx.agreements()
            envelope = Envelope.from_bytes(tx.document(held.digest))
            assert tx.unsent(10) == []
        agreements.require_signed(
            envelope,
            held.agreement,
            consumer=world.members["research"].folder.party,
            holder=world.members["lab"].folder.party,
        )
        assert (held.runs_used, negotiation.agreement) == (0, held.digest)
        found.append(negotiation)
    with world.store.reading() as hub:
        (at_hub,) = hub.negotiations_of(world.members["lab"].id)
        (counted,) = hub.agreements_of(at_hub.deal)
    assert counted.digest == at_hub.agreement
    assert {n.state for n in (*found, at_hub)} == {State.FINALIZED}
    for member in world.members.values():
        member.node.look()
        with member.node.store.reading() as tx:
            assert [alarm.words for alarm in tx.alarms()] == []
    require_log(world)


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_killed_in_the_middle_of_a_negotiation_does_not_stop_it(
    prepared: Prepared, tmp_path: Path, victim: str
) -> None:
    doom = Doom(Moment.COMMITTED, 4)
    require_agreed(negotiate(prepared, tmp_path, victim, doom))
    assert doom.dead


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "times"), [(Moment.COMMIT, 1), (Moment.COMMITTED, 2)])
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_killed_around_each_kind_of_commit_does_not_stop_a_negotiation(
    prepared: Prepared, tmp_path: Path, victim: str, moment: Moment, times: int
) -> None:
    """Around the first of each kind, and after the second too: of two parties' acts the second is
    the one that moves the negotiation on."""
    counted = Doom(moment, 0)
    negotiate(prepared, tmp_path / "count", victim, counted).close()
    assert len(counted.kinds) >= 3
    for at, (kind, often) in enumerate(counted.kinds.items()):
        for n in range(1, min(times, often) + 1):
            doom = Doom(moment, n, kind)
            world = negotiate(prepared, tmp_path / f"{at}-{n}", victim, doom)
            assert doom.dead, (kind, n)
            require_agreed(world)
            world.close()
