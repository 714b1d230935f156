"""The unbalanced intersection in child processes, with real masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crypto.adapters.kept_folder import CLIENT_FILE, SERVER_FILE, KeptFolder
from crypto.digest import Digest, digest
from crypto.engine import EngineOutcome, EngineStage, RevealedTask, Standing
from crypto.joins.intersection import Intersection
from crypto.joins.released import open_cells
from crypto.joins.rows import KeptRows, SideRows, plain_output
from crypto.sharing import recombine
from exchange.node.adapters.process_engine import ProcessEngine
from exchange.node.engine import EngineLimits
from tests.fakes.seats import seats
from tests.fakes.tunnel import Tunnel
from tests.fakes.two_sides import Sides, a_layout, two_sides

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LIMITS = EngineLimits(deadline_s=200, memory_bytes=3 * 2**30)
FIRST = digest(b"version 1")
Outcomes = tuple[EngineOutcome, EngineOutcome]


class Pair:
    """Two nodes' engines, and the folder of each in which things are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engines = [ProcessEngine(path / f"engine-{x}", path / "logs") for x in "ab"]
        self.stages: list[EngineStage] = []
        self._jobs = 0

    def kept(self, rank: int, name: Digest = FIRST) -> Path:
        return self.path / f"data-{'ab'[rank]}" / name.raw.hex()

    def run(self, sides: Sides, *, server: int = 0, name: Digest = FIRST) -> Outcomes:
        """One job. Its stages at A are in `stages`."""
        self._jobs += 1
        rows = (sides.a, sides.b)
        standing = Standing(name, server, rows=200_000, asked=2_000)
        tunnels = [Tunnel(), Tunnel()]
        both = seats(
            [tunnel.engine for tunnel in tunnels],
            [tunnel.address for tunnel in tunnels],
            attempt=f"att_{self._jobs}",
        )
        try:
            runs = [
                self.engines[rank].start(
                    RevealedTask(
                        both[rank], sides.layout, Intersection.UNBALANCED, b"z" * 32, standing
                    ),
                    KeptRows(rows[rank], self.kept(rank, name)),
                    LIMITS,
                )
                for rank in range(2)
            ]
            self.stages = []
            return runs[0].wait(self.stages.append), runs[1].wait()
        finally:
            for tunnel in tunnels:
                tunnel.close()

    @property
    def offline(self) -> bool:
        return EngineStage.OFFLINE in self.stages


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    both = Pair(tmp_path)
    yield both
    for engine in both.engines:
        engine.close()
    for rank in "ab":
        assert [path.name for path in (tmp_path / f"engine-{rank}").iterdir()] == ["lock"]


def unbalanced(many: int = 100_000, few: int = 1_000, matched: int = 500) -> Sides:
    """Side A as it comes, of side B so many rows, half of them in common."""
    layout = a_layout(2, 3, 1, 1, 10)
    sides = two_sides(many, overlap=matched, layout=layout)
    of_a, of_b = (np.ascontiguousarray(x.tokens).view("V16").ravel() for x in (sides.a, sides.b))
    here = np.isin(of_b, of_a)
    kept = np.concatenate([np.flatnonzero(here), np.flatnonzero(~here)[: few - matched]])
    return replace(sides, b=of_rows(sides.b, kept))


def of_rows(rows: SideRows, at: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> SideRows:
    return SideRows(rows.tokens[at], rows.group[at], rows.factors[at])


def require_exact(sides: Sides, outcomes: Outcomes) -> None:
    assert open_cells(sides.layout, [end.share for end in outcomes]) == sides.truth


def test_a_hundred_thousand_rows_against_a_thousand(pair: Pair) -> None:
    """One story, for each of its jobs needs what the one before has left."""
    sides = unbalanced()
    require_exact(sides, pair.run(sides))
    assert pair.offline
    made = (pair.kept(1) / CLIENT_FILE).stat()
    assert made.st_size == 12 * 100_001

    outcomes = pair.run(sides)
    require_exact(sides, outcomes)
    assert not pair.offline
    assert [end.learned for end in outcomes] == [{"matched": 500}] * 2
    assert (pair.kept(1) / CLIENT_FILE).stat().st_mtime_ns == made.st_mtime_ns

    # Another version has another name: nothing of the first is used, and its secret is new.
    second = digest(b"version 2")
    require_exact(sides, pair.run(sides, name=second))
    assert pair.offline
    secrets = [KeptFolder(pair.kept(0, name)).secret() for name in (FIRST, second)]
    assert None not in secrets
    assert len({s.secret for s in secrets if s is not None}) == 2


@pytest.mark.parametrize("rank, file", [(0, SERVER_FILE), (1, CLIENT_FILE)])
def test_one_flipped_bit_of_what_is_kept_is_caught(pair: Pair, rank: int, file: str) -> None:
    sides = unbalanced(3_000, 60, 40)
    require_exact(sides, pair.run(sides))
    path = pair.kept(rank) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    require_exact(sides, pair.run(sides))
    assert pair.offline
    require_exact(sides, pair.run(sides))
    assert not pair.offline


def test_a_secret_of_another_set_is_caught_by_the_probe(pair: Pair) -> None:
    sides = unbalanced(3_000, 60, 40)
    require_exact(sides, pair.run(sides))
    kept = KeptFolder(pair.kept(0))
    held = kept.secret()
    assert held is not None
    kept.keep_secret(replace(held, secret=b"another secret".ljust(32)))
    require_exact(sides, pair.run(sides))
    assert pair.stages.count(EngineStage.MATCH) == 2


@pytest.mark.parametrize("server", [0, 1])
@pytest.mark.parametrize("matched", [0, 1, 7])
def test_it_equals_the_plain_twin_whoever_serves(pair: Pair, server: int, matched: int) -> None:
    sides = unbalanced(400, 8, matched)
    outcomes = pair.run(sides, server=server)
    found = recombine([end.share for end in outcomes])
    assert np.array_equal(found, plain_output(sides.layout, sides.a, sides.b))
