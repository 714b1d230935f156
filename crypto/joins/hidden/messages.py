"""Words and positions between the parties, in blocks, each of exactly the length that is due."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from crypto.errors import EngineFailed, EngineFault
from crypto.joins.hidden.keys import BLOCK
from crypto.ports import Channels

Number = TypeVar("Number", np.uint64, np.uint32, np.uint8)


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most BLOCK that cover 0 .. count-1."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def send(channels: Channels, to: int, label: str, array: npt.NDArray[Any]) -> None:
    """One message. `array` is contiguous and may be overwritten once this returns."""
    channels.send(to, label, array.data.cast("B") if array.size else b"")


def receive(
    channels: Channels, of: int, label: str, kind: type[Number], count: int
) -> npt.NDArray[Number]:
    """One message of exactly `count` numbers. Raises EngineFailed (mismatch) for another length."""
    data = channels.receive(of, label)
    if len(data) != count * np.dtype(kind).itemsize:
        raise mismatch(f"the message {label!r} does not have the length that the plan gives it")
    return np.frombuffer(data, dtype=kind)


def send_all(channels: Channels, to: int, label: str, array: npt.NDArray[Any]) -> None:
    for part in blocks(len(array)):
        send(channels, to, label, array[part])


def receive_all(channels: Channels, of: int, label: str, out: npt.NDArray[Number]) -> None:
    """Overwrite `out`, of one dimension, with as many messages as `send_all` makes of it."""
    for part in blocks(len(out)):
        out[part] = receive(channels, of, label, out.dtype.type, part.stop - part.start)


def refuse(channels: Channels, peers: Iterable[int], problem: str) -> NoReturn:
    """Fail, once the peers who find the same fault have found it too: a party that left at once
    would take its last messages with it, and theirs would be *a peer went away*."""
    for peer in peers:
        channels.send(peer, "refused", b"")
    for peer in peers:
        with contextlib.suppress(EngineFailed):
            channels.receive(peer, "refused")
    raise mismatch(problem)


def mismatch(problem: str) -> EngineFailed:
    return EngineFailed(EngineFault.MISMATCH, problem)
