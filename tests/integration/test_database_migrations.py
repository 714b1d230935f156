"""Revisions make exactly the tables that the row classes describe, on both databases."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, inspect, text

from api.database import DatabaseTooNew, bring_up_to_date, open_engine, stored_revision
from api.migrations import HEADS, PROCESSES, Process, owner, version_table
from api.migrations.tables import all_tables
from api.migrations.upgrade import comparison, revisions, upgrade


@pytest.mark.parametrize("process", PROCESSES)
def test_the_revisions_make_what_the_row_classes_describe(engine: Engine, process: Process) -> None:
    """If this fails after you changed a row class: `python -m api.migrations.revise`."""
    metadata = all_tables()
    bring_up_to_date(engine, process)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts=comparison(process))
        assert compare_metadata(context, metadata) == []
    # alembic does not compare check constraints, and the book's floors are some.
    for table in metadata.sorted_tables:
        if owner(table.name) == process:
            described = {c.name for c in table.constraints if isinstance(c, CheckConstraint)}
            made = {c["name"] for c in inspect(engine).get_check_constraints(table.name)}
            assert described == made, table.name


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_makes_its_own_tables_only(engine: Engine, process: Process) -> None:
    bring_up_to_date(engine, process)
    made = set(inspect(engine).get_table_names())
    owned = {name for name in all_tables().tables if owner(name) == process}
    assert made == owned | {version_table(process)}


def test_all_processes_can_share_a_database(engine: Engine) -> None:
    for process in PROCESSES:
        bring_up_to_date(engine, process)
    made = set(inspect(engine).get_table_names())
    assert made == set(all_tables().tables) | {version_table(process) for process in PROCESSES}


@pytest.mark.parametrize("process", PROCESSES)
def test_the_head_known_to_the_program_is_the_last_revision(process: Process) -> None:
    assert revisions(process).get_heads() == [HEADS[process]]


def test_two_processes_that_start_at_once_make_the_tables_once(engine: Engine) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: bring_up_to_date(engine, "hub"), range(2)))
    assert stored_revision(engine, "hub") == HEADS["hub"]


def test_a_crash_while_migrating_leaves_the_database_as_it_was(engine: Engine) -> None:
    with pytest.raises(RuntimeError), engine.begin() as connection:
        upgrade(connection, "hub")
        raise RuntimeError("crash")
    assert inspect(engine).get_table_names() == []
    bring_up_to_date(engine, "hub")
    assert stored_revision(engine, "hub") == HEADS["hub"]


def test_a_database_of_a_later_release_is_refused_and_left_alone(engine: Engine) -> None:
    bring_up_to_date(engine, "hub")
    with engine.begin() as connection:
        connection.execute(text("UPDATE hub_schema SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNew, match="9999"):
        bring_up_to_date(engine, "hub")
    assert stored_revision(engine, "hub") == "9999"


def test_a_current_database_starts_without_loading_alembic(database_url: str) -> None:
    engine = open_engine(database_url)
    bring_up_to_date(engine, "hub")
    engine.dispose()
    program = (
        "import sys\n"
        "from api.database import bring_up_to_date, open_engine\n"
        "bring_up_to_date(open_engine(sys.argv[1]), 'hub')\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, database_url], check=False)
    assert done.returncode == 0
