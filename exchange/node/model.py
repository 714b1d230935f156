"""What a node keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from fractions import Fraction

from crypto.digest import Digest
from crypto.identifiers import DealId, JobId, PartyId
from crypto.keys import ExchangeKey, PublicKey, SigningKey
from crypto.ports import Clock, Randomness
from exchange.approval import StandingApproval
from exchange.jobs import JobState
from exchange.terms.agreement import Agreement


@dataclass(frozen=True)
class Identity:
    """A running node's keys and ports. The identity key itself is not needed to run.

    sealing:      what opens results: by the public key's text, the current key and retired ones,
                  because a job keeps the receiver's document that its plan named
    agreement:    likewise; names of rows that stand longer than a job are derived from it
    link_address: where peers can reach this node's links, `host:port`; empty if it only dials out.
    """

    party: PartyId
    document: Digest
    signing: SigningKey
    sealing: Mapping[str, ExchangeKey]
    agreement: Mapping[str, ExchangeKey]
    operator: PartyId
    link_address: str
    registrars: tuple[PublicKey, ...]
    clock: Clock
    randomness: Randomness


@dataclass(frozen=True)
class NodeAgreement:
    """A finalised agreement and this node's own count of what was used under it."""

    digest: Digest
    agreement: Agreement
    runs_used: int
    epsilon_used: Fraction


class Decision(StrEnum):
    """This holder's own answer to a job."""

    PENDING = "pending"
    ADMITTED = "admitted"
    REFUSED = "refused"


@dataclass(frozen=True)
class NodeJob:
    """A job as one party sees it. admissions, ephemerals, addresses: by holder, as their signed
    admissions say; an address is where the holder's links can be reached, empty for nowhere.

    held: the operator's statement that the price is in escrow. receipts: statements of sealing.
    """

    id: JobId
    deal: DealId
    consumer: PartyId
    plan: Digest
    submitted: Digest
    state: JobState
    decision: Decision
    held: Digest | None
    admissions: Mapping[str, Digest]
    ephemerals: Mapping[str, PublicKey]
    addresses: Mapping[str, str]
    receipts: Mapping[str, Digest]
    parts: Mapping[str, Digest]
    reason: str
    run_by: datetime
    updated_at: datetime


@dataclass(frozen=True)
class NodeApproval:
    """A standing approval in force here, and the statement that said so."""

    said: Digest
    approval: StandingApproval


@dataclass(frozen=True)
class EgressRecord:
    """One stream that left this node for a job. digest: SHA-256 of the bytes as they left."""

    job: JobId
    receiver: PartyId
    purpose: str
    size_bytes: int
    digest: Digest


@dataclass(frozen=True)
class Alarm:
    kind: str
    words: str
    at: datetime


@dataclass(frozen=True)
class Outgoing:
    """A statement waiting for the hub, with the documents that travel with it."""

    number: int
    entry: bytes
    documents: tuple[bytes, ...]


@dataclass(frozen=True)
class Sent:
    """A statement the hub took in: what it answered, and whether the ledger shows it yet."""

    digest: Digest
    entry: bytes
    kind: str
    subject: str
    applied: bool
    reason: str
    sent_at: datetime
    proven: bool


@dataclass(frozen=True)
class Backlog:
    """How many of this party's statements wait for the hub, and how many of those it took in no
    signed head has been seen to cover yet."""

    unsent: int
    unproven: int


@dataclass(frozen=True)
class Incoming:
    number: int
    entry: bytes
    documents: tuple[bytes, ...]
