"""Laws of the tree: what the fast code makes, a slow tree made from the RFC's words makes too."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import ConsistencyRefused, FormatRefused, InclusionRefused, LedgerError
from ledger.tree import (
    Node,
    consistency_path,
    cover,
    grow,
    inclusion_path,
    range_hash,
)
from ledger.verify.merkle import (
    EMPTY_ROOT,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

SIZES = st.integers(min_value=1, max_value=200)


def entries(count: int, salt: int = 0) -> list[bytes]:
    return [f"{salt}/{number}".encode() for number in range(count)]


def mth(data: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = 1
    while k * 2 < len(data):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


def slow_path(m: int, data: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]), RFC 6962 section 2.1.1."""
    if len(data) == 1:
        return []
    k = 1
    while k * 2 < len(data):
        k *= 2
    if m < k:
        return [*slow_path(m, data[:k]), mth(data[k:])]
    return [*slow_path(m - k, data[k:]), mth(data[:k])]


def slow_proof(m: int, data: list[bytes], b: bool = True) -> list[bytes]:
    """SUBPROOF(m, D[n], b), RFC 6962 section 2.1.2."""
    if m == len(data):
        return [] if b else [mth(data)]
    k = 1
    while k * 2 < len(data):
        k *= 2
    if m <= k:
        return [*slow_proof(m, data[:k], b), mth(data[k:])]
    return [*slow_proof(m - k, data[k:], False), mth(data[:k])]


def grown(data: list[bytes], *steps: int) -> dict[Node, bytes]:
    """The nodes of a tree that grew in the given steps."""
    nodes: dict[Node, bytes] = {}
    size = 0
    for step in [*steps, len(data)]:
        end = min(max(step, size), len(data))
        edge = {node: nodes[node] for node in cover((0, size))}
        added = grow(size, edge, [leaf_hash(entry) for entry in data[size:end]])
        assert not added.keys() & nodes.keys()
        nodes |= added
        size = end
    return nodes


@given(SIZES, st.lists(SIZES, max_size=4).map(sorted))
def test_a_tree_grown_in_any_steps_has_the_root_of_the_whole(size: int, steps: list[int]) -> None:
    data = entries(size)
    nodes = grown(data, *steps)
    assert range_hash((0, size), nodes) == mth(data) == root([leaf_hash(e) for e in data])


@given(SIZES, st.data())
def test_inclusion_proofs_are_those_of_the_rfc_and_verify(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    data = entries(size)
    nodes = grown(data)
    proof = [range_hash(part, nodes) for part in inclusion_path(index, size)]
    assert proof == slow_path(index, data)
    verify_inclusion(leaf_hash(data[index]), index, size, proof, mth(data))


@given(SIZES, st.data())
def test_consistency_proofs_are_those_of_the_rfc_and_verify(size: int, draw: st.DataObject) -> None:
    old = draw.draw(st.integers(1, size))
    data = entries(size)
    nodes = grown(data)
    proof = [range_hash(part, nodes) for part in consistency_path(old, size)]
    assert proof == slow_proof(old, data)
    verify_consistency(old, mth(data[:old]), size, mth(data), proof)


@given(st.integers(2, 100), st.data())
def test_no_neighbour_of_an_inclusion_proof_is_accepted(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    data = entries(size)
    leaf, proof, top = leaf_hash(data[index]), slow_path(index, data), mth(data)
    at = draw.draw(st.integers(0, len(proof) - 1))
    flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    other = draw.draw(st.integers(0, size).filter(lambda n: n != index))
    forgeries = [
        (leaf, index, size, proof[:-1], top),  # truncated
        (leaf, index, size, proof[1:], top),
        (leaf, index, size, [*proof, EMPTY_ROOT], top),  # longer
        (leaf, index, size, [EMPTY_ROOT, *proof], top),
        (leaf, index, size, [*proof[:at], flipped, *proof[at + 1 :]], top),
        (leaf, other, size, proof, top),
        (leaf_hash(b"other"), index, size, proof, top),
        (leaf, index, size, proof, mth(entries(size, salt=1))),  # another tree
        (data[index], index, size, proof, top),
        (leaf, -1, size, proof, top),
        (leaf, index, 0, proof, top),
    ]
    if len(set(proof)) > 1:
        forgeries.append((leaf, index, size, proof[::-1], top))
    for forgery in forgeries:
        with pytest.raises(LedgerError) as caught:
            verify_inclusion(*forgery)
        assert isinstance(caught.value, InclusionRefused | FormatRefused)


@given(st.integers(2, 100), st.data())
def test_no_neighbour_of_a_consistency_proof_is_accepted(size: int, draw: st.DataObject) -> None:
    old = draw.draw(st.integers(1, size - 1))
    data = entries(size)
    before, after, proof = mth(data[:old]), mth(data), slow_proof(old, data)
    at = draw.draw(st.integers(0, len(proof) - 1))
    flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    forgeries = [
        (old, before, size, after, proof[:-1]),
        (old, before, size, after, proof[1:]),
        (old, before, size, after, [*proof, EMPTY_ROOT]),
        (old, before, size, after, [EMPTY_ROOT, *proof]),
        (old, before, size, after, [*proof[:at], flipped, *proof[at + 1 :]]),
        (old, mth(entries(old, salt=1)), size, after, proof),  # history rewritten
        (old, before, size, mth(entries(size, salt=1)), proof),
        (size, after, old, before, proof),  # swapped: a rollback
        (old, before, old, before, proof),
        (0, EMPTY_ROOT, size, after, proof),
        (old, before, size, after, []),
    ]
    for forgery in forgeries:
        with pytest.raises(ConsistencyRefused):
            verify_consistency(*forgery)


def test_from_an_empty_tree_nothing_is_proved() -> None:
    for proof in ([], [EMPTY_ROOT]):
        with pytest.raises(ConsistencyRefused):
            verify_consistency(0, EMPTY_ROOT, 1, mth([b"x"]), proof)
        with pytest.raises(ConsistencyRefused):
            verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, proof)


def test_two_roots_of_one_size_are_a_fork_and_one_root_needs_no_proof() -> None:
    one, other = mth(entries(3)), mth(entries(3, salt=1))
    verify_consistency(3, one, 3, one, [])
    with pytest.raises(ConsistencyRefused, match="forked"):
        verify_consistency(3, one, 3, other, [])
    with pytest.raises(ConsistencyRefused, match="no proof"):
        verify_consistency(3, one, 3, one, [EMPTY_ROOT])


@pytest.mark.slow
def test_every_pair_of_sizes_up_to_seventy() -> None:
    for size in range(1, 71):
        data = entries(size)
        nodes, top = grown(data), mth(data)
        for index in range(size):
            proof = [range_hash(part, nodes) for part in inclusion_path(index, size)]
            verify_inclusion(leaf_hash(data[index]), index, size, proof, top)
            for wrong in range(size):
                if wrong != index:
                    with pytest.raises(InclusionRefused):
                        verify_inclusion(leaf_hash(data[index]), wrong, size, proof, top)
        for old in range(1, size + 1):
            proof = [range_hash(part, nodes) for part in consistency_path(old, size)]
            verify_consistency(old, mth(data[:old]), size, top, proof)
