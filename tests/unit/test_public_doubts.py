"""What doubt about when a statement came excuses in the replay of public statements: a step too
many, never one too few."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crypto.digest import digest
from crypto.identifiers import PartyId
from exchange.audit.public import PublicReplay
from ledger.verify.log import Entry, Tally, Timing

CONSUMER, HOLDER, OPERATOR = (PartyId("pty_" + c * 32) for c in "abc")
TALK, JOB = "neg_" + "1" * 32, "job_" + "2" * 32
AGREEMENT, PLAN = digest(b"agreement").raw, digest(b"plan").raw


class Story:
    """Statements one after the other, each of them doubtful unless said otherwise, under heads
    that witnesses cosigned after every one."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.replay = PublicReplay(self.tally)
        self.replay.operator = OPERATOR
        self.place = 0

    def says(
        self,
        actor: PartyId,
        kind: str,
        subject: str = JOB,
        timing: Timing = Timing.PERHAPS,
        *,
        after: tuple[bytes, ...] = (),
        inputs: tuple[bytes, ...] = (PLAN,),
        outputs: tuple[bytes, ...] = (),
        policy: bytes | None = None,
    ) -> bytes:
        self.place += 1
        name = digest(f"{self.place}".encode()).raw
        entry = Entry(
            self.place,
            name,
            actor=actor,
            type=kind,
            subject=subject,
            after=after,
            inputs=inputs,
            outputs=outputs,
            policy=policy,
        )
        self.replay.heard(entry, timing, self.place)
        return name

    def agrees(self, *, terminated: Timing | None = None, verified: bool = True) -> None:
        self.says(CONSUMER, "negotiation.requested", TALK)
        if terminated is not None:
            self.says(CONSUMER, "negotiation.terminated", TALK, terminated)
        self.says(HOLDER, "negotiation.agreed", TALK, outputs=(AGREEMENT,))
        if verified:
            self.says(CONSUMER, "negotiation.verified", TALK, outputs=(AGREEMENT,))
        self.says(HOLDER, "negotiation.finalized", TALK)

    def holds(self) -> None:
        """Up to the holder's admission."""
        submitted = self.says(CONSUMER, "job.submitted", inputs=(AGREEMENT,), outputs=(PLAN,))
        self.says(OPERATOR, "funds.held", after=(submitted,), inputs=(PLAN, AGREEMENT))
        self.says(HOLDER, "job.admitted", policy=AGREEMENT)

    @property
    def failed(self) -> list[str]:
        return [subject.split(" ")[2] for kept in self.tally.failed.values() for subject, _ in kept]

    @property
    def unopened(self) -> list[str]:
        return [subject.split(" ")[2] for kept in self.tally.open.values() for subject, _ in kept]


def a_job() -> Story:
    story = Story()
    story.agrees()
    story.holds()
    assert story.failed == story.unopened == []
    return story


@pytest.mark.parametrize(
    ("timing", "failed", "unopened"),
    [
        (Timing.PERHAPS, [], ["funds.refunded"]),
        (Timing.OPEN, [], ["funds.refunded"]),
        (Timing.FITS, ["funds.refunded"], []),
        (Timing.LATE, [], []),
    ],
)
def test_a_refund_after_a_cancellation_follows_if_the_start_may_have_come_too_late(
    timing: Timing, failed: list[str], unopened: list[str]
) -> None:
    story = a_job()
    story.says(HOLDER, "job.started", timing=timing)
    cancelled = story.says(CONSUMER, "job.cancelled")
    story.says(OPERATOR, "funds.refunded", after=(cancelled,))
    assert (story.failed, story.unopened) == (failed, unopened)


def _released_without_receipts(story: Story) -> None:
    story.says(OPERATOR, "job.released")


def _refunded_for_nothing(story: Story) -> None:
    story.says(OPERATOR, "funds.refunded")


def _paid_without_release(story: Story) -> None:
    sealed = story.says(HOLDER, "job.sealed")
    story.says(OPERATOR, "funds.released", after=(sealed,))


def _released_twice(story: Story) -> None:
    sealed = story.says(HOLDER, "job.sealed")
    story.says(OPERATOR, "job.released", after=(sealed,))
    story.says(OPERATOR, "job.released", after=(sealed,))


def _held_twice(story: Story) -> None:
    story.says(OPERATOR, "funds.held", inputs=(PLAN, AGREEMENT))


def _of_another_plan(story: Story) -> None:
    story.says(OPERATOR, "job.expired", inputs=(AGREEMENT,))


@pytest.mark.parametrize(
    "act",
    [
        _released_without_receipts,
        _refunded_for_nothing,
        _paid_without_release,
        _released_twice,
        _held_twice,
        _of_another_plan,
    ],
)
def test_no_doubt_excuses_what_an_act_of_the_operator_lacks(act: Callable[[Story], None]) -> None:
    story = a_job()
    story.says(HOLDER, "job.started")
    act(story)
    assert len(story.failed) == 1


def test_a_termination_that_may_have_come_too_late_leaves_the_agreement_in_question() -> None:
    story = Story()
    story.agrees(terminated=Timing.PERHAPS)
    story.holds()
    assert (story.failed, story.unopened) == ([], ["negotiation.finalized"])


def test_no_doubt_makes_up_for_a_consumers_signature() -> None:
    story = Story()
    story.agrees(verified=False)
    assert story.failed == ["negotiation.finalized"]
