"""A log as outsiders see it: written, cosigned and published by our own code, through SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlmodel import SQLModel

from api.database import open_engine
from crypto.keys import MlDsaKey, Signer, SigningKey
from ledger.adapters.sql import SqlLogDatabase
from ledger.copies import publish_files
from ledger.log import append_many, consistency, inclusion, integrate, publish
from ledger.tiles import LogSource
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.cosignature import cosign
from ledger.verify.note import Note, Signature, VerifierKey, cosigner_key, log_key
from ledger.verify.policy import Policy

ORIGIN = "log.example/outside"
NOW = datetime(2026, 3, 4, tzinfo=UTC)
_BATCH = 4000


class Clock:
    def now(self) -> datetime:
        return NOW


class CosigningWitness:
    """Gives one cosignature per key; that it checks what it signs has tests of its own."""

    def __init__(self, name: str, *signers: Signer) -> None:
        self.name = name
        self.signers = signers
        self.keys = [cosigner_key(name, signer) for signer in signers]
        self.key = self.keys[0]

    def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: Note
    ) -> Sequence[Signature]:
        return [cosign(note.text, self.name, signer, now=NOW) for signer in self.signers]


@dataclass(frozen=True)
class Published:
    """note: with one Ed25519 log signature and the witness's cosignatures."""

    folder: Path
    note: bytes
    checkpoint: Checkpoint
    old_size: int
    old_root: bytes
    log: VerifierKey
    signer: Signer
    witness: VerifierKey
    index: int
    inclusion: tuple[bytes, ...]
    consistency: tuple[bytes, ...]

    @property
    def entry(self) -> bytes:
        return entry(self.index)


def entry(number: int) -> bytes:
    return b'{"act":"test","number":%d}' % number


def publish_log(place: Path, *, size: int, old_size: int, index: int) -> Published:
    """old_size: of an earlier head. index: of the entry that `inclusion` is for."""
    engine = open_engine(f"sqlite:///{place / 'log.db'}")
    tables = SQLModel.metadata.tables
    SQLModel.metadata.create_all(
        engine, [table for name, table in tables.items() if name.startswith("ledger_")]
    )
    database = SqlLogDatabase(engine)
    signer = SigningKey.generate()
    key = log_key(ORIGIN, signer)
    witness = CosigningWitness("witness.example/w", *_cosigning_keys())
    policy = Policy.parse(f"log {key}\nwitness w {witness.key}\nquorum w\n".encode())
    old_root = b""
    for start, end in _batches(old_size, size):
        with database.transaction() as store:
            append_many(store, [entry(number) for number in range(start, end)])
            head = integrate(store, origin=ORIGIN, signer=signer, now=NOW)
        if head is not None and head.size == old_size:
            old_root = head.root
    publish(database, [witness], policy, clock=Clock())
    (place / "files").mkdir()
    (place / "files/checkpoint").touch()
    done = publish_files(
        place / "files",
        LogSource(database),
        lambda note: open_checkpoint(Note.parse(note), [key]),
    )
    if done is None or done.checkpoint.size != size:
        raise RuntimeError("the log was not published")
    with database.transaction() as store:
        made = Published(
            place / "files",
            (place / "files/checkpoint").read_bytes(),
            done.checkpoint,
            old_size,
            old_root,
            key,
            signer,
            witness.key,
            index,
            inclusion(store, index, size),
            consistency(store, old_size, size),
        )
    engine.dispose()
    return made


def _batches(old_size: int, size: int) -> list[tuple[int, int]]:
    ends = [old_size, *range(old_size + _BATCH, size, _BATCH), size]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _cosigning_keys() -> list[Signer]:
    """Ed25519, and ML-DSA-44 beside it, whose line tools that do not know it must ignore."""
    return [SigningKey.generate(), MlDsaKey.generate()]
