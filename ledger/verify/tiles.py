"""Reading a log from its static files, believing none of them.

A source gives bytes by path: a folder, or a web server that anybody runs. SignedTree reads the
tree of one checkpoint from it, and checks each tile against the signed root, through the tiles
above it, before it uses a hash from it. So a source can withhold, and can do nothing else.

Source: C2SP tlog-tiles. Memory does not grow with the log.
"""

from __future__ import annotations

import hmac
import http.client
import io
import os
import ssl
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from ledger.errors import FormatRefused, SourceUnreachable, TileMissing, TileRefused
from ledger.tree import Node, Range, consistency_path, cover, inclusion_path, range_hash
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import (
    HASH_BYTES,
    fold,
    leaf_hash,
    subtree_root,
    verify_consistency,
    verify_inclusion,
)
from ledger.verify.note import MAX_NOTE_BYTES
from ledger.verify.tile_names import (
    CHECKPOINT,
    ENTRIES,
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    edge_tiles,
    hashes_at,
    is_heads_path,
    tile_at,
)

MAX_TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (2 + 0xFFFF)  # an entry's length is a uint16
MAX_HEADS_BYTES: Final = 1 << 22  # a page of past heads, see ledger.verify.heads
_KEPT_TILES: Final = 64  # 512 KiB; a walk from left to right needs one per level
_TIMEOUT_S: Final = 30.0


class TileSource(Protocol):
    """Where the files of a log are read. Nothing that comes from one is trusted."""

    def read(self, path: str) -> bytes:
        """The bytes at `checkpoint`, at a tile's path, or of a page of past heads.

        Raises TileMissing, SourceUnreachable, and FormatRefused for another path.
        """
        ...


class FolderSource:
    """A full copy in a folder, or any static files laid out so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        limit = size_limit(path)
        try:
            with (self._folder / path).open("rb") as file:
                # Room for the largest bundle there may be takes ten times as long to make as a
                # usual one takes to read.
                data = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise TileMissing(path) from None
        except OSError as error:
            raise SourceUnreachable(f"{self._folder / path}: {error.strerror}") from error
        return _limited(path, data, limit)


class HttpSource:
    """A log's files over HTTP, below a prefix such as `https://hub.example/v1/log`.

    One connection, kept open; for one thread. Follows no redirect and uses no proxy: what the
    caller named is what is asked. Certificates are checked against those that this machine trusts,
    or against the file that SSL_CERT_FILE names.

    timeout_s: for a whole answer, however steadily its bytes come: a server that sends one now and
    then would else hold its reader for ever, who could then not say that it has no answer. One
    that has many addresses can have this long for a connection to each.
    """

    def __init__(self, url: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise FormatRefused("url", "is not an http or https address") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise FormatRefused("url", "is not an http or https address without query")
        self._url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=timeout_s, context=ssl.create_default_context()
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)

    def close(self) -> None:
        self._connection.close()

    def read(self, path: str) -> bytes:
        return self.fetch(path, size_limit(path))

    def fetch(self, path: str, limit: int) -> bytes:
        """What is at a path that need not be a log's. Raises TileMissing, SourceUnreachable, and
        TileRefused for more than `limit` bytes."""
        until = time.monotonic() + self._timeout_s
        for attempt in (1, 2):
            try:
                status, data = self._get(path, limit, until)
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # The server may have ended a connection that it held open for us: once more.
                if attempt == 2 or not isinstance(error, ConnectionError):
                    raise SourceUnreachable(
                        f"{self._url}/{path} gave no answer: {error}"
                    ) from error
        if status in (404, 410):
            raise TileMissing(f"{self._url}/{path}")
        if status != 200:
            raise SourceUnreachable(f"{self._url}/{path} answered {status}")
        return _limited(path, data, limit)

    def _get(self, path: str, limit: int, until: float) -> tuple[int, bytes]:
        self._connection.timeout = _left(until)
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._connection.timeout)
        # It is only ever called, so it need not be a class.
        self._connection.response_class = partial(_Answer, until=until)  # type: ignore[assignment]
        self._connection.request("GET", f"{self._prefix}/{path}")
        response = self._connection.getresponse()
        data = response.read(limit + 1)
        if len(data) <= limit and response.length:
            raise http.client.IncompleteRead(data, response.length)
        if not response.isclosed():  # more than was read: the next answer would begin with it
            self._connection.close()
        return response.status, data


class _Answer(http.client.HTTPResponse):
    """An answer, headers and all, that is read until a moment of the monotonic clock."""

    def __init__(self, sock: socket, *settings: Any, until: float, **named: Any) -> None:
        super().__init__(sock, *settings, **named)
        self.fp = io.BufferedReader(_Until(sock, self.fp.detach(), until))


class _Until(io.RawIOBase):
    """What a socket gives until a moment: its own limit is one for each of its reads."""

    def __init__(self, sock: socket, raw: io.RawIOBase, until: float) -> None:
        self._sock = sock
        self._raw = raw
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._until))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(until: float) -> float:
    """Seconds until a moment. Raises TimeoutError, which is an OSError, if there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the whole answer took too long")
    return left


def size_limit(path: str) -> int:
    """The most bytes that can be at a path. Raises FormatRefused for one outside a log."""
    if path == CHECKPOINT:
        return MAX_NOTE_BYTES
    if is_heads_path(path):
        return MAX_HEADS_BYTES
    return MAX_BUNDLE_BYTES if Tile.parse(path).level == ENTRIES else MAX_TILE_BYTES


def read_tile(source: TileSource, tile: Tile) -> bytes:
    """A tile's bytes as they would be at its path, in their format and not checked further.

    Where a partial tile is gone because it has become full, it is cut from the full one.
    Raises TileMissing, TileRefused, SourceUnreachable.
    """
    data, found = _find(source, tile)
    if tile.level == ENTRIES:
        entries = parse_bundle(data, found)
        return data if found == tile else bundle_bytes(entries[: tile.width])
    if len(data) != found.width * HASH_BYTES:
        raise TileRefused(
            found.path, f"has {len(data)} bytes, and {found.width} hashes have {found.width * 32}"
        )
    return data[: tile.width * HASH_BYTES]


def _find(source: TileSource, tile: Tile) -> tuple[bytes, Tile]:
    """What is at a tile's path, or else at that of the full one, and which of them it is."""
    try:
        return source.read(tile.path), tile
    except TileMissing:
        if tile.full:
            raise
        return source.read(tile.whole.path), tile.whole


def parse_bundle(data: bytes, tile: Tile) -> list[bytes]:
    """The entries of a bundle: exactly as many as its name says. Raises TileRefused."""
    entries: list[bytes] = []
    at = 0
    for _ in range(tile.width):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise TileRefused(tile.path, f"ends within entry {tile.start + len(entries)}")
        entries.append(data[at + 2 : end])
        at = end
    if at != len(data):
        raise TileRefused(tile.path, f"has {len(data) - at} bytes after its last entry")
    return entries


def bundle_bytes(entries: Sequence[bytes]) -> bytes:
    """entries: each of at most 65,535 bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


@dataclass
class SignedTree:
    """The tree under one checkpoint. Make it with `open_tree`."""

    source: TileSource
    checkpoint: Checkpoint
    _edge: dict[Tile, bytes] = field(default_factory=dict)
    _kept: OrderedDict[Tile, bytes] = field(default_factory=OrderedDict)

    @property
    def size(self) -> int:
        return self.checkpoint.size

    def hashes(self, level: int, index: int) -> bytes:
        """The hashes of one tile, one after the other, once they are known to be under the root.

        Raises TileMissing, SourceUnreachable, and TileRefused, naming the tile that is wrong.
        """
        tile = tile_at(level, index, self.size)
        if tile is None or level == ENTRIES:
            raise FormatRefused("tile", f"{index} of level {level} is not in size {self.size}")
        found = self._edge.get(tile) or self._kept.get(tile)
        if found is not None:
            if tile in self._kept:
                self._kept.move_to_end(tile)
            return found
        data = read_tile(self.source, tile)
        above = self.hashes(level + 1, index // TILE_WIDTH)
        if not hmac.compare_digest(subtree_root(data), _hash_at(above, index % TILE_WIDTH)):
            raise TileRefused(tile.path, "is not what the signed tree has there")
        self._kept[tile] = data
        if len(self._kept) > _KEPT_TILES:
            self._kept.popitem(last=False)
        return data

    def node(self, node: Node) -> bytes:
        """The hash of one complete subtree."""
        level, height = divmod(node.level, TILE_HEIGHT)
        first = node.index << height
        hashes = self.hashes(level, first // TILE_WIDTH)
        at = first % TILE_WIDTH * HASH_BYTES
        return subtree_root(hashes[at : at + (HASH_BYTES << height)])

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """The proof that the entry at `index` is in the tree; verified here as well."""
        if not 0 <= index < self.size:
            raise FormatRefused("index", f"{index} is not in a tree of size {self.size}")
        proof = self._proof(inclusion_path(index, self.size))
        leaf = self.node(Node(0, index))
        verify_inclusion(leaf, index, self.size, proof, self.checkpoint.root)
        return proof

    def consistency(self, old_size: int, old_root: bytes) -> tuple[bytes, ...]:
        """The proof that the tree extends an older one. Raises ConsistencyRefused if not."""
        inside = 0 < old_size <= self.size
        proof = self._proof(consistency_path(old_size, self.size)) if inside else ()
        verify_consistency(old_size, old_root, self.size, self.checkpoint.root, proof)
        return proof

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Entries [start, end) with their indices, each compared with its leaf in the tree.

        From 0 to the end this reads every tile there is, and recomputes each from those below.
        Raises TileMissing, SourceUnreachable, and TileRefused, naming the entry that is wrong.
        """
        end = self.size if end is None else end
        if not 0 <= start <= end <= self.size:
            raise FormatRefused("entries", f"{start} to {end} are not in size {self.size}")
        for number in range(start // TILE_WIDTH, -(-end // TILE_WIDTH)):
            first = number * TILE_WIDTH
            for place, entry in enumerate(self.bundle(number)):
                if start <= first + place < end:
                    yield first + place, entry

    def bundle(self, number: int) -> list[bytes]:
        """The entries beside the level-0 tile of this number, each compared with its leaf."""
        tile = tile_at(ENTRIES, number, self.size)
        if tile is None:
            raise FormatRefused("bundle", f"{number} is not in size {self.size}")
        leaves = self.hashes(0, number)
        entries = parse_bundle(*_find(self.source, tile))[: tile.width]
        for place, entry in enumerate(entries):
            if leaf_hash(entry) != _hash_at(leaves, place):
                raise TileRefused(tile.path, f"entry {tile.start + place} is not the one signed")
        return entries

    def _proof(self, path: Sequence[Range]) -> tuple[bytes, ...]:
        nodes = {node: self.node(node) for part in path for node in cover(part)}
        return tuple(range_hash(part, nodes) for part in path)


def open_tree(source: TileSource, checkpoint: Checkpoint) -> SignedTree:
    """The tree under a checkpoint whose signatures the caller has verified.

    Its right edge is read and compared with the signed root.
    Raises TileMissing, SourceUnreachable, and TileRefused, naming the tile that is wrong.
    """
    edge = {tile: read_tile(source, tile) for tile in edge_tiles(checkpoint.size)}
    # Each level's partial tile ends in the complete subtrees that the root is folded from.
    subtrees = []
    for tile, hashes in sorted(edge.items(), reverse=True):
        for node in cover((0, tile.width)):
            at = (node.index << node.level) * HASH_BYTES
            subtrees.append(subtree_root(hashes[at : at + (HASH_BYTES << node.level)]))
    if not hmac.compare_digest(fold(subtrees), checkpoint.root):
        raise _wrong_edge(source, edge, checkpoint)
    return SignedTree(source, checkpoint, edge)


def _wrong_edge(source: TileSource, edge: dict[Tile, bytes], checkpoint: Checkpoint) -> TileRefused:
    """Which tile of the edge differs from what is below it; it or that was altered."""
    for tile, hashes in edge.items():
        for place in range(tile.width):
            try:
                below = _recomputed(source, tile, place, checkpoint.size)
            except TileMissing:
                continue
            if below != _hash_at(hashes, place):
                return TileRefused(
                    tile.path, f"hash {place} is not that of what is stored below it"
                )
    return TileRefused(
        CHECKPOINT, f"signs another tree of size {checkpoint.size} than the tiles beside it make"
    )


def _recomputed(source: TileSource, tile: Tile, place: int, size: int) -> bytes:
    if tile.level > 0:
        return subtree_root(read_tile(source, Tile(tile.level - 1, tile.start + place)))
    bundle = Tile(ENTRIES, tile.index, hashes_at(ENTRIES, size) - tile.start)
    return leaf_hash(parse_bundle(read_tile(source, bundle), bundle)[place])


def _hash_at(hashes: bytes, place: int) -> bytes:
    return hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]


def _limited(path: str, data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise TileRefused(path, f"is larger than {limit} bytes")
    return data
