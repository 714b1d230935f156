"""Witnesses' clocks: as long as each quorum holds an honest witness, one that lies about the time
neither convicts an honest log nor, alone, hides what an honest quorum saw."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from crypto.identifiers import PartyId
from crypto.keys import PublicKey, SigningKey
from crypto.statement import Act
from exchange.hub.intake import CLOCK_TOLERANCE
from ledger.log import MAX_CLOCK_DIFFERENCE
from ledger.verify.chain import Times
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.cosignature import cosign, cosigner_key
from ledger.verify.log import Entry, Tally, Timing, audit_log
from ledger.verify.note import Note, log_key
from ledger.verify.policy import CheckedCheckpoint, Policy
from ledger.verify.receipt import quorum_times
from tests.written_logs import ORIGIN, Actor, WrittenLog

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
YEAR = timedelta(days=365)
KEYS = {name: SigningKey.generate() for name in "abc"}
ENTRIES = 6


def minute(number: float) -> datetime:
    return NOW + timedelta(minutes=number)


def policy(log: WrittenLog, quorum: str = "group q 2 a b c\nquorum q\n") -> Policy:
    witnesses = "".join(
        f"witness {name} {cosigner_key(f'{name}.test', key)}\n" for name, key in KEYS.items()
    )
    return Policy.parse(f"log {log_key(ORIGIN, log.key)}\n{witnesses}{quorum}".encode())


def times(log: WrittenLog, quorum: str, **lines: datetime) -> Times | None:
    head = Checkpoint(ORIGIN, 1, bytes(32))
    return quorum_times(CheckedCheckpoint(head, lines), policy(log, quorum))


def test_a_quorum_and_no_more_bounds_by_its_first_and_its_last_line(tmp_path: Path) -> None:
    found = times(WrittenLog(tmp_path), "group q 2 a b c\nquorum q\n", a=minute(1), c=minute(4))
    assert found == Times(minute(1), minute(4))


def test_a_line_more_than_the_quorum_leaves_the_liar_no_say(tmp_path: Path) -> None:
    for lie in (NOW + YEAR, NOW - YEAR):
        lines = {"a": minute(1), "b": minute(2), "c": lie}
        found = times(WrittenLog(tmp_path), "group q 2 a b c\nquorum q\n", **lines)
        assert found is not None
        assert minute(1) <= found.first == found.last <= minute(2)


def test_without_a_quorum_nothing_is_bounded(tmp_path: Path) -> None:
    assert times(WrittenLog(tmp_path), "group q 2 a b c\nquorum q\n", a=minute(1)) is None
    assert times(WrittenLog(tmp_path), "quorum none\n") is None
    assert times(WrittenLog(tmp_path), "quorum a\n", b=minute(1)) is None


@given(st.lists(st.integers(0, 60), min_size=3, max_size=3), st.sampled_from([1, 2, 3]), st.data())
def test_somebody_honest_stands_on_either_side_of_the_bounds(
    tmp_path_factory: pytest.TempPathFactory, minutes: list[int], needed: int, draw: st.DataObject
) -> None:
    have = draw.draw(st.sampled_from([c for n in range(4) for c in combinations("abc", n)]))
    lines = {name: minute(number) for name, number in zip("abc", minutes, strict=True)}
    lines = {name: lines[name] for name in have}
    log = WrittenLog(tmp_path_factory.getbasetemp())
    found = times(log, f"group q {needed} a b c\nquorum q\n", **lines)
    assert (found is not None) == (len(lines) >= needed)
    if found is None:
        return
    assert found.first <= found.last
    for honest in combinations("abc", 4 - needed):  # the fewest that every quorum has one of
        stated = [lines[name] for name in honest if name in lines]
        assert max(stated) >= found.first
        assert min(stated) <= found.last


class Audited:
    """A log of one actor's statements, one a minute, with three heads before the last."""

    def __init__(self, folder: Path, back_dated: timedelta = timedelta(0)) -> None:
        self.log = WrittenLog(folder)
        actor = Actor("operator")
        said = [minute(number) for number in range(ENTRIES)]
        said[-1] -= back_dated
        self.entries = [actor.says(Act("funds.deposited", f"x{t}"), t) for t in said]
        self.log.write(self.entries, {}, None)

    def note(self, size: int, **lines: datetime) -> Note:
        note = self.log.note(self.entries[:size], None)
        return note.with_signatures(
            [cosign(note.text, f"{name}.test", KEYS[name], now=t) for name, t in lines.items()]
        )

    def audit(self, *heads: Note) -> Tally:
        self.log.put_heads(heads)
        last = {name: minute(ENTRIES) for name in KEYS}
        self.log.put("checkpoint", self.note(ENTRIES, **last).to_bytes())
        _, tally = audit_log(str(self.log.folder), policy(self.log), workers=0)
        return tally


class Timings:
    """A Reader that knows one key, and keeps what is said of each entry's time."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.found: dict[int, Timing] = {}

    def key(self, entry: Entry) -> PublicKey | None:
        return self._actor.key.public

    def new_keys(self) -> Sequence[tuple[PartyId, PublicKey]]:
        return [(self._actor.id, self._actor.key.public)]

    def unheard(self, entry: Entry) -> None:
        raise AssertionError(entry)

    def heard(self, entry: Entry, timing: Timing, witnessed: int) -> None:
        self.found[entry.place] = timing

    def witnessed(self, size: int, times: Times) -> None:
        pass

    def finish(self) -> None:
        pass


# Minutes by which a witness's clock may be off before the hub takes no line of it.
OFF = st.floats(-1, 1).map(lambda share: share * MAX_CLOCK_DIFFERENCE.total_seconds() / 60)


@given(
    age=st.one_of(st.floats(-10, 30), st.floats(9.9, 10.1)),
    off=st.tuples(OFF, OFF),
    waited=st.floats(0, 1),
    later=st.floats(0, 20),
)
@example(age=10.02, off=(0, -0.1), waited=0, later=0)
@example(age=9, off=(4, 4), waited=1, later=5)
@example(age=-10, off=(-4, -4), waited=0, later=0)
@settings(max_examples=100, deadline=None)
def test_no_clock_that_the_hub_believes_makes_the_audit_take_the_late_for_timely_or_the_reverse(
    tmp_path_factory: pytest.TempPathFactory,
    age: float,
    off: tuple[float, float],
    waited: float,
    later: float,
) -> None:
    """Of a statement that came when the hub's clock said 30; the head before it waited for its
    line meanwhile."""
    before, after = minute(30 + waited + off[0]), minute(30 + later + off[1])
    assume(before <= after)
    log, actor = WrittenLog(tmp_path_factory.mktemp("log")), Actor("clinic")
    said = [minute(0), minute(30 - age), minute(60)]
    entries = [actor.says(Act("alarm.raised", f"x{t}"), t) for t in said]
    log.write(entries, {1: before, 2: after}, minute(60))
    timings = Timings(actor)
    _, tally = audit_log(str(log.folder), log.policy, reader=timings, workers=0)
    assert not tally.failed
    taken = age <= CLOCK_TOLERANCE.total_seconds() / 60
    assert timings.found[1] in {Timing.PERHAPS, Timing.FITS if taken else Timing.LATE}


def honest_times(size: int) -> dict[str, datetime]:
    return {name: minute(size - 0.5) for name in KEYS}


@pytest.mark.parametrize("lie", [YEAR, -YEAR])
@pytest.mark.parametrize("missing", ["", "b"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_one_clock_that_lies_convicts_nobody(
    tmp_path: Path, lie: timedelta, missing: str, size: int
) -> None:
    log = Audited(tmp_path)
    lines = {**honest_times(size), "c": minute(size) + lie}
    lines.pop(missing, None)
    sizes = sorted({1, 2, 4} - {size})
    notes = {s: log.note(s, **honest_times(s)) for s in sizes} | {size: log.note(size, **lines)}
    tally = log.audit(*(notes[s] for s in sorted(notes)))
    assert not tally.failed
    assert "entry.time" not in tally.open  # none is late either


def test_what_an_honest_quorum_did_not_see_yet_is_still_back_dated(tmp_path: Path) -> None:
    log = Audited(tmp_path, back_dated=timedelta(hours=1))
    lines = {**honest_times(4), "c": minute(4) - YEAR}
    tally = log.audit(log.note(1, **honest_times(1)), log.note(4, **lines))
    ((subject, _),) = tally.open["entry.time"]  # who relied on it, a reader says
    assert subject.startswith(f"entry {ENTRIES - 1} ")


def test_heads_of_which_every_quorum_ran_back_are_named(tmp_path: Path) -> None:
    log = Audited(tmp_path)
    early = {name: time - timedelta(hours=1) for name, time in honest_times(2).items()}
    tally = log.audit(log.note(1, **honest_times(1)), log.note(2, **early))
    assert [subject for subject, _ in tally.failed["log.heads"]] == ["head 2"]
