"""Scores and lookups at a node: what each party brings to the run, and what the consumer reads.

Two parties compute: the holder (rank 0) with its model or its table, the consumer (rank 1) with
its rows or keys. The answer appears at the consumer alone, so the holder seals an empty part: its
receipt is what releases the price.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Final

from crypto import joinkeys
from crypto.digest import Digest
from crypto.engine import LookupTask, ScoreTask, Seat
from crypto.errors import KeyRefused, Malformed
from crypto.lookup import answers
from crypto.lookup.answers import KEYS_FILE, TABLE_FILE, AskedKeys
from crypto.lookup.table import Absence
from crypto.scoring import results as scores
from crypto.scoring.model import Float64Array, clamp
from exchange.errors import QuestionRefused
from exchange.labels import unpack_record
from exchange.node.engine import EngineInput
from exchange.node.shelf import Names, Shelf
from exchange.query.plan import Lookup, Plan, Score
from exchange.results import AnyAnswer, Found, lookup_answer, score_answer
from registry.product import ColumnType, DataProduct, LookupCard, ModelCard

_WHOLE: Final = re.compile(r"-?\d{1,60}", re.ASCII)


@dataclass(frozen=True)
class TableInput:
    """table: where the node keeps it, or is to; keys: the consumer's, None at the holder."""

    table: Path
    keys: AskedKeys | None

    def place(self, folder: Path) -> None:
        # Not a copy: tables are large, and what a consumer receives is to outlive the run.
        (folder / TABLE_FILE).symlink_to(self.table)
        if self.keys is not None:
            (folder / KEYS_FILE).write_bytes(self.keys.to_bytes())


@dataclass(frozen=True)
class Part:
    """What one party brings to a run. source: the digest that the product states of the holder's
    model or table; a receipt commits to it as its snapshot."""

    given: EngineInput
    source: Digest
    seed: bytes = field(repr=False)


# What a consumer asks


def ask_rows(
    plan: Plan, product: DataProduct, names: Sequence[str], values: Float64Array, shelf: Shelf
) -> None:
    """Keep the rows of a compiled plan until its run. Before the plan is submitted: a job whose
    rows are lost is paid for nothing.

    names: what the consumer calls each row; values: shape (n, d), in the order of the features
    Raises QuestionRefused for rows that the plan or the model cannot take.
    """
    if not isinstance(plan.work, Score) or product.model is None:
        raise QuestionRefused("product", f"{product.name} is not a model")
    if len(names) != len(values) or len(values) > plan.work.rows:
        raise QuestionRefused("rows", f"are more than the {plan.work.rows:,} of the plan")
    try:
        clamp(product.model.shape, values)
    except Malformed as error:
        raise QuestionRefused("rows", f"{error.where} {error.problem}") from error
    shelf.keep_asked(plan.job, Names(tuple(names)), values)


def ask_keys(plan: Plan, product: DataProduct, keys: Sequence[str], shelf: Shelf) -> None:
    """Keep the keys of a compiled plan until its run, as `ask_rows` does rows.

    Raises KeyRefused, by row, for a key that has no canonical spelling or stands twice.
    """
    if not isinstance(plan.work, Lookup) or product.lookup is None:
        raise QuestionRefused("product", f"{product.name} has no table to look up in")
    if len(keys) > plan.work.keys:
        raise QuestionRefused("keys", f"are more than the {plan.work.keys:,} of the plan")
    canonical_keys(keys, product)
    shelf.keep_asked(plan.job, Names(tuple(keys)), None)


def canonical_keys(keys: Sequence[str], product: DataProduct) -> tuple[bytes, ...]:
    """As the holder's own keys are spelled: 007 and 7 are one where keys are whole numbers.
    Raises KeyRefused, by row."""
    if product.column(product.key).type is ColumnType.TEXT:
        return joinkeys.canonical_keys(keys, joinkeys.KeyKind.TEXT).canonical
    numbers = []
    for row, key in enumerate(keys):
        if not _WHOLE.fullmatch(key):
            raise KeyRefused(f"row {row + 1}: the key is not a whole number")
        numbers.append(int(key))
    return joinkeys.canonical_keys(numbers, joinkeys.KeyKind.INTEGER).canonical


# What each party brings


def holders_part(plan: Plan, product: DataProduct, shelf: Shelf) -> Part:
    """Raises SourceUnreachable where the listed model or table is not in this party's folder."""
    if isinstance(plan.work, Score):
        digest = _model(product).digest
        return Part(shelf.model(digest), digest, b"")
    digest = _table(product).table
    return Part(TableInput(shelf.table(digest), None), digest, shelf.seed(digest))


def consumers_part(plan: Plan, product: DataProduct, shelf: Shelf) -> Part:
    """Raises SourceUnreachable where this node does not have what the job asks about."""
    if isinstance(plan.work, Score):
        return Part(shelf.asked_rows(plan.job), _model(product).digest, b"")
    digest = _table(product).table
    keys = AskedKeys(canonical_keys(shelf.asked_names(plan.job), product))
    return Part(TableInput(shelf.table(digest), keys), digest, b"")


def task_of(plan: Plan, product: DataProduct, seat: Seat, part: Part) -> ScoreTask | LookupTask:
    """What the engine at `seat` is told. Raises Malformed."""
    if isinstance(plan.work, Score):
        return ScoreTask(seat, _model(product).shape, plan.work.rows, plan.work.parameters)
    if not isinstance(plan.work, Lookup):
        raise Malformed("work", "is neither a score nor a lookup")
    card = _table(product)
    return LookupTask(
        seat=seat,
        table=card.table,
        epoch=card.epoch,
        rows=card.rows,
        label_bytes=card.label_bytes,
        evaluations=plan.work.keys,
        seed=part.seed,
    )


# What the consumer reads


def read_answer(plan: Plan, product: DataProduct, names: Sequence[str], output: bytes) -> AnyAnswer:
    """The consumer's answer from what its own engine gave back. Raises Malformed."""
    if isinstance(plan.work, Score):
        shape = _model(product).shape
        rows = scores.unpack(output, rows=plan.work.rows, outputs=len(shape.outputs))
        unit = 10**shape.decimals
        found = [[Fraction(int(score), unit) for score in row] for row in rows[: len(names)]]
        return score_answer(plan, product, names, found)
    if not isinstance(plan.work, Lookup):
        raise Malformed("work", "is neither a score nor a lookup")
    card = _table(product)
    labels = answers.unpack(output, evaluations=plan.work.keys, label_bytes=card.label_bytes)
    records = [_record(label, card.columns) for label in labels[: len(names)]]
    return lookup_answer(plan, names, records)


def _record(label: bytes | Absence, columns: Sequence[str]) -> Mapping[str, str] | Found:
    """A row that opens to something else than a record is damage, too. It makes no run fail, or
    the holder could damage one row and see whose run fails."""
    if isinstance(label, Absence):
        return Found.NOTHING if label is Absence.NO_RECORD else Found.DAMAGED
    try:
        return unpack_record(label, columns)
    except Malformed:
        return Found.DAMAGED


def _model(product: DataProduct) -> ModelCard:
    if product.model is None:
        raise Malformed("product", f"{product.name} is not a model")
    return product.model


def _table(product: DataProduct) -> LookupCard:
    if product.lookup is None:
        raise Malformed("product", f"{product.name} has no lookup table")
    return product.lookup
