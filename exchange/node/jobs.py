"""Jobs at a node: submitting one as consumer; hearing, admitting and running one as holder.

The node keeps its own copy of where a job stands and counts runs and epsilon itself, before any
message leaves. What it hears of others counts only as their signed statements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from crypto.digest import SALT_BYTES, Digest
from crypto.envelope import Envelope
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import DealId, JobId, PartyId, ProductId
from crypto.keys import ExchangeKey, PublicKey
from crypto.statement import SignedStatement
from exchange import evidence, jobs, privacy
from exchange.approval import DAY, exceeded
from exchange.errors import (
    ExchangeError,
    HubUnreachable,
    NotYours,
    PlanRefused,
    QuestionRefused,
    UnknownSubject,
)
from exchange.jobs import JobEvent, JobState
from exchange.links.endpoint import Endpoint
from exchange.node import admission, approving, asking, outbox, products, registering, trust
from exchange.node.admission import View
from exchange.node.model import Decision, Identity, NodeJob
from exchange.node.ports import Answer, Documents, Hub, NodeStore, NodeTransaction
from exchange.privacy import PrivacyAccount, cost_of
from exchange.query import plan as plans
from exchange.query.plan import WITH_CONSUMER, Plan
from exchange.query.ports import SqlReader
from exchange.query.question import Footing, Question, compile_question, grounds_of
from exchange.query.requests import Request, compile_request
from exchange.query.rules import Ground, owner_violations, violations
from exchange.submission import Submission
from registry.errors import RegistryError
from registry.product import DataProduct

T = TypeVar("T")

LOST: Final = "the node stopped during the run"
WAIT_FOR_HOLDERS: Final = timedelta(minutes=15)


@dataclass(frozen=True)
class Desk:
    """What people do with jobs at this node: the consumer's side and the holder's side."""

    store: NodeStore
    hub: Hub
    identity: Identity
    ephemeral: Callable[[], ExchangeKey]
    reader: Callable[[], SqlReader]

    def compile(
        self, deal: DealId, question: Question, *, wait: timedelta = WAIT_FOR_HOLDERS
    ) -> Plan:
        """The plan that answers a question under this deal's agreements. Changes nothing.

        Raises QuestionRefused, or PlanRefused with every clause that forbids it.
        """
        footings, helpers = self._footings(deal)
        plan = compile_question(
            question,
            footings,
            reader=self.reader(),
            operator=self.identity.operator,
            helpers=helpers,
            now=self.identity.clock.now(),
            wait=wait,
            randomness=self.identity.randomness,
        )
        plan, controllers = self._as_of_now(plan)
        _require_allowed(plan, grounds_of(plan, footings), controllers)
        return plan

    def product(self, deal: DealId, number: ProductId) -> DataProduct:
        """The version that this deal has an agreement about. Raises QuestionRefused."""
        footings, _ = self._footings(deal)
        if number not in footings:
            raise QuestionRefused("product", f"this deal has no agreement about {number}")
        return footings[number].ground.product

    def compile_request(
        self, deal: DealId, request: Request, *, wait: timedelta = WAIT_FOR_HOLDERS
    ) -> Plan:
        """The plan of a score or lookup under this deal's agreement. Changes nothing; what is asked
        about is kept by `requests.ask_rows` or `ask_keys` before the plan is submitted.

        Raises QuestionRefused, or PlanRefused with every clause that forbids it.
        """
        footings, _ = self._footings(deal)
        plan = compile_request(
            request,
            footings,
            operator=self.identity.operator,
            now=self.identity.clock.now(),
            wait=wait,
            randomness=self.identity.randomness,
        )
        plan, controllers = self._as_of_now(plan)
        _require_allowed(plan, grounds_of(plan, footings), controllers)
        return plan

    def recompile(self, number: JobId, *, wait: timedelta = WAIT_FOR_HOLDERS) -> Plan:
        """The same question as an earlier job of this party's, as a new plan under the same
        agreements. Changes nothing. Raises PlanRefused with every clause that forbids it."""
        now = self.identity.clock.now()
        with self.store.reading() as tx:
            job = _load(number, tx)
            if job.consumer != self.identity.party:
                raise NotYours(f"{number} is not this party's job")
            before = plan_of(job, tx)
        if before.join in WITH_CONSUMER:
            raise QuestionRefused("job", "its rows or keys are not kept; ask anew with them")
        plan = replace(
            before,
            job=JobId.new(now, self.identity.randomness),
            created_at=now,
            run_by=now + wait,
            salt=self.identity.randomness.draw(SALT_BYTES),
        )
        plan, controllers = self._as_of_now(plan)

        def grounds(tx: NodeTransaction, hub: Documents) -> list[Ground]:
            found = []
            for side in plan.sides:
                held = tx.agreement(side.agreement)
                if held is None:
                    raise UnknownSubject(f"agreement {side.agreement}")
                found.append(
                    Ground(held.agreement, products.by_digest(side.product, tx=tx, hub=hub))
                )
            return found

        _require_allowed(plan, self._transact(grounds), controllers)
        return plan

    def _transact(self, step: Callable[[NodeTransaction, Documents], T]) -> T:
        return asking.transact(step, store=self.store, hub=self.hub)

    def _footings(self, deal: DealId) -> tuple[dict[ProductId, Footing], dict[PartyId, Digest]]:
        """Of every product that the deal has an agreement about; and the documents of the helpers
        that the agreements name."""

        def step(
            tx: NodeTransaction, hub: Documents
        ) -> tuple[dict[ProductId, Footing], dict[PartyId, Digest]]:
            footings: dict[ProductId, Footing] = {}
            helpers: dict[PartyId, Digest] = {}
            for held in tx.agreements():
                terms = held.agreement.terms
                if held.agreement.deal != deal:
                    continue
                product = products.by_digest(terms.product, tx=tx, hub=hub)
                ground = Ground(held.agreement, product)
                footings[product.id] = Footing(ground, held.digest, terms.product)
                if terms.helper is not None:
                    found = trust.newest(terms.helper, tx=tx, hub=hub, identity=self.identity)
                    helpers[terms.helper] = found.digest
            return footings, helpers

        return self._transact(step)

    def _as_of_now(self, plan: Plan) -> tuple[Plan, dict[PartyId, str | None]]:
        """The plan under everybody's newest party document, and who controls whom."""

        def step(tx: NodeTransaction, hub: Documents) -> tuple[Plan, dict[PartyId, str | None]]:
            newest = self._under_current_keys(plan, tx, hub)
            return newest, self._controllers(newest, tx, hub)

        return self._transact(step)

    def _under_current_keys(self, plan: Plan, tx: NodeTransaction, hub: Documents) -> Plan:
        """The plan naming everybody's newest party document: a holder that rotated its keys would
        refuse a plan for its old ones."""
        newest = {
            party: trust.newest(party, tx=tx, hub=hub, identity=self.identity).digest
            for party in plan.sealers
        }
        own, helper = self.identity.document, plan.helper
        return replace(
            plan,
            consumer_document=own,
            receivers=tuple(replace(r, document=own) for r in plan.receivers),
            sides=tuple(replace(s, holder_document=newest[s.holder]) for s in plan.sides),
            helper=None if helper is None else replace(helper, document=newest[helper.party]),
        )

    def _controllers(
        self, plan: Plan, tx: NodeTransaction, hub: Documents
    ) -> dict[PartyId, str | None]:
        return {
            party: trust.current(party, tx=tx, hub=hub, identity=self.identity).document.controller
            for party in (*plan.sealers, plan.consumer)
        }

    def submit(self, plan: Plan) -> JobId:
        """Sign a compiled plan and send it. From here on it runs unless somebody refuses."""
        if plan.consumer != self.identity.party:
            raise QuestionRefused("consumer", "is not this node's party")
        envelope = plans.sign_plan(plan, self.identity.signing)
        digest = envelope.payload_digest
        with self.store.transaction() as tx:
            if tx.job(plan.job) is not None:
                raise PlanRefused("job", f"{plan.job} was submitted before; compile a new plan")
            key = self.ephemeral() if plan.join in WITH_CONSUMER else None
            act = evidence.submitted(
                plan.job,
                plan.deal,
                plan=digest,
                relies_on=plan.relies_on,
                ephemeral=None if key is None else key.public,
                link=self.identity.link_address,
            )
            said = outbox.say(act, [envelope.to_bytes()], tx=tx, identity=self.identity)
            if key is not None:
                tx.save_secret(plan.job, key.private.private_bytes_raw())
            job = _new(plan, digest, said, self.identity)
            tx.save_job(_with_consumer(job, plan, act.body or {}))
        return plan.job

    def cancel(self, number: JobId) -> None:
        """As consumer, ask to withdraw a job that has not started. It is cancelled once the hub
        says so: a holder may be faster, and then the result is paid for and must be opened."""
        with self.store.transaction() as tx:
            job = _load(number, tx)
            if job.consumer != self.identity.party:
                raise NotYours(f"{number} is not this party's job")
            jobs.advance(number, job.state, JobEvent.CANCEL)
            act = evidence.cancelled(number, plan=job.plan, after=[job.submitted])
            outbox.say(act, [], tx=tx, identity=self.identity)

    def approve(self, number: JobId) -> None:
        """As holder, admit a waiting job. Checks everything again; raises PlanRefused."""

        def step(tx: NodeTransaction, hub: Documents) -> None:
            job = _load(number, tx)
            _require_waiting(job)
            plan, view = _examine(job, tx, hub, self.identity, admitting=True)
            _admit(job, plan, view, tx, self.identity, self.ephemeral)

        self._transact(step)

    def refuse(self, number: JobId, reason: str) -> None:
        with self.store.transaction() as tx:
            job = _load(number, tx)
            _require_waiting(job)
            _refuse(job, "holder", reason, tx, self.identity)

    def pause(self, paused: bool) -> None:
        """While paused, every job is refused with that reason and no admitted one starts."""
        with self.store.transaction() as tx:
            tx.set_remark("paused", "yes" if paused else "")

    def help_unasked(self, willing: bool) -> None:
        """As helper, take part in every job whose plan names this party, without being asked, or
        have a person asked again. Raises UnknownSubject before this party is announced."""
        turn = approving.help_unasked if willing else approving.help_if_asked
        with self.store.transaction() as tx:
            turn(tx=tx, identity=self.identity)

    def plan(self, number: JobId) -> Plan:
        with self.store.reading() as tx:
            return plan_of(_load(number, tx), tx)


def decide(
    store: NodeStore, hub: Hub, identity: Identity, ephemeral: Callable[[], ExchangeKey]
) -> int:
    """Answer what can be answered without a person: refuse what the agreement forbids, admit what
    a standing approval covers. The rest waits for the desk. Returns how many were answered."""
    with store.reading() as tx:
        waiting = [
            job.id
            for job in tx.jobs()
            if job.decision is Decision.PENDING
            and job.state is JobState.REQUESTED
            and job.held is not None
            and job.consumer != identity.party
        ]

    def answer(number: JobId, tx: NodeTransaction, documents: Documents) -> bool:
        job = _load(number, tx)
        if job.decision is not Decision.PENDING or job.state is not JobState.REQUESTED:
            return False  # the desk was faster
        try:
            plan, view = _examine(job, tx, documents, identity, admitting=False)
            approved = _stands_approved(plan, view, tx, identity)
            if approved is not None:
                plan, view = _examine(job, tx, documents, identity, admitting=True)
                # The admission says when it was made, which is now.
                approved = _stands_approved(plan, view, tx, identity)
        except HubUnreachable:
            raise  # nothing was decided: the job waits
        except (ExchangeError, CryptoError, RegistryError) as error:
            constraint = getattr(error, "constraint", type(error).__name__)
            _refuse(job, constraint, str(error), tx, identity)
            return True
        if approved is not None:
            _admit(job, plan, view, tx, identity, ephemeral, unasked=[approved])
        return approved is not None

    return sum(asking.transact(partial(answer, number), store=store, hub=hub) for number in waiting)


def ready_to_start(store: NodeStore, identity: Identity) -> Sequence[JobId]:
    """Jobs that this holder and every other one have admitted, and that have not begun here.

    The hub must have taken in this holder's own admission, or it would run alone; and after
    `run_by` nobody starts, whatever the hub has not said yet.
    """
    now = identity.clock.now()
    with store.reading() as tx:
        if tx.remark("paused"):
            return []  # whoever pauses expects that no row is touched; the jobs wait or expire
        return [
            job.id
            for job in tx.jobs()
            if job.state is JobState.ADMITTED
            and job.decision is Decision.ADMITTED
            and now < job.run_by
            and (said := tx.sent(job.admissions[identity.party])) is not None
            and said.applied
        ]


def begin(number: JobId, *, store: NodeStore, identity: Identity) -> Digest:
    """Say that messages may leave from here on. A crash after this leaves the run spent.
    Returns the statement's digest: nothing starts before the hub has taken it in."""
    with store.transaction() as tx:
        job = _load(number, tx)
        plan = plan_of(job, tx)
        state = jobs.advance(number, job.state, JobEvent.START)
        admissions = [job.admissions[party] for party in plan.sealers]
        act = evidence.started(number, plan=job.plan, admissions=admissions)
        said = outbox.say(act, [], tx=tx, identity=identity)
        tx.save_job(at(job, state, identity))
        return said


def give_up(number: JobId, said: str, detail: str, *, store: NodeStore, identity: Identity) -> None:
    """Say that this holder's run broke, and keep `detail` for the owner, who alone may read of
    its own rows. said: for the job's parties. Nothing happens if the job has ended meanwhile."""
    with store.transaction() as tx:
        job = _load(number, tx)
        if job.state in jobs.FINAL or job.state is JobState.SEALED:
            return
        state = jobs.advance(number, job.state, JobEvent.FAIL)
        reason = evidence.reason_document(number, "run", said, identity.randomness)
        act = evidence.failed(
            number, plan=job.plan, after=sorted(job.admissions.values()), reason=reason
        )
        outbox.say(act, [reason], tx=tx, identity=identity)
        tx.forget_secret(number)
        tx.save_job(at(job, state, identity, reason=detail))


def recover(store: NodeStore, identity: Identity) -> int:
    """At start: a run that was under way when this node died is lost; say so."""
    with store.reading() as tx:
        lost = [
            job.id
            for job in tx.jobs()
            if job.state is JobState.RUNNING and job.decision is Decision.ADMITTED
        ]
    for number in lost:
        give_up(number, LOST, LOST, store=store, identity=identity)
    return len(lost)


def heed_answer(
    signed: SignedStatement, answer: Answer, tx: NodeTransaction, identity: Identity
) -> None:
    """What the hub's answer to a statement of this party's own means for the job it is about.

    Only two answers are news here: that a submission was not accepted, for then nobody else will
    ever speak of the job, and that a cancellation was, for it is not sent back to its sender.
    """
    statement = signed.statement
    if statement.type not in ("job.submitted", "job.cancelled"):
        return
    job = _load(JobId.parse(statement.subject, where="subject"), tx)
    if job.state in jobs.FINAL:
        return
    if statement.type == "job.cancelled" and answer.applied:
        tx.save_job(at(job, JobState.CANCELLED, identity, reason="cancelled"))
    if job.submitted == signed.digest and not answer.applied:
        tx.save_job(at(job, JobState.REFUSED, identity, reason=answer.reason))


def _require_allowed(
    plan: Plan, grounds: Sequence[Ground], controllers: Mapping[PartyId, str | None]
) -> None:
    found = violations(plan, grounds) + owner_violations(plan, controllers)
    if found:
        raise PlanRefused(found[0].clause, "; ".join(map(str, found)))


def plan_of(job: NodeJob, tx: NodeTransaction) -> Plan:
    return plans.read_plan(Envelope.from_bytes(tx.document(job.plan)))


# What is heard


def hear_submitted(
    submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """A consumer's plan. Kept as it is; whether to admit it is decided once money is held."""
    statement = submission.signed.statement
    if len(statement.outputs) != 1:
        raise Malformed("outputs", "must name exactly the plan")
    digest = statement.outputs[0]
    plan = plans.read_plan(Envelope.from_bytes(submission.document(digest)))
    if plan.consumer != statement.actor or str(plan.job) != statement.subject:
        raise PlanRefused("consumer", "the plan is not the sender's, or for another job")
    if identity.party not in plan.sealers:
        raise PlanRefused("sides", "this party has no part in the plan")
    if tx.job(plan.job) is not None:
        raise PlanRefused("job", f"{plan.job} was submitted before")
    tx.confirm_document(digest, submission.document(digest))
    job = _new(plan, digest, submission.signed.digest, identity)
    tx.save_job(_with_consumer(job, plan, statement.body))


def hear_held(
    submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """The operator holds the price in escrow."""
    statement = submission.signed.statement
    _require_operator(submission, identity)
    job = _load(JobId.parse(statement.subject, where="subject"), tx)
    if job.submitted not in statement.after or job.plan not in statement.inputs:
        raise PlanRefused("held", "the statement is not about this submission")
    if job.held is None:
        tx.save_job(replace(job, held=submission.signed.digest))


def hear_admitted(
    submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    job, plan = _from_party(submission, tx)
    statement = submission.signed.statement
    side = plan.side_of(statement.actor)
    if statement.policy_digest != (None if side is None else side.agreement):
        raise PlanRefused("agreement", f"{statement.actor} admits under another than the plan's")
    if statement.actor in job.admissions:
        raise PlanRefused("admission", f"{statement.actor} has answered before")
    heard = replace(
        _reachable(job, statement.actor, statement.body),
        admissions={**job.admissions, statement.actor: submission.signed.digest},
    )
    _save_with_admissions(heard, tx, identity)


def hear_started(
    submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """A holder has begun. For the consumer that is when its job runs."""
    job, _ = _from_party(submission, tx)
    if identity.party == job.consumer and job.state is JobState.ADMITTED:
        tx.save_job(at(job, JobState.RUNNING, identity))


def hear_sealed(
    submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """A holder's receipt. The consumer needs it to know which sealed part is whose."""
    job, plan = _from_party(submission, tx)
    statement = submission.signed.statement
    if not statement.outputs:
        raise Malformed("outputs", "must name the sealed part")
    if statement.actor in job.receipts:
        raise PlanRefused("receipt", f"{statement.actor} has sealed its part before")
    heard = replace(
        job,
        receipts={**job.receipts, statement.actor: submission.signed.digest},
        parts={**job.parts, statement.actor: statement.outputs[0]},
    )
    complete = set(heard.receipts) == set(plan.sealers)
    if identity.party == job.consumer and complete and job.state is JobState.RUNNING:
        heard = at(heard, JobState.SEALED, identity)
    tx.save_job(heard)


def hear_ended(
    submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """Somebody refused, failed, cancelled or let a deadline pass: the job ends here too."""
    statement = submission.signed.statement
    job = _load(JobId.parse(statement.subject, where="subject"), tx)
    plan = plan_of(job, tx)
    ends, who = _ENDINGS[statement.type]
    allowed: dict[str, tuple[PartyId, ...]] = {
        "party": plan.sealers,
        "consumer": (plan.consumer,),
        "operator": (plan.operator,),
    }
    if statement.actor not in allowed[who] or job.plan not in statement.inputs:
        raise NotYours(f"{statement.actor} cannot end {job.id} so")
    # For the consumer SEALED means that every holder has sealed: nothing can fail any more. A
    # holder is SEALED once its own part is, and the other part may still fail.
    if job.state in jobs.FINAL or (job.state is JobState.SEALED and identity.party == job.consumer):
        return
    if job.decision is Decision.ADMITTED and job.state in (JobState.REQUESTED, JobState.ADMITTED):
        _return_run(plan, tx, identity)
    tx.forget_secret(job.id)
    reason = evidence.reason_of(statement, submission.documents)
    tx.save_job(at(job, ends, identity, reason=reason))


def _return_run(plan: Plan, tx: NodeTransaction, identity: Identity) -> None:
    """Give back what admission counted. Only before this node has begun: no message has left it,
    so nothing was learned, whatever others say of the job's end."""
    side = plan.side_of(identity.party)
    held = tx.agreement(side.agreement) if side is not None else None
    if held is not None:
        product = held.agreement.terms.product_id
        tx.save_privacy(product, tx.privacy(product) - cost_of(plan))
        tx.save_agreement(
            replace(
                held,
                runs_used=held.runs_used - 1,
                epsilon_used=held.epsilon_used - plan.epsilon,
            )
        )


_ENDINGS: Final = {
    "job.rejected": (JobState.REFUSED, "operator"),
    "job.refused": (JobState.REFUSED, "party"),
    "job.failed": (JobState.FAILED, "party"),
    "job.cancelled": (JobState.CANCELLED, "consumer"),
    "job.expired": (JobState.EXPIRED, "operator"),
}


def hear_released(
    submission: Submission, tx: NodeTransaction, hub: Documents, identity: Identity
) -> None:
    """The operator says that every receipt is under a signed head: fetch and open the result."""
    _require_operator(submission, identity)
    job = _load(JobId.parse(submission.signed.statement.subject, where="subject"), tx)
    if job.state is JobState.SEALED:
        tx.save_job(at(job, JobState.RELEASED, identity))


# Deciding


def _admitted_today(
    consumer: PartyId, now: datetime, tx: NodeTransaction, identity: Identity
) -> int:
    """Jobs of this consumer admitted here in the last 24 hours, by the admissions' own times: a
    job also changes when it ends, and must not count for another day then."""
    since = now - DAY
    recent = [
        job.admissions[identity.party]
        for job in tx.jobs()
        if job.consumer == consumer
        and job.decision is Decision.ADMITTED
        and job.updated_at > since  # nothing changed before it was admitted
    ]
    return sum(1 for said in recent if tx.said_at(said) > since)


def _evaluated_today(
    plan: Plan, product: ProductId, tx: NodeTransaction, identity: Identity
) -> int:
    """Keys and rows of this consumer's jobs on any version of a product, by the jobs that this node
    admitted in the last 24 hours. One that ended before it began counts as well."""
    if not plan.evaluations:
        return 0
    since = identity.clock.now() - DAY
    total = 0
    for job in tx.jobs():
        said = job.admissions.get(identity.party)
        if job.consumer != plan.consumer or said is None or job.updated_at <= since:
            continue
        if tx.said_at(said) > since:
            earlier = plan_of(job, tx)
            held = tx.agreement(earlier.sides[0].agreement)
            if held is not None and held.agreement.terms.product_id == product:
                total += earlier.evaluations
    return total


def _stands_approved(
    plan: Plan, view: View, tx: NodeTransaction, identity: Identity
) -> Digest | None:
    """The statement that admits it without asking: of a holder's standing approval, or of a
    helper's general one. None if a person is to be asked."""
    if plan.side_of(identity.party) is None:
        return approving.helps_under(tx)
    own = next(
        product
        for product, side in zip(view.products, plan.sides, strict=True)
        if side.holder == identity.party
    )
    earlier = _admitted_today(plan.consumer, view.now, tx, identity)
    for held in tx.standing():
        if exceeded(held.approval, plan, product=own.id, at=view.now, earlier=earlier) is None:
            return held.said
    return None


def _examine(
    job: NodeJob, tx: NodeTransaction, hub: Documents, identity: Identity, *, admitting: bool
) -> tuple[Plan, View]:
    """Gather what the decision rests on, and check. Raises PlanRefused and trust errors.

    admitting: the hub is asked whether the consumer has a newer document. While a job waits for a
    person it is looked at in every round, and the newest one known will do.
    """
    envelope = Envelope.from_bytes(tx.document(job.plan))
    plan = plans.read_plan(envelope)
    controllers: dict[PartyId, str | None] = {}
    for party in plan.sealers:
        named = plan.document_of(party)
        if named is None:
            raise PlanRefused("parties", f"no document of {party} is named")
        believed = trust.by_digest(named, party, tx=tx, hub=hub, identity=identity)
        controllers[party] = believed.document.controller
    if plan.document_of(identity.party) != identity.document:
        raise PlanRefused("document", "is not this party's current one; compile again")
    own = plan.side_of(identity.party)
    found: list[DataProduct] = []
    for side in plan.sides:
        product = products.by_digest(side.product, tx=tx, hub=hub)
        lister = trust.by_digest(
            product.holder_document, side.holder, tx=tx, hub=hub, identity=identity
        )
        products.require_listed_by(side.product, lister, tx=tx)
        found.append(product)
    # Not only the one that the plan names: in an older one it may say nothing yet of its owner.
    trust.by_digest(plan.consumer_document, plan.consumer, tx=tx, hub=hub, identity=identity)
    newest = trust.newest if admitting else trust.current
    consumer = newest(plan.consumer, tx=tx, hub=hub, identity=identity)
    controllers[plan.consumer] = consumer.document.controller
    view = View(
        me=identity.party,
        operator=identity.operator,
        agreement=None if own is None else tx.agreement(own.agreement),
        account=None if own is None else _account(found[plan.sides.index(own)].id, tx),
        consumer=consumer,
        controllers=controllers,
        products=found,
        evaluated=_evaluated_today(plan, found[0].id, tx, identity),
        now=identity.clock.now(),
        paused=bool(tx.remark("paused")),
    )
    admission.check(envelope, plan, view)
    return plan, view


def _account(number: ProductId, tx: NodeTransaction) -> PrivacyAccount:
    """Under the newest version that this party listed, whichever version was agreed on."""
    return privacy.account_of(registering.own_product(number, tx), tx.privacy(number))


def _admit(
    job: NodeJob,
    plan: Plan,
    view: View,
    tx: NodeTransaction,
    identity: Identity,
    ephemeral: Callable[[], ExchangeKey],
    *,
    unasked: Sequence[Digest] = (),
) -> None:
    """Count the run and the epsilon before anything can leave, and say yes: in one transaction,
    so that a crash leaves neither, or both. plan, view: examined for admitting, and just now.
    unasked: the statement of the approval that it rests on, if no person gives it."""
    if job.held is None:
        raise PlanRefused("held", "the operator has not yet said that the price is in escrow")
    held = view.agreement
    if held is not None:  # the helper has none, and nothing to count
        used = held.epsilon_used + plan.epsilon
        tx.save_agreement(replace(held, runs_used=held.runs_used + 1, epsilon_used=used))
    if view.account is not None:
        tx.save_privacy(view.account.product, privacy.reserve(view.account, cost_of(plan)).spent)
    key = ephemeral()
    tx.save_secret(job.id, key.private.private_bytes_raw())
    act = evidence.admitted(
        job.id,
        plan=job.plan,
        agreement=None if held is None else held.digest,
        after=[job.submitted, job.held, *unasked],
        ephemeral=key.public,
        link=identity.link_address,
    )
    said = outbox.say(act, [], tx=tx, identity=identity, at=view.now)
    admitted = replace(
        job,
        decision=Decision.ADMITTED,
        admissions={**job.admissions, identity.party: said},
        ephemerals={**job.ephemerals, identity.party: key.public},
        addresses={**job.addresses, identity.party: identity.link_address},
        updated_at=identity.clock.now(),
    )
    _save_with_admissions(admitted, tx, identity)


def _refuse(
    job: NodeJob, constraint: str, problem: str, tx: NodeTransaction, identity: Identity
) -> None:
    after = [job.submitted] if job.held is None else [job.submitted, job.held]
    reason = evidence.reason_document(job.id, constraint, problem, identity.randomness)
    act = evidence.refused(job.id, plan=job.plan, after=after, reason=reason)
    outbox.say(act, [reason], tx=tx, identity=identity)
    state = jobs.advance(job.id, job.state, JobEvent.REFUSE)
    refused = replace(job, decision=Decision.REFUSED)
    tx.save_job(at(refused, state, identity, reason=problem))


def _save_with_admissions(job: NodeJob, tx: NodeTransaction, identity: Identity) -> None:
    plan = plan_of(job, tx)
    everyone = set(job.admissions) == set(plan.sealers)
    if everyone and job.state is JobState.REQUESTED:
        job = at(job, jobs.advance(job.id, job.state, JobEvent.ADMIT), identity)
    tx.save_job(job)


def _from_party(submission: Submission, tx: NodeTransaction) -> tuple[NodeJob, Plan]:
    statement = submission.signed.statement
    job = _load(JobId.parse(statement.subject, where="subject"), tx)
    plan = plan_of(job, tx)
    if statement.actor not in plan.sealers:
        raise NotYours(f"{statement.actor} has no part in {job.id}")
    if job.plan not in statement.inputs:
        raise PlanRefused("plan", f"{statement.actor} speaks of another plan for {job.id}")
    return job, plan


def _require_operator(submission: Submission, identity: Identity) -> None:
    if submission.signed.statement.actor != identity.operator:
        raise NotYours(f"{submission.signed.statement.actor} is not the operator")


def _require_waiting(job: NodeJob) -> None:
    if job.decision is not Decision.PENDING or job.state is not JobState.REQUESTED:
        raise PlanRefused("order", f"{job.id} is {job.state}, {job.decision} by this holder")


def _new(plan: Plan, digest: Digest, submitted: Digest, identity: Identity) -> NodeJob:
    return NodeJob(
        id=plan.job,
        deal=plan.deal,
        consumer=plan.consumer,
        plan=digest,
        submitted=submitted,
        state=JobState.REQUESTED,
        decision=Decision.PENDING,
        held=None,
        admissions={},
        ephemerals={},
        addresses={},
        receipts={},
        parts={},
        reason="",
        run_by=plan.run_by,
        updated_at=identity.clock.now(),
    )


def _with_consumer(job: NodeJob, plan: Plan, body: Mapping[str, str]) -> NodeJob:
    """With the consumer's keys and address for the run, where it takes part itself."""
    return _reachable(job, plan.consumer, body) if plan.join in WITH_CONSUMER else job


def _reachable(job: NodeJob, party: PartyId, body: Mapping[str, str]) -> NodeJob:
    """With what a party's signed statement says of its keys and address for this attempt."""
    ephemeral = PublicKey.parse(body.get("ephemeral", ""), where="body.ephemeral")
    if ephemeral.suite != "x25519":
        raise Malformed("body.ephemeral", "is not an x25519 key")
    link = body.get("link", "")
    if link:
        Endpoint.parse(link, where="body.link")
    return replace(
        job,
        ephemerals={**job.ephemerals, party: ephemeral},
        addresses={**job.addresses, party: link},
    )


def _load(number: JobId, tx: NodeTransaction) -> NodeJob:
    job = tx.job(number)
    if job is None:
        raise UnknownSubject(number)
    return job


def at(job: NodeJob, state: JobState, identity: Identity, *, reason: str = "") -> NodeJob:
    return replace(job, state=state, reason=reason or job.reason, updated_at=identity.clock.now())
