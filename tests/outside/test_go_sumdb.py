"""Our log, verified by Go's golang.org/x/mod/sumdb: notes, cosignatures, proofs and tiles."""

from __future__ import annotations

import json
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.verify.note import Note, Signature
from tests.outside.conftest import RunGo
from tests.outside.published import Published

pytestmark = pytest.mark.slow  # compiles Go's standard library


def asked(log: Published) -> dict[str, Any]:
    return {
        "Note": b64(log.note),
        "Log": str(log.log),
        "Witnesses": [str(log.witness)],
        "Inclusion": {
            "Index": log.index,
            "Entry": b64(log.entry),
            "Hashes": [b64(value) for value in log.inclusion],
        },
        "Consistency": {
            "Old": log.old_size,
            "Root": b64(log.old_root),
            "Hashes": [b64(value) for value in log.consistency],
        },
        "Folder": str(log.folder),
        "Index": log.index,
        "Entry": b64(log.entry),
        "Old": log.old_size,
        "OldRoot": b64(log.old_root),
    }


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def flipped(text: str, at: int = 0) -> str:
    data = bytearray(b64decode(text))
    data[at] ^= 1
    return b64(bytes(data))


def test_go_accepts_our_checkpoint_cosignature_proofs_and_tiles(
    go_verifier: RunGo, published: Published
) -> None:
    done = go_verifier(json.dumps(asked(published)))
    assert (done.returncode, done.stderr) == (0, "")


def test_go_refuses_a_flipped_bit_in_each_signature_line_it_knows(
    go_verifier: RunGo, published: Published
) -> None:
    note = Note.parse(published.note)
    assert len(note.signatures) == 3  # Ed25519 of the log, Ed25519 and ML-DSA-44 of the witness
    for place, line in enumerate(note.signatures):
        value = line.value[:-1] + bytes([line.value[-1] ^ 1])
        lines = list(note.signatures)
        lines[place] = Signature(line.name, line.key_id, value)
        document = {**asked(published), "Note": b64(Note(note.text, tuple(lines)).to_bytes())}
        done = go_verifier(json.dumps(document))
        known = line.key_id in (published.log.key_id, published.witness.key_id)
        assert (done.returncode == 1) == known, "a line of a kind it does not know is ignored"
        assert ("invalid signature" in done.stderr) == known


@pytest.mark.parametrize("part", ["origin", "size", "root"])
def test_go_refuses_another_text_under_the_same_signatures(
    go_verifier: RunGo, published: Published, part: str
) -> None:
    lines = published.note.decode().split("\n")
    number = ["origin", "size", "root"].index(part)
    changed = {"origin": lines[0] + "x", "size": "69999", "root": flipped(lines[2])}
    lines[number] = changed[part]
    document = {**asked(published), "Note": b64("\n".join(lines).encode())}
    assert go_verifier(json.dumps(document)).returncode == 1


@pytest.mark.parametrize("which", ["Inclusion", "Consistency"])
def test_go_refuses_a_flipped_bit_in_every_hash_of_a_proof(
    go_verifier: RunGo, published: Published, which: str
) -> None:
    honest = asked(published)
    hashes = honest[which]["Hashes"]
    assert len(hashes) > 5
    for place, value in enumerate(hashes):
        wrong = [*hashes[:place], flipped(value, 17), *hashes[place + 1 :]]
        done = go_verifier(json.dumps({**honest, which: {**honest[which], "Hashes": wrong}}))
        assert done.returncode == 1, place
    for wrong in (hashes[:-1], [*hashes, hashes[-1]]):
        done = go_verifier(json.dumps({**honest, which: {**honest[which], "Hashes": wrong}}))
        assert done.returncode == 1


def test_go_refuses_another_entry_and_another_old_root(
    go_verifier: RunGo, published: Published
) -> None:
    honest = asked(published)
    inclusion, consistency = honest["Inclusion"], honest["Consistency"]
    for wrong in (
        {"Inclusion": {**inclusion, "Entry": flipped(inclusion["Entry"])}},
        {"Inclusion": {**inclusion, "Index": published.index + 1}},
        {"Consistency": {**consistency, "Root": flipped(consistency["Root"])}},
        {"Consistency": {**consistency, "Old": published.old_size + 1}},
        {"Entry": flipped(honest["Entry"])},
        {"OldRoot": flipped(honest["OldRoot"])},
    ):
        assert go_verifier(json.dumps({**honest, **wrong})).returncode == 1, wrong


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/212",  # holds the entry's leaf
        "tile/0/273.p/112",
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ],
)
def test_go_refuses_a_flipped_bit_in_a_tile(
    go_verifier: RunGo, published: Published, path: str
) -> None:
    with altered(published.folder / path):
        done = go_verifier(json.dumps(asked(published)))
    assert done.returncode == 1
    # TileHashReader of x/mod 0.7.0 leaves some full tiles unchecked; then the proof fails instead.
    reasons = ("downloaded inconsistent tile", "invalid transparency proof")
    assert done.stderr.strip() in reasons
    assert go_verifier(json.dumps(asked(published))).returncode == 0


@contextmanager
def altered(file: Path) -> Iterator[None]:
    kept = file.with_suffix(".kept")
    shutil.copy(file, kept)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    try:
        yield
    finally:
        kept.replace(file)
