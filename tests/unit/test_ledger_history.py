"""What a log says of its keys and policies: each change with the authority for it, and without."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.digest import digest
from crypto.identifiers import PartyId
from crypto.keys import Signer, SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, Statement, sign_statement
from ledger.errors import (
    EntryRefused,
    FormatRefused,
    KeysRefused,
    NotCovered,
    NotSigned,
    QuorumMissing,
)
from ledger.evidence import log_keys_declared, policy_adopted
from ledger.verify.archive import Archive, read_archive
from ledger.verify.checkpoint import Checkpoint, sign_checkpoint
from ledger.verify.cosignature import cosign
from ledger.verify.history import (
    ADOPTED,
    OPENED,
    RECOVERED,
    ROTATED,
    LogKeys,
    SignedLogKeys,
    read_history,
    read_log_keys,
    require_authority,
    sign_log_keys,
)
from ledger.verify.note import cosigner_key, log_key
from ledger.verify.tile_names import CHECKPOINT
from ledger.verify.tiles import FolderSource, open_tree
from tests.written_logs import ORIGIN as WRITTEN
from tests.written_logs import Actor, WrittenLog

ORIGIN = "log.example/deals"
OLD, NEW, THIRD, RECOVERY, THIEF = (SigningKey.generate() for _ in range(5))
START = datetime(2026, 3, 4, tzinfo=UTC)
OPERATOR = PartyId("pty_" + "0" * 32)


def vkey(signer: Signer) -> str:
    return str(log_key(ORIGIN, signer))


FIRST = sign_log_keys(LogKeys(1, ORIGIN, 0, None, (vkey(OLD),), RECOVERY.public, ()), OLD, RECOVERY)


def after(
    before: SignedLogKeys, *keys: Signer, by: tuple[Signer, ...], **more: object
) -> SignedLogKeys:
    document = replace(
        before.document,
        seq=before.document.seq + 1,
        previous=before.digest,
        keys=tuple(vkey(key) for key in keys),
        **more,  # type: ignore[arg-type]
    )
    return sign_log_keys(document, *by)


BOTH = after(FIRST, OLD, NEW, by=(OLD, NEW))
ALONE = after(BOTH, NEW, by=(NEW,))
RESCUED = after(FIRST, THIRD, by=(THIRD, RECOVERY))


def test_a_key_is_opened_joined_by_the_next_and_replaced_by_it() -> None:
    assert require_authority(FIRST, None) == OPENED
    assert require_authority(BOTH, FIRST) == ROTATED
    assert require_authority(ALONE, BOTH) == ROTATED
    assert read_log_keys(BOTH.envelope.to_bytes()) == BOTH


def test_the_recovery_key_replaces_every_key_at_once() -> None:
    assert require_authority(RESCUED, FIRST) == RECOVERED
    assert require_authority(after(BOTH, THIRD, by=(THIRD, RECOVERY)), BOTH) == RECOVERED


def test_entries_that_only_begin_like_statements_hide_no_change_of_keys(tmp_path: Path) -> None:
    log, operator = WrittenLog(tmp_path), Actor("operator")
    keys = LogKeys(1, WRITTEN, 0, None, (str(log_key(WRITTEN, OLD)),), RECOVERY.public, ())
    document = sign_log_keys(keys, OLD, RECOVERY)
    first = operator.says(Act("party.registered", operator.id), START)
    opened = operator.says(log_keys_declared(document, None), START)
    odd = [b'{"payload":"%b"}' % text for text in (b"A", b"AA=A", b"=", b"", b"AAAAA", b"/" * 9)]
    log.write([first, odd[0], opened, *odd], {}, START)
    assert [keys.index for keys in archived(log).history.keys] == [2]


def test_who_speaks_of_the_log_before_its_operator_does_is_not_its_operator(
    tmp_path: Path,
) -> None:
    log, operator, stranger = WrittenLog(tmp_path), Actor("operator"), Actor("stranger")
    keys = LogKeys(1, WRITTEN, 0, None, (str(log_key(WRITTEN, THIEF)),), RECOVERY.public, ())
    first = operator.says(Act("party.registered", operator.id), START)
    said = stranger.says(log_keys_declared(sign_log_keys(keys, THIEF, RECOVERY), None), START)
    log.write([first, said], {}, START)
    assert not archived(log).history.keys


def archived(log: WrittenLog) -> Archive:
    source = FolderSource(log.folder)
    tree = open_tree(source, log.policy.check(source.read(CHECKPOINT)).checkpoint)
    return read_archive(tree)


@pytest.mark.parametrize(
    ("new", "old", "problem"),
    [
        (sign_log_keys(FIRST.document, OLD), None, "has not signed"),
        (sign_log_keys(FIRST.document, RECOVERY), None, "has not signed"),
        (BOTH, None, "number 0"),
        (FIRST, FIRST, "does not follow"),
        (ALONE, FIRST, "does not follow"),
        (after(FIRST, OLD, NEW, by=(OLD,)), FIRST, "has not signed"),  # nobody has the new key
        (after(FIRST, OLD, NEW, by=(NEW,)), FIRST, "no key in force"),  # the old one knows nothing
        (after(FIRST, NEW, by=(OLD, NEW)), FIRST, "no key in force"),  # no overlap
        (after(FIRST, OLD, THIEF, by=(THIEF,)), FIRST, "no key in force"),
        (after(FIRST, THIEF, by=(THIEF,)), FIRST, "no key in force"),
        (after(BOTH, OLD, by=(THIEF,)), BOTH, "no key in force"),
        (after(BOTH, OLD, THIRD, by=(OLD, NEW)), BOTH, "has not signed"),
        # A thief of the log's key does not get rid of the recovery key.
        (after(FIRST, OLD, by=(OLD, THIEF), recovery=THIEF.public), FIRST, "recovery key itself"),
        (after(FIRST, OLD, by=(OLD, RECOVERY), recovery=THIEF.public), FIRST, "has not signed"),
        (after(FIRST, THIRD, by=(RECOVERY,)), FIRST, "has not signed"),
    ],
)
def test_a_change_without_its_authority_is_refused(
    new: SignedLogKeys, old: SignedLogKeys | None, problem: str
) -> None:
    with pytest.raises(KeysRefused, match=problem):
        require_authority(new, old)


def test_a_signature_over_another_document_gives_no_authority() -> None:
    forged = replace(BOTH, envelope=replace(BOTH.envelope, payload=ALONE.envelope.payload))
    with pytest.raises(KeysRefused, match="does not verify"):
        require_authority(replace(forged, document=BOTH.document), FIRST)


@pytest.mark.parametrize(
    "change",
    [
        {"keys": ()},
        {"keys": (vkey(OLD), vkey(OLD))},
        {"keys": (vkey(OLD), vkey(NEW), vkey(THIRD))},
        {"keys": (str(log_key("other.example", OLD)),)},
        {"keys": (str(cosigner_key(ORIGIN, OLD)),)},
        {"keys": ("rubbish",)},
        {"keys": (vkey(RECOVERY),)},
        {"sm2": (vkey(OLD),)},
        {"v": 2},
        {"seq": 1},
    ],
)
def test_a_keys_document_that_says_nothing_sensible_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(KeysRefused):
        replace(FIRST.document, **change)  # type: ignore[arg-type]


# History


@dataclass
class Said:
    """The operator's statements, each at the index where it was logged."""

    statements: list[tuple[int, Statement]] = field(default_factory=list)

    def say(self, index: int, act: Act, *, at: timedelta = timedelta()) -> Said:
        signed = sign_statement(
            act,
            actor=OPERATOR,
            head=ChainHead(),
            signer=THIRD,
            now=START + at,
            randomness=SystemRandomness(),
        )
        self.statements.append((index, signed.statement))
        return self


DAY = timedelta(days=1)
ALIVE, DEAD = SigningKey.generate(), SigningKey.generate()


def a_policy(log: Signer, witness: Signer, name: str) -> bytes:
    key = cosigner_key(name, witness)
    return f"log {vkey(log)}\nwitness w {key}\nquorum w\n".encode()


BEFORE = a_policy(OLD, DEAD, "dead.example")
AFTER = a_policy(NEW, ALIVE, "alive.example")


def a_history() -> Said:
    said = Said()
    said.say(1, log_keys_declared(FIRST, None))
    said.say(2, policy_adopted(ORIGIN, BEFORE, None))
    said.say(10, log_keys_declared(BOTH, FIRST), at=DAY)
    said.say(20, log_keys_declared(ALONE, BOTH), at=2 * DAY)
    said.say(21, policy_adopted(ORIGIN, AFTER, digest(BEFORE)), at=2 * DAY)
    return said


def a_head(size: int, log: Signer, witness: Signer, name: str) -> bytes:
    head = Checkpoint(ORIGIN, size, bytes(32))
    line = cosign(head.text, name, witness, now=START)
    return sign_checkpoint(head, log).with_signatures([line]).to_bytes()


def test_keys_and_policy_of_each_size_and_time_are_found() -> None:
    history = read_history(a_history().statements, origin=ORIGIN)
    for size, signers in ((2, [OLD]), (10, [OLD]), (11, [OLD, NEW]), (20, [OLD, NEW]), (21, [NEW])):
        assert [str(key) for key in history.keys_for(size)] == [vkey(s) for s in signers]
    for size, text in ((3, BEFORE), (21, BEFORE), (22, AFTER), (9_999, AFTER)):
        assert history.policy_for(size).text == text
    assert history.policy_at(START + DAY).text == BEFORE
    assert history.policy_at(START + 3 * DAY).digest == digest(AFTER)
    for ask in (
        lambda: history.keys_for(1),
        lambda: history.policy_for(2),
        lambda: history.policy_at(START - DAY),
    ):
        with pytest.raises(NotCovered):
            ask()


def test_an_old_head_stays_good_after_its_witness_died_and_its_key_was_replaced() -> None:
    history = read_history(a_history().statements, origin=ORIGIN)
    checked, policy = history.check(a_head(15, OLD, DEAD, "dead.example"))
    assert (checked.checkpoint.size, policy.text) == (15, BEFORE)
    assert history.check(a_head(30, NEW, ALIVE, "alive.example"))[1].text == AFTER
    # Complete only after the policy had changed: good under the later one.
    assert history.check(a_head(15, NEW, ALIVE, "alive.example"))[1].text == AFTER


def test_a_head_is_never_good_under_an_earlier_policy_than_its_own() -> None:
    history = read_history(a_history().statements, origin=ORIGIN)
    with pytest.raises(NotSigned):
        history.check(a_head(30, OLD, DEAD, "dead.example"))  # a key that was replaced by then
    with pytest.raises(QuorumMissing):
        history.check(a_head(30, NEW, DEAD, "dead.example"))


def test_a_thiefs_change_of_keys_stops_the_reader_and_names_the_entry() -> None:
    said = a_history()
    stolen = after(ALONE, THIEF, by=(THIEF,))
    act = replace(log_keys_declared(ALONE, BOTH), outputs=(stolen.digest,), inputs=(ALONE.digest,))
    text = stolen.envelope.to_bytes().decode()
    said.say(30, replace(act, body={"document": text}))
    with pytest.raises(KeysRefused, match="entry 30: no key in force"):
        read_history(said.statements, origin=ORIGIN)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"type": RECOVERED}, "is log_keys.recovered, and the document log_keys.rotated"),
        ({"outputs": ()}, "another digest"),
        ({"body": {}}, "holds no document"),
        ({"body": {"document": "{}"}}, "payload"),
    ],
)
def test_a_keys_statement_says_what_its_document_does(
    change: dict[str, object], problem: str
) -> None:
    said = Said().say(1, log_keys_declared(FIRST, None))
    said.say(5, replace(log_keys_declared(BOTH, FIRST), **change))  # type: ignore[arg-type]
    with pytest.raises((KeysRefused, FormatRefused), match=problem):
        read_history(said.statements, origin=ORIGIN)


def test_a_policy_statement_holds_the_policy_that_it_names() -> None:
    act = policy_adopted(ORIGIN, BEFORE, None)
    assert (act.type, act.outputs) == (ADOPTED, (digest(BEFORE),))
    with pytest.raises(FormatRefused, match="another digest"):
        said = Said().say(3, replace(act, body={"policy": AFTER.decode()}))
        read_history(said.statements, origin=ORIGIN)


def test_statements_about_other_logs_or_of_other_types_are_none_of_this_ones() -> None:
    said = Said().say(0, replace(policy_adopted(ORIGIN, BEFORE, None), subject="other.example"))
    said.say(1, Act(type="party.registered", subject=ORIGIN))
    assert read_history(said.statements, origin=ORIGIN).policies == ()


@pytest.mark.parametrize(
    "text", [b"quorum none\n# " + b"x" * 40_000 + b"\n", b"# \xff\nquorum none\n"]
)
def test_a_policy_that_no_entry_can_hold_is_refused(text: bytes) -> None:
    with pytest.raises(EntryRefused):
        policy_adopted(ORIGIN, text, None)
    with pytest.raises(FormatRefused):
        policy_adopted(ORIGIN, b"quorum w\n", None)
