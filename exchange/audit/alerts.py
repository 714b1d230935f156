"""What a follower tells: each finding once, also after a restart.

What is in the log stays so, and is told once. What is about the moment (a forged head, a missing
answer) is told when it begins, and again if it had ended and returns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from crypto import record
from crypto.digest import digest
from crypto.errors import CryptoError
from crypto.files import replace_file
from crypto.record import encode_time
from exchange.audit.errors import StateRefused
from exchange.audit.voices import VOICES
from exchange.query.explanation import Language
from ledger.verify.report import Check, Phrase, printable

VERSION: Final = 1
MAX_STATE_BYTES: Final = 32 << 20
MAX_RAISED: Final = 400_000  # keys that a state holds, of 35 bytes each: what was saved is read
KEY_BYTES: Final = 16
MAX_STANDING: Final = 100_000  # the same of those about the moment
MAX_WAITING: Final = 100_000  # waits that a state holds, of some 90 bytes each


class Kind(StrEnum):
    """What an alert is about; whoever is alerted does something else for each."""

    FORK = "fork"  # two heads that contradict each other: publish both, stop believing the log
    ROLLBACK = "rollback"  # a smaller head than before: a restored backup, or a lagging cache
    STALE = "stale"  # no quorum for too long, or no growth
    MISSING = "missing"  # what ought to be in the log is not
    OVERDUE = "overdue"  # a job past its deadline without receipts or an end, or a price kept
    BUDGET = "budget"  # runs or epsilon beyond what was agreed, or miscounted
    UNAUTHORISED = "unauthorised"  # a step of a deal or job that nothing before it allows
    MONEY = "money"  # a movement that does not follow, or of another amount
    FORGED = "forged"  # a signature, document or entry that is not what it should be
    CHAIN = "chain"  # an actor's statements left out, twice or out of order
    TIME = "time"  # a time that the witnesses contradict
    DAMAGED = "damaged"  # files of the log are gone or altered
    ALARM = "alarm"  # a participant raised one
    CHANGED = "changed"  # the log declared other keys or another policy: do you follow it there?
    NOT_OPENED = "not_opened"  # no alert: what this reader could not judge


_OF_CHECK: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "log.tiles": Kind.DAMAGED,
        "log.heads": Kind.FORK,
        "log.head": Kind.FORGED,
        "log.keys": Kind.FORGED,
        "log.consistent": Kind.FORK,
        "entry.readable": Kind.FORGED,
        "entry.signed": Kind.FORGED,
        "entry.logged": Kind.FORGED,
        "entry.time": Kind.TIME,
        "entry.after": Kind.MISSING,
        "actor.chain": Kind.CHAIN,
        "party.document": Kind.FORGED,
        "party.trusted": Kind.FORGED,
        "bundle.entries": Kind.FORGED,
        "bundle.documents": Kind.FORGED,
        "agreement.runs": Kind.BUDGET,
        "product.privacy": Kind.BUDGET,
        "receipt.opened": Kind.BUDGET,
        "job.receipt": Kind.MISSING,
        "money.held": Kind.MONEY,
        "money.settled": Kind.MONEY,
        "money.amounts": Kind.MONEY,
    }
)


@dataclass(frozen=True)
class Alert:
    """words: in both languages. index: of the entry it is about. notes: signed notes that prove it
    to anybody. key: the same for the same finding, however often it is found, and another where
    any of its facts differs: a digest, in hexadecimal."""

    kind: Kind
    subject: str
    words: Mapping[Language, str]
    key: str
    index: int | None = None
    notes: tuple[str, ...] = ()

    def to_value(self, language: Language, now: datetime) -> dict[str, object]:
        return {
            "time": encode_time(now),
            "kind": self.kind.value,
            "subject": self.subject,
            "index": self.index,
            "words": self.words[language],
            "notes": list(self.notes),
        }

    def to_text(self, language: Language, now: datetime) -> str:
        """One line."""
        what = f"{self.kind.value.upper()} [{printable(self.subject)}]"
        return f"{encode_time(now)} {what} {self.words[language]}"


@dataclass(frozen=True)
class Waiting:
    """since: by this follower's clock."""

    subject: str
    since: datetime


@dataclass(frozen=True)
class State:
    """What outlives the follower. note: the last head it accepted. grew_at, unwitnessed_since: by
    this follower's clock. raised: keys of alerts, the first MAX_RAISED. standing: keys of those
    about what was shown at the last look, which are forgotten when it is over, the first
    MAX_STANDING. waiting: for what should have answered, the first MAX_WAITING."""

    v: int
    note: str
    grew_at: datetime
    unwitnessed_since: datetime | None
    raised: tuple[str, ...]
    standing: tuple[str, ...]
    waiting: tuple[Waiting, ...]


def load_state(path: Path) -> State | None:
    """What an earlier follower left; None before the first. Raises StateRefused."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        state = record.from_bytes(State, data)
    except CryptoError as error:
        raise StateRefused(str(path), str(error)) from None
    if state.v != VERSION:
        raise StateRefused(str(path), f"v is {state.v}; this version reads {VERSION}")
    return state


def save_state(path: Path, state: State) -> None:
    """Whole or not at all: a crash leaves what was there before."""
    replace_file(path, record.to_bytes(state))


class Waits:
    """Since when what should answer has not. It may be about to, so it is told of only when it
    lasts: also over a restart, or a follower that looks once and ends would never tell."""

    def __init__(self, state: State | None) -> None:
        self._since = {one.subject: one.since for one in (() if state is None else state.waiting)}

    @property
    def kept(self) -> tuple[Waiting, ...]:
        return tuple(Waiting(*one) for one in islice(self._since.items(), MAX_WAITING))

    def begin(self, subject: str, now: datetime) -> None:
        """Nothing, if it has begun."""
        self._since.setdefault(subject, now)

    def end(self, subject: str) -> None:
        self._since.pop(subject, None)

    def since(self, subject: str, now: datetime, *, longer_than: timedelta) -> datetime | None:
        """When the wait began, if it has lasted for so long."""
        since = self._since.get(subject)
        return since if since is not None and now - since > longer_than else None


class Alerts:
    """What was found, to be told once. A look begins with `begin` and ends with `end`."""

    def __init__(self, state: State | None) -> None:
        self._raised = dict.fromkeys(() if state is None else state.raised[:MAX_RAISED])
        self._standing = dict.fromkeys(() if state is None else state.standing)
        self._now_so: set[str] = set()  # keys of what this look found to be shown
        self._new: list[Alert] = []

    @property
    def raised(self) -> tuple[str, ...]:
        return tuple(self._raised)

    @property
    def standing(self) -> tuple[str, ...]:
        return tuple(islice(self._standing, MAX_STANDING))

    def begin(self) -> None:
        self._now_so = set()

    def end(self) -> None:
        """What is over is forgotten: when it comes again, it is told again."""
        self._standing = {key: None for key in self._standing if key in self._now_so}

    def told(self) -> list[Alert]:
        """What is new since the last call."""
        found, self._new = self._new, []
        return found

    def once(
        self,
        kind: Kind,
        subject: str,
        why: Phrase,
        *,
        index: int | None = None,
        notes: Sequence[str] = (),
        check: str = "",
    ) -> None:
        """What stays so: it is in the log, or somebody signed it. Told once."""
        self._raise(_alert(kind, subject, why, [check, *_facts(why)], index, notes))

    def failed(self, check: str, subject: str, why: Phrase, index: int) -> None:
        """A check of the whole log."""
        kind = _OF_CHECK.get(check, Kind.UNAUTHORISED)
        self.once(kind, subject, why, index=index, check=check)

    def failed_in(self, deal: str, check: Check) -> None:
        """A check of a deal's bundle."""
        kind = _OF_CHECK.get(check.id, Kind.UNAUTHORISED)
        about = printable(check.subject)
        words = {language: f"{about}: {check.words(VOICES[language])}" for language in Language}
        facts = [check.id, check.subject, *(_facts(check.note) if check.note else ())]
        self._raise(Alert(kind, deal, words, _key(kind, deal, facts)))

    def shows(
        self,
        kind: Kind,
        subject: str,
        why: Phrase,
        *,
        notes: Sequence[str] = (),
        facts: Sequence[object] | None = None,
    ) -> None:
        """What is so at this look, and may be over at the next. Told when it begins.

        facts: what it is known by, where the facts of `why` change while it lasts.
        """
        found = _alert(kind, subject, why, _facts(why) if facts is None else facts, None, notes)
        self._now_so.add(found.key)
        if found.key not in self._standing:
            self._standing[found.key] = None
            self._new.append(found)

    def _raise(self, found: Alert) -> None:
        if found.key not in self._raised:
            self._new.append(found)
            if len(self._raised) < MAX_RAISED:
                # The first ones stay: in place of the newest each start would find the first
                # again, forget the second for it, find that, and so tell everything again.
                self._raised[found.key] = None


def _alert(
    kind: Kind,
    subject: str,
    why: Phrase,
    facts: Sequence[object],
    index: int | None,
    notes: Sequence[str],
) -> Alert:
    words = {language: why.text(VOICES[language]) for language in Language}
    return Alert(kind, subject, words, _key(kind, subject, facts), index, tuple(notes))


def _key(kind: Kind, subject: str, facts: Sequence[object]) -> str:
    """Short, for there is one for each deal that was not opened."""
    said = json.dumps([kind.value, subject, *facts]).encode()
    return digest(said).raw[:KEY_BYTES].hex()


def _facts(why: Phrase) -> list[object]:
    return [
        why.key,
        *(
            [name, _facts(fact) if isinstance(fact, Phrase) else fact]
            for name, fact in sorted(why.facts.items())
        ),
    ]
