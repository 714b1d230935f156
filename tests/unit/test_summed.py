from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto import record
from crypto.adapters import curve
from crypto.adapters.curve import CurveMask
from crypto.engine import SumTask, TaskLine
from crypto.errors import EngineFailed, EngineFault, Malformed
from crypto.joins import summed
from crypto.joins.layout import Comparison, Extreme, Layout, Order, Term
from crypto.joins.released import open_cells
from crypto.joins.rows import NO_GROUP, plain_output
from crypto.joins.summable import ValueScheme, scheme_for, summed_factors
from crypto.sharing import recombine
from tests.summing import (
    Fixed,
    Party,
    joined,
    layout,
    parties,
    run_both,
    seat,
    side,
    task,
)

PRIME = 2**255 - 19


# Right answers


@pytest.mark.parametrize("of_a, of_b", [(0, 0), (2, 0), (0, 1), (3, 2)])
def test_the_sum_join_says_what_the_pooled_rows_say(of_a: int, of_b: int) -> None:
    draw = np.random.default_rng(1)
    shape = layout(of_a=of_a, of_b=of_b, min_group=5)
    a = side(range(0, 40), draw.integers(-(2**40), 2**40, (40, of_a)))
    b = side(range(25, 60), draw.integers(-(2**40), 2**40, (35, of_b)))
    pair = joined(parties(shape, a, b))
    assert (recombine([one.share for one in pair]) == plain_output(shape, a, b)).all()
    assert [one.learned for one in pair] == [{"matched": 15}] * 2


def test_the_largest_sums_come_out_exactly() -> None:
    shape, most = layout(of_b=2), 2**62 - 2**30
    a, b = side([1, 2]), side([2, 1], [[most, -most], [0, 0]])
    cell = open_cells(shape, [one.share for one in joined(parties(shape, a, b))])[0]
    assert cell.terms == (2, most, -most)


def test_sides_that_need_several_messages_of_different_number_do_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(summed, "KEYS_PER_MESSAGE", 3)
    shape = layout(of_a=1, of_b=1)
    a, b = side(range(50), np.arange(50)), side([3, 7, 99], [5, 6, 7])
    cell = open_cells(shape, [one.share for one in joined(parties(shape, a, b))])[0]
    assert cell.terms == (2, 10, 11)


def test_a_row_outside_the_group_is_not_counted() -> None:
    shape = layout(of_a=1)
    a = side([1, 2, 3], [10, 20, 30])
    a = replace(a, group=np.array([0, NO_GROUP, 0], dtype=np.int64))
    cell = open_cells(shape, [one.share for one in joined(parties(shape, a, side([1, 2, 3])))])[0]
    assert cell.terms == (2, 40)


def test_a_count_is_rounded_before_it_is_shared() -> None:
    shape = layout(of_a=1, round_counts=5, min_group=5)
    a, b = side(range(8), [1] * 8), side(range(8))
    cell = open_cells(shape, [one.share for one in joined(parties(shape, a, b))])[0]
    assert cell.terms == (10, 8)


def with_marks(*, round_counts: int = 1) -> Layout:
    """COUNT, and AVG of A's factor 2 and of B's factor 2, each behind its mark, factor 1."""
    terms = (
        Term(0, 0, 0, False),
        Term(1, 0, 1, False),
        Term(2, 0, 1, False),
        Term(0, 1, 3, False),
        Term(0, 2, 3, False),
    )
    return layout(of_a=2, of_b=2, terms=terms, round_counts=round_counts, min_group=2)


@pytest.mark.parametrize("round_counts", [1, 2])
def test_where_no_value_is_missing_marks_count_the_people_in_common(round_counts: int) -> None:
    shape = with_marks(round_counts=round_counts)
    a = side(range(5), [[1, 10 * i] for i in range(5)])
    b = side(range(2, 9), [[1, i] for i in range(7)])
    pair = joined(parties(shape, a, b))
    assert (recombine([one.share for one in pair]) == plain_output(shape, a, b)).all()
    assert summed_factors(shape, 0) == summed_factors(shape, 1) == (2,)


def test_a_row_without_a_value_takes_no_part() -> None:
    """How many matched rows lack it could be gated only by showing it to a holder. The rules let no
    other number be asked that would count them."""
    a = side(range(5), [[i != 3, 10 * i] for i in range(5)])
    pair = joined(parties(with_marks(), a, side(range(5), [[1, 1]] * 5)))
    assert pair[0].learned == pair[1].learned == {"matched": 4}
    assert open_cells(with_marks(), [one.share for one in pair])[0].terms == (4, 4, 70, 4, 4)


def test_whether_the_one_selected_person_has_a_value_changes_nothing_that_anybody_hears() -> None:
    """A run that failed without one would answer a question about people that no gate counts."""
    heard = []
    for value in ([1, 250], [0, 0]):
        a, b = side([1], [value]), side(range(5), [[1, 1]] * 5)
        pair = joined(parties(with_marks(), a, b, caps=(9, 9)))
        assert open_cells(with_marks(), [one.share for one in pair])[0].terms == (None,) * 5
        heard.append([one.sizes() for one in pair])
    assert heard[0] == heard[1]


def test_a_row_that_takes_no_part_may_lack_a_value() -> None:
    a = side(range(5), [[i != 3, 10 * i] for i in range(5)])
    a = replace(a, group=np.array([0, 0, 0, NO_GROUP, 0], dtype=np.int64))
    pair = joined(parties(with_marks(), a, side(range(5), [[1, 1]] * 5)))
    assert open_cells(with_marks(), [one.share for one in pair])[0].terms == (4, 4, 70, 4, 4)


# The gate


def test_below_the_least_group_nothing_about_a_value_is_sent_and_nothing_shown() -> None:
    shape = layout(of_a=1, of_b=1, min_group=4)
    pair = joined(parties(shape, side(range(9), [7] * 9), side(range(6, 20), [8] * 14)))
    assert open_cells(shape, [one.share for one in pair])[0].terms == (None, None, None)
    for one in pair:
        assert {label for label, _ in one.received} == {"task", "masked", "doubled", "matched"}
        assert one.learned == {"matched": 3}
        assert one.stages == ["match"]


def test_one_person_more_passes_the_gate() -> None:
    shape = layout(of_a=1, min_group=4)
    pair = joined(parties(shape, side(range(9), [7] * 9), side(range(5, 20))))
    assert open_cells(shape, [one.share for one in pair])[0].terms == (4, 28)


# What a party receives


def test_the_shares_of_a_refusal_do_not_show_it() -> None:
    """One share of a refusal, and one of an answer, are both what the zero shares make of them."""
    shape = layout(min_group=2)
    refused = joined(parties(shape, side([1, 2]), side([2, 3])))
    shown = joined(parties(shape, side([1, 2]), side([1, 2])))
    assert refused[1].share == shown[1].share
    assert 0 not in np.frombuffer(refused[0].share, dtype=np.uint64)


def test_the_share_of_the_one_who_adds_does_not_depend_on_the_values() -> None:
    shape = layout(of_b=1)
    shares = [
        joined(parties(shape, side(range(9)), side(range(9), [value] * 9)))[0].share
        for value in (0, 2**50)
    ]
    assert shares[0] == shares[1]


def test_what_the_owner_opens_is_the_mask_for_any_sum() -> None:
    """With the same mask drawn, sums 0 and 2**50 * 9 differ by exactly that: the mask, uniform
    over 2**118 numbers, is all that the owner sees in the upper 55 bits."""
    shape, opened = layout(of_b=1), []
    for value in (0, 2**50):
        pair = joined(parties(shape, side(range(9)), side(range(9), [value] * 9)))
        opened.append(int.from_bytes(pair[1].messages("sums"), "big"))
    assert opened[1] - opened[0] == 9 * 2**50
    assert opened[0] > 2**100  # false alarm: 2**-18


def test_messages_do_not_depend_on_how_many_rows_a_side_has_or_on_which_match() -> None:
    shape = layout(of_b=1)
    b = side(range(100, 130), np.arange(30))
    first = joined(parties(shape, side(range(95, 105)), b, caps=(64, 40)))
    second = joined(parties(shape, side([*range(50), 129, 117, 103, 101, 100]), b, caps=(64, 40)))
    assert first[0].learned == second[0].learned == {"matched": 5}
    assert [one.sizes() for one in first] == [one.sizes() for one in second]


N, HALF = 400, 200
# Guessing HALF of N rows blindly finds 100, standard deviation 5.01; 35 away has less than 1e-11.
CHANCE = range(65, 136)


def guesses_from_the_returned_order(b: Party, order: list[int]) -> set[int]:
    """B takes the keys that A returned to stand in the order in which B sent them."""
    secret = X25519PrivateKey.from_private_bytes(Fixed(b.randomness.seed).draw(32))  # type: ignore[attr-defined]
    masked = np.frombuffer(b.messages("masked"), dtype=np.uint8).reshape(-1, 32)
    in_a = {point[:16].tobytes() for point in CurveMask(secret).again(masked)}
    returned = b.messages("doubled")
    return {
        person
        for place, person in enumerate(order)
        if returned[16 * place : 16 * place + 16] in in_a
    }


def order_of_b(b: Party) -> list[int]:
    """The people of B in the order B sent them, which B knows."""
    sent = summed._Table.of(b.task, b.rows, _after_mask(b)).tokens
    place = {token.tobytes(): i for i, token in enumerate(b.rows.tokens)}
    return [place[token.tobytes()] for token in sent]


def _after_mask(b: Party) -> Fixed:
    again = Fixed(b.randomness.seed)  # type: ignore[attr-defined]
    again.draw(32)
    return again


def test_the_owner_of_values_cannot_tell_which_of_its_rows_matched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = layout(of_b=1)
    a, b = side(range(HALF, HALF + N)), side(range(N), np.arange(N))
    matched = set(range(HALF, N))

    pair = joined(parties(shape, a, b, caps=(N, N)))
    guessed = guesses_from_the_returned_order(pair[1], order_of_b(pair[1]))
    assert len(guessed) == HALF and len(guessed & matched) in CHANCE

    # The twin returns the keys in the order in which they came.
    monkeypatch.setattr(summed, "_in_order", lambda keys: keys)
    twin = joined(parties(shape, a, b, caps=(N, N)))
    assert guesses_from_the_returned_order(twin[1], order_of_b(twin[1])) == matched


def test_the_one_who_adds_cannot_tell_which_rows_it_added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A knows that B keeps its people in order, and takes the rows to come in that order."""
    shape = layout(of_b=1)
    a, b = side(range(HALF, HALF + N)), side(range(N), np.arange(N))
    picked: list[npt.NDArray[np.bool_]] = []
    match = summed._match

    def remembered(task: SumTask, *rest: object) -> npt.NDArray[np.bool_]:
        found = match(task, *rest)  # type: ignore[arg-type]
        if task.seat.rank == 0:
            picked.append(found)
        return found

    monkeypatch.setattr(summed, "_match", remembered)
    joined(parties(shape, a, b, caps=(N, N)))
    assert picked[0].sum() == HALF
    assert int(picked[0][HALF:].sum()) in CHANCE

    monkeypatch.setattr(summed, "_shuffle", lambda count, randomness: np.arange(count))
    joined(parties(shape, a, b, caps=(N, N)))
    assert set(np.flatnonzero(picked[1])) == set(range(HALF, N))


def test_a_shuffle_puts_every_row_anywhere() -> None:
    """Place of row 0 among 8, 4000 times: chi-square with 7 degrees of freedom above 60 has
    probability 1.5e-10."""
    places = [
        int(np.flatnonzero(summed._shuffle(8, Fixed(b"%d" % i)) == 0)[0]) for i in range(4000)
    ]
    counts = np.bincount(places, minlength=8)
    assert (((counts - 500) ** 2) / 500).sum() < 60


# The nearest forgeries


def test_a_run_of_another_plan_stops_before_a_key_is_sent() -> None:
    a, b = parties(layout(min_group=5), side([1]), side([1]))
    b.task = replace(b.task, layout=layout(min_group=1))
    for one in run_both((a, b)):
        assert one.problem is not None and "same task" in str(one.problem)
        assert [label for label, _ in one.received] == ["task"]


@pytest.mark.parametrize(
    "change",
    [
        {"caps": (9, 10)},
        {"scheme": ValueScheme.PAILLIER},
        {"seat": seat(0, "attempt_2")},
        {"layout": layout(of_a=1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_both_must_have_been_told_the_same(change: dict[str, object]) -> None:
    told = task(0, layout(), (9, 9))
    assert told.common == task(1, layout(), (9, 9)).common
    assert told.common == replace(told, zero_key=b"y" * 32).common
    assert replace(told, **change).common != told.common  # type: ignore[arg-type]


def with_point(change: Callable[[bytes], bytes]) -> Callable[[str, bytes], bytes]:
    return lambda label, data: change(data[:32]) + data[32:] if label == "masked" else data


def spelled(u: int) -> bytes:
    return u.to_bytes(32, "little")


def twisted(point: bytes) -> bytes:
    u = int.from_bytes(point, "little")
    while curve._on_curve(u):
        u += 1
    return spelled(u)


# u-coordinates of points of small order on the curve: 2 and 4, and the two of order 8
# (RFC 7748, section 7, and its list by Bernstein, "Curve25519: new Diffie-Hellman speed records").
ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


@pytest.mark.parametrize(
    "forge, said",
    [
        (with_point(twisted), "not a point"),
        (with_point(lambda _: spelled(0)), "not a point"),
        (with_point(lambda _: spelled(1)), "small order"),
        (with_point(lambda _: spelled(ORDER_8[0])), "small order"),
        (with_point(lambda _: spelled(ORDER_8[1])), "small order"),
        (with_point(lambda p: p[:31] + bytes([p[31] | 128])), "not a point"),
        (with_point(lambda _: spelled(PRIME + 9)), "not a point"),
        (with_point(lambda _: spelled(PRIME)), "not a point"),
        (lambda label, data: data[:-1] if label == "masked" else data, "length"),
        (lambda label, data: data[:-32] if label == "masked" else data, "length"),
        (lambda label, data: data + data[:32] if label == "masked" else data, "length"),
        (lambda label, d: d[:32] + d[:32] + d[64:] if label == "masked" else d, "twice"),
        (lambda label, data: data[:-16] if label == "doubled" else data, "length"),
        (lambda label, d: d[16:32] + d[:16] + d[32:] if label == "doubled" else d, "order"),
        (lambda label, d: d[:16] + d[:16] + d[32:] if label == "doubled" else d, "order"),
        (lambda label, data: bytes(7) + b"\x09" if label == "matched" else data, "count"),
    ],
)
def test_what_this_protocol_cannot_have_sent_is_refused(
    forge: Callable[[str, bytes], bytes], said: str
) -> None:
    pair = parties(layout(of_b=1, min_group=1), side(range(12)), side(range(12), np.arange(12)))
    pair[1].alter = forge
    run_both(pair)
    problem = pair[0].problem
    assert isinstance(problem, EngineFailed) and problem.fault is EngineFault.MISMATCH
    assert said in problem.problem
    assert not pair[0].share
    assert "sums" not in {label for label, _ in pair[1].received}


def test_one_key_in_two_spellings_does_not_count_twice() -> None:
    """P and P + (0, 0), the point of order 2, are u and 1/u: two points with one mask."""
    points = CurveMask.draw(Fixed(b"p")).first(side([1]).tokens)
    shifted = spelled(pow(int.from_bytes(points.tobytes(), "little"), -1, PRIME))
    again = CurveMask.draw(Fixed(b"q")).again(
        np.stack([points[0], np.frombuffer(shifted, dtype=np.uint8)])
    )
    assert (again[0] == again[1]).all()

    pair = parties(layout(of_b=1), side(range(12)), side(range(12), np.arange(12)))
    pair[1].alter = with_second_spelling
    run_both(pair)
    assert "twice" in str(pair[0].problem)


def with_second_spelling(label: str, data: bytes) -> bytes:
    if label != "masked":
        return data
    return data[:32] + spelled(pow(int.from_bytes(data[:32], "little"), -1, PRIME)) + data[64:]


def test_a_returned_key_that_was_changed_is_noticed() -> None:
    """Every row matches, so whichever is exchanged, the two count differently."""
    pair = parties(layout(of_b=1), side(range(12)), side(range(12), np.arange(12)), caps=(12, 12))
    pair[1].alter = lambda label, data: data[:-16] + b"\xff" * 16 if label == "doubled" else data
    for one in run_both(pair):
        assert one.problem is not None and "count different matches" in str(one.problem)
        assert not one.share


def test_more_rows_than_the_cap_are_not_sent() -> None:
    pair = parties(layout(), side(range(5)), side(range(5)), caps=(4, 5))
    run_both(pair)
    assert "cap of 4" in str(pair[0].problem)
    assert not pair[1].received


# What cannot be asked


@pytest.mark.parametrize(
    "shape",
    [
        layout(groups_a=2),
        layout(groups_b=3),
        layout(of_a=1, slack=3),
        layout(terms=(Term(0, 0, 0, False), Term(0, 0, 0, True))),
        layout(of_a=1, of_b=1, terms=(Term(0, 0, 0, False), Term(1, 1, 0, False))),
        layout(round_counts=5, terms=(Term(0, 0, 0, False), Term(0, 0, 0, False))),
        layout(of_a=1, comparisons=(Comparison(0, 0, Order.LESS, 0, 0),)),
        layout(of_a=1, extremes=(Extreme(0, 1, 0, True, 0, 1, 0),)),
        layout(of_a=65),
    ],
)
def test_what_it_cannot_compute_without_telling_more_is_refused(shape: object) -> None:
    with pytest.raises(Malformed):
        task(0, shape, (9, 9))  # type: ignore[arg-type]


@pytest.mark.parametrize("caps", [(0, 9), (9,), (9, 9, 9), (9, 2**24 + 1)])
def test_a_cap_is_given_for_each_holder(caps: tuple[int, int]) -> None:
    with pytest.raises(Malformed, match="caps"):
        task(0, layout(), caps)


def test_a_task_is_read_back_as_it_was_written_and_prints_no_key() -> None:
    told = TaskLine(task(1, layout(of_a=2), (9, 9)))
    assert record.from_bytes(TaskLine, record.to_bytes(told)) == told
    assert "zzz" not in repr(told)


def test_few_rows_go_under_paillier_and_many_are_packed() -> None:
    assert scheme_for((200, 30)) is ValueScheme.PAILLIER
    assert scheme_for((30, 1000)) is ValueScheme.BFV


def test_a_factor_is_sent_once_however_many_terms_sum_it() -> None:
    terms = (Term(0, 0, 0, False), Term(2, 0, 0, False), Term(2, 0, 0, False), Term(0, 1, 0, False))
    shape = layout(of_a=3, of_b=1, terms=terms)
    assert summed_factors(shape, 0) == (2,) and summed_factors(shape, 1) == (1,)
    a, b = side([1, 2], [[1, 5, 1], [1, 6, 1]]), side([2, 1], [10, 20])
    cell = open_cells(shape, [one.share for one in joined(parties(shape, a, b))])[0]
    assert cell.terms == (2, 11, 11, 30)


# Masks


def test_masks_commute_and_are_those_of_rfc_7748() -> None:
    tokens = side(range(20)).tokens
    one, other = CurveMask.draw(Fixed(b"1")), CurveMask.draw(Fixed(b"2"))
    assert (one.again(other.first(tokens)) == other.again(one.first(tokens))).all()
    # RFC 7748, section 5.2, first vector.
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    said = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    mask = CurveMask(X25519PrivateKey.from_private_bytes(scalar))
    assert mask.again(np.frombuffer(point, dtype=np.uint8).reshape(1, 32)).tobytes() == said


def test_no_bit_of_a_key_survives_its_mask() -> None:
    """Twin: a hash taken as it comes. Whether it lies on the curve or on its twist then shows in
    the mask, for every key. 200 keys all on one side by chance: 2**-200."""
    tokens = side(range(200)).tokens
    mask = CurveMask.draw(Fixed(b"m"))
    raw = [token.tobytes() + token.tobytes()[:15] + b"\x00" for token in tokens]
    kinds = [curve._on_curve(int.from_bytes(one, "little")) for one in raw]
    masked = mask._times(raw)
    assert [curve._on_curve(int.from_bytes(p.tobytes(), "little")) for p in masked] == kinds
    assert {True, False} == set(kinds)

    masked = mask.first(tokens)
    assert all(curve._on_curve(int.from_bytes(point.tobytes(), "little")) for point in masked)


def test_a_mask_prints_nothing_of_its_secret() -> None:
    assert repr(CurveMask.draw(Fixed(b"m"))) == "CurveMask()"
