"""Two products, their agreements and a plan that both allow. Builders show only what matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from crypto import record
from crypto.digest import SALT_BYTES, digest
from crypto.identifiers import AgreementId, DealId, JobId, NegotiationId, PartyId, ProductId
from crypto.joins.intersection import Intersection
from crypto.record import Amount
from exchange.query.explanation import learns
from exchange.query.plan import Gate, GroupBy, Measure, Plan, Receiver, SidePlan
from exchange.query.rules import Ground
from exchange.terms.agreement import Agreement, Partner, Terms
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, Use

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CONSUMER, CLINIC, LAB, OPERATOR, STRANGER = (PartyId(f"pty_{c * 32}") for c in "abcde")
DOCUMENTS = {party: digest(party.encode()) for party in (CONSUMER, CLINIC, LAB)}


class Counting:
    """Distinct bytes each time, the same in every run."""

    def __init__(self) -> None:
        self._n = 0

    def draw(self, size: int) -> bytes:
        self._n += 1
        return self._n.to_bytes(size, "big")


RANDOM = Counting()
DEAL = DealId.new(NOW, RANDOM)

COLUMNS = (
    Column("person", ColumnType.TEXT, "person"),
    Column("sex", ColumnType.TEXT, "sex", categories=("f", "m")),
    Column("town", ColumnType.TEXT, "town"),
    Column("age", ColumnType.INTEGER, "age", low=0, high=120),
    Column("bmi", ColumnType.DECIMAL, "body mass index", decimals=1, low=0, high=1000),
    Column("income", ColumnType.INTEGER, "not in the rule", low=0, high=10**9),
)
USES: Mapping[str, tuple[Use, ...]] = {
    "person": (Use.JOIN_KEY,),
    "sex": (Use.GROUP_KEY,),
    "town": (Use.FILTER,),
    "age": (Use.GROUP_KEY, Use.FILTER),
    "bmi": (Use.AGGREGATE,),
}


def a_rule(**changes: object) -> AnalysisRule:
    rule = AnalysisRule(
        uses=USES,
        functions=(Function.COUNT, Function.SUM, Function.MEAN),
        joins=(Join.REVEALED,),
        min_group=5,
        purposes=("research", "planning"),
    )
    return replace(rule, **changes)  # type: ignore[arg-type]


def a_product(holder: PartyId = CLINIC, **changes: object) -> DataProduct:
    product = DataProduct(
        v=1,
        id=ProductId.new(NOW, RANDOM),
        version=1,
        holder=holder,
        holder_document=DOCUMENTS.get(holder, digest(b"other")),
        name="rows",
        description="invented",
        columns=COLUMNS,
        key="person",
        cap=1000,
        rule=a_rule(),
        currency="TEST",
        price_minor=Amount(100),
    )
    return replace(product, **changes)  # type: ignore[arg-type]


def the_terms(product: DataProduct, other: DataProduct, **changes: object) -> Terms:
    terms = Terms(
        product_id=product.id,
        product=digest(record.to_bytes(product)),
        purposes=("research",),
        joins=(Join.REVEALED,),
        combine_with=(Partner(other.id, other.holder),),
        helper=None,
        min_group=6,
        runs=3,
        epsilon=Fraction(0),
        currency="TEST",
        price_minor=Amount(100),
        valid_from=NOW,
        valid_until=NOW + timedelta(days=30),
        regulator=None,
        regulator_document=None,
    )
    return replace(terms, **changes)  # type: ignore[arg-type]


def an_agreement(product: DataProduct, terms: Terms, **changes: object) -> Agreement:
    agreement = Agreement(
        v=1,
        id=AgreementId.new(NOW, RANDOM),
        deal=DEAL,
        negotiation=NegotiationId.new(NOW, RANDOM),
        consumer=CONSUMER,
        consumer_document=DOCUMENTS[CONSUMER],
        holder=product.holder,
        holder_document=product.holder_document,
        terms=terms,
        agreed_at=NOW,
        salt=RANDOM.draw(SALT_BYTES),
    )
    return replace(agreement, **changes)  # type: ignore[arg-type]


def grounds(first: DataProduct, second: DataProduct, **changes: object) -> tuple[Ground, Ground]:
    """What each side's part is judged by. changes: of the first side's terms."""
    return (
        Ground(an_agreement(first, the_terms(first, second, **changes)), first),
        Ground(an_agreement(second, the_terms(second, first)), second),
    )


def a_side(ground: Ground, **changes: object) -> SidePlan:
    side = SidePlan(
        agreement=digest(record.to_bytes(ground.agreement)),
        product=digest(record.to_bytes(ground.product)),
        holder=ground.product.holder,
        holder_document=ground.product.holder_document,
        group_by=(),
        measures=(),
        filters=(),
        price_minor=Amount(100),
    )
    return replace(side, **changes)  # type: ignore[arg-type]


def a_plan(both: tuple[Ground, Ground], **changes: object) -> Plan:
    """Mean bmi by sex at the first, by bands of age at the second, in groups of six."""
    plan = Plan(
        v=1,
        job=JobId.new(NOW, RANDOM),
        deal=DEAL,
        consumer=CONSUMER,
        consumer_document=DOCUMENTS[CONSUMER],
        operator=OPERATOR,
        purpose="research",
        join=Join.REVEALED,
        intersection=Intersection.RR22,
        sides=(
            a_side(
                both[0],
                group_by=(GroupBy("sex", categories=("f", "m")),),
                measures=(Measure("bmi", Function.MEAN),),
            ),
            a_side(both[1], group_by=(GroupBy("age", cuts=(18, 65)),)),
        ),
        gate=Gate(6),
        epsilon=Fraction(0),
        currency="TEST",
        receivers=(Receiver(CONSUMER, DOCUMENTS[CONSUMER]),),
        created_at=NOW,
        run_by=NOW + timedelta(minutes=15),
        run_seconds=60,
        learns={},
        salt=RANDOM.draw(SALT_BYTES),
    )
    plan = replace(plan, **changes)  # type: ignore[arg-type]
    return replace(plan, learns=learns(plan))


def with_side(plan: Plan, index: int, **changes: object) -> Plan:
    sides = list(plan.sides)
    sides[index] = replace(sides[index], **changes)  # type: ignore[arg-type]
    return replace(plan, sides=tuple(sides))
