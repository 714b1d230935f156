"""The revealed join with a helper, in three child processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crypto.digest import digest
from crypto.engine import EngineOutcome, EngineStage, RevealedTask, Standing
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.intersection import Intersection
from crypto.joins.layout import Layout
from crypto.joins.released import open_cells
from crypto.joins.rows import KeptRows
from crypto.sharing import recombine
from exchange.node.adapters.process_engine import ProcessEngine
from exchange.node.engine import EngineLimits
from tests.fakes.seats import seats
from tests.fakes.tunnel import Tunnel
from tests.fakes.two_sides import Sides, a_layout, two_sides
from tests.integration.test_engine_spu import children_in

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LIMITS = EngineLimits(deadline_s=200, memory_bytes=3 * 2**30)
RANKS = range(3)


class Three:
    """Two holders' engines and the helper's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engines = [ProcessEngine(path / x, path / "logs") for x in "abc"]
        self._jobs = 0

    def run(
        self,
        sides: Sides,
        intersection: Intersection = Intersection.RR22,
        *,
        kill_helper_at: EngineStage | None = None,
        late_s: float = 0,
    ) -> list[EngineOutcome | EngineFailed]:
        self._jobs += 1
        standing = None
        rows = {0: sides.a, 1: sides.b}
        if intersection is Intersection.UNBALANCED:
            standing = Standing(digest(b"name"), 0, rows=10**6, asked=10**6)
        tunnels = [Tunnel(late_s=late_s if rank == 1 else 0) for rank in RANKS]
        all_seats = seats(
            [tunnel.engine for tunnel in tunnels],
            [tunnel.address for tunnel in tunnels],
            attempt=f"att_{self._jobs}",
            receive_timeout_ms=60_000,
        )

        def kill(stage: EngineStage) -> None:
            if stage is kill_helper_at:
                for pid in children_in(self.path / "c"):
                    os.kill(pid, signal.SIGKILL)

        try:
            runs = []
            for rank, seat in enumerate(all_seats):
                task = RevealedTask(seat, sides.layout, intersection, b"", standing)
                given = rows.get(rank)
                if given is not None and standing is not None:
                    kept = KeptRows(given, self.path / f"kept-{rank}")
                    runs.append(self.engines[rank].start(task, kept, LIMITS))
                else:
                    runs.append(self.engines[rank].start(task, given, LIMITS))
            ended: list[EngineOutcome | EngineFailed] = []
            for rank in (2, 0, 1):
                try:
                    ended.append(runs[rank].wait(kill if rank == 2 else lambda _: None))
                except EngineFailed as failure:
                    ended.append(failure)
            return [ended[1], ended[2], ended[0]]
        finally:
            for tunnel in tunnels:
                tunnel.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    made = Three(tmp_path)
    yield made
    for engine in made.engines:
        engine.close()


def outcomes(ended: list[EngineOutcome | EngineFailed]) -> list[EngineOutcome]:
    for end in ended:
        if isinstance(end, EngineFailed):
            raise end
    return [end for end in ended if isinstance(end, EngineOutcome)]


@pytest.mark.parametrize(
    "layout",
    [
        a_layout(2, 3, 1, 1, 10),
        a_layout(1, 1, 1, 1, 5, products=True),
        a_layout(4, 1, 1, 2, 10, outer=True, round_counts=5),
    ],
    ids=["groups", "products", "left join"],
)
def test_it_is_exact(three: Three, layout: Layout) -> None:
    sides = two_sides(2_000, overlap=901, layout=layout, values_up_to=2**20)
    ended = outcomes(three.run(sides))
    assert open_cells(layout, [end.share for end in ended]) == sides.truth
    assert [end.learned for end in ended] == [{"matched": 901}] * 3


def test_it_is_exact_in_several_blocks_and_after_masked_keys(three: Three) -> None:
    sides = two_sides(70_000, overlap=66_001)
    ended = outcomes(three.run(sides, Intersection.UNBALANCED))
    assert open_cells(sides.layout, [end.share for end in ended]) == sides.truth


def test_an_answer_that_travels_longer_than_what_follows_it_loses_nothing(three: Three) -> None:
    """The intersection greets the peer again, which has not yet taken the first greeting."""
    sides = two_sides(200, overlap=100)
    ended = outcomes(three.run(sides, late_s=1))
    assert open_cells(sides.layout, [end.share for end in ended]) == sides.truth


def test_no_two_shares_of_the_three_say_anything(three: Three) -> None:
    sides = two_sides(200, overlap=100)
    first, second = (outcomes(three.run(sides)) for _ in range(2))
    for rank in RANKS:
        pair = [[end[r].share for r in RANKS if r != rank] for end in (first, second)]
        one, other = (recombine(shares) for shares in pair)
        assert not np.isin(one, other).any()


def test_nobody_in_common_is_an_answer(three: Three) -> None:
    sides = two_sides(50, overlap=0)
    ended = outcomes(three.run(sides))
    assert open_cells(sides.layout, [end.share for end in ended]) == sides.truth


def test_a_helper_that_dies_fails_the_run_and_opens_nothing(three: Three) -> None:
    sides = two_sides(2_000)
    ended = three.run(sides, kill_helper_at=EngineStage.COMPUTE)
    faults = [end.fault for end in ended if isinstance(end, EngineFailed)]
    assert len(faults) == 3
    assert set(faults[:2]) <= {EngineFault.PEER, EngineFault.CRASHED}
    again = outcomes(three.run(sides))
    assert open_cells(sides.layout, [end.share for end in again]) == sides.truth
