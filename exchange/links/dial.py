"""What a node says to the relay: one signed line, answered by one line.

    dial     DSSE envelope over a RelayDial, in canonical JSON, and a line feed
    answer   `ok` or `refused <reason>`, and a line feed

From `ok` on, the relay passes bytes it cannot read. A parked connection says nothing until its
peer does. Someone who watches the line and replays it is refused for the nonce; someone who takes
the connection over still lacks the certificate's key, and the nodes' TLS ends there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.errors import CryptoError, Malformed
from crypto.identifiers import PartyId
from crypto.keys import PublicKey, Signer
from exchange.links.errors import DialRefusal, DialRefused

PAYLOAD_TYPE: Final = "application/vnd.unseen.relay-dial.v1+json"
VERSION: Final = 1
NONCE_BYTES: Final = 16
MAX_LINE_BYTES: Final = 2048
MAX_ANSWER_BYTES: Final = 64
TOLERANCE: Final = timedelta(seconds=60)  # between the dialler's clock and the relay's
_OK: Final = b"ok\n"


class DialRole(StrEnum):
    PARK = "park"  # wait here for the peer
    DIAL = "dial"  # be connected to the peer's waiting connection


@dataclass(frozen=True)
class RelayDial:
    """session: see `session_name`. nonce: 16 random bytes, never used twice."""

    v: int
    session: Digest
    party: PartyId
    peer: PartyId
    role: DialRole
    time: datetime
    nonce: bytes

    def __post_init__(self) -> None:
        if self.v != VERSION:
            raise Malformed("v", f"is {self.v}; this version reads {VERSION}")
        if len(self.nonce) != NONCE_BYTES:
            raise Malformed("nonce", f"has {len(self.nonce)} bytes, not {NONCE_BYTES}")
        if self.party == self.peer:
            raise Malformed("peer", "is the party itself")


@dataclass(frozen=True)
class SignedDial:
    """A dial as it arrived: `dial` may be believed only after `require_signature`."""

    dial: RelayDial
    envelope: Envelope

    def require_signature(self, key: PublicKey) -> None:
        try:
            dsse.verify(self.envelope, PAYLOAD_TYPE, key)
        except CryptoError:
            raise DialRefused(DialRefusal.BAD_SIGNATURE) from None

    def require_fresh(self, now: datetime) -> None:
        if abs(now - self.dial.time) > TOLERANCE:
            raise DialRefused(DialRefusal.STALE)


def sign_dial(dial: RelayDial, signer: Signer) -> bytes:
    return dsse.sign(PAYLOAD_TYPE, record.to_bytes(dial), signer).to_bytes() + b"\n"


def read_dial(line: bytes) -> SignedDial:
    """Raises DialRefused unless `line` is one dial in its one encoding; says nothing of trust."""
    if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
        raise DialRefused(DialRefusal.MALFORMED)
    try:
        envelope = Envelope.from_bytes(line[:-1])
        return SignedDial(record.from_bytes(RelayDial, envelope.payload), envelope)
    except Malformed:
        raise DialRefused(DialRefusal.MALFORMED) from None


def dial_answer(refusal: DialRefusal | None) -> bytes:
    return _OK if refusal is None else f"refused {refusal}\n".encode("ascii")


def require_dialled(answer: bytes) -> None:
    """Raises DialRefused with the relay's reason."""
    if answer == _OK:
        return
    try:
        word, _, reason = answer.decode("ascii").removesuffix("\n").partition(" ")
        refusal = DialRefusal(reason) if word == "refused" else DialRefusal.MALFORMED
    except ValueError:
        refusal = DialRefusal.MALFORMED
    raise DialRefused(refusal)
