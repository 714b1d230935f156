"""A benchmark ends at a wrong answer, however little it is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import duckdb
import pytest

from api.bench import budget, ledger, sql
from api.bench.budget_party import COST
from api.bench.join import WrongAnswer
from api.database import bring_up_to_date, open_engine, read_only
from crypto.digest import Digest, digest
from crypto.identifiers import JobId, ProductId
from crypto.ports import SystemClock, SystemRandomness
from crypto.record import Rational
from exchange.hub.adapters.sql import SqlHubStore
from exchange.privacy import NOTHING
from exchange.query.program import program_of
from exchange.query.question import grounds_of
from exchange.query.rules import violations
from exchange.results import Answer, Figure, Missing, Row
from ledger import log
from ledger.ports import LogStore
from registry.rule import Join

NOW = SystemClock().now()
RANDOM = SystemRandomness()
FOOTINGS = sql._footings(20_000)


def an_answer(*rows: tuple[tuple[str, ...], tuple[object, ...]]) -> Answer:
    """None: suppressed."""
    found = tuple(
        Row(
            groups,
            tuple(
                Figure(None, missing=Missing.SUPPRESSED)
                if number is None
                else Figure(Rational(Fraction(str(number))))
                for number in numbers
            ),
        )
        for groups, numbers in rows
    )
    return Answer(
        JobId.new(NOW, RANDOM),
        Join.HIDDEN,
        (),
        (),
        found,
        2,
        Fraction(0),
        Fraction(0),
        (),
    )


def test_integers_are_equal_and_floating_point_is_to_nine_digits() -> None:
    right = an_answer((("f",), (10, "2.5000000001")), (("m",), (7, 3)))
    sql._require_equal("q", right, [("m", 7, 3.0), ("f", 10, 2.5)])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (an_answer(((), (10,))), [(11,)]),
        (an_answer(((), ("10.000000001",))), [(10,)]),
        (an_answer(((), ("2.50001",))), [(2.5,)]),
        (an_answer(((), (None,))), [(10,)]),
        (an_answer((("f",), (10,))), [("f", 10), ("m", 9)]),
        (an_answer((("f",), (10,)), (("m",), (9,))), [("f", 10)]),
    ],
)
def test_a_wrong_number_or_group_ends_the_benchmark(
    answer: Answer, expected: list[tuple[object, ...]]
) -> None:
    with pytest.raises(WrongAnswer):
        sql._require_equal("q", answer, expected)


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    files = sql._write(tmp_path_factory.mktemp("pooled"), 20_000)
    database = duckdb.connect()
    for name, file in files.items():
        database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{file}')")
    yield database
    database.close()


@pytest.mark.parametrize("asked", sql.QUERIES, ids=lambda asked: asked.new)
def test_every_query_of_the_sql_suite_is_allowed(asked: sql.Asked) -> None:
    plan = sql.planned(asked, FOOTINGS)
    assert violations(plan, grounds_of(plan, FOOTINGS)) == ()


def test_what_carries_noise_is_off_by_noise_and_not_by_more(
    pooled: duckdb.DuckDBPyConnection,
) -> None:
    (asked,) = [one for one in sql.QUERIES if one.epsilon is not None]
    text, plan = asked.sql, sql.planned(asked, FOOTINGS)
    program = program_of(plan, [ground.product for ground in grounds_of(plan, FOOTINGS)])
    ((people, median),) = pooled.execute(text).fetchall()
    sql._require_near(text, an_answer(((), (people + 20, median + 3))), plan, program, pooled)
    for wrong in ((people + 400, median), (people, 119), (people, 1)):
        with pytest.raises(WrongAnswer):
            sql._require_near(text, an_answer(((), wrong)), plan, program, pooled)


def test_one_reservation_too_many_too_few_or_uncharged_ends_the_benchmark(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    engine = open_engine(url)
    bring_up_to_date(engine, "hub")
    products = [ProductId.new(NOW, RANDOM) for _ in range(2)]
    with SqlHubStore(engine, read_only(engine)).transaction() as tx:
        tx.save_privacy(products[0], NOTHING + COST + COST)
        tx.save_privacy(products[1], NOTHING + COST)
    engine.dispose()
    right: dict[str, object] = {"latencies_s": [0.1, 0.1], "failures": []}
    budget._require_exact(url, products[:1], [right], 2)
    with pytest.raises(WrongAnswer, match="2 reservations were granted; 1 fit"):
        budget._require_exact(url, products[:1], [right], 1)
    with pytest.raises(WrongAnswer, match=re.escape(str(products[1]))):
        budget._require_exact(url, products, [right], 2)
    with pytest.raises(WrongAnswer, match="locked"):
        budget._require_exact(url, [], [{**right, "failures": ["locked"]}], 2)


@pytest.fixture
def a_bench(tmp_path: Path) -> Iterator[ledger.Bench]:
    bench = ledger.Bench(f"sqlite:///{tmp_path / 'log.db'}")
    yield bench
    bench.close()


def test_the_log_bench_takes_in_what_participants_signed_and_proves_all_of_it(
    a_bench: ledger.Bench, tmp_path: Path
) -> None:
    actors = ledger.Actors()
    found = a_bench.load(islice(actors.signed(), 40), actors.verified, 16)
    assert len(found.latencies_s) == 3
    assert a_bench.proofs().keys() == {"proof_build_us", "proof_verify_us"}
    assert a_bench.audit_s(tmp_path / "files", actors) > 0


def test_the_log_bench_ends_where_the_audit_finds_something(
    a_bench: ledger.Bench, tmp_path: Path
) -> None:
    actors = ledger.Actors()
    first, second = islice(actors.signed(), 2)
    a_bench.load(iter([first, second, b"no statement"]), bytes, 4)
    with pytest.raises(WrongAnswer, match="the audit"):
        a_bench.audit_s(tmp_path / "files", actors)


def test_the_log_bench_refuses_a_statement_under_another_actors_key() -> None:
    (entry,) = islice(ledger.Actors().signed(), 1)
    with pytest.raises(KeyError):
        ledger.Actors().verified(entry)


@pytest.mark.parametrize("wrong", ["entry", "order", "missing"])
def test_a_log_that_holds_anything_else_than_what_was_given_ends_its_bench(
    a_bench: ledger.Bench, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    genuine = log.append_many

    def append_wrongly(store: LogStore, entries: Sequence[bytes]) -> list[Digest]:
        names = genuine(store, entries)
        if wrong == "entry":
            names[-1] = genuine(store, [entries[-1] + b" "])[0]
        elif wrong == "missing":
            store.queue([(digest(b"more"), b"more")])
        else:
            names[0], names[1] = names[1], names[0]
        return names

    monkeypatch.setattr(log, "append_many", append_wrongly)
    monkeypatch.setattr(ledger, "SAMPLED", 4)
    with pytest.raises(WrongAnswer):
        a_bench.load(iter([b"a", b"b", b"c", b"d"]), bytes, 4)
