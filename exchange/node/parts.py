"""One party's part of a run: what its engine is told and what rows it is given.

Everything here follows from the plan, the products and the keys of the attempt, so all parties
derive the same layout, padding and noise; what they were told alike is compared before anything is
matched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from crypto import joinkeys
from crypto.engine import (
    Combination,
    EngineTask,
    HiddenTask,
    NoiseScales,
    PaddingBounds,
    RevealedTask,
    Seat,
    SumTask,
)
from crypto.errors import Malformed
from crypto.identifiers import PartyId
from crypto.joins.hidden.keys import row_names, row_tags
from crypto.joins.intersection import Intersection
from crypto.joins.rows import NO_GROUP, SideRows
from crypto.joins.summable import scheme_for
from crypto.session import PairKeys
from exchange.query.plan import HELPER_RANK, MAX_SIDES, Plan
from exchange.query.program import Program, program_of
from exchange.query.standing import standing_of
from registry.expression import LocalQuery
from registry.ports import LocalRows
from registry.product import DataProduct
from registry.rule import Join

# Rows a person can move in a matched count: each side brings one row a person.
CONTRIBUTION: Final = 1


@dataclass(frozen=True)
class Keys:
    """Of this attempt, with each peer by rank; the own place is empty. standing: the two holders'
    for tokens that are asked for again in later jobs, where the plan's intersection has any."""

    by_rank: Mapping[int, PairKeys] = field(repr=False)
    standing: bytes = field(default=b"", repr=False)


def local_query(plan: Plan, program: Program, place: int) -> LocalQuery:
    """What the source of the holder at this place in the plan's sides computes at home."""
    return LocalQuery(plan.sides[place].where, program.groups[place], program.factors[place])


def suppressed_below(plan: Plan) -> int:
    """Fewer people than this in a group of one holder, and nothing of it is released. In a union
    the other holder's people count with them."""
    return 1 if plan.join is Join.UNION else plan.query.gate.min_group


def side_rows(plan: Plan, rank: int, local: LocalRows, keys: Keys, *, filler: bytes) -> SideRows:
    """Rows as engines take them: join keys become tokens under the two holders' own key, so that no
    file of an engine ever holds a key. Of three holders they become names, which the engines turn
    into tokens (`row_names`). filler: 16 random bytes."""
    canonical = joinkeys.canonical_keys(local.keys, joinkeys.KeyKind.TEXT)
    if plan.join is Join.UNION:
        return unmatched(local)
    if len(plan.sides) == MAX_SIDES:
        return SideRows(row_names(canonical), local.group, local.factors)
    shared = keys.by_rank[1 - rank].token
    if plan.join is Join.HIDDEN:
        return SideRows(row_tags(canonical, shared), local.group, local.factors)
    if plan.query.intersection is Intersection.UNBALANCED:
        shared = keys.standing
    rows = SideRows(joinkeys.tokens(canonical, shared), local.group, local.factors)
    return rows if len(rows) else _filler(rows, filler)


def unmatched(local: LocalRows) -> SideRows:
    """Rows that nothing is matched with: any distinct names will do."""
    names = np.arange(2 * len(local.keys), dtype=np.uint64)
    return SideRows(names.view(np.uint8).reshape(-1, 16), local.group, local.factors)


def task_of(plan: Plan, products: Sequence[DataProduct], seat: Seat, keys: Keys) -> EngineTask:
    """What the engine at `seat` is told. Raises Malformed for a join that no engine makes."""
    program, work = program_of(plan, products), plan.query
    if plan.join is Join.REVEALED:
        if work.intersection is None:
            raise Malformed("work.intersection", "is missing")
        unbalanced = work.intersection is Intersection.UNBALANCED
        return RevealedTask(
            seat=seat,
            layout=program.layout,
            intersection=work.intersection,
            # With a helper every two parties have keys, and zero shares come from those.
            zero_key=b"" if plan.helper else keys.by_rank[1 - seat.rank].zero,
            standing=standing_of(plan, products) if unbalanced else None,
        )
    if plan.join is Join.SUM:
        caps = tuple(product.cap for product in products)
        return SumTask(
            seat=seat,
            layout=program.layout,
            caps=caps,
            scheme=scheme_for(caps),
            zero_key=keys.by_rank[1 - seat.rank].zero,
        )
    if plan.join not in (Join.HIDDEN, Join.UNION):
        raise Malformed("join", f"{plan.join} runs in no engine")
    padding = work.padding
    return HiddenTask(
        seat=seat,
        layout=program.layout,
        combination=Combination.JOIN if plan.join is Join.HIDDEN else Combination.UNION,
        caps=tuple(product.cap for product in products),
        padding=None
        if padding is None
        else PaddingBounds(padding.epsilon, padding.delta, CONTRIBUTION),
        hide_size=work.hide_size,
        # A third holder gets the tags' key from the first one's engine.
        token_key=keys.by_rank[1 - seat.rank].token if seat.rank < HELPER_RANK else b"",
        noise=None
        if work.noise is None
        else NoiseScales(work.noise.distribution, work.noise.scales, noise_authors(plan)),
    )


def noise_authors(plan: Plan) -> tuple[int, ...]:
    """The two parties that each add a full draw: never the receiver, who could take its own off.
    One of the first three, whoever receives: a third holder has no share to add it to."""
    ranks = [rank for rank, party in enumerate(plan.engine_parties) if party != _receiver(plan)]
    return tuple(ranks[:2])


def _receiver(plan: Plan) -> PartyId:
    return plan.receivers[0].party


def _filler(rows: SideRows, token: bytes) -> SideRows:
    """One row that matches nobody and counts nowhere. No two-party engine takes an empty side, and
    a job that failed for it would tell the consumer whether anybody fits a filter."""
    return SideRows(
        tokens=np.frombuffer(token, dtype=np.uint8).reshape(1, -1),
        group=np.array([NO_GROUP], dtype=np.int64),
        factors=np.zeros((1, rows.factors.shape[1]), dtype=np.int64),
    )
