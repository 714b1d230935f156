"""Stories told on a disk that fails: tests/fault/disk.c in the hands of Python.

Run as a program, with disk.c preloaded and the name of a story's module, it makes what the story
goes on with. For each line on its input, `<mode> <n> <choice>`, it copies that, lives the story in
a child whose disk fails at the n-th call, and then, in another child on a sound disk, examines what
is left. It answers one line of JSON: how many calls there were, whether the child was killed, and
all that was wrong.

What the doomed child tells on its pipe counts as seen by others: it tells after a step has
returned, as a participant learns of a receipt or a reader of a published file.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

DISK = "disk"  # the folder within a trial's whose disk it is
MODES = {"count": 0, "kill": 1, "torn": 2, "fail": 3, "full": 4, "power": 5, "later": 6}
DEADLY = ("kill", "torn", "power", "later")
TRIES = 8

Tell = Callable[[str, object], None]
Again = Callable[[Callable[[], None]], None]
Told = list[tuple[str, object]]


class Story(Protocol):
    def prepare(self, folder: Path) -> None:
        """What every trial goes on with, made on a sound disk."""

    def live(self, folder: Path, tell: Tell, again: Again) -> None:
        """again: does a step, and repeats it where the disk has refused."""

    def examine(self, folder: Path, told: Told) -> Iterator[str]:
        """All that is wrong after a restart."""


class Doomed:
    """The child whose disk fails."""

    def __init__(self, folder: Path, mode: str, n: int, choice: int, pipe: int) -> None:
        self.mode, self.pipe = mode, pipe
        self.disk = ctypes.CDLL(None)
        self.disk.disk_calls.restype = ctypes.c_long
        self.disk.disk_arm(str(folder / DISK).encode(), MODES[mode], ctypes.c_long(n), choice)

    def tell(self, word: str, what: object) -> None:
        os.write(self.pipe, json.dumps([word, what]).encode() + b"\n")

    def again(self, step: Callable[[], None]) -> None:
        """As the hub's threads do: what failed is repeated, and by then there is room again."""
        for _ in range(TRIES):
            try:
                return step()
            except (OSError, DBAPIError):
                self.disk.disk_relieve()
        return step()

    def end(self) -> None:
        self.tell("calls", self.disk.disk_calls())
        if self.mode in ("power", "later"):
            self.disk.disk_cut()


def in_child(work: Callable[[int], None]) -> tuple[int, Told]:
    """Run in a fork. Its exit status, and what it told."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            work(writing)
            status = 0
        except BaseException:
            os.write(writing, json.dumps(["error", traceback.format_exc()]).encode() + b"\n")
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    return status, [(word, what) for word, what in map(json.loads, lines)]


def trial(story: Story, template: Path, mode: str, n: int, choice: int) -> dict[str, object]:
    folder = template.parent / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)

    def live(pipe: int) -> None:
        doomed = Doomed(folder, mode, n, choice, pipe)
        story.live(folder, doomed.tell, doomed.again)
        doomed.end()

    status, told = in_child(live)
    calls = next((what for word, what in told if word == "calls"), None)
    wrong = [f"the doomed child: {what}" for word, what in told if word == "error"]
    seen = [(word, what) for word, what in told if word not in ("calls", "error")]

    def look(pipe: int) -> None:
        for problem in story.examine(folder, seen):
            os.write(pipe, json.dumps(["wrong", problem]).encode() + b"\n")

    _, found = in_child(look)
    wrong += [str(what) for _, what in found]
    return {"n": n, "killed": os.WIFSIGNALED(status), "calls": calls, "wrong": wrong}


def main(name: str, folder: Path) -> None:
    story: Any = importlib.import_module(name)
    template = folder / "template"
    (template / DISK).mkdir(parents=True)
    # In a child: this process opens no database that its children would then share.
    status, told = in_child(lambda _: story.prepare(template))
    if status:
        raise SystemExit(str(told))
    for line in sys.stdin:
        mode, n, choice = line.split()
        print(json.dumps(trial(story, template, mode, int(n), int(choice))), flush=True)


class Trials:
    """The same story again and again, its disk failing elsewhere each time."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None and child.stdout is not None
        self._given, self._answers = child.stdin, child.stdout
        found = self.strike("count", 0, 0)
        assert found["wrong"] == [] and not found["killed"], found
        self.calls = int(found["calls"])

    def strike(self, mode: str, n: int, choice: int) -> dict[str, Any]:
        print(mode, n, choice, file=self._given, flush=True)
        found: dict[str, Any] = json.loads(self._answers.readline())
        return found

    def some_of(self, count: int) -> Sequence[int]:
        """Numbers of calls, over the whole story."""
        return range(1 + self.calls // (2 * count), self.calls + 1, self.calls // count)

    def require_sound(self, mode: str, points: Sequence[int], choice: int = 0) -> None:
        wrong = {}
        for n in points:
            found = self.strike(mode, n, choice)
            if found["wrong"]:
                wrong[n] = found["wrong"]
            assert found["killed"] is (mode in DEADLY), n
        assert wrong == {}


@contextmanager
def trials(story: str, shim: Path, folder: Path) -> Iterator[Trials]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.fault.disk", story, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(shim)},
        cwd=Path(__file__).parents[2],
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdout:
        yield Trials(child)
        child.stdin.close()
        assert child.wait(60) == 0


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
