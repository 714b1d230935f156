"""`exchange selfcheck`: does this installation compute what it says it computes?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.output import JsonOption, answer
from api.cli.speech import say
from api.cli.tables import table


def selfcheck(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="One check by name; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run every private computation on random inputs and compare with the same in the clear.

    Each check starts the real engines of all its parties. Exits with 1 if any disagrees."""
    from rich.console import Console

    from api.selfcheck import schemes
    from api.selfcheck import selfcheck as run

    known = schemes()
    names = only or list(known)
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name}: {', '.join(known)}")
    said = Console(stderr=True)
    found = []
    for checked in run(names):
        said.print(f"{checked.name}: {checked.problem or 'ok'} ({checked.seconds:.2f} s)")
        found.append(checked)
    rows: list[dict[str, Any]] = [
        {
            "check": one.name,
            "scheme": one.scheme,
            "security_bits": one.security_bits,
            "seconds": round(one.seconds, 3),
            "agrees": not one.problem,
            "problem": one.problem,
        }
        for one in found
    ]
    failed = [one.name for one in found if one.problem]
    answer(
        {"checks": rows, "failed": failed},
        table(
            ["check", "scheme", "security_bits", "seconds", "agrees"],
            [
                (
                    row["check"],
                    row["scheme"],
                    str(row["security_bits"]),
                    f"{row['seconds']:.2f}",
                    say("selfcheck.agrees") if row["agrees"] else row["problem"],
                )
                for row in rows
            ],
        ),
        as_json=as_json,
    )
    if failed:
        raise typer.Exit(1)
