"""What the hub needs from outside: one store whose transactions cover every package's rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from crypto.digest import Digest
from crypto.identifiers import DealId, JobId, NegotiationId, PartyId, ProductId
from crypto.statement import ChainHead, Statement
from exchange.hub.model import Delivery, Filed, HubAgreement, HubJob, JobEventNote, Outcome
from exchange.jobs import JobState
from exchange.privacy import PrivacyCost
from exchange.terms.negotiation import Negotiation
from ledger.ports import AnchorStore, LogStore, Sm3Store
from pricing.ports import BookStore
from registry.ports import PartyStore, ProductStore


class HubTransaction(Protocol):
    """Everything inside commits together or not at all. Loads for change lock the row, those of
    jobs and negotiations also where there is none yet: whoever makes it waits, or is waited for."""

    @property
    def parties(self) -> PartyStore: ...
    @property
    def products(self) -> ProductStore: ...
    @property
    def book(self) -> BookStore: ...
    @property
    def log(self) -> LogStore: ...
    @property
    def sm3(self) -> Sm3Store: ...
    @property
    def anchors(self) -> AnchorStore: ...

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo what is inside if it raises, and let the rest of the transaction go on."""
        ...

    def chain(self, actor: PartyId) -> ChainHead: ...
    def lock_chain(self, actor: PartyId) -> ChainHead: ...
    def save_chain(self, actor: PartyId, head: ChainHead) -> None: ...

    def unchained(self) -> int:
        """How many ledger entries are on nobody's chain: more than were ever taken in here."""
        ...

    def outcome(self, statement: Digest) -> Outcome | None: ...
    def save_outcome(self, outcome: Outcome, *, of: Statement) -> None: ...
    def was_taken_in(self, statement: Digest, *, kind: str, subject: str) -> bool:
        """Whether it is one of this type about this subject that was applied. However many of them
        there are, one is looked at."""
        ...

    def first_said(self, subject: str, *, by: PartyId, kind: str) -> Digest | None:
        """The first statement of this type by one actor about one subject, applied or not."""
        ...

    def taken_in(self, subjects: Sequence[str], *, kinds: Collection[str]) -> Sequence[Digest]:
        """The statements of these types about these that were applied, in order of arrival. Of a
        type that only one party may say of something they are that party's."""
        ...

    def effective(
        self, subjects: Sequence[str], *, never: Collection[str], once: Collection[str]
    ) -> Sequence[Digest]:
        """The statements about these that were applied, in order of arrival: without the types that
        `never` change anything, and of those that do so `once` the first about each subject."""
        ...

    def idle(
        self, subjects: Sequence[str], *, never: Collection[str], once: Collection[str]
    ) -> Mapping[tuple[PartyId, str], int]:
        """How many other statements there are about these, by who said them and about which."""
        ...

    def first_idle(
        self,
        actor: PartyId,
        subject: str,
        *,
        never: Collection[str],
        once: Collection[str],
        since: Digest | None,
        limit: int,
    ) -> Sequence[Filed]:
        """The first of these by one actor about one subject, in order of arrival; where a statement
        is given, the first after it."""
        ...

    def add_document(self, digest: Digest, data: bytes) -> None:
        """Keep what a statement brought; what is there already stays, for anybody can put more
        signatures, or other ones, around a payload."""
        ...

    def confirm_document(self, digest: Digest, data: bytes) -> None:
        """Keep what a handler has verified, instead of whatever came under this name before."""
        ...

    def document(self, digest: Digest) -> bytes:
        """Raises UnknownSubject."""
        ...

    def add_opening(self, statement: Digest, reader: PartyId, sealed: bytes) -> None: ...
    def openings(self, statement: Digest) -> Sequence[tuple[PartyId, bytes]]: ...

    def lock_negotiation(self, negotiation: NegotiationId) -> Negotiation | None: ...
    def save_negotiation(self, negotiation: Negotiation) -> None: ...
    def negotiations_of(self, party: PartyId) -> Sequence[Negotiation]: ...
    def consumer_of(self, deal: DealId) -> PartyId | None:
        """Whose folder it is; nobody's before the first negotiation in it."""
        ...

    def negotiations_of_deal(self, deal: DealId) -> Sequence[Negotiation]: ...

    def add_agreement(self, agreement: HubAgreement) -> None: ...
    def lock_agreement(self, digest: Digest) -> HubAgreement:
        """Raises UnknownSubject."""
        ...

    def save_agreement(self, agreement: HubAgreement) -> None: ...

    def lock_privacy(self, product: ProductId) -> PrivacyCost:
        """What is reserved and spent of a product's privacy account; nothing at first."""
        ...

    def save_privacy(self, product: ProductId, spent: PrivacyCost) -> None: ...

    def agreements_of(self, deal: str) -> Sequence[HubAgreement]: ...

    def job(self, job: JobId) -> HubJob:
        """Without a lock. Raises UnknownSubject."""
        ...

    def lock_job(self, job: JobId) -> HubJob:
        """Raises UnknownSubject."""
        ...

    def add_job(self, job: HubJob) -> None:
        """Raises IllegalTransition if the id is taken: a plan is submitted once."""
        ...

    def save_job(self, job: HubJob, *, was: JobState) -> None:
        """Compare-and-set on the state. Raises IllegalTransition if another was faster."""
        ...

    def jobs_of(self, party: PartyId) -> Sequence[HubJob]: ...
    def jobs_of_deal(self, deal: str) -> Sequence[HubJob]: ...
    def unsettled_jobs(self) -> Sequence[HubJob]:
        """Jobs that the background step may have something to do for; without locks."""
        ...

    def lock_inboxes(self, parties: Collection[PartyId]) -> None:
        """In order of party: before the first of several deliveries of one transaction."""
        ...

    def deliver(self, to: PartyId, entry: bytes, documents: Sequence[bytes]) -> None: ...
    def deliveries(self, to: PartyId, *, after: int, limit: int) -> Sequence[Delivery]: ...
    def newest_deliveries(self, parties: Collection[PartyId]) -> Mapping[PartyId, int]:
        """The number of each party's last delivery; a party without any is left out."""
        ...

    def note(self, job: JobId, stage: str, party: PartyId, detail: str, at: datetime) -> None: ...
    def notes(self, job: JobId, *, after: int) -> Sequence[JobEventNote]: ...
    def last_note(self, job: JobId) -> JobEventNote | None: ...


class HubStore(Protocol):
    def transaction(self) -> AbstractContextManager[HubTransaction]: ...
    def reading(self) -> AbstractContextManager[HubTransaction]:
        """A transaction that changes nothing."""
        ...
