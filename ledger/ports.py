"""What log, witness and anchor need from outside: storage, witnesses to ask, a chain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from crypto.digest import Digest
from ledger.tree import Node
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import Note, Signature, VerifierKey
from ledger.verify.tile_names import Tile


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

    def lead(self) -> bool:
        """Keep every other transaction from giving indices until this one ends.

        False if another is at it: whoever asks does not wait, for the other does the work.
        """
        ...

    def queue(self, entries: Sequence[tuple[Digest, bytes]]) -> None:
        """In this order; idempotent by digest."""
        ...

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        """Entries without an index, in order of arrival."""
        ...

    def place(self, arrivals: Sequence[int], first_index: int) -> None:
        """Give entries their indices, one after the other."""
        ...

    def adopt(self, digests: Sequence[Digest], first_index: int) -> None:
        """Give queued entries the indices that they have in a full copy, one after the other.

        Raises LogDiverged if one has another index, or an index is taken.
        """
        ...

    def placed(self) -> int:
        """How many entries have an index: one more than the highest, or 0."""
        ...

    def index_of(self, digest: Digest) -> int | None:
        """None while the entry is pending. Raises NotLogged if it was never queued."""
        ...

    def indices_of(self, digests: Sequence[Digest]) -> Sequence[int | None]:
        """`index_of` for many, in their order."""
        ...

    def entries(self, start: int, end: int) -> Sequence[LoggedEntry]:
        """Entries [start, end) as far as they exist, by index."""
        ...

    def nodes(self, wanted: Collection[Node]) -> Mapping[Node, bytes]:
        """Hashes of complete subtrees. Raises LogDiverged if one is missing."""
        ...

    def tiles(self, wanted: Collection[Tile]) -> Mapping[Tile, bytes]:
        """As many hashes of each tile as its width says, which may be fewer than are stored.

        Raises LogDiverged if one is missing or narrower.
        """
        ...

    def add_tiles(self, tiles: Mapping[Tile, bytes], *, over: Collection[Tile]) -> None:
        """Store tiles, each instead of the narrower one in `over`, if it is among them.

        Raises LogDiverged if one is there already, or what it replaces is not as wide as stated.
        """
        ...

    def replace_entry(self, index: int, digest: Digest, entry: bytes) -> None:
        """Repair: whatever is stored at this index, or nothing, becomes this entry."""
        ...

    def replace_hashes(self, tile: Tile, hashes: bytes) -> None:
        """Repair: the tile begins with these hashes; what is stored after them stays, as far as
        its width goes."""
        ...

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None: ...

    def at(self, size: int) -> StoredCheckpoint:
        """The checkpoint of exactly this size. Raises NotCovered if none was signed.

        Like every reader of checkpoints here, raises LogDiverged for one that was altered.
        """
        ...

    def sizes(self, above: int, limit: int) -> Sequence[int]:
        """Sizes of signed checkpoints above the given one, the smallest first."""
        ...

    def latest(self) -> StoredCheckpoint | None: ...

    def latest_published(self) -> StoredCheckpoint | None: ...

    def latest_witnessed(self) -> StoredCheckpoint | None: ...

    def witnessed_to(self, size: int) -> StoredCheckpoint | None:
        """The newest with a quorum of at most this size. However many there are, one is read."""
        ...

    def witnessed_above(self, size: int) -> StoredCheckpoint | None:
        """The oldest with a quorum that is larger than this."""
        ...

    def latest_cosigned(self) -> StoredCheckpoint | None:
        """The newest checkpoint that at least one witness has cosigned."""
        ...

    def witnessed(self, *, skip: int = 0, limit: int | None = None) -> Sequence[StoredCheckpoint]:
        """Checkpoints with a quorum, by size: what bounds the time of each entry. All of them, or
        at most `limit` after the first `skip`."""
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


@dataclass(frozen=True)
class Sm3Head:
    """A signed head of the parallel SM3 tree. edge: from which the tree grows on."""

    checkpoint: Checkpoint
    note: Note
    edge: bytes
    signed_at: datetime


class Sm3Store(Protocol):
    """Storage of the parallel SM3 tree within one transaction, which the caller owns."""

    def latest(self) -> Sm3Head | None: ...

    def sizes(self, above: int, limit: int) -> Sequence[int]:
        """Of stored heads larger than `above`, in order."""
        ...

    def at(self, size: int) -> Sm3Head:
        """Raises NotCovered if there is none of this size; as all that reads a head, LogDiverged
        if its row was altered."""
        ...

    def add(self, head: Sm3Head) -> None: ...


class Sm3Database(Protocol):
    """Where the SM3 heads are read that belong to no transaction of the log's."""

    def transaction(self) -> AbstractContextManager[Sm3Store]:
        """Commits at the end, rolls back on an exception."""
        ...


class LogDatabase(Protocol):
    """Where publishing opens its short transactions: none is held while a witness is asked."""

    def transaction(self) -> AbstractContextManager[LogStore]:
        """Commits at the end, rolls back on an exception."""
        ...


class WitnessPort(Protocol):
    """A witness as the log sees it."""

    @property
    def key(self) -> VerifierKey:
        """The first of its keys; its name is the witness's."""
        ...

    @property
    def keys(self) -> Sequence[VerifierKey]:
        """All keys whose cosignatures it gives, one of each kind."""
        ...

    def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: Note
    ) -> Sequence[Signature]:
        """The witness's signature lines, not verified yet.

        Raises WitnessAt if its last head has another size than old_size, or another root of
        that size; WitnessDisagrees if it refuses the proof; WitnessUnreachable if it gave no
        answer, one outside the protocol, or does not know this log or its key.
        """
        ...


class HeadHolder(Protocol):
    """What remembers a head of this log outside its database: a published file, a chain."""

    @property
    def name(self) -> str:
        """For a sentence: who holds the head."""
        ...

    def head(self) -> Checkpoint | None:
        """The newest it has, known to be this log's; None if it never had one.

        Raises a LedgerError if that cannot be told now.
        """
        ...


@dataclass(frozen=True)
class WitnessHead:
    """The last checkpoint of a log that the witness cosigned.

    note: with the lines of the log that it verified, and its own cosignatures.
    """

    checkpoint: Checkpoint
    note: bytes
    cosigned_at: datetime


class WitnessStore(Protocol):
    """The witness's storage within one transaction, which the caller opens and commits.

    Both readers raise MemoryDamaged for a head whose parts contradict each other.
    """

    def head(self, origin: str) -> WitnessHead | None:
        """The last one of this log, which nobody else replaces before the transaction ends: a log
        that was told of a conflict at the very size it stated would take it for a fork."""
        ...

    def heads(self) -> Sequence[WitnessHead]:
        """All, by origin."""
        ...

    def advance(self, old: WitnessHead | None, new: WitnessHead) -> bool:
        """Replace `old` by `new`; False, changing nothing, if `old` is not what is stored."""
        ...


class AnchorState(StrEnum):
    """Where one head is on its way to a chain; `ledger.anchor` says how it moves."""

    READY = "ready"  # has its quorum, and nothing that would anchor it is under way
    SENT = "sent"  # one or more transactions may be mined, at most one of them with effect
    MINED = "mined"  # in a block that may still be given up for another
    FINAL = "final"  # in a block that is final by the rule of the settings
    SUPERSEDED = "superseded"  # a larger head of this log was anchored before this one


@dataclass(frozen=True)
class Place:
    """One contract on one chain. contract: 0x and 40 lower-case hexadecimal digits."""

    chain_id: int
    contract: str


@dataclass(frozen=True)
class Fee:
    """What a unit of gas may cost, in wei. tip_wei: None on a chain without EIP-1559."""

    max_wei: int
    tip_wei: int | None


@dataclass(frozen=True)
class Block:
    number: int
    hash: bytes


@dataclass(frozen=True)
class Transaction:
    """One transaction that may anchor a head. hash: 32 bytes.

    nonce, fee: None if it is not of our account: another operator's that we found on the chain.
    """

    hash: bytes
    sent_at: datetime
    nonce: int | None = None
    fee: Fee | None = None


@dataclass(frozen=True)
class Anchor:
    """One head on its way to the chain, or there.

    attempt:      rises with every change, so that of two processes one moves it
    transactions: all that were signed, oldest first; block, transaction: of the one that is mined
    """

    place: Place
    size: int
    root: bytes
    state: AnchorState
    ready_at: datetime
    changed_at: datetime
    simulated: bool
    attempt: int = 0
    transactions: tuple[Transaction, ...] = ()
    transaction: bytes | None = None
    block: Block | None = None


@dataclass(frozen=True)
class ChainHead:
    """What the chain says now, in its newest block, which it may yet give up.

    size, root, block: of our log's last head there; 0, zeros and 0 before the first
    successor: the contract that the log was handed over to
    nonce:     how many transactions of our account are mined
    fee:       what a transaction should offer to be mined soon
    simulated: the node says of itself that it simulates a chain
    """

    size: int
    root: bytes
    block: int
    successor: str | None
    nonce: int
    fee: Fee
    simulated: bool


@dataclass(frozen=True)
class ChainReceipt:
    """What became of a transaction. block: None while it waits. reverted: mined, to no effect."""

    block: Block | None
    reverted: bool = False
    gas_used: int = 0


@dataclass(frozen=True)
class AnchoredEvent:
    """A head of our log that the contract took, whoever sent it."""

    size: int
    root: bytes
    previous_size: int
    transaction: bytes
    block: Block


class AnchorBackend(Protocol):
    """One anchor contract, seen for one log and one account.

    Every method raises ChainUnreachable if the node gives no answer or one outside the protocol,
    and WrongChain if it is not the chain or the contract of the settings.
    """

    @property
    def place(self) -> Place: ...

    def head(self) -> ChainHead: ...

    def anchor(
        self,
        size: int,
        root: bytes,
        proof: Sequence[bytes],
        *,
        nonce: int,
        fee: Fee,
        keep: Callable[[bytes], None],
    ) -> None:
        """Sign a transaction that anchors a head, give its hash to `keep`, and only then send it:
        a crash between the two leaves a transaction that can be looked for.

        proof: that the head extends the chain's. Raises ChainRefused, before `keep` if the
        contract would not take it.
        """
        ...

    def receipt(self, transaction: bytes) -> ChainReceipt | None:
        """None if the node does not know the transaction."""
        ...

    def finality(self) -> int:
        """The number of the highest block that is final by the rule of the settings."""
        ...

    def events(self, first_block: int, last_block: int) -> Sequence[AnchoredEvent]:
        """Heads of our log that were anchored in these blocks, both included, oldest first."""
        ...


class AnchorStore(Protocol):
    """The outbox's storage within one transaction, which the caller opens and commits."""

    @property
    def log(self) -> LogStore: ...

    def newest(self, limit: int, *, below: int | None = None) -> Sequence[Anchor]:
        """Every place's, largest sizes first. below: only sizes smaller than this."""
        ...

    def open(self, place: Place) -> Sequence[Anchor]:
        """Those that are ready, sent or mined, by size."""
        ...

    def latest(self, place: Place) -> Anchor | None:
        """The one with the largest size, in any state but SUPERSEDED."""
        ...

    def latest_final(self, place: Place) -> Anchor | None: ...

    def add(self, anchor: Anchor) -> bool:
        """False, changing nothing, if the place has one of this size."""
        ...

    def replace(self, old: Anchor, new: Anchor) -> bool:
        """False, changing nothing, if the stored one is not at `old`'s attempt any more.
        Transactions are only ever added."""
        ...


class AnchorDatabase(Protocol):
    """Opens transactions of its own, for what must not stay in one while it waits for a chain."""

    def transaction(self) -> AbstractContextManager[AnchorStore]: ...


class RightState(StrEnum):
    """Where a registered right is; `ledger/contracts/Rights.vy` says how it moves."""

    PUBLICISED = "publicised"  # on public notice
    OBJECTED = "objected"  # the same, its clock stopped by an objection
    CERTIFIED = "certified"  # the only state in which it is transferred, changed or licensed
    DISPUTED = "disputed"  # it, or a right that it derives from
    CANCELLED = "cancelled"
    REVOKED = "revoked"  # a claim against it was upheld
    EXPIRED = "expired"
    LAPSED = "lapsed"  # a right that it derives from was cancelled or revoked


@dataclass(frozen=True)
class RightTerms:
    """What a right is registered with. Hashes have 32 bytes.

    asset, content_hash: over a salt that stays off the chain and what the right is in, or says
    kind:         a name the registry allows, such as "holding": at most 32 ASCII characters
    holder:       0x and 40 hexadecimal digits
    parent:       the right in force that this one derives from, and cannot outlive
    valid_until, notice_until: whole seconds
    """

    asset: bytes
    kind: str
    holder: str
    parent: bytes | None
    content_hash: bytes
    valid_until: datetime
    notice_until: datetime


@dataclass(frozen=True)
class RegisteredRight:
    """A right as the registry holds it. open_disputes: about it alone.

    tenure:   how often it changed hands
    licences: how many were ever granted under it; a transfer states it
    """

    terms: RightTerms
    state: RightState
    registrar: str
    tenure: int
    licences: int
    open_disputes: int


@dataclass(frozen=True)
class LicenceTerms:
    """Salted hashes, too. expires: whole seconds; not after the right does."""

    grantee: str
    terms_hash: bytes
    scope_hash: bytes
    expires: datetime


@dataclass(frozen=True)
class RegisteredLicence:
    """in_force: neither revoked nor expired, and its right certified or disputed."""

    terms: LicenceTerms
    revoked: bool
    in_force: bool


@dataclass(frozen=True)
class RegisteredDispute:
    """ruling_hash: None while the claim is open. objection: made during the public notice."""

    right: bytes
    claimant: bytes
    evidence_hash: bytes
    ruling_hash: bytes | None
    objection: bool
    upheld: bool


class RightsRegistry(Protocol):
    """The register of rights, seen from one account.

    An act names the leaf hash of the log entry that records it; that of a registration, licence
    or dispute is the new thing's id. An act returns once it is mined, and may be repeated: the
    registry takes an entry once, and `recorded` says whether it has. Raises ChainRefused with
    the registry's reason; ChainUnreachable, WrongChain; TimeoutError, and then it may yet be
    mined.
    """

    def register(self, entry: bytes, terms: RightTerms) -> None: ...

    def certify(self, entry: bytes, right: bytes) -> None:
        """By another registrar than the one that registered it."""
        ...

    def transfer(self, entry: bytes, right: bytes, holder: str, *, licences: int) -> None:
        """licences: how many the new holder knows of."""
        ...

    def change(self, entry: bytes, right: bytes, content_hash: bytes) -> None: ...

    def cancel(self, entry: bytes, right: bytes) -> None: ...

    def renew(self, entry: bytes, right: bytes, valid_until: datetime) -> None: ...

    def license(self, entry: bytes, right: bytes, terms: LicenceTerms) -> None:
        """By the holder, one of its managers, or a registrar."""
        ...

    def revoke(self, entry: bytes, right: bytes, licence: bytes) -> None:
        """By the same; a licence that an earlier holder granted, by a registrar only."""
        ...

    def dispute(
        self, entry: bytes, right: bytes, claimant: bytes, evidence_hash: bytes
    ) -> None: ...

    def rule(self, entry: bytes, dispute: bytes, ruling_hash: bytes, *, upheld: bool) -> None: ...

    def recorded(self, entry: bytes) -> bool:
        """Whether a registrar's act with this entry was taken."""
        ...

    def right(self, right: bytes) -> RegisteredRight | None: ...

    def licence(self, right: bytes, licence: bytes) -> RegisteredLicence | None: ...

    def disputed(self, dispute: bytes) -> RegisteredDispute | None: ...
