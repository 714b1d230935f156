"""A follower at work: it looks, says what is wrong, keeps its state, waits, and looks again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from crypto.digest import Digest
from crypto.ports import Clock
from crypto.statement import MAX_ENTRY_BYTES, read_statement
from exchange.audit.alerts import Alert, Kind, load_state, save_state
from exchange.audit.follow import USUAL, Follower, Limits
from exchange.audit.openings import Opener
from exchange.audit.roots import Roots
from exchange.audit.watched import Bundles
from exchange.audit.whole import Documents
from exchange.query.explanation import Language
from ledger.errors import SourceUnreachable, TileMissing
from ledger.verify.policy import Policy
from ledger.verify.tiles import TileSource

QUIET: Final = 0
ALERTED: Final = 1
UNREACHABLE: Final = 4


@dataclass(frozen=True)
class Following:
    """What is followed, and how. state: the file that outlives the program. once: one look, as
    for cron. deals, opener: how far this reader sees into deals."""

    source: TileSource
    policy: Policy
    roots: Roots
    documents: Documents
    state: Path
    deals: Bundles | None = None
    opener: Opener | None = None
    given: Sequence[Path] = ()
    limits: Limits = USUAL
    interval_s: float = 10.0
    once: bool = False
    as_json: bool = False
    language: Language = Language.ENGLISH


def follow(
    what: Following,
    *,
    clock: Clock,
    sleep: Callable[[float], None],
    write: Callable[[str], None],
    complain: Callable[[str], None],
) -> int:
    """Until it is interrupted, or once. write: takes one line per alert; complain: what is no
    alert, for the operator of this program.

    Returns QUIET, ALERTED if any alert was raised meanwhile, or, after a single look that got no
    answer and told of nothing, UNREACHABLE. Raises StateRefused, Malformed for a given entry that
    is none, OSError.
    A crash between an alert and its keeping says it again: better twice than never.
    """
    follower = Follower(
        what.source,
        what.policy,
        what.roots,
        what.documents,
        deals=what.deals,
        opener=what.opener,
        given=read_given(what.given),
        limits=what.limits,
        state=load_state(what.state),
    )
    alerted = False
    try:
        while True:
            now = clock.now()
            try:
                found, answered = follower.look(now), True
            except (SourceUnreachable, TileMissing) as error:
                complain(str(error))
                found, answered = follower.unanswered(now), False
            for alert in found:
                write(_line(alert, what, now))
                alerted |= alert.kind is not Kind.NOT_OPENED
            if follower.state is not None:
                save_state(what.state, follower.state)
            if what.once:
                if not answered and not alerted:
                    return UNREACHABLE
                break
            sleep(what.interval_s)
    except KeyboardInterrupt:
        pass  # how a person ends it
    finally:
        follower.close()
    return ALERTED if alerted else QUIET


def lines_to(stream: TextIO) -> Callable[[str], None]:
    """Whole lines, at once: whoever waits at a pipe is told now."""

    def write(line: str) -> None:
        stream.write(f"{line}\n")
        stream.flush()

    return write


def read_given(paths: Sequence[Path]) -> Mapping[Digest, bytes]:
    """Entries in files, or in folders of files `*.json`, as in a bundle's `entries/`. Raises
    Malformed for bytes that are no statement, and OSError."""
    files = [
        file
        for path in paths
        for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])
    ]
    found: dict[Digest, bytes] = {}
    for path in files:
        with path.open("rb") as file:
            signed = read_statement(file.read(MAX_ENTRY_BYTES + 1))
        found[signed.digest] = signed.entry
    return found


def _line(alert: Alert, what: Following, now: datetime) -> str:
    if what.as_json:
        return json.dumps(alert.to_value(what.language, now), ensure_ascii=False)
    return alert.to_text(what.language, now)
