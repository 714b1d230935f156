"""Two threads that run the unbalanced intersection, a keyed hash in place of the curve."""

from __future__ import annotations

import hmac
import queue
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crypto.adapters.kept_folder import KeptFolder
from crypto.digest import digest
from crypto.engine import EngineStage, Standing
from crypto.errors import EngineFailed
from crypto.joins import unbalanced
from crypto.joins.ports import Int64Array, UInt8Array
from crypto.ports import SystemRandomness

STANDING = Standing(digest(b"a product, its version and a filter"), server=0, rows=1000, asked=20)


class Wire:
    """One end of two queues, and all that came through it."""

    def __init__(self, out: queue.Queue[Any], into: queue.Queue[Any]) -> None:
        self.out, self.into = out, into
        self.received: list[bytes] = []

    def send(self, payload: bytes) -> None:
        self.out.put(payload)

    def receive(self) -> bytes:
        payload: bytes = self.into.get(timeout=5)
        self.received.append(payload)
        return payload


@dataclass
class FakeMasking:
    """HMAC in place of a curve: the server sees how many tokens are asked for."""

    out: queue.Queue[Any]
    into: queue.Queue[Any]
    asked: list[int] = field(default_factory=list)

    def mask(self, tokens: UInt8Array, secret: bytes) -> UInt8Array:
        made = [hmac.digest(secret, token.tobytes(), "sha256")[:12] for token in tokens]
        return np.frombuffer(b"".join(made), dtype=np.uint8).reshape(-1, 12)

    def answer(self, secret: bytes) -> None:
        self.asked.append(self.into.get(timeout=5))
        self.out.put(secret)

    def ask(self, tokens: UInt8Array, items: UInt8Array) -> Int64Array:
        self.out.put(len(tokens))
        masked = self.mask(tokens, self.into.get(timeout=5))
        known = {item.tobytes() for item in items}
        return np.array([i for i, m in enumerate(masked) if m.tobytes() in known], dtype=np.int64)


@dataclass
class Job:
    server: Int64Array
    client: Int64Array
    stages: list[EngineStage]
    server_saw: list[bytes]
    client_saw: list[bytes]
    asked: list[int]

    @property
    def offline(self) -> bool:
        return EngineStage.OFFLINE in self.stages


def one_job(
    path: Path, server: UInt8Array, client: UInt8Array, standing: Standing = STANDING
) -> Job:
    """One job over what earlier ones left in `path`."""
    lines: list[queue.Queue[Any]] = [queue.Queue() for _ in range(4)]
    wires = Wire(lines[0], lines[1]), Wire(lines[1], lines[0])
    masks = FakeMasking(lines[2], lines[3]), FakeMasking(lines[3], lines[2])
    stages: list[EngineStage] = []
    found: dict[int, Int64Array] = {}
    problems: list[EngineFailed] = []

    def play(rank: int) -> None:
        try:
            found[rank] = unbalanced.run(
                standing,
                (server, client)[rank],
                server=rank == 0,
                kept=KeptFolder(path / "ab"[rank]),
                masking=masks[rank],
                link=wires[rank],
                randomness=SystemRandomness(),
                on_stage=stages.append if rank == 0 else lambda _: None,
            )
        except EngineFailed as error:
            problems.append(error)

    threads = [threading.Thread(target=play, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return Job(found[0], found[1], stages, wires[0].received, wires[1].received, masks[0].asked)


def tokens(numbers: range | list[int], *, key: str = "k") -> UInt8Array:
    made = [digest(f"{key} {number}".encode()).raw[:16] for number in numbers]
    return np.frombuffer(b"".join(made), dtype=np.uint8).reshape(-1, 16)
