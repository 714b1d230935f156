"""A slow reference: every node of a tree, level by level, in the words of RFC 6962."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.tree import Node
from ledger.verify.merkle import node_hash


def nodes_of(leaf_hashes: Sequence[bytes]) -> dict[Node, bytes]:
    """The roots of all complete subtrees."""
    nodes: dict[Node, bytes] = {}
    level, row = 0, list(leaf_hashes)
    while row:
        nodes |= {Node(level, index): value for index, value in enumerate(row)}
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]
        level += 1
    return nodes
