"""The statements for this package's own acts: one typed constructor per act.

Types are `negotiation.<event>` and `job.<event>`, and the constants below. What a statement may
say is public: digests of salted documents, commitments, and the few facts below. Amounts, terms,
columns and inputs are in the documents, which only the parties, the hub and the named regulator
hold; so is why a plan or terms were declined, for such words quote terms, columns and budgets, and
why a run failed or a result could not be read, which may be for what rows hold.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crypto import record
from crypto.digest import SALT_BYTES, Digest, digest
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import DealId, JobId, NegotiationId, PartyId, ProductId
from crypto.keys import PublicKey
from crypto.ports import Randomness
from crypto.statement import Act, Statement
from exchange.query.plan import Plan, Query
from exchange.terms.negotiation import Event
from registry.rule import Join

MAX_REASON: Final = 300
ALARM: Final = "alarm.raised"
REGULATORS_NAMED: Final = "regulators.named"
BUNDLE_EXPORTED: Final = "bundle.exported"
STANDING_APPROVED: Final = "standing.approved"
STANDING_WITHDRAWN: Final = "standing.withdrawn"
STANDING: Final = "approval"  # the commitment's name
HELPING_BEGUN: Final = "helping.begun"
HELPING_ENDED: Final = "helping.ended"


class Overdue(StrEnum):
    """Why the operator lets a job expire: all that it can see, and the same words for every job."""

    NOT_BEGUN = "not every holder admitted and began the job in time"
    NOT_FINISHED = "the run was not finished in time"


@dataclass(frozen=True)
class Reason:
    """Why something was declined or failed: a document beside its statement, for parties and
    auditors.

    subject: the job or negotiation, or a party could get hold of another deal's reason by naming
    its digest in a statement of its own. constraint: what failed, as a program reads it. problem:
    as a person does. salt: makes the digest in the public log say nothing, for there are few
    constraints to guess from.
    """

    v: int
    subject: str
    constraint: str
    problem: str
    salt: bytes

    def __post_init__(self) -> None:
        if self.v != 1:
            raise Malformed("v", f"is {self.v}; this version reads 1")
        if max(len(self.constraint), len(self.problem)) > MAX_REASON:
            raise Malformed("problem", f"is longer than {MAX_REASON} characters")
        if len(self.salt) != SALT_BYTES:
            raise Malformed("salt", f"has {len(self.salt)} bytes, not {SALT_BYTES}")


def reason_document(subject: str, constraint: str, problem: str, randomness: Randomness) -> bytes:
    # Both are bounded: a constraint may hold a column's name as a stranger's plan spells it.
    constraint, problem = constraint[:MAX_REASON], problem[:MAX_REASON]
    return record.to_bytes(Reason(1, subject, constraint, problem, randomness.draw(SALT_BYTES)))


def reason_in(statement: Statement, documents: Mapping[Digest, bytes]) -> Reason | None:
    """The reason that came with a statement, if it is there and about the same subject."""
    for name in statement.outputs:
        try:
            found = record.from_bytes(Reason, documents[name])
        except (KeyError, CryptoError):
            continue
        if found.subject == statement.subject:
            return found
    return None


def reason_of(statement: Statement, documents: Mapping[Digest, bytes]) -> str:
    """Why a statement ends what it is about, as far as the reader was told: a reason that is
    missing or unreadable keeps nothing from ending."""
    found = reason_in(statement, documents)
    return statement.body.get("problem", statement.type) if found is None else found.problem


def negotiated(
    event: Event,
    negotiation: NegotiationId,
    deal: DealId,
    *,
    after: Sequence[Digest] = (),
    proposal: Digest,
    document: Digest | None = None,
) -> Act:
    """proposal: the terms on the table. document: what this act brings: the proposal, the
    agreement, or the reason of a termination."""
    return Act(
        type=f"negotiation.{event.value}",
        subject=negotiation,
        after=tuple(after),
        policy_digest=proposal,
        outputs=(document,) if document else (),
        body={"deal": str(deal)},
    )


def submitted(
    job: JobId,
    deal: DealId,
    *,
    plan: Digest,
    relies_on: Sequence[Digest],
    ephemeral: PublicKey | None = None,
    link: str = "",
) -> Act:
    """relies_on: `Plan.relies_on`. ephemeral, link: as in an admission, where the consumer takes
    part in the run itself."""
    body = {"deal": str(deal)}
    if ephemeral is not None:
        body |= {"ephemeral": str(ephemeral), "link": link}
    return Act(
        type="job.submitted",
        subject=job,
        inputs=tuple(relies_on),
        outputs=(plan,),
        body=body,
    )


def rejected(job: JobId, *, plan: Digest, after: Digest, reason: bytes) -> Act:
    """The operator's early answer: nothing was reserved. reason: a `reason_document`."""
    return _declined("job.rejected", job, plan, (after,), reason)


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


def refused(job: JobId, *, plan: Digest, after: Sequence[Digest], reason: bytes) -> Act:
    """reason: a `reason_document`."""
    return _declined("job.refused", job, plan, after, reason)


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
    """What a receipt says of the gate its party applied; an audit expects exactly this.

    Which gate, with which least group, limits and noise, is in the plan that the receipt names:
    those are terms, and the log is public.
    """
    if not isinstance(plan.work, Query):
        return "none"
    return "applied at the holder" if plan.join is Join.ALONE else "applied under sharing"


def failed(job: JobId, *, plan: Digest, after: Sequence[Digest], reason: bytes) -> Act:
    """reason: a `reason_document` that says which kind of failure, in words that are the same for
    every job. Even so they may tell of rows, as that a history gate refused does."""
    return _declined("job.failed", job, plan, after, reason)


def cancelled(job: JobId, *, plan: Digest, after: Sequence[Digest]) -> Act:
    return Act(type="job.cancelled", subject=job, after=tuple(after), inputs=(plan,))


def expired(job: JobId, *, plan: Digest, after: Sequence[Digest], overdue: Overdue) -> Act:
    """The operator's: somebody did not answer, or did not finish, in time."""
    return Act(
        type="job.expired",
        subject=job,
        after=tuple(after),
        inputs=(plan,),
        body={"problem": overdue.value},
    )


def released(job: JobId, *, plan: Digest, receipts: Sequence[Digest]) -> Act:
    """The operator's: every receipt is under a signed head; the receiver may fetch the result."""
    return Act(type="job.released", subject=job, after=tuple(receipts), inputs=(plan,))


def opened(job: JobId, *, plan: Digest, after: Sequence[Digest], results: Sequence[Digest]) -> Act:
    """The receiver's: it opened every sealed part."""
    return Act(type="job.opened", subject=job, after=tuple(after), inputs=(plan, *results))


def alarmed(subject: str, *, kind: str, words: str) -> Act:
    """A participant saw evidence that should not be, or missed evidence that should.

    words: of digests, sizes of the log and times, for everybody to look up: nothing of a deal.
    """
    return Act(type=ALARM, subject=subject, body={"kind": kind, "words": words[:MAX_REASON]})


def result_refused(job: JobId, *, plan: Digest, after: Sequence[Digest], reason: bytes) -> Act:
    """The receiver's alarm: what was released to it cannot be opened or read.

    after: the receipts that named the parts. reason: a `reason_document`, for what is wrong with a
    result may tell of the result.
    """
    return Act(
        type=ALARM,
        subject=job,
        after=tuple(after),
        inputs=(plan,),
        outputs=(digest(reason),),
        body={"kind": "ResultRefused"},
    )


def standing_approved(product: ProductId, *, commitment: Digest, openings: Digest | None) -> Act:
    """The holder's: its node admits certain jobs on the product without asking a person.

    commitment: to the approval, whose consumers, purposes and limits are the holder's terms.
    openings: of the document that holds it sealed to the regulators, where agreements name any
    """
    return Act(
        type=STANDING_APPROVED,
        subject=product,
        outputs=() if openings is None else (openings,),
        commitments={STANDING: commitment},
    )


def standing_withdrawn(product: ProductId, *, approved: Digest) -> Act:
    """approved: the statement that said so."""
    return Act(type=STANDING_WITHDRAWN, subject=product, after=(approved,))


def helping_begun(party: PartyId) -> Act:
    """The helper's: its node takes part in every job whose plan names it, without asking a person.
    There is nothing else to it, so nothing is committed to."""
    return Act(type=HELPING_BEGUN, subject=party)


def helping_ended(party: PartyId, *, begun: Digest) -> Act:
    return Act(type=HELPING_ENDED, subject=party, after=(begun,))


def regulators_named(operator: PartyId, regulators: Collection[PartyId]) -> Act:
    """The operator's: whom it lets read every job and deal from here on, and nobody else."""
    body = {"parties": " ".join(sorted(regulators))}
    return Act(type=REGULATORS_NAMED, subject=operator, body=body)


def read_regulators(statement: Statement) -> frozenset[PartyId]:
    """Raises Malformed."""
    names = statement.body.get("parties", "").split()
    return frozenset(PartyId.parse(name, where="parties") for name in names)


def bundle_exported(deal: DealId, to: PartyId, statements: Collection[Digest]) -> Act:
    """The operator's: it gave somebody the evidence of a deal. statements: about its negotiations
    and jobs, which the rest of the bundle follows from."""
    given = digest(b"".join(sorted(name.raw for name in statements)))
    return Act(type=BUNDLE_EXPORTED, subject=deal, outputs=(given,), body={"to": to})


def _declined(kind: str, job: JobId, plan: Digest, after: Sequence[Digest], reason: bytes) -> Act:
    return Act(
        type=kind, subject=job, after=tuple(after), inputs=(plan,), outputs=(digest(reason),)
    )
