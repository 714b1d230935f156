"""Whatever schema, rule, terms and plan: what is allowed uses no column against its rule.

The law is written from the rule's own words, over the plan's JSON and without the checker's code:
it walks the whole document and says of every column that is read anywhere which use that is. The
second law is that a rule made stricter never allows what it refused before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeVar

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from crypto import record
from crypto.canonical import decode
from crypto.joins.layout import Order
from exchange.errors import QuestionRefused
from exchange.query.exact import ASK_WITH_NOISE
from exchange.query.plan import (
    Argument,
    CrossCondition,
    Gate,
    GroupBy,
    HelperSeat,
    Plan,
    Statistic,
)
from exchange.query.rules import Ground, violations
from exchange.terms.agreement import Partner
from registry.errors import DocumentRefused
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Either,
    Expression,
    Not,
    Number,
    OneOf,
    Operation,
    Present,
    Text,
    When,
)
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, ColumnLimit, Function, Join, Use
from tests.queries import (
    CLINIC,
    DOCUMENTS,
    HELPER,
    LAB,
    PHARMACY,
    PRIVACY,
    STRANGER,
    a_hidden_plan,
    a_plan,
    a_product,
    a_side,
    an_agreement,
    an_open_rule,
    compiled,
    the_terms,
    with_query,
    with_side,
)

P = TypeVar("P")

NAMES = ("key", "c1", "c2", "c3", "c4")
# Mostly columns of the product, and mostly the ones that rules are generous with.
ASKED = ("c1",) * 25 + ("c2",) * 25 + ("c3", "c4", "key", "unknown")
TEXTS = ("c4",) * 30 + ("c1", "key")
PURPOSES = ("research", "planning")
JOINS = (Join.HIDDEN, Join.REVEALED)
CHECKED = (Use.GROUP_KEY, Use.AGGREGATE, Use.FILTER, Use.COMPARE)
FUNCTIONS = (
    Function.COUNT,
    Function.SUM,
    Function.MEAN,
    Function.MIN,
    Function.CORRELATION,
    Function.VARIANCE,
    Function.COVARIANCE,
)


def _but(values: tuple[Use, ...], gone: Use) -> tuple[Use, ...]:
    return tuple(value for value in values if value is not gone)


def seldom(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Mostly the generous thing, so that many plans are allowed."""
    return st.sampled_from([usual] * 29 + [*others])


def seen_in(many: int, part: st.SearchStrategy[P]) -> st.SearchStrategy[tuple[P, ...]]:
    """The part in one of so many plans. A plan with every part breaks some clause nearly always,
    and then nobody sees what the checker thinks of the others."""
    return st.integers(1, many).flatmap(
        lambda number: st.tuples(part) if number == 1 else st.just(())
    )


# Schemas and rules


@st.composite
def rules(draw: st.DrawFn, described: tuple[Column, ...]) -> AnalysisRule:
    """Any rule that a product of these columns can have, generous more often than not."""
    uses: dict[str, tuple[Use, ...]] = {"key": (Use.JOIN_KEY,)}
    every = tuple(Use)
    for column in described[1:]:
        found = draw(st.one_of(*[st.just(every)] * 3, st.lists(st.sampled_from(every), max_size=3)))
        kept = [use for use in dict.fromkeys(found) if use is not Use.AGGREGATE or column.low == 0]
        if kept:
            uses[column.name] = tuple(kept)
    limits = {
        name: ColumnLimit(
            functions=draw(st.none() | st.lists(st.sampled_from(FUNCTIONS)).map(tuple)),
            purposes=draw(st.none() | st.lists(st.sampled_from(PURPOSES)).map(tuple)),
            consumers=draw(st.none() | st.just((STRANGER,))),
        )
        for name in draw(seldom([], *[[name] for name in uses]))
    }
    functions = draw(seldom(FUNCTIONS, FUNCTIONS[:2], FUNCTIONS[:3], FUNCTIONS[1:]))
    privacy = replace(PRIVACY, noise=draw(seldom(False, True)))
    return AnalysisRule(
        uses=uses,
        functions=functions,
        joins=draw(seldom(JOINS, JOINS[:1], JOINS[1:])),
        min_group=draw(st.integers(2, 4)),
        purposes=draw(seldom(PURPOSES, PURPOSES[:1], PURPOSES[1:])),
        limits=limits or None,
        dominance=draw(seldom(None, Fraction(1, 2))),
        round_counts=draw(seldom(None, 3)),
        consumers=draw(seldom(None, (STRANGER,))),
        privacy=privacy,
    )


@st.composite
def products(draw: st.DrawFn) -> DataProduct:
    described = tuple(
        Column(name, ColumnType.TEXT, name, categories=draw(seldom(("x", "y"), None)))
        if name in ("key", "c4")
        else Column(name, ColumnType.INTEGER, name, low=0, high=100)
        for name in NAMES
    )
    several = draw(seldom(None, 3))
    rule = draw(rules(described))
    return a_product(
        CLINIC, columns=described, key="key", rule=rule, rows_per_person=several, cap=100
    )


# Queries

columns = st.sampled_from(ASKED).map(ColumnValue)
texts = st.sampled_from(TEXTS).map(ColumnValue)
small = st.integers(0, 9).map(lambda n: Number(n, 0))
comparators = st.sampled_from(Comparator)


def conditions(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Condition]:
    leaf: st.SearchStrategy[Condition] = st.one_of(
        st.builds(Compare, comparators, inner, small),
        st.builds(Compare, comparators, texts, st.just(Text("x"))),
        st.builds(Present, inner),
        st.builds(OneOf, inner, st.tuples(small, small)),
    )
    return st.recursive(
        leaf,
        lambda more: st.one_of(
            st.builds(Both, more, more), st.builds(Either, more, more), st.builds(Not, more)
        ),
        max_leaves=3,
    )


expressions: st.SearchStrategy[Expression] = st.recursive(
    st.one_of(columns, columns, columns, small),
    lambda inner: st.one_of(
        columns,
        st.builds(Arithmetic, seldom(Operation.ADD, *Operation), inner, inner),
        st.builds(
            lambda condition, value, rest: Case((When(condition, value),), rest),
            st.builds(Present, columns) | conditions(columns),
            inner,
            st.none() | inner,
        ),
    ),
    max_leaves=3,
)


@st.composite
def groups(draw: st.DrawFn) -> GroupBy:
    form = draw(st.integers(0, 2))
    name = draw(st.sampled_from(TEXTS if form == 1 else ASKED))
    if form == 0:
        return GroupBy(name, cuts=tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1)))))
    if form == 1:
        return GroupBy(name, categories=draw(seldom(("x", "y"), ("x",), ("z",))))
    return GroupBy("label", cases=(draw(conditions(columns)),), labels=("a", "b"))


@st.composite
def statistics(draw: st.DrawFn) -> Statistic:
    function = draw(st.sampled_from(FUNCTIONS))
    least, most = {
        Function.COUNT: (0, 2),
        Function.MIN: (1, 1),
        Function.CORRELATION: (2, 2),
        Function.COVARIANCE: (2, 2),
    }.get(function, (1, 2))
    sides = draw(st.sampled_from([(0, 1), (1, 0), (0, 0)]))[: draw(st.integers(least, most))]
    products = (Function.SUM, Function.MEAN, Function.VARIANCE)
    if function in products and len(set(sides)) < len(sides):
        sides = sides[:1]
    arguments = tuple(
        Argument(side, draw(expressions) if side == 0 else ColumnValue("bmi")) for side in sides
    )
    return Statistic(function, arguments, distinct=False)


people = st.just(Statistic(Function.COUNT, (), distinct=False))


@st.composite
def judged(draw: st.DrawFn) -> tuple[tuple[Ground, Ground], Plan]:
    """A product and what it is judged by, and any plan over it that can be written down.

    The other side agrees to everything that is asked of it, so that the first one decides.
    """
    product = draw(products())
    rule = an_open_rule(min_group=2, purposes=PURPOSES)
    other = a_product(LAB, rule=rule)
    agreed, joins = draw(seldom(PURPOSES, PURPOSES[:1])), draw(seldom(JOINS, JOINS[:1]))
    least = draw(st.integers(2, 4))
    both = (
        Ground(
            an_agreement(
                product,
                the_terms(
                    product, other, purposes=agreed, min_group=least, joins=joins, helper=HELPER
                ),
            ),
            product,
        ),
        Ground(
            an_agreement(other, the_terms(other, product, purposes=PURPOSES, min_group=2)), other
        ),
    )
    start = draw(seldom(a_hidden_plan, a_plan))(both)
    across = st.builds(
        CrossCondition, expressions, st.sampled_from(Order), st.just(ColumnValue("age"))
    )
    gate = Gate(
        draw(seldom(9, 2, 3)),
        dominance=draw(seldom(None, Fraction(1, 2), Fraction(2, 3))),
        round_counts=draw(seldom(None, 3, 4)),
    )
    plan = with_query(
        start,
        statistics=(draw(people | statistics()),),
        comparisons=draw(seen_in(4, across)),
        keep_left=draw(seldom(False, True)),
        gate=gate,
    )
    plan = with_side(
        plan,
        0,
        group_by=draw(seen_in(3, groups())),
        where=next(iter(draw(seen_in(3, conditions(columns)))), None),
    )
    plan = with_side(plan, 1, group_by=())
    return both, replace(plan, purpose=draw(st.sampled_from(PURPOSES)))


@st.composite
def judged_of_three(draw: st.DrawFn) -> tuple[tuple[Ground, ...], int, Plan]:
    """The same with a third holder who agrees to everything; the one that decides stands anywhere
    among the three."""
    both, plan = draw(judged())
    place = draw(st.integers(0, 2))
    rule = an_open_rule(min_group=2, purposes=PURPOSES)
    products = [ground.product for ground in both] + [a_product(PHARMACY, rule=rule)]
    known = [
        tuple(Partner(other.id, other.holder) for other in products if other is not own)
        for own in products
    ]
    first, second = (
        Ground(replace(g.agreement, terms=replace(g.agreement.terms, combine_with=met)), g.product)
        for g, met in zip(both, known, strict=False)
    )
    terms = the_terms(products[2], purposes=PURPOSES, min_group=2, combine_with=known[2])
    grounds = [second, Ground(an_agreement(products[2], terms), products[2])]
    grounds.insert(place, first)
    sides = [plan.sides[1], a_side(grounds[2 if place < 2 else 1])]
    sides.insert(place, plan.sides[0])
    # Plain columns, which are all that is released without noise, so that many plans are allowed.
    across = CrossCondition(draw(columns), Order.LESS, ColumnValue("age"))
    if place:
        across = CrossCondition(across.right, Order.LESS, across.left, place)
    function = draw(st.sampled_from(FUNCTIONS))
    arguments = [Argument(place, draw(columns))]
    of_two = function in (Function.CORRELATION, Function.COVARIANCE)
    if of_two or (function is not Function.MIN and draw(st.booleans())):
        arguments.insert(int(place == 0), Argument(int(place == 0), ColumnValue("bmi")))
    # Whatever it was: only the hidden join takes three, and all rows must have partners.
    hidden = a_hidden_plan(both).query
    work = replace(
        plan.query,
        keep_left=False,
        comparisons=draw(seen_in(4, st.just(across))),
        statistics=(Statistic(function, tuple(arguments), distinct=False),),
        gate=replace(plan.query.gate, dominance=products[0].rule.dominance),
        intersection=None,
        padding=hidden.padding,
    )
    helper = HelperSeat(HELPER, DOCUMENTS[HELPER])
    made = replace(plan, join=Join.HIDDEN, helper=helper, sides=tuple(sides), work=work)
    return tuple(grounds), place, made


# The law, over JSON


def read(value: Any) -> Iterator[str]:
    """Every column that anything in a document reads."""
    if isinstance(value, dict):
        if value.get("kind") == "column":
            yield value["column"]
        for member in value.values():
            yield from read(member)
    elif isinstance(value, list):
        for member in value:
            yield from read(member)


def kinds(value: Any) -> Iterator[str]:
    """Every kind of node in a document, and every operation."""
    if isinstance(value, dict):
        yield from (value[name] for name in ("kind", "operation") if name in value)
        for member in value.values():
            yield from kinds(member)
    elif isinstance(value, list):
        for member in value:
            yield from kinds(member)


def valued(value: Any) -> Iterator[str]:
    """Columns that enter the value of an expression; what its CASEs decide on is not among them."""
    if not isinstance(value, dict):
        return
    if value.get("kind") == "column":
        yield value["column"]
    for name in ("left", "right", "otherwise"):
        yield from valued(value.get(name))
    for when in value.get("whens", ()):
        yield from valued(when["value"])


def used(plan: Any, place: int) -> Iterator[tuple[str, str, str | None]]:
    """(column, use, function) of whatever a plan does with columns of the side at this place."""
    side, work = plan["sides"][place], plan["work"]
    for group in side["group_by"]:
        read_here = list(read(group["cases"])) if "cases" in group else [group["name"]]
        yield from ((name, "group_key", None) for name in read_here)
    yield from ((name, "filter", None) for name in read(side.get("where")))
    found = [
        (c["left" if place == 0 else "right"], "compare", None)
        for c in work["comparisons"]
        if place in (0, c["right_side"])
    ]
    found += [
        (argument["expression"], "aggregate", statistic["function"])
        for statistic in work["statistics"]
        for argument in statistic["arguments"]
        if argument["side"] == place
    ]
    for expression, use, function in found:
        values = Counter(valued(expression))
        yield from ((name, use, function) for name in values)
        deciding = Counter(read(expression)) - values
        yield from ((name, "filter", None) for name in deciding)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(judged())
def test_what_is_allowed_uses_no_column_against_its_rule(
    case: tuple[tuple[Ground, Ground], Plan],
) -> None:
    both, plan = case
    found = violations(plan, both)
    event(f"allowed: {found == ()}")
    if not found:
        _require_law(plan, 0, both[0])


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(judged_of_three())
def test_of_three_holders_none_has_a_column_used_against_its_rule(
    case: tuple[tuple[Ground, ...], int, Plan],
) -> None:
    grounds, place, plan = case
    found = violations(plan, grounds)
    event(f"allowed at {place}: {found == ()}")
    if not found:
        _require_law(plan, place, grounds[place])


def _require_law(plan: Plan, place: int, ground: Ground) -> None:
    """That an allowed plan does nothing with the side at this place that its rule forbids."""
    asked: Any = decode(record.to_bytes(plan))
    listed: Any = decode(record.to_bytes(ground.product))
    terms: Any = decode(record.to_bytes(ground.agreement.terms))
    rule = listed["rule"]
    described = {column["name"]: column for column in listed["columns"]}
    for name, use, function in used(asked, place):
        assert name != listed["key"]
        assert use in rule["uses"][name]
        limit = rule.get("limits", {}).get(name, {})
        assert asked["purpose"] in limit.get("purposes", [asked["purpose"]])
        assert asked["consumer"] in limit.get("consumers", [asked["consumer"]])
        if function is not None:
            assert function in rule["functions"]
            assert function in limit.get("functions", [function])
            assert function == "count" or described[name]["type"] != "text"
    for group in asked["sides"][place]["group_by"]:
        assert "rows_per_person" not in listed
        if "categories" in group:
            assert set(group["categories"]) <= set(described[group["name"]]["categories"])
        if "cuts" in group:
            assert described[group["name"]]["type"] != "text"
    gate, work = asked["work"]["gate"], asked["work"]
    assert "count" in rule["functions"]
    assert asked["purpose"] in {*rule["purposes"]} & {*terms["purposes"]}
    assert asked["join"] in {*rule["joins"]} & {*terms["joins"]}
    assert asked["consumer"] in rule.get("consumers", [asked["consumer"]])
    assert gate["min_group"] >= max(rule["min_group"], terms["min_group"])
    assert gate.get("round_counts", 1) % rule.get("round_counts", 1) == 0
    if "dominance" in rule:
        assert Fraction(gate["dominance"]) <= Fraction(rule["dominance"])
    assert not rule["privacy"]["noise"]  # these plans draw none
    if {s["function"] for s in work["statistics"]} & {"min"} or work["comparisons"]:
        assert asked["join"] == "hidden"
    for statistic in work["statistics"]:
        _require_exact_law(statistic, place, gate, rule)
    for comparison in work["comparisons"]:
        compared = {*kinds([comparison["left"], comparison["right"]])}
        assert compared <= {"column", "arithmetic", "+", "number"}  # x, or x + 0.00


def _require_exact_law(statistic: Any, place: int, gate: Any, rule: Any) -> None:
    """Without noise, what an aggregate sums is a column and nothing else, so that the rule's own
    words about it (functions, dominance, rounding) can't be gone around by arithmetic."""
    function, arguments = statistic["function"], statistic["arguments"]
    values = [argument["expression"] for argument in arguments]
    if function == "count":  # who has a value, and nothing about it
        assert not {*kinds(values)} - {"column", "case", "present", "number"}
        assert not [name for value in values if value["kind"] == "case" for name in valued(value)]
        return
    assert all(value["kind"] == "column" for value in values)
    own = [a["expression"]["column"] for a in arguments if a["side"] == place]
    if len(values) > 1 and function in ("sum", "mean"):
        for name in own:
            limit = rule.get("limits", {}).get(name, {})
            assert "covariance" in {*rule["functions"]} & {*limit.get("functions", ["covariance"])}
    assert function not in ("min", "variance") or len(values) == 1
    if "dominance" in gate:  # of sums of one table alone does the engine test it
        assert len({argument["side"] for argument in arguments}) == 1


# A stricter rule


def _without(values: tuple[Any, ...], data: st.DataObject) -> tuple[Any, ...]:
    gone = data.draw(st.sampled_from(values))
    return tuple(value for value in values if value != gone)


CLAUSES = (
    "use",
    "column",
    "function",
    "join",
    "purpose",
    "consumer",
    "group",
    "dominance",
    "round",
    "noise",
    "epsilon",
    "limit",
)


def stricter(rule: AnalysisRule, data: st.DataObject) -> AnalysisRule:
    """The same rule with one clause tightened."""
    clause = data.draw(st.sampled_from(CLAUSES))
    name = data.draw(st.sampled_from(sorted(rule.uses)))
    if clause == "use":
        uses = {**rule.uses, name: _without(rule.uses[name], data)}
        return replace(rule, uses=uses)
    if clause == "column":
        uses = {n: u for n, u in rule.uses.items() if n != name}
        limits = {n: limit for n, limit in (rule.limits or {}).items() if n != name}
        return replace(rule, uses=uses, limits=limits or None)
    if clause == "function" and rule.functions:
        return replace(rule, functions=_without(rule.functions, data))
    if clause == "join":
        return replace(rule, joins=_without(rule.joins, data))
    if clause == "purpose":
        return replace(rule, purposes=_without(rule.purposes, data))
    if clause == "consumer":
        return replace(rule, consumers=(STRANGER,))
    if clause == "group":
        return replace(rule, min_group=rule.min_group + 1)
    if clause == "dominance":
        return replace(rule, dominance=(rule.dominance or Fraction(1)) * Fraction(2, 3))
    if clause == "round":
        return replace(rule, round_counts=(rule.round_counts or 1) * 2)
    privacy = rule.privacy or PRIVACY
    if clause == "noise":
        return replace(rule, privacy=replace(privacy, noise=True))
    if clause == "epsilon":
        return replace(rule, privacy=replace(privacy, epsilon_per_job=privacy.epsilon_per_job / 30))
    limit = rule.limit(name)
    narrower = data.draw(
        st.sampled_from(
            [
                replace(limit, functions=(limit.functions or FUNCTIONS)[1:]),
                replace(limit, purposes=(limit.purposes or PURPOSES)[1:]),
                replace(limit, consumers=()),
            ]
        )
    )
    return replace(rule, limits={**(rule.limits or {}), name: narrower})


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(judged(), st.data())
def test_a_stricter_rule_never_allows_what_was_refused(
    case: tuple[tuple[Ground, Ground], Plan], data: st.DataObject
) -> None:
    both, plan = case
    try:
        product = replace(both[0].product, rule=stricter(both[0].product.rule, data))
    except DocumentRefused:
        return  # no product can be listed with it
    # The agreement stays; only the rule behind it is another.
    after = violations(plan, (replace(both[0], product=product), both[1]))
    event(f"allowed after: {after == ()}")
    if violations(plan, both):
        assert after


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(judged(), st.data())
def test_narrower_terms_never_allow_what_was_refused(
    case: tuple[tuple[Ground, Ground], Plan], data: st.DataObject
) -> None:
    both, plan = case
    terms = both[0].agreement.terms
    narrower = data.draw(
        st.sampled_from(
            [
                replace(terms, min_group=terms.min_group + 1),
                replace(terms, purposes=terms.purposes[:1]),
                replace(terms, joins=terms.joins[:1]),
                replace(terms, combine_with=()),
                replace(terms, combine_with=(Partner(both[0].product.id, STRANGER),)),
                replace(terms, helper=None),
            ]
        )
    )
    agreement = replace(both[0].agreement, terms=narrower)
    after = violations(plan, (replace(both[0], agreement=agreement), both[1]))
    if violations(plan, both):
        assert after


# What the compiler makes


SQL = st.sampled_from(
    [
        "SELECT COUNT(*) {join}",
        "SELECT SUM(a.{x}), AVG(b.bmi) {join}",
        "SELECT a.{x}, COUNT(*) {join} GROUP BY a.{x}",
        "SELECT BANDS(a.{x}, 3, 5), CORR(a.{y}, b.bmi) {join} GROUP BY 1",
        "SELECT COUNT(*) {join} WHERE a.{x} > 3 AND NOT a.{y} IN (1, 2)",
        "SELECT MIN(a.{x}) {join} WHERE a.{y} < b.bmi",
        "SELECT AVG(a.{x} * b.bmi) {join} WHERE a.{y} IS NOT NULL",
        "SELECT SUM(CASE WHEN a.{x} > 3 THEN a.{y} ELSE 0 END) {join}",
    ]
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    judged(),
    SQL,
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from([None, None, Fraction(1, 2)]),
)
def test_noise_that_the_compiler_plans_is_worth_what_its_rules_say(
    case: tuple[tuple[Ground, Ground], Plan], sql: str, x: str, y: str, epsilon: Fraction | None
) -> None:
    """Whatever it compiles breaks, if anything, a clause that somebody agreed; never the plan's own
    arithmetic of noise, ranges and joins. Of the plan itself only this is refused: to ask exactly
    what only noise covers, and then noise is what the refusal proposes."""
    both, _ = case
    text = sql.format(x=x, y=y, join="FROM a JOIN b ON a.key = b.person")
    try:
        plan = compiled(text, both, epsilon=epsilon)
    except QuestionRefused:
        event("refused")
        return
    event("compiled")
    own = [found.problem for found in violations(plan, both) if found.clause == "plan"]
    assert plan.work.noise is None or own == []
    assert [problem for problem in own if not problem.endswith(ASK_WITH_NOISE)] == []
