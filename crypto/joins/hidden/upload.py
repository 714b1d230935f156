"""Steps 1 to 3: the rows of an upload, their secret order, and what goes to the helper.

Specification: docs/hidden_join.md, *Steps* 2 and 3. Whatever a holder's filters selected, its
upload has the same number of rows and of pool marks. A holder sends

    to the other holder   the seed of its shares
    to the helper         tags, positions of pool rows, and x - F(seed) for the check column
                          (label 0), each column of the plan (labels 1, 2, …) and, from B alone,
                          the canary column

so that the other holder has F(seed), the helper the rest, and neither has a value. Of three, A has
what B and D send to the other holder, and B what A does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from crypto.joins.hidden.columns import Column
from crypto.joins.hidden.keys import (
    SEED_BYTES,
    TAG_BYTES,
    Pad,
    Stream,
    TagKeys,
    canary_words,
    check_words,
)
from crypto.joins.hidden.messages import blocks, receive, receive_all, send, send_all
from crypto.joins.layout import COUNTED
from crypto.joins.rows import NO_GROUP, SideRows
from crypto.ports import Channels, Randomness
from crypto.sharing import UInt64Array

HELPER: Final = 2
CHECK_COLUMN: Final = 0
CANARY_COLUMN: Final = 2**32 - 1  # label of its own, whatever columns the plan has
_SHUFFLE: Final = 0
_FILL: Final = 1

UInt8Array = npt.NDArray[np.uint8]
UInt32Array = npt.NDArray[np.uint32]


def within_domain(rows: SideRows) -> SideRows:
    """The rows that count somewhere. A row outside the groups' domain adds nothing to any answer,
    and uploaded it would make sums of the other side's columns wrong."""
    inside = rows.group != NO_GROUP
    if inside.all():
        return rows
    return SideRows(rows.tokens[inside], rows.group[inside], rows.factors[inside])


class Upload:
    """One holder's upload in its secret order. Items are numbered: real rows first, then agreed
    rows, pool rows, fillers; `_item` says which of them stands at each position."""

    def __init__(
        self,
        rows: SideRows,
        *,
        size: int,
        pool: int,
        agreed: UInt8Array,
        canaries: int,
        keys: TagKeys,
        check_agreed: bool,
        randomness: Randomness,
    ) -> None:
        """rows: within the domain, at most the cap. agreed: tags of this attempt's agreed rows, of
        which the first `canaries` are known to all holders and have a word in the canary column.

        check_agreed: whether agreed rows carry a check word. B's do not where the size is hidden:
        there A's word is multiplied by B's validity, which is 0 on agreed rows.
        """
        self._rows, self._tags = rows, agreed
        self._canaries = canary_words(keys, agreed[:canaries])
        self._real, self._agreed, self._pool, self._size = len(rows), len(agreed), pool, size
        self._keys, self._check_agreed = keys, check_agreed
        self.seed = randomness.draw(SEED_BYTES)
        self._local = Pad(randomness.draw(SEED_BYTES))  # forgotten with this object
        self._item = self._local.shuffle(_SHUFFLE, size).astype(np.uint32)
        self._check = np.zeros(size, dtype=np.uint64)
        self._group = self._groups()
        self._shares = Pad(self.seed)

    def send_tags(self, channels: Channels) -> None:
        """Tags block by block, then the positions of pool rows, ascending."""
        pool = []
        for part, tags, marked in self._tagged():
            send(channels, HELPER, "tags", tags)
            pool.append(np.flatnonzero(marked).astype(np.uint32) + np.uint32(part.start))
        send_all(channels, HELPER, "pool", np.concatenate(pool))

    def send_check(self, channels: Channels) -> None:
        """The share of the check column; after `send_tags`, once."""
        stream = self._shares.stream(CHECK_COLUMN)
        for part in blocks(self._size):
            hidden = stream.words(part.stop - part.start)
            send(channels, HELPER, "column", np.subtract(self._check[part], hidden, out=hidden))

    def send_canary(self, channels: Channels) -> None:
        """The share of the canary column, which is 0 but on the rows that all holders agreed on."""
        stream = self._shares.stream(CANARY_COLUMN)
        for part in blocks(self._size):
            hidden = stream.words(part.stop - part.start)
            np.negative(hidden, out=hidden)
            item = self._item[part]
            at = (item >= self._real) & (item < self._real + len(self._canaries))
            hidden[at] += self._canaries[item[at] - self._real]
            send(channels, HELPER, "column", hidden)

    def send_column(self, channels: Channels, index: int, column: Column) -> None:
        """The share of one column of the plan, whose label is index + 1."""
        stream = self._shares.stream(index + 1)
        for part in blocks(self._size):
            hidden = stream.words(part.stop - part.start)
            np.negative(hidden, out=hidden)
            at = self._where(part, column.group)
            if column.factor == COUNTED:
                hidden[at] += np.uint64(1)
            else:
                rows = self._item[part][at]
                hidden[at] += self._rows.factors[rows, column.factor - 1].view(np.uint64)
            send(channels, HELPER, "column", hidden)

    def _tagged(self) -> Iterator[tuple[slice, UInt8Array, npt.NDArray[np.bool_]]]:
        """Each block's tags, and which of its rows are pool rows; fills the check column."""
        fill = self._local.stream(_FILL)
        checked = self._real + (self._agreed if self._check_agreed else 0)
        for part in blocks(self._size):
            item = self._item[part]
            tags = fill.words(2 * len(item)).view(np.uint8).reshape(-1, TAG_BYTES)
            real = item < self._real
            tags[real] = self._rows.tokens[item[real]]
            common = ~real & (item < self._real + self._agreed)
            tags[common] = self._tags[item[common] - self._real]
            words = check_words(self._keys, tags)
            words[item >= checked] = 0
            self._check[part] = words
            first = self._real + self._agreed
            yield part, tags, (item >= first) & (item < first + self._pool)

    def _groups(self) -> npt.NDArray[np.signedinteger[Any]]:
        """The group at each position, NO_GROUP where there is no real row; as narrow as it goes."""
        widest = int(self._rows.group.max(initial=0))
        kind = np.int8 if widest < 2**7 else np.int16 if widest < 2**15 else np.int32
        # One more entry than rows: everything that is not a real row looks there.
        groups = np.append(self._rows.group, NO_GROUP).astype(kind)
        found: npt.NDArray[np.signedinteger[Any]] = groups[self._item.clip(max=self._real)]
        return found

    def _where(self, part: slice, group: int | None) -> npt.NDArray[np.int64]:
        found = self._group[part]
        return np.flatnonzero(found != NO_GROUP if group is None else found == group)


class SharesOfOther:
    """At a holder: its shares of the other's columns at the matched rows, F(seed) at `at`."""

    def __init__(self, seed: bytes, *, size: int, at: UInt32Array) -> None:
        self._seed, self._whole, self._at = seed, np.empty(size, dtype=np.uint64), at

    def check(self) -> UInt64Array:
        return self._column(CHECK_COLUMN)

    def canary(self) -> UInt64Array:
        return self._column(CANARY_COLUMN)

    def column(self, index: int, *, again: bool = False) -> UInt64Array:
        """shape (pairs,), the caller's to overwrite. again: as at the helper."""
        return self._column(index + 1)

    def _column(self, label: int) -> UInt64Array:
        # The very words of the upload: they are this party's share, and hide nothing anew.
        Stream(self._seed, label).fill(self._whole)
        return self._whole.take(self._at)


class SharesAtHelper:
    """At the helper: its shares of one holder's columns at the matched rows, kept as they come."""

    def __init__(self, *, size: int, at: UInt32Array) -> None:
        self._held: dict[int, UInt64Array] = {}
        self._whole, self._at = np.empty(size, dtype=np.uint64), at

    def receive(self, channels: Channels, holder: int, label: int) -> None:
        """The next column of that holder's upload, which the protocol says is this one."""
        receive_all(channels, holder, "column", self._whole)
        self._held[label] = self._whole.take(self._at)

    def check(self) -> UInt64Array:
        return self._held.pop(CHECK_COLUMN)

    def canary(self) -> UInt64Array:
        return self._held.pop(CANARY_COLUMN)

    def column(self, index: int, *, again: bool = False) -> UInt64Array:
        """shape (pairs,), the caller's to overwrite; not kept, unless it is wanted again."""
        return self._held[index + 1].copy() if again else self._held.pop(index + 1)


def receive_tags(
    channels: Channels, holder: int, *, size: int, pool: int
) -> tuple[UInt8Array, UInt32Array]:
    """At the helper: one holder's tags, shape (size, 16), and the positions of its pool rows."""
    tags = np.empty((size, TAG_BYTES), dtype=np.uint8)
    for part in blocks(size):
        rows = part.stop - part.start
        found = receive(channels, holder, "tags", np.uint8, rows * TAG_BYTES)
        tags[part] = found.reshape(rows, TAG_BYTES)
    marked = np.empty(pool, dtype=np.uint32)
    receive_all(channels, holder, "pool", marked)
    return tags, marked
