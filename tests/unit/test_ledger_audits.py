"""What `python -m ledger.verify` finds: each law's nearest violation, by name, and no more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crypto.keys import SigningKey
from crypto.statement import Act
from ledger.errors import FormatRefused
from ledger.tree import inclusion_path
from ledger.verify import log as logs
from ledger.verify.__main__ import main
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.equivocation import audit_equivocation
from ledger.verify.heads import HEADS_PER_PAGE, page_bytes, parse_page, read_heads
from ledger.verify.log import Tally, audit_log
from ledger.verify.merkle import leaf_hash, root, verify_consistency
from ledger.verify.note import Note
from ledger.verify.policy import Policy
from ledger.verify.proof import Proof
from ledger.verify.receipt import audit_receipt
from ledger.verify.report import Report, exit_code
from ledger.verify.text import decode_base64
from ledger.verify.tiles import FolderSource
from ledger.verify.words import ENGLISH
from tests.written_logs import ORIGIN, Actor, WrittenLog

START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def log(tmp_path: Path) -> WrittenLog:
    return WrittenLog(tmp_path / "log")


def entries(count: int) -> list[bytes]:
    """Statements of two actors in turn, one a minute."""
    actors = [Actor("a"), Actor("b")]
    return [
        actors[i % 2].says(Act("thing.done", f"thing {i}"), START + i * MINUTE)
        for i in range(count)
    ]


def heads_of(count: int) -> dict[int, datetime]:
    """Heads cosigned half a minute after their last entry, up to 40 of them."""
    sizes = range(1, count, -(-count // 40))
    return {size: START + size * MINUTE - MINUTE / 2 for size in sizes}


def written(log: WrittenLog, all_of_them: Sequence[bytes]) -> Tally:
    log.write(all_of_them, heads_of(len(all_of_them)), START + len(all_of_them) * MINUTE)
    return audited(log)


def audited(log: WrittenLog) -> Tally:
    return audit_log(str(log.folder), log.policy)[1]


def first(tally: Tally) -> tuple[int, str, str]:
    """The first entry that does not follow, by which law, and why."""
    assert tally.first is not None
    index, check, _, why = tally.first
    return index, check, why.text(ENGLISH)


# Receipts


def receipt(log: WrittenLog, index: int, count: int, at: datetime | None) -> tuple[bytes, bytes]:
    some = entries(count)
    leaves = [leaf_hash(entry) for entry in some]
    proof = [root(leaves[start:end]) for start, end in inclusion_path(index, count)]
    text = Proof(index, tuple(proof), log.note(some, at).to_bytes()).text
    return some[index], text.encode()


def test_a_receipt_says_who_witnessed_the_entry_and_when(log: WrittenLog) -> None:
    report = audit_receipt(*receipt(log, 5, 9, START), log.policy)
    assert report.failed == ()
    assert report.about["status"] == "witnessed"
    assert report.about["cosigned"] == {"w1": "2026-11-23T09:00:00.000Z"}
    assert "w1 2026-11-23T09:00:00.000Z" in report.to_text(ENGLISH)


def test_a_receipt_without_a_quorum_is_acknowledged_only(log: WrittenLog) -> None:
    report = audit_receipt(*receipt(log, 5, 9, None), log.policy)
    assert report.failed == ()
    assert report.about["status"] == "acknowledged"
    assert exit_code(report) == 4


def test_a_policy_that_asks_for_no_witness_makes_no_receipt_a_witnessed_one(
    log: WrittenLog,
) -> None:
    log_line, witness_line, _ = log.policy_text.splitlines()
    for lines, at in (([log_line], None), ([log_line], START), ([log_line, witness_line], START)):
        nobody = Policy.parse("\n".join([*lines, "quorum none", ""]).encode())
        report = audit_receipt(*receipt(log, 5, 9, at), nobody)
        assert report.failed == ()
        assert report.about["status"] == "acknowledged"
        assert "log.witnessed" not in [check.id for check in report.passed]
        assert exit_code(report) == 0  # there is no witness to wait for


def test_the_nearest_forgeries_of_a_receipt_are_refused(log: WrittenLog, tmp_path: Path) -> None:
    entry, proof = receipt(log, 5, 9, START)
    lines = proof.split(b"\n")
    stranger = WrittenLog(tmp_path / "other")
    at = lines.index(b"")
    for forged_entry, forged_proof, policy, check in (
        (entry + b" ", proof, log.policy, "entry.logged"),
        (entry, proof.replace(b"index 5", b"index 4"), log.policy, "entry.logged"),
        (entry, b"\n".join([*lines[:at], lines[2], *lines[at:]]), log.policy, "entry.logged"),
        (entry, b"\n".join([*lines[:2], *lines[3:]]), log.policy, "entry.logged"),
        (entry, proof, stranger.policy, "log.signed"),
        (entry, proof.replace(b"index 5", b"index 05"), log.policy, "receipt.readable"),
        (entry, _second_spelling(proof), log.policy, "receipt.readable"),
        (entry, proof + proof.split(b"\n")[-3] + b"\n", log.policy, "log.signed"),
        (entry, proof[:-8] + b"AAAA" + proof[-4:], log.policy, "log.witnessed"),
    ):
        report = audit_receipt(forged_entry, forged_proof, policy)
        assert check in [c.id for c in report.failed], check
        assert report.about["status"] != "witnessed"


def _second_spelling(proof: bytes) -> bytes:
    """The same hash with other unused bits at the end of its base64."""
    lines = proof.split(b"\n")
    hash_line = lines[2]
    other = next(
        hash_line[:-2] + bytes([c]) + b"="
        for c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        if bytes([c]) != hash_line[-2:-1] and _decodes_alike(hash_line, c)
    )
    return b"\n".join([*lines[:2], other, *lines[3:]])


def _decodes_alike(line: bytes, last: int) -> bool:
    import base64

    return base64.b64decode(line[:-2] + bytes([last]) + b"=") == base64.b64decode(line)


# Whole logs


def test_an_honest_log_fails_nothing_with_or_without_worker_processes(log: WrittenLog) -> None:
    tally = written(log, entries(700))
    assert tally.first is None
    assert tally.passed["entry.readable"] == tally.passed["actor.chain"] == 700
    assert tally.passed["log.heads"] == 39
    assert list(tally.open) == ["log.keys", "entry.signed"]  # it declares no keys of its own


@pytest.mark.slow
def test_worker_processes_find_what_one_process_finds(log: WrittenLog) -> None:
    some = entries(3000)
    del some[2500]
    log.write(some, {1000: START + 1000 * MINUTE}, START + 3000 * MINUTE)
    alone = audit_log(str(log.folder), log.policy, workers=0)[1]
    together = audit_log(str(log.folder), log.policy, workers=2)[1]
    assert alone == together
    assert first(alone)[0] == 2501  # the next of the actor whose statement is gone


def test_a_flipped_bit_in_a_tile_an_entry_or_the_checkpoint_is_named(log: WrittenLog) -> None:
    written(log, entries(600))
    for path, at, index, check, words in (
        ("tile/0/001", 40, 256, "log.tiles", "tile/0/001"),
        ("tile/0/002.p/88", 40, 0, "log.tiles", "tile/0/002.p/88"),
        ("tile/1/000.p/2", 40, 0, "log.tiles", "tile/1/000.p/2"),
        ("tile/entries/001", 900, 256, "log.tiles", "entry 25"),
        ("checkpoint", len(ORIGIN) + 9, 0, "log.head", ""),
        ("checkpoint", -9, 0, "log.head", ""),
    ):
        file = log.folder / path
        honest = file.read_bytes()
        flipped = bytearray(honest)
        flipped[at] ^= 1
        file.write_bytes(bytes(flipped))
        found = first(audited(log))
        assert found[:2] == (index, check), path
        assert words in found[2]
        file.write_bytes(honest)
    assert audited(log).first is None


def test_a_missing_tile_is_named_and_no_pass(log: WrittenLog) -> None:
    written(log, entries(600))
    (log.folder / "tile/entries/001").unlink()
    tally = audited(log)
    assert first(tally)[:2] == (256, "log.tiles")
    assert "log.tiles" not in tally.passed


def test_an_omitted_statement_is_named_by_the_one_after_it(log: WrittenLog) -> None:
    some = entries(12)
    del some[4]
    index, check, why = first(written(log, some))
    assert (index, check) == (5, "actor.chain")
    assert "gap" in why
    assert "statements 2 to 2 are missing" in why


def test_statements_in_another_order_are_named(log: WrittenLog) -> None:
    some = entries(12)
    some[4], some[6] = some[6], some[4]
    tally = written(log, some)
    assert first(tally)[:2] == (4, "actor.chain")
    words = [why.text(ENGLISH) for _, why in tally.failed["actor.chain"]]
    assert any("reordered" in text for text in words)


def test_a_statement_put_in_twice_is_told_from_a_second_one_of_its_number(
    log: WrittenLog,
) -> None:
    some = entries(6)
    index, check, why = first(written(log, [*some, some[2]]))
    assert (index, check) == (6, "actor.chain")
    assert "is already at index 2" in why
    twin = Actor("a")
    twin.says(Act("thing.done", "x"), START)
    forked = twin.says(Act("thing.done", "another"), START + 6 * MINUTE)
    index, check, why = first(written(log, [*some, forked]))
    assert (index, check) == (6, "actor.chain")
    assert "forked" in why


def test_leaves_are_read_again_only_for_statements_that_are_named(
    log: WrittenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []

    def find(walk: logs.Walk, entry: logs.Entry) -> int | None:
        looked_up.append(entry.place)
        return real(walk, entry)

    real = logs.Walk._find
    monkeypatch.setattr(logs.Walk, "_find", find)
    some = entries(6)
    repeated = 3 * logs.MAX_NAMED
    tally = written(log, [*some, *[some[2]] * repeated])
    assert looked_up == [*range(6, 6 + logs.MAX_NAMED)]
    assert tally.counts["actor.chain", False] == repeated
    assert all("is already at" in w.text(ENGLISH) for _, w in tally.failed["actor.chain"])


def test_a_statement_that_names_another_predecessor_is_named(log: WrittenLog) -> None:
    actor, twin = Actor("a"), Actor("a")
    kept = actor.says(Act("thing.done", "x"), START)
    twin.says(Act("thing.done", "y"), START)
    follower = twin.says(Act("thing.done", "z"), START + MINUTE)
    index, check, why = first(written(log, [kept, follower]))
    assert (index, check) == (1, "actor.chain")
    assert "broken link" in why


def test_a_time_after_a_head_that_holds_the_entry_is_a_failure(log: WrittenLog) -> None:
    actor = Actor("a")
    some = [actor.says(Act("thing.done", "x"), START), actor.says(Act("t.d", "y"), START + MINUTE)]
    some.append(actor.says(Act("thing.done", "post-dated"), START + 60 * MINUTE))
    some.append(actor.says(Act("thing.done", "z"), START + 3 * MINUTE))
    assert first(written(log, some))[:2] == (2, "entry.time")


def test_a_time_before_a_head_that_lacks_the_entry_is_named_and_left_to_the_exchange(
    log: WrittenLog,
) -> None:
    actor = Actor("a")
    some = [actor.says(Act("t.d", "x"), START + i * MINUTE) for i in range(20)]
    some.append(actor.says(Act("t.d", "back-dated"), START + MINUTE))
    tally = written(log, some)
    assert tally.first is None
    assert [subject for subject, _ in tally.open["entry.time"]] == ["entry 20 t.d"]


def test_a_past_head_of_another_history_is_evidence_of_a_fork(log: WrittenLog) -> None:
    some = entries(6)
    written(log, some)
    notes = [log.note(some[:size], START + size * MINUTE) for size in range(1, 6)]
    notes[2] = log.note([*some[:2], b"another"], START + 3 * MINUTE)
    log.put_heads(notes)
    index, check, why = first(audited(log))
    assert (index, check) == (2, "log.heads")
    assert "another history" in why


def test_past_heads_that_nobody_signed_or_in_another_order_are_failures(
    log: WrittenLog, tmp_path: Path
) -> None:
    some = entries(6)
    written(log, some)
    log.put_heads([log.note(some[:2], START), log.note(some[:1], START)])
    assert first(audited(log))[1] == "log.heads"
    stranger = WrittenLog(tmp_path / "stranger")
    log.put_heads([stranger.note(some[:2], START)])
    assert first(audited(log))[1] == "log.heads"
    log.put_heads([log.note(some[:1], START + 60 * MINUTE), log.note(some[:2], START)])
    assert "smaller head's" in first(audited(log))[2]


def test_pages_of_heads_are_read_to_their_end_and_have_one_form(log: WrittenLog) -> None:
    some = entries(HEADS_PER_PAGE + 3)
    log.put_heads([log.note(some[:size], START) for size in range(1, len(some))])
    source = FolderSource(log.folder)
    assert len(list(read_heads(source))) == HEADS_PER_PAGE + 2
    notes = parse_page((log.folder / "heads/0").read_bytes())
    assert page_bytes(notes) == (log.folder / "heads/0").read_bytes()
    with pytest.raises(FormatRefused):
        parse_page(page_bytes([*notes, notes[0]]))
    with pytest.raises(FormatRefused):
        parse_page(b"\n")


def test_an_entry_that_is_no_statement_is_named(log: WrittenLog) -> None:
    tally = written(log, [*entries(2), b"something else"])
    assert tally.first is None
    assert [subject for subject, _ in tally.open["entry.readable"]] == ["entry 2"]


def test_many_failures_of_one_kind_are_counted_and_only_some_are_kept(log: WrittenLog) -> None:
    some = [Actor("a").says(Act("t.d", f"{i}"), START + i * MINUTE) for i in range(50)]
    tally = written(log, some)
    assert len(tally.failed["actor.chain"]) == logs.MAX_NAMED
    assert tally.counts["actor.chain", False] == 49


# Equivocation


def contradiction(report: Report) -> object:
    return report.about["contradict"]


def test_two_roots_of_one_size_are_a_fork_and_name_who_signed(log: WrittenLog) -> None:
    some = entries(4)
    a = log.note(some, START).to_bytes()
    b = log.note([*some[:3], b"another"], None).to_bytes()
    report = audit_equivocation(a, b, log.policy, None)
    assert contradiction(report) is True
    assert [check.id for check in report.failed] == ["notes.agree"]
    text = report.to_text(ENGLISH)
    assert "CONTRADICT" in text
    assert f"signed by {ORIGIN}+" in text
    assert "cosigned by w1" in text
    assert (report.about["note_a"], report.about["note_b"]) == (a.decode(), b.decode())


@pytest.mark.parametrize("old", [1, 4, 5, 8, 11])
def test_a_rewritten_log_is_shown_by_the_larger_heads_tiles(log: WrittenLog, old: int) -> None:
    some = entries(12)
    written(log, some)
    source = FolderSource(log.folder)
    new = log.note(some, START).to_bytes()
    honest = log.note(some[:old], START).to_bytes()
    forged_entries = [b"another", *some[1:old]]
    forged = log.note(forged_entries, START).to_bytes()
    assert contradiction(audit_equivocation(honest, new, log.policy, source)) is False
    assert contradiction(audit_equivocation(new, honest, log.policy, source)) is False
    assert contradiction(audit_equivocation(forged, new, log.policy, None)) is None
    report = audit_equivocation(forged, new, log.policy, source)
    assert contradiction(report) is True
    # The evidence stands without the tiles.
    expected, proof = report.about["expected_root"], report.about["proof"]
    assert isinstance(expected, str)
    assert isinstance(proof, list)
    hashes = [decode_base64(text, where="proof") for text in proof]
    larger = Checkpoint.parse(Note.parse(new).text)
    known = decode_base64(expected, where="root")
    verify_consistency(old, known, 12, larger.root, hashes)
    assert known != Checkpoint.parse(Note.parse(forged).text).root


def test_notes_that_do_not_contradict_each_other_accuse_nobody(
    log: WrittenLog, tmp_path: Path
) -> None:
    some = entries(4)
    note = log.note(some, START).to_bytes()
    same = log.note(some, None).to_bytes()
    assert contradiction(audit_equivocation(note, same, log.policy, None)) is False
    empty = log.sign(Checkpoint(ORIGIN, 0, root([])), None).to_bytes()
    assert contradiction(audit_equivocation(empty, note, log.policy, None)) is False
    not_empty = log.sign(Checkpoint(ORIGIN, 0, root([b"x" * 32])), None).to_bytes()
    assert contradiction(audit_equivocation(not_empty, note, log.policy, None)) is True
    stranger = WrittenLog(tmp_path / "stranger").note([b"x"], START).to_bytes()
    report = audit_equivocation(note, stranger, log.policy, None)
    assert contradiction(report) is None
    assert [check.id for check in report.failed] == ["note.signed"]


def test_tiles_of_another_history_prove_nothing(log: WrittenLog, tmp_path: Path) -> None:
    some = entries(12)
    other = WrittenLog(tmp_path / "other", log.key, log.witness)
    written(other, [*some[:11], b"another"])
    old, new = log.note(some[:5], START).to_bytes(), log.note(some, START).to_bytes()
    report = audit_equivocation(old, new, log.policy, FolderSource(other.folder))
    assert contradiction(report) is None
    assert report.failed == ()


# The program


def test_the_program_exits_with_one_code_per_kind_of_answer(
    log: WrittenLog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = entries(9)
    written(log, some)
    policy, entry, proof = (tmp_path / name for name in ("policy", "entry", "proof"))
    policy.write_text(log.policy_text)

    def run(*arguments: object) -> tuple[int, dict[str, object]]:
        code = main([*map(str, arguments), "--policy", str(policy), "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else {}

    for at, code, status in ((START, 0, "witnessed"), (None, 4, "acknowledged")):
        data, text = receipt(log, 5, 9, at)
        entry.write_bytes(data)
        proof.write_bytes(text)
        found, value = run("receipt", entry, proof)
        assert (found, value["status"]) == (code, status)
        assert value["not_proved"]
    entry.write_bytes(b"another")
    assert run("receipt", entry, proof)[0] == 1
    assert run("log", log.folder)[0] == 0
    assert run("log", tmp_path / "nothing")[0] == 4
    assert run("receipt", entry, tmp_path / "nothing")[0] == 2
    policy.write_text("quorum nobody\n")
    assert run("log", log.folder)[0] == 2


def test_a_log_under_another_policy_is_refused(log: WrittenLog) -> None:
    written(log, entries(4))
    stranger = WrittenLog(log.folder, SigningKey.generate(), log.witness)
    tally = audit_log(str(log.folder), stranger.policy)[1]
    assert first(tally)[1] == "log.head"
    assert set(tally.passed) == set()
    two = Policy.parse(log.policy_text.replace("quorum w1", "quorum none").encode())
    assert audit_log(str(log.folder), two)[1].first is None
