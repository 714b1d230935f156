"""The history gate: what may not be asked after what was answered. Each attack works on a twin
without the gate, which answers from the same rows, and is refused with it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from exchange.errors import HistoryRefused
from exchange.node.history import (
    Counted,
    Sum,
    needed,
    require_no_isolation,
    require_no_isolation_within,
)
from registry.expression import Both, Case, ColumnValue, LocalFactor, Number, Present, When

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


# Who has a value

X, Y = ColumnValue("income"), ColumnValue("height")


def mark(*columns: ColumnValue) -> LocalFactor:
    """As the compiler makes it: 1 where all of these are there."""
    condition: Both | Present = Present(columns[0])
    for column in columns[1:]:
        condition = Both(condition, Present(column))
    return LocalFactor(Case((When(condition, Number(1, 0)),), Number(0, 0)), indicator=True)


MEAN = Sum(frozenset({"income"}), mark(X))
OF_BOTH = Sum(frozenset({"income"}), mark(X, Y))  # of CORR(income, height)
PEOPLE_WITH_BOTH = Sum(frozenset(), mark(X, Y))


def there(*but: int) -> Int64Array:
    found = np.ones(PEOPLE, dtype=np.int64)
    found[list(but)] = 0
    return found


def a_job(
    *sums: Sum, without: Sequence[int], membership: Int64Array | None = None, floor: int = LEAST
) -> Counted:
    """Everybody has an income; `without` have no height."""
    marks = {mark(X): there(), mark(X, Y): there(*without)}
    return Counted(everybody() if membership is None else membership, floor, sums, marks)


def test_a_mean_beside_a_correlation_that_lacks_one_person_gives_her_income_away() -> None:
    both = INCOME * there(VICTIM)
    assert INCOME.sum() - both.sum() == INCOME[VICTIM]
    with pytest.raises(HistoryRefused):
        require_no_isolation_within(a_job(MEAN, OF_BOTH, without=[VICTIM]), LEAST)
    with pytest.raises(HistoryRefused):
        require_no_isolation(a_job(OF_BOTH, without=[VICTIM]), a_job(MEAN, without=[VICTIM]), LEAST)


@pytest.mark.parametrize("without", [0, LEAST])
def test_nobody_or_enough_without_a_value_are_no_reason(without: int) -> None:
    job = a_job(MEAN, OF_BOTH, without=range(without))
    require_no_isolation_within(job, LEAST)
    require_no_isolation(job, job, LEAST)


def test_how_many_have_a_value_isolates_no_value() -> None:
    require_no_isolation_within(a_job(MEAN, PEOPLE_WITH_BOTH, without=[VICTIM]), LEAST)


def test_groups_are_compared_one_by_one() -> None:
    """One person in a group of thirty, although five are in all groups together."""
    job = a_job(MEAN, OF_BOTH, without=[0, 2, 4, 6, 1], membership=halves())
    with pytest.raises(HistoryRefused):
        require_no_isolation_within(job, LEAST)


def test_what_the_gate_suppresses_is_compared_with_nothing() -> None:
    """Three people have both: their correlation is never shown."""
    job = a_job(MEAN, OF_BOTH, without=range(3, PEOPLE), floor=LEAST)
    require_no_isolation_within(job, LEAST)
    few = a_job(MEAN, OF_BOTH, without=range(VICTIM, PEOPLE), membership=everybody(*range(20, 60)))
    with pytest.raises(HistoryRefused):
        require_no_isolation_within(few, LEAST)


def test_a_group_of_one_job_is_compared_with_the_whole_of_another() -> None:
    women = np.where(halves() == 1, 0, -2).astype(np.int64)
    first = a_job(MEAN, without=[VICTIM], membership=halves())
    second = a_job(OF_BOTH, without=[VICTIM], membership=women)
    assert women[VICTIM] == 0
    with pytest.raises(HistoryRefused):
        require_no_isolation(second, first, LEAST)


def test_marks_are_fetched_where_sums_of_one_column_count_differently() -> None:
    other = Sum(frozenset({"height"}), mark(Y))
    assert needed([[MEAN, other], [MEAN, PEOPLE_WITH_BOTH]]) == frozenset()
    assert needed([[MEAN], [OF_BOTH]]) == {mark(X), mark(X, Y)}
    everyone = Sum(frozenset({"income"}), None)
    assert needed([[everyone, MEAN]]) == {mark(X)}
