"""Files that outlast a power cut.

A disk keeps a file's bytes once the file was synced, and its name once its folder was. So bytes
come before the name that readers go by, and a name before anything that relies on it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Whole or not at all, whatever happens meanwhile, and on disk when this returns."""
    draft = path.with_name(path.name + ".new")
    write_file(draft, data)
    draft.replace(path)
    sync(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Its bytes are on disk when this returns; its name is once its folder is synced."""
    path.write_bytes(data)
    sync(path)


def copy_file(source: Path, target: Path) -> None:
    """With its mode, as `write_file` writes."""
    shutil.copy2(source, target)
    sync(target)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """With the folders that lead to it, if need be, and those made here have their names on disk
    when this returns. mode: of the last of them.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode, exist_ok=True)
    try:
        sync(path.parent)
    except OSError:
        path.rmdir()  # else whoever repeats this finds it there, and its name is not on disk
        raise


def sync(path: Path) -> None:
    """A file's bytes, or the names in a folder, are on disk when this returns.

    Without it a power cut may leave no file, though its bytes were written, and a statement that
    names its key in a database that did keep it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
