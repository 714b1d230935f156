"""What an engine run is told, what it reports, and what it gives back.

An engine runs in a child process, for native engines abort. The child says it is ready, reads one
task as one line of canonical JSON on standard input, writes one line for each stage it enters and
one for how it ended, and ends. The rows lie beside it in its own folder (`ROWS_FILE`). Keys arrive
by standard input because a command line can be read by every process of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Final

from crypto import record
from crypto.digest import Digest, digest
from crypto.errors import EngineFault, Malformed
from crypto.joins.intersection import Intersection
from crypto.joins.layout import RevealedLayout
from crypto.sharing import ZERO_KEY_BYTES

ROWS_FILE: Final = "rows.npz"


class EngineStage(Enum):
    """Where a run is, in the order in which they happen."""

    READY = "ready"  # libraries loaded, share layout checked; waits for its task
    CONNECT = "connect"
    PSI = "psi"
    SHARE = "share"
    COMPUTE = "compute"
    GATE = "gate"


@dataclass(frozen=True)
class EngineTask:
    """One party's part of one attempt at a revealed join.

    job:      names the attempt; both parties the same, never used twice
    rank:     0 for side A, 1 for side B
    listen:   127.0.0.1:port, where the engine listens and the peer's tunnel delivers
    peer:     127.0.0.1:port of the own node's tunnel to the peer's engine
    zero_key: 32 bytes both parties derived for this attempt: see crypto.sharing
    connect_timeout_ms: how long to wait for the peer's engine to appear
    receive_timeout_ms: how long to wait for one message; the longest local step of the peer
                        must fit. The deadline of the whole run is the supervisor's.
    """

    job: str
    rank: int
    listen: str
    peer: str
    intersection: Intersection
    layout: RevealedLayout
    zero_key: bytes = field(repr=False)
    connect_timeout_ms: int
    receive_timeout_ms: int

    def __post_init__(self) -> None:
        if not self.job:
            raise Malformed("job", "is empty")
        if self.rank not in (0, 1):
            raise Malformed("rank", "is neither 0 nor 1")
        for name in ("listen", "peer"):
            host, _, port = getattr(self, name).rpartition(":")
            # An engine's own port authenticates nobody: only the node's tunnel may reach it.
            if host != "127.0.0.1" or not port.isdecimal() or not 0 < int(port) < 2**16:
                raise Malformed(name, "is not 127.0.0.1:port")
        if len(self.zero_key) != ZERO_KEY_BYTES:
            raise Malformed("zero_key", f"is not {ZERO_KEY_BYTES} bytes")
        for name in ("connect_timeout_ms", "receive_timeout_ms"):
            if getattr(self, name) < 1:
                raise Malformed(name, "is less than 1")

    @property
    def common(self) -> Digest:
        """Digest of what both parties must have been told alike."""
        return digest(record.to_bytes(_Common(self.job, self.intersection, self.layout)))


@dataclass(frozen=True)
class _Common:
    job: str
    intersection: Intersection
    layout: RevealedLayout


@dataclass(frozen=True)
class EngineOutcome:
    """What a run gives back to its own node.

    matched:    rows in common; in this join both parties learn it
    share:      this party's additive share of the output (crypto.joins.layout), little-endian
                64-bit words, made fresh by a zero share: only both together say anything
    timings_ms: wall time of each stage by name, and `total` from the task to the end
    versions:   the engine and the libraries that ran, by name
    """

    job: str
    rank: int
    matched: int
    layout: RevealedLayout
    share: bytes = field(repr=False)
    timings_ms: Mapping[str, int]
    versions: Mapping[str, str]
    peak_rss_bytes: int

    def __post_init__(self) -> None:
        if len(self.share) != 8 * self.layout.outputs:
            raise Malformed("share", "is not as long as the layout says")


@dataclass(frozen=True)
class Entered:
    kind: ClassVar[str] = "entered"
    stage: EngineStage


@dataclass(frozen=True)
class Ended:
    kind: ClassVar[str] = "ended"
    outcome: EngineOutcome


@dataclass(frozen=True)
class Failed:
    kind: ClassVar[str] = "failed"
    fault: EngineFault
    problem: str


@dataclass(frozen=True)
class ChildLine:
    """One line of a child's standard output."""

    event: Entered | Ended | Failed

    def to_line(self) -> bytes:
        return record.to_bytes(self) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> ChildLine:
        return record.from_bytes(cls, line.rstrip(b"\n"))
