"""A participant in one file: keys, documents, settings and a consistent copy of the records.

A tar of mode 0600, not compressed, with plain relative names and nothing but files. The database
is copied through SQLite's own backup, so the node may go on working meanwhile; one in PostgreSQL
is left to its own tools. A restored backup that is older than the ledger is caught by the node's
own check at start, which refuses to work: its counts of runs and epsilon would be old, too.
"""

from __future__ import annotations

import io
import os
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from crypto.files import make_folder, sync
from crypto.keys import write_secret

DATABASE: Final = "node.db"
# Kept out: engine scratch, locks and logs belong to one machine and one run.
_LEFT_OUT: Final = frozenset({"engine", "engine-logs", "node.lock", "next"})
_MARK: Final = "party.json"
MAX_MEMBERS: Final = 10_000


class BackupRefused(Exception):
    """A backup that would overwrite something, or a file that is not a backup."""


@dataclass(frozen=True)
class Saved:
    """files: their names in the tar. with_database: False if it is not a file of the folder."""

    files: tuple[str, ...]
    with_database: bool


def save(folder: Path, target: Path) -> Saved:
    """Copy a participant's folder into a new file. Raises BackupRefused if `target` exists."""
    database = folder / DATABASE
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise BackupRefused(f"{target} exists; name another file") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                names = []
                # First, so that keys and documents are never older than the records: a rotation
                # in between would leave records that speak of keys the backup lacks.
                if database.exists():
                    _add(archive, DATABASE, _copy_of(database))
                    names.append(DATABASE)
                for name, path in _files(folder, apart_from=target):
                    _add(archive, name, path.read_bytes())
                    names.append(name)
            file.flush()
            os.fsync(file.fileno())
        sync(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Saved(tuple(names), database.exists())


def restore(source: Path, folder: Path) -> Saved:
    """Put a backup into a folder that does not exist yet, or is empty. Raises BackupRefused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BackupRefused(f"{folder} exists and is not empty; name another folder")
    files = _read(source)
    make_folder(folder, 0o700)
    folder.chmod(0o700)
    for name, data in files.items():
        path = folder / name
        make_folder(path.parent, 0o700)
        write_secret(path, data)
    return Saved(tuple(files), DATABASE in files)


def _files(folder: Path, *, apart_from: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] in _LEFT_OUT or relative.name.startswith(DATABASE):
            continue
        if path.is_file() and not path.is_symlink() and path.resolve() != apart_from.resolve():
            yield relative.as_posix(), path


def _copy_of(database: Path) -> bytes:
    """The database as of one moment, with what is still in its write-ahead log."""
    with (
        closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(":memory:")) as copy,
    ):
        live.backup(copy)
        return copy.serialize()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o600
    archive.addfile(info, io.BytesIO(data))


def _read(source: Path) -> Mapping[str, bytes]:
    """The files of a backup, all of them checked before any is written."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(source, mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isreg() or name.is_absolute() or ".." in name.parts or not name.parts:
                    raise BackupRefused(f"{source} holds {member.name[:80]!r}, which no backup has")
                content = archive.extractfile(member)
                if content is None or member.name in files or len(files) == MAX_MEMBERS:
                    raise BackupRefused(f"{source} is not a backup: {member.name[:80]!r}")
                files[member.name] = content.read()
    except FileNotFoundError:
        raise BackupRefused(f"{source} does not exist") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BackupRefused(f"{source} is not a readable backup: {error}") from None
    if _MARK not in files:
        raise BackupRefused(f"{source} holds no {_MARK}: it is not a participant's backup")
    return files
