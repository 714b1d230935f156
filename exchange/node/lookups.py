"""A holder makes a lookup table of its own rows, and lists the product version that names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crypto.errors import Malformed
from crypto.identifiers import ProductId
from crypto.lookup.limits import MAX_LABEL_BYTES, MAX_ROWS, SEED_BYTES
from crypto.lookup.ports import Group
from crypto.lookup.table import make_table, table_secret
from exchange.labels import label_bytes, pack_record
from exchange.node import registering
from exchange.node.model import Identity
from exchange.node.ports import NodeStore, SourceOpener
from exchange.node.shelf import Shelf
from registry.errors import DocumentRefused, SourceUnreachable
from registry.product import DataProduct, LookupCard
from registry.rule import Join, Use


def make(
    number: ProductId,
    columns: Sequence[str],
    *,
    text_bytes: int,
    group: Group,
    open_source: SourceOpener,
    store: NodeStore,
    identity: Identity,
    shelf: Shelf,
) -> DataProduct:
    """Make a table of a product's records under a fresh key, and list the product's next version.

    columns:    what is released of a key's record, in this order
    text_bytes: room for a value of a text column without public categories
    Every table has a key of its own, so what a consumer was told under one opens nothing in the
    next; the epoch counts them. Table and seed are kept before the version is listed: a crash
    leaves a table that no product names. Agreements name the version they were made about: a new
    table takes new ones.
    Raises DocumentRefused for columns that the product's rule does not let be looked up, Malformed,
    naming the column, for a record without room, and what `DataSource.records` raises.
    """
    with store.reading() as tx:
        product = registering.own_product(number, tx)
        settings = tx.source(number)
    _require_permitted(product, columns)
    if settings is None:
        raise SourceUnreachable(f"no source is set for {product.name}")
    size = label_bytes(product, columns, text_bytes=text_bytes)
    if not 1 <= size <= MAX_LABEL_BYTES:
        raise Malformed("columns", f"make records of {size} bytes; at most {MAX_LABEL_BYTES}")
    if product.cap > MAX_ROWS:
        raise Malformed("cap", f"is {product.cap}; a table has at most {MAX_ROWS} rows")
    found = open_source(settings).records(product, columns)
    records = [
        pack_record(values, product, columns, text_bytes=text_bytes) for values in found.records
    ]
    epoch = 0 if product.lookup is None else product.lookup.epoch + 1
    seed = identity.randomness.draw(SEED_BYTES)
    table = make_table(
        [key.encode() for key in found.keys],
        records,
        group=group,
        secret=table_secret(group, seed, epoch=epoch),
        randomness=identity.randomness,
        cap=product.cap,
        label_bytes=size,
    )
    shelf.keep_table(table, seed)
    listed = replace(
        product,
        version=product.version + 1,
        holder_document=identity.document,
        lookup=LookupCard(table.digest, epoch, table.rows, size, tuple(columns)),
    )
    registering.list_product(listed, store=store, identity=identity)
    return listed


def _require_permitted(product: DataProduct, columns: Sequence[str]) -> None:
    if Join.LOOKUP not in product.rule.joins:
        raise DocumentRefused("rule.joins", f"{product.name} does not allow lookup")
    if not columns or len(set(columns)) != len(columns):
        raise DocumentRefused("columns", "must name each column once, and at least one")
    for name in columns:
        if not product.rule.permits(product.column(name).name, Use.LOOKUP):
            raise DocumentRefused(f"rule.uses.{name}", "does not let it be looked up")
