"""From SQL as it was read to the parts of a query: what each table contributes, and what is
released.

Conditions and projections go to the table that they read; what reads both tables is a comparison
row by row or a product of one factor each, and nothing else. Groups have public domains. Every
refusal names the fragment, the reason and what to write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Final

from crypto.errors import Malformed
from crypto.identifiers import ProductId
from crypto.joins.layout import Order
from exchange.errors import QuestionRefused
from exchange.query.plan import Argument, CrossCondition, GroupBy, Statistic
from exchange.query.released import Calculated, Calculation, Having, Output, Released, Value
from exchange.query.scope import (
    COMPARATORS,
    Scope,
    Side,
    at,
    balanced,
    chain,
    nodes,
    product_of,
    typed_at,
)
from exchange.query.sql import (
    Branch,
    Branches,
    Call,
    Figure,
    Infix,
    Item,
    JoinClause,
    Name,
    Node,
    Select,
    Star,
    Table,
    Union,
)
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Expression,
    Number,
    Operation,
    Present,
    Shape,
    Text,
    When,
    scaled,
)
from registry.product import Column, ColumnType, DataProduct
from registry.rule import Function

QUANTILE_STEPS: Final = 16
MAX_STEPS: Final = 256
MAX_CUTS: Final = 1000
ONE: Final = Number(1, 0)

_SIMPLE: Final[Mapping[str, Function]] = {
    "SUM": Function.SUM,
    "AVG": Function.MEAN,
    "VAR_SAMP": Function.VARIANCE,
    "VARIANCE": Function.VARIANCE,
    "STDDEV": Function.STDDEV,
    "STDDEV_SAMP": Function.STDDEV,
    "MIN": Function.MIN,
    "MAX": Function.MAX,
}
_QUANTILES: Final = (
    "MEDIAN",
    "QUANTILE_CONT",
    "PERCENTILE_CONT",
    "APPROX_QUANTILE",
    "QUANTILE_CUTS",
)
# Which number of a regression: see released.Released.part.
_REGRESSIONS: Final[Mapping[str, int]] = {
    "REGR_INTERCEPT": 0,
    "REGR_SLOPE": 1,
    "REGR_R2": -1,
    "LINREG_INTERCEPT": 0,
    "LINREG_R2": -1,
    "LINREG_COUNT": -2,
}
AGGREGATES: Final = frozenset(
    {
        "COUNT",
        "APPROX_COUNT_DISTINCT",
        "VAR_POP",
        "CORR",
        "COVAR_SAMP",
        "COVAR_POP",
        "REGR_COUNT",
        "LINREG_COEF",
        "LINEAR_REGRESSION",
        *_SIMPLE,
        *_QUANTILES,
        *_REGRESSIONS,
    }
)
# Aggregates elsewhere: seen as such, so that they are refused by name where they stand.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "STDDEV_POP": "take the square root of VAR_POP",
    "PERCENTILE_DISC": "write PERCENTILE_CONT",
    "QUANTILE": "write QUANTILE_CONT(column, 0.9)",
    "QUANTILE_DISC": "write QUANTILE_CONT",
    "MODE": "group by the column and count",
    "MEAN": "write AVG",
    "COUNT_IF": "write COUNT(*) FILTER (WHERE …)",
    "SUM_IF": "write SUM(…) FILTER (WHERE …)",
    "REGR_SXX": "write VAR_POP(x) * REGR_COUNT(y, x)",
    "REGR_AVGX": "write AVG(x)",
    "REGR_AVGY": "write AVG(y)",
    "STRING_AGG": "rows are never shown",
    "ARRAY_AGG": "rows are never shown",
    "LIST": "rows are never shown",
    "ANY_VALUE": "rows are never shown",
    "FIRST": "rows are never shown",
    "LAST": "rows are never shown",
    "ARG_MAX": "rows are never shown",
    "ARG_MIN": "rows are never shown",
    "ROW_NUMBER": "rows are never shown",
    "BOOL_OR": "write MAX(CASE WHEN … THEN 1 ELSE 0 END)",
    "BOOL_AND": "write MIN(CASE WHEN … THEN 1 ELSE 0 END)",
}
_NEGATED: Final[Mapping[str, str]] = {
    "=": "!=",
    "!=": "=",
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
}


@dataclass(frozen=True)
class Bound:
    """products, where, group_by: one for each table, in the order of FROM."""

    products: tuple[DataProduct, ...]
    union: bool
    keep_left: bool
    where: tuple[Condition | None, ...]
    group_by: tuple[tuple[GroupBy, ...], ...]
    comparisons: tuple[CrossCondition, ...]
    statistics: tuple[Statistic, ...]
    outputs: tuple[Output, ...]
    having: tuple[Having, ...]


def bind(
    select: Select,
    tables: Mapping[str, ProductId],
    products: Mapping[ProductId, DataProduct],
    *,
    noisy: bool,
) -> Bound:
    """What a question asks of these products. Raises QuestionRefused.

    noisy: whether noise is asked for, which APPROX_COUNT_DISTINCT promises
    """
    return _Binder(select, tables, products, noisy=noisy).bind()


@dataclass(frozen=True)
class _Key:
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


class _Binder:
    def __init__(
        self,
        select: Select,
        tables: Mapping[str, ProductId],
        products: Mapping[ProductId, DataProduct],
        *,
        noisy: bool,
    ) -> None:
        self._select, self._tables, self._listed = select, tables, products
        self._noisy = noisy
        self._keep_left = select.join is not None and select.join.keep_left
        self._where: list[list[Condition]] = [[], []]
        self._comparisons: list[CrossCondition] = []
        self._statistics: list[Statistic] = []
        self._outputs: list[Output] = []
        if isinstance(select.source, Union):
            self._products, self._scope = self._united(select.source)
        else:
            self._products, self._scope = self._joined(select.source, select.join)

    @property
    def _union(self) -> bool:
        return isinstance(self._select.source, Union)

    def bind(self) -> Bound:
        if self._select.where is not None:
            self._filter(self._select.where)
        groups = self._groups()
        if self._select.having is not None:
            having = tuple(self._having(part) for part in chain(self._select.having, "and"))
        else:
            having = ()
        return Bound(
            products=self._products,
            union=self._union,
            keep_left=self._keep_left,
            where=tuple(
                balanced(found, Both) if found else None
                for found in self._where[: len(self._products)]
            ),
            group_by=groups,
            comparisons=tuple(self._comparisons),
            statistics=tuple(self._statistics),
            outputs=tuple(self._outputs),
            having=having,
        )

    # FROM

    def _joined(
        self, first: Table, join: JoinClause | None
    ) -> tuple[tuple[DataProduct, ...], Scope]:
        tables = (first,) if join is None else (first, join.table)
        products = tuple(product_of(t, self._tables, self._listed) for t in tables)
        for table, product in zip(tables, products, strict=True):
            _require_rows(table, product)
        scope = Scope([Side(t.alias, p) for t, p in zip(tables, products, strict=True)])
        if join is not None:
            if first.alias.lower() == join.table.alias.lower():
                raise QuestionRefused(join.text, "both tables have one name; write AS a and AS b")
            _require_two_holders(join.text, products)
            self._scope, self._products = scope, products
            self._on(join)
        return products, scope

    def _on(self, join: JoinClause) -> None:
        keys = [product.key for product in self._products]
        left, right = (f"{s.alias}.{s.product.key}" for s in self._scope.sides)
        advice = f"tables are joined on their keys: ON {left} = {right}"
        if join.using is not None:
            if any(join.using.lower() != key.lower() for key in keys):
                raise QuestionRefused(join.text, advice)
            return
        joined = False
        for part in chain(join.on, "and") if join.on is not None else []:
            if self._is_key_equality(part):
                joined = True
                continue
            sides = self._scope.sides_of(part)
            if self._keep_left and sides != {1}:
                raise QuestionRefused(
                    part.text,
                    f"ON of a LEFT JOIN holds the keys and conditions on {join.table.alias} alone; "
                    "conditions on the left table go into WHERE",
                )
            self._condition(part)
        if not joined:
            raise QuestionRefused(join.text, advice)
        if self._keep_left and self._products[1].contribution > 1:
            raise QuestionRefused(
                join.text,
                f"{self._products[1].name} has several rows for a person; a LEFT JOIN needs one",
            )

    def _is_key_equality(self, node: Node) -> bool:
        if not isinstance(node, Infix) or node.sign != "=":
            return False
        sides = [self._scope.key_side(part) for part in (node.left, node.right)]
        return None not in sides and set(sides) == {0, 1}

    def _united(self, union: Union) -> tuple[tuple[DataProduct, ...], Scope]:
        products, derived = [], []
        for index, branch in enumerate(union.branches):
            product = product_of(branch.table, self._tables, self._listed)
            _require_rows(branch.table, product)
            products.append(product)
            scope = Scope([Side(branch.table.alias, product)])
            derived.append(_derived(branch, scope))
            if branch.where is not None:
                condition = scope.checked_condition(branch.where, [product])
                self._where[index].append(condition)
        first, second = derived
        text = union.branches[1].text
        _require_two_holders(text, products)
        if len(first) != len(second):
            raise QuestionRefused(text, "the two SELECTs of a UNION ALL list as many columns each")
        keys = {ColumnValue(product.key) for product in products}
        for (name, value), other in zip(first.items(), second.values(), strict=True):
            if value != other and {value, other} != keys:
                raise QuestionRefused(
                    text,
                    f"{name} must be the same expression, over columns of the same name, in both "
                    "SELECTs of a UNION ALL",
                )
        return tuple(products), Scope([Side(union.alias, products[0])], derived=first)

    # WHERE

    def _filter(self, root: Node) -> None:
        for part in chain(root, "and"):
            if self._keep_left and 1 in self._scope.sides_of(part):
                alias = self._scope.sides[1].alias
                raise QuestionRefused(
                    part.text,
                    f"WHERE on the right table of a LEFT JOIN would drop the rows without a match: "
                    f"put it into ON (… AND {part.text}), or write JOIN if only rows with a match "
                    f"in {alias} count",
                )
            self._condition(part)

    def _condition(self, node: Node) -> None:
        """Push a condition down to its table, or compare across tables."""
        sides = self._scope.sides_of(node)
        if not sides:
            raise QuestionRefused(node.text, "reads no column; leave it out")
        if self._union:
            found = self._scope.checked_condition(node, self._products)
            for where in self._where:
                where.append(found)
        elif len(sides) == 1:
            (side,) = sides
            product = self._products[side]
            self._where[side].append(self._scope.checked_condition(node, [product]))
        else:
            self._comparisons.append(self._compared(node))

    def _compared(self, node: Node) -> CrossCondition:
        """left order right, with what each table adds on its own side of the comparison."""
        inner, negated = node, False
        while type(inner).__name__ == "Inverse":
            inner, negated = inner.inner, not negated  # type: ignore[union-attr]
        if not isinstance(inner, Infix) or inner.sign not in COMPARATORS:
            raise QuestionRefused(
                node.text,
                "conditions on both tables are comparisons such as a.x < b.y, held together by AND",
            )
        for part in (inner.left, inner.right):
            if self._scope.key_side(part) is not None:
                raise QuestionRefused(node.text, "keys are compared in JOIN … ON alone")
        sign = _NEGATED[inner.sign] if negated else inner.sign
        addends = [*_addends(inner.left, plus=True), *_addends(inner.right, plus=False)]
        found: tuple[list[Expression], list[Expression]] = ([], [])
        taken: tuple[list[Expression], list[Expression]] = ([], [])
        for part, plus in addends:
            sides = self._scope.sides_of(part)
            if len(sides) > 1:
                raise QuestionRefused(
                    part.text,
                    "mixes both tables; compare an expression of one with an expression of the "
                    "other, as in a.x + 1 < b.y * 2",
                )
            side = min(sides, default=1)
            # What side 0 adds stays on the left; what side 1 adds goes to the right.
            goes = plus if side == 0 else not plus
            (found if goes else taken)[side].append(self._scope.value(part))
        left, right = (self._total(node, side, found[side], taken[side]) for side in (0, 1))
        decimals = max(left[1].decimals, right[1].decimals)
        return CrossCondition(
            left=_in_units(node, *left, decimals),
            order=Order(sign),
            right=_in_units(node, *right, decimals),
        )

    def _total(
        self, node: Node, side: int, plus: list[Expression], minus: list[Expression]
    ) -> tuple[Expression, Shape]:
        def added(parts: list[Expression]) -> Expression:
            return balanced(parts, lambda a, b: Arithmetic(Operation.ADD, a, b))

        total = added(plus) if plus else Number(0, 0)
        if minus:
            total = Arithmetic(Operation.SUBTRACT, total, added(minus))
        shape = typed_at(node, total, self._products[side])
        if shape.text:
            raise QuestionRefused(node.text, "compares text of two tables; only numbers can be")
        return total, shape

    # SELECT and GROUP BY

    def _groups(self) -> tuple[tuple[GroupBy, ...], ...]:
        """Also binds everything in SELECT."""
        keys: dict[_Key, str | None] = {}
        for node in self._select.group_by:
            keys.setdefault(self._key(self._meant(node)), None)
        for number, item in enumerate(self._select.items, 1):
            if _is_aggregate(item.value):
                self._output(item, number)
                continue
            key = self._shown_key(item, keys)
            if item.alias is not None:
                keys[key] = _printable(item.alias)
        if not self._outputs:
            raise QuestionRefused("SELECT", "holds no aggregate; add one such as COUNT(*)")
        sides: tuple[list[GroupBy], list[GroupBy]] = ([], [])
        for number, (key, alias) in enumerate(keys.items(), 1):
            with _placed("GROUP BY"):
                group = key.named(alias, number)
            for side in (0, 1) if self._union else (key.side,):
                sides[side].append(group)
        return tuple(tuple(found) for found in sides[: len(self._products)])

    def _meant(self, node: Node) -> Node:
        """GROUP BY 1, and GROUP BY an alias of SELECT."""
        items = self._select.items
        if isinstance(node, Figure):
            if node.decimals or not 1 <= node.value <= len(items):
                raise QuestionRefused(node.text, f"counts the columns of SELECT: 1 to {len(items)}")
            return items[node.value - 1].value
        if isinstance(node, Name) and node.table is None:
            for item in items:
                if item.alias is not None and item.alias.lower() == node.column.lower():
                    return item.value
        return node

    def _shown_key(self, item: Item, keys: Mapping[_Key, str | None]) -> _Key:
        node = item.value
        if isinstance(node, Star):
            raise QuestionRefused(node.text, "rows are never shown; name aggregates and groups")
        if not keys and isinstance(node, Name):
            self._scope.column(node)
            raise QuestionRefused(
                node.text,
                f"rows are never shown: group by it, or aggregate it as in AVG({node.text})",
            )
        key = self._key(node)
        if key not in keys:
            raise QuestionRefused(node.text, "is neither an aggregate nor in GROUP BY")
        return key

    def _key(self, node: Node) -> _Key:
        if _is_aggregate(node):
            raise QuestionRefused(node.text, "is an aggregate; group by columns of rows")
        sides = self._scope.sides_of(node)
        if len(sides) != 1:
            raise QuestionRefused(
                node.text,
                "a group key reads columns of exactly one table; name two keys to group by both",
            )
        (side,) = sides
        if self._keep_left and side == 1:
            raise QuestionRefused(
                node.text,
                "a LEFT JOIN is grouped by columns of its left table; rows without a match have "
                "no value here",
            )
        if isinstance(node, Call) and node.function in ("BANDS", "WIDTH_BUCKET"):
            return self._bands(node, side)
        column = self._scope.plain_column(node)
        if column is not None:
            return self._categories(node, side, column)
        value = self._scope.value(node)
        if isinstance(value, Case) and all(isinstance(w.value, Text) for w in value.whens):
            return self._cases(node, side, value)
        raise QuestionRefused(
            node.text,
            "has no public domain: group by a column with categories, by BANDS(column, cut, …) or "
            "by CASE WHEN … THEN 'label' … END",
        )

    def _categories(self, node: Node, side: int, column: Column) -> _Key:
        if self._scope.key_side(node) is not None:
            raise QuestionRefused(node.text, "is the join key; a person is no group")
        if column.categories is None:
            advice = (
                f"write CASE WHEN {node.text} = 'a' THEN 'a' … END"
                if column.type is ColumnType.TEXT
                else f"write BANDS({node.text}, cut, …)"
            )
            raise QuestionRefused(node.text, f"{column.name} has no public categories; {advice}")
        if self._union:
            for product in self._products:
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
        return _Key(side, column.name, None, cases, column.categories)

    def _cases(self, node: Node, side: int, value: Case) -> _Key:
        labels = [when.value.text for when in value.whens if isinstance(when.value, Text)]
        if value.otherwise is not None:
            if not isinstance(value.otherwise, Text):
                raise QuestionRefused(node.text, "gives text and numbers; give each group a label")
            labels.append(value.otherwise.text)
        if len(set(labels)) != len(labels):
            raise QuestionRefused(node.text, "gives two groups one label; join them with OR")
        self._scope.checked_condition(_conditions(node), self._group_products(side))
        cases = tuple(when.condition for when in value.whens)
        return _Key(side, None, None, cases, tuple(labels))

    def _bands(self, node: Call, side: int) -> _Key:
        """BANDS(x, c1, c2, …) and WIDTH_BUCKET(x, low, high, n)."""
        if not node.arguments or node.distinct or node.only is not None:
            raise QuestionRefused(node.text, "write BANDS(column, cut, …)")
        inner = node.arguments[0]
        if self._scope.key_side(inner) is not None:
            raise QuestionRefused(inner.text, "is the join key; a person is no group")
        numbers = [_exact(node, part) for part in node.arguments[1:]]
        if node.function == "WIDTH_BUCKET":
            numbers = _equal_cuts(node, numbers)
        if not numbers or len(numbers) > MAX_CUTS or numbers != sorted(set(numbers)):
            raise QuestionRefused(node.text, f"cuts must ascend, and be 1 to {MAX_CUTS}")
        column = self._scope.plain_column(inner)
        if column is not None and column.type is ColumnType.TEXT:
            raise QuestionRefused(node.text, "is text and has no bands; write CASE")
        if column is None:
            value, shape = self._scope.checked_number(inner, self._group_products(side))
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
        return _Key(side, name, cuts, (*below, Present(value)), labels)

    def _group_products(self, side: int) -> Sequence[DataProduct]:
        return self._products if self._union else [self._products[side]]

    def _output(self, item: Item, number: int) -> None:
        node = item.value
        if isinstance(node, Call) and node.function == "LINEAR_REGRESSION":
            self._regression_outputs(item, node)
            return
        name = _printable(item.alias) if item.alias is not None else _default_name(node, number)
        self._add_output(name, self._released(node), explicit=item.alias is not None)

    def _regression_outputs(self, item: Item, node: Call) -> None:
        index = self._regression(node)
        start = _printable(item.alias) if item.alias is not None else "regression"
        names = ["intercept"]
        for number, part in enumerate(node.arguments[1:], 1):
            column = self._scope.plain_column(part)
            name = f"x{number}" if column is None else column.name
            names.append(f"x{number}" if name in names else name)
        parts = [*range(len(names)), -1, -2]
        for name, part in zip([*names, "r2", "count"], parts, strict=True):
            self._add_output(f"{start}_{name}", Released(index, part), explicit=False)

    def _add_output(self, name: str, value: Value, *, explicit: bool) -> None:
        taken = {output.name for output in self._outputs}
        if explicit and name in taken:
            raise QuestionRefused(f"AS {name}", "names two columns of the answer")
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}_{number}"
        with _placed(f"AS {free}"):
            self._outputs.append(Output(free, value))

    # Released numbers

    def _having(self, node: Node) -> Having:
        if not isinstance(node, Infix) or node.sign not in COMPARATORS:
            raise QuestionRefused(
                node.text,
                "HAVING holds comparisons of aggregates with AND between them, as in "
                "HAVING COUNT(*) >= 20 AND AVG(x) > 3",
            )
        return Having(self._released(node.left), COMPARATORS[node.sign], self._released(node.right))

    def _released(self, node: Node) -> Value:
        if isinstance(node, Figure):
            return Number(node.value, node.decimals)
        if isinstance(node, Infix) and node.sign in ("+", "-", "*", "/"):
            return Calculated(
                Calculation(node.sign), self._released(node.left), self._released(node.right)
            )
        if isinstance(node, Call) and node.function in AGGREGATES:
            return self._aggregate(node)
        if isinstance(node, Call) and node.function in _ELSEWHERE:
            advice = _ELSEWHERE[node.function]
            raise QuestionRefused(node.text, f"{node.function} is not supported: {advice}")
        if isinstance(node, Name):
            for output in self._outputs:
                if node.table is None and output.name.lower() == node.column.lower():
                    return output.value
            raise QuestionRefused(node.text, "is a column of rows; aggregate it, as in AVG(…)")
        raise QuestionRefused(
            node.text, "aggregates are combined with + - * / and with numbers, and in no other way"
        )

    def _aggregate(self, call: Call) -> Value:
        name = call.function
        if call.distinct and name != "COUNT":
            raise QuestionRefused(call.text, "DISTINCT goes with COUNT(DISTINCT key) alone")
        call = self._filtered(call)
        if name in ("COUNT", "APPROX_COUNT_DISTINCT"):
            return Released(self._count(call), 0)
        if name == "LINEAR_REGRESSION":
            raise QuestionRefused(
                call.text,
                "stands alone in SELECT; inside a calculation write LINREG_COEF(1, y, x1, …), "
                "LINREG_INTERCEPT(y, x1, …), LINREG_R2 or LINREG_COUNT",
            )
        if name in _SIMPLE:
            return Released(self._simple(call, _SIMPLE[name]), 0)
        if name == "VAR_POP":
            spread = self._simple(call, Function.VARIANCE)
            return _of_all(spread, self._simple(call, Function.COUNT))
        if name in _QUANTILES:
            return Released(self._quantile(call), 0)
        if name in ("CORR", "COVAR_SAMP", "COVAR_POP", "REGR_COUNT"):
            return self._of_two(call)
        return self._regression_part(call)

    def _filtered(self, call: Call) -> Call:
        """FILTER (WHERE c) as CASE WHEN c THEN … END."""
        if call.only is None:
            return call
        if call.distinct or call.function not in ("COUNT", "VAR_POP", *_SIMPLE, *_QUANTILES):
            raise QuestionRefused(call.text, "takes no FILTER; put the condition into WHERE")
        first, *rest = call.arguments or (Star("*"),)
        if isinstance(first, Star):
            first = Figure("1", 1, 0)
        value = Branches(call.text, ((call.only, first),), None)
        return replace(call, arguments=(value, *rest), only=None)

    def _count(self, call: Call) -> int:
        if len(call.arguments) != 1:
            raise QuestionRefused(call.text, "write COUNT(*) or COUNT(column)")
        (node,) = call.arguments
        key = self._scope.key_side(node)
        people = call.distinct or call.function == "APPROX_COUNT_DISTINCT"
        if people:
            if key is None:
                raise QuestionRefused(
                    call.text,
                    "only people are counted distinctly: COUNT(DISTINCT key) with the join key; "
                    "for the values of a column, group by it",
                )
            if self._union:
                raise QuestionRefused(
                    call.text,
                    "would count a person of both holders once, which needs their keys matched; "
                    "COUNT(*) counts the rows of both",
                )
            if call.function == "APPROX_COUNT_DISTINCT" and not self._noisy:
                raise QuestionRefused(
                    call.text, "is a count with noise: give `epsilon`, or write COUNT(DISTINCT …)"
                )
        if self._keep_left and key == 1:
            return self._statistic(Function.COUNT, (Argument(1, ONE),))  # rows with a match
        if people:
            return self._statistic(Function.COUNT, (), distinct=True)
        if key is not None or isinstance(node, Star | Figure):
            return self._statistic(Function.COUNT, ())
        column = self._scope.plain_column(node)
        if column is not None and column.low is None:  # it has no range, but it can be present
            side, value = self._scope.column(node)  # type: ignore[arg-type]  # it is a Name
            present = Case((When(Present(value), ONE),), None)
            return self._statistic(Function.COUNT, (Argument(side, present),))
        return self._simple(call, Function.COUNT)

    def _simple(self, call: Call, function: Function) -> int:
        if len(call.arguments) != 1 or isinstance(call.arguments[0], Star):
            raise QuestionRefused(call.text, f"write {call.function}(column)")
        (node,) = call.arguments
        if function in (Function.MIN, Function.MAX):
            return self._statistic(function, (self._argument(node)[0],))
        return self._statistic(function, self._product(call, node, function))

    def _argument(self, node: Node) -> tuple[Argument, Shape]:
        """A number of one table."""
        if isinstance(node, Star):
            raise QuestionRefused(node.text, "stands in COUNT(*) only")
        sides = self._scope.sides_of(node)
        if len(sides) > 1:
            raise QuestionRefused(node.text, "reads both tables; here one table's number stands")
        side = min(sides, default=0)
        value, shape = self._scope.checked_number(node, self._group_products(side))
        return Argument(side, value), shape

    def _product(self, call: Call, node: Node, function: Function) -> tuple[Argument, ...]:
        """A number of one table, or a product of one of each."""
        if len(self._scope.sides_of(node)) <= 1:
            return (self._argument(node)[0],)
        factors = self._factors(call, node, zero=function is Function.SUM)
        for side, factor in factors.items():
            typed_at(node, factor, self._products[side])
        return tuple(Argument(side, factors[side]) for side in sorted(factors))

    def _factors(self, call: Call, node: Node, *, zero: bool) -> dict[int, Expression]:
        """The factor of each table. zero: whether ELSE 0 adds as little as no ELSE does."""
        sides = self._scope.sides_of(node)
        if len(sides) <= 1:
            return {min(sides, default=0): self._scope.value(node)}
        if isinstance(node, Infix) and node.sign == "*":
            found = self._factors(call, node.left, zero=zero)
            for side, factor in self._factors(call, node.right, zero=zero).items():
                own = found.get(side)
                multiplied = Arithmetic(Operation.MULTIPLY, own, factor) if own else factor
                found[side] = multiplied
            return found
        if isinstance(node, Branches) and len(node.whens) == 1:
            nothing = node.otherwise is None or (
                zero and isinstance(node.otherwise, Figure) and node.otherwise.value == 0
            )
            if nothing:
                return self._split_case(call, node, zero=zero)
        raise QuestionRefused(
            node.text,
            f"{call.function} over both tables takes a product of one expression each, as in "
            "SUM(a.x * b.y), or one CASE WHEN … THEN … END; for sums write SUM(a.x) + SUM(b.y)",
        )

    def _split_case(self, call: Call, node: Branches, *, zero: bool) -> dict[int, Expression]:
        """CASE WHEN a.p AND b.q THEN a.x * b.y END is the product of one CASE of each table."""
        ((root, value),) = node.whens
        conditions: dict[int, list[Condition]] = {}
        for part in chain(root, "and"):
            sides = self._scope.sides_of(part)
            if len(sides) != 1:
                raise QuestionRefused(
                    part.text,
                    "in CASE, each condition reads one table; comparisons across go into WHERE",
                )
            (side,) = sides
            found = self._scope.checked_condition(part, [self._products[side]])
            conditions.setdefault(side, []).append(found)
        factors = self._factors(call, value, zero=zero)
        return {
            side: Case((When(balanced(conditions[side], Both), factors.get(side, ONE)),), None)
            if side in conditions
            else factors[side]
            for side in sorted({*conditions, *factors})
        }

    def _quantile(self, call: Call) -> int:
        usage = f"write {call.function}(column, 0.9) or {call.function}(column, 0.9, steps)"
        node, *rest = call.arguments or (Star("*"),)
        if call.function == "MEDIAN":
            usage = "write MEDIAN(column) or MEDIAN(column, steps)"
            share = Fraction(1, 2)
        elif rest:
            share, rest = _exact(call, rest[0]), rest[1:]
        else:
            raise QuestionRefused(call.text, usage)
        if not 0 < share < 1:
            raise QuestionRefused(call.text, "the share must lie between 0 and 1")
        argument, shape = self._argument(node)
        if call.function == "QUANTILE_CUTS":
            cuts = tuple(_units(call, _exact(call, part), shape) for part in rest)
        elif len(rest) <= 1:
            steps = _exact(call, rest[0]) if rest else Fraction(QUANTILE_STEPS)
            if steps.denominator != 1 or not 1 <= steps <= MAX_STEPS:
                raise QuestionRefused(call.text, f"steps are 1 to {MAX_STEPS}")
            cuts = equal_steps(shape, int(steps))
        else:
            raise QuestionRefused(call.text, usage)
        return self._statistic(Function.QUANTILE, (argument,), share=share, cuts=cuts)

    def _of_two(self, call: Call) -> Value:
        if len(call.arguments) != 2:
            raise QuestionRefused(call.text, f"write {call.function}(y, x)")
        arguments = tuple(self._argument(node)[0] for node in call.arguments)
        if call.function == "CORR":
            return Released(self._statistic(Function.CORRELATION, arguments), 0)
        if call.function == "REGR_COUNT":
            return Released(self._statistic(Function.COUNT, arguments), 0)
        spread = self._statistic(Function.COVARIANCE, arguments)
        if call.function == "COVAR_SAMP":
            return Released(spread, 0)
        return _of_all(spread, self._statistic(Function.COUNT, arguments))

    def _regression_part(self, call: Call) -> Value:
        if call.function == "LINREG_COEF":
            number, *rest = call.arguments or (Star("*"),)
            part = _exact(call, number)
            if part.denominator != 1 or not 0 <= part < len(rest):
                raise QuestionRefused(
                    call.text, "write LINREG_COEF(i, y, x1, …) with i from 0, the intercept"
                )
            call = replace(call, arguments=tuple(rest))
            return Released(self._regression(call), int(part))
        if call.function.startswith("REGR_") and len(call.arguments) != 2:
            raise QuestionRefused(call.text, f"write {call.function}(y, x)")
        return Released(self._regression(call), _REGRESSIONS[call.function])

    def _regression(self, call: Call) -> int:
        if not 2 <= len(call.arguments) <= 8:
            raise QuestionRefused(call.text, "takes y and 1 to 7 explaining columns")
        arguments = tuple(self._argument(node)[0] for node in call.arguments)
        return self._statistic(Function.REGRESSION, arguments)

    def _statistic(
        self,
        function: Function,
        arguments: tuple[Argument, ...],
        *,
        distinct: bool = False,
        share: Fraction | None = None,
        cuts: tuple[int, ...] | None = None,
    ) -> int:
        """Its place; what is asked for twice is computed once."""
        with _placed(str(function.value)):
            found = Statistic(function, arguments, distinct, share, cuts)
        if found not in self._statistics:
            self._statistics.append(found)
        return self._statistics.index(found)


# Public domains


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


def _exact(node: Node, part: Node) -> Fraction:
    if not isinstance(part, Figure):
        raise QuestionRefused(node.text, f"{part.text} must be a number written out")
    return Fraction(part.value, 10**part.decimals)


def _units(node: Node, number: Fraction, shape: Shape) -> int:
    found = number * 10**shape.decimals
    if found.denominator != 1:
        raise QuestionRefused(node.text, f"its cuts have at most {shape.decimals} decimals")
    return int(found)


# Pieces


def _derived(branch: Branch, scope: Scope) -> dict[str, Expression]:
    """What the columns of one SELECT of a UNION ALL stand for."""
    product = scope.sides[0].product
    if branch.items is None:
        return {column.name: ColumnValue(column.name) for column in product.columns}
    found: dict[str, Expression] = {}
    for item in branch.items:
        own = item.value.column if isinstance(item.value, Name) else f"column_{len(found) + 1}"
        name = item.alias or own
        if name in found:
            raise QuestionRefused(branch.text, f"names {name} twice")
        if _is_aggregate(item.value):
            raise QuestionRefused(item.value.text, "aggregate outside the UNION ALL, over its rows")
        is_key = scope.key_side(item.value) is not None
        found[name] = ColumnValue(product.key) if is_key else scope.value(item.value)
    return found


def _require_rows(table: Table, product: DataProduct) -> None:
    if product.model is not None:
        raise QuestionRefused(table.text, f"{product.name} is a model; ask for a score instead")


def _require_two_holders(text: str, products: Sequence[DataProduct]) -> None:
    if len({product.holder for product in products}) != len(products):
        raise QuestionRefused(text, "both tables are of one holder; ask it for one product of both")


def _is_aggregate(node: Node) -> bool:
    return any(
        isinstance(part, Call) and (part.function in AGGREGATES or part.function in _ELSEWHERE)
        for part in nodes(node)
    )


def _conditions(node: Node) -> Node:
    """All conditions of a CASE as one, to check them where they stand."""
    if not isinstance(node, Branches):
        return node
    first, *rest = [condition for condition, _ in node.whens]
    for other in rest:
        first = Infix(node.text, "or", first, other)
    return first


def _addends(node: Node, *, plus: bool) -> list[tuple[Node, bool]]:
    """A sum as its parts, each with whether it is added."""
    if isinstance(node, Infix) and node.sign in ("+", "-"):
        right = plus if node.sign == "+" else not plus
        return _addends(node.left, plus=plus) + _addends(node.right, plus=right)
    return [(node, plus)]


def _in_units(node: Node, value: Expression, shape: Shape, decimals: int) -> Expression:
    """The same number with more decimals: x + 0.00."""
    if shape.decimals == decimals:
        return value
    with at(node):
        scaled(shape, decimals, where=node.text)
    return Arithmetic(Operation.ADD, value, Number(0, decimals))


def _of_all(spread: int, count: int) -> Value:
    """A sample variance or covariance as that of a whole population: times (n - 1) / n."""
    people = Released(count, 0)
    fewer = Calculated(Calculation.SUBTRACT, people, ONE)
    scaled_up = Calculated(Calculation.MULTIPLY, Released(spread, 0), fewer)
    return Calculated(Calculation.DIVIDE, scaled_up, people)


def _printable(name: str) -> str:
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise QuestionRefused(f"AS {name[:60]!r}", "names are 1 to 60 printable characters")
    return name


def _default_name(node: Node, number: int) -> str:
    """count, avg_bmi, corr_bmi_s5; column_3 for a calculation."""
    if not isinstance(node, Call):
        return f"column_{number}"
    read = [part.column for a in node.arguments for part in nodes(a) if isinstance(part, Name)]
    name = "_".join([node.function.lower(), *dict.fromkeys(read)])
    return name if len(name) <= 50 and name.isprintable() else f"column_{number}"


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """What a plan could not hold is wrong with this fragment."""
    try:
        yield
    except Malformed as error:
        raise QuestionRefused(place, f"{error.where} {error.problem}") from None
