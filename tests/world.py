"""A whole exchange in one process: hub, holders, consumer, regulator, witness, on real databases.

Only two things are not the real ones: requests go straight to the hub's service instead of over
HTTP, and the engine is the in-process fake, which computes real shares of the exact result.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

from sqlalchemy import Engine

from api.database import bring_up_to_date, open_engine, read_only
from api.folder import PartyFolder
from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.digest import Digest, digest
from crypto.errors import Malformed
from crypto.identifiers import DealId, JobId, PartyId, ProductId
from crypto.keys import ExchangeKey, SigningKey
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.statement import ChainHead
from exchange.approval import StandingApproval
from exchange.errors import HubUnreachable
from exchange.hub import background, registration
from exchange.hub.adapters.sql import SqlHubStore
from exchange.hub.background import LogKeeping
from exchange.hub.model import Operator, Outcome
from exchange.hub.service import HubService
from exchange.links.endpoint import Endpoint
from exchange.node import approving, registering
from exchange.node.adapters.sql import SqlNodeStore
from exchange.node.jobs import Desk
from exchange.node.links import Egress, PeerAddress
from exchange.node.model import Identity, Incoming
from exchange.node.negotiating import Party
from exchange.node.node import Node
from exchange.node.runs import Workshop
from exchange.node.shelf import Shelf
from exchange.node.watch import Watch
from exchange.query.adapters.sqlglot_reader import SqlglotReader
from exchange.query.question import Question
from exchange.submission import read_submission
from exchange.terms.agreement import Partner, Terms
from exchange.terms.negotiation import Negotiation
from ledger.adapters.sql import SqlLogDatabase
from ledger.verify.cosignature import cosign
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, Note, Signature, VerifierKey
from ledger.verify.policy import Policy
from pricing.errors import AccountNotFound
from pricing.money import Money
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.credit_code import check_character
from registry.party import Role
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, PrivacyRule, Use
from registry.source import FileFormat, FileSource
from tests.fakes.engine import EngineRoom, InProcessEngine

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
ORIGIN = "unseen.test/log"
PURPOSE = "research"
QUESTION = """
SELECT clinic.sex, BANDS(lab.s5, 4.60, 5.10) AS s5, COUNT(*) AS people,
       AVG(clinic.progression) AS progression
FROM clinic JOIN lab ON clinic.person = lab.person
GROUP BY clinic.sex, BANDS(lab.s5, 4.60, 5.10)
"""


@dataclass
class TestClock:
    """Moves only when told; every reading is one millisecond later, so that order shows."""

    __test__ = False
    at: datetime = START

    def now(self) -> datetime:
        self.at += timedelta(milliseconds=1)
        return self.at

    def pass_(self, span: timedelta) -> None:
        self.at += span


class InProcessWitness:
    """Cosigns whatever it is shown; the real one has its own tests."""

    def __init__(self, clock: TestClock) -> None:
        self._signer = SigningKey.generate()
        self._clock = clock
        self.key = VerifierKey("witness.test", COSIGNATURE, self._signer.public)
        self.keys = (self.key,)

    def on(self, clock: TestClock) -> InProcessWitness:
        """The same witness by another clock."""
        twin = copy(self)
        twin._clock = clock
        return twin

    def add_checkpoint(
        self, old_size: int, proof: Sequence[bytes], note: Note
    ) -> Sequence[Signature]:
        return [cosign(note.text, self.key.name, self._signer, now=self._clock.now())]


@dataclass
class DirectHub:
    """The hub as one party reaches it. `deceive`: what a lying hub does to each message.
    `down`: every call fails as an unreachable hub's does."""

    service: HubService
    caller: PartyId
    deceive: Callable[[Incoming], Sequence[Incoming]] = lambda message: [message]
    down: bool = False
    stages: list[str] = field(default_factory=list)

    def submit(self, entry: bytes, documents: Sequence[bytes]) -> Outcome:
        self._reach()
        return self.service.submit(self.caller, read_submission(entry, documents))

    def inbox(self, *, after: int, wait_s: float) -> Sequence[Incoming]:
        self._reach()
        return [
            changed
            for found in self.service.inbox(self.caller, after=after)
            for changed in self.deceive(Incoming(found.number, found.entry, found.documents))
        ]

    def party(self, party: PartyId) -> bytes:
        self._reach()
        return self.service.party(party)

    def document(self, digest: Digest) -> bytes:
        self._reach()
        return self.service.document(digest)

    def part(self, job: JobId, digest: Digest) -> bytes:
        self._reach()
        return self.service.part(self.caller, job, digest)

    def chain(self) -> ChainHead:
        self._reach()
        return self.service.chain(self.caller)

    def checkpoint(self) -> str:
        self._reach()
        return self.service.checkpoint()

    def consistency(self, old: int, new: int) -> Sequence[bytes]:
        self._reach()
        return self.service.consistency(old, new)

    def receipt(self, statement: Digest) -> str | None:
        self._reach()
        return self.service.receipt(statement)

    def progress(self, job: JobId, stage: str, detail: str) -> None:
        self._reach()
        self.service.progress(self.caller, job, stage, detail)
        self.stages.append(stage)

    def _reach(self) -> None:
        if self.down:
            raise HubUnreachable("the test has taken the hub down")


class NoSession:
    """Links are not needed where the engine needs none."""

    def tunnel_address(self, peer: PartyId) -> Endpoint:
        return Endpoint("127.0.0.1", 9)

    def egress(self) -> tuple[Egress, ...]:
        return ()

    def close(self) -> None:
        return


class NoLinks:
    def open_session(
        self,
        *,
        plan_digest: Digest,
        job_id: JobId,
        own: PeerAddress,
        peers: Mapping[PartyId, PeerAddress],
        engine_port: int,
    ) -> NoSession:
        return NoSession()


@dataclass
class Member:
    """One party of the test's exchange."""

    folder: PartyFolder
    node: Node
    hub: DirectHub

    @property
    def id(self) -> PartyId:
        return self.node.identity.party

    @property
    def desk(self) -> Desk:
        return Desk(
            self.node.store, self.hub, self.node.identity, ExchangeKey.generate, SqlglotReader
        )

    @property
    def negotiations(self) -> Party:
        return Party(self.node.store, self.hub, self.node.identity)


@dataclass
class World:
    """path: where every folder and database is. opened: who opened a source, in order.

    engines: each process's database, by member name, and the hub's as `hub`.
    """

    path: Path
    clock: TestClock = field(default_factory=TestClock)
    room: EngineRoom = field(default_factory=EngineRoom)
    members: dict[str, Member] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    engines: dict[str, Engine] = field(default_factory=dict)
    hub_url: str = ""

    def __post_init__(self) -> None:
        self.operator_folder = PartyFolder.create(
            self.path / "hub", "Operator", [Role.OPERATOR], now=START
        )
        self.log_signer = SigningKey.generate()
        self.witness = InProcessWitness(self.clock)
        self.registrar = SigningKey.generate()
        log_key = VerifierKey(ORIGIN, LOG_SIGNATURE, self.log_signer.public)
        self.policy = Policy.parse(
            f"log {log_key}\nwitness w {self.witness.key}\nquorum w\n".encode()
        )
        self.open_hub()
        with self.store.transaction() as tx:
            registration.register_operator(self.operator_folder.party, tx, self.operator)

    def open_hub(self) -> None:
        url = self.hub_url or f"sqlite:///{self.path}/hub.db"
        engine = open_engine(url)
        bring_up_to_date(engine, "hub")
        self.engines["hub"] = engine
        self.store = SqlHubStore(engine, read_only(engine))
        self.operator = Operator(
            self.operator_folder.party.document.party,
            self.operator_folder.signing,
            self.clock,
            SystemRandomness(),
        )
        self.service = HubService(self.store, self.operator)
        self.keeping = LogKeeping(
            ORIGIN, self.log_signer, SqlLogDatabase(engine), [self.witness], self.policy
        )
        for member in self.members.values():
            member.hub.service = self.service

    def join(self, name: str, *roles: Role) -> Member:
        """A new participant, registered at the hub and vouched for by the registrar."""
        folder = PartyFolder.create(
            self.path / name, name.title(), roles, now=START, controller=a_controller(name)
        )
        member = self.open_member(name, folder)
        registering.register(folder.party, store=member.node.store, identity=member.node.identity)
        self.members[name] = member
        self.round()
        return member

    def open_member(self, name: str, folder: PartyFolder) -> Member:
        """A node on this folder's keys and database, as after a start."""
        engine = open_engine(f"sqlite:///{self.path / name}/node.db")
        bring_up_to_date(engine, "node")
        self.engines[name] = engine
        store = SqlNodeStore(engine, read_only(engine))
        identity = Identity(
            party=folder.party.document.party,
            document=folder.party.digest,
            signing=folder.signing,
            sealing=folder.sealing_keys,
            agreement=folder.agreement_keys,
            operator=self.operator.party,
            link_address="",
            registrars=(self.registrar.public,),
            clock=self.clock,
            randomness=SystemRandomness(),
        )
        hub = DirectHub(self.service, identity.party)
        workshop = Workshop(
            engine=InProcessEngine(self.room),
            links=NoLinks(),
            open_source=lambda settings: self._open_source(name, settings),
            noise=OpenDpNoise(),
            free_port=lambda: 9,
            memory_bytes=1 << 30,
            shelf=Shelf(self.path / name),
            certificate=folder.party.document.tls_certificate,
            software="test",
            lock=digest(b"test"),
        )
        watch = Watch(store, hub, identity, self.policy)
        with store.transaction() as tx:
            for trusted in (self.operator_folder, folder):
                document = trusted.party.document
                tx.trust(document.party, document.identity.fingerprint, START)
                tx.add_party(trusted.party)
        return Member(folder, Node(store, hub, identity, watch, workshop), hub)

    def _open_source(self, name: str, settings: object) -> DuckDBFileSource:
        self.opened.append(name)
        if not isinstance(settings, FileSource):
            raise Malformed("source", "is not a file")
        return DuckDBFileSource(settings)

    def restart(self, name: str) -> Member:
        """The member's process again, on its files, after the old one has gone."""
        self.members[name] = self.open_member(name, self.members[name].folder)
        self.members[name].node.begin()
        return self.members[name]

    def copied_to(self, path: Path) -> World:
        """Every process again, on copies of its files as they are now. Sources stay where they
        are: nothing writes to them."""
        for name in self.members:
            (path / name).mkdir(parents=True)
            _copy(self.path / name / "node.db", path / name / "node.db")
        (path / "hub").mkdir()
        _copy(self.path / "hub.db", path / "hub.db")
        twin = copy(self)
        twin.path = path
        twin.clock = TestClock(self.clock.at)
        twin.room = EngineRoom()
        twin.opened = []
        twin.engines = {}
        twin.witness = self.witness.on(twin.clock)
        twin.members = {}
        twin.open_hub()
        for name, member in self.members.items():
            twin.members[name] = twin.open_member(name, member.folder)
        return twin

    def close(self) -> None:
        """Close every database, for tests that make many worlds."""
        for engine in self.engines.values():
            engine.dispose()

    def introduce(self) -> None:
        """Everybody confirms everybody's fingerprint."""
        for member in self.members.values():
            with member.node.store.transaction() as tx:
                for other in self.members.values():
                    document = other.folder.party.document
                    tx.trust(document.party, document.identity.fingerprint, START)

    def round(self) -> bool:
        """Every process does one step. Whether anything happened."""
        happened = False
        for member in self.members.values():
            if not member.hub.down:
                happened |= bool(member.node.hear(wait_s=0))
                happened |= member.node.work()
        happened |= self.hub_step()
        for member in self.members.values():
            for run in list(member.node.runs.values()):
                run.join(0.02)
                happened = True  # it may have left a statement to send
        return happened

    def hub_step(self) -> bool:
        happened = background.order(self.store, self.operator, self.keeping)
        background.publish(self.operator, self.keeping)
        return bool(background.move_jobs(self.store, self.operator)) or happened

    def settle(self, rounds: int = 60) -> None:
        """Go on until nothing happens any more."""
        for _ in range(rounds):
            if not self.round():
                return
        raise AssertionError("the exchange did not come to rest")

    def fund(self, name: str, amount: int) -> None:
        party = self.members[name].id
        money = Money("TEST", Amount(amount))
        self.service.fund(self.operator.party, party, money, key=f"fund-{name}")

    def available(self, name: str) -> int:
        try:
            return self.service.balance(self.members[name].id, "TEST").available.amount_minor
        except AccountNotFound:
            return 0


CLINIC_ROWS = [
    # person, sex, progression (one decimal place), the last one is not at the laboratory
    *[(f"p{i:03d}", "f" if i % 2 else "m", f"{100 + i}.5") for i in range(40)],
    ("only-clinic", "f", "10.0"),
]
LAB_ROWS = [
    *[(f"p{i:03d}", f"{4 + (i % 4) * 0.5:.2f}") for i in range(40)],
    ("only-lab", "9.00"),
]


@dataclass
class Deal:
    """A finalised deal between research, clinic and laboratory."""

    world: World
    deal: DealId
    clinic_product: DataProduct
    lab_product: DataProduct

    def question(self, **changes: object) -> Question:
        asked = {
            "sql": QUESTION,
            "tables": {"clinic": self.clinic_product.id, "lab": self.lab_product.id},
            "purpose": PURPOSE,
            "min_group": 5,
            "run_seconds": 60,
            **changes,
        }
        return Question(**asked)  # type: ignore[arg-type]

    def copied_to(self, path: Path) -> Deal:
        """The deal in a world of its own, as it is now."""
        world = self.world.copied_to(path)
        return Deal(world, self.deal, self.clinic_product, self.lab_product)

    def submit(self, **changes: object) -> JobId:
        desk = self.world.members["research"].desk
        return desk.submit(desk.compile(self.deal, self.question(**changes)))

    def approve_standing(self) -> None:
        """Both holders admit this consumer's jobs without asking a person."""
        for name, product in (("clinic", self.clinic_product), ("lab", self.lab_product)):
            approve(self.world, name, an_approval(self.world, product))


def an_approval(world: World, product: DataProduct, **limits: object) -> StandingApproval:
    """Of the research company's jobs on a product."""
    settings: dict[str, object] = {
        "product": product.id,
        "consumers": (world.members["research"].id,),
        "purposes": (PURPOSE,),
        "min_group": 5,
        "runs_per_day": 100,
        "valid_until": START + timedelta(days=30),
        **limits,
    }
    return StandingApproval(**settings)  # type: ignore[arg-type]


def approve(world: World, name: str, approval: StandingApproval) -> Digest:
    """The statement by which this holder's node admits such jobs from here on."""
    node = world.members[name].node
    with node.store.transaction() as tx:
        return approving.approve(approval, tx=tx, identity=node.identity)


def a_controller(name: str) -> str:
    """A valid credit code of an organisation of this name that controls itself."""
    own = int.from_bytes(name.encode().ljust(8)[:8], "big") % 10**9
    body = f"91110000{own:09}"
    return body + check_character(body)


def a_world(path: Path, **settings: object) -> World:
    """Hub, clinic, laboratory, research company and regulator, all registered and introduced."""
    world = World(path, **settings)  # type: ignore[arg-type]
    world.join("clinic", Role.HOLDER)
    world.join("lab", Role.HOLDER)
    world.join("research", Role.CONSUMER)
    world.join("regulator", Role.REGULATOR)
    world.introduce()
    world.settle()
    return world


def a_deal(
    world: World,
    *,
    runs: int = 5,
    price: int = 1000,
    funded: int = 10_000,
    joins: tuple[Join, ...] = (Join.REVEALED,),
    epsilon: Fraction = Fraction(0),
) -> Deal:
    """Products listed, two agreements finalised, the consumer's account funded. For joins with a
    helper, one has joined the world that helps unasked."""
    helper = None
    if Join.HIDDEN in joins or Join.UNION in joins:
        member = world.join("helper", Role.HELPER)
        member.desk.help_unasked(True)
        world.introduce()
        helper = member.id
    clinic = list_rows(
        world, "clinic", CLINIC_ROWS, ("person", "sex", "progression"), price, clinic_columns()
    )
    lab = list_rows(world, "lab", LAB_ROWS, ("person", "s5"), price, lab_columns())
    world.settle()
    deal = DealId.new(world.clock.now(), SystemRandomness())
    for name, product, other in (("clinic", clinic, lab), ("lab", lab, clinic)):
        agreed = {"runs": runs, "joins": joins, "helper": helper, "epsilon": epsilon}
        negotiate(world, name, deal, terms_for(world, product, other, **agreed))
    if funded:
        world.fund("research", funded)
    world.settle()
    return Deal(world, deal, clinic, lab)


def terms_for(world: World, product: DataProduct, *others: DataProduct, **changes: object) -> Terms:
    regulator = world.members["regulator"].folder.party
    settings: dict[str, object] = {
        "product_id": product.id,
        "product": registering.product_digest(product),
        "purposes": (PURPOSE,),
        "joins": (Join.REVEALED,),
        "combine_with": tuple(Partner(other.id, other.holder) for other in others),
        "helper": None,
        "min_group": 5,
        "runs": 5,
        "epsilon": Fraction(0),
        "currency": product.currency,
        "price_minor": product.price_minor,
        "valid_from": START,
        "valid_until": START + timedelta(days=30),
        "regulator": regulator.document.party,
        "regulator_document": regulator.digest,
        **changes,
    }
    return Terms(**settings)  # type: ignore[arg-type]


def negotiate(world: World, holder: str, deal: DealId, terms: Terms) -> Negotiation:
    """Request, agree; verification and finalisation follow by themselves."""
    consumer = world.members["research"]
    begun = consumer.negotiations.request(deal, world.members[holder].id, terms)
    world.settle()
    world.members[holder].negotiations.agree(begun.id)
    world.settle()
    return begun


def list_rows(
    world: World,
    name: str,
    rows: Sequence[tuple[str, ...]],
    header: tuple[str, ...],
    price: int,
    described: tuple[tuple[Column, ...], Mapping[str, tuple[Use, ...]]],
    *,
    cap: int = 1000,
) -> DataProduct:
    """List a data product over these rows and set its source."""
    member = world.members[name]
    path = world.path / name / "rows.csv"
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    columns, uses = described
    product = DataProduct(
        v=1,
        id=ProductId.new(world.clock.now(), SystemRandomness()),
        version=1,
        holder=member.id,
        holder_document=member.folder.party.digest,
        name=f"{name} data",
        description="test rows",
        columns=columns,
        key="person",
        cap=cap,
        rule=AnalysisRule(
            uses=uses,
            functions=tuple(Function),
            joins=(Join.HIDDEN, Join.REVEALED, Join.SUM, Join.UNION, Join.ALONE),
            min_group=5,
            purposes=(PURPOSE,),
            privacy=PrivacyRule(Fraction(4), Fraction(40), Fraction(1, 10**3), noise=False),
        ),
        currency="TEST",
        price_minor=Amount(price),
    )
    registering.list_product(product, store=member.node.store, identity=member.node.identity)
    with member.node.store.transaction() as tx:
        tx.save_source(product.id, name, FileSource(str(path), FileFormat.CSV))
    return product


def clinic_columns() -> tuple[tuple[Column, ...], Mapping[str, tuple[Use, ...]]]:
    columns = (
        Column("person", ColumnType.TEXT, "invented person id"),
        Column("sex", ColumnType.TEXT, "sex", categories=("f", "m")),
        Column("progression", ColumnType.DECIMAL, "progression", decimals=1, low=0, high=10_000),
    )
    uses = {
        "person": (Use.JOIN_KEY,),
        "sex": (Use.GROUP_KEY, Use.FILTER),
        "progression": (Use.AGGREGATE,),
    }
    return columns, uses


def lab_columns() -> tuple[tuple[Column, ...], Mapping[str, tuple[Use, ...]]]:
    columns = (
        Column("person", ColumnType.TEXT, "invented person id"),
        Column("s5", ColumnType.DECIMAL, "serum 5", decimals=2, low=0, high=1000),
    )
    return columns, {"person": (Use.JOIN_KEY,), "s5": (Use.GROUP_KEY, Use.AGGREGATE)}


def _copy(database: Path, to: Path) -> None:
    """SQLite's own backup, which sees what is still in the write-ahead log."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


@contextmanager
def down(member: Member) -> Iterator[None]:
    member.hub.down = True
    try:
        yield
    finally:
        member.hub.down = False
