"""Which deals and jobs a follower watches: only those who have a part in a job make it read a
bundle again, move a deadline, or can be missed in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from crypto.digest import digest
from crypto.identifiers import DealId, PartyId
from exchange.audit.alerts import Alerts, Kind, Waits
from exchange.audit.bundle import MAX_IDLE, MAX_IDLE_BYTES
from exchange.audit.public import Job
from exchange.audit.roots import Roots
from exchange.audit.watched import LONGEST_RUN, MAX_UNANSWERED, Deals, Work
from ledger.errors import SourceUnreachable
from ledger.verify.log import Entry
from pricing.evidence import HELD

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
DAY = timedelta(days=1)
DEAL, OTHER = (DealId(f"dea_{n:032x}") for n in (1, 2))
OPERATOR, CONSUMER, HOLDER, HELPER, STRANGER = (PartyId(f"pty_{n:032x}") for n in range(5))
JOB = f"job_{1:032x}"
SUBMISSION, FALSE_SUBMISSION = digest(b"submission").raw, digest(b"another").raw


@dataclass
class Watching:
    """A log's entries as they are heard, with what the public replay makes of the one job."""

    work: Work = field(init=False)
    job: Job | None = None
    place: int = 0
    submitted_in: dict[bytes, str] = field(default_factory=lambda: {SUBMISSION: DEAL})

    def __post_init__(self) -> None:
        self.work = Work(
            lambda subject: self.job if subject == JOB else None,
            lambda job, planned: NOW if job.released else planned,
        )

    def hears(
        self,
        kind: str,
        actor: PartyId,
        *,
        subject: str = JOB,
        at: datetime = NOW,
        after: Sequence[bytes] = (),
        states: str = "",
        size: int = 100,
    ) -> int:
        entry = Entry(
            self.place,
            b"",
            actor=actor,
            type=kind,
            subject=subject,
            time=at,
            after=tuple(after),
            data=bytes(size),
        )
        self.place += 1
        self.work.heard(entry, states, lambda name: self.submitted_in.get(name, ""))
        return entry.place

    def holds_the_price(self) -> int:
        self.job = Job(CONSUMER, b"plan", {HOLDER: b"agreement", HELPER: None})
        return self.hears(HELD, OPERATOR, after=[SUBMISSION])

    def starts(self, at: datetime = NOW) -> None:
        assert self.job is not None
        self.job = self.job._replace(started=frozenset({HOLDER}))
        self.hears("job.started", HOLDER, at=at)

    def deadlines(self) -> list[datetime]:
        return [deadline for _, deadline, _ in self.work.under_way()]


def a_held_job() -> Watching:
    watching = Watching()
    watching.holds_the_price()
    watching.work.changed()
    return watching


# Whose deal a job is


def test_a_job_is_of_the_deal_that_its_submission_states_whatever_was_said_of_it_before() -> None:
    watching = Watching(submitted_in={SUBMISSION: DEAL, FALSE_SUBMISSION: OTHER})
    watching.hears("job.failed", CONSUMER, states=OTHER)
    watching.hears("job.submitted", STRANGER, states=OTHER)
    watching.hears("job.submitted", CONSUMER, states=DEAL)
    assert watching.work.changed() == []
    held = watching.holds_the_price()
    assert watching.work.changed() == [DEAL]
    assert watching.work.entries(DEAL) == [held]
    assert watching.work.entries(OTHER) == ()


def test_a_price_that_the_public_replay_does_not_take_as_held_begins_nothing() -> None:
    watching = Watching()
    watching.hears(HELD, OPERATOR, after=[SUBMISSION])
    assert watching.work.changed() == []


def test_a_negotiation_is_of_the_deal_of_its_first_step_by_whoever_began_the_deal() -> None:
    watching = Watching()
    watching.hears("negotiation.requested", CONSUMER, subject="neg_1", states=DEAL)
    assert watching.work.changed() == [DEAL]
    watching.hears("negotiation.requested", CONSUMER, subject="neg_1", states=OTHER)
    assert watching.work.changed() == [DEAL]
    watching.hears("negotiation.verified", CONSUMER, subject="neg_1")
    assert watching.work.changed() == [DEAL]
    watching.hears("negotiation.requested", STRANGER, subject="neg_2", states=DEAL)
    watching.hears("negotiation.terminated", STRANGER, subject="neg_1")
    watching.hears("negotiation.verified", STRANGER, subject="neg_3", states=DEAL)
    assert watching.work.changed() == []


# Strangers


def test_a_stranger_has_no_bundle_read_again_and_is_not_missed_in_it() -> None:
    watching = a_held_job()
    before = list(watching.work.entries(DEAL))
    for kind in ("job.started", "job.sealed", "job.failed", HELD, "alarm.raised"):
        watching.hears(kind, STRANGER, after=[FALSE_SUBMISSION])
    assert watching.work.changed() == []
    assert watching.work.entries(DEAL) == before
    said = watching.hears("job.failed", HOLDER)
    assert watching.work.changed() == [DEAL]
    assert watching.work.entries(DEAL) == [*before, said]


def test_a_helper_has_a_part_once_the_price_is_held() -> None:
    watching = a_held_job()
    watching.hears("job.admitted", HELPER)
    assert watching.work.changed() == [DEAL]
    watching.starts()
    watching.work.changed()
    said = watching.hears("job.sealed", HELPER)
    assert watching.work.changed() == [DEAL]
    assert said in watching.work.entries(DEAL)


def test_what_a_hub_may_leave_out_is_not_missed() -> None:
    many, long = a_held_job(), a_held_job()
    before = len(many.work.entries(DEAL))
    for _ in range(MAX_IDLE + 10):
        many.hears("job.failed", CONSUMER)
        long.hears("job.failed", CONSUMER, size=MAX_IDLE_BYTES // 3)
    assert len(many.work.entries(DEAL)) == before + MAX_IDLE
    assert len(long.work.entries(DEAL)) == before + 3
    said = many.hears("job.released", OPERATOR)
    assert said in many.work.entries(DEAL)


# Deadlines


def test_only_the_first_start_of_a_holder_makes_a_deadline() -> None:
    watching = a_held_job()
    watching.hears("job.started", STRANGER)
    watching.hears("job.started", CONSUMER)
    assert watching.deadlines() == []
    watching.starts()
    for day in range(100):
        watching.hears("job.started", STRANGER, at=NOW + day * DAY)
        watching.hears("job.started", HOLDER, at=NOW + day * DAY)
    assert watching.deadlines() == [NOW + LONGEST_RUN]


def test_a_plan_that_another_deal_has_for_the_same_job_moves_no_deadline() -> None:
    watching = a_held_job()
    watching.starts()
    watching.work.plan(OTHER, JOB, NOW + 1000 * DAY)
    assert watching.deadlines() == [NOW + LONGEST_RUN]
    watching.work.plan(DEAL, JOB, NOW + DAY)
    assert watching.deadlines() == [NOW + DAY]


def test_a_job_is_under_way_until_it_is_released_or_its_price_given_back() -> None:
    for end in ("released", "refunded"):
        watching = a_held_job()
        watching.starts()
        assert watching.deadlines()
        assert watching.job is not None
        watching.hears("job.released", STRANGER)
        assert watching.deadlines()
        watching.job = watching.job._replace(released=b"release")
        if end == "refunded":
            watching.job = None
        watching.hears(f"job.{end}", OPERATOR)
        assert watching.deadlines() == []


# Bundles that are not served


@dataclass
class Served:
    """Every deal but some. data: what is served in place of bundles."""

    dead: set[DealId]
    asked: list[DealId] = field(default_factory=list)
    data: bytes | None = None

    def read(self, deal: DealId) -> bytes | None:
        self.asked.append(deal)
        if deal in self.dead:
            raise SourceUnreachable("answered 500")
        return self.data


def reading(served: Served, watching: Watching) -> tuple[Deals, Alerts]:
    alerts = Alerts(None)
    nothing = cast(Any, None)  # a bundle that is not given is compared with nothing
    roots = Roots(frozenset(), ())
    return Deals(served, nothing, roots, None, watching.work, alerts, Waits(None)), alerts


def looks(deals: Deals) -> int:
    """How many deals had no answer."""
    return len(deals.check(cast(Any, None), "", NOW))


def test_bytes_that_are_no_bundle_accuse_nobody_and_are_told_of_when_they_last() -> None:
    """A file that is half copied, a captive portal's page."""
    watching, served = a_held_job(), Served(set(), data=b"<html>busy</html>")
    watching.hears("job.failed", CONSUMER)
    deals, alerts = reading(served, watching)
    for minute in (0, 10, 11, 12):
        alerts.begin()
        now = NOW + timedelta(minutes=minute)
        deals.check(cast(Any, None), "", now)
        deals.tell(now, timedelta(minutes=10))
        alerts.end()
        expected = [(Kind.MISSING, DEAL)] if minute == 11 else []
        assert [(alert.kind, alert.subject) for alert in alerts.told()] == expected
    served.data = None
    deals.check(cast(Any, None), "", NOW + DAY)
    assert [alert.kind for alert in alerts.told()] == [Kind.NOT_OPENED]
    deals.tell(NOW + DAY, timedelta(minutes=10))
    assert alerts.told() == []


def test_a_deal_that_never_rests_is_behind_only_where_its_bundle_is() -> None:
    """Each holds what was heard a look before, as under the last witnessed head; or never more."""

    class Judging(Deals):
        size = 0

        def _judge(self, *_: object) -> int:
            return self.size

    for follows in (True, False):
        watching, alerts, nothing = a_held_job(), Alerts(None), cast(Any, None)
        roots = Roots(frozenset(), ())
        deals = Judging(Served(set()), nothing, roots, None, watching.work, alerts, Waits(None))
        for minute in range(30):
            heard = watching.hears("job.failed", CONSUMER)
            deals.size = heard if follows else 1
            deals.check(nothing, "", NOW + timedelta(minutes=minute))
            deals.tell(NOW + timedelta(minutes=minute), timedelta(minutes=10))
        assert [alert.subject for alert in alerts.told()] == ([] if follows else [DEAL])


def test_a_deal_without_an_answer_keeps_no_other_from_being_read() -> None:
    watching, dead = Watching(), [DealId(f"dea_{n:032x}") for n in range(100, 110)]
    served = Served(set(dead))
    deals, alerts = reading(served, watching)
    for deal in (*dead, DEAL):
        watching.hears("negotiation.requested", CONSUMER, subject=f"neg_{deal}", states=deal)
    for _ in range(4):
        assert looks(deals) == MAX_UNANSWERED
    assert served.asked[: len(dead) + 1] == [*dead, DEAL]
    # From then on what is new comes first, also where those without an answer speak again,
    # and they are asked in turns.
    watching.hears("negotiation.verified", CONSUMER, subject=f"neg_{dead[0]}")
    watching.hears("negotiation.requested", CONSUMER, subject="neg_new", states=OTHER)
    served.asked.clear()
    for _ in range(4):
        assert looks(deals) == MAX_UNANSWERED
    assert served.asked[0] == OTHER
    assert set(served.asked[1:]) == set(dead)
    served.dead.clear()
    assert looks(deals) == 0
    served.asked.clear()
    assert looks(deals) == 0
    assert served.asked == []
    assert {alert.subject for alert in alerts.told()} == {DEAL, OTHER, *dead}
