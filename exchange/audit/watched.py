"""The deals and jobs of a log that is followed: which there are, and what their bundles show.

Terms, budgets, counts and amounts are not public. They are judged from the bundles of deals, as
far as this reader is given any; of every other deal it is said once that it was not opened.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from crypto.errors import CryptoError
from crypto.identifiers import DealId, PartyId
from crypto.record import encode_time
from exchange.audit import bundle as bundles
from exchange.audit.alerts import Alerts, Kind, Waits
from exchange.audit.bundle import MAX_IDLE, MAX_IDLE_BYTES
from exchange.audit.deal import audit_deal
from exchange.audit.errors import AuditError, BundleRefused, CannotJudge, judging
from exchange.audit.openings import Opener
from exchange.audit.public import Job
from exchange.audit.roots import Roots
from exchange.errors import BundleNotReady
from exchange.jobs import GRACE, MAX_RUN_S
from ledger.errors import (
    ConsistencyRefused,
    LedgerError,
    SourceUnreachable,
    TileMissing,
    TileRefused,
)
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.log import Entry
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.report import phrase
from ledger.verify.tiles import SignedTree, open_tree
from pricing.evidence import HELD

LONGEST_RUN: Final = timedelta(seconds=MAX_RUN_S) + GRACE
MAX_UNANSWERED: Final = 3  # bundles that a look waits for in vain
_BEGINNING: Final = ("negotiation.requested", "negotiation.offered")


class Bundles(Protocol):
    """Where this reader gets the evidence of a deal."""

    def read(self, deal: DealId) -> bytes | None:
        """The deal's bundle, as of the newest head with a quorum; None where this reader is given
        none. Raises BundleNotReady where there will be one in a moment."""
        ...


class FolderBundles:
    """Files `<deal>.zip`, put there by whoever may fetch them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, deal: DealId) -> bytes | None:
        try:
            with (self._folder / f"{deal}.zip").open("rb") as file:
                return file.read(bundles.MAX_BUNDLE_BYTES + 1)
        except FileNotFoundError:
            return None


class Deals:
    """Reads the bundles of deals of which something was heard."""

    def __init__(
        self,
        source: Bundles | None,
        policy: Policy,
        roots: Roots,
        opener: Opener | None,
        work: Work,
        alerts: Alerts,
        waits: Waits,
    ) -> None:
        self._bundles = source
        self._policy = policy
        self._roots = roots
        self._opener = opener
        self._alerts = alerts
        self._waits = waits
        self.work = work
        self._unanswered: dict[DealId, None] = {}
        self._behind: dict[DealId, int] = {}  # and which entry its bundle has to hold
        self._reason: dict[DealId, str] = {}  # and what was answered last
        self._ahead: dict[DealId, bytes] = {}  # heads of bundles that were newer than the log's

    def check(self, tree: SignedTree, note: str, now: datetime) -> list[SourceUnreachable]:
        """Every deal of which something new was heard, or that had no answer: these come last, in
        turns, and no more than MAX_UNANSWERED of them, for each may take its time to fail.

        note: of the tree. Returns what was not answered."""
        self._look_back(tree, note)
        away: list[SourceUnreachable] = []
        answered = [deal for deal in self.work.changed() if deal not in self._unanswered]
        for deal in (*answered, *self._unanswered):
            if len(away) == MAX_UNANSWERED:
                self._wait(deal, now, "its turn has not come, for others gave no answer")
                continue
            self._unanswered.pop(deal, None)
            try:
                self._check(deal, tree, note, now)
            except SourceUnreachable as error:
                self._unanswered[deal] = None
                self._wait(deal, now, error)
                away.append(error)
        return away

    def tell(self, now: datetime, patience: timedelta) -> None:
        """Of deals that have been waited for too long: whoever answers anything but a bundle of
        today would else hide what it would show, for ever and in silence. Each by its name, or
        those of an accomplice would hide one among them."""
        for deal in self._behind:
            since = self._waits.since(deal, now, longer_than=patience)
            if since is not None:
                reason = self._reason[deal]
                why = phrase("follow.behind", since=encode_time(since), reason=reason)
                self._alerts.shows(Kind.MISSING, deal, why, facts=[why.key])

    def _wait(self, deal: DealId, now: datetime, reason: object) -> None:
        """For a bundle that holds what was heard until now."""
        self._reason[deal] = str(reason)
        self.work.again(deal)
        self._waits.begin(deal, now)
        self._behind.setdefault(deal, self.work.last(deal))

    def _check(self, deal: DealId, tree: SignedTree, note: str, now: datetime) -> None:
        data = None
        try:
            if self._bundles is not None:
                data = self._bundles.read(deal)
            judged = self._judge(deal, data, tree, note)
            reason = f"it is of the first {judged:,} entries"
        except SourceUnreachable:
            raise
        except (BundleNotReady, AuditError, LedgerError) as error:
            # Bytes that are no bundle under a head of this log are nobody's word.
            judged, reason = 0, str(error)
        if judged > self._behind.get(deal, self.work.last(deal)):
            self._waits.end(deal)
            self._behind.pop(deal, None)
            self._reason.pop(deal, None)
        if judged <= self.work.last(deal):
            self._wait(deal, now, reason)

    def _judge(self, deal: DealId, data: bytes | None, tree: SignedTree, note: str) -> int:
        """Below which entry the deal is judged, or told of as one that cannot be. Raises
        AuditError, LedgerError, BundleNotReady."""
        everything = self.work.last(deal) + 1
        if data is None:
            self._not_opened(deal)
            return everything
        shown = bundles.read(data)
        if shown.manifest.deal != deal:
            raise BundleRefused("manifest.json", f"is of the deal {shown.manifest.deal}")
        if not self._is_of_this_log(deal, shown.checkpoint, tree, note):
            return everything
        return self._audit(deal, data, shown)

    def _is_of_this_log(self, deal: DealId, shown: bytes, tree: SignedTree, note: str) -> bool:
        """Whether a bundle's head is one of the history that is followed.

        One that is newer than what this look took must go on from that, in tiles that the log
        serves, and the log from it. Raises BundleRefused where it serves none yet.
        """
        head = open_checkpoint(Note.parse(shown), self._policy.log_keys)
        try:
            if head.size <= tree.size:
                tree.consistency(head.size, head.root)
            else:
                open_tree(tree.source, head).consistency(tree.size, tree.checkpoint.root)
                self._ahead[deal] = shown
        except ConsistencyRefused as error:
            why = phrase("follow.bundle_forked", reason=error)
            self._alerts.once(Kind.FORK, deal, why, notes=[shown.decode(), note])
            return False
        except (TileMissing, TileRefused) as error:
            if head.size <= tree.size:
                raise
            problem = f"is of {head.size:,} entries, and the log does not serve as many"
            raise BundleRefused("checkpoint", problem) from error
        return True

    def _look_back(self, tree: SignedTree, note: str) -> None:
        """At heads of bundles that were newer than the log's, once it has caught up."""
        for deal, shown in list(self._ahead.items()):
            if Checkpoint.parse(Note.parse(shown).text).size <= tree.size:
                try:
                    self._is_of_this_log(deal, shown, tree, note)
                except (TileMissing, TileRefused):
                    continue  # the log is damaged, which is told where its entries are read
                del self._ahead[deal]

    def _audit(self, deal: DealId, data: bytes, shown: bundles.Bundle) -> int:
        """The size of its head."""
        size = Checkpoint.parse(Note.parse(shown.checkpoint).text).size
        try:
            with judging(deal):
                self._tell_failures(deal, data)
        except CannotJudge as error:
            # Whoever brought that about, or the defect, must not end the looking at other deals,
            # nor each later start of it; that it was not judged is told like what fails.
            why = phrase("follow.cannot_judge", cause=error.cause)
            self._alerts.once(Kind.FORGED, deal, why)
        for index in self.work.entries(deal):
            if index < size and index not in shown.entries:
                why = phrase("follow.withheld", index=index)
                self._alerts.once(Kind.MISSING, deal, why, index=index)
        if self._opener is None:
            self._not_opened(deal)
        return size

    def _tell_failures(self, deal: DealId, data: bytes) -> None:
        report = audit_deal(data, self._policy, self._roots, self._opener)
        for check in report.failed:
            self._alerts.failed_in(deal, check)
        for answer in report.answers.ran:
            self.work.plan(deal, answer.plan.job, answer.plan.finish_by)

    def _not_opened(self, deal: DealId) -> None:
        self._alerts.once(Kind.NOT_OPENED, deal, phrase("follow.not_opened"))


@dataclass
class _Watched:
    """A job whose price was held. parties: who has a part in it.

    said: how many statements, and bytes of them, of each party. started: when each holder first
    said so. planned: the deadline by its plan, where that could be read. released: whether only
    the payment is missing.
    """

    deal: DealId
    parties: frozenset[PartyId]
    said: dict[PartyId, tuple[int, int]] = field(default_factory=dict)
    started: dict[PartyId, datetime] = field(default_factory=dict)
    sealed: set[PartyId] = field(default_factory=set)
    planned: datetime | None = None
    released: bool = False

    @property
    def deadline(self) -> datetime:
        return self.planned or max(self.started.values()) + LONGEST_RUN


class Work:
    """Which deals and jobs there are, and what was said about each by those who have a part in it.
    Whatever others say of them makes nobody read a bundle, moves no deadline, and is not missed.

    Which deal a job is of, says the submission that the operator held its price for; which one a
    negotiation is of, its first step, if whoever began the deal took that. job: one whose price is
    held, as the public replay has it. owed_since: from when on that price was to be paid or given
    back, by the job and its plan's deadline, if that is known.
    """

    def __init__(
        self,
        job: Callable[[str], Job | None],
        owed_since: Callable[[Job, datetime | None], datetime | None],
    ) -> None:
        self._job = job
        self._owed_since = owed_since
        self._began: dict[DealId, PartyId] = {}
        self._negotiations: dict[str, DealId] = {}
        self._jobs: dict[str, _Watched] = {}
        self._under_way: dict[str, _Watched] = {}
        self._entries: dict[DealId, list[int]] = {}
        self._last: dict[DealId, int] = {}
        self._changed: dict[DealId, None] = {}

    def heard(self, entry: Entry, states: str, deal_of: Callable[[bytes], str]) -> None:
        """states: the deal that the statement states, if any. deal_of: the same of earlier ones."""
        if entry.subject in self._negotiations or entry.type in _BEGINNING:
            self._talks(entry, states)
        elif entry.subject in self._jobs or entry.type == HELD:
            self._works(entry, deal_of)

    def _talks(self, entry: Entry, states: str) -> None:
        deal = self._negotiations.get(entry.subject) or _deal(states)
        if deal is not None and self._began.setdefault(deal, entry.actor) == entry.actor:
            self._negotiations[entry.subject] = deal
            self._hear(deal, entry)

    def _works(self, entry: Entry, deal_of: Callable[[bytes], str]) -> None:
        job = self._job(entry.subject)
        watched = self._jobs.get(entry.subject)
        if watched is None:
            # One that the operator cannot hold is told of by the public replay.
            deal = _deal(deal_of(entry.after[0])) if job is not None and entry.after else None
            if job is None or deal is None:
                return
            parties = frozenset({entry.actor, job.consumer, *job.parties})
            watched = self._jobs[entry.subject] = _Watched(deal, parties)
            self._under_way[entry.subject] = watched
        if entry.actor not in watched.parties:
            return
        if job is None:
            self._under_way.pop(entry.subject, None)
        elif job.released:
            watched.released = True
        elif entry.type == "job.started" and entry.actor in job.started:
            watched.started.setdefault(entry.actor, entry.time)
        elif entry.type == "job.sealed":
            watched.sealed.add(entry.actor)
        count, size = watched.said.get(entry.actor, (0, 0))
        count, size = count + 1, size + len(entry.data)
        watched.said[entry.actor] = count, size
        if count <= MAX_IDLE and size <= MAX_IDLE_BYTES:
            self._entries.setdefault(watched.deal, []).append(entry.place)
        self._hear(watched.deal, entry)

    def _hear(self, deal: DealId, entry: Entry) -> None:
        self._last[deal] = entry.place
        self._changed[deal] = None

    def under_way(self) -> Iterator[tuple[str, datetime, Collection[PartyId]]]:
        """Jobs that a holder started: each with its deadline, and whose receipt is not there."""
        for subject, watched in self._under_way.items():
            if watched.started and not watched.released:
                yield subject, watched.deadline, set(watched.started) - watched.sealed

    def owed(self) -> Iterator[tuple[str, bool, datetime]]:
        """Jobs whose price the operator holds: each with whether it is released, and since when, or
        from when on, that price is owed to the holders or to the consumer."""
        for subject, watched in self._under_way.items():
            job = self._job(subject)
            since = None if job is None else self._owed_since(job, watched.planned)
            if since is not None:
                yield subject, watched.released, since

    def plan(self, deal: DealId, job: str, deadline: datetime) -> None:
        """What a deal's bundle says of its job; anybody may use the id in another deal."""
        watched = self._jobs.get(job)
        if watched is not None and watched.deal == deal:
            watched.planned = deadline

    def changed(self) -> list[DealId]:
        """Deals of which something was heard since the last call."""
        found, self._changed = list(self._changed), {}
        return found

    def again(self, deal: DealId) -> None:
        self._changed[deal] = None

    def last(self, deal: DealId) -> int:
        """The last entry that was heard about a deal; -1 without one."""
        return self._last.get(deal, -1)

    def entries(self, deal: DealId) -> Sequence[int]:
        """Entries that the deal's bundle must hold: of the parties to jobs whose price was held,
        as many as no hub leaves out."""
        return self._entries.get(deal, ())


def _deal(stated: str) -> DealId | None:
    try:
        return DealId.parse(stated)
    except CryptoError:
        return None
