"""Signed requests between organisations: RFC 9421 with Ed25519, the body bound by RFC 9530.

A signature covers `@method`, `@authority`, `@path`, `@query`, and, when the request has them,
`content-digest` (SHA-256, required with any body), `content-type`, `idempotency-key`, `if-match`.
Its parameters are `created`, `keyid` = party id, "/", key id, `alg` = ed25519, `nonce` and
`tag` = unseen; all are required, no other is accepted.

Proxies. `@target-uri` is left out because it holds the scheme, which a proxy that ends TLS
changes. `@authority` stays in: without it, whoever receives a request could present it to another
hub where the same party is registered. A proxy may also rewrite Host, so the verifier compares
with the names it is known by (`authorities`) and not with what arrives. A proxy must leave
method, path, query and body alone.

`http-message-signatures` builds and parses; keys, clock and policy are ours.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from http_message_signatures import (
    ContentDigest,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
)
from http_message_signatures.exceptions import HTTPMessageSignaturesException, InvalidSignature

from api.http.errors import (
    DigestMismatch,
    KeyUnknown,
    SignatureInvalid,
    SignatureMissing,
    SignatureReplayed,
    SignatureStale,
)
from api.http.ports import KeyResolver, NonceStore
from crypto.errors import Malformed
from crypto.identifiers import PartyId
from crypto.keys import PublicKey, Signer
from crypto.ports import Clock, Randomness
from crypto.record import encode_base64

TAG: Final = "unseen"
LABEL: Final = "unseen"
WINDOW: Final = timedelta(seconds=60)
ALWAYS_COVERED: Final = ("@method", "@authority", "@path", "@query")
COVERED_WITH_BODY: Final = "content-digest"
# Headers that change what a request does: covered whenever they are there.
COVERED_IF_PRESENT: Final = ("content-type", "idempotency-key", "if-match")
PARAMETERS: Final = frozenset({"created", "keyid", "alg", "nonce", "tag"})
NONCE_BYTES: Final = 16

_KEYID: Final = re.compile(r"(pty_[0-9a-f]{32})/([0-9a-f]{16})")
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")
_SIGNATURE_HEADERS: Final = frozenset({"signature", "signature-input"})


@dataclass(frozen=True)
class HttpRequest:
    """A request as it travels.

    authority: host, and port unless it is the scheme's own: `hub.example`, `127.0.0.1:8400`
    target:    path and query as on the request line, percent-encoded
    headers:   every field line in order
    """

    method: str
    authority: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Caller:
    """Who signed a request."""

    party: PartyId
    key_id: str


def sign(
    request: HttpRequest,
    *,
    party: PartyId,
    signer: Signer,
    now: datetime,
    randomness: Randomness,
) -> dict[str, str]:
    """The headers to add to `request`: Signature-Input, Signature, and Content-Digest with a body.

    Sign each attempt anew: a nonce is accepted once. Raises SignatureInvalid when the request
    cannot be signed, such as one with a path that is not percent-encoded.
    """
    headers = {n.lower(): v for n, v in request.headers if n.lower() not in _SIGNATURE_HEADERS}
    if request.body:
        headers[COVERED_WITH_BODY] = ContentDigest.create(request.body)
    covered = [*ALWAYS_COVERED, *_covered_headers(headers, request.body)]
    message = _Message(request.method, _url(request.authority, request.target), headers)
    writer = HTTPMessageSigner(signature_algorithm=_Ed25519)
    try:
        prepared = writer.prepare(
            message,
            key_id=f"{party}/{signer.public.key_id}",
            created=now,
            nonce=encode_base64(randomness.draw(NONCE_BYTES)),
            label=LABEL,
            tag=TAG,
            covered_component_ids=covered,
            use_existing_digest=COVERED_WITH_BODY in headers,
        )
        writer.apply(message, prepared, signer.sign(prepared.signature_base))
    except HTTPMessageSignaturesException as error:
        raise SignatureInvalid(str(error)) from error
    added = ("Signature-Input", "Signature")
    found = {name: headers[name] for name in added}
    if request.body:
        found["Content-Digest"] = headers[COVERED_WITH_BODY]
    return found


class Verifier:
    """Tells who signed a request.

    authorities: the names this server is known by, as clients write them. Empty accepts the Host
                 header as it came; then a request signed for another server can be presented
                 here within the window, so only tests on loopback leave it empty.
    """

    def __init__(
        self,
        keys: KeyResolver,
        nonces: NonceStore,
        clock: Clock,
        *,
        authorities: Collection[str] = (),
    ) -> None:
        self._keys = keys
        self._nonces = nonces
        self._clock = clock
        self._authorities = tuple(authority.lower() for authority in authorities)

    def knowing(self, keys: KeyResolver) -> Verifier:
        """This verifier with other keys; nonces, clock and names stay."""
        return Verifier(keys, self._nonces, self._clock, authorities=self._authorities)

    @property
    def keys(self) -> KeyResolver:
        return self._keys

    def verify(self, request: HttpRequest) -> Caller:
        """The request's sender.

        Raises SignatureMissing, SignatureStale, KeyUnknown, SignatureInvalid, DigestMismatch or
        SignatureReplayed, checked in this order.
        """
        if not any(name.lower() in _SIGNATURE_HEADERS for name, _ in request.headers):
            raise SignatureMissing
        now = self._clock.now()
        caller, nonce = self._check_signature(request, now)
        if request.body or "content-digest" in _names(request):
            self._check_body(request)
        # Remembered last: only whoever holds a registered key can make this store grow. Twice the
        # window, for other processes may purge by a clock that runs ahead of ours.
        keyid = f"{caller.party}/{caller.key_id}"
        if not self._nonces.remember(keyid, nonce, now + 2 * WINDOW):
            raise SignatureReplayed
        return caller

    def _check_signature(self, request: HttpRequest, now: datetime) -> tuple[Caller, str]:
        names = self._authorities or (request.authority.lower(),)
        required = (
            *ALWAYS_COVERED,
            *_covered_headers(dict.fromkeys(_names(request), ""), request.body),
        )
        refusal: InvalidSignature | None = None
        for authority in names:
            reader = _Reader(self._keys, now)
            message = _Message(
                request.method, _url(authority, request.target), _FieldLines(request.headers)
            )
            try:
                results = reader.verify(
                    message, max_age=None, expect_tag=TAG, require_components=required
                )
            except InvalidSignature as error:
                refusal = error
                continue
            except HTTPMessageSignaturesException as error:
                raise SignatureInvalid(str(error)) from error
            if len(results) != 1 or reader.caller is None:
                raise SignatureInvalid(f"there are {len(results)} signatures with the tag {TAG}")
            return reader.caller, str(results[0].nonce)
        raise SignatureInvalid(str(refusal)) from refusal

    def _check_body(self, request: HttpRequest) -> None:
        lines = [value for name, value in request.headers if name.lower() == "content-digest"]
        try:
            ContentDigest.verify(", ".join(lines), request.body)
        except InvalidSignature as error:
            raise DigestMismatch from error


class MemoryNonces:
    """Nonces of one process: tests, and servers that others cannot restart unseen.

    A restart forgets, so that a request less than a minute old could be presented again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], datetime] = {}
        self._lock = threading.Lock()

    def remember(self, keyid: str, nonce: str, expires: datetime) -> bool:
        now = self._clock.now()
        with self._lock:
            # Insertion order is nearly expiry order: the front holds what can be dropped.
            while self._seen and (oldest := next(iter(self._seen.items())))[1] < now:
                del self._seen[oldest[0]]
            if (keyid, nonce) in self._seen:
                return False
            self._seen[keyid, nonce] = expires
            return True


def _names(request: HttpRequest) -> list[str]:
    return [name.lower() for name, _ in request.headers]


def _covered_headers(headers: Mapping[str, str], body: bytes) -> list[str]:
    found = [name for name in COVERED_IF_PRESENT if name in headers]
    return [*found, COVERED_WITH_BODY] if body or COVERED_WITH_BODY in headers else found


def _url(authority: str, target: str) -> str:
    # The library wants an absolute URL. A scheme without a default port keeps it from dropping
    # one: behind a proxy we do not know which scheme the client used.
    return f"any://{authority}{target}"


@dataclass(frozen=True)
class _Message:
    """The request as the library reads it."""

    method: str
    url: str
    headers: Any


class _FieldLines:
    """Headers with repeated lines kept apart, read only."""

    def __init__(self, lines: tuple[tuple[str, str], ...]) -> None:
        self._lines = lines

    def items(self) -> tuple[tuple[str, str], ...]:
        return self._lines


class _Ed25519(HTTPSignatureAlgorithm):
    """The library's algorithm over our own key type."""

    algorithm_id = "ed25519"

    def __init__(
        self, public_key: PublicKey | None = None, private_key: object | None = None
    ) -> None:
        if public_key is None:
            raise TypeError("signing goes through the Signer port")
        self._key = public_key

    def verify(self, signature: bytes, message: bytes) -> None:
        self._key.verify(signature, message)


class _FoundKey(HTTPSignatureKeyResolver):
    """Hands the library the key that `_Reader` has already looked up."""

    key: PublicKey | None = None

    def resolve_public_key(self, key_id: str) -> PublicKey | None:
        return self.key


class _Reader(HTTPMessageVerifier):
    """The library's verifier with our clock, our parameters and our keys; one per request.

    The library calls `validate_created_and_expires` first and lets its errors through; what its
    key resolver raises it turns into "invalid signature", which would pass a database that is
    away for a forgery. So keys are looked up here.
    """

    def __init__(self, keys: KeyResolver, now: datetime) -> None:
        self._found = _FoundKey()
        super().__init__(signature_algorithm=_Ed25519, key_resolver=self._found)
        self._keys = keys
        self._now = now
        self.caller: Caller | None = None

    def validate_created_and_expires(self, sig_input: Any, max_age: object = None) -> None:
        given = dict(sig_input.params)
        if missing := sorted(PARAMETERS - set(given)):
            raise SignatureInvalid(f"it lacks the parameter {missing[0]}")
        if unknown := sorted(set(given) - PARAMETERS):
            raise SignatureInvalid(f"it has the parameter {unknown[0]}")
        if not _NONCE.fullmatch(str(given["nonce"])):
            raise SignatureInvalid("its nonce is not 16 to 64 characters of base64url")
        if not isinstance(given["created"], int) or not 0 <= given["created"] < 2**33:
            raise SignatureInvalid("its creation time is not a Unix time")
        created = datetime.fromtimestamp(given["created"], tz=UTC)
        if abs(self._now - created) > WINDOW:
            raise SignatureStale(created, self._now)
        match = _KEYID.fullmatch(str(given["keyid"]))
        if match is None:
            raise SignatureInvalid("its keyid is not a party id, a slash and a key id")
        try:
            caller = Caller(PartyId.parse(match[1]), match[2])
        except Malformed as error:
            raise SignatureInvalid(str(error)) from error
        key = self._keys(caller.party, caller.key_id)
        if key.key_id != caller.key_id:
            raise KeyUnknown(match[0])
        self._found.key = key
        self.caller = caller
