"""The tables of each process, and how a database of an earlier release becomes one of this.

Each process has its own tables, told by name, and its own line of revisions: `node_…` is a
node's, `witness_…` a witness's, everything else the hub's. After changing a row class, write the
next revision with `python -m api.migrations.revise` and raise the head below; a test compares
what the revisions make with the row classes, on SQLite and on PostgreSQL.

This module imports nothing, so that a start with a current database never loads alembic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Process = Literal["hub", "node", "witness"]
PROCESSES: Final[tuple[Process, ...]] = get_args(Process)

# The last revision of each line; a database that stores it needs nothing.
HEADS: Final[Mapping[Process, str]] = {"hub": "0001", "node": "0001", "witness": "0001"}


def version_table(process: Process) -> str:
    """Where a database keeps the revision it is at."""
    return f"{process}_schema"


def owner(table: str) -> Process:
    """The process that a table belongs to."""
    for process in ("node", "witness"):
        if table.startswith(f"{process}_"):
            return process
    return "hub"
