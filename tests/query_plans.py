"""Plans of every kind over two invented products, and what running them in the clear gives.

`a_query_plan` shows only what matters; `answered` is the whole way of an answer without engines:
local parts, the output vector, one share a sealer, the parts, what the receiver reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from crypto import record
from crypto.digest import SALT_BYTES, Digest, digest
from crypto.identifiers import DealId, JobId, PartyId, ProductId
from crypto.joins.intersection import Intersection
from crypto.joins.rows import SideRows, plain_output, plain_terms
from crypto.noise import Distribution
from crypto.record import Amount
from exchange.query.explanation import learns
from exchange.query.plan import (
    HELPED,
    TWO_SIDED,
    Argument,
    Gate,
    GroupBy,
    HelperSeat,
    Lookup,
    Noise,
    Padding,
    Plan,
    Query,
    Receiver,
    Score,
    SidePlan,
    Statistic,
)
from exchange.query.program import Program, program_of
from exchange.query.released import Output, Released
from exchange.results import Answer, SealedPart, read_parts
from registry.expression import ColumnValue, LocalQuery
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, PrivacyRule, Use
from tests.local_reference import Row, computed

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CONSUMER, CLINIC, LAB, OPERATOR, HELPER = (PartyId(f"pty_{c * 32}") for c in "abcde")
DOCUMENTS = {party: digest(party.encode()) for party in (CONSUMER, CLINIC, LAB, HELPER)}
USES: Mapping[str, tuple[Use, ...]] = {
    "person": (Use.JOIN_KEY,),
    "sex": (Use.GROUP_KEY, Use.FILTER),
    "age": (Use.GROUP_KEY, Use.FILTER, Use.AGGREGATE, Use.COMPARE),
    "bmi": (Use.GROUP_KEY, Use.AGGREGATE, Use.COMPARE),
    "s5": (Use.AGGREGATE,),
    "town": (Use.LOOKUP,),
}


class _Fixed:
    def __init__(self, number: int) -> None:
        self._number = number

    def draw(self, size: int) -> bytes:
        return self._number.to_bytes(size, "big")


DEAL = DealId.new(NOW, _Fixed(1))


def a_query_product(holder: PartyId, **changes: object) -> DataProduct:
    product = DataProduct(
        v=1,
        id=ProductId.new(NOW, _Fixed(int(holder[-1], 16))),
        version=1,
        holder=holder,
        holder_document=DOCUMENTS[holder],
        name="clinic" if holder == CLINIC else "laboratory",
        description="invented",
        columns=(
            Column("person", ColumnType.TEXT, "person"),
            Column("sex", ColumnType.TEXT, "sex", categories=("f", "m")),
            Column("age", ColumnType.INTEGER, "age", unit="years", low=0, high=120),
            Column("bmi", ColumnType.DECIMAL, "bmi", unit="kg/m2", decimals=1, low=100, high=600),
            Column("s5", ColumnType.DECIMAL, "s5", decimals=3, low=-5000, high=9000),
            Column("town", ColumnType.TEXT, "town"),
        ),
        key="person",
        cap=1000,
        rule=AnalysisRule(
            uses=USES,
            functions=tuple(Function),
            joins=(Join.HIDDEN, Join.REVEALED, Join.SUM, Join.UNION, Join.ALONE, Join.LOOKUP),
            min_group=2,
            purposes=("research",),
            privacy=PrivacyRule(Fraction(10), Fraction(100), Fraction(1, 10**6), noise=False),
            evaluations_per_day=1000,
        ),
        currency="TEST",
        price_minor=Amount(100),
    )
    return replace(product, **changes)  # type: ignore[arg-type]


PRODUCTS = (a_query_product(CLINIC), a_query_product(LAB))
BMI, S5, AGE = (ColumnValue(name) for name in ("bmi", "s5", "age"))
BY_SEX = GroupBy("sex", categories=("f", "m"))
BY_AGE = GroupBy("age", cuts=(40, 65))
PADDING = Padding(Fraction(1, 10), Fraction(1, 10**9))


def statistic(function: Function, *arguments: Argument, **changes: object) -> Statistic:
    return replace(
        Statistic(Function.COUNT, (), distinct=False),
        **{
            "function": function,
            "arguments": arguments,
            **changes,
        },
    )  # type: ignore[arg-type]


COUNT = Statistic(Function.COUNT, (), distinct=True)


def outputs_of(statistics: Sequence[Statistic]) -> tuple[Output, ...]:
    """Everything that each statistic releases: of a regression, all parts."""
    found = []
    for index, each in enumerate(statistics):
        parts = [0]
        if each.function is Function.REGRESSION:
            parts = [-2, -1, *range(len(each.arguments))]
        found += [Output(f"{each.function}{index}_{part}", Released(index, part)) for part in parts]
    return tuple(found)


def a_query_plan(
    *statistics: Statistic,
    join: Join = Join.HIDDEN,
    groups: Sequence[tuple[GroupBy, ...]] = ((), ()),
    products: Sequence[DataProduct] = PRODUCTS,
    sides: Mapping[str, object] | None = None,
    **changes: object,
) -> Plan:
    """changes: of the query. sides: of every side."""
    asked = statistics or (COUNT,)
    query = Query(
        keep_left=False,
        hide_size=False,
        intersection=Intersection.RR22 if join is Join.REVEALED else None,
        comparisons=(),
        statistics=asked,
        outputs=outputs_of(asked),
        having=(),
        gate=Gate(2),
        padding=PADDING if join is Join.HIDDEN else None,
        noise=None,
    )
    query = replace(query, **changes)  # type: ignore[arg-type]
    return a_plan_of(query, join, groups=groups, products=products, sides=sides)


def a_plan_of(
    work: Query | Score | Lookup,
    join: Join,
    *,
    groups: Sequence[tuple[GroupBy, ...]] = ((), ()),
    products: Sequence[DataProduct] = PRODUCTS,
    sides: Mapping[str, object] | None = None,
) -> Plan:
    count = 2 if join in TWO_SIDED else 1
    plan = Plan(
        v=1,
        job=JobId.new(NOW, _Fixed(7)),
        deal=DEAL,
        consumer=CONSUMER,
        consumer_document=DOCUMENTS[CONSUMER],
        operator=OPERATOR,
        purpose="research",
        join=join,
        sides=tuple(
            replace(_side(product, tuple(by)), **(sides or {}))  # type: ignore[arg-type]
            for product, by in list(zip(products, groups, strict=True))[:count]
        ),
        helper=HelperSeat(HELPER, DOCUMENTS[HELPER]) if join in HELPED else None,
        work=work,
        currency="TEST",
        receivers=(Receiver(CONSUMER, DOCUMENTS[CONSUMER]),),
        created_at=NOW,
        run_by=NOW + timedelta(minutes=15),
        run_seconds=600,
        learns={},
        salt=bytes(SALT_BYTES),
    )
    return replace(plan, learns=learns(plan))


def _side(product: DataProduct, by: tuple[GroupBy, ...]) -> SidePlan:
    return SidePlan(
        agreement=digest(b"agreement" + product.holder.encode()),
        product=digest(record.to_bytes(product)),
        holder=product.holder,
        holder_document=product.holder_document,
        group_by=by,
        where=None,
        price_minor=Amount(100),
    )


def with_noise(
    plan: Plan,
    products: Sequence[DataProduct] = PRODUCTS,
    *,
    epsilon: Fraction = Fraction(8),
    distribution: Distribution = Distribution.LAPLACE,
) -> Plan:
    """The same plan with the epsilon shared evenly by all terms."""
    noise = Noise(
        distribution=distribution,
        epsilon=epsilon,
        delta=Fraction(1, 10**6),
        rho=None if distribution is Distribution.LAPLACE else Fraction(1),
        scales=(),
        beta=Fraction(1, 10**9),
    )
    bare = replace(plan, work=replace(plan.query, noise=noise))
    used = products[: len(plan.sides)]
    facts = program_of(bare, used).terms
    scales = tuple(Fraction(fact.sensitivity * len(facts)) / epsilon for fact in facts)
    found = replace(bare, work=replace(plan.query, noise=replace(noise, scales=scales)))
    return replace(found, learns=learns(found))


# Running it in the clear


def some_rows(rng: np.random.Generator, people: int, *, rows: int = 1, of: int = 0) -> list[Row]:
    """Rows of `people` persons drawn from twice as many; about one value in eight is missing."""
    found: list[Row] = []
    for person in rng.choice(2 * people, size=people, replace=False):
        for _ in range(int(rng.integers(1, rows + 1))):
            bmi = int(np.clip(rng.normal(270 + person % 50, 40), 100, 600))
            values: dict[str, int | str | None] = {
                "person": f"p{person}",
                "sex": "fm"[int(rng.integers(2))],
                "age": int(rng.integers(18, 95)),
                "bmi": bmi,
                "s5": int(np.clip(4 * bmi + 20 * (person % 50) + rng.normal(0, 300), -5000, 9000)),
                "town": "t",
            }
            for name in ("age", "bmi", "s5"):
                if rng.random() < 1 / 8:
                    values[name] = None
            found.append({name: (str(value), value) for name, value in values.items()})
    return found


def side_rows(
    plan: Plan, program: Program, index: int, rows: list[Row], product: DataProduct
) -> SideRows:
    local = LocalQuery(plan.sides[index].where, program.groups[index], program.factors[index])
    people = computed(product, local, rows)
    tokens = b"".join(hashlib.sha256(key.encode()).digest()[:16] for key in people)
    groups = [group for group, _ in people.values()]
    factors = [values for _, values in people.values()]
    return SideRows(
        np.frombuffer(tokens, dtype=np.uint8).reshape(-1, 16),
        np.array(groups, dtype=np.int64).reshape(-1),
        np.array(factors, dtype=np.int64).reshape(len(people), len(program.factors[index])),
    )


def both_sides(
    plan: Plan,
    program: Program,
    rows: Sequence[list[Row]],
    products: Sequence[DataProduct] = PRODUCTS,
) -> tuple[SideRows, SideRows]:
    """What meets: of one table, and of a union, all rows on the left."""
    held = [side_rows(plan, program, i, rows[i], products[i]) for i in range(len(plan.sides))]
    if plan.join not in (Join.UNION, Join.ALONE):
        return held[0], held[1]
    tokens = np.arange(2 * sum(map(len, held)), dtype=np.uint64).view(np.uint8).reshape(-1, 16)
    left = SideRows(
        tokens, np.concatenate([h.group for h in held]), np.concatenate([h.factors for h in held])
    )
    return left, SideRows(tokens, np.zeros(len(left), np.int64), np.zeros((len(left), 0), np.int64))


def noise_of(
    plan: Plan, program: Program, rng: np.random.Generator
) -> npt.NDArray[np.int64] | None:
    """What all authors add together. shape (terms, cells)."""
    noise, cells = plan.query.noise, program.layout.cells
    if noise is None:
        return None
    authors = 1 if plan.join is Join.ALONE else 2
    found = np.zeros((len(noise.scales), cells), dtype=np.int64)
    for term, scale in enumerate(noise.scales):
        for _ in range(authors):
            if noise.distribution is Distribution.GAUSSIAN:
                found[term] += np.rint(rng.normal(0, float(scale), cells)).astype(np.int64)
            else:
                stop = 1 - np.exp(-1 / float(scale))
                found[term] += rng.geometric(stop, cells) - rng.geometric(stop, cells)
    return found


def parts_of(plan: Plan, output: npt.NDArray[np.int64]) -> dict[PartyId, bytes]:
    """One share a sealer, which add up to the output."""
    rng = np.random.default_rng(5)
    shares = [
        rng.integers(0, 2**64, len(output), dtype=np.uint64) for _ in range(len(plan.sealers) - 1)
    ]
    last = output.view(np.uint64).copy()
    for share in shares:
        last -= share
    return {
        party: record.to_bytes(SealedPart(1, plan.job, digest_of(plan), party, share.tobytes()))
        for party, share in zip(plan.sealers, [*shares, last], strict=True)
    }


def digest_of(plan: Plan) -> Digest:
    return digest(record.to_bytes(plan))


def answered(
    plan: Plan,
    rows: Sequence[list[Row]],
    products: Sequence[DataProduct] = PRODUCTS,
    *,
    rng: np.random.Generator | None = None,
) -> Answer:
    used = products[: len(plan.sides)]
    program = program_of(plan, used)
    left, right = both_sides(plan, program, rows, used)
    noise = None if rng is None else noise_of(plan, program, rng)
    output = plain_output(program.layout, left, right, noise=noise)
    return read_parts(plan, digest_of(plan), parts_of(plan, output), used)


def exact_terms(
    plan: Plan, rows: Sequence[list[Row]], products: Sequence[DataProduct] = PRODUCTS
) -> npt.NDArray[np.int64]:
    used = products[: len(plan.sides)]
    program = program_of(plan, used)
    return plain_terms(program.layout, *both_sides(plan, program, rows, used))
