"""From SQL as it was read to the parts of a query: what each table contributes, and what is
released.

Conditions and projections go to the table that they read; what reads several tables is a
comparison of two, row by row, or a product of one factor each, and nothing else. Every refusal
names the fragment, the reason and what to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crypto.identifiers import ProductId
from crypto.joins.layout import Order
from exchange.errors import QuestionRefused
from exchange.query.aggregates import Aggregates, is_aggregate
from exchange.query.domains import Key, key_of
from exchange.query.plan import LEFT_OF_THREE, MAX_SIDES, CrossCondition, GroupBy, Statistic
from exchange.query.released import Having, Output, Released, Value
from exchange.query.scope import (
    COMPARATORS,
    Scope,
    Side,
    Tables,
    at,
    balanced,
    chain,
    nodes,
    placed,
    product_of,
    typed_at,
)
from exchange.query.sql import (
    Branch,
    Call,
    Figure,
    Infix,
    Inverse,
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
    ColumnValue,
    Condition,
    Expression,
    Number,
    Operation,
    Shape,
    scaled,
)
from registry.product import DataProduct

_SECOND_KEY: Final = (
    "tables are joined on one same key: the second key would need a PRF on shares, which is not "
    "built"
)
_NEGATED: Final[Mapping[str, str]] = {
    "=": "!=",
    "!=": "=",
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
}


_MIRRORED: Final[Mapping[str, str]] = {
    "=": "=",
    "!=": "!=",
    "<": ">",
    "<=": ">=",
    ">": "<",
    ">=": "<=",
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
    names: Mapping[str, ProductId],
    products: Mapping[ProductId, DataProduct],
    *,
    noisy: bool,
) -> Bound:
    """What a question asks of these products. Raises QuestionRefused.

    names: what the question calls its tables. noisy: whether noise is asked for.
    """
    filters = _Filters(MAX_SIDES)
    if isinstance(select.source, Union):
        tables = _united(select.source, names, products, filters)
    else:
        tables = _joined(select.source, select.joins, names, products, filters)
    if select.where is not None:
        _filter(tables, select.where, filters)
    aggregates = Aggregates(tables, noisy=noisy)
    groups, outputs = _shown(tables, select, aggregates)
    named = {output.name: output.value for output in outputs}
    having = () if select.having is None else chain(select.having, "and")
    return Bound(
        products=tables.products,
        union=tables.union,
        keep_left=tables.keep_left,
        where=tuple(filters.of(side) for side in range(len(tables.products))),
        group_by=groups,
        comparisons=tuple(filters.comparisons),
        # Before the statistics: HAVING may ask for some of its own.
        having=tuple(_having(aggregates, node, named) for node in having),
        statistics=tuple(aggregates.statistics),
        outputs=outputs,
    )


class _Filters:
    """Conditions as they are found: those of one table, and those across."""

    def __init__(self, tables: int) -> None:
        self._where: tuple[list[Condition], ...] = tuple([] for _ in range(tables))
        self.comparisons: list[CrossCondition] = []

    def add(self, side: int, condition: Condition) -> None:
        self._where[side].extend(_conjuncts(condition))

    def of(self, side: int) -> Condition | None:
        found = self._where[side]
        return balanced(found, Both) if found else None


# FROM


def _joined(
    first: Table,
    joins: Sequence[JoinClause],
    names: Mapping[str, ProductId],
    listed: Mapping[ProductId, DataProduct],
    filters: _Filters,
) -> Tables:
    found = (first, *(join.table for join in joins))
    products = tuple(product_of(table, names, listed) for table in found)
    for table, product in zip(found, products, strict=True):
        _require_rows(table, product)
    for join in joins:
        if len(joins) > 1 and join.keep_left:
            raise QuestionRefused(join.text, f"a LEFT JOIN {LEFT_OF_THREE}; write JOIN")
    scope = Scope([Side(t.alias, p) for t, p in zip(found, products, strict=True)])
    tables = Tables(products, scope, False, any(join.keep_left for join in joins))
    for place, join in enumerate(joins, 1):
        earlier = [table.alias.lower() for table in found[:place]]
        if join.table.alias.lower() in earlier:
            which = "both tables have" if len(found) == 2 else "two tables have"
            raise QuestionRefused(join.text, f"{which} one name; write AS a and AS b")
        _require_two_holders(join.text, products[: place + 1])
        _on(tables, place, join, filters)
    return tables


def _on(tables: Tables, place: int, join: JoinClause, filters: _Filters) -> None:
    """place: of the table that this clause adds. Its key is that of each table before it."""
    known = tables.scope.sides[: place + 1]
    keys = [f"{side.alias}.{side.product.key}" for side in known]
    advice = f"tables are joined on their keys: ON {keys[0]} = {keys[-1]}"
    if tables.keep_left and tables.products[1].contribution > 1:
        raise QuestionRefused(
            join.text,
            f"{tables.products[1].name} has several rows for a person; a LEFT JOIN needs one",
        )
    if join.on is None:
        column = (join.using or "").lower()
        if any(column != side.product.key.lower() for side in known):
            raise QuestionRefused(join.text, _SECOND_KEY if place > 1 else advice)
        return
    parts = chain(join.on, "and")
    for node in parts:
        later = [side for side in tables.scope.sides_of(node) if side > place]
        if later:
            alias = tables.scope.sides[later[0]].alias
            raise QuestionRefused(node.text, f"{alias} is joined later; put this into WHERE")
    conditions = [node for node in parts if not _joins_keys(tables, node, place)]
    if len(conditions) == len(parts):
        chained = place > 1 and any(_equates(tables, node, place) for node in parts)
        raise QuestionRefused(join.text, f"{_SECOND_KEY}; {advice}" if chained else advice)
    for node in conditions:
        if tables.keep_left and tables.scope.sides_of(node) != {1}:
            raise QuestionRefused(
                node.text,
                f"ON of a LEFT JOIN holds the keys and conditions on {join.table.alias} alone; "
                "conditions on the left table go into WHERE",
            )
        if not _joins_keys(tables, node):
            _condition(tables, node, filters)


def _joins_keys(tables: Tables, node: Node, place: int | None = None) -> bool:
    """Whether it equates the keys of two tables. place: and one of them is this one."""
    if not isinstance(node, Infix) or node.sign != "=":
        return False
    sides = {tables.scope.key_side(part) for part in (node.left, node.right)}
    return len(sides) == 2 and None not in sides and (place is None or place in sides)


def _equates(tables: Tables, node: Node, place: int) -> bool:
    """Whether it equates a column of this table with one of another."""
    if not isinstance(node, Infix) or node.sign != "=":
        return False
    sides = [tables.scope.sides_of(part) for part in (node.left, node.right)]
    return all(len(side) == 1 for side in sides) and {place} in sides and sides[0] != sides[1]


def _united(
    union: Union,
    names: Mapping[str, ProductId],
    listed: Mapping[ProductId, DataProduct],
    filters: _Filters,
) -> Tables:
    products, columns = [], []
    for index, branch in enumerate(union.branches):
        product = product_of(branch.table, names, listed)
        _require_rows(branch.table, product)
        products.append(product)
        scope = Scope([Side(branch.table.alias, product)])
        columns.append(_derived(branch, scope))
        if branch.where is not None:
            filters.add(index, scope.checked_condition(branch.where, [product]))
    text = union.branches[1].text
    _require_two_holders(text, products)
    first, second = columns
    if len(first) != len(second):
        raise QuestionRefused(text, "both SELECTs of a UNION ALL list as many columns")
    keys = {ColumnValue(product.key) for product in products}
    for (name, value), other in zip(first.items(), second.values(), strict=True):
        if value != other and {value, other} != keys:
            raise QuestionRefused(
                text,
                f"{name} must be the same expression, over columns of the same name, in both "
                "SELECTs of a UNION ALL",
            )
    scope = Scope([Side(union.alias, products[0])], derived=first)
    return Tables(tuple(products), scope, True, False)


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
        if is_aggregate(item.value):
            raise QuestionRefused(item.value.text, "aggregate outside the UNION ALL, over its rows")
        is_key = scope.key_side(item.value) is not None
        found[name] = ColumnValue(product.key) if is_key else scope.value(item.value)
    return found


def _require_rows(table: Table, product: DataProduct) -> None:
    if product.model is not None:
        raise QuestionRefused(table.text, f"{product.name} is a model; ask for a score instead")


def _require_two_holders(text: str, products: Sequence[DataProduct]) -> None:
    if len({product.holder for product in products}) != len(products):
        which = "both" if len(products) == 2 else "two"
        raise QuestionRefused(
            text, f"{which} tables are of one holder; ask it for one product of both"
        )


# WHERE


def _filter(tables: Tables, root: Node, filters: _Filters) -> None:
    for node in chain(root, "and"):
        if tables.keep_left and 1 in tables.scope.sides_of(node):
            raise QuestionRefused(
                node.text,
                "WHERE on the right table of a LEFT JOIN would drop the rows without a match: put "
                f"it into ON (… AND {node.text}), or write JOIN if only rows with a match count",
            )
        _condition(tables, node, filters)


def _condition(tables: Tables, node: Node, filters: _Filters) -> None:
    """Push a condition down to its table, or compare across tables."""
    sides = tables.scope.sides_of(node)
    if is_aggregate(node):
        raise QuestionRefused(node.text, "is about aggregates; put it into HAVING")
    if not sides:
        raise QuestionRefused(node.text, "reads no column; leave it out")
    if tables.union:
        found = tables.scope.checked_condition(node, tables.products)
        for side in range(len(tables.products)):
            filters.add(side, found)
    elif len(sides) == 1:
        (side,) = sides
        filters.add(side, tables.scope.checked_condition(node, tables.behind(side)))
    else:
        filters.comparisons.append(_compared(tables, node))


def _conjuncts(condition: Condition) -> list[Condition]:
    if isinstance(condition, Both):
        return _conjuncts(condition.left) + _conjuncts(condition.right)
    return [condition]


def _compared(tables: Tables, node: Node) -> CrossCondition:
    """left order right, with what each table adds on its own side of the comparison."""
    inner, negated = node, False
    while isinstance(inner, Inverse):
        inner, negated = inner.inner, not negated
    if not isinstance(inner, Infix) or inner.sign not in COMPARATORS:
        raise QuestionRefused(
            node.text,
            f"conditions on {tables.several} are comparisons such as a.x < b.y, held together by "
            "AND",
        )
    if {tables.scope.key_side(part) for part in (inner.left, inner.right)} != {None}:
        raise QuestionRefused(node.text, "keys are compared in JOIN … ON alone")
    sign = _NEGATED[inner.sign] if negated else inner.sign
    first, second = _compared_tables(tables, node)
    left, right = tables.scope.sides_of(inner.left), tables.scope.sides_of(inner.right)
    if left == {second} and right == {first}:
        inner, sign = Infix(inner.text, sign, inner.right, inner.left), _MIRRORED[sign]
    if {*left, *right} == {first, second} and len(left) == len(right) == 1:
        sums = [tables.scope.value(part) for part in (inner.left, inner.right)]
    else:
        sums = _rearranged(tables, inner, second)
    shapes = [
        typed_at(node, value, tables.products[side])
        for side, value in zip((first, second), sums, strict=True)
    ]
    if any(shape.text for shape in shapes):
        raise QuestionRefused(node.text, "compares text of two tables; only numbers can be")
    decimals = max(shape.decimals for shape in shapes)
    own, other = (
        _in_units(node, value, shape, decimals) for value, shape in zip(sums, shapes, strict=True)
    )
    return CrossCondition(own, Order(sign), other, second)


def _compared_tables(tables: Tables, node: Node) -> tuple[int, int]:
    """The first table and the one that it is compared with. The second and third meet as one side
    of the computation, where rows are not compared with each other."""
    first, *others = sorted(tables.scope.sides_of(node))
    if len(others) > 1:
        raise QuestionRefused(node.text, "reads three tables; a condition compares two of them")
    if first != 0:
        alias = tables.scope.sides[0].alias
        raise QuestionRefused(
            node.text,
            f"only columns of {alias}, the first table, are compared with those of another; name "
            "one of these two tables first in FROM",
        )
    return first, others[0]


def _rearranged(tables: Tables, comparison: Infix, second: int) -> list[Expression]:
    """a.x - b.y > 5 as a.x > 5 + b.y: what each table adds, on its own side. second: that is
    compared with the first."""
    found: tuple[list[Expression], list[Expression]] = ([], [])
    taken: tuple[list[Expression], list[Expression]] = ([], [])
    addends = [*_addends(comparison.left, plus=True), *_addends(comparison.right, plus=False)]
    for part, plus in addends:
        sides = tables.scope.sides_of(part)
        if len(sides) > 1:
            raise QuestionRefused(
                part.text,
                "mixes both tables; compare an expression of one with an expression of the other, "
                "as in a.x + 1 < b.y * 2",
            )
        side = int(sides == {second} or not sides)
        stays = plus if side == 0 else not plus
        (found if stays else taken)[side].append(tables.scope.value(part))
    sums = []
    for plus_parts, minus_parts in zip(found, taken, strict=True):
        total: Expression = _added(plus_parts) if plus_parts else Number(0, 0)
        if minus_parts:
            total = Arithmetic(Operation.SUBTRACT, total, _added(minus_parts))
        sums.append(total)
    return sums


def _addends(node: Node, *, plus: bool) -> list[tuple[Node, bool]]:
    """A sum as its parts, each with whether it is added."""
    if isinstance(node, Infix) and node.sign in ("+", "-"):
        right = plus if node.sign == "+" else not plus
        return _addends(node.left, plus=plus) + _addends(node.right, plus=right)
    return [(node, plus)]


def _added(parts: Sequence[Expression]) -> Expression:
    flat = [part for whole in parts for part in _summands(whole)]
    return balanced(flat, lambda a, b: Arithmetic(Operation.ADD, a, b))


def _summands(value: Expression) -> list[Expression]:
    if isinstance(value, Arithmetic) and value.operation is Operation.ADD:
        return _summands(value.left) + _summands(value.right)
    return [value]


def _in_units(node: Node, value: Expression, shape: Shape, decimals: int) -> Expression:
    """The same number with more decimals: x + 0.00."""
    if shape.decimals == decimals:
        return value
    with at(node):
        scaled(shape, decimals, where=node.text)
    return _added([value, Number(0, decimals)])


# SELECT, GROUP BY, HAVING


def _shown(
    tables: Tables, select: Select, aggregates: Aggregates
) -> tuple[tuple[tuple[GroupBy, ...], ...], tuple[Output, ...]]:
    """The group keys of each table, and the columns beside them."""
    keys: dict[Key, str | None] = {}
    for node in select.group_by:
        meant = _meant(node, select.items)
        if is_aggregate(meant):
            raise QuestionRefused(meant.text, "is an aggregate; group by columns of rows")
        keys.setdefault(key_of(tables, meant), None)
    outputs: list[Output] = []
    for number, item in enumerate(select.items, 1):
        if is_aggregate(item.value):
            _add_outputs(tables, item, number, aggregates, outputs)
        else:
            key = _shown_key(tables, item.value, keys)
            if item.alias is not None:
                keys[key] = _printable(item.alias)
    if not outputs:
        raise QuestionRefused("SELECT", "holds no aggregate; add one such as COUNT(*)")
    groups: list[list[GroupBy]] = [[] for _ in tables.products]
    for number, (key, alias) in enumerate(keys.items(), 1):
        with placed("GROUP BY"):
            group = key.named(alias, number)
        for side in (0, 1) if tables.union else (key.side,):
            groups[side].append(group)
    return tuple(map(tuple, groups)), tuple(outputs)


def _meant(node: Node, items: Sequence[Item]) -> Node:
    """GROUP BY 1, and GROUP BY an alias of SELECT."""
    if isinstance(node, Figure):
        if node.decimals or not 1 <= node.value <= len(items):
            raise QuestionRefused(node.text, f"counts the columns of SELECT: 1 to {len(items)}")
        return items[node.value - 1].value
    if isinstance(node, Name) and node.table is None:
        for item in items:
            if item.alias is not None and item.alias.lower() == node.column.lower():
                return item.value
    return node


def _shown_key(tables: Tables, node: Node, keys: Mapping[Key, str | None]) -> Key:
    if isinstance(node, Star):
        raise QuestionRefused(node.text, "rows are never shown; name aggregates and groups")
    if not keys and isinstance(node, Name):
        tables.scope.column(node)
        raise QuestionRefused(
            node.text,
            f"rows are never shown: group by it, or aggregate it as in AVG({node.text})",
        )
    key = key_of(tables, node)
    if key not in keys:
        raise QuestionRefused(node.text, "is neither an aggregate nor in GROUP BY")
    return key


def _add_outputs(
    tables: Tables, item: Item, number: int, aggregates: Aggregates, outputs: list[Output]
) -> None:
    node = item.value
    alias = None if item.alias is None else _printable(item.alias)
    if isinstance(node, Call) and node.function == "LINEAR_REGRESSION":
        found = _regression(tables, node, alias or "regression", aggregates)
    else:
        found = {alias or _default_name(node, number): aggregates.released(node, {})}
    for name, value in found.items():
        taken = {output.name for output in outputs}
        if name == alias and name in taken:
            raise QuestionRefused(f"AS {name}", "names two columns of the answer")
        free, count = name, 1
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        with placed(f"AS {free}"):
            outputs.append(Output(free, value))


def _regression(
    tables: Tables, node: Call, start: str, aggregates: Aggregates
) -> Mapping[str, Value]:
    """All numbers of LINEAR_REGRESSION(y, x1, …): intercept, coefficients, R squared, rows."""
    index = aggregates.regression(node)
    names = ["intercept"]
    for number, part in enumerate(node.arguments[1:], 1):
        column = tables.scope.plain_column(part)
        name = f"x{number}" if column is None else column.name
        names.append(f"x{number}" if name in (*names, "r2", "count") else name)
    parts = [*range(len(names)), -1, -2]
    return {
        f"{start}_{name}": Released(index, part)
        for name, part in zip([*names, "r2", "count"], parts, strict=True)
    }


def _having(aggregates: Aggregates, node: Node, named: Mapping[str, Value]) -> Having:
    if not isinstance(node, Infix) or node.sign not in COMPARATORS:
        raise QuestionRefused(
            node.text,
            "HAVING holds comparisons of aggregates with AND between them, as in "
            "HAVING COUNT(*) >= 20 AND AVG(x) > 3",
        )
    left, right = aggregates.released(node.left, named), aggregates.released(node.right, named)
    return Having(left, COMPARATORS[node.sign], right)


def _printable(name: str) -> str:
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise QuestionRefused(f"AS {name[:60]!r}", "names are 1 to 60 printable characters")
    return name


def _default_name(node: Node, number: int) -> str:
    """count, avg_bmi, corr_bmi_s5; column_3 for a calculation."""
    if not isinstance(node, Call):
        return f"column_{number}"
    read = [
        part.column
        for argument in node.arguments
        for part in nodes(argument)
        if isinstance(part, Name)
    ]
    name = "_".join([node.function.lower(), *dict.fromkeys(read)])
    return name if len(name) <= 50 and name.isprintable() else f"column_{number}"
