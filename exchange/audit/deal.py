"""The audit of one deal, from its bundle and from keys that the auditor brings along.

The steps follow each other as the evidence does: first what is in the log, then who signed it,
then in which order, then what it amounts to. A statement that fails an early step is no evidence
in a later one, so one forgery may make several checks fail; the first names it.
"""

from __future__ import annotations

from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from exchange.audit import (
    answers,
    jobs,
    log,
    money,
    negotiations,
    oversight,
    parties,
    plans,
    receipts,
    story,
)
from exchange.audit.answers import DealReport
from exchange.audit.bundle import read
from exchange.audit.chains import arrivals, check_order_and_time, check_references
from exchange.audit.counts import Counts
from exchange.audit.evidence import Evidence, check_documents
from exchange.audit.jobs import Jobs
from exchange.audit.negotiations import Negotiations
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.audit.words import NOT_PROVED
from exchange.errors import ExchangeError
from exchange.terms.agreement import Agreement
from ledger.verify.policy import Policy
from ledger.verify.report import Check, phrase


def audit_deal(bundle: bytes, policy: Policy, roots: Roots, opener: Opener | None) -> DealReport:
    """Everything that can be shown about a deal. Raises BundleRefused for what is no bundle.

    policy: whose log, and which witnesses. roots: whose identities. opener: the reader whose
    openings to open, with its sealing key; None leaves them closed.
    """
    content = read(bundle)
    checks = log.check_manifest(content)
    head_checks, heads = log.check_heads(content, policy)
    checks += head_checks
    checks += log.check_consistency(content, heads)
    entry_checks, said = log.check_entries(content, heads)
    checks += entry_checks

    document_checks, documents = check_documents(content)
    checks += document_checks
    party_documents, refused = parties.read_documents(documents)
    signature_checks, heard = parties.check_signatures(said, party_documents)
    checks += signature_checks
    evidence = Evidence(
        deal=content.manifest.deal,
        said=heard.genuine,
        parties=heard.parties,
        documents=documents,
        openings=content.openings,
        heads=heads,
        arrivals=arrivals(heard.genuine, heads),
    )
    talks = negotiations.replay(evidence)
    work = jobs.replay(evidence)
    taking_part = _taking_part(talks, work, evidence)
    checks += parties.check_party_documents(party_documents, refused, heard, taking_part)
    checks += parties.check_trust(party_documents, roots, taking_part)
    checks += check_order_and_time(
        evidence.said,
        heads,
        evidence.parties,
        operators=work.operators,
        disputed={
            said.statement.subject
            for said in evidence.said
            if said.signed.digest in work.misfits and said.statement.actor in work.operators
        },
    )
    checks += check_references(evidence.said, taking_part)

    checks += negotiations.check_replays(evidence, talks)
    checks += _check_agreements(evidence, talks, work)
    counts = Counts(evidence, work)
    for subject in jobs.subjects(evidence):
        checks += _check_job(subject, evidence, work, counts, opener)
    checks += plans.check_accounts(evidence, work)
    checks += story.note_alarms(evidence)
    checks += oversight.check_standing(evidence, work, opener)
    checks += oversight.check_exports(evidence, _may_read(talks, evidence))
    no_effect = {**heard.no_effect, **talks.no_effect, **work.no_effect}
    found = answers.answer(evidence, talks, work, opener)
    return DealReport(
        phrase("title.deal", deal=content.manifest.deal),
        {"deal": content.manifest.deal},
        checks,
        NOT_PROVED,
        story.tell(evidence, no_effect),
        answers=found,
    )


def _check_agreements(evidence: Evidence, talks: Negotiations, work: Jobs) -> list[Check]:
    checks: list[Check] = []
    needed: dict[Digest, int] = {}
    for job in work.known.values():
        if job.held is not None and job.admitted:
            for side in job.plan.sides:
                place = job.held.index  # when the hub looked at them
                needed[side.agreement] = min(place, needed.get(side.agreement, place))
    products: list[Digest] = []
    for name in negotiations.to_check(evidence, talks, needed):
        needed_at = needed.get(name)
        checks += negotiations.check_agreement(name, evidence, talks, needed_at=needed_at)
        agreement = _agreement(name, evidence)
        if agreement is not None:
            products.append(agreement.terms.product)
            checks.append(plans.check_use(name, agreement, evidence, work))
    checks += [negotiations.check_product(name, evidence) for name in dict.fromkeys(products)]
    return checks


def _check_job(
    subject: str, evidence: Evidence, work: Jobs, counts: Counts, opener: Opener | None
) -> list[Check]:
    checks = [jobs.check_replay(subject, evidence, work)]
    job = work.known.get(subject)
    if job is None:
        if any(said.statement.type in jobs.MONEY for said in evidence.about(subject)):
            checks.append(money.check_stray_money(subject))
        return checks
    if job.held is not None:
        ran = jobs.ran(job, evidence)
        if job.admitted or ran:
            checks += plans.check_plan(job, evidence)
        if ran:
            checks.append(jobs.check_admissions(job, evidence, work))
    checks += receipts.check_receipts(job, evidence, counts, opener)
    checks += money.check_money(job, evidence, opener)
    return checks


def _taking_part(talks: Negotiations, work: Jobs, evidence: Evidence) -> set[PartyId]:
    """Whoever the deal is between, and whoever it relies on. Others may have spoken of it, or have
    been asked in vain."""
    found: set[PartyId] = set()
    for known in talks.known.values():
        found.add(known.consumer)
        if known.agreement in talks.finalised:
            found.add(known.holder)
            agreement = _agreement(known.agreement, evidence)
            if agreement is not None and agreement.terms.regulator is not None:
                found.add(agreement.terms.regulator)
    for job in work.held:
        found |= {job.plan.consumer, *job.plan.engine_parties}
    return found | work.operators


def _may_read(talks: Negotiations, evidence: Evidence) -> set[PartyId]:
    """The deal's consumers, and the regulators that its agreements name."""
    found: set[PartyId] = set()
    for known in talks.known.values():
        agreement = _agreement(known.agreement, evidence)
        if agreement is not None:
            found.add(known.consumer)
            if agreement.terms.regulator is not None:
                found.add(agreement.terms.regulator)
    return found


def _agreement(name: Digest | None, evidence: Evidence) -> Agreement | None:
    if name is None:
        return None
    try:
        return evidence.agreement(name)
    except (ExchangeError, CryptoError):
        return None  # `check_agreement` says so where it matters
