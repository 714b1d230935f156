"""The hub's web application: every route over one HubService."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Final

from fastapi import FastAPI

from api.http.app import Check, new_app
from api.http.errors import KeyUnknown
from api.http.limits import MAX_BODY_BYTES
from api.http.ports import NonceStore
from api.http.signing import Verifier
from api.hub.catalogue import catalogue
from api.hub.desk import Booking, Desk
from api.hub.jobs import jobs
from api.hub.ledger import ledger
from api.hub.mailroom import Mailroom
from api.hub.money import money
from api.hub.statements import statements
from crypto.identifiers import PartyId
from crypto.keys import PublicKey
from exchange.hub.service import HubService
from ledger.anchor import Anchoring
from registry.errors import NotFound

VERSION: Final = "1"
# A submission's documents may have 4 MiB; base64 and the entry come on top.
MAX_HUB_BODY_BYTES: Final = 2 * MAX_BODY_BYTES

_DESCRIPTION: Final = """\
Data is used here and never seen (可用不可见): the hub handles metadata, money and evidence, never
rows and never results.

A party acts by *statements*: it signs what it does, numbers its statements, and sends them to
`/v1/statements`; the hub applies each, puts it into the ledger, and delivers it to those it
concerns, who read it from `/v1/inbox`. Everything else here is reading.

Requests are signed (RFC 9421) unless the operation says otherwise. Refusals are problem documents
(RFC 9457) with a stable `code`. Amounts are strings of integer minor units, epsilon is an exact
fraction such as `"1/4"`, times are RFC 3339 in UTC. Send `Unseen-Protocol` with the protocol
version you speak; the hub answers with its own, and refuses one that is too old with 426.
"""


def new_hub_app(
    service: HubService,
    *,
    nonces: NonceStore,
    booking: Callable[[], AbstractContextManager[Booking]],
    authorities: Collection[str],
    checks: Mapping[str, Check],
    anchoring: Callable[[], Anchoring | None] = lambda: None,
    max_body_bytes: int = MAX_HUB_BODY_BYTES,
) -> FastAPI:
    """booking, anchoring: see Desk. authorities: the names this hub goes by, see api.http.signing.

    `app.state.mail` is the Mailroom: ring it when something was delivered outside a request.
    """

    def registered(party: PartyId, key_id: str) -> PublicKey:
        try:
            key = service.signing_key(party)
        except NotFound:
            raise KeyUnknown(f"{party}/{key_id}") from None
        if key.key_id != key_id:
            raise KeyUnknown(f"{party}/{key_id}")
        return key

    clock = service.operator.clock
    app = new_app(
        title="Unseen hub",
        version=VERSION,
        description=_DESCRIPTION,
        verifier=Verifier(registered, nonces, clock, authorities=authorities),
        randomness=service.operator.randomness,
        checks=checks,
        max_body_bytes=max_body_bytes,
    )
    mail = Mailroom(service.newest_deliveries, stopping=app.state.stopping)
    app.state.mail = mail
    desk = Desk(service, mail, booking, clock, anchoring)
    for part in (statements, catalogue, jobs, money, ledger):
        app.include_router(part(desk))
    return app
