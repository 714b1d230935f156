"""The node's working loop, one step at a time.

Every step is safe to repeat and to be killed in. The order is a courtesy to those who wait, not a
condition: what a step leaves undone, the next round does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event

from crypto.digest import Digest
from crypto.identifiers import JobId
from crypto.keys import ExchangeKey
from crypto.statement import SignedStatement
from exchange import jobs as lifecycle
from exchange.errors import IllegalTransition
from exchange.jobs import JobState
from exchange.node import inbox, jobs, negotiating, outbox, own_runs, receiving
from exchange.node.model import Identity, NodeJob
from exchange.node.own_runs import OwnRun
from exchange.node.ports import Answer, Hub, NodeStore, NodeTransaction
from exchange.node.runs import Run, Workshop
from exchange.node.watch import Watch
from exchange.query.plan import Plan


@dataclass
class Node:
    """One party's node. workshop: absent at a node that only consumes.

    news: set when something has happened that `work` may have to do with.
    """

    store: NodeStore
    hub: Hub
    identity: Identity
    watch: Watch
    workshop: Workshop | None
    ephemeral: Callable[[], ExchangeKey] = ExchangeKey.generate
    runs: dict[JobId, Run] = field(default_factory=dict)
    begun: dict[JobId, Digest] = field(default_factory=dict)
    news: Event = field(default_factory=Event)

    def begin(self) -> None:
        """At start: refuse to work on old records, and give up runs that died with the process."""
        self.watch.require_not_restored()
        jobs.recover(self.store, self.identity)
        if self.workshop is not None:
            own_runs.recover(self.store, self.identity, self.workshop.shelf)

    def hear(self, *, wait_s: float) -> int:
        """Take in messages, waiting at the hub for one. Raises HubUnreachable: try again later."""
        heard = inbox.fetch(self.store, self.hub, self.identity, wait_s=wait_s)
        if heard:
            self.news.set()
        return heard

    def work(self) -> bool:
        """Decide, run, open, send. Returns whether anything happened. Raises HubUnreachable."""
        decided = jobs.decide(self.store, self.hub, self.identity, self.ephemeral)
        self._end_runs()
        self._begin_jobs()
        opened = receiving.open_released(self.store, self.hub, self.identity)
        sent = outbox.send(self.store, self.hub, self.identity, _heed)
        started = self._start_runs() + self._start_own_runs()
        return bool(sent or decided or opened or started)

    def look(self) -> int:
        """Check the ledger for this party's own statements. Raises HubUnreachable."""
        return self.watch.look()

    def stop(self, timeout_s: float) -> None:
        """Kill what runs and wait for it; each says that it failed."""
        for run in self.runs.values():
            run.kill()
        for run in self.runs.values():
            run.join(timeout_s)

    def _begin_jobs(self) -> None:
        """Say of each job that everybody has admitted that it starts here."""
        if self.workshop is None:
            return
        for number in jobs.ready_to_start(self.store, self.identity):
            try:
                self.begun[number] = jobs.begin(number, store=self.store, identity=self.identity)
            except IllegalTransition:
                continue  # it ended meanwhile

    def _start_runs(self) -> int:
        """Start the engine of each job whose start the hub has taken in, and no earlier: from
        then on the consumer cannot withdraw, so no intersection runs that nobody pays for."""
        if self.workshop is None:
            return 0
        started = 0
        for number, said in list(self.begun.items()):
            with self.store.reading() as tx:
                answer, job = tx.sent(said), tx.job(number)
                plan = None if job is None else jobs.plan_of(job, tx)
            if answer is None:
                continue  # the hub has not answered yet
            del self.begun[number]
            if job is None or plan is None or job.state is not JobState.RUNNING:
                continue  # it ended meanwhile
            if not answer.applied:
                why = f"the hub did not take its start in: {answer.reason}"
                jobs.give_up(number, why, why, store=self.store, identity=self.identity)
                continue
            self._start(Run, plan, job, self.workshop)
            started += 1
        return started

    def _start_own_runs(self) -> int:
        """As consumer, take part in each score or lookup that its holder has begun."""
        if self.workshop is None:
            return 0
        waiting = [
            (job, plan)
            for job, plan in own_runs.due(self.store, self.identity)
            if job.id not in self.runs
        ]
        for job, plan in waiting:
            self._start(OwnRun, plan, job, self.workshop)
        return len(waiting)

    def _start(self, kind: type[Run], plan: Plan, job: NodeJob, workshop: Workshop) -> None:
        self.runs[job.id] = kind(
            plan,
            job,
            store=self.store,
            hub=self.hub,
            identity=self.identity,
            workshop=workshop,
            ended=self.news.set,
        )
        self.runs[job.id].start()

    def _end_runs(self) -> None:
        """Kill runs of jobs that others ended, and forget those that are over."""
        with self.store.reading() as tx:
            states = {number: tx.job(number) for number in self.runs}
        for number, job in states.items():
            ended = job is not None and job.state in lifecycle.FINAL
            if ended and job is not None and job.state is not JobState.RELEASED:
                self.runs[number].kill()
            if not self.runs[number].alive:
                del self.runs[number]


def _heed(signed: SignedStatement, answer: Answer, tx: NodeTransaction, identity: Identity) -> None:
    """What the hub answered to a statement of this party's own, for whom it is news."""
    if signed.statement.type.startswith("negotiation."):
        negotiating.heed_answer(signed, answer, tx, identity)
    else:
        jobs.heed_answer(signed, answer, tx, identity)
