"""`exchange init`: make a participant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import answer
from api.cli.speech import Commands, common, say
from api.cli.tables import facts, lines, together
from api.participant import SETTINGS_FILE, Wishes, create
from crypto.ports import SystemClock
from registry.party import Role

app = Commands("init")


@app.act("init", "init", plain=True)
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER")],
    name: Annotated[str, typer.Option(help="init.name")],
    role: Annotated[list[Role], typer.Option(help="init.role")],
    hub: Annotated[str, typer.Option(metavar="URL", help="init.hub")],
    operator: Annotated[str, typer.Option(metavar="PTY", help="init.operator")],
    policy: Annotated[Path, typer.Option(metavar="FILE", help="init.policy")],
    controller: Annotated[str | None, typer.Option(metavar="CODE", help="init.controller")] = None,
    registrar: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="init.registrar")
    ] = None,
    relay: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="init.relay")] = None,
    link_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="init.link_listen")
    ] = None,
    link_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="init.link_address")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(metavar="FILE", help="init.ca_file")] = None,
    proxy_url: Annotated[str | None, typer.Option(metavar="URL", help="init.proxy_url")] = None,
) -> None:
    made = create(
        folder,
        Wishes(
            name=name,
            roles=role,
            hub_url=hub,
            operator=operator,
            policy=policy,
            controller=controller,
            registrars=registrar or (),
            relay=relay,
            link_listen=link_listen,
            link_address=link_address,
            ca_file=ca_file,
            proxy_url=proxy_url,
        ),
        now=SystemClock().now(),
        explain=lambda setting: say(f"setting.{setting}"),
    )
    document = made.party.document
    settings = folder / SETTINGS_FILE
    answer(
        {
            "party": document.party,
            "name": document.name,
            "roles": [role.value for role in document.roles],
            "fingerprint": document.identity.fingerprint,
            "document": str(made.digest),
            "folder": str(folder),
            "settings": str(settings),
        },
        together(
            facts(
                [
                    ("party", document.party),
                    ("fingerprint", document.identity.fingerprint),
                    ("settings", settings),
                ]
            ),
            lines("", say("init.next", settings=settings, operator=operator)),
        ),
        as_json=common().as_json,
    )
