"""Who is calling: the dependency that makes a route require a signature.

    async def submit(caller: SignedBy, body: SubmitJob) -> ...

A route without it is public and takes unsigned requests.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api.http.signing import ALWAYS_COVERED, COVERED_IF_PRESENT, Caller, HttpRequest, Verifier

_DESCRIPTION: Final = (
    "HTTP message signature (RFC 9421) with the party's Ed25519 signing key. Covered: "
    + ", ".join(f"`{name}`" for name in ALWAYS_COVERED)
    + "; `content-digest` (RFC 9530, sha-256) when there is a body; "
    + ", ".join(f"`{name}`" for name in COVERED_IF_PRESENT)
    + " when present. Parameters: `created` (within 60 s), `nonce` (16 to 64 base64url "
    "characters, used once), `keyid` (party id, slash, key id), `alg` = `ed25519`, "
    "`tag` = `unseen`."
)


class MessageSignature(SecurityBase):
    """Verifies with the application's Verifier, in a worker thread: keys come from a database."""

    def __init__(self) -> None:
        self.model = APIKey.model_validate(
            {"in": APIKeyIn.header, "name": "Signature-Input", "description": _DESCRIPTION}
        )
        self.scheme_name = "message_signature"

    async def __call__(self, request: Request) -> Caller:
        verifier: Verifier = request.app.state.verifier
        return await run_in_threadpool(self.verify, verifier, await http_request(request))

    def verify(self, verifier: Verifier, request: HttpRequest) -> Caller:
        """The request's sender. A route that knows further keys overrides this."""
        return verifier.verify(request)


async def http_request(request: Request) -> HttpRequest:
    """The request as it came over the wire: undecoded path, every header line, the whole body."""
    query: bytes = request.scope["query_string"]
    target: bytes = request.scope["raw_path"] + (b"?" + query if query else b"")
    return HttpRequest(
        method=request.method,
        authority=request.headers.get("host", ""),
        target=target.decode("latin-1"),
        headers=tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in request.headers.raw),
        body=await request.body(),
    )


SignedBy = Annotated[Caller, Depends(MessageSignature())]
