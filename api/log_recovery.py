"""Bringing the log in a hub's database forward from a full copy, by the operator's command.

Stop every hub process before. The log is whole afterwards; the hub's bookkeeping is not, and a hub
that goes on with it would number its own statements a second time: see docs/operating.md.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from api.database import bring_up_to_date, open_engine
from api.settings import HubSettings
from ledger.adapters.sql import SqlLogDatabase
from ledger.recovery import Recovered, recover
from ledger.verify.note import VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.tiles import FolderSource


def restore_log(settings: HubSettings, copy: Path, *, now: datetime, repair: bool) -> Recovered:
    """One transaction: a crash or a refusal changes nothing. Raises what `recover` raises."""
    own = VerifierKey.parse((settings.folder / "log.vkey").read_text("utf-8").strip())
    policy = Policy.parse(settings.policy_file.read_bytes())
    engine = open_engine(settings.store_url)
    try:
        bring_up_to_date(engine, "hub")
        with SqlLogDatabase(engine).transaction() as store:
            return recover(
                store,
                FolderSource(copy),
                origin=own.name,
                policy=policy,
                now=now,
                repair=repair,
            )
    finally:
        engine.dispose()
