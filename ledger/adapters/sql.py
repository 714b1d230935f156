"""The log in a SQL database, SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Engine,
    Index,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import Field, Session, SQLModel, col, select

from crypto.digest import Digest
from ledger.errors import FormatRefused, LogDiverged, NotCovered, NotLogged
from ledger.ports import LoggedEntry, PendingEntry, StoredCheckpoint
from ledger.tree import Node, TiledNodes, tiles_of
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.merkle import HASH_BYTES
from ledger.verify.note import Note, Signature, VerifierKey, parse_lines
from ledger.verify.tile_names import Tile

_LOCK: Final = 0x756E7365656E4C47  # "unseenLG": this package's advisory lock on PostgreSQL
_CHUNK: Final = 500  # tiles or entries named in one query
_COPIED: Final = 32  # entries from which PostgreSQL's COPY is worth its savepoint
_AUTO_INCREMENT: Final = BigInteger().with_variant(Integer, "sqlite")
_PLACED: Final = "position IS NOT NULL"
_WAITING: Final = "position IS NULL"


def _where(condition: str) -> dict[str, Any]:
    """Options of an index of only the rows that meet the condition."""
    return {f"{database}_where": text(condition) for database in ("sqlite", "postgresql")}


class LedgerEntryRow(SQLModel, table=True):
    """position: the entry's index, absent while it is pending."""

    __tablename__ = "ledger_entry"
    # What waits is found in an index of its own. In one of all positions it would stand among what
    # waited before, which PostgreSQL keeps there until it is vacuumed.
    __table_args__ = (
        Index("ix_ledger_entry_position", "position", unique=True, **_where(_PLACED)),
        Index("ix_ledger_entry_pending", "arrival", **_where(_WAITING)),
    )

    arrival: int | None = Field(default=None, primary_key=True, sa_type=_AUTO_INCREMENT)
    digest: bytes = Field(unique=True)
    position: int | None = Field(default=None, sa_type=BigInteger)
    entry: bytes


class LedgerTileRow(SQLModel, table=True):
    """level, position: a tile's, as C2SP numbers them. hashes: 1 to 256 of them."""

    __tablename__ = "ledger_tile"

    level: int = Field(primary_key=True)
    position: int = Field(primary_key=True, sa_type=BigInteger)
    hashes: bytes


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


# Composed once: that takes longer than a small query takes to answer.
_CHECKPOINT: Final = SQLModel.metadata.tables["ledger_checkpoint"]
_COSIGNATURE: Final = SQLModel.metadata.tables["ledger_cosignature"]
_NEWEST: Final = _CHECKPOINT.select().order_by(_CHECKPOINT.c.size.desc()).limit(1)
_AT: Final = _NEWEST.where(_CHECKPOINT.c.size == bindparam("size"))
_NEWEST_PUBLISHED: Final = _NEWEST.where(_CHECKPOINT.c.published_at.is_not(None))
_NEWEST_WITNESSED: Final = _NEWEST.where(_CHECKPOINT.c.witnessed_at.is_not(None))
_WITNESSED_TO: Final = _NEWEST_WITNESSED.where(_CHECKPOINT.c.size <= bindparam("size"))
_WITNESSED_ABOVE: Final = (
    _CHECKPOINT.select()
    .where(_CHECKPOINT.c.witnessed_at.is_not(None), _CHECKPOINT.c.size > bindparam("size"))
    .order_by(_CHECKPOINT.c.size)
    .limit(1)
)
_NEWEST_COSIGNED: Final = _NEWEST.where(
    _CHECKPOINT.c.size
    == _COSIGNATURE.select().with_only_columns(func.max(_COSIGNATURE.c.size)).scalar_subquery()
)
_COSIGNATURES: Final = (
    _COSIGNATURE.select()
    .where(_COSIGNATURE.c.size == bindparam("size"))
    .order_by(_COSIGNATURE.c.witness, _COSIGNATURE.c.key_id)
)
# On both databases, `arrival` rises in the order in which the rows are given.
_QUEUE_SQLITE: Final = (
    "INSERT INTO ledger_entry (digest, entry) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING"
)
_QUEUE_POSTGRES: Final = text(
    "INSERT INTO ledger_entry (digest, entry) "
    "SELECT * FROM unnest(CAST(:digests AS bytea[]), CAST(:entries AS bytea[])) "
    "ON CONFLICT (digest) DO NOTHING"
)
_COPY: Final = "COPY ledger_entry (digest, entry) FROM STDIN (FORMAT BINARY)"
_PENDING: Final = text(
    "SELECT arrival, entry FROM ledger_entry WHERE position IS NULL ORDER BY arrival LIMIT :limit"
)
_PLACE: Final = text(
    "UPDATE ledger_entry SET position = arrival + :shift WHERE arrival BETWEEN :first AND :last"
)
_INDICES_SQLITE: Final = "SELECT digest, position FROM ledger_entry WHERE digest IN"
_ADOPT: Final = text(
    "UPDATE ledger_entry SET position = :position WHERE digest = :digest AND position IS NULL"
)
_INDICES_POSTGRES: Final = text(
    "SELECT digest, position FROM ledger_entry WHERE digest = ANY(CAST(:digests AS bytea[]))"
)
_TILES: Final = text(
    "SELECT level, position, hashes FROM ledger_tile WHERE (level, position) IN :keys"
).bindparams(bindparam("keys", expanding=True))
_ADD_TILES: Final = text(
    "INSERT INTO ledger_tile (level, position, hashes) VALUES (:level, :position, :hashes)"
)
_WIDEN: Final = text(
    "UPDATE ledger_tile SET hashes = :hashes WHERE level = :level AND position = :position "
    "AND length(hashes) = :size"
)


class SqlLogStore:
    """LogStore on a session whose transaction the caller owns."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._postgres = session.get_bind().dialect.name == "postgresql"

    def lead(self) -> bool:
        # On SQLite every transaction of ours begins as the only writer (BEGIN IMMEDIATE).
        if not self._postgres:
            return True
        lock = text("SELECT pg_try_advisory_xact_lock(:key)")
        return bool(self._session.execute(lock, {"key": _LOCK}).scalar_one())

    def queue(self, entries: Sequence[tuple[Digest, bytes]]) -> None:
        rows = [(name.raw, entry) for name, entry in entries]
        if not self._postgres:
            if rows:
                self._session.connection().exec_driver_sql(_QUEUE_SQLITE, rows)
        elif len(rows) < _COPIED or not self._copied(rows):
            columns = {"digests": [name for name, _ in rows], "entries": [data for _, data in rows]}
            self._session.execute(_QUEUE_POSTGRES, columns)

    def _copied(self, rows: Sequence[tuple[bytes, bytes]]) -> bool:
        """Queue by COPY, at half the cost; False, changing nothing, if an entry is there already:
        COPY cannot leave one out."""
        from psycopg.errors import UniqueViolation

        connection = self._session.connection()
        driver: Any = connection.connection.dbapi_connection
        try:
            # A savepoint of SQLAlchemy's: the driver's own `transaction` would commit ours when
            # nothing has been asked in it yet.
            with connection.begin_nested(), driver.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(["bytea", "bytea"])
                for row in rows:
                    copy.write_row(row)
        except UniqueViolation:
            return False
        return True

    def pending(self, limit: int) -> Sequence[PendingEntry]:
        with _reading("pending entries"):
            rows = self._session.execute(_PENDING, {"limit": limit}).all()
        return [
            PendingEntry(arrival, _blob(entry, f"pending entry {arrival}"))
            for arrival, entry in rows
        ]

    def place(self, arrivals: Sequence[int], first_index: int) -> None:
        # One statement for each run of arrivals without a gap: most batches are one run.
        runs: list[dict[str, int]] = []
        for index, arrival in enumerate(arrivals, start=first_index):
            if runs and arrival == runs[-1]["last"] + 1:
                runs[-1]["last"] = arrival
            else:
                runs.append({"first": arrival, "last": arrival, "shift": index - arrival})
        if runs:
            self._session.execute(_PLACE, runs)

    def adopt(self, digests: Sequence[Digest], first_index: int) -> None:
        wanted = range(first_index, first_index + len(digests))
        rows = [
            {"position": index, "digest": digest.raw}
            for index, digest in zip(wanted, digests, strict=True)
        ]
        try:
            self._session.execute(_ADOPT, rows)
        except IntegrityError as error:
            raise LogDiverged("another entry is stored where the full copy has one") from error
        if list(self.indices_of(digests)) != list(wanted):
            raise LogDiverged("an entry of the full copy is stored elsewhere in the log already")

    def placed(self) -> int:
        placed = col(LedgerEntryRow.position).is_not(None)  # SQLite: else it reads every row
        highest = self._session.exec(select(func.max(LedgerEntryRow.position)).where(placed)).one()
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

    def indices_of(self, digests: Sequence[Digest]) -> Sequence[int | None]:
        wanted = [digest.raw for digest in digests]
        found: dict[bytes, int | None] = {}
        if self._postgres:
            rows = self._session.execute(_INDICES_POSTGRES, {"digests": wanted})
            found.update((row[0], row[1]) for row in rows.all())
        for begin in range(0, 0 if self._postgres else len(wanted), _CHUNK):
            chunk = wanted[begin : begin + _CHUNK]
            query = f"{_INDICES_SQLITE} ({','.join('?' * len(chunk))})"
            rows = self._session.connection().exec_driver_sql(query, tuple(chunk))
            found.update((row[0], row[1]) for row in rows.all())
        try:
            return [found[raw] for raw in wanted]
        except KeyError as error:
            raise NotLogged(Digest(error.args[0])) from None

    def entries(self, start: int, end: int) -> Sequence[LoggedEntry]:
        wanted = (
            select(LedgerEntryRow.position, LedgerEntryRow.entry)
            .where(col(LedgerEntryRow.position) >= start, col(LedgerEntryRow.position) < end)
            .order_by(col(LedgerEntryRow.position))
        )
        with _reading(f"entries {start} to {end - 1}"):
            rows = self._session.exec(wanted).all()
        return [
            LoggedEntry(index, _blob(entry, f"entry {index}"))
            for index, entry in rows
            if index is not None
        ]

    def nodes(self, wanted: Collection[Node]) -> Mapping[Node, bytes]:
        nodes = TiledNodes(self.tiles(tiles_of(wanted)))
        return {node: nodes[node] for node in wanted}

    def tiles(self, wanted: Collection[Tile]) -> Mapping[Tile, bytes]:
        todo = sorted(wanted)
        found: dict[tuple[int, int], bytes] = {}
        for begin in range(0, len(todo), _CHUNK):
            keys = [(tile.level, tile.index) for tile in todo[begin : begin + _CHUNK]]
            with _reading("tiles"):
                rows = self._session.execute(_TILES, {"keys": keys}).all()
            for level, position, hashes in rows:
                found[level, position] = _blob(hashes, f"tile {position} of level {level}")
        tiles: dict[Tile, bytes] = {}
        for tile in todo:
            hashes = found.get((tile.level, tile.index), b"")
            if len(hashes) < tile.width * HASH_BYTES:
                raise _lacks(f"the tile {tile.path}")
            tiles[tile] = hashes[: tile.width * HASH_BYTES]
        return tiles

    def add_tiles(self, tiles: Mapping[Tile, bytes], *, over: Collection[Tile]) -> None:
        before = {(tile.level, tile.index): tile for tile in over}
        new = []
        for tile, hashes in tiles.items():
            row = {"level": tile.level, "position": tile.index, "hashes": hashes}
            old = before.get((tile.level, tile.index))
            if old is None:
                new.append(row)
                continue
            widened: Any = self._session.execute(_WIDEN, {**row, "size": old.width * HASH_BYTES})
            if widened.rowcount != 1:
                raise _larger()
        try:
            if new:
                self._session.execute(_ADD_TILES, new)
        except IntegrityError as error:
            raise _larger() from error

    def replace_entry(self, index: int, digest: Digest, entry: bytes) -> None:
        self._session.execute(
            delete(LedgerEntryRow).where(
                or_(
                    col(LedgerEntryRow.position) == index,
                    and_(
                        col(LedgerEntryRow.digest) == digest.raw,
                        col(LedgerEntryRow.position).is_(None),
                    ),
                )
            )
        )
        row = {"digest": digest.raw, "position": index, "entry": entry}
        self._session.execute(insert(LedgerEntryRow), [row])

    def replace_hashes(self, tile: Tile, hashes: bytes) -> None:
        place = (
            col(LedgerTileRow.level) == tile.level,
            col(LedgerTileRow.position) == tile.index,
        )
        stored = self._session.exec(select(LedgerTileRow.hashes).where(*place)).first() or b""
        self._session.execute(delete(LedgerTileRow).where(*place))
        whole = hashes + stored[len(hashes) : tile.width * HASH_BYTES]
        row = {"level": tile.level, "position": tile.index, "hashes": whole}
        self._session.execute(_ADD_TILES, [row])

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
        found = self._head(_AT, size=size)
        if found is None:
            raise NotCovered(f"the log has signed no checkpoint of size {size}")
        return found

    def latest(self) -> StoredCheckpoint | None:
        return self._head(_NEWEST)

    def sizes(self, above: int, limit: int) -> Sequence[int]:
        return self._session.exec(
            select(LedgerCheckpointRow.size)
            .where(col(LedgerCheckpointRow.size) > above)
            .order_by(col(LedgerCheckpointRow.size))
            .limit(limit)
        ).all()

    def latest_published(self) -> StoredCheckpoint | None:
        return self._head(_NEWEST_PUBLISHED)

    def latest_witnessed(self) -> StoredCheckpoint | None:
        return self._head(_NEWEST_WITNESSED)

    def witnessed_to(self, size: int) -> StoredCheckpoint | None:
        return self._head(_WITNESSED_TO, size=size)

    def witnessed_above(self, size: int) -> StoredCheckpoint | None:
        return self._head(_WITNESSED_ABOVE, size=size)

    def latest_cosigned(self) -> StoredCheckpoint | None:
        return self._head(_NEWEST_COSIGNED)

    def witnessed(self, *, skip: int = 0, limit: int | None = None) -> Sequence[StoredCheckpoint]:
        wanted = (
            _CHECKPOINT.select()
            .where(_CHECKPOINT.c.witnessed_at.is_not(None))
            .order_by(_CHECKPOINT.c.size)
            .offset(skip)
            .limit(limit)
        )
        rows = self._session.execute(wanted).all()
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

    def _head(self, wanted: Select[Any], **of: int) -> StoredCheckpoint | None:
        with _reading("checkpoints"):
            row = self._session.execute(wanted, of).first()
        return None if row is None else self._stored(row)

    def _stored(self, row: Row[Any]) -> StoredCheckpoint:
        """Raises LogDiverged for a row that does not hold what was put there: it was altered."""
        with _reading(f"cosignatures under size {row.size}"):
            found = self._session.execute(_COSIGNATURES, {"size": row.size}).all()
        try:
            note = Note.parse(_blob(row.note, f"checkpoint of size {row.size}"))
            checkpoint = Checkpoint.parse(note.text)
        except FormatRefused as error:
            raise _altered(f"checkpoint of size {row.size}", str(error)) from error
        if checkpoint.size != row.size:
            raise _altered(f"checkpoint of size {row.size}", f"states size {checkpoint.size}")
        cosignatures = []
        for _, witness, key_id, _, line in found:
            where = f"cosignature of {witness} under size {row.size}"
            try:
                (signature,) = parse_lines(line)
            except (FormatRefused, ValueError) as error:
                raise _altered(where, str(error)) from error
            if (signature.name, signature.key_id) != (witness, key_id):
                raise _altered(where, f"is a line of {signature.name}, or of another key of it")
            cosignatures.append(signature)
        return StoredCheckpoint(
            checkpoint,
            note.with_signatures(cosignatures),
            row.signed_at,
            row.published_at,
            row.witnessed_at,
        )

    def _insert_new(
        self, row: type[SQLModel], values: Mapping[str, object], unique: Sequence[str]
    ) -> None:
        """Insert, unless a row with the same unique columns is there."""
        statement = postgresql.insert(row) if self._postgres else sqlite.insert(row)
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


def _lacks(what: str) -> LogDiverged:
    return LogDiverged(f"the stored tree lacks {what}: stop, and restore the log from a full copy")


def _blob(value: object, what: str) -> bytes:
    """SQLite keeps a type with each value: one flipped bit makes a text of what was bytes."""
    if not isinstance(value, bytes):
        raise _altered(what, "its bytes are marked as something else")
    return value


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if "decode" not in str(error.orig):
            raise
        raise _altered(what, "bytes are marked as text") from error


def _altered(what: str, problem: str) -> LogDiverged:
    return LogDiverged(f"the stored {what} was altered: {problem}. Restore it from a full copy")


def _larger() -> LogDiverged:
    return LogDiverged(
        "the stored tree is not of the size that was signed last: stop, and restore the log from "
        "a full copy"
    )
