"""Plans: what cannot be one, what is signed, how a question becomes one, and its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest

from crypto import envelope as dsse
from crypto import record
from crypto.digest import digest
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.joins.intersection import Intersection
from crypto.keys import SigningKey
from exchange.errors import QuestionRefused
from exchange.query import plan as plans
from exchange.query.explanation import Language, learns
from exchange.query.plan import MAX_CELLS, Filter, Gate, GroupBy, Measure, Plan
from exchange.query.question import (
    AskedFilter,
    AskedGroup,
    AskedMeasure,
    Footing,
    Question,
    compile_question,
)
from exchange.query.rules import Ground
from registry.rule import Function, Join
from tests.queries import (
    CLINIC,
    CONSUMER,
    LAB,
    NOW,
    OPERATOR,
    RANDOM,
    a_plan,
    a_product,
    grounds,
    with_side,
)

FIRST, SECOND = a_product(CLINIC), a_product(LAB)
BOTH = grounds(FIRST, SECOND)


# Shape


PARTS: dict[str, tuple[str, Callable[[], object]]] = {
    "a group with neither categories nor cuts": ("group_by", lambda: GroupBy("sex")),
    "a group with both": ("group_by", lambda: GroupBy("age", categories=("f",), cuts=(1,))),
    "no categories": ("categories", lambda: GroupBy("sex", categories=())),
    "a category twice": ("categories", lambda: GroupBy("sex", categories=("f", "f"))),
    "no cuts": ("cuts", lambda: GroupBy("age", cuts=())),
    "cuts that descend": ("cuts", lambda: GroupBy("age", cuts=(65, 18))),
    "a cut twice": ("cuts", lambda: GroupBy("age", cuts=(18, 18))),
    "a count of a column": ("function", lambda: Measure("bmi", Function.COUNT)),
    "an unknown comparison": ("op", lambda: Filter("town", "LIKE", text="%")),
    "a filter without a value": ("filter", lambda: Filter("town", "=")),
    "a filter with two values": ("filter", lambda: Filter("town", "=", text="a", number=1)),
    "an order of texts": ("op", lambda: Filter("town", "<", text="m")),
    "groups of one": ("min_group", lambda: Gate(1)),
}


@pytest.mark.parametrize("what", PARTS)
def test_a_part_that_means_nothing_cannot_be_written(what: str) -> None:
    field, write = PARTS[what]
    with pytest.raises(Malformed) as refused:
        write()
    assert refused.value.where == field


WHOLES: dict[str, tuple[str, Callable[[Plan], Plan]]] = {
    "another version": ("v", lambda p: replace(p, v=2)),
    "a short salt": ("salt", lambda p: replace(p, salt=b"short")),
    "one side": ("sides", lambda p: replace(p, sides=p.sides[:1])),
    "three sides": ("sides", lambda p: replace(p, sides=(*p.sides, p.sides[0]))),
    "one holder twice": ("sides", lambda p: with_side(p, 1, holder=p.sides[0].holder)),
    "no receiver": ("receivers", lambda p: replace(p, receivers=())),
    "two receivers": ("receivers", lambda p: replace(p, receivers=p.receivers * 2)),
    "an end before its beginning": ("run_by", lambda p: replace(p, run_by=p.created_at)),
    "no time to run": ("run_seconds", lambda p: replace(p, run_seconds=0)),
    "more than a day to run": ("run_seconds", lambda p: replace(p, run_seconds=86_401)),
    "a negative epsilon": ("epsilon", lambda p: replace(p, epsilon=Fraction(-1, 2))),
    "too many groups": (
        "group_by",
        lambda p: with_side(p, 1, group_by=(GroupBy("age", cuts=tuple(range(MAX_CELLS))),)),
    ),
}


@pytest.mark.parametrize("what", WHOLES)
def test_a_plan_that_nobody_could_run_cannot_be_written(what: str) -> None:
    field, change = WHOLES[what]
    with pytest.raises(Malformed) as refused:
        change(a_plan(BOTH))
    assert refused.value.where == field


def test_groups_are_counted_over_both_sides() -> None:
    plan = a_plan(BOTH)
    assert [side.groups for side in plan.sides] == [2, 3]
    assert plan.cells == 6
    assert with_side(plan, 0, group_by=()).cells == 3


def test_the_price_is_the_sum_of_the_holders_prices() -> None:
    assert a_plan(BOTH).price_minor == 200


def test_a_column_that_is_used_twice_is_read_once() -> None:
    plan = with_side(a_plan(BOTH), 1, filters=(Filter("age", ">", number=1),))
    assert plan.sides[1].columns == ("age",)


# Signature


def test_a_plan_is_read_back_byte_for_byte_and_named_by_its_digest() -> None:
    plan, key = a_plan(BOTH), SigningKey.generate()
    envelope = plans.sign_plan(plan, key)
    assert plans.read_plan(envelope) == plan
    assert envelope.payload == record.to_bytes(plan)
    assert envelope.payload_digest == digest(record.to_bytes(plan))
    dsse.verify(envelope, plans.PAYLOAD_TYPE, key.public)


def test_a_plans_signature_is_its_consumers_and_over_this_plan_alone() -> None:
    key = SigningKey.generate()
    envelope = plans.sign_plan(a_plan(BOTH), key)
    other = plans.sign_plan(a_plan(BOTH), key)
    with pytest.raises(UnknownKey):
        dsse.verify(envelope, plans.PAYLOAD_TYPE, SigningKey.generate().public)
    with pytest.raises(BadSignature):
        dsse.verify(replace(envelope, signatures=other.signatures), plans.PAYLOAD_TYPE, key.public)
    with pytest.raises(BadSignature):
        dsse.verify(envelope, "application/vnd.unseen.agreement.v1+json", key.public)


def test_a_plan_with_an_unknown_field_is_not_a_plan() -> None:
    envelope = plans.sign_plan(a_plan(BOTH), SigningKey.generate())
    payload = envelope.payload.replace(b'"v":1', b'"v":1,"w":2')
    with pytest.raises(Malformed):
        plans.read_plan(replace(envelope, payload=payload))


# Questions


FOOTINGS = {
    ground.product.id: Footing(
        ground, digest(b"agreement"), digest(record.to_bytes(ground.product))
    )
    for ground in BOTH
}


def a_question(**changes: object) -> Question:
    question = Question(
        products=(FIRST.id, SECOND.id),
        purpose="research",
        join=Join.REVEALED,
        intersection=Intersection.RR22,
        group_by=(AskedGroup(FIRST.id, "sex"), AskedGroup(SECOND.id, "bmi", ("18.5", "25"))),
        measures=(AskedMeasure(FIRST.id, "bmi", Function.MEAN),),
        where=(AskedFilter(SECOND.id, "age", ">=", "18"),),
        min_group=6,
        run_seconds=60,
    )
    return replace(question, **changes)  # type: ignore[arg-type]


def compiled(question: Question, wait: timedelta = timedelta(minutes=15)) -> Plan:
    return compile_question(
        question, FOOTINGS, operator=OPERATOR, now=NOW, wait=wait, randomness=RANDOM
    )


def test_a_question_becomes_exact_integers_in_the_order_of_its_products() -> None:
    plan = compiled(a_question())
    first, second = plan.sides
    assert (first.holder, second.holder) == (CLINIC, LAB)
    assert first.group_by == (GroupBy("sex", categories=("f", "m")),)
    assert first.measures == (Measure("bmi", Function.MEAN),)
    assert second.group_by == (GroupBy("bmi", cuts=(185, 250)),)
    assert second.filters == (Filter("age", ">=", number=18),)
    assert (plan.consumer, plan.operator) == (CONSUMER, OPERATOR)
    assert plan.epsilon == 0
    assert plan.learns == learns(plan)


def test_sides_follow_the_question() -> None:
    plan = compiled(a_question(products=(SECOND.id, FIRST.id)))
    assert plan.engine_parties == (LAB, CLINIC)


def test_two_plans_of_one_question_are_two_jobs() -> None:
    one, two = compiled(a_question()), compiled(a_question())
    assert one.job != two.job
    assert one.salt != two.salt


def test_a_job_waits_no_longer_than_its_agreements_last() -> None:
    ends = BOTH[0].agreement.terms.valid_until
    assert compiled(a_question(), wait=timedelta(days=99)).run_by == ends
    assert compiled(a_question()).run_by == NOW + timedelta(minutes=15)


QUESTIONS: dict[str, tuple[str, dict[str, object]]] = {
    "one product": ("products", {"products": (FIRST.id,)}),
    "one product twice": ("products", {"products": (FIRST.id, FIRST.id)}),
    "a product without an agreement": (
        "products[1]",
        {"products": (FIRST.id, a_product().id)},
    ),
    "a group of another product": (
        "group_by[0].product",
        {"group_by": (AskedGroup(a_product().id, "sex"),)},
    ),
    "a measure of another product": (
        "measures[0].product",
        {"measures": (AskedMeasure(a_product().id, "bmi", Function.SUM),)},
    ),
    "a filter on another product": (
        "where[0].product",
        {"where": (AskedFilter(a_product().id, "age", "=", "1"),)},
    ),
    "an unknown column": ("group_by[0].column", {"group_by": (AskedGroup(FIRST.id, "size"),)}),
    "a group without a public domain": (
        "group_by[0].column",
        {"group_by": (AskedGroup(FIRST.id, "age"),)},
    ),
    "more decimals than are kept": (
        "group_by[0].column",
        {"group_by": (AskedGroup(FIRST.id, "bmi", ("18.55",)),)},
    ),
    "a number that is none": (
        "group_by[0].column",
        {"group_by": (AskedGroup(FIRST.id, "bmi", ("NaN",)),)},
    ),
    "an endless number": (
        "where[0]",
        {"where": (AskedFilter(FIRST.id, "age", "<", "Infinity"),)},
    ),
    "words for a number": (
        "where[0]",
        {"where": (AskedFilter(FIRST.id, "age", "<", "old"),)},
    ),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_a_question_that_no_plan_answers_is_refused_by_field(what: str) -> None:
    field, changes = QUESTIONS[what]
    with pytest.raises(QuestionRefused) as refused:
        compiled(a_question(**changes))
    assert refused.value.where == field


# Words


@pytest.mark.parametrize("language", Language)
def test_everybody_in_a_plan_is_told_what_it_learns(language: Language) -> None:
    words = learns(a_plan(BOTH), language)
    assert set(words) == {CONSUMER, CLINIC, LAB, OPERATOR}
    assert all(words.values())


@pytest.mark.parametrize("language", Language)
def test_the_words_name_groups_sizes_and_measures(language: Language) -> None:
    plan = a_plan(BOTH, gate=Gate(17))
    words = learns(plan, language)[CONSUMER]
    assert " 6 " in words
    assert "17" in words
    assert "mean of bmi" in words or "bmi" in words
    counted = learns(with_side(plan, 0, measures=()), language)[CONSUMER]
    assert "bmi" not in counted


def test_words_change_with_what_the_receiver_gets() -> None:
    plan = a_plan(BOTH)
    for other in (
        replace(plan, gate=Gate(7)),
        with_side(plan, 0, group_by=()),
        with_side(plan, 0, measures=(Measure("bmi", Function.SUM),)),
    ):
        assert learns(other)[CONSUMER] != learns(plan)[CONSUMER]


def test_the_join_that_tells_who_matched_says_so_to_both_holders() -> None:
    words = learns(a_plan(BOTH))
    assert words[CLINIC] == words[LAB]
    assert "Which of its own keys" in words[CLINIC]


def test_a_footing_is_only_what_was_agreed() -> None:
    """The plan's price, currency and deal come from the agreements, not from the question."""
    plan = compiled(a_question())
    first: Ground = BOTH[0]
    assert plan.deal == first.agreement.deal
    assert plan.currency == first.agreement.terms.currency
    assert [side.price_minor for side in plan.sides] == [100, 100]
