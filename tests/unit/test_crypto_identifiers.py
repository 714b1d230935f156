"""Identifiers: each kind its own, ordered by time, never by chance equal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from crypto.errors import Malformed
from crypto.identifiers import (
    AgreementId,
    DealId,
    Identifier,
    JobId,
    NegotiationId,
    PartyId,
    ProductId,
    StatementId,
)
from crypto.ports import SystemRandomness

KINDS = [PartyId, ProductId, NegotiationId, AgreementId, DealId, JobId, StatementId]
NOW = datetime(2026, 11, 23, 5, 48, 21, 123000, tzinfo=UTC)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_identifier_is_a_uuid_of_version_seven_that_reads_back(
    kind: type[Identifier],
) -> None:
    made = kind.new(NOW, SystemRandomness())
    assert type(kind.parse(made)) is kind
    uuid = UUID(made.removeprefix(f"{kind.prefix}_"))
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert uuid.int >> 80 == int(NOW.timestamp() * 1000)


def test_every_kind_has_a_prefix_of_its_own() -> None:
    assert len({kind.prefix for kind in KINDS}) == len(KINDS)


def test_identifiers_sort_by_time() -> None:
    made = [JobId.new(NOW + timedelta(milliseconds=n), SystemRandomness()) for n in range(50)]
    assert made == sorted(made)


def test_two_identifiers_of_one_moment_differ() -> None:
    made = {JobId.new(NOW, SystemRandomness()) for _ in range(1000)}
    assert len(made) == 1000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 32,
        "xxx_" + "0" * 32,
        "{}_" + "0" * 31,
        "{}_" + "0" * 33,
        "{}_" + "A" * 32,
        "{}_" + "0" * 31 + "\n",
        "{}_" + "0" * 32 + "\n",
        " {}_" + "0" * 32,
        "{}-" + "0" * 32,
        "{}__" + "0" * 32,
        "{}_" + "０" * 32,
        "{}_00000000-0000-7000-8000-000000000000",
    ],
)
def test_any_other_text_is_refused(kind: type[Identifier], text: str) -> None:
    with pytest.raises(Malformed, match=f"field: is not an identifier of the form {kind.prefix}_"):
        kind.parse(text.format(kind.prefix), where="field")


def test_an_identifier_of_one_kind_is_refused_as_another() -> None:
    job = JobId.new(NOW, SystemRandomness())
    for kind in set(KINDS) - {JobId}:
        with pytest.raises(Malformed):
            kind.parse(job)
