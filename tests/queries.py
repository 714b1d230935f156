"""Two products, their agreements, and plans that both allow. Builders show only what matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from crypto import record
from crypto.digest import SALT_BYTES, digest
from crypto.identifiers import AgreementId, DealId, JobId, NegotiationId, PartyId, ProductId
from crypto.joins.intersection import Intersection
from crypto.record import Amount
from exchange.query.adapters.sqlglot_reader import SqlglotReader
from exchange.query.explanation import learns
from exchange.query.plan import (
    Argument,
    Gate,
    GroupBy,
    HelperSeat,
    Padding,
    Plan,
    Query,
    Receiver,
    SidePlan,
    Statistic,
)
from exchange.query.question import Footing, Question, compile_question
from exchange.query.released import Output, Released
from exchange.query.rules import Ground
from exchange.terms.agreement import Agreement, Partner, Terms
from registry.expression import ColumnValue
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, PrivacyRule, Use

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
CONSUMER, CLINIC, LAB, OPERATOR, STRANGER, HELPER = (PartyId(f"pty_{c * 32}") for c in "abcdef")
PHARMACY = PartyId(f"pty_{'0' * 32}")
DOCUMENTS = {party: digest(party.encode()) for party in (CONSUMER, CLINIC, LAB, HELPER, PHARMACY)}


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
# A rule that forbids nothing but `income`, for tests of what SQL means.
OPEN_USES: Mapping[str, tuple[Use, ...]] = {
    "person": (Use.JOIN_KEY,),
    **dict.fromkeys(("sex", "town"), (Use.GROUP_KEY, Use.FILTER)),
    **dict.fromkeys(("age", "bmi"), (Use.GROUP_KEY, Use.FILTER, Use.AGGREGATE, Use.COMPARE)),
}
PRIVACY = PrivacyRule(Fraction(2), Fraction(10), Fraction(1, 10**6), noise=False)


def a_rule(**changes: object) -> AnalysisRule:
    rule = AnalysisRule(
        uses=USES,
        functions=(Function.COUNT, Function.SUM, Function.MEAN),
        joins=(Join.REVEALED,),
        min_group=5,
        purposes=("research", "planning"),
    )
    return replace(rule, **changes)  # type: ignore[arg-type]


def an_open_rule(**changes: object) -> AnalysisRule:
    """Every function, every join of queries, and epsilon to spend."""
    rule = a_rule(
        uses=OPEN_USES,
        functions=tuple(Function),
        joins=(Join.HIDDEN, Join.REVEALED, Join.SUM, Join.UNION, Join.ALONE),
        privacy=PRIVACY,
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


def the_terms(product: DataProduct, *others: DataProduct, **changes: object) -> Terms:
    """Whatever the product's own rule allows, but groups of one person more."""
    privacy = product.rule.privacy
    terms = Terms(
        product_id=product.id,
        product=digest(record.to_bytes(product)),
        purposes=("research",),
        joins=product.rule.joins,
        combine_with=tuple(Partner(other.id, other.holder) for other in others),
        helper=HELPER if {Join.HIDDEN, Join.UNION} & {*product.rule.joins} else None,
        min_group=product.rule.min_group + 1,
        runs=3,
        epsilon=privacy.epsilon_total if privacy else Fraction(0),
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


def open_grounds(**rule: object) -> tuple[Ground, Ground]:
    """A clinic and a lab that allow nearly everything. rule: changes to both rules."""
    return grounds(
        a_product(CLINIC, name="Clinic", rule=an_open_rule(**rule)),
        a_product(LAB, name="Lab: blood", rule=an_open_rule(**rule)),
    )


def three_grounds(**rule: object) -> tuple[Ground, ...]:
    """A clinic, a lab and a pharmacy, each of which lets its product meet both others."""
    products = [
        a_product(holder, name=name, rule=an_open_rule(**rule))
        for holder, name in ((CLINIC, "Clinic"), (LAB, "Lab: blood"), (PHARMACY, "Pharmacy"))
    ]
    return tuple(
        Ground(an_agreement(own, the_terms(own, *(p for p in products if p is not own))), own)
        for own in products
    )


# Plans by hand, so that the checker is tested without the compiler


def a_side(ground: Ground, **changes: object) -> SidePlan:
    side = SidePlan(
        agreement=digest(record.to_bytes(ground.agreement)),
        product=digest(record.to_bytes(ground.product)),
        holder=ground.product.holder,
        holder_document=ground.product.holder_document,
        group_by=(),
        where=None,
        price_minor=Amount(100),
    )
    return replace(side, **changes)  # type: ignore[arg-type]


def mean_of(column: str, side: int = 0) -> Statistic:
    return a_statistic(Function.MEAN, column, side)


def a_statistic(function: Function, column: str, side: int = 0) -> Statistic:
    return Statistic(function, (Argument(side, ColumnValue(column)),), distinct=False)


def a_query(**changes: object) -> Query:
    """Mean bmi of the first side."""
    query = Query(
        keep_left=False,
        hide_size=False,
        intersection=Intersection.RR22,
        comparisons=(),
        statistics=(mean_of("bmi"),),
        outputs=(Output("avg_bmi", Released(0, 0)),),
        having=(),
        gate=Gate(6),
        padding=None,
        noise=None,
    )
    return replace(query, **changes)  # type: ignore[arg-type]


def a_plan(both: Sequence[Ground], **changes: object) -> Plan:
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
        sides=(
            a_side(both[0], group_by=(GroupBy("sex", categories=("f", "m")),)),
            a_side(both[1], group_by=(GroupBy("age", cuts=(18, 65)),)),
        ),
        helper=None,
        work=a_query(),
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


def a_hidden_plan(both: Sequence[Ground], **changes: object) -> Plan:
    """The same by the hidden join, padded for epsilon 1/10. changes: of the query."""
    return a_plan(
        both,
        join=Join.HIDDEN,
        helper=HelperSeat(HELPER, DOCUMENTS[HELPER]),
        work=a_query(
            intersection=None, padding=Padding(Fraction(1, 10), Fraction(1, 10**9)), **changes
        ),
    )


def with_side(plan: Plan, index: int, **changes: object) -> Plan:
    sides = list(plan.sides)
    sides[index] = replace(sides[index], **changes)  # type: ignore[arg-type]
    return replace(plan, sides=tuple(sides))


def with_query(plan: Plan, **changes: object) -> Plan:
    return replace(plan, work=replace(plan.query, **changes))  # type: ignore[arg-type]


# Plans from SQL


def footings(*judged: Ground) -> Mapping[ProductId, Footing]:
    return {
        ground.product.id: Footing(
            ground,
            digest(record.to_bytes(ground.agreement)),
            digest(record.to_bytes(ground.product)),
        )
        for ground in judged
    }


def a_question(sql: str, judged: Sequence[Ground], **options: object) -> Question:
    """Tables are called `a`, `b` and `c`, in the order of `judged`."""
    tables = {name: ground.product.id for name, ground in zip("abc", judged, strict=False)}
    question = Question(sql=sql, tables=tables, purpose="research")
    return replace(question, **options)  # type: ignore[arg-type]


def compiled(sql: str, judged: Sequence[Ground], **options: object) -> Plan:
    """Raises QuestionRefused."""
    return compile_question(
        a_question(sql, judged, **options),
        footings(*judged),
        reader=SqlglotReader(),
        operator=OPERATOR,
        helpers={HELPER: DOCUMENTS[HELPER]},
        now=NOW,
        wait=timedelta(minutes=15),
        randomness=RANDOM,
    )
