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
    sm2: Annotated[
        bool,
        typer.Option(help="Sign heads with SM2 too, and keep an SM3 tree. Development mode."),
    ] = False,
    succeeds: Annotated[
        Path | None,
        typer.Option(help="The last checkpoint of a log that is lost and that this one follows."),
    ] = None,
    old_policy: Annotated[
        Path | None, typer.Option(help="With --succeeds: that log's policy, which must accept it.")
    ] = None,
    old_key: Annotated[
        Path | None,
        typer.Option(help="That log's key or recovery key; without it, following is only claimed."),
    ] = None,
    old_keys: Annotated[
        Path | None,
        typer.Option(help="That log's newest keys document, which names the recovery key."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an operator's folder: its keys, the ledger's keys, a policy and a settings file."""
    from api.operator import Succeeded, create_hub
    from crypto.keys import read_signing_key
    from crypto.ports import SystemClock

    if (succeeds is None) != (old_policy is None) or (succeeds is None and (old_key or old_keys)):
        raise typer.BadParameter("--succeeds and --old-policy go together; other --old-… need both")
    before = None
    if succeeds is not None and old_policy is not None:
        before = Succeeded(
            succeeds.read_bytes(),
            old_policy.read_bytes(),
            None if old_key is None else read_signing_key(old_key),
            None if old_keys is None else old_keys.read_bytes(),
        )
    made = create_hub(
        folder,
        name,
        origin,
        listen=listen,
        public_url=public_url,
        relay_listen=relay_listen,
        sm2=sm2,
        succeeds=before,
        now=SystemClock().now(),
    )
    document = made.folder.party.document
    fingerprint = document.identity.fingerprint
    answer(
        {
            "party": document.party,
            "fingerprint": fingerprint,
            "log_vkey": str(made.log_key),
            "sm2_vkeys": [str(key) for key in made.sm2_keys],
            "recovery_key": str(made.recovery_key),
            "policy": str(made.policy),
            "settings": str(made.settings),
        },
        f"operator     {document.party}\n"
        f"fingerprint  {fingerprint}\n"
        f"log key      {made.log_key}\n\n"
        f"Move {made.recovery_key} to a medium that you keep offline: with it the log's\n"
        "key is replaced if that is stolen, by whoever has it.\n"
        f"Give participants the fingerprint and {made.policy}. Start the hub with\n"
        f"  exchange hub --settings {made.settings}",
        as_json=as_json,
    )


@app.command("rotate-log-key")
def rotate_log_key(
    finish: Annotated[
        bool, typer.Option(help="End the overlap: the next key signs alone from here on.")
    ] = False,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace the ledger's key, in two steps. Stop the hub before each, and start it afterwards.

    The first makes the next key, which signs beside the present one, and puts it into the policy.
    Once every witness and participant trusts it, the second, --finish, retires the key before.
    Both are said in the ledger. A step that was interrupted can be repeated.
    """
    from api import log_keys
    from api.settings import HubSettings

    found = HubSettings.load(settings)
    key = log_keys.end_rotation(found) if finish else log_keys.begin_rotation(found)
    words = (
        f"{key}\nsigns alone once the hub has started again. The key before is in "
        f"{found.folder / log_keys.RETIRED};\ndestroy it. Give everybody the new policy."
        if finish
        else f"{key}\nsigns beside the present key once the hub has started again. Give it to "
        f"every witness\nand {found.policy_file} to participants; then repeat this with --finish."
    )
    answer({"log_vkey": str(key), "finished": finish}, words, as_json=as_json)


@app.command("recover-log-key")
def recover_log_key(
    recovery_key: Annotated[Path, typer.Argument(help="The recovery key's file, from offline.")],
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replace a stolen or lost key of the ledger at once, by the recovery key. Stop the hub before,
    and start it afterwards; then tell every witness and participant the new key."""
    from api import log_keys
    from api.settings import HubSettings

    found = HubSettings.load(settings)
    key = log_keys.recover(found, recovery_key)
    words = (
        f"{key}\nsigns alone once the hub has started again. Have every witness replace the key "
        f"before,\nand give everybody {found.policy_file}. Take the recovery key offline again."
    )
    answer({"log_vkey": str(key)}, words, as_json=as_json)


@app.command("add-sm2-keys")
def add_sm2_keys(settings: SettingsOption = None, as_json: JsonOption = False) -> None:
    """Sign heads with SM2 too, and keep a parallel SM3 tree, from the next start on.

    Keys in files are for development: production wants a certified module.
    """
    from api import log_keys
    from api.settings import HubSettings

    keys = log_keys.add_sm2(HubSettings.load(settings))
    lines = "\n".join(map(str, keys))
    answer({"sm2_vkeys": [str(key) for key in keys]}, lines, as_json=as_json)


@app.command()
def restore(
    copy: Annotated[
        Path, typer.Option("--from", help="A full copy: the folder of static files, or a mirror.")
    ],
    repair: Annotated[
        bool, typer.Option(help="Overwrite entries and tiles that are not what was signed.")
    ] = False,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the ledger in a restored database forward from a full copy. Stop the hub before.

    Compares what is stored with the copy, appends what is missing under the checkpoint that the
    ledger signed then, and signs nothing. Refuses a database that is not the copy's beginning;
    with --repair it puts right what is damaged in one that is.
    """
    from api.log_recovery import restore_log
    from api.settings import HubSettings
    from crypto.ports import SystemClock

    done = restore_log(HubSettings.load(settings), copy, now=SystemClock().now(), repair=repair)
    size = max(done.old_size, done.checkpoint.size)
    words = f"The ledger holds {size} entries, {done.entries} of them from {copy}."
    if done.repaired:
        words += "\nRepaired: " + ", ".join(done.repaired)
    if done.entries:
        words += (
            "\n\nAccounts, jobs and everybody's last statement are still those of the backup. "
            "Serve the\nledger's files from the copy, and do not start the hub on this database "
            "until its\nbookkeeping has been brought forward too: docs/operating.md says how far "
            "that goes."
        )
    answer(
        {
            "old_size": done.old_size,
            "size": size,
            "entries": done.entries,
            "repaired": list(done.repaired),
        },
        words,
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


@app.command()
def check(settings: SettingsOption = None, as_json: JsonOption = False) -> None:
    """Compare everything that the ledger has stored with what it signed. Run it on a schedule.

    Names each entry, tile, checkpoint and cosignature that was altered; repair it from a full
    copy. Reads only, so the hub may be running. Exits with 1 if anything was altered.
    """
    from api.settings import HubSettings
    from api.wiring.hub import check_stored

    damages = list(check_stored(HubSettings.load(settings)))
    answer(
        {"altered": [{"where": one.where, "problem": one.problem} for one in damages]},
        "\n".join(str(one) for one in damages) or "whole: all that is stored is what was signed",
        as_json=as_json,
    )
    if damages:
        raise typer.Exit(1)
