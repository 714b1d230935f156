"""A log that was restored from an old backup, brought forward from a full copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlmodel import Session

from api.database import open_engine
from crypto.digest import digest
from crypto.keys import SigningKey
from ledger.adapters.sql import SqlLogDatabase, SqlLogStore
from ledger.copies import mirror
from ledger.errors import LogDiverged, LogInUse, OtherLog, SignatureRefused, TileRefused
from ledger.log import EntryStatus, append, entries, integrate, publish, receipt, status
from ledger.recovery import Recovered, recover
from ledger.tiles import LogSource
from ledger.verify.checkpoint import open_checkpoint
from ledger.verify.cosignature import cosign
from ledger.verify.note import Note, Signature, cosigner_key, log_key
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof, verify_proof
from ledger.verify.tiles import FolderSource

ORIGIN = "log.example/recovered"
SIGNER, WITNESS = SigningKey.generate(), SigningKey.generate()
KEY = log_key(ORIGIN, SIGNER)
NOW = datetime(2026, 3, 4, tzinfo=UTC)
LATER = datetime(2026, 3, 5, tzinfo=UTC)


class Clock:
    def now(self) -> datetime:
        return NOW


class Cosigning:
    key = cosigner_key("witness.example/w", WITNESS)
    keys = (key,)

    def add_checkpoint(self, _old: int, _proof: Sequence[bytes], note: Note) -> list[Signature]:
        return [cosign(note.text, self.key.name, WITNESS, now=NOW)]


POLICY = Policy.parse(f"log {KEY}\nwitness w {Cosigning.key}\nquorum w\n".encode())


def entry(number: int) -> bytes:
    return f"entry {number}".encode()


def grow(database: SqlLogDatabase, *data: bytes) -> None:
    with database.transaction() as store:
        for one in data:
            append(store, one)
        integrate(store, origin=ORIGIN, signer=SIGNER, now=NOW)
    publish(database, [Cosigning()], POLICY, clock=Clock())


def restore(database: SqlLogDatabase, copy: Path, *, repair: bool = False) -> Recovered:
    with database.transaction() as store:
        source = FolderSource(copy)
        return recover(store, source, origin=ORIGIN, policy=POLICY, now=LATER, repair=repair)


Fresh = Callable[[], SqlLogDatabase]


@pytest.fixture
def fresh(new_database: Callable[[str], str], create_tables: Callable[..., None]) -> Fresh:
    def new() -> SqlLogDatabase:
        engine = open_engine(new_database("sqlite"))
        create_tables(engine, "ledger_")
        return SqlLogDatabase(engine)

    return new


@pytest.fixture
def backup(engine: Engine, create_tables: Callable[..., None]) -> SqlLogDatabase:
    """On each database: the log when it had 300 entries."""
    create_tables(engine, "ledger_")
    database = SqlLogDatabase(engine)
    grow(database, *(entry(n) for n in range(300)))
    return database


@pytest.fixture
def copy(tmp_path: Path, fresh: Fresh) -> Path:
    """Of the log when it had 900 entries."""
    database = fresh()
    grow(database, *(entry(n) for n in range(300)))
    grow(database, *(entry(n) for n in range(300, 900)))
    folder = tmp_path / "copy"
    mirror(folder, LogSource(database), POLICY)
    return folder


def test_a_restored_database_gets_back_all_that_it_forgot(
    backup: SqlLogDatabase, copy: Path
) -> None:
    done = restore(backup, copy)
    assert (done.old_size, done.checkpoint.size, done.entries) == (300, 900, 600)
    with backup.transaction() as store:
        assert [e.entry for e in entries(store, 0, 900)] == [entry(n) for n in range(900)]
        proof = Proof.parse(receipt(store, digest(entry(899))))
        assert verify_proof(proof, entry(899), POLICY).checkpoint == done.checkpoint
        assert status(store, digest(entry(899))) is EntryStatus.WITNESSED
    grow(backup, b"and on it goes")
    with backup.transaction() as store:
        latest = store.latest()
        assert latest is not None and latest.size == 901
    assert restore(backup, copy) == Recovered(901, done.checkpoint, 0)


def test_what_waited_gets_its_old_place_and_what_the_copy_lacks_waits_on(
    backup: SqlLogDatabase, copy: Path
) -> None:
    with backup.transaction() as store:
        for data in (b"not in the copy", entry(500), entry(301)):
            append(store, data)
    restore(backup, copy)
    with backup.transaction() as store:
        assert store.index_of(digest(entry(500))) == 500
        assert store.index_of(digest(entry(301))) == 301
        assert status(store, digest(b"not in the copy")) is EntryStatus.PENDING
        integrate(store, origin=ORIGIN, signer=SIGNER, now=LATER)
        assert store.index_of(digest(b"not in the copy")) == 900


def test_a_log_is_rebuilt_from_nothing(fresh: Fresh, copy: Path) -> None:
    database = fresh()
    done = restore(database, copy)
    assert (done.old_size, done.entries) == (0, 900)
    again = LogSource(database)
    assert open_checkpoint(Note.parse(again.read("checkpoint")), [KEY]) == done.checkpoint
    with pytest.raises(LogDiverged):
        grow_from(database, size=5)  # the tree is whole: nothing fits in its middle


def grow_from(database: SqlLogDatabase, *, size: int) -> None:
    with database.transaction() as store:
        append(store, b"forged")
        store.adopt([digest(b"forged")], size)


def refused(database: SqlLogDatabase, copy: Path, error: type[Exception], words: str) -> None:
    with database.transaction() as store:
        before = (store.latest(), store.placed())
    with pytest.raises(error, match=words):
        restore(database, copy)
    with database.transaction() as store:
        assert (store.latest(), store.placed()) == before


def test_a_forked_log_is_left_as_it_is(fresh: Fresh, copy: Path) -> None:
    database = fresh()
    grow(database, *(entry(n) for n in range(299)), b"something else")
    refused(database, copy, LogDiverged, "forked")


def test_a_longer_log_of_another_history_is_left_as_it_is(fresh: Fresh, copy: Path) -> None:
    database = fresh()
    grow(database, *(entry(n) for n in range(899)), b"something else", b"and more")
    refused(database, copy, LogDiverged, "entry 899")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE ledger_entry SET entry = :value WHERE position = 7", "entry 7 of the database"),
        (
            "UPDATE ledger_tile SET hashes = zeroblob(8192) WHERE level = 0 AND position = 0",
            "tile/0/000 of the database",
        ),
    ],
)
def test_a_database_that_was_altered_is_named_and_not_built_upon(
    fresh: Fresh, copy: Path, change: str, words: str
) -> None:
    database = fresh()
    grow(database, *(entry(n) for n in range(300)))
    with Session(database._engine) as session, session.begin():
        session.execute(text(change), {"value": b"x"} if ":value" in change else {})
    refused(database, copy, LogDiverged, words)


DAMAGE = {
    "entry 7": "UPDATE ledger_entry SET entry = :value WHERE position = 7",
    "entry 290": "DELETE FROM ledger_entry WHERE position = 290",
    "entry 299": "DELETE FROM ledger_entry WHERE position = 299",
    "tile/0/000": "DELETE FROM ledger_tile WHERE level = 0 AND position = 0",
    "tile/0/001.p/44": "UPDATE ledger_tile SET hashes = :value WHERE level = 0 AND position = 1",
    "tile/1/000.p/1": "UPDATE ledger_tile SET hashes = :value WHERE level = 1 AND position = 0",
}


@pytest.mark.parametrize("grown", [300, 302])
def test_what_is_damaged_is_put_right_where_that_is_asked(
    backup: SqlLogDatabase, copy: Path, tmp_path: Path, grown: int
) -> None:
    """grown: the database has as much as the copy, or more."""
    small = tmp_path / "small"
    mirror(small, LogSource(backup), POLICY)
    if grown > 300:
        grow(backup, *(entry(n) for n in range(300, grown)))
    damaged = {what for what in DAMAGE if grown == 300 or what != "entry 299"}
    with Session(backup._engine) as session, session.begin():
        for what in damaged:
            change = text(DAMAGE[what])
            values = {"value": b"\1" * 46 * 32} if ":value" in DAMAGE[what] else {}
            if what == "tile/1/000.p/1":
                values = {"value": b"\1" * 32}
            session.execute(change, values)
    if grown > 300:  # beyond the copy, a tile cannot be put right
        refused_repair(backup, small)
        return
    assert set(restore(backup, small, repair=True).repaired) == damaged
    assert restore(backup, copy).entries == 600
    grow(backup, b"and on it goes")
    with backup.transaction() as store:
        assert [e.entry for e in entries(store, 0, 900)] == [entry(n) for n in range(900)]


def refused_repair(database: SqlLogDatabase, copy: Path) -> None:
    with database.transaction() as store:
        before = store.entries(0, 400)
    with pytest.raises(LogDiverged, match="Nothing was changed"):
        restore(database, copy, repair=True)
    with database.transaction() as store:
        assert store.entries(0, 400) == before


def test_a_fork_is_not_repaired_away(fresh: Fresh, copy: Path) -> None:
    database, longer = fresh(), fresh()
    grow(database, *(entry(n) for n in range(299)), b"something else")
    with pytest.raises(LogDiverged, match="forked"):
        restore(database, copy, repair=True)
    grow(longer, *(entry(n) for n in range(899)), b"something else", b"and more")
    refused_repair(longer, copy)


def test_a_copy_with_a_flipped_bit_is_refused(fresh: Fresh, copy: Path) -> None:
    database = fresh()
    for path in ("tile/entries/003.p/132", "tile/0/001", "tile/1/000.p/3"):
        kept = (copy / path).read_bytes()
        (copy / path).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        refused(database, copy, TileRefused, path)
        (copy / path).write_bytes(kept)
    note = (copy / "checkpoint").read_bytes()
    (copy / "checkpoint").write_bytes(note.replace(b"\n900\n", b"\n899\n"))
    refused(database, copy, SignatureRefused, "does not verify")


def test_a_copy_of_another_log_is_refused(fresh: Fresh, copy: Path) -> None:
    with fresh().transaction() as store, pytest.raises(OtherLog):
        recover(store, FolderSource(copy), origin="log.example/x", policy=POLICY, now=LATER)


def test_a_log_that_a_hub_is_ordering_is_not_touched(
    new_database: Callable[[str], str], create_tables: Callable[..., None], copy: Path
) -> None:
    engine = open_engine(new_database("postgresql"))
    create_tables(engine, "ledger_")
    with Session(engine) as session, session.begin():
        assert SqlLogStore(session).lead()
        with pytest.raises(LogInUse):
            restore(SqlLogDatabase(engine), copy)
    engine.dispose()
