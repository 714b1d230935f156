"""Negotiations at the hub: the shared table decides, the hub carries messages to the other side."""

from __future__ import annotations

from fractions import Fraction

from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import NegotiationId
from crypto.statement import Statement
from exchange.errors import TermsRefused, UnknownSubject
from exchange.hub.model import HubAgreement, Operator
from exchange.hub.ports import HubTransaction
from exchange.submission import Submission
from exchange.terms import agreement as agreements
from exchange.terms import negotiation as table
from exchange.terms.agreement import Proposal
from exchange.terms.negotiation import Event, Negotiation

__all__ = ["Event", "step"]


def step(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """One step of one negotiation, for every `negotiation.*` statement."""
    statement = submission.signed.statement
    event = Event(statement.type.removeprefix("negotiation."))
    number = NegotiationId.parse(statement.subject, where="subject")
    negotiation = tx.lock_negotiation(number)
    proposal: Digest | None = None
    signed: Digest | None = None

    if event in (Event.REQUESTED, Event.OFFERED):
        proposal = _only_output(statement)
        terms = record.from_bytes(Proposal, submission.document(proposal))
        if terms.negotiation != number:
            raise TermsRefused("negotiation", "the proposal belongs to another negotiation")
        product = tx.products.by_digest(terms.terms.product)
        if product.id != terms.terms.product_id or product.holder != terms.holder:
            raise TermsRefused("product", "is not a product of this holder")
        agreements.require_within_product(terms.terms, product)
        of = tx.consumer_of(terms.deal)
        if of not in (None, terms.consumer):
            # A deal is one consumer's folder, and whoever is in it may read of all of it.
            raise TermsRefused("deal", "is another consumer's")
        if of is not None and negotiation is None and event is Event.OFFERED:
            # Nor does anybody else put something into it, which its evidence would hold.
            raise TermsRefused("deal", "is added to by its consumer alone; offer in a new one")
        tx.confirm_document(proposal, submission.document(proposal))
        if negotiation is None:
            negotiation = Negotiation(
                number,
                terms.deal,
                terms.consumer,
                terms.holder,
                product.id,
                table.next_state(number, None, event, _side(terms, statement)),
                proposal,
            )
            tx.save_negotiation(negotiation)
            _pass_on(submission, negotiation, tx)
            return
        if (terms.deal, terms.consumer, terms.holder) != (
            negotiation.deal,
            negotiation.consumer,
            negotiation.holder,
        ):
            raise TermsRefused("parties", "differ from those who began this negotiation")
    if negotiation is None:
        raise UnknownSubject(statement.subject)
    if event in (Event.AGREED, Event.VERIFIED):
        if statement.policy_digest != negotiation.proposal:
            raise TermsRefused("proposal", "is not the one on the table")
        signed = _only_output(statement)
        envelope = Envelope.from_bytes(submission.document(signed))
        _require_agreement(envelope, event, negotiation, tx)
        tx.confirm_document(signed, submission.document(signed))

    after = table.advance(negotiation, event, statement.actor, proposal=proposal, agreement=signed)
    if event is Event.VERIFIED and signed != negotiation.agreement:
        raise TermsRefused("agreement", "is not the one that the holder signed")
    tx.save_negotiation(after)
    if event is Event.FINALIZED and after.agreement is not None:
        envelope = Envelope.from_bytes(tx.document(after.agreement))
        tx.add_agreement(
            HubAgreement(after.agreement, agreements.read_agreement(envelope), 0, Fraction(0))
        )
    _pass_on(submission, after, tx)


def _require_agreement(
    envelope: Envelope, event: Event, negotiation: Negotiation, tx: HubTransaction
) -> None:
    """The agreement is what was on the table, and whoever speaks has signed it."""
    agreement = agreements.read_agreement(envelope)
    proposal = record.from_bytes(Proposal, tx.document(negotiation.proposal))
    agreements.require_same_but_signed(agreement, proposal)
    consumer = tx.parties.by_digest(agreement.consumer_document)
    holder = tx.parties.by_digest(agreement.holder_document)
    if event is Event.VERIFIED:
        agreements.require_signed(envelope, agreement, consumer=consumer, holder=holder)
    else:
        agreements.require_signed_by(envelope, holder, agreement.holder)


def _side(terms: Proposal, statement: Statement) -> table.Side:
    if statement.actor == terms.consumer:
        return table.Side.CONSUMER
    if statement.actor == terms.holder:
        return table.Side.HOLDER
    raise TermsRefused("parties", "do not include the one who proposes")


def _only_output(statement: Statement) -> Digest:
    if len(statement.outputs) != 1:
        raise Malformed("outputs", "must name exactly one document")
    return statement.outputs[0]


def _pass_on(submission: Submission, negotiation: Negotiation, tx: HubTransaction) -> None:
    actor = submission.signed.statement.actor
    other = negotiation.holder if actor == negotiation.consumer else negotiation.consumer
    tx.deliver(other, submission.signed.entry, tuple(submission.documents.values()))
