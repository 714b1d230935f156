"""One deal through the whole house, with the engine faked."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from exchange.jobs import JobState
from exchange.node import receiving
from tests.world import CLINIC_ROWS, LAB_ROWS, a_deal, a_world


def test_a_consumer_gets_the_plaintext_answer_and_both_holders_are_paid(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    deal.approve_standing()
    job = deal.submit()
    world.settle()
    research = world.members["research"]
    with research.node.store.reading() as tx:
        found = tx.job(job)
        assert found is not None
        assert found.state is JobState.RELEASED, (found.reason, tx.alarms())
    answer = receiving.answer(job, research.node.store)
    expected = {}
    lab = {person: float(s5) for person, s5 in LAB_ROWS}
    for sex in ("f", "m"):
        for label, low, high in (
            ("< 4.6", 0, 4.6),
            ("4.6 to < 5.1", 4.6, 5.1),
            (">= 5.1", 5.1, 99),
        ):
            values = [
                Fraction(progression)
                for person, s, progression in CLINIC_ROWS
                if person in lab and s == sex and low <= lab[person] < high
            ]
            shown = len(values) >= 5
            mean = sum(values) / len(values) if shown else None
            expected[sex, label] = (len(values) if shown else None, mean)
    got = {row.groups: tuple(f.value for f in row.figures) for row in answer.rows}
    assert got == expected
    assert world.available("research") == 8000
    assert world.available("clinic") == 1000
    assert world.available("lab") == 1000
    for member in world.members.values():
        member.node.look()
        with member.node.store.reading() as tx:
            assert list(tx.alarms()) == []
