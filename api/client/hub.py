"""The hub as a typed client sees it: `exchange.node.ports.Hub`, and everything else it offers.

What the hub refuses comes back as the error that the hub itself raised: ChainBroken, Malformed,
PlanRefused, UnknownSubject and so on. A hub that is away, busy or broken, or does not take this
party's signature or protocol version, is HubUnreachable: nothing was decided, so try later. What
remains is a leaf of ApiError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from api.client.errors import (
    ApiError,
    HubFailed,
    NotFoundError,
    Refused,
    TryLater,
    Unauthorised,
    Unreachable,
    UpgradeNeeded,
)
from api.client.transport import Transport
from api.http.bodies import Body
from api.hub.bodies import (
    AnchorsBody,
    BalanceBody,
    CatalogueBody,
    ChainBody,
    ConsistencyBody,
    DepositBody,
    DepositedBody,
    InboxBody,
    JobBody,
    JobNoteBody,
    JobsBody,
    NegotiationBody,
    NegotiationsBody,
    OutcomeBody,
    ProductBody,
    ProductSummary,
    ProgressBody,
    SubmitBody,
)
from crypto.digest import Digest
from crypto.errors import BadSignature, Malformed, UnknownKey
from crypto.identifiers import DealId, JobId, PartyId, ProductId
from crypto.record import Amount
from crypto.statement import ChainHead
from exchange.errors import (
    ChainBroken,
    HubUnreachable,
    IllegalTransition,
    NotYours,
    PlanRefused,
    QuestionRefused,
    TermsRefused,
    UnknownSubject,
)
from exchange.node.model import Incoming
from pricing.errors import InsufficientFunds, MoneyRefused
from registry.errors import DocumentRefused, NotFound, NotTrusted

LONGEST_WAIT_S: Final = 25.0
PAGE: Final = 100

_B = TypeVar("_B", bound=Body)


@dataclass(frozen=True)
class JobNote:
    """One line of a job's progress. number: what to resume after."""

    number: int
    note: JobNoteBody


class HubClient:
    """transport: made with this party's key; close the client, or the transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    # What a node needs: exchange.node.ports.Hub

    def submit(self, entry: bytes, documents: Sequence[bytes]) -> OutcomeBody:
        """Safe to repeat: a statement's digest names it. Raises Malformed, ChainBroken, or what
        else the hub found wrong with the statement."""
        body = SubmitBody(entry=entry, documents=list(documents))
        with _rebuilt():
            try:
                reply = self._transport.post("/v1/statements", body.model_dump(mode="json"))
            except Refused as error:
                if error.code in _REBUILT:
                    raise
                raise Malformed(_where(error), error.detail) from error
            return _read(OutcomeBody, reply.body)

    def inbox(self, *, after: int, wait_s: float) -> Sequence[Incoming]:
        """Messages after number `after`; waits for the first one up to LONGEST_WAIT_S."""
        wait = f"{max(0.0, min(wait_s, LONGEST_WAIT_S)):.3f}"
        found = self._get(InboxBody, "/v1/inbox", {"after": after, "wait": wait})
        return [Incoming(item.number, item.entry, tuple(item.documents)) for item in found.items]

    def party(self, party: PartyId) -> bytes:
        return self._bytes(f"/v1/parties/{party}")

    def document(self, digest: Digest) -> bytes:
        return self._bytes(f"/v1/documents/{digest}")

    def part(self, job: JobId, digest: Digest) -> bytes:
        return self._bytes(f"/v1/jobs/{job}/parts/{digest}")

    def chain(self) -> ChainHead:
        """The empty chain for a party, or a key, that the hub does not know yet."""
        with _rebuilt():
            try:
                reply = self._transport.get("/v1/chain")
            except Unauthorised as error:
                if error.code == "key_unknown":
                    return ChainHead()
                raise
            found = _read(ChainBody, reply.body)
        return ChainHead(found.next_seq, found.last)

    def checkpoint(self) -> str:
        """The newest signed head; empty before there is one."""
        return self._bytes("/v1/log/checkpoint").decode("utf-8", "surrogateescape")

    def consistency(self, old: int, new: int) -> Sequence[bytes]:
        return self._get(ConsistencyBody, "/v1/log/consistency", {"old": old, "new": new}).hashes

    def anchors(self, *, limit: int = 100) -> AnchorsBody:
        """Where heads were anchored, largest first: where to look, not proof."""
        return self._get(AnchorsBody, "/v1/log/anchors", {"limit": limit})

    def receipt(self, statement: Digest) -> str | None:
        with _rebuilt():
            try:
                reply = self._transport.get(f"/v1/log/receipts/{statement}")
            except NotFoundError:
                return None
            return reply.body.decode("utf-8", "surrogateescape")

    def progress(self, job: JobId, stage: str, detail: str) -> None:
        body = ProgressBody(stage=stage, detail=detail[:200])
        with _rebuilt():
            self._transport.post(f"/v1/jobs/{job}/progress", body.model_dump(mode="json"))

    # The catalogue

    def search(self, text: str = "") -> Iterator[ProductSummary]:
        """All listed products that hold every word of `text`, page by page."""
        query: dict[str, str | int] = {"text": text, "limit": PAGE}
        while True:
            page = self._get(CatalogueBody, "/v1/products", query)
            yield from page.items
            if page.next_cursor is None:
                return
            query["after"] = page.next_cursor

    def product(self, product: ProductId) -> ProductBody:
        """As the hub prints it; `document(body.digest)` is what the holder signed."""
        return self._get(ProductBody, f"/v1/products/{product}")

    # What this party takes part in

    def negotiations(self) -> Sequence[NegotiationBody]:
        return self._get(NegotiationsBody, "/v1/negotiations").items

    def jobs(self) -> Sequence[JobBody]:
        return self._get(JobsBody, "/v1/jobs").items

    def job(self, job: JobId) -> JobBody:
        return self._get(JobBody, f"/v1/jobs/{job}")

    def job_events(self, job: JobId, *, after: int | None = None) -> Iterator[JobNote]:
        """What happens to a job, until it is final and settled; survives lost connections."""
        with _rebuilt():
            for event in self._transport.events(f"/v1/jobs/{job}/events", after=after):
                yield JobNote(event.id, _checked(JobNoteBody, event.data))

    def balance(self, currency: str) -> BalanceBody:
        return self._get(BalanceBody, f"/v1/balances/{currency}")

    def opening(self, statement: Digest) -> bytes:
        """What a statement committed to, sealed to the caller. Raises UnknownSubject."""
        return self._bytes(f"/v1/openings/{statement}")

    def bundle(self, deal: DealId) -> bytes:
        """The deal's evidence, a zip for `exchange audit deal`."""
        return self._bytes(f"/v1/deals/{deal}/bundle")

    # What the operator does

    def deposit(self, party: PartyId, currency: str, amount: Amount, *, key: str) -> Digest | None:
        """Credit a party. key: the same for each retry of one deposit. Returns the statement."""
        body = DepositBody(party=party, currency=currency, amount_minor=amount)
        with _rebuilt():
            reply = self._transport.post(
                "/v1/deposits", body.model_dump(mode="json"), idempotency_key=key
            )
            return _read(DepositedBody, reply.body).statement

    def _get(self, kind: type[_B], path: str, query: Mapping[str, str | int] | None = None) -> _B:
        with _rebuilt():
            return _read(kind, self._transport.get(path, query=query).body)

    def _bytes(self, path: str) -> bytes:
        with _rebuilt():
            return self._transport.get(path).body


def _text(error: ApiError, name: str) -> str:
    return str(error.members.get(name, ""))


def _number(error: ApiError, name: str) -> int:
    value = error.members.get(name)
    try:
        return int(value) if isinstance(value, int | str) else 0
    except ValueError:
        return 0


def _where(error: ApiError) -> str:
    """The field that the first fault points at, as `Malformed` names fields."""
    first = error.errors[0] if error.errors else {}
    path = first.get("pointer") or first.get("parameter") or ""
    return ".".join(step.replace("~1", "/").replace("~0", "~") for step in path.split("/") if step)


def _problem(error: ApiError) -> str:
    return error.errors[0].get("detail", error.detail) if error.errors else error.detail


# By the problem's code. What is not here stays an ApiError: a program cannot act on it.
_REBUILT: Final[Mapping[str, Callable[[ApiError], Exception]]] = {
    "malformed": lambda e: Malformed(_where(e), _problem(e)),
    "invalid_request": lambda e: Malformed(_where(e), _problem(e)),
    "bad_signature": lambda e: BadSignature(e.detail),
    "unknown_key": lambda e: UnknownKey(_text(e, "key_id")),
    "not_trusted": lambda e: NotTrusted(e.detail),
    "document_refused": lambda e: DocumentRefused(_where(e), _problem(e)),
    "not_found": lambda e: NotFound(_text(e, "what")),
    "terms_refused": lambda e: TermsRefused(_where(e), _problem(e)),
    "plan_refused": lambda e: PlanRefused(_where(e), _problem(e)),
    "question_refused": lambda e: QuestionRefused(_where(e), _problem(e)),
    "not_yours": lambda e: NotYours(e.detail),
    "unknown_subject": lambda e: UnknownSubject(_text(e, "what")),
    "illegal_transition": lambda e: IllegalTransition(
        _text(e, "subject"), _text(e, "state"), _text(e, "event")
    ),
    "chain_broken": lambda e: ChainBroken(
        _text(e, "actor"), _number(e, "expected_seq"), _number(e, "found_seq"), _text(e, "problem")
    ),
    "money_refused": lambda e: MoneyRefused(e.detail),
    "insufficient_funds": lambda e: InsufficientFunds(
        _text(e, "account"), asked=_number(e, "asked"), available=_number(e, "available")
    ),
}


@contextmanager
def _rebuilt() -> Iterator[None]:
    """Turns answers that are not successes into the errors of the core."""
    try:
        yield
    except (Unreachable, TryLater, HubFailed) as error:
        raise HubUnreachable(error.detail) from error
    except UpgradeNeeded as error:
        raise HubUnreachable(f"the hub and this program cannot talk: {error.detail}") from error
    except Unauthorised as error:
        raise HubUnreachable(
            f"the hub does not take this party's requests: {error.detail}"
        ) from error
    except ApiError as error:
        rebuild = _REBUILT.get(error.code)
        if rebuild is None:
            raise
        raise rebuild(error) from error


def _read(kind: type[_B], data: bytes) -> _B:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise _not_as_promised(error) from error


def _checked(kind: type[_B], value: object) -> _B:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _not_as_promised(error) from error


def _not_as_promised(error: ValidationError) -> HubFailed:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return HubFailed(f"the hub's answer is not as promised: {where}: {first['msg']}", code="answer")
