"""Whatever schema, rule, terms and plan: what is allowed uses no column against its rule.

The law is written from the rule's own words, over the plan's JSON, without the checker's code: a
column may occur in a plan only in the role that its rule names, the key in none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from crypto import record
from crypto.canonical import decode
from exchange.query.plan import OPERATORS, Filter, Gate, GroupBy, Measure, Plan
from exchange.query.rules import violations
from registry.errors import DocumentRefused
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, Use
from tests.queries import CLINIC, LAB, a_plan, a_product, grounds, with_side

NAMES = ("key", "c1", "c2", "c3")
ASKED = ("c1", "c2", "c3", "c1", "c2", "c3", "key", "unknown")
ROLES = {"group_by": "group_key", "measures": "aggregate", "filters": "filter"}
PURPOSES = ("research", "planning")


def columns(kinds: tuple[ColumnType, ...], categories: tuple[bool, ...]) -> tuple[Column, ...]:
    return tuple(
        Column(name, kind, name, categories=("x", "y") if shown else None)
        if kind is ColumnType.TEXT
        else Column(name, kind, name, low=0, high=100, categories=("1", "2") if shown else None)
        for name, kind, shown in zip(NAMES, kinds, categories, strict=True)
    )


@st.composite
def products(draw: st.DrawFn) -> DataProduct:
    """Any product that can be listed."""
    kinds = draw(st.tuples(*[st.sampled_from([ColumnType.TEXT, ColumnType.INTEGER])] * 4))
    shown = draw(st.tuples(*[st.booleans()] * 4))
    uses = {
        name: tuple(draw(st.lists(st.sampled_from(Use), min_size=1, unique=True)))
        for name in NAMES
        if draw(st.integers(0, 3))
    }
    uses["key"] = (*[u for u in uses.get("key", ()) if u is not Use.JOIN_KEY], Use.JOIN_KEY)
    described = columns(kinds, shown)
    # A column that may be aggregated must state its range, which a text cannot.
    for column in described:
        if column.low is None and Use.AGGREGATE in uses.get(column.name, ()):
            left = tuple(use for use in uses[column.name] if use is not Use.AGGREGATE)
            uses = {k: v for k, v in uses.items() if k != column.name or left}
            if left:
                uses[column.name] = left
    rule = AnalysisRule(
        uses=uses,
        functions=tuple(draw(st.lists(st.sampled_from(Function), min_size=1, unique=True))),
        joins=(Join.REVEALED,),
        min_group=draw(st.integers(2, 4)),
        purposes=tuple(draw(st.lists(st.sampled_from(PURPOSES), min_size=1, unique=True))),
    )
    return a_product(CLINIC, columns=described, key="key", rule=rule)


@st.composite
def groups(draw: st.DrawFn) -> GroupBy:
    name = draw(st.sampled_from(ASKED))
    if draw(st.booleans()):
        return GroupBy(name, cuts=tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1)))))
    return GroupBy(name, categories=tuple(draw(st.sets(st.sampled_from("xyz"), min_size=1))))


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    name = draw(st.sampled_from(ASKED))
    if draw(st.booleans()):
        return Filter(name, draw(st.sampled_from(("=", "!="))), text="x")
    return Filter(name, draw(st.sampled_from(OPERATORS)), number=1)


measures = st.builds(
    Measure,
    st.sampled_from(ASKED),
    st.sampled_from((Function.SUM, Function.MEAN)),
)


@st.composite
def judged(draw: st.DrawFn) -> tuple[DataProduct, Any, Plan]:
    """A product, what it is judged by, and any plan over it that can be written down."""
    product = draw(products())
    both = grounds(
        product,
        a_product(LAB),
        min_group=draw(st.integers(2, 4)),
        purposes=tuple(draw(st.lists(st.sampled_from(PURPOSES), min_size=1, unique=True))),
    )
    # The other side agrees to everything that is asked of it, so that the first one decides.
    generous = replace(both[1].agreement.terms, purposes=PURPOSES, min_group=2)
    second = replace(both[1], agreement=replace(both[1].agreement, terms=generous))
    rule = replace(second.product.rule, min_group=2)
    second = replace(second, product=replace(second.product, rule=rule))
    plan = a_plan((both[0], second), purpose=draw(st.sampled_from(PURPOSES)))
    plan = replace(plan, gate=Gate(draw(st.sampled_from((2, 3, 4, 9, 9, 9)))))
    plan = with_side(
        plan,
        0,
        group_by=tuple(draw(st.lists(groups(), max_size=2))),
        measures=tuple(draw(st.lists(measures, max_size=2))),
        filters=tuple(draw(st.lists(filters(), max_size=1))),
    )
    return product, (both[0], second), with_side(plan, 1, product=both[1].agreement.terms.product)


@settings(max_examples=300)
@given(judged())
def test_what_is_allowed_uses_no_column_against_its_rule(
    case: tuple[DataProduct, Any, Plan],
) -> None:
    product, both, plan = case
    allowed = violations(plan, both) == ()
    event(f"allowed: {allowed}")
    if not allowed:
        return
    asked: Any = decode(record.to_bytes(plan))
    listed: Any = decode(record.to_bytes(product))
    rule = listed["rule"]
    described = {column["name"]: column for column in listed["columns"]}
    side = asked["sides"][0]
    for part, role in ROLES.items():
        for used in side[part]:
            name = used["column"]
            assert name != listed["key"]
            assert role in rule["uses"][name]
            if part == "measures":
                assert used["function"] in rule["functions"]
                assert described[name]["type"] != "text"
            if part == "group_by" and used.get("categories") is not None:
                assert set(used["categories"]) <= set(described[name]["categories"])
            if part == "group_by" and used.get("cuts") is not None:
                assert described[name]["type"] != "text"
            if part == "filters":
                assert (described[name]["type"] == "text") == (used.get("text") is not None)
    assert "count" in rule["functions"]
    assert asked["purpose"] in rule["purposes"]
    assert asked["purpose"] in both[0].agreement.terms.purposes
    assert asked["gate"]["min_group"] >= rule["min_group"]
    assert asked["gate"]["min_group"] >= both[0].agreement.terms.min_group


@given(judged(), st.data())
def test_what_one_party_allows_never_relaxes_anothers_rule(
    case: tuple[DataProduct, Any, Plan], data: st.DataObject
) -> None:
    """Taking any use, function or purpose away from a rule allows no plan that was refused."""
    product, both, plan = case
    before = violations(plan, both)
    rule = product.rule
    name = data.draw(st.sampled_from(sorted(rule.uses)))
    fewer = {column: uses for column, uses in rule.uses.items() if column != name}
    try:
        stricter = replace(product, rule=replace(rule, uses=fewer))
    except DocumentRefused:
        return  # a product without its join key cannot be listed
    after = violations(plan, (replace(both[0], product=stricter), both[1]))
    assert {v.clause for v in before} - {f"rule.uses.{name}"} <= {v.clause for v in after} | {
        "rule.functions",  # the column is refused before its function is looked at
        "product.columns",
    }
    assert len(after) >= 1 or not before
