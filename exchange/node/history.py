"""The history gate: no exact answer that, beside those already given, is about a few people alone.

Two exact answers that are each about many people can be subtracted, and what is left may be about
one. So before an exact answer is computed, this holder looks at its own rows and refuses a job

- whose groups, added up in any way, differ by more than nobody and fewer than the least group from
  groups of an earlier job, added up in any way. All sums of groups are covered at once: take the
  groups as places and the people that two groups share as the strength of the edge between them; a
  difference of a few people is a weak cut (Nagamochi and Ibaraki 1992);
- with two sums, its own or one of an earlier job, that read the same column and count all people of
  a group but a few alike: AVG(x) beside CORR(x, y), where all who have x but one have y as well.
  Compared group by group and whole by whole.

A group that this holder's rows alone are too few for was or will be suppressed and counts as not
asked for. Answers with noise are not compared: their epsilon covers any combination, and a refusal
that depends on rows would itself be an answer without noise. What picks people by their values
inside an aggregate is not compared either: without noise, the rules forbid it.

What it does not catch, and docs/trust.md says so: combinations of three and more jobs; differences
of enough people here of whom the other holder's rows leave few. A refusal says that the difference
is not empty, and costs a run. Noise covers all of that.
Source: differencing attacks and query set overlap control, Dobkin, Jones and Lipton 1979.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import combinations, product
from typing import Final

import numpy as np
import numpy.typing as npt

from exchange.errors import HistoryRefused
from registry.expression import LocalFactor

Int64Array = npt.NDArray[np.int64]
NOT_SELECTED: Final = -2  # of a membership: the job does not count this person at all
_NOBODY: Final = 0
_WHOLE: Final = -1  # all released groups together


@dataclass(frozen=True)
class Sum:
    """One released sum as this holder's rows enter it.

    reads:   the columns whose values are added up; of a count none
    present: the factor that is not 0 for whom it counts; None for everybody
    """

    reads: frozenset[str]
    present: LocalFactor | None


@dataclass(frozen=True)
class Counted:
    """What one job counts at this holder.

    membership: shape (people,): the group that counts each person; below 0 for none
    floor:      fewer people than this in a group, and the job surely suppressed it
    marks:      of the factors that `needed` names, shape (people,)
    """

    membership: Int64Array
    floor: int
    sums: Sequence[Sum] = ()
    marks: Mapping[LocalFactor, Int64Array] = field(default_factory=dict)


def require_no_isolation(new: Counted, earlier: Counted, least: int) -> None:
    """Raises HistoryRefused, saying nothing of rows. Both are over the same people, in one order.

    least: people that a difference must hold.
    """
    mine, theirs = _released(new), _released(earlier)
    width = int(theirs.max(initial=0)) + 1
    cells, people = np.unique(mine * width + theirs, return_counts=True)
    pairs = [divmod(cell, width) for cell in cells.tolist()]
    if _has_weak_cut(pairs, people.tolist(), least):
        raise HistoryRefused(least)
    meeting = [(i, j) for i, j in pairs if i and j]
    wholes = [(i, _WHOLE) for i in {i for i, _ in meeting}]
    wholes += [(_WHOLE, j) for j in {j for _, j in meeting}]
    groups = [*meeting, *wholes, (_WHOLE, _WHOLE)]
    _require_alike(new, earlier, product(new.sums, earlier.sums), groups, least)


def require_no_isolation_within(new: Counted, least: int) -> None:
    """The same between the sums of one job. Raises HistoryRefused."""
    groups = [(i, i) for i in np.unique(_released(new)).tolist() if i]
    _require_alike(new, new, combinations(new.sums, 2), [*groups, (_WHOLE, _WHOLE)], least)


def needed(jobs: Iterable[Sequence[Sum]]) -> frozenset[LocalFactor]:
    """The marks that decide, of all jobs together: none where all sums of a column count alike."""
    every = {one for job in jobs for one in job}
    return frozenset(
        mark
        for one, other in combinations(every, 2)
        if _comparable(one, other)
        for mark in (one.present, other.present)
        if mark is not None
    )


# Whom


def _released(job: Counted) -> Int64Array:
    """Each person's group, from 1 on; 0 for no group, and for one that is suppressed."""
    group = np.maximum(job.membership, -1) + 1
    people = np.bincount(group, minlength=1)
    people[0] = 0
    found: Int64Array = np.where(people[group] >= job.floor, group, _NOBODY)
    return found


def _has_weak_cut(pairs: Sequence[tuple[int, int]], people: Sequence[int], least: int) -> bool:
    """Whether sums of groups on both sides can differ by 1 to least - 1 people. pairs: a group of
    each job, or none; people: how many are in both."""
    shift = max((i for i, _ in pairs), default=0)
    graph = _Graph(1 + shift + max((j for _, j in pairs), default=0))
    return graph.has_weak_cut(
        [
            (i, j + shift if j else _NOBODY, count)
            for (i, j), count in zip(pairs, people, strict=True)
        ],
        least,
    )


class _Graph:
    """Places that are merged as soon as no cut of fewer than `least` can part them."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._above = list(range(places))

    def find(self, place: int) -> int:
        while self._above[place] != place:
            self._above[place] = place = self._above[self._above[place]]
        return place

    def has_weak_cut(self, edges: Sequence[tuple[int, int, int]], least: int) -> bool:
        """Whether some cut has 1 to least - 1 people. Afterwards, if there is none, whatever is
        connected has been merged."""
        for i, j, people in edges:
            if people >= least:
                self._merge(i, j)
        while True:
            near = self._neighbours(edges)
            if any(sum(beside.values()) < least for beside in near.values()):
                return True
            if not near:
                return False
            self._merge_in_order(near, least)

    def _neighbours(self, edges: Sequence[tuple[int, int, int]]) -> dict[int, dict[int, int]]:
        near: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for i, j, people in edges:
            one, other = self.find(i), self.find(j)
            if one != other:
                near[one][other] += people
                near[other][one] += people
        return near

    def _merge_in_order(self, near: Mapping[int, Mapping[int, int]], least: int) -> None:
        """One scan in maximum adjacency order. Whoever is bound to those before it by `least` or
        more is not parted from the one scanned last by any weaker cut; so at least one pair is
        merged, for the last place of the order has all its edges behind it."""
        bound: dict[int, int] = defaultdict(int)
        scanned: set[int] = set()
        for start in near:
            queue = [(0, start)]
            while queue:
                _, place = heappop(queue)
                if place in scanned:
                    continue
                scanned.add(place)
                for other, people in near[place].items():
                    if other not in scanned:
                        bound[other] += people
                        if bound[other] >= least:
                            self._merge(place, other)
                        heappush(queue, (-bound[other], other))

    def _merge(self, i: int, j: int) -> None:
        one, other = sorted((self.find(i), self.find(j)))
        self._above[other] = one


# Who has a value


def _require_alike(
    first: Counted,
    second: Counted,
    sums: Iterable[tuple[Sum, Sum]],
    groups: Sequence[tuple[int, int]],
    least: int,
) -> None:
    """sums: one of the first job, one of the second. groups: of each job one, or all of them."""
    marks = {(one.present, other.present) for one, other in sums if _comparable(one, other)}
    if not marks:
        return
    a, b = _Rows(_released(first)), _Rows(_released(second))
    for i, j in groups:
        mine, theirs = a.of(i), b.of(j)
        for one, other in marks:
            ours, others = _present(first, one, mine), _present(second, other, theirs)
            if ours.size < first.floor or others.size < second.floor:
                continue  # suppressed
            if 0 < np.setxor1d(ours, others, assume_unique=True).size < least:
                raise HistoryRefused(least)


class _Rows:
    """Which people are in each released group."""

    def __init__(self, groups: Int64Array) -> None:
        self._order = np.argsort(groups, kind="stable")
        self._starts = np.searchsorted(
            groups[self._order], np.arange(int(groups.max(initial=0)) + 2)
        )

    def of(self, group: int) -> Int64Array:
        if group == _WHOLE:
            return self._order[self._starts[1] :]
        return self._order[self._starts[group] : self._starts[group + 1]]


def _present(job: Counted, mark: LocalFactor | None, people: Int64Array) -> Int64Array:
    return people if mark is None else people[job.marks[mark][people] != 0]


def _comparable(one: Sum, other: Sum) -> bool:
    return one.present != other.present and not one.reads.isdisjoint(other.reads)
