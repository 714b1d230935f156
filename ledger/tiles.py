"""The log as tiles and entry bundles (C2SP tlog-tiles), made from its database.

The bytes at a tile's path never change: a tile holds hashes of complete subtrees only, and its
width is part of its name. Nothing is served that no signed head covers.
"""

from __future__ import annotations

from ledger.errors import NotCovered, TileMissing
from ledger.log import entries
from ledger.ports import LogDatabase, LogStore
from ledger.verify.heads import HEADS_PER_PAGE, page_bytes
from ledger.verify.tile_names import (
    CHECKPOINT,
    ENTRIES,
    Tile,
    hashes_at,
    heads_number,
    is_heads_path,
)
from ledger.verify.tiles import bundle_bytes


def tile_bytes(store: LogStore, tile: Tile) -> bytes:
    """The bytes at a tile's path. Raises NotCovered unless the signed log has all of it."""
    latest = store.latest()
    end = tile.start + tile.width
    if latest is None or end > hashes_at(tile.level, latest.size):
        raise NotCovered(f"the signed log does not have {tile.path} yet")
    if tile.level == ENTRIES:
        return bundle_bytes([logged.entry for logged in entries(store, tile.start, end)])
    return store.tiles([tile])[tile]


def heads_bytes(store: LogStore, path: str) -> bytes:
    """One page of past witnessed heads, see ledger.verify.heads. Raises NotCovered if there is
    none under this number, FormatRefused for another path."""
    number = heads_number(path)
    heads = store.witnessed(skip=number * HEADS_PER_PAGE, limit=HEADS_PER_PAGE)
    if not heads:
        raise NotCovered(f"the log has no {path} of witnessed heads yet")
    return page_bytes([head.note.to_bytes() for head in heads])


class LogSource:
    """A TileSource on the log's own database; its checkpoint is the newest with a quorum."""

    def __init__(self, database: LogDatabase) -> None:
        self._database = database

    def read(self, path: str) -> bytes:
        with self._database.transaction() as store:
            if path == CHECKPOINT:
                head = store.latest_witnessed()
                if head is None:
                    raise TileMissing(path)
                return head.note.to_bytes()
            try:
                if is_heads_path(path):
                    return heads_bytes(store, path)
                return tile_bytes(store, Tile.parse(path))
            except NotCovered:
                raise TileMissing(path) from None
