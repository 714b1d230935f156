"""The command line of those who run the hub and the witness."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from api.cli import main as program
from api.cli.output import FAMILIES, Exit, exit_code
from api.cli.words import ENGLISH
from api.folder import PartyFolder
from api.http.server import serving
from api.settings import HubSettings
from api.wiring.hub import open_hub
from crypto.errors import Malformed
from crypto.ports import SystemClock
from exchange.errors import BookkeepingBehind, HubUnreachable, NotYours, PlanRefused
from exchange.hub import background
from ledger.copies import publish_files
from ledger.tiles import LogSource
from ledger.verify.note import VerifierKey
from registry.errors import NotFound
from tests.hub_server import Speaker, hub_app

PROGRAM = str(Path(sys.executable).parent / "exchange")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """One command in this process: its exit code and what it printed."""
    capsys.readouterr()
    before = sys.argv
    sys.argv = ["exchange", *arguments]
    try:
        program()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def made(capsys: pytest.CaptureFixture[str], path: Path, *more: str) -> dict[str, str]:
    arguments = ["hub", "init", str(path), "--name", "Operator", "--origin", "unseen.test/log"]
    code, out, err = run(capsys, *arguments, *more, "--json")
    assert code == 0, err
    found: dict[str, str] = json.loads(out)
    return found


# Every command


def test_help_names_every_command_and_imports_none_of_them() -> None:
    script = (
        "import sys; sys.argv = ['exchange', '--help']\n"
        "from api.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'fastapi', 'starlette', 'sqlalchemy', 'numpy', 'pydantic', 'httpx2'}\n"
        "from api.cli.main import COMMANDS\n"
        "heavy |= {target.split(':')[0] for target in COMMANDS.values()}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    for name in import_module("api.cli.main").COMMANDS:
        assert name in done.stdout
    for code in Exit:
        meaning = ENGLISH[f"exit.{code.value}"]
        assert f"{code.value}  {meaning.split(';')[0]}"[:20] in done.stdout


def test_an_unknown_command_is_a_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "hbu")
    assert (code, out) == (Exit.USAGE, "")
    assert "hbu" in err


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_with_an_exit_code_exists(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert issubclass(getattr(import_module(module), kind), BaseException)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlanRefused("runs", "all are used"), Exit.REFUSED),
        (NotYours("no part"), Exit.REFUSED),
        (HubUnreachable("away"), Exit.UNREACHABLE),
        (TimeoutError(), Exit.UNREACHABLE),
        (ConnectionRefusedError(), Exit.UNREACHABLE),
        (FileNotFoundError(), Exit.FAILED),
        (Malformed("field", "is wrong"), Exit.FAILED),
        (NotFound("party"), Exit.FAILED),
        (ZeroDivisionError(), None),
    ],
)
def test_the_nearest_family_decides_the_exit_code(error: Exception, code: Exit | None) -> None:
    assert exit_code(error) == code


# The operator's and the witness's folders


def test_an_operators_folder_is_all_that_its_hub_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(capsys, tmp_path / "hub", "--relay-listen", "127.0.0.1:0")
    settings = HubSettings.load(Path(found["settings"]))
    hub = open_hub(settings)
    assert hub.operator.party == found["party"]
    assert str(hub.keeping.policy.log_keys[0]) == found["log_vkey"]
    identity = PartyFolder(tmp_path / "hub").party.document.identity
    assert identity.fingerprint == found["fingerprint"]
    assert (tmp_path / "hub" / "log.vkey").read_text().strip() == found["log_vkey"]
    for secret in ("log.key", "log-recovery.key", "identity.key", "signing.key"):
        assert (tmp_path / "hub" / secret).stat().st_mode & 0o777 == 0o600
    hub.close()


def test_a_folder_in_use_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(capsys, tmp_path / "hub")
    before = {path: path.read_bytes() for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    arguments = ["hub", "init", str(tmp_path / "hub"), "--name", "Other", "--origin", "o/log"]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert "exists" in err
    assert {
        path: path.read_bytes() for path in (tmp_path / "hub").rglob("*") if path.is_file()
    } == before


@pytest.mark.parametrize("origin", ["two words", "plus+sign", ""])
def test_a_log_name_that_cannot_be_makes_no_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    arguments = ["hub", "init", str(tmp_path / "hub"), "--name", "Operator", "--origin", origin]
    code, _, err = run(capsys, *arguments)
    assert code == Exit.USAGE
    assert "origin" in err
    assert not (tmp_path / "hub").exists()


def test_a_witnesses_folder_is_made_for_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_key = made(capsys, tmp_path / "hub")["log_vkey"]
    arguments = ["witness", "init", str(tmp_path / "w"), "--name", "witness.test", "--log"]
    code, out, _ = run(capsys, *arguments, log_key, "--json")
    assert code == 0
    vkeys = json.loads(out)["vkeys"]
    assert [VerifierKey.parse(text).name for text in vkeys] == ["witness.test", "witness.test"]
    for name in ("witness.key", "witness-ml-dsa.key"):
        assert stat.S_IMODE((tmp_path / "w" / name).stat().st_mode) == 0o600
    code, out, err = run(capsys, *arguments[:2], str(tmp_path / "w2"), *arguments[3:], "rubbish")
    assert (code, out) == (Exit.USAGE, "")
    assert "logs" in err
    assert not (tmp_path / "w2").exists()


@pytest.mark.parametrize("name", ["hub", "witness"])
def test_a_process_without_settings_says_what_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("UNSEEN_SETTINGS", raising=False)
    code, out, err = run(capsys, name)
    assert (code, out) == (Exit.USAGE, "")
    assert "folder: is missing" in err
    assert f"exchange {name} init" in err


def test_a_settings_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "hub", "--settings", str(tmp_path / "nothing.toml"))
    assert code == Exit.USAGE
    assert "nothing.toml" in err


# Deposits


@contextmanager
def a_running_hub(settings: Path) -> Iterator[str]:
    hub = open_hub(HubSettings.load(settings))
    with serving(hub_app(hub.service, hub.engine, SystemClock())) as running:
        yield running.url
    hub.close()


def test_the_operator_funds_a_party_once_per_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = made(capsys, tmp_path / "hub")["settings"]
    with a_running_hub(Path(settings)) as url:
        speaker = Speaker.new(tmp_path / "speaker", url, SystemClock())
        speaker.register()
        arguments = ["hub", "fund", speaker.id, "700", "TEST", "--key", "bank-0001"]
        arguments += ["--settings", settings, "--url", url]
        answers = [run(capsys, *arguments, "--json") for _ in range(2)]
        assert [code for code, _, _ in answers] == [0, 0]
        assert answers[0][1] == answers[1][1]
        assert json.loads(answers[0][1])["amount_minor"] == "700"
        assert speaker.hub.balance("TEST").available_minor == 700
        code, out, err = run(capsys, *arguments[:3], "800", *arguments[4:])
        assert (code, out) == (Exit.REFUSED, "")
        assert "different request" in err
        speaker.hub.close()


def test_funding_at_a_hub_that_is_away_can_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.client.transport.ATTEMPTS", 1)
    found = made(capsys, tmp_path / "hub", "--listen", "127.0.0.1:9")
    arguments = ["hub", "fund", found["party"], "700", "TEST", "--key", "bank-0001"]
    code, out, err = run(capsys, *arguments, "--settings", found["settings"])
    assert (code, out) == (Exit.UNREACHABLE, "")
    assert "127.0.0.1:9" in err


def test_funding_asks_for_a_party_and_a_positive_amount(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(capsys, tmp_path / "hub")
    for party, amount in (("nobody", "700"), (found["party"], "0"), (found["party"], "1.5")):
        arguments = ["hub", "fund", party, amount, "TEST", "--key", "bank-0001"]
        code, out, _ = run(capsys, *arguments, "--settings", found["settings"])
        assert code in (Exit.FAILED, Exit.USAGE)
        assert out == ""


# Recovery


def test_a_restored_database_gets_its_ledger_back_and_is_not_worked_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Path(made(capsys, tmp_path / "hub")["settings"])
    opened = open_hub(HubSettings.load(settings))
    background.order(opened.store, opened.operator, opened.keeping)
    background.publish(opened.operator, opened.keeping)
    (tmp_path / "files").mkdir()
    (tmp_path / "files/checkpoint").touch()
    policy = opened.keeping.policy
    filed = publish_files(
        tmp_path / "files",
        LogSource(opened.keeping.database),
        lambda note: policy.check(note).checkpoint,
    )
    assert filed is not None
    size = filed.checkpoint.size
    opened.close()
    copying = ["audit", "mirror", str(tmp_path / "files"), str(tmp_path / "copy")]
    copying += ["--policy", str(settings.parent / "policy")]
    code, out, err = run(capsys, *copying, "--json")
    assert code == 0, err
    assert (json.loads(out)["size"], json.loads(out)["old_size"]) == (size, 0)
    code, out, _ = run(capsys, *copying)
    assert (code, "(0 new)" in out) == (0, True)
    for file in settings.parent.glob("hub.db*"):
        file.unlink()
    restore = ["hub", "restore", "--from", str(tmp_path / "copy"), "--settings", str(settings)]
    code, out, err = run(capsys, *restore, "--json")
    assert code == 0, err
    assert json.loads(out) == {"old_size": 0, "size": size, "entries": size, "repaired": []}
    code, out, _ = run(capsys, *restore)
    assert (code, out) == (
        0,
        f"The ledger holds {size} entries, 0 of them from {tmp_path / 'copy'}.\n",
    )
    with pytest.raises(BookkeepingBehind) as caught:
        open_hub(HubSettings.load(settings))
    assert caught.value.unknown == size
    assert exit_code(caught.value) == Exit.FAILED


def test_a_copy_that_is_damaged_restores_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = made(capsys, tmp_path / "hub")["settings"]
    (tmp_path / "copy").mkdir()
    restore = ["hub", "restore", "--from", str(tmp_path / "copy"), "--settings", settings]
    code, out, err = run(capsys, *restore)
    assert (code, out) == (Exit.UNREACHABLE, "")
    assert "checkpoint is missing" in err
