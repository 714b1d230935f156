"""Jobs at the hub: reserve, carry the plan to the holders, collect answers, receipts and failures.

The hub decides nothing that a node would not decide again by itself; its early answer only saves
time. What it alone does is reserve runs, epsilon and money together, in one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from crypto import envelope as dsse
from crypto.digest import Digest
from crypto.digest import digest as digest_of
from crypto.envelope import Envelope
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import JobId, PartyId
from crypto.keys import PublicKey
from crypto.statement import Statement
from exchange import evidence, jobs, openings
from exchange.errors import ExchangeError, NotYours, PlanRefused, UnknownSubject
from exchange.hub import budgets, chains, settlement
from exchange.hub.model import HubAgreement, HubJob, Operator
from exchange.hub.ports import HubTransaction
from exchange.jobs import JobEvent, JobState
from exchange.links.endpoint import Endpoint
from exchange.query import plan as plans
from exchange.query.plan import WITH_CONSUMER, Plan
from exchange.query.rules import Ground, owner_violations, violations
from exchange.submission import Submission
from exchange.terms import agreement as agreements
from pricing.errors import PricingError
from registry.errors import RegistryError

NO_MONEY: Final = "the price could not be put into escrow; the consumer's account must cover it"
# What a holder's receipt commits to: which rows, which counts, how much left. A helper has neither
# rows nor an agreement.
HOLDER_COMMITMENTS: Final = ("budget", "egress", "snapshot")
HELPER_COMMITMENTS: Final = ("egress",)


def submit(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """A new job. What cannot be reserved is rejected by a statement of the operator's own."""
    statement = submission.signed.statement
    number = JobId.parse(statement.subject, where="subject")
    digest = _output(statement)
    plan = _read_plan(submission.document(digest), statement, number, tx)
    job = HubJob(
        id=number,
        deal=plan.deal,
        consumer=plan.consumer,
        parties=plan.sealers,
        consumer_computes=plan.join in WITH_CONSUMER,
        plan=digest,
        state=JobState.REQUESTED,
        submitted=submission.signed.digest,
        held=None,
        admitted={},
        started={},
        sealed={},
        results={},
        released=None,
        settled=True,
        run_by=plan.run_by,
        finish_by=plan.finish_by,
        reason="",
        updated_at=operator.clock.now(),
    )
    tx.add_job(job)
    tx.confirm_document(digest, submission.document(digest))
    tx.lock_chain(operator.party)  # outside the savepoint: a rejection is said under it as well
    try:
        with tx.savepoint():
            settlement.lock(plan, tx, operator)
            _require_own_agreements(plan, tx)
            tx.lock_inboxes([*plan.sealers, plan.consumer])
            for party in plan.sealers:  # before they hear that the price is held
                tx.deliver(party, submission.signed.entry, tuple(submission.documents.values()))
            held = _reserve(plan, job, tx, operator)
    except (ExchangeError, PricingError, RegistryError, CryptoError) as error:
        constraint = getattr(error, "constraint", type(error).__name__)
        # The log is public and the holders read the job: nobody's balance belongs in either.
        problem = NO_MONEY if isinstance(error, PricingError) else str(error)
        reason = evidence.reason_document(number, constraint, problem, operator.randomness)
        rejected = evidence.rejected(
            number, plan=digest, after=submission.signed.digest, reason=reason
        )
        documents = {digest_of(reason): reason}
        chains.act(rejected, tx=tx, operator=operator, to=[plan.consumer], documents=documents)
        declined = _step(job, JobEvent.REFUSE, tx, operator, reason=problem)
        _note(declined, "rejected", operator.party, problem, tx, operator)
        return
    saved = replace(job, held=held, settled=False)
    tx.save_job(saved, was=JobState.REQUESTED)
    _note(saved, "reserved", operator.party, f"{plan.price_minor} {plan.currency}", tx, operator)


def admit(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    job = _job_of_party(submission, tx)
    actor = submission.signed.statement.actor
    side = settlement.plan_of(job, tx).side_of(actor)
    if submission.signed.statement.policy_digest != (None if side is None else side.agreement):
        raise PlanRefused("agreement", "is not the one that the plan names for this party")
    admitted = {**job.admitted, actor: submission.signed.digest}
    if job.state is not JobState.REQUESTED or actor in job.admitted:
        jobs.advance(job.id, job.state, JobEvent.ADMIT)
        raise NotYours(f"{actor} has answered {job.id} already")
    waiting = replace(job, admitted=admitted)
    if set(admitted) == set(job.parties):
        _step(waiting, JobEvent.ADMIT, tx, operator)
    else:
        _save(waiting, tx, operator, was=job.state)
    _pass_on(submission, job, tx)
    _note(job, "admitted", actor, "", tx, operator)


def refuse(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """One holder declines: the job ends, and what was reserved returns."""
    job = _job_of_party(submission, tx)
    reason = evidence.reason_of(submission.signed.statement, submission.documents)
    after = _step(job, JobEvent.REFUSE, tx, operator, reason=reason)
    settlement.give_back(after, submission.signed.digest, tx, operator, runs=True)
    _pass_on(submission, job, tx)
    _note(job, "refused", submission.signed.statement.actor, reason, tx, operator)


def start(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    job = _job_of_party(submission, tx)
    actor = submission.signed.statement.actor
    if actor in job.started:
        raise NotYours(f"{actor} has started {job.id} already")
    if set(submission.signed.statement.after) != set(job.admitted.values()):
        raise PlanRefused("after", "does not name exactly the admissions of the job's parties")
    started = replace(job, started={**job.started, actor: submission.signed.digest})
    if job.state is JobState.RUNNING:
        _save(started, tx, operator, was=job.state)
    else:
        _step(started, JobEvent.START, tx, operator)
    _pass_on(submission, job, tx)
    _note(job, "started", actor, "", tx, operator)


def seal(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """One holder's receipt and sealed part. The parts wait here, closed, for their release."""
    job = _job_of_party(submission, tx)
    statement = submission.signed.statement
    if job.state is not JobState.RUNNING or statement.actor not in job.started:
        jobs.advance(job.id, job.state, JobEvent.SEAL)
        raise PlanRefused("order", f"{statement.actor} has not started {job.id}")
    if statement.actor in job.sealed:
        raise NotYours(f"{statement.actor} has sealed its part of {job.id} already")
    if not 1 <= len(statement.outputs) <= 2:
        raise Malformed(
            "outputs", "must name the sealed part, and the openings where one reads them"
        )
    for output in statement.outputs:
        submission.document(output)
    holds = settlement.plan_of(job, tx).side_of(statement.actor) is not None
    for name in HOLDER_COMMITMENTS if holds else HELPER_COMMITMENTS:
        if name not in statement.commitments:
            raise Malformed(f"commitments.{name}", "is missing: the receipt must commit to it")
    _keep_openings(submission, job, tx)
    part = statement.outputs[0]
    tx.add_document(part, submission.document(part))
    sealed = replace(
        job,
        sealed={**job.sealed, statement.actor: submission.signed.digest},
        results={**job.results, statement.actor: part},
    )
    if set(sealed.sealed) == set(job.parties):
        _step(sealed, JobEvent.SEAL, tx, operator)
    else:
        _save(sealed, tx, operator, was=job.state)
    others = [party for party in (*job.parties, job.consumer) if party != statement.actor]
    tx.lock_inboxes(others)
    for party in others:
        tx.deliver(party, submission.signed.entry, ())
    _note(job, "sealed", statement.actor, "", tx, operator)


def keep_late_openings(submission: Submission, tx: HubTransaction) -> None:
    """A receipt that came too late changes nothing and is evidence all the same: from the log
    alone an auditor may be unable to tell that it was late, and asks for what it committed to.
    A node makes one: what came with further ones would fill the deal's bundle for nothing."""
    job, statement = _job_of_party(submission, tx), submission.signed.statement
    first = tx.first_said(job.id, by=statement.actor, kind=statement.type)
    if job.held is not None and first == submission.signed.digest:
        _keep_openings(submission, job, tx)


def fail(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """A node's run broke. Money returns; a run that had started stays spent."""
    job = _job_of_party(submission, tx)
    reason = evidence.reason_of(submission.signed.statement, submission.documents)
    after = _step(job, JobEvent.FAIL, tx, operator, reason=reason)
    settlement.give_back(after, submission.signed.digest, tx, operator, runs=not job.started)
    _pass_on(submission, job, tx)
    _note(job, "failed", submission.signed.statement.actor, reason, tx, operator)


def cancel(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    """The consumer withdraws, as long as nothing has started."""
    job = _job(submission.signed.statement, tx)
    if submission.signed.statement.actor != job.consumer:
        raise NotYours(f"only the consumer cancels {job.id}")
    after = _step(job, JobEvent.CANCEL, tx, operator, reason="cancelled by the consumer")
    settlement.give_back(after, submission.signed.digest, tx, operator, runs=True)
    _pass_on(submission, job, tx)
    _note(job, "cancelled", job.consumer, "", tx, operator)


def opened(submission: Submission, tx: HubTransaction, operator: Operator) -> None:
    job = _job(submission.signed.statement, tx)
    if submission.signed.statement.actor != job.consumer or job.state is not JobState.RELEASED:
        raise NotYours(f"{job.id} has nothing for this party to open")
    _note(job, "opened", job.consumer, "", tx, operator)


def expire(job: HubJob, overdue: evidence.Overdue, tx: HubTransaction, operator: Operator) -> None:
    """The background step found that a deadline has passed. The operator says so."""
    settlement.lock(settlement.plan_of(job, tx), tx, operator)
    said = evidence.expired(job.id, plan=job.plan, after=[job.submitted], overdue=overdue)
    digest = chains.act(said, tx=tx, operator=operator, to=[job.consumer, *job.parties])
    after = _step(job, JobEvent.EXPIRE, tx, operator, reason=overdue.value)
    settlement.give_back(after, digest, tx, operator, runs=not job.started)
    _note(after, "expired", operator.party, overdue.value, tx, operator)


def _read_plan(data: bytes, statement: Statement, number: JobId, tx: HubTransaction) -> Plan:
    envelope = Envelope.from_bytes(data)
    plan = plans.read_plan(envelope)
    consumer = tx.parties.current(statement.actor)
    dsse.verify(envelope, plans.PAYLOAD_TYPE, consumer.document.signing)
    if plan.consumer != statement.actor or plan.job != number:
        raise PlanRefused("consumer", "the plan is not this party's, or for another job")
    if statement.inputs != plan.relies_on:
        # From it an audit of the public log reads who the job's parties are.
        raise PlanRefused("inputs", "the statement names others than the plan relies on")
    if statement.body.get("deal") != plan.deal:
        # Whoever follows the public log reads from it whose bundle must hold the job.
        raise PlanRefused("deal", "the statement names another than the plan")
    if tx.consumer_of(plan.deal) != plan.consumer:
        raise PlanRefused("deal", "is not the consumer's")
    if plan.join in WITH_CONSUMER:
        require_reachable(statement)
    return plan


def require_reachable(statement: Statement) -> None:
    """Keys and address for the run, well formed: a peer would blame its own run for them."""
    ephemeral = statement.body.get("ephemeral", "")
    if PublicKey.parse(ephemeral, where="body.ephemeral").suite != "x25519":
        raise Malformed("body.ephemeral", "is not an x25519 key")
    if link := statement.body.get("link", ""):
        Endpoint.parse(link, where="body.link")


def _reserve(plan: Plan, job: HubJob, tx: HubTransaction, operator: Operator) -> Digest:
    """Runs, epsilon and money, or none of them. Returns the statement that holds the money."""
    now = operator.clock.now()
    if now >= plan.run_by:
        raise PlanRefused("run_by", "has passed")
    if plan.run_by > now + jobs.MAX_WAIT:
        problem = f"is more than {jobs.MAX_WAIT.days} days ahead: no price is held for longer"
        raise PlanRefused("run_by", problem)
    if plan.operator != operator.party:
        raise PlanRefused("operator", "is not this hub's operator")
    _require_current(plan, tx)
    # In digest order, so that two submissions never wait for each other in a circle.
    in_order = sorted({side.agreement for side in plan.sides})
    held = {digest: tx.lock_agreement(digest) for digest in in_order}
    grounds = []
    for side in plan.sides:
        agreement = held[side.agreement].agreement
        agreements.require_in_force(agreement, now)
        agreements.require_outlasts(agreement, plan.run_by)
        grounds.append(Ground(agreement, tx.products.by_digest(side.product)))
    found = violations(plan, grounds) + owner_violations(plan, _controllers(plan, tx))
    if found:
        raise PlanRefused(found[0].clause, "; ".join(map(str, found)))
    for digest in in_order:
        tx.save_agreement(_reserve_run(held[digest], plan))
    budgets.reserve(plan, tx)
    return settlement.hold(plan, job, tx, operator)


def _require_own_agreements(plan: Plan, tx: HubTransaction) -> None:
    """Before anything is compared with them: their digests are public, and why a plan does not fit
    would tell a stranger their terms. Raises UnknownSubject, as where there is none."""
    for side in plan.sides:
        if tx.lock_agreement(side.agreement).agreement.deal != plan.deal:
            raise UnknownSubject(f"agreement {side.agreement}")


def _require_current(plan: Plan, tx: HubTransaction) -> None:
    """In an older document the consumer may say nothing yet of its owner. The others' nodes see
    themselves that theirs are named."""
    if plan.consumer_document != tx.parties.current(plan.consumer).digest:
        raise PlanRefused("consumer_document", "is not the consumer's current one; compile again")


def _controllers(plan: Plan, tx: HubTransaction) -> dict[PartyId, str | None]:
    """By the documents that the plan names, each of which must be its party's own."""
    named = {party: plan.document_of(party) for party in (*plan.sealers, plan.consumer)}
    found = {
        party: tx.parties.by_digest(digest).document
        for party, digest in named.items()
        if digest is not None
    }
    for party, document in found.items():
        if document.party != party:
            raise PlanRefused("document", f"of {party} is another party's")
    return {party: document.controller for party, document in found.items()}


def _keep_openings(submission: Submission, job: HubJob, tx: HubTransaction) -> None:
    """The receipt's openings, sealed to the regulator that this holder's agreement names. Raises
    Malformed if it names one and there are none: nobody is paid for a receipt that hides."""
    statement = submission.signed.statement
    side = settlement.plan_of(job, tx).side_of(statement.actor)
    if side is None:  # the helper: no agreement names a reader of its receipt
        if len(statement.outputs) != 1:
            raise Malformed("outputs", "must name the sealed part alone")
        return
    regulator = tx.lock_agreement(side.agreement).agreement.terms.regulator
    if len(statement.outputs) != (1 if regulator is None else 2):
        problem = "must name the sealed part, and openings exactly where a regulator reads them"
        raise Malformed("outputs", problem)
    if regulator is not None:
        sealed = submission.document(statement.outputs[1])
        openings.require_size(sealed)
        tx.add_opening(submission.signed.digest, regulator, sealed)


def _reserve_run(held: HubAgreement, plan: Plan) -> HubAgreement:
    """One run and the plan's epsilon set aside under one agreement. Raises PlanRefused."""
    terms = held.agreement.terms
    if held.runs_used >= terms.runs:
        raise PlanRefused("runs", f"all {terms.runs} runs of {held.agreement.id} are used")
    if held.epsilon_used + plan.epsilon > terms.epsilon:
        left = terms.epsilon - held.epsilon_used
        raise PlanRefused("epsilon", f"{left} is left; the job asks for {plan.epsilon}")
    return replace(
        held, runs_used=held.runs_used + 1, epsilon_used=held.epsilon_used + plan.epsilon
    )


def _job_of_party(submission: Submission, tx: HubTransaction) -> HubJob:
    statement = submission.signed.statement
    job = _job(statement, tx)
    if statement.actor not in job.parties:
        raise NotYours(f"{statement.actor} has no part in {job.id}")
    return job


def _job(statement: Statement, tx: HubTransaction) -> HubJob:
    """The job that a statement is about. It names the plan, for under one id there may have been
    several submissions, and whoever reads the public log must see which is meant."""
    job = tx.lock_job(JobId.parse(statement.subject, where="subject"))
    if job.plan not in statement.inputs:
        raise PlanRefused("plan", "the statement is about another plan")
    return job


def _step(
    job: HubJob, event: JobEvent, tx: HubTransaction, operator: Operator, *, reason: str = ""
) -> HubJob:
    state = jobs.advance(job.id, job.state, event)
    after = replace(job, state=state, reason=reason, updated_at=operator.clock.now())
    tx.save_job(after, was=job.state)
    return after


def _save(job: HubJob, tx: HubTransaction, operator: Operator, *, was: JobState) -> None:
    tx.save_job(replace(job, updated_at=operator.clock.now()), was=was)


def _pass_on(submission: Submission, job: HubJob, tx: HubTransaction) -> None:
    documents: Sequence[bytes] = tuple(submission.documents.values())
    actor = submission.signed.statement.actor
    others = [party for party in (*job.parties, job.consumer) if party != actor]
    tx.lock_inboxes(others)
    for party in others:
        tx.deliver(party, submission.signed.entry, documents)


def _note(
    job: HubJob,
    stage: str,
    party: PartyId,
    detail: str,
    tx: HubTransaction,
    operator: Operator,
) -> None:
    tx.note(job.id, stage, party, detail, operator.clock.now())


def _output(statement: Statement) -> Digest:
    if len(statement.outputs) != 1:
        raise Malformed("outputs", "must name exactly the plan")
    return statement.outputs[0]
