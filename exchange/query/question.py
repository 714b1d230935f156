"""Questions: SQL over the names that a consumer gives to data products, and how to answer it.

`compile_question` turns a question, under agreements, into the plan that discloses least. It does
not check rules: `rules.violations` does, here, at the hub and at each node, and a plan needs nothing
of what happened here to be judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
from crypto.joins.intersection import Intersection
from crypto.noise import Distribution
from crypto.ports import Randomness
from exchange.query.plan import Padding, Plan
from exchange.query.ports import SqlReader
from exchange.query.rules import Ground
from registry.rule import Join

DELTA: Final = Fraction(1, 10**9)
PADDING: Final = Padding(Fraction(1, 10), DELTA)
RUN_SECONDS: Final = 600


@dataclass(frozen=True)
class Question:
    """sql: see docs/sql.md. tables: what names in FROM stand for; a table may also be named by its
    product id or by `slug(product.name)`, where the agreements leave no doubt.

    join:      None: the one that discloses least of those that are agreed and can compute it
    min_group: None: the strictest that was agreed
    epsilon:   of noise on everything released; None: no noise. delta goes with it
    padding:   of the hidden join
    """

    sql: str
    tables: Mapping[str, ProductId]
    purpose: str
    join: Join | None = None
    intersection: Intersection = Intersection.RR22
    hide_size: bool = False
    min_group: int | None = None
    epsilon: Fraction | None = None
    delta: Fraction = DELTA
    distribution: Distribution = Distribution.LAPLACE
    padding: Padding = field(default=PADDING)
    run_seconds: int = RUN_SECONDS


@dataclass(frozen=True)
class Footing:
    """One product's ground with the digests that a plan names."""

    ground: Ground
    agreement: Digest
    product: Digest


def compile_question(
    question: Question,
    footings: Mapping[ProductId, Footing],
    *,
    reader: SqlReader,
    operator: PartyId,
    helpers: Mapping[PartyId, Digest],
    now: datetime,
    wait: timedelta,
    randomness: Randomness,
) -> Plan:
    """The plan that answers `question`. Raises QuestionRefused, naming the fragment or option.

    footings: of every product that the deal has an agreement about; the question picks its own.
    helpers:  party documents of those whom the agreements name as helper.
    wait:     how long the holders have to admit it, while the agreements last.
    """
    raise NotImplementedError


def grounds_of(plan: Plan, footings: Mapping[ProductId, Footing]) -> tuple[Ground, ...]:
    """What each side of a plan compiled from these is judged by, in the plan's order."""
    by_digest = {footing.product: footing.ground for footing in footings.values()}
    return tuple(by_digest[side.product] for side in plan.sides)
