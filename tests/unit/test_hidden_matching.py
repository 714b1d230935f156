"""The helper's part: pairs of equal tags, pool pairs, one random order; what it and A, B refuse."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from crypto.engine import PaddingBounds
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.hidden import padding as hidden_padding
from crypto.joins.hidden.matching import equal_tags, match, require_positions
from crypto.joins.hidden.padding import Padding, padding, upload_sizes
from crypto.ports import SystemRandomness
from exchange.query.plan import MIN_PADDING_DELTA, MIN_PADDING_EPSILON
from tests.fakes.three_parties import FixedRandomness

BOUNDS = PaddingBounds(Fraction(1), Fraction(1, 1000), 1)
UInt8Array = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


def tags(count: int, seed: int) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)


def uploads(matched: int = 20, alone: int = 5) -> tuple[UInt8Array, UInt8Array]:
    common, random = tags(matched, 1), np.random.default_rng(2)
    a = np.concatenate([common, tags(alone, 3)])
    b = np.concatenate([common, tags(alone, 4)])
    return a[random.permutation(len(a))], b[random.permutation(len(b))]


def last(count: int, of: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.arange(of - count, of, dtype=np.uint32)


def with_pool(
    a: UInt8Array, b: UInt8Array, drawn: Padding, seed: int = 5
) -> tuple[tuple[UInt8Array, UInt8Array], tuple[np.ndarray, np.ndarray]]:  # type: ignore[type-arg]
    most = 2 * drawn.shift
    whole_a = np.concatenate([a, tags(most, seed)])
    whole_b = np.concatenate([b, tags(most, seed + 1)])
    return (whole_a, whole_b), (last(most, len(whole_a)), last(most, len(whole_b)))


def test_equal_tags_are_found_and_nothing_else() -> None:
    a, b = uploads()
    at_a, at_b = equal_tags(a, b)
    assert len(at_a) == 20
    assert (a[at_a] == b[at_b]).all()


def test_no_tags_in_common_make_no_pairs() -> None:
    at_a, at_b = equal_tags(tags(10, 1), tags(12, 2))
    assert len(at_a) == len(at_b) == 0


@pytest.mark.parametrize("half", [0, 8])
def test_tags_that_agree_in_one_half_are_not_equal(half: int) -> None:
    a, b = uploads()
    a[:, half : half + 8] = a[0, half : half + 8]
    b[:, half : half + 8] = a[0, half : half + 8]
    at_a, at_b = equal_tags(a, b)
    assert (a[at_a] == b[at_b]).all()
    assert len(at_a) == 20


def test_a_chance_agreement_in_the_first_half_does_not_hide_a_pair() -> None:
    a, b = uploads()
    a[3, :8] = a[4, :8]
    found = {a[i].tobytes() for i in equal_tags(a, b)[0]}
    assert found == {row.tobytes() for row in a} & {row.tobytes() for row in b}


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("shared", [True, False], ids=["with a partner", "alone"])
def test_a_tag_that_occurs_twice_on_one_side_is_refused(side: int, shared: bool) -> None:
    both = list(uploads())
    at = equal_tags(*both)[side]
    partnered = int(at[0])
    lonely = next(i for i in range(len(both[side])) if i not in at)
    source = partnered if shared else lonely
    both[side] = np.concatenate([both[side], both[side][[source]]])
    with pytest.raises(EngineFailed, match="a tag twice") as refused:
        equal_tags(both[0], both[1])
    assert refused.value.fault is EngineFault.MISMATCH


def test_pairs_are_the_matches_and_distinct_pool_rows() -> None:
    drawn = padding(BOUNDS)
    whole, pool = with_pool(*uploads(), drawn)
    pairs = match(whole, pool, drawn=drawn, randomness=SystemRandomness())
    real = (whole[0][pairs.at_a] == whole[1][pairs.at_b]).all(axis=1)
    assert real.sum() == 20
    assert set(pairs.at_a[~real]) <= set(pool[0])
    assert set(pairs.at_b[~real]) <= set(pool[1])
    assert len(set(pairs.at_a)) == len(set(pairs.at_b)) == len(pairs)


def test_where_the_size_is_hidden_every_row_of_a_has_a_partner() -> None:
    a, b = uploads()
    b = np.concatenate([b, tags(len(a), 9)])
    empty, pool = np.empty(0, dtype=np.uint32), last(len(a), len(b))
    pairs = match((a, b), (empty, pool), drawn=None, randomness=SystemRandomness())
    assert sorted(pairs.at_a) == list(range(len(a)))
    real = (a[pairs.at_a] == b[pairs.at_b]).all(axis=1)
    assert real.sum() == 20
    assert set(pairs.at_b[~real]) <= set(pool)


def test_a_row_marked_as_pool_may_have_no_partner() -> None:
    drawn = padding(BOUNDS)
    whole, pool = with_pool(*uploads(), drawn)
    pool[0][0] = equal_tags(*whole)[0][0]
    with pytest.raises(EngineFailed, match="marked as pool has a partner"):
        match(whole, pool, drawn=drawn, randomness=SystemRandomness())


def test_positions_are_refused_beyond_the_upload_and_twice() -> None:
    require_positions(np.array([4, 0, 2], dtype=np.uint32), 5, what="they")
    with pytest.raises(EngineFailed, match="beyond the upload"):
        require_positions(np.array([4, 5], dtype=np.uint32), 5, what="they")
    with pytest.raises(EngineFailed, match="name a row twice"):
        require_positions(np.array([4, 0, 4], dtype=np.uint32), 5, what="they")


def test_an_upload_has_the_size_that_the_plan_says() -> None:
    shift = padding(BOUNDS).shift
    sizes = upload_sizes((100, 50), BOUNDS, hide_size=False)
    assert sizes.rows == (100 + 4 * shift, 50 + 4 * shift)
    assert sizes.pool == (2 * shift, 2 * shift)
    hidden = upload_sizes((100, 50), BOUNDS, hide_size=True)
    assert hidden.rows == (100 + 2 * shift, 50 + 2 * shift + 100 + 2 * shift)
    assert hidden.pool == (0, 100 + 2 * shift)


def test_an_upload_too_large_for_its_positions_is_refused_before_it_starts() -> None:
    with pytest.raises(EngineFailed, match="split the join") as refused:
        upload_sizes((2**31, 1), BOUNDS, hide_size=False)
    assert refused.value.fault is EngineFault.INPUT


@pytest.mark.parametrize("hide_size", [False, True])
def test_padding_without_end_is_refused_before_its_table_is_made(
    hide_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table for epsilon 10**-8 has 10**9 entries: an engine that began to make it would end."""
    monkeypatch.setattr(hidden_padding, "padding", None)
    endless = PaddingBounds(Fraction(1, 10**8), Fraction(1, 10**9), 1)
    for caps in ((100, 50), (100, 50, 70)):
        with pytest.raises(EngineFailed, match=r"padding\.epsilon") as refused:
            upload_sizes(caps, endless, hide_size=hide_size)
        assert refused.value.fault is EngineFault.INPUT


def test_the_least_padding_that_a_plan_may_name_is_one_that_engines_make() -> None:
    least = PaddingBounds(MIN_PADDING_EPSILON, MIN_PADDING_DELTA, 1)
    for caps in ((100, 50), (100, 50, 70)):
        assert max(upload_sizes(caps, least, hide_size=False).rows) < 2_000_000


def test_the_number_of_pairs_follows_the_padding_and_the_matches_alone() -> None:
    """M + h over 3,000 runs of the helper against the exact distribution: chi-square over the
    values expected at least 5 times; by chance 1 seed in 10**4 would fail."""
    drawn, many = padding(BOUNDS), 3000
    whole, pool = with_pool(*uploads(matched=3, alone=1), drawn)
    random = FixedRandomness(11)
    counts = np.bincount(
        [len(match(whole, pool, drawn=drawn, randomness=random)) - 3 for _ in range(many)],
        minlength=2 * drawn.shift + 1,
    )
    low = (0, *drawn.table[:-1])
    expected = np.array([(b - a) / 2**128 * many for a, b in zip(low, drawn.table, strict=True)])
    common = expected >= 5
    statistic = ((counts - expected)[common] ** 2 / expected[common]).sum()
    freedom = int(common.sum()) - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.719 * (2 / (9 * freedom)) ** 0.5) ** 3


def test_the_place_of_a_match_among_the_pairs_is_uniform() -> None:
    """Where the first of 3 matches stands among 10 pairs, 3,000 runs, chi-square with 9 degrees of
    freedom; by chance 1 seed in 10**4 would fail (33.7)."""
    most = 7
    always = Padding(most, (0,) * most + (2**128,) * (most + 1))  # h is 7
    whole, pool = with_pool(*uploads(matched=3, alone=1), always)
    random, first = FixedRandomness(12), int(equal_tags(*whole)[0][0])
    places = [
        int(np.flatnonzero(match(whole, pool, drawn=always, randomness=random).at_a == first)[0])
        for _ in range(3000)
    ]
    counts = np.bincount(places, minlength=10)
    assert len(counts) == 10
    assert ((counts - 300) ** 2 / 300).sum() < 33.7


def test_every_pool_row_is_as_likely_as_another() -> None:
    """Which of 14 pool rows of A make 7 pool pairs, 2,000 runs. Each is drawn 1,000 times, give or
    take: all within 5.5 deviations; by chance less than 1 seed in 10**6 would fail."""
    most = 7
    always = Padding(most, (0,) * most + (2**128,) * (most + 1))
    whole, pool = with_pool(*uploads(matched=1, alone=1), always)
    random, seen = FixedRandomness(13), np.zeros(len(whole[0]))
    for _ in range(2000):
        seen[match(whole, pool, drawn=always, randomness=random).at_a] += 1
    assert (np.abs(seen[pool[0]] - 1000) < 5.5 * (2000 * 0.25) ** 0.5).all()
