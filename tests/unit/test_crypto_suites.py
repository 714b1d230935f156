"""ML-DSA-44 and SM2 behind the signing port: the published answer, and the nearest forgeries."""

from __future__ import annotations

import base64
import ctypes
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from crypto.adapters import sm2
from crypto.adapters.sm2 import Sm2Key, read_sm2_key, write_sm2_key
from crypto.errors import BadSignature, KeyFileRefused, Malformed, SuiteUnavailable
from crypto.keys import (
    MlDsaKey,
    PublicKey,
    Signer,
    SigningKey,
    read_ml_dsa_key,
    read_signing_key,
    write_key,
)

# GB/T 32918.5-2017 appendix A.2: key, message, and r and s for the nonce it fixes.
D = "3945208F7B2144B13F36E38AC6D39F95889393692860B51A42FB81EF4DF7C5B8"
POINT = bytes.fromhex(
    "04"
    "09F9DF311E5421A150DD7D161E4BC5C672179FAD1833FC076BB08FF356F35020"
    "CCEA490CE26775A52DC6EA718CC1AA600AED05FBF35E084A6632F6072DA9AD13"
)
MESSAGE = b"message digest"
SIGNATURE = bytes.fromhex(
    "F5A03B0648D2C4630EEAC513E1BB81A15944DA3827D5B74143AC7EACEEE720B3"
    "B1B6AA29DF212FD8763182BC0D421CA1BB9038FD1F7F42D4840B69C485BBC1AA"
)
ORDER = int("FFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFF7203DF6B21C6052B53BBF40939D54123", 16)
KEY = PublicKey("sm2", POINT)
SM2 = Sm2Key.generate()


def test_the_standards_own_sm2_signature_verifies() -> None:
    KEY.verify(SIGNATURE, MESSAGE)


def test_the_standards_secret_key_has_its_public_key_and_signs_so_that_it_verifies() -> None:
    # PKCS #8 around ECPrivateKey (RFC 5915) on the curve 1.2.156.10197.1.301, without the point.
    inner = bytes.fromhex("30250201010420" + D)
    head = bytes.fromhex("020100301306072a8648ce3d020106082a811ccf5501822d0427")
    der = bytes([0x30, len(head) + len(inner)]) + head + inner
    frame = b"-----%s PRIVATE KEY-----\n"
    key = Sm2Key.from_pem(frame % b"BEGIN" + base64.encodebytes(der) + frame % b"END")
    assert key.public == KEY
    KEY.verify(key.sign(MESSAGE), MESSAGE)


def _flipped(signature: bytes) -> Iterator[bytes]:
    for place in (0, 31, 32, 63):
        yield signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]


def test_an_sm2_signature_has_one_spelling_and_is_for_one_message_and_key() -> None:
    r, s = SIGNATURE[:32], SIGNATURE[32:]
    negated = (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")  # what ECDSA would accept
    for forged in (
        *_flipped(SIGNATURE),
        r + negated,
        s + r,
        SIGNATURE[:-1],
        SIGNATURE + b"\0",
        bytes(64),
        r + bytes(32),
        r + ORDER.to_bytes(32, "big"),
        b"\x30\x44" + SIGNATURE,
        b"",
    ):
        with pytest.raises(BadSignature):
            KEY.verify(forged, MESSAGE)
    with pytest.raises(BadSignature):
        KEY.verify(SIGNATURE, MESSAGE + b"\0")
    with pytest.raises(BadSignature):
        SM2.public.verify(SIGNATURE, MESSAGE)


def test_a_point_off_the_curve_or_in_another_form_is_no_sm2_key() -> None:
    off = POINT[:-1] + bytes([POINT[-1] ^ 1])
    hybrid = bytes([6 + (POINT[-1] & 1)]) + POINT[1:]
    for raw in (off, hybrid, b"\x04" + bytes(64)):
        with pytest.raises(BadSignature):
            PublicKey("sm2", raw).verify(SIGNATURE, MESSAGE)
    with pytest.raises(Malformed, match="33 bytes, not 65"):
        PublicKey("sm2", b"\x02" + POINT[1:33])


def test_sm2_draws_a_fresh_nonce_each_time() -> None:
    signatures = {SM2.sign(MESSAGE) for _ in range(4)}
    assert len({signature[:32] for signature in signatures}) == 4
    for signature in signatures:
        SM2.public.verify(signature, MESSAGE)


def test_keys_of_each_suite_come_back_from_their_files(tmp_path: Path) -> None:
    ml_dsa, ed25519 = MlDsaKey.generate(), SigningKey.generate()
    write_sm2_key(tmp_path / "sm2", SM2)
    write_key(tmp_path / "ml-dsa", ml_dsa)
    write_key(tmp_path / "ed25519", ed25519)
    assert read_sm2_key(tmp_path / "sm2").public == SM2.public
    assert read_ml_dsa_key(tmp_path / "ml-dsa").public == ml_dsa.public
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for name in ("ml-dsa", "ed25519"):
        with pytest.raises(KeyFileRefused, match=r"SM2|not an unencrypted"):
            read_sm2_key(tmp_path / name)
    for name in ("sm2", "ml-dsa"):
        with pytest.raises(KeyFileRefused):
            read_signing_key(tmp_path / name)
    with pytest.raises(KeyFileRefused, match="ML-DSA-44"):
        read_ml_dsa_key(tmp_path / "ed25519")
    with pytest.raises(KeyFileRefused, match="exists"):
        write_sm2_key(tmp_path / "sm2", SM2)
    (tmp_path / "sm2").chmod(0o644)
    with pytest.raises(KeyFileRefused, match="mode 0644"):
        read_sm2_key(tmp_path / "sm2")
    (tmp_path / "rubbish").touch(0o600)
    with pytest.raises(KeyFileRefused, match="not an unencrypted"):
        read_sm2_key(tmp_path / "rubbish")


@pytest.mark.parametrize("signer", [SM2, MlDsaKey.generate()], ids=["sm2", "ml-dsa-44"])
def test_a_key_prints_nothing_and_its_public_half_is_read_back(signer: Signer) -> None:
    assert repr(signer) == f"{type(signer).__name__}({signer.public.key_id})"
    assert PublicKey.parse(str(signer.public)) == signer.public


def test_an_ml_dsa_signature_is_for_one_message_and_key() -> None:
    one, other = MlDsaKey.generate(), MlDsaKey.generate()
    signature = one.sign(MESSAGE)
    one.public.verify(signature, MESSAGE)
    assert len(signature) == 2420
    for forged in (
        signature[:-1],
        signature + b"\0",
        signature[:7] + bytes([signature[7] ^ 1]) + signature[8:],
        bytes(2420),
        b"",
    ):
        with pytest.raises(BadSignature):
            one.public.verify(forged, MESSAGE)
    for key, message in ((one.public, MESSAGE + b"\0"), (other.public, MESSAGE)):
        with pytest.raises(BadSignature):
            key.verify(signature, message)


@pytest.fixture
def no_sm2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose libcrypto has all functions but cannot make an SM2 key."""
    real = ctypes.CDLL

    class WithoutSm2:
        def __init__(self, name: str) -> None:
            self._real = real(name)

        def __getattr__(self, name: str) -> object:
            if name == "EVP_PKEY_Q_keygen":
                return ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda *_: 0)
            return getattr(self._real, name)

    sm2._library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", WithoutSm2)
    yield
    sm2._library.cache_clear()


def test_a_machine_without_sm2_says_so_and_does_not_call_the_signature_bad(no_sm2: None) -> None:
    with pytest.raises(SuiteUnavailable, match="built without SM2"):
        KEY.verify(SIGNATURE, MESSAGE)
    with pytest.raises(SuiteUnavailable, match="sm2"):
        Sm2Key.generate()


def test_a_machine_without_libcrypto_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    sm2._library.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(SuiteUnavailable, match="install OpenSSL 3"):
        Sm2Key.generate()
    sm2._library.cache_clear()
