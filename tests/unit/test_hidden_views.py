"""What each party of a hidden join sees, compared: databases that differ only in what it must not
see give it the same messages, by size exactly, by content in distribution.

Bytes are compared with the uniform distribution by chi-square with 255 degrees of freedom against
`UNIFORM`, its 1 - 10**-6 quantile; the random keys differ from run to run, so every such test fails
by chance once in 10**6.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from crypto.engine import HiddenTask, PaddingBounds
from crypto.joins.hidden import protocol, resharing
from crypto.joins.hidden.columns import column_plan
from crypto.joins.hidden.keys import Stream, agreed_tags, mask_label, pair_pads, tag_keys
from crypto.joins.hidden.matching import match
from crypto.joins.hidden.padding import Padding, Sizes, padding, upload_sizes
from crypto.joins.hidden.upload import Upload
from crypto.joins.layout import Layout
from crypto.joins.rows import NO_GROUP, Int64Array, SideRows
from tests.fakes.three_parties import (
    SMALL,
    FixedRandomness,
    Message,
    Outcome,
    run_three,
    tasks_of,
)
from tests.fakes.two_sides import a_layout

A, B, C = 0, 1, 2
CAPS = (60, 60)
UNIFORM = 377.0
LAYOUT = a_layout(2, 2, 1, 1, min_group=1)
# Draws of the padding are fixed here, so that two runs differ in nothing but their rows.
ALWAYS = Padding(3, (0,) * 3 + (2**128,) * 4)


def people(numbers: Sequence[int]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    random = np.random.default_rng(1)
    return random.integers(0, 256, (1000, 16), dtype=np.uint8)[list(numbers)]


def rows_of(
    numbers: Sequence[int], *, group: int = 0, mark: int = 1, value: int = 7, groups: int = 2
) -> SideRows:
    many = len(numbers)
    factors = np.tile(np.array([[mark, value]], dtype=np.int64), (many, 1))
    return SideRows(people(numbers), np.full(many, group % groups, dtype=np.int64), factors)


def transcript(messages: Sequence[Message]) -> list[tuple[int, int, str, int]]:
    """Who sent how much under which label, in each sender's own order."""
    return sorted(
        ((m.of, m.to, m.label, len(m.payload)) for m in messages), key=lambda one: one[:2]
    )


def chi_square(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def all_of(messages: Sequence[Message], *labels: str) -> bytes:
    return b"".join(m.payload for m in messages if m.label in labels)


def ran(a: SideRows, b: SideRows, *, layout: Layout = LAYOUT, **how: object) -> Outcome:
    outcome = run_three(tasks_of(layout, caps=CAPS, **how), a, b)  # type: ignore[arg-type]
    outcome.require()
    return outcome


@pytest.fixture
def fixed_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "padding", lambda bounds: ALWAYS)


# --- sizes ---------------------------------------------------------------------------------------

EVERYBODY = range(50)
UNLIKE = {
    "other values": rows_of(EVERYBODY, value=-(2**40)),
    "missing values": rows_of(EVERYBODY, mark=0, value=0),
    "another group": rows_of(EVERYBODY, group=1),
    "another order": rows_of(list(reversed(EVERYBODY))),
    "other rows that match": rows_of([*range(25, 50), *range(100, 125)]),
}


@pytest.mark.usefixtures("fixed_padding")
@pytest.mark.parametrize("what", UNLIKE)
def test_no_message_has_another_size_because_rows_differ_where_the_count_is_the_same(
    what: str,
) -> None:
    """As many rows match; which, and what is in them, differs. Nothing that anybody gets does."""
    half = rows_of(range(25))
    given = transcript(ran(half, rows_of(EVERYBODY)).messages)
    changed = UNLIKE[what]
    overlap = rows_of(range(25, 50)) if what == "other rows that match" else half
    assert transcript(ran(overlap, changed).messages) == given


@pytest.mark.usefixtures("fixed_padding")
def test_an_upload_has_the_same_size_whatever_the_filters_left() -> None:
    """Nobody, one row, rows in no group, a full cap: the helper gets as many tags, marks and
    words; only the number of pairs may tell, and here nobody matches."""
    b = rows_of(range(100, 110))
    some = SideRows(people(range(5)), np.full(5, NO_GROUP, dtype=np.int64), np.zeros((5, 2), int))
    sizes = {
        str(transcript(ran(a, b).messages))
        for a in (rows_of([]), rows_of([1]), some, rows_of(range(60)))
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("overlap", [0, 20, 50])
def test_where_the_size_is_hidden_not_even_the_number_of_matches_changes_a_message(
    overlap: int,
) -> None:
    expected = transcript(ran(rows_of(range(50)), rows_of(range(50)), hide_size=True).messages)
    b = rows_of(range(50 - overlap, 100 - overlap))
    assert transcript(ran(rows_of(range(50)), b, hide_size=True).messages) == expected


# --- contents ------------------------------------------------------------------------------------


def test_nothing_arrives_at_a_holder_about_its_own_columns() -> None:
    """Where B brings no columns to a product, nobody re-shares anything with A; and the reverse."""
    of_a = a_layout(2, 1, 1, 0, min_group=1)  # B's rows only have to be there
    rows_b = SideRows(people(range(50)), np.zeros(50, dtype=np.int64), np.zeros((50, 0), int))
    outcome = ran(rows_of(range(50)), rows_b, layout=of_a)
    assert not [m for m in outcome.messages if m.label == "reshare"]
    products = ran(rows_of(range(50)), rows_of(range(50)))
    for owner, other in ((A, B), (B, A)):
        # What a holder gets re-shared comes from the helper and is of the other's columns.
        shared = column_plan(LAYOUT, hide_size=False).columns[other]
        got = products.received(owner, "reshare")
        assert {m.of for m in got} == {C}
        assert len(got) == len(shared)


def test_a_holder_hears_only_what_the_specification_lists() -> None:
    outcome = ran(rows_of(range(50)), rows_of(range(50)))
    common = {"header", "pairs", "positions", "listed", "check commitment", "check", "reshare"}
    common |= {"reshared", "replicate", "seed", "canary"}
    assert {m.label for m in outcome.received(A)} == common
    assert {m.label for m in outcome.received(B)} == common
    assert {m.label for m in outcome.received(C)} == {
        *("header", "tags", "pool", "column", "coefficients", "check commitment", "check"),
        *("reshare", "reshared", "replicate"),
    }


@pytest.mark.parametrize("value", [0, 2**40], ids=["zeros", "large values"])
def test_what_the_helper_receives_looks_random_whatever_the_rows_hold(value: int) -> None:
    rows = rows_of(range(60), value=value)
    received = ran(rows, rows).received(C)
    for label in ("tags", "column", "reshare"):
        # Of one sender: equal tags of both are what the helper is there to see.
        from_a = [message for message in received if message.of == A]
        assert chi_square(all_of(from_a, label)) < UNIFORM, label


def test_tags_of_the_same_keys_have_nothing_in_common_in_another_attempt() -> None:
    """The rows' own tags are made by the node, under the attempt's key; the others by the run."""
    rows = rows_of(range(50))
    seen: set[bytes] = set()
    for _ in range(3):
        data = all_of(ran(rows_of([]), rows).received(C), "tags")
        random = {data[i : i + 16] for i in range(0, len(data), 16)}
        random -= {tag.tobytes() for tag in rows.tokens}
        assert not seen & random
        seen |= random


@pytest.mark.parametrize("value", [0, 2**40], ids=["zeros", "large values"])
def test_what_a_holder_receives_of_the_others_columns_looks_random(value: int) -> None:
    received = b""
    for _ in range(4):
        outcome = ran(rows_of(range(60)), rows_of(range(60), value=value))
        received += all_of(outcome.received(A), "reshare", "replicate")
    assert len(received) > 5000
    assert chi_square(received) < UNIFORM


def test_each_of_the_receivers_three_numbers_looks_random_and_only_their_sum_does_not() -> None:
    """A share leaves each party for the receiver, who reads all three; any two say nothing."""
    layout = a_layout(20, 20, 1, 1, min_group=1)
    shares: list[bytes] = [b"", b"", b""]
    for _ in range(2):
        outcome = ran(rows_of(range(60)), rows_of(range(60)), layout=layout)
        for rank in range(3):
            shares[rank] += outcome.results[rank].share
    words = [np.frombuffer(one, np.uint64) for one in shares]
    for part in (*words, words[0] + words[1], words[1] + words[2], words[2] + words[0]):
        assert chi_square(part.tobytes()) < UNIFORM
    assert chi_square((words[0] + words[1] + words[2]).tobytes()) > 100 * UNIFORM


# --- which rows: the owner knows the seed of its own upload --------------------------------------


def linked(
    task: HiddenTask, seed: bytes, side: int, size: int, words: bytes
) -> dict[int, list[int]]:
    """What the owner of an upload can do with what it reads: look every word up among the shares
    that it gave away itself. Answer: per column, the rows found, in the order of the words."""
    read = np.frombuffer(words[: len(words) // 8 * 8], np.uint64)
    found = {}
    for label in range(1 + len(column_plan(task.layout, hide_size=False).columns[side])):
        own = {int(word): row for row, word in enumerate(Stream(seed, label).words(size))}
        rows = [own[int(word)] for word in read if int(word) in own]
        if rows:
            found[label] = rows
    return found


def test_the_owner_links_no_pair_and_in_the_twin_that_sends_it_one_raw_share_links_every_one() -> (
    None
):
    """The twin: A gets b, B's share of A's first column at the matched rows, without its mask.

    Nothing has to be patched for it: A knows the mask x2, so the twin is what A would read if it
    could read what B sends C. That is why it must not.
    """
    task, _, _ = tasks = tasks_of(LAYOUT, caps=CAPS)
    outcome = run_three(tasks, rows_of(range(50)), rows_of(range(20, 60)))
    outcome.require()
    seed = outcome.between(A, B, "seed")[0]
    size = upload_sizes(CAPS, SMALL, hide_size=False).rows[A]

    for message in outcome.received(A):
        if message.label != "seed":
            assert not linked(task, seed, A, size, message.payload)

    hidden = np.frombuffer(outcome.between(B, C, "reshare")[0], np.uint64)
    assert not linked(task, seed, A, size, hidden.tobytes())
    # B's columns stay and are re-shared first; A's come one by one, label 1 first or later.
    for label in range(1, 1 + len(column_plan(LAYOUT, hide_size=False).columns[A])):
        mask = pair_pads(task.seat, B).masks.stream(mask_label(A, label)).words(len(hidden))
        found = linked(task, seed, A, size, (hidden + mask).tobytes())
        if found:
            break
    told_to_b = np.frombuffer(outcome.between(C, B, "positions")[0], np.uint32)
    assert found == {label: list(told_to_b)}


def test_the_owner_recognises_an_output_share_that_is_not_made_fresh() -> None:
    """Without zero shares B's part of a count would be a sum of words that A knows, which lets A
    test a guess of who matched; with them the same guess, although right, looks wrong."""
    layout = a_layout(1, 1, 0, 0, min_group=1)
    empty = np.zeros((50, 0), dtype=np.int64)
    a = SideRows(people(range(50)), np.zeros(50, dtype=np.int64), empty)
    outcome = run_three(tasks_of(layout, caps=CAPS), a, a)
    outcome.require()
    seed = outcome.between(A, B, "seed")[0]
    size = upload_sizes(CAPS, SMALL, hide_size=False).rows[A]
    own = Stream(seed, 1).words(size)
    at = np.frombuffer(outcome.between(C, B, "positions")[0], np.uint32)
    guess = own[at].sum(dtype=np.uint64)
    unmasked = Stream(seed, 1).words(size)[at].sum(dtype=np.uint64)  # what B summed up
    assert guess == unmasked
    for of, to in ((B, C), (C, A), (A, B)):
        sent = np.frombuffer(outcome.between(of, to, "replicate")[0], np.uint64)
        assert guess not in sent


def test_messages_of_another_run_with_the_same_rows_are_all_new() -> None:
    """Fresh draws in each attempt: not one word of a column, mask or share comes twice."""
    rows = rows_of(range(50))
    one, other = ran(rows, rows), ran(rows, rows)
    for label in ("column", "reshare", "replicate", "check"):
        words = [
            set(np.frombuffer(all_of(run.messages, label), np.uint64).tolist())
            for run in (one, other)
        ]
        assert not words[0] & words[1]


# --- positions -----------------------------------------------------------------------------------


def listed(a: SideRows, b: SideRows, random: FixedRandomness) -> Int64Array:
    """What A is told: positions in B's upload. The helper's and both holders' steps, no links."""
    sizes = Sizes((8 + 4 * 3, 8 + 4 * 3), (6, 6))
    uploads = []
    for side, rows in enumerate((a, b)):
        upload = Upload(
            rows,
            size=sizes.rows[side],
            pool=sizes.pool[side],
            agreed=agreed_tags(tag_keys(bytes(32)), 3),
            canaries=3,
            keys=tag_keys(bytes(32)),
            check_agreed=True,
            randomness=random,
        )
        ((_, tags, marked),) = list(upload._tagged())
        uploads.append((tags, np.flatnonzero(marked).astype(np.uint32)))
    (tags_a, pool_a), (tags_b, pool_b) = uploads
    pairs = match((tags_a, tags_b), (pool_a, pool_b), drawn=ALWAYS, randomness=random)
    return pairs.at_b.astype(np.int64)


@pytest.mark.parametrize("matched", [range(4), range(4, 8)], ids=["the first", "the last"])
def test_a_holders_list_is_a_uniform_ordered_sample_whichever_rows_match(
    matched: Sequence[int],
) -> None:
    """4 matches, 3 agreed and 3 pool rows among B's 20, over 2,500 runs: every position stands
    first equally often, and every position is named equally often. Chi-square with 19 degrees of
    freedom; by chance 1 seed in 10**4 fails either (50.8). Named positions of one run exclude each
    other, which only makes the second statistic smaller."""
    a, b = rows_of(list(matched)), rows_of(range(8))
    random = FixedRandomness(5)
    first, named = np.zeros(20), np.zeros(20)
    runs = 2500
    for _ in range(runs):
        at = listed(a, b, random)
        assert len(at) == 10 == len(set(at))
        first[at[0]] += 1
        named[at] += 1
    assert ((first - runs / 20) ** 2 / (runs / 20)).sum() < 50.8
    assert ((named - runs / 2) ** 2 / (runs / 2)).sum() < 50.8


# --- counts --------------------------------------------------------------------------------------


def test_the_holders_count_is_matches_agreed_and_drawn_rows_and_differs_from_the_helpers() -> None:
    """a and h are both in the holders' number; the helper's own lacks h. Over 60 runs both vary."""
    drawn = padding(SMALL)
    told, agreed = [], []
    for _ in range(60):
        tasks = tasks_of(a_layout(1, 1, 1, 1, min_group=1), caps=(12, 12))
        outcome = run_three(tasks, rows_of(range(10), groups=1), rows_of(range(10), groups=1))
        outcome.require()
        told.append(outcome.results[A].learned["pairs"])
        words = pair_pads(tasks[A].seat, B).agreed.stream(0).words(2).tobytes()
        agreed.append(drawn.draw(words))
    helper = np.array(told) - 10 - np.array(agreed)
    assert helper.min() >= 0
    assert helper.max() <= 2 * drawn.shift
    assert len(set(helper)) > 1
    assert len(set(agreed)) > 1


def test_agreed_rows_are_the_same_on_both_sides_and_different_in_every_attempt() -> None:
    counts = set()
    for _ in range(40):
        tasks = tasks_of(LAYOUT, caps=CAPS)
        words = [
            pair_pads(tasks[rank].seat, 1 - rank).agreed.stream(0).words(2).tobytes()
            for rank in (A, B)
        ]
        assert words[0] == words[1]
        bounds = PaddingBounds(Fraction(1, 10), Fraction(1, 10**9), 1)
        counts.add(padding(bounds).draw(words[0]))
    assert len(counts) > 10


def test_an_unmasked_re_sharing_would_show_the_helper_plain_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The twin whose holders send their shares as they are: the helper adds its own and reads every
    matched value. In the protocol the same sum is noise."""
    rows_a, rows_b = rows_of(range(50), value=123_456_789), rows_of(range(50), value=987_654_321)

    def read_by_helper(outcome: Outcome) -> set[int]:
        """C's share plus what A sends C, for each column of B."""
        index = range(len(column_plan(LAYOUT, hide_size=False).columns[B]))
        at = np.frombuffer(outcome.between(C, A, "positions")[0], np.uint32)
        columns = [np.frombuffer(one, np.uint64) for one in outcome.between(B, C, "column")][2:]
        sent = [np.frombuffer(one, np.uint64) for one in outcome.between(A, C, "reshare")]
        return {int(v) for i in index for v in (columns[i][at] + sent[i])}

    assert 987_654_321 not in read_by_helper(ran(rows_a, rows_b))

    class Unmasked(Stream):
        def __init__(self) -> None:
            super().__init__(os.urandom(16), 0)

        def words(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
            return np.zeros(count, dtype=np.uint64)

    monkeypatch.setattr(resharing.Resharing, "_mask", lambda *_: Unmasked())
    twin = run_three(tasks_of(LAYOUT, caps=CAPS), rows_a, rows_b)
    assert 987_654_321 in read_by_helper(twin)
