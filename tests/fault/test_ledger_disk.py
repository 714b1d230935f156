"""The log's process is killed at each of its calls to the disk, or the disk refuses the call.

Whatever is struck whenever — queue, order, sign, cosign, publish files, anchor, or the witness —
after a restart every head that anybody saw is a head of the log, no entry that was taken is lost,
witness, published files, chain and database agree, and everything stored verifies.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

Try = Callable[[str, int, int], dict[str, Any]]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        missing = "a C compiler on Linux is needed to make a disk that fails"
        if os.environ.get("UNSEEN_CI") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    built = tmp_path_factory.mktemp("disk") / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", built, source, "-ldl"],
        check=True,
    )
    return built


@pytest.fixture(scope="module")
def struck(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Try]:
    """One log's story with its disk failing at the n-th call."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fault.ledger_story", tmp_path_factory.mktemp("story")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(shim)},
        cwd=Path(__file__).parents[2],
    )
    assert child.stdin is not None and child.stdout is not None
    given, answers = child.stdin, child.stdout

    def strike(mode: str, n: int, error: int) -> dict[str, Any]:
        print(mode, n, error, file=given, flush=True)
        found: dict[str, Any] = json.loads(answers.readline())
        return found

    yield strike
    given.close()
    assert child.wait(60) == 0
    answers.close()


@pytest.fixture(scope="module")
def calls(struck: Try) -> int:
    """How many calls to the disk the story has."""
    found = struck("count", 0, 0)
    assert found["wrong"] == [] and not found["killed"]
    assert found["calls"] > 200
    return int(found["calls"])


def some_of(calls: int, count: int) -> Sequence[int]:
    return range(1 + calls // (2 * count), calls + 1, calls // count)


def require_sound(struck: Try, mode: str, points: Sequence[int], error: int = 0) -> None:
    wrong = {}
    for n in points:
        found = struck(mode, n, error)
        if found["wrong"]:
            wrong[n] = found["wrong"]
        assert found["killed"] is (mode in ("kill", "torn")), n
    assert wrong == {}


def test_a_log_killed_at_some_calls_to_the_disk_is_whole(struck: Try, calls: int) -> None:
    require_sound(struck, "kill", some_of(calls, 3))


def test_a_log_killed_within_some_writes_is_whole(struck: Try, calls: int) -> None:
    require_sound(struck, "torn", some_of(calls, 1))


def test_a_log_whose_disk_fails_or_is_full_goes_on(struck: Try, calls: int) -> None:
    # The first call opens the database's write-ahead log: SQLite then opens it for reading only.
    require_sound(struck, "fail", (1,), errno.EIO)
    require_sound(struck, "full", (calls // 3,), errno.ENOSPC)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "torn"])
def test_a_log_killed_at_every_call_to_the_disk_is_whole(
    struck: Try, calls: int, mode: str
) -> None:
    require_sound(struck, mode, range(1, calls + 1))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "error"), [("fail", errno.EIO), ("full", errno.ENOSPC)])
def test_a_log_whose_disk_fails_at_every_call_goes_on(
    struck: Try, calls: int, mode: str, error: int
) -> None:
    require_sound(struck, mode, range(1, calls + 1), error)
