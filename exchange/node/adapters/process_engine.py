"""Engine runs as child processes that can hurt nobody but themselves.

Each child has its own session and folder; that folder is its working and temporary directory and
is wiped when the child has ended, however it ended, and again when a node starts, for a node that
was killed had no time to. A child dies with its node, at its deadline, beyond its memory, and with
its job. One spare child waits with its libraries loaded, so that a small job does not pay for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import re
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from crypto import record
from crypto.engine import (
    ChildLine,
    Ended,
    EngineOutcome,
    EngineStage,
    EngineTask,
    Entered,
    Failed,
    Seat,
    TaskLine,
)
from crypto.errors import EngineFailed, EngineFault, Malformed
from exchange.node.engine import EngineInput, EngineLimits, ignore_stages, require_input

ENGINE_CHILD: Final = (sys.executable, "-P", "-m", "crypto.adapters.engine_child")
MAX_LOG_BYTES: Final = 256 * 1024
LOGS_KEPT: Final = 50

_POLL_S: Final = 0.05
# A spare child takes seconds of processor time to load; the job that just ended needs them first,
# to be sealed, released and opened.
SPARE_PAUSE_S: Final = 2.0
_END_S: Final = 5.0  # how long a child that has reported may take to end by itself
_MAX_LINE_BYTES: Final = 16 * 1024 * 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PREFIX: Final = "run-"
# SPU's intersection writes its timings here whatever TMPDIR says, and only its log tells the name.
_TRACE: Final = re.compile(rb"Trace has been written to (/tmp/psi_[\w-]{16}\.trace)\.")


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def alive(self) -> bool:
        """Looks without reaping: until `_end` reaps it, nobody else can get its process id."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, look) is None


class ProcessEngine:
    """An EngineRunner. `folder` belongs to this node alone; `logs` keeps what children say.

    Logs hold the warnings of the native libraries and tracebacks, each run's in its own file of
    bounded size; they name stages and counts of bytes, never a key or a value.
    """

    def __init__(self, folder: Path, logs: Path, *, command: Sequence[str] = ENGINE_CHILD) -> None:
        """Raises EngineFailed (input) if another node uses this folder."""
        self._folder = folder
        self._logs = logs
        self._command = tuple(command)
        self._closed = False
        self._spare: _Child | None = None
        self._running: set[ProcessRun] = set()
        self._warming: threading.Timer | None = None
        self._lock = threading.Lock()
        for place in (folder, logs):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._claim = _claim(folder)
        for left in folder.glob(f"{_PREFIX}*"):
            _wipe(left)
        # A child is killed when the thread that made it ends, not only when its process does
        # (prctl(2), PR_SET_PDEATHSIG): so one thread makes them all and lives as long as the node.
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="engine-maker")

    def warm(self) -> None:
        """Have a spare child ready; returns at once, the child loads on its own."""
        with self._lock:
            if self._closed or (self._spare is not None and self._spare.alive):
                return
            dead, self._spare = self._spare, self._maker.submit(self._make).result()
        if dead is not None:
            _end(dead)

    def loaded(self, timeout_s: float) -> bool:
        """Whether the spare child has loaded its libraries, after at most so long."""
        with self._lock:
            spare = self._spare
        if spare is None:
            return False
        # It says that it is ready, or ends: either way there is something to read.
        said, _, _ = select.select([_pipe(spare.process.stdout)], [], [], timeout_s)
        return bool(said) and spare.alive

    def start(
        self, task: EngineTask, given: EngineInput | None, limits: EngineLimits
    ) -> ProcessRun:
        require_input(task, given)
        begun = time.monotonic()
        log = self._log(task.seat)
        child = self._take()
        try:
            if given is not None:
                given.place(child.folder)
            stdin = _pipe(child.process.stdin)
            stdin.write(record.to_bytes(TaskLine(task)) + b"\n")
            stdin.close()
        except OSError as error:  # it ended before it was asked, or the disk is full
            _end(child)
            raise EngineFailed(EngineFault.CRASHED, f"could not start: {error.strerror}") from error
        run = ProcessRun(
            child,
            deadline=begun + limits.deadline_s,
            limits=limits,
            log=log,
            on_end=self._ended,
        )
        with self._lock:
            self._running.add(run)
            if self._closed:  # since we took the child
                run.kill("the node is stopping")
        run.begin()
        return run

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._do_not_warm()
            running, spare, self._spare = list(self._running), self._spare, None
        for run in running:
            run.kill("the node is stopping")
        for run in running:
            run.ended.wait()
        if spare is not None:
            _end(spare)
        self._maker.shutdown()
        os.close(self._claim)

    def _take(self) -> _Child:
        with self._lock:
            if self._closed:
                raise EngineFailed(EngineFault.KILLED, "the node is stopping")
            self._do_not_warm()
            child, self._spare = self._spare, None
        if child is not None and child.alive:
            return child
        if child is not None:
            _end(child)
        return self._maker.submit(self._make).result()

    def _make(self) -> _Child:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._folder))
        try:
            process = subprocess.Popen(
                [*self._command, "--parent", str(os.getpid())],
                cwd=folder,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            _wipe(folder)
            raise EngineFailed(EngineFault.CRASHED, f"could not start: {error.strerror}") from error
        return _Child(process, folder)

    def _log(self, seat: Seat) -> Path:
        ages = []
        for path in self._logs.glob("engine-*.log"):
            with contextlib.suppress(FileNotFoundError):  # another start has just removed it
                ages.append((path.stat().st_mtime, path))
        for _, old in sorted(ages)[: max(0, len(ages) - LOGS_KEPT + 1)]:
            old.unlink(missing_ok=True)
        attempt = re.sub(r"[^0-9A-Za-z_-]", "_", seat.attempt)
        return self._logs / f"engine-{attempt}-{'ABCD'[seat.rank]}.log"

    def _ended(self, run: ProcessRun) -> None:
        with self._lock:
            self._running.discard(run)
            # Only now: a spare that loads beside a run would slow it.
            self._warm_later()

    def _warm_later(self) -> None:
        """Called with the lock held."""
        self._do_not_warm()
        if not self._closed:
            self._warming = threading.Timer(SPARE_PAUSE_S, self.warm)
            self._warming.daemon = True
            self._warming.start()

    def _do_not_warm(self) -> None:
        if self._warming is not None:
            self._warming.cancel()


class ProcessRun:
    """One child at work, and the thread that watches it."""

    def __init__(
        self,
        child: _Child,
        *,
        deadline: float,
        limits: EngineLimits,
        log: Path,
        on_end: Callable[[ProcessRun], None],
    ) -> None:
        self.ended = threading.Event()
        self._child = child
        self._deadline = deadline
        self._limits = limits
        self._log = log
        self._on_end = on_end
        self._stages: queue.SimpleQueue[EngineStage | None] = queue.SimpleQueue()
        self._result: Future[EngineOutcome] = Future()
        self._why_killed: str | None = None

    def begin(self) -> None:
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def wait(self, on_stage: Callable[[EngineStage], None] = ignore_stages) -> EngineOutcome:
        while (stage := self._stages.get()) is not None:
            on_stage(stage)
        self._stages.put(None)
        return self._result.result()

    def kill(self, why: str) -> None:
        self._why_killed = why

    def _watch(self) -> None:
        """The run from here to its end. Wiped first, told afterwards."""
        outcome: EngineOutcome | None = None
        failure = EngineFailed(EngineFault.CRASHED, "the supervisor failed")
        try:
            with self._log.open("wb") as log:
                last = self._follow(_Quiet(log))
            if isinstance(last, EngineOutcome):
                outcome = last
            else:
                failure = last
        except OSError as error:
            failure = EngineFailed(EngineFault.CRASHED, f"supervision failed: {error.strerror}")
        finally:
            _end(self._child, grace_s=_END_S if outcome else 0)
            if outcome is not None:
                self._result.set_result(outcome)
            else:
                self._result.set_exception(failure)
            self.ended.set()
            self._stages.put(None)
            self._on_end(self)

    def _follow(self, log: _Quiet) -> EngineOutcome | EngineFailed:
        process = self._child.process
        stdout, stderr = _pipe(process.stdout), _pipe(process.stderr)
        pending = bytearray()  # the line that is being received
        with selectors.DefaultSelector() as selector:
            for stream in (stdout, stderr):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(_POLL_S):
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is stderr:
                        log.write(data)
                    else:
                        pending += data
                        *lines, rest = pending.split(b"\n") if b"\n" in data else [pending]
                        pending = rest
                        for line in lines:
                            if (last := self._heard(bytes(line))) is not None:
                                return last
                        if len(pending) > _MAX_LINE_BYTES:
                            return EngineFailed(EngineFault.CRASHED, "it said too much")
                if (stop := self._must_stop()) is not None:
                    return stop
                # An ended child's last words may still be in the pipe.
                if not self._child.alive and not selector.select(0):
                    return _how_it_died(process.pid)

    def _heard(self, line: bytes) -> EngineOutcome | EngineFailed | None:
        try:
            event = ChildLine.from_line(line).event
        except Malformed as error:
            return EngineFailed(EngineFault.CRASHED, f"it said what we cannot read: {error}")
        if isinstance(event, Entered):
            self._stages.put(event.stage)
            return None
        if isinstance(event, Failed):
            return EngineFailed(event.fault, event.problem)
        if not isinstance(event, Ended):
            raise TypeError(event)
        return event.outcome

    def _must_stop(self) -> EngineFailed | None:
        if self._why_killed is not None:
            return EngineFailed(EngineFault.KILLED, self._why_killed)
        if time.monotonic() > self._deadline:
            return EngineFailed(
                EngineFault.DEADLINE, f"not done after {self._limits.deadline_s:g} s"
            )
        used = _resident_bytes(self._child.process.pid)
        if used > self._limits.memory_bytes:
            return EngineFailed(
                EngineFault.MEMORY,
                f"it held {used >> 20} MiB; the limit is {self._limits.memory_bytes >> 20} MiB",
            )
        return None


class _Quiet:
    """A log of bounded size without the native libraries' chatter (sizes, counts, paths)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_LOG_BYTES
        self._pending = b""

    def write(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        self._pending = self._pending[-4096:]
        for line in lines:
            if trace := _TRACE.search(line):
                Path(os.fsdecode(trace[1])).unlink(missing_ok=True)
            if b"[info]" in line or b"perfetto" in line:
                continue
            written = (line + b"\n")[: self._left]
            self._file.write(written)
            self._left -= len(written)


def free_port() -> int:
    """A loopback port for an engine to listen on. Another program may take it before the engine
    does; the run then fails to connect, and may be asked for again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _claim(folder: Path) -> int:
    """Hold the folder, or two nodes would wipe each other's runs."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise EngineFailed(
            EngineFault.INPUT, f"{folder} is in use by another node; give each its own"
        ) from None
    return lock


def _environment() -> Mapping[str, str]:
    """Nothing of the node's environment that may hold a secret or a proxy."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        "PATH": os.defpath,
        **kept,
        # Relative, because SPU pastes its temporary path unquoted into a shell command.
        "TMPDIR": ".",
        "HOME": ".",
        "LANG": "C.UTF-8",
        "JAX_PLATFORMS": "cpu",
    }


def _end(child: _Child, *, grace_s: float = 0) -> None:
    """Kill the child and all it started, reap it, wipe its folder."""
    give_up = time.monotonic() + grace_s
    while child.alive and time.monotonic() < give_up:
        time.sleep(_POLL_S / 10)
    # The whole group, also of a child that ended by itself: SPU starts sort programs.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()
    for stream in (child.process.stdin, child.process.stdout, child.process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):  # unsent bytes to a child that is gone
                stream.close()
    _wipe(child.folder)


def _wipe(folder: Path) -> None:
    # A killed program's last write may still create a file while we delete.
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_POLL_S)
    shutil.rmtree(folder)


def _how_it_died(pid: int) -> EngineFailed:
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if end is None:
        raise ChildProcessError(pid)
    if end.si_code != os.CLD_EXITED:
        name = signal.Signals(end.si_status).name
        # Thrown in one of SPU's two libraries, an error cannot be caught in the other.
        hint = "; engines do this when a peer goes away or is silent for too long"
        words = f"it was ended by {name}{hint if name == 'SIGABRT' else ''}"
        return EngineFailed(EngineFault.CRASHED, words)
    if end.si_status == 255:
        return EngineFailed(EngineFault.PEER, "it gave up on its peer (exit 255)")
    return EngineFailed(EngineFault.CRASHED, f"it ended with exit {end.si_status} and no result")


def _resident_bytes(pid: int) -> int:
    try:
        with Path(f"/proc/{pid}/statm").open() as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0  # it has just ended


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TypeError("the child was made without pipes")
    return stream
