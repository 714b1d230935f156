"""Server-sent events that a reader can leave and resume without missing or repeating one.

Event ids are integers that grow, from 0. A reader that comes back sends the last id it saw in
`Last-Event-ID`; id 0 counts (it is falsy: compare with None). FastAPI writes the stream, with a
comment every 15 seconds of silence so that proxies keep it open.

A stream that is over says so with an event named `end`, without an id. One that merely stops says
nothing, and the reader connects again: the server is shutting down, or the stream failed (FastAPI
ends a failed stream in good order, so that nothing else tells the two apart).

    @router.get("/v1/jobs/{job_id}/events", response_class=EventSourceResponse, ...)
    async def job_events(after: After, stopping: StoppingNow) -> AsyncIterator[ServerSentEvent]:
        async for event in follow(read, after=after, stopping=stopping):
            yield event

What may refuse the request belongs in a dependency: when the body of such a function runs, the
status 200 has been sent.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import anyio
from fastapi import Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

__all__ = [
    "END",
    "After",
    "Batch",
    "Event",
    "EventSourceResponse",
    "ServerSentEvent",
    "Stopping",
    "StoppingNow",
    "follow",
]

END: Final = "end"
POLL_S: Final = 0.25
MAX_EVENT_ID: Final = 2**63 - 1


@dataclass(frozen=True)
class Event:
    """One event. kind: its name. data: JSON text."""

    id: int
    kind: str
    data: str


@dataclass(frozen=True)
class Batch:
    """What a stream has now. over: nothing will follow these events.

    Both from one transaction: else an event between two looks would be lost behind `over`. A
    reader that has seen all there is asks again, too, and must be told that it is over.
    """

    events: Sequence[Event]
    over: bool


class Stopping:
    """Set once, when the server begins to stop; streams and workers look at it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()


async def follow(
    read: Callable[[int | None], Batch],
    *,
    after: int | None,
    stopping: Stopping,
    poll_s: float = POLL_S,
) -> AsyncIterator[ServerSentEvent]:
    """Events after `after`, those there are and those that come, until the last one.

    read: called in a worker thread with the id of the last event sent, None before the first;
          gives what followed it, in order. Each call opens and closes a transaction of its own.
    """
    while not stopping.is_set():
        batch = await run_in_threadpool(read, after)
        for event in batch.events:
            yield ServerSentEvent(id=str(event.id), event=event.kind, raw_data=event.data)
            after = event.id
        if batch.over:
            yield ServerSentEvent(event=END, raw_data="{}")
            return
        if not batch.events:
            await anyio.sleep(poll_s)


async def _last_event_id(
    given: Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=MAX_EVENT_ID)] = None,
) -> int | None:
    return given


async def _stopping(request: Request) -> Stopping:
    stopping: Stopping = request.app.state.stopping
    return stopping


After = Annotated[int | None, Depends(_last_event_id)]
StoppingNow = Annotated[Stopping, Depends(_stopping)]
