"""What the log and the witness need from outside: storage, and witnesses to ask."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from crypto.digest import Digest
from ledger.tree import Node
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import Note, Signature, VerifierKey


@dataclass(frozen=True)
class PendingEntry:
    """An entry without an index yet. arrival: rises with each entry that is queued."""

    arrival: int
    entry: bytes


@dataclass(frozen=True)
class LoggedEntry:
    index: int
    entry: bytes


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint that the log signed.

    note:         with the log's signature and all cosignatures collected so far
    published_at: when it was first sent to witnesses
    witnessed_at: when the cosignatures first made a quorum of the policy then in force
    """

    checkpoint: Checkpoint
    note: Note
    signed_at: datetime
    published_at: datetime | None = None
    witnessed_at: datetime | None = None

    @property
    def size(self) -> int:
        return self.checkpoint.size


class LogStore(Protocol):
    """The log's storage within one transaction, which the caller opens and commits."""

    def lock(self) -> None:
        """Wait until no other transaction integrates, and keep others out until the end."""
        ...

    def queue(self, digest: Digest, entry: bytes) -> None:
        """Idempotent by digest."""
        ...

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        """Entries without an index, in order of arrival."""
        ...

    def place(self, arrivals: Sequence[int], first_index: int) -> None:
        """Give entries their indices, one after the other."""
        ...

    def placed(self) -> int:
        """How many entries have an index: one more than the highest, or 0."""
        ...

    def index_of(self, digest: Digest) -> int | None:
        """None while the entry is pending. Raises NotLogged if it was never queued."""
        ...

    def entries(self, start: int, end: int) -> Sequence[LoggedEntry]:
        """Entries [start, end) as far as they exist, by index."""
        ...

    def nodes(self, wanted: Collection[Node]) -> Mapping[Node, bytes]:
        """Hashes of complete subtrees. Raises LogDiverged if one is missing."""
        ...

    def level_hashes(self, level: int, start: int, end: int) -> bytes:
        """The hashes of nodes [start, end) of one level, one after the other: what tiles hold.

        Raises LogDiverged if one is missing.
        """
        ...

    def add_nodes(self, nodes: Mapping[Node, bytes]) -> None:
        """Raises LogDiverged if one is there already."""
        ...

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None: ...

    def at(self, size: int) -> StoredCheckpoint:
        """The checkpoint of exactly this size. Raises NotCovered if none was signed."""
        ...

    def latest(self) -> StoredCheckpoint | None: ...

    def latest_published(self) -> StoredCheckpoint | None: ...

    def latest_witnessed(self) -> StoredCheckpoint | None: ...

    def latest_cosigned(self) -> StoredCheckpoint | None:
        """The newest checkpoint that at least one witness has cosigned."""
        ...

    def witnessed(self) -> Sequence[StoredCheckpoint]:
        """All checkpoints with a quorum, by size: what bounds the time of each entry."""
        ...

    def mark_published(self, size: int, at: datetime) -> None:
        """Keeps the first time."""
        ...

    def mark_witnessed(self, size: int, at: datetime) -> None:
        """Keeps the first time."""
        ...

    def add_cosignature(self, size: int, signature: Signature, at: datetime) -> None:
        """at: the time that the witness states. Keeps a witness's first cosignature of a size."""
        ...

    def cosigned_size(self, witness: VerifierKey) -> int:
        """The largest size that this witness has cosigned, 0 if none."""
        ...


class LogDatabase(Protocol):
    """Where publishing opens its short transactions: none is held while a witness is asked."""

    def transaction(self) -> AbstractContextManager[LogStore]:
        """Commits at the end, rolls back on an exception."""
        ...


class WitnessPort(Protocol):
    """A witness as the log sees it."""

    @property
    def key(self) -> VerifierKey: ...

    def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: Note
    ) -> Sequence[Signature]:
        """The witness's signature lines, not verified yet.

        Raises WitnessAt if its last head has another size than old_size, or another root of
        that size; WitnessDisagrees if it refuses the proof; WitnessUnreachable if it gave no
        answer, one outside the protocol, or does not know this log or its key.
        """
        ...


@dataclass(frozen=True)
class WitnessHead:
    """The last checkpoint of a log that the witness cosigned. note: as the log sent it."""

    checkpoint: Checkpoint
    note: bytes
    cosigned_at: datetime


class WitnessStore(Protocol):
    """The witness's storage within one transaction, which the caller opens and commits."""

    def head(self, origin: str) -> WitnessHead | None: ...

    def heads(self) -> Sequence[WitnessHead]:
        """All, by origin."""
        ...

    def advance(self, old: WitnessHead | None, new: WitnessHead) -> bool:
        """Replace `old` by `new`; False, changing nothing, if `old` is not what is stored."""
        ...
