"""How long each stage of an engine run took."""

from __future__ import annotations

import time
from collections.abc import Callable

from crypto.engine import EngineStage


class Stages:
    """Reports each stage as it begins and measures how long it took."""

    def __init__(self, on_stage: Callable[[EngineStage], None]) -> None:
        self._on_stage = on_stage
        self._begun = self._entered = time.monotonic()
        self._current: EngineStage | None = None
        self._timings: dict[str, int] = {}

    def enter(self, stage: EngineStage) -> None:
        self._leave()
        self._current = stage
        self._on_stage(stage)

    def finish(self) -> dict[str, int]:
        """Milliseconds of each stage by name, and `total`."""
        self._leave()
        total = round(1000 * (time.monotonic() - self._begun))
        return {**self._timings, "total": total}

    def _leave(self) -> None:
        now = time.monotonic()
        if self._current is not None:
            self._timings[self._current.value] = round(1000 * (now - self._entered))
        self._entered = now
