"""What the routes of the hub work with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from api.http.ports import IdempotencyStore
from api.hub.mailroom import Mailroom
from crypto.ports import Clock
from exchange.hub.ports import HubTransaction
from exchange.hub.service import HubService
from ledger.anchor import Anchoring


@dataclass(frozen=True)
class Booking:
    """One open transaction, for an act and the answer that is stored with it."""

    tx: HubTransaction
    answers: IdempotencyStore


@dataclass(frozen=True)
class Desk:
    """booking: opens a transaction that commits at the end and rolls back on an exception.

    anchoring: what this process anchors to; None if nowhere
    """

    service: HubService
    mail: Mailroom
    booking: Callable[[], AbstractContextManager[Booking]]
    clock: Clock
    anchoring: Callable[[], Anchoring | None]
