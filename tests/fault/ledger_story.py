"""A log's whole life in one process, to be killed at any of its calls to the disk.

Run as a program with tests/fault/disk.c preloaded. For each line on its input, `<mode> <n>
<errno>`, it copies a log that has just been published, goes on with it in a child whose disk fails
at the n-th call, and then, in another child on a sound disk, starts again on what is left, finishes
and examines everything. It answers one line of JSON: how many calls there were, whether the child
was killed, and all that was wrong.

What the doomed child tells on its pipe counts as seen by others: it tells after a step has
returned, as a participant learns of a receipt or a reader of a published file.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import pickle
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, SQLModel

from api.database import open_engine
from crypto.digest import digest
from crypto.keys import SigningKey
from ledger.adapters.anchor_sql import SqlAnchorDatabase
from ledger.adapters.sql import SqlLogDatabase
from ledger.adapters.witness_sql import SqlWitnessStore
from ledger.anchor import AnchorRules, ChainHolder, keep_anchored
from ledger.check import check_log
from ledger.copies import PublishedFiles, publish_files
from ledger.log import append, entries, integrate, publish
from ledger.newest import require_newest
from ledger.tiles import LogSource
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.note import COSIGNATURE, Note, VerifierKey
from ledger.verify.tiles import FolderSource, open_tree
from tests.chains import FakeBackend, FakeChain
from tests.ports.test_ledger_log import LOG, LOG_KEY, ORIGIN, START, Clock, LocalWitness, policy

BEFORE = 250  # entries of the log that every story goes on with: six more fill its first tile
BATCHES = ((250, 253), (253, 258))
MODES = {"count": 0, "kill": 1, "torn": 2, "fail": 3, "full": 4}
RULES = AnchorRules(every_s=0, every_entries=1)
WITNESS = SigningKey.generate()
TRIES = 8


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
        disk = folder / "disk"
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

    def witness_size(self) -> int:
        with Session(self.other) as session, session.begin():
            head = SqlWitnessStore(session).head(ORIGIN)
        return 0 if head is None else head.checkpoint.size


Tell = Callable[[str, object], None]


def live(exchange: Exchange, tell: Tell, again: Callable[[Callable[[], None]], None]) -> None:
    """Queue, sign, have cosigned, publish and anchor what is new. again: repeats a failed step."""

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


def examine(folder: Path, told: list[tuple[str, object]]) -> Iterator[str]:
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
    held = max([what for word, what in told if word == "cosigned" and isinstance(what, int)] or [0])
    if exchange.witness_size() < held:
        yield f"the witness went back from size {held} to {exchange.witness_size()}"
    live(exchange, lambda *_: None, lambda step: step())
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
    files = FolderSource(exchange.files)
    checkpoint = open_note(files.read("checkpoint"))
    tree = open_tree(files, checkpoint)
    if sum(1 for _ in tree.entries()) != checkpoint.size:
        yield f"{when}, the published files lack entries"


class Doomed:
    """The child whose disk fails."""

    def __init__(self, folder: Path, mode: str, n: int, error: int, pipe: int) -> None:
        self.folder, self.pipe = folder, pipe
        self.disk = ctypes.CDLL(None)
        self.disk.disk_calls.restype = ctypes.c_long
        self.disk.disk_arm(str(folder / "disk").encode(), MODES[mode], ctypes.c_long(n), error)

    def tell(self, word: str, what: object) -> None:
        os.write(self.pipe, json.dumps([word, what]).encode() + b"\n")

    def again(self, step: Callable[[], None]) -> None:
        """As the hub's threads do: what failed is repeated, and by then there is room again."""
        for _ in range(TRIES):
            try:
                return step()
            except (OSError, DBAPIError):
                self.disk.disk_relieve()
        return step()

    def run(self) -> None:
        exchange = Exchange(self.folder)
        self.again(exchange.start)
        live(exchange, self.tell, self.again)
        exchange.close()
        self.tell("calls", self.disk.disk_calls())


def in_child(work: Callable[[int], None]) -> tuple[int, list[tuple[str, object]]]:
    """Run in a fork. Its exit status, and what it told."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            work(writing)
            status = 0
        except BaseException:
            os.write(writing, json.dumps(["error", traceback.format_exc()]).encode() + b"\n")
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    return status, [(word, what) for word, what in map(json.loads, lines)]


def trial(template: Path, mode: str, n: int, error: int) -> dict[str, object]:
    folder = template.parent / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    status, told = in_child(lambda pipe: Doomed(folder, mode, n, error, pipe).run())
    calls = next((what for word, what in told if word == "calls"), None)
    wrong = [f"the doomed child: {what}" for word, what in told if word == "error"]
    seen = [(word, what) for word, what in told if word not in ("calls", "error")]

    def look(pipe: int) -> None:
        for problem in examine(folder, seen):
            os.write(pipe, json.dumps(["wrong", problem]).encode() + b"\n")

    _, found = in_child(look)
    wrong += [str(what) for _, what in found]
    return {"n": n, "killed": os.WIFSIGNALED(status), "calls": calls, "wrong": wrong}


def prepare(folder: Path) -> None:
    (folder / "disk").mkdir(parents=True)
    exchange = Exchange(folder)
    exchange.create()
    for number in range(BEFORE):
        exchange.queue(number)
    exchange.sign()
    exchange.have_cosigned()
    exchange.write_files()
    exchange.anchor()
    exchange.close()


def main(folder: Path) -> None:
    template = folder / "template"
    # In a child: this process opens no database that its children would then share.
    status, told = in_child(lambda _: prepare(template))
    if status:
        raise SystemExit(str(told))
    for line in sys.stdin:
        mode, n, error = line.split()
        print(json.dumps(trial(template, mode, int(n), int(error))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
