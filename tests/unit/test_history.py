"""The history gate: what may not be asked after what was answered. Each attack works on a twin
without the gate, which answers from the same rows, and is refused with it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from exchange.errors import HistoryRefused
from exchange.node.history import Counted, Held, require_many, require_no_isolation

Int64Array = npt.NDArray[np.int64]
LEAST = 5
PEOPLE = 60
VICTIM = 17
INCOME = np.random.default_rng(3).integers(1000, 9000, PEOPLE)  # invented


def counted(membership: Sequence[int] | Int64Array, *, floor: int = LEAST) -> Counted:
    return Counted(np.array(membership, dtype=np.int64), floor)


def everybody(*but: int) -> Int64Array:
    """One group of all people but these."""
    found = np.zeros(PEOPLE, dtype=np.int64)
    found[list(but)] = -2
    return found


def halves() -> Int64Array:
    return np.arange(PEOPLE, dtype=np.int64) % 2


def answers(job: Counted, values: Int64Array = INCOME) -> dict[int, int]:
    """The twin without the gate: exact sums of groups that are large enough."""
    return {
        int(group): int(values[job.membership == group].sum())
        for group in np.unique(job.membership)
        if group >= 0 and (job.membership == group).sum() >= job.floor
    }


def is_refused(new: Counted, earlier: Counted, least: int = LEAST) -> bool:
    try:
        require_no_isolation(new, earlier, least)
    except HistoryRefused:
        return True
    return False


# Whom: groups added up


def test_the_first_question_again_is_answered() -> None:
    for membership in (everybody(), halves(), everybody(3)):
        require_no_isolation(counted(membership), counted(membership), LEAST)


def test_all_but_one_after_all_gives_one_persons_income_and_is_refused() -> None:
    first, second = counted(everybody()), counted(everybody(VICTIM))
    assert answers(first)[0] - answers(second)[0] == INCOME[VICTIM]
    with pytest.raises(HistoryRefused, match="fewer than 5 people"):
        require_no_isolation(second, first, LEAST)
    assert is_refused(first, second)  # in either order


@pytest.mark.parametrize(("without", "refused"), [(0, False), (1, True), (4, True), (5, False)])
def test_the_least_group_is_the_least_difference(without: int, refused: bool) -> None:
    assert is_refused(counted(everybody(*range(without))), counted(everybody())) is refused


def test_groups_that_add_up_to_all_but_one_are_refused() -> None:
    """Both jobs have groups, and no group of one differs little from a group of the other."""
    by_sex = halves()
    by_town = np.arange(PEOPLE, dtype=np.int64) // 20
    by_town[VICTIM] = -1
    first, second = counted(by_sex), counted(by_town)
    assert sum(answers(first).values()) - sum(answers(second).values()) == INCOME[VICTIM]
    assert is_refused(second, first)


def test_two_groups_of_three_against_one_of_another_job_are_refused() -> None:
    """Neither a group nor a whole: a part of the first job's groups, added up by the attacker."""
    by_town = np.arange(PEOPLE, dtype=np.int64) // 20
    two_towns = everybody(VICTIM, *range(40, 60))
    first, second = counted(by_town), counted(two_towns)
    assert answers(first)[0] + answers(first)[1] - answers(second)[0] == INCOME[VICTIM]
    assert is_refused(second, first)


def test_sums_of_groups_on_both_sides_are_refused() -> None:
    """{0,1}, {2,3}, ... against {0,1,2} minus the victim, {3,...}: only 0+1+... of both meet."""
    first = np.arange(PEOPLE, dtype=np.int64) // 10  # 0 .. 5
    second = np.select([np.arange(PEOPLE) < 15, np.arange(PEOPLE) < 30], [0, 1], -2).astype(
        np.int64
    )
    second[VICTIM] = -2
    one, other = counted(first), counted(second)
    known = answers(one)[0] + answers(one)[1] + answers(one)[2]
    assert known - answers(other)[0] - answers(other)[1] == INCOME[VICTIM]
    assert is_refused(other, one)


def test_a_group_that_is_suppressed_isolates_nobody() -> None:
    """Four people in a rare group, in both jobs: it was never released, and is in no difference."""
    rare = halves()
    rare[:4] = 2
    require_no_isolation(counted(rare), counted(rare), LEAST)
    require_no_isolation(counted(rare), counted(np.where(rare == 2, 3, rare)), LEAST)


def test_what_a_suppressed_group_hides_cannot_be_had_from_the_whole() -> None:
    rare = halves()
    rare[VICTIM] = 2
    first, second = counted(rare), counted(everybody())
    assert 2 not in answers(first)
    assert answers(second)[0] - sum(answers(first).values()) == INCOME[VICTIM]
    assert is_refused(second, first)


def test_in_a_union_few_people_here_are_released_with_many_there() -> None:
    few = np.full(PEOPLE, -1, dtype=np.int64)
    few[:3] = 0
    assert not is_refused(counted(few), counted(everybody(), floor=1))
    assert is_refused(counted(few, floor=1), counted(everybody(), floor=1))


def test_unrelated_groups_are_answered() -> None:
    by_age = np.random.default_rng(5).permutation(PEOPLE) // 15
    require_no_isolation(counted(by_age), counted(halves()), LEAST)


def test_nobody_at_all_is_no_difference() -> None:
    empty = counted(np.zeros(0, dtype=np.int64))
    require_no_isolation(empty, empty, LEAST)
    nobody = counted(np.full(PEOPLE, -2))
    require_no_isolation(nobody, counted(everybody()), LEAST)


def test_the_gate_agrees_with_trying_every_sum_of_groups() -> None:
    """Small jobs at random, against all subsets of both jobs' released groups."""
    rng = np.random.default_rng(11)
    verdicts = []
    for _ in range(400):
        people = int(rng.integers(6, 40))
        jobs = [
            counted(rng.integers(-2, rng.integers(1, 5), people), floor=int(rng.integers(1, 5)))
            for _ in range(2)
        ]
        least = int(rng.integers(2, 6))
        expected = any(
            0 < int((a != b).sum()) < least
            for a, b in itertools.product(*(_every_sum(job) for job in jobs))
        )
        assert is_refused(jobs[0], jobs[1], least) is expected
        verdicts.append(expected)
    assert 80 < sum(verdicts) < 320


def _every_sum(job: Counted) -> list[npt.NDArray[np.bool_]]:
    groups = list(answers(job, np.zeros(job.membership.size, dtype=np.int64)))
    chosen = itertools.chain.from_iterable(
        itertools.combinations(groups, size) for size in range(len(groups) + 1)
    )
    return [np.isin(job.membership, groups) for groups in chosen]


def test_many_groups_of_many_people_are_compared_in_little_memory() -> None:
    """1,024 groups each, of 30,000 people: no table of people by groups is made."""
    rng = np.random.default_rng(13)
    first, second = (rng.integers(0, 1024, 30_000) for _ in range(2))
    require_no_isolation(counted(first), counted(second), LEAST)
    second = second.copy()
    second[VICTIM] = -2
    assert is_refused(counted(second), counted(first))


# About whom: few of a group


def held(values: Int64Array, *without: int) -> Held:
    """A column; `without` have no value in it."""
    present = np.ones(PEOPLE, dtype=np.bool_)
    present[list(without)] = False
    return Held("income", np.where(present, values, 0), present)


def is_about_few(job: Counted, *columns: Held) -> bool:
    try:
        require_many(job, columns, [], LEAST)
    except HistoryRefused:
        return True
    return False


def products_are_about_few(job: Counted, x: Held, y: Held) -> bool:
    try:
        require_many(job, [], [(x, y)], LEAST)
    except HistoryRefused:
        return True
    return False


def flag(*people: int) -> Int64Array:
    found = np.zeros(PEOPLE, dtype=np.int64)
    found[list(people)] = 1
    return found


@pytest.mark.parametrize(("marked", "refused"), [(0, False), (1, True), (4, True), (5, False)])
def test_a_column_that_marks_a_few_is_not_summed(marked: int, refused: bool) -> None:
    """SUM(flag * income) is about whoever has the flag, and SUM(flag) says how many have."""
    column = flag(*range(marked))
    assert (INCOME * column).sum() == INCOME[:marked].sum()
    assert is_about_few(counted(everybody()), held(column)) is refused
    assert is_about_few(counted(everybody()), held(1 - column)) is refused  # all but these


def test_a_group_is_judged_for_itself_and_by_those_who_have_a_value() -> None:
    column = flag(*range(0, 12, 2))  # six, all in one half
    assert not is_about_few(counted(halves()), held(column))
    assert is_about_few(counted(halves()), held(column, 0, 2))  # four of them are left
    uneven = flag(*range(0, 12, 2), 1)
    assert not is_about_few(counted(everybody()), held(uneven))
    assert is_about_few(counted(halves()), held(uneven))  # one in the other half


def test_values_of_which_hardly_two_are_alike_are_summed_in_the_least_group() -> None:
    few = everybody(*range(LEAST, PEOPLE))
    assert not is_about_few(counted(few), held(INCOME))


@pytest.mark.parametrize(("both", "refused"), [(0, False), (1, True), (4, True), (5, False)])
def test_two_columns_that_few_have_are_not_multiplied(both: int, refused: bool) -> None:
    """Twenty have the first and twenty the second: SUM(first * second) is of those with both."""
    x, y = flag(*range(20)), flag(*range(20 - both, 40 - both))
    assert (INCOME * x * y).sum() == INCOME[20 - both : 20].sum()
    assert not is_about_few(counted(everybody()), held(x), held(y))
    assert products_are_about_few(counted(everybody()), held(INCOME * x), held(y)) is refused
    assert products_are_about_few(counted(everybody()), held(y), held(INCOME * x)) is refused
    # and of those who have neither, by n - SUM(x) - SUM(y) + SUM(x * y)
    apart = flag(*range(30, PEOPLE - both))
    assert products_are_about_few(counted(everybody()), held(flag(*range(30))), held(apart)) is (
        refused
    )


@pytest.mark.parametrize(("others", "refused"), [(0, False), (1, True), (4, True), (5, False)])
def test_a_column_of_two_values_for_all_but_a_few_is_not_squared(
    others: int, refused: bool
) -> None:
    """SUM(x * (x - 5000)) is of those who have neither 0 nor 5000."""
    x = 5000 * halves()
    x[:others] = INCOME[:others]
    assert (x * (x - 5000)).sum() == (INCOME * (INCOME - 5000))[:others].sum()
    assert not is_about_few(counted(everybody()), held(x))
    assert products_are_about_few(counted(everybody()), held(x), held(x)) is refused


def test_values_of_which_hardly_two_are_alike_are_multiplied() -> None:
    for least in (everybody(), everybody(*range(LEAST, PEOPLE))):
        x, y = held(INCOME), held(INCOME[::-1])
        assert not products_are_about_few(counted(least), x, x)
        assert not products_are_about_few(counted(least), x, y)


@pytest.mark.parametrize("people", [6, 8])
def test_an_even_split_of_a_small_group_is_a_mark_too(people: int) -> None:
    """Of six, three have the flag: SUM(flag * income) is of three."""
    small = everybody(*range(people, PEOPLE))
    assert is_about_few(counted(small), held(flag(*range(people // 2))))
    ten = everybody(*range(10, PEOPLE))
    assert not is_about_few(counted(ten), held(flag(*range(LEAST))))


def test_what_is_suppressed_is_about_nobody() -> None:
    column = flag(VICTIM)
    rare = everybody(*range(VICTIM), *range(VICTIM + 3, PEOPLE))  # three people
    assert not is_about_few(counted(rare), held(column))
    assert not is_about_few(
        counted(everybody()), held(column, *range(VICTIM + 3, PEOPLE), *range(VICTIM))
    )


def test_in_a_union_a_group_of_few_people_here_is_refused() -> None:
    """The other holder's answer about its own table, subtracted, would be about these few."""
    few = np.full(PEOPLE, -1, dtype=np.int64)
    few[:3] = 0
    assert is_about_few(counted(few, floor=1))
    assert is_about_few(counted(everybody(), floor=1), held(INCOME, *range(3, PEOPLE)))
    assert not is_about_few(counted(everybody(), floor=1), held(INCOME))
    nobody = counted(np.full(PEOPLE, -2), floor=1)
    assert not is_about_few(nobody, held(INCOME))


def test_those_who_have_no_value_do_not_hide_a_difference() -> None:
    """Five people are left out, and four of them have no income."""
    few = range(VICTIM, VICTIM + LEAST)
    first, second = counted(everybody()), counted(everybody(*few))
    column = held(INCOME, *list(few)[1:])
    assert answers(first, column.values)[0] - answers(second, column.values)[0] == INCOME[VICTIM]
    assert not is_refused(second, first)
    assert is_refused(second.of(column.present), first.of(column.present))
