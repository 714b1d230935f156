"""Whatever strangers add to a log, its audit says of everybody else what it said without them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.identifiers import PartyId
from exchange.audit import public
from ledger.verify.log import Timing
from tests.public_log import (
    CONSUMER,
    DEAL,
    HELPER,
    HOLDER,
    JOB,
    OPERATOR,
    OTHER_DEAL,
    PLAN,
    SECOND,
    STRANGER,
    PublicLog,
)
from tests.unit.test_public_replay import ACTS

ANOTHER = PartyId("pty_" + "9" * 32)
NEGOTIATED = "requested offered accepted agreed verified finalized terminated"
DONE = "submitted admitted refused started sealed failed cancelled"
KINDS = [  # what a hub takes in from a participant
    *(f"negotiation.{event}" for event in NEGOTIATED.split()),
    *(f"job.{event}" for event in DONE.split()),
]
SEEDS = given(seed=st.integers(0, 2**32))
FEW = settings(max_examples=25, deadline=None)


class Crowded(PublicLog):
    """Before each statement of an honest party, whatever strangers say."""

    def __init__(self, seed: int, helper: PartyId | None) -> None:
        super().__init__(holders=(HOLDER, SECOND), helper=helper)
        self._random = Random(seed)
        self._digests: list[bytes] = []
        # A job's id may be known early; a salted digest is not before its author has named it.
        self._documents: list[bytes] = []

    def says(self, actor: PartyId, kind: str, subject: str = JOB, **facts: Any) -> bytes:
        if actor not in (STRANGER, ANOTHER):
            for _ in range(self._random.randrange(5)):
                self._stranger()
        name = super().says(actor, kind, subject, **facts)
        self._digests.append(name)
        for document in (*facts.get("inputs", (PLAN,)), *facts.get("outputs", ())):
            if document not in self._documents:
                self._documents.append(document)
        return name

    def _stranger(self) -> None:
        choice = self._random.choice
        super().says(
            choice((STRANGER, ANOTHER)),
            choice(KINDS),
            choice((DEAL, OTHER_DEAL, JOB)),
            after=self._some(self._digests, 3),
            inputs=self._some(self._documents, 3),
            outputs=self._some(self._documents, 1),
            policy=choice([None, *self._documents]),
            timing=choice(list(Timing)),
            heard=choice((True, True, False)),
        )

    def _some(self, values: list[bytes], most: int) -> tuple[bytes, ...]:
        count = self._random.randrange(most + 1) if values else 0
        return tuple(self._random.choice(values) for _ in range(count))


def paid(log: PublicLog) -> None:
    log.until_admitted()
    log.starts()
    log.seals()
    log.releases_and_pays()


def rejected(log: PublicLog) -> None:
    log.agrees()
    log.says(OPERATOR, "job.rejected", after=(log.submits(),))


def refused(log: PublicLog) -> None:
    log.until_admitted()
    log.refunds(log.says(SECOND, "job.refused"))


def cancelled(log: PublicLog) -> None:
    log.until_admitted()
    log.refunds(log.says(CONSUMER, "job.cancelled"))


def expired(log: PublicLog) -> None:
    log.until_admitted()
    log.refunds(log.says(OPERATOR, "job.expired"))


def failed(log: PublicLog) -> None:
    log.until_admitted()
    log.starts()
    log.refunds(log.says(log.parties[-1], "job.failed"))


HONEST = [paid, rejected, refused, cancelled, expired, failed]


@pytest.mark.parametrize("helper", [None, HELPER])
@pytest.mark.parametrize("story", HONEST)
@FEW
@SEEDS
def test_no_failure_is_reported_of_an_honest_job_whatever_strangers_say(
    story: Callable[[PublicLog], None], helper: PartyId | None, seed: int
) -> None:
    log = Crowded(seed, helper)
    story(log)
    assert log.failed == log.unopened == []
    assert log.tally.passed.get("job.public", 0) > 0


@pytest.mark.parametrize("story", HONEST)
@FEW
@SEEDS
def test_it_does_not_matter_how_much_of_what_is_said_is_kept_in_memory(
    story: Callable[[PublicLog], None], seed: int
) -> None:
    tallies = []
    for in_memory in (10_000, seed % 20, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(public, "IN_MEMORY", in_memory)
            log = Crowded(seed, HELPER)
            story(log)
            log.replay.finish()
        tallies.append(log.tally)
    assert tallies[0] == tallies[1] == tallies[2]


@pytest.mark.parametrize("act", ACTS)
@FEW
@SEEDS
def test_an_act_that_does_not_follow_fails_whatever_strangers_say(
    act: Callable[[PublicLog], bytes], seed: int
) -> None:
    log = Crowded(seed, HELPER)
    log.until_admitted()
    log.starts()
    act(log)
    assert len(log.failed) == 1
    assert log.unopened == []
