"""What every EngineRunner does: the fake, and SPU in child processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from crypto.engine import EngineOutcome, EngineStage, RevealedTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.intersection import Intersection
from crypto.joins.layout import Layout
from crypto.joins.released import open_cells
from crypto.joins.rows import SideRows
from crypto.sharing import from_bytes
from exchange.node.adapters.process_engine import ProcessEngine
from exchange.node.engine import EngineLimits, EngineRunner
from tests.fakes.engine import EngineRoom, InProcessEngine
from tests.fakes.seats import seats
from tests.fakes.tunnel import Tunnel
from tests.fakes.two_sides import Sides, a_layout, two_sides

LIMITS = EngineLimits(deadline_s=120, memory_bytes=3 * 2**30)
OnStage = Callable[[EngineStage], None]


@dataclass
class Pair:
    """Two nodes' engines, A's and B's, and the way between them."""

    engines: tuple[EngineRunner, EngineRunner]
    jobs: int = 0

    def tasks(
        self,
        layout: Layout,
        tunnels: tuple[Tunnel, Tunnel],
        intersection: Intersection = Intersection.RR22,
        *,
        connect_timeout_ms: int = 30_000,
    ) -> tuple[RevealedTask, RevealedTask]:
        self.jobs += 1
        a, b = seats(
            [tunnel.engine for tunnel in tunnels],
            [tunnel.address for tunnel in tunnels],
            attempt=f"att_{self.jobs}",
            connect_timeout_ms=connect_timeout_ms,
        )
        key = self.jobs.to_bytes(32, "big")
        return (
            RevealedTask(a, layout, intersection, key),
            RevealedTask(b, layout, intersection, key),
        )

    def run(
        self,
        tasks: tuple[RevealedTask, RevealedTask],
        rows: tuple[SideRows, SideRows],
        *,
        limits: EngineLimits = LIMITS,
        on_stage: OnStage = lambda _: None,
    ) -> list[EngineOutcome | EngineFailed]:
        """How each party's run ended. `on_stage` hears the stages of A."""
        ends: list[EngineOutcome | EngineFailed] = [EngineFailed(EngineFault.CRASHED, "")] * 2

        def take_part(rank: int) -> None:
            try:
                run = self.engines[rank].start(tasks[rank], rows[rank], limits)
                ends[rank] = run.wait(on_stage if rank == 0 else lambda _: None)
            except EngineFailed as failed:
                ends[rank] = failed

        threads = [threading.Thread(target=take_part, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends


@pytest.fixture(
    scope="module",
    params=["fake", pytest.param("spu", marks=[pytest.mark.engine, pytest.mark.slow])],
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    engines: tuple[EngineRunner, EngineRunner]
    if request.param == "fake":
        room = EngineRoom()
        engines = (InProcessEngine(room), InProcessEngine(room))
    else:
        folder = tmp_path_factory.mktemp("with a blank; and $HOME")
        engines = (
            ProcessEngine(folder / "a", folder / "logs"),
            ProcessEngine(folder / "b", folder / "logs"),
        )
    yield Pair(engines)
    for engine in engines:
        engine.close()
    if request.param == "spu":
        left = [path.name for party in "ab" for path in (folder / party).iterdir()]
        assert left == ["lock", "lock"]


def two_tunnels() -> Iterator[tuple[Tunnel, Tunnel]]:
    both = (Tunnel(), Tunnel())
    yield both
    for tunnel in both:
        tunnel.close()


tunnels = pytest.fixture(two_tunnels, name="tunnels")
tunnels_again = pytest.fixture(two_tunnels, name="tunnels_again")


def outcomes(ends: list[EngineOutcome | EngineFailed]) -> tuple[EngineOutcome, EngineOutcome]:
    for end in ends:
        if isinstance(end, EngineFailed):
            raise end
    a, b = ends
    assert isinstance(a, EngineOutcome)
    assert isinstance(b, EngineOutcome)
    return a, b


def rows_of(sides: Sides) -> tuple[SideRows, SideRows]:
    return sides.a, sides.b


@pytest.mark.parametrize(
    "layout",
    [
        a_layout(),
        a_layout(1, 1, 0, 0, 1),
        a_layout(1, 4, 2, 0, 5),
        a_layout(5, 1, 0, 3, 5),
        a_layout(2, 2, 1, 1, 5, products=True, round_counts=7),
        a_layout(3, 1, 1, 0, 5, outer=True),
    ],
    ids=lambda layout: f"{layout.groups_a}x{layout.groups_b}, {len(layout.terms)} terms",
)
def test_two_nodes_together_give_the_receiver_the_exact_answer(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel], layout: Layout
) -> None:
    sides = two_sides(442, layout=layout, values_up_to=2**25)
    a, b = outcomes(pair.run(pair.tasks(layout, tunnels), rows_of(sides)))
    assert a.learned == b.learned == {"matched": sides.matched}
    assert open_cells(layout, (a.share, b.share)) == sides.truth


def test_values_of_the_whole_allowed_range_add_up_exactly(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel]
) -> None:
    sides = two_sides(60, layout=a_layout(2, 1, 1, 1, 1), values_up_to=2**56)
    a, b = outcomes(pair.run(pair.tasks(sides.layout, tunnels), rows_of(sides)))
    assert open_cells(sides.layout, (a.share, b.share)) == sides.truth


def test_without_a_common_person_every_cell_is_suppressed(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel]
) -> None:
    sides = two_sides(30, overlap=0)
    a, b = outcomes(pair.run(pair.tasks(sides.layout, tunnels), rows_of(sides)))
    assert a.learned == b.learned == {"matched": 0}
    cells = open_cells(sides.layout, (a.share, b.share))
    assert cells == sides.truth
    assert all(term is None for cell in cells for term in cell.terms)


def test_one_row_on_each_side_is_enough(pair: Pair, tunnels: tuple[Tunnel, Tunnel]) -> None:
    sides = two_sides(1, overlap=1, layout=a_layout(1, 1, 1, 0, 1), seed=1)
    a, b = outcomes(pair.run(pair.tasks(sides.layout, tunnels), rows_of(sides)))
    assert open_cells(sides.layout, (a.share, b.share)) == sides.truth


@pytest.mark.parametrize("way", [Intersection.ECDH, Intersection.SM2])
def test_curves_and_rr22_find_the_same_matches(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel], way: Intersection
) -> None:
    sides = two_sides(1000)
    tasks = pair.tasks(sides.layout, tunnels, way)
    a, b = outcomes(pair.run(tasks, rows_of(sides)))
    assert a.learned["matched"] == sides.matched
    assert open_cells(sides.layout, (a.share, b.share)) == sides.truth


def test_one_share_alone_does_not_depend_on_the_answer(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel]
) -> None:
    """Bits of one share over 2 x 1,638 words: a mean off by 5 deviations has odds below 1e-6.

    Two runs on the same rows share no word: the zero shares are fresh, and so is the engine.
    """
    sides = two_sides(200, layout=a_layout(18, 13, 1, 1, 2))
    words = []
    for _ in range(2):
        a, b = outcomes(pair.run(pair.tasks(sides.layout, tunnels), rows_of(sides)))
        words.append(from_bytes(a.share))
        assert open_cells(sides.layout, (a.share, b.share)) == sides.truth
    assert not (words[0] == words[1]).any()
    bits = np.unpackbits(np.concatenate(words).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / len(bits) ** 0.5


def test_stages_are_told_in_their_order(pair: Pair, tunnels: tuple[Tunnel, Tunnel]) -> None:
    sides = two_sides(50)
    told: list[EngineStage] = []
    outcomes(pair.run(pair.tasks(sides.layout, tunnels), rows_of(sides), on_stage=told.append))
    assert told == [
        EngineStage.READY,
        EngineStage.CONNECT,
        EngineStage.MATCH,
        EngineStage.SHARE,
        EngineStage.COMPUTE,
        EngineStage.GATE,
    ]


def test_an_empty_side_is_refused_before_its_engine_starts(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel]
) -> None:
    sides = two_sides(20)
    nothing = SideRows(*(getattr(sides.a, n)[:0] for n in ("tokens", "group", "factors")))
    task, _ = pair.tasks(sides.layout, tunnels)
    with pytest.raises(EngineFailed, match="no row of this side") as failed:
        pair.engines[0].start(task, nothing, LIMITS)
    assert failed.value.fault is EngineFault.INPUT


def test_a_peer_that_never_comes_is_waited_for_until_the_deadline(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel]
) -> None:
    sides = two_sides(20)
    task, _ = pair.tasks(sides.layout, tunnels)
    run = pair.engines[0].start(task, sides.a, replace(LIMITS, deadline_s=3))
    with pytest.raises(EngineFailed) as failed:
        run.wait()
    assert failed.value.fault is EngineFault.DEADLINE


@pytest.mark.engine
def test_a_peer_that_cannot_be_reached_is_given_up_after_the_connect_timeout(
    tmp_path: Path, tunnels: tuple[Tunnel, Tunnel]
) -> None:
    sides = two_sides(20)
    engine = ProcessEngine(tmp_path / "runs", tmp_path / "logs")
    try:
        task, _ = Pair((engine, engine)).tasks(sides.layout, tunnels, connect_timeout_ms=1000)
        run = engine.start(task, sides.a, LIMITS)
        with pytest.raises(EngineFailed, match="could not be reached") as failed:
            run.wait()
    finally:
        engine.close()
    assert failed.value.fault is EngineFault.PEER
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lock"]


def test_parties_with_different_gates_compute_nothing(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel]
) -> None:
    sides = two_sides(50)
    a, b = pair.tasks(sides.layout, tunnels)
    lax = replace(b, layout=replace(b.layout, min_group=1))
    ends = pair.run((a, lax), rows_of(sides))
    for end in ends:
        assert isinstance(end, EngineFailed)
        assert end.fault in (EngineFault.MISMATCH, EngineFault.PEER)
    assert EngineFault.MISMATCH in {end.fault for end in ends if isinstance(end, EngineFailed)}


def test_a_run_that_is_killed_ends_the_peers_run_and_neither_node(
    pair: Pair, tunnels: tuple[Tunnel, Tunnel], tunnels_again: tuple[Tunnel, Tunnel]
) -> None:
    """Each attempt has tunnels of its own: what the first left in its own must not reach SPU."""
    sides = two_sides(20_000)
    a, b = pair.tasks(sides.layout, tunnels, connect_timeout_ms=4000)
    runs = [
        pair.engines[rank].start(task, rows, LIMITS)
        for rank, task, rows in ((0, a, sides.a), (1, b, sides.b))
    ]

    def revoke(stage: EngineStage) -> None:
        if stage is EngineStage.CONNECT:
            runs[1].kill("the agreement was revoked")

    with pytest.raises(EngineFailed):
        runs[0].wait(revoke)
    with pytest.raises(EngineFailed, match="revoked"):
        runs[1].wait()
    again = outcomes(pair.run(pair.tasks(sides.layout, tunnels_again), rows_of(sides)))
    assert open_cells(sides.layout, [end.share for end in again]) == sides.truth
