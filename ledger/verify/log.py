"""The audit of a whole log: every tile, every entry, every actor's chain, every time.

The walk goes from the first entry to the last and keeps nothing that it has passed. What grows is
one record per actor, and what a Reader keeps; not anything with the number of entries. Worker
processes read tiles, compare hashes, parse statements and verify signatures, a few bundles at a
time; what depends on order happens here, in order.

Whose key signed, and what a statement means, is not this package's business: a Reader says so, and
without one signatures stay unopened.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

from crypto import record
from crypto.envelope import Envelope, pre_authentication_encoding
from crypto.errors import BadSignature, CryptoError, Malformed
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from crypto.statement import PAYLOAD_TYPE, Statement
from ledger.errors import ConsistencyRefused, FormatRefused, LedgerError, QuorumMissing
from ledger.tree import Node
from ledger.verify.chain import Problem, Times
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.declared import DeclaredKeys
from ledger.verify.heads import read_heads
from ledger.verify.history import KINDS
from ledger.verify.merkle import EMPTY_ROOT, HASH_BYTES
from ledger.verify.note import Note
from ledger.verify.policy import CheckedCheckpoint, Policy
from ledger.verify.receipt import quorum_times
from ledger.verify.report import Check, Phrase, Report, phrase
from ledger.verify.tile_names import CHECKPOINT, TILE_WIDTH
from ledger.verify.tiles import FolderSource, HttpSource, SignedTree, TileSource, open_tree

NOT_PROVED = (
    "not_proved.signature",
    "not_proved.truth",
    "not_proved.other_heads",
    "not_proved.outside",
)

T = TypeVar("T")
Read = tuple[list[tuple[object, ...]], list[tuple[int, str]], str]
"""What a worker makes of a task: the fields of entries, heads of another tree with the reason, and
why it ended early, or "". Of built-in types: an exception of ours does not travel between
processes, and a plain tuple does in half the time of an Entry."""

# Clocks differ. By its own, a hub takes statements up to ten minutes old or ahead, and keeps no
# witness's line that is more than four off; a head waits up to a minute for its lines. So a time
# that is further than this from the witnessed heads beside it had no effect there. The words of
# `entry.time` state this number.
TOLERANCE: Final = timedelta(minutes=15)
MAX_NAMED: Final = 20  # failures of one kind that are named one by one; the rest is counted
CHUNK: Final = 4  # bundles that a worker reads at once: 1,024 entries
SMALL: Final = 4096  # entries; a smaller log is audited sooner without other processes


class Entry(NamedTuple):
    """One entry as a worker read it. Digests are raw.

    place:   its index in the log.
    problem: why it is no statement, or "" if it is one; then all else is of the statement.
    signed:  whether the key with this key_id signed it; None if that key was not known yet.
    data:    the entry's bytes, where `signed` is None, and where the log may speak of its keys.
    """

    place: int
    digest: bytes
    problem: str = ""
    seq: int = 0
    prev: bytes | None = None
    time: datetime = datetime.min.replace(tzinfo=UTC)
    type: str = ""
    subject: str = ""
    after: tuple[bytes, ...] = ()
    policy: bytes | None = None
    inputs: tuple[bytes, ...] = ()
    outputs: tuple[bytes, ...] = ()
    key_id: str = ""
    signed: bool | None = None
    data: bytes = b""
    actor: PartyId = PartyId("")

    @property
    def name(self) -> str:
        """How a check names it."""
        return f"entry {self.place} {self.type}".rstrip()


class Timing(Enum):
    """What the witnessed heads beside an entry say of the time that it states."""

    FITS = "fits"
    LATE = "late"  # was not in the log when a later time than it states was witnessed
    PERHAPS = "perhaps"  # old when it arrived, as far as the heads around it can tell
    EARLY = "early"  # was in the log before the time that it states
    OPEN = "open"  # no witnessed head bounds it from one side or the other


# The hub logs a participant's statement that is more than ten minutes old when it arrives, without
# effect: a node that could not reach the hub is not to be stuck for good. Whose time is no further
# than this before a witnessed head that holds it was not, whatever clocks the hub could believe.
LATE_AFTER: Final = timedelta(minutes=6)


@dataclass
class Tally:
    """What was found, counted: a million checks of one kind are one line of the report."""

    passed: dict[str, int] = field(default_factory=dict)
    open: dict[str, list[tuple[str, Phrase | None]]] = field(default_factory=dict)
    failed: dict[str, list[tuple[str, Phrase]]] = field(default_factory=dict)
    counts: dict[tuple[str, bool | None], int] = field(default_factory=dict)
    first: tuple[int, str, str, Phrase] | None = None

    def passes(self, check: str, count: int = 1) -> None:
        self.passed[check] = self.passed.get(check, 0) + count

    def unopened(self, check: str, subject: str, why: Phrase) -> None:
        self._keep(self.open.setdefault(check, []), (check, None), (subject, why))

    def fails(self, check: str, subject: str, why: Phrase, *, index: int) -> None:
        """index: of the entry that does not follow; the lowest is the one the report opens with."""
        self._keep(self.failed.setdefault(check, []), (check, False), (subject, why))
        if self.first is None or index < self.first[0]:
            self.first = (index, check, subject, why)

    def names_more(self, check: str) -> bool:
        """Whether one more failure of this check would be named, or only counted."""
        return len(self.failed.get(check, ())) < MAX_NAMED

    def _keep(self, kept: list[T], what: tuple[str, bool | None], one: T) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        if len(kept) < MAX_NAMED:
            kept.append(one)

    def checks(self) -> list[Check]:
        found = [
            Check(check, True, "log", phrase("counted", count=f"{count:,}"))
            for check, count in self.passed.items()
        ]
        for passed, kinds in ((None, self.open), (False, self.failed)):
            for check, named in kinds.items():
                found += [Check(check, passed, subject, why) for subject, why in named]
                more = self.counts[check, passed] - len(named)
                if more:
                    note = phrase("and_more", count=f"{more:,}")
                    found.append(Check(check, passed, "log", note))
        return found


class Reader(Protocol):
    """Who understands statements: knows their actors' keys and what follows from what."""

    def key(self, entry: Entry) -> PublicKey | None:
        """The key that must have signed, or None where no document at hand gives one.

        Called for every statement once, in the order of the log.
        """
        ...

    def new_keys(self) -> Sequence[tuple[PartyId, PublicKey]]:
        """Keys that became known since the last call."""
        ...

    def unheard(self, entry: Entry) -> None:
        """A statement in its order of which nobody can tell who signed it: anybody may have."""
        ...

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        """A statement in its order, signed by its actor.

        What it means that one is LATE is for the reader to say, and to count as `entry.time`.
        witnessed: the largest witnessed size that is not above its index.
        """
        ...

    def witnessed(self, size: int, times: Times) -> None:
        """A head of which a quorum stated the time, behind the last entry that it holds."""
        ...

    def finish(self) -> None: ...


@dataclass(frozen=True)
class PastHead:
    """A head that the log signed. note: as it was shown.

    witnessed: whether it has the policy's quorum. times: when that saw it; None without one,
    and where the policy asks for no witness and none stated a time.
    """

    checkpoint: Checkpoint
    note: Note
    witnessed: bool
    times: Times | None

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, note: Note, cosigned: Mapping[str, datetime], policy: Policy
    ) -> PastHead:
        """cosigned: when, by the policy's witness names (`Policy.cosigned_by`)."""
        times = quorum_times(CheckedCheckpoint(checkpoint, cosigned), policy)
        return cls(checkpoint, note, policy.met_by(cosigned), times)


def open_source(place: str) -> TileSource:
    """A log's files: an http or https address, or a folder."""
    if place.startswith(("http://", "https://")):
        return HttpSource(place)
    return FolderSource(Path(place))


def audit_log(
    place: str,
    policy: Policy,
    *,
    tally: Tally | None = None,
    reader: Reader | None = None,
    workers: int | None = None,
) -> tuple[dict[str, object], Tally]:
    """Walk through the whole log at `place`, an address or a folder, up to its checkpoint.

    tally: where a reader of the same audit counts. workers: processes beside this one; as many as
    there are processors unless stated, and none for a small log.
    Returns what was audited, for the report, and everything found.
    Raises SourceUnreachable and TileMissing where nothing can be read at all.
    """
    tally = tally or Tally()
    source = open_source(place)
    note = source.read(CHECKPOINT)
    about: dict[str, object] = {"log": place, "size": 0}
    try:
        head = Checkpoint.parse(Note.parse(note).text)
    except FormatRefused as error:
        tally.fails("log.head", CHECKPOINT, phrase("reason", reason=error), index=0)
        return about, tally
    about |= {"log": head.origin, "size": head.size}
    last = _accept(note, head, policy, tally)
    if last is None:
        return about, tally
    try:
        if head.size == 0 and head.root != EMPTY_ROOT:
            raise ConsistencyRefused("an empty tree has the root SHA-256 of nothing")
        tree = open_tree(source, head)
    except LedgerError as error:
        tally.fails("log.tiles", "tiles", phrase("reason", reason=error), index=0)
        return about, tally
    past = _PastHeads(past_heads(source, head, policy, tally), last)
    walk = Walk(tree, tally, reader)
    with ExitStack() as stack:
        number = _processes(head.size) if workers is None else workers
        chunks = _Chunks(place, head, reader, number, stack)
        whole = all(walk.take(chunk) for chunk in chunks.read(past))
    if reader is not None:
        reader.finish()
    walk.finish(whole)
    about |= {"entries_read": walk.entries, "actors": len(walk.actors), "heads": past.count}
    if tally.first is not None:
        about["first_failure"] = {"entry": tally.first[0], "check": tally.first[1]}
    return about, tally


def report_log(about: dict[str, object], tally: Tally, not_proved: Sequence[str]) -> Report:
    if tally.first is None:
        title = phrase("title.log", log=about["log"], size=about["size"])
    else:
        index, check, subject, why = tally.first
        title = phrase(
            "title.log.first",
            log=about["log"],
            size=about["size"],
            index=index,
            subject=subject,
            check=check,
            why=why,
        )
    return Report(title, about, tally.checks(), not_proved)


# Heads


def _accept(note: bytes, head: Checkpoint, policy: Policy, tally: Tally) -> PastHead | None:
    """The checkpoint, if the log signed it. One that waits for witnesses is audited all the same:
    what it adds is new."""
    subject = f"head {head.size}"
    try:
        cosigned = policy.check(note).cosigned
        tally.passes("log.head")
    except QuorumMissing as error:
        tally.unopened("log.head", subject, phrase("reason", reason=error))
        return PastHead(head, Note.parse(note), witnessed=False, times=None)
    except LedgerError as error:
        tally.fails("log.head", subject, phrase("reason", reason=error), index=0)
        return None
    return PastHead.of(head, Note.parse(note), cosigned, policy)


def past_heads(
    source: TileSource, head: Checkpoint, policy: Policy, tally: Tally
) -> Iterator[PastHead]:
    """Past heads below the checkpoint that the log signed, by size. One that nobody signed, or in
    another order, is the server's mistake or worse, and is named."""
    last = 0
    notes = read_heads(source)
    while True:
        try:
            note = next(notes, None)
            if note is None:
                return
            parsed = Note.parse(note)
            checkpoint = open_checkpoint(parsed, policy.log_keys)
            if not last < checkpoint.size:
                raise FormatRefused("heads", f"has size {checkpoint.size} after size {last}")
            cosigned = policy.cosigned_by(parsed)
        except LedgerError as error:
            why = phrase("reason", reason=error)
            tally.fails("log.heads", f"head after size {last}", why, index=last)
            return
        last = checkpoint.size
        if checkpoint.size > head.size or checkpoint.origin != head.origin:
            return  # signed after the checkpoint was read
        yield PastHead.of(checkpoint, parsed, cosigned, policy)


class _PastHeads:
    """Past heads in order, with a look at the next.

    last: the checkpoint, behind all of them: a server that leaves past heads out cannot leave out
    this one, so no entry's time is without an upper bound once witnesses cosigned it.
    """

    def __init__(self, heads: Iterator[PastHead], last: PastHead) -> None:
        self._heads = heads
        self._last: PastHead | None = last
        self._ahead: deque[PastHead] = deque()
        self.count = 0

    def up_to(self, size: int) -> list[PastHead]:
        """Those of at most this size that were not taken yet, for a chunk that is handed out."""
        found = []
        while (head := self._peek()) is not None and head.checkpoint.size <= size:
            found.append(self._ahead.popleft())
        return found

    def next_time(self) -> PastHead | None:
        """The next one of which a quorum stated the time: kept until a chunk takes it."""
        for head in self._ahead:
            if head.times is not None:
                return head
        while (more := self._read()) is not None:
            if more.times is not None:
                return more
        return None

    def _peek(self) -> PastHead | None:
        return self._ahead[0] if self._ahead else self._read()

    def _read(self) -> PastHead | None:
        head = next(self._heads, None)
        if head is not None:
            self.count += 1
        else:
            head, self._last = self._last, None
        if head is not None:
            self._ahead.append(head)
        return head


# Chunks, read by workers


@dataclass(frozen=True)
class _Task:
    """Bundles [first, end). heads: (size, root) that must be of this tree. keys: how many bytes of
    the file of known keys there are to read."""

    first: int
    end: int
    heads: tuple[PastHead, ...]
    keys: int


@dataclass(frozen=True)
class Chunk:
    """after: the next head of which a quorum stated the time. wrong: heads that are not of this
    tree, with the reason. broken: why the rest could not be read."""

    entries: list[Entry]
    heads: tuple[PastHead, ...]
    after: PastHead | None
    wrong: list[tuple[int, str]]
    broken: str


class _Bench:
    """Where a chunk is read: in a worker process, or here. Keeps its own tree and keys."""

    def __init__(self, place: str, head: Checkpoint, key_file: str) -> None:
        self._place = place
        self._head = head
        self._tree: SignedTree | None = None
        self.key_file = key_file
        self.keys: dict[tuple[str, str], PublicKey] = {}
        self.seen = 0

    def read(self, task: _Task) -> Read:
        self._learn(task.keys)
        entries: list[tuple[object, ...]] = []
        actors: dict[PartyId, PartyId] = {}  # each travels once: no other field takes as long
        wrong: list[tuple[int, str]] = []
        try:
            tree = self._tree = self._tree or open_tree(open_source(self._place), self._head)
            for number in range(task.first, task.end):
                for index, data in enumerate(tree.bundle(number), number * TILE_WIDTH):
                    entry = read_entry(index, data, self.keys)
                    entries.append((*entry[:-1], actors.setdefault(entry.actor, entry.actor)))
            for head in task.heads:
                try:
                    tree.consistency(head.checkpoint.size, head.checkpoint.root)
                except ConsistencyRefused as error:
                    wrong.append((head.checkpoint.size, str(error)))
        except LedgerError as error:
            return entries, wrong, str(error)
        return entries, wrong, ""

    def _learn(self, length: int) -> None:
        if length <= self.seen:
            return
        with Path(self.key_file).open("rb") as file:
            file.seek(self.seen)
            text = file.read(length - self.seen).decode("ascii")
        self.seen = length
        for line in text.splitlines():
            actor, key = line.split()
            known = PublicKey.parse(key)
            self.keys[actor, known.key_id] = known


_bench: _Bench


def _start(place: str, head: Checkpoint, key_file: str) -> None:
    global _bench
    # Parsing leaves no cycles behind. With the usual threshold a fiftieth of the time goes into
    # looking for them.
    gc.freeze()
    gc.set_threshold(50_000)
    _bench = _Bench(place, head, key_file)


def _read(task: _Task) -> Read:
    return _bench.read(task)


def _processes(size: int) -> int:
    return 0 if size <= SMALL else (os.cpu_count() or 1)


class _Chunks:
    """Hands chunks out and gives the results back in order, a few of them ahead."""

    def __init__(
        self, place: str, head: Checkpoint, reader: Reader | None, workers: int, stack: ExitStack
    ) -> None:
        self._size = head.size
        self._reader = reader
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="audit-"))
        self._keys = Path(folder) / "keys"
        self._keys.touch()
        self._told = 0
        name = str(self._keys)
        self._pool: ProcessPoolExecutor | None = None
        self._here: _Bench | None = None
        if workers:
            self._pool = stack.enter_context(
                ProcessPoolExecutor(workers, get_context("spawn"), _start, (place, head, name))
            )
            stack.callback(self._pool.shutdown, cancel_futures=True)
        else:
            self._here = _Bench(place, head, name)
        self._ahead = 2 * workers + 1

    def read(self, past: _PastHeads) -> Iterator[Chunk]:
        bundles = -(-self._size // TILE_WIDTH)
        waiting: deque[tuple[_Task, PastHead | None, Future[Read] | None]] = deque()
        first = 0
        while first < bundles or waiting:
            while first < bundles and len(waiting) < self._ahead:
                end = min(first + CHUNK, bundles)
                heads = tuple(past.up_to(min(end * TILE_WIDTH, self._size)))
                task = _Task(first, end, heads, self._tell_keys())
                future = None if self._pool is None else self._pool.submit(_read, task)
                waiting.append((task, past.next_time(), future))
                first = end
            task, after, future = waiting.popleft()
            if future is not None:
                entries, wrong, broken = future.result()
            elif self._here is not None:
                entries, wrong, broken = self._here.read(task)
            yield Chunk(list(map(Entry._make, entries)), task.heads, after, wrong, broken)

    def _tell_keys(self) -> int:
        new = [] if self._reader is None else self._reader.new_keys()
        if new:
            with self._keys.open("ab") as file:
                for actor, key in new:
                    self._told += file.write(f"{actor} {key}\n".encode("ascii"))
        return self._told


def read_entry(index: int, data: bytes, keys: dict[tuple[str, str], PublicKey]) -> Entry:
    """Parse an entry, and verify its signature if its key is among `keys`, by actor and key id."""
    name = sha256(data).digest()
    try:
        envelope = Envelope.from_bytes(data)
        if envelope.payload_type != PAYLOAD_TYPE or len(envelope.signatures) != 1:
            raise Malformed("entry", "is not a statement with one signature")
        statement = record.from_bytes(Statement, envelope.payload)
    except CryptoError as error:
        return Entry(index, name, problem=str(error))
    ((key_id, signature),) = envelope.signatures
    key = keys.get((statement.actor, key_id))
    signed = None
    if key is not None:
        message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
        try:
            key.verify(signature, message)
            signed = True
        except BadSignature:
            signed = False
    policy = statement.policy_digest
    return Entry(
        index,
        name,
        "",
        statement.actor_seq,
        None if statement.actor_prev is None else statement.actor_prev.raw,
        statement.time,
        statement.type,
        statement.subject,
        tuple(d.raw for d in statement.after),
        None if policy is None else policy.raw,
        tuple(d.raw for d in statement.inputs),
        tuple(d.raw for d in statement.outputs),
        key_id,
        signed,
        data if signed is None or statement.type in KINDS else b"",
        statement.actor,
    )


# What depends on order


@dataclass
class _Actor:
    """Where an actor's chain stands. missing: numbers that were skipped, while there are few.

    unheard: how many statements in its name came since under a key that nobody knows. They take
    nobody's place in the chain, and their numbers may be missing from it.
    """

    next_seq: int = 0
    last: bytes | None = None
    missing: set[int] = field(default_factory=set)
    unheard: int = 0


class Walk:
    """Entries in order: chains, times, signatures, and the reader's own checks."""

    def __init__(self, tree: SignedTree, tally: Tally, reader: Reader | None) -> None:
        self.tree = tree  # of the newest head: whoever follows a log puts each next one here
        self._tally = tally
        self._reader = reader
        self.actors: dict[PartyId, _Actor] = {}
        self.entries = 0
        self._declared = DeclaredKeys(tree.checkpoint.origin, tally)
        self._broken = False
        self._witnessed = 0  # the largest witnessed size so far
        self._before: datetime | None = None  # the latest `times.first` of a head passed so far
        self._unsigned = 0

    def take(self, chunk: Chunk) -> bool:
        """Whether the walk can go on."""
        heads = deque(chunk.heads)
        wrong = dict(chunk.wrong)
        for head in chunk.heads:
            size = head.checkpoint.size
            if size in wrong:
                why = phrase("head.other_history", reason=wrong[size])
                self._tally.fails("log.heads", f"head {size}", why, index=size - 1)
            elif size < self.tree.size:  # the newest is no earlier one: it bounds times
                self._tally.passes("log.heads")
        signed = deque(h for h in heads if h.checkpoint.size not in wrong)
        passing = deque(h for h in signed if h.witnessed)
        timed = deque(h for h in passing if h.times is not None)
        for entry in chunk.entries:
            while signed and signed[0].checkpoint.size <= entry.place:
                self._declared.signed(signed.popleft())
            while passing and passing[0].checkpoint.size <= entry.place:
                self._pass_head(passing.popleft())
            while timed and timed[0].checkpoint.size <= entry.place:
                timed.popleft()
            self._entry(entry, timed[0] if timed else chunk.after)
        for head in passing:
            self._pass_head(head)
        self.entries += len(chunk.entries)
        if chunk.broken:
            why = phrase("reason", reason=chunk.broken)
            index = chunk.entries[-1].place + 1 if chunk.entries else self.entries
            self._tally.fails("log.tiles", f"entries from {index}", why, index=index)
            return False
        for head in signed:
            self._declared.signed(head)
        return True

    def finish(self, whole: bool) -> None:
        if whole:
            self._tally.passes("log.tiles", self.entries)
            self._declared.finish()
        if self._unsigned and self._reader is None:
            count = f"{self._unsigned:,}"
            self._tally.unopened("entry.signed", "log", phrase("signature.not_asked", count=count))

    def _pass_head(self, head: PastHead) -> None:
        self._witnessed = head.checkpoint.size
        times = head.times
        if times is None:
            return
        if self._before is not None and times.last < self._before - TOLERANCE:
            why = phrase("head.runs_back", time=times.last, before=self._before)
            size = head.checkpoint.size
            self._tally.fails("log.heads", f"head {size}", why, index=size - 1)
        if self._reader is not None:
            self._reader.witnessed(head.checkpoint.size, times)
        self._before = times.first if self._before is None else max(self._before, times.first)

    def _entry(self, entry: Entry, after: PastHead | None) -> None:
        tally = self._tally
        if entry.problem:
            why = phrase("entry.no_statement", reason=entry.problem)
            if self._reader is None:
                tally.unopened("entry.readable", entry.name, why)
            else:
                tally.fails("entry.readable", entry.name, why, index=entry.place)
            return
        tally.passes("entry.readable")
        signed = self._signature(entry)
        if signed is not False:
            self._declared.heard(entry)
        if signed is None and self._reader is not None:
            self._actor(entry).unheard += 1
            self._reader.unheard(entry)
            return
        if signed is False:
            return  # a forgery must not take the place of a genuine statement
        self._chain(entry)
        timing = self._timing(
            entry, None if after is None or after.times is None else after.times.last
        )
        if timing is Timing.EARLY:
            why = phrase("time.early", time=entry.time)
            tally.fails("entry.time", entry.name, why, index=entry.place)
        elif timing is Timing.OPEN:
            key = "time.no_later_head" if after is None else "time.no_head"
            tally.unopened("entry.time", entry.name, phrase(key))
        elif timing is not Timing.LATE:
            tally.passes("entry.time")
        elif self._reader is None:
            tally.unopened("entry.time", entry.name, phrase("time.old", time=entry.time))
        if self._reader is not None:
            self._reader.heard(entry, timing, self._witnessed)

    def _signature(self, entry: Entry) -> bool | None:
        """Whether its actor signed it; None where no key at hand tells."""
        tally = self._tally
        if self._reader is None:
            self._unsigned += 1
            return None
        key = self._reader.key(entry)
        if key is None:
            why = phrase("signature.no_document", actor=entry.actor)
            tally.unopened("entry.signed", entry.name, why)
            return None
        if key.key_id != entry.key_id:
            why = phrase(
                "signature.other_key", actor=entry.actor, found=entry.key_id, expected=key.key_id
            )
            tally.fails("entry.signed", entry.name, why, index=entry.place)
            return False
        signed = entry.signed
        if signed is None:
            known = {(str(entry.actor), key.key_id): key}
            signed = read_entry(entry.place, entry.data, known).signed
        if not signed:
            why = phrase("signature.forged", key_id=key.key_id)
            tally.fails("entry.signed", entry.name, why, index=entry.place)
            return False
        tally.passes("entry.signed")
        return True

    def _chain(self, entry: Entry) -> None:
        actor = self._actor(entry)
        if entry.seq == actor.next_seq and entry.prev == actor.last:
            self._tally.passes("actor.chain")
        elif actor.next_seq < entry.seq <= actor.next_seq + actor.unheard:
            note = phrase("chain.unheard", count=entry.seq - actor.next_seq)
            self._tally.unopened("actor.chain", entry.name, note)
        else:
            problem, why = self._broken_chain(entry, actor)
            note = phrase("chain.problem", problem=problem.value, actor=entry.actor, reason=why)
            self._tally.fails("actor.chain", entry.name, note, index=entry.place)
            if entry.seq < actor.next_seq:
                return
        actor.next_seq, actor.last, actor.unheard = entry.seq + 1, entry.digest, 0

    def _actor(self, entry: Entry) -> _Actor:
        actor = self.actors.get(entry.actor)
        if actor is None:
            actor = self.actors[entry.actor] = _Actor()
        return actor

    def _broken_chain(self, entry: Entry, actor: _Actor) -> tuple[Problem, Phrase]:
        seq = entry.seq
        if seq > actor.next_seq:
            missing = range(actor.next_seq, seq)
            actor.missing.update(missing[:MAX_NAMED])
            return Problem.GAP, phrase("chain.gap", seq=seq, first=missing[0], last=missing[-1])
        if seq == actor.next_seq:
            return Problem.BROKEN_LINK, phrase("chain.link", seq=seq)
        if seq in actor.missing:
            actor.missing.remove(seq)
            return Problem.REORDERED, phrase("chain.reordered", seq=seq, later=actor.next_seq - 1)
        if not self._tally.names_more("actor.chain"):
            # Every leaf would be read again for each of a hostile log's million forks.
            return Problem.FORKED, phrase("chain.taken", seq=seq)
        earlier = self._find(entry)
        if earlier is not None:
            return Problem.DUPLICATE, phrase("chain.duplicate", seq=seq, earlier=earlier)
        return Problem.FORKED, phrase("chain.forked", seq=seq)

    def _find(self, entry: Entry) -> int | None:
        """Where the very same entry stands already. Reads the leaves again."""
        wanted = self.tree.node(Node(0, entry.place))
        for number in range(entry.place // TILE_WIDTH + 1):
            leaves = self.tree.hashes(0, number)
            for at in range(0, len(leaves), HASH_BYTES):
                index = number * TILE_WIDTH + at // HASH_BYTES
                if index >= entry.place:
                    return None
                if leaves[at : at + HASH_BYTES] == wanted:
                    return index
        return None

    def _timing(self, entry: Entry, after: datetime | None) -> Timing:
        time = entry.time
        if self._before is not None and time < self._before - TOLERANCE:
            return Timing.LATE
        if after is not None and time > after + TOLERANCE:
            return Timing.EARLY
        if after is None or (self._before is None and entry.place > 0):
            return Timing.OPEN
        if time < after - LATE_AFTER:
            return Timing.PERHAPS
        return Timing.FITS
