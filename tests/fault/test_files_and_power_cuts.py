"""Files that a power cut does not take: what was synced, moved and made, in which order.

A disk keeps a file's bytes once the file was synced, and a name once its folder was.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api import backup, log_keys
from api.database import open_engine
from api.folder import ROTATED, PartyFolder
from api.operator import Succeeded, create_hub, create_witness
from api.participant import Wishes, create
from api.settings import HubSettings
from crypto.keys import SigningKey
from exchange.audit.alerts import State, save_state
from exchange.node.shelf import Shelf
from ledger.adapters.sql import SqlLogDatabase
from ledger.copies import mirror
from ledger.tiles import LogSource
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.merkle import leaf_hash
from ledger.verify.note import log_key
from registry.party import Role
from tests.integration.test_log_keys import ORIGIN, a_hub
from tests.ports.test_ledger_copies import POLICY, grow
from tests.unit.test_shelf import SALT, SEED, a_model, a_table

NOW = datetime(2026, 11, 23, tzinfo=UTC)
OLD = SigningKey.generate()
OLD_POLICY = f"log {log_key('old.test/log', OLD)}\nquorum none\n".encode()


class Disk:
    """All that was synced, moved and made so far."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Path]] = []

    def at(self, what: str, path: Path) -> int:
        """Of the last time."""
        found = [n for n, one in enumerate(self.done) if one == (what, path)]
        assert found, f"{path} was not {what}"
        return found[-1]

    def require(self, what: str, path: Path, *, after: int = 0, before: int | None = None) -> None:
        assert (what, path) in self.done[after:before], f"{path} was not {what} in time"

    def require_kept(self, folder: Path) -> None:
        """Nothing of the folder, nor the folder, would be lost now."""
        paths = [folder, *folder.rglob("*")]
        assert len(paths) > 1
        for path in paths:
            if path.name.endswith((".lock", ".db", ".db-wal", ".db-shm")):
                continue
            if path.is_dir():
                named = self.at("made", path)
            elif ("moved", path) in self.done:
                named = self.at("moved", path)
                _, draft = self.done[named - 1]
                assert self.done[named - 2] == ("synced", draft), f"{draft} was not synced"
            else:
                named = self.at("synced", path)
            self.require("synced", path.parent, after=named)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    sync, replace, mkdir = os.fsync, os.replace, os.mkdir

    def fsync(descriptor: int) -> None:
        disk.done.append(("synced", Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        disk.done += [("moved away", Path(source)), ("moved", Path(target))]
        replace(source, target)

    def made(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        disk.done.append(("made", Path(path)))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "mkdir", made)
    return disk


def test_no_key_is_replaced_before_its_copy_is_on_disk_and_no_document_before_its_keys(
    tmp_path: Path, disk: Disk
) -> None:
    path = tmp_path / "party"
    folder = PartyFolder.create(path, "Holder", [Role.HOLDER], now=NOW)
    disk.done.clear()
    folder.rotate(now=NOW)
    retired = path / "retired" / "0"
    first = min(disk.at("moved", path / file) for file in ROTATED)
    for synced in (*(retired / file for file in ROTATED), retired, retired.parent, path):
        disk.require("synced", synced, before=first)
    last = max(disk.at("moved", path / file) for file in ROTATED)
    document = disk.at("moved", path / "party.json")
    disk.require("synced", path, after=last, before=document)
    disk.require("synced", path, after=document)


def test_no_log_key_is_replaced_before_its_copy_is_on_disk_nor_its_name_told_before_it(
    tmp_path: Path, disk: Disk
) -> None:
    settings = a_hub(tmp_path / "hub")
    disk.done.clear()
    log_keys.begin_rotation(settings)
    log_keys.end_rotation(settings)
    folder = settings.folder
    retired = folder / log_keys.RETIRED
    (copy,) = retired.iterdir()
    replaced, told = disk.at("moved", folder / "log.key"), disk.at("moved", folder / "log.vkey")
    for synced in (copy, retired, folder):
        disk.require("synced", synced, after=disk.at("made", retired), before=replaced)
    disk.require("synced", folder, after=replaced, before=told)
    disk.require("synced", folder, after=told)


def a_new_hub(path: Path) -> None:
    last = sign_checkpoint(Checkpoint("old.test/log", 1, leaf_hash(b"entry")), OLD).to_bytes()
    made = create_hub(
        path,
        "Operator",
        ORIGIN,
        listen="127.0.0.1:0",
        public_url=None,
        relay_listen=None,
        succeeds=Succeeded(last, OLD_POLICY, OLD, None),
        now=NOW,
    )
    assert HubSettings.load(made.settings).folder == path
    assert {"log.vkey", "policy", "predecessor"} <= {file.name for file in path.iterdir()}


def a_new_witness(path: Path) -> None:
    create_witness(path, "w.test", [str(log_key(ORIGIN, OLD))], listen="127.0.0.1:0")


def a_new_participant(path: Path) -> None:
    policy = path.parent.parent / "policy"
    policy.write_bytes(OLD_POLICY)
    wishes = Wishes("Holder", [Role.HOLDER], "https://hub.test", "pty_" + "0" * 32, policy)
    create(path, wishes, now=NOW, explain=str)


def a_restored_backup(path: Path) -> None:
    saved = path.parent.parent / "saved"
    folder = PartyFolder.create(path.parent.parent / "party", "Holder", [Role.HOLDER], now=NOW)
    folder.rotate(now=NOW)
    backup.save(folder.path, saved)
    backup.restore(saved, path)
    assert (path / "retired" / "0" / "signing.key").exists()


def a_shelf(path: Path) -> None:
    shelf = Shelf(path)
    shelf.keep_table(a_table(), SEED)
    shelf.keep_model(a_model(), SALT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make", [a_new_hub, a_new_witness, a_new_participant, a_restored_backup, a_shelf]
)
def test_what_was_made_is_kept_with_every_name_that_leads_to_it(
    tmp_path: Path, disk: Disk, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "new" / "folder")
    disk.require_kept(tmp_path / "new")


def test_a_mirror_is_kept_with_every_name_that_leads_to_it(
    tmp_path: Path, disk: Disk, create_tables: Callable[..., None]
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/log.db")
    create_tables(engine, "ledger_")
    log = SqlLogDatabase(engine)
    grow(log, 300)
    mirror(tmp_path / "new" / "copy", LogSource(log), POLICY)
    engine.dispose()
    disk.require_kept(tmp_path / "new")


def test_a_backup_and_a_followers_state_are_kept(tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    disk.done.append(("synced", tmp_path))
    save_state(folder / "state", State(1, "", NOW, None, (), (), ()))
    party = PartyFolder.create(tmp_path / "party", "Holder", [Role.HOLDER], now=NOW)
    backup.save(party.path, folder / "backup")
    disk.require_kept(folder)
