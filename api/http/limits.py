"""A ceiling on request bodies, held while they arrive."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 4 * 2**20


class BodyLimit:
    """Middleware: refuses a body above `limit_bytes` before reading the rest of it.

    A declared length is refused at once, before `100 Continue`; a chunked body as soon as it has
    sent one byte too many. The connection is closed, for what follows on it is not a request.
    """

    def __init__(self, app: ASGIApp, *, limit_bytes: int) -> None:
        self._app = app
        self._limit = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        # The server has already refused a length that is not a number.
        if declared.isdecimal() and int(declared) > self._limit:
            raise self._refusal()
        seen = 0

        async def count() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    raise self._refusal()
            return message

        await self._app(scope, count, send)

    def _refusal(self) -> HTTPException:
        # Of this class because FastAPI turns any other exception while it reads a body into 400.
        return HTTPException(
            413, f"a body may have {self._limit} bytes here", {"Connection": "close"}
        )
