"""The hub and the witness as processes: start, stop, killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.operator import create_hub, create_witness
from api.settings import HubSettings, SettingsRefused, WitnessSettings
from api.wiring import hub as wiring
from api.wiring.hub import Loop, loops_of, open_hub
from api.wiring.witness import run_witness
from crypto.digest import digest
from crypto.identifiers import PartyId
from crypto.keys import SigningKey
from crypto.ports import SystemClock, SystemRandomness
from exchange.errors import HubUnreachable
from exchange.evidence import alarmed
from exchange.hub import background
from exchange.hub.sessions import Sessions
from exchange.jobs import JobState
from exchange.links.dial import DialRole, RelayDial, sign_dial
from exchange.links.session import session_name
from ledger.adapters.sql import SqlLogDatabase
from ledger.errors import LogDiverged, WitnessDisagrees
from ledger.verify.merkle import verify_consistency
from ledger.verify.note import VerifierKey
from ledger.verify.policy import NO_QUORUM, Policy
from ledger.verify.proof import Proof, verify_proof
from ledger.verify.tiles import FolderSource, open_tree
from tests.hub_server import Speaker, client
from tests.world import a_deal, a_world

PROGRAM = str(Path(sys.executable).parent / "exchange")
ORIGIN = "unseen.test/log"
READY_S = 60


@dataclass
class Running:
    """A process of ours, and the line that it printed when it was ready."""

    child: subprocess.Popen[str]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    def stop(self) -> tuple[int, str, str]:
        self.child.send_signal(signal.SIGTERM)
        out, errors = self.child.communicate(timeout=30)
        return self.child.returncode, out, errors


@contextlib.contextmanager
def running(*arguments: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    child = subprocess.Popen(
        [PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    try:
        assert child.stdout is not None and child.stderr is not None
        line = child.stdout.readline()
        if not line:
            raise AssertionError(f"did not start: {child.stderr.read()}")
        yield Running(child, json.loads(line))
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def a_hub(path: Path, *, port: int = 0, more: str = "") -> Path:
    """A hub's folder; answers its settings file."""
    made = create_hub(
        path,
        "Operator",
        ORIGIN,
        listen=f"127.0.0.1:{port}",
        public_url=None,
        relay_listen="127.0.0.1:0",
        now=SystemClock().now(),
    )
    text = made.settings.read_text()
    made.settings.write_text(text.replace("publish_interval_s = 1.0", "publish_interval_s = 0.1"))
    with made.settings.open("a") as file:
        file.write(more)
    return made.settings


def a_witness(path: Path, log_key: str) -> Path:
    return create_witness(path, "witness.test", [log_key], listen="127.0.0.1:0").settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def any_head(folder: Path) -> Policy:
    return replace(Policy.parse((folder / "policy").read_bytes()), quorum=NO_QUORUM)


def until(found: Callable[[], Any], patience_s: float = 60) -> Any:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if (value := found()) is not None:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


# Starting and stopping


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One hub for the tests that only look at it."""
    settings = a_hub(tmp_path_factory.mktemp("standing") / "hub")
    with running("hub", "--settings", str(settings)) as hub:
        yield hub


def test_the_hub_says_that_it_is_ready_and_where(standing: Running) -> None:
    assert set(standing.ready) == {"ready", "url", "relay", "party"}
    ready = httpx2.get(standing.url + "/readyz", trust_env=False)
    assert ready.json()["checks"] == ["database", "ledger", "relay"]


def test_the_operators_document_is_logged_once_and_the_hub_stops_in_order(tmp_path: Path) -> None:
    settings = a_hub(tmp_path / "hub")
    (tmp_path / "hub" / "log-recovery.key").rename(tmp_path / "offline.key")
    for _ in range(2):  # a second start says nothing new: the document, the log's keys, its policy
        with running("hub", "--settings", str(settings)) as hub:
            reader = client(hub.url, None, None, SystemClock())
            document = (tmp_path / "hub" / "party.json").read_bytes()
            assert reader.party(PartyId(hub.ready["party"])) == document
            text = until(lambda reader=reader: reader.checkpoint() or None)
            assert any_head(tmp_path / "hub").check(text.encode()).checkpoint.size == 3
            reader.close()
            code, out, errors = hub.stop()
        assert (code, out) == (0, "")
        events = [json.loads(line)["event"] for line in errors.splitlines()]
        assert "hub.ready" in events and events[-1] == "hub.stopped"


def test_settings_can_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNSEEN_HUB_FOLDER", str(tmp_path))
    monkeypatch.setenv("UNSEEN_HUB_LISTEN", "127.0.0.1:0")
    monkeypatch.setenv("UNSEEN_HUB_POLICY_FILE", str(tmp_path / "policy"))
    monkeypatch.setenv("UNSEEN_HUB_CHECKPOINT_INTERVAL_MS", "250")
    found = HubSettings.load(None)
    assert (found.folder, found.checkpoint_interval_ms) == (tmp_path, 250)


def test_a_taken_address_ends_the_start_with_a_reason(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = a_hub(tmp_path / "hub", port=taken.getsockname()[1])
        done = subprocess.run([PROGRAM, "hub", "--settings", str(settings)], capture_output=True)
    assert done.returncode == 1
    assert b"in use" in done.stderr
    assert b"Traceback" not in done.stderr


# Settings


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        ("folder = '.'\nlisten = '127.0.0.1:0'\n", "policy_file", "exchange hub init"),
        ("colour = 'red'\n", "colour", "not a setting"),
        ("folder = '.'\nlisten = 'nowhere'\npolicy_file = 'p'\n", "listen", "such as"),
        (
            "folder = '.'\nlisten = 'h:1'\npolicy_file = 'p'\ntls_key = 'k'\n",
            "settings",
            "go together",
        ),
        (
            "folder = '.'\nlisten = 'h:1'\npolicy_file = 'p'\n"
            "[[witnesses]]\nurl = 'http://w'\nvkeys = ['rubbish']\n",
            "witnesses.0.vkeys.0",
            "verifier key",
        ),
        ("folder = \n", "settings.toml", "cannot be read"),
    ],
)
def test_settings_that_do_not_do_are_named(tmp_path: Path, text: str, key: str, why: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(SettingsRefused, match=why) as refused:
        HubSettings.load(path)
    assert refused.value.key.endswith(key)


def test_an_unknown_variable_of_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = a_hub(tmp_path / "hub")
    monkeypatch.setenv("UNSEEN_HUB_COLOUR", "red")
    with pytest.raises(SettingsRefused, match="colour: is not a setting"):
        HubSettings.load(settings)


def test_witnesses_can_be_listed_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = a_hub(tmp_path / "hub")
    key = VerifierKey("witness.test", 4, SigningKey.generate().public)
    listed = json.dumps([{"url": "http://w.test", "vkeys": [str(key)]}])
    monkeypatch.setenv("UNSEEN_HUB_WITNESSES", listed)
    assert HubSettings.load(settings).witnesses[0].vkeys == (str(key),)


def test_a_log_key_that_is_not_the_named_one_stops_the_start(tmp_path: Path) -> None:
    settings = a_hub(tmp_path / "hub")
    other = VerifierKey(ORIGIN, 1, SigningKey.generate().public)
    (tmp_path / "hub" / "log.vkey").write_text(f"{other}\n")
    with pytest.raises(SettingsRefused, match="not the public half"):
        open_hub(HubSettings.load(settings))


def test_a_policy_of_another_log_stops_the_start(tmp_path: Path) -> None:
    settings = a_hub(tmp_path / "hub")
    other = VerifierKey(ORIGIN, 1, SigningKey.generate().public)
    (tmp_path / "hub" / "policy").write_text(f"log {other}\nquorum none\n")
    with pytest.raises(SettingsRefused, match="does not trust this hub's log"):
        open_hub(HubSettings.load(settings))


# The witness


def test_a_hub_has_its_heads_cosigned_by_a_witness(tmp_path: Path) -> None:
    hub_settings = a_hub(tmp_path / "hub")
    log_key = (tmp_path / "hub" / "log.vkey").read_text().strip()
    with running("witness", "--settings", str(a_witness(tmp_path / "w", log_key))) as witness:
        ed, ml = witness.ready["vkeys"]
        assert ed == (tmp_path / "w" / "witness.vkey").read_text().strip()
        assert ml == (tmp_path / "w" / "witness-ml-dsa.vkey").read_text().strip()
        (tmp_path / "hub" / "policy").write_text(
            f"log {log_key}\nwitness w1 {ed} {witness.url}\nwitness w2 {ml}\n"
            "group w all w1 w2\nquorum w\n"
        )
        with hub_settings.open("a") as file:
            file.write(f'[[witnesses]]\nurl = "{witness.url}"\nvkeys = ["{ed}", "{ml}"]\n')
        with running("hub", "--settings", str(hub_settings)) as hub:
            speaker = Speaker.new(tmp_path / "speaker", hub.url, SystemClock())
            said = speaker.register()
            policy = Policy.parse((tmp_path / "hub" / "policy").read_bytes())

            def witnessed() -> Proof | None:
                text = speaker.hub.receipt(said.digest)
                if text is None or "witness.test" not in text:
                    return None
                return Proof.parse(text)

            verify_proof(until(witnessed), said.entry, policy)
            speaker.hub.close()
        assert httpx2.get(witness.url + "/", trust_env=False).text.count(ORIGIN) >= 1
        assert witness.stop()[0] == 0


def test_a_witness_that_lost_its_memory_does_not_start(tmp_path: Path) -> None:
    a_hub(tmp_path / "hub")
    settings = a_witness(tmp_path / "w", (tmp_path / "hub" / "log.vkey").read_text().strip())
    (tmp_path / "w" / "witness.db").unlink()
    with pytest.raises(SettingsRefused, match="holds no witness"):
        run_witness(WitnessSettings.load(settings), announce=lambda _: None)


def test_a_hub_that_a_witness_contradicts_signs_nothing_more_and_says_so(tmp_path: Path) -> None:
    opened = open_hub(HubSettings.load(a_hub(tmp_path / "hub")))
    settings = HubSettings.load(tmp_path / "hub" / "settings.toml")

    class Contradicting:
        key = VerifierKey("witness.test", 4, SigningKey.generate().public)
        keys = (key,)

        def add_checkpoint(self, *_: object) -> Any:
            raise WitnessDisagrees("it holds another root of size 1: the log has forked")

    keeping = replace(opened.keeping, witnesses=[Contradicting()])  # type: ignore[list-item]
    opened = replace(opened, keeping=keeping)
    _contradicted(opened, settings, "forked")


def test_a_hub_whose_log_was_tampered_with_signs_nothing_more_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = HubSettings.load(a_hub(tmp_path / "hub"))
    opened = open_hub(settings)

    def diverged(*_: object) -> bool:
        raise LogDiverged("the stored tree does not have the root that was signed")

    monkeypatch.setattr(background, "order", diverged)
    _contradicted(opened, settings, "root that was signed")


def test_a_hub_keeps_static_files_and_refuses_a_database_that_is_older_than_they(
    tmp_path: Path,
) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log/checkpoint").touch()
    path = a_hub(tmp_path / "hub")
    path.write_text(
        path.read_text().replace("# tiles_folder", f'tiles_folder = "{tmp_path}/log" #')
    )
    settings = HubSettings.load(path)
    opened = open_hub(settings)
    with loops_of(opened, settings) as loops:
        loops.start()
        note = until(lambda: _note(tmp_path / "log"))
    head = any_head(tmp_path / "hub").check(note).checkpoint
    tree = open_tree(FolderSource(tmp_path / "log"), head)
    assert len(list(tree.entries())) == head.size >= 1
    opened.close()
    for file in (tmp_path / "hub").glob("hub.db*"):  # an old backup: from before the first entry
        file.unlink()
    _contradicted(open_hub(settings), settings, "is an old copy")
    assert _note(tmp_path / "log") == note


def test_a_hub_whose_disk_for_static_files_is_not_mounted_waits_for_it_and_says_so(
    tmp_path: Path,
) -> None:
    path, files = a_hub(tmp_path / "hub"), tmp_path / "log"
    files.mkdir()  # the mount point
    path.write_text(path.read_text().replace("# tiles_folder", f'tiles_folder = "{files}" #'))
    opened = open_hub(HubSettings.load(path))
    with loops_of(opened, HubSettings.load(path)) as loops:
        loops.start()
        assert "mount its disk" in until(lambda: opened.fault.waiting)
        assert list(files.iterdir()) == []
        (files / "checkpoint").touch()
        until(lambda: _note(files))
        assert opened.fault.waiting is None
    opened.close()


def _note(folder: Path) -> bytes | None:
    file = folder / "checkpoint"
    return (file.read_bytes() or None) if file.exists() else None


def _contradicted(opened: wiring.OpenedHub, settings: HubSettings, words: str) -> None:
    with loops_of(opened, settings) as loops:
        loops.start()
        said = until(lambda: opened.fault.words)
    assert said.startswith("the ledger is not signed any more") and words in said
    database = SqlLogDatabase(opened.engine)
    with database.transaction() as log:
        before = log.latest()
    with loops_of(opened, settings) as again:
        again.start()
        time.sleep(0.3)
    with database.transaction() as log:
        assert log.latest() == before
    opened.close()


def test_a_loop_outlives_a_failing_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "PAUSE_AFTER_FAILURE_S", 0.01)
    rounds: list[int] = []
    done = threading.Event()

    def step() -> bool:
        rounds.append(1)
        if len(rounds) < 3:
            raise RuntimeError("the database is away")
        done.set()
        return False

    loop = Loop("test", step, 0.01)
    loop.start()
    assert done.wait(10)
    loop.stop()
    loop.join()


def test_a_hub_that_starts_moves_what_fell_due_before_it_signs_and_asks_no_witness_till_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that lacks a refund long due is an auditor's evidence against the operator. One job
    that cannot be moved holds up no head."""
    settings = HubSettings.load(a_hub(tmp_path / "hub"))
    done: list[tuple[str, int]] = []

    def recorded(name: str) -> None:
        real = getattr(background, name)

        def step(*arguments: object) -> object:
            found = real(*arguments)
            done.append((name, threading.get_ident()))
            if name == "move_jobs":
                raise ExceptionGroup("jobs that could not be moved", [RuntimeError("one of them")])
            return found

        monkeypatch.setattr(background, name, step)

    for name in ("move_jobs", "order", "publish"):
        recorded(name)
    with loops_of(open_hub(settings), settings) as loops:
        loops.start()
        until(lambda: any(name == "publish" for name, _ in done) or None)
    ordering = next(thread for name, thread in done if name == "order")
    assert [name for name, thread in done if thread == ordering][:2] == ["move_jobs", "order"]
    first = {name: [each for each, _ in done].index(name) for name, _ in done}
    assert first["move_jobs"] < first["order"] < first["publish"]


def test_a_hub_whose_database_was_away_moves_what_fell_due_into_its_next_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = HubSettings.load(a_hub(tmp_path / "hub"))
    hub = open_hub(settings)
    order, move_jobs = background.order, background.move_jobs
    done: list[str] = []

    def ordering(*arguments: Any) -> bool:
        done.append("goes on" if hub.keeping.known.caught_up else "takes in all")
        if done[-1] == "goes on" and done.count("goes on") == 1:
            raise OSError("the database is away")
        return order(*arguments)

    def moving(*arguments: Any) -> Any:
        if threading.current_thread().name == "ledger":
            done.append("moves")
        return move_jobs(*arguments)

    monkeypatch.setattr(background, "order", ordering)
    monkeypatch.setattr(background, "move_jobs", moving)
    with loops_of(hub, settings) as loops:
        loops.start()
        until(lambda: done.count("goes on") > 1 or None)
    assert done[:6] == ["moves", "takes in all", "goes on", "moves", "takes in all", "goes on"]


# The relay


def test_the_relay_serves_no_session_that_no_job_runs(standing: Running, tmp_path: Path) -> None:
    one = Speaker.new(tmp_path / "one", standing.url, SystemClock())
    one.register()
    host, port = standing.ready["relay"].split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.settimeout(10)
        connection.sendall(_dial(one))
        assert connection.recv(200) == b"refused unknown-session\n"
    one.hub.close()


def _dial(speaker: Speaker) -> bytes:
    dial = RelayDial(
        v=1,
        session=digest(b"no session"),
        party=speaker.id,
        peer=PartyId("pty_" + "0" * 32),
        role=DialRole.PARK,
        time=SystemClock().now(),
        nonce=SystemRandomness().draw(16),
    )
    return sign_dial(dial, speaker.folder.signing)


def test_the_relay_joins_holders_of_a_job_from_its_admission_to_its_end(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    deal = a_deal(world)
    sessions = Sessions(world.store)
    job = deal.submit()
    world.settle()
    clinic, lab, research = (world.members[name] for name in ("clinic", "lab", "research"))
    session = session_name(world.service.job(research.id, job).job.plan, job)
    assert not sessions.allowed(session, clinic.id, lab.id)  # nobody has admitted it
    for holder in (clinic, lab):
        holder.desk.approve(job)
        holder.node.work()
    assert world.service.job(research.id, job).job.state is JobState.ADMITTED
    assert sessions.allowed(session, clinic.id, lab.id)
    assert sessions.allowed(session, lab.id, clinic.id)
    assert not sessions.allowed(session, clinic.id, clinic.id)
    assert not sessions.allowed(session, clinic.id, research.id)
    assert not sessions.allowed(digest(b"another session"), clinic.id, lab.id)
    world.settle()
    assert world.service.job(research.id, job).job.state is JobState.RELEASED
    assert not sessions.allowed(session, clinic.id, lab.id)


# Killed


@pytest.mark.parametrize(
    "round_", [1, *(pytest.param(more, marks=pytest.mark.slow) for more in range(2, 8))]
)
def test_a_hub_killed_during_submissions_loses_nothing_and_its_log_only_grows(
    tmp_path: Path, round_: int
) -> None:
    port = free_port()
    settings = a_hub(tmp_path / "hub", port=port)
    url = f"http://127.0.0.1:{port}"
    policy = any_head(tmp_path / "hub")
    answered: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    stop = threading.Event()

    def talk(number: int) -> None:
        """Says one thing after the other, each until it is answered, as a node's outbox does."""
        speaker = speakers[number]
        while not stop.is_set():
            words = f"number {len(answered[number])}"
            act = speaker.signed(alarmed(speaker.id, kind="Test", words=words))
            while True:
                try:
                    speaker.hub.submit(act.entry, [])
                    break
                except HubUnreachable:
                    if stop.is_set():
                        return
                    time.sleep(0.05)
            speaker.head = act.head
            answered[number].append(act)

    with ExitStack() as stack:
        with running("hub", "--settings", str(settings)) as hub:
            speakers = [Speaker.new(tmp_path / f"s{n}", url, SystemClock()) for n in range(3)]
            for speaker in speakers:
                stack.callback(speaker.hub.close)
                speaker.register()
            threads = [threading.Thread(target=talk, args=(n,)) for n in range(3)]
            for thread in threads:
                thread.start()
            until(lambda: sum(map(len, answered.values())) >= 5 * round_ or None)
            seen = until(lambda: speakers[0].hub.checkpoint() or None)
            hub.child.kill()
            hub.child.wait()
        count = sum(map(len, answered.values()))
        with running("hub", "--settings", str(settings)):
            until(lambda: sum(map(len, answered.values())) >= count + 6 or None)
            stop.set()
            for thread in threads:
                thread.join()
            for number, speaker in enumerate(speakers):
                assert speaker.hub.chain() == speaker.head or (
                    speaker.hub.chain().next_seq == speaker.head.next_seq + 1
                )  # the one after may be in, its answer not out
                for statement in answered[number]:
                    text = until(lambda s=statement: speakers[0].hub.receipt(s.digest))
                    verify_proof(Proof.parse(text), statement.entry, policy)
            old = policy.check(seen.encode()).checkpoint
            new = policy.check(speakers[0].hub.checkpoint().encode()).checkpoint
            hashes = speakers[0].hub.consistency(old.size, new.size)
            verify_consistency(old.size, old.root, new.size, new.root, hashes)


def test_what_waits_to_be_published_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """A witness that never answers: the hub still stops in order."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        key = VerifierKey("witness.test", 4, SigningKey.generate().public)
        settings = a_hub(
            tmp_path / "hub",
            more=f'[[witnesses]]\nurl = "http://127.0.0.1:{silent.getsockname()[1]}"\n'
            f'vkeys = ["{key}"]\n',
        )
        with running("hub", "--settings", str(settings)) as hub:
            time.sleep(0.5)
            assert hub.stop()[0] == 0
