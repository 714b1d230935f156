"""This party's side of a negotiation: what a person says at the desk, and what follows by itself.

People request, offer, accept, agree and terminate. Verifying an agreement that is exactly what was
accepted, and finalising one that both have signed, follow by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from crypto import record
from crypto.digest import SALT_BYTES, Digest
from crypto.digest import digest as digest_of
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import AgreementId, DealId, NegotiationId, PartyId
from crypto.statement import SignedStatement
from exchange import evidence
from exchange.errors import TermsRefused, UnknownSubject
from exchange.node import asking, outbox, products, trust
from exchange.node.model import Identity, NodeAgreement
from exchange.node.ports import Answer, Documents, Hub, NodeStore, NodeTransaction
from exchange.submission import Submission
from exchange.terms import agreement as agreements
from exchange.terms import negotiation as table
from exchange.terms.agreement import Agreement, Proposal, Terms
from exchange.terms.negotiation import Event, Negotiation

__all__ = ["Event", "Party", "hear", "heed_answer"]


@dataclass(frozen=True)
class Party:
    """The desk's access to this node's negotiations."""

    store: NodeStore
    hub: Hub
    identity: Identity

    def request(self, deal: DealId, holder: PartyId, terms: Terms) -> Negotiation:
        """Begin a negotiation as consumer."""
        now, randomness = self.identity.clock.now(), self.identity.randomness
        number = NegotiationId.new(now, randomness)
        proposal = Proposal(
            1, deal, number, self.identity.party, holder, terms, randomness.draw(SALT_BYTES)
        )
        data = record.to_bytes(proposal)
        digest = agreements.proposal_digest(proposal)

        def step(tx: NodeTransaction, hub: Documents) -> Negotiation:
            product = products.by_digest(terms.product, tx=tx, hub=hub)
            agreements.require_within_product(terms, product)
            negotiation = Negotiation(
                number,
                deal,
                self.identity.party,
                holder,
                product.id,
                table.next_state(number, None, Event.REQUESTED, table.Side.CONSUMER),
                digest,
            )
            tx.save_negotiation(negotiation)
            act = evidence.negotiated(
                Event.REQUESTED, number, deal, proposal=digest, document=digest
            )
            outbox.say(act, [data], tx=tx, identity=self.identity)
            return negotiation

        return self._transact(step)

    def counter(self, number: NegotiationId, terms: Terms) -> Negotiation:
        """Put other terms on the table: an offer by the holder, a request by the consumer."""

        def step(tx: NodeTransaction, hub: Documents) -> Negotiation:
            known = _load(number, tx)
            side = known.side_of(self.identity.party)
            event = Event.OFFERED if side is table.Side.HOLDER else Event.REQUESTED
            proposal = Proposal(
                1,
                known.deal,
                known.id,
                known.consumer,
                known.holder,
                terms,
                self.identity.randomness.draw(SALT_BYTES),
            )
            product = products.by_digest(terms.product, tx=tx, hub=hub)
            agreements.require_within_product(terms, product)
            digest = agreements.proposal_digest(proposal)
            after = table.advance(known, event, self.identity.party, proposal=digest)
            return self._say(event, known, after, tx, digest, record.to_bytes(proposal))

        return self._transact(step)

    def accept(self, number: NegotiationId) -> Negotiation:
        """As consumer, take the holder's offer as it stands."""
        with self.store.transaction() as tx:
            known = _load(number, tx)
            after = table.advance(known, Event.ACCEPTED, self.identity.party)
            return self._say(Event.ACCEPTED, known, after, tx)

    def agree(self, number: NegotiationId) -> Negotiation:
        """As holder, sign the terms on the table."""

        def step(tx: NodeTransaction, hub: Documents) -> Negotiation:
            known = _load(number, tx)
            side = known.side_of(self.identity.party)
            table.next_state(known.id, known.state, Event.AGREED, side)  # before anything is asked
            proposal = record.from_bytes(Proposal, tx.document(known.proposal))
            now = self.identity.clock.now()
            # A consumer that rotated its keys refuses to sign for the old ones.
            consumer = trust.newest(known.consumer, tx=tx, hub=hub, identity=self.identity)
            _require_known_regulator(proposal.terms, tx, hub, self.identity)
            product = products.by_digest(proposal.terms.product, tx=tx, hub=hub)
            if (product.id, product.holder) != (proposal.terms.product_id, self.identity.party):
                raise TermsRefused("product", "is not a product of this party")
            agreements.require_within_product(proposal.terms, product)
            agreement = Agreement(
                v=1,
                id=AgreementId.new(now, self.identity.randomness),
                deal=known.deal,
                negotiation=known.id,
                consumer=known.consumer,
                consumer_document=consumer.digest,
                holder=known.holder,
                holder_document=self.identity.document,
                terms=proposal.terms,
                agreed_at=now,
                salt=self.identity.randomness.draw(SALT_BYTES),
            )
            envelope = agreements.sign_agreement(agreement, self.identity.signing)
            digest = envelope.payload_digest
            after = table.advance(known, Event.AGREED, self.identity.party, agreement=digest)
            return self._say(Event.AGREED, known, after, tx, digest, envelope.to_bytes())

        return self._transact(step)

    def terminate(self, number: NegotiationId, reason: str) -> Negotiation:
        """Ask to end the negotiation; returned as it will be then. It ends here once the hub has
        put this into order: the other side may have finalised before."""
        with self.store.transaction() as tx:
            known = _load(number, tx)
            after = table.advance(known, Event.TERMINATED, self.identity.party)
            words = evidence.reason_document(number, "terms", reason, self.identity.randomness)
            self._say(Event.TERMINATED, known, known, tx, digest_of(words), words)
            return after

    def _transact(self, step: Callable[[NodeTransaction, Documents], Negotiation]) -> Negotiation:
        return asking.transact(step, store=self.store, hub=self.hub)

    def _say(
        self,
        event: Event,
        known: Negotiation,
        after: Negotiation,
        tx: NodeTransaction,
        digest: Digest | None = None,
        document: bytes | None = None,
    ) -> Negotiation:
        tx.save_negotiation(after)
        act = evidence.negotiated(
            event,
            known.id,
            known.deal,
            after=_heard(known.id, tx),
            proposal=after.proposal,
            document=digest,
        )
        documents = [document] if document is not None else []
        outbox.say(act, documents, tx=tx, identity=self.identity)
        return after


def hear(submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity) -> None:
    """The other side's step. Raises when it is not what the table or the terms allow."""
    statement = submission.signed.statement
    number = NegotiationId.parse(statement.subject, where="subject")
    event = Event(statement.type.removeprefix("negotiation."))
    known = tx.negotiation(number)
    if known is not None and known.state is table.State.TERMINATED:
        return  # said before its sender heard that this side had ended it
    if event in (Event.REQUESTED, Event.OFFERED):
        digest = _only(statement.outputs)
        proposal = record.from_bytes(Proposal, submission.document(digest))
        if identity.party not in (proposal.consumer, proposal.holder):
            raise TermsRefused("parties", "the proposal is not for this party")
        if proposal.negotiation != number:
            raise TermsRefused("negotiation", "the proposal belongs to another negotiation")
        tx.confirm_document(digest, submission.document(digest))
        if known is None:
            fresh = Negotiation(
                number,
                proposal.deal,
                proposal.consumer,
                proposal.holder,
                proposal.terms.product_id,
                table.State.REQUESTED,
                digest,
            )
            state = table.next_state(number, None, event, fresh.side_of(statement.actor))
            known = replace(fresh, state=state)
        else:
            if (proposal.deal, proposal.consumer, proposal.holder) != (
                known.deal,
                known.consumer,
                known.holder,
            ):
                raise TermsRefused("parties", "differ from those who began this negotiation")
            known = table.advance(known, event, statement.actor, proposal=digest)
    elif known is None:
        raise UnknownSubject(statement.subject)
    elif event in (Event.AGREED, Event.VERIFIED) and statement.policy_digest != known.proposal:
        raise TermsRefused("proposal", "is not the one on the table")
    elif event is Event.AGREED:
        digest = _only(statement.outputs)
        known = table.advance(known, event, statement.actor, agreement=digest)
        _verify(known, Envelope.from_bytes(submission.document(digest)), tx, hub, identity)
        known = table.advance(known, Event.VERIFIED, identity.party)
    elif event is Event.VERIFIED:
        digest = _only(statement.outputs)
        if digest != known.agreement:
            raise TermsRefused("agreement", "is not the one that this holder signed")
        known = table.advance(known, event, statement.actor)
        _finalize(known, Envelope.from_bytes(submission.document(digest)), tx, hub, identity)
    else:
        known = table.advance(known, event, statement.actor)
        if event is Event.FINALIZED and known.agreement is not None:
            _keep(known.agreement, tx)
    tx.set_remark(f"heard {number}", str(submission.signed.digest))
    tx.save_negotiation(known)


def heed_answer(
    signed: SignedStatement, answer: Answer, tx: NodeTransaction, identity: Identity
) -> None:
    """The hub's answer to a step of this party's own. Termination and finalisation can cross on
    their way; which was first, and so has an effect, the hub's order says."""
    event = Event(signed.statement.type.removeprefix("negotiation."))
    if event not in (Event.TERMINATED, Event.FINALIZED) or not answer.applied:
        return
    known = _load(NegotiationId.parse(signed.statement.subject, where="subject"), tx)
    if known.state in table.FINAL:
        return
    if event is Event.FINALIZED and known.agreement is not None:
        _keep(known.agreement, tx)
    tx.save_negotiation(table.advance(known, event, identity.party))


def _verify(
    known: Negotiation,
    envelope: Envelope,
    tx: NodeTransaction,
    hub: Documents,
    identity: Identity,
) -> None:
    """The consumer signs an agreement that is exactly what it accepted or asked for."""
    agreement = agreements.read_agreement(envelope)
    proposal = record.from_bytes(Proposal, tx.document(known.proposal))
    agreements.require_same_but_signed(agreement, proposal)
    if agreement.consumer_document != identity.document:
        raise TermsRefused("consumer_document", "is not this party's current document")
    holder = trust.by_digest(
        agreement.holder_document, known.holder, tx=tx, hub=hub, identity=identity
    )
    agreements.require_signed_by(envelope, holder, known.holder)
    _require_known_regulator(agreement.terms, tx, hub, identity)
    both = envelope.with_signature(identity.signing)
    act = evidence.negotiated(
        Event.VERIFIED,
        known.id,
        known.deal,
        after=_heard(known.id, tx),
        proposal=known.proposal,
        document=both.payload_digest,
    )
    outbox.say(act, [both.to_bytes()], tx=tx, identity=identity)


def _finalize(
    known: Negotiation,
    envelope: Envelope,
    tx: NodeTransaction,
    hub: Documents,
    identity: Identity,
) -> None:
    """The holder finalises once both signatures are on it. The agreement is in force here once
    the hub has put this into order: the consumer may have terminated before."""
    agreement = agreements.read_agreement(envelope)
    consumer = trust.by_digest(
        agreement.consumer_document, known.consumer, tx=tx, hub=hub, identity=identity
    )
    own = tx.party(agreement.holder_document)
    if own is None:
        raise TermsRefused("holder_document", "is not a document of this party")
    agreements.require_signed(envelope, agreement, consumer=consumer, holder=own)
    tx.confirm_document(envelope.payload_digest, envelope.to_bytes())
    act = evidence.negotiated(
        Event.FINALIZED,
        known.id,
        known.deal,
        after=_heard(known.id, tx),
        proposal=known.proposal,
    )
    outbox.say(act, [], tx=tx, identity=identity)


def _require_known_regulator(
    terms: Terms, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """Raises NotTrusted unless this party believes the keys that openings will be sealed to."""
    if terms.regulator is not None and terms.regulator_document is not None:
        trust.by_digest(
            terms.regulator_document, terms.regulator, tx=tx, hub=hub, identity=identity
        )


def _keep(digest: Digest, tx: NodeTransaction) -> None:
    envelope = Envelope.from_bytes(tx.document(digest))
    tx.save_agreement(NodeAgreement(digest, agreements.read_agreement(envelope), 0, Fraction(0)))


def _heard(number: NegotiationId, tx: NodeTransaction) -> tuple[Digest, ...]:
    """The other side's last statement in this negotiation, which ours relies on."""
    text = tx.remark(f"heard {number}")
    return (Digest.parse(text),) if text else ()


def _load(number: NegotiationId, tx: NodeTransaction) -> Negotiation:
    known = tx.negotiation(number)
    if known is None:
        raise UnknownSubject(number)
    return known


def _only(outputs: tuple[Digest, ...]) -> Digest:
    if len(outputs) != 1:
        raise Malformed("outputs", "must name exactly one document")
    return outputs[0]
