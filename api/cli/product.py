"""`exchange product`: list data products, and find them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.desk import PATIENCE_S, TimeoutOption, answered, opened
from api.cli.output import answer
from api.cli.speech import Commands, common, say
from api.cli.tables import facts, lines, table, together
from api.cli.views import money_text, named, party_names
from api.files.product import read_product, template
from api.files.reading import naming
from crypto import record
from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.identifiers import ProductId
from exchange.errors import ExchangeError
from exchange.node import asking, products, registering
from exchange.node import trust as trusting
from exchange.node.ports import Documents, NodeTransaction
from exchange.results import decimal_text
from registry.errors import RegistryError
from registry.evidence import LISTED
from registry.product import Column, DataProduct, ModelCard

if TYPE_CHECKING:
    from api.wiring.node import Opened

app = Commands("product", no_args_is_help=True)


@app.act("list-new", "product.list_new", plain=True)
def list_new(
    file: Annotated[Path, typer.Argument(metavar="NEW_FILE")],
) -> None:
    with file.open("x", encoding="utf-8") as target:
        target.write(template(lambda name: say(f"template.{name}")))
    answer({"file": str(file)}, lines(say("product.written", file=file)), as_json=common().as_json)


def _keep_model(file: Path, node: Opened) -> ModelCard:
    from crypto.scoring.model import load_model  # numpy, which only owners of models need
    from exchange.node import models

    with naming(file):
        model = load_model(file)
        return models.keep(model, shelf=node.shelf, randomness=node.identity.randomness)


@app.act("publish", "product.publish")
def publish(
    file: Annotated[Path, typer.Argument(metavar="PRODUCT_FILE")],
    model: Annotated[Path | None, typer.Option(metavar="NPZ", help="publish.model")] = None,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    with opened() as node:
        identity = node.identity
        card = None if model is None else _keep_model(model, node)

        def next_version(number: ProductId) -> int:
            return node.hub.product(number).version + 1

        product = read_product(
            file,
            fresh_id=lambda: ProductId.new(identity.clock.now(), identity.randomness),
            next_version=next_version,
            holder=identity.party,
            holder_document=identity.document,
            model=card,
        )
        digest = registering.list_product(product, store=node.store, identity=identity)
        answered(node, LISTED, product.id, timeout_s=timeout_s)
    answer(
        {
            "product": product.id,
            "version": product.version,
            "digest": str(digest),
            "name": product.name,
        },
        lines(
            say("product.published", name=product.name, version=product.version, id=product.id),
            say("product.next", id=product.id, file=file),
        ),
        as_json=common().as_json,
    )


@app.act("search", "product.search")
def search(
    text: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]")] = None,
    limit: Annotated[int, typer.Option(min=1, help="limit")] = 50,
) -> None:
    found = []
    with opened() as node:
        for one in node.hub.search(" ".join(text or ())):
            found.append(one)
            if len(found) == limit:
                break
        with node.store.reading() as tx:
            names = party_names({one.holder for one in found}, tx)
    answer(
        {
            "products": [
                {
                    "id": one.id,
                    "version": one.version,
                    "holder": one.holder,
                    "holder_name": names.get(one.holder),
                    "name": one.name,
                    "description": one.description,
                    "columns": list(one.columns),
                    "purposes": list(one.purposes),
                    "price_minor": str(int(one.price_minor)),
                    "currency": one.currency,
                }
                for one in found
            ]
        },
        table(
            ["product", "name", "holder", "columns", "price"],
            [
                (
                    one.id,
                    one.name,
                    named(one.holder, names),
                    ", ".join(one.columns),
                    money_text(one.price_minor, one.currency),
                )
                for one in found
            ],
        ),
        as_json=common().as_json,
    )


@app.act("show", "product.show")
def show(product: Annotated[str, typer.Argument(metavar="PRODUCT")]) -> None:
    number = ProductId.parse(product, where="PRODUCT")
    with opened() as node:
        digest, found = listed(number, node)
        vouched, problem = _signed_by_holder(digest, found, node)
        with node.store.reading() as tx:
            names = party_names({found.holder}, tx)
    answer(
        {**product_document(found, digest), "signed_by_holder": vouched, "problem": problem},
        together(
            facts(
                [
                    ("product", f"{found.id} (version {found.version})"),
                    ("name", found.name),
                    ("description", found.description),
                    ("holder", named(found.holder, names)),
                    ("signature", say("product.signed") if vouched else problem),
                    ("key", found.key or None),
                    ("cap", f"{found.cap:,}"),
                    ("functions", ", ".join(f.value for f in found.rule.functions)),
                    ("joins", ", ".join(j.value for j in found.rule.joins)),
                    ("min_group", found.rule.min_group),
                    ("evaluations_per_day", found.rule.evaluations_per_day),
                    ("model", _model_text(found)),
                    ("lookup", _lookup_text(found)),
                    ("purposes", ", ".join(found.rule.purposes)),
                    ("price", money_text(found.price_minor, found.currency)),
                ]
            ),
            table(
                ["column", "type", "meaning", "domain", "uses"],
                [
                    (
                        column.name,
                        column.type.value,
                        column.meaning
                        if column.unit is None
                        else f"{column.meaning}, {column.unit}",
                        _domain(column),
                        ", ".join(use.value for use in found.rule.uses.get(column.name, ())),
                    )
                    for column in found.columns
                ],
            ),
        ),
        as_json=common().as_json,
    )


def listed(number: ProductId, node: Opened) -> tuple[Digest, DataProduct]:
    """What the holder signed, by the digest under which the hub lists it now."""
    digest = node.hub.product(number).digest

    def step(tx: NodeTransaction, hub: Documents) -> DataProduct:
        return products.by_digest(digest, tx=tx, hub=hub)

    return digest, asking.transact(step, store=node.store, hub=node.hub)


def product_document(product: DataProduct, digest: Digest) -> dict[str, Any]:
    rule = product.rule
    return {
        "id": product.id,
        "version": product.version,
        "digest": str(digest),
        "holder": product.holder,
        "name": product.name,
        "description": product.description,
        "key": product.key,
        "cap": product.cap,
        "columns": [
            {
                "name": column.name,
                "type": column.type.value,
                "meaning": column.meaning,
                "unit": column.unit,
                "decimals": column.decimals,
                "low": None if column.low is None else decimal_text(column.low, column.decimals),
                "high": None if column.high is None else decimal_text(column.high, column.decimals),
                "categories": None if column.categories is None else list(column.categories),
                "uses": [use.value for use in rule.uses.get(column.name, ())],
            }
            for column in product.columns
        ],
        "functions": [function.value for function in rule.functions],
        "joins": [join.value for join in rule.joins],
        "min_group": rule.min_group,
        "evaluations_per_day": rule.evaluations_per_day,
        "model": None if product.model is None else record.to_value(product.model),
        "lookup": None if product.lookup is None else record.to_value(product.lookup),
        "purposes": list(rule.purposes),
        "price_minor": str(int(product.price_minor)),
        "currency": product.currency,
    }


def _signed_by_holder(
    digest: Digest, product: DataProduct, node: Opened
) -> tuple[bool, str | None]:
    """Whether the holder signed it, as far as this node can know, and otherwise why not."""

    def step(tx: NodeTransaction, hub: Documents) -> None:
        holder = trusting.by_digest(
            product.holder_document, product.holder, tx=tx, hub=hub, identity=node.identity
        )
        products.require_listed_by(digest, holder, tx=tx)

    try:
        asking.transact(step, store=node.store, hub=node.hub)
    except (RegistryError, CryptoError, ExchangeError) as error:
        return False, str(error)
    return True, None


def _model_text(product: DataProduct) -> str | None:
    if product.model is None:
        return None
    shape = product.model.shape
    return say(
        "product.model",
        family=shape.family.value,
        outputs=", ".join(shape.outputs),
        decimals=shape.decimals,
        error=f"{float(shape.stated_error):.1g}",
        parameters=product.model.parameters,
    )


def _lookup_text(product: DataProduct) -> str | None:
    card = product.lookup
    if card is None:
        return None
    from crypto.lookup.table import size_bytes  # numpy

    return say(
        "product.lookup",
        columns=", ".join(card.columns),
        size_bytes=f"{size_bytes(card.rows, card.label_bytes):,}",
        epoch=card.epoch,
    )


def _domain(column: Column) -> str:
    if column.categories is not None:
        return ", ".join(column.categories)
    if column.low is None or column.high is None:
        return ""
    low, high = (decimal_text(value, column.decimals) for value in (column.low, column.high))
    return f"{low} … {high}"
