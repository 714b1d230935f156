"""The auditor's guide is true: its programs accept our log, and refuse it with a bit flipped."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exchange.audit.__main__ import main as exchange_audit
from exchange.audit.alerts import Kind
from ledger import copies
from ledger.verify.__main__ import main as ledger_verify
from ledger.verify.tile_names import CHECKPOINT
from tests.integration.test_audit_follow import HubSource
from tests.world import World, a_world

GUIDE = (Path(__file__).parents[2] / "docs" / "auditing.md").read_text("utf-8")


def program(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return a_world(tmp_path_factory.mktemp("guide"))


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    copies.mirror(tmp_path / "copy", HubSource(world), world.policy)
    (tmp_path / "log.vkey").write_text(f"{world.policy.log_keys[0]}\n", "utf-8")
    return tmp_path


def by_hand(folder: Path) -> bool:
    ran = subprocess.run(
        [sys.executable, "-c", program("python"), "copy"], cwd=folder, capture_output=True
    )
    return ran.returncode == 0


def by_openssl(folder: Path) -> bool:
    ran = subprocess.run(
        ["sh", "-e", "-c", program("sh")], cwd=folder, capture_output=True, text=True
    )
    return ran.returncode == 0 and "Verified Successfully" in ran.stdout


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_the_program_in_python_recomputes_the_root_and_notices_a_flipped_bit(folder: Path) -> None:
    assert by_hand(folder)
    (bundle,) = (path for path in (folder / "copy/tile/entries").rglob("*") if path.is_file())
    flip(bundle, 40)
    assert not by_hand(folder)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_the_shell_commands_verify_the_heads_signature_and_notice_another_size(
    folder: Path,
) -> None:
    assert by_openssl(folder)
    note = (folder / "copy" / CHECKPOINT).read_text("utf-8")
    lines = note.split("\n")
    lines[1] = str(int(lines[1]) + 1)
    (folder / "copy" / CHECKPOINT).write_text("\n".join(lines), "utf-8")
    assert not by_openssl(folder)


def test_every_kind_of_alert_and_every_command_of_the_programs_is_in_the_guide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in Kind:
        assert f"`{kind.value}`" in GUIDE, kind
    for run, name in ((exchange_audit, "exchange.audit"), (ledger_verify, "ledger.verify")):
        with pytest.raises(SystemExit):
            run(["--help"])
        (commands,) = re.findall(r"\{([a-z,]+)\}", capsys.readouterr().out.split("\n\n")[0])
        for command in commands.split(","):
            assert f"python -m {name} {command} " in GUIDE, command
