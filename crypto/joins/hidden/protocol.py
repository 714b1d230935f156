"""The hidden join, step by step, as one of its three parties.

Specification: docs/hidden_join.md, *Steps*. Ranks 0 and 1 are the holders A and B, rank 2 is the
helper C. Nothing that is made from a row leaves before all three have compared headers, nothing is
opened before the check column has said that pairs are of equal keys, and what leaves `run` is a
fresh additive share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from crypto.engine import Combination, EngineStage, HiddenTask, PaddingBounds
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins.hidden.check import (
    coefficients,
    compare_headers,
    compare_lengths,
    header,
    require_equal_keys,
)
from crypto.joins.hidden.columns import (
    Column,
    ColumnPlan,
    column_plan,
    linear_side,
    row_columns,
)
from crypto.joins.hidden.keys import SEED_BYTES, PairPads, pair_pads, tag_keys
from crypto.joins.hidden.matching import (
    match,
    receive_positions,
    send_positions,
)
from crypto.joins.hidden.messages import mismatch
from crypto.joins.hidden.opening import Sums, local_limit, local_totals, output_share
from crypto.joins.hidden.padding import DRAW_BYTES, padding
from crypto.joins.hidden.ports import NoiseSource, Replicated, RowResults, ThreePartyEngine
from crypto.joins.hidden.resharing import Resharing, inner_products
from crypto.joins.hidden.upload import (
    CHECK_COLUMN,
    HELPER,
    SharesAtHelper,
    SharesOfOther,
    Sizes,
    Upload,
    receive_tags,
    upload_sizes,
    within_domain,
)
from crypto.joins.layout import COUNTED, Layout
from crypto.joins.rows import SideRows
from crypto.ports import Channels, Randomness
from crypto.sharing import UInt64Array, to_bytes

A, B = 0, 1
Shares = SharesOfOther | SharesAtHelper


@dataclass(frozen=True)
class HiddenResult:
    """share: little-endian words; the three parties' shares add up to the layout's output vector.

    learned: `pairs`, the padded count M + a + h that the holders are told (the whole of A's upload
             where the size is hidden). The helper also knows M + a and keeps it to itself: a holder
             who read it would know M. Empty for a union.
    """

    share: bytes = field(repr=False)
    learned: Mapping[str, int]


def run(
    task: HiddenTask,
    rows: SideRows | None,
    *,
    channels: Channels,
    randomness: Randomness,
    noise: NoiseSource,
    secure: ThreePartyEngine,
    on_stage: Callable[[EngineStage], None],
) -> HiddenResult:
    """One party's whole part. All three call it with their own task of the same plan and attempt.

    rows: this holder's, one for each person, whose `tokens` are `keys.row_tags`; None at the
          helper. For a union B's rows, too, have the groups and factors of side A.
    Raises EngineFailed: input (these rows or this task; nothing was sent), mismatch (a check
    failed; nothing was opened), peer.
    """
    held = _own_rows(task, rows)
    party = _Party(
        task,
        {peer: pair_pads(task.seat, peer) for peer in range(3) if peer != task.seat.rank},
        channels,
        randomness,
        secure,
        on_stage,
    )
    if task.padding is None:
        compare_headers(header(task, None, ((), ())), party.rank, channels)
        on_stage(EngineStage.COMPUTE)
        sums, learned = _union(task.layout, held), {}
    else:
        sums, pairs = _join(party, held, task.padding)
        learned = {"pairs": pairs}
    share = output_share(
        task.layout,
        sums,
        task.noise,
        rank=party.rank,
        pads=party.pads,
        channels=channels,
        noise=noise,
        secure=secure,
        on_stage=on_stage,
    )
    return HiddenResult(to_bytes(share), learned)


@dataclass(frozen=True, eq=False, repr=False)
class _Party:
    task: HiddenTask
    pads: Mapping[int, PairPads]
    channels: Channels
    randomness: Randomness
    secure: ThreePartyEngine
    on_stage: Callable[[EngineStage], None]

    @property
    def rank(self) -> int:
        return self.task.seat.rank


def _own_rows(task: HiddenTask, rows: SideRows | None) -> SideRows | None:
    """The rows that count. Raises EngineFailed (input), for this party alone to read."""
    rank, layout, union = task.seat.rank, task.layout, task.combination is Combination.UNION
    try:
        if union and (layout.by_row or layout.groups_b != 1 or layout.factors_b != 1):
            raise Malformed("layout", "of a union has one side, and nothing that pairs rows")
        if union and task.hide_size:
            raise Malformed("hide_size", "is for a join")
        if (rows is None) != (rank == HELPER):
            raise Malformed("rows", "are for the holders and for nobody else")
        if rows is None:
            return None
        if len(rows) > task.caps[rank]:
            raise Malformed("rows", f"are more than the product version's cap, {task.caps[rank]}")
        rows.require(layout, A if union else rank)
    except Malformed as error:
        raise EngineFailed(EngineFault.INPUT, str(error)) from error
    return within_domain(rows)


def _union(layout: Layout, rows: SideRows | None) -> Sums:
    """Nothing is matched: each holder's own sums enter as its additive share."""
    if rows is None:
        return Sums(np.zeros(len(layout.terms) * layout.cells, dtype=np.uint64), None, None)
    return Sums(local_totals(layout, rows, outer_only=False).ravel(), None, None)


def _join(party: _Party, rows: SideRows | None, bounds: PaddingBounds) -> tuple[Sums, int]:
    """Steps 2 to 5. Returns the sums, and how many pairs there were."""
    task, layout = party.task, party.task.layout
    plan = column_plan(layout, hide_size=task.hide_size)
    sizes = upload_sizes(task.caps, bounds, hide_size=task.hide_size)
    compare_headers(header(task, sizes, plan.columns), party.rank, party.channels)
    party.on_stage(EngineStage.UPLOAD)
    if rows is None:
        shares, pairs = _helper(party, plan, sizes, bounds)
    else:
        shares, pairs = _holder(party, rows, plan, sizes, bounds)
    party.on_stage(EngineStage.CHECK)
    reshare = Resharing(party.rank, party.pads, party.channels)
    _check_pairs(party, plan, shares, reshare, pairs)
    party.on_stage(EngineStage.SHARE)
    found: RowResults | None = None
    if layout.by_row:
        columns = [_row_columns(layout, side, plan, shares, reshare, pairs) for side in (A, B)]
        reshare.compare()
        party.on_stage(EngineStage.COMPUTE)
        found = party.secure.rows(layout, *columns)
        exact = found.terms.first.reshape(len(layout.terms), layout.cells).copy()
        exact[[index for index, term in enumerate(layout.terms) if term.outer]] = 0
    else:
        exact = _sums(party, plan, shares, reshare, pairs)
        reshare.compare()
    if party.rank == A and rows is not None:
        exact += local_totals(layout, rows, outer_only=True)
    limit = local_limit(layout, rows if party.rank == A else None)
    return Sums(exact.ravel(), found, limit), pairs


def _holder(
    party: _Party, rows: SideRows, plan: ColumnPlan, sizes: Sizes, bounds: PaddingBounds
) -> tuple[dict[int, Shares], int]:
    """Steps 2 to 4 at A or B: upload, then the helper's list."""
    own, other, channels = party.rank, 1 - party.rank, party.channels
    agreed = party.pads[other].agreed.stream(0).words(DRAW_BYTES // 8).tobytes()
    upload = Upload(
        rows,
        size=sizes.rows[own],
        pool=sizes.pool[own],
        agreed=padding(bounds).draw(agreed),
        keys=tag_keys(party.task.token_key),
        check_agreed=not (party.task.hide_size and own == B),
        randomness=party.randomness,
    )
    channels.send(other, "seed", upload.seed)
    upload.send_tags(channels)
    upload.send_check(channels)
    for index, column in enumerate(plan.columns[own]):
        upload.send_column(channels, index, column)
    del upload  # with the secret order
    seed = bytes(channels.receive(other, "seed"))
    if len(seed) != SEED_BYTES:
        raise mismatch("the other holder's seed does not have its length")
    party.on_stage(EngineStage.MATCH)
    at = receive_positions(channels, HELPER, size=sizes.rows[other], other=sizes.rows[own])
    if party.task.hide_size and len(at) != sizes.rows[A]:
        raise mismatch("the helper did not give every row of A a partner")
    compare_lengths(own, len(at), channels)
    return {other: SharesOfOther(seed, size=sizes.rows[other], at=at)}, len(at)


def _helper(
    party: _Party, plan: ColumnPlan, sizes: Sizes, bounds: PaddingBounds
) -> tuple[dict[int, Shares], int]:
    """Steps 2 to 4 at C. Tags come first, so that of each column only what is paired is kept; the
    holders hear nothing before their whole uploads have arrived."""
    channels = party.channels
    (tags_a, pool_a), (tags_b, pool_b) = (receive_tags(channels, s, sizes) for s in (A, B))
    party.on_stage(EngineStage.MATCH)
    pairs = match(
        (tags_a, tags_b),
        (pool_a, pool_b),
        drawn=None if party.task.hide_size else padding(bounds),
        randomness=party.randomness,
    )
    del tags_a, tags_b
    kept = [
        SharesAtHelper(size=sizes.rows[side], at=at)
        for side, at in ((A, pairs.at_a), (B, pairs.at_b))
    ]
    arriving = [1 + len(plan.columns[side]) for side in (A, B)]
    for index in range(max(arriving)):
        for side in (A, B):
            if index < arriving[side]:
                kept[side].receive(channels, side)
    send_positions(channels, A, pairs.at_b)
    send_positions(channels, B, pairs.at_a)
    return {A: kept[A], B: kept[B]}, len(pairs)


def _check_pairs(
    party: _Party, plan: ColumnPlan, shares: Mapping[int, Shares], reshare: Resharing, pairs: int
) -> None:
    """Step 5, *Check*: sum of r_i * (A's check word - B's) over all pairs is 0.

    Where the size is hidden, A's word is multiplied by B's validity, for most pairs are none.
    """
    words = {side: held.check() for side, held in shares.items()}
    r = coefficients(party.rank, party.pads, party.channels).words(pairs)
    difference = np.zeros(1, dtype=np.uint64)
    if party.task.hide_size:
        valid = _validity(plan, shares, pairs)
        of_a = reshare.column(A, CHECK_COLUMN, words.get(A), pairs)
        of_b = reshare.column(B, CHECK_COLUMN, valid, pairs)
        weighted = Replicated(of_a.first * r, of_a.second * r)
        difference += inner_products(weighted, Replicated(of_b.first[None], of_b.second[None]))
    elif A in words:
        difference += r @ words[A]
    if B in words:
        difference -= r @ words[B]
    require_equal_keys(difference, party.rank, party.pads, party.channels)


def _validity(plan: ColumnPlan, shares: Mapping[int, Shares], pairs: int) -> UInt64Array | None:
    """This party's share of "B's row is real", from the columns of its groups; None at B."""
    if B not in shares:
        return None
    total = np.zeros(pairs, dtype=np.uint64)
    for index, column in enumerate(plan.columns[B]):
        if column.factor == COUNTED:
            total += shares[B].column(index, again=True)
    return total


def _sums(
    party: _Party, plan: ColumnPlan, shares: Mapping[int, Shares], reshare: Resharing, pairs: int
) -> UInt64Array:
    """This party's additive share of every term that depends on pairs, shape (terms, cells).

    The side with fewer columns in products is re-shared first and stays; the other's columns pass
    by one at a time.
    """
    layout = party.task.layout
    staying = min((A, B), key=lambda side: len(plan.shared(side)) * layout.groups(side))
    passing = 1 - staying
    found: dict[tuple[int, int], UInt64Array] = {}  # (left, right): shape (groups_a, groups_b)
    alone: dict[tuple[int, int], UInt64Array] = {}  # (side, factor): shape (groups,)
    stay: dict[int, Replicated] = {}  # factor: shape (groups, pairs)
    for side in (staying, passing):
        for index, column in enumerate(plan.columns[side]):
            factor, group = column.factor, column.group or 0
            held = shares[side].column(index) if side in shares else None
            if factor in plan.linear[side]:
                sums = alone.setdefault((side, factor), _zeros(layout.groups(side)))
                if held is not None:
                    sums[group] = held.sum(dtype=np.uint64)
            if factor not in plan.shared(side):
                continue
            shared = reshare.column(side, index + 1, held, pairs)
            if side == staying:
                kept = stay.setdefault(factor, _empty(layout.groups(side), pairs))
                kept.first[group], kept.second[group] = shared.first, shared.second
                continue
            for pair in sorted(plan.product):
                if pair[passing] == factor:
                    table = found.setdefault(pair, _zeros(layout.groups_a, layout.groups_b))
                    table = table if passing == A else table.T
                    table[group] = inner_products(shared, stay[pair[staying]])
        if side == staying:
            party.on_stage(EngineStage.COMPUTE)
    exact = _zeros(len(layout.terms), layout.cells)
    for index, term in enumerate(layout.terms):
        if term.outer:
            continue
        side_alone = linear_side(layout, term, hide_size=party.task.hide_size)
        if side_alone is None:
            exact[index] = found[term.left, term.right].ravel()
        else:
            exact[index] = alone[side_alone, (term.left, term.right)[side_alone]]
    return exact


def _row_columns(
    layout: Layout,
    side: int,
    plan: ColumnPlan,
    shares: Mapping[int, Shares],
    reshare: Resharing,
    pairs: int,
) -> Replicated:
    """One side's columns as `ThreePartyEngine.rows` takes them, shape (columns, pairs)."""
    wanted = row_columns(layout, side)
    found = _empty(len(wanted), pairs)
    validity = wanted.index(Column(COUNTED, None))
    found.first[validity], found.second[validity] = 0, 0
    for index, column in enumerate(plan.columns[side]):
        held = shares[side].column(index) if side in shares else None
        shared = reshare.column(side, index + 1, held, pairs)
        place = wanted.index(column)
        found.first[place], found.second[place] = shared.first, shared.second
        if column.factor == COUNTED:  # validity is the sum over groups
            found.first[validity] += shared.first
            found.second[validity] += shared.second
    return found


def _zeros(*shape: int) -> UInt64Array:
    return np.zeros(shape, dtype=np.uint64)


def _empty(columns: int, pairs: int) -> Replicated:
    first, second = (np.empty((columns, pairs), dtype=np.uint64) for _ in range(2))
    return Replicated(first, second)
