"""Questions as a consumer writes them, in JSON. Numbers may be written with or without quotes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field

from api.files.reading import Exact, Plain, Written, member, naming, read_json
from crypto.identifiers import ProductId
from crypto.joins.intersection import Intersection
from exchange.query.question import AskedFilter, AskedGroup, AskedMeasure, Question
from registry.rule import Function, Join

RUN_SECONDS: Final = 600


class WrittenGroup(Written):
    product: str
    column: str
    cuts: list[Exact] | None = None


class WrittenMeasure(Written):
    product: str
    column: str
    function: str


class WrittenFilter(Written):
    product: str
    column: str
    op: str
    value: Plain


class WrittenQuestion(Written):
    """min_group: fewest people in a group that is shown. where: all of these must hold."""

    products: list[str]
    purpose: str
    min_group: int
    join: str = Join.REVEALED.value
    intersection: str = Intersection.RR22.value
    group_by: list[WrittenGroup]
    measures: list[WrittenMeasure] = Field(default_factory=list)
    where: list[WrittenFilter] = Field(default_factory=list)
    run_seconds: int = RUN_SECONDS


def read_question(path: Path) -> Question:
    """Raises FileRefused, naming the field."""
    written = read_json(WrittenQuestion, path)
    with naming(path):
        return Question(
            products=tuple(
                _product(text, f"products[{i}]") for i, text in enumerate(written.products)
            ),
            purpose=written.purpose,
            join=member(Join, written.join, "join"),
            intersection=member(Intersection, written.intersection, "intersection"),
            group_by=tuple(
                AskedGroup(
                    _product(group.product, f"group_by[{i}].product"),
                    group.column,
                    None if group.cuts is None else tuple(str(cut) for cut in group.cuts),
                )
                for i, group in enumerate(written.group_by)
            ),
            measures=tuple(
                AskedMeasure(
                    _product(measure.product, f"measures[{i}].product"),
                    measure.column,
                    member(Function, measure.function, f"measures[{i}].function"),
                )
                for i, measure in enumerate(written.measures)
            ),
            where=tuple(
                AskedFilter(
                    _product(condition.product, f"where[{i}].product"),
                    condition.column,
                    condition.op,
                    condition.value,
                )
                for i, condition in enumerate(written.where)
            ),
            min_group=written.min_group,
            run_seconds=written.run_seconds,
        )


def _product(text: str, where: str) -> ProductId:
    return ProductId.parse(text, where=where)
