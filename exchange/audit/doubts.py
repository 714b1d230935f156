"""Statements of which the bundle does not show whether the hub took them as having an effect.

The hub logs a statement that reaches it too late, or without the documents it names, and goes on
as if it had not been said. When it arrived, only the heads around it tell; what came with it,
nothing does. So where a replay does not fit, it is tried again without such statements, and what
it then rests on is named instead of proved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice
from typing import Final, TypeVar

from crypto.digest import Digest

R = TypeVar("R")

MAX_TRIES: Final = 100
ASSUMED: Final = "it came too late or incomplete, as the operator's acts after it suppose"


def replay_with_doubts(
    run: Callable[[Mapping[Digest, str]], R],
    fits: Callable[[R], bool],
    *,
    late: Mapping[Digest, str],
    doubtful: Sequence[Digest],
) -> tuple[R, tuple[Digest, ...]]:
    """The first replay that fits, and which doubtful statements it supposes to have had no effect.

    run:  replays without these statements, each with the reason. late: those that certainly came
    too late. Where nothing fits, the replay that supposes nothing comes back, with its misfits.
    """
    first = run(late)
    if fits(first):
        return first, ()
    suppositions = (
        chosen for size in range(1, len(doubtful) + 1) for chosen in combinations(doubtful, size)
    )
    for chosen in islice(suppositions, MAX_TRIES):
        found = run({**late, **dict.fromkeys(chosen, ASSUMED)})
        if fits(found):
            return found, chosen
    return first, ()
