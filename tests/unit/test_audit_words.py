"""The audit's words: both languages say the same, and nothing is said that nobody says."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from exchange.audit.voices import VOICES
from exchange.audit.words import CLAIMS, HEADINGS, NOT_PROVED, PHRASES, Words
from exchange.query.explanation import Language
from ledger.verify.report import Check, Deed, Report, phrase

ENGLISH = VOICES[Language.ENGLISH]
SOURCES = Path(__file__).parents[2] / "exchange" / "audit"


def facts(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("table", [CLAIMS, PHRASES, HEADINGS])
def test_every_sentence_has_both_languages_with_the_same_facts(table: Mapping[str, Words]) -> None:
    for key, words in table.items():
        assert set(words) == set(Language), key
        english, chinese = words[Language.ENGLISH], words[Language.CHINESE]
        assert facts(english) == facts(chinese), key
        assert english and chinese
    for voice in VOICES.values():
        assert set(NOT_PROVED) <= set(voice.phrases)


def test_every_phrase_and_claim_is_said_somewhere() -> None:
    said = "".join(p.read_text() for p in SOURCES.glob("*.py") if p.name != "words.py")
    quoted = set(re.findall(r'"([a-z_]+(?:\.[a-z_]+)*)"', said))
    unsaid = {key for key in [*CLAIMS, *PHRASES] if key not in {*quoted, *NOT_PROVED}}
    assert {key for key in unsaid if not key.startswith("did.")} == set()


def test_whatever_was_done_is_told_with_what_the_story_knows_of_every_statement() -> None:
    for key, words in PHRASES.items():
        if key.startswith("did."):
            assert facts(words[Language.ENGLISH]) <= {"actor", "subject", "kind", "problem"}, key


def test_words_of_strangers_cannot_steer_a_terminal() -> None:
    said = phrase("alarm.words", kind="x\x1b[2Jy", words="a\nb\u202ec")
    assert said.text(ENGLISH) == "x\ufffd[2Jy: a\ufffdb\ufffdc"
    checks = [Check(name, False, "x]\n\x1b[2J", said) for name in ("alarm", "entry.signed")]
    title = phrase("title.deal", deal="dea_1")
    text = Report(title, {}, checks, NOT_PROVED, []).to_text(ENGLISH)
    assert "\x1b" not in text
    assert "[x]\n" not in text
    assert "[x]\ufffd\ufffd[2J]" in text


def test_a_report_counts_and_lists_in_order() -> None:
    checks = [
        Check("alarm", None, "entry 3", phrase("alarm.words", kind="K", words="W")),
        Check("entry.signed", False, "entry 2", phrase("reason", reason="forged")),
        Check("entry.signed", True, "entry 1"),
    ]
    deeds = [Deed(1, datetime(2026, 3, 4, tzinfo=UTC), phrase("head.no_proof"))]
    title = phrase("title.deal", deal="dea_1")
    report = Report(title, {"deal": "dea_1"}, checks, NOT_PROVED, deeds)
    value = report.to_value(ENGLISH)
    assert (value["passed"], value["failed"], value["not_opened"]) == (1, 1, 1)
    assert value["checks"] == [
        {
            "id": check.id,
            "passed": check.passed,
            "subject": check.subject,
            "words": check.words(ENGLISH),
        }
        for check in checks
    ]
    assert value["story"] == ["2026-03-04T00:00:00.000Z the proof is not in the bundle"]
    text = report.to_text(ENGLISH)
    assert "1 checks FAILED: 1 passed, 1 not opened." in text
    assert text.index("entry 3") < text.index("entry 2")
    for language, voice in VOICES.items():
        for key in NOT_PROVED:
            assert voice.phrases[key] in report.to_text(voice), language
