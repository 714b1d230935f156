"""Waiting for mail without holding a thread or a transaction for each who waits.

One task asks the database, for all who wait at once, whether they have mail: at once when
something was delivered by this process (`ring`), and every POLL_S for what other processes of the
hub delivered. Nobody waiting, nothing asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from api.http.events import Stopping
from crypto.identifiers import PartyId

POLL_S: Final = 0.1

log: Final = structlog.get_logger("api.hub")


@dataclass(frozen=True, eq=False)
class _Waiting:
    party: PartyId
    after: int
    arrived: asyncio.Future[None]


class Mailroom:
    """newest: per party, the number of its last delivery; called in a worker thread."""

    def __init__(
        self,
        newest: Callable[[Collection[PartyId]], Mapping[PartyId, int]],
        *,
        stopping: Stopping,
    ) -> None:
        self._newest = newest
        self._stopping = stopping
        self._waiting: set[_Waiting] = set()
        self._bell = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def ring(self) -> None:
        """Something was delivered. From any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._bell.set)

    async def wait(self, party: PartyId, *, after: int, timeout_s: float) -> None:
        """Until the party has mail after number `after`, the time is over or the server stops."""
        self._loop = asyncio.get_running_loop()
        waiting = _Waiting(party, after, self._loop.create_future())
        self._waiting.add(waiting)
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._watch())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await waiting.arrived
        finally:
            self._waiting.discard(waiting)

    async def _watch(self) -> None:
        while self._waiting and not self._stopping.is_set():
            self._bell.clear()  # before looking: what arrives after the look rings again
            try:
                newest = await run_in_threadpool(self._newest, {w.party for w in self._waiting})
            except DBAPIError as error:  # those who wait are told by their own next look
                log.warning("inbox.poll_failed", error=type(error).__qualname__)
                newest = {}
            self._wake({w for w in self._waiting if newest.get(w.party, 0) > w.after})
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._bell.wait()
        self._wake(self._waiting)

    def _wake(self, some: Collection[_Waiting]) -> None:
        for waiting in some:
            if not waiting.arrived.done():
                waiting.arrived.set_result(None)
