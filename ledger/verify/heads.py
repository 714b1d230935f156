"""The heads that witnesses cosigned over a log's life: they bound when its entries were made.

Beside the files of C2SP tlog-tiles a log serves `heads/<N>`: page N of its witnessed heads in
rising size, HEADS_PER_PAGE to a page, the last one with fewer. A page is those signed notes one
after the other, an empty line between two. Every note is checked like any checkpoint, so leaving
one out is all that whoever serves them can do; times are then bounded less closely, and the audit
states how many heads there were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ledger.errors import FormatRefused, TileMissing
from ledger.verify.text import decode_utf8
from ledger.verify.tile_names import heads_path
from ledger.verify.tiles import TileSource

HEADS_PER_PAGE: Final = 64


def page_bytes(notes: Sequence[bytes]) -> bytes:
    """notes: one to HEADS_PER_PAGE, each as a file of its own would hold it."""
    return b"\n".join(notes)


def parse_page(data: bytes) -> list[bytes]:
    """The notes of one page. Raises FormatRefused; what is in a note is not read here."""
    parts = decode_utf8(data, where="heads").split("\n\n")
    if len(parts) % 2 or not 1 <= len(parts) // 2 <= HEADS_PER_PAGE:
        raise FormatRefused("heads", f"is not 1 to {HEADS_PER_PAGE} notes, an empty line between")
    last = len(parts) - 2
    return [
        f"{parts[at]}\n\n{parts[at + 1]}{'' if at == last else chr(10)}".encode()
        for at in range(0, len(parts), 2)
    ]


def read_heads(source: TileSource) -> Iterator[bytes]:
    """Every past head that the source has, as notes, page after page.

    Raises FormatRefused, SourceUnreachable.
    """
    number = 0
    while True:
        try:
            notes = parse_page(source.read(heads_path(number)))
        except TileMissing:
            return
        yield from notes
        if len(notes) < HEADS_PER_PAGE:
            return
        number += 1
