"""Jobs, and the agreements that they are held under, replayed from public statements alone.

Anybody with a key may say anything about any job or negotiation: the hub logs it, and it comes to
nothing. So what a stranger says moves nothing here. The operator's acts are judged, and each names
what it relies on: the submission that the price is held for, the receipts of a release, what ended
a job that is refunded. From there on the parties are known: the consumer made the submission, and
it names the holder of each agreement, and the helper, by their party documents. What they say is
believed; what holders and helper say only after checking what goes before (*started*, *sealed*)
must follow, and what does not moves nothing and fails by itself.

Two promises, whatever strangers add to a log, and however much of it:
- where the operator, the consumer, holders and helper keep to the rules, nothing fails;
- an act of the operator that does not follow fails, and is neither excused nor left unjudged.

*Not opened* is what fits only if a party's statement came to nothing (late, or without documents
that it names: the log does not show which), and what rests on a statement or party document that
is not at hand. Terms, plans and amounts are not public: whether they were kept to, `audit deal`
shows.

Memory does not grow with the log. In a temporary file: steps of negotiations, whose each party
document is, submissions, how jobs ended, and while the price of a job is held, what its parties
say about it. The work for an act is in what it names and, for an agreement, in what its own two
parties said.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from crypto.identifiers import JobId, PartyId
from crypto.record import encode_time
from exchange import jobs as lifecycle
from exchange.audit.chains import KEY_CHANGES
from exchange.errors import IllegalTransition
from exchange.jobs import MAX_HELD, SETTLED_WITHIN, JobEvent, JobState
from exchange.terms.negotiation import TABLE, Event, Side, State
from ledger.verify.chain import Times
from ledger.verify.log import Entry, Tally, Timing
from ledger.verify.report import Phrase, phrase
from pricing.evidence import HELD, REFUNDED, RELEASED

SUBMITTED: Final = "job.submitted"
IN_MEMORY: Final = 10_000  # open jobs, and digests in what is said of jobs; the rest is on disk
_STEPS: Final = {f"negotiation.{event.value}": event for event in Event}
# The hub applies these only with the documents that they name.
_WITH_DOCUMENTS: Final = (Event.REQUESTED, Event.OFFERED, Event.AGREED, Event.VERIFIED)
_ENDS: Final = {
    "job.refused": JobEvent.REFUSE,
    "job.cancelled": JobEvent.CANCEL,
    "job.failed": JobEvent.FAIL,
    "job.expired": JobEvent.EXPIRE,
}
_PARTIES: Final = frozenset(
    {"job.admitted", "job.refused", "job.failed", "job.cancelled", "job.started", "job.sealed"}
)
_CHECKED: Final = ("job.started", "job.sealed")  # said only after checking what goes before
_SOMEBODY: Final = PartyId("")  # whose a document is that is not at hand
_OPERATORS: Final = frozenset(
    {"job.rejected", "job.expired", "job.released", HELD, RELEASED, REFUNDED}
)
_SCHEMA: Final = (
    "PRAGMA journal_mode = OFF",
    "CREATE TABLE step (deal TEXT, actor TEXT, place INTEGER, event TEXT, output BLOB, "
    "doubtful INTEGER, heard INTEGER, PRIMARY KEY (deal, actor, place)) WITHOUT ROWID",
    "CREATE TABLE agreed (agreement BLOB, holder TEXT, deal TEXT, "
    "PRIMARY KEY (agreement, holder, deal)) WITHOUT ROWID",
    "CREATE TABLE final (agreement BLOB, consumer TEXT, holder TEXT, "
    "PRIMARY KEY (agreement, consumer, holder)) WITHOUT ROWID",
    "CREATE TABLE document (name BLOB PRIMARY KEY, party TEXT) WITHOUT ROWID",
    "CREATE TABLE said (job TEXT, name BLOB, kept BLOB, PRIMARY KEY (job, name)) WITHOUT ROWID",
    "CREATE TABLE job (subject TEXT PRIMARY KEY, kept BLOB, closed TEXT) WITHOUT ROWID",
    "CREATE TABLE head (size INTEGER PRIMARY KEY, seen TEXT)",
    "CREATE TABLE doubted (subject TEXT PRIMARY KEY) WITHOUT ROWID",
    "BEGIN",
)

_States = dict[tuple[State | None, bool], bool]
"""In which a negotiation may be, with whether the agreement in question is the one signed in it;
and whether that supposes that a step came to nothing."""


class _DoesNotFollow(Exception):
    """why: for the report."""

    def __init__(self, key: str, **facts: object) -> None:
        super().__init__(key)
        self.why = phrase(key, **facts)


class _Said(NamedTuple):
    """A statement that another may name. inputs, plan: of a submission. heard: whether it can be
    told who signed it. doubtful: it may have come too late."""

    type: str
    actor: PartyId
    inputs: tuple[bytes, ...]
    plan: bytes
    heard: bool
    doubtful: bool

    @property
    def agreements(self) -> tuple[bytes, ...]:
        return self.inputs[: len(self.inputs) // 2]

    @property
    def documents(self) -> tuple[bytes, ...]:
        """Of the holder of each agreement in turn, and then of the helper if there is one."""
        return self.inputs[len(self.inputs) // 2 :]

    @property
    def digests(self) -> int:
        """How many it takes to remember it; a stranger's submission may have a thousand."""
        return 1 + len(self.inputs)


class _Step(NamedTuple):
    """Of a negotiation. output: the document that it brings. doubtful: it may be too late."""

    actor: PartyId
    event: Event
    output: bytes | None
    doubtful: bool
    heard: bool


class _Final(NamedTuple):
    """Whether it is shown that an agreement became final; and if not, whether that may be for lack
    of what is not at hand."""

    shown: bool
    unheard: bool


class Job(NamedTuple):
    """A job whose price is held. plan: a document's digest.

    parties: each holder, with its agreement's digest, and the helper, with None. admitted: who did
    so in time for certain. surely: whether that holds of somebody's start, and of the admissions
    that it names; while it does of none, the job may never have been RUNNING. sealed: whose receipt
    is there. released, receipts: digests of statements. relied_to: the place of the last statement
    that the next act of the operator relies on: the hold, each party's first receipt, the release.
    """

    consumer: PartyId
    plan: bytes
    parties: Mapping[PartyId, bytes | None]
    state: JobState = JobState.REQUESTED
    admitted: frozenset[PartyId] = frozenset()
    started: frozenset[PartyId] = frozenset()
    surely: bool = False
    sealed: frozenset[PartyId] = frozenset()
    released: bytes = b""
    receipts: tuple[bytes, ...] = ()
    relied_to: int = 0

    def after(self, entry: Entry, *events: JobEvent) -> JobState:
        state = self.state
        for event in events:
            state = lifecycle.advance(entry.subject, state, event)
        return state


class PublicReplay:
    """Everything that public statements show, entry by entry. operator: whose acts move jobs and
    money; None where it is not known, and then nothing is judged."""

    def __init__(self, tally: Tally) -> None:
        self.operator: PartyId | None = None
        self.seen: datetime | None = None
        """When a quorum last saw the log, at the earliest."""
        self._size = 0  # of the newest head that a quorum saw
        self.followed: datetime | None = None
        """When it last saw a head that a larger one follows: only the newest head of a log can be
        cosigned again, with a later time, and that by anybody."""
        self._tally = tally
        self._kept = _Kept()

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        """One statement in its order. witnessed: size of the last witnessed head before it."""
        late = timing is Timing.LATE  # then it certainly had no effect
        doubtful = timing in (Timing.PERHAPS, Timing.OPEN)
        if entry.type in _STEPS:
            self._kept.step(entry, heard=True, late=late, doubtful=doubtful)
        elif entry.type in KEY_CHANGES:
            self._kept.announce(entry, entry.actor)
        elif self.operator is None:
            return
        elif entry.type in _OPERATORS:
            if self._is_operators(entry):
                self._judge(entry, lambda: self._operators(entry, witnessed))
        elif late:
            return
        elif entry.type == SUBMITTED:
            self._submitted(entry, heard=True, doubtful=doubtful)
        elif (job := self._job(entry)) is not None:
            self._parties(job, entry, doubtful=doubtful)

    def unheard(self, entry: Entry) -> None:
        """One that nobody can tell who signed: it moves nothing, and what goes wrong for lack of
        it, or rests on it, is not opened."""
        if entry.type in _STEPS:
            self._kept.step(entry, heard=False, late=False, doubtful=True)
        elif entry.type in KEY_CHANGES:
            self._kept.announce(entry, _SOMEBODY)
        elif entry.type in _OPERATORS:
            if self._is_operators(entry):
                self._kept.doubt(entry.subject)
        elif entry.type == SUBMITTED:
            self._submitted(entry, heard=False, doubtful=True)
        elif (job := self._job(entry)) is not None:
            self._kept.say(entry, heard=False, doubtful=True)
            if entry.actor in job.parties:
                self._kept.doubt(entry.subject)

    def job(self, subject: str) -> Job | None:
        """A job whose price is held, and neither paid nor given back yet."""
        return self._kept.job(subject)

    def witnessed(self, size: int, times: Times) -> None:
        """A head with a quorum that says when, behind all that it holds; a size may come again."""
        self._kept.head(size, times.last)
        if size > self._size:
            self._size, self.followed = size, self.seen
        self.seen = times.first if self.seen is None else max(self.seen, times.first)

    def owed_since(self, job: Job, finish_by: datetime | None = None) -> datetime | None:
        """When the operator had to pay, or to give back, the price of an open job. finish_by: of
        its plan; that not being known, the latest that the hub accepts.

        A payment waits for a witnessed head that holds the release, and where all receipts are in
        the operator releases first. Of what no such head holds this is None: the log has stopped,
        or is not witnessed.
        """
        since = self._kept.seen(job.relied_to)
        if since is None or job.released:
            return since
        return since + MAX_HELD if finish_by is None else max(since, finish_by)

    def finish(self) -> None:
        """A price is kept where the hub was at work and did not act. That a witness saw a head late
        does not show it: anybody can have the newest one cosigned again, years later. A head that a
        larger one follows was seen while the hub went on."""
        left = 0
        for subject, job in self._kept.open_jobs():
            left += 1
            since = self.owed_since(job)
            if since is None or self.followed is None:
                continue
            if self.followed > since + SETTLED_WITHIN:
                self._withheld(subject, job, since, self.followed)
        if left:
            self._tally.unopened("job.public", "log", phrase("public.open", count=f"{left:,}"))
        self._kept.close()

    def _withheld(self, subject: str, job: Job, since: datetime, seen: datetime) -> None:
        key = "money.unpaid" if job.released else "money.unended"
        why = phrase(key, since=encode_time(since), seen=encode_time(seen))
        if self._kept.doubted(subject):
            why = phrase("public.unheard", reason=why)
            self._tally.unopened("job.public", subject, why)
        else:
            self._tally.fails("job.public", subject, why, index=job.relied_to)

    def _is_operators(self, entry: Entry) -> bool:
        """Such an act by anybody else is the operator's all the same: its hub takes in none."""
        if entry.actor == self.operator or self.operator is None:
            return self.operator is not None
        why = phrase("public.not_operators", kind=entry.type)
        self._tally.fails("job.public", entry.name, why, index=entry.place)
        return False

    def _judge(self, entry: Entry, act: Callable[[], Phrase | None]) -> bool:
        """Whether it follows, or may. act: returns why that cannot be told, if it cannot."""
        try:
            untold = act()
        except (_DoesNotFollow, IllegalTransition) as error:
            why = _why(error)
            if self._kept.doubted(entry.subject):
                why = phrase("public.unheard", reason=why)
                self._tally.unopened("job.public", entry.name, why)
            else:
                self._tally.fails("job.public", entry.name, why, index=entry.place)
            return False
        if untold is None:
            self._tally.passes("job.public")
        else:
            self._tally.unopened("job.public", entry.name, untold)
        return True

    # What participants say

    def _submitted(self, entry: Entry, *, heard: bool, doubtful: bool) -> None:
        """Under an id that others may use as well: which of them counted, the operator says."""
        if len(entry.outputs) == 1 and len(entry.inputs) > 1 and JobId.is_spelled(entry.subject):
            self._kept.say(entry, heard=heard, doubtful=doubtful)

    def _job(self, entry: Entry) -> Job | None:
        """The open job of its own that a participant speaks of. The hub holds the price before
        anybody hears of a job, so what is said of one before that comes to nothing; so does what
        does not name its plan."""
        job = self._kept.job(entry.subject) if entry.type in _PARTIES else None
        if job is None or job.plan not in entry.inputs:
            return None
        return job if entry.actor == job.consumer or entry.actor in job.parties else None

    def _parties(self, job: Job, entry: Entry, *, doubtful: bool) -> None:
        """Only a start moves the job; all else counts where somebody relies on it."""
        if entry.type == "job.admitted":
            self._admitted(job, entry, doubtful)
            return
        if entry.actor in job.parties and entry.type in _CHECKED:
            said = self._started if entry.type == "job.started" else self._sealed
            if not self._judge(entry, lambda: said(job, entry, doubtful)):
                return
        self._kept.say(entry, heard=True, doubtful=doubtful)

    def _admitted(self, job: Job, entry: Entry, doubtful: bool) -> None:
        """The hub takes each party's first, under its own agreement. No other is kept, so that a
        start that names one fails by itself."""
        if entry.actor in job.admitted or job.parties.get(entry.actor, b"") != entry.policy:
            return
        self._kept.say(entry, heard=True, doubtful=doubtful)
        if not doubtful:
            self._kept.put(entry.subject, job._replace(admitted=job.admitted | {entry.actor}))

    def _started(self, job: Job, entry: Entry, doubtful: bool) -> Phrase | None:
        named = [s for s in self._named(entry) if s.type == "job.admitted"]
        if missing := job.parties.keys() - {said.actor for said in named}:
            who = ", ".join(sorted(missing))
            raise _DoesNotFollow("public.not_admitted", kind=entry.type, who=who)
        if len(job.parties) != len(set(entry.after)):
            raise _DoesNotFollow("public.other_parties", kind=entry.type)
        steps = (JobEvent.ADMIT, JobEvent.START) if job.state is JobState.REQUESTED else ()
        moved = job._replace(
            state=job.after(entry, *steps),
            started=job.started | {entry.actor},
            surely=job.surely or not (doubtful or any(said.doubtful for said in named)),
        )
        self._kept.put(entry.subject, moved)
        return _unless_heard(named)

    def _sealed(self, job: Job, entry: Entry, doubtful: bool) -> Phrase | None:
        # Of several the operator's release says which one counted.
        if entry.actor not in job.started:
            raise _DoesNotFollow("public.not_started", kind=entry.type)
        if entry.actor not in job.sealed:
            sealed = job.sealed | {entry.actor}
            self._kept.put(entry.subject, job._replace(sealed=sealed, relied_to=entry.place))
        return None

    # What the operator does

    def _operators(self, entry: Entry, witnessed: int) -> Phrase | None:
        job, was = self._kept.job_or_end(entry.subject)
        if was is not None:
            raise _DoesNotFollow("public.closed", kind=entry.type, state=was)
        if entry.type == HELD:
            return self._held(job, entry)
        if entry.type == "job.rejected":
            return self._rejected(job, entry)
        if job is None:
            raise _DoesNotFollow("public.not_held", kind=entry.type)
        if job.plan not in entry.inputs:
            raise _DoesNotFollow("public.other_plan", kind=entry.type)
        if entry.type == "job.expired":
            return self._expired(job, entry)
        if entry.type == "job.released":
            return self._released(job, entry)
        if entry.type == REFUNDED:
            return self._refunded(job, entry)
        return self._paid(job, entry, witnessed)

    def _rejected(self, job: Job | None, entry: Entry) -> Phrase | None:
        if job is not None:
            raise _DoesNotFollow("public.after", kind=entry.type, what="the submission alone")
        submitted = self._submission(entry)
        if submitted.plan not in entry.inputs:
            raise _DoesNotFollow("public.other_plan", kind=entry.type)
        self._kept.close_job(entry.subject, JobState.REFUSED)
        return _unless_heard([submitted])

    def _held(self, job: Job | None, entry: Entry) -> Phrase | None:
        """Which of several submissions under one id counted, this says."""
        if job is not None:
            raise _DoesNotFollow("public.twice", kind=entry.type)
        submitted = self._submission(entry)
        if entry.inputs != (submitted.plan, *submitted.agreements):
            raise _DoesNotFollow("public.other_plan", kind=entry.type)
        parties = [self._kept.announced(name, entry) for name in submitted.documents]
        holders = parties[: len(submitted.agreements)]
        found = [
            self._agreement(name, submitted.actor, holder, entry)
            for name, holder in zip(submitted.agreements, holders, strict=True)
        ]
        final = all(one.shown for one in found)
        unheard = not submitted.heard or _SOMEBODY in parties or any(one.unheard for one in found)
        if unheard:
            self._kept.doubt(entry.subject)
        if final or unheard:
            under = dict(zip_longest(parties, submitted.agreements))
            held = Job(submitted.actor, submitted.plan, under, relied_to=entry.place)
            self._kept.put(entry.subject, held)
        if not final:
            raise _DoesNotFollow("public.not_final", kind=entry.type)
        return _unless_heard([submitted])

    def _expired(self, job: Job, entry: Entry) -> Phrase | None:
        if job.released:
            raise _DoesNotFollow("public.after", kind=entry.type, what="a job that waits or runs")
        self._kept.say(entry, heard=True, doubtful=False)
        return None

    def _released(self, job: Job, entry: Entry) -> Phrase | None:
        state = job.after(entry, JobEvent.SEAL, JobEvent.RELEASE)
        sealed = [s for s in self._named(entry) if s.type == "job.sealed"]
        by = {said.actor for said in sealed}
        if by != job.parties.keys() or len(by) != len(entry.after):
            raise _DoesNotFollow("public.no_receipts", kind=entry.type)
        moved = job._replace(
            state=state, released=entry.digest, receipts=entry.after, relied_to=entry.place
        )
        self._kept.put(entry.subject, moved)
        return _unless_heard(sealed)

    def _paid(self, job: Job, entry: Entry, witnessed: int) -> Phrase | None:
        if not job.released or not {*job.receipts, job.released} <= set(entry.after):
            raise _DoesNotFollow("public.after", kind=entry.type, what="receipts and release")
        if not job.relied_to < witnessed <= entry.place:
            raise _DoesNotFollow("public.unwitnessed", kind=entry.type)
        self._kept.close_job(entry.subject, job.state)
        return None

    def _refunded(self, job: Job, entry: Entry) -> Phrase | None:
        """If need be on the supposition that every *started* came too late. Nothing else is
        excused: a statement without effect takes steps away and adds none."""
        ended = self._named(entry)
        if len(entry.after) != 1 or len(ended) != 1 or ended[0].type not in _ENDS:
            raise _DoesNotFollow("public.after", kind=entry.type, what="what ended the job")
        try:
            state, untold = _ended(job, ended[0], entry), _unless_heard(ended)
        except (_DoesNotFollow, IllegalTransition) as error:
            if job.state is not JobState.RUNNING or job.surely:
                raise
            state = _ended(job._replace(state=JobState.REQUESTED), ended[0], entry)
            untold = phrase("public.doubtful_because", reason=_why(error))
        self._kept.close_job(entry.subject, state)
        return untold

    def _submission(self, entry: Entry) -> _Said:
        named = [said for said in self._named(entry) if said.type == SUBMITTED]
        if len(named) != 1 or len(entry.after) != 1:
            raise _DoesNotFollow("public.not_submitted", kind=entry.type)
        return named[0]

    def _named(self, entry: Entry) -> list[_Said]:
        """What was said of the same job, once each; what was not is left out."""
        found = (self._kept.said(entry.subject, name) for name in dict.fromkeys(entry.after))
        return [said for said in found if said is not None]

    # Agreements

    def _agreement(self, name: bytes, consumer: PartyId, holder: PartyId, entry: Entry) -> _Final:
        """Whether an agreement became final between these two, in any negotiation in which the
        holder named it.

        Of their steps each may have come to nothing; so all states are followed in which the
        negotiation may be, each with whether it supposes that one did.
        """
        if self._kept.is_final(name, consumer, holder):
            return _Final(True, unheard=False)
        unheard = holder == _SOMEBODY
        for deal in self._kept.agreed_in(name, holder):
            states: _States = {(None, False): False}
            missing = False
            for step in self._kept.steps(deal, consumer, holder):
                missing |= not step.heard
                if step.heard:
                    side = Side.CONSUMER if step.actor == consumer else Side.HOLDER
                    states = _after(states, step, side, names=step.output == name)
            unheard |= missing
            supposed = states.get((State.FINALIZED, True))
            if supposed is None:
                continue
            self._kept.finalise(name, consumer, holder)
            if supposed or missing:
                note = phrase("public.doubtful")
                self._tally.unopened("negotiation.public", entry.name, note)
            else:
                self._tally.passes("negotiation.public")
            return _Final(True, unheard=False)
        return _Final(False, unheard)


def _after(states: _States, step: _Step, side: Side, *, names: bool) -> _States:
    """names: whether the step names the agreement in question."""
    then: _States = {}

    def reach(state: State | None, signed: bool, supposed: bool) -> None:
        then[state, signed] = supposed and then.get((state, signed), True)

    for (state, signed), supposed in states.items():
        moved = TABLE.get((state, step.event, side))
        if moved is None or (step.event is Event.VERIFIED and names != signed):
            reach(state, signed, supposed)
            continue
        reach(moved, names if step.event is Event.AGREED else signed, supposed)
        if step.doubtful or step.event in _WITH_DOCUMENTS:
            reach(state, signed, True)
    return then


def _ended(job: Job, ended: _Said, entry: Entry) -> JobState:
    if ended.type == "job.cancelled":
        may = ended.actor == job.consumer
    else:
        may = ended.type == "job.expired" or ended.actor in job.parties
    if not may:
        raise _DoesNotFollow("public.no_part", kind=entry.type, who=ended.actor)
    return job.after(entry, _ENDS[ended.type])


def _unless_heard(named: Sequence[_Said]) -> Phrase | None:
    return None if all(said.heard for said in named) else phrase("public.rests_on_unheard")


def _why(error: _DoesNotFollow | IllegalTransition) -> Phrase:
    return error.why if isinstance(error, _DoesNotFollow) else phrase("reason", reason=error)


class _Kept:
    """On disk, in a temporary database that nobody else sees. In memory are the IN_MEMORY open jobs
    that were moved last, and what is said of jobs, until that is more than IN_MEMORY digests."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._jobs: OrderedDict[str, Job] = OrderedDict()  # those that were moved last
        self._said: dict[str, dict[bytes, _Said]] = {}  # by job and digest
        self._digests = 0  # in it
        self._more_said = False  # on disk
        for statement in _SCHEMA:
            self._database.execute(statement)

    def close(self) -> None:
        self._database.close()

    # Negotiations

    def step(self, entry: Entry, *, heard: bool, late: bool, doubtful: bool) -> None:
        event = _STEPS[entry.type]
        output = entry.outputs[0] if len(entry.outputs) == 1 else None
        if late:
            return
        if event is Event.AGREED and output is not None:
            row = (output, entry.actor, entry.subject)
            self._database.execute("INSERT OR IGNORE INTO agreed VALUES (?, ?, ?)", row)
        self._database.execute(
            "INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?)",
            (entry.subject, entry.actor, entry.place, event, output, doubtful, heard),
        )

    def steps(self, deal: str, consumer: PartyId, holder: PartyId) -> Iterator[_Step]:
        rows = self._database.execute(
            "SELECT actor, event, output, doubtful, heard FROM step "
            "WHERE deal = ? AND actor IN (?, ?) ORDER BY place",
            (deal, consumer, holder),
        )
        for actor, event, output, doubtful, heard in rows:
            yield _Step(PartyId(actor), Event(event), output, bool(doubtful), bool(heard))

    def agreed_in(self, agreement: bytes, holder: PartyId) -> Iterator[str]:
        """In which negotiations this holder named an agreement."""
        asked = "SELECT deal FROM agreed WHERE agreement = ? AND holder = ?"
        for (deal,) in self._database.execute(asked, (agreement, holder)):
            yield deal

    def finalise(self, agreement: bytes, consumer: PartyId, holder: PartyId) -> None:
        row = (agreement, consumer, holder)
        self._database.execute("INSERT INTO final VALUES (?, ?, ?)", row)

    def is_final(self, agreement: bytes, consumer: PartyId, holder: PartyId) -> bool:
        asked = "SELECT 1 FROM final WHERE agreement = ? AND consumer = ? AND holder = ?"
        return self._one(asked, agreement, consumer, holder) is not None

    def announce(self, entry: Entry, party: PartyId) -> None:
        """Whose a document is, once that is known, stays so."""
        known = "INSERT OR REPLACE" if party != _SOMEBODY else "INSERT OR IGNORE"
        for name in entry.outputs:
            self._database.execute(f"{known} INTO document VALUES (?, ?)", (name, party))

    def announced(self, document: bytes, entry: Entry) -> PartyId:
        row = self._one("SELECT party FROM document WHERE name = ?", document)
        if row is None:
            raise _DoesNotFollow("public.unknown_party", kind=entry.type)
        return PartyId(row[0])

    # Jobs

    def say(self, entry: Entry, *, heard: bool, doubtful: bool) -> None:
        """Of the same bytes again only those that came first are kept."""
        if self.said(entry.subject, entry.digest) is not None:
            return
        inputs = entry.inputs if entry.type == SUBMITTED else ()
        plan = entry.outputs[0] if entry.outputs else b""
        said = _Said(entry.type, entry.actor, inputs, plan, heard, doubtful)
        self._said.setdefault(entry.subject, {})[entry.digest] = said
        self._digests += said.digests
        if self._digests > IN_MEMORY:
            self._write_said()

    def _write_said(self) -> None:
        rows = (
            (job, name, pickle.dumps(said))
            for job, of_job in self._said.items()
            for name, said in of_job.items()
        )
        self._database.executemany("INSERT INTO said VALUES (?, ?, ?)", rows)
        self._said.clear()
        self._digests = 0
        self._more_said = True

    def said(self, job: str, name: bytes) -> _Said | None:
        found = self._said[job].get(name) if job in self._said else None
        if found is None and self._more_said:
            row = self._one("SELECT kept FROM said WHERE job = ? AND name = ?", job, name)
            # Written by this very object, in a file that nobody else can open.
            found = None if row is None else pickle.loads(row[0])  # noqa: S301
        return found

    def put(self, subject: str, job: Job) -> None:
        if subject not in self._jobs:
            self._database.execute("DELETE FROM job WHERE subject = ?", (subject,))
        self._jobs[subject] = job
        self._jobs.move_to_end(subject)
        if len(self._jobs) > IN_MEMORY:
            oldest, other = self._jobs.popitem(last=False)
            row = (oldest, pickle.dumps(other))
            self._database.execute("INSERT INTO job VALUES (?, ?, NULL)", row)

    def job(self, subject: str) -> Job | None:
        """One that is open."""
        job, _ = self.job_or_end(subject)
        return job

    def job_or_end(self, subject: str) -> tuple[Job | None, str | None]:
        """An open job, or how it ended, or neither."""
        if (job := self._jobs.get(subject)) is not None:
            return job, None
        row = self._one("SELECT kept, closed FROM job WHERE subject = ?", subject)
        if row is None or row[0] is None:
            return None, None if row is None else row[1]
        return pickle.loads(row[0]), None  # noqa: S301, for it is our own as well

    def close_job(self, subject: str, state: JobState) -> None:
        self._jobs.pop(subject, None)
        self._digests -= sum(said.digests for said in self._said.pop(subject, {}).values())
        self._database.execute("INSERT OR REPLACE INTO job VALUES (?, NULL, ?)", (subject, state))
        if self._more_said:
            self._database.execute("DELETE FROM said WHERE job = ?", (subject,))

    def doubt(self, subject: str) -> None:
        """Something said of it by those who move it may be anybody's."""
        self._database.execute("INSERT OR IGNORE INTO doubted VALUES (?)", (subject,))

    def doubted(self, subject: str) -> bool:
        return self._one("SELECT 1 FROM doubted WHERE subject = ?", subject) is not None

    def open_jobs(self) -> Iterator[tuple[str, Job]]:
        yield from self._jobs.items()
        asked = "SELECT subject, kept FROM job WHERE closed IS NULL"
        for subject, kept in self._database.execute(asked):
            yield subject, pickle.loads(kept)  # noqa: S301, for it is our own as well

    # Heads

    def head(self, size: int, seen: datetime) -> None:
        row = (size, seen.isoformat())
        self._database.execute("INSERT OR IGNORE INTO head VALUES (?, ?)", row)

    def seen(self, place: int) -> datetime | None:
        """By when a quorum had seen the entry at this place."""
        row = self._one("SELECT seen FROM head WHERE size > ? ORDER BY size LIMIT 1", place)
        return None if row is None else datetime.fromisoformat(row[0])

    def _one(self, asked: str, *values: object) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._database.execute(asked, values).fetchone()
        return found
