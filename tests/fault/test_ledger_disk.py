"""The log's process is killed at any call to the disk, or the disk refuses it, or the power is cut.

Whatever is struck whenever — queue, order, sign, cosign, publish files, anchor, the SM3 tree, or
the witness — after a restart every head that anybody saw is a head of the log, no entry that was
taken is lost, witness, published files, chain and database agree, and everything stored verifies.
A database in PostgreSQL is not struck: what its commit means on a disk is its own to test.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.disk import Trials, trials


@pytest.fixture(scope="module")
def log(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    folder = tmp_path_factory.mktemp("story")
    with trials("tests.fault.ledger_story", shim, folder) as found:
        assert found.calls > 200
        yield found


def test_a_log_killed_at_some_calls_to_the_disk_is_whole(log: Trials) -> None:
    log.require_sound("kill", log.some_of(3))


def test_a_log_killed_within_some_writes_is_whole(log: Trials) -> None:
    log.require_sound("torn", log.some_of(1))


def test_a_log_whose_disk_fails_or_is_full_goes_on(log: Trials) -> None:
    # The first call opens the database's write-ahead log: SQLite then opens it for reading only.
    log.require_sound("fail", (1,), errno.EIO)
    log.require_sound("full", (log.calls // 3,), errno.ENOSPC)


def test_a_log_whose_power_is_cut_at_some_calls_to_the_disk_is_whole(log: Trials) -> None:
    log.require_sound("power", log.some_of(3))
    log.require_sound("power", (log.calls // 2,), 1)
    log.require_sound("later", log.some_of(2))  # refused, repeated, and cut at the end


# Every second call is struck in one of four ways. Neighbouring calls are mostly pages of one write.
WAYS = [("kill", 0), ("torn", 0), ("fail", errno.EIO), ("full", errno.ENOSPC)]


@pytest.mark.slow
@pytest.mark.parametrize("way", range(len(WAYS)))
def test_a_log_struck_at_calls_to_the_disk_all_along_is_whole(log: Trials, way: int) -> None:
    mode, error = WAYS[way]
    log.require_sound(mode, range(1 + 2 * way, log.calls + 1, 2 * len(WAYS)), error)


@pytest.mark.slow
def test_a_log_whose_power_is_cut_all_along_is_whole(log: Trials) -> None:
    # All that was not synced is lost; elsewhere some of it survives.
    log.require_sound("power", range(1, log.calls + 1, 8))
    for seed, n in enumerate(range(3, log.calls + 1, 40), start=1):
        log.require_sound("power", (n,), seed)
    log.require_sound("later", range(2, log.calls + 1, 20))
