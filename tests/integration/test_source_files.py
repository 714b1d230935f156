"""A holder's CSV and Parquet files: what is read, what is refused, and what the owner is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from registry.adapters.staging import locked_engine
from registry.errors import SourceRefused, SourceUnreachable
from registry.expression import (
    Case,
    ColumnValue,
    Comparator,
    Compare,
    LocalFactor,
    LocalQuery,
    Number,
    Present,
    Text,
    When,
)
from registry.product import Column, ColumnType, DataProduct
from registry.source import FileFormat, FileSource
from tests.source_rows import (
    Extract,
    ReadableFile,
    SourceFilter,
    a_product,
    a_query,
    number,
    text,
)

Save = Callable[[str | bytes], ReadableFile]
SECRET = "geheim"


@pytest.fixture
def csv(tmp_path: Path) -> Save:
    def save(content: str | bytes) -> ReadableFile:
        path = tmp_path / "rows.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return ReadableFile(FileSource(str(path), FileFormat.CSV))

    return save


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[[str], ReadableFile]:
    def save(query: str) -> ReadableFile:
        path = tmp_path / "rows.parquet"
        duckdb.connect().execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
        return ReadableFile(FileSource(str(path), FileFormat.PARQUET))

    return save


def every_column(source: ReadableFile, product: DataProduct) -> Extract:
    return source.extract(product, [c.name for c in product.columns if c.name != product.key], [])


def refusal(source: ReadableFile, product: DataProduct) -> SourceRefused:
    with pytest.raises(SourceRefused) as refused:
        every_column(source, product)
    assert SECRET not in str(refused.value), "a refusal never repeats a value"
    return refused.value


def problems(source: ReadableFile, product: DataProduct) -> tuple[str, ...]:
    found = source.describe(product).problems
    assert SECRET not in str(found), "nor does what the owner is told"
    return found


AGE = number("age", low=0, high=120)
BMI = number("bmi", decimals=1, low=100, high=600)
SEX = text("sex", ("f", "m"))
BY_SEX = Case(
    tuple(
        When(Compare(Comparator.EQUAL, ColumnValue("sex"), Text(category)), Number(i, 0))
        for i, category in enumerate(("f", "m"))
    ),
    None,
)


def test_rows_come_out_encoded_clamped_and_in_order_of_key(csv: Save) -> None:
    rows = csv("sex,id,age,bmi\nm,b,130,22.25\nf,a,40,9.9\n,c,,\nother,d,-3,61\n")
    product = a_product(AGE, BMI, SEX)
    found = rows.compute(product, a_query("age", "bmi", group=BY_SEX))
    assert found.keys == ("a", "b", "c", "d")
    assert found.factors.tolist() == [[40, 100], [120, 222], [0, 0], [0, 600]]
    assert found.group.tolist() == [0, 1, -1, -1]
    assert found.factors.dtype == found.group.dtype == np.dtype(np.int64)


def test_records_are_what_people_write(csv: Save) -> None:
    rows = csv("sex,id,age,bmi\nm,b,130,22.25\nf,a,040,9.9\n,c,x,\nother,d,-3,61\n")
    weight = number("bmi", decimals=2, low=-5, high=10_000)
    found = rows.records(a_product(AGE, weight, SEX), ["bmi", "age", "sex"])
    assert found.keys == ("a", "b", "c", "d")
    assert found.records == (
        ("9.90", "40", "f"),
        ("22.25", "120", "m"),
        ("", "", ""),
        ("61.00", "0", ""),
    )
    below = csv("id,bmi\na,-0.05\nb,-1\nc,0\n").records(a_product(weight), ["bmi"])
    assert below.records == (("-0.05",), ("-0.05",), ("0.00",))


def test_a_query_without_factors_counts_people(csv: Save) -> None:
    found = csv("id,age\na,1\nb,\n").compute(a_product(AGE), a_query())
    assert (found.keys, found.factors.shape, found.group.tolist()) == (("a", "b"), (2, 0), [0, 0])


def test_a_query_that_selects_nobody_yields_no_rows(csv: Save) -> None:
    product = a_product(AGE)
    found = csv("id,age\na,1\n").compute(product, a_query("age", where=("age", ">", 5)))
    assert (found.keys, found.factors.shape, found.group.shape) == ((), (0, 1), (0,))


def test_memberships_name_the_group_in_which_each_query_counts_each_person(csv: Save) -> None:
    rows = csv("id,age,sex\na,10,f\nb,20,m\nc,30,\nd,x,f\n,40,f\n")
    product = a_product(AGE, SEX)
    queries = [a_query(group=BY_SEX), a_query(where=("age", ">", 15), group=BY_SEX), a_query()]
    found = rows.memberships(product, queries)
    assert found.tolist() == [[0, 1, -1, 0], [-2, 1, -1, -2], [0, 0, 0, 0]]
    assert found.dtype == np.int64
    assert rows.memberships(product, []).shape == (0, 4)


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


@pytest.mark.parametrize("literal", ["f' OR '1'='1", 'f"', "$p0", "?", "f'); DROP TABLE encoded--"])
def test_a_literal_is_data_and_never_sql(csv: Save, literal: str) -> None:
    rows = csv(f'id,sex\na,f\nb,"{literal.replace(chr(34), chr(34) * 2)}"\n')
    only = rows.extract(a_product(text("sex")), [], [SourceFilter("sex", "=", literal)])
    assert only.keys == ("b",)


HUGE = number("huge", low=0, high=2**60)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (a_query(where=("age", "=", "1")), "where: compares text with a number"),
        (a_query(where=("height", "=", 1)), "height: is not a column of patients"),
        (a_query(where=("id", "=", "a")), "id: is the join key and nothing else"),
        (a_query("height"), "height: is not a column of patients"),
        (a_query("sex"), "factors: is text where a number is needed"),
        (a_query("visits"), "factors: visits has no public range"),
        (
            a_query(Case((When(Present(ColumnValue("id")), Number(1, 0)),), None)),
            "id: is the join key and nothing else",
        ),
        (a_query(Case((), Number(1, 0))), "factors: a CASE needs at least one WHEN"),
        (a_query(group=ColumnValue("sex")), "group: is text where a number is needed"),
        (a_query(group=ColumnValue("bmi")), "group: is not a number 0, 1, 2, …"),
        (a_query(group=Number(-1, 0)), "group: is not a number 0, 1, 2, …"),
    ],
)
def test_a_query_that_does_not_fit_the_product_is_refused_by_name(
    csv: Save, query: LocalQuery, problem: str
) -> None:
    rows = csv("id,age,bmi,sex,visits,height\na,1,2,f,3,4\n")
    with pytest.raises(SourceRefused) as refused:
        rows.compute(a_product(AGE, BMI, SEX, number("visits")), query)
    assert str(refused.value) == problem


def test_a_sum_of_one_persons_rows_that_could_leave_62_bits_is_refused(csv: Save) -> None:
    rows = csv("id,huge\na,1\na,2\n")
    few = replace(a_product(HUGE), rows_per_person=4)
    assert rows.compute(few, a_query("huge")).factors.tolist() == [[3]]
    with pytest.raises(SourceRefused, match="factors: could add up to more than 62 bits"):
        rows.compute(replace(few, rows_per_person=5), a_query("huge"))


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
def test_a_value_that_is_no_whole_number_counts_as_missing_and_its_row_is_told(
    csv: Save, value: str
) -> None:
    rows = csv(f'id,age\na,1\nb,"{value}"\nc,\n')
    product = a_product(AGE)
    assert rows.extract(product, ["age"], []).valid["age"].tolist() == [True, False, False]
    assert problems(rows, product) == (
        "age: 1 value is not a whole number, first in row 2; counted as missing",
    )


def test_one_persons_long_text_ends_nobodys_job(csv: Save) -> None:
    rows = csv(f"id,age,note\na,1,x\nb,2,{'y' * 3_000_000}\nc,{'9' * 3_000_000},\n")
    found = rows.compute(a_product(AGE, text("note")), a_query("age"))
    assert (found.keys, found.factors.tolist()) == (("a", "b", "c"), [[1], [2], [120]])


def test_no_comparison_selects_a_value_that_counts_as_missing(csv: Save) -> None:
    rows = csv(f"id,age\na,1\nb,{SECRET}\nc,1.5\n")
    for op in ("=", "!=", "<", "<=", ">", ">="):
        assert set(rows.extract(a_product(AGE), [], [SourceFilter("age", op, 1)]).keys) <= {"a"}


def test_a_number_without_a_range_must_fit_eighteen_digits(csv: Save) -> None:
    product = a_product(number("n"))
    rows = csv(f"id,n\na,{10**18 - 1}\nb,{10**18}\nc,-{10**30}\n")
    assert rows.records(product, ["n"]).records == ((str(10**18 - 1),), ("",), ("",))
    (problem,) = problems(rows, product)
    assert problem == (
        "n: 2 values are not a whole number of at most 18 digits, first in row 2; "
        "counted as missing"
    )


@pytest.mark.parametrize("high", [10**18, 2**60, 10**40])
def test_a_range_wider_than_eighteen_digits_does_not_pass_off_one_number_as_another(
    csv: Save, high: int
) -> None:
    product = a_product(number("n", low=-high, high=high))
    rows = csv(f"id,n\na,{10**18 - 1}\nb,{10**18 + 5}\nc,-{10**41}\n")
    assert rows.records(product, ["n"]).records == ((str(10**18 - 1),), ("",), ("",))


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
    ("key", "rows", "kept"),
    [
        (number("id"), "id,age\n7,2\n007,1\n8,3\n", [1, 3]),
        (text("id"), "id,age\né,2\ne\u0301,1\nz,3\n", [3, 1]),
        (text("id"), f"id,age\n{SECRET},\n{SECRET},5\n{SECRET},4\n", [4]),
    ],
)
def test_of_a_key_in_several_rows_the_first_by_value_takes_part(
    csv: Save, key: Column, rows: str, kept: list[int]
) -> None:
    product = a_product(AGE, key=key)
    assert every_column(csv(rows), product).numbers["age"].tolist() == kept
    assert problems(csv(rows), product) == (
        "id: 1 key stands in more than one row; one row of each takes part, the others do not",
    )


def test_the_digest_of_all_rows_is_another_once_one_has_changed_come_or_gone(csv: Save) -> None:
    product = a_product(AGE, SEX)
    table = "id,age,sex\na,1,f\nb,,m\nb,2,\n"
    digests = {
        csv(changed).digest(product)
        for changed in (
            table,
            table.replace("a,1", "a,2"),
            table.replace("b,,m", "b,m,"),  # the same texts in other columns
            table + "c,3,f\n",
            table + "a,1,f\n",  # a row twice
            table.replace("b,2,\n", ""),
        )
    }
    assert len(digests) == 6
    other_order = "sex,unused,age,id\n,x,2,b\nm,y,,b\nf,z,1,a\n"
    assert csv(other_order).digest(product) == csv(table).digest(product)


def test_which_row_of_a_person_takes_part_does_not_depend_on_the_question(csv: Save) -> None:
    """Else a person with two rows could be counted among women and among men."""
    rows = csv("id,age,sex\na,30,f\na,20,m\nb,1,f\n")
    product = a_product(AGE, SEX)
    for sex, keys in (("f", ("b",)), ("m", ("a",))):
        assert rows.extract(product, [], [SourceFilter("sex", "=", sex)]).keys == keys
    assert rows.memberships(product, [a_query(group=BY_SEX)]).tolist() == [[1, 0]]
    assert rows.records(product, ["sex"]).records == (("m",), ("f",))


def test_rows_of_one_person_add_up_and_no_more_of_them_than_the_product_says(csv: Save) -> None:
    product = replace(a_product(AGE), rows_per_person=2)
    rows = csv("id,age\na,7\na,\na,5\na,9\nb,1\nc,x\nc,0\n")
    older = Compare(Comparator.GREATER, ColumnValue("age"), Number(5, 0))
    age = ColumnValue("age")
    query = LocalQuery(None, None, (LocalFactor(age, False), LocalFactor(age, True)))
    found = rows.compute(product, query)
    assert (found.keys, found.factors.tolist()) == (("a", "b", "c"), [[12, 1], [1, 1], [0, 0]])
    assert found.group.tolist() == [0, 0, 0]
    filtered = rows.compute(product, replace(query, where=older))
    assert (filtered.keys, filtered.factors.tolist()) == (("a",), [[7, 1]])
    assert rows.memberships(product, [query, replace(query, where=older)]).tolist() == [
        [0, 0, 0],
        [0, -2, -2],
    ]
    assert (
        problems(rows, product)[-1] == "id: 1 key stands in more than 2 rows; 2 of each take part"
    )


def test_several_rows_a_person_make_no_group_and_no_record(csv: Save) -> None:
    product = replace(a_product(AGE), rows_per_person=2)
    rows = csv("id,age\na,7\n")
    with pytest.raises(SourceRefused, match=r"^group: a person with several rows"):
        rows.compute(product, a_query(group=Number(0, 0)))
    with pytest.raises(SourceRefused, match=r"^id: has several rows a person"):
        rows.records(product, ["age"])


@pytest.mark.parametrize("key", [" a", "a ", "a\u3000", "a\tb", "a\u200bb", "\ufeffa", "x" * 1025])
def test_a_row_takes_no_part_whose_key_has_blanks_around_it_or_invisible_characters(
    csv: Save, key: str
) -> None:
    rows = csv(f'id,age\nok,1\n"{key}",1\n')
    assert every_column(rows, a_product(AGE)).keys == ("ok",)
    (problem,) = problems(rows, a_product(AGE))
    assert problem.startswith("id: 1 value is not a key free of blanks at its ends")
    assert problem.endswith("first in row 2; rows without a key take no part")


def test_a_row_takes_no_part_whose_key_is_no_whole_number(csv: Save) -> None:
    rows = csv(f"id,age\n7,1\n7.5,2\nx,3\n{10**38},4\n{10**38 - 1},5\n")
    product = a_product(AGE, key=number("id"))
    assert every_column(rows, product).keys == ("7", str(10**38 - 1))
    assert rows.describe(product).columns[0].uncastable == 3


def test_rows_of_which_none_has_a_key_are_nobody(csv: Save) -> None:
    rows = csv("id,age\n,1\n,2\n")
    assert every_column(rows, a_product(AGE)).keys == ()
    assert problems(rows, a_product(AGE)) == ("id: no row has a key, so nobody takes part",)


def test_a_decimal_key_is_refused(csv: Save) -> None:
    assert "a key is text or integer" in str(
        refusal(csv("id,age\n1.5,1\n"), a_product(AGE, key=number("id", decimals=1)))
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("id,age\n", "id: there are no rows at all"),
        ("", "is empty; its first line must name columns"),
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


def test_more_people_than_the_cap_are_refused_and_rows_that_take_no_part_do_not_count(
    csv: Save,
) -> None:
    product = a_product(AGE, cap=2)
    assert len(every_column(csv("id,age\na,1\nb,2\n,3\nb,4\n c,5\n"), product).keys) == 2
    refused = refusal(csv("id,age\na,1\nb,2\nc,3\n"), product)
    assert refused.problem.startswith("3 people are more than the product's cap of 2")


def test_a_missing_file_a_folder_and_a_forbidden_file_say_what_to_do(tmp_path: Path) -> None:
    def source(path: Path) -> ReadableFile:
        return ReadableFile(FileSource(str(path), FileFormat.CSV))

    with pytest.raises(SourceUnreachable, match="does not exist; put the file there"):
        every_column(source(tmp_path / "none.csv"), a_product(AGE))
    with pytest.raises(SourceRefused, match="is a folder"):
        every_column(source(tmp_path), a_product(AGE))
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceUnreachable, match="can't be read"):
        every_column(source(tmp_path / "file" / "x.csv"), a_product(AGE))


def test_parquet_and_csv_of_the_same_rows_give_the_same_digest(
    csv: Save, parquet: Callable[[str], ReadableFile]
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
    parquet: Callable[[str], ReadableFile],
) -> None:
    """0.15 is stored as 0.1499999999999999944; people who wrote 0.15 mean 0.15, and half to even
    makes that 2 tenths. 2.675 is likewise a half and goes to the even 2.68."""
    rows = parquet("SELECT 'a' AS id, 0.15::DOUBLE AS x, 2.675::DOUBLE AS y, 0.1::FLOAT AS z")
    product = a_product(number("x", decimals=1), number("y", decimals=2), number("z", decimals=9))
    assert rows.records(product, ["x", "y", "z"]).records == (("0.2", "2.68", "0.100000000"),)


def test_a_float_column_with_gaps_serves_as_integers(
    parquet: Callable[[str], ReadableFile],
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
    ],
)
def test_a_parquet_column_of_the_wrong_type_is_refused(
    parquet: Callable[[str], ReadableFile], value: str, column: Column, problem: str
) -> None:
    rows = parquet(f"SELECT 'a' AS id, {value} AS age")
    assert str(refusal(rows, a_product(column))) == problem


def test_a_floating_point_key_is_refused(parquet: Callable[[str], ReadableFile]) -> None:
    rows = parquet("SELECT 1::DOUBLE AS id, 1 AS age")
    assert "id: is DOUBLE" in str(refusal(rows, a_product(AGE, key=number("id"))))


@pytest.mark.parametrize("content", [b"", b"id,age\na,1\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_only_claims_to_be_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    source = ReadableFile(FileSource(str(path), FileFormat.PARQUET))
    assert "is not a whole Parquet file" in str(refusal(source, a_product(AGE)))


def test_the_folder_of_a_file_adds_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "age=7"
    folder.mkdir()
    (folder / "rows.csv").write_text("id\na\n")
    source = ReadableFile(FileSource(str(folder / "rows.csv"), FileFormat.CSV))
    assert "age: is not a column" in str(refusal(source, a_product(AGE)))


def test_a_path_with_a_quote_is_only_a_path(tmp_path: Path) -> None:
    path = tmp_path / "it's.csv"
    path.write_text("id,age\na,1\n")
    source = ReadableFile(FileSource(str(path), FileFormat.CSV))
    assert every_column(source, a_product(AGE)).keys == ("a",)


def test_the_digest_covers_exactly_what_was_computed(csv: Save) -> None:
    product = a_product(AGE, SEX)
    first = csv("id,age,sex\na,1,f\nb,2,m\n").compute(product, a_query("age"))
    moved = csv("sex,age,id\nf,2,b\nm,1,a\n").compute(product, a_query("age"))
    assert moved.snapshot == first.snapshot, "neither row order nor columns not asked for matter"
    rows = csv("id,age,sex\na,1,f\nb,2,m\n")
    others = [
        rows.compute(product, a_query("age", "age")).snapshot,
        rows.compute(product, a_query("age", group=BY_SEX)).snapshot,
        rows.compute(product, a_query()).snapshot,
        rows.compute(product, a_query("age", where=("age", "=", 1))).snapshot,
        csv("id,age,sex\na,1,f\nb,3,m\n").compute(product, a_query("age")).snapshot,
        csv("id,age,sex\na,1,f\nc,2,m\n").compute(product, a_query("age")).snapshot,
        csv("id,age,sex\na,2,f\nb,1,m\n").compute(product, a_query("age")).snapshot,
        rows.records(product, ["age"]).snapshot,
        rows.records(product, ["age", "sex"]).snapshot,
        rows.records(product, ["sex", "age"]).snapshot,
    ]
    assert len({first.snapshot, *others}) == 11


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
    rows = csv(f"id,age,bmi,sex\na,1,20.5,f\na,130,99,x\n,,{SECRET},m\nb,-5,{SECRET},\n c,7,5,\n")
    report = rows.describe(a_product(AGE, BMI, SEX, Column("s5", ColumnType.DECIMAL, "serum")))
    assert (report.rows, report.without_key, report.duplicate_keys) == (5, 1, 1)
    key, age, bmi, sex, s5 = report.columns
    assert (key.missing, key.uncastable, key.first_uncastable) == (1, 1, 5)
    assert (age.missing, age.uncastable, age.below, age.above) == (1, 0, 1, 1)
    assert (age.low, age.high) == (-5, 130)
    assert (bmi.uncastable, bmi.first_uncastable, bmi.low, bmi.high) == (2, 3, 50, 990)
    assert (sex.missing, sex.outside_categories, sex.low) == (2, 1, None)
    assert s5.problem == "is not a column of the file"
    assert [problem.partition(":")[0] for problem in report.problems] == ["s5", "id", "bmi", "id"]
    assert SECRET not in str(report)


def test_a_file_that_fits_has_no_problems(csv: Save) -> None:
    report = csv("id,age\na,1\n").describe(a_product(AGE))
    assert report.problems == ()
