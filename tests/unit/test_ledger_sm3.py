"""The parallel SM3 tree: the standard's hash, the shape of RFC 6962, and pairs that do not fit."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from crypto.adapters.sm2 import Sm2Key
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, Statement, sign_statement
from ledger.errors import (
    ConsistencyRefused,
    EntryRefused,
    FormatRefused,
    LedgerError,
    NotSigned,
    OtherLog,
    SignatureRefused,
)
from ledger.evidence import heads_paired
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.note import log_key
from ledger.verify.sm3 import Sm3Tree, check_paired, read_paired, sm3

ORIGIN = "log.example/deals"
SM2 = Sm2Key.generate()
KEY = log_key(ORIGIN + "/sm3", SM2)
ENTRIES = [f"entry {n}".encode() for n in range(21)]


def slow_root(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, as it is written there, with SM3."""
    if not entries:
        return sm3(b"")
    if len(entries) == 1:
        return sm3(b"\x00" + entries[0])
    split = 1 << (len(entries) - 1).bit_length() - 1
    return sm3(b"\x01" + slow_root(entries[:split]) + slow_root(entries[split:]))


def tree_of(size: int) -> Sm3Tree:
    tree = Sm3Tree()
    tree.add(ENTRIES[:size])
    return tree


def sha256_head(size: int) -> Checkpoint:
    return Checkpoint(ORIGIN, size, root([leaf_hash(entry) for entry in ENTRIES[:size]]))


def paired_act(size: int) -> Act:
    head = Checkpoint(ORIGIN + "/sm3", size, tree_of(size).root)
    return heads_paired(sha256_head(size), sign_checkpoint(head, SM2))


def said(act: Act) -> Statement:
    return sign_statement(
        act,
        actor=PartyId("pty_" + "0" * 32),
        head=ChainHead(),
        signer=SigningKey.generate(),
        now=datetime(2026, 3, 4, tzinfo=UTC),
        randomness=SystemRandomness(),
    ).statement


def test_the_standards_own_digests_come_out() -> None:
    """GB/T 32905-2016 appendix A."""
    assert sm3(b"abc").hex() == "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"
    assert (
        sm3(b"abcd" * 16).hex()
        == "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"
    )


@pytest.mark.parametrize("size", range(len(ENTRIES) + 1))
def test_the_tree_is_that_of_the_rfc_and_grows_on_from_its_edge(size: int) -> None:
    tree = tree_of(size)
    assert (tree.size, tree.root) == (size, slow_root(ENTRIES[:size]))
    again = Sm3Tree(size, tree.edge)
    again.add(ENTRIES[size:])
    assert again.root == slow_root(ENTRIES)


def test_an_edge_that_does_not_fit_its_size_is_refused() -> None:
    with pytest.raises(FormatRefused):
        Sm3Tree(6, tree_of(5).edge[:-1])


@pytest.mark.parametrize("size", [1, 7, 16])
def test_a_pair_shows_both_trees_to_be_of_the_same_entries(size: int) -> None:
    paired = read_paired(said(paired_act(size)))
    head = check_paired(paired, tree_of(size), sha256_head(size).root, [KEY])
    assert (head.origin, head.size) == (ORIGIN + "/sm3", size)


def test_a_pair_that_does_not_fit_is_refused() -> None:
    paired = read_paired(said(paired_act(7)))
    fitting = sha256_head(7).root
    other = Sm3Tree()
    other.add([*ENTRIES[:6], b"another entry"])
    for tree, sha256_root in (
        (tree_of(8), fitting),
        (other, fitting),
        (tree_of(7), sha256_head(8).root),
        (tree_of(7), hashlib.sha256(b"").digest()),
    ):
        with pytest.raises(ConsistencyRefused):
            check_paired(paired, tree, sha256_root, [KEY])
    with pytest.raises(ConsistencyRefused):
        check_paired(replace(paired, size=6), tree_of(6), sha256_head(6).root, [KEY])


def test_an_sm3_head_that_the_logs_sm2_key_did_not_sign_is_refused() -> None:
    head = Checkpoint(ORIGIN + "/sm3", 7, tree_of(7).root)
    paired = read_paired(said(paired_act(7)))
    forged = replace(paired.note, text=replace(head, root=bytes(32)).text)
    stranger = sign_checkpoint(head, Sm2Key.generate())
    # The SM2 key of the log's own heads signs no head of the SM3 tree.
    own = Checkpoint(ORIGIN, 7, tree_of(7).root)
    for note, keys, error in (
        (forged, [KEY], SignatureRefused),
        (stranger, [KEY], NotSigned),
        (paired.note, [log_key(ORIGIN, SM2)], OtherLog),
        (sign_checkpoint(own, SM2), [log_key(ORIGIN, SM2)], ConsistencyRefused),
    ):
        with pytest.raises(error):
            check_paired(replace(paired, note=note), tree_of(7), sha256_head(7).root, keys)


def test_heads_of_different_sizes_or_logs_are_no_pair() -> None:
    head = Checkpoint(ORIGIN + "/sm3", 7, tree_of(7).root)
    for sha256, sm3_head in (
        (sha256_head(8), head),
        (replace(sha256_head(7), origin="other.example"), head),
        (sha256_head(7), replace(head, origin=ORIGIN)),
    ):
        with pytest.raises(EntryRefused):
            heads_paired(sha256, sign_checkpoint(sm3_head, SM2))


@pytest.mark.parametrize(
    "change",
    [
        {"size": "07"},
        {"sha256_root": "AAAA"},
        {"sm3_note": "no note"},
        {"more": "x"},
    ],
)
def test_a_pair_has_one_spelling(change: dict[str, str]) -> None:
    act = paired_act(7)
    with pytest.raises(LedgerError):
        read_paired(said(replace(act, body={**(act.body or {}), **change})))
