"""The verifier on chain and ledger/verify/merkle.py accept exactly the same proofs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.contracts import load
from ledger.errors import LedgerError
from ledger.tree import Node, consistency_path, cover, inclusion_path, range_hash
from ledger.verify.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    MAX_SIZE,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from tests.contracts import Deployed, Machine, Reverted
from tests.trees import nodes_of

TREE = json.loads((Path(__file__).parents[1] / "vectors" / "ledger" / "tree.json").read_text())
Proof = Sequence[bytes]
Consistency = tuple[int, bytes, int, bytes, Proof]
Inclusion = tuple[bytes, int, int, bytes, Proof]


@cache
def contract() -> Deployed:
    return Machine().deploy(load("anchor"))


def agreed_consistency(claim: Consistency) -> bool:
    """What both verifiers say; they must say the same."""
    try:
        verify_consistency(*claim)
        expected = True
    except LedgerError:
        expected = False
    assert contract()("verify_consistency", *claim) is expected
    return expected


def agreed_inclusion(claim: Inclusion) -> bool:
    leaf, index, size, top, proof = claim
    try:
        verify_inclusion(leaf, index, size, proof, top)
        expected = True
    except LedgerError:
        expected = False
    assert contract()("verify_inclusion", *claim) is expected
    return expected


@cache
def nodes(size: int, salt: int = 0) -> Mapping[Node, bytes]:
    return nodes_of([leaf_hash(f"{salt}/{number}".encode()) for number in range(size)])


class SameLeaves(Mapping[Node, bytes]):
    """A tree of any size whose leaves are all the same: a node's hash depends on its level."""

    def __init__(self) -> None:
        self.levels = [leaf_hash(b"")]
        for _ in range(63):
            self.levels.append(node_hash(self.levels[-1], self.levels[-1]))

    def __getitem__(self, node: Node) -> bytes:
        return self.levels[node.level]

    def __iter__(self) -> Iterator[Node]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


def consistency(old: int, new: int, tree: Mapping[Node, bytes]) -> Consistency:
    proof = [range_hash(part, tree) for part in consistency_path(old, new)]
    return old, range_hash((0, old), tree), new, range_hash((0, new), tree), proof


def inclusion(index: int, size: int, tree: Mapping[Node, bytes]) -> Inclusion:
    proof = [range_hash(part, tree) for part in inclusion_path(index, size)]
    return tree[Node(0, index)], index, size, range_hash((0, size), tree), proof


def mutations(proof: Proof, at: int) -> list[Proof]:
    """The nearest proofs: a hash missing, added, doubled, changed in one bit, out of order."""
    flipped = bytes([*proof[at][:-1], proof[at][-1] ^ 1])
    return [
        proof[:-1],
        proof[1:],
        [*proof, EMPTY_ROOT],
        [EMPTY_ROOT, *proof],
        [*proof, proof[-1]],
        [*proof[: at + 1], *proof[at:]],
        [*proof[:at], flipped, *proof[at + 1 :]],
        [*proof[:at], bytes(32), *proof[at + 1 :]],
        proof[::-1] if len(set(proof)) > 1 else [],
        [],
    ]


@given(st.integers(2, 400), st.data())
def test_a_larger_tree_is_accepted_and_no_neighbour_of_its_proof(
    size: int, draw: st.DataObject
) -> None:
    old = draw.draw(st.integers(1, size - 1))
    claim = consistency(old, size, nodes(400))
    _, before, _, after, proof = claim
    assert agreed_consistency(claim)
    at = draw.draw(st.integers(0, len(proof) - 1))
    for mutated in mutations(proof, at):
        assert not agreed_consistency((old, before, size, after, mutated))
    for forged in (
        (old, range_hash((0, old), nodes(400, 1)), size, after, proof),  # history rewritten
        (old, before, size, range_hash((0, size), nodes(400, 1)), proof),  # another tree's head
        (size, after, old, before, proof),  # swapped: a rollback
        (old, after, size, before, proof),
        (old, before, old, before, proof),
        (0, EMPTY_ROOT, size, after, proof),
        (0, before, size, after, proof),
    ):
        assert not agreed_consistency(forged)


@given(st.integers(2, 400), st.data())
def test_a_leaf_is_accepted_and_no_neighbour_of_its_proof(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    claim = inclusion(index, size, nodes(400))
    leaf, _, _, top, proof = claim
    assert agreed_inclusion(claim)
    at = draw.draw(st.integers(0, len(proof) - 1))
    for mutated in mutations(proof, at):
        assert not agreed_inclusion((leaf, index, size, top, mutated))
    other = draw.draw(st.integers(0, size - 1).filter(lambda n: n != index))
    for forged in (
        (leaf, other, size, top, proof),
        (nodes(400)[Node(0, other)], index, size, top, proof),
        (leaf, index, size, range_hash((0, size), nodes(400, 1)), proof),
        (leaf, size, size, top, proof),
        (leaf, index, 0, top, proof),
        (top, index, size, top, proof),
    ):
        assert not agreed_inclusion(forged)


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.data())
def test_whatever_is_claimed_both_verifiers_answer_the_same(
    size: int, old: int, new: int, draw: st.DataObject
) -> None:
    """Sizes that fit no proof, and proofs made of hashes of the same tree."""
    tree = nodes(64)
    hashes = st.sampled_from([tree[n] for n in cover((0, 63))] + [range_hash((0, size), tree)])
    proof = draw.draw(st.lists(hashes, max_size=8))
    agreed_consistency((old, draw.draw(hashes), new, draw.draw(hashes), proof))
    agreed_inclusion((draw.draw(hashes), old, new, draw.draw(hashes), proof))


@given(st.integers(2, 62), st.data())
def test_trees_of_any_size_up_to_the_largest_are_proved(level: int, draw: st.DataObject) -> None:
    size = draw.draw(st.integers(2 ** (level - 1) + 1, 2**level))
    old = draw.draw(
        st.one_of(
            st.integers(1, size - 1),
            st.integers(1, level).map(lambda n: size - (2**n % size) or 1),
            st.integers(0, level - 1).map(lambda n: 2**n),
        )
    )
    assert agreed_consistency(consistency(old, size, SameLeaves()))
    assert agreed_inclusion(inclusion(old - 1, size, SameLeaves()))


def test_sizes_at_and_beyond_the_limit_are_told_apart() -> None:
    tree = SameLeaves()
    for old in (2**62, 2**62 - 1, MAX_SIZE - 1, 2**61 + 2**60):
        _, _, _, _, proof = claim = consistency(old, MAX_SIZE, tree)
        assert (len(proof) <= MAX_PROOF_HASHES) is agreed_or_too_long(claim)
    assert agreed_inclusion(inclusion(0, MAX_SIZE, tree))
    assert agreed_inclusion(inclusion(MAX_SIZE - 1, MAX_SIZE, tree))
    before, head = range_hash((0, 2**62), tree), tree.levels[63]
    claim = (2**62, before, 2**63, head, [before])
    assert not agreed_consistency(claim)
    assert not agreed_consistency((2**63, head, 2**63, head, []))
    assert not agreed_inclusion((before, 0, 2**64 - 1, head, [before]))
    assert not agreed_consistency((2**64 - 1, head, 2**64 - 1, head, []))
    assert not agreed_consistency((1, head, 2**64 - 1, head, [head] * MAX_PROOF_HASHES))


def agreed_or_too_long(claim: Consistency) -> bool:
    try:
        return agreed_consistency(claim)
    except Reverted:
        return False


@pytest.mark.parametrize("vector", TREE["consistency"], ids=lambda v: f"{v['old']} to {v['new']}")
def test_published_consistency_proofs_are_accepted(vector: dict[str, object]) -> None:
    roots = [bytes.fromhex(text) for text in TREE["roots"]]
    old, new = vector["old"], vector["new"]
    assert isinstance(old, int) and isinstance(new, int) and isinstance(vector["proof"], list)
    proof = [bytes.fromhex(text) for text in vector["proof"]]
    assert agreed_consistency((old, roots[old], new, roots[new], proof))
    assert not agreed_consistency((old, roots[old - 1], new, roots[new], proof))


@pytest.mark.parametrize("vector", TREE["inclusion"], ids=lambda v: f"{v['index']} in {v['size']}")
def test_published_inclusion_proofs_are_accepted(vector: dict[str, object]) -> None:
    roots = [bytes.fromhex(text) for text in TREE["roots"]]
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in TREE["entries_hex"]]
    index, size = vector["index"], vector["size"]
    assert isinstance(index, int) and isinstance(size, int) and isinstance(vector["proof"], list)
    proof = [bytes.fromhex(text) for text in vector["proof"]]
    assert agreed_inclusion((leaves[index], index, size, roots[size], proof))
    assert not agreed_inclusion((leaves[index], index, size, roots[size - 1], proof))


def test_a_proof_longer_than_any_tree_needs_does_not_reach_the_verifier() -> None:
    long = [EMPTY_ROOT] * (MAX_PROOF_HASHES + 1)
    with pytest.raises(Reverted):
        contract()("verify_consistency", 1, EMPTY_ROOT, 2, EMPTY_ROOT, long)
    with pytest.raises(Reverted):
        contract()("verify_inclusion", EMPTY_ROOT, 0, 2, EMPTY_ROOT, long)


@pytest.mark.slow
def test_every_pair_of_sizes_up_to_six_levels_and_every_mutation_of_each_hash() -> None:
    tree = nodes(400)
    for size in range(1, 35):  # 33 leaves are the first on six levels
        for old in range(1, size + 1):
            claim = consistency(old, size, tree)
            assert agreed_consistency(claim)
            for at in range(len(claim[4])):
                for mutated in mutations(claim[4], at):
                    assert not agreed_consistency((*claim[:4], mutated))
        for index in range(size):
            leaf = inclusion(index, size, tree)
            assert agreed_inclusion(leaf)
            for other in range(size):
                if other != index:
                    assert not agreed_inclusion((leaf[0], other, *leaf[2:]))
