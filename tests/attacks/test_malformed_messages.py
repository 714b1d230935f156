"""Malformed messages: every message of the hidden join, of another length or with other content.

Attacker:        one of the three parties, inside its own channels; between the machines nothing
                 can be altered unnoticed (test_replays.py)
Knowledge:       its own keys, rows and draws
Goal:            that something is opened that is not an answer, or that a peer ends in another way
                 than by saying which kind of failure it was
Success measure: a party returns a share; a failure that is not EngineFailed; an engine that never
                 comes back
False alarms:    the check column misses wrong shares below 2**-58

Forged pairs, headers, tags and re-shared words have tests of their own, each with its own error:
tests/unit/test_hidden_protocol.py. So have malformed ciphertexts, keys and batches elsewhere: the
sum join (tests/unit/test_summed.py, tests/integration/test_summed_schemes.py), scoring
(tests/unit/test_scoring_protocol.py, tests/integration/test_scoring_ckks.py), lookup
(tests/unit/test_lookup_protocol.py, test_lookup_oprf.py, test_lookup_table.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crypto.engine import EngineStage
from crypto.errors import EngineFault, Malformed
from crypto.joins.hidden import protocol
from crypto.joins.hidden.matching import Pairs, match
from crypto.joins.layout import Comparison, Order
from crypto.joins.released import open_cells
from tests.fakes.three_parties import Outcome, Tamper, failed, run_three, tasks_of
from tests.fakes.two_sides import Sides, a_layout, two_sides

A, B, C = 0, 1, 2
CAPS = (50, 50)
SLOW = pytest.mark.slow

# Who sends what to whom; `reshared` and `check` go both ways of each pair.
WAYS: tuple[tuple[int, int, str], ...] = (
    *((of, to, "header") for of in (A, B, C) for to in (A, B, C) if of != to),
    *((of, to, "seed") for of, to in ((A, B), (B, A))),
    *((of, C, label) for of in (A, B) for label in ("tags", "pool", "column")),
    *((C, to, label) for to in (A, B) for label in ("pairs", "positions")),
    *((of, to, "listed") for of, to in ((A, B), (B, A))),
    (A, C, "coefficients"),
    *((of, to, "check commitment") for of in (A, B, C) for to in (A, B, C) if of != to),
    *((of, to, "check") for of in (A, B, C) for to in (A, B, C) if of != to),
    *((of, to, "canary") for of in (A, B, C) for to in (A, B) if of != to),
    *((of, to, "reshare") for of, to in ((B, C), (C, B), (A, C), (C, A))),
    *((of, to, "reshared") for of, to in ((B, C), (C, B), (A, C), (C, A))),
    *((of, (of + 1) % 3, "replicate") for of in (A, B, C)),
)
LENGTHS: dict[str, Callable[[bytes], bytes]] = {
    "a byte less": lambda payload: payload[:-1],
    "a word more": lambda payload: payload + bytes(8),
    "nothing": lambda payload: b"",
}


def given() -> Sides:
    return two_sides(40, overlap=40, layout=a_layout(2, 2, min_group=1))


def changing(way: tuple[int, int, str], change: Callable[[bytes], bytes]) -> Tamper:
    """The first message of that way that is not empty."""
    done: list[bool] = []

    def tamper(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if (of, to, label) != way or done or not payload:
            return payload
        done.append(True)
        return change(payload)

    return tamper


def run(sides: Sides, tamper: Tamper) -> Outcome:
    return run_three(tasks_of(sides.layout, caps=CAPS), sides.a, sides.b, tamper=tamper)


def test_every_message_of_a_run_is_among_those_that_are_forged_here() -> None:
    sides = given()
    outcome = run(sides, lambda of, to, label, count, payload: payload)
    outcome.require()
    assert {(m.of, m.to, m.label) for m in outcome.messages} == set(WAYS)


@pytest.mark.parametrize(
    "how", [how if at == 0 else pytest.param(how, marks=SLOW) for at, how in enumerate(LENGTHS)]
)
@pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: f"{'ABC'[way[0]]} to {'ABC'[way[1]]} {way[2]}"
)
def test_a_message_of_another_length_opens_nothing_and_everybody_says_so(
    way: tuple[int, int, str], how: str
) -> None:
    outcome = run(given(), changing(way, LENGTHS[how]))
    assert not outcome.results
    assert not outcome.room.gated
    assert failed(outcome, way[1]).fault is EngineFault.MISMATCH
    for rank in (A, B, C):
        assert failed(outcome, rank).fault in (EngineFault.MISMATCH, EngineFault.PEER)


@pytest.mark.parametrize("checked", [False, True], ids=["the twin", "the product"])
def test_a_helper_that_pairs_everybody_with_somebody_else_is_believed_where_nothing_is_checked(
    monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    """It turns its list of one upload by a place and tells all the same. So it could put one
    person's values beside whose it likes."""

    def turned(*given: Any, **more: Any) -> Pairs:
        pairs = match(*given, **more)
        return replace(pairs, at_b=np.roll(pairs.at_b, 1))

    monkeypatch.setattr(protocol, "match", turned)
    if not checked:
        monkeypatch.setattr(protocol, "require_equal_keys", lambda *given, **more: None)
    layout = a_layout(1, 1, products=True, min_group=1)
    sides = two_sides(40, overlap=40, layout=layout, values_up_to=2**20)
    outcome = run(sides, lambda of, to, label, count, payload: payload)
    if checked:
        assert not outcome.results and not outcome.room.gated
        assert all("not of equal keys" in failed(outcome, rank).problem for rank in (A, B, C))
        return
    (found,), (right,) = outcome.cells, sides.truth
    assert found.terms[1:5] == right.terms[1:5]  # what is of one table is all there
    assert None is not found.terms[-1] != right.terms[-1]  # one's value times another's mark


@pytest.mark.parametrize("side", [A, B])
@pytest.mark.parametrize("content", ["random", "zeros", "a word of another row"])
def test_wrong_shares_of_the_check_column_open_nothing(side: int, content: str) -> None:
    def change(payload: bytes) -> bytes:
        if content == "random":
            return os.urandom(len(payload))
        return bytes(len(payload)) if content == "zeros" else payload[8:] + payload[:8]

    outcome = run(given(), changing((side, C, "column"), change))
    assert not outcome.results
    assert not outcome.room.gated
    for rank in (A, B, C):
        assert "not of equal keys" in failed(outcome, rank).problem


@pytest.mark.parametrize("of", [A, B, C])
def test_a_party_that_claims_another_check_sum_ends_the_run(of: int) -> None:
    other = 1 if of == 0 else 0
    outcome = run(given(), changing((of, other, "check"), lambda payload: os.urandom(8)))
    assert not outcome.results
    assert failed(outcome, other).fault is EngineFault.MISMATCH


@pytest.mark.parametrize("label", ["tags", "pool"])
def test_random_tags_or_marks_in_place_of_an_upload_pair_nobody_with_somebody_else(
    label: str,
) -> None:
    """Tags that nobody has find no partner, not those that both agreed on either; marks beyond the
    upload are refused. Neither shows."""
    outcome = run(given(), changing((A, C, label), lambda payload: os.urandom(len(payload))))
    if label == "pool":
        assert not outcome.results
        assert failed(outcome, C).fault is EngineFault.MISMATCH
    elif outcome.results:  # nothing had been agreed on that could be missed
        assert all(value is None for cell in outcome.cells for value in cell.terms)
    else:
        assert "lost pairs" in failed(outcome, A).problem


def test_wrong_shares_of_a_value_are_false_inputs_and_are_not_noticed() -> None:
    """The published limit: the channel's own sender may enter what it likes. What comes out is a
    wrong sum, never a single row of the other side."""
    sides = given()
    at = [0]

    def second_column(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if (of, to, label, count) == (A, C, "column", len(sides.layout.terms)):
            at[0] += 1
            return os.urandom(len(payload))
        return payload

    outcome = run(sides, second_column)
    assert at == [1]
    outcome.require()
    assert not np.array_equal(outcome.output, run(sides, lambda *m: m[4]).output)


def test_a_run_that_fails_late_has_entered_no_gate() -> None:
    """Row by row, too: the engine is given nothing before re-shared columns were compared."""
    layout = a_layout(1, 1, comparisons=(Comparison(2, 1, Order.GREATER, 2, 1),), min_group=1)
    sides = two_sides(40, overlap=40, layout=layout)
    outcome = run(sides, changing((B, C, "reshared"), lambda payload: bytes(len(payload))))
    assert not outcome.results
    assert not outcome.room.row_columns
    for rank in (A, B, C):
        assert EngineStage.GATE not in outcome.stages[rank]


def test_the_receiver_refuses_shares_that_are_cut_or_of_unequal_length() -> None:
    sides = given()
    outcome = run(sides, lambda of, to, label, count, payload: payload)
    outcome.require()
    shares = [outcome.results[rank].share for rank in range(3)]
    open_cells(sides.layout, shares)
    for forged in (
        [shares[0][:-1], *shares[1:]],
        [shares[0][:-8], *shares[1:]],
        [share[:-8] for share in shares],
        [share + bytes(8) for share in shares],
        shares[:2],
        [shares[0], shares[0], shares[2]],
    ):
        with pytest.raises(Malformed):
            open_cells(sides.layout, forged)
    with pytest.raises(Malformed):
        open_cells(replace(sides.layout, groups_b=1), shares)
