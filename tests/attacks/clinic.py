"""One holder's rows in a file, and its answers to questions about them: with the history gate that
its node keeps, and without.

`Holder.answer` is what `exchange.node.runs` does for a job on one table, step by step, with plans
made by the product's own compiler and judged by its own rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.joins.released import Cell, open_cells
from exchange.node.alone import alone
from exchange.node.exactly import Asked, require_many, require_one_company
from exchange.node.parts import local_query, unmatched
from exchange.query.plan import Plan
from exchange.query.program import program_of
from exchange.query.rules import Ground, violations
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.rule import Join
from registry.source import FileFormat, FileSource
from tests.queries import PRIVACY, compiled, open_grounds

LEAST = 6  # people; what `tests.queries.the_terms` agrees on
Person = tuple[str, str, int, float]  # name, sex, age, bmi

# Forty people and a target whom anybody who knows her knows to be 93.
OTHERS: tuple[Person, ...] = tuple(
    (f"p{i}", "fm"[i % 2], 20 + i % 50, 18 + i % 13 + 0.5) for i in range(40)
)
TARGET: Person = ("target", "f", 93, 37.7)
EVERYBODY = (*OTHERS, TARGET)


@dataclass
class Holder:
    """earlier: plans whose exact answers have left."""

    source: DuckDBFileSource
    ground: Ground
    earlier: list[Plan] = field(default_factory=list)

    def plan(self, sql: str, *, epsilon: Fraction | None = None) -> Plan:
        """What the consumer asks, compiled. Raises QuestionRefused."""
        options = {} if epsilon is None else {"epsilon": epsilon}
        return compiled(sql, [self.ground], **options)

    def answer(self, plan: Plan) -> tuple[Cell, ...]:
        """As the node gives it. Raises ExactRefused and HistoryRefused."""
        assert not violations(plan, [self.ground])
        if plan.query.noise is None:
            self.require_safe(plan)
        found = self.unprotected(plan)
        if plan.query.noise is None:
            self.earlier.append(plan)
        return found

    def require_safe(self, plan: Plan) -> None:
        """As the node judges an exact question. Raises ExactRefused and HistoryRefused."""
        new, *earlier = (Asked(one, [self.ground.product], 0) for one in (plan, *self.earlier))
        require_one_company(new, earlier)
        require_many(new, earlier, self.source, LEAST)

    def unprotected(self, plan: Plan) -> tuple[Cell, ...]:
        """The twin: the same answer, and nobody asks what was answered before."""
        (found,) = self.many(plan, 1)
        return found

    def many(self, plan: Plan, times: int) -> list[tuple[Cell, ...]]:
        """The same answer again and again, each with fresh noise; rows are read once."""
        product = self.ground.product
        program = program_of(plan, [product])
        rows = unmatched(self.source.compute(product, local_query(plan, program, 0)))
        return [
            open_cells(
                program.layout, [alone(program.layout, rows, plan.query.noise, OpenDpNoise())]
            )
            for _ in range(times)
        ]


def a_holder(folder: Path, people: Sequence[Person] = EVERYBODY) -> Holder:
    path = folder / "people.csv"
    lines = [f"{name},{sex},here,{age},{bmi},1" for name, sex, age, bmi in people]
    path.write_text("\n".join(["person,sex,town,age,bmi,income", *lines]) + "\n")
    ground, _ = open_grounds(joins=(Join.ALONE,), privacy=PRIVACY)
    return Holder(DuckDBFileSource(FileSource(str(path), FileFormat.CSV)), ground)


def only(cells: Sequence[Cell]) -> Cell:
    (cell,) = cells
    return cell
