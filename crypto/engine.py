"""What an engine run is told, what it reports, and what it gives back.

An engine runs in a child process, for native engines abort. The child says it is ready, reads one
task as one line of canonical JSON on standard input, writes one line for each stage it enters and
one for how it ended, and ends. What its party brings, such as rows, lies in its own folder. Keys
arrive by standard input because a command line can be read by every process of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction
from typing import ClassVar, Final

from crypto import record
from crypto.digest import Digest, digest
from crypto.errors import EngineFault, Malformed
from crypto.joins.intersection import Intersection
from crypto.joins.layout import Layout
from crypto.joins.summable import MAX_SIDE_ROWS, ValueScheme, require_summable
from crypto.lookup.limits import (
    ANSWER_HEAD_BYTES,
    MAX_ANSWER_BYTES,
    MAX_EVALUATIONS,
    MAX_LABEL_BYTES,
    MAX_ROWS,
    SEED_BYTES,
)
from crypto.noise import Distribution
from crypto.scoring.hiding import require_hiding
from crypto.scoring.shape import MAX_SCORES, ModelShape

KEY_BYTES: Final = 32


class EngineStage(Enum):
    """Where a run is, in the order in which they happen."""

    READY = "ready"  # libraries loaded, share layout checked; waits for its task
    CONNECT = "connect"
    OFFLINE = "offline"  # revealed, unbalanced: the larger side's keys, masked, to the smaller side
    UPLOAD = "upload"  # hidden: rows to the helper, as shares; lookup: the table to the consumer
    MATCH = "match"  # hidden: pairs of tags; revealed and sum: the intersection; lookup: own rows
    CHECK = "check"  # hidden: that the pairs are right; lookup: that the holder used its one key
    SHARE = "share"
    COMPUTE = "compute"
    GATE = "gate"


@dataclass(frozen=True)
class Seat:
    """One party's place in one attempt.

    attempt: names the attempt; all parties the same, never used twice. plan: its plan's digest.
    rank:    0 for side A, 1 for side B, 2 for the helper, 3 for a third holder
    listen:  127.0.0.1:port, where the engine listens and the peers' tunnels deliver
    peers:   per rank, 127.0.0.1:port of the own node's tunnel to that peer; the own entry is empty
    keys:    per rank, 32 bytes derived with that peer for this attempt; the own entry is empty
    connect_timeout_ms: how long to wait for the peers' engines to appear
    receive_timeout_ms: how long to wait for one message; the longest local step of a peer must
                        fit. The deadline of the whole run is the supervisor's.
    """

    attempt: str
    plan: Digest
    rank: int
    listen: str
    peers: tuple[str, ...]
    keys: tuple[bytes, ...] = field(repr=False)
    connect_timeout_ms: int
    receive_timeout_ms: int

    def __post_init__(self) -> None:
        if not self.attempt:
            raise Malformed("attempt", "is empty")
        if not 0 <= self.rank < len(self.peers) or len(self.peers) not in (2, 3, 4):
            raise Malformed("rank", "is not the place of one of two to four parties")
        if len(self.keys) != len(self.peers):
            raise Malformed("keys", "are not one for each party")
        _require_loopback("listen", self.listen)
        for rank, (peer, key) in enumerate(zip(self.peers, self.keys, strict=True)):
            if (rank == self.rank) != (peer == "") or (rank == self.rank) != (key == b""):
                raise Malformed(f"peers[{rank}]", "must be empty for the own rank alone")
            if rank != self.rank:
                _require_loopback(f"peers[{rank}]", peer)
                if len(key) != KEY_BYTES:
                    raise Malformed(f"keys[{rank}]", f"is not {KEY_BYTES} bytes")
        for name in ("connect_timeout_ms", "receive_timeout_ms"):
            if getattr(self, name) < 1:
                raise Malformed(name, "is less than 1")


@dataclass(frozen=True)
class Standing:
    """What an unbalanced intersection keeps from one job to the next: see crypto.joins.unbalanced.

    name:   of what is kept: other holders, another product version or filter have another
    server: rank of the side with many rows, whose masked keys the other keeps
    rows, asked: at most so many rows of the server, and of the other side
    """

    name: Digest
    server: int
    rows: int
    asked: int

    def __post_init__(self) -> None:
        if self.server not in (0, 1):
            raise Malformed("standing.server", "is not the rank of a holder")
        if min(self.rows, self.asked) < 1:
            raise Malformed("standing", "must have at least 1 row on each side")


@dataclass(frozen=True)
class RevealedTask:
    """Both holders learn who matched. Ranks 0 and 1; rank 2, where there is one, helps to compute.

    zero_key: 32 bytes both derived, see crypto.sharing; empty with a helper, where every two
              parties have keys. standing: of an unbalanced intersection.
    """

    kind: ClassVar[str] = "revealed"
    seat: Seat
    layout: Layout
    intersection: Intersection
    zero_key: bytes = field(repr=False)
    standing: Standing | None = None

    def __post_init__(self) -> None:
        if (self.intersection is Intersection.UNBALANCED) != (self.standing is not None):
            raise Malformed("standing", "goes with the unbalanced intersection")
        if len(self.seat.peers) not in (2, 3):
            raise Malformed("seat", "the revealed join has two parties, or three with a helper")
        if len(self.zero_key) != (0 if self.helped else KEY_BYTES):
            raise Malformed("zero_key", f"is {KEY_BYTES} bytes, and empty with a helper")
        if self.layout.third is not None:
            raise Malformed("layout", "the revealed join has two holders")

    @property
    def helped(self) -> bool:
        return len(self.seat.peers) > 2

    @property
    def common(self) -> Digest:
        """Digest of what all parties must have been told alike."""
        return digest(
            record.to_bytes(
                _RevealedCommon(
                    self.seat.attempt,
                    self.seat.plan,
                    self.layout,
                    self.intersection,
                    self.standing,
                )
            )
        )


class Combination(Enum):
    """What three parties compute on: rows that two holders share, or each holder's own rows."""

    JOIN = "join"
    UNION = "union"  # horizontally split: each holder's own sums, added up


@dataclass(frozen=True)
class NoiseScales:
    """Each author adds one full discrete draw of each term's scale to every cell.

    scales: per term, in ring units: b of discrete Laplace, sigma of discrete Gaussian; 0 never.
    authors: the two ranks that draw; neither is the receiver.
    """

    distribution: Distribution
    scales: tuple[Fraction, ...]
    authors: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(scale <= 0 for scale in self.scales):
            raise Malformed("scales", "must be above 0")
        if len(set(self.authors)) != 2 or not set(self.authors) <= {0, 1, 2}:
            raise Malformed("authors", "must be two different parties")


@dataclass(frozen=True)
class PaddingBounds:
    """Upload padding of hidden_join: N = cap + 2*t_a + 2*t_h rows, agreed rows drawn for
    `epsilon`, `delta` and `contribution` (rows one person can move in the matched count)."""

    epsilon: Fraction
    delta: Fraction
    contribution: int

    def __post_init__(self) -> None:
        if self.epsilon <= 0 or not 0 < self.delta < 1 or self.contribution < 1:
            raise Malformed("padding", "needs epsilon above 0, delta in (0, 1), contribution >= 1")


@dataclass(frozen=True)
class HiddenTask:
    """The three-party protocol of docs/hidden_join.md. Ranks 0 and 1 hold rows, rank 2 helps, and
    rank 3, in the variant with three holders, holds rows too.

    caps:      per holder, in the order A, B, D, the registered product version's cap
    padding:   absent for a union, where nothing is matched
    hide_size: the variant in which the holders learn no count at all; for two holders
    token_key: 32 bytes that A and B derived together (k_tag is made of it); empty at the helper,
               and at D, which gets them from A
    noise:     absent where the plan is not differentially private
    """

    kind: ClassVar[str] = "hidden"
    seat: Seat
    layout: Layout
    combination: Combination
    caps: tuple[int, ...]
    padding: PaddingBounds | None
    hide_size: bool
    token_key: bytes = field(repr=False)
    noise: NoiseScales | None

    def __post_init__(self) -> None:
        if len(self.caps) not in (2, 3) or min(self.caps) < 1:
            raise Malformed("caps", "must be one per holder, each at least 1")
        if len(self.seat.peers) != len(self.caps) + 1:
            raise Malformed("seat", "the hidden join has its holders and one helper")
        if (len(self.caps) == 3) != (self.layout.third is not None):
            raise Malformed("layout.third", "goes with three holders and with nothing else")
        if (self.padding is None) != (self.combination is Combination.UNION):
            raise Malformed("padding", "goes with a join and with nothing else")
        if len(self.caps) == 3 and self.padding is None:
            raise Malformed("combination", "of three holders must be a join")
        if len(self.caps) == 3 and self.hide_size:
            raise Malformed("hide_size", "is for two holders")
        if (self.seat.rank < 2) != (self.token_key != b""):
            raise Malformed("token_key", "is for A and B alone")
        if self.noise is not None and len(self.noise.scales) != len(self.layout.terms):
            raise Malformed("noise", "does not have one scale for each term")

    @property
    def place(self) -> int | None:
        """Of this party among the holders, as in `caps`; None at the helper."""
        return (0, 1, None, 2)[self.seat.rank]

    @property
    def peers(self) -> tuple[int, ...]:
        """The ranks that this party exchanges messages with: B and D have nothing to say to each
        other."""
        parties, rank = len(self.seat.peers), self.seat.rank
        return tuple(i for i in range(parties) if i != rank and {i, rank} != {1, 3})

    @property
    def common(self) -> Digest:
        """Digest of what all parties must have been told alike."""
        return digest(
            record.to_bytes(
                _HiddenCommon(
                    self.seat.attempt,
                    self.seat.plan,
                    self.layout,
                    self.combination,
                    self.caps,
                    self.padding,
                    self.hide_size,
                    self.noise,
                )
            )
        )


@dataclass(frozen=True)
class LookupTask:
    """A consumer asks a holder's encrypted table for keys. Rank 0 holds it, rank 1 asks.

    table:       digest of the whole table, which carries the holder's public key
    epoch:       of the key that the table was made with
    rows, label_bytes: the table's size, dummies included, and its longest record
    evaluations: keys asked, dummies included; what budget and rate limit count
    seed:        32 bytes that the holder made the table's key from; empty at the consumer
    """

    kind: ClassVar[str] = "lookup"
    seat: Seat
    table: Digest
    epoch: int
    rows: int
    label_bytes: int
    evaluations: int
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seat.peers) != 2:
            raise Malformed("seat", "a lookup has two parties")
        if self.epoch < 0:
            raise Malformed("epoch", "is negative")
        for name, most in (
            ("rows", MAX_ROWS),
            ("label_bytes", MAX_LABEL_BYTES),
            ("evaluations", MAX_EVALUATIONS),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise Malformed(name, f"is not 1..{most}")
        if self.evaluations * (ANSWER_HEAD_BYTES + self.label_bytes) > MAX_ANSWER_BYTES:
            raise Malformed("evaluations", f"could answer with more than {MAX_ANSWER_BYTES} bytes")
        if len(self.seed) != (SEED_BYTES if self.seat.rank == 0 else 0):
            raise Malformed("seed", f"is {SEED_BYTES} bytes at the holder and empty elsewhere")

    @property
    def common(self) -> Digest:
        """Digest of what both parties must have been told alike."""
        return digest(
            record.to_bytes(
                _LookupCommon(
                    self.seat.attempt,
                    self.seat.plan,
                    self.table,
                    self.epoch,
                    self.rows,
                    self.label_bytes,
                    self.evaluations,
                )
            )
        )


@dataclass(frozen=True)
class SumTask:
    """Two parties; each learns how many rows match and nothing about which. Ranks 0 and 1.

    caps:     per holder, the registered product version's cap: each side sends so many rows
    scheme:   how values are encrypted
    zero_key: 32 bytes both derived, see crypto.sharing
    """

    kind: ClassVar[str] = "sum"
    seat: Seat
    layout: Layout
    caps: tuple[int, ...]
    scheme: ValueScheme
    zero_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seat.peers) != 2:
            raise Malformed("seat", "the sum join has two parties")
        if len(self.caps) != 2 or min(self.caps) < 1 or max(self.caps) > MAX_SIDE_ROWS:
            raise Malformed("caps", f"must be one per holder, each from 1 to {MAX_SIDE_ROWS}")
        if len(self.zero_key) != KEY_BYTES:
            raise Malformed("zero_key", f"is not {KEY_BYTES} bytes")
        require_summable(self.layout)

    @property
    def common(self) -> Digest:
        """Digest of what both parties must have been told alike."""
        return digest(
            record.to_bytes(
                _SumCommon(self.seat.attempt, self.seat.plan, self.layout, self.caps, self.scheme)
            )
        )


@dataclass(frozen=True)
class ScoreTask:
    """A consumer's encrypted rows meet an owner's model. Rank 0 owns the model, rank 1 asks.

    shape:      what is public of the model: features and their bounds, outputs, decimals, reach
    rows:       rows sent, filled up; what the plan's limit and the price count
    parameters: name of the CKKS parameter set (crypto.scoring.parameters)
    """

    kind: ClassVar[str] = "score"
    seat: Seat
    shape: ModelShape
    rows: int
    parameters: str

    def __post_init__(self) -> None:
        if len(self.seat.peers) != 2:
            raise Malformed("seat", "a scoring has two parties")
        if not 1 <= self.rows * len(self.shape.outputs) <= MAX_SCORES:
            raise Malformed("rows", f"times outputs is not 1..{MAX_SCORES}")
        require_hiding(self.shape, self.parameters)

    @property
    def common(self) -> Digest:
        """Digest of what both parties must have been told alike."""
        seat = self.seat
        return digest(
            record.to_bytes(
                _ScoreCommon(seat.attempt, seat.plan, self.shape, self.rows, self.parameters)
            )
        )


EngineTask = RevealedTask | HiddenTask | LookupTask | SumTask | ScoreTask


@dataclass(frozen=True)
class _RevealedCommon:
    attempt: str
    plan: Digest
    layout: Layout
    intersection: Intersection
    standing: Standing | None


@dataclass(frozen=True)
class _HiddenCommon:
    attempt: str
    plan: Digest
    layout: Layout
    combination: Combination
    caps: tuple[int, ...]
    padding: PaddingBounds | None
    hide_size: bool
    noise: NoiseScales | None


@dataclass(frozen=True)
class _LookupCommon:
    attempt: str
    plan: Digest
    table: Digest
    epoch: int
    rows: int
    label_bytes: int
    evaluations: int


@dataclass(frozen=True)
class _SumCommon:
    attempt: str
    plan: Digest
    layout: Layout
    caps: tuple[int, ...]
    scheme: ValueScheme


@dataclass(frozen=True)
class _ScoreCommon:
    attempt: str
    plan: Digest
    shape: ModelShape
    rows: int
    parameters: str


@dataclass(frozen=True)
class EngineOutcome:
    """What a run gives back to its own node.

    share:      this party's additive share of the output (crypto.joins.layout), little-endian
                64-bit words, made fresh by zero shares: only all together say anything
    learned:    counts that this party learned on the way, by name, e.g. `matched` (revealed: rows
                in common) or `pairs` (hidden: the padded count)
    timings_ms: wall time of each stage by name, and `total` from the task to the end
    versions:   the engine and the libraries that ran, by name
    """

    share: bytes = field(repr=False)
    learned: Mapping[str, int]
    timings_ms: Mapping[str, int]
    versions: Mapping[str, str]
    peak_rss_bytes: int


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


@dataclass(frozen=True)
class TaskLine:
    """The one line on a child's standard input."""

    task: EngineTask


def _require_loopback(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    # An engine's own port authenticates nobody: only the node's tunnel may reach it.
    if host != "127.0.0.1" or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise Malformed(name, "is not 127.0.0.1:port")
