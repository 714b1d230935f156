"""The hidden join, step by step, as one of its parties.

Specification: docs/hidden_join.md, *Steps*. Ranks 0 and 1 are the holders A and B, rank 2 is the
helper C. Rank 3 is the third holder D, where there is one: it uploads, a seed to A and shares to C,
and waits for A's word that the others came to the end. Nothing that is made from a row leaves
before all have compared headers, nothing is opened before the check column has said that pairs are
of equal keys and the canary column that none was lost, and what leaves `run` is a fresh additive
share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from crypto.engine import Combination, EngineStage, HiddenTask, PaddingBounds
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins.hidden.check import (
    coefficients,
    compare_headers,
    compare_lengths,
    header,
    open_canaries,
    require_equal_keys,
    require_no_losses,
)
from crypto.joins.hidden.columns import (
    Column,
    ColumnPlan,
    column_plan,
    linear_side,
    parts,
    row_columns,
)
from crypto.joins.hidden.keys import (
    SEED_BYTES,
    Pad,
    PairPads,
    TagKeys,
    agreed_tags,
    canary_words,
    pair_pads,
    tag_keys,
    tags_of_names,
)
from crypto.joins.hidden.matching import (
    match,
    receive_positions,
    send_positions,
)
from crypto.joins.hidden.messages import mismatch
from crypto.joins.hidden.opening import Sums, local_limit, local_totals, output_share
from crypto.joins.hidden.padding import DRAW_BYTES, Sizes, overlap_bounds, padding, upload_sizes
from crypto.joins.hidden.ports import NoiseSource, Replicated, RowResults, ThreePartyEngine
from crypto.joins.hidden.resharing import Resharing, inner_products
from crypto.joins.hidden.upload import (
    CANARY_COLUMN,
    CHECK_COLUMN,
    HELPER,
    SharesAtHelper,
    SharesOfOther,
    UInt8Array,
    UInt32Array,
    Upload,
    receive_tags,
    within_domain,
)
from crypto.joins.layout import COUNTED, THIRD_RANK, Layout
from crypto.joins.rows import SideRows
from crypto.ports import Channels, Randomness
from crypto.sharing import UInt64Array, to_bytes

A, B = 0, 1
D = THIRD_RANK
Shares = SharesOfOther | SharesAtHelper


@dataclass(frozen=True)
class HiddenResult:
    """share: little-endian words; all parties' shares add up to the layout's output vector. D's are
           zeros.

    learned: `pairs`, the padded count M + a + h that the holders are told (the whole of A's upload
             where the size is hidden). The helper also knows M + a and keeps it to itself: a holder
             who read it would know M. Empty for a union, and at D.
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
    """One party's whole part. All call it with their own task of the same plan and attempt.

    rows: this holder's, one for each person, whose `tokens` are `keys.row_tags`, or, of three
          holders, `keys.row_names`; None at the helper. For a union B's rows, too, have the groups
          and factors of side A.
    Raises EngineFailed: input (these rows or this task; nothing was sent), mismatch (a check
    failed; nothing was opened), peer.
    """
    held = _own_rows(task, rows)
    party = _Party(
        task,
        {peer: pair_pads(task.seat, peer) for peer, key in enumerate(task.seat.keys) if key},
        channels,
        randomness,
        secure,
        on_stage,
    )
    if task.padding is None:
        compare_headers(header(task, None, ((), ())), task.peers, channels)
        on_stage(EngineStage.COMPUTE)
        sums, learned = _union(task.layout, held), {}
    elif party.rank == D and held is not None:
        return _third_holder(party, held, task.padding)
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
    if D in task.peers and party.rank == A:
        channels.send(D, "opened", b"")
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
    place, layout, union = task.place, task.layout, task.combination is Combination.UNION
    try:
        if union and (layout.by_row or layout.groups_b != 1 or layout.factors_b != 1):
            raise Malformed("layout", "of a union has one side, and nothing that pairs rows")
        if union and task.hide_size:
            raise Malformed("hide_size", "is for a join")
        if (rows is None) != (place is None):
            raise Malformed("rows", "are for the holders and for nobody else")
        if rows is None or place is None:
            return None
        if len(rows) > task.caps[place]:
            raise Malformed("rows", f"are more than the product version's cap, {task.caps[place]}")
        rows.require(layout, A if union else task.seat.rank)
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
    layout = party.task.layout
    plan, sizes = _begin(party, bounds)
    if rows is None:
        held = _helper(party, plan, sizes, bounds)
    else:
        held = _holder(party, rows, plan, sizes, bounds)
    party.on_stage(EngineStage.CHECK)
    columns = _Columns(party, plan, held)
    _check_pairs(party, plan, held, columns.reshare)
    party.on_stage(EngineStage.SHARE)
    found: RowResults | None = None
    if layout.by_row:
        given = [_row_columns(columns, side) for side in (A, B)]
        columns.reshare.compare()
        party.on_stage(EngineStage.COMPUTE)
        found = party.secure.rows(layout, *given)
        exact = found.terms.first.reshape(len(layout.terms), layout.cells).copy()
        exact[[index for index, term in enumerate(layout.terms) if term.outer]] = 0
    else:
        exact = _sums(party, columns)
        columns.reshare.compare()
    if party.rank == A and rows is not None:
        exact += local_totals(layout, rows, outer_only=True)
    limit = local_limit(layout, rows if party.rank == A else None)
    return Sums(exact.ravel(), found, limit), held.pairs


def _begin(party: _Party, bounds: PaddingBounds) -> tuple[ColumnPlan, Sizes]:
    """Before anything made from a row leaves: all were told the same."""
    task = party.task
    plan = column_plan(task.layout, hide_size=task.hide_size)
    sizes = upload_sizes(task.caps, bounds, hide_size=task.hide_size)
    compare_headers(header(task, sizes, plan.columns), task.peers, party.channels)
    if len(task.caps) == 3 and party.rank == A:
        # B and D do not hear each other; D waits for the tags' key.
        party.channels.send(B, "alike", b"")
    elif len(task.caps) == 3 and party.rank == B:
        party.channels.receive(A, "alike")
    party.on_stage(EngineStage.UPLOAD)
    return plan, sizes


@dataclass(frozen=True, eq=False, repr=False)
class _Held:
    """After step 4. shares: by the rank of the holder whose columns they are; canaries: what the
    canary column must add up to, where this party knows it."""

    shares: Mapping[int, Shares]
    pairs: int
    canaries: int | None


def _holder(
    party: _Party, rows: SideRows, plan: ColumnPlan, sizes: Sizes, bounds: PaddingBounds
) -> _Held:
    """Steps 2 to 4 at A or B: upload, then the helper's lists."""
    task, own, other, channels = party.task, party.rank, 1 - party.rank, party.channels
    # A tells B its seed and hears B's and D's.
    uploads = {B: sizes.rows[1]} | ({D: sizes.rows[2]} if D in task.peers else {})
    uploads = uploads if own == A else {A: sizes.rows[0]}
    if D in uploads:
        channels.send(D, "tag key", task.token_key)
    canaries = _upload(party, rows, tag_keys(task.token_key), plan, sizes, bounds, seed_to=other)
    seeds = {holder: bytes(channels.receive(holder, "seed")) for holder in uploads}
    if any(len(seed) != SEED_BYTES for seed in seeds.values()):
        raise mismatch("another holder's seed does not have its length")
    party.on_stage(EngineStage.MATCH)
    lists = {
        holder: receive_positions(channels, HELPER, size=size, other=sizes.rows[own])
        for holder, size in uploads.items()
    }
    pairs = len(lists[other])
    if task.hide_size and pairs != sizes.rows[A]:
        raise mismatch("the helper did not give every row of A a partner")
    if any(len(at) != pairs for at in lists.values()):
        raise mismatch("the helper gave this holder lists of different lengths")
    compare_lengths(own, pairs, channels)
    shares = {
        holder: SharesOfOther(seeds[holder], size=uploads[holder], at=at)
        for holder, at in lists.items()
    }
    return _Held(shares, pairs, canaries)


def _third_holder(party: _Party, rows: SideRows, bounds: PaddingBounds) -> HiddenResult:
    """All of D's part. Nothing comes back to it of anybody's rows."""
    channels = party.channels
    plan, sizes = _begin(party, bounds)
    try:
        keys = tag_keys(bytes(channels.receive(A, "tag key")))
    except Malformed as error:
        raise mismatch("the tags' key does not have its length") from error
    _upload(party, rows, keys, plan, sizes, bounds, seed_to=A)
    party.on_stage(EngineStage.MATCH)
    # So that a run that failed for the others fails here, and nothing is sealed.
    channels.receive(A, "opened")
    return HiddenResult(bytes(8 * party.task.layout.outputs), {})


def _upload(
    party: _Party,
    rows: SideRows,
    keys: TagKeys,
    plan: ColumnPlan,
    sizes: Sizes,
    bounds: PaddingBounds,
    *,
    seed_to: int,
) -> int:
    """Steps 2 and 3. Returns what the canary column of the pairs must add up to."""
    task, rank, channels = party.task, party.rank, party.channels
    place = min(rank, len(task.caps) - 1)
    if len(task.caps) == 3:
        rows = replace(rows, tokens=tags_of_names(keys, rows.tokens))
    agreed, common = _agreed(party, keys, bounds)
    upload = Upload(
        rows,
        size=sizes.rows[place],
        pool=sizes.pool[place],
        agreed=agreed,
        canaries=common,
        keys=keys,
        check_agreed=not (task.hide_size and rank == B),
        randomness=party.randomness,
    )
    channels.send(seed_to, "seed", upload.seed)
    upload.send_tags(channels)
    upload.send_check(channels)
    if rank == B:
        upload.send_canary(channels)
    for index, column in enumerate(plan.columns[place]):
        upload.send_column(channels, index, column)
    return int(_sum(canary_words(keys, agreed[:common])))


def _agreed(party: _Party, keys: TagKeys, bounds: PaddingBounds) -> tuple[UInt8Array, int]:
    """Tags of this holder's agreed rows, those of all holders first, and how many those are.

    Of three holders, each overlap has a draw of its own, from what its holders share and the helper
    does not: see `overlap_bounds` for why each is of half the padding.
    """
    drawn = padding(overlap_bounds(bounds, len(party.task.caps)))

    def draw(pad: Pad) -> int:
        return drawn.draw(pad.stream(0).words(DRAW_BYTES // 8).tobytes())

    if len(party.task.caps) == 2:
        common = draw(party.pads[1 - party.rank].agreed)
        return agreed_tags(keys, common), common
    common = draw(Pad(keys.agreed))
    tags = [agreed_tags(keys, common, b"\x00")]
    for other in {A, B, D} - {party.rank}:
        # An overlap of two is named by the holder who is not in it.
        name = bytes([1 + A + B + D - party.rank - other])
        tags.append(agreed_tags(keys, draw(party.pads[other].agreed), name))
    return np.concatenate(tags), common


def _helper(party: _Party, plan: ColumnPlan, sizes: Sizes, bounds: PaddingBounds) -> _Held:
    """Steps 2 to 4 at C. Tags come first, so that of each column only what is paired is kept; the
    holders hear nothing before their whole uploads have arrived."""
    channels = party.channels
    holders = (A, B, D)[: len(sizes.rows)]
    uploads = [
        receive_tags(channels, holder, size=size, pool=pool)
        for holder, size, pool in zip(holders, sizes.rows, sizes.pool, strict=True)
    ]
    party.on_stage(EngineStage.MATCH)
    pairs = match(
        [tags for tags, _ in uploads],
        [pool for _, pool in uploads],
        drawn=None if party.task.hide_size else padding(bounds),
        randomness=party.randomness,
    )
    del uploads
    lists: list[UInt32Array] = [pairs.at_a, pairs.at_b]
    lists += [] if pairs.at_d is None else [pairs.at_d]
    kept = [SharesAtHelper(size=size, at=at) for size, at in zip(sizes.rows, lists, strict=True)]
    arriving = [
        [CHECK_COLUMN, *([CANARY_COLUMN] if holder == B else []), *range(1, 1 + len(columns))]
        for holder, columns in zip(holders, plan.columns, strict=True)
    ]
    for index in range(max(map(len, arriving))):
        for holder, shares, labels in zip(holders, kept, arriving, strict=True):
            if index < len(labels):
                shares.receive(channels, holder, labels[index])
    for at in lists[1:]:
        send_positions(channels, A, at)
    send_positions(channels, B, lists[0])
    return _Held(dict(zip(holders, kept, strict=True)), len(pairs), None)


def _check_pairs(party: _Party, plan: ColumnPlan, held: _Held, reshare: Resharing) -> None:
    """Step 5, *Check*: sum of r_i * (A's check word - B's) over all pairs is 0, and of three also
    of A's and D's; then the rows that all holders agreed on are all among the pairs.

    Where the size is hidden, A's word is multiplied by B's validity, for most pairs are none.
    """
    shares, pairs, rank, channels = held.shares, held.pairs, party.rank, party.channels
    words = {holder: part.check() for holder, part in shares.items()}
    random = coefficients(rank, party.pads, channels)
    weights = {B: random.words(pairs)}
    of_a = weights[B]
    if party.task.layout.third is not None:
        weights[D] = random.words(pairs)
        of_a = of_a + weights[D]
    difference = np.zeros(1, dtype=np.uint64)
    if party.task.hide_size:
        valid = _validity(plan, shares, pairs)
        word = reshare.column(A, CHECK_COLUMN, words.get(A), pairs)
        real = reshare.column(B, CHECK_COLUMN, valid, pairs)
        weighted = Replicated(word.first * of_a, word.second * of_a)
        difference += inner_products(weighted, Replicated(real.first[None], real.second[None]))
    elif A in words:
        difference += of_a @ words[A]
    for holder, weight in weights.items():
        if holder in words:
            difference -= weight @ words[holder]
    require_equal_keys(difference, party.task, party.pads, channels, party.randomness)
    canaries = np.zeros(1, dtype=np.uint64)
    if B in shares:
        canaries += shares[B].canary().sum(dtype=np.uint64)
    found = open_canaries(canaries, rank, party.pads, channels)
    if found is not None and held.canaries is not None:
        require_no_losses(found, held.canaries, rank, channels)


class _Columns:
    """The columns of both sides over all pairs, made of what the holders uploaded."""

    def __init__(self, party: _Party, plan: ColumnPlan, held: _Held) -> None:
        self.plan, self.pairs, self._shares = plan, held.pairs, held.shares
        self.layout = party.task.layout
        self.reshare = Resharing(party.rank, party.pads, party.channels)
        holders = (A, B, D)[: len(plan.columns)]
        self._index = {
            (holder, column): index
            for holder, columns in zip(holders, plan.columns, strict=True)
            for index, column in enumerate(columns)
        }
        # Of three, B's and D's columns enter several products; each is re-shared once and kept.
        self._kept: dict[tuple[int, Column], Replicated] = {}
        self._wanted = self._multiplied()

    def total(self, side: int, column: Column) -> np.uint64:
        """This party's additive share of the sum, over all pairs, of a column that enters no
        product of both sides."""
        uploaded = self._uploaded(side, column)
        if len(uploaded) == 2:
            of_b, of_d = (self._replicated(*one) for one in uploaded)
            y = Replicated(of_d.first[None], of_d.second[None])
            return np.uint64(inner_products(of_b, y)[0])
        if uploaded[0] in self._wanted:
            return _sum(self._replicated(*uploaded[0]).first)
        held = self._held(*uploaded[0])
        return np.uint64(0) if held is None else _sum(held)

    def components(self, side: int, column: Column) -> Replicated:
        """The column re-shared, each component of shape (pairs,). Once for each column."""
        found = [self._replicated(*one) for one in self._uploaded(side, column)]
        return found[0] if len(found) == 1 else self.reshare.product(*found)

    def _uploaded(self, side: int, column: Column) -> list[tuple[int, Column]]:
        if side == A:
            return [(A, column)]
        return [
            (holder, part)
            for holder, part in zip((B, D), parts(self.layout, column), strict=True)
            if part is not None
        ]

    def _multiplied(self) -> frozenset[tuple[int, Column]]:
        """What is uploaded and must be re-shared."""
        found: set[tuple[int, Column]] = set()
        for side in (A, B):
            for column in self.plan.sides[side]:
                uploaded = self._uploaded(side, column)
                if len(uploaded) == 2 or column.factor in self.plan.shared(side):
                    found.update(uploaded)
        return frozenset(found)

    def _held(self, holder: int, column: Column) -> UInt64Array | None:
        index = self._index[holder, column]
        return self._shares[holder].column(index) if holder in self._shares else None

    def _replicated(self, holder: int, column: Column) -> Replicated:
        if (holder, column) in self._kept:
            return self._kept[holder, column]
        held, label = self._held(holder, column), self._index[holder, column] + 1
        found = self.reshare.column(holder, label, held, self.pairs)
        if holder != A and self.layout.third is not None:
            self._kept[holder, column] = found
        return found


def _validity(plan: ColumnPlan, shares: Mapping[int, Shares], pairs: int) -> UInt64Array | None:
    """This party's share of "B's row is real", from the columns of its groups; None at B."""
    if B not in shares:
        return None
    total = np.zeros(pairs, dtype=np.uint64)
    for index, column in enumerate(plan.columns[B]):
        if column.factor == COUNTED:
            total += shares[B].column(index, again=True)
    return total


def _sums(party: _Party, columns: _Columns) -> UInt64Array:
    """This party's additive share of every term that depends on pairs, shape (terms, cells).

    The side with fewer columns in products is re-shared first and stays; the other's columns pass
    by one at a time.
    """
    layout, plan = columns.layout, columns.plan
    staying = min((A, B), key=lambda side: len(plan.shared(side)) * layout.groups(side))
    passing = 1 - staying
    found: dict[tuple[int, int], UInt64Array] = {}  # (left, right): shape (groups_a, groups_b)
    alone: dict[tuple[int, int], UInt64Array] = {}  # (side, factor): shape (groups,)
    stay: dict[int, Replicated] = {}  # factor: shape (groups, pairs)
    for side in (staying, passing):
        for column in plan.sides[side]:
            factor, group = column.factor, column.group or 0
            shared = columns.components(side, column) if factor in plan.shared(side) else None
            if factor in plan.linear[side]:
                sums = alone.setdefault((side, factor), _zeros(layout.groups(side)))
                # Everybody's first components add up to the column itself.
                sums[group] = columns.total(side, column) if shared is None else _sum(shared.first)
            if shared is None:
                continue
            if side == staying:
                kept = stay.setdefault(factor, _empty(layout.groups(side), columns.pairs))
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


def _row_columns(columns: _Columns, side: int) -> Replicated:
    """One side's columns as `ThreePartyEngine.rows` takes them, shape (columns, pairs)."""
    wanted = row_columns(columns.layout, side)
    found = _empty(len(wanted), columns.pairs)
    validity = wanted.index(Column(COUNTED, None))
    found.first[validity], found.second[validity] = 0, 0
    for column in columns.plan.sides[side]:
        shared = columns.components(side, column)
        place = wanted.index(column)
        found.first[place], found.second[place] = shared.first, shared.second
        if column.factor == COUNTED:  # validity is the sum over groups
            found.first[validity] += shared.first
            found.second[validity] += shared.second
    return found


def _sum(column: UInt64Array) -> np.uint64:
    return np.uint64(column.sum(dtype=np.uint64))


def _zeros(*shape: int) -> UInt64Array:
    return np.zeros(shape, dtype=np.uint64)


def _empty(columns: int, pairs: int) -> Replicated:
    first, second = (np.empty((columns, pairs), dtype=np.uint64) for _ in range(2))
    return Replicated(first, second)
