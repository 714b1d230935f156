"""How answers look to a person: facts, tables and trees. What they hold is text, never markup:
names and reasons come from other parties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from api.cli.speech import say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree


def lines(*texts: str) -> RenderableType:
    from rich.text import Text

    return Text("\n".join(texts))


def facts(pairs: Iterable[tuple[str, object]]) -> RenderableType:
    """One line per fact; a fact that is None is left out. The names are keys `fact.…`."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    found.add_column(style="bold")
    found.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            found.add_row(Text(say(f"fact.{name}")), Text(str(value)))
    return found


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """columns: keys `fact.…`. Says so when there are no rows."""
    return labelled([say(f"fact.{name}") for name in columns], rows)


def labelled(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """A table whose headings are not sentences of ours: names of columns, for instance."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        found.add_column(Text(heading), overflow="fold", no_wrap=index == 0)
    listed = list(rows)
    if not listed:
        return lines(say("nothing"))
    for row in listed:
        found.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return found


def tree(title: str) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    return Tree(Text(title))


def branch(under: Tree, text: str) -> Tree:
    from rich.text import Text

    return under.add(Text(text))


def together(*parts: RenderableType) -> RenderableType:
    from rich.console import Group

    return Group(*parts)
