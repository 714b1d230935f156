"""The revealed join with a helper: once both holders know who matched, three parties compute.

Ranks 0, 1, 2 are A, B and the helper C, who brings no rows. The intersection lies before this; from
here on A and B have the same pairs in the same order, and C hears only how many.

1. Columns: each holder shares its factors, inside its groups, at the matched rows, as three
   components of which each party has two. Component o + 1 of a column of holder o is a mask that o
   and o + 1 derive; component o is the rest, which o sends to o + 2; component o + 2 is 0. So one
   word a number is sent, A's to C and B's to A, and it is uniform to its receiver.
2. Marks: whoever received a side's masked columns then draws coefficients, and a sketch of every
   column that counts people is made on shares; it is 0 only for marks (see below).
3. Sums: each count and sum is an inner product of shares, with nothing sent.
4. Gate and opening are the hidden join's (crypto.joins.hidden.opening).

One person, one mark. As under CHEETAH (crypto.adapters.spu_revealed, where the chances are worked
out): with odd r, a row x of marks is a unit vector or zero only if <r, x>**2 - <r*r, x> = 0; one
odd random combination of this over all rows of a side is opened, and is 0 for honest sides.
Coefficients are drawn after the columns have arrived, by a party that is not their owner.

Secure against parties that follow the protocol, of which no two pool what they know; the sketch
finds false columns, not an engine that computes something else with right ones.
Source: replicated shares and their products, Araki et al. 2016, section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from crypto.engine import EngineStage, RevealedTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.hidden.keys import PairPads, Stream, ZeroUse, mask_label, pair_pads, zero_share
from crypto.joins.hidden.messages import receive, refuse, send
from crypto.joins.hidden.opening import Sums, local_totals, output_share
from crypto.joins.hidden.ports import NoiseSource, Replicated, ThreePartyEngine
from crypto.joins.hidden.resharing import inner_products
from crypto.joins.layout import COUNTED, Layout
from crypto.joins.rows import NO_GROUP, Int64Array, SideRows, grouped
from crypto.ports import Channels, Randomness
from crypto.sharing import UInt64Array, to_bytes, zero_shares

HELPER: Final = 2
ROWS_PER_BLOCK: Final = 2**16
_SEED_BYTES: Final = 32
_COUNT_BYTES: Final = 8


def agree(task: RevealedTask, channels: Channels) -> None:
    """Before anything is matched: all three were told the same. Raises EngineFailed (mismatch)."""
    others = [rank for rank in range(3) if rank != task.seat.rank]
    for other in others:
        channels.send(other, "task", task.common.raw)
    said = {other: bytes(channels.receive(other, "task")) for other in others}
    odd = [other for other in others if said[other] != task.common.raw]
    if odd:
        refuse(channels, odd, "the parties were given different tasks")


def run(
    task: RevealedTask,
    rows: SideRows | None,
    at: Int64Array | None,
    *,
    channels: Channels,
    randomness: Randomness,
    noise: NoiseSource,
    secure: ThreePartyEngine,
    on_stage: Callable[[EngineStage], None],
) -> tuple[bytes, int]:
    """This party's fresh share of the output vector, and how many rows matched.

    rows, at: the holder's rows and the positions of the matched ones; None at the helper
    Raises EngineFailed: mismatch (a check failed; nothing was opened), peer.
    """
    party = _Party.of(task, channels)
    pairs = _count(party, at)
    on_stage(EngineStage.SHARE)
    exact, checks = _sums(party, rows, at, pairs, randomness, on_stage)
    on_stage(EngineStage.CHECK)
    _require_marks(party, checks)
    if party.rank == 0 and rows is not None:
        # What A alone adds to a LEFT JOIN: its totals over all of its rows, matched or not.
        counted = np.flatnonzero(rows.group != NO_GROUP)
        whole = SideRows(rows.tokens[counted], rows.group[counted], rows.factors[counted])
        exact += local_totals(task.layout, whole, outer_only=True)
    share = output_share(
        task.layout,
        Sums(exact.ravel(), None, None),
        None,
        rank=party.rank,
        pads=party.pads,
        channels=channels,
        noise=noise,
        secure=secure,
        on_stage=on_stage,
    )
    return to_bytes(share), pairs


@dataclass(frozen=True, eq=False, repr=False)
class _Party:
    layout: Layout
    rank: int
    pads: Mapping[int, PairPads]
    channels: Channels
    sides: tuple[_Side, _Side]

    @classmethod
    def of(cls, task: RevealedTask, channels: Channels) -> _Party:
        seat, layout = task.seat, task.layout
        pads = {peer: pair_pads(seat, peer) for peer in range(3) if peer != seat.rank}
        return cls(layout, seat.rank, pads, channels, (_Side.of(layout, 0), _Side.of(layout, 1)))


@dataclass(frozen=True)
class _Side:
    """What one holder shares: its factors side by side, each in one column per group.

    marks: those factors that count people
    """

    owner: int
    groups: int
    factors: tuple[int, ...]
    marks: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout, owner: int) -> _Side:
        joined = [term for term in layout.terms if not term.outer]
        gates = [layout.terms[gate] for gate in layout.gates if not layout.terms[gate].outer]

        def of_owner(terms: list[tuple[int, int]]) -> tuple[int, ...]:
            return tuple(sorted({pair[owner] for pair in terms} | {COUNTED}))

        return cls(
            owner,
            layout.groups(owner),
            of_owner([(term.left, term.right) for term in joined]),
            of_owner([(gate.left, gate.right) for gate in gates]),
        )

    @property
    def columns(self) -> int:
        return self.groups * len(self.factors)

    def at(self, factor: int) -> slice:
        place = self.factors.index(factor)
        return slice(self.groups * place, self.groups * (place + 1))

    def matrix(self, rows: SideRows, at: Int64Array) -> UInt64Array:
        """shape (columns, rows)"""
        found = [grouped(rows, factor, self.groups, at=at).T for factor in self.factors]
        whole: UInt64Array = np.concatenate(found).view(np.uint64)
        return np.ascontiguousarray(whole)


def _count(party: _Party, at: Int64Array | None) -> int:
    """How many pairs there are. The helper hears it from both holders."""
    if at is not None:
        party.channels.send(HELPER, "pairs", len(at).to_bytes(_COUNT_BYTES, "big"))
        return len(at)
    said = {bytes(party.channels.receive(holder, "pairs")) for holder in (0, 1)}
    if len(said) != 1:
        raise EngineFailed(EngineFault.MISMATCH, "the holders count different matches")
    return int.from_bytes(said.pop(), "big")


def _sums(
    party: _Party,
    rows: SideRows | None,
    at: Int64Array | None,
    pairs: int,
    randomness: Randomness,
    on_stage: Callable[[EngineStage], None],
) -> tuple[UInt64Array, UInt64Array]:
    """This party's additive share of every term, shape (terms, cells), and of each side's sketch,
    shape (2,). Goes through the pairs in blocks, so that memory does not follow the table."""
    layout = party.layout
    exact = np.zeros((len(layout.terms), layout.cells), dtype=np.uint64)
    checks = np.zeros(2, dtype=np.uint64)
    wanted = sorted({(term.left, term.right) for term in layout.terms if not term.outer})
    totals = {
        pair: np.zeros((layout.groups_a, layout.groups_b), dtype=np.uint64) for pair in wanted
    }
    streams = [_masks(party, side) for side in party.sides]
    on_stage(EngineStage.COMPUTE)
    for start in range(0, pairs, ROWS_PER_BLOCK):
        size = min(ROWS_PER_BLOCK, pairs - start)
        held = []
        for side, masks in zip(party.sides, streams, strict=True):
            own = None
            if rows is not None and at is not None and party.rank == side.owner:
                own = side.matrix(rows, at[start : start + size])
            shared = _share(party, side, own, masks, size)
            checks[side.owner : side.owner + 1] += _sketch(party, side, shared, randomness)
            held.append(shared)
        a, b = held
        for left, right in wanted:
            of_b = party.sides[1].at(right)
            y = Replicated(b.first[of_b], b.second[of_b])
            of_a = party.sides[0].at(left)
            for group, column in enumerate(range(of_a.start, of_a.stop)):
                x = Replicated(a.first[column], a.second[column])
                totals[left, right][group] += inner_products(x, y)
    for index, term in enumerate(layout.terms):
        if not term.outer:
            exact[index] = totals[term.left, term.right].ravel()
    return exact, checks


def _masks(party: _Party, side: _Side) -> Stream | None:
    """What hides a side's columns, at the two who derive it: its owner and the next."""
    following = (side.owner + 1) % 3
    if party.rank not in (side.owner, following):
        return None
    peer = following if party.rank == side.owner else side.owner
    return party.pads[peer].masks.stream(mask_label(side.owner, 0))


def _share(
    party: _Party, side: _Side, own: UInt64Array | None, masks: Stream | None, size: int
) -> Replicated:
    """A block of one side's columns, each component of shape (columns, size)."""
    nothing = np.zeros((side.columns, size), dtype=np.uint64)
    third = (side.owner + 2) % 3
    if masks is None:
        whole = receive(party.channels, side.owner, "columns", np.uint64, side.columns * size)
        return Replicated(nothing, whole.reshape(side.columns, size))
    mask = masks.words(side.columns * size).reshape(side.columns, size)
    if own is None:
        return Replicated(mask, nothing)
    rest = own - mask
    send(party.channels, third, "columns", rest.ravel())
    return Replicated(rest, mask)


def _sketch(party: _Party, side: _Side, shared: Replicated, randomness: Randomness) -> UInt64Array:
    """This party's share of the block's combination of <r, x>**2 - <r*r, x> over rows and marks,
    shape (1,)."""
    third = (side.owner + 2) % 3
    others = [rank for rank in range(3) if rank != third]
    if party.rank == third:
        # Only now, so that no column can have been chosen to fit the coefficients.
        seed = randomness.draw(_SEED_BYTES)
        for other in others:
            party.channels.send(other, "coefficients", seed)
    else:
        seed = bytes(party.channels.receive(third, "coefficients"))
        if len(seed) != _SEED_BYTES:
            raise EngineFailed(EngineFault.MISMATCH, "a seed does not have its length")
    size = shared.first.shape[1]
    odd = zero_shares(seed, side.groups + size * len(side.marks), sign=1) | np.uint64(1)
    r, many = odd[: side.groups], odd[side.groups :].reshape(len(side.marks), size)
    found = np.zeros(1, dtype=np.uint64)
    for mark, weight in zip(side.marks, many, strict=True):
        first, second = shared.first[side.at(mark)], shared.second[side.at(mark)]
        once = Replicated(r @ first, r @ second)
        found += inner_products(
            Replicated(weight * once.first, weight * once.second),
            Replicated(once.first[None], once.second[None]),
        )
        found -= weight @ ((r * r) @ first)
    return found


def _require_marks(party: _Party, checks: UInt64Array) -> None:
    """Open both sketches. Raises EngineFailed (mismatch) unless both are 0."""
    own = checks + zero_share(party.rank, party.pads, ZeroUse.CHECK, len(checks))
    others = [rank for rank in range(3) if rank != party.rank]
    for other in others:
        send(party.channels, other, "marks", own)
    total = own.copy()
    for other in others:
        total += receive(party.channels, other, "marks", np.uint64, len(checks))
    if total.any():
        problem = "a side entered something else than one mark for each person"
        refuse(party.channels, others, problem)
