"""Party documents and the catalogue, on both databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, text
from sqlmodel import Session

from crypto import envelope as dsse
from crypto import record
from crypto.digest import Digest, digest
from crypto.errors import CryptoError
from crypto.identifiers import PartyId, ProductId
from crypto.keys import ExchangeKey, SigningKey
from crypto.record import Amount
from registry.adapters.sql import SqlPartyStore, SqlProductStore
from registry.errors import DocumentRefused, NotFound
from registry.evidence import party_registered, party_updated, product_listed
from registry.party import PartyDocument, Role, SignedParty, endorse, party_id, sign_party
from registry.ports import CataloguePage
from registry.product import PAYLOAD_TYPE, Column, ColumnType, DataProduct
from registry.rule import AnalysisRule, Function, Join, Use

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
IDENTITY = SigningKey.generate()
HOLDER = party_id(IDENTITY.public)


def a_party(
    identity: SigningKey = IDENTITY,
    *,
    name: str = "Clinic",
    after: SignedParty | None = None,
) -> SignedParty:
    document = PartyDocument(
        v=1,
        party=party_id(identity.public),
        name=name,
        roles=(Role.HOLDER,),
        seq=0 if after is None else after.document.seq + 1,
        previous=None if after is None else after.digest,
        identity=identity.public,
        signing=SigningKey.generate().public,
        sealing=ExchangeKey.generate().public,
        agreement=ExchangeKey.generate().public,
        tls_certificate=b"certificate",
        valid_from=NOW,
    )
    return sign_party(document, identity)


def a_product(
    number: int = 1,
    *,
    version: int = 1,
    name: str = "Blood serum",
    description: str = "",
    holder: PartyId = HOLDER,
) -> DataProduct:
    return DataProduct(
        v=1,
        id=ProductId(f"prd_{number:032x}"),
        version=version,
        holder=holder,
        holder_document=digest(b"holder"),
        name=name,
        description=description,
        columns=(Column("id", ColumnType.TEXT, "patient"),),
        key="id",
        cap=1000,
        rule=AnalysisRule(
            uses={"id": (Use.JOIN_KEY,)},
            functions=(Function.COUNT,),
            joins=(Join.REVEALED,),
            min_group=10,
            purposes=("research",),
        ),
        currency="TEST",
        price_minor=Amount(100),
    )


def signed(product: DataProduct) -> tuple[DataProduct, bytes, Digest]:
    envelope = dsse.sign(PAYLOAD_TYPE, record.to_bytes(product), IDENTITY)
    return product, envelope.to_bytes(), envelope.payload_digest


def names(page: CataloguePage) -> list[str]:
    return [product.name for product in page.products]


@pytest.fixture
def session(engine: Engine, create_tables: Callable[..., None]) -> Iterator[Session]:
    create_tables(engine, "registry_")
    with Session(engine) as session:
        yield session


@pytest.fixture
def parties(session: Session) -> SqlPartyStore:
    return SqlPartyStore(session)


@pytest.fixture
def products(session: Session) -> SqlProductStore:
    return SqlProductStore(session)


def test_a_new_party_document_becomes_current_and_the_old_one_stays(parties: SqlPartyStore) -> None:
    first = a_party()
    second = a_party(after=first)
    for party in (first, second):
        parties.add(party)
    assert parties.current(HOLDER) == second
    assert parties.by_digest(first.digest) == first


def test_each_party_is_listed_once_with_its_newest_document(parties: SqlPartyStore) -> None:
    first = a_party()
    second = a_party(after=first)
    other = a_party(SigningKey.generate(), name="Laboratory")
    for party in (first, other, second):
        parties.add(party)
    assert sorted(p.document.name for p in parties.all_current()) == ["Clinic", "Laboratory"]
    assert set(parties.all_current()) == {second, other}


def test_a_party_cannot_have_two_documents_with_one_number(parties: SqlPartyStore) -> None:
    parties.add(a_party())
    with pytest.raises(DocumentRefused, match="seq"):
        parties.add(a_party(name="Clinic, otherwise"))


def test_adding_a_document_again_changes_nothing_but_a_registrars_signature_is_kept(
    parties: SqlPartyStore,
) -> None:
    party = a_party()
    endorsed = endorse(party, SigningKey.generate())
    for again in (party, endorsed, party):
        parties.add(again)
    assert parties.current(HOLDER) == endorsed


def test_unknown_parties_and_products_are_not_found(
    parties: SqlPartyStore, products: SqlProductStore
) -> None:
    nothing = digest(b"nothing")
    with pytest.raises(NotFound):
        parties.current(HOLDER)
    with pytest.raises(NotFound):
        parties.by_digest(nothing)
    with pytest.raises(NotFound):
        products.current(ProductId("prd_" + "0" * 32))
    with pytest.raises(NotFound):
        products.by_digest(nothing)
    with pytest.raises(NotFound):
        products.envelope(nothing)


def test_a_party_document_altered_in_the_database_is_refused(
    session: Session, parties: SqlPartyStore
) -> None:
    genuine = a_party()
    parties.add(genuine)
    document = replace(genuine.document, name="Impostor")
    forged = replace(genuine.envelope, payload=record.to_bytes(document))
    session.execute(
        text("UPDATE registry_party SET envelope = :forged"), {"forged": forged.to_bytes()}
    )
    session.expire_all()
    with pytest.raises(CryptoError):
        parties.current(HOLDER)


def test_a_new_version_replaces_the_one_before_in_the_catalogue_only(
    products: SqlProductStore,
) -> None:
    first, second = signed(a_product(name="Serum")), signed(a_product(version=2, name="Plasma"))
    for product in (first, second):
        products.add(*product)
    assert products.current(first[0].id) == second[0]
    assert products.by_digest(first[2]) == first[0]
    assert products.envelope(first[2]) == first[1]
    assert names(products.search("", after=None, limit=10)) == ["Plasma"]
    assert names(products.search("serum", after=None, limit=10)) == []


def test_an_older_or_a_second_version_is_refused(products: SqlProductStore) -> None:
    current = signed(a_product(version=2))
    products.add(*current)
    products.add(*current)
    for product in (a_product(version=1), a_product(version=2, name="Otherwise")):
        with pytest.raises(DocumentRefused, match="version"):
            products.add(*signed(product))
    assert products.current(current[0].id) == current[0]


def test_two_first_versions_at_once_leave_one(
    engine: Engine, create_tables: Callable[..., None]
) -> None:
    create_tables(engine, "registry_")

    def listing(name: str) -> bool:
        try:
            with Session(engine) as session, session.begin():
                SqlProductStore(session).add(*signed(a_product(name=name)))
        except DocumentRefused:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(listing, ["one", "other"])) == [False, True]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("", ["Blood serum", "血清 检验数据", "ＡＢＣ Straße"]),
        ("serum", ["Blood serum"]),
        ("SERUM blood", ["Blood serum"]),
        ("serum glucose", ["Blood serum"]),
        ("serum absent", []),
        ("检验", ["血清 检验数据"]),
        ("数据 血清", ["血清 检验数据"]),
        ("abc strasse", ["ＡＢＣ Straße"]),
        ("100%", ["Blood serum"]),
        ("%", ["Blood serum"]),
        ("1_0", []),
        ("' OR 1=1 --", []),
    ],
)
def test_search_finds_every_word_in_name_or_description(
    products: SqlProductStore, question: str, found: list[str]
) -> None:
    listed = (
        ("Blood serum", "Glucose, 100% fasting"),
        ("血清 检验数据", "可用不可见"),
        ("ＡＢＣ Straße", ""),
    )
    for number, (name, description) in enumerate(listed):
        products.add(*signed(a_product(number, name=name, description=description)))
    assert names(products.search(question, after=None, limit=10)) == found


def test_pages_cover_the_catalogue_once_in_order(products: SqlProductStore) -> None:
    for number in (3, 1, 5, 2, 4):
        products.add(*signed(a_product(number, name=f"Product {number}")))
    seen: list[str] = []
    after = None
    for _ in range(3):
        page = products.search("product", after=after, limit=2)
        seen += names(page)
        after = page.next_after
    assert seen == [f"Product {number}" for number in range(1, 6)]
    assert after is None


def test_a_page_that_ends_the_catalogue_says_so(products: SqlProductStore) -> None:
    for number in (1, 2):
        products.add(*signed(a_product(number)))
    assert products.search("", after=None, limit=2).next_after is None
    assert products.search("", after=None, limit=1).next_after == ProductId(f"prd_{1:032x}")


def test_registry_acts_name_the_documents_by_digest() -> None:
    first = a_party()
    second = a_party(after=first)
    product, _, product_digest = signed(a_product())
    assert party_registered(first).outputs == (first.digest,)
    updated = party_updated(second, first)
    assert (updated.inputs, updated.outputs) == ((first.digest,), (second.digest,))
    listed = product_listed(product)
    assert (listed.inputs, listed.outputs) == ((product.holder_document,), (product_digest,))
    assert (listed.subject, updated.subject) == (product.id, HOLDER)


def test_an_act_for_a_document_that_does_not_follow_cannot_be_made() -> None:
    first = a_party()
    second = a_party(after=first)
    with pytest.raises(DocumentRefused):
        party_registered(second)
    with pytest.raises(DocumentRefused):
        party_updated(a_party(SigningKey.generate()), first)
    with pytest.raises(DocumentRefused):
        party_updated(first, second)
