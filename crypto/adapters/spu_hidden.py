"""The hidden join's computing on shares, on SPU 0.9.5 under ABY3, and the whole run around it.

Specification: docs/hidden_join.md, *Hand-over to SPU* and *Noise, gate, opening*. Ranks 0, 1, 2 are
A, B, C. SPU's ABY3 keeps, at rank i, the pair of components i and i + 1 of every number, each a
little-endian 64-bit word: these are the protocol's own pairs, so they are put into SPU's storage
and taken from it as they are. That layout is internal to SPU; the version is pinned and a known
answer is compared when a child starts (`check_layout`).

A comparison is true on rows that are nobody's, where all columns are zero. What is computed on
pairs is therefore always multiplied by the pair's groups, which are zero there too.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final

import numpy as np

from crypto.adapters import spu_machine, tcp_channels
from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.adapters.spu_gate import GateRows, gate_program
from crypto.adapters.spu_machine import Machine, OnStage, program
from crypto.adapters.spu_rows import RowWork
from crypto.adapters.stages import Stages
from crypto.engine import EngineOutcome, EngineStage, HiddenTask, Seat
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.hidden import protocol
from crypto.joins.hidden.ports import Replicated, RowResults
from crypto.joins.layout import COUNTED, THIRD_RANK, Layout, Term
from crypto.joins.rows import Int64Array, SideRows
from crypto.ports import SystemRandomness
from crypto.sharing import UInt64Array, recombine, to_bytes

PARTIES: Final = 3
_RUNTIME: Final = json.dumps({"protocol": "ABY3", "field": "FM64"})
_PATIENCE_MS: Final = 24 * 3_600_000
_ARITHMETIC: Final = "aby3.AShr<FM64>"


def run(task: HiddenTask, rows: SideRows | None, *, on_stage: OnStage) -> EngineOutcome:
    """Take this party's part in the hidden join. rows: None at the helper.

    Raises EngineFailed; SPU may also end the process, which the supervisor reports.
    """
    clock = Stages(on_stage)
    clock.enter(EngineStage.CONNECT)
    seat = task.seat
    if seat.rank == THIRD_RANK:
        # It waits from its upload to the others' end; that long is the supervisor's business.
        seat = replace(seat, receive_timeout_ms=_PATIENCE_MS)
    with tcp_channels.connect(seat, task.peers) as channels:
        secure = ThreePartySpu(seat)
        result = protocol.run(
            task,
            rows,
            channels=channels,
            randomness=SystemRandomness(),
            noise=OpenDpNoise(),
            secure=secure,
            on_stage=clock.enter,
        )
        secure.close()
    return EngineOutcome(
        share=result.share,
        learned=result.learned,
        timings_ms=clock.finish(),
        versions={name: version(name) for name in ("jax", "numpy", "opendp", "spu")},
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


class ThreePartySpu:
    """A `crypto.joins.hidden.ports.ThreePartyEngine`.

    The machines meet at the first call. By then channels stand between all children, none of which
    listens for them any more, so SPU takes their port; and every check that can fail has passed.
    Earlier, a party that stops with a reason would have SPU abort the others before they give it.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._link: Any = None

    def gate(self, layout: Layout, exact: Replicated, noisy: Replicated) -> Replicated:
        return self._program().gate(layout, exact, noisy)

    def rows(self, layout: Layout, columns_a: Replicated, columns_b: Replicated) -> RowResults:
        return self._program().rows(layout, columns_a, columns_b)

    def close(self) -> None:
        """Waits until what was sent has arrived; a peer may still need our last message."""
        if self._link is not None:
            self._link.stop_link()

    def _program(self) -> SharedProgram:
        if self._link is None:
            self._link = spu_machine.connect(self._seat)
        return SharedProgram(self._link, self._seat.rank)


class SharedProgram:
    """What the three machines compute for one call, over a link that stands."""

    def __init__(self, link: Any, rank: int) -> None:
        self._machine = Machine(link, rank, PARTIES, _RUNTIME)
        self._rank = rank

    def gate(self, layout: Layout, exact: Replicated, noisy: Replicated) -> Replicated:
        """See `ThreePartyEngine.gate`."""
        rows, noised = GateRows(layout), noisy is not exact

        def counts(value: UInt64Array) -> UInt64Array:
            return rows.counts(value.reshape(-1, layout.cells))

        self._put("counted", _each(exact, counts))
        if noised:
            self._put("noisy", _each(noisy, counts))
        one = self._constant(np.ones(1, dtype=np.uint64))
        shown = noisy.first.reshape(-1, layout.cells), noisy.second.reshape(-1, layout.cells)
        self._put(
            "values",
            Replicated(
                rows.values(shown[0], int(one.first[0])), rows.values(shown[1], int(one.second[0]))
            ),
        )
        self._machine.execute(gate_program(layout, noised=noised, most=None))
        return _each(self._take("shown", rows.length), rows.output)

    def rows(self, layout: Layout, columns_a: Replicated, columns_b: Replicated) -> RowResults:
        """See `ThreePartyEngine.rows`. Goes through the pairs in blocks, twice if there is a
        dominance limit, whose totals must be known first."""
        work, columns = RowWork.of(layout), {"a": columns_a, "b": columns_b}
        pairs = columns_a.first.shape[1]
        # No pair at all still makes one block, of zeros.
        blocks = max(1, -(-pairs // work.most_rows))
        block = max(1, -(-pairs // blocks))
        given, kept = work.columns(block), work.kept(block)
        add = program(work.add_block, work.sums | given, [*work.sums, *kept])
        self._zero(work.sums)
        held: list[dict[str, Any]] = []
        for index in range(blocks):
            for name, whole in columns.items():
                self._put(name, _block(whole, index * block, block))
            self._machine.execute(add)
            held.append({name: self._machine.keep(name) for name in kept})
        found = {name: self._take(name, shape[0]) for name, shape in work.sums.items()}
        dominance = None
        if layout.dominance is not None:
            dominance = self._dominance(work, columns, held, block)
        extremes = found.get("best", _nothing())
        return RowResults(found["terms"], self._extremes(layout, extremes), dominance)

    def _dominance(
        self,
        work: RowWork,
        columns: Mapping[str, Replicated],
        held: Sequence[Mapping[str, Any]],
        block: int,
    ) -> Replicated:
        layout = work.layout
        ones = layout.cells * len(layout.gates)
        if not work.sizes:
            return self._constant(np.ones(ones, dtype=np.uint64))
        beyond = {"beyond": (len(work.sizes) * layout.cells,)}
        given = work.columns(block) | work.kept(block)
        limit = program(
            work.limit_block, beyond | {"totals": work.sums["totals"]} | given, ["beyond"]
        )
        self._zero(beyond)
        for index, shares in enumerate(held):
            for name, whole in columns.items():
                self._put(name, _block(whole, index * block, block))
            for name, share in shares.items():
                self._machine.restore(name, share)
            self._machine.execute(limit)
        self._put("one", self._constant(np.ones(ones, dtype=np.uint64)))
        self._machine.execute(program(work.passes, beyond | {"one": (ones,)}, ["passes"]))
        return self._take("passes", ones)

    def _extremes(self, layout: Layout, best: Replicated) -> Replicated:
        """From distances to values: low + distance, or high - distance."""
        by_extreme = [layout.cells * [extreme] for extreme in layout.extremes]
        each = [extreme for cells in by_extreme for extreme in cells]
        bound = np.array([e.low if e.largest else e.high for e in each], dtype=np.int64)
        sign = np.array([1 if e.largest else -1 for e in each], dtype=np.int64).view(np.uint64)
        start = self._constant(bound.view(np.uint64))
        return Replicated(start.first + sign * best.first, start.second + sign * best.second)

    def _constant(self, value: UInt64Array) -> Replicated:
        """What everybody knows: all of it in component 0."""
        none = np.zeros_like(value)
        return Replicated(value if self._rank == 0 else none, value if self._rank == 2 else none)

    def _zero(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            self._put(name, self._constant(np.zeros(shape, dtype=np.uint64)))

    def _put(self, name: str, value: Replicated) -> None:
        """Hand the pairs over as they are."""
        pairs = np.stack([value.first, value.second], axis=-1).astype("<u8", copy=False)
        self._machine.put(name, _ARITHMETIC, value.first.shape, pairs.tobytes())

    def _take(self, name: str, count: int) -> Replicated:
        pairs = np.frombuffer(self._machine.take(name, _ARITHMETIC, 2 * count), dtype="<u8")
        return Replicated(pairs[::2].astype(np.uint64), pairs[1::2].astype(np.uint64))


def check_layout() -> None:
    """Put a known vector into SPU with all three parties in this process, and read its gate.

    Covers negative values, a suppressed cell, noise and rounding.
    Raises EngineFailed if this build stores shares in any other way than we put and read them.
    """
    spu_machine.require_version()
    layout = Layout(
        groups_a=1,
        groups_b=3,
        factors_a=2,
        factors_b=1,
        terms=(
            Term(COUNTED, COUNTED, people=0, outer=False),
            Term(1, COUNTED, people=0, outer=False),
        ),
        comparisons=(),
        extremes=(),
        min_group=10,
        slack=2,
        dominance=None,
        round_counts=5,
    )
    exact = np.array([9, 10, 12, 1, -(2**62), 7], dtype=np.int64)
    noisy = np.array([14, 12, 11, 5, -(2**62) - 3, 2**40], dtype=np.int64)
    gate_program(layout, noised=True, most=None)  # compiled here once, not by each of the three
    ends = spu_machine.in_process(
        PARTIES,
        lambda link, rank: SharedProgram(link, rank).gate(
            layout, _known_shares(exact, rank), _known_shares(noisy, rank)
        ),
    )
    overlap = all(
        np.array_equal(ends[rank].second, ends[(rank + 1) % PARTIES].first)
        for rank in range(PARTIES)
    )
    found = recombine([to_bytes(end.first) for end in ends])
    if not overlap or found.tolist() != [0, 1, 0, 0, 10, 0, 0, -(2**62) - 3, 0]:
        raise EngineFailed(EngineFault.LAYOUT, "shares of a known answer did not add up to it")


def _known_shares(value: Int64Array, rank: int) -> Replicated:
    """Shares of what every party knows, no component of which is zero."""
    ramp = 1 + np.arange(len(value), dtype=np.uint64)
    first, second = ramp * np.uint64(0x9E3779B97F4A7C15), ramp * np.uint64(0xC2B2AE3D27D4EB4F)
    components = [first, second, value.view(np.uint64) - first - second]
    return Replicated(components[rank], components[(rank + 1) % PARTIES])


def _block(whole: Replicated, start: int, rows: int) -> Replicated:
    """Some columns' rows from `start` on, with zeros below the last."""
    found = [part[:, start : start + rows] for part in (whole.first, whole.second)]
    short = rows - found[0].shape[1]
    return Replicated(*(np.pad(part, ((0, 0), (0, short))) for part in found))


def _nothing() -> Replicated:
    return Replicated(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64))


def _each(value: Replicated, change: Callable[[UInt64Array], UInt64Array]) -> Replicated:
    return Replicated(change(value.first), change(value.second))
