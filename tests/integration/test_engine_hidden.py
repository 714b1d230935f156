"""The hidden join on real engines: SPU under ABY3 in three threads, and in three processes."""

from __future__ import annotations

import os
import signal
import socket
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
from crypto.joins.layout import Comparison, Extreme, Layout, Order, Third
from crypto.joins.released import open_cells
from crypto.joins.rows import (
    SideRows,
    limited_terms,
    one_hot,
    plain_dominated,
    plain_extremes,
    plain_output,
    plain_pairs,
    plain_terms,
    second_side,
)
from crypto.noise import Distribution, slack
from crypto.sharing import UInt64Array, recombine, to_bytes
from exchange.node.adapters.process_engine import ProcessEngine
from exchange.node.engine import EngineLimits
from tests.fakes.children import children_in
from tests.fakes.seats import seats
from tests.fakes.tunnel import Tunnel, free_port
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
    dominance=Fraction(1, 5),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "layout",
    [
        *(a_layout(1, 1, 1, 1, 1, comparisons=(order,)) for order in ORDERS),
        a_layout(2, 3, 1, 1, 5, comparisons=(LARGER, ORDERS[1])),
        a_layout(2, 3, 1, 1, 5, extremes=(LARGEST, LEAST)),
        a_layout(1, 2, 2, 1, 5, dominance=Fraction(1, 21)),
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
    if layout.comparisons and layout.dominance is None:
        # Ties, or equal and unequal could be taken for each other.
        for rows in (sides.a, sides.b):
            rows.factors[:, 1:2] = np.sign(rows.factors[:, 1:2])
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
    if limited_terms(layout) and not layout.terms[-1].outer:
        assert dominated.any()
        assert not dominated[dominated.any(axis=1)].all()
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
    """The engines of two holders' nodes, a helper's and, of some attempts, a third holder's. Every
    attempt has tunnels of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engines = [ProcessEngine(folder / name, folder / "logs") for name in "abcd"]
        self.tunnels: list[Tunnel] = []

    def tasks(
        self,
        layout: Layout,
        *,
        noise: NoiseScales | None = None,
        combination: Combination = Combination.JOIN,
        hide_size: bool = False,
    ) -> list[HiddenTask]:
        parties = 3 if layout.third is None else 4
        self.tunnels += [Tunnel() for _ in range(parties)]
        places = seats(
            [tunnel.engine for tunnel in self.tunnels[-parties:]],
            [tunnel.address for tunnel in self.tunnels[-parties:]],
            attempt=f"att_{len(self.tunnels)}",
            connect_timeout_ms=15_000,
            receive_timeout_ms=10_000,
        )
        join = combination is Combination.JOIN
        return [
            HiddenTask(
                seat=seat,
                layout=layout,
                combination=combination,
                caps=(500,) * (parties - 1),
                padding=PaddingBounds(Fraction(1), Fraction(1, 10**6), 1) if join else None,
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
        *,
        third: SideRows | None = None,
    ) -> list[EngineOutcome | EngineFailed]:
        """How each party's run ended. `on_stage` hears the stages of A."""
        crashed = EngineFailed(EngineFault.CRASHED, "")
        ends: list[EngineOutcome | EngineFailed] = [crashed] * len(tasks)

        def take_part(rank: int) -> None:
            rows: tuple[SideRows | None, ...] = (sides.a, sides.b, None, third)
            try:
                run = self.engines[rank].start(tasks[rank], rows[rank], LIMITS)
                ends[rank] = run.wait(on_stage if rank == 0 else lambda _: None)
            except EngineFailed as failed:
                ends[rank] = failed

        threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(len(tasks))]
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
    assert [path.name for n in "abcd" for path in (made.folder / n).iterdir()] == ["lock"] * 4


def shares(ends: list[EngineOutcome | EngineFailed]) -> list[bytes]:
    for end in ends:
        if isinstance(end, EngineFailed):
            raise end
    return [end.share for end in ends if isinstance(end, EngineOutcome)]


@pytest.mark.parametrize(
    ("layout", "hide_size"),
    [
        pytest.param(a_layout(), False, marks=pytest.mark.slow),
        pytest.param(
            a_layout(3, 1, 1, 0, 5, outer=True, round_counts=7), True, marks=pytest.mark.slow
        ),
        pytest.param(EVERYTHING, False, marks=pytest.mark.slow),
        (EVERYTHING, True),
    ],
    ids=["sums", "a left join, size hidden", "everything by row", "by row, size hidden"],
)
def test_three_nodes_together_give_the_receiver_the_exact_answer(
    three: Three, layout: Layout, hide_size: bool
) -> None:
    sides = two_sides(300, layout=layout, values_up_to=2**25)
    ends = three.run(three.tasks(layout, hide_size=hide_size), sides)
    assert open_cells(layout, shares(ends)) == sides.truth


OF_THREE = replace(
    a_layout(2, 4, 1, 2, 5, products=True),
    third=Third(2, 2, 3, 3, ((0, 0), (1, 0), (2, 0), (0, 1), (2, 2))),
)
BY_ROW_OF_THREE = replace(
    OF_THREE,
    comparisons=(LARGER,),
    extremes=(replace(LEAST, low=-(2**50), high=2**50, factor=4, mark=3),),
    dominance=Fraction(1, 5),
)


def of_three(layout: Layout) -> tuple[Sides, SideRows]:
    """Two sides, and a third holder's rows of most of the people of B."""
    assert layout.third is not None
    bare = a_layout(2, 2, 1, 1)
    sides = two_sides(300, layout=bare, values_up_to=2**20)
    other = two_sides(300, layout=bare, values_up_to=2**20, seed=1).b
    at = np.random.default_rng(2).permutation(300)[:280]
    rows = SideRows(sides.b.tokens[at], other.group[at], other.factors[at])
    return replace(sides, layout=layout), rows


@pytest.mark.slow
@pytest.mark.parametrize("layout", [OF_THREE, BY_ROW_OF_THREE], ids=["sums", "by row"])
def test_four_nodes_of_three_holders_give_the_exact_answer(three: Three, layout: Layout) -> None:
    sides, rows = of_three(layout)
    ends = three.run(three.tasks(layout), sides, third=rows)
    assert layout.third is not None
    truth = plain_output(layout, sides.a, second_side(layout.third, sides.b, rows))
    assert recombine(shares(ends)).tolist() == truth.tolist()
    assert truth[: layout.cells].any()
    assert shares(ends)[3] == bytes(8 * layout.outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "when"),
    [
        (2, EngineStage.CHECK),
        (3, EngineStage.UPLOAD),
        (0, EngineStage.GATE),
    ],
    ids=["the helper, check", "D, upload", "A, gate"],
)
def test_a_party_of_four_killed_mid_run_fails_every_run_the_third_holders_too(
    three: Three, victim: int, when: EngineStage
) -> None:
    sides, rows = of_three(OF_THREE)

    def kill(stage: EngineStage) -> None:
        if stage is when:
            for pid in children_in(three.folder / "abcd"[victim]):
                os.kill(pid, signal.SIGKILL)

    ends = three.run(three.tasks(OF_THREE), sides, kill, third=rows)
    failed = {rank: end.fault for rank, end in enumerate(ends) if isinstance(end, EngineFailed)}
    assert set(failed.values()) <= {EngineFault.PEER, EngineFault.CRASHED}
    # All that the third holder had to say may have left before it died: then the others go on,
    # and its own receipt, which it cannot sign, is what the job lacks.
    assert set(failed) in ({0, 1, 2, 3}, {3} if victim == 3 else {0, 1, 2, 3})


@pytest.mark.slow
def test_a_helper_that_holds_another_plan_lets_nobody_compute(three: Three) -> None:
    sides = two_sides(50)
    tasks = three.tasks(sides.layout)
    lax = replace(sides.layout, min_group=1)
    ends = three.run([*tasks[:2], replace(tasks[2], layout=lax)], sides)
    faults = [end.fault for end in ends if isinstance(end, EngineFailed)]
    assert len(faults) == 3
    assert EngineFault.MISMATCH in faults
    assert set(faults) <= {EngineFault.MISMATCH, EngineFault.PEER}


@pytest.mark.slow
def test_two_draws_of_noise_stand_between_the_exact_answer_and_the_receiver(three: Three) -> None:
    """Two draws of scale 3 together: one beyond 120 with odds below 1e-13; no more than five
    different values among twenty with odds below 1e-6."""
    scale = Fraction(3)
    layout = replace(
        a_layout(1, 8, 1, 1, 2), slack=slack(Distribution.LAPLACE, scale, Fraction(1, 10**3))
    )
    noise = NoiseScales(Distribution.LAPLACE, (scale,) * len(layout.terms), (1, 2))
    sides = two_sides(480, overlap=460, layout=layout, values_up_to=2**25)
    cells = open_cells(layout, shares(three.run(three.tasks(layout, noise=noise), sides)))
    exact = plain_terms(layout, sides.a, sides.b)
    differences = [
        shown - int(exact[t, i])
        for i, cell in enumerate(cells)
        for t, shown in enumerate(cell.terms)
        if shown is not None
    ]
    assert len(differences) >= 20
    assert max(map(abs, differences)) < 120
    assert len(set(differences)) > 5


@pytest.mark.slow
def test_a_union_adds_up_what_each_holder_has(three: Three) -> None:
    layout = a_layout(3, 1, 1, 0, 5)
    sides = two_sides(300, layout=layout)
    other = two_sides(200, layout=layout, seed=1).a
    both = replace(sides, b=other)
    ends = three.run(three.tasks(layout, combination=Combination.UNION), both)
    every = [(rows, one_hot(rows.group, 3)) for rows in (sides.a, other)]
    expected = [
        [
            int(sum(groups[:, g] @ rows.factor(term.left) for rows, groups in every))
            for g in range(3)
        ]
        for term in layout.terms
    ]
    for cell in open_cells(layout, shares(ends)):
        for term, value in enumerate(cell.terms):
            of_gate = expected[layout.terms[term].people][cell.group_a]
            assert value == (expected[term][cell.group_a] if of_gate >= 5 else None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "when"),
    [(1, EngineStage.UPLOAD), (2, EngineStage.CHECK), (1, EngineStage.GATE)],
    ids=["B, upload", "the helper, check", "B, gate"],
)
def test_a_party_killed_mid_run_fails_the_others_runs_and_not_their_nodes(
    three: Three, victim: int, when: EngineStage
) -> None:
    sides = two_sides(300, layout=EVERYTHING, values_up_to=2**25)

    def kill(stage: EngineStage) -> None:
        if stage is when:
            for pid in children_in(three.folder / "abc"[victim]):
                os.kill(pid, signal.SIGKILL)

    ends = three.run(three.tasks(EVERYTHING), sides, kill)
    faults = [end.fault for end in ends if isinstance(end, EngineFailed)]
    assert len(faults) == 3
    assert set(faults) <= {EngineFault.PEER, EngineFault.CRASHED}
    few = two_sides(50)
    again = three.run(three.tasks(few.layout), few)
    assert open_cells(few.layout, shares(again)) == few.truth


def test_more_rows_than_the_product_states_never_reach_an_engine(three: Three) -> None:
    sides = two_sides(501)
    with pytest.raises(EngineFailed, match="more rows than the 500") as failed:
        three.engines[0].start(three.tasks(sides.layout)[0], sides.a, LIMITS)
    assert failed.value.fault is EngineFault.INPUT


def test_a_helper_that_brings_rows_is_refused(three: Three) -> None:
    sides = two_sides(20)
    with pytest.raises(EngineFailed, match="a helper brings no rows"):
        three.engines[2].start(three.tasks(sides.layout)[2], sides.a, LIMITS)


def test_spu_listens_where_the_channels_did_while_these_go_on() -> None:
    from crypto.adapters import spu_machine, tcp_channels

    ports = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    places = seats(ports, ports)
    found: dict[int, tuple[list[str], str]] = {}

    def take_part(rank: int) -> None:
        peer = (rank + 1) % 3
        with tcp_channels.connect(places[rank]) as channels:
            link = spu_machine.connect(places[rank])
            said = spu_machine.exchange(link, f"rank {rank}")
            channels.send(peer, "still here", f"rank {rank}".encode())
            heard = channels.receive((rank + 2) % 3, "still here").decode()
            link.stop_link()
        found[rank] = said, heard

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everybody = [f"rank {rank}" for rank in range(3)]
    assert found == {rank: (everybody, everybody[rank - 1]) for rank in range(3)}


def test_spu_waits_for_a_port_that_is_still_held() -> None:
    from crypto.adapters import spu_machine

    ports = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    places = seats(ports, ports)
    holder = socket.create_server(("127.0.0.1", int(ports[0].rpartition(":")[2])))
    threading.Timer(1, holder.close).start()
    found: dict[int, list[str]] = {}

    def take_part(rank: int) -> None:
        link = spu_machine.connect(places[rank])
        found[rank] = spu_machine.exchange(link, str(rank))
        link.stop_link()

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: ["0", "1"], 1: ["0", "1"]}
