"""What the receiver reads from all parties' output shares together.

The shares add up, modulo 2**64, to the output vector of `crypto.joins.layout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crypto.errors import Malformed
from crypto.joins.layout import Layout
from crypto.sharing import recombine


@dataclass(frozen=True)
class Cell:
    """One pair of groups. None is *suppressed*: too few people, which is not the same as zero.

    terms, extremes: in the order of the layout
    """

    group_a: int
    group_b: int
    terms: tuple[int | None, ...]
    extremes: tuple[int | None, ...]


def open_cells(layout: Layout, shares: Sequence[bytes]) -> tuple[Cell, ...]:
    """What the output says, cell by cell.

    Raises Malformed if the shares do not belong to each other or to this layout: shares of
    different runs add up to noise, which this notices.
    """
    flat = recombine(shares)
    if len(flat) != layout.outputs:
        raise Malformed("shares", f"hold {len(flat)} values; the plan has {layout.outputs}")
    gates, cells = layout.gates, layout.cells
    ok, values, extremes = np.split(
        flat, [len(gates) * cells, (len(gates) + len(layout.terms)) * cells]
    )
    ok = ok.reshape(len(gates), cells)
    values = values.reshape(len(layout.terms), cells)
    extremes = extremes.reshape(len(layout.extremes), cells)
    place = {term: row for row, term in enumerate(gates)}
    gated = np.stack([ok[place[term.people]] for term in layout.terms])
    gated_extremes = np.array(
        [ok[place[extreme.people]] for extreme in layout.extremes], dtype=np.int64
    ).reshape(len(layout.extremes), cells)
    right = ((ok == 0) | (ok == 1)).all() and (values[gated == 0] == 0).all()
    right = right and (extremes[gated_extremes == 0] == 0).all()
    right = right and (values[list(gates)] % layout.round_counts == 0).all()
    if layout.round_counts == 1:
        right = right and (values[list(gates)][ok == 1] >= layout.min_group + layout.slack).all()
    if not right:
        raise Malformed("shares", "do not belong to one run of this plan")
    return tuple(
        Cell(
            group_a=cell // layout.groups_b,
            group_b=cell % layout.groups_b,
            terms=tuple(
                int(values[t, cell]) if gated[t, cell] else None for t in range(len(layout.terms))
            ),
            extremes=tuple(
                int(extremes[e, cell]) if gated_extremes[e, cell] else None
                for e in range(len(layout.extremes))
            ),
        )
        for cell in range(cells)
    )
