"""What a party keeps for scores and lookups: complete, its own alone, and forgotten in time."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from crypto.adapters.ristretto import Ristretto255
from crypto.digest import digest
from crypto.identifiers import JobId
from crypto.lookup.table import Table, make_table, table_secret
from crypto.ports import SystemRandomness
from crypto.scoring.model import affine_model
from crypto.scoring.shape import Feature, ModelFamily
from exchange.node.shelf import Names, Shelf
from registry.errors import SourceUnreachable

GROUP, SEED, SALT = Ristretto255(), b"s" * 32, b"t" * 32
NOW = datetime.now(UTC)
JOBS = [JobId.new(NOW, SystemRandomness()) for _ in range(4)]


def a_table() -> Table:
    return make_table(
        [b"p1"],
        [b"record"],
        group=GROUP,
        secret=table_secret(GROUP, SEED, epoch=0),
        randomness=SystemRandomness(),
        cap=3,
        label_bytes=8,
    )


def a_model() -> object:
    return affine_model(
        ModelFamily.LINEAR,
        (Feature("x", 0, 1, 0),),
        ("y",),
        2,
        weights=np.array([[0.5]]),
        bias=np.zeros(1),
    )


def modes(path: Path) -> set[int]:
    return {stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*") if file.is_file()}


def test_everything_is_readable_by_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        shelf = Shelf(tmp_path)
        shelf.keep_table(a_table(), SEED)
        shelf.keep_model(a_model(), SALT)  # type: ignore[arg-type]
        shelf.keep_asked(JOBS[0], Names(("a",)), np.zeros((1, 2)))
    finally:
        os.umask(before)
    assert modes(tmp_path) == {0o600}


def test_tables_and_models_are_found_by_the_digest_that_the_product_names(tmp_path: Path) -> None:
    shelf, table = Shelf(tmp_path), a_table()
    shelf.keep_table(table, SEED)
    assert shelf.seed(table.digest) == SEED
    assert Table.load(shelf.table(table.digest)).digest == table.digest
    name = shelf.keep_model(a_model(), SALT)  # type: ignore[arg-type]
    assert shelf.model(name).shape.outputs == ("y",)


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    shelf, other = Shelf(tmp_path), digest(b"other")
    for look in (
        lambda: shelf.seed(other),
        lambda: shelf.model(other),
        lambda: shelf.asked_names(JOBS[0]),
        lambda: shelf.asked_rows(JOBS[0]),
    ):
        with pytest.raises(SourceUnreachable, match="not in this party's folder"):
            look()


def test_a_seed_without_its_table_answers_nobody(tmp_path: Path) -> None:
    """A crash between the two leaves a seed alone."""
    shelf, table = Shelf(tmp_path), a_table()
    shelf.keep_table(table, SEED)
    shelf.table(table.digest).unlink()
    with pytest.raises(SourceUnreachable, match="not complete"):
        shelf.seed(table.digest)


def test_a_model_file_that_was_changed_is_not_used(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    name = shelf.keep_model(a_model(), SALT)  # type: ignore[arg-type]
    (salt,) = (tmp_path / "models").glob("*.salt")
    salt.write_bytes(b"u" * 32)
    with pytest.raises(SourceUnreachable, match="another model"):
        shelf.model(name)
    (file,) = (tmp_path / "models").glob("*.npz")
    file.write_bytes(b"no archive")
    with pytest.raises(SourceUnreachable, match="cannot be read"):
        shelf.model(name)


def test_what_was_asked_is_forgotten_with_its_job_and_not_before(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    ended, waiting, fresh, orphan = JOBS
    for job in JOBS:
        shelf.keep_asked(job, Names((job,)), None)
    old = (NOW - timedelta(days=2)).timestamp()
    os.utime(tmp_path / "asked" / orphan, (old, old))
    os.utime(tmp_path / "asked" / waiting, (old, old))
    shelf.table(digest(b"t")).with_name("t.lookup.7.part").write_bytes(b"half")
    shelf.sweep(ended={ended}, known={ended, waiting}, now=NOW)
    kept = {folder.name for folder in (tmp_path / "asked").iterdir()}
    assert kept == {waiting, fresh}  # a command may be about to submit the fresh one
    assert not list((tmp_path / "tables").iterdir())


def test_names_of_people_are_not_printed() -> None:
    assert "Anna" not in repr(Names(("Anna",)))
