"""Step 4: the helper pairs equal tags, adds pool rows, and puts all pairs in one random order.

Specification: docs/hidden_join.md, *Steps* 4, and *Variants* (hidden size). The helper reads
nothing but tags, which are a PRF under a key it lacks, and where the pool rows are. Holder A is
told positions in B's upload and B positions in A's: B's secret shuffle makes A's list a uniform
ordered sample, whatever matched. Of three holders, A is told positions in D's upload as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crypto.joins.hidden.keys import SEED_BYTES, Pad
from crypto.joins.hidden.messages import mismatch, receive, receive_all, send, send_all
from crypto.joins.hidden.padding import DRAW_BYTES, Padding
from crypto.joins.hidden.upload import UInt8Array, UInt32Array
from crypto.ports import Channels, Randomness
from crypto.sharing import UInt64Array

POOL_OF_A, POOL_OF_B, ORDER, POOL_OF_D = 0, 1, 2, 3  # labels of the helper's own shuffles

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Pairs:
    """Pair i is row at_a[i] of A's upload and row at_b[i] of B's; and of a third's, row at_d[i]."""

    at_a: UInt32Array
    at_b: UInt32Array
    at_d: UInt32Array | None = None

    def __len__(self) -> int:
        return len(self.at_a)


def match(
    tags: Sequence[UInt8Array],
    pool: Sequence[UInt32Array],
    *,
    drawn: Padding | None,
    randomness: Randomness,
) -> Pairs:
    """All pairs, in one random order.

    tags: per holder, two or three, shape (N, 16); pool: per holder, the positions of its pool rows
    drawn: what the number of pool pairs is drawn from; None where the size is hidden: then every
           row of A without a partner gets a pool row of B
    Raises EngineFailed (mismatch) if a tag occurs twice in one upload or a pool mark is not one.
    """
    for held, marked in zip(tags, pool, strict=True):
        require_positions(marked, len(held), what="a holder's pool marks")
    at = list(equal_tags(tags[0], tags[1]))
    if len(tags) == 3:
        kept, at_d = equal_tags(tags[0][at[0]], tags[2])
        at = [at[0][kept], at[1][kept], at_d]
    if any(_touches(*one) for one in zip(at, pool, map(len, tags), strict=True)):
        raise mismatch("a row that a holder marked as pool has a partner")
    local = Pad(randomness.draw(SEED_BYTES))
    if drawn is None:
        alone = np.ones(len(tags[0]), dtype=np.bool_)
        alone[at[0]] = False
        pool_a = np.flatnonzero(alone)
    else:
        count = drawn.draw(randomness.draw(DRAW_BYTES))
        pool_a = pool[0][local.shuffle(POOL_OF_A, len(pool[0]))[:count]].astype(np.int64)
    added = [pool_a]
    for label, rows in zip((POOL_OF_B, POOL_OF_D), pool[1:], strict=False):
        added.append(rows[local.shuffle(label, len(rows))[: len(pool_a)]].astype(np.int64))
    order = local.shuffle(ORDER, len(at[0]) + len(pool_a))
    found = [np.concatenate(both)[order].astype(np.uint32) for both in zip(at, added, strict=True)]
    return Pairs(*found)


def equal_tags(tags_a: UInt8Array, tags_b: UInt8Array) -> tuple[Positions, Positions]:
    """Positions of the rows of A and of B with equal tags. Raises EngineFailed (mismatch) if a tag
    occurs twice on one side.

    Both sides are sorted together by the first half of the tags, which tells them apart but for
    one join of 10**7 rows in 10**5; only then by both halves.
    """
    first = _half(tags_a, tags_b, 0)
    found = _neighbours(first, np.argsort(first), len(tags_a))
    if found is None or (_second(tags_a, found[0]) != _second(tags_b, found[1])).any():
        second = _half(tags_a, tags_b, 1)
        # Equal tags get one number, others another: then neighbours are equal in both halves.
        order = np.lexsort((second, first))
        new = np.ones(len(order), dtype=np.uint64)
        new[1:] = (first[order[1:]] != first[order[:-1]]) | (
            second[order[1:]] != second[order[:-1]]
        )
        number = np.empty_like(new)
        number[order] = np.cumsum(new)
        found = _neighbours(number, order, len(tags_a))
        if found is None:
            raise mismatch("a holder uploaded a tag twice; its rows were not one for each key")
    return found


def require_positions(positions: UInt32Array, size: int, *, what: str) -> None:
    """Raises EngineFailed (mismatch) for a position beyond the upload or one that comes twice."""
    if len(positions) and int(positions.max()) >= size:
        raise mismatch(f"{what} name a row beyond the upload")
    seen = np.zeros(size, dtype=np.bool_)
    seen[positions] = True
    if int(np.count_nonzero(seen)) != len(positions):
        raise mismatch(f"{what} name a row twice")


def send_positions(channels: Channels, to: int, positions: UInt32Array) -> None:
    send(channels, to, "pairs", np.array([len(positions)], dtype=np.uint64))
    send_all(channels, to, "positions", positions)


def receive_positions(channels: Channels, of: int, *, size: int, other: int) -> UInt32Array:
    """A holder's list: positions in the other's upload of `size` rows. The own upload has `other`
    rows. Raises EngineFailed (mismatch) for a list that no run of `match` makes."""
    count = int(receive(channels, of, "pairs", np.uint64, 1)[0])
    if count > min(size, other):
        raise mismatch("the helper announces more pairs than an upload has rows")
    positions = np.empty(count, dtype=np.uint32)
    receive_all(channels, of, "positions", positions)
    require_positions(positions, size, what="the helper's positions")
    return positions


def _half(tags_a: UInt8Array, tags_b: UInt8Array, half: int) -> UInt64Array:
    return np.concatenate([tags.view(np.uint64)[:, half] for tags in (tags_a, tags_b)])


def _second(tags: UInt8Array, at: Positions) -> UInt64Array:
    found: UInt64Array = tags.view(np.uint64)[at, 1]
    return found


def _neighbours(
    words: UInt64Array, order: Positions, size: int
) -> tuple[Positions, Positions] | None:
    """Positions in A (the first `size` words) and in B of words that stand side by side in `order`
    and are equal. None if three are equal or two of one side."""
    ordered = words[order]
    near = np.flatnonzero(ordered[1:] == ordered[:-1])
    one, other = order[near], order[near + 1]
    at_a, at_b = np.minimum(one, other), np.maximum(one, other) - size
    if (near[1:] == near[:-1] + 1).any() or (at_a >= size).any() or (at_b < 0).any():
        return None
    return at_a, at_b


def _touches(at: Positions, pool: UInt32Array, size: int) -> bool:
    marked = np.zeros(size, dtype=np.bool_)
    marked[pool] = True
    return bool(marked[at].any())
