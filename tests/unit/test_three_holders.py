"""Three holders on one key: what the layout says of them, and the same sums by a database."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crypto import record
from crypto.errors import Malformed
from crypto.joins.layout import Layout, Term, Third
from crypto.joins.rows import NO_GROUP, SideRows, plain_terms, second_side

# B has a mark and a value in two groups, D a mark and a value in three.
THIRD = Third(2, 3, 3, 3, ((0, 0), (1, 0), (2, 0), (0, 2), (2, 2)))
COUNT = Term(0, 0, 0, False)
LAYOUT = Layout(1, 6, 1, 5, (COUNT, Term(0, 4, 0, False)), (), (), 1, 0, None, 1, THIRD)


def rows(people: list[int], group: list[int], factors: list[list[int]]) -> SideRows:
    tokens = np.zeros((len(people), 16), dtype=np.uint8)
    tokens[:, 0] = people
    held = np.array(factors, dtype=np.int64).reshape(len(people), -1)
    return SideRows(tokens, np.array(group, dtype=np.int64), held)


def test_the_second_side_is_what_both_have_of_the_people_in_both_tables() -> None:
    b = rows([1, 2, 3, 4], [0, 1, 1, NO_GROUP], [[1, 10], [1, 20], [0, 0], [1, 40]])
    d = rows([4, 3, 2, 9], [0, 2, 1, 0], [[1, 4], [1, 3], [1, 2], [1, 1]])
    both = second_side(THIRD, b, d)
    assert both.tokens[:, 0].tolist() == [2, 3, 4]
    assert both.group.tolist() == [1 * 3 + 1, 1 * 3 + 2, NO_GROUP]
    assert both.factors.tolist() == [[1, 20, 2, 40], [0, 0, 3, 0], [1, 40, 4, 160]]
    a = rows([2, 3, 4, 9], [0, 0, 0, 0], [])
    assert plain_terms(LAYOUT, a, both).tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 40, 0]]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"own_groups": 0}, "third.own_groups"),
        ({"third_factors": 2}, "third.factors[3]"),
        ({"factors": ((1, 0), (0, 0))}, "third.factors"),
        ({"factors": ((0, 0), (1, 1), (1, 1))}, "third.factors"),
        ({"factors": ((0, 0), (1, 1, 1))}, "third.factors[1]"),
        ({"factors": ((0, 0), (-1, 0))}, "third.factors[1]"),
    ],
)
def test_products_that_cannot_be_are_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(Malformed) as refused:
        replace(THIRD, **change)  # type: ignore[arg-type]
    assert refused.value.where == field


@pytest.mark.parametrize("name", ["groups_b", "factors_b"])
def test_the_second_side_must_be_what_its_holders_make(name: str) -> None:
    with pytest.raises(Malformed, match=name):
        replace(LAYOUT, **{name: getattr(LAYOUT, name) + 1})


def test_each_holder_must_bring_what_is_its_own() -> None:
    assert [LAYOUT.held(rank) for rank in (0, 1, 3)] == [(1, 1), (2, 3), (3, 3)]
    marked = replace(LAYOUT, terms=(Term(0, 1, 0, False),))
    b, d = rows([1], [1], [[1, 10]]), rows([1], [2], [[7, 10]])
    b.require(marked, 1)
    d.require(marked, 3)  # D's first factor marks nobody here
    with pytest.raises(Malformed, match="group"):
        d.require(marked, 1)
    products = replace(THIRD, factors=((0, 0), (1, 1)))
    both = replace(LAYOUT, factors_b=2, terms=(Term(0, 1, 0, False),), third=products)
    with pytest.raises(Malformed, match="marks people and is not 0 or 1"):
        d.require(both, 3)


def test_a_layout_of_three_is_read_back_as_it_was_written() -> None:
    assert record.from_bytes(Layout, record.to_bytes(LAYOUT)) == LAYOUT
