"""Side channels: what error texts, logs and the sizes of results and messages say about rows.

Attacker:        anybody who reads what a job makes public, or counts the bytes of its parts
Knowledge:       all rows but the target's
Goal:            whether she is in a table, how many are, or whether a group was shown
Success measure: two runs over neighbouring tables give texts or sizes that differ
False alarms:    none: nothing is random but keys and noise, and neither changes a length

Each twin says or sends the obvious thing: the error as it is written for the rows' owner, the cells
that are shown, as many rows as there are. That a run failed at all, and that it failed for rows and
not for time, is public; when rows can do that is in docs/trust.md.
"""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from crypto import record, sealing
from crypto.adapters.opendp_noise import OpenDpNoise
from crypto.digest import digest
from crypto.errors import EngineFailed, EngineFault
from crypto.identifiers import JobId, PartyId
from crypto.joins.hidden import protocol
from crypto.joins.hidden.padding import Padding
from crypto.joins.layout import Layout
from crypto.joins.released import Cell, open_cells
from crypto.joins.rows import NO_GROUP, SideRows
from crypto.keys import ExchangeKey
from crypto.ports import SystemRandomness
from crypto.statement import read_statement
from exchange.errors import HistoryRefused
from exchange.jobs import JobState
from exchange.node import products, runs
from exchange.node.adapters.process_engine import _Quiet
from exchange.node.model import NodeJob
from exchange.node.runs import HISTORY, LOCAL_PART, Computed, Run, Workshop
from exchange.openings import result_context
from exchange.query.plan import Plan
from exchange.query.program import program_of
from exchange.results import SealedPart
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.product import DataProduct
from registry.rule import Join
from registry.source import FileFormat, FileSource
from tests.attacks.clinic import LEAST
from tests.fakes.three_parties import run_three, tasks_of
from tests.queries import CLINIC, NOW, PRIVACY, compiled, open_grounds
from tests.summing import layout, parties, run_both, side
from tests.world import CLINIC_ROWS, Deal, a_deal, a_world

JOB = JobId.new(NOW, SystemRandomness())
HEADER = "person,sex,town,age,bmi,income"
TARGET = "target,f,here,93,37.7,1"


def crowd(people: int) -> list[str]:
    return [f"p{i},f,here,30,{20 + i}.5,1" for i in range(people)]


def csv(*lines: str) -> bytes:
    return "\n".join([HEADER, *lines, ""]).encode()


class Overheard(Run):
    """A node's run of a job on one table, up to where it speaks to others."""

    def __init__(self, plan: Plan, product: DataProduct, path: Path) -> None:
        source = FileSource(str(path), FileFormat.CSV)
        workshop = SimpleNamespace(
            open_source=lambda settings: DuckDBFileSource(settings), noise=OpenDpNoise(), turns={}
        )
        super().__init__(
            plan,
            cast(NodeJob, SimpleNamespace(id=JOB, plan=digest(record.to_bytes(plan)))),
            store=cast(Any, _Store(source)),
            hub=cast(Any, None),
            identity=cast(Any, SimpleNamespace(party=CLINIC)),
            workshop=cast(Workshop, workshop),
            ended=lambda: None,
        )
        self.product = product
        self.said: list[tuple[str, str]] = []
        self.sealed: list[Computed] = []

    def _peers(self, tx: object) -> list[runs.Peer]:
        return []

    def _give_up(self, said: str, detail: str) -> None:
        self.said.append((said, detail))

    def _seal(self, computed: Computed, peers: Sequence[runs.Peer]) -> None:
        self.sealed.append(computed)

    def ran(self) -> Overheard:
        self._run()
        return self


@dataclass
class _Store:
    settings: FileSource
    remarks: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def reading(self) -> Iterator[_Store]:
        yield self

    transaction = reading

    def source(self, product: object) -> FileSource:
        return self.settings

    def agreement(self, digest: object) -> object:
        (ground, _) = open_grounds()
        return SimpleNamespace(agreement=ground.agreement)

    def jobs(self) -> list[NodeJob]:
        return []

    def remark(self, name: str) -> str | None:
        return self.remarks.get(name)

    def set_remark(self, name: str, value: str) -> None:
        self.remarks[name] = value


@pytest.fixture
def run_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Overheard]:
    """A job over a file of these bytes, as the holder's node runs it."""
    ground, _ = open_grounds(joins=(Join.ALONE,), privacy=PRIVACY)

    def run(content: bytes, sql: str = "SELECT COUNT(*) FROM a", **options: object) -> Overheard:
        product = replace(ground.product, cap=int(str(options.pop("cap", 1000))))
        judged = replace(ground, product=product)
        path = tmp_path / "rows.csv"
        path.write_bytes(content)
        monkeypatch.setattr(products, "by_digest", lambda *names, **where: product)
        return Overheard(compiled(sql, [judged], **options), product, path).ran()

    return run


# What everybody reads of a job that failed

BROKEN: dict[str, tuple[tuple[bytes, ...], int]] = {
    "one more person than the cap, or two": ((csv(*crowd(8)), csv(*crowd(8), TARGET)), 7),
    "bytes that are no text, in one row or in two": (
        (csv(*crowd(8)) + b"target\xff\n", csv(*crowd(8)) + b"target\xff\np9\xff\n"),
        1000,
    ),
    "a file without a column, and without rows": ((b"person\ntarget\n", csv()), 1000),
}


@pytest.mark.parametrize("what", BROKEN)
def test_rows_that_no_run_can_use_fail_it_in_the_same_words_whatever_they_are(
    run_over: Callable[..., Overheard], what: str
) -> None:
    tables, cap = BROKEN[what]
    ((said, detail), (other, otherwise)) = (run_over(one, cap=cap).said[0] for one in tables)
    assert detail  # the twin says this; for the cap it is a count, for a column its name
    assert (detail != otherwise) is ("bytes" not in what)
    assert said == other == LOCAL_PART


def test_whom_the_history_gate_protects_is_not_told_by_how_many_there_are(
    run_over: Callable[..., Overheard],
) -> None:
    """One, two or five of another age. For nobody the answer is given: so much it tells."""
    sql = "SELECT SUM(a.age) FROM a"
    heard = {}
    for others in (1, 2, LEAST - 1):
        old = [f"o{i},f,here,93,30.5,1" for i in range(others)]
        run = run_over(csv(*crowd(40), *old), sql)
        heard[others] = run.said
        assert not run.sealed
    assert {said for ((said, _),) in heard.values()} == {HISTORY}
    assert len({str(said) for said in heard.values()}) == 1  # not even to the owner
    assert run_over(csv(*crowd(40)), sql).sealed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            EngineFailed(EngineFault.MEMORY, "it held 611 MiB; the limit is 600 MiB"),
            EngineFailed(EngineFault.MEMORY, "it held 612 MiB; the limit is 600 MiB"),
        ),
        (
            EngineFailed(EngineFault.INPUT, "factors[1]: could add up to 100 or more"),
            EngineFailed(EngineFault.INPUT, "rows: are more than the cap of 10"),
        ),
        (HistoryRefused(6), HistoryRefused(7)),
        (RuntimeError("p7: 37.7"), RuntimeError("target: 91.1")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_kind_of_failure_is_said_and_nothing_of_what_it_measured(
    run_over: Callable[..., Overheard],
    monkeypatch: pytest.MonkeyPatch,
    one: Exception,
    other: Exception,
) -> None:
    heard = []
    for error in (one, other):

        def broken(self: Run, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Overheard, "_compute", broken)
        kept: list[Overheard] = []
        monkeypatch.setattr(
            Overheard, "_give_up", lambda self, said, detail, k=kept: k.append((said, detail))
        )
        if isinstance(error, RuntimeError):
            with pytest.raises(RuntimeError):
                run_over(csv(TARGET))
        else:
            run_over(csv(TARGET))
        heard += kept
    ((said, detail), (again, otherwise)) = cast(list[tuple[str, str]], heard)
    assert detail != otherwise
    assert said == again


@pytest.mark.slow
def test_the_program_that_answers_over_http_has_nothing_that_reads_rows() -> None:
    """So no problem body of a hub can be made of one; a node answers nobody but its owner."""
    asked = "import sys, api.wiring.hub, api.http.app; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, check=True)
    loaded = found.stdout.decode().split()
    assert "api.http.problems" in loaded
    readers = ("duckdb", "registry.adapters.staging", "exchange.node.runs", "crypto.joins.rows")
    assert not [name for name in readers if name in loaded]


def test_an_engines_log_keeps_no_line_that_counts_rows() -> None:
    """Native libraries print sizes; a log is read by operators and sent along with questions."""
    kept, twin = [], []
    for rows in (40, 41):
        file, raw = io.BytesIO(), io.BytesIO()
        said = (
            f"[2026-11-23 09:00:00.000] [info] [rr22.cc:88] begin psi, inputs size {rows}\n"
            f"[2026-11-23 09:00:00.100] [info] [join.cc:17] intersection_count={rows}\n"
            "[2026-11-23 09:00:00.200] [warning] [link.cc:3] connect failed, retry\n"
        ).encode()
        _Quiet(file).write(said)
        raw.write(said)
        kept.append(file.getvalue())
        twin.append(raw.getvalue())
    assert twin[0] != twin[1]
    assert kept[0] == kept[1]
    assert b"warning" in kept[0]


# How large a result is

BY_SEX = "SELECT a.sex, COUNT(*), SUM(a.bmi) FROM a GROUP BY a.sex"
MEN = [f"m{i},m,here,30,30.5,1" for i in range(LEAST - 1)]
NEIGHBOURS = {
    "a group shown, or suppressed for one person": (
        csv(*crowd(10), *MEN),
        csv(*crowd(10), *MEN, "target,m,here,93,37.7,1"),
    ),
    "nobody, or forty": (csv("x,?,here,,,1"), csv(*crowd(40))),
    "small values, or large ones": (
        csv(*(f"p{i},f,here,0,0,1" for i in range(10))),
        csv(*(f"p{i},f,here,120,100,1" for i in range(10))),
    ),
}


def sealed_part(plan: Plan, share: bytes) -> bytes:
    """What leaves the node, as the hub keeps it."""
    named = digest(record.to_bytes(plan))
    part = record.to_bytes(SealedPart(1, plan.job, named, CLINIC, share))
    receiver = ExchangeKey.generate().public
    return sealing.seal(part, receiver, context=result_context(named, PartyId(CLINIC)))


def shown_only(cells: Sequence[Cell]) -> bytes:
    """The twin's answer: cells that are shown, in decimal."""
    return json.dumps(
        [cell.terms for cell in cells if cell.terms[0] is not None], default=str
    ).encode()


@pytest.mark.parametrize("epsilon", [None, 1], ids=["exact", "with noise"])
@pytest.mark.parametrize("what", NEIGHBOURS)
def test_a_sealed_part_has_one_size_whatever_it_shows(
    run_over: Callable[..., Overheard],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    epsilon: int | None,
) -> None:
    options = {} if epsilon is None else {"epsilon": epsilon}
    # Whether an exact answer is given at all is the history gate's, above; here they are all given.
    monkeypatch.setattr(Overheard, "_require_exact_is_safe", lambda *asked: None)
    sizes, twins = set(), set()
    for table in NEIGHBOURS[what]:
        run = run_over(table, BY_SEX, **options)
        (computed,) = run.sealed
        sizes.add(len(sealed_part(run._plan, computed.share)))
        shape = program_of(run._plan, [run.product]).layout
        twins.add(len(shown_only(open_cells(shape, [computed.share]))))
    assert len(sizes) == 1
    if epsilon is None:
        assert len(twins) == 2


# How large messages are

ONE_SUM = layout(of_a=1, of_b=1, min_group=LEAST)
EVERYBODY = list(range(20))


def transcript(a: SideRows, b: SideRows, caps: tuple[int, int]) -> list[tuple[str, int]]:
    """Whatever either receives in a sum join: labels and lengths."""
    pair = run_both(parties(ONE_SUM, a, b, caps=caps))
    assert all(one.problem is None for one in pair)
    return [size for one in pair for size in one.sizes()]


def valued(people: Sequence[int], value: int = 5) -> SideRows:
    return side(people, [[value]] * len(people))


def test_a_sum_joins_messages_do_not_tell_who_passes_a_filter_and_the_twins_do() -> None:
    """The target is the first holder's alone; the twin sends as many keys as there are rows."""
    b = valued(EVERYBODY)
    without, with_her = valued(EVERYBODY), valued([*EVERYBODY, 99])
    assert transcript(without, b, (20, 20)) != transcript(with_her, b, (21, 20))
    given = transcript(without, b, (40, 40))
    assert transcript(with_her, b, (40, 40)) == given
    assert transcript(valued(EVERYBODY, value=2**40), b, (40, 40)) == given


ALWAYS = Padding(3, (0,) * 3 + (2**128,) * 4)  # the count's own noise is test_padding_sizes.py's


def hidden(a: SideRows, b: SideRows, shape: Layout, cap: int) -> list[tuple[int, int, str, int]]:
    outcome = run_three(tasks_of(shape, caps=(cap, 40)), a, b)
    outcome.require()
    assert len({len(one.share) for one in outcome.results.values()}) == 1
    sent = [(m.of, m.to, m.label, len(m.payload)) for m in outcome.messages]
    sent += [(rank, -1, "share", len(one.share)) for rank, one in sorted(outcome.results.items())]
    return sorted(sent, key=lambda one: one[:2])


@pytest.mark.parametrize("least", [LEAST, 30], ids=["shown", "suppressed"])
def test_a_hidden_joins_messages_and_shares_do_not_either(
    monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    monkeypatch.setattr(protocol, "padding", lambda bounds: ALWAYS)
    shape = layout(of_a=1, of_b=1, min_group=least)
    b, without, with_her = valued(EVERYBODY), valued(EVERYBODY), valued([*EVERYBODY, 99])
    assert hidden(without, b, shape, 20) != hidden(with_her, b, shape, 21)
    given = hidden(without, b, shape, 40)
    assert hidden(with_her, b, shape, 40) == given
    outside = replace(with_her, group=with_her.group.copy())
    outside.group[-1] = NO_GROUP
    assert hidden(outside, b, shape, 40) == given
    assert given == hidden(without, b, layout(of_a=1, of_b=1, min_group=1), 40)


# All that a job leaves, in a whole world

SECRET = ("p9471", "f", "7654.3")
TABLES: dict[str, tuple[Sequence[tuple[str, ...]], JobState]] = {
    "an answer": (CLINIC_ROWS, JobState.RELEASED),
    "a failure": ([(f"q{i}", "f", "1.0") for i in range(1001)], JobState.FAILED),
}


def trace(deal: Deal, number: JobId) -> list[tuple[object, ...]]:
    """What hub, log and receiver see of a job: kinds, fields and sizes, and every word."""
    with deal.world.store.reading() as tx:
        latest = tx.log.latest()
        assert latest is not None
        entries = tx.log.entries(0, latest.size)
        found = [(job.state, job.reason) for job in [tx.job(number)]]
    seen: list[tuple[object, ...]] = list(found)
    for one in entries:
        statement = read_statement(one.entry).statement
        if statement.subject == number:
            seen.append((statement.type, len(one.entry), sorted(statement.body)))
    with closing(sqlite3.connect(deal.world.path / "hub.db")) as database:
        seen += database.execute("SELECT length(data) FROM hub_document").fetchall()
    return sorted(seen, key=str)


@pytest.mark.slow
@pytest.mark.parametrize("what", TABLES)
def test_neighbouring_tables_leave_one_trace_and_no_value_with_anybody_else(
    tmp_path: Path, what: str
) -> None:
    rows, state = TABLES[what]
    prepared = a_deal(a_world(tmp_path / "prepared"), funded=10_000)
    prepared.approve_standing()
    traces, owners = [], []
    for name, held in (("without", rows), ("with her", [*rows, SECRET])):
        deal = prepared.copied_to(tmp_path / name)
        world, path = deal.world, tmp_path / f"{name}.csv"
        path.write_text("\n".join(map(",".join, [("person", "sex", "progression"), *held])) + "\n")
        clinic = world.members["clinic"].node.store
        with clinic.transaction() as tx:
            tx.save_source(deal.clinic_product.id, "rows", FileSource(str(path), FileFormat.CSV))
        number = deal.submit()
        world.settle()
        traces.append(trace(deal, number))
        with clinic.reading() as tx:
            job = tx.job(number)
        assert job is not None and job.state is state
        owners.append(job.reason)
        for place in world.path.rglob("*"):
            if place.is_file() and not place.is_relative_to(world.path / "clinic"):
                assert not any(word.encode() in place.read_bytes() for word in SECRET[::2])
    assert traces[0] == traces[1]
    assert (owners[0] == owners[1]) is (state is JobState.RELEASED)  # the twin is what it is told
