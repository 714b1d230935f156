"""Signed statements: an actor's acts in order, each naming the one before."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crypto import envelope as dsse
from crypto import record
from crypto.digest import digest
from crypto.envelope import Envelope
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import (
    MAX_ENTRY_BYTES,
    PAYLOAD_TYPE,
    Act,
    ChainHead,
    SignedStatement,
    Statement,
    read_statement,
    sign_statement,
    verify_statement,
)

KEY = SigningKey.generate()
ACTOR = PartyId("pty_" + "a" * 32)
NOW = datetime(2026, 11, 23, 5, 48, 21, 123456, tzinfo=UTC)


def signed(act: Act | None = None, head: ChainHead | None = None) -> SignedStatement:
    return sign_statement(
        act or Act("job.admitted", "job_" + "1" * 32),
        actor=ACTOR,
        head=head or ChainHead(),
        signer=KEY,
        now=NOW,
        randomness=SystemRandomness(),
    )


def entry_of(statement: Statement, *, kind: str = PAYLOAD_TYPE) -> bytes:
    return dsse.sign(kind, record.to_bytes(statement), KEY).to_bytes()


def test_a_statement_reads_back_from_its_entry_as_it_was_signed() -> None:
    made = signed()
    assert read_statement(made.entry) == made
    verify_statement(made, KEY.public)
    assert made.statement.time.microsecond == 123000, "to the millisecond, as it was logged"


def test_each_statement_names_the_one_before() -> None:
    first = signed()
    second = signed(head=first.head)
    assert (first.statement.actor_seq, first.statement.actor_prev) == (0, None)
    assert (second.statement.actor_seq, second.statement.actor_prev) == (1, digest(first.entry))
    assert second.head == ChainHead(2, digest(second.entry))


def test_an_act_goes_into_its_statement_whole() -> None:
    other = digest(b"x")
    act = Act(
        type="job.completed",
        subject="job_" + "1" * 32,
        after=(other,),
        policy_digest=other,
        inputs=(other,),
        outputs=(other, digest(b"y")),
        commitments={"answer": other},
        body={"outcome": "released"},
        on_behalf=PartyId("pty_" + "b" * 32),
    )
    statement = signed(act).statement
    assert {name: getattr(statement, name) for name in vars(act)} == vars(act)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"v": 2}, "v: is 2; this version reads 1"),
        ({"actor_seq": -1}, "actor_seq: is negative"),
        ({"actor_prev": digest(b"x")}, "actor_prev: must be absent on the actor's first"),
        ({"actor_seq": 1}, "actor_prev: must be absent on the actor's first"),
    ],
)
def test_a_statement_out_of_its_chain_cannot_be_made(
    change: dict[str, object], problem: str
) -> None:
    with pytest.raises(Malformed) as refused:
        replace(signed().statement, **change)  # type: ignore[arg-type]
    assert str(refused.value).startswith(problem)


def test_a_statement_out_of_its_chain_cannot_be_read_even_when_signed() -> None:
    value = dict(record.to_value(signed().statement))  # type: ignore[arg-type]
    value["actor_seq"] = 3
    entry = dsse.sign(PAYLOAD_TYPE, record.canonical.encode(value), KEY).to_bytes()
    with pytest.raises(Malformed, match="actor_prev"):
        read_statement(entry)


def test_a_member_nobody_knows_is_refused_even_when_signed() -> None:
    value = dict(record.to_value(signed().statement))  # type: ignore[arg-type]
    value["price"] = "1"
    entry = dsse.sign(PAYLOAD_TYPE, record.canonical.encode(value), KEY).to_bytes()
    with pytest.raises(Malformed, match="price: is not a field"):
        read_statement(entry)


def test_a_statement_signed_by_another_key_is_refused() -> None:
    with pytest.raises(UnknownKey):
        verify_statement(signed(), SigningKey.generate().public)


def test_an_altered_statement_under_the_old_signature_is_refused() -> None:
    made = signed()
    altered = replace(made.statement, subject="job_" + "2" * 32)
    envelope = replace(Envelope.from_bytes(made.entry), payload=record.to_bytes(altered))
    with pytest.raises(BadSignature):
        verify_statement(read_statement(envelope.to_bytes()), KEY.public)


def test_a_signed_document_of_another_kind_is_no_statement() -> None:
    entry = entry_of(signed().statement, kind="application/vnd.unseen.plan.v1+json")
    with pytest.raises(Malformed, match="payloadType: is not"):
        read_statement(entry)


def test_a_second_signature_does_not_make_a_second_entry() -> None:
    """One act, one entry: who adds a signature would otherwise change its digest."""
    both = Envelope.from_bytes(signed().entry).with_signature(SigningKey.generate())
    with pytest.raises(Malformed, match="exactly one signature"):
        read_statement(both.to_bytes())


def test_an_entry_too_large_for_the_log_is_refused_when_signed_and_when_read() -> None:
    act = Act("job.admitted", "job", body={"note": "x" * MAX_ENTRY_BYTES})
    with pytest.raises(Malformed, match=f"an entry may have {MAX_ENTRY_BYTES}"):
        signed(act)
    with pytest.raises(Malformed, match=f"an entry may have {MAX_ENTRY_BYTES}"):
        read_statement(b"x" * (MAX_ENTRY_BYTES + 1))


def test_the_largest_entry_is_still_taken() -> None:
    empty = len(signed(Act("job.admitted", "job", body={"note": ""})).entry)
    room = (MAX_ENTRY_BYTES - empty) // 4 * 3 - 3
    made = signed(Act("job.admitted", "job", body={"note": "x" * room}))
    assert MAX_ENTRY_BYTES - 8 <= len(made.entry) <= MAX_ENTRY_BYTES
    assert read_statement(made.entry) == made
