"""What a join's output says: the specification in the clear, and what the receiver makes of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import Malformed
from crypto.joins.layout import COUNTED, Comparison, Extreme, Layout, Order, Term
from crypto.joins.released import open_cells
from crypto.joins.rows import NO_GROUP, Int64Array, SideRows, plain_output, rounded
from crypto.sharing import to_bytes, zero_shares
from tests.fakes.two_sides import Sides, a_layout, two_sides

KEY = bytes(range(32))
OLDER = Comparison(2, 1, Order.GREATER, 2, 1)
LARGEST = Extreme(0, 2, 1, largest=True, low=-(2**40), high=2**40, people=1)
LEAST = Extreme(1, 2, 1, largest=False, low=-(2**40), high=2**40, people=3)


def shared(output: Int64Array, key: bytes = KEY) -> tuple[bytes, bytes]:
    mask = zero_shares(key, len(output), sign=1)
    return to_bytes(output.view(np.uint64) + mask), to_bytes(zero_shares(key, len(output), sign=-1))


def output_of(sides: Sides) -> Int64Array:
    return plain_output(sides.layout, sides.a, sides.b)


@pytest.mark.parametrize(
    "layout",
    [
        a_layout(),
        a_layout(1, 1, 0, 0, 1),
        a_layout(1, 4, 2, 0, 5),
        a_layout(5, 1, 0, 3, 5),
        a_layout(2, 2, 1, 1, 5, products=True),
        a_layout(3, 1, 1, 0, 5, outer=True),
        a_layout(2, 2, 1, 1, 5, round_counts=5),
        a_layout(2, 2, 1, 1, 5, comparisons=(OLDER,)),
        a_layout(2, 2, 1, 1, 5, extremes=(LARGEST, LEAST)),
        a_layout(2, 2, 1, 1, 5, dominance=Fraction(1, 25)),
        a_layout(4, 1, 1, 0, 5, outer=True, dominance=Fraction(1, 32)),
        a_layout(
            2,
            2,
            1,
            1,
            5,
            products=True,
            comparisons=(OLDER,),
            extremes=(LARGEST,),
            dominance=Fraction(1, 10),
            round_counts=10,
        ),
    ],
    ids=lambda layout: f"{layout.groups_a}x{layout.groups_b}, {len(layout.terms)} terms",
)
def test_the_receiver_reads_what_a_database_with_both_tables_would_say(layout: Layout) -> None:
    sides = two_sides(400, layout=layout, values_up_to=2**25)  # products stay below 2**62
    assert open_cells(layout, shared(output_of(sides))) == sides.truth


def test_the_awkward_rows_are_there() -> None:
    sides = two_sides(400)
    counts = [cell.terms[0] for cell in sides.truth]
    assert None in counts
    assert any(counts)
    totals = [cell.terms[2] for cell in sides.truth if cell.terms[2] is not None]
    assert min(totals) < 0 < max(totals)
    assert (sides.a.group == NO_GROUP).any()
    assert (sides.a.factor(1) == 0).any()


def test_the_dominance_limit_withholds_some_cells_and_not_all() -> None:
    layout = a_layout(2, 2, 1, 1, 5, dominance=Fraction(1, 25))
    shown = [cell.terms[2] is not None for cell in two_sides(400, layout=layout).truth]
    assert True in shown
    assert False in shown


def test_a_sum_that_one_person_dominates_takes_everything_behind_its_gate_along() -> None:
    layout = a_layout(1, 1, 1, 0, 2, dominance=Fraction(1, 2))
    tokens = np.arange(48, dtype=np.uint8).reshape(3, 16)
    none = np.zeros(3, dtype=np.int64)

    def values(*held: int) -> SideRows:
        return SideRows(tokens, none, np.array([[1, v] for v in held], dtype=np.int64))

    b = SideRows(tokens, none, np.zeros((3, 0), dtype=np.int64))
    (even,) = open_cells(layout, shared(plain_output(layout, values(2, -1, 1), b)))
    assert even.terms == (3, 3, 2)
    (uneven,) = open_cells(layout, shared(plain_output(layout, values(-3, 1, 1), b)))
    assert uneven.terms == (3, None, None)


def test_a_measure_with_too_few_values_is_suppressed_in_a_cell_that_is_shown() -> None:
    sides = two_sides(400, layout=a_layout(1, 1, 1, 0, 200))
    (cell,) = open_cells(sides.layout, shared(output_of(sides)))
    assert cell.terms[0] is not None
    assert cell.terms[1:] == (None, None)


def test_sides_without_a_common_person_show_nothing_but_suppressed_cells() -> None:
    sides = two_sides(50, overlap=0)
    cells = open_cells(sides.layout, shared(output_of(sides)))
    assert all(term is None for cell in cells for term in cell.terms)


def test_what_is_suppressed_is_zero_in_the_output_itself() -> None:
    sides = two_sides(400, layout=a_layout(extremes=(LARGEST,)))
    output, layout = output_of(sides), sides.layout
    rows = output.reshape(-1, layout.cells)
    gates = len(layout.gates)
    place = {term: row for row, term in enumerate(layout.gates)}
    assert (rows[:gates] == 0).any()
    for index, term in enumerate(layout.terms):
        assert not rows[gates + index][rows[place[term.people]] == 0].any()
    assert not rows[-1][rows[place[LARGEST.people]] == 0].any()


def test_a_noisy_count_must_reach_the_gate_by_the_slack_and_the_exact_one_the_gate() -> None:
    layout = replace(a_layout(1, 1, 0, 0, 10), slack=3)
    tokens = np.arange(16 * 12, dtype=np.uint8).reshape(12, 16)

    def shown(people: int, noise: int) -> int | None:
        side = SideRows(
            tokens[:people],
            np.zeros(people, dtype=np.int64),
            np.zeros((people, 0), dtype=np.int64),
        )
        noise_of = np.array([[noise]], dtype=np.int64)
        (cell,) = open_cells(layout, shared(plain_output(layout, side, side, noise=noise_of)))
        return cell.terms[0]

    assert shown(10, 3) == 13
    assert shown(10, 2) is None
    assert shown(9, 5) is None
    assert shown(12, 1) == 13


@pytest.mark.parametrize(
    ("count", "multiple", "near"), [(0, 5, 0), (2, 5, 0), (3, 5, 5), (5, 10, 10), (4, 10, 0)]
)
def test_counts_are_rounded_to_the_nearest_multiple_half_upwards(
    count: int, multiple: int, near: int
) -> None:
    assert rounded(np.array([count]), multiple).tolist() == [near]


def test_shares_of_two_runs_are_not_taken_for_an_answer() -> None:
    output = output_of(two_sides(400))
    with pytest.raises(Malformed, match="do not belong to one run"):
        open_cells(two_sides(1).layout, (shared(output)[0], shared(output, KEY[::-1])[1]))


def test_shares_of_another_layout_are_refused() -> None:
    shares = shared(output_of(two_sides(400)))
    with pytest.raises(Malformed, match="hold 48 values; the plan has 2"):
        open_cells(a_layout(1, 1, 0, 0, 10), shares)


def test_the_share_of_a_third_party_is_needed_as_well() -> None:
    sides = two_sides(400)
    a, b = shared(output_of(sides))
    third = to_bytes(zero_shares(KEY[::-1], sides.layout.outputs, sign=1))
    with pytest.raises(Malformed, match="do not belong to one run"):
        open_cells(sides.layout, (a, b, third))


@pytest.mark.parametrize(
    ("where", "value"),
    [(0, 2), (0, -1), (0, 0), (18, 9), ("hidden", 1)],
    ids=["ok of 2", "ok of -1", "ok withdrawn", "a count below the gate", "a value behind a gate"],
)
def test_an_output_that_no_gate_could_have_made_is_refused(where: int | str, value: int) -> None:
    sides = two_sides(400)
    output = output_of(sides)
    if isinstance(where, str):
        where = 18 + int(np.flatnonzero(output[:6] == 0)[0])
    output[where] = value
    with pytest.raises(Malformed, match="do not belong to one run"):
        open_cells(sides.layout, shared(output))


def test_a_count_that_was_not_rounded_is_refused() -> None:
    layout = a_layout(1, 1, 0, 0, 10, round_counts=5)
    sides = two_sides(100, layout=layout)
    output = output_of(sides)
    assert open_cells(layout, shared(output)) == sides.truth
    output[1] += 1
    with pytest.raises(Malformed, match="do not belong to one run"):
        open_cells(layout, shared(output))


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    rows = two_sides(20).a
    rows.place(tmp_path)
    again = SideRows.load(tmp_path)
    for name in ("tokens", "group", "factors"):
        assert np.array_equal(getattr(rows, name), getattr(again, name))


def test_rows_of_another_shape_or_type_are_refused() -> None:
    rows = two_sides(20).a
    with pytest.raises(Malformed, match=r"group: is int64 \(19,\), not int64 \(20,\)"):
        replace(rows, group=rows.group[:-1])
    with pytest.raises(Malformed, match="factors: is float64"):
        replace(rows, factors=rows.factors.astype(np.float64))


def test_rows_that_do_not_fit_the_plan_are_refused_by_field() -> None:
    sides = two_sides(20)
    rows, layout = sides.a, sides.layout
    rows.require(layout, 0)
    with pytest.raises(Malformed, match=r"group: is outside 0\.\.1"):
        replace(rows, group=np.full(20, 2, dtype=np.int64)).require(layout, 0)
    with pytest.raises(Malformed, match="group: is outside"):
        replace(rows, group=np.full(20, -2, dtype=np.int64)).require(layout, 0)
    with pytest.raises(Malformed, match="tokens: are not distinct"):
        replace(rows, tokens=rows.tokens[[0, *range(19)]]).require(layout, 0)
    with pytest.raises(Malformed, match="factors: are 3, the plan has 5"):
        rows.require(a_layout(measures_a=2), 0)
    weights = rows.factors.copy()
    weights[3, 0] = 10
    with pytest.raises(Malformed, match=r"factors\[0\]: marks people and is not 0 or 1"):
        replace(rows, factors=weights).require(layout, 0)


def test_values_whose_sum_could_wrap_are_refused() -> None:
    rows, layout = two_sides(20).a, two_sides(20).layout

    def filled(value: int) -> SideRows:
        factors = np.ones_like(rows.factors)
        factors[:, 1] = value
        return replace(rows, factors=factors)

    for value in (2**58, -(2**63)):
        with pytest.raises(Malformed, match="could add up to"):
            filled(value).require(layout, 0)
    filled(2**57).require(layout, 0)
    with pytest.raises(Malformed, match="could add up to"):
        filled(2**57).require(replace(layout, dominance=Fraction(1, 10)), 0)


def test_rows_are_not_printed() -> None:
    rows = two_sides(3).a
    assert str(int(rows.factors[0, 1])) not in repr(rows)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"groups_a": 0}, "groups_a"),
        ({"min_group": 0}, "min_group"),
        ({"slack": -1}, "slack"),
        ({"round_counts": 0}, "round_counts"),
        ({"dominance": Fraction(0)}, "dominance"),
        ({"dominance": Fraction(3, 2)}, "dominance"),
        ({"terms": ()}, "terms"),
        ({"terms": (Term(COUNTED, 3, 0, False),)}, "factor that does not exist"),
        ({"terms": (Term(COUNTED, COUNTED, 0, False), Term(1, COUNTED, 2, False))}, "people"),
        ({"extremes": (replace(LARGEST, people=2),)}, "people"),
        ({"extremes": (replace(LARGEST, low=2**41),)}, "above high"),
        ({"comparisons": (replace(OLDER, right=7),)}, "factor that does not exist"),
        ({"groups_a": 1000, "groups_b": 1000}, "outputs"),
    ],
    ids=str,
)
def test_a_layout_that_cannot_be_computed_or_gated_cannot_be_written(
    change: dict[str, object], where: str
) -> None:
    with pytest.raises(Malformed, match=where):
        replace(a_layout(), **change)  # type: ignore[arg-type]  # one field at a time
