"""Which entries of the ledger do not wait for the next anchor, as the exchange says it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from crypto.statement import Act
from exchange.hub.background import ANCHORED_AT_ONCE, anchored_at_once
from tests.written_logs import Actor

NOW = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.mark.parametrize("kind", ANCHORED_AT_ONCE)
def test_registration_and_settlement_do_not_wait(kind: str) -> None:
    assert anchored_at_once(Actor("a").says(Act(kind, "x"), NOW))


@pytest.mark.parametrize(
    "act",
    [
        Act("job.sealed", "x"),
        Act("funds.held", "x"),  # money is set aside, and nobody is paid yet
        Act("party", "x"),
        Act("job.sealed", "x", body={"type": "funds.released"}),  # another's word in its body
        Act("job.sealed", '"type":"funds.released"'),
    ],
)
def test_everything_else_does(act: Act) -> None:
    assert not anchored_at_once(Actor("a").says(act, NOW))


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b'{"payload":"A"',
        b'{"payload":"' + base64.b64encode(b'"type":"funds.released"') + b'"}',
    ],
)
def test_what_is_no_statement_waits(entry: bytes) -> None:
    assert not anchored_at_once(entry)
