"""Negotiations and jobs replayed from public statements alone, as a whole log shows them.

Without proposals, agreements and plans nobody can say that terms were kept. What everybody can
see is the order of acts: who said what after what, by the same tables that hub and nodes use. A
participant's statement that does not follow may have come to nothing and proves nothing; an act
of the operator is made in one transaction with what it says, and a party says *started*, *sealed*,
*verified* or *finalized* only after it has checked what went before. Those that do not follow are
failures.

Memory and work: MAX_OPEN open negotiations and jobs, of each at most MAX_SAID statements. More of
them, how closed ones ended, and which agreements became final are in a temporary file. Anybody may
say more about one subject than that; it is then not judged, and neither is a job that names an
agreement made there.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import Identifier, JobId, NegotiationId, PartyId
from exchange import jobs as lifecycle
from exchange.audit.doubts import replay_with_doubts
from exchange.errors import ExchangeError, IllegalTransition
from exchange.jobs import JobEvent, JobState
from exchange.terms import negotiation as table
from exchange.terms.negotiation import Event, Side, State
from ledger.verify.log import Entry, Tally, Timing
from ledger.verify.report import Phrase, phrase
from pricing.evidence import HELD, REFUNDED, RELEASED

T = TypeVar("T")

MAX_OPEN: Final = 10_000  # of each kind in memory
MAX_SAID: Final = 100  # statements about one negotiation or job that are kept and replayed
MAX_REPLAYS: Final = 16  # of one negotiation, between whoever verified and whoever finalised
UNJUDGED: Final = "not judged"  # how one ended about which more was said
_NEGOTIATION: Final = "negotiation."
_ENDS: Final = {
    "job.refused": JobEvent.REFUSE,
    "job.cancelled": JobEvent.CANCEL,
    "job.failed": JobEvent.FAIL,
    "job.expired": JobEvent.EXPIRE,
}


class _DoesNotFollow(Exception):
    """why: for the report."""

    def __init__(self, key: str, **facts: object) -> None:
        super().__init__(key)
        self.why = phrase(key, **facts)


@dataclass(frozen=True)
class _Step:
    entry: Entry
    event: Event
    doubtful: bool


@dataclass
class _Talk:
    """An open negotiation: what was said, in order. What came too late is not among it."""

    steps: list[_Step] = field(default_factory=list)
    replays: int = 0


@dataclass
class _Job:
    """An open job. Digests name statements. sealed: by digest. holders: of the agreements that the
    submission names; None where one of them is not known to have become final.

    ends: what may have ended it, with the event. surely_started: whether one of `started` came in
    time for certain; while none did, the job may never have been RUNNING.
    """

    submitted: Entry
    holders: frozenset[str] | None
    state: JobState = JobState.REQUESTED
    held: Entry | None = None
    admitted: dict[PartyId, Entry] = field(default_factory=dict)
    started: dict[PartyId, Entry] = field(default_factory=dict)
    sealed: dict[bytes, Entry] = field(default_factory=dict)
    released: Entry | None = None
    receipts: tuple[bytes, ...] = ()
    relied_to: int = 0
    ends: dict[bytes, JobEvent] = field(default_factory=dict)
    surely_started: bool = False

    @property
    def admitting(self) -> bool:
        """Whether a party whose part nobody can see from here, a helper, may still answer."""
        return self.holders is None or self.state is JobState.REQUESTED

    @property
    def plan(self) -> bytes:
        return self.submitted.outputs[0]

    @property
    def said(self) -> int:
        return len(self.admitted) + len(self.started) + len(self.sealed) + len(self.ends)

    def step(self, event: JobEvent) -> None:
        self.state = lifecycle.advance(self.submitted.subject, self.state, event)


class PublicReplay:
    """Everything that public statements show, entry by entry. operator: whose acts move jobs and
    money; None where it is not known, and then nothing of it is judged."""

    def __init__(self, tally: Tally) -> None:
        self.operator: PartyId | None = None
        self._tally = tally
        self._closed = _Closed()
        self._talks = _Open[_Talk](self._closed, "talk")
        self._jobs = _Open[_Job](self._closed, "job")

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        """One statement in its order. One that certainly came too late has no effect."""
        late = timing is Timing.LATE
        doubtful = timing in (Timing.PERHAPS, Timing.OPEN)
        try:
            if entry.type.startswith(_NEGOTIATION):
                if not late:
                    self._talk(entry, doubtful=doubtful)
            elif self.operator is None:
                return  # no job can be told from one that came to nothing
            elif entry.type == "job.submitted":
                if not late:
                    self._submitted(entry)
            elif (act := _OPERATORS.get(entry.type)) is not None:
                if entry.actor == self.operator:
                    self._operators(act, entry, witnessed)
            elif (said := _PARTIES.get(entry.type)) is not None and not late:
                self._parties(said, entry, doubtful=doubtful)
        except _DoesNotFollow as error:
            check = "negotiation.public" if entry.type.startswith(_NEGOTIATION) else "job.public"
            self._fails(check, entry, error.why)

    def unheard(self, entry: Entry) -> None:
        """One that nobody can tell who signed: it counts for nothing, and what goes wrong without
        it may be for lack of it."""
        if entry.type.startswith((_NEGOTIATION, "job.", "funds.")):
            self._closed.unheard(entry.subject.encode(), *entry.outputs)

    def finish(self) -> None:
        for check, left in (
            ("negotiation.public", len(self._talks)),
            ("job.public", len(self._jobs)),
        ):
            if left:
                self._tally.unopened(check, "log", phrase("public.open", count=f"{left:,}"))
        self._closed.close()

    def _fails(self, check: str, entry: Entry, why: Phrase) -> None:
        if self._closed.was_unheard(entry.subject.encode()):
            note = phrase("public.unheard", reason=why)
            self._tally.unopened(check, entry.name, note)
        else:
            self._tally.fails(check, entry.name, why, index=entry.place)

    # Negotiations

    def _talk(self, entry: Entry, *, doubtful: bool) -> None:
        try:
            event = Event(entry.type.removeprefix(_NEGOTIATION))
        except ValueError:
            return
        was = self._closed.state(entry.subject)
        if was is not None:
            if was == UNJUDGED:
                self._closed.leave_open(entry.outputs)
            return
        talk = self._talks.get(entry.subject)
        if talk is None:
            if event not in (Event.REQUESTED, Event.OFFERED):
                return
            if not _is_id(NegotiationId, entry.subject):
                return  # of no effect at the hub; and a job's id must not be closed from here
            talk = _Talk()
        if len(talk.steps) == MAX_SAID:
            self._give_up_talk(talk, entry)
            return
        entry = _slim(entry)
        talk.steps.append(_Step(entry, event, doubtful))
        self._talks.put(entry.subject, talk)
        began = entry.actor == talk.steps[0].entry.actor
        if event is Event.TERMINATED and began and not doubtful:
            # Of the other side a stranger cannot be told apart, so its word closes nothing here.
            self._close(entry.subject, State.TERMINATED)
        elif event is Event.FINALIZED:
            self._finalized(talk, entry)
        elif event is Event.VERIFIED and began:
            self._verified(talk, entry)

    def _verified(self, talk: _Talk, entry: Entry) -> None:
        """The consumer countersigns what a holder signed: it has that before it."""
        if talk.steps[0].event is not Event.REQUESTED:
            return  # the holder began, and only the consumer has this word
        for step in talk.steps:
            if step.event is Event.AGREED and step.entry.outputs == entry.outputs:
                self._tally.passes("negotiation.public")
                return
        raise _DoesNotFollow("public.not_agreed", kind=entry.type)

    def _finalized(self, talk: _Talk, entry: Entry) -> None:
        """The holder's last word, replayed by the table between it and whoever verified.

        The holder is who agreed first: a digest of a salted document can only be copied later.
        """
        holder = entry.actor
        brought: dict[tuple[bytes, ...], PartyId] = {}
        for step in talk.steps:
            if step.event is Event.AGREED:
                brought.setdefault(step.entry.outputs, step.entry.actor)
        if holder not in brought.values():
            return  # a stranger, as far as anybody can see
        final: list[tuple[bytes, PartyId]] = []
        supposed = False
        verified = [s.entry.actor for s in talk.steps if s.event is Event.VERIFIED]
        consumers = dict.fromkeys(verified)
        talk.replays += len(consumers)
        if talk.replays > MAX_REPLAYS:
            self._give_up_talk(talk, entry)
            return
        for consumer in consumers:
            (state, agreement), without = self._play_with_doubts(talk.steps, consumer, holder)
            if state is State.FINALIZED and brought.get((agreement,)) == holder:
                final.append((agreement, consumer))
                supposed |= bool(without)
        if not final:
            raise _DoesNotFollow("public.not_verified", kind=entry.type)
        for agreement, consumer in final:
            self._closed.finalised(agreement, consumer, holder)
        if supposed:
            note = phrase("public.doubtful")
            self._tally.unopened("negotiation.public", entry.name, note)
        else:
            self._tally.passes("negotiation.public")
        self._close(entry.subject, State.FINALIZED)

    def _play_with_doubts(
        self, steps: Sequence[_Step], consumer: PartyId, holder: PartyId
    ) -> tuple[tuple[State | None, bytes], tuple[Digest, ...]]:
        """Where the table leads, if need be without steps that may have come too late.

        Heads that are left out make every step doubtful, but a step that was never made is not
        made up for by leaving out another: what then does not fit, fails as it would with them.
        """
        doubtful = [
            Digest(step.entry.digest)
            for step in steps
            if step.doubtful and step.entry.actor in (consumer, holder)
        ]
        return replay_with_doubts(
            lambda without: self._play(
                [s for s in steps if Digest(s.entry.digest) not in without], consumer, holder
            ),
            lambda found: found[0] is State.FINALIZED,
            late={},
            doubtful=doubtful,
        )

    def _play(
        self, steps: Sequence[_Step], consumer: PartyId, holder: PartyId
    ) -> tuple[State | None, bytes]:
        """Where the table leads, going over what does not follow: that had no effect."""
        sides = {consumer: Side.CONSUMER, holder: Side.HOLDER}
        state: State | None = None
        agreement = b""
        for step in steps:
            side = sides.get(step.entry.actor)
            if side is None:
                continue
            outputs = step.entry.outputs
            if step.event is Event.VERIFIED and outputs != (agreement,):
                continue
            try:
                state = table.next_state(step.entry.subject, state, step.event, side)
            except IllegalTransition:
                continue
            if step.event is Event.AGREED and len(outputs) == 1:
                agreement = outputs[0]
        return state, agreement

    def _close(self, subject: str, state: State | JobState) -> None:
        self._talks.remove(subject)
        self._jobs.remove(subject)
        self._closed.put(subject, state.value)

    def _give_up_talk(self, talk: _Talk, entry: Entry) -> None:
        for step in talk.steps:
            self._closed.leave_open(step.entry.outputs)
        self._closed.leave_open(entry.outputs)
        self._give_up("negotiation.public", entry, phrase("public.too_much", count=MAX_SAID))

    def _give_up(self, check: str, entry: Entry, why: Phrase) -> None:
        """Nothing more is judged of this subject, so that no stranger's flood of statements makes
        an audit endless, or an honest act look wrong."""
        self._tally.unopened(check, f"{entry.name} {entry.subject}", why)
        self._talks.remove(entry.subject)
        self._jobs.remove(entry.subject)
        self._closed.put(entry.subject, UNJUDGED)

    # Jobs

    def _submitted(self, entry: Entry) -> None:
        if len(entry.outputs) != 1 or not entry.inputs or not _is_id(JobId, entry.subject):
            return
        if self._jobs.get(entry.subject) or self._closed.state(entry.subject) is not None:
            return
        found = [self._closed.holder(name, entry.actor) for name in entry.inputs]
        known = frozenset(holder for holder in found if holder is not None)
        if self._closed.was_unheard(*entry.inputs):
            self._closed.unheard(entry.subject.encode())
        missing = [name for name, holder in zip(entry.inputs, found, strict=True) if not holder]
        if self._closed.left_open(missing):
            self._give_up("job.public", entry, phrase("public.agreement_unjudged"))
            return
        job = _Job(entry._replace(data=b"", after=()), None if missing else known)
        self._jobs.put(entry.subject, job)

    def _parties(
        self, said: Callable[[_Job, Entry], bool], entry: Entry, *, doubtful: bool
    ) -> None:
        """A participant's word about a job: counted if it may have an effect."""
        job = self._jobs.get(entry.subject)
        if job is None or job.plan not in entry.inputs:
            return
        if said(job, entry):
            job.surely_started |= entry.type == "job.started" and not doubtful
            if job.said > MAX_SAID:
                self._give_up("job.public", entry, phrase("public.too_much", count=MAX_SAID))
                return
            self._jobs.put(entry.subject, job)
            self._tally.passes("job.public")

    def _operators(
        self, act: Callable[[_Job, Entry, int], JobState | None], entry: Entry, witnessed: int
    ) -> None:
        """An act of the operator: it follows, or the operator has done what it may not."""
        job = self._jobs.get(entry.subject)
        if job is None:
            was = self._closed.state(entry.subject)
            if was == UNJUDGED:
                return
            if was is None:
                raise _DoesNotFollow("public.not_submitted", kind=entry.type)
            raise _DoesNotFollow("public.closed", kind=entry.type, state=was)
        if job.plan not in entry.inputs:
            raise _DoesNotFollow("public.other_plan", kind=entry.type)
        try:
            ended = self._act(act, job, entry, witnessed)
        except ExchangeError as error:
            raise _DoesNotFollow("reason", reason=error) from None
        if ended is None:
            self._jobs.put(entry.subject, job)
        else:
            self._close(entry.subject, ended)

    def _act(
        self,
        act: Callable[[_Job, Entry, int], JobState | None],
        job: _Job,
        entry: Entry,
        witnessed: int,
    ) -> JobState | None:
        """The act, if need be on the supposition that every *started* came too late.

        Nothing else is excused. A statement without effect takes steps away and adds none, so of
        all that an act may lack (receipts, a release, a witnessed head) none can be owed to one:
        only that a job which may still be ended so is already RUNNING.
        """
        try:
            ended = act(job, entry, witnessed)
        except IllegalTransition as error:
            if job.state is not JobState.RUNNING or job.surely_started:
                raise
            job.state = JobState.REQUESTED
            ended = act(job, entry, witnessed)
            note = phrase("public.doubtful_because", reason=error)
            self._tally.unopened("job.public", entry.name, note)
        else:
            self._tally.passes("job.public")
        return ended


def _admitted(job: _Job, entry: Entry) -> bool:
    if job.state is not JobState.REQUESTED or entry.actor in job.admitted:
        return False
    if job.holders is not None and entry.actor in job.holders:
        if entry.policy not in job.submitted.inputs:
            raise _DoesNotFollow("public.other_agreement", kind=entry.type)
        if job.held is None:
            raise _DoesNotFollow("public.not_held", kind=entry.type)
    job.admitted[entry.actor] = _slim(entry)
    return True


def _started(job: _Job, entry: Entry) -> bool:
    if not _is_holder(job, entry) and entry.actor not in job.admitted:
        return False
    if job.holders is not None:
        missing = job.holders - set(job.admitted)
        if missing and entry.actor in job.holders:
            who = ", ".join(sorted(missing))
            raise _DoesNotFollow("public.not_admitted", kind=entry.type, who=who)
    if entry.actor in job.started:
        return False
    if job.state is JobState.REQUESTED:
        job.step(JobEvent.ADMIT)
        job.step(JobEvent.START)
    job.started[entry.actor] = _slim(entry)
    return True


def _sealed(job: _Job, entry: Entry) -> bool:
    if entry.actor not in job.started:
        if _is_holder(job, entry):
            raise _DoesNotFollow("public.not_started", kind=entry.type)
        return False
    # Of several the operator's release says which one counted: one without its openings did not.
    job.sealed[entry.digest] = _slim(entry)
    return True


def _ended(job: _Job, entry: Entry) -> bool:
    """May end the job: whether it did, the operator's refund tells, made in the same moment."""
    if entry.type == "job.cancelled":
        if entry.actor != job.submitted.actor:
            return False
    elif not (_is_holder(job, entry) or entry.actor in job.admitted or job.admitting):
        return False
    job.ends[entry.digest] = _ENDS[entry.type]
    return True


def _rejected(job: _Job, entry: Entry, witnessed: int) -> JobState | None:
    if job.held is not None or job.submitted.digest not in entry.after:
        raise _DoesNotFollow("public.after", kind=entry.type, what="the submission alone")
    job.step(JobEvent.REFUSE)
    return job.state


def _held(job: _Job, entry: Entry, witnessed: int) -> JobState | None:
    if job.held is not None:
        raise _DoesNotFollow("public.twice", kind=entry.type)
    if job.holders is None:
        raise _DoesNotFollow("public.not_final", kind=entry.type)
    if entry.after != (job.submitted.digest,):
        raise _DoesNotFollow("public.after", kind=entry.type, what="the submission")
    if entry.inputs != (job.plan, *job.submitted.inputs):
        raise _DoesNotFollow("public.other_plan", kind=entry.type)
    job.held = _slim(entry)
    return None


def _expired(job: _Job, entry: Entry, witnessed: int) -> JobState | None:
    if job.held is None or job.released is not None:
        raise _DoesNotFollow("public.after", kind=entry.type, what="a job that waits or runs")
    job.ends[entry.digest] = JobEvent.EXPIRE
    return None


def _released(job: _Job, entry: Entry, witnessed: int) -> JobState | None:
    strange = [name for name in entry.after if name not in job.sealed]
    by = {job.sealed[name].actor for name in entry.after if name in job.sealed}
    missing = (job.holders or frozenset()) - by
    if job.held is None or not by or strange or missing:
        raise _DoesNotFollow("public.no_receipts", kind=entry.type)
    job.step(JobEvent.SEAL)
    job.step(JobEvent.RELEASE)
    job.released = _slim(entry)
    job.receipts = entry.after
    job.relied_to = entry.place
    return None


def _paid(job: _Job, entry: Entry, witnessed: int) -> JobState | None:
    if job.released is None or not {*job.receipts, job.released.digest} <= set(entry.after):
        raise _DoesNotFollow("public.after", kind=entry.type, what="receipts and release")
    if not job.relied_to < witnessed <= entry.place:
        raise _DoesNotFollow("public.unwitnessed", kind=entry.type)
    return job.state


def _refunded(job: _Job, entry: Entry, witnessed: int) -> JobState | None:
    if job.held is None:
        raise _DoesNotFollow("public.not_held", kind=entry.type)
    event = job.ends.get(entry.after[0]) if len(entry.after) == 1 else None
    if event is None:
        raise _DoesNotFollow("public.after", kind=entry.type, what="what ended the job")
    job.step(event)
    return job.state


def _slim(entry: Entry) -> Entry:
    """An entry has up to 64 KiB; of one that is kept, what a replay looks at."""
    return entry._replace(data=b"", after=(), inputs=(), outputs=entry.outputs[:2])


def _is_id(kind: type[Identifier], subject: str) -> bool:
    try:
        kind.parse(subject)
    except Malformed:
        return False
    return True


def _is_holder(job: _Job, entry: Entry) -> bool:
    return job.holders is not None and entry.actor in job.holders


_PARTIES: Final[dict[str, Callable[[_Job, Entry], bool]]] = {
    "job.admitted": _admitted,
    "job.refused": _ended,
    "job.failed": _ended,
    "job.cancelled": _ended,
    "job.started": _started,
    "job.sealed": _sealed,
}
_OPERATORS: Final[dict[str, Callable[[_Job, Entry, int], JobState | None]]] = {
    "job.rejected": _rejected,
    "job.expired": _expired,
    "job.released": _released,
    HELD: _held,
    RELEASED: _paid,
    REFUNDED: _refunded,
}


class _Closed:
    """How closed negotiations and jobs ended, which agreements became final, and of which subjects
    and documents something was said that nobody can tell who signed: on disk, in a temporary
    database that nobody else sees, so that memory does not grow with the log."""

    def __init__(self) -> None:
        self.database = sqlite3.connect("", isolation_level=None)
        self.database.execute("PRAGMA journal_mode = OFF")
        self.database.execute("CREATE TABLE closed (subject TEXT PRIMARY KEY, state TEXT)")
        self.database.execute(
            "CREATE TABLE agreement (digest BLOB, consumer TEXT, holder TEXT, "
            "PRIMARY KEY (digest, consumer))"
        )
        self.database.execute("CREATE TABLE unheard (name BLOB PRIMARY KEY)")
        self.database.execute("CREATE TABLE left_open (digest BLOB PRIMARY KEY)")
        self.database.execute("BEGIN")

    def unheard(self, *names: bytes) -> None:
        rows = [(name,) for name in names]
        self.database.executemany("INSERT OR IGNORE INTO unheard VALUES (?)", rows)

    def was_unheard(self, *names: bytes) -> bool:
        asked = "SELECT 1 FROM unheard WHERE name = ?"
        return any(self.database.execute(asked, (name,)).fetchone() for name in names)

    def put(self, subject: str, state: str) -> None:
        self.database.execute("INSERT OR IGNORE INTO closed VALUES (?, ?)", (subject, state))

    def leave_open(self, agreements: Sequence[bytes]) -> None:
        """Whether these became final is not known: their negotiation was not judged."""
        rows = [(name,) for name in agreements]
        self.database.executemany("INSERT OR IGNORE INTO left_open VALUES (?)", rows)

    def left_open(self, agreements: Sequence[bytes]) -> bool:
        asked = "SELECT 1 FROM left_open WHERE digest = ?"
        return any(self.database.execute(asked, (name,)).fetchone() for name in agreements)

    def state(self, subject: str) -> str | None:
        found = self.database.execute("SELECT state FROM closed WHERE subject = ?", (subject,))
        row = found.fetchone()
        return None if row is None else str(row[0])

    def finalised(self, agreement: bytes, consumer: PartyId, holder: PartyId) -> None:
        row = (agreement, consumer, holder)
        self.database.execute("INSERT OR IGNORE INTO agreement VALUES (?, ?, ?)", row)

    def holder(self, agreement: bytes, consumer: PartyId) -> str | None:
        """Of an agreement that became final with this consumer."""
        found = self.database.execute(
            "SELECT holder FROM agreement WHERE digest = ? AND consumer = ?", (agreement, consumer)
        )
        row = found.fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        self.database.close()


class _Open(Generic[T]):
    """What is open, by subject: the last MAX_OPEN that were touched in memory, others on disk.
    Anybody may open what nobody closes."""

    def __init__(self, closed: _Closed, table: str) -> None:
        self._kept: OrderedDict[str, T] = OrderedDict()
        self._database = closed.database
        self._table = table
        self._database.execute(f"CREATE TABLE {table} (subject TEXT PRIMARY KEY, kept BLOB)")

    def __len__(self) -> int:
        found = self._database.execute(f"SELECT COUNT(*) FROM {self._table}")  # noqa: S608  ours
        return len(self._kept) + int(found.fetchone()[0])

    def get(self, subject: str) -> T | None:
        kept = self._kept.get(subject)
        if kept is not None:
            return kept
        found = self._database.execute(
            f"SELECT kept FROM {self._table} WHERE subject = ?",  # noqa: S608  the name is ours
            (subject,),
        )
        row = found.fetchone()
        # Written by this very object, in a file that nobody else can open.
        return None if row is None else pickle.loads(row[0])  # noqa: S301

    def put(self, subject: str, one: T) -> None:
        self.remove(subject)
        self._kept[subject] = one
        if len(self._kept) > MAX_OPEN:
            oldest, other = self._kept.popitem(last=False)
            row = (oldest, pickle.dumps(other))
            self._database.execute(f"INSERT INTO {self._table} VALUES (?, ?)", row)  # noqa: S608

    def remove(self, subject: str) -> None:
        if self._kept.pop(subject, None) is None:
            self._database.execute(
                f"DELETE FROM {self._table} WHERE subject = ?",  # noqa: S608  the name is ours
                (subject,),
            )
