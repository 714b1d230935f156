"""Every error of this package is an HttpError.

HttpError
├── SigningError             who sent this request is not established
│   ├── SignatureMissing     sign the request
│   ├── SignatureInvalid     stop: altered on the way, or signed with another key
│   ├── SignatureStale       set the clock, sign again
│   ├── SignatureReplayed    sign again, with a fresh nonce
│   ├── KeyUnknown           register the party document that carries this key
│   └── DigestMismatch       the body is not the body that was signed
├── IdempotencyKeyMissing    add an Idempotency-Key
├── IdempotencyKeyReused     take a fresh Idempotency-Key for a different request
├── RequestInFlight          try later: the same request is being answered
├── ProtocolTooOld           upgrade the client
├── MalformedHeader          fix the header it names
├── MalformedParameter       fix the query parameter it names
├── NotReady                 try later
├── AnswerCutShort           an answer broke off after its first byte
└── ServerNotStarted         read the cause; nothing was served
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime


class HttpError(Exception):
    """Base of all errors raised by `api.http`."""


class SigningError(HttpError):
    """Base of the reasons for which a request is not taken as its sender's."""


class SignatureMissing(SigningError):
    def __init__(self) -> None:
        super().__init__("this request must be signed; see the security scheme in /openapi.json")


class SignatureInvalid(SigningError):
    def __init__(self, problem: str) -> None:
        super().__init__(f"the request's signature was refused: {problem}")
        self.problem = problem


class SignatureStale(SigningError):
    def __init__(self, created: datetime, now: datetime) -> None:
        super().__init__(
            f"the request was signed at {created:%Y-%m-%dT%H:%M:%SZ} and it is "
            f"{now:%Y-%m-%dT%H:%M:%SZ} here; set the clock and sign again"
        )
        self.created = created
        self.now = now


class SignatureReplayed(SigningError):
    def __init__(self) -> None:
        super().__init__("this signature was presented before; sign again with a fresh nonce")


class KeyUnknown(SigningError):
    def __init__(self, keyid: str) -> None:
        super().__init__(f"{keyid} is not the current signing key of a registered party")
        self.keyid = keyid


class DigestMismatch(SigningError):
    def __init__(self) -> None:
        super().__init__("the body is not the one that Content-Digest names")


class IdempotencyKeyMissing(HttpError):
    def __init__(self) -> None:
        super().__init__("this request moves money or epsilon: it needs an Idempotency-Key header")


class IdempotencyKeyReused(HttpError):
    def __init__(self, key: str) -> None:
        super().__init__(
            f"the Idempotency-Key {key} was used for a different request; take a fresh one"
        )
        self.key = key


class RequestInFlight(HttpError):
    def __init__(self, key: str) -> None:
        super().__init__(f"the request with the Idempotency-Key {key} is being answered; try later")
        self.key = key


class ProtocolTooOld(HttpError):
    """needed: the oldest protocol version this server still speaks."""

    def __init__(self, offered: int, needed: int) -> None:
        super().__init__(
            f"the client speaks protocol version {offered}; this server needs {needed} or later: "
            "upgrade the client"
        )
        self.offered = offered
        self.needed = needed


class MalformedHeader(HttpError):
    def __init__(self, header: str, problem: str) -> None:
        super().__init__(f"the header {header} {problem}")
        self.header = header
        self.problem = problem


class MalformedParameter(HttpError):
    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"the parameter {parameter} {problem}")
        self.parameter = parameter
        self.problem = problem


class NotReady(HttpError):
    """failing: per check, what is missing, in words that anybody may read."""

    def __init__(self, failing: Mapping[str, str]) -> None:
        super().__init__("not ready: " + "; ".join(f"{k}: {v}" for k, v in failing.items()))
        self.failing = failing


class AnswerCutShort(HttpError):
    def __init__(self, trace_id: str) -> None:
        super().__init__(f"the answer broke off; its trace id is {trace_id}")


class ServerNotStarted(HttpError):
    """The start-up code of the application failed; the cause is chained."""
