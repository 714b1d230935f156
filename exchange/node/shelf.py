"""Files that a party keeps from one job to another, all of mode 0600 in its own folder.

    tables/<digest>.lookup   encrypted tables: a holder's own, and those a consumer was given
    seeds/<digest>.seed      what the holder made that table's key from
    models/<digest>.npz      an owner's models, and the salt of each one's commitment beside it
    asked/<job>/             what this party asks in a job, until the job has answered or ended
    standing/<pair>/<version>/<name>/  one side of an unbalanced intersection (crypto.joins.ports),
                             written by engines: a saving, so it may be removed at any time

A file appears under its name only when it is complete. A crash leaves at most a file that no
product and no job names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from crypto import record
from crypto.digest import SALT_BYTES, Digest, digest
from crypto.errors import Malformed
from crypto.files import make_folder, sync
from crypto.identifiers import JobId, PartyId, ProductId
from crypto.lookup.limits import SEED_BYTES
from crypto.lookup.table import Table
from crypto.scoring.model import (
    FEATURES_FILE,
    FeatureRows,
    Float64Array,
    ScoringModel,
    load_model,
    model_digest,
    save_model,
)
from registry.errors import SourceUnreachable

MAX_STANDING_BYTES: Final = 2**30
_NAMES: Final = "names.json"


@dataclass(frozen=True)
class Names:
    """What a consumer calls the rows that it has scored, or the keys that it asks for. Never
    printed by accident: a key may name a person."""

    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Names({len(self.names)})"


@dataclass(frozen=True)
class Shelf:
    """path: the party's own folder."""

    path: Path

    # A holder's tables

    def keep_table(self, table: Table, seed: bytes) -> None:
        """The seed first: a table without it could answer nobody."""
        with _fresh(self._file("seeds", table.digest, "seed")) as part:
            part.write_bytes(seed)
        with _fresh(self.table(table.digest)) as part:
            table.save(part)

    def table(self, digest: Digest) -> Path:
        """Where the table of this digest is, or is to be. Absolute."""
        return self._file("tables", digest, "lookup")

    def seed(self, table: Digest) -> bytes:
        """Raises SourceUnreachable where this party did not make that table, or lost it."""
        seed = _read(self._file("seeds", table, "seed"), "the seed of the lookup table")
        if len(seed) != SEED_BYTES or not self.table(table).exists():
            raise SourceUnreachable(f"the lookup table {table} is not complete; make a new one")
        return seed

    # An owner's models

    def keep_model(self, model: ScoringModel, salt: bytes) -> Digest:
        """Returns the commitment that names the model."""
        digest = model_digest(model, salt=salt)
        with _fresh(self._file("models", digest, "salt")) as part:
            part.write_bytes(salt)
        with _fresh(self._file("models", digest, "npz")) as part:
            save_model(model, part)
        return digest

    def model(self, digest: Digest) -> ScoringModel:
        """Raises SourceUnreachable if it is not here, or not the one that was committed to."""
        salt = _read(self._file("models", digest, "salt"), "the salt of the model")
        path = self._file("models", digest, "npz")
        if not path.exists() or len(salt) != SALT_BYTES:
            raise SourceUnreachable(f"the model {digest} is not in this party's folder")
        try:
            model = load_model(path)
        except Malformed as error:
            raise SourceUnreachable(f"the model {digest} cannot be read: {error}") from error
        if model_digest(model, salt=salt) != digest:
            raise SourceUnreachable(f"the file of model {digest} holds another model")
        return model

    # What a consumer asks

    def keep_asked(self, job: JobId, names: Names, values: Float64Array | None) -> None:
        """values: of a score, shape (n, d); None for a lookup, whose names are the keys."""
        folder = self._asked(job)
        make_folder(folder, 0o700)
        if values is not None:
            with _fresh(folder / FEATURES_FILE) as part, part.open("wb") as file:
                np.savez(file, values=values)
        with _fresh(folder / _NAMES) as part:
            part.write_bytes(record.to_bytes(names))

    def asked_names(self, job: JobId) -> tuple[str, ...]:
        """Raises SourceUnreachable if nothing was kept for this job."""
        data = _read(self._asked(job) / _NAMES, f"what {job} asks")
        return record.from_bytes(Names, data).names

    def asked_rows(self, job: JobId) -> FeatureRows:
        """Raises SourceUnreachable, or Malformed."""
        if not (self._asked(job) / FEATURES_FILE).exists():
            raise SourceUnreachable(f"the rows of {job} are not in this party's folder")
        return FeatureRows.load(self._asked(job))

    def forget_asked(self, job: JobId) -> None:
        shutil.rmtree(self._asked(job), ignore_errors=True)

    # What stands between two holders

    def standing(
        self, pair: tuple[PartyId, ProductId, PartyId], *, version: Digest, name: Digest
    ) -> Path:
        """The folder of what stands under `name`, made if need be. Absolute.

        pair: who has many rows, in which product, and who has few. What stood for another version
        of the product is removed, and then what was longest not used, beyond MAX_STANDING_BYTES.
        """
        whole = (self.path / "standing").resolve()
        versions = whole / digest("\0".join(pair).encode()).raw.hex()
        for other in versions.glob("*"):
            if other.name != version.raw.hex():
                shutil.rmtree(other, ignore_errors=True)
        found = versions / version.raw.hex() / name.raw.hex()
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(found)
        _make_room(whole, found)
        return found

    def sweep(self, *, ended: Collection[JobId], known: Collection[JobId], now: datetime) -> None:
        """At start, before anything runs: what was asked in jobs that have ended, or that were
        never submitted, and tables that were not received to their end."""
        for folder in (self.path / "asked").glob("*"):
            # A command may be about to submit what it has just written.
            old = datetime.fromtimestamp(folder.stat().st_mtime, UTC) < now - timedelta(days=1)
            if folder.name in ended or (folder.name not in known and old):
                shutil.rmtree(folder, ignore_errors=True)
        parts = [*(self.path / "tables").glob("*.part"), *self.path.glob("standing/*/*/*/*.part")]
        for part in parts:
            part.unlink(missing_ok=True)

    def _asked(self, job: JobId) -> Path:
        return (self.path / "asked" / job).resolve()

    def _file(self, kind: str, digest: Digest, ending: str) -> Path:
        folder = (self.path / kind).resolve()
        make_folder(folder, 0o700)
        return folder / f"{digest.raw.hex()}.{ending}"


def _make_room(whole: Path, in_use: Path) -> None:
    ages = []
    for folder in whole.glob("*/*/*"):
        with suppress(FileNotFoundError):  # another job's node thread removes as well
            size = sum(file.stat().st_size for file in folder.glob("*"))
            ages.append((folder == in_use, folder.stat().st_mtime, folder, size))
    total = 0
    for used, _, folder, size in sorted(ages, reverse=True):
        total += size
        if total > MAX_STANDING_BYTES and not used:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """A file to be written, put in its place once it is safely on the disk."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    yield part
    sync(part)
    part.replace(path)
    sync(path.parent)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SourceUnreachable(f"{what} is not in this party's folder") from None
