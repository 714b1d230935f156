"""A node's records in SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from fractions import Fraction
from functools import lru_cache
from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Engine, Integer, func
from sqlmodel import Field, Session, SQLModel, col, select

from crypto import record
from crypto.digest import Digest, digest
from crypto.identifiers import JobId, NegotiationId, PartyId, ProductId
from crypto.statement import ChainHead, SignedStatement, read_statement
from exchange.approval import StandingApproval
from exchange.errors import UnknownSubject
from exchange.node.model import (
    Alarm,
    Backlog,
    EgressRecord,
    NodeAgreement,
    NodeApproval,
    NodeJob,
    Outgoing,
    Sent,
)
from exchange.privacy import NOTHING, PrivacyCost
from exchange.terms.agreement import Agreement
from exchange.terms.negotiation import Negotiation
from registry.party import SignedParty, read_party
from registry.source import SourceSettings

_ONE_WRITER: Final = "SELECT pg_advisory_xact_lock(hashtext('unseen node'))"
_AUTO_INCREMENT: Final = BigInteger().with_variant(Integer, "sqlite")


class NodeStatementRow(SQLModel, table=True):
    """This party's own chain, which is its outbox as well. number: the statement's actor_seq."""

    __tablename__ = "node_statement"

    number: int = Field(primary_key=True, sa_type=BigInteger)
    digest: str = Field(unique=True)
    kind: str
    subject: str = Field(index=True)
    entry: bytes
    documents: bytes
    sent_at: str | None = Field(default=None, index=True)
    applied: bool = False
    reason: str = ""
    proven: bool = Field(default=False, index=True)


class NodeRemarkRow(SQLModel, table=True):
    __tablename__ = "node_remark"

    name: str = Field(primary_key=True)
    value: str


class NodeTrustRow(SQLModel, table=True):
    __tablename__ = "node_trust"

    party: str = Field(primary_key=True)
    fingerprint: str
    at: str


class NodePartyRow(SQLModel, table=True):
    __tablename__ = "node_party"

    digest: str = Field(primary_key=True)
    party: str = Field(index=True)
    seq: int
    envelope: bytes


class NodeDocumentRow(SQLModel, table=True):
    __tablename__ = "node_document"

    digest: str = Field(primary_key=True)
    data: bytes


class NodeNegotiationRow(SQLModel, table=True):
    __tablename__ = "node_negotiation"

    id: str = Field(primary_key=True)
    state: str
    document: bytes


class NodeAgreementRow(SQLModel, table=True):
    __tablename__ = "node_agreement"

    digest: str = Field(primary_key=True)
    runs_used: int
    epsilon_used: str
    document: bytes


class NodePrivacyAccountRow(SQLModel, table=True):
    """The exact sums of `exchange.privacy.PrivacyCost`, as fractions."""

    __tablename__ = "node_privacy_account"

    product: str = Field(primary_key=True)
    epsilon: str
    gaussian: str
    rho: str
    delta: str


class NodeJobRow(SQLModel, table=True):
    __tablename__ = "node_job"

    id: str = Field(primary_key=True)
    state: str = Field(index=True)
    document: bytes


class NodeSecretRow(SQLModel, table=True):
    """An attempt's ephemeral key, while the attempt lasts. The database file is mode 0600."""

    __tablename__ = "node_secret"

    job: str = Field(primary_key=True)
    secret: bytes


class NodeSourceRow(SQLModel, table=True):
    __tablename__ = "node_source"

    product: str = Field(primary_key=True)
    name: str
    settings: bytes


class NodeStandingRow(SQLModel, table=True):
    __tablename__ = "node_standing"

    number: int | None = Field(default=None, primary_key=True, sa_type=_AUTO_INCREMENT)
    statement: str
    document: bytes


class NodeEgressRow(SQLModel, table=True):
    __tablename__ = "node_egress"

    number: int | None = Field(default=None, primary_key=True, sa_type=_AUTO_INCREMENT)
    job: str = Field(index=True)
    document: bytes


class NodeAlarmRow(SQLModel, table=True):
    __tablename__ = "node_alarm"

    digest: str = Field(primary_key=True)
    kind: str
    words: str
    at: str


@dataclass(frozen=True)
class _Source:
    """Gives a union of settings a place to be read from."""

    settings: SourceSettings


class SqlNodeTransaction:
    """NodeTransaction on one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.forgot = False

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with self._session.begin_nested():
            yield

    def head(self) -> ChainHead:
        last = self._session.exec(
            select(NodeStatementRow.number, NodeStatementRow.digest)
            .order_by(col(NodeStatementRow.number).desc())
            .limit(1)
        ).first()
        return ChainHead() if last is None else ChainHead(last[0] + 1, Digest.parse(last[1]))

    def queue(self, signed: SignedStatement, documents: Sequence[bytes]) -> None:
        statement = signed.statement
        self._session.add(
            NodeStatementRow(
                number=statement.actor_seq,
                digest=str(signed.digest),
                kind=statement.type,
                subject=statement.subject,
                entry=signed.entry,
                documents=record.to_bytes(tuple(documents)),
            )
        )
        self._session.flush()

    def unsent(self, limit: int) -> Sequence[Outgoing]:
        rows = self._session.exec(
            select(NodeStatementRow)
            .where(col(NodeStatementRow.sent_at).is_(None))
            .order_by(col(NodeStatementRow.number))
            .limit(limit)
        )
        return [
            Outgoing(row.number, row.entry, record.from_bytes(tuple[bytes, ...], row.documents))
            for row in rows
        ]

    def mark_sent(self, number: int, *, applied: bool, reason: str, at: datetime) -> None:
        row = self._session.get(NodeStatementRow, number)
        if row is None:
            raise UnknownSubject(f"statement {number}")
        row.sent_at, row.applied, row.reason = record.encode_time(at), applied, reason

    def taken_in(self) -> int:
        last = self._session.exec(
            select(func.max(NodeStatementRow.number)).where(
                col(NodeStatementRow.sent_at).is_not(None)
            )
        ).one()
        return 0 if last is None else last + 1

    def unproven(self, limit: int) -> Sequence[Sent]:
        rows = self._session.exec(
            select(NodeStatementRow)
            .where(
                col(NodeStatementRow.sent_at).is_not(None),
                col(NodeStatementRow.proven).is_(False),
            )
            .order_by(col(NodeStatementRow.number))
            .limit(limit)
        )
        return [_sent(row) for row in rows]

    def mark_proven(self, digest: Digest) -> None:
        self._statement(digest).proven = True

    def sent(self, digest: Digest) -> Sent | None:
        row = self._find(digest)
        return None if row is None or row.sent_at is None else _sent(row)

    def said_at(self, digest: Digest) -> datetime:
        return read_statement(self._statement(digest).entry).statement.time

    def entry(self, number: int) -> bytes | None:
        row = self._session.get(NodeStatementRow, number)
        return None if row is None else row.entry

    def last_said(self, kind: str, subject: str) -> Digest | None:
        name = self._session.exec(
            select(NodeStatementRow.digest)
            .where(NodeStatementRow.subject == subject, NodeStatementRow.kind == kind)
            .order_by(col(NodeStatementRow.number).desc())
            .limit(1)
        ).first()
        return None if name is None else Digest.parse(name)

    def backlog(self) -> Backlog:
        sent = col(NodeStatementRow.sent_at)

        def count(*conditions: ColumnElement[bool]) -> int:
            rows = select(func.count()).select_from(NodeStatementRow).where(*conditions)
            return self._session.exec(rows).one()

        return Backlog(
            unsent=count(sent.is_(None)),
            unproven=count(sent.is_not(None), col(NodeStatementRow.proven).is_(False)),
        )

    def not_applied(self, limit: int) -> Sequence[Sent]:
        rows = self._session.exec(
            select(NodeStatementRow)
            .where(
                col(NodeStatementRow.sent_at).is_not(None),
                col(NodeStatementRow.applied).is_(False),
            )
            .order_by(col(NodeStatementRow.number).desc())
            .limit(limit)
        )
        return [_sent(row) for row in rows]

    def remark(self, name: str) -> str | None:
        row = self._session.get(NodeRemarkRow, name, populate_existing=True)
        return None if row is None else row.value

    def set_remark(self, name: str, value: str) -> None:
        self._session.merge(NodeRemarkRow(name=name, value=value))
        self._session.flush()

    def trusted_fingerprints(self) -> Sequence[str]:
        return list(self._session.exec(select(NodeTrustRow.fingerprint)))

    def trust(self, party: PartyId, fingerprint: str, at: datetime) -> None:
        row = NodeTrustRow(party=party, fingerprint=fingerprint, at=record.encode_time(at))
        self._session.merge(row)

    def add_party(self, party: SignedParty) -> None:
        document = party.document
        self._session.merge(
            NodePartyRow(
                digest=str(party.digest),
                party=document.party,
                seq=document.seq,
                envelope=party.envelope.to_bytes(),
            )
        )
        self._session.flush()

    def party(self, digest: Digest) -> SignedParty | None:
        row = self._session.get(NodePartyRow, str(digest))
        return None if row is None else read_party(row.envelope)

    def current_party(self, party: PartyId) -> SignedParty | None:
        row = self._session.exec(
            select(NodePartyRow)
            .where(NodePartyRow.party == party)
            .order_by(col(NodePartyRow.seq).desc())
            .limit(1)
        ).first()
        return None if row is None else read_party(row.envelope)

    def add_document(self, digest: Digest, data: bytes) -> None:
        if self._session.get(NodeDocumentRow, str(digest)) is None:
            self.confirm_document(digest, data)

    def confirm_document(self, digest: Digest, data: bytes) -> None:
        self._session.merge(NodeDocumentRow(digest=str(digest), data=data))
        self._session.flush()

    def document(self, digest: Digest) -> bytes:
        row = self._session.get(NodeDocumentRow, str(digest))
        if row is None:
            raise UnknownSubject(str(digest))
        return row.data

    def negotiation(self, negotiation: NegotiationId) -> Negotiation | None:
        row = self._session.get(NodeNegotiationRow, negotiation)
        return None if row is None else record.from_bytes(Negotiation, row.document)

    def negotiations(self) -> Sequence[Negotiation]:
        rows = self._session.exec(select(NodeNegotiationRow).order_by(col(NodeNegotiationRow.id)))
        return [record.from_bytes(Negotiation, row.document) for row in rows]

    def save_negotiation(self, negotiation: Negotiation) -> None:
        self._session.merge(
            NodeNegotiationRow(
                id=negotiation.id,
                state=negotiation.state,
                document=record.to_bytes(negotiation),
            )
        )
        self._session.flush()

    def save_agreement(self, agreement: NodeAgreement) -> None:
        self._session.merge(
            NodeAgreementRow(
                digest=str(agreement.digest),
                runs_used=agreement.runs_used,
                epsilon_used=_fraction(agreement.epsilon_used),
                document=record.to_bytes(agreement.agreement),
            )
        )
        self._session.flush()

    def agreement(self, digest: Digest) -> NodeAgreement | None:
        row = self._session.get(NodeAgreementRow, str(digest))
        return None if row is None else _agreement(row)

    def agreements(self) -> Sequence[NodeAgreement]:
        rows = self._session.exec(select(NodeAgreementRow).order_by(col(NodeAgreementRow.digest)))
        return [_agreement(row) for row in rows]

    def privacy(self, product: ProductId) -> PrivacyCost:
        row = self._session.get(NodePrivacyAccountRow, product)
        if row is None:
            return NOTHING
        names = [field.name for field in fields(PrivacyCost)]
        return PrivacyCost(**{name: Fraction(getattr(row, name)) for name in names})

    def save_privacy(self, product: ProductId, spent: PrivacyCost) -> None:
        sums = {field.name: _fraction(getattr(spent, field.name)) for field in fields(PrivacyCost)}
        self._session.merge(NodePrivacyAccountRow(product=product, **sums))
        self._session.flush()

    def job(self, job: JobId) -> NodeJob | None:
        row = self._session.get(NodeJobRow, job)
        return None if row is None else _read_job(bytes(row.document))

    def jobs(self) -> Sequence[NodeJob]:
        rows = self._session.exec(select(NodeJobRow.document).order_by(col(NodeJobRow.id)))
        return [_read_job(bytes(row)) for row in rows]

    def save_job(self, job: NodeJob) -> None:
        self._session.merge(NodeJobRow(id=job.id, state=job.state, document=record.to_bytes(job)))
        self._session.flush()

    def save_secret(self, job: JobId, secret: bytes) -> None:
        self._session.add(NodeSecretRow(job=job, secret=secret))

    def secret(self, job: JobId) -> bytes | None:
        row = self._session.get(NodeSecretRow, job)
        return None if row is None else row.secret

    def forget_secret(self, job: JobId) -> None:
        row = self._session.get(NodeSecretRow, job)
        if row is not None:
            self._session.delete(row)
            self.forgot = True

    def save_source(self, product: ProductId, name: str, settings: SourceSettings) -> None:
        data = record.to_bytes(_Source(settings))
        self._session.merge(NodeSourceRow(product=product, name=name, settings=data))

    def source(self, product: ProductId) -> SourceSettings | None:
        row = self._session.get(NodeSourceRow, product)
        return None if row is None else record.from_bytes(_Source, row.settings).settings

    def sources(self) -> Mapping[ProductId, tuple[str, SourceSettings]]:
        rows = self._session.exec(select(NodeSourceRow).order_by(col(NodeSourceRow.product)))
        return {
            ProductId(row.product): (row.name, record.from_bytes(_Source, row.settings).settings)
            for row in rows
        }

    def add_standing(self, approval: NodeApproval) -> None:
        row = NodeStandingRow(
            statement=str(approval.said), document=record.to_bytes(approval.approval)
        )
        self._session.add(row)

    def standing(self) -> Sequence[NodeApproval]:
        rows = self._session.exec(select(NodeStandingRow).order_by(col(NodeStandingRow.number)))
        return [
            NodeApproval(
                Digest.parse(row.statement), record.from_bytes(StandingApproval, row.document)
            )
            for row in rows
        ]

    def remove_standing(self, said: Digest) -> None:
        found = select(NodeStandingRow).where(NodeStandingRow.statement == str(said))
        for row in self._session.exec(found).all():
            self._session.delete(row)
        self._session.flush()

    def add_egress(self, records: Sequence[EgressRecord]) -> None:
        for one in records:
            self._session.add(NodeEgressRow(job=one.job, document=record.to_bytes(one)))

    def egress(self, job: JobId) -> Sequence[EgressRecord]:
        rows = self._session.exec(
            select(NodeEgressRow)
            .where(NodeEgressRow.job == job)
            .order_by(col(NodeEgressRow.number))
        )
        return [record.from_bytes(EgressRecord, row.document) for row in rows]

    def add_alarm(self, alarm: Alarm) -> bool:
        name = str(digest(f"{alarm.kind}\x00{alarm.words}".encode()))
        if self._session.get(NodeAlarmRow, name) is not None:
            return False
        self._session.add(
            NodeAlarmRow(
                digest=name,
                kind=alarm.kind,
                words=alarm.words,
                at=record.encode_time(alarm.at),
            )
        )
        self._session.flush()
        return True

    def alarms(self) -> Sequence[Alarm]:
        rows = self._session.exec(select(NodeAlarmRow).order_by(col(NodeAlarmRow.at)))
        return [Alarm(row.kind, row.words, record.decode_time(row.at)) for row in rows]

    def _find(self, name: Digest) -> NodeStatementRow | None:
        return self._session.exec(
            select(NodeStatementRow).where(NodeStatementRow.digest == str(name))
        ).first()

    def _statement(self, name: Digest) -> NodeStatementRow:
        row = self._find(name)
        if row is None:
            raise UnknownSubject(f"statement {name}")
        return row


class SqlNodeStore:
    """NodeStore: engine for writing, `snapshots` for transactions that change nothing.

    On SQLite a secret that was forgotten is in none of the database's files once the transaction
    is over, or, if somebody reads at that moment, once a later one is.
    """

    def __init__(self, engine: Engine, snapshots: Engine) -> None:
        self._engine = engine
        self._snapshots = snapshots
        # As at the start, for a process may have died in between.
        self._to_wipe = engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[SqlNodeTransaction]:
        with Session(self._engine) as session, session.begin():
            if self._engine.dialect.name == "postgresql":
                # One writer, as on SQLite: else a job could end, and its run return, while
                # another thread begins it.
                session.connection().exec_driver_sql(_ONE_WRITER)
            tx = SqlNodeTransaction(session)
            yield tx
        if self._engine.dialect.name == "sqlite" and (tx.forgot or self._to_wipe):
            self._to_wipe = False  # first: another thread may forget something meanwhile
            if not _wiped(self._engine):
                self._to_wipe = True

    @contextmanager
    def reading(self) -> Iterator[SqlNodeTransaction]:
        with Session(self._snapshots) as session, session.begin():
            yield SqlNodeTransaction(session)


def _wiped(engine: Engine) -> bool:
    """Empty SQLite's write-ahead log, where what was deleted still stands; False if that must
    wait, for a reader or for the disk: nothing that was committed depends on it."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        ((patience,),) = cursor.execute("PRAGMA busy_timeout").fetchall()
        cursor.execute("PRAGMA busy_timeout=0")
        try:
            ((busy, _, _),) = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            cursor.execute(f"PRAGMA busy_timeout={patience}")
        return not busy
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


# Every round looks at every job; reading one costs more than finding it.
@lru_cache(maxsize=4096)
def _read_job(document: bytes) -> NodeJob:
    return record.from_bytes(NodeJob, document)


def _sent(row: NodeStatementRow) -> Sent:
    return Sent(
        Digest.parse(row.digest),
        row.entry,
        row.kind,
        row.subject,
        row.applied,
        row.reason,
        record.decode_time(row.sent_at or ""),
        row.proven,
    )


def _agreement(row: NodeAgreementRow) -> NodeAgreement:
    return NodeAgreement(
        Digest.parse(row.digest),
        record.from_bytes(Agreement, row.document),
        row.runs_used,
        Fraction(row.epsilon_used),
    )


def _fraction(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"
