"""What anybody may say about a stranger's negotiation or job costs an audit no more than a limit,
and accuses nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count

import pytest

from crypto.digest import digest
from crypto.identifiers import JobId, NegotiationId, PartyId
from exchange.audit import public
from exchange.audit.doubts import MAX_TRIES
from exchange.audit.public import MAX_REPLAYS, MAX_SAID, PublicReplay
from exchange.terms.negotiation import State
from ledger.verify.log import Entry, Tally, Timing

DEAL = NegotiationId("neg_" + "1" * 32)
JOB = JobId("job_" + "2" * 32)
CONSUMER, HOLDER, OPERATOR, STRANGER = (PartyId("pty_" + c * 32) for c in "abcd")
AGREEMENT, PLAN = digest(b"agreement").raw, digest(b"plan").raw
NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)


class Log:
    """Statements that reach a replay one after the other, each in time."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.replay = PublicReplay(self.tally)
        self.replay.operator = OPERATOR
        self._places = count()

    def says(
        self,
        actor: PartyId,
        kind: str,
        subject: str,
        *outputs: bytes,
        inputs: tuple[bytes, ...] = (),
        after: tuple[bytes, ...] = (),
        timing: Timing = Timing.FITS,
    ) -> Entry:
        place = next(self._places)
        entry = Entry(
            place,
            digest(b"%d" % place).raw,
            actor=actor,
            time=NOW,
            type=kind,
            subject=subject,
            after=after,
            inputs=inputs,
            outputs=outputs,
            data=b"x" * 60_000,
        )
        self.replay.heard(entry, timing, place)
        return entry

    def agree(self, *, meanwhile: Iterable[None] = ()) -> None:
        self.says(CONSUMER, "negotiation.requested", DEAL)
        for _ in meanwhile:
            pass
        self.says(HOLDER, "negotiation.agreed", DEAL, AGREEMENT)
        self.says(CONSUMER, "negotiation.verified", DEAL, AGREEMENT)
        self.says(HOLDER, "negotiation.finalized", DEAL)

    def hold(self) -> None:
        submitted = self.says(CONSUMER, "job.submitted", JOB, PLAN, inputs=(AGREEMENT,))
        inputs = (PLAN, AGREEMENT)
        self.says(OPERATOR, "funds.held", JOB, inputs=inputs, after=(submitted.digest,))

    def not_judged(self, check: str) -> list[str]:
        return [why.key for _, why in self.tally.open.get(check, ()) if why is not None]


def test_a_job_under_an_agreement_that_became_final_is_judged() -> None:
    log = Log()
    log.agree()
    log.hold()
    assert log.tally.failed == log.tally.open == {}
    assert log.tally.passed == {"negotiation.public": 2, "job.public": 1}


def test_a_negotiation_about_which_too_much_is_said_is_not_judged_and_accuses_nobody() -> None:
    log = Log()

    def flood() -> Iterator[None]:
        for _ in range(3 * MAX_SAID):
            log.says(STRANGER, "negotiation.offered", DEAL)
            talk = log.replay._talks.get(DEAL)
            assert talk is None or len(talk.steps) <= MAX_SAID
            assert talk is None or all(step.entry.data == b"" for step in talk.steps)
            yield

    log.agree(meanwhile=flood())
    log.hold()
    log.says(OPERATOR, "job.released", JOB, inputs=(PLAN,))
    assert log.tally.failed == {}
    assert log.not_judged("negotiation.public") == ["public.too_much"]
    assert log.not_judged("job.public") == ["public.agreement_unjudged"]
    assert any(DEAL in subject for subject, _ in log.tally.open["negotiation.public"])


@pytest.mark.parametrize("doubtful", [Timing.FITS, Timing.PERHAPS])
def test_a_negotiation_is_replayed_a_limited_number_of_times(
    monkeypatch: pytest.MonkeyPatch, doubtful: Timing
) -> None:
    replays = []

    def play(
        replay: PublicReplay, steps: Sequence[public._Step], consumer: PartyId, holder: PartyId
    ) -> tuple[State | None, bytes]:
        replays.append(steps)
        return real(replay, steps, consumer, holder)

    real = PublicReplay._play
    monkeypatch.setattr(PublicReplay, "_play", play)
    log = Log()
    log.says(CONSUMER, "negotiation.requested", DEAL, timing=doubtful)
    log.says(STRANGER, "negotiation.agreed", DEAL, AGREEMENT, timing=doubtful)
    others = [PartyId(f"pty_{number:032x}") for number in range(20)]
    for other in others[:10]:
        log.says(other, "negotiation.verified", DEAL, b"", timing=doubtful)
    for _ in range(60):
        log.says(STRANGER, "negotiation.finalized", DEAL, timing=doubtful)
    assert "public.too_much" in log.not_judged("negotiation.public")
    assert len(replays) <= MAX_REPLAYS * (1 + MAX_TRIES)


def test_a_job_of_which_endless_endings_are_told_is_not_judged() -> None:
    log = Log()
    log.agree()
    log.hold()
    for _ in range(3 * MAX_SAID):
        log.says(STRANGER, "job.failed", JOB, inputs=(PLAN,))
        job = log.replay._jobs.get(JOB)
        assert job is None or job.said <= MAX_SAID
    log.says(OPERATOR, "job.released", JOB, inputs=(PLAN,))
    assert log.tally.failed == {}
    assert log.not_judged("job.public") == ["public.too_much"]


def test_a_stranger_does_not_close_a_job_by_a_negotiation_of_the_same_name() -> None:
    log = Log()
    log.agree()
    submitted = log.says(CONSUMER, "job.submitted", JOB, PLAN, inputs=(AGREEMENT,))
    log.says(STRANGER, "negotiation.requested", JOB)
    log.says(STRANGER, "negotiation.terminated", JOB)
    log.says(OPERATOR, "funds.held", JOB, inputs=(PLAN, AGREEMENT), after=(submitted.digest,))
    assert log.tally.failed == {}
    assert log.tally.passed["job.public"] == 1
