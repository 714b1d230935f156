"""Group keys: which groups there are is public before anybody looks at a row.

A key is a column with stated categories, a number cut into bands, or a CASE with labels. The
answer shows every group, also those of nobody, so that their presence tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final

from exchange.errors import QuestionRefused
from exchange.query.plan import GroupBy
from exchange.query.scope import Tables, exact
from exchange.query.sql import Branches, Call, Infix, Node
from registry.expression import (
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Expression,
    Number,
    Present,
    Shape,
    Text,
)
from registry.product import Column, ColumnType

MAX_CUTS: Final = 1000


@dataclass(frozen=True)
class Key:
    """A group key as it is written, before the answer's name for it."""

    side: int
    column: str | None
    cuts: tuple[int, ...] | None
    cases: tuple[Condition, ...]
    labels: tuple[str, ...]

    def named(self, alias: str | None, number: int) -> GroupBy:
        """A column keeps its name; under another one it is spelt out as cases."""
        if self.column is not None and (alias is None or alias == self.column):
            if self.cuts is not None:
                return GroupBy(self.column, cuts=self.cuts)
            return GroupBy(self.column, categories=self.labels)
        return GroupBy(alias or f"group_{number}", cases=self.cases, labels=self.labels)


def key_of(tables: Tables, node: Node) -> Key:
    """The group key that an expression in GROUP BY is. Raises QuestionRefused."""
    sides = tables.scope.sides_of(node)
    if len(sides) != 1:
        raise QuestionRefused(
            node.text,
            "a group key reads columns of exactly one table; name two keys to group by both",
        )
    (side,) = sides
    if tables.keep_left and side == 1:
        raise QuestionRefused(
            node.text,
            "a LEFT JOIN is grouped by columns of its left table; rows without a match have "
            "no value here",
        )
    if isinstance(node, Call) and node.function in ("BANDS", "WIDTH_BUCKET"):
        return _bands(tables, node, side)
    column = tables.scope.plain_column(node)
    if column is not None:
        return _categories(tables, node, side, column)
    value = tables.scope.value(node)
    if isinstance(value, Case) and all(isinstance(w.value, Text) for w in value.whens):
        return _cases(tables, node, side, value)
    raise QuestionRefused(
        node.text,
        "has no public domain: group by a column with categories, by BANDS(column, cut, …) or "
        "by CASE WHEN … THEN 'label' … END",
    )


def _categories(tables: Tables, node: Node, side: int, column: Column) -> Key:
    if tables.scope.key_side(node) is not None:
        raise QuestionRefused(node.text, "is the join key; a person is no group")
    if column.categories is None:
        advice = (
            f"write CASE WHEN {node.text} = 'a' THEN 'a' … END"
            if column.type is ColumnType.TEXT
            else f"write BANDS({node.text}, cut, …)"
        )
        raise QuestionRefused(node.text, f"{column.name} has no public categories; {advice}")
    if tables.union:
        for product in tables.products:
            other = {c.name: c for c in product.columns}.get(column.name)
            if other is None or set(other.categories or ()) != set(column.categories):
                raise QuestionRefused(
                    node.text,
                    f"the two tables state different categories of {column.name}; "
                    f"write CASE WHEN {node.text} = … THEN … END",
                )
    cases = tuple(
        Compare(Comparator.EQUAL, ColumnValue(column.name), _category(node, text, column))
        for text in column.categories
    )
    return Key(side, column.name, None, cases, column.categories)


def _cases(tables: Tables, node: Node, side: int, value: Case) -> Key:
    labels = [when.value.text for when in value.whens if isinstance(when.value, Text)]
    if value.otherwise is not None:
        if not isinstance(value.otherwise, Text):
            raise QuestionRefused(node.text, "gives text and numbers; give each group a label")
        labels.append(value.otherwise.text)
    if len(set(labels)) != len(labels):
        raise QuestionRefused(node.text, "gives two groups one label; join them with OR")
    tables.scope.checked_condition(_conditions(node), tables.behind(side))
    cases = tuple(when.condition for when in value.whens)
    return Key(side, None, None, cases, tuple(labels))


def _bands(tables: Tables, node: Call, side: int) -> Key:
    """BANDS(x, c1, c2, …) and WIDTH_BUCKET(x, low, high, n)."""
    if not node.arguments or node.distinct or node.only is not None:
        raise QuestionRefused(node.text, "write BANDS(column, cut, …)")
    inner = node.arguments[0]
    if tables.scope.key_side(inner) is not None:
        raise QuestionRefused(inner.text, "is the join key; a person is no group")
    numbers = [exact(node, part) for part in node.arguments[1:]]
    if node.function == "WIDTH_BUCKET":
        numbers = _equal_cuts(node, numbers)
    if not numbers or len(numbers) > MAX_CUTS or numbers != sorted(set(numbers)):
        raise QuestionRefused(node.text, f"cuts must ascend, and be 1 to {MAX_CUTS}")
    column = tables.scope.plain_column(inner)
    if column is not None and column.type is ColumnType.TEXT:
        raise QuestionRefused(node.text, "is text and has no bands; write CASE")
    if column is None:
        value, shape = tables.scope.checked_number(inner, tables.behind(side))
        decimals = shape.decimals
    else:
        value, decimals = ColumnValue(column.name), column.decimals
    units = [cut * 10**decimals for cut in numbers]
    if any(cut.denominator != 1 for cut in units):
        raise QuestionRefused(
            node.text, f"{inner.text} keeps {decimals} decimals, and so do its cuts"
        )
    cuts = tuple(int(cut) for cut in units)
    below = [Compare(Comparator.LESS, value, Number(cut, decimals)) for cut in cuts]
    labels = band_labels(cuts, decimals)
    name = None if column is None else column.name
    return Key(side, name, cuts, (*below, Present(value)), labels)


def band_labels(cuts: Sequence[int], decimals: int) -> tuple[str, ...]:
    """How an answer calls the bands between cuts, in units of 10**-decimals."""
    shown = [_decimal(cut, decimals) for cut in cuts]
    inner = [f"{low} to < {high}" for low, high in pairwise(shown)]
    return (f"< {shown[0]}", *inner, f">= {shown[-1]}")


def equal_steps(shape: Shape, steps: int) -> tuple[int, ...]:
    """Cuts that divide a public range into so many equal steps, rounded to its units; fewer where
    the range holds fewer numbers."""
    width = shape.high - shape.low
    steps = max(1, min(steps, width))
    if not width:
        return (shape.low, shape.low + 1)
    return tuple(shape.low + width * i // steps for i in range(steps + 1))


def _equal_cuts(node: Call, numbers: list[Fraction]) -> list[Fraction]:
    if len(numbers) != 3 or numbers[2].denominator != 1 or not 1 <= numbers[2] < MAX_CUTS:
        raise QuestionRefused(node.text, "write WIDTH_BUCKET(column, low, high, number of bands)")
    low, high, count = numbers
    return [low + (high - low) * i / count for i in range(int(count) + 1)]


def _category(node: Node, text: str, column: Column) -> Expression:
    if column.type is ColumnType.TEXT:
        return Text(text)
    try:
        return Number(int(text), 0)
    except ValueError:
        raise QuestionRefused(
            node.text, f"its category {text[:20]!r} is not a whole number; write BANDS"
        ) from None


def _decimal(value: int, decimals: int) -> str:
    if not decimals:
        return str(value)
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{decimals + 1}d}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}".rstrip("0").rstrip(".")


def _conditions(node: Node) -> Node:
    """All conditions of a CASE as one, to check them where they stand."""
    if not isinstance(node, Branches):
        return node
    first, *rest = [condition for condition, _ in node.whens]
    for other in rest:
        first = Infix(node.text, "or", first, other)
    return first
