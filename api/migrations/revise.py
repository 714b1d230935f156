"""Writes revisions from the row classes.

    python -m api.migrations.revise first                       before the first release only
    python -m api.migrations.revise next hub "what changed"     from then on

`first` writes r0001 of every process anew. `next` writes what a database at the head lacks, for
you to read and correct: alembic does not see renamed columns or data that must move. Raise the
process's head in `api.migrations` afterwards.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.runtime.migration import MigrationContext

from api.database import bring_up_to_date, open_engine
from api.migrations import HEADS, PROCESSES, Process
from api.migrations.tables import all_tables
from api.migrations.upgrade import FOLDER, comparison

_TEMPLATE = '''"""{message}"""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {previous}


def upgrade() -> None:
{body}
'''


def main(arguments: list[str]) -> int:
    match arguments:
        case ["first"]:
            for process in PROCESSES:
                write(process, "0001", None, "The first tables.")
        case ["next", name, message] if name in PROCESSES:
            process = PROCESSES[PROCESSES.index(name)]
            previous = HEADS[process]
            write(process, f"{int(previous) + 1:04d}", previous, message)
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


def write(process: Process, revision: str, previous: str | None, message: str) -> None:
    """Write one revision: what a database at `previous` lacks."""
    path = FOLDER / process / f"r{revision}.py"
    path.write_text(
        _TEMPLATE.format(
            message=message,
            revision=revision,
            previous=None if previous is None else f'"{previous}"',
            body=_changes(process, previous),
        )
    )
    for step in (["format", "--quiet"], ["check", "--fix", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *step, str(path)], check=True)
    sys.stdout.write(f"{path.relative_to(FOLDER)}\n")


def _changes(process: Process, previous: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(f"sqlite:///{Path(folder) / 'empty.db'}")
        if previous is not None:
            bring_up_to_date(engine, process)
        with engine.begin() as connection:
            context = MigrationContext.configure(connection, opts=comparison(process))
            script = produce_migrations(context, all_tables())
            upgrade = script.upgrade_ops
            if upgrade is None:
                raise RuntimeError("alembic produced no upgrade")
            code = render_python_code(
                upgrade,
                # SQLite alters a table by copying it.
                render_as_batch=previous is not None,
                render_item=_plain_types,
            )
        engine.dispose()
    # Without alembic's remarks, and indented throughout: the first line is not.
    lines = [line for line in f"    {code}".splitlines() if "# ###" not in line]
    return "\n".join(lines)


def _plain_types(kind: str, item: Any, _context: object) -> str | Literal[False]:
    """A type as the database has it, so that a revision outlives the row library's own types."""
    if kind == "type" and isinstance(item, sa.TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
