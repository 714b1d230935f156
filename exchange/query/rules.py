"""The rule checker: may this plan run under these agreements?

A pure function from (plan, what each side agreed) to the violations, each naming the clause that
forbids it. The hub calls it for an early answer; every node calls it for the real decision.
Rules of several holders combine by the strictest: a plan is permitted only if *every* side's
product rule and *every* side's terms permit it, so nothing one party allows can relax another's.

Why it is sound. What reaches a receiver is listed by `disclosures`: for every column of a side,
each way in which the plan lets something about it out; nothing else of a plan reads a column. Each
disclosure needs its use in the rule; an aggregate also needs its function. The join key has no
other use, for no clause can give it one here. A column that the rule does not name has no use at
all. Which rows a number is about is said by WHERE, GROUP BY and comparisons across tables, which
the gate counts; inside an aggregate nothing may choose rows unless there is noise: without it,
only what `exchange.query.exact` lists is permitted.
Whatever restricts amounts (group size, noise, epsilon, rounding, dominance) is compared with
the strictest clause in `_gate` and `_privacy`. The property test walks random plans and looks for a
column whose rule forbids what was accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Final

from crypto.errors import Malformed
from crypto.identifiers import PartyId
from crypto.joins.intersection import Intersection
from crypto.joins.summable import require_summable
from crypto.lookup.limits import ANSWER_HEAD_BYTES, MAX_ANSWER_BYTES, MAX_EVALUATIONS
from crypto.noise import Distribution, gate_delta, gaussian_epsilon
from crypto.scoring.shape import MAX_SCORES
from exchange.errors import PlanRefused
from exchange.query import exact
from exchange.query.plan import (
    TWO_SIDED,
    GroupBy,
    Lookup,
    Noise,
    Plan,
    Query,
    Score,
    SidePlan,
    Statistic,
)
from exchange.query.program import Program, program_of
from exchange.query.standing import LEAST_RATIO, is_unbalanced
from exchange.terms.agreement import Agreement, Partner
from registry import expression as expressions
from registry.errors import DocumentRefused
from registry.expression import (
    Arithmetic,
    Case,
    Condition,
    Expression,
    Operation,
    value_columns,
)
from registry.product import ColumnType, DataProduct
from registry.rule import Function, Join, Use

BY_ROW: Final = frozenset({Function.MIN, Function.MAX})
PRODUCTS: Final = frozenset(  # of their arguments, one of a side
    {Function.SUM, Function.MEAN, Function.VARIANCE, Function.STDDEV}
)
NOT_UNBALANCED: Final = (
    f"is for a product that is {LEAST_RATIO} times as large as the other, or more; write rr22"
)
NOISY: Final = frozenset({Join.HIDDEN, Join.UNION, Join.ALONE})


@dataclass(frozen=True)
class Violation:
    """clause: the rule's or agreement's clause; where: the place in the plan."""

    clause: str
    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem} ({self.clause})"


@dataclass(frozen=True)
class Ground:
    """What a side's part of the plan is judged by."""

    agreement: Agreement
    product: DataProduct


@dataclass(frozen=True)
class Disclosure:
    """One way in which a plan lets something about a column out. function: of an aggregate."""

    column: str
    use: Use
    function: Function | None
    where: str


def violations(plan: Plan, grounds: Sequence[Ground]) -> tuple[Violation, ...]:
    """All of them, in the order of the plan. grounds: one per side, in the plan's order."""
    products = [ground.product for ground in grounds]
    return tuple(
        violation
        for index, ground in enumerate(grounds)
        for violation in side_violations(plan, index, ground, products)
    )


def side_violations(
    plan: Plan, index: int, ground: Ground, products: Sequence[DataProduct]
) -> tuple[Violation, ...]:
    """Those of one side: all that this side's holder can and must judge.

    products: of all sides, in the plan's order; the other holders' agreements stay theirs.
    """
    side, where = plan.sides[index], f"sides[{index}]"
    # By place, not by id: another holder could list a product under this one's id.
    others = {
        Partner(product.id, plan.sides[place].holder)
        for place, product in enumerate(products)
        if place != index
    }
    found = _parties(plan, side, ground, where)
    found += _terms(plan, side, ground, where, others=others)
    found += _columns(plan, index, ground.product)
    found += _gate(plan, ground, products)
    if isinstance(plan.work, Query):
        found += _computable(plan, plan.work, index, products)
    return tuple(found)


def owner_violations(
    plan: Plan, controllers: Mapping[PartyId, str | None]
) -> tuple[Violation, ...]:
    """Where one owner would have both halves of something.

    controllers: by the party documents that the plan names; None where one declares nothing.
    - Whoever controls the helper controls a holder or the receiver as well, or somebody has not
      said who controls them.
    - Of three holders the first is of one owner with another: it has lists of pairs in their
      uploads, and with one of them it reads there who is the other's too.
    - Without noise, the consumer is of one owner with a holder, who could mark one person.

    Two holders may have one owner, and so may a holder and the consumer where there is noise: they
    join what they have anyway.
    """
    found = [] if plan.helper is None else _not_neutral(plan, plan.helper.party, controllers)
    owner = controllers.get(plan.consumer)
    if owner is not None and exact.is_exact(plan) and len(plan.sides) > 1:
        found += [
            Violation("party.controller", f"sides[{place}]", exact.OWN_ROWS)
            for place, side in enumerate(plan.sides)
            if side.holder != plan.consumer and controllers.get(side.holder) == owner
        ]
    return tuple(found)


def _not_neutral(
    plan: Plan, helper: PartyId, controllers: Mapping[PartyId, str | None]
) -> list[Violation]:
    roles = [("holder", side.holder) for side in plan.sides] + [("consumer", plan.consumer)]
    found = [
        Violation(
            "party.controller",
            "helper",
            f"{party} has not declared who controls it, so nobody can tell whether the helper is "
            "neutral; it runs `exchange party declare`",
        )
        for party in dict.fromkeys([helper, *(party for _, party in roles)])
        if controllers.get(party) is None
    ]
    own = controllers.get(helper)
    for role, party in roles:
        if own is not None and controllers.get(party) == own and party != helper:
            found.append(
                Violation(
                    "party.controller",
                    "helper",
                    f"is controlled by {own}, as the {role} {party} is; agree on another helper",
                )
            )
    first, *others = (side.holder for side in plan.sides)
    for place, party in enumerate(others, 1):
        owner = controllers.get(party)
        if len(others) > 1 and owner is not None and owner == controllers.get(first):
            found.append(
                Violation(
                    "party.controller",
                    f"sides[{place}]",
                    f"{party} is controlled by {owner}, as the first holder {first} is: of three, "
                    "name the table of the one that is independent of both others first in FROM",
                )
            )
    return found


def disclosures(plan: Plan, index: int) -> Iterator[Disclosure]:
    """Everything that the plan lets out about columns of one side, besides its join key."""
    side, where = plan.sides[index], f"sides[{index}]"
    work = plan.work
    if isinstance(work, Lookup):
        for column in work.columns:
            yield Disclosure(column, Use.LOOKUP, None, "work.columns")
        return
    if isinstance(work, Score):
        return
    for place, group in enumerate(side.group_by):
        for column in group_columns(group):
            yield Disclosure(column, Use.GROUP_KEY, None, f"{where}.group_by[{place}]")
    if side.where is not None:
        for column in expressions.columns(side.where):
            yield Disclosure(column, Use.FILTER, None, f"{where}.where")
    for place, comparison in enumerate(work.comparisons):
        own = comparison.reads(index)
        for use, column in [] if own is None else _read_by(own, Use.COMPARE):
            yield Disclosure(column, use, None, f"work.comparisons[{place}]")
    for place, statistic in enumerate(work.statistics):
        for argument in statistic.arguments:
            if argument.side == index or plan.join is Join.UNION:
                here = f"work.statistics[{place}]"
                for use, column in dict.fromkeys(_read_by(argument.expression, Use.AGGREGATE)):
                    yield Disclosure(column, use, statistic.function, here)
                for function, column in dict.fromkeys(_multiplied(statistic, argument.expression)):
                    yield Disclosure(column, Use.AGGREGATE, function, here)


def group_columns(group: GroupBy) -> tuple[str, ...]:
    """The columns that decide which group a row is in."""
    if group.cases is None:
        return (group.name,)
    found = [column for case in group.cases for column in expressions.columns(case)]
    return tuple(dict.fromkeys(found))


def _read_by(root: Expression, use: Use) -> list[tuple[Use, str]]:
    """Columns of an expression, each with what it is used as: what a CASE decides on selects rows,
    as a filter does, and so does what LEAST and GREATEST compare, for LEAST(1, GREATEST(0, x - 92))
    is CASE WHEN x > 92; everything else enters the value."""
    if isinstance(root, Case):
        found = [] if root.otherwise is None else _read_by(root.otherwise, use)
        for when in root.whens:
            found += [(Use.FILTER, column) for column in expressions.columns(when.condition)]
            found += _read_by(when.value, use)
        return found
    if isinstance(root, Arithmetic):
        found = _read_by(root.left, use) + _read_by(root.right, use)
        if root.operation in (Operation.LEAST, Operation.GREATEST):
            found += [(Use.FILTER, column) for column in expressions.columns(root)]
        return found
    return [(use, column) for column in expressions.columns(root)]


def _multiplied(statistic: Statistic, root: Expression) -> Iterator[tuple[Function, str]]:
    """What sums of products say of their columns under whatever name: a sum of squares is a
    variance, a sum of products a covariance."""
    if len(statistic.arguments) > 1 and statistic.function in PRODUCTS:
        yield from ((Function.COVARIANCE, column) for column in value_columns(root))
    for part in expressions.parts(root):
        if isinstance(part, Arithmetic) and part.operation is Operation.MULTIPLY:
            left, right = set(value_columns(part.left)), set(value_columns(part.right))
            if left and right:
                yield from ((Function.VARIANCE, column) for column in sorted(left & right))
                if left | right != left & right or len(left) > 1:
                    yield from ((Function.COVARIANCE, column) for column in sorted(left | right))


def _parties(plan: Plan, side: SidePlan, ground: Ground, where: str) -> list[Violation]:
    agreement = ground.agreement
    found = []
    if agreement.consumer != plan.consumer:
        found.append(
            Violation("agreement.consumer", "consumer", "the agreement is with another consumer")
        )
    if agreement.holder != side.holder or ground.product.holder != side.holder:
        found.append(Violation("agreement.holder", f"{where}.holder", "is not the product's"))
    if agreement.deal != plan.deal:
        found.append(Violation("agreement.deal", "deal", "the agreement belongs to another deal"))
    if agreement.terms.product != side.product or agreement.terms.product_id != ground.product.id:
        found.append(Violation("terms.product", f"{where}.product", "is not the one agreed"))
    for index, receiver in enumerate(plan.receivers):
        if receiver.party != plan.consumer or receiver.document != plan.consumer_document:
            found.append(
                Violation("agreement.consumer", f"receivers[{index}]", "is not the consumer")
            )
    if plan.helper is not None:
        if plan.helper.party != agreement.terms.helper:
            found.append(Violation("terms.helper", "helper", "is not the helper agreed on"))
        if plan.helper.party in {plan.consumer, *(s.holder for s in plan.sides)}:
            found.append(
                Violation("terms.helper", "helper", "must be neither a holder nor the consumer")
            )
    return found


def _terms(
    plan: Plan, side: SidePlan, ground: Ground, where: str, *, others: set[Partner]
) -> list[Violation]:
    terms, rule = ground.agreement.terms, ground.product.rule
    found = []
    if plan.purpose not in terms.purposes:
        found.append(
            Violation("terms.purposes", "purpose", f"{plan.purpose} is not an agreed purpose")
        )
    if plan.purpose not in rule.purposes:
        found.append(
            Violation("rule.purposes", "purpose", f"{plan.purpose} is not a purpose of the product")
        )
    if rule.consumers is not None and plan.consumer not in rule.consumers:
        found.append(
            Violation("rule.consumers", "consumer", "is not among the product's consumers")
        )
    if plan.join not in terms.joins:
        found.append(Violation("terms.joins", "join", f"{plan.join} was not agreed"))
    if plan.join not in rule.joins:
        found.append(Violation("rule.joins", "join", f"the product does not allow {plan.join}"))
    for other in sorted(others - set(terms.combine_with)):
        found.append(Violation("terms.combine_with", where, f"may not be combined with {other}"))
    if plan.currency != terms.currency:
        found.append(Violation("terms.currency", "currency", f"is not {terms.currency}"))
    if side.price_minor != terms.price_minor:
        found.append(
            Violation("terms.price_minor", f"{where}.price_minor", "is not the agreed price")
        )
    return found


def _columns(plan: Plan, index: int, product: DataProduct) -> list[Violation]:
    found: list[Violation] = []
    known = {column.name: column for column in product.columns}
    rule = product.rule
    if isinstance(plan.work, Score):
        if product.model is None or plan.work.parameters != product.model.parameters:
            return [Violation("product.model", "work", f"{product.name} has no such model")]
        return _evaluations(plan, product)
    if product.model is not None:
        return [Violation("product.model", "work", f"{product.name} is a model: it only scores")]
    if isinstance(plan.work, Lookup):
        card = product.lookup
        if card is None or (plan.work.columns, plan.work.epoch) != (card.columns, card.epoch):
            return [Violation("product.lookup", "work", f"{product.name} has no such table")]
        found += _evaluations(plan, product)
    by_key = plan.join in TWO_SIDED - {Join.UNION} or isinstance(plan.work, Lookup)
    if by_key and not rule.permits(product.key, Use.JOIN_KEY):
        clause = f"rule.uses.{product.key}"
        found.append(Violation(clause, f"sides[{index}]", "is not allowed as join key"))
    for disclosure in disclosures(plan, index):
        name, place = disclosure.column, disclosure.where
        clause = f"rule.uses.{name}"
        if name not in known:
            found.append(Violation("product.columns", place, f"{name} is not a column"))
        elif name == product.key:
            found.append(Violation(clause, place, f"{name} is the join key and nothing else"))
        elif not rule.permits(name, disclosure.use):
            found.append(Violation(clause, place, f"{name} may not be used as {disclosure.use}"))
        else:
            found += _limits(plan, disclosure, product)
    if isinstance(plan.work, Query):
        if Function.COUNT not in rule.functions:
            found.append(Violation("rule.functions", f"sides[{index}]", "count is not allowed"))
        found += _constants(plan, plan.work, index, rule.functions)
        for number, group in enumerate(plan.sides[index].group_by):
            found += _domain(group, product, f"sides[{index}].group_by[{number}]")
    return found


def _constants(plan: Plan, work: Query, index: int, allowed: Sequence[Function]) -> list[Violation]:
    """Aggregates of this side that read none of its columns: a function is allowed or it is not."""
    return [
        Violation("rule.functions", f"work.statistics[{number}]", f"{s.function} is not allowed")
        for number, s in enumerate(work.statistics)
        for argument in s.arguments
        if argument.side == index or plan.join is Join.UNION
        if s.function not in allowed and not value_columns(argument.expression)
    ]


def _evaluations(plan: Plan, product: DataProduct) -> list[Violation]:
    """That one job stays within a day's allowance, and within what engines take. How much of the
    allowance other jobs have used, the holder's node counts."""
    allowed = product.rule.evaluations_per_day or 0
    if plan.evaluations > allowed:
        return [
            Violation(
                "rule.evaluations_per_day",
                "work",
                f"sends {plan.evaluations:,}; at most {allowed:,} are allowed in 24 hours",
            )
        ]
    most = most_evaluations(product)
    if plan.evaluations > most:
        return [Violation("plan", "work", f"sends {plan.evaluations:,}; engines take {most:,}")]
    return []


def most_evaluations(product: DataProduct) -> int:
    """How many keys or rows one run can take, for the size of what comes back."""
    if product.model is not None:
        return MAX_SCORES // len(product.model.shape.outputs)
    if product.lookup is None:
        return 0
    width = ANSWER_HEAD_BYTES + product.lookup.label_bytes
    return min(MAX_EVALUATIONS, MAX_ANSWER_BYTES // width)


def _limits(plan: Plan, disclosure: Disclosure, product: DataProduct) -> list[Violation]:
    name, place = disclosure.column, disclosure.where
    limit, found = product.rule.limit(name), []
    if limit.purposes is not None and plan.purpose not in limit.purposes:
        found.append(
            Violation(f"rule.limits.{name}.purposes", place, f"{name} is not for {plan.purpose}")
        )
    if limit.consumers is not None and plan.consumer not in limit.consumers:
        found.append(
            Violation(f"rule.limits.{name}.consumers", place, f"{name} is not for this consumer")
        )
    function = disclosure.function
    if (
        function is not None
        and disclosure.use is Use.AGGREGATE
        and function not in product.rule.functions_of(name)
    ):
        clause = "rule.functions" if limit.functions is None else f"rule.limits.{name}.functions"
        found.append(Violation(clause, place, f"{function} of {name} is not allowed"))
    return found


def _domain(group: GroupBy, product: DataProduct, place: str) -> list[Violation]:
    """A group's domain must be public: the product's own categories, cuts in its range, or what
    the plan itself spells out in cases."""
    if product.contribution > 1:
        return [
            Violation(
                "product.rows_per_person",
                place,
                f"{product.name} has several rows for a person and can't be grouped by",
            )
        ]
    if group.cases is not None or group.name not in {column.name for column in product.columns}:
        return []
    column = product.column(group.name)
    if group.categories is not None:
        if column.categories is None:
            return [Violation("product.columns", place, f"{column.name} has no public categories")]
        unknown = [c for c in group.categories if c not in column.categories]
        if unknown:
            return [
                Violation("product.columns", place, f"{unknown[0]} is not one of its categories")
            ]
    elif column.type is ColumnType.TEXT:
        return [Violation("product.columns", place, f"{column.name} is text and has no bands")]
    return []


def _gate(plan: Plan, ground: Ground, products: Sequence[DataProduct]) -> list[Violation]:
    """Group size, dominance, rounding, noise and epsilon against the strictest clause.

    Where stricter would be a question of its own, the strictest is the only one: of one sum under
    limits of the consumer's choice, whether it is shown finds the largest value by bisection.
    """
    terms, rule = ground.agreement.terms, ground.product.rule
    if not isinstance(plan.work, Query):
        return []
    work, found = plan.work, []
    least = max(terms.min_group, rule.min_group)
    if work.gate.min_group < least:
        found.append(
            Violation(
                "terms.min_group",
                "work.gate.min_group",
                f"is {work.gate.min_group}; groups must hold at least {least} people",
            )
        )
    # With noise, public ranges bound what one person adds, and an exact test would void epsilon.
    limits = [p.rule.dominance for p in products if p.rule.dominance is not None]
    limit = min(limits, default=None)
    if work.noise is None and work.gate.dominance != limit:
        problem = "must be absent: no product has one" if limit is None else f"must be {limit}"
        found.append(Violation("rule.dominance", "work.gate.dominance", problem))
    if work.noise is not None and work.gate.dominance is not None:
        found.append(
            Violation("plan", "work.gate.dominance", "is an exact test and would void the noise")
        )
    if rule.round_counts is not None:
        found += _rounding(work, least, lcm(*(p.rule.round_counts or 1 for p in products)))
    privacy = rule.privacy
    if privacy is None:
        if plan.epsilon:
            found.append(
                Violation("rule.privacy", "work", "the product has no epsilon that could be spent")
            )
        return found
    if privacy.noise and work.noise is None:
        found.append(Violation("rule.privacy.noise", "work.noise", "everything needs noise"))
    if plan.epsilon > privacy.epsilon_per_job:
        found.append(
            Violation(
                "rule.privacy.epsilon_per_job",
                "work.noise.epsilon",
                f"the job costs {plan.epsilon}; at most {privacy.epsilon_per_job} is allowed",
            )
        )
    return found


def _rounding(work: Query, least: int, multiple: int) -> list[Violation]:
    """That the gate tells nothing of a rounded count that the count does not tell itself.

    Rounded to another multiple, a count is between other bounds; and whether it is shown for a
    least group of the consumer's choice finds it by bisection. least: of this side, as agreed.
    """
    found, asked = [], work.gate.min_group
    if work.gate.round_counts != multiple:
        found.append(
            Violation("rule.round_counts", "work.gate.round_counts", f"must be {multiple}")
        )
    elif work.noise is None and asked > least and asked != rounds_up(asked, multiple):
        found.append(
            Violation(
                "rule.round_counts",
                "work.gate.min_group",
                f"is {asked}, which tells more than a count rounded to {multiple}; "
                f"take {least} or {rounds_up(asked, multiple)}",
            )
        )
    return found


def rounds_up(least: int, multiple: int) -> int:
    """The first count from `least` on whose predecessor rounds to something smaller."""
    return -(-(least + multiple // 2) // multiple) * multiple - multiple // 2


def _computable(
    plan: Plan, work: Query, index: int, products: Sequence[DataProduct]
) -> list[Violation]:
    """What no engine could compute, or what the plan's own noise does not cover."""
    found = []
    try:
        for place, condition in _conditions(plan, index):
            expressions.require_condition(condition, products[index], where=place)
        program = program_of(plan, products)
    except PlanRefused as error:
        return [Violation("plan", error.constraint, error.problem)]
    except (DocumentRefused, Malformed) as error:
        return [Violation("product.columns", error.where, error.problem)]
    layout = program.layout
    if layout.by_row and plan.join is not Join.HIDDEN:
        found.append(
            Violation(
                "plan",
                "join",
                "MIN, MAX, dominance and conditions across tables need the hidden join",
            )
        )
    if plan.join is Join.SUM:
        try:
            require_summable(layout)
        except Malformed as error:
            found.append(
                Violation("plan", "join", f"sum can't compute this: {error.where} {error.problem}")
            )
        for column in exact.unvalued(plan):
            asked = f"sum needs WHERE {column} IS NOT NULL: it has one number of people for all"
            found.append(Violation("plan", "join", asked))
    unbalanced = work.intersection is Intersection.UNBALANCED
    if unbalanced and not is_unbalanced([product.cap for product in products]):
        found.append(Violation("plan", "work.intersection", NOT_UNBALANCED))
    functions = {statistic.function for statistic in work.statistics}
    if work.noise is None:
        if Function.QUANTILE in functions:
            found.append(
                Violation("plan", "work.noise", "a quantile shows a histogram, so it needs noise")
            )
        return found + _exact(plan, work, index, products)
    if functions & BY_ROW:
        found.append(
            Violation("plan", "work.noise", "no noise can cover MIN and MAX; ask for quantiles")
        )
    if plan.join not in NOISY:
        found.append(Violation("plan", "join", f"the {plan.join} join adds no noise"))
    problem = noise_problem(work.noise, program)
    if problem is not None:
        found.append(Violation("plan", "work.noise", problem))
    return found


def _exact(plan: Plan, work: Query, index: int, products: Sequence[DataProduct]) -> list[Violation]:
    """What only noise could cover: see `exchange.query.exact`."""
    found = []
    if len(plan.sides) > 1 and plan.consumer in {side.holder for side in plan.sides}:
        found.append(Violation("plan", "consumer", exact.OWN_ROWS))
    for number, statistic in enumerate(work.statistics):
        place = f"work.statistics[{number}]"
        if not exact.is_plain(statistic, keep_left=work.keep_left):
            found.append(Violation("plan", place, exact.NOT_PLAIN))
        elif work.gate.dominance is not None and not exact.is_tested(statistic, plan, products):
            found.append(Violation("rule.dominance", place, exact.UNTESTED))
    for number, condition in enumerate(work.comparisons):
        if exact.compared(condition.left) is None or exact.compared(condition.right) is None:
            found.append(Violation("plan", f"work.comparisons[{number}]", exact.NOT_COMPARED))
    for problem, columns in (
        (exact.CHOOSES, exact.valued(plan, index) & exact.chosen(plan, index)),
        (exact.TWO_COMPANIES, _repeated(exact.companies(plan, products, index))),
        (exact.TWO_PARTNERS, _repeated(exact.partners(plan, products, index))),
    ):
        found += [
            Violation("plan", "work.statistics", f"{column} {problem}")
            for column in sorted(columns)
        ]
    own = products[index]
    pairs = exact.multiplied(plan, products)
    if own.contribution > 1 and any(one[0] == other[0] == own.id for one, other in pairs):
        found.append(Violation("plan", "work.statistics", exact.SEVERAL_ROWS))
    return found


def _repeated(pairs: Iterable[tuple[str, object]]) -> set[str]:
    met = Counter(column for column, _ in pairs)
    return {column for column, times in met.items() if times > 1}


def gate_reach(program: Program) -> int:
    """How much one person moves the counts that gates test, all gates together: the D of
    `gate_delta`. Each gate has its own chance that its exact condition decides."""
    return sum(program.terms[gate].sensitivity for gate in program.layout.gates)


def noise_problem(noise: Noise, program: Program) -> str | None:
    """Why the noise is not worth the epsilon and delta that it is stated to cost.

    Laplace: each term's scale b is worth sensitivity/b, and terms add up (basic composition, Dwork
    and Roth 2014, theorem 3.14). Gaussian: rho is the sum of sensitivity**2 / (2 sigma**2) (Bun and
    Steinke 2016, proposition 1.6 and lemma 2.3). Cells are disjoint: a person is in one of them.
    """
    if len(noise.scales) != len(program.terms):
        return f"has {len(noise.scales)} scales for {len(program.terms)} terms"
    sensitivities = [Fraction(facts.sensitivity) for facts in program.terms]
    spare = gate_delta(noise.epsilon, noise.beta, gate_reach(program))
    if noise.distribution is Distribution.LAPLACE:
        worth = sum((s / b for s, b in zip(sensitivities, noise.scales, strict=True)), Fraction(0))
        if worth > noise.epsilon:
            return f"is worth epsilon {worth}, more than the stated {noise.epsilon}"
        if noise.delta < spare:
            return f"has delta {noise.delta}; its gate alone needs {spare}"
        return None
    rho = sum(
        (s * s / (2 * sigma * sigma) for s, sigma in zip(sensitivities, noise.scales, strict=True)),
        Fraction(0),
    )
    if noise.rho is None or rho > noise.rho:
        return f"is worth rho {rho}, more than the stated {noise.rho}"
    if noise.delta <= spare or gaussian_epsilon(noise.rho, noise.delta - spare) > noise.epsilon:
        return "is worth more epsilon than stated at its delta"
    return None


def _conditions(plan: Plan, index: int) -> Iterator[tuple[str, Condition]]:
    """Those of one side, each with its place."""
    side, where = plan.sides[index], f"sides[{index}]"
    if side.where is not None:
        yield f"{where}.where", side.where
    for number, group in enumerate(side.group_by):
        for case in group.cases or ():
            yield f"{where}.group_by[{number}]", case
