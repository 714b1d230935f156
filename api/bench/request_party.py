"""One party of `exchange bench he` and `exchange bench lookup`, in a process of its own.

Rank 0 holds the model or the table, rank 1 asks. Models, rows, keys and records are made of a seed,
so that the benchmark can say what the right answer is; they are nobody's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from api.bench.join_party import Party, attend
from crypto.adapters.ristretto import Ristretto255
from crypto.digest import Digest, digest
from crypto.engine import EngineTask, LookupTask, ScoreTask, Seat
from crypto.identifiers import JobId
from crypto.lookup.answers import AskedKeys
from crypto.lookup.table import make_table, table_secret
from crypto.ports import SystemRandomness
from crypto.scoring.model import FeatureRows, Float64Array, ScoringModel, affine_model
from crypto.scoring.parameters import PARAMETERS
from crypto.scoring.quadratic import network_of_quadratic
from crypto.scoring.shape import Feature, ModelFamily
from crypto.session import PairKeys
from exchange.node.engine import EngineInput
from exchange.node.requests import TableInput
from exchange.node.shelf import Shelf

HOLDER: Final = 0
DECIMALS: Final = 3
RECORD: Final = b"record of %012d, padded to 64"
LABEL_BYTES: Final = 64
_SEED: Final = 20261123


@dataclass(frozen=True)
class Scoring:
    """rows: meant and sent alike. features of one model with one output."""

    family: str
    rows: int
    features: int

    @property
    def parameters(self) -> str:
        return next(p.name for p in PARAMETERS.values() if p.family.value == self.family)

    @property
    def model(self) -> ScoringModel:
        draw = np.random.default_rng(_SEED)
        features = tuple(Feature(f"f{i}", -1000, 1000, 3) for i in range(self.features))
        weights = draw.normal(size=(1, self.features)) / np.sqrt(self.features)
        bias = draw.normal(size=1)
        family = ModelFamily(self.family)
        if family is not ModelFamily.SQUARE_NETWORK:
            return affine_model(family, features, ("y",), DECIMALS, weights=weights, bias=bias)
        squares = draw.normal(size=(1, self.features, self.features)) / self.features
        return network_of_quadratic(
            features, ("y",), DECIMALS, squares=squares, linear=weights, constant=bias
        )

    @property
    def values(self) -> Float64Array:
        return np.random.default_rng(_SEED + 1).uniform(-1, 1, size=(self.rows, self.features))


@dataclass(frozen=True)
class Looking:
    """rows of the table, none of them a dummy; keys asked for, every other one of them there.

    table: digest of the table, once it is made
    """

    rows: int
    keys: int
    table: str | None = None

    @property
    def asked(self) -> tuple[bytes, ...]:
        step = max(1, self.rows // self.keys)
        return tuple(b"%012d" % (i * step + (i % 2) * self.rows) for i in range(self.keys))


class RequestParty(Party):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.shelf = Shelf(self.folder)
        self.seed = b""

    def score(self, asked: Scoring, job: JobId, go: Callable[[], None]) -> dict[str, Any]:
        model = asked.model
        given: EngineInput = model if self.rank == HOLDER else FeatureRows(asked.values)

        def task(seat: Seat, keys: Mapping[int, PairKeys]) -> EngineTask:
            return ScoreTask(seat, model.shape, asked.rows, asked.parameters)

        return self.attempt(_digest(asked), job, lambda keys: given, task, go)

    def make(self, asked: Looking, go: Callable[[], None]) -> dict[str, Any]:
        """The holder's work ahead of all lookups."""
        go()
        if self.rank != HOLDER:
            return {}
        began = time.monotonic()
        self.seed = SystemRandomness().draw(32)
        group = Ristretto255()
        table = make_table(
            [b"%012d" % number for number in range(asked.rows)],
            [RECORD % number for number in range(asked.rows)],
            group=group,
            secret=table_secret(group, self.seed, epoch=0),
            randomness=SystemRandomness(),
            cap=asked.rows,
            label_bytes=LABEL_BYTES,
        )
        self.shelf.keep_table(table, self.seed)
        return {
            "table": str(table.digest),
            "seconds": time.monotonic() - began,
            "size_bytes": self.shelf.table(table.digest).stat().st_size,
        }

    def look_up(self, asked: Looking, job: JobId, go: Callable[[], None]) -> dict[str, Any]:
        table = Digest.parse(asked.table or "")
        keys = None if self.rank == HOLDER else AskedKeys(asked.asked)

        def task(seat: Seat, shared: Mapping[int, PairKeys]) -> EngineTask:
            return LookupTask(
                seat=seat,
                table=table,
                epoch=0,
                rows=asked.rows,
                label_bytes=LABEL_BYTES,
                evaluations=asked.keys,
                seed=self.seed,
            )

        given = TableInput(self.shelf.table(table), keys)
        return self.attempt(_digest(asked), job, lambda _: given, task, go)


def _digest(asked: Scoring | Looking) -> Digest:
    return digest(json.dumps(asked.__dict__).encode())


def _answer(
    party: RequestParty, asked: dict[str, Any], job: JobId, go: Callable[[], None]
) -> dict[str, Any]:
    if "family" in asked:
        return party.score(Scoring(**asked), job, go)
    looking = Looking(**asked)
    return party.make(looking, go) if looking.table is None else party.look_up(looking, job, go)


if __name__ == "__main__":
    attend(RequestParty, _answer)
