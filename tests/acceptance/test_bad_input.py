"""Files, engines, peers and people that go wrong: the job ends cleanly and nothing is lost.

Whoever's rows are at fault learns why; everybody else learns only that the local part failed. The
price returns in full. A run returns as long as nothing can have left a holder; it stays counted
once a holder has begun.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from crypto.errors import EngineFault
from crypto.identifiers import JobId, ProductId
from exchange.errors import (
    ChainBroken,
    HistoryRefused,
    IllegalTransition,
    NotYours,
    PlanRefused,
    QuestionRefused,
    UnknownSubject,
)
from exchange.jobs import JobState
from exchange.node import exactly, jobs, receiving
from exchange.node.exactly import Asked
from exchange.node.history import MAX_REFUSALS
from exchange.node.model import Decision, NodeJob
from exchange.node.runs import HISTORY, LOCAL_PART
from pricing import book
from registry.source import FileFormat, FileSource
from tests.conftest import NewDatabase
from tests.fakes.engine import InProcessEngine
from tests.world import (
    CLINIC_ROWS,
    START,
    Deal,
    Member,
    World,
    a_deal,
    a_world,
    an_approval,
    approve,
)

FUNDED = 10_000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    """Made once; every test works on its own copy. No holder admits by itself."""
    return a_deal(a_world(tmp_path_factory.mktemp("prepared")), funded=FUNDED)


@pytest.fixture
def deal(prepared: Deal, tmp_path: Path) -> Deal:
    copied = prepared.copied_to(tmp_path)
    copied.approve_standing()
    return copied


@pytest.fixture
def by_hand(prepared: Deal, tmp_path: Path) -> Deal:
    """A deal whose holders ask a person before they admit."""
    return prepared.copied_to(tmp_path)


def job_at(world: World, name: str, number: JobId) -> NodeJob:
    with world.members[name].node.store.reading() as tx:
        found = tx.job(number)
    assert found is not None
    return found


def runs_counted(deal: Deal) -> dict[str, int]:
    """Runs used, as the hub and each holder count them under the holder's own agreement."""
    world = deal.world
    counts = {}
    for name in ("clinic", "lab"):
        with world.members[name].node.store.reading() as tx:
            (held,) = tx.agreements()
        counts[name] = held.runs_used
        with world.store.reading() as hub:
            (counts[f"hub for {name}"],) = (
                counted.runs_used
                for counted in hub.agreements_of(deal.deal)
                if counted.digest == held.digest
            )
    return counts


def all_counted(runs: int) -> dict[str, int]:
    return {"clinic": runs, "hub for clinic": runs, "lab": runs, "hub for lab": runs}


def require_refunded(deal: Deal, number: JobId, state: JobState) -> None:
    world = deal.world
    with world.store.reading() as tx:
        job = tx.job(number)
        book.prove(tx.book)
    assert (job.state, job.settled) == (state, True), job.reason
    assert world.available("research") == FUNDED
    for member in world.members.values():
        member.node.look()
        with member.node.store.reading() as node:
            assert [alarm.words for alarm in node.alarms()] == []
            known = node.job(number)
            assert known is None or known.state is state
            assert node.secret(number) is None
    with pytest.raises(UnknownSubject):
        receiving.answer(number, world.members["research"].node.store)


# Files


def _csv(*rows: tuple[str, ...]) -> bytes:
    return "".join(",".join(row) + "\n" for row in rows).encode()


HEADER = ("person", "sex", "progression")
FILES: dict[str, tuple[bytes | None, str]] = {
    "no join key column": (_csv(HEADER[1:], *(row[1:] for row in CLINIC_ROWS)), "person"),
    "an empty table": (_csv(HEADER), "no row"),
    "no header": (b"", "rows.csv"),
    "a column missing": (_csv(HEADER[:2], *(row[:2] for row in CLINIC_ROWS)), "progression"),
    "not UTF-8": (_csv(HEADER, *CLINIC_ROWS) + b"p\xff,f,1.0\n", "UTF-8"),
    "more rows than the cap": (
        _csv(HEADER, *((f"q{i}", "f", "1.0") for i in range(1001))),
        "1000",
    ),
    "no file": (None, "rows.csv"),
}


@pytest.mark.parametrize("what", FILES)
def test_rows_that_cannot_be_read_fail_the_job_and_only_their_owner_learns_why(
    deal: Deal, tmp_path: Path, what: str
) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    data, words = FILES[what]
    path = tmp_path / "bad" / "rows.csv"
    path.parent.mkdir()
    if data is not None:
        path.write_bytes(data)
    with clinic.node.store.transaction() as tx:
        tx.save_source(deal.clinic_product.id, "bad", FileSource(str(path), FileFormat.CSV))
    number = deal.submit()
    world.settle()
    require_refunded(deal, number, JobState.FAILED)
    assert words in job_at(world, "clinic", number).reason
    assert job_at(world, "research", number).reason == LOCAL_PART
    assert job_at(world, "lab", number).reason == LOCAL_PART
    with world.store.reading() as hub:
        assert hub.job(number).reason == LOCAL_PART
    assert runs_counted(deal) == all_counted(1)  # messages may have left: both had begun


@pytest.mark.parametrize(
    "odd",
    [CLINIC_ROWS[0], ("", "f", "1.0"), ("p999", "f", "much"), ("p999", "?", "1.0")],
    ids=["a key twice", "no key", "a wrong type", "no category"],
)
def test_an_odd_row_counts_as_missing_and_decides_about_nobody_else(
    prepared: Deal, tmp_path: Path, odd: tuple[str, ...]
) -> None:
    answers = []
    for name, rows in (("plain", CLINIC_ROWS), ("odd", [*CLINIC_ROWS, odd])):
        deal = prepared.copied_to(tmp_path / name)
        deal.approve_standing()
        world = deal.world
        _put_clinic_rows(deal, tmp_path / f"{name}.csv", rows)
        number = deal.submit()
        world.settle()
        answers.append(receiving.answer(number, world.members["research"].node.store).rows)
    assert answers[0] == answers[1]


def test_once_its_rows_have_changed_a_holder_gives_no_more_exact_answers(
    deal: Deal, tmp_path: Path
) -> None:
    """Two answers to one question, before and after a person came, are about that person."""
    world, asked = deal.world, []
    newcomer = ("p999", "f", "1.0")
    for rows in (CLINIC_ROWS, CLINIC_ROWS, [*CLINIC_ROWS, newcomer], CLINIC_ROWS[::-1]):
        _put_clinic_rows(deal, tmp_path / "rows.csv", rows)
        asked.append(deal.submit())
        world.settle()
    states = [job_at(world, "research", number).state for number in asked]
    released, failed = JobState.RELEASED, JobState.FAILED
    assert states == [released, released, failed, released]
    assert job_at(world, "research", asked[2]).reason == HISTORY
    assert "other rows than an earlier exact answer" in job_at(world, "clinic", asked[2]).reason


def test_after_three_refusals_for_its_rows_a_holder_answers_this_consumer_with_noise_only(
    deal: Deal, tmp_path: Path
) -> None:
    """Each refusal says that one of them is unlike the others, and the fourth says nothing."""
    world = deal.world
    alike = [(person, sex, "100.0") for person, sex, _ in CLINIC_ROWS[:-2]]
    _put_clinic_rows(deal, tmp_path / "rows.csv", [*alike, ("p039", "f", "5.0")])
    refused = []
    for _ in range(MAX_REFUSALS):
        refused.append(deal.submit())
        world.settle()
    _put_clinic_rows(deal, tmp_path / "rows.csv", CLINIC_ROWS)
    last = deal.submit()
    world.settle()
    for number in (*refused, last):
        assert job_at(world, "research", number).reason == HISTORY
    assert all("fewer than" in job_at(world, "clinic", number).reason for number in refused)
    assert "was refused for its rows 3 times" in job_at(world, "clinic", last).reason


@pytest.mark.parametrize("one_at_a_time", [False, True], ids=["twin", "product"])
def test_questions_that_come_at_once_are_refused_for_rows_no_more_often(
    deal: Deal, one_at_a_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them counted before the first was: each would be told one bit more."""
    clinic, number = deal.world.members["clinic"], MAX_REFUSALS + 2
    assert clinic.node.workshop is not None
    if not one_at_a_time:
        monkeypatch.setattr(
            clinic.node, "workshop", replace(clinic.node.workshop, turns=AllAtOnce())
        )
    judging = threading.Barrier(number)

    def about_few(new: Asked, *_: object) -> None:
        if new.product.id == deal.clinic_product.id:
            with suppress(threading.BrokenBarrierError):
                judging.wait(0.2 if one_at_a_time else 10)
            raise HistoryRefused(5)

    monkeypatch.setattr(exactly, "require_many", about_few)
    burst = [deal.submit() for _ in range(number)]
    deal.world.settle()
    told = sum("fewer than" in job_at(deal.world, "clinic", job).reason for job in burst)
    assert told == (MAX_REFUSALS if one_at_a_time else number)


class AllAtOnce(dict[ProductId, Any]):
    def setdefault(self, product: ProductId, turn: object = None) -> Any:
        return nullcontext()


def _put_clinic_rows(deal: Deal, path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    path.write_bytes(_csv(HEADER, *rows))
    with deal.world.members["clinic"].node.store.transaction() as tx:
        tx.save_source(deal.clinic_product.id, path.stem, FileSource(str(path), FileFormat.CSV))


def test_a_holder_without_a_source_fails_the_job(prepared: Deal, tmp_path: Path) -> None:
    deal = prepared.copied_to(tmp_path)
    deal.approve_standing()
    clinic = deal.world.members["clinic"]

    with deal.world.engines["clinic"].begin() as connection:
        connection.exec_driver_sql("DELETE FROM node_source")
    number = deal.submit()
    deal.world.settle()
    require_refunded(deal, number, JobState.FAILED)
    assert "no source is set for clinic data" in job_at(deal.world, "clinic", number).reason
    assert clinic.node.runs == {} or not any(run.alive for run in clinic.node.runs.values())


def test_the_deal_goes_on_with_a_mended_file(deal: Deal, tmp_path: Path) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    path = tmp_path / "mended.csv"
    path.write_bytes(_csv(HEADER))
    with clinic.node.store.transaction() as tx:
        tx.save_source(deal.clinic_product.id, "mended", FileSource(str(path), FileFormat.CSV))
    failed = deal.submit()
    world.settle()
    path.write_bytes(_csv(HEADER, *CLINIC_ROWS))
    done = deal.submit()
    world.settle()
    assert job_at(world, "research", failed).state is JobState.FAILED
    assert job_at(world, "research", done).state is JobState.RELEASED
    assert runs_counted(deal) == all_counted(2)
    assert world.available("research") == FUNDED - 2000


# Questions


FROM = "FROM clinic JOIN lab ON clinic.person = lab.person"


@pytest.mark.parametrize(
    ("said", "sql"),
    [
        ("income", f"SELECT clinic.income, COUNT(*) {FROM} GROUP BY clinic.income"),
        ("income", f"SELECT SUM(clinic.income) {FROM}"),
        ("sex", f"SELECT COUNT(*) {FROM} WHERE lab.sex = 'f'"),
        ("4.605", f"SELECT COUNT(*) {FROM} GROUP BY BANDS(lab.s5, 4.605)"),
        ("s5", f"SELECT lab.s5, COUNT(*) {FROM} GROUP BY lab.s5"),
        ("nowhere", "SELECT COUNT(*) FROM clinic JOIN nowhere ON clinic.person = nowhere.person"),
        ("person", f"SELECT clinic.person {FROM}"),
        ("DROP", "DROP TABLE clinic"),
        ("exactly one", "SELECT COUNT(*) FROM clinic; SELECT COUNT(*) FROM lab"),
    ],
)
def test_a_question_that_does_not_fit_the_products_is_refused_by_fragment(
    by_hand: Deal, said: str, sql: str
) -> None:
    desk = by_hand.world.members["research"].desk
    with pytest.raises(QuestionRefused) as refused:
        desk.compile(by_hand.deal, by_hand.question(sql=sql))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("clause", "changes"),
    [
        ("terms.purposes", {"purpose": "marketing"}),
        ("terms.min_group", {"min_group": 4}),
    ],
)
def test_a_question_beyond_the_agreement_is_refused_by_clause_before_it_is_sent(
    by_hand: Deal, clause: str, changes: dict[str, object]
) -> None:
    desk = by_hand.world.members["research"].desk
    with pytest.raises(PlanRefused) as refused:
        desk.compile(by_hand.deal, by_hand.question(**changes))
    assert refused.value.constraint == clause


# Engines and peers


@pytest.mark.parametrize("fault", EngineFault)
def test_an_engine_that_fails_in_any_way_fails_one_job_and_no_more(
    deal: Deal, fault: EngineFault
) -> None:
    world, lab = deal.world, deal.world.members["lab"]
    assert lab.node.workshop is not None
    engine = lab.node.workshop.engine
    assert isinstance(engine, InProcessEngine)
    engine.fail_next = fault
    failed = deal.submit()
    world.settle()
    require_refunded(deal, failed, JobState.FAILED)
    assert f"({fault.value})" in job_at(world, "lab", failed).reason
    said = job_at(world, "research", failed).reason
    # The first to notice speaks for both; what is wrong with rows is for their holder alone.
    named = LOCAL_PART if fault is EngineFault.INPUT else f"the engine run failed ({fault.value})"
    assert said in (named, "the engine run failed (peer)")
    assert runs_counted(deal) == all_counted(1)
    done = deal.submit()
    world.settle()
    assert job_at(world, "research", done).state is JobState.RELEASED


def test_a_holder_that_never_answers_lets_the_job_expire_and_every_run_returns(deal: Deal) -> None:
    world = deal.world
    world.members["lab"].hub.down = True
    number = deal.submit()
    world.settle()
    assert job_at(world, "clinic", number).decision is Decision.ADMITTED
    assert runs_counted(deal)["clinic"] == 1
    world.clock.pass_(timedelta(minutes=16))
    world.settle()
    world.members["lab"].hub.down = False
    world.settle()
    require_refunded(deal, number, JobState.EXPIRED)
    assert runs_counted(deal) == all_counted(0)
    assert world.opened == []


def test_a_holder_that_goes_away_before_the_run_ends_it_at_the_others_deadline(deal: Deal) -> None:
    world, lab = deal.world, deal.world.members["lab"]
    number = deal.submit(run_seconds=1)
    world.members["research"].node.work()
    lab.node.hear(wait_s=0)
    lab.node.work()
    lab.hub.down = True  # it has admitted, and is heard of no more
    world.settle(200)
    lab.hub.down = False
    world.settle()
    require_refunded(deal, number, JobState.FAILED)
    assert "deadline" in job_at(world, "clinic", number).reason
    counted = runs_counted(deal)
    assert (counted["clinic"], counted["hub for clinic"]) == (1, 1)


def test_a_holder_that_dies_in_the_run_says_so_when_it_is_back(deal: Deal) -> None:
    world = deal.world
    clinic, lab, research = (world.members[n] for n in ("clinic", "lab", "research"))
    number = deal.submit()
    research.node.work()
    for member in (clinic, lab, clinic, lab):
        member.node.hear(wait_s=0)
        member.node.work()
    for member in (clinic, lab):
        for run in member.node.runs.values():
            run.kill()
            run.join(5)
    # The lab as it was on disk the moment before its engine's end was noticed.
    with lab.node.store.transaction() as tx:
        job = tx.job(number)
        assert job is not None
        if job.state is not JobState.RUNNING:
            tx.save_job(replace(job, state=JobState.RUNNING))
    world.restart("lab")
    world.settle()
    with world.store.reading() as hub:
        assert hub.job(number).state is JobState.FAILED
    assert world.available("research") == FUNDED
    assert job_at(world, "lab", number).reason == jobs.LOST


# People


def test_a_job_that_nobody_admits_waits_and_a_person_can_refuse_it(by_hand: Deal) -> None:
    world = by_hand.world
    number = by_hand.submit()
    world.settle()
    assert world.available("research") == FUNDED - 2000
    assert job_at(world, "clinic", number).decision is Decision.PENDING
    world.members["clinic"].desk.refuse(number, "not this week")
    world.settle()
    require_refunded(by_hand, number, JobState.REFUSED)
    assert job_at(world, "research", number).reason == "not this week"
    assert runs_counted(by_hand) == all_counted(0)
    with pytest.raises(PlanRefused, match="order"):
        world.members["clinic"].desk.approve(number)


def test_people_can_admit_one_by_one(by_hand: Deal) -> None:
    world = by_hand.world
    number = by_hand.submit()
    world.settle()
    world.members["clinic"].desk.approve(number)
    world.settle()
    assert world.opened == []
    world.members["lab"].desk.approve(number)
    world.settle()
    assert job_at(world, "research", number).state is JobState.RELEASED


def test_a_refusal_after_the_other_holder_admitted_returns_its_run(by_hand: Deal) -> None:
    world = by_hand.world
    number = by_hand.submit()
    world.settle()
    world.members["clinic"].desk.approve(number)
    world.settle()
    assert runs_counted(by_hand)["clinic"] == 1
    world.members["lab"].desk.refuse(number, "no")
    world.settle()
    require_refunded(by_hand, number, JobState.REFUSED)
    assert runs_counted(by_hand) == all_counted(0)


def test_a_paused_holder_refuses_until_it_goes_on(deal: Deal) -> None:
    world, clinic = deal.world, deal.world.members["clinic"]
    clinic.desk.pause(True)
    refused = deal.submit()
    world.settle()
    require_refunded(deal, refused, JobState.REFUSED)
    assert "paused" in job_at(world, "research", refused).reason
    assert runs_counted(deal) == all_counted(0)
    clinic.desk.pause(False)
    done = deal.submit()
    world.settle()
    assert job_at(world, "research", done).state is JobState.RELEASED


STANDING: dict[str, dict[str, object]] = {
    "another purpose": {"purposes": ("other",)},
    "another consumer": {"consumers": ()},
    "larger groups": {"min_group": 6},
    "fewer runs a day": {"runs_per_day": 0},
    "a time that is over": {"valid_until": START},
}


@pytest.mark.parametrize("limit", STANDING)
def test_a_standing_approval_admits_nothing_outside_its_limits(by_hand: Deal, limit: str) -> None:
    world, clinic = by_hand.world, by_hand.world.members["clinic"]
    approve(world, "clinic", an_approval(world, by_hand.clinic_product, **STANDING[limit]))
    number = by_hand.submit()
    world.settle()
    assert job_at(world, "clinic", number).decision is Decision.PENDING
    approve(world, "clinic", an_approval(world, by_hand.clinic_product))
    clinic.node.work()
    assert job_at(world, "clinic", number).decision is Decision.ADMITTED


def test_a_standing_approval_admits_so_many_jobs_a_day(by_hand: Deal) -> None:
    world = by_hand.world
    approve(world, "clinic", an_approval(world, by_hand.clinic_product, runs_per_day=2))
    numbers = [by_hand.submit() for _ in range(3)]
    world.settle()
    decisions = [job_at(world, "clinic", number).decision for number in numbers]
    assert decisions == [Decision.ADMITTED, Decision.ADMITTED, Decision.PENDING]
    world.clock.pass_(timedelta(days=1))
    world.settle()  # the first three have expired; a new day has begun
    tomorrow = by_hand.submit()
    world.settle()
    assert job_at(world, "clinic", tomorrow).decision is Decision.ADMITTED


# Withdrawing


def steps(deal: Deal, *names: str) -> None:
    """Each named member hears and works once; the hub orders what it has."""
    for name in names:
        member = deal.world.members[name]
        member.node.hear(wait_s=0)
        member.node.work()
    deal.world.hub_step()


STAGES: dict[str, tuple[str, ...]] = {
    "before the hub has heard of it": (),
    "once the money is held": ("research",),
    "once one holder has admitted": ("research", "clinic"),
    "once both have admitted": ("research", "clinic", "lab"),
    "once everybody knows": ("research", "clinic", "lab", "research"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_can_be_cancelled_until_a_holder_begins(deal: Deal, stage: str) -> None:
    world, research = deal.world, deal.world.members["research"]
    number = deal.submit()
    steps(deal, *STAGES[stage])
    research.desk.cancel(number)
    research.node.work()
    world.settle()
    require_refunded(deal, number, JobState.CANCELLED)
    assert runs_counted(deal) == all_counted(0)
    assert world.opened == []


def test_a_cancellation_that_a_holder_has_overtaken_changes_nothing(deal: Deal) -> None:
    """The consumer withdraws before it hears that a holder has begun: the result is paid for,
    and so it must be opened."""
    world, research = deal.world, deal.world.members["research"]
    number = deal.submit()
    steps(deal, "research", "clinic", "lab", "clinic", "lab")
    assert world.opened
    research.desk.cancel(number)
    world.settle()
    assert job_at(world, "research", number).state is JobState.RELEASED
    assert receiving.answer(number, research.node.store).rows
    assert world.available("research") == FUNDED - 2000


def test_a_job_that_is_over_cannot_be_cancelled(deal: Deal) -> None:
    world, research = deal.world, deal.world.members["research"]
    number = deal.submit()
    world.settle()
    with pytest.raises(IllegalTransition):
        research.desk.cancel(number)


def test_only_the_consumer_cancels(deal: Deal) -> None:
    world = deal.world
    number = deal.submit()
    steps(deal, "research", "clinic")
    with pytest.raises(NotYours):
        world.members["clinic"].desk.cancel(number)


# Money and counts


def test_a_consumer_without_enough_money_is_told_and_nobody_else_hears_of_the_job(
    prepared: Deal, tmp_path: Path
) -> None:
    deal = prepared.copied_to(tmp_path)
    world = deal.world
    for _ in range(5):
        deal.submit()  # every one holds 2,000 of the 10,000
    sixth = deal.submit()
    world.settle()
    refused = job_at(world, "research", sixth)
    assert refused.state is JobState.REFUSED
    with world.members["clinic"].node.store.reading() as tx:
        assert tx.job(sixth) is None
        assert len(tx.jobs()) == 5
    assert world.available("research") == 0


def test_a_rejected_job_takes_neither_money_nor_runs(tmp_path: Path) -> None:
    deal = a_deal(a_world(tmp_path), funded=1999)
    world = deal.world
    number = deal.submit()
    world.settle()
    refused = job_at(world, "research", number)
    assert refused.state is JobState.REFUSED
    assert "account must cover it" in refused.reason
    assert world.available("research") == 1999
    assert runs_counted(deal) == all_counted(0)
    with world.members["lab"].node.store.reading() as tx:
        assert tx.job(number) is None


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_jobs_submitted_at_once_cannot_use_more_runs_than_agreed(
    kind: str, new_database: NewDatabase, tmp_path: Path
) -> None:
    world = a_world(tmp_path, hub_url=new_database(kind))
    deal = a_deal(world, runs=2)
    research = world.members["research"]
    for _ in range(5):
        deal.submit()
    with research.node.store.reading() as tx:
        waiting = tx.unsent(10)
    assert len(waiting) == 5
    begin = threading.Barrier(len(waiting))

    def send(member: Member, entry: bytes, documents: tuple[bytes, ...]) -> None:
        begin.wait()
        for _ in range(500):
            try:
                member.hub.submit(entry, documents)
                return
            except ChainBroken:  # it is not this one's turn
                continue

    threads = [
        threading.Thread(target=send, args=(research, item.entry, item.documents))
        for item in waiting
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    world.settle()
    with world.store.reading() as hub:
        held = [job.id for job in hub.jobs_of(research.id) if job.held is not None]
        assert len(hub.jobs_of(research.id)) == 5
        book.prove(hub.book)
    assert len(held) == 2
    states = [job_at(world, "research", JobId(n)).state for n in held]
    assert states == [JobState.REQUESTED] * 2
    counted = runs_counted(deal)
    assert (counted["hub for clinic"], counted["hub for lab"]) == (2, 2)
    assert world.available("research") == FUNDED - 2 * 2000
    world.engines["hub"].dispose()
