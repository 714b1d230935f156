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


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class SystemRandomness:
    def draw(self, size: int) -> bytes:
        return secrets.token_bytes(size)
