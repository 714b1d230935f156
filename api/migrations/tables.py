"""Every row class of the project, found where they may be: `<package>/adapters/*sql*.py`."""

from __future__ import annotations

import importlib
from pathlib import Path

from sqlalchemy import MetaData
from sqlmodel import SQLModel

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("crypto", "registry", "ledger", "pricing", "exchange", "api")


def all_tables() -> MetaData:
    """The tables of all processes together; `api.migrations.owner` tells whose each is."""
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("adapters/*sql*.py")):
            importlib.import_module(".".join(path.relative_to(_ROOT).with_suffix("").parts))
    return SQLModel.metadata
