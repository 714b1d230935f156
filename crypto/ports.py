"""What this package needs from outside: a clock and randomness."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The present, aware, in UTC."""
        ...


class Randomness(Protocol):
    def draw(self, size: int) -> bytes:
        """`size` bytes from a cryptographic generator."""
        ...


class Channels(Protocol):
    """Ordered, authenticated, private messages between the parties of one attempt, by rank.

    Every message is bound to plan, attempt, direction, place in the order and label: whatever is
    altered, replayed, out of order or from another attempt raises EngineFailed (mismatch) at the
    receiver; a peer that is gone or silent too long raises EngineFailed (peer).
    """

    def send(self, to: int, label: str, payload: bytes | bytearray | memoryview) -> None:
        """Queue one message of at most MAX_MESSAGE_BYTES; blocks while too many wait."""
        ...

    def receive(self, of: int, label: str) -> bytearray:
        """The next message of that peer, which must carry that label."""
        ...

    @property
    def sent_bytes(self) -> int:
        """All bytes handed to peers so far."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class SystemRandomness:
    def draw(self, size: int) -> bytes:
        return secrets.token_bytes(size)
