"""The supervisor against children that misbehave in every way, none of them a real engine."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.engine import (
    ChildLine,
    Ended,
    EngineOutcome,
    EngineStage,
    Entered,
    Failed,
    RevealedTask,
)
from crypto.errors import EngineFailed, EngineFault
from crypto.joins.intersection import Intersection
from crypto.joins.rows import ROWS_FILE, SideRows
from exchange.node.adapters.process_engine import MAX_LOG_BYTES, ProcessEngine
from exchange.node.engine import EngineLimits
from tests.fakes.seats import nowhere
from tests.fakes.two_sides import two_sides

SIDES = two_sides(20)
TASK = RevealedTask(
    seat=nowhere(2)[0],
    layout=SIDES.layout,
    intersection=Intersection.RR22,
    zero_key=b"z" * 32,
)
OUTCOME = EngineOutcome(
    share=bytes(8 * TASK.layout.outputs),
    learned={"matched": 13},
    timings_ms={"total": 1},
    versions={"fake": "1"},
    peak_rss_bytes=1,
)
LIMITS = EngineLimits(deadline_s=20, memory_bytes=2**30)
READY = ChildLine(Entered(EngineStage.READY)).to_line().decode()
DONE = ChildLine(Ended(OUTCOME)).to_line().decode()

NewEngine = Callable[[str], ProcessEngine]


@pytest.fixture
def new_engine(tmp_path: Path) -> Iterator[NewEngine]:
    engines: list[ProcessEngine] = []

    def make(program: str) -> ProcessEngine:
        start = "import os, signal, subprocess, sys, time\n"
        text = start + textwrap.dedent(program)
        engines.append(
            ProcessEngine(
                tmp_path / "runs", tmp_path / "logs", command=(sys.executable, "-S", "-c", text)
            )
        )
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def left_over(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "runs").iterdir() if path.name != "lock"]


def failure_of(
    engine: ProcessEngine, limits: EngineLimits = LIMITS, rows: SideRows = SIDES.a
) -> EngineFailed:
    with pytest.raises(EngineFailed) as failed:
        engine.start(TASK, rows, limits).wait()
    return failed.value


def test_a_run_tells_its_stages_then_its_outcome_and_leaves_nothing(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    match = ChildLine(Entered(EngineStage.MATCH)).to_line().decode()
    engine = new_engine(
        f"""
        sys.stdout.write({READY!r}); sys.stdout.flush()
        task = sys.stdin.readline()
        assert '"attempt":"att_1"' in task and os.path.getsize({ROWS_FILE!r})
        open("spilled.csv", "w").write("tokens")
        os.mkdir("deep"); open("deep/er.csv", "w").write("tokens")
        sys.stdout.write({match + DONE!r})
        """
    )
    stages: list[EngineStage] = []
    run = engine.start(TASK, SIDES.a, LIMITS)
    assert run.wait(stages.append) == OUTCOME
    assert run.wait() == OUTCOME
    assert stages == [EngineStage.READY, EngineStage.MATCH]
    engine.close()
    assert left_over(tmp_path) == []


def test_the_tasks_key_is_not_on_the_command_line_nor_the_nodes_environment_in_the_child(
    new_engine: NewEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of the node")
    engine = new_engine(
        f"""
        key = "enp6" * 8  # how 24 of the key's bytes look in the task
        assert key in sys.stdin.readline()
        assert key not in open("/proc/self/cmdline").read()
        assert "A_SECRET" not in os.environ
        sys.stdout.write({DONE!r})
        """
    )
    assert engine.start(TASK, SIDES.a, LIMITS).wait() == OUTCOME


def test_a_child_that_never_answers_is_ended_at_the_deadline(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    engine = new_engine("open('half.csv', 'w').write('x'); time.sleep(60)")
    failed = failure_of(engine, replace(LIMITS, deadline_s=0.5))
    assert failed.fault is EngineFault.DEADLINE
    engine.close()
    assert left_over(tmp_path) == []


def test_a_child_that_closes_its_output_and_stays_is_ended_at_the_deadline(
    new_engine: NewEngine,
) -> None:
    engine = new_engine("os.close(1); os.close(2); time.sleep(60)")
    assert failure_of(engine, replace(LIMITS, deadline_s=0.5)).fault is EngineFault.DEADLINE


@pytest.mark.parametrize(
    ("last_words", "fault", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGABRT)", EngineFault.CRASHED, "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", EngineFault.CRASHED, "SIGKILL"),
        ("os._exit(255)", EngineFault.PEER, "exit 255"),
        ("os._exit(0)", EngineFault.CRASHED, "exit 0 and no result"),
        ("print('hello')", EngineFault.CRASHED, "cannot read"),
        ("sys.stdout.write('x' * 2**25)", EngineFault.CRASHED, "said too much"),
        (
            f"sys.stdout.write({ChildLine(Failed(EngineFault.PEER, 'gone')).to_line().decode()!r})",
            EngineFault.PEER,
            "gone",
        ),
    ],
    ids=["aborts", "is killed", "gives up", "says nothing", "babbles", "floods", "explains"],
)
def test_however_a_child_ends_the_node_gets_a_reason_and_goes_on(
    new_engine: NewEngine, tmp_path: Path, last_words: str, fault: EngineFault, words: str
) -> None:
    engine = new_engine(
        f"""
        sys.stdout.write({READY!r}); sys.stdout.flush()
        sys.stdin.readline()
        {last_words}
        """
    )
    for _ in range(2):
        failed = failure_of(engine)
        assert failed.fault is fault
        assert words in str(failed)
    engine.close()
    assert left_over(tmp_path) == []


def test_a_child_that_grows_beyond_its_memory_is_ended(new_engine: NewEngine) -> None:
    engine = new_engine("held = bytearray(os.urandom(1)) * 2**28; time.sleep(60)")
    failed = failure_of(engine, replace(LIMITS, memory_bytes=2**27))
    assert failed.fault is EngineFault.MEMORY
    assert "the limit is 128 MiB" in str(failed)


def test_programs_that_a_child_started_end_with_it(new_engine: NewEngine, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    engine = new_engine(
        f"""
        started = subprocess.Popen(["sleep", "60"])
        open({str(pid_file)!r}, "w").write(str(started.pid))
        sys.stdout.write({DONE!r})
        """
    )
    engine.start(TASK, SIDES.a, LIMITS).wait()
    pid = int(pid_file.read_text())
    wait_until(lambda: has_ended(pid))  # the system ends what was killed in its own time


def test_a_run_can_be_killed_from_another_thread(new_engine: NewEngine) -> None:
    run = new_engine("time.sleep(60)").start(TASK, SIDES.a, LIMITS)
    threading.Timer(0.2, run.kill, args=("the agreement was revoked",)).start()
    with pytest.raises(EngineFailed, match="the agreement was revoked") as failed:
        run.wait()
    assert failed.value.fault is EngineFault.KILLED
    run.kill("too late to matter")


def test_closing_kills_what_runs_and_starts_nothing_more(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    engine = new_engine("time.sleep(60)")
    run = engine.start(TASK, SIDES.a, LIMITS)
    engine.close()
    with pytest.raises(EngineFailed, match="stopping"):
        run.wait()
    with pytest.raises(EngineFailed, match="stopping"):
        engine.start(TASK, SIDES.a, LIMITS)
    assert left_over(tmp_path) == []


def test_what_a_killed_node_left_behind_is_wiped_at_the_next_start(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    left = tmp_path / "runs" / "run-abc" / "C-1"
    left.mkdir(parents=True)
    (left / "bucket.csv").write_text("tokens")
    new_engine("")
    assert left_over(tmp_path) == []


def test_two_nodes_cannot_share_a_folder(new_engine: NewEngine) -> None:
    new_engine("")
    with pytest.raises(EngineFailed, match="in use by another node"):
        new_engine("")


def test_empty_rows_are_refused_before_anything_starts(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    engine = new_engine("")
    nothing = SideRows(*(getattr(SIDES.a, n)[:0] for n in ("tokens", "group", "factors")))
    assert failure_of(engine, rows=nothing).fault is EngineFault.INPUT
    assert left_over(tmp_path) == []


def test_rows_that_do_not_fit_the_task_are_refused_before_anything_starts(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    engine = new_engine("")
    repeated = replace(SIDES.a, tokens=SIDES.a.tokens[[0, *range(19)]])
    failed = failure_of(engine, rows=repeated)
    assert failed.fault is EngineFault.INPUT
    assert "not distinct" in str(failed)
    assert left_over(tmp_path) == []


def test_the_spare_child_is_used_and_replaced(new_engine: NewEngine, tmp_path: Path) -> None:
    engine = new_engine(f"sys.stdin.readline() and sys.stdout.write({DONE!r})")
    engine.warm()
    (spare,) = left_over(tmp_path)
    run = engine.start(TASK, SIDES.a, LIMITS)
    assert left_over(tmp_path) == [spare]
    run.wait()
    wait_until(lambda: left_over(tmp_path) not in ([], [spare]))


def test_a_spare_child_that_has_died_is_not_given_a_job(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    engine = new_engine(
        f"""
        if not os.path.exists({str(first)!r}):
            open({str(first)!r}, "w").close()
            os.abort()
        sys.stdout.write({DONE!r})
        """
    )
    engine.warm()
    wait_until(first.exists)
    time.sleep(0.2)
    assert engine.start(TASK, SIDES.a, LIMITS).wait() == OUTCOME


def test_what_a_child_says_aside_is_kept_within_bounds_and_without_chatter(
    new_engine: NewEngine, tmp_path: Path
) -> None:
    trace = Path("/tmp") / f"psi_test{os.getpid():012d}.trace"
    trace.write_text("timings")
    engine = new_engine(
        f"""
        print("[x] [info] intersection 300", file=sys.stderr)
        print("[x] [info] Trace has been written to {trace}.", file=sys.stderr)
        print("[x] [warning] channel closed", file=sys.stderr)
        for _ in range(100): print("e" * 10_000, file=sys.stderr)
        sys.stderr.flush()
        sys.stdin.readline()
        sys.stdout.write({DONE!r})
        """
    )
    engine.start(TASK, SIDES.a, LIMITS).wait()
    (log,) = (tmp_path / "logs").iterdir()
    text = log.read_text()
    assert text.startswith("[x] [warning] channel closed")
    assert "300" not in text
    assert log.stat().st_size <= MAX_LOG_BYTES
    assert not trace.exists()


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)
