"""What an audit found: typed results, and the same in words for people.

A check is `passed`, failed, or neither: *not opened* where it needs what the auditor did not
bring, or where nothing at hand could show it. The words of one language are a Voice; this package
speaks English (`ledger.verify.words`), whoever builds on it may speak more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from crypto.record import encode_time
from ledger.errors import LedgerError

PASSED: Final = 0
FAILED: Final = 1
TRY_LATER: Final = 4


@dataclass(frozen=True)
class Voice:
    """The sentences of one language, by key.

    language: its BCP 47 tag.
    claims:   what each check shows when it passes. phrases: notes, titles and deeds, with
              `{facts}`. headings: of the parts of a report. between: claim and note.
    """

    claims: Mapping[str, str]
    phrases: Mapping[str, str]
    headings: Mapping[str, str]
    language: str = "en"
    between: str = ": "


@dataclass(frozen=True)
class Phrase:
    """A sentence of `Voice.phrases` with its facts. Facts are the same in every language, but for
    those that are sentences themselves."""

    key: str
    facts: Mapping[str, str | Phrase]

    def text(self, voice: Voice) -> str:
        said = {
            name: fact.text(voice) if isinstance(fact, Phrase) else fact
            for name, fact in self.facts.items()
        }
        return voice.phrases[self.key].format(**said)


def phrase(key: str, **facts: object) -> Phrase:
    """Facts may be the words of strangers: what could steer a terminal is shown as a mark."""
    shown = {
        name: fact if isinstance(fact, Phrase) else printable(str(fact))
        for name, fact in facts.items()
    }
    return Phrase(key, shown)


def printable(text: str) -> str:
    """A stranger's words with a mark in place of what could steer a terminal or be no text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


@dataclass(frozen=True)
class Check:
    """id: which promise, a key of `Voice.claims`. subject: what it is about. note: why it failed,
    why nothing can be said, or what else there is to say."""

    id: str
    passed: bool | None
    subject: str
    note: Phrase | None = None

    def words(self, voice: Voice) -> str:
        claim = voice.claims[self.id]
        if self.note is None:
            return claim
        return claim.rstrip(".。") + voice.between + self.note.text(voice)


def exit_code(report: Report) -> int:
    """What a report ends its program with: FAILED if a check failed, TRY_LATER if a receipt waits
    for its witnesses, else PASSED."""
    if report.failed:
        return FAILED
    waits = report.about.get("status") == "acknowledged" and report.about.get("quorum") != "none"
    return TRY_LATER if waits else PASSED


def try_to(check: str, subject: str, step: Callable[[], Phrase | None]) -> Check:
    """A check that passes unless `step` raises a LedgerError, which says why not."""
    try:
        return Check(check, True, subject, step())
    except LedgerError as error:
        return Check(check, False, subject, phrase("reason", reason=error))


@dataclass(frozen=True)
class Deed:
    """One sentence of the story: who did what when. index: of its entry in the log."""

    index: int
    time: datetime
    said: Phrase


@dataclass(frozen=True)
class Report:
    """checks: in the order in which they were made. story: in the order of the log.

    title: a phrase. about: what was audited, and measures of it: the first members of the JSON.
    not_proved: keys of the phrases that every such report ends with.
    """

    title: Phrase
    about: Mapping[str, object]
    checks: Sequence[Check]
    not_proved: Sequence[str]
    story: Sequence[Deed] = field(default=())

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def not_opened(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is None)

    @property
    def passed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed)

    def to_value(self, voice: Voice) -> dict[str, object]:
        """The report as JSON has it."""
        return {
            **self.about,
            "passed": len(self.passed),
            "failed": len(self.failed),
            "not_opened": len(self.not_opened),
            "checks": [_check_value(check, voice) for check in self.checks],
            "not_proved": [voice.phrases[key] for key in self.not_proved],
            "story": [_deed_text(deed, voice) for deed in self.story],
        }

    def told(self, voice: Voice) -> list[str]:
        """What comes before the checks, each section after an empty line."""
        if not self.story:
            return []
        lines = [f"  {_deed_text(deed, voice)}" for deed in self.story]
        return ["", voice.headings["story"], *lines]

    def to_text(self, voice: Voice) -> str:
        """The report for people: what happened, what was checked, what failed, what no audit
        can prove."""
        heading = voice.headings
        lines = [self.title.text(voice), *self.told(voice)]
        lines += ["", heading["checks"]]
        lines += _grouped(self.passed, voice)
        for title, checks in (("unopened", self.not_opened), ("failures", self.failed)):
            if checks:
                lines += ["", heading[title]]
                lines += [f"  {c.id} [{printable(c.subject)}] {c.words(voice)}" for c in checks]
        lines += ["", heading["not_proved"]]
        lines += [f"  - {voice.phrases[key]}" for key in self.not_proved]
        verdict = heading["bad" if self.failed else "good"].format(
            passed=len(self.passed), failed=len(self.failed), not_opened=len(self.not_opened)
        )
        return "\n".join([*lines, "", verdict]) + "\n"


def _check_value(check: Check, voice: Voice) -> dict[str, object]:
    return {
        "id": check.id,
        "passed": check.passed,
        "subject": check.subject,
        "words": check.words(voice),
    }


def _deed_text(deed: Deed, voice: Voice) -> str:
    return f"{encode_time(deed.time)} {deed.said.text(voice)}"


def _grouped(checks: Sequence[Check], voice: Voice) -> list[str]:
    """Passed checks of one kind together, with what there is to add about each."""
    kinds: dict[str, list[Check]] = {}
    for check in checks:
        kinds.setdefault(check.id, []).append(check)
    lines = []
    for kind, members in kinds.items():
        lines.append(f"  {voice.headings['ok']} {kind} ×{len(members)}: {voice.claims[kind]}")
        lines += [f"      [{printable(c.subject)}] {c.note.text(voice)}" for c in members if c.note]
    return lines
