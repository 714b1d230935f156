"""The witness's web server: one call that cosigns, and a page that says what it cosigned.

Requests need no authentication beyond the log's signature on the checkpoint (C2SP tlog-witness).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from crypto.keys import Signer
from crypto.ports import Clock
from ledger import witness
from ledger.adapters.witness_sql import SqlWitnessStore
from ledger.ports import WitnessHead
from ledger.verify.note import COSIGNATURE, VerifierKey

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Witness {name}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
code{{word-break:break-all}}</style>
<h1>Witness {name}</h1>
<p>Verifier key: <code>{key}</code></p>
<p>This witness cosigns a log's checkpoint only if it extends the last one below.</p>
{logs}
</html>
"""
_LOG: Final = """<h2>{origin}</h2>
<p>{size} entries, cosigned {at}</p><pre>{note}</pre>
"""

log = structlog.get_logger()


def witness_app(
    *,
    engine: Engine,
    signer: Signer,
    name: str,
    trusted_logs: Sequence[VerifierKey],
    clock: Clock,
) -> Starlette:
    """The witness as an ASGI application.

    engine: on a database whose tables exist; see create_witness_tables for why not made here.
    name: the key name of the cosignatures; it belongs to this one key for good.
    """
    key = VerifierKey(name, COSIGNATURE, signer.public)

    def answer(body: bytes) -> witness.Response:
        # Leaving the block commits: what was cosigned is on disk before the cosignature leaves.
        with Session(engine) as session, session.begin():
            return witness.add_checkpoint(
                body,
                store=SqlWitnessStore(session),
                name=name,
                signer=signer,
                trusted_logs=trusted_logs,
                now=clock.now(),
            )

    def heads() -> Sequence[WitnessHead]:
        with Session(engine) as session, session.begin():
            return SqlWitnessStore(session).heads()

    async def add_checkpoint(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > witness.MAX_REQUEST_BYTES:
                return PlainTextResponse("the request is too large\n", 413)
        result = await run_in_threadpool(answer, body)
        if result.status in (409, 422):  # may be evidence of a fork: a person should look
            text = result.body.decode().strip()
            log.warning("checkpoint refused", status=result.status, answer=text)
        return Response(result.body, result.status, {"content-type": result.content_type})

    async def live(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    def ready(_request: Request) -> Response:
        try:
            heads()
        except DBAPIError:
            return PlainTextResponse("the database does not answer, or has no tables\n", 503)
        return PlainTextResponse("ready\n")

    def page(_request: Request) -> Response:
        logs = "".join(
            _LOG.format(
                origin=escape(head.checkpoint.origin),
                size=head.checkpoint.size,
                at=f"{head.cosigned_at:%Y-%m-%d %H:%M:%S} UTC",
                note=escape(head.note.decode("utf-8")),
            )
            for head in heads()
        )
        empty = "<p>Nothing has been cosigned yet.</p>"
        return HTMLResponse(
            _PAGE.format(name=escape(name), key=escape(str(key)), logs=logs or empty)
        )

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/livez", live),
            Route("/readyz", ready),
            Route("/", page),
        ]
    )
