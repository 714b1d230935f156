"""Plans, jobs and terms as documents for programs and as trees for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.cli.speech import language, name_of, say
from api.cli.tables import branch, facts, lines, together, tree
from crypto.digest import Digest
from crypto.identifiers import JobId, PartyId
from crypto.record import encode_time
from exchange.errors import HubUnreachable, UnknownSubject
from exchange.node import jobs, products
from exchange.node.model import Decision, NodeAgreement, NodeJob
from exchange.query.explanation import Language, learns
from exchange.query.plan import Filter, GroupBy, Plan, SidePlan
from exchange.results import decimal_text
from exchange.terms.agreement import Terms
from registry.errors import RegistryError
from registry.product import DataProduct

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

    from api.wiring.node import Opened
    from exchange.node.ports import NodeTransaction


@dataclass(frozen=True)
class Shown:
    """A plan with what is needed to read it: who the parties are, what the products call things.

    products: by the digest that the plan names; one that cannot be had is absent.
    agreements: where this party is the holder, by digest: holders count what is used.
    """

    plan: Plan
    names: Mapping[str, str]
    products: Mapping[Digest, DataProduct]
    agreements: Mapping[Digest, NodeAgreement]
    job: NodeJob | None = None


def show_job(number: JobId, node: Opened) -> Shown:
    """Raises UnknownSubject."""
    with node.store.reading() as tx:
        job = tx.job(number)
        if job is None:
            raise UnknownSubject(number)
        plan = jobs.plan_of(job, tx)
    return show_plan(plan, node, job)


def show_plan(plan: Plan, node: Opened, job: NodeJob | None = None) -> Shown:
    found: dict[Digest, DataProduct] = {}
    with node.store.transaction() as tx:  # what is fetched is kept
        for side in plan.sides:
            try:
                found[side.product] = products.by_digest(side.product, tx=tx, hub=node.hub)
            except (HubUnreachable, UnknownSubject, RegistryError):
                continue  # the plan is shown without the product's names
        parties = {plan.consumer, plan.operator, *plan.engine_parties}
        agreements = {
            side.agreement: held
            for side in plan.sides
            if side.holder == node.identity.party
            and (held := tx.agreement(side.agreement)) is not None
        }
        return Shown(plan, party_names(parties, tx), found, agreements, job)


def party_names(parties: set[PartyId] | Sequence[PartyId], tx: NodeTransaction) -> dict[str, str]:
    """By id; a party whose document is not known here is called by its id alone."""
    found = {}
    for party in parties:
        known = tx.current_party(party)
        if known is not None:
            found[str(party)] = known.document.name
    return found


def plan_document(shown: Shown) -> dict[str, Any]:
    plan = shown.plan
    return {
        "job": plan.job,
        "deal": plan.deal,
        "consumer": plan.consumer,
        "purpose": plan.purpose,
        "join": plan.join.value,
        "intersection": plan.intersection.value,
        "cells": plan.cells,
        "min_group": plan.gate.min_group,
        "epsilon": f"{plan.epsilon.numerator}/{plan.epsilon.denominator}",
        "price_minor": str(plan.price_minor),
        "currency": plan.currency,
        "run_by": encode_time(plan.run_by),
        "run_seconds": plan.run_seconds,
        "sides": [_side_document(side, shown) for side in plan.sides],
        "learns": learns(plan, Language(language())),
    }


def job_document(shown: Shown) -> dict[str, Any]:
    job = shown.job
    if job is None:
        return plan_document(shown)
    return {
        "id": job.id,
        "state": job.state.value,
        "decision": job.decision.value,
        "reason": job.reason,
        "escrow": job.held is not None,
        "admitted_by": sorted(job.admissions),
        "updated_at": encode_time(job.updated_at),
        "agreements": [_use_document(held, shown) for held in shown.agreements.values()],
        "plan": plan_document(shown),
    }


def job_text(shown: Shown, own: PartyId) -> RenderableType:
    job = shown.job
    parts: list[RenderableType] = []
    if job is not None:
        decision = None if job.consumer == own else name_of("decision", job.decision.value)
        parts.append(
            facts(
                [
                    ("job", job.id),
                    ("state", name_of("state", job.state.value)),
                    ("decision", decision),
                    ("reason", job.reason or None),
                    ("escrow", say("yes") if job.held is not None else say("no")),
                ]
            )
        )
    parts.append(plan_tree(shown))
    parts += [_use_text(held, shown) for held in shown.agreements.values()]
    return together(*parts)


def plan_tree(shown: Shown) -> Tree:
    """What is asked, of whom, for how much, and what each party would learn."""
    plan = shown.plan
    root = tree(say("plan.title", consumer=named(plan.consumer, shown.names), purpose=plan.purpose))
    for side in plan.sides:
        product = shown.products.get(side.product)
        title = product.name if product is not None else str(side.product)
        part = branch(root, say("plan.side", product=title, holder=named(side.holder, shown.names)))
        for group in side.group_by:
            branch(part, say("plan.group", group=_group_text(group, product)))
        for measure in side.measures:
            branch(
                part, say("plan.measure", function=measure.function.value, column=measure.column)
            )
        for condition in side.filters:
            branch(part, say("plan.filter", filter=_filter_text(condition, product)))
        price = money_text(side.price_minor, plan.currency)
        branch(part, say("plan.price", price=price))
    gate = branch(root, say("plan.gate", join=plan.join.value, min_group=plan.gate.min_group))
    branch(gate, say("plan.cells", cells=plan.cells))
    branch(root, say("plan.total", price=money_text(plan.price_minor, plan.currency)))
    told = branch(root, say("plan.learns"))
    for party, sentence in learns(plan, Language(language())).items():
        branch(told, f"{named(party, shown.names)}: {sentence}")
    return root


def terms_document(terms: Terms) -> dict[str, Any]:
    from crypto import record

    found = record.to_value(terms)
    return found if isinstance(found, dict) else {}


def terms_text(terms: Terms, product_name: str | None) -> RenderableType:
    return facts(
        [
            ("product", product_name or terms.product_id),
            ("purposes", ", ".join(terms.purposes)),
            ("joins", ", ".join(join.value for join in terms.joins)),
            ("combine_with", ", ".join(map(str, terms.combine_with)) or None),
            ("min_group", terms.min_group),
            ("runs", terms.runs),
            ("epsilon", terms.epsilon),
            ("price", money_text(terms.price_minor, terms.currency)),
            ("valid_until", encode_time(terms.valid_until)),
            ("regulator", terms.regulator),
        ]
    )


def money_text(amount_minor: int, currency: str) -> str:
    return say("money", amount=f"{amount_minor:,}", currency=currency)


def named(party: str, names: Mapping[str, str]) -> str:
    name = names.get(str(party))
    return str(party) if name is None else f"{name} ({str(party)[:12]}…)"


def usage(held: NodeAgreement, shown: Shown) -> tuple[int, int]:
    """Runs used under an agreement before and after this job, as this node counts them. A run
    is counted when the holder admits it."""
    job = shown.job
    counted = job is not None and job.decision is Decision.ADMITTED
    before = held.runs_used - 1 if counted else held.runs_used
    return before, before + 1


def _use_document(held: NodeAgreement, shown: Shown) -> dict[str, Any]:
    before, after = usage(held, shown)
    return {
        "agreement": held.agreement.id,
        "runs": held.agreement.terms.runs,
        "runs_before": before,
        "runs_after": after,
        "epsilon": str(held.agreement.terms.epsilon),
        "epsilon_used": str(held.epsilon_used),
        "valid_until": encode_time(held.agreement.terms.valid_until),
    }


def _use_text(held: NodeAgreement, shown: Shown) -> RenderableType:
    before, after = usage(held, shown)
    agreement = held.agreement
    return lines(
        say(
            "plan.use",
            agreement=agreement.id,
            before=before,
            after=after,
            runs=agreement.terms.runs,
            until=encode_time(agreement.terms.valid_until),
        )
    )


def _side_document(side: SidePlan, shown: Shown) -> dict[str, Any]:
    product = shown.products.get(side.product)
    return {
        "holder": side.holder,
        "holder_name": shown.names.get(side.holder),
        "product": None if product is None else product.id,
        "product_name": None if product is None else product.name,
        "product_digest": str(side.product),
        "agreement": str(side.agreement),
        "group_by": [
            {
                "column": group.column,
                "categories": None if group.categories is None else list(group.categories),
                "cuts": None if group.cuts is None else _cuts(group, product),
            }
            for group in side.group_by
        ],
        "measures": [
            {"column": measure.column, "function": measure.function.value}
            for measure in side.measures
        ],
        "where": [
            {"column": f.column, "op": f.op, "value": _value(f, product)} for f in side.filters
        ],
        "price_minor": str(int(side.price_minor)),
    }


def _group_text(group: GroupBy, product: DataProduct | None) -> str:
    if group.categories is not None:
        return f"{group.column}: {', '.join(group.categories)}"
    return say("plan.cuts", column=group.column, cuts=", ".join(_cuts(group, product)))


def _filter_text(condition: Filter, product: DataProduct | None) -> str:
    return f"{condition.column} {condition.op} {_value(condition, product)}"


def _cuts(group: GroupBy, product: DataProduct | None) -> list[str]:
    decimals = _decimals(group.column, product)
    return [decimal_text(cut, decimals) for cut in group.cuts or ()]


def _value(condition: Filter, product: DataProduct | None) -> str:
    if condition.text is not None:
        return condition.text
    return decimal_text(condition.number or 0, _decimals(condition.column, product))


def _decimals(column: str, product: DataProduct | None) -> int:
    return 0 if product is None else product.column(column).decimals
