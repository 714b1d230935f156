"""`exchange node lookup`: tables in which consumers look up records without naming their keys."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.desk import PATIENCE_S, TimeoutOption, answered, opened
from api.cli.output import answer
from api.cli.speech import Commands, common, say
from api.cli.tables import lines
from crypto.identifiers import ProductId
from exchange.labels import TEXT_BYTES
from registry.evidence import LISTED

app = Commands("node.lookup", no_args_is_help=True)


@app.act("make", "node.lookup.make")
def make(
    product: Annotated[str, typer.Argument(metavar="PRODUCT")],
    columns: Annotated[str, typer.Option("--columns", metavar="A,B", help="lookup.columns")],
    text_bytes: Annotated[
        int, typer.Option(min=1, max=4096, help="lookup.text_bytes")
    ] = TEXT_BYTES,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    from api.wiring.node import open_source
    from crypto.adapters.ristretto import Ristretto255
    from exchange.node import lookups, registering

    number = ProductId.parse(product, where="PRODUCT")
    with opened() as node:
        listed = lookups.make(
            number,
            columns.split(","),
            text_bytes=text_bytes,
            group=Ristretto255(),
            open_source=open_source,
            store=node.store,
            identity=node.identity,
            shelf=node.shelf,
        )
        answered(node, LISTED, number, timeout_s=timeout_s)
    card = listed.lookup
    if card is None:
        raise TypeError("a product without its table was listed")
    answer(
        {
            "product": number,
            "version": listed.version,
            "digest": str(registering.product_digest(listed)),
            "table": str(card.table),
            "epoch": card.epoch,
            "rows": card.rows,
            "label_bytes": card.label_bytes,
            "columns": list(card.columns),
        },
        lines(say("lookup.made", name=listed.name, version=listed.version, rows=card.rows)),
        as_json=common().as_json,
    )
