"""The log: entries are queued with what they are evidence of, then ordered, hashed and signed.

An entry is queued in the caller's transaction, so that there is no act without evidence of it.
`integrate` gives indices, and signs a checkpoint only after it has shown to itself that the new
tree extends the one it signed last: another log was shut down for signing without looking.
`publish` sends the newest checkpoint to the witnesses and keeps their cosignatures.

Every function takes the store of one open transaction, except `publish`, which opens its own:
it waits for other organisations, and nothing of ours may wait with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from crypto.digest import Digest, digest
from crypto.keys import Signer
from crypto.ports import Clock
from ledger.asking import ask_all
from ledger.errors import (
    ConsistencyRefused,
    EntryRefused,
    LedgerError,
    LogDiverged,
    NotCovered,
    OtherLog,
    WitnessAt,
    WitnessDisagrees,
    WitnessUnreachable,
)
from ledger.ports import LogDatabase, LoggedEntry, LogStore, StoredCheckpoint, WitnessPort
from ledger.tree import (
    Nodes,
    Range,
    TiledNodes,
    consistency_path,
    cover,
    grow,
    inclusion_proofs,
    inclusion_tiles,
    range_hash,
)
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import EMPTY_ROOT, leaf_hash, verify_consistency
from ledger.verify.note import Note, VerifierKey, signatures_by
from ledger.verify.policy import Policy
from ledger.verify.proof import proof_text
from ledger.verify.tile_names import edge_tiles

MAX_ENTRY_BYTES: Final = 65_535  # C2SP tlog-tiles: an entry's length is a uint16
MAX_BATCH: Final = 4096  # entries per checkpoint: bounds the memory and the length of the lock
MAX_TRIES: Final = 3  # requests to one witness per publication
# Of a witness's clock and ours. What audits conclude from times rests on it: TOLERANCE and
# LATE_AFTER of ledger.verify.log.
MAX_CLOCK_DIFFERENCE: Final = timedelta(minutes=4)


class EntryStatus(StrEnum):
    PENDING = "pending"  # queued; no signed head covers it yet
    ACKNOWLEDGED = "acknowledged"  # under a head that the operator signed
    WITNESSED = "witnessed"  # under a head that a quorum of witnesses cosigned


@dataclass(frozen=True)
class Publication:
    """What came of sending a checkpoint to witnesses.

    failures: by witness key name; the kind of error says what to do about it.
    """

    checkpoint: Checkpoint
    cosigned: tuple[str, ...]
    failures: Mapping[str, LedgerError]
    witnessed: bool


def append(store: LogStore, entry: bytes) -> Digest:
    """Queue an entry; the same entry again changes nothing. Raises EntryRefused."""
    (name,) = append_many(store, [entry])
    return name


def append_many(store: LogStore, entries: Sequence[bytes]) -> list[Digest]:
    """Queue entries in this order; one that is refused keeps all of them out."""
    for entry in entries:
        if not 1 <= len(entry) <= MAX_ENTRY_BYTES:
            raise EntryRefused(
                f"an entry has 1 to {MAX_ENTRY_BYTES} bytes, this one {len(entry)}; "
                "log bulky evidence by its digest"
            )
    names = [digest(entry) for entry in entries]
    store.queue(list(zip(names, entries, strict=True)))
    return names


def integrate(
    store: LogStore,
    *,
    origin: str,
    signer: Signer,
    now: datetime,
    also: Sequence[Signer] = (),
    limit: int = MAX_BATCH,
) -> Checkpoint | None:
    """Order what is pending, and sign the grown tree; None if nothing is pending, or if another
    process is doing this now.

    Takes at most `limit` entries: call again until None. The caller commits before it shows
    the checkpoint to anybody; a crash before that leaves everything pending and nothing signed.
    also: keys that sign beside the log's own: the next one during a change, one of another suite.
    Raises LogDiverged if what is stored does not reproduce the last checkpoint, OtherLog if that
    checkpoint is another log's.
    """
    if not store.lead():
        return None
    last = _last_head(store, origin)
    pending = store.pending(limit)
    if not pending:
        return None
    store.place([item.arrival for item in pending], last.size)
    over = edge_tiles(last.size)
    edge = store.tiles(over)
    grown = grow(last.size, edge, [leaf_hash(item.entry) for item in pending])
    store.add_tiles(grown, over=over)
    size, nodes = last.size + len(pending), TiledNodes({**edge, **grown})
    checkpoint = Checkpoint(origin, size, range_hash((0, size), nodes))
    _require_extension(last, checkpoint, nodes)
    note = sign_checkpoint(checkpoint, signer, *also)
    store.add_checkpoint(StoredCheckpoint(checkpoint, note, signed_at=now))
    return checkpoint


def entries(store: LogStore, start: int, end: int) -> Sequence[LoggedEntry]:
    """Entries [start, end). Raises NotCovered unless a signed head covers them all."""
    if not 0 <= start <= end <= _signed_size(store):
        raise NotCovered(f"entries {start} to {end} are not all in the signed log")
    return store.entries(start, end)


def inclusion(store: LogStore, entry: Digest | int, size: int) -> tuple[bytes, ...]:
    """The proof that an entry, named by digest or index, is in the tree of `size`.

    Raises NotLogged, and NotCovered if the entry or the size is not signed yet.
    """
    index = store.index_of(entry) if isinstance(entry, Digest) else entry
    if index is None:
        raise NotCovered(f"the tree of size {size} does not hold the entry; a later one will")
    return inclusions(store, [index], size)[index]


def inclusions(
    store: LogStore, indices: Collection[int], size: int
) -> dict[int, tuple[bytes, ...]]:
    """`inclusion` of many entries, by index: each tile is read and hashed once for all of them."""
    _require_signed(store, size)
    if any(not 0 <= index < size for index in indices):
        raise NotCovered(f"the tree of size {size} does not hold the entry; a later one will")
    return _inclusions(store, indices, size)


def consistency(store: LogStore, old_size: int, new_size: int) -> tuple[bytes, ...]:
    """The proof that the tree of `new_size` extends that of `old_size`; empty from size 0."""
    _require_signed(store, new_size)
    if not 0 <= old_size <= new_size:
        raise NotCovered(f"a tree of size {new_size} cannot extend one of size {old_size}")
    return _hashes(store, consistency_path(old_size, new_size))


def receipt(store: LogStore, entry: Digest) -> str:
    """A `.tlog-proof` for an entry: all that an auditor needs beside it and a policy.

    Under the newest head with a quorum that covers the entry, else the newest with any
    cosignature, else the newest. Raises NotLogged, and NotCovered while the entry is pending.
    """
    (found,) = receipts(store, [entry])
    return found


def receipts(store: LogStore, entries: Sequence[Digest]) -> list[str]:
    """`receipt` of many entries, in their order."""
    indices = store.indices_of(entries)
    waiting = {index for index in indices if index is not None}
    found: dict[int | None, str] = {}
    for newest in (store.latest_witnessed, store.latest_cosigned, store.latest):
        head = newest() if waiting else None
        if head is None:
            continue
        note = head.note.to_bytes().decode("utf-8")
        covered = {index for index in waiting if index < head.size}
        for index, hashes in _inclusions(store, covered, head.size).items():
            found[index] = proof_text(index, hashes, note)
        waiting -= covered
    for name, place in zip(entries, indices, strict=True):
        if place not in found:
            raise NotCovered(f"the entry {name} is queued and not under a signed head yet")
    return [found[place] for place in indices]


def status(store: LogStore, entry: Digest) -> EntryStatus:
    """How well an entry is proved. Raises NotLogged."""
    index = store.index_of(entry)
    latest, witnessed = store.latest(), store.latest_witnessed()
    if index is not None and witnessed is not None and index < witnessed.size:
        return EntryStatus.WITNESSED
    if index is not None and latest is not None and index < latest.size:
        return EntryStatus.ACKNOWLEDGED
    return EntryStatus.PENDING


def publish(
    database: LogDatabase, witnesses: Sequence[WitnessPort], policy: Policy, *, clock: Clock
) -> Publication | None:
    """Have the newest checkpoint cosigned, if the tree grew since the last publication.

    Until that publication has its quorum, the same checkpoint goes again to those witnesses
    that have not cosigned it. None if there is nothing to ask anybody.
    Witnesses whose keys the policy does not name are asked too, and never counted. All are asked
    at once, and the head is witnessed as soon as the quorum is there, whoever is still awaited.
    """
    keys = [key for witness in witnesses for key in witness.keys]
    with database.transaction() as store:
        head = _head_to_publish(store)
        if head is None:
            return None
        store.mark_published(head.size, clock.now())
        done = signatures_by(head.note, keys)
        waiting = [witness for witness in witnesses if not done.keys() >= set(witness.keys)]

    def ask(witness: WitnessPort) -> None:
        try:
            _ask(database, witness, head, clock)
        finally:  # one of several keys may have signed
            with database.transaction() as store:
                _mark_if_witnessed(store, head.size, policy, clock)

    errors = ask_all(waiting, ask)
    with database.transaction() as store:
        met = _mark_if_witnessed(store, head.size, policy, clock)
        note = store.at(head.size).note
    have = dict.fromkeys(key.name for key in signatures_by(note, keys))
    failures = {
        witness.key.name: error
        for witness, error in zip(waiting, errors, strict=True)
        if error is not None
    }
    return Publication(head.checkpoint, tuple(have), failures, met)


def _mark_if_witnessed(store: LogStore, size: int, policy: Policy, clock: Clock) -> bool:
    met = policy.met_by(policy.cosigned_by(store.at(size).note))
    if met:
        store.mark_witnessed(size, clock.now())
    return met


def _head_to_publish(store: LogStore) -> StoredCheckpoint | None:
    published, latest = store.latest_published(), store.latest()
    if latest is None:
        return None
    if published is None or latest.size > published.size:
        return latest
    return published if published.witnessed_at is None else None


def _ask(database: LogDatabase, witness: WitnessPort, head: StoredCheckpoint, clock: Clock) -> None:
    """Get one witness's cosignatures and store them, starting from the size that the witness is
    thought to have. What it gave is kept, although another of its keys did not sign."""
    with database.transaction() as store:
        old_size = min(max(store.cosigned_size(key) for key in witness.keys), head.size)
    for _ in range(MAX_TRIES):
        with database.transaction() as store:
            proof = consistency(store, old_size, head.size)
        try:
            lines = witness.add_checkpoint(old_size, proof, head.note)
        except WitnessAt as error:
            if error.size == old_size:
                raise WitnessDisagrees(
                    f"{witness.key.name} holds another root of size {old_size}: the log has forked"
                ) from error
            old_size = error.size
            if old_size > head.size:
                _explain_ahead(database, witness, old_size)
            continue
        note = Note(head.note.text, tuple(lines))
        times = verify_cosignatures(note, witness.keys)
        _require_same_time(times, clock.now())
        with database.transaction() as store:
            for key, signature in signatures_by(note, times).items():
                store.add_cosignature(head.size, signature, times[key])
        missing = [key.words for key in witness.keys if key not in times]
        if missing:
            raise WitnessUnreachable(f"answered without the line of {' and '.join(missing)}")
        return
    raise WitnessUnreachable(f"{witness.key.name} stated another size each time it was asked")


def _require_same_time(times: Mapping[VerifierKey, datetime], now: datetime) -> None:
    """A line with a wrong time would stay under the head for good, and widen the bounds of what
    was said around it."""
    for key, time in times.items():
        if abs(time - now) > MAX_CLOCK_DIFFERENCE:
            raise WitnessUnreachable(
                f"{key.name} cosigned at {time:%Y-%m-%d %H:%M} UTC by its clock, and here it is "
                f"{now:%Y-%m-%d %H:%M}: its line is not kept; set the clock that is wrong"
            )


def _explain_ahead(database: LogDatabase, witness: WitnessPort, size: int) -> None:
    """A witness has a larger head than the one being published. Always raises."""
    with database.transaction() as store:
        signed = _signed_size(store)
    if size > signed:
        raise WitnessDisagrees(
            f"{witness.key.name} cosigned size {size} of this log, which has {signed} entries: "
            "this database is an old copy; stop, and recover the missing entries"
        )
    raise WitnessUnreachable(f"{witness.key.name} has a later head of this log already")


def _last_head(store: LogStore, origin: str) -> Checkpoint:
    """The last checkpoint, once the stored entries and nodes are known to reproduce it."""
    last = store.latest()
    checkpoint = Checkpoint(origin, 0, EMPTY_ROOT) if last is None else last.checkpoint
    if checkpoint.origin != origin:
        raise OtherLog(checkpoint.origin)
    placed = store.placed()
    if placed != checkpoint.size:
        raise LogDiverged(
            f"the last signed checkpoint has size {checkpoint.size}, and {placed} entries are "
            "stored: stop, and restore the log from a full copy"
        )
    if _root(store, checkpoint.size) != checkpoint.root:
        raise LogDiverged(
            f"the stored tree of size {checkpoint.size} does not have the root that was signed: "
            "stop, and restore the log from a full copy"
        )
    return checkpoint


def _require_extension(last: Checkpoint, new: Checkpoint, nodes: Nodes) -> None:
    if last.size == 0:
        return
    proof = [range_hash(part, nodes) for part in consistency_path(last.size, new.size)]
    try:
        verify_consistency(last.size, last.root, new.size, new.root, proof)
    except ConsistencyRefused as error:
        raise LogDiverged(f"the grown tree does not extend the last checkpoint: {error}") from error


def _root(store: LogStore, size: int) -> bytes:
    return range_hash((0, size), store.nodes(cover((0, size))))


def _inclusions(
    store: LogStore, indices: Collection[int], size: int
) -> dict[int, tuple[bytes, ...]]:
    nodes = TiledNodes(store.tiles(inclusion_tiles(indices, size)))
    return inclusion_proofs(indices, size, nodes)


def _hashes(store: LogStore, path: Sequence[Range]) -> tuple[bytes, ...]:
    nodes = store.nodes([node for part in path for node in cover(part)])
    return tuple(range_hash(part, nodes) for part in path)


def _require_signed(store: LogStore, size: int) -> None:
    signed = _signed_size(store)
    if not 0 <= size <= signed:
        raise NotCovered(f"the log has signed size {signed}, not {size}")


def _signed_size(store: LogStore) -> int:
    latest = store.latest()
    return 0 if latest is None else latest.size
