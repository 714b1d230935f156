"""A full copy with the party documents that it announces is audited with nobody left to ask."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from api.cli import main as program
from api.folder import PartyFolder
from crypto.digest import Digest
from crypto.keys import SigningKey
from crypto.ports import SystemClock
from exchange.audit.__main__ import main as audit
from exchange.audit.kept import MAX_SILENCE, Kept, keep_documents
from exchange.audit.whole import FolderDocuments, HttpDocuments, audit_whole_log, documents_beside
from ledger.copies import mirror
from ledger.errors import SourceUnreachable, TileRefused
from ledger.verify.report import Report
from ledger.verify.tiles import FolderSource
from registry.party import endorse
from tests.announcing_log import AnnouncingLog
from tests.hub_server import Speaker
from tests.integration.test_audit_log import alone
from tests.integration.test_wiring_hub import a_hub, any_head, running, until


class Asked:
    """Documents that are served, and which were asked for."""

    def __init__(self, folder: Path) -> None:
        self.source = FolderDocuments(folder)
        self.names: list[Digest] = []

    def read(self, name: Digest) -> bytes | None:
        self.names.append(name)
        return self.source.read(name)


class Silent(Asked):
    """Gives no answer about some, or about any."""

    def __init__(self, folder: Path, about: Sequence[Digest] | None = None) -> None:
        super().__init__(folder)
        self.about = about

    def read(self, name: Digest) -> bytes | None:
        found = super().read(name)
        if self.about is None or name in self.about:
            raise SourceUnreachable("the line is dead")
        return found


@pytest.fixture
def log(tmp_path: Path) -> AnnouncingLog:
    found = AnnouncingLog(tmp_path)
    found.joins("hub")
    found.joins("clinic")
    found.speaks("clinic", 3)
    found.publish()
    return found


def copied(log: AnnouncingLog) -> tuple[Kept, Sequence[Digest]]:
    """The copy brought up to date. What it has of documents now, and which it asked for."""
    done = mirror(log.folder / "copy", FolderSource(log.log.folder), log.log.policy)
    asked = Asked(log.served)
    return keep_documents(log.folder / "copy", done.checkpoint, asked), asked.names


def audited(log: AnnouncingLog) -> Report:
    copy = log.folder / "copy"
    return audit_whole_log(
        str(copy), log.log.policy, log.roots, FolderDocuments(copy / "documents")
    )


def unsigned(report: Report) -> list[str]:
    return [check.subject for check in report.not_opened if check.id == "entry.signed"]


def test_a_copy_with_its_documents_opens_every_signature(log: AnnouncingLog) -> None:
    log.rotates("clinic")
    log.speaks("clinic")
    log.publish()
    kept, _ = copied(log)
    assert (kept.announced, kept.new, kept.missing) == (3, 3, {})
    report = audited(log)
    assert (report.failed, unsigned(report)) == ((), [])
    (signed,) = [check for check in report.passed if check.id == "entry.signed"]
    assert signed.note is not None and signed.note.facts["count"] == str(len(log.entries))
    for file in log.served.iterdir():
        assert (kept.folder / file.name).read_bytes() == file.read_bytes()


def test_what_is_kept_is_not_asked_for_again_and_old_entries_are_not_read_again(
    log: AnnouncingLog,
) -> None:
    log.speaks("clinic", 300)
    log.publish()
    copied(log)
    first = log.folder / "copy/tile/entries/000"
    whole = first.read_bytes()
    first.write_bytes(b"damaged")  # whoever reads it again says so
    lab = log.joins("lab")
    log.publish()
    kept, asked = copied(log)
    assert (kept.announced, kept.new, asked) == (3, 1, [lab])
    assert copied(log) == (Kept(kept.folder, 3, 0, {}), [])
    (kept.folder / "announced").unlink()
    with pytest.raises(TileRefused, match="tile/entries/000"):
        copied(log)
    first.write_bytes(whole)
    assert copied(log) == (Kept(kept.folder, 3, 0, {}), [])


@pytest.mark.parametrize("remains", [b"", b"{}", b'{"v":1'])
def test_a_damaged_list_of_what_is_announced_is_made_again(
    log: AnnouncingLog, remains: bytes
) -> None:
    kept, _ = copied(log)
    (kept.folder / "announced").write_bytes(remains)
    (kept.folder / log.parties["clinic"].party.digest.raw.hex()).unlink()
    assert copied(log) == (Kept(kept.folder, 2, 1, {}), [log.parties["clinic"].party.digest])


def test_a_missing_document_is_named_and_asked_for_until_it_is_served(log: AnnouncingLog) -> None:
    name = log.parties["clinic"].party.digest
    file = log.served / name.raw.hex()
    file.rename(log.folder / "withheld")
    for new in (1, 0):
        kept, asked = copied(log)
        assert (kept.announced, kept.new, kept.missing) == (2, new, {name: 1})
        assert name in asked
    assert len(unsigned(audited(log))) == 4
    (log.folder / "withheld").rename(file)
    assert copied(log) == (Kept(kept.folder, 2, 1, {}), [name])
    assert unsigned(audited(log)) == []


def test_no_other_bytes_are_kept_in_a_documents_place(log: AnnouncingLog) -> None:
    party = log.parties["clinic"].party
    file = log.served / party.digest.raw.hex()
    genuine = file.read_bytes()
    stranger = party.envelope.with_signature(SigningKey.generate()).signatures
    ((_, spoilt),) = [one for one in stranger if one not in party.envelope.signatures]
    forged = type(party.envelope)(
        party.envelope.payload_type,
        party.envelope.payload,
        ((party.envelope.signatures[0][0], spoilt),),  # a digest names the payload alone
    )
    other = log.parties["hub"].party.envelope
    for served in (b"", b"rubbish", genuine[:-1], forged.to_bytes(), other.to_bytes()):
        file.write_bytes(served)
        kept, _ = copied(log)
        assert kept.missing == {party.digest: 1}, served
        assert not (kept.folder / file.name).exists()
    file.write_bytes(b"{" + b" " * (1 << 21))  # more than any document can have
    assert copied(log)[0].missing == {party.digest: 1}
    file.write_bytes(endorse(party, SigningKey.generate()).envelope.to_bytes())
    assert copied(log)[0].missing == {}


def test_without_an_answer_the_log_is_copied_and_the_documents_are_had_next_time(
    log: AnnouncingLog,
) -> None:
    copy = log.folder / "copy"
    done = mirror(copy, FolderSource(log.log.folder), log.log.policy)
    with pytest.raises(SourceUnreachable):
        keep_documents(copy, done.checkpoint, Silent(log.served))
    assert done.checkpoint.size == len(log.entries)
    kept, _ = copied(log)
    assert (kept.new, kept.missing) == (2, {})


def test_one_document_without_an_answer_keeps_no_other_away_and_a_dead_server_is_left_soon(
    log: AnnouncingLog,
) -> None:
    names = [log.parties[name].party.digest for name in ("hub", "clinic")]
    names += [log.joins(f"lab {number}") for number in range(5)]
    log.publish()
    copy = log.folder / "copy"
    done = mirror(copy, FolderSource(log.log.folder), log.log.policy)
    dead = Silent(log.served)
    with pytest.raises(SourceUnreachable):
        keep_documents(copy, done.checkpoint, dead)
    assert dead.names == names[:MAX_SILENCE]
    with pytest.raises(SourceUnreachable):
        keep_documents(copy, done.checkpoint, Silent(log.served, names[::2]))
    assert [(copy / "documents" / n.raw.hex()).exists() for n in names] == [False, True] * 3 + [
        False
    ]
    assert copied(log) == (Kept(copy / "documents", 7, 4, {}), names[::2])


def test_documents_come_into_a_copy_from_another_copy_when_the_log_is_gone(
    log: AnnouncingLog,
) -> None:
    kept, _ = copied(log)
    other, source = log.folder / "other", FolderSource(log.log.folder)
    mirror(other, source, log.log.policy)  # without documents
    shutil.rmtree(log.log.folder)
    done = mirror(other, FolderSource(other), log.log.policy)
    found = keep_documents(other, done.checkpoint, FolderDocuments(kept.folder))
    assert (found.new, found.missing) == (2, {})


# Commands


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    before, sys.argv = sys.argv, ["exchange", *map(str, arguments)]
    try:
        program()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_names_what_is_missing_and_ends_with_0(
    log: AnnouncingLog, capsys: pytest.CaptureFixture[str]
) -> None:
    name = log.parties["clinic"].party.digest
    (log.served / name.raw.hex()).unlink()
    copy = log.folder / "copy"
    asked = ["audit", "mirror", log.log.folder, copy, "--policy", log.folder / "policy"]
    code, out, _ = run(capsys, *asked, "--json")
    assert (code, "documents" in json.loads(out)) == (0, False)
    asked += ["--documents", log.served]
    code, out, _ = run(capsys, *asked, "--json")
    assert (code, json.loads(out)["documents"]) == (
        0,
        {
            "folder": str(copy / "documents"),
            "announced": 2,
            "new": 1,
            "missing": [{"document": str(name), "entry": 1}],
        },
    )
    for language, words in (("en", "1 of the 2 party documents"), ("zh-CN", "2 份主体文件中的 1")):
        code, out, _ = run(capsys, *asked, "--lang", language)
        assert (code, words in out, f"{name}" in out) == (0, True, True), out


def test_no_answer_about_documents_ends_the_command_with_4_and_leaves_the_log_copied(
    log: AnnouncingLog, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["audit", "mirror", log.log.folder, log.folder / "copy"]
    asked += ["--policy", log.folder / "policy", "--documents"]
    for nobody in ("http://127.0.0.1:9/v1/documents", log.folder / "not-mounted"):
        code, out, err = run(capsys, *asked, nobody)
        assert (code, out) == (4, ""), err
        assert str(nobody) in err
    code, out, _ = run(capsys, *asked, log.served)
    assert (code, "(0 new)" in out, "(2 new)" in out) == (0, True, True), out


def test_a_wrong_folder_ends_the_command_with_2_and_a_log_without_checkpoint_with_4(
    log: AnnouncingLog, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = ["--policy", log.folder / "policy"]
    code, out, err = run(capsys, "audit", "mirror", log.log.folder, log.served, *policy)
    assert (code, out, "is not a copy of a log" in err) == (2, "", True), err
    assert len(list(log.served.iterdir())) == 2
    (log.folder / "empty").mkdir()
    code, out, err = run(capsys, "audit", "mirror", log.folder / "empty", log.folder / "c", *policy)
    assert (code, out, "no checkpoint yet" in err) == (4, "", True), err
    code, _, err = run(capsys, "audit", "mirror", log.log.folder, log.folder / "c", *policy)
    assert code == 0, err


def test_an_audit_of_a_copy_takes_the_copys_own_documents_and_says_so(
    log: AnnouncingLog, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(log)
    (log.folder / "roots").write_text("".join(f"fingerprint {f}\n" for f in log.roots.fingerprints))
    trusted = ["--policy", str(log.folder / "policy"), "--roots", str(log.folder / "roots")]
    copy = log.folder / "copy"
    code, out, err = run(capsys, "audit", "log", copy, *trusted)
    assert (code, "entry.signed [" in out) == (0, False), out
    assert str(copy / "documents") in err
    assert audit(["log", str(copy), *trusted]) == 0
    printed = capsys.readouterr()
    assert str(copy / "documents") in printed.err
    assert "entry.signed [" not in printed.out
    shutil.rmtree(copy / "documents")
    assert documents_beside(str(copy)) is None
    code, _, err = run(capsys, "audit", "log", copy, *trusted)
    assert (code, "--documents" in err) == (2, True)
    assert audit(["log", str(copy), *trusted]) == 2
    assert "--documents" in capsys.readouterr().err


def test_years_after_a_hub_was_ended_its_log_is_audited_from_a_copy_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = a_hub(tmp_path / "hub")
    fingerprints = []
    with running("hub", "--settings", str(settings)) as hub:
        speakers = [Speaker.new(tmp_path / who, hub.url, SystemClock()) for who in ("a", "b")]
        for speaker in speakers:
            speaker.register()
            speaker.cry("look")
            fingerprints.append(speaker.folder.party.document.identity.fingerprint)
        policy = any_head(tmp_path / "hub")

        def covered() -> int | None:
            note = speakers[0].hub.checkpoint()
            size = policy.check(note.encode()).checkpoint.size if note else 0
            return size if size >= 7 else None  # with the operator's own three

        size = until(covered)
        asked = ["audit", "mirror", f"{hub.url}/v1/log", tmp_path / "copy"]
        asked += ["--policy", tmp_path / "hub/policy", "--documents", f"{hub.url}/v1/documents"]
        code, out, err = run(capsys, *asked, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert (found["size"] >= size, found["documents"]["announced"]) == (True, 3)
        assert found["documents"]["missing"] == []
        for speaker in speakers:
            speaker.hub.close()
        hub.stop()
        with pytest.raises(SourceUnreachable):
            HttpDocuments(f"{hub.url}/v1/documents").read(speakers[0].folder.party.digest)
    operator = PartyFolder(tmp_path / "hub").party.document
    fingerprints.append(operator.identity.fingerprint)
    shutil.copy(tmp_path / "hub/policy", tmp_path / "policy")
    shutil.rmtree(tmp_path / "hub")
    (tmp_path / "roots").write_text("".join(f"fingerprint {one}\n" for one in fingerprints))
    asked = ["log", tmp_path / "copy", "--policy", tmp_path / "policy"]
    asked += ["--roots", tmp_path / "roots", "--json"]
    code, out = alone("exchange.audit", *asked)
    report = json.loads(out)
    assert (code, report["failed"]) == (0, 0), out
    opened = {(check["id"], check["passed"]) for check in report["checks"]}
    for check in ("entry.signed", "party.document", "party.trusted"):
        assert ((check, True) in opened, (check, None) in opened) == (True, False), out
    (signed,) = [check for check in report["checks"] if check["id"] == "entry.signed"]
    assert str(found["size"]) in signed["words"]
