"""Re-sharing and inner products: from two parties' shares of a column to three components.

Specification: docs/hidden_join.md, *Re-sharing and inner products*. Components are numbered 0, 1, 2
here, one less than there; rank i holds i and i + 1. A column of side o, whose shares lie with the
other two, becomes

    component o      F(k of o and o - 1)     both know it, no message
    component o + 1  F(k of o and o + 1)     both know it, no message
    component o + 2  the rest: each of the two share holders sends its share less the component it
                     knows to the other, and both add the two messages

D's columns, of three holders, are re-shared as B's, which they stand beside: B holds the components
that it would hold of a column of its own, and neither share. The owner receives nothing. The
messages are uniform to their receiver, who lacks the mask; they are
not to the owner, who knows it: so the owner must not be able to read that link.

A product of two re-shared columns is three additive shares, one at each party; a share of zero
makes each fresh, and each goes to the next party (Araki et al. 2016, protocol 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest

import numpy as np

from crypto.joins.hidden.keys import (
    PRODUCTS,
    PairPads,
    Stream,
    ZeroShares,
    ZeroUse,
    mask_label,
    zero_share,
)
from crypto.joins.hidden.messages import blocks, receive, refuse, send
from crypto.joins.hidden.ports import Replicated
from crypto.ports import Channels
from crypto.sharing import UInt64Array

_AHEAD = 2  # blocks sent before one is awaited; both sides send first, and few may wait in a queue


class Resharing:
    """One party's part in re-sharing columns, one after another in an order that all agree on."""

    def __init__(self, rank: int, pads: Mapping[int, PairPads], channels: Channels) -> None:
        self._rank, self._pads, self._channels = rank, pads, channels
        self._digests = (sha256(), sha256())
        self._products, self._sent, self._came = 0, sha256(), sha256()

    def column(self, holder: int, label: int, held: UInt64Array | None, pairs: int) -> Replicated:
        """Components of one column at the matched rows, each of shape (pairs,).

        holder: rank of whose column it is; label: distinct for each column of a holder. held: this
        party's share, overwritten; None at A for A's and at B for B's and D's.
        """
        side, label = min(holder, 1), mask_label(holder, label)
        if held is None:
            below = self._mask((side + 2) % 3, label).words(pairs)
            return Replicated(below, self._mask((side + 1) % 3, label).words(pairs))
        other = 3 - side - self._rank
        mask = self._mask(side, label).words(pairs)
        held -= mask
        parts = list(blocks(pairs))
        for index in range(len(parts) + _AHEAD):
            if index < len(parts):
                send(self._channels, other, "reshare", held[parts[index]])
            if index >= _AHEAD:
                part = parts[index - _AHEAD]
                size = part.stop - part.start
                held[part] += receive(self._channels, other, "reshare", np.uint64, size)
        self._digests[side].update(held.data)
        if self._rank == (side + 1) % 3:
            return Replicated(mask, held)
        return Replicated(held, mask)

    def product(self, x: Replicated, y: Replicated) -> Replicated:
        """Components of x * y, row by row, each of shape (pairs,)."""
        zeros = ZeroShares(self._rank, self._pads, PRODUCTS + self._products)
        self._products += 1
        own, before = np.empty_like(x.first), np.empty_like(x.first)
        parts = list(blocks(len(own)))
        for index in range(len(parts) + _AHEAD):
            if index < len(parts):
                part = parts[index]
                share = product(_part(x, part), _part(y, part))
                share += zeros.words(len(share))
                own[part] = share
                send(self._channels, (self._rank + 1) % 3, "product", share)
            if index >= _AHEAD:
                part = parts[index - _AHEAD]
                size = part.stop - part.start
                before[part] = receive(
                    self._channels, (self._rank + 2) % 3, "product", np.uint64, size
                )
        self._sent.update(own.data)
        self._came.update(before.data)
        return Replicated(before, own)

    def compare(self) -> None:
        """The two who computed a component compare it, before anything made of it is opened.

        Raises EngineFailed (mismatch) if a message between them was not what its sender meant.
        """
        for side in (0, 1):
            if self._rank == side:
                continue
            own = self._digests[side].digest()
            self._require_equal(3 - side - self._rank, "reshared", own)
        if self._products:
            following, before = (self._rank + 1) % 3, (self._rank + 2) % 3
            # Each of the three pairs by itself, in one order, so that both of a pair find the same.
            for pair in ((0, 1), (1, 2), (2, 0)):
                if pair == (self._rank, following):
                    own = self._sent.digest()
                    self._require_equal(following, "multiplied", own)
                elif pair == (before, self._rank):
                    own = self._came.digest()
                    self._require_equal(before, "multiplied", own)

    def _require_equal(self, other: int, label: str, own: bytes) -> None:
        self._channels.send(other, label, own)
        if not compare_digest(bytes(self._channels.receive(other, label)), own):
            problem = "the two parties that share a component have different ones"
            refuse(self._channels, [other], problem)

    def _mask(self, peer: int, label: int) -> Stream:
        return self._pads[peer].masks.stream(label)


def _part(whole: Replicated, part: slice) -> Replicated:
    return Replicated(whole.first[part], whole.second[part])


def inner_products(x: Replicated, y: Replicated) -> UInt64Array:
    """This party's additive share of the inner product of one column with each of some columns.

    x: shape (pairs,); y: shape (columns, pairs). Answer: shape (columns,), not yet zero-shared.
    Source: Araki et al. 2016, section 2.2: zA = sum of x1*y1 + x1*y2 + x2*y1, and so on.
    """
    total = np.zeros(len(y.first), dtype=np.uint64)
    for part in blocks(len(x.first)):
        first = x.first[part]
        total += y.first[:, part] @ (first + x.second[part])
        total += y.second[:, part] @ first
    return total


def product(x: Replicated, y: Replicated) -> UInt64Array:
    """This party's additive share of x * y, entry by entry; not yet zero-shared."""
    found: UInt64Array = x.first * (y.first + y.second)
    found += x.second * y.first
    return found


def replicate(
    share: UInt64Array, use: ZeroUse, *, rank: int, pads: Mapping[int, PairPads], channels: Channels
) -> Replicated:
    """Replicated components of what three additive shares add up to: each party's share, made
    fresh by a share of zero, goes to the next. Components come out numbered as `ports` says."""
    own = share + zero_share(rank, pads, use, len(share))
    send(channels, (rank + 1) % 3, "replicate", own)
    before = receive(channels, (rank + 2) % 3, "replicate", np.uint64, len(share))
    return Replicated(before, own)
