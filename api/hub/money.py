"""Balances and deposits, and what statements about money commit to."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from api.http.caller import SignedBy
from api.http.errors import IdempotencyKeyMissing, IdempotencyKeyReused, RequestInFlight
from api.http.idempotency import Keyed, once, respond
from api.http.ports import Answer
from api.hub.answers import OCTETS, UNSIGNED, content, printed, refusals
from api.hub.bodies import BalanceBody, DepositBody, DepositedBody
from api.hub.desk import Desk
from api.hub.parameters import CurrencyText, DigestText
from crypto.digest import Digest
from exchange.errors import NotYours, UnknownSubject
from pricing.errors import AccountNotFound, MoneyRefused
from pricing.money import Money
from registry.errors import NotFound


def money(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["money"], responses=UNSIGNED)

    @router.get(
        "/v1/balances/{currency}",
        operation_id="read_balance",
        summary="The caller's own balance",
        response_model=BalanceBody,
        responses=refusals(AccountNotFound("party:pty_…:CNY")),
    )
    def balance(caller: SignedBy, currency: CurrencyText) -> Response:
        return printed(BalanceBody.of(desk.service.balance(caller.party, currency)))

    @router.get(
        "/v1/openings/{digest}",
        operation_id="fetch_opening",
        summary="What a statement committed to, sealed to the caller",
        description="Of a deposit for whoever was credited; of a job's money and receipts for the "
        "regulator that its agreements name. `digest` is the statement's.",
        response_class=Response,
        responses={
            **content(OCTETS, "The sealed opening"),
            **refusals(UnknownSubject("an opening of sha256:… for pty_…")),
        },
    )
    def opening(caller: SignedBy, digest: DigestText) -> Response:
        data = desk.service.opening(caller.party, Digest.parse(digest))
        return Response(data, media_type=OCTETS)

    @router.post(
        "/v1/deposits",
        operation_id="book_deposit",
        summary="Credit a party",
        description="For the operator alone: money that arrived outside, or play money (TEST). "
        "The deposit, its statement and this answer are stored together.",
        status_code=201,
        response_model=DepositedBody,
        responses=refusals(
            IdempotencyKeyMissing(),
            NotYours("only the operator books deposits"),
            NotFound("party pty_…"),
            RequestInFlight("bank-2026-11-23-0007"),
            IdempotencyKeyReused("bank-2026-11-23-0007"),
            MoneyRefused("an amount must be above 0"),
        ),
    )
    def deposit(caller: SignedBy, key: Keyed, body: DepositBody) -> Response:
        with desk.booking() as booking:

            def book() -> Answer:
                statement = desk.service.fund_in(
                    booking.tx,
                    caller.party,
                    body.party,
                    Money(body.currency, body.amount_minor),
                    key=key.key,
                )
                answer = DepositedBody(statement=statement)
                return Answer(201, answer.model_dump_json().encode())

            found = once(booking.answers, key, book, now=desk.clock.now())
        desk.mail.ring()
        return respond(found)

    return router
