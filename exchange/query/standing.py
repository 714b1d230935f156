"""When an intersection is unbalanced, and what of it stands from one job to the next.

The larger side's keys, after its filter, are masked once and kept by the smaller side; see
crypto.joins.unbalanced. What stands is named by holders, product version and filter: rows that
another filter selects are another set, with a secret of its own, so that a job shows the two
holders no more than who is in common after *its* filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from crypto import record
from crypto.digest import Digest, digest
from crypto.engine import Standing
from crypto.identifiers import PartyId
from exchange.query.plan import Plan
from registry.expression import Condition
from registry.product import DataProduct

# Asking costs a row of the smaller side about as much as RR22 costs 25 rows of the larger one; at
# twice that, what masking costs is back after some ten jobs: see docs/decisions/0011.
LEAST_RATIO: Final = 50


def is_unbalanced(caps: Sequence[int]) -> bool:
    """Whether masking once and asking is the cheaper way. caps: of two products."""
    return max(caps) >= LEAST_RATIO * min(caps)


def server_of(caps: Sequence[int]) -> int:
    """The rank of the side whose keys are masked: the larger."""
    return 0 if caps[0] >= caps[1] else 1


def standing_of(plan: Plan, products: Sequence[DataProduct]) -> Standing:
    """products: of both sides, in the plan's order."""
    caps = [product.cap for product in products]
    server = server_of(caps)
    side, other = plan.sides[server], plan.sides[1 - server]
    named = _Named(side.holder, other.holder, side.product, side.where)
    return Standing(
        name=digest(record.to_bytes(named)), server=server, rows=max(caps), asked=min(caps)
    )


@dataclass(frozen=True)
class _Named:
    server: PartyId
    client: PartyId
    product: Digest
    where: Condition | None
