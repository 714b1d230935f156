"""Laws of the tree: what the fast code makes, a slow tree made from the RFC's words makes too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import ConsistencyRefused, FormatRefused, InclusionRefused, LedgerError
from ledger.tree import (
    Node,
    TiledNodes,
    consistency_path,
    grow,
    inclusion_path,
    inclusion_proofs,
    inclusion_tiles,
    range_hash,
)
from ledger.verify.merkle import (
    EMPTY_ROOT,
    MAX_SIZE,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from ledger.verify.tile_names import Tile, edge_tiles, tile_at
from tests.trees import nodes_of

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


def tiled(data: list[bytes], *steps: int) -> dict[Tile, bytes]:
    """The tiles of a tree that grew in the given steps, each as wide as it became."""
    stored: dict[tuple[int, int], bytes] = {}
    size = 0
    for step in [*steps, len(data)]:
        end = min(max(step, size), len(data))
        edge = {tile: stored[tile.level, tile.index] for tile in edge_tiles(size)}
        for tile, hashes in grow(size, edge, [leaf_hash(e) for e in data[size:end]]).items():
            assert len(hashes) == tile.width * 32
            assert hashes.startswith(stored.get((tile.level, tile.index), b""))
            stored[tile.level, tile.index] = hashes
        size = end
    return {Tile(*place, len(hashes) // 32): hashes for place, hashes in stored.items()}


@given(SIZES, st.lists(SIZES, max_size=4).map(sorted))
def test_a_tree_grown_in_any_steps_has_the_root_of_the_whole(size: int, steps: list[int]) -> None:
    data = entries(size)
    nodes = TiledNodes(tiled(data, *steps))
    assert range_hash((0, size), nodes) == mth(data) == root([leaf_hash(e) for e in data])


WIDE = st.integers(min_value=1, max_value=1200)


@given(WIDE, st.lists(WIDE, max_size=4).map(sorted))
def test_tiles_grown_in_any_steps_hold_every_node_of_the_tree(size: int, steps: list[int]) -> None:
    data = entries(size)
    tiles = tiled(data, *steps)
    wanted = [tile_at(level, index, size) for level in range(3) for index in range(5)]
    assert tiles.keys() == {tile for tile in wanted if tile is not None}
    nodes = TiledNodes(tiles)
    for node, value in nodes_of([leaf_hash(entry) for entry in data]).items():
        assert nodes[node] == value
    for beyond in (Node(0, size), Node(8, size >> 8), Node(3, size >> 3)):
        with pytest.raises(KeyError):
            nodes[beyond]


@given(WIDE, st.data())
def test_proofs_made_together_from_few_tiles_are_those_of_the_rfc(
    size: int, draw: st.DataObject
) -> None:
    indices = draw.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6))
    data = entries(size)
    whole = {(tile.level, tile.index): hashes for tile, hashes in tiled(data).items()}
    needed = inclusion_tiles(indices, size)
    nodes = TiledNodes({t: whole[t.level, t.index][: 32 * t.width] for t in needed})
    proofs = inclusion_proofs(indices, size, nodes)
    assert proofs == {index: tuple(slow_path(index, data)) for index in indices}


@given(SIZES, st.data())
def test_inclusion_proofs_are_those_of_the_rfc_and_verify(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    data = entries(size)
    nodes = nodes_of([leaf_hash(entry) for entry in data])
    proof = [range_hash(part, nodes) for part in inclusion_path(index, size)]
    assert proof == slow_path(index, data)
    verify_inclusion(leaf_hash(data[index]), index, size, proof, mth(data))


@given(SIZES, st.data())
def test_consistency_proofs_are_those_of_the_rfc_and_verify(size: int, draw: st.DataObject) -> None:
    old = draw.draw(st.integers(1, size))
    data = entries(size)
    nodes = nodes_of([leaf_hash(entry) for entry in data])
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


# Large trees: all leaves are alike but one, so that a subtree's hash depends on its size and on
# whether it holds that leaf, and the RFC's words can be followed up to the largest size there is.

ALIKE, MARKED = leaf_hash(b"alike"), leaf_hash(b"marked")


@cache
def alike(count: int) -> bytes:
    if count == 1:
        return ALIKE
    k = 1 << (count - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + alike(k) + alike(count - k)).digest()


def large(start: int, end: int, marked: int) -> bytes:
    """MTH(D[start:end]) where only leaf `marked` differs."""
    if not start <= marked < end:
        return alike(end - start)
    if end - start == 1:
        return MARKED
    k = 1 << (end - start - 1).bit_length() - 1
    left, right = large(start, start + k, marked), large(start + k, end, marked)
    return hashlib.sha256(b"\x01" + left + right).digest()


LARGE = st.one_of(
    st.integers(2, MAX_SIZE),
    # Around powers of two the shape of the tree changes.
    st.tuples(st.integers(2, 62), st.integers(-2, 2)).map(lambda p: max(2, 2 ** p[0] + p[1])),
)


@settings(max_examples=40, deadline=None)
@given(LARGE, st.data())
def test_proofs_in_trees_of_any_size_are_those_of_the_rfc(size: int, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, size - 1))
    old = draw.draw(st.integers(1, size))
    top = large(0, size, index)
    path = [large(*part, index) for part in inclusion_path(index, size)]
    verify_inclusion(MARKED, index, size, path, top)
    proof = [large(*part, index) for part in consistency_path(old, size)]
    verify_consistency(old, large(0, old, index), size, top, proof)
    for forged in some(mutations(path), draw):
        with pytest.raises((InclusionRefused, FormatRefused)):
            verify_inclusion(MARKED, index, size, forged, top)
    for wrong in {index - 1, index + 1, index ^ 2, size - 1 - index, 0, size - 1} - {index}:
        with pytest.raises((InclusionRefused, FormatRefused)):
            verify_inclusion(MARKED, wrong, size, path, top)
    if old < size:
        for forged in some(mutations(proof), draw):
            with pytest.raises((ConsistencyRefused, FormatRefused)):
                verify_consistency(old, large(0, old, index), size, top, forged)


@given(st.integers(-(2**65), 2**65), st.integers(-(2**65), 2**65), st.data())
def test_numbers_outside_a_tree_are_refused_and_never_crash(
    index: int, size: int, draw: st.DataObject
) -> None:
    proof = draw.draw(st.lists(st.binary(max_size=40), max_size=70))
    with pytest.raises((InclusionRefused, FormatRefused)):
        verify_inclusion(ALIKE, index, size, proof, MARKED)
    with pytest.raises((ConsistencyRefused, FormatRefused)):
        verify_consistency(index, ALIKE, size, MARKED, proof)


def mutations(proof: Sequence[bytes], *, every_bit: bool = False) -> Iterator[list[bytes]]:
    """Every neighbour of a proof: a bit flipped, one hash more, one less, two swapped."""
    given = list(proof)
    for at, value in enumerate(given):
        for bit in range(256) if every_bit else (0, 100, 255):
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            yield [*given[:at], bytes(flipped), *given[at + 1 :]]
        yield [*given[:at], *given[at + 1 :]]
        yield [*given[:at], value[:-1], *given[at + 1 :]]
        yield [*given[:at], value + b"\0", *given[at + 1 :]]
        for other in range(at):
            if given[other] != value:
                swapped = given.copy()
                swapped[at], swapped[other] = swapped[other], swapped[at]
                yield swapped
    for at in range(len(given) + 1):
        for extra in {EMPTY_ROOT, b"\0" * 32, *given}:
            yield [*given[:at], extra, *given[at:]]


def some(forgeries: Iterator[list[bytes]], draw: st.DataObject) -> Iterator[list[bytes]]:
    """A few of many, from a place that is drawn."""
    return islice(forgeries, draw.draw(st.integers(0, 99)), 5000, 101)


def check_every_pair(sizes: Sequence[int], *, every_bit: bool = False) -> None:
    """Roots, both proofs and all their neighbours, for every index and older size."""
    for size in sizes:
        data = entries(size)
        nodes, top = nodes_of([leaf_hash(entry) for entry in data]), mth(data)
        assert range_hash((0, size), nodes) == root([leaf_hash(e) for e in data]) == top
        for index in range(size):
            proof = [range_hash(part, nodes) for part in inclusion_path(index, size)]
            assert proof == slow_path(index, data)
            leaf = leaf_hash(data[index])
            verify_inclusion(leaf, index, size, proof, top)
            for forged in mutations(proof, every_bit=every_bit):
                with pytest.raises((InclusionRefused, FormatRefused)):
                    verify_inclusion(leaf, index, size, forged, top)
            for wrong in range(size):
                if wrong != index:
                    with pytest.raises(InclusionRefused):
                        verify_inclusion(leaf, wrong, size, proof, top)
        for old in range(1, size + 1):
            before = mth(data[:old])
            proof = [range_hash(part, nodes) for part in consistency_path(old, size)]
            assert proof == slow_proof(old, data)
            verify_consistency(old, before, size, top, proof)
            for forged in mutations(proof, every_bit=every_bit):
                with pytest.raises((ConsistencyRefused, FormatRefused)):
                    verify_consistency(old, before, size, top, forged)
            for wrong in range(1, size + 1):
                if wrong != old:
                    with pytest.raises(ConsistencyRefused):
                        verify_consistency(wrong, before, size, top, proof)


def test_in_every_tree_of_up_to_nine_leaves_every_neighbour_of_a_proof_is_refused() -> None:
    check_every_pair(range(1, 10))


@pytest.mark.slow
def test_in_every_tree_of_up_to_nine_leaves_every_bit_of_a_proof_counts() -> None:
    check_every_pair(range(1, 10), every_bit=True)


@pytest.mark.slow
def test_every_pair_of_sizes_up_to_seventy() -> None:
    check_every_pair(range(10, 71))
