"""Openings: what commitments in the log hide, sealed to the regulator that an agreement names.

An opening travels beside its statement, never in it. It is bound to where it belongs by the HPKE
context: for the operator's acts the statement's digest, for a receipt the plan and the holder,
because a receipt names its sealed openings and so cannot be named by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from crypto.digest import Digest, commit
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from exchange.privacy import PrivacyCost
from exchange.submission import MAX_OPENING_BYTES

_STATEMENT: Final = b"unseen/opening/statement/v1\x00"
_RECEIPT: Final = b"unseen/opening/receipt/v1\x00"
_STANDING: Final = b"unseen/opening/standing/v1\x00"
_RESULT: Final = b"unseen/result/v1\x00"

MAX_READERS: Final = 64


@dataclass(frozen=True)
class Opening:
    """One commitment's opening. value: the canonical bytes committed to."""

    salt: bytes
    value: bytes


@dataclass(frozen=True)
class ReceiptOpenings:
    """What a holder's receipt committed to, by the commitment's name."""

    v: int
    commitments: Mapping[str, Opening]


@dataclass(frozen=True)
class SealedOpenings:
    """One opening for several readers: by party id, each sealed to that party's key."""

    v: int
    readers: Mapping[str, bytes]

    def __post_init__(self) -> None:
        if self.v != 1:
            raise Malformed("v", f"is {self.v}; this version reads 1")
        if not 1 <= len(self.readers) <= MAX_READERS:
            raise Malformed("readers", f"are {len(self.readers)}, not 1 to {MAX_READERS}")
        for sealed in self.readers.values():
            require_size(sealed)


@dataclass(frozen=True)
class KeptSnapshot:
    """What the holder alone keeps of the rows that a query read: their digest, and the secret that
    is in the value behind the receipt's `snapshot` commitment.

    So who reads the opening cannot try out rows: a digest of few is guessed. In a dispute the
    holder shows both, and the rows. (A score's or lookup's value is the digest of the listed model
    or table, which is no secret.)
    """

    v: int
    job: JobId
    snapshot: Digest
    secret: bytes = field(repr=False)

    @property
    def value(self) -> bytes:
        return commit(self.secret, self.snapshot.raw).raw


@dataclass(frozen=True)
class BudgetUse:
    """The value behind a receipt's `budget` commitment: this agreement's count, before and after,
    as the holder's own node keeps it. epsilon: exact fractions. product: its product's privacy
    account, which other agreements draw on too; absent where the job cost it nothing."""

    runs_before: int
    runs_after: int
    epsilon_before: str
    epsilon_after: str
    product: PrivacyUse | None = None


@dataclass(frozen=True)
class PrivacyUse:
    """The exact sums of a product's privacy account, before and after a job."""

    before: PrivacyCost
    after: PrivacyCost


@dataclass(frozen=True)
class BytesOut:
    """The value behind a receipt's `egress` commitment: engine bytes that this node handed to its
    links, by receiving party."""

    engine: Mapping[str, int]


def require_size(sealed: bytes) -> None:
    """Raises Malformed for an opening that would make every bundle it is in unreadable."""
    if len(sealed) > MAX_OPENING_BYTES:
        raise Malformed("openings", f"have {len(sealed)} bytes, at most {MAX_OPENING_BYTES}")


def context(statement: Digest) -> bytes:
    """HPKE context of an opening that belongs to a statement of the operator."""
    return _STATEMENT + statement.raw


def receipt_context(plan: Digest, holder: PartyId) -> bytes:
    return _RECEIPT + plan.raw + holder.encode()


def standing_context(commitment: Digest) -> bytes:
    """HPKE context of a standing approval: its statement names the sealed openings, and so cannot
    be named by them."""
    return _STANDING + commitment.raw


def result_context(plan: Digest, holder: PartyId) -> bytes:
    """HPKE context of one holder's sealed part of a result."""
    return _RESULT + plan.raw + holder.encode()
