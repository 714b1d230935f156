"""What the engine computes for a query: derived from the plan alone, so that everybody derives the
same.

Every statistic becomes *terms*, sums over matched pairs of a factor of one side times a factor of
the other (crypto.joins.layout). A factor is an expression over one holder's columns; where three
holders meet, the second and the third make one side, whose factors are products of one of each
(crypto.joins.layout.Third). A mean needs a
sum and a count, a correlation five sums and a count; what several statistics share is computed
once. Values are moved to the middle of their public range before they are squared or multiplied,
where that changes nothing but the noise: sensitivities are then smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Final

from crypto.joins.layout import COUNTED, Comparison, Extreme, Layout, Term, Third
from crypto.noise import slack
from exchange.errors import PlanRefused
from exchange.query.plan import MAX_SIDES, Argument, GroupBy, Plan, SidePlan, Statistic
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Condition,
    Expression,
    LocalFactor,
    Number,
    Operation,
    Present,
    Shape,
    Text,
    When,
    typed,
)
from registry.product import ColumnType, DataProduct
from registry.rule import Function, Join

RING_BITS: Final = 62
ZERO: Final = Number(0, 0)
ONE: Final = Number(1, 0)
SQUARES: Final = frozenset(  # sums of squares are behind them
    {Function.VARIANCE, Function.STDDEV, Function.CORRELATION, Function.REGRESSION}
)


@dataclass(frozen=True)
class TermFacts:
    """widest: the most that one matched pair of persons can add, in units of 10**-decimals.
    sensitivity: the most that one person can change."""

    decimals: int
    widest: int
    sensitivity: int


@dataclass(frozen=True)
class Reading:
    """Where a statistic's numbers are. rows: term that counts its rows (or row pairs).

    people:   the term that gates it
    sums:     per variable, the term of its sum; products: per pair i <= j, row by row, the term
              of the sum of products; of a covariance that of its pair alone, for its rule may
              forbid variances. Variables are the statistic's arguments (for SUM, MEAN,
              VARIANCE, STDDEV one variable: the product of the arguments).
    centres:  per variable, what was subtracted before squaring, in units of 10**-decimals
    decimals: per variable
    bins:     of a quantile: the terms of the histogram
    extreme:  of MIN and MAX: index into the layout's extremes
    """

    people: int
    rows: int
    sums: tuple[int, ...]
    products: tuple[int, ...]
    centres: tuple[int, ...]
    decimals: tuple[int, ...]
    bins: tuple[int, ...]
    extreme: int | None


@dataclass(frozen=True)
class Program:
    """factors: per holder, its own factors 1, 2, … groups: per holder, an expression that gives
    the group's number and is missing outside the domain; None for a single group."""

    layout: Layout
    groups: tuple[Expression | None, ...]
    factors: tuple[tuple[LocalFactor, ...], ...]
    terms: tuple[TermFacts, ...]
    readings: tuple[Reading, ...]


def program_of(plan: Plan, products: Sequence[DataProduct]) -> Program:
    """products: of all sides, in the plan's order.

    Raises PlanRefused where a sum could leave the ring or a column has no public range, and
    Malformed for a plan that is not a query.
    """
    return _Compiler(plan, products).compile()


def group_expression(side: SidePlan, product: DataProduct) -> Expression | None:
    """The number of a row's group on one side; missing outside the domain."""
    found: Expression | None = None
    for by in side.group_by:
        index = _group_index(by, product)
        if found is None:
            found = index
        else:
            found = Arithmetic(
                Operation.ADD, Arithmetic(Operation.MULTIPLY, found, Number(by.size, 0)), index
            )
    return found


class _Compiler:
    def __init__(self, plan: Plan, products: Sequence[DataProduct]) -> None:
        self._plan, self._query, self._products = plan, plan.query, products
        # In a union both holders compute the same factors; the expressions are side 0's.
        self._sides = 1 if plan.join in (Join.UNION, Join.ALONE) else len(plan.sides)
        self._factors: tuple[dict[LocalFactor, int], ...] = tuple({} for _ in range(MAX_SIDES))
        self._widest: tuple[list[int], ...] = tuple([1] for _ in range(MAX_SIDES))
        self._decimals: tuple[list[int], ...] = tuple([0] for _ in range(MAX_SIDES))
        # Of three holders: (factor of the second, factor of the third) -> factor of both together.
        self._together: dict[tuple[int, int], int] = {(COUNTED, COUNTED): COUNTED}
        self._terms: dict[tuple[int, int, int], int] = {}
        self._facts: list[TermFacts] = []
        self._people: list[int] = []
        self._extremes: list[Extreme] = []

    def compile(self) -> Program:
        plan, query = self._plan, self._query
        self._count_people((COUNTED,) * self._holders)
        readings = tuple(self._read(statistic) for statistic in query.statistics)
        comparisons = tuple(
            Comparison(
                left=self._factor(0, condition.left),
                left_mark=self._mark(0, [condition.left], indicator=True),
                order=condition.order,
                right=self._right(condition.right_side, condition.right),
                right_mark=self._right_mark(condition.right_side, condition.right),
            )
            for condition in query.comparisons
        )
        self._require_consistent()
        keys = list(self._terms)
        layout = Layout(
            groups_a=plan.cells if self._sides == 1 else plan.sides[0].groups,
            groups_b=1 if self._sides == 1 else plan.cells // plan.sides[0].groups,
            factors_a=len(self._factors[0]) + 1,
            factors_b=len(self._together) if self._sides > 2 else len(self._factors[1]) + 1,
            terms=tuple(
                Term(left, right, people, outer=self._outer(right)) for left, right, people in keys
            ),
            comparisons=comparisons,
            extremes=tuple(self._extremes),
            min_group=query.gate.min_group,
            slack=self._slack(),
            dominance=query.gate.dominance,
            round_counts=query.gate.round_counts or 1,
            third=self._third(),
        )
        factors = tuple(tuple(found) for found in self._factors[: self._holders])
        return Program(
            layout=layout,
            groups=tuple(
                group_expression(side, product)
                for side, product in zip(plan.sides, self._products, strict=True)
            ),
            factors=(factors[0],) * len(plan.sides) if self._sides == 1 else factors,
            terms=tuple(self._facts),
            readings=readings,
        )

    @property
    def _holders(self) -> int:
        """Whose factors a term multiplies; of a union and of one table, the other one is empty."""
        return max(self._sides, 2)

    def _third(self) -> Third | None:
        if self._sides < MAX_SIDES:
            return None
        _, second, third = self._plan.sides
        return Third(
            own_groups=second.groups,
            groups=third.groups,
            own_factors=len(self._factors[1]) + 1,
            third_factors=len(self._factors[2]) + 1,
            factors=tuple(self._together),
        )

    def _outer(self, right: int) -> bool:
        """What depends on the left side alone is taken over all its rows in a LEFT JOIN, and where
        there is no other side to match with."""
        return right == COUNTED and (self._query.keep_left or self._plan.join is Join.ALONE)

    # One statistic

    def _read(self, statistic: Statistic) -> Reading:
        if statistic.function in (Function.MIN, Function.MAX):
            return self._read_extreme(statistic)
        if statistic.function is Function.QUANTILE:
            return self._read_quantile(statistic)
        if statistic.function is Function.COUNT and statistic.distinct:
            return Reading(0, 0, (), (), (), (), (), None)
        by_side = [
            [argument.expression for argument in statistic.arguments if argument.side == side]
            for side in range(self._holders)
        ]
        people = self._count_people(
            [self._mark(side, own, indicator=True) for side, own in enumerate(by_side)]
        )
        rows = self._term(
            [self._mark(side, own, indicator=False) for side, own in enumerate(by_side)], people
        )
        variables = self._variables(statistic)
        function = statistic.function
        squares = function in SQUARES or function is Function.COVARIANCE
        wanted = () if function is Function.COUNT else variables
        centred = squares or (function is Function.MEAN and self._query.noise is not None)
        if centred and not self._as_they_are():
            wanted = tuple(self._centred(variable) for variable in wanted)
        sums = tuple(self._moment((v,), by_side, people) for v in wanted)
        products: tuple[int, ...] = ()
        if squares:
            products = tuple(
                self._moment((v, w), by_side, people)
                for i, v in enumerate(wanted)
                for w in wanted[i + (function is Function.COVARIANCE) :]
            )
        return Reading(
            people=people,
            rows=rows,
            sums=sums,
            products=products,
            centres=tuple(v.centre for v in wanted),
            decimals=tuple(v.decimals for v in wanted),
            bins=(),
            extreme=None,
        )

    def _read_extreme(self, statistic: Statistic) -> Reading:
        (argument,) = statistic.arguments
        shape = self._shape(argument)
        side, value = argument.side, argument.expression
        if self._query.keep_left and side == 0:
            # An extreme is taken over rows that meet, and would be gated by all that there are: a
            # filter of the other table could leave one person among them.
            raise PlanRefused(
                "statistics",
                "MIN and MAX of the first table are of all its rows in a LEFT JOIN; ask for them "
                "over that table alone",
            )
        mark = self._mark(side, [value], indicator=True)
        people = self._count_people(self._of(side, mark))
        self._extremes.append(
            Extreme(
                side=min(side, 1),
                factor=self._right(side, value) if side else self._factor(side, value),
                mark=self._right_mark(side, value) if side else mark,
                largest=statistic.function is Function.MAX,
                low=shape.low,
                high=shape.high,
                people=people,
            )
        )
        return Reading(people, people, (), (), (), (shape.decimals,), (), len(self._extremes) - 1)

    def _read_quantile(self, statistic: Statistic) -> Reading:
        (argument,) = statistic.arguments
        shape, value = self._shape(argument), argument.expression
        side, cuts = argument.side, statistic.cuts or ()

        def beside(own: int) -> list[int]:
            return [own if s == side else self._unit(s) for s in range(self._holders)]

        people = self._count_people(self._of(side, self._mark(side, [value], indicator=True)))
        rows = self._term(beside(self._mark(side, [value], indicator=False)), people)
        bins = []
        for low, high in zip((None, *cuts[1:-1]), (*cuts[1:-1], None), strict=True):
            inside: Condition = Present(value)
            if low is not None:
                bound = Number(low, shape.decimals)
                inside = Both(inside, Compare(Comparator.AT_LEAST, value, bound))
            if high is not None:
                bound = Number(high, shape.decimals)
                inside = Both(inside, Compare(Comparator.LESS, value, bound))
            own = self._factor(side, Case((When(inside, ONE),), ZERO))
            bins.append(self._term(beside(own), people))
        return Reading(people, rows, (), (), (), (shape.decimals,), tuple(bins), None)

    # Variables and moments

    def _variables(self, statistic: Statistic) -> tuple[_Variable, ...]:
        if statistic.function in (
            Function.COVARIANCE,
            Function.CORRELATION,
            Function.REGRESSION,
        ):
            return tuple(self._variable((argument,)) for argument in statistic.arguments)
        return (self._variable(statistic.arguments),) if statistic.arguments else ()

    def _variable(self, arguments: tuple[Argument, ...]) -> _Variable:
        return _Variable(
            tuple((argument.side, argument.expression) for argument in arguments),
            centre=0,
            decimals=sum(self._shape(argument).decimals for argument in arguments),
        )

    def _as_they_are(self) -> bool:
        """Whether values may not be moved: the dominance limit is one on the values themselves, and
        the sum of x beside that of x - 50 would give the number of people without its rounding."""
        gate = self._query.gate
        exact = self._query.noise is None
        return exact and (gate.dominance is not None or gate.round_counts is not None)

    def _centred(self, variable: _Variable) -> _Variable:
        """Around the middle of its public range, if one side alone has it."""
        if len(variable.parts) != 1:
            return variable
        ((side, expression),) = variable.parts
        shape = self._shape(Argument(side, expression))
        middle = (shape.low + shape.high) // 2
        if not middle:
            return variable
        moved = Arithmetic(Operation.SUBTRACT, expression, Number(middle, shape.decimals))
        return _Variable(((side, moved),), centre=middle, decimals=variable.decimals)

    def _moment(
        self, variables: tuple[_Variable, ...], by_side: list[list[Expression]], people: int
    ) -> int:
        """The term of the sum of the variables' product over rows where nothing is missing."""
        sides = []
        for side in range(self._holders):
            own = [e for v in variables for s, e in v.parts if s == side]
            if not own:
                sides.append(self._mark(side, by_side[side], indicator=False))
                continue
            product = reduce(lambda a, b: Arithmetic(Operation.MULTIPLY, a, b), own)
            if len(by_side[side]) > 1:
                # Missing wherever any of this side's arguments is, not only those multiplied here.
                product = Case((When(_all_present(by_side[side]), product),), ZERO)
            sides.append(self._factor(side, product))
        return self._term(sides, people)

    # Factors and terms

    def _mark(self, side: int, expressions: list[Expression], *, indicator: bool) -> int:
        """The factor that is 1 where none is missing; of several rows their number, unless it is
        an indicator."""
        if not expressions:
            return COUNTED if indicator else self._unit(side)
        condition = _all_present(expressions)
        return self._factor(side, Case((When(condition, ONE),), ZERO), indicator=indicator)

    def _unit(self, side: int) -> int:
        """The factor that counts rows rather than people."""
        if self._contribution(side) == 1:
            return COUNTED
        return self._factor(side, ONE)

    def _factor(self, side: int, expression: Expression, *, indicator: bool = False) -> int:
        repeated = self._contribution(side)
        factor = LocalFactor(expression, indicator and repeated > 1)
        found = self._factors[side]
        if factor not in found:
            shape = self._shape(Argument(side, expression))
            found[factor] = len(found) + 1
            rows = 1 if factor.indicator else repeated
            # Of all own rows, not only of those that can match: an engine refuses rows whose sum
            # could wrap, and whether it does must tell nothing about the rows that filters select.
            self._require_room(shape.widest * rows * self._cap(side))
            self._widest[side].append(shape.widest * rows)
            self._decimals[side].append(shape.decimals)
        return found[factor]

    def _of(self, side: int, factor: int) -> list[int]:
        """A factor of one holder with everybody's 1 of the others."""
        return [factor if s == side else COUNTED for s in range(self._holders)]

    def _right(self, side: int, expression: Expression) -> int:
        """A factor of the second or third holder, as one of the second side."""
        return self._second_side(self._of(side, self._factor(side, expression)))

    def _right_mark(self, side: int, expression: Expression) -> int:
        return self._second_side(self._of(side, self._mark(side, [expression], indicator=True)))

    def _second_side(self, factors: Sequence[int]) -> int:
        """The factor of the second side that these of its holders make. factors: one per holder,
        the first one's as well."""
        _, *own = factors
        if len(own) == 1:
            return own[0]
        pair = (own[0], own[1])
        return self._together.setdefault(pair, len(self._together))

    def _count_people(self, factors: Sequence[int]) -> int:
        left, right = factors[0], self._second_side(factors)
        for index in self._people:
            if list(self._terms)[index][:2] == (left, right):
                return index
        index = len(self._terms)
        self._people.append(index)
        return self._term(factors, index)

    def _term(self, factors: Sequence[int], people: int) -> int:
        """factors: one per holder."""
        left, right = factors[0], self._second_side(factors)
        if self._sides == 1 and right != COUNTED:
            raise PlanRefused("statistics", "of one table name a second one")
        for index, (a, b, gate) in enumerate(self._terms):
            if (a, b) == (left, right) and gate == people:
                return index
        widest = prod(self._widest[side][own] for side, own in enumerate(factors))
        self._require_room(widest * self._pairs())
        self._terms[left, right, people] = index = len(self._terms)
        holders = len(self._plan.sides) if self._plan.join is Join.UNION else 1
        self._facts.append(
            TermFacts(
                decimals=sum(self._decimals[side][own] for side, own in enumerate(factors)),
                widest=widest,
                sensitivity=widest * holders,  # of a union, a person may be with both holders
            )
        )
        return index

    def _require_consistent(self) -> None:
        for condition in self._query.comparisons:
            left = self._shape(Argument(0, condition.left))
            right = self._shape(Argument(condition.right_side, condition.right))
            if left.decimals != right.decimals:
                raise PlanRefused("comparisons", "compare numbers of different decimals")
        if self._query.keep_left and self._contribution(1) > 1:
            # A left row with several matches would be several rows, one without match a single one.
            raise PlanRefused("keep_left", "needs a right table with one row for each person")
        if self._query.comparisons and max(map(self._contribution, range(self._holders))) > 1:
            raise PlanRefused("comparisons", "of rows need products with one row for each person")

    def _pairs(self) -> int:
        if self._plan.join is Join.UNION:
            return sum(product.cap for product in self._products)
        if self._query.keep_left or len(self._products) == 1:
            return self._products[0].cap
        return min(product.cap for product in self._products)

    def _require_room(self, most: int) -> None:
        # The dominance limit compares multiples of a sum as large as its denominator.
        limit = self._query.gate.dominance
        if (most * (limit.denominator if limit else 1)).bit_length() + 1 > RING_BITS:
            raise PlanRefused(
                "statistics",
                "a sum could need more than 62 bits: narrow the values' public range, for instance "
                "with LEAST and GREATEST, or ask for fewer decimals",
            )

    def _cap(self, side: int) -> int:
        if self._plan.join is Join.UNION:
            return max(product.cap for product in self._products)
        return self._products[side].cap

    def _contribution(self, side: int) -> int:
        if self._plan.join is Join.UNION:
            return max(product.contribution for product in self._products)
        return self._products[side].contribution if side < len(self._products) else 1

    def _shape(self, argument: Argument) -> Shape:
        """Public bounds; of a union, wide enough for every holder's column."""
        where = "statistics"
        own = typed(argument.expression, self._products[argument.side], where=where)
        if own.text:
            raise PlanRefused(where, "only numbers are aggregated")
        if self._plan.join is not Join.UNION:
            return own
        shapes = [typed(argument.expression, p, where=where) for p in self._products]
        if any(shape.decimals != own.decimals or shape.text for shape in shapes):
            raise PlanRefused(where, "the united columns are of different types")
        return Shape(False, own.decimals, min(s.low for s in shapes), max(s.high for s in shapes))

    def _slack(self) -> int:
        noise = self._query.noise
        if noise is None or len(noise.scales) != len(self._terms):
            return 0
        widest = max(noise.scales[index] for index in self._people)
        return slack(noise.distribution, widest, noise.beta)


@dataclass(frozen=True)
class _Variable:
    parts: tuple[tuple[int, Expression], ...]
    centre: int
    decimals: int


def _all_present(expressions: Sequence[Expression]) -> Condition:
    unique = list(dict.fromkeys(expressions))
    found: Condition = Present(unique[0])
    for expression in unique[1:]:
        found = Both(found, Present(expression))
    return found


def _group_index(by: GroupBy, product: DataProduct) -> Expression:
    if by.cases is not None:
        whens = tuple(When(case, Number(i, 0)) for i, case in enumerate(by.cases))
        rest = len(by.labels or ()) > len(by.cases)
        return Case(whens, Number(len(by.cases), 0) if rest else None)
    column, value = product.column(by.name), ColumnValue(by.name)
    if by.categories is not None:
        return Case(
            tuple(
                When(Compare(Comparator.EQUAL, value, _category(text, column.type)), Number(i, 0))
                for i, text in enumerate(by.categories)
            ),
            None,
        )
    cuts = by.cuts or ()
    below = tuple(
        When(Compare(Comparator.LESS, value, Number(cut, column.decimals)), Number(i, 0))
        for i, cut in enumerate(cuts)
    )
    return Case((*below, When(Present(value), Number(len(cuts), 0))), None)


def _category(text: str, kind: ColumnType) -> Expression:
    if kind is ColumnType.TEXT:
        return Text(text)
    try:
        return Number(int(text), 0)
    except ValueError:
        raise PlanRefused("group_by", f"{text[:20]!r} is not a number") from None
