"""The hidden join by three parties: its variants, and for each row of the specification's *Checks*
the nearest forgery, which opens nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from crypto.digest import digest
from crypto.engine import EngineStage, HiddenTask, NoiseScales, PaddingBounds
from crypto.errors import EngineFault
from crypto.joins.hidden import protocol
from crypto.joins.hidden.padding import Padding, padding
from crypto.joins.layout import Extreme, Layout, Term
from crypto.joins.rows import NO_GROUP, SideRows, plain_output, plain_terms
from crypto.noise import Distribution
from tests.fakes.three_parties import (
    SMALL,
    FixedRandomness,
    Outcome,
    StatedNoise,
    Tamper,
    failed,
    run_three,
    tasks_of,
)
from tests.fakes.two_sides import Sides, a_layout, two_sides

CAPS = (120, 130)
A, B, C = 0, 1, 2
Positions = np.ndarray[tuple[int], np.dtype[np.uint32]]


def sides(**shape: object) -> Sides:
    layout = a_layout(min_group=3, **shape)  # type: ignore[arg-type]
    return two_sides(100, layout=layout, values_up_to=2**30)


def joined(given: Sides, **how: object) -> Outcome:
    return run_three(tasks_of(given.layout, caps=CAPS, **how), given.a, given.b)  # type: ignore[arg-type]


# --- right answers -------------------------------------------------------------------------------


@pytest.mark.parametrize("hide_size", [False, True], ids=["", "size hidden"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"groups_b": 1},
        {"groups_a": 1},
        {"groups_a": 1, "groups_b": 1, "measures_a": 0, "measures_b": 0},
        {"products": True},
        {"groups_b": 1, "outer": True},
        {"dominance": Fraction(1, 10)},
        {"extremes": (Extreme(0, 2, 1, True, -(2**30), 2**30, 1),)},
        {"round_counts": 5},
    ],
    ids=str,
)
def test_the_receiver_reads_what_a_database_with_both_tables_would_say(
    shape: dict[str, object], hide_size: bool
) -> None:
    given = sides(**shape)
    outcome = joined(given, hide_size=hide_size)
    assert outcome.cells == given.truth
    assert any(value is not None for cell in outcome.cells for value in cell.terms)


def test_a_left_join_counts_rows_of_a_that_have_no_partner() -> None:
    layout = a_layout(groups_b=1, measures_b=0, outer=True, min_group=1)
    given = two_sides(100, layout=layout, overlap=0)
    for cell in joined(given).cells:
        assert cell.terms[0] is None  # nobody matched
        inside = given.a.group == cell.group_a
        assert cell.terms[-2] == given.a.factor(1)[inside].sum()
        assert cell.terms[-1] == given.a.factor(2)[inside].sum()


def test_a_left_joins_own_total_is_withheld_where_one_row_dominates_it() -> None:
    terms = (Term(0, 0, 0, False), Term(0, 0, 1, True), Term(1, 0, 1, True))
    layout = Layout(3, 1, 2, 1, terms, (), (), 1, 0, Fraction(1, 2), 1)
    values = np.array([5, 5, -5, 60, 10, -40, 7], dtype=np.int64)
    group = np.array([0, 0, 0, 1, 1, 1, 2], dtype=np.int64)
    tokens = np.arange(7 * 16, dtype=np.uint8).reshape(7, 16)
    a = SideRows(tokens, group, values.reshape(-1, 1))
    b = SideRows(tokens[:4], np.zeros(4, dtype=np.int64), np.zeros((4, 0), dtype=np.int64))
    cells = run_three(tasks_of(layout, caps=(10, 10)), a, b).cells
    # 5 of 15 may be shown, 60 of 110 and 7 of 7 may not.
    assert [cell.terms for cell in cells] == [(3, 3, 5), (1, None, None), (None, None, None)]


def test_a_union_adds_up_what_each_holder_has() -> None:
    terms = (Term(0, 0, 0, False), Term(1, 0, 1, False), Term(2, 0, 1, False))
    layout = Layout(2, 1, 3, 1, terms, (), (), 1, 0, None, 1)
    # Both have the groups and factors of side A.
    same = two_sides(90, layout=replace(layout, groups_b=2, factors_b=3))
    outcome = run_three(tasks_of(layout, caps=CAPS, padding=None), same.a, same.b)
    assert outcome.results[A].learned == {}
    for cell in outcome.cells:
        held = [(rows, rows.group == cell.group_a) for rows in (same.a, same.b)]
        for factor, shown in enumerate(cell.terms):
            assert shown == sum(int(rows.factor(factor)[at].sum()) for rows, at in held)


def test_the_helper_receives_nothing_of_a_union_but_headers_and_fresh_shares() -> None:
    layout = Layout(2, 1, 1, 1, (Term(0, 0, 0, False),), (), (), 1, 0, None, 1)
    same = two_sides(90, layout=replace(layout, groups_b=2))
    outcome = run_three(tasks_of(layout, caps=CAPS, padding=None), same.a, same.b)
    outcome.require()
    assert {m.label for m in outcome.received(C)} == {"header", "replicate"}


def test_sides_with_no_rows_at_all_are_answered() -> None:
    layout = a_layout(groups_a=2, groups_b=2)
    given = two_sides(0, layout=layout)
    for hide_size in (False, True):
        cells = joined(given, hide_size=hide_size).cells
        assert all(value is None for cell in cells for value in cell.terms)


@pytest.mark.parametrize(
    "shape", [{}, {"extremes": (Extreme(0, 2, 1, True, -(2**30), 2**30, 1),)}], ids=["", "by row"]
)
def test_a_join_without_a_single_pair_is_answered(
    shape: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing matched, and both draws of the padding were nothing as well: rare, and right."""
    most = padding(SMALL).shift
    monkeypatch.setattr(protocol, "padding", lambda _: Padding(most, (2**128,) * (2 * most + 1)))
    given = two_sides(50, overlap=0, layout=a_layout(min_group=1, **shape))  # type: ignore[arg-type]
    outcome = joined(given)
    assert outcome.cells == given.truth
    assert outcome.results[A].learned == {"pairs": 0}


def test_a_holder_at_its_cap_is_answered() -> None:
    given = sides()
    tasks = tasks_of(given.layout, caps=(len(given.a), len(given.b)))
    assert run_three(tasks, given.a, given.b).cells == given.truth


def test_rows_in_no_group_are_as_if_they_were_not_there() -> None:
    given = sides(groups_b=1)
    assert (given.b.group == NO_GROUP).any()
    kept = given.b.group != NO_GROUP
    fewer = SideRows(given.b.tokens[kept], given.b.group[kept], given.b.factors[kept])
    tasks = tasks_of(given.layout, caps=CAPS, key=1)
    outcome = run_three(tasks, given.a, given.b)
    again = run_three(tasks, given.a, fewer)
    assert outcome.cells == again.cells == given.truth


# --- noise and gate ------------------------------------------------------------------------------


def scales(layout: Layout, authors: tuple[int, int]) -> NoiseScales:
    return NoiseScales(
        Distribution.LAPLACE, tuple(Fraction(3, 2) + i for i in range(len(layout.terms))), authors
    )


@pytest.mark.parametrize("authors", [(0, 1), (1, 2), (2, 0)])
def test_exactly_the_two_authors_each_add_a_full_draw_to_every_term_of_every_cell(
    authors: tuple[int, int],
) -> None:
    given, noise = sides(), StatedNoise(0)
    noise.step = 1000
    tasks = tasks_of(given.layout, caps=CAPS, noise=scales(given.layout, authors))
    outcome = run_three(tasks, given.a, given.b, noise=noise)
    outcome.require()
    cells, terms = given.layout.cells, len(given.layout.terms)
    stated = [(Distribution.LAPLACE, Fraction(3, 2) + i, cells) for i in range(terms)]
    assert sorted(noise.asked, key=lambda one: one[1]) == sorted(2 * stated, key=lambda one: one[1])
    ((exact, noisy),) = outcome.room.gated
    assert np.array_equal(exact, plain_terms(given.layout, given.a, given.b).ravel())
    added = (noisy - exact).reshape(terms, cells)
    assert (added == added[:, :1]).all()  # one draw for each call of one author
    assert added[:, 0].sum() == 1000 * sum(range(1, 2 * terms + 1))


def test_without_noise_the_gate_is_given_the_exact_sums_themselves() -> None:
    given = sides()
    outcome = joined(given)
    outcome.require()
    ((exact, noisy),) = outcome.room.gated
    assert np.array_equal(exact, noisy)
    assert len(outcome.between(A, B, "replicate")) == 1


def test_the_exact_and_the_noisy_sums_are_hidden_by_different_zero_shares() -> None:
    """Otherwise the difference of two messages is a party's noise, and one author's is known."""
    given, layout = sides(), sides().layout
    tasks = tasks_of(layout, caps=CAPS, noise=scales(layout, (0, 1)))
    outcome = run_three(tasks, given.a, given.b, noise=StatedNoise(1))
    outcome.require()
    for of in (A, B, C):
        exact, noisy = (
            np.frombuffer(one, np.int64) for one in outcome.between(of, (of + 1) % 3, "replicate")
        )
        # A difference of noise alone would be below 100.
        assert (np.abs((noisy - exact).astype(np.float64)) > 2**32).all()


# --- the nearest forgeries -----------------------------------------------------------------------


def tampered(given: Sides, tamper: Tamper, **how: object) -> Outcome:
    tasks = tasks_of(given.layout, caps=CAPS, **how)  # type: ignore[arg-type]
    outcome = run_three(tasks, given.a, given.b, tamper=tamper)
    assert not outcome.results
    assert not outcome.room.gated  # nothing was opened, nothing came near the gate
    return outcome


def changing(
    of: int, to: int, label: str, change: Callable[[bytes], bytes], count: int = 0
) -> Tamper:
    def tamper(sender: int, receiver: int, name: str, seen: int, payload: bytes) -> bytes:
        if (sender, receiver, name, seen) == (of, to, label, count):
            changed = change(payload)
            assert changed != payload
            return changed
        return payload

    return tamper


def positions(change: Callable[[Positions], Positions]) -> Callable[[bytes], bytes]:
    return lambda payload: change(np.frombuffer(payload, np.uint32).copy()).tobytes()


def swapped(at: Positions, real: Positions) -> Positions:
    at[real[:2]] = at[real[1::-1]]
    return at


def shifted(at: Positions, real: Positions) -> Positions:
    return np.roll(at, 1)


def one_wrong(at: Positions, real: Positions) -> Positions:
    at[real[0]] = next(i for i in range(10_000) if i not in at)
    return at


def wrong_pairs(
    given: Sides, to: int, change: Callable[[Positions, Positions], Positions]
) -> Tamper:
    """Changes the helper's list for one holder. Real pairs are known from all uploads together:
    to exchange two pool rows is no fault, for that is only another random order."""
    common = {tag.tobytes() for tag in given.a.tokens} & {tag.tobytes() for tag in given.b.tokens}
    uploads: dict[int, np.ndarray[tuple[int, int], np.dtype[np.uint8]]] = {}

    def tamper(of: int, receiver: int, label: str, count: int, payload: bytes) -> bytes:
        if label == "tags":
            uploads[of] = np.frombuffer(payload, np.uint8).reshape(-1, 16)
        if (receiver, label) != (to, "positions"):
            return payload
        at = np.frombuffer(payload, np.uint32).copy()
        tags = uploads[1 - to]
        real = [i for i, place in enumerate(at) if tags[place].tobytes() in common]
        return change(at, np.array(real, dtype=np.uint32)).tobytes()

    return tamper


WRONG_PAIRS = "pairs are not of equal keys"


@pytest.mark.parametrize("hide_size", [False, True], ids=["", "size hidden"])
@pytest.mark.parametrize("to", [A, B])
@pytest.mark.parametrize("change", [shifted, swapped], ids=["shifted", "swapped"])
def test_wrong_pairs_are_caught_by_all_three(
    change: Callable[[Positions, Positions], Positions], to: int, hide_size: bool
) -> None:
    given = sides()
    outcome = tampered(given, wrong_pairs(given, to, change), hide_size=hide_size)
    for rank in (A, B, C):
        assert failed(outcome, rank).fault is EngineFault.MISMATCH
        assert WRONG_PAIRS in failed(outcome, rank).problem


@pytest.mark.parametrize("to", [A, B])
def test_one_wrong_pair_is_caught(to: int) -> None:
    given = sides()
    outcome = tampered(given, wrong_pairs(given, to, one_wrong))
    assert WRONG_PAIRS in failed(outcome, B).problem


def test_a_stale_seed_is_caught() -> None:
    outcome = tampered(sides(), changing(B, A, "seed", lambda seed: bytes(16)))
    assert WRONG_PAIRS in failed(outcome, C).problem


def test_a_wrong_pair_is_missed_less_often_than_once_in_2_to_58() -> None:
    """r * d is 0 for a fraction 2**v / 2**64 of all r, where 2**v is the largest power of two in
    the difference d of two check words, and d is uniform: a multiple of 2**v for 2**-v of all."""
    missed = sum(Fraction(1, 2 ** (v + 1)) * Fraction(2**v, 2**64) for v in range(64))
    missed += Fraction(1, 2**64)  # equal words
    assert missed == Fraction(33, 2**64)
    assert missed < Fraction(1, 2**58)


@pytest.mark.parametrize("to", [A, B])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda at: np.append(at[:-1], at[0]), "positions name a row twice"),
        (lambda at: np.append(at[:-1], np.uint32(10_000)), "positions name a row beyond"),
    ],
    ids=["repeat", "out of range"],
)
def test_a_list_that_no_helper_makes_is_refused_by_its_reader(
    change: Callable[[Positions], Positions],
    problem: str,
    to: int,
) -> None:
    outcome = tampered(sides(), changing(C, to, "positions", positions(change)))
    assert failed(outcome, to).fault is EngineFault.MISMATCH
    assert problem in failed(outcome, to).problem


def test_lists_of_unequal_length_are_refused() -> None:
    def shorter(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if (of, to) == (C, A) and label == "pairs":
            return (int.from_bytes(payload, "little") - 1).to_bytes(8, "little")
        if (of, to) == (C, A) and label == "positions":
            return payload[:-4]
        return payload

    outcome = tampered(sides(), shorter)
    assert "lists of different lengths" in failed(outcome, A).problem
    assert "lists of different lengths" in failed(outcome, B).problem


def test_more_pairs_than_rows_are_refused_before_memory_is_set_aside() -> None:
    endless = changing(C, A, "pairs", lambda _: (2**40).to_bytes(8, "little"))
    assert "more pairs than an upload has rows" in failed(tampered(sides(), endless), A).problem


def test_where_the_size_is_hidden_a_row_without_partner_is_refused() -> None:
    def fewer(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if of == C and label == "pairs":
            return (int.from_bytes(payload, "little") - 1).to_bytes(8, "little")
        return payload[:-4] if of == C and label == "positions" else payload

    outcome = tampered(sides(), fewer, hide_size=True)
    assert "every row of A a partner" in failed(outcome, A).problem


@pytest.mark.parametrize("side", [A, B])
def test_a_tag_uploaded_twice_is_refused_by_the_helper(side: int) -> None:
    def twice(payload: bytes) -> bytes:
        return payload[:16] + payload[:16] + payload[32:]

    outcome = tampered(sides(), changing(side, C, "tags", twice))
    assert "uploaded a tag twice" in failed(outcome, C).problem


def test_a_message_of_another_length_is_refused() -> None:
    outcome = tampered(sides(), changing(A, C, "column", lambda payload: payload[:-8]))
    assert "'column' does not have the length" in failed(outcome, C).problem


@pytest.mark.parametrize(
    ("of", "to", "holders"), [(B, C, "B and C hold x3"), (C, A, "C and A hold y1")]
)
def test_a_corrupted_re_sharing_is_caught_by_the_two_who_computed_a_component(
    of: int, to: int, holders: str
) -> None:
    given = sides(groups_a=2, groups_b=2)
    flipped = changing(of, to, "reshare", lambda p: bytes([p[0] ^ 1]) + p[1:])
    outcome = tampered(given, flipped)
    for rank in (of, to):
        assert failed(outcome, rank).fault is EngineFault.MISMATCH
        assert "share a component have different ones" in failed(outcome, rank).problem, holders


def other_tasks(given: Sides, rank: int, change: Callable[[HiddenTask], HiddenTask]) -> Outcome:
    tasks = tasks_of(given.layout, caps=CAPS)
    tasks[rank] = change(tasks[rank])
    outcome = run_three(tasks, given.a, given.b)
    assert not outcome.results
    # Nothing made from a row has left.
    assert {m.label for m in outcome.messages} <= {"header", "refused"}
    return outcome


@pytest.mark.parametrize("rank", [A, B, C])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda task: replace(task, caps=(120, 131)), "other caps"),
        (lambda task: replace(task, hide_size=True), "other upload sizes"),
        (
            lambda task: replace(task, padding=PaddingBounds(Fraction(1, 9), SMALL.delta, 1)),
            "other upload sizes",
        ),
        (
            lambda task: replace(
                task,
                layout=replace(task.layout, terms=(*task.layout.terms, Term(2, 2, 0, False))),
            ),
            None,
        ),
        (
            lambda task: replace(task, layout=replace(task.layout, groups_a=3)),
            "another set of columns",
        ),
        (
            lambda task: replace(task, layout=replace(task.layout, min_group=2)),
            "other parameters",
        ),
        (
            lambda task: replace(task, noise=scales(task.layout, (0, 1))),
            "other parameters",
        ),
    ],
)
def test_a_party_with_another_task_is_found_before_anything_leaves(
    change: Callable[[HiddenTask], HiddenTask], problem: str | None, rank: int
) -> None:
    outcome = other_tasks(sides(), rank, change)
    errors = [failed(outcome, rank) for rank in outcome.failures]
    mismatches = [error for error in errors if error.fault is EngineFault.MISMATCH]
    assert mismatches
    if problem:
        assert all(problem in error.problem for error in mismatches)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("ring_bits", 128, "another ring"),
        ("plan", str(digest(b"forged")), "another plan"),
        ("attempt", "att_0", "another attempt"),
        ("uploads", [1, 2], "other upload sizes"),
        ("pools", [1, 2], "other pool sizes"),
    ],
)
def test_each_line_of_the_header_has_its_own_refusal(
    name: str, value: object, problem: str
) -> None:
    def forge(payload: bytes) -> bytes:
        return json.dumps(
            {**json.loads(payload), name: value},
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        ).encode()

    outcome = tampered(sides(), changing(A, C, "header", forge))
    assert failed(outcome, C).fault is EngineFault.MISMATCH
    assert problem in failed(outcome, C).problem


def test_a_header_of_another_version_is_refused() -> None:
    outcome = tampered(sides(), changing(A, B, "header", lambda _: b"{}"))
    assert "cannot be read" in failed(outcome, B).problem


def test_a_party_of_another_attempt_is_refused_with_its_first_message() -> None:
    given, tasks = sides(), tasks_of(sides().layout, caps=CAPS)
    tasks[A] = replace(tasks[A], seat=replace(tasks[A].seat, attempt="att_0"))
    outcome = run_three(tasks, given.a, given.b)
    assert not outcome.results
    faults = {failed(outcome, rank).fault for rank in outcome.failures}
    assert EngineFault.MISMATCH in faults
    assert {m.label for m in outcome.messages} <= {"header"}


# --- a holder's own rows -------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [A, B])
def test_more_rows_than_the_cap_are_the_holders_own_error_and_nothing_leaves(rank: int) -> None:
    given = sides()
    caps = (99, 130) if rank == A else (120, 99)
    outcome = run_three(tasks_of(given.layout, caps=caps), given.a, given.b)
    assert failed(outcome, rank).fault is EngineFault.INPUT
    assert "cap, 99" in failed(outcome, rank).problem
    assert not [m for m in outcome.messages if m.of == rank]


def test_what_fails_at_one_holder_is_told_to_no_other() -> None:
    given = sides()
    twice = SideRows(
        np.concatenate([given.a.tokens[:1], given.a.tokens[:-1]]), given.a.group, given.a.factors
    )
    outcome = run_three(tasks_of(given.layout, caps=CAPS), twice, given.b)
    assert failed(outcome, A).fault is EngineFault.INPUT
    assert "occurs twice" in failed(outcome, A).problem
    for rank in (B, C):
        assert failed(outcome, rank).fault is EngineFault.PEER
        assert "key" not in failed(outcome, rank).problem


def test_rows_of_another_shape_are_refused() -> None:
    given = sides()
    outcome = run_three(tasks_of(given.layout, caps=CAPS), given.a, replace_group(given.b, 9))
    assert failed(outcome, B).fault is EngineFault.INPUT


def replace_group(rows: SideRows, group: int) -> SideRows:
    return SideRows(rows.tokens, np.full(len(rows), group, dtype=np.int64), rows.factors)


def test_a_holder_without_rows_and_a_helper_with_rows_are_refused() -> None:
    given = sides()
    outcome = run_three(tasks_of(given.layout, caps=CAPS), None, given.b)
    assert failed(outcome, A).fault is EngineFault.INPUT


@pytest.mark.parametrize(
    "layout",
    [
        a_layout(groups_b=2),
        a_layout(groups_b=1, measures_b=1),
        a_layout(1, 1, 0, 0, dominance=Fraction(1, 2)),
    ],
    ids=["two sides of groups", "factors of B", "row by row"],
)
def test_a_union_of_anything_but_one_shape_is_refused(layout: Layout) -> None:
    given = two_sides(20, layout=layout)
    outcome = run_three(tasks_of(layout, caps=CAPS, padding=None), given.a, given.b)
    assert failed(outcome, A).fault is EngineFault.INPUT


# --- what a run says of itself -------------------------------------------------------------------


def test_a_run_tells_its_stages_in_their_order() -> None:
    outcome = joined(sides())
    outcome.require()
    expected = [
        EngineStage(name) for name in ("upload", "match", "check", "share", "compute", "gate")
    ]
    for rank in (A, B, C):
        assert outcome.stages[rank] == expected


def test_all_three_report_the_same_padded_count_and_the_helper_keeps_its_own_to_itself() -> None:
    given = sides()
    outcome = joined(given)
    outcome.require()
    pairs = {outcome.results[rank].learned["pairs"] for rank in (A, B, C)}
    assert len(pairs) == 1
    matched = int((np.isin(given.a.tokens.view("V16"), given.b.tokens.view("V16"))).sum())
    assert 0 < pairs.pop() <= matched + 4 * padding(SMALL).shift
    assert outcome.results[C].learned.keys() == {"pairs"}


def test_where_the_size_is_hidden_the_count_is_the_same_whatever_matched() -> None:
    counts = set()
    for overlap in (0, 50, 100):
        given = two_sides(100, overlap=overlap, layout=a_layout())
        outcome = joined(given, hide_size=True)
        outcome.require()
        counts.add(outcome.results[A].learned["pairs"])
    assert counts == {120 + 2 * padding(SMALL).shift}


def test_a_result_prints_no_share() -> None:
    outcome = joined(sides())
    outcome.require()
    assert "share" not in repr(outcome.results[A])


def test_a_share_is_fresh_although_nothing_else_changed() -> None:
    given = sides()
    one, other = joined(given), joined(given)
    assert one.cells == other.cells
    for rank in (A, B, C):
        words = [np.frombuffer(run.results[rank].share, np.uint64) for run in (one, other)]
        assert not (words[0] == words[1]).any()


def test_the_answer_does_not_depend_on_the_randomness() -> None:
    given = sides(products=True)
    tasks = tasks_of(given.layout, caps=CAPS, key=3)
    fixed = {rank: FixedRandomness(rank) for rank in range(3)}
    outcome = run_three(tasks, given.a, given.b, randomness=fixed)
    assert np.array_equal(outcome.output, plain_output(given.layout, given.a, given.b))
