"""A mirror is killed at any call to the disk, or the disk refuses it, or the power is cut.

Whenever that is, the next mirror makes the copy whole: the log, and every document it announces.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.disk import Trials, trials


@pytest.fixture(scope="module")
def copy(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    folder = tmp_path_factory.mktemp("mirror")
    with trials("tests.fault.mirror_story", shim, folder) as found:
        assert found.calls > 60
        yield found


def test_a_mirror_killed_at_its_first_calls_to_the_disk_goes_on(copy: Trials) -> None:
    copy.require_sound("kill", range(1, 6))


def test_a_mirror_killed_or_cut_off_at_some_calls_to_the_disk_goes_on(copy: Trials) -> None:
    copy.require_sound("kill", copy.some_of(4))
    copy.require_sound("torn", copy.some_of(1))
    copy.require_sound("power", copy.some_of(2))


def test_a_mirror_whose_disk_fails_or_is_full_goes_on(copy: Trials) -> None:
    copy.require_sound("fail", (copy.calls // 2,), errno.EIO)
    copy.require_sound("full", (copy.calls // 3,), errno.ENOSPC)
    copy.require_sound("later", (2, copy.calls - 1))  # refused, repeated, and cut at the end


@pytest.mark.slow
def test_a_mirror_killed_at_every_call_to_the_disk_goes_on(copy: Trials) -> None:
    copy.require_sound("kill", range(1, copy.calls + 1))


@pytest.mark.slow
def test_a_mirror_whose_power_is_cut_or_whose_disk_fails_all_along_goes_on(copy: Trials) -> None:
    copy.require_sound("torn", range(1, copy.calls + 1, 3))
    copy.require_sound("power", range(1, copy.calls + 1, 2))
    for seed, n in enumerate(range(2, copy.calls + 1, 6), start=1):
        copy.require_sound("power", (n,), seed)
    copy.require_sound("later", range(3, copy.calls + 1, 5))
    copy.require_sound("fail", range(1, copy.calls + 1, 2), errno.EIO)
