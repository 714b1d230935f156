"""When the unbalanced intersection is used, what is said of it, and what of it stands where."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from crypto.digest import digest
from crypto.engine import RevealedTask, Standing
from crypto.errors import EngineFailed, Malformed
from crypto.identifiers import PartyId
from crypto.joins.intersection import Intersection
from crypto.joins.rows import KeptRows
from crypto.keys import ExchangeKey
from crypto.session import standing_token_key
from exchange.errors import QuestionRefused
from exchange.node import shelf as shelves
from exchange.node.engine import require_input
from exchange.node.shelf import Shelf
from exchange.query.explanation import Language, learns
from exchange.query.forecast import QueryPart, Step, explain
from exchange.query.plan import Plan
from exchange.query.rules import Ground, violations
from exchange.query.standing import LEAST_RATIO, standing_of
from registry.rule import Join
from tests.fakes.seats import nowhere
from tests.fakes.two_sides import two_sides
from tests.queries import (
    CLINIC,
    CONSUMER,
    LAB,
    a_product,
    an_open_rule,
    compiled,
    grounds,
    with_query,
)

SQL = "SELECT COUNT(*), SUM(b.bmi) FROM a JOIN b ON a.person = b.person"
UNBALANCED = Intersection.UNBALANCED


def sized(first: int, second: int) -> tuple[Ground, Ground]:
    rule = an_open_rule(joins=(Join.REVEALED,))
    return grounds(
        a_product(CLINIC, name="Clinic", rule=rule, cap=first),
        a_product(LAB, name="Lab", rule=rule, cap=second),
    )


def plan_of(both: tuple[Ground, Ground], sql: str = SQL, **options: object) -> Plan:
    return compiled(sql, both, **options)


LARGE, SMALL = 100_000, 1_000
BOTH = sized(LARGE, SMALL)


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        (LARGE, SMALL, UNBALANCED),
        (SMALL, LARGE, UNBALANCED),
        (SMALL * LEAST_RATIO, SMALL, UNBALANCED),
        (SMALL * LEAST_RATIO - 1, SMALL, Intersection.RR22),
        (SMALL, SMALL, Intersection.RR22),
    ],
)
def test_the_planner_goes_by_the_products_caps(
    first: int, second: int, chosen: Intersection
) -> None:
    assert plan_of(sized(first, second)).query.intersection is chosen


def test_a_consumer_may_ask_for_another_method_but_not_for_this_one_without_need() -> None:
    asked = plan_of(BOTH, intersection=Intersection.ECDH)
    assert asked.query.intersection is Intersection.ECDH
    with pytest.raises(QuestionRefused, match="50 times"):
        plan_of(sized(SMALL, SMALL), intersection=UNBALANCED)


def test_a_node_refuses_a_plan_that_would_leave_masked_keys_behind_without_need() -> None:
    balanced = sized(SMALL, SMALL)
    plan = plan_of(balanced)
    assert not violations(plan, balanced)
    forged = with_query(plan, intersection=UNBALANCED)
    forged = replace(forged, learns=learns(forged))
    found = violations(forged, balanced)
    assert {(v.clause, v.where) for v in found} == {("plan", "work.intersection")}
    assert not violations(plan_of(BOTH), BOTH)


def test_both_holders_read_what_stands_and_what_can_be_done_with_it() -> None:
    plan = plan_of(BOTH)
    for language, words in (
        (Language.ENGLISH, "keeps the other's keys, masked"),
        (Language.CHINESE, "保存对方经掩蔽的主键"),
    ):
        said = learns(plan, language)
        assert words in said[CLINIC]
        assert words in said[LAB]
        assert words not in said[CONSUMER]
    assert "masked" not in learns(with_query(plan, intersection=Intersection.RR22))[LAB]


def test_the_forecast_tells_what_is_done_once_from_what_every_job_does() -> None:
    part = explain(plan_of(BOTH), [ground.product for ground in BOTH]).work
    assert isinstance(part, QueryPart)
    meeting = part.meeting
    assert meeting.intersection is UNBALANCED
    (once,) = [t for t in meeting.transfers if t.step is Step.STANDING]
    assert (once.sender, once.receiver, once.size_bytes) == (CLINIC, LAB, 12 * LARGE)
    (asked,) = [t for t in meeting.transfers if t.step is Step.INTERSECTION]
    assert asked.size_bytes == 80 * SMALL
    whole = explain(plan_of(BOTH), [ground.product for ground in BOTH]).expected_ms
    assert 0 < meeting.standing_ms < whole
    plain = explain(plan_of(BOTH, intersection=Intersection.RR22), [g.product for g in BOTH])
    assert whole - meeting.standing_ms < plain.expected_ms


# What stands


def test_what_stands_is_named_by_holders_version_and_filter_alone() -> None:
    plan, products = plan_of(BOTH), [ground.product for ground in BOTH]
    standing = standing_of(plan, products)
    assert (standing.server, standing.rows, standing.asked) == (0, LARGE, SMALL)
    again = plan_of(BOTH, "SELECT COUNT(*) FROM a JOIN b ON a.person = b.person")
    assert standing_of(again, products) == standing
    of_small = plan_of(BOTH, f"{SQL} WHERE b.age > 30")
    assert standing_of(of_small, products) == standing
    names = {standing.name}
    names.add(standing_of(plan_of(BOTH, f"{SQL} WHERE a.age > 30"), products).name)
    names.add(standing_of(plan_of(BOTH, f"{SQL} WHERE a.age > 31"), products).name)
    newer = replace(plan, sides=(replace(plan.sides[0], product=digest(b"v2")), plan.sides[1]))
    names.add(standing_of(newer, products).name)
    other = replace(plan, sides=(plan.sides[0], replace(plan.sides[1], holder=CONSUMER)))
    names.add(standing_of(other, products).name)
    assert len(names) == 5


def test_the_side_with_few_rows_may_come_first() -> None:
    both = sized(SMALL, LARGE)
    assert standing_of(plan_of(both), [ground.product for ground in both]).server == 1


A, B = PartyId("pty_" + "a" * 32), PartyId("pty_" + "b" * 32)


def test_both_holders_derive_one_token_key_and_nobody_else_does() -> None:
    one, two, other = (ExchangeKey.generate() for _ in range(3))
    key = standing_token_key(one, two.public, between=(A, B))
    assert standing_token_key(two, one.public, between=(B, A)) == key
    assert standing_token_key(other, two.public, between=(A, B)) != key
    assert standing_token_key(one, two.public, between=(A, CONSUMER)) != key
    with pytest.raises(Malformed):
        standing_token_key(one, replace(two.public, raw=bytes(32)), between=(A, B))


PAIR = (CLINIC, BOTH[0].product.id, LAB)
V1, V2, NAME, OTHER = (digest(text) for text in (b"v1", b"v2", b"name", b"other"))


def test_a_new_version_of_the_product_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = shelf.standing(PAIR, version=V1, name=NAME)
    (first / "client.bin").write_bytes(b"x")
    assert shelf.standing(PAIR, version=V1, name=OTHER) != first
    assert (first / "client.bin").exists()
    elsewhere = shelf.standing((LAB, BOTH[1].product.id, CLINIC), version=V1, name=NAME)
    second = shelf.standing(PAIR, version=V2, name=NAME)
    assert not first.exists()
    assert second.is_dir() and elsewhere.is_dir()
    assert second.is_absolute()
    assert tmp_path / "standing" in second.parents


def test_what_was_longest_not_used_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelves, "MAX_STANDING_BYTES", 250)
    shelf, made = Shelf(tmp_path), []
    for age, name in enumerate((b"1", b"2", b"3")):
        made.append(shelf.standing(PAIR, version=V1, name=digest(name)))
        (made[-1] / "client.bin").write_bytes(bytes(100))
        os.utime(made[-1], (1000 + age, 1000 + age))
    shelf.standing(PAIR, version=V1, name=digest(b"1"))  # used again, so the second goes
    assert [folder.exists() for folder in made] == [True, False, True]


def test_an_engine_that_died_while_it_wrote_leaves_nothing_for_long(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    shelf = Shelf(tmp_path)
    part = shelf.standing(PAIR, version=V1, name=NAME) / "client.bin.0.part"
    part.write_bytes(b"half")
    shelf.sweep(ended=(), known=(), now=datetime(2026, 11, 23, tzinfo=UTC))
    assert not part.exists()


def test_noise_does_not_come_with_it() -> None:
    with pytest.raises(QuestionRefused, match="adds no noise"):
        plan_of(BOTH, epsilon=Fraction(1))


# What an engine is given


def test_an_engine_is_given_the_folder_where_something_stands_and_nowhere_else(
    tmp_path: Path,
) -> None:
    sides = two_sides(20)
    seat = nowhere(2)[0]
    standing = Standing(NAME, server=0, rows=20, asked=5)
    task = RevealedTask(seat, sides.layout, UNBALANCED, b"z" * 32, standing)
    plain = RevealedTask(seat, sides.layout, Intersection.RR22, b"z" * 32)
    kept = KeptRows(sides.a, tmp_path)
    require_input(task, kept)
    require_input(plain, sides.a)
    for wrong, given in ((task, sides.a), (plain, kept)):
        with pytest.raises(EngineFailed, match="a folder goes with"):
            require_input(wrong, given)
    few = replace(task, standing=replace(standing, server=1))
    with pytest.raises(EngineFailed, match="more rows than the 5"):
        require_input(few, kept)


def test_a_task_names_what_stands_and_only_then() -> None:
    sides = two_sides(20)
    seat = nowhere(2)[0]
    with pytest.raises(Malformed, match="standing"):
        RevealedTask(seat, sides.layout, UNBALANCED, b"z" * 32)
    with pytest.raises(Malformed, match="standing"):
        RevealedTask(seat, sides.layout, Intersection.RR22, b"z" * 32, Standing(NAME, 0, 9, 9))
    one = RevealedTask(seat, sides.layout, UNBALANCED, b"z" * 32, Standing(NAME, 0, 9, 9))
    other = replace(one, standing=Standing(OTHER, 0, 9, 9))
    assert one.common != other.common
