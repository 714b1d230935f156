"""A power cut during a rotation of a participant's keys leaves every key that was ever used."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.folder import ROTATED, PartyFolder
from registry.party import Role

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def test_no_key_is_replaced_before_its_copy_is_on_disk_and_no_document_before_its_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "party"
    folder = PartyFolder.create(path, "Holder", [Role.HOLDER], now=NOW)
    done: list[object] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append(("replaced", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replaced)
    folder.rotate(now=NOW)
    retired = path / "retired" / "0"
    first = done.index(("replaced", path / ROTATED[0]))
    for synced in (*(retired / file for file in ROTATED), retired, retired.parent, path):
        assert synced in done[:first], synced
    last = max(done.index(("replaced", path / file)) for file in ROTATED)
    assert path in done[last : done.index(("replaced", path / "party.json"))]
    assert path in done[done.index(("replaced", path / "party.json")) :]
