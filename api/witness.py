"""The witness's web server: one call that cosigns, what it cosigned for whoever watches the log,
and a page that says the same to people.

Source: C2SP tlog-witness. Requests need no authentication beyond the log's signature on the
checkpoint. `sign-subtree`, which the protocol leaves to the witness, is not served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from ledger.errors import MemoryDamaged
from ledger.ports import WitnessHead
from ledger.verify.note import KEY_TYPES, VerifierKey, cosigner_key


@dataclass(frozen=True)
class _Words:
    """What the page says, in one language."""

    title: str
    keys: str
    promise: str
    logs: str
    nothing: str
    entries: str
    at: str
    root: str
    note: str


_WORDS: Final[Mapping[str, _Words]] = {
    "en": _Words(
        title="Witness",
        keys="Verifier keys",
        promise="This witness cosigns a log's checkpoint only if it extends the last one below.",
        logs="Logs",
        nothing="Nothing has been cosigned yet.",
        entries="Entries",
        at="Cosigned",
        root="Root",
        note="The signed note",
    ),
    "zh-CN": _Words(
        title="见证人",
        keys="验证公钥",
        promise="只有当日志的检查点是下列最近一次检查点的延续时，本见证人才予以联署。",
        logs="日志",
        nothing="尚未联署任何检查点。",
        entries="条目数",
        at="联署时间",
        root="树根",
        note="签名文本",
    ),
}
_PAGE: Final = """<!doctype html>
<html lang="{lang}"><meta charset="utf-8"><title>{title} {name}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}
code,pre{{word-break:break-all;white-space:pre-wrap}}</style>
<nav>{others}</nav>
<h1>{title} {name}</h1>
<p>{promise}</p>
<h2>{key_title}</h2>
{keys}
<h2>{log_title}</h2>
{logs}
</html>
"""
_LOG: Final = """<h3>{origin}</h3>
<p>{entries_title}: {size}<br>{at_title}: {at}<br>{root_title}: <code>{root}</code></p>
<details><summary>{note_title}</summary><pre>{note}</pre></details>
"""
# The page is made of other people's texts: even one that slipped through could not run.
_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    "x-content-type-options": "nosniff",
}

log = structlog.get_logger()


def witness_app(
    *,
    engine: Engine,
    signers: Sequence[Signer],
    name: str,
    trusted_logs: Sequence[VerifierKey],
    clock: Clock,
) -> Starlette:
    """The witness as an ASGI application.

    engine:  on a database whose tables exist; see create_witness_tables for why not made here
    signers: one key of each suite it cosigns with
    name:    the key name of the cosignatures; it belongs to these keys for good
    """
    keys = [cosigner_key(name, signer) for signer in signers]

    def answer(body: bytes) -> witness.Response:
        # Leaving the block commits: what was cosigned is on disk before the cosignature leaves.
        with Session(engine) as session, session.begin():
            return witness.add_checkpoint(
                body,
                store=SqlWitnessStore(session),
                name=name,
                signers=signers,
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
        try:
            result = await run_in_threadpool(answer, body)
        except MemoryDamaged as error:
            log.critical("witness.damaged", reason=str(error))
            return PlainTextResponse(f"{error}\n", 500)
        if result.status in (409, 422):  # may be evidence of a fork: a person should look
            text = result.body.decode().strip()
            log.warning("checkpoint refused", status=result.status, answer=text)
        return Response(result.body, result.status, {"content-type": result.content_type})

    def checkpoint(request: Request) -> Response:
        wanted = request.path_params["origin"]
        for head in heads():
            if hashlib.sha256(head.checkpoint.origin.encode()).hexdigest() == wanted:
                return PlainTextResponse(head.note, headers={"cache-control": "max-age=5"})
        return PlainTextResponse("this witness has cosigned no such log\n", 404)

    async def live(_request: Request) -> Response:
        return PlainTextResponse("alive\n")

    def ready(_request: Request) -> Response:
        try:
            for head in heads():
                witness.require_ours(head, keys)
        except MemoryDamaged as error:
            return PlainTextResponse(f"{error}\n", 503)
        except DBAPIError:
            return PlainTextResponse("the database does not answer, or has no tables\n", 503)
        return PlainTextResponse("ready\n")

    def page(request: Request) -> Response:
        language = _language(request)
        return HTMLResponse(_page(name, keys, heads(), language), headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/livez", live),
            Route("/readyz", ready),
            Route("/", page),
            Route("/{origin}/checkpoint", checkpoint),
        ]
    )


def _language(request: Request) -> str:
    """What `?lang=` asks for, else what the browser prefers, else English."""
    asked = request.query_params.get("lang", "")
    if asked in _WORDS:
        return asked
    preferred = request.headers.get("accept-language", "").strip().lower()
    return "zh-CN" if preferred.startswith("zh") else "en"


def _page(
    name: str, keys: Sequence[VerifierKey], heads: Sequence[WitnessHead], language: str
) -> str:
    words = _WORDS[language]
    logs = "".join(
        _LOG.format(
            origin=escape(head.checkpoint.origin),
            entries_title=words.entries,
            size=head.checkpoint.size,
            at_title=words.at,
            at=f"{head.cosigned_at:%Y-%m-%d %H:%M:%S} UTC",
            root_title=words.root,
            root=head.checkpoint.root.hex(),
            note_title=words.note,
            note=escape(head.note.decode("utf-8")),
        )
        for head in heads
    )
    return _PAGE.format(
        lang=language,
        title=words.title,
        name=escape(name),
        promise=words.promise,
        others=" ".join(f'<a href="?lang={other}">{other}</a>' for other in _WORDS),
        key_title=words.keys,
        keys="".join(
            f"<p>{KEY_TYPES[key.key_type].words}<br><code>{escape(str(key))}</code></p>"
            for key in keys
        ),
        log_title=words.logs,
        logs=logs or f"<p>{words.nothing}</p>",
    )
