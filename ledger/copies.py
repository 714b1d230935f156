"""Full copies: all files of a log in a folder, in the layout of C2SP tlog-tiles.

The operator keeps one to serve it as static files; a regulator keeps one so as not to depend on
the operator; a log that lost its database comes back from either. Every file is compared with
the signed root before it is written, and the new checkpoint is shown to extend the one that the
folder holds. A file that is there is never overwritten with other bytes.

Files first, each complete before it has its name; then the checkpoint that needs them. So a
crash leaves the last checkpoint with all of its files, and repeating the step goes on from there.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from crypto.files import make_folder, sync, write_file
from ledger.errors import (
    ConsistencyRefused,
    FolderRefused,
    FormatRefused,
    LedgerError,
    LogBehind,
    LogDiverged,
    NotCovered,
    SourceUnreachable,
    TileMissing,
    TileRefused,
)
from ledger.tree import cover, range_hash
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.heads import HEADS_PER_PAGE, page_bytes, parse_page
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.tile_names import (
    CHECKPOINT,
    ENTRIES,
    Tile,
    heads_path,
    is_heads_path,
    tiles_between,
)
from ledger.verify.tiles import (
    MAX_HEADS_BYTES,
    FolderSource,
    SignedTree,
    TileSource,
    bundle_bytes,
    open_tree,
)

_LOCK: Final = ".lock"
_NEW: Final = ".new"  # the one file being written; its remains after a crash are overwritten
_BEGUN: Final = frozenset({_LOCK, _NEW, "tile"})  # what there may be before any entry is

_MAX_HEAD_BYTES: Final = MAX_HEADS_BYTES // HEADS_PER_PAGE - 1  # so that every full page is read

OpenNote = Callable[[bytes], Checkpoint]
"""The checkpoint in a note, once its signatures are known to be good; raises LedgerError."""


@dataclass(frozen=True)
class PublishedFiles:
    """The operator's static files as a witness against a restored database (a HeadHolder)."""

    folder: Path
    open_note: OpenNote

    @property
    def name(self) -> str:
        return f"the folder {self.folder}"

    def head(self) -> Checkpoint | None:
        _require_begun(self.folder)
        return _held(self.folder, self.open_note)


@dataclass(frozen=True)
class Copied:
    """checkpoint: what the folder holds now. old_size: what it held before, 0 for a new copy.
    files: how many tiles and bundles were written."""

    checkpoint: Checkpoint
    old_size: int
    files: int


def publish_files(folder: Path, source: TileSource, open_note: OpenNote) -> Copied | None:
    """Bring the operator's own static files up to the log's newest head; None if it has none.

    source: the log's database. Raises LogBehind if the folder holds a later head, LogDiverged if
    the two are not of one history or what is stored is not what was signed; a checkpoint is then
    not published, nor a file that is not under it. Raises SourceUnreachable unless the folder has
    a `checkpoint`, an empty one at its beginning.
    """
    _require_begun(folder)
    with locked(folder):
        try:
            note = source.read(CHECKPOINT)
        except TileMissing:
            return None
        old, new = _held(folder, open_note), open_note(note)
        if old is not None and new.size < old.size:
            raise LogBehind(str(folder), held=old.size, stored=new.size)
        try:
            return _extend(folder, source, source, note, old, new, open_note)
        except (ConsistencyRefused, TileRefused, TileMissing) as error:
            raise LogDiverged(
                f"the log's database does not give the files of its own checkpoint: {error}"
            ) from error


def mirror(folder: Path, source: TileSource, policy: Policy) -> Copied:
    """Copy a log, or bring an earlier copy of it up to date. Safe to repeat after any end.

    What an interrupted copy left is used again, once it is verified.
    policy: must accept the new checkpoint; of the one that the folder holds, the log's signature
    counts: its quorum was that of an earlier policy, perhaps. The same holds for past heads.
    Raises what `Policy.check` and `open_tree` raise; ConsistencyRefused if the log does not extend
    the copy, which is then left as it was; NotCovered if there is no checkpoint yet; LogDiverged
    if a file of the copy itself is not what was signed; FolderRefused for a folder of other things.
    """
    make_folder(folder)
    _require_copy(folder)
    with locked(folder):
        try:
            note = source.read(CHECKPOINT)
        except TileMissing:
            raise NotCovered("the log has published no checkpoint yet") from None
        if not note:
            raise NotCovered("the log has signed no checkpoint yet")
        new = policy.check(note).checkpoint

        def open_note(signed: bytes) -> Checkpoint:
            parsed = Note.parse(signed)
            policy.cosigned_by(parsed)  # no line that would spoil the note for an auditor
            return open_checkpoint(parsed, policy.log_keys)

        old = _held(folder, lambda held: open_checkpoint(Note.parse(held), policy.log_keys))
        try:
            resumed = _Resumed(FolderSource(folder), source)
            return _extend(folder, resumed, source, note, old, new, open_note)
        except TileRefused as error:
            if not is_heads_path(error.path) and (folder / error.path).is_file():
                raise LogDiverged(
                    f"{folder / error.path}: {error.problem}. The copy's own file is damaged or "
                    "forged: keep it as evidence outside the folder, and repeat; it is then "
                    "copied anew"
                ) from error
            raise


def _require_copy(folder: Path) -> None:
    """One name mistyped must not spread a log over somebody's files."""
    try:
        note = FolderSource(folder).read(CHECKPOINT)
    except TileMissing:
        others = sorted({path.name for path in folder.iterdir()} - _BEGUN)
        if others and not (folder / "tile" / "entries").is_dir():
            raise FolderRefused(folder, f"it holds {others[0]!r}, and no checkpoint") from None
        return
    except TileRefused as error:
        raise FolderRefused(folder, str(error)) from error
    if note:
        try:
            Note.parse(note)
        except FormatRefused as error:
            raise FolderRefused(folder, f"its file `checkpoint` is not one ({error})") from error


class _Resumed:
    """What the copy has already; the rest from where it is copied from."""

    def __init__(self, own: TileSource, other: TileSource) -> None:
        self._own = own
        self._other = other

    def read(self, path: str) -> bytes:
        try:
            return self._own.read(path)
        except TileMissing:
            return self._other.read(path)


def _require_begun(folder: Path) -> None:
    """A disk that is not mounted leaves an empty folder, its mount point: that must not pass for a
    log that never published, nor be filled with all of it."""
    if not (folder / CHECKPOINT).is_file():
        raise SourceUnreachable(
            f"{folder} holds no file `checkpoint`: mount its disk. Only if the folder shall begin "
            "anew, put an empty file of that name into it"
        )


def _held(folder: Path, open_note: OpenNote) -> Checkpoint | None:
    """None before the first: without a checkpoint, or with the empty one of the beginning."""
    try:
        note = FolderSource(folder).read(CHECKPOINT)
    except TileMissing:
        return None
    return open_note(note) if note else None


def _extend(
    folder: Path,
    source: TileSource,
    newest: TileSource,
    note: bytes,
    old: Checkpoint | None,
    new: Checkpoint,
    open_note: OpenNote,
) -> Copied:
    """newest: where the pages of past heads are read, which change while they fill. open_note: of
    these heads."""
    if old is not None and old.origin != new.origin:
        raise ConsistencyRefused(f"{folder} is a copy of another log, {old.origin}")
    old_size = 0 if old is None else old.size
    if old == new:
        _replace_checkpoint(folder, note)
        return Copied(new, old_size, 0)
    tree = open_tree(source, new)
    if old is not None and old.size:
        tree.consistency(old.size, old.root)
    files = _Files(folder)
    for tile in _in_reading_order(old_size, new.size):
        files.put(tile.path, _verified(tree, tile))
    _copy_heads(files, newest, tree, open_note)
    files.settle()
    _replace_checkpoint(folder, note)
    _drop_outgrown(folder, old_size, new.size)
    return Copied(new, old_size, files.written)


def _replace_checkpoint(folder: Path, note: bytes) -> None:
    """All files it needs are on the disk. With the same head, it may have more cosignatures."""
    try:
        if FolderSource(folder).read(CHECKPOINT) == note:
            sync(folder)  # which the disk may have refused after the file had its name
            return
    except TileMissing:
        pass
    files = _Files(folder)
    files.replace(CHECKPOINT, note)
    files.settle()


def _in_reading_order(old_size: int, size: int) -> Iterator[Tile]:
    """Each bundle followed by its tile, so that both are fetched once."""
    for tile in tiles_between(old_size, size):
        if tile.level == ENTRIES:
            yield tile
            yield Tile(0, tile.index, tile.width)
        elif tile.level > 0:
            yield tile


def _verified(tree: SignedTree, tile: Tile) -> bytes:
    if tile.level == ENTRIES:
        return bundle_bytes(tree.bundle(tile.index))
    return tree.hashes(tile.level, tile.index)


def _copy_heads(files: _Files, source: TileSource, tree: SignedTree, open_note: OpenNote) -> None:
    """Add the past witnessed heads that the folder lacks; a source may have none.

    Each is signed by the log, of the tree, and larger than the one before, or the copy ends here:
    so there are no more of them than entries. What the folder holds stays, whatever the source
    has in its place: cosignatures bound the times of entries. A log that came back from a copy
    has fewer pages, and is read from the page on which the folder's last head would be.
    """
    held = _PastHeads(files)
    last, number, before = held.last, held.number, 0
    while number and not _begins_by(source, number, last):
        number -= 1
    for path, note in _heads_from(source, number):
        head = _parsed_head(note, path)
        if head.size > tree.size:
            break  # the log has grown beyond the checkpoint that is being copied
        if head.size <= before:
            raise TileRefused(path, f"holds a head of size {head.size} after one of {before}")
        before = head.size
        wanted = held.wants(head.size, note)
        if wanted:
            _require_signed(note, path, open_note)
        _require_of_tree(tree, head, path)
        if wanted:
            held.take(head.size, note)
    held.write()


class _PastHeads:
    """The last page of past heads in a folder, and those that follow it. last: the largest size
    that is held, 0 if none."""

    def __init__(self, files: _Files) -> None:
        self._files = files
        pages = [int(page.name) for page in (files.folder / "heads").glob("[0-9]*")]
        self.number = max(pages, default=0)
        self._notes: dict[int, bytes] = {}
        for path, note in _heads_from(FolderSource(files.folder), self.number):
            self._notes[_parsed_head(note, path).size] = note
        self.last = max(self._notes, default=0)

    def wants(self, size: int, note: bytes) -> bool:
        """A later head, or one on the last page with a cosignature that came late."""
        held = self._notes.get(size)
        return size > self.last if held is None else _adds_to(note, held)

    def take(self, size: int, note: bytes) -> None:
        if size > self.last and len(self._notes) == HEADS_PER_PAGE:
            self.write()
            self.number, self._notes = self.number + 1, {}
        self._notes[size], self.last = note, max(size, self.last)

    def write(self) -> None:
        if not self._notes:
            return
        path, page = heads_path(self.number), page_bytes(list(self._notes.values()))
        try:
            if FolderSource(self._files.folder).read(path) == page:
                return
        except TileMissing:
            pass
        self._files.replace(path, page)


def _heads_from(source: TileSource, number: int) -> Iterator[tuple[str, bytes]]:
    """Past heads from this page on, each with its page's path. Raises TileRefused."""
    while True:
        path = heads_path(number)
        try:
            notes = parse_page(source.read(path))
        except TileMissing:
            return
        except FormatRefused as error:
            raise TileRefused(path, str(error)) from error
        yield from ((path, note) for note in notes)
        if len(notes) < HEADS_PER_PAGE:
            return
        number += 1


def _begins_by(source: TileSource, number: int, size: int) -> bool:
    """Whether the source has this page, and its first head is no larger than `size`."""
    for path, note in _heads_from(source, number):
        return _parsed_head(note, path).size <= size
    return False


def _parsed_head(note: bytes, path: str) -> Checkpoint:
    if len(note) > _MAX_HEAD_BYTES:
        raise TileRefused(path, f"holds a note of more than {_MAX_HEAD_BYTES} bytes")
    try:
        return Checkpoint.parse(Note.parse(note).text)
    except FormatRefused as error:
        raise TileRefused(path, str(error)) from error


def _require_signed(note: bytes, path: str, open_note: OpenNote) -> None:
    try:
        open_note(note)
    except LedgerError as error:
        raise TileRefused(
            path,
            f"holds a head that is not known to be the log's: {error}. If an earlier key of the "
            "log signed it, name that key in the policy too",
        ) from error


def _require_of_tree(tree: SignedTree, head: Checkpoint, path: str) -> None:
    if head.origin != tree.checkpoint.origin:
        raise TileRefused(path, f"holds a head of another log, {head.origin}")
    nodes = {node: tree.node(node) for node in cover((0, head.size))}
    if range_hash((0, head.size), nodes) != head.root:
        raise TileRefused(
            path,
            f"holds another root of size {head.size} than the signed tree has: keep both, they "
            "may prove that the log has forked",
        )


def _adds_to(note: bytes, held: bytes) -> bool:
    """Whether a note of the same head has all lines of the one that is held, and more."""
    return set(Note.parse(note).signatures) > set(Note.parse(held).signatures)


def _drop_outgrown(folder: Path, old_size: int, size: int) -> None:
    """Partial tiles whose full tile is there: readers fall back to it, and they would pile up."""
    for tile in tiles_between(old_size, size):
        outgrown = folder / f"{tile.path}.p"
        if tile.full and outgrown.is_dir():
            shutil.rmtree(outgrown)


@dataclass
class _Files:
    """Writes that survive a power cut once `settle` has returned."""

    folder: Path
    written: int = 0
    _touched: set[Path] = field(default_factory=set)

    def put(self, path: str, data: bytes) -> None:
        """Raises LogDiverged if other bytes are there."""
        target = self.folder / path
        try:
            found = target.read_bytes()
        except FileNotFoundError:
            self.replace(path, data)
            self.written += 1
            return
        if found != data:
            raise LogDiverged(
                f"{target} was published with other bytes than the signed tree has there; it was "
                "left as it is. Stop, and compare it with a full copy"
            )
        self._touch(target)  # a crash may have come before it was settled

    def replace(self, path: str, data: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        new = self.folder / _NEW
        # Under another name until it is complete: whoever reads the file reads all of it.
        write_file(new, data)
        new.replace(target)
        self._touch(target)

    def _touch(self, target: Path) -> None:
        """Its name, and those of the folders that lead to it, are to be settled."""
        parent = target.parent
        while parent != self.folder:
            self._touched.add(parent)
            parent = parent.parent
        self._touched.add(self.folder)

    def settle(self) -> None:
        """The names as well as the bytes are on the disk afterwards."""
        for folder in self._touched:
            sync(folder)
        self._touched.clear()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time: of two hub processes, the second must not go back to an older head."""
    with (folder / _LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
