"""What the hub offers, one method per thing a caller can ask. Routes parse, call this and print.

Whoever calls has been authenticated before: `caller` is the party whose key signed the request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from crypto.digest import Digest
from crypto.identifiers import DealId, JobId, PartyId, ProductId
from crypto.keys import PublicKey
from crypto.statement import ChainHead
from exchange import evidence
from exchange.errors import NotYours, UnknownSubject
from exchange.hub import chains, intake, log_history, registration, settlement
from exchange.hub.model import Delivery, HubJob, JobEventNote, Operator, Outcome
from exchange.hub.ports import HubStore, HubTransaction
from exchange.jobs import FINAL, JobState
from exchange.submission import Submission
from exchange.terms.negotiation import Negotiation
from ledger import log
from ledger.errors import NotCovered, NotLogged
from ledger.ports import Anchor
from ledger.tiles import heads_bytes, tile_bytes
from ledger.verify.tile_names import Tile, heads_path
from pricing import book
from pricing.account import party_account
from pricing.book import Balance
from pricing.money import Money
from registry.errors import NotFound
from registry.ports import CataloguePage
from registry.product import DataProduct

INBOX_LIMIT = 32
MAX_PAGE = 100
MAX_DETAIL = 200


@dataclass(frozen=True)
class JobView:
    """A job and the stage that was noted last, such as `admitted` or a run's own."""

    job: HubJob
    stage: str


@dataclass(frozen=True)
class JobNotes:
    """over: the job is final and settled, and no note will follow these."""

    notes: Sequence[JobEventNote]
    over: bool


@dataclass(frozen=True)
class HubService:
    """regulators: parties that may read every job and deal, as the operator's settings say."""

    store: HubStore
    operator: Operator
    regulators: frozenset[PartyId] = frozenset()

    # Acts

    def submit(self, caller: PartyId, submission: Submission) -> Outcome:
        """See intake.receive."""
        return intake.receive(submission, caller=caller, store=self.store, operator=self.operator)

    def fund(self, caller: PartyId, party: PartyId, money: Money, *, key: str) -> Digest | None:
        """The operator credits a party. Raises NotYours for anybody else."""
        with self.store.transaction() as tx:
            return self.fund_in(tx, caller, party, money, key=key)

    def fund_in(
        self, tx: HubTransaction, caller: PartyId, party: PartyId, money: Money, *, key: str
    ) -> Digest | None:
        """`fund` in the transaction of a caller that stores its answer with the deposit."""
        if caller != self.operator.party:
            raise NotYours("only the operator books deposits")
        tx.parties.current(party)
        return settlement.fund(party, money, key=key, tx=tx, operator=self.operator)

    def progress(self, caller: PartyId, job: JobId, stage: str, detail: str) -> None:
        """A party tells those who watch how far its run is. Evidence of nothing."""
        with self.store.transaction() as tx:
            found = tx.lock_job(job)  # the numbers of a job's notes must rise as they are committed
            if caller not in found.computing:
                raise NotYours(f"{caller} has no part in {job}")
            now = self.operator.clock.now()
            tx.note(job, stage[:40], caller, detail[:MAX_DETAIL], now)

    # What a party is told

    def inbox(self, caller: PartyId, *, after: int) -> Sequence[Delivery]:
        with self.store.reading() as tx:
            return tx.deliveries(caller, after=after, limit=INBOX_LIMIT)

    def newest_deliveries(self, parties: Collection[PartyId]) -> Mapping[PartyId, int]:
        """Which of those who wait have mail: the number of each one's last delivery."""
        with self.store.reading() as tx:
            return tx.newest_deliveries(parties)

    def chain(self, caller: PartyId) -> ChainHead:
        with self.store.reading() as tx:
            return tx.chain(caller)

    def part(self, caller: PartyId, job: JobId, digest: Digest) -> bytes:
        """A sealed part, once the job is released, for the consumer alone."""
        with self.store.reading() as tx:
            found = tx.job(job)
            if caller != found.consumer:
                raise NotYours(f"{caller} is not the receiver of {job}")
            if found.state is not JobState.RELEASED or digest not in found.results.values():
                raise UnknownSubject(f"a released part {digest} of {job}")
            return tx.document(digest)

    def opening(self, caller: PartyId, statement: Digest) -> bytes:
        """What a statement committed to, sealed to the caller. Raises UnknownSubject, in the same
        words whether there is no such statement or only others may open it."""
        with self.store.reading() as tx:
            for reader, sealed in tx.openings(statement):
                if reader == caller:
                    return sealed
        raise UnknownSubject(f"an opening of {statement} for {caller}")

    def balance(self, caller: PartyId, currency: str) -> Balance:
        with self.store.reading() as tx:
            return book.balance(tx.book, party_account(caller, currency))

    def job(self, caller: PartyId, job: JobId) -> JobView:
        with self.store.reading() as tx:
            found = tx.job(job)
            self._require_concerned(caller, [found.consumer, *found.parties], found.deal, tx)
            return _view(found, tx)

    def jobs(self, caller: PartyId) -> Sequence[JobView]:
        with self.store.reading() as tx:
            return [_view(found, tx) for found in tx.jobs_of(caller)]

    def notes(self, caller: PartyId, job: JobId, *, after: int) -> JobNotes:
        """What has happened to a job since note number `after`."""
        with self.store.reading() as tx:
            found = tx.job(job)
            self._require_concerned(caller, [found.consumer, *found.parties], found.deal, tx)
            over = found.state in FINAL and found.settled
            return JobNotes(tx.notes(job, after=after), over)

    def negotiations(self, caller: PartyId) -> Sequence[Negotiation]:
        with self.store.reading() as tx:
            return tx.negotiations_of(caller)

    def bundle(self, caller: PartyId, deal: DealId) -> bytes:
        """The deal's evidence as a zip, for its consumer and for whoever supervises. A holder gets
        none: the other holder's agreement, price included, is in it.

        Before it is given, the ledger says to whom: once for each party and content, or whoever
        asks again and again would fill it.
        """
        # The auditor's format is needed by nothing else here.
        from exchange.hub.bundle import export

        with self.store.reading() as tx:
            consumers = {found.agreement.consumer for found in tx.agreements_of(deal)}
            if not consumers:
                raise UnknownSubject(f"a finalised agreement of {deal}")
            self._require_concerned(caller, consumers, deal, tx)
            exported = export(deal, tx)
        with self.store.transaction() as tx:
            act = evidence.bundle_exported(deal, caller, exported.statements)
            tx.lock_chain(self.operator.party)
            before = chains.said(deal, [evidence.BUNDLE_EXPORTED], tx)
            if all((one.body, one.outputs) != (act.body, act.outputs) for one in before):
                chains.act(act, tx=tx, operator=self.operator)
        return exported.data

    # Who is who

    def signing_key(self, party: PartyId) -> PublicKey:
        """The party's current signing key. Raises NotFound."""
        with self.store.reading() as tx:
            return tx.parties.current(party).document.signing

    def sender_key(self, submission: Submission) -> PublicKey:
        """The key that must have signed a submission; see intake.signing_key."""
        with self.store.reading() as tx:
            return intake.signing_key(submission, tx)

    # What everybody may read

    def party(self, party: PartyId) -> bytes:
        with self.store.reading() as tx:
            return tx.parties.current(party).envelope.to_bytes()

    def document(self, digest: Digest) -> bytes:
        """A party document, a product version, or a policy or keys document of the log."""
        with self.store.reading() as tx:
            try:
                return tx.parties.by_digest(digest).envelope.to_bytes()
            except NotFound:
                found = log_history.document(digest, tx) or registration.stored(digest, tx)
                if found is not None:
                    return found
                return tx.products.envelope(digest)

    def catalogue(self, text: str, *, after: ProductId | None, limit: int) -> CataloguePage:
        with self.store.reading() as tx:
            return tx.products.search(text, after=after, limit=min(limit, MAX_PAGE))

    def product(self, product: ProductId) -> DataProduct:
        with self.store.reading() as tx:
            return tx.products.current(product)

    def checkpoint(self) -> str:
        """The newest signed head, or empty before there is one."""
        with self.store.reading() as tx:
            latest = tx.log.latest()
            return "" if latest is None else latest.note.to_bytes().decode()

    def heads(self, page: int) -> bytes:
        """One page of past witnessed heads, see ledger.verify.heads. Raises NotCovered."""
        with self.store.reading() as tx:
            return heads_bytes(tx.log, heads_path(page))

    def witnessed_checkpoint(self) -> bytes:
        """The newest head with a quorum. Raises NotCovered before there is one."""
        with self.store.reading() as tx:
            witnessed = tx.log.latest_witnessed()
            if witnessed is None:
                raise NotCovered("no head of the log has its quorum of witnesses yet")
            return witnessed.note.to_bytes()

    def tile(self, path: str) -> bytes:
        """A tile or entry bundle by its path. Raises FormatRefused, or NotCovered if no signed
        head has all of it."""
        tile = Tile.parse(path)
        with self.store.reading() as tx:
            return tile_bytes(tx.log, tile)

    def anchors(self, *, below: int | None, limit: int) -> Sequence[Anchor]:
        """Heads on their way to a chain or there, largest first; only sizes below `below`."""
        with self.store.reading() as tx:
            return tx.anchors.newest(min(limit, MAX_PAGE), below=below)

    def consistency(self, old: int, new: int) -> Sequence[bytes]:
        with self.store.reading() as tx:
            return log.consistency(tx.log, old, new)

    def receipt(self, statement: Digest) -> str | None:
        """The tlog-proof of a statement; None while no signed head covers it."""
        with self.store.reading() as tx:
            try:
                return log.receipt(tx.log, statement)
            except (NotCovered, NotLogged):
                return None

    def _require_concerned(
        self, caller: PartyId, parties: Collection[PartyId], deal: DealId, tx: HubTransaction
    ) -> None:
        """Raises NotYours unless the caller takes part, or supervises: as the operator, as the
        regulator that an agreement of the deal names, or as one of the hub's own regulators.

        A role in a party document does not count: whoever registers writes it there.
        """
        if caller in parties or caller == self.operator.party or caller in self.regulators:
            return
        if any(held.agreement.terms.regulator == caller for held in tx.agreements_of(deal)):
            return
        raise NotYours(f"{caller} has no part in this")


def _view(job: HubJob, tx: HubTransaction) -> JobView:
    last = tx.last_note(job.id)
    return JobView(job, "" if last is None else last.stage)
