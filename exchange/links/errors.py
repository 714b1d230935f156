"""Every error of the links is a LinkError; each leaf is something a caller does differently.

LinkError
├── StreamRefused    the peer answered a stream with a reason; see `Refusal`
├── DialRefused      the relay answered a dial with a reason; see `DialRefusal`
├── PeerNotPinned    stop: the peer showed another certificate than its party document's
├── Unreachable      try later: the peer, the relay or the engine does not answer
├── ProxyRefused     fix the proxy setting, or have the proxy allow the address
├── SessionRefused   fix what the session was opened with; the message says which part
├── CannotListen     choose another listen address
└── NotRunning       start the link service first, or it was stopped meanwhile
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import ClassVar


class Refusal(IntEnum):
    """Why a stream is refused: the one byte that answers a stream header, 0 being accepted."""

    UNKNOWN_SESSION = 1
    NOT_A_PARTY = 2
    WRONG_CERTIFICATE = 3
    OTHER_PLAN = 4
    WRONG_RECEIVER = 5
    MALFORMED = 6
    NUMBER_USED = 7
    TOO_MANY = 8
    ENGINE_ABSENT = 9
    WRONG_ROLE = 10


class DialRefusal(StrEnum):
    """Why the relay refuses a dial: the word after `refused` in its answer."""

    MALFORMED = "malformed"
    STALE = "stale"
    REPLAYED = "replayed"
    UNKNOWN_PARTY = "unknown-party"
    BAD_SIGNATURE = "bad-signature"
    UNKNOWN_SESSION = "unknown-session"
    TOO_MANY = "too-many"
    ABSENT = "absent"


class LinkError(Exception):
    """Base of all errors raised by the links."""


class StreamRefused(LinkError):
    """A stream that does not belong to an open session, as one side or the other found."""

    _WORDS: ClassVar[Mapping[Refusal, str]] = {
        Refusal.UNKNOWN_SESSION: "no session of this job is open",
        Refusal.NOT_A_PARTY: "the sender is no party of this session",
        Refusal.WRONG_CERTIFICATE: "the certificate is not the one pinned for the sender",
        Refusal.OTHER_PLAN: "the session runs another plan",
        Refusal.WRONG_RECEIVER: "the stream is meant for another party",
        Refusal.MALFORMED: "the header does not follow its format",
        Refusal.NUMBER_USED: "this stream number was used before",
        Refusal.TOO_MANY: "the session holds as many streams as it may",
        Refusal.ENGINE_ABSENT: "the engine did not listen in time",
        Refusal.WRONG_ROLE: "only a listening party takes parked connections, and not for itself",
    }

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"stream refused: {self._WORDS[reason]}")
        self.reason = reason


class DialRefused(LinkError):
    """A dial that the relay does not serve."""

    _WORDS: ClassVar[Mapping[DialRefusal, str]] = {
        DialRefusal.MALFORMED: "the header does not follow its format",
        DialRefusal.STALE: "its time is too far from the relay's; set this machine's clock",
        DialRefusal.REPLAYED: "its nonce was used before",
        DialRefusal.UNKNOWN_PARTY: "the hub does not know the party",
        DialRefusal.BAD_SIGNATURE: "the signature is not by the party's current signing key",
        DialRefusal.UNKNOWN_SESSION: "the hub runs no such session between these parties",
        DialRefusal.TOO_MANY: "the party holds as many connections as it may",
        DialRefusal.ABSENT: "the peer is not waiting at the relay",
    }

    def __init__(self, reason: DialRefusal) -> None:
        super().__init__(f"relay refused: {self._WORDS[reason]}")
        self.reason = reason


class PeerNotPinned(LinkError):
    """The other end holds another certificate than the one pinned for the party it claims to be."""


class Unreachable(LinkError):
    """Nothing answers in time."""


class ProxyRefused(LinkError):
    """The HTTP proxy does not open a way to the address."""


class SessionRefused(LinkError):
    """A session that cannot work as it was described."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class CannotListen(LinkError):
    """The listen address cannot be bound."""


class NotRunning(LinkError):
    """The link service is not running."""
