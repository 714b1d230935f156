"""What a holder can truthfully have counted when it signed a receipt, by its own numbering.

Put together once: a deal may have thousands of receipts, and each is held against all before it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from operator import add

from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
from exchange.audit.evidence import Evidence
from exchange.audit.jobs import Jobs
from exchange.audit.log import Said
from exchange.audit.plans import listed_version, product_id
from exchange.privacy import NOTHING, PrivacyAccount, PrivacyCost, account_of, cost_of
from registry.evidence import LISTED

_Product = tuple[PartyId, ProductId]
_Agreement = tuple[PartyId, Digest | None]


class Counts:
    """Of all holders of a deal, from their signed statements."""

    def __init__(self, evidence: Evidence, found: Jobs) -> None:
        admitted: dict[_Agreement, dict[str, int]] = defaultdict(dict)
        started: dict[PartyId, dict[str, int]] = defaultdict(dict)
        self._accounts: dict[_Product, list[tuple[int, PrivacyAccount]]] = defaultdict(list)
        for said in evidence.said:
            one = said.statement
            if one.type == "job.admitted":
                _first(admitted[one.actor, one.policy_digest], one.subject, one.actor_seq)
            elif one.type == "job.started":
                _first(started[one.actor], one.subject, one.actor_seq)
            elif one.type == LISTED:
                number = ProductId(one.subject)
                if (listed := listed_version(said, number, evidence)) is not None:
                    account = one.actor_seq, account_of(listed, NOTHING)
                    self._accounts[one.actor, number].append(account)
        self._admitted = {key: sorted(jobs.values()) for key, jobs in admitted.items()}
        self._begun = {
            (actor, policy): sorted(
                max(place, started[actor][job])
                for job, place in jobs.items()
                if job in started[actor]
            )
            for (actor, policy), jobs in admitted.items()
        }
        self._costs = _costs(evidence, found)

    def runs(self, agreement: Digest, receipt: Said) -> tuple[int, int]:
        """How many runs under an agreement: at least the jobs that it had started by then, at most
        those that it had admitted."""
        key, before = (receipt.statement.actor, agreement), receipt.statement.actor_seq
        least, most = self._begun.get(key, ()), self._admitted.get(key, ())
        return bisect_left(least, before), bisect_left(most, before)

    def started(self, product: ProductId, receipt: Said) -> PrivacyCost:
        """What it must have counted on a product: the jobs of this deal that it had started by
        then, for those are never given back."""
        key, before = (receipt.statement.actor, product), receipt.statement.actor_seq
        places, totals = self._costs.get(key, ((), ()))
        count = bisect_left(places, before)
        return totals[count - 1] if count else NOTHING

    def accounts(
        self, product: ProductId, receipt: Said, spent: PrivacyCost
    ) -> Iterator[PrivacyAccount]:
        """A product's account, as a receipt opens it, under every version that its holder had
        listed by then, the newest first: it may have lowered the totals since it admitted what is
        counted."""
        listed = self._accounts.get((receipt.statement.actor, product), ())
        for place, account in reversed(listed):
            if place < receipt.statement.actor_seq:
                yield replace(account, spent=spent)


def _first(places: dict[str, int], job: str, place: int) -> None:
    places[job] = min(place, places.get(job, place))


def _costs(evidence: Evidence, found: Jobs) -> dict[_Product, tuple[list[int], list[PrivacyCost]]]:
    """Of each product, where its holder started jobs, and what these cost together up to there."""
    single: dict[_Product, list[tuple[int, PrivacyCost]]] = defaultdict(list)
    for job in found.held:
        cost = cost_of(job.plan)
        for side in job.plan.sides if cost != NOTHING else ():
            start, number = job.started.get(side.holder), product_id(side, evidence)
            if start is not None and number is not None:
                single[side.holder, number].append((start.statement.actor_seq, cost))
    together = {}
    for key, costs in single.items():
        costs.sort(key=lambda one: one[0])
        places = [place for place, _ in costs]
        together[key] = places, list(accumulate((cost for _, cost in costs), add))
    return together
