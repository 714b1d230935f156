"""Admission: what this node checks, from its own records, before a plan may touch a row.

Nothing here believes the hub. Each refusal names the constraint that failed, never data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from crypto import envelope as dsse
from crypto.envelope import Envelope
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from exchange import privacy
from exchange.errors import PlanRefused
from exchange.node.model import NodeAgreement
from exchange.privacy import PrivacyAccount, cost_of
from exchange.query import plan as plans
from exchange.query.explanation import learns
from exchange.query.plan import Plan
from exchange.query.rules import Ground, owner_violations, side_violations
from exchange.terms import agreement as agreements
from registry.party import SignedParty
from registry.product import DataProduct

LONGEST_RUN: Final = timedelta(hours=6)


@dataclass(frozen=True)
class View:
    """What the decision rests on: all of it from this node's own store or checked by it.

    agreement:  this side's, as this node signed and counted it; None if it has none like that, or
                is the helper
    account:    of this side's product, as this node counted it under the newest version it listed;
                None at the helper
    consumer:   the newest believed party document of the plan's consumer
    controllers: of everybody with a seat in the plan, by the believed party documents that it
                names; each party but the consumer sees itself that its own is the newest
    products:   of all sides, in the plan's order, each with the digest that the plan names
    evaluated:  of a score's or lookup's product: the rows or keys that this node has admitted for
                this consumer in the last 24 hours
    """

    me: PartyId
    operator: PartyId
    agreement: NodeAgreement | None
    account: PrivacyAccount | None
    consumer: SignedParty
    controllers: Mapping[PartyId, str | None]
    products: Sequence[DataProduct]
    evaluated: int
    now: datetime
    paused: bool


def check(envelope: Envelope, plan: Plan, view: View) -> None:
    """Raises PlanRefused unless this node's own agreement allows exactly this plan, now."""
    if view.paused:
        raise PlanRefused("paused", "this party admits no jobs at the moment")
    _require_signed_by_consumer(envelope, plan, view)
    if plan.operator != view.operator:
        raise PlanRefused("operator", "is not the operator this node works with")
    if view.now >= plan.run_by:
        raise PlanRefused("run_by", "has passed")
    if plan.run_seconds > LONGEST_RUN.total_seconds():
        raise PlanRefused("run_seconds", f"is more than {LONGEST_RUN}")
    if dict(plan.learns) != learns(plan):
        raise PlanRefused("learns", "does not say what this plan lets each party learn")
    _require_own_owners(plan, view)
    if plan.helper is None or plan.helper.party != view.me:
        _check_own_side(plan, view)


def _require_own_owners(plan: Plan, view: View) -> None:
    """A helper that also holds rows or gets the result would hold both shares of something, and so
    would an owner that it has in common with whoever does."""
    holders = {side.holder for side in plan.sides}
    if plan.helper is not None and plan.helper.party in {plan.consumer, *holders}:
        raise PlanRefused("helper", "must be neither a holder nor the consumer")
    found = owner_violations(plan, view.controllers)
    if found:
        raise PlanRefused(found[0].clause, "; ".join(map(str, found)))


def _check_own_side(plan: Plan, view: View) -> None:
    index = _own_side(plan, view)
    held = view.agreement
    if held is None:
        raise PlanRefused("agreement", "this node has no such agreement in force")
    terms = held.agreement.terms
    agreements.require_in_force(held.agreement, view.now)
    agreements.require_outlasts(held.agreement, plan.run_by)
    ground = Ground(held.agreement, view.products[index])
    found = side_violations(plan, index, ground, view.products)
    if found:
        raise PlanRefused(found[0].clause, "; ".join(map(str, found)))
    if held.runs_used >= terms.runs:
        raise PlanRefused("runs", f"all {terms.runs} runs of {held.agreement.id} are used")
    allowed = ground.product.rule.evaluations_per_day or 0
    if plan.evaluations and view.evaluated + plan.evaluations > allowed:
        raise PlanRefused(
            "rule.evaluations_per_day",
            f"{max(0, allowed - view.evaluated):,} are left of {allowed:,} in 24 hours; the job "
            f"sends {plan.evaluations:,}",
        )
    if held.epsilon_used + plan.epsilon > terms.epsilon:
        left = terms.epsilon - held.epsilon_used
        raise PlanRefused("epsilon", f"{left} is left; the job asks for {plan.epsilon}")
    if view.account is None or view.account.product != terms.product_id:
        raise PlanRefused("account", "this node keeps no privacy account of the product")
    privacy.reserve(view.account, cost_of(plan))


def _require_signed_by_consumer(envelope: Envelope, plan: Plan, view: View) -> None:
    if view.consumer.document.party != plan.consumer:
        raise PlanRefused("consumer", "the party document is another party's")
    if view.consumer.digest != plan.consumer_document:
        raise PlanRefused("consumer_document", "is not the consumer's current one; compile again")
    try:
        dsse.verify(envelope, plans.PAYLOAD_TYPE, view.consumer.document.signing)
    except CryptoError as error:
        raise PlanRefused("signature", f"the consumer did not sign this plan: {error}") from error


def _own_side(plan: Plan, view: View) -> int:
    for index, side in enumerate(plan.sides):
        if side.holder == view.me:
            return index
    raise PlanRefused("sides", "this party has no part in the plan")
