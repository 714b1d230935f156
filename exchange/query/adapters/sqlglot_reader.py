"""Reads SQL with sqlglot, by allow-list: every kind of node, and every part of a node, must be one
that is listed here. Whatever else sqlglot understands, now or in a later version, is refused by
name, and so is everything that it doesn't understand.

sqlglot is imported when the first question is read: neither the hub nor an audit needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from exchange.errors import QuestionRefused
from exchange.query.sql import (
    Branch,
    Branches,
    Call,
    Figure,
    In,
    Infix,
    Inverse,
    IsNull,
    Item,
    JoinClause,
    Name,
    Node,
    Quote,
    Select,
    Star,
    Table,
    Union,
)

if TYPE_CHECKING:
    from sqlglot import exp

MAX_DEPTH: Final = 500  # of the tree; 400 conditions joined by OR make one of 400
_TOO_DEEP: Final = "is nested too deep"
MAX_TEXT: Final = 20_000  # characters; a longer question is a mistake, or meant to exhaust us
MAX_DIGITS: Final = 30
SHOWN: Final = 80
MAX_JOINS: Final = 2

_SIGNS: Final[Mapping[str, str]] = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "Div": "/",
    "EQ": "=",
    "NEQ": "!=",
    "LT": "<",
    "LTE": "<=",
    "GT": ">",
    "GTE": ">=",
    "And": "and",
    "Or": "or",
}

# What people try, and what to write instead. Refused by the allow-list, not by this table.
_INSTEAD: Final[Mapping[str, str]] = {
    "order": "leave ORDER BY out; the answer lists its groups in a fixed order",
    "limit": "leave LIMIT out; every group is in the answer",
    "offset": "leave OFFSET out; every group is in the answer",
    "distinct": "leave SELECT DISTINCT out; groups are distinct. COUNT(DISTINCT key) counts people",
    "with_": "write the tables in FROM; WITH is not read",
    "qualify": "leave QUALIFY out; there are no window functions",
    "windows": "leave WINDOW out; there are no window functions",
    "locks": "leave FOR UPDATE out",
    "sample": "leave TABLESAMPLE out",
    "laterals": "name a table or a UNION ALL of two",
    "Window": "window functions would show rows; use GROUP BY",
    "Subquery": "only FROM (SELECT … UNION ALL SELECT …) is a subquery that is read",
    "Exists": "join the tables on their keys instead of EXISTS",
    "Like": "list the values: column IN ('a', 'b')",
    "ILike": "list the values: column IN ('a', 'b')",
    "Mod": "name the values with IN, or make bands with BANDS(column, cut, …)",
    "DPipe": "text is not computed with; compare it with = or IN",
    "Cast": "leave the cast out: a column has the type its product states, and numbers are exact",
    "TryCast": "leave the cast out: a column has the type its product states",
    "Boolean": "write a comparison such as column = 1",
    "Null": "use IS NULL, IS NOT NULL or COALESCE(column, number)",
    "Interval": "there are no dates; use a number column such as days since a date",
    "Extract": "there are no dates; use a number column such as a year",
    "CurrentDate": "there are no dates; write the number",
    "CurrentTimestamp": "there are no dates; write the number",
    "Placeholder": "write the value itself",
    "Parameter": "write the value itself",
    "NullSafeNEQ": "use <> and say IS NULL where you mean it",
    "NullSafeEQ": "use = and say IS NULL where you mean it",
    "Bracket": "columns hold single values",
    "Dot": "write table.column",
    "Intersect": "join the tables on their keys",
    "Except": "use LEFT JOIN and subtract the counts",
    "Rollup": "ask one question per level; group by columns",
    "Cube": "ask one question per level; group by columns",
    "GroupingSets": "ask one question per level; group by columns",
    "Values": "name a table or a UNION ALL of two",
    "Lateral": "name a table or a UNION ALL of two",
}


class SqlglotReader:
    """The `SqlReader` that everybody uses. Holds nothing."""

    def read(self, text: str) -> Select:
        if len(text) > MAX_TEXT:
            raise QuestionRefused("sql", f"is longer than {MAX_TEXT} characters")
        try:
            statement = _parsed(text)
            _require_shallow(statement)
            return _select(statement)
        except RecursionError:
            raise QuestionRefused("sql", _TOO_DEEP) from None


def _require_shallow(statement: exp.Expr) -> None:
    """Whatever Python's own limit is: a library may have raised it for the whole process."""
    level, depth = [statement], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise QuestionRefused("sql", _TOO_DEEP)
        level = [part for one in level for part in one.iter_expressions()]


def _parsed(text: str) -> exp.Expr:
    from sqlglot import errors

    try:
        tokens = _dialect().tokenize(text)
        first = tokens[0].text.upper() if tokens else "nothing"
        # Before parsing: what is no query at all, sqlglot would repeat in a log.
        if first not in ("SELECT", "WITH", "("):
            raise QuestionRefused("sql", f"begins with {first[:SHOWN]}: write one SELECT")
        found = [part for part in _dialect().parse(text) if part is not None]
    except errors.ParseError as error:
        raise _unreadable(error.errors[0] if error.errors else {}) from None
    except errors.SqlglotError:
        raise QuestionRefused("sql", "cannot be read; is every quote closed?") from None
    if len(found) != 1:
        raise QuestionRefused("sql", f"holds {len(found)} statements; write exactly one SELECT")
    (statement,) = found
    return statement  # type: ignore[no-any-return]  # the dialect is made at run time


def _unreadable(facts: Mapping[str, Any]) -> QuestionRefused:
    place = f"line {facts['line']}, column {facts['col']}" if "line" in facts else "sql"
    near, problem = str(facts.get("highlight") or "")[:SHOWN], str(facts.get("description") or "")
    if not problem or "<class" in problem:
        problem = "something is missing"
    return QuestionRefused(place, f"{problem.rstrip('. ')}, near {near!r}")


@cache
def _dialect() -> Any:
    """A dialect that knows no function: each arrives by the name that was written, and the ones
    that mean something are listed in docs/sql.md."""
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.parser import Parser

    class Reading(Parser):
        FUNCTIONS: ClassVar[dict[str, Callable[..., exp.Expr]]] = {}

    class Unseen(Dialect):
        parser_class = Reading  # type: ignore[assignment]  # as sqlglot's own dialects do

    return Unseen()


# Statements


def _select(root: exp.Expr) -> Select:
    kind = type(root).__name__
    if kind == "Union":
        raise _refused(root, "write SELECT … FROM (SELECT … UNION ALL SELECT …) AS u GROUP BY …")
    if kind != "Select":
        raise _refused(root, "write one SELECT of aggregates", what=kind.upper())
    _require_parts(root, "expressions", "from_", "joins", "where", "group", "having")
    joins = root.args.get("joins") or []
    if len(joins) > MAX_JOINS:
        raise _refused(joins[MAX_JOINS], "at most three tables are joined", what="a fourth table")
    if root.args.get("from_") is None:
        raise _refused(root, "name a table: SELECT … FROM table", what="SELECT without FROM")
    source = _source(root.args["from_"].this)
    if joins and isinstance(source, Union):
        raise _refused(joins[0], "ask for the union or for the join", what="a join with a union")
    return Select(
        items=_items(root),
        source=source,
        joins=tuple(map(_join, joins)),
        where=_inner(root, "where"),
        group_by=_group_by(root),
        having=_inner(root, "having"),
    )


def _items(root: exp.Expr) -> tuple[Item, ...]:
    found = []
    for part in root.args["expressions"]:
        if type(part).__name__ == "Alias":
            _require_parts(part, "this", "alias")
            found.append(Item(_node(part.this), _identifier(part.args["alias"])))
        else:
            found.append(Item(_node(part), None))
    if not found:
        raise _refused(root, "name at least one aggregate such as COUNT(*)", what="SELECT nothing")
    return tuple(found)


def _inner(root: exp.Expr, part: str) -> Node | None:
    found = root.args.get(part)
    if found is None:
        return None
    _require_parts(found, "this")
    return _node(found.this)


def _group_by(root: exp.Expr) -> tuple[Node, ...]:
    group = root.args.get("group")
    if group is None:
        return ()
    if group.args.get("all"):
        raise _refused(group, "name the columns", what="GROUP BY ALL")
    _require_parts(group, "expressions")
    return tuple(_node(part) for part in group.expressions)


def _source(root: exp.Expr) -> Table | Union:
    if type(root).__name__ != "Subquery":
        return _table(root)
    _require_parts(root, "this", "alias")
    union = root.this
    if type(union).__name__ != "Union":
        raise _refused(root, _INSTEAD["Subquery"], what="a subquery")
    _require_parts(union, "this", "expression", "distinct", "by_name")
    if union.args.get("distinct"):
        raise _refused(
            union, "write UNION ALL; UNION would compare rows of two holders", what="UNION"
        )
    if union.args.get("by_name"):
        raise _refused(union, "list the columns in one order", what="BY NAME")
    branches = tuple(_branch(part) for part in (union.this, union.expression))
    return Union(branches, _table_alias(root) or "")


def _branch(root: exp.Expr) -> Branch:
    kind = type(root).__name__
    if kind == "Union":
        raise _refused(root, "at most two holders' rows are united", what="a third SELECT")
    if kind != "Select":
        raise _refused(root, "write SELECT columns FROM table WHERE …")
    for part, advice in (
        ("joins", "a branch reads one table"),
        ("group", "group outside: SELECT … FROM (…) AS u GROUP BY …"),
        ("having", "write HAVING outside"),
    ):
        if root.args.get(part):
            raise _refused(root, advice, what=f"{part.upper()} inside a UNION")
    _require_parts(root, "expressions", "from_", "where")
    if root.args.get("from_") is None:
        raise _refused(root, "name a table: SELECT … FROM table", what="SELECT without FROM")
    parts = root.args["expressions"]
    everything = len(parts) == 1 and type(parts[0]).__name__ == "Star"
    if everything:
        _require_parts(parts[0])
    return Branch(
        text=_text(root),
        items=None if everything else _items(root),
        table=_table(root.args["from_"].this),
        where=_inner(root, "where"),
    )


def _table(root: exp.Expr) -> Table:
    if type(root).__name__ != "Table":
        raise _refused(root, _INSTEAD.get(type(root).__name__, "name a table"))
    if type(root.this).__name__ != "Identifier":
        raise _refused(root, "name a table; files and functions are not read", what="this table")
    if root.args.get("db") or root.args.get("catalog"):
        raise _refused(root, "a table has one name, without a schema", what="a schema")
    _require_parts(root, "this", "alias")
    name = _identifier(root.this)
    return Table(_text(root), name, _table_alias(root) or name)


def _table_alias(root: exp.Expr) -> str | None:
    alias = root.args.get("alias")
    if alias is None:
        return None
    if alias.args.get("columns"):
        raise _refused(root, "rename columns in SELECT", what="renaming columns in FROM")
    _require_parts(alias, "this")
    return _identifier(alias.this)


def _join(root: exp.Expr) -> JoinClause:
    side, kind = (root.args.get("side") or "").upper(), (root.args.get("kind") or "").upper()
    advice = "write JOIN b ON a.key = b.key or LEFT JOIN b ON a.key = b.key"
    if side == "RIGHT":
        raise _refused(root, "name the other table first and write LEFT JOIN", what="RIGHT JOIN")
    if (
        side not in ("", "LEFT")
        or kind not in ("", "INNER", "OUTER")
        or (kind == "OUTER" and not side)
        or root.args.get("method")
    ):
        words = " ".join(filter(None, (root.args.get("method") or "", side, kind)))
        raise _refused(root, advice, what=f"{words} JOIN")
    using, on = root.args.get("using") or [], root.args.get("on")
    if not using and on is None:
        raise _refused(root, advice, what="a join without ON")
    if len(using) > 1:
        raise _refused(root, "tables are joined on one key", what="USING several columns")
    _require_parts(root, "this", "side", "kind", "on", "using")
    if type(root.this).__name__ == "Subquery":
        raise _refused(root.this, _INSTEAD["Subquery"], what="a subquery")
    return JoinClause(
        text=_text(root),
        table=_table(root.this),
        keep_left=side == "LEFT",
        on=None if on is None else _node(on),
        using=_identifier(using[0]) if using else None,
    )


# Expressions


def _node(root: exp.Expr) -> Node:
    kind = type(root).__name__
    if kind in _SIGNS:
        # typed and safe only say how a dialect divides; here the whole division is exact.
        _require_parts(root, "this", "expression", "typed", "safe")
        left, right = _node(root.this), _node(root.args["expression"])
        sign = _SIGNS[kind]
        # Put together from its parts: writing out each level of a long chain would take its square.
        return Infix(_short(f"{left.text} {sign.upper()} {right.text}"), sign, left, right)
    read = _READERS.get(kind)
    if read is None:
        raise _refused(root, _INSTEAD.get(kind, "see docs/sql.md for what can be written"))
    return read(root)


def _paren(root: exp.Expr) -> Node:
    _require_parts(root, "this")
    inner = _node(root.this)
    return replace(inner, text=_short(f"({inner.text})"))


def _column(root: exp.Expr) -> Node:
    if type(root.this).__name__ == "Star":
        raise _refused(root, "name the aggregates; rows are never shown", what="SELECT *")
    _require_parts(root, "this", "table")
    table = root.args.get("table")
    return Name(_text(root), None if table is None else _identifier(table), _identifier(root.this))


def _star(root: exp.Expr) -> Node:
    _require_parts(root)
    return Star(_text(root))


def _literal(root: exp.Expr) -> Node:
    _require_parts(root, "this", "is_string")
    text: str = root.this
    return Quote(_text(root), text) if root.args.get("is_string") else _figure(root, text)


def _figure(root: exp.Expr, text: str) -> Figure:
    if not all(c in "0123456789.eE+-" for c in text) or len(text) > MAX_DIGITS:
        raise _refused(root, "write a number such as 4.55", what="this number")
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int) or abs(exponent) > MAX_DIGITS:
        raise _refused(root, "write a number such as 4.55", what="this number")
    value = int("".join(map(str, digits))) * (-1 if sign else 1)
    if exponent > 0:
        return Figure(text, value * 10**exponent, 0)
    return Figure(text, value, -exponent)


def _minus(root: exp.Expr) -> Node:
    _require_parts(root, "this")
    inner = _node(root.this)
    if isinstance(inner, Figure):
        return Figure(_text(root), -inner.value, inner.decimals)
    return Infix(_text(root), "-", Figure("0", 0, 0), inner)


def _not(root: exp.Expr) -> Node:
    _require_parts(root, "this")
    return Inverse(_text(root), _node(root.this))


def _is(root: exp.Expr) -> Node:
    _require_parts(root, "this", "expression")
    if type(root.args["expression"]).__name__ != "Null":
        raise _refused(root, "write IS NULL or IS NOT NULL")
    return IsNull(_text(root), _node(root.this))


def _in(root: exp.Expr) -> Node:
    if root.args.get("query") is not None or root.args.get("unnest") is not None:
        raise _refused(root, "join the tables on their keys instead", what="IN of a subquery")
    _require_parts(root, "this", "expressions")
    return In(_text(root), _node(root.this), tuple(_node(part) for part in root.expressions))


def _between(root: exp.Expr) -> Node:
    _require_parts(root, "this", "low", "high")
    text, value = _text(root), _node(root.this)
    low = Infix(text, ">=", value, _node(root.args["low"]))
    return Infix(text, "and", low, Infix(text, "<=", value, _node(root.args["high"])))


def _case(root: exp.Expr) -> Node:
    _require_parts(root, "this", "ifs", "default")
    subject = None if root.args.get("this") is None else _node(root.this)
    whens = []
    for part in root.args["ifs"]:
        _require_parts(part, "this", "true")
        condition = _node(part.this)
        if subject is not None:
            condition = Infix(_text(part), "=", subject, condition)
        whens.append((condition, _node(part.args["true"])))
    return Branches(_text(root), tuple(whens), _otherwise(root.args.get("default")))


def _if(root: exp.Expr) -> Node:
    _require_parts(root, "this", "true", "false")
    whens = ((_node(root.this), _node(root.args["true"])),)
    return Branches(_text(root), whens, _otherwise(root.args.get("false")))


def _otherwise(root: exp.Expr | None) -> Node | None:
    """ELSE NULL is no ELSE."""
    return None if root is None or type(root).__name__ == "Null" else _node(root)


def _call(root: exp.Expr) -> Call:
    _require_parts(root, "this", "expressions")
    if not isinstance(root.this, str):
        raise _refused(root, "write the function's name without quotes")
    parts, distinct = list(root.expressions), False
    if len(parts) == 1 and type(parts[0]).__name__ == "Distinct":
        _require_parts(parts[0], "expressions")
        parts, distinct = list(parts[0].expressions), True
    arguments = tuple(_node(part) for part in parts)
    return Call(_text(root), root.this.upper(), arguments, distinct)


def _within_group(root: exp.Expr) -> Node:
    """PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY x), as PERCENTILE_CONT(x, 0.9)."""
    _require_parts(root, "this", "expression")
    order = root.args["expression"]
    if type(root.this).__name__ != "Anonymous" or type(order).__name__ != "Order":
        raise _refused(root, "write PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY column)")
    call = _call(root.this)
    _require_parts(order, "expressions")
    by = order.expressions
    if call.function != "PERCENTILE_CONT" or len(by) != 1 or by[0].args.get("desc"):
        raise _refused(root, "write PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY column)")
    _require_parts(by[0], "this", "nulls_first", "desc")
    return Call(
        _text(root), call.function, (_node(by[0].args["this"]), *call.arguments), call.distinct
    )


def _filter(root: exp.Expr) -> Node:
    _require_parts(root, "this", "expression")
    where = root.args["expression"]
    call = _node(root.this)
    if not isinstance(call, Call) or call.only is not None:
        raise _refused(root, "FILTER goes after one aggregate")
    _require_parts(where, "this")
    return Call(
        _text(root), call.function, call.arguments, call.distinct, _node(where.args["this"])
    )


_READERS: Final[Mapping[str, Callable[[Any], Node]]] = {
    "Paren": _paren,
    "Column": _column,
    "Star": _star,
    "Literal": _literal,
    "Neg": _minus,
    "Not": _not,
    "Is": _is,
    "In": _in,
    "Between": _between,
    "Case": _case,
    "If": _if,
    "Anonymous": _call,
    "WithinGroup": _within_group,
    "Filter": _filter,
}


# Refusals


def _require_parts(root: exp.Expr, *allowed: str) -> None:
    """Every part of a node that says something must be one we read."""
    for name, value in root.args.items():
        if value in (None, False) or value == [] or name in allowed:
            continue
        what = name.rstrip("_").replace("_", " ").upper()
        raise _refused(root, _INSTEAD.get(name, "leave it out"), what=what)


def _refused(root: exp.Expr, advice: str, *, what: str | None = None) -> QuestionRefused:
    named = what or f"{type(root).__name__.upper()}"
    return QuestionRefused(_text(root), f"{named} is not supported: {advice}")


def _identifier(root: exp.Expr) -> str:
    if type(root).__name__ != "Identifier":
        raise _refused(root, "write a name", what="this name")
    text: str = root.this
    if not text.isprintable() or len(text) > SHOWN:
        raise QuestionRefused("sql", f"names are printable and at most {SHOWN} characters")
    return text


def _text(root: exp.Expr) -> str:
    return _short(root.sql(dialect=_dialect(), comments=False))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
