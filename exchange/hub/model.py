"""What the hub keeps of agreements and jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from crypto.digest import Digest
from crypto.identifiers import DealId, JobId, PartyId
from crypto.keys import Signer
from crypto.ports import Clock, Randomness
from exchange.jobs import JobState
from exchange.terms.agreement import Agreement


@dataclass(frozen=True)
class Operator:
    """The operator's own identity, as the acts of the hub need it."""

    party: PartyId
    signer: Signer
    clock: Clock
    randomness: Randomness


@dataclass(frozen=True)
class Filed:
    """What is kept of a statement beside its entry. place: rises in order of arrival."""

    place: int
    statement: Digest
    actor: PartyId
    subject: str


@dataclass(frozen=True)
class HubAgreement:
    """An agreement in force, with what has been reserved under it."""

    digest: Digest
    agreement: Agreement
    runs_used: int
    epsilon_used: Fraction


@dataclass(frozen=True)
class HubJob:
    """submitted … sealed: digests of the statements that say so; results: of the sealed parts.

    parties: who admits, starts and seals: the holders, and the helper where there is one.
    consumer_computes: whether the consumer takes part in the run itself.
    By party for admitted, started, sealed and results. finish_by: when a run counts as lost.
    """

    id: JobId
    deal: DealId
    consumer: PartyId
    parties: tuple[PartyId, ...]
    consumer_computes: bool
    plan: Digest
    state: JobState
    submitted: Digest
    held: Digest | None
    admitted: Mapping[str, Digest]
    started: Mapping[str, Digest]
    sealed: Mapping[str, Digest]
    results: Mapping[str, Digest]
    released: Digest | None
    settled: bool
    run_by: datetime
    finish_by: datetime
    reason: str
    updated_at: datetime

    @property
    def computing(self) -> frozenset[PartyId]:
        """Who takes part in the run."""
        return frozenset(self.parties) | ({self.consumer} if self.consumer_computes else set())


@dataclass(frozen=True)
class Outcome:
    """What became of a submission. An act that came too late is logged all the same: a statement
    left out would break its actor's chain, and evidence of a refused act is evidence too."""

    statement: Digest
    applied: bool
    reason: str


@dataclass(frozen=True)
class Delivery:
    """One message waiting for a party: somebody's statement with its documents."""

    number: int
    entry: bytes
    documents: tuple[bytes, ...]


@dataclass(frozen=True)
class JobEventNote:
    """One line of a job's progress, as people watch it. Says nothing of data."""

    number: int
    job: JobId
    stage: str
    party: PartyId
    detail: str
    at: datetime
