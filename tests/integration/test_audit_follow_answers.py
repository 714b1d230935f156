"""A follower whose answers fail, repeat themselves or change: nothing silences it, and no failure
of an answer accuses anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.digest import Digest, digest
from crypto.identifiers import DealId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, sign_statement
from exchange.audit import alerts as alerts_module
from exchange.audit import follow as following_module
from exchange.audit.alerts import (
    KEY_BYTES,
    MAX_RAISED,
    Alert,
    Alerts,
    Kind,
    State,
    load_state,
    save_state,
)
from exchange.audit.follow import Follower
from exchange.audit.live import ALERTED, Following, follow
from exchange.audit.roots import Roots
from exchange.audit.watched import MAX_UNANSWERED
from exchange.audit.whole import FolderDocuments
from exchange.query.explanation import Language
from ledger.errors import SourceUnreachable, TileMissing
from ledger.verify.heads import HEADS_PER_PAGE, page_bytes
from ledger.verify.report import Phrase
from ledger.verify.tile_names import CHECKPOINT
from ledger.verify.tiles import FolderSource
from registry.evidence import REGISTERED, UPDATED
from registry.party import SignedParty
from tests.announcing_log import AnnouncingLog
from tests.integration.test_audit_keys import Party
from tests.written_logs import WrittenLog

START = datetime(2026, 11, 23, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LATER = START + timedelta(hours=6)
ROOTS = Roots(frozenset({"x"}), ())


class EndlessReading(Exception):
    """Not one that a follower could take for an answer."""


@dataclass
class Unsteady:
    """A log's files. failing: which of all reads fails, once. instead: by path or its first part,
    what is served in place of a file."""

    folder: Path
    failing: int | None = None
    instead: Mapping[str, bytes] = field(default_factory=dict)
    reads: int = 0

    def ask(self) -> None:
        self.reads += 1
        if self.reads - 1 == self.failing:
            raise SourceUnreachable("answered 503")
        if self.reads > 1000:
            raise EndlessReading

    def read(self, path: str) -> bytes:
        self.ask()
        given = self.instead.get(path) or self.instead.get(path.split("/", maxsplit=1)[0])
        return given or FolderSource(self.folder).read(path)


@dataclass(frozen=True)
class Registry:
    """Answers as unsteadily as the log."""

    source: Unsteady
    documents: Mapping[Digest, bytes] = field(default_factory=dict)

    def read(self, name: Digest) -> bytes | None:
        self.source.ask()
        return self.documents.get(name)


@dataclass
class ShortLog(WrittenLog):
    """By one party, which registers, and says whatever a test has it say."""

    documents: dict[Digest, bytes] = field(default_factory=dict)
    entries: list[bytes] = field(default_factory=list)
    party: Party = field(default_factory=lambda: Party("Clinic"))
    key_of_party: SigningKey = field(default_factory=SigningKey.generate)

    def __post_init__(self) -> None:
        document = self.party.document(self.key_of_party)
        self.documents[document.digest] = document.envelope.to_bytes()
        self.say(Act(REGISTERED, self.party.id, outputs=(document.digest,)))

    def say(self, act: Act) -> None:
        signed = sign_statement(
            act,
            actor=self.party.id,
            head=self.party.head,
            signer=self.key_of_party,
            now=START + len(self.entries) * MINUTE,
            randomness=SystemRandomness(),
        )
        self.party.head = signed.head
        self.entries.append(signed.entry)


def a_follower(log: ShortLog, source: Unsteady, state: State | None = None) -> Follower:
    return Follower(source, log.policy, ROOTS, Registry(source, log.documents), state=state)


def said(alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.kind.value, alert.subject) for alert in alerts]


def a_short_log(folder: Path, *acts: Act) -> ShortLog:
    log = ShortLog(folder)
    for act in acts or [Act("thing.done", f"t{n}") for n in range(4)]:
        log.say(act)
    log.write(log.entries, {3: START + 3 * MINUTE}, START + 5 * MINUTE)
    return log


# One answer fails


FIRST, ALL = 270, 320


class Grown:
    """A log at two moments: with changed keys, with a statement dated ahead and one that stands in
    it twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.documents: dict[Digest, bytes] = {}
        party = Party("Clinic")
        entries: list[bytes] = []
        document: SignedParty | None = None
        while len(entries) < ALL:
            place = len(entries)
            at = START + (timedelta(hours=12) if place == 150 else place * MINUTE)
            act = Act("thing.done", f"t{place}")
            if place in (0, 40, 200, 290):
                key = SigningKey.generate()
                document = party.document(key, document)
                self.documents[document.digest] = document.envelope.to_bytes()
                kind = UPDATED if place else REGISTERED
                act = Act(kind, party.id, outputs=(document.digest,))
            elif place == 310:
                entries.append(entries[300])
                continue
            signed = sign_statement(
                act,
                actor=party.id,
                head=party.head,
                signer=key,
                now=at,
                randomness=SystemRandomness(),
            )
            party.head = signed.head
            entries.append(signed.entry)
        self.entries = entries

        log = WrittenLog(folder)
        self.policy = log.policy
        for size in (FIRST, ALL):
            heads = {n: START + n * MINUTE for n in range(1, size, 10)}
            now = replace(log, folder=self.at(size))
            now.write(entries[:size], heads, START + size * MINUTE)

    def at(self, size: int) -> Path:
        return self.folder / f"{size}"

    def followed(self, source: Unsteady) -> Follower:
        return Follower(source, self.policy, ROOTS, Registry(source, self.documents))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return Grown(tmp_path_factory.mktemp("grown") / "log")


def look_through(grown: Grown, failing: int | None) -> tuple[list[Alert], int, int]:
    """What is found, as both moments are looked at until an answer comes; reads, and failures."""
    source = Unsteady(grown.at(FIRST), failing)
    following = grown.followed(source)
    found: list[Alert] = []
    failures = 0
    for size in (FIRST, ALL):
        source.folder = grown.at(size)
        while True:
            try:
                found += following.look(LATER)
                break
            except SourceUnreachable:
                failures += 1
        assert following.size == size
    following.close()
    return found, source.reads, failures


def counting(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What each walk counted: checks that passed, and those that nothing could be said of."""
    counted: list[dict[str, int]] = []

    class Counted(following_module._Loud):
        def __init__(self, alerts: Alerts) -> None:
            super().__init__(alerts)
            counted.append(self.passed)

        def unopened(self, check: str, subject: str, why: Phrase) -> None:
            super().unopened(check, subject, why)
            self.passes(f"{check} not opened")

    monkeypatch.setattr(following_module, "_Loud", Counted)
    return counted


@pytest.mark.parametrize("chunk", [100, 1024])
def test_one_answer_that_fails_changes_nothing_of_what_is_found(
    grown: Grown, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any one: of a tile, of a page of heads, of a document, in the midst of a walk."""
    monkeypatch.setattr(following_module, "CHUNK", chunk)
    counted = counting(monkeypatch)
    expected, reads, _ = look_through(grown, None)
    assert said(expected) == [
        ("time", "entry 150 thing.done"),
        ("chain", "entry 310 thing.done"),
    ]
    expected_counts = counted[-1]
    for failing in range(reads):
        found, _, failures = look_through(grown, failing)
        assert failures == 1
        assert said(found) == said(expected), f"read {failing}"
        assert counted[-1] == expected_counts, f"read {failing}"


def test_what_was_found_before_an_answer_failed_is_told_all_the_same(
    grown: Grown, tmp_path: Path
) -> None:
    """Also by a single look, which then ends as one that found something."""
    lines: list[str] = []
    for failing in range(100):
        source = Unsteady(grown.at(ALL), failing)
        what = Following(
            source,
            grown.policy,
            ROOTS,
            Registry(source, grown.documents),
            tmp_path / f"{failing}",
            once=True,
        )
        lines = []
        code = follow(
            what, clock=Fixed(), sleep=lambda _: None, write=lines.append, complain=lambda _: None
        )
        if source.reads <= failing:
            break
        assert (code == ALERTED) == bool(lines)
        state = load_state(tmp_path / f"{failing}")
        kept = 0 if state is None else len(state.raised)
        assert kept == len(lines)  # never kept as told without having been told
    assert len(lines) == 2
    assert 8 < failing < 100


class Fixed:
    def now(self) -> datetime:
        return LATER


def test_a_part_of_the_log_does_not_show_that_something_is_missing(
    grown: Grown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "CHUNK", 100)
    last = "tile/entries/001.p/64"
    source = Unsteady(grown.at(ALL), instead={last: b"altered"})
    given = {digest(grown.entries[-1]): grown.entries[-1]}
    following = Follower(
        source, grown.policy, ROOTS, Registry(source, grown.documents), given=given
    )
    assert said(following.look(LATER)) == [
        ("time", "entry 150 thing.done"),
        ("damaged", "entries from 200"),
    ]
    source.instead = {}
    assert said(following.look(LATER)) == [("chain", "entry 310 thing.done")]
    assert following.size == ALL


def test_documents_and_deals_without_an_answer_keep_nothing_else_from_being_looked_at(
    tmp_path: Path,
) -> None:
    """A deal's bundle, a document that is asked for again: the look ends as one without an answer,
    and has told of everything else by then."""
    deals = [DealId(f"dea_{n:032x}") for n in range(2)]
    hidden = Act(UPDATED, "x", outputs=(digest(b"served to nobody"),))
    log = a_short_log(
        tmp_path / "log",
        *(Act("negotiation.requested", f"n{deal}", body={"deal": deal}) for deal in deals),
        hidden,
    )

    class Steady(Registry):
        away = False

        def read(self, name: Digest) -> bytes | None:
            if self.away and name not in self.documents:
                raise SourceUnreachable("answered 503")
            return self.documents.get(name)

    class Dead:
        def read(self, deal: DealId) -> bytes | None:
            if deal == deals[0]:
                raise SourceUnreachable("answered 500")
            return None

    documents = Steady(Unsteady(log.folder), log.documents)
    elsewhere = a_short_log(tmp_path / "other").entries[1]
    given = {digest(elsewhere): elsewhere}
    source = Unsteady(log.folder)
    following = Follower(source, log.policy, ROOTS, documents, deals=Dead(), given=given)
    for documents.away in (False, True):
        with pytest.raises(SourceUnreachable):
            following.look(LATER)
    assert said(following.unanswered(LATER)) == [
        ("missing", log.party.id),
        ("not_opened", deals[1]),
        ("missing", str(digest(elsewhere))),
    ]
    for later, found in ((11, [("missing", deals[0])]), (12, [])):  # it lasts
        with pytest.raises(SourceUnreachable):
            following.look(LATER + later * MINUTE)
        assert said(following.unanswered(LATER + later * MINUTE)) == found


def test_a_log_without_an_answer_is_told_of_whatever_else_has_none_and_over_restarts(
    tmp_path: Path,
) -> None:
    """Each follower here looks once, as cron has it."""
    hidden = Act(UPDATED, "x", outputs=(digest(b"never answered"),))
    log = a_short_log(tmp_path / "log", hidden)
    source = Unsteady(log.folder)

    class Dead(Registry):
        def read(self, name: Digest) -> bytes | None:
            if name in self.documents:
                return self.documents[name]
            raise SourceUnreachable("answered 503")

    def look(minute: int, state: State | None, failing: int | None) -> Follower:
        source.failing, source.reads = failing, 0
        documents = Dead(source, log.documents)
        following = Follower(source, log.policy, ROOTS, documents, state=state)
        with pytest.raises(SourceUnreachable):
            following.look(LATER + minute * MINUTE)
        return following

    state: State | None = None
    found = {}
    for minute in (0, 11, 12, 20, 23, 24):
        following = look(minute, state, failing=0 if minute > 11 else None)
        if alerts := said(following.unanswered(LATER + minute * MINUTE)):
            found[minute] = alerts
        state = following.state
        following.close()
    assert found == {11: [("missing", log.party.id)], 23: [("stale", "log")]}


# Documents that are never answered


@dataclass
class Reticent:
    """dead: names that have no answer."""

    folder: Path
    dead: set[Digest]
    asked: list[Digest] = field(default_factory=list)

    def read(self, name: Digest) -> bytes | None:
        self.asked.append(name)
        if name in self.dead:
            raise SourceUnreachable("answered 503")
        return FolderDocuments(self.folder).read(name)


def look_at(following: Follower, at: datetime) -> list[tuple[str, str]]:
    try:
        return said(following.look(at))
    except SourceUnreachable:
        return said(following.unanswered(at))


def test_a_document_that_is_never_answered_holds_the_log_up_no_longer_than_patience(
    tmp_path: Path,
) -> None:
    log = AnnouncingLog(tmp_path)
    log.joins("hub")
    puppet = log.joins("puppet")
    log.speaks("hub")
    log.publish()
    documents = Reticent(log.served, {puppet})
    source = FolderSource(log.log.folder)

    def followed(state: State | None) -> Follower:
        return Follower(source, log.log.policy, log.roots, documents, state=state)

    first = followed(None)
    for minute in (0, 9):
        assert look_at(first, LATER + minute * MINUTE) == []
        assert first.size == 0
    following = followed(first.state)  # and begins to wait no second time
    hub, unheard = (log.parties[name].party.document.party for name in ("hub", "puppet"))
    after = LATER + 11 * MINUTE
    assert look_at(following, after) == [
        ("alarm", f"{hub} in entry 2 alarm.raised"),
        ("missing", unheard),
    ]
    later = log.joins("later")
    log.speaks("later")
    log.publish()
    documents.dead.add(later)
    late = log.parties["later"].party.document.party
    assert look_at(following, after + MINUTE) == [("missing", late)]  # not held up again
    documents.dead.clear()
    assert look_at(following, after + MINUTE) == [("alarm", f"{late} in entry 4 alarm.raised")]
    assert following.size == 5


def test_documents_without_an_answer_keep_no_other_from_being_read(tmp_path: Path) -> None:
    log = AnnouncingLog(tmp_path)
    dead = {log.joins(f"puppet {n}") for n in range(3 * MAX_UNANSWERED)}
    log.joins("honest")
    log.speaks("honest")
    log.publish()
    documents = Reticent(log.served, dead)
    source = FolderSource(log.log.folder)
    following = Follower(source, log.log.policy, log.roots, documents)
    assert look_at(following, LATER) == []
    found = []
    for minute in range(11, 20):
        documents.asked.clear()
        found += look_at(following, LATER + minute * MINUTE)
        assert len([name for name in documents.asked if name in dead]) <= MAX_UNANSWERED
    assert [kind for kind, _ in found].count("alarm") == 1
    assert following.size == len(log.entries)
    following.close()


# Pages without end


def test_a_server_that_repeats_a_head_for_ever_is_told_of(tmp_path: Path) -> None:
    log = a_short_log(tmp_path / "log")
    note = FolderSource(log.folder).read("heads/0")
    source = Unsteady(log.folder, instead={"heads": page_bytes([note] * HEADS_PER_PAGE)})
    following = a_follower(log, source)
    assert said(following.look(LATER)) == [("forged", "head after size 3")]
    assert following.size == 5
    assert following.look(LATER) == []


# Alerts about a moment


def test_a_second_forged_head_is_told_of_as_well(tmp_path: Path) -> None:
    log = a_short_log(tmp_path / "log")
    foreign = a_short_log(tmp_path / "foreign")
    foreign_head = FolderSource(foreign.folder).read(CHECKPOINT)
    source = Unsteady(log.folder)
    following = a_follower(log, source)
    assert following.look(LATER) == []

    def look(instead: bytes | None) -> list[tuple[str, str]]:
        source.instead = {} if instead is None else {CHECKPOINT: instead}
        return said(following.look(LATER))

    forged = [("forged", "head")]
    assert look(b"half a note") == forged
    assert look(b"half a note") == []  # it lasts
    assert look(foreign_head) == forged  # for another reason
    assert look(None) == []
    assert look(b"half a note") == forged  # it had ended
    state = following.state
    assert state is not None
    again = a_follower(log, source, state)
    assert again.look(LATER) == []  # it lasts, over a restart too
    source.instead = {}
    assert again.look(LATER) == []
    source.instead = {CHECKPOINT: foreign_head}
    assert said(again.look(LATER)) == forged


def test_a_log_that_goes_away_a_second_time_is_told_of_again(tmp_path: Path) -> None:
    log = a_short_log(tmp_path / "log")
    following = a_follower(log, Unsteady(log.folder))
    assert following.look(LATER) == []
    (log.folder / CHECKPOINT).rename(tmp_path / "kept")
    with pytest.raises(TileMissing):
        FolderSource(log.folder).read(CHECKPOINT)
    assert said(following.look(LATER)) == [("rollback", "log")]
    assert following.look(LATER) == []
    (tmp_path / "kept").rename(log.folder / CHECKPOINT)
    assert following.look(LATER) == []
    (log.folder / CHECKPOINT).unlink()
    assert said(following.look(LATER)) == [("rollback", "log")]


# The state


def test_a_state_that_was_saved_is_read_however_much_was_said(tmp_path: Path) -> None:
    log = a_short_log(tmp_path / "log")
    first = a_follower(log, Unsteady(log.folder))
    first.look(LATER)
    assert first.state is not None
    many = tuple(f"{n:0{2 * KEY_BYTES}x}" for n in range(MAX_RAISED + 10))
    crowded = a_follower(log, Unsteady(log.folder), replace(first.state, raised=many))
    crowded.look(LATER)
    assert crowded.state is not None
    save_state(tmp_path / "state", crowded.state)
    kept = load_state(tmp_path / "state")
    assert kept is not None
    assert kept.raised == many[:MAX_RAISED]


def test_alerts_beyond_what_a_state_holds_have_none_of_the_others_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts_module, "MAX_RAISED", 3)
    log = a_short_log(tmp_path / "log", *(Act("alarm.raised", f"{n}") for n in range(5)))
    first = a_follower(log, Unsteady(log.folder))
    assert len(first.look(LATER)) == 5
    assert first.state is not None
    assert len(first.state.raised) == 3
    assert first.look(LATER) == []
    again = a_follower(log, Unsteady(log.folder), first.state)
    assert len(again.look(LATER)) == 2  # and of those no state says that they were told


def test_one_entry_is_one_alert_however_much_it_names_that_is_not_there(tmp_path: Path) -> None:
    absent = tuple(digest(b"%d" % n) for n in range(500))
    log = a_short_log(tmp_path / "log", Act("thing.done", "t", after=absent))
    (alert,) = a_follower(log, Unsteady(log.folder)).look(LATER)
    assert (alert.kind, alert.subject) == (Kind.MISSING, "entry 1 thing.done")
    assert "500" in alert.words[Language.ENGLISH]
    assert str(absent[0]) in alert.words[Language.ENGLISH]


def test_the_key_of_an_alert_is_short_whatever_it_says(tmp_path: Path) -> None:
    log = a_short_log(tmp_path / "log")
    source = Unsteady(log.folder, instead={"heads": b"x" * 1000})
    (alert,) = a_follower(log, source).look(LATER)
    assert len(bytes.fromhex(alert.key)) == KEY_BYTES
