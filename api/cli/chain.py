"""`exchange chain`: a development chain, a key that anchors, and the anchor contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.output import answer, print_json, progress
from api.cli.speech import Commands, common, say
from api.cli.tables import lines

app = Commands("chain", no_args_is_help=True)

PATIENCE_S = 120.0


@app.act("dev", "chain.dev", plain=True)
def dev(
    anvil: Annotated[bool, typer.Option("--anvil", help="chain.anvil")] = False,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="chain.port")] = 0,
    state: Annotated[Path | None, typer.Option(metavar="FILE", help="chain.state")] = None,
    fund: Annotated[list[str] | None, typer.Option(metavar="ADDRESS", help="chain.fund")] = None,
) -> None:
    from api.wiring.chain import run_anvil, run_simulated

    if state is not None and not anvil:
        raise typer.BadParameter(say("chain.state_of_anvil"), param_hint="--state")

    def announce(said: Any) -> None:
        banner = "chain.banner.anvil" if anvil else "chain.banner"
        progress().print(say(banner, url=said["url"], chain=said["chain_id"]), markup=False)
        print_json(said)

    if anvil:
        run_anvil(port, state, fund or [], announce=announce)
    else:
        run_simulated(port, fund or [], announce=announce)


@app.act("init", "chain.init", plain=True)
def init(file: Annotated[Path, typer.Argument(metavar="NEW_FILE")]) -> None:
    from ledger.adapters.evm import create_key

    key = create_key(file)
    answer(
        {"address": key.address, "file": str(file)},
        lines(say("chain.made", address=key.address, file=file)),
        as_json=common().as_json,
    )


@app.act("deploy", "chain.deploy", plain=True)
def deploy(
    rpc: Annotated[str, typer.Option(metavar="URL", help="chain.rpc")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="chain.key")],
    log: Annotated[str, typer.Option(metavar="ORIGIN", help="chain.log")],
    anchorer: Annotated[str | None, typer.Option(metavar="ADDRESS", help="chain.anchorer")] = None,
    continues: Annotated[bool, typer.Option("--continues", help="chain.continues")] = False,
) -> None:
    import httpx2

    from ledger.adapters.evm import JsonRpc, deploy_anchor, read_key

    if continues and anchorer is not None:
        raise typer.BadParameter(say("chain.continues_alone"))
    owner = read_key(key)
    who = None if continues else (anchorer or owner.address).lower()
    with httpx2.Client(trust_env=False) as client:
        made = deploy_anchor(JsonRpc(rpc, client), owner, log, who, patience_s=PATIENCE_S)
    shown = _settings(rpc, made.chain_id, made.address, simulated=made.simulated)
    answer(
        {
            **shown,
            "administrator": owner.address,
            "anchorer": who,
            "block": made.block,
            "gas_used": made.gas_used,
            "simulated": made.simulated,
        },
        lines(
            say("chain.deployed", address=made.address, chain=made.chain_id, block=made.block),
            *([say("chain.simulated")] if made.simulated else []),
            say("chain.to_take_over", administrator=owner.address)
            if who is None
            else say("chain.roles", administrator=owner.address, anchorer=who),
            say("chain.settings", table=_table(shown)),
        ),
        as_json=common().as_json,
    )


@app.act("hand-over", "chain.hand_over", plain=True)
def hand_over_(
    rpc: Annotated[str, typer.Option(metavar="URL", help="chain.rpc")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="chain.key")],
    log: Annotated[str, typer.Option(metavar="ORIGIN", help="chain.log")],
    old: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="chain.from")],
    new: Annotated[str | None, typer.Option("--to", metavar="ADDRESS", help="chain.to")] = None,
    anchorer: Annotated[str | None, typer.Option(metavar="ADDRESS", help="chain.anchorer")] = None,
) -> None:
    import httpx2

    from ledger.adapters.evm import JsonRpc, is_simulated, read_key
    from ledger.adapters.evm_hand_over import hand_over

    owner = read_key(key)
    with httpx2.Client(trust_env=False) as client:
        node = JsonRpc(rpc, client)
        done = hand_over(
            node, owner, log, old, anchorer or owner.address, successor=new, patience_s=PATIENCE_S
        )
        simulated = is_simulated(node)
    place = done.successor
    shown = _settings(rpc, place.chain_id, place.contract, simulated=simulated)
    said = "chain.handed_over" if done.sent else "chain.handed_over_before"
    answer(
        {**shown, "predecessor": old.lower(), "size": done.size, "sent": done.sent},
        lines(
            say(said, old=old.lower(), new=place.contract, size=f"{done.size:,}"),
            *([say("chain.simulated")] if simulated else []),
            say("chain.settings", table=_table(shown)),
        ),
        as_json=common().as_json,
    )


def _settings(rpc: str, chain: int, contract: str, *, simulated: bool) -> dict[str, int | str]:
    """The hub's `[anchor]`, as far as the chain can say what belongs there."""
    # One block is enough where nobody else makes any; a chain of others has its own word for it.
    finality = 1 if simulated else "finalized"
    return {"rpc_url": rpc, "chain_id": chain, "contract": contract, "finality": finality}


def _table(shown: dict[str, int | str]) -> str:
    return "\n".join(
        f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value}"
        for name, value in shown.items()
    )
