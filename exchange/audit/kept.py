"""The party documents that a log announces, kept beside a full copy of it.

An entry shows who acted; which key was theirs stands in a party document, of which the log holds
the digest alone. With these documents beside it a copy is audited with nobody left to ask. What
else a hub serves by digest no audit of a log reads, and what parties agreed is theirs.

The folder is one that `exchange.audit.whole` reads: a file for each document, named by its digest.
Beside them `announced` lists what the entries read so far announce. It is on disk before any
document is asked for: whatever ends this, the next time reads the entries that are new since, and
asks for every announced document that has no file. So a file that was damaged is had again by
removing it, and everything by removing `announced`, which reads the copy from its first entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from crypto import record
from crypto.digest import Digest
from crypto.errors import CryptoError
from crypto.files import make_folder, replace_file, sync
from crypto.statement import read_statement
from exchange.audit.chains import KEY_CHANGES
from exchange.audit.whole import DOCUMENTS, Documents, document_file, read_named
from ledger.copies import locked
from ledger.errors import SourceUnreachable
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.tiles import FolderSource, SignedTree, open_tree

MAX_SILENCE: Final = 3  # one document that cannot be had must not keep others away
_ANNOUNCED: Final = "announced"
_VERSION: Final = 1


@dataclass(frozen=True)
class Kept:
    """announced: how many documents the log announces. new: how many of them were written now.
    missing: those that were not to be had, each with the entry that announced it first."""

    folder: Path
    announced: int
    new: int
    missing: Mapping[Digest, int]


def keep_documents(copy: Path, head: Checkpoint, documents: Documents) -> Kept:
    """Keep every party document that entries of the copy announce, as far as it can be had.

    copy: as `ledger.copies.mirror` left it at this head. A document counts as missing if it is not
    served, or other bytes are, or some that its identity key did not sign: none of them is kept.
    Raises SourceUnreachable where there was no answer, once all others were asked for, or after
    MAX_SILENCE in a row; TileRefused, TileMissing for damage of the copy itself.
    """
    folder = copy / DOCUMENTS
    with locked(copy):
        make_folder(folder)
        announced = _announced(folder, open_tree(FolderSource(copy), head))
        new, missing = 0, {}
        silent: list[SourceUnreachable] = []
        silence = 0
        for name, entry in announced.items():
            file = document_file(folder, name)
            if file.exists():
                continue
            try:
                data = documents.read(name)
            except SourceUnreachable as error:
                silent.append(error)
                silence += 1
                if silence == MAX_SILENCE:
                    break
                continue
            silence = 0
            if data is None or read_named(name, data) is None:
                missing[name] = entry
                continue
            replace_file(file, data)
            new += 1
        sync(folder)  # which the disk may have refused after a file had its name
    if silent:
        raise silent[0]
    return Kept(folder, len(announced), new, missing)


@dataclass(frozen=True)
class _Announcement:
    """entry: the first that announces this document."""

    document: Digest
    entry: int


@dataclass(frozen=True)
class _Announced:
    """What the first `size` entries of a log announce, in its order. It is as good as the copy from
    which it was read, and made again without it."""

    v: int
    origin: str
    size: int
    documents: tuple[_Announcement, ...]


def _announced(folder: Path, tree: SignedTree) -> Mapping[Digest, int]:
    """Brought up to the tree's size, and on disk."""
    known = _read(folder / _ANNOUNCED, tree.checkpoint.origin)
    found = {one.document: one.entry for one in known.documents}
    if known.size < tree.size:
        for place, entry in tree.entries(known.size):
            name = _announcement(entry)
            if name is not None:
                found.setdefault(name, place)
        documents = tuple(_Announcement(name, place) for name, place in found.items())
        known = replace(known, size=tree.size, documents=documents)
        replace_file(folder / _ANNOUNCED, record.to_bytes(known))
    return found


def _read(path: Path, origin: str) -> _Announced:
    """What is there of this log; else nothing, so that all is read again."""
    nothing = _Announced(_VERSION, origin, 0, ())
    try:
        known = record.from_bytes(_Announced, path.read_bytes())
    except (FileNotFoundError, CryptoError):
        return nothing
    return known if (known.v, known.origin) == (_VERSION, origin) else nothing


def _announcement(entry: bytes) -> Digest | None:
    """The document that an entry announces. One that is no statement, the audit names."""
    try:
        statement = read_statement(entry).statement
    except CryptoError:
        return None
    if statement.type not in KEY_CHANGES or len(statement.outputs) != 1:
        return None
    return statement.outputs[0]
