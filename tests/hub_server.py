"""The test's exchange with a real web server between the parties and the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import Engine
from sqlmodel import Session

from api.client.hub import HubClient
from api.client.transport import Transport
from api.database import open_engine
from api.folder import PartyFolder
from api.http.adapters.sql import SqlIdempotencyStore, SqlNonceStore
from api.http.server import Running, serving
from api.hub.app import new_hub_app
from api.hub.desk import Booking
from crypto.identifiers import PartyId
from crypto.keys import Signer
from crypto.ports import Clock, SystemRandomness
from crypto.statement import Act, ChainHead, SignedStatement, sign_statement
from exchange.evidence import alarmed
from exchange.hub.adapters.sql import SqlHubTransaction
from exchange.hub.service import HubService
from exchange.node import registering
from registry.evidence import party_registered
from registry.party import Role
from tests.world import START, Member, World, a_controller


class WireHub(HubClient):
    """HubClient, with the switch that the test's world looks at."""

    down = False
    service: HubService


def hub_app(service: HubService, engine: Engine, clock: Clock) -> FastAPI:
    @contextmanager
    def booking() -> Iterator[Booking]:
        with Session(engine) as session, session.begin():
            yield Booking(SqlHubTransaction(session), SqlIdempotencyStore(session))

    return new_hub_app(
        service,
        nonces=SqlNonceStore(engine, clock),
        booking=booking,
        authorities=(),
        checks={},
    )


def client(url: str, party: PartyId | None, signer: Signer | None, clock: Clock) -> WireHub:
    transport = Transport(
        url,
        party,
        signer,
        clock=clock,
        randomness=SystemRandomness(),
        pause=lambda _: None,
    )
    return WireHub(transport)


@dataclass
class HttpWorld(World):
    """A World whose members reach the hub over HTTP. Close `stack` at the end."""

    stack: ExitStack = field(default_factory=ExitStack)
    running: Running | None = None

    @property
    def url(self) -> str:
        assert self.running is not None
        return self.running.url

    def open_hub(self) -> None:
        super().open_hub()
        engine = open_engine(self.hub_url or f"sqlite:///{self.path}/hub.db")
        self.app = hub_app(self.service, engine, self.clock)
        self.running = self.stack.enter_context(serving(self.app))

    def open_member(self, name: str, folder: PartyFolder) -> Member:
        member = super().open_member(name, folder)
        node = member.node
        wire = client(self.url, node.identity.party, node.identity.signing, self.clock)
        self.stack.callback(wire.close)
        node = replace(node, hub=wire, watch=replace(node.watch, hub=wire))
        return Member(folder, node, wire)  # type: ignore[arg-type]

    def join(self, name: str, *roles: Role) -> Member:
        """Registers before it listens: a hub does not take requests of strangers."""
        folder = PartyFolder.create(
            self.path / name, name.title(), roles, now=START, controller=a_controller(name)
        )
        member = self.open_member(name, folder)
        node = member.node
        registering.register(folder.party, store=node.store, identity=node.identity)
        node.work()
        self.members[name] = member
        self.round()
        return member

    def operator_client(self) -> WireHub:
        wire = client(self.url, self.operator.party, self.operator.signer, self.clock)
        self.stack.callback(wire.close)
        return wire


@dataclass
class Speaker:
    """A party that speaks to the hub without a node: keys, a chain and a client."""

    folder: PartyFolder
    clock: Clock
    hub: WireHub
    head: ChainHead = field(default_factory=ChainHead)

    @classmethod
    def new(cls, path: Path, url: str, clock: Clock, role: Role = Role.HOLDER) -> Speaker:
        folder = PartyFolder.create(path, path.name, [role], now=clock.now())
        return cls(folder, clock, client(url, folder.party.document.party, folder.signing, clock))

    @property
    def id(self) -> PartyId:
        return self.folder.party.document.party

    def signed(self, act: Act) -> SignedStatement:
        """The next statement; whoever says it moves the chain on."""
        return sign_statement(
            act,
            actor=self.id,
            head=self.head,
            signer=self.folder.signing,
            now=self.clock.now(),
            randomness=SystemRandomness(),
        )

    def say(self, act: Act, *documents: bytes) -> SignedStatement:
        statement = self.signed(act)
        self.hub.submit(statement.entry, documents)
        self.head = statement.head
        return statement

    def register(self) -> SignedStatement:
        party = self.folder.party
        return self.say(party_registered(party), party.envelope.to_bytes())

    def cry(self, words: str) -> SignedStatement:
        """The simplest act that a participant can report."""
        return self.say(alarmed(self.id, kind="Test", words=words))


@contextmanager
def an_http_world(path: Path, hub_url: str = "") -> Iterator[HttpWorld]:
    """Hub, clinic, laboratory, research company and regulator, registered and introduced."""
    with ExitStack() as stack:
        world = HttpWorld(path, hub_url=hub_url, stack=stack)
        world.join("clinic", Role.HOLDER)
        world.join("lab", Role.HOLDER)
        world.join("research", Role.CONSUMER)
        world.join("regulator", Role.REGULATOR)
        world.introduce()
        world.settle()
        yield world
