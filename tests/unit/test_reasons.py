"""Why something was declined: words for the parties, a digest that says nothing for everybody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crypto import record
from crypto.digest import SALT_BYTES, digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, Statement, sign_statement
from exchange import evidence
from exchange.evidence import Reason, reason_document, reason_in, reason_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RANDOM = SystemRandomness()
JOB, OTHER = (JobId.new(NOW, RANDOM) for _ in range(2))
PLAN = digest(b"plan")


def said(act: Act) -> Statement:
    return sign_statement(
        act,
        actor=PartyId("pty_" + "1" * 32),
        head=ChainHead(),
        signer=SigningKey.generate(),
        now=NOW,
        randomness=RANDOM,
    ).statement


def a_reason(subject: str = JOB) -> bytes:
    return reason_document(subject, "epsilon", "1/10 is left; the job asks for 1/4", RANDOM)


def test_a_refusal_a_rejection_and_a_failure_say_why_in_a_document_and_nothing_in_public() -> None:
    reason = a_reason()
    for act in (
        evidence.refused(JOB, plan=PLAN, after=[], reason=reason),
        evidence.rejected(JOB, plan=PLAN, after=PLAN, reason=reason),
        evidence.failed(JOB, plan=PLAN, after=[], reason=reason),
    ):
        statement = said(act)
        assert statement.body == {}
        assert statement.outputs == (digest(reason),)
        found = reason_in(statement, {digest(reason): reason})
        assert found is not None
        assert (found.constraint, found.problem[:4]) == ("epsilon", "1/10")
        assert reason_of(statement, {}) == statement.type  # the document was kept back


def test_the_same_words_never_have_the_same_digest() -> None:
    assert digest(a_reason()) != digest(a_reason())


def test_another_jobs_reason_is_not_taken_for_this_ones() -> None:
    """Else whoever names its digest in a refusal would find it in the deal's bundle."""
    foreign = a_reason(OTHER)
    statement = said(evidence.refused(JOB, plan=PLAN, after=[], reason=foreign))
    assert reason_in(statement, {digest(foreign): foreign}) is None
    assert reason_of(statement, {digest(foreign): foreign}) == "job.refused"


@pytest.mark.parametrize("data", [b"", b"{}", b"no document", record.to_bytes(PLAN)])
def test_what_is_no_reason_keeps_nothing_from_ending(data: bytes) -> None:
    statement = said(evidence.refused(JOB, plan=PLAN, after=[], reason=data))
    assert reason_of(statement, {digest(data): data}) == "job.refused"


@pytest.mark.parametrize(
    "change", [{"v": 2}, {"salt": b"short"}, {"problem": "x" * 301}, {"constraint": "x" * 301}]
)
def test_a_reason_of_another_form_is_refused(change: dict[str, object]) -> None:
    reason = Reason(1, JOB, "epsilon", "none is left", bytes(SALT_BYTES))
    with pytest.raises(Malformed):
        replace(reason, **change)  # type: ignore[arg-type]
