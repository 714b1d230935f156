"""Standing approvals: which jobs a holder's node admits without asking a person.

The node decides and an audit judges by one comparison, this one, so that they cannot differ. The
limits are the holder's terms: the log holds a salted commitment to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from crypto.identifiers import PartyId, ProductId
from exchange.query.plan import Plan, Query

DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class StandingApproval:
    """Jobs that this holder admits without being asked. Everything must hold.

    product: of this holder; consumers, purposes: allowed ones; at most `runs_per_day` jobs of one
    consumer in 24 hours, none of which may ask for groups smaller than `min_group`.
    """

    product: ProductId
    consumers: tuple[PartyId, ...]
    purposes: tuple[str, ...]
    min_group: int
    runs_per_day: int
    valid_until: datetime


@dataclass(frozen=True)
class Excess:
    """limit: the approval's field that a job goes beyond. found: what the job has there. allowed:
    what the approval says."""

    limit: str
    found: object
    allowed: object


def exceeded(
    approval: StandingApproval, plan: Plan, *, product: ProductId, at: datetime, earlier: int
) -> Excess | None:
    """The first limit that admitting this plan goes beyond; None if the approval covers it.

    product: of the holder's side. at: the time that the admission states. earlier: how many other
    jobs of the plan's consumer the holder has admitted in the DAY up to then, on whatever grounds;
    whoever sees only some of them finds less, and accuses nobody who kept to the limit.
    """
    groups = plan.work.gate.min_group if isinstance(plan.work, Query) else approval.min_group
    number = earlier + 1
    limits = (
        ("product", product, approval.product, product == approval.product),
        ("consumers", plan.consumer, approval.consumers, plan.consumer in approval.consumers),
        ("purposes", plan.purpose, approval.purposes, plan.purpose in approval.purposes),
        ("min_group", groups, approval.min_group, groups >= approval.min_group),
        ("valid_until", at, approval.valid_until, at < approval.valid_until),
        ("runs_per_day", number, approval.runs_per_day, number <= approval.runs_per_day),
    )
    for limit, found, allowed, kept in limits:
        if not kept:
            return Excess(limit, found, allowed)
    return None
