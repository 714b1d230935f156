"""`exchange bench`: measure, print figures, judge nothing."""

from __future__ import annotations

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import JsonOption, answer


class Workload(StrEnum):
    DEAL = "deal"
    API = "api"
    START = "start"


def bench(
    name: Annotated[Workload, typer.Argument(help="What to measure.")],
    runs: Annotated[int, typer.Option(min=1, max=40, help="How often; the median counts.")] = 5,
    save: Annotated[
        Path | None, typer.Option(help="Also write the document into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a workload between real processes on this machine and print its figures."""
    from api.bench import harness

    # Ended in good order, a workload stops the processes that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    match name:
        case Workload.DEAL:
            from api.bench.deal import deal

            found = harness.document("deal", lambda: deal(runs))
        case Workload.API:
            from api.bench.api import api

            found = harness.document("api", lambda: api(runs))
        case Workload.START:
            from api.bench.start import start

            found = harness.document("start", lambda: start(runs))
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        (save / f"{name.value}.json").write_text(json.dumps(found, indent=2) + "\n")
    answer(found, json.dumps(found, indent=2), as_json=as_json)
