"""Files that people write are read exactly, and a mistake is named where it stands."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest

from api.answer_files import number
from api.files.product import EXPLAINED, read_product, template
from api.files.question import read_question
from api.files.reading import FileRefused
from api.files.terms import WrittenTerms, complete, read_terms
from crypto.digest import Digest
from crypto.errors import Malformed
from crypto.identifiers import PartyId, ProductId
from exchange.results import Answer
from exchange.terms.agreement import Partner
from registry.product import DataProduct

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
        ('joins = ["revealed"]', 'joins = ["hidden?"]', "rule.joins[0]"),
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


QUESTION = (
    f'{{"products": ["{PRODUCT}", "{OTHER}"], "purpose": "research", "min_group": 10, "group_by": '
    f'[{{"product": "{PRODUCT}", "column": "s5", "cuts": [4.60, "5.10"]}}], "where": '
    f'[{{"product": "{OTHER}", "column": "age", "op": ">=", "value": 18.50}}]}}'
)


def test_numbers_in_a_question_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(QUESTION)
    question = read_question(tmp_path / "q.json")
    assert question.group_by[0].cuts == ("4.60", "5.10")
    assert question.where[0].value == "18.50"
    assert question.measures == ()


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ('"min_group": 10, ', "", "min_group: is missing"),
        ('"min_group": 10', '"min_group": true', "min_group"),
        ('"purpose"', '"min_group": 3, "purpose"', "twice"),
        ("4.60", '"few"', "group_by[0].cuts[0]"),
        (f'["{PRODUCT}"', '["x"', "products[0]"),
        ("18.50", "null", "where[0].value"),
        ("18.50", "[]", "where[0].value"),
        ('"where"', '"having"', "having: is not a field"),
        ("}]}", "}]", "cannot be read"),
    ],
)
def test_a_mistake_in_a_question_is_named(
    before: str, after: str, where: str, tmp_path: Path
) -> None:
    assert before in QUESTION
    (tmp_path / "q.json").write_text(QUESTION.replace(before, after))
    with pytest.raises(FileRefused, match=r".") as refused:
        read_question(tmp_path / "q.json")
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


def test_two_columns_of_one_name_stay_apart_in_a_table() -> None:
    answer = Answer(PRODUCT, ("age", "count", "age"), ("sum_x", "sum_x"), ())  # type: ignore[arg-type]
    assert answer.table_columns == (
        "age",
        "count",
        "age_2",
        "count_2",
        "sum_x",
        "sum_x_2",
        "suppressed",
    )
