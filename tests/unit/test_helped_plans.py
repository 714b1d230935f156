"""When a revealed join has a helper, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crypto.errors import Malformed
from exchange.errors import QuestionRefused
from exchange.node.parts import Keys, task_of
from exchange.query.explanation import Language, learns
from exchange.query.forecast import QueryPart, Step, explain
from exchange.query.plan import HelperSeat, Plan
from exchange.query.rules import Ground, violations
from registry.rule import Join
from tests.fakes.seats import nowhere
from tests.queries import (
    CLINIC,
    CONSUMER,
    DOCUMENTS,
    HELPER,
    LAB,
    STRANGER,
    a_product,
    an_agreement,
    an_open_rule,
    compiled,
    the_terms,
)

SQL = "SELECT a.sex, COUNT(*), SUM(b.bmi) FROM a JOIN b ON a.person = b.person GROUP BY a.sex"


def sized(cap: int, *helpers: object) -> tuple[Ground, ...]:
    rule = an_open_rule(joins=(Join.REVEALED,))
    two = [a_product(CLINIC, name="Clinic", rule=rule, cap=cap)]
    two.append(a_product(LAB, name="Lab", rule=rule, cap=cap))
    named = helpers or (HELPER, HELPER)
    return tuple(
        Ground(an_agreement(own, the_terms(own, other, helper=helper)), own)
        for own, other, helper in zip(two, reversed(two), named, strict=True)
    )


FEW, MANY = 1_000, 5_000_000


def helped(cap: int = FEW, **options: object) -> Plan:
    return compiled(SQL, sized(cap), helped=True, **options)


def test_the_helper_comes_in_where_that_is_quicker() -> None:
    assert compiled(SQL, sized(FEW)).helper is None
    plan = compiled(SQL, sized(MANY))
    assert plan.helper is not None and plan.helper.party == HELPER
    without = replace(plan, helper=None)
    products = [ground.product for ground in sized(MANY)]
    assert explain(plan, products).expected_ms < explain(without, products).expected_ms


def test_the_consumer_may_ask_for_it_or_ask_it_away() -> None:
    assert helped().helper == HelperSeat(HELPER, DOCUMENTS[HELPER])
    assert compiled(SQL, sized(MANY), helped=False).helper is None


@pytest.mark.parametrize("named", [(None, None), (HELPER, None), (HELPER, STRANGER)])
def test_only_a_helper_that_every_agreement_names_can_help(named: tuple[object, ...]) -> None:
    assert compiled(SQL, sized(MANY, *named)).helper is None
    with pytest.raises(QuestionRefused, match=r"name none|name several"):
        compiled(SQL, sized(MANY, *named), helped=True)


def test_a_node_refuses_a_helper_whom_its_agreement_does_not_name() -> None:
    grounds = sized(FEW)
    plan = compiled(SQL, grounds, helped=True)
    assert not violations(plan, grounds)
    forged = replace(plan, helper=HelperSeat(STRANGER, DOCUMENTS[HELPER]))
    found = violations(replace(forged, learns=learns(forged)), grounds)
    assert {violation.clause for violation in found} == {"terms.helper"}


def test_no_other_join_of_two_can_have_one() -> None:
    with pytest.raises(Malformed, match="does not fit"):
        replace(helped(), join=Join.SUM)


def test_everybody_reads_what_the_helper_learns_and_what_collusion_would() -> None:
    plan = helped()
    said, gesagt = learns(plan), learns(plan, Language.CHINESE)
    assert "Exactly how many rows matched" in said[HELPER]
    assert "确切数目" in gesagt[HELPER]
    for party in (CLINIC, LAB, HELPER):
        assert f"If the helper {HELPER} colludes" in said[party]
        assert f"若协助方 {HELPER} 与某一持有方合谋" in gesagt[party]
    assert "colludes" not in said[CONSUMER]
    assert "colludes" not in learns(replace(plan, helper=None))[CLINIC]


def test_the_forecast_says_what_goes_to_the_helper() -> None:
    plan = helped()
    part = explain(plan, [ground.product for ground in sized(FEW)]).work
    assert isinstance(part, QueryPart)
    assert part.meeting.helper == HELPER
    computing = [t for t in part.meeting.transfers if t.step is Step.COMPUTING]
    assert [(t.sender, t.receiver) for t in computing] == [(CLINIC, HELPER), (LAB, CLINIC)]


def test_three_seal_a_part_and_the_helper_is_given_no_key_of_the_holders() -> None:
    plan = helped()
    assert plan.engine_parties == (CLINIC, LAB, HELPER)
    assert plan.sealers == (CLINIC, LAB, HELPER)
    products = [ground.product for ground in sized(FEW)]
    tasks = [task_of(plan, products, seat, Keys({})) for seat in nowhere(3)]
    assert len({task.common for task in tasks}) == 1
