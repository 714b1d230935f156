"""What may be asked without noise: an allow-list.

Exact numbers can be subtracted, so what is not known to be about many people has to be refused; a
list of what singles people out would never be complete. Allowed are

- COUNT of people, rows, and of those with a value;
- SUM, AVG, VARIANCE, STDDEV, MIN, MAX of one plain column;
- COVARIANCE, CORRELATION and REGRESSION of plain columns, and SUM or AVG of the product of two
  plain columns of two tables: a product is of exactly two columns, and each may be used so;
- comparisons of a plain column with a plain column of another table.

So no constant, no CASE and no arithmetic stands inside an aggregate: what would choose rows by
their values can't be written, and WHERE and GROUP BY, which do choose, are counted by the gate and
compared by the history gate. What a constant would add, the receiver adds to the answer.

Counting is not enough where rows are chosen by the very column that is aggregated: of forty people
whose income is asked to be 0, and one more, the sum is hers. So no value of an aggregated column
chooses rows (`chosen`); whether it is there may. A column that nearly says the same, as net income
does of gross, is not known to be one, and docs/trust.md says so.

A column's sums are released for one *company* only (`companies`): whoever is matched with the same
tables and has the same other columns. SUM(x) beside SUM(x) of those who also have y is refused, for
neither holder can count all whom the two differ by. And a column is multiplied with one other
column only (`partners`): of two marks that each have many, what both leave, as in
SUM(x) - SUM(x * y) - SUM(x * z), may be one person. All of this follows from plans alone.
Everything else needs noise: with epsilon, whatever one person adds is covered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from crypto.identifiers import ProductId
from crypto.joins.layout import Order
from exchange.query.plan import Argument, Plan, Query, SidePlan, Statistic
from exchange.query.program import SQUARES
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Compare,
    Condition,
    Expression,
    Number,
    OneOf,
    Operation,
    Present,
    When,
    columns,
    parts,
)
from registry.product import DataProduct
from registry.rule import Function, Join

ASK_WITH_NOISE: Final = "; ask with noise (give epsilon)"
NOT_PLAIN: Final = (
    "without noise only a plain column is aggregated, or the product of one column of each of two "
    "tables: calculate with the answer, put conditions into WHERE or GROUP BY" + ASK_WITH_NOISE
)
NOT_COMPARED: Final = "without noise only plain columns are compared across tables" + ASK_WITH_NOISE
TWO_COMPANIES: Final = (
    "is summed for different people, whose difference could be about one; keep to those who have "
    "every column, with WHERE … IS NOT NULL" + ASK_WITH_NOISE
)
CHOOSES: Final = (
    "is aggregated and also chooses rows by its value, in WHERE, GROUP BY or a comparison: whoever "
    "chooses the others so knows what they add; IS NOT NULL is allowed" + ASK_WITH_NOISE
)
TWO_PARTNERS: Final = (
    "is multiplied with more than one other column, which together could leave out everybody but "
    "one; keep to one of them" + ASK_WITH_NOISE
)
SEVERAL_ROWS: Final = (
    "squares or multiplies columns of a table with several rows for a person, whom no holder can "
    "tell apart then" + ASK_WITH_NOISE
)
OWN_ROWS: Final = (
    "the consumer, or who controls it, holds one of the tables and could mark one person in it"
    + ASK_WITH_NOISE
)
UNTESTED: Final = (
    "the dominance limit tests sums of one table's columns only, where the others have one row for "
    "each person" + ASK_WITH_NOISE
)
_ONE: Final = Number(1, 0)
_OF_ONE: Final = frozenset({Function.VARIANCE, Function.STDDEV, Function.MIN, Function.MAX})
_OF_ONE_OR_TWO: Final = frozenset({Function.SUM, Function.MEAN})
_OF_SEVERAL: Final = frozenset({Function.COVARIANCE, Function.CORRELATION, Function.REGRESSION})
_EXTREMES: Final = frozenset({Function.MIN, Function.MAX})


def is_plain(statistic: Statistic, *, keep_left: bool) -> bool:
    """Whether a statistic is on the list. keep_left: of a LEFT JOIN, where COUNT(b.key) counts the
    rows that have a match."""
    arguments = statistic.arguments
    if statistic.function is Function.COUNT:
        return all(_counts(argument, keep_left=keep_left) for argument in arguments)
    if not all(isinstance(argument.expression, ColumnValue) for argument in arguments):
        return False
    if statistic.function in _OF_ONE:
        return len(arguments) == 1
    if statistic.function in _OF_ONE_OR_TWO:
        return len(arguments) <= 2
    return statistic.function in _OF_SEVERAL


def _counts(argument: Argument, *, keep_left: bool) -> bool:
    """Whether it only says that a column of one table, or a match in it, is there."""
    found = argument.expression
    if isinstance(found, ColumnValue):
        return True
    if found == _ONE:
        return keep_left and argument.side == 1
    if not isinstance(found, Case) or len(found.whens) != 1 or found.otherwise is not None:
        return False
    (when,) = found.whens
    return (
        isinstance(when.condition, Present)
        and isinstance(when.condition.value, ColumnValue)
        and when.value == _ONE
    )


def is_tested(statistic: Statistic, plan: Plan, products: Sequence[DataProduct]) -> bool:
    """Whether the engine's dominance test sees every sum behind a statistic: those that multiply
    one side's column by everybody's 1. See `crypto.joins.rows.limited_terms`."""
    if statistic.function is Function.COUNT or plan.join in (Join.ALONE, Join.UNION):
        return True
    sides = {argument.side for argument in statistic.arguments}
    others = [product for place, product in enumerate(products) if place not in sides]
    return len(sides) == 1 and all(product.contribution == 1 for product in others)


def compared(root: Expression) -> str | None:
    """The plain column that one side of a comparison is, in its own unit or as x + 0.00 in a finer
    one; None for anything else."""
    if (
        isinstance(root, Arithmetic)
        and root.operation is Operation.ADD
        and isinstance(root.right, Number)
        and root.right.value == 0
    ):
        root = root.left
    return root.column if isinstance(root, ColumnValue) else None


def valued(plan: Plan, place: int) -> frozenset[str]:
    """Columns of one side whose values are added up, or of which the least or largest is asked.
    Raises Malformed for no query."""
    return _of_side(place, (_read(statistic, plan) for statistic in plan.query.statistics))


def extremes(plan: Plan, place: int) -> frozenset[str]:
    """Columns of one side of which the least or largest is asked. Raises Malformed for no query."""
    asked = (one for one in plan.query.statistics if one.function in _EXTREMES)
    return _of_side(place, (_read(statistic, plan) for statistic in asked))


def _of_side(place: int, read: Iterable[frozenset[tuple[int, str]]]) -> frozenset[str]:
    return frozenset(column for one in read for side, column in one if side == place)


def chosen(plan: Plan, place: int) -> frozenset[str]:
    """Columns of one side whose values decide which rows, or which group's, are taken. Whether
    there is a value is not one."""
    side, found = plan.sides[place], set()
    roots = [case for group in side.group_by for case in group.cases or ()]
    roots += [] if side.where is None else [side.where]
    for root in roots:
        inside = list(parts(root))
        read = Counter(one.column for one in inside if isinstance(one, ColumnValue))
        asked = Counter(
            one.value.column
            for one in inside
            if isinstance(one, Present) and isinstance(one.value, ColumnValue)
        )
        found |= set(read - asked)
    found |= {group.name for group in side.group_by if group.cases is None}
    for comparison in plan.query.comparisons:
        own = comparison.reads(place)
        found |= set() if own is None else set(columns(own))
    return frozenset(found)


def unvalued(plan: Plan) -> tuple[str, ...]:
    """Columns whose value the sum join's WHERE must ask for, in the order of the plan.

    That join counts one number of people, which everything is gated by: those in common who have
    whatever is summed of either table. So each statistic must be about just these.
    """
    found: dict[str, None] = {}
    for place, side in enumerate(plan.sides):
        asked = set(_asked_for(side))
        read = [
            {
                column
                for argument in statistic.arguments
                if argument.side == place
                for column in columns(argument.expression)
            }
            for statistic in plan.query.statistics
        ]
        for own in read:
            found.update(dict.fromkeys(sorted(set().union(*read) - asked - own)))
    return tuple(found)


# Companies


@dataclass(frozen=True)
class Company:
    """Whom the sums of one column count, beside what WHERE and GROUP BY say of its own table.

    tables:  the products whose people are matched with, in order of id
    present: columns, each with its product, that must have a value; but for those that WHERE or
             GROUP BY asks for already, which all sums of the job leave out alike
    united:  of a union
    """

    tables: tuple[ProductId, ...]
    present: frozenset[tuple[ProductId, str]]
    united: bool


def companies(
    plan: Plan, products: Sequence[DataProduct], place: int
) -> frozenset[tuple[str, Company]]:
    """The companies of each column of one side; what is released exactly has one of each column,
    over all jobs of a product. products: of all sides, in the plan's order."""
    query, union = plan.query, plan.join is Join.UNION
    own = products[place].id
    asked = frozenset(
        (product.id, column)
        for product, side in zip(products, plan.sides, strict=True)
        for column in _asked_for(side)
    )
    found = set()
    for statistic in query.statistics:
        values = _values(statistic, plan)
        everybody = frozenset((products[side].id, column) for side, column in values)
        sides = {side for side, _ in values}
        others = sorted({product.id for product in products} - {own})
        if plan.join is Join.ALONE or (query.keep_left and sides == {0}):
            others = []  # everybody in the table, matched or not
        for side, column in values:
            if side == place:
                rest = everybody - asked - {(own, column)}
                found.add((column, Company(tuple(others), rest, union)))
    return frozenset(found)


# Products

Factor = tuple[ProductId, str]


def multiplied(plan: Plan, products: Sequence[DataProduct]) -> frozenset[tuple[Factor, Factor]]:
    """Columns whose products are added up, each pair once; a square is a column with itself.
    products: of all sides, in the plan's order."""
    found = set()
    for statistic in plan.query.statistics:
        if statistic.function is Function.COUNT or statistic.function in _EXTREMES:
            continue
        arguments = [
            (argument.side, argument.expression.column)
            for argument in statistic.arguments
            if isinstance(argument.expression, ColumnValue)
        ]
        united = range(len(plan.sides)) if plan.join is Join.UNION else (None,)
        for place in united:
            factors = [
                (products[side if place is None else place].id, column)
                for side, column in arguments
            ]
            for number, one in enumerate(factors):
                beside = factors[number + (statistic.function not in SQUARES) :]
                found |= {(min(one, other), max(one, other)) for other in beside}
    return frozenset(found)


def partners(
    plan: Plan, products: Sequence[DataProduct], place: int
) -> frozenset[tuple[str, Factor]]:
    """Each column of one side with each other column that it is multiplied with; over all exact
    answers of a product, a column has one at most."""
    own = products[place].id
    return frozenset(
        (one[1], other)
        for pair in multiplied(plan, products)
        for one, other in (pair, pair[::-1])
        if one != other and one[0] == own
    )


def _values(statistic: Statistic, plan: Plan) -> frozenset[tuple[int, str]]:
    """Side and column of what a statistic adds up. An extreme adds nothing."""
    return frozenset() if statistic.function in _EXTREMES else _read(statistic, plan)


def _read(statistic: Statistic, plan: Plan) -> frozenset[tuple[int, str]]:
    """Side and column of each value that it reads; a count reads none."""
    if statistic.function is Function.COUNT:
        return frozenset()
    union = plan.join is Join.UNION
    return frozenset(
        (side, argument.expression.column)
        for argument in statistic.arguments
        if isinstance(argument.expression, ColumnValue)
        for side in (range(len(plan.sides)) if union else (argument.side,))
    )


def _asked_for(side: SidePlan) -> Iterator[str]:
    """The columns without which a row is in no group, whatever else the side asks."""
    yield from (group.name for group in side.group_by if group.cases is None)
    if side.where is not None:
        yield from _needed(side.where)


def _needed(where: Condition) -> Iterator[str]:
    """The columns without which a condition does not hold."""
    if isinstance(where, Both):
        yield from _needed(where.left)
        yield from _needed(where.right)
        return
    operands: tuple[Expression, ...] = ()
    if isinstance(where, Compare):
        operands = (where.left, where.right)
    elif isinstance(where, Present | OneOf):
        operands = (where.value,)
    yield from (one.column for one in operands if isinstance(one, ColumnValue))


# Selections


@dataclass(frozen=True)
class Selection:
    """What chooses rows where no holder can count whom it leaves out; all exact answers of a
    product have the same.

    comparisons: across tables, on rows that meet
    where:       of a product with several rows for a person: which of them are taken
    """

    comparisons: frozenset[tuple[ProductId, str, Order, ProductId, str]]
    where: Condition | None


def selection(plan: Plan, products: Sequence[DataProduct], place: int) -> Selection:
    """Of one side. products: of all sides, in the plan's order."""
    found = frozenset(
        (products[0].id, left, condition.order, products[condition.right_side].id, right)
        for condition in plan.query.comparisons
        if (left := compared(condition.left)) and (right := compared(condition.right))
    )
    several = products[place].contribution > 1
    return Selection(found, plan.sides[place].where if several else None)


# The marks that a column's values are read with


def where_present(value: Expression, needed: Sequence[str]) -> Expression:
    """The value in a row that has each of these columns, else 0."""
    condition: Condition = Present(ColumnValue(needed[0]))
    for column in needed[1:]:
        condition = Both(condition, Present(ColumnValue(column)))
    return Case((When(condition, value),), Number(0, 0))


def is_exact(plan: Plan) -> bool:
    """Whether its answer leaves without noise."""
    return isinstance(plan.work, Query) and plan.work.noise is None
