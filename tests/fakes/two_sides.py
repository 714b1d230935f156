"""Two holders' rows with everything that makes them awkward, and the truth by DuckDB."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np

from crypto.joins.layout import RevealedLayout
from crypto.joins.revealed import NO_GROUP, Cell, Int64Array, ShownMeasure, SideRows


@dataclass(frozen=True)
class Sides:
    layout: RevealedLayout
    a: SideRows
    b: SideRows
    matched: int
    truth: tuple[Cell, ...]


def two_sides(
    rows: int,
    *,
    overlap: int | None = None,
    layout: RevealedLayout | None = None,
    values_up_to: int = 2**40,
    seed: int = 0,
) -> Sides:
    """`rows` rows on each side, `overlap` (two thirds) of them shared, in unrelated orders.

    Values of both signs, a fifth of them missing, a tenth of the rows in no group, the last group
    of side B rare.
    """
    layout = layout or RevealedLayout(2, 3, 1, 1, 10)
    random = np.random.default_rng(seed)
    overlap = rows * 2 // 3 if overlap is None else overlap
    people = random.integers(0, 256, (2 * rows - overlap, 16), dtype=np.uint8)
    id_a = random.permutation(rows)
    id_b = random.permutation(rows) + rows - overlap

    def side(ids: Int64Array, groups: int, measures: int) -> SideRows:
        group = random.integers(0, groups, len(ids))
        if groups > 2:
            group[(group == groups - 1) & (random.random(len(ids)) < 0.97)] = 0
        group[random.random(len(ids)) < 0.1] = NO_GROUP
        values = random.integers(-values_up_to, values_up_to, (len(ids), measures))
        return SideRows(people[ids], group, values, random.random(values.shape) < 0.8)

    a = side(id_a, layout.groups_a, layout.measures_a)
    b = side(id_b, layout.groups_b, layout.measures_b)
    return Sides(layout, a, b, overlap, _truth(layout, a, id_a, b, id_b))


def _truth(
    layout: RevealedLayout, a: SideRows, id_a: Int64Array, b: SideRows, id_b: Int64Array
) -> tuple[Cell, ...]:
    with duckdb.connect() as database:
        for name, rows, ids in (("a", a, id_a), ("b", b, id_b)):
            columns = {f"{name}{m}": rows.values[:, m] for m in range(rows.values.shape[1])}
            holes = {f"{name}{m}_is": rows.valid[:, m] for m in range(rows.valid.shape[1])}
            held = {"id": ids, f"g{name}": rows.group, **columns, **holes}
            database.register(name, held)  # DuckDB reads a dictionary of arrays as a table
        measures = [f"a{m}" for m in range(layout.measures_a)]
        measures += [f"b{m}" for m in range(layout.measures_b)]
        wanted = "".join(
            f", count(*) FILTER ({m}_is), coalesce(sum({m}) FILTER ({m}_is), 0)" for m in measures
        )
        found = database.execute(
            f"SELECT ga, gb, count(*) {wanted} FROM a JOIN b USING (id)"
            " WHERE ga >= 0 AND gb >= 0 GROUP BY ga, gb"
        ).fetchall()
    answer = {(row[0], row[1]): [int(v) for v in row[2:]] for row in found}
    empty = [0] * (1 + 2 * layout.measures)
    return tuple(
        _cell(layout, group_a, group_b, answer.get((group_a, group_b), empty))
        for group_a in range(layout.groups_a)
        for group_b in range(layout.groups_b)
    )


def _cell(layout: RevealedLayout, group_a: int, group_b: int, values: list[int]) -> Cell:
    count, pairs = values[0], zip(values[1::2], values[2::2], strict=True)
    return Cell(
        group_a,
        group_b,
        count if count >= layout.min_group else None,
        tuple(
            ShownMeasure(valid, total) if valid >= layout.min_group else None
            for valid, total in pairs
        ),
    )
