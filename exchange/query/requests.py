"""Scores and lookups: what a consumer asks of one holder's model or table, as a plan.

What is asked about stays at the consumer. The plan says only how many rows or keys are sent, and
that number is a round one of this module's choice: the nearest one that holds them all, so that
neither the plan nor the holder tells how many were meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from crypto.digest import SALT_BYTES
from crypto.identifiers import JobId, PartyId, ProductId
from crypto.ports import Randomness
from crypto.scoring.parameters import PARAMETERS
from exchange.errors import QuestionRefused
from exchange.jobs import MAX_RUN_S
from exchange.query.explanation import learns
from exchange.query.plan import Lookup, Plan, Receiver, Score, SidePlan
from exchange.query.question import RUN_SECONDS, Footing
from exchange.query.rules import most_evaluations
from registry.product import DataProduct
from registry.rule import Join

LEAST_KEYS: Final = 16


@dataclass(frozen=True)
class Request:
    """A score of a model, or a lookup in a table, whichever the product is.

    meant: how many rows or keys are meant
    sent:  how many are sent; None: the round number that holds them
    """

    product: ProductId
    purpose: str
    meant: int
    sent: int | None = None
    run_seconds: int = RUN_SECONDS


def compile_request(
    request: Request,
    footings: Mapping[ProductId, Footing],
    *,
    operator: PartyId,
    now: datetime,
    wait: timedelta,
    randomness: Randomness,
) -> Plan:
    """The plan of a request. Raises QuestionRefused, naming the option.

    footings: of every product that the deal has an agreement about
    wait:     how long the holder has to admit it, while the agreement lasts
    """
    footing = footings.get(request.product)
    if footing is None:
        raise QuestionRefused("product", f"this deal has no agreement about {request.product}")
    agreement, product = footing.ground.agreement, footing.ground.product
    if not 1 <= request.run_seconds <= MAX_RUN_S:
        raise QuestionRefused("run_seconds", f"must be 1 to {MAX_RUN_S:,}")
    ends = agreement.terms.valid_until
    plan = Plan(
        v=1,
        job=JobId.new(now, randomness),
        deal=agreement.deal,
        consumer=agreement.consumer,
        consumer_document=agreement.consumer_document,
        operator=operator,
        purpose=request.purpose,
        join=Join.LOOKUP if product.model is None else Join.SCORE,
        sides=(
            SidePlan(
                agreement=footing.agreement,
                product=footing.product,
                holder=agreement.holder,
                holder_document=agreement.holder_document,
                group_by=(),
                where=None,
                price_minor=agreement.terms.price_minor,
            ),
        ),
        helper=None,
        work=_work(request, product),
        currency=agreement.terms.currency,
        receivers=(Receiver(agreement.consumer, agreement.consumer_document),),
        created_at=now,
        # An agreement that is over is for the rules to name.
        run_by=min(now + wait, ends) if ends > now else now + wait,
        run_seconds=request.run_seconds,
        learns={},
        salt=randomness.draw(SALT_BYTES),
    )
    return replace(plan, learns=learns(plan))


def _work(request: Request, product: DataProduct) -> Score | Lookup:
    if product.model is not None:
        # One ciphertext holds so many rows, full or not.
        step = PARAMETERS[product.model.parameters].slots
        rows = _sent(request, -(-request.meant // step) * step, product)
        return Score(rows, product.model.parameters)
    if product.lookup is None:
        raise QuestionRefused(
            "product", f"{product.name} is neither a model nor has it a table to look up in"
        )
    keys = _sent(request, max(LEAST_KEYS, 1 << (request.meant - 1).bit_length()), product)
    return Lookup(keys, product.lookup.columns, product.lookup.epoch)


def _sent(request: Request, rounded: int, product: DataProduct) -> int:
    """A batch filled up to the nearest round number, or to the most that is allowed."""
    most = min(most_evaluations(product), product.rule.evaluations_per_day or 0)
    sent = min(rounded, most) if request.sent is None else request.sent
    if request.meant < 1:
        raise QuestionRefused("rows" if product.model else "keys", "are none")
    if not request.meant <= sent <= most:
        raise QuestionRefused(
            "batch",
            f"{product.name} takes {most:,} at once, fillers included; "
            f"{max(request.meant, sent):,} are asked for",
        )
    return sent
