"""Many small group operations on all of the machine's cores.

Threads are enough: the group's library computes without the interpreter's lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_LEAST: Final = 64  # fewer are done before a thread has started


def spread(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
    """`work` on one contiguous part of `items` for each core; their results, joined in order.

    Raises what `work` raised first, in the order of the parts.
    """
    parts = max(1, min(len(os.sched_getaffinity(0)), len(items) // _LEAST))
    bounds = [len(items) * part // parts for part in range(parts + 1)]
    slices = [items[low:high] for low, high in pairwise(bounds)]
    if parts == 1:
        return work(slices[0])
    with ThreadPoolExecutor(parts) as threads:
        return [result for part in threads.map(work, slices) for result in part]
