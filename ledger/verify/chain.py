"""Chains of statements: what an actor left out, put in twice, moved or dated wrongly.

A log shows that entries were not changed or removed after it was witnessed. It does not show
that an actor's statements are all there, in the order in which they were made: that is what
`actor_seq` and `actor_prev` are for. A statement's time is its actor's word; the witnessed heads
on both sides of its entry bound it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import accumulate
from typing import NamedTuple

from crypto.digest import Digest
from crypto.errors import CryptoError, Malformed, UnknownKey
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from crypto.statement import ChainHead, SignedStatement, Statement, read_statement, verify_statement

KeyResolver = Callable[[PartyId, datetime, str], PublicKey]
"""The signing key of an actor at a time under a key id; raises UnknownKey if it had none such."""


class Problem(StrEnum):
    UNREADABLE = "unreadable"  # the entry is not a statement
    UNKNOWN_KEY = "unknown key"  # no party document gives the actor this key at that time
    FORGED = "forged"  # the signature does not verify
    DUPLICATE = "duplicate"  # the same statement again
    FORKED = "forked"  # another statement under a number that is taken
    GAP = "gap"  # numbers before this one are missing
    REORDERED = "reordered"  # logged before the statement that precedes it
    BROKEN_LINK = "broken link"  # actor_prev is not the statement before
    BACK_DATED = "back-dated"  # earlier than a head that did not hold it yet
    POST_DATED = "post-dated"  # later than a head that held it already


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. actor: absent when the entry could not be read."""

    index: int
    actor: PartyId | None
    problem: Problem
    explanation: str


class Times(NamedTuple):
    """Between which a quorum saw a head: somebody honest not before the first, and somebody honest
    not after the last, as long as every quorum has an honest member. Aware, in UTC."""

    first: datetime
    last: datetime


@dataclass(frozen=True)
class WitnessedHead:
    """A head that witnesses cosigned."""

    size: int
    times: Times


@dataclass(frozen=True)
class _Link:
    index: int
    statement: Statement
    digest: Digest


def check_chains(
    entries: Iterable[tuple[int, bytes]],
    *,
    resolve: KeyResolver,
    heads: Sequence[WitnessedHead],
    tolerance: timedelta,
    before: Mapping[PartyId, ChainHead],
) -> tuple[Finding, ...]:
    """Everything that is wrong with the statements in a range of the log, by index.

    entries:   (index, entry bytes) of the range, whole. Where only some entries are at hand, as
               in the bundle of one deal, a GAP means "not shown" and not "left out".
    heads:     witnessed heads, in any order; a statement's time must lie between its neighbours,
               give or take `tolerance`, which allows for clocks that differ.
    before:    where each actor's chain stood when the range begins; an actor that is absent
               begins its chain in the range.
    """
    findings: list[Finding] = []
    chains: dict[PartyId, dict[int, _Link]] = {}
    timeline = _Timeline(heads)
    for index, entry in sorted(entries):
        signed = _read(index, entry, findings)
        if signed is None or not _verified(index, signed, resolve, findings):
            continue  # a forgery must not take the place of a genuine statement
        link = _Link(index, signed.statement, signed.digest)
        findings.extend(timeline.check(link, tolerance))
        chain = chains.setdefault(link.statement.actor, {})
        earlier = chain.setdefault(link.statement.actor_seq, link)
        if earlier is not link:
            findings.append(_taken(earlier, link))
    for actor, chain in chains.items():
        findings.extend(_walk(chain, before.get(actor, ChainHead())))
    return tuple(sorted(findings, key=lambda finding: finding.index))


def _read(index: int, entry: bytes, findings: list[Finding]) -> SignedStatement | None:
    try:
        return read_statement(entry)
    except Malformed as error:
        text = f"the entry is not a statement: {error}"
        findings.append(Finding(index, None, Problem.UNREADABLE, text))
        return None


def _verified(
    index: int, signed: SignedStatement, resolve: KeyResolver, findings: list[Finding]
) -> bool:
    statement = signed.statement
    ((key_id, _),) = signed.envelope.signatures
    try:
        verify_statement(signed, resolve(statement.actor, statement.time, key_id))
    except UnknownKey:
        text = f"no party document gives {statement.actor} the key {key_id} at {statement.time}"
        findings.append(Finding(index, statement.actor, Problem.UNKNOWN_KEY, text))
        return False
    except CryptoError as error:
        findings.append(Finding(index, statement.actor, Problem.FORGED, str(error)))
        return False
    return True


def _taken(earlier: _Link, link: _Link) -> Finding:
    actor, seq = link.statement.actor, link.statement.actor_seq
    if earlier.digest == link.digest:
        text = f"statement {seq} is already at index {earlier.index}"
        return Finding(link.index, actor, Problem.DUPLICATE, text)
    text = f"signed two different statements with the number {seq}; see index {earlier.index}"
    return Finding(link.index, actor, Problem.FORKED, text)


def _walk(chain: Mapping[int, _Link], start: ChainHead) -> Iterable[Finding]:
    expected, previous_digest = start.next_seq, start.last
    previous: _Link | None = None
    for seq, link in sorted(chain.items()):
        actor = link.statement.actor
        if seq < start.next_seq:
            text = f"statement {seq} comes after the chain had reached {start.next_seq}"
            yield Finding(link.index, actor, Problem.REORDERED, text)
            continue
        if seq > expected:
            missing = f"{expected}" if seq == expected + 1 else f"{expected} to {seq - 1}"
            text = f"before statement {seq}, statement {missing} is missing"
            yield Finding(link.index, actor, Problem.GAP, text)
        elif link.statement.actor_prev != previous_digest:
            text = f"statement {seq} names {link.statement.actor_prev} as the one before it"
            text += f", which is {previous_digest}"
            yield Finding(link.index, actor, Problem.BROKEN_LINK, text)
        if previous is not None and link.index < previous.index:
            text = f"statement {seq} was logged before statement {previous.statement.actor_seq}"
            yield Finding(link.index, actor, Problem.REORDERED, text)
        expected, previous_digest, previous = seq + 1, link.digest, link


class _Timeline:
    """For each index, when it was not yet in the log, and when it was."""

    def __init__(self, heads: Sequence[WitnessedHead]) -> None:
        ordered = sorted(heads, key=lambda head: head.size)
        self._sizes = [head.size for head in ordered]
        # When at the latest any head up to this one was not there yet, and when at the earliest
        # any head from this one on was there.
        self._latest = list(accumulate((head.times.first for head in ordered), max))
        self._earliest = list(accumulate((head.times.last for head in reversed(ordered)), min))
        self._earliest.reverse()

    def check(self, link: _Link, tolerance: timedelta) -> Iterable[Finding]:
        time, actor = link.statement.time, link.statement.actor
        place = bisect_right(self._sizes, link.index)
        if place > 0 and time < self._latest[place - 1] - tolerance:
            text = f"says {time}, and was not in the log yet at {self._latest[place - 1]}"
            yield Finding(link.index, actor, Problem.BACK_DATED, text)
        if place < len(self._sizes) and time > self._earliest[place] + tolerance:
            text = f"says {time}, and was in the log already at {self._earliest[place]}"
            yield Finding(link.index, actor, Problem.POST_DATED, text)
