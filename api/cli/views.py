"""What is needed to show plans and terms: parties by their names, products as described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from api.cli.speech import say
from api.cli.tables import facts
from crypto.digest import Digest
from crypto.identifiers import JobId, PartyId
from crypto.record import encode_time
from exchange.errors import HubUnreachable, UnknownSubject
from exchange.node import asking, jobs, products
from exchange.node.model import NodeAgreement, NodeJob
from exchange.query.plan import Plan
from exchange.terms.agreement import Terms
from registry.errors import RegistryError
from registry.product import DataProduct

if TYPE_CHECKING:
    from rich.console import RenderableType

    from api.wiring.node import Opened
    from exchange.node.ports import Documents, NodeTransaction


@dataclass(frozen=True)
class Shown:
    """A plan with what is needed to read it: who the parties are, what the products call things.

    products: by the digest that the plan names; one that cannot be had is absent.
    agreements: where this party is the holder, by digest: holders count what is used.
    controllers: where a helper is named, whose code each party that computes or receives declares;
                None: not declared, or its document is not known here.
    """

    plan: Plan
    names: Mapping[str, str]
    products: Mapping[Digest, DataProduct]
    agreements: Mapping[Digest, NodeAgreement]
    job: NodeJob | None = None
    controllers: Mapping[str, str | None] = field(default_factory=dict)

    def described(self) -> Sequence[DataProduct] | None:
        """The products of all sides in the plan's order, if each could be had."""
        found = [self.products.get(side.product) for side in self.plan.sides]
        return [one for one in found if one is not None] if None not in found else None


def show_job(number: JobId, node: Opened) -> Shown:
    """Raises UnknownSubject."""
    with node.store.reading() as tx:
        job = tx.job(number)
        if job is None:
            raise UnknownSubject(number)
        plan = jobs.plan_of(job, tx)
    return show_plan(plan, node, job)


def show_plan(plan: Plan, node: Opened, job: NodeJob | None = None) -> Shown:
    def step(tx: NodeTransaction, hub: Documents) -> Shown:  # what is fetched is kept
        found: dict[Digest, DataProduct] = {}
        for side in plan.sides:
            try:
                found[side.product] = products.by_digest(side.product, tx=tx, hub=hub)
            except (HubUnreachable, UnknownSubject, RegistryError):
                continue  # the plan is shown without the product's names
        parties = {plan.consumer, plan.operator, *plan.engine_parties}
        agreements = {
            side.agreement: held
            for side in plan.sides
            if side.holder == node.identity.party
            and (held := tx.agreement(side.agreement)) is not None
        }
        controllers = {} if plan.helper is None else _controllers(plan, tx)
        return Shown(plan, party_names(parties, tx), found, agreements, job, controllers)

    return asking.transact(step, store=node.store, hub=node.hub)


def _controllers(plan: Plan, tx: NodeTransaction) -> dict[str, str | None]:
    """By the documents that the plan names, which admission judges as well."""
    found: dict[str, str | None] = {}
    for party in (*plan.sealers, plan.consumer):
        named = plan.document_of(party)
        known = None if named is None else tx.party(named)
        found[str(party)] = None if known is None else known.document.controller
    return found


def party_names(parties: set[PartyId] | Sequence[PartyId], tx: NodeTransaction) -> dict[str, str]:
    """By id; a party whose document is not known here is called by its id alone."""
    found = {}
    for party in parties:
        known = tx.current_party(party)
        if known is not None:
            found[str(party)] = known.document.name
    return found


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
