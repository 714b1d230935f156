"""Keys: files nobody else reads, objects that print nothing, signatures that bind."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api.log_keys import DOCUMENTS, create_keys
from crypto.errors import BadSignature, KeyFileRefused, Malformed
from crypto.identifiers import PartyId
from crypto.keys import (
    ExchangeKey,
    PublicKey,
    SigningKey,
    read_exchange_key,
    read_signing_key,
    write_key,
)
from crypto.tls import make_identity
from ledger.adapters.evm import create_key


def test_a_signing_key_comes_back_from_its_file(tmp_path: Path) -> None:
    key = SigningKey.generate()
    write_key(tmp_path / "signing.pem", key)
    read = read_signing_key(tmp_path / "signing.pem")
    key.public.verify(read.sign(b"message"), b"message")


def test_an_exchange_key_comes_back_from_its_file(tmp_path: Path) -> None:
    key, peer = ExchangeKey.generate(), ExchangeKey.generate()
    write_key(tmp_path / "sealing.pem", key)
    read = read_exchange_key(tmp_path / "sealing.pem")
    assert read.agree(peer.public) == peer.agree(key.public)


def test_a_key_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "key.pem", SigningKey.generate())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_a_power_cut_after_a_key_was_made_takes_neither_its_bytes_nor_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    now = datetime(2026, 11, 23, tzinfo=UTC)
    for name, make in {
        "log-next.key": lambda path: write_key(path, SigningKey.generate()),
        "tls.pem": lambda path: make_identity(path, PartyId("pty_" + "0" * 32), now=now),
        "anchor.key": create_key,
    }.items():
        synced.clear()
        make(tmp_path / name)
        assert synced == [(tmp_path / name).stat().st_ino, tmp_path.stat().st_ino]
    synced.clear()
    create_keys(tmp_path / "log", "log.example/deals", sm2=False)
    for path in (tmp_path / "log", tmp_path / "log" / DOCUMENTS):
        assert path.stat().st_ino in synced
    assert synced[-1] == (tmp_path / "log" / DOCUMENTS).stat().st_ino


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_key(path, SigningKey.generate())
    before = path.read_bytes()
    with pytest.raises(KeyFileRefused, match="exists; move it away"):
        write_key(path, SigningKey.generate())
    assert path.read_bytes() == before


def test_a_link_to_nowhere_is_not_followed_when_a_key_is_written(tmp_path: Path) -> None:
    (tmp_path / "key.pem").symlink_to(tmp_path / "elsewhere.pem")
    with pytest.raises(KeyFileRefused, match="exists"):
        write_key(tmp_path / "key.pem", SigningKey.generate())
    assert not (tmp_path / "elsewhere.pem").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_a_key_file_that_others_could_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    write_key(path, SigningKey.generate())
    path.chmod(mode)
    with pytest.raises(KeyFileRefused, match="chmod 600"):
        read_signing_key(path)
    path.chmod(0o400)
    read_signing_key(path)


def test_a_file_that_is_no_key_says_so(tmp_path: Path) -> None:
    def saved(content: bytes) -> Path:
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        path.chmod(0o600)
        return path

    def pem(encryption: serialization.KeySerializationEncryption) -> bytes:
        return SigningKey.generate().private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    with pytest.raises(KeyFileRefused, match="does not exist; `exchange init`"):
        read_signing_key(tmp_path / "none.pem")
    with pytest.raises(KeyFileRefused, match="can't be read"):
        read_signing_key(tmp_path)
    for content in (b"", b"not a key", pem(serialization.BestAvailableEncryption(b"password"))):
        with pytest.raises(KeyFileRefused, match="not an unencrypted PKCS #8 PEM key"):
            read_signing_key(saved(content))
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(KeyFileRefused, match="does not hold an Ed25519 key"):
        read_signing_key(saved(other))
    with pytest.raises(KeyFileRefused, match="does not hold an X25519 key"):
        read_exchange_key(saved(pem(serialization.NoEncryption())))


def test_secret_keys_print_only_the_identifier_of_their_public_key() -> None:
    for key in (SigningKey.generate(), ExchangeKey.generate()):
        assert repr(key) == str(key) == f"{type(key).__name__}({key.public.key_id})"


def test_a_public_key_reads_back_from_its_text() -> None:
    for key in (SigningKey.generate().public, ExchangeKey.generate().public):
        assert PublicKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "ed25519",
        "rsa:" + "A" * 43,
        "ed25519:" + "A" * 42,
        "ed25519:" + "A" * 44,
        "ed25519:" + "A" * 43 + "=",
        "ed25519:" + "A" * 42 + "B",  # bits beyond the last byte
        "ed25519:" + "A" * 42 + "+",
        "ed25519:" + "A" * 43 + "\n",
        " ed25519:" + "A" * 43,
        "Ed25519:" + "A" * 43,
        "ed25519:" + "é" * 43,
    ],
)
def test_a_second_spelling_of_a_public_key_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="field: is not a public key"):
        PublicKey.parse(text, where="field")


def test_a_fingerprint_is_read_aloud_in_groups_of_four_and_differs_by_suite() -> None:
    signing, sealing = PublicKey("ed25519", bytes(32)), PublicKey("x25519", bytes(32))
    assert [len(group) for group in signing.fingerprint.split("-")] == [4] * 16
    assert signing.fingerprint.replace("-", "").startswith(signing.key_id)
    assert signing.fingerprint != sealing.fingerprint


def test_a_signature_is_over_its_message_by_its_key() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"message")
    key.public.verify(signature, b"message")
    for public, forged, message in (
        (key.public, signature, b"massage"),
        (other.public, signature, b"message"),
        (key.public, bytes(64), b"message"),
        (key.public, signature[:-1], b"message"),
        (key.public, signature + b"\x00", b"message"),
        (key.public, b"", b"message"),
    ):
        with pytest.raises(BadSignature, match="does not verify"):
            public.verify(forged, message)


def test_a_signature_with_the_group_order_added_is_not_a_second_one() -> None:
    """RFC 8032: else a logged entry would have two valid forms with two digests."""
    key = SigningKey.generate()
    signature = key.sign(b"message")
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(BadSignature):
        key.public.verify(signature[:32] + scalar.to_bytes(32, "little"), b"message")


def test_an_exchange_key_verifies_nothing() -> None:
    with pytest.raises(BadSignature, match="is not a signing key"):
        ExchangeKey.generate().public.verify(bytes(64), b"message")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x01" + bytes(31),
        b"\x01" + bytes(30) + b"\x80",
        bytes(32),
        b"\xec" + b"\xff" * 30 + b"\x7f",
        b"\xee" + b"\xff" * 30 + b"\x7f",
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    ],
)
def test_a_key_under_which_one_signature_fits_every_message_signs_nothing(raw: bytes) -> None:
    """Under the neutral element, R = 1 and s = 0 verify over anything: its owner could later
    say that it signed something else."""
    neutral = b"\x01" + bytes(31)
    for message in (b"", b"agreed", b"refused"):
        for point in (neutral, raw):
            with pytest.raises(BadSignature, match="small order"):
                PublicKey("ed25519", raw).verify(point + bytes(32), message)


def test_two_keys_agree_and_a_third_does_not() -> None:
    a, b, c = (ExchangeKey.generate() for _ in range(3))
    assert a.agree(b.public) == b.agree(a.public)
    assert a.agree(c.public) != a.agree(b.public)


def test_agreement_with_a_key_of_low_order_or_a_signing_key_is_refused() -> None:
    key = ExchangeKey.generate()
    for raw in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(Malformed, match="low order"):
            key.agree(PublicKey("x25519", raw))
    with pytest.raises(Malformed, match="not a key-agreement key"):
        key.agree(SigningKey.generate().public)
