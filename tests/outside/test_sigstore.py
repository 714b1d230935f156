"""Our log, verified by sigstore-python's checkpoint and Merkle code.

Its modules are private: the version is pinned in the lock, and a new one may need another call.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import SignedCheckpoint, verify_checkpoint
from sigstore._internal.trust import Keyring
from sigstore.errors import VerificationError
from sigstore_models.common import v1

from ledger.verify.merkle import EMPTY_ROOT
from tests.outside.published import Published, publish_log


@dataclass(frozen=True)
class Entry:
    """What sigstore looks at of one log entry."""

    index: int
    size: int
    hashes: tuple[bytes, ...]
    root: bytes
    body: bytes
    note: str
    key_id: bytes

    @property
    def _inner(self) -> SimpleNamespace:
        proof = SimpleNamespace(
            log_index=self.index,
            tree_size=self.size,
            hashes=list(self.hashes),
            root_hash=self.root,
            checkpoint=SimpleNamespace(envelope=self.note),
        )
        return SimpleNamespace(
            inclusion_proof=proof,
            canonicalized_body=self.body,
            log_id=SimpleNamespace(key_id=self.key_id),
        )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish_log(tmp_path_factory.mktemp("log"), size=600, old_size=300, index=413)


@pytest.fixture
def entry(log: Published) -> Entry:
    return Entry(
        log.index,
        log.checkpoint.size,
        log.inclusion,
        log.checkpoint.root,
        log.entry,
        log.note.decode(),
        log.log.key_id,
    )


@pytest.fixture(scope="module")
def keyring(log: Published) -> Any:
    der = Ed25519PublicKey.from_public_bytes(log.log.key.raw).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    details = v1.PublicKeyDetails.PKIX_ED25519
    return Keyring([v1.PublicKey(raw_bytes=b64encode(der), key_details=details)])


def test_sigstore_accepts_our_checkpoint_and_reads_what_it_says(
    entry: Entry, keyring: Any, log: Published
) -> None:
    verify_checkpoint(keyring, entry)
    read = SignedCheckpoint.from_text(entry.note)
    assert read.checkpoint.origin == log.checkpoint.origin
    assert read.checkpoint.log_size == log.checkpoint.size
    assert read.checkpoint.log_hash == log.checkpoint.root.hex()
    assert len(read.signed_note.signatures) == 3  # it passes over the two cosignatures


def test_sigstore_accepts_our_inclusion_proof(entry: Entry) -> None:
    verify_merkle_inclusion(entry)  # type: ignore[arg-type]


def test_sigstore_refuses_a_checkpoint_with_a_flipped_bit(
    entry: Entry, keyring: Any, log: Published
) -> None:
    lines = entry.note.split("\n")
    other_size = "\n".join([lines[0], "599", *lines[2:]])
    signature = lines[4]
    other_signature = entry.note.replace(signature, signature[:-9] + flip(signature[-9:]))
    for note in (other_size, other_signature, entry.note.replace(lines[0], lines[0] + "x", 1)):
        with pytest.raises(VerificationError):
            verify_checkpoint(keyring, replace(entry, note=note))
    with pytest.raises(VerificationError):
        verify_checkpoint(keyring, replace(entry, root=EMPTY_ROOT))


def flip(text: str) -> str:
    return ("B" if text[0] != "B" else "C") + text[1:]


def test_sigstore_refuses_an_inclusion_proof_with_a_flipped_bit(entry: Entry) -> None:
    forgeries = [
        replace(entry, index=entry.index + 1),
        replace(entry, body=entry.body + b" "),
        replace(entry, hashes=entry.hashes[:-1]),
        replace(entry, hashes=(*entry.hashes, EMPTY_ROOT)),
        replace(entry, root=EMPTY_ROOT),
    ]
    for place, value in enumerate(entry.hashes):
        wrong = bytes([value[0] ^ 1]) + value[1:]
        hashes = (*entry.hashes[:place], wrong, *entry.hashes[place + 1 :])
        forgeries.append(replace(entry, hashes=hashes))
    for forgery in forgeries:
        with pytest.raises(VerificationError):
            verify_merkle_inclusion(forgery)  # type: ignore[arg-type]
