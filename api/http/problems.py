"""Every refusal is a problem document (RFC 9457): one table from exceptions to statuses.

`KINDS` maps an exception class to its status, code and title; a subclass without an entry of its
own takes its nearest ancestor's. Whatever has no entry is our fault: status 500, a trace id, and
nothing about the cause, in the answer or beyond its type and place in the log, for an exception's
words may quote what somebody sent.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http import errors as http
from api.http import protocol
from api.http.trace import trace_id
from crypto import errors as crypto
from exchange import errors as exchange
from ledger import errors as ledger
from pricing import errors as pricing
from registry import errors as registry

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:unseen:problem:"
RETRY_SOON: Final = {"Retry-After": "1"}
CHALLENGE: Final = {"WWW-Authenticate": 'Signature realm="unseen"'}

log: Final = structlog.get_logger("api.http")


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    detail:  fixed words; None tells the exception's own, which are written for the caller
    headers: sent with it
    """

    status: int
    code: str
    title: str
    detail: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


KINDS: Final[dict[type[Exception], Kind]] = {
    # crypto. KeyFileRefused and EngineFailed are left out: they name the server's own files.
    crypto.Malformed: Kind(422, "malformed", "A document does not follow its format"),
    crypto.BadSignature: Kind(422, "bad_signature", "A signature does not verify"),
    crypto.UnknownKey: Kind(422, "unknown_key", "No trusted key has this identifier"),
    crypto.CannotOpen: Kind(422, "cannot_open", "A sealed message does not open"),
    crypto.KeyRefused: Kind(422, "key_refused", "A join key has no canonical form"),
    # registry
    registry.NotTrusted: Kind(403, "not_trusted", "Nobody vouches for this party document"),
    registry.DocumentRefused: Kind(422, "document_refused", "A document breaks its own rules"),
    registry.NotFound: Kind(404, "not_found", "Nothing is registered under this identifier"),
    registry.SourceRefused: Kind(422, "source_refused", "The data does not fit the product"),
    registry.SourceUnreachable: Kind(
        503, "source_unreachable", "The data cannot be read now", headers=RETRY_SOON
    ),
    # exchange. HubUnreachable, EvidenceMissing and RestoredBackup are a node's own, and a hub with
    # BookkeepingBehind does not start.
    exchange.TermsRefused: Kind(422, "terms_refused", "Terms that are not allowed here"),
    exchange.PlanRefused: Kind(422, "plan_refused", "A plan that is not computed here"),
    exchange.QuestionRefused: Kind(422, "question_refused", "The question does not fit"),
    exchange.BundleNotReady: Kind(
        503, "bundle_not_ready", "Nothing of the deal is under a head yet", headers=RETRY_SOON
    ),
    exchange.IllegalTransition: Kind(
        409, "illegal_transition", "Not possible in the present state"
    ),
    exchange.ChainBroken: Kind(409, "chain_broken", "The statement does not follow the last one"),
    exchange.NotYours: Kind(403, "not_yours", "The caller has no part in this"),
    exchange.UnknownSubject: Kind(404, "unknown_subject", "Nothing is known under this name"),
    # pricing. BookBroken is left out: it is nobody's request.
    pricing.MoneyRefused: Kind(422, "money_refused", "An amount or currency that cannot be"),
    pricing.AccountNotFound: Kind(404, "account_not_found", "There is no such account"),
    pricing.TransferNotFound: Kind(404, "transfer_not_found", "There is no such hold"),
    pricing.InsufficientFunds: Kind(409, "insufficient_funds", "The account holds too little"),
    pricing.TransferConflict: Kind(409, "transfer_conflict", "The transfer id is taken"),
    pricing.HoldResolved: Kind(409, "hold_resolved", "The hold is resolved already"),
    # ledger. What says that the log itself is wrong is left out, and stops the signing.
    ledger.FormatRefused: Kind(422, "format_refused", "Bytes that do not follow their format"),
    ledger.EntryRefused: Kind(422, "entry_refused", "An entry that the log cannot carry"),
    ledger.NotLogged: Kind(404, "not_logged", "The log has no such entry"),
    ledger.NotCovered: Kind(404, "not_covered", "The log has not signed so far yet"),
    # api.http
    http.SignatureMissing: Kind(
        401, "signature_missing", "This request must be signed", headers=CHALLENGE
    ),
    http.SignatureInvalid: Kind(
        401, "signature_invalid", "The request's signature is not valid", headers=CHALLENGE
    ),
    http.SignatureStale: Kind(
        401, "signature_stale", "The request was signed too long ago", headers=CHALLENGE
    ),
    http.SignatureReplayed: Kind(
        401, "signature_replayed", "The request was presented before", headers=CHALLENGE
    ),
    http.KeyUnknown: Kind(401, "key_unknown", "The signing key is not known", headers=CHALLENGE),
    http.DigestMismatch: Kind(400, "digest_mismatch", "The body is not the one signed"),
    http.IdempotencyKeyMissing: Kind(
        400, "idempotency_key_missing", "This request needs an Idempotency-Key"
    ),
    http.IdempotencyKeyReused: Kind(
        422, "idempotency_key_reused", "The Idempotency-Key belongs to another request"
    ),
    http.RequestInFlight: Kind(
        409, "request_in_flight", "The same request is being answered", headers=RETRY_SOON
    ),
    http.ProtocolTooOld: Kind(
        426,
        "protocol_too_old",
        "The client must be upgraded",
        headers={"Upgrade": f"unseen/{protocol.VERSION}"},
    ),
    http.MalformedHeader: Kind(400, "malformed_header", "A header does not follow its format"),
    http.MalformedParameter: Kind(422, "malformed_parameter", "A parameter that cannot be"),
    http.NotReady: Kind(503, "not_ready", "Not ready", headers=RETRY_SOON),
    # The database's words quote the statement and its values.
    OperationalError: Kind(
        503,
        "storage_busy",
        "Storage cannot be reached now",
        detail="the database is busy or away; try again",
        headers=RETRY_SOON,
    ),
}
# What a program does about a kind of problem, as members of their own: the attributes so named.
MEMBERS: Final[Mapping[type[Exception], Sequence[str]]] = {
    exchange.ChainBroken: ("actor", "expected_seq", "found_seq", "problem"),
    exchange.IllegalTransition: ("subject", "state", "event"),
    exchange.UnknownSubject: ("what",),
    registry.NotFound: ("what",),
    crypto.UnknownKey: ("key_id",),
    pricing.InsufficientFunds: ("account", "asked", "available"),
    http.ProtocolTooOld: ("needed",),
}
_AMOUNTS: Final = frozenset({"asked", "available"})
INTERNAL: Final = Kind(
    500,
    "internal",
    "Something is wrong here",
    detail="this is not your request's fault; tell the operator the trace id",
)
# What the framework itself refuses.
STATUSES: Final[Mapping[int, Kind]] = {
    400: Kind(400, "bad_request", "The request cannot be read"),
    404: Kind(404, "no_such_page", "There is nothing at this address"),
    405: Kind(405, "method_not_allowed", "This address does not take this method"),
    413: Kind(413, "body_too_large", "The body is too large"),
    422: Kind(422, "invalid_request", "The request does not follow its schema"),
}


def kind_of(error: Exception) -> Kind | None:
    """The kind of the error's nearest ancestor in `KINDS`; None when there is none."""
    return next((KINDS[c] for c in type(error).__mro__ if c in KINDS), None)


def members_of(error: Exception) -> dict[str, object]:
    """The members that this error adds to its problem: amounts as text, other numbers as such."""
    names = next((MEMBERS[c] for c in type(error).__mro__ if c in MEMBERS), ())
    found = {name: getattr(error, name) for name in names}
    return {
        name: value if type(value) is int and name not in _AMOUNTS else str(value)
        for name, value in found.items()
    }


def problem(
    kind: Kind,
    scope: Scope,
    *,
    detail: str,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, object] | None = None,
) -> Response:
    """The problem document as an answer.

    errors:  one object per fault: `detail`, with `pointer` (JSON Pointer into the body) or
             `parameter` and `in` (query, path, header)
    members: further members of this kind of problem
    """
    document: dict[str, object] = {
        "type": TYPE_PREFIX + kind.code,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": scope.get("path", "/"),
        "code": kind.code,
        "trace_id": trace_id(scope),
        **(members or {}),
    }
    if errors:
        document["errors"] = [dict(error) for error in errors]
    return Response(
        json.dumps(document, ensure_ascii=False).encode(),
        kind.status,
        {**kind.headers, **(headers or {})},
        MEDIA_TYPE,
    )


def problem_from(error: Exception, scope: Scope) -> Response:
    """The answer to an exception; logs the ones that nobody foresaw."""
    if isinstance(error, RequestValidationError):
        return _from_validation(error, scope)
    if isinstance(error, HTTPException):
        return _from_status(error, scope)
    kind = kind_of(error)
    if kind is None:
        _log_unforeseen(error, scope)
        return problem(INTERNAL, scope, detail=INTERNAL.detail or "")
    return problem(
        kind,
        scope,
        detail=kind.detail or str(error),
        errors=_faults(error),
        members=members_of(error),
    )


class Problems:
    """Middleware: an exception that reaches it becomes a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            log.info("caller left before its request was read", path=scope["path"])
        except Exception as error:  # the server outlives any one request; recorded
            if started:
                # Only a broken connection tells the reader that the answer is not whole.
                _log_unforeseen(error, scope)
                raise http.AnswerCutShort(trace_id(scope)) from None
            await problem_from(error, scope)(scope, receive, watch)


async def answer_problem(request: Any, error: Exception) -> Response:
    """Handler for the exceptions that the framework would answer in its own words."""
    return problem_from(error, request.scope)


def pointer(where: str) -> str:
    """`terms.columns[2].name`, as `Malformed` says it, as a JSON Pointer (RFC 6901)."""
    steps = re.findall(r"[^.\[\]]+", where)
    return "".join("/" + _escape(step) for step in steps)


def _faults(error: Exception) -> list[dict[str, str]]:
    if isinstance(
        error,
        crypto.Malformed
        | registry.DocumentRefused
        | registry.SourceRefused
        | exchange.QuestionRefused
        | ledger.FormatRefused,
    ):
        return [{"pointer": pointer(error.where), "detail": error.problem}]
    if isinstance(error, exchange.TermsRefused):
        return [{"pointer": pointer(error.clause), "detail": error.problem}]
    if isinstance(error, exchange.PlanRefused):
        return [{"pointer": pointer(error.constraint), "detail": error.problem}]
    if isinstance(error, http.MalformedHeader):
        return [{"parameter": error.header, "in": "header", "detail": error.problem}]
    if isinstance(error, http.MalformedParameter):
        return [{"parameter": error.parameter, "in": "query", "detail": error.problem}]
    if isinstance(error, http.NotReady):
        return [{"pointer": "/" + _escape(k), "detail": v} for k, v in error.failing.items()]
    return []


def _from_validation(error: RequestValidationError, scope: Scope) -> Response:
    faults: list[dict[str, str]] = []
    for fault in error.errors():
        place, *path = (str(step) for step in fault["loc"])
        # Never the input itself, nor `ctx`: a log or a screenshot must not quote a body.
        if fault["type"] == "json_invalid":
            faults.append({"pointer": "", "detail": f"is not JSON: {fault['ctx']['error']}"})
        elif place == "body":
            found = "".join("/" + _escape(step) for step in path)
            faults.append({"pointer": found, "detail": str(fault["msg"])})
        else:
            faults.append({"parameter": ".".join(path), "in": place, "detail": str(fault["msg"])})
    first = faults[0]
    name = first.get("pointer") or first.get("parameter") or "the body"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    detail = f"{name}: {first['detail']}{more}"
    return problem(STATUSES[422], scope, detail=detail, errors=faults)


def _from_status(error: HTTPException, scope: Scope) -> Response:
    phrase = HTTPStatus(error.status_code).phrase
    kind = STATUSES.get(error.status_code) or Kind(
        error.status_code, phrase.lower().replace(" ", "_"), phrase
    )
    return problem(kind, scope, detail=str(error.detail), headers=error.headers)


def _log_unforeseen(error: Exception, scope: Scope) -> None:
    root: BaseException = error
    # A stream's failure comes wrapped in its task groups.
    while isinstance(root, BaseExceptionGroup) and len(root.exceptions) == 1:
        root = root.exceptions[0]
    chain: list[str] = []
    step: BaseException | None = root
    while step is not None and len(chain) < 8:
        chain.append(f"{type(step).__module__}.{type(step).__qualname__}")
        step = step.__cause__ or step.__context__
    frames = traceback.extract_tb(root.__traceback__)
    log.error(
        "request failed",
        trace_id=trace_id(scope),
        method=scope["method"],
        path=scope["path"],
        errors=chain,
        places=[f"{frame.name}:{frame.lineno}" for frame in frames[-12:]],
    )


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")
