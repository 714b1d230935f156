"""The revealed join's check that columns mark people: a side that answers last gains nothing."""

from __future__ import annotations

import os

import numpy as np
import pytest

from crypto.adapters.spu_revealed import _require_marks
from crypto.digest import SALT_BYTES, commit
from crypto.errors import EngineFailed, EngineFault
from crypto.sharing import from_bytes, to_bytes

KEY = bytes(range(32))
SHARE = np.array([5, 2**63], dtype=np.uint64)


class Peer:
    """Rank 1 at the other end of rank 0's link. cheats: it reads each message before it answers,
    and its share makes the sum 0; else its share is what it is."""

    def __init__(self, share: np.ndarray[tuple[int], np.dtype[np.uint64]], *, cheats: bool) -> None:
        self._nonce, self._share, self._cheats = os.urandom(SALT_BYTES), share, cheats
        self._rounds = 0

    def all_gather(self, said: str) -> list[str]:
        self._rounds += 1
        if self._rounds == 1:
            mine = commit(self._nonce, bytes([1]) + KEY + to_bytes(self._share))
            return [said, mine.raw.hex()]
        share = self._share
        if self._cheats:
            share = np.uint64(0) - from_bytes(bytes.fromhex(said)[SALT_BYTES:])
        return [said, (self._nonce + to_bytes(share)).hex()]


def test_honest_shares_of_zero_pass() -> None:
    _require_marks(Peer(np.uint64(0) - SHARE, cheats=False), 0, KEY, SHARE)


def test_shares_of_anything_else_do_not() -> None:
    with pytest.raises(EngineFailed, match="something else than one mark") as failed:
        _require_marks(Peer(SHARE, cheats=False), 0, KEY, SHARE)
    assert failed.value.fault is EngineFault.MISMATCH


def test_a_side_that_waits_for_the_others_share_cannot_make_up_its_own() -> None:
    with pytest.raises(EngineFailed, match="committed") as failed:
        _require_marks(Peer(SHARE, cheats=True), 0, KEY, SHARE)
    assert failed.value.fault is EngineFault.MISMATCH


def test_a_side_cannot_repeat_the_others_commitment_as_its_own() -> None:
    class Echo:
        def all_gather(self, said: str) -> list[str]:
            return [said, said]

    half = np.array([0, 2**63], dtype=np.uint64)  # twice this is 0
    with pytest.raises(EngineFailed, match="committed"):
        _require_marks(Echo(), 0, KEY, half)
