"""Negotiations replayed over the shared table, and what their agreements are worth.

The replay follows the hub's own rules, step for step: a statement that the hub logged and did not
apply (too late, out of turn, another's) has no effect here either, and is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import Identifier, NegotiationId, PartyId
from crypto.statement import Statement
from exchange.audit.doubts import NOBODY, Reading, Rules, either, read
from exchange.audit.evidence import Evidence
from exchange.audit.log import Said
from exchange.errors import ExchangeError, TermsRefused, UnknownSubject
from exchange.terms import agreement as agreements
from exchange.terms import negotiation as table
from exchange.terms.agreement import Agreement, Proposal
from exchange.terms.negotiation import Event, Negotiation, Side, State
from ledger.verify.report import Check, phrase
from pricing.evidence import HELD
from registry.errors import RegistryError
from registry.evidence import LISTED
from registry.product import PAYLOAD_TYPE as PRODUCT

_PREFIX: Final = "negotiation."
_PROPOSING: Final = (Event.REQUESTED, Event.OFFERED)
_SIGNING: Final = (Event.AGREED, Event.VERIFIED)
_VERIFIED: Final = _PREFIX + Event.VERIFIED
_FINALIZED: Final = _PREFIX + Event.FINALIZED


@dataclass(frozen=True)
class Negotiations:
    """known: how each ended. finalised: of each agreement, the statement that finalised it.
    brought: of each agreement, the holder's statement that put it forward. no_effect: statements
    that changed nothing, with the reason. misfits: those among them that an honest party does not
    say where they stand. supposed: those that must have had none for the rest to fit, although
    nothing here shows it. either: by negotiation, whose statements cannot all be right."""

    known: Mapping[str, Negotiation]
    finalised: Mapping[Digest, Said]
    brought: Mapping[Digest, Said]
    no_effect: Mapping[Digest, str]
    misfits: Mapping[Digest, str]
    supposed: frozenset[Digest]
    either: Mapping[str, Mapping[PartyId, Said]]


class _Talk(NamedTuple):
    """One negotiation so far. final: the statement that finalised it. ended: by whom."""

    known: Negotiation | None = None
    final: Said | None = None
    ended: PartyId | None = None


def replay(evidence: Evidence) -> Negotiations:
    """Every negotiation in the bundle, from nothing, in the order of the log."""
    known: dict[str, Negotiation] = {}
    finalised: dict[Digest, Said] = {}
    brought: dict[Digest, Said] = {}
    no_effect = about_none(steps_among(evidence.said), NegotiationId)
    misfits: dict[Digest, str] = {}
    supposed: set[Digest] = set()
    perhaps: dict[str, Mapping[PartyId, Said]] = {}
    held = _first_holds(evidence)
    for subject in _subjects(evidence):
        found = _replay_one(subject, evidence, held)
        idle = [s for s in evidence.about(subject) if s.signed.digest in found.no_effect]
        no_effect |= {s.signed.digest: found.no_effect[s.signed.digest] for s in idle}
        supposed |= found.supposed
        perhaps[subject] = found.either
        talk, final, _ = found.state
        if talk is not None:
            known[subject] = talk
            misfits |= {
                s.signed.digest: found.misfits[s.signed.digest]
                for s in idle
                # Once somebody has ended it all, what does not follow is nobody's fault.
                if s.signed.digest in found.misfits
                and talk.state is not State.TERMINATED
                and _is_last_word(s, talk)
            }
            brought |= _brought(talk, evidence, found.no_effect)
            if final is not None and talk.agreement is not None:
                finalised[talk.agreement] = final
    return Negotiations(known, finalised, brought, no_effect, misfits, frozenset(supposed), perhaps)


def check_replays(evidence: Evidence, found: Negotiations) -> list[Check]:
    """That each negotiation went by the table, by the roles of those who signed the steps.

    A node says *verified* and *finalized* only after it has checked what it answers. Where one of
    these does not follow although nobody ended the negotiation, something before it is missing,
    altered or out of order.
    """
    return [_replay_check(subject, evidence, found) for subject in _subjects(evidence)]


def check_agreement(
    name: Digest, evidence: Evidence, found: Negotiations, *, needed_at: int | None
) -> list[Check]:
    """That an agreement is the accepted proposal, signed by both under the documents it pins,
    within the product's rule, and final before `needed_at`, where a plan first relies on it, if
    one does."""
    subject = f"agreement {name}"
    try:
        agreement = evidence.agreement(name)
    except (ExchangeError, CryptoError) as error:
        note = phrase("reason", reason=error)
        return [Check("agreement.signed", False, subject, note)]
    subject = f"{agreement.id} with {evidence.parties.name(agreement.holder)}"
    return [
        _accepted(name, agreement, evidence, found, subject),
        _signed(name, agreement, evidence, subject),
        _within_product(agreement, evidence, subject),
        *_final(name, agreement, found, needed_at, subject),
    ]


def check_product(name: Digest, evidence: Evidence) -> Check:
    """That the product version that terms name is its holder's: signed with the signing key of
    the party document it names, and logged by the holder's own statement."""
    subject = f"product {name}"
    try:
        envelope = evidence.envelope(name)
        product = evidence.product(name)
        subject = f"{product.name} ({product.id}) version {product.version}"
        holder = evidence.parties.by_digest(product.holder_document)
        if holder.document.party != product.holder:
            raise Malformed("holder_document", "is another party's")
        dsse.verify(envelope, PRODUCT, holder.document.signing)
    except (ExchangeError, RegistryError, CryptoError) as error:
        return Check("product.signed", False, subject, phrase("reason", reason=error))
    listed = any(
        s.statement.type == LISTED
        and s.statement.actor == product.holder
        and s.statement.outputs == (name,)
        for s in evidence.about(product.id)
    )
    if not listed:
        return Check("product.signed", False, subject, phrase("product.not_logged"))
    return Check("product.signed", True, subject)


def to_check(evidence: Evidence, found: Negotiations, named: Collection[Digest]) -> list[Digest]:
    """The agreements that are worth a look: those that became final, those that plans name, and
    those that a consumer verified."""
    verified = [
        known.agreement
        for s in evidence.said
        if s.statement.type == _VERIFIED
        and (known := found.known.get(s.statement.subject)) is not None
        and s.statement.actor == known.consumer
        and known.agreement is not None
        and known.agreement in s.statement.outputs
    ]
    return list(dict.fromkeys([*found.finalised, *verified, *named]))


def about_none(steps: Sequence[Said], kind: type[Identifier]) -> dict[Digest, str]:
    """Those of these steps whose subject is no identifier of that kind, with the reason: whoever
    says one, it is a step of nothing."""
    no_effect = {}
    for said in steps:
        try:
            kind.parse(said.statement.subject, where="subject")
        except Malformed as error:
            no_effect[said.signed.digest] = str(error)
    return no_effect


def _subjects(evidence: Evidence) -> list[str]:
    subjects = (s.statement.subject for s in steps_among(evidence.said))
    return [subject for subject in dict.fromkeys(subjects) if NegotiationId.is_spelled(subject)]


def steps_among(said: Sequence[Said]) -> list[Said]:
    """What is said of negotiations; of one's id anybody may say anything else."""
    return [s for s in said if s.statement.type.startswith(_PREFIX)]


def _replay_one(subject: str, evidence: Evidence, held: Mapping[Digest, Said]) -> Reading[_Talk]:
    steps = steps_among(evidence.about(subject))
    names = {s.signed.digest for s in steps}
    named = list(_naming(steps, evidence))
    last_words = {
        word
        for _, _, document in named
        for word in ((document.consumer, _VERIFIED), (document.holder, _FINALIZED))
    }

    signing = {_PREFIX + event for event in _SIGNING}
    named_until = {s.statement.policy_digest: s.index for s in steps if s.statement.type in signing}

    def same(talk: _Talk, last: Said) -> Hashable:
        """What is on the table matters while somebody may still sign it: else of many proposals
        each would be a reading of its own."""
        if (known := talk.known) is None:
            return None
        matters = named_until.get(known.proposal, last.index) > last.index
        proposal = known.proposal if matters else None
        parties = known.deal, known.consumer, known.holder
        return *parties, known.state, talk.ended, proposal, known.agreement

    def step(talk: _Talk, said: Said) -> _Talk:
        return _step(said, talk, evidence) if said.signed.digest in names else _held(said, talk)

    def wrong(talk: _Talk, said: Said, took: bool) -> PartyId | None:
        """A last word that does not follow, and a price held under an agreement that is not final.
        *Finalized* answers it all: that it has no effect once the other ended it all is odd."""
        statement, known = said.statement, talk.known
        if took:
            return None
        if statement.type == HELD:
            return statement.actor
        if known is None:
            return statement.actor if (statement.actor, statement.type) in last_words else None
        if not _is_last_word(said, known):
            return None
        if known.state is not State.TERMINATED or talk.ended == statement.actor:
            return statement.actor
        return NOBODY if statement.type == _FINALIZED else None

    # A document is in the bundle because a step brought it. Where several of a kind name it, any
    # of them may be that step, and the others may have come without it.
    times = Counter(what for _, what, _ in named)
    perhaps_empty = {name for name, what, _ in named if times[what] > 1}
    holds = {held[name].index: held[name] for _, (_, name), _ in named if name in held}
    return read(
        sorted([*steps, *holds.values()], key=lambda said: said.index),
        _Talk(),
        Rules(step, same, wrong, evidence.operator),
        without={name: why for name, why in evidence.arrivals.late.items() if name in names},
        doubtful=names & (perhaps_empty | evidence.arrivals.perhaps),
    )


def _first_holds(evidence: Evidence) -> Mapping[Digest, Said]:
    """Of each agreement the operator's first word that it holds a price under it: as its hub saw
    it, the agreement was final by then."""
    found: dict[Digest, Said] = {}
    for said in evidence.said:
        if (said.statement.type, said.statement.actor) == (HELD, evidence.operator):
            for name in said.statement.inputs[1:]:  # the plan comes first
                found.setdefault(name, said)
    return found


def _held(said: Said, talk: _Talk) -> _Talk:
    known = talk.known
    if known is None or known.state is not State.FINALIZED:
        raise TermsRefused("agreement", "is not final")
    if known.agreement not in said.statement.inputs:
        raise TermsRefused("agreement", "is not the one that was finalised")
    return talk


def _naming(
    steps: Sequence[Said], evidence: Evidence
) -> Iterator[tuple[Digest, tuple[str, Digest], Proposal | Agreement]]:
    """Each step that may have brought a document: its digest, the document's kind and digest, and
    the document. By its own parties, and in time: nobody else's step has an effect."""
    for said in steps:
        kind = said.statement.type.removeprefix(_PREFIX)
        if kind not in (*_PROPOSING, *_SIGNING) or said.signed.digest in evidence.arrivals.late:
            continue
        with suppress(ExchangeError, CryptoError):
            output = _only_output(said.statement)
            proposes = kind in _PROPOSING
            document = _proposal(output, evidence) if proposes else evidence.agreement(output)
            own = document.negotiation == said.statement.subject
            if own and said.statement.actor in (document.consumer, document.holder):
                yield said.signed.digest, ("proposal" if proposes else kind, output), document


def _brought(
    talk: Negotiation, evidence: Evidence, no_effect: Mapping[Digest, str]
) -> Mapping[Digest, Said]:
    """Of each agreement of this negotiation the holder's statement that put it forward: the one
    that had an effect, or the first once the negotiation had begun. What it says of another's
    agreement brings that as little as anybody's word."""
    about = steps_among(evidence.about(talk.id))
    begun = min(s.index for s in about if s.signed.digest not in no_effect)
    found: dict[Digest, Said] = {}
    for s in sorted(about, key=lambda s: (s.signed.digest in no_effect, s.index)):
        agreed = (s.statement.type, s.statement.actor) == (_PREFIX + Event.AGREED, talk.holder)
        late = s.index < begun or s.signed.digest in evidence.arrivals.late
        if agreed and not late and len(s.statement.outputs) == 1:
            (name,) = s.statement.outputs
            with suppress(ExchangeError, CryptoError):
                if evidence.agreement(name).negotiation == talk.id:
                    found.setdefault(name, s)
    return found


def _step(said: Said, talk: _Talk, evidence: Evidence) -> _Talk:
    """The negotiation after one statement, by the rules of `exchange.hub.negotiations`. Raises
    where it has no effect."""
    statement = said.statement
    event = Event(statement.type.removeprefix(_PREFIX))
    number = NegotiationId.parse(statement.subject, where="subject")
    known = talk.known
    proposal: Digest | None = None
    signed: Digest | None = None
    if event in _PROPOSING:
        proposal = _only_output(statement)
        terms = record.from_bytes(Proposal, evidence.document(proposal))
        _require_proposable(terms, number, evidence)
        if known is None:
            begun = Negotiation(
                number,
                terms.deal,
                terms.consumer,
                terms.holder,
                terms.terms.product_id,
                table.next_state(number, None, event, _side(terms, statement)),
                proposal,
            )
            return _Talk(begun)
        if (terms.deal, terms.consumer, terms.holder) != (
            known.deal,
            known.consumer,
            known.holder,
        ):
            raise TermsRefused("parties", "differ from those who began this negotiation")
    if known is None:
        raise UnknownSubject(statement.subject)
    if event in _SIGNING:
        if statement.policy_digest != known.proposal:
            raise TermsRefused("proposal", "is not the one on the table")
        signed = _only_output(statement)
        agreement = evidence.agreement(signed)
        agreements.require_same_but_signed(agreement, _proposal(known.proposal, evidence))
        _require_signatures(signed, agreement, event, evidence)
    after = table.advance(known, event, statement.actor, proposal=proposal, agreement=signed)
    if event is Event.VERIFIED and signed != known.agreement:
        raise TermsRefused("agreement", "is not the one that the holder signed")
    return _Talk(
        after,
        said if event is Event.FINALIZED else talk.final,
        statement.actor if event is Event.TERMINATED else talk.ended,
    )


def _require_proposable(terms: Proposal, number: NegotiationId, evidence: Evidence) -> None:
    if terms.negotiation != number:
        raise TermsRefused("negotiation", "the proposal belongs to another negotiation")
    product = evidence.product(terms.terms.product)
    if product.id != terms.terms.product_id or product.holder != terms.holder:
        raise TermsRefused("product", "is not a product of this holder")
    agreements.require_within_product(terms.terms, product)


def _require_signatures(
    name: Digest, agreement: Agreement, event: Event, evidence: Evidence
) -> None:
    """The holder's signature when it agrees, both from then on."""
    envelope = evidence.envelope(name)
    consumer = evidence.parties.by_digest(agreement.consumer_document)
    holder = evidence.parties.by_digest(agreement.holder_document)
    if event is Event.AGREED:
        agreements.require_signed_by(envelope, holder, agreement.holder)
    else:
        agreements.require_signed(envelope, agreement, consumer=consumer, holder=holder)


def _replay_check(subject: str, evidence: Evidence, found: Negotiations) -> Check:
    known = found.known.get(subject)
    if known is None:
        what = idle_steps(steps_among(evidence.about(subject)), found.no_effect)
        note = phrase("negotiation.not_begun", what=what)
        return Check("negotiation.replayed", False, subject, note)
    if known.deal != evidence.deal:
        note = phrase("negotiation.other_deal", deal=known.deal)
        return Check("negotiation.replayed", False, subject, note)
    about = evidence.about(subject)
    for said in about:
        if (reason := found.misfits.get(said.signed.digest)) is not None:
            note = phrase(
                "negotiation.out_of_place",
                index=said.index,
                kind=said.statement.type,
                reason=reason,
            )
            return Check("negotiation.replayed", False, subject, note)
    if perhaps := found.either[subject]:
        return Check("negotiation.replayed", False, subject, either(perhaps, evidence.parties))
    idle = [s for s in about if s.signed.digest in found.no_effect]
    if supposed := [s for s in idle if s.signed.digest in found.supposed]:
        note = phrase("negotiation.supposed", what=idle_steps(supposed, found.no_effect))
        return Check("negotiation.replayed", None, subject, note)
    named = phrase("no_effect", what=idle_steps(idle, found.no_effect)) if idle else None
    return Check("negotiation.replayed", True, subject, named)


def idle_steps(idle: Sequence[Said], no_effect: Mapping[Digest, str]) -> str:
    """Statements without effect, each with its place and reason."""
    return "; ".join(
        f"{s.statement.type} at index {s.index} ({no_effect[s.signed.digest]})" for s in idle
    )


def _is_last_word(said: Said, known: Negotiation) -> bool:
    last_words = {known.consumer: _VERIFIED, known.holder: _FINALIZED}
    return last_words.get(said.statement.actor) == said.statement.type


def _accepted(
    name: Digest, agreement: Agreement, evidence: Evidence, found: Negotiations, subject: str
) -> Check:
    said = found.brought.get(name)
    if said is None:
        return Check("agreement.accepted", False, subject, phrase("agreement.no_statement"))
    known = found.known[said.statement.subject]
    try:
        if said.statement.policy_digest != known.proposal:
            raise TermsRefused("proposal", "the statement names another than the one on the table")
        agreements.require_same_but_signed(agreement, _proposal(known.proposal, evidence))
    except (ExchangeError, CryptoError) as error:
        return Check("agreement.accepted", False, subject, phrase("reason", reason=error))
    return Check("agreement.accepted", True, subject)


def _signed(name: Digest, agreement: Agreement, evidence: Evidence, subject: str) -> Check:
    try:
        _require_signatures(name, agreement, Event.VERIFIED, evidence)
    except (ExchangeError, CryptoError) as error:
        return Check("agreement.signed", False, subject, phrase("reason", reason=error))
    return Check("agreement.signed", True, subject)


def _within_product(agreement: Agreement, evidence: Evidence, subject: str) -> Check:
    terms = agreement.terms
    try:
        product = evidence.product(terms.product)
        if product.id != terms.product_id or product.holder != agreement.holder:
            raise TermsRefused("product", "is not a product of this holder")
        agreements.require_within_product(terms, product)
    except (ExchangeError, RegistryError, CryptoError) as error:
        return Check("agreement.product", False, subject, phrase("reason", reason=error))
    return Check("agreement.product", True, subject)


def _final(
    name: Digest, agreement: Agreement, found: Negotiations, needed_at: int | None, subject: str
) -> list[Check]:
    said = found.finalised.get(name)
    if said is None and needed_at is None:
        return []  # not final yet, or ended before it was; nothing relies on it
    if said is None:
        note = phrase("agreement.not_final_at_all")
        return [Check("agreement.finalised", False, subject, note)]
    if needed_at is not None and said.index >= needed_at:
        note = phrase("agreement.not_final", negotiation=agreement.negotiation, index=needed_at)
        return [Check("agreement.finalised", False, subject, note)]
    return [Check("agreement.finalised", True, subject)]


def _proposal(name: Digest, evidence: Evidence) -> Proposal:
    return record.from_bytes(Proposal, evidence.document(name))


def _side(terms: Proposal, statement: Statement) -> Side:
    if statement.actor == terms.consumer:
        return Side.CONSUMER
    if statement.actor == terms.holder:
        return Side.HOLDER
    raise TermsRefused("parties", "do not include the one who proposes")


def _only_output(statement: Statement) -> Digest:
    if len(statement.outputs) != 1:
        raise Malformed("outputs", "must name exactly one document")
    return statement.outputs[0]
