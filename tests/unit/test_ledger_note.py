"""Notes, checkpoints, cosignatures and receipts: each with its nearest forgery."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crypto.keys import SigningKey
from ledger.errors import (
    FormatRefused,
    InclusionRefused,
    NotSigned,
    OtherLog,
    QuorumMissing,
    SignatureRefused,
)
from ledger.verify.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign, verify_cosignatures
from ledger.verify.merkle import leaf_hash, node_hash
from ledger.verify.note import (
    COSIGNATURE,
    LOG_SIGNATURE,
    Note,
    Signature,
    VerifierKey,
    sign,
    verify,
)
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof, verify_proof

LOG, OTHER, WITNESS = (SigningKey.generate() for _ in range(3))
ORIGIN = "log.example/deals"
LOG_KEY = VerifierKey(ORIGIN, LOG_SIGNATURE, LOG.public)
WITNESS_KEY = VerifierKey("witness.example/w", COSIGNATURE, WITNESS.public)
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ENTRIES = [b"first", b"second"]
ROOT = node_hash(leaf_hash(ENTRIES[0]), leaf_hash(ENTRIES[1]))
HEAD = Checkpoint(ORIGIN, 2, ROOT)


def stranger(number: int = 0) -> Signature:
    return Signature("stranger.example", number.to_bytes(4, "big"), b"x" * 64)


def cosigned() -> Note:
    return sign_checkpoint(HEAD, LOG).with_signatures(
        [cosign(HEAD.text, WITNESS_KEY.name, WITNESS, now=NOW)]
    )


def test_a_known_key_verifies_and_unknown_lines_are_ignored() -> None:
    note = sign("text\n", ORIGIN, LOG).with_signatures([stranger()])
    assert verify(note, [LOG_KEY]) == (LOG_KEY,)


def test_a_line_with_a_known_name_and_another_id_is_ignored() -> None:
    unknown = replace(stranger(), name=ORIGIN)
    assert verify(sign("text\n", ORIGIN, LOG).with_signatures([unknown]), [LOG_KEY]) == (LOG_KEY,)


def test_a_known_key_that_fails_condemns_the_note_although_another_verifies() -> None:
    other = VerifierKey("other.example", LOG_SIGNATURE, OTHER.public)
    forged = Signature(other.name, other.key_id, b"\0" * 64)
    note = sign("text\n", ORIGIN, LOG).with_signatures([forged])
    with pytest.raises(SignatureRefused, match=r"other\.example"):
        verify(note, [LOG_KEY, other])


def test_a_note_that_no_known_key_signed_is_not_signed() -> None:
    with pytest.raises(NotSigned, match=ORIGIN):
        verify(Note("text\n", (stranger(),)), [LOG_KEY])


def test_a_known_key_signs_a_note_once() -> None:
    note = sign("text\n", ORIGIN, LOG)
    with pytest.raises(FormatRefused, match="two signature lines"):
        verify(note.with_signatures(note.signatures), [LOG_KEY])


def test_a_signature_is_over_the_text_and_nothing_else() -> None:
    note = sign("text\n", ORIGIN, LOG)
    with pytest.raises(SignatureRefused):
        verify(replace(note, text="text\n\n"), [LOG_KEY])


def test_a_cosigning_key_does_not_count_as_a_log_key_nor_the_reverse() -> None:
    as_log = VerifierKey(WITNESS_KEY.name, LOG_SIGNATURE, WITNESS.public)
    with pytest.raises(NotSigned):
        verify(cosigned(), [as_log])
    with pytest.raises(NotSigned):
        verify(cosigned(), [WITNESS_KEY])
    as_witness = VerifierKey(ORIGIN, COSIGNATURE, LOG.public)
    assert verify_cosignatures(cosigned(), [as_witness, LOG_KEY]) == {}


def test_sixteen_signature_lines_are_accepted_and_a_hundred_and_one_are_not() -> None:
    note = Note("text\n", tuple(stranger(n) for n in range(16)))
    assert Note.parse(note.to_bytes()) == note
    with pytest.raises(FormatRefused, match="1 to 100"):
        Note.parse(note.to_bytes() + "".join(stranger(n).line for n in range(100)).encode())


def test_the_last_empty_line_ends_the_text() -> None:
    note = sign("one\n\ntwo\n", ORIGIN, LOG)
    assert Note.parse(note.to_bytes()).text == "one\n\ntwo\n"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\n\n", "\n", "no empty line"),
        ("\n\n—", "\n\n\n—", "does not end with a newline|empty|em dash"),
        ("— ", "- ", "em dash"),
        ("— ", "—", "em dash"),
        (f"— {ORIGIN}", f"—  {ORIGIN}", "name"),
        (ORIGIN + " ", "log.example/dea+ls ", "name"),
        (ORIGIN + " ", "log.example/dea\u00a0ls ", "name"),
        ("=\n", "\n", "base64"),
        ("=\n", "=", "newline"),
        ("=\n", "= \n", "base64"),
        ("=\n", "=\n\n", "no|newline|1 to 100"),
        ("text", "te\txt", "control"),
        ("text", "te\rxt", "control"),
    ],
)
def test_a_note_has_one_spelling(old: str, new: str, problem: str) -> None:
    data = sign("text\n", ORIGIN, LOG).to_bytes().decode()
    assert data.count(old) == 1
    changed = data.replace(old, new).encode()
    if new == "\n\n\n—":  # one more empty line belongs to the text: readable, and not signed
        with pytest.raises(SignatureRefused):
            verify(Note.parse(changed), [LOG_KEY])
        return
    with pytest.raises(FormatRefused, match=problem):
        Note.parse(changed)


def test_a_second_base64_spelling_of_a_signature_is_refused() -> None:
    line = Signature("n", b"1234", b"x").line  # 5 bytes: the last character has unused bits
    assert line.endswith("Hg=\n")
    with pytest.raises(FormatRefused, match="canonical"):
        Signature.parse(line.rstrip("\n").replace("Hg=", "Hh="))


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(FormatRefused, match="UTF-8"):
        Note.parse(b"\xff\n\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "key id"),
        ("PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "key id"),
        ("PeterNeumann+c74f20a3", "key id"),
        ("PeterNeumann+c74f20a3+!!!!", "base64"),
        ("PeterNeumann+c74f20a3+", "key id"),
        ("Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "space"),
        ("+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "empty"),
        ("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "type 0x65"),
        ("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWAA==", "33 bytes"),
    ],
)
def test_a_verifier_key_has_one_spelling(text: str, problem: str) -> None:
    with pytest.raises(FormatRefused, match=problem):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "o\n02\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n+2\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n\u0662\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n9223372036854775808\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n2\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n",
        "\n2\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "o\n2\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "o\n2\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nextension\n",
        "o" * 256 + "\n2\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    ],
)
def test_a_checkpoint_is_three_lines_in_one_spelling(text: str) -> None:
    with pytest.raises(FormatRefused):
        Checkpoint.parse(text)


def test_a_checkpoint_is_taken_from_its_own_log_only() -> None:
    assert open_checkpoint(cosigned(), [LOG_KEY]) == HEAD
    elsewhere = VerifierKey("other.example/log", LOG_SIGNATURE, OTHER.public)
    with pytest.raises(OtherLog, match=ORIGIN):
        open_checkpoint(cosigned(), [elsewhere])
    # The other log signs a checkpoint under our origin: its key is known, and not for this.
    borrowed = sign(HEAD.text, elsewhere.name, OTHER)
    with pytest.raises(NotSigned):
        open_checkpoint(borrowed, [LOG_KEY, elsewhere])


def test_a_cosignature_tells_when_it_was_made() -> None:
    assert verify_cosignatures(cosigned(), [WITNESS_KEY]) == {WITNESS_KEY: NOW}


def test_a_cosignature_of_another_time_or_head_is_refused() -> None:
    line = cosign(HEAD.text, WITNESS_KEY.name, WITNESS, now=NOW)
    later = (int(NOW.timestamp()) + 1).to_bytes(8, "big") + line.value[8:]
    for note in (
        Note(HEAD.text, (replace(line, value=later),)),
        Note(replace(HEAD, size=3).text, (line,)),
        Note(HEAD.text, (replace(line, value=line.value[:8] + WITNESS.sign(HEAD.text.encode())),)),
    ):
        with pytest.raises(SignatureRefused):
            verify_cosignatures(note, [WITNESS_KEY])
    for value in (line.value[8:], line.value + b"\0", b"\xff" * 8 + line.value[8:]):
        with pytest.raises(FormatRefused):
            verify_cosignatures(Note(HEAD.text, (replace(line, value=value),)), [WITNESS_KEY])


def policy(quorum: str = "w") -> Policy:
    return Policy.parse(f"log {LOG_KEY}\nwitness w {WITNESS_KEY}\nquorum {quorum}\n".encode())


def a_receipt(note: Note) -> Proof:
    return Proof(1, (leaf_hash(ENTRIES[0]),), note.to_bytes())


def test_a_receipt_shows_the_entry_to_whoever_has_the_policy() -> None:
    checked = verify_proof(Proof.parse(a_receipt(cosigned()).text), ENTRIES[1], policy())
    assert checked.checkpoint == HEAD
    assert checked.cosigned == {"w": NOW}


def test_a_receipt_for_another_entry_index_or_tree_is_refused() -> None:
    receipt = a_receipt(cosigned())
    with pytest.raises(InclusionRefused):
        verify_proof(receipt, b"third", policy())
    with pytest.raises(InclusionRefused):
        verify_proof(replace(receipt, index=0), ENTRIES[1], policy())
    with pytest.raises(InclusionRefused):
        verify_proof(replace(receipt, hashes=(*receipt.hashes, ROOT)), ENTRIES[1], policy())
    with pytest.raises(SignatureRefused):
        forged = replace(cosigned(), text=replace(HEAD, size=3).text)
        verify_proof(replace(receipt, checkpoint=forged.to_bytes()), ENTRIES[1], policy())


def test_a_receipt_without_the_quorum_is_not_enough_where_the_policy_asks_for_one() -> None:
    receipt = a_receipt(sign_checkpoint(HEAD, LOG))
    assert verify_proof(receipt, ENTRIES[1], policy("none")).cosigned == {}
    with pytest.raises(QuorumMissing, match="nobody has cosigned"):
        verify_proof(receipt, ENTRIES[1], policy())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tlog-proof@v1", "tlog-proof@v2"),
        ("index 1", "index 01"),
        ("index 1", "index  1"),
        ("index 1\n", ""),
        ("index 1\n", "index 1\nextra YQ==\n"),
        ("index 1\n", "extra YQ\nindex 1\n"),
        ("index 1\n", "extra \nindex 1\n"),
        ("index 1\n", "index 1\n\n"),
        ("index 1\n", "index 1\nAAAA\n"),
        ("\n\n", "\n"),
        ("@v1\n", "@v1\r\n"),
    ],
)
def test_a_receipt_has_one_spelling(old: str, new: str) -> None:
    text = a_receipt(cosigned()).text
    with pytest.raises(FormatRefused):
        Proof.parse(text.replace(old, new, 1))


def test_what_a_receipt_carries_as_extra_is_read_and_changes_nothing() -> None:
    receipt = replace(a_receipt(cosigned()), extra=b"any thing")
    assert Proof.parse(receipt.text).extra == b"any thing"
    verify_proof(Proof.parse(receipt.text), ENTRIES[1], policy())
