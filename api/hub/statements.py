"""Statements in, messages out: how a party speaks and listens."""

from __future__ import annotations

from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Query
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.http.caller import MessageSignature, SignedBy
from api.http.errors import KeyUnknown
from api.http.signing import Caller, HttpRequest, Verifier
from api.hub.answers import UNSIGNED, printed, refusals
from api.hub.bodies import ChainBody, DeliveryBody, InboxBody, OutcomeBody, SubmitBody
from api.hub.desk import Desk
from crypto.errors import BadSignature, CryptoError, Malformed, UnknownKey
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from crypto.statement import Statement
from exchange.errors import ChainBroken, NotYours
from exchange.hub.service import HubService
from exchange.submission import read_submission
from registry.errors import DocumentRefused
from registry.evidence import REGISTERED, UPDATED

LONGEST_WAIT_S: Final = 25.0

log: Final = structlog.get_logger("api.hub")

_SUBMIT: Final = """\
Take in one act of the caller: its signed statement and the documents that the statement names.

The statement's digest is its idempotency key: the same statement again changes nothing and gets
the answer that was given before. A statement that follows the caller's last one and is rightly
signed is put into the ledger even when its act has no effect any more; then `applied` is false and
`reason` says why.

A first `party.registered`, and a `party.updated` after the signing key changed, bring the party
document that holds the key of this request: such a request is checked against that document.
"""
_INBOX: Final = """\
Statements of others that concern the caller, in order. With `wait`, an empty inbox is answered as
soon as something arrives, or after so many seconds. Reading deletes nothing.
"""


class _SenderOrNewcomer(MessageSignature):
    """Knows, beside the registered keys, the one in the party document that a statement brings."""

    def __init__(self, service: HubService) -> None:
        super().__init__()
        self._service = service

    def verify(self, verifier: Verifier, request: HttpRequest) -> Caller:
        def key(party: PartyId, key_id: str) -> PublicKey:
            try:
                return verifier.keys(party, key_id)
            except KeyUnknown:
                found = self._brought(party, request.body)
                if found is None:
                    raise
                return found

        return verifier.knowing(key).verify(request)

    def _brought(self, party: PartyId, body: bytes) -> PublicKey | None:
        try:
            read = SubmitBody.model_validate_json(body)
            submission = read_submission(read.entry, read.documents)
        except (ValidationError, CryptoError):
            return None
        statement = submission.signed.statement
        if statement.actor != party or statement.type not in (REGISTERED, UPDATED):
            return None
        return self._service.sender_key(submission)


def statements(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["statements"], responses=UNSIGNED)
    sender = Depends(_SenderOrNewcomer(desk.service))

    @router.post(
        "/v1/statements",
        operation_id="submit_statement",
        summary="Say something",
        description=_SUBMIT,
        status_code=202,
        response_model=OutcomeBody,
        responses=refusals(
            NotYours("pty_… sent a statement of pty_…"),
            ChainBroken("pty_…", 12, 14, "comes before the ones it follows"),
            Malformed("actor_prev", "is missing"),
            BadSignature("the signature does not verify under key 0f3a5c7e9b1d2f40"),
            UnknownKey("0f3a5c7e9b1d2f40"),
            DocumentRefused("seq", "does not follow document 0"),
        ),
    )
    def submit(body: SubmitBody, caller: Caller = sender) -> Response:
        submission = read_submission(body.entry, body.documents)
        outcome = desk.service.submit(caller.party, submission)
        desk.mail.ring()
        log.info(
            "statement.taken",
            digest=str(outcome.statement),
            type=submission.signed.statement.type,
            subject=submission.signed.statement.subject,
            actor=caller.party,
            applied=outcome.applied,
        )
        links = _links(submission.signed.statement)
        links["receipt"] = f"/v1/log/receipts/{outcome.statement}"
        return printed(OutcomeBody.of(outcome, links=links), status=202)

    @router.get(
        "/v1/inbox",
        operation_id="read_inbox",
        summary="Hear what others said",
        description=_INBOX,
        response_model=InboxBody,
    )
    async def inbox(
        caller: SignedBy,
        after: Annotated[int, Query(ge=0, le=2**62, description="The last number seen.")] = 0,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds.")] = 0,
    ) -> Response:
        def read() -> Response | None:
            found = desk.service.inbox(caller.party, after=after)
            items = [DeliveryBody.of(delivery) for delivery in found]
            return printed(InboxBody(items=items)) if items else None

        found = await run_in_threadpool(read)
        if found is None and wait:
            await desk.mail.wait(caller.party, after=after, timeout_s=wait)
            found = await run_in_threadpool(read)
        return found or printed(InboxBody(items=[]))

    @router.get(
        "/v1/chain",
        operation_id="read_chain",
        summary="Where the caller's own statements stand",
        response_model=ChainBody,
    )
    def chain(caller: SignedBy) -> Response:
        return printed(ChainBody.of(desk.service.chain(caller.party)))

    return router


def _links(statement: Statement) -> dict[str, str]:
    kind, _, _ = statement.subject.partition("_")
    page = {"job": "jobs", "prd": "products", "pty": "parties"}.get(kind)
    return {} if page is None else {"subject": f"/v1/{page}/{statement.subject}"}
