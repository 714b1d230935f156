"""Results: what a holder seals and what the receiver reads from all parts together.

Each holder seals one additive share of the gated output. One part alone is uniform noise; all of
them together are the output, which only the receiver ever holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from crypto import record
from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from crypto.joins.layout import RevealedLayout
from exchange.query.plan import GroupBy, Plan, SidePlan
from registry.product import DataProduct
from registry.rule import Function


@dataclass(frozen=True)
class SealedPart:
    """One holder's share, before it is sealed. share: little-endian 64-bit words."""

    v: int
    job: JobId
    plan: Digest
    holder: PartyId
    share: bytes

    def __post_init__(self) -> None:
        if self.v != 1:
            raise Malformed("v", f"is {self.v}; this version reads 1")


@dataclass(frozen=True)
class Figure:
    """One measure of one group: an exact number, or None if it was suppressed."""

    value: Fraction | None


@dataclass(frozen=True)
class Row:
    """One group of the answer. groups: labels in the plan's order. count: None if suppressed.

    measures: per measure, in the plan's order.
    """

    groups: tuple[str, ...]
    count: int | None
    measures: tuple[Figure, ...]

    @property
    def suppressed(self) -> bool:
        """Whether any number of this group is."""
        return self.count is None or any(figure.value is None for figure in self.measures)


@dataclass(frozen=True)
class Answer:
    """columns: names of the groups, then `count`, then the measures such as `mean_progression`."""

    job: JobId
    groups: tuple[str, ...]
    measures: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def table_columns(self) -> tuple[str, ...]:
        """Names for a table of it, each once: both holders may have a column of one name, or one
        called `count`. The groups, `count`, the measures, `suppressed`."""
        found: list[str] = []
        for name in (*self.groups, "count", *self.measures, "suppressed"):
            number, unique = 1, name
            while unique in found:
                number += 1
                unique = f"{name}_{number}"
            found.append(unique)
        return tuple(found)


def layout_of(plan: Plan) -> RevealedLayout:
    first, second = plan.sides
    return RevealedLayout(
        groups_a=first.groups,
        groups_b=second.groups,
        measures_a=len(first.measures),
        measures_b=len(second.measures),
        min_group=plan.gate.min_group,
    )


def read_parts(
    plan: Plan, digest: Digest, parts: Mapping[PartyId, bytes], products: Sequence[DataProduct]
) -> Answer:
    """The answer from the opened parts, one per holder. Raises Malformed if they do not belong to
    each other or to this plan: then some holder, or the engine, did not follow the protocol."""
    from crypto.joins.revealed import open_cells  # needs numpy, which only receivers need

    shares = []
    for side in plan.sides:
        part = record.from_bytes(SealedPart, parts[side.holder])
        if (part.job, part.plan, part.holder) != (plan.job, digest, side.holder):
            raise Malformed("part", f"of {side.holder} belongs to another job, plan or holder")
        shares.append(part.share)
    scales = [
        10 ** product.column(measure.column).decimals
        for side, product in zip(plan.sides, products, strict=True)
        for measure in side.measures
    ]
    functions = [measure.function for side in plan.sides for measure in side.measures]
    labels = [_labels(side, product) for side, product in zip(plan.sides, products, strict=True)]
    rows = []
    for cell in open_cells(layout_of(plan), shares[0], shares[1]):
        found: list[Figure] = []
        for shown, scale, function in zip(cell.measures, scales, functions, strict=True):
            if shown is None:
                found.append(Figure(None))
            elif function is Function.MEAN:
                found.append(Figure(Fraction(shown.total, shown.valid * scale)))
            else:
                found.append(Figure(Fraction(shown.total, scale)))
        groups = (*labels[0][cell.group_a], *labels[1][cell.group_b])
        rows.append(Row(groups, cell.count, tuple(found)))
    return Answer(
        plan.job,
        tuple(group.column for side in plan.sides for group in side.group_by),
        tuple(f"{m.function}_{m.column}" for side in plan.sides for m in side.measures),
        tuple(rows),
    )


def _labels(side: SidePlan, product: DataProduct) -> list[tuple[str, ...]]:
    """For each group of one side, in the engine's order, its label per group column."""
    labels: list[tuple[str, ...]] = [()]
    for group in side.group_by:
        names = _names(group, product)
        labels = [(*label, name) for label in labels for name in names]
    return labels


def _names(group: GroupBy, product: DataProduct) -> tuple[str, ...]:
    if group.categories is not None:
        return group.categories
    decimals = product.column(group.column).decimals
    cuts = [_short(decimal_text(cut, decimals)) for cut in group.cuts or ()]
    edges = [f"< {cuts[0]}"]
    edges += [f"{low} to < {high}" for low, high in pairwise(cuts)]
    return (*edges, f">= {cuts[-1]}")


def decimal_text(value: int, decimals: int) -> str:
    """An integer of 10**-decimals as people write the number."""
    if decimals == 0:
        return str(value)
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{decimals + 1}d}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def _short(decimal: str) -> str:
    """Without zeros that say nothing: 4.20 is 4.2."""
    return decimal.rstrip("0").rstrip(".") if "." in decimal else decimal
