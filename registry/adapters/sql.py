"""Party documents and the catalogue in SQL, on SQLite and PostgreSQL.

Every document is kept under its digest, for agreements name old ones. What is current lies in
narrow rows beside them.

Search is a substring match, for Chinese has no spaces between words and neither database segments
it without an extension: each row keeps name and description folded (NFKC, case), and every word of
the question must occur in it. A scan reads the narrow rows in order of id and stops at the end of
the page; for 10,000 products that is a few megabytes, at most some milliseconds. A trigram index
would serve PostgreSQL alone and need an extension there; it is the next step at a hundred times
as many products.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import ForeignKey, UniqueConstraint, func
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, select

from crypto import record
from crypto.digest import Digest
from crypto.envelope import Envelope
from crypto.identifiers import PartyId, ProductId
from registry.errors import DocumentRefused, NotFound
from registry.party import SignedParty, read_party
from registry.ports import CataloguePage
from registry.product import DataProduct


class PartyRow(SQLModel, table=True):
    """envelope: the signed document's bytes."""

    __tablename__ = "registry_party"
    __table_args__ = (UniqueConstraint("party", "seq", name="registry_party_seq"),)

    digest: str = Field(primary_key=True)
    party: str
    seq: int
    envelope: bytes


class ProductRow(SQLModel, table=True):
    """One version of a product. envelope: the signed product's bytes, as the holder sent them."""

    __tablename__ = "registry_product"
    __table_args__ = (UniqueConstraint("product", "version", name="registry_product_version"),)

    digest: str = Field(primary_key=True)
    product: str
    version: int
    envelope: bytes


class CatalogueRow(SQLModel, table=True):
    """The version of a product that is listed now. words: folded name and description."""

    __tablename__ = "registry_catalogue"

    product: str = Field(primary_key=True)
    digest: str = Field(sa_column_args=[ForeignKey("registry_product.digest")])
    words: str


class SqlPartyStore:
    """The PartyStore of one session; the caller begins and ends its transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, party: SignedParty) -> None:
        """Raises DocumentRefused if the party has another document with this number: it would
        have two histories."""
        document = party.document
        known = self._session.get(PartyRow, str(party.digest))
        if known is not None:
            # The same document may come again with a registrar's signature added.
            if len(party.envelope.signatures) > len(_party(known.envelope).envelope.signatures):
                known.envelope = party.envelope.to_bytes()
                self._session.flush()
            return
        row = PartyRow(
            digest=str(party.digest),
            party=document.party,
            seq=document.seq,
            envelope=party.envelope.to_bytes(),
        )
        self._session.add(row)
        try:
            self._session.flush()
        except IntegrityError as error:
            raise DocumentRefused("seq", f"{document.seq} is taken by another document") from error

    def current(self, party: PartyId) -> SignedParty:
        # The envelope alone: every signed request comes through here.
        query = select(PartyRow.envelope).where(col(PartyRow.party) == party)
        for envelope in self._session.exec(query.order_by(col(PartyRow.seq).desc()).limit(1)):
            return _party(envelope)
        raise NotFound(f"party {party}")

    def by_digest(self, digest: Digest) -> SignedParty:
        row = self._session.get(PartyRow, str(digest))
        if row is None:
            raise NotFound(f"party document {digest}")
        return _party(row.envelope)

    def all_current(self) -> Sequence[SignedParty]:
        newest = (
            select(PartyRow.party, func.max(col(PartyRow.seq)).label("seq"))
            .group_by(col(PartyRow.party))
            .subquery()
        )
        query = (
            select(PartyRow)
            .join(
                newest,
                (col(PartyRow.party) == newest.c.party) & (col(PartyRow.seq) == newest.c.seq),
            )
            .order_by(col(PartyRow.party))
        )
        return [_party(row.envelope) for row in self._session.exec(query)]


class SqlProductStore:
    """The ProductStore of one session; the caller begins and ends its transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, product: DataProduct, envelope: bytes, digest: Digest) -> None:
        """Idempotent by digest. Raises DocumentRefused if this or a later version is listed."""
        if self._session.get(ProductRow, str(digest)) is not None:
            return
        query = select(CatalogueRow).where(col(CatalogueRow.product) == product.id)
        listed = self._session.exec(
            query.with_for_update().execution_options(populate_existing=True)
        ).one_or_none()
        if listed is not None:
            current = self._session.get_one(ProductRow, listed.digest)
            if product.version <= current.version:
                raise DocumentRefused("version", f"must be above {current.version}")
        row = ProductRow(
            digest=str(digest), product=product.id, version=product.version, envelope=envelope
        )
        self._session.add(row)
        try:
            self._session.flush()
            if listed is None:
                listed = CatalogueRow(product=product.id, digest=str(digest), words="")
                self._session.add(listed)
            listed.digest = str(digest)
            listed.words = fold(f"{product.name}\n{product.description}")
            self._session.flush()
        except IntegrityError as error:
            raise DocumentRefused("version", f"{product.version} is listed already") from error

    def current(self, product: ProductId) -> DataProduct:
        query = select(ProductRow.envelope).join(
            CatalogueRow, col(CatalogueRow.digest) == col(ProductRow.digest)
        )
        for envelope in self._session.exec(query.where(col(CatalogueRow.product) == product)):
            return _product(envelope)
        raise NotFound(f"data product {product}")

    def by_digest(self, digest: Digest) -> DataProduct:
        return _product(self.envelope(digest))

    def envelope(self, digest: Digest) -> bytes:
        row = self._session.get(ProductRow, str(digest))
        if row is None:
            raise NotFound(f"data product {digest}")
        return row.envelope

    def search(self, text: str, *, after: ProductId | None, limit: int) -> CataloguePage:
        # The narrow rows first: joined at once, PostgreSQL may carry every match's envelope
        # through a sort.
        query = select(CatalogueRow.product, CatalogueRow.digest)
        for word in dict.fromkeys(fold(text).split()):
            query = query.where(col(CatalogueRow.words).contains(word, autoescape=True))
        if after is not None:
            query = query.where(col(CatalogueRow.product) > after)
        found = self._session.exec(query.order_by(col(CatalogueRow.product)).limit(limit + 1)).all()
        page = found[:limit]
        rows = self._session.exec(
            select(ProductRow.digest, ProductRow.envelope).where(
                col(ProductRow.digest).in_([digest for _, digest in page])
            )
        )
        envelopes = dict(rows.all())
        return CataloguePage(
            products=tuple(_product(envelopes[digest]) for _, digest in page),
            next_after=ProductId(page[-1][0]) if len(found) > limit else None,
        )


def fold(text: str) -> str:
    """Text as it is compared: full-width letters as plain ones, capitals as small ones."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _party(envelope: bytes) -> SignedParty:
    # Checks the signature again: a row altered in the database is refused.
    return _read_party(bytes(envelope))


# Documents never change under their bytes, and reading one costs more than finding it.
@lru_cache(maxsize=4096)
def _read_party(envelope: bytes) -> SignedParty:
    return read_party(envelope)


def _product(envelope: bytes) -> DataProduct:
    return _read_product(bytes(envelope))


@lru_cache(maxsize=16384)
def _read_product(envelope: bytes) -> DataProduct:
    return record.from_bytes(DataProduct, Envelope.from_bytes(envelope).payload)
