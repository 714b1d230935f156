"""Which columns an answer needs, which terms need only one side's, and where each column stands.

A column is one factor inside one group: the row's factor where the row is in that group, else 0.
A row outside the groups' domain counts nowhere and is never uploaded, so on uploaded real rows the
columns of factor COUNTED add up to 1: that is the row's validity. Rows that are not real have zero
in every column.

    linear   one side contributes nothing but "there is such a row" (COUNTED, one group). As real
             rows meet only real rows, the sum of the other side's column over all pairs is the
             term, and sums need no multiplication.
    product  everything else: an inner product of a column of A and a column of B.

In the variant that hides the size every row of A has a partner, so A's column alone says nothing
about matching, and only terms that A contributes nothing to are linear.

Where three holders join, a column of the second side is B's, D's, or the product of one of each,
row by row (`parts`); what is uploaded is columns of B and of D.
"""

from __future__ import annotations

from dataclasses import dataclass

from crypto.joins.layout import COUNTED, Layout, Term


@dataclass(frozen=True)
class Column:
    """group: None for the factor itself, in whatever group the row is (row by row only)."""

    factor: int
    group: int | None


@dataclass(frozen=True)
class ColumnPlan:
    """sides: per side of the layout, the columns that sums or `ThreePartyEngine.rows` take.

    columns: per holder, what is uploaded, in upload order (the check column comes before these);
             of two holders the same as `sides`

    linear:  per side, the factors that enter linear terms
    product: the pairs (left, right) of product terms
    """

    sides: tuple[tuple[Column, ...], tuple[Column, ...]]
    columns: tuple[tuple[Column, ...], ...]
    linear: tuple[frozenset[int], frozenset[int]]
    product: frozenset[tuple[int, int]]

    def shared(self, side: int) -> tuple[int, ...]:
        """Factors of that side that enter a product, ascending."""
        return tuple(sorted({pair[side] for pair in self.product}))


def linear_side(layout: Layout, term: Term, *, hide_size: bool) -> int | None:
    """The side whose column alone makes this term, or None if it is a product."""
    only_b = term.left == COUNTED and layout.groups_a == 1
    only_a = term.right == COUNTED and layout.groups_b == 1 and not hide_size
    return 0 if only_a else 1 if only_b else None


def parts(layout: Layout, column: Column) -> tuple[Column | None, Column | None]:
    """The columns of B and of D whose product is this column of the second side; None is 1 on every
    real row. Of two holders, all is B's; at least one is not None."""
    third = layout.third
    if third is None:
        return column, None
    own, other = third.factors[column.factor]
    of_b: int | None = None
    of_d: int | None = None
    if column.group is not None:
        of_b, of_d = divmod(column.group, third.groups)
    found = [
        Column(factor, group) if factor != COUNTED or (group is not None and groups > 1) else None
        for factor, group, groups in (
            (own, of_b, third.own_groups),
            (other, of_d, third.groups),
        )
    ]
    # Everybody counts and nobody has groups: B's validity says it.
    return (Column(COUNTED, of_b), None) if found == [None, None] else (found[0], found[1])


def column_plan(layout: Layout, *, hide_size: bool) -> ColumnPlan:
    """What both holders upload for sums of products. For layouts that go row by row, the columns
    are those of `row_columns`, and nothing is summed here."""
    if layout.by_row:
        held = (_uploaded_rows(layout, 0), _uploaded_rows(layout, 1))
        none: frozenset[int] = frozenset()
        return ColumnPlan(held, _of_holders(layout, held), (none, none), frozenset())
    linear: tuple[set[int], set[int]] = (set(), set())
    product: set[tuple[int, int]] = set()
    for term in layout.terms:
        side = linear_side(layout, term, hide_size=hide_size)
        if term.outer:
            continue  # A's own total
        if side is None:
            product.add((term.left, term.right))
        else:
            linear[side].add((term.left, term.right)[side])
    columns = []
    for side in (0, 1):
        factors = linear[side] | {pair[side] for pair in product}
        if side == 1 and hide_size:
            factors.add(COUNTED)  # its sum over groups is the validity that the check needs
        columns.append(
            tuple(
                Column(factor, group)
                for factor in sorted(factors)
                for group in range(layout.groups(side))
            )
        )
    sides = (columns[0], columns[1])
    return ColumnPlan(
        sides,
        _of_holders(layout, sides),
        (frozenset(linear[0]), frozenset(linear[1])),
        frozenset(product),
    )


def row_columns(layout: Layout, rank: int) -> tuple[Column, ...]:
    """Columns of one side that `ThreePartyEngine.rows` is given, in order: the groups, one-hot
    (factor COUNTED), then the factors that anything refers to, ascending, COUNTED always first."""
    factors = {COUNTED}
    for term in layout.terms:
        if not term.outer:
            factors.add((term.left, term.right)[rank])
    for comparison in layout.comparisons:
        factors |= (
            {comparison.left, comparison.left_mark},
            {comparison.right, comparison.right_mark},
        )[rank]
    for extreme in layout.extremes:
        if extreme.side == rank:
            factors |= {extreme.factor, extreme.mark}
    groups = tuple(Column(COUNTED, group) for group in range(layout.groups(rank)))
    return groups + tuple(Column(factor, None) for factor in sorted(factors))


def _of_holders(
    layout: Layout, sides: tuple[tuple[Column, ...], tuple[Column, ...]]
) -> tuple[tuple[Column, ...], ...]:
    if layout.third is None:
        return sides
    held: tuple[set[Column], set[Column]] = (set(), set())
    for column in sides[1]:
        for wanted, part in zip(held, parts(layout, column), strict=True):
            if part is not None:
                wanted.add(part)
    return (sides[0], *(tuple(sorted(wanted, key=_order)) for wanted in held))


def _order(column: Column) -> tuple[int, int]:
    return column.factor, -1 if column.group is None else column.group


def _uploaded_rows(layout: Layout, rank: int) -> tuple[Column, ...]:
    # Validity is the sum of the groups' columns; it need not travel.
    return tuple(c for c in row_columns(layout, rank) if c != Column(COUNTED, None))
