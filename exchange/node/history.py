"""The history gate: no exact answer that, alone or beside those already given, is about a few
people.

Two exact answers that are each about many people can be subtracted, and what is left may be about
one. So before an exact answer is computed, this holder looks at its own rows and refuses a job

- whose groups, added up in any way, differ by more than nobody and fewer than the least group from
  groups of an earlier job, added up in any way. All sums of groups are covered at once: take the
  groups as places and the people that two groups share as the strength of the edge between them; a
  difference of a few people is a weak cut (Nagamochi and Ibaraki 1992). So for all people, and for
  those who have a value in a column that both jobs sum;
- of which a group holds a column that is the same for nearly everybody: what is summed is then
  about those few for whom it is not, as SUM(flag * income) is about whoever has the flag. So also
  of what is squared or multiplied: the sum of (x - a) * (y - b) follows from those of x * y, x and
  y, and is about those few who have neither x = a nor y = b;
- of a union, with a group of few people here: the other holder's people do not hide them from
  whoever subtracts an answer about that holder alone.

A group that this holder's rows alone are too few for was or will be suppressed and counts as not
asked for. Answers with noise are not compared: their epsilon covers any combination, and a refusal
that depends on rows would itself be an answer without noise.

What rows need not be asked for is settled from plans, before this (exchange.node.exactly): of each
column the sums of one company only and products with one other column, of each product one
selection only.

What it does not catch, and docs/trust.md says so: combinations of three and more jobs; differences
of enough people here of whom the other holder's rows leave few. A refusal says that there are a few
such people; so a consumer that has been refused so MAX_REFUSALS times gets no exact answer more.
Noise covers all of that.
Source: differencing attacks and query set overlap control, Dobkin, Jones and Lipton 1979.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from exchange.errors import HistoryRefused

Int64Array = npt.NDArray[np.int64]
NOT_SELECTED: Final = -2  # of a membership: the job does not count this person at all
MAX_REFUSALS: Final = 3  # of one consumer on one product: each tells it that somebody is there
_NOBODY: Final = 0


@dataclass(frozen=True)
class Counted:
    """What one job counts at this holder.

    membership: shape (people,): the group that counts each person; below 0 for none
    floor:      fewer people than this in a group, and the job surely suppressed it
    """

    membership: Int64Array
    floor: int

    def of(self, present: npt.NDArray[np.bool_]) -> Counted:
        """The same of those who have a column."""
        return Counted(np.where(present, self.membership, NOT_SELECTED), self.floor)


@dataclass(frozen=True)
class Held:
    """A column of this holder's that a job sums, or of which it shows the least or largest.

    values:  shape (people,), of rows that have a value here and in each other column of its
             company, added up; 0 where there is none
    present: shape (people,), who has such a row
    """

    column: str
    values: Int64Array
    present: npt.NDArray[np.bool_]


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


def require_many(
    new: Counted,
    columns: Sequence[Held],
    multiplied: Sequence[tuple[Held, Held]],
    least: int,
) -> None:
    """Raises HistoryRefused where a group of the job, or what it sums of it, is about few.

    Of a column: fewer than `least` people, and no more than half of the group, have another value
    than the most frequent one. Of two that are multiplied: so many have neither one value of the
    first nor one of the second, whichever two values these are. Of a square: of its column twice.
    """
    rows = _Rows(_released(new))
    for people in rows.groups():
        if people.size < least:  # of a union alone: elsewhere such a group is suppressed
            raise HistoryRefused(least)
        for column in columns:
            values = column.values[people[column.present[people]]]
            if values.size < max(new.floor, 1):
                continue  # nobody, or suppressed
            _, alike = np.unique(values, return_counts=True)
            others = values.size - alike.max(keepdims=True)
            if values.size < least or _are_few(others, values.size, least):
                raise HistoryRefused(least)
        for x, y in multiplied:
            both = people[x.present[people] & y.present[people]]
            if both.size >= max(new.floor, 1) and (
                _leave_few(x.values[both], y.values[both], least)
                or _leave_few(y.values[both], x.values[both], least)
            ):
                raise HistoryRefused(least)


def _leave_few(x: Int64Array, y: Int64Array, least: int) -> bool:
    """Whether x = a or y = b holds for all but a few, where at least as many have a as b.

    Few are at most half; so half have one of both values, and a quarter have a: at most four."""
    frequent, alike = np.unique(x, return_counts=True)
    for a in frequent[4 * alike >= x.size]:
        rest = y[x != a]
        _, times = np.unique(rest, return_counts=True)
        if _are_few(rest.size - times, x.size, least):
            return True
    return False


def _are_few(people: Int64Array, group: int, least: int) -> bool:
    return bool(np.any((people > 0) & (people < least) & (2 * people <= group)))


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


class _Rows:
    """Which people are in each released group."""

    def __init__(self, groups: Int64Array) -> None:
        self._order = np.argsort(groups, kind="stable")
        self._starts = np.searchsorted(
            groups[self._order], np.arange(int(groups.max(initial=0)) + 2)
        )

    def groups(self) -> Iterable[Int64Array]:
        """The people of each, where there are any."""
        for first, end in pairwise(self._starts[1:].tolist()):
            if first < end:
                yield self._order[first:end]
