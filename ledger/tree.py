"""How a growing tree is kept: the hashes of complete subtrees, and proofs made from few of them.

A node (level, index) is the root of the 2**level leaves that begin at index * 2**level; once
those leaves are there it never changes. Everything else (a root, either proof) is folded from
O(log n) nodes. The nodes at levels 8, 16, … are what C2SP tlog-tiles serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ledger.verify.merkle import fold, node_hash


@dataclass(frozen=True, order=True)
class Node:
    level: int
    index: int


Nodes = Mapping[Node, bytes]
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
    return _path(index, (0, size))


def consistency_path(old_size: int, new_size: int) -> list[Range]:
    """PROOF(old_size, D[new_size]) of RFC 6962 section 2.1.2; empty from or to the same size."""
    if old_size in (0, new_size):
        return []
    return _subproof(old_size, (0, new_size), whole=True)


def grow(size: int, edge: Nodes, leaf_hashes: Sequence[bytes]) -> dict[Node, bytes]:
    """The nodes that become complete when leaves are added to a tree of `size`.

    edge: the nodes of cover((0, size)).
    """
    known = dict(edge)
    added: dict[Node, bytes] = {}
    for index, leaf in enumerate(leaf_hashes, start=size):
        node, value = Node(0, index), leaf
        added[node] = value
        while node.index & 1:
            left = Node(node.level, node.index - 1)
            value = node_hash(added[left] if left in added else known[left], value)
            node = Node(node.level + 1, node.index >> 1)
            added[node] = value
    return added


def _path(index: int, tree: Range) -> list[Range]:
    start, end = tree
    if end - start <= 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*_path(index, (start, middle)), (middle, end)]
    return [*_path(index, (middle, end)), (start, middle)]


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
