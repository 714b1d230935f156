"""One party of `exchange bench join`, in a process of its own: keys, link, rows, engine.

Speaks lines of JSON with the benchmark that started it: who it is; whom to talk to and what to
compute; then, once told to go, what it measured. The rows are made of a seed, and nobody's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from crypto import joinkeys, record, tls
from crypto.digest import Digest, digest
from crypto.engine import (
    Combination,
    EngineStage,
    EngineTask,
    HiddenTask,
    PaddingBounds,
    RevealedTask,
    Seat,
    Standing,
    SumTask,
)
from crypto.errors import EngineFailed, EngineFault
from crypto.identifiers import JobId, PartyId
from crypto.joins.hidden.keys import row_tags
from crypto.joins.intersection import Intersection
from crypto.joins.layout import COUNTED, Layout, Term
from crypto.joins.rows import KeptRows, SideRows
from crypto.joins.summable import scheme_for
from crypto.keys import ExchangeKey, PublicKey, SigningKey
from crypto.ports import SystemClock, SystemRandomness
from crypto.session import PairKeys, pair_keys, standing_token_key
from exchange.links.endpoint import Endpoint
from exchange.node.adapters.process_engine import ProcessEngine, free_port
from exchange.node.adapters.tls_links import LinkService
from exchange.node.engine import EngineInput, EngineLimits
from exchange.node.links import PeerAddress
from exchange.node.parts import Keys, local_query, side_rows, task_of
from exchange.query.plan import Plan
from exchange.query.program import program_of
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.party import party_id
from registry.product import DataProduct
from registry.source import FileFormat, FileSource

BLOCK: Final = 2**18
LOAD_S: Final = 120.0  # of an engine's libraries, with other engines loading beside it
PADDING: Final = PaddingBounds(Fraction(1, 10), Fraction(1, 10**9), 1)
MIN_GROUP: Final = 5
MAX_VALUE: Final = 10_000
SEED: Final = 20261123

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """rows of each holder, the first half of B's in common with A's second; groups of A.

    against:  rows of B, where it has fewer
    standing: of an unbalanced intersection: under which name A's masked keys are kept
    """

    protocol: str
    rows: int
    groups: int
    against: int | None = None
    standing: str = ""

    @property
    def caps(self) -> tuple[int, int]:
        return self.rows, self.rows if self.against is None else self.against

    @property
    def first_common(self) -> int:
        """The people in common begin here and end with A's last."""
        few = self.caps[1]
        return self.rows - (few - few // 2)

    @property
    def layout(self) -> Layout:
        return Layout(
            groups_a=self.groups,
            groups_b=1,
            factors_a=1,
            factors_b=2,
            terms=(Term(COUNTED, COUNTED, 0, False), Term(COUNTED, 1, 0, False)),
            comparisons=(),
            extremes=(),
            min_group=MIN_GROUP,
            slack=0,
            dominance=None,
            round_counts=1,
        )

    def persons(self, rank: int) -> Int64Array:
        """Numbers of the people whom one holder has rows about, in no order."""
        first = 0 if rank == 0 else self.first_common
        order = np.random.default_rng(SEED + rank).permutation(self.caps[rank])
        return order.astype(np.int64) + first

    def group(self, persons: Int64Array) -> Int64Array:
        return _scattered(persons, 1) % self.groups

    def value(self, persons: Int64Array) -> Int64Array:
        return _scattered(persons, 2) % MAX_VALUE

    def expected(self) -> Int64Array:
        """Count and sum of each group, in the clear. shape (2, groups)."""
        common = np.arange(self.first_common, self.rows, dtype=np.int64)
        group, value = self.group(common), self.value(common)
        counts = np.bincount(group, minlength=self.groups)
        sums = np.bincount(group, weights=value.astype(np.float64), minlength=self.groups)
        found: Int64Array = np.stack([counts, sums.astype(np.int64)])  # exact below 2**53
        return found


@dataclass(frozen=True)
class SqlTask:
    """plan, products: canonical bytes, base64. files: each holder's own."""

    plan: str
    products: list[str]
    files: list[str]


P = TypeVar("P", bound="Party")


@dataclass
class Party:
    """keys: long-lived ones, made for this run. peers: by rank, once they are known."""

    rank: int
    folder: Path
    signing: SigningKey = field(default_factory=SigningKey.generate)
    ephemeral: ExchangeKey = field(default_factory=ExchangeKey.generate)
    peers: dict[int, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = party_id(self.signing.public)
        self.tls = tls.make_identity(self.folder / "tls.pem", self.id, now=datetime.now(UTC))
        self.links = LinkService(
            self.id,
            self.tls,
            listen=Endpoint("127.0.0.1", 0),
            relay=None,
            proxy=None,
            signer=self.signing,
            clock=SystemClock(),
            randomness=SystemRandomness(),
        )
        self.links.start()
        self.engine = ProcessEngine(self.folder / "engine", self.folder / "logs")

    def introduce(self) -> dict[str, str]:
        return {
            "party": self.id,
            "certificate": record.encode_base64(self.tls.certificate),
            "endpoint": str(self.links.endpoint),
            "ephemeral": str(self.ephemeral.public),
        }

    def run(self, question: Question, job: JobId, go: Callable[[], None]) -> dict[str, Any]:
        """One attempt at the bare join. go: called once everything that is not measured is done."""
        persons = question.persons(self.rank) if self.rank < 2 else None

        def prepare(keys: Mapping[int, PairKeys]) -> EngineInput | None:
            if persons is None:
                return None
            if not question.standing:
                return self._rows(question, persons, keys[1 - self.rank].token)
            peer = self.peers[1 - self.rank]
            key = standing_token_key(
                self.ephemeral,
                PublicKey.parse(peer["ephemeral"]),
                between=(self.id, PartyId(peer["party"])),
            )
            kept = self.folder / "standing" / question.standing
            return KeptRows(self._rows(question, persons, key), kept)

        plan = digest(json.dumps(question.__dict__).encode())
        return self.attempt(plan, job, prepare, lambda s, k: _task(question, s, k), go)

    def answer(self, asked: SqlTask, job: JobId, go: Callable[[], None]) -> dict[str, Any]:
        """One attempt at a compiled query, this holder's rows from its own file."""
        plan = record.from_bytes(Plan, record.decode_base64(asked.plan))
        products = [
            record.from_bytes(DataProduct, record.decode_base64(one)) for one in asked.products
        ]
        program = program_of(plan, products)

        def prepare(keys: Mapping[int, PairKeys]) -> SideRows | None:
            if self.rank >= len(products):
                return None
            source = DuckDBFileSource(FileSource(asked.files[self.rank], FileFormat.PARQUET))
            local = source.compute(products[self.rank], local_query(plan, program, self.rank))
            return side_rows(plan, self.rank, local, Keys(keys), filler=os.urandom(16))

        return self.attempt(
            digest(record.to_bytes(plan)),
            job,
            prepare,
            lambda seat, keys: task_of(plan, products, seat, Keys(keys)),
            go,
            parties=len(plan.engine_parties),
        )

    def attempt(
        self,
        plan: Digest,
        job: JobId,
        prepare: Callable[[Mapping[int, PairKeys]], EngineInput | None],
        task_for: Callable[[Seat, Mapping[int, PairKeys]], EngineTask],
        go: Callable[[], None],
        *,
        parties: int | None = None,
    ) -> dict[str, Any]:
        """prepare: the local part, measured with the rest. parties: the first so many take part;
        None: all. Returns its share and figures."""
        peers = {r: p for r, p in self.peers.items() if parties is None or r < parties}
        keys = {
            rank: pair_keys(
                self.ephemeral,
                PublicKey.parse(peer["ephemeral"]),
                plan=plan,
                job=job,
                between=(self.id, PartyId(peer["party"])),
            )
            for rank, peer in peers.items()
        }
        start_s = self._load()
        go()
        began = time.monotonic()
        given = prepare(keys)
        local_s = time.monotonic() - began
        port = free_port()
        session = self.links.open_session(
            plan_digest=plan,
            job_id=job,
            own=PeerAddress(self.tls.certificate, self.links.endpoint),
            peers={
                PartyId(peer["party"]): PeerAddress(
                    record.decode_base64(peer["certificate"]), Endpoint.parse(peer["endpoint"])
                )
                for peer in peers.values()
            },
            engine_port=port,
        )
        entered: dict[str, float] = {}
        try:
            seat = Seat(
                attempt=job,
                plan=plan,
                rank=self.rank,
                listen=f"127.0.0.1:{port}",
                peers=tuple(
                    str(session.tunnel_address(PartyId(peers[rank]["party"])))
                    if rank in peers
                    else ""
                    for rank in range(len(peers) + 1)
                ),
                keys=tuple(
                    keys[rank].engine if rank in keys else b"" for rank in range(len(keys) + 1)
                ),
                connect_timeout_ms=120_000,
                receive_timeout_ms=300_000,
            )
            task = task_for(seat, keys)
            running = self.engine.start(task, given, EngineLimits(1800, 16 << 30))

            def enter(stage: EngineStage) -> None:
                entered[stage.value] = time.monotonic()

            outcome = running.wait(enter)
            ended = time.monotonic()
        finally:
            session.close()
        sent = sum(stream.sent_bytes for stream in session.egress())
        return {
            "share": record.encode_base64(outcome.share),
            # The next engine loads now, or it would do so while a rival is measured.
            "start_s": max(start_s, self._load()),
            "began": began,
            "local_s": local_s,
            "entered": entered,
            "ended": ended,
            "sent_bytes": sent,
            "stages_ms": dict(outcome.timings_ms),
            "engine_rss_mb": outcome.peak_rss_bytes / 1e6,
            "node_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
        }

    def _load(self) -> float:
        """Have an engine ready; the seconds that it took."""
        began = time.monotonic()
        self.engine.warm()
        if not self.engine.loaded(LOAD_S):
            raise EngineFailed(EngineFault.CRASHED, f"the engine did not load in {LOAD_S:g} s")
        return time.monotonic() - began

    def _rows(self, question: Question, persons: Int64Array, shared: bytes) -> SideRows:
        """Tokens under the holders' own key, block by block: the local part that is measured."""
        make = row_tags if question.protocol == "hidden" else joinkeys.tokens
        tokens = np.empty((len(persons), joinkeys.TOKEN_BYTES), dtype=np.uint8)
        for start in range(0, len(persons), BLOCK):
            part = persons[start : start + BLOCK]
            text = tuple(b"%012d" % number for number in part.tolist())
            tokens[start : start + len(part)] = make(
                joinkeys.JoinKeys(np.arange(len(part)), text), shared
            )
        if self.rank == 0:
            empty = np.zeros((len(persons), 0), dtype=np.int64)
            return SideRows(tokens, question.group(persons), empty)
        nobody = np.zeros(len(persons), dtype=np.int64)
        return SideRows(tokens, nobody, question.value(persons)[:, None])


def _task(question: Question, seat: Seat, keys: Mapping[int, PairKeys]) -> EngineTask:
    caps = question.caps
    if question.protocol == "revealed":
        zero = keys[1 - seat.rank].zero
        if not question.standing:
            return RevealedTask(seat, question.layout, Intersection.RR22, zero)
        standing = Standing(digest(question.standing.encode()), 0, rows=caps[0], asked=caps[1])
        return RevealedTask(seat, question.layout, Intersection.UNBALANCED, zero, standing)
    if question.protocol == "sum":
        zero = keys[1 - seat.rank].zero
        return SumTask(seat, question.layout, caps, scheme_for(caps), zero)
    return HiddenTask(
        seat=seat,
        layout=question.layout,
        combination=Combination.JOIN,
        caps=caps,
        padding=PADDING,
        hide_size=False,
        token_key=keys[1 - seat.rank].token if seat.rank < 2 else b"",
        noise=None,
    )


def _scattered(persons: Int64Array, stream: int) -> Int64Array:
    """A number below 2**31 for each person, the same in every process (Fibonacci hashing)."""
    mixed = (persons.astype(np.uint64) + np.uint64(stream)) * np.uint64(0x9E3779B97F4A7C15)
    found: Int64Array = (mixed >> np.uint64(33)).astype(np.int64)
    return found


def main() -> None:
    def answer(party: Party, asked: dict[str, Any], job: JobId, go: Callable[[], None]) -> Any:
        if "plan" in asked:
            return party.answer(SqlTask(**asked), job, go)
        return party.run(Question(**asked), job, go)

    attend(Party, answer)


def attend(
    kind: Callable[[int, Path], P],
    answer: Callable[[P, dict[str, Any], JobId, Callable[[], None]], Any],
) -> None:
    """Introduce a party, then answer whatever the benchmark asks until it is done."""
    rank = int(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="unseen-bench-") as folder:
        party = kind(rank, Path(folder))
        _say(party.introduce())
        peers = json.loads(sys.stdin.readline())
        party.peers = {int(one): peer for one, peer in peers.items() if int(one) != rank}
        try:
            while line := sys.stdin.readline():
                asked = json.loads(line)
                job = JobId(asked.pop("job"))

                def go() -> None:
                    _say({"ready": True})
                    sys.stdin.readline()

                _say(answer(party, asked, job, go))
        finally:
            party.engine.close()
            party.links.stop()


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
