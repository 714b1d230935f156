"""What a question becomes: the join that discloses least, the strictest gate, noise that is worth
what it is stated to cost, and nothing that its own rules would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction

import pytest

from crypto import record
from crypto.digest import digest
from crypto.noise import Distribution, gate_delta, gaussian_epsilon
from exchange.errors import QuestionRefused
from exchange.query.adapters.sqlglot_reader import SqlglotReader
from exchange.query.explanation import learns
from exchange.query.plan import Argument, GroupBy, Padding, Plan
from exchange.query.program import program_of
from exchange.query.question import compile_question, grounds_of
from exchange.query.rules import Ground, gate_reach, noise_problem, violations
from exchange.query.scope import slug
from registry.expression import ColumnValue, Number
from registry.rule import Function, Join, PrivacyRule
from tests.queries import (
    CLINIC,
    CONSUMER,
    DOCUMENTS,
    HELPER,
    LAB,
    NOW,
    OPERATOR,
    PRIVACY,
    RANDOM,
    STRANGER,
    a_product,
    a_question,
    an_agreement,
    an_open_rule,
    compiled,
    footings,
    grounds,
    open_grounds,
    the_terms,
)

JOIN = "FROM a JOIN b ON a.person = b.person"
COUNT = f"SELECT COUNT(*) {JOIN}"
SUM = f"SELECT COUNT(*), SUM(b.bmi) {JOIN} WHERE b.bmi IS NOT NULL"
UNION = "SELECT COUNT(*) FROM (SELECT * FROM a UNION ALL SELECT * FROM b) u"
BOTH = open_grounds()
HALF = Fraction(1, 2)


def allowing(*joins: Join, second: Sequence[Join] | None = None) -> tuple[Ground, Ground]:
    return grounds(
        a_product(CLINIC, name="Clinic", rule=an_open_rule(joins=joins)),
        a_product(LAB, name="Lab", rule=an_open_rule(joins=joins if second is None else second)),
    )


def refusal(sql: str, both: Sequence[Ground] = BOTH, **options: object) -> QuestionRefused:
    with pytest.raises(QuestionRefused) as refused:
        compiled(sql, both, **options)
    return refused.value


# The join


@pytest.mark.parametrize(
    ("sql", "joins", "chosen"),
    [
        (SUM, (Join.REVEALED, Join.SUM, Join.HIDDEN), Join.HIDDEN),
        (SUM, (Join.REVEALED, Join.SUM), Join.SUM),
        (COUNT, (Join.REVEALED, Join.SUM), Join.SUM),
        (SUM, (Join.REVEALED,), Join.REVEALED),
        (f"SELECT a.sex, COUNT(*) {JOIN} GROUP BY a.sex", (Join.SUM, Join.REVEALED), Join.REVEALED),
        (f"SELECT SUM(a.age * b.age) {JOIN}", (Join.SUM, Join.REVEALED), Join.REVEALED),
        (UNION, tuple(Join)[:5], Join.UNION),
        ("SELECT COUNT(*) FROM a", tuple(Join)[:5], Join.ALONE),
    ],
)
def test_of_the_joins_that_both_allow_the_one_that_discloses_least_is_taken(
    sql: str, joins: tuple[Join, ...], chosen: Join
) -> None:
    assert compiled(sql, allowing(*joins)).join is chosen


def test_a_join_that_one_side_alone_allows_is_not_taken() -> None:
    both = allowing(Join.HIDDEN, Join.REVEALED, second=(Join.REVEALED, Join.SUM))
    assert compiled(SUM, both).join is Join.REVEALED


def test_an_agreed_join_counts_as_much_as_an_allowed_one() -> None:
    first, second = (ground.product for ground in BOTH)
    narrower = the_terms(first, second, joins=(Join.REVEALED,))
    both = (Ground(an_agreement(first, narrower), first), BOTH[1])
    assert compiled(SUM, both).join is Join.REVEALED
    assert "was not agreed for Clinic" in refusal(SUM, both, join=Join.HIDDEN).problem


def test_without_a_common_join_the_reasons_are_given_one_by_one() -> None:
    refused = refusal(SUM, allowing(Join.HIDDEN, second=(Join.REVEALED,)))
    assert refused.where == "join"
    assert refused.problem == (
        "hidden: Lab does not allow it; sum: Clinic does not allow it; "
        "revealed: Clinic does not allow it"
    )


@pytest.mark.parametrize(
    ("sql", "options", "words"),
    [
        (f"SELECT MAX(a.age) {JOIN}", {}, "MIN and MAX"),
        (f"{COUNT} WHERE a.age < b.age", {}, "conditions across tables"),
        (COUNT, {"epsilon": HALF}, "adds no noise"),
    ],
)
def test_what_only_the_hidden_join_computes_is_not_computed_by_disclosing_more(
    sql: str, options: dict[str, object], words: str
) -> None:
    assert compiled(sql, BOTH, **options).join is Join.HIDDEN
    assert words in refusal(sql, allowing(Join.REVEALED), **options).problem


def test_a_join_can_be_named_if_it_is_allowed_and_fits() -> None:
    assert compiled(SUM, BOTH, join=Join.REVEALED).join is Join.REVEALED
    assert compiled(SUM, BOTH, join=Join.SUM).join is Join.SUM
    assert "does not fit" in refusal(SUM, join=Join.ALONE).problem
    assert "does not fit" in refusal(UNION, join=Join.HIDDEN).problem
    by_group = f"SELECT a.sex, COUNT(*) {JOIN} GROUP BY a.sex"
    assert "sizes of groups" in refusal(by_group, join=Join.SUM).problem


def test_hidden_size_is_a_variant_of_the_hidden_join_alone() -> None:
    assert compiled(SUM, BOTH, hide_size=True).query.hide_size
    assert "hide_size" in refusal(SUM, allowing(Join.REVEALED), hide_size=True).problem


# The helper


@pytest.mark.parametrize("sql", [COUNT, UNION])
def test_the_helper_is_the_one_that_all_agreements_name(sql: str) -> None:
    helper = compiled(sql, BOTH).helper
    assert helper is not None
    assert (helper.party, helper.document) == (HELPER, DOCUMENTS[HELPER])


def agreed_helpers(*helpers: object) -> tuple[Ground, ...]:
    rule = an_open_rule(joins=(Join.HIDDEN,))
    two = [a_product(CLINIC, name="Clinic", rule=rule), a_product(LAB, name="Lab", rule=rule)]
    return tuple(
        Ground(an_agreement(own, the_terms(own, other, helper=helper)), own)
        for own, other, helper in zip(two, reversed(two), helpers, strict=True)
    )


def test_without_one_helper_in_all_agreements_there_is_no_hidden_join() -> None:
    assert "name none" in refusal(COUNT, agreed_helpers(None, None)).problem
    assert "name several" in refusal(COUNT, agreed_helpers(HELPER, STRANGER)).problem
    assert "name several" in refusal(COUNT, agreed_helpers(HELPER, None)).problem
    assert "not known here" in refusal(COUNT, agreed_helpers(STRANGER, STRANGER)).problem
    assert compiled(COUNT, agreed_helpers(HELPER, HELPER)).helper is not None


def test_joins_of_two_parties_have_no_helper() -> None:
    assert compiled(SUM, BOTH, join=Join.REVEALED).helper is None
    assert compiled("SELECT COUNT(*) FROM a", BOTH).helper is None


# The gate


def test_the_gate_is_the_strictest_of_all_agreements_unless_more_is_asked() -> None:
    both = grounds(
        a_product(CLINIC, rule=an_open_rule(min_group=7, round_counts=4), name="A"),
        a_product(LAB, rule=an_open_rule(min_group=11, round_counts=6), name="B"),
        min_group=9,
    )
    gate = compiled(COUNT, both).query.gate
    # 12 people were agreed with one alone; 18 is where a count begins to be shown as 24.
    assert (gate.min_group, gate.round_counts) == (18, 12)
    assert compiled(COUNT, both, min_group=54).query.gate.min_group == 54
    assert violations(compiled(COUNT, both, min_group=54), both) == ()
    assert violations(compiled(COUNT, both, min_group=11), both) != ()


def test_a_dominance_limit_is_the_strictest_and_gives_way_to_noise() -> None:
    both = grounds(
        a_product(CLINIC, rule=an_open_rule(dominance=Fraction(1, 2)), name="A"),
        a_product(LAB, rule=an_open_rule(dominance=Fraction(1, 3)), name="B"),
    )
    assert compiled(SUM, both).query.gate.dominance == Fraction(1, 3)
    assert compiled(SUM, both, epsilon=HALF).query.gate.dominance is None


# Noise

QUERIES = [
    COUNT,
    SUM,
    f"SELECT a.sex, CORR(a.bmi, b.bmi) {JOIN} GROUP BY a.sex",
    f"SELECT MEDIAN(a.age), AVG(b.bmi), VAR_SAMP(a.bmi * b.bmi) {JOIN}",
    f"SELECT LINEAR_REGRESSION(a.bmi, a.age, b.age) {JOIN} WHERE a.age < b.age",
    UNION,
    "SELECT sex, SUM(bmi) FROM a GROUP BY sex",
    "SELECT COUNT(*), COUNT(b.bmi), SUM(a.age) FROM a LEFT JOIN b ON a.person = b.person",
]


@pytest.mark.parametrize("distribution", Distribution)
@pytest.mark.parametrize("epsilon", [Fraction(1, 10), Fraction(1, 3), Fraction(19, 10)])
@pytest.mark.parametrize("sql", QUERIES)
def test_noise_is_worth_no_more_than_the_plan_says_and_hardly_less(
    sql: str, epsilon: Fraction, distribution: Distribution
) -> None:
    plan = compiled(sql, BOTH, epsilon=epsilon, distribution=distribution)
    noise = plan.query.noise
    assert noise is not None
    both = grounds_of(plan, footings(*BOTH))
    assert violations(plan, both) == ()
    program = program_of(plan, [ground.product for ground in both])
    assert noise_problem(noise, program) is None
    assert noise.epsilon == epsilon
    # The nearest forgery: any scale a thousandth smaller is worth more than is stated.
    for index in range(len(noise.scales)):
        less = list(noise.scales)
        less[index] *= Fraction(999, 1000)
        assert noise_problem(replace(noise, scales=tuple(less)), program) is not None
    spare = gate_delta(epsilon, noise.beta, gate_reach(program))
    assert spare <= noise.delta
    if distribution is Distribution.GAUSSIAN:
        assert noise.rho is not None
        assert gaussian_epsilon(noise.rho, noise.delta - spare) <= epsilon


def test_scales_are_short_numbers() -> None:
    plan = compiled(QUERIES[3], BOTH, epsilon=Fraction(1, 3), distribution=Distribution.GAUSSIAN)
    assert plan.query.noise is not None
    assert all(len(str(scale.numerator)) <= 24 for scale in plan.query.noise.scales)


def test_every_gate_has_its_own_share_of_delta() -> None:
    """Each count that is tested has its own chance that the exact condition decides."""
    one = compiled(COUNT, BOTH, epsilon=HALF).query.noise
    three = compiled(f"SELECT COUNT(a.bmi), COUNT(b.bmi) {JOIN}", BOTH, epsilon=HALF).query.noise
    assert one is not None
    assert three is not None
    assert one.beta / three.beta == pytest.approx(3, rel=1e-4)


def test_a_person_of_both_holders_counts_twice_in_a_union() -> None:
    plan = compiled(UNION, BOTH, epsilon=HALF)
    assert plan.query.noise is not None
    assert plan.query.noise.scales == (Fraction(4),)


def test_the_padding_is_charged_beside_the_noise() -> None:
    plan = compiled(COUNT, BOTH, epsilon=HALF)
    assert plan.epsilon == Fraction(6, 10)
    dearer = compiled(COUNT, BOTH, padding=Padding(Fraction(1, 4), Fraction(1, 10**6)))
    assert (dearer.epsilon, dearer.delta) == (Fraction(1, 4), Fraction(1, 10**6))
    assert compiled(COUNT, BOTH, join=Join.REVEALED).epsilon == 0


def test_products_that_release_only_with_noise_say_so_before_anything_is_planned() -> None:
    strict = open_grounds(privacy=replace(PRIVACY, noise=True))
    refused = refusal(COUNT, strict)
    assert refused.where == "epsilon"
    assert "Clinic releases numbers only with noise; give epsilon, at most 2" in refused.problem
    assert compiled(COUNT, strict, epsilon=HALF).query.noise is not None


def test_noise_without_an_account_and_noise_on_one_persons_value_are_refused() -> None:
    poor = grounds(
        a_product(CLINIC, name="A", rule=an_open_rule(joins=(Join.ALONE,), privacy=None)),
        a_product(LAB, name="B", rule=an_open_rule()),
    )
    assert "no epsilon" in refusal("SELECT COUNT(*) FROM a", poor, epsilon=HALF).problem
    assert "QUANTILE_CONT" in refusal(f"SELECT MAX(a.age) {JOIN}", epsilon=HALF).problem
    assert "histogram" in refusal(f"SELECT MEDIAN(a.age) {JOIN}").problem


def test_more_epsilon_than_a_product_gives_for_one_job_is_for_the_rules_to_refuse() -> None:
    small = PrivacyRule(Fraction(1, 5), Fraction(1), Fraction(1, 10**6), noise=False)
    both = open_grounds(privacy=small)
    plan = compiled(COUNT, both, epsilon=Fraction(1, 5))  # and the padding
    assert {v.clause for v in violations(plan, both)} == {"rule.privacy.epsilon_per_job"}


# The rest of a plan


def test_a_plan_takes_price_parties_and_times_from_the_agreements() -> None:
    plan = compiled(SUM, BOTH)
    assert (plan.consumer, plan.operator, plan.currency) == (CONSUMER, OPERATOR, "TEST")
    assert plan.deal == BOTH[0].agreement.deal
    assert [side.price_minor for side in plan.sides] == [100, 100]
    assert [side.holder for side in plan.sides] == [CLINIC, LAB]
    for side, ground in zip(plan.sides, BOTH, strict=True):
        assert side.agreement == digest(record.to_bytes(ground.agreement))
        assert side.product == digest(record.to_bytes(ground.product))
    assert plan.learns == learns(plan)


def test_sides_follow_from_and_not_the_agreements() -> None:
    plan = compiled("SELECT COUNT(*) FROM b JOIN a ON a.person = b.person", BOTH)
    assert [side.holder for side in plan.sides] == [LAB, CLINIC]
    assert [g.product.holder for g in grounds_of(plan, footings(*BOTH))] == [LAB, CLINIC]


def test_two_plans_of_one_question_are_two_jobs() -> None:
    one, two = compiled(SUM, BOTH), compiled(SUM, BOTH)
    assert one.job != two.job
    assert one.salt != two.salt


def test_a_job_waits_no_longer_than_its_agreements_last() -> None:
    def waiting(wait: timedelta) -> Plan:
        return compile_question(
            a_question(COUNT, BOTH),
            footings(*BOTH),
            reader=SqlglotReader(),
            operator=OPERATOR,
            helpers={HELPER: DOCUMENTS[HELPER]},
            now=NOW,
            wait=wait,
            randomness=RANDOM,
        )

    assert waiting(timedelta(minutes=15)).run_by == NOW + timedelta(minutes=15)
    assert waiting(timedelta(days=99)).run_by == BOTH[0].agreement.terms.valid_until


def test_what_is_asked_for_twice_is_computed_once() -> None:
    plan = compiled(
        f"SELECT AVG(a.bmi) AS x, AVG(a.bmi) / COUNT(*) AS y, COUNT(*) AS n {JOIN}", BOTH
    )
    assert [s.function for s in plan.query.statistics] == [Function.MEAN, Function.COUNT]


def test_a_statistic_that_having_alone_asks_for_is_computed_but_not_shown() -> None:
    plan = compiled(f"SELECT COUNT(*) AS n {JOIN} HAVING AVG(a.bmi) > 2", BOTH)
    assert [s.function for s in plan.query.statistics] == [Function.COUNT, Function.MEAN]
    assert [output.name for output in plan.query.outputs] == ["n"]


def test_numbers_of_two_tables_are_compared_in_one_unit() -> None:
    (condition,) = compiled(f"{COUNT} WHERE b.age < a.bmi", BOTH).query.comparisons
    assert condition.left == ColumnValue("bmi")
    assert condition.order.value == ">"
    assert record.to_value(condition.right) == {
        "kind": "arithmetic",
        "operation": "+",
        "left": {"kind": "column", "column": "age"},
        "right": {"kind": "number", "value": 0, "decimals": 1},
    }


def test_a_quantile_states_its_public_cuts() -> None:
    plan = compiled(f"SELECT MEDIAN(a.age) AS m, MEDIAN(a.age, 3) AS n {JOIN}", BOTH, epsilon=HALF)
    wide, narrow = plan.query.statistics
    assert wide.cuts == tuple(120 * i // 16 for i in range(17))
    assert narrow.cuts == (0, 40, 80, 120)
    assert wide.arguments == (Argument(0, ColumnValue("age")),)


def test_a_group_under_another_name_is_spelt_out() -> None:
    sql = f"SELECT a.sex AS gender, BANDS(b.age, 18, 65) AS band, COUNT(*) {JOIN} GROUP BY 1, 2"
    (gender,), (band,) = (side.group_by for side in compiled(sql, BOTH).sides)
    assert (gender.name, gender.labels) == ("gender", ("f", "m"))
    assert (band.name, band.labels) == ("band", ("< 18", "18 to < 65", ">= 65"))
    same = compiled(f"SELECT a.sex, COUNT(*) {JOIN} GROUP BY BANDS(b.age, 18, 65), a.sex", BOTH)
    assert same.sides[0].group_by == (GroupBy("sex", categories=("f", "m")),)
    assert same.sides[1].group_by == (GroupBy("age", cuts=(18, 65)),)


def test_counting_the_right_key_of_a_left_join_counts_the_rows_with_a_match() -> None:
    sql = "SELECT COUNT(*), COUNT(b.person) FROM a LEFT JOIN b USING (person)"
    all_rows, matched = compiled(sql, BOTH).query.statistics
    assert all_rows.arguments == ()
    assert matched.arguments == (Argument(1, Number(1, 0)),)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Clinic: patients, 2026", "clinic_patients_2026"),
        ("门诊 患者", "门诊_患者"),
        ("  --  ", ""),
        ("A", "a"),
    ],
)
def test_a_product_can_be_called_by_its_name(name: str, called: str) -> None:
    assert slug(name) == called


def test_a_table_goes_by_its_alias_its_slug_or_its_id() -> None:
    for table in ("a", "clinic", "CLINIC", str(BOTH[0].product.id), '"clinic"'):
        assert compiled(f"SELECT COUNT(*) FROM {table}", BOTH).sides[0].holder == CLINIC
    chinese = (*open_grounds()[:1], grounds(a_product(LAB, name="化验 结果"), BOTH[0].product)[0])
    assert compiled("SELECT COUNT(*) AS 人数 FROM a", chinese).query.outputs[0].name == "人数"
