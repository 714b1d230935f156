"""SQL as it was read: syntax alone, before anybody knows what the tables are.

These are all the forms there are. A reader (`exchange.query.ports.SqlReader`) turns text into them
or refuses it; nothing else of SQL can get into a plan. `text` of a node is the fragment as the
reader writes it, for messages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """A column, perhaps with its table's alias."""

    text: str
    table: str | None
    column: str


@dataclass(frozen=True)
class Figure:
    """A number as it was written: value * 10**-decimals, trailing zeros kept."""

    text: str
    value: int
    decimals: int


@dataclass(frozen=True)
class Quote:
    """Text in quotes."""

    text: str
    content: str


@dataclass(frozen=True)
class Infix:
    """sign: + - * / = != < <= > >= and or"""

    text: str
    sign: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Inverse:
    """NOT."""

    text: str
    inner: Node


@dataclass(frozen=True)
class IsNull:
    text: str
    inner: Node


@dataclass(frozen=True)
class In:
    text: str
    inner: Node
    options: tuple[Node, ...]


@dataclass(frozen=True)
class Branches:
    """CASE WHEN condition THEN value … [ELSE otherwise] END."""

    text: str
    whens: tuple[tuple[Node, Node], ...]
    otherwise: Node | None


@dataclass(frozen=True)
class Star:
    """The * of COUNT(*)."""

    text: str


@dataclass(frozen=True)
class Call:
    """A function by its name in capitals. only: the condition of FILTER (WHERE …)."""

    text: str
    function: str
    arguments: tuple[Node, ...]
    distinct: bool = False
    only: Node | None = None


Node = Name | Figure | Quote | Infix | Inverse | IsNull | In | Branches | Star | Call


@dataclass(frozen=True)
class Item:
    """One thing in SELECT."""

    value: Node
    alias: str | None


@dataclass(frozen=True)
class Table:
    """One thing in FROM. alias: the name itself where none was given."""

    text: str
    name: str
    alias: str


@dataclass(frozen=True)
class JoinClause:
    """keep_left: LEFT JOIN. using: the column of USING (…), else `on` holds."""

    text: str
    table: Table
    keep_left: bool
    on: Node | None
    using: str | None


@dataclass(frozen=True)
class Branch:
    """One SELECT of a UNION ALL. items: None for SELECT *."""

    text: str
    items: tuple[Item, ...] | None
    table: Table
    where: Node | None


@dataclass(frozen=True)
class Union:
    """FROM (branch UNION ALL branch) AS alias."""

    branches: tuple[Branch, ...]
    alias: str


@dataclass(frozen=True)
class Select:
    items: tuple[Item, ...]
    source: Table | Union
    joins: tuple[JoinClause, ...]
    where: Node | None
    group_by: tuple[Node, ...]
    having: Node | None
