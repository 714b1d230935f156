"""The statements for this package's own acts: one typed constructor per act.

Types are `negotiation.<event>` and `job.<event>`. What a statement may say is public: digests of
salted documents, commitments, and the few facts below. Amounts, terms, columns and inputs are in
the documents, which only the parties, the hub and the named regulator hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from crypto.digest import Digest
from crypto.identifiers import DealId, JobId, NegotiationId
from crypto.keys import PublicKey
from crypto.statement import Act
from exchange.query.plan import Plan, Query
from exchange.terms.negotiation import Event
from registry.rule import Join

MAX_REASON: Final = 300


def negotiated(
    event: Event,
    negotiation: NegotiationId,
    deal: DealId,
    *,
    after: Sequence[Digest] = (),
    proposal: Digest,
    document: Digest | None = None,
    reason: str = "",
) -> Act:
    """proposal: the terms on the table. document: the proposal or agreement this act brings."""
    body = {"deal": str(deal)}
    if reason:
        body["reason"] = reason[:MAX_REASON]
    return Act(
        type=f"negotiation.{event.value}",
        subject=negotiation,
        after=tuple(after),
        policy_digest=proposal,
        outputs=(document,) if document else (),
        body=body,
    )


def submitted(
    job: JobId,
    deal: DealId,
    *,
    plan: Digest,
    agreements: Sequence[Digest],
    ephemeral: PublicKey | None = None,
    link: str = "",
) -> Act:
    """ephemeral, link: as in an admission, where the consumer takes part in the run itself."""
    body = {"deal": str(deal)}
    if ephemeral is not None:
        body |= {"ephemeral": str(ephemeral), "link": link}
    return Act(
        type="job.submitted",
        subject=job,
        inputs=tuple(agreements),
        outputs=(plan,),
        body=body,
    )


def rejected(job: JobId, *, plan: Digest, after: Digest, constraint: str, problem: str) -> Act:
    """The operator's early answer: nothing was reserved."""
    return _declined("job.rejected", job, plan, (after,), constraint, problem)


def admitted(
    job: JobId,
    *,
    plan: Digest,
    agreement: Digest | None,
    after: Sequence[Digest],
    ephemeral: PublicKey,
    link: str,
) -> Act:
    """agreement: under which a holder admits; a helper has none.
    ephemeral: this attempt's X25519 key, from which peers derive their pairwise keys.
    link: where peers reach this party's links, `host:port`; empty if it only dials out."""
    return Act(
        type="job.admitted",
        subject=job,
        after=tuple(after),
        policy_digest=agreement,
        inputs=(plan,),
        body={"ephemeral": str(ephemeral), "link": link},
    )


def refused(
    job: JobId, *, plan: Digest, after: Sequence[Digest], constraint: str, problem: str
) -> Act:
    return _declined("job.refused", job, plan, after, constraint, problem)


def started(job: JobId, *, plan: Digest, admissions: Sequence[Digest]) -> Act:
    """Messages may leave from here on: whatever was reserved is spent."""
    return Act(type="job.started", subject=job, after=tuple(admissions), inputs=(plan,))


def sealed(
    job: JobId,
    *,
    plan: Digest,
    after: Sequence[Digest],
    result: Digest,
    openings: Digest | None,
    commitments: Mapping[str, Digest],
    bytes_out: Mapping[str, int],
    gate: str,
    software: str,
    lock: Digest,
    peers: Mapping[str, str],
) -> Act:
    """The receipt. result: digest of this party's sealed part; commitments: `snapshot`, `budget`,
    `egress`; a helper's `egress` alone.

    bytes_out: sizes that follow from the plan, per receiving party. peers: per party, the
    fingerprint its link was pinned to.
    """
    body = {
        "gate": gate,
        "lock": str(lock),
        "software": software,
        **{f"bytes_out.{party}": str(count) for party, count in bytes_out.items()},
        **{f"peer.{party}": fingerprint for party, fingerprint in peers.items()},
    }
    return Act(
        type="job.sealed",
        subject=job,
        after=tuple(after),
        inputs=(plan,),
        outputs=(result,) if openings is None else (result, openings),
        commitments=commitments,
        body=body,
    )


def gate_words(plan: Plan) -> str:
    """What a receipt says of the gate its party applied; an audit expects exactly this."""
    if not isinstance(plan.work, Query):
        return "none"
    words = [f"min_group={plan.work.gate.min_group}"]
    if plan.work.gate.dominance is not None:
        words.append(f"dominance={plan.work.gate.dominance}")
    if plan.work.gate.round_counts is not None:
        words.append(f"round_counts={plan.work.gate.round_counts}")
    if plan.work.noise is not None:
        words.append(f"noise={plan.work.noise.distribution.value}")
    where = "at the holder" if plan.join is Join.ALONE else "under sharing"
    return ", ".join([*words, f"applied {where}"])


def failed(job: JobId, *, plan: Digest, after: Sequence[Digest], reason: str) -> Act:
    return _declined("job.failed", job, plan, after, "run", reason)


def cancelled(job: JobId, *, plan: Digest, after: Sequence[Digest]) -> Act:
    return Act(type="job.cancelled", subject=job, after=tuple(after), inputs=(plan,))


def expired(job: JobId, *, plan: Digest, after: Sequence[Digest], reason: str) -> Act:
    """The operator's: somebody did not answer, or did not finish, in time."""
    return _declined("job.expired", job, plan, after, "deadline", reason)


def released(job: JobId, *, plan: Digest, receipts: Sequence[Digest]) -> Act:
    """The operator's: every receipt is under a signed head; the receiver may fetch the result."""
    return Act(type="job.released", subject=job, after=tuple(receipts), inputs=(plan,))


def opened(job: JobId, *, plan: Digest, after: Sequence[Digest], results: Sequence[Digest]) -> Act:
    """The receiver's: it opened every sealed part."""
    return Act(type="job.opened", subject=job, after=tuple(after), inputs=(plan, *results))


def alarmed(subject: str, *, kind: str, words: str) -> Act:
    """A participant saw evidence that should not be, or missed evidence that should."""
    return Act(
        type="alarm.raised", subject=subject, body={"kind": kind, "words": words[:MAX_REASON]}
    )


def _declined(
    kind: str, job: JobId, plan: Digest, after: Sequence[Digest], constraint: str, problem: str
) -> Act:
    return Act(
        type=kind,
        subject=job,
        after=tuple(after),
        inputs=(plan,),
        # Both are bounded: a constraint may hold a column's name as a stranger's plan spells it.
        body={"constraint": constraint[:MAX_REASON], "problem": problem[:MAX_REASON]},
    )
