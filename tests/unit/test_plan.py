"""Plans: what cannot be one, and what is signed. How SQL becomes one: test_sql_plans.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import pytest

from crypto import envelope as dsse
from crypto import record
from crypto.digest import digest
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.joins.layout import Order
from crypto.keys import SigningKey
from crypto.noise import MAX_SCALE, Distribution
from exchange.query import plan as plans
from exchange.query.plan import (
    MAX_CELLS,
    MAX_STATISTICS,
    Argument,
    CrossCondition,
    Gate,
    GroupBy,
    HelperSeat,
    Lookup,
    Noise,
    Padding,
    Plan,
    Score,
    Statistic,
)
from exchange.query.released import Calculated, Calculation, Having, Output, Released
from registry.expression import (
    ColumnValue,
    Comparator,
    Compare,
    Expression,
    Number,
)
from registry.rule import Function, Join
from tests.queries import (
    CLINIC,
    CONSUMER,
    DOCUMENTS,
    HELPER,
    LAB,
    a_hidden_plan,
    a_plan,
    a_product,
    a_statistic,
    grounds,
    mean_of,
    open_grounds,
    with_query,
    with_side,
)

BOTH = grounds(a_product(CLINIC), a_product(LAB))
AGE: Expression = ColumnValue("age")
YOUNG = Compare(Comparator.LESS, AGE, Number(18, 0))
PADDING = Padding(Fraction(1, 10), Fraction(1, 10**9))


def of(function: Function, *sides: int, **changes: object) -> Statistic:
    arguments = tuple(Argument(side, AGE) for side in sides)
    return Statistic(function, arguments, **{"distinct": False, **changes})  # type: ignore[arg-type]


def noise(**changes: object) -> Noise:
    found = Noise(
        Distribution.LAPLACE, Fraction(1), Fraction(1, 10), None, (Fraction(1),), Fraction(1, 10)
    )
    return replace(found, **changes)  # type: ignore[arg-type]


# Shape

PARTS: dict[str, tuple[str, Callable[[], object]]] = {
    "a group of no form": ("group_by", lambda: GroupBy("sex")),
    "a group of two forms": ("group_by", lambda: GroupBy("age", categories=("f",), cuts=(1,))),
    "no categories": ("categories", lambda: GroupBy("sex", categories=())),
    "a category twice": ("categories", lambda: GroupBy("sex", categories=("f", "f"))),
    "no cuts": ("cuts", lambda: GroupBy("age", cuts=())),
    "cuts that descend": ("cuts", lambda: GroupBy("age", cuts=(65, 18))),
    "a cut twice": ("cuts", lambda: GroupBy("age", cuts=(18, 18))),
    "cases without labels": ("labels", lambda: GroupBy("age", cases=(YOUNG,))),
    "labels without cases": ("labels", lambda: GroupBy("age", cuts=(1,), labels=("x",))),
    "no cases": ("labels", lambda: GroupBy("age", cases=(), labels=("x",))),
    "two labels too many": (
        "labels",
        lambda: GroupBy("age", cases=(YOUNG,), labels=("x", "y", "z")),
    ),
    "a label twice": ("labels", lambda: GroupBy("age", cases=(YOUNG,), labels=("x", "x"))),
    "a count of three columns": ("arguments", lambda: of(Function.COUNT, 0, 1, 0)),
    "a sum of nothing": ("arguments", lambda: of(Function.SUM)),
    "a product within one side": ("arguments", lambda: of(Function.SUM, 1, 1)),
    "a least of two columns": ("arguments", lambda: of(Function.MIN, 0, 1)),
    "a correlation of one column": ("arguments", lambda: of(Function.CORRELATION, 0)),
    "a regression on nothing": ("arguments", lambda: of(Function.REGRESSION, 0)),
    "a regression on eight columns": ("arguments", lambda: of(Function.REGRESSION, *[0] * 9)),
    "a distinct sum": ("distinct", lambda: of(Function.SUM, 0, distinct=True)),
    "a distinct count of a column": ("distinct", lambda: of(Function.COUNT, 0, distinct=True)),
    "a quantile without its share": ("quantile", lambda: of(Function.QUANTILE, 0, cuts=(1, 2))),
    "a sum with a share": ("quantile", lambda: of(Function.SUM, 0, quantile=Fraction(1, 2))),
    "a quantile of all": (
        "quantile",
        lambda: of(Function.QUANTILE, 0, quantile=Fraction(1), cuts=(1, 2)),
    ),
    "a quantile of one cut": (
        "cuts",
        lambda: of(Function.QUANTILE, 0, quantile=Fraction(1, 2), cuts=(1,)),
    ),
    "groups of one": ("min_group", lambda: Gate(1)),
    "a share above all": ("dominance", lambda: Gate(5, dominance=Fraction(3, 2))),
    "no share": ("dominance", lambda: Gate(5, dominance=Fraction(0))),
    "rounding to ones": ("round_counts", lambda: Gate(5, round_counts=1)),
    "padding for nothing": ("padding", lambda: Padding(Fraction(0), Fraction(1, 10))),
    "padding that is sure to fail": ("padding", lambda: Padding(Fraction(1), Fraction(1))),
    "padding for an epsilon without meaning": (
        "padding",
        lambda: Padding(Fraction(101), Fraction(1, 2)),
    ),
    "padding that would be all of an upload": (
        "padding.epsilon",
        lambda: Padding(Fraction(1, 10**8), Fraction(1, 10**9)),
    ),
    "padding that never fails": (
        "padding.delta",
        lambda: Padding(Fraction(1, 10), Fraction(1, 10**300)),
    ),
    "noise for nothing": ("noise", lambda: noise(epsilon=Fraction(0))),
    "noise for an epsilon without meaning": ("noise", lambda: noise(epsilon=Fraction(10**9))),
    "a chance of all": ("noise", lambda: noise(beta=Fraction(1))),
    "a scale of zero": ("noise.scales", lambda: noise(scales=(Fraction(0),))),
    "a scale that no engine draws": (
        "noise.scales",
        lambda: noise(scales=(Fraction(MAX_SCALE) + Fraction(1, 9),)),
    ),
    "Laplace noise with a rho": ("noise.rho", lambda: noise(rho=Fraction(1))),
    "Gaussian noise without": ("noise.rho", lambda: noise(distribution=Distribution.GAUSSIAN)),
    "an output without a name": ("name", lambda: Output("", Released(0, 0))),
    "an output with a line in its name": ("name", lambda: Output("a\nb", Released(0, 0))),
    "no rows to score": ("rows", lambda: Score(0, "x")),
    "no keys to look up": ("keys", lambda: Lookup(0, ("a",), 0)),
    "a column looked up twice": ("columns", lambda: Lookup(1, ("a", "a"), 0)),
}


@pytest.mark.parametrize("what", PARTS)
def test_a_part_that_means_nothing_cannot_be_written(what: str) -> None:
    field, write = PARTS[what]
    with pytest.raises(Malformed) as refused:
        write()
    assert refused.value.where == field


def shows(value: object) -> Callable[[Plan], Plan]:
    return lambda p: with_query(p, outputs=(Output("x", value),))  # type: ignore[arg-type]


HELP = HelperSeat(HELPER, DOCUMENTS[HELPER])
ACROSS = CrossCondition(AGE, Order.LESS, AGE)

WHOLES: dict[str, tuple[str, Callable[[Plan], Plan]]] = {
    "another version": ("v", lambda p: replace(p, v=2)),
    "a short salt": ("salt", lambda p: replace(p, salt=b"short")),
    "one side": ("sides", lambda p: replace(p, sides=p.sides[:1])),
    "three sides": ("sides", lambda p: replace(p, sides=(*p.sides, p.sides[0]))),
    "one holder twice": ("sides", lambda p: with_side(p, 1, holder=p.sides[0].holder)),
    "two sides alone": ("sides", lambda p: replace(p, join=Join.ALONE)),
    "no receiver": ("receivers", lambda p: replace(p, receivers=())),
    "two receivers": ("receivers", lambda p: replace(p, receivers=p.receivers * 2)),
    "a sum join with a helper": ("helper", lambda p: replace(p, join=Join.SUM, helper=HELP)),
    "a hidden join without a helper": ("helper", lambda p: replace(p, join=Join.HIDDEN)),
    "an end before its beginning": ("run_by", lambda p: replace(p, run_by=p.created_at)),
    "an end after all times": (
        "run_by",
        lambda p: replace(p, run_by=datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ),
    "no time to run": ("run_seconds", lambda p: replace(p, run_seconds=0)),
    "more than a day to run": ("run_seconds", lambda p: replace(p, run_seconds=86_401)),
    "too many groups": (
        "group_by",
        lambda p: with_side(p, 1, group_by=(GroupBy("age", cuts=tuple(range(MAX_CELLS))),)),
    ),
    "scoring by a join": ("work", lambda p: replace(p, work=Score(1, "x"))),
    "a query as a lookup": (
        "work",
        lambda p: replace(p, join=Join.LOOKUP, sides=p.sides[:1]),
    ),
    "a lookup with groups": (
        "sides",
        lambda p: replace(p, join=Join.LOOKUP, sides=p.sides[:1], work=Lookup(1, ("age",), 0)),
    ),
    "a sum join by intersection": ("work.intersection", lambda p: replace(p, join=Join.SUM)),
    "a revealed join without": ("work.intersection", lambda p: with_query(p, intersection=None)),
    "padding of a revealed join": ("work.padding", lambda p: with_query(p, padding=PADDING)),
    "hidden size of a revealed join": (
        "work.hide_size",
        lambda p: with_query(p, hide_size=True),
    ),
    "no statistics": ("statistics", lambda p: with_query(p, statistics=())),
    "too many statistics": (
        "statistics",
        lambda p: with_query(p, statistics=(mean_of("bmi"),) * (MAX_STATISTICS + 1)),
    ),
    "no outputs": ("outputs", lambda p: with_query(p, outputs=())),
    "a statistic of a third side": (
        "work.statistics[0]",
        lambda p: with_query(p, statistics=(mean_of("bmi", 2),)),
    ),
    "a statistic of the last side, counted backwards": (
        "work.statistics[0]",
        lambda p: with_query(p, statistics=(mean_of("bmi", -1),)),
    ),
    "an output of nothing": ("outputs[0]", shows(Released(1, 0))),
    "an output counted backwards": ("outputs[0]", shows(Released(-1, 0))),
    "the slope of a mean": ("outputs[0]", shows(Released(0, 1))),
    "a calculation with nothing": (
        "outputs[0]",
        shows(Calculated(Calculation.ADD, Number(1, 0), Released(9, 0))),
    ),
    "a condition on nothing": (
        "having[0]",
        lambda p: with_query(p, having=(Having(Number(1, 0), Comparator.LESS, Released(3, 0)),)),
    ),
}


@pytest.mark.parametrize("what", WHOLES)
def test_a_plan_that_nobody_could_run_cannot_be_written(what: str) -> None:
    field, change = WHOLES[what]
    with pytest.raises(Malformed) as refused:
        change(a_plan(BOTH))
    assert refused.value.where == field


def test_what_needs_two_tables_cannot_be_written_about_one_or_about_a_union() -> None:
    alone = replace(
        a_plan(BOTH),
        join=Join.ALONE,
        sides=a_plan(BOTH).sides[:1],
        work=replace(a_plan(BOTH).query, intersection=None),
    )
    union = replace(
        a_plan(BOTH),
        join=Join.UNION,
        helper=HELP,
        sides=tuple(replace(side, group_by=()) for side in a_plan(BOTH).sides),
        work=replace(a_plan(BOTH).query, intersection=None),
    )
    for plan in (alone, union):
        for where, changes in (
            ("work.keep_left", {"keep_left": True}),
            ("work.comparisons", {"comparisons": (ACROSS,)}),
        ):
            with pytest.raises(Malformed) as refused:
                with_query(plan, **changes)
            assert refused.value.where == where


def test_both_sides_of_a_union_have_the_same_groups() -> None:
    with pytest.raises(Malformed, match="same groups"):
        replace(
            a_plan(BOTH),
            join=Join.UNION,
            helper=HELP,
            work=replace(a_plan(BOTH).query, intersection=None),
        )


def test_groups_are_counted_over_both_sides() -> None:
    plan = a_plan(BOTH)
    assert [side.groups for side in plan.sides] == [2, 3]
    assert plan.cells == 6
    assert with_side(plan, 0, group_by=()).cells == 3
    rest = GroupBy("age", cases=(YOUNG,), labels=("young", "other"))
    assert with_side(plan, 1, group_by=(rest, GroupBy("sex", categories=("f",)))).cells == 4


def test_a_plan_costs_its_padding_and_its_noise_together() -> None:
    both = open_grounds()
    assert a_plan(both).epsilon == a_plan(both).delta == 0
    plan = a_hidden_plan(both, noise=noise(epsilon=Fraction(1, 3)))
    assert plan.epsilon == Fraction(1, 10) + Fraction(1, 3)
    assert plan.delta == Fraction(1, 10**9) + Fraction(1, 10)


def test_the_price_is_the_sum_of_the_holders_prices() -> None:
    assert a_plan(BOTH).price_minor == 200


def test_who_computes_and_who_seals_follows_from_the_join() -> None:
    assert a_plan(BOTH).engine_parties == (CLINIC, LAB)
    assert a_hidden_plan(open_grounds()).engine_parties == (CLINIC, LAB, HELPER)
    lookup = replace(
        a_plan(BOTH),
        join=Join.LOOKUP,
        sides=tuple(replace(side, group_by=()) for side in a_plan(BOTH).sides[:1]),
        work=Lookup(1, ("age",), 0),
    )
    assert lookup.engine_parties == (CLINIC, CONSUMER)
    assert lookup.sealers == (CLINIC,)


# Signature


def test_a_plan_is_read_back_byte_for_byte_and_named_by_its_digest() -> None:
    key = SigningKey.generate()
    for plan in (a_plan(BOTH), a_hidden_plan(open_grounds(), noise=noise())):
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


def test_a_statistic_keeps_its_kind_when_it_is_read_back() -> None:
    plan = with_query(a_plan(BOTH), statistics=(a_statistic(Function.SUM, "bmi"),))
    assert record.from_bytes(Plan, record.to_bytes(plan)) == plan
