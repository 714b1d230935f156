"""Signed, retried, typed requests to a hub, on httpx2.

Each attempt is signed anew. What may be sent twice is sent again after a pause: reads, PUT and
DELETE, and a POST that carries an Idempotency-Key; any request is, if no connection came about.
Settings come from the caller alone: proxy and authority variables of the environment are ignored.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx2

from api.client.errors import (
    ApiError,
    Conflict,
    HubFailed,
    NotFoundError,
    Refused,
    TryLater,
    Unauthorised,
    Unreachable,
    UpgradeNeeded,
)
from api.http import protocol
from api.http.errors import MalformedHeader
from api.http.signing import HttpRequest, sign
from crypto.identifiers import PartyId
from crypto.keys import Signer
from crypto.ports import Clock, Randomness

ATTEMPTS: Final = 5
FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 5.0
LONGEST_RETRY_AFTER_S: Final = 30.0  # a hub that asks for more is reported to the caller
SILENCE_S: Final = 45.0  # a hub writes into an event stream every 15 s
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE"})
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
END: Final = "end"

_PROBLEM: Final = "application/problem+json"
_STANDARD: Final = frozenset(
    {"type", "title", "status", "detail", "instance", "code", "trace_id", "errors"}
)
_BUSY: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Reply:
    """A success. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body's JSON. Raises HubFailed when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise HubFailed(
                "the hub's answer is not JSON", code="not_json", status=self.status
            ) from None


@dataclass(frozen=True)
class Event:
    """One server-sent event. data: decoded JSON."""

    id: int
    kind: str
    data: Any


class Transport:
    """A connection pool to one hub, for one party. Close it, or use it in a `with`.

    base_url: `https://hub.example`, without a path
    party, signer: who signs; None for both reads public things only
    ca_file:  PEM authorities to trust instead of the system's: a corporate authority, or a demo's
    pause:    sleeps for so many seconds
    """

    def __init__(
        self,
        base_url: str,
        party: PartyId | None,
        signer: Signer | None,
        *,
        clock: Clock,
        randomness: Randomness,
        ca_file: Path | None = None,
        proxy_url: str | None = None,
        timeout_s: float = 30.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if (party is None) != (signer is None):
            raise TypeError("party and signer go together")
        self._clock = clock
        self._randomness = randomness
        self._pause = pause
        auth = (
            MessageSignature(party, signer, clock, randomness)
            if party is not None and signer is not None
            else None
        )
        secure = base_url.startswith("https:")
        self._client = httpx2.Client(
            base_url=base_url,
            auth=auth,
            verify=ssl.create_default_context(cafile=ca_file) if secure else True,
            proxy=proxy_url,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            headers={protocol.HEADER: str(protocol.VERSION), "User-Agent": "unseen"},
            trust_env=False,
            follow_redirects=False,  # a redirect is to an address that was not signed
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, *, query: Mapping[str, str | int] | None = None) -> Reply:
        return self.request("GET", path, query=query)

    def post(self, path: str, document: object, *, idempotency_key: str | None = None) -> Reply:
        """Send `document` as JSON. With a key, safe to repeat: retries act once."""
        body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        return self.request("POST", path, body=body, idempotency_key=idempotency_key)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: bytes = b"",
        content_type: str = "application/json",
        idempotency_key: str | None = None,
    ) -> Reply:
        """One request and its successful answer. Raises a leaf of ApiError.

        Raises TryLater or Unreachable only after the last attempt; after Unreachable, a request
        with an Idempotency-Key can be repeated with the same key.
        """
        headers = {"Content-Type": content_type} if body else {}
        if idempotency_key is not None:
            headers[IDEMPOTENCY_HEADER] = idempotency_key
        repeatable = method in IDEMPOTENT or idempotency_key is not None
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._attempt(method, path, query, body, headers)
            except TryLater as error:
                asked = error.retry_after_s or 0.0
                if not repeatable or attempt == ATTEMPTS or asked > LONGEST_RETRY_AFTER_S:
                    raise
                self._wait(attempt, at_least_s=asked)
            except Unreachable as error:
                never_sent = isinstance(
                    error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout
                )
                # A certificate that does not verify will not verify the next time either.
                if not (repeatable or never_sent) or attempt == ATTEMPTS or _hopeless(error):
                    raise
                self._wait(attempt)

    def events(self, path: str, *, after: int | None = None) -> Iterator[Event]:
        """Events of a stream, each once and in order, across lost connections, until its end.

        after: the last id seen before; None starts at the beginning. Raises a leaf of ApiError
        when the hub refuses, or cannot be reached so many times in a row.
        """
        last = after
        failures = 0
        while True:
            try:
                for event in self._stream(path, last):
                    if event is None:
                        return
                    if last is None or event.id > last:
                        failures = 0
                        last = event.id
                        yield event
                failures += 1  # closed in good order, before its end: the hub is stopping
                if failures == ATTEMPTS:
                    raise Unreachable("the hub keeps closing the stream", code="stream_closed")
                self._wait(failures)
            except (TryLater, Unreachable) as error:
                failures += 1
                if failures >= ATTEMPTS or _hopeless(error):
                    raise
                asked = error.retry_after_s if isinstance(error, TryLater) else None
                self._wait(failures, at_least_s=min(asked or 0.0, LONGEST_RETRY_AFTER_S))

    def _attempt(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: bytes,
        headers: Mapping[str, str],
    ) -> Reply:
        try:
            response = self._client.request(
                method, path, params=dict(query) if query else None, content=body, headers=headers
            )
        except httpx2.RequestError as error:
            raise _unreachable(error) from error
        self._check(response)
        return Reply(response.status_code, dict(response.headers), response.content)

    def _stream(self, path: str, after: int | None) -> Iterator[Event | None]:
        headers = {"Accept": "text/event-stream"}
        if after is not None:  # 0 is an id
            headers["Last-Event-ID"] = str(after)
        timeout = httpx2.Timeout(SILENCE_S, connect=10.0)
        try:
            with self._client.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                self._check(response)
                for found in httpx2.EventSource(response):
                    if found.event == END:
                        yield None
                        return
                    yield _event(found)
        except httpx2.RequestError as error:
            raise _unreachable(error) from error

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        spoken = _version(response)
        if spoken is None and status not in _BUSY:
            raise Unreachable(
                f"{response.request.url.host} answered {status}, but it is not an exchange hub; "
                "check the address and the proxy",
                code="not_a_hub",
                status=status,
            )
        if spoken is not None and spoken < protocol.OLDEST_SERVER:
            raise UpgradeNeeded(
                f"the hub speaks protocol version {spoken}; this program needs "
                f"{protocol.OLDEST_SERVER} or later: ask the operator to upgrade the hub",
                code="hub_too_old",
                status=status,
            )
        if not 200 <= status < 300:
            raise error_from(response, now=self._clock.now())

    def _wait(self, attempt: int, *, at_least_s: float = 0.0) -> None:
        # Jittered, so that nodes that lost the hub together do not all come back together.
        longest = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S)
        share = int.from_bytes(self._randomness.draw(4), "big") / 2**32
        self._pause(max(at_least_s, longest * (0.5 + share / 2)))


class MessageSignature(httpx2.Auth):
    """Signs each request that httpx2 sends (see api.http.signing)."""

    requires_request_body = True

    def __init__(
        self, party: PartyId, signer: Signer, clock: Clock, randomness: Randomness
    ) -> None:
        self._party = party
        self._signer = signer
        self._clock = clock
        self._randomness = randomness

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        message = HttpRequest(
            method=request.method,
            authority=request.headers["host"],
            target=request.url.raw_path.decode("ascii"),
            headers=tuple(request.headers.multi_items()),
            body=request.content,
        )
        added = sign(
            message,
            party=self._party,
            signer=self._signer,
            now=self._clock.now(),
            randomness=self._randomness,
        )
        request.headers.update(added)
        yield request


def error_from(response: httpx2.Response, *, now: datetime) -> ApiError:
    """The typed error of an answer that is not a success. response: read."""
    status = response.status_code
    problem = _problem(response)
    facts: dict[str, Any] = {
        "code": _text(problem, "code") or f"http_{status}",
        "status": status,
        "trace_id": _text(problem, "trace_id"),
        "errors": _faults(problem),
        "members": {name: v for name, v in problem.items() if name not in _STANDARD},
    }
    detail = _text(problem, "detail") or _text(problem, "title")
    words = detail or f"the hub answered {status} without saying why"
    if status in _BUSY or facts["code"] == "request_in_flight":
        return TryLater(words, **facts, retry_after_s=_retry_after(response, now))
    if status >= 500:
        trace = f" (trace id {facts['trace_id']})" if facts["trace_id"] else ""
        return HubFailed(words + trace, **facts)
    leaf = {
        401: Unauthorised,
        404: NotFoundError,
        409: Conflict,
        412: Conflict,
        426: UpgradeNeeded,
    }.get(status, Refused)
    return leaf(words, **facts)


def _version(response: httpx2.Response) -> int | None:
    """The protocol version that the answer names; None when it names none."""
    try:
        return protocol.parse_version(response.headers.get(protocol.HEADER, ""))
    except MalformedHeader:
        return None


def _problem(response: httpx2.Response) -> Mapping[str, Any]:
    if response.headers.get("content-type", "").partition(";")[0].strip() != _PROBLEM:
        return {}
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None


def _faults(document: Mapping[str, Any]) -> list[dict[str, str]]:
    listed = document.get("errors")
    if not isinstance(listed, list):
        return []
    return [
        {str(name): value for name, value in fault.items() if isinstance(value, str)}
        for fault in listed
        if isinstance(fault, dict)
    ]


def _retry_after(response: httpx2.Response, now: datetime) -> float | None:
    """Seconds to wait: the header holds a number of them, or a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("retry-after", "")
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _unreachable(error: httpx2.RequestError) -> Unreachable:
    where = error.request.url.copy_with(query=None)
    reason = str(error) or type(error).__name__
    return Unreachable(f"{where} cannot be reached: {reason}", code="unreachable")


def _hopeless(error: ApiError) -> bool:
    """Whether waiting cannot help: not a hub, or a certificate that nobody we trust vouches for."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return error.code == "not_a_hub"


def _event(found: httpx2.ServerSentEvent) -> Event:
    try:
        return Event(int(found.id), found.event, json.loads(found.data))
    except ValueError:
        raise HubFailed("the hub's event has no id or no JSON", code="not_an_event") from None
