"""A product's privacy account: what fits, what is refused, and what it amounts to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from crypto.errors import Malformed
from crypto.identifiers import ProductId
from crypto.noise import Distribution, gaussian_epsilon, gaussian_rho
from exchange.errors import BudgetExhausted
from exchange.privacy import (
    CONVERSION,
    NOTHING,
    PrivacyAccount,
    PrivacyCost,
    account_of,
    cost_of,
    give_back,
    reserve,
)
from exchange.query.plan import Noise, Padding, Plan, Score
from registry.rule import Join, PrivacyRule
from tests.queries import CLINIC
from tests.query_plans import a_plan_of, a_query_plan, a_query_product

PRODUCT = ProductId("prd_019ad000-0000-7000-8000-000000000001")


def an_account(epsilon: str = "1", delta: str = "1/1000") -> PrivacyAccount:
    return PrivacyAccount(PRODUCT, Fraction(epsilon), Fraction(delta), NOTHING)


def a_cost(
    epsilon: str = "0", gaussian: str = "0", rho: str = "0", delta: str = "0"
) -> PrivacyCost:
    return PrivacyCost(*map(Fraction, (epsilon, gaussian, rho, delta)))


def a_gaussian_cost(epsilon: Fraction, delta: Fraction) -> PrivacyCost:
    """As a plan states it: rho that is worth epsilon at delta."""
    return PrivacyCost(Fraction(0), epsilon, gaussian_rho(epsilon, delta), delta)


def a_plan(padding: Padding | None = None, noise: Noise | None = None) -> Plan:
    plan = a_query_plan(join=Join.HIDDEN)
    return replace(
        plan, work=replace(plan.query, padding=padding or plan.query.padding, noise=noise)
    )


def a_noise(distribution: Distribution = Distribution.LAPLACE, rho: str | None = None) -> Noise:
    return Noise(
        distribution,
        epsilon=Fraction(1, 2),
        delta=Fraction(1, 10**6),
        rho=None if rho is None else Fraction(rho),
        scales=(Fraction(2),),
        beta=Fraction(1, 10**9),
    )


# What a plan costs


def test_padding_and_laplace_noise_add_up() -> None:
    cost = cost_of(a_plan(Padding(Fraction(1, 10), Fraction(1, 10**9)), a_noise()))
    assert cost == a_cost(epsilon="6/10", delta="1001/1000000000")


def test_gaussian_noise_is_kept_apart_as_epsilon_and_as_rho() -> None:
    noise = a_noise(Distribution.GAUSSIAN, rho="1/100")
    cost = cost_of(a_plan(Padding(Fraction(1, 10), Fraction(1, 10**9)), noise))
    assert (cost.epsilon, cost.gaussian, cost.rho) == (
        Fraction(1, 10),
        Fraction(1, 2),
        Fraction(1, 100),
    )


def test_what_no_plan_answers_from_rows_costs_nothing() -> None:
    plain = a_query_plan(join=Join.REVEALED)
    assert cost_of(plain) == NOTHING
    assert cost_of(a_plan_of(Score(10, "small"), Join.SCORE)) == NOTHING


@pytest.mark.parametrize("denominator", [3, 7, 12, 19, 1000, 1024])
def test_a_common_fraction_is_charged_exactly(denominator: int) -> None:
    padding = Padding(Fraction(1, denominator), Fraction(1, 10**12))
    account = an_account()
    for _ in range(denominator):
        account = reserve(account, cost_of(a_plan(padding)))
    assert account.epsilon_left == 0


def test_an_odd_fraction_is_rounded_up_and_makes_no_account_grow() -> None:
    odd = Padding(Fraction(10**36, 10**37 + 9), Fraction(10**20, 10**37 + 9))
    cost = cost_of(a_plan(odd))
    assert 0 < cost.epsilon - odd.epsilon < Fraction(1, 10**20)
    assert 0 < cost.delta - odd.delta <= Fraction(1, 10**30)
    assert cost.epsilon.denominator < 10**21
    assert cost.delta.denominator <= 10**30


# Reserving


def test_an_account_is_spent_to_its_last_fraction_and_no_further() -> None:
    account = reserve(an_account("1"), a_cost("3/4"))
    with pytest.raises(BudgetExhausted) as refused:
        reserve(account, a_cost("2/5"))
    assert (refused.value.asked, refused.value.left) == (Fraction(2, 5), Fraction(1, 4))
    assert str(PRODUCT) in str(refused.value) and "epsilon 1/4 left" in str(refused.value)
    assert refused.value.constraint == "rule.privacy.epsilon_total"
    assert reserve(account, a_cost("1/4")).epsilon_left == 0
    with pytest.raises(BudgetExhausted):
        reserve(reserve(account, a_cost("1/4")), a_cost(f"1/{10**37}"))


def test_delta_is_an_account_too() -> None:
    account = reserve(an_account(delta="1/1000"), a_cost("1/10", delta="9/10000"))
    with pytest.raises(BudgetExhausted) as refused:
        reserve(account, a_cost("1/10", delta="2/10000"))
    assert refused.value.name == "delta"
    assert refused.value.left == Fraction(1, 10_000)


def test_a_product_without_a_privacy_rule_can_pay_for_nothing_but_nothing() -> None:
    product = a_query_product(CLINIC)
    closed = replace(product, rule=replace(product.rule, joins=(Join.REVEALED,), privacy=None))
    account = account_of(closed, NOTHING)
    assert reserve(account, NOTHING) == account
    with pytest.raises(BudgetExhausted):
        reserve(account, a_cost(f"1/{10**20}"))


def test_a_new_version_neither_refills_an_account_nor_empties_it() -> None:
    product = a_query_product(CLINIC)
    rule = PrivacyRule(Fraction(1), Fraction(1), Fraction(1, 1000), noise=False)
    first = replace(product, rule=replace(product.rule, privacy=rule))
    spent = reserve(account_of(first, NOTHING), a_cost("1")).spent
    again = replace(first, version=2, name="the same rows under a new name")
    assert account_of(again, spent).epsilon_left == 0


def test_a_higher_total_leaves_more_and_a_lower_one_may_leave_less_than_nothing() -> None:
    product = a_query_product(CLINIC)

    def listed(total: int) -> PrivacyAccount:
        rule = PrivacyRule(Fraction(1, 2), Fraction(total), Fraction(1, 1000), noise=False)
        return account_of(replace(product, rule=replace(product.rule, privacy=rule)), a_cost("3"))

    assert listed(4).epsilon_left == 1
    assert listed(2).epsilon_left == -1
    with pytest.raises(BudgetExhausted):
        reserve(listed(2), a_cost("1/10"))
    assert reserve(listed(2), NOTHING) == listed(2)


def test_what_is_given_back_is_there_again_and_never_more() -> None:
    cost = a_cost("1/4", "1/8", "1/50", "1/100000")
    account = reserve(an_account(), cost)
    assert give_back(account, cost) == an_account()
    with pytest.raises(Malformed, match="more was returned"):
        give_back(give_back(account, cost), cost)


# Gaussian noise


def test_one_gaussian_job_costs_what_it_states_and_sets_delta_aside() -> None:
    account = reserve(an_account("2"), a_gaussian_cost(Fraction(1, 2), Fraction(1, 10**6)))
    assert account.epsilon_spent == Fraction(1, 2)
    assert account.delta_spent == Fraction(1, 10**6) + CONVERSION * account.delta_total


def test_many_gaussian_jobs_cost_less_than_their_epsilons() -> None:
    account, jobs = an_account("2", "1/100000"), 0
    cost = a_gaussian_cost(Fraction(1, 20), Fraction(1, 10**9))
    while True:
        try:
            account, jobs = reserve(account, cost), jobs + 1
        except BudgetExhausted:
            break
    assert jobs > 3 * 40  # basic composition alone would end after 40
    assert account.spent.gaussian > 6
    assert account.epsilon_spent <= 2


def test_an_account_spent_on_gaussian_noise_alone_ends_where_the_usual_curve_does() -> None:
    account = an_account("2")
    conversion = CONVERSION * account.delta_total
    most = gaussian_rho(account.epsilon_total, conversion)
    full = replace(account, spent=PrivacyCost(Fraction(0), Fraction(100), most, Fraction(0)))
    assert 0 <= full.epsilon_left < Fraction(1, 10**6)
    for part in (1, 3, 7, 9):
        rho = most * part / 10
        spent = replace(account, spent=PrivacyCost(Fraction(0), Fraction(100), rho, Fraction(0)))
        assert spent.epsilon_spent >= gaussian_epsilon(rho, conversion)


def test_laplace_jobs_set_no_delta_aside() -> None:
    assert reserve(an_account(), a_cost("1/2", delta="1/1000")).delta_left == 0


def test_gaussian_noise_that_leaves_no_room_for_its_conversion_is_refused() -> None:
    cost = a_gaussian_cost(Fraction(1, 2), Fraction(9, 10_000))
    with pytest.raises(BudgetExhausted) as refused:
        reserve(an_account(delta="1/1000"), cost)
    assert refused.value.name == "delta"


def test_giving_the_last_gaussian_job_back_frees_what_was_set_aside() -> None:
    cost = a_gaussian_cost(Fraction(1, 2), Fraction(1, 10**6))
    assert give_back(reserve(an_account(), cost), cost).delta_left == Fraction(1, 1000)
