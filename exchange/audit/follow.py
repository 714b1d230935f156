"""Following a log as it grows: every new head, every entry, every deal that may be read.

A Follower looks again and again. It remembers, in a State that its caller keeps, the last head
that it accepted: whatever is shown later must extend that, also after a restart. Entries are
taken from the first one on each time it starts, under a head that extends the remembered one, so
that nothing rests on what a state file says of them; an alert that was raised is not raised again.
Only what is about the moment (a forged head, a missing answer) is, if it had ended and returns.

Where an answer fails, a look ends with SourceUnreachable and accuses nobody: what was found before
is told by the next call, and the next look goes on from there.

What is public (order, keys, chains, the steps of jobs) is judged by `exchange.audit.whole`; what
is not, in `exchange.audit.watched`, from the bundles of deals.

An idle log grows no heads, and one that is withheld looks the same. So a head is stale when it has
waited for its witnesses too long; and that nothing grew for long is said as just that.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from types import MappingProxyType
from typing import Final

from crypto.digest import Digest
from crypto.identifiers import PartyId
from crypto.record import encode_time
from crypto.statement import read_statement
from exchange.audit.alerts import VERSION, Alert, Alerts, Kind, State, Waits
from exchange.audit.chains import KEY_CHANGES
from exchange.audit.errors import CannotJudge, judging
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.audit.watched import MAX_UNANSWERED, Bundles, Deals, Work
from exchange.audit.whole import Documents, Everybody, read_named
from exchange.evidence import ALARM, REGULATORS_NAMED
from exchange.jobs import SETTLED_WITHIN
from ledger.errors import (
    ConsistencyRefused,
    FormatRefused,
    LedgerError,
    QuorumMissing,
    SourceUnreachable,
    TileMissing,
)
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.heads import HEADS_PER_PAGE, parse_page
from ledger.verify.history import KINDS
from ledger.verify.log import Chunk, Entry, PastHead, Tally, Timing, Walk, read_entry
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.report import Phrase, phrase
from ledger.verify.tile_names import CHECKPOINT, heads_path
from ledger.verify.tiles import SignedTree, TileSource, open_tree

MAX_AHEAD_BYTES: Final = 32 << 20  # of party documents; those of a chunk have a few kB each
MAX_AGAIN: Final = 100  # documents that were missing and are asked for again, a look
MAX_UNHEARD: Final = 100  # parties that are told of one by one
CHUNK: Final = 1024  # entries
_LOG: Final = "log"  # what is waited for, beside deals
_DOCUMENTS: Final = "documents"


@dataclass(frozen=True)
class Limits:
    """stale: a head may wait for its quorum. quiet: the log may not grow. patience: a statement
    may be on its way into the log, and a job past its deadline."""

    stale: timedelta = timedelta(minutes=10)
    quiet: timedelta = timedelta(hours=24)
    patience: timedelta = timedelta(minutes=10)


USUAL: Final = Limits()


class Follower:
    """Looks at one log. Memory: open jobs and negotiations, and a number per entry of a deal; the
    digests of all statements are in a temporary database."""

    def __init__(
        self,
        source: TileSource,
        policy: Policy,
        roots: Roots,
        documents: Documents,
        *,
        deals: Bundles | None = None,
        opener: Opener | None = None,
        given: Mapping[Digest, bytes] = MappingProxyType({}),
        limits: Limits = USUAL,
        state: State | None = None,
    ) -> None:
        """given: entries, by digest, that were handed to somebody as being in this log."""
        self._source = source
        self._policy = policy
        self._roots = roots
        self._bundles = deals
        self._opener = opener
        self._limits = limits
        self._state = state
        self._alerts = Alerts(state)
        self._waits = Waits(state)
        self._documents = _Ahead(documents, self._waits, limits.patience)
        self._newest: PastHead | None = None  # the head that is shown, of the tree that is taken
        self._given = dict(given)
        self._known = None if state is None else _head_of(state).size
        self._said = _Said()
        self._begin()

    def _begin(self) -> None:
        """At the first entry."""
        self._said.close()
        self._said = _Said()
        self._tally = _Loud(self._alerts)
        self._ears = _Ears(self._documents, self._roots, self._tally, self)
        self._unheard: dict[PartyId, int] = {}  # since which entry nobody knows the party's key
        work = Work(self._ears.job, self._ears.owed_since)
        bundles, opener = self._bundles, self._opener
        self._deals = Deals(
            bundles, self._policy, self._roots, opener, work, self._alerts, self._waits
        )
        self._walk: Walk | None = None
        self._broken: Phrase | None = None  # at which entries the program fails
        self._heads = _Heads(self._source, self._policy)
        self._past: list[PastHead] = []  # of this history, and beyond the entries taken
        self.size = 0
        """How many entries have been taken."""

    def close(self) -> None:
        self._said.close()

    @property
    def state(self) -> State | None:
        """To be kept until the next look."""
        if self._state is None:
            return None
        raised, standing = self._alerts.raised, self._alerts.standing
        return replace(self._state, raised=raised, standing=standing, waiting=self._waits.kept)

    def look(self, now: datetime) -> list[Alert]:
        """Everything that is newly wrong. Raises SourceUnreachable; what was found is told by the
        next call of `look` or `unanswered`. One bundle that is not served keeps nothing else from
        being looked at; a document the entries behind it, and no longer than `patience`."""
        self._alerts.begin()
        self._documents.begin(now)
        try:
            away = self._look(now)
        except (SourceUnreachable, TileMissing):
            self._waits.begin(_LOG, now)
            raise
        self._waits.end(_LOG)
        if away:
            raise away[0]
        return self._alerts.told()

    def unanswered(self, now: datetime) -> list[Alert]:
        """Where a look ended without all of its answers. For as long as a head may be stale, that
        the log gives none is no alert."""
        since = self._waits.since(_LOG, now, longer_than=self._limits.stale)
        if since is not None:
            why = phrase("follow.unanswered", since=encode_time(since))
            self._alerts.shows(Kind.STALE, "log", why, facts=[why.key])
        return self._alerts.told()

    def _look(self, now: datetime) -> list[SourceUnreachable]:
        """What was not answered of documents and deals. Raises SourceUnreachable for the log."""
        away: list[SourceUnreachable] = []
        head = self._head(now)
        if head is not None:
            if self._known is None:
                self._known = head.size  # what was there before anybody looked is no change
            if self._documents.returned():
                self._begin()
            self._take(head)
        self._check_unheard()
        if self._state is not None:
            self._check_age(now)
        if head is not None and self._state is not None:
            away += self._deals.check(head, self._state.note, now)
        self._deals.tell(now, self._limits.patience)
        if self._state is None or self.size == _head_of(self._state).size:
            # Of a part of the log nobody can tell what the rest lacks.
            self._check_given(now)
            self._check_deadlines(now)  # which deals' plans say, where they may be read
            self._check_owed(now)
            self._alerts.end()
        return [*self._documents.end(), *away]

    # Heads

    def _head(self, now: datetime) -> SignedTree | None:
        """The tree of the head that is shown, if that extends the last one accepted."""
        try:
            note = self._source.read(CHECKPOINT)
        except TileMissing:
            if self._state is not None:
                self._alerts.shows(Kind.ROLLBACK, "log", phrase("follow.no_head"))
            return None
        try:
            parsed = Note.parse(note)
            head = open_checkpoint(parsed, self._policy.log_keys)
            shown = self._shown(note, head)
        except LedgerError as error:
            self._alerts.shows(Kind.FORGED, "head", phrase("reason", reason=error))
            return None
        try:
            tree = open_tree(self._source, head)
        except SourceUnreachable:
            raise
        except LedgerError as error:
            self._alerts.shows(Kind.DAMAGED, f"head {head.size}", phrase("reason", reason=error))
            return None
        text = parsed.to_bytes().decode()
        if not self._extends(tree, text):
            return None
        self._newest = shown
        self._remember(head, text, now, witnessed=shown.witnessed)
        return tree

    def _shown(self, note: bytes, head: Checkpoint) -> PastHead:
        try:
            cosigned = self._policy.check(note).cosigned
            return PastHead.of(head, Note.parse(note), cosigned, self._policy)
        except QuorumMissing:
            return PastHead(head, Note.parse(note), witnessed=False, times=None)

    def _extends(self, tree: SignedTree, note: str) -> bool:
        if self._state is None:
            return True
        last = _head_of(self._state)
        head, notes = tree.checkpoint, (self._state.note, note)
        subject = f"heads {last.size} and {head.size}"
        if head.origin != last.origin:
            why = phrase("follow.other_log", before=last.origin, now=head.origin)
            self._alerts.shows(Kind.FORK, subject, why, notes=notes)
            return False
        if head.size < last.size:
            why = phrase("follow.shrank", before=last.size, now=head.size)
            self._alerts.shows(Kind.ROLLBACK, subject, why, notes=notes)
            return False
        try:
            if last.size > 0:
                tree.consistency(last.size, last.root)
        except ConsistencyRefused as error:
            why = phrase("follow.forked", reason=error)
            self._alerts.shows(Kind.FORK, subject, why, notes=notes)
            return False
        except SourceUnreachable:
            raise
        except LedgerError as error:
            self._alerts.shows(Kind.DAMAGED, subject, phrase("reason", reason=error))
            return False
        return True

    def _remember(self, head: Checkpoint, note: str, now: datetime, *, witnessed: bool) -> None:
        before = self._state
        if before is None:
            since = None if witnessed else now
            self._state = State(VERSION, note, now, since, (), (), ())
            return
        last = _head_of(before)
        self._state = State(
            VERSION,
            note,
            now if head.size > last.size else before.grew_at,
            None if witnessed else before.unwitnessed_since or now,
            (),
            (),
            (),
        )

    def _check_age(self, now: datetime) -> None:
        state = self._state
        if state is None:
            return
        since = state.unwitnessed_since
        if since is not None and self._ears.followed is not None:
            # Of a log that grows at every moment the newest head has no quorum whenever one looks.
            since = max(since, self._ears.followed)
        if since is not None and now - since > self._limits.stale:
            why = phrase("follow.unwitnessed", since=encode_time(since))
            self._alerts.shows(Kind.STALE, "log", why, facts=[why.key])
        if now - state.grew_at > self._limits.quiet:
            why = phrase("follow.quiet", since=encode_time(state.grew_at))
            self._alerts.shows(Kind.STALE, "log", why, facts=[why.key])

    # Entries

    def _take(self, tree: SignedTree) -> None:
        """Every entry that is new, compared with the signed tree, in order; none behind those at
        which the program itself fails."""
        if self._walk is None:
            self._walk = Walk(tree, self._tally, self._ears)
        self._walk.tree = tree
        self._find_past_heads(tree)
        try:
            while self.size < tree.size and self._broken is None:
                end = min(self.size + CHUNK, tree.size)
                read = tree.entries(self.size, end)
                entries = [read_entry(index, data, {}) for index, data in read]
                if not self._documents.fetch(entries):
                    return  # the next look goes on here
                self._take_chunk(entries, end)
            if self._past and self._broken is None:  # of entries that were taken before
                self._take_chunk([], self.size)
        except SourceUnreachable:
            raise
        except CannotJudge as error:
            self._broken = phrase("follow.cannot_judge", cause=error.cause)
        except LedgerError as error:
            self._alerts.shows(
                Kind.DAMAGED, f"entries from {self.size}", phrase("reason", reason=error)
            )
        if self._broken is not None:
            self._alerts.shows(Kind.FORGED, f"entries from {self.size}", self._broken)

    def _take_chunk(self, entries: list[Entry], end: int) -> None:
        """Entries up to `end`, with the heads that lie among them and none beyond: whole, or, where
        an answer fails on the way, from the first entry again at the next look."""
        if self._walk is None:
            return
        heads = list(self._past)
        if self._newest is not None and entries:
            heads.append(self._newest)  # bounds times, whatever past heads the log leaves out
        cut = bisect_right(heads, end, key=lambda head: head.checkpoint.size)
        after = next((head for head in heads[cut:] if head.times is not None), None)
        try:
            with judging(f"entries from {self.size}"):
                self._walk.take(Chunk(entries, tuple(heads[:cut]), after, [], ""))
        except LedgerError:
            self._begin()
            raise
        del self._past[:cut]
        for entry in entries:
            self._given.pop(Digest(entry.digest), None)
        self.size = end

    def _find_past_heads(self, tree: SignedTree) -> None:
        """Keeps the heads that are new, each of the same history, by size."""
        for note in self._heads.new(tree.checkpoint, self._alerts):
            head = note.checkpoint
            try:
                tree.consistency(head.size, head.root)
                self._past.append(note)
            except SourceUnreachable:
                raise
            except ConsistencyRefused as error:
                why = phrase("follow.forked", reason=error)
                self._alerts.once(Kind.FORK, f"heads {head.size} and {tree.size}", why)
            except LedgerError as error:
                self._alerts.shows(
                    Kind.DAMAGED, f"head {head.size}", phrase("reason", reason=error)
                )

    def heard(self, entry: Entry) -> None:
        """A genuine statement: what the public replay does not keep."""
        statement = read_statement(entry.data).statement
        absent = [name for name in entry.after if not self._said.has(name)]
        if absent:
            first, count = Digest(absent[0]), f"{len(absent):,}"
            why = phrase("follow.relies", actor=entry.actor, digest=first, count=count)
            self._alerts.once(Kind.MISSING, entry.name, why, index=entry.place)
        self._said.add(entry.digest, statement.body.get("deal", ""))
        if entry.type == ALARM:
            why = phrase(
                "follow.alarm",
                actor=entry.actor,
                kind=statement.body.get("kind", ""),
                words=statement.body.get("words", ""),
            )
            self._alerts.once(
                Kind.ALARM, f"{entry.subject} in {entry.name}", why, index=entry.place
            )
        if entry.type in (*KINDS, REGULATORS_NAMED) and entry.place >= (self._known or 0):
            why = phrase("follow.changed", actor=entry.actor, kind=entry.type)
            self._alerts.once(Kind.CHANGED, entry.name, why, index=entry.place)
        self._deals.work.heard(entry, statement.body.get("deal", ""), self._said.deal_of)

    def unheard(self, entry: Entry) -> None:
        """Whoever said it, it is in the log for those that rely on it."""
        self._said.add(entry.digest, "")
        self._unheard.setdefault(entry.actor, entry.place)

    def _check_unheard(self) -> None:
        """Whoever is not judged is told of: else a document that is not served would end an audit
        of its party in silence. The operator comes first: parties that it makes up are many."""
        operator = self._ears.operator
        first = [operator] if operator in self._unheard else []
        others = (party for party in self._unheard if party != operator)
        for party in islice(chain(first, others), MAX_UNHEARD):
            why = phrase("follow.unheard", index=self._unheard[party])
            self._alerts.shows(Kind.MISSING, party, why)
        if len(self._unheard) > MAX_UNHEARD:
            self._alerts.shows(Kind.MISSING, "log", phrase("follow.more_unheard"))

    # What ought to be there

    def _check_given(self, now: datetime) -> None:
        for name, entry in list(self._given.items()):
            said = read_statement(entry).statement
            if now - said.time > self._limits.patience:
                why = phrase("follow.given", kind=said.type, about=said.subject, time=said.time)
                self._alerts.shows(Kind.MISSING, str(name), why)

    def _check_deadlines(self, now: datetime) -> None:
        for job, deadline, without in self._deals.work.under_way():
            if now - deadline > self._limits.patience:
                missing = ", ".join(sorted(without)) or "-"
                why = phrase("follow.overdue", deadline=encode_time(deadline), missing=missing)
                self._alerts.shows(Kind.OVERDUE, job, why, facts=[why.key])

    def _check_owed(self, now: datetime) -> None:
        """A hub that is down signs nothing: for a while only a head that lacks the act shows that
        it could have made it."""
        seen = self._ears.seen
        for job, released, since in self._deals.work.owed():
            silent = seen is None or seen - since <= self._limits.patience
            if silent and now - since <= SETTLED_WITHIN:
                continue
            key = "follow.unpaid" if released else "follow.unended"
            why = phrase(key, operator=self._ears.operator, since=encode_time(since))
            self._alerts.shows(Kind.OVERDUE, job, why, facts=[why.key])


def _head_of(state: State) -> Checkpoint:
    return Checkpoint.parse(Note.parse(state.note.encode()).text)


class _Loud(Tally):
    """Tells of every failure when it is found."""

    def __init__(self, alerts: Alerts) -> None:
        super().__init__()
        self._alerts = alerts

    def fails(self, check: str, subject: str, why: Phrase, *, index: int) -> None:
        super().fails(check, subject, why, index=index)
        if why.key == "party.not_served":
            return  # told of as long as it lasts, like anybody's document
        self._alerts.failed(check, subject, why, index)


class _Ears(Everybody):
    """Everybody's keys and acts, and an ear for the follower."""

    def __init__(
        self, documents: Documents, roots: Roots, tally: Tally, follower: Follower
    ) -> None:
        super().__init__(documents, roots, tally)
        self._follower = follower

    def unheard(self, entry: Entry) -> None:
        super().unheard(entry)
        self._follower.unheard(entry)

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        super().heard(entry, timing, witnessed)
        self._follower.heard(entry)


class _Ahead:
    """Party documents, read before any entry is taken that needs them: so an answer that fails
    leaves nothing taken by half.

    Entries wait for theirs as long as `patience`. Then they are taken as with any document that is
    not served, or whoever serves them would end the looking with one that is never answered.
    """

    def __init__(self, documents: Documents, waits: Waits, patience: timedelta) -> None:
        self._documents = documents
        self._waits = waits
        self._patience = patience
        self._read: dict[Digest, bytes | None] = {}
        self._missing: dict[Digest, None] = {}
        self._silent: set[Digest] = set()  # those of them that `returned` alone asks for
        self._back: set[Digest] = set()  # and those that it found to be served, at this look
        self._away: list[SourceUnreachable] = []  # at this look
        self._now = datetime.min.replace(tzinfo=UTC)

    def begin(self, now: datetime) -> None:
        self._now, self._away, self._back = now, [], set()

    def end(self) -> list[SourceUnreachable]:
        """What was not answered at this look."""
        if not self._away:
            self._waits.end(_DOCUMENTS)
        return self._away

    def fetch(self, entries: Sequence[Entry]) -> bool:
        """Those of these entries, in place of what was read for others. Whether the entries can be
        taken."""
        self._read, size = {}, 0
        for entry in entries:
            if entry.type in KEY_CHANGES and len(entry.outputs) == 1 and size < MAX_AHEAD_BYTES:
                name = Digest(entry.outputs[0])
                try:
                    self._read[name] = self._ask(name)
                except SourceUnreachable:
                    limit = self._patience
                    if self._waits.since(_DOCUMENTS, self._now, longer_than=limit) is None:
                        return False
                    self._pass_over(name)
                size += len(self._read[name] or b"")
        return True

    def read(self, name: Digest) -> bytes | None:
        if name not in self._read:  # those of its chunk are too large to be read ahead
            try:
                return self._ask(name)
            except SourceUnreachable:
                self._pass_over(name)
        return self._read[name]

    def returned(self) -> bool:
        """Whether any document that was not served is served by now. Looks at MAX_AGAIN of them,
        in turns."""
        for name in list(self._missing)[:MAX_AGAIN]:
            if len(self._away) >= MAX_UNANSWERED:
                break
            del self._missing[name]
            self._missing[name] = None  # behind the others, whatever the answer
            self._silent.discard(name)
            try:
                self._ask(name)
            except SourceUnreachable:
                self._pass_over(name)
            if name not in self._missing:
                self._back.add(name)
        return bool(self._back)

    def _ask(self, name: Digest) -> bytes | None:
        """Of those that give no answer a look asks for MAX_UNANSWERED, for each may take its time
        to fail: the others are missing until their turn comes. Raises SourceUnreachable."""
        data = None
        full = len(self._away) >= MAX_UNANSWERED
        if name in self._back or (name not in self._silent and not full):
            try:
                data = self._documents.read(name)
            except SourceUnreachable as error:
                self._away.append(error)
                self._waits.begin(_DOCUMENTS, self._now)
                raise
        if read_named(name, data) is None:
            self._missing.setdefault(name)
        else:
            self._missing.pop(name, None)
        return data

    def _pass_over(self, name: Digest) -> None:
        self._missing.setdefault(name)
        self._silent.add(name)
        self._read[name] = None


class _Heads:
    """The pages of past heads, each note once."""

    def __init__(self, source: TileSource, policy: Policy) -> None:
        self._source = source
        self._policy = policy
        self._page = 0
        self._taken = 0
        self._last = 0

    def new(self, head: Checkpoint, alerts: Alerts) -> Iterator[PastHead]:
        """Those of at most the size of `head`, by size. One that nobody signed is an alert."""
        while True:
            try:
                notes = parse_page(self._source.read(heads_path(self._page)))
                for data in notes[self._taken :]:
                    parsed = Note.parse(data)
                    checkpoint = open_checkpoint(parsed, self._policy.log_keys)
                    cosigned = self._policy.cosigned_by(parsed)
                    if not self._last < checkpoint.size:
                        # A server that repeats heads could show one page after another for ever.
                        problem = f"has size {checkpoint.size} after size {self._last}"
                        raise FormatRefused("heads", problem)
                    if checkpoint.size > head.size:
                        return
                    yield PastHead.of(checkpoint, parsed, cosigned, self._policy)
                    # Only now: whoever could not look at it is shown it again.
                    self._taken += 1
                    self._last = checkpoint.size
            except TileMissing:
                return
            except SourceUnreachable:
                raise
            except LedgerError as error:
                subject = f"head after size {self._last}"
                alerts.shows(Kind.FORGED, subject, phrase("reason", reason=error))
                return
            if len(notes) < HEADS_PER_PAGE:
                return
            self._page, self._taken = self._page + 1, 0


class _Said:
    """The digests of all statements, and which deal each states, on disk, so that memory does not
    grow with the log."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(
            "CREATE TABLE said (digest BLOB PRIMARY KEY, deal TEXT) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def add(self, digest: bytes, deal: str) -> None:
        self._database.execute("INSERT OR IGNORE INTO said VALUES (?, ?)", (digest, deal))

    def deal_of(self, digest: bytes) -> str:
        """The deal that a statement states; "" without one."""
        asked = "SELECT deal FROM said WHERE digest = ?"
        found = self._database.execute(asked, (digest,)).fetchone()
        return "" if found is None else str(found[0])

    def has(self, digest: bytes) -> bool:
        found = self._database.execute("SELECT 1 FROM said WHERE digest = ?", (digest,))
        return found.fetchone() is not None

    def close(self) -> None:
        self._database.close()
