"""Making a participant, and running its node as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.folder import FolderBusy, PartyFolder
from api.participant import Wishes, create
from api.settings import NodeSettings, SettingsRefused
from crypto.errors import KeyFileRefused
from crypto.keys import SigningKey
from crypto.ports import SystemClock
from ledger.verify.note import LOG_SIGNATURE, VerifierKey
from registry.party import Role, endorse, require_successor

OPERATOR = "pty_" + "1" * 32
KEYS = ("identity.key", "signing.key", "sealing.key", "agreement.key", "tls.pem")


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    key = VerifierKey("unseen.test/log", LOG_SIGNATURE, SigningKey.generate().public)
    file = tmp_path / "policy"
    file.write_text(f"log {key}\nquorum none\n")
    return file


def exchange(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("UNSEEN_", "LC_"))}
    return subprocess.run(
        [sys.executable, "-c", "from api.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "LANG": "C.UTF-8", **variables},
    )


def wishes(policy: Path, **changes: object) -> Wishes:
    asked = {
        "name": "Clinic",
        "roles": [Role.HOLDER, Role.CONSUMER],
        "hub_url": "https://hub.test",
        "operator": OPERATOR,
        "policy": policy,
        **changes,
    }
    return Wishes(**asked)  # type: ignore[arg-type]


def made(path: Path, wished: Wishes) -> PartyFolder:
    return create(path, wished, now=SystemClock().now(), explain=lambda name: f"about {name}")


def test_init_makes_a_folder_from_which_a_node_can_start(tmp_path: Path, policy: Path) -> None:
    ran = exchange(
        "init", tmp_path / "clinic", "--name", "诊所 [1]", "--role", "holder",
        "--hub", "https://hub.test", "--operator", OPERATOR, "--policy", policy,
        "--registrar", SigningKey.generate().public, "--relay", "hub.test:7443",
        "--proxy-url", "http://proxy.test:3128", "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)
    folder = PartyFolder(tmp_path / "clinic")
    assert document["party"] == folder.party.document.party
    assert document["fingerprint"] == folder.party.document.identity.fingerprint
    for name in KEYS:
        assert (folder.path / name).stat().st_mode & 0o777 == 0o600
    assert folder.path.stat().st_mode & 0o777 == 0o700
    settings = NodeSettings.load(Path(document["settings"]))
    assert settings.folder.resolve() == folder.path.resolve()
    assert settings.policy_file.read_bytes() == policy.read_bytes()
    assert (settings.relay, len(settings.registrars)) == ("hub.test:7443", 1)


def test_the_settings_file_explains_every_setting_and_holds_no_other(
    tmp_path: Path, policy: Path
) -> None:
    made(tmp_path / "clinic", wishes(policy))
    text = (tmp_path / "clinic" / "settings.toml").read_text()
    for name in NodeSettings.model_fields:
        assert f"# about {name}\n" in text
        assert (
            f"\n{name} = " in text or f"\n# {name} = " in text or text.startswith(f"# about {name}")
        )
    uncommented = text.replace("\n# ", "\n")
    lines = [line for line in uncommented.split("\n") if not line.startswith("about")]
    assert set(tomllib.loads("\n".join(lines[1:]))) == set(NodeSettings.model_fields)


def test_a_participant_is_made_once(tmp_path: Path, policy: Path) -> None:
    folder = made(tmp_path / "clinic", wishes(policy))
    before = folder.party
    with pytest.raises(SettingsRefused, match="exists"):
        made(tmp_path / "clinic", wishes(policy))
    (tmp_path / "clinic" / "settings.toml").unlink()
    (tmp_path / "clinic" / "policy").unlink()
    with pytest.raises((SettingsRefused, KeyFileRefused), match="exists"):
        made(tmp_path / "clinic", wishes(policy))
    assert folder.party == before


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"hub_url": "hub.test"}, "hub_url"),
        ({"operator": "operator"}, "operator"),
        ({"registrars": ["key"]}, "registrars"),
        ({"relay": "hub.test"}, "relay"),
        ({"link_listen": "[::1"}, "link_listen"),
        ({"proxy_url": "https://user:secret@proxy.test:1"}, "proxy_url"),
        ({"ca_file": Path("absent.pem")}, "ca_file"),
        ({"name": "two\nlines"}, "name"),
    ],
)
def test_what_is_wrong_is_named_before_a_key_is_made(
    changes: dict[str, object], where: str, tmp_path: Path, policy: Path
) -> None:
    with pytest.raises(SettingsRefused) as refused:
        made(tmp_path / "clinic", wishes(policy, **changes))
    assert refused.value.key == where
    assert "secret" not in str(refused.value)
    assert not (tmp_path / "clinic").exists()


def test_a_policy_that_is_none_is_refused(tmp_path: Path, policy: Path) -> None:
    policy.write_text("trust everybody\n")
    ran = exchange(
        "init", tmp_path / "clinic", "--name", "Clinic", "--role", "holder",
        "--hub", "https://hub.test", "--operator", OPERATOR, "--policy", policy,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "policy_file" in ran.stderr and ran.stdout == ""


def test_a_command_without_settings_says_what_makes_them() -> None:
    ran = exchange("node", "jobs")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "exchange init" in ran.stderr
    missing = exchange("party", "show", "--settings", "absent.toml")
    assert missing.returncode == 2 and "exchange init" in missing.stderr
    named = exchange("party", "show", UNSEEN_SETTINGS="absent.toml")
    assert named.returncode == 2 and "absent.toml" in named.stderr


def test_another_party_document_is_not_taken_over(tmp_path: Path, policy: Path) -> None:
    mine = made(tmp_path / "clinic", wishes(policy))
    other = made(tmp_path / "lab", wishes(policy, name="Lab"))
    endorsed = endorse(mine.party, SigningKey.generate())
    mine.keep(endorsed)
    assert mine.party == endorsed
    with pytest.raises(Exception, match="another document"):
        other.keep(endorsed)


@contextmanager
def running_node(settings: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", "from api.cli import main; main()", "node", "--settings", settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def test_a_node_waits_for_its_hub_alone_in_its_folder_and_stops_when_told(
    tmp_path: Path, policy: Path
) -> None:
    """Nothing listens at the address: the node says so on stderr and goes on trying."""
    folder = made(
        tmp_path / "company", wishes(policy, roles=[Role.CONSUMER], hub_url="http://127.0.0.1:9")
    )
    settings = folder.path / "settings.toml"
    with running_node(settings) as child:
        assert child.stderr is not None and child.stdout is not None
        said = next(line for line in child.stderr if "hub.unreachable" in line)
        assert "127.0.0.1" in said
        with pytest.raises(FolderBusy), folder.alone():
            pass
        second = exchange("node", "--settings", settings)
        assert second.returncode == 1 and "stop it" in second.stderr
        status = exchange("node", "status", "--settings", settings, "--json")
        found = json.loads(status.stdout)
        assert (found["node_running"], found["hub_reachable"]) == (True, False)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        assert child.stdout.read() == ""
    with folder.alone():
        assert (folder.path / "node.db").stat().st_mode & 0o777 == 0o600


def test_a_participant_says_at_once_who_controls_it_or_declares_it_later(
    tmp_path: Path, policy: Path
) -> None:
    owner, other = "91440300708461136T", "12100000400000624D"
    folder = made(tmp_path / "clinic", wishes(policy, controller=owner))
    assert folder.party.document.controller == owner
    before = folder.party
    after = folder.declare(other, now=SystemClock().now())
    assert after.document.controller == other
    assert after.document.signing == before.document.signing == folder.signing.public
    require_successor(after, before)
    with pytest.raises(SettingsRefused, match="controller"):
        made(tmp_path / "lab", wishes(policy, controller=owner[:-1] + "0"))
    assert not (tmp_path / "lab").exists()
