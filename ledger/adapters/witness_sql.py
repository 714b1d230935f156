"""What a witness remembers, in a SQL database of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import BigInteger, Engine, Executable, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, Session, SQLModel, col, select

from ledger.errors import FormatRefused, MemoryDamaged
from ledger.ports import WitnessHead
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import Note


class WitnessHeadRow(SQLModel, table=True):
    """The last checkpoint of each log that was cosigned."""

    __tablename__ = "witness_head"

    origin: str = Field(primary_key=True)
    size: int = Field(sa_type=BigInteger)
    note: bytes
    cosigned_at: datetime


def create_witness_tables(engine: Engine) -> None:
    """For the first start only. A witness that lost its database must be retired, not restarted:
    with an empty memory it would cosign any history."""
    SQLModel.metadata.create_all(engine, [SQLModel.metadata.tables["witness_head"]])


class SqlWitnessStore:
    """WitnessStore on a session whose transaction the caller owns."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def head(self, origin: str) -> WitnessHead | None:
        row = self._session.exec(
            select(WitnessHeadRow)
            .where(WitnessHeadRow.origin == origin)
            .with_for_update()  # as SQLite's transactions are the only writer from their beginning
            .execution_options(populate_existing=True)
        ).first()
        return None if row is None else _read(row)

    def heads(self) -> Sequence[WitnessHead]:
        return [
            _read(row)
            for row in self._session.exec(select(WitnessHeadRow).order_by(WitnessHeadRow.origin))
        ]

    def advance(self, old: WitnessHead | None, new: WitnessHead) -> bool:
        values = {
            "size": new.checkpoint.size,
            "note": new.note,
            "cosigned_at": new.cosigned_at,
        }
        origin = new.checkpoint.origin
        if old is None:
            postgres = self._session.get_bind().dialect.name == "postgresql"
            insert = postgresql.insert if postgres else sqlite.insert
            statement: Executable = (
                insert(WitnessHeadRow)
                .values(origin=origin, **values)
                .on_conflict_do_nothing(index_elements=["origin"])
                .returning(col(WitnessHeadRow.origin))
            )
        else:
            # The note, not the size alone: an equal size must not hide another root.
            statement = (
                update(WitnessHeadRow)
                .where(
                    col(WitnessHeadRow.origin) == origin,
                    col(WitnessHeadRow.size) == old.checkpoint.size,
                    col(WitnessHeadRow.note) == old.note,
                )
                .values(**values)
                .returning(col(WitnessHeadRow.origin))
            )
        # Not rowcount: PostgreSQL's driver leaves it unknown for an insert made like this.
        return self._session.execute(statement).first() is not None


def _read(row: WitnessHeadRow) -> WitnessHead:
    """Raises MemoryDamaged for a row whose parts contradict each other."""
    try:
        checkpoint = Checkpoint.parse(Note.parse(row.note).text)
    except FormatRefused as error:
        raise MemoryDamaged(row.origin, str(error)) from error
    if (checkpoint.origin, checkpoint.size) != (row.origin, row.size):
        stated = f"it is filed under size {row.size}, and is {checkpoint.size} of "
        raise MemoryDamaged(row.origin, f"{stated}{checkpoint.origin!r}")
    return WitnessHead(checkpoint, row.note, row.cosigned_at)
