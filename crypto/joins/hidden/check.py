"""Checks: that all parties run the same plan, and that the helper paired equal keys and kept them.

Specification: docs/hidden_join.md, *Checks*; what the canary column finds, and how surely, stands
there under *What is built differently*. Order, length, replay and integrity of single messages
are the channels' business (crypto.ports.Channels); lists of positions are checked where they arrive
(`matching`), re-shared columns where they are made (`resharing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

import numpy as np

from crypto import record
from crypto.digest import SALT_BYTES, Digest, commit
from crypto.engine import HiddenTask
from crypto.errors import Malformed
from crypto.joins.hidden.columns import Column
from crypto.joins.hidden.keys import SEED_BYTES, PairPads, Stream, ZeroUse, zero_share
from crypto.joins.hidden.messages import mismatch, receive, refuse, send
from crypto.joins.hidden.padding import Sizes
from crypto.ports import Channels, Randomness
from crypto.sharing import UInt64Array

RING_BITS: Final = 64
_HOLDERS: Final = (0, 1)


@dataclass(frozen=True)
class Header:
    """What all must have been told alike. uploads, pools: rows per holder, none for a union.

    common: digest of the whole common task, for whatever the other fields do not name
    """

    ring_bits: int
    plan: Digest
    attempt: str
    caps: tuple[int, ...]
    uploads: tuple[int, ...]
    pools: tuple[int, ...]
    columns: tuple[tuple[Column, ...], ...]
    common: Digest


def header(
    task: HiddenTask, sizes: Sizes | None, columns: tuple[tuple[Column, ...], ...]
) -> Header:
    return Header(
        ring_bits=RING_BITS,
        plan=task.seat.plan,
        attempt=task.seat.attempt,
        caps=task.caps,
        uploads=sizes.rows if sizes else (),
        pools=sizes.pool if sizes else (),
        columns=columns,
        common=task.common,
    )


def compare_headers(own: Header, peers: Sequence[int], channels: Channels) -> None:
    """Everybody's header to everybody it speaks with, before anything made from a row leaves.

    Raises EngineFailed (mismatch) that names the first difference.
    """
    for peer in peers:
        channels.send(peer, "header", record.to_bytes(own))
    for peer in peers:
        try:
            found = record.from_bytes(Header, bytes(channels.receive(peer, "header")))
        except Malformed as error:
            raise mismatch("a party's header cannot be read; it runs another version") from error
        for name, what in _DIFFERENCES.items():
            if getattr(found, name) != getattr(own, name):
                refuse(channels, [peer], f"a party was given {what}")


_DIFFERENCES = {
    "ring_bits": "another ring",
    "plan": "another plan",
    "attempt": "another attempt",
    "caps": "other caps",
    "uploads": "other upload sizes",
    "pools": "other pool sizes",
    "columns": "another set of columns",
    "common": "other parameters",
}


def compare_lengths(rank: int, pairs: int, channels: Channels) -> None:
    """A and B: both lists have arrived, and they are equally long. Raises EngineFailed."""
    other = 1 - rank
    send(channels, other, "listed", np.array([pairs], dtype=np.uint64))
    if int(receive(channels, other, "listed", np.uint64, 1)[0]) != pairs:
        refuse(channels, [other], "the helper gave the two holders lists of different lengths")


def coefficients(rank: int, pads: Mapping[int, PairPads], channels: Channels) -> Stream:
    """The public random coefficients r_i, from k_AB. A reveals their key to the helper, who by now
    has committed itself to its lists: call only after `compare_lengths`."""
    if rank in _HOLDERS:
        key = pads[1 - rank].coefficients.stream(0).words(SEED_BYTES // 8).tobytes()
        if rank == 0:
            channels.send(2, "coefficients", key)
    else:
        key = bytes(channels.receive(0, "coefficients"))
        if len(key) != SEED_BYTES:
            raise mismatch("the coefficients' key does not have its length")
    return Stream(key, 0)


def require_equal_keys(
    difference: UInt64Array,
    task: HiddenTask,
    pads: Mapping[int, PairPads],
    channels: Channels,
    randomness: Randomness,
) -> None:
    """difference: this party's share of sum of r_i * (A's check word - B's), shape (1,), plus, of
    three holders, the same of A and D with coefficients of its own. A, B and C open it,
    zero-shared; it must be 0. A wrong pair is missed below 2**-58: see docs.

    Each commits to its share before any is opened: a helper that answered last could take what
    makes the sum 0, whatever it paired. Of the canaries it hears no share, so there it cannot.

    Raises EngineFailed (mismatch) at all three parties alike.
    """
    rank = task.seat.rank
    total = difference + zero_share(rank, pads, ZeroUse.CHECK, 1)
    others = [peer for peer in range(3) if peer != rank]
    nonce = randomness.draw(SALT_BYTES)
    own = _check_commitment(task, rank, nonce, total.tobytes())
    for peer in others:
        channels.send(peer, "check commitment", own.raw)
    commitments = {peer: bytes(channels.receive(peer, "check commitment")) for peer in others}
    for peer in others:
        channels.send(peer, "check", nonce + total.tobytes())
    shares = []
    for peer in others:
        opened = bytes(channels.receive(peer, "check"))
        salt, share = opened[:SALT_BYTES], opened[SALT_BYTES:]
        if len(share) != total.nbytes:
            raise mismatch("the message 'check' does not have the length that the plan gives it")
        if not compare_digest(_check_commitment(task, peer, salt, share).raw, commitments[peer]):
            refuse(channels, others, "a party opened another check than it had committed itself to")
        shares.append(np.frombuffer(share, dtype=np.uint64))
    total = total + shares[0] + shares[1]
    if int(total[0]):
        refuse(
            channels,
            others,
            "the check column says that pairs are not of equal keys; nothing was opened",
        )


def _check_commitment(task: HiddenTask, rank: int, nonce: bytes, share: bytes) -> Digest:
    """Of one party in this attempt of this plan: nobody can repeat a peer's as its own."""
    return commit(nonce, b"check" + task.common.raw + bytes([rank]) + share)


def open_canaries(
    canaries: UInt64Array, rank: int, pads: Mapping[int, PairPads], channels: Channels
) -> int | None:
    """canaries: this party's share of the sum of the canary column over all pairs, shape (1,).
    Opened to A and B, zero-shared; None at the helper."""
    share = canaries + zero_share(rank, pads, ZeroUse.CANARY, 1)
    holders = [holder for holder in _HOLDERS if holder != rank]
    for peer in holders:
        send(channels, peer, "canary", share)
    if rank not in _HOLDERS:
        return None
    for peer in range(3):
        if peer != rank:
            share = share + receive(channels, peer, "canary", np.uint64, 1)
    return int(share[0])


def require_no_losses(found: int, expected: int, rank: int, channels: Channels) -> None:
    """A and B: every row that all holders agreed on is among the pairs.

    expected: the sum of these rows' words, which both know, so that of an honest helper they learn
    nothing. Raises EngineFailed (mismatch).
    """
    if found != expected:
        refuse(
            channels,
            [1 - rank],
            "the helper lost pairs: rows that the holders added are missing; nothing was opened",
        )
