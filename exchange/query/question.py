"""Questions: SQL over the names that a consumer gives to data products, and how to answer it.

`compile_question` turns a question, under agreements, into the plan that discloses least. It does
not check rules: `rules.violations` does, at the consumer's node, at the hub and at each holder, and
needs nothing of what happened here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from crypto.digest import SALT_BYTES, Digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId, ProductId
from crypto.joins.intersection import Intersection
from crypto.noise import Distribution
from crypto.ports import Randomness
from exchange.errors import PlanRefused, QuestionRefused
from exchange.jobs import MAX_RUN_S
from exchange.query import planner
from exchange.query.binding import Bound, bind
from exchange.query.explanation import learns
from exchange.query.plan import MAX_EPSILON, Padding, Plan, Query, Receiver, SidePlan
from exchange.query.ports import SqlReader
from exchange.query.program import Program, program_of
from exchange.query.rules import Ground
from registry.errors import DocumentRefused
from registry.rule import Join

DELTA: Final = Fraction(1, 10**9)
PADDING: Final = Padding(Fraction(1, 10), DELTA)
RUN_SECONDS: Final = 600


@dataclass(frozen=True)
class Question:
    """sql: see docs/sql.md. tables: what names in FROM stand for; a table may also be named by its
    product id or by `slug(product.name)`, where the agreements leave no doubt.

    join:      None: the one that discloses least of those that are agreed and can compute it
    intersection: of the revealed join; None: unbalanced where one product is that much larger, else
                  RR22
    helped:    of the revealed join: whether the helper that the agreements name computes as well;
               None: where that is expected to save two seconds or more
    min_group: None: the strictest that was agreed
    epsilon:   of noise on everything released; None: no noise. delta goes with it
    padding:   of the hidden join
    """

    sql: str
    tables: Mapping[str, ProductId]
    purpose: str
    join: Join | None = None
    intersection: Intersection | None = None
    helped: bool | None = None
    hide_size: bool = False
    min_group: int | None = None
    epsilon: Fraction | None = None
    delta: Fraction = DELTA
    distribution: Distribution = Distribution.LAPLACE
    padding: Padding = field(default=PADDING)
    run_seconds: int = RUN_SECONDS


@dataclass(frozen=True)
class Footing:
    """One product's ground with the digests that a plan names."""

    ground: Ground
    agreement: Digest
    product: Digest


def compile_question(
    question: Question,
    footings: Mapping[ProductId, Footing],
    *,
    reader: SqlReader,
    operator: PartyId,
    helpers: Mapping[PartyId, Digest],
    now: datetime,
    wait: timedelta,
    randomness: Randomness,
) -> Plan:
    """The plan that answers `question`. Raises QuestionRefused, naming the fragment or option.

    footings: of every product that the deal has an agreement about; the question picks its own.
    helpers:  party documents of those whom the agreements name as helper.
    wait:     how long the holders have to admit it, while the agreements last.
    """
    products = {number: footing.ground.product for number, footing in footings.items()}
    noisy = question.epsilon is not None
    bound = bind(reader.read(question.sql), question.tables, products, noisy=noisy)
    used = tuple(footings[product.id] for product in bound.products)
    grounds = tuple(footing.ground for footing in used)
    planner.require_releasable(bound.statistics, bound.products, question.epsilon)
    _require_options(question)
    first = grounds[0].agreement
    ends = min(ground.agreement.terms.valid_until for ground in grounds)
    gate = planner.strictest_gate(grounds, question.min_group, noisy=noisy)
    job, salt = JobId.new(now, randomness), randomness.draw(SALT_BYTES)

    def draft(join: Join) -> Plan:
        """Under one join, with noise of scales that are still to be found."""
        return Plan(
            v=1,
            job=job,
            deal=first.deal,
            consumer=first.consumer,
            consumer_document=first.consumer_document,
            operator=operator,
            purpose=question.purpose,
            join=join,
            sides=tuple(_side(index, used, bound) for index in range(len(used))),
            helper=planner.helper_for(join, grounds, helpers, asked=question.helped),
            work=Query(
                keep_left=bound.keep_left,
                hide_size=question.hide_size,
                intersection=planner.intersection_for(join, bound.products, question.intersection),
                comparisons=bound.comparisons,
                statistics=bound.statistics,
                outputs=bound.outputs,
                having=bound.having,
                gate=gate,
                padding=question.padding if join is Join.HIDDEN else None,
                noise=None
                if question.epsilon is None
                else planner.asked_noise(question.epsilon, question.delta, question.distribution),
            ),
            currency=first.terms.currency,
            receivers=(Receiver(first.consumer, first.consumer_document),),
            created_at=now,
            # An agreement that is over is for the rules to name.
            run_by=min(now + wait, ends) if ends > now else now + wait,
            run_seconds=question.run_seconds,
            learns={},
            salt=salt,
        )

    plan = _planned(question, bound, grounds, draft)
    if question.helped is None:
        plan = planner.quicker(plan, bound.products, grounds, helpers)
    return replace(plan, learns=learns(plan))


def grounds_of(plan: Plan, footings: Mapping[ProductId, Footing]) -> tuple[Ground, ...]:
    """What each side of a plan compiled from these is judged by, in the plan's order."""
    by_digest = {footing.product: footing.ground for footing in footings.values()}
    return tuple(by_digest[side.product] for side in plan.sides)


def _planned(
    question: Question, bound: Bound, grounds: Sequence[Ground], draft: Callable[[Join], Plan]
) -> Plan:
    """Under the first join that is allowed and can compute it, else why none is."""
    fitting = planner.joins_for(len(grounds), union=bound.union)
    if question.join is not None and question.join not in fitting:
        raise QuestionRefused(
            "join",
            f"{question.join} does not fit this question; leave it out or write {fitting[0]}",
        )
    reasons = []
    for join in fitting if question.join is None else (question.join,):
        if question.hide_size and join is not Join.HIDDEN:
            reasons.append(f"{join}: hide_size goes with the hidden join")
            continue
        problem = planner.not_allowed(join, grounds)
        if problem is None:
            try:
                plan = draft(join)
                program = program_of(plan, bound.products)
            except (PlanRefused, QuestionRefused, Malformed, DocumentRefused) as error:
                problem = str(error)
            else:
                problem = planner.obstacle(plan, program.layout)
                if problem is None:
                    return _with_noise(question, plan, program)
        reasons.append(f"{join}: {problem}")
    raise QuestionRefused("join", "; ".join(reasons))


def _with_noise(question: Question, plan: Plan, program: Program) -> Plan:
    if question.epsilon is None:
        return plan
    noise = planner.scaled_noise(question.epsilon, question.delta, question.distribution, program)
    return replace(plan, work=replace(plan.query, noise=noise))


def _side(index: int, used: Sequence[Footing], bound: Bound) -> SidePlan:
    footing = used[index]
    agreement = footing.ground.agreement
    return SidePlan(
        agreement=footing.agreement,
        product=footing.product,
        holder=agreement.holder,
        holder_document=agreement.holder_document,
        group_by=bound.group_by[index],
        where=bound.where[index],
        price_minor=agreement.terms.price_minor,
    )


def _require_options(question: Question) -> None:
    """What a person wrote beside the SQL. Raises QuestionRefused, naming the option."""
    if question.min_group is not None and question.min_group < 2:
        raise QuestionRefused("min_group", "must be 2 or more")
    if question.epsilon is not None and not 0 < question.epsilon <= MAX_EPSILON:
        raise QuestionRefused("epsilon", f"must be above 0 and at most {MAX_EPSILON}")
    if not 0 < question.delta < 1:
        raise QuestionRefused("delta", "must lie between 0 and 1")
    if not 1 <= question.run_seconds <= MAX_RUN_S:
        raise QuestionRefused("run_seconds", f"must be 1 to {MAX_RUN_S:,}")
