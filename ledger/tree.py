"""How a growing tree is kept: the hashes of complete subtrees, and proofs made from few of them.

A node (level, index) is the root of the 2**level leaves that begin at index * 2**level; once
those leaves are there it never changes. Everything else (a root, either proof) is folded from
O(log n) nodes. What is stored are the nodes of levels 0, 8, 16, … as the tiles of C2SP
tlog-tiles: with a 256th of the rows, and every other node is a few hashes away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ledger.verify.merkle import HASH_BYTES, fold, node_hash, parents, subtree_root
from ledger.verify.tile_names import TILE_HEIGHT, TILE_WIDTH, Tile, hashes_at

TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES


@dataclass(frozen=True, order=True)
class Node:
    level: int
    index: int


class Nodes(Protocol):
    """Hashes of complete subtrees, looked up or worked out."""

    def __getitem__(self, node: Node, /) -> bytes: ...


Range = tuple[int, int]
"""Leaves [start, end); a proof is a sequence of ranges, each standing for its subtree's root."""


def cover(leaves: Range) -> list[Node]:
    """The complete subtrees, left to right, that make up one range of an inclusion or
    consistency proof, or a whole tree (0, size)."""
    start, end = leaves
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def range_hash(leaves: Range, nodes: Nodes) -> bytes:
    return fold([nodes[node] for node in cover(leaves)])


def inclusion_path(index: int, size: int) -> list[Range]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1, from the leaf's sibling up."""
    path: list[Range] = []
    level, last = 0, size - 1
    while last:
        sibling = index ^ 1
        if sibling <= last:  # the last node of a level may have none
            path.append((sibling << level, min((sibling + 1) << level, size)))
        index, last, level = index >> 1, last >> 1, level + 1
    return path


def inclusion_tiles(indices: Iterable[int], size: int) -> set[Tile]:
    """The tiles that the proofs of these entries in the tree of `size` are made from."""
    # A tile's first entry and its siblings are all that it holds, and above it all have the same.
    first = {index - index % TILE_WIDTH for index in indices}
    return tiles_of(
        node
        for index in first
        for part in [(index, index + 1), *inclusion_path(index, size)]
        for node in cover(part)
    )


def inclusion_proofs(
    indices: Iterable[int], size: int, nodes: TiledNodes
) -> dict[int, tuple[bytes, ...]]:
    """By index, the hashes of its path; what entries of one tile have in common is made once."""
    tiles: dict[int, _TileProofs] = {}
    proofs = {}
    for index in indices:
        first = index - index % TILE_WIDTH
        if first not in tiles:
            tiles[first] = _TileProofs(first, size, nodes)
        proofs[index] = tiles[first].proof(index)
    return proofs


class _TileProofs:
    """The paths of the entries of one level-0 tile: within it each its own, above it the same."""

    def __init__(self, first: int, size: int, nodes: TiledNodes) -> None:
        width = min(TILE_WIDTH, size - first)
        level = nodes.leaves(first, width)
        self._first, self._levels = first, [level]
        while len(level) > 1:
            above = [node_hash(*pair) for pair in zip(level[::2], level[1::2], strict=False)]
            # A last one without a sibling is its own parent: RFC 6962 has no node in between.
            level = above + level[2 * len(above) :]
            self._levels.append(level)
        within = len(inclusion_path(0, width))
        self._above = tuple(
            range_hash(part, nodes) for part in inclusion_path(first, size)[within:]
        )

    def proof(self, index: int) -> tuple[bytes, ...]:
        place, within = index - self._first, []
        for level in self._levels:
            sibling = place ^ 1
            if sibling < len(level):
                within.append(level[sibling])
            place >>= 1
        return (*within, *self._above)


def consistency_path(old_size: int, new_size: int) -> list[Range]:
    """PROOF(old_size, D[new_size]) of RFC 6962 section 2.1.2; empty from or to the same size."""
    if old_size in (0, new_size):
        return []
    return _subproof(old_size, (0, new_size), whole=True)


class TiledNodes:
    """The nodes of some tiles, whole or partial. KeyError for one that they do not hold."""

    def __init__(self, tiles: Mapping[Tile, bytes]) -> None:
        # Of each tile, the hashes of every height in it, worked out when first asked for.
        self._rows = {(tile.level, tile.index): [hashes] for tile, hashes in tiles.items()}

    def __getitem__(self, node: Node, /) -> bytes:
        level, height = divmod(node.level, TILE_HEIGHT)
        number, place = divmod(node.index, TILE_WIDTH >> height)
        rows = self._rows[level, number]
        while len(rows) <= height:
            rows.append(parents(rows[-1]))
        found = rows[height][place * HASH_BYTES : (place + 1) * HASH_BYTES]
        if not found:
            raise KeyError(node)
        return found

    def leaves(self, first: int, count: int) -> list[bytes]:
        """The first leaf hashes of the tile that begins at `first`."""
        hashes = self._rows[0, first // TILE_WIDTH][0]
        return [hashes[at : at + HASH_BYTES] for at in range(0, count * HASH_BYTES, HASH_BYTES)]


def tiles_of(nodes: Iterable[Node]) -> set[Tile]:
    """The narrowest tiles that hold the nodes, one for each that is named."""
    widths: dict[tuple[int, int], int] = {}
    for node in nodes:
        level, height = divmod(node.level, TILE_HEIGHT)
        number, place = divmod(node.index, TILE_WIDTH >> height)
        widths[level, number] = max(widths.get((level, number), 0), (place + 1) << height)
    return {Tile(level, number, width) for (level, number), width in widths.items()}


def grow(
    size: int, edge: Mapping[Tile, bytes], leaf_hashes: Collection[bytes]
) -> dict[Tile, bytes]:
    """The tiles that are new or wider when leaves are added to a tree of `size`.

    edge: the partial tiles of that size, as `edge_tiles` names them.
    """
    grown: dict[Tile, bytes] = {}
    level, added = 0, b"".join(leaf_hashes)
    while added:
        number, width = divmod(hashes_at(level, size), TILE_WIDTH)
        hashes = edge[Tile(level, number, width)] + added if width else added
        level_up = []
        for at in range(0, len(hashes), TILE_BYTES):
            piece = hashes[at : at + TILE_BYTES]
            tile = Tile(level, number + at // TILE_BYTES, len(piece) // HASH_BYTES)
            grown[tile] = piece
            if tile.full:
                level_up.append(subtree_root(piece))
        level, added = level + 1, b"".join(level_up)
    return grown


def _subproof(old_size: int, tree: Range, *, whole: bool) -> list[Range]:
    start, end = tree
    if old_size == end:
        return [] if whole else [tree]
    middle = start + _split(end - start)
    if old_size <= middle:
        return [*_subproof(old_size, (start, middle), whole=whole), (middle, end)]
    return [*_subproof(old_size, (middle, end), whole=False), (start, middle)]


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1
