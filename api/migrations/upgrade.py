"""Running revisions, with alembic. Imported only when a database is behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from api.migrations import HEADS, PROCESSES, Process, owner, version_table

FOLDER: Final = Path(__file__).parent
# Any fixed number: "unseen" in ASCII.
_ADVISORY_LOCK: Final = 0x756E7365656E


def upgrade(connection: Connection, process: Process) -> None:
    """Bring the tables of `process` to its head, in the caller's transaction.

    A crash leaves the database as it was: both databases change tables in transactions, SQLite
    too, since the revisions run inside the one that `open_engine` began.
    """
    if connection.dialect.name == "postgresql":
        # Two hub processes that start together: the second waits, and finds the work done.
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _ADVISORY_LOCK})
    scripts = revisions(process)

    def to_head(stored: Any, _context: MigrationContext) -> Sequence[Any]:
        return scripts._upgrade_revs(HEADS[process], stored)  # as alembic.command.upgrade does

    with EnvironmentContext(Config(), scripts, fn=to_head) as environment:
        environment.configure(connection=connection, transactional_ddl=True, **comparison(process))
        environment.run_migrations()


def revisions(process: Process) -> ScriptDirectory:
    folder = FOLDER / process
    return ScriptDirectory(str(folder), version_locations=[str(folder)])


def comparison(process: Process) -> dict[str, Any]:
    """Options under which alembic sees the tables of one process and no others."""

    def include(
        _object: object, name: str | None, kind: str, _reflected: bool, _to: object
    ) -> bool:
        if kind != "table" or name is None:
            return True
        ours = [version_table(other) for other in PROCESSES]
        return name not in ours and owner(name) == process

    return {"version_table": version_table(process), "include_object": include}
