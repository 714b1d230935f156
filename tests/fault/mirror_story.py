"""Two mirrors of a log, the first into no folder at all, on a failing disk (tests.fault.disk)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from exchange.audit.kept import Kept, keep_documents
from exchange.audit.roots import Roots
from exchange.audit.whole import FolderDocuments, audit_whole_log, documents_beside
from ledger.copies import Copied, mirror
from ledger.verify.checkpoint import open_checkpoint
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.tiles import FolderSource, open_tree
from registry.party import read_party
from tests.announcing_log import AnnouncingLog
from tests.fault.disk import DISK, Again, Tell, Told

PLACES = {"early": 254, "late": 259}  # the entries of each: the first tile fills in between
DOCUMENTS = 4


def prepare(folder: Path) -> None:
    log = AnnouncingLog(folder)
    log.joins("hub")
    log.joins("clinic")
    log.speaks("clinic", PLACES["early"] - 2)
    log.publish()
    shutil.copytree(log.log.folder, folder / "early")
    log.rotates("clinic")
    log.joins("lab")
    log.speaks("lab", 3)
    log.publish()
    log.log.folder.rename(folder / "late")
    roots = "".join(f"fingerprint {one}\n" for one in log.roots.fingerprints)
    (folder / "roots").write_text(roots)


def copy_from(folder: Path, place: str) -> tuple[Copied, Kept]:
    copy = folder / DISK / "new" / "copy"
    policy = Policy.parse((folder / "policy").read_bytes())
    done = mirror(copy, FolderSource(folder / place), policy)
    return done, keep_documents(copy, done.checkpoint, FolderDocuments(folder / "served"))


def live(folder: Path, tell: Tell, again: Again) -> None:
    for place, size in PLACES.items():
        again(lambda place=place: copy_from(folder, place))  # type: ignore[misc]
        tell("copied", size)


def examine(folder: Path, told: Told) -> Iterator[str]:
    """What is left is whole as far as it goes, and the next mirror completes it."""
    copy = folder / DISK / "new" / "copy"
    policy = Policy.parse((folder / "policy").read_bytes())
    sizes = [size for _, size in told if isinstance(size, int)]
    if sizes or (copy / "checkpoint").exists():
        note = Note.parse((copy / "checkpoint").read_bytes())
        head = open_checkpoint(note, policy.log_keys)
        if head.size < max(sizes, default=0):
            yield f"the copy of {max(sizes)} entries has {head.size}"
        if len(list(open_tree(FolderSource(copy), head).entries())) != head.size:
            yield f"the copy of {head.size} entries lacks some of them"
    kept = [path for path in (copy / "documents").glob("*") if len(path.name) == 64]
    for path in kept:
        if read_party(path.read_bytes()).digest.raw.hex() != path.name:
            yield f"{path.name} holds other bytes"
    if len(kept) < {0: 0, 1: 2, 2: DOCUMENTS}[len(sizes)]:
        yield f"{len(kept)} documents are left after {len(sizes)} mirrors"
    done, found = copy_from(folder, "late")
    if (done.checkpoint.size, found.announced, found.missing) != (PLACES["late"], DOCUMENTS, {}):
        yield f"the next mirror ends with {done} and {found}"
    if found.new != DOCUMENTS - len(kept):
        yield f"{found.new} documents were written anew, and {len(kept)} were there"
    again, nothing = copy_from(folder, "late")
    if (again.files, nothing.new) != (0, 0):
        yield f"yet another mirror writes {again.files} files and {nothing.new} documents"
    beside = documents_beside(str(copy))
    if beside is None:
        yield "the copy has no documents of its own"
        return
    roots = Roots.parse((folder / "roots").read_bytes())
    report = audit_whole_log(str(copy), policy, roots, FolderDocuments(Path(beside)), workers=0)
    for check in (*report.failed, *(c for c in report.not_opened if c.id == "entry.signed")):
        yield f"the audit of the copy: {check}"
