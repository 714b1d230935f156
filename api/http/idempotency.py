"""`Idempotency-Key`: a POST that moves money or epsilon acts once, however often it is sent.

The answer is stored in the same database transaction as the act. A crash before the commit leaves
neither, so that a retry acts; a crash after it leaves both, so that a retry is answered. Answers
are kept for good: no retry is so late that it acts a second time. A refusal is not stored, for it
changed nothing, and the same request may succeed later.

    @router.post("/v1/jobs", ...)
    def submit(caller: SignedBy, key: Keyed, body: SubmitJob) -> Response:
        with transaction(engine) as session:
            answer = once(SqlIdempotencyStore(session), key, lambda: ..., now=clock.now())
        return respond(answer)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Final

from fastapi import Depends, Header
from starlette.requests import Request
from starlette.responses import Response

from api.http.caller import SignedBy, http_request
from api.http.errors import IdempotencyKeyMissing, MalformedHeader
from api.http.ports import Answer, IdempotencyStore, RequestKey
from crypto import canonical
from crypto.digest import digest

HEADER: Final = "Idempotency-Key"
_KEY: Final = re.compile(r"[A-Za-z0-9._:-]{8,128}")


async def _request_key(
    request: Request,
    caller: SignedBy,
    key: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description="8 to 128 letters, digits and . _ : - ; the same for each retry of an act.",
        ),
    ] = None,
) -> RequestKey:
    """Raises IdempotencyKeyMissing, MalformedHeader."""
    if key is None:
        raise IdempotencyKeyMissing
    if not _KEY.fullmatch(key):
        raise MalformedHeader(HEADER, "is not 8 to 128 letters, digits and . _ : -")
    asked = {
        "method": request.method,
        "target": (await http_request(request)).target,
        "body": str(digest(await request.body())),
    }
    return RequestKey(caller.party, key, digest(canonical.encode(asked)))


# What identifies this request among its caller's. The key is the one that the caller signed, so
# that nobody else can claim it.
Keyed = Annotated[RequestKey, Depends(_request_key)]


def once(
    store: IdempotencyStore, key: RequestKey, act: Callable[[], Answer], *, now: datetime
) -> Answer:
    """Do `act` unless it was done; its answer either way.

    store and `act` share the caller's open transaction; the caller commits after this returns.
    Raises IdempotencyKeyReused, RequestInFlight, and whatever `act` raises: then the caller rolls
    back, and the key is free again.
    """
    answered = store.claim(key)
    if answered is not None:
        return answered
    answer = act()
    store.keep(key, answer, now)
    return answer


def respond(answer: Answer) -> Response:
    """The stored answer as an HTTP answer, byte for byte the same each time."""
    headers = {"Location": answer.location} if answer.location is not None else None
    return Response(answer.body, answer.status, headers, "application/json")
