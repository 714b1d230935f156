"""Answers that others published: trees, notes, cosignatures and requests to a witness."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from crypto.keys import PublicKey
from ledger.errors import ConsistencyRefused, SignatureRefused
from ledger.verify.checkpoint import Checkpoint, open_checkpoint
from ledger.verify.cosignature import verify_cosignatures
from ledger.verify.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from ledger.verify.note import (
    LOG_SIGNATURE,
    Note,
    Signature,
    VerifierKey,
    verify,
)
from ledger.verify.policy import Policy
from ledger.witness import AddCheckpoint

FOLDER = Path(__file__).parent / "ledger"
TREE = json.loads((FOLDER / "tree.json").read_text())
NOTES = json.loads((FOLDER / "notes.json").read_text())
WITNESS = json.loads((FOLDER / "witness.json").read_text())

LEAVES = [leaf_hash(bytes.fromhex(entry)) for entry in TREE["entries_hex"]]
ROOTS = [bytes.fromhex(text) for text in TREE["roots"]]


def hashes(vector: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(text) for text in vector["proof"]]


@pytest.mark.parametrize("size", range(9))
def test_the_root_of_each_published_tree_is_ours(size: int) -> None:
    assert root(LEAVES[:size]) == ROOTS[size]


@pytest.mark.parametrize("vector", TREE["inclusion"], ids=lambda v: f"{v['index']} in {v['size']}")
def test_published_inclusion_proofs_are_accepted(vector: dict[str, Any]) -> None:
    index, size = vector["index"], vector["size"]
    verify_inclusion(LEAVES[index], index, size, hashes(vector), ROOTS[size])


@pytest.mark.parametrize("vector", TREE["consistency"], ids=lambda v: f"{v['old']} to {v['new']}")
def test_published_consistency_proofs_are_accepted(vector: dict[str, Any]) -> None:
    old, new = vector["old"], vector["new"]
    verify_consistency(old, ROOTS[old], new, ROOTS[new], hashes(vector))


@pytest.mark.parametrize("vector", NOTES["logs"], ids=lambda v: v["source"])
def test_notes_signed_by_others_verify_and_are_written_back_byte_for_byte(
    vector: dict[str, str],
) -> None:
    key = VerifierKey.parse(vector["vkey"])
    assert str(key) == vector["vkey"]
    note = Note.parse(vector["note"].encode())
    assert verify(note, [key]) == (key,)
    assert note.to_bytes() == vector["note"].encode()


@pytest.mark.parametrize("vector", NOTES["logs"], ids=lambda v: v["source"])
def test_the_same_notes_with_one_letter_changed_are_refused(vector: dict[str, str]) -> None:
    note = Note.parse(("x" + vector["note"][1:]).encode())
    with pytest.raises(SignatureRefused):
        verify(note, [VerifierKey.parse(vector["vkey"])])


def test_a_real_checkpoint_carries_the_cosignatures_of_four_public_witnesses() -> None:
    vector = NOTES["cosigned"]
    note = Note.parse(vector["note"].encode())
    assert open_checkpoint(note, [VerifierKey.parse(vector["log"])]).size == 1432088532
    witnesses = [VerifierKey.parse(text) for text in vector["witnesses"]]
    times = verify_cosignatures(note, witnesses)
    assert times == dict.fromkeys(witnesses, datetime.fromtimestamp(vector["time"], UTC))


def test_a_real_checkpoint_satisfies_a_policy_written_for_it() -> None:
    vector = NOTES["cosigned"]
    lines = [f"log {vector['log']}"]
    lines += [f"witness w{i} {key}" for i, key in enumerate(vector["witnesses"])]
    lines += ["group g 3 w0 w1 w2 w3", "quorum g", ""]
    checked = Policy.parse("\n".join(lines).encode()).check(vector["note"].encode())
    assert set(checked.cosigned) == {"w0", "w1", "w2", "w3"}


def test_the_example_cosignature_line_is_framed_as_its_specification_says() -> None:
    vector = NOTES["cosignature_line"]
    signature = Signature.parse(vector["line"])
    assert signature.line == vector["line"] + "\n"
    assert int.from_bytes(signature.value[:8], "big") == vector["time"]
    assert len(signature.value) == 8 + 64


def test_requests_that_other_software_sent_to_a_witness_are_read_and_proved() -> None:
    key = VerifierKey(
        WITNESS["origin"],
        LOG_SIGNATURE,
        PublicKey("ed25519", bytes.fromhex(WITNESS["log_key_hex"])),
    )
    heads: list[Checkpoint] = []
    for text in WITNESS["requests"]:
        request = AddCheckpoint.parse(text.encode())
        assert request.to_bytes() == text.encode()
        heads.append(open_checkpoint(Note.parse(request.note), [key]))
        if request.old_size:
            new = heads[-1]
            verify_consistency(1, heads[0].root, new.size, new.root, request.proof)
            with pytest.raises(ConsistencyRefused):
                verify_consistency(1, heads[0].root, new.size, new.root, request.proof[:-1])
    assert [head.size for head in heads] == [1, 3, 5]
    assert base64.b64encode(heads[0].root).decode().startswith("KgAA")
