"""`exchange node source`: where the rows behind a product are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.desk import opened
from api.cli.output import Exit, answer
from api.cli.speech import Commands, common, say
from api.cli.tables import facts, lines, table, together
from crypto.identifiers import ProductId
from exchange.errors import UnknownSubject
from exchange.node import registering
from registry.product import DataProduct
from registry.source import (
    ColumnReport,
    FileFormat,
    FileSource,
    PostgresSource,
    SourceReport,
    SourceSettings,
)

app = Commands("node.source", no_args_is_help=True)

ProductArgument = Annotated[str, typer.Argument(metavar="PRODUCT")]


@app.act("add", "node.source.add")
def add(
    product: ProductArgument,
    csv: Annotated[Path | None, typer.Option(metavar="PATH", help="source.csv")] = None,
    parquet: Annotated[Path | None, typer.Option(metavar="PATH", help="source.parquet")] = None,
    postgresql: Annotated[
        str | None, typer.Option(metavar="CONNECTION", help="source.postgresql")
    ] = None,
    schema: Annotated[str, typer.Option(help="source.schema")] = "public",
    from_table: Annotated[str | None, typer.Option("--table", help="source.table")] = None,
    role: Annotated[str | None, typer.Option(help="source.role")] = None,
    statement_timeout: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="source.statement_timeout")
    ] = 300,
) -> None:
    if sum(given is not None for given in (csv, parquet, postgresql)) != 1:
        raise typer.BadParameter(say("source.one"))
    settings: SourceSettings
    if csv is not None:
        settings = FileSource(str(csv.resolve()), FileFormat.CSV)
    elif parquet is not None:
        settings = FileSource(str(parquet.resolve()), FileFormat.PARQUET)
    else:
        if from_table is None:
            raise typer.BadParameter(say("source.needs_table"))
        settings = PostgresSource(postgresql or "", schema, from_table, role, statement_timeout)
    number = ProductId.parse(product, where="PRODUCT")
    with opened() as node, node.store.transaction() as tx:
        listed = registering.own_product(number, tx)
        same = [
            name for p, (name, held) in tx.sources().items() if held == settings and p != number
        ]
        tx.save_source(number, listed.name, settings)
    said = [say("source.added", product=listed.name, source=source_text(settings))]
    # History and epsilon are kept by product: of one table under two, answers could be subtracted.
    said += [say("source.twice", product=listed.name, other=name) for name in same]
    answer(
        {
            "product": number,
            "name": listed.name,
            "source": source_document(settings),
            "same_rows_as": same,
        },
        lines(*said),
        as_json=common().as_json,
    )


@app.act("test", "node.source.test")
def test(product: ProductArgument) -> None:
    from api.wiring.node import open_source

    number = ProductId.parse(product, where="PRODUCT")
    with opened() as node:
        with node.store.reading() as tx:
            listed = registering.own_product(number, tx)
            settings = tx.source(number)
        if settings is None:
            raise UnknownSubject(f"a source of {number}")
        report = open_source(settings).describe(listed)
    answer(
        report_document(number, listed, report),
        _report_text(listed, report),
        as_json=common().as_json,
    )
    if report.problems:
        raise typer.Exit(Exit.FAILED)


@app.act("show", "node.source.show")
def show() -> None:
    with opened() as node, node.store.reading() as tx:
        found = tx.sources()
    answer(
        {
            "sources": [
                {"product": number, "name": name, "source": source_document(settings)}
                for number, (name, settings) in found.items()
            ]
        },
        table(
            ["product", "name", "source"],
            [(number, name, source_text(s)) for number, (name, s) in found.items()],
        ),
        as_json=common().as_json,
    )


def source_document(settings: SourceSettings) -> dict[str, Any]:
    if isinstance(settings, FileSource):
        return {"kind": settings.kind, "path": settings.path, "format": settings.format.value}
    return {
        "kind": settings.kind,
        "connection": settings.connection,
        "schema": settings.schema,
        "table": settings.table,
        "role": settings.role,
        "statement_timeout_s": settings.statement_timeout_s,
    }


def source_text(settings: SourceSettings) -> str:
    if isinstance(settings, FileSource):
        return f"{settings.format.value} {settings.path}"
    role = "" if settings.role is None else f" ({settings.role})"
    return f"postgresql {settings.connection} {settings.schema}.{settings.table}{role}"


def report_document(
    number: ProductId, product: DataProduct, report: SourceReport
) -> dict[str, Any]:
    return {
        "product": number,
        "fits": not report.problems,
        "rows": report.rows,
        "without_key": report.without_key,
        "duplicate_keys": report.duplicate_keys,
        "problems": list(report.problems),
        "columns": [
            {
                "name": column.name,
                "problem": column.problem,
                "missing": column.missing,
                "uncastable": column.uncastable,
                "first_uncastable": column.first_uncastable,
                "below": column.below,
                "above": column.above,
                "outside_categories": column.outside_categories,
                "low": _number(column.low, product, column),
                "high": _number(column.high, product, column),
            }
            for column in report.columns
        ],
    }


def _report_text(product: DataProduct, report: SourceReport) -> Any:
    columns = table(
        ["column", "missing", "unreadable", "outside", "found", "problem"],
        [
            (
                column.name,
                column.missing,
                column.uncastable,
                column.below + column.above + column.outside_categories,
                _range(column, product),
                column.problem,
            )
            for column in report.columns
        ],
    )
    head = facts(
        [
            ("rows", report.rows),
            ("without_key", report.without_key),
            ("duplicate_keys", report.duplicate_keys),
        ]
    )
    verdict = [say("source.fits")] if not report.problems else list(report.problems)
    return together(head, columns, lines(*verdict))


def _range(column: ColumnReport, product: DataProduct) -> str | None:
    if column.low is None or column.high is None:
        return None
    low, high = _number(column.low, product, column), _number(column.high, product, column)
    return f"{low} … {high}"


def _number(value: int | None, product: DataProduct, column: ColumnReport) -> str | None:
    from exchange.results import decimal_text

    return None if value is None else decimal_text(value, product.column(column.name).decimals)
