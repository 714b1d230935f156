"""Every private computation once, on random inputs, against the same in the clear.

Each check starts the real engine children of all its parties, on loopback without links between
them, gives them fresh random rows, and compares what a receiver reads with what plain NumPy
computes. A build of an engine that computes something else, or stores shares in another way, is
found here rather than in a deal.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from crypto.digest import digest
from crypto.engine import (
    Combination,
    EngineOutcome,
    EngineTask,
    HiddenTask,
    LookupTask,
    NoiseScales,
    PaddingBounds,
    RevealedTask,
    ScoreTask,
    Seat,
    Standing,
    SumTask,
)
from crypto.errors import CryptoError, EngineFailed, EngineFault
from crypto.joins.intersection import Intersection
from crypto.joins.layout import COUNTED, Comparison, Extreme, Layout, Order, Term, Third
from crypto.joins.released import open_cells
from crypto.joins.rows import KeptRows, SideRows, plain_output, second_side
from crypto.joins.summable import ValueScheme
from crypto.lookup.answers import KEYS_FILE, TABLE_FILE, AskedKeys
from crypto.lookup.answers import unpack as unpack_records
from crypto.lookup.table import Table, make_table, table_secret
from crypto.noise import Distribution, slack
from crypto.ports import Randomness, SystemRandomness
from crypto.scoring.model import (
    FeatureRows,
    ScoringModel,
    SquareNetwork,
    affine_model,
    plain_scores,
)
from crypto.scoring.results import unpack as unpack_scores
from crypto.scoring.shape import Feature, ModelFamily, ModelShape
from exchange.node.adapters.process_engine import ProcessEngine, free_port
from exchange.node.engine import EngineInput, EngineLimits

ROWS: Final = 600
LIMITS: Final = EngineLimits(deadline_s=120, memory_bytes=8 << 30)

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Checked:
    """What one check found. security_bits: of the weakest part, against a classical attacker.

    seconds: of the computation itself, its slowest party; problem: empty where all agreed.
    """

    name: str
    scheme: str
    security_bits: int
    seconds: float
    problem: str


@dataclass(frozen=True)
class Scheme:
    """words: parameters and the assumption they rest on."""

    words: str
    security_bits: int
    check: Callable[[Room], float]


class Disagrees(Exception):
    """A private computation gave something else than the same in the clear."""


class Room:
    """The engines of up to four parties, and fresh randomness."""

    def __init__(self, folder: Path, randomness: Randomness) -> None:
        self.randomness = randomness
        self.folder = folder
        self.generator = np.random.default_rng(int.from_bytes(randomness.draw(16), "big"))
        self._engines = [ProcessEngine(folder / f"{i}", folder / f"{i}-logs") for i in range(4)]
        for engine in self._engines:
            engine.warm()

    def close(self) -> None:
        for engine in self._engines:
            engine.close()

    def seats(self, parties: int) -> list[Seat]:
        attempt = f"selfcheck-{self.randomness.draw(8).hex()}"
        ports = [free_port() for _ in range(parties)]
        pairs = {
            (low, high): self.randomness.draw(32)
            for low in range(parties)
            for high in range(low + 1, parties)
        }
        return [
            Seat(
                attempt=attempt,
                plan=digest(attempt.encode()),
                rank=rank,
                listen=f"127.0.0.1:{ports[rank]}",
                peers=tuple(
                    "" if peer == rank else f"127.0.0.1:{ports[peer]}" for peer in range(parties)
                ),
                keys=tuple(
                    b"" if peer == rank else pairs[min(rank, peer), max(rank, peer)]
                    for peer in range(parties)
                ),
                connect_timeout_ms=60_000,
                receive_timeout_ms=60_000,
            )
            for rank in range(parties)
        ]

    def run(
        self, tasks: Sequence[EngineTask], given: Sequence[EngineInput | None]
    ) -> list[EngineOutcome]:
        """Everybody's outcome. Raises EngineFailed, the first that came."""
        ends: dict[int, EngineOutcome | EngineFailed] = {}

        def take_part(rank: int) -> None:
            try:
                run = self._engines[rank].start(tasks[rank], given[rank], LIMITS)
                ends[rank] = run.wait()
            except EngineFailed as error:
                ends[rank] = error

        threads = [threading.Thread(target=take_part, args=(r,)) for r in range(len(tasks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for engine in self._engines:
            engine.warm()
        found = []
        for rank in range(len(tasks)):
            end = ends.get(rank, EngineFailed(EngineFault.CRASHED, "it never ended"))
            if isinstance(end, EngineFailed):
                raise end
            found.append(end)
        return found

    def sides(self, groups: int, factors: tuple[int, int]) -> tuple[SideRows, SideRows]:
        """Two sides with about half of their rows in common, values from a wide range."""
        names = self.generator.permutation(2 * ROWS)
        return (
            self.side(names[:ROWS], groups, factors[0]),
            self.side(names[ROWS // 2 : ROWS // 2 + ROWS], 1, factors[1]),
        )

    def side(self, names: Int64Array, groups: int, factors: int) -> SideRows:
        tokens = np.zeros((ROWS, 16), dtype=np.uint8)
        tokens[:, :8] = names.astype("<u8").view(np.uint8).reshape(-1, 8)
        tokens[:, 8] = 1
        return SideRows(
            tokens,
            self.generator.integers(-1, groups, ROWS, dtype=np.int64),
            self.generator.integers(-(2**20), 2**20, (ROWS, factors - 1), dtype=np.int64),
        )


def schemes() -> Mapping[str, Scheme]:
    """Every check, by name, in the order in which they run."""
    return _SCHEMES


def selfcheck(names: Sequence[str]) -> Iterator[Checked]:
    """Run these checks, one after the other; yields each as it ends."""
    with tempfile.TemporaryDirectory(prefix="unseen-selfcheck-") as folder:
        room = Room(Path(folder), SystemRandomness())
        with contextlib.closing(room):
            for name in names:
                scheme, problem, seconds = _SCHEMES[name], "", 0.0
                began = time.monotonic()
                try:
                    seconds = scheme.check(room)
                except (Disagrees, CryptoError) as error:
                    problem, seconds = str(error), time.monotonic() - began
                yield Checked(name, scheme.words, scheme.security_bits, seconds, problem)


def _revealed(intersection: Intersection) -> Callable[[Room], float]:
    def check(room: Room) -> float:
        layout = _layout(groups=3, terms=(Term(COUNTED, 1, 0, False), Term(1, 1, 0, False)))
        a, b = room.sides(3, (2, 2))
        zero = room.randomness.draw(32)
        tasks = [RevealedTask(seat, layout, intersection, zero) for seat in room.seats(2)]
        return _compare(layout, a, b, room.run(tasks, [a, b]))

    return check


def _unbalanced(room: Room) -> float:
    """Twice: a job that masks one side's keys, and one that finds them masked."""
    layout = _layout(groups=3, terms=(Term(COUNTED, 1, 0, False), Term(1, 1, 0, False)))
    a, b = room.sides(3, (2, 2))
    zero = room.randomness.draw(32)
    standing = Standing(digest(zero), server=0, rows=ROWS, asked=ROWS)
    given = [KeptRows(side, room.folder / f"standing-{i}") for i, side in enumerate((a, b))]
    seconds = 0.0
    for _ in range(2):
        tasks = [
            RevealedTask(seat, layout, Intersection.UNBALANCED, zero, standing)
            for seat in room.seats(2)
        ]
        seconds = _compare(layout, a, b, room.run(tasks, given))
    return seconds


def _helped(room: Room) -> float:
    layout = _layout(groups=3, terms=(Term(COUNTED, 1, 0, False), Term(1, 1, 0, False)))
    a, b = room.sides(3, (2, 2))
    tasks = [RevealedTask(seat, layout, Intersection.RR22, b"") for seat in room.seats(3)]
    return _compare(layout, a, b, room.run(tasks, [a, b, None]))


def _hidden(room: Room) -> float:
    """Sums, a condition between the two sides and an extreme, so that all of it runs."""
    layout = _layout(
        groups=3,
        terms=(Term(COUNTED, 1, 0, False), Term(1, 1, 0, False)),
        comparisons=(Comparison(1, COUNTED, Order.AT_LEAST, 1, COUNTED),),
        extremes=(Extreme(0, 1, COUNTED, True, -(2**20), 2**20, 0),),
    )
    a, b = room.sides(3, (2, 2))
    tasks = _hidden_tasks(room, layout, None)
    return _compare(layout, a, b, room.run(tasks, [a, b, None]))


def _hidden_of_three(room: Room) -> float:
    """Sums by groups of all three holders, of the third one's values and of products of its and the
    second one's."""
    third = Third(1, 2, 2, 2, ((COUNTED, COUNTED), (COUNTED, 1), (1, 1)))
    terms = (Term(1, 1, 0, False), Term(1, 2, 0, False))
    layout = replace(_layout(groups=2, terms=terms), groups_b=2, third=third)
    a, b = room.sides(2, (2, 2))
    d = replace(room.side(np.arange(ROWS), 2, 2), tokens=a.tokens)
    tasks = _hidden_tasks(room, layout, None)
    outcomes = room.run(tasks, [a, b, None, d])
    return _compare(layout, a, second_side(third, b, d), outcomes)


def _noised(room: Room) -> float:
    """Numbers with noise lie as near the exact ones as the noise allows, but once in 10**12."""
    scale, beta = Fraction(5), Fraction(1, 10**12)
    layout = _layout(groups=2, terms=(Term(COUNTED, 1, 0, False),))
    a, b = room.sides(2, (1, 2))
    noise = NoiseScales(Distribution.LAPLACE, (scale, scale), (0, 1))
    outcomes = room.run(_hidden_tasks(room, layout, noise), [a, b, None])
    cells = open_cells(layout, [outcome.share for outcome in outcomes])
    exact = plain_output(layout, a, b)[layout.cells :].reshape(2, layout.cells)
    far = slack(Distribution.LAPLACE, scale, beta)
    drawn = 0
    for cell, truth in zip(cells, exact.T, strict=True):
        for shown, value in zip(cell.terms, truth, strict=True):
            if shown is None or abs(shown - int(value)) > far:
                raise Disagrees("a number with noise is further away than its noise can be")
            drawn += shown != int(value)
    if not drawn:
        raise Disagrees("no number has any noise")
    return _seconds(outcomes)


def _hidden_tasks(room: Room, layout: Layout, noise: NoiseScales | None) -> Sequence[HiddenTask]:
    token = room.randomness.draw(32)
    caps = (ROWS,) * (2 if layout.third is None else 3)
    return [
        HiddenTask(
            seat=seat,
            layout=layout,
            combination=Combination.JOIN,
            caps=caps,
            padding=PaddingBounds(Fraction(1), Fraction(1, 10**9), 1),
            hide_size=False,
            token_key=token if seat.rank < 2 else b"",
            noise=noise,
        )
        for seat in room.seats(len(caps) + 1)
    ]


def _summed(scheme: ValueScheme) -> Callable[[Room], float]:
    def check(room: Room) -> float:
        layout = _layout(groups=1, terms=(Term(COUNTED, 1, 0, False), Term(1, COUNTED, 0, False)))
        a, b = room.sides(1, (2, 2))
        zero = room.randomness.draw(32)
        tasks = [SumTask(seat, layout, (ROWS, ROWS), scheme, zero) for seat in room.seats(2)]
        return _compare(layout, a, b, room.run(tasks, [a, b]))

    return check


def _scored(family: ModelFamily, parameters: str) -> Callable[[Room], float]:
    def check(room: Room) -> float:
        model = _model(room, family)
        rows = room.generator.uniform(-1, 1, (ROWS, len(model.shape.features)))
        tasks = [ScoreTask(seat, model.shape, ROWS, parameters) for seat in room.seats(2)]
        outcomes = room.run(tasks, [model, FeatureRows(rows)])
        found = unpack_scores(outcomes[1].share, rows=ROWS, outputs=len(model.shape.outputs))
        unit = 10.0**model.shape.decimals
        wrong = np.abs(found / unit - plain_scores(model, rows)).max()
        if wrong > 1.5 / unit:
            raise Disagrees(f"a score is off by {wrong:.1e}")
        return _seconds(outcomes)

    return check


def _model(room: Room, family: ModelFamily) -> ScoringModel:
    features = tuple(Feature(f"x{i}", -1, 1, 0) for i in range(8))
    draw = room.generator.uniform
    if family is not ModelFamily.SQUARE_NETWORK:
        weights, bias = draw(-0.4, 0.4, (1, 8)), draw(-0.4, 0.4, 1)
        return affine_model(family, features, ("score",), 4, weights=weights, bias=bias)
    shape = ModelShape(family, features, ("score",), 4, 64)
    return SquareNetwork(
        shape,
        inner=draw(-0.5, 0.5, (4, 8)),
        inner_bias=draw(-0.5, 0.5, 4),
        outer=draw(-0.5, 0.5, (1, 4)),
        outer_bias=draw(-0.5, 0.5, 1),
    )


def _looked_up(room: Room) -> float:
    from crypto.adapters.ristretto import Ristretto255

    group, seed, width = Ristretto255(), room.randomness.draw(32), 16
    keys = [room.randomness.draw(12) for _ in range(ROWS)]
    records = [room.randomness.draw(width) for _ in keys]
    table = make_table(
        keys,
        records,
        group=group,
        secret=table_secret(group, seed, epoch=0),
        randomness=room.randomness,
        cap=ROWS + 50,
        label_bytes=width,
    )
    asked = (*keys[:20], *(room.randomness.draw(12) for _ in range(5)))
    tasks = [
        LookupTask(
            seat=seat,
            table=table.digest,
            epoch=0,
            rows=table.rows,
            label_bytes=width,
            evaluations=32,
            seed=seed if seat.rank == 0 else b"",
        )
        for seat in room.seats(2)
    ]
    outcomes = room.run(tasks, [_TableFile(table), _KeysFile(AskedKeys(asked))])
    found = unpack_records(outcomes[1].share, evaluations=32, label_bytes=width)
    if found[:20] != records[:20] or any(isinstance(one, bytes) for one in found[20:]):
        raise Disagrees("a record that was looked up is not the one in the table")
    return _seconds(outcomes)


@dataclass(frozen=True)
class _TableFile:
    table: Table

    def place(self, folder: Path) -> None:
        self.table.save(folder / TABLE_FILE)


@dataclass(frozen=True)
class _KeysFile:
    keys: AskedKeys

    def place(self, folder: Path) -> None:
        (folder / KEYS_FILE).write_bytes(self.keys.to_bytes())


def _layout(
    *,
    groups: int,
    terms: tuple[Term, ...],
    comparisons: tuple[Comparison, ...] = (),
    extremes: tuple[Extreme, ...] = (),
) -> Layout:
    left = 1 + max((term.left for term in terms), default=0)
    return Layout(
        groups_a=groups,
        groups_b=1,
        factors_a=left,
        factors_b=1 + max(term.right for term in terms),
        terms=(Term(COUNTED, COUNTED, 0, False), *terms),
        comparisons=comparisons,
        extremes=extremes,
        min_group=2,
        slack=0,
        dominance=None,
        round_counts=1,
    )


def _compare(layout: Layout, a: SideRows, b: SideRows, outcomes: Sequence[EngineOutcome]) -> float:
    words = [np.frombuffer(outcome.share, dtype="<u8") for outcome in outcomes]
    found = np.sum(words, axis=0, dtype=np.uint64).view(np.int64)
    if not np.array_equal(found, plain_output(layout, a, b)):
        raise Disagrees("the shares do not add up to the answer in the clear")
    return _seconds(outcomes)


def _seconds(outcomes: Sequence[EngineOutcome]) -> float:
    return max(outcome.timings_ms["total"] for outcome in outcomes) / 1000


_SCHEMES: Final[Mapping[str, Scheme]] = MappingProxyType(
    {
        "revealed-rr22": Scheme(
            "RR22 (128-bit OPRF), then CHEETAH over FM64; semi-honest",
            128,
            _revealed(Intersection.RR22),
        ),
        "revealed-ecdh": Scheme(
            "ECDH on Curve25519, then CHEETAH over FM64; semi-honest",
            126,
            _revealed(Intersection.ECDH),
        ),
        "revealed-unbalanced": Scheme(
            "oblivious function on FourQ, then CHEETAH over FM64; semi-honest", 122, _unbalanced
        ),
        "revealed-helped": Scheme(
            "RR22, then AES-128 masks and ABY3 over FM64; honest majority of three", 128, _helped
        ),
        "hidden": Scheme(
            "AES-128 masks, BLAKE2b tags, ABY3 over FM64; honest majority of three", 128, _hidden
        ),
        "hidden-noise": Scheme("the same, with discrete Laplace noise by OpenDP", 128, _noised),
        "hidden-three": Scheme(
            "as hidden, with a third holder that uploads only; no two of the four collude",
            128,
            _hidden_of_three,
        ),
        "sum-paillier": Scheme(
            "X25519 masks, Paillier of 3072 bits; semi-honest", 126, _summed(ValueScheme.PAILLIER)
        ),
        "sum-bfv": Scheme(
            "X25519 masks, BFV ring 8192; semi-honest", 126, _summed(ValueScheme.BFV)
        ),
        "score-linear": Scheme(
            "CKKS ring 8192, 190 bits of modulus",
            128,
            _scored(ModelFamily.LINEAR, "ckks-linear-8192"),
        ),
        "score-logistic": Scheme(
            "CKKS ring 16384", 128, _scored(ModelFamily.LOGISTIC, "ckks-logistic-16384")
        ),
        "score-network": Scheme(
            "CKKS ring 16384", 128, _scored(ModelFamily.SQUARE_NETWORK, "ckks-network-16384")
        ),
        "lookup": Scheme("RFC 9497 VOPRF, ristretto255-SHA512; AES-256-GCM", 126, _looked_up),
    }
)
