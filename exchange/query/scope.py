"""What names in a question stand for, and expressions over the columns of one row.

Tables are found by the alias that the question defines, by product id, or by `slug`. Everything
here is about one row at home; aggregates and groups are `exchange.query.binding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeVar

from crypto.errors import Malformed
from crypto.identifiers import ProductId
from exchange.errors import QuestionRefused
from exchange.query.sql import (
    Branches,
    Call,
    Figure,
    In,
    Infix,
    Inverse,
    IsNull,
    Name,
    Node,
    Quote,
    Star,
    Table,
)
from registry.errors import DocumentRefused
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
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
    When,
    require_condition,
    typed,
)
from registry.product import Column, ColumnType, DataProduct

T = TypeVar("T")

COMPARATORS: Final[Mapping[str, Comparator]] = {sign.value: sign for sign in Comparator}
_ARITHMETIC: Final[Mapping[str, Operation]] = {
    "+": Operation.ADD,
    "-": Operation.SUBTRACT,
    "*": Operation.MULTIPLY,
}
ROW_FUNCTIONS: Final = ("ABS", "CLAMP", "COALESCE", "GREATEST", "LEAST", "NULLIF")


def slug(name: str) -> str:
    """The name by which a product can be called in FROM: lower case, with one underscore for each
    run of anything but letters and digits. Empty for a name that has none of these."""
    words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
    return "_".join(words)


@dataclass(frozen=True)
class Side:
    """alias: how columns of the product are called in the question."""

    alias: str
    product: DataProduct


def product_of(
    table: Table, tables: Mapping[str, ProductId], products: Mapping[ProductId, DataProduct]
) -> DataProduct:
    """The product that a name in FROM stands for. Raises QuestionRefused."""
    if table.name in tables:
        if tables[table.name] not in products:
            raise QuestionRefused(
                f"tables.{table.name}", f"no agreement of this deal covers {tables[table.name]}"
            )
        return products[tables[table.name]]
    found = [
        product
        for number, product in products.items()
        if table.name == str(number) or table.name.lower() == slug(product.name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise QuestionRefused(
            table.text, f"{table.name} could be {len(found)} products; name it in `tables`"
        )
    known = sorted({*tables, *filter(None, (slug(p.name) for p in products.values()))})
    raise QuestionRefused(
        table.text,
        f"there is no table {table.name}; the agreements of this deal cover {', '.join(known)}",
    )


class Scope:
    """The tables that one part of a question can name.

    derived: of a UNION ALL: what its columns stand for; None: the columns of the tables themselves
    """

    def __init__(
        self, sides: Sequence[Side], *, derived: Mapping[str, Expression] | None = None
    ) -> None:
        self.sides = tuple(sides)
        self._derived = derived

    def sides_of(self, node: Node) -> frozenset[int]:
        """Which tables an expression reads."""
        return frozenset(self.column(part)[0] for part in nodes(node) if isinstance(part, Name))

    def column(self, name: Name) -> tuple[int, Expression]:
        """The table that a name belongs to, and what it stands for there."""
        found = []
        for index, side in enumerate(self.sides):
            if name.table is not None and name.table.lower() != side.alias.lower():
                continue
            value = self._named(name.column, side)
            if value is not None:
                found.append((index, value))
        if len(found) == 1:
            return found[0]
        if found:
            which = "both" if len(found) == len(self.sides) == 2 else "several"
            named = " or ".join(f"{self.sides[index].alias}.{name.column}" for index, _ in found)
            raise QuestionRefused(name.text, f"{which} tables have this column; write {named}")
        aliases = [side.alias for side in self.sides]
        if name.table is not None and name.table.lower() not in {a.lower() for a in aliases}:
            raise QuestionRefused(
                name.text, f"there is no table {name.table} in FROM; it has {', '.join(aliases)}"
            )
        offered = [
            f"{side.alias} has {', '.join(self._columns(side))}"
            for side in self.sides
            if name.table is None or name.table.lower() == side.alias.lower()
        ]
        raise QuestionRefused(name.text, f"there is no such column; {'; '.join(offered)}")

    def key_side(self, node: Node) -> int | None:
        """The table whose key a node names, if it names one."""
        if not isinstance(node, Name):
            return None
        index, value = self.column(node)
        return index if value == ColumnValue(self.sides[index].product.key) else None

    def plain_column(self, node: Node) -> Column | None:
        """The column that a node names, if it is one and nothing else."""
        if not isinstance(node, Name):
            return None
        index, value = self.column(node)
        if not isinstance(value, ColumnValue):
            return None
        return self.sides[index].product.column(value.column)

    # Expressions of a row

    def value(self, node: Node) -> Expression:
        """Over the columns of one table. Raises QuestionRefused."""
        if isinstance(node, Name):
            if self.key_side(node) is not None:
                raise QuestionRefused(
                    node.text,
                    "is the join key, which is only for JOIN … ON and for COUNT(DISTINCT key)",
                )
            return self.column(node)[1]
        if isinstance(node, Figure):
            return number(node)
        if isinstance(node, Quote):
            if not node.content.isprintable():
                raise QuestionRefused(node.text, "holds a character that cannot be printed")
            return Text(node.content)
        if isinstance(node, Branches):
            whens = tuple(When(self.condition(c), self.value(v)) for c, v in node.whens)
            return Case(whens, None if node.otherwise is None else self.value(node.otherwise))
        if isinstance(node, Call):
            return self._call(node)
        if isinstance(node, Infix) and node.sign in _ARITHMETIC:
            if node.sign == "+":
                addends = [self.value(part) for part in chain(node, "+")]
                return balanced(addends, lambda a, b: Arithmetic(Operation.ADD, a, b))
            left, right = self.value(node.left), self.value(node.right)
            return Arithmetic(_ARITHMETIC[node.sign], left, right)
        if isinstance(node, Infix) and node.sign == "/":
            raise QuestionRefused(
                node.text,
                "rows are not divided, since exact integers cannot be: multiply by a decimal such "
                "as 0.25, or divide aggregates, as in SUM(x) / COUNT(*)",
            )
        if isinstance(node, Star):
            raise QuestionRefused(node.text, "stands in COUNT(*) only")
        raise QuestionRefused(
            node.text, "is a condition; as a number write CASE WHEN … THEN 1 ELSE 0 END"
        )

    def condition(self, node: Node) -> Condition:
        """Over the columns of one table. Raises QuestionRefused."""
        if isinstance(node, Infix) and node.sign in ("and", "or"):
            parts = [self.condition(part) for part in chain(node, node.sign)]
            if node.sign == "and":
                return balanced(parts, Both)
            return balanced(parts, Either)
        if isinstance(node, Infix) and node.sign in COMPARATORS:
            left, right = self.value(node.left), self.value(node.right)
            comparator = COMPARATORS[node.sign]
            ordered = comparator not in (Comparator.EQUAL, Comparator.UNEQUAL)
            if ordered and (self._text(left, node) or self._text(right, node)):
                raise QuestionRefused(node.text, "text has no order here; use =, <> or IN")
            return Compare(comparator, left, right)
        if isinstance(node, In):
            for option in node.options:
                if not isinstance(option, Figure | Quote):
                    raise QuestionRefused(option.text, "write numbers or quoted text after IN")
            return OneOf(self.value(node.inner), tuple(self.value(o) for o in node.options))
        if isinstance(node, IsNull):
            return Not(Present(self.value(node.inner)))
        if isinstance(node, Inverse):
            if isinstance(node.inner, IsNull):
                return Present(self.value(node.inner.inner))
            return Not(self.condition(node.inner))
        raise QuestionRefused(node.text, "is no condition; write a comparison such as x > 0")

    def checked_condition(self, node: Node, products: Sequence[DataProduct]) -> Condition:
        """A condition whose comparisons make sense in each of these products."""
        found = self.condition(node)
        for product in products:
            with at(node):
                require_condition(found, product, where=node.text)
        return found

    def checked_number(
        self, node: Node, products: Sequence[DataProduct]
    ) -> tuple[Expression, Shape]:
        """A numeric expression and bounds that hold in each of these products."""
        found = self.value(node)
        shapes = [typed_at(node, found, product) for product in products]
        if any(shape.text for shape in shapes):
            raise QuestionRefused(node.text, "is text; only numbers are aggregated")
        if len({shape.decimals for shape in shapes}) != 1:
            raise QuestionRefused(node.text, "has different decimals in the two tables")
        low, high = min(s.low for s in shapes), max(s.high for s in shapes)
        return found, Shape(False, shapes[0].decimals, low, high)

    def _call(self, node: Call) -> Expression:
        if node.distinct or node.only is not None:
            raise QuestionRefused(node.text, "DISTINCT and FILTER go with aggregates")
        arguments = [self.value(part) for part in node.arguments] if self._known(node) else []
        if node.function in ("LEAST", "GREATEST") and len(arguments) >= 2:
            operation = Operation(node.function.lower())
            return balanced(arguments, lambda a, b: Arithmetic(operation, a, b))
        if node.function == "ABS" and len(arguments) == 1:
            negated = Arithmetic(Operation.SUBTRACT, Number(0, 0), arguments[0])
            return Arithmetic(Operation.GREATEST, arguments[0], negated)
        if node.function == "CLAMP" and len(arguments) == 3:
            raised = Arithmetic(Operation.GREATEST, arguments[0], arguments[1])
            return Arithmetic(Operation.LEAST, raised, arguments[2])
        if node.function == "COALESCE" and len(arguments) >= 2:
            *firsts, last = arguments
            return Case(tuple(When(Present(first), first) for first in firsts), last)
        if node.function == "NULLIF" and len(arguments) == 2:
            differs = Compare(Comparator.UNEQUAL, arguments[0], arguments[1])
            return Case((When(differs, arguments[0]),), None)
        raise QuestionRefused(node.text, f"{node.function} takes another number of arguments")

    def _known(self, node: Call) -> bool:
        if node.function in ROW_FUNCTIONS:
            return True
        advice = _INSTEAD.get(node.function, _ROWS)
        raise QuestionRefused(node.text, f"{node.function} is not supported here: {advice}")

    def _text(self, value: Expression, node: Node) -> bool:
        if isinstance(value, Case):
            return any(self._text(when.value, node) for when in value.whens)
        if isinstance(value, ColumnValue):
            product = self.sides[min(self.sides_of(node))].product
            return product.column(value.column).type is ColumnType.TEXT
        return isinstance(value, Text)

    def _named(self, name: str, side: Side) -> Expression | None:
        if self._derived is not None:
            return _find(name, self._derived)
        return _find(name, {column: ColumnValue(column) for column in self._columns(side)})

    def _columns(self, side: Side) -> tuple[str, ...]:
        if self._derived is not None:
            return tuple(self._derived)
        return tuple(column.name for column in side.product.columns)


@dataclass(frozen=True)
class Tables:
    """What FROM says. products: in its order; scope: the names that the rest can use.

    union: the rows of both, side by side, as one table; keep_left: LEFT JOIN, of two tables
    """

    products: tuple[DataProduct, ...]
    scope: Scope
    union: bool
    keep_left: bool

    @property
    def several(self) -> str:
        """How to speak of more than one of them."""
        return "both tables" if len(self.products) == 2 else "several tables"

    def behind(self, side: int) -> tuple[DataProduct, ...]:
        """The products whose columns an expression of this table reads."""
        return self.products if self.union else (self.products[side],)


# Walking


def nodes(root: Node) -> Iterator[Node]:
    """The node and everything inside it."""
    yield root
    inner: tuple[Node, ...] = ()
    if isinstance(root, Infix):
        inner = (root.left, root.right)
    elif isinstance(root, Inverse | IsNull):
        inner = (root.inner,)
    elif isinstance(root, In):
        inner = (root.inner, *root.options)
    elif isinstance(root, Branches):
        inner = tuple(part for when in root.whens for part in when)
        inner += () if root.otherwise is None else (root.otherwise,)
    elif isinstance(root, Call):
        inner = root.arguments + (() if root.only is None else (root.only,))
    for part in inner:
        yield from nodes(part)


def chain(node: Node, sign: str) -> list[Node]:
    """What a chain of one sign holds together: a AND (b AND c) is a, b, c."""
    if isinstance(node, Infix) and node.sign == sign:
        return chain(node.left, sign) + chain(node.right, sign)
    return [node]


def balanced(parts: Sequence[T], join: Callable[[T, T], T]) -> T:
    """A long chain as a tree of little depth; expressions may be nested 12 deep only."""
    if len(parts) == 1:
        return parts[0]
    middle = (len(parts) + 1) // 2
    return join(balanced(parts[:middle], join), balanced(parts[middle:], join))


def typed_at(node: Node, value: Expression, product: DataProduct) -> Shape:
    """Kind and bounds of an expression that a fragment stands for."""
    with at(node):
        return typed(value, product, where=node.text)


@contextmanager
def at(node: Node) -> Iterator[None]:
    """What the registry finds wrong with an expression is wrong with this fragment."""
    try:
        yield
    except DocumentRefused as error:
        place = node.text if error.where == node.text else f"{node.text} ({error.where})"
        raise QuestionRefused(place, error.problem) from None


@contextmanager
def placed(place: str) -> Iterator[None]:
    """What a plan could not hold is wrong with this fragment."""
    try:
        yield
    except Malformed as error:
        raise QuestionRefused(place, f"{error.where} {error.problem}") from None


def number(node: Figure) -> Number:
    with placed(node.text):
        return Number(node.value, node.decimals)


def exact(node: Node, part: Node) -> Fraction:
    """A number that is written out, as an argument of a function must be."""
    if not isinstance(part, Figure):
        raise QuestionRefused(node.text, f"{part.text} must be a number written out")
    return Fraction(part.value, 10**part.decimals)


def _find(name: str, known: Mapping[str, Expression]) -> Expression | None:
    """By its exact name, else by the only one that differs in capitals alone."""
    if name in known:
        return known[name]
    alike = [value for column, value in known.items() if column.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else None


_ROWS: Final = f"of a row there are {', '.join(ROW_FUNCTIONS)}; docs/sql.md lists the aggregates"
_NO_CURVES: Final = "a holder computes exactly: + - * and CASE; bring such a column as a product"
_INSTEAD: Final[Mapping[str, str]] = {
    "ROUND": "numbers have the decimals that their product states; round the answer",
    "FLOOR": "make bands with BANDS(column, cut, …)",
    "CEIL": "make bands with BANDS(column, cut, …)",
    "IFNULL": "write COALESCE(column, number)",
    "NVL": "write COALESCE(column, number)",
    "LOG": _NO_CURVES,
    "LN": _NO_CURVES,
    "EXP": _NO_CURVES,
    "SQRT": _NO_CURVES,
    "POWER": "write column * column",
    "POW": "write column * column",
    "LOWER": "text is compared as it is; list the spellings with IN",
    "UPPER": "text is compared as it is; list the spellings with IN",
    "BANDS": "BANDS stands in SELECT and GROUP BY only",
    "WIDTH_BUCKET": "WIDTH_BUCKET stands in SELECT and GROUP BY only",
    "SUM": "an aggregate cannot stand in a row; use HAVING for conditions on aggregates",
    "AVG": "an aggregate cannot stand in a row; use HAVING for conditions on aggregates",
    "COUNT": "an aggregate cannot stand in a row; use HAVING for conditions on aggregates",
    "MIN": "an aggregate cannot stand in a row; use LEAST, or HAVING for aggregates",
    "MAX": "an aggregate cannot stand in a row; use GREATEST, or HAVING for aggregates",
}
