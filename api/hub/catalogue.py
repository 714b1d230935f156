"""What everybody may read: who takes part, and which data products are listed."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api.http.errors import MalformedParameter
from api.hub.answers import JSON, content, refusals, tagged, unchanged
from api.hub.bodies import CatalogueBody, ProductBody, ProductSummary
from api.hub.desk import Desk
from api.hub.parameters import (
    PAGE,
    Cursor,
    DigestText,
    Limit,
    PartyText,
    ProductText,
    cursor,
    product_after,
)
from crypto.digest import Digest
from crypto.identifiers import PartyId, ProductId
from registry.errors import NotFound

_ENVELOPE: Final = {
    "payload": "eyJ2Ijox…",
    "payloadType": "application/vnd.unseen.party.v1+json",
    "signatures": [{"keyid": "0f3a5c7e9b1d2f40", "sig": "n4bQgYhM…"}],
}


def catalogue(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["catalogue"])

    @router.get(
        "/v1/products",
        operation_id="search_products",
        summary="Find data products",
        description="Those whose name or description holds every word of `text`, ordered by id.",
        response_model=CatalogueBody,
        responses={
            **unchanged(),
            **refusals(MalformedParameter("after", "is not a cursor that this hub gave out")),
        },
    )
    def search(
        request: Request,
        text: Annotated[str, Query(max_length=200)] = "",
        after: Cursor = None,
        limit: Limit = PAGE,
    ) -> Response:
        page = desk.service.catalogue(text, after=product_after(after), limit=limit)
        following = cursor(page.next_after)
        body = CatalogueBody(
            items=[ProductSummary.of(product) for product in page.products], next_cursor=following
        )
        headers = {}
        if following is not None:
            query = urlencode({"text": text, "after": following, "limit": limit})
            headers["Link"] = f'</v1/products?{query}>; rel="next"'
        return tagged(request, body.model_dump_json().encode(), headers=headers)

    @router.get(
        "/v1/products/{product}",
        operation_id="read_product",
        summary="One data product: columns, rule, price",
        response_model=ProductBody,
        responses={**unchanged(), **refusals(NotFound("data product prd_…"))},
    )
    def product(request: Request, product: ProductText) -> Response:
        body = ProductBody.of(desk.service.product(ProductId(product)))
        return tagged(request, body.model_dump_json().encode())

    @router.get(
        "/v1/parties/{party}",
        operation_id="read_party",
        summary="A party's current document",
        description="The signed party document, a DSSE envelope, byte for byte. Check it: the "
        "identity key must be the one that the party is named after, and trusted by you.",
        response_class=Response,
        responses={
            **content(JSON, "The envelope", _ENVELOPE),
            **unchanged(),
            **refusals(NotFound("party pty_…")),
        },
    )
    def party(request: Request, party: PartyText) -> Response:
        return tagged(request, desk.service.party(PartyId(party)))

    @router.get(
        "/v1/documents/{digest}",
        operation_id="read_document",
        summary="A public document by its digest",
        description="A party document, product version, or policy or keys document of the ledger, "
        "as its author signed it. Plans, agreements, proposals and sealed parts are "
        "not public: their parties receive them in their inboxes.",
        response_class=Response,
        responses={
            **content(JSON, "The envelope", _ENVELOPE),
            **unchanged(),
            **refusals(NotFound("data product sha256:…")),
        },
    )
    def document(request: Request, digest: DigestText) -> Response:
        return tagged(request, desk.service.document(Digest.parse(digest)))

    return router
