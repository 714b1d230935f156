"""A FastAPI application with the house's signatures, problems, limits, traces and health pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from api.http import protocol
from api.http.errors import NotReady
from api.http.events import Stopping
from api.http.limits import MAX_BODY_BYTES, BodyLimit
from api.http.problems import MEDIA_TYPE, Problems, answer_problem
from api.http.protocol import ProtocolCheck
from api.http.signing import Verifier
from api.http.trace import Tracing
from crypto.ports import Randomness

# What is missing, in words that anybody may read; None when nothing is.
Check = Callable[[], str | None]

log: Final = structlog.get_logger("api.http")

_PROBLEM_SCHEMA: Final[Mapping[str, Any]] = {
    "title": "Problem",
    "description": "RFC 9457. `code` is stable; `detail` says what to do.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string"},
        "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "detail": {"type": "string"},
                    "pointer": {"type": "string", "description": "JSON Pointer into the body"},
                    "parameter": {"type": "string"},
                    "in": {"type": "string", "enum": ["query", "path", "header"]},
                },
            },
        },
    },
    "example": {
        "type": "urn:unseen:problem:invalid_request",
        "title": "The request does not follow its schema",
        "status": 422,
        "detail": '/epsilon: is not an exact fraction such as "1/4"',
        "instance": "/v1/jobs",
        "code": "invalid_request",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "errors": [{"pointer": "/epsilon", "detail": 'is not an exact fraction such as "1/4"'}],
    },
}
_PROBLEM_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    pattern: {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for pattern, description in (
        ("4XX", "Refused; the problem says why"),
        ("5XX", "Not possible now, or our fault"),
    )
}


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = dict(_PROBLEM_SCHEMA)
        return super().openapi()


def new_app(
    *,
    title: str,
    version: str,
    description: str,
    verifier: Verifier,
    randomness: Randomness,
    checks: Mapping[str, Check],
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """An application to include routers in. Every route must state its operation_id.

    verifier: reached by routes that take `SignedBy`
    checks:   by name, what /readyz asks; each is called in a worker thread
    lifespan: entered before the first request; what it raises stops the start
    """
    stopping = Stopping()

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with lifespan(app) if lifespan is not None else nullcontext():
                yield
        except Exception as error:  # uvicorn keeps only its text; `serve` chains it
            app.state.start_error = error
            raise

    app = _App(
        title=title,
        version=version,
        description=description,
        lifespan=run,
        docs_url=None,  # the framework's pages load scripts from a CDN
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # a redirect would be to an address that was not signed
        generate_unique_id_function=_refuse_unnamed,
        responses=_PROBLEM_ANSWERS,
        middleware=[
            Middleware(Tracing, randomness=randomness),
            Middleware(Problems),
            Middleware(ProtocolCheck),
            Middleware(BodyLimit, limit_bytes=max_body_bytes),
        ],
        exception_handlers={
            HTTPException: answer_problem,
            RequestValidationError: answer_problem,
        },
    )
    app.state.verifier = verifier
    app.state.stopping = stopping
    app.state.start_error = None

    @app.get("/livez", operation_id="livez", tags=["health"], summary="The process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", operation_id="readyz", tags=["health"], summary="It can do its work")
    async def readyz() -> dict[str, object]:
        failing = {"server": "is stopping"} if stopping.is_set() else {}
        for name, check in checks.items():
            missing = await run_in_threadpool(_ask, name, check)
            if missing is not None:
                failing[name] = missing
        if failing:
            raise NotReady(failing)
        return {"status": "ready", "checks": sorted(checks), "protocol": protocol.VERSION}

    return app


def _ask(name: str, check: Check) -> str | None:
    try:
        return check()
    except Exception as error:  # a check that breaks is a check that fails; recorded
        log.error("readiness check broke", check=name, error=type(error).__qualname__)
        return "cannot be checked"


def _refuse_unnamed(route: APIRoute) -> str:
    raise TypeError(f"{route.path} has no operation_id; generated clients name their calls by it")
