"""The published limit of the three-party join: a party that adds to its own share is not noticed.

What is compared is a component as the two that hold it have it. What is altered between these two
is found; what one of them made wrong before, both have wrong alike.
"""

from __future__ import annotations

import numpy as np
import pytest

from crypto.errors import EngineFault
from crypto.joins.hidden.ports import Replicated
from crypto.joins.hidden.resharing import Resharing
from crypto.joins.rows import plain_terms
from crypto.sharing import UInt64Array
from tests.fakes.three_parties import Outcome, Tamper, failed, run_three, tasks_of, untouched
from tests.fakes.two_sides import Sides, a_layout, two_sides

B, C = 1, 2
LEAST = 40


def run(tamper: Tamper = untouched) -> tuple[Sides, Outcome]:
    given = two_sides(100, layout=a_layout(min_group=LEAST), values_up_to=2**30)
    tasks = tasks_of(given.layout, caps=(120, 130))
    return given, run_three(tasks, given.a, given.b, tamper=tamper)


@pytest.mark.parametrize(("cheat", "side"), [(B, 0), (C, 1)], ids=["holder", "helper"])
def test_a_party_that_shifts_its_own_share_opens_a_group_of_few(
    cheat: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/trust.md says so. It is the party's own answer that changes, not what it sees."""
    honest = Resharing.column

    def shifted(
        self: Resharing, holder: int, label: int, held: UInt64Array | None, pairs: int
    ) -> Replicated:
        if self._rank == cheat and (holder, label) == (side, 1) and held is not None:
            held = held + np.uint64(50)
        return honest(self, holder, label, held, pairs)

    given, outcome = run()
    assert all(cell.terms[0] is None for cell in outcome.cells)
    monkeypatch.setattr(Resharing, "column", shifted)
    given, outcome = run()
    few = plain_terms(given.layout, given.a, given.b)[0] < LEAST
    assert few.all()
    assert any(cell.terms[0] is not None for cell in outcome.cells)


def test_a_component_altered_on_the_way_is_noticed_by_both_that_hold_it() -> None:
    done: list[bool] = []

    def on_the_way(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if (of, to, label) != (C, B, "reshare") or done:
            return payload
        done.append(True)
        return (np.frombuffer(payload, np.uint64) + np.uint64(50)).tobytes()

    _, outcome = run(on_the_way)
    assert not outcome.results
    for rank in (B, C):
        assert failed(outcome, rank).fault is EngineFault.MISMATCH
        assert "share a component" in failed(outcome, rank).problem
