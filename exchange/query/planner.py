"""Which join answers a query, and how much noise an epsilon buys.

The join that discloses least comes first: `hidden` tells nobody who matched, `sum` tells both how
many, `revealed` tells both who. It must be one that every agreement and every product allows and
that can compute the query. What is chosen here is judged again by `rules.violations`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from math import lcm
from typing import Final

from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import PartyId
from crypto.joins.intersection import Intersection
from crypto.joins.layout import Layout
from crypto.joins.summable import require_summable
from crypto.noise import Distribution, gate_delta, gaussian_rho, rounded_up
from exchange.errors import QuestionRefused
from exchange.query.exact import unvalued
from exchange.query.plan import (
    HELPED,
    MAY_BE_HELPED,
    Gate,
    HelperSeat,
    Noise,
    Plan,
    Statistic,
)
from exchange.query.program import Program
from exchange.query.rules import BY_ROW, NOISY, NOT_UNBALANCED, Ground, gate_reach, rounds_up
from exchange.query.standing import is_unbalanced
from registry.product import DataProduct
from registry.rule import Function, Join

LEAST_DISCLOSURE: Final = (Join.HIDDEN, Join.SUM, Join.REVEALED)
WORTH_A_HELPER_MS: Final = 2_000
SHORT_DENOMINATOR: Final = 10**6
_DIGITS: Final = 60


def joins_for(tables: int, *, union: bool) -> tuple[Join, ...]:
    """Those that fit the shape of a question, the least disclosure first."""
    if union:
        return (Join.UNION,)
    if tables == 1:
        return (Join.ALONE,)
    return LEAST_DISCLOSURE if tables == 2 else (Join.HIDDEN,)


def not_allowed(join: Join, grounds: Sequence[Ground]) -> str | None:
    """Who does not allow a join."""
    for ground in grounds:
        if join not in ground.product.rule.joins:
            return f"{ground.product.name} does not allow it"
        if join not in ground.agreement.terms.joins:
            return f"it was not agreed for {ground.product.name}"
    return None


def helper_for(
    join: Join,
    grounds: Sequence[Ground],
    helpers: Mapping[PartyId, Digest],
    *,
    asked: bool | None = None,
) -> HelperSeat | None:
    """Raises QuestionRefused where a join needs a helper and the agreements name no common one.

    asked: whether a join that can do without is to have one; None: not at first (see `quicker`)
    """
    if join not in HELPED and not (asked and join in MAY_BE_HELPED):
        return None
    named = {ground.agreement.terms.helper for ground in grounds}
    if len(named) != 1:
        raise QuestionRefused("join", f"{join} needs one helper; the agreements name several")
    (helper,) = named
    if helper is None:
        raise QuestionRefused("join", f"{join} needs a helper; the agreements name none")
    if helper not in helpers:
        raise QuestionRefused("join", f"{join} needs its helper {helper}, who is not known here")
    return HelperSeat(helper, helpers[helper])


def quicker(
    plan: Plan,
    products: Sequence[DataProduct],
    grounds: Sequence[Ground],
    helpers: Mapping[PartyId, Digest],
) -> Plan:
    """A revealed join with the helper that the agreements name, where the forecast says that it
    takes so much less time that one party more may learn how many rows matched; else as it was."""
    if plan.join is not Join.REVEALED or plan.helper is not None:
        return plan
    # Here, because it loads numpy, and whoever asks for help should not wait for that.
    from exchange.query.forecast import explain

    try:
        helped = replace(plan, helper=helper_for(plan.join, grounds, helpers, asked=True))
    except QuestionRefused:
        return plan
    saved = explain(plan, products).expected_ms - explain(helped, products).expected_ms
    return helped if saved >= WORTH_A_HELPER_MS else plan


def intersection_for(
    join: Join, products: Sequence[DataProduct], asked: Intersection | None
) -> Intersection | None:
    """How a revealed join finds the rows in common: as asked, else what takes least once the larger
    side's keys are masked. Raises QuestionRefused for what was asked in vain."""
    if join is not Join.REVEALED:
        return None
    unbalanced = is_unbalanced([product.cap for product in products])
    if asked is Intersection.UNBALANCED and not unbalanced:
        raise QuestionRefused("intersection", NOT_UNBALANCED)
    if asked is not None:
        return asked
    return Intersection.UNBALANCED if unbalanced else Intersection.RR22


def strictest_gate(grounds: Sequence[Ground], min_group: int | None, *, noisy: bool) -> Gate:
    """min_group: what the question asks for; None: the strictest that was agreed."""
    rules = [ground.product.rule for ground in grounds]
    agreed = [max(g.agreement.terms.min_group, g.product.rule.min_group) for g in grounds]
    least = max(agreed)
    limits = [rule.dominance for rule in rules if rule.dominance is not None]
    rounding = lcm(*(rule.round_counts or 1 for rule in rules))
    if rounding > 1 and min(agreed) < least and not noisy:
        least = rounds_up(least, rounding)  # no side's own, so it must be the rounding's
    return Gate(
        min_group=least if min_group is None else min_group,
        # An exact test would void the noise, and noise bounds what one person adds anyway.
        dominance=min(limits) if limits and not noisy else None,
        round_counts=rounding if rounding > 1 else None,
    )


def require_releasable(
    statistics: Sequence[Statistic], products: Sequence[DataProduct], epsilon: Fraction | None
) -> None:
    """Raises QuestionRefused where noise is due and not asked for, or can't be."""
    functions = {statistic.function for statistic in statistics}
    if epsilon is None:
        for product in products:
            privacy = product.rule.privacy
            if privacy is not None and privacy.noise:
                raise QuestionRefused(
                    "epsilon",
                    f"{product.name} releases numbers only with noise; give epsilon, at most "
                    f"{privacy.epsilon_per_job} for one job",
                )
        if Function.QUANTILE in functions:
            raise QuestionRefused(
                "epsilon",
                "a quantile shows a histogram, so it is released only with noise; give epsilon",
            )
        return
    for product in products:
        if product.rule.privacy is None:
            raise QuestionRefused(
                "epsilon", f"{product.name} has no epsilon that could be spent; leave epsilon out"
            )
    extremes = sorted(str(f.value).upper() for f in functions & BY_ROW)
    if extremes:
        raise QuestionRefused(
            extremes[0],
            "is one person's value, which no noise can cover; ask for QUANTILE_CONT(column, 0.05) "
            "or (column, 0.95), or leave epsilon out where the products allow it",
        )


def obstacle(plan: Plan, layout: Layout) -> str | None:
    """Why a plan's join can't compute its query, in words that follow the join's name."""
    join, query = plan.join, plan.query
    if layout.by_row and join is not Join.HIDDEN:
        causes = [
            name
            for name, there in (
                ("MIN and MAX", layout.extremes),
                ("conditions across tables", layout.comparisons),
                ("a dominance limit without noise", layout.dominance is not None),
            )
            if there
        ]
        return f"cannot compute {', '.join(causes)}: that takes the hidden join"
    if query.noise is not None and join not in NOISY:
        return "adds no noise"
    if join is Join.SUM:
        try:
            require_summable(layout)
        except Malformed as error:
            return f"cannot compute this: {error.where} {error.problem}"
        lacking = unvalued(plan)
        if lacking:
            return f"needs WHERE {lacking[0]} IS NOT NULL: it has one number of people for all"
    return None


def asked_noise(epsilon: Fraction, delta: Fraction, distribution: Distribution) -> Noise:
    """What is asked for, before the scales are known; only to see which terms there are."""
    rho = Fraction(1) if distribution is Distribution.GAUSSIAN else None
    return Noise(distribution, epsilon, delta, rho, (), delta)


def scaled_noise(
    epsilon: Fraction, delta: Fraction, distribution: Distribution, program: Program
) -> Noise:
    """Noise that is worth no more than epsilon and delta, spread evenly over the terms.

    Laplace: b = sensitivity * terms / epsilon. Gaussian: half of delta for the gate; of what is
    left rho as in Bun and Steinke 2016, proposition 1.3, and sigma = sensitivity *
    sqrt(terms / (2 rho)). Both are rounded up to short fractions.
    """
    if epsilon <= 0 or not 0 < delta < 1:
        raise QuestionRefused("epsilon", "must be above 0, and delta between 0 and 1")
    # A constant cannot tell anything, but a scale of 0 is no noise.
    reach = [Fraction(max(facts.sensitivity, 1)) for facts in program.terms]
    count = len(reach)
    if distribution is Distribution.LAPLACE:
        scales = tuple(_short(s * count / epsilon) for s in reach)
        return Noise(distribution, epsilon, delta, None, scales, _beta(epsilon, delta, program))
    beta = _beta(epsilon, delta / 2, program)
    rho = gaussian_rho(epsilon, delta - gate_delta(epsilon, beta, gate_reach(program)))
    if rho <= 0:
        raise QuestionRefused("delta", f"{delta} is too little for Gaussian noise; raise it")
    with localcontext() as context:
        context.prec = _DIGITS
        root = (_decimal(Fraction(count) / (2 * rho))).sqrt()
        scales = tuple(rounded_up(_decimal(s) * root) for s in reach)
    return Noise(distribution, epsilon, delta, rho, scales, beta)


def _beta(epsilon: Fraction, delta: Fraction, program: Program) -> Fraction:
    """The largest short fraction for which the gate costs at most delta."""
    with localcontext() as context:
        context.prec = _DIGITS
        # gate_delta rounds up in its twelfth digit.
        exact = _decimal(delta) / (gate_reach(program) * (1 + _decimal(epsilon).exp()))
        step = Decimal(1).scaleb(exact.adjusted() - 5)
        units = (exact * (1 - Decimal(10) ** -9) / step).to_integral_value(ROUND_FLOOR)
        return Fraction(units * step)


def _short(value: Fraction) -> Fraction:
    if value.denominator <= SHORT_DENOMINATOR:
        return value
    with localcontext() as context:
        context.prec = _DIGITS
        return rounded_up(_decimal(value))


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)
