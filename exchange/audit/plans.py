"""What a plan is worth: who signed it, what it stands on, and whether anything forbids it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction

from crypto import envelope as dsse
from crypto.digest import Digest
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import JobId, PartyId, ProductId
from exchange.audit.evidence import Evidence
from exchange.audit.jobs import Job, Jobs
from exchange.audit.log import Said
from exchange.errors import ExchangeError, PlanRefused
from exchange.jobs import FINAL, JobState
from exchange.privacy import NOTHING, PrivacyAccount, PrivacyCost, account_of, cost_of, reserve
from exchange.query import plan as plans
from exchange.query.explanation import learns
from exchange.query.plan import SidePlan
from exchange.query.rules import Ground, owner_violations, violations
from exchange.terms.agreement import Agreement, Terms
from ledger.verify.report import Check, Phrase, phrase
from registry.errors import RegistryError
from registry.evidence import LISTED
from registry.party import Role
from registry.product import DataProduct


def check_plan(job: Job, evidence: Evidence) -> list[Check]:
    """All of a plan that somebody admitted. One that was only submitted bound nobody."""
    return [
        _signed(job, evidence),
        _agreements(job, evidence),
        _rules(job, evidence),
        _owners(job, evidence),
        _learns(job),
    ]


def check_use(name: Digest, agreement: Agreement, evidence: Evidence, found: Jobs) -> Check:
    """That the holder never admitted more jobs under an agreement than it allows, nor more epsilon.

    Counted from the holder's own signed admissions. A job that ended before anything started
    gives its run back, as it does at the hub.
    """
    subject = f"{agreement.id} with {evidence.parties.name(agreement.holder)}"
    admitted = _admitted_under(name, agreement, found)
    note, within = _used([job for job in admitted if not _returned(job)], agreement.terms)
    if not within and _used([job for job in admitted if _spent(job, evidence)], agreement.terms)[1]:
        return Check("agreement.runs", None, subject, phrase("runs.perhaps", used=note))
    return Check("agreement.runs", within, subject, note)


def _used(spent: Sequence[Job], terms: Terms) -> tuple[Phrase, bool]:
    """How much of an agreement jobs used, and whether that is within it."""
    epsilon = sum((job.plan.epsilon for job in spent), Fraction(0))
    note = phrase(
        "runs.used",
        used=len(spent),
        allowed=terms.runs,
        epsilon=epsilon,
        epsilon_allowed=terms.epsilon,
    )
    return note, len(spent) <= terms.runs and epsilon <= terms.epsilon


def check_accounts(evidence: Evidence, found: Jobs) -> list[Check]:
    """That no holder admitted more on a product's privacy account than the newest version that it
    had listed by then allows: by its own numbering, and by the jobs of this deal alone. What other
    deals drew from the same account stands in receipts' openings."""
    products: dict[tuple[ProductId, PartyId], None] = {}
    for job in found.held:
        for side in job.plan.sides:
            if cost_of(job.plan) != NOTHING and side.holder in job.admitted:
                number = product_id(side, evidence)
                if number is not None:
                    products[number, side.holder] = None
    checks = []
    given_back = {job.id for job in found.held if _returned(job)}
    perhaps = {job.id for job in found.held if not _spent(job, evidence)}
    for number, holder in products:
        subject = f"{number} of {evidence.parties.name(holder)}"
        passed, note = _account(number, holder, evidence, found, given_back)
        if passed is False and _account(number, holder, evidence, found, perhaps)[0] is not False:
            passed, note = None, phrase("privacy.perhaps", reason=note)
        checks.append(Check("product.privacy", passed, subject, note))
    return checks


def _account(
    number: ProductId,
    holder: PartyId,
    evidence: Evidence,
    found: Jobs,
    given_back: Collection[JobId],
) -> tuple[bool | None, Phrase]:
    account: PrivacyAccount | None = None
    spent = NOTHING
    for said in sorted(evidence.by(holder), key=lambda said: said.statement.actor_seq):
        listed = listed_version(said, number, evidence)
        if listed is not None:
            account = account_of(listed, spent)
        if said.statement.subject in given_back:
            continue
        cost = _admitted_cost(said, number, evidence, found)
        if cost == NOTHING:
            continue
        if account is None:
            return None, phrase("privacy.no_version")
        try:
            account = reserve(account, cost)
        except PlanRefused as error:
            return False, phrase("reason", reason=error)
        spent = account.spent
    if account is None:
        return None, phrase("privacy.no_version")
    return True, privacy_note(account)


def privacy_note(account: PrivacyAccount) -> Phrase:
    return phrase(
        "privacy.used",
        epsilon=account.epsilon_spent,
        epsilon_total=account.epsilon_total,
        delta=account.delta_spent,
        delta_total=account.delta_total,
    )


def listed_version(said: Said, number: ProductId, evidence: Evidence) -> DataProduct | None:
    """The version of a product that its holder lists with this statement, if the bundle has it."""
    statement = said.statement
    if statement.type != LISTED or statement.subject != number or len(statement.outputs) != 1:
        return None
    try:
        product = evidence.product(statement.outputs[0])
    except (ExchangeError, RegistryError, CryptoError):
        return None
    return product if (product.id, product.holder) == (number, statement.actor) else None


def _admitted_cost(said: Said, number: ProductId, evidence: Evidence, found: Jobs) -> PrivacyCost:
    """Of a holder's statement, if it is an admission that counts."""
    statement = said.statement
    job = found.known.get(statement.subject)
    if statement.type != "job.admitted" or job is None or job.held is None:
        return NOTHING
    side = job.plan.side_of(statement.actor)
    if side is None or job.admitted.get(statement.actor) != said:
        return NOTHING
    return cost_of(job.plan) if product_id(side, evidence) == number else NOTHING


def product_id(side: SidePlan, evidence: Evidence) -> ProductId | None:
    """None where the bundle lacks the product; `plan.rules` fails for it."""
    try:
        return evidence.product(side.product).id
    except (ExchangeError, RegistryError, CryptoError):
        return None


def _admitted_under(name: Digest, agreement: Agreement, found: Jobs) -> Sequence[Job]:
    return [
        job
        for job in found.held
        if any(s.agreement == name and s.holder == agreement.holder for s in job.plan.sides)
        and agreement.holder in job.admitted
    ]


def _returned(job: Job) -> bool:
    return job.state in FINAL and not job.started


def _spent(job: Job, evidence: Evidence) -> bool:
    """Whether its run was certainly not given back. A start that may have come too late, or that
    names an admission that may have, may have been none: then the hub, and whoever else admitted
    the job, gave it back rightly, and whoever said it must not make them look as if they had not.
    """
    perhaps = evidence.arrivals.perhaps
    return (
        job.state not in FINAL
        or job.state is JobState.RELEASED
        or any(
            perhaps.isdisjoint((said.signed.digest, *said.statement.after))
            for said in job.started.values()
        )
    )


def _signed(job: Job, evidence: Evidence) -> Check:
    """By the consumer: under the signing key of the party document that the plan itself names,
    which fixes who receives the result, too, and was in force when it was submitted: in an older
    one it may say nothing yet of its owner. The operator it names is one by its own document."""
    plan = job.plan
    try:
        consumer = evidence.parties.by_digest(plan.consumer_document)
        if consumer.document.party != plan.consumer:
            raise Malformed("consumer_document", "is another party's")
        if evidence.parties.in_force(plan.consumer, job.submitted.index) != consumer:
            raise Malformed("consumer_document", "was not the consumer's current one")
        dsse.verify(
            evidence.envelope(job.plan_digest), plans.PAYLOAD_TYPE, consumer.document.signing
        )
        for party in plan.sealers:
            named = plan.document_of(party)
            if named is None or evidence.parties.by_digest(named).document.party != party:
                raise Malformed("document", f"of {party} is another party's")
        operator = evidence.parties.in_force(plan.operator, job.submitted.index)
    except (ExchangeError, CryptoError) as error:
        return Check("plan.signed", False, job.id, phrase("reason", reason=error))
    if Role.OPERATOR not in operator.document.roles:
        note = phrase("plan.not_operator", operator=plan.operator)
        return Check("plan.signed", False, job.id, note)
    return Check("plan.signed", True, job.id)


def _agreements(job: Job, evidence: Evidence) -> Check:
    """By the consumer's signed submission and the holders' signed agreements: the plan names those
    agreements and no others, each with the holder whose side it governs, each for this deal."""
    plan = job.plan
    if job.submitted.statement.inputs != plan.relies_on:
        return Check("plan.agreements", False, job.id, phrase("plan.other_agreements"))
    try:
        for side in plan.sides:
            agreement = evidence.agreement(side.agreement)
            if agreement.holder != side.holder or agreement.consumer != plan.consumer:
                raise PlanRefused("agreement", f"{agreement.id} is between other parties")
            if agreement.deal != plan.deal:
                raise PlanRefused("deal", f"{agreement.id} belongs to another deal")
    except (ExchangeError, CryptoError) as error:
        return Check("plan.agreements", False, job.id, phrase("reason", reason=error))
    return Check("plan.agreements", True, job.id)


def _rules(job: Job, evidence: Evidence) -> Check:
    """Signed by nobody: the rule checker's own verdict, on the plan that the consumer signed and
    the products and terms that the holders signed."""
    try:
        grounds = [
            Ground(evidence.agreement(side.agreement), evidence.product(side.product))
            for side in job.plan.sides
        ]
        found = violations(job.plan, grounds)
    except (ExchangeError, RegistryError, CryptoError) as error:
        return Check("plan.rules", False, job.id, phrase("reason", reason=error))
    if found:
        note = phrase("reason", reason="; ".join(map(str, found)))
        return Check("plan.rules", False, job.id, note)
    return Check("plan.rules", True, job.id)


def _owners(job: Job, evidence: Evidence) -> Check:
    """By each party's own document, which a registrar may have signed: no owner has both halves of
    something."""
    plan = job.plan
    try:
        controllers = {
            party: evidence.parties.by_digest(named).document.controller
            for party in (*plan.sealers, plan.consumer)
            if (named := plan.document_of(party)) is not None
        }
    except (ExchangeError, CryptoError) as error:
        return Check("plan.owners", False, job.id, phrase("reason", reason=error))
    if found := owner_violations(plan, controllers):
        note = phrase("reason", reason="; ".join(map(str, found)))
        return Check("plan.owners", False, job.id, note)
    if plan.helper is None:
        return Check("plan.owners", True, job.id)
    note = phrase(
        "plan.controller",
        helper=evidence.parties.name(plan.helper.party),
        controller=controllers[plan.helper.party],
    )
    return Check("plan.owners", True, job.id, note)


def _learns(job: Job) -> Check:
    """That nobody was told less than what the plan lets others learn: the words the consumer
    signed are those that follow from the plan."""
    same = dict(job.plan.learns) == learns(job.plan)
    note = None if same else phrase("plan.words_differ")
    return Check("plan.learns", same, job.id, note)
