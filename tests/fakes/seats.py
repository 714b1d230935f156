"""Places of the parties of one attempt, with a key for each pair of them."""

from __future__ import annotations

from collections.abc import Sequence

from crypto.digest import digest
from crypto.engine import Seat

PLAN = digest(b"a plan")


def seats(
    engines: Sequence[str],
    tunnels: Sequence[str],
    *,
    attempt: str = "att_1",
    connect_timeout_ms: int = 30_000,
    receive_timeout_ms: int = 30_000,
) -> tuple[Seat, ...]:
    """engines: where each party's engine listens; tunnels: where its peers reach it."""

    def seat(rank: int) -> Seat:
        others = [other for other in range(len(engines)) if other != rank]
        return Seat(
            attempt=attempt,
            plan=PLAN,
            rank=rank,
            listen=engines[rank],
            peers=tuple(tunnels[i] if i in others else "" for i in range(len(engines))),
            keys=tuple(
                bytes([min(rank, i), max(rank, i)]) * 16 if i in others else b""
                for i in range(len(engines))
            ),
            connect_timeout_ms=connect_timeout_ms,
            receive_timeout_ms=receive_timeout_ms,
        )

    return tuple(seat(rank) for rank in range(len(engines)))


def nowhere(parties: int) -> tuple[Seat, ...]:
    """Seats of parties that are never connected."""
    addresses = [f"127.0.0.1:{7001 + rank}" for rank in range(parties)]
    return seats(addresses, addresses, connect_timeout_ms=1000, receive_timeout_ms=6000)
