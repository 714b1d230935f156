"""The hub as a process: web server, relay, and the threads that do what nobody asks for.

    ledger   compares with what witnesses hold, then orders what is pending and signs the grown tree
    publish  has witnesses cosign the newest head
    files    keeps the log's static files in step with the newest witnessed head
    anchor   puts heads with a quorum on a chain, where the settings name one
    sm3      grows the parallel tree for national rules, where the log has keys for one
    jobs     releases, settles and expires what is due

Each thread outlives a failing round, except one that shows the log itself to be wrong: then this
process signs nothing any more, and says so at /readyz until a person has looked.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session

from api.database import bring_up_to_date, open_engine, read_only
from api.folder import PartyFolder
from api.http.adapters.sql import SqlIdempotencyStore, SqlNonceStore
from api.http.server import Running, TlsFiles, bind, serve_on, url_of
from api.hub.app import new_hub_app
from api.hub.desk import Booking
from api.log_keys import RECOVERY_KEY, read_keyring
from api.operator import PREDECESSOR
from api.settings import AnchorSettings, HubSettings, SettingsRefused, endpoint
from api.wiring.logs import configure_logs
from crypto.identifiers import PartyId
from crypto.ports import Clock, SystemClock, SystemRandomness
from exchange.hub import background, chains, log_history, registration
from exchange.hub.adapters.relay import Relay
from exchange.hub.adapters.sql import SqlHubStore, SqlHubTransaction
from exchange.hub.background import LogKeeping
from exchange.hub.model import Operator
from exchange.hub.service import HubService
from exchange.hub.sessions import Sessions
from exchange.links.endpoint import Endpoint
from ledger.adapters.anchor_sql import SqlAnchorDatabase
from ledger.adapters.evm import EvmAnchor, JsonRpc, read_key
from ledger.adapters.http_witness import HttpWitness
from ledger.adapters.sm3_sql import SqlSm3Database
from ledger.adapters.sql import SqlLogDatabase
from ledger.anchor import GWEI, Anchoring, AnchorRules, ChainHolder, Hurry, keep_anchored
from ledger.check import Damage, check_log, check_sm3
from ledger.copies import PublishedFiles, publish_files
from ledger.errors import (
    ChainDisagrees,
    FormatRefused,
    LedgerError,
    LogBehind,
    LogDiverged,
    NotCompared,
    OtherLog,
    SourceUnreachable,
    WitnessDisagrees,
)
from ledger.ports import AnchorBackend, AnchorDatabase, HeadHolder, Place
from ledger.tiles import LogSource
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.note import Note, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.succession import Predecessor

PAUSE_AFTER_FAILURE_S: Final = 1.0
# How long the end waits for a thread. One that is asking a witness may be left behind: it holds no
# transaction meanwhile.
STOP_S: Final = 3.0
SM3_INTERVAL_S: Final = 10.0  # between two heads of the SM3 tree; each pair is one more entry

log: Final = structlog.get_logger("hub")


@dataclass
class Fault:
    """Why the log is not signed.

    words:    what shows that it must not be signed any more; None while nothing does
    waiting:  why it is not known yet whether the database is the newest state of the log
    compared: whether that is known; asked again after a failure of the database, which may have
              been replaced meanwhile
    """

    words: str | None = None
    waiting: str | None = None
    compared: bool = False

    def find(self, error: LedgerError) -> None:
        self.words = f"the ledger is not signed any more: {error}"
        log.critical("ledger.stopped", error=type(error).__qualname__, reason=str(error))

    def wait(self, error: LedgerError) -> None:
        if self.waiting is None:
            log.warning("ledger.waiting", reason=str(error))
        self.waiting = str(error)

    def settle(self) -> None:
        self.waiting, self.compared = None, True


@dataclass
class Anchorer:
    """What the anchoring thread needs, and what it has found wrong last."""

    backend: AnchorBackend
    database: AnchorDatabase
    rules: AnchorRules
    poll_s: float
    problem: str | None = None
    hurry: Hurry = field(default_factory=lambda: Hurry(background.anchored_at_once))

    def note(self, error: LedgerError | None) -> None:
        problem = None if error is None else str(error)
        if problem is not None and problem != self.problem:
            log.warning("anchor.waiting", error=type(error).__qualname__, reason=problem)
        self.problem = problem

    @property
    def state(self) -> Anchoring:
        return Anchoring(self.backend.place, self.problem)


@dataclass(frozen=True)
class OpenedHub:
    """Everything of the hub behind its web server. close: once nobody uses it any more."""

    engine: Engine
    store: SqlHubStore
    operator: Operator
    service: HubService
    keeping: LogKeeping
    fault: Fault = field(default_factory=Fault)
    anchorer: Anchorer | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    @contextlib.contextmanager
    def booking(self) -> Iterator[Booking]:
        with Session(self.engine) as session, session.begin():
            yield Booking(SqlHubTransaction(session), SqlIdempotencyStore(session))

    def close(self) -> None:
        self.stack.close()
        self.engine.dispose()


def open_hub(settings: HubSettings, *, clock: Clock | None = None) -> OpenedHub:
    """Folder and database, with the operator's own party document in the ledger.

    Raises SettingsRefused, KeyFileRefused, DocumentRefused, DatabaseTooNew or BookkeepingBehind,
    saying what to do.
    """
    clock, randomness = clock or SystemClock(), SystemRandomness()
    folder = PartyFolder(settings.folder)
    party = folder.party
    ring = read_keyring(settings)
    origin = ring.current.origin
    policy = read_policy(settings, ring.current.verifier_keys)
    if (settings.folder / RECOVERY_KEY).exists():
        log.warning("recovery_key.online", file=RECOVERY_KEY, advice="take it offline")
    engine = open_engine(settings.store_url)
    bring_up_to_date(engine, "hub")
    store = SqlHubStore(engine, read_only(engine))
    operator = Operator(party.document.party, folder.signing, clock, randomness)
    regulators = frozenset(PartyId.parse(text, where="regulators") for text in settings.regulators)
    stack = ExitStack()
    client = stack.enter_context(httpx2.Client(trust_env=False))
    anchorer = None
    if settings.anchor is not None:  # before anything is said of it
        anchorer = open_anchorer(settings, settings.anchor, origin, engine, client)
    with store.transaction() as tx:
        chains.require_complete(tx)
        registration.register_operator(party, tx, operator)
        if (settings.folder / PREDECESSOR).exists():
            before = Predecessor.from_bytes((settings.folder / PREDECESSOR).read_bytes())
            log_history.follow(origin, before, tx, operator)
        log_history.declare(ring.documents, settings.policy_file.read_bytes(), tx, operator)
        place = None if anchorer is None else anchorer.backend.place
        log_history.anchored(origin, place, tx, operator)
        log_history.supervised(regulators, tx, operator)
    witnesses = [
        HttpWitness(address.url, [VerifierKey.parse(text) for text in address.vkeys], client)
        for address in settings.witnesses
    ]
    holders: list[HeadHolder] = []
    if anchorer is not None:
        holders.append(ChainHolder(origin, anchorer.backend))
    if settings.tiles_folder is not None:
        open_own = partial(open_own_note, ring.ever)
        holders.append(PublishedFiles(settings.tiles_folder, open_own))
    counted = {witness.key for witness in policy.witnesses}
    for witness in witnesses:
        if counted.isdisjoint(witness.keys):
            log.warning("witness.not_in_policy", witness=witness.key.name)
    return OpenedHub(
        engine,
        store,
        operator,
        HubService(store, operator, regulators),
        LogKeeping(
            origin,
            ring.signer,
            SqlLogDatabase(engine),
            witnesses,
            policy,
            holders,
            also=ring.also,
            ever=ring.ever,
            sm3=ring.sm3,
        ),
        anchorer=anchorer,
        stack=stack,
    )


def open_anchorer(
    settings: HubSettings,
    anchor: AnchorSettings,
    origin: str,
    engine: Engine,
    client: httpx2.Client,
) -> Anchorer:
    """Asks no chain yet, and loads nothing of web3. Raises SettingsRefused, ChainRefused."""
    if find_spec("web3") is None:
        raise SettingsRefused("anchor", "needs web3; install this program with its extra `chain`")
    backend = EvmAnchor(
        JsonRpc(anchor.rpc_url, client),
        Place(anchor.chain_id, anchor.contract.lower()),
        origin,
        read_key(settings.folder / anchor.key_file),
        anchor.finality,
    )
    rules = AnchorRules(
        anchor.every_s,
        anchor.every_entries,
        anchor.at_once_s,
        anchor.patience_s,
        anchor.max_fee_gwei * GWEI,
    )
    return Anchorer(backend, SqlAnchorDatabase(engine), rules, anchor.poll_s)


def open_own_note(keys: Sequence[VerifierKey], note: bytes) -> Checkpoint:
    """The checkpoint in a note that this log has signed. keys: its present ones and the earlier.
    Raises LedgerError."""
    return open_checkpoint(Note.parse(note), keys)


def read_policy(settings: HubSettings, log_keys: Sequence[VerifierKey]) -> Policy:
    """Raises SettingsRefused, also for a policy that the log's keys in force do not satisfy."""
    try:
        policy = Policy.parse(settings.policy_file.read_bytes())
    except FileNotFoundError:
        raise SettingsRefused(
            "policy_file", f"{settings.policy_file} does not exist; `{settings.made_by}` makes one"
        ) from None
    except FormatRefused as error:
        raise SettingsRefused("policy_file", str(error)) from None
    if not set(log_keys) & set(policy.log_keys):
        raise SettingsRefused("policy_file", f"does not trust this hub's log, {log_keys[0]}")
    return policy


def check_stored(settings: HubSettings) -> Iterator[Damage]:
    """Everything in the stored ledger that is not what was signed. Raises SettingsRefused."""
    ring = read_keyring(settings)
    policy = read_policy(settings, ring.current.verifier_keys)
    engine = open_engine(settings.store_url)
    try:
        reading = read_only(engine)
        if engine.dialect.name == "sqlite":
            with reading.connect() as connection:
                for (problem,) in connection.exec_driver_sql("PRAGMA quick_check"):
                    if problem != "ok":
                        yield Damage("the database file", problem)
        yield from check_log(
            SqlLogDatabase(reading),
            log_keys=ring.ever,
            witnesses=[witness.key for witness in policy.witnesses],
        )
        yield from check_sm3(SqlLogDatabase(reading), SqlSm3Database(reading), keys=ring.ever_sm3)
    except DatabaseError as error:
        yield Damage("the database", str(error.orig))
    finally:
        engine.dispose()


def run_hub(settings: HubSettings, *, announce: Callable[[Mapping[str, Any]], None]) -> None:
    """Run until SIGTERM or SIGINT.

    announce: called once, when requests are answered, with what a starting program wants to know.
    Raises what `open_hub` raises, OSError when an address is taken, CannotListen for the relay's.
    """
    configure_logs()
    hub = open_hub(settings)
    with ExitStack() as stack:
        stack.callback(hub.close)
        listen = endpoint(settings.listen)
        bound = bind(listen.host, listen.port)
        stack.callback(bound.close)
        tls = _tls(settings)
        url = settings.public_url or url_of(bound, tls=tls is not None)
        relay = None
        if settings.relay_listen is not None:
            relay = stack.enter_context(RelayThread(endpoint(settings.relay_listen), hub))
        app = new_hub_app(
            hub.service,
            nonces=SqlNonceStore(hub.engine, hub.operator.clock),
            booking=hub.booking,
            authorities={_authority(url), _authority(url_of(bound, tls=tls is not None))},
            checks={
                "database": lambda: _ask_database(hub),
                "ledger": lambda: hub.fault.words or hub.fault.waiting,
                **({"relay": relay.missing} if relay is not None else {}),
            },
            anchoring=lambda: None if hub.anchorer is None else hub.anchorer.state,
            max_body_bytes=settings.max_body_bytes,
        )
        loops = stack.enter_context(loops_of(hub, settings, delivered=app.state.mail.ring))

        def ready(_running: Running) -> None:
            loops.start()
            where = None if relay is None else str(relay.endpoint)
            log.info("hub.ready", url=url, relay=where, party=hub.operator.party)
            announce({"ready": True, "url": url, "relay": where, "party": hub.operator.party})

        serve_on(bound, app, tls=tls, on_ready=ready)
        log.info("hub.stopping")
    log.info("hub.stopped")


class Loops:
    """Threads that repeat a step until told to stop."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._loops = loops

    def __enter__(self) -> Loops:
        return self

    def __exit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.stop()
        for loop in self._loops:
            loop.join()

    def start(self) -> None:
        for loop in self._loops:
            loop.start()


class Loop:
    """step: returns whether it did something. A step that raises is repeated after a pause.

    wake: look now, something has changed; but not sooner than spacing_s after the last time that
    something was done.
    """

    def __init__(
        self, name: str, step: Callable[[], bool], pause_s: float, *, spacing_s: float = 0.0
    ) -> None:
        self._name = name
        self._step = step
        self._pause_s = pause_s
        self._spacing_s = spacing_s
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            pause_s = self._pause_s
            try:
                if self._step():
                    self._stopping.wait(self._spacing_s)
            except Exception as error:  # the hub outlives one failing round; recorded
                log.error("round.failed", loop=self._name, error=type(error).__qualname__)
                pause_s = max(pause_s, PAUSE_AFTER_FAILURE_S)
            self._woken.wait(pause_s)


def loops_of(
    hub: OpenedHub, settings: HubSettings, *, delivered: Callable[[], None] = lambda: None
) -> Loops:
    """The hub's threads, not started. delivered: called when a message was put into an inbox."""

    def order() -> bool:
        if hub.fault.words is not None:
            return False
        try:
            beginning = not hub.fault.compared
            if beginning:
                background.require_newest(hub.keeping)
                # Whoever audits takes a head that lacks what was due long before for the word of
                # an operator that keeps money: so what fell due meanwhile is in the first one, and
                # no earlier one is shown to witnesses.
                hub.keeping.known.caught_up = False
                with suppress(ExceptionGroup):  # jobs that cannot be moved: their own loop tells
                    move()
            grown = background.order(hub.store, hub.operator, hub.keeping)
            if beginning:
                hub.fault.settle()
        except (LogBehind, LogDiverged, OtherLog, WitnessDisagrees) as error:
            hub.fault.find(error)
            return False
        except NotCompared as error:
            hub.fault.wait(error)
            raise  # and again after a pause
        except Exception:
            hub.fault.compared = False  # what comes back may be an older copy
            raise
        if grown:
            jobs.wake()
            publishing.wake()
        return grown

    def publish() -> bool:
        if hub.fault.words is not None or not hub.fault.compared:
            return False
        done = background.publish(hub.operator, hub.keeping)
        if done is None:
            return False
        for name, error in done.failures.items():
            log.warning("witness.failed", witness=name, error=type(error).__qualname__)
            if isinstance(error, WitnessDisagrees):
                hub.fault.find(error)
        if done.witnessed:
            log.info("log.witnessed", size=done.checkpoint.size)
            jobs.wake()
            if filing is not None:
                filing.wake()
        return True

    unfiled: str | None = None

    def file(folder: Path) -> bool:
        nonlocal unfiled
        if hub.fault.words is not None or not hub.fault.compared:
            return False
        open_own = partial(open_own_note, hub.keeping.ever)
        try:
            done = publish_files(folder, LogSource(SqlLogDatabase(read_only(hub.engine))), open_own)
        except (LogBehind, LogDiverged) as error:
            hub.fault.find(error)
            return False
        except SourceUnreachable as error:
            if str(error) != unfiled:
                log.warning("files.waiting", reason=str(error))
            unfiled = str(error)
            return False
        unfiled = None
        if done is not None and done.files:
            log.info("log.filed", size=done.checkpoint.size, files=done.files)
        return done is not None and done.files > 0

    def anchor(anchorer: Anchorer) -> bool:
        if hub.fault.words is not None or not hub.fault.compared:
            return False
        try:
            done = keep_anchored(
                anchorer.database,
                anchorer.backend,
                anchorer.rules,
                clock=hub.operator.clock,
                hurry=anchorer.hurry,
            )
        except ChainDisagrees as error:
            anchorer.note(error)
            hub.fault.find(error)
            return False
        except LedgerError as error:
            anchorer.note(error)
            return False
        anchorer.note(done.waiting)
        for moved in done.moved:
            log.info("anchor.moved", size=moved.size, state=moved.state, simulated=moved.simulated)
        return bool(done.moved)

    def move() -> bool:
        moved = background.move_jobs(hub.store, hub.operator)
        if moved:
            log.info("jobs.moved", count=moved)
            delivered()
        return bool(moved)

    def follow_sm3() -> bool:
        if hub.fault.words is not None or not hub.fault.compared:
            return False
        return background.follow_sm3(hub.store, hub.operator, hub.keeping)

    interval_s = settings.checkpoint_interval_ms / 1000
    publish_s = settings.publish_interval_s
    ordering = Loop("ledger", order, interval_s)
    publishing = Loop("publish", publish, publish_s, spacing_s=publish_s)
    jobs = Loop("jobs", move, interval_s)
    loops = [ordering, publishing, jobs]
    filing = None
    if settings.tiles_folder is not None:
        filing = Loop("files", partial(file, settings.tiles_folder), publish_s)
        loops.append(filing)
    if hub.keeping.sm3 is not None:
        loops.append(Loop("sm3", follow_sm3, SM3_INTERVAL_S))
    if hub.anchorer is None:
        log.warning("anchor.none", reason="no [anchor] in the settings: heads go to no chain")
    else:
        anchoring = partial(anchor, hub.anchorer)
        loops.append(Loop("anchor", anchoring, hub.anchorer.poll_s))
    return Loops(loops)


class RelayThread:
    """The relay on an event loop of its own, so that streams and requests do not wait for each
    other. Raises CannotListen on entering."""

    def __init__(self, listen: Endpoint, hub: OpenedHub) -> None:
        sessions = Sessions(hub.store)
        self._relay = Relay(
            listen,
            signing_key=hub.service.signing_key,
            allowed=sessions.allowed,
            clock=hub.operator.clock,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)

    def __enter__(self) -> RelayThread:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._relay.start(), self._loop).result()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._relay.stop(), self._loop).result(STOP_S)
        self._end()

    @property
    def endpoint(self) -> Endpoint:
        return self._relay.endpoint

    def missing(self) -> str | None:
        return None if self._thread.is_alive() else "the relay has ended"

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)
        self._loop.close()


def _ask_database(hub: OpenedHub) -> str | None:
    hub.service.signing_key(hub.operator.party)  # an exception says that it cannot be checked
    return None


def _tls(settings: HubSettings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key)


def _authority(url: str) -> str:
    """As clients write it in Host: without the scheme's own port."""
    parts = urlsplit(url)
    own = {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    return name if parts.port in (None, own) else f"{name}:{parts.port}"
