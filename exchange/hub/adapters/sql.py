"""The hub's own rows, and the store whose transactions cover every package's rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Engine,
    Index,
    Integer,
    and_,
    func,
    not_,
    or_,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlmodel import Field, Session, SQLModel, col, select

from crypto import record
from crypto.digest import Digest
from crypto.identifiers import DealId, JobId, NegotiationId, PartyId, ProductId
from crypto.statement import ChainHead, Statement
from exchange.errors import IllegalTransition, UnknownSubject
from exchange.hub.model import Delivery, Filed, HubAgreement, HubJob, JobEventNote, Outcome
from exchange.jobs import JobState
from exchange.privacy import NOTHING, PrivacyCost
from exchange.terms.agreement import Agreement
from exchange.terms.negotiation import Negotiation
from ledger.adapters.anchor_sql import SqlAnchorStore
from ledger.adapters.sm3_sql import SqlSm3Store
from ledger.adapters.sql import LedgerEntryRow, SqlLogStore
from pricing.adapters.sql import SqlBookStore
from registry.adapters.sql import SqlPartyStore, SqlProductStore

_AUTO_INCREMENT: Final = BigInteger().with_variant(Integer, "sqlite")

_R = TypeVar("_R", bound=SQLModel)


class ChainRow(SQLModel, table=True):
    """Where an actor's chain stands. Locked first in every act of the actor."""

    __tablename__ = "hub_chain"

    actor: str = Field(primary_key=True)
    next_seq: int = Field(sa_type=BigInteger)
    last: str | None


class StatementRow(SQLModel, table=True):
    """What became of each statement, in order of arrival.

    Anybody may speak of a subject without end, so the index answers by itself who did, how often,
    and which of it had an effect.
    """

    __tablename__ = "hub_statement"
    __table_args__ = (
        Index("ix_hub_statement_about", "subject", "actor", "number", "applied", "kind"),
    )

    number: int | None = Field(default=None, primary_key=True, sa_type=_AUTO_INCREMENT)
    digest: str = Field(unique=True)
    actor: str
    subject: str
    kind: str
    applied: bool
    reason: str


class DocumentRow(SQLModel, table=True):
    __tablename__ = "hub_document"

    digest: str = Field(primary_key=True)
    data: bytes


class OpeningRow(SQLModel, table=True):
    """sealed: to the reader's key; the hub cannot open it."""

    __tablename__ = "hub_opening"

    statement: str = Field(primary_key=True)
    reader: str = Field(primary_key=True)
    sealed: bytes


class NegotiationRow(SQLModel, table=True):
    __tablename__ = "hub_negotiation"

    id: str = Field(primary_key=True)
    deal: str = Field(index=True)
    consumer: str = Field(index=True)
    holder: str = Field(index=True)
    state: str
    document: bytes


class AgreementRow(SQLModel, table=True):
    __tablename__ = "hub_agreement"

    digest: str = Field(primary_key=True)
    deal: str = Field(index=True)
    runs_used: int
    epsilon_used: str
    document: bytes


class PrivacyAccountRow(SQLModel, table=True):
    """The exact sums of `exchange.privacy.PrivacyCost`, as fractions."""

    __tablename__ = "hub_privacy_account"

    product: str = Field(primary_key=True)
    epsilon: str
    gaussian: str
    rho: str
    delta: str


class JobRow(SQLModel, table=True):
    """settled: no money of this job is in escrow any more."""

    __tablename__ = "hub_job"

    id: str = Field(primary_key=True)
    deal: str = Field(index=True)
    consumer: str = Field(index=True)
    state: str
    settled: bool = Field(index=True)
    document: bytes


class JobHolderRow(SQLModel, table=True):
    """Who takes part in which job: the index behind `jobs_of`."""

    __tablename__ = "hub_job_holder"

    holder: str = Field(primary_key=True)
    job: str = Field(primary_key=True, foreign_key="hub_job.id")


class DeliveryRow(SQLModel, table=True):
    """place: rises for each party; a party asks for what is after the last it has seen."""

    __tablename__ = "hub_delivery"

    party: str = Field(primary_key=True)
    place: int = Field(primary_key=True, sa_type=BigInteger)
    entry: bytes
    documents: bytes


class InboxRow(SQLModel, table=True):
    """The place of a party's next delivery. Locked to give places without gaps out of order."""

    __tablename__ = "hub_inbox"

    party: str = Field(primary_key=True)
    last: int = Field(sa_type=BigInteger)


class NoteRow(SQLModel, table=True):
    __tablename__ = "hub_note"

    number: int | None = Field(default=None, primary_key=True, sa_type=_AUTO_INCREMENT)
    job: str = Field(index=True)
    stage: str
    party: str
    detail: str
    at: str


class SqlHubTransaction:
    """HubTransaction on one session. Row locks are no-ops on SQLite, whose transactions already
    begin as the only writer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._locked: dict[tuple[type[SQLModel], object], SQLModel] = {}
        self.parties = SqlPartyStore(session)
        self.products = SqlProductStore(session)
        self.book = SqlBookStore(session)
        self.log = SqlLogStore(session)
        self.sm3 = SqlSm3Store(session)
        self.anchors = SqlAnchorStore(session)

    @property
    def _is_postgres(self) -> bool:
        return self._session.get_bind().dialect.name == "postgresql"

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        before = dict(self._locked)
        first: OperationalError | None = None
        try:
            with self._session.begin_nested():
                try:
                    yield
                except OperationalError as error:
                    first = error
                    raise
        except BaseException:
            self._locked = before  # going back to a savepoint gives back the locks taken since
            if first is not None:
                # A full disk ends SQLite's whole transaction: then there is nothing to go back
                # to, which fails as well and says nothing of the disk.
                raise first  # noqa: B904 - it is the cause, not a consequence
            raise

    def chain(self, actor: PartyId) -> ChainHead:
        row = self._session.get(ChainRow, actor, populate_existing=True)
        return ChainHead() if row is None else _head(row)

    def lock_chain(self, actor: PartyId) -> ChainHead:
        return _head(self._lock_or_begin(ChainRow, {"actor": actor, "next_seq": 0, "last": None}))

    def save_chain(self, actor: PartyId, head: ChainHead) -> None:
        last = str(head.last) if head.last else None
        row = self._lock_or_begin(ChainRow, {"actor": actor, "next_seq": 0, "last": None})
        row.next_seq, row.last = head.next_seq, last

    def unchained(self) -> int:
        entries = self._session.exec(select(func.count(col(LedgerEntryRow.arrival)))).one()
        known = self._session.exec(select(func.sum(ChainRow.next_seq))).one()
        return entries - int(known or 0)

    def outcome(self, statement: Digest) -> Outcome | None:
        row = self._session.exec(
            select(StatementRow.applied, StatementRow.reason).where(
                StatementRow.digest == str(statement)
            )
        ).first()
        return None if row is None else Outcome(statement, *row)

    def save_outcome(self, outcome: Outcome, *, of: Statement) -> None:
        row = {
            "digest": str(outcome.statement),
            "actor": of.actor,
            "subject": of.subject,
            "kind": of.type,
            "applied": outcome.applied,
            "reason": outcome.reason,
        }
        self._insert(StatementRow, row, key="digest", replacing=("applied", "reason"))

    def was_taken_in(self, statement: Digest, *, kind: str, subject: str) -> bool:
        row = self._session.exec(
            select(StatementRow.kind, StatementRow.subject, StatementRow.applied).where(
                StatementRow.digest == str(statement)
            )
        ).first()
        return row is not None and tuple(row) == (kind, subject, True)

    def first_said(self, subject: str, *, by: PartyId, kind: str) -> Digest | None:
        query = select(StatementRow.digest).where(
            StatementRow.subject == subject, StatementRow.actor == by, StatementRow.kind == kind
        )
        first = self._session.exec(query.order_by(col(StatementRow.number)).limit(1)).first()
        return None if first is None else Digest.parse(first)

    def taken_in(self, subjects: Sequence[str], *, kinds: Collection[str]) -> Sequence[Digest]:
        query = select(StatementRow.digest).where(
            col(StatementRow.subject).in_(subjects),
            col(StatementRow.applied),
            col(StatementRow.kind).in_(kinds),
        )
        rows = self._session.exec(query.order_by(col(StatementRow.number)))
        return [Digest.parse(row) for row in rows]

    def effective(
        self, subjects: Sequence[str], *, never: Collection[str], once: Collection[str]
    ) -> Sequence[Digest]:
        about = col(StatementRow.subject).in_(subjects)
        query = select(StatementRow.digest).where(about, _effective(subjects, never, once))
        rows = self._session.exec(query.order_by(col(StatementRow.number)))
        return [Digest.parse(row) for row in rows]

    def idle(
        self, subjects: Sequence[str], *, never: Collection[str], once: Collection[str]
    ) -> Mapping[tuple[PartyId, str], int]:
        about = col(StatementRow.subject).in_(subjects)
        by = (StatementRow.actor, StatementRow.subject)
        rows = self._session.exec(
            select(*by, func.count())
            .where(about, not_(_effective(subjects, never, once)))
            .group_by(*by)
        )
        return {(PartyId(actor), subject): count for actor, subject, count in rows}

    def first_idle(
        self,
        actor: PartyId,
        subject: str,
        *,
        never: Collection[str],
        once: Collection[str],
        since: Digest | None,
        limit: int,
    ) -> Sequence[Filed]:
        number = col(StatementRow.number)
        query = select(StatementRow.number, StatementRow.digest).where(
            StatementRow.subject == subject,
            StatementRow.actor == actor,
            not_(_effective([subject], never, once)),
        )
        if since is not None:
            after = select(StatementRow.number).where(StatementRow.digest == str(since))
            query = query.where(number > after.scalar_subquery())
        rows = self._session.exec(query.order_by(number).limit(limit))
        return [Filed(place or 0, Digest.parse(name), actor, subject) for place, name in rows]

    def add_document(self, digest: Digest, data: bytes) -> None:
        self._insert(DocumentRow, {"digest": str(digest), "data": data}, key="digest")

    def confirm_document(self, digest: Digest, data: bytes) -> None:
        row = {"digest": str(digest), "data": data}
        self._insert(DocumentRow, row, key="digest", replacing=("data",))

    def document(self, digest: Digest) -> bytes:
        data = self._session.exec(
            select(DocumentRow.data).where(DocumentRow.digest == str(digest))
        ).first()
        if data is None:
            raise UnknownSubject(str(digest))
        return data

    def add_opening(self, statement: Digest, reader: PartyId, sealed: bytes) -> None:
        self._session.add(OpeningRow(statement=str(statement), reader=reader, sealed=sealed))

    def openings(self, statement: Digest) -> Sequence[tuple[PartyId, bytes]]:
        rows = self._session.exec(
            select(OpeningRow)
            .where(OpeningRow.statement == str(statement))
            .order_by(col(OpeningRow.reader))
        )
        return [(PartyId(row.reader), row.sealed) for row in rows]

    def lock_negotiation(self, negotiation: NegotiationId) -> Negotiation | None:
        row = self._lock_even_if_new(NegotiationRow, negotiation)
        return None if row is None else record.from_bytes(Negotiation, row.document)

    def save_negotiation(self, negotiation: Negotiation) -> None:
        self._session.merge(
            NegotiationRow(
                id=negotiation.id,
                deal=negotiation.deal,
                consumer=negotiation.consumer,
                holder=negotiation.holder,
                state=negotiation.state,
                document=record.to_bytes(negotiation),
            )
        )
        self._session.flush()

    def negotiations_of(self, party: PartyId) -> Sequence[Negotiation]:
        rows = self._session.exec(
            select(NegotiationRow)
            .where(or_(col(NegotiationRow.consumer) == party, col(NegotiationRow.holder) == party))
            .order_by(col(NegotiationRow.id))
        )
        return [record.from_bytes(Negotiation, row.document) for row in rows]

    def consumer_of(self, deal: DealId) -> PartyId | None:
        query = select(NegotiationRow.consumer).where(NegotiationRow.deal == deal).limit(1)
        found = self._session.exec(query).first()
        return None if found is None else PartyId(found)

    def negotiations_of_deal(self, deal: DealId) -> Sequence[Negotiation]:
        rows = self._session.exec(
            select(NegotiationRow)
            .where(NegotiationRow.deal == deal)
            .order_by(col(NegotiationRow.id))
        )
        return [record.from_bytes(Negotiation, row.document) for row in rows]

    def add_agreement(self, agreement: HubAgreement) -> None:
        self._session.add(
            AgreementRow(
                digest=str(agreement.digest),
                deal=agreement.agreement.deal,
                runs_used=agreement.runs_used,
                epsilon_used=_fraction(agreement.epsilon_used),
                document=record.to_bytes(agreement.agreement),
            )
        )
        self._session.flush()

    def lock_agreement(self, digest: Digest) -> HubAgreement:
        row = self._lock(AgreementRow, str(digest))
        if row is None:
            raise UnknownSubject(f"agreement {digest}")
        return _agreement(row)

    def save_agreement(self, agreement: HubAgreement) -> None:
        row = self._lock(AgreementRow, str(agreement.digest))
        if row is None:
            raise UnknownSubject(f"agreement {agreement.digest}")
        row.runs_used = agreement.runs_used
        row.epsilon_used = _fraction(agreement.epsilon_used)
        self._session.flush()

    def lock_privacy(self, product: ProductId) -> PrivacyCost:
        row = self._lock_or_begin(PrivacyAccountRow, {"product": product, **_sums(NOTHING)})
        return PrivacyCost(**{name: Fraction(getattr(row, name)) for name in _sums(NOTHING)})

    def save_privacy(self, product: ProductId, spent: PrivacyCost) -> None:
        row = self._lock_or_begin(PrivacyAccountRow, {"product": product, **_sums(NOTHING)})
        for name, value in _sums(spent).items():
            setattr(row, name, value)
        self._session.flush()

    def agreements_of(self, deal: str) -> Sequence[HubAgreement]:
        rows = self._session.exec(select(AgreementRow).where(AgreementRow.deal == deal))
        return [_agreement(row) for row in rows]

    def job(self, job: JobId) -> HubJob:
        return _job(self._session.get(JobRow, job, populate_existing=True), job)

    def lock_job(self, job: JobId) -> HubJob:
        return _job(self._lock_even_if_new(JobRow, job), job)

    def add_job(self, job: HubJob) -> None:
        if self._session.get(JobRow, job.id) is not None:
            raise IllegalTransition(job.id, "known already", "submit")
        self._session.add(
            JobRow(
                id=job.id,
                deal=job.deal,
                consumer=job.consumer,
                state=job.state,
                settled=job.settled,
                document=record.to_bytes(job),
            )
        )
        self._session.flush()
        for holder in job.parties:
            self._session.add(JobHolderRow(holder=holder, job=job.id))
        self._session.flush()

    def save_job(self, job: HubJob, *, was: JobState) -> None:
        changed = self._session.execute(
            update(JobRow)
            .where(col(JobRow.id) == job.id, col(JobRow.state) == was)
            .values(state=job.state, settled=job.settled, document=record.to_bytes(job))
        )
        if changed.rowcount != 1:  # type: ignore[attr-defined]
            raise IllegalTransition(job.id, "no longer " + was, "save")

    def jobs_of(self, party: PartyId) -> Sequence[HubJob]:
        held = select(JobHolderRow.job).where(JobHolderRow.holder == party)
        rows = self._session.exec(
            select(JobRow)
            .where(or_(col(JobRow.consumer) == party, col(JobRow.id).in_(held)))
            .order_by(col(JobRow.id))
        )
        return [_read_job(bytes(row.document)) for row in rows]

    def jobs_of_deal(self, deal: str) -> Sequence[HubJob]:
        rows = self._session.exec(
            select(JobRow).where(JobRow.deal == deal).order_by(col(JobRow.id))
        )
        return [_read_job(bytes(row.document)) for row in rows]

    def unsettled_jobs(self) -> Sequence[HubJob]:
        rows = self._session.exec(
            select(JobRow.document).where(col(JobRow.settled).is_(False)).order_by(col(JobRow.id))
        )
        return [_read_job(bytes(row)) for row in rows]

    def lock_inboxes(self, parties: Collection[PartyId]) -> None:
        for party in sorted(set(parties)):
            self._lock_or_begin(InboxRow, {"party": party, "last": 0})

    def deliver(self, to: PartyId, entry: bytes, documents: Sequence[bytes]) -> None:
        row = self._lock_or_begin(InboxRow, {"party": to, "last": 0})
        row.last += 1
        self._session.add(
            DeliveryRow(
                party=to,
                place=row.last,
                entry=entry,
                documents=record.to_bytes(tuple(documents)),
            )
        )

    def deliveries(self, to: PartyId, *, after: int, limit: int) -> Sequence[Delivery]:
        rows = self._session.exec(
            select(DeliveryRow)
            .where(DeliveryRow.party == to, col(DeliveryRow.place) > after)
            .order_by(col(DeliveryRow.place))
            .limit(limit)
        )
        return [
            Delivery(row.place, row.entry, record.from_bytes(tuple[bytes, ...], row.documents))
            for row in rows
        ]

    def newest_deliveries(self, parties: Collection[PartyId]) -> Mapping[PartyId, int]:
        rows = self._session.exec(select(InboxRow).where(col(InboxRow.party).in_(parties)))
        return {PartyId(row.party): row.last for row in rows}

    def note(self, job: JobId, stage: str, party: PartyId, detail: str, at: datetime) -> None:
        self._session.add(
            NoteRow(job=job, stage=stage, party=party, detail=detail, at=record.encode_time(at))
        )

    def notes(self, job: JobId, *, after: int) -> Sequence[JobEventNote]:
        rows = self._session.exec(
            select(NoteRow)
            .where(NoteRow.job == job, col(NoteRow.number) > after)
            .order_by(col(NoteRow.number))
        )
        return [_note(row) for row in rows]

    def last_note(self, job: JobId) -> JobEventNote | None:
        row = self._session.exec(
            select(NoteRow).where(NoteRow.job == job).order_by(col(NoteRow.number).desc()).limit(1)
        ).first()
        return None if row is None else _note(row)

    def _lock_even_if_new(self, kind: type[_R], key: str) -> _R | None:
        """The row, locked. Where there is none, another transaction that looks for it or makes it
        goes on only after this one: a row that is being made is nothing yet that one could wait
        for."""
        options: Any = {"with_for_update": True, "populate_existing": True}
        row = self._session.get(kind, key, **options)
        if row is None and self._is_postgres:
            lock = text("SELECT pg_advisory_xact_lock(hashtext(:kind), hashtext(:key))")
            self._session.execute(lock, {"kind": kind.__tablename__, "key": key})
            row = self._session.get(kind, key, **options)
        return row

    def _lock_or_begin(self, kind: type[_R], first: Mapping[str, object]) -> _R:
        """Lock the row with this primary key, the first of `first`, making it if there is none.

        Two transactions that both find none must not both go on as the first: of the two
        insertions one waits for the other's commit and then finds its row.
        """
        key, value = next(iter(first.items()))
        if (row := self._lock(kind, value)) is not None:
            return row
        self._insert(kind, first, key=key)
        made = self._session.get_one(kind, value, with_for_update=True, populate_existing=True)
        self._locked[kind, value] = made
        return made

    def _insert(
        self,
        kind: type[SQLModel],
        row: Mapping[str, object],
        *,
        key: str,
        replacing: Collection[str] = (),
    ) -> None:
        """Insert a row; where one has this `key` already, replace these columns of it, or none."""
        statement = _insertion(kind, key, tuple(replacing), self._is_postgres)
        self._session.connection().execute(statement, dict(row))

    def _lock(self, kind: type[_R], key: object) -> _R | None:
        """The row, locked until the transaction ends. One that is locked already is as it was
        left here, for nobody else can have changed it: the database is not asked again."""
        if (known := self._locked.get((kind, key))) is not None:
            return cast(_R, known)
        row = self._session.get(kind, key, with_for_update=True, populate_existing=True)
        if row is not None:
            self._locked[kind, key] = row
        return row


# Made once each: making a statement costs more than running it.
@lru_cache
def _insertion(
    kind: type[SQLModel], key: str, replaced: tuple[str, ...], postgres: bool
) -> postgresql.Insert | sqlite.Insert:
    insert = (postgresql.insert if postgres else sqlite.insert)(kind)
    if not replaced:
        return insert.on_conflict_do_nothing(index_elements=[key])
    columns = {name: insert.excluded[name] for name in replaced}
    return insert.on_conflict_do_update(index_elements=[key], set_=columns)


def _effective(
    subjects: Sequence[str], never: Collection[str], once: Collection[str]
) -> ColumnElement[bool]:
    """Applied, of none of the types that `never` change anything, and of those that do so `once`
    the first about each of these subjects."""
    first = (
        select(func.min(StatementRow.number))
        .where(
            col(StatementRow.subject).in_(subjects),
            col(StatementRow.applied),
            col(StatementRow.kind).in_(once),
        )
        .group_by(StatementRow.subject, StatementRow.kind)
    )
    return and_(
        col(StatementRow.applied),
        col(StatementRow.kind).not_in(never),
        or_(col(StatementRow.kind).not_in(once), col(StatementRow.number).in_(first)),
    )


class SqlHubStore:
    """HubStore: engine for writing, `snapshots` for transactions that change nothing."""

    def __init__(self, engine: Engine, snapshots: Engine) -> None:
        self._engine = engine
        self._snapshots = snapshots

    @contextmanager
    def transaction(self) -> Iterator[SqlHubTransaction]:
        with Session(self._engine) as session, session.begin():
            yield SqlHubTransaction(session)

    @contextmanager
    def reading(self) -> Iterator[SqlHubTransaction]:
        with Session(self._snapshots) as session, session.begin():
            yield SqlHubTransaction(session)


def _head(row: ChainRow) -> ChainHead:
    return ChainHead(row.next_seq, Digest.parse(row.last) if row.last else None)


def _note(row: NoteRow) -> JobEventNote:
    return JobEventNote(
        row.number or 0,
        JobId(row.job),
        row.stage,
        PartyId(row.party),
        row.detail,
        record.decode_time(row.at),
    )


def _agreement(row: AgreementRow) -> HubAgreement:
    return HubAgreement(
        Digest.parse(row.digest),
        _read_agreement(bytes(row.document)),
        row.runs_used,
        Fraction(row.epsilon_used),
    )


def _job(row: JobRow | None, job: JobId) -> HubJob:
    if row is None:
        raise UnknownSubject(job)
    return _read_job(bytes(row.document))


@lru_cache(maxsize=4096)
def _read_agreement(document: bytes) -> Agreement:
    return record.from_bytes(Agreement, document)


# Asked of the same jobs again and again while they wait; reading one costs more than finding it.
@lru_cache(maxsize=4096)
def _read_job(document: bytes) -> HubJob:
    return record.from_bytes(HubJob, document)


def _sums(spent: PrivacyCost) -> dict[str, str]:
    return {field.name: _fraction(getattr(spent, field.name)) for field in fields(PrivacyCost)}


def _fraction(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"
