"""A consumer's own part of a score or lookup: it computes too, and the answer appears here alone.

The consumer starts once it hears that the holder has started, at most once for each job: its
ephemeral key is forgotten before the first message leaves, for a second run under the same keys
would use them for other messages. What the run finds is kept, and becomes the job's answer when the
operator releases the job, as every other answer does. A run that fails is an alarm. It says nothing
to anybody: the job ends by what the holder says of its own run, and by its deadlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from crypto import record
from crypto.identifiers import JobId
from exchange import jobs as lifecycle
from exchange.errors import EvidenceMissing
from exchange.jobs import JobState
from exchange.node import jobs, requests
from exchange.node.model import Alarm, Identity, NodeJob
from exchange.node.ports import NodeStore, NodeTransaction
from exchange.node.requests import Part
from exchange.node.runs import Computed, Peer, Run, engine_remark
from exchange.node.shelf import Shelf
from exchange.query.plan import WITH_CONSUMER, Plan
from exchange.results import AnyAnswer
from registry.product import DataProduct

LOST: Final = "this node stopped while it computed its own part"
NEVER: Final = "the holder sealed its part without a run that this party took part in"


@dataclass(frozen=True)
class _Ended:
    """How the own run ended: with an answer, or with a problem."""

    answer: AnyAnswer | None
    problem: str | None


class OwnRun(Run):
    """One attempt at the consumer."""

    def _peers(self, tx: NodeTransaction) -> list[Peer]:
        found = super()._peers(tx)
        tx.forget_secret(self._job.id)
        return found

    def _part(self, product: DataProduct) -> Part:
        return requests.consumers_part(self._plan, product, self._workshop.shelf)

    def _finish(self, product: DataProduct, computed: Computed, peers: Sequence[Peer]) -> None:
        shelf = self._workshop.shelf
        names = shelf.asked_names(self._job.id)
        answer = requests.read_answer(self._plan, product, names, computed.share)
        with self._store.transaction() as tx:
            _keep(self._job.id, _Ended(answer, None), tx)
            tx.set_remark(engine_remark(self._job.id), str(computed.took_ms))
        shelf.forget_asked(self._job.id)

    def _give_up(self, said: str, detail: str) -> None:
        with self._store.transaction() as tx:
            job = tx.job(self._job.id)
            # A run that was killed because the job failed elsewhere is no news.
            if job is None or job.state not in lifecycle.FINAL or job.state is JobState.RELEASED:
                _fail(self._job.id, detail, tx, self._identity)
        self._workshop.shelf.forget_asked(self._job.id)


def due(store: NodeStore, identity: Identity) -> Sequence[tuple[NodeJob, Plan]]:
    """Jobs whose holder has begun and whose own part has not."""
    found = []
    with store.reading() as tx:
        for job in tx.jobs():
            if job.consumer == identity.party and job.state is JobState.RUNNING:
                plan = jobs.plan_of(job, tx)
                if plan.join in WITH_CONSUMER and tx.secret(job.id) is not None:
                    found.append((job, plan))
    return found


def is_ended(job: NodeJob, tx: NodeTransaction) -> bool:
    """Whether the own run has ended, or never can be."""
    return tx.remark(_remark(job.id)) is not None or tx.secret(job.id) is not None


def answer_of(job: NodeJob, tx: NodeTransaction) -> AnyAnswer:
    """What the own run found, of a job that is over. Raises EvidenceMissing where it failed."""
    text = tx.remark(_remark(job.id))
    if text is None:
        raise EvidenceMissing(NEVER)
    ended = record.from_bytes(_Ended, text.encode())
    if ended.answer is None:  # why, the alarm of that time says; everybody reads this one
        raise EvidenceMissing("this party's own part of the run failed")
    return ended.answer


def forget(number: JobId, tx: NodeTransaction) -> None:
    """Once the answer is kept as the job's."""
    tx.set_remark(_remark(number), record.to_bytes(_Ended(None, "")).decode())


def recover(store: NodeStore, identity: Identity, shelf: Shelf) -> None:
    """At start: a run that was under way when this node died is lost; what was asked in jobs that
    are over is forgotten."""
    with store.transaction() as tx:
        own = [job for job in tx.jobs() if job.consumer == identity.party]
        for job in own:
            begun = job.state in (JobState.RUNNING, JobState.SEALED, JobState.RELEASED)
            if begun and jobs.plan_of(job, tx).join in WITH_CONSUMER and not is_ended(job, tx):
                _fail(job.id, LOST, tx, identity)
    ended = {job.id for job in own if job.state in lifecycle.FINAL}
    shelf.sweep(ended=ended, known={job.id for job in own}, now=identity.clock.now())


def _fail(number: JobId, problem: str, tx: NodeTransaction, identity: Identity) -> None:
    tx.forget_secret(number)
    _keep(number, _Ended(None, problem), tx)
    words = f"this party's own part of {number} failed: {problem}"
    tx.add_alarm(Alarm("OwnPartFailed", words, identity.clock.now()))


def _keep(number: JobId, ended: _Ended, tx: NodeTransaction) -> None:
    tx.set_remark(_remark(number), record.to_bytes(ended).decode())


def _remark(number: JobId) -> str:
    return f"own part of {number}"
