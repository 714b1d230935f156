"""Aggregates: which statistics a query computes, and what is calculated from them once they are
released.

A statistic is over one table's expression, or over a product of one expression of each table; only
that can be computed from sums. Whatever else is written is split into such products or refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Final

from exchange.errors import QuestionRefused
from exchange.query.domains import equal_steps
from exchange.query.exact import NOT_PLAIN, is_plain
from exchange.query.plan import Argument, Statistic
from exchange.query.released import Calculated, Calculation, Released, Value
from exchange.query.scope import Tables, balanced, chain, exact, nodes, number, placed, typed_at
from exchange.query.sql import Branches, Call, Figure, Infix, Name, Node, Star
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    Condition,
    Expression,
    Number,
    Operation,
    Present,
    Shape,
    When,
)
from registry.rule import Function

QUANTILE_STEPS: Final = 16
MAX_STEPS: Final = 256
ONE: Final = Number(1, 0)

_SIMPLE: Final[Mapping[str, Function]] = {
    "SUM": Function.SUM,
    "AVG": Function.MEAN,
    "VAR_SAMP": Function.VARIANCE,
    "VARIANCE": Function.VARIANCE,
    "STDDEV": Function.STDDEV,
    "STDDEV_SAMP": Function.STDDEV,
    "MIN": Function.MIN,
    "MAX": Function.MAX,
}
_QUANTILES: Final = (
    "MEDIAN",
    "QUANTILE_CONT",
    "PERCENTILE_CONT",
    "APPROX_QUANTILE",
    "QUANTILE_CUTS",
)
# Which number of a regression: see released.Released.part.
_REGRESSIONS: Final[Mapping[str, int]] = {
    "REGR_INTERCEPT": 0,
    "REGR_SLOPE": 1,
    "REGR_R2": -1,
    "LINREG_INTERCEPT": 0,
    "LINREG_R2": -1,
    "LINREG_COUNT": -2,
}
AGGREGATES: Final = frozenset(
    {
        "COUNT",
        "APPROX_COUNT_DISTINCT",
        "VAR_POP",
        "CORR",
        "COVAR_SAMP",
        "COVAR_POP",
        "REGR_COUNT",
        "LINREG_COEF",
        "LINEAR_REGRESSION",
        *_SIMPLE,
        *_QUANTILES,
        *_REGRESSIONS,
    }
)
# Aggregates elsewhere: seen as such, so that they are refused by name where they stand.
_ELSEWHERE: Final[Mapping[str, str]] = {
    "STDDEV_POP": "take the square root of VAR_POP",
    "PERCENTILE_DISC": "write PERCENTILE_CONT",
    "QUANTILE": "write QUANTILE_CONT(column, 0.9)",
    "QUANTILE_DISC": "write QUANTILE_CONT",
    "MODE": "group by the column and count",
    "MEAN": "write AVG",
    "COUNT_IF": "write COUNT(*) FILTER (WHERE …)",
    "SUM_IF": "write SUM(…) FILTER (WHERE …)",
    "REGR_SXX": "write VAR_POP(x) * REGR_COUNT(y, x)",
    "REGR_AVGX": "write AVG(x)",
    "REGR_AVGY": "write AVG(y)",
    "STRING_AGG": "rows are never shown",
    "ARRAY_AGG": "rows are never shown",
    "LIST": "rows are never shown",
    "ANY_VALUE": "rows are never shown",
    "FIRST": "rows are never shown",
    "LAST": "rows are never shown",
    "ARG_MAX": "rows are never shown",
    "ARG_MIN": "rows are never shown",
    "ROW_NUMBER": "rows are never shown",
    "BOOL_OR": "count them with WHERE, or with FILTER and noise",
    "BOOL_AND": "count them with WHERE, or with FILTER and noise",
}


def is_aggregate(node: Node) -> bool:
    """Whether an aggregate stands anywhere in it."""
    return any(
        isinstance(part, Call) and (part.function in AGGREGATES or part.function in _ELSEWHERE)
        for part in nodes(node)
    )


class Aggregates:
    """Collects the statistics of one query. noisy: whether noise is asked for."""

    def __init__(self, tables: Tables, *, noisy: bool) -> None:
        self._tables, self._noisy = tables, noisy
        self.statistics: list[Statistic] = []

    def released(self, node: Node, named: Mapping[str, Value]) -> Value:
        """A number of the answer. named: columns of the answer that can be meant by their name."""
        if isinstance(node, Figure):
            return number(node)
        if isinstance(node, Infix) and node.sign in ("+", "-", "*", "/"):
            return Calculated(
                Calculation(node.sign),
                self.released(node.left, named),
                self.released(node.right, named),
            )
        if isinstance(node, Call) and node.function in AGGREGATES:
            return self._aggregate(node)
        if isinstance(node, Call) and node.function in _ELSEWHERE:
            advice = _ELSEWHERE[node.function]
            raise QuestionRefused(node.text, f"{node.function} is not supported: {advice}")
        if isinstance(node, Name):
            for name, value in named.items():
                if node.table is None and name.lower() == node.column.lower():
                    return value
            raise QuestionRefused(node.text, "is a column of rows; aggregate it, as in AVG(…)")
        raise QuestionRefused(
            node.text, "aggregates are combined with + - * / and with numbers, and in no other way"
        )

    def _aggregate(self, call: Call) -> Value:
        name = call.function
        if call.distinct and name != "COUNT":
            raise QuestionRefused(call.text, "DISTINCT goes with COUNT(DISTINCT key) alone")
        call = self._filtered(call)
        if name in ("COUNT", "APPROX_COUNT_DISTINCT"):
            return Released(self._count(call), 0)
        if name == "LINEAR_REGRESSION":
            raise QuestionRefused(
                call.text,
                "stands alone in SELECT; inside a calculation write LINREG_COEF(1, y, x1, …), "
                "LINREG_INTERCEPT(y, x1, …), LINREG_R2 or LINREG_COUNT",
            )
        if name in _SIMPLE:
            return Released(self._simple(call, _SIMPLE[name]), 0)
        if name == "VAR_POP":
            spread = self._simple(call, Function.VARIANCE)
            return _of_all(spread, self._simple(call, Function.COUNT))
        if name in _QUANTILES:
            return Released(self._quantile(call), 0)
        if name in ("CORR", "COVAR_SAMP", "COVAR_POP", "REGR_COUNT"):
            return self._of_two(call)
        return self._regression_part(call)

    def _filtered(self, call: Call) -> Call:
        """FILTER (WHERE c) as CASE WHEN c THEN … END."""
        if call.only is None:
            return call
        if call.distinct or call.function not in ("COUNT", "VAR_POP", *_SIMPLE, *_QUANTILES):
            raise QuestionRefused(call.text, "takes no FILTER; put the condition into WHERE")
        first, *rest = call.arguments or (Star("*"),)
        if isinstance(first, Star):
            first = Figure("1", 1, 0)
        value = Branches(call.text, ((call.only, first),), None)
        return replace(call, arguments=(value, *rest), only=None)

    def _count(self, call: Call) -> int:
        if len(call.arguments) != 1:
            raise QuestionRefused(call.text, "write COUNT(*) or COUNT(column)")
        (node,) = call.arguments
        key = self._tables.scope.key_side(node)
        people = call.distinct or call.function == "APPROX_COUNT_DISTINCT"
        if people:
            if key is None:
                raise QuestionRefused(
                    call.text,
                    "only people are counted distinctly: COUNT(DISTINCT key) with the join key; "
                    "for the values of a column, group by it",
                )
            if self._tables.union:
                raise QuestionRefused(
                    call.text,
                    "would count a person of both holders once, which needs their keys matched; "
                    "COUNT(*) counts the rows of both",
                )
            if call.function == "APPROX_COUNT_DISTINCT" and not self._noisy:
                raise QuestionRefused(
                    call.text, "is a count with noise: give `epsilon`, or write COUNT(DISTINCT …)"
                )
        if self._tables.keep_left and key == 1:
            return self._statistic(call, Function.COUNT, (Argument(1, ONE),))  # rows with a match
        if people:
            return self._statistic(call, Function.COUNT, (), distinct=True)
        if key is not None or isinstance(node, Star | Figure):
            return self._statistic(call, Function.COUNT, ())
        column = self._tables.scope.plain_column(node)
        if column is not None and column.low is None:  # it has no range, but it can be present
            side, value = self._tables.scope.column(node)  # type: ignore[arg-type]  # it is a Name
            present = Case((When(Present(value), ONE),), None)
            return self._statistic(call, Function.COUNT, (Argument(side, present),))
        return self._simple(call, Function.COUNT)

    def _simple(self, call: Call, function: Function) -> int:
        if len(call.arguments) != 1 or isinstance(call.arguments[0], Star):
            raise QuestionRefused(call.text, f"write {call.function}(column)")
        (node,) = call.arguments
        if function in (Function.MIN, Function.MAX):
            return self._statistic(call, function, (self._argument(node)[0],))
        return self._statistic(call, function, self._product(call, node, function))

    def _argument(self, node: Node) -> tuple[Argument, Shape]:
        """A number of one table."""
        if isinstance(node, Star):
            raise QuestionRefused(node.text, "stands in COUNT(*) only")
        sides = self._tables.scope.sides_of(node)
        if len(sides) > 1:
            several = self._tables.several
            raise QuestionRefused(node.text, f"reads {several}; here one table's number stands")
        side = min(sides, default=0)
        value, shape = self._tables.scope.checked_number(node, self._tables.behind(side))
        return Argument(side, value), shape

    def _product(self, call: Call, node: Node, function: Function) -> tuple[Argument, ...]:
        """A number of one table, or a product of one of each."""
        if len(self._tables.scope.sides_of(node)) <= 1:
            return (self._argument(node)[0],)
        factors = self._factors(call, node, zero=function is Function.SUM)
        for side, factor in factors.items():
            typed_at(node, factor, self._tables.products[side])
        return tuple(Argument(side, factors[side]) for side in sorted(factors))

    def _factors(self, call: Call, node: Node, *, zero: bool) -> dict[int, Expression]:
        """The factor of each table. zero: whether ELSE 0 adds as little as no ELSE does."""
        sides = self._tables.scope.sides_of(node)
        if len(sides) <= 1:
            return {min(sides, default=0): self._tables.scope.value(node)}
        if isinstance(node, Infix) and node.sign == "*":
            found = self._factors(call, node.left, zero=zero)
            for side, factor in self._factors(call, node.right, zero=zero).items():
                own = found.get(side)
                multiplied = Arithmetic(Operation.MULTIPLY, own, factor) if own else factor
                found[side] = multiplied
            return found
        if isinstance(node, Branches) and len(node.whens) == 1:
            nothing = node.otherwise is None or (
                zero and isinstance(node.otherwise, Figure) and node.otherwise.value == 0
            )
            if nothing:
                return self._split_case(call, node, zero=zero)
        raise QuestionRefused(
            node.text,
            f"{call.function} over {self._tables.several} takes a product of one expression each, "
            "as in SUM(a.x * b.y), or one CASE WHEN … THEN … END; for sums write SUM(a.x) + "
            "SUM(b.y)",
        )

    def _split_case(self, call: Call, node: Branches, *, zero: bool) -> dict[int, Expression]:
        """CASE WHEN a.p AND b.q THEN a.x * b.y END is the product of one CASE of each table."""
        ((root, value),) = node.whens
        conditions: dict[int, list[Condition]] = {}
        for part in chain(root, "and"):
            sides = self._tables.scope.sides_of(part)
            if len(sides) != 1:
                raise QuestionRefused(
                    part.text,
                    "in CASE, each condition reads one table; comparisons across go into WHERE",
                )
            (side,) = sides
            found = self._tables.scope.checked_condition(part, [self._tables.products[side]])
            conditions.setdefault(side, []).append(found)
        factors = self._factors(call, value, zero=zero)
        return {
            side: Case((When(balanced(conditions[side], Both), factors.get(side, ONE)),), None)
            if side in conditions
            else factors[side]
            for side in sorted({*conditions, *factors})
        }

    def _quantile(self, call: Call) -> int:
        usage = f"write {call.function}(column, 0.9) or {call.function}(column, 0.9, steps)"
        node, *rest = call.arguments or (Star("*"),)
        if call.function == "MEDIAN":
            usage = "write MEDIAN(column) or MEDIAN(column, steps)"
            share = Fraction(1, 2)
        elif rest:
            share, rest = exact(call, rest[0]), rest[1:]
        else:
            raise QuestionRefused(call.text, usage)
        if not 0 < share < 1:
            raise QuestionRefused(call.text, "the share must lie between 0 and 1")
        argument, shape = self._argument(node)
        if call.function == "QUANTILE_CUTS":
            cuts = tuple(_units(call, exact(call, part), shape) for part in rest)
        elif len(rest) <= 1:
            steps = exact(call, rest[0]) if rest else Fraction(QUANTILE_STEPS)
            if steps.denominator != 1 or not 1 <= steps <= MAX_STEPS:
                raise QuestionRefused(call.text, f"steps are 1 to {MAX_STEPS}")
            cuts = equal_steps(shape, int(steps))
        else:
            raise QuestionRefused(call.text, usage)
        return self._statistic(call, Function.QUANTILE, (argument,), share=share, cuts=cuts)

    def _of_two(self, call: Call) -> Value:
        if len(call.arguments) != 2:
            raise QuestionRefused(call.text, f"write {call.function}(y, x)")
        arguments = tuple(self._argument(node)[0] for node in call.arguments)
        if call.function == "CORR":
            return Released(self._statistic(call, Function.CORRELATION, arguments), 0)
        if call.function == "REGR_COUNT":
            return Released(self._statistic(call, Function.COUNT, arguments), 0)
        spread = self._statistic(call, Function.COVARIANCE, arguments)
        if call.function == "COVAR_SAMP":
            return Released(spread, 0)
        return _of_all(spread, self._statistic(call, Function.COUNT, arguments))

    def _regression_part(self, call: Call) -> Value:
        if call.function == "LINREG_COEF":
            number, *rest = call.arguments or (Star("*"),)
            part = exact(call, number)
            if part.denominator != 1 or not 0 <= part < len(rest):
                raise QuestionRefused(
                    call.text, "write LINREG_COEF(i, y, x1, …) with i from 0, the intercept"
                )
            call = replace(call, arguments=tuple(rest))
            return Released(self.regression(call), int(part))
        if call.function.startswith("REGR_") and len(call.arguments) != 2:
            raise QuestionRefused(call.text, f"write {call.function}(y, x)")
        return Released(self.regression(call), _REGRESSIONS[call.function])

    def regression(self, call: Call) -> int:
        """The place of a regression among the statistics."""
        if not 2 <= len(call.arguments) <= 8:
            raise QuestionRefused(call.text, "takes y and 1 to 7 explaining columns")
        arguments = tuple(self._argument(node)[0] for node in call.arguments)
        return self._statistic(call, Function.REGRESSION, arguments)

    def _statistic(
        self,
        call: Call,
        function: Function,
        arguments: tuple[Argument, ...],
        *,
        distinct: bool = False,
        share: Fraction | None = None,
        cuts: tuple[int, ...] | None = None,
    ) -> int:
        """Its place; what is asked for twice is computed once."""
        with placed(str(function.value)):
            found = Statistic(function, arguments, distinct, share, cuts)
        quantile = function is Function.QUANTILE  # its own words come with the whole question
        if not (self._noisy or quantile or is_plain(found, keep_left=self._tables.keep_left)):
            raise QuestionRefused(call.text, NOT_PLAIN)
        if found not in self.statistics:
            self.statistics.append(found)
        return self.statistics.index(found)


def _units(node: Node, number: Fraction, shape: Shape) -> int:
    found = number * 10**shape.decimals
    if found.denominator != 1:
        raise QuestionRefused(node.text, f"its cuts have at most {shape.decimals} decimals")
    return int(found)


def _of_all(spread: int, count: int) -> Value:
    """A sample variance or covariance as that of a whole population: times (n - 1) / n."""
    people = Released(count, 0)
    fewer = Calculated(Calculation.SUBTRACT, people, ONE)
    scaled_up = Calculated(Calculation.MULTIPLY, Released(spread, 0), fewer)
    return Calculated(Calculation.DIVIDE, scaled_up, people)
