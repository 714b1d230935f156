"""The ledger for everybody: heads, proofs, and all of it as tiles and entry bundles."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from api.hub.answers import OCTETS, TEXT, content, printed, refusals, tagged, unchanged
from api.hub.bodies import AnchorBody, AnchoringBody, AnchorsBody, ConsistencyBody
from api.hub.desk import Desk
from api.hub.parameters import DigestText
from crypto.digest import Digest
from exchange.errors import UnknownSubject
from exchange.hub.service import MAX_PAGE
from ledger.errors import FormatRefused, NotCovered
from ledger.verify.heads import HEADS_PER_PAGE

_CHECKPOINT: Final = """\
exchange.example/log
128
n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=

— exchange.example/log 9f86d081…
"""
# A tile's bytes follow from its name: a cache need never ask again.
_IMMUTABLE: Final = {"Cache-Control": "public, max-age=31536000, immutable"}
_PROOF: Final = """\
c2sp.org/tlog-proof@v1
index 127
n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=

exchange.example/log
128
…
"""
_TILE_ANSWERS: Final = {
    **content(OCTETS, "Hashes one after the other, or entries after their lengths"),
    **unchanged(),
    **refusals(
        NotCovered("the signed log does not have tile/0/001 yet"),
        FormatRefused("tile path", "is not tile/<level>/<number>[.p/<width>]"),
    ),
}
_HEADS_ANSWERS: Final = {
    **content(TEXT, "Signed notes", _CHECKPOINT),
    **unchanged(),
    **refusals(NotCovered("the log has no heads/7 of witnessed heads yet")),
}


def ledger(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["ledger"])

    @router.get(
        "/v1/log/checkpoint",
        operation_id="read_checkpoint",
        summary="The newest signed head",
        description="A C2SP checkpoint with the cosignatures collected so far. Empty before the "
        "first.",
        response_class=Response,
        responses={**content(TEXT, "The checkpoint, a signed note", _CHECKPOINT), **unchanged()},
    )
    def checkpoint(request: Request) -> Response:
        return tagged(request, desk.service.checkpoint().encode(), media_type=TEXT)

    @router.get(
        "/v1/log/witnessed/checkpoint",
        operation_id="read_witnessed_checkpoint",
        summary="The newest head with a quorum",
        description="The newest C2SP checkpoint that a quorum of witnesses has cosigned. "
        "`/v1/log/checkpoint` is newer and may lack cosignatures. Whoever copies the log under a "
        "policy with a quorum reads it below `/v1/log/witnessed`.",
        response_class=Response,
        responses={
            **content(TEXT, "The checkpoint, a signed note", _CHECKPOINT),
            **unchanged(),
            **refusals(NotCovered("no head of the log has its quorum of witnesses yet")),
        },
    )
    def witnessed_checkpoint(request: Request) -> Response:
        return tagged(request, desk.service.witnessed_checkpoint(), media_type=TEXT)

    @router.get(
        "/v1/log/tile/{tile:path}",
        operation_id="read_tile",
        summary="A tile or entry bundle",
        description="C2SP tlog-tiles below the prefix `/v1/log`: `tile/<level>/<number>` and "
        "`tile/entries/<number>`, with `.p/<width>` for a partial one. The bytes at a path never "
        "change; 404 until a signed head covers them.",
        response_class=Response,
        responses=_TILE_ANSWERS,
    )
    @router.get(
        "/v1/log/witnessed/tile/{tile:path}",
        operation_id="read_tile_below_witnessed",
        summary="The same tile or entry bundle",
        description="The same bytes below the other checkpoint's prefix, `/v1/log/witnessed`.",
        response_class=Response,
        responses=_TILE_ANSWERS,
    )
    def tile(
        request: Request,
        tile: Annotated[str, Path(max_length=60, examples=["0/x001/x234/067"])],
    ) -> Response:
        data = desk.service.tile(f"tile/{tile}")
        return tagged(request, data, media_type=OCTETS, headers=_IMMUTABLE)

    @router.get(
        "/v1/log/heads/{page}",
        operation_id="read_heads",
        summary="A page of past witnessed heads",
        description="Signed notes in rising size, an empty line between two, "
        f"{HEADS_PER_PAGE} to a page. They bound when the log's entries were made. 404 beyond the "
        "last page, which still grows.",
        response_class=Response,
        responses=_HEADS_ANSWERS,
    )
    @router.get(
        "/v1/log/witnessed/heads/{page}",
        operation_id="read_heads_below_witnessed",
        summary="The same page",
        description="The same bytes below the other checkpoint's prefix, `/v1/log/witnessed`.",
        response_class=Response,
        responses=_HEADS_ANSWERS,
    )
    def heads(request: Request, page: Annotated[int, Path(ge=0, le=2**40)]) -> Response:
        return tagged(request, desk.service.heads(page), media_type=TEXT)

    @router.get(
        "/v1/log/anchors",
        operation_id="list_anchors",
        summary="Heads that were anchored to a chain",
        description="Where to look, not proof: compare with the contract at a node of your own "
        "choice. Ask for older ones with `below`, the smallest size of the last answer.",
        response_model=AnchorsBody,
    )
    def anchors(
        below: Annotated[
            int | None, Query(ge=1, le=2**62, description="Only sizes smaller than this.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
    ) -> Response:
        now = desk.anchoring()
        return printed(
            AnchorsBody(
                anchoring=None
                if now is None
                else AnchoringBody(
                    chain_id=now.place.chain_id, contract=now.place.contract, problem=now.problem
                ),
                anchors=[
                    AnchorBody.of(one) for one in desk.service.anchors(below=below, limit=limit)
                ],
            )
        )

    @router.get(
        "/v1/log/consistency",
        operation_id="prove_consistency",
        summary="Proof that the log only grew",
        response_model=ConsistencyBody,
        responses=refusals(NotCovered("the log has signed size 128, not 130")),
    )
    def consistency(
        old: Annotated[int, Query(ge=0, le=2**62, description="Size of the older tree.")],
        new: Annotated[int, Query(ge=0, le=2**62, description="Size of the newer tree.")],
    ) -> Response:
        return printed(ConsistencyBody(hashes=list(desk.service.consistency(old, new))))

    @router.get(
        "/v1/log/receipts/{digest}",
        operation_id="read_receipt",
        summary="Proof that a statement is in the log",
        description="A C2SP tlog-proof under the best head there is: witnessed, else cosigned, "
        "else signed. Ask again for a better one; 404 while no signed head covers it.",
        response_class=Response,
        responses={
            **content(TEXT, "The proof", _PROOF),
            **unchanged(),
            **refusals(UnknownSubject("a signed head over sha256:…")),
        },
    )
    def receipt(request: Request, digest: DigestText) -> Response:
        proof = desk.service.receipt(Digest.parse(digest))
        if proof is None:
            raise UnknownSubject(f"a signed head over {digest}")
        return tagged(request, proof.encode(), media_type=TEXT)

    return router
