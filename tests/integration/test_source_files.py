"""A holder's CSV and Parquet files: what is read, what is refused, and what the owner is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from registry.adapters.duckdb_source import DuckDBFileSource
from registry.adapters.staging import locked_engine
from registry.errors import SourceRefused, SourceUnreachable
from registry.ports import Extract, SourceFilter
from registry.product import Column, ColumnType, DataProduct
from registry.source import FileFormat, FileSource
from tests.source_rows import a_product, number, text

Save = Callable[[str | bytes], DuckDBFileSource]
SECRET = "geheim"


@pytest.fixture
def csv(tmp_path: Path) -> Save:
    def save(content: str | bytes) -> DuckDBFileSource:
        path = tmp_path / "rows.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return DuckDBFileSource(FileSource(str(path), FileFormat.CSV))

    return save


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[[str], DuckDBFileSource]:
    def save(query: str) -> DuckDBFileSource:
        path = tmp_path / "rows.parquet"
        duckdb.connect().execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        return DuckDBFileSource(FileSource(str(path), FileFormat.PARQUET))

    return save


def every_column(source: DuckDBFileSource, product: DataProduct) -> Extract:
    return source.extract(product, [c.name for c in product.columns if c.name != product.key], [])


def refusal(source: DuckDBFileSource, product: DataProduct) -> SourceRefused:
    with pytest.raises(SourceRefused) as refused:
        every_column(source, product)
    assert SECRET not in str(refused.value), "a refusal never repeats a value"
    return refused.value


AGE = number("age", low=0, high=120)
BMI = number("bmi", decimals=1, low=100, high=600)
SEX = text("sex", ("f", "m"))


def test_rows_come_out_encoded_clamped_and_in_order_of_key(csv: Save) -> None:
    rows = "sex,id,age,bmi\nm,b,130,22.25\nf,a,40,9.9\n,c,,\nother,d,-3,61\n"
    found = every_column(csv(rows), a_product(AGE, BMI, SEX))
    assert found.keys == ("a", "b", "c", "d")
    assert found.numbers["age"].tolist() == [40, 120, 0, 0]
    assert found.numbers["bmi"].tolist() == [100, 222, 0, 600]
    assert found.valid["age"].tolist() == [True, True, False, True]
    assert found.texts["sex"] == ("f", "m", "", "")
    assert found.valid["sex"].tolist() == [True, True, False, False]


def test_a_file_from_a_spreadsheet_reads_the_same(csv: Save) -> None:
    plain = every_column(csv("id,age\na,1\nb,2\n"), a_product(AGE))
    exported = every_column(csv('\ufeffid,age\r\n"a","1"\r\nb,2'), a_product(AGE))
    assert exported.snapshot == plain.snapshot


def test_a_quoted_line_break_belongs_to_its_value(csv: Save) -> None:
    found = every_column(csv('id,note\na,"x\ny, z"\n'), a_product(text("note")))
    assert found.texts["note"] == ("x\ny, z",)


def test_columns_the_product_does_not_name_are_not_read(csv: Save) -> None:
    rows = csv(f"name,id,age\n{SECRET},a,1\n")
    assert every_column(rows, a_product(AGE)).keys == ("a",)


@pytest.mark.parametrize(
    ("op", "value", "keys"),
    [
        ("=", 20, ("b",)),
        ("!=", 20, ("a", "c")),
        ("<", 20, ("a",)),
        ("<=", 20, ("a", "b")),
        (">", 20, ("c",)),
        (">=", 20, ("b", "c")),
    ],
)
def test_a_filter_keeps_the_rows_it_names_and_never_a_missing_value(
    csv: Save, op: str, value: int, keys: tuple[str, ...]
) -> None:
    rows = csv("id,age\na,10\nb,20\nc,30\nd,\n")
    assert rows.extract(a_product(AGE), [], [SourceFilter("age", op, value)]).keys == keys


def test_filters_add_up(csv: Save) -> None:
    rows = csv("id,age,sex\na,10,f\nb,20,f\nc,30,m\n")
    both = [SourceFilter("age", ">", 10), SourceFilter("sex", "=", "f")]
    found = rows.extract(a_product(AGE, SEX), ["age"], both)
    assert (found.keys, found.numbers["age"].tolist()) == (("b",), [20])
    assert list(found.texts) == []


def test_a_filter_cannot_single_out_what_the_clamp_hides(csv: Save) -> None:
    rows = csv("id,age\na,119\nb,120\nc,121\nd,999\n")
    beyond = rows.extract(a_product(AGE), [], [SourceFilter("age", ">", 120)])
    assert beyond.keys == ()
    assert rows.extract(a_product(AGE), [], [SourceFilter("age", "=", 120)]).keys == ("b", "c", "d")


def test_a_filter_value_is_data_and_never_sql(csv: Save) -> None:
    rows = csv("id,sex\na,f\n")
    value = "f' OR '1'='1"
    assert rows.extract(a_product(text("sex")), [], [SourceFilter("sex", "=", value)]).keys == ()


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        (SourceFilter("age", "LIKE", 1), "age: is compared by none of"),
        (SourceFilter("age", "= 1 OR 1 =", 1), "age: is compared by none of"),
        (SourceFilter("age", "=", "1"), "age: is integer and compared with something else"),
        (SourceFilter("age", "=", True), "age: is integer and compared with something else"),
        (SourceFilter("height", "=", 1), "height: is not a column of patients"),
        (SourceFilter("id", "=", "a"), "id: is the join key and nothing else"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_by_name(
    csv: Save, condition: SourceFilter, problem: str
) -> None:
    with pytest.raises(SourceRefused, match=f"^{problem}"):
        csv("id,age\na,1\n").extract(a_product(AGE), [], [condition])


def test_an_unknown_column_or_the_key_is_not_handed_out(csv: Save) -> None:
    rows = csv("id,age,height\na,1,2\n")
    with pytest.raises(SourceRefused, match=r"height: is not a column of patients"):
        rows.extract(a_product(AGE), ["height"], [])
    with pytest.raises(SourceRefused, match=r"id: is the join key and nothing else"):
        rows.extract(a_product(AGE), ["id"], [])


def test_a_column_missing_from_the_file_is_refused_even_when_not_asked_for(csv: Save) -> None:
    with pytest.raises(SourceRefused, match=r"^age: is not a column of the file"):
        csv("id,Age\na,1\n").extract(a_product(AGE), [], [])


def test_a_column_named_twice_in_the_file_is_refused(csv: Save) -> None:
    assert "age: names two columns" in str(refusal(csv("id,age,age\na,1,2\n"), a_product(AGE)))


@pytest.mark.parametrize(
    "value",
    [SECRET, "1.5", "1,5", "0x10", " 1", "1 ", "1e", "1e1000", "nan", "inf", "--1", "1_0", "１"],
)
def test_a_value_that_is_no_whole_number_is_refused_with_its_row(csv: Save, value: str) -> None:
    refused = refusal(csv(f'id,age\na,1\nb,"{value}"\nc,\n'), a_product(AGE))
    assert (refused.where, refused.problem) == (
        "age",
        "1 value is not a whole number, first in row 2",
    )


def test_a_bad_value_is_refused_whatever_the_filter_selects(csv: Save) -> None:
    """Else whether a job fails would tell which rows its filter selects."""
    rows = csv(f"id,age,bmi\na,1,20\nb,2,{SECRET}\n")
    with pytest.raises(SourceRefused, match=r"^bmi: 1 value is not a number, first in row 2"):
        rows.extract(a_product(AGE, BMI), ["age"], [SourceFilter("age", "=", 1)])


def test_a_number_without_a_range_must_fit_eighteen_digits(csv: Save) -> None:
    product = a_product(number("n"))
    assert every_column(csv(f"id,n\na,{10**18 - 1}\n"), product).numbers["n"][0] == 10**18 - 1
    assert "18 digits" in str(refusal(csv(f"id,n\na,{10**18}\n"), product))


def test_a_number_of_any_size_is_clamped_when_there_is_a_range(csv: Save) -> None:
    rows = csv(f"id,bmi\na,{10**60}\nb,-1e300\nc,0e999\nd,1e-999\n")
    assert every_column(rows, a_product(BMI)).numbers["bmi"].tolist() == [600, 100, 100, 100]


def test_rows_without_a_key_are_dropped(csv: Save) -> None:
    found = every_column(csv('id,age\n,1\n"",2\na,3\n'), a_product(AGE))
    assert (found.keys, found.numbers["age"].tolist()) == (("a",), [3])


def test_two_spellings_of_one_key_are_one_key(csv: Save) -> None:
    integers = a_product(AGE, key=number("id"))
    assert every_column(csv("id,age\n007,1\n+12,2\n-0,3\n5.0,4\n"), integers).keys == (
        "0",
        "12",
        "5",
        "7",
    )
    composed, decomposed = "é", "e\u0301"
    found = every_column(csv(f"id,age\n{decomposed},1\n"), a_product(AGE))
    assert found.keys == (composed,)


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (number("id"), "id,age\n7,1\n007,2\n8,3\n"),
        (text("id"), "id,age\né,1\ne\u0301,2\nz,3\n"),
        (text("id"), f"id,age\n{SECRET},1\n{SECRET},2\n{SECRET},3\n"),
    ],
)
def test_a_key_in_two_rows_is_refused_with_a_count(csv: Save, key: Column, rows: str) -> None:
    refused = refusal(csv(rows), a_product(AGE, key=key))
    assert refused.where == "id"
    assert refused.problem.startswith("1 keys stand in more than one row")


@pytest.mark.parametrize("key", [" a", "a ", "a\u3000", "a\tb", "a\u200bb", "\ufeffa", "x" * 1025])
def test_a_key_with_blanks_around_it_or_invisible_characters_is_refused(
    csv: Save, key: str
) -> None:
    refused = refusal(csv(f'id,age\nok,1\n"{key}",1\n'), a_product(AGE))
    assert refused.where == "id"
    assert refused.problem.endswith("first in row 2")


def test_a_decimal_key_is_refused(csv: Save) -> None:
    assert "a key is text or integer" in str(
        refusal(csv("id,age\n1.5,1\n"), a_product(AGE, key=number("id", decimals=1)))
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("id,age\n", "id: there are no rows at all"),
        ("", "is empty; its first line must name columns"),
        ("id,age\n,1\n,2\n", "id: no row has a key"),
        (b"id,age\na,1\n\xff\xfe,2\n", "is not UTF-8 text (line 3); save it as UTF-8"),
        ("id,age\na,1\n".encode("utf-16"), "is not UTF-8 text (line 1)"),
        (f"id,age\na,1\n{SECRET}\n", "has 1 fields where the first line has 2 (line 3)"),
        (f"id,age\na,1,{SECRET}\n", "has 3 fields where the first line has 2 (line 2)"),
        (f'id,age\na,"{SECRET}\n', "has a quote that is never closed (line 2)"),
        ("id,age\na,1\r\nb,2\n", "one kind of line ending"),
        ('"id,age\n', "first line that is not comma-separated"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_what_to_do(
    csv: Save, content: str | bytes, problem: str
) -> None:
    assert problem in str(refusal(csv(content), a_product(AGE)))


def test_a_file_cut_inside_a_character_is_refused(csv: Save) -> None:
    assert "is not UTF-8" in str(refusal(csv("id,age\né".encode()[:-1]), a_product(AGE)))


def test_more_rows_than_the_cap_are_refused_and_keyless_rows_do_not_count(csv: Save) -> None:
    product = a_product(AGE, cap=2)
    assert len(every_column(csv("id,age\na,1\nb,2\n,3\n"), product).keys) == 2
    refused = refusal(csv("id,age\na,1\nb,2\nc,3\n"), product)
    assert refused.problem.startswith("3 rows are more than the product's cap of 2")


def test_a_missing_file_a_folder_and_a_forbidden_file_say_what_to_do(tmp_path: Path) -> None:
    def source(path: Path) -> DuckDBFileSource:
        return DuckDBFileSource(FileSource(str(path), FileFormat.CSV))

    with pytest.raises(SourceUnreachable, match="does not exist; put the file there"):
        every_column(source(tmp_path / "none.csv"), a_product(AGE))
    with pytest.raises(SourceRefused, match="is a folder"):
        every_column(source(tmp_path), a_product(AGE))
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceUnreachable, match="can't be read"):
        every_column(source(tmp_path / "file" / "x.csv"), a_product(AGE))


def test_parquet_and_csv_of_the_same_rows_give_the_same_digest(
    csv: Save, parquet: Callable[[str], DuckDBFileSource]
) -> None:
    product = a_product(AGE, BMI, SEX)
    columnar = every_column(
        parquet(
            "SELECT * FROM (VALUES ('b', 40::UTINYINT, 22.25::DOUBLE, 'm'), "
            "('a', NULL, 'nan'::DOUBLE, NULL), (NULL, 1, 1.0, 'f')) t(id, age, bmi, sex)"
        ),
        product,
    )
    assert columnar.numbers["bmi"].tolist() == [0, 222]
    plain = every_column(csv("id,age,bmi,sex\na,,,\nb,40,22.25,m\n"), product)
    assert columnar.snapshot == plain.snapshot


def test_a_double_is_its_shortest_decimal_and_not_its_binary_expansion(
    parquet: Callable[[str], DuckDBFileSource],
) -> None:
    """0.15 is stored as 0.1499999999999999944; people who wrote 0.15 mean 0.15, and half to even
    makes that 2 tenths. 2.675 is likewise a half and goes to the even 2.68."""
    rows = parquet("SELECT 'a' AS id, 0.15::DOUBLE AS x, 2.675::DOUBLE AS y, 0.1::FLOAT AS z")
    product = a_product(number("x", decimals=1), number("y", decimals=2), number("z", decimals=9))
    found = every_column(rows, product).numbers
    assert [found[name][0] for name in "xyz"] == [2, 268, 100_000_000]


def test_a_float_column_with_gaps_serves_as_integers(
    parquet: Callable[[str], DuckDBFileSource],
) -> None:
    rows = parquet("SELECT * FROM (VALUES ('a', 5.0::DOUBLE), ('b', 'nan'::DOUBLE)) t(id, age)")
    found = every_column(rows, a_product(AGE))
    assert (found.numbers["age"].tolist(), found.valid["age"].tolist()) == ([5, 0], [True, False])


@pytest.mark.parametrize(
    ("value", "column", "problem"),
    [
        ("[1, 2]", AGE, "age: is INTEGER[] in the file; the product says integer"),
        ("true", AGE, "age: is BOOLEAN in the file; the product says integer"),
        ("DATE '2026-01-01'", AGE, "age: is DATE in the file; the product says integer"),
        ("1.5::DOUBLE", text("age"), "age: is DOUBLE in the file; the product says text"),
        ("'x'::BLOB", text("age"), "age: is BLOB in the file; the product says text"),
        ("'inf'::DOUBLE", AGE, "age: 1 value is not a whole number, first in row 1"),
    ],
)
def test_a_parquet_column_of_the_wrong_type_is_refused(
    parquet: Callable[[str], DuckDBFileSource], value: str, column: Column, problem: str
) -> None:
    rows = parquet(f"SELECT 'a' AS id, {value} AS age")
    assert str(refusal(rows, a_product(column))) == problem


def test_a_floating_point_key_is_refused(parquet: Callable[[str], DuckDBFileSource]) -> None:
    rows = parquet("SELECT 1::DOUBLE AS id, 1 AS age")
    assert "id: is DOUBLE" in str(refusal(rows, a_product(AGE, key=number("id"))))


@pytest.mark.parametrize("content", [b"", b"id,age\na,1\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_only_claims_to_be_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    source = DuckDBFileSource(FileSource(str(path), FileFormat.PARQUET))
    assert "is not a whole Parquet file" in str(refusal(source, a_product(AGE)))


def test_the_folder_of_a_file_adds_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "age=7"
    folder.mkdir()
    (folder / "rows.csv").write_text("id\na\n")
    source = DuckDBFileSource(FileSource(str(folder / "rows.csv"), FileFormat.CSV))
    assert "age: is not a column" in str(refusal(source, a_product(AGE)))


def test_a_path_with_a_quote_is_only_a_path(tmp_path: Path) -> None:
    path = tmp_path / "it's.csv"
    path.write_text("id,age\na,1\n")
    source = DuckDBFileSource(FileSource(str(path), FileFormat.CSV))
    assert every_column(source, a_product(AGE)).keys == ("a",)


def test_the_digest_covers_exactly_the_rows_and_columns_extracted(csv: Save) -> None:
    product = a_product(AGE, SEX)
    first = csv("id,age,sex\na,1,f\nb,2,m\n").extract(product, ["age"], [])
    moved = csv("sex,age,id\nf,2,b\nm,1,a\n").extract(product, ["age"], [])
    assert moved.snapshot == first.snapshot, "neither row order nor columns not asked for matter"
    rows = csv("id,age,sex\na,1,f\nb,2,m\n")
    others = [
        rows.extract(product, ["age", "sex"], []),
        rows.extract(product, ["sex"], []),
        rows.extract(product, ["age"], [SourceFilter("age", "=", 1)]),
        csv("id,age,sex\na,1,f\nb,3,m\n").extract(product, ["age"], []),
        csv("id,age,sex\na,1,f\nc,2,m\n").extract(product, ["age"], []),
        csv("id,age,sex\na,0,f\nb,2,m\n").extract(product, ["age"], []),
        csv("id,age,sex\na,,f\nb,2,m\n").extract(product, ["age"], []),
    ]
    assert len({first.snapshot, *(other.snapshot for other in others)}) == 8


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT * FROM read_csv('{other}')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/new.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET allowed_paths = ['{other}']",
        "RESET lock_configuration",
        "SELECT * FROM attempt",
    ],
)
def test_the_engine_can_open_the_one_file_and_nothing_else(tmp_path: Path, attempt: str) -> None:
    rows, other = tmp_path / "rows.csv", tmp_path / "other.csv"
    rows.write_text("id\na\n")
    other.write_text("id\nb\n")
    with locked_engine(rows) as connection:
        assert connection.execute(f"SELECT * FROM read_csv('{rows}')").fetchall() == [("a",)]
        with pytest.raises(duckdb.Error):
            connection.execute(attempt.format(other=other, folder=tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.csv", "rows.csv"]


def test_reading_writes_nothing(csv: Save, tmp_path: Path) -> None:
    source = csv("id,age\na,1\n")
    before = (tmp_path / "rows.csv").stat()
    every_column(source, a_product(AGE))
    after = (tmp_path / "rows.csv").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_the_owner_is_told_how_the_file_fits(csv: Save) -> None:
    rows = csv(f"id,age,bmi,sex\na,1,20.5,f\na,130,99,x\n,,{SECRET},m\nb,-5,{SECRET},\nc,7,5,\n")
    report = rows.describe(a_product(AGE, BMI, SEX, Column("s5", ColumnType.DECIMAL, "serum")))
    assert (report.rows, report.without_key, report.duplicate_keys) == (5, 1, 1)
    age, bmi, sex, s5 = report.columns[1:]
    assert (age.missing, age.uncastable, age.below, age.above) == (1, 0, 1, 1)
    assert (age.low, age.high) == (-5, 130)
    assert (bmi.uncastable, bmi.first_uncastable, bmi.low, bmi.high) == (2, 3, 50, 990)
    assert (sex.missing, sex.outside_categories, sex.low) == (2, 1, None)
    assert s5.problem == "is not a column of the file"
    assert [problem.partition(":")[0] for problem in report.problems] == ["s5", "bmi", "id"]
    assert SECRET not in str(report)


def test_a_file_that_fits_has_no_problems(csv: Save) -> None:
    report = csv("id,age\na,1\n").describe(a_product(AGE))
    assert report.problems == ()
