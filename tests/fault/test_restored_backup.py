"""A hub whose database was put back to an earlier state signs nothing, and says how to recover.

With real witnesses over HTTP and real backups of the database, made while the hub was running.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Thread

import httpx2
import pytest

from api.database import bring_up_to_date, open_engine
from api.http.events import Stopping
from api.http.server import Running, serve
from api.settings import HubSettings
from api.wiring import hub as wiring
from api.wiring.hub import OpenedHub, check_stored, loops_of, open_hub, open_own_note
from api.witness import witness_app
from crypto.keys import SigningKey, write_key
from crypto.ports import SystemClock
from crypto.record import Amount
from crypto.statement import read_statement
from ledger.adapters.sql import SqlLogDatabase
from ledger.copies import publish_files
from ledger.tiles import LogSource
from ledger.verify.note import LOG_SIGNATURE, VerifierKey, cosigner_key
from ledger.verify.policy import Policy
from ledger.verify.succession import SUCCEEDED, Predecessor, Standing, check_succession
from pricing.money import Money
from tests.hub_server import Speaker
from tests.integration.test_cli_hub import run
from tests.integration.test_wiring_hub import a_hub, a_witness, free_port, running, until


def back_up(folder: Path, to: Path) -> None:
    """As `sqlite3 .backup` does it, beside a running hub."""
    with closing(sqlite3.connect(folder / "hub.db")) as live, closing(sqlite3.connect(to)) as copy:
        live.backup(copy)


def put_back(backup: Path, folder: Path) -> None:
    for name in ("hub.db", "hub.db-wal", "hub.db-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(backup, folder / "hub.db")


@dataclass
class Witness:
    """A witness's web server that can be stopped and started on its database."""

    path: Path
    name: str
    log_key: VerifierKey
    signer: SigningKey = field(default_factory=SigningKey.generate)
    port: int = field(default_factory=free_port)

    @property
    def key(self) -> VerifierKey:
        return cosigner_key(self.name, self.signer)

    @contextmanager
    def up(self) -> Iterator[None]:
        engine = open_engine(f"sqlite:///{self.path}/{self.name}.db")
        bring_up_to_date(engine, "witness")
        app = witness_app(
            engine=engine,
            signers=[self.signer],
            name=self.name,
            trusted_logs=[self.log_key],
            clock=SystemClock(),
        )
        app.state.stopping, app.state.start_error = Stopping(), None
        found: Queue[Running] = Queue()
        arguments = {"on_ready": found.put}
        thread = Thread(target=serve, args=(app, "127.0.0.1", self.port), kwargs=arguments)
        thread.start()
        server = found.get(timeout=30)
        try:
            yield
        finally:
            server.stop()
            thread.join()
            engine.dispose()


@dataclass
class Hub:
    """A hub without its web server, to be stopped and started on its folder."""

    path: Path
    witnesses: list[Witness]
    said: int = 0

    @contextmanager
    def up(self) -> Iterator[OpenedHub]:
        opened = open_hub(HubSettings.load(self.path / "settings.toml"))
        try:
            with loops_of(opened, HubSettings.load(self.path / "settings.toml")) as loops:
                loops.start()
                yield opened
        finally:
            opened.close()

    def say(self, opened: OpenedHub) -> None:
        """One more statement of the operator's."""
        self.said += 1
        operator = opened.operator.party
        opened.service.fund(operator, operator, Money("TEST", Amount(1)), key=f"{self.said}")

    def witnessed(self, opened: OpenedHub) -> int | None:
        """The size of the log, once all that is queued is witnessed."""
        with opened.keeping.database.transaction() as store:
            latest, last = store.latest(), store.latest_witnessed()
            if latest is None or last is None or store.pending(1) or latest.size != last.size:
                return None
            return latest.size


def size_of(path: Path) -> int:
    engine = open_engine(f"sqlite:///{path / 'hub.db'}")
    with SqlLogDatabase(engine).transaction() as store:
        latest = store.latest()
    engine.dispose()
    return 0 if latest is None else latest.size


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    """Two witnesses, of which either is a quorum."""
    settings = a_hub(tmp_path / "hub")
    log_key = VerifierKey.parse((tmp_path / "hub" / "log.vkey").read_text().strip())
    assert log_key.key_type == LOG_SIGNATURE
    witnesses = [Witness(tmp_path, name, log_key) for name in ("one.test", "two.test")]
    lines = [f"witness {w.name} {w.key}\n" for w in witnesses]
    policy = tmp_path / "hub" / "policy"
    kept = policy.read_text().replace("quorum none\n", "")
    policy.write_text(f"{kept}{''.join(lines)}group g any one.test two.test\nquorum g\n")
    with settings.open("a") as file:
        for w in witnesses:
            file.write(f'[[witnesses]]\nurl = "http://127.0.0.1:{w.port}"\nvkeys = ["{w.key}"]\n')
    return Hub(tmp_path / "hub", witnesses)


def test_a_hub_on_a_restored_backup_signs_nothing_and_says_how_to_recover(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "PAUSE_AFTER_FAILURE_S", 0.05)
    with ExitStack() as stack:
        for witness in hub.witnesses:
            stack.enter_context(witness.up())
        with hub.up() as opened:
            hub.say(opened)
            early = until(lambda: hub.witnessed(opened))
            back_up(hub.path, tmp_path / "early.db")
            hub.say(opened)
            late = until(lambda: (s := hub.witnessed(opened)) and (s if s > early else None))
            back_up(hub.path, tmp_path / "late.db")

        put_back(tmp_path / "early.db", hub.path)
        with hub.up() as opened:
            hub.say(opened)
            words = until(lambda: opened.fault.words)
            hub.say(opened)
        assert f"holds a head of size {late} of this log" in words
        assert f"ends at size {early}" in words
        assert f"full copy that reaches size {late}" in words and "successor log" in words
        assert size_of(hub.path) == early  # nothing was signed, before or after it was found

        put_back(tmp_path / "late.db", hub.path)
        with hub.up() as opened:
            hub.say(opened)
            assert until(lambda: (s := hub.witnessed(opened)) and (s if s > late else None))
            assert opened.fault.words is None
    assert list(check_stored(HubSettings.load(hub.path / "settings.toml"))) == []


def test_a_hub_whose_witnesses_are_all_silent_waits_and_goes_on_once_enough_have_answered(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "PAUSE_AFTER_FAILURE_S", 0.05)
    one, two = hub.witnesses
    with hub.up() as opened:
        waiting = until(lambda: opened.fault.waiting)
        assert "not known yet" in waiting and "did not answer" in waiting
        with one.up():
            # Either is a quorum: the silent one could have cosigned more by itself.
            monkeypatch.setattr(opened.fault, "waiting", None)
            until(lambda: opened.fault.waiting)
            assert size_of(hub.path) == 0
            with two.up():
                assert until(lambda: hub.witnessed(opened))
        assert opened.fault.waiting is None and opened.fault.words is None


def test_the_log_that_was_altered_is_named_by_the_command_that_checks_it(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub.witnesses[0].up(), hub.witnesses[1].up(), hub.up() as opened:
        for _ in range(3):
            hub.say(opened)
        until(lambda: hub.witnessed(opened))
    assert check(hub.path, capsys) == (0, "whole: all that is stored is what was signed\n")
    with closing(sqlite3.connect(hub.path / "hub.db")) as connection:
        connection.execute("UPDATE ledger_entry SET entry = X'00' WHERE position = 1")
        connection.commit()
    assert check(hub.path, capsys) == (1, "entry 1: is not the one that was signed\n")


def test_a_log_that_takes_the_place_of_a_lost_one_says_so_first(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub.witnesses[0].up(), hub.witnesses[1].up(), hub.up() as opened:
        until(lambda: hub.witnessed(opened))
        with opened.keeping.database.transaction() as store:
            latest = store.latest()
    assert latest is not None
    (tmp_path / "last").write_bytes(latest.note.to_bytes())
    new = ["hub", "init", str(tmp_path / "new"), "--name", "Operator"]
    old = ["--old-policy", str(hub.path / "policy"), "--old-key", str(hub.path / "log.key")]
    succeeds = ["--succeeds", str(tmp_path / "last"), *old]
    code, _, error = run(capsys, *new, "--origin", latest.checkpoint.origin, *succeeds)
    assert code != 0 and "another origin" in error
    new += ["--origin", "unseen.test/second"]
    write_key(tmp_path / "stranger.key", SigningKey.generate())
    other = VerifierKey("unseen.test/other", LOG_SIGNATURE, hub.witnesses[0].signer.public)
    (tmp_path / "other").write_text(f"log {other}\nquorum none\n")
    for wrong, words in (
        (succeeds[:2], "--old-policy"),
        ([*succeeds[:3], str(tmp_path / "other"), *old[2:]], "not trusted here"),
        ([*succeeds[:5], str(hub.path / "log-recovery.key")], "no key"),
        ([*succeeds[:5], str(tmp_path / "stranger.key")], "no key"),
    ):
        code, _, error = run(capsys, *new, *wrong)
        assert code != 0 and words in error, wrong
    assert not (tmp_path / "new").exists()
    code, _, error = run(capsys, *new, *succeeds)
    assert code == 0, error
    successor, copy = Hub(tmp_path / "new", []), tmp_path / "copy"
    for _ in range(2):  # said once
        with successor.up() as opened:
            until(lambda: successor.witnessed(opened))
            with opened.keeping.database.transaction() as store:
                said = [read_statement(e.entry).statement for e in store.entries(0, 100)]
            if not copy.exists():
                copy.mkdir()
                (copy / "checkpoint").touch()
                keeping = opened.keeping
                publish_files(
                    copy, LogSource(keeping.database), partial(open_own_note, keeping.ever)
                )
    assert [one.type for one in said[:2]] == ["party.registered", SUCCEEDED]
    assert [one.type for one in said].count(SUCCEEDED) == 1
    before = Predecessor.read(said[1].body, where="entry 1")
    assert before.last == latest.note
    policy = Policy.parse((hub.path / "policy").read_bytes())
    keys = (tmp_path / "new" / "log.vkey").read_text().split()
    assert check_succession(before, policy, "unseen.test/second", keys) is Standing.LOG_KEY
    recovery = ["--old-key", str(hub.path / "log-recovery.key")]
    recovery += ["--old-keys", str(hub.path / "log-keys" / "0.json")]
    for name, more, expected in (
        ("claimed", [], Standing.CLAIMED),
        ("recovered", recovery, Standing.RECOVERY_KEY),
    ):
        path = str(tmp_path / name)
        other_new = ["hub", "init", path, "--name", "Operator", "--origin", f"unseen.test/{name}"]
        code, _, error = run(capsys, *other_new, *succeeds[:4], *more)
        assert code == 0, error
        before = Predecessor.from_bytes((tmp_path / name / "predecessor").read_bytes())
        keys = (tmp_path / name / "log.vkey").read_text().split()
        assert check_succession(before, policy, f"unseen.test/{name}", keys) is expected
    # What an auditor is told of it, without the old log's policy, with it, and with another's.
    history = ["audit", "history", str(copy), str(tmp_path / "found"), "--json"]
    history += ["--policy", str(tmp_path / "new" / "policy")]
    for more, ended, standing in (
        ([], 0, "unchecked"),
        (["--old-policy", str(hub.path / "policy")], 0, "log_key"),
        (["--old-policy", str(tmp_path / "other")], 1, "refused"),
    ):
        code, out, error = run(capsys, *history, *more)
        (follows,) = json.loads(out)["follows"]
        assert (code, follows["standing"]) == (ended, standing), error
        assert follows["origin"] == latest.checkpoint.origin


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code, out, _ = run(capsys, "hub", "check", "--settings", str(folder / "settings.toml"))
    return code, out


@pytest.mark.slow
def test_processes_that_were_killed_and_a_backup_that_was_put_back(tmp_path: Path) -> None:
    settings = a_hub(tmp_path / "hub")
    folder = tmp_path / "hub"
    log_key = (folder / "log.vkey").read_text().strip()
    witness_settings = a_witness(tmp_path / "w", log_key)
    with ExitStack() as stack:
        witness = stack.enter_context(running("witness", "--settings", str(witness_settings)))
        vkey = (tmp_path / "w" / "witness.vkey").read_text().strip()
        kept = (folder / "policy").read_text().replace("quorum none\n", "")
        (folder / "policy").write_text(f"{kept}witness w {vkey} {witness.url}\nquorum w\n")
        with settings.open("a") as file:
            file.write(f'[[witnesses]]\nurl = "{witness.url}"\nvkeys = ["{vkey}"]\n')

        def speak(url: str, name: str) -> None:
            speaker = Speaker.new(tmp_path / name, url, SystemClock())
            said = speaker.register()

            def proved() -> bool | None:
                text = speaker.hub.receipt(said.digest)
                return True if text is not None and "witness.test" in text else None

            until(proved, patience_s=60)
            speaker.hub.close()

        with running("hub", "--settings", str(settings)) as hub:
            speak(hub.url, "first")
            back_up(folder, tmp_path / "early.db")
            speak(hub.url, "second")
            os.kill(hub.child.pid, signal.SIGKILL)
            hub.child.wait()
        back_up(folder, tmp_path / "late.db")
        early = size_of_backup(tmp_path / "early.db")

        put_back(tmp_path / "early.db", folder)
        with running("hub", "--settings", str(settings)) as hub:
            ready = until(lambda: not_ready(hub.url), patience_s=60)
            assert "old copy" in ready and "full copy" in ready
        assert size_of(folder) == early

        put_back(tmp_path / "late.db", folder)
        with running("hub", "--settings", str(settings)) as hub:
            speak(hub.url, "third")
            assert not_ready(hub.url) is None
        assert size_of(folder) > early


def size_of_backup(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("SELECT max(size) FROM ledger_checkpoint").fetchone()
    return int(size)


def not_ready(url: str) -> str | None:
    answer = httpx2.get(url + "/readyz", trust_env=False)
    return None if answer.status_code == 200 else answer.text
