"""Protocol versions: nodes and hubs are upgraded by different people on different days.

Each side says in `Unseen-Protocol` which version it speaks and refuses one it no longer
understands, naming the version it needs. The header is absent from browsers and curl, which are
not checked: what they may read is public.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import MalformedHeader, ProtocolTooOld

HEADER: Final = "Unseen-Protocol"
VERSION: Final = 1
OLDEST_CLIENT: Final = 1
OLDEST_SERVER: Final = 1

_INTEGER: Final = re.compile(r"[1-9]\d{0,5}")


def parse_version(text: str) -> int:
    """Raises MalformedHeader unless `text` is a version number."""
    if not _INTEGER.fullmatch(text):
        raise MalformedHeader(HEADER, "is not a version number such as 1")
    return int(text)


def check_client(text: str | None) -> None:
    """Raises ProtocolTooOld, or MalformedHeader. None: the client did not say."""
    if text is not None and (offered := parse_version(text)) < OLDEST_CLIENT:
        raise ProtocolTooOld(offered, OLDEST_CLIENT)


class ProtocolCheck:
    """Middleware: refuses a client that is too old before anything of its request is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            check_client(Headers(scope=scope).get(HEADER))
        await self._app(scope, receive, send)
