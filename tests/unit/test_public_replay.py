"""What strangers say about a negotiation or job neither makes an honest operator's act look wrong
nor excuses another's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crypto.identifiers import JobId, NegotiationId, PartyId
from exchange.audit import public
from exchange.jobs import MAX_HELD, SETTLED_WITHIN
from ledger.verify.log import Timing
from ledger.verify.report import phrase
from tests.public_log import (
    AGREEMENT,
    CONSUMER,
    DEAL,
    HELPER,
    HOLDER,
    JOB,
    OPERATOR,
    OTHER_AGREEMENT,
    PLAN,
    SECOND,
    STRANGER,
    PublicLog,
    document,
)

HEARD_OR_NOT = pytest.mark.parametrize("heard", [True, False])


def begins(log: PublicLog, *admissions: bytes, heard: bool = True) -> None:
    """A stranger admits and starts, as if it had a part."""
    own = log.says(STRANGER, "job.admitted", heard=heard)
    log.says(STRANGER, "job.started", after=(*admissions, own), heard=heard)


# Honest


@pytest.mark.parametrize("helper", [None, HELPER])
@pytest.mark.parametrize("holders", [(HOLDER,), (HOLDER, SECOND)])
def test_a_job_that_is_paid_follows(holders: tuple[PartyId, ...], helper: PartyId | None) -> None:
    log = PublicLog(holders=holders, helper=helper)
    log.until_admitted()
    log.starts()
    log.seals()
    log.releases_and_pays()
    assert log.failed == log.unopened == []
    assert log.tally.passed["negotiation.public"] == len(holders)
    assert log.tally.passed["job.public"] == 3 + 2 * len(log.parties)


@pytest.mark.parametrize("kind", ["job.refused", "job.cancelled"])
def test_a_start_by_a_stranger_does_not_make_an_honest_refund_look_wrong(kind: str) -> None:
    log = PublicLog()
    log.until_admitted()
    begins(log, *log.admissions)
    ended = log.says(CONSUMER if kind == "job.cancelled" else HOLDER, kind)
    log.refunds(ended)
    assert log.failed == log.unopened == []


def test_a_stranger_that_admits_and_starts_before_the_helper_is_not_taken_for_it() -> None:
    log = PublicLog(helper=HELPER)
    log.agrees()
    log.submits()
    log.holds()
    begins(log)
    log.admits()
    log.starts()
    log.seals()
    log.releases_and_pays()
    assert log.failed == log.unopened == []


@pytest.mark.parametrize("timing", Timing)
def test_a_job_under_an_id_that_a_stranger_used_first_is_the_one_that_the_price_is_held_for(
    timing: Timing,
) -> None:
    log = PublicLog()
    log.agrees()
    log.submits(STRANGER, timing)
    log.submits()
    log.holds()
    log.admits()
    log.starts()
    log.seals()
    log.releases_and_pays()
    assert log.failed == log.unopened == []


def test_a_submission_that_came_to_nothing_does_not_stand_in_the_way_of_the_next() -> None:
    log = PublicLog()
    log.agrees()
    log.submits(timing=Timing.PERHAPS)
    rejected = log.submits()
    log.says(OPERATOR, "job.rejected", after=(rejected,))
    assert log.failed == log.unopened == []


def test_a_negotiation_that_a_stranger_began_and_ended_is_still_its_parties() -> None:
    log = PublicLog()
    for kind in ("requested", "terminated", "offered", "terminated"):
        log.says(STRANGER, f"negotiation.{kind}", DEAL, inputs=())
    log.until_admitted()
    assert log.failed == log.unopened == []
    assert log.tally.passed["negotiation.public"] == 1


def test_strangers_who_finalise_what_nobody_verified_fail_no_audit() -> None:
    log = PublicLog()
    log.says(STRANGER, "negotiation.requested", DEAL, inputs=())
    log.says(STRANGER, "negotiation.agreed", DEAL, inputs=(), outputs=(PLAN,))
    log.says(STRANGER, "negotiation.finalized", DEAL, inputs=())
    log.until_admitted()
    assert log.failed == log.unopened == []


def test_a_stranger_does_not_close_a_job_by_a_negotiation_of_the_same_name() -> None:
    log = PublicLog()
    log.agrees()
    log.submits()
    log.says(STRANGER, "negotiation.requested", JOB, inputs=())
    log.says(STRANGER, "negotiation.terminated", JOB, inputs=())
    log.holds()
    assert log.failed == log.unopened == []


def test_open_jobs_beyond_a_number_are_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def audited() -> PublicLog:
        log = PublicLog(helper=HELPER)
        log.until_admitted()
        submitted = log.says(
            CONSUMER, "job.submitted", other, inputs=(AGREEMENT, document(HOLDER)), outputs=(PLAN,)
        )
        inputs = (PLAN, AGREEMENT)
        log.says(OPERATOR, "funds.held", other, after=(submitted,), inputs=inputs)
        log.starts()
        log.seals()
        log.releases_and_pays()
        log.replay.finish()
        return log

    other = JobId("job_" + "3" * 32)
    in_memory = audited()
    assert in_memory.failed == []
    assert in_memory.tally.open["job.public"] == [("log", phrase("public.open", count=1))]
    monkeypatch.setattr(public, "IN_MEMORY", 0)
    assert audited().tally == in_memory.tally


@pytest.mark.parametrize("in_memory", [0, 10_000])
def test_a_submission_that_comes_again_counts_as_it_was_heard_first(
    monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(public, "IN_MEMORY", in_memory)
    for first in (True, False):
        log = PublicLog()
        log.agrees()
        facts: dict[str, Any] = {"inputs": (AGREEMENT, document(HOLDER)), "outputs": (PLAN,)}
        said = log.says(CONSUMER, "job.submitted", heard=first, **facts)
        log.says(CONSUMER, "job.submitted", heard=not first, again=said, **facts)
        log.holds()
        assert log.failed == []
        assert log.unopened == ([] if first else ["funds.held"])


# Guilty, with a stranger's help


def _released_without_receipts(log: PublicLog) -> bytes:
    return log.says(OPERATOR, "job.released")


def _released_for_a_strangers_receipt(log: PublicLog) -> bytes:
    return log.says(OPERATOR, "job.released", after=(log.says(STRANGER, "job.sealed"),))


def _released_with_a_strangers_receipt(log: PublicLog) -> bytes:
    receipts = (*log.seals(), log.says(STRANGER, "job.sealed"))
    return log.says(OPERATOR, "job.released", after=receipts)


def _refunded_for_nothing(log: PublicLog) -> bytes:
    return log.refunds()


def _refunded_for_a_strangers_failure(log: PublicLog) -> bytes:
    return log.refunds(log.says(STRANGER, "job.failed"))


def _refunded_for_a_strangers_cancellation(log: PublicLog) -> bytes:
    return log.refunds(log.says(STRANGER, "job.cancelled"))


def _refunded_after_the_start_for_a_cancellation(log: PublicLog) -> bytes:
    return log.refunds(log.says(CONSUMER, "job.cancelled"))


def _paid_without_release(log: PublicLog) -> bytes:
    return log.says(OPERATOR, "funds.released", after=log.seals())


def _held_twice(log: PublicLog) -> bytes:
    return log.holds()


def _held_again_for_a_stranger(log: PublicLog) -> bytes:
    submitted = log.submits(STRANGER)
    inputs = (PLAN, AGREEMENT)
    return log.says(OPERATOR, "funds.held", after=(submitted,), inputs=inputs)


def _of_another_plan(log: PublicLog) -> bytes:
    return log.says(OPERATOR, "job.expired", inputs=(AGREEMENT,))


def _rejected_after_all(log: PublicLog) -> bytes:
    return log.says(OPERATOR, "job.rejected", after=(log.said[CONSUMER, "job.submitted"],))


ACTS = [
    _released_without_receipts,
    _released_for_a_strangers_receipt,
    _released_with_a_strangers_receipt,
    _refunded_for_nothing,
    _refunded_for_a_strangers_failure,
    _refunded_for_a_strangers_cancellation,
    _refunded_after_the_start_for_a_cancellation,
    _paid_without_release,
    _held_twice,
    _held_again_for_a_stranger,
    _of_another_plan,
    _rejected_after_all,
]


@HEARD_OR_NOT
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("helper", [None, HELPER])
def test_no_stranger_excuses_what_the_operator_may_not_do(
    act: Callable[[PublicLog], bytes], helper: PartyId | None, heard: bool
) -> None:
    log = PublicLog(helper=helper)
    log.until_admitted()
    begins(log, *log.admissions, heard=heard)
    log.starts()
    for kind in ("job.admitted", "job.started", "job.sealed", "job.failed", "job.refused"):
        log.says(STRANGER, kind, heard=heard)
    act(log)
    assert len(log.failed) == 1
    assert log.unopened == []


@HEARD_OR_NOT
@pytest.mark.parametrize("kind", ["negotiation.offered", "job.failed", "job.sealed", "job.started"])
def test_no_flood_of_strangers_words_keeps_an_operators_act_from_being_judged(
    kind: str, heard: bool
) -> None:
    log = PublicLog()
    subject = DEAL if kind.startswith("negotiation.") else JOB

    def flood() -> None:
        for _ in range(300):
            log.says(STRANGER, kind, subject, heard=heard)

    flood()
    log.agrees()
    log.submits()
    log.holds()
    flood()
    log.admits()
    log.starts()
    flood()
    log.says(OPERATOR, "job.released")
    assert log.failed == ["job.released"]
    assert log.unopened == []


@pytest.mark.parametrize("without", ["negotiation.agreed", "negotiation.verified"])
def test_no_stranger_signs_an_agreement_for_its_parties(without: str) -> None:
    log = PublicLog()
    log.agrees(without=without)
    for kind in ("negotiation.requested", without, "negotiation.finalized"):
        log.says(STRANGER, kind, DEAL, inputs=(), outputs=(AGREEMENT,))
    log.submits()
    log.holds()
    assert log.failed == ["funds.held"]


def test_a_stranger_that_calls_itself_a_strangers_holder_admits_for_nobody() -> None:
    log = PublicLog(holders=(HOLDER, SECOND))
    log.agrees()
    log.submits()
    log.holds()
    own = log.says(HOLDER, "job.admitted", policy=AGREEMENT)
    other = log.says(STRANGER, "job.admitted", policy=log.agreements[SECOND])
    log.says(HOLDER, "job.started", after=(own, other))
    assert log.failed == ["job.started"]


@pytest.mark.parametrize("kind", ["job.refused", "job.failed"])
def test_a_refund_for_whom_the_consumer_named_as_its_helper_follows_and_for_nobody_else(
    kind: str,
) -> None:
    for helper, failed in ((HELPER, []), (None, ["funds.refunded"])):
        log = PublicLog(helper=helper)
        log.until_admitted()
        log.refunds(log.says(HELPER, kind))
        assert (log.failed, log.unopened) == (failed, [])


# A party that says elsewhere, or first, what only looks true


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("timing", [Timing.FITS, Timing.LATE])
@pytest.mark.parametrize("first", [HOLDER, STRANGER, CONSUMER])
def test_whoever_names_an_agreement_before_it_is_agreed_to_fails_nobody(
    first: PartyId, timing: Timing, heard: bool
) -> None:
    log = PublicLog(holders=(HOLDER, SECOND), helper=HELPER)
    elsewhere = NegotiationId("neg_" + "9" * 32)
    for deal in (elsewhere, DEAL):
        facts: dict[str, Any] = {"inputs": (), "outputs": (AGREEMENT,), "timing": timing}
        log.says(first, "negotiation.agreed", deal, heard=heard, **facts)
    log.until_admitted()
    log.starts()
    log.seals()
    log.releases_and_pays()
    assert log.failed == []
    if heard:
        assert log.unopened == []


def test_a_holder_is_who_the_consumer_named_although_a_stranger_copies_all_that_it_says() -> None:
    log = PublicLog()
    log.says(CONSUMER, "negotiation.requested", DEAL, inputs=())
    for kind in ("agreed", "verified", "finalized"):
        for actor in (STRANGER, HOLDER) if kind != "verified" else (CONSUMER,):
            outputs = () if kind == "finalized" else (AGREEMENT,)
            if (actor, kind) != (HOLDER, "finalized"):
                log.says(actor, f"negotiation.{kind}", DEAL, inputs=(), outputs=outputs)
    log.submits()
    log.holds()
    assert log.failed == ["funds.held"]


def test_a_start_that_names_an_accomplice_fails_by_itself_and_moves_nothing() -> None:
    log = PublicLog(holders=(HOLDER, SECOND))
    log.until_admitted()
    begins(log)
    accomplice = log.says(STRANGER, "job.admitted")
    log.says(HOLDER, "job.started", after=(*log.admissions, accomplice))
    log.refunds(log.says(CONSUMER, "job.cancelled"))
    assert (log.failed, log.unopened) == (["job.started"], [])


def test_a_start_that_names_an_accomplice_makes_no_honest_party_look_wrong() -> None:
    log = PublicLog(holders=(HOLDER, SECOND), helper=HELPER)
    log.until_admitted()
    for left_out in (None, HELPER):
        named = [log.said[p, "job.admitted"] for p in log.parties if p != left_out]
        accomplice = log.says(STRANGER, "job.admitted")
        log.says(HOLDER, "job.started", after=(*named, accomplice))
    log.starts()
    log.seals()
    log.releases_and_pays()
    assert (log.failed, log.unopened) == (["job.started", "job.started"], [])


@pytest.mark.parametrize("agreement", [AGREEMENT, OTHER_AGREEMENT, None])
def test_a_second_admission_or_one_under_another_agreement_does_not_let_a_start_count(
    agreement: bytes | None,
) -> None:
    """Its hub takes the first under its own agreement; and others go on from that one."""
    log = PublicLog(holders=(HOLDER, SECOND))
    log.until_admitted()
    again = log.says(HOLDER, "job.admitted", policy=agreement)
    log.says(HOLDER, "job.started", after=(again, log.said[SECOND, "job.admitted"]))
    log.refunds(log.says(CONSUMER, "job.cancelled"))
    assert (log.failed, log.unopened) == (["job.started"], [])


def test_a_start_before_the_helper_has_admitted_fails_by_itself() -> None:
    log = PublicLog(helper=HELPER)
    log.agrees()
    log.submits()
    log.holds()
    own = log.says(HOLDER, "job.admitted", policy=AGREEMENT)
    log.says(HOLDER, "job.started", after=(own,))
    log.refunds(log.says(CONSUMER, "job.cancelled"))
    assert (log.failed, log.unopened) == (["job.started"], [])


def test_a_start_that_names_an_admission_twice_names_it_once() -> None:
    log = PublicLog(holders=(HOLDER, SECOND))
    log.until_admitted()
    for holder in log.parties:
        log.says(holder, "job.started", after=(*log.admissions, log.admissions[0]))
    log.seals()
    log.releases_and_pays()
    assert log.failed == log.unopened == []


def test_a_cancellation_that_does_not_name_the_plan_gives_no_price_back() -> None:
    log = PublicLog()
    log.until_admitted()
    log.refunds(log.says(CONSUMER, "job.cancelled", inputs=()))
    assert log.failed == ["funds.refunded"]


def test_a_price_that_is_held_with_a_party_that_never_registered_fails() -> None:
    log = PublicLog()
    log.agrees()
    inputs = (AGREEMENT, document(HOLDER), document(STRANGER))
    log.says(CONSUMER, "job.submitted", inputs=inputs, outputs=(PLAN,))
    log.holds()
    assert log.failed == ["funds.held"]


def test_what_involves_a_party_whose_document_is_not_at_hand_is_not_opened() -> None:
    log = PublicLog()
    log.agrees()
    log.says(STRANGER, "party.registered", outputs=(document(STRANGER),), heard=False)
    inputs = (AGREEMENT, document(HOLDER), document(STRANGER))
    log.says(CONSUMER, "job.submitted", inputs=inputs, outputs=(PLAN,))
    log.holds()
    log.admits()
    log.starts()
    log.refunds(log.says(CONSUMER, "job.cancelled"))
    assert log.failed == []
    assert "job.started" in log.unopened


# Where nobody can tell


@pytest.mark.parametrize(
    "silent", ["job.submitted", "funds.held", "job.admitted", "job.started", "job.sealed"]
)
def test_what_a_party_or_the_operator_may_have_said_under_an_unknown_key_is_not_opened(
    silent: str,
) -> None:
    class Muffled(PublicLog):
        def says(self, actor: PartyId, kind: str, subject: str = JOB, **facts: Any) -> bytes:
            return super().says(actor, kind, subject, heard=kind != silent, **facts)

    log = Muffled()
    log.until_admitted()
    log.starts()
    log.seals()
    log.releases_and_pays()
    assert log.failed == []
    assert log.unopened != []


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("kind", ["funds.held", "funds.released", "job.released", "job.rejected"])
def test_an_operators_act_in_anybody_elses_name_fails(kind: str, heard: bool) -> None:
    """Else an operator whose accomplice opened the log could do anything in its own name."""
    log = PublicLog()
    log.until_admitted()
    log.says(STRANGER, kind, after=(log.said[CONSUMER, "job.submitted"],), heard=heard)
    assert len(log.failed) == 1


# An operator that does nothing

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
MOMENT = timedelta(milliseconds=1)


def what_is_kept(log: PublicLog) -> list[tuple[str, str]]:
    """Of prices, at the end of the log: which job fails, and why."""
    log.replay.finish()
    found = log.tally.failed.get("job.public", [])
    return [(subject, why.key) for subject, why in found]


def goes_on_after(log: PublicLog, time: datetime) -> None:
    """A head of this time, and a larger one."""
    log.is_witnessed(time)
    log.says(STRANGER, "job.failed")
    log.is_witnessed(time)


@pytest.mark.parametrize("in_memory", [0, 10_000])
@pytest.mark.parametrize("late", [False, True])
def test_a_price_is_kept_once_a_head_lacks_what_any_job_would_have_had_by_then(
    monkeypatch: pytest.MonkeyPatch, in_memory: int, late: bool
) -> None:
    monkeypatch.setattr(public, "IN_MEMORY", in_memory)
    log = PublicLog()
    log.until_admitted()
    log.is_witnessed(NOON)
    log.starts()
    goes_on_after(log, NOON + MAX_HELD + SETTLED_WITHIN + late * MOMENT)
    assert what_is_kept(log) == ([(JOB, "money.unended")] if late else [])


@pytest.mark.parametrize("late", [False, True])
def test_a_payment_is_kept_from_the_head_that_holds_the_release(late: bool) -> None:
    log = PublicLog()
    log.until_admitted()
    log.starts()
    receipts = log.seals()
    log.is_witnessed(NOON - 3 * SETTLED_WITHIN)
    log.says(OPERATOR, "job.released", after=receipts)
    log.is_witnessed(NOON)
    log.says(STRANGER, "job.failed")
    goes_on_after(log, NOON + SETTLED_WITHIN + late * MOMENT)
    assert what_is_kept(log) == ([(JOB, "money.unpaid")] if late else [])


def test_a_newest_head_that_was_cosigned_again_shows_no_price_to_be_kept() -> None:
    """Also where the log is shown with that head among its past ones."""
    log = PublicLog()
    log.until_admitted()
    log.is_witnessed(NOON)
    log.says(STRANGER, "job.failed")
    for _ in range(2):
        log.is_witnessed(NOON + 2 * MAX_HELD)
    assert what_is_kept(log) == []


def test_nothing_is_kept_in_a_log_whose_heads_have_no_time() -> None:
    log = PublicLog()
    log.until_admitted()
    assert what_is_kept(log) == []


def test_receipts_that_a_party_says_again_and_again_excuse_no_operator() -> None:
    log = PublicLog()
    log.until_admitted()
    log.starts()
    log.seals()
    log.is_witnessed(NOON)
    for day in range(1, 40):
        log.says(HOLDER, "job.sealed")
        log.is_witnessed(NOON + timedelta(days=day))
    assert what_is_kept(log) == [(JOB, "money.unended")]


def test_receipts_that_are_new_after_an_outage_are_first_to_be_released() -> None:
    log = PublicLog()
    log.until_admitted()
    log.starts()
    log.is_witnessed(NOON)
    log.seals()
    goes_on_after(log, NOON + 2 * MAX_HELD)
    assert what_is_kept(log) == []


def test_a_price_of_which_something_unheard_is_said_is_not_opened() -> None:
    """It may be the refund, by a key that is not at hand."""
    log = PublicLog()
    log.until_admitted()
    log.is_witnessed(NOON)
    log.says(OPERATOR, "funds.refunded", heard=False)
    goes_on_after(log, NOON + 2 * MAX_HELD)
    assert what_is_kept(log) == []
    assert JOB in [subject for subject, _ in log.tally.open["job.public"]]
