"""What is written is read back byte for byte; what is not written so is refused."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from crypto.keys import PublicKey
from ledger.errors import FormatRefused
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import COSIGNATURE, LOG_SIGNATURE, Note, Signature, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof
from ledger.witness import AddCheckpoint

NAMES = st.from_regex(r"[a-z0-9./_-]{1,20}|[é中]{1,5}", fullmatch=True)
HASHES = st.binary(min_size=32, max_size=32)
PRINTABLE = st.characters(min_codepoint=0x20, exclude_categories=["Cs"])
SIZES = st.integers(0, 2**63 - 1)
SIGNATURES = st.builds(
    Signature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)
)
TEXTS = st.lists(st.text(PRINTABLE, max_size=12), min_size=1, max_size=6).map(
    lambda lines: "\n".join(lines) + "\n"
)
NOTES = st.builds(Note, TEXTS, st.lists(SIGNATURES, min_size=1, max_size=20).map(tuple))
CHECKPOINTS = st.builds(Checkpoint, NAMES, SIZES, HASHES)


@given(NOTES)
def test_notes(note: Note) -> None:
    assert Note.parse(note.to_bytes()) == note


@given(CHECKPOINTS)
def test_checkpoints(checkpoint: Checkpoint) -> None:
    assert Checkpoint.parse(checkpoint.text) == checkpoint


@given(NAMES, st.sampled_from([LOG_SIGNATURE, COSIGNATURE]), HASHES)
def test_verifier_keys(name: str, key_type: int, raw: bytes) -> None:
    key = VerifierKey(name, key_type, PublicKey("ed25519", raw))
    assert VerifierKey.parse(str(key)) == key


@given(
    st.integers(0, 2**63 - 1),
    st.lists(HASHES, max_size=63),
    st.builds(lambda c, s: Note(c.text, (s,)), CHECKPOINTS, SIGNATURES),
    st.none() | st.binary(min_size=1, max_size=40),
)
def test_proofs(index: int, hashes: list[bytes], head: Note, extra: bytes | None) -> None:
    proof = Proof(index, tuple(hashes), head.to_bytes(), extra)
    assert Proof.parse(proof.text) == proof


@given(SIZES, st.lists(HASHES, max_size=63), NOTES)
def test_requests_to_a_witness(old_size: int, hashes: list[bytes], note: Note) -> None:
    request = AddCheckpoint(old_size, tuple(hashes), note.to_bytes())
    assert AddCheckpoint.parse(request.to_bytes()) == request


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_in_words_and_never_crash_the_reader(data: bytes) -> None:
    for parse in (Note.parse, Proof.parse, AddCheckpoint.parse, Policy.parse):
        with contextlib.suppress(FormatRefused):
            parse(data)


@given(NOTES, st.data())
def test_a_note_with_one_byte_changed_is_refused_or_read_as_what_it_now_says(
    note: Note, draw: st.DataObject
) -> None:
    data = bytearray(note.to_bytes())
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    with contextlib.suppress(FormatRefused):
        assert Note.parse(bytes(data)).to_bytes() == bytes(data)
