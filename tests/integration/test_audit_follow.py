"""A regulator follows a log: an honest one raises no alert, and every wrong names its kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import pytest

from api.database import open_engine
from api.http.server import serving
from crypto.digest import Digest, digest
from crypto.errors import Malformed
from crypto.identifiers import DealId
from crypto.keys import SigningKey, write_key
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import Act, read_statement, sign_statement
from exchange import evidence
from exchange.audit import bundle as bundles
from exchange.audit.__main__ import main
from exchange.audit.alerts import Alert, Kind, State, load_state, save_state
from exchange.audit.bundle import Bundle
from exchange.audit.errors import StateRefused
from exchange.audit.follow import Follower, Limits
from exchange.audit.live import Following, follow, read_given
from exchange.audit.openings import Opener
from exchange.audit.watched import FolderBundles
from exchange.audit.whole import HttpDocuments
from exchange.errors import BundleNotReady, UnknownSubject
from exchange.hub import background, chains
from exchange.node import outbox
from exchange.query.explanation import Language
from exchange.submission import read_submission
from ledger import log
from ledger.errors import NotCovered, SourceUnreachable, TileMissing
from ledger.evidence import policy_adopted
from ledger.verify.heads import page_bytes, parse_page
from ledger.verify.merkle import leaf_hash
from ledger.verify.note import Note
from ledger.verify.tile_names import CHECKPOINT, heads_path
from ledger.verify.tiles import HttpSource, bundle_bytes
from pricing.money import Money
from registry.errors import NotFound
from registry.party import Role
from tests.desks import Desks
from tests.forgery import Forger
from tests.hub_server import hub_app
from tests.integration.test_audit_deal import export, roots_of
from tests.world import Deal, Member, World, a_deal, a_world, down


@dataclass
class HubSource:
    """What the hub serves below /v1/log, and its documents."""

    world: World
    instead: bytes | None = None
    """A checkpoint that is served in place of the newest."""

    def read(self, path: str) -> bytes:
        service = self.world.service
        try:
            if path == CHECKPOINT:
                note = self.instead or service.checkpoint().encode()
                if not note:
                    raise TileMissing(path)
                return note
            if path.startswith("heads/"):
                return service.heads(int(path.removeprefix("heads/")))
            return service.tile(path)
        except NotCovered:
            raise TileMissing(path) from None


@dataclass
class HubDocuments:
    world: World

    def read(self, name: Digest) -> bytes | None:
        try:
            return self.world.service.document(name)
        except (NotFound, UnknownSubject):
            return None


@dataclass
class HubBundles:
    world: World
    read_so_far: int = 0

    def read(self, deal: DealId) -> bytes:
        self.read_so_far += 1
        return self.world.service.bundle(self.world.members["regulator"].id, deal)


@dataclass
class ForgedLog:
    """A bundle whose entries are a whole log of their own, and what is read of it."""

    forger: Forger
    data: bytes

    @cached_property
    def bundle(self) -> Bundle:
        return bundles.read(self.data)

    def read(self, path: str) -> bytes:
        entries = [self.bundle.entries[index] for index in sorted(self.bundle.entries)]
        if path == CHECKPOINT:
            return self.bundle.checkpoint
        if path == f"tile/0/000.p/{len(entries)}":
            return b"".join(leaf_hash(entry) for entry in entries)
        if path == f"tile/entries/000.p/{len(entries)}":
            return bundle_bytes(entries)
        if path == heads_path(0):
            return page_bytes([self.bundle.heads[size] for size in sorted(self.bundle.heads)])
        raise TileMissing(path)


@dataclass(frozen=True)
class Given:
    documents: Mapping[Digest, bytes] = field(default_factory=dict)

    def read(self, name: Digest) -> bytes | None:
        return self.documents.get(name)


@dataclass(frozen=True)
class Done:
    """A world with a deal and two jobs done. Tests that go on with it take a copy."""

    world: World
    deal: Deal
    bundle: bytes


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    world = a_world(tmp_path_factory.mktemp("followed"))
    deal = a_deal(world)
    deal.approve_standing()
    for _ in range(2):
        deal.submit()
        world.settle()
        world.clock.pass_(timedelta(hours=2))
    return Done(world, deal, export(world, deal))


@pytest.fixture
def forger(done: Done) -> Forger:
    return Forger.of(done.world, done.bundle)


def follower(world: World, state: State | None = None, **settings: object) -> Follower:
    source = settings.pop("source", HubSource(world))
    return Follower(
        source,  # type: ignore[arg-type]
        world.policy,
        roots_of(world),
        HubDocuments(world),
        state=state,
        **settings,  # type: ignore[arg-type]
    )


def opener(world: World) -> Opener:
    regulator = world.members["regulator"]
    return Opener(regulator.id, regulator.folder.sealing)


def a_price(amount: int) -> Money:
    return Money("TEST", Amount(amount))


def kinds(alerts: list[Alert]) -> list[Kind]:
    return [alert.kind for alert in alerts]


def follow_forged(
    done: Done,
    forged: Forger | ForgedLog,
    *,
    bundled: bool = False,
    after: timedelta = timedelta(minutes=1),
) -> list[Alert]:
    """What one look at a forged log finds."""
    log = forged if isinstance(forged, ForgedLog) else ForgedLog(forged, forged.bundle())
    forger = log.forger
    deals = OneBundle(log.data) if bundled else None
    following = Follower(
        log,
        forger.policy,
        roots_of(done.world),
        Given(log.bundle.documents),
        deals=deals,
        opener=Opener(forger.regulator, forger.regulator_key) if bundled else None,
    )
    return following.look(max(draft.seen for draft in forger.drafts) + after)


@dataclass(frozen=True)
class OneBundle:
    data: bytes

    def read(self, deal: DealId) -> bytes | None:
        return self.data


def keeping(whole: Bundle, wanted: Callable[[int], bool]) -> bytes:
    """A bundle with only these of its entries."""
    entries = {index: entry for index, entry in whole.entries.items() if wanted(index)}
    names = {digest(entry) for entry in entries.values()}
    openings = {key: sealed for key, sealed in whole.openings.items() if key[0] in names}
    manifest = bundles.list_content(
        whole.manifest.deal,
        entries=entries,
        documents=whole.documents,
        openings=openings,
        heads=whole.heads,
    )
    proofs = {index: whole.proofs[index] for index in entries}
    kept = replace(whole, manifest=manifest, entries=entries, proofs=proofs, openings=openings)
    return bundles.write(kept)


# Honest logs


def test_an_honest_log_raises_no_alert_at_any_moment(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    following = follower(world)
    assert following.look(world.clock.now()) == []
    deal = a_deal(world)
    deal.approve_standing()
    assert kinds(following.look(world.clock.now())) == [Kind.NOT_OPENED]
    deal.submit()
    while world.round():
        assert following.look(world.clock.now()) == []
    with world.store.reading() as tx:
        latest = tx.log.latest()
    assert latest is not None
    assert following.size == latest.size
    seeing = follower(world, deals=HubBundles(world), opener=opener(world))
    assert seeing.look(world.clock.now()) == []


def test_what_a_regulator_is_not_given_is_not_opened_and_said_once(done: Done) -> None:
    following = follower(done.world)
    found = following.look(done.world.clock.now())
    assert [(a.kind, a.subject) for a in found] == [(Kind.NOT_OPENED, done.deal.deal)]
    assert following.look(done.world.clock.now()) == []


def test_bundles_in_a_folder_open_what_they_hold(done: Done, tmp_path: Path) -> None:
    (tmp_path / f"{done.deal.deal}.zip").write_bytes(done.bundle)
    following = follower(done.world, deals=FolderBundles(tmp_path), opener=opener(done.world))
    assert following.look(done.world.clock.now()) == []


def test_what_was_said_again_unchanged_raises_nothing(done: Done, forger: Forger) -> None:
    assert follow_forged(done, forger, bundled=True) == []


def test_a_deal_that_goes_every_way_it_may_raises_no_alert(tmp_path: Path) -> None:
    """Refused, cancelled and answered all the same, expired, rejected, talked out: all allowed."""
    world = a_world(tmp_path)
    deal = a_deal(world, funded=10_000)
    clinic, research = world.members["clinic"], world.members["research"]
    watching = follower(world, deals=HubBundles(world), opener=opener(world))

    refused = deal.submit()
    world.settle()
    clinic.desk.refuse(refused, "not today")
    world.settle()

    cancelled = deal.submit()
    world.settle()
    with down(clinic):
        research.desk.cancel(cancelled)
        world.settle()
        clinic.desk.approve(cancelled)  # it has not heard
    world.settle()

    deal.submit()
    world.settle()
    with down(clinic), down(world.members["lab"]):
        world.clock.pass_(timedelta(days=2))
        world.settle()

    with research.node.store.reading() as tx:
        terms = tx.agreements()[0].agreement.terms
    holder = next(
        p.holder for p in (deal.clinic_product, deal.lab_product) if p.id == terms.product_id
    )
    begun = research.negotiations.request(deal.deal, holder, terms)
    world.settle()
    research.negotiations.terminate(begun.id, "changed our mind")
    world.settle()

    found = watching.look(world.clock.now())
    assert found == []


# Bundles that do not come


class NotReady:
    def read(self, deal: DealId) -> bytes | None:
        raise BundleNotReady("ask again in a moment")


@dataclass
class First:
    """Always what it read first."""

    inner: HubBundles
    kept: dict[DealId, bytes] = field(default_factory=dict)

    def read(self, deal: DealId) -> bytes | None:
        if deal not in self.kept:
            self.kept[deal] = self.inner.read(deal)
        return self.kept[deal]


@dataclass
class Copied(HubSource):
    """A copy of what was read of it until it is cut off."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_off: bool = False

    def read(self, path: str) -> bytes:
        if not self.cut_off:
            self.files[path] = super().read(path)
        if path not in self.files:
            raise TileMissing(path)
        return self.files[path]


@pytest.mark.parametrize("how", ["not ready", "old", "of no head"])
def test_a_bundle_that_never_holds_what_was_heard_is_told_of_when_it_lasts(
    done: Done, tmp_path: Path, how: str
) -> None:
    """A hub has many answers that are no refusal, and each would hide a deal for ever."""
    deal = done.deal.copied_to(tmp_path)
    world = deal.world
    served = {
        "not ready": NotReady(),
        "old": First(HubBundles(world)),
        "of no head": HubBundles(world),
    }[how]
    source = Copied(world)
    shown: dict[str, object] = {"source": source, "deals": served, "opener": opener(world)}
    first = follower(world, **shown)
    assert first.look(world.clock.now()) == []
    research = world.members["research"]
    with research.node.store.reading() as tx:
        agreed = tx.agreements()[0].agreement
    research.negotiations.request(deal.deal, agreed.holder, agreed.terms)
    world.settle()
    source.cut_off = how == "of no head"
    following = follower(world, **shown) if source.cut_off else first
    assert following.look(world.clock.now()) == []
    following = follower(world, following.state, **shown)  # as one that looks once and ends
    world.clock.pass_(Limits().patience + timedelta(seconds=1))
    (alert,) = following.look(world.clock.now())
    assert (alert.kind, alert.subject) == (Kind.MISSING, deal.deal)
    assert following.look(world.clock.now()) == []  # it lasts
    shown["deals"], source.cut_off = HubBundles(world), False
    again = follower(world, following.state, **shown)
    assert again.look(world.clock.now()) == []
    assert again.state is not None
    assert (again.state.waiting, again.state.standing) == ((), ())  # and is over


@dataclass
class Lagging:
    """What the hub would have answered so long ago."""

    inner: HubBundles
    behind: timedelta
    answers: list[tuple[datetime, bytes]] = field(default_factory=list)

    def read(self, deal: DealId) -> bytes:
        now = self.inner.world.clock.at
        self.answers.append((now, self.inner.read(deal)))
        old = [data for at, data in self.answers if at <= now - self.behind]
        return old[-1] if old else self.answers[0][1]


@pytest.mark.parametrize("behind", [timedelta(0), Limits().patience + timedelta(minutes=1)])
def test_a_deal_in_which_a_party_never_stops_speaking_is_judged_or_its_hub_is_told_of(
    done: Done, tmp_path: Path, behind: timedelta
) -> None:
    """However much it says, a bundle is as of the newest head with a quorum; one that stays behind
    that, though it goes on, hides what it does not hold yet."""
    deal = done.deal.copied_to(tmp_path)
    world, research = deal.world, deal.world.members["research"]
    with research.node.store.reading() as tx:
        agreed = tx.agreements()[0].agreement

    def speaks() -> None:
        research.negotiations.request(deal.deal, agreed.holder, agreed.terms)
        research.node.work()

    served = Lagging(HubBundles(world), behind)
    following = follower(world, deals=served, opener=opener(world))
    found = following.look(world.clock.now())
    for turn in range(9):
        speaks()
        background.order(world.store, world.operator, world.keeping)
        if turn % 2 == 0:  # else the newest that is heard is under no witnessed head
            background.publish(world.operator, world.keeping)
        speaks()  # and is in no head, when the bundle is asked for
        world.clock.pass_(Limits().patience / 3)
        found += following.look(world.clock.now())
    if behind:
        assert {(alert.kind, alert.subject) for alert in found} == {(Kind.MISSING, deal.deal)}
    else:
        assert found == []
        shown = bundles.read(served.answers[-1][1])
        assert shown.checkpoint == world.service.witnessed_checkpoint()


def test_an_old_bundle_under_a_new_head_leaves_out_what_was_heard(
    done: Done, tmp_path: Path
) -> None:
    deal = done.deal.copied_to(tmp_path)
    world = deal.world
    old = max(bundles.read(done.bundle).entries)

    class Hiding(HubBundles):
        def read(self, deal: DealId) -> bytes:
            return keeping(bundles.read(super().read(deal)), lambda index: index <= old)

    following = follower(world, deals=Hiding(world), opener=opener(world))
    assert following.look(world.clock.now()) == []
    deal.submit()
    world.settle()
    found = following.look(world.clock.now())
    assert {(alert.kind, alert.subject) for alert in found} >= {(Kind.MISSING, deal.deal)}
    whole = bundles.read(HubBundles(world).read(deal.deal)).entries
    held = {index: read_statement(entry).statement.type for index, entry in whole.items()}
    new = {i for i, kind in held.items() if i > old and kind.startswith(("job.", "funds."))}
    submitted = {i for i in new if held[i] == "job.submitted"}
    assert {alert.index for alert in found if alert.kind is Kind.MISSING} == new - submitted


def test_a_bundle_of_a_newer_head_than_was_taken_is_judged_at_once(
    done: Done, tmp_path: Path
) -> None:
    """A log that grows while it is looked at has newer ones at every look."""
    world = done.world.copied_to(tmp_path / "1")
    source = HubSource(world, world.service.checkpoint().encode())
    fund(world, 5)
    following = follower(world, source=source, deals=HubBundles(world), opener=opener(world))
    assert following.look(world.clock.now()) == []
    assert following.state is not None
    assert following.state.waiting == ()
    source.instead = None
    assert following.look(world.clock.now()) == []


def test_a_log_that_does_not_go_on_from_a_bundles_newer_head_has_forked(
    done: Done, tmp_path: Path
) -> None:
    one, other = done.world.copied_to(tmp_path / "1"), done.world.copied_to(tmp_path / "2")
    source = HubSource(one, one.service.checkpoint().encode())
    for world, amount in ((one, 5), (other, 6)):
        fund(world, amount)
    following = follower(one, source=source, deals=HubBundles(one), opener=opener(one))
    assert following.look(one.clock.now()) == []
    source.instead, source.world = None, other
    (alert,) = following.look(one.clock.now())
    assert (alert.kind, alert.subject) == (Kind.FORK, done.deal.deal)
    assert alert.notes[1].encode() == other.service.checkpoint().encode()


def fund(world: World, amount: int) -> None:
    world.service.fund(
        world.operator.party,
        world.members["research"].id,
        a_price(amount),
        key=f"more-{amount}",
    )
    world.settle()


# Heads


def test_a_restarted_follower_goes_on_and_says_nothing_twice(done: Done, tmp_path: Path) -> None:
    first = follower(done.world)
    assert kinds(first.look(done.world.clock.now())) == [Kind.NOT_OPENED]
    assert first.state is not None
    save_state(tmp_path / "state", first.state)
    again = follower(done.world, load_state(tmp_path / "state"))
    assert again.look(done.world.clock.now()) == []
    assert again.size == first.size


def test_a_log_that_forks_is_named_with_both_notes_even_after_a_restart(
    done: Done, tmp_path: Path
) -> None:
    one, other = done.world.copied_to(tmp_path / "1"), done.world.copied_to(tmp_path / "2")
    for world, amount in ((one, 5), (other, 6)):
        world.service.fund(
            world.operator.party,
            world.members["research"].id,
            a_price(amount),
            key=f"fork-{amount}",
        )
        world.settle()
    first = follower(one)
    first.look(one.clock.now())
    restarted = follower(other, first.state)
    (alert,) = restarted.look(other.clock.now())
    assert alert.kind is Kind.FORK
    assert [note.encode() for note in alert.notes] == [
        one.service.checkpoint().encode(),
        other.service.checkpoint().encode(),
    ]
    assert restarted.state is not None
    assert restarted.state.note == alert.notes[0]  # what it believed, it goes on believing
    assert restarted.look(other.clock.now()) == []


def test_a_smaller_head_is_a_rollback_and_a_later_one_is_followed_again(
    done: Done, tmp_path: Path
) -> None:
    world = done.world.copied_to(tmp_path / "1")
    source = HubSource(world)
    old = world.service.checkpoint().encode()
    following = follower(world, source=source)
    following.look(world.clock.now())
    world.service.fund(
        world.operator.party, world.members["research"].id, a_price(1), key="one-more"
    )
    world.settle()
    assert following.look(world.clock.now()) == []
    source.instead = old
    assert kinds(following.look(world.clock.now())) == [Kind.ROLLBACK]
    source.instead = None
    assert following.look(world.clock.now()) == []


def test_a_head_that_nobody_trusted_signed_is_no_head(done: Done) -> None:
    source = HubSource(done.world)
    note = done.world.service.checkpoint()
    source.instead = note.replace("unseen.test/log", "unseen.test/gol").encode()
    following = follower(done.world, source=source)
    assert kinds(following.look(done.world.clock.now())) == [Kind.FORGED]
    assert following.state is None


def test_a_head_is_stale_when_its_witnesses_stay_away_and_not_when_the_log_is_idle(
    done: Done, tmp_path: Path
) -> None:
    world = done.world.copied_to(tmp_path / "1")
    following = follower(world, deals=HubBundles(world), opener=opener(world))
    assert following.look(world.clock.now()) == []
    world.clock.pass_(timedelta(hours=1))
    assert following.look(world.clock.now()) == []  # idle, and witnessed
    world.keeping = replace(world.keeping, witnesses=[])
    world.service.fund(
        world.operator.party, world.members["research"].id, a_price(1), key="one-more"
    )
    world.settle()
    assert following.look(world.clock.now()) == []
    world.clock.pass_(Limits().stale + timedelta(seconds=1))
    (alert,) = following.look(world.clock.now())
    assert alert.kind is Kind.STALE
    assert "quorum" in alert.words[Language.ENGLISH]
    assert following.look(world.clock.now()) == []


def test_a_log_that_grows_faster_than_witnesses_cosign_is_not_stale(
    done: Done, tmp_path: Path
) -> None:
    """Of one that grows at every moment, no look need ever find the newest head cosigned."""
    world = done.world.copied_to(tmp_path / "1")
    following = follower(world)
    following.look(world.clock.now())

    def grow(turn: int, *, witnessed: bool) -> None:
        for part in (turn, turn + 100):
            with world.store.transaction() as tx:
                log.append(tx.log, b"entry %d" % part)
            background.order(world.store, world.operator, world.keeping)
            if witnessed and part == turn:
                background.publish(world.operator, world.keeping)
        world.clock.pass_(Limits().stale / 3)

    def stale() -> bool:
        found = following.look(world.clock.now())
        return Kind.STALE in kinds(found)

    for turn in range(7):
        grow(turn, witnessed=True)
        assert not stale()
    told = []
    for turn in range(7, 12):
        grow(turn, witnessed=False)
        told.append(stale())
    assert told.count(True) == 1


def test_a_head_that_is_cosigned_again_and_again_does_not_pass_for_new_ones(
    done: Done, tmp_path: Path
) -> None:
    world = done.world.copied_to(tmp_path / "1")

    class Renewing(HubSource):
        def read(self, path: str) -> bytes:
            notes = parse_page(super().read(path)) if path.startswith("heads/") else []
            if not notes:
                return super().read(path)
            last = Note.parse(notes[-1])
            own = tuple(s for s in last.signatures if s.name != world.witness.key.name)
            lines = world.witness.add_checkpoint(0, (), last)
            return page_bytes([*notes[:-1], Note(last.text, (*own, *lines)).to_bytes()])

    state, told = None, []
    for turn in range(4):  # as from cron
        with world.store.transaction() as tx:
            log.append(tx.log, b"entry %d" % turn)
        background.order(world.store, world.operator, world.keeping)
        once = follower(world, state, source=Renewing(world))
        told.append(Kind.STALE in kinds(once.look(world.clock.now())))
        state = once.state
        once.close()
        world.clock.pass_(Limits().stale / 2)
    assert told.count(True) == 1


def test_a_log_that_does_not_grow_for_long_is_idle_or_withheld(done: Done, tmp_path: Path) -> None:
    world = done.world.copied_to(tmp_path / "1")
    following = follower(world, deals=HubBundles(world), opener=opener(world))
    following.look(world.clock.now())
    world.clock.pass_(Limits().quiet + timedelta(seconds=1))
    (alert,) = following.look(world.clock.now())
    assert alert.kind is Kind.STALE
    assert "idle" in alert.words[Language.ENGLISH]


def test_an_altered_tile_is_named(done: Done, forger: Forger) -> None:
    log = ForgedLog(forger, forger.bundle())

    class Altered:
        def read(self, path: str) -> bytes:
            data = log.read(path)
            return data[:-1] + bytes([data[-1] ^ 1]) if "entries" in path else data

    following = Follower(
        Altered(), forger.policy, roots_of(done.world), Given(log.bundle.documents)
    )
    found = following.look(done.world.clock.now())
    assert kinds(found)[0] is Kind.DAMAGED


def test_a_log_that_gives_no_answer_is_for_the_caller_to_try_again(done: Done) -> None:
    class Away:
        def read(self, path: str) -> bytes:
            raise SourceUnreachable("away")

    with pytest.raises(SourceUnreachable):
        follower(done.world, source=Away()).look(done.world.clock.now())


def test_a_deal_whose_bundle_could_not_be_fetched_is_asked_for_again(done: Done) -> None:
    class AwayAtFirst:
        asked = 0

        def read(self, deal: DealId) -> bytes | None:
            self.asked += 1
            if self.asked == 1:
                raise SourceUnreachable("away")
            return None

    following = follower(done.world, deals=AwayAtFirst())
    with pytest.raises(SourceUnreachable):
        following.look(done.world.clock.now())
    found = following.look(done.world.clock.now())
    assert [(a.kind, a.subject) for a in found] == [(Kind.NOT_OPENED, done.deal.deal)]


# What ought to be there


def test_a_statement_that_was_handed_over_as_logged_must_be_in_the_log(
    done: Done, tmp_path: Path
) -> None:
    world = done.world.copied_to(tmp_path / "1")
    twin = done.world.copied_to(tmp_path / "2")
    said = twin.service.fund(
        twin.operator.party, twin.members["research"].id, a_price(9), key="elsewhere"
    )
    twin.settle()
    assert said is not None
    with twin.store.reading() as tx:
        index = tx.log.index_of(said)
        assert index is not None
        (entry,) = tx.log.entries(index, index + 1)
        (first,) = tx.log.entries(0, 1)
    given = {said: entry.entry, digest(first.entry): first.entry}
    following = follower(world, given=given)
    assert Kind.MISSING not in kinds(following.look(world.clock.now()))  # it may be on its way
    world.clock.pass_(Limits().patience + timedelta(minutes=1))
    (alert,) = following.look(world.clock.now())
    assert (alert.kind, alert.subject) == (Kind.MISSING, str(said))


def test_whoever_relies_on_what_is_not_there_is_named(done: Done, forger: Forger) -> None:
    place = forger.place("negotiation.agreed")
    forger.change(place, after=(*forger.drafts[place].statement.after, digest(b"left out")))
    found = [a for a in follow_forged(done, forger) if a.kind is Kind.MISSING]
    assert [alert.index for alert in found] == [place]


def test_a_job_without_receipts_at_its_deadline_is_overdue(done: Done, forger: Forger) -> None:
    del forger.drafts[forger.place("job.sealed", nth=2) :]  # the second job began and went quiet
    job = forger.drafts[-1].statement.subject
    log = ForgedLog(forger, forger.bundle())
    assert Kind.OVERDUE not in kinds(follow_forged(done, log, bundled=True))
    # By its plan, where that may be read; else by the longest run that a plan may ask for.
    found = follow_forged(done, log, bundled=True, after=timedelta(hours=2))
    assert (Kind.OVERDUE, job) in [(a.kind, a.subject) for a in found]
    assert Kind.OVERDUE not in kinds(follow_forged(done, log, after=timedelta(hours=2)))
    found = follow_forged(done, log, after=timedelta(days=2))
    assert (Kind.OVERDUE, job) in [(a.kind, a.subject) for a in found]


def test_an_entry_that_a_bundle_leaves_out_is_missed(done: Done, forger: Forger) -> None:
    log = ForgedLog(forger, forger.bundle())
    whole = log.bundle
    index = forger.place("job.opened")
    following = Follower(
        log,
        forger.policy,
        roots_of(done.world),
        Given(whole.documents),
        deals=OneBundle(keeping(whole, lambda place: place != index)),
        opener=Opener(forger.regulator, forger.regulator_key),
    )
    found = following.look(max(draft.seen for draft in forger.drafts))
    assert (Kind.MISSING, index) in [(a.kind, a.index) for a in found]


def test_whoever_speaks_without_effect_has_nobody_accused(done: Done, tmp_path: Path) -> None:
    """Strangers, whom a bundle leaves out, and a party that says more than it can hold."""
    world = done.world.copied_to(tmp_path / "1")
    with world.store.reading() as tx:
        job = tx.jobs_of_deal(done.deal.deal)[0].id
    mallory, research = world.join("mallory", Role.CONSUMER), world.members["research"]
    served = HubBundles(world)
    following = follower(world, deals=served, opener=opener(world))
    assert following.look(world.clock.now()) == []

    def says(member: Member, times: int) -> None:
        for _ in range(times):
            signed = sign_statement(
                Act("job.started", job, body={"deal": done.deal.deal}),
                actor=member.id,
                head=world.service.chain(member.id),
                signer=member.folder.signing,
                now=world.clock.now(),
                randomness=SystemRandomness(),
            )
            world.service.submit(member.id, read_submission(signed.entry, []))
        world.settle()

    served.read_so_far = 0
    says(mallory, 3)
    assert following.look(world.clock.now()) == []
    assert served.read_so_far == 0
    says(research, bundles.MAX_IDLE + 10)
    assert following.look(world.clock.now()) == []
    assert served.read_so_far == 1
    assert bundles.read(served.read(done.deal.deal)).manifest.left_out >= 3 + 10


# Deals and jobs


def test_a_job_that_starts_without_everybodys_admission_is_outside_its_authorisation(
    done: Done, forger: Forger
) -> None:
    del forger.drafts[forger.place("job.admitted")]
    found = follow_forged(done, forger)
    assert Kind.UNAUTHORISED in kinds(found)
    assert "job.started" in " ".join(a.subject for a in found if a.kind is Kind.UNAUTHORISED)


def test_more_jobs_than_agreed_are_seen_where_the_agreement_may_be_read(
    done: Done, forger: Forger
) -> None:
    forger.terms(lambda terms: replace(terms, runs=1))
    assert Kind.BUDGET in kinds(follow_forged(done, forger, bundled=True))
    blind = follow_forged(done, Forger.of(done.world, done.bundle))
    assert kinds(blind) == [Kind.NOT_OPENED]


def test_a_payment_before_the_receipts_is_seen_by_everybody(done: Done, forger: Forger) -> None:
    place = forger.place("funds.released")
    forger.change(place, after=forger.drafts[place].statement.after[:1])
    assert Kind.UNAUTHORISED in kinds(follow_forged(done, forger))


def test_a_statement_under_another_key_is_forged(done: Done, forger: Forger) -> None:
    lab = done.world.members["lab"].id
    forger.keys[lab] = SigningKey.generate()
    assert Kind.FORGED in kinds(follow_forged(done, forger))


def test_a_participants_alarm_is_passed_on(done: Done, tmp_path: Path) -> None:
    world = done.world.copied_to(tmp_path / "1")
    following = follower(world)
    following.look(world.clock.now())
    clinic = world.members["clinic"]
    with clinic.node.store.transaction() as tx:
        about = "x]\n2026-03-04T00:00:00.000Z FORK [heads 5 and 7] the log forked\x1b[2J"
        act = evidence.alarmed(about, kind="LogForked", words="\x1b[31mtwo heads")
        outbox.say(act, [], tx=tx, identity=clinic.node.identity)
    world.settle()
    (alert,) = following.look(world.clock.now())
    assert alert.kind is Kind.ALARM
    for language in Language:
        line = alert.to_text(language, world.clock.now())
        assert "LogForked" in line
        assert "\x1b" not in line
        assert "\n" not in line


def test_a_new_policy_in_the_log_is_told_and_one_from_before_is_not(
    done: Done, tmp_path: Path
) -> None:
    world = done.world.copied_to(tmp_path / "1")

    def adopt(text: bytes) -> None:
        with world.store.transaction() as tx:
            act = policy_adopted("unseen.test/log", text, None)
            chains.act(act, tx=tx, operator=world.operator)
        world.settle()

    adopt(f"log {world.policy.logs[0].key}\nquorum none\n".encode())
    following = follower(world)
    assert Kind.CHANGED not in kinds(following.look(world.clock.now()))
    adopt(f"log {world.policy.logs[0].key}\n\nquorum none\n".encode())
    restarted = follower(world, following.state)
    (alert,) = restarted.look(world.clock.now())
    assert alert.kind is Kind.CHANGED
    assert restarted.look(world.clock.now()) == []


# State


def test_a_state_that_is_none_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert load_state(path) is None
    for data in (b"", b"{}", b'{"v":2}'):
        path.write_bytes(data)
        with pytest.raises(StateRefused, match="begin anew"):
            load_state(path)


def test_a_state_is_read_back_as_it_was(done: Done, tmp_path: Path) -> None:
    following = follower(done.world)
    following.look(done.world.clock.now())
    assert following.state is not None
    save_state(tmp_path / "state", following.state)
    assert load_state(tmp_path / "state") == following.state


# The program


@dataclass
class Ticks:
    """A clock that stands, and a sleep that lets something happen, until it is interrupted."""

    at: datetime
    happenings: list[Callable[[], None]]

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        if not self.happenings:
            raise KeyboardInterrupt
        self.happenings.pop(0)()


def served(done: Done, forger: Forger, folder: Path) -> list[str]:
    """A forged log as static files, and the arguments that follow it."""
    log = ForgedLog(forger, forger.bundle())
    count = len(log.bundle.entries)
    heads = heads_path(0)
    paths = [CHECKPOINT, f"tile/0/000.p/{count}", f"tile/entries/000.p/{count}", heads]
    for path in paths:
        (folder / "log" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "log" / path).write_bytes(log.read(path))
    (folder / "documents").mkdir()
    for name, data in log.bundle.documents.items():
        (folder / "documents" / name.raw.hex()).write_bytes(data)
    (folder / "bundles").mkdir()
    (folder / "bundles" / f"{done.deal.deal}.zip").write_bytes(log.data)
    key, witness = forger.policy.logs[0].key, forger.policy.witnesses[0].key
    (folder / "policy").write_text(f"log {key}\nwitness w {witness}\nquorum w\n")
    roots = sorted(roots_of(done.world).fingerprints)
    (folder / "roots").write_text("".join(f"fingerprint {one}\n" for one in roots))
    write_key(folder / "key", forger.regulator_key)
    return [
        *("follow", str(folder / "log"), "--policy", str(folder / "policy"), "--once"),
        *("--roots", str(folder / "roots"), "--documents", str(folder / "documents")),
        *("--bundles", str(folder / "bundles"), "--state", str(folder / "state")),
        *("--open-with", str(folder / "key"), "--party", forger.regulator),
        *("--quiet", str(10**9)),  # this log ended long ago by the real clock
    ]


def test_the_command_says_nothing_of_an_honest_log_in_a_folder_and_ends_with_0(
    done: Done, forger: Forger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(served(done, forger, tmp_path)) == 0
    assert capsys.readouterr().out == ""
    assert load_state(tmp_path / "state") is not None


def test_the_command_prints_an_alert_a_line_ends_with_1_and_repeats_nothing(
    done: Done, forger: Forger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forger.terms(lambda terms: replace(terms, runs=1))
    asked = served(done, forger, tmp_path)
    assert main([*asked, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "budget" in [line["kind"] for line in lines]
    assert all({"time", "kind", "subject", "words", "index", "notes"} == set(x) for x in lines)
    assert main(asked) == 0
    assert capsys.readouterr().out == ""


def test_a_log_that_is_away_ends_one_look_with_4_and_is_stale_when_it_stays_away(
    done: Done, forger: Forger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = served(done, forger, tmp_path)
    asked[1] = "http://127.0.0.1:9/v1/log"
    assert main(asked) == 4
    assert capsys.readouterr().err
    ticks = Ticks(done.world.clock.now(), [])

    class Away:
        def read(self, path: str) -> bytes:
            raise SourceUnreachable("away")

    ticks.happenings = [
        lambda: setattr(ticks, "at", ticks.at + Limits().stale + timedelta(seconds=1)),
        lambda: None,
    ]
    told: list[str] = []
    what = Following(Away(), done.world.policy, roots_of(done.world), Given(), tmp_path / "other")
    code = follow(what, clock=ticks, sleep=ticks.sleep, write=told.append, complain=told.append)
    assert code == 1
    assert [line for line in told if "STALE" in line] == [told[2]]


def test_a_running_follower_hears_what_happens_and_keeps_it(done: Done, tmp_path: Path) -> None:
    world = done.world.copied_to(tmp_path / "1")

    def grow() -> None:
        world.service.fund(
            world.operator.party, world.members["research"].id, a_price(1), key="one-more"
        )
        world.settle()

    ticks = Ticks(world.clock.now(), [grow])
    told: list[str] = []
    what = Following(
        HubSource(world),
        world.policy,
        roots_of(world),
        HubDocuments(world),
        tmp_path / "state",
        deals=HubBundles(world),
        opener=opener(world),
    )
    code = follow(what, clock=ticks, sleep=ticks.sleep, write=told.append, complain=told.append)
    assert (code, told) == (0, [])
    state = load_state(tmp_path / "state")
    assert state is not None
    assert state.note == world.service.checkpoint()


def test_given_entries_are_read_from_files_and_folders(done: Done, tmp_path: Path) -> None:
    entries = bundles.read(done.bundle).entries
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "1.json").write_bytes(entries[0])
    (tmp_path / "one").write_bytes(entries[1])
    found = read_given([tmp_path / "entries", tmp_path / "one"])
    assert set(found.values()) == {entries[0], entries[1]}
    (tmp_path / "one").write_bytes(entries[1][:-1])
    with pytest.raises(Malformed):
        read_given([tmp_path / "one"])


@contextmanager
def over_http(world: World) -> Iterator[str]:
    """The address of the world's hub on loopback."""
    engine = open_engine(f"sqlite:///{world.path}/hub.db")
    with serving(hub_app(world.service, engine, world.clock)) as running:
        yield running.url
    engine.dispose()


@pytest.mark.parametrize("prefix", ["/v1/log", "/v1/log/witnessed"])
def test_a_hub_is_followed_over_http(done: Done, prefix: str) -> None:
    with over_http(done.world) as url:
        following = Follower(
            HttpSource(url + prefix),
            done.world.policy,
            roots_of(done.world),
            HttpDocuments(f"{url}/v1/documents"),
        )
        assert kinds(following.look(done.world.clock.now())) == [Kind.NOT_OPENED]
        with done.world.store.reading() as tx:
            witnessed = tx.log.latest_witnessed()
        assert witnessed is not None
        assert following.size >= witnessed.size


def test_a_regulators_command_fetches_deals_and_opens_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = a_world(tmp_path)
    desks = Desks(world, monkeypatch, capsys)
    deal = a_deal(world)
    deal.approve_standing()
    deal.submit()
    world.settle()
    key = world.policy.log_keys[0]
    (tmp_path / "policy").write_text(f"log {key}\nwitness w {world.witness.key}\nquorum w\n")
    roots = sorted(roots_of(world).fingerprints)
    (tmp_path / "roots").write_text("".join(f"fingerprint {one}\n" for one in roots))
    with over_http(world) as url:
        asked = ["audit", "follow", f"{url}/v1/log", "--once", "--quiet", 10**9]
        asked += ["--policy", tmp_path / "policy", "--roots", tmp_path / "roots"]
        asked += ["--documents", f"{url}/v1/documents"]
        blind = desks.run("lab", *asked, "--fetch", "--state", tmp_path / "1", "--json")
        assert blind.code == 0
        (line,) = blind.out.splitlines()
        assert json.loads(line)["kind"] == "not_opened"  # a holder is given no bundle
        own = ["--fetch", "--open-with", tmp_path / "regulator", "--state", tmp_path / "2"]
        seeing = desks.run("regulator", *asked, *own)
        assert (seeing.code, seeing.out) == (0, "")
        both = desks.run("regulator", *asked, *own, "--bundles", tmp_path)
        assert both.code == 2
