"""The matching step of the hidden join, run for real on uploads made here, and what each party
that computes reads off its size. A run takes 70 microseconds; all three parties a thousand times
as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from crypto.joins.hidden.matching import match
from crypto.joins.hidden.padding import DRAW_BYTES, Padding
from crypto.ports import SystemRandomness
from tests.attacks.measured import Seen

OTHERS = 5  # rows in common besides the target's
UNPADDED = Padding(0, (2**128,))
TAGS = np.random.default_rng()


@dataclass(frozen=True, slots=True)
class Run:
    """pairs: the length of the helper's lists. agreed, own: the holders' draw and the helper's."""

    pairs: int
    agreed: int
    own: int

    @property
    def at_holder(self) -> int:
        """What a holder has left once its agreed draw is taken off."""
        return self.pairs - self.agreed

    @property
    def at_helper(self) -> int:
        return self.pairs - self.own


Observer = Callable[[Run], int]
OBSERVERS: dict[str, Observer] = {
    "holder": lambda run: run.at_holder,
    "helper": lambda run: run.at_helper,
}


def one_run(drawn: Padding, *, target_in: bool) -> Run:
    """Two uploads with OTHERS rows in common and perhaps the target's, matched."""
    most = 2 * drawn.shift
    agreed = drawn.draw(SystemRandomness().draw(DRAW_BYTES))
    common = OTHERS + agreed
    tags = TAGS.integers(0, 256, (2, common + 1 + most, 16), dtype=np.uint8)
    tags[1, : common + target_in] = tags[0, : common + target_in]
    pool = np.arange(common + 1, common + 1 + most, dtype=np.uint32)
    pairs = len(match((tags[0], tags[1]), (pool, pool), drawn=drawn, randomness=SystemRandomness()))
    return Run(pairs, agreed, pairs - common - target_in)


@lru_cache(maxsize=8)
def many_runs(drawn: Padding, runs: int, *, target_in: bool) -> tuple[Run, ...]:
    """Every observer looks at the same runs, as both parties of a job do."""
    return tuple(one_run(drawn, target_in=target_in) for _ in range(runs))


def times_above(
    observer: Observer, drawn: Padding, runs: int, *, target_in: bool, above: int
) -> Seen:
    """How often the observer is left with more than `above`."""
    left = map(observer, many_runs(drawn, runs, target_in=target_in))
    return Seen(sum(count > above for count in left), runs)
