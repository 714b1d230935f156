"""The revealed join on SPU 0.9.5: intersection, inner products and gate under CHEETAH.

Runs inside an engine child only: SPU ends its whole process when a peer vanishes. What was
measured, and what must stay as it is:

- RR22 in its other, low-communication mode silently loses matches in this version; it cannot be
  asked for here.
- SEMI2K's default lets one party make the correlated randomness and is insecure; the protocol is
  CHEETAH, always.
- A side's columns are given to SPU as private to their owner. One homomorphic product is then
  enough, and no share of a column is ever sent.
- OT extension is SoftSpoken: Ferret's start costs 1.1 s and 190 MB more, for gates of a few cells.
- Shares are read from SPU's own storage, whose layout is not promised: `check_layout` compares it
  with a known answer each time a child starts.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import spu  # type: ignore[import-untyped]  # ships without types
from spu import libspu, psi
from spu.utils import frontend  # type: ignore[import-untyped]  # ships without types

from crypto.engine import EngineOutcome, EngineStage, EngineTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.intersection import Intersection
from crypto.joins.layout import RevealedLayout
from crypto.joins.revealed import NO_GROUP, SideRows, gated_output, side_columns
from crypto.sharing import UInt64Array, recombine, to_bytes, zero_shares

SPU_VERSION: Final = "0.9.5"
# Memory follows the block, not the table: two matrices of this many rows and the ciphertexts.
ROWS_PER_BLOCK: Final = 2**16
CONNECT_RETRY_MS: Final = 200

_RUNTIME: Final = json.dumps(
    {
        "protocol": "CHEETAH",
        "field": "FM64",
        "experimental_enable_colocated_optimization": True,  # private to the owner, not shared
        "cheetah_2pc_config": {"ot_kind": 1},  # YACL_Softspoken
    }
)
_ARITHMETIC: Final = "cheetah.AShr<FM64>"
_SECRET: Final = libspu.Visibility.VIS_SECRET

Int64Array = npt.NDArray[np.int64]
OnStage = Callable[[EngineStage], None]

jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]  # as jax has it


@dataclass(frozen=True)
class _Input:
    """A matrix of columns that one side owns; the other side knows its shape only."""

    name: str
    owner: int
    columns: int


def run(task: EngineTask, rows: SideRows, *, on_stage: OnStage) -> EngineOutcome:
    """Take this party's part in the join. The working directory must be the run's own.

    Raises EngineFailed; SPU may also end the process, which the supervisor reports.
    """
    if not len(rows):
        # An empty file would make the other, healthy party abort.
        raise EngineFailed(EngineFault.INPUT, "no row of this side takes part")
    clock = _Stages(on_stage)
    clock.enter(EngineStage.CONNECT)
    link = _connect(task)
    _require_same(link, str(task.common), "the two parties were given different tasks")
    clock.enter(EngineStage.PSI)
    at = _intersect(link, task, rows)
    matched = hashlib.sha256(rows.tokens[at].tobytes()).hexdigest()
    _require_same(link, matched, "the two parties found different matches")
    share = _aggregate(link, task.rank, task.layout, rows, at, clock.enter)
    words = share + zero_shares(
        task.zero_key, task.layout.outputs, sign=1 if task.rank == 0 else -1
    )
    # Waits until what was sent has arrived; a peer may still need our last message.
    link.stop_link()
    return EngineOutcome(
        job=task.job,
        rank=task.rank,
        matched=len(at),
        layout=task.layout,
        share=to_bytes(words),
        timings_ms=clock.finish(),
        versions={name: version(name) for name in ("jax", "numpy", "spu")},
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def check_layout() -> None:
    """Compute a known answer with both parties in this process and compare the raw shares.

    Covers negative values, a missing value, a suppressed cell and a suppressed measure.
    Raises EngineFailed if this build stores shares in any other way than we read them.
    """
    if version("spu") != SPU_VERSION:
        raise EngineFailed(EngineFault.LAYOUT, f"spu is {version('spu')}, not {SPU_VERSION}")
    layout = RevealedLayout(groups_a=2, groups_b=2, measures_a=1, measures_b=1, min_group=2)
    tokens = np.arange(6 * 16, dtype=np.uint8).reshape(6, 16)
    group_a = np.array([0, 0, 0, 1, 1, NO_GROUP], dtype=np.int64)
    group_b = np.array([0, 0, 0, 1, 1, 1], dtype=np.int64)
    values = np.array([[-(2**50)], [7], [5], [2**60], [-1], [9]], dtype=np.int64)
    holes = np.array([[True], [False], [True], [True], [False], [True]])
    sides = (
        SideRows(tokens, group_a, values, np.ones_like(holes)),
        SideRows(tokens, group_b, values[::-1].copy(), holes),
    )
    at = np.arange(6)
    expected = gated_output(
        layout,
        side_columns(sides[0], layout.groups_a, at=at),
        side_columns(sides[1], layout.groups_b, at=at),
    )
    shares = _in_process(layout, sides, at)
    found = recombine(to_bytes(shares[0]), to_bytes(shares[1]))
    if not np.array_equal(found, expected):
        raise EngineFailed(EngineFault.LAYOUT, "shares of a known answer did not add up to it")


class _Stages:
    """Reports each stage as it begins and measures how long it took."""

    def __init__(self, on_stage: OnStage) -> None:
        self._on_stage = on_stage
        self._begun = self._entered = time.monotonic()
        self._current: EngineStage | None = None
        self._timings: dict[str, int] = {}

    def enter(self, stage: EngineStage) -> None:
        self._leave()
        self._current = stage
        self._on_stage(stage)

    def finish(self) -> dict[str, int]:
        self._leave()
        total = round(1000 * (time.monotonic() - self._begun))
        return {**self._timings, "total": total}

    def _leave(self) -> None:
        now = time.monotonic()
        if self._current is not None:
            self._timings[self._current.value] = round(1000 * (now - self._entered))
        self._entered = now


def _connect(task: EngineTask) -> Any:
    desc = libspu.link.Desc()
    desc.id = task.job
    addresses = (task.listen, task.peer) if task.rank == 0 else (task.peer, task.listen)
    for name, address in zip(("A", "B"), addresses, strict=True):
        desc.add_party(name, address)
    desc.connect_retry_interval_ms = CONNECT_RETRY_MS
    desc.connect_retry_times = 1 + task.connect_timeout_ms // CONNECT_RETRY_MS
    desc.recv_timeout_ms = task.receive_timeout_ms
    desc.http_timeout_ms = task.receive_timeout_ms
    made: list[Any] = []

    def connect() -> None:
        with contextlib.suppress(RuntimeError):
            made.append(libspu.link.create_brpc(desc, task.rank))

    # One retry can last as long as one message may, so counting retries bounds nothing. A thread
    # left behind dies with this process, which has nothing to do without a peer.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(task.connect_timeout_ms / 1000)
    if not made:
        raise EngineFailed(EngineFault.PEER, "the peer's engine could not be reached")
    return made[0]


def _require_same(link: Any, own: str, problem: str) -> None:
    try:
        said = link.all_gather(own)
    except RuntimeError as error:
        raise EngineFailed(EngineFault.PEER, "the peer's engine stopped answering") from error
    if set(said) != {own}:
        raise EngineFailed(EngineFault.MISMATCH, problem)


def _intersect(link: Any, task: EngineTask, rows: SideRows) -> Int64Array:
    """Positions of the matched rows, in an order that both parties share."""
    # As text: psi wants a folder in the output path and Path drops the leading one.
    source, result = "./tokens.csv", "./matched.csv"
    digits = rows.tokens.tobytes().hex()
    width = 2 * rows.tokens.shape[1]
    with Path(source).open("w", encoding="ascii") as file:
        file.write("token,row\n")
        file.writelines(f"{digits[width * i : width * (i + 1)]},{i}\n" for i in range(len(rows)))
    protocol = psi.PsiProtocolConfig(receiver_rank=0, broadcast_result=True)
    if task.intersection is Intersection.RR22:
        protocol.protocol = psi.PsiProtocol.PROTOCOL_RR22
    else:
        protocol.protocol = psi.PsiProtocol.PROTOCOL_ECDH
        protocol.ecdh_params = psi.EcdhParams(curve=psi.EllipticCurveType.CURVE_25519)
    config = psi.PsiExecuteConfig(
        protocol_conf=protocol,
        # Only the selected column takes part; `row` stays in this process.
        input_params=psi.InputParams(path=source, selected_keys=["token"], keys_unique=True),
        output_params=psi.OutputParams(path=result),
    )
    try:
        report = psi.psi_execute(config, link)
    except RuntimeError as error:
        raise EngineFailed(EngineFault.CRASHED, "the intersection was given up") from error
    with Path(result).open(encoding="ascii", newline="") as file:
        found = list(csv.DictReader(file))
    at = np.array([int(line["row"]) for line in found], dtype=np.int64)
    in_order = "".join(line["token"] for line in found) == rows.tokens[at].tobytes().hex()
    if len(found) != report.intersection_count or not in_order:
        raise EngineFailed(EngineFault.CRASHED, "the intersection's result is not in order")
    return at


def _aggregate(
    link: Any,
    rank: int,
    layout: RevealedLayout,
    rows: SideRows,
    at: Int64Array,
    on_stage: OnStage,
) -> UInt64Array:
    """This party's share of the output vector, before it is made fresh."""
    on_stage(EngineStage.SHARE)
    config = libspu.RuntimeConfig()
    config.ParseFromJsonString(_RUNTIME)
    party = _Party(spu.Runtime(link, config), spu.Io(2, config), rank)
    inputs = _inputs(layout)
    sums, gates = layout.cells * (1 + 2 * layout.measures), layout.cells * (1 + layout.measures)
    # No match at all still makes one block, of zeros: the receiver sees suppressed cells.
    blocks = max(1, -(-len(at) // ROWS_PER_BLOCK))
    block = max(1, -(-len(at) // blocks))
    add = _compile(
        _add_block(layout, inputs),
        {"sums": (sums,)} | {matrix.name: (block, matrix.columns) for matrix in inputs},
        "sums",
    )
    gate = _compile(_gate(layout), {"sums": (sums,), "one": (gates,)}, "output")

    party.give("sums", np.zeros(sums, dtype=np.int64), owner=0)
    party.give("one", np.ones(gates, dtype=np.int64), owner=0)
    on_stage(EngineStage.COMPUTE)
    for i in range(blocks):
        columns = side_columns(rows, layout.groups(rank), at=at[block * i : block * (i + 1)])
        for matrix in inputs:
            content = np.zeros((block, matrix.columns), dtype=np.int64)
            if matrix.owner == rank:
                held = columns.groups if matrix.name in ("a", "b") else columns.measures
                content[: len(held)] = held  # all blocks have one shape, hence one program
            party.give(matrix.name, content, owner=matrix.owner)
        party.execute(add)
    on_stage(EngineStage.GATE)
    party.execute(gate)
    return party.take("output", layout.outputs)


def _inputs(layout: RevealedLayout) -> list[_Input]:
    matrices = [
        _Input("a", 0, layout.groups_a),
        _Input("of_a", 0, layout.groups_a * 2 * layout.measures_a),
        _Input("b", 1, layout.groups_b),
        _Input("of_b", 1, layout.groups_b * 2 * layout.measures_b),
    ]
    return [matrix for matrix in matrices if matrix.columns]


def _add_block(layout: RevealedLayout, inputs: Sequence[_Input]) -> Callable[..., Any]:
    """Sums so far + this block's counts, valid counts and totals, each A's measures, then B's."""

    def program(sums: Any, *matrices: Any) -> Any:
        given = {matrix.name: held for matrix, held in zip(inputs, matrices, strict=True)}
        left = jnp.concatenate([held for name, held in given.items() if name in ("a", "of_a")], 1)
        with_b = jnp.matmul(left.T, given["b"])  # one product gives the counts and A's measures
        people = [with_b[: layout.groups_a].reshape(-1)]
        pairs = []
        if layout.measures_a:
            pairs.append(with_b[layout.groups_a :].reshape(layout.measures_a, 2, -1))
        if layout.measures_b:
            shape = (layout.groups_a, layout.measures_b, 2, layout.groups_b)
            with_a = jnp.matmul(given["a"].T, given["of_b"]).reshape(shape)
            pairs.append(with_a.transpose(1, 2, 0, 3).reshape(layout.measures_b, 2, -1))
        people += [pair[:, 0].reshape(-1) for pair in pairs]
        totals = [pair[:, 1].reshape(-1) for pair in pairs]
        return sums + jnp.concatenate(people + totals)

    return program


def _gate(layout: RevealedLayout) -> Callable[..., Any]:
    gates = layout.cells * (1 + layout.measures)

    def program(sums: Any, one: Any) -> Any:
        people, totals = sums[:gates], sums[gates:]
        ok = people >= layout.min_group
        # A comparison is shared as bits; choosing between shared numbers makes it arithmetic.
        shown = [jnp.where(ok, one, 0), jnp.where(ok, people, 0)]
        if layout.measures:
            shown.append(jnp.where(ok[layout.cells :], totals, 0))
        return jnp.concatenate(shown)

    return program


def _compile(
    program: Callable[..., Any], inputs: Mapping[str, tuple[int, ...]], output: str
) -> Any:
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        program,
        [np.zeros(shape, dtype=np.int64) for shape in inputs.values()],  # for their shapes
        {},
        list(inputs),
        [_SECRET] * len(inputs),
        lambda _: [output],
    )
    return executable


class _Party:
    """One party's end of an SPU runtime."""

    def __init__(self, runtime: Any, io: Any, rank: int) -> None:
        self._runtime = runtime
        self._io = io
        self._rank = rank

    def give(self, name: str, values: Int64Array, *, owner: int) -> None:
        shares = self._io.make_shares(np.ascontiguousarray(values), _SECRET, owner)
        self._runtime.set_var(name, shares[self._rank])

    def execute(self, executable: Any) -> None:
        try:
            self._runtime.run(executable)
        except RuntimeError as error:
            raise EngineFailed(EngineFault.CRASHED, "the computation was given up") from error

    def take(self, name: str, count: int) -> UInt64Array:
        """This party's words of a variable, which must be an arithmetic share."""
        share = self._runtime.get_var(name)
        meta, chunk = libspu.ValueMeta(), libspu.ValueChunk()
        meta.ParseFromString(share.meta)
        if meta.storage_type != _ARITHMETIC or len(share.share_chunks) != 1:
            raise EngineFailed(EngineFault.LAYOUT, "the output is not an arithmetic share")
        chunk.ParseFromString(share.share_chunks[0])
        if chunk.chunk_offset != 0 or not 8 * count == chunk.total_bytes == len(chunk.content):
            raise EngineFailed(EngineFault.LAYOUT, "the output share has another size")
        return np.frombuffer(chunk.content, dtype="<u8").astype(np.uint64)


def _in_process(
    layout: RevealedLayout, sides: tuple[SideRows, SideRows], at: Int64Array
) -> list[UInt64Array]:
    desc = libspu.link.Desc()
    desc.add_party("A", "a")
    desc.add_party("B", "b")
    shares: dict[int, UInt64Array] = {}
    problems: list[Exception] = []

    def take_part(rank: int) -> None:
        try:
            link = libspu.link.create_mem(desc, rank)
            shares[rank] = _aggregate(link, rank, layout, sides[rank], at, lambda _: None)
            link.stop_link()
        except (EngineFailed, RuntimeError) as error:
            problems.append(error)

    threads = [threading.Thread(target=take_part, args=(rank,), daemon=True) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise EngineFailed(EngineFault.LAYOUT, "a known computation failed") from problems[0]
    return [shares[0], shares[1]]
