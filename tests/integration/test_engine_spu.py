"""SPU in child processes, where only real processes can tell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.engine import EngineStage, RevealedTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.intersection import Intersection
from crypto.joins.layout import Layout
from crypto.joins.released import open_cells
from crypto.joins.rows import Int64Array, SideRows
from exchange.node.adapters.process_engine import ProcessEngine
from exchange.node.engine import EngineLimits
from tests.fakes.children import children_in
from tests.fakes.seats import nowhere, seats
from tests.fakes.tunnel import Tunnel
from tests.fakes.two_sides import Sides, a_layout, two_sides

pytestmark = pytest.mark.engine

LIMITS = EngineLimits(deadline_s=120, memory_bytes=3 * 2**30)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[tuple[ProcessEngine, ProcessEngine]]:
    both = (
        ProcessEngine(tmp_path / "a", tmp_path / "logs"),
        ProcessEngine(tmp_path / "b", tmp_path / "logs"),
    )
    yield both
    for engine in both:
        engine.close()
    for party in "ab":
        assert [path.name for path in (tmp_path / party).iterdir()] == ["lock"]


@pytest.fixture
def tasks() -> Iterator[Callable[[Sides], tuple[RevealedTask, RevealedTask]]]:
    """Both parties' tasks of a new attempt, which has tunnels of its own."""
    tunnels: list[Tunnel] = []

    def make(sides: Sides) -> tuple[RevealedTask, RevealedTask]:
        tunnels.extend([Tunnel(), Tunnel()])
        a, b = seats(
            [tunnel.engine for tunnel in tunnels[-2:]],
            [tunnel.address for tunnel in tunnels[-2:]],
            attempt=f"att_{len(tunnels)}",
            connect_timeout_ms=20_000,
            receive_timeout_ms=5_000,
        )
        return (
            RevealedTask(a, sides.layout, Intersection.RR22, b"z" * 32),
            RevealedTask(b, sides.layout, Intersection.RR22, b"z" * 32),
        )

    yield make
    for tunnel in tunnels:
        tunnel.close()


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_exact(
    engines: tuple[ProcessEngine, ProcessEngine],
    tasks: Callable[[Sides], tuple[RevealedTask, RevealedTask]],
) -> None:
    sides = two_sides(120_000, overlap=100_001)  # two blocks, the second not full
    a, b = tasks(sides)
    runs = engines[0].start(a, sides.a, LIMITS), engines[1].start(b, sides.b, LIMITS)
    outcome_a, outcome_b = (run.wait() for run in runs)
    assert outcome_a.learned == {"matched": 100_001}
    assert open_cells(sides.layout, (outcome_a.share, outcome_b.share)) == sides.truth
    assert outcome_a.versions["spu"] == "0.9.5"
    assert outcome_a.peak_rss_bytes < LIMITS.memory_bytes


@pytest.mark.slow
@pytest.mark.parametrize("when", [EngineStage.MATCH, EngineStage.COMPUTE], ids=lambda s: s.value)
def test_a_peer_killed_mid_run_fails_the_survivors_run_and_not_the_survivor(
    engines: tuple[ProcessEngine, ProcessEngine],
    tasks: Callable[[Sides], tuple[RevealedTask, RevealedTask]],
    tmp_path: Path,
    when: EngineStage,
) -> None:
    sides = two_sides(100_000)
    a, b = tasks(sides)
    survivor = engines[0].start(a, sides.a, LIMITS)
    victim = engines[1].start(b, sides.b, LIMITS)

    def kill(stage: EngineStage) -> None:
        if stage is when:
            for pid in children_in(tmp_path / "b"):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(EngineFailed, match="SIGKILL"):
        victim.wait(kill)
    with pytest.raises(EngineFailed) as failed:
        survivor.wait()
    assert failed.value.fault in (EngineFault.PEER, EngineFault.CRASHED)

    few = two_sides(300)
    a, b = tasks(few)
    runs = engines[0].start(a, few.a, LIMITS), engines[1].start(b, few.b, LIMITS)
    again = [run.wait() for run in runs]
    assert open_cells(few.layout, [end.share for end in again]) == few.truth


def test_an_engine_beyond_its_memory_is_ended(
    engines: tuple[ProcessEngine, ProcessEngine],
    tasks: Callable[[Sides], tuple[RevealedTask, RevealedTask]],
) -> None:
    sides = two_sides(20)
    task, _ = tasks(sides)
    with pytest.raises(EngineFailed, match="the limit is 100 MiB") as failed:
        engines[0].start(task, sides.a, replace(LIMITS, memory_bytes=100 * 2**20)).wait()
    assert failed.value.fault is EngineFault.MEMORY


def test_an_engine_dies_with_its_node_and_the_next_start_wipes_what_it_held(
    tmp_path: Path,
) -> None:
    program = f"""
import time
from pathlib import Path
from exchange.node.adapters.process_engine import ProcessEngine
ProcessEngine(Path({str(tmp_path / "runs")!r}), Path({str(tmp_path / "logs")!r})).warm()
print("warm", flush=True)
time.sleep(60)
"""
    node = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert node.stdout is not None
    assert node.stdout.readline() == b"warm\n"
    assert len(children_in(tmp_path / "runs")) == 1
    node.kill()
    node.wait()
    node.stdout.close()
    give_up = time.monotonic() + 10
    while children_in(tmp_path / "runs"):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    ProcessEngine(tmp_path / "runs", tmp_path / "logs").close()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lock"]


def test_a_share_layout_that_is_not_the_known_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from crypto.adapters import spu_machine, spu_revealed

    spu_revealed.check_layout()
    right = spu_machine.Machine.take

    def shifted(machine: spu_machine.Machine, name: str, storage: str, words: int) -> bytes:
        held = right(machine, name, storage, words)
        return held if name == "checks" else held[8:] + held[:8]

    monkeypatch.setattr(spu_machine.Machine, "take", shifted)
    with pytest.raises(EngineFailed, match="did not add up") as failed:
        spu_revealed.check_layout()
    assert failed.value.fault is EngineFault.LAYOUT
    monkeypatch.setattr(spu_machine, "SPU_VERSION", "0.9.6")
    with pytest.raises(EngineFailed, match=r"not 0\.9\.6"):
        spu_revealed.check_layout()


def test_an_output_shared_as_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest forgery of an arithmetic share: a comparison returned as it is."""
    from crypto.adapters import spu_gate, spu_machine, spu_revealed

    def forged(layout: Layout, *, noised: bool, most: int | None) -> Any:
        length = (spu_gate.GateRows(layout).length,)
        return spu_machine.program(
            lambda counted, values: (counted >= values).astype("int64"),
            {"counted": length, "values": length},
            ["shown"],
        )

    monkeypatch.setattr(spu_revealed, "gate_program", forged)
    with pytest.raises(EngineFailed) as failed:
        spu_revealed.check_layout()
    assert "not stored as cheetah.AShr" in str(failed.value.__cause__)


def a_weight(columns: Int64Array) -> None:
    columns[3] = (9, 0)


def two_groups_at_once(columns: Int64Array) -> None:
    columns[:] = columns.any(axis=1, keepdims=True)


def a_pair_that_cancels(columns: Int64Array) -> None:
    columns[3] = (5, -4)


def a_weight_that_wraps(columns: Int64Array) -> None:
    columns[3] = (2**62, 0)


@pytest.mark.parametrize(
    "forge",
    [
        a_weight,
        *(
            pytest.param(forge, marks=pytest.mark.slow)
            for forge in (two_groups_at_once, a_pair_that_cancels, a_weight_that_wraps)
        ),
    ],
    ids=lambda forge: forge.__name__,
)
@pytest.mark.parametrize("cheat", [0, 1], ids=["A", "B"])
def test_nobody_can_enter_weights_in_place_of_people(
    monkeypatch: pytest.MonkeyPatch, cheat: int, forge: Callable[[Int64Array], None]
) -> None:
    """Each is found but with probability below 2**-13, single rows always."""
    from crypto.adapters import spu_machine, spu_revealed

    sides = two_sides(20, overlap=20, layout=a_layout(2, 2, 1, 1, 1))
    rows = (sides.a, sides.b)
    order = [np.argsort(side.tokens.view("V16").ravel().tolist()) for side in rows]
    right = spu_revealed._Side.matrix

    def forged(side: spu_revealed._Side, held: SideRows, at: Int64Array, block: int) -> Int64Array:
        columns = right(side, held, at, block)
        if held is rows[cheat]:
            forge(columns[:, 2:4])  # of factor 1, "has a value"
        return columns

    def together() -> list[Any]:
        return spu_machine.in_process(
            2,
            lambda link, rank: spu_revealed._aggregate(
                link, rank, sides.layout, bytes(32), rows[rank], order[rank], lambda _: None
            ),
        )

    together()
    monkeypatch.setattr(spu_revealed._Side, "matrix", forged)
    with pytest.raises(EngineFailed) as failed:
        together()
    assert isinstance(failed.value.__cause__, EngineFailed)
    assert failed.value.__cause__.fault is EngineFault.MISMATCH


def test_a_layout_that_goes_row_by_row_is_refused_before_anything_is_sent() -> None:
    from crypto.adapters import spu_revealed

    sides = two_sides(20, layout=a_layout(dominance=Fraction(1, 2)))
    task = RevealedTask(nowhere(2)[0], sides.layout, Intersection.RR22, b"z" * 32)
    with pytest.raises(EngineFailed, match="need the hidden join") as failed:
        spu_revealed.run(task, sides.a, on_stage=lambda _: None)
    assert failed.value.fault is EngineFault.INPUT
