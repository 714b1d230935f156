"""A plan explained: as a tree for people, as a document for programs.

The consumer sees it before it submits and each holder before it approves; both make it from the
plan and the products alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from api.answer_files import number
from api.cli.speech import language, name_of, say
from api.cli.tables import branch, facts, lines, together, tree
from api.cli.views import Shown, money_text, named
from crypto import record
from crypto.errors import Malformed
from crypto.identifiers import PartyId
from crypto.record import encode_time
from exchange.errors import ExchangeError
from exchange.node.model import Decision, NodeAgreement
from exchange.query.explanation import Language, delta_text, learns
from exchange.query.phrases import condition_text, fraction_text, group_text
from exchange.query.plan import Query, SidePlan
from exchange.results import group_labels
from registry.errors import RegistryError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.tree import Tree

    from exchange.query.forecast import (
        Explanation,
        Gated,
        LocalPart,
        LookupPart,
        Meeting,
        PrivacyCost,
        QueryPart,
        ReleasedNumber,
        ScorePart,
        Transfer,
    )


def plan_document(shown: Shown) -> dict[str, Any]:
    """`explained` and `sql` are null where a product's description cannot be had."""
    plan = shown.plan
    explained = explanation_of(shown)
    return {
        "job": plan.job,
        "deal": plan.deal,
        "consumer": plan.consumer,
        "purpose": plan.purpose,
        "join": plan.join.value,
        "helper": None if plan.helper is None else plan.helper.party,
        "controllers": dict(shown.controllers),
        "cells": plan.cells,
        "min_group": plan.work.gate.min_group if isinstance(plan.work, Query) else None,
        "epsilon": f"{plan.epsilon.numerator}/{plan.epsilon.denominator}",
        "delta": f"{plan.delta.numerator}/{plan.delta.denominator}",
        "price_minor": str(plan.price_minor),
        "currency": plan.currency,
        "run_by": encode_time(plan.run_by),
        "run_seconds": plan.run_seconds,
        "sides": [_side_document(side, shown) for side in plan.sides],
        "sql": sql_of(shown),
        "explained": None if explained is None else record.to_value(explained),
        "learns": learns(plan, Language(language())),
    }


def explanation_of(shown: Shown) -> Explanation | None:
    from exchange.query.forecast import explain  # needs numpy, which other commands don't

    products = shown.described()
    if products is None:
        return None
    try:
        return explain(shown.plan, products, Language(language()))
    except (ExchangeError, RegistryError, Malformed):
        return None  # a plan that does not fit its products: the rules say why


def sql_of(shown: Shown) -> str | None:
    """The query as SQL, from the plan itself."""
    from exchange.query.rendering import render

    products = shown.described()
    if products is None or not isinstance(shown.plan.work, Query):
        return None
    try:
        return render(shown.plan, products)
    except (ExchangeError, RegistryError, Malformed):
        return None


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
            group_text(group, None if product is None else group_labels(group, product))
            for group in side.group_by
        ],
        "where": None if side.where is None else condition_text(side.where),
        "price_minor": str(int(side.price_minor)),
    }


# Jobs


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


# The tree


def plan_tree(shown: Shown) -> Tree:
    """What is asked, of whom, how it is computed, for how much, and what each party would learn."""
    plan = shown.plan
    root = tree(say("plan.title", consumer=named(plan.consumer, shown.names), purpose=plan.purpose))
    text = sql_of(shown)
    if text is not None:
        branch(root, text.rstrip("\n"))
    explained = explanation_of(shown)
    if explained is None:
        for side in plan.sides:
            branch(root, say("plan.side", product=side.product, holder=_name(side.holder, shown)))
    else:
        _add(root, explained, shown)
    branch(root, say("plan.total", price=money_text(plan.price_minor, plan.currency)))
    if shown.controllers:
        under = branch(root, say("plan.controllers"))
        for party, code in shown.controllers.items():
            branch(under, f"{named(party, shown.names)}: {code or say('party.undeclared')}")
    told = branch(root, say("plan.learns"))
    for party, sentence in learns(plan, Language(language())).items():
        branch(told, f"{named(party, shown.names)}: {sentence}")
    return root


def _add(root: Tree, explained: Explanation, shown: Shown) -> None:
    from exchange.query.forecast import LookupPart, QueryPart

    for part in explained.local:
        _add_local(root, part, shown)
    if isinstance(explained.work, QueryPart):
        _add_query(root, explained.work, shown)
    elif isinstance(explained.work, LookupPart):
        _add_lookup(root, explained.work, shown)
    else:
        _add_score(root, explained.work, shown)
    branch(root, say("plan.seconds", seconds=f"{explained.expected_ms / 1000:.1f}"))
    for cost in explained.privacy:
        _add_privacy(root, cost)


def _add_local(root: Tree, part: LocalPart, shown: Shown) -> None:
    at = branch(root, say("plan.side", product=part.product_name, holder=_name(part.holder, shown)))
    if part.where is not None:
        branch(at, say("plan.filter", filter=part.where))
    for group in part.group_by:
        branch(at, say("plan.group", group=group))
    if part.rows_per_person > 1:
        branch(at, say("plan.aggregated", rows=part.rows_per_person))
    for factor in part.factors:
        branch(at, say("plan.factor", factor=factor))
    if part.rows:
        branch(at, say("plan.rows", rows=f"{part.rows:,}", columns=part.shared_columns))
    price = money_text(part.price_minor, shown.plan.currency)
    branch(at, say("plan.price", price=price))


def _add_query(root: Tree, part: QueryPart, shown: Shown) -> None:
    _add_meeting(root, part.meeting, shown)
    _add_gate(root, part.gate, part.cells)
    released = branch(root, say("plan.released"))
    for one in part.released:
        branch(released, released_text(one))


def _add_meeting(root: Tree, meeting: Meeting, shown: Shown) -> None:
    join = name_of("join", meeting.join.value)
    met = branch(root, say("plan.join", join=join))
    if meeting.intersection is not None:
        method = name_of("intersection", meeting.intersection.value)
        branch(met, say("plan.intersection", method=method))
    if meeting.standing_ms:
        seconds = f"{meeting.standing_ms / 1000:,.1f}"
        branch(met, say("plan.standing", seconds=seconds))
    if meeting.helper is not None:
        branch(met, say("plan.helper", helper=_name(meeting.helper, shown)))
    if meeting.keep_left:
        branch(met, say("plan.keep_left"))
    if meeting.hide_size:
        branch(met, say("plan.hide_size"))
    for comparison in meeting.comparisons:
        branch(met, say("plan.comparison", comparison=comparison))
    if meeting.uploads:
        rows = " + ".join(f"{rows:,}" for rows in meeting.uploads)
        branch(met, say("plan.uploads", rows=rows, pairs=f"{meeting.pairs:,}"))
    _add_transfers(met, meeting.transfers, shown)


def _add_transfers(under: Tree, transfers: Sequence[Transfer], shown: Shown) -> None:
    total = sum(one.size_bytes for one in transfers)
    sent = branch(under, say("plan.bytes", size=size_text(total)))
    for one in transfers:
        receiver = "⇄" if one.receiver is None else _name(one.receiver, shown)
        what = name_of("step", one.step.value)
        text = f"{what}: {_name(one.sender, shown)} → {receiver}, {size_text(one.size_bytes)}"
        branch(sent, text)


def _add_gate(root: Tree, gate: Gated, cells: int) -> None:
    at = branch(root, say("plan.gate", min_group=gate.min_group, cells=cells))
    if gate.slack:
        branch(at, say("plan.slack", slack=gate.slack, least=gate.min_group + gate.slack))
    if gate.dominance is not None:
        branch(at, say("plan.dominance", share=fraction_text(gate.dominance)))
    if gate.round_counts is not None:
        branch(at, say("plan.rounded", multiple=gate.round_counts))
    for having in gate.having:
        branch(at, say("plan.having", having=having))


def released_text(one: ReleasedNumber) -> str:
    """One output and the standard deviation of its noise, if it has any."""
    head = f"{one.name}: {one.calculation}"
    if one.deviation is not None and one.people is None:
        return say("plan.noised", output=head, deviation=_short(one.deviation))
    if one.deviation is not None:
        return say(
            "plan.noised_of",
            output=head,
            deviation=_short(one.deviation),
            people=f"{one.people:,}",
        )
    if one.terms:
        noise = ", ".join(f"{term.what} ± {_short(term.deviation)}" for term in one.terms[:8])
        return say("plan.noised_terms", output=head, noise=noise)
    return head


def _add_score(root: Tree, part: ScorePart, shown: Shown) -> None:
    at = branch(
        root,
        say(
            "plan.score",
            rows=f"{part.rows:,}",
            features=len(part.features),
            outputs=", ".join(part.outputs),
        ),
    )
    branch(at, say("plan.scheme", parameters=part.parameters, bits=part.security_bits))
    _add_transfers(at, part.transfers, shown)


def _add_lookup(root: Tree, part: LookupPart, shown: Shown) -> None:
    at = branch(
        root,
        say(
            "plan.lookup",
            keys=f"{part.keys:,}",
            columns=", ".join(part.columns),
            epoch=part.epoch,
        ),
    )
    _add_transfers(at, part.transfers, shown)


def _add_privacy(root: Tree, cost: PrivacyCost) -> None:
    if not cost.parts:
        return
    charged = branch(
        root,
        say(
            "plan.epsilon",
            product=cost.product_name,
            epsilon=fraction_text(cost.epsilon),
            delta=delta_text(cost.delta),
        ),
    )
    for part in cost.parts:
        what = name_of("spent", part.spent.value)
        branch(
            charged,
            f"{what}: epsilon {fraction_text(part.epsilon)}, delta {delta_text(part.delta)}",
        )


# Words


def _name(party: str, shown: Shown) -> str:
    """In a place where the id was said before."""
    return shown.names.get(str(party), str(party))


def size_text(size_bytes: int) -> str:
    """In bytes below 10,000, else in units of 1000."""
    size, unit = float(size_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 10_000 or unit == "TB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}"


def _short(value: Fraction) -> str:
    """Three digits are enough to judge noise by."""
    if value == 0:
        return "0"
    places = 0
    while abs(value) * 10**places < 100 and places < 9:
        places += 1
    return number(round(value, places)) or "0"
