"""The `sum` join: two parties, no helper. Both learn how many rows match; neither learns which.

Private join and compute (Ion et al. 2020, the protocol on DDH), run in both directions at once, so
that each side may bring values, and ending in shares instead of a sum that one side reads.

1. Each side pads its rows to its cap with rows that match nothing, shuffles them and sends its
   keys masked: H(key)^a. The shuffle stays its secret.
2. Each side masks the peer's keys again, H(key)^(a*b), and returns them *sorted*: the peer learns
   no row's place. Masks commute, so both now hold the doubly masked keys of both sides. They
   count those in common and pick out which rows *of the peer's shuffled order* matched.
3. Below the least group size both stop here.
4. Each side encrypts its values under its own key, in its shuffled order. The other adds up those
   it picked out, adds a mask of its own, makes the ciphertext fresh, and returns it.
5. The key's owner opens sum + mask. Modulo 2**64 this and -mask are the two shares.

The mask is uniform below 2**118 and the sum, made positive, is below 2**63: what the owner opens
is within 2**-55 of the same for every sum. docs/decisions/0009-sum-join.md says who learns what.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto.engine import EngineStage, SumTask
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joinkeys import TOKEN_BYTES
from crypto.joins.layout import COUNTED, Layout
from crypto.joins.ports import (
    MASK_BITS,
    POINT_BYTES,
    SUM_BITS,
    BoolArray,
    Int64Array,
    KeyMask,
    UInt8Array,
    ValueEncryption,
)
from crypto.joins.rows import NO_GROUP, SideRows, rounded
from crypto.joins.summable import marks, summed_factor, summed_factors
from crypto.ports import Channels, Randomness
from crypto.sharing import to_bytes, zero_shares

KEYS_PER_MESSAGE: Final = 2**16
# Doubly masked keys are compared by their first half: n * m pairs collide with n * m / 2**128.
_SHORT_BYTES: Final = 16
_SHORT: Final = f"V{_SHORT_BYTES}"
_SHIFT: Final = 2 ** (SUM_BITS - 1)  # makes every sum positive
_WORD: Final = 2**64


def run(
    task: SumTask,
    rows: SideRows,
    *,
    channels: Channels,
    randomness: Randomness,
    mask: KeyMask,
    encryption: ValueEncryption,
    on_stage: Callable[[EngineStage], None],
) -> tuple[bytes, Mapping[str, int]]:
    """This party's share of the output vector of `task.layout`, and what it learned: `matched`.

    mask:       drawn for this attempt alone; a mask used twice shows which rows two jobs share
    encryption: what `task.scheme` names
    Raises Malformed for rows that are not the task's; EngineFailed if the peer has another task,
    sends what this protocol cannot have sent, or is gone.
    """
    own = task.seat.rank
    table = _Table.of(task, rows, randomness)
    link = _Link(channels, 1 - own)
    link.agree("task", task.common.raw, "the two parties were not given the same task")

    on_stage(EngineStage.MATCH)
    picked = _match(task, table.tokens, link, mask)
    matched = int(picked.sum())
    link.agree("matched", matched.to_bytes(8, "big"), "the two parties count different matches")

    gates, terms = len(task.layout.gates), len(task.layout.terms)
    share = np.zeros(gates + terms, dtype=np.uint64)
    # Both know the number, so both gate on it; nothing that depends on a value was sent so far.
    if matched >= task.layout.min_group:
        sums = _sums(task, table.values, picked, link, encryption, randomness, on_stage)
        counts = rounded(np.array([matched], dtype=np.int64), task.layout.round_counts)
        count = int(counts[0]) if own == 0 else 0
        share[:gates] = 1 if own == 0 else 0
        share[gates:] = [sums.get(_summed(task.layout, index), count) for index in range(terms)]
    # The shares of sums are fresh already; those of the count and of a refusal are not.
    share += zero_shares(task.zero_key, len(share), sign=-1 if own else 1)
    return to_bytes(share), {"matched": matched}


@dataclass(frozen=True, eq=False, repr=False)
class _Table:
    """One side as it is sent: `cap` rows in an order that nobody else knows.

    tokens: shape (cap, 16); values: shape (cap, summed factors), zero where there is no row
    """

    tokens: UInt8Array
    values: Int64Array

    @classmethod
    def of(cls, task: SumTask, rows: SideRows, randomness: Randomness) -> _Table:
        rank, layout = task.seat.rank, task.layout
        rows.require(layout, rank)
        # A row without a value takes no part: a run that failed for it would tell the consumer, of
        # whomever its filter selects, who has one.
        valued = np.logical_and.reduce([rows.factor(mark) == 1 for mark in marks(layout, rank)])
        counted = np.flatnonzero((rows.group != NO_GROUP) & valued)
        cap, factors = task.caps[rank], summed_factors(layout, rank)
        if len(counted) > cap:
            raise Malformed("rows", f"are more than the cap of {cap}")
        fillers = np.frombuffer(randomness.draw((cap - len(counted)) * TOKEN_BYTES), dtype=np.uint8)
        tokens = np.concatenate([rows.tokens[counted], fillers.reshape(-1, TOKEN_BYTES)])
        values = np.zeros((cap, len(factors)), dtype=np.int64)
        for column, factor in enumerate(factors):
            values[: len(counted), column] = rows.factor(factor)[counted]
        order = _shuffle(cap, randomness)
        return cls(tokens[order], values[order])


def _match(task: SumTask, tokens: UInt8Array, link: _Link, mask: KeyMask) -> BoolArray:
    """Which rows of the peer, in the peer's order, are in common. shape (the peer's cap,)."""
    cap, peer_cap = task.caps[task.seat.rank], task.caps[1 - task.seat.rank]
    masked = (mask.first(tokens[block]).tobytes() for block in _blocks(cap, KEYS_PER_MESSAGE))
    doubled = np.empty(peer_cap, dtype=_SHORT)
    for block, message in link.swap("masked", masked, _blocks(peer_cap, KEYS_PER_MESSAGE)):
        points = mask.again(_table(message, block, POINT_BYTES))
        doubled[block] = np.ascontiguousarray(points[:, :_SHORT_BYTES]).view(_SHORT).ravel()
    # Sorted: in the order in which they came, they would say which of the peer's rows matched.
    ordered = _in_order(doubled)
    # After both masks: a point shifted by one of small order is a second spelling of one key.
    if len(ordered) != peer_cap:
        raise EngineFailed(EngineFault.MISMATCH, "the peer sent a masked key twice")

    outgoing = (ordered[block].tobytes() for block in _blocks(peer_cap, KEYS_PER_MESSAGE))
    returned = np.empty(cap, dtype=_SHORT)
    for block, message in link.swap("doubled", outgoing, _blocks(cap, KEYS_PER_MESSAGE)):
        returned[block] = _table(message, block, _SHORT_BYTES).view(_SHORT).ravel()
    if not np.array_equal(_in_order(returned), returned):
        raise EngineFailed(EngineFault.MISMATCH, "the peer's doubly masked keys are not in order")
    found: BoolArray = np.isin(doubled, returned)
    return found


def _sums(
    task: SumTask,
    values: Int64Array,
    picked: BoolArray,
    link: _Link,
    encryption: ValueEncryption,
    randomness: Randomness,
    on_stage: Callable[[EngineStage], None],
) -> dict[tuple[int, int], int]:
    """This party's share of the sum of each (side, factor), modulo 2**64."""
    own = task.seat.rank
    mine, theirs = (summed_factors(task.layout, rank) for rank in (own, 1 - own))
    on_stage(EngineStage.SHARE)
    owner = encryption.owner(len(mine), randomness) if mine else None
    adder = None
    if owner:
        link.send("key", owner.public_key)
    if theirs:
        adder = encryption.adder(link.receive("key"), len(theirs), randomness)

    on_stage(EngineStage.COMPUTE)
    own_blocks = _blocks(task.caps[own] if mine else 0, encryption.rows_per_message)
    peer_blocks = _blocks(task.caps[1 - own] if theirs else 0, encryption.rows_per_message)
    encrypted = (owner.encrypt(values[block]) for block in own_blocks) if owner else iter(())
    for block, message in link.swap("values", encrypted, peer_blocks):
        if adder:
            adder.add(message, picked[block])

    shares: dict[tuple[int, int], int] = {}
    if adder:
        masks = [_SHIFT + _below(2**MASK_BITS, randomness) for _ in theirs]
        link.send("sums", adder.close(masks))
        for factor, one in zip(theirs, masks, strict=True):
            shares[1 - own, factor] = -one % _WORD
    if owner:
        for factor, one in zip(mine, owner.open(link.receive("sums")), strict=True):
            shares[own, factor] = one % _WORD
    return shares


def _summed(layout: Layout, index: int) -> tuple[int, int]:
    """The side and factor that a term sums; a factor COUNTED for a count."""
    left, right = (summed_factor(layout, index, rank) for rank in (0, 1))
    return (0, left) if left != COUNTED else (1, right)


@dataclass(frozen=True)
class _Link:
    channels: Channels
    peer: int

    def send(self, label: str, payload: bytes) -> None:
        self.channels.send(self.peer, label, payload)

    def receive(self, label: str) -> bytearray:
        return self.channels.receive(self.peer, label)

    def agree(self, label: str, own: bytes, problem: str) -> None:
        self.send(label, own)
        if self.receive(label) != own:
            raise EngineFailed(EngineFault.MISMATCH, problem)

    def swap(
        self, label: str, outgoing: Iterable[bytes], expected: Iterable[slice]
    ) -> Iterator[tuple[slice, bytearray]]:
        """Send own messages and take the peer's, in turn: two parties that both send first would
        wait for each other for ever. Must be taken to its end."""
        for own, block in itertools.zip_longest(outgoing, expected):
            if own is not None:
                self.send(label, own)
            if block is not None:
                yield block, self.receive(label)


def _blocks(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _table(message: bytearray, block: slice, width: int) -> UInt8Array:
    if len(message) != (block.stop - block.start) * width:
        raise EngineFailed(EngineFault.MISMATCH, "a message of the peer has another length")
    return np.frombuffer(message, dtype=np.uint8).reshape(-1, width)


def _shuffle(count: int, randomness: Randomness) -> npt.NDArray[np.intp]:
    """A uniform order, by sorting 128 random bits for each place."""
    drawn = np.frombuffer(randomness.draw(16 * count), dtype=np.uint64).reshape(2, count)
    order: npt.NDArray[np.intp] = np.lexsort(drawn)
    return order


def _in_order(keys: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Ascending, each once."""
    return np.unique(keys)


def _below(bound: int, randomness: Randomness) -> int:
    """Uniform below a power of two."""
    return int.from_bytes(randomness.draw((bound.bit_length() + 7) // 8), "big") % bound
