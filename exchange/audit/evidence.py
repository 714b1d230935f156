"""What the replays stand on: genuine statements in order, genuine documents by digest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.errors import CryptoError
from crypto.identifiers import DealId, PartyId
from exchange.audit.bundle import Bundle
from exchange.audit.chains import Arrivals
from exchange.audit.log import Head, Said
from exchange.audit.parties import Parties
from exchange.errors import UnknownSubject
from exchange.submission import document_digest
from exchange.terms.agreement import Agreement, read_agreement
from ledger.verify.report import Check, phrase
from registry.product import DataProduct

_KEPT: Final = 64  # documents of a kind that stay parsed


@dataclass(frozen=True)
class Evidence:
    """said: genuine statements in the order of the log. documents: those that are what their name
    says. openings: still sealed. heads: by size. arrivals: which statements came too late."""

    deal: DealId
    said: Sequence[Said]
    parties: Parties
    documents: Mapping[Digest, bytes]
    openings: Mapping[tuple[Digest, PartyId], bytes]
    heads: Sequence[Head]
    arrivals: Arrivals

    @property
    def operator(self) -> PartyId | None:
        """Of the log: whose own document is its first entry. None where that is not here."""
        first = self.said[0] if self.said else None
        return first.statement.actor if first is not None and first.index == 0 else None

    def document(self, name: Digest) -> bytes:
        """Raises UnknownSubject if the bundle does not hold it."""
        try:
            return self.documents[name]
        except KeyError:
            raise UnknownSubject(f"document {name}") from None

    def envelope(self, name: Digest) -> Envelope:
        """Raises UnknownSubject, Malformed."""
        return Envelope.from_bytes(self.document(name))

    def product(self, name: Digest) -> DataProduct:
        """Raises UnknownSubject, Malformed; says nothing of who signed it."""
        return self._products(name)

    def agreement(self, name: Digest) -> Agreement:
        """Raises UnknownSubject, Malformed; says nothing of who signed it."""
        return self._agreements(name)

    def about(self, subject: str) -> Sequence[Said]:
        return self._by_subject.get(subject, ())

    def by(self, actor: PartyId) -> Sequence[Said]:
        return self._by_actor.get(actor, ())

    # Each is looked at for every job that rests on it, and may be large.
    @cached_property
    def _products(self) -> Callable[[Digest], DataProduct]:
        return lru_cache(_KEPT)(
            lambda name: record.from_bytes(DataProduct, self.envelope(name).payload)
        )

    @cached_property
    def _agreements(self) -> Callable[[Digest], Agreement]:
        return lru_cache(_KEPT)(lambda name: read_agreement(self.envelope(name)))

    @cached_property
    def _by_subject(self) -> Mapping[str, Sequence[Said]]:
        return _grouped(self.said, lambda said: said.statement.subject)

    @cached_property
    def _by_actor(self) -> Mapping[str, Sequence[Said]]:
        return _grouped(self.said, lambda said: said.statement.actor)


def check_documents(bundle: Bundle) -> tuple[list[Check], dict[Digest, bytes]]:
    """That a document is the one that statements, agreements and plans name by digest. Signed or
    not, it cannot be another one."""
    checks: list[Check] = []
    genuine: dict[Digest, bytes] = {}
    for name, data in bundle.documents.items():
        try:
            found = document_digest(data)
        except CryptoError as error:
            note = phrase("reason", reason=error)
            checks.append(Check("bundle.documents", False, f"document {name}", note))
            continue
        if found == name:
            genuine[name] = data
            checks.append(Check("bundle.documents", True, f"document {name}"))
        else:
            note = phrase("digest.differs", found=found)
            checks.append(Check("bundle.documents", False, f"document {name}", note))
    return checks, genuine


def _grouped(said: Sequence[Said], key: Callable[[Said], str]) -> Mapping[str, Sequence[Said]]:
    found: dict[str, list[Said]] = {}
    for one in said:
        found.setdefault(key(one), []).append(one)
    return found
