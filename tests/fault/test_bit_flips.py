"""One flipped bit anywhere in what is stored is found, and named.

In the database by the log's check of itself and, where it matters to the next signature, before
that is made; in published files by whoever reads them; in a witness's memory by the witness, which
then cosigns nothing rather than accuse an honest log.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.witness import witness_app
from crypto.adapters.sm2 import Sm2Key
from ledger.adapters.sm3_sql import SqlSm3Database
from ledger.adapters.sql import SqlLogDatabase
from ledger.check import check_log, check_sm3
from ledger.copies import publish_files
from ledger.errors import LedgerError, LogDiverged, MemoryDamaged, OtherLog, TileRefused
from ledger.log import append, consistency, publish
from ledger.ports import Sm3Head
from ledger.tiles import LogSource
from ledger.verify.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.verify.history import SM3_SUFFIX
from ledger.verify.note import Note, log_key
from ledger.verify.sm3 import Sm3Tree
from ledger.verify.tiles import FolderSource, open_tree
from ledger.witness import AddCheckpoint
from tests.ports.test_ledger_log import (
    LOG_KEY,
    ORIGIN,
    START,
    LocalWitness,
    grow,
    policy,
    sign_head,
)
from tests.ports.test_ledger_newest import Makes

SIZE = 300  # one full tile of each kind, partial ones, and a level above
HEADS = (100, 256, 299, SIZE)
SM3_ORIGIN = ORIGIN + SM3_SUFFIX


class Stored:
    """A log with a witness and published files, each in files of its own."""

    def __init__(self, makes: Makes) -> None:
        self.database: SqlLogDatabase = makes.log()
        self.witness: LocalWitness = makes.witness()
        self.path, self.files = makes.path, makes.path / "files"

    def fill(self) -> None:
        for start, end in zip((0, *HEADS), HEADS, strict=False):
            grow(self.database, start, end)
            publish(self.database, [self.witness], policy(self.witness), clock=self.witness.clock)
        self.files.mkdir()
        (self.files / "checkpoint").touch()
        publish_files(self.files, LogSource(self.database), open_note)

    def found(self) -> list[str]:
        keys = self.witness.keys
        return [str(d) for d in check_log(self.database, log_keys=[LOG_KEY], witnesses=keys)]

    def flip(
        self, table: str, column: str, where: str, *, at: int = 0, bit: int = 0, name: str = "log"
    ) -> None:
        """Flip one bit of one value: of a number, that bit; of bytes or a text, of byte `at`."""
        with closing(sqlite3.connect(self.path / f"{name}.db")) as connection:
            found = connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
            (value,) = found
            if isinstance(value, int):
                new: object = value ^ 1 << bit
            else:
                data = bytearray(value if isinstance(value, bytes) else value.encode())
                data[at] ^= 1 << bit
                new = bytes(data) if isinstance(value, bytes) else data.decode("latin-1")
            connection.execute("PRAGMA foreign_keys=OFF")
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (new,))
            connection.commit()


def open_note(note: bytes) -> Checkpoint:
    return open_checkpoint(Note.parse(note), [LOG_KEY])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, create_tables: Callable[..., None]) -> Stored:
    makes = Makes(tmp_path_factory.mktemp("filled"), create_tables)
    stored = Stored(makes)
    stored.fill()
    makes.close()
    return stored


@pytest.fixture
def stored(filled: Stored, tmp_path: Path, create_tables: Callable[..., None]) -> Iterator[Stored]:
    shutil.copytree(filled.path, tmp_path / "copy")
    makes = Makes(tmp_path / "copy", create_tables)
    stored = Stored(makes)
    stored.witness.signer = filled.witness.signer
    stored.witness.key, stored.witness.keys = filled.witness.key, filled.witness.keys
    yield stored
    makes.close()


def test_a_log_that_nobody_touched_is_whole(stored: Stored) -> None:
    assert stored.found() == []
    with stored.database.transaction() as store:
        append(store, b"pending")  # not signed yet: no part of what is checked
    assert stored.found() == []


@pytest.mark.parametrize(
    ("column", "where", "named"),
    [
        ("entry", "position = 7", "entry 7: is not the one that was signed"),
        ("entry", "position = 299", "entry 299: is not the one that was signed"),
        ("digest", "position = 7", "entry 7: is not found by its digest"),
        ("position", "position = 299", "entry 299: is not stored, or not as bytes"),
    ],
)
def test_a_flipped_bit_in_an_entry_is_named(
    stored: Stored, column: str, where: str, named: str
) -> None:
    stored.flip("ledger_entry", column, where, bit=10 if column == "position" else 0)
    assert named in stored.found()


@pytest.mark.parametrize("changed", ["CAST(entry AS TEXT)", "CAST(X'ff80' AS TEXT)", "7"])
def test_an_entry_that_one_bit_of_its_header_made_a_text_or_a_number_is_named(
    stored: Stored, changed: str
) -> None:
    """SQLite keeps the type with the value."""
    with closing(sqlite3.connect(stored.path / "log.db")) as connection:
        connection.execute(f"UPDATE ledger_entry SET entry = {changed} WHERE position = 7")
        connection.commit()
    assert stored.found() == ["entry 7: is not stored, or not as bytes"]


@pytest.mark.parametrize(
    ("where", "at", "named"),
    [
        ("level = 0 AND position = 0", 0, "tile/0/000: "),
        ("level = 0 AND position = 0", 255 * 32 + 31, "tile/0/000: "),
        ("level = 0 AND position = 1", 0, "tile/0/001.p/44: hash 0 "),
        ("level = 1 AND position = 0", 5, "tile/1/000.p/1: hash 0 "),
    ],
)
def test_a_flipped_bit_in_a_tile_is_named(stored: Stored, where: str, at: int, named: str) -> None:
    stored.flip("ledger_tile", "hashes", where, at=at)
    (only,) = stored.found()
    assert only.startswith(named)


@pytest.mark.parametrize("size", [100, SIZE])
@pytest.mark.parametrize("at", [0, 18, 25, 60, 110])
def test_a_flipped_bit_in_a_checkpoint_is_named(stored: Stored, size: int, at: int) -> None:
    stored.flip("ledger_checkpoint", "note", f"size = {size}", at=at)
    found = stored.found()
    where = "the newest checkpoint" if size == SIZE else f"the checkpoint of size {size}"
    assert any(one.startswith(where) for one in found), found


def test_a_checkpoint_filed_under_another_size_is_named(stored: Stored) -> None:
    stored.flip("ledger_checkpoint", "size", "size = 100", bit=0)
    assert any("size 101" in one and "states size 100" in one for one in stored.found())


@pytest.mark.parametrize("size", [100, SIZE])
@pytest.mark.parametrize(
    ("column", "at"),
    [("line", 0), ("line", 8), ("line", 24), ("line", 60), ("witness", 0), ("key_id", 3)],
)
def test_a_flipped_bit_in_a_cosignature_is_named(
    stored: Stored, size: int, column: str, at: int
) -> None:
    stored.flip("ledger_cosignature", column, f"size = {size}", at=at)
    where = "the newest checkpoint" if size == SIZE else f"the checkpoint of size {size}"
    found = stored.found()
    assert any(one.startswith(where) for one in found), found


@pytest.mark.parametrize(
    ("table", "column", "where", "at"),
    [
        ("ledger_tile", "hashes", "level = 1 AND position = 0", 0),
        ("ledger_tile", "hashes", "level = 0 AND position = 1", 31),
        ("ledger_checkpoint", "note", f"size = {SIZE}", 30),
        ("ledger_checkpoint", "note", f"size = {SIZE}", 0),
        ("ledger_checkpoint", "size", f"size = {SIZE}", 0),
        ("ledger_cosignature", "line", f"size = {SIZE}", 0),
        ("ledger_entry", "position", "position = 299", 0),
    ],
)
def test_what_the_next_signature_rests_on_is_checked_before_it_is_made(
    stored: Stored, table: str, column: str, where: str, at: int
) -> None:
    stored.flip(table, column, where, at=at, bit=10 if column in ("size", "position") else 0)
    with stored.database.transaction() as store:
        append(store, b"next")
    with pytest.raises((LogDiverged, OtherLog)):
        sign_head(stored.database)


@pytest.mark.parametrize(
    ("column", "where", "at", "named"),
    [
        ("note", "size = 200", 20, "the SM3 head of size 200: "),
        ("note", f"size = {SIZE}", 100, f"the SM3 head of size {SIZE}: "),
        ("edge", "size = 200", 0, "the SM3 head of size 200: is not of these entries"),
        ("size", "size = 200", 0, "the SM3 head of size 201: "),
    ],
)
def test_a_flipped_bit_in_an_sm3_head_is_named(
    stored: Stored, column: str, where: str, at: int, named: str
) -> None:
    signer = Sm2Key.generate()
    database = SqlSm3Database(stored.database._engine)
    for end in (200, SIZE):
        with stored.database.transaction() as log:
            logged = log.entries(0, end)
        tree = Sm3Tree()
        tree.add(one.entry for one in logged)
        head = Checkpoint(SM3_ORIGIN, end, tree.root)
        with database.transaction() as store:
            store.add(Sm3Head(head, sign_checkpoint(head, signer), tree.edge, START))

    def found() -> list[str]:
        keys = [log_key(SM3_ORIGIN, signer)]
        return [str(damage) for damage in check_sm3(stored.database, database, keys=keys)]

    assert found() == []
    stored.flip("ledger_sm3_head", column, where, at=at)
    (only,) = found()
    assert only.startswith(named)


def every_file(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "tile").rglob("*") if path.is_file())


def test_a_flipped_bit_in_a_published_file_is_named_by_whoever_reads_it(stored: Stored) -> None:
    files = every_file(stored.files)
    assert len(files) >= 5
    for path in files:
        whole = path.read_bytes()
        for at in {0, 1, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(LedgerError) as caught:
                read_all(stored.files)
            assert isinstance(caught.value, TileRefused)
            assert caught.value.path == str(path.relative_to(stored.files)), (path, at)
        path.write_bytes(whole)
    read_all(stored.files)


def test_a_flipped_bit_in_the_published_checkpoint_is_refused(stored: Stored) -> None:
    path = stored.files / "checkpoint"
    whole = path.read_bytes()
    signed = len(whole) - len(whole.split(b"\n\n")[1])
    for at in range(signed):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(LedgerError):
            read_all(stored.files)


def read_all(folder: Path) -> None:
    source = FolderSource(folder)
    tree = open_tree(source, open_note(source.read("checkpoint")))
    assert sum(1 for _ in tree.entries()) == SIZE


@pytest.mark.parametrize(
    ("column", "at", "bit"),
    [("note", 2, 0), ("note", 19, 0), ("note", 40, 0), ("size", 0, 2), ("origin", 0, 0)],
)
def test_a_witness_whose_memory_was_altered_cosigns_nothing_and_says_so(
    stored: Stored, column: str, at: int, bit: int
) -> None:
    stored.flip("witness_head", column, "size > 0", at=at, bit=bit, name="w")
    grow(stored.database, SIZE, SIZE + 1)
    witness = stored.witness
    result = publish(stored.database, [witness], policy(witness), clock=witness.clock)
    assert result is not None and not result.witnessed
    (failure,) = result.failures.values()
    assert isinstance(failure, MemoryDamaged)
    app = witness_app(
        engine=witness.engine,
        signers=[witness.signer],
        name=witness.key.name,
        trusted_logs=[LOG_KEY],
        clock=witness.clock,
    )
    with stored.database.transaction() as store:
        note = store.at(SIZE + 1).note.to_bytes()
        proof = consistency(store, SIZE, SIZE + 1)
    with TestClient(app) as client:
        ready = client.get("/readyz")
        body = AddCheckpoint(SIZE, proof, note).to_bytes()
        answer = client.post("/add-checkpoint", content=body)
    assert ready.status_code == 503 and "altered" in ready.text
    assert answer.status_code == 500 and "altered" in answer.text
