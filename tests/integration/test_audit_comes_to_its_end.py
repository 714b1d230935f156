"""No audit is ended by what somebody said: not by a statement about what it cannot be about; and a
program that fails at some evidence says just that and, where it follows a log, goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.cli import audit as commands
from api.cli import main as command_line
from crypto.digest import digest
from crypto.identifiers import DealId
from exchange.audit import __main__ as program
from exchange.audit import watched
from exchange.audit.alerts import Kind
from exchange.audit.deal import audit_deal
from exchange.audit.errors import BundleRefused, CannotJudge, judging
from exchange.audit.follow import Follower
from exchange.audit.openings import Opener
from exchange.audit.public import PublicReplay
from exchange.audit.voices import VOICES
from exchange.query.explanation import Language
from ledger.verify.log import Entry
from ledger.verify.report import Report
from tests.forgery import Forger, failing
from tests.integration.test_audit_deal import export, roots_of
from tests.integration.test_audit_follow import HubBundles, HubDocuments, HubSource
from tests.world import Deal, World, a_deal, a_world

ENGLISH = VOICES[Language.ENGLISH]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Deal:
    world = a_world(tmp_path_factory.mktemp("ends"))
    deal = a_deal(world)
    deal.approve_standing()
    deal.submit()
    world.settle()
    return deal


@pytest.fixture
def forger(done: Deal) -> Forger:
    return Forger.of(done.world, export(done.world, done))


# Steps of nothing


def says(forger: Forger, like: str, **changes: object) -> None:
    """Whoever said `like` last says something else at the end."""
    last = forger.drafts[-1]
    said = [draft for draft in forger.drafts if draft.statement.type == like][-1]
    statement = replace(said.statement, **changes)  # type: ignore[arg-type]
    added = replace(said, statement=statement, was=digest(like.encode()), opening=None)
    forger.drafts.append(replace(added, seen=last.seen + timedelta(seconds=1)))


def told(report: Report) -> str:
    for voice in VOICES.values():
        report.to_text(voice)
        report.to_value(voice)
    return report.to_text(ENGLISH)


@pytest.mark.parametrize(
    ("like", "kind", "of"),
    [
        ("job.started", "negotiation.terminated", "job_"),
        ("job.submitted", "negotiation.verified", "job_"),
        ("job.started", "job.failed", "neg_"),
        ("job.submitted", "job.submitted", "neg_"),
        ("job.started", "job.refused", "no subject"),
        ("job.sealed", "negotiation.agreed", "no subject"),
    ],
)
def test_a_step_about_what_it_cannot_be_about_is_a_step_of_nothing(
    done: Deal, forger: Forger, like: str, kind: str, of: str
) -> None:
    honest = forger.audit(roots_of(done.world))
    subjects = {draft.statement.subject for draft in forger.drafts}
    subject = next((one for one in sorted(subjects) if one.startswith(of)), of)
    says(forger, like, type=kind, subject=subject, time=forger.drafts[-1].statement.time)
    report = forger.audit(roots_of(done.world))
    assert failing(report) == set()
    assert told(report).count("is not an identifier of the form") == 1
    passed = {(check.id, check.subject) for check in report.passed}
    assert {(c.id, c.subject) for c in honest.passed if "_" in c.subject} <= passed


def test_an_operators_act_about_no_job_at_all_fails(done: Deal, forger: Forger) -> None:
    says(forger, "job.released", subject="no subject")
    assert "job.replayed" in failing(forger.audit(roots_of(done.world)))


def test_a_statement_of_a_type_that_nobody_knows_is_told_as_what_it_is(
    done: Deal, forger: Forger
) -> None:
    says(forger, "job.released", type="no_effect", subject="x")
    assert "no_effect x" in told(forger.audit(roots_of(done.world)))


# Evidence at which the program fails


def breaks(*_: object, **__: object) -> Any:
    raise OverflowError("date value out of range")


def test_what_fails_and_where_is_named() -> None:
    where = f"OverflowError in {__name__}, line [0-9]+"
    with pytest.raises(CannotJudge, match=where) as found, judging("dea_1"):
        breaks()
    assert isinstance(found.value.__cause__, OverflowError)
    with pytest.raises(BundleRefused), judging("dea_1"):
        raise BundleRefused("manifest.json", "is none")  # which says itself what to do


@pytest.fixture
def asked(done: Deal, tmp_path: Path) -> list[str]:
    """How a deal's audit is asked for."""
    world = done.world
    (tmp_path / "deal.zip").write_bytes(export(world, done))
    lines = (f"fingerprint {one}\n" for one in sorted(roots_of(world).fingerprints))
    (tmp_path / "roots").write_text("".join(lines))
    (tmp_path / "policy").write_text(
        f"log {world.policy.logs[0].key}\nwitness w {world.witness.key}\nquorum w\n"
    )
    bundle, policy, roots = (str(tmp_path / name) for name in ("deal.zip", "policy", "roots"))
    return ["deal", bundle, "--policy", policy, "--roots", roots]


def require_told(capsys: pytest.CaptureFixture[str]) -> None:
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "cannot be judged" in printed.err
    assert "OverflowError" in printed.err


@pytest.mark.parametrize("where", ["audit_deal", "answer"])
def test_the_program_ends_in_a_sentence_and_not_with_success(
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    assert program.main(asked) == 0
    monkeypatch.setattr(program, where, breaks)
    capsys.readouterr()
    assert program.main(asked) == 2
    require_told(capsys)


@pytest.mark.parametrize("where", ["audit_deal", "_print"])
def test_so_does_the_command_line(
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    monkeypatch.setattr(commands, where, breaks)
    monkeypatch.setattr("sys.argv", ["exchange", "audit", *asked])
    with pytest.raises(SystemExit) as ended:
        command_line()
    assert ended.value.code == 1
    require_told(capsys)


@dataclass
class Following:
    world: World

    def follower(self, earlier: Follower | None = None) -> Follower:
        regulator = self.world.members["regulator"]
        return Follower(
            HubSource(self.world),
            self.world.policy,
            roots_of(self.world),
            HubDocuments(self.world),
            deals=HubBundles(self.world),
            opener=Opener(regulator.id, regulator.folder.sealing),
            state=None if earlier is None else earlier.state,
        )

    def alerts(self, follower: Follower) -> list[tuple[Kind, str, str]]:
        found = follower.look(self.world.clock.now())
        return [(alert.kind, alert.subject, alert.words[Language.ENGLISH]) for alert in found]


def test_a_deal_that_cannot_be_judged_is_told_of_once_and_keeps_no_other_from_being_judged(
    done: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done.copied_to(tmp_path / "world")
    second = a_deal(first.world)
    following, judged = Following(first.world), list[DealId]()

    def judge(data: bytes, *more: Any) -> Report:
        report = audit_deal(data, *more)
        if report.answers.deal == first.deal:
            breaks()
        judged.append(report.answers.deal)
        return report

    monkeypatch.setattr(watched, "audit_deal", judge)
    follower = following.follower()
    ((kind, subject, words),) = following.alerts(follower)
    assert (kind, subject) == (Kind.FORGED, first.deal)
    assert "OverflowError" in words
    assert judged == [second.deal]
    assert following.alerts(follower) == []
    again = following.follower(follower)
    assert following.alerts(again) == []
    assert judged == [second.deal] * 2


def test_a_log_at_whose_entry_the_program_fails_is_told_of_and_its_heads_are_followed(
    done: Deal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal = done.copied_to(tmp_path / "world")
    following = Following(deal.world)
    heard = PublicReplay.heard

    def hear(self: PublicReplay, entry: Entry, *more: Any) -> None:
        if entry.type == "job.sealed":
            raise KeyError(entry.subject)
        heard(self, entry, *more)

    monkeypatch.setattr(PublicReplay, "heard", hear)
    follower = following.follower()
    ((kind, subject, words),) = following.alerts(follower)
    assert (kind, subject) == (Kind.FORGED, "entries from 0")
    assert "KeyError" in words
    note = follower.state.note if follower.state is not None else ""
    deal.submit()
    deal.world.settle()
    assert following.alerts(follower) == []
    assert follower.state is not None
    assert follower.state.note != note
