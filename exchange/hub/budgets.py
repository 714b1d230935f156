"""The products' privacy accounts at the hub: an early answer, in the transaction that reserves runs
and money. Each holder's node keeps an account of its own and decides by that."""

from __future__ import annotations

from collections.abc import Sequence

from crypto.identifiers import ProductId
from exchange import privacy
from exchange.hub.ports import HubTransaction
from exchange.privacy import NOTHING, cost_of
from exchange.query.plan import Plan


def lock(plan: Plan, tx: HubTransaction) -> None:
    """After the agreements, in order of product; not where the plan costs nothing."""
    if cost_of(plan) != NOTHING:
        for product in _products(plan, tx):
            tx.lock_privacy(product)


def reserve(plan: Plan, tx: HubTransaction) -> None:
    """Charge every product of the plan, under the totals of its newest version. Raises
    BudgetExhausted; the caller undoes what was charged before."""
    cost = cost_of(plan)
    if cost == NOTHING:
        return
    for product in _products(plan, tx):
        account = privacy.account_of(tx.products.current(product), tx.lock_privacy(product))
        tx.save_privacy(product, privacy.reserve(account, cost).spent)


def give_back(plan: Plan, tx: HubTransaction) -> None:
    """Undo `reserve` for a job of which no message can have left any holder."""
    cost = cost_of(plan)
    if cost == NOTHING:
        return
    for product in _products(plan, tx):
        tx.save_privacy(product, tx.lock_privacy(product) - cost)


def _products(plan: Plan, tx: HubTransaction) -> Sequence[ProductId]:
    """By the agreements' word, in order; twice where two sides were of one product."""
    return sorted(
        tx.lock_agreement(side.agreement).agreement.terms.product_id for side in plan.sides
    )
