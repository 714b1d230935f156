"""How the demonstration talks: rich text on stderr with --json, else on stdout."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from api.demo.words import WORDS
from exchange.audit.voices import VOICES
from exchange.query.explanation import Language
from ledger.verify.report import Report


class Teller:
    def __init__(self, language: str, *, quiet_stdout: bool) -> None:
        self.language = language
        self._words = WORDS[language]
        self._console = Console(stderr=quiet_stdout, highlight=False)

    def words(self, key: str, **facts: object) -> str:
        return self._words[key].format(**facts)

    def stage(self, key: str, number: int) -> None:
        self._console.print()
        self._console.print(f"[bold]{number}. {self.words(key)}[/bold]")

    def say(self, key: str, **facts: object) -> None:
        self._console.print("   " + self.words(key, **facts), markup=False, soft_wrap=True)

    def progress(self, stage: str, party: str) -> None:
        self._console.print(f"   · {stage:<10} {party}", style="dim", markup=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(show_lines=len(rows) < 7, pad_edge=False)
        for column in columns:
            table.add_column(self.words(column))
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def report(self, report: Report) -> None:
        self.line(report.to_text(VOICES[Language(self.language)]))

    def ledger_report(self, report: Report, *, whole: bool) -> None:
        """An audit of log or chain. whole: every check, not only how many and what failed."""
        voice = VOICES[Language(self.language)]
        if whole:
            self.line(report.to_text(voice))
            return
        self.line("   " + report.title.text(voice))
        self.say(
            "proved",
            passed=len(report.passed),
            failed=len(report.failed),
            closed=len(report.not_opened),
        )
        for check in report.failed:
            self.line(f"   {check.subject}: {check.words(voice)}")

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
