"""A log's whole life in one process, whose disk fails at any of its calls (tests.fault.disk)."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from pathlib import Path

from sqlmodel import Session, SQLModel

from api.database import open_engine
from crypto.adapters.sm2 import Sm2Key
from crypto.digest import digest
from crypto.keys import SigningKey
from ledger import sm3
from ledger.adapters.anchor_sql import SqlAnchorDatabase
from ledger.adapters.sm3_sql import SqlSm3Database, SqlSm3Store
from ledger.adapters.sql import SqlLogDatabase, SqlLogStore
from ledger.adapters.witness_sql import SqlWitnessStore
from ledger.anchor import AnchorRules, ChainHolder, keep_anchored
from ledger.check import check_log, check_sm3
from ledger.copies import PublishedFiles, publish_files
from ledger.log import append, entries, integrate, publish
from ledger.newest import require_newest
from ledger.tiles import LogSource
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.history import SM3_SUFFIX
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.note import COSIGNATURE, Note, VerifierKey, log_key
from ledger.verify.tiles import FolderSource, open_tree
from tests.chains import FakeBackend, FakeChain
from tests.fault.disk import DISK, Again, Tell, Told
from tests.ports.test_ledger_log import LOG, LOG_KEY, ORIGIN, START, Clock, LocalWitness, policy

BEFORE = 250  # entries of the log that every story goes on with: six more fill its first tile
BATCHES = ((250, 253), (253, 258))
RULES = AnchorRules(every_s=0, every_entries=1)
WITNESS = SigningKey.generate()
SM3, SM3_ORIGIN = Sm2Key.generate(), ORIGIN + SM3_SUFFIX


def entry(number: int) -> bytes:
    # Some need more than a page of the database, as long statements do.
    return f"entry {number} ".encode() * (600 if number % 3 == 0 else 5)


def open_note(note: bytes) -> Checkpoint:
    return open_checkpoint(Note.parse(note), [LOG_KEY])


class KeptChain(FakeBackend):
    """A chain that outlives the process: its file is not on the disk that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(pickle.loads(path.read_bytes()) if path.exists() else FakeChain(), "a")

    def anchor(self, *values: object, **named: object) -> None:
        super().anchor(*values, **named)  # type: ignore[arg-type]
        self.path.write_bytes(pickle.dumps(self.chain))


class Exchange:
    """The log with all that surrounds it, opened on one folder."""

    def __init__(self, folder: Path) -> None:
        disk = folder / DISK
        self.hub = open_engine(f"sqlite:///{disk}/hub.db")
        self.other = open_engine(f"sqlite:///{disk}/witness.db")
        self.log = SqlLogDatabase(self.hub)
        self.anchors = SqlAnchorDatabase(self.hub)
        self.clock = Clock()
        self.witness = LocalWitness(self.other, "witness.example/w", self.clock)
        self.witness.signer = WITNESS
        self.witness.key = VerifierKey(self.witness.key.name, COSIGNATURE, WITNESS.public)
        self.witness.keys = (self.witness.key,)
        self.files = disk / "files"
        self.chain = KeptChain(folder / "chain")
        self.policy = policy(self.witness)

    def create(self) -> None:
        for engine, prefix in ((self.hub, "ledger_"), (self.other, "witness_")):
            tables = [t for n, t in SQLModel.metadata.tables.items() if n.startswith(prefix)]
            SQLModel.metadata.create_all(engine, tables)
        self.files.mkdir()
        (self.files / "checkpoint").touch()

    def close(self) -> None:
        self.hub.dispose()
        self.other.dispose()

    def start(self) -> None:
        """What a hub does before it signs anything."""
        require_newest(
            self.log,
            origin=ORIGIN,
            signer=LOG,
            witnesses=[self.witness],
            policy=self.policy,
            holders=[
                PublishedFiles(self.files, open_note),
                ChainHolder(ORIGIN, self.chain),
            ],
        )

    def queue(self, number: int) -> None:
        with self.log.transaction() as store:
            append(store, entry(number))

    def sign(self) -> bytes | None:
        with self.log.transaction() as store:
            if integrate(store, origin=ORIGIN, signer=LOG, now=START) is None:
                return None
        with self.log.transaction() as store:
            latest = store.latest()
            assert latest is not None
            return latest.note.to_bytes()

    def have_cosigned(self) -> None:
        done = publish(self.log, [self.witness], self.policy, clock=self.clock)
        if done is not None and not done.witnessed:
            raise OSError(str(done.failures))  # the witness's disk has failed; ask again

    def write_files(self) -> None:
        publish_files(self.files, LogSource(self.log), open_note)

    def anchor(self) -> None:
        for _ in range(3):  # sent, mined, final
            keep_anchored(self.anchors, self.chain, RULES, clock=self.clock)

    def follow_sm3(self) -> bytes | None:
        with Session(self.hub) as session, session.begin():
            head = sm3.follow(
                SqlLogStore(session), SqlSm3Store(session), origin=ORIGIN, signer=SM3, now=START
            )
        return None if head is None else head.note.to_bytes()

    def sm3_head(self, size: int) -> Checkpoint:
        with SqlSm3Database(self.hub).transaction() as store:
            return store.at(size).checkpoint

    def witness_size(self) -> int:
        with Session(self.other) as session, session.begin():
            head = SqlWitnessStore(session).head(ORIGIN)
        return 0 if head is None else head.checkpoint.size


def prepare(folder: Path) -> None:
    exchange = Exchange(folder)
    exchange.create()
    for number in range(BEFORE):
        exchange.queue(number)
    exchange.sign()
    exchange.have_cosigned()
    exchange.write_files()
    exchange.anchor()
    exchange.follow_sm3()
    exchange.close()


def live(folder: Path, tell: Tell, again: Again) -> None:
    """Compare and go on, as a hub does."""
    exchange = Exchange(folder)
    again(exchange.start)
    go_on(exchange, tell, again)
    exchange.close()


def go_on(exchange: Exchange, tell: Tell, again: Again) -> None:
    """Queue, sign, have cosigned, publish and anchor what is new."""

    def note_told(word: str, note: bytes | None) -> None:
        if note is not None:
            tell(word, base64.b64encode(note).decode())

    for first, end in BATCHES:
        for number in range(first, end):
            again(lambda number=number: exchange.queue(number))  # type: ignore[misc]
            tell("queued", number)
        again(lambda: note_told("signed", exchange.sign()))
        again(exchange.have_cosigned)
        tell("cosigned", exchange.witness_size())
        again(exchange.write_files)
        note_told("published", (exchange.files / "checkpoint").read_bytes())
        again(exchange.anchor)
        tell("anchored", exchange.chain.head().size)
        again(lambda: note_told("signed with SM2", exchange.follow_sm3()))


def examine(folder: Path, told: Told) -> Iterator[str]:
    """Start again, finish, and say all that is wrong."""
    exchange = Exchange(folder)
    exchange.start()
    yield from _whole(exchange, "after the restart")
    with exchange.log.transaction() as store:
        latest = store.latest()
        assert latest is not None
        for word, what in told:
            if word == "queued":
                assert isinstance(what, int)
                store.index_of(digest(entry(what)))
            elif word in ("signed", "published"):
                head = open_note(base64.b64decode(str(what)))
                if head.size > latest.size or store.at(head.size).checkpoint != head:
                    yield f"the head of size {head.size} that was {word} is not in the log"
            elif isinstance(what, int) and what > latest.size:
                yield f"{word} size {what}, and the log has {latest.size}"
    for what in [what for word, what in told if word == "signed with SM2"]:
        head = Checkpoint.parse(Note.parse(base64.b64decode(str(what))).text)
        if exchange.sm3_head(head.size) != head:
            yield f"another SM3 head of size {head.size} is stored"
    held = max([what for word, what in told if word == "cosigned" and isinstance(what, int)] or [0])
    if exchange.witness_size() < held:
        yield f"the witness went back from size {held} to {exchange.witness_size()}"
    go_on(exchange, lambda *_: None, lambda step: step())
    exchange.close()
    exchange = Exchange(folder)
    exchange.start()
    yield from _whole(exchange, "in the end")
    size = BATCHES[-1][1]
    with exchange.log.transaction() as store:
        logged = [one.entry for one in entries(store, 0, size)]
        latest = store.latest()
        heads = [store.at(n).checkpoint for n in store.sizes(0, 1000)]
        pending = len(store.pending(10))
    if latest is None or latest.size != size or pending:
        yield f"the log has not come to its end: {latest}, {pending} pending"
    if sorted(logged) != sorted(map(entry, range(size))) or logged[:BEFORE] != [
        entry(number) for number in range(BEFORE)
    ]:
        yield "the entries are not all there, each once"
    leaves = [leaf_hash(one) for one in logged]
    for head in heads:
        if root(leaves[: head.size]) != head.root:
            yield f"the head of size {head.size} is not of this log's history"
    if exchange.witness_size() != size:
        yield f"the witness holds size {exchange.witness_size()}"
    published = open_note((exchange.files / "checkpoint").read_bytes())
    if published != heads[-1]:
        yield f"the published checkpoint is of size {published.size}"
    chain = exchange.chain.head()
    if (chain.size, chain.root) != (size, heads[-1].root):
        yield f"the chain holds size {chain.size}"
    with exchange.anchors.transaction() as outbox:
        left = [f"{one.size} {one.state}" for one in outbox.open(exchange.chain.place)]
    if left:
        yield f"anchors are left: {left}"
    exchange.close()


def _whole(exchange: Exchange, when: str) -> Iterator[str]:
    """The database and the published files, each checked against what was signed."""
    keys = exchange.witness.keys
    for damage in check_log(exchange.log, log_keys=[LOG_KEY], witnesses=keys):
        yield f"{when}, {damage}"
    sm3_heads = SqlSm3Database(exchange.hub)
    for damage in check_sm3(exchange.log, sm3_heads, keys=[log_key(SM3_ORIGIN, SM3)]):
        yield f"{when}, {damage}"
    files = FolderSource(exchange.files)
    checkpoint = open_note(files.read("checkpoint"))
    tree = open_tree(files, checkpoint)
    if sum(1 for _ in tree.entries()) != checkpoint.size:
        yield f"{when}, the published files lack entries"
