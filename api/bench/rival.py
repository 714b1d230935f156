"""What the hub is measured against: a bare FastAPI + SQLModel application, as its guide writes one.

The same catalogue on the same kind of database, found by the same search, and one row read or
written durably; no signatures, problems, limits, traces, evidence or rules.

    python -m api.bench.rival DATABASE_URL PORT
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Column, Engine, MetaData, event
from sqlalchemy.engine import make_url
from sqlmodel import JSON, Field, Session, SQLModel, col, create_engine, select

from registry.adapters.sql import fold
from registry.product import DataProduct

PAGE: Final = 20
ACTOR: Final = "pty_bare"


class Bare(SQLModel):
    """Tables apart from the hub's own, which migrations are made from."""

    metadata = MetaData()


class BareProduct(Bare, table=True):
    """words: folded, as in the hub's catalogue."""

    __tablename__ = "bare_product"

    id: str = Field(primary_key=True)
    version: int
    holder: str
    name: str
    description: str
    columns: list[str] = Field(sa_column=Column(JSON))
    purposes: list[str] = Field(sa_column=Column(JSON))
    currency: str
    price_minor: str
    words: str


class BareHead(Bare, table=True):
    __tablename__ = "bare_head"

    actor: str = Field(primary_key=True)
    next_seq: int
    last: str | None


class BareEntry(Bare, table=True):
    __tablename__ = "bare_entry"

    number: int | None = Field(default=None, primary_key=True)
    entry: str
    documents: list[str] = Field(sa_column=Column(JSON))


class ProductOut(SQLModel):
    id: str
    version: int
    holder: str
    name: str
    description: str
    columns: list[str]
    purposes: list[str]
    currency: str
    price_minor: str


class Page(SQLModel):
    items: list[ProductOut]
    next_cursor: str | None


class EntryIn(SQLModel):
    entry: str
    documents: list[str]


class EntryOut(SQLModel):
    number: int


def bare_engine(url: str) -> Engine:
    """SQLite as durable as the hub's: a committed row survives a power cut."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"check_same_thread": False})
        event.listen(engine, "connect", _configure_sqlite)
        return engine
    return create_engine(parsed.set(drivername="postgresql+psycopg"))


def bare_app(engine: Engine) -> FastAPI:
    app = FastAPI()

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    opened = Depends(session)

    def search(session: Session = opened, text: str = "", after: str = "") -> Page:
        query = select(BareProduct).where(col(BareProduct.id) > after)
        for word in text.lower().split():
            query = query.where(col(BareProduct.words).contains(word, autoescape=True))
        found = session.exec(query.order_by(col(BareProduct.id)).limit(PAGE + 1)).all()
        items = [ProductOut.model_validate(row) for row in found[:PAGE]]
        return Page(items=items, next_cursor=found[PAGE - 1].id if len(found) > PAGE else None)

    def head(actor: str, session: Session = opened) -> BareHead:
        found = session.get(BareHead, actor)
        if found is None:
            raise HTTPException(404)
        return found

    def write(entry: EntryIn, session: Session = opened) -> EntryOut:
        row = BareEntry(entry=entry.entry, documents=entry.documents)
        session.add(row)
        session.commit()
        return EntryOut(number=row.number or 0)

    app.get("/products", response_model=Page)(search)
    app.get("/heads/{actor}", response_model=BareHead)(head)
    app.post("/entries", response_model=EntryOut)(write)
    return app


def fill(url: str, products: Sequence[DataProduct]) -> None:
    """The rival's tables with the same catalogue, and one row to read."""
    engine = bare_engine(url)
    Bare.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(BareHead(actor=ACTOR, next_seq=1, last=None))
        session.add_all(
            BareProduct(
                id=product.id,
                version=product.version,
                holder=product.holder,
                name=product.name,
                description=product.description,
                columns=[column.name for column in product.columns],
                purposes=list(product.rule.purposes),
                currency=product.currency,
                price_minor=str(int(product.price_minor)),
                words=fold(f"{product.name}\n{product.description}"),
            )
            for product in products
        )
        session.commit()
    engine.dispose()


def _configure_sqlite(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


if __name__ == "__main__":
    uvicorn.run(
        bare_app(bare_engine(sys.argv[1])),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        log_level="critical",
        access_log=False,
    )
