"""The hidden join on real engines: SPU under ABY3 in three threads, and in three processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.engine import (
    Combination,
    EngineOutcome,
    EngineStage,
    HiddenTask,
    NoiseScales,
    PaddingBounds,
)
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.hidden.columns import row_columns
from crypto.joins.hidden.ports import Replicated
from crypto.joins.layout import Comparison, Extreme, Layout, Order
from crypto.joins.released import open_cells
from crypto.joins.rows import (
    SideRows,
    one_hot,
    plain_dominated,
    plain_extremes,
    plain_pairs,
    plain_terms,
)
from crypto.sharing import UInt64Array, recombine, to_bytes
from exchange.node.adapters.process_engine import ProcessEngine
from exchange.node.engine import EngineLimits
from tests.fakes.seats import seats
from tests.fakes.tunnel import Tunnel
from tests.fakes.two_sides import Sides, a_layout, two_sides

pytestmark = pytest.mark.engine

LIMITS = EngineLimits(deadline_s=120, memory_bytes=3 * 2**30)
LARGER = Comparison(2, 1, Order.GREATER, 2, 1)
ORDERS = tuple(Comparison(2, 1, order, 2, 1) for order in Order)
LARGEST = Extreme(0, 2, 1, largest=True, low=-(2**40), high=2**40, people=1)
LEAST = Extreme(1, 2, 1, largest=False, low=-(2**40), high=2**40, people=3)
EVERYTHING = a_layout(
    2,
    2,
    1,
    1,
    5,
    products=True,
    comparisons=(LARGER,),
    extremes=(LARGEST, LEAST),
    dominance=Fraction(1, 10),
    round_counts=10,
)


def paired(sides: Sides, extra: int) -> list[UInt64Array]:
    """Both sides' columns of the pairs in common, and of `extra` pairs that nobody is in."""
    bare = replace(sides.layout, comparisons=())
    at = plain_pairs(bare, sides.a, sides.b)
    found = []
    for side, (rows, places) in enumerate(zip((sides.a, sides.b), at, strict=True)):
        groups = one_hot(rows.group, sides.layout.groups(side))
        columns = [
            rows.factor(column.factor) if column.group is None else groups[:, column.group]
            for column in row_columns(sides.layout, side)
        ]
        # Rows outside the domain are never uploaded.
        inside = np.stack(columns) * groups.sum(axis=1)
        found.append(np.pad(inside[:, places], ((0, 0), (0, extra))).view(np.uint64))
    return found


def shares_of(value: UInt64Array, seed: int) -> list[Replicated]:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 2**64, (2, *value.shape), dtype=np.uint64)
    components = [first, second, value - first - second]
    return [Replicated(components[rank], components[(rank + 1) % 3]) for rank in range(3)]


def opened(shares: list[Replicated]) -> np.ndarray[Any, np.dtype[np.int64]]:
    for rank in range(3):
        assert np.array_equal(shares[rank].second, shares[(rank + 1) % 3].first)
    return recombine([to_bytes(share.first) for share in shares])


@pytest.mark.parametrize(
    "layout",
    [
        *(a_layout(1, 1, 1, 1, 1, comparisons=(order,)) for order in ORDERS),
        a_layout(2, 3, 1, 1, 5, comparisons=(LARGER, ORDERS[1])),
        a_layout(2, 3, 1, 1, 5, extremes=(LARGEST, LEAST)),
        a_layout(1, 2, 2, 1, 5, dominance=Fraction(1, 25)),
        a_layout(3, 1, 1, 0, 5, outer=True, dominance=Fraction(1, 32)),
        a_layout(1, 1, 0, 0, 5, dominance=Fraction(1, 2)),
        EVERYTHING,
    ],
    ids=lambda layout: f"{layout.groups_a}x{layout.groups_b}, {len(layout.terms)} terms",
)
def test_what_goes_row_by_row_is_what_the_specification_says(
    monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    from crypto.adapters import spu_hidden, spu_machine, spu_rows

    monkeypatch.setattr(spu_rows, "NUMBERS_PER_BLOCK", 2000)  # several blocks, the last not full
    sides = two_sides(200, layout=layout, values_up_to=2**25)
    # Ties, or equal and unequal could be taken for each other.
    sides.b.factors[:, 1:2] = np.sign(sides.b.factors[:, 1:2])
    sides.a.factors[:, 1:2] = np.sign(sides.a.factors[:, 1:2])
    columns = [shares_of(held, side) for side, held in enumerate(paired(sides, extra=37))]

    ends = spu_machine.in_process(
        3,
        lambda link, rank: spu_hidden.SharedProgram(link, rank).rows(
            layout, columns[0][rank], columns[1][rank]
        ),
    )
    terms = plain_terms(layout, sides.a, sides.b)
    inner = [not term.outer for term in layout.terms]
    found = opened([end.terms for end in ends]).reshape(terms.shape)
    assert np.array_equal(found[inner], terms[inner])
    extremes = plain_extremes(layout, sides.a, sides.b)
    gates = [terms[extreme.people] for extreme in layout.extremes]
    shown = np.array(gates, dtype=np.int64).reshape(extremes.shape) > 0
    found = opened([end.extremes for end in ends]).reshape(extremes.shape)
    assert np.array_equal(found[shown], extremes[shown])
    if layout.dominance is None:
        assert all(end.dominance is None for end in ends)
        return
    dominated = plain_dominated(layout, sides.a, sides.b) & np.array(inner)[:, None]
    passes = [
        ~np.any(
            [dominated[i] for i, term in enumerate(layout.terms) if term.people == gate], axis=0
        )
        for gate in layout.gates
    ]
    found = opened([end.dominance for end in ends]).reshape(len(passes), layout.cells)
    assert np.array_equal(found, np.array(passes))


def test_a_share_layout_that_is_not_the_known_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The nearest forgery of our layout: the pair's components in the other order."""
    from crypto.adapters import spu_hidden, spu_machine

    spu_hidden.check_layout()
    right = spu_machine.Machine.take

    def swapped(machine: spu_machine.Machine, name: str, storage: str, words: int) -> bytes:
        held = np.frombuffer(right(machine, name, storage, words), dtype=np.uint64)
        return held.reshape(-1, 2)[:, ::-1].tobytes()

    monkeypatch.setattr(spu_machine.Machine, "take", swapped)
    with pytest.raises(EngineFailed, match="did not add up") as failed:
        spu_hidden.check_layout()
    assert failed.value.fault is EngineFault.LAYOUT
    monkeypatch.setattr(spu_machine, "SPU_VERSION", "0.9.6")
    with pytest.raises(EngineFailed, match=r"not 0\.9\.6"):
        spu_hidden.check_layout()


class Three:
    """Three nodes' engines, two holders' and a helper's, and the tunnels to each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engines = [ProcessEngine(folder / name, folder / "logs") for name in "abc"]
        self.tunnels = [Tunnel() for _ in range(3)]
        self.attempts = 0

    def tasks(
        self, layout: Layout, *, noise: NoiseScales | None = None, hide_size: bool = False
    ) -> list[HiddenTask]:
        self.attempts += 1
        places = seats(
            [tunnel.engine for tunnel in self.tunnels],
            [tunnel.address for tunnel in self.tunnels],
            attempt=f"att_{self.attempts}",
            receive_timeout_ms=20_000,
        )
        return [
            HiddenTask(
                seat=seat,
                layout=layout,
                combination=Combination.JOIN,
                caps=(500, 500),
                padding=PaddingBounds(Fraction(1), Fraction(1, 10**6), 1),
                hide_size=hide_size,
                token_key=b"t" * 32 if seat.rank < 2 else b"",
                noise=noise,
            )
            for seat in places
        ]

    def run(
        self,
        tasks: list[HiddenTask],
        sides: Sides,
        on_stage: Callable[[EngineStage], None] = lambda _: None,
    ) -> list[EngineOutcome | EngineFailed]:
        """How each party's run ended. `on_stage` hears the stages of A."""
        ends: list[EngineOutcome | EngineFailed] = [EngineFailed(EngineFault.CRASHED, "")] * 3

        def take_part(rank: int) -> None:
            rows: tuple[SideRows | None, ...] = (sides.a, sides.b, None)
            try:
                run = self.engines[rank].start(tasks[rank], rows[rank], LIMITS)
                ends[rank] = run.wait(on_stage if rank == 0 else lambda _: None)
            except EngineFailed as failed:
                ends[rank] = failed

        threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ends

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
        for tunnel in self.tunnels:
            tunnel.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    made = Three(tmp_path_factory.mktemp("three"))
    yield made
    made.close()
    assert [path.name for n in "abc" for path in (made.folder / n).iterdir()] == ["lock"] * 3


def shares(ends: list[EngineOutcome | EngineFailed]) -> list[bytes]:
    for end in ends:
        if isinstance(end, EngineFailed):
            raise end
    return [end.share for end in ends if isinstance(end, EngineOutcome)]


@pytest.mark.parametrize(
    "layout",
    [a_layout(), a_layout(3, 1, 1, 0, 5, outer=True, round_counts=7), EVERYTHING],
    ids=["sums", "a left join", "everything by row"],
)
@pytest.mark.parametrize("hide_size", [False, True], ids=["padded size", "hidden size"])
def test_three_nodes_together_give_the_receiver_the_exact_answer(
    three: Three, layout: Layout, hide_size: bool
) -> None:
    sides = two_sides(300, layout=layout, values_up_to=2**25)
    ends = three.run(three.tasks(layout, hide_size=hide_size), sides)
    assert open_cells(layout, shares(ends)) == sides.truth


def test_a_helper_that_holds_another_plan_lets_nobody_compute(three: Three) -> None:
    sides = two_sides(50)
    tasks = three.tasks(sides.layout)
    lax = replace(sides.layout, min_group=1)
    ends = three.run([*tasks[:2], replace(tasks[2], layout=lax)], sides)
    faults = [end.fault for end in ends if isinstance(end, EngineFailed)]
    assert len(faults) == 3
    assert EngineFault.MISMATCH in faults
    assert set(faults) <= {EngineFault.MISMATCH, EngineFault.PEER}
