"""What this package needs from outside: keys, nonces and remembered answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from crypto.digest import Digest
from crypto.identifiers import PartyId
from crypto.keys import PublicKey


class KeyResolver(Protocol):
    def __call__(self, party: PartyId, key_id: str) -> PublicKey:
        """The signing key of `party` that has this id. Raises KeyUnknown.

        Must look among that party's own keys only: a resolver that finds any party's key by its
        id lets one party sign as another.
        """
        ...


class NonceStore(Protocol):
    """Signatures seen. Shared by all processes that answer under the same name."""

    def remember(self, keyid: str, nonce: str, expires: datetime) -> bool:
        """True the first time, False when (keyid, nonce) is already remembered.

        Kept at least until `expires`. Durable: an answer of True survives a crash.
        """
        ...


@dataclass(frozen=True)
class RequestKey:
    """Which request an answer belongs to.

    key:     the caller's Idempotency-Key
    request: digest over method, path, query and body, so that a key names one request only
    """

    caller: PartyId
    key: str
    request: Digest


@dataclass(frozen=True)
class Answer:
    """An answer as it is stored and sent again. body: JSON bytes. location: of a new resource."""

    status: int
    body: bytes
    location: str | None = None


class IdempotencyStore(Protocol):
    """Answers given, in the transaction of the act that they answer."""

    def claim(self, key: RequestKey) -> Answer | None:
        """The answer stored under this key; None when the key is now this transaction's.

        Raises IdempotencyKeyReused when the key belongs to a different request, RequestInFlight
        when another transaction holds it.
        """
        ...

    def keep(self, key: RequestKey, answer: Answer, now: datetime) -> None:
        """Store the answer; visible to others when the caller's transaction commits."""
        ...
