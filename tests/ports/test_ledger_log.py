"""The log's storage, on each database: order, signing, proofs, receipts and publication."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text
from sqlmodel import Session, SQLModel

from api.database import open_engine
from crypto.digest import Digest, digest
from crypto.keys import SigningKey
from ledger.adapters.sql import SqlLogDatabase, SqlLogStore
from ledger.adapters.witness_sql import SqlWitnessStore
from ledger.errors import (
    EntryRefused,
    LedgerError,
    LogDiverged,
    NotCovered,
    NotLogged,
    OtherLog,
    SignatureRefused,
    WitnessAt,
    WitnessDisagrees,
    WitnessUnreachable,
)
from ledger.log import (
    MAX_BATCH,
    EntryStatus,
    append,
    append_many,
    consistency,
    entries,
    inclusion,
    inclusions,
    integrate,
    publish,
    receipt,
    receipts,
    status,
)
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, Note, Signature, VerifierKey, parse_lines
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof, verify_proof
from ledger.verify.tile_names import Tile
from ledger.witness import AddCheckpoint, add_checkpoint
from tests.conftest import NewDatabase

ORIGIN = "log.example/deals"
LOG_TABLES = ("ledger_entry", "ledger_tile", "ledger_checkpoint", "ledger_cosignature")
LOG = SigningKey.generate()
LOG_KEY = VerifierKey(ORIGIN, LOG_SIGNATURE, LOG.public)
START = datetime(2026, 3, 4, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


class LocalWitness:
    """The real witness, asked without a network."""

    def __init__(self, engine: Engine, name: str, clock: Clock) -> None:
        self.signer = SigningKey.generate()
        self.key = VerifierKey(name, COSIGNATURE, self.signer.public)
        self.keys: tuple[VerifierKey, ...] = (self.key,)
        self.engine = engine
        self.clock = clock
        self.asked: list[int] = []
        self.down = False

    def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: Note
    ) -> Sequence[Signature]:
        self.asked.append(old_size)
        if self.down:
            raise WitnessUnreachable(f"{self.key.name} did not answer")
        body = AddCheckpoint(old_size, tuple(proof), note.to_bytes()).to_bytes()
        with Session(self.engine) as session, session.begin():
            answer = add_checkpoint(
                body,
                store=SqlWitnessStore(session),
                name=self.key.name,
                signers=[self.signer],
                trusted_logs=[LOG_KEY],
                now=self.clock.now(),
            )
        if answer.status == 409:
            raise WitnessAt(int(answer.body))
        if answer.status != 200:
            raise WitnessDisagrees(answer.body.decode())
        return parse_lines(answer.body.decode())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hub(engine: Engine, create_tables: Callable[..., None]) -> SqlLogDatabase:
    create_tables(engine, "ledger_")
    return SqlLogDatabase(engine)


@pytest.fixture
def witness(
    engine: Engine, create_tables: Callable[..., None], clock: Clock
) -> Iterator[LocalWitness]:
    create_tables(engine, "witness_")
    yield LocalWitness(engine, "witness.example/w", clock)


def policy(*witnesses: LocalWitness, threshold: str = "all") -> Policy:
    lines = [f"log {LOG_KEY}"]
    lines += [f"witness w{i} {w.key}" for i, w in enumerate(witnesses)]
    if witnesses:
        members = " ".join(f"w{i}" for i in range(len(witnesses)))
        lines += [f"group g {threshold} {members}", "quorum g", ""]
    else:
        lines += ["quorum none", ""]
    return Policy.parse("\n".join(lines).encode())


def log_entries(hub: SqlLogDatabase, *data: bytes) -> list[Digest]:
    with hub.transaction() as store:
        return [append(store, entry) for entry in data]


def sign_head(hub: SqlLogDatabase, limit: int = MAX_BATCH) -> Checkpoint | None:
    with hub.transaction() as store:
        return integrate(store, origin=ORIGIN, signer=LOG, now=START, limit=limit)


def grow(hub: SqlLogDatabase, start: int, end: int) -> Checkpoint:
    log_entries(hub, *(f"entry {n}".encode() for n in range(start, end)))
    head = sign_head(hub)
    assert head is not None
    return head


def slow_root(size: int) -> bytes:
    return root([leaf_hash(f"entry {n}".encode()) for n in range(size)])


def test_entries_get_indices_in_order_of_arrival(hub: SqlLogDatabase) -> None:
    log_entries(hub, b"c", b"a", b"b")
    sign_head(hub)
    log_entries(hub, b"0")
    head = sign_head(hub)
    assert head is not None and head.size == 4
    with hub.transaction() as store:
        logged = entries(store, 0, 4)
    assert [(e.index, e.entry) for e in logged] == [(0, b"c"), (1, b"a"), (2, b"b"), (3, b"0")]


def test_the_same_entry_again_is_the_same_entry(hub: SqlLogDatabase) -> None:
    first = log_entries(hub, b"a", b"a")
    sign_head(hub)
    assert log_entries(hub, b"a") == first[:1] == [digest(b"a")]
    assert sign_head(hub) is None


def test_without_news_no_checkpoint_is_signed(hub: SqlLogDatabase) -> None:
    assert sign_head(hub) is None
    grow(hub, 0, 1)
    assert sign_head(hub) is None


def test_an_entry_that_does_not_fit_is_refused(hub: SqlLogDatabase) -> None:
    log_entries(hub, b"x" * 65_535)
    for entry in (b"", b"x" * 65_536):
        with pytest.raises(EntryRefused, match="1 to 65535"):
            log_entries(hub, entry)


@pytest.mark.parametrize("count", [3, 500])
def test_a_batch_keeps_its_order_and_takes_in_no_entry_twice(
    hub: SqlLogDatabase, count: int
) -> None:
    batch = [f"{number}".encode() for number in range(count)]
    batch[-1] = batch[0]  # twice in one batch
    log_entries(hub, b"1")  # and one that was there before, which keeps its earlier place
    with hub.transaction() as store:
        names = append_many(store, batch)
    assert names == [digest(entry) for entry in batch]
    head = sign_head(hub)
    assert head is not None
    with hub.transaction() as store:
        logged = [found.entry for found in entries(store, 0, head.size)]
    assert logged == [b"1", b"0", *batch[2:-1]]


@pytest.mark.parametrize("count", [3, 500])
@pytest.mark.parametrize("again", [True, False], ids=["with one known before", "all new"])
def test_a_batch_of_a_transaction_that_failed_leaves_nothing(
    hub: SqlLogDatabase, count: int, again: bool
) -> None:
    log_entries(hub, b"before")
    batch = [f"{number}".encode() for number in range(count)] + [b"before"] * again
    with pytest.raises(RuntimeError), hub.transaction() as store:
        append_many(store, batch)
        raise RuntimeError("crash")
    with hub.transaction() as store:
        assert [item.entry for item in store.pending(MAX_BATCH)] == [b"before"]


def test_one_entry_that_does_not_fit_keeps_its_whole_batch_out(hub: SqlLogDatabase) -> None:
    with pytest.raises(EntryRefused), hub.transaction() as store:
        append_many(store, [b"a", b"", b"b"])
    with hub.transaction() as store:
        assert store.pending(10) == []


def test_a_batch_goes_on_with_what_the_same_transaction_did_before(hub: SqlLogDatabase) -> None:
    """The way back after a refused COPY must not undo what the caller had done already."""
    with hub.transaction() as store:
        append(store, b"act")
        append_many(store, [b"act", *(f"{number}".encode() for number in range(100))])
        append(store, b"last")
    with hub.transaction() as store:
        pending = [item.entry for item in store.pending(MAX_BATCH)]
    assert (pending[0], pending[-1], len(pending)) == (b"act", b"last", 102)


def test_an_entry_of_a_transaction_that_failed_was_never_logged(hub: SqlLogDatabase) -> None:
    with pytest.raises(RuntimeError), hub.transaction() as store:
        append(store, b"half")
        raise RuntimeError("crash")
    with hub.transaction() as store, pytest.raises(NotLogged):
        status(store, digest(b"half"))


def test_a_crash_before_the_commit_signs_nothing_and_loses_nothing(hub: SqlLogDatabase) -> None:
    grow(hub, 0, 3)
    (name,) = log_entries(hub, b"next")
    with pytest.raises(RuntimeError), hub.transaction() as store:
        integrate(store, origin=ORIGIN, signer=LOG, now=START)
        raise RuntimeError("crash")
    with hub.transaction() as store:
        assert status(store, name) is EntryStatus.PENDING
        latest = store.latest()
        assert latest is not None and latest.size == 3
    head = sign_head(hub)
    assert head is not None and head.size == 4


def test_more_than_a_batch_is_signed_in_several_heads(hub: SqlLogDatabase) -> None:
    log_entries(hub, *(f"entry {n}".encode() for n in range(10)))
    heads = [sign_head(hub, limit=4) for _ in range(4)]
    assert [head and head.size for head in heads] == [4, 8, 10, None]
    assert all(head is None or head.root == slow_root(head.size) for head in heads)


def test_every_proof_of_a_stored_log_verifies(hub: SqlLogDatabase) -> None:
    sizes = [1, 2, 3, 7, 8, 21]
    heads = {end: grow(hub, start, end) for start, end in zip([0, *sizes], sizes, strict=False)}
    assert {size: head.root for size, head in heads.items()} == {s: slow_root(s) for s in sizes}
    with hub.transaction() as store:
        for size, head in heads.items():
            for index in range(size):
                leaf = leaf_hash(f"entry {index}".encode())
                verify_inclusion(leaf, index, size, inclusion(store, index, size), head.root)
            for old_size, old in heads.items():
                if old_size <= size:
                    proof = consistency(store, old_size, size)
                    verify_consistency(old_size, old.root, size, head.root, proof)
        assert consistency(store, 0, 21) == ()


def test_a_stored_tree_is_whole_at_every_edge_of_its_tiles(hub: SqlLogDatabase) -> None:
    sizes = [200, 255, 256, 257, 511, 512, 700]
    heads = {end: grow(hub, start, end) for start, end in pairwise([0, *sizes])}
    with hub.transaction() as store:
        for size, head in heads.items():
            assert head.root == slow_root(size)
            indices = {0, 1, 254, 255, 256, 257, 510, 511, 512, size - 1} & set(range(size))
            for index, proof in inclusions(store, indices, size).items():
                leaf = leaf_hash(f"entry {index}".encode())
                verify_inclusion(leaf, index, size, proof, head.root)
            for old_size, old in heads.items():
                if old_size <= size:
                    proof = consistency(store, old_size, size)
                    verify_consistency(old_size, old.root, size, head.root, proof)
        hashes = store.tiles([Tile(0, 1), Tile(0, 2, 3), Tile(1, 0, 2)])
    leaves = [leaf_hash(f"entry {n}".encode()) for n in range(700)]
    assert hashes[Tile(0, 1)] == b"".join(leaves[256:512])
    assert hashes[Tile(0, 2, 3)] == b"".join(leaves[512:515])
    assert hashes[Tile(1, 0, 2)] == root(leaves[:256]) + root(leaves[256:512])


def test_a_tile_that_is_there_already_is_not_written_over(hub: SqlLogDatabase) -> None:
    grow(hub, 0, 3)
    wider, other = {Tile(0, 0, 4): b"\0" * 128}, {Tile(0, 0, 3): b"\0" * 96}
    for tiles, over in ((wider, []), (other, []), (wider, [Tile(0, 0, 2)])):
        with pytest.raises(LogDiverged), hub.transaction() as store:
            store.add_tiles(tiles, over=over)
    with hub.transaction() as store, pytest.raises(LogDiverged, match=r"tile/0/000\.p/4"):
        store.tiles([Tile(0, 0, 4)])


def test_receipts_made_together_are_those_made_one_by_one(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    grow(hub, 0, 300)
    publish(hub, [witness], policy(witness), clock=clock)
    grow(hub, 300, 303)
    names = [digest(f"entry {n}".encode()) for n in (302, 0, 255, 256, 299, 300, 0)]
    (late,) = log_entries(hub, b"late")
    with hub.transaction() as store:
        made = receipts(store, names)
        assert made == [receipt(store, name) for name in names]
        assert [Proof.parse(text).index for text in made] == [302, 0, 255, 256, 299, 300, 0]
        with pytest.raises(NotCovered):
            receipts(store, [*names, late])
        with pytest.raises(NotLogged):
            receipts(store, [digest(b"never"), *names])
    witnessed = verify_proof(Proof.parse(made[3]), b"entry 256", policy(witness))
    assert witnessed.checkpoint.size == 300
    assert verify_proof(Proof.parse(made[0]), b"entry 302", policy()).checkpoint.size == 303


def test_proofs_reach_no_further_than_what_was_signed(hub: SqlLogDatabase) -> None:
    grow(hub, 0, 2)
    (late,) = log_entries(hub, b"late")
    with hub.transaction() as store:
        for ask in (
            lambda: inclusion(store, 2, 2),
            lambda: inclusion(store, 0, 3),
            lambda: inclusion(store, -1, 2),
            lambda: inclusion(store, late, 2),
            lambda: consistency(store, 1, 3),
            lambda: consistency(store, 2, 1),
            lambda: entries(store, 0, 3),
            lambda: receipt(store, late),
        ):
            with pytest.raises(NotCovered):
                ask()
        with pytest.raises(NotLogged):
            receipt(store, digest(b"never"))


def test_a_log_whose_entries_were_lost_signs_nothing_more(
    hub: SqlLogDatabase, engine: Engine
) -> None:
    grow(hub, 0, 5)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM ledger_entry WHERE position = 4"))
    log_entries(hub, b"next")
    with pytest.raises(LogDiverged, match="4 entries"):
        sign_head(hub)


@pytest.mark.parametrize("place", [0, 3, 4])
def test_a_log_with_a_flipped_bit_signs_nothing_more(
    hub: SqlLogDatabase, engine: Engine, place: int
) -> None:
    grow(hub, 0, 5)
    with engine.begin() as connection:
        hashes = bytearray(connection.execute(text("SELECT hashes FROM ledger_tile")).scalar_one())
        hashes[place * 32 + 7] ^= 1
        connection.execute(text("UPDATE ledger_tile SET hashes = :h"), {"h": bytes(hashes)})
    log_entries(hub, b"next")
    with pytest.raises(LogDiverged, match="does not have the root"):
        sign_head(hub)


def test_a_log_that_lost_its_last_checkpoint_does_not_sign_another_history(
    hub: SqlLogDatabase, engine: Engine
) -> None:
    grow(hub, 0, 3)
    grow(hub, 3, 5)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM ledger_checkpoint WHERE size = 5"))
    log_entries(hub, b"next")
    with pytest.raises(LogDiverged, match="has size 3, and 5 entries"):
        sign_head(hub)


def test_a_database_of_another_log_is_not_continued(hub: SqlLogDatabase) -> None:
    grow(hub, 0, 1)
    log_entries(hub, b"next")
    with hub.transaction() as store, pytest.raises(OtherLog):
        integrate(store, origin="other.example", signer=LOG, now=START)


def test_two_hubs_that_integrate_at_once_make_one_log(hub: SqlLogDatabase) -> None:
    """Each hub queues its own entries and signs; together they must sign one chain of heads."""
    start = threading.Barrier(3)

    def run(number: int) -> list[Checkpoint]:
        start.wait()
        heads = []
        for step in range(6):
            log_entries(hub, f"{number}/{step}/x".encode(), f"{number}/{step}/y".encode())
            head = sign_head(hub)
            if head is not None:
                heads.append(head)
        return heads

    with ThreadPoolExecutor(3) as pool:
        heads = [head for heads in pool.map(run, range(3)) for head in heads]
    last = sign_head(hub)  # what came while another led was left to the next round
    heads += [] if last is None else [last]
    heads.sort(key=lambda head: head.size)
    assert heads[-1].size == 3 * 6 * 2
    with hub.transaction() as store:
        logged = [e.entry for e in entries(store, 0, heads[-1].size)]
        for old, new in pairwise(heads):
            proof = consistency(store, old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, proof)
    for number in range(3):
        own = [e for e in logged if e.startswith(f"{number}/".encode())]
        assert own == sorted(own)  # what one hub queued in turn keeps its order
    assert root([leaf_hash(e) for e in logged]) == heads[-1].root


def test_of_two_that_would_order_one_does_and_the_other_goes_on(new_database: NewDatabase) -> None:
    """On PostgreSQL. On SQLite the second could not even have begun: there is one writer."""
    engine = open_engine(new_database("postgresql"))
    SQLModel.metadata.create_all(engine, [SQLModel.metadata.tables[n] for n in LOG_TABLES])
    hub, other = SqlLogDatabase(engine), SqlLogDatabase(engine)
    log_entries(hub, b"a")
    with hub.transaction() as store:
        assert integrate(store, origin=ORIGIN, signer=LOG, now=START) is not None
        assert sign_head(other) is None  # it neither waits nor signs
        log_entries(other, b"b")  # and entries come in meanwhile
    head = sign_head(other)
    assert head is not None and head.size == 2
    with pytest.raises(RuntimeError), hub.transaction() as store:
        assert store.lead()
        raise RuntimeError("crash")
    with other.transaction() as store:
        assert store.lead()  # who dies gives the lead up
    engine.dispose()


def test_an_entry_that_was_queued_first_and_committed_last_is_not_lost(
    new_database: NewDatabase,
) -> None:
    """On PostgreSQL, whose writers do not wait for each other."""
    engine = open_engine(new_database("postgresql"))
    SQLModel.metadata.create_all(engine, [SQLModel.metadata.tables[n] for n in LOG_TABLES])
    hub = SqlLogDatabase(engine)
    with hub.transaction() as slow:
        append(slow, b"slow")
        log_entries(hub, b"fast")
        head = sign_head(hub)
        assert head is not None and head.size == 1
    head = sign_head(hub)
    assert head is not None and head.size == 2
    with hub.transaction() as store:
        assert [found.entry for found in entries(store, 0, 2)] == [b"fast", b"slow"]
    engine.dispose()


def test_a_head_is_witnessed_and_its_entries_with_it(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    head = grow(hub, 0, 3)
    name = digest(b"entry 1")
    with hub.transaction() as store:
        assert status(store, name) is EntryStatus.ACKNOWLEDGED
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None
    assert (result.checkpoint, result.cosigned, result.failures, result.witnessed) == (
        head,
        (witness.key.name,),
        {},
        True,
    )
    with hub.transaction() as store:
        assert status(store, name) is EntryStatus.WITNESSED
        (stored,) = store.witnessed()
    assert stored.checkpoint == head


def test_the_witnessed_heads_next_to_a_place_are_found_among_all_others(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    for size in range(1, 10):
        grow(hub, size - 1, size)
        if size % 3 == 0:
            publish(hub, [witness], policy(witness), clock=clock)
    with hub.transaction() as store:
        below = [store.witnessed_to(place) for place in range(10)]
        above = [store.witnessed_above(place) for place in range(10)]
    assert [head and head.size for head in below] == [None] * 3 + [3] * 3 + [6] * 3 + [9]
    assert [head and head.size for head in above] == [3] * 3 + [6] * 3 + [9] * 3 + [None]


def test_a_receipt_satisfies_the_auditor_and_only_for_its_entry(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    grow(hub, 0, 5)
    publish(hub, [witness], policy(witness), clock=clock)
    with hub.transaction() as store:
        proof = Proof.parse(receipt(store, digest(b"entry 3")))
    checked = verify_proof(proof, b"entry 3", policy(witness))
    assert proof.index == 3
    assert checked.checkpoint.size == 5
    with pytest.raises(LedgerError):
        verify_proof(proof, b"entry 2", policy(witness))


def test_a_receipt_prefers_a_head_that_was_cosigned(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    grow(hub, 0, 3)
    publish(hub, [witness], policy(witness), clock=clock)
    grow(hub, 3, 6)
    with hub.transaction() as store:
        early = Proof.parse(receipt(store, digest(b"entry 1")))
        late = Proof.parse(receipt(store, digest(b"entry 4")))
    assert verify_proof(early, b"entry 1", policy(witness)).checkpoint.size == 3
    assert verify_proof(late, b"entry 4", policy()).checkpoint.size == 6


def test_a_head_is_published_once_and_the_next_only_when_the_tree_has_grown(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    assert publish(hub, [witness], policy(witness), clock=clock) is None
    grow(hub, 0, 3)
    assert publish(hub, [witness], policy(witness), clock=clock) is not None
    assert publish(hub, [witness], policy(witness), clock=clock) is None
    grow(hub, 3, 4)
    grow(hub, 4, 7)
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None and result.checkpoint.size == 7
    assert witness.asked == [0, 3]


def test_one_failing_witness_does_not_stop_the_others_and_is_asked_again(
    hub: SqlLogDatabase,
    engine: Engine,
    create_tables: Callable[..., None],
    clock: Clock,
    tmp_path: Path,
) -> None:
    others = open_engine(f"sqlite:///{tmp_path}/other.db")
    for memory in (others, engine):
        create_tables(memory, "witness_")
    down, up = (LocalWitness(m, f"w{n}.example", clock) for n, m in enumerate((others, engine)))
    down.down = True
    both = policy(down, up)
    grow(hub, 0, 3)
    result = publish(hub, [down, up], both, clock=clock)
    assert result is not None
    assert result.cosigned == (up.key.name,)
    assert isinstance(result.failures[down.key.name], WitnessUnreachable)
    assert not result.witnessed
    with hub.transaction() as store:
        assert status(store, digest(b"entry 0")) is EntryStatus.ACKNOWLEDGED
        half = Proof.parse(receipt(store, digest(b"entry 0")))
    assert verify_proof(half, b"entry 0", policy(up)).cosigned
    down.down = False
    result = publish(hub, [down, up], both, clock=clock)
    assert result is not None and result.witnessed
    assert len(up.asked) == 1  # what it gave is kept, and it is left in peace
    assert publish(hub, [down, up], both, clock=clock) is None
    others.dispose()


def test_a_line_from_a_wrong_clock_is_not_kept_until_the_clock_is_right(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    grow(hub, 0, 3)
    for wrong in (timedelta(minutes=5), -timedelta(minutes=5)):
        witness.clock = Clock()
        witness.clock.time = clock.time + wrong
        result = publish(hub, [witness], policy(witness), clock=clock)
        assert result is not None and not result.witnessed
        assert "by its clock" in str(result.failures[witness.key.name])
        with hub.transaction() as store:
            assert store.latest_cosigned() is None
    witness.clock = clock
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None and result.witnessed


def test_a_head_is_witnessed_while_a_slow_witness_is_still_awaited(
    hub: SqlLogDatabase,
    engine: Engine,
    create_tables: Callable[..., None],
    clock: Clock,
    tmp_path: Path,
) -> None:
    others = [open_engine(f"sqlite:///{tmp_path}/w{n}.db") for n in range(3)]
    for memory in others:
        create_tables(memory, "witness_")
    slow, *quick = (LocalWitness(m, f"w{n}.example", clock) for n, m in enumerate(others))
    really = slow.add_checkpoint

    def late(old_size: int, proof: Sequence[bytes], note: Note) -> Sequence[Signature]:
        for _ in range(250):
            with hub.transaction() as store:
                if store.latest_witnessed() is not None:
                    return really(old_size, proof, note)
            time.sleep(0.02)
        raise WitnessUnreachable("the others' quorum was not taken up meanwhile")

    slow.add_checkpoint = late  # type: ignore[method-assign]
    grow(hub, 0, 3)
    result = publish(hub, [slow, *quick], policy(slow, *quick, threshold="2"), clock=clock)
    assert result is not None and result.witnessed
    assert (len(result.cosigned), result.failures) == (3, {})
    for memory in others:
        memory.dispose()


def test_a_witness_at_another_size_is_sent_the_proof_from_there(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock, engine: Engine
) -> None:
    grow(hub, 0, 3)
    publish(hub, [witness], policy(witness), clock=clock)
    with engine.begin() as connection:  # a crash after the witness stored, before we did
        connection.execute(text("DELETE FROM ledger_cosignature"))
    grow(hub, 3, 8)
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None and result.witnessed
    assert witness.asked == [0, 0, 3]


def test_what_waits_and_the_last_index_are_found_without_reading_the_log(
    hub: SqlLogDatabase, engine: Engine
) -> None:
    asked: list[tuple[str, object]] = []
    event.listen(engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
    with hub.transaction() as store:
        store.pending(5)
        store.placed()
    postgres = engine.dialect.name == "postgresql"
    explain = "EXPLAIN" if postgres else "EXPLAIN QUERY PLAN"
    with engine.connect() as connection:
        if postgres:  # of a small table it would rather read all
            connection.execute(text("SET enable_seqscan = off"))
        plans = [
            str(connection.exec_driver_sql(f"{explain} {sql}", values).all())
            for sql, values in list(asked)
            if "FROM ledger_entry" in sql
        ]
    pending, placed = plans
    assert "ix_ledger_entry_pending" in pending
    assert "ix_ledger_entry_position" in placed


def test_a_restored_backup_is_recognised_by_the_witness_that_is_ahead(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock, engine: Engine
) -> None:
    grow(hub, 0, 3)
    grow(hub, 3, 5)
    publish(hub, [witness], policy(witness), clock=clock)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM ledger_cosignature"))
        connection.execute(text("DELETE FROM ledger_checkpoint WHERE size = 5"))
        connection.execute(text("DELETE FROM ledger_entry WHERE position >= 3"))
        connection.execute(text("UPDATE ledger_tile SET hashes = substr(hashes, 1, 3 * 32)"))
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None and not result.witnessed
    failure = result.failures[witness.key.name]
    assert isinstance(failure, WitnessDisagrees)
    assert "old copy" in str(failure)
    # Grown past the witness with other entries, it is still refused: the history is another.
    log_entries(hub, b"x", b"y", b"z")
    sign_head(hub)
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None
    assert isinstance(result.failures[witness.key.name], WitnessDisagrees)
    assert not result.witnessed


def test_a_fork_of_the_same_size_is_recognised(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock, engine: Engine
) -> None:
    grow(hub, 0, 2)
    publish(hub, [witness], policy(witness), clock=clock)
    with engine.begin() as connection:
        for table in ("cosignature", "checkpoint", "entry", "tile"):
            connection.execute(text(f"DELETE FROM ledger_{table}"))
    log_entries(hub, b"x", b"y")
    sign_head(hub)
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None
    failure = result.failures[witness.key.name]
    assert isinstance(failure, WitnessDisagrees)
    assert "forked" in str(failure)


def test_a_cosignature_by_another_key_is_not_kept(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    grow(hub, 0, 2)
    honest = policy(witness)
    witness.signer = SigningKey.generate()
    result = publish(hub, [witness], honest, clock=clock)
    assert result is not None and not result.cosigned and not result.witnessed
    assert isinstance(result.failures[witness.key.name], WitnessUnreachable)


def test_a_forged_cosignature_is_not_kept(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock
) -> None:
    grow(hub, 0, 2)
    forged = Signature(witness.key.name, witness.key.key_id, b"\0" * 7 + b"\1" + b"\0" * 64)
    witness.add_checkpoint = lambda *_: [forged]  # type: ignore[method-assign]
    result = publish(hub, [witness], policy(witness), clock=clock)
    assert result is not None and not result.witnessed
    assert isinstance(result.failures[witness.key.name], SignatureRefused)
    with hub.transaction() as store:
        latest = store.latest()
        assert latest is not None
        assert len(latest.note.signatures) == 1


def test_what_is_stored_is_the_note_that_was_signed(
    hub: SqlLogDatabase, witness: LocalWitness, clock: Clock, engine: Engine
) -> None:
    head = grow(hub, 0, 2)
    publish(hub, [witness], policy(witness), clock=clock)
    with Session(engine) as session, session.begin():
        stored = SqlLogStore(session).at(2)
    assert open_checkpoint(stored.note, [LOG_KEY]) == head
    assert stored.signed_at == START
    assert Note.parse(stored.note.to_bytes()) == stored.note
    assert list(policy(witness).cosigned_by(stored.note)) == ["w0"]
