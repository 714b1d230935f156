"""A holder's PostgreSQL table: one read-only transaction, one role that may not write."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url

from registry.errors import SourceRefused, SourceUnreachable
from registry.expression import LocalQuery
from registry.product import Column, ColumnType, DataProduct
from registry.source import FileFormat, FileSource, PostgresSource
from tests.conftest import NewDatabase
from tests.local_reference import (
    CELLS,
    PRODUCT,
    QUERIES,
    REPEATED,
    ROWS,
    Row,
    computed,
    fitting,
)
from tests.source_rows import ReadableFile, ReadableTable, SourceFilter, a_product, number, text

SECRET = "geheim"
AGE = number("age", low=0, high=120)
BMI = number("bmi", decimals=1, low=100, high=600)
SEX = text("sex", ("f", "m"))


@dataclass
class Clinic:
    """A database with a reader that may only read, and the SQL that the node was told of."""

    admin: psycopg.Connection
    settings: PostgresSource
    folder: Path
    told: list[str] = field(default_factory=list)

    def source(self, **changes: object) -> ReadableTable:
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        return ReadableTable(settings, self.told.append)

    def run(self, *commands: str) -> None:
        for command in commands:
            self.admin.execute(command)  # type: ignore[arg-type]

    def table(self, columns: str, *rows: str) -> None:
        self.run(f"CREATE TABLE patients ({columns})")
        for row in rows:
            self.run(f"INSERT INTO patients VALUES ({row})")
        self.run(f"GRANT SELECT ON patients TO {self.settings.role}")


@pytest.fixture
def clinic(new_database: NewDatabase, tmp_path: Path) -> Iterator[Clinic]:
    made = make_url(new_database("postgresql")).set(drivername="postgresql")
    url = made.render_as_string(hide_password=False)
    reader = f"clinic_{secrets.token_hex(6)}_reader"
    conninfo = tmp_path / "clinic.conninfo"
    conninfo.write_text(url + "\n")
    conninfo.chmod(0o600)
    settings = PostgresSource(str(conninfo), "public", "patients", reader, 30)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {reader}")
        yield Clinic(admin, settings, tmp_path)
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"DROP OWNED BY {reader}")
        admin.execute(f"DROP ROLE {reader}")


def test_a_table_and_a_csv_of_the_same_rows_give_the_same_digest(clinic: Clinic) -> None:
    clinic.table(
        "id text, age smallint, bmi double precision, sex char(1), note text",
        "'b', 130, 22.25, 'm', 'x'",
        """E'a,"\\n', NULL, 'NaN', NULL, NULL""".replace("\\n", ""),
        "NULL, 1, 1, 'f', NULL",
        "'', 1, 1, 'f', NULL",
        "'é', 7, 9.9, 'x', ''",
    )
    (clinic.folder / "rows.csv").write_text('id,age,bmi,sex\n"a,""",,,\nb,120,22.2,m\né,7,10.0,\n')
    product = a_product(AGE, BMI, SEX)
    columns = ["age", "bmi", "sex"]
    ours = clinic.source().extract(product, columns, [])
    file = ReadableFile(FileSource(str(clinic.folder / "rows.csv"), FileFormat.CSV))
    assert ours.keys == ('a,"', "b", "é")
    assert ours.snapshot == file.extract(product, columns, []).snapshot


def test_filters_run_on_this_side_and_the_sql_tells_nothing_of_the_question(
    clinic: Clinic,
) -> None:
    clinic.table("id int, age int", "1, 10", "2, 20", "3, NULL")
    product = a_product(AGE, key=number("id"))
    source = clinic.source()
    assert source.extract(product, [], [SourceFilter("age", "!=", 10)]).keys == ("2",)
    asked = clinic.told.copy()
    clinic.told.clear()
    source.extract(product, ["age"], [])
    assert clinic.told == asked


def test_the_node_is_told_every_statement(clinic: Clinic) -> None:
    clinic.table("id text, age int", "'a', 1")
    clinic.source().extract(a_product(AGE), ["age"], [])
    assert clinic.told[0] == "SET LOCAL statement_timeout = 30000"
    assert clinic.told[2] == f'SET LOCAL ROLE "{clinic.settings.role}"'
    assert clinic.told[-1] == (
        "COPY (SELECT coalesce(\"id\"::text, ''), coalesce(\"age\"::text, '') "
        'FROM "public"."patients") TO STDOUT (FORMAT csv, ENCODING \'UTF8\', FORCE_QUOTE *)'
    )
    assert len(clinic.told) == 5


def test_many_rows_stream_through(clinic: Clinic) -> None:
    clinic.table("id int, age int")
    clinic.run("INSERT INTO patients SELECT i, i % 100 FROM generate_series(1, 200000) i")
    found = clinic.source().extract(a_product(AGE, key=number("id"), cap=10**6), ["age"], [])
    assert len(found.keys) == 200_000
    assert int(found.numbers["age"].sum()) == sum(i % 100 for i in range(200_000))


def test_a_table_of_missing_keys_alone_is_not_mistaken_for_an_empty_one(clinic: Clinic) -> None:
    clinic.table("id text", "NULL", "NULL")
    assert clinic.source().extract(a_product(), [], []).keys == ()
    clinic.run("DELETE FROM patients")
    with pytest.raises(SourceRefused, match="there are no rows at all"):
        clinic.source().extract(a_product(), [], [])


def test_an_odd_value_counts_as_missing_and_refuses_nothing(clinic: Clinic) -> None:
    clinic.table(
        "id text, age text, sex text",
        f"'a', '{SECRET}', 'f'",
        "'b', '1.5', 'x'",
        "' c', '3', 'f'",
        "'d', '4', NULL",
        "'d', '2', NULL",
    )
    source, product = clinic.source(), a_product(AGE, SEX)
    assert source.records(product, ["age", "sex"]).records == (("", "f"), ("", ""), ("2", ""))


def test_a_table_computes_what_the_expressions_mean(clinic: Clinic) -> None:
    """The same reference as for files: see tests/property/test_local_query.py."""
    kinds = ["id", *CELLS]
    clinic.run(f"CREATE TABLE patients ({', '.join(f'{name} text' for name in kinds)})")
    clinic.run(f"GRANT SELECT ON patients TO {clinic.settings.role}")
    source = clinic.source()
    places = ", ".join(["%s"] * len(kinds))

    @settings(max_examples=4, deadline=None, phases=[Phase.generate])
    @given(st.sampled_from([PRODUCT, REPEATED]), st.lists(ROWS, min_size=20, max_size=20), QUERIES)
    def check(product: DataProduct, rows: list[Row], query: LocalQuery) -> None:
        clinic.run("DELETE FROM patients")
        with clinic.admin.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO patients VALUES ({places})",
                [[row[name][0] for name in kinds] for row in rows],
            )
        query = fitting(product, query)
        found = source.compute(product, query)
        both = zip(found.group.tolist(), found.factors.tolist(), strict=True)
        assert dict(zip(found.keys, both, strict=True)) == computed(product, query, rows)

    check()


@pytest.mark.parametrize(
    ("columns", "row", "problem"),
    [
        ("id text, age int", "'a', 1", None),
        ("id text, age boolean", "'a', true", "age: is bool in the table; the product says"),
        ("id text, age int[]", "'a', '{1}'", "age: is _int4 in the table"),
        ("id text, age money", "'a', 1", "age: is money in the table"),
        ("id text, height int", "'a', 1", "age: is not a column of the table"),
        ("id bytea, age int", "'a', 1", "id: is bytea in the table"),
        ("id real, age int", "1, 1", "id: is float4 in the table"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_name(
    clinic: Clinic, columns: str, row: str, problem: str | None
) -> None:
    clinic.table(columns, row)
    if problem is None:
        assert clinic.source().extract(a_product(AGE), [], []).keys == ("a",)
        return
    with pytest.raises(SourceRefused) as refused:
        clinic.source().extract(a_product(AGE), [], [])
    assert str(refused.value).startswith(problem)
    assert SECRET not in str(refused.value)


def test_a_domain_is_read_as_its_base_and_an_enumeration_as_text(clinic: Clinic) -> None:
    clinic.run("CREATE DOMAIN years AS int", "CREATE TYPE sexes AS ENUM ('f', 'm')")
    clinic.table("id uuid, age years, sex sexes", "'0000', 1, 'f'".replace("0000", "0" * 32))
    found = clinic.source().extract(a_product(AGE, SEX), ["age", "sex"], [])
    assert found.keys == ("00000000-0000-0000-0000-000000000000",)
    assert (found.numbers["age"].tolist(), found.texts["sex"]) == ([1], ("f",))


def test_names_are_quoted_and_never_run(clinic: Clinic) -> None:
    table = 'patients"; DROP TABLE patients; --'
    clinic.table("id text", "'a'")
    clinic.run(
        'CREATE TABLE "patients""; DROP TABLE patients; --" (id text)',
        """INSERT INTO "patients""; DROP TABLE patients; --" VALUES ('b')""",
        f'GRANT SELECT ON "patients""; DROP TABLE patients; --" TO {clinic.settings.role}',
    )
    assert clinic.source(table=table).extract(a_product(), [], []).keys == ("b",)
    assert clinic.source().extract(a_product(), [], []).keys == ("a",)


def test_a_role_that_reads_only_some_columns_is_enough(clinic: Clinic) -> None:
    clinic.run(
        "CREATE TABLE patients (id text, age int, name text)",
        f"INSERT INTO patients VALUES ('a', 1, '{SECRET}')",
        f"GRANT SELECT (id, age) ON patients TO {clinic.settings.role}",
    )
    assert clinic.source().extract(a_product(AGE), [], []).keys == ("a",)
    with pytest.raises(SourceRefused, match=r"may not read public.patients; GRANT"):
        clinic.source().extract(a_product(AGE, text("name")), [], [])


def test_a_role_without_rights_is_refused_with_what_to_grant(clinic: Clinic) -> None:
    clinic.run("CREATE TABLE patients (id text)", "INSERT INTO patients VALUES ('a')")
    with pytest.raises(SourceRefused, match=r"role: \w+_reader may not read public.patients"):
        clinic.source().extract(a_product(), [], [])


def test_a_role_or_table_that_does_not_exist_is_refused(clinic: Clinic) -> None:
    clinic.table("id text", "'a'")
    with pytest.raises(SourceRefused, match="role: nobody_such does not exist"):
        clinic.source(role="nobody_such").extract(a_product(), [], [])
    with pytest.raises(SourceRefused, match=r"table: public.visits does not exist"):
        clinic.source(table="visits").extract(a_product(), [], [])
    with pytest.raises(SourceRefused, match=r"table: private.patients does not exist"):
        clinic.source(schema="private").extract(a_product(), [], [])


@pytest.mark.parametrize("right", ["INSERT", "UPDATE", "DELETE", "TRUNCATE", "UPDATE (age)"])
def test_the_owners_test_refuses_a_role_that_could_write(clinic: Clinic, right: str) -> None:
    clinic.table("id text, age int", "'a', 1")
    assert clinic.source().describe(a_product(AGE)).problems == ()
    clinic.run(f"GRANT {right} ON patients TO {clinic.settings.role}")
    with pytest.raises(SourceRefused, match=r"role: .* may write to public.patients"):
        clinic.source().describe(a_product(AGE))


def test_the_owners_test_refuses_the_table_owners_login(clinic: Clinic) -> None:
    clinic.table("id text", "'a'")
    with pytest.raises(SourceRefused, match=r"may write to public.patients; name a role"):
        clinic.source(role=None).describe(a_product())


def test_reading_cannot_write_even_through_a_view(clinic: Clinic) -> None:
    clinic.table("id text", "'a'")
    clinic.run(
        "CREATE TABLE visits (n int)",
        "CREATE FUNCTION spy() RETURNS text LANGUAGE sql SECURITY DEFINER AS "
        "'INSERT INTO public.visits VALUES (1); SELECT ''a'''",
        "CREATE VIEW spied AS SELECT public.spy() AS id",
        f"GRANT SELECT ON spied TO {clinic.settings.role}",
    )
    with pytest.raises(SourceRefused, match="25006"):
        clinic.source(table="spied").extract(a_product(), [], [])
    assert clinic.admin.execute("SELECT count(*) FROM visits").fetchall() == [(0,)]


def test_a_slow_table_is_given_up_after_the_statement_timeout(clinic: Clinic) -> None:
    clinic.table("id text", "'a'")
    clinic.run(
        "CREATE VIEW slow AS SELECT id || pg_sleep(20) AS id FROM patients",
        f"GRANT SELECT ON slow TO {clinic.settings.role}",
    )
    with pytest.raises(SourceUnreachable, match=r"took longer than statement_timeout_s \(1 s\)"):
        clinic.source(table="slow", statement_timeout_s=1).extract(a_product(), [], [])


def test_a_table_that_fails_half_way_is_not_taken_for_a_short_one(clinic: Clinic) -> None:
    """The rows that arrived before the failure are well formed; nothing may be made of them."""
    clinic.run(
        "CREATE VIEW failing AS "
        "SELECT i AS id, 1 / (150000 - i) AS age FROM generate_series(1, 200000) i",
        f"GRANT SELECT ON failing TO {clinic.settings.role}",
    )
    product = a_product(AGE, key=number("id"), cap=10**6)
    with pytest.raises(SourceRefused, match=r"can't be read .PostgreSQL error 22012"):
        clinic.source(table="failing").extract(product, [], [])


def test_an_error_of_the_database_that_quotes_a_value_is_not_repeated(clinic: Clinic) -> None:
    clinic.run(
        f"CREATE VIEW broken AS SELECT ('{SECRET}' || i)::int AS id FROM generate_series(1, 2) i",
        f"GRANT SELECT ON broken TO {clinic.settings.role}",
    )
    with pytest.raises(SourceRefused) as refused:
        clinic.source(table="broken").extract(a_product(key=number("id")), [], [])
    assert "22P02" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_server_that_does_not_answer_is_unreachable(clinic: Clinic) -> None:
    nowhere = clinic.folder / "nowhere.conninfo"
    nowhere.write_text(f"host={clinic.folder} dbname=x password={SECRET}")
    nowhere.chmod(0o600)
    with pytest.raises(SourceUnreachable, match="can't be reached now") as unreachable:
        clinic.source(connection=str(nowhere)).extract(a_product(), [], [])
    assert SECRET not in str(unreachable.value)
    with pytest.raises(SourceUnreachable, match="can't be reached now"):
        clinic.source(connection="no_such_service").extract(a_product(), [], [])


def test_a_connection_file_is_private_and_its_content_is_never_quoted(clinic: Clinic) -> None:
    path = clinic.folder / "other.conninfo"
    path.write_text(SECRET)
    path.chmod(0o644)
    for words in ["has mode 0644; run chmod 600", "does not hold a libpq connection string"]:
        with pytest.raises(SourceRefused, match=words) as refused:
            clinic.source(connection=str(path)).extract(a_product(), [], [])
        assert SECRET not in str(refused.value)
        path.chmod(0o600)
    with pytest.raises(SourceRefused, match="does not exist"):
        clinic.source(connection=str(clinic.folder / "none")).extract(a_product(), [], [])


def test_a_service_file_names_the_database(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.table("id text", "'a'")
    known = psycopg.conninfo.conninfo_to_dict(Path(clinic.settings.connection).read_text().strip())
    service = clinic.folder / "services.conf"
    service.write_text("[clinic]\n" + "".join(f"{k}={v}\n" for k, v in known.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    assert clinic.source(connection="clinic").extract(a_product(), [], []).keys == ("a",)


def test_the_owner_is_told_how_the_table_fits(clinic: Clinic) -> None:
    clinic.table("id text, age int, bmi text", "'a', 130, '1'", f"'b', NULL, '{SECRET}'")
    report = clinic.source().describe(
        a_product(AGE, BMI, Column("s5", ColumnType.DECIMAL, "serum"))
    )
    age, bmi, s5 = report.columns[1:]
    assert (report.rows, age.above, age.missing, age.high) == (2, 1, 1, 130)
    assert (bmi.uncastable, bmi.first_uncastable) == (1, None), "rows of a table have no numbers"
    assert s5.problem == "is not a column of the table"
    assert SECRET not in str(report)
