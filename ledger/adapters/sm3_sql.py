"""The heads of the parallel SM3 tree in a SQL database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import BigInteger, Engine
from sqlmodel import Field, Session, SQLModel, col, select

from ledger.errors import FormatRefused, LogDiverged, NotCovered
from ledger.ports import Sm3Head
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import Note


class LedgerSm3HeadRow(SQLModel, table=True):
    """note: signed with SM2. edge: roots of the complete subtrees, from which the tree grows on."""

    __tablename__ = "ledger_sm3_head"

    size: int = Field(primary_key=True, sa_type=BigInteger)
    note: bytes
    edge: bytes
    signed_at: datetime


class SqlSm3Store:
    """Sm3Store on a session whose transaction the caller owns."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def latest(self) -> Sm3Head | None:
        row = self._session.exec(
            select(LedgerSm3HeadRow).order_by(col(LedgerSm3HeadRow.size).desc()).limit(1)
        ).first()
        return None if row is None else _read(row)

    def sizes(self, above: int, limit: int) -> Sequence[int]:
        return self._session.exec(
            select(LedgerSm3HeadRow.size)
            .where(col(LedgerSm3HeadRow.size) > above)
            .order_by(col(LedgerSm3HeadRow.size))
            .limit(limit)
        ).all()

    def at(self, size: int) -> Sm3Head:
        row = self._session.get(LedgerSm3HeadRow, size)
        if row is None:
            raise NotCovered(f"no SM3 head of size {size} is stored")
        return _read(row)

    def add(self, head: Sm3Head) -> None:
        self._session.add(
            LedgerSm3HeadRow(
                size=head.checkpoint.size,
                note=head.note.to_bytes(),
                edge=head.edge,
                signed_at=head.signed_at,
            )
        )
        self._session.flush()


class SqlSm3Database:
    """Sm3Database on an engine of ours."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[SqlSm3Store]:
        with Session(self._engine) as session, session.begin():
            yield SqlSm3Store(session)


def _read(row: LedgerSm3HeadRow) -> Sm3Head:
    """Raises LogDiverged for a row that does not hold what was put there: it was altered."""
    try:
        if not isinstance(row.note, bytes) or not isinstance(row.edge, bytes):
            raise FormatRefused("head", "its bytes are marked as something else")
        note = Note.parse(row.note)
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.size != row.size:
            raise FormatRefused("head", f"states size {checkpoint.size}")
    except FormatRefused as error:
        raise LogDiverged(
            f"the stored SM3 head of size {row.size} was altered: {error}. Remove the SM3 heads, "
            "and let them be made again from the entries"
        ) from error
    return Sm3Head(checkpoint, note, row.edge, row.signed_at)
