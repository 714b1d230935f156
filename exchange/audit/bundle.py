"""Bundles: all evidence of one deal in one file, in one form.

A bundle is a zip whose files are stored, not compressed, in order of name, with one fixed date:

    manifest.json                   what the bundle holds, canonical JSON
    checkpoint                      the log's head that every proof leads to, a C2SP signed note
    entries/<index>.json            a ledger entry, byte for byte
    proofs/<index>.tlog-proof       that it is in the log, C2SP tlog-proof
    heads/<size>                    an earlier head that witnesses cosigned: it bounds times
    heads/<old>-<new>.consistency   that one head extends the one before: base64 lines
    documents/<digest>              party documents, products, proposals, agreements, plans
    openings/<statement>/<party>    what a statement committed to, sealed to that party

Index and size are decimal with 12 digits; digests hexadecimal. Who made a bundle is not trusted:
`read` refuses whatever is not exactly what `write` makes of the same content, so nothing can hide
in one (a second file of the same name, a path that climbs out, a file that swells when read).
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from crypto import record
from crypto.digest import Digest, digest
from crypto.errors import CryptoError
from crypto.identifiers import DealId, PartyId
from crypto.statement import MAX_ENTRY_BYTES
from exchange.audit.errors import BundleRefused
from exchange.submission import MAX_BYTES, MAX_OPENING_BYTES
from ledger.errors import LedgerError
from ledger.verify.merkle import MAX_PROOF_HASHES
from ledger.verify.note import MAX_NOTE_BYTES
from ledger.verify.proof import MAX_PROOF_BYTES
from ledger.verify.text import decode_hash, decode_utf8, encode_base64

VERSION: Final = 1
MAX_BUNDLE_BYTES: Final = 256 << 20
MAX_FILES: Final = 60_000
# Statements without effect, by one actor about one job, that a bundle holds: the first ones, until
# either is passed. Without end they would make the deal one that nobody can audit.
MAX_IDLE: Final = 50
MAX_IDLE_BYTES: Final = 256 << 10
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can say
_MODE: Final = 0o100644 << 16

_MANIFEST: Final = "manifest.json"
_CHECKPOINT: Final = "checkpoint"
_ENTRY: Final = re.compile(r"entries/(\d{12})\.json", re.ASCII)
_PROOF: Final = re.compile(r"proofs/(\d{12})\.tlog-proof", re.ASCII)
_HEAD: Final = re.compile(r"heads/(\d{12})", re.ASCII)
_CONSISTENCY: Final = re.compile(r"heads/(\d{12})-(\d{12})\.consistency", re.ASCII)
_DOCUMENT: Final = re.compile(r"documents/([0-9a-f]{64})")
_OPENING: Final = re.compile(r"openings/([0-9a-f]{64})/(pty_[0-9a-f]{32})")


@dataclass(frozen=True)
class LoggedAs:
    """One entry in the manifest: its place in the log and the digest of its bytes."""

    index: int
    digest: Digest


@dataclass(frozen=True)
class SealedTo:
    """One opening in the manifest: whose statement it belongs to and who can open it."""

    statement: Digest
    reader: PartyId


@dataclass(frozen=True)
class Manifest:
    """Entries in log order; everything else in ascending order. heads: their sizes.

    left_out: how many statements about the deal the hub had taken in and left out, because whoever
    made them has no part in it, or because they had no effect and are too many, or too new.
    """

    v: int
    deal: DealId
    entries: tuple[LoggedAs, ...]
    documents: tuple[Digest, ...]
    openings: tuple[SealedTo, ...]
    heads: tuple[int, ...]
    left_out: int


@dataclass(frozen=True)
class Bundle:
    """entries, proofs: by index. documents: by digest. openings: by (statement, reader).
    heads: notes by size. consistency: hashes by (old size, new size). checkpoint: a note.

    `manifest` is what the file says of itself; an entry that does not have the digest it is
    listed with is for the audit to find.
    """

    manifest: Manifest
    checkpoint: bytes
    entries: Mapping[int, bytes]
    proofs: Mapping[int, bytes]
    documents: Mapping[Digest, bytes]
    openings: Mapping[tuple[Digest, PartyId], bytes]
    heads: Mapping[int, bytes]
    consistency: Mapping[tuple[int, int], tuple[bytes, ...]]


def list_content(
    deal: DealId,
    *,
    entries: Mapping[int, bytes],
    documents: Mapping[Digest, bytes],
    openings: Mapping[tuple[Digest, PartyId], bytes],
    heads: Mapping[int, bytes],
    left_out: int = 0,
) -> Manifest:
    """The manifest of this content."""
    return Manifest(
        v=VERSION,
        deal=deal,
        entries=tuple(LoggedAs(index, digest(entries[index])) for index in sorted(entries)),
        documents=tuple(sorted(documents)),
        openings=tuple(SealedTo(statement, reader) for statement, reader in sorted(openings)),
        heads=tuple(sorted(heads)),
        left_out=left_out,
    )


def write(bundle: Bundle) -> bytes:
    """The bytes of a bundle; the same content always gives the same bytes."""
    files = {_MANIFEST: record.to_bytes(bundle.manifest), _CHECKPOINT: bundle.checkpoint}
    for index, entry in bundle.entries.items():
        files[f"entries/{index:012d}.json"] = entry
    for index, proof in bundle.proofs.items():
        files[f"proofs/{index:012d}.tlog-proof"] = proof
    for size, note in bundle.heads.items():
        files[f"heads/{size:012d}"] = note
    for (old, new), hashes in bundle.consistency.items():
        text = "".join(f"{encode_base64(value)}\n" for value in hashes)
        files[f"heads/{old:012d}-{new:012d}.consistency"] = text.encode("ascii")
    for name, data in bundle.documents.items():
        files[f"documents/{name.raw.hex()}"] = data
    for (statement, reader), sealed in bundle.openings.items():
        files[f"openings/{statement.raw.hex()}/{reader}"] = sealed
    return pack(files)


def read(data: bytes) -> Bundle:
    """The bundle in `data`. Raises BundleRefused, naming the file.

    Says nothing yet of what the evidence is worth, only that it is all there and nothing else is.
    """
    files = unpack(data)
    found: dict[str, dict[tuple[str, ...], bytes]] = {kind: {} for kind, _, _ in _KINDS}
    for name, content in files.items():
        for kind, pattern, limit in _KINDS:
            if match := pattern.fullmatch(name):
                if len(content) > limit:
                    raise BundleRefused(name, f"is larger than {limit} bytes")
                found[kind][match.groups()] = content
                break
        else:
            raise BundleRefused(name[:100], "is not a file that a bundle has")
    for name in (_MANIFEST, _CHECKPOINT):
        if name not in files:
            raise BundleRefused(name, "is missing")
    bundle = Bundle(
        manifest=_manifest(files[_MANIFEST]),
        checkpoint=files[_CHECKPOINT],
        entries={int(index): content for (index,), content in found["entries"].items()},
        proofs={int(index): content for (index,), content in found["proofs"].items()},
        documents={_digest(name): content for (name,), content in found["documents"].items()},
        openings={
            (_digest(statement), PartyId(reader)): content
            for (statement, reader), content in found["openings"].items()
        },
        heads={int(size): content for (size,), content in found["heads"].items()},
        consistency={
            (int(old), int(new)): _hashes(content)
            for (old, new), content in found["consistency"].items()
        },
    )
    _require_as_listed(bundle)
    return bundle


def pack(files: Mapping[str, bytes]) -> bytes:
    """A zip of these files that depends on nothing else: neither date, order nor library."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _EARLIEST)
            info.create_system = 3
            info.external_attr = _MODE
            archive.writestr(info, files[name])
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of a zip that `pack` made, by name. Raises BundleRefused for any other zip."""
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleRefused("bundle", f"is larger than {MAX_BUNDLE_BYTES} bytes")
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if len(members) > MAX_FILES:
                raise BundleRefused("bundle", f"has more than {MAX_FILES} files")
            total = 0
            for info in members:
                _require_plain(info)
                total += info.file_size
                if total > len(data):
                    raise BundleRefused(info.filename[:100], "claims more bytes than there are")
                if info.filename in files:
                    raise BundleRefused(info.filename[:100], "is in the bundle twice")
                files[info.filename] = archive.read(info)
    except _NOT_A_ZIP as error:
        raise BundleRefused("bundle", f"is not a readable zip file ({error})") from None
    # Whatever the zip format lets somebody add (bytes between files, comments, a second
    # directory) would reach some readers and not others.
    if pack(files) != data:
        raise BundleRefused("bundle", "is not in the one form that a bundle has")
    return files


def _require_plain(info: zipfile.ZipInfo) -> None:
    name = info.filename[:100]
    if not any(pattern.fullmatch(info.filename) for _, pattern, _ in _KINDS):
        raise BundleRefused(name, "is not a file that a bundle has")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise BundleRefused(name, "is compressed; files of a bundle are stored as they are")
    if info.flag_bits:
        raise BundleRefused(name, "is encrypted, or written in a way that a bundle is not")


def _manifest(data: bytes) -> Manifest:
    try:
        manifest = record.from_bytes(Manifest, data)
    except CryptoError as error:
        raise BundleRefused(_MANIFEST, str(error)) from None
    if manifest.v != VERSION:
        raise BundleRefused(_MANIFEST, f"v is {manifest.v}; this version reads {VERSION}")
    if manifest.left_out < 0:
        raise BundleRefused(_MANIFEST, "left_out is less than nothing")
    return manifest


def _require_as_listed(bundle: Bundle) -> None:
    """The manifest names every file, and every file that it names is there."""
    manifest = bundle.manifest
    indices = [entry.index for entry in manifest.entries]
    _require_same("entries", indices, bundle.entries, lambda i: f"{i:012d}.json")
    _require_same("proofs", indices, bundle.proofs, lambda i: f"{i:012d}.tlog-proof")
    _require_same("documents", list(manifest.documents), bundle.documents, lambda d: d.raw.hex())
    sealed = [(opening.statement, opening.reader) for opening in manifest.openings]
    _require_same("openings", sealed, bundle.openings, lambda s: f"{s[0].raw.hex()}/{s[1]}")
    _require_same("heads", list(manifest.heads), bundle.heads, lambda size: f"{size:012d}")


def _require_same(
    folder: str, listed: list[Any], there: Mapping[Any, object], name: Callable[[Any], str]
) -> None:
    named = set(listed)
    if listed != sorted(named):
        raise BundleRefused(_MANIFEST, f"does not list {folder} in order, each once")
    for key in listed:
        if key not in there:
            raise BundleRefused(f"{folder}/{name(key)}", "is in the manifest and not in the bundle")
    for key in there:
        if key not in named:
            raise BundleRefused(f"{folder}/{name(key)}", "is in the bundle and not in the manifest")


def _hashes(data: bytes) -> tuple[bytes, ...]:
    where = "heads/*.consistency"
    try:
        lines = decode_utf8(data, where=where).split("\n")
        if lines.pop() != "" or len(lines) > MAX_PROOF_HASHES:
            raise BundleRefused(where, f"is not at most {MAX_PROOF_HASHES} lines")
        return tuple(decode_hash(line, where=where) for line in lines)
    except LedgerError as error:
        raise BundleRefused(where, str(error)) from None


def _digest(name: str) -> Digest:
    return Digest(bytes.fromhex(name))


# Kind, name and the most bytes of each file that a bundle may have.
_KINDS: Final = (
    ("manifest", re.compile(re.escape(_MANIFEST)), 32 << 20),
    ("checkpoint", re.compile(_CHECKPOINT), MAX_NOTE_BYTES),
    ("entries", _ENTRY, MAX_ENTRY_BYTES),
    ("proofs", _PROOF, MAX_PROOF_BYTES),
    ("heads", _HEAD, MAX_NOTE_BYTES),
    ("consistency", _CONSISTENCY, 1 << 13),
    ("documents", _DOCUMENT, MAX_BYTES),
    ("openings", _OPENING, MAX_OPENING_BYTES),
)
# What the standard library raises, depending on how a file is broken.
_NOT_A_ZIP: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    OSError,
    struct.error,
)
