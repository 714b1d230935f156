"""The outbox of anchors in a SQL database, SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Engine, func, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Field, Session, SQLModel, col, select

from ledger.adapters.sql import SqlLogStore
from ledger.ports import Anchor, AnchorState, Block, Fee, Place, Transaction

_OPEN = (AnchorState.READY, AnchorState.SENT, AnchorState.MINED)


class LedgerAnchorRow(SQLModel, table=True):
    """One head at one place. transaction_hash and block: of the transaction that is mined."""

    __tablename__ = "ledger_anchor"

    chain_id: int = Field(primary_key=True, sa_type=BigInteger)
    contract: str = Field(primary_key=True)
    size: int = Field(primary_key=True, sa_type=BigInteger)
    root: bytes
    state: str = Field(index=True)
    ready_at: datetime
    changed_at: datetime
    simulated: bool
    attempt: int
    transaction_hash: bytes | None = None
    block_number: int | None = Field(default=None, sa_type=BigInteger)
    block_hash: bytes | None = None


class LedgerTransactionRow(SQLModel, table=True):
    """One transaction that may anchor a head. fees in wei for a unit of gas."""

    __tablename__ = "ledger_anchor_transaction"

    chain_id: int = Field(primary_key=True, sa_type=BigInteger)
    contract: str = Field(primary_key=True)
    size: int = Field(primary_key=True, sa_type=BigInteger)
    number: int = Field(primary_key=True)
    hash: bytes
    sent_at: datetime
    nonce: int | None = Field(default=None, sa_type=BigInteger)
    max_fee: int | None = Field(default=None, sa_type=BigInteger)
    tip: int | None = Field(default=None, sa_type=BigInteger)


class SqlAnchorStore:
    """AnchorStore on a session whose transaction the caller owns."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.log = SqlLogStore(session)

    def newest(self, limit: int, *, below: int | None = None) -> Sequence[Anchor]:
        rows = self._session.exec(
            select(LedgerAnchorRow)
            .where(*([] if below is None else [col(LedgerAnchorRow.size) < below]))
            .order_by(
                col(LedgerAnchorRow.size).desc(),
                col(LedgerAnchorRow.chain_id),
                col(LedgerAnchorRow.contract),
            )
            .limit(limit)
            .execution_options(populate_existing=True)  # updates here go past loaded rows
        )
        return [self._anchor(row) for row in rows.all()]

    def open(self, place: Place) -> Sequence[Anchor]:
        return self._found(*_at(place), col(LedgerAnchorRow.state).in_(_OPEN))

    def latest(self, place: Place) -> Anchor | None:
        return self._largest(place, LedgerAnchorRow.state != AnchorState.SUPERSEDED)

    def latest_final(self, place: Place) -> Anchor | None:
        return self._largest(place, LedgerAnchorRow.state == AnchorState.FINAL)

    def add(self, anchor: Anchor) -> bool:
        postgres = self._session.get_bind().dialect.name == "postgresql"
        statement = (postgresql if postgres else sqlite).insert(LedgerAnchorRow)
        keys = {
            "chain_id": anchor.place.chain_id,
            "contract": anchor.place.contract,
            "size": anchor.size,
            "root": anchor.root,
            "ready_at": anchor.ready_at,
            "simulated": anchor.simulated,
        }
        done = self._session.execute(
            statement.values(**keys, **_changing(anchor))
            .on_conflict_do_nothing()
            .returning(col(LedgerAnchorRow.size))
        )
        return done.first() is not None

    def replace(self, old: Anchor, new: Anchor) -> bool:
        done = self._session.execute(
            update(LedgerAnchorRow)
            .where(
                *_at(old.place),
                col(LedgerAnchorRow.size) == old.size,
                col(LedgerAnchorRow.attempt) == old.attempt,
            )
            .values(**_changing(new))
            .returning(col(LedgerAnchorRow.size))
        )
        if done.first() is None:
            return False
        for number in range(len(old.transactions), len(new.transactions)):
            self._session.add(_transaction_row(new, number))
        return True

    def _largest(self, place: Place, *where: Any) -> Anchor | None:
        size = self._session.exec(
            select(func.max(LedgerAnchorRow.size)).where(*_at(place), *where)
        ).one()
        return None if size is None else self._found(*_at(place), LedgerAnchorRow.size == size)[0]

    def _found(self, *where: Any) -> Sequence[Anchor]:
        rows = self._session.exec(
            select(LedgerAnchorRow)
            .where(*where)
            .order_by(col(LedgerAnchorRow.size))
            .execution_options(populate_existing=True)  # updates here go past loaded rows
        )
        return [self._anchor(row) for row in rows.all()]

    def _anchor(self, row: LedgerAnchorRow) -> Anchor:
        place = Place(row.chain_id, row.contract)
        sent = self._session.exec(
            select(LedgerTransactionRow)
            .where(
                LedgerTransactionRow.chain_id == row.chain_id,
                LedgerTransactionRow.contract == row.contract,
                LedgerTransactionRow.size == row.size,
            )
            .order_by(col(LedgerTransactionRow.number))
        )
        block = None
        if row.block_number is not None and row.block_hash is not None:
            block = Block(row.block_number, row.block_hash)
        return Anchor(
            place,
            row.size,
            row.root,
            AnchorState(row.state),
            row.ready_at,
            row.changed_at,
            row.simulated,
            row.attempt,
            tuple(
                Transaction(
                    one.hash,
                    one.sent_at,
                    one.nonce,
                    None if one.max_fee is None else Fee(one.max_fee, one.tip),
                )
                for one in sent
            ),
            row.transaction_hash,
            block,
        )


class SqlAnchorDatabase:
    """AnchorDatabase on an engine of ours: each transaction a session of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[SqlAnchorStore]:
        with Session(self._engine) as session, session.begin():
            yield SqlAnchorStore(session)


def _at(place: Place) -> tuple[Any, Any]:
    return (
        col(LedgerAnchorRow.chain_id) == place.chain_id,
        col(LedgerAnchorRow.contract) == place.contract,
    )


def _changing(anchor: Anchor) -> dict[str, Any]:
    """The columns that a move may change."""
    return {
        "state": anchor.state,
        "changed_at": anchor.changed_at,
        "attempt": anchor.attempt,
        "transaction_hash": anchor.transaction,
        "block_number": None if anchor.block is None else anchor.block.number,
        "block_hash": None if anchor.block is None else anchor.block.hash,
    }


def _transaction_row(anchor: Anchor, number: int) -> LedgerTransactionRow:
    one = anchor.transactions[number]
    return LedgerTransactionRow(
        chain_id=anchor.place.chain_id,
        contract=anchor.place.contract,
        size=anchor.size,
        number=number,
        hash=one.hash,
        sent_at=one.sent_at,
        nonce=one.nonce,
        max_fee=None if one.fee is None else one.fee.max_wei,
        tip=None if one.fee is None else one.fee.tip_wei,
    )
