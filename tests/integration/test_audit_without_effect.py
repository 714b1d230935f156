"""Statements that a hub logs without effect, in the audit of a deal: whoever says them cannot make
an honest act of somebody else look wrong, nor excuse a wrong one.

A statement that names a document and comes without it is logged and comes to nothing. Once the
document came with another statement it is in the bundle, and the first looks as good as that one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from crypto import record
from crypto.digest import Digest, digest
from crypto.identifiers import PartyId
from crypto.statement import Act, SignedStatement, Statement
from exchange.audit.openings import Opener
from exchange.audit.voices import VOICES
from exchange.node import outbox
from exchange.node.model import Identity
from exchange.query import plan as plans
from exchange.query.explanation import Language
from exchange.terms.agreement import Proposal
from ledger.verify.report import Report
from registry.rule import Join
from tests.forgery import Draft, Forger, failing
from tests.integration.test_audit_deal import audit, export, roots_of
from tests.world import TestClock, World, a_deal, a_world

ENGLISH = VOICES[Language.ENGLISH]
Before = Callable[[Act], Iterator[Act]]


def submitted_before_without_its_plan(act: Act) -> Iterator[Act]:
    if act.type == "job.submitted":
        yield act


def requested_and_terminated_before_it_began(act: Act) -> Iterator[Act]:
    if act.type == "negotiation.requested":
        yield act
        yield replace(act, type="negotiation.terminated", outputs=())


def offered_what_was_requested(act: Act) -> Iterator[Act]:
    """By the holder, of the very same terms."""
    if act.type == "negotiation.agreed" and act.policy_digest is not None:
        yield replace(act, type="negotiation.offered", outputs=(act.policy_digest,))


def agreed_before_without_the_agreement(act: Act) -> Iterator[Act]:
    if act.type == "negotiation.agreed":
        yield act


def sealed_twelve_times_without_the_part(act: Act) -> Iterator[Act]:
    if act.type == "job.sealed":
        yield from [act] * 12


@pytest.mark.slow
def test_two_who_say_more_than_could_be_followed_make_no_third_look_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder and the helper each admit 18 times too late, as far as heads can tell perhaps in
    time, and once say a start that names all of it: 18 x 18 ways in which the job may have gone."""
    world = a_world(tmp_path)
    deal = a_deal(world, joins=(Join.HIDDEN, Join.REVEALED), epsilon=Fraction(1))
    liars = {world.members[name].id for name in ("clinic", "helper")}
    real_say, real_send = outbox.say, outbox.send
    said: dict[PartyId, list[Digest]] = {}
    idle: set[Digest] = set()

    def say(
        act: Act, documents: Sequence[bytes], *, tx: Any, identity: Identity, **kept: Any
    ) -> Digest:
        if identity.party in liars and act.type in ("job.admitted", "job.started"):
            before = TestClock(identity.clock.now() - timedelta(minutes=11))
            late = replace(identity, clock=before)
            if act.type == "job.admitted":
                names = [real_say(act, [], tx=tx, identity=late) for _ in range(18)]
                said[identity.party] = names
            else:
                all_ = replace(act, after=tuple(said[identity.party]))
                names = [real_say(all_, [], tx=tx, identity=late)]
            idle.update(names)
        return real_say(act, documents, tx=tx, identity=identity, **kept)

    def send(store: Any, hub: Any, identity: Any, heed: Callable[..., None]) -> bool:
        def careless(signed: SignedStatement, *rest: Any) -> None:
            if signed.digest not in idle:
                heed(signed, *rest)

        return real_send(store, hub, identity, careless)

    monkeypatch.setattr(outbox, "say", say)
    monkeypatch.setattr(outbox, "send", send)
    job = deal.submit(join=Join.REVEALED, helped=True)
    world.settle()
    for name in ("clinic", "lab"):
        world.members[name].desk.approve(job)
    world.settle()
    regulator = world.members["regulator"]
    report = audit(world, deal, Opener(regulator.id, regulator.folder.sealing))
    assert report.failed == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "before"),
    [
        ("research", submitted_before_without_its_plan),
        ("research", requested_and_terminated_before_it_began),
        ("clinic", offered_what_was_requested),
        ("clinic", agreed_before_without_the_agreement),
        ("clinic", sealed_twelve_times_without_the_part),
    ],
)
def test_what_a_hub_logged_without_its_document_accuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str, before: Before
) -> None:
    """Through a real hub, by a node that says more than it ought to."""
    world = a_world(tmp_path)
    say, send = outbox.say, outbox.send
    extra: dict[object, bool] = {}

    def says_more(act, documents, *, tx, identity, **kept):  # type: ignore[no-untyped-def]
        if identity.party == world.members[who].id:
            for more in before(act):
                extra[say(more, [], tx=tx, identity=identity)] = True
        return say(act, documents, tx=tx, identity=identity, **kept)

    def sends(store, hub, identity, heed):  # type: ignore[no-untyped-def]
        def careless(signed, answer, tx, identity):  # type: ignore[no-untyped-def]
            if signed.digest in extra:
                extra[signed.digest] = answer.applied
            else:
                heed(signed, answer, tx, identity)

        return send(store, hub, identity, careless)

    monkeypatch.setattr(outbox, "say", says_more)
    monkeypatch.setattr(outbox, "send", sends)
    deal = a_deal(world)
    deal.approve_standing()
    world.clock.pass_(timedelta(seconds=5))
    deal.submit()
    world.settle()
    assert extra
    assert not any(extra.values())
    report = audit(world, deal, _opener(world))
    assert report.failed == ()
    assert "RELEASED" in report.to_text(ENGLISH)


# The same in forged logs, and the nearest history that is wrong


@dataclass(frozen=True)
class Done:
    world: World
    bundle: bytes


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    world = a_world(tmp_path_factory.mktemp("without_effect"))
    deal = a_deal(world)
    deal.approve_standing()
    deal.submit()
    world.settle()
    return Done(world, export(world, deal))


@pytest.fixture
def forger(done: Done) -> Forger:
    return Forger.of(done.world, done.bundle)


def insert(forger: Forger, place: int, like: Statement, **changes: object) -> None:
    """A statement of its own at a place, as empty-handed as one that came without its document:
    whatever this names came with another."""
    neighbour = forger.drafts[place]
    said = replace(like, time=neighbour.statement.time, after=(), **changes)  # type: ignore[arg-type]
    was = digest(f"inserted {len(forger.drafts)}".encode())
    forger.drafts.insert(place, Draft(said, was, None, neighbour.seen))


def said(forger: Forger, kind: str, actor: PartyId | None = None) -> Statement:
    return forger.drafts[forger.place(kind, actor)].statement


def audited(done: Done, forger: Forger) -> Report:
    return forger.audit(roots_of(done.world))


def test_a_price_held_for_two_submissions_of_one_plan_is_found(done: Done, forger: Forger) -> None:
    insert(forger, forger.place("job.submitted"), said(forger, "job.submitted"))
    assert failing(audited(done, forger)) == set()
    held = forger.drafts[forger.place("funds.held")]
    first = forger.drafts[forger.place("job.submitted")].was
    forger.drafts.insert(
        forger.place("funds.held"),
        replace(held, was=digest(b"twice"), statement=replace(held.statement, after=(first,))),
    )
    assert "money.held" in failing(audited(done, forger))


def test_a_price_held_for_something_else_than_a_submission_is_found(
    done: Done, forger: Forger
) -> None:
    insert(forger, forger.place("job.submitted"), said(forger, "job.submitted"))
    other = forger.drafts[forger.place("negotiation.requested")].was
    forger.change(forger.place("funds.held"), after=(other,))
    assert "money.held" in failing(audited(done, forger))


def test_a_submission_of_another_plan_is_not_made_to_count_by_holding_a_price_for_it(
    done: Done, forger: Forger
) -> None:
    """A plan is in the bundle because its submission had an effect, so the first did."""
    again = said(forger, "job.submitted")
    name, plan = forger.plan()
    signed = plans.sign_plan(replace(plan, run_seconds=1), forger.keys[plan.consumer])
    other = signed.payload_digest
    forger.documents[other] = signed.to_bytes()
    insert(forger, forger.place("job.submitted"), again, outputs=(other,))
    assert other != name
    assert "job.replayed" in failing(audited(done, forger))


def test_a_negotiation_that_was_terminated_once_it_had_begun_makes_nothing_final(
    done: Done, forger: Forger
) -> None:
    """With or without a request that came to nothing before."""
    requested = said(forger, "negotiation.requested")
    ended = replace(requested, type="negotiation.terminated", outputs=())
    insert(forger, forger.place("negotiation.agreed"), ended)
    assert "agreement.finalised" in failing(audited(done, forger))
    insert(forger, forger.place("negotiation.requested"), requested)
    assert "agreement.finalised" in failing(audited(done, forger))


def test_a_counter_offer_with_its_own_terms_is_not_passed_over(done: Done, forger: Forger) -> None:
    agreed = said(forger, "negotiation.agreed")
    (name,) = said(forger, "negotiation.requested").outputs
    proposal = record.from_bytes(Proposal, forger.documents[name])
    data = record.to_bytes(replace(proposal, salt=bytes(len(proposal.salt))))
    forger.documents[digest(data)] = data
    insert(
        forger,
        forger.place("negotiation.agreed"),
        agreed,
        type="negotiation.offered",
        outputs=(digest(data),),
    )
    assert "negotiation.replayed" in failing(audited(done, forger))


def test_a_release_on_one_holders_receipts_alone_is_found_however_often_it_sealed(
    done: Done, forger: Forger
) -> None:
    one = said(forger, "job.sealed")
    for _ in range(3):
        insert(forger, forger.place("job.sealed"), one)
    own = [d.was for d in forger.drafts if d.statement.actor == one.actor]
    released = forger.place("job.released")
    kept = tuple(n for n in forger.drafts[released].statement.after if n in own)
    forger.change(released, after=kept)
    assert "job.replayed" in failing(audited(done, forger))


def test_a_refund_for_a_failure_follows_if_receipts_may_have_come_without_their_parts(
    done: Done, forger: Forger
) -> None:
    """And only if it names that failure."""
    holder = said(forger, "job.sealed").actor
    end, paid = forger.place("job.released"), forger.place("funds.released")
    failed = forger.drafts[end].was
    forger.change(end, type="job.failed", actor=holder, after=(), outputs=())
    forger.change(paid, type="funds.refunded", after=(failed,))
    assert failing(audited(done, forger)) == {"money.amounts"}  # it opens to a payment
    forger.change(paid, after=(forger.drafts[forger.place("funds.held")].was,))
    assert {"money.settled"} <= failing(audited(done, forger))


def test_a_plan_for_another_operator_is_rejected_by_the_one_who_opened_the_log(
    done: Done, forger: Forger
) -> None:
    """And by nobody else."""
    held = forger.place("funds.held")
    (name,) = said(forger, "job.submitted").outputs
    forger.drafts = forger.drafts[: held + 1]
    forger.drafts[held] = replace(forger.drafts[held], opening=None)
    forger.change(held, type="job.rejected", inputs=(name,), commitments={})
    forger.change_plan(lambda plan: replace(plan, operator=PartyId("pty_" + "0" * 32)))
    assert failing(audited(done, forger)) == set()
    forger.change(held, actor=said(forger, "negotiation.agreed").actor)
    assert "job.replayed" in failing(audited(done, forger))


@pytest.mark.parametrize("seed", range(6))
def test_no_mixture_of_statements_without_effect_fails_an_honest_deal(
    done: Done, forger: Forger, seed: int
) -> None:
    """Sent without their documents, or about what had not begun or was over, at any place."""
    draw = random.Random(seed)
    with_documents = [d.statement for d in forger.drafts if d.statement.type in WITH_DOCUMENTS]
    began = {
        d.statement.subject: d.was
        for d in forger.drafts
        if d.statement.type in ("negotiation.requested", "job.submitted")
    }
    for _ in range(draw.randint(1, 25)):
        like = draw.choice(with_documents)
        start = max(forger.place("party.registered", like.actor) + 1, 1)
        place = draw.randrange(start, len(forger.drafts))
        if draw.random() < 0.6:
            insert(forger, place, like)
        elif like.type == "negotiation.agreed":
            (requested,) = (
                s.outputs
                for s in with_documents
                if (s.type, s.subject) == ("negotiation.requested", like.subject)
            )
            insert(forger, place, like, type="negotiation.offered", outputs=requested)
        else:
            kind = draw.choice(ENDS[like.type.split(".")[0]])
            names = [d.was for d in forger.drafts]
            before, over = names.index(began[like.subject]), len(names) - 1
            insert(forger, draw.choice([before, over]), like, type=kind, outputs=())
    report = audited(done, forger)
    assert [(c.id, c.words(ENGLISH)) for c in report.failed] == []
    assert "RELEASED" in report.to_text(ENGLISH)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_two_say_too_late_hides_how_the_job_went(
    done: Done, forger: Forger, seed: int
) -> None:
    """Each up to as much as a bundle holds of it: admissions, starts that name any one of each
    party's, and receipts; as far as heads can tell, all of them perhaps in time."""
    draw = random.Random(seed)
    liars = [d.statement.actor for d in forger.drafts if d.statement.type == "job.admitted"]
    starts = 41 if seed == 0 else draw.randint(1, 41)
    first = {
        kind: forger.drafts[forger.place(kind)].was for kind in ("job.admitted", "job.started")
    }

    def late(kind: str, actor: PartyId, before: str, *after: Digest) -> Digest:
        place = [d.was for d in forger.drafts].index(first[before])
        seen = forger.drafts[place].seen
        again = replace(said(forger, kind, actor), time=seen - timedelta(minutes=11), after=after)
        was = digest(f"late {len(forger.drafts)}".encode())
        forger.drafts.insert(place, Draft(again, was, None, seen))
        return was

    admitted = [
        [late("job.admitted", actor, "job.admitted") for _ in range(min(7, 48 - starts))]
        for actor in liars
    ]
    both = list(product(*admitted))
    draw.shuffle(both)
    for actor in liars:
        for names in both[:starts]:
            late("job.started", actor, "job.started", *names)
        late("job.sealed", actor, "job.started")
    report = audited(done, forger)
    assert [(c.id, c.words(ENGLISH)) for c in report.failed] == []
    assert "RELEASED" in report.to_text(ENGLISH)


WITH_DOCUMENTS = (
    "negotiation.requested",
    "negotiation.agreed",
    "negotiation.verified",
    "job.submitted",
    "job.sealed",
)
ENDS = {
    "negotiation": ("negotiation.terminated",),
    "job": ("job.cancelled", "job.refused", "job.failed"),
}


def _opener(world: World) -> Opener:
    regulator = world.members["regulator"]
    return Opener(regulator.id, regulator.folder.sealing)
