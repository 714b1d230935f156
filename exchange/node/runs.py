"""One engine run at a holder's node: rows in, one sealed share out.

The run happens on a thread of its own, the engine in a child process of its own. Whatever ends it
badly becomes one `job.failed`; what left the node is counted and kept either way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto import joinkeys, record, sealing
from crypto.digest import SALT_BYTES, Digest, commit, digest
from crypto.engine import EngineOutcome, EngineStage, EngineTask
from crypto.errors import CryptoError, EngineFailed, EngineFault, KeyRefused, Malformed
from crypto.identifiers import JobId, PartyId
from crypto.joins.revealed import NO_GROUP, Int64Array, SideRows
from crypto.keys import ExchangeKey
from crypto.session import PairKeys, pair_keys
from exchange import evidence, jobs, openings
from exchange.errors import ExchangeError, HubUnreachable, UnknownSubject
from exchange.jobs import JobEvent
from exchange.links.endpoint import Endpoint
from exchange.links.errors import LinkError
from exchange.node import jobs as node_jobs
from exchange.node import outbox, products
from exchange.node.engine import EngineLimits, EngineRun, EngineRunner
from exchange.node.links import Links, LinkSession, PeerAddress
from exchange.node.model import EgressRecord, Identity, NodeJob
from exchange.node.ports import Hub, NodeStore, NodeTransaction, SourceOpener
from exchange.openings import BudgetUse, BytesOut, Opening, ReceiptOpenings
from exchange.query.plan import GroupBy, Plan, SidePlan
from exchange.results import SealedPart, layout_of
from registry.errors import RegistryError, SourceUnreachable
from registry.party import SignedParty
from registry.ports import Extract, SourceFilter
from registry.product import ColumnType, DataProduct

MESSAGE_TIMEOUT_S: Final = 120
LOCAL_PART: Final = "the local part failed at this holder"
LINKS_FAILED: Final = "the links of this holder failed"


@dataclass(frozen=True)
class Workshop:
    """What a run needs beside the job: engine, links, rows, and what software this is."""

    engine: EngineRunner
    links: Links
    open_source: SourceOpener
    free_port: Callable[[], int]
    memory_bytes: int
    certificate: bytes
    software: str
    lock: Digest


@dataclass(frozen=True)
class _Peer:
    party: SignedParty
    address: Endpoint | None
    keys: PairKeys


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
        except (RegistryError, KeyRefused, Malformed) as error:
            self._give_up(LOCAL_PART, str(error))
        except LinkError as error:
            self._give_up(LINKS_FAILED, str(error))
        except (CryptoError, ExchangeError) as error:
            self._give_up(str(error), str(error))
        except Exception as error:  # the node outlives one job; the owner sees what it was
            self._give_up("the node failed during the run", f"{type(error).__name__}: {error}")
            raise
        finally:
            self._ended()

    def _give_up(self, said: str, detail: str) -> None:
        """said: what everybody may read; detail: for the owner, who may read of its own rows."""
        node_jobs.give_up(self._job.id, said, detail, store=self._store, identity=self._identity)

    def _compute(self) -> None:
        plan, job = self._plan, self._job
        side = plan.side_of(self._identity.party)
        if side is None:
            raise UnknownSubject(f"this party's side of {job.id}")
        with self._store.transaction() as tx:
            product = products.by_digest(side.product, tx=tx, hub=self._hub)
            settings = tx.source(product.id)
            peer = self._peer(tx)
        if settings is None:
            raise SourceUnreachable(f"no source is set for {product.name}")
        extract = self._workshop.open_source(settings).extract(
            product, side.columns, _filters(side)
        )
        rows = with_filler(
            side_rows(extract, side, product, peer.keys),
            token=self._identity.randomness.draw(joinkeys.TOKEN_BYTES),
        )
        port = self._workshop.free_port()
        session = self._workshop.links.open_session(
            plan_digest=job.plan,
            job_id=job.id,
            own=PeerAddress(self._workshop.certificate, self._own_address()),
            peers={
                peer.party.document.party: PeerAddress(
                    peer.party.document.tls_certificate, peer.address
                )
            },
            engine_port=port,
        )
        try:
            outcome = self._run_engine(rows, session, port, peer)
        finally:
            session.close()
            self._keep_egress(session)
        self._seal(outcome, extract, peer, session)

    def _run_engine(
        self, rows: SideRows, session: LinkSession, port: int, peer: _Peer
    ) -> EngineOutcome:
        plan = self._plan
        task = EngineTask(
            job=str(self._job.id),
            rank=plan.engine_parties.index(self._identity.party),
            listen=f"127.0.0.1:{port}",
            peer=str(session.tunnel_address(peer.party.document.party)),
            intersection=plan.intersection,
            layout=layout_of(plan),
            zero_key=peer.keys.zero,
            connect_timeout_ms=1000 * min(plan.run_seconds, 60),
            receive_timeout_ms=1000 * min(plan.run_seconds, MESSAGE_TIMEOUT_S),
        )
        with self._lock:
            if self._killed.is_set():
                raise EngineFailed(EngineFault.KILLED, "the job ended before the engine began")
            limits = EngineLimits(plan.run_seconds, self._workshop.memory_bytes)
            self._engine = self._workshop.engine.start(task, rows, limits)
        return self._engine.wait(self._tell)

    def _tell(self, stage: EngineStage) -> None:
        try:
            self._hub.progress(self._job.id, stage.value, "")
        except HubUnreachable:
            return  # nothing depends on being watched

    def _seal(
        self, outcome: EngineOutcome, extract: Extract, peer: _Peer, session: LinkSession
    ) -> None:
        """Seal the share and say so; egress and statement commit with the job's new state."""
        plan, job, identity = self._plan, self._job, self._identity
        part = record.to_bytes(SealedPart(1, job.id, job.plan, identity.party, outcome.share))
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
            # Committed to, not said: an engine's traffic grows with the rows that filters select,
            # and the consumer and everybody else read the receipt.
            sent: dict[str, int] = {}
            for stream in session.egress():
                sent[stream.receiver] = sent.get(stream.receiver, 0) + stream.sent_bytes
            commitments, sealed = self._commitments(extract, BytesOut(sent), tx)
            documents = [result] if sealed is None else [result, sealed]
            act = evidence.sealed(
                job.id,
                plan=job.plan,
                after=sorted(current.admissions.values()),
                result=digest(result),
                openings=None if sealed is None else digest(sealed),
                commitments=commitments,
                bytes_out={receiver.document.party: len(result)},
                gate=f"min_group={plan.gate.min_group}, applied under sharing",
                software=f"{self._workshop.software}; "
                + ", ".join(f"{n} {v}" for n, v in sorted(outcome.versions.items())),
                lock=self._workshop.lock,
                peers={peer.party.document.party: peer.party.document.identity.fingerprint},
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
            tx.set_remark(engine_remark(job.id), str(outcome.timings_ms["total"]))
            tx.save_job(
                node_jobs.at(current, jobs.advance(job.id, current.state, JobEvent.SEAL), identity)
            )

    def _commitments(
        self, extract: Extract, egress: BytesOut, tx: NodeTransaction
    ) -> tuple[dict[str, Digest], bytes | None]:
        """Commit to the input snapshot, the budget and what left; seal the openings to the
        regulator."""
        side = self._plan.side_of(self._identity.party)
        held = tx.agreement(side.agreement) if side else None
        if held is None:
            raise UnknownSubject("this party's agreement")
        epsilon = held.epsilon_used
        use = BudgetUse(
            runs_before=held.runs_used - 1,
            runs_after=held.runs_used,
            epsilon_before=str(epsilon - self._plan.epsilon),
            epsilon_after=str(epsilon),
        )
        values = {
            "snapshot": extract.snapshot.raw,
            "budget": record.to_bytes(use),
            "egress": record.to_bytes(egress),
        }
        opened = {
            name: Opening(self._identity.randomness.draw(SALT_BYTES), value)
            for name, value in values.items()
        }
        commitments = {name: commit(o.salt, o.value) for name, o in opened.items()}
        # Kept here too: the holder itself may want to open its commitments one day.
        plain = record.to_bytes(ReceiptOpenings(1, opened))
        tx.add_document(digest(plain), plain)
        terms = held.agreement.terms
        if terms.regulator is None or terms.regulator_document is None:
            return commitments, None
        regulator = tx.party(terms.regulator_document)
        if regulator is None:
            raise UnknownSubject(f"party document {terms.regulator_document}")
        context = openings.receipt_context(self._job.plan, self._identity.party)
        return commitments, sealing.seal(plain, regulator.document.sealing, context=context)

    def _peer(self, tx: NodeTransaction) -> _Peer:
        plan, job = self._plan, self._job
        (side,) = (s for s in plan.sides if s.holder != self._identity.party)
        party = tx.party(side.holder_document)
        secret = tx.secret(job.id)
        if party is None or secret is None:
            raise UnknownSubject(f"the keys of {job.id}")
        own = ExchangeKey(X25519PrivateKey.from_private_bytes(secret))
        keys = pair_keys(
            own,
            job.ephemerals[side.holder],
            plan=job.plan,
            job=job.id,
            between=(self._identity.party, side.holder),
        )
        return _Peer(party, _endpoint(job, side.holder), keys)

    def _own_address(self) -> Endpoint | None:
        return _endpoint(self._job, self._identity.party)

    def _keep_egress(self, session: LinkSession) -> None:
        records = [
            EgressRecord(self._job.id, s.receiver, s.why, s.sent_bytes, s.sent)
            for s in session.egress()
        ]
        with self._store.transaction() as tx:
            tx.add_egress(records)


def engine_remark(job: JobId) -> str:
    """Under which name a node keeps the milliseconds that its engine took for a job."""
    return f"engine_ms {job}"


def side_rows(extract: Extract, side: SidePlan, product: DataProduct, keys: PairKeys) -> SideRows:
    """One side's rows as the engine wants them: tokens, group numbers, values, validity."""
    join_keys = joinkeys.canonical_keys(extract.keys, joinkeys.KeyKind.TEXT)
    n = len(extract.keys)
    group: Int64Array = np.zeros(n, dtype=np.int64)
    inside = np.ones(n, dtype=np.bool_)
    for by in side.group_by:
        index = _group_index(by, extract, product)
        inside &= (index != NO_GROUP) & extract.valid[by.column]
        group = group * by.size + np.where(index == NO_GROUP, 0, index)
    columns = [measure.column for measure in side.measures]
    empty = np.zeros((n, 0))
    return SideRows(
        tokens=joinkeys.tokens(join_keys, keys.token),
        group=np.where(inside, group, NO_GROUP).astype(np.int64),
        values=np.stack([extract.numbers[c] for c in columns], axis=1)
        if columns
        else empty.astype(np.int64),
        valid=np.stack([extract.valid[c] for c in columns], axis=1)
        if columns
        else empty.astype(np.bool_),
    )


def with_filler(rows: SideRows, *, token: bytes) -> SideRows:
    """These rows, or, if there is none, one that matches nobody and counts nowhere.

    No engine takes an empty side, and a job that failed for it would tell the consumer whether
    anybody fits a filter. token: 16 random bytes.
    """
    if len(rows):
        return rows
    measures = rows.values.shape[1]
    return SideRows(
        tokens=np.frombuffer(token, dtype=np.uint8).reshape(1, -1),
        group=np.array([NO_GROUP], dtype=np.int64),
        values=np.zeros((1, measures), dtype=np.int64),
        valid=np.zeros((1, measures), dtype=np.bool_),
    )


def _said_of(error: EngineFailed) -> str:
    """The kind of failure alone: how much memory or time a run took tells how many rows it had."""
    if error.fault is EngineFault.INPUT:
        return LOCAL_PART
    return f"the engine run failed ({error.fault.value})"


def _group_index(by: GroupBy, extract: Extract, product: DataProduct) -> Int64Array:
    if by.cuts is not None:
        cuts = np.array(by.cuts, dtype=np.int64)
        return np.searchsorted(cuts, extract.numbers[by.column], side="right").astype(np.int64)
    place = {category: i for i, category in enumerate(by.categories or ())}
    if product.column(by.column).type is not ColumnType.TEXT:
        texts = tuple(str(number) for number in extract.numbers[by.column])
    else:
        texts = extract.texts[by.column]
    return np.array([place.get(text, NO_GROUP) for text in texts], dtype=np.int64)


def _filters(side: SidePlan) -> list[SourceFilter]:
    return [
        SourceFilter(f.column, f.op, f.text if f.text is not None else f.number or 0)
        for f in side.filters
    ]


def _endpoint(job: NodeJob, party: PartyId) -> Endpoint | None:
    text = job.addresses.get(party, "")
    return Endpoint.parse(text, where="body.link") if text else None
