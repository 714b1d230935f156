"""The history gate: no exact answer that, beside those already given, is about a few people alone.

Two exact answers that are each about many people can be subtracted, and what is left may be about
one. So before an exact answer is computed, this holder looks at its own rows and refuses

- whom: groups of the new job and of an earlier one, added up in any way on either side, that differ
  by more than nobody and fewer than the least group. All sums of groups are covered at once: take
  the groups as places and the people that two groups share as the strength of the edge between
  them; a difference of a few people is a weak cut (Nagamochi and Ibaraki 1992);
- what: two sums, of one job or of two, whose values agree for all people but a few: SUM(x) and
  SUM(CASE WHEN age = 34 THEN 0 ELSE x END). Compared are sums that choose people within the
  aggregate by CASE, LEAST or GREATEST, and choose them differently, group by group and whole by
  whole; they agree where one is a fixed multiple of the other, or away from it by a fixed amount.
  One such sum beside the count of its people is compared in the same way.

A group that this holder's rows alone are too few for was or will be suppressed and counts as not
asked for. Answers with noise are not compared: their epsilon covers any combination, and a refusal
that depends on rows would itself be an answer without noise.

What it does not catch, and docs/trust.md says so: combinations of three and more jobs; sums told
apart by arithmetic alone, such as powers of a value; differences of enough people here of whom the
other holder's rows leave few. A refusal says that the difference is not empty, and costs a run.
Noise covers all of that.
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
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    Condition,
    LocalFactor,
    Operation,
    Present,
    columns,
    parts,
)

Int64Array = npt.NDArray[np.int64]
ONES: Final = None  # a sum's factor that counts people
NOT_SELECTED: Final = -2  # of a membership: the job does not count this person at all
_NOBODY: Final = 0
_WHOLE: Final = -1  # all released groups together
_CUTTING: Final = (Operation.LEAST, Operation.GREATEST)


@dataclass(frozen=True)
class Sum:
    """One released sum as this holder's rows enter it. factor: what is added up, group by group.
    gate: what must count enough people for it to be released. None: one for everybody."""

    factor: LocalFactor | None
    gate: LocalFactor | None


@dataclass(frozen=True)
class Counted:
    """What one job counts at this holder.

    membership: shape (people,): the group that counts each person; below 0 for none
    floor:      fewer people than this in a group, and the job surely suppressed it
    values:     of the factors that `needed` names, shape (people,)
    """

    membership: Int64Array
    floor: int
    sums: Sequence[Sum] = ()
    values: Mapping[LocalFactor, Int64Array] = field(default_factory=dict)


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
    _require_values(
        new,
        earlier,
        list(product(new.sums, earlier.sums)),
        [*meeting, *wholes, (_WHOLE, _WHOLE)],
        least,
    )


def require_no_isolation_within(new: Counted, least: int) -> None:
    """The same between the sums of one job, and between each of them and the count of its people.
    Raises HistoryRefused."""
    beside = [(one, Sum(ONES, one.gate)) for one in new.sums]
    groups = np.unique(_released(new)).tolist()
    _require_values(
        new,
        new,
        [*combinations(new.sums, 2), *beside],
        [*((i, i) for i in groups if i), (_WHOLE, _WHOLE)],
        least,
    )


def needed(jobs: Iterable[Sequence[Sum]]) -> frozenset[LocalFactor]:
    """The factors whose values decide, of all jobs together: none where none chooses people."""
    every = {f for job in jobs for one in job for f in (one.factor, one.gate) if f is not None}
    read = {column for f in every if _chooses(f) for column in columns(f.expression)}
    return frozenset(f for f in every if read & set(columns(f.expression)))


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


# What


def _require_values(
    first: Counted,
    second: Counted,
    sums: Sequence[tuple[Sum, Sum]],
    groups: Sequence[tuple[int, int]],
    least: int,
) -> None:
    """sums: one of the first job, one of the second. groups: of each job one, or all of them."""
    wanted = [(one, other) for one, other in dict.fromkeys(sums) if _comparable(one, other)]
    if not wanted:
        return
    a, b = _Rows(_released(first)), _Rows(_released(second))
    for i, j in groups:
        mine, theirs = a.of(i), b.of(j)
        people = np.union1d(mine, theirs)
        for one, other in wanted:
            f = _value(first, one, mine, people)
            g = _value(second, other, theirs, people)
            if f is None or g is None:
                continue
            if 0 < min(_exceptions(f, g), _exceptions(g, f), _apart(f, g)) < least:
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


def _value(job: Counted, one: Sum, counted: Int64Array, people: Int64Array) -> Int64Array | None:
    """What each of `people` adds to the sum over those of them that are counted; None where its
    gate keeps it back."""
    gate = _factor(job, one.gate, counted)
    if np.count_nonzero(gate) < job.floor:
        return None
    found = np.zeros(people.shape, dtype=np.int64)
    found[np.searchsorted(people, counted)] = _factor(job, one.factor, counted)
    return found


def _factor(job: Counted, factor: LocalFactor | None, people: Int64Array) -> Int64Array:
    if factor is None or factor not in job.values:
        return np.ones(people.shape, dtype=np.int64)
    return job.values[factor][people]


def _comparable(one: Sum, other: Sum) -> bool:
    """Whether the two choose people differently, over values that have to do with each other."""
    f, g = one.factor, other.factor
    if _chooses(f) == _chooses(g):
        return False
    return f is None or g is None or bool({*columns(f.expression)} & {*columns(g.expression)})


def _chooses(factor: LocalFactor | None) -> frozenset[object]:
    """What in a factor makes people count differently: conditions of CASE, but for whether a value
    is there, and what LEAST and GREATEST cut off."""
    found: set[object] = set()
    for part in () if factor is None else parts(factor.expression):
        if isinstance(part, Case):
            found |= {w.condition for w in part.whens if not _only_present(w.condition)}
        elif isinstance(part, Arithmetic) and part.operation in _CUTTING:
            found.add(part)
    return frozenset(found)


def _exceptions(f: Int64Array, g: Int64Array) -> int:
    """For how many people f is not the multiple of g that it is for most."""
    there = g != 0
    usual = int(np.unique(f[there] / g[there], return_counts=True)[1].max(initial=0))
    return int(there.sum()) - usual + int(((g == 0) & (f != 0)).sum())


def _apart(f: Int64Array, g: Int64Array) -> int:
    """For how many people f - g is not what it is for most."""
    return f.size - int(np.unique(f - g, return_counts=True)[1].max(initial=0))


def _only_present(condition: Condition) -> bool:
    if isinstance(condition, Both):
        return _only_present(condition.left) and _only_present(condition.right)
    return isinstance(condition, Present)
