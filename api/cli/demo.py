"""`exchange demo`: one deal between real processes, told as it happens."""

from __future__ import annotations

import signal
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from api.cli.output import JsonOption, print_json


class DemoLanguage(StrEnum):
    ENGLISH = "en"
    CHINESE = "zh-CN"


class Chain(StrEnum):
    SIMULATED = "simulated"
    ANVIL = "anvil"


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the exchange running until Ctrl-C.")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="An empty folder for everything; else a temporary one.")
    ] = None,
    lang: Annotated[DemoLanguage, typer.Option(help="en or zh-CN.")] = DemoLanguage.ENGLISH,
    chain: Annotated[
        Chain, typer.Option(help="Where heads are anchored: simulated, or anvil found on PATH.")
    ] = Chain.SIMULATED,
    as_json: JsonOption = False,
) -> None:
    """Run one whole deal on scikit-learn's diabetes data between processes on this machine."""
    from api.demo import setting
    from api.demo.story import Story
    from api.demo.teller import Teller

    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise typer.BadParameter(
            f"{folder} is not empty; name an empty folder", param_hint="folder"
        )
    place = folder.resolve() if folder else Path(tempfile.mkdtemp(prefix="unseen-demo-"))
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    teller = Teller(lang.value, quiet_stdout=as_json)
    teller.line(teller.words("title"))
    teller.say("where", folder=place)
    # Told to stop in any way, it ends its processes; a shell's background job ignores SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    exchange = setting.Exchange(place, setting.Chain(chain.value))
    story = Story(exchange, teller)
    try:
        good = story.tell()
        if as_json:
            print_json(story.document)
        if keep:
            story.tell_what_next()
            while True:
                time.sleep(1)
    except KeyboardInterrupt:
        good = True
    finally:
        exchange.stop()
    raise typer.Exit(0 if good else 1)
