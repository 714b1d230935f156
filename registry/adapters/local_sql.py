"""Expressions and conditions of a local query, as SQL over a table of encoded columns.

The table has one column `v<i>` for each column of the product: text in Unicode NFC, or a BIGINT in
units of 10**-decimals, NULL where missing. Every number inside is a HUGEINT, so nothing overflows:
`registry.expression.typed` keeps each result within 60 bits, and a comparison adds at most 40 more
to reach a common scale. There is no division, so no row can make a query fail.

Missing and unknown follow SQL: an operand that is NULL makes the result NULL, a condition that is
NULL selects nothing and neither does its negation. Text is compared by its UTF-8 bytes, which is
what DuckDB does without a collation.

Only names made here and integers counted here enter the SQL; every literal of a query is bound as
a parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from registry.errors import DocumentRefused, SourceRefused
from registry.expression import (
    Both,
    Case,
    ColumnValue,
    Compare,
    Condition,
    Either,
    Expression,
    LocalFactor,
    Not,
    Number,
    Operation,
    Present,
    Shape,
    Text,
    columns,
    require_condition,
    typed,
)
from registry.product import ColumnType, DataProduct

# Sums over one person's rows are handed out as int64, with room for the sign.
MAX_PERSON_SUM: Final = 2**62

# least() and greatest() of DuckDB skip NULL; the first of a list sorted NULLS FIRST does not.
_SORTED: Final = {Operation.LEAST: "ASC", Operation.GREATEST: "DESC"}


@dataclass(frozen=True)
class _Value:
    """sql: HUGEINT in units of 10**-decimals; or VARCHAR where decimals is None."""

    sql: str
    decimals: int | None


class LocalSql:
    """The SQL of one query's parts. A part that does not fit the product raises SourceRefused.

    parameters: what the SQL made so far must be executed with
    columns:    names of the product's columns that it reads
    """

    def __init__(self, product: DataProduct) -> None:
        self._product = product
        self._places = {column.name: i for i, column in enumerate(product.columns)}
        self.parameters: dict[str, object] = {}
        self.columns: set[str] = set()

    def where(self, condition: Condition | None) -> str:
        """BOOLEAN, NULL where unknown."""
        if condition is None:
            return "true"
        with _refused_by_the_source():
            require_condition(condition, self._product, where="where")
        self._read(condition)
        return self._condition(condition)

    def group(self, expression: Expression | None) -> str:
        """BIGINT: the number of the row's group, -1 where it is in none."""
        if expression is None:
            return "0::BIGINT"
        if self._product.contribution > 1:
            raise SourceRefused("group", "a person with several rows is in no single group")
        shape = self._shape(expression, "group")
        if shape.decimals or shape.low < 0:
            raise SourceRefused("group", "is not a number 0, 1, 2, …")
        return f"coalesce({self._value(expression).sql}, -1)::BIGINT"

    def factor(self, factor: LocalFactor) -> str:
        """HUGEINT of one row, 0 where missing; 0 or 1 for an indicator."""
        shape = self._shape(factor.expression, "factors")
        if not factor.indicator and shape.widest * self._product.contribution > MAX_PERSON_SUM:
            raise SourceRefused("factors", "could add up to more than 62 bits for one person")
        value = f"coalesce({self._value(factor.expression).sql}, 0)"
        return f"({value} <> 0)::HUGEINT" if factor.indicator else value

    def _shape(self, expression: Expression, where: str) -> Shape:
        with _refused_by_the_source():
            shape = typed(expression, self._product, where=where)
        if shape.text:
            raise SourceRefused(where, "is text where a number is needed")
        self._read(expression)
        return shape

    def _read(self, root: Expression | Condition) -> None:
        for name in columns(root):
            # A plan joins on the key and learns nothing else of it, whatever the rule says.
            if name == self._product.key:
                raise SourceRefused(name, "is the join key and nothing else")
            self.columns.add(name)

    # What follows trusts that the expression or condition has been typed.

    def _condition(self, root: Condition) -> str:
        if isinstance(root, Both):
            return f"({self._condition(root.left)} AND {self._condition(root.right)})"
        if isinstance(root, Either):
            return f"({self._condition(root.left)} OR {self._condition(root.right)})"
        if isinstance(root, Not):
            return f"(NOT {self._condition(root.condition)})"
        if isinstance(root, Present):
            return f"({self._value(root.value).sql} IS NOT NULL)"
        if isinstance(root, Compare):
            left, right = self._alike([root.left, root.right])
            return f"({left.sql} {root.comparator.value} {right.sql})"
        value, *options = self._alike([root.value, *root.options])
        return f"({value.sql} IN ({', '.join(option.sql for option in options)}))"

    def _value(self, root: Expression) -> _Value:
        if isinstance(root, Number):
            return _Value(f"{self._bound(root.value)}::HUGEINT", root.decimals)
        if isinstance(root, Text):
            return _Value(f"nfc_normalize({self._bound(root.text)}::VARCHAR)", None)
        if isinstance(root, ColumnValue):
            column, place = self._product.column(root.column), self._places[root.column]
            if column.type is ColumnType.TEXT:
                return _Value(f"v{place}", None)
            return _Value(f"v{place}::HUGEINT", column.decimals)
        if isinstance(root, Case):
            return self._case(root)
        if root.operation is Operation.MULTIPLY:
            left, right = self._value(root.left), self._value(root.right)
            decimals = (left.decimals or 0) + (right.decimals or 0)
        else:
            left, right = self._alike([root.left, root.right])
            decimals = left.decimals or 0
        if root.operation in _SORTED:
            order = _SORTED[root.operation]
            return _Value(
                f"list_sort([{left.sql}, {right.sql}], '{order}', 'NULLS FIRST')[1]", decimals
            )
        return _Value(f"({left.sql} {root.operation.value} {right.sql})", decimals)

    def _case(self, root: Case) -> _Value:
        branches = [when.value for when in root.whens]
        if root.otherwise is not None:
            branches.append(root.otherwise)
        values = self._alike(branches)
        whens = " ".join(
            f"WHEN {self._condition(when.condition)} THEN {value.sql}"
            for when, value in zip(root.whens, values, strict=False)
        )
        otherwise = "NULL" if root.otherwise is None else values[-1].sql
        return _Value(f"(CASE {whens} ELSE {otherwise} END)", values[0].decimals)

    def _alike(self, roots: list[Expression]) -> list[_Value]:
        """All text, or all numbers in the finest of their units."""
        values = [self._value(root) for root in roots]
        if values[0].decimals is None:
            return values
        finest = max(value.decimals or 0 for value in values)
        return [_in_units(value, finest) for value in values]

    def _bound(self, literal: int | str) -> str:
        name = f"p{len(self.parameters)}"
        self.parameters[name] = literal
        return f"${name}"


def _in_units(value: _Value, decimals: int) -> _Value:
    finer = 10 ** (decimals - (value.decimals or 0))
    return value if finer == 1 else _Value(f"({value.sql} * {finer}::HUGEINT)", decimals)


@contextmanager
def _refused_by_the_source() -> Iterator[None]:
    try:
        yield
    except DocumentRefused as refused:
        raise SourceRefused(refused.where, refused.problem) from None
