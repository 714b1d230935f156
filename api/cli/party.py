"""`exchange party`: who takes part, under which keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli.desk import PATIENCE_S, TimeoutOption, answered, opened
from api.cli.output import answer
from api.cli.speech import Commands, common, say
from api.cli.tables import facts, lines, table
from api.settings import NodeSettings
from crypto.errors import KeyFileRefused
from crypto.identifiers import PartyId
from crypto.keys import SigningKey, read_signing_key, write_key
from crypto.record import encode_time
from exchange.node import registering
from exchange.node.deposits import deposits
from registry.errors import NotTrusted
from registry.party import SignedParty, endorse, read_party, require_trusted

if TYPE_CHECKING:
    from api.wiring.node import Opened

app = Commands("party", no_args_is_help=True)


@app.act("show", "party.show")
def show(
    party: Annotated[str | None, typer.Argument(metavar="[PTY]")] = None,
) -> None:
    with opened() as node:
        found = node.folder.party if party is None else _fetched(party, node)
        trusted = _is_trusted(found, node)
    answer(
        {**party_document(found), "trusted": trusted},
        facts(
            [*_party_facts(found), ("trusted", say("yes") if trusted else say("party.no_trust"))]
        ),
        as_json=common().as_json,
    )


@app.act("fingerprint", "party.fingerprint")
def fingerprint() -> None:
    with opened() as node:
        document = node.folder.party.document
    answer(
        {"party": document.party, "fingerprint": document.identity.fingerprint},
        lines(document.identity.fingerprint),
        as_json=common().as_json,
    )


@app.act("deposits", "party.deposits")
def deposits_() -> None:
    with opened() as node:
        found = [
            {
                "statement": str(one.statement),
                "time": encode_time(one.time),
                "account": leg.credit,
                "amount_minor": str(leg.amount_minor),
                "operation": one.movement.operation,
            }
            for one in deposits(node.hub, node.store, node.identity)
            for leg in one.movement.legs
        ]
    answer(
        {"deposits": found},
        table(
            ["time", "account", "amount_minor", "operation", "statement"],
            [
                (d["time"], d["account"], d["amount_minor"], d["operation"], d["statement"])
                for d in found
            ],
        ),
        as_json=common().as_json,
    )


@app.act("register", "party.register")
def register(
    endorsed: Annotated[
        Path | None, typer.Option(metavar="PARTY_JSON", help="party.endorsed")
    ] = None,
    timeout_s: TimeoutOption = PATIENCE_S,
) -> None:
    with opened() as node:
        if endorsed is not None:
            node.folder.keep(read_party(endorsed.read_bytes()))
        own = node.folder.party
        kind = registering.UPDATED if own.document.seq else registering.REGISTERED
        registering.announce(own, store=node.store, identity=node.identity)
        answered(node, kind, own.document.party, timeout_s=timeout_s)
    answer(
        party_document(own),
        lines(say("party.registered", name=own.document.name, party=own.document.party)),
        as_json=common().as_json,
    )


@app.act("declare", "party.declare")
def declare(code: Annotated[str, typer.Argument(metavar="CODE")]) -> None:
    from api.rotation import declare as declare_controller

    after = declare_controller(NodeSettings.load(common().settings), code)
    answer(
        party_document(after),
        lines(say("party.declared", code=code, file=after.digest)),
        as_json=common().as_json,
    )


@app.act("endorse", "party.endorse", plain=True)
def endorse_(
    party_json: Annotated[Path, typer.Argument(metavar="PARTY_JSON")],
    registrar: Annotated[Path, typer.Option(metavar="KEYFILE", help="party.registrar")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="party.out")],
) -> None:
    key = read_signing_key(registrar)
    after = endorse(read_party(party_json.read_bytes()), key)
    with out.open("xb") as file:
        file.write(after.envelope.to_bytes())
    answer(
        {**party_document(after), "registrar": str(key.public), "file": str(out)},
        lines(
            say(
                "party.endorsed",
                name=after.document.name,
                fingerprint=after.document.identity.fingerprint,
                file=out,
            )
        ),
        as_json=common().as_json,
    )


@app.act("registrar-init", "party.registrar_init", plain=True)
def registrar_init(
    file: Annotated[Path, typer.Argument(metavar="KEYFILE")],
) -> None:
    if not file.parent.is_dir():
        raise KeyFileRefused(f"{file.parent} is not a folder")
    key = SigningKey.generate()
    write_key(file, key)
    answer(
        {"file": str(file), "public": str(key.public), "fingerprint": key.public.fingerprint},
        lines(say("party.registrar_made", file=file, key=key.public)),
        as_json=common().as_json,
    )


def party_document(party: SignedParty) -> dict[str, Any]:
    document = party.document
    return {
        "party": document.party,
        "name": document.name,
        "roles": [role.value for role in document.roles],
        "seq": document.seq,
        "document": str(party.digest),
        "fingerprint": document.identity.fingerprint,
        "identity": str(document.identity),
        "signing": str(document.signing),
        "sealing": str(document.sealing),
        "agreement": str(document.agreement),
        "valid_from": encode_time(document.valid_from),
        "controller": document.controller,
        "signed_by": [key_id for key_id, _ in party.envelope.signatures],
    }


def _party_facts(party: SignedParty) -> list[tuple[str, object]]:
    document = party.document
    return [
        ("party", document.party),
        ("name", document.name),
        ("roles", ", ".join(role.value for role in document.roles)),
        ("controller", document.controller or say("party.undeclared")),
        ("fingerprint", document.identity.fingerprint),
        ("document", f"{party.digest} (seq {document.seq})"),
        ("signing", document.signing),
        ("sealing", document.sealing),
        ("valid_from", encode_time(document.valid_from)),
    ]


def _fetched(text: str, node: Opened) -> SignedParty:
    """As the hub has it, believed or not: showing it is how a person comes to compare it."""
    party = PartyId.parse(text, where="PTY")
    found = read_party(node.hub.party(party))
    if found.document.party != party:
        raise NotTrusted(f"the hub answered with the document of {found.document.party}")
    return found


def _is_trusted(party: SignedParty, node: Opened) -> bool:
    with node.store.reading() as tx:
        fingerprints = tx.trusted_fingerprints()
    try:
        require_trusted(party, fingerprints=fingerprints, registrars=node.identity.registrars)
    except NotTrusted:
        return False
    return True
