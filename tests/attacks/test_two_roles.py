"""One party, or one owner, in two roles of a hidden join.

Attacker:        a helper that is a holder as well, or has an owner in common with one; the first of
                 three holders and another; a consumer that holds a table
Knowledge:       whatever either role receives, and its own keys and rows
Goal:            rows of a holder, one by one; who of one table is in another; one person's value
Success measure: they are among what can be computed from what arrived
False alarms:    2**-30 or so for a value that comes up by chance; the noisy guess states its own

The twins are runs of the protocol itself, with nobody asking who is who. The product refuses the
plan: by name where the roles are one party's, by declaration where they are one owner's. Whoever
declares falsely is not found: docs/trust.md. A consumer that holds a table and asks exactly is in
test_exact_answers.py; here is what its owner may have, and what is left to it with noise.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.identifiers import PartyId
from crypto.joins.hidden.keys import Stream, tag_keys, tags_of_names
from crypto.joins.layout import Layout, Term, Third
from crypto.joins.released import open_cells
from crypto.joins.rows import Int64Array, SideRows, plain_output
from crypto.sharing import to_bytes
from exchange.node.parts import noise_authors
from exchange.query.exact import OWN_ROWS
from exchange.query.explanation import learns
from exchange.query.plan import HelperSeat, Plan, Receiver
from exchange.query.program import program_of
from exchange.query.rules import owner_violations, violations
from registry.rule import Join
from tests.attacks.cohort import INCOME, LEAST, ON, a_cohort, crowd, person, target
from tests.fakes.three_parties import Outcome, run_three, tasks_of
from tests.queries import CLINIC, CONSUMER, DOCUMENTS, HELPER, LAB, compiled, three_grounds
from tests.query_plans import both_sides

A, B, C, D = range(4)
OWNERS = ("91440300708461136T", "91330100799655058B", "12100000400000624D", "51110000DEMNHELP4C")
ASKED = f"SELECT COUNT(*), SUM(a.income) {ON}"
NOISY: dict[str, object] = {"epsilon": Fraction(1)}


def rows_of(people: range, *, base: int) -> SideRows:
    """A mark and a value for each, the value unlike any other number here."""
    names = np.random.default_rng(1).integers(0, 256, (1000, 16), dtype=np.uint8)
    values = np.array([[1, base + 7919 * one] for one in people], dtype=np.int64)
    return SideRows(names[list(people)], np.zeros(len(people), np.int64), values)


def in_words(values: Int64Array) -> set[int]:
    return set(values.astype(np.int64).view(np.uint64).tolist())


# A helper that is also a holder

TWO = Layout(
    1, 1, 3, 3, (Term(0, 0, 0, False), Term(2, 0, 0, False), Term(0, 2, 0, False)), (), (),
    LEAST, 0, None, 1,
)  # fmt: skip
CAP = 60
OF_A, OF_B = rows_of(range(30), base=10**12), rows_of(range(20, 60), base=10**13)


def read_together(outcome: Outcome, owner: int, seeds: list[bytes]) -> set[int]:
    """What the helper's shares of an upload are, with a stream of any of these seeds added."""
    columns: list[int] = []
    for payload in outcome.between(owner, C, "column"):
        words = np.frombuffer(payload, np.uint64)
        columns += words.tolist()
        for seed in seeds:
            for label in range(8):
                columns += (words + Stream(seed, label).words(len(words))).tolist()
    return set(columns)


@pytest.mark.parametrize(("holder", "other", "rows"), [(A, B, OF_B), (B, A, OF_A)])
def test_a_helper_that_is_a_holder_reads_every_value_of_the_other_matched_or_not(
    holder: int, other: int, rows: SideRows
) -> None:
    outcome = run_three(tasks_of(TWO, caps=(CAP, CAP)), OF_A, OF_B)
    outcome.require()
    wanted = in_words(rows.factors[:, 1])
    seeds = outcome.between(other, holder, "seed")
    assert wanted <= read_together(outcome, other, seeds)
    assert not wanted & read_together(outcome, other, [])  # the helper by itself
    received = b"".join(m.payload for m in outcome.received(holder) if len(m.payload) % 8 == 0)
    assert not wanted & set(np.frombuffer(received, np.uint64).tolist())  # the holder by itself


def planned(options: dict[str, object]) -> Plan:
    return a_cohort(crowd()).plan(ASKED, join=Join.HIDDEN, **options)


@pytest.mark.parametrize("options", [{}, NOISY], ids=["exact", "with noise"])
@pytest.mark.parametrize("party", [CLINIC, LAB, CONSUMER], ids=["first", "second", "consumer"])
def test_a_plan_whose_helper_has_another_role_is_refused_whoever_agreed_to_it(
    party: PartyId, options: dict[str, object]
) -> None:
    cohort = a_cohort(crowd())
    plan = cohort.plan(ASKED, join=Join.HIDDEN, **options)
    forged = replace(plan, helper=HelperSeat(party, DOCUMENTS[party]))
    forged = replace(forged, learns=learns(forged))
    terms = [replace(ground.agreement.terms, helper=party) for ground in cohort.judged]
    judged = [
        replace(ground, agreement=replace(ground.agreement, terms=agreed))
        for ground, agreed in zip(cohort.judged, terms, strict=True)
    ]
    assert not violations(plan, cohort.judged)
    found = [str(one) for one in violations(forged, judged)]
    assert any("must be neither a holder nor the consumer" in one for one in found)


def declared(*owners: str | None) -> dict[PartyId, str | None]:
    return dict(zip((CLINIC, LAB, CONSUMER, HELPER), owners, strict=True))


@pytest.mark.parametrize("options", [{}, NOISY], ids=["exact", "with noise"])
@pytest.mark.parametrize("place", range(3), ids=["first", "second", "consumer"])
def test_nor_may_one_owner_have_both(place: int, options: dict[str, object]) -> None:
    plan = planned(options)
    assert owner_violations(plan, declared(*OWNERS)) == ()
    (found,) = owner_violations(plan, declared(*OWNERS[:3], OWNERS[place]))
    assert (found.clause, found.where) == ("party.controller", "helper")
    silent = owner_violations(plan, declared(*OWNERS[:3], None))
    assert any("has not declared" in str(one) for one in silent)


# The first of three holders, and another

THREE = Layout(
    1, 1, 3, 3, (Term(0, 0, 0, False), Term(0, 2, 0, False)), (), (), LEAST, 0, None, 1,
    Third(1, 1, 3, 3, ((0, 0), (1, 1), (2, 2))),
)  # fmt: skip


def test_of_three_holders_the_first_and_another_read_who_of_theirs_is_in_the_third() -> None:
    """The first has positions in the others' uploads; whose they are, their owner knows."""
    a, b, d = (rows_of(range(*ends), base=10**12) for ends in ((0, 40), (0, 30), (10, 50)))
    tasks = tasks_of(THREE, caps=(CAP, CAP, CAP))
    outcome = run_three(tasks, a, b, d)
    outcome.require()
    own = tags_of_names(tag_keys(tasks[B].token_key), b.tokens)
    uploaded = np.frombuffer(b"".join(outcome.between(B, C, "tags")), "V16")
    listed = outcome.between(C, A, "positions")
    named = set(uploaded[np.frombuffer(listed[0], np.uint32)].tolist())
    in_d = {one for one, tag in enumerate(own) if tag.tobytes() in named}
    assert in_d == set(range(10, 30))


def test_such_a_plan_is_refused_and_one_whose_first_holder_is_independent_is_not() -> None:
    sql = "SELECT COUNT(*) FROM a JOIN b USING (person) JOIN c USING (person)"
    plan = compiled(sql, three_grounds())
    first, second, third = (side.holder for side in plan.sides)
    fifth = {third: "91110000802100433B"}
    apart = {**declared(*OWNERS), **fifth}
    assert owner_violations(plan, apart) == ()
    for other in (second, third):
        found = owner_violations(plan, {**apart, other: apart[first]})
        assert "independent of both others first in FROM" in str(found)
    assert owner_violations(plan, {**apart, third: apart[second]}) == ()


# A consumer that holds a table

MARKED = f"SELECT SUM(a.income) {ON} WHERE b.flag = 1"


def marking() -> tuple[Plan, int, int]:
    """The lab, as the consumer, marks the target among its own; decoys keep its table full. The
    plan with noise, what the exact answer would be, and the public range of the income."""
    decoys = [person(f"d{n}", flag=1) for n in range(LEAST)]
    cohort = a_cohort([*crowd(), target()], [*crowd(), target(), *decoys])
    plan = cohort.plan(MARKED, join=Join.HIDDEN, **NOISY)
    mine = replace(
        plan,
        consumer=LAB,
        consumer_document=DOCUMENTS[LAB],
        receivers=(Receiver(LAB, DOCUMENTS[LAB]),),
    )
    mine = replace(mine, learns=learns(mine))
    judged = [
        replace(ground, agreement=replace(ground.agreement, consumer=LAB))
        for ground in cohort.judged
    ]
    assert not violations(mine, judged)  # with noise it may ask
    products = [ground.product for ground in judged]
    program = program_of(mine, products)
    left, right = both_sides(mine, program, cohort.rows, products)
    bare = replace(program.layout, slack=0, min_group=1)
    (cell,) = open_cells(bare, [to_bytes(plain_output(bare, left, right).view(np.uint64))])
    assert INCOME in cell.terms
    return mine, cell.terms.index(INCOME), 10**6


@pytest.mark.parametrize("owner", [LAB, None], ids=["one party", "one owner"])
@pytest.mark.parametrize("join", [Join.HIDDEN, Join.REVEALED, Join.SUM])
def test_without_noise_neither_a_holder_nor_its_owner_asks_about_what_is_joined(
    join: Join, owner: PartyId | None
) -> None:
    sql = f"SELECT SUM(a.income) {ON} WHERE a.income IS NOT NULL"
    cohort = a_cohort(crowd())
    plan = cohort.plan(sql, join=join)
    if owner is None:
        helper = OWNERS[3]
        found = owner_violations(plan, declared(OWNERS[0], OWNERS[1], OWNERS[1], helper))
    else:
        plan = replace(
            plan,
            consumer=owner,
            consumer_document=DOCUMENTS[owner],
            receivers=(Receiver(owner, DOCUMENTS[owner]),),
        )
        judged = [
            replace(ground, agreement=replace(ground.agreement, consumer=owner))
            for ground in cohort.judged
        ]
        found = tuple(violations(replace(plan, learns=learns(plan)), judged))
    assert any(OWN_ROWS in str(one) for one in found)


def test_with_noise_it_is_never_an_author_of_the_noise_that_hides_her() -> None:
    """Two others each add a full draw; of an own one it could take its part away."""
    plan, _, _ = marking()
    for consumer in (CLINIC, LAB, CONSUMER):
        asked = replace(plan, receivers=(Receiver(consumer, DOCUMENTS[consumer]),))
        authors = [asked.engine_parties[rank] for rank in noise_authors(asked)]
        assert len(authors) == 2
        assert consumer not in authors


def test_with_noise_a_marked_income_is_guessed_hardly_better_than_epsilon_permits() -> None:
    """Within a tenth of the range, of 400 answers; the twin's exact one is right every time. Even
    if one author tells it its draw, a Laplace draw of sensitivity over epsilon lies so near with
    1 - exp(-epsilon / 10), 0.096: more than 80 of 400 come by chance less than once in 10**9."""
    plan, term, most = marking()
    noise = plan.query.noise
    assert noise is not None
    near = sum(
        abs(int(drawn)) <= most // 10
        for drawn in OpenDpNoise().draw(noise.distribution, noise.scales[term], 400)
    )
    assert noise.scales[term] >= most
    assert near <= 80
