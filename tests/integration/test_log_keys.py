"""The log's keys in the operator's folder: rotation, recovery, SM2, and steps cut short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from api import log_keys
from api.cli import main as program
from api.operator import create_hub
from api.settings import HubSettings, SettingsRefused
from api.wiring.hub import open_hub, open_own_note
from crypto.digest import digest
from crypto.errors import CryptoError
from crypto.keys import PublicKey, SigningKey, write_key
from crypto.ports import SystemClock
from crypto.statement import read_statement
from exchange.hub import background, chains, log_history
from ledger.copies import publish_files
from ledger.errors import KeysRefused, LogDiverged
from ledger.log import MAX_BATCH, append, append_many
from ledger.tiles import LogSource
from ledger.verify.checkpoint import open_checkpoint
from ledger.verify.history import ADOPTED, OPENED, RECOVERED, ROTATED, LogHistory, read_history
from ledger.verify.merkle import leaf_hash, root
from ledger.verify.note import Note, VerifierKey
from ledger.verify.policy import Policy
from ledger.verify.sm3 import PAIRED, Sm3Tree, check_paired, read_paired

ORIGIN = "unseen.test/log"


@pytest.fixture
def settings(tmp_path: Path) -> HubSettings:
    return a_hub(tmp_path / "hub")


def a_hub(path: Path, *, sm2: bool = False) -> HubSettings:
    made = create_hub(
        path,
        "Operator",
        ORIGIN,
        listen="127.0.0.1:0",
        public_url=None,
        relay_listen=None,
        sm2=sm2,
        now=SystemClock().now(),
    )
    return HubSettings.load(made.settings)


def start(settings: HubSettings) -> tuple[Note, LogHistory, list[str]]:
    """One start of the hub: its newest head, and what the log says of itself."""
    hub = open_hub(settings)
    try:
        background.require_newest(hub.keeping)
        while background.order(hub.store, hub.operator, hub.keeping):
            pass
        with hub.store.reading() as tx:
            latest = tx.log.latest()
            assert latest is not None
            said = log_history.statements(ORIGIN, tx)
            names = [digest(e.entry) for e in tx.log.entries(0, latest.size)]
            assert len(names) == latest.size
            numbered = list(enumerate(said, start=1))
            for _, statement in numbered:
                for name in statement.outputs:
                    assert hub.service.document(name)
        history = read_history(numbered, origin=ORIGIN)
        return latest.note, history, [statement.type for statement in said]
    finally:
        hub.close()


def policy_of(settings: HubSettings) -> Policy:
    return Policy.parse(settings.policy_file.read_bytes())


def key_of(settings: HubSettings) -> VerifierKey:
    return VerifierKey.parse((settings.folder / "log.vkey").read_text().strip())


def test_a_start_says_keys_and_policy_once_and_a_changed_policy_again(
    settings: HubSettings,
) -> None:
    first = start(settings)
    assert first[2] == [OPENED, ADOPTED]
    assert start(settings)[2] == [OPENED, ADOPTED]
    before = settings.policy_file.read_bytes()
    settings.policy_file.write_bytes(b"# reviewed\n" + before)
    assert start(settings)[2] == [OPENED, ADOPTED, ADOPTED]
    settings.policy_file.write_bytes(before)  # back again: said again, for it is in force again
    assert start(settings)[2] == [OPENED, ADOPTED, ADOPTED, ADOPTED]


def test_a_key_is_rotated_with_an_overlap_in_which_both_sign(settings: HubSettings) -> None:
    start(settings)
    old = key_of(settings)
    new = log_keys.begin_rotation(settings)
    assert log_keys.begin_rotation(settings) == new  # repeated: nothing new
    note, _, said = start(settings)
    assert said == [OPENED, ADOPTED, ROTATED, ADOPTED]
    assert {line.key_id for line in note.signatures} == {old.key_id, new.key_id}
    for trusted in ([old], [new], [old, new]):
        open_checkpoint(note, trusted)
    assert policy_of(settings).log_keys == (old, new)
    assert log_keys.end_rotation(settings) == new == key_of(settings)
    assert policy_of(settings).log_keys == (new,)
    note, history, said = start(settings)
    assert said == [OPENED, ADOPTED, ROTATED, ADOPTED, ROTATED, ADOPTED]
    assert [line.key_id for line in note.signatures] == [new.key_id]
    assert history.keys_for(2) == (old,)
    assert (settings.folder / "retired" / "log-2.key").exists()
    with pytest.raises(KeysRefused, match="no rotation was begun"):
        log_keys.end_rotation(settings)


def test_no_head_is_signed_with_new_keys_before_it_holds_their_declaration(
    settings: HubSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(settings)
    monkeypatch.setattr(chains, "require_complete", lambda tx: None)  # what waits is nobody's
    hub = open_hub(settings)
    try:
        with hub.store.transaction() as tx:  # more than a batch waits, and the hub dies
            append_many(tx.log, [b"waiting %d" % n for n in range(MAX_BATCH + 1)])
    finally:
        hub.close()
    log_keys.begin_rotation(settings)
    hub = open_hub(settings)
    try:
        while background.order(hub.store, hub.operator, hub.keeping):
            pass
        with hub.store.reading() as tx:
            sizes = tx.log.sizes(0, 1000)
            (place,) = [
                one.index
                for one in tx.log.entries(MAX_BATCH, sizes[-1])
                if b"waiting" not in one.entry
                and read_statement(one.entry).statement.type == ROTATED
            ]
            for size in sizes:
                assert (len(tx.log.at(size).note.signatures) == 2) is (size > place), size
    finally:
        hub.close()


def test_two_changes_between_two_starts_are_both_said(settings: HubSettings) -> None:
    start(settings)
    log_keys.begin_rotation(settings)
    log_keys.end_rotation(settings)
    note, history, said = start(settings)
    assert said == [OPENED, ADOPTED, ROTATED, ROTATED, ADOPTED]
    open_checkpoint(note, [key_of(settings)])
    assert len(history.keys) == 3


def test_a_stolen_key_is_replaced_by_the_recovery_key_alone(
    settings: HubSettings, tmp_path: Path
) -> None:
    start(settings)
    stolen = key_of(settings)
    offline = tmp_path / "offline.key"
    (settings.folder / "log-recovery.key").rename(offline)
    stranger = tmp_path / "stranger.key"
    write_key(stranger, SigningKey.generate())
    with pytest.raises(KeysRefused, match="does not hold the recovery key"):
        log_keys.recover(settings, stranger)
    (settings.folder / "log.key").unlink()  # lost as well
    new = log_keys.recover(settings, offline)
    note, _, said = start(settings)
    assert said == [OPENED, ADOPTED, RECOVERED, ADOPTED]
    assert [line.key_id for line in note.signatures] == [new.key_id] != [stolen.key_id]
    assert policy_of(settings).log_keys == (new,)


@pytest.mark.parametrize("step", [log_keys.begin_rotation, log_keys.end_rotation])
def test_a_change_of_keys_may_end_after_any_of_its_writes_and_be_repeated(
    tmp_path: Path, step: Callable[[HubSettings], VerifierKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crashes before the nth change of a file, for each n until the step gets through."""

    class Crash(Exception):
        pass

    left = 0

    def unless_crashed(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return real(*arguments, **named)

        return call

    base = a_hub(tmp_path / "base")
    if step is log_keys.end_rotation:
        log_keys.begin_rotation(base)
    for crash_before in range(20):
        shutil.copytree(tmp_path / "base", tmp_path / str(crash_before))
        settings = HubSettings.load(tmp_path / str(crash_before) / "settings.toml")
        left = crash_before
        with monkeypatch.context() as patch:
            patch.setattr(log_keys, "write_key", unless_crashed(log_keys.write_key))
            patch.setattr(Path, "replace", unless_crashed(Path.replace))
            patch.setattr(shutil, "copy2", unless_crashed(shutil.copy2))
            try:
                step(settings)
            except Crash:
                done = False
            else:
                done = True
        key = (
            step(settings)
            if not done
            else log_keys.read_keyring(settings).current.verifier_keys[-1]
        )
        assert log_keys.read_keyring(settings).current.verifier_keys[-1] == key
        assert key in policy_of(settings).log_keys
        if done:
            assert crash_before >= 3
            return
    raise AssertionError("the step never got through")


def test_a_folder_whose_keys_are_not_those_of_the_log_does_not_start(
    settings: HubSettings, tmp_path: Path
) -> None:
    start(settings)
    other = a_hub(tmp_path / "other")
    for name in ("log.key", "log.vkey", "policy"):
        shutil.copy2(other.folder / name, settings.folder / name)
    with pytest.raises(SettingsRefused, match="is not the declared key"):
        start(settings)
    shutil.copytree(other.folder / "log-keys", settings.folder / "log-keys", dirs_exist_ok=True)
    with pytest.raises(KeysRefused, match="declares other keys"):
        start(settings)


def test_a_head_carries_an_sm2_line_where_the_operator_wants_it(tmp_path: Path) -> None:
    settings = a_hub(tmp_path / "hub", sm2=True)
    note, history, _ = start(settings)
    ed, sm2, sm3 = history.keys_for(2)
    assert (ed.name, sm2.name, sm3.name) == (ORIGIN, ORIGIN, ORIGIN + "/sm3")
    assert sm2.key != sm3.key
    assert [line.key_id for line in note.signatures] == [ed.key_id, sm2.key_id]
    for trusted in ([ed], [sm2], [ed, sm2]):
        open_checkpoint(note, trusted)
    rotated = log_keys.begin_rotation(settings)
    note, *_ = start(settings)
    assert [line.key_id for line in note.signatures] == [ed.key_id, rotated.key_id, sm2.key_id]


def test_sm2_keys_can_be_added_later(settings: HubSettings) -> None:
    start(settings)
    keys = log_keys.add_sm2(settings)
    assert log_keys.add_sm2(settings) == keys
    note, _, said = start(settings)
    assert said == [OPENED, ADOPTED, ROTATED]
    assert len(note.signatures) == 2


def test_the_sm3_tree_follows_the_log_and_each_tree_holds_the_others_head(tmp_path: Path) -> None:
    settings = a_hub(tmp_path / "hub", sm2=True)
    _, history, _ = start(settings)
    keys = history.keys_for(2)
    hub = open_hub(settings)
    try:

        def order() -> None:
            while background.order(hub.store, hub.operator, hub.keeping):
                pass

        assert background.follow_sm3(hub.store, hub.operator, hub.keeping)
        order()
        # The pair itself is no news, or there would be one after the other without end.
        assert not background.follow_sm3(hub.store, hub.operator, hub.keeping)
        with hub.store.transaction() as tx:
            append(tx.log, b"one more entry")
        order()
        assert background.follow_sm3(hub.store, hub.operator, hub.keeping)
        order()
        with hub.store.reading() as tx:
            latest = tx.log.latest()
            assert latest is not None
            entries = [e.entry for e in tx.log.entries(0, latest.size)]
    finally:
        hub.close()
    pairs = []
    for index, entry in enumerate(entries):
        with suppress(CryptoError):
            statement = read_statement(entry).statement
            if statement.type == PAIRED:
                pairs.append((index, read_paired(statement)))
    assert [(index, pair.size) for index, pair in pairs] == [(3, 3), (5, 5)]
    for _, pair in pairs:
        tree = Sm3Tree()
        tree.add(entries[: pair.size])
        sha256_root = root([leaf_hash(entry) for entry in entries[: pair.size]])
        check_paired(pair, tree, sha256_root, keys)


def test_an_auditor_reads_keys_policies_and_pairs_from_the_tiles_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = a_hub(tmp_path / "hub", sm2=True)
    start(settings)
    log_keys.begin_rotation(settings)
    hub = open_hub(settings)
    try:
        while background.order(hub.store, hub.operator, hub.keeping):
            pass
        assert background.follow_sm3(hub.store, hub.operator, hub.keeping)
        while background.order(hub.store, hub.operator, hub.keeping):
            pass
        background.publish(hub.operator, hub.keeping)
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / "checkpoint").touch()
        publish_files(
            copy, LogSource(hub.keeping.database), partial(open_own_note, hub.keeping.ever)
        )
        capsys.readouterr()  # what the hub logged
        arguments = ["audit", "history", str(copy), str(tmp_path / "found"), "--json", "--policy"]
        monkeypatch.setattr("sys.argv", ["exchange", *arguments, str(settings.policy_file)])
        with pytest.raises(SystemExit) as ended:
            program()
        assert not ended.value.code
        found = json.loads(capsys.readouterr().out)
        assert (found["size"], found["pairs"], len(found["keys"][-1]["keys"])) == (6, 1, 2)
        assert [Path(p["file"]).read_bytes() for p in found["policies"]][-1] == (
            settings.policy_file.read_bytes()
        )
    finally:
        hub.close()


def test_an_sm3_tree_whose_stored_edge_was_altered_is_not_signed_on(tmp_path: Path) -> None:
    settings = a_hub(tmp_path / "hub", sm2=True)
    start(settings)
    hub = open_hub(settings)
    try:
        assert background.follow_sm3(hub.store, hub.operator, hub.keeping)
        with hub.engine.begin() as connection:
            connection.execute(text("UPDATE ledger_sm3_head SET edge = :edge"), {"edge": bytes(64)})
        with pytest.raises(LogDiverged, match="SM3 tree"):
            background.follow_sm3(hub.store, hub.operator, hub.keeping)
    finally:
        hub.close()


def test_the_policy_keeps_everything_but_the_logs_own_lines(settings: HubSettings) -> None:
    ring = log_keys.read_keyring(settings)
    (key,) = ring.current.verifier_keys
    other = VerifierKey("other.example", 1, PublicKey("ed25519", bytes(range(32))))
    before = f"# ours\nlog {key} https://log.example\n\nlog {other}\nquorum none\n"
    log_keys.begin_rotation(settings)
    both = log_keys.read_keyring(settings).current
    assert log_keys.policy_for(before, both) == (
        f"# ours\nlog {key} https://log.example\nlog {both.keys[1]} https://log.example\n"
        f"\nlog {other}\nquorum none\n"
    )
    assert log_keys.policy_for(log_keys.policy_for(before, both), ring.current) == before
