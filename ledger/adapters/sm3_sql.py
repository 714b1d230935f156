"""The heads of the parallel SM3 tree in a SQL database."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger
from sqlmodel import Field, Session, SQLModel, col, select

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
        if row is None:
            return None
        note = Note.parse(row.note)
        return Sm3Head(Checkpoint.parse(note.text), note, row.edge, row.signed_at)

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
