"""Nonces and answers in the hub's database, SQLite or PostgreSQL."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Engine, delete, insert, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col

from api.http.errors import IdempotencyKeyReused, RequestInFlight
from api.http.ports import Answer, RequestKey
from crypto.digest import digest
from crypto.ports import Clock
from crypto.record import encode_time

PURGE_EVERY: Final = timedelta(seconds=60)


class NonceRow(SQLModel, table=True):
    """expires: Unix seconds."""

    __tablename__ = "hub_nonce"

    keyid: str = Field(primary_key=True, max_length=64)
    nonce: str = Field(primary_key=True, max_length=64)
    expires: int = Field(index=True)


class IdempotencyRow(SQLModel, table=True):
    """request: digest of the request that the key belongs to. at: RFC 3339."""

    __tablename__ = "hub_idempotency"

    caller: str = Field(primary_key=True, max_length=36)
    key: str = Field(primary_key=True, max_length=128)
    request: str
    status: int
    body: bytes
    location: str | None
    at: str


class SqlNonceStore:
    """Nonces that every process of the hub shares, each remembered in a transaction of its own.

    Of its own, because a signature stays used even if the act it asked for is rolled back.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._purge_at: datetime | None = None
        self._lock = threading.Lock()

    def remember(self, keyid: str, nonce: str, expires: datetime) -> bool:
        now = self._clock.now()
        try:
            # Without a Session: every signed request comes through here.
            with self._engine.begin() as connection:
                if self._time_to_purge(now):
                    gone = col(NonceRow.expires) < int(now.timestamp())
                    connection.execute(delete(NonceRow).where(gone))
                row = {"keyid": keyid, "nonce": nonce, "expires": int(expires.timestamp()) + 1}
                connection.execute(insert(NonceRow), row)
        except IntegrityError:
            return False
        return True

    def _time_to_purge(self, now: datetime) -> bool:
        with self._lock:
            if self._purge_at is not None and now < self._purge_at:
                return False
            self._purge_at = now + PURGE_EVERY
            return True


class SqlIdempotencyStore:
    """Answers, in the transaction of the act. The caller owns the session and commits.

    PostgreSQL says at once that another transaction holds a key. SQLite has one writer: there the
    second request waits for the first to commit (BEGIN IMMEDIATE) and is given its answer.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def claim(self, key: RequestKey) -> Answer | None:
        if self._session.get_bind().dialect.name == "postgresql":
            self._lock(key)
        row = self._session.get(IdempotencyRow, (str(key.caller), key.key))
        if row is None:
            return None
        if row.request != str(key.request):
            raise IdempotencyKeyReused(key.key)
        return Answer(row.status, row.body, row.location)

    def keep(self, key: RequestKey, answer: Answer, now: datetime) -> None:
        row = IdempotencyRow(
            caller=str(key.caller),
            key=key.key,
            request=str(key.request),
            status=answer.status,
            body=answer.body,
            location=answer.location,
            at=encode_time(now),
        )
        self._session.add(row)
        try:
            self._session.flush()
        except IntegrityError as error:
            # Another transaction was first. Ours is void now; its act with it.
            raise RequestInFlight(key.key) from error

    def _lock(self, key: RequestKey) -> None:
        # Held until the transaction ends, before the row is read: a key whose first request
        # commits between our look and our lock must not look free.
        number = int.from_bytes(
            digest(f"idempotency/{key.caller}/{key.key}".encode()).raw[:8], "big", signed=True
        )
        statement = text("SELECT pg_try_advisory_xact_lock(:number)")
        if not self._session.execute(statement, {"number": number}).scalar_one():
            raise RequestInFlight(key.key)
