"""Two holders' rows with everything that makes them awkward, and the truth by DuckDB."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import duckdb
import numpy as np

from crypto.joins.layout import COUNTED, Comparison, Extreme, Layout, Term
from crypto.joins.released import Cell
from crypto.joins.rows import NO_GROUP, Int64Array, SideRows


@dataclass(frozen=True)
class Sides:
    layout: Layout
    a: SideRows
    b: SideRows
    matched: int
    truth: tuple[Cell, ...]


def a_layout(
    groups_a: int = 2,
    groups_b: int = 3,
    measures_a: int = 1,
    measures_b: int = 1,
    min_group: int = 10,
    *,
    products: bool = False,
    outer: bool = False,
    comparisons: tuple[Comparison, ...] = (),
    extremes: tuple[Extreme, ...] = (),
    dominance: Fraction | None = None,
    round_counts: int = 1,
) -> Layout:
    """People, then for each measure its valid people and its sum, A's measures first.

    Measure m of a side has factors 2m + 1, "has a value", and 2m + 2, the value.
    products: also the sums of the product of the first measures of both sides
    outer:    also people and the first measure's sum over all of A's rows
    """
    terms = [Term(COUNTED, COUNTED, 0, False)]
    for side, measures in enumerate((measures_a, measures_b)):
        for m in range(measures):
            gate = len(terms)
            for factor in (2 * m + 1, 2 * m + 2):
                terms.append(Term(*((factor, COUNTED), (COUNTED, factor))[side], gate, False))
    if products:
        gate = len(terms)
        terms += [Term(1, 1, gate, False), Term(2, 2, gate, False), Term(2, 1, gate, False)]
    if outer:
        gate = len(terms)
        terms += [Term(1, COUNTED, gate, True), Term(2, COUNTED, gate, True)]
    return Layout(
        groups_a,
        groups_b,
        1 + 2 * measures_a,
        1 + 2 * measures_b,
        tuple(terms),
        comparisons,
        extremes,
        min_group,
        0,
        dominance,
        round_counts,
    )


def two_sides(
    rows: int,
    *,
    overlap: int | None = None,
    layout: Layout | None = None,
    values_up_to: int = 2**40,
    seed: int = 0,
) -> Sides:
    """`rows` rows on each side, `overlap` (two thirds) of them shared, in unrelated orders.

    Values of both signs, a fifth of them missing, a tenth of the rows in no group, the last group
    of side B rare. The layout's factors are those of `a_layout`.
    """
    layout = layout or a_layout()
    random = np.random.default_rng(seed)
    overlap = rows * 2 // 3 if overlap is None else overlap
    people = random.integers(0, 256, (2 * rows - overlap, 16), dtype=np.uint8)
    id_a = random.permutation(rows)
    id_b = random.permutation(rows) + rows - overlap

    def side(ids: Int64Array, groups: int, factors: int) -> SideRows:
        group = random.integers(0, groups, len(ids))
        if groups > 2:
            group[(group == groups - 1) & (random.random(len(ids)) < 0.97)] = 0
        group[random.random(len(ids)) < 0.1] = NO_GROUP
        values = random.integers(-values_up_to, values_up_to, (len(ids), factors // 2))
        valid = random.random(values.shape) < 0.8
        held = np.stack([valid.astype(np.int64), np.where(valid, values, 0)], axis=2)
        return SideRows(people[ids], group, held.reshape(len(ids), factors - 1))

    a = side(id_a, layout.groups_a, layout.factors_a)
    b = side(id_b, layout.groups_b, layout.factors_b)
    return Sides(layout, a, b, overlap, _truth(layout, a, id_a, b, id_b))


def _truth(
    layout: Layout, a: SideRows, id_a: Int64Array, b: SideRows, id_b: Int64Array
) -> tuple[Cell, ...]:
    with duckdb.connect() as database:
        for name, rows, ids in (("a", a, id_a), ("b", b, id_b)):
            factors = {f"{name}{1 + f}": rows.factors[:, f] for f in range(rows.factors.shape[1])}
            held = {"id": ids, f"g{name}": rows.group, f"{name}0": rows.factor(0), **factors}
            database.register(name, held)  # DuckDB reads a dictionary of arrays as a table
        where = "".join(
            f" AND a{c.left_mark} = 1 AND b{c.right_mark} = 1 AND a{c.left} {c.order} b{c.right}"
            for c in layout.comparisons
        )
        wanted = [_term(layout, index) for index in range(len(layout.terms))]
        wanted += [_dominated(layout, index) for index in range(len(layout.terms))]
        wanted += [_extreme(extreme) for extreme in layout.extremes]
        joined = database.execute(
            f"SELECT ga, gb, {', '.join(wanted)} FROM a JOIN b USING (id)"
            f" WHERE ga >= 0 AND gb >= 0 {where} GROUP BY ga, gb"
        ).fetchall()
        totals = [f"sum(a{term.left}::HUGEINT)" for term in layout.terms]
        totals += [_dominated(layout, index, "") for index in range(len(layout.terms))]
        alone = database.execute(
            f"SELECT ga, {', '.join(totals)} FROM a WHERE ga >= 0 GROUP BY ga"
        ).fetchall()
    of_cell = {(row[0], row[1]): row[2:] for row in joined}
    of_a = {row[0]: row[1:] for row in alone}
    return tuple(
        _cell(
            layout,
            group_a,
            group_b,
            of_cell.get((group_a, group_b)),
            of_a.get(group_a, [0] * len(layout.terms) + [False] * len(layout.terms)),
        )
        for group_a in range(layout.groups_a)
        for group_b in range(layout.groups_b)
    )


def _term(layout: Layout, index: int) -> str:
    term = layout.terms[index]
    return f"sum(a{term.left}::HUGEINT * b{term.right})"


def _dominated(layout: Layout, index: int, right: str = " * b{}") -> str:
    term = layout.terms[index]
    one_sided = COUNTED in (term.left, term.right)
    if layout.dominance is None or term.people == index or not one_sided:
        return "false"
    size = f"abs(a{term.left}{right.format(term.right)})"
    share = layout.dominance
    return f"max({size}) * {share.denominator} > sum({size}) * {share.numerator}"


def _extreme(extreme: Extreme) -> str:
    name = "ab"[extreme.side]
    function = "max" if extreme.largest else "min"
    return f"{function}({name}{extreme.factor}) FILTER ({name}{extreme.mark} = 1)"


def _cell(layout: Layout, group_a: int, group_b: int, found: Any, alone: Any) -> Cell:
    many = len(layout.terms)
    found = found or [0] * many + [False] * many + [None] * len(layout.extremes)
    values = [int(alone[i]) if term.outer else int(found[i]) for i, term in enumerate(layout.terms)]
    dominated = [
        alone[many + i] if term.outer else found[many + i] for i, term in enumerate(layout.terms)
    ]
    shown = {
        gate: values[gate] >= layout.min_group
        and not any(dominated[i] for i, t in enumerate(layout.terms) if t.people == gate)
        for gate in layout.gates
    }
    for gate in layout.gates:
        m = layout.round_counts
        values[gate] = (2 * values[gate] + m) // (2 * m) * m
    return Cell(
        group_a,
        group_b,
        tuple(values[i] if shown[term.people] else None for i, term in enumerate(layout.terms)),
        tuple(
            int(found[2 * many + i]) if shown[extreme.people] else None
            for i, extreme in enumerate(layout.extremes)
        ),
    )
