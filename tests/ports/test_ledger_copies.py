"""Tiles made from the database, static files kept in step with it, and full copies."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from crypto.keys import SigningKey
from ledger.adapters.sql import SqlLogDatabase
from ledger.copies import Copied, PublishedFiles, mirror, publish_files
from ledger.errors import (
    ConsistencyRefused,
    FolderRefused,
    LogBehind,
    LogDiverged,
    NotCompared,
    NotCovered,
    SignatureRefused,
    SourceUnreachable,
    TileMissing,
    TileRefused,
)
from ledger.log import append, integrate, publish
from ledger.newest import require_newest
from ledger.ports import LogStore
from ledger.tiles import LogSource, tile_bytes
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.heads import HEADS_PER_PAGE, page_bytes, parse_page, read_heads
from ledger.verify.merkle import leaf_hash
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, Note, Signature, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.tile_names import CHECKPOINT, ENTRIES, Tile, tiles_between
from ledger.verify.tiles import FolderSource, TileSource, bundle_bytes, open_tree

ORIGIN = "log.example/copies"
SIGNER = SigningKey.generate()
KEY = VerifierKey(ORIGIN, LOG_SIGNATURE, SIGNER.public)
POLICY = Policy.parse(f"log {KEY}\nquorum none\n".encode())
NOW = datetime(2026, 3, 4, tzinfo=UTC)


class FixedClock:
    def now(self) -> datetime:
        return NOW


def open_note(note: bytes) -> Checkpoint:
    return open_checkpoint(Note.parse(note), [KEY])


def entry(number: int) -> bytes:
    return f"entry {number}".encode()


@pytest.fixture
def hub(engine: Engine, create_tables: Callable[..., None]) -> SqlLogDatabase:
    create_tables(engine, "ledger_")
    return SqlLogDatabase(engine)


@pytest.fixture
def lite(
    new_database: Callable[[str], str], create_tables: Callable[..., None]
) -> Callable[[], SqlLogDatabase]:
    """Makes logs on SQLite, for what does not depend on the database."""
    from api.database import open_engine

    def new() -> SqlLogDatabase:
        engine = open_engine(new_database("sqlite"))
        create_tables(engine, "ledger_")
        return SqlLogDatabase(engine)

    return new


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


class Remembered:
    """A source that reads each file once."""

    def __init__(self, source: TileSource) -> None:
        self.source = source
        self.files: dict[str, bytes] = {}

    def read(self, path: str) -> bytes:
        if path not in self.files:
            self.files[path] = self.source.read(path)
        return self.files[path]


def grow(database: SqlLogDatabase, end: int, *, name: Callable[[int], bytes] = entry) -> None:
    """Up to `end` entries, signed, with the quorum of a policy that asks for none."""
    with database.transaction() as store:
        for number in range(store.placed(), end):
            append(store, name(number))
        integrate(store, origin=ORIGIN, signer=SIGNER, now=NOW)
    publish(database, [], POLICY, clock=FixedClock())


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.parent.name != "heads"
    }


def begin(folder: Path) -> None:
    """What an operator does once, for a folder of static files that is new."""
    folder.mkdir(exist_ok=True)
    if not (folder / CHECKPOINT).exists():
        (folder / CHECKPOINT).touch()


def step(folder: Path, source: TileSource) -> Copied:
    begin(folder)
    done = publish_files(folder, source, open_note)
    assert done is not None
    return done


# Tiles from the database


def test_tiles_hold_the_leaf_hashes_and_bundles_the_entries(hub: SqlLogDatabase) -> None:
    grow(hub, 300)
    leaves = [leaf_hash(entry(number)) for number in range(300)]
    with hub.transaction() as store:
        assert tile_bytes(store, Tile(0, 0)) == b"".join(leaves[:256])
        assert tile_bytes(store, Tile(0, 1, 44)) == b"".join(leaves[256:])
        assert tile_bytes(store, Tile(0, 1, 3)) == b"".join(leaves[256:259])
        bundle = tile_bytes(store, Tile(ENTRIES, 1, 2))
    assert bundle == bundle_bytes([entry(256), entry(257)])


def test_the_whole_log_is_read_back_from_its_tiles(hub: SqlLogDatabase) -> None:
    for size in (1, 255, 256, 257, 600):
        grow(hub, size)
        source = LogSource(hub)
        tree = open_tree(source, open_note(source.read(CHECKPOINT)))
        assert list(tree.entries()) == [(n, entry(n)) for n in range(size)]


def test_nothing_is_served_that_is_not_signed(hub: SqlLogDatabase) -> None:
    def refused(store: LogStore, *tiles: Tile) -> None:
        for tile in tiles:
            with pytest.raises(NotCovered, match=tile.path):
                tile_bytes(store, tile)

    with hub.transaction() as store:
        append(store, entry(0))
        refused(store, Tile(0, 0, 1), Tile(ENTRIES, 0, 1), Tile(0, 0), Tile(5, 0))
    grow(hub, 257)
    with hub.transaction() as store:
        append(store, b"pending")
        refused(store, Tile(0, 1, 2), Tile(ENTRIES, 1, 2), Tile(0, 1), Tile(0, 2, 1))
        refused(store, Tile(1, 0, 2), Tile(1, 0), Tile(2, 0, 1), Tile(63, 0, 1))


# Static files


def test_the_files_are_those_of_the_log_and_no_others(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    for size in (3, 200, 256, 300, 700):
        grow(database, size)
        done = step(folder, LogSource(database))
        assert done.checkpoint.size == size
        wanted = {tile.path for tile in tiles_between(0, size)} | {CHECKPOINT}
        found = files_of(folder)
        assert wanted <= found.keys()
        # Beside them: partial tiles of older heads that have not become full yet.
        assert all(not Tile.parse(path).full for path in found.keys() - wanted)
        tree = open_tree(FolderSource(folder), open_note(found[CHECKPOINT]))
        assert [data for _, data in tree.entries()] == [entry(n) for n in range(size)]
    assert "tile/0/000.p/3" not in files_of(folder)  # outgrown


def test_without_news_nothing_is_written(folder: Path, lite: Callable[[], SqlLogDatabase]) -> None:
    database = lite()
    begin(folder)
    assert publish_files(folder, LogSource(database), open_note) is None
    grow(database, 5)
    assert step(folder, LogSource(database)).files == 2
    before = {path: (folder / path).stat().st_mtime_ns for path in files_of(folder)}
    assert step(folder, LogSource(database)).files == 0
    assert before == {path: (folder / path).stat().st_mtime_ns for path in files_of(folder)}


def test_a_crash_at_any_write_leaves_a_checkpoint_with_all_its_files(
    tmp_path: Path, lite: Callable[[], SqlLogDatabase], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = lite()
    grow(database, 250)
    really_replace, really_sync = Path.replace, os.fsync

    class Crash(BaseException):
        pass

    def run(folder: Path, crash_at: int) -> int:
        """Counts renames and syncs; stops before the given one."""
        count = 0

        def strike() -> None:
            nonlocal count
            count += 1
            if count == crash_at:
                raise Crash

        def replace(self: Path, target: Path) -> Path:
            strike()
            return really_replace(self, target)

        def fsync(descriptor: int) -> None:
            strike()
            really_sync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            patch.setattr(os, "fsync", fsync)
            step(folder, source)
        return count

    step(tmp_path / "0", LogSource(database))
    start = files_of(tmp_path / "0")
    grow(database, 270)
    source = Remembered(LogSource(database))
    last = run(tmp_path / "0", 0)
    assert last > 15
    for crash_at in range(1, last + 1):
        folder = tmp_path / str(crash_at)
        for path, data in start.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        with pytest.raises(Crash):
            run(folder, crash_at)
        checkpoint = open_note((folder / CHECKPOINT).read_bytes())
        assert checkpoint.size in (250, 270)
        assert len(list(open_tree(FolderSource(folder), checkpoint).entries())) == checkpoint.size
        assert step(folder, source).checkpoint.size == 270
        assert (
            len(
                list(
                    open_tree(
                        FolderSource(folder), open_note((folder / CHECKPOINT).read_bytes())
                    ).entries()
                )
            )
            == 270
        )


def test_a_published_file_is_never_overwritten_with_other_bytes(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 5)
    step(folder, LogSource(database))
    grow(database, 9)
    forged = folder / "tile/0/000.p/9"
    forged.write_bytes(b"\0" * 9 * 32)
    with pytest.raises(LogDiverged, match="other bytes"):
        step(folder, LogSource(database))
    assert forged.read_bytes() == b"\0" * 9 * 32
    assert open_note((folder / CHECKPOINT).read_bytes()).size == 5
    forged.unlink()
    assert step(folder, LogSource(database)).checkpoint.size == 9


def test_an_older_database_does_not_replace_what_was_published(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database, restored = lite(), lite()
    grow(database, 9)
    step(folder, LogSource(database))
    before = files_of(folder)
    grow(restored, 5)
    with pytest.raises(LogBehind, match="old copy") as caught:
        step(folder, LogSource(restored))
    assert (caught.value.held, caught.value.stored) == (9, 5)
    grow(restored, 12, name=lambda number: b"another history %d" % number)
    with pytest.raises(LogDiverged):
        step(folder, LogSource(restored))
    assert files_of(folder) == before


def test_a_database_row_with_a_flipped_bit_is_not_published(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 5)

    class Flipped:
        def read(self, path: str) -> bytes:
            data = LogSource(database).read(path)
            return data[:-1] + bytes([data[-1] ^ 1]) if path.startswith("tile/entries") else data

    begin(folder)
    with pytest.raises(LogDiverged, match="entry 4 is not the one signed"):
        publish_files(folder, Flipped(), open_note)
    assert files_of(folder)[CHECKPOINT] == b""


def test_the_published_head_is_what_a_starting_hub_compares_with(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    holder = PublishedFiles(folder / "files", open_note)
    with pytest.raises(SourceUnreachable):
        holder.head()
    begin(folder / "files")
    assert holder.head() is None
    database = lite()
    grow(database, 5)
    step(folder / "files", LogSource(database))
    head = holder.head()
    assert head is not None and head.size == 5
    assert str(folder / "files") in holder.name


def test_an_unmounted_disk_does_not_pass_for_a_log_that_never_published(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 5)
    mount_point = folder  # there, and empty
    holder = PublishedFiles(mount_point, open_note)
    with pytest.raises(NotCompared, match="mount its disk"):
        require_newest(
            database,
            origin=ORIGIN,
            signer=SIGNER,
            witnesses=[],
            policy=POLICY,
            holders=[holder],
        )
    with pytest.raises(SourceUnreachable, match="an empty file of that name"):
        publish_files(mount_point, LogSource(database), open_note)
    assert list(mount_point.iterdir()) == []
    begin(mount_point)  # on purpose
    assert step(mount_point, LogSource(database)).checkpoint.size == 5


# Copies by others


class Counted:
    """A source that counts what is read, and breaks off after some reads."""

    def __init__(self, source: TileSource, limit: int = 10**9) -> None:
        self.source = source
        self.read_paths: list[str] = []
        self.limit = limit

    def read(self, path: str) -> bytes:
        if len(self.read_paths) >= self.limit:
            raise SourceUnreachable("the line went dead")
        self.read_paths.append(path)
        return self.source.read(path)


def test_a_copy_is_the_log_and_grows_with_it(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    with pytest.raises(NotCovered):
        mirror(folder, LogSource(database), POLICY)
    for size in (1, 300, 900):
        grow(database, size)
        done = mirror(folder, LogSource(database), POLICY)
        assert done.checkpoint.size == size
        tree = open_tree(FolderSource(folder), open_note((folder / CHECKPOINT).read_bytes()))
        assert [data for _, data in tree.entries()] == [entry(n) for n in range(size)]
    assert done.old_size == 300
    again = Counted(LogSource(database))
    assert mirror(folder, again, POLICY).files == 0
    assert again.read_paths == [CHECKPOINT]


def test_past_heads_are_copied_and_each_is_of_the_tree(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    for size in range(1, 4):
        grow(database, size)
        mirror(folder, LogSource(database), POLICY)
    for size in range(4, 67):
        grow(database, size)
    mirror(folder, LogSource(database), POLICY)
    heads = [open_note(note).size for note in read_heads(FolderSource(folder))]
    assert heads == list(range(1, 67))
    forked = lite()
    grow(forked, 67, name=lambda number: b"fork %d" % number)
    grow(database, 67)

    class TwoFaced:
        def read(self, path: str) -> bytes:
            return LogSource(forked if path == "heads/1" else database).read(
                "heads/0" if path == "heads/1" else path
            )

    with pytest.raises(TileRefused, match="another root of size 67"):
        mirror(folder, TwoFaced(), POLICY)
    assert open_note((folder / CHECKPOINT).read_bytes()).size == 66


class Heads:
    """A server that is honest but for its pages of past heads. Fails the test that never ends."""

    def __init__(self, source: TileSource, page: Callable[[int], list[bytes]]) -> None:
        self.source, self.page, self.asked = source, page, 0

    def read(self, path: str) -> bytes:
        if not path.startswith("heads/"):
            return self.source.read(path)
        self.asked += 1
        assert self.asked < 20, "it is asked without end"
        notes = self.page(int(path.removeprefix("heads/")))
        if not notes:
            raise TileMissing(path)
        return page_bytes(notes)


def with_line(note: bytes, size: int = 8, *, of: str = "junk.example") -> bytes:
    """The note with one line more, of a witness that nobody knows."""
    line = Signature(of, b"junk", b"x" * size)
    return Note.parse(note).with_signatures([line]).to_bytes()


def unsigned(note: bytes) -> bytes:
    return Note(Note.parse(note).text, (Signature("junk.example", b"junk", b"x"),)).to_bytes()


def past(source: TileSource) -> list[bytes]:
    return list(read_heads(source))


def test_a_server_cannot_fill_a_copy_with_heads(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    for size in (2, 5, 9):
        grow(database, size)
    source = LogSource(database)
    signed = past(source)
    for page, why in (
        ([unsigned(signed[0])] * HEADS_PER_PAGE, "not known to be the log's"),
        ([unsigned(signed[0])], "not known to be the log's"),
        ([signed[0]] * HEADS_PER_PAGE, "size 2 after one of 2"),
        ([signed[1], signed[0]], "size 2 after one of 5"),
        ([with_line(signed[0], 1 << 16)], "more than 65535 bytes"),
    ):
        with pytest.raises(TileRefused, match=why):
            mirror(folder, Heads(source, lambda _, page=page: page), POLICY)
        assert past(FolderSource(folder)) == []
        assert not (folder / CHECKPOINT).exists()
    mirror(folder, source, POLICY)
    assert past(FolderSource(folder)) == signed


def test_a_server_cannot_spoil_a_head_with_a_forged_cosignature(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 2)
    source = LogSource(database)
    key = VerifierKey("witness.example", COSIGNATURE, SigningKey.generate().public)
    policy = Policy.parse(f"log {KEY}\nwitness w {key}\nquorum none\n".encode())
    line = Signature(key.name, key.key_id, b"\0" * 7 + b"\1" + b"\0" * 64)
    spoilt = [Note.parse(note).with_signatures([line]).to_bytes() for note in past(source)]
    for copied_before in (False, True):
        if copied_before:
            mirror(folder, source, policy)
            grow(database, 3)
        with pytest.raises(TileRefused, match=r"line of witness.example does not verify"):
            mirror(folder, Heads(source, lambda page: [] if page else spoilt), policy)
    assert past(FolderSource(folder)) == past(source)[:1]


@pytest.mark.parametrize("kept", [0, 1])
def test_what_a_copy_knows_of_past_heads_outlives_a_server_that_shows_less(
    folder: Path, lite: Callable[[], SqlLogDatabase], kept: int
) -> None:
    database = lite()
    for size in range(1, 4):
        grow(database, size)
    source = LogSource(database)
    cosigned = [with_line(note) for note in past(source)]
    mirror(folder, Heads(source, lambda page: [] if page else cosigned), POLICY)
    grow(database, 4)
    poorer = past(source)[:kept]
    mirror(folder, Heads(source, lambda page: [] if page else poorer), POLICY)
    assert past(FolderSource(folder)) == cosigned
    grow(database, 5)
    # What cosignatures came late are added; none is taken away.
    more = [with_line(cosigned[0], of="late.example"), *past(source)[1:]]
    mirror(folder, Heads(source, lambda page: [] if page else more), POLICY)
    assert past(FolderSource(folder)) == [more[0], *cosigned[1:], *past(source)[3:]]


def test_the_past_heads_of_a_log_that_came_back_from_a_copy_go_on_in_the_copies(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    for size in range(1, HEADS_PER_PAGE + 3):
        grow(database, size)
    mirror(folder, LogSource(database), POLICY)
    before = past(FolderSource(folder))
    assert len(before) == HEADS_PER_PAGE + 2
    grow(database, HEADS_PER_PAGE + 3)
    restored = past(LogSource(database))[-2:]  # a recovery knows one head, and what came after
    mirror(folder, Heads(LogSource(database), lambda p: [] if p else restored), POLICY)
    assert past(FolderSource(folder)) == [*before, restored[1]]
    assert len(parse_page((folder / "heads/0").read_bytes())) == HEADS_PER_PAGE


def test_an_interrupted_copy_goes_on_where_it_was(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 2000)
    source = Counted(LogSource(database), limit=12)
    with pytest.raises(SourceUnreachable):
        mirror(folder, source, POLICY)
    kept = set(files_of(folder))
    assert CHECKPOINT not in kept and len(kept) > 5
    rest = Counted(LogSource(database))
    mirror(folder, rest, POLICY)
    assert not kept & set(rest.read_paths)


@pytest.mark.parametrize("begun", [(), (".lock",), (".lock", ".new"), (".lock", "checkpoint")])
def test_a_folder_that_is_empty_or_was_just_begun_becomes_a_copy(
    folder: Path, lite: Callable[[], SqlLogDatabase], begun: tuple[str, ...]
) -> None:
    for name in begun:
        (folder / name).touch()
    (folder / "tile").mkdir()
    database = lite()
    grow(database, 5)
    assert mirror(folder, LogSource(database), POLICY).old_size == 0
    assert open_note((folder / CHECKPOINT).read_bytes()).size == 5


def test_a_copy_whose_checkpoint_was_taken_away_goes_on_with_its_files(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 5)
    mirror(folder, LogSource(database), POLICY)
    (folder / CHECKPOINT).unlink()
    (folder / "documents").mkdir()
    assert mirror(folder, LogSource(database), POLICY).files == 0


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("thesis.tex", b"text"),
        ("heads/0", b"of screws"),
        ("tile/kitchen", b"blue"),
        ("checkpoint", b"weights of a model"),
        ("checkpoint", b"x" * (1 << 21)),
        ("checkpoint/epoch-7", b"weights of a model"),
    ],
)
def test_a_folder_of_other_things_is_not_written_into(
    folder: Path, lite: Callable[[], SqlLogDatabase], path: str, data: bytes
) -> None:
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_bytes(data)
    (folder / "notes").touch()
    database = lite()
    grow(database, 5)
    with pytest.raises(FolderRefused, match="not a copy of a log") as refused:
        mirror(folder, LogSource(database), POLICY)
    assert refused.value.folder == folder
    assert {p for p in folder.rglob("*") if p.is_file()} == {folder / path, folder / "notes"}
    assert (folder / path).read_bytes() == data


def test_a_log_that_was_rewritten_does_not_reach_the_copy(
    tmp_path: Path, folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    honest, other = lite(), lite()
    grow(honest, 300)
    mirror(folder, LogSource(honest), POLICY)
    before = files_of(folder)
    grow(other, 299)
    grow(other, 400, name=lambda number: b"rewritten %d" % number)
    for source in (LogSource(other), FolderSource(_published(tmp_path / "f", other))):
        with pytest.raises((ConsistencyRefused, LogDiverged)):
            mirror(folder, source, POLICY)
    assert {path: data for path, data in files_of(folder).items() if path in before} == before


def _published(folder: Path, database: SqlLogDatabase) -> Path:
    step(folder, LogSource(database))
    return folder


def test_a_shorter_log_is_not_taken_for_the_copied_one(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    longer, shorter = lite(), lite()
    grow(longer, 20)
    grow(shorter, 10)
    mirror(folder, LogSource(longer), POLICY)
    with pytest.raises(ConsistencyRefused, match="size 10 cannot"):
        mirror(folder, LogSource(shorter), POLICY)


@pytest.mark.parametrize("path", ["tile/0/000", "tile/1/000.p/2", "tile/entries/001"])
def test_a_lying_server_is_caught_before_its_file_is_written(
    folder: Path, lite: Callable[[], SqlLogDatabase], path: str
) -> None:
    database = lite()
    grow(database, 600)

    class Lying:
        def read(self, asked: str) -> bytes:
            data = LogSource(database).read(asked)
            return data[:-1] + bytes([data[-1] ^ 1]) if asked == path else data

    with pytest.raises(TileRefused, match=path):
        mirror(folder, Lying(), POLICY)
    assert path not in files_of(folder)
    assert CHECKPOINT not in files_of(folder)


def test_a_checkpoint_that_the_log_did_not_sign_is_refused(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 3)

    class Forged:
        def read(self, path: str) -> bytes:
            data = LogSource(database).read(path)
            return data.replace(b"\n3\n", b"\n2\n") if path == CHECKPOINT else data

    with pytest.raises(SignatureRefused):
        mirror(folder, Forged(), POLICY)
    assert files_of(folder) == {}


def test_a_damaged_file_of_the_copy_itself_is_named(
    folder: Path, lite: Callable[[], SqlLogDatabase]
) -> None:
    database = lite()
    grow(database, 600)
    source = Counted(LogSource(database), limit=6)
    with pytest.raises(SourceUnreachable):
        mirror(folder, source, POLICY)
    damaged = folder / "tile/0/000"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    with pytest.raises(LogDiverged, match=r"tile/0/000.*own file is damaged"):
        mirror(folder, LogSource(database), POLICY)
    damaged.unlink()
    mirror(folder, LogSource(database), POLICY)


def test_a_folder_gives_no_file_outside_the_log(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "log").mkdir()
    source = FolderSource(tmp_path / "log")
    for path in ("../secret", "tile/0/../../../secret", str(tmp_path / "secret"), ".lock"):
        with pytest.raises(Exception, match="tile"):
            source.read(path)
    with pytest.raises(TileMissing):
        source.read(CHECKPOINT)
