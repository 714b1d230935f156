"""Three holders on one key: what SQL becomes, what is refused by name, what each rule says, and
what everybody is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from api.files.question import question_of, read_question
from crypto import record
from crypto.engine import HiddenTask, PaddingBounds, Seat
from crypto.errors import Malformed
from crypto.joins.layout import COUNTED, Order
from crypto.joins.rows import plain_output, second_side
from crypto.session import PairKeys
from exchange.errors import QuestionRefused
from exchange.node.parts import Keys, local_query, noise_authors, task_of
from exchange.privacy import cost_of
from exchange.query.exact import companies, valued
from exchange.query.explanation import Language, learns
from exchange.query.forecast import QueryPart, Step, explain
from exchange.query.plan import Argument, CrossCondition, Padding, Plan, Receiver, Statistic
from exchange.query.program import program_of
from exchange.query.question import grounds_of
from exchange.query.rendering import render
from exchange.query.rules import Ground, violations
from registry.expression import ColumnValue
from registry.rule import Function, Join
from tests.fakes.seats import nowhere
from tests.fakes.three_parties import run_three, tasks_of
from tests.queries import (
    CLINIC,
    CONSUMER,
    DOCUMENTS,
    HELPER,
    LAB,
    OPERATOR,
    PHARMACY,
    a_plan,
    a_product,
    an_agreement,
    an_open_rule,
    compiled,
    footings,
    open_grounds,
    the_terms,
    three_grounds,
    with_query,
)
from tests.query_plans import side_rows, some_rows

THREE = three_grounds()
PRODUCTS = [ground.product for ground in THREE]
JOIN = "FROM a JOIN b USING (person) JOIN c USING (person)"
COUNT = f"SELECT COUNT(*) {JOIN}"
EVERYTHING = (
    "SELECT a.sex, BANDS(c.age, 40) AS age, COUNT(*), AVG(c.bmi), SUM(a.bmi * b.age * c.bmi), "
    f"CORR(b.bmi, c.bmi) {JOIN} WHERE b.town = 'x' AND c.age > 20 GROUP BY a.sex, age"
)


def everything() -> Plan:
    """With noise, which alone covers a product of three."""
    return compiled(EVERYTHING, THREE, epsilon=Fraction(1))


def refusal(sql: str, **options: object) -> QuestionRefused:
    with pytest.raises(QuestionRefused) as refused:
        compiled(sql, THREE, **options)
    return refused.value


# From SQL to the plan and the program


def test_three_tables_are_joined_by_the_hidden_join_with_the_helper_at_rank_two() -> None:
    plan = everything()
    assert plan.join is Join.HIDDEN
    assert [side.holder for side in plan.sides] == [CLINIC, LAB, PHARMACY]
    assert plan.engine_parties == plan.sealers == (CLINIC, LAB, HELPER, PHARMACY)
    assert [plan.place_of(rank) for rank in range(4)] == [0, 1, None, 2]
    assert plan.cells == 2 * 1 * 2
    assert [side.where is None for side in plan.sides] == [True, False, False]
    assert violations(plan, grounds_of(plan, footings(*THREE))) == ()
    assert record.from_bytes(Plan, record.to_bytes(plan)) == plan


def test_the_second_and_third_holder_make_one_side_of_products_of_one_factor_each() -> None:
    plan = everything()
    program = program_of(plan, PRODUCTS)
    layout, third = program.layout, program.layout.third
    assert third is not None
    assert (third.own_groups, third.groups, layout.groups_b) == (1, 2, 2)
    assert (layout.factors_a, third.own_factors, third.third_factors) == tuple(
        len(factors) + 1 for factors in program.factors
    )
    assert third.factors[0] == (COUNTED, COUNTED)
    products = [(f, g) for f, g in third.factors if COUNTED not in (f, g)]
    assert products  # b.age * c.bmi, and of the correlation
    assert len(layout.terms) == len(program.terms)
    # A sum of three is worth the product of the three ranges.
    reading = program.readings[2]
    assert program.terms[reading.sums[0]].widest == 1000 * 120 * 1000


@pytest.mark.parametrize(
    "sql",
    [
        EVERYTHING,
        f"SELECT MIN(c.age), MAX(b.bmi) {JOIN} WHERE a.age < c.age AND b.bmi > a.bmi",
        f"SELECT COUNT(a.bmi * b.bmi * c.bmi), REGR_COUNT(b.age, c.age) {JOIN}",
    ],
)
def test_what_a_holder_is_shown_asks_for_the_same_again(sql: str) -> None:
    options = {"epsilon": Fraction(1)} if sql == EVERYTHING else {}
    plan = compiled(sql, THREE, **options)
    again = compiled(render(plan, PRODUCTS), THREE, **options)
    assert (again.query, again.sides) == (plan.query, plan.sides)


def test_three_tables_are_named_by_options_and_in_a_questions_file(tmp_path: Path) -> None:
    tables = {name: product.id for name, product in zip("abc", PRODUCTS, strict=True)}
    lines = [f'{name} = "{product}"' for name, product in tables.items()]
    written = tmp_path / "question.toml"
    written.write_text(
        "\n".join([f'sql = "{COUNT}"', 'purpose = "research"', "[tables]", *lines]) + "\n"
    )
    options = question_of(
        None,
        sql=COUNT,
        tables=[f"{name}={product}" for name, product in tables.items()],
        purpose="research",
        join=None,
        min_group=None,
        epsilon=None,
        delta=None,
        noise=None,
        hide_size=False,
    )
    assert read_question(written) == options
    assert options.tables == tables


def test_a_key_of_any_table_before_joins_the_next() -> None:
    chained = "FROM a JOIN b ON a.person = b.person JOIN c ON b.person = c.person"
    assert compiled(f"SELECT COUNT(*) {chained}", THREE).sides == compiled(COUNT, THREE).sides


def test_two_draws_of_noise_come_from_the_first_three_ranks_and_never_from_the_receiver() -> None:
    plan = compiled(COUNT, THREE, epsilon=Fraction(1))
    assert noise_authors(plan) == (0, 1)
    for party, authors in ((CLINIC, (1, 2)), (LAB, (0, 2)), (PHARMACY, (0, 1))):
        received = replace(plan, receivers=(Receiver(party, DOCUMENTS[party]),))
        assert noise_authors(received) == authors


def test_each_engine_is_told_the_caps_of_all_and_only_the_first_two_the_tags_key() -> None:
    plan = compiled(COUNT, THREE)
    for rank, seat in enumerate(nowhere(4)):
        keys = Keys(
            {
                peer: PairKeys(bytes([rank * peer]) * 32, b"z" * 32, b"e" * 32)
                for peer in range(4)
                if peer != rank
            }
        )
        task = task_of(plan, PRODUCTS, seat, keys)
        assert isinstance(task, HiddenTask)
        assert task.caps == tuple(product.cap for product in PRODUCTS)
        assert bool(task.token_key) is (rank < 2)
        assert isinstance(task.seat, Seat)


def test_each_holder_computes_and_is_asked_about_its_own_columns_alone() -> None:
    plan = compiled(f"SELECT AVG(c.bmi), AVG(b.age) {JOIN}", THREE)
    program = program_of(plan, PRODUCTS)
    assert [valued(plan, place) for place in range(3)] == [set(), {"age"}, {"bmi"}]
    for place in range(3):
        assert local_query(plan, program, place).factors == program.factors[place]
    (met,) = {company for _, company in companies(plan, PRODUCTS, 2)}
    assert set(met.tables) == {PRODUCTS[0].id, PRODUCTS[1].id}
    # The same column of the same people and a third is another company: so both are not given.
    both = compiled("SELECT AVG(b.age) FROM a JOIN b USING (person)", THREE)
    assert companies(both, PRODUCTS[:2], 1).isdisjoint(companies(plan, PRODUCTS, 1))


# What is refused, by name


# (SQL, place, words of the problem)
REFUSED: dict[str, tuple[str, str, str]] = {
    "a second key": (
        "SELECT COUNT(*) FROM a JOIN b ON a.person = b.person JOIN c ON b.town = c.person",
        "JOIN c",
        "the second key would need a PRF on shares",
    ),
    "a second key by USING": (
        "SELECT COUNT(*) FROM a JOIN b USING (person) JOIN c USING (town)",
        "JOIN c",
        "the second key would need a PRF on shares",
    ),
    "a third table that nothing joins": (
        "SELECT COUNT(*) FROM a JOIN b USING (person) JOIN c ON a.person = b.person",
        "JOIN c",
        "ON a.person = c.person",
    ),
    "a table before it is joined": (
        "SELECT COUNT(*) FROM a JOIN b ON a.person = b.person AND c.age > 3 JOIN c USING (person)",
        "c.age",
        "c is joined later",
    ),
    "a left join of three": (
        "SELECT COUNT(*) FROM a LEFT JOIN b USING (person) LEFT JOIN c USING (person)",
        "LEFT JOIN b",
        "a match of their own",
    ),
    "a left join of the third": (
        "SELECT COUNT(*) FROM a JOIN b USING (person) LEFT JOIN c USING (person)",
        "LEFT JOIN c",
        "a match of their own",
    ),
    "the second compared with the third": (
        f"{COUNT} WHERE b.age < c.age",
        "b.age < c.age",
        "only columns of a, the first table",
    ),
    "a comparison of three": (
        f"{COUNT} WHERE a.age < b.age + c.age",
        "a.age",
        "reads three tables",
    ),
    "a sum of two within a sum": (
        f"SELECT SUM(b.age + c.age) {JOIN}",
        "b.age + c.age",
        "product of one expression each",
    ),
    "a column that several have": (f"SELECT AVG(bmi) {JOIN}", "bmi", "a.bmi or b.bmi or c.bmi"),
    "one table twice": (
        "SELECT COUNT(*) FROM a JOIN b USING (person) JOIN a USING (person)",
        "JOIN a",
        "one name",
    ),
    "one holder twice": (
        "SELECT COUNT(*) FROM a JOIN b USING (person) JOIN b AS c USING (person)",
        "JOIN b",
        "of one holder",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_three_holders_cannot_answer_is_refused_where_it_stands(what: str) -> None:
    sql, place, words = REFUSED[what]
    refused = refusal(sql)
    assert place in refused.where
    assert words in refused.problem


@pytest.mark.parametrize("join", [Join.REVEALED, Join.SUM])
def test_no_other_join_is_picked_or_taken_for_three_tables(join: Join) -> None:
    assert "does not fit" in refusal(COUNT, join=join).problem
    only = three_grounds(joins=(Join.REVEALED, Join.SUM))
    with pytest.raises(QuestionRefused, match="hidden: Clinic does not allow it"):
        compiled(COUNT, only)


def test_the_variant_of_hidden_size_is_for_two() -> None:
    assert "hide_size" in refusal(COUNT, hide_size=True).problem


A_AGE = ColumnValue("age")


@pytest.mark.parametrize(
    ("where", "changes"),
    [
        ("work.keep_left", {"keep_left": True}),
        ("work.hide_size", {"hide_size": True}),
        ("work.comparisons[0]", {"comparisons": (CrossCondition(A_AGE, Order.LESS, A_AGE, 3),)}),
        ("work.comparisons[0]", {"comparisons": (CrossCondition(A_AGE, Order.LESS, A_AGE, 0),)}),
    ],
)
def test_no_plan_by_hand_has_what_three_holders_cannot(where: str, changes: object) -> None:
    with pytest.raises(Malformed) as refused:
        with_query(compiled(COUNT, THREE), **changes)  # type: ignore[arg-type]
    assert refused.value.where == where


def test_no_plan_by_hand_has_three_sides_of_another_join_or_four_of_any() -> None:
    plan = compiled(COUNT, THREE)
    two = a_plan(THREE[:2])
    for sides, of in (
        (plan.sides, two),
        ((*plan.sides, plan.sides[0]), plan),
        (plan.sides[:1], plan),
    ):
        with pytest.raises(Malformed, match="takes"):
            replace(of, sides=sides)


def test_a_count_of_three_names_three_sides() -> None:
    arguments = tuple(Argument(side, A_AGE) for side in (0, 1, 1))
    with pytest.raises(Malformed, match="a side twice"):
        Statistic(Function.COUNT, arguments, distinct=False)


# Rules


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("stranger", range(3))
def test_every_agreement_must_let_its_product_meet_both_others(place: int, stranger: int) -> None:
    if place == stranger:
        return
    own = PRODUCTS[place]
    (known,) = (p for i, p in enumerate(PRODUCTS) if i not in (place, stranger))
    judged = list(THREE)
    judged[place] = Ground(an_agreement(own, the_terms(own, known)), own)
    plan = compiled(COUNT, judged)
    (found,) = violations(plan, judged)
    assert found.clause == "terms.combine_with"
    assert found.where == f"sides[{place}]"


@pytest.mark.parametrize("place", range(3))
def test_the_strictest_of_three_rules_counts(place: int) -> None:
    products = [
        a_product(holder, name=name, rule=an_open_rule(min_group=9 if at == place else 5))
        for at, (holder, name) in enumerate(((CLINIC, "a1"), (LAB, "b1"), (PHARMACY, "c1")))
    ]
    judged = [
        Ground(an_agreement(own, the_terms(own, *(p for p in products if p is not own))), own)
        for own in products
    ]
    plan = compiled(COUNT, judged)
    assert plan.query.gate.min_group == 10
    smaller = with_query(plan, gate=replace(plan.query.gate, min_group=9))
    assert [found.where for found in violations(smaller, judged)] == ["work.gate.min_group"]


def test_what_the_third_holder_does_not_allow_is_a_violation_of_its_own_clause() -> None:
    for sql, clause in (
        (f"SELECT SUM(c.income) {JOIN}", "rule.uses.income"),
        (f"SELECT COUNT(*) {JOIN} WHERE c.income > 3", "rule.uses.income"),
        (f"SELECT COUNT(*) {JOIN} WHERE a.age < c.income", "rule.uses.income"),
    ):
        plan = compiled(sql, THREE)
        found = violations(plan, THREE)
        assert {violation.clause for violation in found} == {clause}, sql
    # What it does not allow of its own column says nothing of the others' columns of this name.
    assert violations(compiled(f"SELECT COUNT(*) {JOIN} WHERE a.age < c.age", THREE), THREE) == ()


def test_all_three_products_are_charged_the_whole_of_it() -> None:
    plan = compiled(COUNT, THREE, epsilon=Fraction(1))
    charged = explain(plan, PRODUCTS).privacy
    assert [cost.product for cost in charged] == [product.id for product in PRODUCTS]
    assert {cost.epsilon for cost in charged} == {Fraction(11, 10)}
    assert cost_of(plan).epsilon == Fraction(11, 10)
    assert explain(plan, PRODUCTS).price_minor == 300


# What everybody is told


@pytest.mark.parametrize("language", Language)
def test_everybody_in_a_plan_of_three_is_told_what_it_learns(language: Language) -> None:
    plan = everything()
    words = learns(plan, language)
    assert set(words) == {OPERATOR, CONSUMER, CLINIC, LAB, PHARMACY, HELPER}
    assert words[CLINIC] == words[LAB] != words[PHARMACY]
    collusion = {
        Language.ENGLISH: f"If the helper {HELPER} colludes with a holder, the pair learns of "
        "every key it can guess whether another holder has it; with holder 1 it also reads the "
        "other holders' whole uploads",
        Language.CHINESE: f"若协助方 {HELPER} 与某一持有方合谋，二者可得知猜到的每个主键是否在其他"
        "持有方处；与持有方 1 合谋还可读出其他持有方上传的全部内容",
    }[language]
    for party in (CLINIC, LAB, PHARMACY, HELPER):
        assert collusion in words[party]
    assert "{" not in "".join(words.values())
    assert words != learns(
        compiled("SELECT COUNT(*) FROM a JOIN b USING (person)", THREE), language
    )


def test_counts_are_told_to_those_who_see_them_and_the_third_holder_sees_none() -> None:
    words = learns(everything())
    for party in (CLINIC, LAB):
        assert "only as one padded count" in words[party]
    assert "four padded counts" in words[HELPER]
    assert "holders 1 and 2 alone, to 1 and 3 alone, to 2 and 3 alone" in words[HELPER]
    assert "padded" not in words[PHARMACY]
    assert "nor how many" in words[PHARMACY]
    assert "all three holders have in common" in words[CONSUMER]
    for party in (CLINIC, LAB, PHARMACY, HELPER):
        assert "If holder 1 colludes with another holder" in words[party]


def test_a_plan_of_two_of_the_three_says_nothing_of_a_third() -> None:
    two = compiled("SELECT COUNT(*) FROM a JOIN b USING (person)", open_grounds())
    assert "three" not in "".join(learns(two).values())


@pytest.mark.parametrize(
    "sql",
    [
        COUNT,
        f"SELECT SUM(c.bmi) {JOIN}",
        f"SELECT SUM(b.bmi * c.bmi) {JOIN}",
        f"SELECT a.sex, COUNT(*), AVG(a.bmi), SUM(b.age * c.bmi) {JOIN} GROUP BY a.sex",
        "SELECT BANDS(c.age, 40) AS age, SUM(a.bmi * b.age * c.bmi), CORR(b.bmi, c.bmi) "
        f"{JOIN} GROUP BY age",
    ],
)
def test_three_holders_send_as_many_bytes_as_it_was_said_and_the_third_is_sent_none(
    sql: str,
) -> None:
    """The protocol itself runs; what each party sends another is what the explanation says, but
    for headers and sums of under two kilobytes, once pairs are as many as were drawn."""
    products = [replace(product, cap=120) for product in PRODUCTS]
    judged = [replace(ground, product=p) for ground, p in zip(THREE, products, strict=True)]
    padding = Padding(Fraction(1), Fraction(1, 10**6))
    # Compiled with noise, run without: only the bytes count here.
    noisy = compiled(sql, judged, padding=padding, epsilon=Fraction(1))
    plan = with_query(noisy, noise=None)
    program = program_of(plan, products)
    rng = np.random.default_rng(1)
    rows = [some_rows(rng, 120) for _ in products]
    for held in rows:
        for row in held:
            row["income"] = ("1", 1)
    sides = [side_rows(plan, program, i, rows[i], products[i]) for i in range(3)]
    bounds = PaddingBounds(padding.epsilon, padding.delta, 1)
    outcome = run_three(tasks_of(program.layout, caps=(120,) * 3, padding=bounds), *sides)
    third = program.layout.third
    assert third is not None
    assert np.array_equal(
        outcome.output, plain_output(program.layout, sides[0], second_side(third, *sides[1:]))
    )
    sent: Counter[tuple[int, int]] = Counter()
    for message in outcome.messages:
        sent[message.of, message.to] += len(message.payload)
    work = explain(plan, products).work
    assert isinstance(work, QueryPart)
    meeting, pairs = work.meeting, outcome.results[0].learned["pairs"]
    ranks = {party: rank for rank, party in enumerate(plan.engine_parties)}
    told: Counter[tuple[int, int]] = Counter()
    for transfer in meeting.transfers:
        if transfer.step is not Step.RESULT and transfer.receiver is not None:
            size = transfer.size_bytes
            if transfer.step in (Step.POSITIONS, Step.RESHARING):
                size = size // meeting.pairs * pairs
            told[ranks[transfer.sender], ranks[transfer.receiver]] += size
    for link in {*sent, *told}:
        assert 0 <= sent[link] - told[link] < 2000, link
    tags = [m for m in outcome.messages if m.label == "tags"]
    uploads = tuple(sum(len(m.payload) for m in tags if m.of == rank) // 16 for rank in (0, 1, 3))
    assert meeting.uploads == uploads
    # To the third holder: headers, the tags' key, and the word that all went well.
    assert max(sent[rank, 3] for rank in range(3)) < 2000
    assert outcome.results[3].learned == {}
