"""Which log another follows: with the word of the old log's keys, and what passes for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crypto import canonical
from crypto.keys import SigningKey
from ledger.errors import FormatRefused, KeysRefused, LedgerError, OtherLog, QuorumMissing
from ledger.evidence import log_keys_declared, log_succeeded
from ledger.verify.archive import read_archive
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign
from ledger.verify.history import LogKeys, sign_log_keys
from ledger.verify.log import audit_log
from ledger.verify.note import Note, cosigner_key, log_key
from ledger.verify.policy import Policy
from ledger.verify.succession import Predecessor, Standing, authorise, check_succession
from ledger.verify.tiles import FolderSource, open_tree
from tests.written_logs import ORIGIN, Actor, WrittenLog

OLD, NEW = "log.example/old", "log.example/new"
KEY, RECOVERY, SUCCESSOR, WITNESS, STRANGER = (SigningKey.generate() for _ in range(5))
WITNESSED = datetime(2026, 11, 23, tzinfo=UTC)
NEW_KEY = log_key(NEW, SUCCESSOR)
POLICY = Policy.parse(
    f"log {log_key(OLD, KEY)}\nwitness w {cosigner_key('w.test', WITNESS)}\nquorum w\n".encode()
)
KEYS = sign_log_keys(
    LogKeys(1, OLD, 0, None, (str(log_key(OLD, KEY)),), RECOVERY.public, ()), KEY, RECOVERY
)


def head(size: int, signer: SigningKey = KEY, *, witnessed: bool = True) -> Note:
    note = sign_checkpoint(Checkpoint(OLD, size, bytes(31) + bytes([size])), signer)
    lines = [cosign(note.text, "w.test", WITNESS, now=WITNESSED)] if witnessed else []
    return note.with_signatures(lines)


def standing(found: Predecessor, successor: str = NEW, key: str = str(NEW_KEY)) -> Standing:
    return check_succession(found, POLICY, successor, [key])


def test_the_old_logs_key_or_its_recovery_key_authorises_the_log_that_follows() -> None:
    assert standing(authorise(head(9), NEW_KEY, KEY)) is Standing.LOG_KEY
    assert standing(authorise(head(9), NEW_KEY, RECOVERY, KEYS)) is Standing.RECOVERY_KEY


def test_what_nobody_of_the_old_log_signed_is_claimed_alone() -> None:
    assert standing(Predecessor(head(9))) is Standing.CLAIMED


def test_what_is_said_is_read_back_byte_for_byte() -> None:
    for found in (Predecessor(head(9)), authorise(head(9), NEW_KEY, RECOVERY, KEYS)):
        assert Predecessor.from_bytes(found.to_bytes()) == found
        assert Predecessor.read(found.body, where="entry 1") == found


OF_ANOTHER_KEY = authorise(head(9), NEW_KEY, STRANGER)
SIGNED = authorise(head(9), NEW_KEY, KEY)
THEIRS = sign_log_keys(
    LogKeys(1, OLD, 0, None, (str(log_key(OLD, SUCCESSOR)),), STRANGER.public, ()),
    SUCCESSOR,
    STRANGER,
)


@pytest.mark.parametrize(
    ("found", "error", "words"),
    [
        (Predecessor(head(9, STRANGER)), LedgerError, ""),  # a head that the old log never signed
        (Predecessor(head(9, witnessed=False)), QuorumMissing, ""),
        (replace(SIGNED, last=head(8)), KeysRefused, "another last head"),  # truncated
        (OF_ANOTHER_KEY, KeysRefused, "no key"),
        (replace(OF_ANOTHER_KEY, keys=KEYS), KeysRefused, "no key"),
        (authorise(head(9), NEW_KEY, RECOVERY), KeysRefused, "no key"),  # whose is it?
        # A recovery key that the old log's key does not vouch for.
        (authorise(head(9), NEW_KEY, STRANGER, THEIRS), KeysRefused, "no key"),
        (authorise(head(9), log_key(NEW, STRANGER), KEY), KeysRefused, "not this one's"),
        (authorise(head(9), log_key("log.example/x", SUCCESSOR), KEY), KeysRefused, "another log"),
        (
            replace(
                SIGNED,
                authority=replace(
                    OF_ANOTHER_KEY.authority,  # type: ignore[type-var]
                    signatures=((KEY.public.key_id, bytes(64)),),
                ),
            ),
            KeysRefused,
            "",
        ),
        (replace(SIGNED, authority=KEYS.envelope), FormatRefused, "succession"),
    ],
)
def test_the_nearest_forgeries_of_a_succession_are_refused(
    found: Predecessor, error: type[LedgerError], words: str
) -> None:
    with pytest.raises(error, match=words or None):
        standing(found)


def test_a_policy_of_another_log_says_nothing_of_it() -> None:
    other = Policy.parse(f"log {log_key('log.example/other', KEY)}\nquorum none\n".encode())
    with pytest.raises(OtherLog):
        check_succession(SIGNED, other, NEW, [str(NEW_KEY)])


@pytest.mark.parametrize(
    "value", [{}, {"authority": "x"}, {**SIGNED.body, "more": "x"}, {"checkpoint": 1}, ["x"], "x"]
)
def test_a_predecessor_is_read_strictly(value: canonical.Value) -> None:
    with pytest.raises(FormatRefused):
        Predecessor.from_bytes(canonical.encode(value))


def test_a_log_is_read_for_the_one_that_it_follows_by_its_operators_word_alone(
    tmp_path: Path,
) -> None:
    log, operator, stranger = WrittenLog(tmp_path), Actor("operator"), Actor("stranger")
    first = log_key(ORIGIN, log.key)
    keys = sign_log_keys(
        LogKeys(1, ORIGIN, 0, None, (str(first),), RECOVERY.public, ()), log.key, RECOVERY
    )
    claimed = log_succeeded(ORIGIN, Predecessor(head(9)))
    entries = [
        operator.says(claimed, WITNESSED),
        operator.says(log_keys_declared(keys, None), WITNESSED),
        stranger.says(log_succeeded(ORIGIN, authorise(head(8), first, KEY)), WITNESSED),
    ]
    log.write(entries, {}, WITNESSED)
    source = FolderSource(tmp_path)
    tree = open_tree(source, log.policy.check(source.read("checkpoint")).checkpoint)
    assert read_archive(tree).follows == [(0, Predecessor(head(9)))]
    _, tally = audit_log(str(tmp_path), log.policy)
    named = [(subject, why.key) for subject, why in tally.open["log.follows"] if why is not None]
    assert named == [("entry 0 log.succeeded", "log.says_follows")]
