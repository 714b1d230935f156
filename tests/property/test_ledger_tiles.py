"""Tiles: the published layout, and a reader that believes no byte of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import (
    ConsistencyRefused,
    FormatRefused,
    LedgerError,
    TileMissing,
    TileRefused,
)
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.tile_names import ENTRIES, Tile, edge_tiles, tile_at, tiles_between
from ledger.verify.tiles import SignedTree, bundle_bytes, open_tree, parse_bundle
from tests.property.test_ledger_tree import mth, slow_path, slow_proof

ORIGIN = "log.example/tiles"


class Files:
    """A log written the slow way: each tile from the words of the specification."""

    def __init__(self, entries: list[bytes]) -> None:
        self.entries = entries
        self.files: dict[str, bytes] = {}
        level, hashes = 0, [leaf_hash(entry) for entry in entries]
        while hashes:
            for tile, part in _cut(level, hashes):
                self.files[tile.path] = b"".join(part)
            full = len(hashes) // 256
            hashes = [root(hashes[at * 256 : (at + 1) * 256]) for at in range(full)]
            level += 1
        for tile, entries_of_it in _cut(ENTRIES, entries):
            self.files[tile.path] = bundle_bytes(entries_of_it)

    def read(self, path: str) -> bytes:
        if path not in self.files:
            raise TileMissing(path)
        return self.files[path]

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(ORIGIN, len(self.entries), root([leaf_hash(e) for e in self.entries]))

    @property
    def tree(self) -> SignedTree:
        return open_tree(self, self.checkpoint)

    def flip(self, path: str, at: int) -> None:
        data = bytearray(self.files[path])
        data[at] ^= 1
        self.files[path] = bytes(data)


def _cut(level: int, items: list[bytes]) -> Iterator[tuple[Tile, list[bytes]]]:
    for index in range(0, -(-len(items) // 256)):
        part = items[index * 256 : (index + 1) * 256]
        yield Tile(level, index, len(part)), part


def log(size: int, salt: int = 0) -> Files:
    return Files([f"{salt}/{number}".encode() for number in range(size)])


# Small sizes, and those around the edges of tiles.
SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([255, 256, 257, 511, 512, 513, 600]),
)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1234067), "tile/0/x001/x234/067"),  # the example of C2SP tlog-tiles
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(1, 1, 17), "tile/1/001.p/17"),
        (Tile(2, 0, 1), "tile/2/000.p/1"),
        (Tile(ENTRIES, 273, 112), "tile/entries/273.p/112"),
        (Tile(ENTRIES, 1000), "tile/entries/x001/000"),
        (Tile(63, 0), "tile/63/000"),
    ],
)
def test_a_tile_is_called_as_the_specification_says(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert Tile.parse(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/entry/000",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000/001",  # a second spelling of 1
        "tile/0/001/002",
        "tile/0/x001/x002",
        "tile/0/x001/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/000\n",
        "tile/0/٠٠٠",  # digits, and not ASCII
        "tile/0/../0/000",
        "tile/0/" + "x999/" * 6 + "999",
        "checkpoint",
        "",
    ],
)
def test_any_other_path_is_refused(path: str) -> None:
    with pytest.raises(FormatRefused):
        Tile.parse(path)


@given(st.integers(-1, 63), st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_every_tile_has_one_path_and_is_read_back_from_it(
    level: int, index: int, width: int
) -> None:
    tile = Tile(level, index, width)
    assert Tile.parse(tile.path) == tile


def test_a_log_of_seventy_thousand_entries_has_the_published_tiles() -> None:
    tiles = list(tiles_between(0, 70_000))
    by_level = {level: [t for t in tiles if t.level == level] for level in range(-1, 4)}
    assert [t.width for t in by_level[0]] == [256] * 273 + [112]
    assert [t.width for t in by_level[1]] == [256, 17]
    assert [t.width for t in by_level[2]] == [1]
    assert by_level[3] == []
    assert [(t.index, t.width) for t in by_level[ENTRIES]] == [
        (t.index, t.width) for t in by_level[0]
    ]
    assert [t.path for t in edge_tiles(70_000)] == [
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]


@given(SIZES, SIZES)
def test_what_is_new_between_two_sizes_is_what_the_larger_log_alone_has(a: int, b: int) -> None:
    old, new = sorted((a, b))
    before, after = set(log(old).files), set(log(new).files)
    assert {tile.path for tile in tiles_between(old, new)} == after - before
    assert {tile.path for tile in tiles_between(0, new)} == after
    for path in after:
        tile = Tile.parse(path)
        assert tile_at(tile.level, tile.index, new) == tile


def test_no_log_has_an_empty_tile() -> None:
    for size in (0, 1, 255, 256, 257, 65_536, 2**40):
        assert all(tile.width for tile in edge_tiles(size))
        assert tile_at(0, size // 256 + (size % 256 > 0), size) is None
    assert list(tiles_between(0, 0)) == []


@given(SIZES)
def test_all_entries_come_out_as_they_were_put_in(size: int) -> None:
    made = log(size)
    assert list(made.tree.entries()) == list(enumerate(made.entries))


@given(SIZES.filter(bool), st.data())
def test_proofs_from_tiles_are_those_of_the_rfc(size: int, draw: st.DataObject) -> None:
    made = log(size)
    index = draw.draw(st.integers(0, size - 1))
    old = draw.draw(st.integers(1, size))
    assert list(made.tree.inclusion(index)) == slow_path(index, made.entries)
    proof = made.tree.consistency(old, mth(made.entries[:old]))
    assert list(proof) == slow_proof(old, made.entries)


def test_an_older_tree_is_read_from_the_tiles_of_a_larger_one() -> None:
    """A source may delete a partial tile once the full one is there."""
    made, older = log(700), log(300).checkpoint
    made.files["tile/1/000.p/1"] = log(300).files["tile/1/000.p/1"]
    assert "tile/0/001.p/44" not in made.files
    tree = open_tree(made, older)
    assert [entry for _, entry in tree.entries()] == made.entries[:300]
    assert list(tree.inclusion(299)) == slow_path(299, made.entries[:300])


def test_a_history_that_was_rewritten_proves_nothing() -> None:
    made = log(300)
    with pytest.raises(ConsistencyRefused):
        made.tree.consistency(200, mth(log(200, salt=1).entries))
    for old in (0, 301):
        with pytest.raises(ConsistencyRefused):
            made.tree.consistency(old, mth(made.entries[:200]))


@given(st.sampled_from([1, 3, 256, 257, 513, 600]), st.data())
def test_one_flipped_bit_anywhere_is_found_and_named(size: int, draw: st.DataObject) -> None:
    made = log(size)
    path = draw.draw(st.sampled_from(sorted(made.files)))
    made.flip(path, draw.draw(st.integers(0, len(made.files[path]) - 1)))
    with pytest.raises(TileRefused) as caught:
        list(made.tree.entries())
    assert caught.value.path == path


def test_the_entry_that_was_altered_is_named() -> None:
    made = log(300)
    made.entries[280] = b"0/forged"
    made.files["tile/entries/001.p/44"] = bundle_bytes(made.entries[256:])
    honest = log(300).checkpoint
    with pytest.raises(TileRefused, match="entry 280 is not the one signed"):
        list(open_tree(made, honest).entries())
    with pytest.raises(TileRefused, match="entry 280"):
        open_tree(made, honest).bundle(1)


def test_the_tiles_of_another_log_do_not_pass_for_this_one() -> None:
    with pytest.raises(TileRefused, match="another tree") as caught:
        open_tree(log(300, salt=1), log(300).checkpoint)
    assert caught.value.path == "checkpoint"
    with pytest.raises(LedgerError):
        open_tree(log(299), log(300).checkpoint)


def test_a_tile_swapped_for_another_good_one_is_refused() -> None:
    made = log(600)
    files = made.files
    files["tile/0/000"], files["tile/0/001"] = files["tile/0/001"], files["tile/0/000"]
    with pytest.raises(TileRefused, match="tile/0/000"):
        made.tree.inclusion(0)


def test_a_tile_of_another_length_is_refused() -> None:
    for change in (lambda data: data[:-1], lambda data: data + b"\0" * 32, lambda data: b""):
        for path in ("tile/0/000", "tile/1/000.p/1", "tile/entries/000", "tile/0/001.p/44"):
            made = log(300)
            made.files[path] = change(made.files[path])
            with pytest.raises(TileRefused, match=path):
                list(made.tree.entries())


def test_what_is_withheld_is_missing_and_never_guessed() -> None:
    for path in log(300).files:
        made = log(300)
        del made.files[path]
        with pytest.raises(TileMissing) as caught:
            list(made.tree.entries())
        assert path.startswith(caught.value.path.removesuffix(".p/44").removesuffix(".p/1"))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_a_bundle_reads_back_and_has_one_reading(entries: list[bytes]) -> None:
    tile = Tile(ENTRIES, 0, len(entries))
    data = bundle_bytes(entries)
    assert parse_bundle(data, tile) == entries
    for wrong in (data + b"\0", data[:-1], data + b"\0\0"):
        with pytest.raises(TileRefused):
            parse_bundle(wrong, tile)
