"""The bundle's form: what is written is read back, and nothing else is read at all."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crypto import record
from crypto.digest import digest
from crypto.identifiers import DealId, PartyId
from crypto.statement import MAX_ENTRY_BYTES
from exchange.audit import bundle as bundles
from exchange.audit.bundle import (
    Bundle,
    LoggedAs,
    SealedTo,
    list_content,
    pack,
    read,
    unpack,
    write,
)
from exchange.audit.errors import BundleRefused
from exchange.submission import MAX_BYTES, MAX_OPENING_BYTES
from ledger.verify.merkle import MAX_PROOF_HASHES
from ledger.verify.note import MAX_NOTE_BYTES
from ledger.verify.text import encode_base64

DEAL = DealId("dea_" + "0" * 32)
READER = PartyId("pty_" + "1" * 32)
DOCUMENT = b'{"a":1}'


def a_bundle() -> Bundle:
    entries = {3: b"third", 12: b"twelfth"}
    documents = {digest(DOCUMENT): DOCUMENT}
    openings = {(digest(b"statement"), READER): b"sealed"}
    heads = {4: b"note of 4"}
    return Bundle(
        manifest=list_content(
            DEAL, entries=entries, documents=documents, openings=openings, heads=heads
        ),
        checkpoint=b"note",
        entries=entries,
        proofs={3: b"proof of 3", 12: b"proof of 12"},
        documents=documents,
        openings=openings,
        heads=heads,
        consistency={(4, 20): (bytes(32), bytes(range(32)))},
    )


FILES = unpack(write(a_bundle()))


def with_files(**changes: bytes | None) -> bytes:
    """The bundle with files added, replaced or (None) left out."""
    files: dict[str, bytes | None] = {**FILES, **changes}
    return pack({name: data for name, data in files.items() if data is not None})


def zipped(build: Callable[[zipfile.ZipFile], None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        build(archive)
    return buffer.getvalue()


def test_a_bundle_is_read_back_as_it_was_written() -> None:
    assert read(write(a_bundle())) == a_bundle()


def test_the_same_content_always_gives_the_same_bytes() -> None:
    bundle = a_bundle()
    other = replace(bundle, entries=dict(reversed(bundle.entries.items())))
    assert write(bundle) == write(other)
    with zipfile.ZipFile(io.BytesIO(write(bundle))) as archive:
        assert archive.namelist() == sorted(archive.namelist())
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize(
    "name",
    [
        "readme.txt",
        "../evil",
        "entries/../../evil",
        "/etc/passwd",
        "entries/3.json",
        "entries/000000000003.JSON",
        "entries/00000000000٣.json",
        "documents/" + "A" * 64,
        "documents/" + "0" * 63,
        "heads/000000000004.consistency",
        "openings/" + "0" * 64 + "/pty_../../x",
        "entries/",
        "C:\\evil",
        "",
    ],
)
def test_a_file_that_a_bundle_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(BundleRefused):
        read(pack({**FILES, name: b"x"}))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"entries/000000000013.json": b"x"}, "entries/000000000013.json"),
        ({"proofs/000000000013.tlog-proof": b"x"}, "proofs/000000000013.tlog-proof"),
        ({"documents/" + "0" * 64: b"x"}, "documents/" + "0" * 64),
        ({"openings/" + "0" * 64 + "/" + READER: b"x"}, "openings/" + "0" * 64 + "/" + READER),
        ({"heads/000000000005": b"x"}, "heads/000000000005"),
        ({"entries/000000000003.json": None}, "entries/000000000003.json"),
        ({"proofs/000000000003.tlog-proof": None}, "proofs/000000000003.tlog-proof"),
        ({f"documents/{digest(DOCUMENT).raw.hex()}": None}, "documents/"),
        ({"heads/000000000004": None}, "heads/000000000004"),
        ({"manifest.json": None}, "manifest.json"),
        ({"checkpoint": None}, "checkpoint"),
        ({"manifest.json": b"{}"}, "manifest.json"),
        ({"manifest.json": FILES["manifest.json"] + b" "}, "manifest.json"),
        ({"manifest.json": FILES["manifest.json"].replace(b'"v":1', b'"v":2')}, "manifest.json"),
        ({"entries/000000000003.json": bytes(70_000)}, "entries/000000000003.json"),
        ({"heads/000000000004-000000000020.consistency": b"AA==\n"}, "heads/*.consistency"),
        ({"heads/000000000004-000000000020.consistency": b"x"}, "heads/*.consistency"),
    ],
)
def test_what_the_manifest_and_the_files_do_not_agree_on_is_named(
    changes: dict[str, bytes | None], where: str
) -> None:
    with pytest.raises(BundleRefused) as refused:
        read(with_files(**changes))
    assert refused.value.where.startswith(where)


def test_a_manifest_that_lists_out_of_order_or_twice_is_refused() -> None:
    bundle = a_bundle()
    first, second = bundle.manifest.entries
    for entries in ((second, first), (first, first, second)):
        manifest = replace(bundle.manifest, entries=entries)
        with pytest.raises(BundleRefused, match="in order, each once"):
            read(write(replace(bundle, manifest=manifest)))


def test_a_zip_bomb_is_refused_before_it_is_read() -> None:
    def bomb(archive: zipfile.ZipFile) -> None:
        archive.writestr("entries/000000000003.json", bytes(50_000_000), zipfile.ZIP_DEFLATED)

    with pytest.raises(BundleRefused, match="is compressed"):
        read(zipped(bomb))


def test_a_file_that_claims_more_than_there_is_is_refused() -> None:
    data = bytearray(write(a_bundle()))
    directory = data.index(b"PK\x01\x02")
    for size in (20, 24):  # compressed and plain size in the directory
        data[directory + size : directory + size + 4] = (1 << 31).to_bytes(4, "little")
    with pytest.raises(BundleRefused):
        read(bytes(data))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_refused() -> None:
    def twice(archive: zipfile.ZipFile) -> None:
        for data in (b"one", b"two"):
            archive.writestr("checkpoint", data)

    with pytest.raises(BundleRefused, match="twice"):
        read(zipped(twice))


def test_whatever_a_zip_can_hide_is_refused() -> None:
    honest = write(a_bundle())

    def comment(archive: zipfile.ZipFile) -> None:
        for name, data in sorted(FILES.items()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
        archive.comment = b"psst"

    def late(archive: zipfile.ZipFile) -> None:
        for name, data in sorted(FILES.items()):
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)

    def unordered(archive: zipfile.ZipFile) -> None:
        for name, data in sorted(FILES.items(), reverse=True):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)

    hidden = [b"before" + honest, honest + b"after", zipped(comment), zipped(late)]
    for data in [*hidden, zipped(unordered)]:
        with pytest.raises(BundleRefused):
            read(data)


def test_a_bundle_with_any_bit_flipped_is_refused_or_says_something_else() -> None:
    honest = write(a_bundle())
    chance = random.Random(7)
    for place in chance.sample(range(len(honest)), 400):
        flipped = bytearray(honest)
        flipped[place] ^= 1 << chance.randrange(8)
        try:
            assert read(bytes(flipped)) != a_bundle()
        except BundleRefused:
            continue


def test_what_is_no_zip_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"PK", b"PK\x05\x06" + bytes(18), bytes(1000), write(a_bundle())[:-30]):
        with pytest.raises(BundleRefused):
            read(data)
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 100)
    with pytest.raises(BundleRefused, match="larger than 100"):
        read(write(a_bundle()))
    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 1 << 20)
    monkeypatch.setattr(bundles, "MAX_FILES", 3)
    with pytest.raises(BundleRefused, match="more than 3 files"):
        read(write(a_bundle()))


def test_a_bundle_may_hold_whatever_a_hub_takes_in() -> None:
    """Else one statement of one party makes a deal that nobody can read. What a hub takes: a
    submission's documents, openings, and notes; the rest follows from these."""
    line, name = len(encode_base64(bytes(32))) + 1, digest(b"any")
    listed = max(
        len(record.to_bytes(one))
        for one in (LoggedAs(10**12 - 1, name), SealedTo(name, READER), name, 10**12 - 1)
    )
    taken = {
        "manifest": (listed + 1) * bundles.MAX_FILES + 1_000,
        "checkpoint": MAX_NOTE_BYTES,
        "entries": MAX_ENTRY_BYTES,
        "proofs": 100 + line * MAX_PROOF_HASHES + MAX_NOTE_BYTES,
        "heads": MAX_NOTE_BYTES,
        "consistency": line * MAX_PROOF_HASHES,
        "documents": MAX_BYTES,
        "openings": MAX_OPENING_BYTES,
    }
    held = {kind: limit for kind, _, limit in bundles._KINDS}
    assert held.keys() == taken.keys()
    assert [kind for kind in held if held[kind] < taken[kind]] == []


def test_reading_touches_no_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read(write(a_bundle()))
    assert list(tmp_path.iterdir()) == []
