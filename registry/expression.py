"""Expressions over the columns of one data product: what a plan may compute on a row at home.

Numbers are exact. A numeric expression stands for integers of 10**-decimals; a missing value makes
the whole expression missing, and a condition on it does not hold (so neither it nor its negation
selects the row, as in SQL). `typed` gives an expression's kind and public bounds from the product's
own column ranges; bounds are what sensitivities and the ring's size are computed from, so nothing
here depends on a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from crypto.errors import Malformed
from registry.errors import DocumentRefused
from registry.product import ColumnType, DataProduct

MAX_DECIMALS: Final = 12
MAX_MAGNITUDE: Final = 2**60
MAX_DEPTH: Final = 12


class Operation(StrEnum):
    ADD = "+"
    SUBTRACT = "-"
    MULTIPLY = "*"
    LEAST = "least"
    GREATEST = "greatest"


class Comparator(StrEnum):
    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    GREATER = ">"
    AT_LEAST = ">="


@dataclass(frozen=True)
class ColumnValue:
    kind: ClassVar[str] = "column"
    column: str


@dataclass(frozen=True)
class Number:
    """value * 10**-decimals."""

    kind: ClassVar[str] = "number"
    value: int
    decimals: int

    def __post_init__(self) -> None:
        # Whoever reads a document writes its numbers out: one as long as memory, or none at all.
        if not 0 <= self.decimals <= MAX_DECIMALS:
            raise Malformed("decimals", f"must be 0 to {MAX_DECIMALS}")


@dataclass(frozen=True)
class Text:
    """Only compared with a text column; never computed with and never an output."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Arithmetic:
    """Missing if either operand is."""

    kind: ClassVar[str] = "arithmetic"
    operation: Operation
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Case:
    """The value beside the first condition that holds, else `otherwise`; missing where the
    absence of an ELSE says so."""

    kind: ClassVar[str] = "case"
    whens: tuple[When, ...]
    otherwise: Expression | None


@dataclass(frozen=True)
class Compare:
    kind: ClassVar[str] = "compare"
    comparator: Comparator
    left: Expression
    right: Expression


@dataclass(frozen=True)
class OneOf:
    kind: ClassVar[str] = "one_of"
    value: Expression
    options: tuple[Expression, ...]


@dataclass(frozen=True)
class Present:
    """IS NOT NULL."""

    kind: ClassVar[str] = "present"
    value: Expression


@dataclass(frozen=True)
class Both:
    kind: ClassVar[str] = "and"
    left: Condition
    right: Condition


@dataclass(frozen=True)
class Either:
    kind: ClassVar[str] = "or"
    left: Condition
    right: Condition


@dataclass(frozen=True)
class Not:
    """Three-valued, as in SQL: the negation of an unknown condition does not hold either."""

    kind: ClassVar[str] = "not"
    condition: Condition


@dataclass(frozen=True)
class When:
    condition: Condition
    value: Expression


Expression = ColumnValue | Number | Text | Arithmetic | Case
Condition = Compare | OneOf | Present | Both | Either | Not


@dataclass(frozen=True)
class LocalFactor:
    """One factor of one side. indicator: of several rows of one person, whether any is not zero;
    otherwise their sum. The value counts as 0 where the expression is missing."""

    expression: Expression
    indicator: bool


@dataclass(frozen=True)
class LocalQuery:
    """What a holder's source computes at home for one job, person by person.

    where:   rows for which it does not hold take no part; None for all
    group:   the number of the row's group; missing: in no group. None: everybody in group 0
    factors: numbers of each person
    """

    where: Condition | None
    group: Expression | None
    factors: tuple[LocalFactor, ...]


@dataclass(frozen=True)
class Shape:
    """text: whether it is text. Otherwise every value lies in low .. high, in units of
    10**-decimals."""

    text: bool
    decimals: int = 0
    low: int = 0
    high: int = 0

    @property
    def widest(self) -> int:
        """The greatest magnitude a value can have."""
        return max(abs(self.low), abs(self.high))


def parts(root: Expression | Condition) -> Iterator[Expression | Condition]:
    """The expression and everything inside it."""
    yield root
    for child in _children(root):
        yield from parts(child)


def columns(root: Expression | Condition) -> tuple[str, ...]:
    """Every column it reads, once each, in the order of appearance."""
    return tuple(
        dict.fromkeys(part.column for part in parts(root) if isinstance(part, ColumnValue))
    )


def value_columns(root: Expression) -> tuple[str, ...]:
    """The columns that enter its value, once each: not those that a CASE only decides by."""
    if isinstance(root, Case):
        values = [when.value for when in root.whens]
        values += [] if root.otherwise is None else [root.otherwise]
    elif isinstance(root, Arithmetic):
        values = [root.left, root.right]
    else:
        return columns(root)
    return tuple(dict.fromkeys(name for value in values for name in value_columns(value)))


def typed(root: Expression, product: DataProduct, *, where: str = "expression") -> Shape:
    """Kind and public bounds. Raises DocumentRefused, naming `where`, for a column without public
    bounds, a mix of text and numbers, and bounds that leave 60 bits."""
    _require_shallow(root, where)
    return _typed(root, product, where)


def require_condition(root: Condition, product: DataProduct, *, where: str = "condition") -> None:
    """Raises DocumentRefused unless every comparison in it compares like with like."""
    _require_shallow(root, where)
    _check(root, product, where)


def scaled(shape: Shape, decimals: int, *, where: str) -> Shape:
    """The same values in finer units."""
    factor = 10 ** (decimals - shape.decimals)
    return _bounded(Shape(False, decimals, shape.low * factor, shape.high * factor), where=where)


def _typed(root: Expression, product: DataProduct, where: str) -> Shape:
    if isinstance(root, Text):
        return Shape(True)
    if isinstance(root, Number):
        return _bounded(Shape(False, root.decimals, root.value, root.value), where=where)
    if isinstance(root, ColumnValue):
        column = product.column(root.column)
        if column.type is ColumnType.TEXT:
            return Shape(True)
        if column.low is None or column.high is None:
            raise DocumentRefused(where, f"{column.name} has no public range")
        return Shape(False, column.decimals, column.low, column.high)
    if isinstance(root, Case):
        found = []
        for when in root.whens:
            _check(when.condition, product, where)
            found.append(_typed(when.value, product, where))
        if root.otherwise is not None:
            found.append(_typed(root.otherwise, product, where))
        if not root.whens:
            raise DocumentRefused(where, "a CASE needs at least one WHEN")
        return _union(found, where)
    left, right = (_typed(side, product, where) for side in (root.left, root.right))
    if left.text or right.text:
        raise DocumentRefused(where, f"text has no {root.operation.value}")
    return _combined(root.operation, left, right, where)


def _combined(operation: Operation, left: Shape, right: Shape, where: str) -> Shape:
    if operation is Operation.MULTIPLY:
        corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
        decimals = left.decimals + right.decimals
        if decimals > MAX_DECIMALS:
            raise DocumentRefused(where, f"the product has more than {MAX_DECIMALS} decimals")
        return _bounded(Shape(False, decimals, min(corners), max(corners)), where=where)
    decimals = max(left.decimals, right.decimals)
    left, right = (scaled(side, decimals, where=where) for side in (left, right))
    if operation is Operation.ADD:
        low, high = left.low + right.low, left.high + right.high
    elif operation is Operation.SUBTRACT:
        low, high = left.low - right.high, left.high - right.low
    else:
        choose = min if operation is Operation.LEAST else max
        low, high = choose(left.low, right.low), choose(left.high, right.high)
    return _bounded(Shape(False, decimals, low, high), where=where)


def _union(shapes: list[Shape], where: str) -> Shape:
    if any(shape.text for shape in shapes):
        if all(shape.text for shape in shapes):
            return Shape(True)
        raise DocumentRefused(where, "a CASE gives text in one branch and a number in another")
    decimals = max(shape.decimals for shape in shapes)
    same = [scaled(shape, decimals, where=where) for shape in shapes]
    return Shape(False, decimals, min(s.low for s in same), max(s.high for s in same))


def _check(root: Condition, product: DataProduct, where: str) -> None:
    if isinstance(root, Both | Either):
        _check(root.left, product, where)
        _check(root.right, product, where)
    elif isinstance(root, Not):
        _check(root.condition, product, where)
    elif isinstance(root, Present):
        _comparable(root.value, product, where)
    else:
        options = (root.right,) if isinstance(root, Compare) else root.options
        value = root.left if isinstance(root, Compare) else root.value
        if not options:
            raise DocumentRefused(where, "IN needs at least one value")
        is_text = _comparable(value, product, where)
        for option in options:
            if _comparable(option, product, where) != is_text:
                raise DocumentRefused(where, "compares text with a number")


def _comparable(root: Expression, product: DataProduct, where: str) -> bool:
    """Whether it is text. A column may be compared without having a public range."""
    if isinstance(root, ColumnValue):
        return product.column(root.column).type is ColumnType.TEXT
    return _typed(root, product, where).text


def _bounded(shape: Shape, *, where: str) -> Shape:
    if shape.widest > MAX_MAGNITUDE:
        raise DocumentRefused(where, "its public range is too wide for exact arithmetic")
    return shape


def _require_shallow(root: Expression | Condition, where: str) -> None:
    layer: list[Expression | Condition] = [root]
    for _ in range(MAX_DEPTH):
        layer = [child for part in layer for child in _children(part)]
        if not layer:
            return
    raise DocumentRefused(where, f"is nested more than {MAX_DEPTH} deep")


def _children(root: Expression | Condition) -> list[Expression | Condition]:
    if isinstance(root, Arithmetic | Compare | Both | Either):
        return [root.left, root.right]
    if isinstance(root, Case):
        found: list[Expression | Condition] = []
        for when in root.whens:
            found += [when.condition, when.value]
        return found + ([] if root.otherwise is None else [root.otherwise])
    if isinstance(root, OneOf):
        return [root.value, *root.options]
    if isinstance(root, Present):
        return [root.value]
    if isinstance(root, Not):
        return [root.condition]
    return []
