"""Count inflation: one key in many rows, so that one person looks like a group.

Attacker:        a holder, or a person in its table, whose key stands in several rows or spellings;
                 in the last section a holder whose engine lies
Knowledge:       the target's key
Goal:            that a group of one passes the gate, or one person moves a sum by more than the
                 noise was made for
Success measure: the target's value among the numbers shown; what one person moves, against the
                 stated sensitivity; whether anything of the other side leaves after the count
False alarms:    none: nothing is random but keys

The twin for rows is the SQL itself over both files. For lying engines it is the same protocol with
its one check left out. Not prevented, and published: who is a person is what the key says, so a
holder that invents keys invents people; in a join they count only where the other table has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from crypto.errors import EngineFailed, EngineFault, KeyRefused
from crypto.joinkeys import KeyKind, canonical_keys
from crypto.joins import rows as join_rows
from crypto.joins import summed
from crypto.joins.hidden import matching
from crypto.joins.layout import Layout, Term
from crypto.joins.released import Cell, open_cells
from crypto.joins.rows import Int64Array, SideRows, plain_output, plain_terms
from crypto.session import PairKeys
from crypto.sharing import to_bytes
from exchange.node.alone import alone
from exchange.node.parts import Keys, local_query, side_rows, unmatched
from exchange.query.plan import Plan
from exchange.query.program import Program, program_of
from exchange.query.rules import Ground
from registry.adapters.duckdb_source import DuckDBFileSource
from registry.ports import LocalRows
from registry.product import Column, ColumnType
from registry.rule import AnalysisRule, Join
from registry.source import FileFormat, FileSource
from tests.attacks.clinic import LEAST
from tests.fakes.three_parties import failed, run_three, tasks_of
from tests.queries import CLINIC, LAB, a_product, an_open_rule, compiled, grounds
from tests.summing import Party, layout, parties, run_both, side

TARGETS = 377  # her bmi, in tenths
JOINS = (Join.HIDDEN, Join.REVEALED, Join.SUM)
ON = "FROM a JOIN b ON a.person = b.person"
ASKED = {
    **dict.fromkeys(JOINS, f"SELECT COUNT(*), SUM(a.bmi) {ON} WHERE a.bmi IS NOT NULL"),
    Join.ALONE: "SELECT COUNT(*), SUM(a.bmi) FROM a WHERE a.bmi IS NOT NULL",
}
OF_NOBODY = Keys({rank: PairKeys(b"t" * 32, b"z" * 32, b"e" * 32) for rank in range(3)})


class Tables:
    """Two files, of which the second has everybody once, and the first what the attacker wrote."""

    def __init__(
        self,
        folder: Path,
        first: Sequence[str],
        *,
        key: ColumnType = ColumnType.TEXT,
        rows_per_person: int | None = None,
        partner: Sequence[str] = (),
    ) -> None:
        self.paths = []
        for name, keys in (("a", first), ("b", partner or list(dict.fromkeys(first))[:1])):
            self.paths.append(folder / f"{name}.csv")
            lines = [f'"{one}",f,here,30,{TARGETS / 10},1' for one in keys]
            self.paths[-1].write_text("person,sex,town,age,bmi,income\n" + "\n".join(lines) + "\n")
        self.judged = _judged(key, rows_per_person)

    def twin(self, sql: str) -> tuple[int, float]:
        """What the files say, row by row: people and sum."""
        a, b = (f"read_csv('{path}', all_varchar=true)" for path in self.paths)
        asked = sql.replace("a.bmi", "a.bmi::DOUBLE").replace("FROM a", f"FROM {a} a")
        with duckdb.connect() as database:
            (found,) = database.execute(asked.replace("JOIN b", f"JOIN {b} b")).fetchall()
        return int(found[0]), float(found[1] or 0)

    def local(self, plan: Plan, place: int) -> LocalRows:
        program, product = self.program(plan), self.judged[place].product
        source = DuckDBFileSource(FileSource(str(self.paths[place]), FileFormat.CSV))
        return source.compute(product, local_query(plan, program, place))

    def program(self, plan: Plan) -> Program:
        return program_of(plan, [g.product for g in self.judged[: len(plan.sides)]])

    def rows(self, plan: Plan) -> list[SideRows]:
        """As each holder's node hands them to its engine."""
        return [
            side_rows(plan, rank, self.local(plan, rank), OF_NOBODY, filler=b"f" * 16)
            for rank in range(len(plan.sides))
        ]

    def answer(self, join: Join) -> tuple[Cell, ...]:
        """The hidden and the sum join run as protocols, the revealed one by its specification."""
        plan = compiled(ASKED[join], self.judged, join=join)
        layout = self.program(plan).layout
        if join is Join.ALONE:
            return open_cells(layout, [alone(layout, unmatched(self.local(plan, 0)), None, NONE)])
        a, b = self.rows(plan)
        if join is Join.HIDDEN:
            return run_three(tasks_of(layout, caps=(60, 60)), a, b).cells
        if join is Join.SUM:
            both = run_both(parties(layout, a, b))
            return open_cells(layout, [one.share for one in both])
        return open_cells(layout, [to_bytes(plain_output(layout, a, b).view(np.uint64))])

    def exact(self, join: Join) -> tuple[Int64Array, Sequence[int]]:
        """Every term before gate and noise, and what one person may move each by."""
        plan = compiled(ASKED[join], self.judged, join=join)
        program = self.program(plan)
        sides = [unmatched(self.local(plan, 0))] if join is Join.ALONE else self.rows(plan)
        found = plain_terms(program.layout, sides[0], sides[-1])
        return found.ravel(), [facts.sensitivity for facts in program.terms]


class _NoNoise:
    def draw(self, *asked: object) -> Int64Array:
        raise AssertionError("an exact answer draws nothing")


NONE = _NoNoise()


def _judged(key: ColumnType, rows_per_person: int | None) -> tuple[Ground, Ground]:
    columns = tuple(
        Column("person", key, "person") if column.name == "person" else column
        for column in a_product().columns
    )
    rule: AnalysisRule = an_open_rule()
    first, second = (
        a_product(holder, columns=columns, rule=rule, rows_per_person=rows)
        for holder, rows in ((CLINIC, rows_per_person), (LAB, None))
    )
    return grounds(first, second)


def shown(cells: Sequence[Cell]) -> list[int]:
    return [number for cell in cells for number in cell.terms if number is not None]


# One key in many rows


@pytest.mark.parametrize("join", ASKED)
def test_a_person_in_many_rows_passes_a_gate_that_counts_rows_and_not_one_that_counts_people(
    tmp_path: Path, join: Join
) -> None:
    tables = Tables(tmp_path, ["target"] * LEAST)
    count, total = tables.twin(ASKED[join])
    assert count >= LEAST
    assert round(10 * total / count) == TARGETS
    assert shown(tables.answer(join)) == []


@pytest.mark.parametrize("join", ASKED)
def test_beside_others_she_counts_once_and_with_one_of_her_rows(tmp_path: Path, join: Join) -> None:
    everybody = [f"p{i}" for i in range(LEAST - 1)]
    tables = Tables(tmp_path, [*["target"] * 9, *everybody], partner=["target", *everybody])
    assert tables.twin(ASKED[join])[0] == LEAST + 8
    (cell,) = tables.answer(join)
    assert {LEAST, LEAST * TARGETS} <= set(cell.terms)
    assert max(shown([cell])) == LEAST * TARGETS


@pytest.mark.parametrize("join", [Join.HIDDEN, Join.ALONE])
def test_where_people_have_several_rows_the_gate_still_counts_people(
    tmp_path: Path, join: Join
) -> None:
    tables = Tables(tmp_path, ["target"] * 50, rows_per_person=LEAST)
    assert tables.twin(ASKED[join])[0] == 50
    assert shown(tables.answer(join)) == []


@pytest.mark.parametrize("rows_per_person", [None, 7])
@pytest.mark.parametrize("join", [Join.REVEALED, Join.ALONE])
def test_whatever_a_person_writes_she_moves_no_term_by_more_than_noise_is_made_for(
    tmp_path: Path, join: Join, rows_per_person: int | None
) -> None:
    """Two hundred rows of hers, or none. The twin moves by all of them."""
    others = [f"p{i}" for i in range(9)]
    everybody = [*others, "target"]
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    given = Tables(
        tmp_path / "with",
        [*others, *["target"] * 200],
        partner=everybody,
        rows_per_person=rows_per_person,
    )
    none = replace_judged(Tables(tmp_path / "without", others, partner=everybody), given)
    moved_rows = given.twin(ASKED[join])[0] - none.twin(ASKED[join])[0]
    (with_her, most), (without, _) = given.exact(join), none.exact(join)
    moved = np.abs(with_her - without)
    assert moved_rows == 200 > (rows_per_person or 1)
    assert all(one <= limit for one, limit in zip(moved, most, strict=True))
    assert moved.max() == TARGETS * (rows_per_person or 1)


def replace_judged(tables: Tables, like: Tables) -> Tables:
    tables.judged = like.judged
    return tables


# One key in many spellings

SPELLINGS = {
    "a number, as its column says": (
        ColumnType.INTEGER,
        ["7", "007", "+7", "7.0", "7e0", "0007", "70e-1"],
    ),
    "a character, whole and in parts": (
        ColumnType.TEXT,
        ["\u00c5se", "A\u030ase", "\u212bse"] * 2 + ["\u00c5se"],
    ),
}


@pytest.mark.parametrize("what", SPELLINGS)
@pytest.mark.parametrize("join", [Join.HIDDEN, Join.ALONE])
def test_what_reads_as_one_key_is_one_person(tmp_path: Path, join: Join, what: str) -> None:
    kind, spelled = SPELLINGS[what]
    tables = Tables(tmp_path, spelled, key=kind, partner=spelled)
    alone_twin = tables.twin(ASKED[Join.ALONE])
    assert alone_twin[0] >= LEAST
    plan = compiled(ASKED[join], tables.judged, join=join)
    assert len(tables.local(plan, 0).keys) == 1
    assert shown(tables.answer(join)) == []


ODD = [
    "target",
    " target",
    "target ",
    "target\u00a0",
    "\u3000target",
    "tar\u200bget",
    "\ufefftarget",
]


@pytest.mark.parametrize("join", [Join.SUM, Join.ALONE])
def test_a_key_that_only_looks_like_hers_takes_no_part(tmp_path: Path, join: Join) -> None:
    """' 007' beside '007', blanks of every width, invisible characters: left out, not trimmed, so
    that no two tables trim differently."""
    tables = Tables(tmp_path, ODD, partner=ODD)
    plan = compiled(ASKED[join], tables.judged, join=join)
    assert tables.local(plan, 0).keys == ("target",)
    assert shown(tables.answer(join)) == []
    numbers = Tables(tmp_path, ["007", " 007", "7 ", "\t7", "7"] * 2, key=ColumnType.INTEGER)
    assert numbers.local(compiled(ASKED[join], numbers.judged, join=join), 0).keys == ("7",)


FORMS = ["Anna", "anna", "ANNA", "\uff21nna", "\u0410nna", "Anna.", "An na"]


@pytest.mark.parametrize("join", JOINS)
def test_keys_that_differ_in_case_width_or_alphabet_are_several_only_where_both_tables_say_so(
    tmp_path: Path, join: Join
) -> None:
    """Published: text is not folded, for in many keys case tells people apart. Of invented keys a
    join counts those that the other holder has too."""
    tables = Tables(tmp_path, FORMS, partner=["Anna"])
    assert len(tables.local(compiled(ASKED[join], tables.judged, join=join), 0).keys) == len(FORMS)
    assert shown(tables.answer(join)) == []


def test_what_the_source_let_through_twice_no_engine_is_given() -> None:
    """A second line: keys are spelled anew where they become tokens."""
    for keys in (["\u00e9", "e\u0301"], ["7", "7"]):
        with pytest.raises(KeyRefused, match="rows 1 and 2 have the same join key"):
            canonical_keys(keys, KeyKind.TEXT)


# A holder whose engine lies

SUMS = Layout(1, 1, 1, 2, (Term(0, 0, 0, False), Term(0, 1, 0, False)), (), (), LEAST, 0, None, 1)
VALUE = 424_242


def often(tokens: Int64Array | object, times: int) -> SideRows:
    """The attacker's rows: one key, `times` times."""
    one = np.asarray(tokens)
    return SideRows(
        np.repeat(one, times, axis=0), np.zeros(times, np.int64), np.zeros((times, 0), np.int64)
    )


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The attacker runs a program of its own, which does not refuse its own rows."""
    monkeypatch.setattr(join_rows, "_distinct", lambda tokens: True)
    return monkeypatch


def targets_row() -> SideRows:
    return side([1], [VALUE])


def every_pair(tags_a: object, tags_b: object) -> tuple[Int64Array, Int64Array]:
    """What a database makes of equal keys."""
    a, b = (np.ascontiguousarray(tags).view("V16").ravel() for tags in (tags_a, tags_b))
    at = np.nonzero(a[:, None] == b[None, :])
    return at[0].astype(np.int64), at[1].astype(np.int64)


def test_a_helper_that_pairs_equal_tags_as_a_database_does_shows_one_persons_value(
    lying: pytest.MonkeyPatch,
) -> None:
    """The twin: nobody refuses a row that comes twice."""
    lying.setattr(matching, "equal_tags", every_pair)
    lying.setattr(matching, "require_positions", lambda *held, **what: None)
    b = targets_row()
    outcome = run_three(tasks_of(SUMS, caps=(20, 20)), often(b.tokens, LEAST), b)
    assert outcome.cells[0].terms == (LEAST, LEAST * VALUE)


@pytest.mark.parametrize("liar", [0, 1])
def test_the_helper_refuses_an_upload_with_a_tag_twice_and_nothing_is_opened(
    lying: pytest.MonkeyPatch, liar: int
) -> None:
    mirrored = replace(SUMS, factors_a=2, factors_b=1, terms=(SUMS.terms[0], Term(1, 0, 0, False)))
    b = targets_row()
    sides = (often(b.tokens, LEAST), b)
    outcome = run_three(
        tasks_of(mirrored if liar else SUMS, caps=(20, 20)), *(sides[::-1] if liar else sides)
    )
    assert "uploaded a tag twice" in failed(outcome, 2).problem
    assert not outcome.results
    assert not outcome.room.gated


@pytest.mark.parametrize("at_helper_or_holder", ["helper", "holder"])
def test_were_one_of_them_in_league_the_other_would_still_refuse(
    lying: pytest.MonkeyPatch, at_helper_or_holder: str
) -> None:
    """A helper that pairs one row of a holder several times is refused by that row's owner's
    partner, who reads the positions; without that, by the helper."""
    name = {"helper": "equal_tags", "holder": "require_positions"}[at_helper_or_holder]
    replaced = every_pair if name == "equal_tags" else (lambda *held, **what: None)
    lying.setattr(matching, name, replaced)
    b = targets_row()
    outcome = run_three(tasks_of(SUMS, caps=(20, 20)), often(b.tokens, LEAST), b)
    assert not outcome.results
    problems = [str(one) for one in outcome.failures.values()]
    assert any("twice" in problem for problem in problems)


def summing(lie: bool) -> tuple[Party, Party]:
    """The liar's table is one key six times; it says whatever count the other reckons with."""
    b = targets_row()
    pair = parties(layout(of_b=1, min_group=LEAST), often(b.tokens, LEAST), b, caps=(LEAST, 3))

    def said(label: str, payload: bytes) -> bytes:
        return LEAST.to_bytes(8, "big") if lie and label == "matched" else payload

    pair[0].alter = said
    return run_both(pair)


def test_a_sum_join_that_does_not_look_for_repeats_counts_one_row_six_times_and_sends_its_sums(
    lying: pytest.MonkeyPatch,
) -> None:
    lying.setattr(summed, "_in_order", np.sort)
    _, honest = summing(lie=True)
    assert "share" in honest.stages  # past its gate: the one value is on its way, encrypted


@pytest.mark.parametrize("lie", [False, True])
def test_the_peer_of_a_sum_join_refuses_a_masked_key_that_comes_twice_before_its_gate(
    lying: pytest.MonkeyPatch, lie: bool
) -> None:
    liar, honest = summing(lie)
    assert isinstance(honest.problem, EngineFailed)
    assert honest.problem.fault is EngineFault.MISMATCH
    assert "a masked key twice" in honest.problem.problem
    assert honest.stages == ["match"] and not honest.share
    assert {label for label, _ in liar.received} <= {"task", "masked", "doubled"}
