"""The log in a SQL database, SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, Engine, Integer, and_, func, insert, or_, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, select

from crypto.digest import Digest
from ledger.errors import LogDiverged, NotCovered, NotLogged
from ledger.ports import LoggedEntry, PendingEntry, StoredCheckpoint
from ledger.tree import Node
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import Note, Signature, VerifierKey, parse_lines

_LOCK: Final = 0x756E7365656E4C47  # "unseenLG": this package's advisory lock on PostgreSQL
_CHUNK: Final = 200  # nodes per query; a proof needs far fewer
_AUTO_INCREMENT: Final = BigInteger().with_variant(Integer, "sqlite")


class LedgerEntryRow(SQLModel, table=True):
    """position: the entry's index, absent while it is pending."""

    __tablename__ = "ledger_entry"

    arrival: int | None = Field(default=None, primary_key=True, sa_type=_AUTO_INCREMENT)
    digest: bytes = Field(unique=True)
    position: int | None = Field(default=None, unique=True, sa_type=BigInteger)
    entry: bytes


class LedgerNodeRow(SQLModel, table=True):
    """One complete subtree."""

    __tablename__ = "ledger_node"

    level: int = Field(primary_key=True)
    position: int = Field(primary_key=True, sa_type=BigInteger)
    hash: bytes


class LedgerCheckpointRow(SQLModel, table=True):
    """note: as the log signed it, without cosignatures."""

    __tablename__ = "ledger_checkpoint"

    size: int = Field(primary_key=True, sa_type=BigInteger)
    note: bytes
    signed_at: datetime
    published_at: datetime | None = Field(default=None, index=True)
    witnessed_at: datetime | None = Field(default=None, index=True)


class LedgerCosignatureRow(SQLModel, table=True):
    """line: the witness's signature line, newline included."""

    __tablename__ = "ledger_cosignature"

    size: int = Field(primary_key=True, sa_type=BigInteger, foreign_key="ledger_checkpoint.size")
    witness: str = Field(primary_key=True)
    key_id: bytes = Field(primary_key=True)
    cosigned_at: datetime
    line: str


class SqlLogStore:
    """LogStore on a session whose transaction the caller owns."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def lock(self) -> None:
        # On SQLite every transaction of ours begins as the only writer (BEGIN IMMEDIATE).
        if self._session.get_bind().dialect.name == "postgresql":
            self._session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})

    def queue(self, digest: Digest, entry: bytes) -> None:
        self._insert_new(LedgerEntryRow, {"digest": digest.raw, "entry": entry}, ["digest"])

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        rows = self._session.exec(
            select(LedgerEntryRow.arrival, LedgerEntryRow.entry)
            .where(col(LedgerEntryRow.position).is_(None))
            .order_by(col(LedgerEntryRow.arrival))
            .limit(limit)
        )
        return [PendingEntry(arrival, entry) for arrival, entry in rows if arrival is not None]

    def place(self, arrivals: Sequence[int], first_index: int) -> None:
        self._session.execute(
            update(LedgerEntryRow),
            [
                {"arrival": arrival, "position": index}
                for index, arrival in enumerate(arrivals, start=first_index)
            ],
        )

    def placed(self) -> int:
        highest = self._session.exec(select(func.max(LedgerEntryRow.position))).one()
        return 0 if highest is None else highest + 1

    def index_of(self, digest: Digest) -> int | None:
        found = self._session.exec(
            select(LedgerEntryRow.digest, LedgerEntryRow.position).where(
                LedgerEntryRow.digest == digest.raw
            )
        ).first()
        if found is None:
            raise NotLogged(digest)
        return found[1]

    def entries(self, start: int, end: int) -> Sequence[LoggedEntry]:
        rows = self._session.exec(
            select(LedgerEntryRow.position, LedgerEntryRow.entry)
            .where(col(LedgerEntryRow.position) >= start, col(LedgerEntryRow.position) < end)
            .order_by(col(LedgerEntryRow.position))
        )
        return [LoggedEntry(index, entry) for index, entry in rows if index is not None]

    def nodes(self, wanted: Collection[Node]) -> Mapping[Node, bytes]:
        todo = sorted(set(wanted))
        found: dict[Node, bytes] = {}
        for begin in range(0, len(todo), _CHUNK):
            rows = self._session.exec(
                select(LedgerNodeRow.level, LedgerNodeRow.position, LedgerNodeRow.hash).where(
                    or_(
                        *(
                            and_(
                                col(LedgerNodeRow.level) == node.level,
                                col(LedgerNodeRow.position) == node.index,
                            )
                            for node in todo[begin : begin + _CHUNK]
                        )
                    )
                )
            )
            found |= {Node(level, position): value for level, position, value in rows}
        if len(found) != len(todo):
            missing = next(node for node in todo if node not in found)
            raise LogDiverged(
                f"the stored tree lacks the node {missing.index} of level {missing.level}: "
                "stop, and restore the log from a full copy"
            )
        return found

    def level_hashes(self, level: int, start: int, end: int) -> bytes:
        hashes = self._session.exec(
            select(LedgerNodeRow.hash)
            .where(
                col(LedgerNodeRow.level) == level,
                col(LedgerNodeRow.position) >= start,
                col(LedgerNodeRow.position) < end,
            )
            .order_by(col(LedgerNodeRow.position))
        ).all()
        if len(hashes) != end - start:
            raise LogDiverged(
                f"the stored tree lacks nodes {start} to {end} of level {level}: "
                "stop, and restore the log from a full copy"
            )
        return b"".join(hashes)

    def add_nodes(self, nodes: Mapping[Node, bytes]) -> None:
        rows = [
            {"level": node.level, "position": node.index, "hash": value}
            for node, value in nodes.items()
        ]
        try:
            self._session.execute(insert(LedgerNodeRow), rows)
        except IntegrityError as error:
            raise LogDiverged(
                "the stored tree is larger than the last checkpoint: stop, and restore the log "
                "from a full copy"
            ) from error

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        self._session.execute(
            insert(LedgerCheckpointRow),
            [
                {
                    "size": checkpoint.size,
                    "note": checkpoint.note.to_bytes(),
                    "signed_at": checkpoint.signed_at,
                }
            ],
        )

    def at(self, size: int) -> StoredCheckpoint:
        found = self._newest(col(LedgerCheckpointRow.size) == size)
        if found is None:
            raise NotCovered(f"the log has signed no checkpoint of size {size}")
        return found

    def latest(self) -> StoredCheckpoint | None:
        return self._newest()

    def latest_published(self) -> StoredCheckpoint | None:
        return self._newest(col(LedgerCheckpointRow.published_at).is_not(None))

    def latest_witnessed(self) -> StoredCheckpoint | None:
        return self._newest(col(LedgerCheckpointRow.witnessed_at).is_not(None))

    def latest_cosigned(self) -> StoredCheckpoint | None:
        size = self._session.exec(select(func.max(LedgerCosignatureRow.size))).one()
        return None if size is None else self._newest(col(LedgerCheckpointRow.size) == size)

    def witnessed(self) -> Sequence[StoredCheckpoint]:
        rows = self._session.exec(
            select(LedgerCheckpointRow)
            .where(col(LedgerCheckpointRow.witnessed_at).is_not(None))
            .order_by(col(LedgerCheckpointRow.size))
        )
        return [self._stored(row) for row in rows]

    def mark_published(self, size: int, at: datetime) -> None:
        self._session.execute(
            update(LedgerCheckpointRow)
            .where(
                col(LedgerCheckpointRow.size) == size,
                col(LedgerCheckpointRow.published_at).is_(None),
            )
            .values(published_at=at)
        )

    def mark_witnessed(self, size: int, at: datetime) -> None:
        self._session.execute(
            update(LedgerCheckpointRow)
            .where(
                col(LedgerCheckpointRow.size) == size,
                col(LedgerCheckpointRow.witnessed_at).is_(None),
            )
            .values(witnessed_at=at)
        )

    def add_cosignature(self, size: int, signature: Signature, at: datetime) -> None:
        values = {
            "size": size,
            "witness": signature.name,
            "key_id": signature.key_id,
            "cosigned_at": at,
            "line": signature.line,
        }
        self._insert_new(LedgerCosignatureRow, values, ["size", "witness", "key_id"])

    def cosigned_size(self, witness: VerifierKey) -> int:
        size = self._session.exec(
            select(func.max(LedgerCosignatureRow.size)).where(
                LedgerCosignatureRow.witness == witness.name,
                LedgerCosignatureRow.key_id == witness.key_id,
            )
        ).one()
        return 0 if size is None else size

    def _newest(self, *where: Any) -> StoredCheckpoint | None:
        row = self._session.exec(
            select(LedgerCheckpointRow)
            .where(*where)
            .order_by(col(LedgerCheckpointRow.size).desc())
            .limit(1)
            .execution_options(populate_existing=True)  # bulk statements go past loaded rows
        ).first()
        return None if row is None else self._stored(row)

    def _stored(self, row: LedgerCheckpointRow) -> StoredCheckpoint:
        note = Note.parse(row.note)
        lines = self._session.exec(
            select(LedgerCosignatureRow.line)
            .where(LedgerCosignatureRow.size == row.size)
            .order_by(LedgerCosignatureRow.witness, col(LedgerCosignatureRow.key_id))
        )
        return StoredCheckpoint(
            Checkpoint.parse(note.text),
            note.with_signatures(parse_lines("".join(lines))),
            row.signed_at,
            row.published_at,
            row.witnessed_at,
        )

    def _insert_new(
        self, row: type[SQLModel], values: Mapping[str, object], unique: Sequence[str]
    ) -> None:
        """Insert, unless a row with the same unique columns is there."""
        postgres = self._session.get_bind().dialect.name == "postgresql"
        statement = postgresql.insert(row) if postgres else sqlite.insert(row)
        self._session.execute(
            statement.values(**values).on_conflict_do_nothing(index_elements=list(unique))
        )


class SqlLogDatabase:
    """LogDatabase on an engine of ours: each transaction a session of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[SqlLogStore]:
        with Session(self._engine) as session, session.begin():
            yield SqlLogStore(session)
