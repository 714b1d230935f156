"""Trace ids in and out, and the headers that every answer carries.

A request's trace id is the one in its `traceparent` (W3C Trace Context) or a fresh one. It is in
every problem, log line and answer, so that a person who reads us an id is understood.
"""

from __future__ import annotations

import re
from typing import Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http import protocol
from crypto.ports import Randomness

_TRACEPARENT: Final = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Answers are data, for programs: nothing in them may be sniffed, framed, cached or run.
STANDARD_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Tracing:
    """Outermost middleware: gives the request its trace id, the answer its standard headers."""

    def __init__(self, app: ASGIApp, *, randomness: Randomness) -> None:
        self._app = app
        self._randomness = randomness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        match = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
        # All zeros is no id (W3C Trace Context, section 3.2.2.3).
        given = match[1].decode() if match and match[1].strip(b"0") else None
        trace_id = given or self._randomness.draw(16).hex()
        span_id = self._randomness.draw(8).hex()
        asked = headers.get(b"x-request-id", b"")
        request_id = asked.decode() if _REQUEST_ID.fullmatch(asked) else trace_id
        scope.setdefault("state", {})["trace_id"] = trace_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["traceparent"] = f"00-{trace_id}-{span_id}-01"
                answer["X-Request-Id"] = request_id
                answer[protocol.HEADER] = str(protocol.VERSION)
                for name, value in STANDARD_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(trace_id=trace_id):
            await self._app(scope, receive, send_with_headers)


def trace_id(scope: Scope) -> str:
    """The trace id that `Tracing` gave this request."""
    return str(scope["state"]["trace_id"])
