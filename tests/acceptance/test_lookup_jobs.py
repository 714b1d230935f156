"""Private lookup as a job: a holder's table, a consumer's keys, an answer that only one of them
sees, and a price that is paid for it."""

from __future__ import annotations

import stat
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from crypto.errors import KeyRefused
from crypto.identifiers import JobId
from crypto.lookup.table import Table
from exchange.errors import PlanRefused, QuestionRefused
from exchange.jobs import JobState
from exchange.node import own_runs, receiving
from exchange.query.explanation import learns
from exchange.query.plan import Lookup
from exchange.results import Found, FoundRecord, LookupAnswer
from registry.errors import DocumentRefused
from tests.acceptance.test_a_deal_with_real_engines import real_workshop
from tests.fakes.request_engine import RequestEngine
from tests.requests import (
    PEOPLE,
    OneHolder,
    a_lookup_deal,
    a_lookup_product,
    a_request_deal,
    make_table,
    with_request_engines,
    workshop,
)
from tests.world import World, a_world

RECORDS = {
    person: {name: value for name, value in (("sex", sex), ("town", town), ("bmi", bmi)) if value}
    for person, sex, town, bmi in PEOPLE
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = a_world(tmp_path)
    with_request_engines(world)
    return world


def found(deal: OneHolder, job: JobId) -> LookupAnswer:
    answer = receiving.answer(job, deal.consumer.node.store)
    assert isinstance(answer, LookupAnswer)
    return answer


def test_keys_find_their_records_and_nothing_else_and_the_holder_is_paid(world: World) -> None:
    deal = a_lookup_deal(world)
    keys = ["p003", "nobody", "p001", "p002", "p004"]
    job = deal.look_up(keys)
    deal.approve(job)
    deal.released(job)
    assert found(deal, job).columns == ("sex", "town", "bmi")
    assert found(deal, job).rows == tuple(
        FoundRecord(key, Found.RECORD, RECORDS[key])
        if key in RECORDS
        else FoundRecord(key, Found.NOTHING)
        for key in keys
    )
    assert (world.available("research"), world.available("clinic")) == (9000, 1000)
    assert deal.alarms(deal.consumer) == deal.alarms(deal.holder) == []


def test_the_plan_says_how_many_keys_are_sent_and_not_how_many_are_meant(world: World) -> None:
    deal = a_lookup_deal(world)
    sent = [deal.plan(meant).work for meant in (1, 5, 16, 17)]
    assert [work.keys for work in sent if isinstance(work, Lookup)] == [16, 16, 16, 32]
    told = learns(deal.plan(5))
    assert "16 keys were asked for" in told[deal.holder.id]
    assert "sex, town, bmi" in told[deal.consumer.id]


def test_nothing_that_leaves_the_consumer_depends_on_what_it_asks(world: World) -> None:
    """Plan and statements are the same for any keys; the keys are in no database and no inbox."""
    deal = a_lookup_deal(world)
    job = deal.look_up(["p003", "secret-key-of-somebody"])
    deal.approve(job)
    deal.released(job)
    for name in ("hub", "clinic"):
        databases = world.path / f"{name}.db", world.path / name / "node.db"
        stored = b"".join(path.read_bytes() for path in databases if path.exists())
        assert stored and b"secret-key-of-somebody" not in stored


def test_keys_are_kept_for_their_owner_alone_and_forgotten_with_the_run(world: World) -> None:
    deal = a_lookup_deal(world)
    job = deal.look_up(["p003"])
    asked = workshop(deal.consumer).shelf.path / "asked" / job
    assert stat.S_IMODE((asked / "names.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(asked.stat().st_mode) == 0o700
    deal.approve(job)
    deal.released(job)
    assert not asked.exists()


def test_the_seed_is_readable_by_its_owner_alone(world: World) -> None:
    product = a_lookup_product(world)
    folder = world.path / "clinic"
    (seed,) = (folder / "seeds").iterdir()
    (table,) = (folder / "tables").iterdir()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (seed, table)} == {0o600}
    assert product.lookup is not None
    assert Table.load(table).digest == product.lookup.table
    for value in ("Basel", "quoted", "28.4"):
        assert value.encode() not in table.read_bytes()


def test_the_table_is_downloaded_once_for_all_jobs(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    room = with_request_engines(world)
    deal = a_lookup_deal(world)
    for _ in range(2):
        job = deal.look_up(["p003"])
        deal.approve(job)
        deal.released(job)
    assert room.tables_sent == [True, False]


def test_a_table_spoiled_in_the_consumers_cache_is_downloaded_again(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    room = with_request_engines(world)
    deal = a_lookup_deal(world)
    for _ in range(2):
        job = deal.look_up(["p003"])
        deal.approve(job)
        deal.released(job)
        (cached,) = (world.path / "research" / "tables").iterdir()
        cached.write_bytes(cached.read_bytes()[:-1] + b"\x00")
    assert room.tables_sent == [True, True]
    assert found(deal, job).rows[0].values == RECORDS["p003"]


def test_a_new_table_has_a_key_of_its_own_and_a_version_of_its_own(world: World) -> None:
    first = a_lookup_product(world)
    second = make_table(world, first.id)
    assert first.lookup is not None and second.lookup is not None
    assert (first.version, first.lookup.epoch) == (2, 0)
    assert (second.version, second.lookup.epoch) == (3, 1)
    tables = [Table.load(path) for path in (world.path / "clinic" / "tables").iterdir()]
    assert len({table.public for table in tables}) == 2


def test_the_table_has_the_size_of_the_cap_and_of_the_longest_permitted_record(
    tmp_path: Path,
) -> None:
    sizes = set()
    for name, rows in (("few", PEOPLE[:1]), ("many", PEOPLE)):
        product = a_lookup_product(a_world(tmp_path / name), rows=rows)
        assert product.lookup is not None
        sizes.add((product.lookup.rows, product.lookup.label_bytes))
    # Each column's length in 2 bytes; f or m; 32 bytes of town; 100.0.
    assert sizes == {(10, 2 + 1 + 2 + 32 + 2 + 5)}


def test_a_column_that_the_rule_does_not_name_cannot_be_looked_up(world: World) -> None:
    from exchange.node import lookups

    product = a_lookup_product(world)
    clinic = world.members["clinic"]
    with pytest.raises(DocumentRefused, match="income"):
        lookups.make(
            product.id,
            ("sex", "income"),
            text_bytes=32,
            group=None,  # type: ignore[arg-type]  # refused before any key is made
            open_source=workshop(clinic).open_source,
            store=clinic.node.store,
            identity=clinic.node.identity,
            shelf=workshop(clinic).shelf,
        )


def test_a_key_that_is_none_is_refused_before_anything_is_sent(world: World) -> None:
    deal = a_lookup_deal(world)
    for keys, problem in ((["p1", "p1"], "same"), ([" p1"], "blank"), ([""], "empty")):
        with pytest.raises(KeyRefused, match=problem):
            deal.look_up(keys)
    with pytest.raises(QuestionRefused, match="keys"):
        deal.look_up([])


# What keys cost


def test_a_day_allows_so_many_keys_fillers_included_and_the_next_day_as_many_again(
    world: World,
) -> None:
    deal = a_lookup_deal(world, per_day=32)
    for _ in range(2):
        job = deal.look_up(["p003"])
        deal.approve(job)
        deal.released(job)
    third = deal.look_up(["p001"])
    world.settle()
    assert deal.job(third).state is JobState.REFUSED
    assert "0 are left of 32 in 24 hours; the job sends 16" in deal.job(third).reason
    world.clock.pass_(timedelta(hours=24))
    fourth = deal.look_up(["p001"])
    deal.approve(fourth)
    deal.released(fourth)


def test_two_jobs_that_wait_together_cannot_share_the_last_of_the_allowance(world: World) -> None:
    deal = a_lookup_deal(world, per_day=16)
    first, second = deal.look_up(["p001"]), deal.look_up(["p002"])
    world.settle()
    deal.holder.desk.approve(first)
    with pytest.raises(PlanRefused, match="evaluations_per_day"):
        deal.holder.desk.approve(second)


def test_another_agreement_about_the_same_product_does_not_refill_the_allowance(
    world: World,
) -> None:
    product = a_lookup_product(world, per_day=16)
    deals = [a_request_deal(world, product) for _ in range(2)]
    job = deals[0].look_up(["p003"])
    deals[0].approve(job)
    deals[0].released(job)
    other = deals[1].look_up(["p003"])
    world.settle()
    assert deals[1].job(other).state is JobState.REFUSED


def test_more_keys_than_a_day_allows_are_no_plan(world: World) -> None:
    deal = a_lookup_deal(world, per_day=20)
    work = deal.plan(17).work
    assert isinstance(work, Lookup) and work.keys == 20  # the round number is not allowed
    with pytest.raises(QuestionRefused, match="takes 20 at once"):
        deal.plan(21)
    with pytest.raises(QuestionRefused, match="takes 20 at once"):
        deal.plan(3, sent=21)


def test_a_plan_whose_consumer_skipped_its_own_check_is_refused_by_the_hub(world: World) -> None:
    deal = a_lookup_deal(world, per_day=20)
    plan = deal.plan(3)
    assert isinstance(plan.work, Lookup)
    greedy = replace(plan, work=replace(plan.work, keys=21))
    job = deal.consumer.desk.submit(replace(greedy, learns=learns(greedy)))
    world.settle()
    assert deal.job(job).state is JobState.REFUSED
    assert "evaluations_per_day" in deal.job(job).reason


# When one side does not do its part


def test_a_consumer_that_vanishes_gets_its_price_back_and_an_alarm(world: World) -> None:
    deal = a_lookup_deal(world)
    engine = workshop(deal.consumer).engine
    assert isinstance(engine, RequestEngine)
    engine.vanish = True
    job = deal.look_up(["p003"])
    deal.approve(job)
    assert deal.job(job).state is JobState.FAILED
    assert world.available("research") == 10_000
    assert any("own part" in words for words in deal.alarms(deal.consumer))
    assert not (world.path / "research" / "asked" / job).exists()


def test_a_holder_that_vanishes_fails_the_job(world: World) -> None:
    deal = a_lookup_deal(world)
    engine = workshop(deal.holder).engine
    assert isinstance(engine, RequestEngine)
    engine.vanish = True
    job = deal.look_up(["p003"])
    deal.approve(job)
    assert deal.job(job).state is JobState.FAILED
    assert world.available("research") == 10_000


def test_a_holder_without_its_seed_fails_at_home_and_the_consumer_does_not_wait_for_ever(
    world: World,
) -> None:
    deal = a_lookup_deal(world)
    (seed,) = (world.path / "clinic" / "seeds").iterdir()
    seed.unlink()
    job = deal.look_up(["p003"])
    deal.approve(job)
    assert deal.job(job).state is JobState.FAILED
    assert "local part" in deal.job(job).reason and "seed" not in deal.job(job).reason


def test_a_row_that_the_holder_spoiled_fails_no_run_and_is_named_damaged(world: World) -> None:
    """Else the holder could spoil one row and see whose job fails."""
    product = a_lookup_product(world)
    clinic = world.members["clinic"]
    assert product.lookup is not None
    shelf = workshop(clinic).shelf
    path = shelf.table(product.lookup.table)
    seed = shelf.seed(product.lookup.table)
    image = Table.load(path).image.copy()
    image[-10 * (2 + product.lookup.label_bytes + 16) :] ^= 1  # every sealed record
    spoiled = Table(image)
    shelf.keep_table(spoiled, seed)
    from exchange.node import registering

    listed = replace(product, version=3, lookup=replace(product.lookup, table=spoiled.digest))
    registering.list_product(listed, store=clinic.node.store, identity=clinic.node.identity)
    deal = a_request_deal(world, listed)
    job = deal.look_up(["p003", "nobody"])
    deal.approve(job)
    deal.released(job)
    assert [row.found for row in found(deal, job).rows] == [Found.DAMAGED, Found.NOTHING]
    assert deal.alarms(deal.holder) == []


def test_a_node_that_died_during_its_own_part_never_runs_it_a_second_time(world: World) -> None:
    """A second run would use the same keys for other messages."""
    deal = a_lookup_deal(world)
    job = deal.look_up(["p003"])
    world.settle()
    deal.holder.desk.approve(job)
    consumer = deal.consumer
    for _ in range(20):
        deal.holder.node.work()
        consumer.node.hear(wait_s=0)
        world.hub_step()
        deal.holder.node.hear(wait_s=0)
        if deal.job(job).state is JobState.RUNNING:
            break
    with consumer.node.store.transaction() as tx:
        assert tx.secret(job) is not None
        tx.forget_secret(job)  # as its run does before the first message; then the process dies
    assert own_runs.due(consumer.node.store, consumer.node.identity) == []
    consumer.node.begin()
    assert any("stopped" in words for words in deal.alarms(consumer))
    with consumer.node.store.reading() as tx:
        kept = tx.job(job)
        assert kept is not None and own_runs.is_ended(kept, tx)


def test_a_holder_that_seals_without_a_run_is_found_out(world: World) -> None:
    """It is paid on its own word; the consumer's alarm is signed and in the ledger."""
    deal = a_lookup_deal(world)

    class Alone(RequestEngine):
        def start(self, task, given, limits):  # type: ignore[no-untyped-def]
            return Idle()

    class Idle:
        def wait(self, on_stage=None):  # type: ignore[no-untyped-def]
            from crypto.engine import EngineOutcome

            return EngineOutcome(b"", {}, {"total": 0}, {}, 0)

        def kill(self, why: str) -> None:
            return

    holder = deal.holder
    lying = Alone(workshop(holder).engine.room)  # type: ignore[attr-defined]
    holder.node.workshop = replace(workshop(holder), engine=lying)
    engine = workshop(deal.consumer).engine
    assert isinstance(engine, RequestEngine)
    engine.vanish = True  # nobody is there to compute with
    job = deal.look_up(["p003"])
    deal.approve(job)
    assert deal.job(job).state is JobState.RELEASED
    assert any("own part of the run failed" in words for words in deal.alarms(deal.consumer))
    assert receiving.is_dealt_with(job, deal.consumer.node.store)


# Real engines and links


@pytest.mark.engine
def test_two_nodes_look_up_over_links_with_engine_children(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_lookup_deal(world)
    clinic, research = deal.holder, deal.consumer
    with real_workshop(clinic, listen=False), real_workshop(research, listen=True):
        for round_ in range(2):
            job = deal.look_up(["p003", "nobody"])
            world.settle()
            clinic.desk.approve(job)
            for _ in range(1500):
                world.round()
                threading.Event().wait(0.02)
                if deal.job(job).state in (JobState.RELEASED, JobState.FAILED):
                    break
            world.settle()
            deal.released(job)
            rows = found(deal, job).rows
            assert rows[0].values == RECORDS["p003"]
            assert rows[1].found is Found.NOTHING
            with clinic.node.store.reading() as tx:
                left = sum(e.size_bytes for e in tx.egress(job) if e.receiver == research.id)
            with research.node.store.reading() as tx:
                asked = sum(e.size_bytes for e in tx.egress(job) if e.receiver == clinic.id)
            assert (left > 16 * 32) and (asked > 16 * 32)
            if round_ == 0:
                first = left
            else:
                assert left < first  # the table was there already
    assert deal.alarms(research) == deal.alarms(clinic) == []
