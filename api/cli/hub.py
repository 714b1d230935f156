"""`exchange hub`: run the hub; make its folder; book deposits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from api.cli.output import JsonOption, answer, print_json

SettingsOption = Annotated[
    Path | None,
    typer.Option("--settings", help="Settings file; else the one that UNSEEN_SETTINGS names."),
]
DEFAULT_LISTEN: Final = "127.0.0.1:8400"

app = typer.Typer(
    help="Run the hub, or act as its operator.\n\n"
    "Without a command, runs the hub until SIGTERM. When it answers requests it prints one line "
    "of JSON on stdout: ready, url, relay, party. Logs go to stderr.",
    invoke_without_command=True,
)


@app.callback()
def run(context: typer.Context, settings: SettingsOption = None) -> None:
    if context.invoked_subcommand is not None:
        return
    from api.settings import HubSettings
    from api.wiring.hub import run_hub

    run_hub(HubSettings.load(settings), announce=print_json)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where keys, policy and settings will be.")],
    name: Annotated[str, typer.Option(help="The operator's name, as participants see it.")],
    origin: Annotated[str, typer.Option(help="The ledger's name: exchange.example/log")],
    listen: Annotated[str, typer.Option(help="host:port of the API.")] = DEFAULT_LISTEN,
    public_url: Annotated[
        str | None, typer.Option(help="How participants write the hub's address.")
    ] = None,
    relay_listen: Annotated[
        str | None, typer.Option(help="host:port of the relay for nodes that only dial out.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an operator's folder: its keys, the ledger's key, a policy and a settings file."""
    from api.operator import create_hub
    from crypto.ports import SystemClock

    made = create_hub(
        folder,
        name,
        origin,
        listen=listen,
        public_url=public_url,
        relay_listen=relay_listen,
        now=SystemClock().now(),
    )
    document = made.folder.party.document
    fingerprint = document.identity.fingerprint
    answer(
        {
            "party": document.party,
            "fingerprint": fingerprint,
            "log_vkey": str(made.log_key),
            "policy": str(made.policy),
            "settings": str(made.settings),
        },
        f"operator     {document.party}\n"
        f"fingerprint  {fingerprint}\n"
        f"log key      {made.log_key}\n\n"
        f"Give participants the fingerprint and {made.policy}. Start the hub with\n"
        f"  exchange hub --settings {made.settings}",
        as_json=as_json,
    )


@app.command()
def fund(
    party: Annotated[str, typer.Argument(help="Whom to credit: pty_…")],
    amount_minor: Annotated[int, typer.Argument(help="In minor units: fen, cents.", min=1)],
    currency: Annotated[str, typer.Argument(help="CNY, … or TEST for play money.")],
    key: Annotated[
        str,
        typer.Option(help="Names this deposit: the same for each retry, new for each deposit."),
    ],
    settings: SettingsOption = None,
    url: Annotated[
        str | None, typer.Option(help="The hub's address, if not that of the settings.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Book money that arrived outside, at the running hub, as its operator."""
    from api.client.hub import HubClient
    from api.client.transport import Transport
    from api.folder import PartyFolder
    from api.settings import HubSettings
    from crypto.identifiers import PartyId
    from crypto.ports import SystemClock, SystemRandomness
    from crypto.record import Amount

    found = HubSettings.load(settings)
    payee = PartyId.parse(party, where="party")
    folder = PartyFolder(found.folder)
    transport = Transport(
        url or found.address,
        folder.party.document.party,
        folder.signing,
        clock=SystemClock(),
        randomness=SystemRandomness(),
        ca_file=found.tls_certificate,
    )
    with transport:
        statement = HubClient(transport).deposit(payee, currency, Amount(amount_minor), key=key)
    answer(
        {
            "party": payee,
            "currency": currency,
            "amount_minor": str(amount_minor),
            "statement": None if statement is None else str(statement),
        },
        f"{amount_minor} {currency} (minor units) credited to {payee}",
        as_json=as_json,
    )
