"""Noise, gate, opening: from shares of exact sums to this party's share of the output.

Specification: docs/hidden_join.md, *Noise, gate, opening*. What one holder knows alone (its own
totals, for a LEFT JOIN and a union) enters here as its additive share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.engine import EngineStage, NoiseScales
from crypto.joins.hidden.keys import PairPads, ZeroUse, zero_share
from crypto.joins.hidden.ports import NoiseSource, Replicated, RowResults, ThreePartyEngine
from crypto.joins.hidden.resharing import product, replicate
from crypto.joins.layout import Layout
from crypto.joins.rows import SideRows, limited_terms
from crypto.ports import Channels
from crypto.sharing import UInt64Array


@dataclass(frozen=True, eq=False, repr=False)
class Sums:
    """exact: this party's additive share of every term of every cell, shape (terms * cells,).

    rows: what went row by row, if anything did
    limit: of the dominance of A's own totals: A's 0/1 vector of shape (gates * cells,), zeros
           elsewhere; None where nothing has to be limited
    """

    exact: UInt64Array
    rows: RowResults | None
    limit: UInt64Array | None


def local_totals(layout: Layout, rows: SideRows, *, outer_only: bool) -> UInt64Array:
    """One holder's sums over its own rows, matched or not, shape (terms, cells); 0 at other terms.

    outer_only: a LEFT JOIN's terms alone. Otherwise, for a union, every term: there cells are this
    holder's groups and `left` its factors.
    """
    totals = np.zeros((len(layout.terms), layout.cells), dtype=np.uint64)
    for index, term in enumerate(layout.terms):
        if term.outer or not outer_only:
            # Sums stay below 2**62: SideRows.require.
            np.add.at(totals[index], rows.group, rows.factor(term.left).view(np.uint64))
    return totals


def local_limit(layout: Layout, rows: SideRows | None) -> UInt64Array | None:
    """A: whether no single row dominates a total of its own, per gate and cell. Others give None
    for `rows`. None where the plan limits no such total."""
    limited = [layout.terms[index] for index in limited_terms(layout) if layout.terms[index].outer]
    if layout.dominance is None or not limited:
        return None
    fine = np.zeros((len(layout.gates), layout.cells), dtype=np.uint64)
    if rows is None:
        return fine.ravel()
    fine += np.uint64(1)
    for term in limited:
        size = np.abs(rows.factor(term.left)).view(np.uint64)
        total, most = (np.zeros(layout.cells, dtype=np.uint64) for _ in range(2))
        np.add.at(total, rows.group, size)
        np.maximum.at(most, rows.group, size)
        gate = layout.gates.index(term.people)
        for cell in range(layout.cells):
            if int(most[cell]) > layout.dominance * int(total[cell]):
                fine[gate, cell] = 0
    return fine.ravel()


def noise_of(
    layout: Layout, scales: NoiseScales | None, rank: int, source: NoiseSource
) -> UInt64Array:
    """This party's noise, shape (terms * cells,): a full draw for every term of every cell if it is
    one of the two authors, else zeros. Each alone suffices, so no single party can subtract it."""
    if scales is None or rank not in scales.authors:
        return np.zeros(len(layout.terms) * layout.cells, dtype=np.uint64)
    return np.concatenate(
        [
            source.draw(scales.distribution, scale, layout.cells).astype(np.int64).view(np.uint64)
            for scale in scales.scales
        ]
    )


def output_share(
    layout: Layout,
    sums: Sums,
    scales: NoiseScales | None,
    *,
    rank: int,
    pads: Mapping[int, PairPads],
    channels: Channels,
    noise: NoiseSource,
    secure: ThreePartyEngine,
    on_stage: Callable[[EngineStage], None],
) -> UInt64Array:
    """This party's additive share of the output vector, made fresh: shape (outputs,)."""

    def replicated(share: UInt64Array, use: ZeroUse) -> Replicated:
        return replicate(share, use, rank=rank, pads=pads, channels=channels)

    def limited(shown: Replicated, limit: Replicated, use: ZeroUse) -> Replicated:
        """`ok` and values both become 0 where a limit, by gate and cell, is 0."""
        people = [*layout.gates, *(term.people for term in layout.terms)]
        return replicated(product(shown, _at(limit, _gates_at(layout, people))), use)

    exact = noisy = replicated(sums.exact, ZeroUse.EXACT)
    if scales is not None:
        drawn = noise_of(layout, scales, rank, noise)
        noisy = replicated(sums.exact + drawn, ZeroUse.NOISY)
    on_stage(EngineStage.GATE)
    shown = secure.gate(layout, exact, noisy)
    if sums.limit is not None:
        shown = limited(shown, replicated(sums.limit, ZeroUse.LOCAL_LIMIT), ZeroUse.LOCAL_LIMITED)
    if sums.rows is not None and sums.rows.dominance is not None:
        shown = limited(shown, sums.rows.dominance, ZeroUse.LIMITED)
    share = shown.first
    if sums.rows is not None and layout.extremes:
        ok = _at(shown, _gates_at(layout, [extreme.people for extreme in layout.extremes]))
        share = np.concatenate([share, product(ok, sums.rows.extremes)])
    return share + zero_share(rank, pads, ZeroUse.OPENING, len(share))


def _gates_at(layout: Layout, people: list[int]) -> npt.NDArray[np.int64]:
    """Where, in a vector of gates by cells, the gates of some vectors of cells stand."""
    gates = np.array([layout.gates.index(term) for term in people], dtype=np.int64)
    return (gates[:, None] * layout.cells + np.arange(layout.cells)).ravel()


def _at(shared: Replicated, places: npt.NDArray[np.int64]) -> Replicated:
    return Replicated(shared.first[places], shared.second[places])
