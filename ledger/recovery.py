"""Bringing a log that has forgotten its end forward again, from a full copy.

A database that was restored from a backup is behind what the log has signed and others hold. The
entries it lacks are in any full copy: the operator's static files, or a regulator's mirror. They
are appended here exactly as they were, under the checkpoint that the log itself once signed;
nothing is signed anew. What is stored already is compared with the copy first, every entry and
every tile: a log that is not the beginning of the copy is left as it is.

This brings back the log. What a hub keeps beside it (accounts, jobs, budgets, who has said what)
is as old afterwards as it was before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from crypto.digest import digest
from ledger.errors import ConsistencyRefused, LogDiverged, LogInUse, OtherLog
from ledger.log import append_many
from ledger.ports import LogStore, StoredCheckpoint
from ledger.tree import cover, grow, range_hash
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import HASH_BYTES, leaf_hash
from ledger.verify.note import Note, signatures_by
from ledger.verify.policy import Policy
from ledger.verify.tile_names import (
    CHECKPOINT,
    ENTRIES,
    TILE_WIDTH,
    Tile,
    edge_tiles,
    tile_at,
    tiles_between,
)
from ledger.verify.tiles import SignedTree, TileSource, open_tree

_BATCH: Final = 16 * TILE_WIDTH  # entries appended at once


@dataclass(frozen=True)
class Recovered:
    """old_size: what the database held. checkpoint: the copy's. entries: how many were appended;
    0 if the database held all of them. repaired: what was damaged and is as it was signed again."""

    old_size: int
    checkpoint: Checkpoint
    entries: int
    repaired: tuple[str, ...] = ()


def recover(
    store: LogStore,
    source: TileSource,
    *,
    origin: str,
    policy: Policy,
    now: datetime,
    repair: bool = False,
) -> Recovered:
    """Append what the copy has and the database lacks; all in the caller's transaction.

    policy: names the keys that this log signs and has signed with. An entry that is pending here
    and logged in the copy gets its place; one that the copy lacks stays pending.
    repair: overwrite entries and tiles that are not what was signed, rather than refuse; whoever
    asks for this keeps the damaged database, which is evidence.
    Raises OtherLog, NotSigned or SignatureRefused for a copy of another log, what `open_tree`
    raises for a damaged one, LogDiverged if the database is not the copy's beginning, LogInUse
    while a hub orders the log.
    """
    if not store.lead():
        raise LogInUse
    note = Note.parse(source.read(CHECKPOINT))
    checkpoint = open_checkpoint(note, [key for key in policy.log_keys if key.name == origin])
    tree = open_tree(source, checkpoint)
    last = _last_head(store, tree, origin, repair=repair)
    old_size = 0 if last is None else last.size
    repaired = tuple(_compare(store, tree, old_size, repair=repair))
    if last is not None:
        _require_root(store, last.checkpoint)
    if checkpoint.size <= old_size:
        return Recovered(old_size, checkpoint, 0, repaired)
    for start in range(old_size, checkpoint.size, _BATCH):
        _append(store, tree, start, min(start + _BATCH, checkpoint.size))
    _require_root(store, checkpoint)
    _add_checkpoint(store, checkpoint, note, policy, now)
    return Recovered(old_size, checkpoint, checkpoint.size - old_size, repaired)


def _last_head(
    store: LogStore, tree: SignedTree, origin: str, *, repair: bool
) -> StoredCheckpoint | None:
    """The newest checkpoint that the database has, once it is shown to be of the copy's history
    as far as the copy reaches."""
    last, placed = store.latest(), store.placed()
    size = 0 if last is None else last.size
    if last is not None and last.checkpoint.origin != origin:
        raise OtherLog(last.checkpoint.origin)
    if placed > size or (placed < size and not repair):
        raise LogDiverged(
            f"the last signed checkpoint has size {size}, and {placed} entries are stored: "
            "recover the log into an older backup, or into an empty database"
        )
    if last is not None and size <= tree.size:
        try:
            tree.consistency(size, last.checkpoint.root)
        except ConsistencyRefused as error:
            raise LogDiverged(
                f"the database's signed head of size {size} is not part of the copy: the log has "
                f"forked. Change nothing; keep both as evidence ({error})"
            ) from error
    return last


def _compare(store: LogStore, tree: SignedTree, size: int, *, repair: bool) -> Iterator[str]:
    """Every entry and tile that both have; what differs, once it is repaired.

    size: of the stored log.
    """
    for tile in tiles_between(0, min(size, tree.size)):
        if tile.level == ENTRIES:
            stored = {e.index: e.entry for e in store.entries(tile.start, tile.start + tile.width)}
            for place, entry in enumerate(tree.bundle(tile.index)[: tile.width]):
                index = tile.start + place
                if stored.get(index) != entry:
                    _require_repair(f"entry {index}", repair=repair)
                    store.replace_entry(index, digest(entry), entry)
                    yield f"entry {index}"
            continue
        hashes = tree.hashes(tile.level, tile.index)[: tile.width * HASH_BYTES]
        if _stored_hashes(store, tile) != hashes:
            _require_repair(tile.path, repair=repair)
            store.replace_hashes(tile_at(tile.level, tile.index, size) or tile, hashes)
            yield tile.path


def _stored_hashes(store: LogStore, tile: Tile) -> bytes | None:
    try:
        return store.tiles([tile])[tile]
    except LogDiverged:
        return None  # gone, or cut


def _require_repair(what: str, *, repair: bool) -> None:
    if not repair:
        raise LogDiverged(
            f"{what} of the database is not what the copy has there, and the copy is what was "
            "signed: the database was altered or damaged. Keep it as evidence; then repair it "
            "from the copy, or recover the log into an older backup"
        )


def _require_root(store: LogStore, head: Checkpoint) -> None:
    if range_hash((0, head.size), store.nodes(cover((0, head.size)))) != head.root:
        raise LogDiverged(
            f"the tree of size {head.size} does not have the root that was signed: the database "
            "is not of the copy's history, or is damaged beyond it. Nothing was changed"
        )


def _append(store: LogStore, tree: SignedTree, start: int, end: int) -> None:
    entries = [entry for _, entry in tree.entries(start, end)]
    names = append_many(store, entries)
    store.adopt(names, start)
    over = edge_tiles(start)
    edge = store.tiles(over)
    store.add_tiles(grow(start, edge, [leaf_hash(entry) for entry in entries]), over=over)


def _add_checkpoint(
    store: LogStore, checkpoint: Checkpoint, note: Note, policy: Policy, now: datetime
) -> None:
    """With the log's own signatures, and those of the policy's witnesses that verify."""
    own = tuple(line for line in note.signatures if line.name == checkpoint.origin)
    store.add_checkpoint(StoredCheckpoint(checkpoint, Note(note.text, own), signed_at=now))
    keys = [witness.key for witness in policy.witnesses]
    lines = signatures_by(note, keys)
    for key, time in verify_cosignatures(note, keys).items():
        store.add_cosignature(checkpoint.size, lines[key], time)
    store.mark_published(checkpoint.size, now)  # others hold it already
    if policy.met_by(policy.cosigned_by(note)):
        store.mark_witnessed(checkpoint.size, now)
