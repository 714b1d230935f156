"""The audit of a whole log: an honest exchange passes, and each law's nearest violation is found
and named, although whoever made it signs everything again."""

from __future__ import annotations

from pathlib import Path

from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.audit.whole import FolderDocuments, audit_whole_log
from exchange.query.explanation import Language
from ledger.adapters.sql import SqlLogDatabase
from ledger.errors import TileMissing
from ledger.tiles import LogSource
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import Note
from ledger.verify.tile_names import CHECKPOINT, heads_path, tiles_between
from tests.world import World, a_deal, a_world


def publish(world: World, folder: Path) -> None:
    source = LogSource(SqlLogDatabase(world.engines["hub"]))
    note = source.read(CHECKPOINT)
    size = Checkpoint.parse(Note.parse(note).text).size
    put(folder / CHECKPOINT, note)
    for tile in tiles_between(0, size):
        put(folder / tile.path, source.read(tile.path))
    page = 0
    while True:
        try:
            put(folder / heads_path(page), source.read(heads_path(page)))
        except TileMissing:
            break
        page += 1
    folders = [world.operator_folder, *(m.folder for m in world.members.values())]
    for party in folders:
        document = party.party
        name = document.digest.raw.hex()
        put(folder / "documents" / name, document.envelope.to_bytes())


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def roots_of(world: World) -> Roots:
    folders = [world.operator_folder, *(m.folder for m in world.members.values())]
    return Roots(frozenset(f.party.document.identity.fingerprint for f in folders), ())


def test_an_honest_log_fails_nothing(tmp_path: Path) -> None:
    world = a_world(tmp_path / "w")
    deal = a_deal(world)
    deal.approve_standing()
    for _ in range(2):
        deal.submit()
        world.settle()
    publish(world, tmp_path / "log")
    report = audit_whole_log(
        str(tmp_path / "log"),
        world.policy,
        roots_of(world),
        FolderDocuments(tmp_path / "log" / "documents"),
    )
    print(report.to_text(VOICES[Language.ENGLISH]))
    print(report.to_text(VOICES[Language.CHINESE]))
    assert report.failed == ()
