"""Forty people and one target in two tables, and whoever judges an exact question about them: the
rule checker, and each holder's node over its own rows.

`Cohort.twin` is what a holder without these checks would let out: the plan's terms in the clear,
gated as always. `Cohort.refusal` is what the product says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from crypto.digest import digest
from crypto.joins.released import Cell, open_cells
from crypto.joins.rows import plain_output
from exchange.errors import ExchangeError
from exchange.node.exactly import Asked, require_many, require_one_company
from exchange.query.explanation import learns
from exchange.query.plan import Argument, Plan, Statistic
from exchange.query.program import program_of
from exchange.query.question import grounds_of
from exchange.query.released import Output, Released
from exchange.query.rules import Ground, violations
from registry.expression import Expression, LocalQuery
from registry.ports import LocalRows
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, Use
from tests.local_reference import Row, computed, memberships
from tests.queries import (
    CLINIC,
    LAB,
    PRIVACY,
    a_product,
    compiled,
    footings,
    grounds,
    with_query,
)
from tests.query_plans import both_sides

LEAST = 6  # people; what `tests.queries.the_terms` agrees on
INCOME = 777_777  # the target's
COLUMNS = (
    Column("person", ColumnType.TEXT, "person"),
    Column("sex", ColumnType.TEXT, "sex", categories=("f", "m")),
    Column("age", ColumnType.INTEGER, "age", low=0, high=120),
    Column("income", ColumnType.INTEGER, "income", low=0, high=10**6),
    *(Column(name, ColumnType.INTEGER, name, low=0, high=100) for name in ("flag", "y", "z")),
)
ON = "FROM a JOIN b ON a.person = b.person"


def person(name: str, **values: int | str | None) -> Row:
    every: dict[str, int | str | None] = {
        "person": name,
        "sex": "f",
        "age": 30,
        "income": 1000,
        "flag": 0,
        "y": 1,
        "z": 1,
        **values,
    }
    return {column: ("" if v is None else str(v), v) for column, v in every.items()}


def crowd(people: int = 40) -> list[Row]:
    return [
        person(f"p{n:02d}", age=20 + n % 40, income=1000 + n, y=n % 7, z=n % 5)
        for n in range(people)
    ]


def target(**values: int | str | None) -> Row:
    return person("target", **{"age": 93, "income": INCOME, "flag": 1, "y": 50, **values})


@dataclass(frozen=True)
class Table:
    """Rows that are in memory, behind the questions that a node asks of its source."""

    rows: Sequence[Row]

    def memberships(
        self, product: DataProduct, queries: Sequence[LocalQuery]
    ) -> npt.NDArray[np.int64]:
        return np.array([memberships(product, one, self.rows) for one in queries], dtype=np.int64)

    def compute(self, product: DataProduct, query: LocalQuery) -> LocalRows:
        found = computed(product, query, self.rows)
        return LocalRows(
            tuple(found),
            np.array([group for group, _ in found.values()], dtype=np.int64),
            np.array([factors for _, factors in found.values()], dtype=np.int64).reshape(
                len(found), len(query.factors)
            ),
            digest(b"rows"),
        )


@dataclass
class Cohort:
    """rows: of each table; earlier: plans whose exact answers have left."""

    judged: Sequence[Ground]
    rows: Sequence[list[Row]]
    earlier: list[Plan] = field(default_factory=list)

    def plan(self, sql: str, **options: object) -> Plan:
        return compiled(sql, self.judged, **options)

    def by_hand(self, like: str, *statistics: Statistic) -> Plan:
        """A plan that no compiler made: whoever signs it may have written one of his own."""
        outputs = tuple(Output(f"o{n}", Released(n, 0)) for n in range(len(statistics)))
        changed = with_query(self.plan(like), statistics=statistics, outputs=outputs)
        return replace(changed, learns=learns(changed))

    def twin(self, plan: Plan) -> Sequence[Cell]:
        known = [ground.product for ground in self._grounds(plan)]
        program = program_of(plan, known)
        left, right = both_sides(plan, program, self._held(plan), known)
        return open_cells(program.layout, [plain_output(program.layout, left, right).tobytes()])

    def refusal(self, plan: Plan) -> str | None:
        """Why the product does not answer, if it does not; an answer is remembered."""
        judged = self._grounds(plan)
        found = violations(plan, judged)
        if found:
            return f"rules: {found[0]}"
        known = [ground.product for ground in judged]
        for place, (side, rows) in enumerate(zip(plan.sides, self._held(plan), strict=True)):
            new = Asked(plan, known, place)
            earlier = [
                Asked(old, [g.product for g in self._grounds(old)], then)
                for old in self.earlier
                for then, one in enumerate(old.sides)
                if one.holder == side.holder
            ]
            try:
                require_one_company(new, earlier)
                require_many(new, earlier, Table(rows), LEAST)  # type: ignore[arg-type]
            except ExchangeError as error:
                return f"{type(error).__name__}: {error}"
        self.earlier.append(plan)
        return None

    def _grounds(self, plan: Plan) -> list[Ground]:
        return list(grounds_of(plan, footings(*self.judged)))

    def _held(self, plan: Plan) -> list[list[Row]]:
        own = {g.product.holder: rows for g, rows in zip(self.judged, self.rows, strict=True)}
        return [own[side.holder] for side in plan.sides]


def a_cohort(first: list[Row], second: list[Row] | None = None, **rule: object) -> Cohort:
    """rule: changes to both products' rules, which allow whatever a rule can."""
    every = (Use.GROUP_KEY, Use.FILTER, Use.AGGREGATE, Use.COMPARE)
    uses = {column.name: every for column in COLUMNS[2:]}
    allowed = AnalysisRule(
        uses={"person": (Use.JOIN_KEY,), "sex": (Use.GROUP_KEY, Use.FILTER), **uses},
        functions=tuple(Function),
        joins=(Join.HIDDEN, Join.REVEALED, Join.SUM, Join.UNION, Join.ALONE),
        min_group=LEAST - 1,
        purposes=("research",),
        privacy=PRIVACY,
    )
    allowed = replace(allowed, **rule)  # type: ignore[arg-type]
    held = (first, first if second is None else second)
    return Cohort(
        grounds(
            a_product(CLINIC, name="Clinic", columns=COLUMNS, rule=allowed),
            a_product(LAB, name="Lab", columns=COLUMNS, rule=allowed),
        ),
        held,
    )


def of(function: Function, *values: Expression, sides: Sequence[int] = (0, 1)) -> Statistic:
    """One value of each side, in order."""
    arguments = tuple(Argument(side, value) for side, value in zip(sides, values, strict=False))
    return Statistic(function, arguments, distinct=False)


def numbers(cells: Sequence[Cell]) -> list[int]:
    """All that an answer of these cells shows."""
    return [
        number for cell in cells for number in (*cell.terms, *cell.extremes) if number is not None
    ]


def differences(*answers: Sequence[Cell]) -> set[int]:
    """Of any two numbers shown."""
    shown = [number for answer in answers for number in numbers(answer)]
    return {one - other for one in shown for other in shown}
