"""The revealed join on SPU 0.9.5: intersection, inner products and gate under CHEETAH.

Both holders learn who matched; only the receiver learns the result. Each side turns its matched
rows into integer columns, a factor inside a group each; every term of every cell is then an inner
product of a column of A and a column of B, exact modulo 2**64. Runs inside an engine child only:
SPU ends its whole process when a peer vanishes. What was measured, and what must stay as it is:

- RR22 in its other, low-communication mode silently loses matches in this version; it cannot be
  asked for here.
- SEMI2K's default lets one party make the correlated randomness and is insecure; the protocol is
  CHEETAH, always.
- A side's columns are given to SPU as private to their owner. One homomorphic product is then
  enough, and no share of a column is ever sent.
- OT extension is SoftSpoken: Ferret's start costs 1.1 s and 190 MB more, for gates of a few cells.

One person, one mark. A holder could enter weights for its people instead of marks, so that one
person passes a threshold of ten. So every column that counts people is sketched on shares (Boneh,
Gilboa and Ishai 2016; Boneh et al. 2021, section 4.2): with odd random r chosen by the *other*
side once the block has been entered, a row x of marks is a unit vector or zero only if
<r, x>**2 - <r*r, x> = 0; one odd random combination of this over all rows of a side is opened, and
is 0 for honest sides. One row with one weight never escapes. In general, what moves a shown count
escapes with a probability below 2**-13: the gate wants counts of at most the matched rows, under
2**24, so some row must be wrong modulo 2**25; a quadratic that is not zero modulo 2**m has there at
most a share of 2**(3 - m/2) roots; and a combination of numbers of which one is not divisible by
2**v vanishes with 2**(v - 63) at most. The limit: CHEETAH assumes that everybody follows the
protocol. The check finds false columns; it does not find an engine that computes something else
with right ones.
"""

from __future__ import annotations

import csv
import hashlib
import json
import resource
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from spu import psi  # type: ignore[import-untyped]  # ships without types

from crypto.adapters import spu_machine
from crypto.adapters.kept_folder import KeptFolder
from crypto.adapters.spu_gate import GateRows, gate_program
from crypto.adapters.spu_machine import Machine, OnStage, program
from crypto.adapters.spu_unbalanced import SpuMasking, SpuPeerLink
from crypto.adapters.stages import Stages
from crypto.engine import EngineOutcome, EngineStage, RevealedTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins import unbalanced
from crypto.joins.intersection import Intersection
from crypto.joins.layout import COUNTED, Layout, Term
from crypto.joins.rows import (
    KEPT_LINK,
    NO_GROUP,
    Int64Array,
    SideRows,
    grouped,
    plain_output,
)
from crypto.ports import SystemRandomness
from crypto.sharing import UInt64Array, from_bytes, recombine, to_bytes, zero_shares

# Memory follows the block, not the table: two matrices of this many rows and the ciphertexts.
ROWS_PER_BLOCK: Final = 2**16
_SEED_BYTES: Final = 32

_RUNTIME: Final = json.dumps(
    {
        "protocol": "CHEETAH",
        "field": "FM64",
        "experimental_enable_colocated_optimization": True,  # private to the owner, not shared
        "cheetah_2pc_config": {"ot_kind": 1},  # YACL_Softspoken
    }
)
_CURVES: Final = {
    Intersection.ECDH: psi.EllipticCurveType.CURVE_25519,
    Intersection.SM2: psi.EllipticCurveType.CURVE_SM2,
}
_ARITHMETIC: Final = "cheetah.AShr<FM64>"


def run(task: RevealedTask, rows: SideRows, *, on_stage: OnStage) -> EngineOutcome:
    """Take this party's part in the join. The working directory must be the run's own.

    Raises EngineFailed; SPU may also end the process, which the supervisor reports.
    """
    require_sums(task, rows)
    clock = Stages(on_stage)
    clock.enter(EngineStage.CONNECT)
    link = spu_machine.connect(task.seat)
    _require_same(link, str(task.common), "the two parties were given different tasks")
    at = matches(link, task, rows, clock)
    share = _aggregate(link, task.seat.rank, task.layout, task.zero_key, rows, at, clock.enter)
    # Waits until what was sent has arrived; a peer may still need our last message.
    link.stop_link()
    return EngineOutcome(
        share=to_bytes(share),
        learned={"matched": len(at)},
        timings_ms=clock.finish(),
        versions={name: version(name) for name in ("jax", "numpy", "spu")},
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def require_sums(task: RevealedTask, rows: SideRows) -> None:
    """Raises EngineFailed (input) for what no revealed join can compute."""
    if not len(rows):
        # An empty file would make the other, healthy party abort.
        raise EngineFailed(EngineFault.INPUT, "no row of this side takes part")
    if task.layout.by_row:
        raise EngineFailed(
            EngineFault.INPUT,
            "the revealed join computes sums only; comparisons of both sides' values, extremes"
            " and the dominance limit need the hidden join",
        )


def check_layout() -> None:
    """Compute a known answer with both parties in this process and compare the raw shares.

    Covers negative values, a missing value, a suppressed cell and a suppressed term.
    Raises EngineFailed if this build stores shares in any other way than we read them.
    """
    spu_machine.require_version()
    layout = Layout(
        groups_a=2,
        groups_b=2,
        factors_a=3,
        factors_b=2,
        terms=(
            Term(COUNTED, COUNTED, people=0, outer=False),
            Term(1, COUNTED, people=1, outer=False),
            Term(2, COUNTED, people=1, outer=False),
            Term(2, 1, people=0, outer=False),
        ),
        comparisons=(),
        extremes=(),
        min_group=2,
        slack=0,
        dominance=None,
        round_counts=1,
    )
    tokens = np.arange(6 * 16, dtype=np.uint8).reshape(6, 16)
    group_a = np.array([0, 0, 0, 1, 1, NO_GROUP], dtype=np.int64)
    group_b = np.array([0, 0, 0, 1, 1, 1], dtype=np.int64)
    factors = np.array([[1, -(2**50)], [0, 0], [1, 5], [0, 0], [1, -1], [1, 9]], dtype=np.int64)
    sides = (
        SideRows(tokens, group_a, factors),
        SideRows(tokens, group_b, np.array([[3], [-7], [11], [2], [2**40], [1]], dtype=np.int64)),
    )
    at = np.arange(6)
    _programs(layout, len(at))  # compiled here once, not by each of the two
    gate_program(layout, noised=False, most=len(at))
    shares = spu_machine.in_process(
        2,
        lambda link, rank: _aggregate(
            link, rank, layout, bytes(32), sides[rank], at, lambda _: None
        ),
    )
    found = recombine([to_bytes(share) for share in shares])
    if not np.array_equal(found, plain_output(layout, *sides)):
        raise EngineFailed(EngineFault.LAYOUT, "shares of a known answer did not add up to it")


def _require_same(link: Any, own: str, problem: str) -> None:
    if set(spu_machine.exchange(link, own)) != {own}:
        raise EngineFailed(EngineFault.MISMATCH, problem)


def matches(link: Any, task: RevealedTask, rows: SideRows, clock: Stages) -> Int64Array:
    """Positions of the matched rows, in an order that both holders share; compared."""
    at = _matches(link, task, rows, clock)
    matched = hashlib.sha256(rows.tokens[at].tobytes()).hexdigest()
    _require_same(link, matched, "the two parties found different matches")
    return at


def _matches(link: Any, task: RevealedTask, rows: SideRows, clock: Stages) -> Int64Array:
    rank, standing = task.seat.rank, task.standing
    if standing is None:
        clock.enter(EngineStage.MATCH)
        return _intersect(link, task, rows)
    return unbalanced.run(
        standing,
        rows.tokens,
        server=rank == standing.server,
        kept=KeptFolder(Path(KEPT_LINK)),
        masking=SpuMasking(link),
        link=SpuPeerLink(link, 1 - rank),
        randomness=SystemRandomness(),
        on_stage=clock.enter,
    )


def _intersect(link: Any, task: RevealedTask, rows: SideRows) -> Int64Array:
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
        protocol.ecdh_params = psi.EcdhParams(curve=_CURVES[task.intersection])
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


@dataclass(frozen=True)
class _Side:
    """What one side gives: its factors, side by side, each in one column per group.

    marks: those factors that count people
    """

    name: str
    groups: int
    factors: tuple[int, ...]
    marks: tuple[int, ...]

    @property
    def columns(self) -> int:
        return self.groups * len(self.factors)

    def matrix(self, rows: SideRows, at: Int64Array, block: int) -> Int64Array:
        """shape (block, columns), zero below the rows at `at`: all blocks have one shape, hence
        one program."""
        found = np.zeros((block, self.columns), dtype=np.int64)
        for place, factor in enumerate(self.factors):
            columns = slice(self.groups * place, self.groups * (place + 1))
            found[: len(at), columns] = grouped(rows, factor, self.groups, at=at)
        return found

    def pick(self, matrix: Any, factors: Sequence[int]) -> Any:
        """The columns of some factors, in the order given."""
        found = [
            matrix[:, self.groups * place : self.groups * (place + 1)]
            for place in map(self.factors.index, factors)
        ]
        return jnp.concatenate(found, axis=1)


def _sides(layout: Layout) -> tuple[_Side, _Side]:
    joined = [term for term in layout.terms if not term.outer]
    gates = [layout.terms[gate] for gate in layout.gates if not layout.terms[gate].outer]
    return (
        _Side(
            "a",
            layout.groups_a,
            tuple(sorted({term.left for term in joined} | {COUNTED})),
            tuple(sorted({gate.left for gate in gates} | {COUNTED})),
        ),
        _Side(
            "b",
            layout.groups_b,
            tuple(sorted({term.right for term in joined} | {COUNTED})),
            tuple(sorted({gate.right for gate in gates} | {COUNTED})),
        ),
    )


@dataclass(frozen=True)
class _Products:
    """factors: which factors of A are multiplied with which of B, product by product
    names:   the variable of each product and its length
    """

    factors: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    names: Mapping[str, int]


def _products(layout: Layout) -> _Products:
    """As few products as is cheap, for one product of wide matrices costs less than several of
    narrow ones: everything with B's people is the first, A's people with what is left the second,
    then one for each set of B's factors."""
    wanted = {(term.left, term.right) for term in layout.terms if not term.outer}
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    with_people = {left for left, right in wanted if right == COUNTED} | {COUNTED}
    found.append((tuple(sorted(with_people)), (COUNTED,)))
    of_people = tuple(sorted(r for left, r in wanted if left == COUNTED and r != COUNTED))
    if of_people:
        found.append(((COUNTED,), of_people))
    others: dict[int, tuple[int, ...]] = {}
    for left in sorted({left for left, right in wanted if left != COUNTED and right != COUNTED}):
        others[left] = tuple(sorted(r for lf, r in wanted if lf == left and r != COUNTED))
    for rights in sorted(set(others.values())):
        found.append((tuple(left for left in others if others[left] == rights), rights))
    cells = layout.cells
    names = {f"product{i}": len(ls) * len(rs) * cells for i, (ls, rs) in enumerate(found)}
    return _Products(tuple(found), names)


def _aggregate(
    link: Any,
    rank: int,
    layout: Layout,
    zero_key: bytes,
    rows: SideRows,
    at: Int64Array,
    on_stage: OnStage,
) -> UInt64Array:
    """This party's share of the output vector, made fresh by zero shares."""
    on_stage(EngineStage.SHARE)
    machine = Machine(link, rank, 2, _RUNTIME)
    sides = _sides(layout)
    # No match at all still makes one block, of zeros: the receiver sees suppressed cells.
    blocks = max(1, -(-len(at) // ROWS_PER_BLOCK))
    block = max(1, -(-len(at) // blocks))
    add, check = _programs(layout, block)

    for name, length in _products(layout).names.items():
        machine.give(name, np.zeros(length, dtype=np.int64), owner=0)
    machine.give("checks", np.zeros(len(sides), dtype=np.int64), owner=0)
    for other, side in enumerate(reversed(sides)):
        # Zeros of the other side turn what is private to one side into shares of both.
        machine.give(
            f"zeros_{side.name}", np.zeros(block * len(side.marks), dtype=np.int64), owner=other
        )
    on_stage(EngineStage.COMPUTE)
    for i in range(blocks):
        held = at[block * i : block * (i + 1)]
        for owner, side in enumerate(sides):
            content = (
                side.matrix(rows, held, block)
                if owner == rank
                else np.zeros((block, side.columns), dtype=np.int64)
            )
            machine.give(side.name, content, owner=owner)
        machine.execute(add)
        # Only now, so that no column can have been chosen to fit the coefficients.
        seeds = spu_machine.exchange(link, secrets.token_hex(_SEED_BYTES))
        for owner, side in enumerate(sides):
            odd, coefficients = _coefficients(seeds[1 - owner], side, block)
            machine.give_public(f"odd_{side.name}", odd)
            machine.give_public(f"coefficients_{side.name}", coefficients)
        machine.execute(check)
    on_stage(EngineStage.GATE)
    fresh = zero_shares(zero_key, layout.outputs + len(sides), sign=1 if rank == 0 else -1)
    _require_marks(link, _take(machine, "checks", len(sides)) + fresh[layout.outputs :])
    terms = _term_shares(machine, layout)
    if rank == 0:
        terms += _outer_totals(layout, rows).view(np.uint64)
    gate = GateRows(layout)
    for name, words in (
        ("counted", gate.counts(terms)),
        ("values", gate.values(terms, 1 if rank == 0 else 0)),
    ):
        machine.put(name, _ARITHMETIC, words.shape, to_bytes(words))
    machine.execute(gate_program(layout, noised=False, most=len(at)))
    output: UInt64Array = gate.output(_take(machine, "shown", gate.length))
    return output + fresh[: layout.outputs]


@cache
def _programs(layout: Layout, block: int) -> tuple[Any, Any]:
    """To add a block of `block` rows, and to check one."""
    sides, products = _sides(layout), _products(layout)
    sums: dict[str, tuple[int, ...]] = {name: (length,) for name, length in products.names.items()}
    given: dict[str, tuple[int, ...]] = {side.name: (block, side.columns) for side in sides}
    inputs: dict[str, tuple[int, ...]] = {"checks": (len(sides),)}
    for side in sides:
        inputs[f"odd_{side.name}"] = (side.groups,)
        inputs[f"coefficients_{side.name}"] = (block * len(side.marks),)
        inputs[f"zeros_{side.name}"] = (block * len(side.marks),)
    public = frozenset(name for name in inputs if name.startswith(("odd", "coefficients")))
    return (
        program(_add_block(layout), sums | given, [*sums]),
        program(_check_block(layout), inputs | given, ["checks"], public=public),
    )


def _term_shares(machine: Machine, layout: Layout) -> UInt64Array:
    """Shares of every term of every cell, shape (terms, cells); of 0 at terms A alone knows."""
    found = np.zeros((len(layout.terms), layout.cells), dtype=np.uint64)
    products = _products(layout)
    for (lefts, rights), (name, length) in zip(
        products.factors, products.names.items(), strict=True
    ):
        shape = (len(lefts), layout.groups_a, len(rights), layout.groups_b)
        held = _take(machine, name, length).reshape(shape)
        for index, term in enumerate(layout.terms):
            if not term.outer and term.left in lefts and term.right in rights:
                of_term = held[lefts.index(term.left), :, rights.index(term.right)]
                found[index] = of_term.ravel()
    return found


def _add_block(layout: Layout) -> Callable[..., Any]:
    """(products so far, a, b) to the products with this block's rows added, one for one."""
    sides, products = _sides(layout), _products(layout)

    def add(*given: Any) -> tuple[Any, ...]:
        *sums, a, b = given
        return tuple(
            total + jnp.matmul(sides[0].pick(a, lefts).T, sides[1].pick(b, rights)).reshape(-1)
            for total, (lefts, rights) in zip(sums, products.factors, strict=True)
        )

    return add


def _check_block(layout: Layout) -> Callable[..., Any]:
    """Checks so far + this block's combination of <r, x>**2 - <r*r, x> for A, then for B."""
    sides = _sides(layout)

    def check(checks: Any, *given: Any) -> Any:
        odd, coefficients, zeros = given[0:6:3], given[1:6:3], given[2:6:3]
        found = []
        for side, r, many, zero, matrix in zip(
            sides, odd, coefficients, zeros, given[6:], strict=True
        ):
            marks = [side.pick(matrix, [factor]) for factor in side.marks]
            once = jnp.concatenate([jnp.matmul(columns, r) for columns in marks])
            squared = jnp.concatenate([jnp.matmul(columns, r * r) for columns in marks])
            # With the other side's zeros: a product on shares, for one dot product's price.
            found.append(jnp.matmul(many * once, once + zero) - jnp.matmul(many, squared))
        return checks + jnp.stack(found)

    return check


def _outer_totals(layout: Layout, rows: SideRows) -> Int64Array:
    """What A alone adds: its totals over all of its rows, matched or not. shape (terms, cells)."""
    found = np.zeros((len(layout.terms), layout.cells), dtype=np.int64)
    every = np.arange(len(rows), dtype=np.int64)
    for index, term in enumerate(layout.terms):
        if term.outer:
            found[index] = grouped(rows, term.left, layout.groups_a, at=every).sum(axis=0)
    return found


def _coefficients(seed: str, side: _Side, block: int) -> tuple[Int64Array, Int64Array]:
    """Odd numbers: one per group, and one for every row and mark."""
    count = block * len(side.marks)
    words = zero_shares(bytes.fromhex(seed), side.groups + count, sign=1).view(np.int64)
    odd = words | 1
    return odd[: side.groups], odd[side.groups :]


def _require_marks(link: Any, share: UInt64Array) -> None:
    # Nothing is gained by commitments here: a side whose engine lies knows its own column and the
    # coefficients, hence what the sketch is, and can take it off its share before it commits.
    opened = recombine(
        [bytes.fromhex(said) for said in spu_machine.exchange(link, to_bytes(share).hex())]
    )
    if opened.any():
        raise EngineFailed(
            EngineFault.MISMATCH, "a side entered something else than one mark for each person"
        )


def _take(machine: Machine, name: str, count: int) -> UInt64Array:
    return from_bytes(machine.take(name, _ARITHMETIC, count))
