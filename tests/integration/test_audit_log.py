"""The audit of a whole log: an honest exchange passes, and each law's nearest violation is found
and named, although everybody who commits it signs everything again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import cryptography
import pytest

from api.cli import main as program
from api.folder import PartyFolder
from crypto.digest import Digest, digest
from crypto.identifiers import PartyId, StatementId
from crypto.keys import SigningKey
from crypto.ports import SystemRandomness
from crypto.statement import Act, ChainHead, Statement, read_statement, sign_statement
from exchange.audit.__main__ import main
from exchange.audit.roots import Roots
from exchange.audit.voices import VOICES
from exchange.audit.whole import FolderDocuments, audit_whole_log
from exchange.hub.intake import HANDLERS
from exchange.query.explanation import Language
from ledger.adapters.sql import SqlLogDatabase
from ledger.errors import TileMissing
from ledger.log import inclusion
from ledger.tiles import LogSource
from ledger.verify import words as ledger_words
from ledger.verify.checkpoint import Checkpoint
from ledger.verify.note import Note
from ledger.verify.proof import Proof
from ledger.verify.report import Report
from ledger.verify.tile_names import CHECKPOINT, heads_path, tiles_between
from tests.world import World, a_deal, a_world
from tests.written_logs import WrittenLog

ROOT = Path(__file__).parents[2]
ENGLISH = VOICES[Language.ENGLISH]


@dataclass
class Exchange:
    """A world in which two jobs were done and one was cancelled, and its log as files."""

    world: World
    folder: Path

    @property
    def documents(self) -> FolderDocuments:
        return FolderDocuments(self.folder / "documents")

    @property
    def roots(self) -> Roots:
        return Roots(frozenset(f.party.document.identity.fingerprint for f in self._folders()), ())

    @property
    def keys(self) -> dict[PartyId, SigningKey]:
        return {f.party.document.party: f.signing for f in self._folders()}

    def _folders(self) -> list[PartyFolder]:
        return [self.world.operator_folder, *(m.folder for m in self.world.members.values())]

    def statements(self) -> list[Statement]:
        with SqlLogDatabase(self.world.engines["hub"]).transaction() as store:
            return [read_statement(e.entry).statement for e in store.entries(0, store.placed())]

    def publish(self) -> None:
        """Copy everything that the hub's log serves, and everybody's documents."""
        source = LogSource(SqlLogDatabase(self.world.engines["hub"]))
        note = source.read(CHECKPOINT)
        put(self.folder / CHECKPOINT, note)
        for tile in tiles_between(0, Checkpoint.parse(Note.parse(note).text).size):
            put(self.folder / tile.path, source.read(tile.path))
        page = 0
        while True:
            try:
                put(self.folder / heads_path(page), source.read(heads_path(page)))
            except TileMissing:
                break
            page += 1
        for folder in self._folders():
            name = folder.party.digest.raw.hex()
            put(self.folder / "documents" / name, folder.party.envelope.to_bytes())


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    folder = tmp_path_factory.mktemp("whole")
    world = a_world(folder / "world")
    deal = a_deal(world)
    deal.approve_standing()
    for willing in (True, False):  # said of itself, about no job
        world.members["clinic"].desk.help_unasked(willing)
    for _ in range(2):
        deal.submit()
        world.settle()
        world.clock.pass_(timedelta(hours=2))
    found = Exchange(world, folder / "log")
    found.publish()
    return found


@pytest.fixture
def log(tmp_path: Path) -> WrittenLog:
    return WrittenLog(tmp_path / "forged")


Change = Callable[[list[Statement]], Sequence[Statement]]


def forged(
    exchange: Exchange,
    log: WrittenLog,
    change: Change,
    *,
    heads_every: int = 1,
    forge: Callable[[int, bytes], bytes] = lambda _, entry: entry,
) -> Report:
    """The audit of a log that everybody signed again after a change: chains, references and heads
    fit. heads_every: how many entries lie between two witnessed heads."""
    keys, chains = exchange.keys, dict[PartyId, ChainHead]()
    renamed: dict[Digest, Digest] = {}
    originals = exchange.statements()
    old_names = old_digests(exchange)
    entries: list[bytes] = []
    said = change(list(originals))
    for index, statement in enumerate(said):
        signed = sign_statement(
            Act(
                statement.type,
                statement.subject,
                tuple(renamed.get(name, name) for name in statement.after),
                statement.policy_digest,
                statement.inputs,
                statement.outputs,
                statement.commitments,
                statement.body,
                statement.on_behalf,
            ),
            actor=statement.actor,
            head=chains.get(statement.actor, ChainHead()),
            signer=keys[statement.actor],
            now=statement.time,
            randomness=SystemRandomness(),
        )
        chains[statement.actor] = signed.head
        if statement.id in old_names:
            renamed[old_names[statement.id]] = signed.digest
        entries.append(forge(index, signed.entry))
    latest = max(s.time for s in originals)
    was = {statement.id: statement.time for statement in originals}
    heads, now = {}, originals[0].time
    for size in range(1, len(entries)):
        now = max(now, was.get(said[size - 1].id, now)) + timedelta(milliseconds=1)
        if size % heads_every == 0:
            heads[size] = now
    log.write(entries, heads, latest + timedelta(minutes=1))
    return audit_whole_log(str(log.folder), log.policy, exchange.roots, exchange.documents)


def old_digests(exchange: Exchange) -> dict[str, Digest]:
    with SqlLogDatabase(exchange.world.engines["hub"]).transaction() as store:
        entries = [e.entry for e in store.entries(0, store.placed())]
    return {read_statement(entry).statement.id: digest(entry) for entry in entries}


def place(statements: Sequence[Statement], kind: str, number: int = 0) -> int:
    return [i for i, s in enumerate(statements) if s.type == kind][number]


def without(kind: str, number: int = 0) -> Change:
    def change(statements: list[Statement]) -> Sequence[Statement]:
        del statements[place(statements, kind, number)]
        return statements

    return change


def moved(kind: str, before: str, number: int = 0) -> Change:
    """One statement logged just before another one."""

    def change(statements: list[Statement]) -> Sequence[Statement]:
        statement = statements.pop(place(statements, kind, number))
        statements.insert(place(statements, before), statement)
        return statements

    return change


def twice(kind: str) -> Change:
    def change(statements: list[Statement]) -> Sequence[Statement]:
        again = statements[place(statements, kind)]
        return [*statements, replace(again, time=statements[-1].time)]

    return change


def dated(kind: str, by: timedelta) -> Change:
    def change(statements: list[Statement]) -> Sequence[Statement]:
        at = place(statements, kind)
        statements[at] = replace(statements[at], time=statements[at].time + by)
        return statements

    return change


def first(report: Report) -> tuple[str, str]:
    """The entry that the report opens with, and the law that it breaks."""
    found = report.about["first_failure"]
    assert isinstance(found, dict)
    (name,) = {
        c.subject
        for c in report.failed
        if c.id == found["check"] and c.subject.startswith(f"entry {found['entry']} ")
    }
    return name.split(" ", 2)[2], found["check"]


# Honest logs


def test_an_honest_log_fails_nothing_and_says_what_stays_closed(exchange: Exchange) -> None:
    report = audit_whole_log(
        str(exchange.folder), exchange.world.policy, exchange.roots, exchange.documents
    )
    assert report.failed == ()
    assert [check.id for check in report.not_opened] == [
        "entry.time",
        "documents.private",
        "log.keys",  # this log declares none
    ]
    assert {"entry.signed", "party.trusted", "job.public", "negotiation.public"} <= {
        check.id for check in report.passed
    }
    for language, voice in VOICES.items():
        text = report.to_text(voice)
        assert "unseen.test/log" in text
        assert voice.phrases["not_proved.inputs"] in text, language


def test_a_log_written_anew_by_its_own_actors_is_as_good(
    exchange: Exchange, log: WrittenLog
) -> None:
    assert forged(exchange, log, lambda statements: statements).failed == ()


def test_without_documents_signatures_and_the_operators_acts_stay_unopened(
    exchange: Exchange, tmp_path: Path
) -> None:
    report = audit_whole_log(
        str(exchange.folder), exchange.world.policy, exchange.roots, FolderDocuments(tmp_path)
    )
    # Who serves no document of the operator's hides it, or is it: everybody needs that one.
    assert [(c.id, c.subject) for c in report.failed] == [
        ("party.document", "entry 0 party.registered")
    ]
    unopened = {check.id for check in report.not_opened}
    assert {"entry.signed", "job.public"} <= unopened


def test_a_party_that_no_root_confirms_is_named(exchange: Exchange) -> None:
    stranger = SigningKey.generate().public
    report = audit_whole_log(
        str(exchange.folder),
        exchange.world.policy,
        Roots(frozenset(), (stranger,)),
        exchange.documents,
    )
    assert report.failed == ()
    assert [c.id for c in report.not_opened].count("party.trusted") == 5


# What does not follow


@pytest.mark.parametrize(
    ("change", "kind", "check"),
    [
        (without("negotiation.verified"), "funds.held", "job.public"),
        (without("negotiation.agreed"), "funds.held", "job.public"),
        (without("negotiation.finalized"), "funds.held", "job.public"),
        (without("job.submitted"), "funds.held", "job.public"),
        (without("funds.held"), "job.released", "job.public"),
        (without("job.admitted"), "job.started", "job.public"),
        (without("job.started"), "job.sealed", "job.public"),
        (without("job.sealed"), "job.released", "job.public"),
        (without("job.released"), "funds.released", "job.public"),
        (moved("funds.released", before="job.released"), "funds.released", "job.public"),
        (moved("job.released", before="job.sealed"), "job.released", "job.public"),
        (moved("job.started", before="job.admitted"), "job.started", "job.public"),
        (twice("funds.released"), "funds.released", "job.public"),
        (twice("job.released"), "job.released", "job.public"),
        (dated("funds.held", timedelta(hours=1)), "funds.held", "entry.time"),
        (dated("funds.released", -timedelta(hours=1)), "funds.released", "entry.time"),
        (dated("job.sealed", -timedelta(hours=1)), "job.sealed", "entry.time"),
        (dated("negotiation.agreed", timedelta(hours=1)), "negotiation.agreed", "entry.time"),
    ],
)
def test_what_does_not_follow_is_named_first(
    exchange: Exchange, log: WrittenLog, change: Change, kind: str, check: str
) -> None:
    assert first(forged(exchange, log, change)) == (kind, check)


def test_a_payment_that_no_witnessed_head_goes_before_is_named(
    exchange: Exchange, log: WrittenLog
) -> None:
    report = forged(exchange, log, lambda statements: statements, heads_every=1000)
    assert first(report) == ("funds.released", "job.public")
    assert "no witnessed head" in report.to_text(ENGLISH)


def test_a_refund_of_a_job_that_was_paid_is_named(exchange: Exchange, log: WrittenLog) -> None:
    def change(statements: list[Statement]) -> Sequence[Statement]:
        paid = statements[place(statements, "funds.released")]
        return [*statements, replace(paid, type="funds.refunded", time=statements[-1].time)]

    report = forged(exchange, log, change)
    assert first(report) == ("funds.refunded", "job.public")
    assert "RELEASED already" in report.to_text(ENGLISH)


def test_a_late_statement_that_nobody_relied_on_accuses_nobody(
    exchange: Exchange, log: WrittenLog
) -> None:
    report = forged(exchange, log, dated("job.opened", -timedelta(hours=1)))
    assert report.failed == ()
    assert any(c.id == "entry.time" and c.subject.endswith("job.opened") for c in report.not_opened)


def test_strangers_words_about_a_job_accuse_nobody(exchange: Exchange, log: WrittenLog) -> None:
    regulator = exchange.world.members["regulator"].id

    def change(statements: list[Statement]) -> Sequence[Statement]:
        added: list[Statement] = []
        for statement in statements:
            added.append(statement)
            participants = statement.type in HANDLERS and not statement.type.startswith("party.")
            if participants:
                added.append(replace(statement, actor=regulator, id=StatementId("stm_copy")))
        return added

    # A stranger repeats in its own name whatever a hub takes in; hub and audit go over it.
    report = forged(exchange, log, change)
    assert [c for c in report.failed if c.id != "entry.time"] == []


def test_a_statement_signed_with_another_key_is_named(exchange: Exchange, log: WrittenLog) -> None:
    consumer = exchange.world.members["research"].id
    other = SigningKey.generate()

    def forge(index: int, entry: bytes) -> bytes:
        statement = read_statement(entry).statement
        if statement.type != "job.submitted" or statement.actor != consumer:
            return entry
        head = ChainHead(statement.actor_seq, statement.actor_prev)
        act = Act(statement.type, statement.subject, outputs=statement.outputs)
        return sign_statement(
            act,
            actor=statement.actor,
            head=head,
            signer=other,
            now=statement.time,
            randomness=SystemRandomness(),
        ).entry

    report = forged(exchange, log, lambda statements: statements, forge=forge)
    assert first(report) == ("job.submitted", "entry.signed")


def test_a_flipped_bit_in_a_signature_is_named(exchange: Exchange, log: WrittenLog) -> None:
    def forge(index: int, entry: bytes) -> bytes:
        if index != 9:
            return entry
        at = entry.rindex(b'"sig":"') + 7
        flipped = b"A" if entry[at : at + 1] != b"A" else b"B"
        return entry[:at] + flipped + entry[at + 1 :]

    report = forged(exchange, log, lambda statements: statements, forge=forge)
    found = report.about["first_failure"]
    assert found == {"entry": 9, "check": "entry.signed"}


def test_a_document_of_other_bytes_is_named(exchange: Exchange, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    names = sorted((exchange.folder / "documents").iterdir())
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        (folder / name.name).write_bytes(other.read_bytes())
    report = audit_whole_log(
        str(exchange.folder), exchange.world.policy, exchange.roots, FolderDocuments(folder)
    )
    assert {check.id for check in report.failed} == {"party.document"}


# The programs, where nothing but `cryptography` is installed

ALONE = """
import runpy, sys
sys.path[:] = [p for p in sys.path if "site-packages" not in p]
sys.path += [{root!r}, {libraries!r}]

class OnlyCryptography:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        ours = {{"crypto", "ledger", "registry", "pricing", "exchange"}}
        if top in sys.stdlib_module_names or top in ours or top in {allowed!r}:
            return None
        raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, OnlyCryptography())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def alone(*arguments: object) -> tuple[int, str]:
    """Run a program in an interpreter that can import `cryptography`, what that needs, and us."""
    script = ALONE.format(
        root=str(ROOT),
        libraries=str(Path(cryptography.__file__).parents[1]),
        allowed={"cryptography", "cffi", "_cffi_backend"},
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=sysconfig.get_path("stdlib"),
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    return done.returncode, done.stdout or done.stderr


def test_both_programs_run_where_only_cryptography_is_installed(
    exchange: Exchange, tmp_path: Path
) -> None:
    policy, roots = tmp_path / "policy", tmp_path / "roots"
    policy.write_text(_policy_text(exchange))
    roots.write_text("".join(f"fingerprint {f}\n" for f in exchange.roots.fingerprints))
    code, said = alone("ledger.verify", "log", exchange.folder, "--policy", policy, "--json")
    assert (code, json.loads(said)["failed"]) == (0, 0), said
    code, said = alone(
        "exchange.audit",
        "log",
        exchange.folder,
        "--documents",
        exchange.folder / "documents",
        "--policy",
        policy,
        "--roots",
        roots,
        "--language=zh-CN",
    )
    assert code == 0, said
    assert "没有未通过的检查" in said
    entry, proof = tmp_path / "entry", tmp_path / "proof"
    with SqlLogDatabase(exchange.world.engines["hub"]).transaction() as store:
        head = store.latest_witnessed()
        assert head is not None
        entry.write_bytes(store.entries(3, 4)[0].entry)
        hashes = tuple(inclusion(store, 3, head.size))
        proof.write_text(Proof(3, hashes, head.note.to_bytes()).text)
    code, said = alone("ledger.verify", "receipt", entry, proof, "--policy", policy)
    assert code == 0, said
    assert "witnessed" in said
    code, said = alone("ledger.verify", "nothing")
    assert code == 2


def _policy_text(exchange: Exchange) -> str:
    policy = exchange.world.policy
    (key,), (witness,) = policy.log_keys, policy.witnesses
    return f"log {key}\nwitness {witness.name} {witness.key}\nquorum {witness.name}\n"


def test_the_program_exits_with_one_code_per_kind_of_answer(
    exchange: Exchange, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, roots = tmp_path / "policy", tmp_path / "roots"
    policy.write_text(_policy_text(exchange))
    roots.write_text("".join(f"fingerprint {f}\n" for f in exchange.roots.fingerprints))
    trusted = [f"--policy={policy}", f"--roots={roots}"]
    documents = f"--documents={exchange.folder / 'documents'}"
    assert main(["log", str(exchange.folder), documents, *trusted, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 0
    assert main(["log", str(tmp_path / "nothing"), documents, *trusted]) == 4
    roots.write_text("nobody\n")
    assert main(["log", str(exchange.folder), documents, *trusted]) == 2


@pytest.mark.parametrize("act", ["log", "history"])
def test_the_command_too_exits_with_4_where_nothing_can_be_read(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    policy, roots = tmp_path / "policy", tmp_path / "roots"
    policy.write_text(_policy_text(exchange))
    roots.write_text("".join(f"fingerprint {f}\n" for f in exchange.roots.fingerprints))
    (tmp_path / "empty").mkdir()
    more = (
        ["--roots", str(roots), "--documents", str(tmp_path)]
        if act == "log"
        else [str(tmp_path / "made")]
    )
    asked = ["audit", act, str(tmp_path / "empty"), "--policy", str(policy), *more]
    monkeypatch.setattr("sys.argv", ["exchange", *asked])
    with pytest.raises(SystemExit) as ended:
        program()
    assert ended.value.code == 4


def test_every_sentence_of_the_logs_audits_is_in_both_languages() -> None:
    chinese = VOICES[Language.CHINESE]
    for table in ("claims", "phrases", "headings"):
        assert set(getattr(ENGLISH, table)) == set(getattr(chinese, table))
    assert set(ledger_words.CLAIMS) <= set(ENGLISH.claims)
