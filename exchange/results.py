"""Results: what each party seals, and what the receiver reads from all parts together.

Each sealer seals one additive share of the gated output. One part alone is uniform noise; all of
them together are the output, which only the receiver ever holds. From the output's sums come the
numbers that were asked for (`exchange.estimation`), the columns made of them, and HAVING.

A score and a lookup end at the consumer, which computes in the run itself: what it found becomes
an answer of another kind, kept in the same place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from crypto import record
from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from crypto.record import Rational
from exchange.query.plan import GroupBy, Lookup, Plan, Score, SidePlan
from exchange.query.program import program_of
from exchange.query.released import Having
from registry.expression import Comparator
from registry.product import DataProduct
from registry.rule import Join

if TYPE_CHECKING:
    from exchange.estimation import Estimate, Numbers


@dataclass(frozen=True)
class SealedPart:
    """One party's share, before it is sealed. share: little-endian 64-bit words."""

    v: int
    job: JobId
    plan: Digest
    party: PartyId
    share: bytes

    def __post_init__(self) -> None:
        if self.v != 1:
            raise Malformed("v", f"is {self.v}; this version reads 1")


class Missing(StrEnum):
    """Why there is no number. None of these is zero."""

    SUPPRESSED = "suppressed"  # too few people in the group, or one person dominates it
    NO_SPREAD = "no_spread"  # a correlation or slope along something that is everywhere the same
    INCONSISTENT = "inconsistent"  # noise or rounding left sums that no rows have
    ZERO_DIVISOR = "zero_divisor"


@dataclass(frozen=True)
class Figure:
    """One number of one group, or why there is none.

    low, high: an interval that holds the number without noise and rounding in at least 95 of 100
        answers, by what the plan says was drawn; for a correlation, the correlation in the
        population that the people are a sample of. Both absent where nothing was drawn; one is
        absent where the noise leaves that end open.
    """

    value: Rational | None
    low: Rational | None = None
    high: Rational | None = None
    missing: Missing | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.missing is not None):
            raise Malformed("missing", "says why there is no value, and only then")


@dataclass(frozen=True)
class Row:
    """One group. groups: labels in the answer's order; figures: one per output."""

    groups: tuple[str, ...]
    figures: tuple[Figure, ...]

    @property
    def suppressed(self) -> bool:
        """Whether any number of this group is."""
        return any(figure.missing is Missing.SUPPRESSED for figure in self.figures)


class Remark(StrEnum):
    """What a reader of an answer has to know; `number` of the note goes with it."""

    SUPPRESSED = "suppressed"  # in so many groups something is
    HAVING = "having"  # so many groups do not fulfil HAVING and are left out
    HAVING_UNDECIDED = "having_undecided"  # and so many, for a number in it is missing
    ROUNDED = "rounded"  # counts of people are rounded to multiples of this
    EXACT = "exact"  # nothing was drawn: not differentially private
    NOISED = "noised"  # every number carries noise; so many percent of intervals hold the truth
    SAMPLED = "sampled"  # a correlation's interval counts the people as a sample


@dataclass(frozen=True)
class Note:
    remark: Remark
    number: int


@dataclass(frozen=True)
class Answer:
    """The answer to a query. groups, outputs: names of columns."""

    kind: ClassVar[str] = "groups"
    job: JobId
    join: Join
    groups: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: tuple[Row, ...]
    min_group: int
    epsilon: Fraction
    delta: Fraction
    notes: tuple[Note, ...]

    @property
    def intervals(self) -> bool:
        """Whether any figure has one."""
        return any(
            f.low is not None or f.high is not None for row in self.rows for f in row.figures
        )

    @property
    def table_columns(self) -> tuple[str, ...]:
        """Names for a table of it, each once, for two outputs may have one name. The groups, each
        output (with `_low` and `_high` beside it where there are intervals), `suppressed`."""
        wanted = list(self.groups)
        for name in self.outputs:
            wanted += [name, f"{name}_low", f"{name}_high"] if self.intervals else [name]
        return unique_names((*wanted, "suppressed"))


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """The same names, a later one numbered if it was there before."""
    found: dict[str, None] = {}
    for name in names:
        count, free = 1, name
        while free in found:
            count += 1
            free = f"{name}_{count}"
        found[free] = None
    return tuple(found)


@dataclass(frozen=True)
class ScoredRow:
    """name: the consumer's own name for the row. scores: in the order of the outputs."""

    name: str
    scores: tuple[Rational, ...]


@dataclass(frozen=True)
class ScoreAnswer:
    """outputs: the model's names of its scores."""

    kind: ClassVar[str] = "scores"
    job: JobId
    outputs: tuple[str, ...]
    rows: tuple[ScoredRow, ...]


class Found(StrEnum):
    RECORD = "record"
    NOTHING = "nothing"  # no record has this key
    DAMAGED = "damaged"  # the holder made one that does not open: ask the holder


@dataclass(frozen=True)
class FoundRecord:
    """values: by column, without those that the record leaves empty."""

    key: str
    found: Found
    values: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if (self.found is Found.RECORD) != (self.values is not None):
            raise Malformed("values", "go with a record that was found")


@dataclass(frozen=True)
class LookupAnswer:
    kind: ClassVar[str] = "records"
    job: JobId
    columns: tuple[str, ...]
    rows: tuple[FoundRecord, ...]


AnyAnswer = Answer | ScoreAnswer | LookupAnswer


@dataclass(frozen=True)
class _AnswerOf:
    answer: AnyAnswer


def answer_from_bytes(data: bytes) -> AnyAnswer:
    """Read back what `record.to_bytes` wrote of an answer of any kind. Raises Malformed."""
    return record.from_bytes(_AnswerOf, b'{"answer":' + data + b"}").answer


# A query


def read_parts(
    plan: Plan, digest: Digest, parts: Mapping[PartyId, bytes], products: Sequence[DataProduct]
) -> Answer:
    """The answer from the opened parts, one per sealer of the plan.

    products: of all sides, in the plan's order. Raises Malformed if the parts do not belong to
    each other or to this plan: then some party, or the engine, did not follow the protocol.
    """
    from crypto.joins.released import open_cells  # these need numpy, which only receivers need
    from exchange.estimation import Estimator

    program = program_of(plan, products)
    shares = [_share(plan, digest, party, parts) for party in plan.sealers]
    estimator = Estimator(plan, digest, program)
    labels = _cell_labels(plan, products)
    rows, left_out, undecided = [], 0, 0
    for cell, label in zip(open_cells(program.layout, shares), labels, strict=True):
        numbers = estimator.numbers(cell)
        verdict = _passes(plan.query.having, numbers)
        if verdict:
            found = tuple(_figure(numbers.of(output.value)) for output in plan.query.outputs)
            rows.append(Row(label, found))
        elif verdict is None:
            undecided += 1
        else:
            left_out += 1
    notes = [
        Note(Remark.SUPPRESSED, sum(row.suppressed for row in rows)),
        Note(Remark.HAVING, left_out),
        Note(Remark.HAVING_UNDECIDED, undecided),
        Note(Remark.ROUNDED, plan.query.gate.round_counts or 0),
    ]
    return Answer(
        job=plan.job,
        join=plan.join,
        groups=tuple(group.name for side in _grouping_sides(plan) for group in side.group_by),
        outputs=tuple(output.name for output in plan.query.outputs),
        rows=tuple(rows),
        min_group=plan.query.gate.min_group,
        epsilon=plan.epsilon,
        delta=plan.delta,
        notes=(*(note for note in notes if note.number), *estimator.notes()),
    )


def require_empty_part(plan: Plan, digest: Digest, parts: Mapping[PartyId, bytes]) -> None:
    """The holder's part of a score or lookup, which has nothing to say. Raises Malformed."""
    for party in plan.sealers:
        if _share(plan, digest, party, parts):
            raise Malformed("part", f"of {party} is not empty")


def _share(plan: Plan, digest: Digest, party: PartyId, parts: Mapping[PartyId, bytes]) -> bytes:
    if party not in parts:
        raise Malformed("parts", f"of {party} is missing")
    part = record.from_bytes(SealedPart, parts[party])
    if (part.job, part.plan, part.party) != (plan.job, digest, party):
        raise Malformed("part", f"of {party} belongs to another job, plan or party")
    return part.share


def _passes(having: Sequence[Having], numbers: Numbers) -> bool | None:
    """Whether all of HAVING holds; None where no number says so, as in SQL."""
    verdict: bool | None = True
    for condition in having:
        left = numbers.of(condition.left).value
        right = numbers.of(condition.right).value
        if left is None or right is None:
            verdict = None
        elif not _holds(left, condition.comparator, right):
            return False
    return verdict


def _holds(left: Fraction, comparator: Comparator, right: Fraction) -> bool:
    return {
        Comparator.EQUAL: left == right,
        Comparator.UNEQUAL: left != right,
        Comparator.LESS: left < right,
        Comparator.AT_MOST: left <= right,
        Comparator.GREATER: left > right,
        Comparator.AT_LEAST: left >= right,
    }[comparator]


def _figure(estimate: Estimate) -> Figure:
    if estimate.value is None:
        return Figure(None, missing=estimate.missing)
    return Figure(
        _kept(estimate.value),
        None if estimate.low is None else _kept(estimate.low),
        None if estimate.high is None else _kept(estimate.high),
    )


def _kept(value: Fraction) -> Rational:
    """Exact, unless it is longer than a document may hold: a regression over many columns."""
    longest = 10**record.RATIONAL_DIGITS
    if abs(value.numerator) >= longest or value.denominator >= longest:
        return Rational(round(value, 30))
    return Rational(value)


# Names of groups


def _grouping_sides(plan: Plan) -> tuple[SidePlan, ...]:
    """In a union both sides have the same groups, once."""
    return plan.sides[:1] if plan.join is Join.UNION else plan.sides


def _cell_labels(plan: Plan, products: Sequence[DataProduct]) -> list[tuple[str, ...]]:
    """For each cell, in the engine's order, its label per group."""
    labels: list[tuple[str, ...]] = [()]
    for side, product in zip(_grouping_sides(plan), products, strict=False):
        for group in side.group_by:
            names = group_labels(group, product)
            labels = [(*label, name) for label in labels for name in names]
    return labels


def group_labels(group: GroupBy, product: DataProduct) -> tuple[str, ...]:
    """What its groups are called, in order."""
    if group.labels is not None:
        return group.labels
    if group.categories is not None:
        return group.categories
    decimals = product.column(group.name).decimals
    cuts = [short_decimal(decimal_text(cut, decimals)) for cut in group.cuts or ()]
    edges = [f"< {cuts[0]}"]
    edges += [f"{low} to < {high}" for low, high in pairwise(cuts)]
    return (*edges, f">= {cuts[-1]}")


def decimal_text(value: int, decimals: int) -> str:
    """An integer of 10**-decimals as people write the number."""
    if decimals == 0:
        return str(value)
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{decimals + 1}d}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def short_decimal(decimal: str) -> str:
    """Without zeros that say nothing: 4.20 is 4.2."""
    return decimal.rstrip("0").rstrip(".") if "." in decimal else decimal


# Scores and records


def score_answer(
    plan: Plan, product: DataProduct, names: Sequence[str], scores: Sequence[Sequence[Fraction]]
) -> ScoreAnswer:
    """names: one per row, the consumer's own; scores: per row, one per output of the model.

    Raises Malformed for a plan that is no score, and for numbers that are not this model's.
    """
    if not isinstance(plan.work, Score) or product.model is None:
        raise Malformed("work", "is not a score of a model")
    outputs = product.model.shape.outputs
    if len(names) != len(scores) or len(names) > plan.work.rows:
        raise Malformed("scores", "are not one for each row that was sent")
    if any(len(row) != len(outputs) for row in scores):
        raise Malformed("scores", f"of a row are not {len(outputs)}")
    rows = tuple(
        ScoredRow(name, tuple(Rational(score) for score in row))
        for name, row in zip(names, scores, strict=True)
    )
    return ScoreAnswer(plan.job, outputs, rows)


def lookup_answer(
    plan: Plan, keys: Sequence[str], records: Sequence[Mapping[str, str] | Found]
) -> LookupAnswer:
    """records: per key, its values by column, or why there are none.

    Raises Malformed for a plan that is no lookup, and for records with columns it does not name.
    """
    if not isinstance(plan.work, Lookup):
        raise Malformed("work", "is not a lookup")
    if len(keys) != len(records) or len(keys) > plan.work.keys:
        raise Malformed("records", "are not one for each key that was asked for")
    rows = []
    for key, found in zip(keys, records, strict=True):
        if isinstance(found, Found):
            rows.append(FoundRecord(key, found))
            continue
        if set(found) - set(plan.work.columns):
            raise Malformed("records", "have columns that the plan does not name")
        rows.append(FoundRecord(key, Found.RECORD, found))
    return LookupAnswer(plan.job, plan.work.columns, tuple(rows))
