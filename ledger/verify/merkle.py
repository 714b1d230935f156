"""The Merkle tree of a transparency log, and the two proofs about it.

Source: RFC 6962 section 2.1 (tree), RFC 9162 sections 2.1.3.2 and 2.1.4.2 (verification), both
with SHA-256. A hash is 32 bytes. Every proof has exactly one accepted form: one hash too many or
too few is refused, so that a proof cannot carry anything that nobody checked.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from ledger.errors import ConsistencyRefused, FormatRefused, InclusionRefused

HASH_BYTES: Final = 32
MAX_SIZE: Final = 2**63 - 1  # C2SP tlog-cosignature; also what a database integer holds
MAX_PROOF_HASHES: Final = 63  # C2SP tlog-witness; enough up to 2**62 entries
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The tree's root over `leaf_hashes`, by folding complete subtrees as leaves arrive."""
    edge: list[tuple[int, bytes]] = []  # (leaves under it, hash), sizes strictly falling
    for leaf in leaf_hashes:
        size, value = 1, leaf
        while edge and edge[-1][0] == size:
            value = node_hash(edge.pop()[1], value)
            size *= 2
        edge.append((size, value))
    return fold([value for _, value in edge])


def fold(edge: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, given from left (largest) to right (smallest)."""
    if not edge:
        return EMPTY_ROOT
    value = edge[-1]
    for left in reversed(edge[:-1]):
        value = node_hash(left, value)
    return value


def parents(hashes: bytes) -> bytes:
    """The nodes above nodes of one level that begin at an even index, both as their hashes one
    after the other; a last node without a sibling is left out."""
    pairs = range(0, len(hashes) - HASH_BYTES, 2 * HASH_BYTES)
    sha256 = hashlib.sha256
    return b"".join(sha256(b"\x01" + hashes[at : at + 64]).digest() for at in pairs)


def subtree_root(hashes: bytes) -> bytes:
    """The root over 2**n hashes, given as their bytes one after the other."""
    while len(hashes) > HASH_BYTES:
        hashes = parents(hashes)
    return hashes


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes
) -> None:
    """Raises InclusionRefused unless `leaf` is at `index` of the tree with that size and root.

    leaf: a leaf hash. proof: from the leaf's sibling up to the child of the root.
    """
    _check_hashes([leaf, expected_root, *proof])
    if not 0 <= index < size <= MAX_SIZE:
        raise InclusionRefused(f"index {index} is not in a tree of size {size}")
    number, last = index, size - 1
    value = leaf
    for sibling in proof:
        if last == 0:
            raise InclusionRefused("the proof has more hashes than the tree has levels")
        if number & 1 or number == last:
            value = node_hash(sibling, value)
            while number and not number & 1:  # levels at which this node has no sibling
                number >>= 1
                last >>= 1
        else:
            value = node_hash(value, sibling)
        number >>= 1
        last >>= 1
    if last != 0:
        raise InclusionRefused("the proof has fewer hashes than the tree has levels")
    if not hmac.compare_digest(value, expected_root):
        raise InclusionRefused(f"the proof for index {index} does not lead to the signed root")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Raises ConsistencyRefused unless the new tree begins with the whole old tree.

    A proof from size 0 says nothing and is refused: whoever has no earlier head must say so.
    """
    _check_hashes([old_root, new_root, *proof])
    if not 0 < old_size <= new_size <= MAX_SIZE:
        raise ConsistencyRefused(f"size {new_size} cannot be shown to extend size {old_size}")
    if old_size == new_size:
        if proof:
            raise ConsistencyRefused("trees of one size need no proof, and one was given")
        if not hmac.compare_digest(old_root, new_root):
            raise ConsistencyRefused(f"two different roots of size {old_size}: the log has forked")
        return
    if not proof:
        raise ConsistencyRefused("the proof is empty")
    # A complete old tree is itself the first node of the path, and the proof leaves it out.
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    number, last = old_size - 1, new_size - 1
    while number & 1:
        number >>= 1
        last >>= 1
    old_value = new_value = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ConsistencyRefused("the proof has more hashes than the tree has levels")
        if number & 1 or number == last:
            old_value = node_hash(sibling, old_value)
            new_value = node_hash(sibling, new_value)
            while number and not number & 1:
                number >>= 1
                last >>= 1
        else:
            new_value = node_hash(new_value, sibling)
        number >>= 1
        last >>= 1
    if last != 0:
        raise ConsistencyRefused("the proof has fewer hashes than the tree has levels")
    if not hmac.compare_digest(old_value, old_root):
        raise ConsistencyRefused(f"the proof does not lead to the known root of size {old_size}")
    if not hmac.compare_digest(new_value, new_root):
        raise ConsistencyRefused(f"the proof does not lead to the signed root of size {new_size}")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise FormatRefused("hash", f"has {len(value)} bytes, not {HASH_BYTES}")
