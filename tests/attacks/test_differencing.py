"""Differencing: two answers about many people are subtracted, and what is left is about one.

Attacker:        a consumer, or two that pool their answers
Knowledge:       something about the target that a filter can say; here her age
Goal:            one value of hers, which no answer about fewer than six people shows
Success measure: the value that the difference gives, exactly
False alarms:    none where answers are exact. Under noise 1 run in 10**6 by the stated bound

The product refuses the second answer (the history gate), or answers both with noise that the
difference carries as well. What the gate does not see is shown here too.
Source: Dobkin, Jones and Lipton 1979; the tracker is that of Denning, Denning and Schwartz 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest

from crypto.joins.released import Cell
from exchange.errors import HistoryRefused
from tests.attacks.clinic import LEAST, OTHERS, TARGET, a_holder, only
from tests.attacks.measured import most_guessed

ALL = "SELECT COUNT(*), SUM(a.bmi) FROM a"
BUT_HER = "SELECT COUNT(*), SUM(a.bmi) FROM a WHERE a.age <> 93"
BMI = round(10 * TARGET[3])
SUM = 2  # the term: people, people with a value, the sum


def value(cells: Sequence[Cell], term: int = SUM) -> int:
    found = only(cells).terms[term]
    assert found is not None
    return found


def test_without_the_history_gate_two_answers_about_forty_people_are_about_one(
    tmp_path: Path,
) -> None:
    holder = a_holder(tmp_path)
    everybody, but_her = (holder.unprotected(holder.plan(sql)) for sql in (ALL, BUT_HER))
    assert value(everybody, 0) - value(but_her, 0) == 1
    assert value(everybody) - value(but_her) == BMI


@pytest.mark.parametrize(
    "order", [(ALL, BUT_HER), (BUT_HER, ALL)], ids=["more first", "less first"]
)
def test_the_second_of_them_is_refused_in_either_order(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    holder = a_holder(tmp_path)
    holder.answer(holder.plan(order[0]))
    with pytest.raises(HistoryRefused) as refused:
        holder.answer(holder.plan(order[1]))
    assert str(LEAST) in str(refused.value)
    assert str(BMI) not in str(refused.value) and "93" not in str(refused.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SELECT a.sex, COUNT(*) FROM a GROUP BY a.sex", "SELECT COUNT(*) FROM a WHERE a.age < 93"),
        (
            "SELECT a.sex, COUNT(*) FROM a GROUP BY a.sex",
            "SELECT a.sex, COUNT(*) FROM a WHERE a.age < 93 GROUP BY a.sex",
        ),
        (
            "SELECT BANDS(a.age, 40, 90) AS band, COUNT(*) FROM a GROUP BY BANDS(a.age, 40, 90)",
            "SELECT COUNT(*) FROM a WHERE a.age >= 40",
        ),
        (
            "SELECT BANDS(a.age, 40, 90) AS band, COUNT(*) FROM a GROUP BY BANDS(a.age, 40, 90)",
            "SELECT BANDS(a.age, 40, 94) AS band, COUNT(*) FROM a GROUP BY BANDS(a.age, 40, 94)",
        ),
    ],
    ids=["groups, whole", "groups, groups", "a suppressed band, all but it", "two cuts"],
)
def test_groups_and_wholes_are_compared_with_groups_and_wholes(
    tmp_path: Path, first: str, second: str
) -> None:
    holder = a_holder(tmp_path)
    holder.answer(holder.plan(first))
    with pytest.raises(HistoryRefused):
        holder.answer(holder.plan(second))


def test_a_difference_of_enough_people_and_the_same_question_again_are_answered(
    tmp_path: Path,
) -> None:
    """The nearest that is allowed: exactly as many apart as a group must hold."""
    holder = a_holder(tmp_path, [*OTHERS, *((f"old{i}", "f", 93, 30.0) for i in range(LEAST))])
    first = holder.answer(holder.plan(ALL))
    assert holder.answer(holder.plan(ALL)) == first
    assert value(first, 0) - value(holder.answer(holder.plan(BUT_HER)), 0) == LEAST


def test_a_refusal_does_not_depend_on_rows_where_there_is_noise(tmp_path: Path) -> None:
    """A gate that looked at rows would be an exact answer to "is anybody there"."""
    holder = a_holder(tmp_path)
    holder.answer(holder.plan(ALL))
    holder.answer(holder.plan(BUT_HER, epsilon=Fraction(1)))


def test_with_noise_the_difference_says_hardly_more_than_both_answers_cost(tmp_path: Path) -> None:
    """Two noisy answers of epsilon 1/4 each, 400 times: whether she is there is guessed right no
    oftener than epsilon 1/2 permits, give or take five deviations."""
    attackers, right = 200, 0
    crowd = [(f"{name}{i}", sex, age, bmi) for i in range(6) for name, sex, age, bmi in OTHERS]
    for present in (True, False):
        folder = tmp_path / str(present)
        folder.mkdir()
        holder = a_holder(folder, [*crowd, *([TARGET] if present else [])])
        everybody, but_her = (
            holder.many(holder.plan(sql, epsilon=Fraction(1, 4)), attackers)
            for sql in ("SELECT COUNT(*) FROM a", "SELECT COUNT(*) FROM a WHERE a.age <> 93")
        )
        right += sum(
            (value(one, 0) - value(other, 0) >= 1) == present
            for one, other in zip(everybody, but_her, strict=True)
        )
    assert right / (2 * attackers) <= most_guessed(0.5) + 5 * (0.25 / (2 * attackers)) ** 0.5


def test_three_exact_answers_of_which_no_two_are_near_are_not_refused(tmp_path: Path) -> None:
    """The published limit: the young, the older ones, everybody. Each differs from each by twenty
    people, and all together by one."""
    holder = a_holder(tmp_path)
    asked = [
        "SELECT COUNT(*), SUM(a.bmi) FROM a WHERE a.age < 40",
        "SELECT COUNT(*), SUM(a.bmi) FROM a WHERE a.age >= 40 AND a.age < 60",
        ALL,
    ]
    young, older, everybody = (value(holder.answer(holder.plan(sql))) for sql in asked)
    assert everybody - young - older == BMI
