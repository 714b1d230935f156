"""How the hub's routes print: bodies, bytes with an ETag, and the problems they document."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api.http.errors import KeyUnknown, SignatureInvalid, SignatureMissing, SignatureReplayed
from api.http.problems import MEDIA_TYPE, TYPE_PREFIX, kind_of, members_of

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"
TEXT: Final = "text/plain; charset=utf-8"
ZIP: Final = "application/zip"


def printed(
    body: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A body, written once: it was checked when it was made."""
    return Response(body.model_dump_json().encode(), status, headers, JSON)


def tagged(
    request: Request,
    data: bytes,
    *,
    media_type: str = JSON,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Bytes with a strong ETag over them; 304 to a reader that has them already."""
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    sent = {"ETag": etag, "Cache-Control": "no-cache", **(headers or {})}
    known = request.headers.get("if-none-match", "")
    # Weak comparison (RFC 9110, 13.1.2).
    if etag in {part.strip().removeprefix("W/") for part in known.split(",")} or known == "*":
        return Response(status_code=304, headers=sent)
    return Response(data, 200, sent, media_type)


def unchanged() -> dict[int | str, dict[str, Any]]:
    return {304: {"description": "Unchanged since the ETag in `If-None-Match`"}}


def content(
    media_type: str, description: str, example: object = None
) -> dict[int | str, dict[str, Any]]:
    """An answer that is not one of our bodies: bytes, text, or a document as it was signed."""
    kinds: Mapping[str, Any] = {
        TEXT: {"type": "string"},
        JSON: {"type": "object"},
    }
    entry: dict[str, Any] = {
        "schema": kinds.get(media_type, {"type": "string", "format": "binary"})
    }
    if example is not None:
        entry["example"] = example
    return {200: {"description": description, "content": {media_type: entry}}}


def refusals(*errors: Exception) -> dict[int | str, dict[str, Any]]:
    """The problems that an operation answers with, each by an example of its error."""
    found: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        kind = kind_of(error)
        if kind is None:
            raise TypeError(f"{type(error).__qualname__} has no kind of problem")
        detail = kind.detail or str(error)
        place = found.setdefault(
            kind.status,
            {
                "description": kind.title,
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        if kind.title not in place["description"]:
            place["description"] += f"; or: {kind.title}"
        place["content"][MEDIA_TYPE]["examples"][kind.code] = {
            "summary": kind.title,
            "value": {
                "type": TYPE_PREFIX + kind.code,
                "title": kind.title,
                "status": kind.status,
                "detail": detail,
                "instance": "/v1/…",
                "code": kind.code,
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                **members_of(error),
            },
        }
    return found


# For routers whose every operation must be signed.
UNSIGNED: Final = refusals(
    SignatureMissing(),
    SignatureInvalid("it lacks the parameter nonce"),
    SignatureReplayed(),
    KeyUnknown("pty_…/0f3a5c7e9b1d2f40"),
)
