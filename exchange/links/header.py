"""What the two nodes say to each other inside TLS, before and between the engines' bytes.

    header   uint16 length, canonical JSON of a StreamHeader
    answer   one byte: 0 accepted, else a Refusal; the connection then ends
    frame    uint32 length, that many bytes; length 0 says that this direction has ended

Integers are big-endian. The end of a direction is said inside TLS, so a connection that is cut
on the way never looks like a stream that ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crypto import record
from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId
from exchange.links.errors import Refusal, StreamRefused

VERSION: Final = 1
MAX_HEADER_BYTES: Final = 1024
MAX_FRAME_BYTES: Final = 65_532  # with its length, four full TLS records
ACCEPTED: Final = b"\x00"


class StreamRole(StrEnum):
    OPEN = "open"  # carry an engine's stream now
    PARK = "park"  # keep this connection until the receiver's engine opens a stream


@dataclass(frozen=True)
class StreamHeader:
    """number: counted by the sender within the session, each used once."""

    v: int
    role: StreamRole
    plan: Digest
    job: JobId
    sender: PartyId
    receiver: PartyId
    number: int

    def __post_init__(self) -> None:
        if self.v != VERSION:
            raise Malformed("v", f"is {self.v}; this version reads {VERSION}")
        if self.number < 0:
            raise Malformed("number", "is negative")


def encode_header(header: StreamHeader) -> bytes:
    body = record.to_bytes(header)
    return len(body).to_bytes(2, "big") + body


def header_size(prefix: bytes) -> int:
    """Bytes that follow the two bytes of length. Raises StreamRefused if they are too many."""
    size = int.from_bytes(prefix, "big")
    if not 0 < size <= MAX_HEADER_BYTES:
        raise StreamRefused(Refusal.MALFORMED)
    return size


def decode_header(body: bytes) -> StreamHeader:
    """Raises StreamRefused unless `body` is one header in its one encoding."""
    try:
        return record.from_bytes(StreamHeader, body)
    except Malformed:
        raise StreamRefused(Refusal.MALFORMED) from None


def answer_of(refusal: Refusal) -> bytes:
    return bytes([refusal])


def require_accepted(answer: bytes) -> None:
    """Raises StreamRefused with the peer's reason."""
    if answer == ACCEPTED:
        return
    try:
        reason = Refusal(answer[0])
    except (IndexError, ValueError):
        reason = Refusal.MALFORMED
    raise StreamRefused(reason)


def encode_frame(data: bytes) -> bytes:
    """data: at most MAX_FRAME_BYTES; empty for the end of the direction."""
    return len(data).to_bytes(4, "big") + data


def frame_size(prefix: bytes) -> int:
    """Bytes that follow the four bytes of length. Raises StreamRefused if they are too many."""
    size = int.from_bytes(prefix, "big")
    if size > MAX_FRAME_BYTES:
        raise StreamRefused(Refusal.MALFORMED)
    return size
