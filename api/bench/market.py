"""A hub with a full catalogue and standing agreements, and the requests that parties send to it.

Everything that comes before a job (registration, listing, negotiation) is put into the database
directly; the jobs themselves are submitted as nodes do, over HTTP.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Final
from urllib.parse import quote_plus

from sqlalchemy import insert
from sqlmodel import Session

from api.bench.load import HOST, http_request
from api.demo import deal
from api.folder import PartyFolder
from api.http.signing import HttpRequest, sign
from api.operator import create_hub
from api.settings import HubSettings
from api.wiring.hub import OpenedHub, open_hub
from crypto import envelope as dsse
from crypto import record
from crypto.digest import SALT_BYTES, Digest
from crypto.identifiers import AgreementId, DealId, NegotiationId, ProductId
from crypto.ports import SystemClock, SystemRandomness
from crypto.record import Amount
from crypto.statement import ChainHead, sign_statement
from exchange import evidence
from exchange.hub.model import HubAgreement
from exchange.query import plan as plans
from exchange.query.adapters.sqlglot_reader import SqlglotReader
from exchange.query.question import Footing, compile_question
from exchange.query.rules import Ground
from exchange.terms.agreement import Agreement, sign_agreement
from pricing.money import Money
from registry.adapters.sql import CatalogueRow, ProductRow, fold
from registry.party import Role
from registry.product import PAYLOAD_TYPE, DataProduct

SEED: Final = 20261123
PRODUCTS: Final = 10_000
FUNDS_MINOR: Final = 10**12
# From every product, through common words and rare ones, to none at all.
QUERIES: Final = ("", "diabetes", "糖尿病", "glucose hospital", "retina", "血糖 2024", "zebrafish")
PLACES: Final = ("hospital", "clinic", "laboratory", "insurer", "pharmacy", "医院", "体检中心")
TOPICS: Final = (
    "diabetes progression",
    "blood glucose 血糖",
    "retina images, graded",
    "糖尿病 随访",
    "cholesterol panel",
    "prescriptions 处方",
    "length of stay",
    "cardiac events 心血管",
)
CLOCK: Final = SystemClock()
RANDOMNESS: Final = SystemRandomness()


@dataclass
class Consumer:
    """One party that submits jobs: its agreement with each holder, and its own chain."""

    folder: PartyFolder
    deal: DealId
    footings: dict[ProductId, Footing]
    head: ChainHead


@dataclass(frozen=True)
class Listed:
    product: DataProduct
    envelope: bytes
    digest: Digest


class Market:
    """One hub, filled and not started. folder: where its own will be."""

    def __init__(self, folder: Path, port: int, database_url: str | None, cast: Cast) -> None:
        self._cast = cast
        self._port = port
        now = CLOCK.now()
        made = create_hub(
            folder,
            "Operator",
            "unseen.bench/log",
            listen=f"{HOST}:{port}",
            public_url=None,
            relay_listen=None,
            now=now,
        )
        if database_url is not None:
            text = made.settings.read_text("utf-8")
            made.settings.write_text(f"{text}\ndatabase_url = {json.dumps(database_url)}\n")
        self.settings = made.settings
        self._operator = made.folder.party.document.party
        self._reader = SqlglotReader()
        hub = open_hub(HubSettings.load(made.settings))
        try:
            self.consumers = self._fill(hub)
        finally:
            hub.close()

    def search(self, text: str) -> bytes:
        target = "/v1/products" + (f"?text={quote_plus(text)}" if text else "")
        return http_request("GET", target, self._port)

    def reading(self, consumer: Consumer) -> bytes:
        """A signed GET /v1/chain."""
        return self._signed(consumer, "GET", "/v1/chain")

    def submission(self, consumer: Consumer) -> bytes:
        """A signed POST of the consumer's next job. To be sent in this order, within a minute."""
        now = CLOCK.now()
        first, second = self._cast.products
        plan = compile_question(
            deal.question(first.product.id, second.product.id),
            consumer.footings,
            reader=self._reader,
            operator=self._operator,
            helpers={},
            now=now,
            wait=timedelta(hours=2),
            randomness=RANDOMNESS,
        )
        envelope = plans.sign_plan(plan, consumer.folder.signing)
        signed = sign_statement(
            evidence.submitted(
                plan.job,
                plan.deal,
                plan=envelope.payload_digest,
                relies_on=plan.relies_on,
            ),
            actor=plan.consumer,
            head=consumer.head,
            signer=consumer.folder.signing,
            now=now,
            randomness=RANDOMNESS,
        )
        consumer.head = signed.head
        return self._signed(
            consumer, "POST", "/v1/statements", submit_body(signed.entry, [envelope.to_bytes()])
        )

    def _signed(self, consumer: Consumer, method: str, target: str, body: bytes = b"") -> bytes:
        headers = [("Content-Type", "application/json")] if body else []
        added = sign(
            HttpRequest(method, f"{HOST}:{self._port}", target, tuple(headers), body),
            party=consumer.folder.party.document.party,
            signer=consumer.folder.signing,
            now=CLOCK.now(),
            randomness=RANDOMNESS,
        )
        return http_request(method, target, self._port, [*headers, *added.items()], body)

    def _fill(self, hub: OpenedHub) -> tuple[Consumer, ...]:
        with Session(hub.engine) as session, session.begin():
            session.execute(
                insert(ProductRow),
                [
                    {
                        "digest": str(listed.digest),
                        "product": listed.product.id,
                        "version": listed.product.version,
                        "envelope": listed.envelope,
                    }
                    for listed in self._cast.listings
                ],
            )
            session.execute(
                insert(CatalogueRow),
                [
                    {
                        "product": listed.product.id,
                        "digest": str(listed.digest),
                        "words": fold(f"{listed.product.name}\n{listed.product.description}"),
                    }
                    for listed in self._cast.listings
                ],
            )
        with hub.store.transaction() as tx:
            for folder in (*self._cast.holders, self._cast.regulator, *self._cast.consumers):
                tx.parties.add(folder.party)
        consumers = tuple(self._agree(folder, hub) for folder in self._cast.consumers)
        for number, consumer in enumerate(consumers):
            party = consumer.folder.party.document.party
            money = Money(deal.CURRENCY, Amount(FUNDS_MINOR))
            hub.service.fund(hub.operator.party, party, money, key=f"bench-{number}")
        return consumers

    def _agree(self, consumer: PartyFolder, hub: OpenedHub) -> Consumer:
        number = DealId.new(CLOCK.now(), RANDOMNESS)
        footings: dict[ProductId, Footing] = {}
        first, second = self._cast.products
        for listed, other, holder in zip(
            (first, second), (second, first), self._cast.holders, strict=True
        ):
            now = CLOCK.now()
            terms = deal.terms(
                listed.product,
                listed.digest,
                other=other.product,
                regulator=self._cast.regulator.party,
                helper=None,
                now=now - timedelta(minutes=1),
            )
            agreement = Agreement(
                v=1,
                id=AgreementId.new(now, RANDOMNESS),
                deal=number,
                negotiation=NegotiationId.new(now, RANDOMNESS),
                consumer=consumer.party.document.party,
                consumer_document=consumer.party.digest,
                holder=holder.party.document.party,
                holder_document=holder.party.digest,
                terms=replace(terms, runs=1_000_000),
                agreed_at=now,
                salt=RANDOMNESS.draw(SALT_BYTES),
            )
            digest = sign_agreement(agreement, consumer.signing).payload_digest
            with hub.store.transaction() as tx:
                tx.add_agreement(HubAgreement(digest, agreement, 0, Fraction(0)))
            footings[listed.product.id] = Footing(
                Ground(agreement, listed.product), digest, listed.digest
            )
        return Consumer(consumer, number, footings, ChainHead())


class Cast:
    """The parties and the catalogue, the same for every database. The words of the catalogue
    follow from SEED; its ids and keys are fresh."""

    def __init__(self, folder: Path, consumers: int) -> None:
        now = CLOCK.now()
        self.holders = tuple(
            PartyFolder.create(folder / name, name, [Role.HOLDER], now=now)
            for name in ("clinic", "laboratory")
        )
        self.regulator = PartyFolder.create(
            folder / "regulator", "regulator", [Role.REGULATOR], now=now
        )
        self.consumers = tuple(
            PartyFolder.create(
                folder / f"consumer-{number}", f"consumer {number}", [Role.CONSUMER], now=now
            )
            for number in range(consumers)
        )
        clinic, laboratory = self.holders
        self.products = (
            _signed(deal.clinic_product(clinic.party, now, RANDOMNESS), clinic),
            _signed(deal.laboratory_product(laboratory.party, now, RANDOMNESS), laboratory),
        )
        invented = _invented(self.products[0].product, PRODUCTS - len(self.products))
        self.listings = (*self.products, *(_signed(product, clinic) for product in invented))


def submit_body(entry: bytes, documents: Sequence[bytes]) -> bytes:
    """As a node's client sends it; the rival is sent the same."""
    document = {
        "entry": record.encode_base64(entry),
        "documents": [record.encode_base64(data) for data in documents],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _signed(product: DataProduct, holder: PartyFolder) -> Listed:
    envelope = dsse.sign(PAYLOAD_TYPE, record.to_bytes(product), holder.signing)
    return Listed(product, envelope.to_bytes(), envelope.payload_digest)


def _invented(like: DataProduct, count: int) -> Iterator[DataProduct]:
    generator = random.Random(SEED)  # noqa: S311 - words for a benchmark
    for number in range(count):
        place, topic = generator.choice(PLACES), generator.choice(TOPICS)
        year = generator.randint(2015, 2025)
        yield replace(
            like,
            id=ProductId.new(CLOCK.now(), RANDOMNESS),
            name=f"{topic}, {place} {number}",
            description=f"{topic} of the patients of one {place} in {year}, one row each.",
            price_minor=Amount(generator.randint(1, 500) * 100),
        )
