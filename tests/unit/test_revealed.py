from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crypto.errors import Malformed
from crypto.joins.layout import RevealedLayout
from crypto.joins.revealed import (
    NO_GROUP,
    Int64Array,
    SideRows,
    gated_output,
    open_cells,
    side_columns,
)
from crypto.sharing import to_bytes, zero_shares
from tests.fakes.engine import matches
from tests.fakes.two_sides import Sides, two_sides

KEY = bytes(range(32))


def shared(output: Int64Array, key: bytes = KEY) -> tuple[bytes, bytes]:
    mask = zero_shares(key, len(output), sign=1)
    return to_bytes(output.view(np.uint64) + mask), to_bytes(zero_shares(key, len(output), sign=-1))


def output_of(sides: Sides) -> Int64Array:
    at_a, at_b = matches(sides.a, sides.b)
    return gated_output(
        sides.layout,
        side_columns(sides.a, sides.layout.groups_a, at=at_a),
        side_columns(sides.b, sides.layout.groups_b, at=at_b),
    )


@pytest.mark.parametrize(
    "layout",
    [
        RevealedLayout(2, 3, 1, 1, 10),
        RevealedLayout(1, 1, 0, 0, 1),
        RevealedLayout(1, 4, 2, 0, 5),
        RevealedLayout(5, 1, 0, 3, 5),
    ],
    ids=str,
)
def test_the_receiver_reads_what_a_database_with_both_tables_would_say(
    layout: RevealedLayout,
) -> None:
    sides = two_sides(400, layout=layout)
    assert open_cells(layout, *shared(output_of(sides))) == sides.truth


def test_the_awkward_rows_are_there() -> None:
    sides = two_sides(400)
    assert any(cell.count is None for cell in sides.truth)
    assert any(cell.count for cell in sides.truth)
    totals = [m.total for cell in sides.truth for m in cell.measures if m]
    assert min(totals) < 0 < max(totals)
    assert (sides.a.group == NO_GROUP).any()
    assert not sides.a.valid.all()


def test_a_measure_with_too_few_values_is_suppressed_in_a_cell_that_is_shown() -> None:
    sides = two_sides(400, layout=RevealedLayout(1, 1, 1, 0, 200))
    (cell,) = open_cells(sides.layout, *shared(output_of(sides)))
    assert cell.count is not None
    assert cell.measures == (None,)


def test_sides_without_a_common_person_show_nothing_but_suppressed_cells() -> None:
    sides = two_sides(50, overlap=0)
    cells = open_cells(sides.layout, *shared(output_of(sides)))
    assert all(cell.count is None for cell in cells)


def test_what_is_suppressed_is_zero_in_the_output_itself() -> None:
    sides = two_sides(400)
    output = output_of(sides)
    cells, gates = sides.layout.cells, 1 + sides.layout.measures
    ok = output[: gates * cells]
    assert not output[gates * cells : 2 * gates * cells][ok == 0].any()
    assert not output[2 * gates * cells :][ok[cells:] == 0].any()


def test_a_value_that_is_missing_is_not_read_at_all() -> None:
    sides = two_sides(100)
    other = np.where(sides.a.valid, sides.a.values, 2**60)
    again = replace(sides, a=replace(sides.a, values=other))
    assert np.array_equal(output_of(again), output_of(sides))


def test_shares_of_two_runs_are_not_taken_for_an_answer() -> None:
    output = output_of(two_sides(400))
    with pytest.raises(Malformed, match="do not belong to one run"):
        open_cells(two_sides(1).layout, shared(output)[0], shared(output, KEY[::-1])[1])


def test_shares_of_another_layout_are_refused() -> None:
    shares = shared(output_of(two_sides(400)))
    with pytest.raises(Malformed, match="hold 48 values; the plan has 2"):
        open_cells(RevealedLayout(1, 1, 0, 0, 10), *shares)


@pytest.mark.parametrize(
    ("where", "value"),
    [(0, 2), (0, -1), (0, 0), (18, 9), (36, 1)],
    ids=["ok of 2", "ok of -1", "ok withdrawn", "a count below the gate", "a total beside a gate"],
)
def test_an_output_that_no_gate_could_have_made_is_refused(where: int, value: int) -> None:
    sides = two_sides(400, layout=RevealedLayout(2, 3, 1, 1, 10))
    output = output_of(sides)
    if where == 36:
        where += int(np.flatnonzero(output[6:12] == 0)[0])
    output[where] = value
    with pytest.raises(Malformed, match="do not belong to one run"):
        open_cells(sides.layout, *shared(output))


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    rows = two_sides(20).a
    rows.save(tmp_path / "rows.npz")
    again = SideRows.load(tmp_path / "rows.npz")
    for name in ("tokens", "group", "values", "valid"):
        assert np.array_equal(getattr(rows, name), getattr(again, name))


def test_rows_of_another_shape_or_type_are_refused() -> None:
    rows = two_sides(20).a
    with pytest.raises(Malformed, match=r"group: is int64 \(19,\), not int64 \(20,\)"):
        replace(rows, group=rows.group[:-1])
    with pytest.raises(Malformed, match="values: is float64"):
        replace(rows, values=rows.values.astype(np.float64))


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
    with pytest.raises(Malformed, match="values: have 1 measures, the plan 2"):
        rows.require(replace(layout, measures_a=2), 0)


def test_values_whose_sum_could_wrap_are_refused() -> None:
    rows = two_sides(20).a
    every = np.ones_like(rows.valid)
    for value in (2**58, -(2**63)):
        wide = replace(rows, values=np.full_like(rows.values, value), valid=every)
        with pytest.raises(Malformed, match="could add up to 2\\*\\*62"):
            wide.require(two_sides(20).layout, 0)
    fits = np.full_like(rows.values, 2**57)
    replace(rows, values=fits, valid=every).require(two_sides(20).layout, 0)


@pytest.mark.parametrize(
    "numbers", [(0, 1, 0, 0, 1), (1, 0, 0, 0, 1), (1, 1, -1, 0, 1), (1, 1, 0, 0, 0)]
)
def test_a_layout_without_a_group_or_a_gate_cannot_be_written(numbers: tuple[int, ...]) -> None:
    with pytest.raises(Malformed):
        RevealedLayout(*numbers)


def test_a_layout_that_is_no_longer_an_aggregate_is_refused() -> None:
    with pytest.raises(Malformed, match="outputs"):
        RevealedLayout(1000, 1000, 0, 0, 10)


def test_rows_are_not_printed() -> None:
    rows = two_sides(3).a
    assert str(int(rows.values[0, 0])) not in repr(rows)
