"""Files that people write are read exactly, and a mistake is named where it stands."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import duckdb
import pytest

from api.answer_files import columns, number, table_lines, write_csv
from api.files.product import EXPLAINED, read_product, template
from api.files.question import question_of, read_question
from api.files.reading import FileRefused
from api.files.terms import WrittenTerms, complete, read_terms
from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import JobId, PartyId, ProductId
from crypto.record import Rational
from exchange.node.adapters.answer_parquet import write_parquet
from exchange.query.question import DELTA, Question
from exchange.results import (
    Answer,
    Figure,
    Found,
    FoundRecord,
    LookupAnswer,
    Missing,
    Row,
    ScoreAnswer,
    ScoredRow,
)
from exchange.terms.agreement import Partner
from registry.product import DataProduct
from registry.rule import Join

PRODUCT = ProductId("prd_" + "1" * 32)
OTHER = ProductId("prd_" + "2" * 32)
HOLDER = PartyId("pty_" + "3" * 32)
REGULATOR = PartyId("pty_" + "4" * 32)
DIGEST = Digest(bytes(32))
NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def text() -> str:
    return template(lambda name: name)


def read(tmp_path: Path, text: str) -> DataProduct:
    file = tmp_path / "product.toml"
    file.write_text(text)
    return read_product(
        file,
        fresh_id=lambda: PRODUCT,
        next_version=lambda number: 7,
        holder=HOLDER,
        holder_document=DIGEST,
    )


def test_the_template_is_a_product_that_can_be_published(tmp_path: Path, text: str) -> None:
    product = read(tmp_path, text)
    assert (product.id, product.version, product.price_minor) == (PRODUCT, 1, 1250)
    assert (product.column("progression").low, product.column("progression").high) == (0, 4000)
    assert all(f"# {name}" in text for name in EXPLAINED)


def test_a_file_that_names_its_product_is_the_next_version_of_it(tmp_path: Path, text: str) -> None:
    product = read(tmp_path, f'id = "{OTHER}"\n{text}')
    assert (product.id, product.version) == (OTHER, 7)


def test_a_range_is_the_exact_number_that_was_written(tmp_path: Path, text: str) -> None:
    exact = text.replace("decimals = 1", "decimals = 9").replace("400.0", "0.123456789")
    assert read(tmp_path, exact).column("progression").high == 123_456_789
    quoted = text.replace("400.0", '"400.0"')
    assert read(tmp_path, quoted).column("progression").high == 4000


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("cap = 1000", "", "cap: is missing"),
        ("cap = 1000", 'cap = "many"', "cap"),
        ("cap = 1000", "cap = 1000\nfree = true", "free: is not a field"),
        ("price_minor = 1250", "price_minor = 12.50", "price_minor"),
        ("price_minor = 1250", 'price_minor = "-5"', "price_minor"),
        ("high = 400.0", "high = 400.05", "columns[2].high: has more than"),
        ("high = 400.0", "high = nan", "columns[2].high"),
        ("high = 400.0", "", "columns[2] (progression)"),
        ("decimals = 1", "decimals = 10", "columns[2].decimals"),
        ('type = "decimal"', 'type = "float"', "columns[2].type: 'float' is not one of"),
        ('uses = ["aggregate"]', 'uses = ["average"]', "columns[2].uses[0]"),
        ('uses = ["aggregate"]', "use = []", "columns[2].use: is not a field"),
        ('joins = ["hidden", "revealed"]', 'joins = ["hidden?"]', "rule.joins[0]"),
        ('key = "patient"', 'key = "person"', "key: person is not a column"),
        ('currency = "TEST"', 'currency = "test"', "currency"),
        ('name = "sex"', 'name = "patient"', "columns: name a column twice"),
        ("[rule]", "[rule", "cannot be read"),
    ],
)
def test_a_mistake_in_a_product_file_is_named(
    before: str, after: str, where: str, tmp_path: Path, text: str
) -> None:
    assert before in text
    with pytest.raises(FileRefused, match=r".") as refused:
        read(tmp_path, text.replace(before, after))
    assert where in str(refused.value)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'product = "\xe9"')
    with pytest.raises(FileRefused, match="UTF-8"):
        read_terms(tmp_path / "latin.toml")
    with pytest.raises(FileRefused, match="cannot be read"):
        read_terms(tmp_path / "absent.toml")


def test_terms_that_say_nothing_are_the_products_own(tmp_path: Path, text: str) -> None:
    product = read(tmp_path, text)
    terms = complete(WrittenTerms(), product, DIGEST, now=NOW, document_of=lambda party: DIGEST)
    assert terms.purposes == product.rule.purposes
    assert terms.min_group == product.rule.min_group
    assert terms.price_minor == product.price_minor
    assert (terms.runs, terms.epsilon, terms.regulator) == (1, Fraction(0), None)


def test_what_an_option_says_wins_over_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "terms.toml"
    file.write_text(
        f'product = "{PRODUCT}"\nruns = 3\nepsilon = "1/4"\nprice_minor = "900"\n'
        f'combine_with = ["{OTHER}@{REGULATOR}"]\nregulator = "{REGULATOR}"\n'
        "valid_until = 2027-01-01T00:00:00+08:00\n"
    )
    written = WrittenTerms(runs=5).over(read_terms(file))
    terms = complete(
        written, read(tmp_path, text), DIGEST, now=NOW, document_of=lambda party: DIGEST
    )
    assert (terms.runs, terms.epsilon, terms.price_minor) == (5, Fraction(1, 4), 900)
    assert terms.valid_until == datetime(2026, 12, 31, 16, tzinfo=UTC)
    assert (terms.combine_with, terms.regulator) == ((Partner(OTHER, REGULATOR),), REGULATOR)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ('product = "prd_x"', "product"),
        ('combine_with = ["pty_1"]', r"combine_with\[0\]"),
        ('epsilon = "a"', "epsilon"),
        ('epsilon = "1/0"', "epsilon"),
        ('joins = ["outer"]', r"joins\[0\]"),
        ("valid_until = 2026-12-01T00:00:00", "valid_until"),
        ("runs = 0", "runs"),
        ("purposes = []", "purposes"),
    ],
)
def test_a_mistake_in_terms_is_named(line: str, where: str, tmp_path: Path, text: str) -> None:
    from registry.errors import DocumentRefused

    (tmp_path / "terms.toml").write_text(line)
    written = read_terms(tmp_path / "terms.toml")
    with pytest.raises((DocumentRefused, Malformed), match=where):
        complete(written, read(tmp_path, text), DIGEST, now=NOW, document_of=lambda party: DIGEST)


QUESTION = f"""
purpose = "research"
min_group = 10
epsilon = 0.50
sql = '''
SELECT COUNT(*) FROM clinic
'''
[tables]
clinic = "{PRODUCT}"
"""


def test_a_question_is_sql_with_what_goes_beside_it(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(QUESTION)
    question = read_question(tmp_path / "q.toml")
    assert question.sql.strip() == "SELECT COUNT(*) FROM clinic"
    assert question.tables == {"clinic": PRODUCT}
    assert (question.epsilon, question.min_group) == (Fraction(1, 2), 10)
    assert question.join is None


OPTIONS: dict[str, object] = {
    "sql": "SELECT COUNT(*) FROM clinic",
    "tables": [f"clinic={PRODUCT}"],
    "purpose": "research",
    "join": None,
    "min_group": 10,
    "epsilon": "1/2",
    "delta": None,
    "noise": None,
    "hide_size": False,
}


def asked(path: Path | None = None, **changes: object) -> Question:
    return question_of(path, **{**OPTIONS, **changes})  # type: ignore[arg-type]


def test_options_say_the_same_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(QUESTION)
    written = read_question(tmp_path / "q.toml")
    assert asked(sql=written.sql) == written
    assert asked(join="auto") == asked()
    assert asked(join="hidden", hide_size=True).join is Join.HIDDEN


def test_a_file_says_all_there_is_to_ask(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(QUESTION)
    nothing = dict.fromkeys(OPTIONS) | {"hide_size": False}
    assert asked(tmp_path / "q.toml", **nothing) == read_question(tmp_path / "q.toml")
    with pytest.raises(FileRefused, match="leave the options out"):
        asked(tmp_path / "q.toml")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"sql": None}, "--sql"),
        ({"purpose": None}, "--purpose"),
        ({"tables": ["clinic"]}, "--table"),
        ({"tables": [f"clinic={PRODUCT}"] * 2}, "--table"),
        ({"tables": ["clinic=x"]}, "tables.clinic"),
        ({"join": "secret"}, "join"),
        ({"epsilon": "lots"}, "epsilon"),
        ({"noise": "pink"}, "noise"),
    ],
)
def test_an_option_that_means_nothing_is_named(changes: dict[str, object], where: str) -> None:
    with pytest.raises(FileRefused, match=r".") as refused:
        asked(**changes)
    assert where in str(refused.value)


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("min_group = 10", "min_group = true", "min_group"),
        ("min_group = 10", "min_people = 10", "min_people: is not a field"),
        ('purpose = "research"', "", "purpose: is missing"),
        ("0.50", '"few"', "epsilon"),
        ("0.50", "[]", "epsilon"),
        (f'"{PRODUCT}"', '"x"', "tables.clinic"),
        ("[tables]", "[tables", "cannot be read"),
    ],
)
def test_a_mistake_in_a_question_is_named(
    before: str, after: str, where: str, tmp_path: Path
) -> None:
    assert before in QUESTION
    (tmp_path / "q.toml").write_text(QUESTION.replace(before, after))
    with pytest.raises(FileRefused, match=r".") as refused:
        read_question(tmp_path / "q.toml")
    assert where in str(refused.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(100), "100"),
        (Fraction(-5, 2), "-2.5"),
        (Fraction(1, 3), "0.333333333333333"),
        (Fraction(123456789012345678), "123456789012346000"),
        (Fraction(1, 10**9), "0.000000001"),
        (None, None),
    ],
)
def test_an_exact_number_is_written_in_decimals(value: Fraction | None, text: str | None) -> None:
    assert number(value) == text


def test_an_answer_is_a_table_with_empty_cells_where_a_number_is_missing(tmp_path: Path) -> None:
    found = Figure(Rational(5, 2), Rational(2), Rational(3))
    rows = (Row(("f",), (found,)), Row(("m",), (Figure(None, missing=Missing.SUPPRESSED),)))
    answer = Answer(
        JobId("job_" + "0" * 32), Join.HIDDEN, ("sex",), ("m",), rows, 10, Fraction(2), DELTA, ()
    )
    lines = [
        "sex,m,m_low,m_high,suppressed",
        "f,2.5,2,3,false",
        "m,,,,true",
    ]
    write_csv(answer, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == lines
    with pytest.raises(FileExistsError):
        write_csv(answer, tmp_path / "a.csv")
    write_parquet(columns(answer), table_lines(answer), tmp_path / "a'.parquet")
    with duckdb.connect() as connection:
        stored = connection.read_parquet(str(tmp_path / "a'.parquet")).fetchall()
    assert stored == [("f", 2.5, 2.0, 3.0, False), ("m", None, None, None, True)]


def test_records_and_scores_are_tables_too(tmp_path: Path) -> None:
    job = JobId("job_" + "0" * 32)
    records = LookupAnswer(
        job,
        ("found", "town"),
        (FoundRecord("a", Found.RECORD, {"town": "x"}), FoundRecord("b", Found.NOTHING)),
    )
    write_csv(records, tmp_path / "r.csv")
    assert (tmp_path / "r.csv").read_text().splitlines() == [
        "key,found,found_2,town",
        "a,record,,x",
        "b,nothing,,",
    ]
    scores = ScoreAnswer(job, ("risk",), (ScoredRow("a", (Rational(-1, 4),)),))
    write_csv(scores, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text().splitlines() == ["row,risk", "a,-0.25"]
