"""Following a log as it grows: every new head, every entry, every deal that may be read.

A Follower looks again and again. It remembers, in a State that its caller keeps, the last head
that it accepted: whatever is shown later must extend that, also after a restart. Entries are
taken from the first one on each time it starts, under a head that extends the remembered one, so
that nothing rests on what a state file says of them; an alert that was raised is not raised again.
Only what is about the moment (a forged head, a missing answer) is, if it had ended and returns.

Where an answer fails, a look ends with SourceUnreachable and accuses nobody: what was found before
is told by the next call, and the next look goes on from there.

What is public (order, keys, chains, the steps of jobs) is judged by `exchange.audit.whole`. What
is not (terms, budgets, counts, amounts) is judged from the bundles of deals, as far as this
reader is given any; of every other deal it says once that it was not opened.

An idle log grows no heads, and one that is withheld looks the same. So a head is stale when it has
waited for its witnesses too long; and that nothing grew for long is said as just that.
"""

from __future__ import annotations

import json
import os
import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from crypto import record
from crypto.digest import Digest, digest
from crypto.errors import CryptoError
from crypto.identifiers import DealId, PartyId
from crypto.record import encode_time
from crypto.statement import Statement, read_statement
from exchange.audit import bundle as bundles
from exchange.audit.chains import KEY_CHANGES
from exchange.audit.deal import audit_deal
from exchange.audit.errors import AuditError, StateRefused
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.audit.whole import Documents, Everybody
from exchange.errors import BundleNotReady
from exchange.evidence import ALARM
from exchange.query.explanation import Language
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
from ledger.verify.report import Check, Phrase, phrase
from ledger.verify.tile_names import CHECKPOINT, heads_path
from ledger.verify.tiles import SignedTree, TileSource, open_tree
from pricing.evidence import HELD, REFUNDED

VERSION: Final = 1
MAX_STATE_BYTES: Final = 16 << 20
MAX_RAISED: Final = 400_000  # keys that a state holds, of 35 bytes each: what was saved is read
KEY_BYTES: Final = 16
MAX_AHEAD_BYTES: Final = 32 << 20  # of party documents; those of a chunk have a few kB each
CHUNK: Final = 1024  # entries
# As long as a plan may let a run take (`Plan.run_seconds`), and the hub wait for it after that.
LONGEST_RUN: Final = timedelta(seconds=86_400 + 30)
GRACE: Final = timedelta(seconds=30)


class Kind(StrEnum):
    """What an alert is about; whoever is alerted does something else for each."""

    FORK = "fork"  # two heads that contradict each other: publish both, stop believing the log
    ROLLBACK = "rollback"  # a smaller head than before: a restored backup, or a lagging cache
    STALE = "stale"  # no quorum for too long, or no growth
    MISSING = "missing"  # what ought to be in the log is not
    OVERDUE = "overdue"  # a job is past its deadline without receipts or an end
    BUDGET = "budget"  # runs or epsilon beyond what was agreed, or miscounted
    UNAUTHORISED = "unauthorised"  # a step of a deal or job that nothing before it allows
    MONEY = "money"  # a movement that does not follow, or of another amount
    FORGED = "forged"  # a signature, document or entry that is not what it should be
    CHAIN = "chain"  # an actor's statements left out, twice or out of order
    TIME = "time"  # a time that the witnesses contradict
    DAMAGED = "damaged"  # files of the log are gone or altered
    ALARM = "alarm"  # a participant raised one
    CHANGED = "changed"  # the log declared other keys or another policy: do you follow it there?
    NOT_OPENED = "not_opened"  # no alert: what this reader could not judge


_OF_CHECK: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "log.tiles": Kind.DAMAGED,
        "log.heads": Kind.FORK,
        "log.head": Kind.FORGED,
        "log.keys": Kind.FORGED,
        "log.consistent": Kind.FORK,
        "entry.readable": Kind.FORGED,
        "entry.signed": Kind.FORGED,
        "entry.logged": Kind.FORGED,
        "entry.time": Kind.TIME,
        "entry.after": Kind.MISSING,
        "actor.chain": Kind.CHAIN,
        "party.document": Kind.FORGED,
        "party.trusted": Kind.FORGED,
        "bundle.entries": Kind.FORGED,
        "bundle.documents": Kind.FORGED,
        "agreement.runs": Kind.BUDGET,
        "product.privacy": Kind.BUDGET,
        "receipt.opened": Kind.BUDGET,
        "job.receipt": Kind.MISSING,
        "money.held": Kind.MONEY,
        "money.settled": Kind.MONEY,
        "money.amounts": Kind.MONEY,
    }
)


@dataclass(frozen=True)
class Limits:
    """stale: a head may wait for its quorum. quiet: the log may not grow. patience: a statement
    may be on its way into the log, and a job past its deadline."""

    stale: timedelta = timedelta(minutes=10)
    quiet: timedelta = timedelta(hours=24)
    patience: timedelta = timedelta(minutes=10)


USUAL: Final = Limits()


@dataclass(frozen=True)
class Alert:
    """words: in both languages. index: of the entry it is about. notes: signed notes that prove it
    to anybody. key: the same for the same finding, however often it is found, and another where
    any of its facts differs: a digest, in hexadecimal."""

    kind: Kind
    subject: str
    words: Mapping[Language, str]
    key: str
    index: int | None = None
    notes: tuple[str, ...] = ()

    def to_value(self, language: Language, now: datetime) -> dict[str, object]:
        return {
            "time": encode_time(now),
            "kind": self.kind.value,
            "subject": self.subject,
            "index": self.index,
            "words": self.words[language],
            "notes": list(self.notes),
        }

    def to_text(self, language: Language, now: datetime) -> str:
        """One line."""
        return (
            f"{encode_time(now)} {self.kind.value.upper()} [{self.subject}] {self.words[language]}"
        )


@dataclass(frozen=True)
class State:
    """What outlives the follower. note: the last head it accepted. grew_at, unwitnessed_since: by
    this follower's clock. raised: keys of alerts, the newest MAX_RAISED. standing: keys of those
    about what was shown at the last look, which are forgotten when it is over."""

    v: int
    note: str
    grew_at: datetime
    unwitnessed_since: datetime | None
    raised: tuple[str, ...]
    standing: tuple[str, ...]


class Bundles(Protocol):
    """Where this reader gets the evidence of a deal."""

    def read(self, deal: DealId) -> bytes | None:
        """The deal's bundle as of now; None where this reader is given none. Raises
        BundleNotReady where there will be one in a moment."""
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


def load_state(path: Path) -> State | None:
    """What an earlier follower left; None before the first. Raises StateRefused."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        state = record.from_bytes(State, data)
    except CryptoError as error:
        raise StateRefused(str(path), str(error)) from None
    if state.v != VERSION:
        raise StateRefused(str(path), f"v is {state.v}; this version reads {VERSION}")
    return state


def save_state(path: Path, state: State) -> None:
    """Whole or not at all: a crash leaves what was there before."""
    beside = path.with_name(path.name + ".new")
    with beside.open("wb") as file:
        file.write(record.to_bytes(state))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


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
        self._deals = deals
        self._opener = opener
        self._limits = limits
        self._state = state
        self._raised = dict.fromkeys(() if state is None else state.raised)
        self._standing = dict.fromkeys(() if state is None else state.standing)
        self._now_so: set[str] = set()  # keys of what this look found to be shown
        self._new: list[Alert] = []
        self._documents = _Ahead(documents)
        self._newest: PastHead | None = None  # the head that is shown, of the tree that is taken
        self._given = dict(given)
        self._known = None if state is None else _head_of(state).size
        self._said = _Said()
        self._begin()

    def _begin(self) -> None:
        """At the first entry."""
        self._said.close()
        self._said = _Said()
        self._work = _Work()
        self._tally = _Loud(self)
        self._ears = _Ears(self._documents, self._roots, self._tally, self)
        self._walk: Walk | None = None
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
        raised = tuple(self._raised)[-MAX_RAISED:]
        return replace(self._state, raised=raised, standing=tuple(self._standing))

    def look(self, now: datetime) -> list[Alert]:
        """Everything that is newly wrong. Raises SourceUnreachable; what was found before it is
        told by the next call of `look` or `unanswered`."""
        self._now_so = set()
        head = self._head(now)
        if head is not None:
            if self._known is None:
                self._known = head.size  # what was there before anybody looked is no change
            self._take(head)
        if self._state is not None:
            self._check_age(now)
        if head is not None:
            self._check_deals(head)
        if self._state is None or self.size == _head_of(self._state).size:
            # Of a part of the log nobody can tell what the rest lacks.
            self._check_given(now)
            self._check_deadlines(now)  # which deals' plans say, where they may be read
        # What is over is forgotten: when it comes again, it is told again.
        self._standing = {key: None for key in self._standing if key in self._now_so}
        return self._told()

    def unanswered(self, since: datetime, now: datetime) -> list[Alert]:
        """The log has given no answer since; for as long as a head may be stale, that is no
        alert."""
        if now - since > self._limits.stale:
            why = phrase("follow.unanswered", since=encode_time(since))
            self.shows(Kind.STALE, "log", why)
        return self._told()

    def _told(self) -> list[Alert]:
        found, self._new = self._new, []
        return found

    def alert(
        self,
        kind: Kind,
        subject: str,
        why: Phrase,
        *,
        index: int | None = None,
        notes: Sequence[str] = (),
        check: str = "",
    ) -> None:
        """What stays so: it is in the log, or somebody signed it. Told once."""
        self._raise(_alert(kind, subject, why, [check, *_facts(why)], index, notes))

    def _raise(self, found: Alert) -> None:
        if found.key not in self._raised:
            self._raised[found.key] = None
            self._new.append(found)

    def shows(
        self,
        kind: Kind,
        subject: str,
        why: Phrase,
        *,
        notes: Sequence[str] = (),
        facts: Sequence[object] | None = None,
    ) -> None:
        """What is so at this look, and may be over at the next. Told when it begins.

        facts: what it is known by, where the facts of `why` change while it lasts.
        """
        found = _alert(kind, subject, why, _facts(why) if facts is None else facts, None, notes)
        self._now_so.add(found.key)
        if found.key not in self._standing:
            self._standing[found.key] = None
            self._new.append(found)

    # Heads

    def _head(self, now: datetime) -> SignedTree | None:
        """The tree of the head that is shown, if that extends the last one accepted."""
        try:
            note = self._source.read(CHECKPOINT)
        except TileMissing:
            if self._state is not None:
                self.shows(Kind.ROLLBACK, "log", phrase("follow.no_head"))
            return None
        try:
            parsed = Note.parse(note)
            head = open_checkpoint(parsed, self._policy.log_keys)
            shown = self._shown(note, head)
        except LedgerError as error:
            self.shows(Kind.FORGED, "head", phrase("reason", reason=error))
            return None
        try:
            tree = open_tree(self._source, head)
        except SourceUnreachable:
            raise
        except LedgerError as error:
            self.shows(Kind.DAMAGED, f"head {head.size}", phrase("reason", reason=error))
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
            return PastHead(head, Note.parse(note), witnessed=False, time=None)

    def _extends(self, tree: SignedTree, note: str) -> bool:
        if self._state is None:
            return True
        last = _head_of(self._state)
        head, notes = tree.checkpoint, (self._state.note, note)
        subject = f"heads {last.size} and {head.size}"
        if head.origin != last.origin:
            why = phrase("follow.other_log", before=last.origin, now=head.origin)
            self.shows(Kind.FORK, subject, why, notes=notes)
            return False
        if head.size < last.size:
            why = phrase("follow.shrank", before=last.size, now=head.size)
            self.shows(Kind.ROLLBACK, subject, why, notes=notes)
            return False
        try:
            if last.size > 0:
                tree.consistency(last.size, last.root)
        except ConsistencyRefused as error:
            why = phrase("follow.forked", reason=error)
            self.shows(Kind.FORK, subject, why, notes=notes)
            return False
        except SourceUnreachable:
            raise
        except LedgerError as error:
            self.shows(Kind.DAMAGED, subject, phrase("reason", reason=error))
            return False
        return True

    def _remember(self, head: Checkpoint, note: str, now: datetime, *, witnessed: bool) -> None:
        before = self._state
        if before is None:
            since = None if witnessed else now
            self._state = State(VERSION, note, now, since, (), ())
            return
        last = _head_of(before)
        self._state = State(
            VERSION,
            note,
            now if head.size > last.size else before.grew_at,
            None if witnessed else before.unwitnessed_since or now,
            (),
            (),
        )

    def _check_age(self, now: datetime) -> None:
        state = self._state
        if state is None:
            return
        size = _head_of(state).size
        since = state.unwitnessed_since
        if since is not None and now - since > self._limits.stale:
            why = phrase("follow.unwitnessed", since=encode_time(since))
            self.shows(Kind.STALE, f"head {size}", why, facts=[why.key])
        if now - state.grew_at > self._limits.quiet:
            why = phrase("follow.quiet", since=encode_time(state.grew_at))
            self.shows(Kind.STALE, f"head {size}", why, facts=[why.key])

    # Entries

    def _take(self, tree: SignedTree) -> None:
        """Every entry that is new, compared with the signed tree, in order."""
        if self._walk is None:
            self._walk = Walk(tree, self._tally, self._ears)
        self._walk.tree = tree
        self._find_past_heads(tree)
        try:
            while self.size < tree.size:
                end = min(self.size + CHUNK, tree.size)
                read = tree.entries(self.size, end)
                self._take_chunk([read_entry(index, data, {}) for index, data in read], end)
        except SourceUnreachable:
            raise
        except LedgerError as error:
            self.shows(Kind.DAMAGED, f"entries from {self.size}", phrase("reason", reason=error))
            return
        if self._past:  # of entries that were taken before
            self._take_chunk([], self.size)

    def _take_chunk(self, entries: list[Entry], end: int) -> None:
        """Entries up to `end`, with the heads that lie among them and none beyond: whole, or, where
        an answer fails on the way, from the first entry again at the next look."""
        if self._walk is None:
            return
        self._documents.fetch(entries)
        heads = list(self._past)
        if self._newest is not None and entries:
            heads.append(self._newest)  # bounds times, whatever past heads the log leaves out
        cut = bisect_right(heads, end, key=lambda head: head.checkpoint.size)
        after = next((head for head in heads[cut:] if head.time is not None), None)
        try:
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
        for note in self._heads.new(tree.checkpoint, self):
            head = note.checkpoint
            try:
                tree.consistency(head.size, head.root)
                self._past.append(note)
            except SourceUnreachable:
                raise
            except ConsistencyRefused as error:
                why = phrase("follow.forked", reason=error)
                self.alert(Kind.FORK, f"heads {head.size} and {tree.size}", why)
            except LedgerError as error:
                self.shows(Kind.DAMAGED, f"head {head.size}", phrase("reason", reason=error))

    def heard(self, entry: Entry) -> None:
        """A genuine statement: what the public replay does not keep."""
        statement = read_statement(entry.data).statement
        for name in entry.after:
            if not self._said.has(name):
                why = phrase("follow.relies", actor=entry.actor, digest=Digest(name))
                self.alert(Kind.MISSING, entry.name, why, index=entry.place)
        self.logged(entry)
        if entry.type == ALARM:
            why = phrase(
                "follow.alarm",
                actor=entry.actor,
                kind=statement.body.get("kind", ""),
                words=statement.body.get("words", ""),
            )
            self.alert(Kind.ALARM, f"{entry.subject} in {entry.name}", why, index=entry.place)
        if entry.type in KINDS and entry.place >= (self._known or 0):
            why = phrase("follow.changed", actor=entry.actor, kind=entry.type)
            self.alert(Kind.CHANGED, entry.name, why, index=entry.place)
        self._work.heard(entry, statement)

    def logged(self, entry: Entry) -> None:
        """It is in the log, whoever said it, for those that rely on it."""
        self._said.add(entry.digest)

    def failed(self, check: str, subject: str, why: Phrase, index: int) -> None:
        kind = _OF_CHECK.get(check, Kind.UNAUTHORISED)
        self.alert(kind, subject, why, index=index, check=check)

    # What ought to be there

    def _check_given(self, now: datetime) -> None:
        for name, entry in list(self._given.items()):
            said = read_statement(entry).statement
            if now - said.time > self._limits.patience:
                why = phrase("follow.given", kind=said.type, about=said.subject, time=said.time)
                self.shows(Kind.MISSING, str(name), why)

    def _check_deadlines(self, now: datetime) -> None:
        for job, run in self._work.running():
            if now - run.deadline > self._limits.patience:
                missing = ", ".join(sorted(set(run.started) - run.sealed)) or "-"
                why = phrase("follow.overdue", deadline=encode_time(run.deadline), missing=missing)
                self.shows(Kind.OVERDUE, job, why, facts=[why.key])

    # Deals

    def _check_deals(self, tree: SignedTree) -> None:
        changed = self._work.changed()
        for at, deal in enumerate(changed):
            try:
                self._check_deal(deal, tree)
            except SourceUnreachable:
                for left in changed[at:]:
                    self._work.again(left)
                raise

    def _check_deal(self, deal: DealId, tree: SignedTree) -> None:
        try:
            data = None if self._deals is None else self._deals.read(deal)
        except BundleNotReady:
            self._work.again(deal)
            return
        if data is None:
            self._not_opened(deal)
            return
        try:
            shown = bundles.read(data)
            if self._is_of_this_log(deal, shown, tree):
                self._audit(deal, data, shown, tree)
        except SourceUnreachable:
            raise
        except (AuditError, LedgerError) as error:
            why = phrase("follow.bundle", reason=error)
            self.alert(Kind.FORGED, deal, why, check=str(digest(data)))

    def _is_of_this_log(self, deal: DealId, shown: bundles.Bundle, tree: SignedTree) -> bool:
        """Whether the bundle's head is one of the history that is followed. One that is newer is
        for the next look."""
        head = open_checkpoint(Note.parse(shown.checkpoint), self._policy.log_keys)
        if head.size > tree.size:
            self._work.again(deal)
            return False
        try:
            tree.consistency(head.size, head.root)
        except ConsistencyRefused as error:
            why = phrase("follow.bundle_forked", reason=error)
            notes = [shown.checkpoint.decode(), "" if self._state is None else self._state.note]
            self.alert(Kind.FORK, deal, why, notes=notes)
            return False
        return True

    def _audit(self, deal: DealId, data: bytes, shown: bundles.Bundle, tree: SignedTree) -> None:
        report = audit_deal(data, self._policy, self._roots, self._opener)
        if report.answers.deal != deal:
            self.alert(Kind.FORGED, deal, phrase("follow.other_deal", deal=report.answers.deal))
            return
        for check in report.failed:
            self._deal_check(deal, check)
        size = open_checkpoint(Note.parse(shown.checkpoint), self._policy.log_keys).size
        for index in self._work.entries(deal):
            if index < size and index not in shown.entries:
                why = phrase("follow.withheld", index=index)
                self.alert(Kind.MISSING, deal, why, index=index)
        if any(index >= size for index in self._work.entries(deal)):
            self._work.again(deal)  # the bundle is older than what was heard
        for answer in report.answers.ran:
            limit = timedelta(seconds=answer.plan.run_seconds) + GRACE
            self._work.plan(answer.plan.job, answer.plan.run_by + limit)
        if self._opener is None:
            self._not_opened(deal)

    def _deal_check(self, deal: DealId, check: Check) -> None:
        kind = _OF_CHECK.get(check.id, Kind.UNAUTHORISED)
        words = {
            language: f"{check.subject}: {check.words(VOICES[language])}" for language in Language
        }
        facts = [check.id, check.subject, *(_facts(check.note) if check.note else ())]
        self._raise(Alert(kind, deal, words, _key(kind, deal, facts)))

    def _not_opened(self, deal: DealId) -> None:
        self.alert(Kind.NOT_OPENED, deal, phrase("follow.not_opened"))


def _head_of(state: State) -> Checkpoint:
    return Checkpoint.parse(Note.parse(state.note.encode()).text)


def _alert(
    kind: Kind,
    subject: str,
    why: Phrase,
    facts: Sequence[object],
    index: int | None,
    notes: Sequence[str],
) -> Alert:
    words = {language: why.text(VOICES[language]) for language in Language}
    return Alert(kind, subject, words, _key(kind, subject, facts), index, tuple(notes))


def _key(kind: Kind, subject: str, facts: Sequence[object]) -> str:
    """Short, for there is one for each deal that was not opened."""
    said = json.dumps([kind.value, subject, *facts]).encode()
    return digest(said).raw[:KEY_BYTES].hex()


def _facts(why: Phrase) -> list[object]:
    return [
        why.key,
        *(
            [name, _facts(fact) if isinstance(fact, Phrase) else fact]
            for name, fact in sorted(why.facts.items())
        ),
    ]


class _Loud(Tally):
    """Tells of every failure when it is found."""

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self._follower = follower

    def fails(self, check: str, subject: str, why: Phrase, *, index: int) -> None:
        super().fails(check, subject, why, index=index)
        self._follower.failed(check, subject, why, index)


class _Ears(Everybody):
    """Everybody's keys and acts, and an ear for the follower."""

    def __init__(
        self, documents: Documents, roots: Roots, tally: Tally, follower: Follower
    ) -> None:
        super().__init__(documents, roots, tally)
        self._follower = follower

    def unheard(self, entry: Entry) -> None:
        super().unheard(entry)
        self._follower.logged(entry)

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        super().heard(entry, timing, witnessed)
        self._follower.heard(entry)


class _Ahead:
    """Party documents, read before any entry is taken that needs them: so an answer that fails
    leaves nothing taken by half."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._read: dict[Digest, bytes | None] = {}

    def fetch(self, entries: Sequence[Entry]) -> None:
        """Those of these entries, in place of what was read for others."""
        self._read, size = {}, 0
        for entry in entries:
            if entry.type in KEY_CHANGES and len(entry.outputs) == 1 and size < MAX_AHEAD_BYTES:
                name = Digest(entry.outputs[0])
                data = self._read[name] = self._documents.read(name)
                size += len(data or b"")

    def read(self, name: Digest) -> bytes | None:
        return self._read[name] if name in self._read else self._documents.read(name)


class _Heads:
    """The pages of past heads, each note once."""

    def __init__(self, source: TileSource, policy: Policy) -> None:
        self._source = source
        self._policy = policy
        self._page = 0
        self._taken = 0
        self._last = 0

    def new(self, head: Checkpoint, follower: Follower) -> Iterator[PastHead]:
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
                follower.shows(Kind.FORGED, subject, phrase("reason", reason=error))
                return
            if len(notes) < HEADS_PER_PAGE:
                return
            self._page, self._taken = self._page + 1, 0


@dataclass
class _Run:
    """A job under way. started: when each says that it began. deadline: as far as is known."""

    holder_of_money: PartyId
    started: dict[PartyId, datetime] = field(default_factory=dict)
    sealed: set[PartyId] = field(default_factory=set)
    planned: datetime | None = None

    @property
    def deadline(self) -> datetime:
        return self.planned or max(self.started.values()) + LONGEST_RUN


class _Work:
    """Which deals and jobs there are, and what was said about each."""

    def __init__(self) -> None:
        self._deal_of: dict[str, DealId] = {}
        self._entries: dict[str, list[int]] = {}  # by subject
        self._subjects: dict[DealId, list[str]] = {}
        self._taken_in: set[str] = set()  # subjects that the hub surely keeps
        self._runs: dict[str, _Run] = {}
        self._planned: dict[str, datetime] = {}
        self._changed: dict[DealId, None] = {}

    def heard(self, entry: Entry, statement: Statement) -> None:
        subject = entry.subject
        if subject not in self._deal_of and "deal" in statement.body:
            with suppress(CryptoError):
                deal = DealId.parse(statement.body["deal"])
                self._deal_of[subject] = deal
                self._subjects.setdefault(deal, []).append(subject)
        self._run(entry)
        known = self._deal_of.get(subject)
        if known is not None:
            self._entries.setdefault(subject, []).append(entry.place)
            self._changed[known] = None

    def _run(self, entry: Entry) -> None:
        subject = entry.subject
        if entry.type == HELD:
            self._taken_in.add(subject)
            self._runs.setdefault(subject, _Run(entry.actor, planned=self._planned.get(subject)))
        run = self._runs.get(subject)
        if run is None:
            return
        if entry.type == "job.started":
            run.started[entry.actor] = entry.time
        elif entry.type == "job.sealed":
            run.sealed.add(entry.actor)
        elif entry.type in ("job.released", REFUNDED) and entry.actor == run.holder_of_money:
            del self._runs[subject]  # its end, in one transaction with the refund, or its result

    def running(self) -> Iterator[tuple[str, _Run]]:
        return ((subject, run) for subject, run in self._runs.items() if run.started)

    def plan(self, job: str, deadline: datetime) -> None:
        self._planned[job] = deadline
        if job in self._runs:
            self._runs[job].planned = deadline

    def changed(self) -> list[DealId]:
        """Deals of which something was heard since the last call."""
        found, self._changed = list(self._changed), {}
        return found

    def again(self, deal: DealId) -> None:
        self._changed[deal] = None

    def entries(self, deal: DealId) -> list[int]:
        """Entries that the deal's bundle must hold: about jobs for which the operator held the
        price. What strangers say of a deal that is not theirs, the hub leaves out."""
        return [
            index
            for subject in self._subjects.get(deal, ())
            if subject in self._taken_in
            for index in self._entries.get(subject, ())
        ]


class _Said:
    """The digests of all statements, on disk, so that memory does not grow with the log."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE said (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, digest: bytes) -> None:
        self._database.execute("INSERT OR IGNORE INTO said VALUES (?)", (digest,))

    def has(self, digest: bytes) -> bool:
        found = self._database.execute("SELECT 1 FROM said WHERE digest = ?", (digest,))
        return found.fetchone() is not None

    def close(self) -> None:
        self._database.close()
