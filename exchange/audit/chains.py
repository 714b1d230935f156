"""Order and time: what each actor's numbering, its references and the witnesses' clocks show.

`ledger.verify.chain` finds what is wrong with a range of the whole log. A bundle shows only one
deal's entries of it, so numbers that are missing are named and held against nobody.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Final

from crypto.digest import Digest
from crypto.errors import UnknownKey
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from exchange.audit.log import Head, Said
from exchange.audit.parties import Parties
from ledger.verify.chain import Finding, KeyResolver, Problem, WitnessedHead, check_chains
from ledger.verify.log import LATE_AFTER, TOLERANCE
from ledger.verify.report import Check, Phrase, phrase
from registry.evidence import REGISTERED, UPDATED

# However late they arrive, they count: the identity key vouches for them.
KEY_CHANGES: Final = (REGISTERED, UPDATED)

# Problems that are the actor's own: gaps are not, where not every statement is shown.
_BROKEN: Final = frozenset(
    {
        Problem.DUPLICATE,
        Problem.FORKED,
        Problem.REORDERED,
        Problem.BROKEN_LINK,
        Problem.FORGED,
        Problem.UNKNOWN_KEY,
    }
)


@dataclass(frozen=True)
class Arrivals:
    """late: participants' statements that certainly came too late to have an effect, with the
    reason. perhaps: those that may have, as far as the witnessed heads around them tell."""

    late: Mapping[Digest, str]
    perhaps: frozenset[Digest]


def witnessed_heads(heads: Sequence[Head]) -> list[WitnessedHead]:
    """The accepted heads of which a quorum stated the time, by size."""
    found = [WitnessedHead(h.checkpoint.size, h.times) for h in heads if h.accepted and h.times]
    return sorted(found, key=lambda head: head.size)


def arrivals(said: Sequence[Said], heads: Sequence[Head]) -> Arrivals:
    """When statements can have reached the hub: after the head that does not hold them yet, by
    the witnesses' clocks, and before the head that does."""
    witnessed = witnessed_heads(heads)
    sizes = [head.size for head in witnessed]
    latest = list(accumulate((head.times.first for head in witnessed), max))
    earliest = list(accumulate((head.times.last for head in reversed(witnessed)), min))[::-1]
    late: dict[Digest, str] = {}
    perhaps: set[Digest] = set()
    for s in said:
        if s.statement.type in KEY_CHANGES:
            continue
        place = bisect_right(sizes, s.index)  # heads before it do not hold the entry yet
        before = latest[place - 1] if place > 0 else None
        after = earliest[place] if place < len(sizes) else None
        if before is not None and s.statement.time < before - TOLERANCE:
            late[s.signed.digest] = f"too late: says {s.statement.time}, arrived after {before}"
        elif after is None or s.statement.time < after - LATE_AFTER:
            perhaps.add(s.signed.digest)
    return Arrivals(late, frozenset(perhaps))


def check_order_and_time(
    said: Sequence[Said],
    heads: Sequence[Head],
    parties: Parties,
    operators: Collection[PartyId],
    disputed: Collection[str],
) -> list[Check]:
    """That no statement was put in twice, moved, or dated to where the witnesses saw otherwise.

    said: genuine ones only. Numbers and links are their actors' own word, times are bounded by
    the witnesses' clocks. A participant's statement that is older than its entry came late or was
    back-dated: it has no effect, and fails where the operator relied on it all the same, by name
    or, where its subject is `disputed`, because what it did does not fit without it. That anybody
    else names it says nothing: it is there to be named.
    """
    witnessed = witnessed_heads(heads)
    findings = check_chains(
        [(s.index, s.signed.entry) for s in said],
        resolve=_resolver(parties),
        heads=witnessed,
        tolerance=TOLERANCE,
        before={},
    )
    timed = {f.index: f for f in findings if f.problem in (Problem.BACK_DATED, Problem.POST_DATED)}
    relied_on = {name for s in said if s.statement.actor in operators for name in s.statement.after}
    checks = []
    for s in said:
        excusable = (
            s.signed.digest not in relied_on
            and s.statement.actor not in operators
            and s.statement.subject not in disputed
        )
        checks.append(_time_check(s, timed.get(s.index), witnessed, excusable=excusable))
    actors: dict[PartyId, list[Said]] = {}
    for s in said:
        actors.setdefault(s.statement.actor, []).append(s)
    for actor, statements in actors.items():
        wrong = [f for f in findings if f.actor == actor and f.problem in _BROKEN]
        checks.append(_chain_check(parties.name(actor), statements, wrong))
    return checks


def check_references(said: Sequence[Said], taking_part: Collection[PartyId]) -> list[Check]:
    """That whatever a statement relied on is in the bundle and came before it.

    A statement's actor signs what it relied on, so leaving one out of a bundle shows here unless
    everything that relied on it is left out as well.
    """
    places: dict[Digest, int] = {s.signed.digest: s.index for s in said}
    checks = []
    for s in said:
        problem = _reference_problem(s, places)
        passed: bool | None = problem is None
        if problem is not None and s.statement.actor not in taking_part:
            # Anybody may speak of a job; what a stranger makes up says nothing of the deal.
            passed, problem = None, phrase("after.stranger")
        checks.append(Check("entry.after", passed, s.subject, problem))
    return checks


def _resolver(parties: Parties) -> KeyResolver:
    """Any key the actor ever had: which one was in force has been checked before."""
    keys = {
        (party.document.party, party.document.signing.key_id): party.document.signing
        for party in parties.documents.values()
    }

    def resolve(actor: PartyId, time: datetime, key_id: str) -> PublicKey:
        try:
            return keys[actor, key_id]
        except KeyError:
            raise UnknownKey(key_id) from None

    return resolve


def _time_check(
    said: Said, finding: Finding | None, witnessed: Sequence[WitnessedHead], *, excusable: bool
) -> Check:
    if not witnessed:
        return Check("entry.time", None, said.subject, phrase("time.no_witness"))
    if finding is not None:
        back = finding.problem is Problem.BACK_DATED
        if back and excusable:
            return Check("entry.time", None, said.subject, phrase("time.late"))
        key = "time.back_dated" if back else "time.post_dated"
        note = phrase(key, reason=finding.explanation)
        return Check("entry.time", False, said.subject, note)
    bounded = said.index == 0 or witnessed[0].size <= said.index
    if not bounded:
        # A hub that leaves out the heads before an entry must not gain by it.
        return Check("entry.time", None, said.subject, phrase("time.open"))
    return Check("entry.time", True, said.subject)


def _chain_check(actor: str, statements: Sequence[Said], wrong: Sequence[Finding]) -> Check:
    if wrong:
        first = wrong[0]
        note = phrase(
            "chain.broken",
            index=first.index,
            problem=first.problem.value,
            reason=first.explanation,
        )
        return Check("actor.chain", False, actor, note)
    numbers = [s.statement.actor_seq for s in statements]
    missing = max(numbers) + 1 - len(numbers)
    gaps = phrase("chain.gaps", count=missing) if missing else None
    return Check("actor.chain", True, actor, gaps)


def _reference_problem(said: Said, places: Mapping[Digest, int]) -> Phrase | None:
    for name in said.statement.after:
        place = places.get(name)
        if place is None:
            return phrase("after.outside", digest=name)
        if place >= said.index:
            return phrase("after.later", index=place)
    return None
