"""Expressions and statistics as a person reads them, from the plan alone.

Every operator stands in brackets, so nobody has to know which binds closer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Final

from exchange.query.plan import Argument, CrossCondition, GroupBy, Plan, Statistic
from exchange.query.released import Calculated, Having, Output, Released, Value
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Compare,
    Condition,
    Expression,
    Not,
    Number,
    OneOf,
    Operation,
    Present,
    Text,
)
from registry.rule import Function, Join


class Language(StrEnum):
    ENGLISH = "en"
    CHINESE = "zh-CN"


_FUNCTIONS: Final[Mapping[Language, Mapping[str, str]]] = {
    Language.ENGLISH: {
        "people": "number of people",
        "pairs": "number of rows",
        Function.COUNT: "number of rows with {0}",
        Function.SUM: "sum of {0}",
        Function.MEAN: "mean of {0}",
        Function.VARIANCE: "variance of {0}",
        Function.STDDEV: "standard deviation of {0}",
        Function.MIN: "least {0}",
        Function.MAX: "largest {0}",
        Function.QUANTILE: "{share}-quantile of {0}",
        Function.COVARIANCE: "covariance of {0} and {1}",
        Function.CORRELATION: "correlation of {0} and {1}",
        Function.REGRESSION: "regression of {0} on {rest}",
        "of": "{0} of holder {1}",
    },
    Language.CHINESE: {
        "people": "人数",
        "pairs": "行数",
        Function.COUNT: "有 {0} 的行数",
        Function.SUM: "{0} 之和",
        Function.MEAN: "{0} 的平均值",
        Function.VARIANCE: "{0} 的方差",
        Function.STDDEV: "{0} 的标准差",
        Function.MIN: "{0} 的最小值",
        Function.MAX: "{0} 的最大值",
        Function.QUANTILE: "{0} 的 {share} 分位数",
        Function.COVARIANCE: "{0} 与 {1} 的协方差",
        Function.CORRELATION: "{0} 与 {1} 的相关系数",
        Function.REGRESSION: "{0} 对 {rest} 的回归",
        "of": "持有方 {1} 的 {0}",
    },
}


def statistic_text(plan: Plan, statistic: Statistic, language: Language) -> str:
    """What one statistic is, such as *correlation of bmi of holder 1 and s5 of holder 2*."""
    words = _FUNCTIONS[language]
    if statistic.function is Function.COUNT and not statistic.arguments:
        return words["people" if statistic.distinct else "pairs"]
    parts = [_argument(plan, argument, words) for argument in statistic.arguments]
    if statistic.function not in (
        Function.COVARIANCE,
        Function.CORRELATION,
        Function.REGRESSION,
    ):
        parts = [" * ".join(parts)]
    share = "" if statistic.quantile is None else fraction_text(statistic.quantile)
    return words[statistic.function].format(*parts, share=share, rest=", ".join(parts[1:]))


def expression_text(root: Expression) -> str:
    """As in SQL, over one side's columns."""
    if isinstance(root, ColumnValue):
        return root.column
    if isinstance(root, Number):
        return number_text(root)
    if isinstance(root, Text):
        return "'" + printable(root.text).replace("'", "''") + "'"
    if isinstance(root, Arithmetic):
        left, right = expression_text(root.left), expression_text(root.right)
        if root.operation in (Operation.LEAST, Operation.GREATEST):
            return f"{root.operation.upper()}({left}, {right})"
        return f"({left} {root.operation} {right})"
    return _case_text(root)


def condition_text(root: Condition) -> str:
    if isinstance(root, Compare):
        left, right = expression_text(root.left), expression_text(root.right)
        return f"{left} {root.comparator} {right}"
    if isinstance(root, OneOf):
        options = ", ".join(expression_text(option) for option in root.options)
        return f"{expression_text(root.value)} IN ({options})"
    if isinstance(root, Present):
        return f"{expression_text(root.value)} IS NOT NULL"
    if isinstance(root, Not):
        return f"NOT ({condition_text(root.condition)})"
    word = "AND" if isinstance(root, Both) else "OR"
    return f"({condition_text(root.left)} {word} {condition_text(root.right)})"


def comparison_text(comparison: CrossCondition) -> str:
    left, right = expression_text(comparison.left), expression_text(comparison.right)
    return f"1.{left} {comparison.order} {comparison.right_side + 1}.{right}"


def group_text(group: GroupBy, labels: Sequence[str] | None) -> str:
    """A group key with its domain. labels: what its groups are called, if the product is known."""
    if group.cases is None or group.labels is None:
        shown = labels or group.categories
        return group.name if shown is None else f"{group.name}: {', '.join(map(printable, shown))}"
    named = [
        f"{printable(label)}: {condition_text(case)}"
        for label, case in zip(group.labels, group.cases, strict=False)
    ]
    rest = map(printable, group.labels[len(group.cases) :])
    return f"{printable(group.name)}: {'; '.join([*named, *rest])}"


def output_text(plan: Plan, output: Output, language: Language) -> str:
    return value_text(plan, output.value, language)


def having_text(plan: Plan, having: Having, language: Language) -> str:
    left, right = (value_text(plan, v, language) for v in (having.left, having.right))
    return f"{left} {having.comparator} {right}"


def value_text(plan: Plan, value: Value, language: Language) -> str:
    if isinstance(value, Number):
        return number_text(value)
    if isinstance(value, Calculated):
        left, right = (value_text(plan, v, language) for v in (value.left, value.right))
        return f"({left} {value.calculation} {right})"
    return _released_text(plan, value, language)


def _released_text(plan: Plan, released: Released, language: Language) -> str:
    statistic = plan.query.statistics[released.statistic]
    text = statistic_text(plan, statistic, language)
    if statistic.function is not Function.REGRESSION:
        return text
    chinese = language is Language.CHINESE
    names: dict[int, str] = {
        0: "截距" if chinese else "intercept",
        -1: "R²",
        -2: "行数" if chinese else "number of rows",
    }
    if released.part in names:
        return f"{names[released.part]} ({text})"
    words = _FUNCTIONS[language]
    slope = "系数" if chinese else "coefficient"
    column = _argument(plan, statistic.arguments[released.part], words)
    return f"{slope} {column} ({text})"


def printable(text: str) -> str:
    """With what cannot be printed spelt out: a consumer's text must not move a holder's cursor or
    hide a line."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def number_text(number: Number) -> str:
    """Decimal, with the decimals it was written with."""
    if number.decimals == 0:
        return str(number.value)
    sign, digits = "-" if number.value < 0 else "", f"{abs(number.value):0{number.decimals + 1}d}"
    return f"{sign}{digits[: -number.decimals]}.{digits[-number.decimals :]}"


def fraction_text(value: Fraction) -> str:
    """Decimal where that is exact and short, 1/4 as 0.25; else the fraction."""
    for decimals in range(7):
        scaled = value * 10**decimals
        if scaled.denominator == 1:
            return number_text(Number(scaled.numerator, decimals))
    return f"{value.numerator}/{value.denominator}"


def _argument(plan: Plan, argument: Argument, words: Mapping[str, str]) -> str:
    text = expression_text(argument.expression)
    if plan.join in (Join.UNION, Join.ALONE):
        return text
    return words["of"].format(text, argument.side + 1)


def _case_text(case: Case) -> str:
    whens = " ".join(
        f"WHEN {condition_text(when.condition)} THEN {expression_text(when.value)}"
        for when in case.whens
    )
    rest = "" if case.otherwise is None else f" ELSE {expression_text(case.otherwise)}"
    return f"CASE {whens}{rest} END"
