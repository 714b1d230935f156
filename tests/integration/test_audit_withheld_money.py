"""An operator that keeps a price is told of by each of the three audits, one whose hub was down or
whose job simply still runs by none."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from crypto.identifiers import JobId
from crypto.record import Amount
from exchange import jobs
from exchange.audit import bundle as bundles
from exchange.audit.alerts import Alert, Kind
from exchange.audit.deal import audit_deal
from exchange.audit.follow import Follower
from exchange.audit.whole import audit_whole_log
from exchange.hub import background, settlement
from exchange.jobs import MAX_HELD, MAX_WAIT, SETTLED_WITHIN, JobState
from exchange.query.plan import Plan
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.heads import page_bytes, parse_page
from ledger.verify.note import Note
from ledger.verify.proof import Proof
from ledger.verify.report import Check, Report
from ledger.verify.tile_names import CHECKPOINT, heads_path
from pricing.money import Money
from tests.integration.test_audit_deal import audit, export, roots_of
from tests.integration.test_audit_follow import HubBundles, follower, opener
from tests.integration.test_audit_log import Exchange
from tests.world import Deal, World, a_deal, a_world

HOUR = timedelta(hours=1)


class Watched:
    """A world with a deal, its log's followers, and who looks at it."""

    def __init__(self, deal: Deal, path: Path) -> None:
        self.deal = deal
        self.world: World = deal.world
        self._log = Exchange(self.world, path)
        self._deposits = 0
        self.seeing: Follower = follower(
            self.world, deals=HubBundles(self.world), opener=opener(self.world)
        )
        self.blind: Follower = follower(self.world)
        self.looks()

    def passes(self, span: timedelta, rounds: int = 3) -> None:
        """Time, and then something that has nothing to do with the deal: the log grows, twice."""
        self.world.clock.pass_(span)
        operator = self.world.operator.party
        money = Money("TEST", Amount(1))
        for _ in range(2):
            self._deposits += 1
            self.world.service.fund(operator, operator, money, key=f"else-{self._deposits}")
            self.rounds(rounds)

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.world.hub_step()

    def submits(self, plan: Plan | None = None, *, unanswered: bool) -> JobId:
        for name in ("clinic", "lab"):
            self.world.members[name].hub.down = unanswered
        desk = self.world.members["research"].desk
        job = desk.submit(plan or desk.compile(self.deal.deal, self.deal.question()))
        for _ in range(25):
            self.world.round()
        return job

    def settled(self) -> Check:
        """What the audit of the deal says of the money of its one job."""
        (check,) = (c for c in audit(self.world, self.deal).checks if c.id == "money.settled")
        return check

    def log(self) -> Report:
        self._log.publish()
        return self.mirror()

    def mirror(self) -> Report:
        """What the audit of the log says of the copy that was made last."""
        return audit_whole_log(
            str(self._log.folder), self.world.policy, self._log.roots, self._log.documents
        )

    def cosigned_anew(self, note: bytes) -> bytes:
        """A head that a party holds, as its witness cosigns it for whoever sends it again."""
        parsed = Note.parse(note)
        lines = self.world.witness.add_checkpoint(Checkpoint.parse(parsed.text).size, (), parsed)
        own = [line for line in parsed.signatures if line.name != self.world.witness.key.name]
        return Note(parsed.text, (*own, *lines)).to_bytes()

    def renew_bundle(self, data: bytes) -> bytes:
        """The bundle as it was, under its head of a later time."""
        bundle = bundles.read(data)
        note = self.cosigned_anew(bundle.checkpoint)
        proofs = {index: Proof.parse(proof) for index, proof in bundle.proofs.items()}
        renewed = {i: Proof(i, p.hashes, note).text.encode() for i, p in proofs.items()}
        return bundles.write(replace(bundle, checkpoint=note, proofs=renewed))

    def renew_mirror(self) -> None:
        """The copy as it was, under its newest head of a later time."""
        head = self._log.folder / CHECKPOINT
        renewed = self.cosigned_anew(head.read_bytes())
        head.write_bytes(renewed)
        page = self._log.folder / heads_path(0)
        *past, last = parse_page(page.read_bytes())
        assert Note.parse(last).text == Note.parse(renewed).text
        page.write_bytes(page_bytes([*past, renewed]))

    def looks(self) -> tuple[list[Alert], list[Alert]]:
        """With bundles, and without: what is new of prices and deadlines."""
        now = self.world.clock.now()
        told = (self.seeing.look(now), self.blind.look(now))
        first, second = ([a for a in found if a.kind is not Kind.NOT_OPENED] for found in told)
        return first, second


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    deal = a_deal(a_world(tmp_path_factory.mktemp("agreed")))
    deal.approve_standing()
    deal.world.settle()
    return deal


@pytest.fixture
def watched(agreed: Deal, tmp_path: Path) -> Watched:
    return Watched(agreed.copied_to(tmp_path / "world"), tmp_path / "log")


def key(check: Check) -> str:
    return "" if check.note is None else check.note.key


def failed(report: Report) -> list[tuple[str, str, str]]:
    return [(check.id, check.subject, key(check)) for check in report.failed]


def overdue(watched: Watched, job: JobId, alerts: list[Alert]) -> bool:
    """Whether just this is told: that the operator, by its name, owes this job's price."""
    if not alerts:
        return False
    (alert,) = alerts
    named = all(watched.world.operator.party in words for words in alert.words.values())
    return (alert.kind, alert.subject, named) == (Kind.OVERDUE, job, True)


def no_money_moves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(background, "move_jobs", lambda *_: 0)


def no_release_is_paid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settlement, "pay_out", lambda *_: None)


# An operator that keeps the money


def test_a_price_that_is_never_given_back_is_told_of(watched: Watched) -> None:
    with pytest.MonkeyPatch.context() as patch:
        no_money_moves(patch)
        job = watched.submits(unanswered=True)
        watched.passes(timedelta(minutes=20))  # nobody may begin any more; a run could still last
        assert (watched.settled().passed, key(watched.settled())) == (True, "money.still_held")
        assert watched.looks() == ([], [])

        watched.passes(HOUR)
        assert (watched.settled().passed, key(watched.settled())) == (None, "money.unended")
        seeing, blind = watched.looks()
        assert overdue(watched, job, seeing)
        assert blind == []
        assert watched.looks() == ([], [])

        watched.passes(SETTLED_WITHIN)
        assert failed(audit(watched.world, watched.deal)) == [
            ("money.settled", job, "money.unended")
        ]
        assert failed(watched.log()) == []  # when it had to end is not public
        assert watched.looks() == ([], [])

        watched.passes(MAX_HELD - 2 * SETTLED_WITHIN)
        assert failed(watched.log()) == []
        watched.passes(2 * SETTLED_WITHIN)
        assert failed(watched.log()) == [("job.public", job, "money.unended")]
        seeing, blind = watched.looks()
        assert (seeing, overdue(watched, job, blind)) == ([], True)
    watched.rounds(3)
    assert (watched.settled().passed, key(watched.settled())) == (True, "money.refunded")
    assert failed(watched.log()) == []
    assert watched.looks() == ([], [])
    for look in (watched.seeing, watched.blind):
        assert look.state is not None
        assert look.state.standing == ()


def test_a_release_that_is_never_paid_is_told_of(watched: Watched) -> None:
    with pytest.MonkeyPatch.context() as patch:
        no_release_is_paid(patch)
        job = watched.submits(unanswered=False)
        assert (watched.settled().passed, key(watched.settled())) == (True, "money.still_held")
        assert watched.looks() == ([], [])

        watched.passes(HOUR)
        assert (watched.settled().passed, key(watched.settled())) == (None, "money.unpaid")
        seeing, blind = watched.looks()
        assert overdue(watched, job, seeing)
        assert overdue(watched, job, blind)
        assert failed(watched.log()) == []

        watched.passes(SETTLED_WITHIN)
        assert failed(audit(watched.world, watched.deal)) == [
            ("money.settled", job, "money.unpaid")
        ]
        assert failed(watched.log()) == [("job.public", job, "money.unpaid")]
        assert watched.looks() == ([], [])
    watched.rounds(3)
    assert (watched.settled().passed, key(watched.settled())) == (True, "money.released")
    assert failed(watched.log()) == []
    watched.looks()
    for look in (watched.seeing, watched.blind):
        assert look.state is not None
        assert look.state.standing == ()


def test_receipts_that_are_never_released_are_told_of(watched: Watched) -> None:
    with pytest.MonkeyPatch.context() as patch:
        no_money_moves(patch)
        job = watched.submits(unanswered=False)
        watched.passes(timedelta(minutes=5))
        assert watched.looks() == ([], [])
        watched.passes(HOUR)
        seeing, _ = watched.looks()
        assert any(overdue(watched, job, [alert]) for alert in seeing)
        watched.passes(SETTLED_WITHIN)
        wrong = failed(audit(watched.world, watched.deal))
        assert wrong == [("money.settled", job, "money.unended")]


def test_a_log_that_no_longer_grows_excuses_for_a_day(watched: Watched) -> None:
    """Whoever follows it live cannot wait for a head that never comes."""
    with pytest.MonkeyPatch.context() as patch:
        no_release_is_paid(patch)
        job = watched.submits(unanswered=False)
    watched.world.clock.pass_(SETTLED_WITHIN - HOUR)
    assert watched.looks() == ([], [])
    watched.world.clock.pass_(2 * HOUR)
    for alerts in watched.looks():
        assert overdue(watched, job, [a for a in alerts if a.kind is Kind.OVERDUE])


# Operators that may look like it


@pytest.mark.parametrize("how", ["waits for an answer", "waits for a payment"])
def test_a_hub_that_was_down_for_days_is_accused_of_nothing(watched: Watched, how: str) -> None:
    unanswered = how == "waits for an answer"
    stops = no_money_moves if unanswered else no_release_is_paid
    with pytest.MonkeyPatch.context() as patch:
        stops(patch)
        watched.submits(unanswered=unanswered)
    watched.looks()
    watched.world.clock.pass_(3 * SETTLED_WITHIN)
    background.move_jobs(watched.world.store, watched.world.operator)  # before any head: loops_of
    watched.passes(timedelta(0), rounds=1)
    done = "money.refunded" if unanswered else "money.released"
    assert (watched.settled().passed, key(watched.settled())) == (True, done)
    assert failed(watched.log()) == []
    assert watched.looks() == ([], [])


@pytest.mark.parametrize("how", ["waits for an answer", "waits for a payment"])
def test_no_party_makes_a_hub_that_is_down_look_as_if_it_kept_a_price(
    watched: Watched, how: str
) -> None:
    """A witness cosigns the newest head again for anybody, with the time of now."""
    unanswered = how == "waits for an answer"
    stops = no_money_moves if unanswered else no_release_is_paid
    with pytest.MonkeyPatch.context() as patch:
        stops(patch)
        watched.submits(unanswered=unanswered)
        watched.passes(timedelta(minutes=1))
    assert failed(watched.log()) == []
    old = export(watched.world, watched.deal)
    watched.world.clock.pass_(MAX_HELD + 3 * SETTLED_WITHIN)
    watched.renew_mirror()
    assert failed(watched.mirror()) == []
    forged = watched.renew_bundle(old)
    found = audit_deal(forged, watched.world.policy, roots_of(watched.world), None)
    assert failed(found) == []
    (check,) = (check for check in found.checks if check.id == "money.settled")
    told = "money.unended" if unanswered else "money.unpaid"
    assert (check.passed, key(check)) == (None, told)  # true of the head, and nobody's fault


def test_a_release_that_was_never_witnessed_waits_with_its_payment(watched: Watched) -> None:
    """As long as witnesses are away no honest operator pays; it has then the time from the head."""
    with pytest.MonkeyPatch.context() as patch:
        no_release_is_paid(patch)
        patch.setattr(background, "publish", lambda *_: None)
        watched.submits(unanswered=False)
        watched.passes(3 * SETTLED_WITHIN)
        patch.undo()
        no_release_is_paid(patch)
        background.publish(watched.world.operator, watched.world.keeping)
        assert watched.settled().passed is None
        assert failed(watched.log()) == []
        assert watched.looks() == ([], [])


def test_a_job_that_waits_as_long_as_its_plan_says_is_told_of_by_nobody(watched: Watched) -> None:
    desk = watched.world.members["research"].desk
    plan = desk.compile(watched.deal.deal, watched.deal.question(), wait=MAX_WAIT / 2)
    watched.submits(plan, unanswered=True)
    watched.passes(MAX_WAIT / 2 - HOUR)
    assert (watched.settled().passed, key(watched.settled())) == (True, "money.still_held")
    assert failed(watched.log()) == []
    assert watched.looks() == ([], [])


def test_no_price_is_held_for_longer_than_the_audit_of_a_log_allows_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_WAIT", timedelta(minutes=14))
    number = watched.deal.submit()
    watched.rounds(1)
    for _ in range(3):
        watched.world.round()
    job = watched.world.service.job(watched.world.members["research"].id, number).job
    assert job.state is JobState.REFUSED
    assert job.reason.startswith("run_by: is more than")
