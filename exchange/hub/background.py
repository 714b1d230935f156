"""What the hub does unasked: order the ledger, ask witnesses, release, settle, let deadlines pass.

Each job is looked at in a transaction of its own and moved with a compare-and-set, so several hub
processes may run this at once, and a crash between two steps leaves the second for later.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from crypto.errors import CryptoError
from crypto.keys import Signer
from crypto.statement import read_statement
from exchange import evidence, jobs
from exchange.errors import IllegalTransition
from exchange.hub import chains, coordination, settlement
from exchange.hub.model import HubJob, Operator
from exchange.hub.ports import HubStore, HubTransaction
from exchange.jobs import JobEvent, JobState
from ledger import evidence as log_evidence
from ledger import log, newest, sm3
from ledger.log import EntryStatus
from ledger.ports import HeadHolder, LogDatabase, WitnessPort
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import VerifierKey
from ledger.verify.policy import Policy
from pricing.evidence import DEPOSITED, REFUNDED, RELEASED
from registry.evidence import LISTED, REGISTERED, UPDATED

EVERYTHING: Final = 2**62  # as a number of entries
# What rights and money rest on does not wait for the next anchor.
ANCHORED_AT_ONCE: Final = (REGISTERED, UPDATED, LISTED, DEPOSITED, RELEASED, REFUNDED)
# Of most entries this tells without parsing them that they are none of these.
_PAYLOAD: Final = re.compile(rb'\{"payload":"([A-Za-z0-9+/=]*)"')
_MARK: Final = re.compile(b'"type":"(%s)"' % "|".join(map(re.escape, ANCHORED_AT_ONCE)).encode())


@dataclass
class KnownHead:
    """The newest head that this process has seen in its database.

    Without any error, one connection may be to a database and the next to an older copy of it: a
    replica that lags and took over between two rounds, a file that was replaced.

    caught_up: no entry waits that was queued before this process began to sign, or went on after
               a failure of its database.
    """

    head: Checkpoint | None = None
    caught_up: bool = False


@dataclass(frozen=True)
class LogKeeping:
    """The ledger's own identity, who cosigns it, and the quorum that counts as witnessed.

    holders: who else remembers its heads outside the database. also: keys that sign beside the
    log's own. ever: every key that the log declared, the present ones and the earlier.
    sm3: what signs the parallel SM3 tree, where there is one. known: kept by the functions below.
    """

    origin: str
    signer: Signer
    database: LogDatabase
    witnesses: Sequence[WitnessPort]
    policy: Policy
    holders: Sequence[HeadHolder] = ()
    also: Sequence[Signer] = ()
    ever: Sequence[VerifierKey] = ()
    sm3: Signer | None = None
    known: KnownHead = field(default_factory=KnownHead)


def require_newest(keeping: LogKeeping) -> None:
    """Nobody knows of more of the ledger than the database does. Before the first signature."""
    with keeping.database.transaction() as store:
        latest = store.latest()
    newest.require_newest(
        keeping.database,
        origin=keeping.origin,
        signer=keeping.signer,
        witnesses=keeping.witnesses,
        policy=keeping.policy,
        holders=keeping.holders,
    )
    if keeping.known.head is None and latest is not None:
        keeping.known.head = latest.checkpoint  # what was compared is what is signed from


def anchored_at_once(entry: bytes) -> bool:
    """Whether an entry of the ledger is an act of registration or settlement."""
    found = _PAYLOAD.match(entry)
    try:
        if found is None or _MARK.search(base64.b64decode(found[1])) is None:
            return False
        return read_statement(entry).statement.type in ANCHORED_AT_ONCE
    except (ValueError, CryptoError):  # an entry may be any bytes
        return False


def order(store: HubStore, operator: Operator, keeping: LogKeeping) -> bool:
    """Give pending entries their places and sign the grown tree. Whether there were any.

    Raises LogBehind or LogDiverged if the database does not contain the head that this process
    saw in it last, and what `integrate` raises.

    The first head that a process signs takes in all that waits, however much: what was queued at
    start declares the keys that sign, and no head that lacks it may carry their signatures; and it
    moves money that fell due while nobody signed.
    """
    with store.transaction() as tx:
        _require_known(tx, keeping)
        grown = log.integrate(
            tx.log,
            origin=keeping.origin,
            signer=keeping.signer,
            now=operator.clock.now(),
            also=keeping.also,
            limit=log.MAX_BATCH if keeping.known.caught_up else EVERYTHING,
        )
        latest = tx.log.latest()
        waiting = not keeping.known.caught_up and bool(tx.log.pending(1))
    if latest is not None:
        keeping.known.head = latest.checkpoint  # not before the commit: it may be refused
    if not waiting:  # another process that orders at this moment may leave some
        keeping.known.caught_up = True
    return grown is not None


def _require_known(tx: HubTransaction, keeping: LogKeeping) -> None:
    """Before anything is signed: whoever exchanged the database gets no head of either tree."""
    if keeping.known.head is not None:
        newest.require_contained(tx.log, keeping.known.head, "this process")


def follow_sm3(store: HubStore, operator: Operator, keeping: LogKeeping) -> bool:
    """Grow the parallel SM3 tree, and once it has caught up log both trees' heads as a pair.
    Whether there was anything to do.

    Raises LogBehind or LogDiverged as `order` does.
    """
    if keeping.sm3 is None:
        return False
    with store.transaction() as tx:
        tx.lock_chain(operator.party)  # of two hubs, one follows at a time
        _require_known(tx, keeping)
        now = operator.clock.now()
        head = sm3.follow(tx.log, tx.sm3, origin=keeping.origin, signer=keeping.sm3, now=now)
        latest = tx.log.latest()
        if head is None or latest is None:
            return False
        if head.checkpoint.size == latest.size:
            paired = log_evidence.heads_paired(latest.checkpoint, head.note)
            chains.act(paired, tx=tx, operator=operator)
    return True


def publish(operator: Operator, keeping: LogKeeping) -> log.Publication | None:
    """Have the newest head cosigned, if the tree grew since the last time."""
    return log.publish(
        keeping.database,
        witnesses=keeping.witnesses,
        policy=keeping.policy,
        clock=operator.clock,
    )


def move_jobs(store: HubStore, operator: Operator) -> int:
    """Release, settle or expire what is due. Returns how many jobs moved.

    A job that cannot be moved holds up no other: what it raised is raised, as an ExceptionGroup,
    once all have been looked at.
    """
    with store.reading() as tx:
        waiting = tx.unsettled_jobs()
    moved, failed = 0, []
    for job in waiting:
        try:
            moved += _move(job, store, operator)
        except Exception as error:
            error.add_note(f"while moving {job.id}")
            failed.append(error)
    if failed:
        raise ExceptionGroup("jobs that could not be moved", failed)
    return moved


def _move(seen: HubJob, store: HubStore, operator: Operator) -> bool:
    if not _may_be_due(seen, operator):
        return False
    try:
        with store.transaction() as tx:
            return _move_locked(tx.lock_job(seen.id), tx, operator)
    except IllegalTransition:
        return False  # another process was faster


def _may_be_due(job: HubJob, operator: Operator) -> bool:
    """Most jobs wait for somebody else: a transaction for each would keep every writer waiting."""
    now = operator.clock.now()
    if job.state in (JobState.REQUESTED, JobState.ADMITTED):
        return now >= job.run_by
    if job.state is JobState.RUNNING:
        return now >= job.finish_by
    return job.state in (JobState.SEALED, JobState.RELEASED)


def _move_locked(job: HubJob, tx: HubTransaction, operator: Operator) -> bool:
    now = operator.clock.now()
    waiting = job.state in (JobState.REQUESTED, JobState.ADMITTED)
    if waiting and now >= job.run_by:
        coordination.expire(job, evidence.Overdue.NOT_BEGUN, tx, operator)
        return True
    if job.state is JobState.RUNNING and now >= job.finish_by:
        coordination.expire(job, evidence.Overdue.NOT_FINISHED, tx, operator)
        return True
    receipts = [job.sealed[holder] for holder in job.parties if holder in job.sealed]
    if job.state is JobState.SEALED:
        if any(log.status(tx.log, r) is EntryStatus.PENDING for r in receipts):
            return False
        _release(job, tx, operator)
        return True
    if job.state is JobState.RELEASED and not job.settled and job.released is not None:
        relied_on = [*receipts, job.released]
        if any(log.status(tx.log, r) is not EntryStatus.WITNESSED for r in relied_on):
            return False
        settlement.pay_out(job, relied_on, tx, operator)
        tx.note(job.id, "settled", operator.party, "", now)
        return True
    return False


def _release(job: HubJob, tx: HubTransaction, operator: Operator) -> None:
    """Every receipt is under a signed head: the receiver may fetch the sealed parts."""
    receipts = [job.sealed[holder] for holder in job.parties]
    said = chains.act(
        evidence.released(job.id, plan=job.plan, receipts=receipts),
        tx=tx,
        operator=operator,
        to=[job.consumer, *job.parties],
    )
    state = jobs.advance(job.id, job.state, JobEvent.RELEASE)
    now = operator.clock.now()
    released = replace(job, state=state, released=said, updated_at=now)
    tx.save_job(released, was=job.state)
    tx.note(job.id, "released", operator.party, "", now)
