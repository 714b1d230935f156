"""Server-sent events that a reader can leave and resume without missing or repeating one.

Event ids are integers that grow, from 0. A reader that comes back sends the last id it saw in
`Last-Event-ID`; id 0 counts (it is falsy: compare with None). FastAPI writes the stream, with a
comment every 15 seconds of silence so that proxies keep it open.

A stream that is over says so with an event named `end`, without an id. One that merely stops, as
when the server shuts down, says nothing, and the reader connects again.

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
    """One event. kind: its name. data: JSON text. last: nothing will follow it."""

    id: int
    kind: str
    data: str
    last: bool = False


class Stopping:
    """Set once, when the server begins to stop; streams and workers look at it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()


async def follow(
    read: Callable[[int | None], Sequence[Event]],
    *,
    after: int | None,
    stopping: Stopping,
    poll_s: float = POLL_S,
) -> AsyncIterator[ServerSentEvent]:
    """Events after `after`, those there are and those that come, until the last one.

    read: called in a worker thread with the id of the last event sent, None before the first;
          gives what followed it, in order, or nothing yet. Each call opens and closes its own
          transaction: a stream must not hold one open.
    """
    while not stopping.is_set():
        events = await run_in_threadpool(read, after)
        for event in events:
            yield ServerSentEvent(id=str(event.id), event=event.kind, raw_data=event.data)
            after = event.id
            if event.last:
                yield ServerSentEvent(event=END, raw_data="{}")
                return
        if not events:
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
