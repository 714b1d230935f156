"""The receiver's end: fetch the sealed parts of a released job, open them, keep the answer.

A part counts only if it is exactly what its holder's signed receipt named, so the hub, which
stored it, cannot have changed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from crypto import record, sealing
from crypto.digest import digest
from crypto.errors import CannotOpen, CryptoError
from crypto.identifiers import JobId, PartyId
from crypto.keys import ExchangeKey
from exchange import evidence, openings
from exchange.errors import EvidenceMissing, ExchangeError, HubUnreachable, UnknownSubject
from exchange.jobs import JobState
from exchange.node import asking, jobs, outbox, own_runs, products
from exchange.node.model import Alarm, Identity, NodeJob
from exchange.node.ports import Documents, Hub, NodeStore, NodeTransaction
from exchange.query.plan import WITH_CONSUMER, Plan
from exchange.results import AnyAnswer, answer_from_bytes, read_parts, require_empty_part
from registry.errors import RegistryError


def open_released(store: NodeStore, hub: Hub, identity: Identity) -> Sequence[JobId]:
    """Open what has been released and not opened yet. Raises HubUnreachable.

    A result that cannot be opened raises an alarm, once, and stays for a person to look at.
    """
    with store.reading() as tx:
        waiting = [
            job.id
            for job in tx.jobs()
            if job.consumer == identity.party
            and job.state is JobState.RELEASED
            and tx.remark(_remark(job.id)) is None
        ]

    def is_opened(number: JobId, tx: NodeTransaction, documents: Documents) -> bool:
        job = tx.job(number)
        if job is None or tx.remark(_remark(number)) is not None:
            return False
        if jobs.plan_of(job, tx).join in WITH_CONSUMER and not own_runs.is_ended(job, tx):
            return False  # the holder was faster than this party's own part
        try:
            with tx.savepoint():
                _open(job, tx, documents, identity)
            return True
        except HubUnreachable:
            raise
        except (CryptoError, ExchangeError, RegistryError) as error:
            words = f"the result of {number} cannot be opened: {error}"
            tx.add_alarm(Alarm("ResultRefused", words, identity.clock.now()))
            tx.set_remark(_remark(number), "refused")
            tx.forget_secret(number)
            tx.save_job(replace(job, reason=str(error)))
            reason = evidence.reason_document(number, "result", str(error), identity.randomness)
            act = evidence.result_refused(
                number, plan=job.plan, after=sorted(job.receipts.values()), reason=reason
            )
            outbox.say(act, [reason], tx=tx, identity=identity)
            return False

    return [
        number
        for number in waiting
        if asking.transact(partial(is_opened, number), store=store, hub=hub)
    ]


def answer(number: JobId, store: NodeStore) -> AnyAnswer:
    """The answer of an opened job. Raises UnknownSubject until there is one."""
    with store.reading() as tx:
        text = tx.remark(_remark(number))
        if text is None or text == "refused":
            raise UnknownSubject(f"an opened result of {number}")
        return answer_from_bytes(text.encode())


def is_dealt_with(number: JobId, store: NodeStore) -> bool:
    """Whether a released job's result was opened, or could not be and an alarm says why."""
    with store.reading() as tx:
        return tx.remark(_remark(number)) is not None


def _open(job: NodeJob, tx: NodeTransaction, hub: Documents, identity: Identity) -> None:
    plan = jobs.plan_of(job, tx)
    key = _receiving_key(plan, tx, identity)
    parts: dict[PartyId, bytes] = {}
    for party in plan.sealers:
        named = job.parts.get(party)
        if named is None:
            raise EvidenceMissing(f"no receipt of {party} names its sealed part")
        sealed = hub.part(job.id, named)
        if digest(sealed) != named:
            raise EvidenceMissing(f"the hub's bytes are not what {party} signed for")
        context = openings.result_context(job.plan, party)
        parts[party] = sealing.open_sealed(sealed, key, context=context)
    if plan.join in WITH_CONSUMER:
        require_empty_part(plan, job.plan, parts)
        found = own_runs.answer_of(job, tx)
        own_runs.forget(job.id, tx)
    else:
        known = [products.by_digest(side.product, tx=tx, hub=hub) for side in plan.sides]
        found = read_parts(plan, job.plan, parts, known)
    tx.set_remark(_remark(job.id), record.to_bytes(found).decode())
    act = evidence.opened(
        job.id,
        plan=job.plan,
        after=sorted(job.receipts.values()),
        results=[job.parts[party] for party in plan.sealers],
    )
    outbox.say(act, [], tx=tx, identity=identity)


def _receiving_key(plan: Plan, tx: NodeTransaction, identity: Identity) -> ExchangeKey:
    """The key of the document that the plan names: this party may have rotated its keys since."""
    named = tx.party(plan.receivers[0].document)
    if named is None or named.document.party != identity.party:
        raise EvidenceMissing("the plan names another receiver than this party")
    key = identity.sealing.get(str(named.document.sealing))
    if key is None:
        raise CannotOpen(
            f"this folder no longer has sealing key {named.document.sealing.key_id}; restore "
            f"retired/{named.document.seq} from a backup"
        )
    return key


def _remark(number: JobId) -> str:
    return f"answer {number}"
