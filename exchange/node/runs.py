"""One engine run at a node: rows in, one sealed share out; or a model or table in, for a score or
a lookup.

The run happens on a thread of its own, the engine in a child process of its own. Whatever ends it
badly becomes one `job.failed`; what left the node is counted and kept either way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto import joinkeys, record, sealing
from crypto.digest import SALT_BYTES, Digest, commit, digest
from crypto.engine import EngineOutcome, EngineStage, EngineTask, Seat
from crypto.errors import CryptoError, EngineFailed, EngineFault, KeyRefused, Malformed
from crypto.identifiers import JobId, PartyId, ProductId
from crypto.joins.intersection import Intersection
from crypto.joins.rows import KeptRows
from crypto.keys import ExchangeKey
from crypto.session import PairKeys, pair_keys, standing_filler, standing_token_key
from exchange import evidence, jobs, openings
from exchange.errors import (
    ExactRefused,
    ExchangeError,
    HistoryRefused,
    HubUnreachable,
    UnknownSubject,
)
from exchange.jobs import JobEvent, JobState
from exchange.links.endpoint import Endpoint
from exchange.links.errors import LinkError
from exchange.node import asking, exactly, outbox, products, requests
from exchange.node import jobs as node_jobs
from exchange.node.alone import NoiseSource, alone
from exchange.node.engine import EngineInput, EngineLimits, EngineRun, EngineRunner
from exchange.node.exactly import Asked
from exchange.node.links import Links, LinkSession, PeerAddress
from exchange.node.model import Decision, EgressRecord, Identity, NodeAgreement, NodeJob
from exchange.node.parts import (
    Keys,
    local_query,
    side_rows,
    task_of,
    unmatched,
)
from exchange.node.ports import Documents, Hub, NodeStore, NodeTransaction, SourceOpener
from exchange.node.requests import Part
from exchange.node.shelf import Shelf
from exchange.openings import (
    BudgetUse,
    BytesOut,
    KeptSnapshot,
    Opening,
    PrivacyUse,
    ReceiptOpenings,
)
from exchange.privacy import NOTHING, cost_of
from exchange.query import exact
from exchange.query.plan import WITH_CONSUMER, Plan, Query
from exchange.query.program import program_of
from exchange.query.standing import standing_of
from exchange.results import SealedPart
from registry.errors import RegistryError, SourceUnreachable
from registry.party import SignedParty
from registry.ports import DataSource, LocalRows
from registry.product import DataProduct
from registry.rule import Join

MESSAGE_TIMEOUT_S: Final = 120
LOCAL_PART: Final = "the local part failed at this holder"
HISTORY: Final = "refused by this holder's history gate; ask with noise (give epsilon)"
LINKS_FAILED: Final = "the links of this party failed"
RUN_FAILED: Final = "the run failed at this party's node"


@dataclass(frozen=True)
class Workshop:
    """What a run needs beside the job: engine, links, rows, noise, the party's own models, tables
    and questions, and what software this is. turns: of all runs, of which one at a time judges an
    exact question about a product."""

    engine: EngineRunner
    links: Links
    open_source: SourceOpener
    noise: NoiseSource
    free_port: Callable[[], int]
    memory_bytes: int
    shelf: Shelf
    certificate: bytes
    software: str
    lock: Digest
    turns: dict[ProductId, threading.Lock] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """Somebody else who computes, with the keys of this attempt."""

    rank: int
    party: SignedParty
    address: Endpoint | None
    keys: PairKeys

    @property
    def id(self) -> PartyId:
        return self.party.document.party


@dataclass(frozen=True)
class Computed:
    """snapshot: digest of what went in: the rows, or the listed model or table; None at the helper,
    which has none."""

    share: bytes
    snapshot: Digest | None
    sent: dict[str, int]
    took_ms: int
    versions: str


@dataclass(frozen=True)
class _Ran:
    outcome: EngineOutcome
    sent: dict[str, int]


class Run:
    """One attempt. `start` returns at once; the outcome is in the node's records when `ended` is
    called."""

    def __init__(
        self,
        plan: Plan,
        job: NodeJob,
        *,
        store: NodeStore,
        hub: Hub,
        identity: Identity,
        workshop: Workshop,
        ended: Callable[[], None],
    ) -> None:
        self._plan, self._job = plan, job
        self._ended = ended
        self._store, self._hub, self._identity = store, hub, identity
        self._workshop = workshop
        self._killed = threading.Event()
        self._told: EngineStage | None = None
        self._engine: EngineRun | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"run {job.id}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def kill(self) -> None:
        """Revoked, or ended by somebody else: the engine dies now. Safe to repeat."""
        self._killed.set()
        with self._lock:
            if self._engine is not None:
                self._engine.kill("the job ended")

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._compute()
        except EngineFailed as error:
            self._give_up(_said_of(error), str(error))
        except (HistoryRefused, ExactRefused) as error:
            self._give_up(HISTORY, str(error))
        except (RegistryError, KeyRefused, Malformed) as error:
            self._give_up(LOCAL_PART, str(error))
        except LinkError as error:
            self._give_up(LINKS_FAILED, str(error))
        except (CryptoError, ExchangeError) as error:
            self._give_up(RUN_FAILED, str(error))
        except Exception as error:  # the node outlives one job; the owner sees what it was
            self._give_up(RUN_FAILED, f"{type(error).__name__}: {error}")
            raise
        finally:
            self._ended()

    def _give_up(self, said: str, detail: str) -> None:
        """said: for the job's parties; detail: for the owner, who may read of its own rows."""
        node_jobs.give_up(self._job.id, said, detail, store=self._store, identity=self._identity)

    def _compute(self) -> None:
        plan, me = self._plan, self._identity.party
        known, peers = asking.transact(self._known, store=self._store, hub=self._hub)
        if plan.join in WITH_CONSUMER:
            self._finish(known[0], self._requested(known[0], peers), peers)
            return
        rank = plan.engine_parties.index(me)
        place = plan.place_of(rank)
        unbalanced = (
            isinstance(plan.work, Query) and plan.work.intersection is Intersection.UNBALANCED
        )
        keys = Keys(
            {peer.rank: peer.keys for peer in peers},
            self._standing_key(peers) if unbalanced and place is not None else b"",
        )
        local = None if place is None else self._local_part(place, known)
        if plan.join is Join.ALONE and local is not None:
            program = program_of(plan, known)
            noise = plan.query.noise
            share = alone(program.layout, unmatched(local), noise, self._workshop.noise)
            self._seal(Computed(share, local.snapshot, {}, 0, ""), peers)
            return
        rows: EngineInput | None = None
        if local is not None:
            filler = self._filler(known if unbalanced else None)
            rows = side_rows(plan, rank, local, keys, filler=filler)
            if unbalanced:
                rows = KeptRows(rows, self._standing_folder(known))
        ran = self._run_with(peers, lambda seat: task_of(plan, known, seat, keys), rows)
        snapshot = None if local is None else local.snapshot
        self._seal(_computed(ran, snapshot), peers)

    def _known(self, tx: NodeTransaction, hub: Documents) -> tuple[list[DataProduct], list[Peer]]:
        sides = self._plan.sides
        return [products.by_digest(s.product, tx=tx, hub=hub) for s in sides], self._peers(tx)

    def _filler(self, standing: Sequence[DataProduct] | None) -> bytes:
        """What stands for a side without rows. standing: the products, where what an earlier job
        masked is asked for again."""
        if standing is None:
            return self._identity.randomness.draw(joinkeys.TOKEN_BYTES)
        return standing_filler(self._agreement_key(), standing_of(self._plan, standing).name)

    def _standing_key(self, peers: Sequence[Peer]) -> bytes:
        """Of the two holders' agreement keys, as the documents that the plan names have them."""
        me, (peer,) = self._identity.party, [peer for peer in peers if peer.rank < 2]
        theirs = peer.party.document.agreement
        return standing_token_key(self._agreement_key(), theirs, between=(me, peer.id))

    def _agreement_key(self) -> ExchangeKey:
        """This party's own, of the document that the plan names. Raises UnknownSubject."""
        named = self._plan.document_of(self._identity.party)
        with self._store.reading() as tx:
            own = None if named is None else tx.party(named)
        secret = None if own is None else self._identity.agreement.get(str(own.document.agreement))
        if secret is None:
            raise UnknownSubject(f"the agreement key of party document {named}")
        return secret

    def _standing_folder(self, known: Sequence[DataProduct]) -> Path:
        """Where this node keeps its side of an unbalanced intersection."""
        standing = standing_of(self._plan, known)
        server, client = (self._plan.sides[i] for i in (standing.server, 1 - standing.server))
        return self._workshop.shelf.standing(
            (server.holder, known[standing.server].id, client.holder),
            version=server.product,
            name=standing.name,
        )

    def _requested(self, product: DataProduct, peers: Sequence[Peer]) -> Computed:
        """A score or lookup: this party's part of it, and what its engine gave back."""
        part = self._part(product)
        ran = self._run_with(
            peers, lambda seat: requests.task_of(self._plan, product, seat, part), part.given
        )
        return _computed(ran, part.source)

    def _part(self, product: DataProduct) -> Part:
        return requests.holders_part(self._plan, product, self._workshop.shelf)

    def _finish(self, product: DataProduct, computed: Computed, peers: Sequence[Peer]) -> None:
        """The holder of a model or table has nothing to tell: its part is empty, its receipt is
        not."""
        self._seal(replace(computed, share=b""), peers)

    def _run_with(
        self,
        peers: Sequence[Peer],
        task_at: Callable[[Seat], EngineTask],
        given: EngineInput | None,
    ) -> _Ran:
        """One engine run with these peers over links of its own; what left is kept however it
        ends."""
        port = self._workshop.free_port()
        session = self._workshop.links.open_session(
            plan_digest=self._job.plan,
            job_id=self._job.id,
            own=PeerAddress(self._workshop.certificate, self._own_address()),
            peers={
                peer.id: PeerAddress(peer.party.document.tls_certificate, peer.address)
                for peer in peers
            },
            engine_port=port,
        )
        try:
            outcome = self._run_engine(task_at, given, session, port, peers)
        finally:
            session.close()
            self._keep_egress(session)
        # Committed to, not said: an engine's traffic grows with the rows that filters select, and
        # the consumer and everybody else read the receipt.
        sent: dict[str, int] = {}
        for stream in session.egress():
            sent[stream.receiver] = sent.get(stream.receiver, 0) + stream.sent_bytes
        return _Ran(outcome, sent)

    def _local_part(self, place: int, known: Sequence[DataProduct]) -> LocalRows:
        """The holder's own rows, filtered and computed at home. place: of it in the plan's sides"""
        plan, product = self._plan, known[place]
        with self._store.reading() as tx:
            settings = tx.source(product.id)
        if settings is None:
            raise SourceUnreachable(f"no source is set for {product.name}")
        source = self._workshop.open_source(settings)
        if exact.is_exact(plan):
            # Of jobs that come at once each would else find none refused before it. A crash in here
            # tells nobody anything: the job is lost, whatever the rows are.
            with self._workshop.turns.setdefault(product.id, threading.Lock()):
                self._require_exact_is_safe(Asked(plan, known, place), source)
        return source.compute(product, local_query(plan, program_of(plan, known), place))

    def _require_exact_is_safe(self, new: Asked, source: DataSource) -> None:
        """Judge what this job counts, alone and beside every earlier exact answer. What follows
        from plans comes first, and the consumer that was refused too often is not told of rows."""

        def looked_up(
            tx: NodeTransaction, hub: Documents
        ) -> tuple[NodeAgreement | None, list[Asked], int]:
            refused = int(tx.remark(_refusals(new)) or 0)
            return tx.agreement(new.side.agreement), self._answered(new.product, tx, hub), refused

        held, earlier, refused = asking.transact(looked_up, store=self._store, hub=self._hub)
        if held is None:
            raise UnknownSubject(f"agreement {new.side.agreement}")
        exactly.require_answerable(refused)
        exactly.require_one_company(new, earlier)
        self._require_same_rows(new, earlier, source)
        least = exactly.agreed_least(held.agreement.terms, new.product)
        try:
            exactly.require_many(new, earlier, source, least)
        except HistoryRefused:
            with self._store.transaction() as tx:
                tx.set_remark(_refusals(new), str(int(tx.remark(_refusals(new)) or 0) + 1))
            raise

    def _require_same_rows(self, new: Asked, earlier: Sequence[Asked], source: DataSource) -> None:
        now, name = str(source.digest(new.product)), f"rows of {new.side.product}"
        with self._store.transaction() as tx:
            exactly.require_same_rows(new, earlier, before=tx.remark(name), now=now)
            tx.set_remark(name, now)

    def _answered(self, product: DataProduct, tx: NodeTransaction, hub: Documents) -> list[Asked]:
        """Other jobs on this product whose exact answer left this node, for whomever: consumers may
        pool what they learn. What is running may leave any moment, and what was sealed has left,
        however its job ended."""
        found = []
        for job in tx.jobs():
            running = job.state is JobState.RUNNING
            if job.id == self._job.id or job.decision is not Decision.ADMITTED:
                continue
            if not running and tx.last_said("job.sealed", job.id) is None:
                continue
            plan = node_jobs.plan_of(job, tx)
            side = plan.side_of(self._identity.party)
            if side is None or not exact.is_exact(plan):
                continue
            if products.by_digest(side.product, tx=tx, hub=hub).id == product.id:
                known = [products.by_digest(s.product, tx=tx, hub=hub) for s in plan.sides]
                found.append(Asked(plan, known, plan.sides.index(side)))
        return found

    def _run_engine(
        self,
        task_at: Callable[[Seat], EngineTask],
        given: EngineInput | None,
        session: LinkSession,
        port: int,
        peers: Sequence[Peer],
    ) -> EngineOutcome:
        plan = self._plan
        addresses = {peer.rank: str(session.tunnel_address(peer.id)) for peer in peers}
        by_rank = {peer.rank: peer.keys for peer in peers}
        ranks = range(len(plan.engine_parties))
        seat = Seat(
            attempt=str(self._job.id),
            plan=self._job.plan,
            rank=plan.engine_parties.index(self._identity.party),
            listen=f"127.0.0.1:{port}",
            peers=tuple(addresses.get(rank, "") for rank in ranks),
            keys=tuple(by_rank[rank].engine if rank in by_rank else b"" for rank in ranks),
            connect_timeout_ms=1000 * min(plan.run_seconds, 60),
            receive_timeout_ms=1000 * self._message_timeout_s(),
        )
        task = task_at(seat)
        with self._lock:
            if self._killed.is_set():
                raise EngineFailed(EngineFault.KILLED, "the job ended before the engine began")
            limits = EngineLimits(plan.run_seconds, self._workshop.memory_bytes)
            self._engine = self._workshop.engine.start(task, given, limits)
        return self._engine.wait(self._tell)

    def _message_timeout_s(self) -> int:
        """A revealed join's helper hears nothing while the holders match, be it for minutes."""
        whole = self._plan.run_seconds
        waits = (
            self._plan.join is Join.REVEALED and self._plan.side_of(self._identity.party) is None
        )
        return whole if waits else min(whole, MESSAGE_TIMEOUT_S)

    def _tell(self, stage: EngineStage) -> None:
        """The consumer reads the stages. Whether masked keys were made anew, and how often matching
        began for it, says whether this holder's rows have changed, so both are one stage to it."""
        told = EngineStage.MATCH if stage is EngineStage.OFFLINE else stage
        if told is self._told:
            return
        self._told = told
        try:
            self._hub.progress(self._job.id, told.value, "")
        except HubUnreachable:
            return  # nothing depends on being watched

    def _seal(self, computed: Computed, peers: Sequence[Peer]) -> None:
        """Seal the share and say so; egress and statement commit with the job's new state."""
        plan, job, identity = self._plan, self._job, self._identity
        part = record.to_bytes(SealedPart(1, job.id, job.plan, identity.party, computed.share))
        with self._store.transaction() as tx:
            current = tx.job(job.id)
            if current is None or current.state in jobs.FINAL:
                return  # ended meanwhile: nothing is released
            receiver = tx.party(plan.receivers[0].document)
            if receiver is None or receiver.document.party != plan.receivers[0].party:
                raise UnknownSubject(f"party document {plan.receivers[0].document}")
            result = sealing.seal(
                part,
                receiver.document.sealing,
                context=openings.result_context(job.plan, identity.party),
            )
            commitments, sealed = self._commitments(computed, tx)
            documents = [result] if sealed is None else [result, sealed]
            software = "; ".join(filter(None, [self._workshop.software, computed.versions]))
            act = evidence.sealed(
                job.id,
                plan=job.plan,
                after=sorted(current.admissions.values()),
                result=digest(result),
                openings=None if sealed is None else digest(sealed),
                commitments=commitments,
                bytes_out={receiver.document.party: len(result)},
                gate=evidence.gate_words(plan),
                software=software,
                lock=self._workshop.lock,
                peers={peer.id: peer.party.document.identity.fingerprint for peer in peers},
            )
            outbox.say(act, documents, tx=tx, identity=identity)
            tx.add_egress(
                [
                    EgressRecord(
                        job.id,
                        receiver.document.party,
                        "sealed result, through the hub",
                        len(result),
                        digest(result),
                    )
                ]
            )
            tx.forget_secret(job.id)
            tx.set_remark(engine_remark(job.id), str(computed.took_ms))
            tx.save_job(
                node_jobs.at(current, jobs.advance(job.id, current.state, JobEvent.SEAL), identity)
            )

    def _commitments(
        self, computed: Computed, tx: NodeTransaction
    ) -> tuple[dict[str, Digest], bytes | None]:
        """Commit to the input snapshot, the budget and what left; seal the openings to the
        regulator. The helper commits to what left it, and keeps the opening."""
        values = {"egress": record.to_bytes(BytesOut(computed.sent))}
        side = self._plan.side_of(self._identity.party)
        held = tx.agreement(side.agreement) if side else None
        if held is not None and computed.snapshot is not None:
            epsilon, cost = held.epsilon_used, cost_of(self._plan)
            spent = tx.privacy(held.agreement.terms.product_id)
            use = BudgetUse(
                runs_before=held.runs_used - 1,
                runs_after=held.runs_used,
                epsilon_before=str(epsilon - self._plan.epsilon),
                epsilon_after=str(epsilon),
                product=None if cost == NOTHING else PrivacyUse(spent - cost, spent),
            )
            snapshot = self._kept_snapshot(computed.snapshot, tx)
            values |= {"snapshot": snapshot, "budget": record.to_bytes(use)}
        opened = {
            name: Opening(self._identity.randomness.draw(SALT_BYTES), value)
            for name, value in values.items()
        }
        commitments = {name: commit(o.salt, o.value) for name, o in opened.items()}
        # Kept here too: the party itself may want to open its commitments one day.
        plain = record.to_bytes(ReceiptOpenings(1, opened))
        tx.add_document(digest(plain), plain)
        terms = None if held is None else held.agreement.terms
        if terms is None or terms.regulator is None or terms.regulator_document is None:
            return commitments, None
        regulator = tx.party(terms.regulator_document)
        if regulator is None:
            raise UnknownSubject(f"party document {terms.regulator_document}")
        context = openings.receipt_context(self._job.plan, self._identity.party)
        return commitments, sealing.seal(plain, regulator.document.sealing, context=context)

    def _kept_snapshot(self, snapshot: Digest, tx: NodeTransaction) -> bytes:
        """What to commit to for the digest of what went in. Of rows it holds a secret that stays
        here."""
        if not isinstance(self._plan.work, Query):
            return snapshot.raw
        secret = self._identity.randomness.draw(SALT_BYTES)
        kept = KeptSnapshot(1, self._job.id, snapshot, secret)
        plain = record.to_bytes(kept)
        tx.add_document(digest(plain), plain)
        tx.set_remark(_snapshot_remark(self._job.id), str(digest(plain)))
        return kept.value

    def _peers(self, tx: NodeTransaction) -> list[Peer]:
        """Everybody else who computes, in order of rank, with the keys of this attempt."""
        plan, job, me = self._plan, self._job, self._identity.party
        others = [(r, p) for r, p in enumerate(plan.engine_parties) if p != me]
        secret = tx.secret(job.id)
        if not others:
            return []
        if secret is None:
            raise UnknownSubject(f"the keys of {job.id}")
        own = ExchangeKey(X25519PrivateKey.from_private_bytes(secret))
        found = []
        for rank, party in others:
            named = plan.document_of(party)
            document = None if named is None else tx.party(named)
            if document is None:
                raise UnknownSubject(f"the party document of {party}")
            keys = pair_keys(
                own, job.ephemerals[party], plan=job.plan, job=job.id, between=(me, party)
            )
            found.append(Peer(rank, document, _endpoint(job, party), keys))
        return found

    def _own_address(self) -> Endpoint | None:
        return _endpoint(self._job, self._identity.party)

    def _keep_egress(self, session: LinkSession) -> None:
        records = [
            EgressRecord(self._job.id, s.receiver, s.why, s.sent_bytes, s.sent)
            for s in session.egress()
        ]
        with self._store.transaction() as tx:
            tx.add_egress(records)


def _refusals(new: Asked) -> str:
    """Under which name a node counts how often its rows refused a consumer an exact answer."""
    return f"history refusals {new.plan.consumer} {new.product.id}"


def _computed(ran: _Ran, snapshot: Digest | None) -> Computed:
    outcome = ran.outcome
    versions = ", ".join(f"{name} {version}" for name, version in sorted(outcome.versions.items()))
    return Computed(outcome.share, snapshot, ran.sent, outcome.timings_ms["total"], versions)


def engine_remark(job: JobId) -> str:
    """Under which name a node keeps the milliseconds that its engine took for a job."""
    return f"engine_ms {job}"


def kept_snapshot(job: JobId, tx: NodeTransaction) -> KeptSnapshot:
    """What this holder can show of the rows that a query of its read. Raises UnknownSubject."""
    text = tx.remark(_snapshot_remark(job))
    if text is None:
        raise UnknownSubject(f"the snapshot of {job}")
    return record.from_bytes(KeptSnapshot, tx.document(Digest.parse(text)))


def _snapshot_remark(job: JobId) -> str:
    return f"snapshot {job}"


def _said_of(error: EngineFailed) -> str:
    """The kind of failure alone: how much memory or time a run took tells how many rows it had."""
    if error.fault is EngineFault.INPUT:
        return LOCAL_PART
    return f"the engine run failed ({error.fault.value})"


def _endpoint(job: NodeJob, party: PartyId) -> Endpoint | None:
    text = job.addresses.get(party, "")
    return Endpoint.parse(text, where="body.link") if text else None
