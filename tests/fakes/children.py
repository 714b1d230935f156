"""Which engine children a node has, found from outside."""

from __future__ import annotations

from pathlib import Path


def children_in(folder: Path) -> list[int]:
    """Processes that work in a run's folder below `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                where = (entry / "cwd").readlink()
            except OSError:  # it ended, or is not ours
                continue
            if folder in where.parents:
                found.append(int(entry.name))
    return found
