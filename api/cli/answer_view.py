"""An answer on the terminal, with the interval of each number and what a reader has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.answer_files import columns, number
from api.cli.speech import name_of
from api.cli.tables import labelled, lines, together
from crypto import record
from exchange.results import (
    Answer,
    AnyAnswer,
    Figure,
    FoundRecord,
    LookupAnswer,
    Note,
    ScoreAnswer,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


def answer_document(found: AnyAnswer, files: list[str]) -> dict[str, Any]:
    """The stored answer: numbers are exact fractions in text, what has no value is absent, and a
    figure without one says what is missing. Of a query, each row says whether any of it is
    suppressed."""
    document = record.to_value(found)
    if not isinstance(document, dict):
        raise TypeError("an answer is an object")
    told: dict[str, Any] = {**document, "files": files}
    if isinstance(found, Answer):
        told["rows"] = [
            {
                "groups": list(row.groups),
                "figures": [record.to_value(figure) for figure in row.figures],
                "suppressed": row.suppressed,
            }
            for row in found.rows
        ]
    return told


def answer_text(found: AnyAnswer) -> RenderableType:
    if isinstance(found, Answer):
        shown = labelled(
            [*found.groups, *found.outputs],
            [[*row.groups, *map(figure_text, row.figures)] for row in found.rows],
        )
        return together(shown, lines(*map(note_text, found.notes)))
    if isinstance(found, ScoreAnswer):
        rows = [[row.name, *map(number, row.scores)] for row in found.rows]
        return labelled(columns(found), rows)
    return labelled(columns(found), [_record(row, found) for row in found.rows])


def figure_text(figure: Figure) -> str:
    """The number and its interval, or why there is none."""
    if figure.value is None:
        return name_of("missing", str(figure.missing))
    text = number(figure.value) or ""
    if figure.low is None and figure.high is None:
        return text
    low, high = (number(end) or "…" for end in (figure.low, figure.high))
    return f"{text} [{low}, {high}]"


def note_text(note: Note) -> str:
    return name_of("remark", note.remark.value).format(number=note.number)


def _record(row: FoundRecord, found: LookupAnswer) -> list[str]:
    values = row.values or {}
    told = [values.get(column, "") for column in found.columns]
    return [row.key, name_of("found", row.found.value), *told]
