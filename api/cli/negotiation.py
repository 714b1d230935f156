"""`exchange negotiation`: request, offer, accept and sign terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.desk import PATIENCE_S, TimeoutOption, answered, opened
from api.cli.output import answer
from api.cli.product import listed
from api.cli.speech import Commands, common, name_of, say
from api.cli.standing import end_of
from api.cli.tables import facts, lines, table, together
from api.cli.views import named, party_names, terms_document, terms_text
from api.files.reading import naming
from api.files.terms import WrittenTerms, amend, complete, read_terms
from crypto import record
from crypto.digest import Digest
from crypto.identifiers import DealId, NegotiationId, PartyId, ProductId
from exchange.errors import UnknownSubject
from exchange.node import asking
from exchange.node import trust as trusting
from exchange.node.ports import Documents, NodeTransaction
from exchange.terms.agreement import Proposal
from exchange.terms.negotiation import Event, Negotiation, Side

if TYPE_CHECKING:
    from api.wiring.node import Opened

app = Commands("negotiation", no_args_is_help=True)

NegotiationArgument = Annotated[str, typer.Argument(metavar="NEGOTIATION")]
TermsOption = Annotated[Path | None, typer.Option("--terms", metavar="FILE", help="terms.file")]
PurposeOption = Annotated[list[str] | None, typer.Option("--purpose", help="terms.purpose")]
JoinOption = Annotated[list[str] | None, typer.Option("--join", help="terms.join")]
CombineOption = Annotated[
    list[str] | None,
    typer.Option("--combine-with", metavar="PRODUCT@HOLDER", help="terms.combine_with"),
]
MinGroupOption = Annotated[int | None, typer.Option("--min-group", min=2, help="terms.min_group")]
RunsOption = Annotated[int | None, typer.Option("--runs", min=1, help="terms.runs")]
EpsilonOption = Annotated[str | None, typer.Option("--epsilon", help="terms.epsilon")]
PriceOption = Annotated[
    int | None, typer.Option("--price-minor", min=0, metavar="AMOUNT", help="terms.price_minor")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="DATE", help="terms.until")]
RegulatorOption = Annotated[
    str | None, typer.Option("--regulator", metavar="PTY", help="terms.regulator")
]
HelperOption = Annotated[str | None, typer.Option("--helper", metavar="PTY", help="terms.helper")]


@app.act("request", "negotiation.request")
def request(
    product: Annotated[str | None, typer.Option(metavar="PRODUCT", help="product")] = None,
    deal: Annotated[str | None, typer.Option(metavar="DEAL", help="deal.new")] = None,
    terms: TermsOption = None,
    purpose: PurposeOption = None,
    join: JoinOption = None,
    combine_with: CombineOption = None,
    min_group: MinGroupOption = None,
    runs: RunsOption = None,
    epsilon: EpsilonOption = None,
    price_minor: PriceOption = None,
    until: UntilOption = None,
    regulator: RegulatorOption = None,
    helper: HelperOption = None,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    flags = _flags(
        product,
        purpose,
        join,
        combine_with,
        min_group,
        runs,
        epsilon,
        price_minor,
        until,
        regulator,
        helper,
    )
    written = flags if terms is None else flags.over(read_terms(terms))
    if written.product is None:
        raise typer.BadParameter(say("negotiation.needs_product"))
    with opened() as node:
        identity = node.identity
        digest, found = listed(ProductId.parse(written.product, where="product"), node)
        with naming(terms):
            asked = complete(
                written,
                found,
                digest,
                now=identity.clock.now(),
                document_of=lambda party: _document_of(party, node),
            )
        number = (
            DealId.new(identity.clock.now(), identity.randomness)
            if deal is None
            else DealId.parse(deal, where="--deal")
        )
        begun = node.negotiations.request(number, found.holder, asked)
        _report(begun, Event.REQUESTED, node, timeout_s)


@app.act("offer", "negotiation.offer")
def offer(
    negotiation: NegotiationArgument,
    terms: TermsOption = None,
    purpose: PurposeOption = None,
    join: JoinOption = None,
    combine_with: CombineOption = None,
    min_group: MinGroupOption = None,
    runs: RunsOption = None,
    epsilon: EpsilonOption = None,
    price_minor: PriceOption = None,
    until: UntilOption = None,
    regulator: RegulatorOption = None,
    helper: HelperOption = None,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    flags = _flags(
        None,
        purpose,
        join,
        combine_with,
        min_group,
        runs,
        epsilon,
        price_minor,
        until,
        regulator,
        helper,
    )
    written = flags if terms is None else flags.over(read_terms(terms))
    number = NegotiationId.parse(negotiation, where="NEGOTIATION")
    with opened() as node:
        known, proposal = _on_the_table(number, node)
        with naming(terms):
            other = amend(
                proposal.terms, written, document_of=lambda party: _document_of(party, node)
            )
        side = known.side_of(node.identity.party)
        event = Event.OFFERED if side is Side.HOLDER else Event.REQUESTED
        after = node.negotiations.counter(number, other)
        _report(after, event, node, timeout_s)


@app.act("accept", "negotiation.accept")
def accept(negotiation: NegotiationArgument, timeout_s: TimeoutOption = PATIENCE_S) -> None:
    number = NegotiationId.parse(negotiation, where="NEGOTIATION")
    with opened() as node:
        _report(node.negotiations.accept(number), Event.ACCEPTED, node, timeout_s)


@app.act("agree", "negotiation.agree")
def agree(negotiation: NegotiationArgument, timeout_s: TimeoutOption = PATIENCE_S) -> None:
    number = NegotiationId.parse(negotiation, where="NEGOTIATION")
    with opened() as node:
        _report(node.negotiations.agree(number), Event.AGREED, node, timeout_s)


@app.act("terminate", "negotiation.terminate")
def terminate(
    negotiation: NegotiationArgument,
    reason: Annotated[str, typer.Option(help="reason")],
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    number = NegotiationId.parse(negotiation, where="NEGOTIATION")
    with opened() as node:
        _report(node.negotiations.terminate(number, reason), Event.TERMINATED, node, timeout_s)


@app.act("list", "negotiation.list")
def list_() -> None:
    with opened() as node, node.store.reading() as tx:
        found = tx.negotiations()
        names = party_names({p for n in found for p in (n.consumer, n.holder)}, tx)
    answer(
        {"negotiations": [negotiation_document(one) for one in found]},
        table(
            ["negotiation", "deal", "consumer", "holder", "product", "state"],
            [
                (
                    one.id,
                    one.deal,
                    named(one.consumer, names),
                    named(one.holder, names),
                    one.product,
                    name_of("negotiation", one.state.value),
                )
                for one in found
            ],
        ),
        as_json=common().as_json,
    )


@app.act("show", "negotiation.show")
def show(negotiation: NegotiationArgument) -> None:
    number = NegotiationId.parse(negotiation, where="NEGOTIATION")
    with opened() as node:
        known, proposal = _on_the_table(number, node)
        with node.store.reading() as tx:
            names = party_names({known.consumer, known.holder}, tx)
            held = None if known.agreement is None else tx.agreement(known.agreement)
    agreement = None if held is None else held.agreement.id
    answer(
        {
            **negotiation_document(known),
            "agreement_id": agreement,
            "terms": terms_document(proposal.terms),
        },
        together(
            facts(
                [
                    ("negotiation", known.id),
                    ("deal", known.deal),
                    ("consumer", named(known.consumer, names)),
                    ("holder", named(known.holder, names)),
                    ("state", name_of("negotiation", known.state.value)),
                    ("agreement", agreement),
                ]
            ),
            lines("", say("negotiation.on_the_table")),
            terms_text(proposal.terms, None),
        ),
        as_json=common().as_json,
    )


def negotiation_document(one: Negotiation) -> dict[str, Any]:
    return {
        "id": one.id,
        "deal": one.deal,
        "consumer": one.consumer,
        "holder": one.holder,
        "product": one.product,
        "state": one.state.value,
        "proposal": str(one.proposal),
        "agreement": None if one.agreement is None else str(one.agreement),
    }


def _report(after: Negotiation, event: Event, node: Opened, timeout_s: float) -> None:
    """Wait for the hub, and say where the negotiation stands."""
    answered(node, f"negotiation.{event.value}", after.id, timeout_s=timeout_s)
    answer(
        negotiation_document(after),
        lines(
            say(
                "negotiation.now",
                id=after.id,
                state=name_of("negotiation", after.state.value),
                deal=after.deal,
            )
        ),
        as_json=common().as_json,
    )


def _flags(
    product: str | None,
    purpose: list[str] | None,
    join: list[str] | None,
    combine_with: list[str] | None,
    min_group: int | None,
    runs: int | None,
    epsilon: str | None,
    price_minor: int | None,
    until: str | None,
    regulator: str | None,
    helper: str | None,
) -> WrittenTerms:
    return WrittenTerms(
        product=product,
        purposes=purpose or None,
        joins=join or None,
        combine_with=combine_with or None,
        min_group=min_group,
        runs=runs,
        epsilon=epsilon,
        price_minor=price_minor,
        valid_until=None if until is None else end_of(until),
        regulator=regulator,
        helper=helper,
    )


def _on_the_table(number: NegotiationId, node: Opened) -> tuple[Negotiation, Proposal]:
    with node.store.reading() as tx:
        known = tx.negotiation(number)
        if known is None:
            raise UnknownSubject(number)
        return known, record.from_bytes(Proposal, tx.document(known.proposal))


def _document_of(party: PartyId, node: Opened) -> Digest:
    def step(tx: NodeTransaction, hub: Documents) -> Digest:
        return trusting.newest(party, tx=tx, hub=hub, identity=node.identity).digest

    return asking.transact(step, store=node.store, hub=node.hub)
