"""An exact question at one holder: what of it may be answered beside what was answered before.

First what follows from plans, whatever the rows are (`require_one_company`); then what the own rows
say (`require_many`, the history gate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exchange.errors import ExactRefused
from exchange.node import history
from exchange.node.history import Counted, Held
from exchange.node.parts import local_query, suppressed_below
from exchange.query.exact import (
    Company,
    Factor,
    Selection,
    companies,
    extremes,
    multiplied,
    partners,
    selection,
    valued,
    where_present,
)
from exchange.query.plan import Plan, SidePlan
from exchange.query.program import program_of
from exchange.terms.agreement import Terms
from registry.errors import SourceUnreachable
from registry.expression import ColumnValue, LocalFactor, LocalQuery, Number
from registry.ports import DataSource
from registry.product import DataProduct


@dataclass(frozen=True)
class Asked:
    """known: products of all sides, in the plan's order; place: of this holder in the sides"""

    plan: Plan
    known: Sequence[DataProduct]
    place: int

    @property
    def side(self) -> SidePlan:
        return self.plan.sides[self.place]

    @property
    def product(self) -> DataProduct:
        return self.known[self.place]

    @property
    def query(self) -> LocalQuery:
        return local_query(self.plan, program_of(self.plan, self.known), self.place)

    @property
    def companies(self) -> frozenset[tuple[str, Company]]:
        return companies(self.plan, self.known, self.place)

    @property
    def partners(self) -> frozenset[tuple[str, Factor]]:
        return partners(self.plan, self.known, self.place)

    @property
    def valued(self) -> frozenset[str]:
        return valued(self.plan, self.place)

    @property
    def multiplied(self) -> list[tuple[str, str]]:
        """Pairs of this holder's own columns, in order."""
        own = self.product.id
        pairs = multiplied(self.plan, self.known)
        return sorted((x[1], y[1]) for x, y in pairs if x[0] == y[0] == own)

    @property
    def selection(self) -> Selection:
        return selection(self.plan, self.known, self.place)


def require_one_company(new: Asked, earlier: Sequence[Asked]) -> None:
    """Raises ExactRefused for a column that was summed for other people or multiplied with another
    column, and for rows that were chosen otherwise."""
    for old in earlier:
        if new.selection != old.selection:
            raise ExactRefused("compares or filters rows otherwise than an earlier exact answer")
        known = dict(old.companies)
        for column, company in new.companies:
            if known.get(column, company) != company:
                raise ExactRefused(
                    f"sums {column} for others than an earlier exact answer did: over another "
                    "join, with other tables, or for those who have other columns"
                )
    known_partner = {column: factor for old in earlier for column, factor in old.partners}
    for column, factor in new.partners:
        if known_partner.get(column, factor) != factor:
            raise ExactRefused(
                f"multiplies {column} with another column than an earlier exact answer did"
            )


def require_answerable(refused: int) -> None:
    """refused: how often this consumer's exact questions about the product were refused for what
    the rows hold, each time an answer of one bit. Raises ExactRefused once it has had enough."""
    if refused >= history.MAX_REFUSALS:
        raise ExactRefused(f"was refused for its rows {refused} times")


def require_same_rows(
    new: Asked, earlier: Sequence[Asked], *, before: str | None, now: str
) -> None:
    """Raises ExactRefused where an answer of this product version was computed of other rows: two
    exact answers to one question, before and after a row came, are about that row; and what earlier
    ones counted can't be told from the rows of today.

    before, now: digests of all rows, at the last exact answer and now.
    """
    again = any(old.side.product == new.side.product for old in earlier)
    if again and before is not None and before != now:
        raise ExactRefused("would be of other rows than an earlier exact answer")


def agreed_least(terms: Terms, product: DataProduct) -> int:
    """The people that an exact difference must hold: as agreed, not as the plan says. A consumer
    that chose it could count any difference by bisection."""
    return max(terms.min_group, product.rule.min_group)


def require_many(new: Asked, earlier: Sequence[Asked], source: DataSource, least: int) -> None:
    """Raises HistoryRefused where an answer or a difference is about fewer than `least` people."""
    memberships = source.memberships(new.product, [one.query for one in (new, *earlier)])
    counted = [
        Counted(membership, suppressed_below(one.plan))
        for membership, one in zip(memberships, (new, *earlier), strict=True)
    ]
    held = _held(new, source, memberships[0])
    by_column = {one.column: one for one in held}
    history.require_many(
        counted[0], held, [(by_column[x], by_column[y]) for x, y in new.multiplied], least
    )
    for old, then in zip(earlier, counted[1:], strict=True):
        history.require_no_isolation(counted[0], then, least)
        for one in held:
            if one.column in old.valued:
                history.require_no_isolation(
                    counted[0].of(one.present), then.of(one.present), least
                )


def _held(new: Asked, source: DataSource, membership: npt.NDArray[np.int64]) -> list[Held]:
    """What the job reads of this holder's values: first of extremes, then of sums. Of one row for
    each person it is read of everybody, since earlier jobs counted others; of several rows all
    exact answers take the same."""
    needed: list[tuple[str, tuple[str, ...]]] = [
        (column, (column,)) for column in sorted(extremes(new.plan, new.place))
    ]
    for column, company in sorted(new.companies, key=lambda one: one[0]):
        beside = sorted(name for product, name in company.present if product == new.product.id)
        needed.append((column, (column, *beside)))
    if not needed:
        return []
    factors = [
        LocalFactor(where_present(ColumnValue(column), names), False) for column, names in needed
    ]
    factors += [LocalFactor(where_present(Number(1, 0), names), True) for _, names in needed]
    several = new.product.contribution > 1
    asked = LocalQuery(new.side.where if several else None, None, tuple(factors))
    local = source.compute(new.product, asked)
    people = (membership != history.NOT_SELECTED) | (not several)
    if np.count_nonzero(people) != len(local.keys):
        raise SourceUnreachable(f"the rows of {new.product.name} changed meanwhile")
    found = np.zeros((len(factors), len(people)), dtype=np.int64)
    found[:, people] = local.factors.T
    values, there = found[: len(needed)], found[len(needed) :] != 0
    return [
        Held(column, values[number], there[number]) for number, (column, _) in enumerate(needed)
    ]
