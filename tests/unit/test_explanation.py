"""What people are told about a plan: what each party learns, and what the plan will take."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from crypto import record
from crypto.engine import PaddingBounds
from crypto.joins.hidden.padding import least_shift
from crypto.joins.layout import Order
from crypto.keys import SigningKey
from crypto.noise import Distribution
from crypto.scoring.shape import Feature, ModelFamily, ModelShape
from exchange.query import plan as plans
from exchange.query.explanation import Language, delta_text, learns
from exchange.query.forecast import (
    LookupPart,
    QueryPart,
    ScorePart,
    Spent,
    Step,
    deviation,
    explain,
)
from exchange.query.phrases import condition_text, expression_text
from exchange.query.plan import Argument, CrossCondition, Gate, Lookup, Plan, Score
from exchange.query.program import program_of
from registry.expression import (
    Arithmetic,
    Both,
    Case,
    ColumnValue,
    Comparator,
    Compare,
    Not,
    Number,
    OneOf,
    Operation,
    Present,
    Text,
    When,
)
from registry.product import LookupCard, ModelCard
from registry.rule import AnalysisRule, Function, Join, Use
from tests.fakes.three_parties import run_three, tasks_of
from tests.query_plans import (
    AGE,
    BMI,
    BY_AGE,
    BY_SEX,
    CLINIC,
    CONSUMER,
    COUNT,
    HELPER,
    LAB,
    OPERATOR,
    PRODUCTS,
    S5,
    a_plan_of,
    a_query_plan,
    a_query_product,
    digest_of,
    noise_of,
    side_rows,
    some_rows,
    statistic,
    with_noise,
)

A_BMI, B_S5, A_AGE = Argument(0, BMI), Argument(1, S5), Argument(0, AGE)
MEAN = statistic(Function.MEAN, A_BMI)
QUERIES: dict[str, Plan] = {
    "hidden": a_query_plan(MEAN, groups=((BY_SEX,), ())),
    "hidden with noise": with_noise(a_query_plan(MEAN)),
    "hidden size": a_query_plan(MEAN, hide_size=True),
    "left": a_query_plan(MEAN, keep_left=True),
    "revealed": a_query_plan(MEAN, join=Join.REVEALED),
    "sum": a_query_plan(COUNT, statistic(Function.SUM, A_BMI), join=Join.SUM),
    "union": a_query_plan(MEAN, join=Join.UNION),
    "union with noise": with_noise(a_query_plan(MEAN, join=Join.UNION)),
    "alone": a_query_plan(MEAN, join=Join.ALONE),
    "alone with noise": with_noise(a_query_plan(MEAN, join=Join.ALONE)),
}
PLANS: dict[str, Plan] = {
    **QUERIES,
    "score": a_plan_of(Score(4096, "ckks-linear-8192"), Join.SCORE),
    "lookup": a_plan_of(Lookup(100, ("town", "sex"), 3), Join.LOOKUP),
}
HIDDEN = [name for name in QUERIES if QUERIES[name].join is Join.HIDDEN]


# What each party learns


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("kind", PLANS)
def test_everybody_in_a_plan_is_told_what_it_learns(kind: str, language: Language) -> None:
    plan = PLANS[kind]
    words = learns(plan, language)
    assert set(words) == {plan.operator, plan.consumer, *plan.engine_parties}
    for sentence in words.values():
        assert sentence.strip() == sentence != ""
        assert "{" not in sentence
        assert "  " not in sentence
    chinese = any("\u4e00" <= c <= "\u9fff" for c in "".join(words.values()))
    assert chinese is (language is Language.CHINESE)


@pytest.mark.parametrize("kind", PLANS)
def test_the_words_follow_from_the_signed_bytes_alone(kind: str) -> None:
    plan = PLANS[kind]
    read = plans.read_plan(plans.sign_plan(plan, SigningKey.generate()))
    assert read.learns == plan.learns == learns(read)


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("kind", HIDDEN)
def test_whoever_computes_a_hidden_join_reads_what_collusion_with_the_helper_opens(
    kind: str, language: Language
) -> None:
    words = learns(QUERIES[kind], language)
    whole = {
        Language.ENGLISH: (
            f"If the helper {HELPER} colludes with a holder, the pair reads the other holder's "
            "whole upload, matched or not: every shared column, and every key it can guess."
        ),
        Language.CHINESE: f"若协助方 {HELPER} 与某一持有方合谋，二者可读出另一持有方上传的全部内容",
    }[language]
    for party in (CLINIC, LAB, HELPER):
        assert whole in words[party]
    assert HELPER not in words[CONSUMER]


def test_in_a_hidden_join_counts_are_told_to_those_who_see_them_and_to_nobody_else() -> None:
    words = learns(QUERIES["hidden"])
    for party in (CLINIC, LAB, HELPER):
        assert "one padded count" in words[party]
        assert "epsilon 0.1, delta 1e-09" in words[party]
    assert "padded count" in words[OPERATOR]
    of_size = learns(QUERIES["hidden size"])
    for party in (CLINIC, LAB):
        assert "no count at all" in of_size[party]
        assert "padded" not in of_size[party]
    assert "one padded count" in of_size[HELPER]  # it still pairs tags
    assert "padded" not in of_size[OPERATOR]


def test_a_join_that_tells_who_or_how_many_matched_says_so_to_both_holders() -> None:
    for kind, sentence in (("revealed", "Which of its own keys"), ("sum", "the exact number")):
        words = learns(QUERIES[kind])
        assert words[CLINIC] == words[LAB]
        assert sentence in words[CLINIC]
    for party in (CLINIC, OPERATOR):
        assert "whether the answer was shown" in learns(QUERIES["sum"])[party]
    assert "Nothing of the other holder's rows" in learns(QUERIES["union"])[CLINIC]
    assert "the answer before noise and gate" in learns(QUERIES["alone"])[CLINIC]


def test_the_receiver_is_told_of_noise_or_that_there_is_none() -> None:
    for kind, plan in QUERIES.items():
        sentence = learns(plan)[CONSUMER]
        exact = "not differentially private" in sentence
        assert exact is (plan.query.noise is None), kind
        assert ("Laplace noise" in sentence) is not exact
        assert "at least 2 people" in sentence
    gaussian = with_noise(a_query_plan(MEAN), distribution=Distribution.GAUSSIAN)
    assert "Gaussian noise" in learns(gaussian)[CONSUMER]


CHANGES: dict[str, Plan] = {
    "another group size": a_query_plan(MEAN, gate=Gate(3)),
    "more groups": a_query_plan(MEAN, groups=((BY_SEX,), ())),
    "another function": a_query_plan(statistic(Function.SUM, A_BMI)),
    "another column": a_query_plan(statistic(Function.MEAN, A_AGE)),
    "another side": a_query_plan(statistic(Function.MEAN, Argument(1, BMI))),
    "one number more": a_query_plan(MEAN, COUNT),
    "a left join": a_query_plan(MEAN, keep_left=True),
    "a condition across": a_query_plan(MEAN, comparisons=(CrossCondition(AGE, Order.LESS, AGE),)),
    "dominance": a_query_plan(MEAN, gate=Gate(2, dominance=Fraction(1, 2))),
    "rounding": a_query_plan(MEAN, gate=Gate(2, round_counts=5)),
    "noise": with_noise(a_query_plan(MEAN)),
}


@pytest.mark.parametrize("language", Language)
def test_words_change_with_whatever_changes_what_the_receiver_gets(language: Language) -> None:
    before = learns(a_query_plan(MEAN), language)[CONSUMER]
    told = {learns(plan, language)[CONSUMER] for plan in CHANGES.values()}
    assert before not in told
    assert len(told) == len(CHANGES)


def test_a_party_in_two_roles_reads_both_of_its_sentences() -> None:
    plan = QUERIES["hidden"]
    helper = replace(plan, operator=HELPER)
    assert set(learns(helper)) == {HELPER, CLINIC, LAB, CONSUMER}
    own = learns(helper)[HELPER]
    assert "stores the sealed result" in own
    assert "tags and shares" in own
    holder = replace(plan, consumer=CLINIC)
    assert "one padded count" in learns(holder)[CLINIC]
    assert "mean of bmi" in learns(holder)[CLINIC]


def test_a_scoring_and_a_lookup_say_what_numbers_are_fixed_and_what_chosen_input_tells() -> None:
    score, lookup = learns(PLANS["score"]), learns(PLANS["lookup"])
    assert "4,096 encrypted rows" in score[CLINIC]
    assert "scores of enough rows of its choice determine a model" in score[CONSUMER]
    assert "100 keys were asked for" in lookup[CLINIC]
    assert "town, sex of its record" in lookup[CONSUMER]


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(1, 10**9), "1e-09"),
        (Fraction(11, 10**10), "1.1e-09"),
        (Fraction(100_001, 10**14), "1.1e-09"),
        (Fraction(999, 10**12), "1e-09"),
        (Fraction(1, 2), "5e-01"),
    ],
)
def test_a_delta_is_written_short_and_never_smaller_than_it_is(delta: Fraction, text: str) -> None:
    assert delta_text(delta) == text
    assert Fraction(text) >= delta


# Expressions


def test_an_expression_is_written_with_every_bracket() -> None:
    age, limit = ColumnValue("age"), Number(-25, 1)
    old = Compare(Comparator.AT_LEAST, age, limit)
    case = Case((When(Both(old, Not(Present(BMI))), age),), Number(0, 0))
    least = Arithmetic(Operation.LEAST, Arithmetic(Operation.ADD, age, BMI), case)
    assert expression_text(least) == (
        "LEAST((age + bmi), CASE WHEN (age >= -2.5 AND NOT (bmi IS NOT NULL)) THEN age ELSE 0 END)"
    )


def test_a_consumers_text_can_neither_end_its_quotes_nor_move_the_cursor() -> None:
    text = OneOf(ColumnValue("town"), (Text("a' OR '1"), Text("x\x1b[2Ky\n")))
    assert condition_text(text) == "town IN ('a'' OR ''1', 'x\\u001b[2Ky\\u000a')"


# What it will take


def query_part(plan: Plan, products: tuple[object, ...] = PRODUCTS) -> QueryPart:
    work = explain(plan, products[: len(plan.sides)]).work  # type: ignore[arg-type]
    assert isinstance(work, QueryPart)
    return work


@pytest.mark.parametrize("kind", QUERIES)
def test_every_query_is_explained_and_the_explanation_is_a_document(kind: str) -> None:
    plan = QUERIES[kind]
    explained = explain(plan, PRODUCTS[: len(plan.sides)])
    assert record.to_bytes(explained)
    assert explained.price_minor == plan.price_minor == sum(p.price_minor for p in explained.local)
    assert [part.holder for part in explained.local] == [side.holder for side in plan.sides]
    work = query_part(plan)
    assert len(work.released) == len(plan.query.outputs)
    results = [t for t in work.meeting.transfers if t.step is Step.RESULT]
    assert [t.sender for t in results] == list(plan.sealers)
    assert {t.receiver for t in results} == {CONSUMER}
    assert work.cells == plan.cells


@pytest.mark.parametrize("kind", QUERIES)
def test_the_parts_of_epsilon_and_delta_add_up_to_what_is_charged(kind: str) -> None:
    plan = QUERIES[kind]
    for cost in explain(plan, PRODUCTS[: len(plan.sides)]).privacy:
        assert (cost.epsilon, cost.delta) == (plan.epsilon, plan.delta)
        assert sum(part.epsilon for part in cost.parts) == plan.epsilon
        assert sum(part.delta for part in cost.parts) == plan.delta
        spent = {part.spent for part in cost.parts}
        assert (Spent.PADDING in spent) is (plan.join is Join.HIDDEN)
        assert (Spent.NOISE in spent) is (plan.query.noise is not None)


@pytest.mark.parametrize(
    ("asked", "groups", "hide_size"),
    [
        ((COUNT,), ((), ()), False),
        ((statistic(Function.SUM, B_S5),), ((), ()), False),
        ((MEAN, statistic(Function.CORRELATION, A_BMI, B_S5)), ((BY_SEX,), (BY_AGE,)), False),
        ((MEAN,), ((BY_SEX,), ()), True),
    ],
)
def test_a_hidden_join_sends_as_many_bytes_as_it_was_said_to(
    asked: tuple[plans.Statistic, ...],
    groups: tuple[tuple[plans.GroupBy, ...], ...],
    hide_size: bool,
) -> None:
    """The protocol itself runs; what each party sends another is what the explanation says, but
    for headers and sums of under a kilobyte, once pairs are as many as were drawn."""
    products = tuple(replace(product, cap=120) for product in PRODUCTS)
    plan = a_query_plan(*asked, groups=groups, hide_size=hide_size, products=products)
    padding = replace(plans.Padding(Fraction(1), Fraction(1, 10**6)))
    plan = replace(plan, work=replace(plan.query, padding=padding))
    program = program_of(plan, products)
    rng = np.random.default_rng(1)
    rows = [some_rows(rng, 120) for _ in products]
    sides = [side_rows(plan, program, i, rows[i], products[i]) for i in (0, 1)]
    bounds = PaddingBounds(padding.epsilon, padding.delta, 1)
    outcome = run_three(
        tasks_of(program.layout, caps=(120, 120), padding=bounds, hide_size=hide_size), *sides
    )
    outcome.require()
    sent: Counter[tuple[int, int]] = Counter()
    for message in outcome.messages:
        sent[message.of, message.to] += len(message.payload)
    meeting = query_part(plan, products).meeting
    pairs = outcome.results[0].learned["pairs"]
    ranks = {party: rank for rank, party in enumerate(plan.engine_parties)}
    told: Counter[tuple[int, int]] = Counter()
    for transfer in meeting.transfers:
        if transfer.step is not Step.RESULT and transfer.receiver is not None:
            size = transfer.size_bytes
            if transfer.step in (Step.POSITIONS, Step.RESHARING):
                size = size // meeting.pairs * pairs
            told[ranks[transfer.sender], ranks[transfer.receiver]] += size
    for link in {*sent, *told}:
        assert 0 <= sent[link] - told[link] < 1000, link
    assert meeting.uploads == tuple(len(rows) for rows in _uploads(outcome, program.layout))


def _uploads(outcome: object, layout: object) -> list[bytes]:
    """As many bytes as rows: one tag in sixteen."""
    tags = [m for m in outcome.messages if m.label == "tags"]  # type: ignore[attr-defined]
    return [bytes(sum(len(m.payload) for m in tags if m.of == rank) // 16) for rank in (0, 1)]


def test_an_upload_has_the_rows_of_the_specifications_table() -> None:
    """N = cap + 2*t_a + 2*t_h with t = 178 at epsilon 0.1, delta 1e-9 (hidden_join.md, Padding)."""
    meeting = query_part(QUERIES["hidden"]).meeting
    assert least_shift(PaddingBounds(Fraction(1, 10), Fraction(1, 10**9), 1)) == 178
    assert meeting.uploads == (1000 + 4 * 178,) * 2
    assert meeting.pairs == 1000 + 2 * 178
    of_size = query_part(QUERIES["hidden size"]).meeting
    assert of_size.uploads == (1000 + 2 * 178, 1000 + 2 * 178 + 1356)
    assert of_size.pairs == 1356


@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize("join", [Join.HIDDEN, Join.ALONE])
def test_the_noise_of_a_released_number_is_as_large_as_it_was_said_to_be(
    join: Join, distribution: Distribution
) -> None:
    """2,000 answers: a sample deviation of that many Laplace draws is within 15 % of the true one
    but for 1 time in 10**6 (its own deviation is 2.5 %; Gaussian 1.6 %)."""
    plan = a_query_plan(COUNT, statistic(Function.SUM, A_BMI), join=join)
    plan = with_noise(plan, distribution=distribution, epsilon=Fraction(1))
    used = PRODUCTS[: len(plan.sides)]
    count, total = query_part(plan).released
    program, rng = program_of(plan, used), np.random.default_rng(3)
    noises = [noise_of(plan, program, rng) for _ in range(2000)]
    drawn = np.array([noise[:, 0] for noise in noises if noise is not None], dtype=float)
    reading = program.readings[1]
    for said, term, unit in ((count, 0, 1), (total, reading.sums[0], 10)):
        assert said.deviation is not None
        assert said.people is None
        assert np.std(drawn[:, term]) / unit == pytest.approx(float(said.deviation), rel=0.15)


def test_a_draws_deviation_is_that_of_the_distribution() -> None:
    for scale in (0.3, 1.0, 12.5):
        k = np.arange(-3000, 3001)
        mass = np.exp(-np.abs(k) / scale)
        exact = np.sqrt((mass * k**2).sum() / mass.sum())
        assert deviation(Distribution.LAPLACE, scale) == pytest.approx(exact, rel=1e-9)


def test_without_noise_no_deviation_is_said() -> None:
    assert all(
        one.deviation is None and one.terms == () for one in query_part(QUERIES["sum"]).released
    )


def test_more_rows_and_groups_are_said_to_take_longer() -> None:
    many = tuple(replace(product, cap=1_000_000) for product in PRODUCTS)
    for join in (Join.HIDDEN, Join.REVEALED, Join.SUM):
        plan = a_query_plan(COUNT, statistic(Function.SUM, A_BMI), join=join)
        few = explain(plan, PRODUCTS).expected_ms
        assert explain(plan, many).expected_ms > few > 0
    plain = explain(a_query_plan(MEAN), many).expected_ms
    assert explain(a_query_plan(MEAN, groups=((BY_SEX,), (BY_AGE,))), many).expected_ms > plain


def test_a_scoring_is_explained_by_ciphertexts_and_a_lookup_by_its_table() -> None:
    shape = ModelShape(ModelFamily.LINEAR, (Feature("age", 0, 120, 0),), ("risk",), 2, 64)
    rule = AnalysisRule(
        {"age": (Use.FEATURE,)}, (), (Join.SCORE,), 2, ("research",), evaluations_per_day=10_000
    )
    model = a_query_product(
        CLINIC,
        model=ModelCard(shape, "ckks-linear-8192", digest_of(PLANS["score"])),
        key="",
        columns=(PRODUCTS[0].column("age"),),
        rule=rule,
    )
    score = explain(PLANS["score"], (model,)).work
    assert isinstance(score, ScorePart)
    assert score.security_bits == 128
    features, scores = score.transfers
    assert (features.sender, features.receiver) == (CONSUMER, CLINIC)
    assert features.size_bytes >= 2 * 8192 * 8 * 3  # one block: two polynomials, three primes
    assert scores.size_bytes <= features.size_bytes

    held = a_query_product(
        CLINIC, lookup=LookupCard(digest_of(PLANS["lookup"]), 3, 1000, 64, ("town",))
    )
    lookup = explain(PLANS["lookup"], (held,)).work
    assert isinstance(lookup, LookupPart)
    assert lookup.table_bytes == 68 + 1000 * (16 + 2 + 64 + 16)
    assert sum(t.size_bytes for t in lookup.transfers) < lookup.table_bytes + 7000
