"""Money is exact, and never crosses currencies."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.identifiers import PartyId
from crypto.record import Amount
from pricing.account import AccountId, AccountKind, party_account
from pricing.errors import MoneyRefused
from pricing.money import MAX_MINOR, Money, split

WEIGHTS = st.lists(
    st.one_of(st.integers(0, 10**6), st.fractions(min_value=0, max_value=10)), min_size=1
).filter(any)


def test_a_hundred_yuan_by_shapley_weights_loses_no_fen() -> None:
    weights = [Fraction(2, 3), Fraction(1, 6), Fraction(1, 6)]
    assert split(Amount(10_000), weights) == (6667, 1667, 1666)


@given(total=st.integers(0, MAX_MINOR), weights=WEIGHTS)
def test_a_split_sums_to_its_total_and_is_at_most_one_unit_off(
    total: int, weights: list[int | Fraction]
) -> None:
    parts = split(Amount(total), weights)
    whole = sum(Fraction(weight) for weight in weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * Fraction(weight) / whole) < 1
        assert weight or not part


@given(total=st.integers(0, 10**6), weights=WEIGHTS)
def test_equal_weights_differ_by_a_unit_at_most_and_the_earlier_gets_it(
    total: int, weights: list[int | Fraction]
) -> None:
    parts = split(Amount(total), [1] * len(weights))
    assert list(parts) == sorted(parts, reverse=True)
    assert parts[0] - parts[-1] <= 1


@pytest.mark.parametrize(("total", "weights"), [(-1, [1]), (1, []), (1, [0, 0]), (1, [2, -1])])
def test_a_split_that_cannot_be_is_refused(total: int, weights: list[int]) -> None:
    with pytest.raises(MoneyRefused):
        split(Amount(total), weights)


@pytest.mark.parametrize("amount", [1.0, 1, True, "1"])
def test_only_an_amount_is_money(amount: Any) -> None:
    with pytest.raises(MoneyRefused):
        Money("CNY", amount)


def test_currencies_do_not_add_up() -> None:
    assert Money("CNY", Amount(3)) - Money("CNY", Amount(5)) == Money("CNY", Amount(-2))
    with pytest.raises(MoneyRefused):
        Money("CNY", Amount(1)) + Money("TEST", Amount(1))


@pytest.mark.parametrize("currency", ["", "cny", "CN", "CNYUAN", "C1Y", "CNY\n"])
def test_a_currency_is_three_or_four_capitals(currency: str) -> None:
    with pytest.raises(MoneyRefused):
        Money(currency, Amount(1))


def test_an_amount_beyond_the_books_range_is_refused() -> None:
    with pytest.raises(MoneyRefused):
        Money("CNY", Amount(MAX_MINOR + 1))


def test_an_account_is_read_back_from_its_text() -> None:
    account = party_account(PartyId("pty_" + "0" * 32), "TEST")
    assert AccountId.parse(str(account)) == account
    assert account.kind is AccountKind.PARTY


@pytest.mark.parametrize(
    "text", ["", "party:x", "bank:x:CNY", "party::CNY", "party:a b:CNY", "party:x:CNY:y"]
)
def test_text_that_names_no_account_is_refused(text: str) -> None:
    with pytest.raises(MoneyRefused):
        AccountId.parse(text)
