"""Which parties of a job may not be of one owner, as everybody declares."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from crypto.identifiers import PartyId
from exchange.query.plan import HelperSeat, Plan
from exchange.query.rules import owner_violations
from tests.queries import (
    HELPER,
    a_hidden_plan,
    a_plan,
    compiled,
    open_grounds,
    three_grounds,
)

OWNERS = ("91440300708461136T", "91330100799655058B", "12100000400000624D", "51110000DEMNHELP4C")


def plan_with_helper() -> Plan:
    return a_hidden_plan(open_grounds())


def seats(plan: Plan) -> list[PartyId]:
    """Holders, consumer, helper."""
    assert plan.helper is not None
    return [*(side.holder for side in plan.sides), plan.consumer, plan.helper.party]


def declared(plan: Plan, *owners: str | None) -> dict[PartyId, str | None]:
    return dict(zip(seats(plan), owners, strict=True))


def test_four_owners_of_their_own_are_fine() -> None:
    plan = plan_with_helper()
    assert owner_violations(plan, declared(plan, *OWNERS)) == ()


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first holder", "second holder", "consumer"])
def test_a_helper_under_the_control_of_a_partys_owner_is_refused(place: int) -> None:
    plan = plan_with_helper()
    controllers = declared(plan, *OWNERS[:3], OWNERS[place])
    (found,) = owner_violations(plan, controllers)
    assert (found.clause, found.where) == ("party.controller", "helper")
    assert str(seats(plan)[place]) in found.problem
    assert OWNERS[place] in found.problem


@pytest.mark.parametrize("place", range(4))
def test_whoever_declares_nothing_cannot_take_part_beside_a_helper(place: int) -> None:
    plan = plan_with_helper()
    owners = [None if at == place else owner for at, owner in enumerate(OWNERS)]
    (found,) = owner_violations(plan, declared(plan, *owners))
    assert str(seats(plan)[place]) in found.problem
    assert "exchange party declare" in found.problem


def test_a_party_of_whom_nothing_is_known_has_declared_nothing() -> None:
    plan = plan_with_helper()
    assert len(owner_violations(plan, {})) == 4


def test_parties_that_declare_nothing_are_not_taken_for_one_owner_but_refused() -> None:
    plan = plan_with_helper()
    found = owner_violations(plan, dict.fromkeys(seats(plan)))
    assert all("has not declared" in one.problem for one in found)


def test_two_holders_may_have_one_owner() -> None:
    """It joins what it has anyway; the helper still sees nothing."""
    plan = plan_with_helper()
    one = OWNERS[0]
    assert owner_violations(plan, declared(plan, one, one, OWNERS[2], OWNERS[3])) == ()
    assert len(owner_violations(plan, declared(plan, one, one, OWNERS[2], one))) == 2


@pytest.mark.parametrize("place", [0, 1])
def test_a_consumer_of_one_owner_with_a_holder_gets_nothing_exact_of_what_is_joined(
    place: int,
) -> None:
    """The holder could mark one person for it; what noise covers it may ask."""
    sql = "SELECT COUNT(*) FROM a JOIN b USING (person)"
    exact, noisy = (compiled(sql, open_grounds(), epsilon=e) for e in (None, Fraction(1)))
    holders = [side.holder for side in exact.sides]
    controllers = dict(zip(holders, OWNERS, strict=False))
    controllers |= {exact.consumer: OWNERS[place], HELPER: OWNERS[3]}
    (found,) = owner_violations(exact, controllers)
    assert (found.clause, found.where) == ("party.controller", f"sides[{place}]")
    assert "could mark one person" in found.problem
    assert owner_violations(noisy, controllers) == ()


def test_one_holders_own_table_may_be_asked_by_its_owner() -> None:
    plan = compiled("SELECT COUNT(*) FROM a", open_grounds()[:1])
    one = dict.fromkeys([plan.sides[0].holder, plan.consumer], OWNERS[0])
    assert owner_violations(plan, one) == ()


def test_without_a_helper_nobody_needs_to_declare() -> None:
    assert owner_violations(a_plan(open_grounds()), {}) == ()


def test_another_helper_is_judged_by_its_own_declaration() -> None:
    plan = plan_with_helper()
    assert plan.helper is not None
    other = replace(plan, helper=HelperSeat(PartyId("pty_" + "9" * 32), plan.helper.document))
    controllers = declared(plan, *OWNERS)
    assert len(owner_violations(other, controllers)) == 1


def test_of_three_holders_the_first_is_of_another_owner_than_the_rest() -> None:
    """With the first holder's lists of pairs its owner would read who of another table is in the
    third; two others of one owner have no list of their own rows."""
    plan = compiled(
        "SELECT COUNT(*) FROM a JOIN b USING (person) JOIN c USING (person)", three_grounds()
    )
    fifth = "91110000802100433B"
    own = dict(zip(seats(plan), (*OWNERS[:3], fifth, OWNERS[3]), strict=True))
    assert owner_violations(plan, own) == ()
    first, second, third = (side.holder for side in plan.sides)
    for place, party in ((1, second), (2, third)):
        (found,) = owner_violations(plan, {**own, party: own[first]})
        assert (found.clause, found.where) == ("party.controller", f"sides[{place}]")
        assert "independent of both others first in FROM" in found.problem
    assert owner_violations(plan, {**own, third: own[second]}) == ()
    two = plan_with_helper()
    assert owner_violations(two, declared(two, OWNERS[0], OWNERS[0], *OWNERS[2:])) == ()
