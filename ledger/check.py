"""The whole stored log, checked against itself: what a disk or a hand has changed, by name.

Each integration compares the edge of the stored tree with the last signed root, and nothing else:
an entry, an older tile or an older checkpoint may be damaged for years before anybody reads it.
This reads everything, as an auditor would from the outside, and names every row that is not what
was signed. Run it on a schedule; what it finds is repaired from a full copy.

Memory does not grow with the log. Only dates are not covered: no signature is over them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from crypto.digest import digest
from ledger.errors import LedgerError, LogDiverged, NotLogged, TileRefused
from ledger.ports import LogDatabase, LogStore, Sm3Database, StoredCheckpoint
from ledger.tiles import LogSource
from ledger.tree import cover
from ledger.verify.checkpoint import open_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import HASH_BYTES, fold, leaf_hash
from ledger.verify.note import VerifierKey
from ledger.verify.sm3 import Sm3Tree
from ledger.verify.tile_names import TILE_WIDTH
from ledger.verify.tiles import SignedTree, open_tree

_PAGE: Final = 1000  # checkpoints read at once


@dataclass(frozen=True)
class Damage:
    """where: the entry, tile, checkpoint or cosignature. problem: what is wrong with it."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


def check_log(
    database: LogDatabase, *, log_keys: Collection[VerifierKey], witnesses: Collection[VerifierKey]
) -> Iterator[Damage]:
    """Everything stored that does not follow from the newest checkpoint; nothing if it is whole.

    log_keys: every key this log has signed with. witnesses: the cosigners whose lines are
    verified; a line of another cosigner is only read. A log that grows meanwhile is checked as
    it was at the start. Where the newest checkpoint or the tree's edge is altered, nothing can be
    told of the rest.
    """
    try:
        with database.transaction() as store:
            latest, placed = store.latest(), store.placed()
        if latest is not None:
            _require_signed(latest, log_keys, witnesses)
    except LedgerError as error:
        yield Damage("the newest checkpoint", str(error))
        return
    size = 0 if latest is None else latest.size
    if placed < size or latest is None:
        if placed != size:
            yield Damage("entries", f"{placed} have indices, and {size} are signed")
        if latest is None:
            return
    try:
        tree = open_tree(LogSource(database), latest.checkpoint)
    except TileRefused as error:
        yield Damage(error.path, error.problem)
        return
    except LedgerError as error:
        yield Damage(f"the edge of the tree of size {size}", str(error))
        return
    for number in range(-(-size // TILE_WIDTH)):
        yield from _check_entries(database, tree, number)
    yield from _check_checkpoints(database, tree, log_keys, witnesses)


def check_sm3(
    database: LogDatabase, heads: Sm3Database, *, keys: Collection[VerifierKey]
) -> Iterator[Damage]:
    """Every stored SM3 head that is not of the log's entries, which `check_log` compares with what
    was signed. keys: SM2 keys that have signed such heads; without any, signatures are not checked.
    """
    tree, above = Sm3Tree(), 0
    while True:
        with heads.transaction() as store:
            sizes = store.sizes(above, _PAGE)
        for size in sizes:
            where = f"the SM3 head of size {size}"
            try:
                with heads.transaction() as store:
                    head = store.at(size)
                _add_entries(tree, database, size)
                if tree.size != size:
                    yield Damage(where, f"the log has {tree.size} entries in a row")
                    return
                if keys:
                    open_checkpoint(head.note, keys)
                if (head.checkpoint.root, head.edge) != (tree.root, tree.edge):
                    yield Damage(where, "is not of these entries")
            except LedgerError as error:
                yield Damage(where, str(error))
        if len(sizes) < _PAGE:
            return
        above = sizes[-1]


def _add_entries(tree: Sm3Tree, database: LogDatabase, end: int) -> None:
    while tree.size < end:
        with database.transaction() as store:
            found = store.entries(tree.size, min(tree.size + TILE_WIDTH, end))
        if [logged.index for logged in found] != list(range(tree.size, tree.size + len(found))):
            return
        if not found:
            return
        tree.add(logged.entry for logged in found)


def _check_entries(database: LogDatabase, tree: SignedTree, number: int) -> Iterator[Damage]:
    """One level-0 tile, the entries beside it, and whether they are found by their digests."""
    start, end = number * TILE_WIDTH, min((number + 1) * TILE_WIDTH, tree.size)
    try:
        leaves = tree.hashes(0, number)
    except TileRefused as error:
        yield Damage(error.path, error.problem)
        return
    except LedgerError as error:
        yield Damage(f"the tile over entries {start} to {end - 1}", str(error))
        return
    with database.transaction() as store:
        stored = _entries(store, start, end)
        for index in range(start, end):
            leaf = leaves[(index - start) * HASH_BYTES : (index - start + 1) * HASH_BYTES]
            if index not in stored:
                yield Damage(f"entry {index}", "is not stored, or not as bytes")
            elif leaf_hash(stored[index]) != leaf:
                yield Damage(f"entry {index}", "is not the one that was signed")
            elif _place(store, stored[index]) != index:
                yield Damage(f"entry {index}", "is not found by its digest")


def _entries(store: LogStore, start: int, end: int) -> dict[int, bytes]:
    """Those that can be read: one that cannot must not hide the others."""
    try:
        return {logged.index: logged.entry for logged in store.entries(start, end)}
    except LogDiverged:
        found: dict[int, bytes] = {}
        for index in range(start, end):
            with suppress(LogDiverged):
                found |= {logged.index: logged.entry for logged in store.entries(index, index + 1)}
        return found


def _place(store: LogStore, entry: bytes) -> int | None:
    try:
        return store.index_of(digest(entry))
    except NotLogged:
        return None


def _check_checkpoints(
    database: LogDatabase,
    tree: SignedTree,
    log_keys: Collection[VerifierKey],
    witnesses: Collection[VerifierKey],
) -> Iterator[Damage]:
    above = 0
    while True:
        with database.transaction() as store:
            sizes = store.sizes(above, _PAGE)
        for size in sizes:
            if size > tree.size:
                return  # signed since the check began
            where = f"the checkpoint of size {size}"
            try:
                with database.transaction() as store:
                    stored = store.at(size)
                _require_signed(stored, log_keys, witnesses)
                if fold([tree.node(node) for node in cover((0, size))]) != stored.checkpoint.root:
                    yield Damage(where, "has another root than the tree had at that size")
            except TileRefused:
                continue  # a tile that is named already
            except LedgerError as error:
                yield Damage(where, str(error))
        if len(sizes) < _PAGE:
            return
        above = sizes[-1]


def _require_signed(
    stored: StoredCheckpoint,
    log_keys: Collection[VerifierKey],
    witnesses: Collection[VerifierKey],
) -> None:
    """Raises a LedgerError unless the log signed it and every known cosigner's line verifies."""
    open_checkpoint(stored.note, log_keys)
    verify_cosignatures(stored.note, witnesses)
