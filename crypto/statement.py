"""Signed statements: how every actor leaves evidence of its own acts.

A statement is a record, its canonical bytes are signed by the actor's signing key as a DSSE
envelope, and the envelope's bytes are the ledger entry, verbatim. Each actor numbers its own
statements from 0 (`actor_seq`) and names the digest of the one before (`actor_prev`), so that
an act left out, put in twice or moved is visible to the actor and to any auditor.

The log may be public: a statement carries digests and salted commitments, never commercial or
personal content. `body` holds the few facts of its type that everybody may read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest, digest
from crypto.envelope import Envelope
from crypto.errors import Malformed
from crypto.identifiers import PartyId, StatementId
from crypto.keys import PublicKey, Signer
from crypto.ports import Randomness

PAYLOAD_TYPE: Final = "application/vnd.unseen.statement.v1+json"
VERSION: Final = 1
MAX_ENTRY_BYTES: Final = 65_535  # C2SP tlog-tiles: an entry's length is a uint16


@dataclass(frozen=True)
class Statement:
    """One act of one actor.

    type:          what was done, `noun.verb` in the past: `job.admitted`
    subject:       the id of what it was done to: a job, negotiation, product or party
    actor_prev:    digest of the actor's previous statement; absent on its first
    after:         digests of the statements it relied on
    policy_digest: the agreement or rule in force, where one governs the act
    inputs:        digests of documents it took as given
    outputs:       digests of documents it made
    commitments:   salted commitments to what the log must not show, by name
    body:          public facts of this type, all text
    """

    v: int
    type: str
    id: StatementId
    subject: str
    actor: PartyId
    on_behalf: PartyId | None
    actor_seq: int
    actor_prev: Digest | None
    after: tuple[Digest, ...]
    time: datetime
    policy_digest: Digest | None
    inputs: tuple[Digest, ...]
    outputs: tuple[Digest, ...]
    commitments: Mapping[str, Digest]
    body: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.v != VERSION:
            raise Malformed("v", f"is {self.v}; this version reads {VERSION}")
        if self.actor_seq < 0:
            raise Malformed("actor_seq", "is negative")
        if (self.actor_seq == 0) != (self.actor_prev is None):
            raise Malformed("actor_prev", "must be absent on the actor's first statement only")


@dataclass(frozen=True)
class Act:
    """What a package's `evidence.py` says was done; its place in the chain is added later."""

    type: str
    subject: str
    after: tuple[Digest, ...] = ()
    policy_digest: Digest | None = None
    inputs: tuple[Digest, ...] = ()
    outputs: tuple[Digest, ...] = ()
    commitments: Mapping[str, Digest] | None = None
    body: Mapping[str, str] | None = None
    on_behalf: PartyId | None = None


@dataclass(frozen=True)
class ChainHead:
    """Where an actor's chain stands: the number of its next statement, the digest of its last."""

    next_seq: int = 0
    last: Digest | None = None


@dataclass(frozen=True)
class SignedStatement:
    """A statement with the exact bytes that are logged, and those bytes as they were read."""

    statement: Statement
    entry: bytes
    envelope: Envelope = field(repr=False)

    @cached_property
    def digest(self) -> Digest:
        return digest(self.entry)

    @property
    def head(self) -> ChainHead:
        return ChainHead(self.statement.actor_seq + 1, self.digest)


def sign_statement(
    act: Act,
    *,
    actor: PartyId,
    head: ChainHead,
    signer: Signer,
    now: datetime,
    randomness: Randomness,
) -> SignedStatement:
    """Put `act` at the end of the actor's chain and sign it.

    The caller stores the new head, the entry and whatever the act changed in one transaction.
    """
    statement = Statement(
        v=VERSION,
        type=act.type,
        id=StatementId.new(now, randomness),
        subject=act.subject,
        actor=actor,
        on_behalf=act.on_behalf,
        actor_seq=head.next_seq,
        actor_prev=head.last,
        after=act.after,
        time=now,
        policy_digest=act.policy_digest,
        inputs=act.inputs,
        outputs=act.outputs,
        commitments=act.commitments or {},
        body=act.body or {},
    )
    entry = dsse.sign(PAYLOAD_TYPE, record.to_bytes(statement), signer).to_bytes()
    if len(entry) > MAX_ENTRY_BYTES:
        raise Malformed("statement", f"has {len(entry)} bytes; an entry may have {MAX_ENTRY_BYTES}")
    return read_statement(entry)


def read_statement(entry: bytes) -> SignedStatement:
    """Parse a ledger entry. Does not check its signature: see `verify_statement`."""
    if len(entry) > MAX_ENTRY_BYTES:
        raise Malformed("statement", f"has {len(entry)} bytes; an entry may have {MAX_ENTRY_BYTES}")
    envelope = Envelope.from_bytes(entry)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise Malformed("payloadType", f"is not {PAYLOAD_TYPE}")
    if len(envelope.signatures) != 1:
        raise Malformed("signatures", "a statement has exactly one signature, its actor's")
    return SignedStatement(record.from_bytes(Statement, envelope.payload), entry, envelope)


def verify_statement(signed: SignedStatement, key: PublicKey) -> None:
    """Raises UnknownKey or BadSignature unless `key` signed this statement."""
    dsse.verify(signed.envelope, PAYLOAD_TYPE, key)
