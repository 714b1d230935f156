"""What the pieces of a published log are called, and which of them a log of some size has.

Source: C2SP tlog-tiles. A tile holds up to 256 hashes of one level: level 0 the leaf hashes,
level n + 1 the roots of full tiles of level n. An entry bundle holds the entries of one level-0
tile. A path has one accepted spelling, so that no two caches hold one tile under two names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ledger.errors import FormatRefused
from ledger.verify.merkle import MAX_SIZE

CHECKPOINT: Final = "checkpoint"
ENTRIES: Final = -1  # the level of entry bundles, as in Go's tlog
TILE_HEIGHT: Final = 8
TILE_WIDTH: Final = 1 << TILE_HEIGHT
MAX_LEVEL: Final = 63
_PATH: Final = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)

_HEADS: Final = re.compile(r"heads/(0|[1-9][0-9]{0,15})", re.ASCII)


@dataclass(frozen=True, order=True)
class Tile:
    """level: 0 to 63, or ENTRIES for an entry bundle. index: of the tile, from 0.
    width: hashes or entries in it, 1 to 256; below 256 only the last of a level.
    """

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if not ENTRIES <= self.level <= MAX_LEVEL:
            raise FormatRefused("tile", f"has a level that is not 0 to {MAX_LEVEL}")
        if not 0 <= self.index <= MAX_SIZE >> TILE_HEIGHT:
            raise FormatRefused("tile", "has an index that no log's size reaches")
        if not 1 <= self.width <= TILE_WIDTH:
            raise FormatRefused("tile", f"has a width that is not 1 to {TILE_WIDTH}")

    @property
    def full(self) -> bool:
        return self.width == TILE_WIDTH

    @property
    def start(self) -> int:
        """The first hash's index in its level; of a bundle, the first entry's."""
        return self.index * TILE_WIDTH

    @property
    def whole(self) -> Tile:
        """The same tile once the log has grown beyond it."""
        return Tile(self.level, self.index)

    @property
    def path(self) -> str:
        level = "entries" if self.level == ENTRIES else str(self.level)
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        number = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        return f"tile/{level}/{number}" + ("" if self.full else f".p/{self.width}")

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read a path such as `tile/0/x001/x234/067` or `tile/entries/273.p/112`.

        Raises FormatRefused.
        """
        found = _PATH.fullmatch(path)
        if found is None or len(path) > 60:
            raise FormatRefused("tile path", "is not tile/<level>/<number>[.p/<width>]")
        level, number, width = found.groups()
        if width is not None and int(width) >= TILE_WIDTH:
            raise FormatRefused("tile path", "names a partial tile of full width or wider")
        index = int(number.replace("x", "").replace("/", ""))
        tile = cls(
            ENTRIES if level == "entries" else int(level),
            index,
            TILE_WIDTH if width is None else int(width),
        )
        if tile.path != path:
            raise FormatRefused("tile path", f"is not in its one spelling, {tile.path}")
        return tile


def heads_path(page: int) -> str:
    """Where a page of past witnessed heads is: not of C2SP, see ledger.verify.heads."""
    return f"heads/{page}"


def is_heads_path(path: str) -> bool:
    return _HEADS.fullmatch(path) is not None


def heads_number(path: str) -> int:
    """The page's number. Raises FormatRefused."""
    found = _HEADS.fullmatch(path)
    if found is None:
        raise FormatRefused("path", "is not heads/<page>")
    return int(found[1])


def hashes_at(level: int, size: int) -> int:
    """How many hashes all tiles of a level hold together; for ENTRIES, how many entries."""
    return size >> TILE_HEIGHT * max(level, 0)


def tile_at(level: int, index: int, size: int) -> Tile | None:
    """The tile as a log of `size` has it, full or partial; None if it has no such tile."""
    width = min(hashes_at(level, size) - index * TILE_WIDTH, TILE_WIDTH)
    return None if width < 1 else Tile(level, index, width)


def edge_tiles(size: int) -> list[Tile]:
    """The partial tile of each level that has one, from level 0 up: they make the root."""
    last = ((level, hashes_at(level, size)) for level in range(MAX_LEVEL // TILE_HEIGHT + 1))
    return [
        Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)
        for level, count in last
        if count % TILE_WIDTH
    ]


def tiles_between(old_size: int, size: int) -> Iterator[Tile]:
    """What a log of `size` has and one of `old_size` had not: by level, bundles first.

    A tile that was partial and has grown is among them, under its new name.
    """
    for level in range(ENTRIES, MAX_LEVEL // TILE_HEIGHT + 1):
        old_count, count = hashes_at(level, old_size), hashes_at(level, size)
        if count == old_count:
            continue
        for index in range(old_count // TILE_WIDTH, -(-count // TILE_WIDTH)):
            yield Tile(level, index, min(count - index * TILE_WIDTH, TILE_WIDTH))
