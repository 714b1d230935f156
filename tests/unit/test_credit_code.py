"""Unified social credit codes: one spelling, and a check character that finds the usual slips."""

from __future__ import annotations

import pytest

from crypto.errors import Malformed
from registry.credit_code import check_character, require_credit_code

# Published by the organisations themselves: two companies and a university.
REAL = ["91440300708461136T", "91330100799655058B", "12100000400000624D"]


@pytest.mark.parametrize("code", REAL)
def test_codes_in_use_fit(code: str) -> None:
    require_credit_code(code, where="controller")
    assert check_character(code[:17]) == code[17]


@pytest.mark.parametrize("place", range(18))
def test_one_wrong_character_at_any_place_is_found(place: int) -> None:
    code = REAL[0]
    other = "1" if code[place] == "0" else "0"
    with pytest.raises(Malformed):
        require_credit_code(code[:place] + other + code[place + 1 :], where="controller")


def test_two_neighbours_exchanged_are_found() -> None:
    code = REAL[0]
    for place in range(17):
        if code[place] != code[place + 1]:
            slip = code[:place] + code[place + 1] + code[place] + code[place + 2 :]
            with pytest.raises(Malformed):
                require_credit_code(slip, where="controller")


@pytest.mark.parametrize(
    "text",
    ["", REAL[0][:17], REAL[0] + "0", REAL[0].lower(), f" {REAL[0]}", "９" + REAL[0][1:], "I" * 18],
)
def test_another_spelling_is_refused_by_field(text: str) -> None:
    with pytest.raises(Malformed, match="controller"):
        require_credit_code(text, where="controller")
