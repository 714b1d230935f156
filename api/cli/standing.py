"""`exchange node standing`: jobs that are admitted without asking a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from api.cli.desk import opened
from api.cli.output import answer
from api.cli.speech import Commands, common, say
from api.cli.tables import lines, table
from api.cli.views import named, party_names
from crypto import record
from crypto.digest import digest
from crypto.identifiers import PartyId, ProductId
from crypto.record import encode_time
from exchange.approval import StandingApproval
from exchange.errors import UnknownSubject
from exchange.node import approving

app = Commands("node.standing", no_args_is_help=True)


@app.act("add", "node.standing.add")
def add(
    product: Annotated[str, typer.Option(metavar="PRODUCT", help="product")],
    consumer: Annotated[list[str], typer.Option(metavar="PTY", help="standing.consumer")],
    purpose: Annotated[list[str], typer.Option(help="standing.purpose")],
    min_group: Annotated[int, typer.Option(min=2, help="standing.min_group")],
    runs_per_day: Annotated[int, typer.Option(min=1, help="standing.runs_per_day")],
    until: Annotated[str, typer.Option(metavar="DATE", help="standing.until")],
) -> None:
    approval = StandingApproval(
        ProductId.parse(product, where="--product"),
        tuple(PartyId.parse(text, where="--consumer") for text in consumer),
        tuple(purpose),
        min_group,
        runs_per_day,
        end_of(until),
    )
    with opened() as node, node.store.transaction() as tx:
        approving.approve(approval, tx=tx, identity=node.identity)
    answer(
        _document(approval),
        lines(say("standing.added", id=_id(approval))),
        as_json=common().as_json,
    )


@app.act("list", "node.standing.list")
def list_() -> None:
    with opened() as node, node.store.reading() as tx:
        found = [held.approval for held in tx.standing()]
        names = party_names({consumer for a in found for consumer in a.consumers}, tx)
    answer(
        {"standing": [_document(approval) for approval in found]},
        table(
            ["id", "product", "consumer", "purposes", "min_group", "runs_per_day", "valid_until"],
            [
                (
                    _id(a),
                    a.product,
                    ", ".join(named(c, names) for c in a.consumers),
                    ", ".join(a.purposes),
                    a.min_group,
                    a.runs_per_day,
                    encode_time(a.valid_until),
                )
                for a in found
            ],
        ),
        as_json=common().as_json,
    )


@app.act("remove", "node.standing.remove")
def remove(number: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    with opened() as node, node.store.transaction() as tx:
        named_so = [h.approval for h in tx.standing() if _id(h.approval) == number]
        if not named_so:
            raise UnknownSubject(f"standing approval {number}")
        approving.withdraw(named_so[0], tx=tx, identity=node.identity)
    answer({"removed": number}, lines(say("standing.removed", id=number)), as_json=common().as_json)


def end_of(text: str) -> datetime:
    """A day (its end, in UTC) or a time with its zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(say("not_a_date", text=text)) from None
    if moment.tzinfo is None:
        if len(text) > len("2026-12-31"):
            raise typer.BadParameter(say("no_zone", text=text))
        return moment.replace(tzinfo=UTC) + timedelta(days=1)
    return moment.astimezone(UTC)


def _id(approval: StandingApproval) -> str:
    """Its contents name it: one that is removed cannot be mistaken for another in its place."""
    return digest(record.to_bytes(approval)).raw.hex()[:12]


def _document(approval: StandingApproval) -> dict[str, Any]:
    return {
        "id": _id(approval),
        "product": approval.product,
        "consumers": list(approval.consumers),
        "purposes": list(approval.purposes),
        "min_group": approval.min_group,
        "runs_per_day": approval.runs_per_day,
        "valid_until": encode_time(approval.valid_until),
    }
