"""What doubt about when a statement came excuses in the replay of public statements: a step too
many, never one too few."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ledger.verify.log import Timing
from tests.public_log import CONSUMER, HOLDER, PublicLog
from tests.unit.test_public_replay import ACTS


def a_job(admitted: Timing = Timing.PERHAPS) -> PublicLog:
    """Up to the holder's admission, with every other statement in doubt."""
    log = PublicLog(timing=Timing.PERHAPS)
    log.until_admitted(admitted)
    assert log.failed == log.unopened == []
    return log


@pytest.mark.parametrize(
    ("timing", "failed", "unopened"),
    [
        (Timing.PERHAPS, [], ["funds.refunded"]),
        (Timing.OPEN, [], ["funds.refunded"]),
        (Timing.FITS, ["funds.refunded"], []),
        (Timing.LATE, [], []),
    ],
)
@pytest.mark.parametrize("kind", ["job.cancelled", "job.refused"])
def test_a_refund_after_a_cancellation_follows_if_the_start_may_have_come_too_late(
    kind: str, timing: Timing, failed: list[str], unopened: list[str]
) -> None:
    log = a_job(Timing.FITS)
    log.starts(timing)
    log.refunds(log.says(CONSUMER if kind == "job.cancelled" else HOLDER, kind))
    assert (log.failed, log.unopened) == (failed, unopened)


def test_a_refund_once_a_start_came_in_time_fails_whatever_came_in_doubt() -> None:
    log = a_job(Timing.FITS)
    log.starts(Timing.FITS)
    log.starts(Timing.PERHAPS)
    log.refunds(log.says(CONSUMER, "job.cancelled"))
    assert log.failed == ["funds.refunded"]


def test_a_start_may_have_come_to_nothing_where_an_admission_that_it_names_may() -> None:
    log = a_job(Timing.PERHAPS)
    log.starts(Timing.FITS)
    log.refunds(log.says(CONSUMER, "job.cancelled"))
    assert (log.failed, log.unopened) == ([], ["funds.refunded"])


@pytest.mark.parametrize("act", [a for a in ACTS if "after_the_start" not in a.__name__])
def test_no_doubt_excuses_what_an_act_of_the_operator_lacks(
    act: Callable[[PublicLog], bytes],
) -> None:
    log = a_job()
    log.starts()
    act(log)
    assert len(log.failed) + len(log.unopened) == 1
    if not (log.unopened and "strangers_failure" in act.__name__):
        assert len(log.failed) == 1


def test_a_termination_that_may_have_come_too_late_leaves_the_agreement_in_question() -> None:
    log = PublicLog(timing=Timing.PERHAPS)
    log.agrees(terminated=Timing.PERHAPS)
    log.submits()
    log.holds()
    assert (log.failed, log.unopened) == ([], ["funds.held"])


def test_a_termination_in_time_ends_the_negotiation() -> None:
    log = PublicLog(timing=Timing.PERHAPS)
    log.agrees(terminated=Timing.FITS)
    log.submits()
    log.holds()
    assert log.failed == ["funds.held"]


def test_no_doubt_makes_up_for_a_consumers_signature() -> None:
    log = PublicLog(timing=Timing.PERHAPS)
    log.agrees(without="negotiation.verified")
    log.submits()
    log.holds()
    assert log.failed == ["funds.held"]
