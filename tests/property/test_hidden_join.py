"""Three parties together say what a database with both tables would say, for any layout."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.joins.hidden import messages
from crypto.joins.layout import Comparison, Extreme, Layout, Order, Term, Third
from crypto.joins.rows import Int64Array, SideRows, plain_output, second_side
from tests.fakes.three_parties import run_three, tasks_of

FACTORS = 3  # COUNTED, a 0/1 mark, a value


@st.composite
def thirds(draw: st.DrawFn) -> Third:
    """B's and D's factors, and any products of them; those of marks are marks and come first."""
    own, other = draw(st.integers(1, FACTORS)), draw(st.integers(1, FACTORS))
    pairs = [(f, g) for f in range(own) for g in range(other)][1:]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=4)) if pairs else []
    chosen.sort(key=lambda pair: max(pair) > 1)
    groups = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (1, 3)]))
    return Third(*groups, own, other, ((0, 0), *chosen))


@st.composite
def layouts(draw: st.DrawFn, third: Third | None = None) -> Layout:
    groups_a = draw(st.integers(1, 3))
    factors_a = draw(st.integers(1, FACTORS))
    if third is None:
        groups_b, factors = draw(st.integers(1, 3)), (factors_a, draw(st.integers(1, FACTORS)))
        marks = [range(min(2, held)) for held in factors]
    else:
        groups_b = third.own_groups * third.groups
        factors = (factors_a, len(third.factors))
        marks_of_b = sum(max(pair) < 2 for pair in third.factors)
        marks = [range(min(2, factors_a)), range(marks_of_b)]
    terms = [Term(draw(st.sampled_from(marks[0])), draw(st.sampled_from(marks[1])), 0, False)]
    for _ in range(draw(st.integers(0, 4))):
        left = draw(st.integers(0, factors[0] - 1))
        outer = groups_b == 1 and draw(st.booleans())
        right = 0 if outer else draw(st.integers(0, factors[1] - 1))
        gates = [index for index, term in enumerate(terms) if term.people == index]
        counts = left in marks[0] and right in marks[1] and draw(st.booleans())
        terms.append(
            Term(left, right, len(terms) if counts else draw(st.sampled_from(gates)), outer)
        )
    gates = [index for index, term in enumerate(terms) if term.people == index]
    comparisons = tuple(
        Comparison(
            draw(st.integers(0, factors[0] - 1)),
            draw(st.sampled_from(marks[0])),
            draw(st.sampled_from(Order)),
            draw(st.integers(0, factors[1] - 1)),
            draw(st.sampled_from(marks[1])),
        )
        for _ in range(draw(st.integers(0, 2)) if draw(st.booleans()) else 0)
    )
    extremes = tuple(
        Extreme(
            side,
            draw(st.integers(0, factors[side] - 1)),
            draw(st.sampled_from(marks[side])),
            draw(st.booleans()),
            -(10**6),
            10**6,
            draw(st.sampled_from(gates)),
        )
        for side in draw(st.lists(st.integers(0, 1), max_size=2))
    )
    # What A's own totals may show of one person is tested beside the opening.
    limited = not any(term.outer for term in terms) and draw(st.booleans())
    return Layout(
        groups_a,
        groups_b,
        *factors,
        tuple(terms),
        comparisons,
        extremes,
        draw(st.integers(1, 4)),
        0,
        draw(st.sampled_from([Fraction(1, 3), Fraction(1)])) if limited else None,
        draw(st.sampled_from([1, 3])),
        third,
    )


def a_side(groups: int, factors: int, people: Int64Array, random: np.random.Generator) -> SideRows:
    tokens = np.zeros((len(people), 16), dtype=np.uint8)
    tokens[:, :8] = people.reshape(-1, 1).view(np.uint8)
    tokens[:, 8:] = 77
    columns = np.stack(
        [random.integers(0, 2, len(people)), random.integers(-1000, 1001, len(people))], axis=1
    )
    return SideRows(
        tokens,
        random.integers(-1, groups, len(people)),
        np.ascontiguousarray(columns[:, : factors - 1]),
    )


@given(
    layout=layouts(),
    seed=st.integers(0, 2**32 - 1),
    size_a=st.integers(0, 30),
    size_b=st.integers(0, 30),
    hide_size=st.booleans(),
    block=st.sampled_from([5, 2**18]),
)
@settings(max_examples=120, deadline=None)
def test_the_output_is_the_one_of_both_tables_together(
    layout: Layout, seed: int, size_a: int, size_b: int, hide_size: bool, block: int
) -> None:
    random = np.random.default_rng(seed)
    a = a_side(layout.groups_a, layout.factors_a, random.permutation(40)[:size_a], random)
    b = a_side(layout.groups_b, layout.factors_b, random.permutation(40)[:size_b], random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "BLOCK", block)
        outcome = run_three(tasks_of(layout, caps=(30, 30), hide_size=hide_size), a, b)
    assert np.array_equal(outcome.output, plain_output(layout, a, b))


@given(
    layout=thirds().flatmap(layouts),
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(*[st.integers(0, 30)] * 3),
    block=st.sampled_from([5, 2**18]),
)
@settings(max_examples=120, deadline=None)
def test_of_three_holders_the_output_is_the_one_of_all_tables_together(
    layout: Layout, seed: int, sizes: tuple[int, int, int], block: int
) -> None:
    random = np.random.default_rng(seed)
    third = layout.third
    assert third is not None
    a, b, d = (
        a_side(*layout.held(rank), random.permutation(35)[:size], random)
        for rank, size in zip((0, 1, 3), sizes, strict=True)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "BLOCK", block)
        outcome = run_three(tasks_of(layout, caps=(30, 30, 30)), a, b, d)
    assert np.array_equal(outcome.output, plain_output(layout, a, second_side(third, b, d)))
