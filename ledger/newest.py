"""Is this database the newest state of the log? Asked before anything is signed after a start.

A database that was restored from a backup is whole and agrees with itself; it merely has forgotten
its end. Signing from there makes a second history under one name, which cannot be taken back:
every witness and auditor will hold proof of it. What others remember of the log is the only way to
notice, so each of them is asked first:

    a witness      is sent the newest stored checkpoint as C2SP tlog-witness says: it cosigns it
                   again, states the size that it holds instead (409), or refuses the proof (422).
                   With an empty database it is sent the checkpoint of the empty tree, which every
                   history extends.
    a head holder  a published file, a chain: states a head, which the stored tree must contain.

Nothing new is signed here. Who does not answer is waited for only where it could matter: see
`require_newest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from crypto.keys import Signer
from ledger.asking import ask_all
from ledger.errors import (
    LedgerError,
    LogBehind,
    LogDiverged,
    NotCompared,
    WitnessAt,
    WitnessDisagrees,
    WitnessUnreachable,
)
from ledger.log import consistency
from ledger.ports import HeadHolder, LogDatabase, LogStore, WitnessPort
from ledger.tree import cover, range_hash
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import EMPTY_ROOT
from ledger.verify.note import Note, log_key, signatures_by
from ledger.verify.policy import NO_QUORUM, Policy

MAX_TRIES: Final = 3  # requests to one witness; another process may publish meanwhile


def require_newest(
    database: LogDatabase,
    *,
    origin: str,
    signer: Signer,
    witnesses: Sequence[WitnessPort],
    policy: Policy,
    holders: Sequence[HeadHolder],
) -> None:
    """Raises LogBehind, LogDiverged or WitnessDisagrees if anybody holds a head of the log that
    this database does not contain: then it must not be signed from.

    Raises NotCompared, to be tried again, while those who are silent could hold a witnessed head
    that nobody else told of: while the silent witnesses would make a quorum by themselves. Any
    fewer share no quorum, and every head that had one is known to somebody who answered. Where
    the policy asks for no quorum, nobody's witness is waited for, and the head holders are.
    A head that was signed and reached nobody before the backup was restored stays unnoticed.
    """
    silent: dict[str, LedgerError] = {}
    for holder in holders:
        try:
            head = holder.head()
        except LedgerError as error:
            silent[holder.name] = error
            continue
        if head is not None:
            with database.transaction() as store:
                require_contained(store, head, holder.name)
    counted = {witness.key: witness.name for witness in policy.witnesses}
    missing = set(counted.values())
    failures = ask_all(witnesses, lambda witness: _compare(database, witness, origin, signer))
    for witness, failure in zip(witnesses, failures, strict=True):
        if isinstance(failure, LogBehind | LogDiverged | WitnessDisagrees):
            raise failure
        if failure is not None:
            silent[witness.key.name] = failure
            continue
        missing -= {counted[key] for key in witness.keys if key in counted}
    if policy.quorum != NO_QUORUM:
        if policy.met_by(missing):
            raise NotCompared(silent, tuple(sorted(missing)))
    elif any(holder.name in silent for holder in holders):
        raise NotCompared(silent, ())


def require_contained(store: LogStore, head: Checkpoint, where: str) -> None:
    """Raises LogBehind or LogDiverged unless the stored log extends `head`, which `where` holds."""
    latest = store.latest()
    if latest is not None and latest.checkpoint == head:
        return
    signed = 0 if latest is None else latest.size
    if head.size > signed:
        raise LogBehind(where, held=head.size, stored=signed)
    if range_hash((0, head.size), store.nodes(cover((0, head.size)))) != head.root:
        raise LogDiverged(
            f"{where} holds another root of size {head.size} than the stored tree has: the log "
            "has forked, or was damaged. Sign nothing; compare both with a full copy"
        )


def _compare(database: LogDatabase, witness: WitnessPort, origin: str, signer: Signer) -> None:
    """The witness cosigns the newest head that is stored; raises unless it does."""
    with database.transaction() as store:
        latest = store.latest()
    if latest is None:
        head = Checkpoint(origin, 0, EMPTY_ROOT)
        note = sign_checkpoint(head, signer)
    else:
        head, note = latest.checkpoint, latest.note
        if not signatures_by(note, [log_key(origin, signer)]):
            # Signed by a key that was replaced since: the witness may trust the present one alone.
            note = note.with_signatures(sign_checkpoint(head, signer).signatures)
    old_size = head.size
    for _ in range(MAX_TRIES):
        with database.transaction() as store:
            proof = consistency(store, old_size, head.size) if head.size else ()
        try:
            lines = witness.add_checkpoint(old_size, proof, note)
        except WitnessAt as error:
            if error.size == old_size:
                raise WitnessDisagrees(
                    f"{witness.key.name} holds another root of size {old_size}: the log has forked"
                ) from error
            if error.size > head.size:
                _require_signed(database, error.size, witness.key.name)
                return  # another process of ours signed and published it meanwhile
            old_size = error.size
            continue
        if not verify_cosignatures(Note(note.text, tuple(lines)), witness.keys):
            raise WitnessUnreachable(f"{witness.key.name} answered without its cosignature")
        return
    raise WitnessUnreachable(f"{witness.key.name} stated another size each time it was asked")


def _require_signed(database: LogDatabase, size: int, where: str) -> None:
    with database.transaction() as store:
        latest = store.latest()
    signed = 0 if latest is None else latest.size
    if size > signed:
        raise LogBehind(where, held=size, stored=signed)
