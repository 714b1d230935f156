"""Laws of the codec: what is written reads back, and only one writing reads as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from crypto import record
from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, NegotiationId
from crypto.keys import PublicKey
from crypto.record import Amount, Rational


@dataclass(frozen=True)
class Leaf:
    kind: ClassVar[str] = "leaf"
    raw: bytes
    moment: datetime


@dataclass(frozen=True)
class Branch:
    kind: ClassVar[str] = "branch"
    amount: Amount
    share: Fraction
    marks: Mapping[str, Digest]


@dataclass(frozen=True)
class Tree:
    name: str
    number: int
    flag: bool
    key: PublicKey
    job: JobId
    parts: tuple[Leaf | Branch, ...]
    note: str | None


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DIGESTS = st.binary(min_size=32, max_size=32).map(Digest)
MOMENTS = st.datetimes(
    # hypothesis wants bounds without a zone
    datetime(record.FIRST_YEAR, 1, 1),  # noqa: DTZ001
    datetime(record.LAST_YEAR, 12, 31, 23, 59, 59, 999_000),  # noqa: DTZ001
    timezones=st.just(UTC),
).map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))
LEAVES = st.builds(Leaf, st.binary(), MOMENTS)
BRANCHES = st.builds(
    Branch,
    st.integers(-(10**37), 10**37).map(Amount),
    st.fractions(0, 1000, max_denominator=10**6),
    st.dictionaries(st.text(st.characters(max_codepoint=127)), DIGESTS, max_size=3),
)
TREES = st.builds(
    Tree,
    TEXT,
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.booleans(),
    st.builds(
        PublicKey, st.sampled_from(["ed25519", "x25519"]), st.binary(min_size=32, max_size=32)
    ),
    st.binary(min_size=16, max_size=16).map(lambda raw: JobId("job_" + raw.hex())),
    st.lists(LEAVES | BRANCHES, max_size=4).map(tuple),
    st.none() | TEXT,
)


@given(TREES)
def test_a_record_reads_back_from_its_bytes(tree: Tree) -> None:
    assert record.from_bytes(Tree, record.to_bytes(tree)) == tree


@given(TREES, st.data())
def test_bytes_that_read_as_a_record_are_the_bytes_it_writes(
    tree: Tree, data: st.DataObject
) -> None:
    """Else one document would have two digests, and a signature could be moved to the other."""
    changed = bytearray(record.to_bytes(tree))
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position] = data.draw(st.sampled_from(sorted({*b'0123456789abcxyz=_-+/" {}[],:Z'})))
    try:
        read = record.from_bytes(Tree, bytes(changed))
    except Malformed:
        return
    assert record.to_bytes(read) == bytes(changed)


SCALARS = [Amount, Fraction, Rational, bytes, datetime, Digest, PublicKey, JobId]


@given(st.sampled_from(SCALARS), TEXT | st.from_regex(r"[0-9０-９/:+TZ.=_-]{0,30}", fullmatch=True))
def test_text_that_reads_as_a_scalar_is_the_text_it_writes(kind: type, text: str) -> None:
    try:
        read = record.from_value(kind, text)
    except Malformed:
        return
    assert record.to_value(read) == text


@given(st.integers(0, 2**128 - 1))
def test_an_identifier_of_one_kind_is_never_read_as_another(number: int) -> None:
    job = f"job_{number:032x}"
    assert record.from_value(JobId, job) == job
    try:
        record.from_value(NegotiationId, job)
    except Malformed:
        return
    raise AssertionError("a job's identifier was read as a negotiation's")
