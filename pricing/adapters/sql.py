"""The account book in SQL, on SQLite and PostgreSQL.

The database repeats what the book promises: one row per (chain, step), one resolution per hold,
no party or escrow account below zero. Nothing here changes or deletes a transfer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    UniqueConstraint,
    or_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, select

from crypto import record
from crypto.record import Amount
from pricing.account import Account, AccountId
from pricing.errors import AccountNotFound, HoldResolved, TransferConflict
from pricing.transfer import Phase, Transfer, TransferId


class AccountRow(SQLModel, table=True):
    """id: the account's text form; kind repeats its first part for the floor's sake."""

    __tablename__ = "pricing_account"
    __table_args__ = (
        CheckConstraint(
            "kind = 'custody' OR posted >= outgoing", name="pricing_account_never_below_zero"
        ),
        CheckConstraint(
            "outgoing >= 0 AND incoming >= 0", name="pricing_account_pending_not_negative"
        ),
    )

    id: str = Field(primary_key=True)
    kind: str
    posted: int = Field(default=0, sa_type=BigInteger)
    outgoing: int = Field(default=0, sa_type=BigInteger)
    incoming: int = Field(default=0, sa_type=BigInteger)


class TransferRow(SQLModel, table=True):
    """place: the order in which transfers were stored; per account also the order they happened."""

    __tablename__ = "pricing_transfer"
    __table_args__ = (
        UniqueConstraint("chain", "step", name="pricing_transfer_once"),
        UniqueConstraint("resolves", name="pricing_transfer_resolves_once"),
        CheckConstraint("amount >= 0 AND reserved >= 0", name="pricing_transfer_not_negative"),
        CheckConstraint("phase <> 'post' OR amount <= reserved", name="pricing_transfer_within"),
        CheckConstraint("debit <> credit", name="pricing_transfer_two_accounts"),
        Index("pricing_transfer_debit", "debit", "place"),
        Index("pricing_transfer_credit", "credit", "place"),
    )

    # SQLite numbers rows by itself only in a column that is exactly INTEGER.
    place: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger().with_variant(Integer, "sqlite")
    )
    chain: str
    step: int
    phase: str
    debit: str = Field(sa_column_args=[ForeignKey("pricing_account.id")])
    credit: str = Field(sa_column_args=[ForeignKey("pricing_account.id")])
    amount: int = Field(sa_type=BigInteger)
    resolves: str | None
    reserved: int = Field(sa_type=BigInteger)
    reference: str
    at: str


class SqlBookStore:
    """The BookStore of one session; the caller begins and ends its transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def open(self, account: AccountId) -> None:
        row = {"id": str(account), "kind": account.kind.value}
        on_postgresql = self._session.get_bind().dialect.name == "postgresql"
        insert = postgresql.insert if on_postgresql else sqlite.insert
        self._session.execute(insert(AccountRow).values(row).on_conflict_do_nothing())

    def account(self, account: AccountId) -> Account:
        query = select(AccountRow).where(col(AccountRow.id) == str(account))
        for row in self._session.exec(query.execution_options(populate_existing=True)):
            return _account(row)
        raise AccountNotFound(account)

    def lock(self, accounts: Collection[AccountId]) -> Mapping[AccountId, Account]:
        query = (
            select(AccountRow)
            .where(col(AccountRow.id).in_([str(account) for account in accounts]))
            .order_by(col(AccountRow.id))
            .with_for_update()
            .execution_options(populate_existing=True)
        )
        locked = [_account(row) for row in self._session.exec(query)]
        found = {account.id: account for account in locked}
        for account in accounts:
            if account not in found:
                raise AccountNotFound(account)
        return found

    def chain(self, chain: TransferId) -> tuple[Transfer, ...]:
        query = select(TransferRow).where(col(TransferRow.chain) == chain)
        rows = self._session.exec(query.order_by(col(TransferRow.step)))
        return tuple(_transfer(row) for row in rows)

    def resolutions(self, hold: TransferId) -> tuple[Transfer, ...]:
        query = select(TransferRow).where(col(TransferRow.resolves) == hold)
        return tuple(_transfer(row) for row in self._session.exec(query))

    def save(self, accounts: Collection[Account], transfers: Sequence[Transfer]) -> None:
        changed = [
            {
                "id": str(account.id),
                "posted": int(account.posted),
                "outgoing": int(account.outgoing),
                "incoming": int(account.incoming),
            }
            for account in accounts
        ]
        self._session.execute(update(AccountRow), changed)
        self._session.add_all([_row(transfer) for transfer in transfers])
        try:
            self._session.flush()
        except IntegrityError as error:
            # Another transaction came first with the same id on other accounts, or with the
            # same hold; both are excluded by the locks, and by the constraints should they fail.
            for transfer in transfers:
                if transfer.resolves is not None and "resolves" in str(error.orig):
                    raise HoldResolved(transfer.resolves, "another transaction") from error
            if "chain" in str(error.orig) or "pricing_transfer_once" in str(error.orig):
                raise TransferConflict(transfers[0].chain) from error
            raise

    def accounts(self) -> Iterator[Account]:
        for row in self._session.exec(select(AccountRow).order_by(col(AccountRow.id))):
            yield _account(row)

    def journal(self, *, after: int, limit: int) -> Sequence[tuple[int, Transfer]]:
        query = select(TransferRow).where(col(TransferRow.place) > after)
        rows = self._session.exec(query.order_by(col(TransferRow.place)).limit(limit))
        return [(row.place or 0, _transfer(row)) for row in rows]

    def statement(
        self, account: AccountId, *, after: int, limit: int
    ) -> Sequence[tuple[int, Transfer]]:
        named = str(account)
        query = select(TransferRow).where(
            or_(col(TransferRow.debit) == named, col(TransferRow.credit) == named),
            col(TransferRow.place) > after,
        )
        rows = self._session.exec(query.order_by(col(TransferRow.place)).limit(limit))
        return [(row.place or 0, _transfer(row)) for row in rows]


def _account(row: AccountRow) -> Account:
    return Account(
        AccountId.parse(row.id), Amount(row.posted), Amount(row.outgoing), Amount(row.incoming)
    )


def _transfer(row: TransferRow) -> Transfer:
    return Transfer(
        chain=TransferId(row.chain),
        step=row.step,
        phase=Phase(row.phase),
        debit=AccountId.parse(row.debit),
        credit=AccountId.parse(row.credit),
        amount=Amount(row.amount),
        resolves=None if row.resolves is None else TransferId(row.resolves),
        reserved=Amount(row.reserved),
        reference=row.reference,
        at=record.decode_time(row.at),
    )


def _row(transfer: Transfer) -> TransferRow:
    return TransferRow(
        chain=str(transfer.chain),
        step=transfer.step,
        phase=transfer.phase.value,
        debit=str(transfer.debit),
        credit=str(transfer.credit),
        amount=int(transfer.amount),
        resolves=None if transfer.resolves is None else str(transfer.resolves),
        reserved=int(transfer.reserved),
        reference=transfer.reference,
        at=record.encode_time(transfer.at),
    )
