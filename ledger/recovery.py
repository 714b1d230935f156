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

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger.errors import ConsistencyRefused, LogDiverged, LogInUse, OtherLog
from ledger.log import append_many
from ledger.ports import LogStore, StoredCheckpoint
from ledger.tree import cover, grow_tiles, range_hash
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import HASH_BYTES, leaf_hash
from ledger.verify.note import Note, signatures_by
from ledger.verify.policy import Policy
from ledger.verify.tile_names import CHECKPOINT, ENTRIES, TILE_WIDTH, edge_tiles, tiles_between
from ledger.verify.tiles import SignedTree, TileSource, open_tree

_BATCH: Final = 16 * TILE_WIDTH  # entries appended at once


@dataclass(frozen=True)
class Recovered:
    """old_size: what the database held. checkpoint: the copy's. entries: how many were appended;
    0 if the database held all of them."""

    old_size: int
    checkpoint: Checkpoint
    entries: int


def recover(
    store: LogStore, source: TileSource, *, origin: str, policy: Policy, now: datetime
) -> Recovered:
    """Append what the copy has and the database lacks; all in the caller's transaction.

    policy: names the keys that this log signs and has signed with. An entry that is pending here
    and logged in the copy gets its place; one that the copy lacks stays pending.
    Raises OtherLog, NotSigned or SignatureRefused for a copy of another log, what `open_tree`
    raises for a damaged one, LogDiverged if the database is not the copy's beginning, LogInUse
    while a hub orders the log.
    """
    if not store.lead():
        raise LogInUse
    note = Note.parse(source.read(CHECKPOINT))
    checkpoint = open_checkpoint(note, [key for key in policy.log_keys if key.name == origin])
    tree = open_tree(source, checkpoint)
    old_size = _require_beginning(store, tree, origin)
    if checkpoint.size <= old_size:
        return Recovered(old_size, checkpoint, 0)
    for start in range(old_size, checkpoint.size, _BATCH):
        _append(store, tree, start, min(start + _BATCH, checkpoint.size))
    size = checkpoint.size
    if range_hash((0, size), store.nodes(cover((0, size)))) != checkpoint.root:
        raise LogDiverged(
            f"the recovered tree of size {size} does not have the root that was signed"
        )
    _add_checkpoint(store, checkpoint, note, policy, now)
    return Recovered(old_size, checkpoint, size - old_size)


def _require_beginning(store: LogStore, tree: SignedTree, origin: str) -> int:
    """The size of the stored log, once all of it that the copy reaches is the same there."""
    last, placed = store.latest(), store.placed()
    size = 0 if last is None else last.size
    if last is not None and last.checkpoint.origin != origin:
        raise OtherLog(last.checkpoint.origin)
    if placed != size:
        raise LogDiverged(
            f"the last signed checkpoint has size {size}, and {placed} entries are stored: "
            "recover the log into an older backup, or into an empty database"
        )
    shared = min(size, tree.size)
    if last is not None and size <= tree.size:
        try:
            tree.consistency(size, last.checkpoint.root)
        except ConsistencyRefused as error:
            raise LogDiverged(
                f"the database's signed head of size {size} is not part of the copy: the log has "
                f"forked. Change nothing; keep both as evidence ({error})"
            ) from error
    for tile in tiles_between(0, shared):
        if tile.level == ENTRIES:
            end = tile.start + tile.width
            stored = [logged.entry for logged in store.entries(tile.start, end)]
            for place, entry in enumerate(tree.bundle(tile.index)[: tile.width]):
                if stored[place : place + 1] != [entry]:
                    raise _differs(f"entry {tile.start + place}")
        elif (
            store.tiles([tile])[tile]
            != tree.hashes(tile.level, tile.index)[: tile.width * HASH_BYTES]
        ):
            raise _differs(tile.path)
    return size


def _append(store: LogStore, tree: SignedTree, start: int, end: int) -> None:
    entries = [entry for _, entry in tree.entries(start, end)]
    names = append_many(store, entries)
    store.adopt(names, start)
    over = edge_tiles(start)
    edge = store.tiles(over)
    store.add_tiles(grow_tiles(start, edge, [leaf_hash(entry) for entry in entries]), over=over)


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


def _differs(what: str) -> LogDiverged:
    return LogDiverged(
        f"{what} of the database is not what the copy has there, and the copy is what was signed: "
        "the database was altered or damaged. Recover the log into an older backup, or into an "
        "empty database"
    )
