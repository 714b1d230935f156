"""Opening the database, SQLite or PostgreSQL, so that a transaction means the same on both.

Every transaction may write, takes its locks before it decides anything, and is durable once
committed:

- SQLite: `BEGIN IMMEDIATE`, so that of two writers the second waits at its start instead of
  failing half-way with a stale snapshot; WAL, so that readers never wait; `synchronous=FULL`,
  so that a signed statement survives a power cut.
- PostgreSQL: READ COMMITTED, with explicit `SELECT … FOR UPDATE` in a fixed order. SERIALIZABLE
  would abort transactions that only met on an index page and make every caller retry; the rows
  that matter (accounts, budgets, the head of the log) are few and are locked by name, which is
  also what SQLite's single writer gives.

`read_only` gives an engine whose transactions see one snapshot and cannot write.
`bring_up_to_date` makes or migrates the tables of one process.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, inspect, text
from sqlalchemy.engine import make_url

from api.migrations import HEADS, Process, version_table

LOCK_TIMEOUT_S: Final = 15
_READ_ONLY: Final = "unseen_read_only"


class DatabaseTooNew(Exception):
    """A later release wrote this database: run that release, or restore a backup."""

    def __init__(self, process: Process, stored: str) -> None:
        super().__init__(
            f"the {process}'s database is at revision {stored}; this release knows up to "
            f"{HEADS[process]}. Run the release that wrote it, or restore an older backup"
        )
        self.process = process
        self.stored = stored


def open_engine(url: str) -> Engine:
    """An engine for `sqlite:///path` or `postgresql://…`; opens no connection yet.

    A writer that waits longer than LOCK_TIMEOUT_S for another fails with OperationalError.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": LOCK_TIMEOUT_S})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        event.listen(engine, "handle_error", _give_up_read_only)
        return engine
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            connect_args={"options": f"-c lock_timeout={LOCK_TIMEOUT_S}s -c timezone=UTC"},
        )
    raise ValueError(f"the database must be sqlite:/// or postgresql://, not {parsed.drivername}")


def read_only(engine: Engine) -> Engine:
    """The same database and pool; each transaction sees one snapshot, and a write is refused."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_READ_ONLY: True})
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def stored_revision(engine: Engine, process: Process) -> str | None:
    """The revision that the process's tables are at; None in a database without them."""
    table = version_table(process)
    with read_only(engine).connect() as connection:
        if not inspect(connection).has_table(table):
            return None
        found: str | None = connection.execute(
            text(f"SELECT version_num FROM {table}")  # noqa: S608 - one of three fixed names
        ).scalar_one_or_none()
        return found


def bring_up_to_date(engine: Engine, process: Process) -> None:
    """Make or migrate the tables of one process, in one transaction. Safe to repeat, and for
    two processes to do at once. Raises DatabaseTooNew, and then changes nothing."""
    stored = stored_revision(engine, process)
    if stored == HEADS[process]:
        return
    if stored is not None and stored > HEADS[process]:
        raise DatabaseTooNew(process, stored)
    # Slow to import, and needed only here.
    from api.migrations.upgrade import upgrade

    with engine.begin() as connection:
        upgrade(connection, process)


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: it would begin deferred ones.
    connection.isolation_level = None
    cursor = connection.cursor()
    # secure_delete: an attempt's ephemeral key that was forgotten must not stay in a free page.
    # wal_autocheckpoint: 64 MB. In a large ledger each batch changes a thousand pages of the index
    # of digests; many of them again in the next batches, and so written back once.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
        "wal_autocheckpoint=16384",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _give_up_read_only(context: ExceptionContext) -> None:
    """SQLite opens what it cannot open for writing for reading only, and stays so: after one
    failure of the disk at the wrong call, such a connection would refuse every write for good."""
    code = getattr(context.original_exception, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_READONLY:
        context.is_disconnect = True


def _begin_sqlite(connection: Connection) -> None:
    reading = bool(connection.get_execution_options().get(_READ_ONLY))
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reading else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
