"""Nothing that one party says without effect changes what is judged about the others.

The hub logs whatever an actor of its exchange says well-formed: about anything, naming anything,
dated long ago. Here one of them says every kind of statement about every kind of subject in the
midst of an honest deal, in one world; then every audit of it must come to its end, fail nobody
else, and show all that it showed before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path
from typing import Final

import pytest

from crypto.digest import Digest, digest
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import JobId, PartyId
from crypto.keys import ExchangeKey
from crypto.ports import SystemRandomness
from crypto.record import FIRST_YEAR, LAST_YEAR
from crypto.statement import Act, read_statement, sign_statement
from exchange.audit import picture, prov
from exchange.audit.alerts import Alert, Kind
from exchange.audit.answers import DealReport
from exchange.audit.deal import audit_deal
from exchange.audit.follow import Follower
from exchange.audit.openings import Opener
from exchange.audit.voices import VOICES
from exchange.audit.whole import audit_whole_log
from exchange.errors import ExchangeError
from exchange.hub import bundle as hub_bundle
from exchange.hub.intake import HANDLERS
from exchange.node import registering
from exchange.query.explanation import Language
from exchange.submission import read_submission
from registry.errors import RegistryError
from registry.party import Role
from registry.rule import Join
from tests.attacks.test_altered_statements import accused, names
from tests.integration.test_audit_deal import export, roots_of
from tests.integration.test_audit_follow import HubBundles, HubDocuments, HubSource
from tests.integration.test_audit_log import Exchange
from tests.world import Deal, Member, World, a_deal, a_world

pytestmark = pytest.mark.slow

SPEAKERS: Final = ("research", "clinic", "lab", "helper", "stranger")
UNKNOWN: Final = digest(b"nothing that anybody said")
LONG_AGO: Final = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
JUST_TOO_LATE: Final = timedelta(minutes=10, seconds=1)  # at the hub; no head shows that it was
AHEAD: Final = timedelta(minutes=9)


@dataclass
class Honest:
    """A deal with a helper, and jobs of it that were paid, cancelled, and wait for an answer; all
    of it by the rules. passed: what its audit shows."""

    deal: Deal
    jobs: Sequence[JobId]
    passed: frozenset[tuple[str, str]] = frozenset()

    @property
    def world(self) -> World:
        return self.deal.world

    def copied_to(self, path: Path) -> Honest:
        return Honest(self.deal.copied_to(path), self.jobs, self.passed)

    def report(self, *, opened: bool) -> DealReport:
        world, regulator = self.world, self.world.members["regulator"]
        opener = Opener(regulator.id, regulator.folder.sealing) if opened else None
        return audit_deal(export(world, self.deal), world.policy, roots_of(world), opener)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    world = a_world(tmp_path_factory.mktemp("honest"))
    world.join("stranger", Role.HOLDER)
    deal = a_deal(world, joins=(Join.HIDDEN, Join.REVEALED), epsilon=Fraction(1))
    paid, cancelled, refused_late, waits = (
        _submitted(deal, "clinic", "lab"),
        _submitted(deal),
        _submitted(deal),
        _submitted(deal, "clinic"),
    )
    world.members["research"].desk.cancel(cancelled)
    world.members["research"].desk.cancel(refused_late)
    world.settle()
    found = Honest(deal, (paid, cancelled, refused_late, waits))
    report = found.report(opened=True)
    assert report.failed == ()
    found.passed = frozenset((check.id, check.subject) for check in report.passed)
    return found


def _submitted(deal: Deal, *approving: str) -> JobId:
    job = deal.submit(join=Join.REVEALED, helped=True)
    deal.world.settle()
    for name in approving:
        deal.world.members[name].desk.approve(job)
    deal.world.settle()
    return job


# What is said


Said = tuple[Act, datetime | timedelta]
"""And when: at a time, or so long before or after it is sent."""


def everything(honest: Honest, speaker: Member, seed: int) -> list[Said]:
    """Every type about every kind of subject at every time; what it names is drawn."""
    rng = random.Random(seed)
    deal, world = honest.deal, honest.world
    with world.store.reading() as tx:
        talks = tx.negotiations_of_deal(deal.deal)
        agreements = [agreement.digest for agreement in tx.agreements_of(deal.deal)]
        plans = [tx.job(job).plan for job in honest.jobs]
        logged = [read_statement(one.entry) for one in tx.log.entries(0, tx.log.placed())]
    said = [one.digest for one in logged if one.statement.subject[:3] in ("job", "neg")]
    proposals = [talk.proposal for talk in talks]
    documents = [m.folder.party.digest for m in world.members.values()]
    listed = [registering.product_digest(p) for p in (deal.clinic_product, deal.lab_product)]
    subjects = [
        *honest.jobs,
        *(talk.id for talk in talks),
        deal.clinic_product.id,
        deal.lab_product.id,
        speaker.id,
        world.members["clinic"].id,
        world.operator.party,
        str(deal.deal),
        str(agreements[0]),
        "no_effect",
    ]
    named = [*plans, *agreements, *proposals, *documents, *listed, *said, UNKNOWN]

    def some(most: int) -> tuple[Digest, ...]:
        return tuple(rng.sample(named, rng.randrange(most + 1)))

    def about(subject: str) -> tuple[Digest, ...]:
        plan = plans[honest.jobs.index(subject)] if subject in honest.jobs else UNKNOWN
        return rng.choice([(), (plan,), (plan, *agreements), some(3)])

    def act(kind: str, subject: str) -> Act:
        body = rng.choice([{}, {"deal": str(deal.deal)}, {"problem": "\n\x1b[2J", "words": "x"}])
        if kind == "job.admitted":
            body = {"ephemeral": str(ExchangeKey.generate().public), "link": ""}
        commitments = dict.fromkeys(("budget", "egress", "snapshot"), UNKNOWN)
        return Act(
            kind,
            subject,
            after=rng.choice([tuple(rng.sample(said, 2)), some(4)]),
            policy_digest=rng.choice([None, *agreements, *proposals]),
            inputs=about(subject),
            outputs=rng.choice([(), (), tuple(rng.sample(named, 1)), some(3)]),
            commitments=rng.choice([{}, commitments, {"approval": UNKNOWN}]),
            body=body,
        )

    times = (timedelta(), -JUST_TOO_LATE, AHEAD, LONG_AGO)
    found = [(act(kind, s), at) for kind, s, at in product(HANDLERS, subjects, times)]
    rng.shuffle(found)
    # What ends a job or puts something on the table comes last: nothing after it would count.
    return sorted(found, key=lambda one: one[0].type in ENDING and one[1] not in LATE)


ENDING: Final = ("job.refused", "job.failed", "job.cancelled", "job.admitted")
LATE: Final = (-JUST_TOO_LATE, LONG_AGO)


def say_all(honest: Honest, speaker: Member, said: Sequence[Said]) -> int:
    """Past the speaker's own node, which says nothing of the kind. How many the hub logged."""
    world, logged = honest.world, 0
    speaker.hub.down = True
    for number, (act, at) in enumerate(said):
        now = world.clock.now()
        signed = sign_statement(
            act,
            actor=speaker.id,
            head=world.service.chain(speaker.id),
            signer=speaker.folder.signing,
            now=at if isinstance(at, datetime) else now + at,
            randomness=SystemRandomness(),
        )
        try:
            world.service.submit(speaker.id, read_submission(signed.entry, []))
            logged += 1
        except (CryptoError, ExchangeError, RegistryError):
            continue  # refused, and not in the log
        if number % 50 == 0:
            world.hub_step()
    while world.hub_step():
        pass
    return logged


# What is judged of it


def problems(honest: Honest, speaker: Member, folder: Path) -> Iterator[str]:
    """Whatever an audit finds about anybody but the speaker, and what it no longer shows."""
    yield from _attempt("audit deal", lambda: _of_deal(honest, speaker))
    yield from _attempt("audit log", lambda: _of_log(honest, speaker, folder))
    yield from _attempt("follow", lambda: _of_follower(honest, speaker))


def _attempt(program: str, judge: Callable[[], list[str]]) -> list[str]:
    try:
        return [f"{program}: {problem}" for problem in judge()]
    except Exception as error:  # the very thing that is looked for
        return [f"{program}: ended with {error!r}"]


def _of_deal(honest: Honest, speaker: Member) -> list[str]:
    found, actors = list[str](), _actors(honest.world)
    for opened in (False, True):
        report = honest.report(opened=opened)
        for language in Language:
            report.to_text(VOICES[language])
            report.to_value(VOICES[language])
            picture.draw(prov.graph_of(report), language)
        prov.to_json(prov.graph_of(report))
        prov.to_provn(prov.graph_of(report))
        if speaker is honest.world.members["stranger"]:
            # It is heard by nobody who reads the deal, and so does not fail by itself either.
            found += [f"{check.id} [{check.subject}] failed" for check in report.failed]
            own = {deed.index for deed in report.story if actors[deed.index] == speaker.id}
            found += [f"bundle holds a stranger's entry {index}" for index in sorted(own)]
        found += accused(report, actors, speaker.id, _key(speaker))
    open_job = honest.jobs[-1]  # which may have ended since
    kept = {(check.id, check.subject) for check in report.passed}
    lost = {one for one in honest.passed - kept if open_job not in one[1]}
    words = VOICES[Language.ENGLISH]
    return found + [
        f"no more: {check.id} [{check.subject}] {check.words(words)}"
        for check in report.not_opened
        if (check.id, check.subject) in lost
    ]


def _of_log(honest: Honest, speaker: Member, folder: Path) -> list[str]:
    log = Exchange(honest.world, folder)
    log.publish()
    whole = audit_whole_log(str(log.folder), honest.world.policy, log.roots, log.documents)
    return accused(whole, _actors(honest.world), speaker.id, _key(speaker))


def _of_follower(honest: Honest, speaker: Member) -> list[str]:
    world = honest.world
    follower = Follower(
        HubSource(world),
        world.policy,
        roots_of(world),
        HubDocuments(world),
        deals=HubBundles(world),
    )
    actors = _actors(world)
    try:
        alerts = follower.look(world.clock.now())
    finally:
        follower.close()
    return [
        alert.to_text(Language.ENGLISH, world.clock.now())
        for alert in alerts
        if alert.kind is not Kind.NOT_OPENED and not _is_about(alert, speaker, actors)
    ]


def _is_about(alert: Alert, speaker: Member, actors: Sequence[PartyId]) -> bool:
    words = f"{alert.subject} {alert.words[Language.ENGLISH]} entry {alert.index}"
    return names(words, actors, speaker.id, _key(speaker))


def _actors(world: World) -> list[PartyId]:
    return [statement.actor for statement in Exchange(world, world.path).statements()]


def _key(speaker: Member) -> str:
    return speaker.folder.party.document.signing.key_id


@pytest.mark.parametrize("name", SPEAKERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_whatever_one_says_without_effect_is_judged_of_nobody_else(
    honest: Honest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    # So that no statement keeps another out of the bundle.
    monkeypatch.setattr(hub_bundle, "MAX_IDLE", 10**6)
    monkeypatch.setattr(hub_bundle, "MAX_IDLE_BYTES", 10**9)
    number = iter(range(10**6))

    def found(said: Sequence[Said]) -> list[str]:
        place = tmp_path / str(next(number))
        world = honest.copied_to(place / "world")
        try:
            speaker = world.world.members[name]
            say_all(world, speaker, said)
            return list(problems(world, speaker, place / "log"))
        finally:
            world.world.close()

    said = everything(honest, honest.world.members[name], seed)
    kinds = dict.fromkeys(map(kind_of, wrong)) if (wrong := found(said)) else {}
    guilty = [(kind, fewest(said, kind, found)) for kind in list(kinds)[:MOST]]
    assert not wrong, "\n".join([*wrong, *(f"{kind} by {acts}" for kind, acts in guilty)])


MOST: Final = 4  # kinds of problems of which it is looked for what brings each about


def kind_of(problem: str) -> str:
    """`audit deal: money.settled`, or how a program ended."""
    program, _, what = problem.partition(": ")
    return f"{program}: {what.split()[0]}"


def fewest(
    said: Sequence[Said], kind: str, found: Callable[[Sequence[Said]], list[str]]
) -> Sequence[Said]:
    """Those of them that it takes to bring that about. Source: Zeller and Hildebrandt 2002, ddmin,
    trying only what is left when a part is taken away."""
    parts = 2
    while parts <= len(said):
        ends = [len(said) * n // parts for n in range(parts + 1)]
        without = ([*said[:a], *said[b:]] for a, b in pairwise(ends))
        left = next((one for one in without if kind in map(kind_of, found(one))), None)
        if left is None:
            parts *= 2
        else:
            said, parts = left, max(parts - 1, 2)
    return said


def test_a_time_with_which_nobody_can_reckon_is_in_no_statement(honest: Honest) -> None:
    speaker = honest.world.members["stranger"]
    for year in (FIRST_YEAR - 1, LAST_YEAR + 1):
        with pytest.raises(Malformed, match="years"):
            sign_statement(
                Act("alarm.raised", "x"),
                actor=speaker.id,
                head=honest.world.service.chain(speaker.id),
                signer=speaker.folder.signing,
                now=datetime(year, 6, 1, tzinfo=UTC),
                randomness=SystemRandomness(),
            )
