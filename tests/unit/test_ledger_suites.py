"""Signature lines of other suites on a checkpoint: what they cover, and the nearest forgeries."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from crypto.adapters.sm2 import Sm2Key
from crypto.errors import SuiteUnavailable
from crypto.keys import MlDsaKey, PublicKey, SigningKey
from ledger.errors import (
    FormatRefused,
    LedgerError,
    NotSigned,
    QuorumMissing,
    SignatureRefused,
    SignatureUnchecked,
)
from ledger.verify.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign, cosigned_subtree, verify_cosignatures
from ledger.verify.note import (
    ML_DSA_COSIGNATURE,
    SM2_SIGNATURE,
    Note,
    Signature,
    VerifierKey,
    cosigner_key,
    log_key,
)
from ledger.verify.policy import Policy

ORIGIN = "log.example/deals"
WITNESS = "witness.example/w"
LOG, ED, ML, SM2 = (
    SigningKey.generate(),
    SigningKey.generate(),
    MlDsaKey.generate(),
    Sm2Key.generate(),
)
LOG_KEY, SM2_KEY = log_key(ORIGIN, LOG), log_key(ORIGIN, SM2)
ED_KEY, ML_KEY = cosigner_key(WITNESS, ED), cosigner_key(WITNESS, ML)
HEAD = Checkpoint(ORIGIN, 70_000, hashlib.sha256(b"root").digest())
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LINE = cosign(HEAD.text, WITNESS, ML, now=NOW)


def a_note(*lines: Signature, head: Checkpoint = HEAD) -> Note:
    return sign_checkpoint(head, LOG).with_signatures(lines)


def test_what_ml_dsa_signs_has_the_layout_of_the_specification() -> None:
    """Byte for byte from C2SP tlog-cosignature, `cosigned_message`; no vector is published."""
    assert cosigned_subtree(WITNESS, 1772600767, HEAD) == (
        b"subtree/v1\n\x00"
        + (b"\x11" + b"witness.example/w")
        + bytes.fromhex("0000000069a7bdbf")
        + (b"\x11" + b"log.example/deals")
        + bytes.fromhex("0000000000000000")
        + bytes.fromhex("0000000000011170")
        + hashlib.sha256(b"root").digest()
    )


def test_both_lines_of_a_witness_tell_when_it_cosigned() -> None:
    note = a_note(cosign(HEAD.text, WITNESS, ED, now=NOW), LINE)
    again = Note.parse(note.to_bytes())
    assert verify_cosignatures(again, [ED_KEY, ML_KEY]) == {ED_KEY: NOW, ML_KEY: NOW}
    assert verify_cosignatures(again, [ED_KEY]) == {ED_KEY: NOW}  # the other is unknown: ignored
    assert open_checkpoint(again, [LOG_KEY]) == HEAD


def test_an_ml_dsa_line_of_another_size_root_origin_time_or_name_is_refused() -> None:
    def timed(seconds: int) -> Signature:
        return replace(LINE, value=seconds.to_bytes(8, "big") + LINE.value[8:])

    renamed = cosigner_key("witness.example/v", ML)
    origin = replace(HEAD, origin="log.example/other")
    for note, key in (
        (a_note(LINE, head=replace(HEAD, size=70_001)), ML_KEY),
        (a_note(LINE, head=replace(HEAD, root=bytes(32))), ML_KEY),
        (sign_checkpoint(origin, LOG).with_signatures([LINE]), ML_KEY),
        (a_note(timed(int(NOW.timestamp()) + 1)), ML_KEY),
        (a_note(replace(LINE, name=renamed.name, key_id=renamed.key_id)), renamed),
    ):
        with pytest.raises(SignatureRefused):
            verify_cosignatures(note, [key])


def test_an_ml_dsa_line_has_one_length_and_states_a_time() -> None:
    unsaid = bytes(8) + ML.sign(cosigned_subtree(WITNESS, 0, HEAD))
    for value in (LINE.value[:-1], LINE.value + b"\0", LINE.value[8:], unsaid):
        with pytest.raises(FormatRefused):
            verify_cosignatures(a_note(replace(LINE, value=value)), [ML_KEY])


def test_a_signature_of_one_kind_is_none_of_the_other() -> None:
    """The Ed25519 message under the ML-DSA key, and a signature over a subtree that is not the
    whole tree."""
    time = int(NOW.timestamp())
    text = f"cosignature/v1\ntime {time}\n{HEAD.text}".encode()
    inner = bytearray(cosigned_subtree(WITNESS, time, HEAD))
    inner[-41] = 1  # the last byte of `start`
    for message in (text, bytes(inner), HEAD.text.encode()):
        value = time.to_bytes(8, "big") + ML.sign(message)
        with pytest.raises(SignatureRefused):
            verify_cosignatures(a_note(replace(LINE, value=value)), [ML_KEY])


def test_a_known_key_that_fails_condemns_the_note_although_the_other_verifies() -> None:
    broken = replace(LINE, value=LINE.value[:-1] + bytes([LINE.value[-1] ^ 1]))
    note = a_note(cosign(HEAD.text, WITNESS, ED, now=NOW), broken)
    with pytest.raises(SignatureRefused):
        verify_cosignatures(note, [ED_KEY, ML_KEY])


def test_a_policy_may_ask_for_either_line_of_a_witness_or_for_both() -> None:
    lines = f"log {LOG_KEY}\nwitness e {ED_KEY}\nwitness m {ML_KEY}\n"
    either = Policy.parse((lines + "group w any e m\nquorum w\n").encode())
    both = Policy.parse((lines + "group w all e m\nquorum w\n").encode())
    ed = cosign(HEAD.text, WITNESS, ED, now=NOW)
    later = cosign(HEAD.text, WITNESS, ML, now=NOW + timedelta(seconds=2))
    assert either.check(a_note(ed).to_bytes()).cosigned == {"e": NOW}
    assert either.check(a_note(LINE).to_bytes()).cosigned == {"m": NOW}
    assert set(both.check(a_note(ed, later).to_bytes()).cosigned) == {"e", "m"}
    for note in (a_note(ed), a_note(LINE)):
        with pytest.raises(QuorumMissing):
            both.check(note.to_bytes())


# SM2


def test_an_sm2_line_beside_the_logs_own_is_ignored_by_whoever_does_not_know_its_key() -> None:
    note = Note.parse(sign_checkpoint(HEAD, LOG, SM2).to_bytes())
    assert [line.name for line in note.signatures] == [ORIGIN, ORIGIN]
    assert open_checkpoint(note, [LOG_KEY]) == HEAD
    assert open_checkpoint(note, [LOG_KEY, SM2_KEY]) == HEAD
    assert open_checkpoint(note, [SM2_KEY]) == HEAD
    assert len(note.signatures[1].value) == 64


def test_an_altered_sm2_line_condemns_the_note_for_whoever_knows_its_key() -> None:
    note = sign_checkpoint(HEAD, LOG, SM2)
    ed, sm2 = note.signatures
    for altered in (
        sm2.value[:-1] + bytes([sm2.value[-1] ^ 1]),
        sm2.value[32:] + sm2.value[:32],
        sm2.value[:-1],
        Sm2Key.generate().sign(HEAD.text.encode()),
        SM2.sign(replace(HEAD, size=1).text.encode()),
    ):
        forged = replace(note, signatures=(ed, replace(sm2, value=altered)))
        assert open_checkpoint(forged, [LOG_KEY]) == HEAD
        with pytest.raises(SignatureRefused):
            open_checkpoint(forged, [LOG_KEY, SM2_KEY])


def test_an_sm2_key_is_written_with_its_long_identifier_and_read_back() -> None:
    assert VerifierKey.parse(str(SM2_KEY)) == SM2_KEY
    material = b"\xffunseen/sm2-with-sm3/v1\x00" + SM2.public.raw
    assert SM2_KEY.key_id == hashlib.sha256(ORIGIN.encode() + b"\n" + material).digest()[:4]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: b"\xffother/type/v1\x00" + data[-65:], "another long identifier"),
        (lambda data: b"\xff" + data[-65:], "another long identifier"),
        (lambda data: data[:-1], "64 bytes, not 65"),
        (lambda data: b"\x06" + data[-65:], "65 bytes, not 1312"),
    ],
)
def test_a_verifier_key_of_an_own_type_has_one_spelling(change: object, problem: str) -> None:
    data = change(b"\xffunseen/sm2-with-sm3/v1\x00" + SM2.public.raw)  # type: ignore[operator]
    key_id = hashlib.sha256(ORIGIN.encode() + b"\n" + data).digest()[:4].hex()
    with pytest.raises(FormatRefused, match=problem):
        VerifierKey.parse(f"{ORIGIN}+{key_id}+{base64.b64encode(data).decode()}")


def test_a_key_makes_only_its_suites_kind_of_line() -> None:
    for key_type, key in (
        (SM2_SIGNATURE, ED.public),
        (ML_DSA_COSIGNATURE, ED.public),
        (1, ML.public),
        (4, SM2.public),
    ):
        with pytest.raises(FormatRefused, match="suite"):
            VerifierKey("n", key_type, key)
    with pytest.raises(FormatRefused, match="signs no notes"):
        cosigner_key("n", SM2)
    with pytest.raises(FormatRefused, match="signs no notes"):
        log_key("n", ML)
    with pytest.raises(FormatRefused, match="over 255 bytes"):
        cosigner_key("w" * 256, ML)


def test_an_sm2_key_of_a_witness_and_an_ml_dsa_key_of_a_log_are_in_no_policy() -> None:
    for line in (f"witness w {SM2_KEY}", f"log {ML_KEY}"):
        with pytest.raises(FormatRefused, match="type"):
            Policy.parse(f"{line}\nquorum none\n".encode())


def test_one_sm2_key_under_two_names_is_refused() -> None:
    other = log_key(ORIGIN + "/sm3", SM2)
    with pytest.raises(FormatRefused, match="names a log key"):
        Policy.parse(f"log {SM2_KEY}\nlog {other}\nquorum none\n".encode())


def test_where_sm2_cannot_be_computed_a_note_is_neither_accepted_nor_called_forged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unable(*_: object) -> None:
        raise SuiteUnavailable("sm2", "this machine's libcrypto is built without SM2")

    note = sign_checkpoint(HEAD, LOG, SM2)
    monkeypatch.setattr(PublicKey, "verify", unable)
    with pytest.raises(SignatureUnchecked, match="cannot be checked") as refused:
        open_checkpoint(note, [SM2_KEY])
    assert isinstance(refused.value, LedgerError)


def test_a_line_without_a_log_key_is_not_a_logs() -> None:
    note = Note(HEAD.text, (LINE,))
    with pytest.raises(NotSigned):
        open_checkpoint(note, [LOG_KEY, SM2_KEY])
