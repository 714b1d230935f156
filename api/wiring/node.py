"""A participant's node as a process, and the same parts as the desk's commands use them.

The process has four threads: one listens at the hub, one works (decides, runs, opens, sends), one
watches the ledger, and the main one waits for the signal to stop. Commands such as
`exchange node approve` open the same folder and database and leave their statements in the
outbox; the working thread finds them there.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Engine

from api.client.hub import HubClient
from api.client.transport import Transport
from api.database import bring_up_to_date, open_engine, read_only
from api.folder import PartyFolder
from api.settings import NodeSettings, SettingsRefused
from crypto.digest import Digest, digest
from crypto.errors import CryptoError
from crypto.identifiers import PartyId
from crypto.keys import ExchangeKey, PublicKey
from crypto.ports import SystemClock, SystemRandomness
from exchange.errors import ExchangeError, HubUnreachable
from exchange.links.endpoint import Endpoint, Proxy
from exchange.node import jobs, outbox, registering
from exchange.node.adapters.sql import SqlNodeStore
from exchange.node.jobs import Desk
from exchange.node.model import Alarm, Identity
from exchange.node.negotiating import Party
from exchange.node.node import Node
from exchange.node.runs import Workshop
from exchange.node.shelf import Shelf
from exchange.node.watch import Watch
from exchange.query.ports import SqlReader
from ledger.verify.policy import Policy
from registry.party import Role
from registry.ports import DataSource
from registry.source import FileSource, PostgresSource, SourceSettings

LISTEN_S: Final = 20.0
WORK_PAUSE_S: Final = 0.1
WATCH_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 15.0
STOP_S: Final = 10.0

log = structlog.get_logger("node")


@dataclass(frozen=True)
class Opened:
    """A node's folder and database, opened: what commands and the process have in common."""

    settings: NodeSettings
    folder: PartyFolder
    engine: Engine
    store: SqlNodeStore
    identity: Identity
    hub: HubClient

    @property
    def desk(self) -> Desk:
        return Desk(self.store, self.hub, self.identity, ExchangeKey.generate, sql_reader)

    @property
    def shelf(self) -> Shelf:
        return Shelf(self.settings.folder)

    @property
    def negotiations(self) -> Party:
        return Party(self.store, self.hub, self.identity)

    def watch(self) -> Watch:
        path = self.settings.policy_file
        try:
            policy = Policy.parse(path.read_bytes())
        except FileNotFoundError:
            raise SettingsRefused(
                "policy_file",
                f"{path} does not exist; ask the operator for the ledger's policy file",
            ) from None
        return Watch(self.store, self.hub, self.identity, policy)

    def close(self) -> None:
        self.hub.close()
        self.engine.dispose()


def open_node(settings: NodeSettings) -> Opened:
    """Raises SettingsRefused, DocumentRefused or KeyFileRefused, saying what is missing."""
    address = settings.link_address or settings.link_listen
    # The hub logs no admission with an address that is none, and takes nothing that comes after it.
    link_address = "" if address is None else str(Endpoint.parse(address, where="link_address"))
    folder = PartyFolder(settings.folder)
    folder.finish_rotation()
    party = folder.party
    clock, randomness = SystemClock(), SystemRandomness()
    engine = open_engine(settings.database_url or f"sqlite:///{settings.folder / 'node.db'}")
    bring_up_to_date(engine, "node")
    database = settings.folder / "node.db"
    if database.exists():
        database.chmod(0o600)  # it holds ephemeral keys while a job runs
    store = SqlNodeStore(engine, read_only(engine))
    with store.transaction() as tx:
        own = party.document
        tx.trust(own.party, own.identity.fingerprint, clock.now())
        tx.add_party(party)
    identity = Identity(
        party=party.document.party,
        document=party.digest,
        signing=folder.signing,
        sealing=folder.sealing_keys,
        agreement=folder.agreement_keys,
        operator=PartyId.parse(settings.operator, where="operator"),
        link_address=link_address,
        registrars=tuple(PublicKey.parse(text, where="registrars") for text in settings.registrars),
        clock=clock,
        randomness=randomness,
    )
    transport = Transport(
        settings.hub_url,
        identity.party,
        identity.signing,
        clock=clock,
        randomness=randomness,
        ca_file=settings.ca_file,
        proxy_url=settings.proxy_url,
    )
    return Opened(settings, folder, engine, store, identity, HubClient(transport))


def run_node(settings: NodeSettings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    with PartyFolder(settings.folder).alone():
        return _run(open_node(settings), stop)


def _run(opened: Opened, stop: threading.Event) -> int:
    workshop, close_workshop = _workshop(opened)
    node = Node(opened.store, opened.hub, opened.identity, opened.watch(), workshop)
    try:
        if not _begin(opened, node, stop):
            return 0
        _say_ready(opened)
        threads = [
            threading.Thread(target=loop, args=(node, stop), name=name, daemon=True)
            for name, loop in (("listen", _listen), ("work", _work), ("watch", _watch))
        ]
        for thread in threads:
            thread.start()
        stop.wait()
        node.stop(STOP_S)
        for thread in threads[1:]:
            thread.join(STOP_S)  # the listening one may be waiting at the hub; it has no duties
        return 0
    finally:
        close_workshop()


def sql_reader() -> SqlReader:
    """Imported here: only a consumer who compiles a question reads SQL."""
    from exchange.query.adapters.sqlglot_reader import SqlglotReader

    return SqlglotReader()


def open_source(settings: SourceSettings) -> DataSource:
    """The adapter that reads a holder's rows. Imported here: consumers need neither."""
    match settings:
        case FileSource():
            from registry.adapters.duckdb_source import DuckDBFileSource

            return DuckDBFileSource(settings)
        case PostgresSource():
            from registry.adapters.postgres_source import PostgresTableSource

            return PostgresTableSource(settings, lambda sql: log.info("source.sql", sql=sql))


def lock_digest() -> Digest:
    """Digest of requirements.lock: exactly which libraries this node runs with."""
    path = Path(__file__).parents[2] / "requirements.lock"
    try:
        return digest(path.read_bytes())
    except FileNotFoundError:
        raise SettingsRefused(
            "installation", f"{path} is missing; install the project as its README says"
        ) from None


def _workshop(opened: Opened) -> tuple[Workshop | None, Callable[[], None]]:
    """Engine and links, for those who compute: holders and helpers, and a consumer when it scores
    or looks something up."""
    roles = set(opened.folder.party.document.roles)
    if not roles & {Role.HOLDER, Role.HELPER, Role.CONSUMER}:
        return None, opened.close
    from crypto.adapters.opendp_noise import OpenDpNoise
    from exchange.node.adapters.process_engine import ProcessEngine, free_port
    from exchange.node.adapters.tls_links import LinkService

    settings, identity, tls = opened.settings, opened.identity, opened.folder.tls
    engine = ProcessEngine(settings.folder / "engine", settings.folder / "engine-logs")
    if roles & {Role.HOLDER, Role.HELPER}:
        engine.warm()  # a child that loads for a consumer's rare runs would only cost memory
    links = LinkService(
        identity.party,
        tls,
        listen=_endpoint(settings.link_listen),
        relay=_endpoint(settings.relay),
        proxy=Proxy.parse(settings.proxy_url) if settings.proxy_url else None,
        signer=identity.signing,
        clock=identity.clock,
        randomness=identity.randomness,
        networks=[ip_network(text) for text in settings.peer_networks],
    )
    links.start()

    def close() -> None:
        links.stop()
        engine.close()
        opened.close()

    workshop = Workshop(
        engine=engine,
        links=links,
        open_source=open_source,
        noise=OpenDpNoise(),
        free_port=free_port,
        memory_bytes=settings.engine_memory_mb << 20,
        shelf=opened.shelf,
        certificate=tls.certificate,
        software="unseen 0.1.0",
        lock=lock_digest(),
    )
    return workshop, close


def _begin(opened: Opened, node: Node, stop: threading.Event) -> bool:
    """Wait for the hub, then check that this node's records are not older than the ledger."""
    pause = _Backoff()
    while not stop.is_set():
        try:
            _finish_rotation(opened)
            node.begin()
            return True
        except HubUnreachable as error:
            log.warning("hub.unreachable", reason=str(error), retry_in_s=pause.next())
            stop.wait(pause.wait_s)
    return False


def _finish_rotation(opened: Opened) -> None:
    """A rotation that was interrupted: until the hub has heard of the new keys, it takes nothing
    else that they sign. Raises HubUnreachable."""
    party = opened.folder.party
    if party.document.seq > 0:
        registering.announce(party, store=opened.store, identity=opened.identity)
        with opened.store.reading() as tx:
            said = tx.last_said(registering.UPDATED, party.document.party)
            sent = said is None or tx.sent(said) is not None
        if not sent:
            outbox.send(opened.store, opened.hub, opened.identity, jobs.heed_answer)


def _listen(node: Node, stop: threading.Event) -> None:
    _loop(stop, lambda: node.hear(wait_s=LISTEN_S) >= 0, node)


def _work(node: Node, stop: threading.Event) -> None:
    def step() -> bool:
        node.news.clear()  # before looking: what happens after the look ends the pause at once
        if not node.work():
            node.news.wait(WORK_PAUSE_S)  # what a command leaves in the database rings no bell
        return True

    _loop(stop, step, node)


def _watch(node: Node, stop: threading.Event) -> None:
    def step() -> bool:
        node.look()
        stop.wait(WATCH_PAUSE_S)
        return True

    _loop(stop, step, node)


def _loop(stop: threading.Event, step: Callable[[], bool], node: Node) -> None:
    """Do a step until told to stop; lose the hub, back off, come back.

    Nothing ends a loop but `stop`: a database that is busy for too long, or a full disk, must not
    put an end to the watch over the hub.
    """
    pause = _Backoff()
    while not stop.is_set():
        try:
            if _step(step, node):
                if pause.failures:
                    log.info("hub.back")
                pause = _Backoff()
                continue
            pause.next()
        except HubUnreachable as error:
            log.warning("hub.unreachable", reason=str(error), retry_in_s=pause.next())
        except Exception as error:
            log.exception("round.failed", kind=type(error).__name__, retry_in_s=pause.next())
        stop.wait(pause.wait_s)


def _step(step: Callable[[], bool], node: Node) -> bool:
    """One step; False if it raised an alarm: a statement that the hub does not take, or evidence
    that does not hold. A person must look, and the node goes on saying so."""
    try:
        step()
        return True
    except HubUnreachable:
        raise
    except (ExchangeError, CryptoError) as error:
        with node.store.transaction() as tx:
            alarm = Alarm(type(error).__name__, str(error), node.identity.clock.now())
            fresh = tx.add_alarm(alarm)
        if fresh:
            log.error("alarm", kind=type(error).__name__, words=str(error))
        return False


class _Backoff:
    """Waits that double, with a random part, so that nodes do not come back all at once."""

    def __init__(self) -> None:
        self.failures = 0
        self.wait_s = 0.0

    def next(self) -> float:
        longest = min(LONGEST_PAUSE_S, 0.2 * 2**self.failures)
        self.failures += 1
        self.wait_s = round(random.uniform(longest / 2, longest), 2)  # noqa: S311 - not a secret
        return self.wait_s


def _say_ready(opened: Opened) -> None:
    line = {"ready": True, "party": opened.identity.party, "hub": opened.settings.hub_url}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _endpoint(text: str | None) -> Endpoint | None:
    return Endpoint.parse(text) if text else None
