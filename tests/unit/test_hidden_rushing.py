"""A helper that pairs rows wrongly and speaks last: it answers the check with whatever makes the
sum 0. Each party commits itself to its share before any share is opened, and then it can't."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from crypto.digest import SALT_BYTES
from crypto.engine import HiddenTask
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.hidden import protocol
from crypto.joins.hidden.check import require_equal_keys
from crypto.joins.hidden.keys import PairPads, ZeroUse, zero_share
from crypto.joins.hidden.matching import Pairs, match
from crypto.joins.hidden.messages import receive, send
from crypto.ports import Channels, Randomness
from crypto.sharing import UInt64Array
from tests.fakes.three_parties import Outcome, failed, run_three, tasks_of
from tests.fakes.two_sides import a_layout, two_sides

A, B, C = 0, 1, 2
SIZES = pytest.mark.parametrize("hide_size", [False, True], ids=["", "size hidden"])


def paired_wrongly(tags, pool, *, drawn, randomness):  # type: ignore[no-untyped-def]
    found = match(tags, pool, drawn=drawn, randomness=randomness)
    return Pairs(found.at_a, np.roll(found.at_b, 1))


def without_commitments(
    difference: UInt64Array,
    task: HiddenTask,
    pads: Mapping[int, PairPads],
    channels: Channels,
    randomness: Randomness,
) -> None:
    """The twin: shares are opened at once, and the helper waits until it has read the others'."""
    rank = task.seat.rank
    own = difference + zero_share(rank, pads, ZeroUse.CHECK, 1)
    others = [peer for peer in range(3) if peer != rank]
    if rank == C:
        forged = -sum(receive(channels, peer, "check", np.uint64, 1) for peer in others)
        for peer in others:
            send(channels, peer, "check", np.array(forged, dtype=np.uint64))
        return
    for peer in others:
        send(channels, peer, "check", own)
    for peer in others:
        own = own + receive(channels, peer, "check", np.uint64, 1)
    if int(own[0]):
        raise EngineFailed(EngineFault.MISMATCH, "pairs are not of equal keys")


def answering_last(
    difference: UInt64Array,
    task: HiddenTask,
    pads: Mapping[int, PairPads],
    channels: Channels,
    randomness: Randomness,
) -> None:
    """The same helper where all must commit: it commits to something, for nobody opens before, and
    then opens what would make the sum 0."""
    if task.seat.rank != C:
        require_equal_keys(difference, task, pads, channels, randomness)
        return
    for peer in (A, B):
        channels.send(peer, "check commitment", randomness.draw(32))
    total = np.zeros(1, dtype=np.uint64)
    for peer in (A, B):
        channels.receive(peer, "check commitment")
    for peer in (A, B):
        opened = bytes(channels.receive(peer, "check"))
        total -= np.frombuffer(opened[SALT_BYTES:], dtype=np.uint64)
    for peer in (A, B):
        channels.send(peer, "check", randomness.draw(SALT_BYTES) + total.tobytes())


def run(hide_size: bool) -> tuple[Outcome, bool]:
    """And whether the answer is right."""
    given = two_sides(100, layout=a_layout(min_group=3, products=True), values_up_to=2**30)
    tasks = tasks_of(given.layout, caps=(120, 130), hide_size=hide_size)
    outcome = run_three(tasks, given.a, given.b)
    return outcome, bool(outcome.results) and outcome.cells == given.truth


@SIZES
def test_without_commitments_a_helper_that_answers_last_passes_with_wrong_pairs(
    hide_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "match", paired_wrongly)
    monkeypatch.setattr(protocol, "require_equal_keys", without_commitments)
    outcome, right = run(hide_size)
    assert outcome.room.gated
    assert not right


@SIZES
def test_a_helper_that_answers_last_cannot_open_what_it_had_not_committed_itself_to(
    hide_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "match", paired_wrongly)
    monkeypatch.setattr(protocol, "require_equal_keys", answering_last)
    outcome, _ = run(hide_size)
    assert not outcome.results
    assert not outcome.room.gated
    for rank in (A, B):
        assert failed(outcome, rank).fault is EngineFault.MISMATCH
        assert "committed" in failed(outcome, rank).problem


def test_a_commitment_repeated_as_ones_own_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that sends each holder what the other one sent: commitments name their party."""
    real = require_equal_keys

    def echoing(
        difference: UInt64Array,
        task: HiddenTask,
        pads: Mapping[int, PairPads],
        channels: Channels,
        randomness: Randomness,
    ) -> None:
        if task.seat.rank != C:
            real(difference, task, pads, channels, randomness)
            return
        for label in ("check commitment", "check"):
            said = {peer: bytes(channels.receive(peer, label)) for peer in (A, B)}
            for peer in (A, B):
                channels.send(peer, label, said[B if peer == A else A])

    monkeypatch.setattr(protocol, "require_equal_keys", echoing)
    outcome, _ = run(hide_size=False)
    assert not outcome.room.gated
    for rank in (A, B):
        assert "committed" in failed(outcome, rank).problem
