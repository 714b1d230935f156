"""Deals about one holder's lookup table or model, in a world of tests.world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crypto.identifiers import DealId, JobId, ProductId
from crypto.ports import SystemRandomness
from crypto.record import Amount
from crypto.scoring.model import Float64Array, ScoringModel
from exchange.jobs import JobState
from exchange.node import lookups, models, registering, requests
from exchange.node.model import NodeJob
from exchange.node.runs import Workshop
from exchange.query.plan import Plan
from exchange.query.requests import Request
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.product import Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Join, Use
from registry.source import FileFormat, FileSource
from tests.fakes.request_engine import GROUP, RequestEngine, RequestRoom
from tests.world import PURPOSE, Member, World, negotiate, terms_for

PEOPLE = [
    ("p001", "f", "Zürich", "28.4"),
    ("p002", "m", "", "31.0"),
    ("p003", "f", '"quoted", text', "0.5"),
    ("p004", "m", "Basel", ""),
]
COLUMNS = ("sex", "town", "bmi")


@dataclass
class OneHolder:
    """A finalised agreement of research about one product of the clinic's."""

    world: World
    deal: DealId
    product: DataProduct

    @property
    def holder(self) -> Member:
        return self.world.members["clinic"]

    @property
    def consumer(self) -> Member:
        return self.world.members["research"]

    def plan(self, meant: int, sent: int | None = None) -> Plan:
        request = Request(self.product.id, PURPOSE, meant, sent, run_seconds=60)
        return self.consumer.desk.compile_request(self.deal, request)

    def look_up(self, keys: Sequence[str], sent: int | None = None) -> JobId:
        plan = self.plan(len(keys), sent)
        requests.ask_keys(plan, self.product, keys, workshop(self.consumer).shelf)
        return self.consumer.desk.submit(plan)

    def score(self, values: Float64Array, sent: int | None = None) -> JobId:
        plan = self.plan(len(values), sent)
        names = [f"row {number}" for number in range(len(values))]
        requests.ask_rows(plan, self.product, names, values, workshop(self.consumer).shelf)
        return self.consumer.desk.submit(plan)

    def approve(self, job: JobId) -> None:
        self.world.settle()
        self.holder.desk.approve(job)
        self.world.settle()

    def job(self, number: JobId) -> NodeJob:
        with self.consumer.node.store.reading() as tx:
            found = tx.job(number)
        assert found is not None
        return found

    def released(self, number: JobId) -> None:
        found = self.job(number)
        assert found.state is JobState.RELEASED, found.reason

    def alarms(self, member: Member) -> list[str]:
        with member.node.store.reading() as tx:
            return [alarm.words for alarm in tx.alarms()]


def workshop(member: Member) -> Workshop:
    found = member.node.workshop
    assert found is not None
    return found


def with_request_engines(world: World) -> RequestRoom:
    """Every member computes scores and lookups in this process."""
    room = RequestRoom()
    for member in world.members.values():
        engine = RequestEngine(room)
        member.node.workshop = replace(workshop(member), engine=engine)
    return room


def a_lookup_product(
    world: World, *, rows: Sequence[tuple[str, ...]] = PEOPLE, per_day: int = 64, cap: int = 10
) -> DataProduct:
    """Listed by the clinic, with the table over it made."""
    clinic = world.members["clinic"]
    path = world.path / "clinic" / "people.csv"
    header, whole = ("person", *COLUMNS, "income"), [(*row, "1") for row in rows]
    lines = [",".join(_quoted(value) for value in row) for row in [header, *whole]]
    path.write_text("\n".join(lines) + "\n")
    product = DataProduct(
        v=1,
        id=ProductId.new(world.clock.now(), SystemRandomness()),
        version=1,
        holder=clinic.id,
        holder_document=clinic.folder.party.digest,
        name="people",
        description="test rows",
        columns=(
            Column("person", ColumnType.TEXT, "invented person id"),
            Column("sex", ColumnType.TEXT, "sex", categories=("f", "m")),
            Column("town", ColumnType.TEXT, "town"),
            Column("bmi", ColumnType.DECIMAL, "body mass index", decimals=1, low=0, high=1000),
            Column("income", ColumnType.INTEGER, "not for anybody", low=0, high=10**9),
        ),
        key="person",
        cap=cap,
        rule=AnalysisRule(
            uses={"person": (Use.JOIN_KEY,), **dict.fromkeys(COLUMNS, (Use.LOOKUP,))},
            functions=(),
            joins=(Join.LOOKUP,),
            min_group=5,
            purposes=(PURPOSE,),
            evaluations_per_day=per_day,
        ),
        currency="TEST",
        price_minor=Amount(1000),
    )
    store, identity = clinic.node.store, clinic.node.identity
    registering.list_product(product, store=store, identity=identity)
    with store.transaction() as tx:
        tx.save_source(product.id, "clinic", FileSource(str(path), FileFormat.CSV))
    return make_table(world, product.id)


def make_table(world: World, product: ProductId) -> DataProduct:
    clinic = world.members["clinic"]

    def open_source(settings: object) -> DuckDBFileSource:
        assert isinstance(settings, FileSource)
        return DuckDBFileSource(settings)

    return lookups.make(
        product,
        COLUMNS,
        text_bytes=32,
        group=GROUP,
        open_source=open_source,
        store=clinic.node.store,
        identity=clinic.node.identity,
        shelf=workshop(clinic).shelf,
    )


def a_model_product(world: World, model: ScoringModel, *, per_day: int = 100_000) -> DataProduct:
    """Listed by the clinic, which keeps the weights."""
    clinic = world.members["clinic"]
    shelf, identity = workshop(clinic).shelf, clinic.node.identity
    card = models.keep(model, shelf=shelf, randomness=identity.randomness)
    features = model.shape.features
    product = DataProduct(
        v=1,
        id=ProductId.new(world.clock.now(), SystemRandomness()),
        version=1,
        holder=clinic.id,
        holder_document=clinic.folder.party.digest,
        name="risk",
        description="a model",
        columns=tuple(
            Column(f.name, ColumnType.DECIMAL, f.name, decimals=f.decimals, low=f.low, high=f.high)
            for f in features
        ),
        key="",
        cap=1,
        rule=AnalysisRule(
            uses={feature.name: (Use.FEATURE,) for feature in features},
            functions=(),
            joins=(Join.SCORE,),
            min_group=5,
            purposes=(PURPOSE,),
            evaluations_per_day=per_day,
        ),
        currency="TEST",
        price_minor=Amount(1000),
        model=card,
    )
    registering.list_product(product, store=clinic.node.store, identity=identity)
    return product


def a_request_deal(
    world: World, product: DataProduct, *, runs: int = 5, deal: DealId | None = None
) -> OneHolder:
    """Agreed on, and paid for in advance. The regulator of the world reads openings.

    deal: one that has agreements already
    """
    world.settle()
    deal = deal or DealId.new(world.clock.now(), SystemRandomness())
    terms = terms_for(world, product, product, joins=product.rule.joins, runs=runs)
    negotiate(world, "clinic", deal, replace(terms, combine_with=()))
    if not world.available("research"):
        world.fund("research", 10_000)
    world.settle()
    return OneHolder(world, deal, product)


def a_lookup_deal(world: World, **product: int) -> OneHolder:
    return a_request_deal(world, a_lookup_product(world, **product))  # type: ignore[arg-type]


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def some_rows(count: int, features: int) -> Float64Array:
    return np.random.default_rng(7).uniform(-4, 6, size=(count, features))
