"""Whatever strangers add to a log, and whatever one party adds that its hub does not take as having
an effect, its audit says of everybody else what it said without them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.identifiers import JobId, NegotiationId, PartyId
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
    document,
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
    """Before each statement of an honest party, whatever strangers say, and what a `liar` among the
    parties says in vain. Everybody may know every document's digest beforehand, by an accomplice.

    accused: who said what fails.
    """

    def __init__(self, seed: int, helper: PartyId | None, liar: PartyId | None = None) -> None:
        self.accused: set[PartyId] = set()
        self._random: Random | None = None  # nobody speaks before the parties have registered
        self._digests: list[bytes] = []
        self._liar = liar
        super().__init__(holders=(HOLDER, SECOND), helper=helper)
        parties = (*self.parties, STRANGER)
        self._documents = [PLAN, *self.agreements.values(), *map(document, parties)]
        self._random = Random(seed)

    def says(self, actor: PartyId, kind: str, subject: str = JOB, **facts: Any) -> bytes:
        for _ in range(self._random.randrange(5) if self._random else 0):
            self._stranger()
            if self._liar is not None:
                self._lie(self._liar)
        return self._say(actor, kind, subject, **facts)

    def _say(self, actor: PartyId, kind: str, subject: str, **facts: Any) -> bytes:
        before = len(self.failed)
        name = super().says(actor, kind, subject, **facts)
        if len(self.failed) > before:
            self.accused.add(actor)
        self._digests.append(name)
        return name

    def _lie(self, liar: PartyId) -> None:
        """What no hub takes as having an effect: about other subjects, without the plan, late, by
        who has no such part, or a start that does not name just the parties' admissions."""
        choice, said = self._random.choice, dict(self.said)
        elsewhere = choice((NegotiationId("neg_" + "9" * 32), JobId("job_" + "9" * 32)))
        everything: dict[str, Any] = {
            "after": self._some(self._digests, 3),
            "inputs": self._some(self._documents, 5),
            "outputs": self._some(self._documents, 1),
            "policy": choice([None, *self._documents]),
        }
        lies: list[Callable[[], object]] = [
            lambda: self._say(liar, choice(KINDS), elsewhere, **everything),
            lambda: self._say(liar, choice(KINDS), JOB, **everything | {"inputs": ()}),
            lambda: self._say(liar, choice(KINDS), DEAL, **everything, timing=Timing.LATE),
            lambda: self._say(liar, choice(KINDS), JOB, **everything, timing=Timing.LATE),
        ]
        other = DEAL if liar == SECOND else OTHER_DEAL
        if liar != CONSUMER:
            lies.append(lambda: self._say(liar, choice(KINDS[:7]), other, **everything))
            lies.append(lambda: self._say(liar, "job.cancelled", JOB))
            lies.append(lambda: self._start_with_an_accomplice(liar, said))
            lies.append(lambda: self._admit_again(liar, said))
        else:
            of_others = choice(("admitted", "refused", "started", "sealed", "failed"))
            lies.append(lambda: self._say(liar, f"job.{of_others}", JOB))
        choice(lies)()
        self.said = said  # what is honest names no lie

    def _start_with_an_accomplice(
        self, liar: PartyId, said: dict[tuple[PartyId, str], bytes]
    ) -> None:
        own = [said[p, "job.admitted"] for p in self.parties if (p, "job.admitted") in said]
        extra = self._say(STRANGER, "job.admitted", JOB)
        self._say(liar, "job.started", JOB, after=(*own[self._random.randrange(2) :], extra))

    def _admit_again(self, liar: PartyId, said: dict[tuple[PartyId, str], bytes]) -> None:
        """Under another agreement, or once more, and start on the ground of that."""
        agreements = [PLAN, None, *self.agreements.values()]
        if (liar, "job.admitted") not in said:
            agreements.remove(self.agreements.get(liar))
        own = self._say(liar, "job.admitted", JOB, policy=self._random.choice(agreements))
        others = [said[p, k] for p, k in said if k == "job.admitted" and p != liar]
        self._say(liar, "job.started", JOB, after=(own, *others))

    def _stranger(self) -> None:
        choice = self._random.choice
        self._say(
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


@pytest.mark.parametrize("liar", [HOLDER, SECOND, HELPER, CONSUMER])
@pytest.mark.parametrize("story", HONEST)
@FEW
@SEEDS
def test_nobody_but_a_liar_fails_for_what_it_says_without_effect(
    story: Callable[[PublicLog], None], liar: PartyId, seed: int
) -> None:
    log = Crowded(seed, HELPER, liar)
    story(log)
    assert log.accused <= {liar}


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
