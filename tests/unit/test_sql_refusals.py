"""What is not in the subset is refused where it stands, by name, with what to write instead."""

from __future__ import annotations

import sys
from fractions import Fraction

import pytest

from exchange.errors import QuestionRefused
from exchange.query.adapters.sqlglot_reader import MAX_TEXT, SqlglotReader
from exchange.query.rules import violations
from registry.product import Column, ColumnType
from tests.queries import (
    CLINIC,
    COLUMNS,
    LAB,
    a_product,
    a_question,
    an_open_rule,
    compiled,
    grounds,
    open_grounds,
    with_query,
)

BOTH = open_grounds()
JOIN = "FROM a JOIN b ON a.person = b.person"
LEFT = "FROM a LEFT JOIN b ON a.person = b.person"


def refusal(sql: str, **options: object) -> QuestionRefused:
    with pytest.raises(QuestionRefused) as refused:
        compiled(sql, BOTH, **options)
    return refused.value


# (SQL, place, words of the problem)
SYNTAX: dict[str, tuple[str, str, str]] = {
    "nothing": ("", "sql", "begins with nothing"),
    "a comment alone": ("-- nothing", "sql", "begins with nothing"),
    "two statements": ("SELECT COUNT(*) FROM a; SELECT COUNT(*) FROM b", "sql", "2 statements"),
    "a statement that changes data": ("DROP TABLE a", "sql", "begins with DROP"),
    "an explanation": ("EXPLAIN SELECT COUNT(*) FROM a", "sql", "begins with EXPLAIN"),
    "half a statement": ("SELECT COUNT(*) FROM", "line 1", ""),
    "an open quote": ("SELECT COUNT(*) FROM a WHERE a.town = 'x", "sql", "quote"),
    "WITH": ("WITH x AS (SELECT 1) SELECT COUNT(*) FROM x", "WITH", "WITH is not read"),
    "ORDER BY": ("SELECT COUNT(*) FROM a ORDER BY 1", "ORDER BY", "leave ORDER BY out"),
    "LIMIT": ("SELECT COUNT(*) FROM a LIMIT 3", "LIMIT 3", "leave LIMIT out"),
    "DISTINCT": ("SELECT DISTINCT sex FROM a", "DISTINCT", "groups are distinct"),
    "a window": ("SELECT SUM(age) OVER () FROM a", "OVER", "window functions"),
    "a subquery in FROM": ("SELECT COUNT(*) FROM (SELECT * FROM a) x", "SELECT * FROM a", "UNION"),
    "a subquery in WHERE": (
        "SELECT COUNT(*) FROM a WHERE age IN (SELECT age FROM b)",
        "IN (SELECT",
        "join the tables",
    ),
    "a scalar subquery": (
        "SELECT COUNT(*) FROM a WHERE age > (SELECT 1)",
        "(SELECT 1)",
        "subquery",
    ),
    "EXISTS": ("SELECT COUNT(*) FROM a WHERE EXISTS (SELECT 1)", "EXISTS", "join the tables"),
    "UNION": (
        "SELECT COUNT(*) FROM (SELECT * FROM a UNION SELECT * FROM b) u",
        "UNION",
        "write UNION ALL",
    ),
    "a union outside": (
        "SELECT COUNT(*) FROM a UNION ALL SELECT COUNT(*) FROM b",
        "UNION ALL",
        "FROM (SELECT",
    ),
    "three rows of tables": (
        "SELECT COUNT(*) FROM (SELECT * FROM a UNION ALL SELECT * FROM b UNION ALL "
        "SELECT * FROM a) u",
        "UNION ALL",
        "at most two",
    ),
    "a join without a condition": ("SELECT COUNT(*) FROM a, b", "b", "JOIN b ON a.key = b.key"),
    "CROSS JOIN": ("SELECT COUNT(*) FROM a CROSS JOIN b", "CROSS JOIN", "ON a.key = b.key"),
    "NATURAL JOIN": ("SELECT COUNT(*) FROM a NATURAL JOIN b", "NATURAL", "ON a.key = b.key"),
    "RIGHT JOIN": (
        "SELECT COUNT(*) FROM a RIGHT JOIN b ON a.person = b.person",
        "RIGHT JOIN",
        "write LEFT JOIN",
    ),
    "FULL JOIN": (
        "SELECT COUNT(*) FROM a FULL JOIN b ON a.person = b.person",
        "FULL JOIN",
        "FULL JOIN is not supported",
    ),
    "four tables": (
        f"SELECT COUNT(*) {JOIN} JOIN c ON a.person = c.person JOIN d ON a.person = d.person",
        "JOIN d",
        "at most three tables",
    ),
    "a file": ("SELECT COUNT(*) FROM read_csv('/etc/passwd')", "READ_CSV", "files and functions"),
    "a schema": ("SELECT COUNT(*) FROM public.a", "public.a", "one name"),
    "a sample": ("SELECT COUNT(*) FROM a TABLESAMPLE (10 PERCENT)", "TABLESAMPLE", "leave"),
    "ROLLUP": ("SELECT COUNT(*) FROM a GROUP BY ROLLUP (sex)", "ROLLUP", "one question per level"),
    "GROUP BY ALL": ("SELECT COUNT(*) FROM a GROUP BY ALL", "GROUP BY ALL", "name the columns"),
    "a cast": ("SELECT SUM(age::INT) FROM a", "CAST(age AS INT)", "leave the cast out"),
    "LIKE": ("SELECT COUNT(*) FROM a WHERE town LIKE 'n%'", "town LIKE", "IN ('a', 'b')"),
    "a date": ("SELECT COUNT(*) FROM a WHERE age > CURRENT_DATE", "CURRENT_DATE", "no dates"),
    "TRUE": ("SELECT COUNT(*) FROM a WHERE TRUE", "TRUE", "write a comparison"),
    "NULL": ("SELECT COUNT(*) FROM a WHERE age = NULL", "NULL", "IS NULL"),
    "a parameter": ("SELECT COUNT(*) FROM a WHERE age > ?", "?", "write the value"),
    "joined text": ("SELECT COUNT(*) FROM a WHERE town || 'x' = 'nx'", "||", "not computed with"),
    "a remainder": ("SELECT COUNT(*) FROM a WHERE age % 2 = 0", "age % 2", "BANDS"),
    "INTO": ("SELECT COUNT(*) INTO x FROM a", "x", "INTO is not supported"),
    "a symmetric range": (
        "SELECT COUNT(*) FROM a WHERE age BETWEEN SYMMETRIC 3 AND 1",
        "",
        "SYMMETRIC is not supported",
    ),
    "an order inside an aggregate": ("SELECT SUM(age ORDER BY age) FROM a", "ORDER BY", "ORDER"),
    "a named argument": ("SELECT SUM(x => age) FROM a", "x => age", "not supported"),
    "a percentile downwards": (
        "SELECT PERCENTILE_CONT(0.9) WITHIN GROUP (ORDER BY age DESC) FROM a",
        "DESC",
        "ORDER BY column",
    ),
}

MEANING: dict[str, tuple[str, str, str]] = {
    "rows": ("SELECT * FROM a", "*", "rows are never shown"),
    "all columns of a table": ("SELECT a.* FROM a", "a.*", "rows are never shown"),
    "a column": ("SELECT a.age FROM a", "a.age", "AVG(a.age)"),
    "a column beside an aggregate": (
        "SELECT a.town, COUNT(*) FROM a GROUP BY a.sex",
        "a.town",
        "public categories",
    ),
    "a column that is not grouped by": (
        f"SELECT a.sex, b.sex, COUNT(*) {JOIN} GROUP BY a.sex",
        "b.sex",
        "nor in GROUP BY",
    ),
    "groups alone": ("SELECT a.sex FROM a GROUP BY a.sex", "SELECT", "COUNT(*)"),
    "an unknown table": ("SELECT COUNT(*) FROM c", "c", "clinic"),
    "an unknown alias": ("SELECT SUM(x.age) FROM a", "x.age", "no table x in FROM"),
    "an unknown column": ("SELECT SUM(a.height) FROM a", "a.height", "a has person, sex, town"),
    "a column of either table": (f"SELECT SUM(age) {JOIN}", "age", "a.age or b.age"),
    "a table with itself": (
        "SELECT COUNT(*) FROM a AS x JOIN a AS y ON x.person = y.person",
        "JOIN a AS y",
        "one holder",
    ),
    "two tables of one name": (
        "SELECT COUNT(*) FROM a AS x JOIN b AS x ON x.person = x.person",
        "JOIN b AS x",
        "AS a and AS b",
    ),
    "a join on another column": (
        "SELECT COUNT(*) FROM a JOIN b ON a.age = b.age",
        "JOIN b",
        "ON a.person = b.person",
    ),
    "a join with a constant": (
        "SELECT COUNT(*) FROM a JOIN b ON a.person = 'p1'",
        "JOIN b",
        "ON a.person = b.person",
    ),
    "USING another column": (
        "SELECT COUNT(*) FROM a JOIN b USING (age)",
        "JOIN b USING",
        "ON a.person = b.person",
    ),
    "the key in a filter": (
        f"SELECT COUNT(*) {JOIN} WHERE a.person = 'p1'",
        "a.person",
        "is the join key",
    ),
    "the key as group": (f"SELECT COUNT(*) {JOIN} GROUP BY a.person", "a.person", "no group"),
    "the key in an aggregate": (f"SELECT MAX(a.person) {JOIN}", "a.person", "join key"),
    "a distinct count of values": (
        f"SELECT COUNT(DISTINCT a.town) {JOIN}",
        "COUNT(DISTINCT a.town)",
        "group by it",
    ),
    "a distinct sum": (f"SELECT SUM(DISTINCT a.age) {JOIN}", "SUM(DISTINCT", "COUNT(DISTINCT key)"),
    "a number without categories as group": (
        "SELECT COUNT(*) FROM a GROUP BY age",
        "age",
        "write BANDS(age, cut, …)",
    ),
    "a text without categories as group": (
        "SELECT COUNT(*) FROM a GROUP BY town",
        "town",
        "CASE WHEN town = 'a'",
    ),
    "an expression as group": ("SELECT COUNT(*) FROM a GROUP BY age * 2", "age * 2", "BANDS"),
    "a group over both tables": (
        f"SELECT COUNT(*) {JOIN} GROUP BY CASE WHEN a.age < b.age THEN 'x' ELSE 'y' END",
        "CASE",
        "exactly one table",
    ),
    "one label for two groups": (
        "SELECT COUNT(*) FROM a GROUP BY CASE WHEN age < 5 THEN 'x' WHEN age < 9 THEN 'x' END",
        "CASE",
        "join them with OR",
    ),
    "numbers as labels": (
        "SELECT COUNT(*) FROM a GROUP BY CASE WHEN age < 5 THEN 1 ELSE 2 END",
        "CASE",
        "THEN 'label'",
    ),
    "cuts that descend": ("SELECT COUNT(*) FROM a GROUP BY BANDS(age, 9, 5)", "BANDS", "ascend"),
    "cuts finer than the column": (
        "SELECT COUNT(*) FROM a GROUP BY BANDS(bmi, 4.25)",
        "BANDS",
        "keeps 1 decimals",
    ),
    "cuts that are columns": (
        "SELECT COUNT(*) FROM a GROUP BY BANDS(age, bmi)",
        "BANDS",
        "must be a number",
    ),
    "a group that is not there": ("SELECT COUNT(*) FROM a GROUP BY 2", "2", "1 to 1"),
    "an aggregate as group": ("SELECT COUNT(*) FROM a GROUP BY 1", "COUNT(*)", "is an aggregate"),
    "an aggregate in WHERE": (
        "SELECT COUNT(*) FROM a WHERE COUNT(*) > 3",
        "COUNT(*) > 3",
        "put it into HAVING",
    ),
    "an aggregate of an aggregate": ("SELECT SUM(COUNT(*)) FROM a", "COUNT(*)", "in a row"),
    "more decimals than are kept": (
        "SELECT SUM(age * 0.0000000000001) FROM a",
        "0.0000000000001",
        "decimals must be 0 to 12",
    ),
    "more decimals than are kept, of the answer": (
        "SELECT SUM(age) * 0.0000000000001 FROM a",
        "0.0000000000001",
        "decimals must be 0 to 12",
    ),
    "division in a row": ("SELECT SUM(age / 2) FROM a", "age / 2", "multiply by a decimal"),
    "a function of a row that is not there": (
        "SELECT SUM(LN(age)) FROM a",
        "LN(age)",
        "LN is not supported",
    ),
    "an aggregate that is not there": (
        "SELECT STDDEV_POP(age) FROM a",
        "STDDEV_POP(age)",
        "square root of VAR_POP",
    ),
    "a function nobody knows": ("SELECT FOO(age) FROM a", "FOO(age)", "docs/sql.md"),
    "the order of text": ("SELECT COUNT(*) FROM a WHERE town < 'm'", "town < 'm'", "no order"),
    "text beside a number": ("SELECT COUNT(*) FROM a WHERE town = 3", "town = 3", "text with a"),
    "a sum of text": ("SELECT SUM(town) FROM a", "town", "only numbers are aggregated"),
    "text across tables": (
        f"SELECT COUNT(*) {JOIN} WHERE a.town = b.town",
        "a.town = b.town",
        "only numbers",
    ),
    "OR across tables": (
        f"SELECT COUNT(*) {JOIN} WHERE a.age > 3 OR b.age > 3",
        "a.age > 3 OR b.age > 3",
        "held together by AND",
    ),
    "a product across tables in a condition": (
        f"SELECT COUNT(*) {JOIN} WHERE a.age * b.age > 3",
        "a.age * b.age",
        "mixes both tables",
    ),
    "keys compared otherwise": (
        f"SELECT COUNT(*) {JOIN} WHERE a.person <> b.person",
        "a.person != b.person",
        "JOIN … ON alone",
    ),
    "a condition on nothing": (f"SELECT COUNT(*) {JOIN} WHERE 1 = 1", "1 = 1", "no column"),
    "a sum across tables": (
        f"SELECT SUM(a.age + b.age) {JOIN}",
        "a.age + b.age",
        "SUM(a.x) + SUM(b.y)",
    ),
    "the largest across tables": (
        f"SELECT MAX(a.age * b.age) {JOIN}",
        "a.age * b.age",
        "reads both tables",
    ),
    "HAVING with OR": (
        "SELECT COUNT(*) FROM a HAVING COUNT(*) > 3 OR COUNT(*) < 2",
        "OR",
        "with AND between them",
    ),
    "HAVING on rows": ("SELECT COUNT(*) FROM a HAVING age > 3", "age", "is a column of rows"),
    "one name twice": ("SELECT COUNT(*) AS n, SUM(age) AS n FROM a", "AS n", "names two columns"),
    "WHERE on the right of a left join": (
        f"SELECT COUNT(*) {LEFT} WHERE b.age > 3",
        "b.age > 3",
        "put it into ON",
    ),
    "ON about the left of a left join": (
        f"SELECT COUNT(*) {LEFT} AND a.age > 3",
        "a.age > 3",
        "go into WHERE",
    ),
    "a group on the right of a left join": (
        f"SELECT COUNT(*) {LEFT} GROUP BY b.sex",
        "b.sex",
        "without a match",
    ),
    "two columns across in a union": (
        "SELECT SUM(x) FROM (SELECT age AS x FROM a UNION ALL SELECT bmi FROM b) u",
        "SELECT bmi FROM b",
        "the same expression",
    ),
    "a union of different lengths": (
        "SELECT SUM(x) FROM (SELECT age AS x FROM a UNION ALL SELECT age, bmi FROM b) u",
        "SELECT age, bmi",
        "as many columns",
    ),
    "people of a union": (
        "SELECT COUNT(DISTINCT person) FROM (SELECT * FROM a UNION ALL SELECT * FROM b) u",
        "COUNT(DISTINCT person)",
        "a person of both holders",
    ),
    "groups inside a union": (
        "SELECT COUNT(*) FROM (SELECT sex FROM a GROUP BY sex UNION ALL SELECT sex FROM b) u",
        "GROUP BY sex",
        "group outside",
    ),
    "a regression inside a calculation": (
        f"SELECT 2 * LINEAR_REGRESSION(a.bmi, b.bmi) {JOIN}",
        "LINEAR_REGRESSION",
        "LINREG_COEF",
    ),
    "a share beyond all": ("SELECT QUANTILE_CONT(age, 1.5) FROM a", "QUANTILE_CONT", "0 and 1"),
    "too many steps": ("SELECT MEDIAN(age, 1000) FROM a", "MEDIAN", "steps are 1 to 256"),
    "a range too wide": (
        "SELECT SUM(income * income * income) FROM a",
        "income * income * income",
        "too wide",
    ),
}


@pytest.mark.parametrize("what", [*SYNTAX, *MEANING])
def test_what_is_not_in_the_subset_is_refused_where_it_stands(what: str) -> None:
    sql, place, words = (SYNTAX | MEANING)[what]
    refused = refusal(sql)
    assert place in refused.where
    assert words in refused.problem


@pytest.mark.parametrize("limit", [1000, 20_000])
def test_a_question_of_unusual_length_or_depth_is_refused_rather_than_read(limit: int) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        require_bounded()
    finally:
        sys.setrecursionlimit(before)


def require_bounded() -> None:
    assert "longer" in refusal("SELECT COUNT(*) FROM a" + " " * MAX_TEXT).problem
    for deep in ("(" * 600 + "1" + ")" * 600, "1" + "+1" * 900):
        with pytest.raises(QuestionRefused) as refused:
            SqlglotReader().read(f"SELECT {deep} FROM a")
        assert "deep" in refused.value.problem


def test_a_long_chain_of_conditions_is_not_a_deep_one() -> None:
    many = " OR ".join(f"age = {i}" for i in range(200))
    compiled(
        f"SELECT SUM({' + '.join(['age'] * 60)}) FROM a WHERE {many}", BOTH, epsilon=Fraction(1)
    )


def test_text_that_cannot_be_printed_is_refused_in_conditions_and_names() -> None:
    assert "printed" in refusal("SELECT COUNT(*) FROM a WHERE town = 'a\u202eb'").problem
    assert "printable" in refusal('SELECT COUNT(*) AS "a\u202eb" FROM a').problem


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_group", 1),
        ("epsilon", Fraction(0)),
        ("epsilon", Fraction(101)),
        ("delta", Fraction(0)),
        ("delta", Fraction(1)),
        ("run_seconds", 0),
        ("run_seconds", 86_401),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(option: str, value: object) -> None:
    assert refusal("SELECT COUNT(*) FROM a", **{option: value}).where == option


def test_a_count_that_promises_noise_needs_epsilon() -> None:
    sql = f"SELECT APPROX_COUNT_DISTINCT(a.person) {JOIN}"
    assert "give `epsilon`" in refusal(sql).problem
    compiled(sql, BOTH, epsilon=Fraction(1, 2))


def test_a_table_that_two_products_could_be_needs_a_name_of_its_own() -> None:
    twins = grounds(
        a_product(CLINIC, name="Rows", rule=an_open_rule()),
        a_product(LAB, name="rows!", rule=an_open_rule()),
    )
    with pytest.raises(QuestionRefused, match="could be 2 products"):
        compiled("SELECT COUNT(*) FROM rows", twins)
    compiled("SELECT COUNT(*) FROM a", twins)
    compiled(f"SELECT COUNT(*) FROM {twins[1].product.id}", twins)


def test_a_table_whose_product_no_agreement_covers_is_named() -> None:
    stranger = a_product(CLINIC, name="Strange").id
    question = a_question("SELECT COUNT(*) FROM a", BOTH)
    refused = refusal("SELECT COUNT(*) FROM x", tables={**question.tables, "x": stranger})
    assert refused.where == "tables.x"
    assert str(stranger) in refused.problem


def test_united_tables_must_state_the_same_categories() -> None:
    other = Column("sex", ColumnType.TEXT, "sex", categories=("f", "m", "x"))
    columns = tuple(other if column.name == "sex" else column for column in COLUMNS)
    two = grounds(
        a_product(CLINIC, name="A", rule=an_open_rule()),
        a_product(LAB, name="B", rule=an_open_rule(), columns=columns),
    )
    with pytest.raises(QuestionRefused, match="different categories"):
        compiled(
            "SELECT sex, COUNT(*) FROM (SELECT sex FROM a UNION ALL SELECT sex FROM b) u "
            "GROUP BY sex",
            two,
        )


def test_a_left_join_to_several_rows_of_a_person_is_refused() -> None:
    two = grounds(
        a_product(CLINIC, name="A", rule=an_open_rule()),
        a_product(LAB, name="B", rule=an_open_rule(), rows_per_person=5),
    )
    with pytest.raises(QuestionRefused, match="several rows for a person"):
        compiled(f"SELECT COUNT(*) {LEFT}", two)


@pytest.mark.parametrize("function", ["MIN", "MAX"])
def test_an_extreme_of_the_left_table_is_not_taken_of_those_whom_a_join_leaves(
    function: str,
) -> None:
    """It would be gated by all rows of the left table and taken over those that meet, of which a
    filter of the right table can leave one."""
    refused = refusal(f"SELECT {function}(a.bmi) {LEFT} AND b.age = 93")
    assert "over that table alone" in refused.problem
    assert compiled(f"SELECT {function}(b.bmi) {LEFT} AND b.age > 3", BOTH).query.keep_left
    # A plan that somebody wrote by hand is refused by every node.
    plan = compiled(f"SELECT {function}(a.bmi) {JOIN}", BOTH)
    forged = with_query(plan, keep_left=True)
    assert {found.clause for found in violations(forged, BOTH)} == {"plan"}
