"""What a deal's evidence answers: who offered what by which document, who agreed to what, what ran
on which columns under which digest, what each party learned, what was released, who was paid.

Taken from the replays, so only from genuine statements that had an effect, each with its place in
the log. What is wrong with the deal is in the checks; answers say what was done, wrong or not.
Rights are not registered on their own yet: who may offer a product is whoever listed it, under the
party document that the product names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.identifiers import DealId, NegotiationId, PartyId, ProductId
from crypto.record import encode_time
from exchange.audit.evidence import Evidence
from exchange.audit.jobs import Job, Jobs
from exchange.audit.log import Said
from exchange.audit.money import legs_in_words, payments
from exchange.audit.negotiations import Negotiations, steps_among
from exchange.audit.openings import Opener
from exchange.errors import ExchangeError
from exchange.query.explanation import Language, learns
from exchange.query.plan import TWO_SIDED, Lookup, Plan
from exchange.query.rules import disclosures
from exchange.terms.agreement import Agreement
from exchange.terms.negotiation import State
from ledger.verify.merkle import leaf_hash
from ledger.verify.report import Phrase, Report, Voice, phrase
from pricing.evidence import Movement
from registry.errors import RegistryError
from registry.evidence import LISTED
from registry.product import DataProduct
from registry.rule import Join, Use


@dataclass(frozen=True)
class Seen:
    """The statement that shows a fact, and its place. leaf: the entry's hash in the tree."""

    index: int
    leaf: bytes
    statement: Digest
    actor: PartyId
    time: datetime

    @classmethod
    def of(cls, said: Said) -> Seen:
        return cls(
            said.index,
            leaf_hash(said.signed.entry),
            said.signed.digest,
            said.statement.actor,
            said.statement.time,
        )


@dataclass(frozen=True)
class Listed:
    """A product version that terms or plans name. listed: by its holder, absent where the bundle
    does not show it."""

    digest: Digest
    product: DataProduct
    listed: Seen | None


@dataclass(frozen=True)
class Talk:
    """A negotiation and what came of it. digest: of the agreement. brought: by the holder's
    statement. finalised: absent where it never became final."""

    id: NegotiationId
    consumer: PartyId
    holder: PartyId
    product: ProductId
    state: State
    begun: Seen
    last: Seen
    digest: Digest | None
    agreement: Agreement | None
    brought: Seen | None
    finalised: Seen | None


@dataclass(frozen=True)
class Part:
    """What one party sealed for the receiver. software: what it says it ran."""

    party: PartyId
    digest: Digest
    software: str
    sealed: Seen


@dataclass(frozen=True)
class Payment:
    """movement: absent where it stays closed to this reader."""

    kind: str
    seen: Seen
    movement: Movement | None


@dataclass(frozen=True)
class Ran:
    """A job. columns: per side of the plan, each column it lets something out of, with its uses."""

    plan: Plan
    digest: Digest
    state: str
    columns: Sequence[Mapping[str, Sequence[str]]]
    submitted: Seen
    admitted: Mapping[PartyId, Seen]
    started: Mapping[PartyId, Seen]
    parts: Sequence[Part]
    released: Seen | None
    opened: Seen | None
    ended: Seen | None
    payments: Sequence[Payment]


@dataclass(frozen=True)
class Answers:
    """names: of everybody who spoke or is spoken of. Each list in the order of the log."""

    deal: DealId
    names: Mapping[PartyId, str]
    listed: Sequence[Listed]
    talks: Sequence[Talk]
    ran: Sequence[Ran]

    def name(self, party: PartyId) -> str:
        return self.names.get(party, party)


@dataclass(frozen=True)
class DealReport(Report):
    """The report of a deal: its checks, its story, and the questions that people ask of it."""

    answers: Answers = field(kw_only=True)

    def to_value(self, voice: Voice) -> dict[str, object]:
        language = Language(voice.language)
        return {**super().to_value(voice), "answers": to_value(self.answers, language)}

    def told(self, voice: Voice) -> list[str]:
        heading = voice.headings
        nothing = [heading["nothing"]]
        lines: list[str] = []
        for key, said in in_words(self.answers):
            found = [one.text(voice) for one in said]
            lines += ["", heading[key], *_indented(found or nothing)]
            if key == "ran":
                words = learned(self.answers, Language(voice.language))
                lines += ["", heading["learned"], *_indented(words or nothing)]
        return [*lines, *super().told(voice)]


def answer(evidence: Evidence, talks: Negotiations, work: Jobs, opener: Opener | None) -> Answers:
    told = [_talk(subject, evidence, talks) for subject in talks.known]
    ran = [_ran(job, evidence, work, opener) for job in work.held]
    wanted = {t.agreement.terms.product for t in told if t.agreement is not None}
    wanted |= {side.product for job in ran for side in job.plan.sides}
    listed = [found for name in wanted if (found := _listed(name, evidence)) is not None]
    return Answers(
        deal=evidence.deal,
        names={
            party: history[-1].party.document.name
            for party, history in evidence.parties.history.items()
            if history
        },
        listed=sorted(listed, key=lambda one: (one.product.id, one.product.version, one.digest)),
        talks=sorted(told, key=lambda talk: talk.begun.index),
        ran=sorted(ran, key=lambda job: job.submitted.index),
    )


def to_value(answers: Answers, language: Language) -> dict[str, object]:
    """The answers as JSON has them."""
    return {
        "listed": [
            {
                "product": one.product.id,
                "version": one.product.version,
                "name": one.product.name,
                "digest": str(one.digest),
                "holder": one.product.holder,
                "holder_document": str(one.product.holder_document),
                "listed": _seen_value(one.listed),
            }
            for one in answers.listed
        ],
        "negotiations": [_talk_value(talk) for talk in answers.talks],
        "jobs": [_ran_value(job, language) for job in answers.ran],
    }


def in_words(answers: Answers) -> list[tuple[str, list[Phrase]]]:
    """Per question, a key of `words.HEADINGS`, its answers. What each party learned follows from
    the plan, in the reader's language: see `learned`."""
    return [
        ("rights", [_listed_words(one, answers) for one in answers.listed]),
        ("agreed", [_talk_words(talk, answers) for talk in answers.talks]),
        ("ran", [said for job in answers.ran for said in _ran_words(job, answers)]),
        ("released", [said for job in answers.ran for said in _released_words(job, answers)]),
        ("paid", [said for job in answers.ran for said in _paid_words(job)]),
    ]


def learned(answers: Answers, language: Language) -> list[str]:
    """Who learned what in each job that came to a run, from the plan alone."""
    return [
        f"{job.plan.job}: {answers.name(PartyId(party))} ({party}): {words}"
        for job in answers.ran
        if job.started
        for party, words in learns(job.plan, language).items()
    ]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _talk(subject: str, evidence: Evidence, talks: Negotiations) -> Talk:
    known = talks.known[subject]
    said = steps_among(evidence.about(subject))
    steps = [s for s in said if s.signed.digest not in talks.no_effect]
    agreement = None
    if known.agreement is not None:
        try:
            agreement = evidence.agreement(known.agreement)
        except (ExchangeError, CryptoError):
            agreement = None  # `check_agreement` says so
    brought = talks.brought.get(known.agreement) if known.agreement is not None else None
    final = talks.finalised.get(known.agreement) if known.agreement is not None else None
    return Talk(
        id=known.id,
        consumer=known.consumer,
        holder=known.holder,
        product=known.product,
        state=known.state,
        begun=Seen.of(steps[0]),
        last=Seen.of(steps[-1]),
        digest=known.agreement,
        agreement=agreement,
        brought=None if brought is None else Seen.of(brought),
        finalised=None if final is None else Seen.of(final),
    )


def _ran(job: Job, evidence: Evidence, work: Jobs, opener: Opener | None) -> Ran:
    opened = [
        said
        for said in evidence.about(job.id)
        if said.statement.type == "job.opened" and said.signed.digest not in work.no_effect
    ]
    return Ran(
        plan=job.plan,
        digest=job.plan_digest,
        state=job.state.value,
        columns=[_columns(job.plan, index, evidence) for index in range(len(job.plan.sides))],
        submitted=Seen.of(job.submitted),
        admitted={party: Seen.of(said) for party, said in job.admitted.items()},
        started={party: Seen.of(said) for party, said in job.started.items()},
        parts=[
            Part(
                party,
                said.statement.outputs[0],
                said.statement.body.get("software", ""),
                Seen.of(said),
            )
            for party, said in job.sealed.items()
        ],
        released=None if job.released is None else Seen.of(job.released),
        opened=Seen.of(opened[0]) if opened else None,
        ended=None if job.ended is None else Seen.of(job.ended),
        payments=[
            Payment(said.statement.type, Seen.of(said), movement)
            for said, movement in payments(job, evidence, opener)
        ],
    )


def _columns(plan: Plan, index: int, evidence: Evidence) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    by_key = plan.join in TWO_SIDED - {Join.UNION} or isinstance(plan.work, Lookup)
    if by_key and (product := _product(plan.sides[index].product, evidence)) is not None:
        found[product.key] = [Use.JOIN_KEY.value]
    for disclosure in disclosures(plan, index):
        what = disclosure.use.value
        if disclosure.function is not None:
            what += f" ({disclosure.function.value})"
        uses = found.setdefault(disclosure.column, [])
        if what not in uses:
            uses.append(what)
    return found


def _listed(name: Digest, evidence: Evidence) -> Listed | None:
    product = _product(name, evidence)
    if product is None:
        return None
    said = [
        s
        for s in evidence.about(product.id)
        if (s.statement.type, s.statement.actor) == (LISTED, product.holder)
        and s.statement.outputs == (name,)
    ]
    return Listed(name, product, Seen.of(said[0]) if said else None)


def _product(name: Digest, evidence: Evidence) -> DataProduct | None:
    """None where the bundle lacks it; `product.signed` and `plan.rules` fail for it."""
    try:
        return evidence.product(name)
    except (ExchangeError, RegistryError, CryptoError):
        return None


def _listed_words(one: Listed, answers: Answers) -> Phrase:
    product = one.product
    return phrase(
        "answer.not_listed" if one.listed is None else "answer.listed",
        holder=answers.name(product.holder),
        id=product.holder,
        product=product.name,
        number=product.id,
        version=product.version,
        digest=one.digest,
        document=product.holder_document,
        index="" if one.listed is None else one.listed.index,
    )


def _talk_words(talk: Talk, answers: Answers) -> Phrase:
    consumer, holder = answers.name(talk.consumer), answers.name(talk.holder)
    if talk.agreement is None or talk.finalised is None:
        return phrase(
            "answer.talked",
            consumer=consumer,
            holder=holder,
            negotiation=talk.id,
            product=talk.product,
            state=talk.state,
            index=talk.last.index,
        )
    terms = talk.agreement.terms
    return phrase(
        "answer.agreed",
        consumer=consumer,
        holder=holder,
        agreement=talk.agreement.id,
        digest=talk.digest,
        product=talk.product,
        purposes=", ".join(terms.purposes),
        joins=", ".join(terms.joins),
        min_group=terms.min_group,
        runs=terms.runs,
        epsilon=terms.epsilon,
        price=terms.price_minor,
        currency=terms.currency,
        since=encode_time(terms.valid_from),
        until=encode_time(terms.valid_until),
        index=talk.finalised.index,
    )


def _ran_words(job: Ran, answers: Answers) -> list[Phrase]:
    plan = job.plan
    said = [
        phrase(
            "answer.ran",
            job=plan.job,
            consumer=answers.name(plan.consumer),
            purpose=plan.purpose,
            join=plan.join,
            digest=job.digest,
            state=job.state,
            index=job.submitted.index,
        )
    ]
    for side, columns in zip(plan.sides, job.columns, strict=True):
        uses = "; ".join(f"{column}: {', '.join(uses)}" for column, uses in columns.items())
        said.append(
            phrase(
                "answer.columns",
                holder=answers.name(side.holder),
                product=side.product,
                columns=uses or "-",
            )
        )
    return said


def _released_words(job: Ran, answers: Answers) -> list[Phrase]:
    said = [
        phrase(
            "answer.part",
            job=job.plan.job,
            party=answers.name(part.party),
            digest=part.digest,
            index=part.sealed.index,
        )
        for part in job.parts
    ]
    receiver = answers.name(job.plan.receivers[0].party)
    if job.released is None:
        said.append(phrase("answer.not_released", job=job.plan.job, state=job.state))
    else:
        said.append(
            phrase(
                "answer.released",
                job=job.plan.job,
                receiver=receiver,
                index=job.released.index,
            )
        )
    if job.opened is not None:
        said.append(
            phrase("answer.opened", job=job.plan.job, receiver=receiver, index=job.opened.index)
        )
    return said


def _paid_words(job: Ran) -> list[Phrase]:
    return [
        phrase("answer.paid_closed", job=job.plan.job, kind=paid.kind, index=paid.seen.index)
        if paid.movement is None
        else phrase(
            "answer.paid",
            job=job.plan.job,
            kind=paid.kind,
            what=legs_in_words(paid.movement.legs, job.plan.currency),
            index=paid.seen.index,
        )
        for paid in job.payments
    ]


def _seen_value(seen: Seen | None) -> dict[str, object] | None:
    if seen is None:
        return None
    return {
        "index": seen.index,
        "leaf_hash": seen.leaf.hex(),
        "statement": str(seen.statement),
        "actor": seen.actor,
        "time": encode_time(seen.time),
    }


def _talk_value(talk: Talk) -> dict[str, object]:
    value: dict[str, object] = {
        "negotiation": talk.id,
        "consumer": talk.consumer,
        "holder": talk.holder,
        "product": talk.product,
        "state": talk.state.value,
        "agreement": None,
        "finalised": _seen_value(talk.finalised),
    }
    if talk.agreement is not None:
        terms = talk.agreement.terms
        value["agreement"] = {
            "id": talk.agreement.id,
            "digest": str(talk.digest),
            "product": str(terms.product),
            "purposes": list(terms.purposes),
            "joins": [join.value for join in terms.joins],
            "min_group": terms.min_group,
            "runs": terms.runs,
            "epsilon": str(terms.epsilon),
            "currency": terms.currency,
            "price_minor": str(int(terms.price_minor)),
            "valid_from": encode_time(terms.valid_from),
            "valid_until": encode_time(terms.valid_until),
            "regulator": terms.regulator,
        }
    return value


def _ran_value(job: Ran, language: Language) -> dict[str, object]:
    plan = job.plan
    return {
        "job": plan.job,
        "consumer": plan.consumer,
        "purpose": plan.purpose,
        "join": plan.join.value,
        "plan": str(job.digest),
        "state": job.state,
        "sides": [
            {
                "holder": side.holder,
                "product": str(side.product),
                "agreement": str(side.agreement),
                "columns": {name: list(uses) for name, uses in columns.items()},
            }
            for side, columns in zip(plan.sides, job.columns, strict=True)
        ],
        "learns": dict(learns(plan, language)),
        "submitted": _seen_value(job.submitted),
        "admitted": {party: _seen_value(seen) for party, seen in job.admitted.items()},
        "started": {party: _seen_value(seen) for party, seen in job.started.items()},
        "parts": [
            {
                "party": part.party,
                "digest": str(part.digest),
                "software": part.software,
                "sealed": _seen_value(part.sealed),
            }
            for part in job.parts
        ],
        "receiver": plan.receivers[0].party,
        "released": _seen_value(job.released),
        "opened": _seen_value(job.opened),
        "ended": _seen_value(job.ended),
        "payments": [
            {
                "kind": paid.kind,
                "seen": _seen_value(paid.seen),
                "legs": None
                if paid.movement is None
                else [
                    {
                        "phase": leg.phase.value,
                        "debit": leg.debit,
                        "credit": leg.credit,
                        "amount_minor": str(int(leg.amount_minor)),
                        "currency": plan.currency,
                    }
                    for leg in paid.movement.legs
                ],
            }
            for paid in job.payments
        ],
    }
