"""docs/sql.md: every example on it compiles, every refusal on it is the one that is given, and no
aggregate is missing from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import pytest

from api.demo import deal
from api.folder import PartyFolder
from exchange.errors import QuestionRefused
from exchange.query.aggregates import AGGREGATES
from exchange.query.plan import JOINED, Plan
from exchange.query.question import grounds_of
from exchange.query.rules import Ground, violations
from exchange.query.scope import ROW_FUNCTIONS
from registry.party import Role
from registry.product import Column, ColumnType, DataProduct
from registry.rule import Function, Join, Use
from tests.queries import (
    NOW,
    RANDOM,
    a_product,
    an_agreement,
    an_open_rule,
    compiled,
    footings,
    grounds,
    the_terms,
)

PAGE: Final = (Path(__file__).parents[2] / "docs" / "sql.md").read_text("utf-8")
WIDER: Final = "needs a wider rule"
NOISE: Final = "with noise"
THIRD: Final = "with pharmacy"
BOTH: Final = "FROM clinic JOIN laboratory USING (patient)"
EPSILON: Final = Fraction(6)
QUERY_JOINS: Final = frozenset({*JOINED, Join.UNION, Join.ALONE})


@dataclass(frozen=True)
class Example:
    line: int
    sql: str
    wider: bool
    noisy: bool
    third: bool = False


@dataclass(frozen=True)
class Desk:
    """The demonstration's products under their own rules, and under rules that allow all; and with
    a third holder's."""

    demo: tuple[Ground, ...]
    wide: tuple[Ground, ...]
    three: tuple[Ground, ...]

    def compile(
        self, sql: str, *, wider: bool = False, noisy: bool = False, third: bool = False
    ) -> Plan:
        """Raises QuestionRefused."""
        judged = self.judged(wider=wider, third=third)
        names = ("clinic", "laboratory", "pharmacy")[: len(judged)]
        tables = {name: g.product.id for name, g in zip(names, judged, strict=True)}
        return compiled(sql, judged, tables=tables, epsilon=EPSILON if noisy else None)

    def judged(self, *, wider: bool = False, third: bool = False) -> tuple[Ground, ...]:
        if third:
            return self.three
        return self.wide if wider else self.demo

    def violations(self, plan: Plan, *, wider: bool = False, third: bool = False) -> list[str]:
        judged = self.judged(wider=wider, third=third)
        return [str(one) for one in violations(plan, grounds_of(plan, footings(*judged)))]


def examples(page: str = PAGE) -> Iterator[Example]:
    remark, began = "", 0
    sql: list[str] | None = None
    for number, line in enumerate(page.splitlines(), 1):
        if sql is not None and line == "```":
            text = "\n".join(sql)
            yield Example(began, text, WIDER in remark, NOISE in remark, THIRD in remark)
            sql, remark = None, ""
        elif sql is not None:
            sql.append(line)
        elif line == "```sql":
            sql, began = [], number
        elif line:
            remark = line if line.startswith("*") and not line.startswith("**") else ""


def rows(head: str, page: str = PAGE) -> list[tuple[str, ...]]:
    """The rows of the table whose first line starts so, without the marks of code, and with what
    the page abbreviates."""
    lines = page.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(head)) + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells = line.strip("|").replace("BOTH", BOTH).split(" | ")
        found.append(tuple(cell.strip().strip("`") for cell in cells))
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("holders")
    clinic, laboratory, pharmacy = (
        PartyFolder.create(folder / name, name, [Role.HOLDER], now=NOW).party
        for name in ("clinic", "laboratory", "pharmacy")
    )
    products = (
        deal.clinic_product(clinic, NOW, RANDOM),
        deal.laboratory_product(laboratory, NOW, RANDOM),
    )
    uses = {"patient": (Use.JOIN_KEY,), "drug": (Use.GROUP_KEY,)}
    third = a_product(
        pharmacy.document.party,
        holder_document=pharmacy.digest,
        name="Pharmacy",
        key="patient",
        columns=(
            Column("patient", ColumnType.TEXT, "patient"),
            Column("drug", ColumnType.TEXT, "drug", categories=("a", "b")),
            Column("dose", ColumnType.INTEGER, "dose", low=0, high=100),
        ),
        rule=an_open_rule(
            uses={**uses, "dose": (Use.AGGREGATE, Use.FILTER)},
            privacy=products[0].rule.privacy,
        ),
    )
    three = (*map(widened, products), third)
    return Desk(
        grounds(*products),
        grounds(*map(widened, products)),
        tuple(
            Ground(an_agreement(own, the_terms(own, *(p for p in three if p is not own))), own)
            for own in three
        ),
    )


def widened(product: DataProduct) -> DataProduct:
    every = (Use.GROUP_KEY, Use.FILTER, Use.AGGREGATE, Use.COMPARE)
    uses = {
        column.name: (Use.GROUP_KEY, Use.FILTER) if column.type is ColumnType.TEXT else every
        for column in product.columns
    }
    rule = replace(
        product.rule,
        uses={**uses, product.key: (Use.JOIN_KEY,)},
        functions=tuple(Function),
        joins=tuple(QUERY_JOINS),
    )
    return replace(product, rule=rule)


EXAMPLES: Final = tuple(examples())
every_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: f"line {one.line}")


@every_example
def test_an_example_compiles_and_breaks_no_rule(desk: Desk, example: Example) -> None:
    plan = desk.compile(example.sql, wider=example.wider, noisy=example.noisy, third=example.third)
    assert desk.violations(plan, wider=example.wider, third=example.third) == []


@every_example
def test_what_an_example_is_said_to_need_it_needs(desk: Desk, example: Example) -> None:
    for less in (replace(example, wider=False), replace(example, noisy=False)):
        if less == example:
            continue
        try:
            plan = desk.compile(less.sql, wider=less.wider, noisy=less.noisy, third=less.third)
        except QuestionRefused:
            continue
        assert desk.violations(plan, wider=less.wider, third=less.third)


def test_a_refusal_says_what_the_page_says(desk: Desk) -> None:
    for sql, message in rows("| question | refused with |"):
        with pytest.raises(QuestionRefused) as refused:
            desk.compile(sql)
        assert str(refused.value) == message


def test_a_rule_forbids_with_the_clause_that_the_page_names(desk: Desk) -> None:
    for sql, message in rows("| question | forbidden by |"):
        assert message in desk.violations(desk.compile(sql))


def test_the_page_names_every_aggregate_and_every_function_of_a_row() -> None:
    named = {
        name
        for cells in rows("| aggregate |")
        for name in re.findall(r"[A-Z_0-9]+(?=\()", cells[0])
    }
    assert named == AGGREGATES
    (line,) = [line for line in PAGE.splitlines() if line.startswith("function   =")]
    assert tuple(line.partition("=")[2].replace("|", " ").split()) == ROW_FUNCTIONS


def test_the_page_names_every_join_of_a_query() -> None:
    assert {re.findall(r"[a-z]+", cells[0])[0] for cells in rows("| join |")} == QUERY_JOINS
