"""A plan as SQL: what a holder is shown before it approves.

Made from the plan alone, so nobody has to believe a text that came beside it. Whatever
`compile_question` makes, compiled again from this text, asks for the same numbers of the same
groups; a plan that somebody wrote by hand is shown as what it does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from exchange.errors import PlanRefused
from exchange.query.domains import equal_steps
from exchange.query.plan import Argument, GroupBy, Plan, Statistic
from exchange.query.released import Calculated, Having, Released, Value
from exchange.query.rules import group_columns
from exchange.query.scope import slug
from registry.errors import DocumentRefused
from registry.expression import (
    Both,
    Case,
    ColumnValue,
    Condition,
    Either,
    Expression,
    Not,
    Number,
    OneOf,
    Operation,
    Present,
    Shape,
    Text,
    columns,
    typed,
)
from registry.product import ColumnType, DataProduct
from registry.rule import Function, Join

_PLAIN: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
# fmt: off
_RESERVED: Final = frozenset(
    {
        "all", "and", "as", "between", "by", "case", "cross", "distinct", "else", "end", "except",
        "exists", "false", "from", "full", "group", "having", "if", "in", "inner", "intersect",
        "into", "is", "join", "left", "like", "limit", "natural", "not", "null", "offset", "on",
        "or", "order", "outer", "qualify", "right", "select", "table", "then", "true", "union",
        "using", "values", "when", "where", "window", "with",
    }
)
# fmt: on
_NAMES: Final = {
    Function.SUM: "SUM",
    Function.MEAN: "AVG",
    Function.VARIANCE: "VAR_SAMP",
    Function.STDDEV: "STDDEV_SAMP",
    Function.MIN: "MIN",
    Function.MAX: "MAX",
    Function.COVARIANCE: "COVAR_SAMP",
    Function.CORRELATION: "CORR",
}
_SIMPLE_PARTS: Final = {0: "REGR_INTERCEPT", 1: "REGR_SLOPE", -1: "REGR_R2"}
_PARTS: Final = {0: "LINREG_INTERCEPT", -1: "LINREG_R2", -2: "LINREG_COUNT"}


def render(plan: Plan, products: Sequence[DataProduct]) -> str:
    """The query of a plan, ending in a newline. products: of all sides, in the plan's order.

    Raises Malformed for a plan that is no query, and PlanRefused for one that the products don't
    fit; whoever checks the rules first never sees that.
    """
    try:
        return _Renderer(plan, products).render()
    except DocumentRefused as error:
        raise PlanRefused(error.where, error.problem) from None


class _Renderer:
    def __init__(self, plan: Plan, products: Sequence[DataProduct]) -> None:
        self._plan, self._query, self._products = plan, plan.query, products
        self._union = plan.join is Join.UNION
        # Of a union there is one table as far as expressions go.
        self._aliases = ("u", "u") if self._union else ("a", "b", "c")

    def render(self) -> str:
        groups = [
            self._group(index, by)
            for index, side in enumerate(self._plan.sides)
            if not (self._union and index)
            for by in side.group_by
        ]
        shown = [*groups]
        shown += [f"{self._value(out.value)} AS {_name(out.name)}" for out in self._query.outputs]
        lines = ["SELECT", *(f"  {part}," for part in shown[:-1]), f"  {shown[-1]}", *self._from()]
        if groups:
            lines.append("GROUP BY " + ", ".join(str(i) for i in range(1, len(groups) + 1)))
        if self._query.having:
            lines.append("HAVING " + "\n  AND ".join(map(self._having, self._query.having)))
        return "\n".join(lines) + "\n"

    # FROM and WHERE

    def _from(self) -> list[str]:
        wheres = [side.where for side in self._plan.sides]
        if self._union:
            first, second = (self._branch(index, alias) for index, alias in enumerate("ab"))
            return ["FROM (", f"  {first}", "  UNION ALL", f"  {second}", ") AS u"]
        lines = [f"FROM {self._table(0)} AS a"]
        filters = self._conjuncts(wheres[0], "a")
        compared = [
            f"{self._operand(c.left, 'a')} {_sign(c.order.value)} "
            f"{self._operand(c.right, self._aliases[c.right_side])}"
            for c in self._query.comparisons
        ]
        for index, alias in enumerate(self._aliases[1 : len(self._plan.sides)], 1):
            left, right = (_column(self._aliases[i], self._products[i].key) for i in (0, index))
            on = [f"{left} = {right}"]
            if self._query.keep_left:
                on += self._conjuncts(wheres[index], alias) + compared
            else:
                filters += self._conjuncts(wheres[index], alias)
            join = "LEFT JOIN" if self._query.keep_left else "JOIN"
            lines.append(f"{join} {self._table(index)} AS {alias} ON " + "\n  AND ".join(on))
        if not self._query.keep_left:
            filters += compared
        if filters:
            lines.append("WHERE " + "\n  AND ".join(filters))
        return lines

    def _table(self, index: int) -> str:
        """By its name, unless another one is called alike."""
        names = [slug(product.name) for product in self._products]
        if not names[index] or names.count(names[index]) > 1:
            return str(self._products[index].id)
        return _name(names[index])

    def _branch(self, index: int, alias: str) -> str:
        """One SELECT of a UNION ALL, with the columns that are used outside."""
        used = [column for by in self._plan.sides[0].group_by for column in group_columns(by)]
        for statistic in self._query.statistics:
            used += [c for a in statistic.arguments for c in columns(a.expression)]
        shown = [_column(alias, name) for name in dict.fromkeys(used)]
        parts = self._conjuncts(self._plan.sides[index].where, alias)
        return " ".join(
            [
                "SELECT",
                ", ".join(shown or [_column(alias, self._products[index].key)]),
                "FROM",
                f"{self._table(index)} AS {alias}",
                *(["WHERE", " AND ".join(parts)] if parts else []),
            ]
        )

    def _conjuncts(self, where: Condition | None, alias: str) -> list[str]:
        if where is None:
            return []
        return [self._condition(part, alias, inside=True) for part in _chain(where, Both)]

    # Groups and numbers

    def _group(self, index: int, by: GroupBy) -> str:
        alias = self._aliases[index]
        if by.cases is not None:
            labels = list(by.labels or ())
            whens = [
                f"WHEN {self._condition(case, alias)} THEN {_text(label)}"
                for case, label in zip(by.cases, labels, strict=False)
            ]
            rest = [f"ELSE {_text(label)}" for label in labels[len(whens) :]]
            return f"CASE {' '.join([*whens, *rest])} END AS {_name(by.name)}"
        column = self._products[index].column(by.name)
        shown = _column(alias, by.name)
        if by.cuts is not None:
            cuts = ", ".join(_decimal(cut, column.decimals) for cut in by.cuts)
            return f"BANDS({shown}, {cuts})"
        if by.categories == column.categories:
            return shown
        whens = [
            f"WHEN {shown} = {_text(c) if column.type is ColumnType.TEXT else c} THEN {_text(c)}"
            for c in by.categories or ()
        ]
        return f"CASE {' '.join(whens)} END AS {_name(by.name)}"

    def _having(self, having: Having) -> str:
        sign = _sign(having.comparator.value)
        return f"{self._value(having.left)} {sign} {self._value(having.right)}"

    def _value(self, root: Value, *, inside: bool = False) -> str:
        if isinstance(root, Number):
            return _number(root, inside=inside)
        if isinstance(root, Released):
            return self._statistic(self._query.statistics[root.statistic], root.part)
        left, right = self._value(root.left, inside=True), self._value(root.right, inside=True)
        text = f"{left} {root.calculation.value} {right}"
        return f"({text})" if inside and isinstance(root, Calculated) else text

    def _statistic(self, statistic: Statistic, part: int) -> str:
        function, arguments = statistic.function, statistic.arguments
        if function is Function.COUNT:
            return self._count(statistic)
        listed = ", ".join(self._argument(argument) for argument in arguments)
        if function is Function.REGRESSION:
            return _regression(part, listed, simple=len(arguments) == 2)
        if function is Function.QUANTILE:
            return self._quantile(statistic, listed)
        if function not in (Function.COVARIANCE, Function.CORRELATION) and len(arguments) > 1:
            listed = " * ".join(self._operand(a.expression, self._alias(a)) for a in arguments)
        return f"{_NAMES[function]}({listed})"

    def _count(self, statistic: Statistic) -> str:
        if statistic.distinct:
            return f"COUNT(DISTINCT {_column(self._aliases[0], self._products[0].key)})"
        if not statistic.arguments:
            return "COUNT(*)"
        if self._query.keep_left and statistic.arguments == (Argument(1, Number(1, 0)),):
            return f"COUNT({_column('b', self._products[1].key)})"
        listed = [self._argument(argument) for argument in statistic.arguments]
        if len(listed) > 2:
            factors = [self._operand(a.expression, self._alias(a)) for a in statistic.arguments]
            return f"COUNT({' * '.join(factors)})"
        name = "COUNT" if len(listed) == 1 else "REGR_COUNT"
        return f"{name}({', '.join(listed)})"

    def _quantile(self, statistic: Statistic, listed: str) -> str:
        (argument,), cuts = statistic.arguments, statistic.cuts or ()
        shape = self._shape(argument)
        share = _share(statistic.quantile or Fraction(1, 2))
        if cuts == equal_steps(shape, len(cuts) - 1):
            return f"QUANTILE_CONT({listed}, {share}, {len(cuts) - 1})"
        shown = ", ".join(_decimal(cut, shape.decimals) for cut in cuts)
        return f"QUANTILE_CUTS({listed}, {share}, {shown})"

    def _shape(self, argument: Argument) -> Shape:
        sides = self._products if self._union else [self._products[argument.side]]
        shapes = [typed(argument.expression, product) for product in sides]
        low, high = min(shape.low for shape in shapes), max(shape.high for shape in shapes)
        return Shape(False, shapes[0].decimals, low, high)

    # Expressions of a row

    def _alias(self, argument: Argument) -> str:
        return self._aliases[argument.side]

    def _argument(self, argument: Argument) -> str:
        return self._expression(argument.expression, self._alias(argument))

    def _operand(self, root: Expression, alias: str) -> str:
        return self._expression(root, alias, inside=True)

    def _expression(self, root: Expression, alias: str, *, inside: bool = False) -> str:
        if isinstance(root, ColumnValue):
            return _column(alias, root.column)
        if isinstance(root, Number):
            return _number(root, inside=inside)
        if isinstance(root, Text):
            return _text(root.text)
        if isinstance(root, Case):
            whens = []
            for when in root.whens:
                whens.append(f"WHEN {self._condition(when.condition, alias)}")
                whens.append(f"THEN {self._expression(when.value, alias)}")
            if root.otherwise is not None:
                whens.append(f"ELSE {self._expression(root.otherwise, alias)}")
            return f"CASE {' '.join(whens)} END"
        if root.operation in (Operation.LEAST, Operation.GREATEST):
            parts = [self._expression(part, alias) for part in (root.left, root.right)]
            return f"{root.operation.value.upper()}({', '.join(parts)})"
        left, right = self._operand(root.left, alias), self._operand(root.right, alias)
        text = f"{left} {root.operation.value} {right}"
        return f"({text})" if inside else text

    def _condition(self, root: Condition, alias: str, *, inside: bool = False) -> str:
        if isinstance(root, Both | Either):
            word = " AND " if isinstance(root, Both) else " OR "
            text = word.join(
                self._condition(part, alias, inside=True) for part in _chain(root, type(root))
            )
            return f"({text})" if inside else text
        if isinstance(root, Present):
            return f"{self._operand(root.value, alias)} IS NOT NULL"
        if isinstance(root, Not):
            if isinstance(root.condition, Present):
                return f"{self._operand(root.condition.value, alias)} IS NULL"
            return f"NOT ({self._condition(root.condition, alias)})"
        if isinstance(root, OneOf):
            options = ", ".join(self._expression(option, alias) for option in root.options)
            return f"{self._operand(root.value, alias)} IN ({options})"
        left, right = self._operand(root.left, alias), self._operand(root.right, alias)
        return f"{left} {_sign(root.comparator.value)} {right}"


def _regression(part: int, listed: str, *, simple: bool) -> str:
    if simple and part in _SIMPLE_PARTS:
        return f"{_SIMPLE_PARTS[part]}({listed})"
    if part in _PARTS:
        return f"{_PARTS[part]}({listed})"
    return f"LINREG_COEF({part}, {listed})"


def _chain(root: Condition, kind: type[Both] | type[Either]) -> list[Condition]:
    if isinstance(root, kind):
        return _chain(root.left, kind) + _chain(root.right, kind)
    return [root]


def _sign(sign: str) -> str:
    return "<>" if sign == "!=" else sign


def _column(alias: str, name: str) -> str:
    return f"{alias}.{_name(name)}"


def _number(number: Number, *, inside: bool) -> str:
    text = _decimal(number.value, number.decimals)
    return f"({text})" if inside and number.value < 0 else text


def _decimal(value: int, decimals: int) -> str:
    """All its decimals: a number's places say how exactly it is computed with."""
    if not decimals:
        return str(value)
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{decimals + 1}d}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def _share(share: Fraction) -> str:
    for decimals in range(1, 31):
        scaled = share * 10**decimals
        if scaled.denominator == 1:
            return _decimal(int(scaled), decimals)
    return f"{share.numerator} / {share.denominator}"


def _name(name: str) -> str:
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return _escaped(name, '"')


def _text(text: str) -> str:
    return _escaped(text, "'")


def _escaped(text: str, quote: str) -> str:
    """In quotes. What cannot be printed is spelt out, so that no text of a plan can move the
    cursor, hide a line or look like another line of SQL."""
    doubled = text.replace(quote, quote * 2)
    if text.isprintable():
        return f"{quote}{doubled}{quote}"
    spelt = "".join(c if c.isprintable() and c != "\\" else f"\\+{ord(c):06X}" for c in doubled)
    return f"U&{quote}{spelt}{quote}"
