"""Every process of a deal is killed at each of its writes during a job, and started again.

Whatever is killed whenever: the job then completes, paid once, with the plaintext's answer, or it
fails cleanly, refunded in full; the book adds up, every statement is in the log, once and in
order, no node has counted fewer runs than it started, and the deal's audit fails nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest

from crypto.identifiers import DealId, JobId
from crypto.statement import read_statement
from exchange.audit.deal import audit_deal
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.hub import bundle as hub_bundle
from exchange.jobs import FINAL, JobState
from exchange.node import receiving
from pricing import book
from tests.fault.crash import Doom, Moment, Trial, require_log, without_death
from tests.world import CLINIC_ROWS, LAB_ROWS, Deal, Member, World, a_deal, a_world

PRICE = 2000
FUNDED = 10_000
VICTIMS = ("hub", "clinic", "lab", "research")

# A process that died in its thread is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    world = a_world(tmp_path_factory.mktemp("prepared") / "world")
    deal = a_deal(world, funded=FUNDED)
    deal.approve_standing()
    deal.world.settle()
    return deal


def a_job(
    prepared: Deal,
    path: Path,
    victim: str,
    doom: Doom,
    *,
    dead_for: timedelta = timedelta(),
) -> tuple[World, JobId]:
    """One job from submission to rest, with one death in it."""
    deal = prepared.copied_to(path)
    world = deal.world
    desk = world.members["research"].desk
    plan = desk.compile(deal.deal, deal.question())
    trial = Trial(world, victim, doom, dead_for)
    trial.attempt(lambda: desk.submit(plan))
    trial.settle()
    if doom.dead:
        world.clock.pass_(timedelta(hours=2))  # past every deadline
        trial.settle()
    doom.spare()
    return world, plan.job


def require_audited(world: World, deal: DealId) -> None:
    """An auditor with keys of its own finds nothing wrong in what the hub hands out."""
    folders = (world.operator_folder, *(m.folder for m in world.members.values()))
    roots = Roots(frozenset(f.party.document.identity.fingerprint for f in folders), ())
    regulator = world.members["regulator"]
    opener = Opener(regulator.id, regulator.folder.sealing)
    with world.store.reading() as tx:
        bundle = hub_bundle.export(deal, tx).data
    assert audit_deal(bundle, world.policy, roots, opener).failed == ()


def require_sound(world: World, number: JobId) -> JobState | None:
    """Everything that must be true afterwards. The job's state; None if it was never submitted."""
    for member in world.members.values():
        member.node.look()
        with member.node.store.reading() as tx:
            assert [alarm.words for alarm in tx.alarms()] == []
            assert list(tx.unsent(10)) == []
            assert list(tx.unproven(100)) == []
    state = require_same_end(world, number)
    require_money(world, state)
    require_log(world)
    with world.members["research"].node.store.reading() as tx:
        deal = tx.agreements()[0].agreement.deal
    require_audited(world, deal)
    for member in world.members.values():
        require_runs_counted(member)
        with member.node.store.reading() as tx:
            assert tx.secret(number) is None
    if state is JobState.RELEASED:
        answer = receiving.answer(number, world.members["research"].node.store)
        got = {row.groups: tuple(f.value for f in row.figures) for row in answer.rows}
        assert got == PLAINTEXT
    return state


def require_same_end(world: World, number: JobId) -> JobState | None:
    """The job is over for everybody who knows of it, and its consumer says what the hub says. A
    holder that came back after the end keeps its own reason for it."""
    with world.store.reading() as hub:
        jobs = {job.id: job for job in hub.jobs_of(world.members["research"].id)}
        assert list(hub.unsettled_jobs()) == []
    states = {}
    for name in ("research", "clinic", "lab"):
        with world.members[name].node.store.reading() as tx:
            known = tx.job(number)
            if known is not None:
                states[name] = known.state
    if number not in jobs:
        # Its consumer died before it had said so, or came back too late for it to count.
        assert states in ({}, {"research": JobState.REFUSED})
        return None
    state = jobs[number].state
    assert state in FINAL
    assert states["research"] is state
    assert set(states.values()) <= FINAL
    released = {name for name, end in states.items() if end is JobState.RELEASED}
    assert released == (set(states) if state is JobState.RELEASED else set())
    return state


def require_money(world: World, state: JobState | None) -> None:
    with world.store.reading() as tx:
        book.prove(tx.book)
    paid = PRICE if state is JobState.RELEASED else 0
    assert world.available("research") == FUNDED - paid
    assert world.available("clinic") == world.available("lab") == paid // 2


def require_runs_counted(member: Member) -> None:
    with member.node.store.reading() as tx:
        entries = [tx.entry(number) for number in range(tx.head().next_seq)]
        counted = sum(held.runs_used for held in tx.agreements())
    said = [read_statement(entry).statement.type for entry in entries if entry is not None]
    assert counted >= said.count("job.started")


def _plaintext() -> Iterator[tuple[tuple[str, str], tuple[int | None, Fraction | None]]]:
    lab = {person: Fraction(s5) for person, s5 in LAB_ROWS}
    bands = {"< 4.6": ("0", "4.6"), "4.6 to < 5.1": ("4.6", "5.1"), ">= 5.1": ("5.1", "99")}
    for sex in ("f", "m"):
        for label, (low, high) in bands.items():
            values = [
                Fraction(progression)
                for person, own, progression in CLINIC_ROWS
                if person in lab and own == sex and Fraction(low) <= lab[person] < Fraction(high)
            ]
            if len(values) >= 5:
                yield (sex, label), (len(values), sum(values, Fraction()) / len(values))
            else:
                yield (sex, label), (None, None)


PLAINTEXT = dict(_plaintext())


def counted(prepared: Deal, path: Path, victim: str, moment: Moment) -> Doom:
    deal = prepared.copied_to(path)
    return without_death(deal, victim, moment, lambda _: deal.submit())


def test_without_a_death_the_job_is_released(prepared: Deal, tmp_path: Path) -> None:
    world, job = a_job(prepared, tmp_path, "hub", Doom(Moment.COMMIT, 0))
    assert require_sound(world, job) is JobState.RELEASED


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_killed_at_some_writes_leaves_the_deal_sound(
    prepared: Deal, tmp_path: Path, victim: str
) -> None:
    total = counted(prepared, tmp_path / "count", victim, Moment.COMMITTED).count
    for n in (1 + total // 3, 1 + 2 * total // 3):
        doom = Doom(Moment.COMMITTED, n)
        world, job = a_job(prepared, tmp_path / f"{n}", victim, doom)
        assert doom.dead
        require_sound(world, job)
        world.close()


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "times"), [(Moment.COMMIT, 1), (Moment.COMMITTED, 2)])
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_killed_around_each_kind_of_commit_leaves_the_deal_sound(
    prepared: Deal, tmp_path: Path, victim: str, moment: Moment, times: int
) -> None:
    """Around the first of each kind, and after the second too: of two holders' acts the second is
    the one that moves the job on. Later ones repeat these, as the log grows: a transaction that
    wrote nothing leaves what the one before it left."""
    ends, kinds = set(), counted(prepared, tmp_path / "count", victim, moment).kinds
    assert len(kinds) >= 5
    for at, (kind, often) in enumerate(kinds.items()):
        for n in range(1, min(times, often) + 1):
            doom = Doom(moment, n, kind)
            world, job = a_job(prepared, tmp_path / f"{at}-{n}", victim, doom)
            ends.add(require_sound(world, job))
            world.close()
            assert doom.dead, (kind, n)
    assert JobState.RELEASED in ends


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_that_stays_dead_past_every_deadline_leaves_the_deal_sound(
    prepared: Deal, tmp_path: Path, victim: str
) -> None:
    kinds = counted(prepared, tmp_path / "count", victim, Moment.COMMITTED).kinds
    for at, kind in enumerate(kinds):
        doom = Doom(Moment.COMMITTED, 1, kind)
        world, job = a_job(prepared, tmp_path / f"{at}", victim, doom, dead_for=timedelta(hours=1))
        assert doom.dead, kind
        require_sound(world, job)
        world.close()


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_process_killed_within_its_transactions_leaves_the_deal_sound(
    prepared: Deal, tmp_path: Path, victim: str
) -> None:
    """At some rows: a transaction that is cut anywhere leaves what one cut at its end leaves."""
    total = counted(prepared, tmp_path / "count", victim, Moment.WRITE).count
    for n in range(1, total + 1, 1 + total // 10):
        doom = Doom(Moment.WRITE, n)
        world, job = a_job(prepared, tmp_path / f"{n}", victim, doom)
        require_sound(world, job)
        world.close()
