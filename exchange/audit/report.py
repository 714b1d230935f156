"""What an audit found: typed results, and the same in words for people.

A check is `passed`, failed, or neither: *not opened* where it needs a key that the auditor did not
bring, or where nothing in the bundle could show it. All words are in `exchange.audit.words`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from crypto.record import encode_time
from exchange.audit.words import CLAIMS, HEADINGS, NOT_PROVED, PHRASES
from exchange.query.explanation import Language


@dataclass(frozen=True)
class Phrase:
    """A sentence of `words.PHRASES` with its facts. Facts are the same in every language, but for
    those that are sentences themselves."""

    key: str
    facts: Mapping[str, str | Phrase]

    def text(self, language: Language) -> str:
        said = {
            name: fact.text(language) if isinstance(fact, Phrase) else fact
            for name, fact in self.facts.items()
        }
        return PHRASES[self.key][language].format(**said)


def phrase(key: str, **facts: object) -> Phrase:
    """Facts may be the words of strangers: what could steer a terminal is shown as a mark."""
    return Phrase(
        key,
        {
            name: fact
            if isinstance(fact, Phrase)
            else "".join(c if c.isprintable() else "\ufffd" for c in str(fact))
            for name, fact in facts.items()
        },
    )


@dataclass(frozen=True)
class Check:
    """id: which promise, a key of `words.CLAIMS`. subject: what it is about. note: why it failed,
    why nothing can be said, or what else there is to say."""

    id: str
    passed: bool | None
    subject: str
    note: Phrase | None = None

    def words(self, language: Language) -> str:
        claim = CLAIMS[self.id][language]
        if self.note is None:
            return claim
        between = "：" if language is Language.CHINESE else ": "
        return claim.rstrip(".。") + between + self.note.text(language)


@dataclass(frozen=True)
class Deed:
    """One sentence of the story: who did what when. index: of its entry in the log."""

    index: int
    time: datetime
    said: Phrase


@dataclass(frozen=True)
class Report:
    """checks: in the order in which they were made. story: in the order of the log."""

    deal: str
    checks: Sequence[Check]
    story: Sequence[Deed]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def not_opened(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is None)

    @property
    def passed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed)

    def to_value(self, language: Language = Language.ENGLISH) -> dict[str, object]:
        """The report as JSON has it."""
        return {
            "deal": self.deal,
            "passed": len(self.passed),
            "failed": len(self.failed),
            "not_opened": len(self.not_opened),
            "checks": [_check_value(check, language) for check in self.checks],
            "not_proved": [words[language] for words in NOT_PROVED],
            "story": [_deed_text(deed, language) for deed in self.story],
        }

    def told(self, language: Language) -> list[str]:
        """What comes before the checks, each section after an empty line."""
        lines = [f"  {_deed_text(deed, language)}" for deed in self.story]
        return ["", HEADINGS["story"][language], *lines]

    def to_text(self, language: Language = Language.ENGLISH) -> str:
        """The report for people: what happened, what was checked, what failed, what no audit
        can prove."""
        heading = {name: words[language] for name, words in HEADINGS.items()}
        lines = [heading["title"].format(deal=self.deal), *self.told(language)]
        lines += ["", heading["checks"]]
        lines += _grouped(self.passed, heading["ok"], language)
        for title, checks in (("unopened", self.not_opened), ("failures", self.failed)):
            if checks:
                lines += ["", heading[title]]
                lines += [f"  {c.id} [{c.subject}] {c.words(language)}" for c in checks]
        lines += ["", heading["not_proved"]]
        lines += [f"  - {words[language]}" for words in NOT_PROVED]
        verdict = heading["bad" if self.failed else "good"].format(
            passed=len(self.passed), failed=len(self.failed), not_opened=len(self.not_opened)
        )
        return "\n".join([*lines, "", verdict]) + "\n"


def _check_value(check: Check, language: Language) -> dict[str, object]:
    return {
        "id": check.id,
        "passed": check.passed,
        "subject": check.subject,
        "words": check.words(language),
    }


def _deed_text(deed: Deed, language: Language) -> str:
    return f"{encode_time(deed.time)} {deed.said.text(language)}"


def _grouped(checks: Sequence[Check], ok: str, language: Language) -> list[str]:
    """Passed checks of one kind together, with what there is to add about each."""
    kinds: dict[str, list[Check]] = {}
    for check in checks:
        kinds.setdefault(check.id, []).append(check)
    lines = []
    for kind, members in kinds.items():
        lines.append(f"  {ok} {kind} ×{len(members)}: {CLAIMS[kind][language]}")
        lines += [f"      [{c.subject}] {c.note.text(language)}" for c in members if c.note]
    return lines
