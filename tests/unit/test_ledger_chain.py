"""Chains of statements: every way to bend one is found, named and placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from crypto.errors import UnknownKey
from crypto.identifiers import PartyId
from crypto.keys import PublicKey, SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, SignedStatement, sign_statement
from ledger.verify.chain import Finding, Problem, Times, WitnessedHead, check_chains

CLINIC, LAB = (PartyId(f"pty_{digit * 32}") for digit in "12")
KEYS = {CLINIC: SigningKey.generate(), LAB: SigningKey.generate()}
START = datetime(2026, 3, 4, 9, tzinfo=UTC)
TOLERANCE = timedelta(minutes=5)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def chain(
    actor: PartyId,
    count: int,
    *,
    head: ChainHead | None = None,
    key: SigningKey | None = None,
    minutes: Sequence[float] | None = None,
    subject: str = "job_1",
) -> list[SignedStatement]:
    """`count` statements of one actor, one a minute."""
    made: list[SignedStatement] = []
    current = head or ChainHead()
    for number in range(count):
        signed = sign_statement(
            Act("job.admitted", subject),
            actor=actor,
            head=current,
            signer=key or KEYS[actor],
            now=at(minutes[number] if minutes else number),
            randomness=SystemRandomness(),
        )
        current = signed.head
        made.append(signed)
    return made


def resolve(actor: PartyId, time: datetime, key_id: str) -> PublicKey:
    key = KEYS[actor].public
    if key.key_id != key_id:
        raise UnknownKey(key_id)
    return key


def check(
    *statements: SignedStatement | bytes,
    heads: Sequence[WitnessedHead] = (),
    before: Mapping[PartyId, ChainHead] | None = None,
) -> tuple[Finding, ...]:
    entries = [s if isinstance(s, bytes) else s.entry for s in statements]
    return check_chains(
        enumerate(entries), resolve=resolve, heads=heads, tolerance=TOLERANCE, before=before or {}
    )


def found(findings: Sequence[Finding]) -> list[tuple[int, PartyId | None, Problem]]:
    return [(f.index, f.actor, f.problem) for f in findings]


def test_whole_chains_have_nothing_wrong_however_they_interleave() -> None:
    a, b = chain(CLINIC, 3), chain(LAB, 2)
    assert check(a[0], b[0], a[1], a[2], b[1]) == ()


def test_a_statement_that_was_left_out_is_a_gap() -> None:
    a = chain(CLINIC, 4)
    findings = check(a[0], a[2], a[3])
    assert found(findings) == [(1, CLINIC, Problem.GAP)]
    assert findings[0].explanation == "before statement 2, statement 1 is missing"
    (wide,) = check(a[0], a[3])
    assert "statement 1 to 2 is missing" in wide.explanation


def test_a_first_statement_that_was_left_out_is_a_gap() -> None:
    assert found(check(*chain(CLINIC, 2)[1:])) == [(0, CLINIC, Problem.GAP)]


def test_a_range_begins_where_the_chain_stood_before_it() -> None:
    a = chain(CLINIC, 4)
    assert check(a[2], a[3], before={CLINIC: a[1].head}) == ()
    assert found(check(a[3], before={CLINIC: a[1].head})) == [(0, CLINIC, Problem.GAP)]
    assert found(check(a[1], before={CLINIC: a[1].head})) == [(0, CLINIC, Problem.REORDERED)]
    other = chain(CLINIC, 2)
    assert found(check(a[2], before={CLINIC: other[1].head})) == [(0, CLINIC, Problem.BROKEN_LINK)]


def test_a_statement_put_in_twice_is_a_duplicate() -> None:
    a = chain(CLINIC, 2)
    findings = check(a[0], a[1], a[0])
    assert found(findings) == [(2, CLINIC, Problem.DUPLICATE)]
    assert "already at index 0" in findings[0].explanation


def test_two_statements_with_one_number_are_a_fork() -> None:
    """A node restored from a backup signs its next number a second time."""
    a = chain(CLINIC, 3)
    again = chain(CLINIC, 1, head=a[1].head, subject="job_2")
    assert found(check(*a, *again)) == [(3, CLINIC, Problem.FORKED)]


def test_statements_that_changed_places_are_reordered_and_nothing_is_missing() -> None:
    a = chain(CLINIC, 4)
    findings = check(a[0], a[2], a[1], a[3])
    assert found(findings) == [(1, CLINIC, Problem.REORDERED)]
    assert "logged before statement 1" in findings[0].explanation


def test_a_statement_that_names_another_before_it_is_a_broken_link() -> None:
    a, other = chain(CLINIC, 2), chain(CLINIC, 1, subject="job_2")
    assert found(check(other[0], a[1])) == [(1, CLINIC, Problem.BROKEN_LINK)]


def test_a_forged_statement_is_named_and_takes_nobodys_place() -> None:
    a = chain(CLINIC, 3)
    entry = bytearray(a[1].entry)
    place = entry.index(b'"sig":"') + len(b'"sig":"')
    entry[place] = ord("A") if entry[place] != ord("A") else ord("B")
    assert found(check(a[0], bytes(entry), a[1], a[2])) == [(1, CLINIC, Problem.FORGED)]
    assert found(check(a[0], bytes(entry), a[2])) == [
        (1, CLINIC, Problem.FORGED),
        (2, CLINIC, Problem.GAP),
    ]


def test_a_statement_under_a_key_the_actor_never_had_is_named() -> None:
    mallory = chain(CLINIC, 1, key=SigningKey.generate())
    findings = check(*mallory)
    assert found(findings) == [(0, CLINIC, Problem.UNKNOWN_KEY)]
    assert str(CLINIC) in findings[0].explanation


def test_one_actors_key_does_not_speak_for_another() -> None:
    assert found(check(*chain(CLINIC, 1, key=KEYS[LAB]))) == [(0, CLINIC, Problem.UNKNOWN_KEY)]


def test_an_entry_that_is_no_statement_is_named() -> None:
    a = chain(CLINIC, 1)
    assert found(check(a[0], b"{}", a[0].entry + b" ")) == [
        (1, None, Problem.UNREADABLE),
        (2, None, Problem.UNREADABLE),
    ]


def head(size: int, minute: int) -> WitnessedHead:
    return WitnessedHead(size, Times(at(minute), at(minute)))


HEADS = [head(1, 10), head(2, 20), head(3, 30)]


@pytest.mark.parametrize("minute", [5, 5.1, 15, 24.9, 25])
def test_a_time_between_the_neighbouring_heads_give_or_take_the_tolerance_is_believed(
    minute: float,
) -> None:
    a = chain(CLINIC, 3, minutes=[0, minute, 25])
    assert check(*a, heads=HEADS[::-1]) == ()


@pytest.mark.parametrize(
    ("minute", "problem", "clue"),
    [
        (4.9, Problem.BACK_DATED, "not in the log yet at 2026-03-04 09:10:00"),
        (25.1, Problem.POST_DATED, "in the log already at 2026-03-04 09:20:00"),
    ],
)
def test_a_time_outside_the_neighbouring_heads_is_not_believed(
    minute: float, problem: Problem, clue: str
) -> None:
    a = chain(CLINIC, 3, minutes=[0, minute, 25])
    findings = check(*a, heads=HEADS)
    assert found(findings) == [(1, CLINIC, problem)]
    assert clue in findings[0].explanation


def test_a_head_that_skips_entries_bounds_them_all() -> None:
    heads = [head(1, 10), head(3, 30)]
    assert check(*chain(CLINIC, 3, minutes=[0, 33, 20]), heads=heads) == ()
    assert found(check(*chain(CLINIC, 3, minutes=[0, 20, 4]), heads=heads)) == [
        (2, CLINIC, Problem.BACK_DATED)
    ]


def test_after_the_last_head_only_the_past_is_closed() -> None:
    a = chain(CLINIC, 2, minutes=[0, 5_000])
    assert check(*a, heads=HEADS[:1]) == ()
    b = chain(CLINIC, 2, minutes=[0, 1])
    assert found(check(*b, heads=HEADS[:1])) == [(1, CLINIC, Problem.BACK_DATED)]


def test_several_faults_are_all_reported_in_the_order_of_the_log() -> None:
    a, b = chain(CLINIC, 3), chain(LAB, 3)
    findings = check(b[1], a[0], b"{}", a[2], a[0])
    assert found(findings) == [
        (0, LAB, Problem.GAP),
        (2, None, Problem.UNREADABLE),
        (3, CLINIC, Problem.GAP),
        (4, CLINIC, Problem.DUPLICATE),
    ]
