"""The hidden join of three holders on one key: what the third adds to every promise of two.

Its right answers are in tests/property/test_hidden_join.py. D is the third holder, rank 3.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest

from crypto.engine import Combination, HiddenTask, NoiseScales, PaddingBounds
from crypto.errors import EngineFault, Malformed
from crypto.joins.hidden import protocol
from crypto.joins.hidden.columns import Column, column_plan
from crypto.joins.hidden.keys import pair_pads, row_names, tag_keys, tags_of_names
from crypto.joins.hidden.matching import Pairs, match
from crypto.joins.hidden.padding import Padding, overlap_bounds, padding, upload_sizes
from crypto.joins.layout import Layout, Term, Third
from crypto.joins.rows import SideRows, plain_output, plain_terms, second_side
from crypto.noise import Distribution
from crypto.ports import Randomness
from tests.fakes.three_parties import (
    SMALL,
    FixedRandomness,
    Message,
    Outcome,
    StatedNoise,
    Tamper,
    failed,
    run_three,
    tasks_of,
)

A, B, C, D = 0, 1, 2, 3
HOLDERS = (A, B, D)
CAPS = (60, 60, 60)
COUNT = Term(0, 0, 0, False)
# Everybody has a mark and a value; D and B two groups each. Sums of B's and of D's values, of their
# product, and of all three's.
THIRD = Third(2, 2, 3, 3, ((0, 0), (1, 1), (2, 0), (0, 2), (2, 2)))
LAYOUT = Layout(
    2, 4, 3, 5, (COUNT, *(Term(left, f, 0, False) for left in (0, 2) for f in range(2, 5))),
    (), (), 1, 0, None, 1, THIRD,
)  # fmt: skip
# Draws of the padding are fixed in some tests, so that two runs differ in nothing but their rows.
ALWAYS = Padding(3, (0,) * 3 + (2**128,) * 4)
Three = tuple[SideRows, SideRows, SideRows]
Positions = np.ndarray[tuple[int], np.dtype[np.uint32]]


def rows_of(numbers: Sequence[int], *, value: int = 7, group: int = 0) -> SideRows:
    """One holder's rows of these people, who are named alike at all holders."""
    names = np.random.default_rng(1).integers(0, 256, (1000, 16), dtype=np.uint8)
    factors = np.tile(np.array([[1, value]], dtype=np.int64), (len(numbers), 1))
    groups = (np.arange(len(numbers), dtype=np.int64) + group) % 2
    return SideRows(names[list(numbers)], groups, factors)


def three(overlap: int = 30) -> Three:
    """`overlap` people at all three, ten for each two, some alone."""
    return (
        rows_of([*range(overlap), *range(100, 120), 200], value=3),
        rows_of([*range(overlap), *range(110, 130), 201], value=5),
        rows_of([*range(overlap), *range(100, 110), *range(120, 130), 202], value=-11),
    )


def joined(rows: Three, layout: Layout = LAYOUT, **how: object) -> Outcome:
    return run_three(tasks_of(layout, caps=CAPS, **how), *rows)  # type: ignore[arg-type]


def truth(rows: Three, layout: Layout = LAYOUT) -> list[int]:
    a, b, d = rows
    assert layout.third is not None
    found: list[int] = plain_output(layout, a, second_side(layout.third, b, d)).tolist()
    return found


@pytest.fixture
def fixed_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "padding", lambda bounds: ALWAYS)


# --- right answers -------------------------------------------------------------------------------


def test_three_tables_together_are_answered_and_the_third_share_says_nothing() -> None:
    outcome = joined(three())
    assert outcome.output.tolist() == truth(three())
    assert outcome.results[D].share == bytes(8 * LAYOUT.outputs)
    assert outcome.results[D].learned == {}
    told = {rank: outcome.results[rank].learned["pairs"] for rank in (A, B, C)}
    assert len(set(told.values())) == 1
    assert told[A] >= 30


def test_a_left_join_counts_rows_of_a_that_the_other_two_do_not_have() -> None:
    terms = (COUNT, Term(0, 0, 1, True), Term(2, 0, 1, True), Term(0, 1, 0, False))
    layout = Layout(
        2, 1, 3, 2, terms, (), (), 1, 0, None, 1, Third(1, 1, 3, 3, ((0, 0), (2, 2)))
    )  # fmt: skip
    a, b, d = three()
    b, d = (replace(rows, group=np.zeros(len(rows), dtype=np.int64)) for rows in (b, d))
    alone = (a, b, d)
    outcome = joined(alone, layout)
    assert outcome.output.tolist() == truth(alone, layout)
    assert [cell.terms[1] for cell in outcome.cells] == [26, 25]


def test_holders_without_a_single_row_are_answered() -> None:
    nobody = rows_of([])
    for at in range(3):
        rows = tuple(nobody if at == place else one for place, one in enumerate(three()))
        assert not joined((rows[0], rows[1], rows[2])).output.any()


@pytest.mark.parametrize("authors", [(0, 1), (1, 2), (2, 0)])
def test_two_of_the_first_three_add_noise_and_the_third_holder_none(
    authors: tuple[int, int],
) -> None:
    scales = tuple(Fraction(1 + i) for i in range(len(LAYOUT.terms)))
    tasks = tasks_of(LAYOUT, caps=CAPS, noise=NoiseScales(Distribution.LAPLACE, scales, authors))
    noise = StatedNoise(1000)
    outcome = run_three(tasks, *three(), noise=noise)
    outcome.require()
    assert len(noise.asked) == 2 * len(LAYOUT.terms)
    ((exact, noisy),) = outcome.room.gated
    a, b, d = three()
    assert np.array_equal(exact, plain_terms(LAYOUT, a, second_side(THIRD, b, d)).ravel())
    assert (noisy - exact).sum() == 1000 * LAYOUT.cells * sum(range(1, len(noise.asked) + 1))


def test_what_is_uploaded_are_columns_of_each_holder_and_only_products_are_multiplied() -> None:
    plan = column_plan(LAYOUT, hide_size=False)
    assert len(plan.columns) == 3
    assert set(plan.columns[2]) == {Column(f, g) for f in (0, 2) for g in (0, 1)}
    outcome = joined(three())
    # Four cells of the second side for each of its four factors that a term has.
    assert len(outcome.between(A, B, "product")) == 16
    alone = Layout(
        1, 2, 1, 2, (COUNT, Term(0, 1, 0, False)), (), (), 1, 0, None, 1,
        Third(1, 2, 1, 3, ((0, 0), (0, 2))),
    )  # fmt: skip
    bare = [SideRows(r.tokens, r.group * 0, r.factors[:, :0]) for r in three()[:2]]
    outcome = joined((bare[0], bare[1], three()[2]), alone)
    assert outcome.output.tolist() == truth((bare[0], bare[1], three()[2]), alone)
    # Sums of D's columns alone need no multiplication and no re-sharing.
    assert not [m for m in outcome.messages if m.label in ("product", "reshare")]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hide_size": True}, "hide_size"),
        ({"combination": Combination.UNION, "padding": None}, "combination"),
        ({"layout": replace(LAYOUT, third=None)}, "layout.third"),
        ({"caps": (60, 60)}, "seat"),
        ({"token_key": bytes(32)}, "token_key"),
    ],
)
def test_a_task_of_three_that_no_run_can_have_is_refused(
    change: dict[str, object], field: str
) -> None:
    task = tasks_of(LAYOUT, caps=CAPS)[D]
    with pytest.raises(Malformed) as refused:
        replace(task, **change)  # type: ignore[arg-type]
    assert refused.value.where == field


# --- what each party hears -----------------------------------------------------------------------


def test_the_third_holder_hears_the_tags_key_and_that_the_others_came_to_the_end() -> None:
    outcome = joined(three())
    outcome.require()
    assert Counter((m.of, m.label) for m in outcome.received(D)) == Counter(
        [(A, "header"), (C, "header"), (A, "tag key"), (A, "opened")]
    )
    assert outcome.between(A, D, "opened") == [b""]
    assert not [m for m in outcome.messages if {m.of, m.to} == {B, D}]


def test_the_third_holder_speaks_to_a_with_a_seed_and_to_the_helper_with_an_upload() -> None:
    outcome = joined(three())
    said = {(m.to, m.label) for m in outcome.messages if m.of == D}
    helper = {"header", "tags", "pool", "column"}
    assert said == {(A, "header"), (A, "seed")} | {(C, label) for label in helper}


def transcript(messages: Sequence[Message]) -> list[tuple[int, int, str, int]]:
    return sorted(
        ((m.of, m.to, m.label, len(m.payload)) for m in messages), key=lambda one: one[:2]
    )


@pytest.mark.parametrize(
    "numbers", [[], [5], [*range(30), *range(100, 130)], [*range(300, 360)]], ids=len
)
def test_the_size_of_no_upload_depends_on_any_row(numbers: list[int]) -> None:
    """Whatever D's filters left, and whoever of it matches, it and the others upload as much."""
    uploads = ("tags", "pool", "column", "seed", "tag key", "header")
    a, b, d = three()
    found = [
        transcript([m for m in joined((a, b, rows)).messages if m.label in uploads])
        for rows in (d, rows_of(numbers))
    ]
    assert found[0] == found[1]
    size = upload_sizes(CAPS, SMALL, hide_size=False).rows[2]
    assert sum(n for of, to, label, n in found[0] if (of, label) == (D, "tags")) == 16 * size


NEIGHBOURS: dict[str, Callable[[SideRows], SideRows]] = {
    "other values": lambda d: replace(d, factors=d.factors * np.array([1, -(2**40)])),
    "other groups": lambda d: replace(d, group=1 - d.group),
    "another order": lambda d: SideRows(d.tokens[::-1], d.group[::-1], d.factors[::-1]),
    "somebody else whom nobody has": lambda d: SideRows(
        np.concatenate([d.tokens[:-1], rows_of([203]).tokens]), d.group, d.factors
    ),
}


@pytest.mark.usefixtures("fixed_padding")
@pytest.mark.parametrize("what", NEIGHBOURS)
def test_two_databases_that_differ_in_what_others_must_not_see_give_them_equal_messages(
    what: str,
) -> None:
    """Equal sizes of everything that anybody receives, and equal counts of equal tags at C."""
    a, b, d = three()
    one, other = joined((a, b, d)), joined((a, b, NEIGHBOURS[what](d)))
    one.require()
    other.require()
    assert transcript(one.messages) == transcript(other.messages)
    assert overlaps(one) == overlaps(other)


def chi_square(data: bytes) -> float:
    """Of bytes against uniform ones, 255 degrees of freedom: 377 is passed once in 10**6."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("value", [0, 2**40], ids=["zeros", "large values"])
def test_what_arrives_of_the_third_holders_columns_looks_random(value: int) -> None:
    d = rows_of(range(50), value=value)
    outcome = joined((rows_of(range(50)), rows_of(range(50)), d))
    outcome.require()
    received = {
        "columns": b"".join(outcome.between(D, C, "column")),
        "tags": b"".join(outcome.between(D, C, "tags")),
        "re-shared, C": b"".join(outcome.between(A, C, "reshare")),
        "re-shared, A": b"".join(outcome.between(C, A, "reshare")),
        "products": b"".join(m.payload for m in outcome.messages if m.label == "product"),
    }
    for name, data in received.items():
        assert len(data) > 1000
        assert chi_square(data) < 377, name


def test_the_two_lists_of_a_are_each_a_uniform_ordered_sample() -> None:
    """Which of 20 positions stands first in each, 2,000 draws of the helper over shuffled uploads:
    chi-square with 19 degrees of freedom; by chance 1 seed in 10**4 fails (50.8). And no pair of
    places is preferred: both lists together, 399 degrees of freedom (512)."""
    random, shuffle = FixedRandomness(3), np.random.default_rng(4)
    runs = 2000
    first = np.zeros((20, 20))
    common = shuffle.integers(0, 256, (7, 16), dtype=np.uint8)
    for _ in range(runs):
        uploads, pools = [], []
        for _ in HOLDERS:
            tags = shuffle.integers(0, 256, (20, 16), dtype=np.uint8)
            tags[:7] = common
            order = shuffle.permutation(20)
            uploads.append(tags[order])
            pools.append(np.flatnonzero(order >= 14).astype(np.uint32))
        pairs = match(uploads, pools, drawn=ALWAYS, randomness=random)
        assert pairs.at_d is not None
        assert len(pairs) == len(set(pairs.at_d)) == 10
        first[pairs.at_b[0], pairs.at_d[0]] += 1
    for one in (first.sum(axis=0), first.sum(axis=1)):
        assert ((one - runs / 20) ** 2 / (runs / 20)).sum() < 50.8
    assert ((first - runs / 400) ** 2 / (runs / 400)).sum() < 512


def test_rows_of_three_have_tags_that_say_nothing_without_the_key() -> None:
    class Keys:
        canonical = (b"a", b"b")

    names = row_names(Keys())  # type: ignore[arg-type]
    assert names.shape == (2, 16)
    one, other = (tags_of_names(tag_keys(key * 32), names) for key in (b"k", b"l"))
    assert len({row.tobytes() for row in (*names, *one, *other)}) == 6
    # What leaves is the tag, never the name.
    outcome = joined(three())
    sent = b"".join(m.payload for m in outcome.received(C) if m.label == "tags")
    tags = {sent[i : i + 16] for i in range(0, len(sent), 16)}
    assert not tags & {row.tobytes() for row in three()[0].tokens}


# --- the four counts -----------------------------------------------------------------------------


def overlaps(outcome: Outcome) -> Counter[tuple[int, ...]]:
    """What the helper can count: for each set of two or three holders, the tags they have."""
    owners: dict[bytes, list[int]] = {}
    for holder in HOLDERS:
        data = b"".join(outcome.between(holder, C, "tags"))
        for i in range(0, len(data), 16):
            owners.setdefault(data[i : i + 16], []).append(holder)
    return Counter(tuple(held) for held in owners.values() if len(held) > 1)


def membership(tables: Sequence[int]) -> Counter[tuple[int, ...]]:
    return Counter([tuple(tables)] if len(tables) > 1 else [])


def test_a_person_moves_at_most_two_of_the_four_counts_whatever_tables_gain_or_lose_them() -> None:
    places = [
        tuple(h for h, here in zip(HOLDERS, held, strict=True) if here)
        for held in product([0, 1], repeat=3)
    ]
    moved = {}
    for before, after in product(places, repeat=2):
        change = membership(after)
        change.subtract(membership(before))
        moved[before, after] = {name: by for name, by in change.items() if by}
        assert len(moved[before, after]) <= 2
        assert all(abs(by) == 1 for by in moved[before, after].values())
    # The table of `overlap_bounds`.
    assert moved[(), (A,)] == {}
    assert moved[(B,), (A, B)] == {(A, B): 1}
    assert moved[(D,), (A, D)] == {(A, D): 1}
    assert moved[(B, D), (A, B, D)] == {(B, D): -1, (A, B, D): 1}
    assert moved[(), (A, B, D)] == {(A, B, D): 1}


@pytest.mark.parametrize("contribution", [1, 2, 5])
def test_all_that_a_person_moves_of_the_four_counts_is_within_the_plans_padding(
    contribution: int,
) -> None:
    whole = PaddingBounds(Fraction(1, 2), Fraction(1, 10**9), contribution)
    half = overlap_bounds(whole, 3)
    assert overlap_bounds(whole, 2) == whole
    # Mass of counts that only one of two neighbours can produce, by how far these are apart.
    only_one = [Fraction(below, 2**128) for below in (0, *padding(half).table)]
    tight = 0
    for moves in product(range(contribution + 1), repeat=4):
        if sum(moves) <= 2 * contribution:
            assert sum(moves) * half.epsilon / contribution <= whole.epsilon
            assert sum(only_one[moved] for moved in moves) <= whole.delta
            tight += sum(moves) == 2 * contribution
    assert tight


def drawn_counts(tasks: Sequence[HiddenTask]) -> dict[tuple[int, ...], int]:
    """How many agreed rows each overlap has, from what each holder would upload."""
    found: dict[int, set[bytes]] = {}
    for rank in HOLDERS:
        seat = tasks[rank].seat
        party = protocol._Party(
            tasks[rank],
            {peer: pair_pads(seat, peer) for peer in range(4) if peer != rank},
            *(None,) * 4,  # type: ignore[arg-type]  # only keys are asked
        )
        tags, _ = protocol._agreed(party, tag_keys(tasks[A].token_key), SMALL)
        assert len({row.tobytes() for row in tags}) == len(tags)
        found[rank] = {row.tobytes() for row in tags}
    owners = Counter(tag for tags in found.values() for tag in tags)
    assert all(count > 1 for count in owners.values())  # nobody agrees with himself
    return dict(Counter(tuple(rank for rank in HOLDERS if tag in found[rank]) for tag in owners))


def test_each_overlap_has_a_draw_of_its_own_with_half_of_epsilon_and_delta() -> None:
    """1,000 attempts against the exact distribution: chi-square over the values expected at least
    5 times, for each of four overlaps; and no two overlaps' draws are correlated by more than 0.16.
    By chance either fails less than once in 10**5."""
    expected = padding(overlap_bounds(SMALL, 3))
    names = [(A, B), (A, D), (B, D), (A, B, D)]
    many = 1000
    draws = np.zeros((4, many), dtype=np.int64)
    for at in range(many):
        counts = drawn_counts(tasks_of(LAYOUT, caps=CAPS, key=at))
        draws[:, at] = [counts.get(name, 0) for name in names]
    low = (0, *expected.table[:-1])
    chances = np.array([(b - a) / 2**128 for a, b in zip(low, expected.table, strict=True)]) * many
    common = chances >= 5
    freedom = int(common.sum())
    for row in draws:
        seen = np.bincount(row, minlength=len(chances))
        statistic = ((seen - chances)[common] ** 2 / chances[common]).sum()
        assert statistic < freedom * (1 - 2 / (9 * freedom) + 4.5 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.16


def test_the_helper_counts_agreed_rows_in_every_overlap_and_the_holders_count_pool_rows_too() -> (
    None
):
    tasks = tasks_of(LAYOUT, caps=CAPS)
    outcome = run_three(tasks, *three(20))
    outcome.require()
    drawn = drawn_counts(tasks)
    seen = overlaps(outcome)
    real = {(A, B): 10, (A, D): 10, (B, D): 10, (A, B, D): 20}
    assert {name: seen[name] - many for name, many in real.items()} == {
        name: drawn.get(name, 0) for name in real
    }
    pool = outcome.results[A].learned["pairs"] - seen[A, B, D]
    assert 0 <= pool <= 2 * padding(SMALL).shift


# --- the nearest forgeries -----------------------------------------------------------------------

WRONG_PAIRS = "pairs are not of equal keys"


def refused(tamper: Tamper) -> Outcome:
    outcome = run_three(tasks_of(LAYOUT, caps=CAPS), *three(), tamper=tamper)
    assert not outcome.results  # not even at D
    assert not outcome.room.gated
    assert failed(outcome, D).fault in (EngineFault.PEER, EngineFault.MISMATCH)
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


@pytest.mark.parametrize(
    "change",
    [lambda at: np.roll(at, 1), lambda at: np.concatenate([at[1::-1], at[2:]])],
    ids=["shifted", "swapped"],
)
@pytest.mark.parametrize("of", [B, D])
def test_a_wrong_pairing_of_either_holders_rows_is_caught_by_all_three(
    of: int, change: Callable[[Positions], Positions], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_pool(*uploads: Any, drawn: Padding, randomness: Randomness) -> Pairs:
        return match(*uploads, drawn=NOTHING, randomness=randomness)

    # To exchange two pool rows is no fault: that is only another random order.
    monkeypatch.setattr(protocol, "match", without_pool)
    outcome = refused(changing(C, A, "positions", positions(change), count=0 if of == B else 1))
    for rank in (A, B, C):
        assert failed(outcome, rank).fault is EngineFault.MISMATCH
        assert WRONG_PAIRS in failed(outcome, rank).problem


NOTHING = Padding(3, (2**128,) * 7)  # draws 0


def test_wrong_words_that_would_cancel_between_the_two_comparisons_are_caught() -> None:
    """B's share of the check column is one less and D's one more on every row. With the same
    coefficients for A against B and A against D both would add up to nothing."""

    def tamper(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if (to, label, count) != (C, "column", 0) or of not in (B, D):
            return payload
        words = np.frombuffer(payload, np.uint64)
        return (words + np.uint64(1) if of == D else words - np.uint64(1)).tobytes()

    assert WRONG_PAIRS in failed(refused(tamper), B).problem


def test_a_stale_seed_of_the_third_holder_is_caught() -> None:
    outcome = refused(changing(D, A, "seed", lambda seed: bytes(16)))
    assert WRONG_PAIRS in failed(outcome, C).problem


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda at: np.append(at[:-1], at[0]), "positions name a row twice"),
        (lambda at: np.append(at[:-1], np.uint32(10_000)), "positions name a row beyond"),
    ],
    ids=["repeat", "out of range"],
)
def test_a_list_of_the_third_holders_rows_that_no_helper_makes_is_refused(
    change: Callable[[Positions], Positions], problem: str
) -> None:
    outcome = refused(changing(C, A, "positions", positions(change), count=1))
    assert failed(outcome, A).fault is EngineFault.MISMATCH
    assert problem in failed(outcome, A).problem


def test_two_lists_of_different_lengths_are_refused_by_a() -> None:
    def shorter(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if (of, to, count) == (C, A, 1) and label == "pairs":
            return (int.from_bytes(payload, "little") - 1).to_bytes(8, "little")
        if (of, to, count) == (C, A, 1) and label == "positions":
            return payload[:-4]
        return payload

    assert "lists of different lengths" in failed(refused(shorter), A).problem


def test_a_tag_that_the_third_holder_uploads_twice_is_refused_by_the_helper() -> None:
    twice = changing(D, C, "tags", lambda payload: payload[:16] + payload[:16] + payload[32:])
    assert "uploaded a tag twice" in failed(refused(twice), C).problem


def test_a_row_that_the_third_holder_marked_as_pool_may_have_no_partner() -> None:
    uploads: dict[int, bytes] = {}
    passed = threading.Semaphore(0)

    def tamper(of: int, to: int, label: str, count: int, payload: bytes) -> bytes:
        if label == "tags":
            uploads[of] = payload
            passed.release()
        if (of, label) != (D, "pool"):
            return payload
        for _ in HOLDERS:  # the forger waits until it can see whom all three have
            assert passed.acquire(timeout=10)
        tags = [[data[i : i + 16] for i in range(0, len(data), 16)] for data in uploads.values()]
        common = set.intersection(*map(set, tags))
        own = np.frombuffer(uploads[D], np.uint8).reshape(-1, 16)
        marks = np.frombuffer(payload, np.uint32).copy()
        marks[0] = next(i for i, tag in enumerate(own) if tag.tobytes() in common)
        return marks.tobytes()

    assert "marked as pool has a partner" in failed(refused(tamper), C).problem


def test_a_corrupted_product_is_caught_by_the_two_who_hold_its_component() -> None:
    for of, to in ((A, B), (B, C), (C, A)):
        outcome = refused(changing(of, to, "product", lambda p: bytes([p[0] ^ 1]) + p[1:], count=3))
        for rank in (of, to):
            assert failed(outcome, rank).fault is EngineFault.MISMATCH
            assert "share a component have different ones" in failed(outcome, rank).problem


def test_a_corrupted_re_sharing_of_the_third_holders_column_is_caught() -> None:
    labels = len(joined(three()).between(A, C, "reshare"))
    flip = changing(A, C, "reshare", lambda p: bytes([p[0] ^ 1]) + p[1:], count=labels - 1)
    outcome = refused(flip)
    for rank in (A, C):
        assert "share a component have different ones" in failed(outcome, rank).problem


def test_a_tags_key_of_another_length_is_refused() -> None:
    outcome = refused(changing(A, D, "tag key", lambda key: key[:-1]))
    assert "key does not have its length" in failed(outcome, D).problem


def test_another_tags_key_matches_nobody_and_the_holders_find_the_lost_rows() -> None:
    outcome = refused(changing(A, D, "tag key", lambda key: bytes(32)))
    assert "the helper lost pairs" in failed(outcome, A).problem


@pytest.mark.parametrize("rank", [A, C, D])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda task: replace(task, caps=(60, 60, 61)), "other caps"),
        (lambda task: replace(task, layout=replace(task.layout, min_group=2)), "other parameters"),
        (
            lambda task: replace(
                task,
                layout=replace(
                    task.layout, third=replace(THIRD, factors=(*THIRD.factors[:4], (1, 2)))
                ),
            ),
            "another set of columns",
        ),
    ],
)
def test_a_party_with_another_task_is_found_before_anything_leaves(
    change: Callable[[HiddenTask], HiddenTask], problem: str, rank: int
) -> None:
    tasks = tasks_of(LAYOUT, caps=CAPS)
    tasks[rank] = change(tasks[rank])
    outcome = run_three(tasks, *three())
    assert not outcome.results
    assert {m.label for m in outcome.messages} <= {"header", "refused"}
    errors = [failed(outcome, one) for one in outcome.failures]
    found = [error.problem for error in errors if error.fault is EngineFault.MISMATCH]
    assert found
    assert any(problem in one for one in found)


def test_what_fails_at_the_third_holder_is_told_to_no_other() -> None:
    a, b, d = three()
    tokens = np.concatenate([d.tokens[:1], d.tokens[:-1]])
    outcome = run_three(tasks_of(LAYOUT, caps=CAPS), a, b, replace(d, tokens=tokens))
    assert failed(outcome, D).fault is EngineFault.INPUT
    assert "occurs twice" in failed(outcome, D).problem
    assert not [m for m in outcome.messages if m.of == D]
    for rank in (A, C):
        assert failed(outcome, rank).fault is EngineFault.PEER


def test_more_rows_than_the_third_holders_cap_are_its_own_error() -> None:
    outcome = run_three(tasks_of(LAYOUT, caps=(60, 60, 50)), *three())
    assert "cap, 50" in failed(outcome, D).problem


def test_a_run_that_fails_late_for_the_others_fails_for_the_third_as_well() -> None:
    """The last message before the gate is lost on B: D has uploaded long ago, and seals nothing."""
    outcome = refused(changing(A, B, "replicate", lambda payload: payload[:-8]))
    assert failed(outcome, B).fault is EngineFault.MISMATCH
    assert failed(outcome, D).fault is EngineFault.PEER
