"""Transactions mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from api.database import open_engine, read_only


def test_what_a_failed_transaction_did_is_gone_tables_included(engine: Engine) -> None:
    with pytest.raises(RuntimeError), engine.begin() as connection:
        connection.execute(text("CREATE TABLE note (body TEXT)"))
        connection.execute(text("INSERT INTO note VALUES ('half')"))
        raise RuntimeError("crash")
    with engine.begin() as connection, pytest.raises(DBAPIError):
        connection.execute(text("SELECT * FROM note"))


def test_a_read_only_transaction_cannot_write_and_the_next_one_can(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE note (body TEXT)"))
    with (
        pytest.raises(DBAPIError),
        read_only(engine).begin() as connection,
    ):
        connection.execute(text("INSERT INTO note VALUES ('x')"))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO note VALUES ('y')"))
    with read_only(engine).connect() as connection:
        assert connection.execute(text("SELECT body FROM note")).scalars().all() == ["y"]


def test_a_reader_keeps_its_snapshot_while_a_writer_commits(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE note (body TEXT)"))
    with read_only(engine).connect() as reader:
        count = text("SELECT count(*) FROM note")
        assert reader.execute(count).scalar() == 0
        with engine.begin() as writer:
            writer.execute(text("INSERT INTO note VALUES ('x')"))
        assert reader.execute(count).scalar() == 0


def test_other_databases_are_refused() -> None:
    with pytest.raises(ValueError, match="sqlite"):
        open_engine("mysql://localhost/x")
