"""A log's server that leaves past heads out hides no violation, and a policy that asks for no
witness makes nothing witnessed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from crypto.statement import Statement
from exchange.audit.follow import Follower
from exchange.audit.whole import audit_whole_log
from ledger.verify.heads import page_bytes, parse_page
from ledger.verify.policy import Policy
from ledger.verify.report import Report
from ledger.verify.tiles import FolderSource
from tests.integration.test_audit_log import (
    Change,
    Exchange,
    dated,
    exchange,
    first,
    forged,
    log,
    moved,
    without,
)
from tests.written_logs import WrittenLog

__all__ = ["exchange", "log"]


def unchanged(statements: list[Statement]) -> Sequence[Statement]:
    return statements


def keep(log: WrittenLog, count: int) -> None:
    """Serve the first so many past heads alone."""
    pages = sorted((log.folder / "heads").iterdir(), key=lambda page: int(page.name))
    notes = [note for page in pages for note in parse_page(page.read_bytes())]
    for page in pages:
        page.unlink()
    (log.folder / "heads/0").write_bytes(page_bytes(notes[:count]))


def audited(exchange: Exchange, log: WrittenLog, policy: Policy) -> Report:
    return audit_whole_log(str(log.folder), policy, exchange.roots, exchange.documents)


VIOLATIONS = [
    (without("negotiation.verified"), "funds.held", "job.public"),
    (without("job.sealed"), "job.released", "job.public"),
    (without("job.released"), "funds.released", "job.public"),
    (moved("funds.released", before="job.released"), "funds.released", "job.public"),
    (dated("funds.released", timedelta(days=3650)), "funds.released", "entry.time"),
]


@pytest.mark.parametrize(("change", "kind", "check"), VIOLATIONS)
def test_heads_that_are_left_out_excuse_no_violation(
    exchange: Exchange, log: WrittenLog, change: Change, kind: str, check: str
) -> None:
    forged(exchange, log, change)
    keep(log, 1)
    report = audited(exchange, log, log.policy)
    found = [(c.id, c.subject.rpartition(" ")[2]) for c in report.failed]
    assert (check, kind) in found


def test_a_follower_is_alerted_although_heads_are_left_out(
    exchange: Exchange, log: WrittenLog
) -> None:
    forged(exchange, log, dated("funds.released", timedelta(days=3650)))
    keep(log, 20)
    follower = Follower(FolderSource(log.folder), log.policy, exchange.roots, exchange.documents)
    alerts = follower.look(exchange.world.clock.now())
    follower.close()
    assert any(a.kind == "time" and "funds.released" in a.subject for a in alerts)


def test_what_the_checkpoint_alone_holds_is_bound_by_the_time_of_its_own_quorum(
    exchange: Exchange, log: WrittenLog
) -> None:
    forged(exchange, log, dated("job.opened", timedelta(days=3650)))
    keep(log, 5)
    report = audited(exchange, log, log.policy)
    assert ("job.opened", "entry.time") in [
        (c.subject.rpartition(" ")[2], c.id) for c in report.failed
    ]


def test_times_that_no_witness_bounds_are_not_opened_also_of_the_first_entry(
    exchange: Exchange, log: WrittenLog
) -> None:
    forged(exchange, log, unchanged)
    keep(log, 0)
    checkpoint = (log.folder / "checkpoint").read_bytes()
    alone = b"\n".join(checkpoint.splitlines()[:5]) + b"\n"  # signed by the log, cosigned by nobody
    (log.folder / "checkpoint").write_bytes(alone)
    report = audited(exchange, log, log.policy)
    assert "entry.time" not in [c.id for c in report.passed]
    assert any(c.id == "entry.time" and c.subject.startswith("entry 0 ") for c in report.not_opened)


def test_a_log_whose_policy_asks_for_no_witness_is_audited_by_what_it_signed(
    exchange: Exchange, log: WrittenLog
) -> None:
    forged(exchange, log, unchanged)
    policy = Policy.parse(f"{log.policy_text.splitlines()[0]}\nquorum none\n".encode())
    report = audited(exchange, log, policy)
    assert report.failed == ()
    assert "entry.time" not in [c.id for c in report.passed]  # nobody stated a time
    assert first(forged(exchange, log, without("job.sealed"))) == ("job.released", "job.public")
    keep(log, 1)
    assert "job.public" in [c.id for c in audited(exchange, log, policy).failed]
