"""However much somebody says wrong: what is doubtful is never read so that the honest look wrong.

What comes ten minutes and a second late has no effect at the hub, while no head shows an auditor
that it was late. A liar among the parties says such an ending, and then as many words as it likes
that are wrong unless that ending counted: then the operator would look wrong, and the others.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from crypto.digest import Digest, digest
from crypto.identifiers import PartyId
from exchange.audit.voices import VOICES
from exchange.query.explanation import Language
from ledger.verify.report import Report
from tests.forgery import Draft, Forger, failing
from tests.integration.test_audit_deal import export, roots_of
from tests.world import World, a_deal, a_world

ENGLISH = VOICES[Language.ENGLISH]
PERHAPS_LATE = timedelta(minutes=11)
JUNK = digest(b"an agreement that nobody made")


@dataclass(frozen=True)
class Done:
    world: World
    bundle: bytes


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    world = a_world(tmp_path_factory.mktemp("outvoted"))
    deal = a_deal(world)
    deal.approve_standing()
    deal.submit()
    world.settle()
    yield Done(world, export(world, deal))
    world.close()


@pytest.fixture
def log(done: Done) -> Log:
    return Log(done)


class Log:
    """The log of an honest deal whose job was paid, into which more is said."""

    def __init__(self, done: Done) -> None:
        members = done.world.members
        self.forger = Forger.of(done.world, done.bundle)
        self.roots = roots_of(done.world)
        self.operator = done.world.operator.party
        self.consumer, self.clinic, self.lab = (
            members[name].id for name in ("research", "clinic", "lab")
        )

    def draft(self, kind: str, actor: PartyId | None = None) -> Draft:
        return self.forger.drafts[self.forger.place(kind, actor)]

    def say(
        self,
        before: Draft,
        actor: PartyId,
        kind: str,
        *,
        late: bool = False,
        outputs: tuple[Digest, ...] = (),
        like: Draft | None = None,
    ) -> None:
        """About what that one is about, and otherwise like the other, if one is given."""
        place = [draft.was for draft in self.forger.drafts].index(before.was)
        time = before.statement.time
        said = replace(
            (like or before).statement,
            actor=actor,
            type=kind,
            time=time - PERHAPS_LATE if late else time,
            after=(),
            outputs=outputs,
            commitments={},
        )
        was = digest(f"said {len(self.forger.drafts)}".encode())
        self.forger.drafts.insert(place, Draft(said, was, None, before.seen))

    def withhold_heads(self) -> None:
        """No witnessed head but one that is much later: anything may have come too late."""
        self.forger.witnessed_every = len(self.forger.drafts) + 100
        last = self.forger.drafts[-1]
        self.forger.drafts[-1] = replace(last, seen=last.seen + PERHAPS_LATE)

    def audit(self) -> Report:
        return self.forger.audit(self.roots)

    def named(self, words: str) -> set[PartyId]:
        """Whom words name, by an id or by an entry of theirs."""
        said_by = [draft.statement.actor for draft in self.forger.drafts]
        entries = re.findall(r"\bindex ([0-9]+)\b", words)
        return {*(p for p in said_by if p in words), *(said_by[int(n)] for n in entries)}


@pytest.mark.parametrize("count", [1, 3, 50])
def test_a_holder_that_claims_to_have_ended_a_job_fails_alone_however_often_it_goes_on(
    log: Log, count: int
) -> None:
    first = log.draft("job.admitted")
    log.say(first, log.lab, "job.failed", late=True)
    for _ in range(count):
        log.say(first, log.lab, "job.started")
    (failed,) = log.audit().failed
    assert failed.id == "job.replayed"
    assert log.named(failed.words(ENGLISH)) == {log.lab}


@pytest.mark.parametrize("count", [1, 3, 50])
def test_a_consumer_that_claims_to_have_ended_a_negotiation_fails_alone_however_often_it_verifies(
    log: Log, count: int
) -> None:
    agreed = log.draft("negotiation.agreed", log.lab)
    log.say(agreed, log.consumer, "negotiation.terminated", late=True)
    for _ in range(count):
        log.say(agreed, log.consumer, "negotiation.verified", outputs=(JUNK,))
    (failed,) = log.audit().failed
    assert failed.id == "negotiation.replayed"
    assert log.named(failed.words(ENGLISH)) == {log.consumer}


@pytest.mark.parametrize("count", [1, 50])
def test_where_another_may_have_ended_the_job_those_are_named_who_cannot_all_be_right(
    log: Log, count: int
) -> None:
    """If the consumer's word had come in time, it would be the operator; else it is the holder."""
    first = log.draft("job.admitted")
    log.say(first, log.consumer, "job.cancelled", late=True)
    for _ in range(count):
        log.say(first, log.lab, "job.started")
    (failed,) = log.audit().failed
    assert failed.id == "job.replayed"
    assert "not all of these can be right" in (words := failed.words(ENGLISH))
    assert log.named(words) >= {log.lab, log.operator}
    assert log.clinic not in log.named(words)


@pytest.mark.parametrize("name", ["clinic", "lab"])
def test_a_holder_that_puts_anothers_agreement_forward_as_its_own_fails_nothing(
    log: Log, done: Done, name: str
) -> None:
    """Wherever that stands: its own negotiation may be the earlier or the later one."""
    liar = done.world.members[name].id
    (other,) = {log.clinic, log.lab} - {liar}
    outputs = log.draft("negotiation.agreed", other).statement.outputs
    for before in ("negotiation.agreed", "negotiation.finalized"):
        log.say(log.draft(before, liar), liar, "negotiation.agreed", outputs=outputs)
    assert failing(log.audit()) == set()


@pytest.mark.parametrize("act", ["job.released", "job.expired"])
def test_no_head_left_out_excuses_a_second_act_of_the_operator(log: Log, act: str) -> None:
    """What it says it makes so as it says it, never too late."""
    log.withhold_heads()
    assert "job.replayed" not in failing(log.audit())
    log.say(log.draft("funds.released"), log.operator, act, like=log.draft("job.released"))
    failed = [check for check in log.audit().failed if check.id == "job.replayed"]
    assert [log.named(check.words(ENGLISH)) for check in failed] == [{log.operator}]


@pytest.mark.parametrize("seed", range(10))
def test_no_mixture_of_what_some_say_late_and_wrong_accuses_anybody_else(
    log: Log, seed: int
) -> None:
    draw = random.Random(seed)
    liars = draw.sample([log.consumer, log.clinic, log.lab], draw.choice([1, 1, 2]))
    for _ in range(draw.choice([3, 12, 40])):
        lie(log, draw.choice(liars), draw)
    for check in log.audit().failed:
        words = check.words(ENGLISH)
        assert check.id in ("job.replayed", "negotiation.replayed"), words
        assert log.named(words) & set(liars), words


@pytest.mark.parametrize("seed", range(10))
def test_no_lie_of_the_operator_about_what_came_late_accuses_a_party(log: Log, seed: int) -> None:
    """It goes on as if some of it had not come, or had, and leaves out the heads that tell."""
    draw, forger = random.Random(seed), log.forger
    log.withhold_heads()
    said = [log.draft(kind, party) for kind in SAID for party in (log.clinic, log.lab)]
    end, paid = forger.place("job.released"), forger.place("funds.released")
    liars, act = {log.operator}, draw.choice(["job.released", "job.expired"])
    match draw.randrange(4):
        case 0:
            forger.change(end, after=(draw.choice(said).was,))
        case 1:
            forger.change(end, type="job.expired")
        case 2:
            forger.change(paid, type="funds.refunded", after=(draw.choice(said).was,))
        case _:
            log.say(draw.choice(said), log.operator, act, like=forger.drafts[end])
    if draw.random() < 0.5:
        liars.add(another := draw.choice([log.clinic, log.lab]))
        lie(log, another, draw)
    report = log.audit()
    assert failing(report) & {"job.replayed", "money.settled"}
    for check in report.failed:
        if not check.id.startswith("money."):  # what the operator alone says; it names payees
            named = log.named(words := check.words(ENGLISH))
            assert not named or named & liars, words


SAID = ("job.admitted", "job.started", "job.sealed")


def lie(log: Log, liar: PartyId, draw: random.Random) -> None:
    """What the hub gave no effect: it was too late, or is wrong where it stands."""
    late, like = draw.random() < 0.5, None
    outputs: tuple[Digest, ...] = ()
    if draw.random() < 0.4:
        talks = ("negotiation.agreed", None if liar == log.consumer else liar)
        before, kind = log.draft(*talks), "negotiation.terminated"
        if not late:
            kind = "negotiation." + ("verified" if liar == log.consumer else "finalized")
            outputs = (JUNK,)
    elif liar == log.consumer:
        before, kind, late = log.draft(draw.choice(SAID)), "job.cancelled", True
    else:
        before, like = log.draft(draw.choice(SAID)), log.draft("job.admitted", liar)
        kind = draw.choice(["job.failed", "job.refused", *SAID] if late else SAID[1:])
        outputs = (JUNK,) if kind == "job.sealed" else ()
    log.say(before, liar, kind, late=late, outputs=outputs, like=like)
